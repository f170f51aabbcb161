/* front.c - the operations of struct device on the CPU: checks shapes, then calls the table of the path.
 *
 * A wrong shape or an index outside its table is a bug above us and aborts here, where the operation's name is known;
 * behind this file nothing is checked again. */
#include "kernels/cpu/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"

#define WANT(op, cond)                                                                                                 \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            cpu_bug(op, "wrong shape, type or index: " #cond);                                                         \
    } while (0)

static bool is(const struct tensor *t, enum dtype dtype, int64_t rows, int64_t cols)
{
    return t && t->dtype == dtype && t->rows >= rows && t->cols == cols;
}

static bool holds(const struct tensor *t, enum dtype dtype, int64_t n) /* a list: its shape does not matter */
{
    return t && t->dtype == dtype && t->rows * t->cols >= n;
}

static bool within(const struct tensor *t, int n, int64_t limit)
{
    const int32_t *v = i32(t);
    for (int i = 0; i < n; i++)
        if (v[i] < 0 || v[i] >= limit)
            return false;
    return true;
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
    WANT(op, is(y, DTYPE_F32, rows, table->cols));
    WANT(op, holds(ids, DTYPE_I32, rows));
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
    WANT("linear", is(y, DTYPE_F32, rows, w->rows));
    WANT("linear", is(x, DTYPE_F32, rows, w->cols));
    WANT("linear", !bias || holds(bias, DTYPE_F32, w->rows));
    WANT("linear", y->data != x->data);
    if (!c->failed && rows > 0) /* packing at first use is the one change a const weight knows */
        c->ops.linear(c, y, x, (struct weight *)(uintptr_t)w, bias, rows, add);
}

static void linear_block(struct device *d, struct tensor *y, const struct tensor *x, const struct weight *w, int row,
                         int rows, int col, int cols)
{
    struct cpu *c = (struct cpu *)d;
    WANT("linear_block", row >= 0 && rows >= 0 && is(y, DTYPE_F32, row + rows, w->rows));
    WANT("linear_block", is(x, DTYPE_F32, row + rows, w->cols) && y->data != x->data);
    WANT("linear_block", col >= 0 && cols >= 0 && col <= w->rows - cols);
    if (!c->failed && rows > 0 && cols > 0) /* packing, as in linear */
        c->ops.linear_block(c, y, x, (struct weight *)(uintptr_t)w, row, rows, col, cols);
}

static void rmsnorm(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *g, float eps,
                    int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    WANT("rmsnorm", is(y, DTYPE_F32, rows, cols) && is(x, DTYPE_F32, rows, cols));
    WANT("rmsnorm", holds(g, DTYPE_F32, cols));
    if (!c->failed)
        c->ops.rmsnorm(c, f32(y), f32(x), f32(g), eps, rows, cols);
}

static void layernorm(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *g,
                      const struct tensor *b, float eps, int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    WANT("layernorm", is(y, DTYPE_F32, rows, cols) && is(x, DTYPE_F32, rows, cols));
    WANT("layernorm", holds(g, DTYPE_F32, cols) && holds(b, DTYPE_F32, cols));
    if (!c->failed)
        c->ops.layernorm(c, f32(y), f32(x), f32(g), f32(b), eps, rows, cols);
}

static void add(struct device *d, struct tensor *y, const struct tensor *x, int64_t n)
{
    struct cpu *c = (struct cpu *)d;
    WANT("add", holds(y, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
    if (!c->failed)
        c->ops.add(c, f32(y), f32(x), n);
}

static void silu_mul(struct device *d, struct tensor *y, const struct tensor *gate_up, int rows, int cols)
{
    struct cpu *c = (struct cpu *)d;
    WANT("silu_mul", is(y, DTYPE_F32, rows, cols) && is(gate_up, DTYPE_F32, rows, 2 * (int64_t)cols));
    if (!c->failed)
        c->ops.silu_mul(c, f32(y), f32(gate_up), rows, cols);
}

static void gelu(struct device *d, struct tensor *y, const struct tensor *x, int64_t n)
{
    struct cpu *c = (struct cpu *)d;
    WANT("gelu", holds(y, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
    if (!c->failed)
        c->ops.gelu(c, f32(y), f32(x), n);
}

static void gather_rows(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *index, int n,
                        int cols)
{
    struct cpu *c = (struct cpu *)d;
    WANT("gather_rows", is(y, DTYPE_F32, n, cols) && is(x, DTYPE_F32, 0, cols));
    WANT("gather_rows", holds(index, DTYPE_I32, n));
    if (c->failed)
        return;
    WANT("gather_rows", within(index, n, x->rows));
    c->ops.gather_rows(c, f32(y), f32(x), i32(index), n, cols);
}

static void rope(struct device *d, const struct rope_args *a)
{
    struct cpu *c = (struct cpu *)d;
    int64_t kv = (int64_t)a->kv_heads * a->head_dim;
    WANT("rope", is(a->qkv, DTYPE_F32, a->rows, (int64_t)a->heads * a->head_dim + 2 * kv));
    WANT("rope", a->rotary >= 0 && a->rotary % 2 == 0 && a->rotary <= a->head_dim);
    WANT("rope", !a->q_norm || holds(a->q_norm, DTYPE_F32, a->head_dim));
    WANT("rope", !a->k_norm || holds(a->k_norm, DTYPE_F32, a->head_dim));
    WANT("rope", is(a->cos, DTYPE_F32, 0, a->rotary / 2) && is(a->sin, DTYPE_F32, a->cos->rows, a->rotary / 2));
    WANT("rope", holds(a->table_row, DTYPE_I32, a->rows));
    WANT("rope", !a->k_cache == !a->v_cache);
    if (c->failed)
        return;
    WANT("rope", within(a->table_row, a->rows, a->cos->rows));
    if (a->k_cache) {
        WANT("rope", is(a->k_cache, DTYPE_F32, 0, kv) && is(a->v_cache, DTYPE_F32, a->k_cache->rows, kv));
        WANT("rope", holds(a->cache_row, DTYPE_I32, a->rows) && within(a->cache_row, a->rows, a->k_cache->rows));
    }
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
    int64_t kv = (int64_t)a->kv_heads * a->head_dim, q = (int64_t)a->heads * a->head_dim;
    WANT("attend", a->kv_heads > 0 && a->heads % a->kv_heads == 0);
    WANT("attend", is(a->out, DTYPE_F32, a->rows, q) && is(a->qkv, DTYPE_F32, a->rows, q + 2 * kv));
    WANT("attend", is(a->k, DTYPE_F32, 0, kv) && is(a->v, DTYPE_F32, a->k->rows, kv));
    WANT("attend", holds(a->seq_slot, DTYPE_I32, a->nseq) && holds(a->context, DTYPE_I32, a->nseq));
    WANT("attend", holds(a->q_begin, DTYPE_I32, a->nseq + 1) && a->page_table->dtype == DTYPE_I32);
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
    int64_t kv = (int64_t)a->kv_heads * a->head_dim, q = (int64_t)a->heads * a->head_dim;
    WANT("attend_varlen", a->kv_heads > 0 && a->heads % a->kv_heads == 0);
    WANT("attend_varlen", is(a->out, DTYPE_F32, a->rows, q) && is(a->qkv, DTYPE_F32, a->rows, q + 2 * kv));
    WANT("attend_varlen", holds(a->begin, DTYPE_I32, a->nseq + 1));
    if (c->failed || a->rows == 0)
        return;
    WANT("attend_varlen", rising(a->begin, a->nseq, a->rows));
    c->ops.attend_varlen(c, a);
}

static void logprobs(struct device *d, struct tensor *logprob, struct tensor *entropy, struct tensor *best,
                     const struct tensor *logits, const struct tensor *target, int n, int vocab)
{
    struct cpu *c = (struct cpu *)d;
    WANT("logprobs", is(logits, DTYPE_F32, n, vocab) && vocab > 0);
    WANT("logprobs", holds(target, DTYPE_I32, n) && holds(logprob, DTYPE_F32, n));
    WANT("logprobs", !entropy || holds(entropy, DTYPE_F32, n));
    WANT("logprobs", !best || holds(best, DTYPE_I32, n));
    if (c->failed)
        return;
    for (int i = 0; i < n; i++)
        WANT("logprobs", i32(target)[i] >= -1 && i32(target)[i] < vocab);
    c->ops.logprobs(c, f32(logprob), f32(entropy), i32(best), f32(logits), i32(target), n, vocab);
}

static void sample(struct device *d, const struct sample_args *a)
{
    struct cpu *c = (struct cpu *)d;
    WANT("sample", is(a->logits, DTYPE_F32, a->n, a->vocab) && a->vocab > 0);
    WANT("sample", is(a->slots, DTYPE_U8, 0, sizeof(struct sample_slot)));
    WANT("sample", holds(a->slot_of, DTYPE_I32, a->n) && holds(a->out_id, DTYPE_I32, a->n));
    WANT("sample", !a->out_logprob || holds(a->out_logprob, DTYPE_F32, a->n));
    WANT("sample", !a->counts || is(a->counts, DTYPE_I32, a->slots->rows, a->vocab));
    if (c->failed)
        return;
    WANT("sample", within(a->slot_of, a->n, a->slots->rows));
    c->ops.sample(c, a);
}

static void decode_inputs(struct device *d, const struct decode_inputs_args *a)
{
    struct cpu *c = (struct cpu *)d;
    const char *op = "decode_inputs";
    WANT(op, is(a->slots, DTYPE_U8, 0, sizeof(struct sample_slot)));
    WANT(op, holds(a->slot_of, DTYPE_I32, a->n) && holds(a->rope_offset, DTYPE_I32, a->slots->rows));
    WANT(op, a->page_table->dtype == DTYPE_I32 && a->page_table->rows >= a->slots->rows);
    WANT(op, holds(a->ids, DTYPE_I32, a->n) && holds(a->table_row, DTYPE_I32, a->n));
    WANT(op, holds(a->context, DTYPE_I32, a->n) && holds(a->cache_row, DTYPE_I32, a->n));
    if (c->failed)
        return;
    WANT(op, within(a->slot_of, a->n, a->slots->rows));
    for (int i = 0; i < a->n; i++) {
        int32_t s = i32(a->slot_of)[i], id = 0, row = 0, context = 1, cache = 0;
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
    d->embed = embed;
    d->linear = linear;
    d->linear_block = linear_block;
    d->rmsnorm = rmsnorm;
    d->layernorm = layernorm;
    d->add = add;
    d->add_row = add_row;
    d->silu_mul = silu_mul;
    d->gelu = gelu;
    d->gather_rows = gather_rows;
    d->rope = rope;
    d->attend = attend;
    d->attend_varlen = attend_varlen;
    d->logprobs = logprobs;
    d->sample = sample;
    d->decode_inputs = decode_inputs;
}
