/* pretokenize.c - the pre_tokenizer section: cuts normalized text into pieces, in the order and with the quirks of the
 * reference. Each step maps the list of pieces in the scratch to a new list; steps that rewrite text (ByteLevel,
 * Metaspace) write the whole segment anew. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/parts.h"
#include "text/unicode.h"

/* ByteLevel's alphabet: printable bytes stand for themselves, the other 68 for U+0100, U+0101 ... in order. */
#define R(x) x, x + 1, x + 2, x + 3
#define R16(x) R(x), R(x + 4), R(x + 8), R(x + 12)
const uint16_t byte_letter[256] = {
    R16(0x100), R16(0x110),                                                      /* 00..1f */
    0x120,      0x21,       0x22,      0x23,      R(0x24),   R(0x28),   R(0x2c), /* 20..2f */
    R16(0x30),  R16(0x40),  R16(0x50), R16(0x60),                                /* 30..6f */
    R(0x70),    R(0x74),    R(0x78),   0x7c,      0x7d,      0x7e,      0x121,   /* 70..7f */
    R16(0x122), R16(0x132),                                                      /* 80..9f */
    0x142,      0xa1,       0xa2,      0xa3,      R(0xa4),   R(0xa8),   0xac,      0x143,
    0xae,       0xaf,       R16(0xb0), R16(0xc0), R16(0xd0), R16(0xe0), R16(0xf0),
};

int letter_byte(uint32_t cp)
{
    if (cp >= 0x100) {
        if (cp < 0x121)
            return (int)cp - 0x100;
        if (cp < 0x144)
            return cp == 0x121 ? 0x7f : cp < 0x142 ? 0x80 + (int)(cp - 0x122) : cp == 0x142 ? 0xa0 : 0xad;
        return -1;
    }
    return (cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp != 0xad) ? (int)cp : -1;
}

/* ---- the list of pieces ---- */

static void piece_push(struct tok_scratch *sc, uint32_t b, uint32_t e, uint32_t shift, int32_t id)
{
    if (sc->n_piece2 == sc->cap_piece2)
        sc->piece2 = grow(sc->piece2, &sc->cap_piece2, sc->n_piece2 + 1, sizeof *sc->piece2);
    sc->piece2[sc->n_piece2++] = (struct piece){ b, e, shift, id };
}

static void piece_swap(struct tok_scratch *sc)
{
    struct piece *p = sc->piece;
    size_t cap = sc->cap_piece;
    sc->piece = sc->piece2;
    sc->n_piece = sc->n_piece2;
    sc->cap_piece = sc->cap_piece2;
    sc->piece2 = p;
    sc->cap_piece2 = cap;
    sc->n_piece2 = 0;
}

/* A part [b, e) of the present text, cut out of piece p. */
static void part_push(struct tok_scratch *sc, const struct piece *p, uint32_t b, uint32_t e)
{
    if (b < e)
        piece_push(sc, b, e, sc->ns.track ? sc->ns.al[b].b : p->shift, -1);
}

static void match_push(struct tok_scratch *sc, size_t b, size_t e, bool hit)
{
    if (sc->n_match == sc->cap_match)
        sc->match = grow(sc->match, &sc->cap_match, sc->n_match + 1, sizeof *sc->match);
    sc->match[sc->n_match++] = (struct match){ (uint32_t)b, (uint32_t)e, hit };
}

/* ---- finding matches in a piece; offsets count from the piece's begin ---- */

static int find_regex(struct tok_scratch *sc, const struct regex *re, const char *s, size_t n, struct err *err)
{
    size_t at = 0, from = 0, last = SIZE_MAX, b, e;
    for (;;) {
        int rc = from <= n ? regex_find(re, &sc->md, s, n, from, &b, &e, err) : 0;
        if (rc < 0)
            return -1;
        if (rc == 0)
            break;
        if (b == e && b == last) { /* an empty match right behind the last one is passed */
            from = e < n ? e + (size_t)uni_len((unsigned char)s[e]) : n + 1;
            continue;
        }
        if (at != b)
            match_push(sc, at, b, false);
        match_push(sc, b, e, true);
        at = from = last = e;
    }
    if (at != n)
        match_push(sc, at, n, false);
    return 0;
}

static void find_text(struct tok_scratch *sc, struct str pattern, const char *s, size_t n)
{
    size_t at = 0;
    const char *p;
    while (pattern.n && (p = find_bytes(s + at, n - at, pattern.s, pattern.n))) {
        size_t b = (size_t)(p - s);
        if (at != b)
            match_push(sc, at, b, false);
        match_push(sc, b, b + pattern.n, true);
        at = b + pattern.n;
    }
    if (at != n)
        match_push(sc, at, n, false);
}

static void find_chars(struct tok_scratch *sc, bool (*is)(uint32_t c), const char *s, size_t n)
{
    size_t at = 0;
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        size_t len = (size_t)uni_get(s + i, &cp);
        if (is(cp)) {
            if (at < i)
                match_push(sc, at, i, false);
            match_push(sc, i, i + len, true);
            at = i + len;
        }
        i += len;
    }
    if (at < n)
        match_push(sc, at, n, false);
}

/* ---- behaviours ---- */

/* Contiguous: neighbours of one kind join. Previous, Next: a match joins the gap before, behind it (a second match in a
 * row stands alone). */
static void join_matches(struct tok_scratch *sc, enum split_behavior how)
{
    struct match *m = sc->match;
    size_t n = sc->n_match, k = 0;
    bool last = false;
    if (how == SPLIT_NEXT) {
        size_t w = n; /* joined matches are kept at the far end */
        for (size_t i = n; i-- > 0;) {
            bool hit = m[i].hit;
            if (hit && !last && w < n)
                m[w].b = m[i].b;
            else
                m[--w] = m[i];
            last = hit;
        }
        memmove(m, m + w, (n - w) * sizeof *m);
        sc->n_match = n - w;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        bool hit = m[i].hit, join = how == SPLIT_CONTIGUOUS ? hit == last : hit && !last;
        if (join && k > 0)
            m[k - 1].e = m[i].e;
        else
            m[k++] = m[i];
        last = hit;
    }
    sc->n_match = k;
}

static void cut(struct tok_scratch *sc, const struct piece *p, enum split_behavior how, bool invert)
{
    if (invert)
        for (size_t i = 0; i < sc->n_match; i++)
            sc->match[i].hit = !sc->match[i].hit;
    if (how != SPLIT_REMOVED && how != SPLIT_ISOLATED)
        join_matches(sc, how);
    for (size_t i = 0; i < sc->n_match; i++)
        if (how != SPLIT_REMOVED || !sc->match[i].hit)
            part_push(sc, p, p->b + sc->match[i].b, p->b + sc->match[i].e);
    sc->n_match = 0;
}

/* Runs one way of cutting over all pieces. */
static int cut_all(struct tok_scratch *sc, const struct regex *re, const struct str *text, bool (*is)(uint32_t c),
                   enum split_behavior how, bool invert, struct err *e)
{
    for (size_t i = 0; i < sc->n_piece; i++) {
        const struct piece *p = &sc->piece[i];
        const char *s = sc->ns.s + p->b;
        size_t n = p->e - p->b;
        if (p->id >= 0) {
            piece_push(sc, p->b, p->e, p->shift, p->id);
            continue;
        }
        sc->n_match = 0;
        if (re) {
            if (find_regex(sc, re, s, n, e) < 0) {
                sc->n_piece2 = 0;
                return -1;
            }
        } else if (is) {
            find_chars(sc, is, s, n);
        } else if (text) {
            find_text(sc, *text, s, n);
        }
        cut(sc, p, how, invert);
    }
    piece_swap(sc);
    return 0;
}

static void cut_length(struct tok_scratch *sc, uint32_t length)
{
    for (size_t i = 0; i < sc->n_piece; i++) {
        const struct piece p = sc->piece[i];
        if (p.id >= 0) {
            piece_push(sc, p.b, p.e, p.shift, p.id);
            continue;
        }
        for (uint32_t at = p.b; at < p.e;) {
            uint32_t end = at;
            for (uint32_t k = 0; k < length && end < p.e; k++)
                end += (uint32_t)uni_len((unsigned char)sc->ns.s[end]);
            part_push(sc, &p, at, end);
            at = end;
        }
    }
    piece_swap(sc);
}

/* Whitespace: runs of \w, runs of what is neither \w nor white space; \w as the Rust regex crate has it. */
static void cut_words(struct tok_scratch *sc)
{
    for (size_t i = 0; i < sc->n_piece; i++) {
        const struct piece p = sc->piece[i];
        if (p.id >= 0) {
            piece_push(sc, p.b, p.e, p.shift, p.id);
            continue;
        }
        uint32_t at = p.b, cp;
        int kind = 0;
        for (uint32_t k = p.b; k < p.e;) {
            uint32_t len = (uint32_t)uni_get(sc->ns.s + k, &cp);
            int now = uni_is_word(cp) ? 1 : uni_is_space(cp) ? 0 : 2;
            if (now != kind) {
                if (kind)
                    part_push(sc, &p, at, k);
                at = k;
                kind = now;
            }
            k += len;
        }
        if (kind)
            part_push(sc, &p, at, p.e);
    }
    piece_swap(sc);
}

/* ---- steps that rewrite ---- */

static struct span al_at(const struct nstr *ns, size_t i)
{
    return ns->track ? ns->al[i] : (struct span){ 0, 0 };
}

/* A space in front of every piece that does not begin with one. */
static void bytelevel_prefix(struct tok_scratch *sc)
{
    struct nstr *ns = &sc->ns;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < sc->n_piece; i++) {
        struct piece *p = &sc->piece[i];
        if (p->id >= 0)
            continue;
        uint32_t b = (uint32_t)nstr_len(ns);
        if (ns->s[p->b] != ' ')
            nstr_add(ns, " ", 1, al_at(ns, p->b));
        nstr_copy(ns, p->b, p->e);
        p->b = b;
        p->e = (uint32_t)nstr_len(ns);
    }
    nstr_end(ns);
}

static void bytelevel_letters(struct tok_scratch *sc)
{
    struct nstr *ns = &sc->ns;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < sc->n_piece; i++) {
        struct piece *p = &sc->piece[i];
        if (p->id >= 0)
            continue;
        uint32_t b = (uint32_t)nstr_len(ns);
        for (uint32_t k = p->b; k < p->e; k++) {
            char c[4];
            int len = utf8_encode(byte_letter[(unsigned char)ns->s[k]], c);
            nstr_add(ns, c, (size_t)len, al_at(ns, k));
        }
        p->b = b;
        p->e = (uint32_t)nstr_len(ns);
    }
    nstr_end(ns);
}

static void metaspace(struct tok_scratch *sc, const struct pre *m)
{
    struct nstr *ns = &sc->ns;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < sc->n_piece; i++) {
        struct piece p = sc->piece[i];
        if (p.id >= 0) {
            piece_push(sc, p.b, p.e, p.shift, p.id);
            continue;
        }
        uint32_t b = (uint32_t)nstr_len(ns), cut_at = b;
        const char *s = ns->s + p.b;
        uint32_t n = p.e - p.b;
        bool has = s[0] == ' ' || (n >= m->text.n && memcmp(s, m->text.s, m->text.n) == 0);
        bool prefix = !has && (m->scheme == SCHEME_ALWAYS || (m->scheme == SCHEME_FIRST && p.shift == 0));
        if (prefix)
            nstr_add(ns, m->text.s, m->text.n, al_at(ns, p.b));
        for (uint32_t k = 0; k < n;) {
            uint32_t len = (uint32_t)uni_len((unsigned char)s[k]);
            bool space = s[k] == ' ';
            bool mark = space || (len == m->text.n && memcmp(s + k, m->text.s, len) == 0);
            uint32_t here = (uint32_t)nstr_len(ns);
            if (mark && m->split && here > cut_at) {
                piece_push(sc, cut_at, here, 0, -1);
                cut_at = here;
            }
            if (space)
                nstr_add(ns, m->text.s, m->text.n, al_at(ns, p.b + k));
            else
                nstr_copy(ns, p.b + k, p.b + k + len);
            k += len;
        }
        if (nstr_len(ns) > cut_at)
            piece_push(sc, cut_at, (uint32_t)nstr_len(ns), 0, -1);
        if (!ns->track)
            for (size_t k = sc->n_piece2; k-- > 0 && sc->piece2[k].b >= b && sc->piece2[k].id < 0;)
                sc->piece2[k].shift = p.shift;
    }
    nstr_end(ns);
    for (size_t k = 0; ns->track && k < sc->n_piece2; k++)
        if (sc->piece2[k].id < 0)
            sc->piece2[k].shift = ns->al[sc->piece2[k].b].b;
    piece_swap(sc);
}

static int step(const struct tokenizer *t, struct tok_scratch *sc, const struct pre *m, bool last, struct err *e)
{
    switch (m->kind) {
    case PRE_SPLIT:
        return cut_all(sc, m->re, m->re ? NULL : &m->text, NULL, m->behavior, m->invert, e);
    case PRE_BYTELEVEL:
        if (m->prefix)
            bytelevel_prefix(sc);
        if (m->use_regex && cut_all(sc, m->re, NULL, NULL, SPLIT_ISOLATED, false, e) < 0)
            return -1;
        if (!(last && t->model.raw))
            bytelevel_letters(sc);
        return 0;
    case PRE_METASPACE:
        metaspace(sc, m);
        return 0;
    case PRE_WHITESPACE_SPLIT:
        return cut_all(sc, NULL, NULL, uni_is_space, SPLIT_REMOVED, false, e);
    case PRE_WHITESPACE:
        cut_words(sc);
        return 0;
    case PRE_DIGITS:
        return cut_all(sc, NULL, NULL, uni_is_numeric, m->individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, e);
    case PRE_PUNCTUATION:
        return cut_all(sc, NULL, NULL, uni_is_punct, m->behavior, false, e);
    case PRE_BERT:
        if (cut_all(sc, NULL, NULL, uni_is_space, SPLIT_REMOVED, false, e) < 0)
            return -1;
        return cut_all(sc, NULL, NULL, uni_is_punct, SPLIT_ISOLATED, false, e);
    case PRE_CHAR:
        return cut_all(sc, NULL, &m->text, NULL, SPLIT_REMOVED, false, e);
    case PRE_FIXED:
        cut_length(sc, m->length);
        return 0;
    }
    return 0;
}

int pre_run(const struct tokenizer *t, struct tok_scratch *sc, struct err *e)
{
    sc->n_piece2 = 0;
    for (size_t i = 0; i < t->n_pre; i++)
        if (step(t, sc, &t->pre[i], i + 1 == t->n_pre, e) < 0)
            return -1;
    return 0;
}

/* ---- parsing ---- */

static int behavior_parse(struct str s, enum split_behavior *out, struct err *e)
{
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    for (int i = 0; i < 5; i++)
        if (strlen(names[i]) == s.n && memcmp(names[i], s.s, s.n) == 0) {
            *out = (enum split_behavior)i;
            return 0;
        }
    return err_set(e, "behavior \"%.*s\" is not known", (int)s.n, s.s);
}

static int split_parse(struct tokenizer *t, struct json v, struct pre *m, struct err *e)
{
    struct json p;
    struct str text;
    if (!obj_str(&t->arena, v, "behavior", &text))
        return err_set(e, "pre-tokenizer Split without a behavior");
    if (behavior_parse(text, &m->behavior, e) < 0)
        return err_prefix(e, "pre-tokenizer Split");
    m->invert = obj_flag(v, "invert", false);
    if (obj_get(v, "pattern", &p)) {
        if (obj_str(&t->arena, p, "String", &m->text)) {
            if (m->text.n == 0)
                return regex_open(&m->re, "", 0, e);
            return 0;
        }
        if (obj_str(&t->arena, p, "Regex", &text))
            return regex_open(&m->re, text.s, text.n, e) < 0 ? err_prefix(e, "pre-tokenizer Split") : 0;
    }
    return err_set(e, "pre-tokenizer Split: pattern is neither {\"String\": ...} nor {\"Regex\": ...}");
}

int scheme_parse(struct tokenizer *t, struct json v, int *out, struct err *e)
{
    struct str s;
    *out = SCHEME_ALWAYS;
    if (obj_str(&t->arena, v, "prepend_scheme", &s)) {
        if (s.n == 5 && memcmp(s.s, "first", 5) == 0)
            *out = SCHEME_FIRST;
        else if (s.n == 5 && memcmp(s.s, "never", 5) == 0)
            *out = SCHEME_NEVER;
        else if (!(s.n == 6 && memcmp(s.s, "always", 6) == 0))
            return err_set(e, "Metaspace: prepend_scheme \"%.*s\" is not known", (int)s.n, s.s);
    }
    if (!obj_flag(v, "add_prefix_space", true))
        *out = SCHEME_NEVER;
    return 0;
}

static int parse_one(struct tokenizer *t, struct json v, struct pre *m, struct err *e)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static const struct {
        const char *name;
        enum pre_kind kind;
    } names[] = {
        { "Split", PRE_SPLIT },
        { "ByteLevel", PRE_BYTELEVEL },
        { "Metaspace", PRE_METASPACE },
        { "WhitespaceSplit", PRE_WHITESPACE_SPLIT },
        { "Whitespace", PRE_WHITESPACE },
        { "Digits", PRE_DIGITS },
        { "Punctuation", PRE_PUNCTUATION },
        { "BertPreTokenizer", PRE_BERT },
        { "CharDelimiterSplit", PRE_CHAR },
        { "FixedLength", PRE_FIXED },
    };
    struct str type, s;
    struct json x;
    int64_t n;
    if (!obj_str(&t->arena, v, "type", &type))
        return err_set(e, "a pre-tokenizer without a type");
    size_t i = 0, count = sizeof names / sizeof names[0];
    while (i < count && !(strlen(names[i].name) == type.n && memcmp(names[i].name, type.s, type.n) == 0))
        i++;
    if (i == count)
        return err_set(e, "pre-tokenizer \"%.*s\" is not supported", (int)type.n, type.s);
    m->kind = names[i].kind;
    switch (m->kind) {
    case PRE_SPLIT:
        return split_parse(t, v, m, e);
    case PRE_BYTELEVEL:
        m->prefix = obj_flag(v, "add_prefix_space", true);
        m->use_regex = obj_flag(v, "use_regex", true);
        return m->use_regex ? regex_open(&m->re, gpt2, sizeof gpt2 - 1, e) : 0;
    case PRE_METASPACE:
        m->split = obj_flag(v, "split", true);
        if (!obj_str(&t->arena, v, "replacement", &m->text) || m->text.n == 0 ||
            m->text.n != (uint32_t)uni_len((unsigned char)m->text.s[0]))
            return err_set(e, "pre-tokenizer Metaspace: replacement is not one character");
        if (scheme_parse(t, v, &m->scheme, e) < 0)
            return -1;
        if (m->scheme == SCHEME_FIRST)
            t->need_track = true;
        return 0;
    case PRE_DIGITS:
        m->individual = obj_flag(v, "individual_digits", false);
        return 0;
    case PRE_PUNCTUATION:
        m->behavior = SPLIT_ISOLATED;
        return obj_str(&t->arena, v, "behavior", &s) ? behavior_parse(s, &m->behavior, e) : 0;
    case PRE_CHAR:
        if (!obj_str(&t->arena, v, "delimiter", &m->text) || m->text.n == 0)
            return err_set(e, "pre-tokenizer CharDelimiterSplit without a delimiter");
        return 0;
    case PRE_FIXED:
        if (!obj_get(v, "length", &x) || !json_int(x, &n) || n < 1 || n > INT32_MAX)
            return err_set(e, "pre-tokenizer FixedLength: length is not a number above 0");
        m->length = (uint32_t)n;
        return 0;
    default:
        return 0;
    }
}

static int parse(struct tokenizer *t, struct json v, int depth, struct err *e)
{
    struct json list, x;
    if (json_get(v, "type", &x) && json_str_is(x, "Sequence")) {
        if (depth > 8)
            return err_set(e, "pre-tokenizers nested deeper than 8");
        if (!json_get(v, "pretokenizers", &list) || json_kind(list) != JSON_ARRAY)
            return err_set(e, "pre-tokenizer Sequence without a list \"pretokenizers\"");
        struct json_iter it = json_each(list);
        while (json_next(&it, NULL, &x))
            if (parse(t, x, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    t->pre = xreallocarray(t->pre, t->n_pre + 1, sizeof *t->pre);
    memset(&t->pre[t->n_pre], 0, sizeof *t->pre);
    return parse_one(t, v, &t->pre[t->n_pre++], e);
}

int pre_parse(struct tokenizer *t, struct json v, struct err *e)
{
    return json_kind(v) == JSON_NULL || json_kind(v) == JSON_NONE ? 0 : parse(t, v, 0, e);
}
