/* attend_varlen.cu - attention without a cache on the tensor cores, and its way back: encoders, scoring, training.
 *
 * Operands are rounded to bf16 once, in a pass of their own; softmax and all sums are float, p and ds are rounded where
 * they are multiplied. Products come in two shapes: a warp's 16 rows of shared memory times the rows of a tile, and
 * what that gave times the tile's columns. The tile is every warp's; the next one comes in by cp.async meanwhile.
 *
 * Forward and dq hold rows packed (token, head of the group), as attend_mma.cu does: a key that was loaded serves its
 * whole group. dk and dv hold keys and walk the tokens that see them, one head of the group after the other. So each
 * number is summed by one warp in one order and nothing is atomic; the price is that scores are taken once more
 * (FlashAttention-2 has one kernel and adds dq atomically). Tiles count from the start of their own sequence, and a
 * tile of which a row sees nothing leaves its bits alone: a row's result does not depend on its neighbours. */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/train_ops.h"

enum {
    TILE_ROWS = 16, /* of an mma */
    WARPS = 8,
    THREADS = WARPS * WARP_LANES,
    BLOCK_ROWS = WARPS * TILE_ROWS,
    KEYS = 64,      /* of a tile that rows walk over */
    BACK_KEYS = 32, /* the same on the way back, where there is more beside it: chips older than sm_90 have 99 KiB */
    QUERIES = 32,   /* of a tile that keys walk over */
    STAGES = 2,
    PREPARE_WARPS = 4,
};
static constexpr float LOG2_E = 1.4426950408889634f;
static_assert(2 * QUERIES <= THREADS, "a thread for each statistic of a tile");

/* Heads that are not HD wide are filled up with zeros. */
struct varlen {
    attend_op o;
    const bf16 *qkv, *dout; /* rounded */
    const float *lse;       /* [heads, rows], of base 2 */
    const float *delta;     /* [heads, rows], do . out */
    float *dqkv;
    int64_t q_width, kv_width, width; /* elements of a row of out, of k, of qkv */
    float scale2;                     /* scale log2 e: powers are of 2 */
};

/* The eight rows of an ldmatrix must lie in different banks. Where a row is a multiple of all banks its 16-byte pieces
 * change places, by the row's number; otherwise 16 bytes behind each row do it. */
template <int HD> using vector = bf16[HD % 64 ? HD + 8 : HD];
template <int HD> static __device__ __forceinline__ int place(int row, int column) /* column: a multiple of 8 */
{
    return HD % 64 ? column : column ^ row % 8 * 8;
}
template <int HD, int N> struct keys_stage {
    vector<HD> k[N], v[N];
};
template <int HD> struct forward_memory {
    vector<HD> q[BLOCK_ROWS];
    keys_stage<HD, KEYS> stage[STAGES];
};
template <int HD> struct queries_memory {
    vector<HD> q[BLOCK_ROWS], dout[BLOCK_ROWS];
    keys_stage<HD, BACK_KEYS> stage[STAGES];
};
template <int HD> struct keys_memory {
    vector<HD> k[BLOCK_ROWS], v[BLOCK_ROWS];
    struct {
        vector<HD> q[QUERIES], dout[QUERIES];
        float statistic[2][QUERIES]; /* log-sum-exp, do . out */
    } stage[STAGES];
};

/* ---- who sees whom ---- */

struct range {
    int first, last; /* first .. last-1; last is 0: nothing */
};

/* A block's rows: `first` and those behind it, of a sequence whose tokens begin at `begin`. */
struct rows_at {
    int begin, tokens, first;
};

/* Block number `tile` of all sequences' blocks; there may be fewer: no tokens. */
static __device__ __forceinline__ rows_at find_rows(const attend_op &o, int group, int tile)
{
    packed_tile x = packed_tile_at(o, group, BLOCK_ROWS, tile);
    return rows_at{ x.begin, x.tokens, x.first_row };
}

static __device__ __forceinline__ range keys_of(const attend_op &o, int tokens, int token)
{
    if (token >= tokens)
        return range{ 0, 0 };
    if (!o.causal)
        return range{ 0, tokens };
    return range{ o.window > 0 && token - o.window + 1 > 0 ? token - o.window + 1 : 0, token + 1 };
}

static __device__ __forceinline__ range tokens_of(const attend_op &o, int tokens, int key)
{
    if (key >= tokens)
        return range{ 0, 0 };
    if (!o.causal)
        return range{ 0, tokens };
    return range{ key + PLANTED(PLANT_UNSEEN_ROW), o.window > 0 && key + o.window < tokens ? key + o.window : tokens };
}

/* From the first that item `first` sees to the last that `last`, or the last one there is, sees. */
template <class F>
static __device__ __forceinline__ range all_of(F seen_by, const attend_op &o, int tokens, int first, int last)
{
    last = last < tokens ? last : tokens - 1;
    return first > last ? range{ 0, 0 } : range{ seen_by(o, tokens, first).first, seen_by(o, tokens, last).last };
}

static __device__ __forceinline__ bool holds(range r, int x)
{
    return x >= r.first && x < r.last + (PLANTED(PLANT_MASK) && r.last > 0);
}

static __device__ __forceinline__ bool covers(range r, int first, int n)
{
    return first >= r.first && first + n <= r.last;
}

static __device__ __forceinline__ bool touches(range r, int first, int n)
{
    return first < r.last && first + n > r.first;
}

/* ---- tiles ---- */

/* Rows first .. first+N-1 of a sequence, those behind its end as zeros; `from`: its row 0. */
template <int HD, int N>
static __device__ __forceinline__ void load_rows(vector<HD> *to, const bf16 *from, int64_t stride, int first, int end,
                                                 int hd)
{
    constexpr int ALL = N * (HD / 8);
    UNROLL
    for (int j = 0; j < ALL; j += THREADS) {
        int i = j + static_cast<int>(threadIdx.x), r = i / (HD / 8), c = i % (HD / 8) * 8;
        if (ALL % THREADS && i >= ALL)
            break;
        copy16_async(&to[r][place<HD>(r, c)], from + (first + r) * stride + c, first + r < end && c < hd);
    }
}

/* The block's packed rows; `from`: column of the group's first head in row 0. */
template <int HD>
static __device__ __forceinline__ void load_packed(vector<HD> *to, const bf16 *from, int64_t stride, rows_at at,
                                                   int group, int hd)
{
    for (int i = static_cast<int>(threadIdx.x); i < BLOCK_ROWS * (HD / 8); i += THREADS) {
        int r = at.first + i / (HD / 8), c = i % (HD / 8) * 8, token = r / group;
        copy16_async(&to[i / (HD / 8)][place<HD>(i / (HD / 8), c)],
                     from + token * stride + static_cast<int64_t>(r % group) * hd + c, token < at.tokens && c < hd);
    }
}

template <int N> static __device__ __forceinline__ void clear(float (*c)[4])
{
    UNROLL
    for (int n = 0; n < N / 8; n++)
        for (int i = 0; i < 4; i++)
            c[n][i] = 0;
}

/* c [16, N] = a [16, HD] b^T [N, HD] */
template <int HD, int N>
static __device__ __forceinline__ void rows_by_rows(float (*c)[4], const vector<HD> *a, const vector<HD> *b)
{
    int lane = lane_id(), row = (PLANTED(PLANT_LANE) ? lane ^ 1 : lane) % 8 + lane / 16 * 8;
    clear<N>(c);
    UNROLL
    for (int k = 0; k < HD / 16; k++) {
        uint32_t x[4];
        ldmatrix4(x, &a[lane % 16][place<HD>(lane, k * 16 + lane / 16 * 8)]);
        UNROLL
        for (int n = 0; n < N / 8; n += 2) {
            uint32_t y[4];
            ldmatrix4(y, &b[n * 8 + row][place<HD>(row, k * 16 + lane / 8 % 2 * 8)]);
            mma_bf16(c[n], x, y[0], y[1]);
            mma_bf16(c[n + 1], x, y[2], y[3]);
        }
    }
}

/* c [16, HD] += p [16, N] b [N, HD]; the C fragments of two tiles of p are the A fragment of one */
template <int HD, int N>
static __device__ __forceinline__ void times_columns(float (*c)[4], const float (*p)[4], const vector<HD> *b)
{
    int lane = lane_id();
    UNROLL
    for (int n = 0; n < N / 8; n += 2) {
        uint32_t x[4] = { bf16_pair(p[n][0], p[n][1]), bf16_pair(p[n][2], p[n][3]), bf16_pair(p[n + 1][0], p[n + 1][1]),
                          bf16_pair(p[n + 1][2], p[n + 1][3]) };
        UNROLL
        for (int d = 0; d < HD / 8; d += 2) {
            uint32_t y[4];
            ldmatrix4_trans(y, &b[n * 8 + lane % 16][place<HD>(lane, d * 8 + lane / 16 * 8)]);
            mma_bf16(c[d], x, y[0], y[1]);
            mma_bf16(c[d + 1], x, y[2], y[3]);
        }
    }
}

/* The half of a warp's [16, HD] that row lane / 4 + 8 half holds. */
template <int HD>
static __device__ __forceinline__ void store_row(float *to, const float (*c)[4], int half, float by, int hd)
{
    UNROLL
    for (int d = 0; d < HD / 8; d++)
        for (int j = 0; j < 2; j++)
            if (d * 8 < hd)
                to[d * 8 + lane_id() % 4 * 2 + j] = c[d][half * 2 + j] * by;
}

static __device__ __forceinline__ void tile_has_come()
{
    if (!PLANTED(PLANT_NO_WAIT))
        copy_async_wait<0>();
    SYNC_BLOCK(); /* for everybody, and nobody reads the one before any more */
}

static __device__ __forceinline__ int next_stage(int j)
{
    return (j + (PLANTED(PLANT_NO_REFILL_GUARD) ? 0 : 1)) % STAGES;
}

/* Of a multiprocessor, whose registers are shared: narrow heads leave some for a second block. */
static constexpr int blocks_at_once(int hd)
{
    return hd <= 64 ? 2 : 1;
}

/* ---- forward ---- */

template <int HD> struct softmax_state {
    float out[HD / 8][4];
    float most[2], sum[2]; /* of raw scores; sum: this lane's share */
};

template <int HD>
static __device__ __forceinline__ void forward_tile(softmax_state<HD> &x, const vector<HD> *q,
                                                    const keys_stage<HD, KEYS> &in, const range row[2], int first_key,
                                                    float scale2)
{
    float s[KEYS / 8][4], most[2] = { x.most[0], x.most[1] };
    rows_by_rows<HD, KEYS>(s, q, in.k);
    if (!covers(row[0], first_key, KEYS) || !covers(row[1], first_key, KEYS)) {
        UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            for (int i = 0; i < 4; i++)
                if (!holds(row[i / 2], first_key + n * 8 + lane_id() % 4 * 2 + i % 2))
                    s[n][i] = -INFINITY;
    }
    UNROLL
    for (int n = 0; n < KEYS / 8; n++)
        for (int i = 0; i < 4; i++)
            most[i / 2] = fmaxf(most[i / 2], s[n][i]);
    float base[2], keep[2];
    for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 1));
        most[i] = fmaxf(most[i], shuffle_xor(most[i], 2));
        float top = most[i] == -INFINITY ? 0 : most[i]; /* nothing seen yet: powers of -inf, not of NaN */
        base[i] = top * scale2;
        keep[i] = power_of_2((x.most[i] - top) * scale2); /* of a difference: where nothing changes it is 1 */
        x.most[i] = most[i];
        x.sum[i] *= keep[i];
    }
    UNROLL
    for (int n = 0; n < KEYS / 8; n++)
        for (int i = 0; i < 4; i++) {
            s[n][i] = power_of_2(fmaf(s[n][i], scale2, -base[i / 2]));
            x.sum[i / 2] += s[n][i];
        }
    UNROLL
    for (int d = 0; d < HD / 8; d++)
        for (int i = 0; i < 4; i++)
            x.out[d][i] *= keep[i / 2];
    times_columns<HD, KEYS>(x.out, s, in.v);
}

template <int HD, int N>
static __device__ __forceinline__ void load_keys(keys_stage<HD, N> &to, const varlen &a, rows_at at, int kv_head,
                                                 int tile)
{
    const bf16 *k = a.qkv + at.begin * a.width + a.q_width + static_cast<int64_t>(kv_head) * a.o.head_dim;
    load_rows<HD, N>(to.k, k, a.width, tile * N, at.tokens, a.o.head_dim);
    load_rows<HD, N>(to.v, k + a.kv_width, a.width, tile * N, at.tokens, a.o.head_dim);
}

/* Causal rows at a sequence's end see most; blocks start in order, so the last rows are the first block's. */
static __device__ __forceinline__ rows_at find_packed(const attend_op &o, int group)
{
    return find_rows(o, group, static_cast<int>(gridDim.x - 1 - blockIdx.x));
}

template <int HD> static __global__ void __launch_bounds__(THREADS, blocks_at_once(HD)) attend_forward(varlen a)
{
    SHARED_DYNAMIC(raw);
    forward_memory<HD> *mem = reinterpret_cast<forward_memory<HD> *>(raw);
    const attend_op &o = a.o;
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y), hd = o.head_dim, lane = lane_id();
    rows_at at = find_packed(o, group);
    if (at.tokens == 0)
        return;
    int my_first = at.first + warp_id() * TILE_ROWS, r0 = my_first + lane / 4;
    range block = all_of(keys_of, o, at.tokens, at.first / group, (at.first + BLOCK_ROWS - 1) / group);
    range mine = all_of(keys_of, o, at.tokens, my_first / group, (my_first + TILE_ROWS - 1) / group);
    range row[2] = { keys_of(o, at.tokens, r0 / group), keys_of(o, at.tokens, (r0 + 8) / group) };
    int first = block.first / KEYS, last = (block.last + KEYS - 1) / KEYS;
    load_packed<HD>(mem->q, a.qkv + at.begin * a.width + static_cast<int64_t>(kv_head) * group * hd, a.width, at, group,
                    hd);
    load_keys(mem->stage[0], a, at, kv_head, first);
    copy_async_commit();

    softmax_state<HD> x;
    clear<HD>(x.out);
    for (int i = 0; i < 2; i++) {
        x.most[i] = -INFINITY;
        x.sum[i] = 0;
    }
    for (int tile = first; tile < last; tile++) {
        int j = tile - first;
        tile_has_come();
        if (tile + 1 < last)
            load_keys(mem->stage[next_stage(j)], a, at, kv_head, tile + 1);
        copy_async_commit();
        if (touches(mine, tile * KEYS, KEYS))
            forward_tile(x, mem->q + warp_id() * TILE_ROWS, mem->stage[j % STAGES], row, tile * KEYS, a.scale2);
    }
    for (int i = 0; i < 2; i++) {
        x.sum[i] += shuffle_xor(x.sum[i], 1);
        x.sum[i] += shuffle_xor(x.sum[i], 2);
        if (row[i].last == 0)
            continue;
        int r = r0 + 8 * i;
        int64_t item = (at.begin + r / group) * static_cast<int64_t>(o.heads) + kv_head * group + r % group;
        UNROLL
        for (int d = 0; d < HD / 8; d++)
            if (d * 8 < hd)
                store_pair(o, item * hd + d * 8 + lane % 4 * 2, x.out[d][i * 2] * (1 / x.sum[i]),
                           x.out[d][i * 2 + 1] * (1 / x.sum[i]));
        if (o.lse && lane % 4 == 0)
            o.lse[item] = x.most[i] * o.scale + logf(x.sum[i]);
    }
}

/* ---- backward ----
 * p = e^(s - lse);  dv_j += p do;  ds = p (do.v_j - do.out);  dq += ds k_j scale;  dk_j += ds q scale. */

struct prepare_op {
    const float *out, *dout, *lse; /* lse: [rows, heads] */
    const bf16 *narrow_out;        /* where out is NULL */
    bf16 *narrow;
    float *lse2, *delta;
    int rows, heads, hd;
};

/* A warp a row and head: do rounded, do.out; the statistics turned, for they are read a head at a time. */
static __global__ void __launch_bounds__(PREPARE_WARPS *WARP_LANES) attend_prepare(prepare_op o)
{
    int64_t item = static_cast<int64_t>(blockIdx.x) * PREPARE_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return;
    float sum = 0;
    for (int64_t i = item * o.hd + lane_id(); i < (item + 1) * o.hd; i += WARP_LANES) {
        o.narrow[i] = bf16_of_float(o.dout[i]);
        sum = fmaf(o.dout[i], o.out ? o.out[i] : float_of_bf16(o.narrow_out[i]), sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) {
        int64_t to = item % o.heads * o.rows + item / o.heads;
        o.lse2[to] = o.lse[item] * LOG2_E;
        o.delta[to] = sum;
    }
}

/* s [16, N] becomes p, dp becomes ds (without the scale). */
static __device__ __forceinline__ void score_back(float &s, float &dp, bool seen, float scale2, float lse, float delta)
{
    s = seen ? power_of_2(fmaf(s, scale2, -lse)) : 0;
    dp = s * (dp - delta);
}

template <int HD> static __global__ void __launch_bounds__(THREADS, blocks_at_once(HD)) attend_back_queries(varlen a)
{
    SHARED_DYNAMIC(raw);
    queries_memory<HD> *mem = reinterpret_cast<queries_memory<HD> *>(raw);
    const attend_op &o = a.o;
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y), hd = o.head_dim, lane = lane_id();
    rows_at at = find_packed(o, group);
    if (at.tokens == 0)
        return;
    int my_first = at.first + warp_id() * TILE_ROWS, r0 = my_first + lane / 4;
    range block = all_of(keys_of, o, at.tokens, at.first / group, (at.first + BLOCK_ROWS - 1) / group);
    range mine = all_of(keys_of, o, at.tokens, my_first / group, (my_first + TILE_ROWS - 1) / group);
    range row[2] = { keys_of(o, at.tokens, r0 / group), keys_of(o, at.tokens, (r0 + 8) / group) };
    int first = block.first / BACK_KEYS, last = (block.last + BACK_KEYS - 1) / BACK_KEYS;
    int64_t column = static_cast<int64_t>(kv_head) * group * hd;
    load_packed<HD>(mem->q, a.qkv + at.begin * a.width + column, a.width, at, group, hd);
    load_packed<HD>(mem->dout, a.dout + at.begin * a.q_width + column, a.q_width, at, group, hd);
    load_keys(mem->stage[0], a, at, kv_head, first);
    copy_async_commit();

    float dq[HD / 8][4], lse[2] = { 0, 0 }, delta[2] = { 0, 0 };
    clear<HD>(dq);
    for (int i = 0; i < 2; i++)
        if (row[i].last > 0) {
            int64_t from = static_cast<int64_t>(kv_head * group + (r0 + 8 * i) % group) * o.rows + at.begin;
            lse[i] = a.lse[from + (r0 + 8 * i) / group];
            delta[i] = a.delta[from + (r0 + 8 * i) / group];
        }
    for (int tile = first; tile < last; tile++) {
        int j = tile - first;
        tile_has_come();
        if (tile + 1 < last)
            load_keys(mem->stage[next_stage(j)], a, at, kv_head, tile + 1);
        copy_async_commit();
        if (!touches(mine, tile * BACK_KEYS, BACK_KEYS))
            continue;
        const keys_stage<HD, BACK_KEYS> &in = mem->stage[j % STAGES];
        float s[BACK_KEYS / 8][4], ds[BACK_KEYS / 8][4];
        rows_by_rows<HD, BACK_KEYS>(s, mem->q + warp_id() * TILE_ROWS, in.k);
        rows_by_rows<HD, BACK_KEYS>(ds, mem->dout + warp_id() * TILE_ROWS, in.v);
        UNROLL
        for (int n = 0; n < BACK_KEYS / 8; n++)
            for (int i = 0; i < 4; i++)
                score_back(s[n][i], ds[n][i], holds(row[i / 2], tile * BACK_KEYS + n * 8 + lane % 4 * 2 + i % 2),
                           a.scale2, lse[i / 2], delta[i / 2]);
        times_columns<HD, BACK_KEYS>(dq, ds, in.k);
    }
    for (int i = 0; i < 2; i++)
        if (row[i].last > 0) {
            int64_t token = at.begin + (r0 + 8 * i) / group;
            store_row<HD>(a.dqkv + token * a.width + column + (r0 + 8 * i) % group * hd, dq, i, o.scale, hd);
        }
}

/* Tile number `item` of those that the block's keys walk: head after head, tokens of a head in order. */
struct query_tile {
    int head, first;
};

template <int HD> static __global__ void __launch_bounds__(THREADS) attend_back_keys(varlen a)
{
    SHARED_DYNAMIC(raw);
    keys_memory<HD> *mem = reinterpret_cast<keys_memory<HD> *>(raw);
    const attend_op &o = a.o;
    int group = o.heads / o.kv_heads, kv_head = static_cast<int>(blockIdx.y), hd = o.head_dim, lane = lane_id();
    rows_at at = find_rows(o, 1, static_cast<int>(blockIdx.x));
    if (at.tokens == 0)
        return;
    int my_first = at.first + warp_id() * TILE_ROWS, key0 = my_first + lane / 4;
    range block = all_of(tokens_of, o, at.tokens, at.first, at.first + BLOCK_ROWS - 1);
    range mine = all_of(tokens_of, o, at.tokens, my_first, my_first + TILE_ROWS - 1);
    range key[2] = { tokens_of(o, at.tokens, key0), tokens_of(o, at.tokens, key0 + 8) };
    int first = block.first / QUERIES, tiles = (block.last + QUERIES - 1) / QUERIES - first;
    int64_t k_column = a.q_width + static_cast<int64_t>(kv_head) * hd;
    const bf16 *k = a.qkv + at.begin * a.width + k_column;
    auto tile_of = [&](int item) {
        return query_tile{ kv_head * group + item / tiles, (first + item % tiles) * QUERIES };
    };
    auto load = [&](int stage, int item) {
        query_tile t = tile_of(item);
        int64_t column = static_cast<int64_t>(t.head) * hd;
        load_rows<HD, QUERIES>(mem->stage[stage].q, a.qkv + at.begin * a.width + column, a.width, t.first, at.tokens,
                               hd);
        load_rows<HD, QUERIES>(mem->stage[stage].dout, a.dout + at.begin * a.q_width + column, a.q_width, t.first,
                               at.tokens, hd);
    };
    /* The tile's statistics take the way through a register of the first threads: read early, stored late. */
    int i_stat = static_cast<int>(threadIdx.x);
    auto read_statistic = [&](int item) {
        query_tile t = tile_of(item);
        int token = t.first + i_stat % QUERIES;
        const float *from = i_stat < QUERIES ? a.lse : a.delta;
        return i_stat < 2 * QUERIES && token < at.tokens
                   ? from[static_cast<int64_t>(t.head) * o.rows + at.begin + token]
                   : 0;
    };
    auto store_statistic = [&](int stage, float v) {
        if (i_stat < 2 * QUERIES)
            mem->stage[stage].statistic[i_stat / QUERIES][i_stat % QUERIES] = v;
    };

    load_rows<HD, BLOCK_ROWS>(mem->k, k, a.width, at.first, at.tokens, hd);
    load_rows<HD, BLOCK_ROWS>(mem->v, k + a.kv_width, a.width, at.first, at.tokens, hd);
    load(0, 0);
    copy_async_commit();
    store_statistic(0, read_statistic(0));
    float dk[HD / 8][4], dv[HD / 8][4];
    clear<HD>(dk);
    clear<HD>(dv);
    for (int item = 0; item < group * tiles; item++) {
        int to = next_stage(item), from = tile_of(item).first;
        bool more = item + 1 < group * tiles;
        tile_has_come();
        if (more)
            load(to, item + 1);
        copy_async_commit();
        float statistic = more ? read_statistic(item + 1) : 0;
        if (touches(mine, from, QUERIES)) {
            const auto &in = mem->stage[item % STAGES];
            float s[QUERIES / 8][4], ds[QUERIES / 8][4];
            rows_by_rows<HD, QUERIES>(s, mem->k + warp_id() * TILE_ROWS, in.q);
            rows_by_rows<HD, QUERIES>(ds, mem->v + warp_id() * TILE_ROWS, in.dout);
            UNROLL
            for (int n = 0; n < QUERIES / 8; n++)
                for (int i = 0; i < 4; i++) {
                    int q = n * 8 + lane % 4 * 2 + i % 2;
                    score_back(s[n][i], ds[n][i], holds(key[i / 2], from + q), a.scale2, in.statistic[0][q],
                               in.statistic[1][q]);
                }
            times_columns<HD, QUERIES>(dv, s, in.dout);
            times_columns<HD, QUERIES>(dk, ds, in.q);
        }
        if (more && !PLANTED(PLANT_STALE_STATISTIC))
            store_statistic(to, statistic);
    }
    for (int i = 0; i < 2; i++)
        if (key[i].last > 0) {
            float *row = a.dqkv + (at.begin + key0 + 8 * i) * a.width + k_column;
            store_row<HD>(row, dk, i, o.scale, hd);
            store_row<HD>(row + a.kv_width, dv, i, 1, hd);
        }
}

/* ---- choosing ---- */

bool attend_varlen_takes(const attend_op &o)
{
    return o.head_dim % 8 == 0 && o.head_dim <= 128 && o.scale > 0; /* rows of bf16 are then whole copies */
}

static varlen varlen_of(const attend_op &o)
{
    varlen a = {};
    a.o = o;
    a.q_width = static_cast<int64_t>(o.heads) * o.head_dim;
    a.kv_width = static_cast<int64_t>(o.kv_heads) * o.head_dim;
    a.width = a.q_width + 2 * a.kv_width;
    a.scale2 = o.scale * LOG2_E;
    a.qkv = o.narrow_qkv;
    return a;
}

size_t attend_varlen_scratch(const attend_op &o, bool backward)
{
    varlen a = varlen_of(o);
    size_t rows = static_cast<size_t>(o.rows),
           narrow = o.narrow_qkv ? 0 : rows * static_cast<size_t>(a.width) * sizeof(bf16);
    size_t more =
        rows * (static_cast<size_t>(a.q_width) * sizeof(bf16) + 2 * static_cast<size_t>(o.heads) * sizeof(float));
    return narrow + (backward ? more : 0);
}

static dim3 grid_of(const attend_op &o, int group)
{
    return dim3(packed_tiles(o, group, BLOCK_ROWS), static_cast<unsigned>(o.kv_heads));
}

#define LAUNCH_TILES(kernel, memory, grid, st, a)                                                                      \
    do {                                                                                                               \
        ALLOW_SHARED(kernel, sizeof(memory));                                                                          \
        LAUNCH(kernel, grid, THREADS, sizeof(memory), st, a);                                                          \
    } while (0)

template <int HD> static void forward(stream_t st, const varlen &a)
{
    LAUNCH_TILES((attend_forward<HD>), forward_memory<HD>, grid_of(a.o, a.o.heads / a.o.kv_heads), st, a);
}

template <int HD> static void backward(stream_t st, const varlen &a)
{
    LAUNCH_TILES((attend_back_queries<HD>), queries_memory<HD>, grid_of(a.o, a.o.heads / a.o.kv_heads), st, a);
    LAUNCH_TILES((attend_back_keys<HD>), keys_memory<HD>, grid_of(a.o, 1), st, a);
}

typedef void launch_fn(stream_t st, const varlen &a);

static void by_width(launch_fn *const fn[5], stream_t st, const varlen &a)
{
    int hd = a.o.head_dim;
    fn[hd <= 16 ? 0 : hd <= 32 ? 1 : hd <= 64 ? 2 : hd <= 96 ? 3 : 4](st, a);
}

/* Rounds qkv where it is not; what of the scratch is left. */
static bf16 *round_qkv(stream_t st, varlen &a, void *scratch)
{
    bf16 *to = static_cast<bf16 *>(scratch);
    if (a.qkv)
        return to;
    op_to_bf16(st, to, a.o.qkv, a.o.rows * a.width);
    a.qkv = to;
    return to + a.o.rows * a.width;
}

void op_attend_varlen(stream_t st, const attend_op &o, void *scratch)
{
    static launch_fn *const fn[] = { forward<16>, forward<32>, forward<64>, forward<96>, forward<128> };
    varlen a = varlen_of(o);
    if (o.rows <= 0)
        return;
    (void)round_qkv(st, a, scratch);
    by_width(fn, st, a);
}

void op_attend_varlen_backward(stream_t st, const attend_op &o, float *dqkv, const float *dout, void *scratch)
{
    static launch_fn *const fn[] = { backward<16>, backward<32>, backward<64>, backward<96>, backward<128> };
    varlen a = varlen_of(o);
    int64_t items = static_cast<int64_t>(o.rows) * o.heads;
    if (o.rows <= 0)
        return;
    bf16 *narrow = round_qkv(st, a, scratch);
    float *lse = reinterpret_cast<float *>(narrow + o.rows * a.q_width), *delta = lse + items;
    prepare_op p = { o.out, dout, o.lse, o.narrow, narrow, lse, delta, o.rows, o.heads, o.head_dim };
    LAUNCH(attend_prepare, static_cast<unsigned>((items + PREPARE_WARPS - 1) / PREPARE_WARPS),
           PREPARE_WARPS * WARP_LANES, 0, st, p);
    a.dout = narrow;
    a.lse = lse;
    a.delta = delta;
    a.dqkv = dqkv;
    by_width(fn, st, a);
}
