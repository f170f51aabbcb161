/* rows_problem.h - what is done to each row by itself: norms, gates, embeddings, log-probabilities; rotation. */
#ifndef LATENT_ROWS_PROBLEM_H
#define LATENT_ROWS_PROBLEM_H

#include "kernels/kernel_test.h"

/* One call of one operation: makes its tensors from the same numbers on whatever device, and returns the result. */
enum op { RMSNORM, LAYERNORM, SILU_MUL, GELU, ADD, COPY, GATHER, EMBED, ADD_ROW, LOGPROB, ENTROPY, OPS };
static const char *const op_name[] = { "rmsnorm", "layernorm", "silu_mul", "gelu",    "add",    "copy",
                                       "gather",  "embed",     "add_row",  "logprob", "entropy" };

struct inputs {
    int rows, cols;
    float *x, *y, *g, *b; /* x: [rows, 2 cols] */
    int32_t *index;       /* [rows], below rows */
};

static inline struct inputs inputs_of(int rows, int cols, float scale)
{
    struct source s = source_of((uint64_t)(rows * 5000 + cols));
    struct inputs in = { rows, cols, NULL, NULL, NULL, NULL, NULL };
    in.x = random_floats(&s, (int64_t)rows * cols * 2, scale);
    in.y = random_floats(&s, (int64_t)rows * cols, 1);
    in.g = random_floats(&s, cols, 1);
    in.b = random_floats(&s, cols, 1);
    in.index = xcalloc((size_t)rows, sizeof *in.index);
    for (int i = 0; i < rows; i++)
        in.index[i] = next_int(&s, rows < cols ? rows : cols);
    return in;
}

static inline void inputs_free(struct inputs *in)
{
    free(in->x);
    free(in->y);
    free(in->g);
    free(in->b);
    free(in->index);
}

/* Rows first .. first+rows-1. Caller frees. */
static inline float *result(struct device *d, enum op op, const struct inputs *in, int first, int rows)
{
    int cols = in->cols;
    struct err e = { "" };
    struct tensor *x = floats_of(d, rows, cols, in->x + first * cols), *g = floats_of(d, 1, cols, in->g);
    struct tensor *x2 = floats_of(d, rows, 2 * cols, in->x + first * 2 * cols), *b = floats_of(d, 1, cols, in->b);
    struct tensor *y = floats_of(d, rows, cols, in->y + first * cols), *v = floats_of(d, rows, 1, NULL);
    struct tensor *h = floats_of(d, rows, 1, NULL), *all = floats_of(d, in->rows, cols, in->x);
    struct tensor *index = ints_of(d, rows, 1, in->index + first), *out = y;
    struct weight_part part = { in->x, DTYPE_F32, in->rows };
    struct weight *table = NULL;
    assert_ok(d->weight_new(d, &table, &part, 1, cols, "table", &e));
    switch (op) {
    case RMSNORM:
        d->rmsnorm(d, y, x, g, 1e-6f, rows, cols);
        break;
    case LAYERNORM:
        d->layernorm(d, y, x, g, b, 1e-5f, rows, cols);
        break;
    case SILU_MUL:
        d->silu_mul(d, y, x2, rows, cols);
        break;
    case GELU:
        d->gelu(d, y, x, (int64_t)rows * cols);
        break;
    case ADD:
        d->add(d, y, x, (int64_t)rows * cols);
        break;
    case COPY:
        d->copy(d, y, x, (int64_t)rows * cols);
        break;
    case GATHER:
        d->gather_rows(d, y, all, index, rows, cols);
        break;
    case EMBED:
        d->embed(d, y, table, index, rows);
        break;
    case ADD_ROW:
        d->add_row(d, y, table, index, rows);
        break;
    case LOGPROB:
    case ENTROPY:
        d->logprobs(d, v, h, NULL, x, index, rows, cols);
        out = op == LOGPROB ? v : h;
        break;
    case OPS:
        break;
    }
    float *r = floats_back(d, out);
    struct tensor *made[] = { x, g, x2, b, y, v, h, all, index };
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        d->tensor_free(d, made[i]);
    d->weight_free(d, table);
    return r;
}

/* ---- log-probabilities ---- */

struct scores {
    float *logprob, *entropy;
    int32_t *best;
};

static inline struct scores scores_of(struct device *d, const float *logits, const int32_t *target, int rows, int cols)
{
    struct tensor *t[] = { floats_of(d, rows, cols, logits), ints_of(d, rows, 1, target), floats_of(d, rows, 1, NULL),
                           floats_of(d, rows, 1, NULL), ints_of(d, rows, 1, NULL) };
    d->logprobs(d, t[2], t[3], t[4], t[0], t[1], rows, cols);
    struct scores s = { floats_back(d, t[2]), floats_back(d, t[3]), back(d, t[4], sizeof(int32_t)) };
    for (int i = 0; i < 5; i++)
        d->tensor_free(d, t[i]);
    return s;
}

static inline void scores_free(struct scores *s)
{
    free(s->logprob);
    free(s->entropy);
    free(s->best);
}

/* ---- rotation ---- */

enum { CACHE_ROWS = 64 };

struct rotated {
    float *qkv, *k_cache, *v_cache;
};

/* The shape's rows at random places of the table, into random places of a cache of that type; the third into none. */
static inline struct rotated rotated(struct device *d, const struct rope_args *shape, bool norm, bool append,
                                     enum dtype type)
{
    struct rope_args a = *shape;
    struct source s = source_of(77);
    int64_t kv = (int64_t)a.kv_heads * a.head_dim, width = a.heads * a.head_dim + 2 * kv;
    float *x = random_floats(&s, a.rows * width, 1), *g = random_floats(&s, 2 * a.head_dim, 1);
    int half = a.rotary / 2;
    float *cosine = xcalloc(64 * (size_t)half + 1, 4), *sine = xcalloc(64 * (size_t)half + 1, 4);
    for (int i = 0; i < 64 * half; i++) {
        cosine[i] = (float)cos(i * 0.37);
        sine[i] = (float)sin(i * 0.37);
    }
    int32_t at[CACHE_ROWS], to[CACHE_ROWS];
    for (int i = 0; i < a.rows; i++) {
        at[i] = next_int(&s, 64);
        to[i] = i == 2 ? -1 : (i * 37 + 5) % CACHE_ROWS;
    }
    struct tensor *k = tensor_of(d, type, CACHE_ROWS, kv, NULL), *v = tensor_of(d, type, CACHE_ROWS, kv, NULL);
    struct tensor *t[] = { a.qkv = floats_of(d, a.rows, width, x),
                           floats_of(d, 1, a.head_dim, g),
                           floats_of(d, 1, a.head_dim, g + a.head_dim),
                           floats_of(d, 64, half, cosine),
                           floats_of(d, 64, half, sine),
                           ints_of(d, a.rows, 1, at),
                           ints_of(d, a.rows, 1, to),
                           k,
                           v };
    a.q_norm = norm ? t[1] : NULL;
    a.k_norm = norm ? t[2] : NULL;
    a.cos = t[3];
    a.sin = t[4];
    a.table_row = t[5];
    a.cache_row = t[6];
    a.k_cache = append ? k : NULL;
    a.v_cache = append ? v : NULL;
    a.eps = 1e-6f;
    d->rope(d, &a);
    struct rotated r = { floats_back(d, a.qkv), widened(d, k, type), widened(d, v, type) };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(x);
    free(g);
    free(cosine);
    free(sine);
    return r;
}

static inline void rotated_free(struct rotated *r)
{
    free(r->qkv);
    free(r->k_cache);
    free(r->v_cache);
}

#endif
