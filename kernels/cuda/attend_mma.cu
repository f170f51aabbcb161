/* attend_mma.cu - attention over a paged bf16 or e4m3 cache on the tensor cores, for prefill and for decoding.
 *
 * Rows are packed (token, head of the group): with four query heads to a key head, four of the sixteen rows of an mma
 * tile come from one token, so decoding fills the tile as far as it can and reads each key once for its whole group
 * (PackGQA of FlashAttention-3). A warp holds 16 packed rows; a page of keys and values at a time comes in by cp.async,
 * two pages ahead of the one in use. Softmax is that of FlashAttention-2: running maximum and sum in float, p rounded
 * to bf16 for the product with V.
 *
 * Positions are summed in splits of ATTEND_SPLIT counted from position 0, split after split. Decoding gives each split
 * to a block of its own and joins them in a second kernel; prefill walks the splits in one block and joins them in
 * registers with the same function. A tile or split in which a row sees nothing leaves the row's bits alone. So a row's
 * result depends neither on its neighbours nor on the path, and prefill equals decode bit for bit.
 *
 * Pages of e4m3 come in as they are, half as many bytes, and are widened to bf16, which is exact, in shared memory. */
#include "kernels/cuda/ops.h"

enum {
    TILE_KEYS = KV_PAGE,
    TILE_ROWS = 16,
    STAGES = 3,
    CHUNK = 16, /* bytes of a copy, and what lies behind each row of shared memory: eight rows of an ldmatrix then lie
                   in different banks */
    PREFILL_WARPS = 4,
    DECODE_WARPS = 1, /* small blocks, many of them: what counts is how many pages are under way on the chip */
    COMBINE_WARPS = 4,
    SPLIT_TILES = ATTEND_SPLIT / TILE_KEYS,
};

struct part_buffers {
    float *o;  /* [rows, heads, splits, head_dim] not divided by l */
    float *ml; /* [rows, heads, splits, 2] maximum of the raw scores, sum */
    int splits;
};

/* Where a block's rows are: tile number `tile` of all sequences' tiles, one sequence behind the other. */
struct rows_at {
    int slot, context, tokens, first_token, first_row; /* first_row: packed, within the sequence */
    bool any;
};

static __device__ __forceinline__ rows_at find_rows(const attend_op &o, int group, int rows_per_tile)
{
    int tile = static_cast<int>(blockIdx.x);
    for (int s = 0; s < o.nseq; s++) {
        int tokens = o.begin[s + 1] - o.begin[s], tiles = (tokens * group + rows_per_tile - 1) / rows_per_tile;
        if (tile < tiles)
            return rows_at{ o.seq_slot[s], o.context[s], tokens, o.begin[s], tile * rows_per_tile, true };
        tile -= tiles;
    }
    return rows_at{ 0, 0, 0, 0, 0, false };
}

/* One packed row of a warp's tile. */
struct row_of {
    int position; /* -1: padding */
    int first;    /* it sees first .. position */
    int token, head;
};

static __device__ __forceinline__ row_of row_at(const attend_op &o, const rows_at &at, int group, int kv_head, int r)
{
    int token = r / group;
    if (token >= at.tokens)
        return row_of{ -1, 0, 0, 0 };
    int position = at.context - at.tokens + token;
    int first = o.window > 0 && position - o.window + 1 > 0 ? position - o.window + 1 : 0;
    return row_of{ position, first, at.first_token + token, kv_head * group + r % group };
}

/* Joins what a row has so far (most, sum) with the next split (m, l): factors for both sides' sums of values. */
static __device__ __forceinline__ void join(float &most, float &sum, float m, float l, float scale, float &keep,
                                            float &take)
{
    float now = fmaxf(most, m);
    keep = most == -INFINITY ? 0 : expf((most - now) * scale);
    take = m == -INFINITY ? 0 : expf((m - now) * scale);
    sum = fmaf(l, take, sum * keep);
    most = now;
}

static __device__ __forceinline__ float joined(float so_far, float keep, float next, float take)
{
    return fmaf(next, take, so_far * keep);
}

template <int HD, class C> struct stage_memory {
    static const int WIDTH = HD + CHUNK / sizeof(C);
    C k[TILE_KEYS][WIDTH], v[TILE_KEYS][WIDTH];
};
/* Where a page is multiplied from: bf16 where it came in. */
template <int HD, class C> struct wide_memory {
    stage_memory<HD, bf16> page;
};
template <int HD> struct wide_memory<HD, bf16> {
};
template <int HD, int WARPS, class C> struct block_memory {
    stage_memory<HD, C> stage[STAGES];
    wide_memory<HD, C> wide;
    bf16 q[TILE_ROWS * WARPS][HD + CHUNK / sizeof(bf16)];
};

/* Page `tile` of the sequence; places behind the context become zeros, whatever the cache holds there. */
template <int HD, int WARPS, class C>
static __device__ __forceinline__ void load_tile(stage_memory<HD, C> *to, const attend_op &o, const int32_t *pages,
                                                 int tile, int context, int kv_head)
{
    if (PLANTED(PLANT_PAGE) && tile + 1 < o.max_pages)
        pages++;
    int64_t row0 = static_cast<int64_t>(pages[tile]) * KV_PAGE;
    constexpr int N = CHUNK / sizeof(C), CHUNKS = HD / N;
    for (int i = static_cast<int>(threadIdx.x); i < TILE_KEYS * CHUNKS; i += WARPS * WARP_LANES) {
        int r = i / CHUNKS, c = i % CHUNKS * N;
        int64_t from = ((row0 + r) * o.kv_heads + kv_head) * HD + c;
        bool valid = tile * TILE_KEYS + r < context;
        copy16_async(&to->k[r][c], static_cast<const C *>(o.k) + from, valid);
        copy16_async(&to->v[r][c], static_cast<const C *>(o.v) + from, valid);
    }
}

/* Four numbers; not 0: some are NaN, and come out otherwise. */
static __device__ __forceinline__ uint32_t widen_four(bf16 *to, const f8 *from)
{
    uint32_t four = *reinterpret_cast<const uint32_t *>(from), *pair = reinterpret_cast<uint32_t *>(to);
    uint32_t even = bf16_pair_of_f8(four & 0x00ff00ffu), odd = bf16_pair_of_f8(four >> 8 & 0x00ff00ffu);
    pair[0] = (even & 0xffffu) | odd << 16;
    pair[1] = even >> 16 | (odd & 0xffff0000u);
    return f8_nans(four);
}

static __device__ __forceinline__ void widen_exactly(bf16 *to, const f8 *from)
{
    for (int i = 0; i < 4; i++)
        to[i] = bf16_of_float(float_of_f8(from[i]));
}

/* The page that has come, as bf16, for the whole block. */
template <int HD, int WARPS>
static __device__ __forceinline__ const stage_memory<HD, bf16> *widened(block_memory<HD, WARPS, bf16> *mem, int stage)
{
    return &mem->stage[stage];
}
template <int HD, int WARPS>
static __device__ __forceinline__ const stage_memory<HD, bf16> *widened(block_memory<HD, WARPS, f8> *mem, int stage)
{
    const stage_memory<HD, f8> *from = &mem->stage[stage];
    stage_memory<HD, bf16> *to = &mem->wide.page;
    uint32_t nans = 0;
    for (int i = static_cast<int>(threadIdx.x); i < TILE_KEYS * (HD / 4); i += WARPS * WARP_LANES) {
        int r = i / (HD / 4), c = i % (HD / 4) * 4;
        nans |= widen_four(&to->k[r][c], &from->k[r][c]) | widen_four(&to->v[r][c], &from->v[r][c]);
    }
    for (int i = static_cast<int>(threadIdx.x); nans && i < TILE_KEYS * (HD / 4); i += WARPS * WARP_LANES) {
        int r = i / (HD / 4), c = i % (HD / 4) * 4;
        widen_exactly(&to->k[r][c], &from->k[r][c]);
        widen_exactly(&to->v[r][c], &from->v[r][c]);
    }
    SYNC_BLOCK();
    return to;
}

/* The running state of a lane's two rows (g and g + 8 of the warp's tile). */
template <int HD> struct state {
    float o[HD / 8][4];
    float m[2], l[2]; /* l: this lane's share */
};

template <int HD> static __device__ __forceinline__ void state_clear(state<HD> &x)
{
    for (int i = 0; i < 2; i++) {
        x.m[i] = -INFINITY;
        x.l[i] = 0;
    }
    UNROLL
    for (int d = 0; d < HD / 8; d++)
        for (int i = 0; i < 4; i++)
            x.o[d][i] = 0;
}

template <int HD>
static __device__ __forceinline__ void attend_tile(state<HD> &x, const stage_memory<HD, bf16> *in,
                                                   const uint32_t q[HD / 16][4], const row_of row[2], int tile,
                                                   float scale)
{
    int lane = lane_id(), t = lane % 4;
    float s[TILE_KEYS / 8][4];
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++)
            s[n][i] = 0;
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n += 2) {
        UNROLL
        for (int k = 0; k < HD / 16; k++) {
            uint32_t b[4];
            int r = (PLANTED(PLANT_LANE) ? lane ^ 1 : lane) % 8;
            ldmatrix4(b, &in->k[n * 8 + r + lane / 16 * 8][k * 16 + lane / 8 % 2 * 8]);
            mma_bf16(s[n], q[k], b[0], b[1]);
            mma_bf16(s[n + 1], q[k], b[2], b[3]);
        }
    }
    float most[2] = { -INFINITY, -INFINITY }, keep[2];
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++) {
            int key = tile * TILE_KEYS + n * 8 + 2 * t + i % 2;
            const row_of &r = row[i / 2];
            if (key < r.first || key > r.position + (PLANTED(PLANT_MASK) && r.position >= 0))
                s[n][i] = -INFINITY;
            most[i / 2] = fmaxf(most[i / 2], s[n][i]);
        }
    for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 1));
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 2));
        most[i] = fmaxf(most[i], x.m[i]);
        keep[i] = x.m[i] == -INFINITY ? 0 : expf((x.m[i] - most[i]) * scale);
        x.m[i] = most[i];
    }
    float sum[2] = { 0, 0 };
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++) { /* a difference times scale: nothing to fuse one way here, another way there */
            s[n][i] = s[n][i] == -INFINITY ? 0 : expf((s[n][i] - most[i / 2]) * scale);
            sum[i / 2] += s[n][i];
        }
    for (int i = 0; i < 2; i++)
        x.l[i] = fmaf(x.l[i], keep[i], sum[i]);
    UNROLL
    for (int d = 0; d < HD / 8; d++)
        for (int i = 0; i < 4; i++)
            x.o[d][i] *= keep[i / 2];
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n += 2) { /* the C fragments of two score tiles are the A fragment of one of p */
        uint32_t p[4] = { bf16_pair(s[n][0], s[n][1]), bf16_pair(s[n][2], s[n][3]), bf16_pair(s[n + 1][0], s[n + 1][1]),
                          bf16_pair(s[n + 1][2], s[n + 1][3]) };
        UNROLL
        for (int d = 0; d < HD / 8; d += 2) {
            uint32_t b[4];
            ldmatrix4_trans(b, &in->v[n * 8 + lane % 16][d * 8 + lane / 16 * 8]);
            mma_bf16(x.o[d], p, b[0], b[1]);
            mma_bf16(x.o[d + 1], p, b[2], b[3]);
        }
    }
}

static __device__ __forceinline__ void sum_of_row(float l[2])
{
    for (int i = 0; i < 2; i++) {
        l[i] += shuffle_xor(l[i], 1);
        l[i] += shuffle_xor(l[i], 2);
    }
}

template <int HD, int WARPS, bool SPLIT, class C>
static __global__ void __launch_bounds__(WARPS *WARP_LANES) attend_pages(attend_op o, part_buffers parts)
{
    SHARED_DYNAMIC(raw);
    block_memory<HD, WARPS, C> *mem = reinterpret_cast<block_memory<HD, WARPS, C> *>(raw);
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y), lane = lane_id();
    rows_at at = find_rows(o, group, TILE_ROWS * WARPS);
    if (!at.any)
        return;

    /* The pages that any row of this block sees: first .. last-1, within the split. */
    int first_position = at.context - at.tokens + at.first_row / group;
    int last_position = at.context - at.tokens + (at.first_row + TILE_ROWS * WARPS - 1) / group;
    last_position = last_position < at.context ? last_position : at.context - 1;
    int first = o.window > 0 && first_position - o.window + 1 > 0 ? (first_position - o.window + 1) / TILE_KEYS : 0;
    int last = last_position / TILE_KEYS + 1;
    if (SPLIT) {
        int z = static_cast<int>(blockIdx.z);
        first = first > z * SPLIT_TILES ? first : z * SPLIT_TILES;
        last = last < (z + 1) * SPLIT_TILES ? last : (z + 1) * SPLIT_TILES;
        if (first >= last)
            return;
    }
    const int32_t *pages = o.page_table + static_cast<int64_t>(at.slot) * o.max_pages;

    for (int j = 0; j < STAGES - 1; j++) {
        if (first + j < last)
            load_tile<HD, WARPS, C>(&mem->stage[j], o, pages, first + j, at.context, kv_head);
        copy_async_commit();
    }
    int64_t q_width = static_cast<int64_t>(o.heads) * HD, width = q_width + 2 * static_cast<int64_t>(o.kv_heads) * HD;
    for (int i = static_cast<int>(threadIdx.x); i < TILE_ROWS * WARPS * HD; i += WARPS * WARP_LANES) {
        row_of r = row_at(o, at, group, kv_head, at.first_row + i / HD);
        float v = r.position < 0 ? 0 : o.qkv[r.token * width + static_cast<int64_t>(r.head) * HD + i % HD];
        mem->q[i / HD][i % HD] = bf16_of_float(v);
    }
    SYNC_BLOCK();
    uint32_t q[HD / 16][4];
    UNROLL
    for (int k = 0; k < HD / 16; k++)
        ldmatrix4(q[k], &mem->q[warp_id() * TILE_ROWS + lane % 16][k * 16 + lane / 16 * 8]);
    int r0 = at.first_row + warp_id() * TILE_ROWS + lane / 4;
    row_of row[2] = { row_at(o, at, group, kv_head, r0), row_at(o, at, group, kv_head, r0 + 8) };

    state<HD> now, all;
    state_clear(now);
    if (!SPLIT)
        state_clear(all);
    for (int tile = first; tile < last; tile++) {
        int j = tile - first, ahead = tile + STAGES - 1;
        if (!PLANTED(PLANT_NO_WAIT))
            copy_async_wait<STAGES - 2>();
        SYNC_BLOCK(); /* the page has come for everybody, and nobody reads the one before any more */
        if (ahead < last)
            load_tile<HD, WARPS, C>(&mem->stage[(j + (PLANTED(PLANT_NO_REFILL_GUARD) ? 0 : STAGES - 1)) % STAGES], o,
                                    pages, ahead, at.context, kv_head);
        copy_async_commit(); /* also when empty: the wait counts groups */
        attend_tile(now, widened<HD, WARPS>(mem, j % STAGES), q, row, tile, o.scale);
        if (SPLIT || ((tile + 1) % SPLIT_TILES && tile + 1 < last))
            continue;
        sum_of_row(now.l);
        float keep[2], take[2];
        for (int i = 0; i < 2; i++)
            join(all.m[i], all.l[i], now.m[i], now.l[i], o.scale, keep[i], take[i]);
        UNROLL
        for (int d = 0; d < HD / 8; d++)
            for (int i = 0; i < 4; i++)
                all.o[d][i] = joined(all.o[d][i], keep[i / 2], now.o[d][i], take[i / 2]);
        state_clear(now);
    }
    if (SPLIT)
        sum_of_row(now.l);
    for (int i = 0; i < 2; i++) {
        if (row[i].position < 0)
            continue;
        float *to = o.out + row[i].token * q_width + static_cast<int64_t>(row[i].head) * HD;
        if (SPLIT) {
            int64_t at_part = (static_cast<int64_t>(row[i].token) * o.heads + row[i].head) * parts.splits + blockIdx.z;
            to = parts.o + at_part * HD;
            if (lane % 4 == 0) {
                parts.ml[at_part * 2] = now.m[i];
                parts.ml[at_part * 2 + 1] = now.l[i];
            }
        }
        UNROLL
        for (int d = 0; d < HD / 8; d++)
            for (int j = 0; j < 2; j++)
                to[d * 8 + lane % 4 * 2 + j] = SPLIT ? now.o[d][i * 2 + j] : all.o[d][i * 2 + j] / all.l[i];
    }
}

/* A warp joins the splits of one row and head, in order. */
template <int HD>
static __global__ void __launch_bounds__(COMBINE_WARPS *WARP_LANES) attend_combine(attend_op o, part_buffers parts)
{
    constexpr int PER_LANE = (HD + WARP_LANES - 1) / WARP_LANES;
    int64_t item = static_cast<int64_t>(blockIdx.x) * COMBINE_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return;
    int t = static_cast<int>(item / o.heads), s = 0;
    while (o.begin[s + 1] <= t)
        s++;
    int position = o.context[s] - (o.begin[s + 1] - t);
    int seen = o.window > 0 && position - o.window + 1 > 0 ? position - o.window + 1 : 0;
    float most = -INFINITY, sum = 0, out[PER_LANE];
    for (int i = 0; i < PER_LANE; i++)
        out[i] = 0;
    for (int z = seen / ATTEND_SPLIT; z <= position / ATTEND_SPLIT; z++) {
        const float *ml = parts.ml + (item * parts.splits + z) * 2, *from = parts.o + (item * parts.splits + z) * HD;
        float keep, take;
        join(most, sum, ml[0], ml[1], o.scale, keep, take);
        for (int i = 0; i < PER_LANE; i++)
            if (HD >= WARP_LANES || lane_id() < HD)
                out[i] = joined(out[i], keep, from[lane_id() + i * WARP_LANES], take);
    }
    for (int i = 0; i < PER_LANE; i++)
        if (HD >= WARP_LANES || lane_id() < HD)
            o.out[item * HD + lane_id() + i * WARP_LANES] = out[i] / sum;
}

/* ---- choosing ---- */

bool attend_mma_takes(const attend_op &o)
{
    return o.k && o.cache != DTYPE_F32 &&
           (o.head_dim == 16 || o.head_dim == 32 || o.head_dim == 64 || o.head_dim == 128) && o.scale > 0;
}

static int splits_of(const attend_op &o)
{
    return static_cast<int>((static_cast<int64_t>(o.max_pages) * KV_PAGE + ATTEND_SPLIT - 1) / ATTEND_SPLIT);
}

size_t attend_mma_scratch(const attend_op &o, bool decode)
{
    size_t parts = static_cast<size_t>(o.rows) * static_cast<size_t>(o.heads) * static_cast<size_t>(splits_of(o));
    return decode ? parts * static_cast<size_t>(o.head_dim + 2) * sizeof(float) : 0;
}

template <int HD, int WARPS, bool SPLIT, class C>
static void launch_pages(stream_t st, const attend_op &o, part_buffers parts)
{
    int packed = o.rows * (o.heads / o.kv_heads), tile = TILE_ROWS * WARPS;
    /* every sequence may leave one tile unfilled; blocks that find no rows end at once */
    dim3 grid(static_cast<unsigned>(packed / tile + o.nseq), static_cast<unsigned>(o.kv_heads),
              static_cast<unsigned>(SPLIT ? parts.splits : 1));
    ALLOW_SHARED((attend_pages<HD, WARPS, SPLIT, C>), sizeof(block_memory<HD, WARPS, C>));
    LAUNCH((attend_pages<HD, WARPS, SPLIT, C>), grid, WARPS * WARP_LANES, sizeof(block_memory<HD, WARPS, C>), st, o,
           parts);
}

template <int HD, class C> static void launch_attend(stream_t st, const attend_op &o, bool decode, part_buffers parts)
{
    if (!decode) {
        launch_pages<HD, PREFILL_WARPS, false, C>(st, o, parts);
        return;
    }
    int64_t items = static_cast<int64_t>(o.rows) * o.heads;
    launch_pages<HD, DECODE_WARPS, true, C>(st, o, parts);
    LAUNCH((attend_combine<HD>), static_cast<unsigned>((items + COMBINE_WARPS - 1) / COMBINE_WARPS),
           COMBINE_WARPS * WARP_LANES, 0, st, o, parts);
}

template <class C> static void attend_cache(stream_t st, const attend_op &o, bool decode, part_buffers parts)
{
    if (o.head_dim == 16) /* the golden checkpoints' */
        launch_attend<16, C>(st, o, decode, parts);
    else if (o.head_dim == 32)
        launch_attend<32, C>(st, o, decode, parts);
    else if (o.head_dim == 64)
        launch_attend<64, C>(st, o, decode, parts);
    else
        launch_attend<128, C>(st, o, decode, parts);
}

void op_attend_mma(stream_t st, const attend_op &o, bool decode, void *scratch)
{
    if (o.rows <= 0)
        return;
    int splits = splits_of(o);
    float *base = static_cast<float *>(scratch);
    part_buffers parts = { base, base ? base + static_cast<int64_t>(o.rows) * o.heads * splits * o.head_dim : nullptr,
                           splits };
    if (o.cache == DTYPE_F8)
        attend_cache<f8>(st, o, decode, parts);
    else
        attend_cache<bf16>(st, o, decode, parts);
}
