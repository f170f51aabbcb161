/* select - which samples go on. See latent-select(1). */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "task/select.h"
#include "tools/tool.h"

static struct {
    bool correct, dedup, whole, merge, nested, compat;
    int64_t min_tokens, max_tokens, shortest, min_per_question, exemplars;
    double top;
    const char *by;
    struct opt_list scores;
} o = { .min_tokens = -1, .max_tokens = -1, .min_per_question = 1, .by = "logprob_post_cot" };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Filters"),
    OPT_ROW_FLAG("correct", 'c', &o.correct, "only samples whose answer is right", OPT_RESULT),
    OPT_ROW_INT("min-tokens", 0, &o.min_tokens, "N", "only reasoning of at least N tokens; -1: any", OPT_RESULT, -1,
                1e9),
    OPT_ROW_INT("max-cot-tokens", 'm', &o.max_tokens, "N", "only reasoning of at most N tokens; -1: any", OPT_RESULT,
                -1, 1e9),
    OPT_ROW_ALIAS("max-think-tokens", "max-cot-tokens"),
    OPT_ROW_FLAG("dedup", 'd', &o.dedup, "of equal reasoning to one question, the first only", OPT_RESULT),
    OPT_ROW_FLAG("whole", 'w', &o.whole, "lengths and repeats of the whole response instead of its reasoning",
                 OPT_RESULT),
    OPT_ROW_GROUP("Choices per question (and ratio): at most one of these"),
    OPT_ROW_INT("shortest", 'k', &o.shortest, "K", "the K shortest; 0: all", OPT_RESULT, 0, 1e9),
    OPT_ROW_ALIAS("top-k", "shortest"),
    OPT_ROW_REAL("top", 0, &o.top, "F", "the best share F by score, 0 < F <= 1; 0: all", OPT_RESULT, 0, 1),
    OPT_ROW_INT("exemplars", 0, &o.exemplars, "N", "few-shot examples: the N shortest right samples, one a question",
                OPT_RESULT, 0, 1e6),
    OPT_ROW_ALIAS("num-exemplars", "exemplars"),
    OPT_ROW_GROUP("Scores"),
    OPT_ROW_CHOICE("by", 0, &o.by, "logprob_post_cot|logprob_answer|logprob_boxed", "the score that --top goes by",
                   OPT_RESULT),
    OPT_ROW_ALIAS("score-key", "by"),
    OPT_ROW_LIST("scores", 's', &o.scores, "FILE", "rows of score, joined by source_id and ratio (may be repeated)",
                 OPT_RUN),
    OPT_ROW_INT("min-per-question", 0, &o.min_per_question, "N", "--top keeps at least N", OPT_RESULT, 0, 1e9),
    OPT_ROW_GROUP("Other"),
    OPT_ROW_FLAG("merge", 0, &o.merge, "make the input files one file; every record must pass", OPT_RUN),
    OPT_ROW_FLAG("compat", 0, &o.compat,
                 "the reference's order, bounds, rewards and layout; its sample files are read as flat samples",
                 OPT_RESULT),
    OPT_ROW_FLAG("nested", 0, &o.nested, "--compat: write the reference's sample file, one object a question",
                 OPT_RESULT),
    OPT_ROW_END,
};

static int check_options(int nfiles, struct err *e)
{
    int choices = (o.shortest > 0) + (o.top > 0) + (o.exemplars > 0);
    if (choices > 1)
        return tool_misuse(e, "--shortest, --top and --exemplars exclude each other: run select once for each");
    if (o.top <= 0 && o.scores.n)
        return tool_misuse(e, "--scores is for --top");
    if (o.min_tokens >= 0 && o.max_tokens >= 0 && o.min_tokens > o.max_tokens)
        return tool_misuse(e, "--min-tokens %lld is more than --max-cot-tokens %lld", (long long)o.min_tokens,
                           (long long)o.max_tokens);
    if (o.nested && (!o.compat || choices))
        return tool_misuse(e, o.compat ? "--nested writes all samples of a question: no choice beside it"
                                       : "--nested writes the reference's files: it goes with --compat");
    if (o.merge && (choices || o.nested || o.whole || o.correct || o.dedup || o.min_tokens >= 0 || o.max_tokens >= 0))
        return tool_misuse(e, "--merge takes every record as it is: no other choice beside it");
    if (o.merge && nfiles == 0)
        return tool_misuse(e, "--merge needs the files to merge");
    return TOOL_OK;
}

static int move_records(struct stage *st, struct selector *s, long *rejected, struct err *e)
{
    struct rec r;
    struct buf out = BUF_INIT;
    int rc, got;
    progress_begin("selecting", 0, "records");
    for (rc = 0; rc == 0 && (got = rec_read(stage_input(st), &r, e)) != 0;) {
        buf_reset(&out);
        if (got == -1 || (got < 0 && !common.keep_going)) {
            rc = -1;
        } else if (got < 0 || selector_add(s, &r, &out, e) < 0) {
            rc = common.keep_going ? 0 : -1;
            if (rc == 0) {
                log_warn("%s", e->msg);
                ++*rejected;
            }
        } else if (out.len) {
            rc = stage_write(st, out.s, out.len, e);
        }
        if (rc == 0 && stage_interrupted())
            rc = stage_stopped(st, e);
        progress_at(selector_counts(s)->in, NULL);
    }
    buf_reset(&out);
    if (rc == 0)
        rc = selector_finish(s, &out, e);
    if (rc == 0 && out.len)
        rc = stage_write(st, out.s, out.len, e);
    buf_release(&out);
    progress_end();
    return rc;
}

static int finish(struct stage *st, const struct selector *s, long rejected, struct err *e)
{
    const struct select_counts *n = selector_counts(s);
    struct buf counts = BUF_INIT;
    buf_printf(&counts,
               "{\"read\": %llu, \"kept\": %llu, \"incorrect\": %llu, \"too_short\": %llu, \"too_long\": %llu, "
               "\"repeated\": %llu, \"unscored\": %llu, \"rejected\": %ld}",
               (unsigned long long)n->in, (unsigned long long)n->out, (unsigned long long)n->wrong,
               (unsigned long long)n->too_short, (unsigned long long)n->too_long, (unsigned long long)n->repeated,
               (unsigned long long)n->unscored, rejected);
    int rc = stage_commit(st, counts.s, e);
    buf_release(&counts);
    if (rc == 0)
        log_info("%llu of %lld %s kept (%llu wrong, %llu too short, %llu too long, %llu repeated, %llu without a "
                 "score)",
                 (unsigned long long)n->out, COUNTED(n->in, "record", "records"), (unsigned long long)n->wrong,
                 (unsigned long long)n->too_short, (unsigned long long)n->too_long, (unsigned long long)n->repeated,
                 (unsigned long long)n->unscored);
    return rc;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct stage_side sides[64];
    struct selector *s = NULL;
    struct stage *st = NULL;
    long rejected = 0;
    int rc = check_options(nfiles, e);
    if (rc != TOOL_OK)
        return rc;
    for (size_t i = 0; i < o.scores.n; i++)
        sides[i] = (struct stage_side){ "scores", o.scores.v[i] };
    struct stage_spec spec = { .numerics = "exact",
                               .inputs = (const char *const *)files,
                               .ninputs = nfiles,
                               .sides = sides,
                               .nsides = (int)o.scores.n };
    rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc;
    struct select_spec pick = { .correct = o.correct,
                                .min_tokens = o.min_tokens,
                                .max_tokens = o.max_tokens,
                                .dedup = o.dedup || o.nested,
                                .shortest = o.shortest,
                                .top = o.top,
                                .min_per_group = o.min_per_question,
                                .by = o.by,
                                .scores = o.scores.v,
                                .nscores = o.scores.n,
                                .exemplars = o.exemplars,
                                .whole = o.whole,
                                .nested = o.nested,
                                .compat = o.compat };
    rc = selector_open(&s, &pick, e);
    if (rc == 0)
        rc = move_records(st, s, &rejected, e);
    if (rc == 0)
        rc = finish(st, s, rejected, e);
    selector_close(s);
    stage_close(st);
    return rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "select", "[OPTION]... [FILE]...", "which samples go on: filters, shortest, best by score, exemplars", 1, opts,
        run
    };
    return tool_main(&tool, argc, argv);
}
