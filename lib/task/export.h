/* export.h - results and training logs as offline runs of Weights & Biases (io/wandb.h): a run for each set of results,
 * with the scalars, the histogram and the table of samples that people know from there, and one for each log.
 *
 * Ids come from what is exported (input hashes, project, name), times from the manifests beside the inputs, never from
 * a clock: exporting twice gives the same bytes. */
#ifndef LATENT_EXPORT_H
#define LATENT_EXPORT_H

#include "task/report.h"
#include "task/trainlog.h"

enum { EXPORT_SAMPLES = 20 }; /* lines of a set that its table shows: results.keep */

struct export
{
    const char *dir, *project;
    const char *name;        /* NULL: LABEL_BENCHMARK_ratioR, or the log's label. With several runs in front of that. */
    const char *const *file; /* the inputs, by their numbers */
    int result;              /* result number of the program, for the manifests */
};

/* A project or name that W&B would refuse is an error. */
int export_check(const struct export *x, struct err *e);
int export_runs(const struct export *x, const struct report *rep, const struct trainlogs *logs, struct err *e);

#endif
