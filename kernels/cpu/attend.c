/* attend.c - attention on the fast path: shares out (rows of a sequence) x (key-value heads), or of a token the heads.
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
    PIECES_EACH = 4, /* for a thread, at least: before a piece takes several heads */
    FEW = 8,         /* so many query heads share their keys: several rows even of one token */
    SERIAL_COST = 30000
};

_Static_assert(KV_PAGE == ATTEND_BLOCK, "a block is one page");

/* Rows of one sequence, the first one's index in the batch; key-value heads: several of one row, or one. */
struct piece {
    int32_t seq, row, rows, head, heads;
};

struct attention {
    struct cpu *c;
    const struct attend_isa *isa;
    int most_rows, most_heads; /* of a piece */
    const struct piece *piece;
    int pieces;
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

static struct queries start(const struct attention *a, struct piece p, void *scratch)
{
    int rows = p.rows * a->group, n = rows * p.heads;
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * a->hd;
    struct queries s = room_in(scratch, n, a->hd);
    memset(s.acc, 0, (size_t)(n * s.width) * sizeof *s.acc);
    for (int r = 0; r < n; r++) {
        int head = (p.head + r / rows) * a->group + r % a->group;
        memcpy(s.q + r * s.width, a->qkv + (p.row + r % rows / a->group) * width + (int64_t)head * a->hd,
               (size_t)a->hd * sizeof *s.q);
        s.max[r] = -INFINITY;
        s.sum[r] = 0;
    }
    return s;
}

/* Which positions of block b each row sees, the first row being at `first`. The rows *begin .. *end - 1 of the piece
 * see any: one range, because lo and hi rise. A row is queried by n heads. */
static void look(const struct attention *a, const struct queries *s, int rows, int n, int length, int first, int b,
                 int *begin, int *end)
{
    *begin = *end = 0;
    for (int r = 0; r < rows; r++) {
        int lo, hi;
        sees(a, length, first + r, &lo, &hi);
        lo = max_int(lo - b * ATTEND_BLOCK, 0);
        hi = min_int(hi - b * ATTEND_BLOCK, ATTEND_BLOCK);
        *begin += lo >= hi && *end == 0;
        *end = lo < hi ? r + 1 : *end;
        for (int h = 0; h < n; h++) {
            s->lo[r * n + h] = lo;
            s->hi[r * n + h] = hi;
        }
    }
}

static int length_of(const struct attention *a, struct piece p)
{
    return a->context ? a->context[p.seq] : a->begin[p.seq + 1] - a->begin[p.seq];
}

/* Position of the piece's first row. */
static int position_of(const struct attention *a, struct piece p)
{
    return length_of(a, p) - (a->begin[p.seq + 1] - p.row);
}

/* The piece's keys and values in block b. */
static int64_t at_block(const struct attention *a, struct piece p, int b)
{
    return block_row(a, p.seq, b) * a->stride + (int64_t)p.head * a->hd;
}

/* What is probably read after piece i: threads keep step. */
static int64_t at_next_piece(const struct attention *a, int i)
{
    int from, to;
    struct piece p = a->piece[min_int(i + a->c->threads, a->pieces - 1)];
    sees(a, length_of(a, p), position_of(a, p), &from, &to);
    return at_block(a, p, from / ATTEND_BLOCK);
}

static void attend_piece(void *arg, int i, int thread)
{
    const struct attention *a = arg;
    struct piece p = a->piece[i];
    int hd = a->hd, n = p.heads * a->group; /* heads that query a row */
    int length = length_of(a, p), first = position_of(a, p);
    struct queries s = start(a, p, a->c->scratch[thread].p);
    int from, to, all_from, all_to, begin = 0, end = 0;
    bool all = false; /* the rows saw the last block whole */
    sees(a, length, first, &from, &all_to);
    sees(a, length, first + p.rows - 1, &all_from, &to);
    for (int b = from / ATTEND_BLOCK; b * ATTEND_BLOCK < to; b++) {
        bool more = (b + 1) * ATTEND_BLOCK < to;
        int64_t at = at_block(a, p, b), next = more ? at_block(a, p, b + 1) : at_next_piece(a, i);
        bool whole = all_from <= b * ATTEND_BLOCK && (b + 1) * ATTEND_BLOCK <= all_to;
        if (!all || !whole)
            look(a, &s, p.rows, n, length, first, b, &begin, &end);
        all = whole;
        if (p.rows == 1 && a->group < FEW) {
            a->isa->token(&s, p.heads, a->group, a->k + at, a->v + at, a->k + next, a->v + next, a->stride, hd,
                          a->scale);
            continue;
        }
        if (a->page_table && more)
            fetch_block(a, next);
        if (begin < end)
            a->isa->block(&s, begin * n, end * n, a->k + at, a->v + at, a->stride, hd, a->scale);
    }
    for (int r = 0; r < p.rows * n; r++) {
        int64_t to_row = (int64_t)(p.row + r / n) * a->heads + p.head * a->group + r % n;
        a->isa->finish(a->out + to_row * hd, s.acc + r * s.width, s.sum[r], hd);
        if (a->lse)
            a->lse[to_row] = s.max[r] + logf(s.sum[r]);
    }
}

/* Cuts every sequence's rows into pieces; late rows see most and go first. */
static int cut(struct attention *a, int nseq, int rows, int64_t *cost)
{
    struct cpu *c = a->c;
    size_t room = ((size_t)rows * (size_t)a->kv_heads + 1) * sizeof *a->piece;
    struct piece *piece = cpu_scratch(c, c->threads, room, "attention");
    int n = 0;
    *cost = 0;
    for (int s = 0; s < nseq && piece; s++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): begin is there where there is a sequence */
        int begin = a->begin[s], end = a->begin[s + 1];
        int length = a->context ? a->context[s] : end - begin;
        *cost += (int64_t)(end - begin) * length * a->heads * a->hd;
        for (int row = end; row > begin;) {
            int take = min_int(row - begin, a->most_rows), most = take == 1 ? a->most_heads : 1;
            row -= take;
            for (int head = 0; head < a->kv_heads; head += most)
                piece[n++] = (struct piece){ s, row, take, head, min_int(most, a->kv_heads - head) };
        }
    }
    a->piece = piece;
    return n;
}

static void run(struct cpu *c, struct attention *a, int nseq, int rows)
{
    a->c = c;
    a->isa = attend_isa_of(c);
    a->group = a->heads / a->kv_heads;
    a->most_rows = max_int(1, min_int(CHUNK_ROWS, CHUNK_FLOATS / a->hd) / a->group);
    a->most_heads = a->group < FEW ? min_int(a->most_rows, nseq * a->kv_heads / (PIECES_EACH * c->threads)) : 1;
    a->most_heads = max_int(1, min_int(a->most_heads, a->kv_heads));
    size_t bytes = room_bytes(a->most_rows * a->group, a->hd);
    for (int t = 0; t < c->threads; t++)
        if (!cpu_scratch(c, t, bytes, "attention"))
            return;
    int64_t cost;
    a->pieces = cut(a, nseq, rows, &cost);
    if (!c->failed)
        pool_run(cost < SERIAL_COST ? NULL : c->pool, a->pieces, attend_piece, a);
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
