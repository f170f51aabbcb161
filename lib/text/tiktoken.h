/* tiktoken.h - counts of OpenAI's cl100k_base, from its published rank table (lines of base64 and rank).
 *
 *     struct tiktoken *t;
 *     tiktoken_open(&t, "cl100k_base.tiktoken", &e);
 *     n = tiktoken_count(t, &scratch, text, len);
 *
 * The reference measures and weighs compressed text in these tokens whatever the models are; here they serve --compat
 * only, so there are counts and ids but no decoding. Special tokens such as <|endoftext|> are ordinary text (the
 * package refuses them). The table is read-only after open and may be shared; each thread has its own scratch. */
#ifndef LATENT_TEXT_TIKTOKEN_H
#define LATENT_TEXT_TIKTOKEN_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct tiktoken;

/* Memory of one thread. Zeroed at first, freed with tiktoken_scratch_free. */
struct tiktoken_scratch {
    void *match; /* PCRE2's */
    struct tiktoken_part *part;
    size_t part_cap;
    uint64_t *heap;
    size_t heap_n, heap_cap;
};
void tiktoken_scratch_free(struct tiktoken_scratch *s);

int tiktoken_open(struct tiktoken **out, const char *path, struct err *e);
void tiktoken_close(struct tiktoken *t); /* NULL is fine */

/* Tokens of text[0..n); bytes that are not UTF-8 count as one token each at most. */
size_t tiktoken_count(const struct tiktoken *t, struct tiktoken_scratch *s, const char *text, size_t n);

/* The same with the ids, appended to ids[0..cap) as far as they fit; returns how many there are. */
size_t tiktoken_encode(const struct tiktoken *t, struct tiktoken_scratch *s, const char *text, size_t n, int32_t *ids,
                       size_t cap);

#endif
