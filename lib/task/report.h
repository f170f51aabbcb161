/* report.h - sets of results as a table for people (text, Markdown), as lines for programs, and as a picture.
 *
 *     struct report rep;
 *     report_make(&rep, &results, false);      // summaries, and each set's comparison with its baseline
 *     report_table(&rep, false, &out);         // or report_jsonl
 *     report_plot(&rep, true, &svg, &e);
 *     report_release(&rep);
 *
 * The baseline of a set is the ratio 1 of the same run and benchmark, else the first ratio 1 of that benchmark. With
 * pair it is the first run's set of the same ratio, else the first run's first set of that benchmark. */
#ifndef LATENT_REPORT_H
#define LATENT_REPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "task/result.h"

struct buf;
struct err;

struct report_line {
    const struct result_set *set, *base; /* borrowed; base is NULL when there is none, and the set itself is its own */
    struct result_summary sum;
    struct result_pair pair; /* against base; meaningless without one */
};
struct report {
    struct report_line *v;
    size_t n;
};

/* The results must be finished (results_finish) and outlive the report. Runs keep the order of their first rows; within
 * one, ratios fall. */
void report_make(struct report *rep, const struct results *r, bool pair);
void report_release(struct report *rep);

void report_table(const struct report *rep, bool markdown, struct buf *out);
void report_jsonl(const struct report *rep, struct buf *out);

/* Accuracy (with its interval) against the mean length of the thinking, a line for each run, drawn by the gnuplot
 * program as SVG or PNG: the picture's bytes are appended to out. */
int report_plot(const struct report *rep, bool svg, struct buf *out, struct err *e);

#endif
