/* tokenizer.h - text to token ids and back, as the `tokenizers` package does it.
 *
 *     struct tokenizer *t;
 *     struct tokens ids = TOKENS_INIT;
 *     struct buf text = BUF_INIT;
 *     if (tokenizer_open(&t, "models/qwen", &e) < 0) ...
 *     if (tokenizer_encode(t, s, n, TOK_SPECIALS, &ids, &e) < 0) ...      // ids.id[0..ids.n)
 *     if (tokenizer_decode(t, ids.id, ids.n, true, &text, &e) < 0) ...
 *     tokens_release(&ids);
 *     tokenizer_close(t);
 *
 * Everything follows from tokenizer.json, component by component (normalizer, pre-tokenizer, model, post-processor,
 * decoder, added tokens); no model name is looked at. A component that is not known is refused by name at open.
 *
 * Threads: an open tokenizer is read-only and may be shared; what a call needs beside it lives in the caller's struct
 * tokens, so each thread has its own. tokenizer_add is the exception: nobody else may use the tokenizer meanwhile.
 *
 * Input that is not UTF-8: every bad byte sequence (the maximal subpart of an ill-formed sequence, as Python's
 * errors="replace" does) is replaced by U+FFFD before anything else; offsets count the replaced text.
 *
 * Sources: huggingface/tokenizers 0.22 (behaviour, not code), spec/formats.md 9 to 10. */
#ifndef LATENT_TEXT_TOKENIZER_H
#define LATENT_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;

struct tokenizer;

/* Result of an encoding and the scratch memory of its thread. Start with TOKENS_INIT, reuse between calls (also with
 * another tokenizer), free with tokens_release. */
struct tokens {
    int32_t *id;     /* [n] */
    uint32_t *begin; /* [n] with TOK_OFFSETS: first code point of the token in the text; 0 for added specials */
    uint32_t *end;   /* [n] with TOK_OFFSETS: one behind its last code point */
    uint8_t *type;   /* [n] segment (type) ids: 0, or what the post-processor's template says */
    size_t n, cap;
    struct tok_scratch *scratch; /* private */
};
#define TOKENS_INIT                                                                                                    \
    {                                                                                                                  \
        NULL, NULL, NULL, NULL, 0, 0, NULL                                                                             \
    }
void tokens_release(struct tokens *ts); /* usable again afterwards */

enum {
    TOK_SPECIALS = 1,       /* add the post-processor's tokens (BOS, [CLS] ...) */
    TOK_OFFSETS = 2,        /* fill begin and end */
    TOK_SPLIT_SPECIALS = 4, /* treat special added tokens in the text as plain text */
};

/* Opens a model folder (tokenizer.json; without it vocab.json + merges.txt or vocab.txt, whose normalizer and pattern
 * come from tokenizer_config.json's tokenizer_class or config.json's model_type; tokenizer_config.json is read beside
 * each) or a tokenizer.json by its own path. Only the tokenizer files of a folder are needed. The error names the file,
 * what was expected and what was found.
 *
 * A folder with dual_vocab_meta.json is a dual vocabulary: ids [V, V+L) are latent and are never read from
 * tokenizer.json: they map to the strings of latent_token_format arithmetically, both ways (so does finding them in
 * text). source_ids may be null (identity), an array of L ids, or the range {"first": F, "count": L}. A meta file
 * without latent_token_format (mode custom) names its latent tokens in tokenizer.json. */
int tokenizer_open(struct tokenizer **out, const char *path, struct err *e);

/* The same from the text of a tokenizer.json; name stands in errors. The text is copied. */
int tokenizer_open_json(struct tokenizer **out, const char *json, size_t n, const char *name, struct err *e);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

/* Encodes text[0..n) (NUL bytes are text). flags: TOK_*. At most 2 GiB of text. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct tokens *out,
                     struct err *e);

/* Encodes a pair as the post-processor's pair template says; offsets count each text from 0. */
int tokenizer_encode_pair(const struct tokenizer *t, const char *a, size_t na, const char *b, size_t nb, unsigned flags,
                          struct tokens *out, struct err *e);

/* Appends the text of ids to out. Ids without a token are left out, as the package does; skip_special leaves out the
 * added tokens marked special. If tokenizer_config.json asks for clean_up_tokenization_spaces, it is done, as
 * transformers does. Never fails on ids; fails when a Replace pattern of the decoder runs into its limits. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out,
                     struct err *e);

/* Overrides what tokenizer_config.json says of clean_up_tokenization_spaces; returns what held before. */
bool tokenizer_set_clean_up(struct tokenizer *t, bool on);

/* Decoding as ids arrive: each call appends the text that is certain by now, whole characters only. What was appended
 * in all, after tok_stream_end, is what tokenizer_decode gives for all ids (without clean-up of spaces). */
struct tok_stream;
int tok_stream_open(struct tok_stream **out, const struct tokenizer *t, bool skip_special, struct err *e);
int tok_stream_put(struct tok_stream *s, int32_t id, struct buf *out, struct err *e);
int tok_stream_end(struct tok_stream *s, struct buf *out, struct err *e); /* flushes; ready for another sequence */
void tok_stream_close(struct tok_stream *s);                              /* NULL is fine */

/* The vocabulary. Token text is the tokenizer's own spelling ("Ġthe", "▁the", "<|im_end|>"). */
int32_t tokenizer_id(const struct tokenizer *t, const char *token); /* -1: no such token */
int32_t tokenizer_id_n(const struct tokenizer *t, const char *token, size_t n);
bool tokenizer_token(const struct tokenizer *t, int32_t id, struct buf *out); /* appends; false: no such id */
int32_t tokenizer_size(const struct tokenizer *t);                            /* largest id + 1, latent ids included */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);             /* added with special: true */
bool tokenizer_is_added(const struct tokenizer *t, int32_t id);               /* in added_tokens, or latent */
bool tokenizer_latent_range(const struct tokenizer *t, int32_t *first, int32_t *count); /* false: not dual */

/* From tokenizer_config.json (special_tokens_map.json where it is silent): ids, or -1; texts, or NULL (borrowed). */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_pad(const struct tokenizer *t);
int32_t tokenizer_unk(const struct tokenizer *t);
const char *tokenizer_bos_token(const struct tokenizer *t);
const char *tokenizer_eos_token(const struct tokenizer *t);
const char *tokenizer_pad_token(const struct tokenizer *t);

/* Pieces of the pipeline, for tests and for those who count words as the compressor does. */
int tokenizer_normalize(const struct tokenizer *t, const char *text, size_t n, struct buf *out, struct err *e);
/* calls fn for each piece the pre-tokenizer makes of text, without normalizer and added tokens */
int tokenizer_pieces(const struct tokenizer *t, const char *text, size_t n,
                     void (*fn)(void *arg, const char *s, size_t n), void *arg, struct err *e);

/* An added token, with the names of tokenizer.json. */
struct tok_added {
    const char *content;
    bool single_word, lstrip, rstrip, normalized, special;
};

/* Adds tokens behind the vocabulary (an existing one keeps its id and takes the new flags), as the package's
 * add_tokens does; first_id (may be NULL) gets the id of the first. Used by tokenizer_encode from then on. */
int tokenizer_add(struct tokenizer *t, const struct tok_added *tokens, size_t n, int32_t *first_id, struct err *e);

/* Writes tokenizer.json back: added_tokens gets the tokens of tokenizer_add, sorted by id, everything else keeps its
 * bytes. A tokenizer opened from plain vocabulary files is written as a tokenizer.json. Atomic. */
int tokenizer_save(const struct tokenizer *t, const char *path, struct err *e);

/* The text of tokenizer_config.json with the tokens of tokenizer_add in added_tokens_decoder (and in
 * additional_special_tokens where special), everything else byte for byte; "{}" grows those keys. */
int tokenizer_config_add(const struct tokenizer *t, const char *config, size_t n, struct buf *out, struct err *e);

#endif
