/* bpe.c - byte-pair encoding: parsing, the merge loop, a cache of words.
 *
 * Two merge loops with one result: short words scan for the lowest rank, long ones keep a heap of (rank, position), so
 * that a word of n symbols costs n log n. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/model.h"
#include "text/parts.h"
#include "text/unicode.h"

enum { SHORT_WORD = 96 };

/* ---- parsing ---- */

static const struct merge *find_merge(const struct model *m, uint32_t l, uint32_t r)
{
    if (!m->merges)
        return NULL;
    uint64_t h = ((uint64_t)l << 32 | r) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)(h >> 32) & m->merge_mask;; i = (i + 1) & m->merge_mask) {
        const struct merge *e = &m->merges[i];
        if (e->rank == 0)
            return NULL;
        if (e->l == l && e->r == r)
            return e;
    }
}

/* A pair given twice counts with its last rank, as in the reference's map. */
static void put_merge(struct model *m, struct merge x)
{
    uint64_t h = ((uint64_t)x.l << 32 | x.r) * 0x9e3779b97f4a7c15u;
    uint32_t i = (uint32_t)(h >> 32) & m->merge_mask;
    while (m->merges[i].rank && !(m->merges[i].l == x.l && m->merges[i].r == x.r))
        i = (i + 1) & m->merge_mask;
    m->merges[i] = x;
}

static bool is_concat(const struct vocab *v, int32_t id, const char *l, size_t nl, const char *r, size_t nr)
{
    if ((uint32_t)id >= v->size || v->tok[id].n != nl + nr || !v->tok[id].s)
        return false;
    return memcmp(v->tok[id].s, l, nl) == 0 && memcmp(v->tok[id].s + nl, r, nr) == 0;
}

int bpe_add_merge(struct model *m, uint32_t rank, const char *l, size_t nl, const char *r, size_t nr, struct buf *tmp,
                  struct err *e)
{
    int32_t a = vocab_find(&m->v, l, nl), b = vocab_find(&m->v, r, nr), c = -1;
    if (is_concat(&m->v, m->guess, l, nl, r, nr) && m->prefix.n == 0) {
        c = m->guess;
    } else if (nr >= m->prefix.n) {
        buf_reset(tmp);
        buf_add(tmp, l, nl);
        buf_add(tmp, r + m->prefix.n, nr - m->prefix.n);
        c = vocab_find(&m->v, tmp->s, tmp->len);
    }
    if (a < 0 || b < 0 || c < 0)
        return err_set(e, "merge %u (\"%.*s\" \"%.*s\"): %s is not in the vocabulary", rank + 1,
                       (int)(nl < 60 ? nl : 60), l, (int)(nr < 60 ? nr : 60), r,
                       a < 0   ? "the left part"
                       : b < 0 ? "the right part"
                               : "the whole");
    m->guess = c + 1;
    put_merge(m, (struct merge){ (uint32_t)a, (uint32_t)b, rank + 1, (uint32_t)c });
    return 0;
}

void bpe_merges_room(struct model *m, size_t n)
{
    uint32_t cap = 64;
    while (cap < n * 2)
        cap *= 2;
    m->merges = xcalloc(cap, sizeof *m->merges);
    m->merge_mask = cap - 1;
}

static int merge_text(struct model *m, struct json v, uint32_t rank, struct buf *text, struct buf *tmp, struct err *e)
{
    const char *s = v.s + 1;
    size_t n = v.n - 2;
    if (!json_str_plain(v)) {
        buf_reset(text);
        json_str(v, text);
        s = text->s;
        n = text->len;
    }
    const char *gap = n ? memchr(s, ' ', n) : NULL;
    if (!gap || memchr(gap + 1, ' ', n - (size_t)(gap + 1 - s)))
        return err_set(e, "merge %u is not two parts with one space between", rank + 1);
    return bpe_add_merge(m, rank, s, (size_t)(gap - s), gap + 1, n - (size_t)(gap + 1 - s), tmp, e);
}

static int merge_pair(struct model *m, struct json v, uint32_t rank, struct buf *text, struct buf *tmp, struct err *e)
{
    struct json l, r, x;
    struct json_iter it = json_each(v);
    if (!json_next(&it, NULL, &l) || !json_next(&it, NULL, &r) || json_next(&it, NULL, &x) ||
        json_kind(l) != JSON_STRING || json_kind(r) != JSON_STRING)
        return err_set(e, "merge %u is not a pair of texts", rank + 1);
    buf_reset(text);
    json_str(l, text);
    size_t nl = text->len;
    json_str(r, text);
    return bpe_add_merge(m, rank, text->s ? text->s : "", nl, text->s ? text->s + nl : "", text->len - nl, tmp, e);
}

void bpe_tables(struct model *m)
{
    char c[8];
    m->bytes_complete = true;
    for (int i = 0; i < 256; i++) {
        static const char hex[] = "0123456789ABCDEF";
        int n = utf8_encode(byte_letter[i], c);
        m->letter[i] = vocab_find(&m->v, c, (size_t)n);
        char name[] = { '<', '0', 'x', hex[i >> 4], hex[i & 15], '>' };
        m->byte_id[i] = vocab_find(&m->v, name, sizeof name);
        if (i < 128) {
            c[0] = (char)i;
            m->ascii[i] = vocab_find(&m->v, c, 1);
        }
        if (m->letter[i] < 0)
            m->bytes_complete = false;
    }
}

#define MARK "\xe2\x96\x81" /* U+2581 */

/* Where SentencePiece made the merges, no token has a U+2581 behind another character. Then nothing merges over that
 * border, and a text without pre-tokenizer may be taken word by word. */
static bool may_cut(const struct model *m)
{
    if (m->ignore_merges || m->prefix.n || m->suffix.n || vocab_find(&m->v, MARK, 3) < 0)
        return false;
    for (uint32_t i = 0; m->merges && i <= m->merge_mask; i++) {
        if (m->merges[i].rank == 0)
            continue;
        const struct str s = m->v.tok[m->merges[i].id];
        uint32_t at = 0;
        while (s.n - at >= 3 && memcmp(s.s + at, MARK, 3) == 0)
            at += 3;
        if (find_bytes(s.s + at, s.n - at, MARK, 3))
            return false;
    }
    return true;
}

int bpe_parse(struct tokenizer *t, struct json v, struct json vocab, struct json merges, struct err *e)
{
    struct model *m = &t->model;
    struct json x;
    struct str s;
    if (vocab_parse(t, vocab, e) < 0)
        return -1;
    if (obj_get(v, "dropout", &x)) {
        double d;
        if (!json_double(x, &d) || d != 0)
            return err_set(e, "BPE dropout is not supported: encoding would be random");
    }
    obj_str(&t->arena, v, "continuing_subword_prefix", &m->prefix);
    obj_str(&t->arena, v, "end_of_word_suffix", &m->suffix);
    m->fuse_unk = obj_flag(v, "fuse_unk", false);
    m->byte_fallback = obj_flag(v, "byte_fallback", false);
    m->ignore_merges = obj_flag(v, "ignore_merges", false);
    if (obj_str(&t->arena, v, "unk_token", &s) && (m->unk = vocab_find(&m->v, s.s, s.n)) < 0)
        m->unk = -2; /* named but unknown: an error when it is needed */
    if (json_kind(merges) != JSON_ARRAY)
        return err_set(e, "BPE model without a list \"merges\"");
    bpe_merges_room(m, json_count(merges));
    struct buf text = BUF_INIT, tmp = BUF_INIT;
    struct json_iter it = json_each(merges);
    uint32_t rank = 0;
    int rc = 0;
    for (; rc == 0 && json_next(&it, NULL, &x); rank++) {
        if (json_kind(x) == JSON_STRING)
            rc = merge_text(m, x, rank, &text, &tmp, e);
        else
            rc = merge_pair(m, x, rank, &text, &tmp, e);
    }
    buf_release(&text);
    buf_release(&tmp);
    bpe_tables(m);
    m->cut = rc == 0 && may_cut(m);
    return rc;
}

/* ---- symbols ---- */

struct sym {
    int32_t id;
    uint32_t len;        /* bytes of the piece it stands for; 0: merged away */
    uint32_t prev, next; /* UINT32_MAX: none */
};

struct word {
    struct sym *s;
    size_t n;
};

static void sym_push(struct tok_scratch *sc, size_t *n, int32_t id, uint32_t len)
{
    sc->bpe = grow(sc->bpe, &sc->bpe_cap, *n + 1, sizeof(struct sym));
    ((struct sym *)sc->bpe)[(*n)++] = (struct sym){ id, len, 0, 0 };
}

static int unk_missing(struct err *e)
{
    return err_set(e, "the text needs the unknown token, but unk_token is not in the vocabulary");
}

/* First symbols of a text: its code points. */
static int symbols(const struct model *m, struct tok_scratch *sc, const char *s, size_t n, size_t *count, struct err *e)
{
    int32_t unk = -1;
    uint32_t unk_len = 0;
    size_t k = 0;
    bool affixes = m->prefix.n || m->suffix.n;
    for (size_t i = 0; i < n;) {
        size_t len = (size_t)uni_len((unsigned char)s[i]);
        const char *text = s + i;
        size_t text_n = len;
        if (affixes) {
            buf_reset(&sc->tmp);
            if (i > 0)
                buf_add(&sc->tmp, m->prefix.s, m->prefix.n);
            buf_add(&sc->tmp, s + i, len);
            if (i + len == n)
                buf_add(&sc->tmp, m->suffix.s, m->suffix.n);
            text = sc->tmp.s;
            text_n = sc->tmp.len;
        }
        i += len;
        int32_t id = text_n == 1 && (unsigned char)text[0] < 0x80 ? m->ascii[(unsigned char)text[0]]
                                                                  : vocab_find(&m->v, text, text_n);
        if (id >= 0) {
            if (unk >= 0)
                sym_push(sc, &k, unk, unk_len);
            unk = -1;
            sym_push(sc, &k, id, (uint32_t)len);
            continue;
        }
        if (m->byte_fallback) {
            size_t b = 0;
            while (b < text_n && m->byte_id[(unsigned char)text[b]] >= 0)
                b++;
            if (b == text_n) { /* a pending unknown stays pending, as in the reference */
                for (b = 0; b < text_n; b++)
                    sym_push(sc, &k, m->byte_id[(unsigned char)text[b]], 1);
                continue;
            }
        }
        if (m->unk == -1)
            continue; /* dropped */
        if (m->unk < 0)
            return unk_missing(e);
        if (unk >= 0 && m->fuse_unk) {
            unk_len += (uint32_t)len;
        } else {
            if (unk >= 0)
                sym_push(sc, &k, unk, unk_len);
            unk = m->unk;
            unk_len = (uint32_t)len;
        }
    }
    if (unk >= 0)
        sym_push(sc, &k, unk, unk_len);
    *count = k;
    return 0;
}

/* Short words: find the lowest rank, merge, look at the two new pairs. */
static size_t merge_short(const struct model *m, struct sym *s, size_t n)
{
    uint32_t rank[SHORT_WORD], whole[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) {
        const struct merge *p = find_merge(m, (uint32_t)s[i].id, (uint32_t)s[i + 1].id);
        rank[i] = p ? p->rank : UINT32_MAX;
        whole[i] = p ? p->id : 0;
    }
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at])
                at = i;
        if (rank[at] == UINT32_MAX)
            break;
        s[at].id = (int32_t)whole[at];
        s[at].len += s[at + 1].len;
        memmove(s + at + 1, s + at + 2, (n - at - 2) * sizeof *s);
        if (n > at + 2) {
            memmove(rank + at + 1, rank + at + 2, (n - at - 3) * sizeof *rank);
            memmove(whole + at + 1, whole + at + 2, (n - at - 3) * sizeof *whole);
        }
        n--;
        for (size_t i = at ? at - 1 : 0; i <= at && i + 1 < n; i++) {
            const struct merge *p = find_merge(m, (uint32_t)s[i].id, (uint32_t)s[i + 1].id);
            rank[i] = p ? p->rank : UINT32_MAX;
            whole[i] = p ? p->id : 0;
        }
    }
    return n;
}

struct cand {
    uint32_t rank, at, id;
};

static bool before(struct cand a, struct cand b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void sift(struct cand *h, size_t n, size_t i)
{
    struct cand x = h[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && before(h[c + 1], h[c]))
            c++;
        if (!before(h[c], x))
            break;
        h[i] = h[c];
    }
    h[i] = x;
}

static void heap_push(struct tok_scratch *sc, size_t *n, struct cand x)
{
    sc->heap = grow(sc->heap, &sc->heap_cap, *n + 1, sizeof(struct cand));
    struct cand *h = sc->heap;
    size_t i = (*n)++;
    while (i && before(x, h[(i - 1) / 2])) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = x;
}

static size_t merge_long(const struct model *m, struct tok_scratch *sc, size_t n)
{
    struct sym *s = sc->bpe;
    size_t heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = i ? (uint32_t)i - 1 : UINT32_MAX;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX;
        const struct merge *p = i + 1 < n ? find_merge(m, (uint32_t)s[i].id, (uint32_t)s[i + 1].id) : NULL;
        if (p) {
            sc->heap = grow(sc->heap, &sc->heap_cap, heap + 1, sizeof(struct cand));
            ((struct cand *)sc->heap)[heap++] = (struct cand){ p->rank, (uint32_t)i, p->id };
        }
    }
    for (size_t i = heap / 2; i-- > 0;)
        sift(sc->heap, heap, i);
    while (heap) {
        struct cand *h = sc->heap, top = h[0];
        h[0] = h[--heap];
        if (heap)
            sift(h, heap, 0);
        struct sym *a = &s[top.at];
        if (a->len == 0 || a->next == UINT32_MAX)
            continue;
        struct sym *b = &s[a->next];
        const struct merge *p = find_merge(m, (uint32_t)a->id, (uint32_t)b->id);
        if (!p || p->id != top.id) /* the pair there is another one by now */
            continue;
        a->id = (int32_t)top.id;
        a->len += b->len;
        b->len = 0;
        a->next = b->next;
        if (a->next != UINT32_MAX) {
            s[a->next].prev = top.at;
            p = find_merge(m, (uint32_t)a->id, (uint32_t)s[a->next].id);
            if (p)
                heap_push(sc, &heap, (struct cand){ p->rank, top.at, p->id });
        }
        if (a->prev != UINT32_MAX) {
            p = find_merge(m, (uint32_t)s[a->prev].id, (uint32_t)a->id);
            if (p)
                heap_push(sc, &heap, (struct cand){ p->rank, a->prev, p->id });
        }
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i].len)
            s[k++] = s[i];
    return k;
}

/* ---- the cache of words (of all models, without offsets) ---- */

enum { CACHE_WORDS = 8192, CACHE_KEY = 23, CACHE_IDS = 8 };

struct cached {
    uint8_t len, n;
    char key[CACHE_KEY + 7];
    int32_t id[CACHE_IDS];
};

struct wordcache {
    struct cached w[CACHE_WORDS];
};

void wordcache_free(struct wordcache *c)
{
    free(c);
}

/* true: out has the word's ids. Else *slot is where cache_put may keep them (NULL: too long a word). */
bool cache_get(const struct tokenizer *t, struct tok_scratch *sc, const char *s, size_t n, struct tokens *out,
               struct cached **slot)
{
    *slot = NULL;
    if (n > CACHE_KEY)
        return false;
    if (!sc->cache && ++sc->words < 256) /* half a megabyte is not for a single short text */
        return false;
    if (!sc->cache)
        sc->cache = xcalloc(1, sizeof *sc->cache);
    else if (sc->owner != t->serial)
        memset(sc->cache, 0, sizeof *sc->cache);
    sc->owner = t->serial;
    struct cached *c = &sc->cache->w[bytes_hash(s, n) % CACHE_WORDS];
    *slot = c;
    if (c->len != n || memcmp(c->key, s, n) != 0)
        return false;
    tokens_room(out, c->n);
    for (size_t i = 0; i < c->n; i++)
        tokens_push(out, c->id[i], 0, 0);
    return true;
}

void cache_put(struct cached *c, const char *s, size_t n, const struct tokens *out, size_t first)
{
    size_t k = out->n - first;
    if (!c || k > CACHE_IDS)
        return;
    c->len = (uint8_t)n;
    c->n = (uint8_t)k;
    memcpy(c->key, s, n);
    for (size_t i = 0; i < k; i++)
        c->id[i] = out->id[first + i];
}

static int32_t whole_word(const struct model *m, struct tok_scratch *sc, const char *s, size_t n)
{
    if (!m->raw)
        return vocab_find(&m->v, s, n);
    buf_reset(&sc->tmp);
    for (size_t i = 0; i < n; i++) {
        char c[4];
        buf_add(&sc->tmp, c, (size_t)utf8_encode(byte_letter[(unsigned char)s[i]], c));
    }
    return vocab_find(&m->v, sc->tmp.s, sc->tmp.len);
}

/* The word as symbols in sc->bpe. */
static int split_word(const struct model *m, struct tok_scratch *sc, const char *s, size_t n, size_t *count,
                      struct err *e)
{
    size_t k = 0;
    if (m->ignore_merges) {
        int32_t id = whole_word(m, sc, s, n);
        if (id >= 0) {
            sym_push(sc, &k, id, (uint32_t)n);
            *count = k;
            return 0;
        }
    }
    if (m->raw) {
        sc->bpe = grow(sc->bpe, &sc->bpe_cap, n, sizeof(struct sym));
        for (size_t i = 0; i < n; i++)
            ((struct sym *)sc->bpe)[i] = (struct sym){ m->letter[(unsigned char)s[i]], 1, 0, 0 };
        k = n;
    } else if (symbols(m, sc, s, n, &k, e) < 0) {
        return -1;
    }
    *count = k <= SHORT_WORD ? merge_short(m, sc->bpe, k) : merge_long(m, sc, k);
    return 0;
}

/* pb, pe: the piece that [b, e) is a word of. */
static int run_word(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t pb, uint32_t pe,
                    uint32_t shift, bool offsets, struct tokens *out, struct err *err)
{
    const struct model *m = &t->model;
    const char *s = sc->ns.s + b;
    size_t n = e - b, k = 0;
    struct cached *c = NULL;
    if (!offsets && cache_get(t, sc, s, n, out, &c))
        return 0;
    if (split_word(m, sc, s, n, &k, err) < 0)
        return -1;
    const struct sym *sym = sc->bpe;
    size_t first = out->n;
    uint32_t at = b;
    for (size_t i = 0; i < k; i++) {
        if (offsets)
            token_at(sc, out, sym[i].id, at, at + sym[i].len, pb, pe, shift);
        else
            tokens_push(out, sym[i].id, 0, 0);
        at += sym[i].len;
    }
    cache_put(c, s, n, out, first);
    return 0;
}

int bpe_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
            struct tokens *out, struct err *err)
{
    if (!t->model.cut || (offsets && t->model.unk < 0))
        return run_word(t, sc, b, e, b, e, shift, offsets, out, err);
    const char *s = sc->ns.s;
    uint32_t at = b;
    while (at < e) {
        uint32_t end = at;
        while (e - end >= 3 && memcmp(s + end, MARK, 3) == 0)
            end += 3;
        const char *p = find_bytes(s + end, e - end, MARK, 3);
        end = p ? (uint32_t)(p - s) : e;
        if (run_word(t, sc, at, end, b, e, shift, offsets, out, err) < 0)
            return -1;
        at = end;
    }
    return 0;
}
