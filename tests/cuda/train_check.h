/* train_check.h - a problem of training on the CUDA device against the oracle. */
#ifndef LATENT_TRAIN_CHECK_H
#define LATENT_TRAIN_CHECK_H

#include "cuda/cuda_test.h"
#include "kernels/train_problems.h"

static inline void compare(struct device *d, struct device *o, run_fn *run, const struct problem *p, double atol,
                           double rtol)
{
    struct result got = { .count = 0 }, want = { .count = 0 };
    char what[128];
    run(d, p, &got);
    run(o, p, &want);
    assert_int_equal(got.count, want.count);
    for (int i = 0; i < got.count; i++) {
        snprintf(what, sizeof what, "%s %dx%dx%d output %d", p->name, p->rows, p->n, p->k, i);
        same_floats(what, got.out[i], want.out[i], want.n[i], atol, rtol);
    }
    result_release(&got);
    result_release(&want);
}

#endif
