/* folder.h - a model folder appears whole or not at all, and says how it was made.
 *
 *     folder_open(&f, "out/model", &e);            // out/model.part is there now, empty
 *     ... write files into folder_path(f) ...
 *     folder_commit(f, &manifest, &e);             // run.json with a hash per file; then it is out/model
 *     folder_close(f);                             // without commit: nothing stays
 *
 * run.json is a manifest (manifest.h) whose counts begin with "files": {NAME: HASH, ...} (raw bytes, sorted by name;
 * files of folders in it as "adapter/NAME"), and whose output is the hash of the lines "NAME HASH\n". Files called
 * run.json and metrics.jsonl are not among them: they hold clocks. A folder that is in the way is replaced if it has a
 * run.json itself (it is an artefact); anything else is refused. Folders inside that run.json does not list (results
 * kept beside a model) belong to others: they are neither checked nor lost.
 *
 * With $LATENT_STORE the folder is kept there too, as KEY/ (hard links, files read-only): folder_take links it back. */
#ifndef LATENT_FOLDER_H
#define LATENT_FOLDER_H

#include <stdbool.h>

#include "io/manifest.h"

struct buf;
struct err;
struct folder;

int folder_open(struct folder **out, const char *dir, struct err *e);
const char *folder_path(const struct folder *f); /* "out/model.part" */

/* Takes m with program, options, models, inputs and counts (members of a JSON object without braces, or NULL) set; key,
 * output, counts, records and bytes are filled in. */
int folder_commit(struct folder *f, struct manifest *m, struct err *e);
void folder_close(struct folder *f); /* NULL is fine */

/* The same run.json for a folder in the folder that is a model of its own; before the commit. */
int folder_describe(const char *dir, struct manifest *m, struct err *e);

/* Is dir there, made under this key, every file as it was written? Hashes that are remembered (hash.h) are believed, so
 * that asking costs no reading of weights. */
bool folder_is_current(const char *dir, const char *key);

/* Is there work? 1: no, dir is current or was linked from the store just now, and a line of the log said so; 0: yes.
 * -1: an error, one of them that dir is there and no result is put in its place, which is said before the work. */
int folder_take(const char *dir, const char *key, struct err *e);
const char *folder_state(const char *dir, const char *key); /* "up-to-date", "store" or "run"; changes nothing */

/* Every file against run.json, hashes computed afresh: files changed, missing, or unknown to it; its own seal and key.
 * One line per problem; returns how many. memo (hash.h): what was read before, under any name, is not read again; NULL:
 * everything is. */
int folder_check(const char *dir, struct hash_memo *memo, struct buf *problems);

#endif
