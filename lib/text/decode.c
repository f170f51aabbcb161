/* decode.c - the decoder section: ids to text, whole or as they arrive.
 *
 * Decoders map a list of token texts to another list; the text is what is left, joined. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/added.h"
#include "text/parts.h"
#include "text/unicode.h"

/* A list of texts: one buffer, and where each ends. */
struct list {
    struct buf s;
    size_t *end;
    size_t n, cap;
};

static void list_close(struct list *l) /* ends the text being written */
{
    l->end = grow(l->end, &l->cap, l->n + 1, sizeof *l->end);
    l->end[l->n++] = l->s.len;
}

static struct str list_at(const struct list *l, size_t i)
{
    size_t b = i ? l->end[i - 1] : 0;
    if (!l->s.s)
        return (struct str){ "", 0 };
    return (struct str){ l->s.s + b, (uint32_t)(l->end[i] - b) };
}

static void list_reset(struct list *l)
{
    buf_reset(&l->s);
    l->n = 0;
}

static void list_release(struct list *l)
{
    buf_release(&l->s);
    free(l->end);
}

/* ---- the decoders ---- */

/* One token's bytes: its letters, or its text as it is if any character is no letter. */
static void bytelevel_token(struct str s, struct buf *out)
{
    char *p = buf_grow(out, s.n + 1);
    size_t n = 0;
    uint32_t cp;
    for (uint32_t i = 0; i < s.n;) {
        i += (uint32_t)uni_get(s.s + i, &cp);
        int b = letter_byte(cp);
        if (b < 0) {
            buf_add(out, s.s, s.n);
            return;
        }
        p[n++] = (char)b;
    }
    out->len += n;
    p[n] = '\0';
}

static void bytelevel(const struct list *in, struct list *out)
{
    struct buf raw = BUF_INIT;
    for (size_t i = 0; i < in->n; i++)
        bytelevel_token(list_at(in, i), &raw);
    uni_repair(raw.s ? raw.s : "", raw.len, &out->s);
    list_close(out);
    buf_release(&raw);
}

static int replace_in(const struct dec *d, void **md, struct str s, struct buf *out, struct err *e)
{
    size_t at = 0, from = 0, last = SIZE_MAX, b = 0, end = 0;
    for (;;) {
        if (d->re) {
            int rc = from <= s.n ? regex_find(d->re, md, s.s, s.n, from, &b, &end, e) : 0;
            if (rc < 0)
                return -1;
            if (rc == 0)
                break;
            if (b == end && b == last) {
                from = end < s.n ? end + (size_t)uni_len((unsigned char)s.s[end]) : (size_t)s.n + 1;
                continue;
            }
        } else {
            const char *p = d->a.n ? find_bytes(s.s + from, s.n - from, d->a.s, d->a.n) : NULL;
            if (!p)
                break;
            b = (size_t)(p - s.s);
            end = b + d->a.n;
        }
        buf_add(out, s.s + at, b - at);
        buf_add(out, d->b.s, d->b.n);
        at = from = last = end;
    }
    buf_add(out, s.s + at, s.n - at);
    return 0;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static int byte_token(struct str s)
{
    if (s.n != 6 || memcmp(s.s, "<0x", 3) != 0 || s.s[5] != '>')
        return -1;
    int hi = hex(s.s[3]), lo = hex(s.s[4]);
    return hi < 0 || lo < 0 ? -1 : hi << 4 | lo;
}

static void flush_bytes(struct buf *raw, struct list *out)
{
    if (raw->len == 0)
        return;
    if (utf8_check(raw->s, raw->len) == raw->len) {
        buf_add(&out->s, raw->s, raw->len);
        list_close(out);
    } else {
        for (size_t i = 0; i < raw->len; i++) {
            buf_add(&out->s, "\xef\xbf\xbd", 3);
            list_close(out);
        }
    }
    buf_reset(raw);
}

static void bytefallback(const struct list *in, struct list *out)
{
    struct buf raw = BUF_INIT;
    for (size_t i = 0; i < in->n; i++) {
        struct str s = list_at(in, i);
        int b = byte_token(s);
        if (b >= 0) {
            buf_putc(&raw, (char)b);
            continue;
        }
        flush_bytes(&raw, out);
        buf_add(&out->s, s.s, s.n);
        list_close(out);
    }
    flush_bytes(&raw, out);
    buf_release(&raw);
}

static struct str strip(const struct dec *d, struct str s)
{
    uint32_t b = 0, e = s.n, k = d->a.n;
    for (uint32_t i = 0; i < d->start && e - b >= k && memcmp(s.s + b, d->a.s, k) == 0; i++)
        b += k;
    for (uint32_t i = 0; i < d->stop && e - b >= k && memcmp(s.s + e - k, d->a.s, k) == 0; i++)
        e -= k;
    return (struct str){ s.s + b, e - b };
}

static void metaspace(const struct dec *d, struct str s, bool first, struct buf *out)
{
    for (uint32_t i = 0; i < s.n;) {
        uint32_t len = (uint32_t)uni_len((unsigned char)s.s[i]);
        if (len == d->a.n && memcmp(s.s + i, d->a.s, len) == 0) {
            if (!(first && d->scheme != SCHEME_NEVER))
                buf_putc(out, ' ');
        } else {
            buf_add(out, s.s + i, len);
        }
        i += len;
    }
}

static void replace_all(struct buf *b, const char *from, const char *to)
{
    size_t n = strlen(from);
    const char *p = b->s ? find_bytes(b->s, b->len, from, n) : NULL;
    if (!p)
        return;
    struct buf out = BUF_INIT;
    const char *at = b->s, *end = b->s + b->len;
    while (p) {
        buf_add(&out, at, (size_t)(p - at));
        buf_puts(&out, to);
        at = p + n;
        p = find_bytes(at, (size_t)(end - at), from, n);
    }
    buf_add(&out, at, (size_t)(end - at));
    buf_release(b);
    *b = out;
}

/* do_not: the package's decoder has one rule more than transformers' clean-up. */
static void clean_up(struct buf *b, bool do_not)
{
    static const char *const rules[][2] = { { " .", "." },     { " ?", "?" },           { " !", "!" },
                                            { " ,", "," },     { " ' ", "'" },          { " n't", "n't" },
                                            { " 'm", "'m" },   { " do not", " don't" }, { " 's", "'s" },
                                            { " 've", "'ve" }, { " 're", "'re" } };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (do_not || i != 7)
            replace_all(b, rules[i][0], rules[i][1]);
}

static void wordpiece(const struct dec *d, struct str s, bool first, struct list *out)
{
    struct buf b = BUF_INIT;
    if (!first && s.n >= d->a.n && memcmp(s.s, d->a.s, d->a.n) == 0) {
        buf_add(&b, s.s + d->a.n, s.n - d->a.n);
    } else {
        if (!first)
            buf_putc(&b, ' ');
        buf_add(&b, s.s, s.n);
    }
    if (d->cleanup)
        clean_up(&b, true);
    buf_add(&out->s, b.s ? b.s : "", b.len);
    buf_release(&b);
}

static int step(const struct dec *d, void **md, const struct list *in, struct list *out, struct err *e)
{
    list_reset(out);
    if (d->kind == DEC_BYTELEVEL) {
        bytelevel(in, out);
        return 0;
    }
    if (d->kind == DEC_BYTEFALLBACK) {
        bytefallback(in, out);
        return 0;
    }
    if (d->kind == DEC_FUSE) {
        buf_add(&out->s, in->s.s ? in->s.s : "", in->s.len);
        list_close(out);
        return 0;
    }
    struct dec last = *d;
    for (size_t i = 0; i < in->n; i++) {
        struct str s = list_at(in, i);
        switch (d->kind) {
        case DEC_REPLACE:
            if (replace_in(d, md, s, &out->s, e) < 0)
                return -1;
            break;
        case DEC_STRIP:
            s = strip(d, s);
            buf_add(&out->s, s.s, s.n);
            break;
        case DEC_METASPACE:
            metaspace(d, s, i == 0, &out->s);
            break;
        case DEC_WORDPIECE:
            wordpiece(d, s, i == 0, out);
            break;
        default: /* BPEDecoder: the suffix is a blank, at the very end nothing */
            last.b = i + 1 == in->n ? (struct str){ "", 0 } : (struct str){ " ", 1 };
            if (replace_in(&last, md, s, &out->s, e) < 0)
                return -1;
        }
        list_close(out);
    }
    return 0;
}

/* Appends the text of id as the decoders get it; false: no such id. */
static bool token_text(const struct tokenizer *t, int32_t id, struct str *s, struct buf *tmp)
{
    if (added_text(t, id, s))
        return true;
    buf_reset(tmp);
    if (latent_text(t, id, tmp)) {
        *s = (struct str){ tmp->s, (uint32_t)tmp->len };
        return true;
    }
    if (id < 0 || (uint32_t)id >= t->model.v.size || !t->model.v.tok[id].s)
        return false;
    *s = t->model.v.tok[id];
    return true;
}

static int decode_ids(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out,
                      struct err *e)
{
    struct list a = { 0 }, b = { 0 };
    struct buf tmp = BUF_INIT;
    struct str s;
    void *md = NULL;
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        if ((skip_special && tokenizer_is_special(t, ids[i])) || !token_text(t, ids[i], &s, &tmp))
            continue;
        if (!t->has_dec && a.n)
            buf_putc(&a.s, ' ');
        buf_add(&a.s, s.s, s.n);
        list_close(&a);
    }
    for (size_t i = 0; rc == 0 && i < t->n_dec; i++) {
        rc = step(&t->dec[i], &md, &a, &b, e);
        struct list x = a;
        a = b;
        b = x;
    }
    if (rc == 0)
        buf_add(out, a.s.s ? a.s.s : "", a.s.len);
    regex_scratch_free(md);
    buf_release(&tmp);
    list_release(&a);
    list_release(&b);
    return rc < 0 ? err_prefix(e, "%s", t->name) : 0;
}

static bool only_bytelevel(const struct tokenizer *t)
{
    return t->n_dec == 1 && t->dec[0].kind == DEC_BYTELEVEL;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out,
                     struct err *e)
{
    struct buf raw = BUF_INIT, tmp = BUF_INIT;
    struct str s;
    if (only_bytelevel(t)) {
        for (size_t i = 0; i < n; i++)
            if (!(skip_special && tokenizer_is_special(t, ids[i])) && token_text(t, ids[i], &s, &tmp))
                bytelevel_token(s, &raw);
        if (!t->clean_up) {
            uni_repair(raw.s ? raw.s : "", raw.len, out);
        } else {
            buf_reset(&tmp);
            uni_repair(raw.s ? raw.s : "", raw.len, &tmp);
        }
    } else if (decode_ids(t, ids, n, skip_special, t->clean_up ? &tmp : out, e) < 0) {
        buf_release(&tmp);
        return -1;
    }
    if (t->clean_up) {
        clean_up(&tmp, false);
        buf_add(out, tmp.s ? tmp.s : "", tmp.len);
    }
    buf_release(&raw);
    buf_release(&tmp);
    return 0;
}

bool tokenizer_set_clean_up(struct tokenizer *t, bool on)
{
    bool was = t->clean_up;
    t->clean_up = on;
    return was;
}

/* ---- as they arrive ---- */

/* ByteLevel alone: bytes, of which the last up to three wait for the rest of their character. Else: a window of ids
 * whose text is decoded twice; the ids of byte tokens wait until the run of them ends, since one bad byte spoils it. */
struct tok_stream {
    const struct tokenizer *t;
    bool skip_special;
    struct buf raw, tmp, text;
    int32_t *id;
    size_t n, cap;
    size_t done; /* ids whose text is out; they stay as context */
};

int tok_stream_open(struct tok_stream **out, const struct tokenizer *t, bool skip_special, struct err *e)
{
    (void)e;
    struct tok_stream *s = xcalloc(1, sizeof *s);
    s->t = t;
    s->skip_special = skip_special;
    *out = s;
    return 0;
}

void tok_stream_close(struct tok_stream *s)
{
    if (!s)
        return;
    buf_release(&s->raw);
    buf_release(&s->tmp);
    buf_release(&s->text);
    free(s->id);
    free(s);
}

/* Bytes at the end of s that may be the beginning of a character. */
static size_t unfinished(const char *s, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = (unsigned char)s[n - k];
        if ((c & 0xc0) == 0x80)
            continue;
        if (c < 0xc2 || c > 0xf4 || (size_t)(c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4) <= k)
            return 0;
        if (k >= 2) { /* the second byte may already rule a character out */
            unsigned char d = (unsigned char)s[n - k + 1];
            if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
                (c == 0xf4 && d > 0x8f))
                return 0;
        }
        return k;
    }
    return 0;
}

static bool waits(const struct tokenizer *t, int32_t id, struct buf *tmp)
{
    struct str s;
    for (size_t i = 0; i < t->n_dec; i++)
        if (t->dec[i].kind == DEC_BYTEFALLBACK)
            return token_text(t, id, &s, tmp) && byte_token(s) >= 0;
    return false;
}

static bool holds_back(const struct tokenizer *t) /* decoders that look at the end of the list */
{
    for (size_t i = 0; i < t->n_dec; i++)
        if (t->dec[i].kind == DEC_BPE || (t->dec[i].kind == DEC_STRIP && t->dec[i].stop) ||
            (t->dec[i].kind == DEC_BYTELEVEL && t->n_dec > 1))
            return true;
    return false;
}

static int window_out(struct tok_stream *s, struct buf *out, struct err *e)
{
    buf_reset(&s->text);
    buf_reset(&s->tmp);
    if (decode_ids(s->t, s->id, s->done, s->skip_special, &s->tmp, e) < 0 ||
        decode_ids(s->t, s->id, s->n, s->skip_special, &s->text, e) < 0)
        return -1;
    if (s->text.len > s->tmp.len)
        buf_add(out, s->text.s + s->tmp.len, s->text.len - s->tmp.len);
    /* what is out becomes context; one token that was not skipped is context enough */
    size_t keep = s->n;
    while (keep > 0 && s->n - keep < 4)
        keep--;
    if (keep && s->text.len) {
        memmove(s->id, s->id + keep, (s->n - keep) * sizeof *s->id);
        s->n -= keep;
    }
    s->done = s->n;
    return 0;
}

int tok_stream_put(struct tok_stream *s, int32_t id, struct buf *out, struct err *e)
{
    struct str text;
    if ((s->skip_special && tokenizer_is_special(s->t, id)) || !token_text(s->t, id, &text, &s->tmp))
        return 0;
    if (only_bytelevel(s->t)) {
        bytelevel_token(text, &s->raw);
        size_t keep = unfinished(s->raw.s, s->raw.len), n = s->raw.len - keep;
        uni_repair(s->raw.s, n, out);
        memmove(s->raw.s, s->raw.s + n, keep);
        s->raw.len = keep;
        return 0;
    }
    s->id = grow(s->id, &s->cap, s->n + 1, sizeof *s->id);
    s->id[s->n++] = id;
    if (waits(s->t, id, &s->tmp) || holds_back(s->t))
        return 0;
    return window_out(s, out, e);
}

int tok_stream_end(struct tok_stream *s, struct buf *out, struct err *e)
{
    int rc = 0;
    if (only_bytelevel(s->t))
        uni_repair(s->raw.s ? s->raw.s : "", s->raw.len, out);
    else if (s->n > s->done)
        rc = window_out(s, out, e);
    buf_reset(&s->raw);
    s->n = s->done = 0;
    return rc;
}

/* ---- parsing ---- */

static bool is(struct str s, const char *name)
{
    return strlen(name) == s.n && memcmp(s.s, name, s.n) == 0;
}

static int replace_parse(struct tokenizer *t, struct json v, struct dec *d, struct err *e)
{
    struct json p;
    d->kind = DEC_REPLACE;
    if (!obj_str(&t->arena, v, "content", &d->b) || !obj_get(v, "pattern", &p))
        return err_set(e, "decoder Replace without pattern and content");
    if (obj_str(&t->arena, p, "String", &d->a))
        return d->a.n == 0 ? regex_open(&d->re, "", 0, e) : 0;
    if (obj_str(&t->arena, p, "Regex", &d->a))
        return regex_open(&d->re, d->a.s, d->a.n, e) < 0 ? err_prefix(e, "decoder Replace") : 0;
    return err_set(e, "decoder Replace: pattern is neither {\"String\": ...} nor {\"Regex\": ...}");
}

static int strip_parse(struct tokenizer *t, struct json v, struct dec *d, struct err *e)
{
    struct json x;
    int64_t start = 0, stop = 0;
    d->kind = DEC_STRIP;
    if (!obj_str(&t->arena, v, "content", &d->a) || d->a.n == 0 ||
        d->a.n != (uint32_t)uni_len((unsigned char)d->a.s[0]))
        return err_set(e, "decoder Strip: content is not one character");
    if ((obj_get(v, "start", &x) && !json_int(x, &start)) || (obj_get(v, "stop", &x) && !json_int(x, &stop)) ||
        start < 0 || stop < 0 || start > INT32_MAX || stop > INT32_MAX)
        return err_set(e, "decoder Strip: start and stop are not counts");
    d->start = (uint32_t)start;
    d->stop = (uint32_t)stop;
    return 0;
}

static int parse(struct tokenizer *t, struct json v, int depth, struct err *e)
{
    struct str type;
    struct json list, x;
    if (!obj_str(&t->arena, v, "type", &type))
        return err_set(e, "a decoder without a type");
    if (is(type, "Sequence")) {
        if (depth > 8)
            return err_set(e, "decoders nested deeper than 8");
        if (!json_get(v, "decoders", &list) || json_kind(list) != JSON_ARRAY)
            return err_set(e, "decoder Sequence without a list \"decoders\"");
        struct json_iter it = json_each(list);
        while (json_next(&it, NULL, &x))
            if (parse(t, x, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    t->dec = xreallocarray(t->dec, t->n_dec + 1, sizeof *t->dec);
    struct dec *d = memset(&t->dec[t->n_dec++], 0, sizeof *d);
    d->a = (struct str){ "", 0 };
    if (is(type, "ByteLevel")) {
        d->kind = DEC_BYTELEVEL;
    } else if (is(type, "ByteFallback")) {
        d->kind = DEC_BYTEFALLBACK;
    } else if (is(type, "Fuse")) {
        d->kind = DEC_FUSE;
    } else if (is(type, "Replace")) {
        return replace_parse(t, v, d, e);
    } else if (is(type, "Strip")) {
        return strip_parse(t, v, d, e);
    } else if (is(type, "Metaspace")) {
        d->kind = DEC_METASPACE;
        if (!obj_str(&t->arena, v, "replacement", &d->a) || d->a.n == 0)
            return err_set(e, "decoder Metaspace without a replacement");
        return scheme_parse(t, v, &d->scheme, e);
    } else if (is(type, "WordPiece")) {
        d->kind = DEC_WORDPIECE;
        d->a = (struct str){ "##", 2 };
        obj_str(&t->arena, v, "prefix", &d->a);
        d->cleanup = obj_flag(v, "cleanup", true);
    } else if (is(type, "BPEDecoder")) {
        d->kind = DEC_BPE;
        d->a = (struct str){ "</w>", 4 };
        obj_str(&t->arena, v, "suffix", &d->a);
    } else {
        return err_set(e, "decoder \"%.*s\" is not supported", (int)type.n, type.s);
    }
    return 0;
}

int dec_parse(struct tokenizer *t, struct json v, struct err *e)
{
    if (json_kind(v) == JSON_NULL || json_kind(v) == JSON_NONE)
        return 0;
    t->has_dec = true;
    return parse(t, v, 0, e);
}
