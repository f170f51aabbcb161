/* model.c - the model section: parsing, and Unigram, WordPiece and WordLevel (BPE is in bpe.c). */
#include "text/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "text/unicode.h"

void token_at(struct tok_scratch *sc, struct tokens *out, int32_t id, uint32_t b, uint32_t e, uint32_t pb, uint32_t pe,
              uint32_t shift)
{
    const struct nstr *ns = &sc->ns;
    if (!ns->track) {
        tokens_push(out, id, 0, 0);
        return;
    }
    if (e > pe) /* a dropped or doubly counted character: outside the piece the reference keeps the raw numbers */
        tokens_push(out, id, b - pb, e - pb);
    else if (b == e)
        tokens_push(out, id, shift + b - pb, shift + e - pb);
    else
        tokens_push(out, id, ns->al[b].b, ns->al[e - 1].e);
}

int vocab_parse(struct tokenizer *t, struct json vocab, struct err *e)
{
    struct json key, val;
    int64_t id;
    if (json_kind(vocab) != JSON_OBJECT)
        return err_set(e, "model without an object \"vocab\"");
    vocab_init(&t->model.v, vocab.n / 16); /* a fair guess at its entries; it grows */
    struct json_iter it = json_each(vocab);
    while (json_next(&it, &key, &val)) {
        struct str s = arena_str(&t->arena, key);
        if (!json_int(val, &id))
            return err_set(e, "vocab entry \"%.*s\": the id is not a whole number", (int)(s.n < 60 ? s.n : 60), s.s);
        if (vocab_put(&t->model.v, s.s, s.n, id, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- Unigram ---- */

static double power_of_ten(int n)
{
    static const double exact[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    char text[16];
    if (n <= 22)
        return exact[n];
    snprintf(text, sizeof text, "1e%d", n);
    return strtod(text, NULL);
}

/* A score as the reference reads it: all digits as one whole number, rounded, then one division or multiplication by a
 * power of ten, rounded again. The last bit may differ from the correctly rounded value, and paths of equal probability
 * ("2" "22" and "22" "2") are told apart by it. */
static bool score_of(struct json v, double *out)
{
    const char *p = v.s, *end = v.s + v.n;
    uint64_t digits = 0;
    long exponent = 0, written = 0;
    bool negative = p < end && *p == '-', point = false, full = false, below = false;
    if (json_kind(v) != JSON_NUMBER)
        return false;
    for (p += negative; p < end && ((*p >= '0' && *p <= '9') || *p == '.'); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        unsigned d = (unsigned)(*p - '0');
        full = full || digits > (UINT64_MAX - d) / 10; /* further digits are ignored */
        if (!full)
            digits = digits * 10 + d;
        exponent += full ? !point : point ? -1 : 0;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        below = ++p < end && *p == '-';
        for (p += p < end && (*p == '-' || *p == '+'); p < end && *p >= '0' && *p <= '9' && written < 100000; p++)
            written = written * 10 + (*p - '0');
        exponent += below ? -written : written;
    }
    if (p != end) /* NaN, Infinity */
        return json_double(v, out);
    double f = (double)digits;
    for (; exponent < -308 && f != 0; exponent += 308)
        f /= 1e308;
    double p10 = power_of_ten(labs(exponent) > 308 ? 308 : (int)labs(exponent));
    f = exponent >= 0 ? f * p10 : f / p10;
    *out = negative ? -f : f;
    return true;
}

static int unigram_piece(struct tokenizer *t, struct json v, int32_t id, struct err *e)
{
    struct model *m = &t->model;
    struct json piece, score;
    struct json_iter it = json_each(v);
    if (json_kind(v) != JSON_ARRAY || !json_next(&it, NULL, &piece) || !json_next(&it, NULL, &score) ||
        json_kind(piece) != JSON_STRING || !score_of(score, &m->score[id]))
        return err_set(e, "Unigram vocab entry %d is not [piece, score]", id);
    struct str s = arena_str(&t->arena, piece);
    if (m->score[id] < m->min_score)
        m->min_score = m->score[id];
    /* a piece that stands twice: the later one is found, the earlier keeps only its way back */
    int32_t twin = vocab_find(&m->v, s.s, s.n);
    if (vocab_put(&m->v, s.s, s.n, id, e) < 0)
        return -1;
    if (twin >= 0)
        m->v.tok[twin] = s;
    if (s.n)
        trie_put(&m->trie, s.s, s.n, id);
    return 0;
}

int unigram_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e)
{
    struct model *m = &t->model;
    struct json x;
    int64_t unk;
    if (json_kind(vocab) != JSON_ARRAY)
        return err_set(e, "Unigram model without a list \"vocab\"");
    size_t n = json_count(vocab);
    if (n == 0)
        return err_set(e, "Unigram model with an empty vocabulary");
    vocab_init(&m->v, n);
    trie_init(&m->trie);
    m->score = xcalloc(n, sizeof *m->score);
    m->min_score = 1e300;
    struct json_iter it = json_each(vocab);
    for (int32_t i = 0; json_next(&it, NULL, &x); i++)
        if (unigram_piece(t, x, i, e) < 0)
            return -1;
    m->byte_fallback = obj_flag(v, "byte_fallback", false);
    if (obj_get(v, "unk_id", &x)) {
        if (!json_int(x, &unk) || unk < 0 || (size_t)unk >= n)
            return err_set(e, "Unigram unk_id is not an id of its vocabulary");
        m->unk = (int32_t)unk;
    }
    for (int i = 0; i < 256; i++) {
        static const char hex[] = "0123456789ABCDEF";
        char name[] = { '<', '0', 'x', hex[i >> 4], hex[i & 15], '>' };
        m->byte_id[i] = vocab_find(&m->v, name, sizeof name);
    }
    return 0;
}

struct best {
    double score;
    int32_t id;
    uint32_t from; /* UINT32_MAX: not reached */
};

static void better(struct best *b, double score, int32_t id, uint32_t from)
{
    if (b->from == UINT32_MAX || score > b->score)
        *b = (struct best){ score, id, from };
}

/* Viterbi: best[i] is the best way to cover s[0..i). */
static int viterbi(const struct model *m, struct tok_scratch *sc, const char *s, uint32_t n, struct err *e)
{
    sc->best = grow(sc->best, &sc->best_cap, (size_t)n + 1, sizeof *sc->best);
    struct best *best = sc->best;
    for (uint32_t i = 0; i <= n; i++)
        best[i] = (struct best){ 0, -1, UINT32_MAX };
    for (uint32_t at = 0; at < n;) {
        uint32_t len = (uint32_t)uni_len((unsigned char)s[at]), node = 0;
        double here = best[at].score;
        bool single = false;
        for (uint32_t i = at; i < n && (node = trie_step(&m->trie, node, (unsigned char)s[i])); i++) {
            int32_t id = m->trie.value[node];
            if (id < 0)
                continue;
            better(&best[i + 1], here + m->score[id], id, at);
            single |= i + 1 - at == len;
        }
        if (!single) {
            if (m->unk < 0)
                return err_set(e, "the text needs the unknown token, but the Unigram model has no unk_id");
            better(&best[at + len], here + (m->min_score - 10.0), m->unk, at);
        }
        at += len;
    }
    return 0;
}

static void unigram_token(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t pb,
                          uint32_t pe, uint32_t shift, struct tokens *out)
{
    const struct model *m = &t->model;
    const char *s = sc->ns.s;
    int32_t id = vocab_find(&m->v, s + b, e - b);
    if (id < 0 && m->byte_fallback) {
        uint32_t i = b;
        while (i < e && m->byte_id[(unsigned char)s[i]] >= 0)
            i++;
        if (i == e) {
            for (i = b; i < e; i++)
                token_at(sc, out, m->byte_id[(unsigned char)s[i]], b, e, pb, pe, shift);
            return;
        }
    }
    token_at(sc, out, id < 0 ? m->unk : id, b, e, pb, pe, shift);
}

int unigram_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
                struct tokens *out, struct err *err)
{
    const struct model *m = &t->model;
    (void)offsets;
    if (viterbi(m, sc, sc->ns.s + b, e - b, err) < 0)
        return -1;
    /* the way back, turned round in place: from becomes the way forward */
    struct best *best = sc->best;
    uint32_t at = e - b, next = UINT32_MAX;
    for (;;) {
        uint32_t from = best[at].from;
        best[at].from = next;
        next = at;
        if (at == 0)
            break;
        at = from;
    }
    while (at < e - b) {
        uint32_t end = best[at].from;
        /* neighbours that are both the unknown token are one */
        while (m->unk >= 0 && best[end].id == m->unk && end < e - b && best[best[end].from].id == m->unk)
            end = best[end].from;
        unigram_token(t, sc, b + at, b + end, b, e, shift, out);
        at = end;
    }
    return 0;
}

/* ---- WordPiece and WordLevel ---- */

static int unk_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e)
{
    struct str s;
    if (vocab_parse(t, vocab, e) < 0)
        return -1;
    if (obj_str(&t->arena, v, "unk_token", &s))
        t->model.unk = vocab_find(&t->model.v, s.s, s.n);
    return 0;
}

int wordpiece_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e)
{
    struct model *m = &t->model;
    struct json x;
    int64_t n = 100;
    if (unk_parse(t, v, vocab, e) < 0)
        return -1;
    m->prefix = (struct str){ "##", 2 };
    obj_str(&t->arena, v, "continuing_subword_prefix", &m->prefix);
    if (obj_get(v, "max_input_chars_per_word", &x) && (!json_int(x, &n) || n < 0 || n > INT32_MAX))
        return err_set(e, "WordPiece max_input_chars_per_word is not a number");
    m->max_chars = (uint32_t)n;
    return 0;
}

int wordlevel_parse(struct tokenizer *t, struct json v, struct json vocab, struct err *e)
{
    return unk_parse(t, v, vocab, e);
}

static int whole_unknown(const struct model *m, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift,
                         struct tokens *out, struct err *err)
{
    if (m->unk < 0)
        return err_set(err, "the text needs the unknown token, but unk_token is not in the vocabulary");
    token_at(sc, out, m->unk, b, e, b, e, shift);
    return 0;
}

int wordpiece_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift,
                  bool offsets, struct tokens *out, struct err *err)
{
    const struct model *m = &t->model;
    const char *s = sc->ns.s;
    size_t chars = 0, first = out->n;
    (void)offsets;
    for (uint32_t i = b; i < e && chars <= m->max_chars; chars++)
        i += (uint32_t)uni_len((unsigned char)s[i]);
    if (m->kind == MODEL_WORDLEVEL) {
        int32_t id = vocab_find(&m->v, s + b, e - b);
        if (id < 0)
            return whole_unknown(m, sc, b, e, shift, out, err);
        token_at(sc, out, id, b, e, b, e, shift);
        return 0;
    }
    if (chars > m->max_chars)
        return whole_unknown(m, sc, b, e, shift, out, err);
    for (uint32_t at = b; at < e;) {
        uint32_t end = e;
        int32_t id = -1;
        buf_reset(&sc->tmp);
        if (at > b)
            buf_add(&sc->tmp, m->prefix.s, m->prefix.n);
        buf_add(&sc->tmp, s + at, e - at);
        size_t extra = sc->tmp.len - (e - at);
        while (end > at && (id = vocab_find(&m->v, sc->tmp.s, extra + (end - at))) < 0)
            do
                end--;
            while (end > at && ((unsigned char)s[end] & 0xc0) == 0x80);
        if (id < 0) {
            out->n = first;
            return whole_unknown(m, sc, b, e, shift, out, err);
        }
        token_at(sc, out, id, at, end, b, e, shift);
        at = end;
    }
    return 0;
}

/* ---- all of them ---- */

int model_run(const struct tokenizer *t, struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, bool offsets,
              struct tokens *out, struct err *err)
{
    if (b == e)
        return 0;
    if (t->model.kind == MODEL_BPE)
        return bpe_run(t, sc, b, e, shift, offsets, out, err);
    struct cached *slot = NULL;
    size_t first = out->n;
    if (!offsets && cache_get(t, sc, sc->ns.s + b, e - b, out, &slot))
        return 0;
    int rc = t->model.kind == MODEL_UNIGRAM ? unigram_run(t, sc, b, e, shift, offsets, out, err)
                                            : wordpiece_run(t, sc, b, e, shift, offsets, out, err);
    if (rc == 0)
        cache_put(slot, sc->ns.s + b, e - b, out, first);
    return rc;
}

int model_parse(struct tokenizer *t, struct json v, struct err *e)
{
    static const char *const names[] = { "BPE", "Unigram", "WordPiece", "WordLevel" };
    struct model *m = &t->model;
    struct str type = { NULL, 0 };
    static const char *const long_ones[] = { "vocab", "merges" };
    struct json big[2];
    m->unk = -1;
    if (json_kind(v) != JSON_OBJECT)
        return err_set(e, "model is not an object");
    v = obj_small(&t->arena, v, long_ones, big, 2);
    if (obj_str(&t->arena, v, "type", &type)) {
        int i = 0;
        while (i < 4 && !(strlen(names[i]) == type.n && memcmp(names[i], type.s, type.n) == 0))
            i++;
        if (i == 4)
            return err_set(e, "model \"%.*s\" is not supported", (int)type.n, type.s);
        m->kind = (enum model_kind)i;
    } else if (big[1].n) { /* older files have no type */
        m->kind = MODEL_BPE;
    } else if (json_kind(big[0]) == JSON_ARRAY) {
        m->kind = MODEL_UNIGRAM;
    } else if (big[0].n) {
        m->kind = MODEL_WORDPIECE;
    } else {
        return err_set(e, "model has neither a type nor a vocab");
    }
    switch (m->kind) {
    case MODEL_BPE:
        return bpe_parse(t, v, big[0], big[1], e);
    case MODEL_UNIGRAM:
        return unigram_parse(t, v, big[0], e);
    case MODEL_WORDPIECE:
        return wordpiece_parse(t, v, big[0], e);
    default:
        return wordlevel_parse(t, v, big[0], e);
    }
}

void model_release(struct model *m)
{
    vocab_release(&m->v);
    trie_release(&m->trie);
    free(m->merges);
    free(m->score);
    memset(m, 0, sizeof *m);
}
