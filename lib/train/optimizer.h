/* optimizer.h - learning rates, clipping, and AdamW over all parameters of a trainable model.
 *
 * AdamW is torch's (betas 0.9 and 0.999, eps 1e-8, decay on matrices only); clipping multiplies gradients by
 * min(1, max_norm / (norm + 1e-6)), as torch does. Facts: pipelines specification 4.4. */
#ifndef LATENT_TRAIN_OPTIMIZER_H
#define LATENT_TRAIN_OPTIMIZER_H

#include <stdint.h>

#include "kernels/kernels.h"
#include "model/train.h"

struct err;

enum schedule { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT, SCHEDULE_CONSTANT_WITH_WARMUP };
#define SCHEDULES "linear|cosine|constant|constant_with_warmup"
enum schedule schedule_of(const char *word); /* one of SCHEDULES; anything else is a bug */

/* What the learning rate is multiplied by in step t = 0, 1 ... of `steps`; warmup: steps of it. */
double schedule_at(enum schedule s, int64_t t, int64_t steps, int64_t warmup);
int64_t schedule_warmup(double ratio, int64_t steps); /* rounded up */

struct optimizer {
    struct trainable *t;
    struct device *d;
    struct adamw_part *part; /* [trainable_params]; the moments m and v are ours, in the parameter's shape */
    struct tensor *sum;
    float max_norm; /* 0: no clipping */
};

int optimizer_open(struct optimizer *o, struct trainable *t, struct device *d, double decay, double max_norm,
                   struct err *e);
void optimizer_close(struct optimizer *o); /* a zeroed one is fine */

/* Norm of all gradients together. */
int optimizer_norm(struct optimizer *o, double *norm, struct err *e);
/* One step, counted from 1, with this norm of the gradients; the weights follow and gradients are zero again. */
void optimizer_step(struct optimizer *o, int64_t step, double lr, double norm);

#endif
