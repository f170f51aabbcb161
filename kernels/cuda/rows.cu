/* rows.cu - operations on rows: embedding, norms, activations, rotation with append, inputs of a decode step.
 *
 * All of them are bound by memory: one block a row, neighbouring threads at neighbouring elements. Sums run in a fixed
 * order (a thread's own elements, then lanes, then warps) that depends on the width alone. */
#include "kernels/cuda/flat.cuh"
#include "kernels/cuda/ops.h"

enum { ROW_THREADS = 256 };

static unsigned flat_blocks(int64_t n)
{
    return static_cast<unsigned>((n + FLAT_THREADS - 1) / FLAT_THREADS);
}

static __device__ __forceinline__ int64_t flat_index()
{
    return static_cast<int64_t>(blockIdx.x) * FLAT_THREADS + threadIdx.x;
}

/* ---- embedding, gather ---- */

static __device__ __forceinline__ void store(f8 *to, float x)
{
    *to = f8_of_float(x);
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    embed_rows(float *y, const T *table, const int32_t *ids, int cols, bool add)
{
    const T *from = table + static_cast<int64_t>(ids[blockIdx.x]) * cols;
    float *to = y + static_cast<int64_t>(blockIdx.x) * cols;
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += ROW_THREADS)
        to[i] = add ? to[i] + as_float(from[i]) : as_float(from[i]);
}

void op_embed(stream_t st, float *y, const void *table, bool table_bf16, const int32_t *ids, int rows, int cols,
              bool add)
{
    if (rows <= 0)
        return;
    if (table_bf16)
        LAUNCH((embed_rows<bf16>), rows, ROW_THREADS, 0, st, y, static_cast<const bf16 *>(table), ids, cols, add);
    else
        LAUNCH((embed_rows<float>), rows, ROW_THREADS, 0, st, y, static_cast<const float *>(table), ids, cols, add);
}

void op_gather(stream_t st, float *y, const float *x, const int32_t *index, int n, int cols)
{
    op_embed(st, y, x, false, index, n, cols, false);
}

/* ---- norms ---- */

/* A thread's elements of a row. The first so many are read at once and kept: a row of the usual width is waited for
 * once. Wider ones are read again. */
enum { KEPT = 16 };

struct row_part {
    const float *row;
    int cols;
    float kept[KEPT];

    __device__ __forceinline__ row_part(const float *from, int n) : row(from), cols(n)
    {
        UNROLL
        for (int j = 0; j < KEPT; j++) {
            int i = static_cast<int>(threadIdx.x) + j * ROW_THREADS;
            kept[j] = i < cols ? row[i] : 0;
        }
    }
    template <class F> __device__ __forceinline__ void each(F f) const
    {
        UNROLL
        for (int j = 0; j < KEPT; j++) {
            int i = static_cast<int>(threadIdx.x) + j * ROW_THREADS;
            if (i < cols)
                f(i, kept[j]);
        }
        for (int i = static_cast<int>(threadIdx.x) + KEPT * ROW_THREADS; i < cols; i += ROW_THREADS)
            f(i, row[i]);
    }
};

static __global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_rows(float *__restrict__ y, bf16 *__restrict__ narrow, const float *__restrict__ x,
                 const float *__restrict__ g, float eps, int cols)
{
    SHARED(float, sums, ROW_THREADS / WARP_LANES);
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    row_part in(x + row, cols);
    float ss = 0;
    in.each([&](int, float v) { ss = fmaf(v, v, ss); });
    if (PLANTED(PLANT_DIVERGED) && threadIdx.x < ROW_THREADS / 2)
        SYNC_BLOCK();
    float r = 1 / sqrtf(block_sum(ss, sums) / static_cast<float>(cols) + eps);
    in.each([&](int i, float v) { store_both(y, narrow, row + i, v * r * g[i]); });
}

void op_rmsnorm(stream_t st, float *y, bf16 *narrow, const float *x, const float *g, float eps, int rows, int cols)
{
    if (rows > 0)
        LAUNCH(rmsnorm_rows, rows, ROW_THREADS, 0, st, y, narrow, x, g, eps, cols);
}

/* A thread takes N neighbours at a time. */
template <int N, class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_kept_rows(bf16 *__restrict__ y, const T *__restrict__ x, const float *__restrict__ g, float eps, int cols)
{
    SHARED(float, sums, ROW_THREADS / WARP_LANES);
    constexpr int STEP = N * ROW_THREADS, PARTS = KEPT / N;
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    int at = N * static_cast<int>(threadIdx.x);
    float kept[KEPT], ss = 0;
    auto add = [&](const float *v) {
        for (int k = 0; k < N; k++)
            ss = fmaf(v[k], v[k], ss);
    };
    UNROLL
    for (int j = 0; j < PARTS; j++)
        if (at + j * STEP < cols)
            read_several<N>(kept + j * N, x + row + at + j * STEP);
    UNROLL
    for (int j = 0; j < PARTS; j++)
        if (at + j * STEP < cols)
            add(kept + j * N);
    for (int i = at + PARTS * STEP; i < cols; i += STEP) { /* rows wider than what is kept are read again */
        float v[N];
        read_several<N>(v, x + row + i);
        add(v);
    }
    float r = 1 / sqrtf(block_sum(ss, sums) / static_cast<float>(cols) + eps);
    auto put = [&](int i, float *v) {
        float by[N];
        read_several<N>(by, g + i);
        for (int k = 0; k < N; k++)
            v[k] = v[k] * r * by[k];
        write_several<N>(y + row + i, v);
    };
    UNROLL
    for (int j = 0; j < PARTS; j++)
        if (at + j * STEP < cols)
            put(at + j * STEP, kept + j * N);
    for (int i = at + PARTS * STEP; i < cols; i += STEP) {
        float v[N];
        read_several<N>(v, x + row + i);
        put(i, v);
    }
}

template <class T>
static void rmsnorm_kept(stream_t st, bf16 *y, const void *from, const float *g, float eps, int rows, int cols)
{
    const T *x = static_cast<const T *>(from);
    if (cols % 2 == 0)
        LAUNCH((rmsnorm_kept_rows<2, T>), rows, ROW_THREADS, 0, st, y, x, g, eps, cols);
    else
        LAUNCH((rmsnorm_kept_rows<1, T>), rows, ROW_THREADS, 0, st, y, x, g, eps, cols);
}

void op_rmsnorm_kept(stream_t st, bf16 *y, const void *x, bool x_bf16, const float *g, float eps, int rows, int cols)
{
    if (rows > 0)
        (x_bf16 ? rmsnorm_kept<bf16> : rmsnorm_kept<float>)(st, y, x, g, eps, rows, cols);
}

static __global__ void __launch_bounds__(ROW_THREADS)
    layernorm_rows(float *__restrict__ y, bf16 *__restrict__ narrow, const float *__restrict__ x,
                   const float *__restrict__ g, const float *__restrict__ b, float eps, int cols)
{
    SHARED(float, sums, ROW_THREADS / WARP_LANES);
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    row_part in(x + row, cols);
    float sum = 0, var = 0;
    in.each([&](int, float v) { sum += v; });
    float mean = block_sum(sum, sums) / static_cast<float>(cols);
    in.each([&](int, float v) { var = fmaf(v - mean, v - mean, var); });
    float r = 1 / sqrtf(block_sum(var, sums) / static_cast<float>(cols) + eps);
    in.each([&](int i, float v) { store_both(y, narrow, row + i, fmaf((v - mean) * r, g[i], b[i])); });
}

void op_layernorm(stream_t st, float *y, bf16 *narrow, const float *x, const float *g, const float *b, float eps,
                  int rows, int cols)
{
    if (rows > 0)
        LAUNCH(layernorm_rows, rows, ROW_THREADS, 0, st, y, narrow, x, g, b, eps, cols);
}

/* ---- element by element ---- */

static __global__ void __launch_bounds__(FLAT_THREADS)
    add_flat(float *__restrict__ y, const float *__restrict__ x, int64_t n)
{
    each_of_piece(
        blockIdx.x, n,
        [&](int64_t i) {
            return two{ y[i], x[i] };
        },
        [&](int64_t i, two v) { y[i] = v.a + v.b; });
}

void op_add(stream_t st, float *y, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH(add_flat, flat_pieces(n), FLAT_THREADS, 0, st, y, x, n);
}

/* A block takes a piece of a row: no element is divided to find out where it lies. */
static __global__ void __launch_bounds__(FLAT_THREADS)
    silu_mul_rows(float *__restrict__ y, bf16 *__restrict__ narrow, const float *__restrict__ gate_up, int cols)
{
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    const float *gate = gate_up + 2 * row, *up = gate + cols;
    each_of_piece(
        blockIdx.y, cols,
        [&](int64_t i) {
            return two{ gate[i], up[i] };
        },
        [&](int64_t i, two v) { store_both(y, narrow, row + i, v.a / (1 + expf(-v.a)) * v.b); });
    if (PLANTED(PLANT_PAST_THE_END) && blockIdx.x + 1 == gridDim.x && threadIdx.x == 0)
        y[row + cols] = 0;
}

void op_silu_mul(stream_t st, float *y, bf16 *narrow, const float *gate_up, int rows, int cols)
{
    if (rows > 0 && cols > 0)
        LAUNCH(silu_mul_rows, dim3(static_cast<unsigned>(rows), flat_pieces(cols)), FLAT_THREADS, 0, st, y, narrow,
               gate_up, cols);
}

/* A thread takes N neighbours. */
template <int N>
static __global__ void __launch_bounds__(FLAT_THREADS)
    silu_mul_kept_rows(bf16 *__restrict__ y, const bf16 *__restrict__ gate_up, int cols)
{
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    int i = N * static_cast<int>(blockIdx.y * FLAT_THREADS + threadIdx.x);
    if (i >= cols)
        return;
    float gate[N], up[N];
    read_several<N>(gate, gate_up + 2 * row + i);
    read_several<N>(up, gate_up + 2 * row + cols + i);
    UNROLL
    for (int k = 0; k < N; k++)
        up[k] *= gate[k] / (1 + expf(-gate[k]));
    write_several<N>(y + row + i, up);
}

void op_silu_mul_kept(stream_t st, bf16 *y, const bf16 *gate_up, int rows, int cols)
{
    int n = cols % 8 == 0 ? 8 : 1;
    dim3 grid(static_cast<unsigned>(rows), flat_blocks((cols + n - 1) / n));
    if (rows <= 0 || cols <= 0)
        return;
    if (n == 8)
        LAUNCH((silu_mul_kept_rows<8>), grid, FLAT_THREADS, 0, st, y, gate_up, cols);
    else
        LAUNCH((silu_mul_kept_rows<1>), grid, FLAT_THREADS, 0, st, y, gate_up, cols);
}

static __global__ void __launch_bounds__(FLAT_THREADS)
    gelu_flat(float *__restrict__ y, bf16 *__restrict__ narrow, const float *__restrict__ x, int64_t n)
{
    each_of_piece(
        blockIdx.x, n, [&](int64_t i) { return x[i]; },
        [&](int64_t i, float v) { store_both(y, narrow, i, 0.5f * v * (1 + erff(v * 0.70710678118654752f))); });
}

void op_gelu(stream_t st, float *y, bf16 *narrow, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH(gelu_flat, flat_pieces(n), FLAT_THREADS, 0, st, y, narrow, x, n);
}

static __global__ void __launch_bounds__(FLAT_THREADS)
    to_bf16_flat(bf16 *__restrict__ y, const float *__restrict__ x, int64_t n)
{
    each_of_piece(
        blockIdx.x, n, [&](int64_t i) { return x[i]; }, [&](int64_t i, float v) { y[i] = bf16_of_float(v); });
}

void op_to_bf16(stream_t st, bf16 *y, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH(to_bf16_flat, flat_pieces(n), FLAT_THREADS, 0, st, y, x, n);
}

/* A thread takes eight, the last one what is left. */
static __global__ void __launch_bounds__(FLAT_THREADS)
    to_float_flat(float *__restrict__ y, const bf16 *__restrict__ x, int64_t n)
{
    int64_t i = 8 * flat_index();
    if (i + 8 <= n) {
        float v[8];
        read_several<8>(v, x + i);
        write_several<8>(y + i, v);
        return;
    }
    for (; i < n; i++)
        y[i] = float_of_bf16(x[i]);
}

void op_to_float(stream_t st, float *y, const bf16 *x, int64_t n)
{
    if (n > 0)
        LAUNCH(to_float_flat, flat_blocks((n + 7) / 8), FLAT_THREADS, 0, st, y, x, n);
}

template <class T, class Y>
static __global__ void __launch_bounds__(FLAT_THREADS) product_flat(product_op o, int64_t total)
{
    int64_t i = flat_index();
    if (i >= total)
        return;
    int64_t row = i / o.n, col = i % o.n;
    const T *a = static_cast<const T *>(o.a) + (o.a_turned ? row : row * o.k);
    const T *b = static_cast<const T *>(o.b) + (o.b_turned ? col : col * o.k);
    int64_t a_step = o.a_turned ? o.m : 1, b_step = o.b_turned ? o.n : 1;
    float sum = 0;
    for (int64_t j = 0; j < o.k; j++)
        sum = fmaf(as_float(a[j * a_step]), as_float(b[j * b_step]), sum);
    if (o.bias)
        sum += o.bias[col];
    Y *to = static_cast<Y *>(o.y) + row * o.y_stride + col;
    store(to, o.add ? as_float(*to) + sum : sum);
}

void op_product_plain(stream_t st, const product_op &o)
{
    int64_t total = static_cast<int64_t>(o.m) * o.n;
    if (total <= 0)
        return;
    if (o.bf16_out)
        LAUNCH((product_flat<bf16, bf16>), flat_blocks(total), FLAT_THREADS, 0, st, o, total);
    else if (o.bf16_in)
        LAUNCH((product_flat<bf16, float>), flat_blocks(total), FLAT_THREADS, 0, st, o, total);
    else
        LAUNCH((product_flat<float, float>), flat_blocks(total), FLAT_THREADS, 0, st, o, total);
}

/* ---- q/k norm, rotation, append: a warp a head ---- */

enum { ROPE_WARPS = 8 };

/* One head in place: a lane owns the pairs (j, j + half) it turns and every 32nd element behind them, so nothing
 * orders the lanes but the norm, which all of them read for. */
template <class C>
static __device__ __forceinline__ void rope_head(float *x, const float *norm, float eps, const float *cosine,
                                                 const float *sine, int head_dim, int half, C *append)
{
    int lane = lane_id();
    float r = 1;
    if (norm) {
        float ss = 0;
        for (int i = lane; i < head_dim; i += WARP_LANES)
            ss = fmaf(x[i], x[i], ss);
        r = 1 / sqrtf(warp_sum(ss) / static_cast<float>(head_dim) + eps);
        sync_warp(); /* others read what this lane is about to turn; shuffles order no memory */
    }
    for (int j = lane; j < half; j += WARP_LANES) {
        float a = x[j], b = x[j + half];
        if (norm) {
            a = a * r * norm[j];
            b = b * r * norm[j + half];
        }
        float turned_a = a * cosine[j] - b * sine[j], turned_b = b * cosine[j] + a * sine[j];
        x[j] = turned_a;
        x[j + half] = turned_b;
        if (append) {
            store(append + j, turned_a);
            store(append + j + half, turned_b);
        }
    }
    for (int i = 2 * half + lane; i < head_dim; i += WARP_LANES) {
        float v = norm ? x[i] * r * norm[i] : x[i];
        x[i] = v;
        if (append)
            store(append + i, v);
    }
}

template <class C> static __global__ void __launch_bounds__(ROPE_WARPS *WARP_LANES) rope_rows(rope_op o)
{
    int hd = o.head_dim, half = o.rotary / 2, t = static_cast<int>(blockIdx.x);
    int64_t kv = static_cast<int64_t>(o.kv_heads) * hd, width = static_cast<int64_t>(o.heads) * hd + 2 * kv;
    float *row = o.qkv + t * width;
    const float *cosine = o.cos + static_cast<int64_t>(o.table_row[t]) * half;
    const float *sine = o.sin + static_cast<int64_t>(o.table_row[t]) * half;
    int64_t to = o.k_cache ? o.cache_row[t] * kv : -1;
    C *keys = to < 0 ? nullptr : static_cast<C *>(o.k_cache), *values = to < 0 ? nullptr : static_cast<C *>(o.v_cache);
    int h = static_cast<int>(blockIdx.y) * ROPE_WARPS + warp_id();
    if (h < o.heads + 2 * o.kv_heads) {
        float *x = row + static_cast<int64_t>(h) * hd;
        int kv_head = h - o.heads;
        if (kv_head < 0)
            rope_head<C>(x, o.q_norm, o.eps, cosine, sine, hd, half, nullptr);
        else if (kv_head < o.kv_heads)
            rope_head<C>(x, o.k_norm, o.eps, cosine, sine, hd, half, keys ? keys + to + kv_head * hd : nullptr);
        else if (values)
            for (int i = lane_id(); i < hd; i += WARP_LANES)
                store(values + to + (kv_head - o.kv_heads) * hd + i, x[i]);
    }
}

void op_rope(stream_t st, const rope_op &o)
{
    dim3 grid(static_cast<unsigned>(o.rows),
              static_cast<unsigned>((o.heads + 2 * o.kv_heads + ROPE_WARPS - 1) / ROPE_WARPS));
    if (o.rows <= 0)
        return;
    if (o.cache == DTYPE_BF16)
        LAUNCH((rope_rows<bf16>), grid, ROPE_WARPS * WARP_LANES, 0, st, o);
    else if (o.cache == DTYPE_F8)
        LAUNCH((rope_rows<f8>), grid, ROPE_WARPS * WARP_LANES, 0, st, o);
    else
        LAUNCH((rope_rows<float>), grid, ROPE_WARPS * WARP_LANES, 0, st, o);
}

/* From one place to another: a lane takes N pairs at a time. */
template <int N, class T, class F>
static __global__ void __launch_bounds__(ROPE_WARPS *WARP_LANES) rope_kept_rows(rope_op o, T *to, const F *from)
{
    int hd = o.head_dim, half = o.rotary / 2, lane = lane_id(),
        h = static_cast<int>(blockIdx.y) * ROPE_WARPS + warp_id();
    int64_t t = blockIdx.x, at = (t * (o.heads + 2 * o.kv_heads) + h) * hd,
            row = static_cast<int64_t>(o.table_row[t]) * half;
    if (h >= o.heads + 2 * o.kv_heads)
        return;
    const F *x = from + at;
    T *y = to + at;
    bool turned = h < o.heads + o.kv_heads;
    const float *norm = turned ? h < o.heads ? o.q_norm : o.k_norm : nullptr;
    float r = 1;
    if (norm) {
        float ss = 0, v[N];
        for (int i = N * lane; i < hd; i += N * WARP_LANES) {
            read_several<N>(v, x + i);
            for (int k = 0; k < N; k++)
                ss = fmaf(v[k], v[k], ss);
        }
        r = 1 / sqrtf(warp_sum(ss) / static_cast<float>(hd) + o.eps);
    }
    auto read = [&](float *v, int i) {
        read_several<N>(v, x + i);
        for (int k = 0; norm && k < N; k++)
            v[k] = v[k] * r * norm[i + k];
    };
    for (int j = N * lane; turned && j < half; j += N * WARP_LANES) {
        float a[N], b[N], c[N], s[N];
        read(a, j);
        read(b, j + half);
        read_several<N>(c, o.cos + row + j);
        read_several<N>(s, o.sin + row + j);
        for (int k = 0; k < N; k++) {
            float turned_a = a[k] * c[k] - b[k] * s[k];
            b[k] = b[k] * c[k] + a[k] * s[k];
            a[k] = turned_a;
        }
        write_several<N>(y + j, a);
        write_several<N>(y + j + half, b);
    }
    for (int i = (turned ? 2 * half : 0) + N * lane; i < hd; i += N * WARP_LANES) {
        float v[N];
        read(v, i);
        write_several<N>(y + i, v);
    }
}

template <class T, class F> static void rope_kept(stream_t st, const rope_op &o, void *to, const void *from)
{
    dim3 grid(static_cast<unsigned>(o.rows),
              static_cast<unsigned>((o.heads + 2 * o.kv_heads + ROPE_WARPS - 1) / ROPE_WARPS));
    T *y = static_cast<T *>(to);
    const F *x = static_cast<const F *>(from);
    if (o.head_dim % 2 == 0 && o.rotary % 4 == 0)
        LAUNCH((rope_kept_rows<2, T, F>), grid, ROPE_WARPS * WARP_LANES, 0, st, o, y, x);
    else
        LAUNCH((rope_kept_rows<1, T, F>), grid, ROPE_WARPS * WARP_LANES, 0, st, o, y, x);
}

void op_rope_kept(stream_t st, const rope_op &o, void *to, bool to_bf16, const void *from, bool from_bf16)
{
    if (o.rows > 0)
        (!to_bf16    ? rope_kept<float, float>
         : from_bf16 ? rope_kept<bf16, bf16>
                     : rope_kept<bf16, float>)(st, o, to, from);
}

/* ---- inputs of the next decode step ---- */

static __global__ void __launch_bounds__(FLAT_THREADS) decode_inputs_flat(decode_inputs_op o)
{
    int64_t i = flat_index();
    if (i >= o.n)
        return;
    int s = o.slot_of[i], id = 0, row = 0, context = 1, cache = -1;
    const sample_slot *slot = o.slots + s;
    if (slot->done == SAMPLE_RUNNING) {
        int p = slot->position;
        id = slot->last;
        row = p + o.rope_offset[s];
        context = p + 1;
        cache = o.page_table[static_cast<int64_t>(s) * o.max_pages + p / KV_PAGE] * KV_PAGE + p % KV_PAGE;
    }
    o.ids[i] = id;
    o.table_row[i] = row;
    o.context[i] = context;
    o.cache_row[i] = cache;
}

void op_decode_inputs(stream_t st, const decode_inputs_op &o)
{
    if (o.n > 0)
        LAUNCH(decode_inputs_flat, flat_blocks(o.n), FLAT_THREADS, 0, st, o);
}
