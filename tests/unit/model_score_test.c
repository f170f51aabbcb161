/* scorer: what logits say, whatever the packing. */
#include "unit/model_testing.h"

#include "model/score.h"

/* log softmax and entropy of one row, in double */
static void reference(const float *logits, int vocab, int target, double *logprob, double *entropy)
{
    double most = -INFINITY, sum = 0, mean = 0;
    for (int i = 0; i < vocab; i++)
        most = fmax(most, (double)logits[i]);
    for (int i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - most);
    for (int i = 0; i < vocab; i++)
        mean += exp((double)logits[i] - most) / sum * ((double)logits[i] - most - log(sum));
    *logprob = (double)logits[target] - most - log(sum);
    *entropy = -mean;
}

static void check_scores(const char *name, const char *device)
{
    struct err e = { "" };
    struct opened o = open_golden(name, device);
    struct scorer *s;
    enum { SEQS = 5 };
    static const int rows[] = { 1, 8, 40, 1000 };
    int32_t len[SEQS] = { 20, 1, 33, 2, 9 }, first[SEQS] = { 12, 1, 1, 1, 9 }, ids[SEQS][33];
    float first_lp[SEQS][33], first_en[SEQS][33], lp[SEQS][33], en[SEQS][33];
    int n, vocab = model_config(o.m)->vocab;
    int32_t *source = golden_ids(o.golden, "ids.2", &n);
    struct score_seq seq[SEQS];
    for (int i = 0; i < SEQS; i++) {
        for (int t = 0; t < len[i]; t++)
            ids[i][t] = source[(3 * i + t) % n];
        seq[i] = (struct score_seq){ ids[i], len[i], first[i], lp[i], i == 2 ? NULL : en[i] };
    }
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        memset(lp, 0, sizeof lp);
        memset(en, 0, sizeof en);
        assert_ok(scorer_open(&s, o.m, rows[k], &e));
        assert_ok(scorer_run(s, seq, SEQS, &e));
        scorer_close(s);
        if (k == 0) {
            memcpy(first_lp, lp, sizeof lp);
            memcpy(first_en, en, sizeof en);
        }
        assert_memory_equal(lp, first_lp, sizeof lp);
        assert_memory_equal(en, first_en, sizeof en);
    }
    for (int i = 0; i < SEQS; i++) {
        float *logits = varlen_logits(&o, ids[i], &len[i], 1);
        for (int t = first[i]; t < len[i]; t++) {
            double want_lp, want_en;
            reference(logits + (size_t)(t - 1) * (size_t)vocab, vocab, ids[i][t], &want_lp, &want_en);
            if (!(fabs(lp[i][t - first[i]] - want_lp) <= 1e-5 * fmax(1, fabs(want_lp))))
                fail_msg("%s: sequence %d token %d: %.9g, expected %.9g", o.name, i, t, (double)lp[i][t - first[i]],
                         want_lp);
            if (seq[i].entropy && !(fabs(en[i][t - first[i]] - want_en) <= 1e-5 * fmax(1, want_en)))
                fail_msg("%s: entropy %d token %d: %.9g, expected %.9g", o.name, i, t, (double)en[i][t - first[i]],
                         want_en);
        }
        free(logits);
    }
    free(source);
    close_golden(&o);
}

static void test_scores(void **state)
{
    (void)state;
    for (int d = 0; d < TEST_DEVICES; d++) {
        check_scores("qwen3", test_devices[d]);
        check_scores("phi3-longrope", test_devices[d]);
        check_scores("qwen3-sliding", test_devices[d]);
    }
}

static void test_too_long(void **state)
{
    (void)state;
    struct err e = { "" };
    struct opened o = open_golden("qwen3", "cpu");
    struct scorer *s;
    int n = (int)model_config(o.m)->max_positions + 1;
    int32_t *ids = xcalloc((size_t)n, sizeof *ids);
    float *lp = xcalloc((size_t)n, sizeof *lp);
    struct score_seq seq = { ids, n, 1, lp, NULL };
    assert_ok(scorer_open(&s, o.m, 64, &e));
    assert_int_equal(scorer_run(s, &seq, 1, &e), -1);
    assert_non_null(strstr(e.msg, "513 tokens is longer than the model's context of 512"));
    seq.n--;
    assert_ok(scorer_run(s, &seq, 1, &e));
    assert_true(lp[510] < 0);
    scorer_close(s);
    free(ids);
    free(lp);
    close_golden(&o);
}

static void test_encoder(void **state)
{
    (void)state;
    struct err e = { "" };
    struct opened o = open_golden("bert", "cpu");
    struct scorer *s;
    assert_int_equal(scorer_open(&s, o.m, 10, &e), -1);
    assert_non_null(strstr(e.msg, "bert is an encoder"));
    close_golden(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_scores), cmocka_unit_test(test_too_long),
                                        cmocka_unit_test(test_encoder) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
