/* verify - is an artefact what its manifest says, and where did it come from? See latent-verify(1). */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/folder.h"
#include "io/provenance.h"
#include "model/dual.h"
#include "model/model.h"
#include "tools/tool.h"

static struct {
    bool trace, json, check_latent;
    int64_t samples;
    double tol;
    struct opt_list all;
} o = { .samples = 200, .tol = 1e-4 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_FLAG("trace", 't', &o.trace, "walk back to the sources and models, and print the way", OPT_RESULT),
    OPT_ROW_FLAG("json", 0, &o.json, "print the trace as JSON, one object a file", OPT_RESULT),
    OPT_ROW_LIST("all", 'a', &o.all, "DIR", "check every artefact below DIR (may be repeated)", OPT_RUN),
    OPT_ROW_GROUP("Model folders with two vocabularies"),
    OPT_ROW_FLAG("check-latent", 0, &o.check_latent, "compare latent rows with their sources: fresh models only",
                 OPT_RESULT),
    OPT_ROW_INT("sample-size", 0, &o.samples, "N", "with --check-latent: how many rows of each matrix", OPT_RESULT, 1,
                1e9),
    OPT_ROW_REAL("tol", 0, &o.tol, "X", "with --check-latent: largest difference that is no problem", OPT_RESULT, 0,
                 1e9),
    OPT_ROW_END,
};

/* ---- model folders ---- */

static bool has_file(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

/* As dualize made it, and trained by nobody since. */
static bool is_fresh(const char *dir)
{
    struct manifest m;
    char *path = path_join(dir, "run.json");
    bool fresh = file_exists(path) && manifest_read(&m, path, NULL) == 0;
    free(path);
    if (fresh) {
        fresh = strcmp(m.program, "dualize") == 0;
        manifest_release(&m);
    }
    return fresh;
}

/* Puts the folder in front of the lines that check functions add behind `from`. */
static void name_lines(struct buf *b, size_t from, const char *dir)
{
    struct buf out = BUF_INIT;
    for (char *p = b->s + from, *end; b->len > from && (end = strchr(p, '\n')); p = end + 1)
        buf_printf(&out, "%s: %.*s\n", dir, (int)(end - p), p);
    b->len = from;
    buf_add(b, out.s ? out.s : "", out.len);
    buf_release(&out);
}

static int check_dual(const char *dir, struct buf *problems, struct err *e)
{
    struct buf facts = BUF_INIT;
    bool fresh = is_fresh(dir);
    int samples = o.check_latent ? (int)o.samples : fresh ? 100 : 0;
    int n = dual_check(dir, samples, o.check_latent ? o.tol : 1e-3, problems, &facts, NULL, e);
    for (char *p = facts.s, *end; p && (end = strchr(p, '\n')); p = end + 1)
        log_info("%s: %.*s", dir, (int)(end - p), p);
    buf_release(&facts);
    return n;
}

static int check_folder(const char *dir, struct buf *problems)
{
    struct err e = { "" };
    int bad = 0, n;
    size_t from;
    if (!has_file(dir, "config.json") && has_file(dir, "run.json"))
        return folder_check(dir, problems); /* train's: adapter and model lie below */
    if (!has_file(dir, "config.json")) {
        buf_printf(problems, "%s: is a folder without config.json, so no model: name files, or --all %s\n", dir, dir);
        return 1;
    }
    if (has_file(dir, "run.json"))
        bad += folder_check(dir, problems);
    else
        log_info("%s: it has no run.json, so only what it holds can be checked", dir);
    from = problems->len;
    n = model_check(dir, problems, &e);
    if (n >= 0) {
        bad += n;
        n = check_dual(dir, problems, &e);
    }
    name_lines(problems, from, dir);
    if (n < 0)
        buf_printf(problems, "%s\n", e.msg);
    return bad + (n < 0 ? 1 : n);
}

/* Model folders below dir that our programs made. */
static int check_folders(const char *dir, int *checked, struct buf *problems)
{
    int bad = 0;
    if (has_file(dir, "run.json") && has_file(dir, "config.json")) {
        (*checked)++;
        return check_folder(dir, problems);
    }
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    for (struct dirent *f; (f = readdir(d));) {
        char *path = path_join(dir, f->d_name);
        if (f->d_name[0] != '.' && f->d_type != DT_LNK && file_is_dir(path))
            bad += check_folders(path, checked, problems);
        free(path);
    }
    closedir(d);
    return bad;
}

/* ---- all artefacts ---- */

/* Files of the folder that an argument lies in are looked at too: that is where its inputs usually are. */
static void index_around(struct provenance *p, const char *file)
{
    const char *slash = strrchr(file, '/');
    char *dir = slash ? xstrndup(file, (size_t)(slash - file)) : xstrdup(".");
    provenance_add_tree(p, *dir ? dir : "/");
    free(dir);
}

static int trace(struct provenance *p, const char *file, struct buf *problems)
{
    struct buf text = BUF_INIT;
    struct provenance_report out = { .problems = problems };
    if (o.json)
        out.json = &text;
    else
        out.tree = &text;
    provenance_trace(p, file, model_fingerprint, &out);
    if (o.json && text.len)
        buf_putc(&text, '\n');
    fwrite(text.s ? text.s : "", 1, text.len, stdout);
    buf_release(&text);
    return out.nproblems;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct buf problems = BUF_INIT;
    int bad = 0, checked = 0;
    (void)t;
    if (!nfiles && !o.all.n)
        return tool_misuse(e, "name the artefacts to check, or --all DIR");
    struct provenance *p = provenance_new();
    for (size_t i = 0; i < o.all.n; i++)
        provenance_add_tree(p, o.all.v[i]);
    for (size_t i = 0; o.all.n && i < provenance_count(p); i++, checked++)
        bad += provenance_check(provenance_at(p, i)->file, &problems);
    for (size_t i = 0; i < o.all.n; i++)
        bad += check_folders(o.all.v[i], &checked, &problems);
    bad += provenance_problems(p, &problems);
    for (int i = 0; i < nfiles; i++, checked++) {
        bool folder = file_is_dir(files[i]);
        int own = folder ? check_folder(files[i], &problems) : provenance_check(files[i], &problems);
        if (o.trace && own == 0 && (!folder || has_file(files[i], "run.json"))) {
            provenance_add_log(p);
            index_around(p, files[i]);
            own += trace(p, files[i], &problems);
        }
        bad += own;
    }
    provenance_free(p);
    for (char *line = problems.s, *end; line && *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        log_error("%s", line);
    }
    buf_release(&problems);
    log_info("%d artefact%s checked, %d problem%s", checked, checked == 1 ? "" : "s", bad, bad == 1 ? "" : "s");
    return bad ? TOOL_FAILED : TOOL_OK;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "verify", "[OPTION]... [FILE|FOLDER]...", "check artefacts against their manifests and trace them", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
