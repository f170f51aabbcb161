/* hub_cache.h - between hub_cache.c (what lies here) and hub.c (what is fetched). */
#ifndef LATENT_HUB_CACHE_H
#define LATENT_HUB_CACHE_H

#include <stdbool.h>

struct err;

enum { HUB_LISTING_LIMIT = 64 << 20, HUB_COMMIT_HEX = 40 };

struct hub_repo {
    char *id, *revision;
    char *dir; /* .../models--org--name */
    char *locks;
    char *endpoint, *token;
    const char *kind; /* "models" or "datasets" */
};

void hub_repo_open(struct hub_repo *r, const char *kind, const char *name);
void hub_repo_close(struct hub_repo *r);

/* What a model's name means: 0 with *dir: a folder here; 1 with *r opened: a repository of the hub; -1: neither. */
int hub_model_named(struct hub_repo *r, const char *name, char **dir, struct err *e);

const char *hub_env(const char *name); /* NULL: unset or empty */
bool hub_env_true(const char *name);   /* 1, on, yes, true */
char *hub_token(void);                 /* NULL: none. Caller frees */

bool hub_is_commit(const char *s);
char *hub_snapshot_dir(const struct hub_repo *r, const char *commit); /* caller frees */
bool hub_snapshot_has(const char *snapshot, const char *file);

/* The snapshot of the commit that the cache has for the revision, if it is whole; why: the hub is not asked. */
int hub_from_cache(const struct hub_repo *r, const char *why, char **dir, struct err *e);

#endif
