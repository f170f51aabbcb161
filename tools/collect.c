/* collect - questions in, sampled chains of thought out, each marked right or wrong. See latent-collect(1). */
#include <stdio.h>

#include "base/mem.h"
#include "io/record.h"
#include "task/refwords.h"
#include "task/sampling.h"
#include "tools/tool.h"

static struct sampling_options o = SAMPLING_DEFAULTS("train", "append");
static bool grade = true;

static const struct opt opts[] = {
    SAMPLING_ROWS(o),
    OPT_ROW_GROUP("Grading"),
    OPT_ROW_FLAG("grade", 0, &grade, "mark which samples are right; --no-grade leaves it to the grade program",
                 OPT_RESULT),
    OPT_ROW_FLAG("compat", 0, &o.compat, "grade, prompt and write records as the reference does, faults included",
                 OPT_RESULT),
    OPT_ROW_END,
};

static const struct refword words[] = {
    { "gpu", "", NULL, NULL },
    { "cache-dir", "", NULL, NULL },
    { "tensor-parallel", "", "1", NULL },
    { NULL, NULL, NULL, NULL },
};

static void put_view(struct buf *b, const char *key, struct view v)
{
    if (v.s)
        rec_put_text(b, key, v.s, v.n);
    else
        rec_put_null(b, key);
}

static void put_verdict(struct buf *b, const struct sample *x)
{
    const struct judgement *g = x->verdict;
    const struct buf *answer = o.compat ? &g->compat_answer : &g->answer;
    if (!x->graded) {
        rec_put_null(b, "answer");
        rec_put_null(b, "is_correct");
        return;
    }
    if (o.compat ? g->compat_answered : g->answered)
        rec_put_text(b, "answer", answer->s ? answer->s : "", answer->len);
    else
        rec_put_null(b, "answer");
    rec_put_bool(b, "is_correct", o.compat ? g->compat_correct : g->correct);
}

static int put_row(void *arg, const struct sampling *s, const struct sample *x, struct buf *b, struct err *e)
{
    (void)arg;
    (void)e;
    struct buf id = BUF_INIT;
    buf_printf(&id, "%s_s%d", x->q->source_id.s, x->index);
    rec_begin(b);
    rec_put_cstr(b, "benchmark", x->q->benchmark.s);
    rec_put_cstr(b, "source_id", id.s);
    rec_put_cstr(b, "question_source_id", x->q->source_id.s);
    rec_put_int(b, "sample_index", x->index);
    rec_put_cstr(b, "question", x->q->question.s);
    rec_put_text(b, "gold_answer", x->q->gold.s, x->q->gold.len);
    rec_put_cstr(b, "prompt_format",
                 o.compat && s->spec.format == PROMPT_TOKENSKIP ? "paper" : prompt_format_name(s->spec.format));
    rec_put_text(b, "response_text", x->text.s, x->text.n);
    put_view(b, "reasoning", x->parts.reasoning);
    put_verdict(b, x);
    rec_put_int(b, "reasoning_token_count", x->think_tokens);
    rec_put_int(b, "response_token_count", x->g->tokens);
    if (!o.compat) {
        if (x->g->dual) {
            rec_put_int(b, "latent_tokens", x->g->latent);
            rec_put_int(b, "visible_tokens", x->g->tokens - x->g->latent);
        }
        rec_put_cstr(b, "finish_reason", x->g->truncated ? "length" : "stop");
        rec_put_int(b, "seed", s->run.seed);
    }
    rec_end(b);
    buf_release(&id);
    return 0;
}

static int sample_all(const struct tool *t, struct sampling *s, struct err *e)
{
    struct stage_spec spec = { .resume = true };
    struct stage *st = NULL;
    sampling_stage(s, &spec);
    int rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc;
    rc = sampling_run(s, st, grade, put_row, NULL, e);
    if (rc == 0)
        rc = sampling_commit(s, st, e);
    stage_close(st);
    return rc < 0 ? TOOL_FAILED : s->counts.rejected ? TOOL_REJECTS : TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct sampling s;
    struct sampling_run_options how = { common.device, common.threads, common.seed, common.keep_going };
    if (sampling_check(&o, e) < 0)
        return TOOL_MISUSE;
    int rc = sampling_open(&s, &o, &how, (const char *const *)files, nfiles, e);
    if (rc == 0)
        rc = sample_all(t, &s, e);
    sampling_close(&s);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = { "collect",
                                      "[OPTION]... [FILE]...",
                                      "samples chains of thought for questions and marks which are right",
                                      4,
                                      opts,
                                      run };
    return tool_main_words(&tool, words, argc, argv);
}
