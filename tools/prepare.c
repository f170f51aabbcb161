/* prepare - rows to train on. See latent-prepare(1). */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "task/prepare.h"
#include "tools/tool.h"

static struct {
    const char *method, *format, *family, *label, *original, *prompt_data;
    struct opt_reals ratio;
    bool all_ratios, compat;
    int64_t max_tokens;
} o = { .method = "tokenskip", .family = "qwen", .label = "target", .max_tokens = -1 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_CHOICE("method", 0, &o.method, "tokenskip|direct|concise|distill|solution|labels",
                   "from compressed samples, questions, samples (two), worked questions, words and flags", OPT_RESULT),
    OPT_ROW_CHOICE("format", 0, &o.format, "tokenskip|xml|paper|tokenskip_paper",
                   "the assistant's text; by default tokenskip, or xml for direct and concise", OPT_RESULT),
    OPT_ROW_ALIAS("response-format", "format"),
    OPT_ROW_ALIAS("prompt-format", "format"),
    OPT_ROW_REALS("ratio", 'r', &o.ratio, "R,...",
                  "the pool a trace's ratio is drawn from; 1 is the original "
                  "reasoning; by default 1 and every ratio of the trace",
                  OPT_RESULT, 1e-6, 1),
    OPT_ROW_ALIAS("ratio-pool", "ratio"),
    OPT_ROW_FLAG("all-ratios", 'a', &o.all_ratios, "a row for every ratio of the pool instead of one drawn",
                 OPT_RESULT),
    OPT_ROW_CHOICE("label", 'l', &o.label, "target|achieved", "the ratio the model is told", OPT_RESULT),
    OPT_ROW_INT("max-cot-tokens", 'm', &o.max_tokens, "N", "no rows of traces whose original is longer; -1: any",
                OPT_RESULT, -1, 1e9),
    OPT_ROW_ALIAS("max-think-tokens", "max-cot-tokens"),
    OPT_ROW_CHOICE("model-family", 0, &o.family, "qwen|llama3", "whose token stands around the ratio", OPT_RESULT),
    OPT_ROW_STRING("prompt-data", 0, &o.prompt_data, "FILE", "distill: whose system text, FILE or sot, cod", OPT_RUN),
    OPT_ROW_FLAG("compat", 0, &o.compat, "draw and write as the reference does, faults included", OPT_RESULT),
    OPT_ROW_STRING("original", 0, &o.original, "FILE", "--compat: the samples that were compressed", OPT_RUN),
    OPT_ROW_ALIAS("original-cot-path", "original"),
    OPT_ROW_END,
};

static enum prepare_method method_of(const char *word)
{
    return strcmp(word, "tokenskip") == 0  ? PREPARE_TOKENSKIP
           : strcmp(word, "direct") == 0   ? PREPARE_DIRECT
           : strcmp(word, "solution") == 0 ? PREPARE_SOLUTION
           : strcmp(word, "labels") == 0   ? PREPARE_LABELS
           : strcmp(word, "distill") == 0  ? PREPARE_DISTILL
                                           : PREPARE_CONCISE;
}

static int check_options(struct prepare_spec *s, struct err *e)
{
    *s = (struct prepare_spec){ .method = method_of(o.method),
                                .family = o.family,
                                .ratio = o.ratio.v,
                                .nratio = o.ratio.n,
                                .all_ratios = o.all_ratios,
                                .label_achieved = strcmp(o.label, "achieved") == 0,
                                .max_tokens = o.max_tokens,
                                .seed = (uint64_t)common.seed,
                                .original = o.original,
                                .compat = o.compat };
    bool tokenskip = s->method == PREPARE_TOKENSKIP;
    if (s->method == PREPARE_LABELS && (o.format || o.max_tokens >= 0 || o.compat))
        return tool_misuse(e, "--method labels has no %s: its rows are words, not conversations",
                           o.format   ? "--format"
                           : o.compat ? "--compat"
                                      : "--max-cot-tokens");
    const char *format = o.format ? o.format : tokenskip || s->method == PREPARE_SOLUTION ? "tokenskip" : "xml";
    s->format = prompt_format_of(strcmp(format, "tokenskip_paper") == 0 ? "tokenskip" : format);
    if (tokenskip && s->format == PROMPT_XML)
        return tool_misuse(e, "--method tokenskip and --format xml exclude each other");
    if (!tokenskip && (o.ratio.n || o.all_ratios || s->label_achieved))
        return tool_misuse(e, "%s is for --method tokenskip",
                           o.ratio.n      ? "--ratio"
                           : o.all_ratios ? "--all-ratios"
                                          : "--label");
    if (s->method == PREPARE_DIRECT && o.max_tokens >= 0)
        return tool_misuse(e, "--max-cot-tokens: --method direct has no reasoning");
    if (s->method == PREPARE_SOLUTION && (o.max_tokens >= 0 || o.compat))
        return tool_misuse(e, "--method solution has no %s",
                           o.compat ? "--compat: the reference has no such rows"
                                    : "--max-cot-tokens: questions have no token counts");
    if ((s->method == PREPARE_DISTILL) != (o.prompt_data != NULL))
        return tool_misuse(e, o.prompt_data ? "--prompt-data is for --method distill"
                                            : "--method distill needs --prompt-data: the system text of its rows");
    if (o.prompt_data && (o.format || o.max_tokens >= 0 || o.compat))
        return tool_misuse(e, "%s has no place with --method distill",
                           o.format   ? "--format"
                           : o.compat ? "--compat"
                                      : "--max-cot-tokens");
    if (tokenskip && o.compat && !o.original)
        return tool_misuse(e, "--compat needs --original FILE: the reference draws in the order of the samples");
    if (o.original && !(tokenskip && o.compat))
        return tool_misuse(e, "--original is for --method tokenskip --compat");
    if (o.compat && (o.all_ratios || s->label_achieved))
        return tool_misuse(e, "--compat has no %s", o.all_ratios ? "--all-ratios" : "--label achieved");
    return TOOL_OK;
}

static int move_records(struct stage *st, struct preparer *p, long *rejected, struct err *e)
{
    struct rec r;
    struct buf out = BUF_INIT;
    int rc, got;
    progress_begin("preparing", 0, "records");
    for (rc = 0; rc == 0 && (got = rec_read(stage_input(st), &r, e)) != 0;) {
        buf_reset(&out);
        if (got == -1 || (got < 0 && !common.keep_going)) {
            rc = -1;
        } else if (got < 0 || preparer_add(p, &r, &out, e) < 0) {
            rc = common.keep_going ? 0 : -1;
            if (rc == 0) {
                log_warn("%s", e->msg);
                ++*rejected;
            }
        }
        if (rc == 0 && out.len)
            rc = stage_write(st, out.s, out.len, e);
        if (rc == 0 && stage_interrupted())
            rc = stage_stopped(st, e);
        progress_at(preparer_counts(p)->in, NULL);
    }
    buf_reset(&out);
    if (rc == 0)
        rc = preparer_finish(p, &out, e);
    if (rc == 0 && out.len)
        rc = stage_write(st, out.s, out.len, e);
    buf_release(&out);
    progress_end();
    return rc;
}

static int finish(struct stage *st, const struct preparer *p, long rejected, struct err *e)
{
    const struct prepare_counts *n = preparer_counts(p);
    struct buf counts = BUF_INIT;
    buf_printf(&counts,
               "{\"records\": %llu, \"traces\": %llu, \"rows\": %llu, \"conditioned\": %llu, \"too_long\": %llu, "
               "\"without_ratio\": %llu, \"rejected\": %ld}",
               (unsigned long long)n->in, (unsigned long long)n->traces, (unsigned long long)n->rows,
               (unsigned long long)n->conditioned, (unsigned long long)n->too_long, (unsigned long long)n->without,
               rejected);
    int rc = stage_commit(st, counts.s, e);
    buf_release(&counts);
    if (rc == 0)
        log_info("%lld %s of %lld %s (%llu with a ratio; %llu too long, %llu without a ratio of the pool)",
                 COUNTED(n->rows, "row", "rows"), COUNTED(n->traces, "trace", "traces"),
                 (unsigned long long)n->conditioned, (unsigned long long)n->too_long, (unsigned long long)n->without);
    return rc;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct prepare_spec spec;
    struct preparer *p = NULL;
    struct stage *st = NULL;
    long rejected = 0;
    int rc = check_options(&spec, e);
    if (rc != TOOL_OK)
        return rc;
    struct prompt_data data = { 0 };
    char *data_path = o.prompt_data ? prompt_data_find(o.prompt_data, e) : NULL;
    if (o.prompt_data && (!data_path || prompt_data_open(&data, data_path, e) < 0)) {
        free(data_path);
        return TOOL_FAILED;
    }
    spec.data = &data;
    struct stage_side side[] = { { "original", o.original }, { "prompt-data", data_path } };
    struct stage_spec stage = {
        .numerics = "exact", .inputs = (const char *const *)files, .ninputs = nfiles, .sides = side, .nsides = 2
    };
    rc = tool_stage(&st, t, &stage, e);
    if (rc != STAGE_RUN)
        goto done;
    rc = preparer_open(&p, &spec, e);
    if (rc == 0)
        rc = move_records(st, p, &rejected, e);
    if (rc == 0)
        rc = finish(st, p, rejected, e);
    preparer_close(p);
    stage_close(st);
    rc = rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
done:
    prompt_data_close(&data);
    free(data_path);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = { "prepare",
                                      "[OPTION]... [FILE]...",
                                      "rows to train on, from compressed samples, "
                                      "samples or questions",
                                      2,
                                      opts,
                                      run };
    return tool_main(&tool, argc, argv);
}
