/* train_problems.h - the operations of training on one device: random inputs, results in memory, for comparisons. */
#ifndef LATENT_TRAIN_PROBLEMS_H
#define LATENT_TRAIN_PROBLEMS_H

#include "kernels/kernel_test.h"

/* One problem: random inputs, and an operation that leaves its results in out[]. Run on each path. */
struct problem {
    const char *name;
    int rows, n, k; /* what they mean is the operation's */
};

enum { MAX_OUT = 5 };
struct result {
    float *out[MAX_OUT];
    int64_t n[MAX_OUT];
    int count;
};

static inline void keep(struct result *r, struct device *d, const struct tensor *t)
{
    r->n[r->count] = d->tensor_rows(t) * d->tensor_cols(t);
    r->out[r->count++] = floats_back(d, t);
}

static inline void result_release(struct result *r)
{
    for (int i = 0; i < r->count; i++)
        free(r->out[i]);
}

static inline struct tensor *random_tensor(struct device *d, struct source *s, int64_t rows, int64_t cols, float scale)
{
    float *v = random_floats(s, rows * cols, scale);
    struct tensor *t = floats_of(d, rows, cols, v);
    free(v);
    return t;
}

/* ---- the operations under test ---- */

static inline void run_linear(struct device *d, const struct problem *p, struct result *r)
{
    struct err e = { "" };
    struct source s = source_of(1);
    float *w = random_floats(&s, (int64_t)p->n * p->k, 1);
    struct weight_part part = { w, DTYPE_F32, p->n };
    struct weight *weight, *again;
    assert_ok(d->weight_new(d, &weight, &part, 1, p->k, "test", &e));
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, p->k, 1);
    struct tensor *dx = random_tensor(d, &s, p->rows, p->k, 1), *dw = random_tensor(d, &s, p->n, p->k, 1);
    struct tensor *db = random_tensor(d, &s, 1, p->n, 1), *values = floats_of(d, p->n, p->k, w);
    d->linear_dx(d, dx, dy, weight, p->rows, true);
    d->linear_dw(d, dw, db, dy, x, p->rows, p->n, p->k);
    keep(r, d, dx);
    keep(r, d, dw);
    keep(r, d, db);
    /* a weight that changes: both packed forms follow */
    struct tensor *y = floats_of(d, p->rows, p->n, NULL);
    assert_ok(d->weight_from_tensor(d, &again, values, "test", &e));
    d->linear(d, y, x, again, NULL, p->rows, false);
    d->linear_dx(d, dx, dy, again, p->rows, false);
    d->scale(d, values, -2, (int64_t)p->n * p->k);
    d->weight_refresh(d, again, values, NULL, NULL);
    d->linear_dx(d, dx, dy, again, p->rows, true); /* dy W - 2 dy W */
    d->linear(d, y, x, again, NULL, p->rows, true);
    float *a = floats_back(d, dx), *b = floats_back(d, y);
    struct tensor *dx1 = floats_of(d, p->rows, p->k, NULL), *y1 = floats_of(d, p->rows, p->n, NULL);
    d->linear_dx(d, dx1, dy, weight, p->rows, false);
    d->linear(d, y1, x, weight, NULL, p->rows, false);
    float *a1 = floats_back(d, dx1), *b1 = floats_back(d, y1);
    for (int64_t i = 0; i < (int64_t)p->rows * p->k; i++)
        a1[i] = -a1[i];
    for (int64_t i = 0; i < (int64_t)p->rows * p->n; i++)
        b1[i] = -b1[i];
    assert_close("dx after refresh", a, a1, (int64_t)p->rows * p->k, 1e-4, 1e-4);
    assert_close("y after refresh", b, b1, (int64_t)p->rows * p->n, 1e-4, 1e-4);
    free(a);
    free(b);
    free(a1);
    free(b1);
    d->weight_free(d, weight);
    d->weight_free(d, again);
    struct tensor *all[] = { dy, x, dx, dw, db, values, y, dx1, y1 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(w);
}

static inline void run_norms(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(2);
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, p->n, 2);
    struct tensor *g = random_tensor(d, &s, 1, p->n, 1), *dx = random_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dg = random_tensor(d, &s, 1, p->n, 1), *db = random_tensor(d, &s, 1, p->n, 1);
    d->rmsnorm_backward(d, dx, dg, dy, x, g, 1e-5f, p->rows, p->n);
    keep(r, d, dx);
    if (p->n > 1) /* layernorm of one column has no derivative to speak of: x - mean is 0 */
        d->layernorm_backward(d, dx, dg, db, dy, x, g, 1e-3f, p->rows, p->n);
    keep(r, d, dx);
    keep(r, d, dg);
    keep(r, d, db);
    struct tensor *all[] = { dy, x, g, dx, dg, db };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

static inline void run_gates(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(3);
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, 2 * p->n, 6);
    struct tensor *dx = floats_of(d, p->rows, 2 * p->n, NULL), *dz = floats_of(d, p->rows, p->n, NULL);
    struct tensor *z = random_tensor(d, &s, p->rows, p->n, 6);
    d->silu_mul_backward(d, dx, dy, x, p->rows, p->n);
    d->gelu_backward(d, dz, dy, z, (int64_t)p->rows * p->n);
    keep(r, d, dx);
    keep(r, d, dz);
    struct tensor *all[] = { dy, x, dx, dz, z };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

enum { FOUR_ROWS = 100 };
static const int32_t four_begin[] = { 0, 1, 34, 35, FOUR_ROWS };

/* A problem of attention: rows is the head's width, n the window, k 0 for causal; begin holds four_begin. */
static inline struct attend_varlen_args four_sequences(const struct problem *p, struct tensor *out,
                                                       const struct tensor *qkv, const struct tensor *begin)
{
    return (struct attend_varlen_args){ .out = out,
                                        .qkv = qkv,
                                        .begin = begin,
                                        .nseq = 4,
                                        .rows = FOUR_ROWS,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = p->rows,
                                        .scale = 0.5f,
                                        .window = p->n,
                                        .causal = p->k == 0 };
}

/* rows = head_dim, n = window, k = kind: 0 causal, 1 whole sequences */
static inline void run_attention(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(4);
    int hd = p->rows, rows = FOUR_ROWS, width = (4 + 2 * 2) * hd;
    struct tensor *qkv = random_tensor(d, &s, rows, width, 1), *dout = random_tensor(d, &s, rows, 4 * hd, 1);
    struct tensor *out = floats_of(d, rows, 4 * hd, NULL), *lse = floats_of(d, rows, 4, NULL);
    struct tensor *dqkv = random_tensor(d, &s, rows, width, 9), *b = ints_of(d, 1, 5, four_begin);
    struct attend_varlen_args a = four_sequences(p, out, qkv, b);
    d->attend_varlen_keep(d, &a, lse);
    d->attend_varlen_backward(d, &a, dqkv, dout, lse);
    keep(r, d, out);
    keep(r, d, lse);
    keep(r, d, dqkv);
    struct tensor *all[] = { qkv, dout, out, lse, dqkv, b };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

static inline void run_rope(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(5);
    int hd = 2 * p->n, width = (3 + 2) * hd, rotary = p->k ? hd : 2 * (p->n / 2);
    struct tensor *raw = random_tensor(d, &s, p->rows, width, 1), *dqkv = random_tensor(d, &s, p->rows, width, 1);
    struct tensor *qn = random_tensor(d, &s, 1, hd, 1), *kn = random_tensor(d, &s, 1, hd, 1);
    struct tensor *dqn = random_tensor(d, &s, 1, hd, 1), *dkn = random_tensor(d, &s, 1, hd, 1);
    float *angle = random_floats(&s, 16 * (rotary / 2) + 1, 3), *cs = xcalloc((size_t)(16 * rotary + 2), sizeof *cs);
    int32_t *row = xcalloc((size_t)p->rows, sizeof *row);
    for (int i = 0; i < 16 * (rotary / 2); i++) {
        cs[i] = cosf(angle[i]);
        angle[i] = sinf(angle[i]);
    }
    for (int i = 0; i < p->rows; i++)
        row[i] = next_int(&s, 16);
    struct tensor *cosine = floats_of(d, 16, rotary / 2, cs), *sine = floats_of(d, 16, rotary / 2, angle);
    struct tensor *rows = ints_of(d, 1, p->rows, row);
    struct rope_args a = { .qkv = dqkv,
                           .q_norm = qn,
                           .k_norm = kn,
                           .eps = 1e-5f,
                           .cos = cosine,
                           .sin = sine,
                           .table_row = rows,
                           .rows = p->rows,
                           .heads = 3,
                           .kv_heads = 1,
                           .head_dim = hd,
                           .rotary = rotary };
    d->rope_backward(d, &a, dqkv, raw, dqn, dkn);
    keep(r, d, dqkv);
    keep(r, d, dqn);
    keep(r, d, dkn);
    struct tensor *all[] = { raw, dqkv, qn, kn, dqn, dkn, cosine, sine, rows };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(angle);
    free(cs);
    free(row);
}

static inline void run_ends(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(6);
    struct tensor *logits = random_tensor(d, &s, p->rows, p->n, 8), *loss = floats_of(d, 1, p->rows, NULL);
    int32_t *target = xcalloc((size_t)p->rows, sizeof *target), *ids = xcalloc((size_t)p->rows, sizeof *ids);
    for (int i = 0; i < p->rows; i++) {
        target[i] = next_int(&s, p->n + 1) - 1;
        ids[i] = next_int(&s, 5);
    }
    struct tensor *t = ints_of(d, 1, p->rows, target), *id = ints_of(d, 1, p->rows, ids);
    struct tensor *table = random_tensor(d, &s, 5, p->n, 1), *squares = floats_of(d, 1, 3, NULL);
    d->cross_entropy(d, loss, logits, t, 0.25f, p->rows, p->n);
    d->embed_backward(d, table, logits, id, p->rows, p->n);
    d->sum_squares(d, squares, 1, (const struct tensor *[]){ table, loss, table }, 3);
    keep(r, d, loss);
    keep(r, d, logits);
    keep(r, d, table);
    keep(r, d, squares);
    struct tensor *all[] = { logits, loss, t, id, table, squares };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(target);
    free(ids);
}

/* rows = tensors of n, n + 1 ... elements, the last one empty; every other one decays */
static inline void run_adamw(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(7);
    struct adamw_part *part = xcalloc((size_t)p->rows, sizeof *part);
    struct tensor **grad = xcalloc((size_t)p->rows, sizeof *grad);
    for (int i = 0; i < p->rows; i++) {
        int64_t n = p->n + i;
        part[i] = (struct adamw_part){ random_tensor(d, &s, 1, n, 1),     floats_of(d, 1, n, NULL),
                                       floats_of(d, 1, n, NULL),          NULL,
                                       i > 0 && i + 1 == p->rows ? 0 : n, i % 2 ? 0 : 0.01f };
    }
    for (int step = 1; step <= 5; step++) {
        for (int i = 0; i < p->rows; i++)
            part[i].grad = grad[i] = random_tensor(d, &s, 1, p->n + i, 1);
        d->adamw(d, &(struct adamw_args){ part, (size_t)p->rows, 0.5f, 1e-2f, 0.9f, 0.999f, 1e-8f, step });
        for (int i = 0; i < p->rows; i++)
            d->tensor_free(d, grad[i]);
    }
    int64_t all = p->rows * (int64_t)p->n + (int64_t)p->rows * (p->rows - 1) / 2;
    for (int kind = 0; kind < 3; kind++) {
        float *out = xcalloc((size_t)all, sizeof *out), *at = out;
        for (int i = 0; i < p->rows; at += p->n + i++) {
            struct tensor *t = kind == 0 ? part[i].value : kind == 1 ? part[i].m : part[i].v;
            float *v = floats_back(d, t);
            memcpy(at, v, (size_t)(p->n + i) * sizeof *v);
            free(v);
            d->tensor_free(d, t);
        }
        r->n[r->count] = all;
        r->out[r->count++] = out;
    }
    free(part);
    free(grad);
}

typedef void run_fn(struct device *d, const struct problem *p, struct result *r);

#endif
