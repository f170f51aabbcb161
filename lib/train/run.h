/* run.h - the loop: passes, clipping, steps, evaluation, checkpoints, the log.
 *
 * A step's loss is the sum over all its targets divided by their number, whatever its passes: the exact mean. The eval
 * loss is the same over all eval rows. The best step (lowest eval loss) is what the run ends with when there are eval
 * rows. A loss or gradient that is not a number stops the run; the last checkpoint stays.
 *
 * metrics.jsonl, one object a line: after each step {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens",
 * "tokens_per_second", "flops_per_second", "peak_share", "memory"} (of the step's time by the clock; the share is one
 * of options.peak and absent where that is 0; memory: peak bytes of the process), after each evaluation {"step",
 * "epoch", "eval_loss"}. */
#ifndef LATENT_TRAIN_RUN_H
#define LATENT_TRAIN_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "train/batch.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"

struct err;

struct run_options {
    double lr, warmup_ratio;
    enum schedule schedule;
    int64_t save_every, eval_every; /* steps; 0: at the end of each epoch */
    bool (*stop)(void);             /* asked after each step; true: save and fail. NULL: never */
    double peak;                    /* operations a second that the machine could do; 0: unknown */
    int64_t width;                  /* widest input of a matrix: how far draws of dropout reach */
};

struct run_result {
    double loss, eval_loss; /* of the last step; of the best one (NaN without eval rows) */
    int64_t best_step;
    int64_t tokens;
    double seconds; /* of this process */
};

int train_run(struct trainable *t, struct optimizer *o, struct batches *b, struct checkpoint *c,
              const struct run_options *opt, struct run_result *out, struct err *e);

/* Token-weighted loss of rows, forward only. */
int train_eval(struct trainable *t, const struct rows *rows, const uint32_t *list, uint32_t n, int pass_tokens,
               double *loss, struct err *e);

#endif
