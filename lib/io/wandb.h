/* wandb.h - offline runs of Weights & Biases: made without its package, and read back.
 *
 *     struct wandb *w = wandb_new(&(struct wandb_run){ .id = "4k2f...", .project = "p", .name = "n", .started = 1.7e9
 * }); wandb_log(w, 12.5, items, n);                 // a row of history, 12.5 s after the start wandb_write(w, "DIR",
 * NULL, &path, &e);       // DIR/wandb/offline-run-20231114_221320-4k2f.../run-4k2f....wandb wandb_free(w);
 *
 *     wandb_check("DIR/wandb/offline-run-...", &facts, &e);    // is the folder whole?
 *     wandb_read("run-4k2f....wandb", each, to, &e);           // its records, one by one
 *
 * A run file is 7 bytes of head, then a log of chunks in blocks of 32 KiB, each chunk with its CRC-32; the chunks of a
 * record joined are one protobuf message. What `wandb sync` shows is what the records say and no more: so every row has
 * its _step, _runtime and _timestamp, every key its metric, and the last values stand in a summary. No clock is read:
 * the same calls make the same bytes. */
#ifndef LATENT_WANDB_H
#define LATENT_WANDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct manifest;

struct wandb_item {
    const char *key;
    const char *value; /* JSON text */
};

/* ---- writing ---- */

enum { WANDB_ID = 8 };

struct wandb_run {
    const char *id; /* letters and digits; names the folder */
    const char *project, *name;
    const char *group, *job_type; /* NULL: none */
    double started;               /* seconds since 1970, 0: not known */
    const char *step_metric;      /* key that curves are drawn over; NULL: the row's number */
    const struct wandb_item *config;
    size_t nconfig;
};

/* An id of WANDB_ID digits and small letters out of any text. */
void wandb_id(const char *text, size_t n, char id[WANDB_ID + 1]);

/* A run in the making lies in memory. Everything is copied. */
struct wandb;
struct wandb *wandb_new(const struct wandb_run *run);
void wandb_log(struct wandb *w, double runtime, const struct wandb_item *item, size_t n);

/* Values for an item of the next row, appended to value: a histogram in equal bins, as numpy's; a table, whose text
 * {"columns": [...], "data": [[...], ...]} becomes a file of the run. */
void wandb_histogram(const double *v, size_t n, struct buf *value);
void wandb_table(struct wandb *w, const char *key, const char *text, size_t n, size_t columns, size_t rows,
                 struct buf *value);

/* The folder appears below dir/wandb, the run file last; one that has these very bytes is left alone. With m (program,
 * options, inputs set) a manifest stands beside the run file. Appends the folder's path to *folder. */
int wandb_write(struct wandb *w, const char *dir, struct manifest *m, struct buf *folder, struct err *e);
void wandb_free(struct wandb *w); /* NULL is fine */

/* ---- reading ---- */

/* One record; everything borrowed until the call ends. */
struct wandb_record {
    int64_t num;
    const char *kind;                /* "header", "run", "history", "summary", "files", "metric", "exit" ...; "other" */
    int64_t step;                    /* history */
    int32_t code;                    /* exit */
    const char *id, *project, *name; /* run */
    /* history, summary, run (its config): values; metric: the step metric as value; files: the path, value NULL. A
     * nested key a, b is "a.b". */
    const struct wandb_item *item;
    size_t n;
};

/* each returns 0 to go on, -1 (with e set) to stop. A broken chunk or message is an error that names its byte. */
int wandb_read(const char *path, int (*each)(void *to, const struct wandb_record *r, struct err *e), void *to,
               struct err *e);

struct wandb_facts {
    char *id, *project, *name;
    int64_t records, history;
    int32_t code; /* exit code */
};

/* A run folder as wandb_write makes it: one run file named by its id, records 1, 2, 3 ... from header and run to exit,
 * final and footer, rows of rising steps, every file that a record names there, every table with its sha256 and size.
 */
int wandb_check(const char *folder, struct wandb_facts *out, struct err *e);
void wandb_facts_release(struct wandb_facts *f);

#endif
