/* varlen_test.c - attention without a cache on the tensor cores, forward and back, against the oracle; a sequence alone
 * and among others, bit for bit; and the faults planted in it. Inputs are bf16 already, so what differs is the rounding
 * of p and ds: 2^-9 of each. */
#include "cuda/cuda_test.h"

struct shape {
    int heads, kv_heads, hd, window;
    bool causal;
};

enum { MAX_SEQ = 12 };

struct results {
    float *out, *lse, *dqkv;
    int64_t n_out, n_lse, n_dqkv;
};

static void results_release(struct results *r)
{
    free(r->out);
    free(r->lse);
    free(r->dqkv);
}

/* Sequences first .. first+nseq-1 of those that `begin` parts, the last one `less` tokens shorter; qkv and dout are
 * those of all. */
static struct results run(struct device *d, const struct shape *s, const int32_t *begin, int first, int nseq, int less,
                          const float *qkv, const float *dout)
{
    int32_t part[MAX_SEQ + 1];
    for (int i = 0; i <= nseq; i++)
        part[i] = begin[first + i] - begin[first] - (i == nseq ? less : 0);
    int64_t rows = part[nseq], q_width = (int64_t)s->heads * s->hd, width = q_width + 2 * (int64_t)s->kv_heads * s->hd;
    struct tensor *in = floats_of(d, rows, width, qkv + begin[first] * width);
    struct tensor *grad = floats_of(d, rows, q_width, dout + begin[first] * q_width);
    struct tensor *out = floats_of(d, rows, q_width, NULL), *lse = floats_of(d, rows, s->heads, NULL);
    struct tensor *dqkv = floats_of(d, rows, width, NULL), *b = ints_of(d, nseq + 1, 1, part);
    struct attend_varlen_args a = { .out = out,
                                    .qkv = in,
                                    .begin = b,
                                    .nseq = nseq,
                                    .rows = (int)rows,
                                    .heads = s->heads,
                                    .kv_heads = s->kv_heads,
                                    .head_dim = s->hd,
                                    .scale = 1 / sqrtf((float)s->hd),
                                    .window = s->window,
                                    .causal = s->causal };
    d->fill(d, dqkv, NAN, rows * width); /* it is written, all of it */
    d->attend_varlen_keep(d, &a, lse);
    d->attend_varlen_backward(d, &a, dqkv, grad, lse);
    struct results r = { back(d, out, 4), back(d, lse, 4), back(d, dqkv, 4),
                         rows * q_width,  rows * s->heads, rows * width };
    struct tensor *all[] = { in, grad, out, lse, dqkv, b };
    for (int i = 0; i < 6; i++)
        d->tensor_free(d, all[i]);
    return r;
}

static double most_of(const float *v, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)v[i]));
    return most;
}

static void one_batch(struct device *d, struct device *o, struct shape s, int nseq, const int *lengths, int alone)
{
    int32_t begin[MAX_SEQ + 1] = { 0 };
    for (int i = 0; i < nseq; i++)
        begin[i + 1] = begin[i] + lengths[i];
    int64_t rows = begin[nseq], q_width = (int64_t)s.heads * s.hd, width = q_width + 2 * (int64_t)s.kv_heads * s.hd;
    struct source src = source_of((uint64_t)(s.heads * 1000 + s.hd));
    float *qkv = random_floats(&src, rows * width, 2), *dout = random_floats(&src, rows * q_width, 1);
    for (int64_t i = 0; i < rows * width; i++)
        if (i % width < q_width + (width - q_width) / 2)
            qkv[i] *= 2; /* scores far enough apart that a wrong key shows */
    round_to_bf16(qkv, rows * width);
    round_to_bf16(dout, rows * q_width);
    struct results want = run(o, &s, begin, 0, nseq, 0, qkv, dout), got = run(d, &s, begin, 0, nseq, 0, qkv, dout);
    char what[128];
    int n = snprintf(what, sizeof what, "%s, window %d, %d/%d heads of %d: ", s.causal ? "causal" : "whole", s.window,
                     s.heads, s.kv_heads, s.hd);
#define SAME(x, tolerance)                                                                                             \
    do {                                                                                                               \
        snprintf(what + n, sizeof what - (size_t)n, #x);                                                               \
        same_floats(what, got.x, want.x, want.n_##x, tolerance, 0);                                                    \
    } while (0)
    SAME(out, 0.004);
    SAME(lse, 1e-4);
    SAME(dqkv, 0.005 * most_of(want.dqkv, want.n_dqkv));
#undef SAME
    struct results one = run(d, &s, begin, alone, 1, 0, qkv, dout);
    struct results begun = run(d, &s, begin, alone, 1, 1, qkv, dout);
    if (memcmp(one.out, got.out + begin[alone] * q_width, (size_t)one.n_out * 4) != 0 ||
        memcmp(one.dqkv, got.dqkv + begin[alone] * width, (size_t)one.n_dqkv * 4) != 0)
        note_mismatch("%.*ssequence %d has other bits alone", n, what, alone);
    if (s.causal && memcmp(begun.out, got.out + begin[alone] * q_width, (size_t)begun.n_out * 4) != 0)
        note_mismatch("%.*ssequence %d has other bits without its last token", n, what, alone);
    results_release(&want);
    results_release(&got);
    results_release(&one);
    results_release(&begun);
    free(qkv);
    free(dout);
}

static const int lengths[] = { 1, 33, 0, 31, 9, 32, 7, 65, 8 };
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void widths(struct device *d, struct device *o)
{
    static const struct shape shapes[] = { { 1, 1, 8, 0, true },  { 3, 1, 16, 0, false }, { 3, 3, 32, 9, true },
                                           { 4, 2, 64, 0, true }, { 2, 1, 80, 0, false }, { 2, 1, 96, 33, true },
                                           { 3, 1, 128, 0, true } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        one_batch(d, o, shapes[i], LENGTHS, lengths, 7);
}

/* More blocks than one in a sequence, and windows that leave whole tiles and blocks unseen. */
static void blocks(struct device *d, struct device *o)
{
    static const int longer[] = { 3, 150, 300 };
    one_batch(d, o, (struct shape){ 1, 1, 16, 0, true }, 3, longer, 2);
    one_batch(d, o, (struct shape){ 2, 1, 16, 40, true }, 3, longer, 2);
    one_batch(d, o, (struct shape){ 1, 1, 16, 0, false }, 3, longer, 2);
}

/* For the planted faults: three tiles of keys. */
static void small(struct device *d, struct device *o)
{
    static const int few[] = { 130, 5 };
    one_batch(d, o, (struct shape){ 2, 1, 16, 0, true }, 2, few, 1);
}

static void in_bf16(check_fn *check)
{
    test_bf16 = true;
    expect_right(check);
    test_bf16 = false;
}

static void test_widths(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    in_bf16(widths);
}

static void test_blocks(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    in_bf16(blocks);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    test_bf16 = true;
    expect_right(small);
    expect_found(PLANT_LANE, small, "two lanes of the B fragment swapped");
    expect_found(PLANT_NO_WAIT, small, "a tile read before its copy was waited for");
    expect_found(PLANT_NO_REFILL_GUARD, small, "a stage refilled while it is read");
    expect_found(PLANT_MASK, small, "one key too many");
    expect_found(PLANT_UNSEEN_ROW, small, "a key misses its own row");
    expect_found(PLANT_STALE_STATISTIC, small, "the log-sum-exp of an earlier tile");
    test_bf16 = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_planted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
