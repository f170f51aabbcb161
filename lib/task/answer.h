/* answer.h - is a model's answer the gold answer, and why?
 *
 *     struct answer_checker *c;
 *     struct answer_result r;
 *     answer_checker_open(&c, &e);
 *     answer_result_init(&r);
 *     answer_grade(c, ANSWER_MATH, gold, gold_n, text, text_n, ANSWER_SOLUTION, &r, &e);
 *     if (r.verdict == ANSWER_EQUAL) ...                  // r.reason says how it was decided
 *     answer_result_release(&r);
 *     answer_checker_close(c);
 *
 * The answer is found in the text (or is the text), read as LaTeX or plain mathematics into a tree, and compared with
 * the gold: identical text, exact rationals, polynomial identity, certified balls. A verdict depends on its inputs
 * only: everything is bounded by counts (bytes, tokens, depth, bits, terms), never by a clock, and what a bound stops
 * is ANSWER_UNDECIDED, which counts as wrong. Rules: latent-grade(1). Sources of the rules: Hendrycks et al. 2021
 * (MATH), Cobbe et al. 2021 (GSM8K), and the published graders they are measured against.
 *
 * One checker serves one thread. Text is bytes; bytes that are not UTF-8 are read as unknown symbols. */
#ifndef LATENT_TASK_ANSWER_H
#define LATENT_TASK_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"

struct err;

/* How answers are found and read. GSM8K drops <<..>> notes; MMLU looks for a letter; EXACT compares folded text. */
enum answer_task { ANSWER_MATH, ANSWER_GSM8K, ANSWER_MMLU, ANSWER_EXACT };
enum answer_mode { ANSWER_PRED, ANSWER_SOLUTION }; /* the text is an answer | the answer must be found in it */
enum answer_verdict { ANSWER_UNEQUAL, ANSWER_EQUAL, ANSWER_UNDECIDED };

enum {
    ANSWER_MAX_RESPONSE = 1 << 20, /* longer responses are searched in their last MiB */
    ANSWER_MAX_ANSWER = 4096,
};

/* Reused from call to call; the buffers are overwritten by each answer_grade. */
struct answer_result {
    enum answer_verdict verdict;
    /* Static word: what decided. string, text, choice, rational, decimal, percent, poly, ball, points, set, list,
     * tuple, interval, matrix, equation, relation, base, ratio, time, unit, kind, undefined, no_answer, no_gold,
     * unknown, or limit:WHAT (length, tokens, depth, terms, bits, size, work). */
    const char *reason;
    struct buf extracted; /* the answer as it stood in the text; empty with reason no_answer */
    struct buf gold_form; /* both sides as they were understood, canonical; the text itself where nothing was */
    struct buf pred_form;
};

void answer_result_init(struct answer_result *r);
void answer_result_release(struct answer_result *r);

/* A checker holds the scratch of one thread: arena and big-number pools, which it frees. Never fails today; -1 is kept
 * for what may come. */
struct answer_checker;
int answer_checker_open(struct answer_checker **out, struct err *e);
void answer_checker_close(struct answer_checker *c); /* NULL is fine; also frees this thread's FLINT caches */
/* Empties the scratch and frees the FLINT caches of the calling thread. A thread that graded and then ends without
 * closing its checker must call this last. */
void answer_checker_flush(struct answer_checker *c);

/* Compares. Returns 0 with r filled (undecided and no_answer are results, not failures); -1 only for an unknown task or
 * mode. gold is the bare gold answer: see answer_gold_*. */
int answer_grade(struct answer_checker *c, enum answer_task task, const char *gold, size_t gold_n, const char *text,
                 size_t text_n, enum answer_mode mode, struct answer_result *r, struct err *e);

/* Finds the answer in a response and writes it to out (which is reset). 1: found, 0: none. Linear in n. */
int answer_extract(enum answer_task task, const char *text, size_t n, struct buf *out);

/* Gold answers from the benchmarks' own fields, written to out (reset). 1: found by the rule, 0: not (out then holds
 * the whole text, stripped). GSM8K: what stands behind the last "####". MATH: the last \boxed of a solution. */
int answer_gold_gsm8k(const char *answer, size_t n, struct buf *out);
int answer_gold_math(const char *solution, size_t n, struct buf *out);

/* "math", "gsm8k", "mmlu", "exact" (and the reference's "multiple_choice", "metamathqa"); false if it is none. */
bool answer_task_of(const char *name, enum answer_task *out);
const char *answer_task_name(enum answer_task task);

/* ---- the reference's rules, faults included, for --compat ----
 * Text is taken as the reference takes it: str.strip() and \s are Unicode, \d and lower() are done for ASCII only. */

/* extract_boxed_or_numeric_answer (collect, eval): 1 and the answer, commas removed; 0: null. */
int answer_compat_extract(const char *text, size_t n, struct buf *out);

/* Its rule for "The answer is" prompts (sampling for self-training): no boxes, split at "answer is". */
int answer_compat_extract_paper(const char *text, size_t n, struct buf *out);

/* extract_think_answer of the XML prompts. Either may be NULL; bit 0 of the result: answer found, bit 1: think found.
 */
int answer_compat_extract_xml(const char *text, size_t n, struct buf *think, struct buf *answer);

/* parse_think_output: bit 0: visible is always there (1), bit 1: there was reasoning. Reasoning of a text without a
 * think block is the visible text up to its final-answer sentence, as in the reference's records. */
int answer_compat_think(const char *text, size_t n, struct buf *reasoning, struct buf *visible);

/* Its scorers: answer against gold. */
bool answer_compat_math(const char *answer, size_t n, const char *gold, size_t gold_n);
bool answer_compat_gsm8k(const char *answer, size_t n, const char *gold, size_t gold_n);
bool answer_compat_exact(const char *answer, size_t n, const char *gold, size_t gold_n);
bool answer_compat_choice(const char *answer, size_t n, const char *gold, size_t gold_n);
bool answer_compat_score(enum answer_task task, const char *answer, size_t n, const char *gold, size_t gold_n);

#endif
