/* parts.h - what the files of lib/text share. Private: nobody outside lib/text includes it.
 *
 * The pipeline of one encoding, per segment between added tokens:
 *     nstr (text + where each byte came from)  -> normalizers -> pre-tokenizers (pieces of the nstr) -> model -> tokens
 * Components are parsed once into flat lists (a Sequence disappears) and run over scratch memory of the caller. */
#ifndef LATENT_TEXT_PARTS_H
#define LATENT_TEXT_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/tokenizer.h"

struct err;

struct str {
    const char *s;
    uint32_t n;
};

/* ---- regular expressions: Oniguruma's dialect on PCRE2 (regex.c) ---- */

struct regex;
/* Translates what the two dialects spell differently; refuses by name what cannot be translated. */
int regex_open(struct regex **out, const char *pattern, size_t n, struct err *e);
void regex_close(struct regex *r);
/* First match in s[from..n): 1 found, 0 none, -1 error (limits). *md keeps match memory between calls, NULL at first.
 */
int regex_find(const struct regex *r, void **md, const char *s, size_t n, size_t from, size_t *b, size_t *end,
               struct err *e);
void regex_scratch_free(void *md);

/* ---- byte strings to numbers ---- */

/* id -> text and text -> id. Texts are borrowed from the tokenizer's JSON or its arena. */
struct vocab {
    struct str *tok; /* [size], s NULL where an id has no token */
    size_t cap;
    uint32_t size;         /* largest id + 1 */
    uint32_t count;        /* different texts */
    struct vocab_slot {    /* open addressing */
        uint32_t id1, tag; /* id + 1, 0 free; part of the hash: most other texts are never looked at */
    } * slot;
    uint32_t mask;
};
void vocab_init(struct vocab *v, size_t expected);
void vocab_release(struct vocab *v);
int vocab_put(struct vocab *v, const char *s, uint32_t n, int64_t id,
              struct err *e);                                       /* a text put twice: last id wins */
int32_t vocab_find(const struct vocab *v, const char *s, size_t n); /* -1: none */
uint64_t bytes_hash(const char *s, size_t n);
const char *find_bytes(const char *s, size_t n, const char *what, size_t k); /* memmem */

/* Trie over bytes; edges in one hash table. */
struct trie {
    uint64_t *key; /* node << 8 | byte, + 1 so that 0 is free */
    uint32_t *child;
    int32_t *value; /* [nodes], -1: no key ends here */
    uint32_t mask, edges, nodes, cap;
    uint32_t root[256]; /* child of the root, 0: none */
};
void trie_init(struct trie *t);
void trie_release(struct trie *t);
void trie_put(struct trie *t, const char *s, size_t n, int32_t value);    /* a key put twice: the last value stays */
uint32_t trie_step(const struct trie *t, uint32_t node, unsigned char c); /* 0: no edge */

/* ---- text that remembers where it came from ---- */

struct span {
    uint32_t b, e;
};

struct nstr {
    const char *s; /* current text, borrowed or in buf[cur] */
    size_t n;
    bool track;      /* al is kept */
    struct span *al; /* [n] per byte: the bytes of the original text it stands for */
    uint32_t shift;  /* where the segment begins in the original */
    struct buf buf[2];
    struct span *als[2];
    size_t al_cap[2], al_n;
    int cur;
    size_t idx; /* of the transformation going on */
};
void nstr_set(struct nstr *ns, const char *s, size_t n, uint32_t shift, bool track);
void nstr_release(struct nstr *ns);
/* A transformation reads the text left to right and writes a new one: characters that replace one (change 0), are new
 * (change > 0), or replace one and swallow -change more (change < 0); `removed` characters vanish in front. */
void nstr_begin(struct nstr *ns, size_t removed);
void nstr_put(struct nstr *ns, uint32_t cp, long change);
void nstr_keep(struct nstr *ns, const char *s, size_t n); /* nstr_put of each character of s (ASCII) with change 0 */
void nstr_end(struct nstr *ns);
/* Raw writing between begin and end: bytes with the alignment of old byte `at` (nstr_add) or of their own (nstr_copy).
 */
void nstr_add(struct nstr *ns, const char *s, size_t n, struct span al);
void nstr_copy(struct nstr *ns, size_t from, size_t to);
static inline size_t nstr_len(const struct nstr *ns) /* bytes written since nstr_begin */
{
    return ns->buf[!ns->cur].len;
}
/* forms: 'C', 'D', with compat K */
void nstr_normalize(struct nstr *ns, bool compose, bool compat);

/* ---- components ---- */

enum norm_kind {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWERCASE,
    NORM_STRIP_ACCENTS,
    NORM_STRIP,
    NORM_PREPEND,
    NORM_APPEND,
    NORM_REPLACE,
    NORM_BYTELEVEL,
    NORM_BERT,
    NORM_NMT,
    NORM_PRECOMPILED,
};

struct charsmap {
    uint32_t *unit;
    size_t units;
    char *pool;
    bool plain[128]; /* ASCII characters that stay */
    size_t pool_n;
};

struct norm {
    enum norm_kind kind;
    struct str a, b; /* pattern, content | prepend */
    struct regex *re;
    bool left, right;                    /* Strip */
    bool clean, chinese, accents, lower; /* BertNormalizer */
    struct charsmap map;
};

enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };

enum pre_kind {
    PRE_SPLIT,
    PRE_BYTELEVEL,
    PRE_METASPACE,
    PRE_WHITESPACE_SPLIT,
    PRE_WHITESPACE,
    PRE_DIGITS,
    PRE_PUNCTUATION,
    PRE_BERT,
    PRE_CHAR,
    PRE_FIXED,
};

enum { SCHEME_ALWAYS, SCHEME_FIRST, SCHEME_NEVER };

struct pre {
    enum pre_kind kind;
    enum split_behavior behavior;
    bool invert;
    struct regex *re;
    struct str text; /* Split by String, Metaspace's replacement, CharDelimiterSplit */
    bool prefix, use_regex, split, individual;
    int scheme;
    uint32_t length;
};

enum dec_kind {
    DEC_BYTELEVEL,
    DEC_REPLACE,
    DEC_BYTEFALLBACK,
    DEC_FUSE,
    DEC_STRIP,
    DEC_METASPACE,
    DEC_WORDPIECE,
    DEC_BPE
};

struct dec {
    enum dec_kind kind;
    struct str a, b;
    struct regex *re;
    uint32_t start, stop;
    bool cleanup;
    int scheme;
};

enum post_kind { POST_BYTELEVEL, POST_TEMPLATE, POST_BERT, POST_ROBERTA };

struct post_item {
    int seq; /* 0 A, 1 B, -1 special */
    uint8_t type;
    uint32_t n;  /* special: ids */
    int32_t *id; /* in the arena */
};

struct post {
    enum post_kind kind;
    bool trim, prefix;
    int32_t cls, sep;
    struct post_item *single, *pair;
    size_t n_single, n_pair;
};

enum model_kind { MODEL_BPE, MODEL_UNIGRAM, MODEL_WORDPIECE, MODEL_WORDLEVEL };

struct merge {
    uint32_t l, r, rank, id;
};

struct model {
    enum model_kind kind;
    struct vocab v;
    int32_t unk; /* -1: none */
    /* BPE */
    struct merge *merges; /* hash by (l, r); rank + 1, 0 free */
    uint32_t merge_mask;
    int32_t guess;             /* while parsing: where the whole of the next merge is most likely */
    struct str prefix, suffix; /* continuing_subword_prefix, end_of_word_suffix; n 0: none */
    bool fuse_unk, byte_fallback, ignore_merges;
    bool cut;             /* no token goes on over a U+2581 behind another character: words are independent */
    bool raw;             /* pieces are raw bytes, the ByteLevel letters are only thought of */
    int32_t ascii[128];   /* id of the one-character text, -1 */
    int32_t letter[256];  /* id of the ByteLevel letter of a byte, -1 */
    int32_t byte_id[256]; /* id of <0xXX>, -1 */
    bool bytes_complete;
    /* Unigram */
    struct trie trie;
    double *score;
    double min_score;
    /* WordPiece */
    uint32_t max_chars;
};

struct added {
    struct str content;
    struct str normal; /* what is searched for: content, normalized if `normalized` */
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct piece {
    uint32_t b, e;  /* in the nstr; an added token: in the original */
    uint32_t shift; /* where it begins in the original */
    int32_t id;     /* >= 0: an added token */
};

struct match {
    uint32_t b, e;
    bool hit;
};

struct wordcache;

struct tok_scratch {
    uint64_t owner; /* tokenizer the cached words belong to */
    struct buf repaired, tmp;
    struct nstr ns;
    struct piece *piece, *piece2;
    size_t n_piece, cap_piece, n_piece2, cap_piece2;
    struct match *match;
    size_t n_match, cap_match;
    void *md; /* PCRE2's match memory */
    void *bpe;
    size_t bpe_cap;
    void *heap;
    size_t heap_cap;
    struct best *best;
    size_t best_cap;
    uint32_t *cp; /* code point index of each byte */
    size_t cp_cap;
    struct wordcache *cache;
    unsigned words;    /* looked up before there was a cache */
    struct swallowed { /* blanks that added tokens took along: their offsets are trimmed by these */
        size_t at;
        uint32_t lead, trail;
    } * blank;
    size_t n_blank, cap_blank;
    struct tokens *other; /* B of a pair, and what the post-processor builds */
};

struct tokenizer {
    uint64_t serial;
    char *name; /* for errors */
    struct buf json;
    struct arena arena;
    struct norm *norm;
    size_t n_norm;
    struct pre *pre;
    size_t n_pre;
    struct dec *dec;
    size_t n_dec;
    bool has_dec;
    struct post *post;
    size_t n_post;
    struct model model;
    bool need_track; /* a component asks where a piece came from */

    struct added *added;
    size_t n_added, cap_added, n_file_added;
    int64_t added_ids;      /* highest id among them + 1 */
    struct vocab added_map; /* content -> index in added */
    uint32_t *added_of;     /* [added_of_n] id -> index + 1 */
    size_t added_of_n;
    struct trie raw_trie, normal_trie;
    bool any_normalized;

    /* dual vocabulary */
    int32_t latent_first, latent_count;
    struct str latent_head, latent_tail; /* the format around {} or {i} */
    int32_t source_first;                /* identity or range */
    int32_t *source;                     /* [latent_count] or NULL */
    struct source_of {
        int32_t source, index;
    } * source_sorted;

    /* tokenizer_config.json */
    char *bos, *eos, *pad, *unk;
    bool clean_up;
    struct json span_added; /* of json, for writing back; n 0: absent */
    bool from_files;
};

extern const uint16_t byte_letter[256];       /* ByteLevel's letter of a byte, a code point < 0x144 */
int letter_byte(uint32_t cp);                 /* -1: not a letter */
static inline int letter_len(unsigned char b) /* bytes of the letter in UTF-8 */
{
    return byte_letter[b] < 0x80 ? 1 : 2;
}

void *grow(void *p, size_t *cap, size_t need, size_t size);

int norm_parse(struct tokenizer *t, struct json v, struct err *e);
int norm_run(const struct tokenizer *t, struct tok_scratch *sc, struct nstr *ns, struct err *e);
int pre_parse(struct tokenizer *t, struct json v, struct err *e);
int pre_run(const struct tokenizer *t, struct tok_scratch *sc, struct err *e); /* over sc->piece of sc->ns */
int scheme_parse(struct tokenizer *t, struct json v, int *out, struct err *e); /* of Metaspace */
int dec_parse(struct tokenizer *t, struct json v, struct err *e);
int post_parse(struct tokenizer *t, struct json v, struct err *e);
int model_parse(struct tokenizer *t, struct json v, struct err *e);
void model_release(struct model *m);
/* Tokens of piece [b, e) of sc->ns, appended to out; begin and end get byte offsets of the original if asked for. */
int model_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
              struct tokens *out, struct err *err);
int post_run(const struct tokenizer *t, bool specials, bool offsets, size_t n_a /* tokens of A in out */, bool pair,
             struct tokens *out, struct err *e);
/* Blanks (ByteLevel's letter of one too) at one end of a text. */
size_t count_blanks(const char *s, size_t n, bool from_end);
int charsmap_parse(struct charsmap *m, struct json v, struct err *e);
void tokens_room(struct tokens *ts, size_t extra);
static inline void tokens_push(struct tokens *ts, int32_t id, uint32_t b, uint32_t e)
{
    if (ts->n == ts->cap)
        tokens_room(ts, 1);
    ts->id[ts->n] = id;
    ts->begin[ts->n] = b;
    ts->end[ts->n] = e;
    ts->type[ts->n++] = 0;
}
struct tok_scratch *scratch_of(struct tokens *ts);
void scratch_free(struct tok_scratch *sc);
void wordcache_free(struct wordcache *c);

bool added_text(const struct tokenizer *t, int32_t id, struct str *out); /* borrowed */
int add_one(struct tokenizer *t, const struct tok_added *a, int64_t id, struct err *e);
int added_refresh(struct tokenizer *t, struct err *e);
int tokenizer_parse(struct tokenizer *t, struct err *e);             /* of t->json */
int files_open(struct tokenizer *t, const char *dir, struct err *e); /* vocab.json + merges.txt, vocab.txt */

/* JSON helpers that name what was expected. member absent or null: false. */
bool obj_get(struct json o, const char *key, struct json *v);
bool obj_str(struct arena *a, struct json o, const char *key, struct str *out);
bool obj_flag(struct json o, const char *key, bool absent);
struct str arena_str(struct arena *a, struct json v);
struct json obj_small(struct arena *a, struct json o, const char *const *names, struct json *big, size_t n);

#endif
