/* attend_mma.cu - attention over a paged bf16 or e4m3 cache on the tensor cores, for prefill and for decoding.
 *
 * Rows are packed (token, head of the group): with four query heads to a key head, four of the sixteen rows of an mma
 * tile come from one token, so decoding fills the tile as far as it can and reads each key once for its whole group
 * (PackGQA of FlashAttention-3). A warp holds 16 packed rows; a page of keys and values at a time comes in by cp.async,
 * two pages ahead of the one in use. Softmax is that of FlashAttention-2: running maximum and sum in float, p rounded
 * to bf16 for the product with V.
 *
 * Positions are summed in splits of ATTEND_SPLIT counted from position 0, split after split. Decoding deals the splits
 * of all rows out to as many blocks as the chip holds and joins them in a second kernel; prefill walks the splits in
 * one block and joins them in registers with the same function. A tile or split in which a row sees nothing leaves the
 * row's bits alone. So a row's result depends neither on its neighbours nor on the path, and prefill equals decode bit
 * for bit.
 *
 * Pages of e4m3 come in as they are, half as many bytes, and are widened to bf16, which is exact, in registers. */
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
    NO_POSITION = 0x7fffffff,
};
static constexpr float LOG2_E = 1.4426950408889634f;

struct part_buffers {
    float *o;  /* [rows, heads, splits, head_dim] not divided by l */
    float *ml; /* [rows, heads, splits, 2] maximum of the raw scores, sum */
    int splits;
};

/* Rows of one sequence that a block holds: packed ones from first_row on, those of tokens before `end`. */
struct rows_at {
    int slot, first_token, zero, end, first_row; /* zero: position of token 0; first_row: within the sequence */
};

/* One packed row of a warp's tile. Padding sees everything: its sums cost nothing then, and nobody reads them. */
struct row_of {
    int first, position; /* it sees first .. position */
    int token, head;
    bool real;
};

static __device__ __forceinline__ int first_seen(const attend_op &o, int position)
{
    return o.window > 0 && position - o.window + 1 > 0 ? position - o.window + 1 : 0;
}

static __device__ __forceinline__ row_of row_at(const attend_op &o, const rows_at &at, int group, int kv_head, int r)
{
    int token = r / group;
    if (token >= at.end)
        return row_of{ 0, NO_POSITION, 0, 0, false };
    return row_of{ first_seen(o, at.zero + token), at.zero + token, at.first_token + token, kv_head * group + r % group,
                   true };
}

/* Joins what a row has so far (most, sum) with the next split (m, l): factors for both sides' sums of values. */
static __device__ __forceinline__ void join(float &most, float &sum, float m, float l, float scale2, float &keep,
                                            float &take)
{
    float now = fmaxf(most, m);
    keep = most == -INFINITY ? 0 : power_of_2((most - now) * scale2);
    take = m == -INFINITY ? 0 : power_of_2((m - now) * scale2);
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
    static_assert(WIDTH * sizeof(C) % CHUNK == 0, "every row begins where a copy and an ldmatrix may");
};

/* Page `tile` of the sequence; places behind the context become zeros, whatever the cache holds there. */
template <int HD, int WARPS, class C>
static __device__ __forceinline__ void load_tile(stage_memory<HD, C> *to, const attend_op &o, const int32_t *pages,
                                                 int tile, int context, int kv_head)
{
    constexpr int N = CHUNK / sizeof(C), CHUNKS = HD / N, STEP = WARPS * WARP_LANES / CHUNKS;
    if (PLANTED(PLANT_PAGE) && tile + 1 < o.max_pages)
        pages++;
    int r = static_cast<int>(threadIdx.x) / CHUNKS, c = static_cast<int>(threadIdx.x) % CHUNKS * N;
    int valid = context - tile * TILE_KEYS - r;
    int64_t from = ((static_cast<int64_t>(pages[tile]) * KV_PAGE + r) * o.kv_heads + kv_head) * HD + c;
    const C *k = static_cast<const C *>(o.k) + from, *v = static_cast<const C *>(o.v) + from;
    int64_t stride = static_cast<int64_t>(STEP) * o.kv_heads * HD;
    UNROLL
    for (int j = 0; j < TILE_KEYS; j += STEP) {
        if (STEP > TILE_KEYS && r >= TILE_KEYS)
            break;
        copy16_async(&to->k[r + j][c], k, j < valid);
        copy16_async(&to->v[r + j][c], v, j < valid);
        k += stride;
        v += stride;
    }
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

/* ---- products, by what a page holds ----
 * Of 16 columns a lane has two pairs of neighbours in each of its rows; pair j begins at column(j). bf16: where the mma
 * has them. e4m3: an ldmatrix takes two neighbours for one number, so of keys a lane gets four neighbours for two
 * pairs, and of values two columns for one. The even ones are multiplied as if they were the first eight columns, the
 * odd ones as the second: for a sum over columns any order will do if both sides have it, and of values two neighbours
 * come out in two tiles. */
template <class C> struct product;

template <> struct product<bf16> {
    static __device__ __forceinline__ int column(int j)
    {
        return lane_id() % 4 * 2 + j * 8;
    }
    /* Row `half` of the A fragment of 16 columns of q. */
    static __device__ __forceinline__ void fragment(uint32_t a[4], int half, pair_of_floats first,
                                                    pair_of_floats second)
    {
        a[half] = bf16_pair(first.a, first.b);
        a[half + 2] = bf16_pair(second.a, second.b);
    }
    static __device__ __forceinline__ pair_of_floats out(const float (*o)[4], int half, int j)
    {
        return pair_of_floats{ o[j][half * 2], o[j][half * 2 + 1] };
    }
    template <int HD>
    static __device__ __forceinline__ void scores(float (*s)[4], const uint32_t (*q)[4],
                                                  const stage_memory<HD, bf16> &in)
    {
        int lane = lane_id(), row = (PLANTED(PLANT_LANE) ? lane ^ 1 : lane) % 8 + lane / 16 * 8;
        UNROLL
        for (int k = 0; k < HD / 16; k++) {
            UNROLL
            for (int n = 0; n < TILE_KEYS / 8; n += 2) {
                uint32_t b[4];
                ldmatrix4(b, &in.k[n * 8 + row][k * 16 + lane / 8 % 2 * 8 + PLANTED(PLANT_ASKEW)]);
                mma_bf16(s[n], q[k], b[0], b[1]);
                mma_bf16(s[n + 1], q[k], b[2], b[3]);
            }
        }
    }
    template <int HD>
    static __device__ __forceinline__ void values(float (*o)[4], const uint32_t (*p)[4],
                                                  const stage_memory<HD, bf16> &in)
    {
        int lane = lane_id();
        UNROLL
        for (int n = 0; n < TILE_KEYS / 16; n++) {
            UNROLL
            for (int d = 0; d < HD / 8; d += 2) {
                uint32_t b[4];
                ldmatrix4_trans(b, &in.v[n * 16 + lane % 16][d * 8 + lane / 16 * 8]);
                mma_bf16(o[d], p[n], b[0], b[1]);
                mma_bf16(o[d + 1], p[n], b[2], b[3]);
            }
        }
    }
};

/* Words of four numbers as two pairs of bf16 each, the even ones and the odd ones. */
static __device__ __forceinline__ void widen(const uint32_t four[4], uint32_t even[4], uint32_t odd[4])
{
    uint32_t nans = 0;
    UNROLL
    for (int i = 0; i < 4; i++) {
        even[i] = bf16_pair_of_f8(four[i] & 0x00ff00ffu);
        odd[i] = bf16_pair_of_f8(four[i] >> 8 & 0x00ff00ffu);
        nans |= f8_nans(four[i]);
    }
    if (!nans)
        return;
    UNROLL
    for (int i = 0; i < 4; i++) { /* came out as 480, which these bits make a NaN */
        even[i] |= (f8_nans(four[i]) >> 7 & 0x00010001u) * 0x7fc0u;
        odd[i] |= (f8_nans(four[i]) >> 15 & 0x00010001u) * 0x7fc0u;
    }
}

template <> struct product<f8> {
    static __device__ __forceinline__ int column(int j)
    {
        return lane_id() % 4 * 4 + j * 2;
    }
    static __device__ __forceinline__ void fragment(uint32_t a[4], int half, pair_of_floats first,
                                                    pair_of_floats second)
    {
        a[half] = bf16_pair(first.a, second.a);
        a[half + 2] = bf16_pair(first.b, second.b);
    }
    static __device__ __forceinline__ pair_of_floats out(const float (*o)[4], int half, int j)
    {
        return pair_of_floats{ o[0][half * 2 + j], o[1][half * 2 + j] };
    }
    template <int HD>
    static __device__ __forceinline__ void scores(float (*s)[4], const uint32_t (*q)[4], const stage_memory<HD, f8> &in)
    {
        int row = PLANTED(PLANT_LANE) ? lane_id() ^ 1 : lane_id(); /* the four matrices are all keys of the tile */
        UNROLL
        for (int k = 0; k < HD / 16; k++) {
            uint32_t four[4], even[4], odd[4];
            ldmatrix4(four, &in.k[row][k * 16]);
            widen(four, even, odd);
            UNROLL
            for (int n = 0; n < TILE_KEYS / 8; n++)
                mma_bf16(s[n], q[k], even[n], odd[n]);
        }
    }
    template <int HD>
    static __device__ __forceinline__ void values(float (*o)[4], const uint32_t (*p)[4], const stage_memory<HD, f8> &in)
    {
        UNROLL
        for (int d = 0; d < HD / 8; d += 2) {
            uint32_t four[4], even[4], odd[4];
            ldmatrix4_trans(four, &in.v[lane_id()][d * 8]);
            widen(four, even, odd);
            UNROLL
            for (int n = 0; n < TILE_KEYS / 16; n++) {
                mma_bf16(o[d], p[n], even[2 * n], even[2 * n + 1]);
                mma_bf16(o[d + 1], p[n], odd[2 * n], odd[2 * n + 1]);
            }
        }
    }
};
static_assert(int(TILE_KEYS) == int(WARP_LANES), "a lane for each key of an ldmatrix over a page of e4m3");

template <int HD, class C>
static __device__ __forceinline__ void attend_tile(state<HD> &x, const stage_memory<HD, C> &in,
                                                   const uint32_t q[HD / 16][4], const row_of row[2], int tile,
                                                   float scale2)
{
    int first_key = tile * TILE_KEYS;
    float s[TILE_KEYS / 8][4], most[2] = { x.m[0], x.m[1] }, top[2], keep[2], sum[2] = { 0, 0 };
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++)
            s[n][i] = 0;
    product<C>::scores(s, q, in);
    if (first_key < row[0].first || first_key < row[1].first || first_key + TILE_KEYS - 1 > row[0].position ||
        first_key + TILE_KEYS - 1 > row[1].position) {
        UNROLL
        for (int n = 0; n < TILE_KEYS / 8; n++)
            for (int i = 0; i < 4; i++) {
                int key = first_key + n * 8 + lane_id() % 4 * 2 + i % 2;
                const row_of &r = row[i / 2];
                if (key < r.first || key > r.position + (PLANTED(PLANT_MASK) && r.real))
                    s[n][i] = -INFINITY;
            }
    }
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++)
            most[i / 2] = fmaxf(most[i / 2], s[n][i]);
    for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 1));
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 2));
        top[i] = most[i] == -INFINITY ? 0 : most[i]; /* nothing seen yet: powers of -inf, not of NaN */
        keep[i] = power_of_2((x.m[i] - top[i]) * scale2);
        x.m[i] = most[i];
    }
    UNROLL
    for (int n = 0; n < TILE_KEYS / 8; n++)
        for (int i = 0; i < 4; i++) {
            s[n][i] = power_of_2((s[n][i] - top[i / 2]) * scale2); /* of a difference: where nothing changes it is 1 */
            sum[i / 2] += s[n][i];
        }
    for (int i = 0; i < 2; i++)
        x.l[i] = fmaf(x.l[i], keep[i], sum[i]);
    UNROLL
    for (int d = 0; d < HD / 8; d++)
        for (int i = 0; i < 4; i++)
            x.o[d][i] *= keep[i / 2];
    uint32_t p[TILE_KEYS / 16][4];
    UNROLL
    for (int n = 0; n < TILE_KEYS / 16; n++) /* the C fragments of two score tiles are the A fragment of one of p */
        for (int i = 0; i < 4; i++)
            p[n][i] = bf16_pair(s[2 * n + i / 2][i % 2 * 2], s[2 * n + i / 2][i % 2 * 2 + 1]);
    product<C>::values(x.o, p, in);
}

static __device__ __forceinline__ void sum_of_row(float l[2])
{
    for (int i = 0; i < 2; i++) {
        l[i] += shuffle_xor(l[i], 1);
        l[i] += shuffle_xor(l[i], 2);
    }
}

/* The block's rows over pages first .. last-1. end_of_split(sums, rows): after the last page of each split, and after
 * the very last. Nobody may read `stage` any more when this begins. */
template <int HD, int WARPS, class C, class F>
static __device__ __forceinline__ void walk_pages(stage_memory<HD, C> *stage, const attend_op &o, const rows_at &at,
                                                  int kv_head, int first, int last, float scale2, F end_of_split)
{
    int group = o.heads / o.kv_heads, lane = lane_id(), context = at.zero + at.end;
    const int32_t *pages = o.page_table + static_cast<int64_t>(at.slot) * o.max_pages;
    for (int j = 0; j < STAGES - 1; j++) {
        if (first + j < last)
            load_tile<HD, WARPS, C>(&stage[j], o, pages, first + j, context, kv_head);
        copy_async_commit();
    }

    int64_t width = static_cast<int64_t>(o.heads + 2 * o.kv_heads) * HD;
    int warp_row = at.first_row + warp_id() * TILE_ROWS, r0 = warp_row + lane / 4;
    row_of row[2] = { row_at(o, at, group, kv_head, r0), row_at(o, at, group, kv_head, r0 + 8) };
    uint32_t q[HD / 16][4];
    for (int i = 0; i < 2; i++) {
        const float *from = o.qkv + row[i].token * width + static_cast<int64_t>(row[i].head) * HD;
        UNROLL
        for (int k = 0; k < HD / 16; k++) {
            pair_of_floats x[2] = { { 0, 0 }, { 0, 0 } };
            for (int j = 0; j < 2 && row[i].real; j++)
                x[j] = *reinterpret_cast<const pair_of_floats *>(from + k * 16 + product<C>::column(j));
            product<C>::fragment(q[k], i, x[0], x[1]);
        }
    }

    state<HD> now;
    state_clear(now);
    for (int tile = first; tile < last; tile++) {
        int j = tile - first, ahead = tile + STAGES - 1;
        if (!PLANTED(PLANT_NO_WAIT))
            copy_async_wait<STAGES - 2>();
        SYNC_BLOCK(); /* the page has come for everybody, and nobody reads the one before any more */
        if (ahead < last)
            load_tile<HD, WARPS, C>(&stage[(j + (PLANTED(PLANT_NO_REFILL_GUARD) ? 0 : STAGES - 1)) % STAGES], o, pages,
                                    ahead, context, kv_head);
        copy_async_commit();           /* also when empty: the wait counts groups */
        if (warp_row < at.end * group) /* else the whole warp is padding */
            attend_tile(now, stage[j % STAGES], q, row, tile, scale2);
        if ((tile + 1) % SPLIT_TILES && tile + 1 < last)
            continue;
        sum_of_row(now.l);
        end_of_split(now, row);
        state_clear(now);
    }
}

/* ---- prefill: a block for each tile of rows ---- */

template <int HD, class C>
static __global__ void __launch_bounds__(PREFILL_WARPS *WARP_LANES) attend_pages(attend_op o, float scale2)
{
    SHARED_DYNAMIC(raw);
    stage_memory<HD, C> *stage = reinterpret_cast<stage_memory<HD, C> *>(raw);
    constexpr int ROWS = TILE_ROWS * PREFILL_WARPS;
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y);
    packed_tile tile = packed_tile_at(o, group, ROWS, static_cast<int>(blockIdx.x));
    if (tile.tokens == 0)
        return;
    rows_at at = { o.seq_slot[tile.sequence], tile.begin, o.context[tile.sequence] - tile.tokens, tile.tokens,
                   tile.first_row };
    int last_token = (at.first_row + ROWS - 1) / group;
    int first = first_seen(o, at.zero + at.first_row / group) / TILE_KEYS;
    int last = (at.zero + (last_token < at.end ? last_token : at.end - 1)) / TILE_KEYS + 1;

    state<HD> all;
    row_of mine[2];
    state_clear(all);
    walk_pages<HD, PREFILL_WARPS>(stage, o, at, kv_head, first, last, scale2,
                                  [&](const state<HD> &now, const row_of row[2]) {
                                      float keep[2], take[2];
                                      for (int i = 0; i < 2; i++) {
                                          mine[i] = row[i];
                                          join(all.m[i], all.l[i], now.m[i], now.l[i], scale2, keep[i], take[i]);
                                      }
                                      UNROLL
                                      for (int d = 0; d < HD / 8; d++)
                                          for (int i = 0; i < 4; i++)
                                              all.o[d][i] = joined(all.o[d][i], keep[i / 2], now.o[d][i], take[i / 2]);
                                  });
    UNROLL
    for (int i = 0; i < 2; i++) {
        if (!mine[i].real)
            continue;
        int64_t to = (static_cast<int64_t>(mine[i].token) * o.heads + mine[i].head) * HD;
        UNROLL
        for (int d = 0; d < HD / 8; d += 2) {
            UNROLL
            for (int j = 0; j < 2; j++) {
                pair_of_floats x = product<C>::out(all.o + d, i, j);
                store_pair(o, to + d * 8 + product<C>::column(j), x.a / all.l[i], x.b / all.l[i]);
            }
        }
    }
}

/* ---- decoding: blocks take split after split ---- */

/* The sequence of a row; mostly each has one. */
static __device__ __forceinline__ int sequence_of_row(const attend_op &o, int row)
{
    return row < o.nseq && o.begin[row] == row && o.begin[row + 1] == row + 1 ? row : sequence_of(o.begin, o.nseq, row);
}

struct row_split {
    int row, split;
    bool any;
};

/* Deals out the splits of all rows, in order, one to each who asks: a warp's lanes look at 32 rows at a time. */
struct dealer {
    int base, before, all;  /* the first of the rows looked at; splits of those before it; splits of these */
    int first, mine, up_to; /* a lane's row: its first split, how many, and those of the rows up to it */

    __device__ __forceinline__ dealer() : base(-WARP_LANES), before(0), all(0), first(0), mine(0), up_to(0)
    {
    }

    __device__ __forceinline__ void look_further(const attend_op &o)
    {
        before += all;
        base += WARP_LANES;
        int row = base + lane_id();
        first = mine = 0;
        if (row < o.rows) {
            int s = sequence_of_row(o, row), position = o.context[s] - (o.begin[s + 1] - row);
            first = first_seen(o, position) / ATTEND_SPLIT;
            mine = position / ATTEND_SPLIT - first + 1;
        }
        up_to = mine;
        for (int by = 1; by < WARP_LANES; by *= 2) {
            int more = shuffle_from(up_to, lane_id() - by);
            up_to += lane_id() >= by ? more : 0;
        }
        all = shuffle_from(up_to, WARP_LANES - 1);
    }

    /* item: not less than the one asked for before */
    __device__ __forceinline__ row_split take(const attend_op &o, int item)
    {
        while (item >= before + all) {
            if (base + WARP_LANES >= o.rows)
                return row_split{ 0, 0, false };
            look_further(o);
        }
        int lane = first_bit(vote(before + up_to > item)), skipped = before + shuffle_from(up_to - mine, lane);
        return row_split{ base + lane, shuffle_from(first, lane) + item - skipped, true };
    }
};

template <int HD, class C>
static __global__ void __launch_bounds__(DECODE_WARPS *WARP_LANES)
    attend_splits(attend_op o, part_buffers parts, float scale2)
{
    static_assert(int(DECODE_WARPS) == 1, "a dealer serves a warp");
    SHARED_DYNAMIC(raw);
    stage_memory<HD, C> *stage = reinterpret_cast<stage_memory<HD, C> *>(raw);
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y) % o.kv_heads;
    int first_row = static_cast<int>(blockIdx.y) / o.kv_heads * TILE_ROWS; /* of a group larger than a tile */
    dealer deal;
    for (int item = static_cast<int>(blockIdx.x);; item += static_cast<int>(gridDim.x)) {
        row_split at = deal.take(o, item);
        if (!at.any)
            return;
        int s = sequence_of_row(o, at.row), token = at.row - o.begin[s], tokens = o.begin[s + 1] - o.begin[s];
        rows_at rows = { o.seq_slot[s], o.begin[s], o.context[s] - tokens, token + 1, token * group + first_row };
        int position = rows.zero + token, first = first_seen(o, position) / TILE_KEYS, last = position / TILE_KEYS + 1;
        first = first > at.split * SPLIT_TILES ? first : at.split * SPLIT_TILES;
        last = last < (at.split + 1) * SPLIT_TILES ? last : (at.split + 1) * SPLIT_TILES;
        SYNC_BLOCK(); /* nobody reads the pages of the split before any more */
        walk_pages<HD, DECODE_WARPS>(
            stage, o, rows, kv_head, first, last, scale2, [&](const state<HD> &now, const row_of row[2]) {
                for (int i = 0; i < 2; i++) {
                    if (!row[i].real)
                        continue;
                    int64_t to = (static_cast<int64_t>(row[i].token) * o.heads + row[i].head) * parts.splits + at.split;
                    if (lane_id() % 4 == 0)
                        *reinterpret_cast<pair_of_floats *>(parts.ml + to * 2) = pair_of_floats{ now.m[i], now.l[i] };
                    UNROLL
                    for (int d = 0; d < HD / 8; d += 2)
                        for (int j = 0; j < 2; j++)
                            *reinterpret_cast<pair_of_floats *>(parts.o + to * HD + d * 8 + product<C>::column(j)) =
                                product<C>::out(now.o + d, i, j);
                }
            });
    }
}

/* A warp joins the splits of one row and head, in order. */
template <int HD>
static __global__ void __launch_bounds__(COMBINE_WARPS *WARP_LANES)
    attend_combine(attend_op o, part_buffers parts, float scale2)
{
    constexpr int PER_LANE = (HD + WARP_LANES - 1) / WARP_LANES;
    int64_t item = static_cast<int64_t>(blockIdx.x) * COMBINE_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return;
    int t = static_cast<int>(item / o.heads), s = sequence_of_row(o, t);
    int position = o.context[s] - (o.begin[s + 1] - t);
    float most = -INFINITY, sum = 0, out[PER_LANE];
    for (int i = 0; i < PER_LANE; i++)
        out[i] = 0;
    for (int z = first_seen(o, position) / ATTEND_SPLIT; z <= position / ATTEND_SPLIT; z++) {
        const float *ml = parts.ml + (item * parts.splits + z) * 2, *from = parts.o + (item * parts.splits + z) * HD;
        float keep, take;
        join(most, sum, ml[0], ml[1], scale2, keep, take);
        for (int i = 0; i < PER_LANE; i++)
            if (HD >= WARP_LANES || lane_id() < HD)
                out[i] = joined(out[i], keep, from[lane_id() + i * WARP_LANES], take);
    }
    for (int i = 0; i < PER_LANE; i++)
        if (HD >= WARP_LANES || lane_id() < HD)
            store_both(o.out, o.narrow, item * HD + lane_id() + i * WARP_LANES, out[i] / sum);
}

/* ---- choosing ---- */

bool attend_mma_takes(const attend_op &o)
{
    return o.k && o.cache != DTYPE_F32 &&
           (o.head_dim == 16 || o.head_dim == 32 || o.head_dim == 64 || o.head_dim == 128) && o.scale > 0;
}

static int splits_of(const attend_op &o)
{
    return (o.longest + ATTEND_SPLIT - 1) / ATTEND_SPLIT;
}

size_t attend_mma_scratch(const attend_op &o)
{
    size_t parts = static_cast<size_t>(o.rows) * static_cast<size_t>(o.heads) * static_cast<size_t>(splits_of(o));
    return parts * static_cast<size_t>(o.head_dim + 2) * sizeof(float);
}

template <int HD, class C> static void launch_pages(stream_t st, const attend_op &o, float scale2)
{
    size_t shared = STAGES * sizeof(stage_memory<HD, C>);
    dim3 grid(packed_tiles(o, o.heads / o.kv_heads, TILE_ROWS * PREFILL_WARPS), static_cast<unsigned>(o.kv_heads));
    ALLOW_SHARED((attend_pages<HD, C>), shared);
    LAUNCH((attend_pages<HD, C>), grid, PREFILL_WARPS * WARP_LANES, shared, st, o, scale2);
}

template <int HD, class C>
static void launch_splits(stream_t st, const attend_op &o, const part_buffers &parts, float scale2)
{
    size_t shared = STAGES * sizeof(stage_memory<HD, C>);
    int group = o.heads / o.kv_heads, across = (group + TILE_ROWS - 1) / TILE_ROWS * o.kv_heads;
    int64_t items = static_cast<int64_t>(o.rows) * o.heads, blocks, most = static_cast<int64_t>(o.rows) * parts.splits;
    ALLOW_SHARED((attend_splits<HD, C>), shared);
    blocks = RESIDENT_BLOCKS((attend_splits<HD, C>), DECODE_WARPS * WARP_LANES, shared) / across;
    blocks = blocks < 1 ? 1 : blocks < most ? blocks : most;
    LAUNCH((attend_splits<HD, C>), dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(across)),
           DECODE_WARPS * WARP_LANES, shared, st, o, parts, scale2);
    LAUNCH((attend_combine<HD>), static_cast<unsigned>((items + COMBINE_WARPS - 1) / COMBINE_WARPS),
           COMBINE_WARPS * WARP_LANES, 0, st, o, parts, scale2);
}

template <int HD, class C>
static void launch_attend(stream_t st, const attend_op &o, bool decode, const part_buffers &parts)
{
    float scale2 = o.scale * LOG2_E; /* powers are of 2 */
    if (decode)
        launch_splits<HD, C>(st, o, parts, scale2);
    else
        launch_pages<HD, C>(st, o, scale2);
}

template <class C> static void attend_cache(stream_t st, const attend_op &o, bool decode, const part_buffers &parts)
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
