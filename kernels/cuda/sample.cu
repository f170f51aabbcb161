/* sample.cu - the sampler: several blocks a row, nothing sorted. Four kernels, whatever the slots want:
 *
 * sample_maxima: the maximum of each part of a row; a greedy row needs no more.
 * sample_weights: the masses of chunks, or where a filter comes those of all ids by bins of z; the sum for the
 * log-probability.
 * sample_candidates: of rows with top_k or top_p the ids in the bins up to the one in which the filter ends.
 * sample_rows, one block a row: the exact cuts among the candidates, the draw, the slot.
 *
 * Bytes of logits read of a row of V ids: 4 V greedy, 8 V with temperature or a log-probability, 12 V with top_k or
 * top_p; after the first time only of parts in which the slot allows an id.
 *
 * Order and meaning are those of kernels/cpu/sample.c. A filter keeps the first so-many ids of one order (higher z
 * first, ties by lower id), so it is a cut (key, id): the key is the magnitude of z = (logit - maximum) / temperature.
 * Masses are integers, e^z in units of 2^-44: their sums do not depend on the order in which threads and blocks come.
 * Parts are the same for every batch, so the sums in double are too: a row gives the same bytes in any company. */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/random.cuh"
extern "C" {
#include "kernels/slot.h"
}

/* A chunk is a warp's, a part a block's. */
enum { PART_THREADS = 256, PART_WARPS = PART_THREADS / WARP_LANES, CHUNK = 512, PART = PART_WARPS * CHUNK };
enum { ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / WARP_LANES, MOST_PARTS = SAMPLE_VOCAB_MAX / PART };
/* Rows that go through the kernels together; beyond that their candidates would take too much memory (128 MiB). */
enum { GROUP_IDS = 16 << 20, GROUP_ROWS = 256 };
enum { NO_ID = 0x7fffffff };

typedef unsigned long long mass_t;
static const mass_t NO_MASS_LIMIT = ~0ull;

struct cut {
    uint32_t key;
    int id; /* the last id kept of those with this key */
};

struct extremes {
    float max, raw_max;
    int32_t top, lowest; /* the first id with the maximum, if it is more than -infinity; the first allowed; NO_ID */
    int32_t nan;
};

struct part_result {
    double sum; /* for the log-probability */
    extremes e;
};

struct alignas(8) candidate {
    float z;
    int32_t id;
};

/* Bins of the first 11 bits of a key, for ids that have a mass: their z is above -32. Nearly equal to the maximum (or
 * the temperature is enormous): the first bin. */
enum { BINS = PART_THREADS /* one each */, BIN_SHIFT = 20, LAST_BIN = (0x42000000 >> BIN_SHIFT) - 1 };

/* A row on its way through the kernels. */
struct row_view {
    const float *raw;
    const int32_t *counts; /* NULL: no penalties */
    sample_slot *s;
    float temperature, repetition, frequency, presence, flip_bias;
    int vocab, lo, hi, flip_id;
    bool listed, running, filtered, top_k; /* listed: the slot's lists must be looked at */
    int parts, chunks, items;
    part_result *part;
    mass_t *masses, *bins; /* [chunks], [BINS]: masses, or counts with top_k */
    int32_t *kept;         /* [chunks] candidates */
    candidate *list;       /* [chunks][CHUNK] */
    float max, least;      /* of what is allowed; least: min_p */
    cut keep;
};

static __host__ __device__ __forceinline__ int parts_of(int vocab)
{
    return (vocab + PART - 1) / PART;
}

static __host__ __device__ __forceinline__ size_t row_bytes(int vocab)
{
    size_t chunks = static_cast<size_t>(parts_of(vocab)) * PART_WARPS;
    return static_cast<size_t>(parts_of(vocab)) * sizeof(part_result) + BINS * sizeof(mass_t) +
           chunks * (sizeof(mass_t) + sizeof(int32_t) + CHUNK * sizeof(candidate));
}

static __device__ row_view view_of(const sample_op &o, int in_group)
{
    int row = o.first + in_group, index = o.slot_of[row];
    sample_slot *s = o.slots + index;
    row_view r;
    int phase = s->phase != 0;
    r.raw = o.logits + static_cast<int64_t>(row) * o.vocab;
    r.s = s;
    r.temperature = s->temperature;
    r.repetition = s->repetition;
    r.frequency = s->frequency;
    r.presence = s->presence;
    bool penalties = o.counts && (r.repetition != 1 || r.frequency != 0 || r.presence != 0);
    r.counts = penalties ? o.counts + static_cast<int64_t>(index) * o.vocab : nullptr;
    r.flip_id = phase ? -1 : s->flip_id;
    r.flip_bias = s->flip_bias;
    r.vocab = o.vocab;
    r.lo = s->lo[phase];
    r.hi = s->hi[phase] < o.vocab ? s->hi[phase] : o.vocab;
    r.listed = true;
    r.running = s->done == SAMPLE_RUNNING;
    r.top_k = s->top_k > 0 && s->top_k < o.vocab;
    r.filtered = r.top_k || s->top_p < 1;
    r.items = r.top_k ? s->top_k : o.vocab;
    r.parts = parts_of(o.vocab);
    r.chunks = r.parts * PART_WARPS;
    unsigned char *at = static_cast<unsigned char *>(o.scratch) + static_cast<size_t>(in_group) * row_bytes(o.vocab);
    r.part = reinterpret_cast<part_result *>(at);
    r.masses = reinterpret_cast<mass_t *>(r.part + r.parts);
    r.bins = r.masses + r.chunks;
    r.list = reinterpret_cast<candidate *>(r.bins + BINS);
    r.kept = reinterpret_cast<int32_t *>(r.list + static_cast<int64_t>(r.chunks) * CHUNK);
    r.max = 0;
    r.least = s->min_p > 0 ? fminf(s->min_p, 1) : 0;
    r.keep = cut{ 0xffffffffu, NO_ID };
    return r;
}

/* ---- one id ---- */

static __device__ __forceinline__ bool allowed(const row_view &r, int id)
{
    return r.listed ? id < r.vocab && slot_allows(r.s, id) : id >= r.lo && id < r.hi;
}

/* The logit l of the id with penalties and bias; -infinity where the slot forbids the id, or the row has none. */
static __device__ __forceinline__ float adjusted(const row_view &r, int id, float l)
{
    if (!allowed(r, id))
        return -INFINITY;
    int count = r.counts ? r.counts[id] : 0;
    if (count) {
        float generated = static_cast<float>(count & 0xffff);
        if (r.repetition != 1)
            l = l > 0 ? l / r.repetition : l * r.repetition;
        if (generated > 0) {
            l = l - r.frequency * generated;
            l = l - r.presence;
        }
    }
    if (id == r.flip_id)
        l = l + r.flip_bias;
    return l;
}

static __device__ __forceinline__ float softened(const row_view &r, int id, float l)
{
    return (adjusted(r, id, l) - r.max) / r.temperature;
}

/* z is at most 0, so its magnitude orders: smaller is better. */
static __device__ __forceinline__ uint32_t key_of(float z)
{
    return __float_as_uint(z) & 0x7fffffffu;
}

static __device__ __forceinline__ int bin_of(float z)
{
    int bin = static_cast<int>(key_of(z) >> BIN_SHIFT) - (LAST_BIN - BINS + 1);
    return bin < 0 ? 0 : bin < BINS ? bin : BINS - 1;
}

/* e^z times 2^44, rounded down: 2^19 ids stay below 2^64. Shifts: many chips have next to nothing for doubles. */
static __device__ __forceinline__ mass_t mass_of(float w)
{
    uint32_t bits = __float_as_uint(w);
    int up = static_cast<int>(bits >> 23) - (127 + 23 - 44);
    mass_t fraction = (bits & 0x7fffffu) | 0x800000u;
    return up >= 0 ? fraction << up : up > -24 ? fraction >> -up : 0;
}

static __device__ __forceinline__ mass_t kept_mass(const row_view &r, int id, float z)
{
    float w = expf(z);
    uint32_t key = key_of(z);
    bool keep = (key < r.keep.key || (key == r.keep.key && id <= r.keep.id)) && w >= r.least;
    return keep ? mass_of(w) : 0;
}

/* ---- sums and places ---- */

/* Of n numbers in their order each thread has a run, side by side. */
struct share {
    mass_t before, mine, whole;
    int first, last;
};

/* sums: shared memory of one a warp; may be used again at once. Whoever wrote the numbers has waited. */
template <class F> static __device__ share share_of(int n, F weight, mass_t *sums)
{
    int threads = static_cast<int>(blockDim.x), each = (n + threads - 1) / threads;
    share h = { 0, 0, 0, static_cast<int>(threadIdx.x) * each, 0 };
    h.first = h.first < n ? h.first : n;
    h.last = h.first + each < n ? h.first + each : n;
    for (int i = h.first; i < h.last; i++)
        h.mine += weight(i);
    mass_t upto = h.mine;
    for (int d = 1; d < WARP_LANES; d *= 2) {
        mass_t below = shuffle_from(upto, (lane_id() - d) & (WARP_LANES - 1));
        upto += lane_id() >= d ? below : 0;
    }
    SYNC_BLOCK();
    if (lane_id() == WARP_LANES - 1)
        sums[warp_id()] = upto;
    SYNC_BLOCK();
    h.before = upto - h.mine;
    for (int w = 0; w * WARP_LANES < threads; w++) {
        h.before += w < warp_id() ? sums[w] : 0;
        h.whole += sums[w];
    }
    return h;
}

struct place {
    int at;
    mass_t before; /* the sum of what comes earlier */
};

/* The first of them at which the running sum passes target, which is below the whole. Loops end with the numbers,
 * whatever they are: a wrong one can be found, a hanging device cannot. */
template <class F> static __device__ void find_place(const share &h, F weight, mass_t target, place *found)
{
    if (h.before <= target && target - h.before < h.mine) {
        place p = { h.first, h.before };
        for (mass_t w; p.at + 1 < h.last && p.before + (w = weight(p.at)) <= target; p.at++)
            p.before += w;
        *found = p;
    }
    SYNC_BLOCK();
}

/* 64-bit sums in shared memory in two words: an atomic addition of 64 bits there is a loop that compares and swaps. */
template <int n> struct wide_sums {
    uint32_t low[n], high[n];
};

template <int n> static __device__ __forceinline__ void add_wide(wide_sums<n> *s, int i, mass_t v)
{
    uint32_t low = static_cast<uint32_t>(v), high = static_cast<uint32_t>(v >> 32);
    high += atomicAdd(&s->low[i], low) + low < low;
    if (high)
        atomicAdd(&s->high[i], high);
}

template <int n> static __device__ __forceinline__ mass_t wide_sum(const wide_sums<n> *s, int i)
{
    return static_cast<mass_t>(s->high[i]) << 32 | s->low[i];
}

/* ---- a part of a row ---- */

/* Reads the lists for the whole part, so that its ids need not; false: the slot allows none of them. */
static __device__ bool part_allows(row_view &r)
{
    int begin = static_cast<int>(blockIdx.x) * PART, end = begin + PART, phase = r.s->phase != 0;
    int lane = lane_id(), of_list = lane % SAMPLE_STOP_IDS;
    const int32_t *list = lane < SAMPLE_STOP_IDS ? r.s->also[phase] : r.s->never[phase];
    r.listed = vote(lane < 2 * SAMPLE_STOP_IDS && list[of_list] >= begin && list[of_list] < end) != 0;
    return r.listed || (begin < r.hi && end > r.lo);
}

static __device__ __forceinline__ int own_chunk()
{
    return static_cast<int>(blockIdx.x) * PART_WARPS + warp_id();
}

/* f(id, logit) for each id of the warp's chunk, all lanes at once and in ascending order; beyond the row the logit is
 * -infinity. Some loads are under way together. */
template <class F> static __device__ __forceinline__ void each_of_chunk(const row_view &r, F f)
{
    enum { AT_ONCE = 8 };
    int begin = own_chunk() * CHUNK, end = begin + CHUNK - PLANTED(PLANT_PART_EDGE);
    end = end < r.vocab ? end : r.vocab;
    for (; begin < end; begin += AT_ONCE * WARP_LANES) {
        int first = begin + lane_id();
        float l[AT_ONCE];
        UNROLL
        for (int j = 0; j < AT_ONCE; j++)
            l[j] = first + j * WARP_LANES < end ? r.raw[first + j * WARP_LANES] : -INFINITY;
        UNROLL
        for (int j = 0; j < AT_ONCE; j++)
            f(first + j * WARP_LANES, l[j]);
    }
}

static __device__ __forceinline__ extremes no_extremes()
{
    return extremes{ -INFINITY, -INFINITY, NO_ID, NO_ID, 0 };
}

static __device__ __forceinline__ void merge(extremes &a, const extremes &b)
{
    if (b.max > a.max || (b.max == a.max && b.top < a.top)) {
        a.max = b.max;
        a.top = b.top;
    }
    a.raw_max = fmaxf(a.raw_max, b.raw_max);
    a.lowest = b.lowest < a.lowest ? b.lowest : a.lowest;
    a.nan |= b.nan;
}

static __device__ __forceinline__ extremes merge_warp(extremes e)
{
    for (int i = WARP_LANES / 2; i > 0; i /= 2) {
        extremes other = { shuffle_xor(e.max, i), shuffle_xor(e.raw_max, i), shuffle_xor(e.top, i),
                           shuffle_xor(e.lowest, i), shuffle_xor(e.nan, i) };
        merge(e, other);
    }
    return e;
}

/* (threads, 1): without the 1 ptxas saves registers and spills. */
static __global__ void __launch_bounds__(PART_THREADS, 1) sample_maxima(sample_op o)
{
    SHARED(extremes, warps, PART_WARPS);
    row_view r = view_of(o, static_cast<int>(blockIdx.y));
    if (!r.running)
        return;
    part_allows(r);
    extremes e = no_extremes();
    each_of_chunk(r, [&](int id, float raw) {
        float l = adjusted(r, id, raw);
        e.nan |= raw != raw || l != l;
        e.raw_max = fmaxf(e.raw_max, raw);
        if (e.lowest == NO_ID && allowed(r, id))
            e.lowest = id;
        if (l > e.max) {
            e.max = l;
            e.top = id;
        }
    });
    e = merge_warp(e);
    if (lane_id() == 0)
        warps[warp_id()] = e;
    if (blockIdx.x == 0)
        r.bins[threadIdx.x] = 0;
    SYNC_BLOCK();
    if (warp_id() != 0)
        return;
    e = merge_warp(lane_id() < PART_WARPS ? warps[lane_id()] : no_extremes());
    if (lane_id() == 0)
        r.part[blockIdx.x].e = e;
}

struct summary {
    float raw_max;
    int id; /* of the maximum; where nothing is finite the lowest allowed, or NO_ID */
    bool nan, draws;
};

/* What the parts say together; each warp reads it for itself. */
static __device__ summary summary_of(row_view &r)
{
    extremes e = no_extremes();
    for (int i = lane_id(); i < r.parts + PLANTED(PLANT_PART_MORE); i += WARP_LANES)
        merge(e, r.part[i].e);
    e = merge_warp(e);
    r.max = e.max;
    bool finite = e.max > -INFINITY && e.max < INFINITY;
    return summary{ e.raw_max, e.max > -INFINITY ? e.top : e.lowest, e.nan != 0,
                    !e.nan && finite && r.temperature != 0 };
}

/* What the first filter counts. */
static __device__ __forceinline__ mass_t bin_weight(const row_view &r, mass_t mass)
{
    return r.top_k ? 1 : mass;
}

static __global__ void __launch_bounds__(PART_THREADS, 1) sample_weights(sample_op o)
{
    SHARED(double, sums, PART_WARPS);
    SHARED(wide_sums<BINS>, bins, 1);
    row_view r = view_of(o, static_cast<int>(blockIdx.y));
    int first = static_cast<int>(threadIdx.x);
    if (!r.running)
        return;
    summary t = summary_of(r);
    if (t.nan)
        return;
    if (o.out_logprob) {
        double sum = 0;
        each_of_chunk(r,
                      [&](int id, float raw) { sum += id < r.vocab ? static_cast<double>(expf(raw - t.raw_max)) : 0; });
        sum = block_sum(sum, sums);
        if (first == 0)
            r.part[blockIdx.x].sum = sum;
    }
    if (!t.draws)
        return;
    bool some = part_allows(r);
    if (!r.filtered) {
        mass_t mass = 0;
        if (some)
            each_of_chunk(r, [&](int id, float raw) { mass += kept_mass(r, id, softened(r, id, raw)); });
        mass = warp_sum(mass);
        if (lane_id() == 0)
            r.masses[own_chunk()] = mass;
        return;
    }
    if (!some)
        return;
    bins->low[first] = bins->high[first] = 0;
    SYNC_BLOCK();
    each_of_chunk(r, [&](int id, float raw) {
        float z = softened(r, id, raw);
        mass_t mass = mass_of(expf(z));
        if (mass)
            add_wide(bins, bin_of(z), bin_weight(r, mass));
    });
    SYNC_BLOCK();
    mass_t mass = wide_sum(bins, first);
    if (mass)
        atomicAdd(&r.bins[first], mass);
}

/* As much of the whole mass as top_p wants. */
static __device__ __forceinline__ mass_t top_p_limit(const row_view &r, mass_t whole)
{
    double limit = static_cast<double>(r.s->top_p) * static_cast<double>(whole);
    return limit > 1 ? static_cast<mass_t>(limit) : 1;
}

static __global__ void __launch_bounds__(PART_THREADS) sample_candidates(sample_op o)
{
    SHARED(mass_t, sums, PART_WARPS);
    SHARED(place, last, 1);
    row_view r = view_of(o, static_cast<int>(blockIdx.y));
    if (!r.running || !r.filtered || !summary_of(r).draws)
        return;
    int chunk = own_chunk(), n = 0;
    if (part_allows(r)) {
        auto weight = [&](int i) { return r.bins[i]; };
        share h = share_of(BINS, weight, sums);
        if (threadIdx.x == 0)
            last->at = BINS - 1; /* there are fewer than top_k */
        SYNC_BLOCK();
        find_place(h, weight, (r.top_k ? static_cast<mass_t>(r.items) : top_p_limit(r, h.whole)) - 1, last);
        int bin = last->at;
        candidate *list = r.list + static_cast<int64_t>(chunk) * CHUNK;
        each_of_chunk(r, [&](int id, float raw) {
            float z = softened(r, id, raw);
            unsigned yes = vote(mass_of(expf(z)) && bin_of(z) <= bin);
            if (yes >> lane_id() & 1)
                list[n + count_bits(yes & ((1u << lane_id()) - 1))] = candidate{ z, id };
            n += count_bits(yes);
        });
    }
    if (lane_id() == 0) {
        r.kept[chunk] = n;
        r.masses[chunk] = 0;
    }
}

/* ---- the whole row ---- */

enum { DIGITS = 2048, LATER_BITS = 10 }; /* a key has 31 bits: 11, 10 and 10 */

struct row_memory {
    mass_t sums[ROW_WARPS];
    double parts[ROW_WARPS];
    int counts[DIGITS];
    wide_sums<DIGITS> masses;
    place found;
    mass_t seen;
};

/* f(chunk, candidates in it) where there are any, a warp each. */
template <class F> static __device__ __forceinline__ void each_chunk(const row_view &r, F f)
{
    for (int base = warp_id(); base < r.chunks; base += ROW_WARPS * WARP_LANES) {
        int chunk = base + lane_id() * ROW_WARPS, n = chunk < r.chunks ? r.kept[chunk] : 0;
        for (unsigned some = vote(n > 0); some; some &= some - 1)
            f(base + first_bit(some) * ROW_WARPS, shuffle_from(n, first_bit(some)));
    }
}

static __device__ __forceinline__ candidate candidate_at(const row_view &r, int chunk, int i)
{
    int id = chunk * CHUNK + i;
    if (r.filtered)
        return r.list[static_cast<int64_t>(chunk) * CHUNK + i];
    return candidate{ id < r.vocab ? softened(r, id, r.raw[id]) : -INFINITY, id };
}

/* What a walk in the order of ids adds up: masses of the draw, or ones for ids with the key of a cut. */
struct count_key {
    uint32_t key;
    __device__ mass_t operator()(const row_view &, const candidate &c) const
    {
        return key_of(c.z) == key;
    }
};
struct sum_kept {
    __device__ mass_t operator()(const row_view &r, const candidate &c) const
    {
        return kept_mass(r, c.id, c.z);
    }
};

template <class F> static __device__ void sum_chunks(const row_view &r, F weight)
{
    each_chunk(r, [&](int chunk, int n) {
        mass_t sum = 0;
        for (int i = lane_id(); i < n; i += WARP_LANES)
            sum += weight(r, candidate_at(r, chunk, i));
        sum = warp_sum(sum);
        if (lane_id() == 0)
            r.masses[chunk] = sum;
    });
    SYNC_BLOCK();
}

static __device__ share share_of_chunks(const row_view &r, row_memory *m)
{
    return share_of(
        r.chunks, [&](int i) { return r.masses[i]; }, m->sums);
}

/* The first id at which the running sum passes target, which is below the whole. The chunks are summed by the same
 * weight. */
template <class F>
static __device__ int find_in_order(const row_view &r, row_memory *m, F weight, const share &h, mass_t target)
{
    find_place(
        h, [&](int i) { return r.masses[i]; }, target, &m->found);
    int chunk = m->found.at;
    target -= m->found.before;
    auto in_chunk = [&](int i) { return weight(r, candidate_at(r, chunk, i)); };
    share in = share_of(r.filtered ? r.kept[chunk] : static_cast<int>(CHUNK), in_chunk, m->sums);
    find_place(in, in_chunk, target, &m->found);
    return candidate_at(r, chunk, m->found.at).id;
}

/* The cut after the candidate that makes their number reach `items` or their mass reach `mass`; *total: the mass up to
 * and including it. */
static __device__ cut find_cut(const row_view &r, row_memory *m, int items, mass_t mass, mass_t *total)
{
    uint32_t prefix = 0;
    mass_t limit = static_cast<mass_t>(items), seen = 0, sum = 0;
    for (int shift = 2 * LATER_BITS; shift >= 0; shift -= LATER_BITS) {
        SYNC_BLOCK();
        if (!PLANTED(PLANT_NO_ATOMIC_CLEAR) || shift == 2 * LATER_BITS)
            for (int i = static_cast<int>(threadIdx.x); i < DIGITS; i += ROW_THREADS)
                m->masses.low[i] = m->masses.high[i] = static_cast<uint32_t>(m->counts[i] = 0);
        SYNC_BLOCK();
        each_chunk(r, [&](int chunk, int n) {
            for (int i = lane_id(); i < n; i += WARP_LANES) {
                float z = candidate_at(r, chunk, i).z;
                uint32_t key = key_of(z), upper = key >> shift;
                if (shift < 2 * LATER_BITS && upper >> LATER_BITS != prefix)
                    continue;
                int at = static_cast<int>(upper - (prefix << LATER_BITS));
                atomicAdd(&m->counts[at], 1);
                add_wide(&m->masses, at, mass_of(expf(z)));
            }
        });
        SYNC_BLOCK();
        share counts = share_of(
            DIGITS, [&](int i) { return static_cast<mass_t>(m->counts[i]); }, m->sums);
        share masses = share_of(
            DIGITS, [&](int i) { return wide_sum(&m->masses, i); }, m->sums);
        if (seen + counts.whole < limit && sum + masses.whole < mass) { /* all of them, and still below both */
            *total = sum + masses.whole;
            return cut{ 0xffffffffu, NO_ID };
        }
        mass_t c = seen + counts.before, w = sum + masses.before;
        for (int i = counts.first; i < counts.last && c < limit && w < mass; i++) {
            mass_t c_before = c, w_before = w;
            c += static_cast<mass_t>(m->counts[i]);
            w += wide_sum(&m->masses, i);
            if (c >= limit || w >= mass) {
                m->found = place{ i, w_before };
                m->seen = c_before;
            }
        }
        SYNC_BLOCK();
        seen = m->seen;
        sum = m->found.before;
        prefix = prefix << LATER_BITS | static_cast<uint32_t>(m->found.at);
    }
    mass_t ties = static_cast<mass_t>(m->counts[m->found.at]),
           each = ties ? wide_sum(&m->masses, m->found.at) / ties : 0;
    mass_t by_mass = each ? (mass - sum - 1) / each + 1 : NO_MASS_LIMIT, take = limit - seen;
    take = take < by_mass ? take : by_mass;
    *total = sum + each * (take < ties ? take : ties);
    cut c = { prefix, NO_ID };
    if (take < ties) {
        count_key same = { prefix };
        sum_chunks(r, same);
        c.id = find_in_order(r, m, same, share_of_chunks(r, m), take - 1);
    }
    return c;
}

static __device__ int draw(row_view &r, row_memory *m)
{
    const sample_slot *s = r.s;
    if (r.filtered) {
        mass_t total = 0;
        if (r.top_k)
            r.keep = find_cut(r, m, r.items, NO_MASS_LIMIT, &total);
        else
            total = share_of(
                        BINS, [&](int i) { return r.bins[i]; }, m->sums)
                        .whole;
        if (s->top_p < 1)
            r.keep = find_cut(r, m, r.items, top_p_limit(r, total), &total);
        sum_chunks(r, sum_kept());
    }
    share h = share_of_chunks(r, m);
    double u = unit_at(s->key[0], s->key[1], s->stream[0], s->stream[1], static_cast<uint64_t>(s->generated));
    mass_t target = static_cast<mass_t>(u * static_cast<double>(h.whole));
    return find_in_order(r, m, sum_kept(), h, target < h.whole ? target : h.whole - 1);
}

static __global__ void __launch_bounds__(ROW_THREADS, 1) sample_rows(sample_op o)
{
    SHARED(row_memory, m, 1);
    row_view r = view_of(o, static_cast<int>(blockIdx.x));
    int row = o.first + static_cast<int>(blockIdx.x), first = static_cast<int>(threadIdx.x);
    if (first == 0) {
        m->found = place{ 0, 0 };
        m->seen = 0;
        o.out_id[row] = -1;
        if (o.out_logprob)
            o.out_logprob[row] = NAN;
    }
    if (!r.running)
        return;
    summary t = summary_of(r);
    int id = t.id;
    if (PLANTED(PLANT_BLOCKS_MEET) && first == 0)
        o.failure[0] = SAMPLE_FINE;
    if (t.nan || id == NO_ID) {
        int how = t.nan ? SAMPLE_NAN : SAMPLE_NO_ID;
        if (first == 0 && atomicCAS(&o.failure[0], static_cast<int>(SAMPLE_FINE), how) == 0)
            o.failure[1] = o.slot_of[row];
        return;
    }
    SYNC_BLOCK();
    if (t.draws)
        id = draw(r, m);
    double sum = 0;
    if (o.out_logprob)
        sum = block_sum(first < r.parts ? r.part[first].sum : 0, m->parts);
    SYNC_BLOCK(); /* all have read the slot */
    if (first != 0)
        return;
    o.out_id[row] = id;
    if (o.out_logprob)
        o.out_logprob[row] =
            static_cast<float>(static_cast<double>(r.raw[id]) - static_cast<double>(t.raw_max) - log(sum));
    slot_take(r.s, id, o.counts ? o.counts + static_cast<int64_t>(o.slot_of[row]) * o.vocab : nullptr);
}

static int group_of(const sample_op &o)
{
    int rows = GROUP_IDS / (parts_of(o.vocab) * PART);
    rows = rows < GROUP_ROWS ? rows : static_cast<int>(GROUP_ROWS);
    return rows < o.n ? rows : o.n;
}

size_t sample_scratch(const sample_op &o)
{
    return o.n > 0 ? static_cast<size_t>(group_of(o)) * row_bytes(o.vocab) : 0;
}

void op_sample(stream_t st, const sample_op &o)
{
    static_assert(MOST_PARTS <= ROW_THREADS, "a thread each");
    sample_op g = o;
    for (g.first = 0; g.first < o.n; g.first += group_of(o)) {
        int rows = o.n - g.first < group_of(o) ? o.n - g.first : group_of(o);
        dim3 parts(static_cast<unsigned>(parts_of(o.vocab)), static_cast<unsigned>(rows));
        LAUNCH(sample_maxima, parts, PART_THREADS, 0, st, g);
        LAUNCH(sample_weights, parts, PART_THREADS, 0, st, g);
        LAUNCH(sample_candidates, parts, PART_THREADS, 0, st, g);
        LAUNCH(sample_rows, rows, ROW_THREADS, 0, st, g);
    }
}
