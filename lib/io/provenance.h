/* provenance.h - from an artefact back to where it came from.
 *
 * Every manifest that can be found (beside files under the given roots, in the run log, in the store) is indexed by the
 * hash of its output; a walk goes from a file through the hashes of its inputs. Since pipes have entries in the run log
 * and names are not part of hashes, the walk crosses pipes, shards, merges and the store. */
#ifndef LATENT_PROVENANCE_H
#define LATENT_PROVENANCE_H

#include <stdbool.h>
#include <stddef.h>

#include "io/manifest.h"

struct buf;
struct err;

struct provenance_entry {
    char *path;           /* of the manifest */
    char *folder;         /* of a model folder's: the folder */
    char model[HASH_HEX]; /* its fingerprint, if the manifest has it */
    char *file;           /* of its output, or NULL when the output went through a pipe */
    struct manifest m;
};

struct provenance;
struct provenance *provenance_new(void);
void provenance_free(struct provenance *p); /* NULL is fine */

/* Indexes F.run.json beside a file, all below a folder (model folders' run.json too), or run log and store
 * ($LATENT_RUNS, $LATENT_STORE); around a file: its folder, and a run log "runs" and a store "store" in the folders
 * above, as pipelines have them. A manifest that cannot be read or whose seal is broken is a problem, told by
 * provenance_problems. */
void provenance_add_file(struct provenance *p, const char *file);
void provenance_add_tree(struct provenance *p, const char *dir);
void provenance_add_log(struct provenance *p);
void provenance_add_around(struct provenance *p, const char *file);

/* The run that made these bytes; runs that passed them on unchanged are not it. piped: of several, one that wrote to a
 * pipe. NULL: none known. */
const struct provenance_entry *provenance_find(const struct provenance *p, const char *output_hash, bool piped);
size_t provenance_count(const struct provenance *p);
const struct provenance_entry *provenance_at(const struct provenance *p, size_t i);

/* From lib/model, which lies above this file. */
struct provenance_models {
    int (*find)(const char *name, char **dir, struct err *e);         /* the folder of a name; the caller frees it */
    int (*fingerprint)(const char *dir, char out[33], struct err *e); /* as the folder is now */
};

/* What the walk found, one line each, indented by depth; problems in the same order, one sentence each. */
struct provenance_report {
    struct buf *tree;     /* text lines; may be NULL */
    struct buf *json;     /* a JSON object; may be NULL */
    struct buf *problems; /* lines */
    int nproblems;
};
/* file: an artefact with its manifest beside it, or a model folder with its run.json (folder.h). models NULL: theirs is
 * left alone. */
void provenance_trace(struct provenance *p, const char *file, const struct provenance_models *models,
                      struct provenance_report *out);

/* Checks one file against its manifest: hash, records, bytes, key against its own members, and its lines against the
 * kind of its records (schema.h). Returns the number of problems. */
int provenance_check(const char *file, struct buf *problems);

/* Files STEM_shardKKofNN.EXT that lie together, of two runs: those of the older one, by the files that read them, else
 * by date. Returns the number of problems. */
int provenance_check_shards(const struct provenance *p, struct buf *problems);

/* Sentences about manifests that could not be indexed. */
int provenance_problems(const struct provenance *p, struct buf *problems);

#endif
