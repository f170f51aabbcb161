/* llmlingua_private.h - shared by the files of llmlingua.h. */
#ifndef LATENT_TASK_LLMLINGUA_PRIVATE_H
#define LATENT_TASK_LLMLINGUA_PRIVATE_H

#include "task/llmlingua.h"
#include "text/tiktoken.h"
#include "text/tokenizer.h"

struct lingua_map { /* compat: a force word that is not a single piece, and the token that stands for it */
    const char *word;
    size_t n;
    char token[12]; /* "[NEW7]" */
    size_t token_n;
    int32_t id;
};

struct lingua {
    struct lingua_spec spec;
    int32_t open, close; /* special tokens around a chunk; -1: none */
    int32_t unk, pad;    /* pad: the id that "[PAD]" stands for, or -1 */
    int32_t special[8];  /* the package's special-token set */
    int nspecial;
    int32_t ends[8]; /* pieces a chunk may end with */
    int nends;
    struct lingua_map map[LINGUA_MAX_FORCE];
    int nmap;
    size_t *force_n;     /* lengths of spec.force */
    uint8_t *start_flag; /* [size] PIECE_START by id: does the token's own text begin a word? */
    int32_t size;
};

struct weight_slot;
struct lingua_scratch {
    struct tokens tokens, again;
    struct tiktoken_scratch tik;
    struct buf a, b;
    uint32_t *byte_of; /* byte of each code point */
    size_t byte_of_cap;
    struct lingua_spans spans;
    uint32_t *idx;
    double *dbl;
    uint8_t *keep;
    size_t idx_cap, dbl_cap, keep_cap;
    /* cl100k weights of words seen so far */
    struct weight_slot {
        uint64_t hash;
        uint32_t at, n, weight;
    } * slot;
    size_t slots, used;
    struct buf words;
};

void lingua_push_piece(struct lingua_text *t, struct lingua_piece p);
void lingua_push_chunk(struct lingua_text *t, struct lingua_chunk c);
struct lingua_word *lingua_push_word(struct lingua_words *w);
void lingua_order_room(struct lingua_words *w);
bool lingua_is_punctuation(const char *s, size_t n); /* a substring of Python's string.punctuation */
bool lingua_is_force(const struct lingua *l, const char *s, size_t n);

int lingua_compat_open(struct lingua *l, struct err *e);
int lingua_compat_split(const struct lingua *l, struct lingua_scratch *sc, const char *text, size_t n,
                        struct lingua_text *out, struct err *e);
int lingua_compat_merge(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t,
                        struct lingua_words *w, struct err *e);
int lingua_compat_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
                      uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e);

int lingua_units(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t, struct lingua_words *w,
                 struct err *e);
int lingua_unit_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
                    uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e);

/* The byte where each code point of s begins, and one behind the last. */
void lingua_byte_table(struct lingua_scratch *sc, const char *s, size_t n);

#define ROOM(p, cap, need)                                                                                             \
    do {                                                                                                               \
        if ((cap) < (need)) {                                                                                          \
            (cap) = (need) + (need) / 2 + 64;                                                                          \
            (p) = xreallocarray((p), (cap), sizeof *(p));                                                              \
        }                                                                                                              \
    } while (0)

#endif
