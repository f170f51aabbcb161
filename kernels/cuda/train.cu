/* train.cu - the way back. Kernels of the first rung: one pass each, float sums in a fixed order, no atomics, so the
 * gradients of a step are the same on every run. */
#include "kernels/cuda/train_ops.h"

#include "kernels/cuda/flat.cuh"
#include "kernels/cuda/random.cuh"

enum { ROW_THREADS = 256, WARPS = ROW_THREADS / WARP_LANES };

static unsigned blocks_of(int64_t n, int64_t each)
{
    return static_cast<unsigned>((n + each - 1) / each);
}

static __device__ __forceinline__ int64_t flat_index()
{
    return static_cast<int64_t>(blockIdx.x) * FLAT_THREADS + threadIdx.x;
}

/* ---- element by element ---- */

/* Which of a list's entries a block works for: the last that begins at or before it. */
template <class L> static __device__ __forceinline__ int entry_of(const L *list, int n)
{
    int i = 0;
    while (i + 1 < n && list[i + 1].first_block <= static_cast<int64_t>(blockIdx.x))
        i++;
    return i;
}

static __global__ void __launch_bounds__(FLAT_THREADS) copy_pieces(copy_op o)
{
    const auto &b = o.block[entry_of(o.block, o.blocks)];
    each_of_piece(
        static_cast<unsigned>(blockIdx.x - b.first_block), b.rows * b.cols, [](int64_t i) { return i; },
        [&](int64_t i, int64_t) {
            int64_t row = i / b.cols, to = row * b.y_stride + i % b.cols, from = row * b.x_stride + i % b.cols;
            if (b.size == 1)
                static_cast<uint8_t *>(b.y)[to] = static_cast<const uint8_t *>(b.x)[from];
            else if (b.size == 2)
                static_cast<uint16_t *>(b.y)[to] = static_cast<const uint16_t *>(b.x)[from];
            else
                static_cast<float *>(b.y)[to] = b.by * static_cast<const float *>(b.x)[from];
        });
}

void op_copy_blocks(stream_t st, copy_op &o)
{
    int64_t blocks = 0;
    for (int i = 0; i < o.blocks; i++) {
        o.block[i].first_block = blocks;
        blocks += flat_pieces(o.block[i].rows * o.block[i].cols);
    }
    if (blocks > 0)
        LAUNCH(copy_pieces, static_cast<unsigned>(blocks), FLAT_THREADS, 0, st, o);
}

static __global__ void __launch_bounds__(FLAT_THREADS) fill_flat(float *y, float value, int64_t n)
{
    int64_t i = flat_index();
    if (i < n)
        y[i] = value;
}

void op_fill(stream_t st, float *y, float value, int64_t n)
{
    if (n > 0)
        LAUNCH(fill_flat, blocks_of(n, FLAT_THREADS), FLAT_THREADS, 0, st, y, value, n);
}

static __global__ void __launch_bounds__(FLAT_THREADS) scale_flat(float *y, float by, int64_t n)
{
    int64_t i = flat_index();
    if (i < n)
        y[i] *= by;
}

void op_scale(stream_t st, float *y, float by, int64_t n)
{
    if (n > 0)
        LAUNCH(scale_flat, blocks_of(n, FLAT_THREADS), FLAT_THREADS, 0, st, y, by, n);
}

struct dropout_op {
    float *y, p;
    uint32_t key[2], stream[2];
    uint64_t first;
    int64_t n;
};

static __global__ void __launch_bounds__(FLAT_THREADS) dropout_flat(dropout_op o)
{
    int64_t i = flat_index();
    if (i >= o.n)
        return;
    double u = unit_at(o.key[0], o.key[1], o.stream[0], o.stream[1], o.first + static_cast<uint64_t>(i));
    o.y[i] = u < static_cast<double>(o.p) ? 0 : o.y[i] / (1 - o.p);
}

void op_dropout(stream_t st, float *y, float p, const uint32_t key[2], const uint32_t stream[2], uint64_t first,
                int64_t n)
{
    dropout_op o = { y, p, { key[0], key[1] }, { stream[0], stream[1] }, first, n };
    if (n > 0)
        LAUNCH(dropout_flat, blocks_of(n, FLAT_THREADS), FLAT_THREADS, 0, st, o);
}

/* A thread takes eight elements: one position of the stream, two reads and one write. */
struct chance_op {
    bf16 *y;
    const float *x;
    int64_t n;
    uint32_t key[2], stream[2];
};

/* bf16 is the upper half of a float: as many random bits are added to the lower half, and a carry is the step away from
 * 0. */
static __device__ __forceinline__ bf16 bf16_by_chance(float f, uint32_t draw /* below 2^16 */)
{
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return bf16_of_float(f); /* NaN stays NaN */
    return bf16{ static_cast<uint16_t>((u + draw) >> 16) };
}

static __global__ void __launch_bounds__(FLAT_THREADS) to_bf16_by_chance(chance_op o)
{
    int64_t eight = PLANTED(PLANT_LOCAL_DRAW) ? threadIdx.x : flat_index(), first = 8 * flat_index();
    uint32_t draw[4];
    random_at(draw, o.key[0], o.key[1], o.stream[0], o.stream[1], static_cast<uint64_t>(eight));
    if (first + 8 <= o.n) {
        several<float, 8> from = *reinterpret_cast<const several<float, 8> *>(o.x + first);
        several<bf16, 8> to;
        UNROLL
        for (int j = 0; j < 8; j++)
            to.v[j] = bf16_by_chance(from.v[j], draw[j / 2] >> 16 * (j % 2) & 0xffff);
        *reinterpret_cast<several<bf16, 8> *>(o.y + first) = to;
        return;
    }
    UNROLL
    for (int j = 0; j < 8; j++)
        if (first + j < o.n)
            o.y[first + j] = bf16_by_chance(o.x[first + j], draw[j / 2] >> 16 * (j % 2) & 0xffff);
}

void op_to_bf16_by_chance(stream_t st, bf16 *y, const float *x, int64_t n, const uint32_t key[2],
                          const uint32_t stream[2])
{
    chance_op o = { y, x, n, { key[0], key[1] }, { stream[0], stream[1] } };
    if (n > 0)
        LAUNCH(to_bf16_by_chance, blocks_of(n, 8 * FLAT_THREADS), FLAT_THREADS, 0, st, o);
}

struct gated {
    float dy, gate, up;
};

static __global__ void __launch_bounds__(FLAT_THREADS)
    silu_mul_backward_rows(float *__restrict__ dgate_up, const float *__restrict__ dy,
                           const float *__restrict__ gate_up, int cols)
{
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    const float *gate = gate_up + 2 * row, *d = dy + row;
    float *to = dgate_up + 2 * row;
    each_of_piece(
        blockIdx.y, cols,
        [&](int64_t i) {
            return gated{ d[i], gate[i], gate[i + cols] };
        },
        [&](int64_t i, gated v) {
            float s = 1 / (1 + expf(-v.gate));
            to[i] = v.dy * v.up * s * (1 + v.gate * (1 - s));
            to[i + cols] = v.dy * v.gate * s;
        });
}

void op_silu_mul_backward(stream_t st, float *dgate_up, const float *dy, const float *gate_up, int rows, int cols)
{
    if (rows > 0 && cols > 0)
        LAUNCH(silu_mul_backward_rows, dim3(static_cast<unsigned>(rows), flat_pieces(cols)), FLAT_THREADS, 0, st,
               dgate_up, dy, gate_up, cols);
}

/* A thread takes N neighbours. */
template <int N>
static __global__ void __launch_bounds__(FLAT_THREADS)
    silu_mul_backward_kept(bf16 *__restrict__ dgate_up, const float *__restrict__ dy, const bf16 *__restrict__ gate_up,
                           int cols)
{
    int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
    int i = N * static_cast<int>(blockIdx.y * FLAT_THREADS + threadIdx.x);
    if (i >= cols)
        return;
    float gate[N], up[N], d[N];
    read_several<N>(gate, gate_up + 2 * row + i);
    read_several<N>(up, gate_up + 2 * row + cols + i);
    read_several<N>(d, dy + row + i);
    UNROLL
    for (int k = 0; k < N; k++) {
        float s = 1 / (1 + expf(-gate[k])), g = gate[k];
        gate[k] = d[k] * up[k] * s * (1 + g * (1 - s));
        up[k] = d[k] * g * s;
    }
    write_several<N>(dgate_up + 2 * row + i, gate);
    write_several<N>(dgate_up + 2 * row + cols + i, up);
}

void op_silu_mul_backward_kept(stream_t st, bf16 *dgate_up, const float *dy, const bf16 *gate_up, int rows, int cols)
{
    int n = cols % 8 == 0 ? 8 : 1;
    dim3 grid(static_cast<unsigned>(rows), blocks_of((cols + n - 1) / n, FLAT_THREADS));
    if (rows <= 0 || cols <= 0)
        return;
    if (n == 8)
        LAUNCH((silu_mul_backward_kept<8>), grid, FLAT_THREADS, 0, st, dgate_up, dy, gate_up, cols);
    else
        LAUNCH((silu_mul_backward_kept<1>), grid, FLAT_THREADS, 0, st, dgate_up, dy, gate_up, cols);
}

static __global__ void __launch_bounds__(FLAT_THREADS)
    gelu_backward_flat(float *__restrict__ dx, const float *__restrict__ dy, const float *__restrict__ x, int64_t n)
{
    each_of_piece(
        blockIdx.x, n,
        [&](int64_t i) {
            return two{ dy[i], x[i] };
        },
        [&](int64_t i, two v) {
            float z = v.b, cdf = 0.5f * erfcf(-z * 0.70710678118654752f);
            dx[i] = v.a * (cdf + z * 0.39894228040143268f * expf(-0.5f * z * z));
        });
}

void op_gelu_backward(stream_t st, float *dx, const float *dy, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH(gelu_backward_flat, flat_pieces(n), FLAT_THREADS, 0, st, dx, dy, x, n);
}

/* ---- rows that go back to where they came from ---- */

static __global__ void __launch_bounds__(ROW_THREADS)
    scatter_rows(float *y, const float *x, const int32_t *index, int cols)
{
    float *to = y + static_cast<int64_t>(index[blockIdx.x]) * cols;
    const float *from = x + static_cast<int64_t>(blockIdx.x) * cols;
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += ROW_THREADS)
        to[i] += from[i];
}

void op_scatter(stream_t st, float *y, const float *x, const int32_t *index, int n, int cols)
{
    if (n > 0)
        LAUNCH(scatter_rows, static_cast<unsigned>(n), ROW_THREADS, 0, st, y, x, index, cols);
}

/* The block of the first row with an id adds all rows with it; the others have nothing to do. */
static __global__ void __launch_bounds__(ROW_THREADS)
    embed_backward_rows(float *dtable, const float *dy, const int32_t *ids, int rows, int cols)
{
    SHARED(unsigned, same, WARPS);
    SHARED(int, least, WARPS);
    int t = static_cast<int>(blockIdx.x), id = ids[t], first = t;
    for (int i = static_cast<int>(threadIdx.x); i < t && first == t; i += ROW_THREADS)
        if (ids[i] == id)
            first = i;
    if (block_min(first, least) < t && !PLANTED(PLANT_REPEATED_ID))
        return;
    float *to = dtable + static_cast<int64_t>(id) * cols;
    for (int from = t; from < rows; from += ROW_THREADS) {
        int row = from + static_cast<int>(threadIdx.x);
        unsigned mine = vote(row < rows && ids[row] == id);
        SYNC_BLOCK(); /* whoever read the last piece has it */
        if (lane_id() == 0)
            same[warp_id()] = mine;
        SYNC_BLOCK();
        for (int w = 0; w < WARPS; w++)
            for (unsigned bits = same[w]; bits; bits &= bits - 1) {
                const float *x = dy + static_cast<int64_t>(from + w * WARP_LANES + first_bit(bits)) * cols;
                for (int i = static_cast<int>(threadIdx.x); i < cols; i += ROW_THREADS)
                    to[i] += x[i];
            }
    }
}

void op_embed_backward(stream_t st, float *dtable, const float *dy, const int32_t *ids, int rows, int cols)
{
    if (rows > 0)
        LAUNCH(embed_backward_rows, static_cast<unsigned>(rows), ROW_THREADS, 0, st, dtable, dy, ids, rows, cols);
}

/* ---- sums over rows: pieces of PIECE rows, then the pieces in order ---- */

enum { PIECE = 64, SUM_THREADS = 128 };

template <class T> struct vectors {
    const T *v;
    int64_t stride;
    int heads, cols;
};

template <class T> static __device__ __forceinline__ const T *vector_at(const vectors<T> &x, int64_t i)
{
    return x.v + i / x.heads * x.stride + i % x.heads * x.cols;
}

/* What is summed: dy, or dy times what the norm made of x, (x - mean) r. stat: r and mean of each vector, or NULL. */
template <class D, class T>
static __global__ void __launch_bounds__(SUM_THREADS)
    column_pieces(float *pieces, vectors<D> dy, vectors<T> x, const float *stat, int64_t n)
{
    int i = static_cast<int>(blockIdx.y * SUM_THREADS + threadIdx.x);
    if (i >= dy.cols)
        return;
    int64_t from = static_cast<int64_t>(blockIdx.x) * PIECE, to = from + PIECE < n ? from + PIECE : n;
    float sum = 0;
    for (int64_t t = from; t < to - PLANTED(PLANT_PIECE); t++) {
        float d = as_float(vector_at(dy, t)[i]);
        sum = stat ? fmaf(d, (as_float(vector_at(x, t)[i]) - stat[2 * t + 1]) * stat[2 * t], sum) : sum + d;
    }
    pieces[blockIdx.x * static_cast<int64_t>(dy.cols) + i] = sum;
}

static __global__ void __launch_bounds__(SUM_THREADS) add_pieces(float *sums, const float *pieces, int64_t n, int cols)
{
    int i = static_cast<int>(blockIdx.x * SUM_THREADS + threadIdx.x);
    if (i >= cols)
        return;
    float sum = 0;
    for (int64_t p = 0; p < n; p++)
        sum += pieces[p * cols + i];
    sums[i] += sum;
}

static int64_t pieces_of(int64_t rows)
{
    return (rows + PIECE - 1) / PIECE;
}

template <class D, class T>
static void column_sums(stream_t st, float *sums, const vectors<D> &dy, const vectors<T> &x, const float *stat,
                        int64_t n, float *pieces)
{
    unsigned across = blocks_of(dy.cols, SUM_THREADS);
    LAUNCH((column_pieces<D, T>), dim3(static_cast<unsigned>(pieces_of(n)), across), SUM_THREADS, 0, st, pieces, dy, x,
           stat, n);
    LAUNCH(add_pieces, across, SUM_THREADS, 0, st, sums, pieces, pieces_of(n), dy.cols);
}

size_t column_sums_scratch(int64_t rows, int cols)
{
    return static_cast<size_t>(pieces_of(rows)) * static_cast<size_t>(cols) * sizeof(float);
}

template <class D> static void sums_of(stream_t st, float *db, const void *dy, int64_t rows, int cols, void *scratch)
{
    vectors<D> v = { static_cast<const D *>(dy), cols, 1, cols };
    column_sums(st, db, v, vectors<float>{ nullptr, 0, 1, cols }, nullptr, rows, static_cast<float *>(scratch));
}

void op_column_sums(stream_t st, float *db, const void *dy, bool dy_bf16, int64_t rows, int cols, void *scratch)
{
    if (rows > 0)
        (dy_bf16 ? sums_of<bf16> : sums_of<float>)(st, db, dy, rows, cols, scratch);
}

/* ---- norms ---- */

/* y = g x r:       dx = r (g dy - x r^2 mean(g dy x))
 * y = g z + b with z = (x - mean) r:   dx = r (g dy - mean(g dy) - z mean(g dy z)) */
enum { WARP_VECTOR = 1024 }; /* vectors of at most so many elements are a warp's, longer ones a block's */

/* The threads that share a vector: which one, this thread's place among them, their sums. */
template <bool WARP> struct team {
    int64_t vector;
    int at;
    float *sums;
    static constexpr int SIZE = WARP ? int(WARP_LANES) : int(ROW_THREADS);

    __device__ __forceinline__ explicit team(float *shared)
        : vector(WARP ? static_cast<int64_t>(blockIdx.x) * WARPS + warp_id() : blockIdx.x),
          at(WARP ? lane_id() : static_cast<int>(threadIdx.x)), sums(shared)
    {
    }
    __device__ __forceinline__ float sum(float v) const
    {
        return WARP ? warp_sum(v) : block_sum(v, sums);
    }
};

template <bool WARP, class T>
static __device__ __forceinline__ void statistics(const team<WARP> &all, const norm_backward_op &o, const T *x,
                                                  float &r, float &mean)
{
    float ss = 0, n = static_cast<float>(o.cols);
    mean = 0;
    if (o.layer) {
        for (int i = all.at; i < o.cols; i += all.SIZE)
            mean += as_float(x[i]);
        mean = all.sum(mean) / n;
    }
    for (int i = all.at; i < o.cols; i += all.SIZE)
        ss = fmaf(as_float(x[i]) - mean, as_float(x[i]) - mean, ss);
    r = 1 / sqrtf(all.sum(ss) / n + o.eps);
}

template <class T> static __device__ __forceinline__ const T *vector_of(const norm_backward_op &o, int64_t v)
{
    return static_cast<const T *>(o.x) + v / o.heads * o.x_stride + v % o.heads * o.cols;
}

template <bool WARP, class T>
static __global__ void __launch_bounds__(ROW_THREADS) norm_statistics(norm_backward_op o, float *stat)
{
    SHARED(float, sums, WARPS);
    team<WARP> all(sums);
    int64_t v = all.vector;
    float r, mean;
    if (v >= o.vectors)
        return; /* a whole warp, of those that need no barrier */
    statistics(all, o, vector_of<T>(o, v), r, mean);
    if (all.at == 0) {
        stat[2 * v] = r;
        stat[2 * v + 1] = mean;
    }
}

template <bool WARP, class T>
static __global__ void __launch_bounds__(ROW_THREADS) norm_backward_vectors(norm_backward_op o)
{
    SHARED(float, sums, WARPS);
    team<WARP> all(sums);
    if (all.vector >= o.vectors)
        return;
    int64_t row = all.vector / o.heads, head = all.vector % o.heads * o.cols;
    const T *x = vector_of<T>(o, all.vector);
    const float *dy = o.dy + row * o.dy_stride + head;
    float *dx = o.dx + row * o.dx_stride + head, r, mean, one = 0, two = 0, n = static_cast<float>(o.cols);
    statistics(all, o, x, r, mean);
    for (int i = all.at; i < o.cols; i += all.SIZE) {
        float h = dy[i] * o.g[i];
        one += h;
        two = fmaf(h, (as_float(x[i]) - mean) * r, two);
    }
    one = o.layer ? all.sum(one) / n : 0;
    two = all.sum(two) / n;
    for (int i = all.at; i < o.cols; i += all.SIZE) {
        float d = r * (dy[i] * o.g[i] - one - (as_float(x[i]) - mean) * r * two);
        dx[i] = o.replace ? d : dx[i] + d; /* dx may be dy: each thread reads and writes elements of its own */
    }
}

size_t norm_backward_scratch(const norm_backward_op &o)
{
    return static_cast<size_t>(o.vectors) * 2 * sizeof(float) + column_sums_scratch(o.vectors, o.cols);
}

template <bool WARP, class T> static void norm_back(stream_t st, const norm_backward_op &o)
{
    unsigned blocks = blocks_of(o.vectors, WARP ? WARPS : 1);
    float *stat = static_cast<float *>(o.scratch), *pieces = stat + 2 * o.vectors;
    vectors<float> dy = { o.dy, o.dy_stride, o.heads, o.cols };
    vectors<T> x = { static_cast<const T *>(o.x), o.x_stride, o.heads, o.cols };
    if (o.dg) {
        LAUNCH((norm_statistics<WARP, T>), blocks, ROW_THREADS, 0, st, o, stat);
        column_sums(st, o.dg, dy, x, stat, o.vectors, pieces);
    }
    if (o.db)
        column_sums(st, o.db, dy, x, nullptr, o.vectors, pieces);
    LAUNCH((norm_backward_vectors<WARP, T>), blocks, ROW_THREADS, 0, st, o); /* last: it may overwrite dy */
}

void op_norm_backward(stream_t st, const norm_backward_op &o)
{
    if (o.vectors <= 0)
        return;
    bool warp = o.cols <= WARP_VECTOR;
    if (o.x_bf16)
        (warp ? norm_back<true, bf16> : norm_back<false, bf16>)(st, o);
    else
        (warp ? norm_back<true, float> : norm_back<false, float>)(st, o);
}

/* ---- rotation: orthogonal, so its transpose turns back. A warp a head. ---- */

static __global__ void __launch_bounds__(ROW_THREADS)
    unrotate_rows(float *dqkv, const float *cos, const float *sin, const int32_t *table_row, int heads, int kv_heads,
                  int head_dim, int half)
{
    int64_t t = blockIdx.x, width = static_cast<int64_t>(heads + 2 * kv_heads) * head_dim;
    const float *c = cos + static_cast<int64_t>(table_row[t]) * half,
                *s = sin + static_cast<int64_t>(table_row[t]) * half;
    for (int h = warp_id(); h < heads + kv_heads; h += WARPS) {
        float *g = dqkv + t * width + static_cast<int64_t>(h) * head_dim;
        for (int j = lane_id(); j < half; j += WARP_LANES) {
            float a = g[j], b = g[j + half];
            g[j] = a * c[j] + b * s[j];
            g[j + half] = b * c[j] - a * s[j];
        }
    }
}

void op_unrotate(stream_t st, float *dqkv, const float *cos, const float *sin, const int32_t *table_row, int rows,
                 int heads, int kv_heads, int head_dim, int rotary)
{
    if (rows > 0)
        LAUNCH(unrotate_rows, static_cast<unsigned>(rows), ROW_THREADS, 0, st, dqkv, cos, sin, table_row, heads,
               kv_heads, head_dim, rotary / 2);
}

/* ---- attention ----
 * p = e^(s - lse);  dv_j += p do;  ds = p (do.v_j - do.o) scale;  dq += ds k_j;  dk_j += ds q.
 * A warp owns what it sums: the dq of a row and head, or the dk and dv of a key and its head, over all rows that see
 * it. Scores and do.v are taken a key (a row) a lane, sums of vectors with the lanes across. */

enum { BACK_WARPS = 4, HEAD_MAX = 256, PER_LANE = HEAD_MAX / WARP_LANES };

struct attend_back {
    attend_op o;
    float *dqkv;
    const float *dout, *delta;
};

static __global__ void __launch_bounds__(BACK_WARPS *WARP_LANES)
    attend_delta(attend_op o, const float *dout, float *delta)
{
    int64_t item = static_cast<int64_t>(blockIdx.x) * BACK_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return;
    float sum = 0;
    for (int i = lane_id(); i < o.head_dim; i += WARP_LANES)
        sum = fmaf(dout[item * o.head_dim + i], o.out[item * o.head_dim + i], sum);
    sum = warp_sum(sum);
    if (lane_id() == 0)
        delta[item] = sum;
}

static __device__ __forceinline__ float dot_of(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

static __global__ void __launch_bounds__(BACK_WARPS *WARP_LANES) attend_back_queries(attend_back a)
{
    SHARED(float, shared, BACK_WARPS *WARP_LANES);
    const attend_op &o = a.o;
    float *mine = shared + warp_id() * WARP_LANES;
    int64_t item = static_cast<int64_t>(blockIdx.x) * BACK_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return;
    int hd = o.head_dim, lane = lane_id(), t = static_cast<int>(item / o.heads), h = static_cast<int>(item % o.heads);
    int s = sequence_of(o.begin, o.nseq, t), begin = o.begin[s], position = t - begin;
    int last = o.causal ? t + 1 : o.begin[s + 1];
    int first = o.causal && o.window > 0 && position - o.window + 1 > 0 ? t - o.window + 1 : begin;
    int64_t kv = static_cast<int64_t>(o.kv_heads) * hd, q_width = static_cast<int64_t>(o.heads) * hd;
    int64_t width = q_width + 2 * kv, column = q_width + static_cast<int64_t>(h / (o.heads / o.kv_heads)) * hd;
    const float *q = o.qkv + t * width + static_cast<int64_t>(h) * hd, *d = a.dout + item * hd;
    float lse = o.lse[item], delta = a.delta[item], sum[PER_LANE];
    for (int i = 0; i < PER_LANE; i++)
        sum[i] = 0;
    for (int from = first; from < last; from += WARP_LANES) {
        float ds = 0;
        if (from + lane < last) {
            const float *k = o.qkv + (from + lane) * width + column;
            float p = expf(dot_of(q, k, hd) * o.scale - lse);
            ds = p * (dot_of(d, k + kv, hd) - delta) * o.scale;
        }
        mine[lane] = ds;
        sync_warp();
        for (int j = 0; j < WARP_LANES && from + j < last; j++) {
            float dsj = mine[j];
            const float *k = o.qkv + (from + j) * width + column;
            for (int i = 0; i < PER_LANE; i++)
                if (lane + i * WARP_LANES < hd)
                    sum[i] = fmaf(dsj, k[lane + i * WARP_LANES], sum[i]);
        }
        sync_warp();
    }
    for (int i = 0; i < PER_LANE; i++)
        if (lane + i * WARP_LANES < hd)
            a.dqkv[t * width + static_cast<int64_t>(h) * hd + lane + i * WARP_LANES] = sum[i];
}

static __global__ void __launch_bounds__(BACK_WARPS *WARP_LANES) attend_back_keys(attend_back a)
{
    SHARED(float, shared, BACK_WARPS *WARP_LANES * 2);
    const attend_op &o = a.o;
    float *mine = shared + warp_id() * WARP_LANES * 2;
    int64_t item = static_cast<int64_t>(blockIdx.x) * BACK_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.kv_heads)
        return;
    int hd = o.head_dim, lane = lane_id(), key = static_cast<int>(item / o.kv_heads);
    int kv_head = static_cast<int>(item % o.kv_heads), group = o.heads / o.kv_heads;
    int s = sequence_of(o.begin, o.nseq, key), end = o.begin[s + 1];
    int first = o.causal ? key + PLANTED(PLANT_UNSEEN_ROW) : o.begin[s]; /* rows first .. last-1 see it */
    int last = o.causal && o.window > 0 && key + o.window < end ? key + o.window : end;
    int64_t kv = static_cast<int64_t>(o.kv_heads) * hd, q_width = static_cast<int64_t>(o.heads) * hd;
    int64_t width = q_width + 2 * kv, at = key * width + q_width + static_cast<int64_t>(kv_head) * hd;
    const float *k = o.qkv + at;
    float dk[PER_LANE], dv[PER_LANE];
    for (int i = 0; i < PER_LANE; i++)
        dk[i] = dv[i] = 0;
    for (int h = kv_head * group; h < (kv_head + 1) * group; h++)
        for (int from = first; from < last; from += WARP_LANES) {
            float p = 0, ds = 0;
            if (from + lane < last) {
                int64_t row = static_cast<int64_t>(from + lane) * o.heads + h;
                const float *q = o.qkv + (from + lane) * width + static_cast<int64_t>(h) * hd;
                p = expf(dot_of(q, k, hd) * o.scale - o.lse[row]);
                ds = p * (dot_of(a.dout + row * hd, k + kv, hd) - a.delta[row]) * o.scale;
            }
            mine[lane] = p;
            mine[WARP_LANES + lane] = ds;
            sync_warp();
            for (int j = 0; j < WARP_LANES && from + j < last; j++) {
                float pj = mine[j], dsj = mine[WARP_LANES + j];
                const float *q = o.qkv + (from + j) * width + static_cast<int64_t>(h) * hd;
                const float *d = a.dout + (static_cast<int64_t>(from + j) * o.heads + h) * hd;
                for (int i = 0; i < PER_LANE; i++)
                    if (lane + i * WARP_LANES < hd) {
                        dk[i] = fmaf(dsj, q[lane + i * WARP_LANES], dk[i]);
                        dv[i] = fmaf(pj, d[lane + i * WARP_LANES], dv[i]);
                    }
            }
            sync_warp();
        }
    for (int i = 0; i < PER_LANE; i++)
        if (lane + i * WARP_LANES < hd) {
            a.dqkv[at + lane + i * WARP_LANES] = dk[i];
            a.dqkv[at + kv + lane + i * WARP_LANES] = dv[i];
        }
}

void op_attend_backward(stream_t st, const attend_op &o, float *dqkv, const float *dout, float *delta)
{
    int64_t queries = static_cast<int64_t>(o.rows) * o.heads, keys = static_cast<int64_t>(o.rows) * o.kv_heads;
    attend_back a = { o, dqkv, dout, delta };
    if (o.rows <= 0)
        return;
    LAUNCH(attend_delta, blocks_of(queries, BACK_WARPS), BACK_WARPS * WARP_LANES, 0, st, o, dout, delta);
    LAUNCH(attend_back_queries, blocks_of(queries, BACK_WARPS), BACK_WARPS * WARP_LANES, 0, st, a);
    LAUNCH(attend_back_keys, blocks_of(keys, BACK_WARPS), BACK_WARPS * WARP_LANES, 0, st, a);
}

/* ---- loss and optimizer ---- */

/* One block a row; logits become their gradient where they lie. */
static __global__ void __launch_bounds__(ROW_THREADS)
    cross_entropy_rows(float *loss, float *logits, const int32_t *target, float scale, int vocab)
{
    SHARED(float, most, WARPS);
    SHARED(double, sums, WARPS);
    int row = static_cast<int>(blockIdx.x), id = target[row], at = static_cast<int>(threadIdx.x);
    float *x = logits + static_cast<int64_t>(row) * vocab, max = -INFINITY;
    if (id < 0) {
        for (int i = at; i < vocab; i += ROW_THREADS)
            x[i] = 0;
        if (at == 0)
            loss[row] = 0;
        return;
    }
    for (int i = at; i < vocab; i += ROW_THREADS)
        max = fmaxf(max, x[i]);
    max = block_max(max, most);
    double sum = 0;
    for (int i = at; i < vocab; i += ROW_THREADS)
        sum += static_cast<double>(expf(x[i] - max));
    sum = block_sum(sum, sums);
    if (at == 0)
        loss[row] = static_cast<float>(log(sum) - (static_cast<double>(x[id]) - static_cast<double>(max)));
    SYNC_BLOCK(); /* the target's logit has been read */
    float by = static_cast<float>(1 / sum);
    for (int i = at; i < vocab; i += ROW_THREADS)
        x[i] = scale * (expf(x[i] - max) * by - (i == id ? 1.0f : 0.0f));
}

void op_cross_entropy(stream_t st, float *loss, float *logits, const int32_t *target, float scale, int n, int vocab)
{
    if (n > 0)
        LAUNCH(cross_entropy_rows, static_cast<unsigned>(n), ROW_THREADS, 0, st, loss, logits, target, scale, vocab);
}

/* The number of blocks follows from n, not from the chip: the order of the sum is part of the result. */
static __global__ void __launch_bounds__(ROW_THREADS) square_pieces(squares_op o, double *pieces)
{
    SHARED(double, sums, WARPS);
    const auto &t = o.tensor[entry_of(o.tensor, o.tensors)];
    double sum = 0;
    for (int64_t i = (blockIdx.x - t.first_block) * static_cast<int64_t>(ROW_THREADS) + threadIdx.x; i < t.n;
         i += t.blocks * static_cast<int64_t>(ROW_THREADS))
        sum += static_cast<double>(t.x[i]) * static_cast<double>(t.x[i]);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0)
        pieces[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(ROW_THREADS) add_squares(squares_op o, const double *pieces)
{
    SHARED(double, sums, WARPS);
    for (int i = 0; i < o.tensors; i++) {
        const auto &t = o.tensor[i];
        int at = static_cast<int>(threadIdx.x);
        double sum = block_sum(at < t.blocks ? pieces[t.first_block + at] : 0.0, sums);
        if (at == 0)
            *o.out += static_cast<float>(sum);
    }
}

static_assert(int(SQUARES_BLOCKS) == int(ROW_THREADS), "a thread for each piece");

void op_sum_squares(stream_t st, squares_op &o, double *scratch)
{
    int blocks = 0;
    for (int i = 0; i < o.tensors; i++) {
        auto &t = o.tensor[i];
        int64_t n = (t.n + 16 * ROW_THREADS - 1) / (16 * ROW_THREADS);
        t.blocks = n < SQUARES_BLOCKS ? static_cast<int>(n) : int(SQUARES_BLOCKS);
        t.first_block = blocks;
        blocks += t.blocks;
    }
    if (blocks == 0)
        return;
    LAUNCH(square_pieces, static_cast<unsigned>(blocks), ROW_THREADS, 0, st, o, scratch);
    LAUNCH(add_squares, 1, ROW_THREADS, 0, st, o, scratch);
}

enum { ADAMW_PIECE = 8 * FLAT_THREADS };
static_assert(sizeof(adamw_op) <= 4096 && sizeof(copy_op) <= 4096, "what a kernel's arguments may be");

/* A block takes a piece of one tensor. */
static __global__ void __launch_bounds__(FLAT_THREADS) adamw_pieces(adamw_op o)
{
    const auto &x = o.tensor[entry_of(o.tensor, o.tensors)];
    int64_t from = (blockIdx.x - x.first_block) * ADAMW_PIECE,
            to = from + ADAMW_PIECE < x.n ? from + ADAMW_PIECE : x.n - PLANTED(PLANT_PIECE);
    for (int64_t i = from + threadIdx.x; i < to; i += FLAT_THREADS) {
        float g = x.grad[i] * o.grad_scale;
        float m = o.beta1 * x.m[i] + (1 - o.beta1) * g, v = o.beta2 * x.v[i] + (1 - o.beta2) * (g * g);
        x.m[i] = m;
        x.v[i] = v;
        x.value[i] = x.value[i] * x.keep - o.rate * m / (sqrtf(v) / o.bias2_sqrt + o.eps);
    }
}

void op_adamw(stream_t st, adamw_op &o)
{
    int64_t blocks = 0;
    for (int i = 0; i < o.tensors; i++) {
        o.tensor[i].first_block = blocks;
        blocks += (o.tensor[i].n + ADAMW_PIECE - 1) / ADAMW_PIECE;
    }
    if (blocks > 0)
        LAUNCH(adamw_pieces, static_cast<unsigned>(blocks), FLAT_THREADS, 0, st, o);
}
