/* pages.h - which page of the key-value cache belongs to whom.
 *
 * A page holds KV_PAGE positions of all layers. Several sequences may hold the same page (references are counted): a
 * full page of a prompt is named by a hash over all tokens up to its end, and whoever needs the same tokens finds it.
 * A named page that nobody holds any more stays findable until its memory is needed, least recently used first. Page 0
 * belongs to nobody and is never handed out.
 *
 * Only the host's bookkeeping lives here. The device runs operations in the order they were enqueued, so a page may be
 * given to somebody else while steps that still write to it for its last owner are under way. */
#ifndef LATENT_INFER_PAGES_H
#define LATENT_INFER_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "io/hash.h"

struct err;

struct pages {
    int32_t count;            /* pages in all, page 0 included */
    int32_t used;             /* held by somebody */
    int32_t nfree;            /* in free[] */
    int32_t *free;            /* [count] unnamed pages that nobody holds */
    int32_t *refs;            /* [count] */
    struct hash128 *name;     /* [count] {0, 0}: none */
    int32_t *chain;           /* [count] next page in the same bucket, 0: end */
    int32_t *bucket;          /* [mask + 1] first page, 0: none */
    uint32_t mask;            /* buckets - 1 */
    int32_t *older, *newer;   /* [count] list of named pages that nobody holds; 0: end */
    int32_t oldest, youngest; /* its ends */
    int32_t idle;             /* its length */
};

int pages_init(struct pages *p, int32_t count, struct err *e);
void pages_release(struct pages *p);

/* The name of a page is a hash over the name of the page before it and its own tokens.
 * This one has these KV_PAGE tokens and follows the page `before` (the first: {0, 0}); kind tells apart what the tokens
 * alone do not (the rotation list). */
struct hash128 page_name_next(struct hash128 before, const int32_t *tokens, uint32_t kind);

int32_t pages_available(const struct pages *p);                    /* how many page_take would succeed */
int32_t page_take(struct pages *p);                                /* a page with one holder, or 0: none left */
int32_t page_find(const struct pages *p, struct hash128 name);     /* not held by that; 0: none */
void page_hold(struct pages *p, int32_t page);                     /* one more holder */
void page_drop(struct pages *p, int32_t page);                     /* one holder less */
void page_set_name(struct pages *p, int32_t page, struct hash128); /* no effect if that name is taken */

#endif
