/* verify - is an artefact what its manifest says, and where did it come from? See latent-verify(1). */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/folder.h"
#include "io/garbage.h"
#include "io/journal.h"
#include "io/provenance.h"
#include "io/schema.h"
#include "io/wandb.h"
#include "model/dual.h"
#include "model/locate.h"
#include "model/model.h"
#include "tools/tool.h"

static struct {
    bool trace, json, gc, null, check_latent;
    int64_t samples;
    double tol;
    struct opt_list all;
} o = { .samples = 200, .tol = 1e-4 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_FLAG("trace", 't', &o.trace, "walk back to the sources and models, and print the way", OPT_RESULT),
    OPT_ROW_FLAG("json", 0, &o.json, "print the trace as JSON, one object a file", OPT_RESULT),
    OPT_ROW_LIST("all", 'a', &o.all, "DIR", "check every artefact below DIR (may be repeated)", OPT_RUN),
    OPT_ROW_FLAG("gc", 0, &o.gc, "list what no result below the folders needs any more; nothing is deleted",
                 OPT_RESULT),
    OPT_ROW_FLAG("null", '0', &o.null, "with --gc: the paths alone, with a NUL behind each, for xargs -0", OPT_RESULT),
    OPT_ROW_GROUP("Model folders with two vocabularies"),
    OPT_ROW_FLAG("check-latent", 0, &o.check_latent, "compare latent rows with their sources: fresh models only",
                 OPT_RESULT),
    OPT_ROW_INT("sample-size", 0, &o.samples, "N", "with --check-latent: how many rows of each matrix", OPT_RESULT, 1,
                1e9),
    OPT_ROW_REAL("tol", 0, &o.tol, "X", "with --check-latent: largest difference that is no problem", OPT_RESULT, 0,
                 1e9),
    OPT_ROW_END,
};

/* A result has two names, its own and the store's, and merged/ is listed twice: read once. */
static struct hash_memo read_files;

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

static void say_facts(const char *dir, struct buf *facts)
{
    for (char *p = facts->s, *end; p && (end = strchr(p, '\n')); p = end + 1)
        log_info("%s: %.*s", dir, (int)(end - p), p);
    buf_release(facts);
}

static int check_dual(const char *dir, struct buf *problems, struct err *e)
{
    struct buf facts = BUF_INIT;
    bool fresh = is_fresh(dir);
    int samples = o.check_latent ? (int)o.samples : fresh ? 100 : 0;
    int n = dual_check(dir, samples, o.check_latent ? o.tol : 1e-3, problems, &facts, NULL, e);
    say_facts(dir, &facts);
    return n;
}

static int check_adapter(const char *dir, struct buf *problems, struct err *e)
{
    struct buf facts = BUF_INIT;
    int n = adapter_check(dir, problems, &facts, e);
    say_facts(dir, &facts);
    return n;
}

static int check_log(const char *dir, struct buf *problems)
{
    char *path = path_join(dir, "metrics.jsonl");
    int bad = file_exists(path) ? schema_check_log(path, problems) : 0;
    free(path);
    return bad;
}

static int check_folder(const char *dir, bool covered, struct buf *problems);

/* What train leaves of LoRA: a folder of model folders. */
static int check_inner(const char *dir, struct buf *problems)
{
    static const char *const inner[] = { "adapter", "merged" };
    int bad = 0;
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, inner[i]);
        if (file_is_dir(path))
            bad += check_folder(path, true, problems);
        free(path);
    }
    return bad;
}

/* What was found in a folder of a model; the store's has the same files under another name. */
static struct looked {
    struct hash128 files;
    char *problems; /* lines without the folder */
    int n;
} * looked;
static size_t nlooked;

/* The same for two folders whose files are the same ones; false: it cannot be said. */
static bool which_files(const char *dir, struct hash128 *out)
{
    struct file_names list;
    struct err ignore;
    struct buf b = BUF_INIT;
    if (file_list(&list, dir, &ignore) < 0)
        return false;
    for (size_t i = 0; i < list.n; i++) {
        char *path = path_join(dir, list.v[i]);
        struct stat st;
        if (stat(path, &st) == 0)
            buf_printf(&b, "%s %llu %llu\n", list.v[i], (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
        free(path);
    }
    *out = hash_bytes(b.s ? b.s : "", b.len);
    buf_release(&b);
    file_names_release(&list);
    return true;
}

/* Appends lines without the folder; returns how many, -1: e says it. */
static int look_inside(const char *dir, bool model, bool adapter, struct buf *problems, struct err *e)
{
    struct hash128 files;
    size_t from = problems->len;
    bool known = which_files(dir, &files);
    for (size_t i = 0; known && i < nlooked; i++)
        if (hash_equal(looked[i].files, files)) {
            buf_puts(problems, looked[i].problems);
            return looked[i].n;
        }
    int bad = model ? model_check(dir, problems, e) : 0, n = bad;
    if (model && n >= 0 && (n = check_dual(dir, problems, e)) >= 0)
        bad += n;
    if (adapter && n >= 0 && (n = check_adapter(dir, problems, e)) >= 0)
        bad += n;
    if (n < 0)
        return -1;
    if (known) {
        looked = xreallocarray(looked, nlooked + 1, sizeof *looked);
        looked[nlooked++] = (struct looked){ files, xstrdup(problems->s ? problems->s + from : ""), bad };
    }
    return bad;
}

static void looked_release(void)
{
    while (nlooked)
        free(looked[--nlooked].problems);
    free(looked);
}

/* covered: the folder it lies in has checked its files. */
static int check_folder(const char *dir, bool covered, struct buf *problems)
{
    struct err e = { "" };
    bool model = has_file(dir, "config.json"), adapter = has_file(dir, "adapter_config.json"),
         run = has_file(dir, "run.json");
    int bad = 0;
    if (!model && !adapter && !run) {
        buf_printf(problems, "%s: is a folder without config.json, so no model: name files, or --all %s\n", dir, dir);
        return 1;
    }
    if (run)
        bad += folder_check(dir, &read_files, problems) + check_log(dir, problems);
    else if (!covered)
        log_info("%s: it has no run.json, so only what it holds can be checked", dir);
    if (!model && !adapter)
        return bad + check_inner(dir, problems);
    size_t from = problems->len;
    int n = look_inside(dir, model, adapter, problems, &e);
    name_lines(problems, from, dir);
    if (n < 0)
        buf_printf(problems, "%s\n", e.msg);
    return bad + (n < 0 ? 1 : n);
}

/* ---- runs for W&B ---- */

/* The run file in a folder; NULL: there is none. Caller frees. */
static char *run_file(const char *dir)
{
    DIR *d = opendir(dir);
    char *found = NULL;
    for (struct dirent *f; d && !found && (f = readdir(d));)
        if (path_ends_with(f->d_name, ".wandb"))
            found = path_join(dir, f->d_name);
    if (d)
        closedir(d);
    return found;
}

/* offline-run-YYYYMMDD_HHMMSS-ID: `wandb sync` reads the date out of the name. */
static bool is_run_folder_name(const char *name, const char *id)
{
    static const char form[] = "offline-run-00000000_000000-";
    size_t n = sizeof form - 1;
    for (size_t i = 0; i < n; i++)
        if (form[i] == '0' ? name[i] < '0' || name[i] > '9' : name[i] != form[i])
            return false;
    return strcmp(name + n, id) == 0;
}

/* What the syncer needs beyond a whole run. */
static int check_sync(const char *dir, const struct wandb_facts *facts, struct buf *problems)
{
    char *real = realpath(dir, NULL), *files = path_join(dir, "files");
    int bad = 0;
    if (real && !is_run_folder_name(path_base(real), facts->id)) {
        buf_printf(problems, "%s: expected the name offline-run-YYYYMMDD_HHMMSS-%s, by which wandb sync finds it\n",
                   dir, facts->id);
        bad++;
    }
    if (has_file(dir, "wandb-metadata.json")) {
        buf_printf(problems, "%s/wandb-metadata.json: belongs in files, here it makes wandb sync skip the run\n", dir);
        bad++;
    }
    if (access(files, W_OK) != 0) {
        buf_printf(problems, "%s: cannot be written, and wandb sync writes there\n", files);
        bad++;
    }
    free(real);
    free(files);
    return bad;
}

/* listed: its manifest is among those that --all has found. */
static int check_run(const char *dir, const char *file, bool listed, struct buf *problems)
{
    struct wandb_facts facts;
    struct err e = { "" };
    char *manifest = manifest_path(file);
    int bad = !listed && file_exists(manifest) ? provenance_check(file, problems) : 0;
    free(manifest);
    if (wandb_check(dir, &facts, &e) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        return bad + 1;
    }
    log_info("%s: run %s of project %s, %lld %s", dir, facts.name, facts.project,
             COUNTED(facts.history, "row", "rows"));
    bad += check_sync(dir, &facts, problems);
    wandb_facts_release(&facts);
    return bad;
}

/* The runs below a folder that `report --wandb` wrote to; -1: it is none. */
static int check_runs(const char *dir, struct buf *problems)
{
    char *below = path_join(dir, "wandb");
    DIR *d = opendir(below);
    int bad = -1;
    for (struct dirent *f; d && (f = readdir(d));) {
        char *path = path_join(below, f->d_name), *file = NULL;
        if (f->d_name[0] != '.' && file_is_dir(path) && (file = run_file(path)))
            bad = (bad < 0 ? 0 : bad) + check_run(path, file, false, problems);
        free(file);
        free(path);
    }
    if (d)
        closedir(d);
    free(below);
    return bad;
}

/* A folder that the user named. */
static int check_any_folder(const char *dir, struct buf *problems)
{
    char *file = run_file(dir);
    int bad = file ? check_run(dir, file, false, problems) : check_runs(dir, problems);
    free(file);
    return bad >= 0 ? bad : check_folder(dir, false, problems);
}

/* Model folders below dir that our programs made, runs for W&B, and journals. */
static int check_folders(const char *dir, int *checked, struct buf *problems)
{
    int bad = 0;
    if (has_file(dir, "run.json")) {
        (*checked)++;
        return check_folder(dir, false, problems);
    }
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    char *run = run_file(dir);
    if (run) {
        bad += check_run(dir, run, true, problems);
        ++*checked;
    }
    free(run);
    for (struct dirent *f; (f = readdir(d));) {
        char *path = path_join(dir, f->d_name);
        if (f->d_name[0] != '.' && f->d_type != DT_LNK && file_is_dir(path)) {
            bad += check_folders(path, checked, problems);
        } else if (path_ends_with(f->d_name, ".journal")) {
            bad += journal_check(path, problems);
            ++*checked;
        }
        free(path);
    }
    closedir(d);
    return bad;
}

/* ---- all artefacts ---- */

static int trace(struct provenance *p, const char *file, struct buf *problems)
{
    static const struct provenance_models models = { model_find, model_fingerprint };
    struct buf text = BUF_INIT;
    struct provenance_report out = { .problems = problems };
    if (o.json)
        out.json = &text;
    else
        out.tree = &text;
    provenance_trace(p, file, &models, &out);
    if (o.json && text.len)
        buf_putc(&text, '\n');
    fwrite(text.s ? text.s : "", 1, text.len, stdout);
    buf_release(&text);
    return out.nproblems;
}

/* ---- garbage ---- */

/* A path on one line: what would end it or hide is written as \\n or \\ooo. */
static void put_visible(struct buf *b, const char *path)
{
    for (const unsigned char *p = (const unsigned char *)path; *p; p++)
        if (*p < 0x20 || *p == 0x7f || *p == '\\')
            buf_printf(b, "\\%03o", *p);
        else
            buf_putc(b, (char)*p);
}

/* The apostrophe in the first word is there for who forgets -0: xargs then stops before it runs anything. */
static const char gc_head[] = "Don't pipe this into a command: verify --gc -0 DIR | xargs -0 rm --\n";

static int list_garbage(int n, char **dirs, struct err *e)
{
    struct garbage g;
    struct buf b = BUF_INIT;
    int rc = garbage_find(&g, (const char *const *)dirs, (size_t)n, e);
    if (rc == 0 && !o.null)
        buf_puts(&b, gc_head);
    for (size_t i = 0; rc == 0 && i < g.n; i++) {
        if (o.null) {
            buf_add(&b, g.item[i].path, strlen(g.item[i].path) + 1);
            continue;
        }
        buf_printf(&b, "%12lld  %-11s  ", (long long)g.item[i].bytes, g.item[i].what);
        put_visible(&b, g.item[i].path);
        buf_putc(&b, '\n');
    }
    if (rc == 0 && !o.null)
        buf_printf(&b, "%12lld  in all, %lld %s\n", (long long)g.bytes, COUNTED(g.n, "file", "files"));
    fwrite(b.s ? b.s : "", 1, b.len, stdout);
    buf_release(&b);
    garbage_release(&g);
    return rc < 0 ? TOOL_FAILED : TOOL_OK;
}

static int check_options(int nfiles, struct err *e)
{
    if (o.null && !o.gc)
        return tool_misuse(e, "--null is for --gc");
    if (o.gc && (o.trace || o.json || o.all.n || o.check_latent))
        return tool_misuse(e, "--gc lists and checks nothing: it goes with --null alone");
    if (o.gc && !nfiles)
        return tool_misuse(e, "--gc: name the folders of results");
    if (!nfiles && !o.all.n)
        return tool_misuse(e, "name the artefacts to check, or --all DIR");
    return TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct buf problems = BUF_INIT;
    int bad = 0, checked = 0;
    (void)t;
    int rc = check_options(nfiles, e);
    if (rc != TOOL_OK)
        return rc;
    if (o.gc)
        return list_garbage(nfiles, files, e);
    setenv("LATENT_HASH_CACHE", "off", 1); /* whoever checks reads */
    struct provenance *p = provenance_new();
    for (size_t i = 0; i < o.all.n; i++) {
        if (!file_is_dir(o.all.v[i])) {
            buf_printf(&problems, "--all %s: is no folder\n", o.all.v[i]);
            bad++;
        }
        provenance_add_tree(p, o.all.v[i]);
    }
    for (size_t i = 0; i < provenance_count(p); i++)
        if (provenance_at(p, i)->file) {
            bad += provenance_check(provenance_at(p, i)->file, &problems);
            checked++;
        }
    bad += provenance_check_shards(p, &problems);
    for (size_t i = 0; i < o.all.n; i++)
        bad += check_folders(o.all.v[i], &checked, &problems);
    bad += provenance_problems(p, &problems);
    for (int i = 0; i < nfiles; i++, checked++) {
        bool folder = file_is_dir(files[i]);
        bool journal = path_ends_with(files[i], ".journal");
        int own = folder    ? check_any_folder(files[i], &problems)
                  : journal ? journal_check(files[i], &problems)
                            : provenance_check(files[i], &problems);
        if (o.trace && own == 0 && !journal && (!folder || has_file(files[i], "run.json"))) {
            provenance_add_around(p, files[i]); /* first: what lies near goes before what the log has of elsewhere */
            provenance_add_log(p);
            own += trace(p, files[i], &problems);
        }
        bad += own;
    }
    provenance_free(p);
    hash_memo_release(&read_files);
    looked_release();
    for (char *line = problems.s, *end; line && *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        log_error("%s", line);
    }
    buf_release(&problems);
    log_info("%lld %s checked, %lld %s", COUNTED(checked, "artefact", "artefacts"),
             COUNTED(bad, "problem", "problems"));
    return bad ? TOOL_FAILED : TOOL_OK;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "verify", "[OPTION]... [FILE|FOLDER]...", "check artefacts against their manifests and trace them", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
