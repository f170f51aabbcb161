/* garbage.h - what lies below a folder of results and no result needs any more.
 *
 * Results are files and model folders under their own names, with a manifest. They need what they were made from, and
 * that in turn, through the hashes of inputs and the fingerprints of models. What only older settings made stays in the
 * store (a folder "store", or $LATENT_STORE) and in the run log ("runs", $LATENT_RUNS): that is garbage, and so is what
 * killed runs left behind. Unfinished work that the same command would take up again is not. Nothing is deleted here.
 */
#ifndef LATENT_GARBAGE_H
#define LATENT_GARBAGE_H

#include <stddef.h>
#include <stdint.h>

struct err;

struct garbage_item {
    char *path;       /* a file; of a folder each one */
    const char *what; /* "store entry", "run", "journal", "checkpoint", "part" */
    int64_t bytes;    /* that would come free: 0 when the file has another name */
};

struct garbage {
    struct garbage_item *item; /* in the order of the walk */
    size_t n;
    int64_t bytes;
};

/* A result whose manifest cannot be read is an error: nobody knows what it needs. */
int garbage_find(struct garbage *g, const char *const *dirs, size_t n, struct err *e);
void garbage_release(struct garbage *g);

#endif
