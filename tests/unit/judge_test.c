/* judge_test.c - lib/task/judge: what is looked at, and what truncation does. */
#include "task/judge.h"
#include "unit/test.h"

static struct judge *judge;
static struct judgement verdict;

static void look(const char *benchmark, enum prompt_format f, const char *gold, const char *text, bool truncated,
                 bool thinking)
{
    struct err e = { "" };
    struct response r = { benchmark, gold, strlen(gold), f, think_split(text, strlen(text)), truncated, thinking };
    assert_ok(judge_response(judge, &r, &verdict, &e));
}

static void the_answer_stands_behind_the_thinking(void **state)
{
    (void)state;
    look("math", PROMPT_TOKENSKIP, "2", "3, so \\boxed{3}</think>The answer is \\boxed{2}", false, true);
    assert_true(verdict.correct && verdict.compat_correct && verdict.answered);
    assert_string_equal(verdict.answer.s, "2");
    assert_string_equal(verdict.verdict, "equal");
    look("math", PROMPT_TOKENSKIP, "3", "so \\boxed{3}</think>", false, true);
    assert_false(verdict.correct || verdict.answered || verdict.compat_answered);
    assert_string_equal(verdict.reason, "no_answer");
    look("gsm8k", PROMPT_XML, "7", "<think>8</think><answer>7</answer>", false, false);
    assert_true(verdict.correct && verdict.compat_correct);
}

static void truncation_is_never_correct(void **state)
{
    (void)state;
    look("math", PROMPT_TOKENSKIP, "2", "so</think>\\boxed{2} and then", true, true);
    assert_false(verdict.correct);
    assert_true(verdict.answered && verdict.compat_correct); /* the reference does not look */
    assert_string_equal(verdict.verdict, "equal");
    assert_string_equal(verdict.reason, "truncated");
    look("math", PROMPT_TOKENSKIP, "2", "1+1 is 2", true, true); /* still thinking */
    assert_false(verdict.correct || verdict.answered);
    assert_true(verdict.compat_correct);
}

static void the_references_faults_are_kept_apart(void **state)
{
    (void)state;
    look("math", PROMPT_TOKENSKIP, "5", "x</think>\\boxed{-5}", false, true);
    assert_false(verdict.correct);
    assert_true(verdict.compat_correct);
}

int main(void)
{
    struct err e = { "" };
    if (judge_open(&judge, &e) < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_stands_behind_the_thinking),
        cmocka_unit_test(truncation_is_never_correct),
        cmocka_unit_test(the_references_faults_are_kept_apart),
    };
    int failed = cmocka_run_group_tests_name("judge", tests, NULL, NULL);
    judgement_release(&verdict);
    judge_close(judge);
    return failed;
}
