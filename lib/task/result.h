/* result.h - rows of results gathered into sets, and the numbers of a table.
 *
 * A set is what one line of the table is about: one run (label), one benchmark, one ratio. Rows are eval's, ours or the
 * reference's (a summary line first, then rows without question and finish reason); the two are told apart by their
 * keys. Means over samples are taken within a question first, so that every question weighs the same. */
#ifndef LATENT_RESULT_H
#define LATENT_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "task/stat.h"

struct err;
struct rec;

struct result_row {
    char *id; /* source_id */
    int64_t sample;
    double tokens, think; /* generated tokens, and those of the thinking */
    bool correct, answered;
    int8_t compat, truncated; /* 1, 0, or -1: the file does not say */
};

struct result_set {
    char *label, *benchmark;
    double ratio;
    struct result_row *v; /* sorted by (id, sample) once results_finish was called */
    size_t n, cap;
    char **head; /* the first lines, as results.keep asks for */
    size_t nhead;
    int *file; /* the inputs that its rows came from: numbers of the calls of results_file, from 0 */
    size_t nfile;
};

struct results {
    struct result_set *v; /* in the order of their first rows */
    size_t n, cap;
    size_t keep;          /* how many lines of a set are kept as they stand */
    int file;             /* the one being read */
    double summary_ratio; /* of that file; from a summary line */
};

/* Adds one line of a result file. A summary line is taken in and adds no row. */
int results_add(struct results *r, const char *label, const struct rec *line, struct err *e);
void results_file(struct results *r, int file); /* the next lines come from this one */
/* After the last row: sorts; a sample that stands twice in a set (a stale shard, a file given twice) is an error. */
int results_finish(struct results *r, struct err *e);
void results_release(struct results *r);

/* A measure as the table shows it. */
struct spread {
    double mean, p50, p90;
};

struct result_summary {
    int64_t questions, samples;
    int64_t per_question; /* least samples of a question */
    double accuracy;
    struct interval accuracy_95; /* Wilson with one sample a question, else Student over questions */
    double accuracy_compat;      /* NaN when the rows have no such verdict */
    double pass_at_k;            /* k = per_question; NaN when that is 1 */
    struct spread think, tokens;
    double tokens_correct;        /* mean over correct samples; NaN without any */
    double tokens_per_correct;    /* all tokens spent, divided by correct samples */
    double truncated, unanswered; /* shares; truncated is NaN when the rows do not say */
};
void result_summarize(const struct result_set *s, struct result_summary *out);

/* Two sets over the questions that both have. */
struct result_pair {
    int64_t questions;
    int64_t first_only, second_only; /* right in one only; with one sample a question on both sides, else 0 */
    double difference;               /* accuracy of second minus first; NaN without common questions */
    struct interval difference_95;   /* Newcombe with one sample a question, else Student over differences */
    double length_ratio;             /* mean thinking of second over first; NaN when the first has none */
};
void result_compare(const struct result_set *first, const struct result_set *second, struct result_pair *out);

#endif
