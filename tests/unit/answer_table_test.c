/* answer_table_test.c - the readable table tests/unit/answer.cases: every type, accepted and refused. The table runs
 * twice with one checker, so a verdict that depended on what came before would show. */
#include "task/answer.h"
#include "unit/test.h"

struct table {
    struct answer_checker *c;
    struct answer_result r;
    enum answer_task task;
    int cases, wrong;
};

static const char *const verdicts[] = { "unequal", "equal", "undecided" };

/* RET in a response is a new line. */
static char *with_newlines(const char *s)
{
    char *out = xstrdup(s), *d = out;
    while (*s) {
        if (strncmp(s, "RET", 3) == 0) {
            *d++ = '\n';
            s += 3;
        } else {
            *d++ = *s++;
        }
    }
    *d = 0;
    return out;
}

static void one_case(struct table *t, int line, const char *gold, const char *answer, char *expected)
{
    struct err e = { "" };
    bool response = strncmp(answer, "> ", 2) == 0;
    char *text = with_newlines(response ? answer + 2 : answer), *reason = strchr(expected, ' ');
    if (reason)
        *reason++ = 0;
    assert_ok(answer_grade(t->c, t->task, gold, strlen(gold), text, strlen(text),
                           response ? ANSWER_SOLUTION : ANSWER_PRED, &t->r, &e));
    t->cases++;
    if (strcmp(verdicts[t->r.verdict], expected) != 0 || (reason && strcmp(reason, t->r.reason) != 0)) {
        t->wrong++;
        printf("# answer.cases:%d: gold %s, answer %s: expected %s %s, got %s %s (%s | %s | %s)\n", line, gold, answer,
               expected, reason ? reason : "", verdicts[t->r.verdict], t->r.reason,
               t->r.extracted.s ? t->r.extracted.s : "", t->r.gold_form.s ? t->r.gold_form.s : "",
               t->r.pred_form.s ? t->r.pred_form.s : "");
    }
    free(text);
}

static void answers_of_the_table(void **state)
{
    (void)state;
    struct err e = { "" };
    struct table t = { .task = ANSWER_MATH };
    char buf[3][4096];
    FILE *f = fopen("tests/unit/answer.cases", "r");
    assert_non_null(f);
    assert_ok(answer_checker_open(&t.c, &e));
    answer_result_init(&t.r);
    for (int pass = 0; pass < 2; pass++) {
        int line = 0, have = 0;
        rewind(f);
        t.task = ANSWER_MATH;
        while (fgets(buf[have], sizeof buf[have], f)) {
            line++;
            buf[have][strcspn(buf[have], "\n")] = 0;
            if (have == 0 && (buf[0][0] == '#' || !buf[0][0]))
                continue;
            if (have == 0 && strncmp(buf[0], "@ ", 2) == 0) {
                assert_true(answer_task_of(buf[0] + 2, &t.task));
                continue;
            }
            if (++have == 3) {
                one_case(&t, line - 2, buf[0], buf[1], buf[2]);
                have = 0;
            }
        }
        assert_int_equal(have, 0);
    }
    fclose(f);
    answer_result_release(&t.r);
    answer_checker_close(t.c);
    printf("# %d cases\n", t.cases / 2);
    assert_int_equal(t.wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(answers_of_the_table) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
