/* arith.h - word problems made on the spot: several steps of exact arithmetic, with a worked solution as talkative as a
 * thinking model's. latent-arith(7) documents the set.
 *
 * A row is a function of (seed, split, row number), so shards and limits change nothing. Train and test are disjoint by
 * construction: every problem has a fingerprint of its shape and numbers, and the split decides whether its residue
 * modulo ARITH_FOLDS is 0 (test) or not (train). Numbers stay between 1 and 250; level is the number of steps, 2 to 4.
 */
#ifndef LATENT_TASK_ARITH_H
#define LATENT_TASK_ARITH_H

#include <stdint.h>

struct buf;
struct err;

enum { ARITH_FOLDS = 8, ARITH_TRAIN_ROWS = 100000, ARITH_TEST_ROWS = 1000, ARITH_MAX = 250 };

/* Rows of the split: "train" or "test"; -1 for another name. */
int64_t arith_rows(const char *split);

/* Appends one question (with newline): benchmark, source_id, question, gold_answer, subject, level, solution. The
 * solution is the reasoning alone, ending in its result; nothing in it is shortened. */
void arith_row(uint64_t seed, const char *split, uint64_t row, struct buf *out);

#endif
