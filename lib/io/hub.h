/* hub.h - models and data sets by name, through the cache that huggingface_hub uses.
 *
 * A name is a folder, or "org/name" (with "@revision" behind it for another than main). What transformers downloaded is
 * used, and what is downloaded here transformers can use: models--ORG--NAME/{refs,blobs,snapshots} under $HF_HUB_CACHE,
 * else $HF_HOME/hub, else ~/.cache/huggingface/hub. Only the files that a checkpoint needs are fetched; every file is
 * checked against the sha256 or git hash that the hub names it by. Processes that want the same file wait for each
 * other.
 *
 * Environment: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN (else $HF_TOKEN_PATH or $HF_HOME/token), HF_HUB_OFFLINE or
 * TRANSFORMERS_OFFLINE (1, ON, YES, TRUE: the cache only), HF_DATASETS_SERVER. Facts: formats specification,
 * section 13. */
#ifndef LATENT_HUB_H
#define LATENT_HUB_H

#include <stdbool.h>
#include <stdint.h>

struct buf;
struct err;

/* The folder of a model: name itself if it is a folder, else a snapshot in the cache, downloaded if need be. With a
 * network the hub is asked which commit the revision is; without one the cached commit is used, which is said. Caller
 * frees *dir. */
int hub_model(const char *name, char **dir, struct err *e);

/* The same, where it is here already: nothing is asked or downloaded. */
int hub_cached(const char *name, char **dir, struct err *e);

bool hub_is_id(const char *name); /* org/name[@revision], and no such folder */
bool hub_offline(void);

/* Rows of a data set from the rows API, as JSONL in the order of the set, appended to the file `path`; stops after
 * `limit` rows
 * (-1: all). Rows that are there already (from an earlier, cut-off call) are kept. *total: rows of the whole split. */
int hub_rows(const char *dataset, const char *config, const char *split, int64_t limit, const char *path,
             int64_t *total, struct err *e);

/* $HF_HOME/latent: where our own downloads lie. Caller frees. */
char *hub_own_dir(void);

#endif
