/* attend.c - attention on the fast path: shares out (rows of a sequence) x (key-value heads).
 *
 * A piece walks the blocks of ATTEND_BLOCK positions in order and passes all its rows over each, while the block's keys
 * and values are in the first cache. A row's own sequence of blocks is the same however rows are grouped, and a block
 * is contiguous in the paged cache as in a packed batch, so both kinds of attention run the same code. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/fast.h"

enum {
    CHUNK_FLOATS = 4096, /* of queries that pass over a block together: they and their sums stay in the first cache */
    CHUNK_ROWS = 64,
    SERIAL_COST = 30000
};

_Static_assert(KV_PAGE == ATTEND_BLOCK, "a block is one page");

struct chunk {
    int32_t seq, row, rows; /* rows of one sequence, the first one's index in the batch */
};

struct attention {
    struct cpu *c;
    const struct attend_isa *isa;
    int chunk_rows;
    const struct chunk *chunk;
    float *out;
    const float *qkv, *k, *v; /* k, v: head 0, row 0 */
    int64_t stride;           /* between rows of k and v */
    const int32_t *begin, *context, *seq_slot, *page_table;
    int64_t max_pages;
    int heads, kv_heads, hd, group, window;
    float scale;
    bool causal;
    float *lse; /* [rows, heads], kept for the way back; or NULL */
};

/* First row of a block of positions, in rows of k and v. */
static int64_t block_row(const struct attention *a, int seq, int block)
{
    if (!a->page_table)
        return a->begin[seq] + (int64_t)block * ATTEND_BLOCK;
    return (int64_t)a->page_table[a->seq_slot[seq] * a->max_pages + block] * KV_PAGE;
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Row at `position` sees positions *lo .. *hi - 1. */
static void sees(const struct attention *a, int length, int position, int *lo, int *hi)
{
    *hi = a->causal ? position + 1 : length;
    *lo = a->causal && a->window > 0 ? max_int(0, position - a->window + 1) : 0;
}

/* ---- a piece's work space in the thread's scratch, for n rows times heads ---- */

static int64_t width_of(int hd)
{
    return (hd + 15) & ~15; /* whole cache lines */
}

static size_t room_bytes(int n, int hd)
{
    int64_t floats = (int64_t)hd * ATTEND_BLOCK + n * (ATTEND_BLOCK + 2 * width_of(hd) + 5);
    return (size_t)floats * sizeof(float);
}

static struct queries room_in(void *scratch, int n, int hd)
{
    struct queries s = { .turned = scratch, .width = width_of(hd) };
    s.p = s.turned + (int64_t)hd * ATTEND_BLOCK;
    s.q = s.p + (int64_t)n * ATTEND_BLOCK;
    s.acc = s.q + n * s.width;
    s.max = s.acc + n * s.width;
    s.sum = s.max + n;
    s.decay = s.sum + n;
    s.lo = (int32_t *)(void *)(s.decay + n);
    s.hi = s.lo + n;
    return s;
}

/* Asks for a block's keys and values of one head: short rows, `stride` apart, which the hardware does not guess. */
static void fetch_block(const struct attention *a, int64_t at)
{
    for (int j = 0; j < ATTEND_BLOCK; j++, at += a->stride)
        for (int i = 0; i < a->hd; i += 16) {
            __builtin_prefetch(a->k + at + i);
            __builtin_prefetch(a->v + at + i);
        }
}

static struct queries start(const struct attention *a, struct chunk ch, int head, void *scratch)
{
    int n = ch.rows * a->group;
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * a->hd;
    struct queries s = room_in(scratch, n, a->hd);
    memset(s.acc, 0, (size_t)(n * s.width) * sizeof *s.acc);
    for (int r = 0; r < n; r++) {
        memcpy(s.q + r * s.width,
               a->qkv + (ch.row + r / a->group) * width + (int64_t)(head * a->group + r % a->group) * a->hd,
               (size_t)a->hd * sizeof *s.q);
        s.max[r] = -INFINITY;
        s.sum[r] = 0;
    }
    return s;
}

/* Which positions of block b each row sees, the first row being at `first`. The rows *begin .. *end - 1 of the chunk
 * see any: one range, because lo and hi rise. */
static void look(const struct attention *a, const struct queries *s, int rows, int length, int first, int b, int *begin,
                 int *end)
{
    *begin = *end = 0;
    for (int r = 0; r < rows; r++) {
        int lo, hi;
        sees(a, length, first + r, &lo, &hi);
        lo = max_int(lo - b * ATTEND_BLOCK, 0);
        hi = min_int(hi - b * ATTEND_BLOCK, ATTEND_BLOCK);
        *begin += lo >= hi && *end == 0;
        *end = lo < hi ? r + 1 : *end;
        for (int h = 0; h < a->group; h++) {
            s->lo[r * a->group + h] = lo;
            s->hi[r * a->group + h] = hi;
        }
    }
}

static void attend_piece(void *arg, int i, int thread)
{
    const struct attention *a = arg;
    struct chunk ch = a->chunk[i / a->kv_heads];
    int head = i % a->kv_heads, hd = a->hd;
    int length = a->context ? a->context[ch.seq] : a->begin[ch.seq + 1] - a->begin[ch.seq];
    int first = length - (a->begin[ch.seq + 1] - ch.row); /* position of the chunk's first row */
    struct queries s = start(a, ch, head, a->c->scratch[thread].p);
    int from, to, all_from, all_to, begin = 0, end = 0;
    bool all = false; /* the rows saw the last block whole */
    sees(a, length, first, &from, &all_to);
    sees(a, length, first + ch.rows - 1, &all_from, &to);
    for (int b = from / ATTEND_BLOCK; b * ATTEND_BLOCK < to; b++) {
        int64_t at = block_row(a, ch.seq, b) * a->stride + (int64_t)head * hd;
        if (a->page_table && (b + 1) * ATTEND_BLOCK < to)
            fetch_block(a, block_row(a, ch.seq, b + 1) * a->stride + (int64_t)head * hd);
        bool whole = all_from <= b * ATTEND_BLOCK && (b + 1) * ATTEND_BLOCK <= all_to;
        if (!all || !whole)
            look(a, &s, ch.rows, length, first, b, &begin, &end);
        all = whole;
        if (begin < end)
            a->isa->block(&s, begin * a->group, end * a->group, a->k + at, a->v + at, a->stride, hd, a->scale);
    }
    for (int r = 0; r < ch.rows * a->group; r++) {
        int64_t to_row = (int64_t)(ch.row + r / a->group) * a->heads + head * a->group + r % a->group;
        a->isa->finish(a->out + to_row * hd, s.acc + r * s.width, s.sum[r], hd);
        if (a->lse)
            a->lse[to_row] = s.max[r] + logf(s.sum[r]);
    }
}

/* Cuts every sequence's rows into chunks; late chunks see most and go first. */
static int cut(struct attention *a, int nseq, int rows, int64_t *cost)
{
    struct cpu *c = a->c;
    struct chunk *chunk = cpu_scratch(c, c->threads, ((size_t)rows + 1) * sizeof *chunk, "attention");
    int n = 0;
    *cost = 0;
    for (int s = 0; s < nseq && chunk; s++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): begin is there where there is a sequence */
        int begin = a->begin[s], end = a->begin[s + 1];
        int length = a->context ? a->context[s] : end - begin;
        *cost += (int64_t)(end - begin) * length * a->heads * a->hd;
        for (int row = end; row > begin;) {
            int take = min_int(row - begin, a->chunk_rows);
            row -= take;
            chunk[n++] = (struct chunk){ s, row, take };
        }
    }
    a->chunk = chunk;
    return n;
}

static void run(struct cpu *c, struct attention *a, int nseq, int rows)
{
    a->c = c;
    a->isa = attend_isa_of(c);
    a->group = a->heads / a->kv_heads;
    a->chunk_rows = max_int(1, min_int(CHUNK_ROWS, CHUNK_FLOATS / a->hd) / a->group);
    size_t bytes = room_bytes(a->chunk_rows * a->group, a->hd);
    for (int t = 0; t < c->threads; t++)
        if (!cpu_scratch(c, t, bytes, "attention"))
            return;
    int64_t cost;
    int chunks = cut(a, nseq, rows, &cost);
    if (!c->failed)
        pool_run(cost < SERIAL_COST ? NULL : c->pool, chunks * a->kv_heads, attend_piece, a);
}

void fast_attend(struct cpu *c, const struct attend_args *x)
{
    struct attention a = { .out = f32(x->out),
                           .qkv = f32(x->qkv),
                           .k = f32(x->k),
                           .v = f32(x->v),
                           .stride = (int64_t)x->kv_heads * x->head_dim,
                           .begin = i32(x->q_begin),
                           .context = i32(x->context),
                           .seq_slot = i32(x->seq_slot),
                           .page_table = i32(x->page_table),
                           .max_pages = x->page_table->cols,
                           .heads = x->heads,
                           .kv_heads = x->kv_heads,
                           .hd = x->head_dim,
                           .window = x->window,
                           .scale = x->scale,
                           .causal = true };
    run(c, &a, x->nseq, x->rows);
}

void fast_attend_keep(struct cpu *c, const struct attend_varlen_args *x, float *lse)
{
    int64_t q = (int64_t)x->heads * x->head_dim, kv = (int64_t)x->kv_heads * x->head_dim;
    struct attention a = { .out = f32(x->out),
                           .qkv = f32(x->qkv),
                           .k = f32(x->qkv) + q,
                           .v = f32(x->qkv) + q + kv,
                           .stride = q + 2 * kv,
                           .begin = i32(x->begin),
                           .heads = x->heads,
                           .kv_heads = x->kv_heads,
                           .hd = x->head_dim,
                           .window = x->window,
                           .scale = x->scale,
                           .causal = x->causal,
                           .lse = lse };
    run(c, &a, x->nseq, x->rows);
}

void fast_attend_varlen(struct cpu *c, const struct attend_varlen_args *a)
{
    fast_attend_keep(c, a, NULL);
}
