/* prompt_test.c - lib/task/prompt and think: the literal texts of the formats, exemplars, thinking taken apart. */
#include "base/rng.h"
#include "task/prompt.h"
#include "task/think.h"
#include "unit/test.h"

static const char q[] = "What is 1+1?";

static char *user(enum prompt_format f, double ratio, const char *family)
{
    struct buf b = BUF_INIT;
    prompt_user(f, q, ratio, prompt_delimiter(family), &b);
    return buf_take(&b);
}

static void assert_text(char *got, const char *want)
{
    assert_string_equal(got, want);
    free(got);
}

static void user_texts_are_literal(void **state)
{
    (void)state;
    const char *plain = "Please reason step by step, and put your final answer within \\boxed{}.\nWhat is 1+1?";
    assert_text(user(PROMPT_TOKENSKIP, 1.0, "qwen"), plain);
    assert_text(user(PROMPT_TOKENSKIP, 1.0 - 1e-12, "qwen"), plain);
    assert_text(user(PROMPT_TOKENSKIP, 0.5, "qwen"),
                "Please reason step by step, and put your final answer within \\boxed{}.\n"
                "What is 1+1?<|im_end|>0.5<|im_end|>");
    assert_text(user(PROMPT_TOKENSKIP, 0.05, "llama3"),
                "Please reason step by step, and put your final answer within \\boxed{}.\n"
                "What is 1+1?<|eot_id|>0.05<|eot_id|>");
    assert_text(user(PROMPT_XML, 1, "qwen"), q);
    assert_text(user(PROMPT_RAW, 1, "qwen"), q);
    assert_string_equal(prompt_system(PROMPT_TOKENSKIP, "math"), "You are a helpful assistant.");
    assert_null(prompt_system(PROMPT_RAW, "math"));
    assert_non_null(strstr(prompt_system(PROMPT_XML, "math500"), "<answer>\\frac{1}{2}</answer>"));
    assert_non_null(strstr(prompt_system(PROMPT_XML, "gsm8k"), "<answer>42</answer>"));
    for (const char *const *w = (const char *const[]){ "tokenskip", "xml", "paper", "raw", NULL }; *w; w++)
        assert_string_equal(prompt_format_name(prompt_format_of(*w)), *w);
}

static char *assistant(enum prompt_format f, const char *r, bool compat)
{
    struct buf b = BUF_INIT;
    prompt_assistant(f, r, "2", compat, &b);
    return buf_take(&b);
}

static void assistant_texts_are_literal(void **state)
{
    (void)state;
    assert_text(assistant(PROMPT_XML, "R", false), "<think>\nR\n</think>\n<answer>2</answer>");
    assert_text(assistant(PROMPT_XML, NULL, false), "<answer>2</answer>");
    assert_text(assistant(PROMPT_TOKENSKIP, " R\n", false), "R\n\n</think>\n\nThe final answer is: $\\boxed{2}$");
    assert_text(assistant(PROMPT_TOKENSKIP, NULL, false), "</think>\n\nThe final answer is: $\\boxed{2}$");
    assert_text(assistant(PROMPT_PAPER, "R", false), "R\nThe answer is 2");
    assert_text(assistant(PROMPT_PAPER, NULL, false), "The answer is 2");
    assert_text(assistant(PROMPT_PAPER, "<think>a</think> b<answer>c</answer> d", false), "a b\nThe answer is 2");
    assert_text(assistant(PROMPT_PAPER, "x<y>z and </b>", false), "x<y>z and </b>\nThe answer is 2");
    assert_text(assistant(PROMPT_PAPER, "x<y>z and </b> <B> <> </>", true), "xz and  <B> <> </>\nThe answer is 2");
}

static void assert_view(struct view s, const char *want)
{
    if (!want) {
        assert_null(s.s);
        return;
    }
    assert_non_null(s.s);
    assert_int_equal(s.n, strlen(want));
    assert_memory_equal(s.s, want, s.n);
}

static void thinking_is_split(void **state)
{
    (void)state;
    static const struct {
        const char *text, *reasoning, *visible;
        bool closed;
    } t[] = {
        { "x <think> a </think> b </think> c ", "a", "b </think> c", true },
        { "a\n</think>\n\nb", "a", "b", true },
        { "</think> <think> b", "", "<think> b", true },
        { "<think>a", "<think>a", "<think>a", false },
        { "r\n\nthe FINAL answer is: 3", "r", "r\n\nthe FINAL answer is: 3", false },
        { "r\nThe answer is 3\n\nThe answer is 4", "r\nThe answer is 3", "r\nThe answer is 3\n\nThe answer is 4",
          false },
        { "\nThe answer is 3", NULL, "\nThe answer is 3", false },
        { "", NULL, "", false },
        { "\xe3\x80\x80"
          "a\xc2\xa0</think>\xe2\x80\x83"
          "b",
          "a", "b", true },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct think s = think_split(t[i].text, strlen(t[i].text));
        assert_view(s.reasoning, t[i].reasoning);
        assert_view(s.visible, t[i].visible);
        assert_int_equal(s.closed, t[i].closed);
    }
    assert_view(think_before_end(" a </think>b</think>", 20), " a ");
    assert_view(think_before_end("a", 1), NULL);
    assert_view(view_trim(" \t\n", 3), "");
}

static void answer_regions_are_byte_ranges(void **state)
{
    (void)state;
    const char *text = "<think>\n\\boxed{9}</think>\n\nThe final answer is: $\\boxed{12}$<|im_end|>";
    struct answer_regions r;
    assert_true(think_answer_regions(text, strlen(text), 2, &r));
    assert_memory_equal(text + r.answer.begin, "12", 2);
    assert_int_equal(r.answer.end - r.answer.begin, 2);
    assert_memory_equal(text + r.boxed.begin, "\\boxed{12}", r.boxed.end - r.boxed.begin);
    assert_memory_equal(text + r.post_cot.begin, "</think>", 8);
    assert_memory_equal(text + r.post_cot.end - 2, "}$", 2);
    assert_false(think_answer_regions("\\boxed{1}", 9, 1, &r));
    assert_false(think_answer_regions("</think>\\boxed{1", 16, 1, &r));
}

static const char *write_tmp(const char *name, const char *text)
{
    static char path[5000];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static const char pool[] =
    "[{\"source_id\": \"gsm8k_train_0\", \"question\": \"q0\", \"reasoning\": \"r0\", \"answer\": \"0\"},"
    "{\"question\": \"q1\", \"reasoning\": null, \"answer\": \"1\", \"benchmark\": \"gsm8k\"},"
    "{\"question\": \"q2\", \"solution\": \"s2\"}, {\"question\": \"q3\", \"answer\": \"3\"}]";

static void exemplars_are_drawn_by_seed_and_question(void **state)
{
    (void)state;
    struct err e = { "" };
    struct exemplars x;
    uint32_t a[3], b[4];
    assert_ok(exemplars_open(&x, write_tmp("pool.json", pool), &e));
    assert_int_equal(x.n, 4);
    bool differ = false;
    for (int i = 0; i < 40; i++) {
        char id[32];
        snprintf(id, sizeof id, "gsm8k_test_%d", i);
        assert_ok(exemplars_draw(&x, 7, id, "q3", 3, a, &e));
        assert_ok(exemplars_draw(&x, 7, id, "q3", 3, b, &e));
        assert_memory_equal(a, b, sizeof a);
        assert_true(a[0] + a[1] + a[2] == 0 + 1 + 2 && a[0] != a[1]); /* never q3 itself */
        assert_ok(exemplars_draw(&x, 8, id, "q3", 3, b, &e));
        differ |= memcmp(a, b, sizeof a) != 0;
    }
    assert_true(differ);
    assert_ok(exemplars_draw(&x, 7, "gsm8k_train_0", "other words", 3, a, &e));
    assert_true(a[0] && a[1] && a[2]); /* same id */
    assert_int_equal(exemplars_draw(&x, 7, "z", "q3", 4, b, &e), -1);
    assert_string_equal(e.msg, "4 exemplars wanted for z, the file has 3 others");
    assert_ok(exemplars_check(&x, "gsm8k", &e));
    assert_int_equal(exemplars_check(&x, "math", &e), -1);
    assert_string_equal(e.msg, "exemplar 2 belongs to gsm8k, the questions to math");
    exemplars_close(&x);
    assert_int_equal(
        exemplars_open(&x, write_tmp("p.jsonl", "{\"question\": \"a\", \"answer\": \"1\"}\n{\"q\": 1}\n"), &e), -1);
    assert_non_null(strstr(e.msg, "p.jsonl: 2: exemplar 2 has no text under \"question\""));
    assert_int_equal(exemplars_open(&x, write_tmp("p.jsonl", "\n"), &e), -1);
}

static void exemplars_are_drawn_as_the_reference_draws(void **state)
{
    (void)state;
    static const uint32_t want[2][8] = { { 28, 6, 70, 62, 57, 35, 26, 22 }, { 108, 8, 7, 23, 55, 59, 6, 50 } };
    struct err e = { "" };
    struct exemplars x = { NULL, 128 };
    struct rng_python r;
    uint32_t got[8];
    rng_python_seed(&r, 42);
    for (int i = 0; i < 2; i++) {
        assert_ok(exemplars_draw_compat(&x, &r, 8, got, &e));
        assert_memory_equal(got, want[i], sizeof got);
    }
    assert_int_equal(exemplars_draw_compat(&x, &r, 129, got, &e), -1);
}

/* ChatML without a default system turn, for the tests. */
static void render(const struct turns *t, struct buf *out)
{
    for (size_t i = 0; i < t->n; i++)
        buf_printf(out, "<|im_start|>%s\n%s<|im_end|>\n", t->v[i].role, t->v[i].text);
    buf_puts(out, "<|im_start|>assistant\n");
}

static char *whole(const struct prompt_spec *spec)
{
    struct err e = { "" };
    struct turns t = { NULL, 0, 0 };
    struct buf b = BUF_INIT;
    assert_ok(prompt_turns(spec, &(struct prompt_question){ "gsm8k", "gsm8k_test_1", q, NULL }, 1, &t, &e));
    render(&t, &b);
    assert_ok(prompt_finish(spec, &t, &b, &e));
    turns_release(&t);
    return buf_take(&b);
}

static void few_shot_keeps_the_thinking(void **state)
{
    (void)state;
    struct err e = { "" };
    struct exemplars x;
    assert_ok(exemplars_open(
        &x, write_tmp("one.json", "[{\"question\": \"q0\", \"reasoning\": \"r0\", \"answer\": \"0\"}]"), &e));
    struct prompt_spec spec = { .format = PROMPT_PAPER, .delimiter = "", .shots = &x, .num_shots = 1 };
    assert_text(whole(&spec), "<|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\nr0\nThe answer is 0<|im_end|>\n"
                              "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n");
    spec.format = PROMPT_XML;
    char *xml = whole(&spec);
    assert_non_null(strstr(xml, "<|im_start|>system\nYou are solving a math word problem."));
    assert_non_null(strstr(xml, "assistant\n<think>\nr0\n</think>\n<answer>0</answer><|im_end|>"));
    free(xml);
    exemplars_close(&x);
}

static void thinking_is_opened_once_or_suppressed(void **state)
{
    (void)state;
    struct err e = { "" };
    static const struct {
        const char *rendered;
        bool open, suppress;
        const char *want;
    } t[] = {
        { "a\n", true, false, "a\n<think>\n" },
        { "a<think>\n", true, false, "a<think>\n" },
        { "a\n", false, false, "a\n" },
        { "a\n", true, true, "a\n<think>\n\n</think>\n\n" },
        { "a<think>\n", false, true, "a<think>\n\n</think>\n\n" },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct prompt_spec spec = { .open_think = t[i].open, .suppress = t[i].suppress };
        struct buf b = BUF_INIT;
        buf_puts(&b, t[i].rendered);
        assert_ok(prompt_finish(&spec, &(struct turns){ NULL, 0, 0 }, &b, &e));
        assert_text(buf_take(&b), t[i].want);
    }
}

static void prompt_data_has_three_layouts(void **state)
{
    (void)state;
    struct err e = { "" };
    struct prompt_data d;
    const char *path =
        write_tmp("d.json", "{\"name\": \"d\", \"layout\": \"multiturn\", \"system\": \"S\", \"exemplars\": ["
                            "{\"question\": \"q1\", \"answer\": \"<think>\\nt1\\n</think>\\n\\\\boxed{1}\"},"
                            "{\"question\": \"q2\", \"answer\": \"a2\"}]}");
    assert_ok(prompt_data_open(&d, path, &e));
    assert_int_equal(d.layout, LAYOUT_MULTITURN);
    struct prompt_spec spec = { .data = &d, .layout = d.layout, .open_think = true };
    assert_text(whole(&spec), "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n"
                              "<think>\nt1\n</think>\n\\boxed{1}<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n"
                              "<|im_start|>assistant\na2<|im_end|>\n<|im_start|>user\nWhat is 1+1?<|im_end|>\n"
                              "<|im_start|>assistant\n<think>\n");
    spec = (struct prompt_spec){ .data = &d, .layout = LAYOUT_SYSTEM_ONLY };
    assert_text(whole(&spec), "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWhat is 1+1?<|im_end|>\n"
                              "<|im_start|>assistant\n");
    spec = (struct prompt_spec){ .data = &d, .layout = LAYOUT_INLINED, .num_shots = 1 };
    assert_text(
        whole(&spec),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nBelow are worked examples in the required format.\n\n"
        "Question:\nq1\n\nAnswer:\n<think>\nt1\n</think>\n\\boxed{1}\n\n---\n\nNow solve the following problem in the "
        "same format. Put your final answer inside \\boxed{}.\n\nQuestion:\nWhat is 1+1?\n\nAnswer:<|im_end|>\n"
        "<|im_start|>assistant\n");
    prompt_data_close(&d);
    assert_int_equal(prompt_data_open(&d, write_tmp("d.json", "{\"system\": \"S\", \"layout\": \"x\"}"), &e), -1);
    assert_non_null(strstr(e.msg, "\"layout\" must be one of"));
    assert_null(prompt_data_find("no-such-thing", &e));
    assert_non_null(strstr(e.msg, "no such file"));
}

static void shipped_prompt_data_is_readable(void **state)
{
    (void)state;
    struct err e = { "" };
    for (const char *const *p = (const char *const[]){ "data/prompts/sot.json", "data/prompts/cod.json", NULL }; *p;
         p++) {
        struct prompt_data d;
        assert_ok(prompt_data_open(&d, *p, &e));
        assert_int_equal(d.shots.n, 3);
        for (size_t i = 0; i < d.shots.n; i++)
            assert_int_equal(strncmp(d.shots.v[i].answer, "<think>\n", 8), 0);
        prompt_data_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(user_texts_are_literal),
        cmocka_unit_test(assistant_texts_are_literal),
        cmocka_unit_test(thinking_is_split),
        cmocka_unit_test(answer_regions_are_byte_ranges),
        cmocka_unit_test(exemplars_are_drawn_by_seed_and_question),
        cmocka_unit_test(exemplars_are_drawn_as_the_reference_draws),
        cmocka_unit_test(few_shot_keeps_the_thinking),
        cmocka_unit_test(thinking_is_opened_once_or_suppressed),
        cmocka_unit_test(prompt_data_has_three_layouts),
        cmocka_unit_test(shipped_prompt_data_is_readable),
    };
    return cmocka_run_group_tests_name("prompt", tests, NULL, NULL);
}
