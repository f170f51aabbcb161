/* answer_words.h - what words of plain text mean in an answer. Case does not matter but for short words and units.
 * NULL: nothing. */
#ifndef LATENT_TASK_ANSWER_WORDS_H
#define LATENT_TASK_ANSWER_WORDS_H

#include "task/answer_private.h"

struct word {
    const char *word;
    enum tok_kind kind;
    const char *name; /* token text; for T_NUM its digits */
};

const struct word *word_of(struct span w);                /* "and", "pi", "seven" */
const struct word *function_before_letter(struct span w); /* sinx: sin */

/* Words that multiply or divide the number before them: never a unit that may be dropped (but for quarters, which are
 * coins too). The name is the factor or the divisor, of one digit: \frac takes no more. */
const struct word *scale_of(struct span w);

/* A token's text that came of a word, "one" to "nine". */
bool is_digit_word(struct span digits);

/* Words that are text, and those that name a unit, though they are short. Longer words are text anyway. */
bool is_short_word(struct span w);
bool is_short_unit(struct span w);

#endif
