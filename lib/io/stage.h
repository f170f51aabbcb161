/* stage.h - one run of a program: is there work, where does it come from, where does it go, how does it resume.
 *
 *     struct stage_spec spec = { .program = "collect", .result = 1, .options = tool_options(), .numerics = ..., ... };
 *     int rc = stage_open(&st, &spec, &e);              // STAGE_UP_TO_DATE: nothing to do, st is NULL
 *     while ((got = rec_read(stage_input(st), &r, &e)) > 0) {
 *         struct hash128 in = hash_bytes(r.line, r.len);
 *         if (stage_have(st, 0, unit, in)) continue;     // finished before the last kill
 *         ... stage_put(st, 0, unit, in, line, n, &e);   // in any order
 *     }
 *     stage_commit(st, "{\"questions\": 10}", &e);       // now the file exists, with its manifest
 *     stage_close(st);                                   // without commit: nothing half-made stays, finished units do
 *
 * Output is in the order of the units 0, 1, 2 ... whatever finishes first; every unit must be put, an unusable record
 * as an empty one (rec_read counts broken lines in r.index). With -o and `resume`, every finished unit goes to
 * F.KEY.journal at once; a rerun with the same options takes back each unit whose input line is unchanged. To standard
 * output, units leave as soon as their turn comes, and nothing resumes.
 *
 * Key, store, up to date: see manifest.h for the key. With -o F and files as input, F is left alone when F.run.json has
 * the key and F the hash; else $LATENT_STORE/KEY is linked if it is there; else the program runs, and its output is put
 * into the store too. Files that are linked to a store are read-only. */
#ifndef LATENT_STAGE_H
#define LATENT_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/hash.h"
#include "io/record.h"

struct err;
struct opt;
struct stage;

/* A file that is not part of the record stream but of the result: exemplars, prompt data, a vocabulary. Its option is
 * OPT_RUN in the table (the path does not matter), its content goes into the key here. */
struct stage_side {
    const char *role; /* the option's name */
    const char *path; /* NULL: not given */
};

struct stage_model {
    const char *role;        /* "model", "compressor" */
    const char *name;        /* folder, as the user said it */
    const char *fingerprint; /* model_fingerprint() */
};

/* One output. `part` says which of several it is and is in the key ("ratio 0.5"); "" or NULL for a single one. */
struct stage_output {
    const char *path; /* NULL or "-": standard output (only alone) */
    const char *part;
};

struct stage_spec {
    const char *program;
    int result;
    const struct opt *const *options;
    const char *numerics; /* device_numerics(); "exact" for programs that compute with integers and text only */
    const char *const *inputs;
    int ninputs;   /* 0: standard input */
    bool no_input; /* the program makes its records itself */
    const struct stage_output *outputs;
    int noutputs; /* at least 1 */
    const struct stage_side *sides;
    int nsides;
    const struct stage_model *models;
    int nmodels;
    const char *detail; /* further text for the key, or NULL: what options alone do not say */
    bool resume;
    bool require_provenance;
};

enum { STAGE_UP_TO_DATE = 0, STAGE_RUN = 1 };
int stage_open(struct stage **out, const struct stage_spec *spec, struct err *e);

/* What stage_open would do, without doing it: "KEY up-to-date", "KEY store", "KEY run", or "unknown" while an input
 * does not exist yet or is a pipe. One line per output, appended to *line. */
struct buf;
int stage_plan(const struct stage_spec *spec, struct buf *line, struct err *e);

struct rec_reader *stage_input(struct stage *st);

/* Is unit finished, from this very input? Then it counts as done in this run. */
bool stage_have(struct stage *st, int output, uint64_t unit, struct hash128 input);

/* The finished lines of a unit (newlines included; n may be 0). Each unit of each output once; every unit from 0 on. */
int stage_put(struct stage *st, int output, uint64_t unit, struct hash128 input, const char *lines, size_t n,
              struct err *e);

/* For programs that go line by line and are quick: appends to output 0, in the order of the calls. Not mixed with put.
 */
int stage_write(struct stage *st, const char *lines, size_t n, struct err *e);

/* counts: JSON object for the manifest, or NULL. Checks the provenance of piped input, then makes the output appear. */
int stage_commit(struct stage *st, const char *counts, struct err *e);
void stage_close(struct stage *st); /* NULL is fine */

uint64_t stage_resumed(const struct stage *st); /* units taken back from the journal so far */

/* For programs whose output is no file of records (train): the checks and signals of a stage without one. Everything
 * has been read from in; piped bytes that no run in the log made are warned of, or with `require` are an error. */
int stage_check_input(const struct rec_reader *in, bool require, struct err *e);
void stage_catch_signals(void);

/* SIGINT, SIGTERM or SIGHUP (a closed terminal) has come: finish the record in hand, then fail with stage_stopped
 * (always -1). A second SIGINT or SIGTERM kills. */
bool stage_interrupted(void);
int stage_stopped(struct stage *st, struct err *e);

#endif
