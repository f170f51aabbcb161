/* dataset.h - question sets by name: the recipe says where the rows are and what they must be.
 *
 * data/datasets/NAME.json: {"dataset": hub id, "config", "benchmark", "about", "splits": {SPLIT: {"rows": N, "hash": H
 * or null}}}. The hash is xxh3-128 over question and gold answer of every row, in order (dataset_hasher); null where
 * nobody has been able to compute it from a published copy: then only the number of rows is checked. Rows are fetched
 * once from the rows API and kept as JSONL in $HF_HOME/latent/NAME-CONFIG-SPLIT.jsonl. */
#ifndef LATENT_TASK_DATASET_H
#define LATENT_TASK_DATASET_H

#include <stdint.h>

struct buf;
struct err;

struct dataset {
    char *name, *id, *config, *benchmark, *about;
    char *split;
    int64_t rows;  /* of the split, -1: not known (a subset) */
    char hash[33]; /* "" : not known */
};

/* Reads the recipe. split NULL: train, or the first there is; config NULL: the recipe's own; a split that is not there
 * is an error that lists those that are. */
int dataset_open(struct dataset *d, const char *name, const char *split, const char *config, struct err *e);
void dataset_close(struct dataset *d);

/* One line a recipe: name, splits, about. */
int dataset_list(struct buf *out, struct err *e);

/* Path of the rows, fetched if they are not here yet, checked against the recipe. Caller frees. */
int dataset_rows(const struct dataset *d, char **path, struct err *e);

#endif
