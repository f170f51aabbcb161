/* fast.h - the pieces of the fast path, per instruction set. */
#ifndef LATENT_CPU_FAST_H
#define LATENT_CPU_FAST_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/cpu.h"

/* ---- multiplication ---- */

enum { TILE_ROWS = 14, TILE_WIDTHS = 4 };

/* Runs `rows` x (panels * PANEL) chains over k = 0 .. kn-1: acc[r * panels * PANEL + c] starts from 0 (first) or from
 * what an earlier call left, which continues the same chain. w points at the first panel's k = 0 of this call; of
 * `fetched` panels, memory `ahead` bytes behind what is read is asked for meanwhile. */
typedef void gemm_tile(int64_t kn, const float *x, int64_t ldx, const char *w, size_t panel_bytes, float *acc,
                       bool first, size_t ahead, int fetched);

/* [height][log2 of the panels taken at once]. widest: enough chains in flight to hide the latency of an addition, no
 * more than there are registers. A height has every width that a greater height has. */
struct gemm_isa {
    /* k rows of one bf16 panel as floats, for many tiles to share; NULL: widening on the way costs nothing here */
    void (*widen)(float *to, const char *from, int64_t kn);
    void (*put)(const float *acc, int width, float *y, int64_t stride, int64_t rows, int64_t cols, const float *bias,
                bool add);
    int max_rows;
    int widest[TILE_ROWS + 1];
    gemm_tile *f32[TILE_ROWS + 1][TILE_WIDTHS], *bf16[TILE_ROWS + 1][TILE_WIDTHS];
};
extern const struct gemm_isa gemm_base, gemm_avx2, gemm_avx512;

/* ---- operations on one row; see ops_impl.h ---- */

struct row_isa {
    void (*rmsnorm)(float *y, const float *x, const float *g, float eps, int64_t n);
    void (*layernorm)(float *y, const float *x, const float *g, const float *b, float eps, int64_t n);
    void (*silu_mul)(float *y, const float *gate, const float *up, int64_t n);
    void (*gelu)(float *y, const float *x, int64_t n);
    void (*add)(float *y, const float *x, int64_t n);
    void (*exp)(float *y, const float *x, int64_t n);
    void (*rotate)(float *x, const float *cosine, const float *sine, int half);
    float (*max)(const float *x, int64_t n, bool *nan);
    void (*sum_exp)(const float *x, int64_t n, float max, double *sum, double *weighted);
    void (*soften)(float *w, float *z, const float *x, int64_t n, float max, float temperature);
    double (*sum)(const float *x, int64_t n);
};
extern const struct row_isa rows_base, rows_avx2;

static inline const struct row_isa *rows_of(const struct cpu *c)
{
#if defined(__x86_64__)
    if (c->isa == CPU_AVX2 || c->isa == CPU_AVX512)
        return &rows_avx2;
#endif
    (void)c;
    return &rows_base;
}

/* ---- the way back on one row; see train_impl.h ---- */

struct train_isa {
    float (*dot)(const float *a, const float *b, int64_t n);
    /* y = x turned: rows x cols of x, strides between rows */
    void (*turn)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t cols);
    /* r = 1 / sqrt(mean(x^2) + eps) is returned: dg needs it */
    float (*rmsnorm)(float *dx, const float *dy, const float *x, const float *g, float eps, int64_t n);
    void (*layernorm)(float *dx, const float *dy, const float *x, const float *g, float eps, int64_t n, float *mean,
                      float *r);
    void (*silu_mul)(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n);
    void (*gelu)(float *dx, const float *dy, const float *x, int64_t n);
    void (*softmax_grad)(float *x, int64_t n, float max, float inverse_sum, float scale);
    double (*sum_squares)(const float *x, int64_t n);
    void (*adamw)(float *value, float *m, float *v, const float *grad, int64_t n, float grad_scale, float keep,
                  float rate, float beta1, float beta2, float bias2_sqrt, float eps);
};
extern const struct train_isa train_base, train_avx2;

static inline const struct train_isa *train_isa_of(const struct cpu *c)
{
#if defined(__x86_64__)
    if (c->isa == CPU_AVX2 || c->isa == CPU_AVX512)
        return &train_avx2;
#endif
    (void)c;
    return &train_base;
}

void fast_linear(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, const struct tensor *bias,
                 int rows, bool add);
void fast_linear_block(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, int row, int rows,
                       int col, int cols);

/* ---- attention; see attend_impl.h ---- */

/* Query rows of one head, or of one token, on their way through the blocks. */
struct queries {
    float *q;         /* [n, width] */
    float *p;         /* [n, ATTEND_BLOCK] scores, then weights */
    float *acc;       /* [n, width] weighted sums of values */
    float *max, *sum; /* [n] the largest score so far, the sum of the weights */
    float *decay;     /* [n] of the accumulators in this block */
    int32_t *lo, *hi; /* [n] positions of the block that a row sees: 0 <= lo < hi <= ATTEND_BLOCK */
    float *turned;    /* [hd, ATTEND_BLOCK] room for keys */
    int64_t width;
};

/* The same on the way back. */
struct queries_back {
    float *q, *dout, *dq; /* [n, width] */
    float *lse, *delta;   /* [n] */
    float *p, *ds;        /* [n, ATTEND_BLOCK] weights, gradients of the scores */
    int32_t *lo, *hi;     /* [n] not falling */
    float *turned;
    int64_t width;
};

struct attend_isa {
    /* rows begin .. end-1 against a block */
    void (*block)(const struct queries *s, int begin, int end, const float *k, const float *v, int64_t stride, int hd,
                  float scale);
    /* one token against a block: `group` rows for each of `heads` key-value heads, which lie side by side in k and v;
     * next_k, next_v: the block that will be read then */
    void (*token)(const struct queries *s, int heads, int group, const float *k, const float *v, const float *next_k,
                  const float *next_v, int64_t stride, int hd, float scale);
    void (*finish)(float *out, const float *acc, float sum, int hd);
    /* dq, and dk and dv of the block (dstride apart) grow; a row's terms come in the order of positions, a position's
     * in the order of rows */
    void (*back)(const struct queries_back *s, int begin, int end, const float *k, const float *v, int64_t stride,
                 float *dk, float *dv, int64_t dstride, int hd, float scale);
};
extern const struct attend_isa attend_base, attend_avx2, attend_avx512;

static inline const struct attend_isa *attend_isa_of(const struct cpu *c)
{
#if defined(__x86_64__)
    if (c->isa == CPU_AVX512)
        return &attend_avx512;
    if (c->isa == CPU_AVX2)
        return &attend_avx2;
#endif
    (void)c;
    return &attend_base;
}

void fast_attend(struct cpu *c, const struct attend_args *a);
/* lse: [rows, heads] log-sum-exp of each row's scores, for the way back; or NULL */
void fast_attend_keep(struct cpu *c, const struct attend_varlen_args *a, float *lse);
void fast_attend_varlen(struct cpu *c, const struct attend_varlen_args *a);
void fast_sample(struct cpu *c, const struct sample_args *a);

/* Puts the fast path's operations over the oracle's. */
void fast_init(struct cpu_ops *ops);

#endif
