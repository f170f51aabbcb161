/* tool.h - the harness every program shares: options in, exit code out.
 *
 * A program is a table of options, a line of usage and run(); tool_main parses, answers --help and --version, opens the
 * log, turns the first error into "program: sentence" on stderr and the status into an exit code. Programs hold no
 * other ceremony. The common options (-o, --seed, --threads ...) are in `common`, see tool.c. */
#ifndef LATENT_TOOL_H
#define LATENT_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/opt.h"
#include "io/stage.h"

/* run() returns these; -1 counts as TOOL_FAILED. */
enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_MISUSE = 2, TOOL_REJECTS = 3 };

struct tool {
    const char *name;       /* "collect" */
    const char *usage;      /* "[OPTION]... [FILE]..." */
    const char *about;      /* one line for --help */
    int result;             /* raised by hand when the program's golden output changes; part of every key */
    const struct opt *opts; /* the program's own table */
    int (*run)(const struct tool *t, int nfiles, char **files, struct err *e);
};

/* Values of the common options. */
struct tool_common {
    const char *output; /* -o: NULL is stdout */
    int64_t seed;       /* --seed */
    const char *device; /* --device auto|cpu|cuda:N */
    int64_t threads;    /* --threads; 0: the cores of this machine */
    bool keep_going;    /* --keep-going */
    bool require_provenance;
    bool plan; /* --plan: say what would be done, do nothing */
    bool quiet;
};
extern struct tool_common common;

/* NULL-terminated list of the program's table and the common one, as opt.h's functions take it. Valid inside run(). */
const struct opt *const *tool_options(void);

/* Opens the stage of this run: fills in program, result number, options and, unless the program has outputs of its own,
 * -o. Answers --plan. STAGE_RUN, STAGE_UP_TO_DATE (done: return TOOL_OK) or -1. */
int tool_stage(struct stage **st, const struct tool *t, struct stage_spec *spec, struct err *e);

/* Misuse found after parsing (a combination that makes no sense): returns TOOL_MISUSE with the sentence in e. */
int tool_misuse(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int tool_main(const struct tool *t, int argc, char **argv);

/* The same for a program that takes the reference's words behind --compat. */
struct refword;
int tool_main_words(const struct tool *t, const struct refword *words, int argc, char **argv);

#endif
