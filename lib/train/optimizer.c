/* optimizer.c - see optimizer.h. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

enum schedule schedule_of(const char *word)
{
    return strcmp(word, "linear") == 0     ? SCHEDULE_LINEAR
           : strcmp(word, "cosine") == 0   ? SCHEDULE_COSINE
           : strcmp(word, "constant") == 0 ? SCHEDULE_CONSTANT
                                           : SCHEDULE_CONSTANT_WITH_WARMUP;
}

int64_t schedule_warmup(double ratio, int64_t steps)
{
    return (int64_t)ceil((double)steps * ratio);
}

double schedule_at(enum schedule s, int64_t t, int64_t steps, int64_t warmup)
{
    static const double pi = 3.14159265358979323846;
    if (s == SCHEDULE_CONSTANT)
        return 1;
    if (t < warmup)
        return (double)t / (double)warmup;
    if (s == SCHEDULE_CONSTANT_WITH_WARMUP)
        return 1;
    double span = steps > warmup ? (double)(steps - warmup) : 1;
    if (s == SCHEDULE_LINEAR)
        return steps > t ? (double)(steps - t) / span : 0;
    return fmax(0, 0.5 * (1 + cos(pi * (double)(t - warmup) / span)));
}

int optimizer_open(struct optimizer *o, struct trainable *t, struct device *d, double decay, double max_norm,
                   struct err *e)
{
    size_t n = trainable_params(t);
    *o = (struct optimizer){ .t = t, .d = d, .max_norm = (float)max_norm };
    o->part = xcalloc(n + 1, sizeof *o->part);
    int rc = d->tensor_new(d, &o->sum, DTYPE_F32, 1, 1, "norm", e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct param *p = trainable_param(t, i);
        struct adamw_part *a = &o->part[i];
        *a = (struct adamw_part){
            .value = p->value, .grad = p->grad, .n = p->rows * p->cols, .decay = p->matrix ? (float)decay : 0
        };
        if (d->tensor_new(d, &a->m, DTYPE_F32, p->rows, p->cols, "moments", e) < 0 ||
            d->tensor_new(d, &a->v, DTYPE_F32, p->rows, p->cols, "moments", e) < 0)
            rc = -1;
    }
    if (rc < 0)
        optimizer_close(o);
    return rc;
}

void optimizer_close(struct optimizer *o)
{
    if (!o->t)
        return;
    for (size_t i = 0; i < trainable_params(o->t); i++) {
        o->d->tensor_free(o->d, o->part[i].m);
        o->d->tensor_free(o->d, o->part[i].v);
    }
    o->d->tensor_free(o->d, o->sum);
    free(o->part);
    *o = (struct optimizer){ .t = NULL };
}

int optimizer_norm(struct optimizer *o, double *norm, struct err *e)
{
    float sum = 0;
    size_t n = trainable_params(o->t);
    const struct tensor **grad = xcalloc(n + 1, sizeof *grad);
    for (size_t i = 0; i < n; i++)
        grad[i] = o->part[i].grad;
    o->d->fill(o->d, o->sum, 0, 1);
    o->d->sum_squares(o->d, o->sum, 0, grad, n);
    free(grad);
    if (o->d->tensor_read(o->d, o->sum, 0, &sum, 1, e) < 0)
        return -1;
    *norm = sqrt((double)sum);
    return 0;
}

void optimizer_step(struct optimizer *o, int64_t step, double lr, double norm)
{
    float n = (float)norm, clip = o->max_norm > 0 ? fminf(1, o->max_norm / (n + 1e-6f)) : 1;
    o->d->adamw(o->d, &(struct adamw_args){ .part = o->part,
                                            .parts = trainable_params(o->t),
                                            .grad_scale = clip,
                                            .lr = (float)lr,
                                            .beta1 = 0.9f,
                                            .beta2 = 0.999f,
                                            .eps = 1e-8f,
                                            .step = step });
    trainable_refresh(o->t, step);
    trainable_zero(o->t);
}
