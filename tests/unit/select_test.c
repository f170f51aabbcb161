/* select: counts, ties, groups, scores, exemplars. */
#include "io/record.h"
#include "task/select.h"
#include "test.h"

/* The output of a selector over lines, newline-separated. */
static int run(struct select_spec spec, const char *lines, struct buf *out, struct select_counts *n, struct err *e)
{
    struct selector *s;
    int rc = selector_open(&s, &spec, e);
    buf_reset(out);
    buf_puts(out, "");
    for (const char *at = lines; rc == 0 && *at;) {
        struct rec r;
        size_t k = strcspn(at, "\n");
        assert_int_equal(rec_parse(&r, at, k, "in:1", e), 0);
        rc = selector_add(s, &r, out, e);
        rec_release(&r);
        at += k + (at[k] == '\n');
    }
    if (rc == 0)
        rc = selector_finish(s, out, e);
    if (n && rc == 0)
        *n = *selector_counts(s);
    if (rc == 0 || s)
        selector_close(s);
    return rc;
}

static struct select_spec nothing(void)
{
    return (struct select_spec){ .min_tokens = -1, .max_tokens = -1, .min_per_group = 1, .by = "logprob_post_cot" };
}

static void selects(struct select_spec spec, const char *lines, const char *want)
{
    struct err e = { "" };
    struct buf out = BUF_INIT;
    assert_ok(run(spec, lines, &out, NULL, &e));
    assert_string_equal(out.s ? out.s : "", want);
    buf_release(&out);
}

#define ROW(id, right, text, n)                                                                                        \
    "{\"source_id\": \"" id "\", \"is_correct\": " right ", \"reasoning\": \"" text                                    \
    "\", \"reasoning_token_count\": " n "}\n"
static const char *const rows =
    ROW("a_s0", "true", "aaa", "30") ROW("b_s0", "false", "x", "5") ROW("a_s1", "true", "bb", "20")
        ROW("a_s2", "false", "cc", "10") ROW("a_s3", "true", " aaa ", "20") ROW("b_s1", "true", "aaa", "7");

static void test_filters(void **state)
{
    struct select_spec s = nothing();
    (void)state;
    selects(s, rows, rows);
    s.correct = true;
    s.min_tokens = 20;
    selects(s, rows,
            ROW("a_s0", "true", "aaa", "30") ROW("a_s1", "true", "bb", "20") ROW("a_s3", "true", " aaa ", "20"));
    s.max_tokens = 20;
    s.min_tokens = -1;
    s.dedup = true;
    selects(s, rows,
            ROW("a_s1", "true", "bb", "20") ROW("a_s3", "true", " aaa ", "20") ROW("b_s1", "true", "aaa", "7"));
    s.max_tokens = -1;
    selects(s, rows, ROW("a_s0", "true", "aaa", "30") ROW("a_s1", "true", "bb", "20") ROW("b_s1", "true", "aaa", "7"));
}

static void test_shortest(void **state)
{
    struct select_spec s = nothing();
    (void)state;
    s.correct = true;
    s.shortest = 1;
    selects(s, rows, ROW("a_s1", "true", "bb", "20") ROW("b_s1", "true", "aaa", "7")); /* the tie: a_s1 came first */
    s.shortest = 2;
    selects(s, rows,
            ROW("a_s1", "true", "bb", "20") ROW("a_s3", "true", " aaa ", "20") ROW("b_s1", "true", "aaa", "7"));
    s.correct = false;
    s.compat = true; /* by question in first-seen order, from short to long */
    selects(s, rows,
            ROW("a_s2", "false", "cc", "10") ROW("a_s1", "true", "bb", "20") ROW("b_s0", "false", "x", "5")
                ROW("b_s1", "true", "aaa", "7"));
}

/* Specification 11.6, and a few more by Python's round(). */
static void test_top_count(void **state)
{
    (void)state;
    assert_int_equal(select_top_count(2, 0.25, 1), 1);
    assert_int_equal(select_top_count(6, 0.25, 1), 2);
    assert_int_equal(select_top_count(10, 0.25, 1), 2);
    assert_int_equal(select_top_count(14, 0.25, 1), 4);
    assert_int_equal(select_top_count(3, 1, 1), 3);
    assert_int_equal(select_top_count(1, 0.01, 5), 1);
    assert_int_equal(select_top_count(4, 0.1, 0), 0);
}

#define SCORED(id, ratio, p)                                                                                           \
    "{\"source_id\": \"" id "\", \"compression_ratio\": " ratio ", \"logprob_post_cot\": " p "}\n"
static void test_top(void **state)
{
    struct select_spec s = nothing();
    struct err e = { "" };
    struct select_counts n;
    struct buf out = BUF_INIT;
    char path[4200];
    (void)state;
    s.top = 0.5;
    /* the record carries the key; ratios are groups of their own; equal scores: the earlier one */
    assert_ok(run(s,
                  SCORED("a_s0", "0.5", "-2.0") SCORED("a_s1", "0.5", "-1.0") SCORED("a_s0", "0.3", "-1.0")
                      SCORED("a_s1", "0.3", "-1.0"),
                  &out, &n, &e));
    assert_string_equal(out.s, "{\"source_id\": \"a_s1\", \"compression_ratio\": 0.5, \"logprob_post_cot\": -1.0, "
                               "\"quality_score\": -1.0, \"quality_score_key\": \"logprob_post_cot\"}\n"
                               "{\"source_id\": \"a_s0\", \"compression_ratio\": 0.3, \"logprob_post_cot\": -1.0, "
                               "\"quality_score\": -1.0, \"quality_score_key\": \"logprob_post_cot\"}\n");
    /* scores from a file; what has none is dropped and counted */
    snprintf(path, sizeof path, "%s/scores.jsonl", test_tmpdir());
    FILE *f = fopen(path, "w");
    fputs(SCORED("a_s0", "0.5", "-3.5") SCORED("a_s1", "0.50", "-1.25"), f);
    fclose(f);
    const char *files[] = { path };
    s.scores = files;
    s.nscores = 1;
    assert_ok(run(s,
                  "{\"source_id\": \"a_s0\", \"compression_ratio\": 0.5}\n"
                  "{\"source_id\": \"a_s1\", \"compression_ratio\": 0.5, \"x\": [1,  2]}\n"
                  "{\"source_id\": \"a_s2\", \"compression_ratio\": 0.5}\n",
                  &out, &n, &e));
    assert_string_equal(out.s, "{\"source_id\": \"a_s1\", \"compression_ratio\": 0.5, \"x\": [1,  2], "
                               "\"quality_score\": -1.25, \"quality_score_key\": \"logprob_post_cot\"}\n");
    assert_int_equal(n.unscored, 1);
    assert_int_equal(n.out, 1);
    buf_release(&out);
}

static void test_exemplars(void **state)
{
    struct select_spec s = nothing();
    struct err e = { "" };
    struct buf out = BUF_INIT;
    (void)state;
    s.exemplars = 5;
    s.max_tokens = 30;
    /* the right ones, without repeats over the whole input, shortest per question, shortest first */
    selects(
        s, rows,
        "{\"benchmark\": null, \"source_id\": \"a\", \"question\": null, \"gold_answer\": null, \"reasoning\": \"bb\", "
        "\"answer\": null, \"solution\": null, \"think_token_count\": 20}\n");
    s.compat = true;
    selects(s, ROW("a_s0", "true", "aaa", "30") ROW("b_s0", "true", "b", "29"),
            "[\n  {\n    \"benchmark\": null,\n    \"source_id\": \"b\",\n    \"question\": null,\n    "
            "\"gold_answer\": null,\n"
            "    \"reasoning\": \"b\",\n    \"answer\": null,\n    \"solution\": null,\n    \"think_token_count\": "
            "29\n  }\n]");
    assert_int_equal(run(s, ROW("a_s0", "false", "aaa", "3"), &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "no sample is fit"));
    buf_release(&out);
}

/* With whole the response counts, with all its tokens; a limit of 510 is the paper's "below 511". */
static void test_whole(void **state)
{
#define WHOLE(id, text, n, all)                                                                                        \
    "{\"source_id\": \"" id "\", \"is_correct\": true, \"reasoning\": \"r\", \"reasoning_token_count\": " n            \
    ", \"response_text\": \"" text "\", \"response_token_count\": " all "}\n"
    static const char lines[] =
        WHOLE("a_s0", "r. 1", "5", "511") WHOLE("a_s1", "r. 2", "9", "510") WHOLE("a_s2", " r. 2 ", "1", "20");
    struct select_spec s = nothing();
    (void)state;
    s.dedup = s.whole = true;
    selects(s, lines, WHOLE("a_s0", "r. 1", "5", "511") WHOLE("a_s1", "r. 2", "9", "510"));
    s.max_tokens = 510;
    s.shortest = 1;
    selects(s, lines, WHOLE("a_s1", "r. 2", "9", "510"));
    s.whole = false;
    s.max_tokens = -1;
    selects(s, lines, WHOLE("a_s0", "r. 1", "5", "511"));
}

/* The reference: a wrong sample hides a right one of the same reasoning; without a limit everything from 2048 tokens on
 * has no reward and is equal; the first wins; nothing thought is no repeat and no exemplar. */
static void test_compat_exemplars(void **state)
{
    struct select_spec s = nothing();
    struct err e = { "" };
    struct buf out = BUF_INIT;
    (void)state;
    s.exemplars = 9;
    s.compat = true;
    assert_ok(run(s,
                  ROW("a_s0", "true", "long", "3000") ROW("a_s1", "true", "longer", "2048")
                      ROW("b_s0", "true", "middle", "2500") ROW("c_s0", "true", "short", "2047")
                          ROW("d_s0", "true", "short", "2047") ROW("e_s0", "true", " ", "7")
                              ROW("f_s0", "true", "naught", "0"),
                  &out, NULL, &e));
    const char *c = strstr(out.s, "\"c\""), *a = strstr(out.s, "\"a\""), *b = strstr(out.s, "\"b\"");
    assert_true(c && a && b && c < a && a < b);
    assert_non_null(strstr(out.s, "\"think_token_count\": 3000"));
    assert_null(strstr(out.s, "\"d\""));
    assert_null(strstr(out.s, "\"e\""));
    assert_null(strstr(out.s, "\"f\""));
    s.max_tokens = 2048; /* now what reaches it goes */
    assert_ok(run(s, ROW("a_s0", "true", "long", "2048") ROW("a_s1", "true", "x", "2047"), &out, NULL, &e));
    assert_null(strstr(out.s, "2048"));
    assert_non_null(strstr(out.s, "2047"));
    buf_release(&out);
}

#define NESTED                                                                                                         \
    "{\"benchmark\": \"gsm8k\", \"source_id\": \"gsm8k_train_7\", \"question\": \"Q?\", \"gold_answer\": \"7\", "      \
    "\"num_correct\": 1, \"num_samples\": 3, \"samples\": ["
#define SAMPLE_0                                                                                                       \
    "{\"sample_idx\": 0, \"text\": \" <think>\\u00e9 b</think>\", \"think\": \"\\u00e9 b\", \"answer\": null, "        \
    "\"is_correct\": false, \"think_length\": 3, \"think_token_count\": 2, \"response_text\": "                        \
    "\"<think>\\u00e9 b</think>\"}"
#define SAMPLE_2                                                                                                       \
    "{\"sample_idx\": 2, \"text\": \"c\", \"think\": \"c\", \"answer\": \"7\", \"is_correct\": true, "                 \
    "\"think_length\": 1, \"think_token_count\": 1, \"response_text\": \"c\"}"
#define SAMPLE_3                                                                                                       \
    "{\"sample_idx\": 3, \"text\": \"\", \"think\": null, \"answer\": null, \"is_correct\": false, "                   \
    "\"think_length\": 0, \"think_token_count\": 0, \"response_text\": \"\"}"
#define FLAT(index, shown, think, answer, right, n, more)                                                              \
    "{\"benchmark\": \"gsm8k\", \"source_id\": \"gsm8k_train_7_s" index                                                \
    "\", \"question_source_id\": \"gsm8k_train_7\", \"sample_index\": " index                                          \
    ", \"question\": \"Q?\", \"gold_answer\": \"7\", \"prompt_format\": null, \"response_text\": \"" shown             \
    "\", \"reasoning\": " think ", \"answer\": " answer ", \"is_correct\": " right ", \"reasoning_token_count\": " n   \
    ", \"response_token_count\": null" more "}\n"
#define FLAT_0                                                                                                         \
    FLAT("0", "<think>\\u00e9 b</think>", "\"\\u00e9 b\"", "null", "false", "2",                                       \
         ", \"text\": \" <think>\\u00e9 b</think>\"")
#define FLAT_2 FLAT("2", "c", "\"c\"", "\"7\"", "true", "1", "")
#define FLAT_3 FLAT("3", "", "null", "null", "false", "0", "")

/* The reference's files become flat samples and the same files again. */
static void test_nested(void **state)
{
    struct select_spec s = nothing();
    struct select_counts n;
    struct err e = { "" };
    struct buf out = BUF_INIT;
    (void)state;
    const char *nested = NESTED SAMPLE_0 ", " SAMPLE_2 ", " SAMPLE_3 "]}\n";
    selects(s, nested, nested); /* without compat it is a record like any other */
    s.compat = true;
    selects(s, nested, FLAT_0 FLAT_2 FLAT_3);
    s.correct = true;
    selects(s, nested, FLAT_2);
    s.correct = false;
    s.nested = s.dedup = true;
    selects(s, FLAT_0 FLAT_2 FLAT_3, nested);
    selects(s, nested, nested);
    /* repeats go whether right or wrong, but not what was not thought */
    assert_ok(run(s,
                  FLAT("0", "x", "\" c\"", "null", "false", "1", "")
                      FLAT_2 FLAT("1", "", "null", "null", "false", "0", "") FLAT_3,
                  &out, &n, &e));
    assert_non_null(strstr(out.s, "\"num_correct\": 0, \"num_samples\": 3, \"samples\": [{\"sample_idx\": 0, "));
    assert_int_equal(n.repeated, 1);
    assert_int_equal(n.out, 3);
    assert_int_equal(run(s, NESTED "{\"text\": \"x\"}]}\n", &out, NULL, &e), -1);
    assert_string_equal(e.msg, "in:1: a member of \"samples\" is no object with a whole number as \"sample_idx\"");
    assert_int_equal(run(s, NESTED "{\"sample_idx\": 5}]}\n", &out, NULL, &e), -1);
    assert_string_equal(e.msg, "in:1: sample 5 has neither \"response_text\" nor \"text\"");
    buf_release(&out);
}

static void test_question_id(void **state)
{
    (void)state;
    assert_int_equal(select_question_id("gsm8k_train_7_s3", 16), 13);
    assert_int_equal(select_question_id("x_s1_s22", 8), 4);
    assert_int_equal(select_question_id("plain", 5), 5);
}

static void test_missing(void **state)
{
    struct select_spec s = nothing();
    struct err e = { "" };
    struct buf out = BUF_INIT;
    (void)state;
    s.correct = true;
    assert_int_equal(run(s, "{\"source_id\": \"a\"}\n", &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "in:1: no key \"is_correct\""));
    s.correct = false;
    s.shortest = 1;
    assert_int_equal(run(s, "{\"source_id\": \"a\"}\n", &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "reasoning_token_count"));
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filters), cmocka_unit_test(test_shortest),  cmocka_unit_test(test_top_count),
        cmocka_unit_test(test_top),     cmocka_unit_test(test_exemplars), cmocka_unit_test(test_question_id),
        cmocka_unit_test(test_missing), cmocka_unit_test(test_whole),     cmocka_unit_test(test_compat_exemplars),
        cmocka_unit_test(test_nested),
    };
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
