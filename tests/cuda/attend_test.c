/* attend_test.c - attention of the CUDA kernels: float for any head width, tensor cores over bf16 pages; prefill
 * against decoding bit for bit; and the faults planted in it. */
#include "cuda/cuda_test.h"
#include "kernels/attend_problem.h"

static struct batch bf16_batch_of(struct shape s, int nseq, const int *lengths, uint64_t seed)
{
    struct batch b = batch_of(s, nseq, lengths, seed);
    for (int64_t i = 0; i < b.rows * b.width; i++)
        if (i % b.width >= b.q_width + b.kv_width)
            b.qkv[i] /= 2; /* values of at most 1, below scores far enough apart that a wrong key shows */
    round_to_bf16(b.qkv, b.rows * b.width);
    return b;
}

/* The last `last` rows of each sequence, a row of each a call. */
static void decode(struct device *d, const struct batch *b, enum dtype type, int last, float *out)
{
    struct cache c = cache_of(d, b, type, 6);
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
    struct batch b = bf16_batch_of(s, nseq, lengths, (uint64_t)(s.heads * 1000 + s.hd));
    for (int64_t i = 0; type == DTYPE_F8 && i < b.rows * b.width; i++)
        if (i % b.width >= b.q_width)
            b.qkv[i] = f8_float(f8_bits(b.qkv[i]));
    int64_t n = b.rows * b.q_width;
    /* p is rounded to bf16 on the tensor cores; values are at most 1 */
    double tolerance = type != DTYPE_F32 && (s.hd == 16 || s.hd == 32 || s.hd == 64 || s.hd == 128) ? 0.004 : 2e-5;
    char what[96];
    float *want = paged(o, &b, DTYPE_F32, 0, 5), *got = paged(d, &b, type, 0, 6);
    snprintf(what, sizeof what, "prefill %d/%d heads of %d, window %d", s.heads, s.kv_heads, s.hd, s.window);
    same_floats(what, got, want, n, tolerance, tolerance);
    memcpy(want, got, (size_t)n * sizeof *got);
    decode(d, &b, type, last, want);
    if (!mismatch[0] && memcmp(want, got, (size_t)n * sizeof *got) != 0)
        note_mismatch("decode %d/%d heads of %d, window %d: bits differ from prefill's", s.heads, s.kv_heads, s.hd,
                      s.window);
    free(want);
    free(got);
    free(b.qkv);
}

static const int lengths[] = { 1, 33, 0, 31, 32, 7, 65 }; /* the first a single: a call of both ways */
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

/* More rows than a warp looks at, more splits than blocks. */
static void many_rows(struct device *d, struct device *o)
{
    int each[MAX_SEQ];
    for (int i = 0; i < MAX_SEQ; i++)
        each[i] = i == 3 || i == 35 ? 300 : i * 5 % 11;
    one_batch(d, o, (struct shape){ 2, 2, 16, 0 }, MAX_SEQ, each, DTYPE_BF16, 1);
}

static void packed(struct device *d, struct device *o)
{
    static const struct shape shapes[] = {
        { 1, 1, 1, 0 }, { 3, 1, 7, 0 }, { 4, 2, 33, 9 }, { 5, 5, 64, 0 }, { 4, 2, 128, 32 }
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct batch b = bf16_batch_of(shapes[i], LENGTHS, lengths, 5 + i);
        for (int causal = 0; causal < 2; causal++) {
            float *got = varlen(d, &b, causal), *want = varlen(o, &b, causal);
            same_floats(causal ? "causal" : "not causal", got, want, b.rows * b.q_width, 2e-5, 2e-5);
            free(got);
            free(want);
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
    struct batch b = bf16_batch_of((struct shape){ 1, 1, HD, 0 }, 1, few, 77);
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < HD; i++) {
            float *k = &b.qkv[t * b.width + HD + i], *v = k + HD;
            int code = (t * HD + i) % 256;
            *k = f8_float(f8_bits(*k));
            *v = code % 128 == 127 ? 0 : f8_float((uint8_t)code);
        }
    float *want = paged(o, &b, DTYPE_F32, 0, 5), *got = paged(d, &b, DTYPE_F8, 0, 6);
    same_floats("all codes", got, want, ROWS * HD, 1, 0.004); /* of values up to 448 */
    free(got);
    b.qkv[BAD * b.width + HD + 5] = NAN;
    got = paged(d, &b, DTYPE_F8, 0, 6);
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

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    expect_right(small);
    expect_found(PLANT_PAGE, small, "the next page of the table");
    expect_found(PLANT_LANE, small, "two lanes of the B fragment swapped");
    expect_found(PLANT_ASKEW, small, "rows of an ldmatrix that begin between the places where it may");
    assert_non_null(strstr(mismatch, "ldmatrix of 16 bytes at an address that is not aligned"));
    expect_found(PLANT_NO_WAIT, small, "keys and values read before their copy was waited for");
    expect_found(PLANT_NO_REFILL_GUARD, small, "a stage refilled while it is read");
    expect_found(PLANT_MASK, small, "one key too many");
    expect_right(small_f8);
    expect_found(PLANT_LANE, small_f8, "two keys of 8 bits swapped");
    expect_found(PLANT_NO_WAIT, small_f8, "8-bit keys and values widened before their copy was waited for");
    expect_found(PLANT_NO_REFILL_GUARD, small_f8, "a stage refilled while it is widened");
}

static void test_named(void **state)
{
    (void)state;
    SKIP_UNWATCHED();
    test_bf16 = false;
    expect_named(PLANT_NO_WAIT, small, "): a copy is under way: ");
    expect_named(PLANT_NO_REFILL_GUARD, small, "): a copy is under way: ");
    expect_named(PLANT_NO_WAIT, small_f8, "): a copy is under way: ");
    expect_named(PLANT_NO_REFILL_GUARD, small_f8, "): a copy is under way: ");
    expect_named(PLANT_UNORDERED_LANES, float_pages, "): race: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(float_pages),
        CHECK(tensor_core_pages),
        CHECK(odd_f8),
        CHECK(splits),
        CHECK(many_rows),
        CHECK(packed),
        cmocka_unit_test(test_planted),
        cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
