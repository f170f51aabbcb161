/* generate_test.c - lib/task/generate: prompts through the checkpoints' own templates, samples counted and cut. */
#include "task/generate.h"
#include "unit/test.h"

static struct generator *open_model(const char *name)
{
    struct err e = { "" };
    struct generator *g;
    char dir[200];
    snprintf(dir, sizeof dir, "tests/golden/models/%s", name);
    assert_ok(generator_open(&g, &(struct generator_options){ .model = dir, .device = "cpu", .threads = 1 }, &e));
    return g;
}

static const struct prompt_question q = { "math", "math_test_0", "1+1?", NULL };

static void prompt_is(struct generator *g, const struct prompt_spec *spec, double ratio, const char *want)
{
    struct err e = { "" };
    struct buf b = BUF_INIT;
    assert_ok(generator_prompt(g, spec, &q, ratio, &b, &e));
    assert_string_equal(b.s, want);
    buf_release(&b);
}

#define ASK "Please reason step by step, and put your final answer within \\boxed{}.\n1+1?"
#define HEAD "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"

static void qwen_prompts(void **state)
{
    (void)state;
    struct prompt_spec spec = { .format = PROMPT_TOKENSKIP, .delimiter = prompt_delimiter("qwen"), .open_think = true };
    struct generator *g = open_model("qwen3"); /* its template opens the thinking */
    prompt_is(g, &spec, 1, HEAD ASK "<|im_end|>\n<|im_start|>assistant\n<think>\n");
    prompt_is(g, &spec, 0.5, HEAD ASK "<|im_end|>0.5<|im_end|><|im_end|>\n<|im_start|>assistant\n<think>\n");
    spec.compat = true; /* the reference opens it twice */
    prompt_is(g, &spec, 1, HEAD ASK "<|im_end|>\n<|im_start|>assistant\n<think>\n<think>\n");
    spec = (struct prompt_spec){ .format = PROMPT_RAW, .delimiter = "" };
    prompt_is(g, &spec, 1, "1+1?");
    generator_close(g);
    spec =
        (struct prompt_spec){ .format = PROMPT_TOKENSKIP, .delimiter = prompt_delimiter("qwen"), .open_think = true };
    g = open_model("qwen2"); /* its template does not */
    prompt_is(g, &spec, 1, HEAD ASK "<|im_end|>\n<|im_start|>assistant\n<think>\n");
    spec.open_think = false;
    prompt_is(g, &spec, 1, HEAD ASK "<|im_end|>\n<|im_start|>assistant\n");
    spec.suppress = true;
    prompt_is(g, &spec, 1, HEAD ASK "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    generator_close(g);
}

/* Earlier assistant turns keep their thinking in every family, although Qwen3's template cuts it out. */
static void exemplars_keep_their_thinking(void **state)
{
    (void)state;
    struct exemplar one = { .question = "2+2?", .reasoning = "two and two", .answer = "4" };
    struct exemplars x = { &one, 1 };
    for (const char *const *m = (const char *const[]){ "qwen2", "qwen3", "llama3", "phi3", NULL }; *m; m++) {
        struct err e = { "" };
        struct buf b = BUF_INIT;
        struct prompt_spec spec = { .format = PROMPT_XML, .delimiter = "", .shots = &x, .num_shots = 1 };
        struct generator *g = open_model(*m);
        assert_ok(generator_prompt(g, &spec, &q, 1, &b, &e));
        assert_non_null(strstr(b.s, "<think>\ntwo and two\n</think>\n<answer>4</answer>"));
        assert_null(strstr(b.s, "@@"));
        assert_string_equal(generator_family(g), strcmp(*m, "llama3") == 0 ? "llama3" : "qwen");
        buf_release(&b);
        generator_close(g);
    }
}

static void samples_come_with_their_counts(void **state)
{
    (void)state;
    struct err e = { "" };
    struct generator *g = open_model("qwen3");
    struct prompt_spec spec = { .format = PROMPT_TOKENSKIP, .delimiter = prompt_delimiter("qwen"), .open_think = true };
    struct generated out = { .user = NULL };
    int rc, seen = 0, mark;
    generator_params(g)->temperature = 0.8f;
    generator_params(g)->max_new = 12;
    assert_ok(generator_submit(g, &spec, &q, 1, 2, 3, 7, &mark, &e));
    assert_true(generator_thinking(g));
    assert_false(generator_appended(g));
    while ((rc = generator_next(g, &out, &e)) > 0) {
        assert_ptr_equal(out.user, &mark);
        assert_true(out.sample >= 2 && out.sample < 5 && out.tokens >= 1 && out.tokens <= 12);
        assert_int_equal(out.truncated, out.tokens == 12); /* a stop id as the 12th would be neither */
        seen |= 1 << out.sample;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(seen, 4 | 8 | 16);
    int64_t n;
    assert_ok(generator_count(g, "<think>\n", 8, &n, &e));
    assert_true(n >= 1 && n <= 2);
    assert_ok(generator_count(g, "", 0, &n, &e));
    assert_int_equal(n, 0);
    generated_release(&out);
    generator_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen_prompts),
        cmocka_unit_test(exemplars_keep_their_thinking),
        cmocka_unit_test(samples_come_with_their_counts),
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
