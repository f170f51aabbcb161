/* answer_test.c - the checker's interface, its bounds under hostile input, and the reference's rules. */
#include <sys/resource.h>
#include <time.h>

#include "task/answer.h"
#include "unit/test.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- interface ---- */

static void names_of_tasks(void **state)
{
    (void)state;
    enum answer_task t;
    assert_true(answer_task_of("gsm8k", &t) && t == ANSWER_GSM8K);
    assert_true(answer_task_of("multiple_choice", &t) && t == ANSWER_MMLU);
    assert_true(answer_task_of("metamathqa", &t) && t == ANSWER_EXACT);
    assert_false(answer_task_of("algebra", &t));
    assert_string_equal(answer_task_name(ANSWER_MMLU), "mmlu");
}

static void golds_of_benchmarks(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    const char *g = "2+3=<<2+3=5>>5\n#### 1,005 ", *m = "so \\boxed{1}, no: \\boxed{ \\frac{1}{2} }.";
    assert_int_equal(answer_gold_gsm8k(g, strlen(g), &b), 1);
    assert_string_equal(b.s, "1,005");
    assert_int_equal(answer_gold_math(m, strlen(m), &b), 1);
    assert_string_equal(b.s, "\\frac{1}{2}");
    assert_int_equal(answer_gold_math(" none ", 6, &b), 0);
    assert_string_equal(b.s, "none");
    buf_release(&b);
}

static void refuses_unknown_tasks(void **state)
{
    (void)state;
    struct err e = { "" };
    struct answer_checker *c;
    struct answer_result r;
    assert_ok(answer_checker_open(&c, &e));
    answer_result_init(&r);
    assert_int_equal(answer_grade(c, (enum answer_task)9, "1", 1, "1", 1, ANSWER_PRED, &r, &e), -1);
    assert_non_null(strstr(e.msg, "unknown answer task"));
    assert_ok(answer_grade(c, ANSWER_MATH, "", 0, "1", 1, ANSWER_PRED, &r, &e));
    assert_string_equal(r.reason, "no_gold");
    assert_ok(answer_grade(c, ANSWER_MATH, "1", 1, "", 0, ANSWER_PRED, &r, &e));
    assert_string_equal(r.reason, "no_answer");
    answer_result_release(&r);
    answer_checker_close(c);
    answer_checker_close(NULL);
}

/* ---- bounds ---- */

static char *repeated(const char *before, const char *piece, int n, const char *after)
{
    struct buf b = BUF_INIT;
    buf_puts(&b, before);
    for (int i = 0; i < n; i++)
        buf_puts(&b, piece);
    buf_puts(&b, after);
    return buf_take(&b);
}

static char *nested(const char *open, const char *in, const char *close, int n)
{
    struct buf b = BUF_INIT;
    for (int i = 0; i < n; i++)
        buf_puts(&b, open);
    buf_puts(&b, in);
    for (int i = 0; i < n; i++)
        buf_puts(&b, close);
    return buf_take(&b);
}

static void hostile_input_ends_soon(void **state)
{
    (void)state;
    struct err e = { "" };
    struct answer_checker *c;
    struct answer_result r;
    struct rusage before, after;
    const struct {
        const char *gold;
        char *text;
        enum answer_mode mode;
    } cases[] = {
        { "5", repeated("", "{", 4000, ""), ANSWER_PRED },
        { "5", repeated("", "(", 2000, ""), ANSWER_PRED },
        { "5", repeated("", "((((((((((((1+", 60, "1"), ANSWER_PRED },
        { "5", repeated("\\boxed", "{", 1 << 20, ""), ANSWER_SOLUTION },
        { "5", repeated("", "\\boxed{", 140000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "{}", 1 << 19, ""), ANSWER_SOLUTION },
        { "5", repeated("", "\\(", 500000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "$", 1000000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "\\", 1000000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "final answer ", 80000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "the answer is a ", 60000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "####", 250000, ""), ANSWER_SOLUTION },
        { "C", repeated("", "final answer is x ", 60000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "$1$ and ", 120000, ""), ANSWER_SOLUTION },
        { "5", repeated("", "</think>", 120000, ""), ANSWER_SOLUTION },
        { "9^{9^{9}}", repeated("9^{9^{9", "", 1, "}}+1"), ANSWER_PRED },
        { "5", nested("9^{", "9", "}", 50), ANSWER_PRED },
        { "(1+\\pi+e)^{40}", repeated("(1+e+\\pi)^{20}", "(1+\\pi+e)", 20, ""), ANSWER_PRED },
        { "(1+x+y+z)^{400}", repeated("", "(1+x+y+z)^{40}", 10, ""), ANSWER_PRED },
        { "(a+b+c+d+e_1+f+g+h)^{12}", repeated("(a+b+c+d+e_1+f+g+h)^{11}", "(a+b+c+d+e_1+f+g+h)", 1, ""), ANSWER_PRED },
        { "5", repeated("", "5!", 1, "!"), ANSWER_PRED },
        { "5000!", repeated("4999! ", "\\cdot 5000", 1, ""), ANSWER_PRED },
        { "1", nested("\\sin(", "1", ")", 60), ANSWER_PRED },
        { "\\sqrt{2}", repeated("\\sqrt{2}", "+\\sqrt{2}-\\sqrt{2}", 120, ""), ANSWER_PRED },
        { "1", repeated("", "\\sin 1+", 300, "1"), ANSWER_PRED },
        { "x", repeated("", "\\sin x+", 300, "1"), ANSWER_PRED },
        { "x!", repeated("", "x!+", 300, "1"), ANSWER_PRED },
        { "1", repeated("", "\\sum_{i=1}^{999} ", 20, "i"), ANSWER_PRED },
        { "1", repeated("\\prod_{k=1}^{1000}", " k^{1000}", 1, ""), ANSWER_PRED },
        { "1", repeated("", "\\pm 1", 900, ""), ANSWER_PRED },
        { "\\{1,2\\}", repeated("\\{1", ",\\sqrt{2}", 63, "\\}"), ANSWER_PRED },
        { "1", repeated("1", ",1", 2000, ""), ANSWER_PRED },
        { "1", repeated("\\begin{pmatrix}", "1&", 900, "\\end{pmatrix}"), ANSWER_PRED },
        { "1", repeated("", "-", 3000, "1"), ANSWER_PRED },
        { "1", repeated("1", "/2", 900, ""), ANSWER_PRED },
        { "1", repeated("0.", "3", 4000, ""), ANSWER_PRED },
        { "\\pi", repeated("3.", "1", 4000, ""), ANSWER_PRED },
        { "1", repeated("1e", "9", 6, ""), ANSWER_PRED },
        { "1", repeated("2^{", "9", 4000, "}"), ANSWER_PRED },
        { "1", repeated("\\text{", "\\text{", 600, ""), ANSWER_PRED },
        { "10^{4096}", repeated("", "10^{4096}", 200, ""), ANSWER_PRED },
        { "\\sin(10^{300})", repeated("\\sin(10^{", "300", 1, "}+2\\pi)"), ANSWER_PRED },
        { "e^{e^{e^{10}}}", repeated("e^{e^{e^{", "10", 1, ".1}}}"), ANSWER_PRED },
        { "(0,1)", repeated("(0,1)", "\\cup(2,3)", 60, ""), ANSWER_PRED },
        { "x_1", repeated("x_", "{x_", 80, "1"), ANSWER_PRED },
    };
    assert_ok(answer_checker_open(&c, &e));
    answer_result_init(&r);
    getrusage(RUSAGE_SELF, &before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double t = seconds();
        assert_ok(answer_grade(c, i == 12 ? ANSWER_MMLU : ANSWER_MATH, cases[i].gold, strlen(cases[i].gold),
                               cases[i].text, strlen(cases[i].text), cases[i].mode, &r, &e));
        t = seconds() - t;
        printf("# hostile %zu: %.1f ms, %d %s\n", i, t * 1e3, (int)r.verdict, r.reason);
#if !defined(__SANITIZE_ADDRESS__)
        assert_true(t < 0.05);
#endif
        free(cases[i].text);
    }
    getrusage(RUSAGE_SELF, &after);
    printf("# hostile: %ld KiB more memory\n", after.ru_maxrss - before.ru_maxrss);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
#endif
    answer_result_release(&r);
    answer_checker_close(c);
}

/* ---- the reference's rules ---- */

static void compat_extracts_as_the_reference(void **state)
{
    (void)state;
    static const struct {
        const char *text, *answer; /* NULL: null */
    } cases[] = {
        { "$\\boxed{\\frac{1}{2}}$", "2" },
        { "The final answer is: $\\boxed{\\frac{3}{56}}$", "3" },
        { "\\boxed{x} ... \\boxed{\\sqrt{2}}", "x" },
        { "\\boxed{\\text{Evelyn}}", NULL },
        { "\\boxed{(3, 4)}", "(3 4)" },
        { "The answer is not 7, it is 9", "7" },
        { "so 3 and then 1,234.50", "1234.5" },
        { "the answer is 5.00", "5" },
        { "the ANSWER IS -12. ", "-12." },
        { "nothing", NULL },
        { "\\boxed{}", NULL },
        { "\\boxed{ 12 }", "12" },
    };
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int found = answer_compat_extract(cases[i].text, strlen(cases[i].text), &b);
        if (found != (cases[i].answer != NULL) || (found && strcmp(b.s, cases[i].answer) != 0))
            fail_msg("%s: got %s", cases[i].text, found ? b.s : "null");
    }
    buf_release(&b);
}

/* The table of the specification, 5.5: answer, gold, the reference's verdict. */
static void compat_scores_as_the_reference(void **state)
{
    (void)state;
    static const struct {
        enum answer_task task;
        const char *answer, *gold;
        bool correct;
    } cases[] = {
        { ANSWER_MATH, "-5", "5", true },
        { ANSWER_MATH, "x-1", "x+1", true },
        { ANSWER_MATH, "[1,2]", "(1,2)", true },
        { ANSWER_MATH, "2/3", "23", true },
        { ANSWER_MATH, "3.5", "35", true },
        { ANSWER_MATH, "1,-2", "12", true },
        { ANSWER_MATH, "5x+3", "5", true },
        { ANSWER_MATH, "12 or 15", "12", true },
        { ANSWER_MATH, "1/2", "\\frac{1}{2}", false },
        { ANSWER_MATH, "0.5", "\\frac{1}{2}", false },
        { ANSWER_MATH, "\\dfrac{1}{2}", "\\frac{1}{2}", false },
        { ANSWER_MATH, ".5", "0.5", false },
        { ANSWER_MATH, "5", "x=5", false },
        { ANSWER_MATH, "-q + p", "p - q", false },
        { ANSWER_MATH, "2,1", "1,2", false },
        { ANSWER_MATH, "so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}", true },
        { ANSWER_MATH, "Therefore, 7", "7", true },
        { ANSWER_MATH, "first\n7", "7", true },
        { ANSWER_GSM8K, "-5", "5", true },
        { ANSWER_GSM8K, "1", "1,000", true },
        { ANSWER_GSM8K, "1,500", "1,000", true },
        { ANSWER_GSM8K, "3.50", "350", true },
        { ANSWER_GSM8K, "7/8", "7", true },
        { ANSWER_GSM8K, ".5", "0.5", false },
        { ANSWER_GSM8K, "1e3", "1000", false },
        { ANSWER_GSM8K, "0.75", "3/4", false },
        { ANSWER_GSM8K, "five", "5", false },
        { ANSWER_MMLU, "The answer is C", "A", true }, /* the A of ANSWER; T, H, E are no choices */
        { ANSWER_MMLU, "C", "C", true },
        { ANSWER_EXACT, "The Cat!", "the cat", true },
        { ANSWER_EXACT, "cats", "cat", false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (answer_compat_score(cases[i].task, cases[i].answer, strlen(cases[i].answer), cases[i].gold,
                                strlen(cases[i].gold)) != cases[i].correct)
            fail_msg("%s against %s: expected %d", cases[i].answer, cases[i].gold, cases[i].correct);
}

/* What our rules say of the same table: the truth. */
static void we_do_better_than_the_reference(void **state)
{
    (void)state;
    static const struct {
        enum answer_task task;
        const char *answer, *gold;
        bool equal;
    } cases[] = {
        { ANSWER_MATH, "-5", "5", false },
        { ANSWER_MATH, "x-1", "x+1", false },
        { ANSWER_MATH, "[1,2]", "(1,2)", false },
        { ANSWER_MATH, "2/3", "23", false },
        { ANSWER_MATH, "3.5", "35", false },
        { ANSWER_MATH, "1,-2", "12", false },
        { ANSWER_MATH, "5x+3", "5", false },
        { ANSWER_MATH, "12 or 15", "12", false },
        { ANSWER_MATH, "1/2", "\\frac{1}{2}", true },
        { ANSWER_MATH, ".5", "0.5", true },
        { ANSWER_MATH, "5", "x=5", true },
        { ANSWER_MATH, "-q + p", "p - q", true },
        { ANSWER_GSM8K, "-5", "5", false },
        { ANSWER_GSM8K, "1", "1,000", false },
        { ANSWER_GSM8K, "1,500", "1,000", false },
        { ANSWER_GSM8K, "3.50", "350", false },
        { ANSWER_GSM8K, "7/8", "7", false },
        { ANSWER_GSM8K, ".5", "0.5", true },
        { ANSWER_GSM8K, "1e3", "1000", true },
        { ANSWER_GSM8K, "0.75", "3/4", true },
        { ANSWER_GSM8K, "five", "5", true },
    };
    struct err e = { "" };
    struct answer_checker *c;
    struct answer_result r;
    assert_ok(answer_checker_open(&c, &e));
    answer_result_init(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(answer_grade(c, cases[i].task, cases[i].gold, strlen(cases[i].gold), cases[i].answer,
                               strlen(cases[i].answer), ANSWER_PRED, &r, &e));
        if ((r.verdict == ANSWER_EQUAL) != cases[i].equal)
            fail_msg("%s against %s: %s", cases[i].answer, cases[i].gold, r.reason);
    }
    answer_result_release(&r);
    answer_checker_close(c);
}

static void compat_takes_texts_apart(void **state)
{
    (void)state;
    struct buf a = BUF_INIT, b = BUF_INIT;
    const char *t = " <think> why \n</think>\n so <answer> 5 </answer>";
    assert_int_equal(answer_compat_think(t, strlen(t), &a, &b), 3);
    assert_string_equal(a.s, "why");
    assert_string_equal(b.s, "so <answer> 5 </answer>");
    t = "why</think> 5";
    assert_int_equal(answer_compat_think(t, strlen(t), &a, &b), 3);
    assert_string_equal(a.s, "why");
    assert_string_equal(b.s, "5");
    t = "we add.\n\nthe Answer is 5";
    assert_int_equal(answer_compat_think(t, strlen(t), &a, &b), 3);
    assert_string_equal(a.s, "we add.");
    assert_string_equal(b.s, t);
    assert_int_equal(answer_compat_think("", 0, &a, &b), 1);
    t = "<|latent_12|></think> \n <answer>7</answer>";
    assert_int_equal(answer_compat_extract_xml(t, strlen(t), &a, &b), 3);
    assert_string_equal(a.s, "(latent)");
    assert_string_equal(b.s, "7");
    t = "<think>x<answer>7</answer>";
    assert_int_equal(answer_compat_extract_xml(t, strlen(t), &a, &b), 3);
    assert_string_equal(a.s, "x");
    assert_int_equal(answer_compat_extract_xml("none", 4, &a, &b), 0);
    buf_release(&a);
    buf_release(&b);
}

/* Sampling for self-training: only "answer is" splits, boxes are nothing. */
static void compat_extracts_from_the_paper_format(void **state)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "3 and 4 make 7.\nThe answer is 7", "7" },
        { "The Answer IS $1,250.50 for 2", "1250.5" },
        { "the answer is 3, no: the answer is -4", "-4" },
        { "\\boxed{5} from 6", "6" },
        { "my answer is unknown", NULL },
    };
    struct buf b = BUF_INIT;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int found = answer_compat_extract_paper(cases[i].text, strlen(cases[i].text), &b);
        assert_int_equal(found, cases[i].want != NULL);
        if (found)
            assert_string_equal(b.s, cases[i].want);
    }
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_tasks),
        cmocka_unit_test(golds_of_benchmarks),
        cmocka_unit_test(refuses_unknown_tasks),
        cmocka_unit_test(hostile_input_ends_soon),
        cmocka_unit_test(compat_extracts_as_the_reference),
        cmocka_unit_test(compat_extracts_from_the_paper_format),
        cmocka_unit_test(compat_scores_as_the_reference),
        cmocka_unit_test(we_do_better_than_the_reference),
        cmocka_unit_test(compat_takes_texts_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
