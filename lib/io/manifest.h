/* manifest.h - how a file was made: F.run.json beside F, or OUTHASH.KEY.json in the run log for what went through a
 * pipe.
 *
 * A manifest names program, version, RESULT options, seed, numerics class, the models by fingerprint, every input and
 * the output by content hash, and counts. Clocks and machine facts live here, never in data. latent-record(5) has the
 * keys. */
#ifndef LATENT_MANIFEST_H
#define LATENT_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/hash.h"

struct buf;
struct err;

struct manifest_input {
    char *name; /* as it was given, or "standard input" */
    char *role; /* "" for the stream of records; else the option that named it: "few-shot" */
    char hash[HASH_HEX];
};

struct manifest_model {
    char *role; /* "model", "compressor" ... */
    char *name;
    char hash[HASH_HEX]; /* fingerprint */
};

struct manifest {
    char *program, *version, *numerics;
    char *part; /* which of several outputs of one run: "ratio 0.5"; "" for the only one */
    int64_t result;
    char key[HASH_HEX];
    char *options; /* JSON object, text */
    char *counts;  /* JSON object, text */
    struct manifest_input *input;
    int ninputs;
    struct manifest_model *model;
    int nmodels;
    char output[HASH_HEX];
    int64_t records, bytes;
    char *started; /* RFC 3339, UTC */
    double seconds;
};

void manifest_write(const struct manifest *m, struct buf *out); /* appends the JSON text */
int manifest_parse(struct manifest *m, const char *text, size_t n, const char *name, struct err *e);
int manifest_read(struct manifest *m, const char *path, struct err *e);
void manifest_release(struct manifest *m);

void manifest_add_input(struct manifest *m, const char *name, const char *role, struct hash128 h);
void manifest_add_model(struct manifest *m, const char *role, const char *name, const char *fingerprint);

/* The key: xxh3-128 over program, result number, options, part, numerics class, input hashes and model fingerprints.
 * Names, versions and times are not in it. with_inputs false: without the stream's hashes (what a journal is named by).
 */
struct hash128 manifest_key(const struct manifest *m, bool with_inputs);

char *manifest_path(const char *file); /* FILE.run.json; caller frees */

/* Where the store ($LATENT_STORE) has the result of this key; end: "", or ".zst". Caller frees; NULL: no store. */
char *store_path(const char *key, const char *end);

/* The run log: $LATENT_RUNS, else $XDG_STATE_HOME/latent/runs, else ~/.local/state/latent/runs. Caller frees; NULL: no
 * home. */
char *runlog_dir(void);
int runlog_add(const struct manifest *m, struct err *e);
bool runlog_has(const char *output_hash);
/* Path of an entry whose output is this hash; caller frees; NULL: none. */
char *runlog_find(const char *output_hash);

#endif
