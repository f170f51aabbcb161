/* result_test.c - lib/task/stat and result: numbers against hand-computed ones. */
#include <math.h>

#include "io/record.h"
#include "task/result.h"
#include "unit/test.h"

static void near_to(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol))
        fail_msg("got %.9g want %.9g", got, want);
}

static void intervals_match_published_values(void **state)
{
    (void)state;
    struct interval i = stat_wilson(81, 263); /* Newcombe 1998, table I */
    near_to(i.lo, 0.2553, 5e-5);
    near_to(i.hi, 0.3662, 5e-5);
    i = stat_wilson(0, 20);
    near_to(i.lo, 0, 0);
    near_to(i.hi, 0.1611, 5e-5);
    i = stat_wilson(29, 29);
    near_to(i.lo, 0.8830, 5e-5);
    near_to(i.hi, 1, 0);
    near_to(stat_t975(1), 12.7062, 1e-4);
    near_to(stat_t975(4), 2.7764, 2e-3);
    near_to(stat_t975(9), 2.2622, 1e-4);
    near_to(stat_t975(499), 1.9647, 1e-4);
    double v[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
    i = stat_student(v, 10); /* 5.5 -+ 2.2622 * 3.02765 / sqrt(10) */
    near_to(i.lo, 5.5 - 2.16585, 1e-4);
    near_to(i.hi, 5.5 + 2.16585, 1e-4);
}

/* Method 10 of Newcombe 1998 (improved confidence intervals for paired data). The first row stands in the paper, the
 * others were computed apart from this code, from its formulas. Counts: both, first, second, neither. */
static void newcombe_matches_the_paper(void **state)
{
    (void)state;
    static const struct {
        int64_t e, f, g, h;
        double lo, hi; /* of p1 - p2 = (f - g) / n */
    } t[] = {
        { 36, 12, 2, 0, 0.0569, 0.3404 }, { 20, 12, 2, 16, 0.0562, 0.3292 }, { 53, 0, 1, 0, -0.0977, 0.0496 },
        { 0, 29, 1, 0, 0.6666, 0.9882 },  { 2, 97, 1, 0, 0.8721, 0.9854 },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct interval got = stat_newcombe(t[i].e, t[i].f, t[i].g, t[i].h); /* p2 - p1 */
        near_to(-got.hi, t[i].lo, 6e-5);
        near_to(-got.lo, t[i].hi, 6e-5);
    }
}

static void percentiles_and_pass_at_k(void **state)
{
    (void)state;
    double v[] = { 4, 1, 3, 2 };
    stat_sort(v, 4);
    near_to(stat_percentile(v, 4, 50), 2.5, 1e-12);
    near_to(stat_percentile(v, 4, 90), 3.7, 1e-12);
    near_to(stat_percentile(v, 4, 100), 4, 0);
    near_to(stat_percentile(v, 1, 90), 1, 0);
    near_to(stat_pass_at_k(4, 1, 1), 0.25, 1e-12);
    near_to(stat_pass_at_k(4, 1, 2), 0.5, 1e-12);
    near_to(stat_pass_at_k(4, 2, 2), 1 - 1.0 / 6, 1e-12);
    near_to(stat_pass_at_k(4, 0, 3), 0, 0);
    near_to(stat_pass_at_k(4, 3, 2), 1, 0);
}

static void add(struct results *r, const char *label, const char *text)
{
    struct err e = { "" };
    struct rec line = { 0 };
    assert_ok(rec_parse(&line, text, strlen(text), "t:1", &e));
    assert_ok(results_add(r, label, &line, &e));
    rec_release(&line);
}

static void add_row(struct results *r, double ratio, int id, int sample, int correct, int tokens, int think)
{
    char line[400];
    snprintf(
        line, sizeof line,
        "{\"benchmark\": \"math\", \"source_id\": \"math_test_%d\", \"sample_index\": %d, \"compression_ratio\": %g, "
        "\"is_correct\": %s, \"extracted\": %s, \"num_tokens\": %d, \"think_tokens\": %d, \"finish_reason\": \"%s\"}",
        id, sample, ratio, correct ? "true" : "false", correct ? "\"1\"" : "null", tokens, think,
        tokens >= 100 ? "length" : "stop");
    add(r, "run", line);
}

static void a_set_is_summarized(void **state)
{
    (void)state;
    struct err e = { "" };
    struct results r = { 0 };
    for (int i = 9; i >= 0; i--) { /* order does not matter */
        add_row(&r, 1, i, 0, i < 8, 10 * (i + 1), 10 * i);
        add_row(&r, 0.5, i, 0, i < 7 || i == 9, 50, 30);
    }
    assert_ok(results_finish(&r, &e));
    assert_int_equal(r.n, 2);
    struct result_summary s;
    result_summarize(&r.v[0], &s);
    assert_int_equal(s.questions, 10);
    near_to(s.accuracy, 0.8, 1e-12);
    near_to(s.accuracy_95.lo, 0.4902, 5e-5); /* Wilson, 8 of 10 */
    near_to(s.accuracy_95.hi, 0.9433, 5e-5);
    near_to(s.tokens.mean, 55, 1e-12);
    near_to(s.tokens.p50, 55, 1e-12);
    near_to(s.tokens.p90, 91, 1e-12);
    near_to(s.think.mean, 45, 1e-12);
    near_to(s.tokens_correct, 45, 1e-12);
    near_to(s.tokens_per_correct, 550.0 / 8, 1e-12);
    near_to(s.truncated, 0.1, 1e-12);
    near_to(s.unanswered, 0.2, 1e-12);
    assert_true(isnan(s.accuracy_compat) && isnan(s.pass_at_k));
    struct result_pair p;
    result_compare(&r.v[0], &r.v[1], &p);
    assert_int_equal(p.questions, 10);
    assert_int_equal(p.first_only, 1);
    assert_int_equal(p.second_only, 1);
    near_to(p.difference, 0, 1e-12);
    near_to(p.length_ratio, 30.0 / 45, 1e-12);
    add_row(&r, 1, 3, 0, 1, 1, 1);
    assert_int_equal(results_finish(&r, &e), -1);
    assert_non_null(strstr(e.msg, "sample 0 of math_test_3 stands twice"));
    results_release(&r);
}

static void several_samples_count_by_question(void **state)
{
    (void)state;
    struct err e = { "" };
    struct results r = { 0 };
    static const int right[3][2] = { { 1, 1 }, { 1, 0 }, { 0, 0 } };
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++)
            add_row(&r, 1, i, j, right[i][j], 10, 5);
    assert_ok(results_finish(&r, &e));
    struct result_summary s;
    result_summarize(&r.v[0], &s);
    assert_int_equal(s.questions, 3);
    assert_int_equal(s.samples, 6);
    near_to(s.accuracy, 0.5, 1e-12);
    near_to(s.accuracy_95.lo, 0, 0); /* 0.5 -+ 4.3027 * 0.5 / sqrt(3) reaches beyond 0 and 1 */
    near_to(s.accuracy_95.hi, 1, 0);
    near_to(s.pass_at_k, 2.0 / 3, 1e-12);
    results_release(&r);
}

static void the_references_rows_are_read(void **state)
{
    (void)state;
    struct err e = { "" };
    struct results r = { 0 };
    add(&r, "ref", "{\"type\": \"summary\", \"compression_ratio\": 0.5, \"num_samples\": 2}");
    add(&r, "ref",
        "{\"source_id\": \"gsm8k_test_0\", \"num_tokens\": 7, \"think_tokens\": 3, \"is_correct\": true, "
        "\"extracted\": \"5\"}");
    results_file(&r, 1);
    add(&r, "ref",
        "{\"source_id\": \"gsm8k_test_0\", \"num_tokens\": 7, \"think_tokens\": 3, \"is_correct\": false, "
        "\"extracted\": null}");
    assert_ok(results_finish(&r, &e));
    assert_int_equal(r.n, 2);
    assert_string_equal(r.v[0].benchmark, "gsm8k");
    near_to(r.v[0].ratio, 0.5, 0);
    near_to(r.v[1].ratio, 1, 0);
    struct result_summary s;
    result_summarize(&r.v[0], &s);
    assert_true(isnan(s.truncated));
    struct rec line = { 0 };
    const char *bad = "{\"source_id\": \"a\", \"is_correct\": 1}";
    assert_ok(rec_parse(&line, bad, strlen(bad), "f:3", &e));
    assert_int_equal(results_add(&r, "ref", &line, &e), -1);
    assert_non_null(strstr(e.msg, "f:3"));
    rec_release(&line);
    results_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals_match_published_values),  cmocka_unit_test(newcombe_matches_the_paper),
        cmocka_unit_test(percentiles_and_pass_at_k),         cmocka_unit_test(a_set_is_summarized),
        cmocka_unit_test(several_samples_count_by_question), cmocka_unit_test(the_references_rows_are_read),
    };
    return cmocka_run_group_tests_name("result", tests, NULL, NULL);
}
