/* prepare: draws (ours and the reference's, from the specification's vectors), labels, formats. */
#include "io/record.h"
#include "task/prepare.h"
#include "test.h"
#include "text/template.h"

static int run(struct prepare_spec spec, const char *lines, struct buf *out, struct prepare_counts *n, struct err *e)
{
    struct preparer *p;
    int rc = preparer_open(&p, &spec, e);
    buf_reset(out);
    buf_puts(out, "");
    for (const char *at = lines; rc == 0 && *at;) {
        struct rec r;
        size_t k = strcspn(at, "\n");
        assert_int_equal(rec_parse(&r, at, k, "in:1", e), 0);
        rc = preparer_add(p, &r, out, e);
        rec_release(&r);
        at += k + (at[k] == '\n');
    }
    if (rc == 0)
        rc = preparer_finish(p, out, e);
    if (n)
        *n = *preparer_counts(p);
    preparer_close(p);
    return rc;
}

/* A compressed record. */
static void compressed(struct buf *b, const char *id, double ratio, const char *text, int tokens, double achieved)
{
    buf_printf(
        b,
        "{\"benchmark\": \"math\", \"source_id\": \"%s\", \"question\": \"Q?\", \"gold_answer\": \"g\", "
        "\"answer\": \"7\", \"compression_ratio\": %g, \"original_reasoning\": \"all of it\", "
        "\"compressed_reasoning\": \"%s\", \"original_reasoning_token_count\": %d, \"question_source_id\": \"q\", "
        "\"sample_index\": 3, \"achieved_rate_target\": null, \"achieved_rate_compressor\": %g}\n",
        id, ratio, text, tokens, achieved);
}

/* Values of metadata.compression_ratio, as "%g %g ...". */
static void labels(const struct buf *rows, char *out, size_t room)
{
    struct err e = { "" };
    out[0] = 0;
    for (const char *at = rows->s ? rows->s : ""; *at;) {
        size_t k = strcspn(at, "\n");
        struct json doc, meta, v;
        double x = 0;
        assert_ok(json_parse(&doc, at, k, &e));
        assert_true(json_get(doc, "metadata", &meta) && json_get(meta, "compression_ratio", &v) && json_double(v, &x));
        size_t n = strlen(out);
        snprintf(out + n, room - n, "%s%g", n ? " " : "", x);
        at += k + (at[k] == '\n');
    }
}

static struct prepare_spec tokenskip(void)
{
    return (struct prepare_spec){
        .method = PREPARE_TOKENSKIP, .format = PROMPT_TOKENSKIP, .family = "qwen", .max_tokens = -1, .seed = 42
    };
}

static void test_row(void **state)
{
    static const double half = 0.5;
    struct prepare_spec s = tokenskip();
    struct buf in = BUF_INIT, out = BUF_INIT;
    struct err e = { "" };
    (void)state;
    s.ratio = &half;
    s.nratio = 1;
    compressed(&in, "q_s3", 0.5, "x<y>z it", 10, 0.5);
    assert_ok(run(s, in.s, &out, NULL, &e));
    assert_string_equal(
        out.s,
        "{\"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"}, {\"role\": \"user\", "
        "\"content\": \"Please reason step by step, and put your final answer within "
        "\\\\boxed{}.\\nQ?<|im_end|>0.5<|im_end|>\"}, "
        "{\"role\": \"assistant\", \"content\": \"x<y>z it\\n\\n</think>\\n\\nThe final answer is: $\\\\boxed{7}$\"}], "
        "\"metadata\": {\"benchmark\": \"math\", \"method\": \"tokenskip\", \"source_id\": \"q_s3\", "
        "\"compression_ratio\": 0.5, "
        "\"prompt_format\": \"tokenskip\", \"conditioned\": true, \"question_source_id\": \"q\", \"sample_index\": "
        "3}}\n");
    s.family = "llama3";
    s.format = PROMPT_PAPER;
    assert_ok(run(s, in.s, &out, NULL, &e));
    assert_non_null(strstr(out.s, "{\"messages\": [{\"role\": \"user\""));
    assert_non_null(strstr(out.s, "Q?<|eot_id|>0.5<|eot_id|>\""));
    assert_non_null(strstr(out.s, "\"x<y>z it\\nThe answer is 7\""));
    buf_release(&in);
    buf_release(&out);
}

static void test_pool(void **state)
{
    static const double pool[] = { 1, 0.5, 0.2 };
    struct prepare_spec s = tokenskip();
    struct prepare_counts n;
    struct buf in = BUF_INIT, out = BUF_INIT, again = BUF_INIT;
    struct err e = { "" };
    char got[4000];
    int count[3] = { 0, 0, 0 };
    (void)state;
    compressed(&in, "a_s0", 0.3, "a3", 10, 0.314);
    compressed(&in, "a_s0", 0.5, "a5", 10, 0.496);
    compressed(&in, "b_s0", 0.3, "b3", 20, 0.001);
    s.all_ratios = true;
    assert_ok(run(s, in.s, &out, &n, &e));
    labels(&out, got, sizeof got);
    assert_string_equal(got, "1 0.3 0.5 1 0.3");
    assert_int_equal(n.rows, 5);
    assert_int_equal(n.traces, 2);
    s.label_achieved = true;
    assert_ok(run(s, in.s, &out, &n, &e));
    labels(&out, got, sizeof got);
    assert_string_equal(got, "1 0.31 0.5 1 0.01");
    s.label_achieved = false;
    s.max_tokens = 15; /* ratio 1 of the long trace goes too */
    assert_ok(run(s, in.s, &out, &n, &e));
    labels(&out, got, sizeof got);
    assert_string_equal(got, "1 0.3 0.5");
    assert_int_equal(n.too_long, 1);
    s.max_tokens = -1;
    s.ratio = pool;
    s.nratio = 3;
    assert_ok(run(s, in.s, &out, &n, &e));
    labels(&out, got, sizeof got);
    assert_string_equal(got, "1 0.5 1");
    s.ratio = pool + 2;
    s.nratio = 1;
    assert_ok(run(s, in.s, &out, &n, &e));
    assert_int_equal(n.rows, 0);
    assert_int_equal(n.without, 2);

    /* a draw hangs on seed and id alone, and all ratios come about equally often */
    s = tokenskip();
    buf_reset(&in);
    for (int i = 0; i < 600; i++) {
        char id[32];
        snprintf(id, sizeof id, "t%d_s0", i);
        compressed(&in, id, 0.3, "x", 10, 0.3);
        compressed(&in, id, 0.5, "y", 10, 0.5);
    }
    assert_ok(run(s, in.s, &out, &n, &e));
    assert_int_equal(n.rows, 600);
    labels(&out, got, sizeof got);
    for (char *p = strtok(got, " "); p; p = strtok(NULL, " "))
        count[strcmp(p, "1") == 0 ? 0 : strcmp(p, "0.3") == 0 ? 1 : 2]++;
    for (int i = 0; i < 3; i++)
        assert_in_range(count[i], 150, 250);
    size_t first = strcspn(out.s, "\n") + 1; /* without the first trace the others draw the same */
    const char *second = strstr(in.s, "t1_s0");
    while (*second != '\n' && second > in.s)
        second--;
    assert_ok(run(s, second + 1, &again, &n, &e));
    assert_string_equal(again.s, out.s + first);
    buf_release(&in);
    buf_release(&out);
    buf_release(&again);
}

static void test_order_is_checked(void **state)
{
    struct prepare_spec s = tokenskip();
    struct buf in = BUF_INIT, out = BUF_INIT;
    struct err e = { "" };
    (void)state;
    compressed(&in, "a", 0.3, "x", 1, 0.3);
    compressed(&in, "b", 0.3, "x", 1, 0.3);
    compressed(&in, "a", 0.5, "x", 1, 0.3);
    assert_int_equal(run(s, in.s, &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "a comes again: all ratios of a trace must stand together"));
    buf_reset(&in);
    compressed(&in, "a", 0.3, "x", 1, 0.3);
    compressed(&in, "a", 0.3, "x", 1, 0.3);
    assert_int_equal(run(s, in.s, &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "a comes twice with ratio 0.3"));
    buf_release(&in);
    buf_release(&out);
}

/* Specification 1.4: random.Random(42).choice over pools of 5, 6 and 2. */
static void test_reference_draws(void **state)
{
    static const double pool[] = { 1.0, 0.9, 0.8, 0.7, 0.6, 0.5 };
    static const struct {
        size_t n;
        const char *want;
    } cases[] = { { 5, "0 0 2 1 1 1 0 4 0 4 3 0 0 0 1 1 4 4 0 4 1 4 3 1 3 4 2 0 1 3" },
                  { 6, "5 0 0 5 2 1 1 1 5 0 5 5 4 0 4 3 0 0 0 1" },
                  { 2, "0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 0 1 0 1 1" } };
    struct err e = { "" };
    char path[4200], want[400], got[400];
    (void)state;
    snprintf(path, sizeof path, "%s/original.jsonl", test_tmpdir());
    for (size_t c = 0; c < 3; c++) {
        struct prepare_spec s = tokenskip();
        struct buf in = BUF_INIT, out = BUF_INIT;
        size_t rows = strlen(cases[c].want) / 2 + 1;
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        want[0] = 0;
        for (size_t i = 0; i < rows; i++) {
            char id[32];
            snprintf(id, sizeof id, "r%zu_s0", i);
            fprintf(f,
                    "{\"benchmark\": \"math\", \"source_id\": \"%s\", \"question\": \"Q\", \"gold_answer\": \"1\", "
                    "\"answer\": null, \"is_correct\": true, \"reasoning\": \"orig\"}\n",
                    id);
            fprintf(f, "{\"source_id\": \"wrong%zu\", \"is_correct\": false, \"reasoning\": \"not drawn for\"}\n", i);
            for (size_t k = 1; k < cases[c].n; k++)
                compressed(&in, id, pool[k], "short", 1, 0.5);
            size_t n = strlen(want);
            snprintf(want + n, sizeof want - n, "%s%g", n ? " " : "", pool[cases[c].want[2 * i] - '0']);
        }
        fclose(f);
        s.compat = true;
        s.original = path;
        s.ratio = pool;
        s.nratio = cases[c].n;
        assert_ok(run(s, in.s, &out, NULL, &e));
        labels(&out, got, sizeof got);
        assert_string_equal(got, want);
        assert_non_null(strstr(out.s, "\"prompt_format\": \"tokenskip_paper\""));
        assert_non_null(strstr(out.s, "$\\\\boxed{1}$")); /* null answer: the gold one */
        buf_release(&in);
        buf_release(&out);
    }
}

/* A draw is used up by a sample that lacks the ratio; equal ids keep the first place and the last value. */
static void test_reference_gaps(void **state)
{
    static const double pool[] = { 1.0, 0.5 };
    struct prepare_spec s = tokenskip();
    struct prepare_counts n;
    struct err e = { "" };
    struct buf in = BUF_INIT, out = BUF_INIT;
    char path[4200], got[400];
    (void)state;
    snprintf(path, sizeof path, "%s/gaps.jsonl", test_tmpdir());
    FILE *f = fopen(path, "w");
    static const char *const ids[] = { "a", "b", "c", "d", "a" };
    for (int i = 0; i < 5; i++)
        fprintf(f,
                "{\"benchmark\": \"math\", \"source_id\": \"%s\", \"question\": \"Q\", \"gold_answer\": \"1\", "
                "\"is_correct\": true, \"reasoning\": \"value %d with <b>x<y>z</b>\"}\n",
                ids[i], i);
    fclose(f);
    compressed(&in, "d", 0.5, "short", 1, 0.5);
    s.compat = true;
    s.original = path;
    s.ratio = pool;
    s.nratio = 2;
    assert_ok(run(s, in.s, &out, &n, &e)); /* draws 1 1 0.5 1: c has no 0.5 */
    labels(&out, got, sizeof got);
    assert_string_equal(got, "1 1 1");
    assert_int_equal(n.without, 1);
    assert_non_null(strstr(out.s, "value 4 with xz"));
    assert_null(strstr(out.s, "value 0"));
    s.ratio = (const double[]){ 0.5, 0.7 };
    assert_int_equal(run(s, in.s, &out, &n, &e), -1);
    assert_non_null(strstr(e.msg, "no record of ratio 0.7"));
    buf_release(&in);
    buf_release(&out);
}

static void test_concise_and_direct(void **state)
{
    struct prepare_spec s = { .method = PREPARE_CONCISE, .format = PROMPT_XML, .family = "qwen", .max_tokens = -1 };
    struct err e = { "" };
    struct buf out = BUF_INIT;
    static const char *const samples =
        "{\"benchmark\": \"gsm8k\", \"source_id\": \"q_s0\", \"question\": \"Q\", \"gold_answer\": \"1\", \"answer\": "
        "\"1\", "
        "\"is_correct\": true, \"reasoning\": \"long way\", \"reasoning_token_count\": 9}\n"
        "{\"benchmark\": \"gsm8k\", \"source_id\": \"q_s1\", \"question\": \"Q\", \"gold_answer\": \"1\", \"answer\": "
        "\"1.0\", "
        "\"is_correct\": true, \"reasoning\": \"short\", \"reasoning_token_count\": 3}\n";
    (void)state;
    assert_ok(run(s, samples, &out, NULL, &e));
    assert_non_null(strstr(out.s, "\"<think>\\nshort\\n</think>\\n<answer>1.0</answer>\""));
    assert_non_null(
        strstr(out.s, "\"metadata\": {\"benchmark\": \"gsm8k\", \"method\": \"concise\", \"source_id\": \"q\"}}\n"));
    s.max_tokens = 3;
    s.compat = true; /* below the limit, not at it */
    assert_ok(run(s, samples, &out, NULL, &e));
    assert_string_equal(out.s, "");
    /* the reference: below 2048 where nothing is said, no words around the question, in the order of the data set */
    s.max_tokens = -1;
    s.format = PROMPT_TOKENSKIP;
    assert_ok(
        run(s,
            "{\"benchmark\": \"math\", \"source_id\": \"math_train_10_s0\", \"question\": \"Q10\", \"gold_answer\": "
            "\"1\", \"is_correct\": true, \"reasoning\": \"r\", \"reasoning_token_count\": 2047}\n"
            "{\"benchmark\": \"math\", \"source_id\": \"math_train_3_s0\", \"question\": \"Q3\", \"gold_answer\": "
            "\"1\", \"is_correct\": true, \"reasoning\": \"r\", \"reasoning_token_count\": 2048}\n"
            "{\"benchmark\": \"math\", \"source_id\": \"math_train_9\", \"question\": \"Q9\", \"gold_answer\": "
            "\"1\", \"samples\": [{\"sample_idx\": 0, \"text\": \"t\", \"think\": \"r\", \"answer\": \"1\", "
            "\"is_correct\": true, \"think_token_count\": 1}]}\n",
            &out, NULL, &e));
    const char *q9 = "{\"messages\": [{\"role\": \"user\", \"content\": \"Q9\"}, ";
    assert_int_equal(strncmp(out.s, q9, strlen(q9)), 0);
    assert_non_null(strstr(out.s, "\"content\": \"Q10\""));
    assert_null(strstr(out.s, "\"content\": \"Q3\""));
    s.compat = false; /* ours: the prompt of the format */
    assert_ok(run(s, samples, &out, NULL, &e));
    assert_non_null(strstr(out.s, "helpful assistant.\"}, {\"role\": \"user\", \"content\": \"Please reason"));
    s = (struct prepare_spec){ .method = PREPARE_DIRECT, .format = PROMPT_XML, .family = "qwen", .max_tokens = -1 };
    assert_ok(run(s, "{\"benchmark\": \"math\", \"source_id\": \"m_0\", \"question\": \"Q\", \"gold_answer\": \"2\"}\n",
                  &out, NULL, &e));
    assert_non_null(strstr(out.s, "\"content\": \"<answer>2</answer>\"}], \"metadata\": {\"benchmark\": \"math\", "
                                  "\"method\": \"direct\", \"source_id\": \"m_0\"}}"));
    buf_release(&out);
}

static void test_solution(void **state)
{
    struct prepare_spec s = {
        .method = PREPARE_SOLUTION, .format = PROMPT_TOKENSKIP, .family = "qwen", .max_tokens = -1
    };
    struct err e = { "" };
    struct buf out = BUF_INIT;
    static const char *const question =
        "{\"benchmark\": \"arith\", \"source_id\": \"a_0\", \"question\": \"Q?\", \"gold_answer\": \"2\", "
        "\"solution\": \"One and\\none.\"}\n";
    (void)state;
    assert_ok(run(s, question, &out, NULL, &e));
    assert_string_equal(
        out.s, "{\"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"}, {\"role\": "
               "\"user\", \"content\": \"Please reason step by step, and put your final answer within "
               "\\\\boxed{}.\\nQ?\"}, {\"role\": \"assistant\", \"content\": \"One and\\none.\\n\\n</think>\\n\\nThe "
               "final answer is: $\\\\boxed{2}$\"}], \"metadata\": {\"benchmark\": \"arith\", \"method\": "
               "\"solution\", \"source_id\": \"a_0\"}}\n");
    s.format = PROMPT_PAPER; /* the system turn that collect puts before it, and no instruction */
    assert_ok(run(s, question, &out, NULL, &e));
    assert_non_null(strstr(out.s, "{\"role\": \"system\", \"content\": \"Your task is to answer"));
    assert_non_null(strstr(out.s, "{\"role\": \"user\", \"content\": \"Q?\"}"));
    assert_non_null(strstr(out.s, "One and\\none.\\nThe answer is 2\""));
    assert_int_equal(run(s,
                         "{\"benchmark\": \"arith\", \"source_id\": \"a_0\", \"question\": \"Q?\", \"gold_answer\": "
                         "\"2\"}\n",
                         &out, NULL, &e),
                     -1);
    assert_non_null(strstr(e.msg, "solution"));
    buf_release(&out);
}

static void test_labels(void **state)
{
    struct prepare_spec s = { .method = PREPARE_LABELS, .family = "qwen", .max_tokens = -1 };
    struct err e = { "" };
    struct buf out = BUF_INIT;
    (void)state;
    assert_ok(run(s,
                  "{\"benchmark\": \"arith\", \"source_id\": \"a_s0\", \"compression_ratio\": 0.5, "
                  "\"words\": [\"So\", \"1\\u00e9\"], \"scores\": [0.1, 2], \"keep\": [0, 1], "
                  "\"question_source_id\": \"a\", \"sample_index\": 0}\n",
                  &out, NULL, &e));
    assert_string_equal(out.s, "{\"words\": [\"So\", \"1\\u00e9\"], \"labels\": [0, 1], \"metadata\": "
                               "{\"benchmark\": \"arith\", \"method\": \"labels\", \"source_id\": \"a_s0\", "
                               "\"compression_ratio\": 0.5, \"question_source_id\": \"a\", \"sample_index\": 0}}\n");
    assert_int_equal(run(s, "{\"source_id\": \"a_s0\", \"words\": []}\n", &out, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "compress --labels writes them"));
    buf_release(&out);
}

/* The messages go through the chat templates of checkpoints as they are. */
static void test_templates(void **state)
{
    static const char *const models[] = { "qwen2", "qwen3", "llama3", "phi3" };
    static const double half = 0.5;
    struct prepare_spec s = tokenskip();
    struct err e = { "" };
    struct buf in = BUF_INIT, out = BUF_INIT, text = BUF_INIT;
    struct json doc, messages;
    (void)state;
    s.ratio = &half;
    s.nratio = 1;
    compressed(&in, "q_s3", 0.5, "so \\\\(x<y\\\\) it is", 10, 0.5);
    assert_ok(run(s, in.s, &out, NULL, &e));
    assert_ok(json_parse(&doc, out.s, out.len, &e));
    assert_true(json_get(doc, "messages", &messages));
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char dir[100];
        struct chat_template *t;
        snprintf(dir, sizeof dir, "tests/golden/models/%s", models[i]);
        assert_ok(chat_template_open(&t, dir, &e));
        buf_reset(&text);
        assert_ok(chat_template_render(
            t, &(struct chat_input){ .messages = messages, .bos_token = "<s>", .eos_token = "</s>", .date = -1 }, &text,
            &e));
        assert_non_null(strstr(text.s, "Q?<|im_end|>0.5<|im_end|>"));
        assert_non_null(strstr(text.s, "so \\(x<y\\) it is\n"));
        assert_non_null(strstr(text.s, "</think>\n\nThe final answer is: $\\boxed{7}$"));
        chat_template_close(t);
    }
    buf_release(&in);
    buf_release(&out);
    buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_order_is_checked),
        cmocka_unit_test(test_reference_draws),
        cmocka_unit_test(test_reference_gaps),
        cmocka_unit_test(test_concise_and_direct),
        cmocka_unit_test(test_solution),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_templates),
    };
    return cmocka_run_group_tests_name("prepare", tests, NULL, NULL);
}
