/* compress_scores.c - what the model said of a text, in a file, so that new ratios need no model.
 *
 * A line: {"text": HASH, "settings": TEXT, "model": FINGERPRINT, "family": WORD, "chunks": [[first, n], ...], "begin":
 * [...], "end": [...], "flags": "0110..", "p": [...]} and, in compat, "pieces": TEXT and "spans": [[begin, end], ...]
 * of the chunks' texts. HASH is xxh3-128 of text and settings; floats are the shortest text that reads back the same.
 */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "io/record.h"
#include "task/compress_private.h"

void scores_settings(const struct compress_spec *s, struct buf *b)
{
    buf_puts(b, s->method == COMPRESS_SURPRISAL ? "surprisal" : "llmlingua2");
    if (!s->rule.compat)
        return;
    buf_printf(b, " compat%s", s->rule.fixed_specials ? " fixed-specials" : "");
    for (size_t i = 0; i < s->rule.nforce; i++)
        buf_printf(b, " force=%s", s->rule.force[i]);
}

static struct hash128 key_of(const char *settings, const struct buf *text)
{
    struct hasher *h = hasher_new();
    hasher_add(h, settings, strlen(settings) + 1);
    hasher_add(h, text->s ? text->s : "", text->len);
    struct hash128 x = hasher_get(h);
    hasher_free(h);
    return x;
}

static const char *const family_name[] = { [LINGUA_XLMR] = "xlmr", [LINGUA_BERT] = "bert", [LINGUA_CAUSAL] = "causal" };

/* ---- writing ---- */

static void list_key(struct buf *out, const char *key)
{
    buf_printf(out, ", \"%s\": [", key);
}

static void put_number(struct buf *out, uint32_t v, bool first)
{
    char digit[12];
    size_t n = sizeof digit;
    do
        digit[--n] = (char)('0' + v % 10);
    while (v /= 10);
    if (!first)
        buf_puts(out, ", ");
    buf_add(out, digit + n, sizeof digit - n);
}

static void put_pairs(struct buf *out, const struct lingua_text *t, bool spans)
{
    for (size_t i = 0; i < t->nchunk; i++) {
        const struct lingua_chunk *c = &t->chunk[i];
        buf_printf(out, "%s[%u, %u]", i ? ", " : "", spans ? c->b : c->first, spans ? c->e : c->n);
    }
    buf_putc(out, ']');
}

void scores_write(const char *settings, const char *model, enum lingua_family family, const struct lingua_text *t,
                  const struct buf *text, bool compat, struct buf *out)
{
    char hex[HASH_HEX];
    hash_hex(key_of(settings, text), hex);
    rec_begin(out);
    rec_put_cstr(out, "text", hex);
    rec_put_cstr(out, "settings", settings);
    rec_put_cstr(out, "model", model);
    rec_put_cstr(out, "family", family_name[family]);
    list_key(out, "chunks");
    put_pairs(out, t, false);
    list_key(out, "begin");
    for (size_t i = 0; i < t->n; i++)
        put_number(out, t->piece[i].b, i == 0);
    buf_putc(out, ']');
    list_key(out, "end");
    for (size_t i = 0; i < t->n; i++)
        put_number(out, t->piece[i].e, i == 0);
    buf_puts(out, "], \"flags\": \"");
    for (size_t i = 0; i < t->n; i++)
        buf_putc(out, "0123456789abcdef"[t->piece[i].flags & 15]);
    buf_putc(out, '"');
    list_key(out, "p");
    for (size_t i = 0; i < t->n; i++) {
        if (i)
            buf_puts(out, ", ");
        json_put_float(out, t->piece[i].p);
    }
    buf_putc(out, ']');
    if (compat) {
        list_key(out, "spans");
        put_pairs(out, t, true);
        rec_put_text(out, "pieces", t->s.s ? t->s.s : "", t->s.len);
    }
    rec_end(out);
}

/* ---- reading ---- */

struct entry {
    struct hash128 key;
    size_t at, n;
};

struct scores {
    char *path, *settings;
    enum lingua_family family; /* of the first line */
    struct buf lines;
    struct entry *entry;
    size_t n, cap;
};

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->key.hi != y->key.hi)
        return x->key.hi < y->key.hi ? -1 : 1;
    return x->key.lo < y->key.lo ? -1 : x->key.lo > y->key.lo;
}

static int add_line(struct scores *s, const struct rec *r, struct err *e)
{
    struct buf text = BUF_INIT;
    struct entry x = { { 0, 0 }, s->lines.len, r->len };
    if (rec_text(r, "text", &text, e) < 0 || !hash_parse(text.s, &x.key)) {
        buf_release(&text);
        return e->msg[0] ? -1 : err_set(e, "%s: \"text\" is not a hash of 32 digits", r->where);
    }
    buf_release(&text);
    struct json family;
    for (int i = 0; s->n == 0 && i < 3; i++)
        if (rec_get(r, "family", &family) && json_str_is(family, family_name[i]))
            s->family = (enum lingua_family)i;
    buf_add(&s->lines, r->line, r->len);
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->entry = xreallocarray(s->entry, s->cap, sizeof *s->entry);
    }
    s->entry[s->n++] = x;
    return 0;
}

int scores_open(struct scores **out, const char *path, const char *settings, struct err *e)
{
    struct scores *s = xcalloc(1, sizeof *s);
    struct rec_reader *in = NULL;
    struct rec r;
    *out = NULL;
    s->path = xstrdup(path);
    s->settings = xstrdup(settings);
    int rc = rec_open(&in, &path, 1, e);
    while (rc == 0) {
        int got = rec_read(in, &r, e);
        if (got <= 0) {
            rc = got;
            break;
        }
        rc = add_line(s, &r, e);
    }
    rec_close(in);
    if (rc < 0) {
        scores_close(s);
        return -1;
    }
    if (s->n)
        qsort(s->entry, s->n, sizeof *s->entry, by_key);
    *out = s;
    return 0;
}

enum lingua_family scores_family(const struct scores *s)
{
    return s->family;
}

void scores_close(struct scores *s)
{
    if (!s)
        return;
    free(s->path);
    free(s->settings);
    buf_release(&s->lines);
    free(s->entry);
    free(s);
}

static bool next_u32(struct json_iter *it, uint32_t *out)
{
    struct json v;
    int64_t x;
    if (!json_next(it, NULL, &v) || !json_int(v, &x) || x < 0 || x > UINT32_MAX)
        return false;
    *out = (uint32_t)x;
    return true;
}

static struct json_iter list_of(const struct rec *r, const char *key)
{
    struct json v = { "[]", 2 };
    rec_get(r, key, &v);
    return json_each(v);
}

static bool read_pieces(const struct rec *r, struct lingua_text *t)
{
    struct json flags;
    struct json_iter b = list_of(r, "begin"), e = list_of(r, "end"), p = list_of(r, "p");
    if (!rec_get(r, "flags", &flags) || json_kind(flags) != JSON_STRING || !json_str_plain(flags))
        return false;
    t->n = flags.n - 2;
    if (t->cap < t->n) {
        t->cap = t->n;
        t->piece = xreallocarray(t->piece, t->cap, sizeof *t->piece);
    }
    for (size_t i = 0; i < t->n; i++) {
        struct lingua_piece *x = &t->piece[i];
        struct json v;
        double d;
        char c = flags.s[1 + i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) || !next_u32(&b, &x->b) || !next_u32(&e, &x->e) ||
            !json_next(&p, NULL, &v) || !json_double(v, &d))
            return false;
        if (x->b > x->e || x->e > t->s.len)
            return false;
        x->id = -1;
        x->p = (float)d;
        x->flags = (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static bool read_chunks(const struct rec *r, bool compat, struct lingua_text *t)
{
    struct json_iter list = list_of(r, "chunks"), spans = list_of(r, "spans");
    struct json pair;
    uint32_t at = 0;
    t->nchunk = 0;
    while (json_next(&list, NULL, &pair)) {
        struct json_iter it = json_each(pair);
        struct lingua_chunk c = { 0, 0, 0, 0, false };
        if (!next_u32(&it, &c.first) || !next_u32(&it, &c.n) || c.first != at || c.n > t->n - at)
            return false;
        at += c.n;
        if (compat) {
            if (!json_next(&spans, NULL, &pair))
                return false;
            it = json_each(pair);
            if (!next_u32(&it, &c.b) || !next_u32(&it, &c.e) || c.b > c.e || c.e > t->s.len)
                return false;
        }
        if (t->nchunk == t->chunk_cap) {
            t->chunk_cap = t->chunk_cap ? t->chunk_cap * 2 : 8;
            t->chunk = xreallocarray(t->chunk, t->chunk_cap, sizeof *t->chunk);
        }
        t->chunk[t->nchunk++] = c;
    }
    return at == t->n;
}

int scores_find(const struct scores *s, const struct buf *text, const char *label, bool compat, struct lingua_text *t,
                struct err *e)
{
    struct entry want = { key_of(s->settings, text), 0, 0 };
    const struct entry *x = s->n ? bsearch(&want, s->entry, s->n, sizeof want, by_key) : NULL;
    if (!x)
        return err_set(e, "%s: %s has no scores of this text with these settings (%s)", label, s->path, s->settings);
    struct rec r;
    if (rec_parse(&r, s->lines.s + x->at, x->n, s->path, e) < 0)
        return -1;
    buf_reset(&t->s);
    bool ok = true;
    if (compat) {
        struct err ignore;
        ok = rec_text(&r, "pieces", &t->s, &ignore) == 0;
    } else {
        buf_add(&t->s, text->s ? text->s : "", text->len);
    }
    ok = ok && read_pieces(&r, t) && read_chunks(&r, compat, t);
    rec_release(&r);
    return ok ? 0 : err_set(e, "%s: %s has broken scores of this text", label, s->path);
}
