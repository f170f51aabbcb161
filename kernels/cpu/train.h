/* train.h - the training operations of the CPU device: one table for the oracle, one for the fast path.
 *
 * train.c checks shapes and calls the table; train_oracle.c is naive, in double; train_fast.c shares work out over
 * threads and runs train_impl.h, compiled once per instruction set. Every sum has one order whatever the thread count.
 */
#ifndef LATENT_CPU_TRAIN_H
#define LATENT_CPU_TRAIN_H

#include "kernels/cpu/cpu.h"

struct norm_backward {
    float *dx, *dg, *db; /* dg, db may be NULL */
    const float *dy, *x, *g;
    float eps;
    int64_t rows, cols;
};

struct adamw_step {
    float *value, *m, *v;
    const float *grad;
    float grad_scale, lr, beta1, beta2, eps, decay;
    float bias1, bias2_sqrt; /* 1 - beta1^step, sqrt(1 - beta2^step) */
    int64_t n;
};

struct train_ops {
    void (*linear_dx)(struct cpu *c, float *dx, const float *dy, struct weight *w, int rows, bool add);
    void (*linear_dw)(struct cpu *c, float *dw, float *db, const float *dy, const float *x, int rows, int n, int k);
    void (*rmsnorm_backward)(struct cpu *c, const struct norm_backward *a);
    void (*layernorm_backward)(struct cpu *c, const struct norm_backward *a);
    void (*silu_mul_backward)(struct cpu *c, float *dgate_up, const float *dy, const float *gate_up, int rows,
                              int cols);
    void (*gelu_backward)(struct cpu *c, float *dx, const float *dy, const float *x, int64_t n);
    void (*attend_keep)(struct cpu *c, const struct attend_varlen_args *a, float *lse);
    void (*attend_backward)(struct cpu *c, const struct attend_varlen_args *a, float *dqkv, const float *dout,
                            const float *lse);
    void (*cross_entropy)(struct cpu *c, float *loss, float *logits, const int32_t *target, float scale, int n,
                          int vocab);
    double (*sum_squares)(struct cpu *c, const float *x, int64_t n);
    void (*adamw)(struct cpu *c, const struct adamw_step *a);
};

extern const struct train_ops train_oracle_ops, train_fast_ops;

/* What a row of attention sees: positions *lo .. *hi - 1 of its sequence of `length`. */
static inline void train_sees(const struct attend_varlen_args *a, int length, int position, int *lo, int *hi)
{
    *hi = a->causal ? position + 1 : length;
    *lo = a->causal && a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

#endif
