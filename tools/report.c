/* report - result rows in, one table (and one picture) out. See latent-report(1). */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/record.h"
#include "io/stage.h"
#include "task/report.h"
#include "tools/tool.h"

static struct {
    const char *format, *plot;
    bool pair;
} o = { .format = "text" };

static const struct opt opts[] = {
    OPT_ROW_GROUP("What is shown"),
    OPT_ROW_CHOICE("format", 0, &o.format, "text|markdown|jsonl", "form of the table", OPT_RESULT),
    OPT_ROW_FLAG("pair", 0, &o.pair, "compare the other runs with the first, question by question, not with ratio 1",
                 OPT_RESULT),
    OPT_ROW_STRING("plot", 0, &o.plot, "FILE", "draw accuracy against length into FILE (.png or .svg)", OPT_RUN),
    OPT_ROW_END,
};

/* The operands taken apart: files, and what their rows are called. */
struct sources {
    char **file, **label;
    int n;
    char *joined; /* the labels, for the key */
};

/* out/a/math_eval_ratio_0.5.jsonl.zst is a file of the run "out/a/math". */
static char *label_of_path(const char *path)
{
    size_t n = strlen(path);
    static const char *const ends[] = { ".zst", ".jsonl", ".json" };
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

/* LABEL=FILE names the run, unless a file has that very name. */
static void sources_parse(struct sources *s, int n, char **operands)
{
    struct buf joined = BUF_INIT;
    *s = (struct sources){ xcalloc((size_t)n + 1, sizeof(char *)), xcalloc((size_t)n + 1, sizeof(char *)), n, NULL };
    struct sources unnamed = { xcalloc((size_t)n + 1, sizeof(char *)), xcalloc((size_t)n + 1, sizeof(char *)), 0,
                               NULL };
    for (int i = 0; i < n; i++) {
        char *eq = file_exists(operands[i]) ? NULL : strchr(operands[i], '=');
        s->file[i] = xstrdup(eq ? eq + 1 : operands[i]);
        s->label[i] = eq ? xstrndup(operands[i], (size_t)(eq - operands[i])) : label_of_path(operands[i]);
        if (!eq)
            unnamed.label[unnamed.n++] = s->label[i];
    }
    drop_common_folders(&unnamed); /* shortens in place what s->label points at */
    free(unnamed.file);
    free(unnamed.label);
    for (int i = 0; i < n; i++)
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

static int gather(struct rec_reader *in, const struct sources *s, struct results *res, struct err *e)
{
    struct rec r;
    int rc, at = -1;
    while ((rc = rec_read(in, &r, e)) != 0) {
        if (rc < 0)
            return -1;
        if (at != rec_inputs(in) - 1) {
            at = rec_inputs(in) - 1;
            results_file(res);
        }
        if (results_add(res, at < s->n ? s->label[at] : "-", &r, e) < 0)
            return -1;
    }
    if (res->n == 0)
        return err_set(e, "no result rows in the input");
    return results_finish(res, e);
}

static int put_table(struct stage *st, const struct report *rep, struct err *e)
{
    struct buf out = BUF_INIT;
    if (strcmp(o.format, "jsonl") == 0)
        report_jsonl(rep, &out);
    else if (strcmp(o.format, "markdown") == 0)
        report_markdown(rep, &out);
    else
        report_text(rep, &out);
    int rc = stage_write(st, out.s, out.len, e);
    buf_release(&out);
    return rc;
}

static int put_plot(struct stage *st, const struct report *rep, struct err *e)
{
    struct buf out = BUF_INIT;
    int rc = report_plot(rep, path_ends_with(o.plot, ".svg"), &out, e);
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
    struct results res = { 0 };
    struct report rep = { NULL, 0 };
    int rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc == STAGE_UP_TO_DATE ? 0 : -1;
    rc = gather(stage_input(st), s, &res, e);
    if (rc == 0) {
        report_make(&rep, &res, o.pair);
        rc = plot ? put_plot(st, &rep, e) : put_table(st, &rep, e);
    }
    if (rc == 0)
        rc = stage_commit(st, NULL, e);
    report_release(&rep);
    results_release(&res);
    stage_close(st);
    return rc;
}

static int check(int nfiles, char **files, struct err *e)
{
    bool piped = nfiles == 0;
    for (int i = 0; i < nfiles; i++)
        piped |= strcmp(files[i], "-") == 0;
    if (o.plot && !path_ends_with(o.plot, ".svg") && !path_ends_with(o.plot, ".png"))
        return tool_misuse(e, "--plot %s: the name must end in .png or .svg", o.plot);
    if (o.plot && piped)
        return tool_misuse(e, "--plot reads the rows a second time: name the files, standard input can be read once");
    if (o.pair && nfiles < 2)
        return tool_misuse(e, "--pair compares files: give at least two");
    return 0;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct sources s;
    int rc = check(nfiles, files, e);
    if (rc != 0)
        return rc;
    sources_parse(&s, nfiles, files);
    rc = run_one(t, &s, false, e);
    if (rc == 0 && o.plot)
        rc = run_one(t, &s, true, e);
    sources_release(&s);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "report", "[OPTION]... [[LABEL=]FILE]...", "shows result rows as a table of accuracy and length", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
