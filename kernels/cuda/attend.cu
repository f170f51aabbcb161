/* attend.cu - attention in float for any head width: fp32 caches, and sequences without a cache.
 *
 * A warp holds one query of one head and walks the positions in blocks of 32, a key a lane, with the running maximum
 * and sum of Milakov & Gimelshein 2018. What it sums in which order depends on the row's own position alone. This is
 * the path of parity with the CPU; attend_mma.cu and attend_varlen.cu are the fast ones. */
#include "kernels/cuda/ops.h"

enum { ATTEND_WARPS = 4, HEAD_MAX = 256, PER_LANE = HEAD_MAX / WARP_LANES };

static __device__ __forceinline__ float cached(float x)
{
    return x;
}
static __device__ __forceinline__ float cached(bf16 x)
{
    return float_of_bf16(x);
}
static __device__ __forceinline__ float cached(f8 x)
{
    return float_of_f8(x);
}

template <class C> static __global__ void __launch_bounds__(ATTEND_WARPS *WARP_LANES) attend_rows(attend_op o)
{
    SHARED(float, queries, ATTEND_WARPS *HEAD_MAX);
    int64_t item = static_cast<int64_t>(blockIdx.x) * ATTEND_WARPS + warp_id();
    if (item >= static_cast<int64_t>(o.rows) * o.heads)
        return; /* a whole warp; there is no barrier below */
    int hd = o.head_dim, lane = lane_id(), t = static_cast<int>(item / o.heads), h = static_cast<int>(item % o.heads);
    int s = sequence_of(o.begin, o.nseq, t), begin = o.begin[s], end = o.begin[s + 1];
    int64_t kv = static_cast<int64_t>(o.kv_heads) * hd, q_width = static_cast<int64_t>(o.heads) * hd;
    const int32_t *page = o.k ? o.page_table + static_cast<int64_t>(o.seq_slot[s]) * o.max_pages : nullptr;
    int position = page ? o.context[s] - (end - t) : t - begin;
    int last = o.causal ? position + 1 : end - begin; /* keys first .. last-1 */
    int first = o.causal && o.window > 0 && position - o.window + 1 > 0 ? position - o.window + 1 : 0;
    int64_t column = static_cast<int64_t>(h / (o.heads / o.kv_heads)) * hd, stride = kv;
    const C *keys = static_cast<const C *>(o.k), *values = static_cast<const C *>(o.v);
    if (!page) {
        stride = q_width + 2 * kv;
        keys = reinterpret_cast<const C *>(o.qkv + begin * stride + q_width);
        values = keys + kv;
    }
    keys += column;
    values += column;

    float *q = queries + warp_id() * HEAD_MAX, out[PER_LANE], most = -INFINITY, sum = 0;
    for (int i = lane; i < hd; i += WARP_LANES)
        q[i] = o.qkv[t * (q_width + 2 * kv) + static_cast<int64_t>(h) * hd + i];
    sync_warp();
    for (int i = 0; i < PER_LANE; i++)
        out[i] = 0;
    for (int b = first / WARP_LANES; b * WARP_LANES < last; b++) {
        int key = b * WARP_LANES + lane;
        int64_t row0 = page ? static_cast<int64_t>(page[b]) * KV_PAGE : static_cast<int64_t>(b) * WARP_LANES;
        float dot = -INFINITY;
        if (key >= first && key < last) {
            const C *k = keys + (row0 + lane) * stride;
            dot = 0;
            for (int i = 0; i < hd; i++)
                dot = fmaf(q[i], cached(k[i]), dot);
            dot *= o.scale;
        }
        float now = fmaxf(most, warp_max(dot)); /* finite: every block on the way holds a visible key */
        float p = expf(dot - now), keep = expf(most - now);
        sum = fmaf(sum, keep, warp_sum(p));
        most = now;
        for (int i = 0; i < PER_LANE; i++)
            out[i] *= keep;
        int from = first > b * WARP_LANES ? first - b * WARP_LANES : 0;
        int to = last < (b + 1) * WARP_LANES ? last - b * WARP_LANES : WARP_LANES;
        for (int j = from; j < to; j++) { /* not beyond: unused places of a page may hold anything */
            float pj = shuffle_from(p, j);
            const C *v = values + (row0 + j) * stride;
            for (int i = 0; i < PER_LANE; i++)
                if (lane + i * WARP_LANES < hd)
                    out[i] = fmaf(pj, cached(v[lane + i * WARP_LANES]), out[i]);
        }
    }
    for (int i = 0; i < PER_LANE; i++)
        if (lane + i * WARP_LANES < hd)
            o.out[t * q_width + static_cast<int64_t>(h) * hd + lane + i * WARP_LANES] = out[i] / sum;
    if (o.lse && lane == 0)
        o.lse[item] = most + logf(sum);
}

static_assert(int(KV_PAGE) == int(WARP_LANES), "a block of keys is a page");

void op_attend(stream_t st, const attend_op &o)
{
    int64_t items = static_cast<int64_t>(o.rows) * o.heads;
    unsigned blocks = static_cast<unsigned>((items + ATTEND_WARPS - 1) / ATTEND_WARPS);
    if (items <= 0)
        return;
    if (o.k && o.cache == DTYPE_BF16)
        LAUNCH((attend_rows<bf16>), blocks, ATTEND_WARPS * WARP_LANES, 0, st, o);
    else if (o.k && o.cache == DTYPE_F8)
        LAUNCH((attend_rows<f8>), blocks, ATTEND_WARPS * WARP_LANES, 0, st, o);
    else
        LAUNCH((attend_rows<float>), blocks, ATTEND_WARPS * WARP_LANES, 0, st, o);
}
