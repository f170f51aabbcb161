/* hash.h - xxh3-128 over bytes: how everything is named and checked.
 *
 * Data files are hashed over their uncompressed bytes, so a file and its .zst have one name. */
#ifndef LATENT_HASH_H
#define LATENT_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum { HASH_HEX = 33 }; /* 32 digits and NUL */

struct hash128 {
    uint64_t hi, lo;
};

struct hash128 hash_bytes(const void *p, size_t n);
bool hash_equal(struct hash128 a, struct hash128 b);
void hash_hex(struct hash128 h, char out[HASH_HEX]);
bool hash_parse(const char *hex, struct hash128 *out); /* 32 digits, then NUL */

/* Piecewise. */
struct hasher;
struct hasher *hasher_new(void);
void hasher_reset(struct hasher *h);
void hasher_add(struct hasher *h, const void *p, size_t n);
struct hash128 hasher_get(const struct hasher *h); /* of what was added so far; adding may go on */
void hasher_free(struct hasher *h);                /* NULL is fine */

/* Hash of a file: of its content (uncompressed if it is zstd) when `content` is set, of its raw bytes otherwise.
 * Remembered in $XDG_CACHE_HOME/latent/hashes (else ~/.cache/latent/hashes) by device, inode, size and mtime, so that
 * an unchanged file is read once. LATENT_HASH_CACHE=off reads always. A cache that cannot be written is no error. */
int hash_file(const char *path, bool content, struct hash128 *out, struct err *e);
int hash_file_fresh(const char *path, bool content, struct hash128 *out, struct err *e); /* reads always: for verify */

/* Files that were read in this process, whatever their names: zeroed at first. */
struct hash_memo {
    struct hash_known *v;
    size_t n;
};
int hash_file_once(struct hash_memo *m, const char *path, struct hash128 *out,
                   struct err *e); /* raw bytes; m may be NULL */
void hash_memo_release(struct hash_memo *m);

/* Records a hash that is known because the file was just written. */
void hash_remember(const char *path, bool content, struct hash128 h);

#endif
