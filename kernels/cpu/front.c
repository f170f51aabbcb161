/* front.c - the operations of struct device on the CPU: checks shapes, then calls the table of the path.
 *
 * Shapes are those of kernels/front.h; here what lies in lists is checked too. Behind this file nothing is checked
 * again. */
#include "kernels/cpu/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"

static bool between(const struct tensor *t, int n, int64_t least, int64_t limit)
{
    const int32_t *v = i32(t);
    for (int i = 0; i < n; i++)
        if (v[i] < least || v[i] >= limit)
            return false;
    return true;
}

static bool within(const struct tensor *t, int n, int64_t limit)
{
    return between(t, n, 0, limit);
}

static bool rising(const struct tensor *t, int n, int32_t last)
{
    const int32_t *v = i32(t);
    for (int i = 0; i < n; i++)
        if (v[i] > v[i + 1])
            return false;
    return v[0] == 0 && v[n] == last;
}

static void embed_or_add(struct device *d, struct tensor *y, const struct weight *table, const struct tensor *ids,
                         int rows, bool add, const char *op)
{
    struct cpu *c = (struct cpu *)d;
    want_embed(op, y, table->cols, ids, rows);
    if (c->failed)
        return;
    WANT(op, within(ids, rows, table->rows));
    c->ops.embed(c, y, table, ids, rows, add);
}

static void embed(struct device *d, struct tensor *y, const struct weight *table, const struct tensor *ids, int rows)
{
    embed_or_add(d, y, table, ids, rows, false, "embed");
}

static void add_row(struct device *d, struct tensor *y, const struct weight *table, const struct tensor *ids, int rows)
{
    embed_or_add(d, y, table, ids, rows, true, "add_row");
}

static void linear(struct device *d, struct tensor *y, const struct tensor *x, const struct weight *w,
                   const struct tensor *bias, int rows, bool add)
{
    struct cpu *c = (struct cpu *)d;
    want_linear(y, x, w->rows, w->cols, bias, rows);
    if (!c->failed && rows > 0) /* packing at first use is the one change a const weight knows */
        c->ops.linear(c, y, x, (struct weight *)(uintptr_t)w, bias, rows, add);
}

static void linear_block(struct device *d, struct tensor *y, const struct tensor *x, const struct weight *w, int row,
                         int rows, int col, int cols)
{
    struct cpu *c = (struct cpu *)d;
    want_linear_block(y, x, w->rows, w->cols, row, rows, col, cols);
    if (!c->failed && rows > 0 && cols > 0) /* packing, as in linear */
        c->ops.linear_block(c, y, x, (struct weight *)(uintptr_t)w, row, rows, col, cols);
}

static void rmsnorm(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *g, float eps,
                    int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    want_rmsnorm(y, x, g, rows, cols);
    if (!c->failed)
        c->ops.rmsnorm(c, f32(y), f32(x), f32(g), eps, rows, cols);
}

static void layernorm(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *g,
                      const struct tensor *b, float eps, int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    want_layernorm(y, x, g, b, rows, cols);
    if (!c->failed)
        c->ops.layernorm(c, f32(y), f32(x), f32(g), f32(b), eps, rows, cols);
}

static void add(struct device *d, struct tensor *y, const struct tensor *x, int64_t n)
{
    struct cpu *c = (struct cpu *)d;
    want_pair("add", y, x, n);
    if (!c->failed)
        c->ops.add(c, f32(y), f32(x), n);
}

static void silu_mul(struct device *d, struct tensor *y, const struct tensor *gate_up, int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    want_silu_mul(y, gate_up, rows, cols);
    if (!c->failed)
        c->ops.silu_mul(c, f32(y), f32(gate_up), rows, cols);
}

static void gelu(struct device *d, struct tensor *y, const struct tensor *x, int64_t n)
{
    struct cpu *c = (struct cpu *)d;
    want_pair("gelu", y, x, n);
    if (!c->failed)
        c->ops.gelu(c, f32(y), f32(x), n);
}

static void gather_rows(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *index, int n,
                        int cols)
{
    struct cpu *c = (struct cpu *)d;
    want_gather_rows(y, x, index, n, cols);
    if (c->failed)
        return;
    WANT("gather_rows", within(index, n, x->rows));
    c->ops.gather_rows(c, f32(y), f32(x), i32(index), n, cols);
}

static void rope(struct device *d, const struct rope_args *a)
{
    struct cpu *c = (struct cpu *)d;
    want_rope(a);
    WANT("rope", !a->k_cache || a->k_cache->dtype == DTYPE_F32);
    if (c->failed)
        return;
    WANT("rope", within(a->table_row, a->rows, a->cos->rows));
    WANT("rope", !a->k_cache || between(a->cache_row, a->rows, -1, a->k_cache->rows));
    c->ops.rope(c, a);
}

/* Every page that attention will touch lies in the cache. */
static bool pages_are_valid(const struct attend_args *a)
{
    int64_t max_pages = a->page_table->cols, pages = a->k->rows / KV_PAGE;
    for (int s = 0; s < a->nseq; s++) {
        const int32_t *page = i32(a->page_table) + i32(a->seq_slot)[s] * max_pages;
        int32_t context = i32(a->context)[s], rows = i32(a->q_begin)[s + 1] - i32(a->q_begin)[s];
        if (context < rows || (context + KV_PAGE - 1) / KV_PAGE > max_pages)
            return false;
        for (int b = 0; b * KV_PAGE < context; b++)
            if (page[b] < 0 || page[b] >= pages)
                return false;
    }
    return true;
}

static void attend(struct device *d, const struct attend_args *a)
{
    struct cpu *c = (struct cpu *)d;
    want_attend(a);
    WANT("attend", a->k->dtype == DTYPE_F32);
    if (c->failed || a->rows == 0)
        return;
    WANT("attend", rising(a->q_begin, a->nseq, a->rows));
    WANT("attend", within(a->seq_slot, a->nseq, a->page_table->rows));
    WANT("attend", pages_are_valid(a));
    c->ops.attend(c, a);
}

static void attend_varlen(struct device *d, const struct attend_varlen_args *a)
{
    struct cpu *c = (struct cpu *)d;
    want_attend_varlen("attend_varlen", a);
    if (c->failed || a->rows == 0)
        return;
    WANT("attend_varlen", rising(a->begin, a->nseq, a->rows));
    c->ops.attend_varlen(c, a);
}

static void logprobs(struct device *d, struct tensor *logprob, struct tensor *entropy, struct tensor *best,
                     const struct tensor *logits, const struct tensor *target, int n, int vocab)
{
    struct cpu *c = (struct cpu *)d;
    want_logprobs(logprob, entropy, best, logits, target, n, vocab);
    if (c->failed)
        return;
    for (int i = 0; i < n; i++)
        WANT("logprobs", i32(target)[i] >= -1 && i32(target)[i] < vocab);
    c->ops.logprobs(c, f32(logprob), f32(entropy), i32(best), f32(logits), i32(target), n, vocab);
}

static void sample(struct device *d, const struct sample_args *a)
{
    struct cpu *c = (struct cpu *)d;
    want_sample(a);
    if (c->failed)
        return;
    WANT("sample", within(a->slot_of, a->n, a->slots->rows));
    c->ops.sample(c, a);
}

static void decode_inputs(struct device *d, const struct decode_inputs_args *a)
{
    struct cpu *c = (struct cpu *)d;
    const char *op = "decode_inputs";
    want_decode_inputs(a);
    if (c->failed)
        return;
    WANT(op, within(a->slot_of, a->n, a->slots->rows));
    for (int i = 0; i < a->n; i++) {
        int32_t s = i32(a->slot_of)[i], id = 0, row = 0, context = 1, cache = -1;
        const struct sample_slot *slot = (const struct sample_slot *)a->slots->data + s;
        if (slot->done == SAMPLE_RUNNING) {
            int32_t p = slot->position;
            WANT(op, p >= 0 && p / KV_PAGE < a->page_table->cols);
            id = slot->last;
            row = p + i32(a->rope_offset)[s];
            context = p + 1;
            cache = i32(a->page_table)[s * a->page_table->cols + p / KV_PAGE] * KV_PAGE + p % KV_PAGE;
        }
        i32(a->ids)[i] = id;
        i32(a->table_row)[i] = row;
        i32(a->context)[i] = context;
        i32(a->cache_row)[i] = cache;
    }
}

void cpu_front_init(struct device *d)
{
    DEVICE_FILL_FORWARD(d);
}
