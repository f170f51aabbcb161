/* attend_test.c - attention against the oracle, and its three forms against each other: a packed batch, a prefill over
 * pages, and decoding token by token must give the same bits, whatever the page table looks like. */
#include "kernels/kernel_test.h"

struct shape {
    int heads, kv_heads, hd, window;
};

enum { MAX_SEQ = 8 };

struct batch {
    struct shape s;
    int nseq, rows;
    int32_t begin[MAX_SEQ + 1];
    float *qkv; /* rotated already */
    int64_t width, q_width, kv_width;
};

static struct batch batch_of(struct shape s, int nseq, const int *lengths, uint64_t seed)
{
    struct batch b = { .s = s, .nseq = nseq };
    for (int i = 0; i < nseq; i++)
        b.begin[i + 1] = b.begin[i] + lengths[i];
    b.rows = b.begin[nseq];
    b.q_width = (int64_t)s.heads * s.hd;
    b.kv_width = (int64_t)s.kv_heads * s.hd;
    b.width = b.q_width + 2 * b.kv_width;
    struct source src = source_of(seed);
    b.qkv = random_floats(&src, b.rows * b.width, 2);
    return b;
}

static float *varlen(struct device *d, const struct batch *b, bool causal)
{
    struct tensor *out = floats_of(d, b->rows, b->q_width, NULL), *qkv = floats_of(d, b->rows, b->width, b->qkv);
    struct tensor *begin = ints_of(d, b->nseq + 1, 1, b->begin);
    struct attend_varlen_args a = { out,           qkv,     begin,
                                    b->nseq,       b->rows, b->s.heads,
                                    b->s.kv_heads, b->s.hd, 1 / sqrtf((float)b->s.hd),
                                    b->s.window,   causal };
    d->attend_varlen(d, &a);
    float *r = floats_back(d, out);
    d->tensor_free(d, out);
    d->tensor_free(d, qkv);
    d->tensor_free(d, begin);
    return r;
}

/* Pages of all sequences shuffled through one cache whose unused places hold NaN: reading one would show. */
struct cache {
    struct tensor *k, *v, *table, *slot;
    int max_pages;
};

static struct cache cache_of(struct device *d, const struct batch *b, uint64_t seed)
{
    struct cache c = { 0 };
    int pages = 1, order[512];
    for (int s = 0; s < b->nseq; s++) {
        int n = (b->begin[s + 1] - b->begin[s] + KV_PAGE - 1) / KV_PAGE;
        pages += n;
        c.max_pages = n > c.max_pages ? n : c.max_pages;
    }
    assert_true(pages < 512);
    struct source src = source_of(seed);
    for (int i = 0; i < pages; i++)
        order[i] = i;
    for (int i = pages - 1; i > 1; i--) { /* page 0 belongs to nobody */
        int j = 1 + next_int(&src, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    size_t n = (size_t)(pages * KV_PAGE * b->kv_width);
    float *k = xcalloc(n, sizeof *k), *v = xcalloc(n, sizeof *v);
    for (size_t i = 0; i < n; i++)
        k[i] = v[i] = NAN;
    int32_t *table = xcalloc((size_t)(MAX_SEQ * c.max_pages), sizeof *table), slot[MAX_SEQ];
    int next = 1;
    for (int s = 0; s < b->nseq; s++) {
        slot[s] = (s * 3 + 1) % MAX_SEQ;
        for (int p = 0; p < b->begin[s + 1] - b->begin[s]; p++) {
            if (p % KV_PAGE == 0)
                table[slot[s] * c.max_pages + p / KV_PAGE] = order[next++];
            int64_t row = (int64_t)table[slot[s] * c.max_pages + p / KV_PAGE] * KV_PAGE + p % KV_PAGE;
            const float *from = b->qkv + (b->begin[s] + p) * b->width + b->q_width;
            memcpy(k + row * b->kv_width, from, (size_t)b->kv_width * sizeof *k);
            memcpy(v + row * b->kv_width, from + b->kv_width, (size_t)b->kv_width * sizeof *v);
        }
    }
    c.k = floats_of(d, pages * KV_PAGE, b->kv_width, k);
    c.v = floats_of(d, pages * KV_PAGE, b->kv_width, v);
    c.table = ints_of(d, MAX_SEQ, c.max_pages, table);
    c.slot = ints_of(d, b->nseq, 1, slot);
    free(k);
    free(v);
    free(table);
    return c;
}

static void cache_free(struct device *d, struct cache *c)
{
    d->tensor_free(d, c->k);
    d->tensor_free(d, c->v);
    d->tensor_free(d, c->table);
    d->tensor_free(d, c->slot);
}

/* Rows from[s] .. to[s]-1 of every sequence in one call; results land in out at the batch's own rows. */
static void paged_call(struct device *d, const struct batch *b, const struct cache *c, const int *from, const int *to,
                       float *out)
{
    int32_t begin[MAX_SEQ + 1] = { 0 }, context[MAX_SEQ];
    for (int s = 0; s < b->nseq; s++) {
        begin[s + 1] = begin[s] + to[s] - from[s];
        context[s] = to[s] > 0 ? to[s] : 1;
    }
    int rows = begin[b->nseq];
    if (rows == 0)
        return;
    float *q = xcalloc((size_t)(rows * b->width), sizeof *q);
    for (int s = 0; s < b->nseq; s++)
        memcpy(q + begin[s] * b->width, b->qkv + (b->begin[s] + from[s]) * b->width,
               (size_t)((to[s] - from[s]) * b->width) * sizeof *q);
    struct tensor *o = floats_of(d, rows, b->q_width, NULL), *qkv = floats_of(d, rows, b->width, q);
    struct tensor *tb = ints_of(d, b->nseq + 1, 1, begin), *tc = ints_of(d, b->nseq, 1, context);
    struct attend_args a = { o,          qkv,     c->k, c->v,       c->table,      c->slot, tb,
                             tc,         b->nseq, rows, b->s.heads, b->s.kv_heads, b->s.hd, 1 / sqrtf((float)b->s.hd),
                             b->s.window };
    d->attend(d, &a);
    float *r = floats_back(d, o);
    for (int s = 0; s < b->nseq; s++)
        memcpy(out + (b->begin[s] + from[s]) * b->q_width, r + begin[s] * b->q_width,
               (size_t)((to[s] - from[s]) * b->q_width) * sizeof *r);
    free(r);
    free(q);
    struct tensor *made[] = { o, qkv, tb, tc };
    for (int i = 0; i < 4; i++)
        d->tensor_free(d, made[i]);
}

/* step 0: everything at once; else that many tokens of every sequence per call (1: decoding). */
static float *paged(struct device *d, const struct batch *b, int step, uint64_t seed)
{
    struct cache c = cache_of(d, b, seed);
    float *out = xcalloc((size_t)(b->rows * b->q_width), sizeof *out);
    int from[MAX_SEQ] = { 0 }, to[MAX_SEQ];
    for (bool more = true; more;) {
        more = false;
        for (int s = 0; s < b->nseq; s++) {
            int length = b->begin[s + 1] - b->begin[s];
            to[s] = step == 0 || from[s] + step > length ? length : from[s] + step;
            more = more || to[s] < length;
        }
        paged_call(d, b, &c, from, to, out);
        memcpy(from, to, sizeof from);
    }
    cache_free(d, &c);
    return out;
}

static const struct shape shapes[] = {
    { 4, 2, 32, 0 }, { 1, 1, 1, 0 },   { 3, 1, 7, 0 },   { 6, 3, 33, 0 }, { 8, 8, 64, 0 },  { 4, 1, 128, 40 },
    { 2, 2, 9, 1 },  { 4, 2, 16, 33 }, { 2, 1, 80, 32 }, { 5, 5, 31, 7 }, { 16, 2, 32, 0 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_oracle(void **state)
{
    (void)state;
    const int lengths[] = { 1, 7, 8, 31, 32, 33, 65, 9 };
    struct device *oracle = open_path(CPU_ORACLE, 1);
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        for (int i = 0; d && i < SHAPES; i++) {
            struct batch b = batch_of(shapes[i], 8, lengths, (uint64_t)i);
            int64_t n = b.rows * b.q_width;
            for (int kind = 0; kind < 3; kind++) {
                char what[64];
                snprintf(what, sizeof what, "%s shape %d kind %d", path_name(isa), i, kind);
                float *want = kind == 2 ? paged(oracle, &b, 0, 5) : varlen(oracle, &b, kind == 0);
                float *got = kind == 2 ? paged(d, &b, 0, 6) : varlen(d, &b, kind == 0);
                assert_close(what, got, want, n, 3e-6, 3e-6);
                free(want);
                free(got);
            }
            free(b.qkv);
        }
        device_close(d);
    }
    device_close(oracle);
}

static void test_long(void **state)
{
    (void)state;
    struct device *oracle = open_path(CPU_ORACLE, 1);
    const int lengths[][2] = { { 1023, 1 }, { 1024, 2 }, { 1025, 33 } };
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        for (int i = 0; d && i < 3; i++) {
            struct batch b = batch_of((struct shape){ 2, 1, 16, i == 1 ? 500 : 0 }, 2, lengths[i], (uint64_t)i);
            float *want = varlen(oracle, &b, true), *got = paged(d, &b, 0, 6);
            assert_close("long", got, want, b.rows * b.q_width, 3e-6, 3e-6);
            free(want);
            free(got);
            free(b.qkv);
        }
        device_close(d);
    }
    device_close(oracle);
}

static void test_same_bits(void **state)
{
    (void)state;
    const int lengths[] = { 70, 1, 33, 64, 128 };
    float *avx2[SHAPES] = { NULL };
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *one = open_path(isa, 1), *two = open_path(isa, 2);
        for (int i = 0; one && i < SHAPES; i++) {
            struct batch b = batch_of(shapes[i], 5, lengths, (uint64_t)i);
            float *want = varlen(one, &b, true);
            static const int steps[] = { 0, 1, 5, 32, 33 };
            for (int j = 0; j < 5; j++) {
                char what[64];
                snprintf(what, sizeof what, "%s shape %d, %d tokens a call", path_name(isa), i, steps[j]);
                float *got = paged(j % 2 ? one : two, &b, steps[j], (uint64_t)j);
                assert_same_bits(what, got, want, b.rows * b.q_width);
                free(got);
            }
            float *got = varlen(two, &b, true);
            assert_same_bits("two threads", got, want, b.rows * b.q_width);
            free(got);
            if (isa == CPU_AVX512)
                assert_same_bits("avx512 and avx2", want, avx2[i], b.rows * b.q_width);
            if (isa == CPU_AVX2)
                avx2[i] = want;
            else
                free(want);
            free(b.qkv);
        }
        device_close(one);
        device_close(two);
    }
    for (int i = 0; i < SHAPES; i++)
        free(avx2[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
