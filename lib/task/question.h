/* question.h - rows of published question sets become questions, all with the same keys.
 *
 * A question: {"benchmark", "source_id", "question", "gold_answer"} and, where the row has them, "subject", "level",
 * "unique_id". source_id is BENCHMARK_SPLIT_ROW with the row counted from 0 in the whole split, before any limit or
 * shard. Gold answers follow the rules of the reference (pipelines specification 1.0): gsm8k      question, answer what
 * stands behind "####", commas kept math       problem, solution       the last \boxed{...}, brace matched; MATH-500
 * and its relatives are the same mmlu       question, choices, answer 0..3      lettered choices behind the question;
 * the letter mmlu_pro   question, options, answer letter    the same with up to ten metamathqa query, response what
 * stands behind "The answer is:" */
#ifndef LATENT_TASK_QUESTION_H
#define LATENT_TASK_QUESTION_H

#include <stdint.h>

#include "base/mem.h"
#include "io/record.h"

enum question_schema {
    SCHEMA_NONE,     /* none of these */
    SCHEMA_QUESTION, /* is a question already */
    SCHEMA_GSM8K,
    SCHEMA_MATH,
    SCHEMA_MMLU,
    SCHEMA_MMLU_PRO,
    SCHEMA_METAMATH,
};

enum question_schema question_schema_of(const struct rec *r); /* by its keys */
const char *question_benchmark(enum question_schema s);       /* "gsm8k", "math", ...; NULL for none */

/* Appends the question of a row (with newline). benchmark NULL: by the row's keys. */
int question_from_row(const struct rec *r, const char *benchmark, const char *split, uint64_t row, struct buf *out,
                      struct err *e);

/* What programs read from a question or a sample: borrowed buffers are reset and filled. */
struct question {
    struct buf benchmark, source_id, question, gold;
};
int question_read(struct question *q, const struct rec *r, struct err *e);
void question_release(struct question *q);

#endif
