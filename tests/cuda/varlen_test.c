/* varlen_test.c - attention without a cache on the tensor cores, forward and back, against the oracle; a sequence alone
 * and among others, bit for bit; and the faults planted in it. Inputs are bf16 already, so what differs is the rounding
 * of p and ds: 2^-9 of each. */
#include "cuda/cuda_test.h"
#include "kernels/attend_problem.h"

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

/* Sequences first .. first+nseq-1 of the batch, the last one `less` tokens shorter; dout is of all. */
static struct results run(struct device *d, const struct batch *whole, bool causal, int first, int nseq, int less,
                          const float *dout)
{
    struct batch b = *whole; /* that part of it; its qkv is borrowed */
    b.nseq = nseq;
    for (int i = 0; i <= nseq; i++)
        b.begin[i] = whole->begin[first + i] - whole->begin[first] - (i == nseq ? less : 0);
    b.rows = b.begin[nseq];
    b.qkv += whole->begin[first] * b.width;
    struct tensor *in = floats_of(d, b.rows, b.width, b.qkv);
    struct tensor *grad = floats_of(d, b.rows, b.q_width, dout + whole->begin[first] * b.q_width);
    struct tensor *out = floats_of(d, b.rows, b.q_width, NULL), *lse = floats_of(d, b.rows, b.s.heads, NULL);
    struct tensor *dqkv = floats_of(d, b.rows, b.width, NULL), *begin = ints_of(d, nseq + 1, 1, b.begin);
    struct attend_varlen_args a = varlen_args(&b, causal, out, in, begin);
    d->fill(d, dqkv, NAN, b.rows * b.width); /* it is written, all of it */
    d->attend_varlen_keep(d, &a, lse);
    d->attend_varlen_backward(d, &a, dqkv, grad, lse);
    struct results r = {
        back(d, out, 4), back(d, lse, 4), back(d, dqkv, 4), b.rows * b.q_width, b.rows * (int64_t)b.s.heads,
        b.rows * b.width
    };
    struct tensor *all[] = { in, grad, out, lse, dqkv, begin };
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

static void one_batch(struct device *d, struct device *o, struct shape s, bool causal, int nseq, const int *lengths,
                      int longest)
{
    uint64_t seed = (uint64_t)(s.heads * 1000 + s.hd);
    struct batch b = batch_of(s, nseq, lengths, seed);
    struct source src = source_of(seed + 500);
    float *dout = random_floats(&src, b.rows * b.q_width, 1);
    for (int64_t i = 0; i < b.rows * b.width; i++)
        if (i % b.width < b.q_width + b.kv_width)
            b.qkv[i] *= 2; /* scores far enough apart that a wrong key shows */
    round_to_bf16(b.qkv, b.rows * b.width);
    round_to_bf16(dout, b.rows * b.q_width);
    struct results want = run(o, &b, causal, 0, nseq, 0, dout), got = run(d, &b, causal, 0, nseq, 0, dout);
    char what[128];
    int n = snprintf(what, sizeof what, "%s, window %d, %d/%d heads of %d: ", causal ? "causal" : "whole", s.window,
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
    for (int i = 0; i < nseq; i++) { /* every one: a fault may be the first one's, or the short ones' */
        if (!lengths[i])
            continue;
        struct results one = run(d, &b, causal, i, 1, 0, dout);
        int64_t at = b.begin[i];
        if (memcmp(one.out, got.out + at * b.q_width, (size_t)one.n_out * 4) != 0 ||
            memcmp(one.lse, got.lse + at * s.heads, (size_t)one.n_lse * 4) != 0 ||
            memcmp(one.dqkv, got.dqkv + at * b.width, (size_t)one.n_dqkv * 4) != 0)
            note_mismatch("%.*ssequence %d has other bits alone", n, what, i);
        results_release(&one);
    }
    struct results begun = run(d, &b, causal, longest, 1, 1, dout);
    if (causal && memcmp(begun.out, got.out + b.begin[longest] * b.q_width, (size_t)begun.n_out * 4) != 0)
        note_mismatch("%.*ssequence %d has other bits without its last token", n, what, longest);
    results_release(&want);
    results_release(&got);
    results_release(&begun);
    free(b.qkv);
    free(dout);
}

static const int lengths[] = { 1, 33, 0, 31, 9, 32, 7, 65, 8 };
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void widths(struct device *d, struct device *o)
{
    static const struct {
        struct shape s;
        bool causal;
    } shapes[] = { { { 1, 1, 8, 0 }, true },  { { 3, 1, 16, 0 }, false }, { { 3, 3, 32, 9 }, true },
                   { { 4, 2, 64, 0 }, true }, { { 2, 1, 80, 0 }, false }, { { 2, 1, 96, 33 }, true },
                   { { 3, 1, 128, 0 }, true } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        one_batch(d, o, shapes[i].s, shapes[i].causal, LENGTHS, lengths, 7);
}

/* More blocks than one in a sequence, and windows that leave whole tiles and blocks unseen. */
static void blocks(struct device *d, struct device *o)
{
    static const int longer[] = { 3, 150, 300 };
    one_batch(d, o, (struct shape){ 1, 1, 16, 0 }, true, 3, longer, 2);
    one_batch(d, o, (struct shape){ 2, 1, 16, 40 }, true, 3, longer, 2);
    one_batch(d, o, (struct shape){ 1, 1, 16, 0 }, false, 3, longer, 2);
}

/* For the planted faults: three tiles of keys. */
static void small(struct device *d, struct device *o)
{
    static const int few[] = { 130, 5 };
    one_batch(d, o, (struct shape){ 2, 1, 16, 0 }, true, 2, few, 1);
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
}

static void test_named(void **state)
{
    (void)state;
    SKIP_UNWATCHED();
    test_bf16 = true;
    expect_named(PLANT_NO_WAIT, small, "): a copy is under way: ");
    expect_named(PLANT_NO_REFILL_GUARD, small, "): a copy is under way: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK_BF16(widths),
        CHECK_BF16(blocks),
        cmocka_unit_test(test_planted),
        cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
