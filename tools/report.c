/* report - result rows and training logs in; a table, a picture, runs for W&B out. See latent-report(1). */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/record.h"
#include "io/stage.h"
#include "task/export.h"
#include "tools/tool.h"

static struct {
    const char *format, *plot, *wandb, *project, *run_name;
    bool pair;
} o = { .format = "text", .project = "latent" };

static const struct opt opts[] = {
    OPT_ROW_GROUP("What is shown"),
    OPT_ROW_CHOICE("format", 0, &o.format, "text|markdown|jsonl", "form of the table", OPT_RESULT),
    OPT_ROW_FLAG("pair", 0, &o.pair, "compare the other runs with the first, question by question, not with ratio 1",
                 OPT_RESULT),
    OPT_ROW_STRING("plot", 0, &o.plot, "FILE", "draw accuracy against length, or losses, into FILE (.png or .svg)",
                   OPT_RUN),
    OPT_ROW_GROUP("Weights & Biases"),
    OPT_ROW_STRING("wandb", 0, &o.wandb, "DIR", "write an offline run for each line of the table below DIR/wandb",
                   OPT_RUN),
    OPT_ROW_STRING("project", 0, &o.project, "P", "project that the runs belong to", OPT_RUN),
    OPT_ROW_STRING("run-name", 0, &o.run_name, "N", "name of the run; of several, its beginning", OPT_RUN),
    OPT_ROW_END,
};

/* The operands taken apart: files, and what their rows are called. */
struct sources {
    char **file, **label;
    int n;
    char *joined; /* the labels, for the key */
};

/* out/a/math_eval_ratio_0.5.jsonl.zst is a file of the run "out/a/math", out/model/metrics.jsonl the log of
 * "out/model". */
static char *label_of_path(const char *path)
{
    size_t n = strlen(path);
    static const char *const ends[] = { ".zst", ".jsonl", ".json", "/metrics" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (n > strlen(ends[i]) && strncmp(path + n - strlen(ends[i]), ends[i], strlen(ends[i])) == 0)
            n -= strlen(ends[i]);
    char *label = xstrndup(path, n), *cut = strstr(label, "_eval_ratio_");
    for (char *next = cut; next; next = strstr(next + 1, "_eval_ratio_"))
        cut = next;
    if (cut && cut != label && !strchr(cut, '/'))
        *cut = '\0';
    return label;
}

/* Folders that all labels begin with say nothing. */
static void drop_common_folders(struct sources *s)
{
    for (;;) {
        const char *slash = s->n ? strchr(s->label[0], '/') : NULL;
        size_t n = slash ? (size_t)(slash - s->label[0]) + 1 : 0;
        for (int i = 0; n && i < s->n; i++)
            if (strncmp(s->label[i], s->label[0], n) != 0)
                n = 0;
        if (!n)
            return;
        for (int i = 0; i < s->n; i++)
            memmove(s->label[i], s->label[i] + n, strlen(s->label[i] + n) + 1);
    }
}

/* LABEL=FILE names the run, LABEL= those of the files behind it, unless a file has that very name. */
static void sources_parse(struct sources *s, int n, char **operands)
{
    struct buf joined = BUF_INIT;
    char **array = xcalloc((size_t)n + 1, sizeof *array);
    struct sources unnamed = { NULL, array, 0, NULL };
    const char *label = NULL;
    size_t label_n = 0;
    *s = (struct sources){ xcalloc((size_t)n + 1, sizeof(char *)), xcalloc((size_t)n + 1, sizeof(char *)), 0, NULL };
    for (int i = 0; i < n; i++) {
        char *eq = file_exists(operands[i]) ? NULL : strchr(operands[i], '=');
        const char *own = eq ? operands[i] : label;
        size_t own_n = eq ? (size_t)(eq - operands[i]) : label_n;
        if (eq && !eq[1]) {
            label = own;
            label_n = own_n;
            continue;
        }
        s->file[s->n] = xstrdup(eq ? eq + 1 : operands[i]);
        s->label[s->n] = own ? xstrndup(own, own_n) : label_of_path(operands[i]);
        if (!own)
            unnamed.label[unnamed.n++] = s->label[s->n];
        s->n++;
    }
    drop_common_folders(&unnamed); /* shortens in place what s->label points at */
    free(array);
    for (int i = 0; i < s->n; i++)
        buf_printf(&joined, "%s%s", i ? "\n" : "", s->label[i]);
    s->joined = buf_take(&joined);
}

static void sources_release(struct sources *s)
{
    for (int i = 0; i < s->n; i++) {
        free(s->file[i]);
        free(s->label[i]);
    }
    free(s->file);
    free(s->label);
    free(s->joined);
}

/* What the input holds: rows of results, lines of training logs, or both. */
struct data {
    struct results res;
    struct trainlogs logs;
    struct report rep;
    long rejected;
};

static void data_release(struct data *d)
{
    report_release(&d->rep);
    results_release(&d->res);
    trainlogs_release(&d->logs);
}

static int take_line(struct data *d, const struct sources *s, int at, const struct rec *r, struct err *e)
{
    const char *label = at < s->n ? s->label[at] : "-";
    if (trainlog_is(r))
        return trainlogs_add(&d->logs, label, at, r, e);
    return results_add(&d->res, label, r, e);
}

/* Once for each output; the first one says what is wrong with the lines. */
static int gather(struct data *d, struct rec_reader *in, const struct sources *s, bool first, struct err *e)
{
    struct rec r;
    int rc, at = -1;
    while ((rc = rec_read(in, &r, e)) != 0) {
        if (rc == -1)
            return -1;
        if (at != rec_inputs(in) - 1) {
            at = rec_inputs(in) - 1;
            results_file(&d->res, at);
        }
        if (rc > 0 && take_line(d, s, at, &r, e) == 0)
            continue;
        if (!common.keep_going)
            return -1;
        if (first)
            log_warn("%s", e->msg);
        d->rejected++;
    }
    if (d->res.n == 0 && d->logs.n == 0)
        return err_set(e, "no result rows and no training log in the input");
    if (results_finish(&d->res, e) < 0)
        return -1;
    report_make(&d->rep, &d->res, o.pair);
    return 0;
}

static int put_table(struct stage *st, const struct data *d, struct err *e)
{
    struct buf out = BUF_INIT;
    bool lines = strcmp(o.format, "jsonl") == 0, markdown = strcmp(o.format, "markdown") == 0;
    if (d->rep.n && lines)
        report_jsonl(&d->rep, &out);
    else if (d->rep.n)
        report_table(&d->rep, markdown, &out);
    if (d->rep.n && d->logs.n && !lines)
        buf_putc(&out, '\n');
    if (d->logs.n && lines)
        trainlogs_jsonl(&d->logs, &out);
    else if (d->logs.n)
        trainlogs_table(&d->logs, markdown, &out);
    int rc = stage_write(st, out.s, out.len, e);
    buf_release(&out);
    return rc;
}

static int put_plot(struct stage *st, const struct data *d, struct err *e)
{
    struct buf out = BUF_INIT;
    bool svg = path_ends_with(o.plot, ".svg");
    if (d->rep.n && d->logs.n)
        return err_set(e, "--plot draws results or training logs: there are both in the input");
    int rc = d->rep.n ? report_plot(&d->rep, svg, &out, e) : trainlogs_plot(&d->logs, svg, &out, e);
    if (rc == 0)
        rc = stage_write(st, out.s, out.len, e);
    buf_release(&out);
    return rc;
}

/* One output: the table, or with plot set the picture. */
static int run_one(const struct tool *t, const struct sources *s, bool plot, struct err *e)
{
    struct stage_output output = { o.plot, path_ends_with(o.plot ? o.plot : "", ".svg") ? "svg" : "png" };
    struct stage_spec spec = { .numerics = "exact",
                               .inputs = (const char *const *)s->file,
                               .ninputs = s->n,
                               .outputs = plot ? &output : NULL,
                               .noutputs = plot,
                               .detail = s->joined };
    struct stage *st = NULL;
    struct data d = { .rejected = 0 };
    int rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc == STAGE_UP_TO_DATE ? TOOL_OK : TOOL_FAILED;
    rc = gather(&d, stage_input(st), s, !plot, e);
    if (rc == 0)
        rc = plot ? put_plot(st, &d, e) : put_table(st, &d, e);
    if (rc == 0)
        rc = stage_commit(st, NULL, e);
    stage_close(st);
    rc = rc < 0 ? TOOL_FAILED : d.rejected ? TOOL_REJECTS : TOOL_OK;
    data_release(&d);
    return rc;
}

static int run_wandb(const struct tool *t, const struct sources *s, struct err *e)
{
    const struct export x = { o.wandb, o.project, o.run_name, (const char *const *)s->file, t->result };
    struct data d = { .res = { .keep = EXPORT_SAMPLES } };
    struct rec_reader *in = NULL;
    int rc = rec_open(&in, (const char *const *)s->file, s->n, e);
    if (rc == 0)
        rc = gather(&d, in, s, false, e);
    if (rc == 0)
        rc = export_runs(&x, &d.rep, &d.logs, e);
    rec_close(in);
    rc = rc < 0 ? TOOL_FAILED : d.rejected ? TOOL_REJECTS : TOOL_OK;
    data_release(&d);
    return rc;
}

static int check(const struct sources *s, struct err *e)
{
    const struct export x = { .project = o.project, .name = o.run_name };
    bool piped = s->n == 0;
    for (int i = 0; i < s->n; i++)
        piped |= strcmp(s->file[i], "-") == 0;
    if (o.plot && !path_ends_with(o.plot, ".svg") && !path_ends_with(o.plot, ".png"))
        return tool_misuse(e, "--plot %s: the name must end in .png or .svg", o.plot);
    if ((o.plot || o.wandb) && piped)
        return tool_misuse(e, "--%s reads the rows a second time: name the files, standard input can be read once",
                           o.plot ? "plot" : "wandb");
    if (!o.wandb && (o.run_name || opt_given(tool_options(), "project")))
        return tool_misuse(e, "--project and --run-name are of --wandb");
    if (export_check(&x, e) < 0)
        return TOOL_MISUSE;
    if (o.pair && s->n < 2)
        return tool_misuse(e, "--pair compares files: give at least two");
    return TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct sources s;
    sources_parse(&s, nfiles, files);
    int rc = check(&s, e), more;
    if (rc == TOOL_OK)
        rc = run_one(t, &s, false, e);
    if (o.plot && (rc == TOOL_OK || rc == TOOL_REJECTS) && (more = run_one(t, &s, true, e)) != TOOL_OK)
        rc = more;
    if (o.wandb && !common.plan && (rc == TOOL_OK || rc == TOOL_REJECTS) && (more = run_wandb(t, &s, e)) != TOOL_OK)
        rc = more;
    sources_release(&s);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = { "report",
                                      "[OPTION]... [[LABEL=]FILE]...",
                                      "shows results and training logs as a table, a picture, W&B runs",
                                      3,
                                      opts,
                                      run };
    return tool_main(&tool, argc, argv);
}
