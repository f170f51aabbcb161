/* attend_problem.h - attention's problems: packed sequences of random queries, keys and values, with or without a cache
 * of pages. */
#ifndef LATENT_ATTEND_PROBLEM_H
#define LATENT_ATTEND_PROBLEM_H

#include "kernels/kernel_test.h"

struct shape {
    int heads, kv_heads, hd, window;
};

enum { MAX_SEQ = 42, UNUSED_PAGES = 2 };

struct batch {
    struct shape s;
    int nseq, rows, length[MAX_SEQ];
    int32_t begin[MAX_SEQ + 1];
    float *qkv; /* rotated already */
    int64_t width, q_width, kv_width;
};

/* -2 .. 2 */
static inline struct batch batch_of(struct shape s, int nseq, const int *lengths, uint64_t seed)
{
    struct source src = source_of(seed);
    struct batch b = { .s = s, .nseq = nseq };
    for (int i = 0; i < nseq; i++) {
        b.length[i] = lengths[i];
        b.begin[i + 1] = b.begin[i] + lengths[i];
    }
    b.rows = b.begin[nseq];
    b.q_width = (int64_t)s.heads * s.hd;
    b.kv_width = (int64_t)s.kv_heads * s.hd;
    b.width = b.q_width + 2 * b.kv_width;
    b.qkv = random_floats(&src, b.rows * b.width, 2);
    return b;
}

/* ---- without a cache ---- */

static inline struct attend_varlen_args varlen_args(const struct batch *b, bool causal, struct tensor *out,
                                                    struct tensor *qkv, struct tensor *begin)
{
    return (struct attend_varlen_args){ .out = out,
                                        .qkv = qkv,
                                        .begin = begin,
                                        .nseq = b->nseq,
                                        .rows = b->rows,
                                        .heads = b->s.heads,
                                        .kv_heads = b->s.kv_heads,
                                        .head_dim = b->s.hd,
                                        .scale = 1 / sqrtf((float)b->s.hd),
                                        .window = b->s.window,
                                        .causal = causal };
}

static inline float *varlen(struct device *d, const struct batch *b, bool causal)
{
    struct tensor *out = floats_of(d, b->rows, b->q_width, NULL), *qkv = floats_of(d, b->rows, b->width, b->qkv);
    struct tensor *begin = ints_of(d, b->nseq + 1, 1, b->begin);
    struct attend_varlen_args a = varlen_args(b, causal, out, qkv, begin);
    d->attend_varlen(d, &a);
    float *r = floats_back(d, out);
    d->tensor_free(d, out);
    d->tensor_free(d, qkv);
    d->tensor_free(d, begin);
    return r;
}

/* ---- over pages ---- */

/* Pages of all sequences shuffled through one cache whose unused places hold NaN: reading one would show. */
struct cache {
    struct tensor *k, *v, *table, *slot;
    int max_pages;
};

static inline struct cache cache_of(struct device *d, const struct batch *b, enum dtype type, uint64_t seed)
{
    struct cache c = { 0 };
    int pages = 1 + UNUSED_PAGES, order[512];
    for (int s = 0; s < b->nseq; s++) {
        int n = (b->length[s] + KV_PAGE - 1) / KV_PAGE;
        pages += n;
        c.max_pages = n > c.max_pages ? n : c.max_pages;
    }
    assert_true(pages < 512);
    struct source src = source_of(seed);
    for (int i = 0; i < pages; i++)
        order[i] = i;
    for (int i = pages - 1; i > 1; i--) { /* page 0 belongs to nobody */
        int j = 1 + next_int(&src, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    size_t n = (size_t)(pages * KV_PAGE * b->kv_width);
    float *k = xcalloc(n, sizeof *k), *v = xcalloc(n, sizeof *v);
    for (size_t i = 0; i < n; i++)
        k[i] = v[i] = NAN;
    int32_t *table = xcalloc((size_t)(MAX_SEQ * c.max_pages), sizeof *table), slot[MAX_SEQ];
    int next = 1;
    for (int s = 0; s < b->nseq; s++) {
        slot[s] = (s * 5 + 1) % MAX_SEQ;
        for (int p = 0; p < b->length[s]; p++) {
            if (p % KV_PAGE == 0)
                table[slot[s] * c.max_pages + p / KV_PAGE] = order[next++];
            int64_t row = (int64_t)table[slot[s] * c.max_pages + p / KV_PAGE] * KV_PAGE + p % KV_PAGE;
            const float *from = b->qkv + (b->begin[s] + p) * b->width + b->q_width;
            memcpy(k + row * b->kv_width, from, (size_t)b->kv_width * sizeof *k);
            memcpy(v + row * b->kv_width, from + b->kv_width, (size_t)b->kv_width * sizeof *v);
        }
    }
    c.k = narrowed(d, type, pages * KV_PAGE, b->kv_width, k);
    c.v = narrowed(d, type, pages * KV_PAGE, b->kv_width, v);
    c.table = ints_of(d, MAX_SEQ, c.max_pages, table);
    c.slot = ints_of(d, b->nseq, 1, slot);
    free(k);
    free(v);
    free(table);
    return c;
}

static inline void cache_free(struct device *d, struct cache *c)
{
    d->tensor_free(d, c->k);
    d->tensor_free(d, c->v);
    d->tensor_free(d, c->table);
    d->tensor_free(d, c->slot);
}

/* Rows from[s] .. to[s]-1 of every sequence in one call; results land in out at the batch's own rows. */
static inline void paged_call(struct device *d, const struct batch *b, const struct cache *c, const int *from,
                              const int *to, float *out)
{
    int32_t begin[MAX_SEQ + 1] = { 0 }, context[MAX_SEQ], longest = 1;
    for (int s = 0; s < b->nseq; s++) {
        begin[s + 1] = begin[s] + to[s] - from[s];
        context[s] = to[s] > 0 ? to[s] : 1;
        longest = context[s] > longest ? context[s] : longest;
    }
    int rows = begin[b->nseq], singles = 0;
    while (singles < b->nseq && begin[singles + 1] == singles + 1)
        singles++;
    if (rows == 0)
        return;
    float *q = xcalloc((size_t)(rows * b->width), sizeof *q);
    for (int s = 0; s < b->nseq; s++)
        memcpy(q + begin[s] * b->width, b->qkv + (b->begin[s] + from[s]) * b->width,
               (size_t)((to[s] - from[s]) * b->width) * sizeof *q);
    struct tensor *o = floats_of(d, rows, b->q_width, NULL), *qkv = floats_of(d, rows, b->width, q);
    struct tensor *tb = ints_of(d, b->nseq + 1, 1, begin), *tc = ints_of(d, b->nseq, 1, context);
    struct attend_args a = {
        o,           qkv,     c->k,   c->v,       c->table,      c->slot, tb,
        tc,          b->nseq, rows,   b->s.heads, b->s.kv_heads, b->s.hd, 1 / sqrtf((float)b->s.hd),
        b->s.window, longest, singles
    };
    d->attend(d, &a);
    float *r = floats_back(d, o);
    for (int s = 0; s < b->nseq; s++)
        memcpy(out + (b->begin[s] + from[s]) * b->q_width, r + begin[s] * b->q_width,
               (size_t)((to[s] - from[s]) * b->q_width) * sizeof *r);
    free(r);
    free(q);
    struct tensor *made[] = { o, qkv, tb, tc };
    for (int i = 0; i < 4; i++)
        d->tensor_free(d, made[i]);
}

/* step 0: everything at once; else that many tokens of every sequence per call (1: decoding). */
static inline float *paged(struct device *d, const struct batch *b, enum dtype type, int step, uint64_t seed)
{
    struct cache c = cache_of(d, b, type, seed);
    float *out = xcalloc((size_t)(b->rows * b->q_width), sizeof *out);
    int from[MAX_SEQ] = { 0 }, to[MAX_SEQ];
    for (bool more = true; more;) {
        more = false;
        for (int s = 0; s < b->nseq; s++) {
            to[s] = step == 0 || from[s] + step > b->length[s] ? b->length[s] : from[s] + step;
            more = more || to[s] < b->length[s];
        }
        paged_call(d, b, &c, from, to, out);
        memcpy(from, to, sizeof from);
    }
    cache_free(d, &c);
    return out;
}

#endif
