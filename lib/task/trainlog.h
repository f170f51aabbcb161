/* trainlog.h - the log of a training (metrics.jsonl of train, see train/run.h) as a table, lines and a picture.
 *
 * Known are step, epoch, loss, eval_loss, tokens (so far), tokens_per_second and memory; whatever other numbers a line
 * has go to W&B with it. */
#ifndef LATENT_TRAINLOG_H
#define LATENT_TRAINLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct rec;

struct trainlog_line {
    int64_t step;
    double loss, eval_loss; /* NaN: not in this line */
    double epoch, tokens, memory;
    double seconds; /* of all steps up to here */
    char *text;     /* the line as it stands */
};

struct trainlog {
    char *label;
    int file; /* which input it came from */
    struct trainlog_line *v;
    size_t n, cap;
};

struct trainlogs {
    struct trainlog *v; /* in the order of their first lines */
    size_t n;
};

/* Is this a line of a training log? (Else it should be a row of results.) */
bool trainlog_is(const struct rec *line);

/* Adds one; steps rise within a log, label and file say which one it is. */
int trainlogs_add(struct trainlogs *t, const char *label, int file, const struct rec *line, struct err *e);
void trainlogs_release(struct trainlogs *t);

struct trainlog_loss {
    double first, last, best; /* NaN: there is none */
    int64_t best_step;
};
struct trainlog_summary {
    int64_t steps;
    double epochs, tokens, seconds, memory; /* NaN: not in the log; memory is the peak */
    struct trainlog_loss loss, eval;
};
void trainlog_summarize(const struct trainlog *t, struct trainlog_summary *out);

void trainlogs_table(const struct trainlogs *t, bool markdown, struct buf *out);
void trainlogs_jsonl(const struct trainlogs *t, struct buf *out);
int trainlogs_plot(const struct trainlogs *t, bool svg, struct buf *out, struct err *e);

#endif
