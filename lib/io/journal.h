/* journal.h - finished units of a run, on disk the moment they are finished.
 *
 * F.KEY.journal: a header with the options key, then one entry per unit: number, hash of its input, its output bytes,
 * and a checksum over the entry. A kill can only leave a broken last entry, which is cut off at the next open. The file
 * is locked while it is open: a second process on the same output is told who holds it. */
#ifndef LATENT_JOURNAL_H
#define LATENT_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "io/hash.h"

struct err;
struct journal;

int journal_open(struct journal **out, const char *path, struct hash128 key, struct err *e);
/* Without `remove` the file stays if there is anything in it. NULL is fine. */
void journal_close(struct journal *j, bool remove);

bool journal_has(const struct journal *j, uint64_t unit, struct hash128 input);
int journal_add(struct journal *j, uint64_t unit, struct hash128 input, const void *bytes, size_t n, struct err *e);

/* Bytes of a unit that is there (appended to out). */
struct buf;
int journal_get(const struct journal *j, uint64_t unit, struct buf *out, struct err *e);

/* Every entry against its checksum; a sentence a problem, whose number is returned. Changes nothing; a journal in use
 * is not looked at. */
int journal_check(const char *path, struct buf *problems);

#endif
