/* tool.c - see tool.h. */
#include "tools/tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "task/refwords.h"

struct tool_common common = { .seed = 42, .device = "auto" };

static bool want_help, want_version, force_progress;
static const char *log_json;
static const struct opt *tables[3];

static const struct opt common_opts[] = {
    OPT_ROW_GROUP("Common options"),
    OPT_ROW_STRING("output", 'o', &common.output, "FILE", "write FILE whole or not at all (.zst compresses)", OPT_RUN),
    OPT_ROW_INT("seed", 0, &common.seed, "N", "seed of everything random", OPT_RESULT, 0, 9007199254740992.0),
    OPT_ROW_STRING("device", 0, &common.device, "D", "auto, cpu or cuda:N", OPT_RUN),
    OPT_ROW_INT("threads", 0, &common.threads, "N", "threads to compute with; 0: all cores", OPT_RUN, 0, 1024),
    OPT_ROW_FLAG("keep-going", 0, &common.keep_going, "report bad records, carry on, exit 3 at the end", OPT_RUN),
    OPT_ROW_FLAG("require-provenance", 0, &common.require_provenance,
                 "fail when piped input has no entry in the run log", OPT_RUN),
    OPT_ROW_FLAG("plan", 0, &common.plan, "say whether there is work (output, key, state), do nothing", OPT_RUN),
    OPT_ROW_FLAG("progress", 0, &force_progress, "show progress (the default; --quiet hides it)", OPT_RUN),
    OPT_ROW_FLAG("quiet", 'q', &common.quiet, "say nothing but warnings and errors", OPT_RUN),
    OPT_ROW_STRING("log-json", 0, &log_json, "FILE", "append one JSON event a line to FILE", OPT_RUN),
    OPT_ROW_FLAG("help", 'h', &want_help, "show this text and stop", OPT_RUN),
    OPT_ROW_FLAG("version", 0, &want_version, "show the version and stop", OPT_RUN),
    OPT_ROW_END,
};

const struct opt *const *tool_options(void)
{
    return tables;
}

int tool_stage(struct stage **st, const struct tool *t, struct stage_spec *spec, struct err *e)
{
    static struct stage_output only; /* must outlive the stage */
    spec->program = t->name;
    spec->result = t->result;
    spec->options = tables;
    spec->require_provenance = common.require_provenance;
    if (!spec->noutputs) {
        only.path = common.output;
        spec->outputs = &only;
        spec->noutputs = 1;
    }
    if (!common.plan)
        return stage_open(st, spec, e);
    struct buf lines = BUF_INIT;
    int rc = stage_plan(spec, &lines, e);
    if (rc == 0)
        fwrite(lines.s, 1, lines.len, stdout);
    buf_release(&lines);
    return rc < 0 ? -1 : STAGE_UP_TO_DATE;
}

int tool_misuse(struct err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    return TOOL_MISUSE;
}

/* The write error that counts is the last one. */
static int close_stdout(const char *name)
{
    bool bad = ferror(stdout) != 0;
    if (fclose(stdout) != 0 || bad) {
        fprintf(stderr, "%s: standard output: cannot write: %s\n", name, strerror(errno));
        return -1;
    }
    return 0;
}

static int show_help(const struct tool *t)
{
    want_help = false; /* the text shows defaults */
    struct buf b = BUF_INIT;
    buf_printf(&b, "usage: %s %s\n%s\n\n", t->name, t->usage, t->about);
    opt_help(t->opts, &b);
    opt_help(common_opts, &b);
    buf_printf(&b, "\nThe manual: man latent-%s\n", t->name);
    fwrite(b.s, 1, b.len, stdout);
    buf_release(&b);
    return close_stdout(t->name) < 0 ? TOOL_FAILED : TOOL_OK;
}

/* Hidden: the tables as JSON lines, for the tests of options and pages. */
static int dump_options(const struct tool *t)
{
    struct buf b = BUF_INIT;
    opt_dump(t->opts, &b);
    opt_dump(common_opts, &b);
    fwrite(b.s, 1, b.len, stdout);
    buf_release(&b);
    return close_stdout(t->name) < 0 ? TOOL_FAILED : TOOL_OK;
}

int tool_main(const struct tool *t, int argc, char **argv)
{
    struct err e = { "" };
    int nfiles = 0;
    tables[0] = t->opts;
    tables[1] = common_opts;
    if (argc == 2 && strcmp(argv[1], "--dump-options") == 0)
        return dump_options(t);
    if (opt_parse(tables, argc, argv, &nfiles, &e) < 0) {
        fprintf(stderr, "%s: %s\n", t->name, e.msg);
        return TOOL_MISUSE;
    }
    if (want_help)
        return show_help(t);
    if (want_version) {
        printf("%s %s\n", t->name, LATENT_VERSION);
        return close_stdout(t->name) < 0 ? TOOL_FAILED : TOOL_OK;
    }
    if (!log_json)
        log_json = getenv("LATENT_TRACE");
    if (log_open(t->name, common.quiet && !force_progress ? LOG_QUIET : LOG_NORMAL, log_json, &e) < 0) {
        fprintf(stderr, "%s: %s\n", t->name, e.msg);
        return TOOL_FAILED;
    }
    int rc = t->run(t, nfiles, argv + 1, &e);
    if (rc < 0)
        rc = TOOL_FAILED;
    if ((rc == TOOL_FAILED || rc == TOOL_MISUSE) && e.msg[0])
        log_error("%s", e.msg);
    log_close();
    if (close_stdout(t->name) < 0 && rc == TOOL_OK)
        rc = TOOL_FAILED;
    return rc;
}

int tool_main_words(const struct tool *t, const struct refword *words, int argc, char **argv)
{
    struct refwords_line line;
    struct err e = { "" };
    int rc = TOOL_MISUSE;
    if (refwords_translate(&line, words, argc, argv, &e) < 0)
        fprintf(stderr, "%s: %s\n", t->name, e.msg);
    else
        rc = tool_main(t, line.n, line.v);
    refwords_release(&line);
    return rc;
}
