/* batch.h - which rows make a step, in which order, and how they are packed into passes.
 *
 * Everything is a function of the seed and the rows, nothing is remembered between steps: step s of a resumed run has
 * the rows that it would have had.
 * - Eval split: of the questions (train_row.question), a share is drawn and all their rows are set aside, so no sibling
 *   of an eval row is trained on.
 * - An epoch is a permutation of the other rows (Fisher-Yates with draws of (seed, "epoch", number)).
 * - A step takes the next batch_rows rows, or rows until batch_tokens tokens are passed, times `accumulate`; an epoch's
 *   last step has what is left.
 * - A pass takes rows in this order while pass_tokens allows; rows are packed whole, one behind the other, and see only
 *   themselves. */
#ifndef LATENT_TRAIN_BATCH_H
#define LATENT_TRAIN_BATCH_H

#include <stdint.h>

#include "model/train.h"
#include "train/rows.h"

struct err;

struct batch_spec {
    uint64_t seed;
    double eval_ratio; /* of the questions, rounded up; 0: none */
    int64_t batch_rows, batch_tokens, accumulate;
    int pass_tokens;
    double epochs;
    int64_t max_steps; /* > 0: instead of epochs */
};

struct step_range {
    int64_t epoch;
    uint32_t first, n; /* of the epoch's permutation */
};

struct batches {
    const struct rows *rows;
    struct batch_spec spec;
    uint32_t *train, *eval; /* indices of rows */
    uint32_t ntrain, neval;
    int64_t steps;
    struct step_range *step; /* [steps] */
    uint32_t *order;         /* permutation of `order_epoch` */
    int64_t order_epoch;
};

int batches_open(struct batches **out, const struct rows *rows, const struct batch_spec *spec, struct err *e);
void batches_close(struct batches *b); /* NULL is fine */

/* Rows of step s in order (borrowed until the next call); how many. */
uint32_t batches_step(struct batches *b, int64_t s, const uint32_t **rows);
double batches_epoch(const struct batches *b, int64_t steps_done); /* 1.5: in the middle of the second */

/* Rows (tokens) of the largest pass of the whole run, evaluation included: what memory is needed for. */
int batches_largest_pass(struct batches *b);

/* ---- a pass ---- */
struct pass {
    int32_t *ids, *target, *begin;
    int cap_rows, cap_seq;
    struct train_batch b;
    int64_t targets;
};

/* Packs as many of list[0..n) as fit into pass_tokens (at least one); returns how many. */
uint32_t pass_fill(struct pass *p, const struct rows *rows, const uint32_t *list, uint32_t n, int pass_tokens);
void pass_release(struct pass *p);

#endif
