/* sample.c - the fast path's sampler: a few passes over a row, no sorting of the vocabulary.
 *
 * Order (formats.md 12): repetition, frequency and presence penalties; ranges and bias on what is left; temperature;
 * top_k; top_p; min_p; softmax; one draw by inverse distribution in the order of ids, sums in double.
 * Every filter keeps the first so-many ids of one order (higher logit first, ties by lower id), so a filter is one cut
 * (logit, id). Cuts are found in a histogram of the logits below the maximum; only the bucket where a limit is crossed
 * is ordered, by a heap that is popped up to the limit.
 * A row without any finite logit gets the lowest id that its slot allows; a NaN anywhere in a row, or a slot that
 * allows no id, is a failure of the device. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/cpu/fast.h"

enum { BUCKETS = 1024, PER_UNIT = 16, DRAW_BLOCK = 256, SERIAL_VOCAB = 8192 };

enum row_status { ROW_DONE, ROW_NAN, ROW_EMPTY };

struct item {
    float z;
    int32_t id;
};

/* One row's work space, in the thread's scratch. z and w: [vocab]. */
struct row {
    float *z;          /* logit minus maximum, over temperature */
    float *w;          /* e^z; 0 for what is filtered out */
    struct item *heap; /* [vocab] */
    double *mass;      /* [BUCKETS] */
    int32_t *count;    /* [BUCKETS] */
    double *block;     /* [vocab / DRAW_BLOCK + 1] */
    int32_t vocab;
    const struct row_isa *isa;
};

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t row_bytes(int32_t vocab)
{
    size_t v = (size_t)vocab;
    return 2 * align64(v * sizeof(float)) + align64(v * sizeof(struct item)) + BUCKETS * (sizeof(double) + 4) +
           align64((v / DRAW_BLOCK + 1) * sizeof(double));
}

static struct row row_in(void *scratch, int32_t vocab, const struct row_isa *isa)
{
    size_t v = (size_t)vocab;
    char *p = scratch;
    struct row r = { .vocab = vocab, .isa = isa };
    r.z = (float *)(void *)p;
    p += align64(v * sizeof(float));
    r.w = (float *)(void *)p;
    p += align64(v * sizeof(float));
    r.heap = (struct item *)(void *)p;
    p += align64(v * sizeof(struct item));
    r.mass = (double *)(void *)p;
    p += BUCKETS * sizeof(double);
    r.count = (int32_t *)(void *)p;
    p += BUCKETS * sizeof(int32_t);
    r.block = (double *)(void *)p;
    return r;
}

/* ---- penalties, ranges, bias ---- */

static float penalized(const struct sample_slot *s, int32_t count, float l)
{
    float generated = (float)(count & 0xffff);
    if (s->repetition != 1)
        l = l > 0 ? l / s->repetition : l * s->repetition;
    if (generated > 0) {
        l -= s->frequency * generated;
        l -= s->presence;
    }
    return l;
}

static void penalize(const struct sample_slot *s, const int32_t *counts, float *l, int32_t n)
{
    if (s->repetition == 1 && s->frequency == 0 && s->presence == 0)
        return;
    for (int32_t i = 0; i < n; i++)
        if (counts[i])
            l[i] = penalized(s, counts[i], l[i]);
}

/* Is every id allowed as it stands? Then the row need not be copied. */
static bool is_plain(const struct sample_slot *s, int32_t vocab, bool penalties)
{
    int phase = s->phase != 0;
    if (penalties || s->lo[phase] > 0 || s->hi[phase] < vocab || (phase == 0 && s->flip_id >= 0 && s->flip_bias != 0))
        return false;
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (s->never[phase][i] >= 0)
            return false;
    return true;
}

static int32_t clamp(int32_t x, int32_t vocab)
{
    return x < 0 ? 0 : x > vocab ? vocab : x;
}

/* l: the row with penalties, then -infinity where the slot allows nothing, then the bias. */
static void adjust(const struct sample_slot *s, const int32_t *counts, const float *raw, float *l, int32_t vocab)
{
    int phase = s->phase != 0;
    int32_t lo = clamp(s->lo[phase], vocab), hi = clamp(s->hi[phase], vocab);
    hi = hi < lo ? lo : hi;
    for (int32_t i = 0; i < vocab; i++)
        l[i] = -INFINITY;
    memcpy(l + lo, raw + lo, (size_t)(hi - lo) * sizeof *l);
    if (counts)
        penalize(s, counts + lo, l + lo, hi - lo);
    for (int i = 0; i < SAMPLE_STOP_IDS; i++) {
        int32_t id = s->also[phase][i];
        if (id >= 0 && id < vocab && (id < lo || id >= hi)) {
            l[id] = raw[id];
            if (counts)
                penalize(s, counts + id, l + id, 1);
        }
    }
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (s->never[phase][i] >= 0 && s->never[phase][i] < vocab)
            l[s->never[phase][i]] = -INFINITY;
    if (phase == 0 && s->flip_id >= 0 && s->flip_id < vocab)
        l[s->flip_id] += s->flip_bias;
}

/* ---- the order: higher z first, then lower id ---- */

static bool before(struct item a, struct item b)
{
    return a.z > b.z || (a.z == b.z && a.id < b.id);
}

static void sift(struct item *heap, int32_t n, int32_t i)
{
    struct item x = heap[i];
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], x))
            break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static int bucket_of(float z)
{
    float b = z * -PER_UNIT;
    return b < BUCKETS - 1 ? (int)b : BUCKETS - 1; /* -infinity: the last */
}

static void histogram(struct row *r)
{
    memset(r->mass, 0, BUCKETS * sizeof *r->mass);
    memset(r->count, 0, BUCKETS * sizeof *r->count);
    for (int32_t i = 0; i < r->vocab; i++) {
        int b = bucket_of(r->z[i]);
        r->count[b]++;
        r->mass[b] += (double)r->w[i];
    }
}

/* Puts the members of bucket b into the heap; returns how many. */
static int32_t heap_of_bucket(struct row *r, int b)
{
    int32_t n = 0;
    for (int32_t i = 0; i < r->vocab; i++)
        if (bucket_of(r->z[i]) == b)
            r->heap[n++] = (struct item){ r->z[i], i };
    for (int32_t i = n / 2; i-- > 0;)
        sift(r->heap, n, i);
    return n;
}

/* The last item within both limits: the item that makes the number of items reach `items` or their mass reach `mass`.
 * Returns it; *total is the mass up to and including it. */
static struct item find_cut(struct row *r, int64_t items, double mass, double *total)
{
    int64_t seen = 0;
    double sum = 0;
    int b = 0;
    while (b < BUCKETS - 1 && seen + r->count[b] < items && sum + r->mass[b] < mass) {
        seen += r->count[b];
        sum += r->mass[b++];
    }
    int32_t n = heap_of_bucket(r, b);
    struct item cut = { INFINITY, -1 };
    while (n > 0 && (cut.id < 0 || (seen < items && sum < mass))) {
        cut = r->heap[0];
        r->heap[0] = r->heap[--n];
        sift(r->heap, n, 0);
        seen++;
        sum += (double)r->w[cut.id];
    }
    *total = sum;
    return cut;
}

static void cut_off(struct row *r, struct item cut)
{
    for (int32_t i = 0; i < r->vocab; i++) {
        bool keep = r->z[i] > cut.z || (i <= cut.id && r->z[i] == cut.z);
        r->w[i] = keep ? r->w[i] : 0;
    }
}

static void filter(struct row *r, const struct sample_slot *s)
{
    bool top_k = s->top_k > 0 && s->top_k < r->vocab, top_p = s->top_p < 1;
    if (top_k || top_p) {
        int64_t items = top_k ? s->top_k : r->vocab;
        double total = 0;
        histogram(r);
        struct item cut = { 0, 0 };
        if (top_k)
            cut = find_cut(r, items, INFINITY, &total);
        else
            for (int b = 0; b < BUCKETS; b++)
                total += r->mass[b];
        if (top_p)
            cut = find_cut(r, items, (double)s->top_p * total, &total);
        cut_off(r, cut);
    }
    if (s->min_p > 0) {
        float least = s->min_p < 1 ? s->min_p : 1; /* the maximum has w = 1 and always stays */
        for (int32_t i = 0; i < r->vocab; i++)
            r->w[i] = r->w[i] < least ? 0 : r->w[i];
    }
}

/* The id where the running sum of w passes u times the whole. Blocks are summed in lanes, the block that is hit one by
 * one; if rounding then misses the end, its last id with any weight is the one. */
static int32_t draw(struct row *r, double u)
{
    double total = 0, sum = 0;
    int32_t blocks = (r->vocab + DRAW_BLOCK - 1) / DRAW_BLOCK, b = 0, hit = 0;
    for (int32_t i = 0; i < blocks; i++) {
        int32_t at = i * DRAW_BLOCK, n = r->vocab - at < DRAW_BLOCK ? r->vocab - at : DRAW_BLOCK;
        r->block[i] = r->isa->sum(r->w + at, n);
        total += r->block[i];
    }
    double target = u * total;
    for (int32_t i = 0; i < blocks; i++) {
        if (r->block[i] > 0)
            b = i; /* the last block with weight, should rounding miss */
        if (sum + r->block[i] > target)
            break;
        sum += r->block[i];
    }
    for (int32_t i = b * DRAW_BLOCK; i < r->vocab && i < (b + 1) * DRAW_BLOCK; i++) {
        if (!(r->w[i] > 0))
            continue;
        hit = i;
        sum += (double)r->w[i];
        if (sum > target)
            break;
    }
    return hit;
}

/* ---- one row ---- */

static int32_t first_equal(const float *l, int32_t n, float x)
{
    int32_t i = 0;
    while (i < n && l[i] != x)
        i++;
    return i;
}

static int32_t choose(struct row *r, const struct sample_slot *s, const float *l, float max)
{
    if (max == -INFINITY) {
        int32_t id = 0;
        while (id < r->vocab && !slot_allows(s, id))
            id++;
        return id < r->vocab ? id : -1;
    }
    if (s->temperature == 0 || max == INFINITY)
        return first_equal(l, r->vocab, max);
    r->isa->soften(r->w, r->z, l, r->vocab, max, s->temperature);
    filter(r, s);
    struct rng rng = { { s->key[0], s->key[1] }, { s->stream[0], s->stream[1] } };
    return draw(r, rng_unit(&rng, (uint64_t)s->generated));
}

static enum row_status sample_row(struct cpu *c, const struct sample_args *a, int i, int thread)
{
    int32_t slot = i32(a->slot_of)[i];
    struct sample_slot *s = (struct sample_slot *)a->slots->data + slot;
    int32_t *counts = a->counts ? i32(a->counts) + (int64_t)slot * a->vocab : NULL;
    const float *raw = f32(a->logits) + (int64_t)i * a->vocab, *l = raw;
    i32(a->out_id)[i] = -1;
    if (a->out_logprob)
        f32(a->out_logprob)[i] = NAN;
    if (s->done != SAMPLE_RUNNING)
        return ROW_DONE;
    struct row r = row_in(c->scratch[thread].p, a->vocab, rows_of(c));
    bool nan, penalties = counts && (s->repetition != 1 || s->frequency != 0 || s->presence != 0);
    float raw_max = r.isa->max(raw, a->vocab, &nan), max = raw_max;
    if (nan)
        return ROW_NAN;
    if (!is_plain(s, a->vocab, penalties)) {
        adjust(s, penalties ? counts : NULL, raw, r.w, a->vocab);
        l = r.w;
        max = r.isa->max(l, a->vocab, &nan);
        if (nan) /* infinity less infinity */
            return ROW_NAN;
    }
    int32_t id = choose(&r, s, l, max);
    if (id < 0)
        return ROW_EMPTY;
    i32(a->out_id)[i] = id;
    if (a->out_logprob) {
        double sum, unused;
        r.isa->sum_exp(raw, a->vocab, raw_max, &sum, &unused);
        f32(a->out_logprob)[i] = (float)((double)raw[id] - raw_max - log(sum));
    }
    slot_take(s, id, counts);
    return ROW_DONE;
}

struct sampling {
    struct cpu *c;
    const struct sample_args *a;
    int32_t *status; /* [n] */
};

static void sample_piece(void *arg, int i, int thread)
{
    const struct sampling *j = arg;
    j->status[i] = sample_row(j->c, j->a, i, thread);
}

void fast_sample(struct cpu *c, const struct sample_args *a)
{
    struct sampling j = { c, a, cpu_scratch(c, c->threads, ((size_t)a->n + 1) * sizeof(int32_t), "sampler") };
    for (int t = 0; t < c->threads; t++)
        cpu_scratch(c, t, row_bytes(a->vocab), "sampler");
    if (c->failed)
        return;
    pool_run((int64_t)a->n * a->vocab < SERIAL_VOCAB ? NULL : c->pool, a->n, sample_piece, &j);
    for (int i = 0; i < a->n; i++) {
        int32_t slot = i32(a->slot_of)[i];
        if (j.status[i] == ROW_NAN)
            cpu_fail(c, "NaN in logits of sampler slot %d", slot);
        else if (j.status[i] == ROW_EMPTY)
            cpu_fail(c, "sampler slot %d allows no id at all", slot);
    }
}
