/* sample.cu - the sampler: one block a row, nothing sorted, nothing stored; each pass reads the row again (it lies in
 * the second-level cache) and adjusts it anew.
 *
 * Order and meaning are those of kernels/cpu/sample.c. A filter keeps the first so-many ids of one order (higher z
 * first, ties by lower id), so it is a cut (key, id): the key is the magnitude of z = (logit - maximum) / temperature,
 * found eight bits at a time in a histogram of counts and masses. Masses are integers, e^z in units of 2^-44: their
 * sums do not depend on the order in which threads come, so a draw is the same on every run. */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/random.cuh"
extern "C" {
#include "kernels/slot.h"
}

enum { SAMPLE_THREADS = 512, WARPS = SAMPLE_THREADS / WARP_LANES, CHUNK = 1024, CHUNKS = SAMPLE_VOCAB_MAX / CHUNK };
enum { NO_ID = 0x7fffffff };

typedef unsigned long long mass_t;
static const mass_t NO_MASS_LIMIT = ~0ull;

struct cut {
    uint32_t key;
    int id; /* the last id kept of those with this key */
};

struct row_memory {
    sample_slot slot;
    float most[WARPS];
    int least[WARPS];
    double sums[WARPS];
    mass_t masses[WARPS];
    int counts[256];
    mass_t bins[256];
    mass_t chunks[CHUNKS];
    int found;
};

struct row_view {
    const float *raw;
    const int32_t *counts; /* NULL: no penalties */
    const sample_slot *s;
    int vocab;
    float max, least; /* of what is allowed; least: min_p */
    cut keep;
};

/* ---- one id ---- */

/* The logit with penalties and bias; -infinity where the slot forbids the id. */
static __device__ __forceinline__ float adjusted(const row_view &r, int id)
{
    const sample_slot *s = r.s;
    float l = r.raw[id];
    if (!slot_allows(s, id))
        return -INFINITY;
    int count = r.counts ? r.counts[id] : 0;
    if (count) {
        float generated = static_cast<float>(count & 0xffff);
        if (s->repetition != 1)
            l = l > 0 ? l / s->repetition : l * s->repetition;
        if (generated > 0) {
            l = l - s->frequency * generated;
            l = l - s->presence;
        }
    }
    if (id == s->flip_id && s->phase == 0)
        l = l + s->flip_bias;
    return l;
}

static __device__ __forceinline__ float softened(const row_view &r, int id)
{
    return (adjusted(r, id) - r.max) / r.s->temperature;
}

/* z is at most 0, so its magnitude orders: smaller is better. */
static __device__ __forceinline__ uint32_t key_of(float z)
{
    return __float_as_uint(z) & 0x7fffffffu;
}

/* w times 2^44, rounded down: 2^19 ids stay below 2^64. Shifts: many chips have next to nothing for doubles. */
static __device__ __forceinline__ mass_t mass_of(float w)
{
    uint32_t bits = __float_as_uint(w);
    int up = static_cast<int>(bits >> 23) - (127 + 23 - 44);
    mass_t fraction = (bits & 0x7fffffu) | 0x800000u;
    return up >= 0 ? fraction << up : up > -24 ? fraction >> -up : 0;
}

static __device__ __forceinline__ mass_t kept_mass(const row_view &r, int id)
{
    float z = softened(r, id), w = expf(z);
    uint32_t key = key_of(z);
    bool keep = (key < r.keep.key || (key == r.keep.key && id <= r.keep.id)) && w >= r.least;
    return keep ? mass_of(w) : 0;
}

/* ---- the whole row ---- */

static __device__ __forceinline__ double unit_draw(const sample_slot *s)
{
    return unit_at(s->key[0], s->key[1], s->stream[0], s->stream[1], static_cast<uint64_t>(s->generated));
}

/* What a walk in the order of ids adds up: masses of the draw, or ones for ids with the key of a cut. */
struct count_key {
    uint32_t key;
    __device__ mass_t operator()(const row_view &r, int id) const
    {
        return key_of(softened(r, id)) == key;
    }
};
struct sum_kept {
    __device__ mass_t operator()(const row_view &r, int id) const
    {
        return kept_mass(r, id);
    }
};

/* Sums of chunks of ids, a warp each; returns the whole, in every thread. Whoever wanted earlier sums has waited with
 * the others since: find_in_order ends so. */
template <class F> static __device__ mass_t chunk_sums(const row_view &r, row_memory *m, F weight)
{
    int chunks = (r.vocab + CHUNK - 1) / CHUNK;
    for (int c = warp_id(); c < chunks; c += WARPS) {
        mass_t sum = 0;
        for (int i = c * CHUNK + lane_id(); i < (c + 1) * CHUNK && i < r.vocab; i += WARP_LANES)
            sum += weight(r, i);
        sum = warp_sum(sum);
        if (lane_id() == 0)
            m->chunks[c] = sum;
    }
    SYNC_BLOCK();
    mass_t total = 0;
    for (int c = 0; c < chunks; c++)
        total += m->chunks[c];
    return total;
}

/* The first id at which the running sum passes target, which is below the whole. Needs chunk_sums of the same weight.
 * Every loop ends with the row, whatever the sums: a wrong id can be found, a hanging device cannot. */
template <class F> static __device__ int find_in_order(const row_view &r, row_memory *m, F weight, mass_t target)
{
    int chunks = (r.vocab + CHUNK - 1) / CHUNK, chunk = 0;
    mass_t sum = 0;
    while (chunk + 1 < chunks && sum + m->chunks[chunk] <= target)
        sum += m->chunks[chunk++];
    if (warp_id() == 0)
        for (int i = chunk * CHUNK; i < r.vocab; i += WARP_LANES) {
            int id = i + lane_id(), at = 0;
            mass_t mine = id < r.vocab ? weight(r, id) : 0, group = warp_sum(mine);
            if (sum + group <= target && i + WARP_LANES < r.vocab) {
                sum += group;
                continue;
            }
            while ((sum += shuffle_from(mine, at)) <= target && at + 1 < WARP_LANES && i + at + 1 < r.vocab)
                at++;
            if (lane_id() == 0)
                m->found = i + at;
            break;
        }
    SYNC_BLOCK();
    return m->found;
}

/* Of the first bins, eight bits of which are a sign and most of an exponent, nearly all ids lie in three: magnitudes of
 * 1/2, 2 and 8 up to four times that. Each thread adds their masses for itself, or all would wait for each other. */
enum { BUSY_BIN = 0x3f, BUSY_BINS = 3 };

/* The cut after the item that makes the number of items reach `items` or their mass reach `mass`; *total: the mass up
 * to and including it. */
static __device__ cut find_cut(const row_view &r, row_memory *m, int items, mass_t mass, mass_t *total)
{
    uint32_t prefix = 0;
    int seen = 0, bin = 0;
    mass_t sum = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        SYNC_BLOCK();
        if (!PLANTED(PLANT_NO_ATOMIC_CLEAR) || shift == 24)
            for (int i = static_cast<int>(threadIdx.x); i < 256; i += SAMPLE_THREADS) {
                m->counts[i] = 0;
                m->bins[i] = 0;
            }
        SYNC_BLOCK();
        mass_t busy[BUSY_BINS] = { 0, 0, 0 };
        for (int i = static_cast<int>(threadIdx.x); i < r.vocab; i += SAMPLE_THREADS) {
            float z = softened(r, i);
            uint32_t key = key_of(z);
            if (shift < 24 && key >> (shift + 8) != prefix)
                continue;
            int at = static_cast<int>(key >> shift & 255);
            mass_t w = mass_of(expf(z));
            atomicAdd(&m->counts[at], 1);
            if (shift == 24 && at >= BUSY_BIN && at < BUSY_BIN + BUSY_BINS) {
                UNROLL
                for (int j = 0; j < BUSY_BINS; j++)
                    busy[j] += at == BUSY_BIN + j ? w : 0;
            } else if (w) {
                atomicAdd(&m->bins[at], w);
            }
        }
        for (int j = 0; j < BUSY_BINS && shift == 24; j++) {
            mass_t w = warp_sum(busy[j]);
            if (lane_id() == 0)
                atomicAdd(&m->bins[BUSY_BIN + j], w);
        }
        SYNC_BLOCK();
        for (bin = 0; bin < 255 && seen + m->counts[bin] < items && sum + m->bins[bin] < mass; bin++) {
            seen += m->counts[bin];
            sum += m->bins[bin];
        }
        prefix = prefix << 8 | static_cast<uint32_t>(bin);
    }
    int ties = m->counts[bin], take = 1;
    mass_t each = ties ? m->bins[bin] / static_cast<mass_t>(ties) : 0;
    if (seen < items && sum < mass) {
        mass_t by_items = static_cast<mass_t>(items - seen),
               by_mass = each ? (mass - sum - 1) / each + 1 : NO_MASS_LIMIT;
        mass_t wanted = by_items < by_mass ? by_items : by_mass;
        take = wanted < static_cast<mass_t>(ties) ? static_cast<int>(wanted) : ties;
    }
    *total = sum + (ties ? each * static_cast<mass_t>(take) : 0);
    cut c = { prefix, NO_ID };
    if (take < ties) {
        count_key same = { prefix };
        chunk_sums(r, m, same);
        c.id = find_in_order(r, m, same, static_cast<mass_t>(take - 1));
    }
    return c;
}

static __device__ int draw(row_view &r, row_memory *m)
{
    const sample_slot *s = r.s;
    bool top_k = s->top_k > 0 && s->top_k < r.vocab, top_p = s->top_p < 1;
    int items = top_k ? s->top_k : r.vocab;
    mass_t total = 0;
    r.keep = cut{ 0xffffffffu, NO_ID };
    r.least = s->min_p > 0 ? fminf(s->min_p, 1) : 0;
    if (top_k)
        r.keep = find_cut(r, m, items, NO_MASS_LIMIT, &total);
    if (top_p && !top_k) {
        for (int i = static_cast<int>(threadIdx.x); i < r.vocab; i += SAMPLE_THREADS)
            total += mass_of(expf(softened(r, i)));
        total = block_sum(total, m->masses);
    }
    if (top_p) {
        double limit = static_cast<double>(s->top_p) * static_cast<double>(total);
        r.keep = find_cut(r, m, items, limit > 1 ? static_cast<mass_t>(limit) : 1, &total);
    }
    total = chunk_sums(r, m, sum_kept());
    mass_t target = static_cast<mass_t>(unit_draw(s) * static_cast<double>(total));
    return find_in_order(r, m, sum_kept(), target < total ? target : total - 1);
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_rows(sample_op o)
{
    SHARED(row_memory, m, 1);
    int row = static_cast<int>(blockIdx.x), index = o.slot_of[row], first = static_cast<int>(threadIdx.x);
    sample_slot *slot = o.slots + index;
    int32_t *counts = o.counts ? o.counts + static_cast<int64_t>(index) * o.vocab : nullptr;
    if (first == 0) {
        m->slot = *slot;
        o.out_id[row] = -1;
        if (o.out_logprob)
            o.out_logprob[row] = NAN;
    }
    SYNC_BLOCK();
    const sample_slot *s = &m->slot;
    if (s->done != SAMPLE_RUNNING)
        return; /* the whole block */
    bool penalties = counts && (s->repetition != 1 || s->frequency != 0 || s->presence != 0);
    row_view r = {
        o.logits + static_cast<int64_t>(row) * o.vocab, penalties ? counts : nullptr, s, o.vocab, 0, 0, { 0, 0 }
    };

    float raw_max = -INFINITY, mine = -INFINITY;
    int top = NO_ID, lowest = NO_ID, nan = 0;
    for (int i = first; i < o.vocab; i += SAMPLE_THREADS) {
        float raw = r.raw[i], l = adjusted(r, i);
        nan |= raw != raw || l != l;
        raw_max = fmaxf(raw_max, raw);
        if (lowest == NO_ID && slot_allows(s, i))
            lowest = i;
        if (l > mine) {
            mine = l;
            top = i;
        }
    }
    raw_max = block_max(raw_max, m->most);
    r.max = block_max(mine, m->most);
    int id = block_min(mine == r.max && r.max > -INFINITY ? top : NO_ID, m->least);
    if (r.max == -INFINITY)
        id = block_min(lowest, m->least);
    nan = block_min(-nan, m->least);
    if (PLANTED(PLANT_BLOCKS_MEET) && first == 0)
        o.failure[0] = SAMPLE_FINE;
    if (nan || id == NO_ID) {
        if (first == 0 && atomicCAS(&o.failure[0], static_cast<int>(SAMPLE_FINE), nan ? SAMPLE_NAN : SAMPLE_NO_ID) == 0)
            o.failure[1] = index;
        return;
    }
    if (s->temperature != 0 && r.max > -INFINITY && r.max < INFINITY)
        id = draw(r, m);
    double sum = 0;
    if (o.out_logprob) {
        for (int i = first; i < o.vocab; i += SAMPLE_THREADS)
            sum += static_cast<double>(expf(r.raw[i] - raw_max));
        sum = block_sum(sum, m->sums);
    }
    if (first != 0)
        return;
    o.out_id[row] = id;
    if (o.out_logprob)
        o.out_logprob[row] =
            static_cast<float>(static_cast<double>(r.raw[id]) - static_cast<double>(raw_max) - log(sum));
    slot_take(slot, id, counts);
}

void op_sample(stream_t st, const sample_op &o)
{
    if (o.n > 0)
        LAUNCH(sample_rows, o.n, SAMPLE_THREADS, 0, st, o);
}
