/* attend.c - attention on the fast path: shares out (rows of a sequence) x (key-value heads).
 *
 * A piece walks the blocks of ATTEND_BLOCK positions in order and passes all its rows over each, while the block's keys
 * and values are in the first cache. A row's own sequence of blocks is the same however rows are grouped, and a block
 * is contiguous in the paged cache as in a packed batch, so both kinds of attention run the same code. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/fast.h"

enum { CHUNK_ROWS = 16, SERIAL_COST = 30000 };

_Static_assert(KV_PAGE == ATTEND_BLOCK, "a block is one page");

struct chunk {
    int32_t seq, row, rows; /* rows of one sequence, the first one's index in the batch */
};

struct attention {
    struct cpu *c;
    attend_block *block;
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

static void finish(float *out, const float *state, int hd)
{
    float sum = state[1];
    for (int i = 0; i < hd; i++)
        out[i] = state[2 + i] / sum;
}

/* A piece's work space in the thread's scratch. */
struct room {
    struct query *row; /* [n] */
    float *p;          /* [n, ATTEND_BLOCK] */
    float *state;      /* [n, hd + 2] */
};

static size_t room_bytes(int n, int hd)
{
    return (size_t)n * (sizeof(struct query) + (size_t)(ATTEND_BLOCK + hd + 2) * sizeof(float));
}

static struct room room_in(void *scratch, int n)
{
    struct room r = { .row = scratch };
    r.p = (float *)(void *)(r.row + n);
    r.state = r.p + n * ATTEND_BLOCK;
    return r;
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

static void attend_piece(void *arg, int i, int thread)
{
    const struct attention *a = arg;
    struct chunk ch = a->chunk[i / a->kv_heads];
    int head = i % a->kv_heads, hd = a->hd, size = hd + 2;
    int length = a->context ? a->context[ch.seq] : a->begin[ch.seq + 1] - a->begin[ch.seq];
    int first = length - (a->begin[ch.seq + 1] - ch.row); /* position of the chunk's first row */
    int64_t q_width = (int64_t)a->heads * hd, width = q_width + 2 * (int64_t)a->kv_heads * hd;
    struct room room = room_in(a->c->scratch[thread].p, ch.rows * a->group);
    memset(room.state, 0, (size_t)(ch.rows * a->group * size) * sizeof *room.state);
    for (int r = 0; r < ch.rows * a->group; r++) {
        struct query *row = &room.row[r];
        row->q = a->qkv + (ch.row + r / a->group) * width + (int64_t)(head * a->group + r % a->group) * hd;
        row->p = room.p + r * ATTEND_BLOCK;
        row->state = room.state + r * size;
        row->state[0] = -INFINITY;
    }
    int from, to, unused;
    sees(a, length, first, &from, &unused);
    sees(a, length, first + ch.rows - 1, &unused, &to);
    for (int b = from / ATTEND_BLOCK; b * ATTEND_BLOCK < to; b++) {
        int64_t at = block_row(a, ch.seq, b) * a->stride + (int64_t)head * hd;
        if (a->page_table && (b + 1) * ATTEND_BLOCK < to)
            fetch_block(a, block_row(a, ch.seq, b + 1) * a->stride + (int64_t)head * hd);
        int begin = 0, end = 0; /* rows that see the block: one range, because lo and hi rise */
        for (int r = 0; r < ch.rows; r++) {
            int lo, hi;
            sees(a, length, first + r, &lo, &hi);
            lo = max_int(lo - b * ATTEND_BLOCK, 0);
            hi = min_int(hi - b * ATTEND_BLOCK, ATTEND_BLOCK);
            begin += lo >= hi && end == 0;
            end = lo < hi ? r + 1 : end;
            for (int h = 0; h < a->group; h++) {
                room.row[r * a->group + h].lo = lo;
                room.row[r * a->group + h].hi = hi;
            }
        }
        if (begin < end)
            a->block(room.row + begin * a->group, (end - begin) * a->group, a->k + at, a->v + at, a->stride, hd,
                     a->scale);
    }
    for (int r = 0; r < ch.rows; r++)
        for (int h = 0; h < a->group; h++) {
            const float *st = room.state + (r * a->group + h) * size;
            finish(a->out + (ch.row + r) * q_width + (int64_t)(head * a->group + h) * hd, st, hd);
            if (a->lse)
                a->lse[(int64_t)(ch.row + r) * a->heads + head * a->group + h] = st[0] + logf(st[1]);
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
            int take = min_int(row - begin, CHUNK_ROWS);
            row -= take;
            chunk[n++] = (struct chunk){ s, row, take };
        }
    }
    a->chunk = chunk;
    return n;
}

static attend_block *block_of(const struct cpu *c)
{
#if defined(__x86_64__)
    if (c->isa == CPU_AVX512)
        return attend_block_avx512;
    if (c->isa == CPU_AVX2)
        return attend_block_avx2;
#endif
    (void)c;
    return attend_block_base;
}

static void run(struct cpu *c, struct attention *a, int nseq, int rows)
{
    a->c = c;
    a->block = block_of(c);
    a->group = a->heads / a->kv_heads;
    size_t bytes = room_bytes(CHUNK_ROWS * a->group, a->hd);
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
