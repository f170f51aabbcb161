/* added.h - added tokens and latent ids. Private to lib/text. */
#ifndef LATENT_TEXT_ADDED_H
#define LATENT_TEXT_ADDED_H

#include "text/parts.h"

struct found {
    size_t b, e; /* what it swallows, blanks included */
    int32_t id;
    size_t floor; /* in: where lstrip must stop */
};
/* Next added token at or after from: leftmost, longest there. */
bool added_next(const struct tokenizer *t, bool normalized, bool split_specials, const char *s, size_t n, size_t from,
                struct found *out);

const char *latent_skip(const struct tokenizer *t, struct json x, const char *next, const char *end);
void latent_sort(struct tokenizer *t);
bool latent_text(const struct tokenizer *t, int32_t id, struct buf *out);
int32_t latent_id(const struct tokenizer *t, const char *s, size_t n);
int latent_open(struct tokenizer *t, const char *dir, struct err *e); /* dual_vocab_meta.json, if it is there */

#endif
