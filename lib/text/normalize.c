/* normalize.c - the normalizer section of tokenizer.json: parsing and running. Order and quirks are the reference's. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/parts.h"
#include "text/unicode.h"

/* ---- SentencePiece's compiled character map ---- */

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static int base64_decode(const char *s, size_t n, struct buf *out)
{
    uint32_t acc = 0;
    int bits = 0;
    while (n && s[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        int v = base64_value(s[i]);
        if (v < 0)
            return -1;
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_putc(out, (char)(acc >> bits & 0xff));
        }
    }
    return 0;
}

static uint32_t le32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

/* The first (shortest) key that prefixes s[0..n), as the reference does it (SentencePiece itself takes the longest). */
static const char *charsmap_find(const struct charsmap *m, const char *s, size_t n)
{
    if (m->units == 0)
        return NULL;
    size_t p = 0;
    uint32_t u = m->unit[0];
    p ^= (size_t)(u >> 10) << ((u & 0x200) >> 6);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == 0)
            return NULL;
        p ^= c;
        if (p >= m->units)
            return NULL;
        u = m->unit[p];
        if ((u & 0x800000ffu) != c)
            return NULL;
        p ^= (size_t)(u >> 10) << ((u & 0x200) >> 6);
        if (u >> 8 & 1) {
            if (p >= m->units)
                return NULL;
            size_t at = m->unit[p] & 0x7fffffff;
            return at <= m->pool_n ? m->pool + at : NULL;
        }
    }
    return NULL;
}

int charsmap_parse(struct charsmap *m, struct json v, struct err *e)
{
    struct buf text = BUF_INIT, blob = BUF_INIT;
    json_str(v, &text);
    int rc = base64_decode(text.s ? text.s : "", text.len, &blob);
    buf_release(&text);
    uint32_t bytes = blob.len >= 4 ? le32(blob.s) : 0;
    if (rc < 0 || blob.len < 4 || bytes > blob.len - 4 || bytes % 4) {
        err_set(e, "precompiled_charsmap is not a character map of SentencePiece (%zu bytes)", blob.len);
        buf_release(&blob);
        return -1;
    }
    m->units = bytes / 4;
    m->unit = xreallocarray(NULL, m->units + 1, sizeof *m->unit);
    for (size_t i = 0; i < m->units; i++)
        m->unit[i] = le32(blob.s + 4 + 4 * i);
    m->pool_n = blob.len - 4 - bytes;
    m->pool = xmalloc(m->pool_n + 1);
    memcpy(m->pool, blob.s + 4 + bytes, m->pool_n);
    m->pool[m->pool_n] = '\0';
    buf_release(&blob);
    for (int c = 0; c < 128; c++) {
        char one = (char)c;
        m->plain[c] = !charsmap_find(m, &one, 1);
    }
    return 0;
}

/* The change counts of a mapped part are known only when the next is: what is removed is booked on the character
 * written last, whichever part that came from. */
struct pending {
    struct nstr *ns;
    uint32_t cp;
    long change;
    bool have;
};

static void put_later(struct pending *p, uint32_t cp, long change)
{
    if (p->have)
        nstr_put(p->ns, p->cp, p->change);
    *p = (struct pending){ p->ns, cp, change, true };
}

/* Replaces `old` characters by those of text: the surplus at the end counts as new. */
static void put_mapped(struct pending *p, const char *text, long old)
{
    long count = 0, k = 0;
    size_t n = utf8_check(text, strlen(text)); /* what is no UTF-8 in a broken map is left out */
    for (size_t i = 0; i < n; i += (size_t)uni_len((unsigned char)text[i]))
        count++;
    for (size_t i = 0; i < n; k++) {
        uint32_t cp;
        i += (size_t)uni_get(text + i, &cp);
        put_later(p, cp, k >= old);
    }
    if (count < old && p->have)
        p->change -= old - count;
}

static void precompiled_cluster(struct pending *p, const struct charsmap *m, const char *s, size_t n)
{
    const char *to;
    if (n < 6 && (to = charsmap_find(m, s, n))) {
        long count = 0;
        for (size_t i = 0; i < n; i += (size_t)uni_len((unsigned char)s[i]))
            count++;
        put_mapped(p, to, count);
        return;
    }
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)uni_get(s + i, &cp);
        if ((to = charsmap_find(m, s + i, len)))
            put_mapped(p, to, 1);
        else
            put_later(p, cp, 0);
        i += len;
    }
}

/* Is it a cluster of its own before another ASCII character, and not in the map? (CR LF is one cluster.) */
static bool stays(const struct charsmap *m, char c)
{
    return (unsigned char)c < 0x80 && m->plain[(unsigned char)c] && c != '\r';
}

static void precompiled(struct nstr *ns, const struct charsmap *m)
{
    const char *s = ns->s;
    size_t n = ns->n;
    struct pending p = { ns, 0, 0, false };
    nstr_begin(ns, 0);
    for (size_t i = 0; i < n;) { /* extended grapheme clusters */
        uint32_t cp, next;
        size_t plain = i;
        while (plain + 1 < n && stays(m, s[plain]) && (unsigned char)s[plain + 1] < 0x80)
            plain++;
        if (plain - i > 1) { /* ASCII that stays: all but the last of it at once */
            if (p.have)
                nstr_put(ns, p.cp, p.change);
            p.have = false;
            nstr_keep(ns, s + i, plain - i - 1);
            i = plain - 1;
        }
        size_t end = i + (size_t)uni_get(s + i, &cp);
        utf8proc_int32_t state = 0;
        while (end < n) {
            int len = uni_get(s + end, &next);
            if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state))
                break;
            end += (size_t)len;
            cp = next;
        }
        precompiled_cluster(&p, m, s + i, end - i);
        i = end;
    }
    if (p.have)
        nstr_put(ns, p.cp, p.change);
    nstr_end(ns);
}

/* ---- the small ones ---- */

/* Drops characters: those that are kept carry the count of dropped ones behind them. */
static void filter(struct nstr *ns, bool (*drop)(uint32_t c), uint32_t (*map)(uint32_t c))
{
    size_t i = 0, removed = 0;
    uint32_t cp, next;
    while (i < ns->n) {
        int len = uni_get(ns->s + i, &cp);
        if (!drop(cp))
            break;
        removed++;
        i += (size_t)len;
    }
    const char *s = ns->s;
    size_t n = ns->n;
    nstr_begin(ns, removed);
    while (i < n) {
        i += (size_t)uni_get(s + i, &cp);
        long change = 0;
        while (i < n) {
            int len = uni_get(s + i, &next);
            if (!drop(next))
                break;
            change--;
            i += (size_t)len;
        }
        nstr_put(ns, map ? map(cp) : cp, change);
    }
    nstr_end(ns);
}

static bool bert_unwanted(uint32_t c)
{
    return c == 0 || c == 0xfffd || (uni_is_other(c) && c != '\t' && c != '\n' && c != '\r');
}

static uint32_t bert_blank(uint32_t c)
{
    return uni_is_space(c) ? ' ' : c;
}

static void chinese(struct nstr *ns)
{
    const char *s = ns->s;
    size_t n = ns->n;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += (size_t)uni_get(s + i, &cp);
        if (uni_is_chinese(cp)) {
            nstr_put(ns, ' ', 0);
            nstr_put(ns, cp, 1);
            nstr_put(ns, ' ', 1);
        } else {
            nstr_put(ns, cp, 0);
        }
    }
    nstr_end(ns);
}

static void lowercase(struct nstr *ns)
{
    const char *s = ns->s;
    size_t n = ns->n;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < n;) {
        uint32_t cp, out[3];
        i += (size_t)uni_get(s + i, &cp);
        int count = uni_lower(cp, out);
        for (int k = 0; k < count; k++)
            nstr_put(ns, out[k], k > 0);
    }
    nstr_end(ns);
}

static bool all_ascii(const struct nstr *ns)
{
    for (size_t i = 0; i < ns->n; i++)
        if ((unsigned char)ns->s[i] >= 0x80)
            return false;
    return true;
}

static void bert(struct nstr *ns, const struct norm *m)
{
    if (m->clean)
        filter(ns, bert_unwanted, bert_blank);
    bool ascii = all_ascii(ns);
    if (m->chinese && !ascii)
        chinese(ns);
    if (m->accents && !ascii) {
        nstr_normalize(ns, false, false);
        filter(ns, uni_is_mn, NULL);
    }
    if (m->lower)
        lowercase(ns);
}

static void strip(struct nstr *ns, bool left, bool right)
{
    size_t b = 0, e = ns->n, removed = 0;
    uint32_t cp;
    while (left && b < e) {
        int len = uni_get(ns->s + b, &cp);
        if (!uni_is_space(cp))
            break;
        b += (size_t)len;
        removed++;
    }
    while (right && e > b) {
        size_t i = e - 1;
        while (i > b && ((unsigned char)ns->s[i] & 0xc0) == 0x80)
            i--;
        uni_get(ns->s + i, &cp);
        if (!uni_is_space(cp))
            break;
        e = i;
    }
    if (b == 0 && e == ns->n)
        return;
    nstr_begin(ns, removed);
    nstr_copy(ns, b, e);
    nstr_end(ns);
}

static void prepend(struct nstr *ns, struct str a)
{
    if (ns->n == 0)
        return;
    nstr_begin(ns, 0);
    nstr_add(ns, a.s, a.n, ns->track ? ns->al[0] : (struct span){ 0, 0 });
    nstr_copy(ns, 0, ns->n);
    nstr_end(ns);
}

static void append(struct nstr *ns, struct str a)
{
    if (ns->n == 0)
        return;
    nstr_begin(ns, 0);
    nstr_copy(ns, 0, ns->n);
    nstr_add(ns, a.s, a.n, ns->track ? ns->al[ns->n - 1] : (struct span){ 0, 0 });
    nstr_end(ns);
}

/* Next occurrence of the pattern at or after from: 1, 0 or -1. An empty match right behind the last one is passed. */
static int next_match(const struct norm *m, struct tok_scratch *sc, const char *s, size_t n, size_t from, size_t last,
                      size_t *b, size_t *e, struct err *err)
{
    if (!m->re) {
        const char *p = m->a.n && n - from >= m->a.n ? find_bytes(s + from, n - from, m->a.s, m->a.n) : NULL;
        if (!p)
            return 0;
        *b = (size_t)(p - s);
        *e = *b + m->a.n;
        return 1;
    }
    for (;;) {
        if (from > n)
            return 0;
        int rc = regex_find(m->re, &sc->md, s, n, from, b, e, err);
        if (rc != 1 || *b != *e || *b != last)
            return rc;
        from = *e < n ? *e + (size_t)uni_len((unsigned char)s[*e]) : n + 1;
    }
}

static int replace(struct nstr *ns, const struct norm *m, struct tok_scratch *sc, struct err *err)
{
    size_t b, e, at = 0, from = 0, last = SIZE_MAX;
    int rc = next_match(m, sc, ns->s, ns->n, from, last, &b, &e, err);
    if (rc <= 0 || ns->n == 0)
        return rc;
    nstr_begin(ns, 0);
    while (rc == 1) {
        nstr_copy(ns, at, b);
        struct span al = { ns->shift, ns->shift };
        if (ns->track && e > 0)
            al = ns->al[e - 1];
        nstr_add(ns, m->b.s, m->b.n, al);
        at = from = last = e;
        rc = next_match(m, sc, ns->s, ns->n, from, last, &b, &e, err);
    }
    if (rc < 0)
        return -1;
    nstr_copy(ns, at, ns->n);
    nstr_end(ns);
    return 0;
}

static void bytelevel(struct nstr *ns)
{
    const char *s = ns->s;
    size_t n = ns->n;
    nstr_begin(ns, 0);
    for (size_t i = 0; i < n;) {
        int len = uni_len((unsigned char)s[i]);
        for (int k = 0; k < len; k++)
            nstr_put(ns, byte_letter[(unsigned char)s[i + (size_t)k]], k > 0);
        i += (size_t)len;
    }
    nstr_end(ns);
}

static bool nmt_unwanted(uint32_t c)
{
    return (c >= 1 && c <= 8) || c == 11 || (c >= 14 && c <= 31) || c == 127 || c == 143 || c == 159;
}

static uint32_t nmt_map(uint32_t c)
{
    switch (c) {
    case 9:
    case 10:
    case 12:
    case 13:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x2581:
    case 0xfeff:
    case 0xfffd:
        return ' ';
    default:
        return c >= 0x200b && c <= 0x200f ? ' ' : c;
    }
}

int norm_run(const struct tokenizer *t, struct tok_scratch *sc, struct nstr *ns, struct err *e)
{
    for (size_t i = 0; i < t->n_norm; i++) {
        const struct norm *m = &t->norm[i];
        switch (m->kind) {
        case NORM_NFC:
            nstr_normalize(ns, true, false);
            break;
        case NORM_NFD:
            nstr_normalize(ns, false, false);
            break;
        case NORM_NFKC:
            nstr_normalize(ns, true, true);
            break;
        case NORM_NFKD:
            nstr_normalize(ns, false, true);
            break;
        case NORM_LOWERCASE:
            lowercase(ns);
            break;
        case NORM_STRIP_ACCENTS:
            filter(ns, uni_is_mark, NULL);
            break;
        case NORM_STRIP:
            strip(ns, m->left, m->right);
            break;
        case NORM_PREPEND:
            prepend(ns, m->a);
            break;
        case NORM_APPEND:
            append(ns, m->a);
            break;
        case NORM_REPLACE:
            if (replace(ns, m, sc, e) < 0)
                return -1;
            break;
        case NORM_BYTELEVEL:
            bytelevel(ns);
            break;
        case NORM_BERT:
            bert(ns, m);
            break;
        case NORM_NMT:
            filter(ns, nmt_unwanted, nmt_map);
            break;
        case NORM_PRECOMPILED:
            precompiled(ns, &m->map);
            break;
        }
    }
    return 0;
}

/* ---- parsing ---- */

static int pattern_parse(struct tokenizer *t, struct json v, struct str *text, struct regex **re, struct err *e)
{
    struct json p;
    if (!obj_get(v, "pattern", &p))
        return err_set(e, "pattern is missing");
    if (obj_str(&t->arena, p, "String", text))
        return 0;
    if (obj_str(&t->arena, p, "Regex", text))
        return regex_open(re, text->s, text->n, e);
    return err_set(e, "pattern is neither {\"String\": ...} nor {\"Regex\": ...}");
}

static int parse_one(struct tokenizer *t, struct json v, struct norm *m, struct err *e)
{
    static const struct {
        const char *name;
        enum norm_kind kind;
    } names[] = {
        { "NFC", NORM_NFC },
        { "NFD", NORM_NFD },
        { "NFKC", NORM_NFKC },
        { "NFKD", NORM_NFKD },
        { "Lowercase", NORM_LOWERCASE },
        { "StripAccents", NORM_STRIP_ACCENTS },
        { "Strip", NORM_STRIP },
        { "Prepend", NORM_PREPEND },
        { "Append", NORM_APPEND },
        { "Replace", NORM_REPLACE },
        { "ByteLevel", NORM_BYTELEVEL },
        { "BertNormalizer", NORM_BERT },
        { "Nmt", NORM_NMT },
        { "Precompiled", NORM_PRECOMPILED },
    };
    struct str type;
    struct json x;
    if (!obj_str(&t->arena, v, "type", &type))
        return err_set(e, "a normalizer without a type");
    size_t i = 0, count = sizeof names / sizeof names[0];
    while (i < count && !(strlen(names[i].name) == type.n && memcmp(names[i].name, type.s, type.n) == 0))
        i++;
    if (i == count)
        return err_set(e, "normalizer \"%.*s\" is not supported", (int)type.n, type.s);
    m->kind = names[i].kind;
    m->left = obj_flag(v, "strip_left", true);
    m->right = obj_flag(v, "strip_right", true);
    m->clean = obj_flag(v, "clean_text", true);
    m->chinese = obj_flag(v, "handle_chinese_chars", true);
    m->lower = obj_flag(v, "lowercase", true);
    m->accents = obj_flag(v, "strip_accents", m->lower);
    if (m->kind == NORM_PREPEND && !obj_str(&t->arena, v, "prepend", &m->a))
        return err_set(e, "normalizer Prepend without \"prepend\"");
    if (m->kind == NORM_APPEND && !obj_str(&t->arena, v, "append", &m->a))
        return err_set(e, "normalizer Append without \"append\"");
    if (m->kind == NORM_REPLACE) {
        if (pattern_parse(t, v, &m->a, &m->re, e) < 0)
            return err_prefix(e, "normalizer Replace");
        if (!obj_str(&t->arena, v, "content", &m->b))
            return err_set(e, "normalizer Replace without \"content\"");
        if (!m->re && m->a.n == 0 && regex_open(&m->re, "", 0, e) < 0)
            return -1;
    }
    if (m->kind == NORM_PRECOMPILED) {
        if (!obj_get(v, "precompiled_charsmap", &x) || json_kind(x) != JSON_STRING)
            return err_set(e, "normalizer Precompiled without a precompiled_charsmap");
        return charsmap_parse(&m->map, x, e);
    }
    return 0;
}

static int parse(struct tokenizer *t, struct json v, int depth, struct err *e)
{
    struct json list, x;
    if (json_get(v, "type", &x) && json_str_is(x, "Sequence")) {
        if (depth > 8)
            return err_set(e, "normalizers nested deeper than 8");
        if (!json_get(v, "normalizers", &list) || json_kind(list) != JSON_ARRAY)
            return err_set(e, "normalizer Sequence without a list \"normalizers\"");
        struct json_iter it = json_each(list);
        while (json_next(&it, NULL, &x))
            if (parse(t, x, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    t->norm = xreallocarray(t->norm, t->n_norm + 1, sizeof *t->norm);
    memset(&t->norm[t->n_norm], 0, sizeof *t->norm);
    return parse_one(t, v, &t->norm[t->n_norm++], e);
}

int norm_parse(struct tokenizer *t, struct json v, struct err *e)
{
    return json_kind(v) == JSON_NULL || json_kind(v) == JSON_NONE ? 0 : parse(t, v, 0, e);
}
