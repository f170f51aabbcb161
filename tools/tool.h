/* tool.h - the harness every program shares: options in, exit code out.
 *
 * A program is a table of options, a line of usage and run(); it holds no other ceremony:
 *
 *     static double ratio = 0.5;
 *     static const struct opt opts[] = {
 *         OPT_ROW_REAL("ratio", 0, &ratio, "R", "share of the tokens to keep", OPT_RESULT, 0, 1),
 *         OPT_ROW_END,
 *     };
 *
 *     static int run(const struct tool *t, int nfiles, char **files, struct err *e)
 *     {
 *         struct stage_spec spec = { .numerics = "exact", .inputs = (const char *const *)files, .ninputs = nfiles };
 *         struct stage *st = NULL;
 *         long rejected = 0;
 *         int rc = tool_stage(&st, t, &spec, e);
 *         if (rc != STAGE_RUN)
 *             return rc;                                   // up to date, planned, or failed
 *         rc = move_records(st, &rejected, e);             // rec_read ... stage_write, see stage.h
 *         if (rc == 0)
 *             rc = stage_commit(st, NULL, e);
 *         stage_close(st);
 *         return rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
 *     }
 *
 *     int main(int argc, char **argv)
 *     {
 *         static const struct tool tool = { "shorten", "[OPTION]... [FILE]...", "cuts traces", 1, opts, run };
 *         return tool_main(&tool, argc, argv);
 *     }
 *
 * tool_main parses the program's table and the common one (-o, --seed, --threads ...: `common`), answers --help and
 * --version, opens the log, calls run() once and closes log and standard output, whose last write error fails the run
 * too. Whatever goes wrong is told once, by it: run() and what it calls fill e with one sentence and return, and
 * "program: sentence" goes to stderr. A refused option or combination is TOOL_MISUSE, said before any work. Standard
 * output is for records (and what --plan, --help and --version answer); what else there is to say goes through log.h.
 *
 * With common.keep_going a bad record is a log_warn, counted, and TOOL_REJECTS at the end; without, it fails the run.
 */
#ifndef LATENT_TOOL_H
#define LATENT_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/opt.h"
#include "io/stage.h"

/* The exit codes, and what run() returns; -1 counts as TOOL_FAILED. With TOOL_FAILED or TOOL_MISUSE e holds the
 * sentence; an empty one was said already. */
enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_MISUSE = 2, TOOL_REJECTS = 3 };

struct tool {
    const char *name;       /* "collect" */
    const char *usage;      /* "[OPTION]... [FILE]..." */
    const char *about;      /* one line for --help */
    int result;             /* raised by hand when the program's golden output changes; part of every key */
    const struct opt *opts; /* the program's own table */
    /* files: the operands, as in argv; none is standard input for most programs */
    int (*run)(const struct tool *t, int nfiles, char **files, struct err *e);
};

/* Values of the common options, right from run() on. */
struct tool_common {
    const char *output;      /* -o: NULL is stdout */
    int64_t seed;            /* --seed */
    const char *device;      /* --device auto|cpu|cuda:N */
    int64_t threads;         /* --threads; 0: the cores of this machine */
    bool keep_going;         /* --keep-going */
    bool require_provenance; /* --require-provenance; tool_stage hands it on */
    bool plan;               /* --plan: say what would be done, do nothing; tool_stage does */
    bool quiet;              /* --quiet; log.h knows */
};
extern struct tool_common common;

/* NULL-terminated list of the program's table and the common one, as opt.h's functions take it. Valid inside run(). */
const struct opt *const *tool_options(void);

/* Opens the stage of this run, to be closed with stage_close: fills in program, result number, options, provenance and,
 * unless the program has outputs of its own, -o. With --plan it prints the plan instead. STAGE_RUN; STAGE_UP_TO_DATE,
 * which is TOOL_OK (nothing to do: there is no stage);
 * or -1. */
int tool_stage(struct stage **st, const struct tool *t, struct stage_spec *spec, struct err *e);

/* Misuse found after parsing (a combination that makes no sense): return what it returns, TOOL_MISUSE, with the
 * sentence in e. */
int tool_misuse(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* All of main(): returns the exit code. */
int tool_main(const struct tool *t, int argc, char **argv);

/* The same for a program that takes the reference's words behind --compat (task/refwords.h). */
struct refword;
int tool_main_words(const struct tool *t, const struct refword *words, int argc, char **argv);

#endif
