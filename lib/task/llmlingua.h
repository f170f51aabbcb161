/* llmlingua.h - LLMLingua-2 without the model: text into chunks the encoder sees, its scores into words, words into
 * text that is shorter. (Pan et al., "LLMLingua-2: data distillation for efficient and faithful task-agnostic prompt
 * compression", ACL 2024; Selective Context's surprisal in its place: Li et al., EMNLP 2023.)
 *
 *     struct lingua *l;  lingua_open(&l, &spec, &e);
 *     lingua_split(l, sc, text, n, &t, &e);                        // t.piece, t.chunk
 *     for each chunk: lingua_rows -> model -> lingua_store         // the caller's: any order, any batch
 *     lingua_merge(l, sc, &t, &w, &e);                             // w.word: once, whatever the number of ratios
 *     for each ratio: lingua_cut(l, sc, &w, ratio, keep, out, &e);
 *
 * Two behaviours. By default words are spans of the original text, so line ends and every character survive as they
 * were; numbers, mathematics and \boxed{} are never cut (math_safe); the encoder gets its own special tokens; the rate
 * is met by rank over the whole text. With `compat` everything is as in the llmlingua package 0.2.2 under numpy 2,
 * faults included: [CLS] and [SEP] whatever the encoder, chunks decoded and tokenized again, percentiles per chunk
 * over cl100k weights, output decoded from pieces (pipelines specification, section 2).
 *
 * A struct lingua is read-only after open and shared by threads; each thread has its own scratch. */
#ifndef LATENT_TASK_LLMLINGUA_H
#define LATENT_TASK_LLMLINGUA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

struct err;
struct tiktoken;
struct tokenizer;

enum lingua_family { LINGUA_XLMR, LINGUA_BERT, LINGUA_CAUSAL };

enum { LINGUA_MAX_FORCE = 100 };

struct lingua_spec {
    enum lingua_family family;
    struct tokenizer *tokenizer; /* of the model that scores; borrowed. compat adds its [NEWi] tokens. NULL: only
                                    lingua_merge and lingua_cut are called, on pieces that were scored before */
    int window;                  /* the most positions a chunk may take, specials included */
    bool compat;
    bool fixed_specials;           /* compat, but with the encoder's own special tokens (LLMLingua #181) */
    const struct tiktoken *cl100k; /* compat: weights and counts; borrowed */
    const char *const *force;      /* words that are never dropped; borrowed */
    size_t nforce;
    bool force_digits;     /* whatever has a digit is kept */
    bool drop_consecutive; /* a force word behind itself, with nothing important between, is dropped (compat) */
    bool first;            /* a word scores like its first piece, not like the mean of all */
    bool math_safe;        /* numbers and mathematics are units */
    bool exact;            /* fill up to the target instead of stopping at the nearest word */
    const struct tokenizer *target; /* exact: the target is counted in these tokens; NULL: the compressor's pieces */
};

struct lingua;
int lingua_open(struct lingua **out, const struct lingua_spec *spec, struct err *e);
void lingua_close(struct lingua *l); /* NULL is fine */

struct lingua_scratch;
struct lingua_scratch *lingua_scratch_new(void);
void lingua_scratch_free(struct lingua_scratch *s);

/* ---- text to chunks ---- */

enum {
    PIECE_START = 1,   /* begins a word */
    PIECE_SPECIAL = 2, /* compat: not part of any word */
    PIECE_MASKED = 4,  /* compat: takes a position, but is not seen by the others */
    PIECE_FORCE = 8,   /* compat: stands for a force word that is no single piece */
};

struct lingua_piece {
    uint32_t b, e; /* bytes of lingua_text.s */
    int32_t id;
    float p; /* importance: probability to be kept, or surprisal in nats */
    uint8_t flags;
};

struct lingua_chunk {
    uint32_t first, n; /* pieces */
    uint32_t b, e;     /* bytes of lingua_text.s: what was tokenized again (compat) */
    bool open;         /* its closing special token fell off the window (compat) */
};

/* Reused from text to text. s is the text itself; in compat it holds the texts of the chunks and pieces. */
struct lingua_text {
    struct buf s;
    struct lingua_piece *piece;
    size_t n, cap;
    struct lingua_chunk *chunk;
    size_t nchunk, chunk_cap;
};
void lingua_text_release(struct lingua_text *t);

int lingua_split(const struct lingua *l, struct lingua_scratch *sc, const char *text, size_t n, struct lingua_text *out,
                 struct err *e);

/* Rows the model sees for a chunk: ids and positions counted from 0 (masked pieces have no row). Returns their number,
 * at most window. ids or position may be NULL. */
int lingua_rows(const struct lingua *l, const struct lingua_text *t, size_t chunk, int32_t *id, int32_t *position);

/* What came out, one number a row. Encoders: probability of label 1. Causal models: log-probability of the row's next
 * token (NaN at the last). */
void lingua_store(const struct lingua *l, struct lingua_text *t, size_t chunk, const float *row);

/* ---- pieces to words ---- */

struct lingua_word {
    uint32_t b, e; /* bytes of lingua_words.s */
    uint32_t pieces;
    uint32_t weight; /* compat: cl100k tokens; else pieces, or target tokens with exact and target */
    uint32_t chunk;
    double p;
    bool wide;  /* compat: the package holds p as a Python float, which makes its chunk's arithmetic double */
    bool force; /* kept at every ratio (compat: one of the force words, see drop_consecutive) */
};

struct lingua_words {
    const char *s; /* the text, borrowed from the lingua_text; compat: own.s */
    size_t n_s;
    const struct lingua_text *text;
    struct buf own;
    struct lingua_word *word;
    size_t n, cap;
    uint32_t *order; /* [n] compat: by p rising, chunk by chunk; else by rank */
    uint64_t *cum;   /* [n] weights summed along order (from each chunk's start) */
    size_t order_cap;
    uint64_t weight, pieces; /* of all words */
};
void lingua_words_release(struct lingua_words *w);

/* t must outlive w. */
int lingua_merge(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t, struct lingua_words *w,
                 struct err *e);

/* Appends what is left at this ratio (0 < ratio <= 1), and fills keep[w->n] (may be NULL when nobody asks). Returns
 * the kept pieces through *pieces. */
int lingua_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
               uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e);

/* Appends the words that keep[w->n] marks, joined as lingua_cut joins them (default behaviour). */
void lingua_assemble(const struct lingua_words *w, const uint8_t *keep, uint64_t *pieces, struct buf *out);

/* Ratio 1 in compat, where the model is not run: the chunks, normalized, one behind the other. */
void lingua_whole(const struct lingua_text *t, struct buf *out);

/* Tokens of a text, without special ones; -1 on error. */
int64_t lingua_count(struct lingua_scratch *sc, const struct tokenizer *t, const char *s, size_t n, struct err *e);
int64_t lingua_count_cl100k(const struct lingua *l, struct lingua_scratch *sc, const char *s, size_t n);

/* The package's q of np.percentile for a rate: int(100 * reduce + 1), as a double truncates. */
int lingua_percent(double ratio);

/* ---- what is never cut (default behaviour) ---- */

enum { SPAN_NUMBER = 1, SPAN_MATH = 2, SPAN_BOXED = 4 };
struct lingua_span {
    uint32_t b, e;
    int kind;
};
struct lingua_spans {
    struct lingua_span *v;
    size_t n, cap;
};
/* Numbers, $..$, $$..$$, \(..\), \[..\] and \boxed{..} of a text, in order, none inside another; mathematics that
 * holds a \boxed{} is SPAN_MATH | SPAN_BOXED. A dollar that is money opens nothing: mathematics begins and ends with
 * something else than a blank, does not cross an empty line, and no digit follows. */
void lingua_spans(const char *s, size_t n, struct lingua_spans *out);

#endif
