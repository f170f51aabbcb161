/* evaluate.h - the rows of eval: ours, and the reference's with its summary line. */
#ifndef LATENT_EVALUATE_H
#define LATENT_EVALUATE_H

#include "task/sampling.h"

/* benchmark, source_id, sample_index, question, gold_answer, compression_ratio, prompt_format, response_text,
 * reasoning, extracted, verdict, reason, is_correct, is_correct_compat, num_tokens, think_tokens, finish_reason, seed
 */
void evaluate_row(const struct sampling *s, const struct sample *x, struct buf *row);

/* The reference's row, graded by its rules, and what its summary adds up. */
struct evaluate_totals {
    int64_t samples, correct, tokens, think_tokens, correct_tokens;
};
void evaluate_compat_row(const struct sample *x, struct evaluate_totals *t, struct buf *row);
void evaluate_compat_summary(const struct sampling *s, double ratio, const struct evaluate_totals *t, struct buf *row);

#endif
