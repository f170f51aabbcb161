/* eval - questions in, result rows out, one file for each ratio. See latent-eval(1). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/record.h"
#include "task/evaluate.h"
#include "task/refwords.h"
#include "tools/tool.h"

enum { MAX_RATIOS = 32 };

static struct sampling_options o = SAMPLING_DEFAULTS("test", "template");
static const char *ratio_list = "1", *output_dir, *name;

static const struct opt opts[] = {
    OPT_ROW_GROUP("Results"),
    OPT_ROW_STRING("ratio", 'r', &ratio_list, "R[,R]...", "ratios to ask for, above 0 and up to 1", OPT_RUN),
    OPT_ROW_ALIAS("compression-ratio", "ratio"),
    OPT_ROW_STRING("output-dir", 'd', &output_dir, "DIR", "write DIR/NAME_eval_ratio_R.jsonl for each ratio R",
                   OPT_RUN),
    OPT_ROW_STRING("name", 0, &name, "NAME", "with --output-dir; else the benchmark of the first question", OPT_RUN),
    OPT_ROW_FLAG("compat", 0, &o.compat, "write the reference's rows and summary, graded by its rules", OPT_RESULT),
    SAMPLING_ROWS(o),
    OPT_ROW_END,
};

/* num-samples is how many questions there. */
static const struct refword words[] = {
    { "gpu", "", NULL, NULL },
    { "cache-dir", "", NULL, NULL },
    { "num-samples", "--limit=", NULL, NULL },
    { "num-cot-samples", "", NULL, NULL },
    { "top-k", "--top-k=", NULL, "-1" },
    { "tokenskip-prompt", "--prompt-format=tokenskip", NULL, NULL },
    { "sot-prompt", "--prompt-data=sot", NULL, NULL },
    { "sot-paradigm", "", "chunked_symbolism", NULL },
    { "sot-multiturn-exemplars", "--prompt-layout=multiturn", NULL, NULL },
    { "sot-system-only", "--prompt-layout=system-only", NULL, NULL },
    { "cod-prompt", "--prompt-data=cod", NULL, NULL },
    { "cod-paradigm", "", "gsm8k", NULL },
    { "cod-multiturn-exemplars", "--prompt-layout=multiturn", NULL, NULL },
    { "cod-shot", "--num-few-shot=", NULL, NULL },
    { "wandb-project", "", NULL, NULL },
    { "wandb-run-name", "", NULL, NULL },
    { NULL, NULL, NULL, NULL },
};

/* The ratios as they were written, and where their rows go. */
static struct {
    char *text[MAX_RATIOS];
    double value[MAX_RATIOS];
    char *part[MAX_RATIOS];
    struct stage_output output[MAX_RATIOS];
    int n;
} ratios;

static struct evaluate_totals totals[MAX_RATIOS];

static int add_ratio(const char *text, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (!*text || *end || strspn(text, "0123456789.eE+-") != strlen(text) || !(v > 0 && v <= 1))
        return tool_misuse(e, "--ratio %s: expected numbers above 0 and up to 1, with commas between", text);
    for (int i = 0; i < ratios.n; i++)
        if (fabs(ratios.value[i] - v) < 1e-9)
            return tool_misuse(e, "--ratio: %s and %s are the same ratio", ratios.text[i], text);
    if (ratios.n == MAX_RATIOS)
        return tool_misuse(e, "--ratio: at most %d ratios", MAX_RATIOS);
    struct buf part = BUF_INIT;
    buf_printf(&part, "ratio %g", v);
    ratios.part[ratios.n] = buf_take(&part);
    ratios.text[ratios.n] = xstrdup(text);
    ratios.value[ratios.n++] = v;
    return 0;
}

static int parse_ratios(struct err *e)
{
    char *list = xstrdup(ratio_list), *p = list;
    int rc = 0;
    while (rc == 0 && p) {
        char *comma = strchr(p, ',');
        if (comma)
            *comma = '\0';
        rc = add_ratio(p, e);
        p = comma ? comma + 1 : NULL;
    }
    free(list);
    return rc;
}

static int check(struct err *e)
{
    int rc = parse_ratios(e);
    if (rc != 0)
        return rc;
    if (sampling_check(&o, e) < 0)
        return TOOL_MISUSE;
    if (output_dir && common.output)
        return tool_misuse(e, "--output-dir and -o: give one");
    if (ratios.n > 1 && !output_dir)
        return tool_misuse(e, "several ratios are several files: give --output-dir");
    if (name && !output_dir)
        return tool_misuse(e, "--name is the beginning of file names: give --output-dir too");
    bool conditioned = strcmp(o.format, "tokenskip") == 0 && !o.prompt_data;
    for (int i = 0; i < ratios.n; i++)
        if (!conditioned && !prompt_ratio_is_one(ratios.value[i]))
            return tool_misuse(e, "--ratio %s: only --prompt-format tokenskip tells the model a ratio", ratios.text[i]);
    if (o.compat && o.num_samples > 1)
        return tool_misuse(e, "--compat has one row a question: --num-samples must be 1");
    return 0;
}

/* Benchmark of the first question of the first file. */
static int read_name(const struct sampling *s, struct buf *out, struct err *e)
{
    struct rec_reader *in = NULL;
    struct rec r;
    if (!s->ninputs || strcmp(s->inputs[0], "-") == 0)
        return tool_misuse(e, "--output-dir with questions from standard input needs --name");
    if (rec_open(&in, s->inputs, 1, e) < 0)
        return -1;
    int rc = rec_read(in, &r, e);
    if (rc > 0)
        rc = rec_text_or_null(&r, "benchmark", out, e) < 0 ? -1 : 0;
    else if (rc == 0)
        rc = err_set(e, "%s: there is no question in it", s->inputs[0]);
    else
        rc = -1;
    if (rc == 0 && !out->len)
        rc = err_set(e, "%s: has no benchmark to name the results by: give --name", s->inputs[0]);
    if (rc == 0 && strchr(out->s, '/'))
        rc = err_set(e, "%s: its benchmark cannot begin a file's name: give --name", s->inputs[0]);
    rec_close(in);
    return rc;
}

static int name_outputs(const struct sampling *s, struct err *e)
{
    struct buf first = BUF_INIT;
    int rc = 0;
    if (output_dir && name)
        buf_puts(&first, name);
    else if (output_dir)
        rc = read_name(s, &first, e);
    for (int i = 0; rc == 0 && i < ratios.n; i++) {
        struct buf path = BUF_INIT;
        if (output_dir)
            buf_printf(&path, "%s/%s_eval_ratio_%s.jsonl", output_dir, first.s, ratios.text[i]);
        else if (common.output)
            buf_puts(&path, common.output);
        ratios.output[i] = (struct stage_output){ path.len ? buf_take(&path) : NULL, ratios.part[i] };
    }
    buf_release(&first);
    return rc;
}

static void release_ratios(void)
{
    for (int i = 0; i < ratios.n; i++) {
        free(ratios.text[i]);
        free(ratios.part[i]);
        free((char *)ratios.output[i].path);
    }
}

/* Each ratio has its own key: those whose file is there or in the store are settled one by one, the rest (their
 * numbers in todo) is sampled in one run. */
static int settle(const struct tool *t, struct stage_spec *spec, int *todo, int *ntodo, struct err *e)
{
    *ntodo = 0;
    for (int i = 0; i < ratios.n; i++) {
        struct stage *st = NULL;
        struct buf plan = BUF_INIT;
        spec->outputs = &ratios.output[i];
        spec->noutputs = 1;
        spec->program = t->name;
        spec->result = t->result;
        spec->options = tool_options();
        int rc = stage_plan(spec, &plan, e);
        bool there = rc == 0 && (strstr(plan.s, " up-to-date\n") || strstr(plan.s, " store\n"));
        buf_release(&plan);
        if (rc == 0 && there)
            rc = tool_stage(&st, t, spec, e);
        else if (rc == 0)
            todo[(*ntodo)++] = i;
        if (st) { /* it was there a moment ago */
            stage_close(st);
            todo[(*ntodo)++] = i;
        }
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int put_row(void *arg, const struct sampling *s, const struct sample *x, struct buf *row, struct err *e)
{
    (void)arg;
    (void)e;
    if (o.compat)
        evaluate_compat_row(x, &totals[x->output], row);
    else
        evaluate_row(s, x, row);
    return 0;
}

static int put_summaries(const struct sampling *s, struct stage *st, struct err *e)
{
    struct buf row = BUF_INIT;
    int rc = 0;
    for (int i = 0; rc == 0 && i < s->nratios; i++) {
        buf_reset(&row);
        evaluate_compat_summary(s, s->ratio[i], &totals[i], &row);
        rc = stage_put(st, i, 0, hash_bytes("", 0), row.s, row.len, e);
    }
    buf_release(&row);
    return rc;
}

static int evaluate(const struct tool *t, struct sampling *s, struct err *e)
{
    struct stage_output outputs[MAX_RATIOS];
    int todo[MAX_RATIOS], n = 0;
    struct stage *st = NULL;
    struct stage_spec spec = { .resume = !o.compat }; /* the summary needs every row of one run */
    sampling_stage(s, &spec);
    if (!common.plan && settle(t, &spec, todo, &n, e) < 0)
        return -1;
    for (int i = 0; common.plan && i < ratios.n; i++)
        todo[n++] = i;
    if (n == 0)
        return TOOL_OK;
    for (int i = 0; i < n; i++) {
        outputs[i] = ratios.output[todo[i]];
        s->ratio[i] = ratios.value[todo[i]];
    }
    s->nratios = n;
    s->first_unit = o.compat;
    spec.outputs = outputs;
    spec.noutputs = n;
    int rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc;
    rc = sampling_run(s, st, true, put_row, NULL, e);
    if (rc == 0 && o.compat)
        rc = put_summaries(s, st, e);
    if (rc == 0)
        rc = sampling_commit(s, st, e);
    stage_close(st);
    return rc < 0 ? TOOL_FAILED : s->counts.rejected ? TOOL_REJECTS : TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct sampling s = { 0 };
    struct sampling_run_options how = { common.device, common.threads, common.seed, common.keep_going };
    int rc = check(e);
    if (rc == 0)
        rc = sampling_open(&s, &o, &how, (const char *const *)files, nfiles, e);
    if (rc == 0)
        rc = name_outputs(&s, e);
    if (rc == 0)
        rc = evaluate(t, &s, e);
    sampling_close(&s);
    release_ratios();
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "eval", "[OPTION]... [FILE]...", "measures a model on questions at one or several ratios", 4, opts, run
    };
    return tool_main_words(&tool, words, argc, argv);
}
