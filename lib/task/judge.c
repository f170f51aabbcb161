/* judge.c - see judge.h. */
#include "task/judge.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "task/answer.h"

struct judge {
    struct answer_checker *checker;
    struct answer_result result;
};

int judge_open(struct judge **out, struct err *e)
{
    struct judge *j = xcalloc(1, sizeof *j);
    answer_result_init(&j->result);
    if (answer_checker_open(&j->checker, e) < 0) {
        judge_close(j);
        return -1;
    }
    *out = j;
    return 0;
}

void judge_close(struct judge *j)
{
    if (!j)
        return;
    answer_result_release(&j->result);
    answer_checker_close(j->checker);
    free(j);
}

static enum answer_task task_of(const char *benchmark)
{
    enum answer_task task;
    if (answer_task_of(benchmark, &task))
        return task;
    return strncmp(benchmark, "mmlu", 4) == 0 ? ANSWER_MMLU : ANSWER_MATH;
}

static void judge_compat(const struct response *r, enum answer_task task, struct judgement *out)
{
    const struct view *v = &r->parts.visible;
    struct buf *a = &out->compat_answer;
    buf_reset(a);
    if (r->format == PROMPT_XML)
        out->compat_answered = answer_compat_extract_xml(v->s, v->n, NULL, a) & 1;
    else if (r->format == PROMPT_PAPER)
        out->compat_answered = answer_compat_extract_paper(v->s, v->n, a);
    else
        out->compat_answered = answer_compat_extract(v->s, v->n, a);
    out->compat_correct =
        out->compat_answered && answer_compat_score(task, a->s ? a->s : "", a->len, r->gold, r->gold_n);
}

static const char *verdict_name(enum answer_verdict v)
{
    return v == ANSWER_EQUAL ? "equal" : v == ANSWER_UNEQUAL ? "unequal" : "undecided";
}

static int judge_ours(struct judge *j, const struct response *r, enum answer_task task, struct judgement *out,
                      struct err *e)
{
    const struct view *v = &r->parts.visible;
    buf_reset(&out->answer);
    out->verdict = "unequal";
    out->reason = "truncated";
    out->answered = out->correct = false;
    if (r->truncated && r->thinking && !r->parts.closed)
        return 0;
    if (answer_grade(j->checker, task, r->gold, r->gold_n, v->s, v->n, ANSWER_SOLUTION, &j->result, e) < 0)
        return -1;
    out->answered = strcmp(j->result.reason, "no_answer") != 0;
    if (out->answered && j->result.extracted.len)
        buf_add(&out->answer, j->result.extracted.s, j->result.extracted.len);
    out->verdict = verdict_name(j->result.verdict);
    if (!r->truncated)
        out->reason = j->result.reason;
    out->correct = j->result.verdict == ANSWER_EQUAL && !r->truncated;
    return 0;
}

int judge_response(struct judge *j, const struct response *r, struct judgement *out, struct err *e)
{
    enum answer_task task = task_of(r->benchmark);
    judge_compat(r, task, out);
    return judge_ours(j, r, task, out, e);
}

void judgement_release(struct judgement *g)
{
    buf_release(&g->answer);
    buf_release(&g->compat_answer);
}
