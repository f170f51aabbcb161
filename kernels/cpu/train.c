/* train.c - the training operations of struct device on the CPU: shapes are checked here, work is done by the path's
 * table. */
#include "kernels/cpu/train.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

static struct cpu *cpu_of(struct device *d)
{
    return (struct cpu *)d;
}

/* ---- weights whose values live in a tensor ---- */

static int weight_from_tensor(struct device *d, struct weight **out, const struct tensor *values, const char *what,
                              struct err *e)
{
    struct weight_part part = { values->data, DTYPE_F32, values->rows };
    WANT("weight_from_tensor", values->dtype == DTYPE_F32);
    return d->weight_new(d, out, &part, 1, values->cols, what, e);
}

/* The packed form is made again at the next use, in the memory it had: see weight_pack. Of floats nothing is rounded.
 */
static void weight_refresh(struct device *d, struct weight *w, const struct tensor *values, const uint32_t key[2],
                           const uint32_t stream[2])
{
    (void)d;
    (void)key;
    (void)stream;
    WANT("weight_refresh", w->nparts == 1 && w->part[0].host == values->data);
    w->stale = true;
    w->stale_across = true;
}

/* ---- elementwise ---- */

enum { SPAN = 32768 }; /* elements of a piece */

struct spans {
    float *y;
    const float *x; /* NULL: fill */
    float value;
    int64_t n;
};

static void copy_span(void *arg, int i, int thread)
{
    const struct spans *s = arg;
    int64_t at = (int64_t)i * SPAN, n = s->n - at < SPAN ? s->n - at : SPAN;
    (void)thread;
    if (s->x)
        memcpy(s->y + at, s->x + at, (size_t)n * sizeof *s->y);
    else if (s->value == 0)
        memset(s->y + at, 0, (size_t)n * sizeof *s->y);
    else
        for (int64_t k = at; k < at + n; k++)
            s->y[k] = s->value;
}

static void copy_spans(struct cpu *c, struct spans *s)
{
    if (!c->failed)
        pool_run(c->pool, (int)((s->n + SPAN - 1) / SPAN), copy_span, s);
}

static void copy(struct device *d, struct tensor *y, const struct tensor *x, int64_t n)
{
    want_copy(y, x, n);
    copy_spans(cpu_of(d), &(struct spans){ f32(y), f32(x), 0, n });
}

static void copy_blocks(struct device *d, const struct block_copy *b, size_t n)
{
    want_copy_blocks(b, n);
    for (const struct block_copy *end = b + n; !cpu_of(d)->failed && b < end; b++) {
        size_t size = dtype_size(b->y->dtype);
        for (int64_t i = 0; i < b->rows; i++) {
            int64_t to = (b->y_row + i) * b->y->cols + b->y_col, from = (b->x_row + i) * b->x->cols + b->x_col;
            if (b->by == 1)
                memcpy((char *)b->y->data + (size_t)to * size, (const char *)b->x->data + (size_t)from * size,
                       (size_t)b->cols * size);
            else
                for (int64_t j = 0; j < b->cols; j++)
                    f32(b->y)[to + j] = b->by * f32(b->x)[from + j];
        }
    }
}

static void fill(struct device *d, struct tensor *y, float value, int64_t n)
{
    WANT("fill", holds(y, DTYPE_F32, n));
    copy_spans(cpu_of(d), &(struct spans){ f32(y), NULL, value, n });
}

static void scale(struct device *d, struct tensor *y, float by, int64_t n)
{
    WANT("scale", holds(y, DTYPE_F32, n));
    for (int64_t i = 0; !cpu_of(d)->failed && i < n; i++)
        f32(y)[i] *= by;
}

static void dropout(struct device *d, struct tensor *y, float p, const uint32_t key[2], const uint32_t stream[2],
                    uint64_t first, int64_t n)
{
    want_dropout(y, p, n);
    struct rng r = { { key[0], key[1] }, { stream[0], stream[1] } };
    for (int64_t i = 0; !cpu_of(d)->failed && i < n; i++)
        f32(y)[i] = rng_unit(&r, first + (uint64_t)i) < (double)p ? 0 : f32(y)[i] / (1 - p);
}

enum { COLUMNS = 64 };

struct scatter {
    float *y;
    const float *x;
    const int32_t *index;
    int64_t n, cols;
};

/* A piece is some columns: rows may repeat, and add up in their order. */
static void scatter_columns(void *arg, int i, int thread)
{
    const struct scatter *s = arg;
    int64_t first = (int64_t)i * COLUMNS, n = s->cols - first < COLUMNS ? s->cols - first : COLUMNS;
    (void)thread;
    for (int64_t r = 0; r < s->n; r++) {
        float *to = s->y + s->index[r] * s->cols + first;
        const float *from = s->x + r * s->cols + first;
        for (int64_t k = 0; k < n; k++)
            to[k] += from[k];
    }
}

static void scatter_rows(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *index, int n,
                         int cols)
{
    struct cpu *c = cpu_of(d);
    want_scatter_rows("scatter_rows", y, x, index, n, cols);
    for (int i = 0; i < n; i++)
        WANT("scatter_rows", i32(index)[i] >= 0 && i32(index)[i] < y->rows);
    struct scatter s = { f32(y), f32(x), i32(index), n, cols };
    if (!c->failed)
        pool_run((int64_t)n * cols < SPAN ? NULL : c->pool, (cols + COLUMNS - 1) / COLUMNS, scatter_columns, &s);
}

static void embed_backward(struct device *d, struct tensor *dtable, const struct tensor *dy, const struct tensor *ids,
                           int rows, int cols)
{
    scatter_rows(d, dtable, dy, ids, rows, cols); /* the same sum; here rows do repeat, in their order */
}

/* ---- products ---- */

static void hold(struct device *d, const struct tensor *x, int64_t n) /* floats are multiplied as they are */
{
    (void)d;
    want_hold(x, n);
}

static void let_go(struct device *d, const struct tensor *x)
{
    (void)d;
    (void)x;
}

static void linear_dx(struct device *d, struct tensor *dx, const struct tensor *dy, const struct weight *w, int rows,
                      bool add)
{
    struct cpu *c = cpu_of(d);
    want_linear_dx(dx, dy, w->rows, w->cols, rows);
    if (!c->failed && rows > 0)
        c->train->linear_dx(c, f32(dx), f32(dy), (struct weight *)(uintptr_t)w, rows, add);
}

static void linear_dw(struct device *d, struct tensor *dw, struct tensor *db, const struct tensor *dy,
                      const struct tensor *x, int rows, int n, int k)
{
    struct cpu *c = cpu_of(d);
    want_linear_dw(dw, db, dy, x, rows, n, k);
    if (!c->failed && rows > 0)
        c->train->linear_dw(c, f32(dw), f32(db), f32(dy), f32(x), rows, n, k);
}

/* ---- norms and gates ---- */

static void rmsnorm_backward(struct device *d, struct tensor *dx, struct tensor *dg, const struct tensor *dy,
                             const struct tensor *x, const struct tensor *g, float eps, int rows, int cols)
{
    struct cpu *c = cpu_of(d);
    want_norm_backward("rmsnorm_backward", dx, dg, NULL, dy, x, g, rows, cols);
    struct norm_backward a = { f32(dx), f32(dg), NULL, f32(dy), f32(x), f32(g), eps, rows, cols };
    if (!c->failed)
        c->train->rmsnorm_backward(c, &a);
}

static void layernorm_backward(struct device *d, struct tensor *dx, struct tensor *dg, struct tensor *db,
                               const struct tensor *dy, const struct tensor *x, const struct tensor *g, float eps,
                               int rows, int cols)
{
    struct cpu *c = cpu_of(d);
    want_norm_backward("layernorm_backward", dx, dg, db, dy, x, g, rows, cols);
    struct norm_backward a = { f32(dx), f32(dg), f32(db), f32(dy), f32(x), f32(g), eps, rows, cols };
    if (!c->failed)
        c->train->layernorm_backward(c, &a);
}

static void silu_mul_backward(struct device *d, struct tensor *dgate_up, const struct tensor *dy,
                              const struct tensor *gate_up, int rows, int cols)
{
    struct cpu *c = cpu_of(d);
    want_silu_mul_backward(dgate_up, dy, gate_up, rows, cols);
    if (!c->failed)
        c->train->silu_mul_backward(c, f32(dgate_up), f32(dy), f32(gate_up), rows, cols);
}

static void gelu_backward(struct device *d, struct tensor *dx, const struct tensor *dy, const struct tensor *x,
                          int64_t n)
{
    struct cpu *c = cpu_of(d);
    want_gelu_backward(dx, dy, x, n);
    if (!c->failed)
        c->train->gelu_backward(c, f32(dx), f32(dy), f32(x), n);
}

/* ---- rotation ---- */

/* The rotation is orthogonal: its transpose turns back. */
static void unrotate(float *g, const float *cosine, const float *sine, int half)
{
    for (int j = 0; j < half; j++) {
        float a = g[j], b = g[j + half];
        g[j] = a * cosine[j] + b * sine[j];
        g[j + half] = b * cosine[j] - a * sine[j];
    }
}

/* Head norms are rmsnorms of head_dim wide rows; their backward adds, so the gradient moves through scratch. */
static void head_norm_backward(struct cpu *c, const struct rope_args *a, float *grad, const float *raw,
                               const struct tensor *g, struct tensor *dg, int heads, int64_t width)
{
    int hd = a->head_dim;
    size_t n = (size_t)a->rows * (size_t)heads * (size_t)hd;
    float *x = cpu_scratch(c, c->threads, 3 * n * sizeof *x, "head norms");
    if (!x)
        return;
    float *dy = x + n, *dx = dy + n;
    memset(dx, 0, n * sizeof *dx);
    for (int64_t t = 0; t < a->rows; t++) {
        size_t row = (size_t)heads * (size_t)hd;
        memcpy(x + (size_t)t * row, raw + t * width, row * sizeof *x);
        memcpy(dy + (size_t)t * row, grad + t * width, row * sizeof *x);
    }
    struct norm_backward nb = { dx, f32(dg), NULL, dy, x, f32(g), a->eps, (int64_t)a->rows * heads, hd };
    c->train->rmsnorm_backward(c, &nb);
    for (int64_t t = 0; t < a->rows; t++)
        memcpy(grad + t * width, dx + (size_t)t * (size_t)heads * (size_t)hd, (size_t)heads * (size_t)hd * sizeof *x);
}

enum { ROPE_ROWS = 64 };

struct rope_job {
    const struct rope_args *a;
    float *dqkv;
};

static void unrotate_rows(void *arg, int i, int thread)
{
    const struct rope_job *j = arg;
    const struct rope_args *a = j->a;
    int hd = a->head_dim, half = a->rotary / 2;
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * hd;
    (void)thread;
    for (int64_t t = (int64_t)i * ROPE_ROWS; t < ((int64_t)i + 1) * ROPE_ROWS && t < a->rows; t++) {
        int64_t at = (int64_t)i32(a->table_row)[t] * half;
        for (int h = 0; h < a->heads + a->kv_heads; h++)
            unrotate(j->dqkv + t * width + (int64_t)h * hd, f32(a->cos) + at, f32(a->sin) + at, half);
    }
}

static void rope_backward(struct device *d, const struct rope_args *a, struct tensor *dqkv, const struct tensor *raw,
                          struct tensor *dq_norm, struct tensor *dk_norm)
{
    struct cpu *c = cpu_of(d);
    int64_t hd = a->head_dim, width = (a->heads + 2 * a->kv_heads) * hd;
    want_rope_backward(a, dqkv, raw, dq_norm, dk_norm);
    if (c->failed)
        return;
    for (int64_t t = 0; t < a->rows; t++)
        WANT("rope_backward", i32(a->table_row)[t] >= 0 && i32(a->table_row)[t] < a->cos->rows);
    struct rope_job j = { a, f32(dqkv) };
    pool_run(c->pool, (a->rows + ROPE_ROWS - 1) / ROPE_ROWS, unrotate_rows, &j);
    if (a->q_norm)
        head_norm_backward(c, a, f32(dqkv), f32(raw), a->q_norm, dq_norm, a->heads, width);
    if (a->k_norm)
        head_norm_backward(c, a, f32(dqkv) + a->heads * hd, f32(raw) + a->heads * hd, a->k_norm, dk_norm, a->kv_heads,
                           width);
}

/* ---- attention ---- */

static bool begins_are_whole(const struct attend_varlen_args *a)
{
    return i32(a->begin)[0] == 0 && i32(a->begin)[a->nseq] == a->rows;
}

static void attend_varlen_keep(struct device *d, const struct attend_varlen_args *a, struct tensor *lse)
{
    struct cpu *c = cpu_of(d);
    want_attend_varlen_keep(a, lse);
    if (c->failed || a->rows == 0)
        return;
    WANT("attend_varlen_keep", begins_are_whole(a));
    c->train->attend_keep(c, a, f32(lse));
}

static void attend_varlen_backward(struct device *d, const struct attend_varlen_args *a, struct tensor *dqkv,
                                   const struct tensor *dout, const struct tensor *lse)
{
    struct cpu *c = cpu_of(d);
    want_attend_varlen_backward(a, dqkv, dout, lse);
    if (c->failed || a->rows == 0)
        return;
    WANT("attend_varlen_backward", begins_are_whole(a));
    c->train->attend_backward(c, a, f32(dqkv), f32(dout), f32(lse));
}

/* ---- loss and optimizer ---- */

static void cross_entropy(struct device *d, struct tensor *loss, struct tensor *logits, const struct tensor *target,
                          float by, int n, int vocab)
{
    struct cpu *c = cpu_of(d);
    want_cross_entropy(loss, logits, target, n, vocab);
    if (c->failed)
        return;
    for (int i = 0; i < n; i++)
        WANT("cross_entropy", i32(target)[i] >= -1 && i32(target)[i] < vocab);
    c->train->cross_entropy(c, f32(loss), f32(logits), i32(target), by, n, vocab);
}

static void sum_squares(struct device *d, struct tensor *out, int at, const struct tensor *const *x, size_t n)
{
    struct cpu *c = cpu_of(d);
    want_sum_squares(out, at, x, n);
    for (size_t i = 0; i < n && !c->failed; i++)
        f32(out)[at] += (float)c->train->sum_squares(c, f32(x[i]), x[i]->rows * x[i]->cols);
}

static void adamw(struct device *d, const struct adamw_args *a)
{
    struct cpu *c = cpu_of(d);
    want_adamw(a);
    for (size_t i = 0; i < a->parts && !c->failed; i++) {
        const struct adamw_part *p = &a->part[i];
        struct adamw_step s = { f32(p->value),
                                f32(p->m),
                                f32(p->v),
                                f32(p->grad),
                                a->grad_scale,
                                a->lr,
                                a->beta1,
                                a->beta2,
                                a->eps,
                                p->decay,
                                (float)(1 - pow((double)a->beta1, (double)a->step)),
                                (float)sqrt(1 - pow((double)a->beta2, (double)a->step)),
                                p->n };
        c->train->adamw(c, &s);
    }
}

void cpu_train_init(struct cpu *c)
{
    struct device *d = &c->d;
    c->train = c->isa == CPU_ORACLE ? &train_oracle_ops : &train_fast_ops;
    DEVICE_FILL_TRAINING(d);
}
