/* model.h - the four models behind model.c. Private to lib/text. */
#ifndef LATENT_TEXT_MODEL_H
#define LATENT_TEXT_MODEL_H

#include "text/parts.h"

int vocab_parse(struct tokenizer *t, struct json vocab, struct err *e); /* {text: id} into t->model.v */
/* v: the section without its long members */
int bpe_parse(struct tokenizer *t, struct json v, struct json vocab, struct json merges, struct err *e);
void bpe_merges_room(struct model *m, size_t n);
int bpe_add_merge(struct model *m, uint32_t rank, const char *l, size_t nl, const char *r, size_t nr, struct buf *tmp,
                  struct err *e);
void bpe_tables(struct model *m);
int unigram_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e);
int wordpiece_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e);
int wordlevel_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e);

struct cached;
bool cache_get(const struct tokenizer *t, struct tok_scratch *sc, const char *s, size_t n, struct tokens *out,
               struct cached **slot);
void cache_put(struct cached *c, const char *s, size_t n, const struct tokens *out, size_t first);

int bpe_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
            struct tokens *out, struct err *err);
int unigram_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
                struct tokens *out, struct err *err);
int wordpiece_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift,
                  bool offsets, struct tokens *out, struct err *err);

/* One token over [b, e) of sc->ns inside the piece [pb, pe): with offsets, where that came from. */
void token_at(struct tok_scratch *sc, struct tokens *out, int32_t id, uint32_t b, uint32_t e, uint32_t pb, uint32_t pe,
              uint32_t shift);

#endif
