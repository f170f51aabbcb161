/* front.h - what the fronts of all devices share: a tensor as it lies, the shapes that each operation wants, and the
 * list of operations that fills struct device. C and C++.
 *
 * A wrong shape is a bug above us and aborts here, where the operation's name is known; behind this nothing is checked
 * again. What lies in the memory of lists (ids, pages) is for a front that can look at it: kernels/cpu/front.c. */
#ifndef LATENT_FRONT_H
#define LATENT_FRONT_H

#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"

struct tensor {
    void *data;
    enum dtype dtype;
    int64_t rows, cols;
};

__attribute__((noreturn)) static inline void device_bug(const char *op, const char *what)
{
    fprintf(stderr, "latent: bug: %s: %s\n", op, what);
    abort();
}

static inline float *f32(const struct tensor *t)
{
    if (t && t->dtype != DTYPE_F32)
        device_bug("tensor", "floats are wanted of another type");
    return t ? (float *)t->data : NULL;
}

static inline int32_t *i32(const struct tensor *t)
{
    return t ? (int32_t *)t->data : NULL;
}

#define WANT(op, cond)                                                                                                 \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            device_bug(op, "wrong shape, type or index: " #cond);                                                      \
    } while (0)

static inline bool is(const struct tensor *t, enum dtype dtype, int64_t rows, int64_t cols)
{
    return t && t->dtype == dtype && t->rows >= rows && t->cols == cols;
}

static inline bool holds(const struct tensor *t, enum dtype dtype, int64_t n) /* a list: its shape does not matter */
{
    return t && t->dtype == dtype && t->rows * t->cols >= n;
}

/* The same of what may be KEPT: whoever keeps nothing but F32 asks f32(), which takes nothing else. */
static inline bool is_kept(const struct tensor *t, int64_t rows, int64_t cols)
{
    return is(t, DTYPE_F32, rows, cols) || is(t, DTYPE_BF16, rows, cols);
}

static inline bool holds_kept(const struct tensor *t, int64_t n)
{
    return holds(t, DTYPE_F32, n) || holds(t, DTYPE_BF16, n);
}

/* Elements of a new tensor; false: no machine has so many. */
static inline bool want_new(int64_t rows, int64_t cols, const char *what, size_t *n)
{
    if (rows < 0 || cols < 0)
        device_bug("tensor_new", what);
    return !__builtin_mul_overflow((size_t)rows, (size_t)cols, n) && *n <= SIZE_MAX / 8;
}

static inline void want_range(const struct tensor *t, size_t first, size_t n, const char *op)
{
    size_t all = (size_t)(t->rows * t->cols);
    WANT(op, first <= all && n <= all - first);
}

/* ---- rows in, rows out; a weight is [n, k] ---- */

static inline void want_embed(const char *op, const struct tensor *y, int64_t cols, const struct tensor *ids, int rows)
{
    WANT(op, is(y, DTYPE_F32, rows, cols) && holds(ids, DTYPE_I32, rows));
}

static inline void want_linear(const struct tensor *y, const struct tensor *x, int64_t n, int64_t k,
                               const struct tensor *bias, int rows)
{
    WANT("linear", is_kept(y, rows, n) && is_kept(x, rows, k) && y->data != x->data);
    WANT("linear", !bias || holds(bias, DTYPE_F32, n));
}

static inline void want_linear_block(const struct tensor *y, const struct tensor *x, int64_t n, int64_t k, int row,
                                     int rows, int col, int cols)
{
    WANT("linear_block", row >= 0 && rows >= 0 && is(y, DTYPE_F32, row + rows, n));
    WANT("linear_block", is(x, DTYPE_F32, row + rows, k) && y->data != x->data);
    WANT("linear_block", col >= 0 && cols >= 0 && col <= n - cols);
}

static inline void want_rmsnorm(const struct tensor *y, const struct tensor *x, const struct tensor *g, int rows,
                                int cols)
{
    WANT("rmsnorm", is_kept(y, rows, cols) && is_kept(x, rows, cols) && holds(g, DTYPE_F32, cols));
    WANT("rmsnorm", x->dtype == DTYPE_F32 || y->dtype == x->dtype);
}

static inline void want_layernorm(const struct tensor *y, const struct tensor *x, const struct tensor *g,
                                  const struct tensor *b, int rows, int cols)
{
    WANT("layernorm", is(y, DTYPE_F32, rows, cols) && is(x, DTYPE_F32, rows, cols));
    WANT("layernorm", holds(g, DTYPE_F32, cols) && holds(b, DTYPE_F32, cols));
}

static inline void want_pair(const char *op, const struct tensor *y, const struct tensor *x, int64_t n)
{
    WANT(op, holds(y, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
}

static inline void want_silu_mul(const struct tensor *y, const struct tensor *gate_up, int rows, int cols)
{
    WANT("silu_mul", is_kept(y, rows, cols) && is(gate_up, y->dtype, rows, 2 * (int64_t)cols));
}

static inline void want_gather_rows(const struct tensor *y, const struct tensor *x, const struct tensor *index, int n,
                                    int cols)
{
    WANT("gather_rows", is(y, DTYPE_F32, n, cols) && is(x, DTYPE_F32, 0, cols) && holds(index, DTYPE_I32, n));
}

/* The two caches of a layer: alike, and as wide as the keys of a position. */
static inline bool are_caches(const struct tensor *k, const struct tensor *v, int64_t kv)
{
    return k && v && (k->dtype == DTYPE_F32 || k->dtype == DTYPE_BF16 || k->dtype == DTYPE_F8) && k->cols == kv &&
           is(v, k->dtype, k->rows, kv) && v->rows == k->rows;
}

static inline void want_rope(const struct rope_args *a)
{
    int64_t kv = (int64_t)a->kv_heads * a->head_dim, width = (int64_t)a->heads * a->head_dim + 2 * kv;
    WANT("rope", is(a->qkv, DTYPE_F32, a->rows, width) || (a->from && !a->k_cache && is_kept(a->qkv, a->rows, width)));
    WANT("rope", !a->from || is(a->from, DTYPE_F32, a->rows, width) || is(a->from, a->qkv->dtype, a->rows, width));
    WANT("rope", a->rotary >= 0 && a->rotary % 2 == 0 && a->rotary <= a->head_dim);
    WANT("rope", !a->q_norm || holds(a->q_norm, DTYPE_F32, a->head_dim));
    WANT("rope", !a->k_norm || holds(a->k_norm, DTYPE_F32, a->head_dim));
    WANT("rope", is(a->cos, DTYPE_F32, 0, a->rotary / 2) && is(a->sin, DTYPE_F32, a->cos->rows, a->rotary / 2));
    WANT("rope", holds(a->table_row, DTYPE_I32, a->rows) && !a->k_cache == !a->v_cache);
    WANT("rope", !a->k_cache || (are_caches(a->k_cache, a->v_cache, kv) && holds(a->cache_row, DTYPE_I32, a->rows)));
}

static inline void want_attend(const struct attend_args *a)
{
    int64_t kv = (int64_t)a->kv_heads * a->head_dim, q = (int64_t)a->heads * a->head_dim;
    WANT("attend", a->kv_heads > 0 && a->heads % a->kv_heads == 0);
    WANT("attend", is(a->out, DTYPE_F32, a->rows, q) && is(a->qkv, DTYPE_F32, a->rows, q + 2 * kv));
    WANT("attend", are_caches(a->k, a->v, kv) && a->page_table->dtype == DTYPE_I32);
    WANT("attend", holds(a->seq_slot, DTYPE_I32, a->nseq) && holds(a->context, DTYPE_I32, a->nseq));
    WANT("attend", holds(a->q_begin, DTYPE_I32, a->nseq + 1) && a->singles >= 0);
    WANT("attend", a->singles <= a->nseq && a->singles <= a->rows);
}

static inline void want_attend_varlen(const char *op, const struct attend_varlen_args *a)
{
    int64_t kv = (int64_t)a->kv_heads * a->head_dim, q = (int64_t)a->heads * a->head_dim;
    WANT(op, a->kv_heads > 0 && a->heads % a->kv_heads == 0);
    WANT(op, is_kept(a->out, a->rows, q) && is(a->qkv, a->out->dtype, a->rows, q + 2 * kv));
    WANT(op, holds(a->begin, DTYPE_I32, a->nseq + 1));
}

/* ---- ends of the network ---- */

static inline void want_logprobs(const struct tensor *logprob, const struct tensor *entropy, const struct tensor *best,
                                 const struct tensor *logits, const struct tensor *target, int n, int vocab)
{
    WANT("logprobs", is(logits, DTYPE_F32, n, vocab) && vocab > 0);
    WANT("logprobs", holds(target, DTYPE_I32, n) && holds(logprob, DTYPE_F32, n));
    WANT("logprobs", (!entropy || holds(entropy, DTYPE_F32, n)) && (!best || holds(best, DTYPE_I32, n)));
}

static inline void want_sample(const struct sample_args *a)
{
    WANT("sample", is(a->logits, DTYPE_F32, a->n, a->vocab) && a->vocab > 0);
    WANT("sample", is(a->slots, DTYPE_U8, 0, sizeof(struct sample_slot)));
    WANT("sample", holds(a->slot_of, DTYPE_I32, a->n) && holds(a->out_id, DTYPE_I32, a->n));
    WANT("sample", !a->out_logprob || holds(a->out_logprob, DTYPE_F32, a->n));
    WANT("sample", !a->counts || is(a->counts, DTYPE_I32, a->slots->rows, a->vocab));
}

static inline void want_decode_inputs(const struct decode_inputs_args *a)
{
    const char *op = "decode_inputs";
    WANT(op, is(a->slots, DTYPE_U8, 0, sizeof(struct sample_slot)));
    WANT(op, holds(a->slot_of, DTYPE_I32, a->n) && holds(a->rope_offset, DTYPE_I32, a->slots->rows));
    WANT(op, a->page_table->dtype == DTYPE_I32 && a->page_table->rows >= a->slots->rows);
    WANT(op, holds(a->ids, DTYPE_I32, a->n) && holds(a->table_row, DTYPE_I32, a->n));
    WANT(op, holds(a->context, DTYPE_I32, a->n) && holds(a->cache_row, DTYPE_I32, a->n));
}

/* ---- training ---- */

static inline void want_copy_blocks(const struct block_copy *b, size_t n)
{
    for (const struct block_copy *end = b + n; b < end; b++) {
        WANT("copy_blocks", b->y->dtype == b->x->dtype && (b->y->dtype == DTYPE_F32 || b->by == 1));
        WANT("copy_blocks", b->y_row >= 0 && b->y_col >= 0 && b->rows >= 0 && b->cols >= 0);
        WANT("copy_blocks", b->y_row + b->rows <= b->y->rows && b->y_col + b->cols <= b->y->cols);
        WANT("copy_blocks", b->x_row >= 0 && b->x_col >= 0);
        WANT("copy_blocks", b->x_row + b->rows <= b->x->rows && b->x_col + b->cols <= b->x->cols);
    }
}

static inline void want_copy(const struct tensor *y, const struct tensor *x, int64_t n)
{
    WANT("copy", holds_kept(y, n) && holds_kept(x, n));
}

static inline void want_dropout(const struct tensor *y, float p, int64_t n)
{
    WANT("dropout", holds(y, DTYPE_F32, n) && p >= 0 && p < 1);
}

static inline void want_scatter_rows(const char *op, const struct tensor *y, const struct tensor *x,
                                     const struct tensor *index, int n, int cols)
{
    WANT(op, is(y, DTYPE_F32, 0, cols) && is(x, DTYPE_F32, n, cols) && holds(index, DTYPE_I32, n));
}

static inline void want_hold(const struct tensor *x, int64_t n)
{
    WANT("hold", holds_kept(x, n));
}

static inline void want_linear_dx(const struct tensor *dx, const struct tensor *dy, int64_t n, int64_t k, int rows)
{
    WANT("linear_dx", is(dx, DTYPE_F32, rows, k) && is_kept(dy, rows, n) && dx->data != dy->data);
}

static inline void want_linear_dw(const struct tensor *dw, const struct tensor *db, const struct tensor *dy,
                                  const struct tensor *x, int rows, int n, int k)
{
    WANT("linear_dw", holds(dw, DTYPE_F32, (int64_t)n * k) && is_kept(dy, rows, n));
    WANT("linear_dw", is_kept(x, rows, k) && (!db || holds(db, DTYPE_F32, n)));
}

static inline void want_norm_backward(const char *op, const struct tensor *dx, const struct tensor *dg,
                                      const struct tensor *db, const struct tensor *dy, const struct tensor *x,
                                      const struct tensor *g, int rows, int cols)
{
    WANT(op, is(dx, DTYPE_F32, rows, cols) && is(dy, DTYPE_F32, rows, cols) && is_kept(x, rows, cols));
    WANT(op, holds(g, DTYPE_F32, cols) && (!dg || holds(dg, DTYPE_F32, cols)) && (!db || holds(db, DTYPE_F32, cols)));
}

static inline void want_silu_mul_backward(const struct tensor *dgate_up, const struct tensor *dy,
                                          const struct tensor *gate_up, int rows, int cols)
{
    int64_t both = 2 * (int64_t)cols;
    WANT("silu_mul_backward", is_kept(dgate_up, rows, both) && is(gate_up, dgate_up->dtype, rows, both));
    WANT("silu_mul_backward", is(dy, DTYPE_F32, rows, cols));
}

static inline void want_gelu_backward(const struct tensor *dx, const struct tensor *dy, const struct tensor *x,
                                      int64_t n)
{
    WANT("gelu_backward", holds(dx, DTYPE_F32, n) && holds(dy, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
}

static inline void want_rope_backward(const struct rope_args *a, const struct tensor *dqkv, const struct tensor *raw,
                                      const struct tensor *dq_norm, const struct tensor *dk_norm)
{
    const char *op = "rope_backward";
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * a->head_dim, half = a->rotary / 2;
    WANT(op, is(dqkv, DTYPE_F32, a->rows, width) && holds(a->table_row, DTYPE_I32, a->rows));
    WANT(op, is(a->cos, DTYPE_F32, 0, half) && is(a->sin, DTYPE_F32, a->cos->rows, half));
    WANT(op, !(a->q_norm || a->k_norm) || is_kept(raw, a->rows, width));
    WANT(op, !dq_norm || holds(dq_norm, DTYPE_F32, a->head_dim));
    WANT(op, !dk_norm || holds(dk_norm, DTYPE_F32, a->head_dim));
}

static inline void want_attend_varlen_keep(const struct attend_varlen_args *a, const struct tensor *lse)
{
    want_attend_varlen("attend_varlen_keep", a);
    WANT("attend_varlen_keep", holds(lse, DTYPE_F32, (int64_t)a->rows * a->heads));
}

static inline void want_attend_varlen_backward(const struct attend_varlen_args *a, const struct tensor *dqkv,
                                               const struct tensor *dout, const struct tensor *lse)
{
    const char *op = "attend_varlen_backward";
    want_attend_varlen(op, a);
    WANT(op, is(dqkv, DTYPE_F32, a->rows, a->qkv->cols) && is(dout, DTYPE_F32, a->rows, a->out->cols));
    WANT(op, holds(lse, DTYPE_F32, (int64_t)a->rows * a->heads));
}

static inline void want_cross_entropy(const struct tensor *loss, const struct tensor *logits,
                                      const struct tensor *target, int n, int vocab)
{
    WANT("cross_entropy", is(logits, DTYPE_F32, n, vocab) && holds(loss, DTYPE_F32, n) && holds(target, DTYPE_I32, n));
}

static inline void want_sum_squares(const struct tensor *out, int at, const struct tensor *const *x, size_t n)
{
    WANT("sum_squares", holds(out, DTYPE_F32, at + 1));
    for (size_t i = 0; i < n; i++)
        WANT("sum_squares", x[i]->dtype == DTYPE_F32);
}

static inline void want_adamw(const struct adamw_args *a)
{
    WANT("adamw", a->step >= 1);
    for (size_t i = 0; i < a->parts; i++) {
        const struct adamw_part *p = &a->part[i];
        WANT("adamw", holds(p->value, DTYPE_F32, p->n) && holds(p->m, DTYPE_F32, p->n));
        WANT("adamw", holds(p->v, DTYPE_F32, p->n) && holds(p->grad, DTYPE_F32, p->n));
    }
}

/* ---- struct device: what each part of a device fills in, from functions of the same names ---- */

#define DEVICE_FILL_MEMORY(d)                                                                                          \
    do {                                                                                                               \
        (d)->tensor_new = tensor_new;                                                                                  \
        (d)->tensor_free = tensor_free;                                                                                \
        (d)->tensor_rows = tensor_rows;                                                                                \
        (d)->tensor_cols = tensor_cols;                                                                                \
        (d)->tensor_write = tensor_write;                                                                              \
        (d)->tensor_read = tensor_read;                                                                                \
        (d)->read_begin = read_begin;                                                                                  \
        (d)->read_wait = read_wait;                                                                                    \
        (d)->weight_new = weight_new;                                                                                  \
        (d)->weight_free = weight_free;                                                                                \
        (d)->memory_left = memory_left;                                                                                \
        (d)->sync = sync_device;                                                                                       \
        (d)->close = close_device;                                                                                     \
    } while (0)

#define DEVICE_FILL_FORWARD(d)                                                                                         \
    do {                                                                                                               \
        (d)->embed = embed;                                                                                            \
        (d)->add_row = add_row;                                                                                        \
        (d)->linear = linear;                                                                                          \
        (d)->linear_block = linear_block;                                                                              \
        (d)->rmsnorm = rmsnorm;                                                                                        \
        (d)->layernorm = layernorm;                                                                                    \
        (d)->add = add;                                                                                                \
        (d)->silu_mul = silu_mul;                                                                                      \
        (d)->gelu = gelu;                                                                                              \
        (d)->gather_rows = gather_rows;                                                                                \
        (d)->rope = rope;                                                                                              \
        (d)->attend = attend;                                                                                          \
        (d)->attend_varlen = attend_varlen;                                                                            \
        (d)->logprobs = logprobs;                                                                                      \
        (d)->sample = sample;                                                                                          \
        (d)->decode_inputs = decode_inputs;                                                                            \
    } while (0)

#define DEVICE_FILL_TRAINING(d)                                                                                        \
    do {                                                                                                               \
        (d)->weight_from_tensor = weight_from_tensor;                                                                  \
        (d)->weight_refresh = weight_refresh;                                                                          \
        (d)->copy = copy;                                                                                              \
        (d)->copy_blocks = copy_blocks;                                                                                \
        (d)->fill = fill;                                                                                              \
        (d)->scale = scale;                                                                                            \
        (d)->dropout = dropout;                                                                                        \
        (d)->hold = hold;                                                                                              \
        (d)->let_go = let_go;                                                                                          \
        (d)->linear_dx = linear_dx;                                                                                    \
        (d)->linear_dw = linear_dw;                                                                                    \
        (d)->embed_backward = embed_backward;                                                                          \
        (d)->rmsnorm_backward = rmsnorm_backward;                                                                      \
        (d)->layernorm_backward = layernorm_backward;                                                                  \
        (d)->silu_mul_backward = silu_mul_backward;                                                                    \
        (d)->gelu_backward = gelu_backward;                                                                            \
        (d)->rope_backward = rope_backward;                                                                            \
        (d)->attend_varlen_keep = attend_varlen_keep;                                                                  \
        (d)->attend_varlen_backward = attend_varlen_backward;                                                          \
        (d)->scatter_rows = scatter_rows;                                                                              \
        (d)->cross_entropy = cross_entropy;                                                                            \
        (d)->sum_squares = sum_squares;                                                                                \
        (d)->adamw = adamw;                                                                                            \
    } while (0)

#endif
