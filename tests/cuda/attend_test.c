/* attend_test.c - attention of the CUDA kernels: float for any head width, tensor cores over bf16 pages; prefill
 * against decoding bit for bit; and the faults planted in it. */
#include "cuda/cuda_test.h"

struct shape {
    int heads, kv_heads, hd, window;
};

enum { MAX_SEQ = 8, UNUSED_PAGES = 2 };

struct batch {
    struct shape s;
    int nseq, rows, length[MAX_SEQ];
    int32_t begin[MAX_SEQ + 1];
    float *qkv;
    int64_t width, q_width, kv_width;
};

static struct batch batch_of(struct shape s, int nseq, const int *lengths, uint64_t seed)
{
    struct batch b = { .s = s, .nseq = nseq };
    for (int i = 0; i < nseq; i++) {
        b.length[i] = lengths[i];
        b.begin[i + 1] = b.begin[i] + lengths[i];
    }
    b.rows = b.begin[nseq];
    b.q_width = (int64_t)s.heads * s.hd;
    b.kv_width = (int64_t)s.kv_heads * s.hd;
    b.width = b.q_width + 2 * b.kv_width;
    struct source src = source_of(seed);
    b.qkv = random_floats(&src, b.rows * b.width, 1);
    for (int64_t i = 0; i < b.rows * b.width; i++)
        if (i % b.width < b.q_width + b.kv_width)
            b.qkv[i] *= 2; /* scores far enough apart that a wrong key shows */
    round_to_bf16(b.qkv, b.rows * b.width);
    return b;
}

static void varlen_once(struct device *d, const struct batch *b, bool causal, struct tensor **out)
{
    struct tensor *qkv = floats_of(d, b->rows, b->width, b->qkv), *begin = ints_of(d, b->nseq + 1, 1, b->begin);
    *out = floats_of(d, b->rows, b->q_width, NULL);
    struct attend_varlen_args a = { *out,          qkv,     begin,
                                    b->nseq,       b->rows, b->s.heads,
                                    b->s.kv_heads, b->s.hd, 1 / sqrtf((float)b->s.hd),
                                    b->s.window,   causal };
    d->attend_varlen(d, &a);
    d->tensor_free(d, qkv);
    d->tensor_free(d, begin);
}

/* The pages of all sequences lie shuffled through the cache; places without a position hold NaN. */
struct cache {
    struct tensor *k, *v, *table, *slot;
    int max_pages;
};

static struct tensor *cache_tensor(struct device *d, enum dtype type, int64_t rows, int64_t cols, const float *v)
{
    if (type == DTYPE_F32)
        return floats_of(d, rows, cols, v);
    if (type == DTYPE_F8) {
        uint8_t *codes = xcalloc((size_t)(rows * cols), sizeof *codes);
        for (int64_t i = 0; i < rows * cols; i++)
            codes[i] = f8_bits(v[i]);
        struct tensor *t = tensor_of(d, type, rows, cols, codes);
        free(codes);
        return t;
    }
    uint16_t *narrow = xcalloc((size_t)(rows * cols), sizeof *narrow);
    for (int64_t i = 0; i < rows * cols; i++)
        narrow[i] = bf16_bits(v[i]);
    struct tensor *t = tensor_of(d, type, rows, cols, narrow);
    free(narrow);
    return t;
}

static struct cache cache_of(struct device *d, const struct batch *b, enum dtype type)
{
    struct cache c = { 0 };
    int pages = 1 + UNUSED_PAGES, next = 0;
    for (int s = 0; s < b->nseq; s++) {
        int n = (b->length[s] + KV_PAGE - 1) / KV_PAGE;
        pages += n;
        c.max_pages = n > c.max_pages ? n : c.max_pages;
    }
    size_t n = (size_t)pages * KV_PAGE * (size_t)b->kv_width;
    float *k = xcalloc(n, sizeof *k), *v = xcalloc(n, sizeof *v);
    for (size_t i = 0; i < n; i++)
        k[i] = v[i] = NAN;
    int32_t *table = xcalloc((size_t)(MAX_SEQ * c.max_pages), sizeof *table), slot[MAX_SEQ];
    for (int s = 0; s < b->nseq; s++) {
        slot[s] = (s * 3 + 1) % MAX_SEQ;
        for (int p = 0; p < b->length[s]; p++) {
            int32_t *page = &table[slot[s] * c.max_pages + p / KV_PAGE];
            if (p % KV_PAGE == 0)
                *page = 1 + (next++ * 7 + 3) % (pages - 1);
            int64_t row = (int64_t)*page * KV_PAGE + p % KV_PAGE;
            const float *from = b->qkv + (b->begin[s] + p) * b->width + b->q_width;
            memcpy(k + row * b->kv_width, from, (size_t)b->kv_width * sizeof *k);
            memcpy(v + row * b->kv_width, from + b->kv_width, (size_t)b->kv_width * sizeof *v);
        }
    }
    assert_true((pages - 1) % 7 != 0); /* or two pages would share a place */
    c.k = cache_tensor(d, type, pages * KV_PAGE, b->kv_width, k);
    c.v = cache_tensor(d, type, pages * KV_PAGE, b->kv_width, v);
    c.table = ints_of(d, MAX_SEQ, c.max_pages, table);
    c.slot = ints_of(d, b->nseq, 1, slot);
    free(k);
    free(v);
    free(table);
    return c;
}

static void cache_free(struct device *d, struct cache *c)
{
    struct tensor *t[] = { c->k, c->v, c->table, c->slot };
    for (int i = 0; i < 4; i++)
        d->tensor_free(d, t[i]);
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
    float *r = back(d, o, sizeof *r);
    for (int s = 0; s < b->nseq; s++)
        memcpy(out + (b->begin[s] + from[s]) * b->q_width, r + begin[s] * b->q_width,
               (size_t)((to[s] - from[s]) * b->q_width) * sizeof *r);
    free(r);
    free(q);
    struct tensor *made[] = { o, qkv, tb, tc };
    for (int i = 0; i < 4; i++)
        d->tensor_free(d, made[i]);
}

static void prefill(struct device *d, const struct batch *b, enum dtype type, float *out)
{
    struct cache c = cache_of(d, b, type);
    int zero[MAX_SEQ] = { 0 };
    paged_call(d, b, &c, zero, b->length, out);
    cache_free(d, &c);
}

/* The last `last` rows of each sequence, a row of each a call. */
static void decode(struct device *d, const struct batch *b, enum dtype type, int last, float *out)
{
    struct cache c = cache_of(d, b, type);
    for (int step = last; step > 0; step--) {
        int from[MAX_SEQ], to[MAX_SEQ];
        for (int s = 0; s < b->nseq; s++) {
            to[s] = b->length[s] - step + 1;
            from[s] = to[s] > 0 ? to[s] - 1 : 0;
            to[s] = to[s] > 0 ? to[s] : 0;
        }
        paged_call(d, b, &c, from, to, out);
    }
    cache_free(d, &c);
}

static void one_batch(struct device *d, struct device *o, struct shape s, int nseq, const int *lengths, enum dtype type,
                      int last)
{
    struct batch b = batch_of(s, nseq, lengths, (uint64_t)(s.heads * 1000 + s.hd));
    for (int64_t i = 0; type == DTYPE_F8 && i < b.rows * b.width; i++)
        if (i % b.width >= b.q_width)
            b.qkv[i] = f8_float(f8_bits(b.qkv[i]));
    size_t n = (size_t)(b.rows * b.q_width);
    float *want = xcalloc(n, sizeof *want), *got = xcalloc(n, sizeof *got), *again = xcalloc(n, sizeof *again);
    /* p is rounded to bf16 on the tensor cores; values are at most 1 */
    double tolerance = type != DTYPE_F32 && (s.hd == 16 || s.hd == 32 || s.hd == 64 || s.hd == 128) ? 0.004 : 2e-5;
    char what[96];
    prefill(o, &b, DTYPE_F32, want);
    prefill(d, &b, type, got);
    snprintf(what, sizeof what, "prefill %d/%d heads of %d, window %d", s.heads, s.kv_heads, s.hd, s.window);
    same_floats(what, got, want, (int64_t)n, tolerance, tolerance);
    memcpy(again, got, n * sizeof *got);
    decode(d, &b, type, last, again);
    if (!mismatch[0] && memcmp(again, got, n * sizeof *got) != 0)
        note_mismatch("decode %d/%d heads of %d, window %d: bits differ from prefill's", s.heads, s.kv_heads, s.hd,
                      s.window);
    free(want);
    free(got);
    free(again);
    free(b.qkv);
}

static const int lengths[] = { 1, 33, 0, 31, 32, 7, 65 };
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void float_pages(struct device *d, struct device *o)
{
    static const struct shape shapes[] = {
        { 1, 1, 1, 0 }, { 3, 1, 7, 0 }, { 4, 2, 33, 9 }, { 5, 5, 40, 0 }, { 2, 1, 256, 32 }
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        one_batch(d, o, shapes[i], LENGTHS, lengths, DTYPE_F32, 2);
        one_batch(d, o, shapes[i], LENGTHS, lengths, DTYPE_BF16, 2);
        if (i == 2)
            one_batch(d, o, shapes[i], LENGTHS, lengths, DTYPE_F8, 1);
    }
}

static void tensor_core_pages(struct device *d, struct device *o)
{
    static const struct shape shapes[] = { { 1, 1, 32, 0 }, { 3, 1, 16, 0 },   { 4, 1, 64, 0 }, { 6, 2, 32, 9 },
                                           { 7, 7, 32, 1 }, { 3, 1, 128, 40 }, { 20, 1, 32, 0 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        one_batch(d, o, shapes[i], LENGTHS, lengths, DTYPE_BF16, 2);
        if (i % 2 || shapes[i].hd == 64)
            one_batch(d, o, shapes[i], LENGTHS, lengths, DTYPE_F8, 1);
    }
}

/* Contexts around the borders of splits, and windows that begin behind whole splits. */
static void splits(struct device *d, struct device *o)
{
    static const int around[] = { 255, 256, 257, 530 };
    one_batch(d, o, (struct shape){ 2, 1, 32, 0 }, 4, around, DTYPE_BF16, 2);
    one_batch(d, o, (struct shape){ 2, 1, 32, 20 }, 4, around, DTYPE_BF16, 2);
    one_batch(d, o, (struct shape){ 2, 1, 32, 300 }, 4, around, DTYPE_BF16, 1);
}

static void packed(struct device *d, struct device *o)
{
    static const struct shape shapes[] = {
        { 1, 1, 1, 0 }, { 3, 1, 7, 0 }, { 4, 2, 33, 9 }, { 5, 5, 64, 0 }, { 4, 2, 128, 32 }
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct batch b = batch_of(shapes[i], LENGTHS, lengths, 5 + i);
        for (int causal = 0; causal < 2; causal++) {
            struct tensor *got, *want;
            varlen_once(d, &b, causal, &got);
            varlen_once(o, &b, causal, &want);
            same_tensors(causal ? "causal" : "not causal", d, got, o, want, 2e-5, 2e-5);
        }
        free(b.qkv);
    }
}

/* Small, for the planted faults: three pages, so that every stage is refilled once. */
static void small(struct device *d, struct device *o)
{
    static const int few[] = { 130, 5 };
    one_batch(d, o, (struct shape){ 2, 1, 32, 0 }, 2, few, DTYPE_BF16, 1);
}

/* A key that is NaN: whoever sees it is NaN, whoever does not is not. All codes are values of another. */
static void odd_f8(struct device *d, struct device *o)
{
    static const int few[] = { 70 };
    enum { ROWS = 70, HD = 128, BAD = 40 };
    struct batch b = batch_of((struct shape){ 1, 1, HD, 0 }, 1, few, 77);
    float *got = xcalloc(ROWS * HD, sizeof *got), *want = xcalloc(ROWS * HD, sizeof *want);
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < HD; i++) {
            float *k = &b.qkv[t * b.width + HD + i], *v = k + HD;
            int code = (t * HD + i) % 256;
            *k = f8_float(f8_bits(*k));
            *v = code % 128 == 127 ? 0 : f8_float((uint8_t)code);
        }
    prefill(o, &b, DTYPE_F32, want);
    prefill(d, &b, DTYPE_F8, got);
    same_floats("all codes", got, want, ROWS * HD, 1, 0.004); /* of values up to 448 */
    b.qkv[BAD * b.width + HD + 5] = NAN;
    prefill(d, &b, DTYPE_F8, got);
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < HD; i++)
            if (isnan(got[t * HD + i]) != (t >= BAD))
                note_mismatch("row %d [%d] is %g, with a NaN key at %d", t, i, (double)got[t * HD + i], BAD);
    free(got);
    free(want);
    free(b.qkv);
}

static void small_f8(struct device *d, struct device *o)
{
    static const int few[] = { 130, 5 };
    one_batch(d, o, (struct shape){ 2, 1, 32, 0 }, 2, few, DTYPE_F8, 1);
}

static void test_float_pages(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    expect_right(float_pages);
}

static void test_tensor_core_pages(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    expect_right(tensor_core_pages);
    expect_right(odd_f8);
}

static void test_splits(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    expect_right(splits);
}

static void test_packed(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    expect_right(packed);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    expect_right(small);
    expect_found(PLANT_PAGE, small, "the next page of the table");
    expect_found(PLANT_LANE, small, "two lanes of the B fragment swapped");
    expect_found(PLANT_NO_WAIT, small, "keys and values read before their copy was waited for");
    expect_found(PLANT_NO_REFILL_GUARD, small, "a stage refilled while it is read");
    expect_found(PLANT_MASK, small, "one key too many");
    expect_right(small_f8);
    expect_found(PLANT_NO_WAIT, small_f8, "8-bit keys and values widened before their copy was waited for");
    expect_found(PLANT_NO_REFILL_GUARD, small_f8, "a stage refilled while it is widened");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_pages), cmocka_unit_test(test_tensor_core_pages), cmocka_unit_test(test_splits),
        cmocka_unit_test(test_packed),      cmocka_unit_test(test_planted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
