/* template_value.c - see template_value.h. Texts of values follow Python's str() and repr(). */
#include "text/template_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/unicode.h"

enum { DEEP = 100 }; /* nesting of values when they are printed or compared */

int spend(struct render *r, uint64_t steps)
{
    r->steps += steps;
    if (r->steps > TEMPLATE_MAX_STEPS)
        return rfail(r, "the template takes more than %d steps", TEMPLATE_MAX_STEPS);
    return 0;
}

void *ralloc(struct render *r, size_t n)
{
    void *p = arena_alloc(&r->arena, n);
    if (!p)
        (void)rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    return p;
}

struct val val_none(void)
{
    return (struct val){ .kind = V_NONE };
}

struct val val_bool(bool b)
{
    return (struct val){ .kind = V_BOOL, .i = b };
}

struct val val_int(int64_t i)
{
    return (struct val){ .kind = V_INT, .i = i };
}

int val_str(struct render *r, const char *s, size_t n, struct val *out)
{
    char *p = n > TEMPLATE_MAX_BYTES ? NULL : ralloc(r, n + 1);
    if (!p)
        return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    if (n)
        memcpy(p, s, n);
    p[n] = '\0';
    *out = (struct val){ .kind = V_STR, .s = { p, (uint32_t)n } };
    return spend(r, n / 64);
}

/* ---- lists and dicts ---- */

static int room(struct render *r, void *vp, size_t n, size_t *cap, size_t size)
{
    void **v = vp;
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap * 2 : 8;
    void *p = ralloc(r, want * size);
    if (!p)
        return -1;
    if (n)
        memcpy(p, *v, n * size);
    *v = p;
    *cap = want;
    return 0;
}

int val_list(struct render *r, enum val_kind kind, struct val *out)
{
    struct vlist *l = ralloc(r, sizeof *l);
    if (!l)
        return -1;
    memset(l, 0, sizeof *l);
    *out = (struct val){ .kind = kind, .l = l };
    return 0;
}

int list_push(struct render *r, struct vlist *l, struct val v)
{
    if (spend(r, 1) < 0 || room(r, &l->v, l->n, &l->cap, sizeof *l->v) < 0)
        return -1;
    l->v[l->n++] = v;
    return 0;
}

int val_dict(struct render *r, enum val_kind kind, struct val *out)
{
    struct vdict *d = ralloc(r, sizeof *d);
    if (!d)
        return -1;
    memset(d, 0, sizeof *d);
    *out = (struct val){ .kind = kind, .d = d };
    return 0;
}

static bool simple_equal(struct val a, struct val b)
{
    if (a.kind == V_STR && b.kind == V_STR)
        return a.s.n == b.s.n && memcmp(a.s.s, b.s.s, a.s.n) == 0;
    if ((a.kind == V_INT || a.kind == V_BOOL) && (b.kind == V_INT || b.kind == V_BOOL))
        return a.i == b.i;
    return a.kind == V_NONE && b.kind == V_NONE;
}

const struct val *dict_find(const struct vdict *d, struct val key)
{
    for (size_t i = d->n; i-- > 0;)
        if (simple_equal(d->key[i], key))
            return &d->v[i];
    return NULL;
}

const struct val *dict_find_str(const struct vdict *d, struct str key)
{
    return dict_find(d, (struct val){ .kind = V_STR, .s = key });
}

int dict_put(struct render *r, struct vdict *d, struct val key, struct val v)
{
    if (key.kind != V_STR && key.kind != V_INT && key.kind != V_BOOL && key.kind != V_NONE)
        return rfail(r, "a key of a dict cannot be %s", val_type(key));
    struct val *there = (struct val *)dict_find(d, key);
    if (spend(r, 1 + d->n / 8) < 0)
        return -1;
    if (there) {
        *there = v;
        return 0;
    }
    size_t cap = d->cap;
    if (room(r, &d->key, d->n, &cap, sizeof *d->key) < 0 || room(r, &d->v, d->n, &d->cap, sizeof *d->v) < 0)
        return -1;
    d->key[d->n] = key;
    d->v[d->n++] = v;
    return 0;
}

static int json_text(struct render *r, struct json j, struct val *out)
{
    if (json_str_plain(j)) {
        *out = (struct val){ .kind = V_STR, .s = { j.s + 1, (uint32_t)(j.n - 2) } };
        return 0;
    }
    struct buf b = BUF_INIT;
    json_str(j, &b);
    int rc = val_str(r, b.s, b.len, out);
    buf_release(&b);
    return rc;
}

int val_of_json(struct render *r, struct json j, struct val *out)
{
    struct json_iter it;
    struct json key, x;
    struct val k, v;
    if (spend(r, 1) < 0)
        return -1;
    switch (json_kind(j)) {
    case JSON_TRUE:
    case JSON_FALSE:
        *out = val_bool(j.s[0] == 't');
        return 0;
    case JSON_NUMBER:
        if (json_int(j, &out->i)) {
            out->kind = V_INT;
        } else if (!memchr(j.s, '.', j.n) && !memchr(j.s, 'e', j.n) && !memchr(j.s, 'E', j.n) && j.s[j.n - 1] <= '9') {
            *out = (struct val){ .kind = V_BIG, .s = { j.s, (uint32_t)j.n } };
        } else {
            out->kind = V_FLOAT;
            if (!json_double(j, &out->f))
                return rfail(r, "number %.*s cannot be read", (int)(j.n < 60 ? j.n : 60), j.s);
        }
        return 0;
    case JSON_STRING:
        return json_text(r, j, out);
    case JSON_ARRAY:
        if (val_list(r, V_LIST, out) < 0)
            return -1;
        for (it = json_each(j); json_next(&it, NULL, &x);)
            if (val_of_json(r, x, &v) < 0 || list_push(r, out->l, v) < 0)
                return -1;
        return 0;
    case JSON_OBJECT:
        if (val_dict(r, V_DICT, out) < 0)
            return -1;
        for (it = json_each(j); json_next(&it, &key, &x);)
            if (json_text(r, key, &k) < 0 || val_of_json(r, x, &v) < 0 || dict_put(r, out->d, k, v) < 0)
                return -1;
        return 0;
    default:
        *out = val_none();
        return 0;
    }
}

/* ---- questions ---- */

const char *val_type(struct val v)
{
    static const char *const names[] = { "undefined",   "none",     "a boolean", "a number", "a number",
                                         "a number",    "a text",   "a list",    "a tuple",  "a dict",
                                         "a namespace", "the loop", "a macro",   "a method", "a function" };
    return names[v.kind];
}

bool val_true(struct val v)
{
    switch (v.kind) {
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_BOOL:
    case V_INT:
        return v.i != 0;
    case V_FLOAT:
        return v.f != 0;
    case V_STR:
        return v.s.n != 0;
    case V_LIST:
    case V_TUPLE:
        return v.l->n != 0;
    case V_DICT:
        return v.d->n != 0;
    default:
        return true;
    }
}

static bool number(struct val v, double *f)
{
    if (v.kind == V_FLOAT)
        *f = v.f;
    else if (v.kind == V_INT || v.kind == V_BOOL)
        *f = (double)v.i;
    else if (v.kind == V_BIG)
        *f = strtod(v.s.s, NULL);
    else
        return false;
    return true;
}

bool val_equal(struct render *r, struct val a, struct val b, int depth)
{
    double x, y;
    if (depth > DEEP || spend(r, 1) < 0)
        return false;
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
        return a.kind == b.kind;
    if (a.kind == V_BIG && b.kind == V_BIG)
        return a.s.n == b.s.n && memcmp(a.s.s, b.s.s, a.s.n) == 0;
    if (number(a, &x) && number(b, &y))
        return a.kind != V_FLOAT && b.kind != V_FLOAT && a.kind != V_BIG && b.kind != V_BIG ? a.i == b.i : x == y;
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case V_NONE:
        return true;
    case V_STR:
        return simple_equal(a, b);
    case V_LIST:
    case V_TUPLE:
        if (a.l->n != b.l->n)
            return false;
        for (size_t i = 0; i < a.l->n; i++)
            if (!val_equal(r, a.l->v[i], b.l->v[i], depth + 1))
                return false;
        return true;
    case V_DICT:
        if (a.d->n != b.d->n)
            return false;
        for (size_t i = 0; i < a.d->n; i++) {
            const struct val *v = dict_find(b.d, a.d->key[i]);
            if (spend(r, 1 + b.d->n / 8) < 0 || !v || !val_equal(r, a.d->v[i], *v, depth + 1))
                return false;
        }
        return true;
    case V_BUILTIN:
        return a.i == b.i;
    default:
        return a.l == b.l; /* the same object */
    }
}

int val_compare(struct render *r, struct val a, struct val b, int *out)
{
    double x, y;
    if (spend(r, 1) < 0)
        return -1;
    if ((a.kind == V_INT || a.kind == V_BOOL) && (b.kind == V_INT || b.kind == V_BOOL)) {
        *out = (a.i > b.i) - (a.i < b.i);
        return 0;
    }
    if (number(a, &x) && number(b, &y)) {
        *out = x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; /* NaN: neither */
        return 0;
    }
    if (a.kind == V_STR && b.kind == V_STR) {
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        int c = n ? memcmp(a.s.s, b.s.s, n) : 0; /* UTF-8 sorts as code points do */
        *out = c ? (c > 0) - (c < 0) : (a.s.n > b.s.n) - (a.s.n < b.s.n);
        return 0;
    }
    if ((a.kind == V_LIST || a.kind == V_TUPLE) && a.kind == b.kind) {
        for (size_t i = 0; i < a.l->n && i < b.l->n; i++)
            if (!val_equal(r, a.l->v[i], b.l->v[i], 0)) {
                if (++r->depth > TEMPLATE_MAX_DEPTH)
                    return rfail(r, "nested deeper than %d", TEMPLATE_MAX_DEPTH);
                int rc = val_compare(r, a.l->v[i], b.l->v[i], out);
                r->depth--;
                return rc;
            }
        *out = (a.l->n > b.l->n) - (a.l->n < b.l->n);
        return 0;
    }
    return rfail(r, "%s and %s cannot be ordered", val_type(a), val_type(b));
}

/* ---- as text ---- */

static bool printable(uint32_t c)
{
    if (c < 0x80)
        return c >= 0x20 && c < 0x7f;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void repr_text(struct str s, struct buf *out)
{
    bool single = s.n && memchr(s.s, '\'', s.n), both = single && memchr(s.s, '"', s.n);
    char quote = single && !both ? '"' : '\'';
    buf_putc(out, quote);
    for (uint32_t i = 0; i < s.n;) {
        uint32_t cp;
        uint32_t len = (uint32_t)uni_get(s.s + i, &cp);
        if (cp == (uint32_t)quote || cp == '\\')
            buf_printf(out, "\\%c", (int)cp);
        else if (cp == '\n')
            buf_puts(out, "\\n");
        else if (cp == '\r')
            buf_puts(out, "\\r");
        else if (cp == '\t')
            buf_puts(out, "\\t");
        else if (printable(cp))
            buf_add(out, s.s + i, len);
        else
            buf_printf(out, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        i += len;
    }
    buf_putc(out, quote);
}

static void put_float(struct buf *out, double f)
{
    if (isnan(f))
        buf_puts(out, "nan");
    else if (isinf(f))
        buf_puts(out, f < 0 ? "-inf" : "inf");
    else
        json_put_double(out, f);
}

int val_repr(struct render *r, struct val v, struct buf *out, int depth)
{
    if (depth > DEEP)
        return rfail(r, "a value nested deeper than %d cannot be printed", DEEP);
    if (spend(r, 1) < 0)
        return -1;
    if (out->len > TEMPLATE_MAX_BYTES)
        return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    switch (v.kind) {
    case V_UNDEFINED:
        buf_puts(out, "Undefined");
        return 0;
    case V_NONE:
        buf_puts(out, "None");
        return 0;
    case V_BOOL:
        buf_puts(out, v.i ? "True" : "False");
        return 0;
    case V_INT:
        buf_printf(out, "%lld", (long long)v.i);
        return 0;
    case V_BIG:
        buf_add(out, v.s.s, v.s.n);
        return 0;
    case V_FLOAT:
        put_float(out, v.f);
        return 0;
    case V_STR:
        repr_text(v.s, out);
        return spend(r, v.s.n / 64);
    case V_LIST:
    case V_TUPLE:
        buf_putc(out, v.kind == V_LIST ? '[' : '(');
        for (size_t i = 0; i < v.l->n; i++) {
            if (i)
                buf_puts(out, ", ");
            if (val_repr(r, v.l->v[i], out, depth + 1) < 0)
                return -1;
        }
        if (v.kind == V_TUPLE && v.l->n == 1)
            buf_putc(out, ',');
        buf_putc(out, v.kind == V_LIST ? ']' : ')');
        return 0;
    case V_DICT:
        buf_putc(out, '{');
        for (size_t i = 0; i < v.d->n; i++) {
            if (i)
                buf_puts(out, ", ");
            if (val_repr(r, v.d->key[i], out, depth + 1) < 0)
                return -1;
            buf_puts(out, ": ");
            if (val_repr(r, v.d->v[i], out, depth + 1) < 0)
                return -1;
        }
        buf_putc(out, '}');
        return 0;
    default:
        return rfail(r, "%s cannot be printed", val_type(v));
    }
}

int val_text(struct render *r, struct val v, struct buf *out)
{
    if (v.kind == V_UNDEFINED)
        return 0;
    if (v.kind == V_STR) {
        buf_add(out, v.s.s, v.s.n);
        return spend(r, v.s.n / 64);
    }
    return val_repr(r, v, out, 0);
}

/* ---- members ---- */

size_t str_chars(struct str s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.s[i] & 0xc0) != 0x80;
    return n;
}

size_t str_offset(struct str s, size_t chars)
{
    uint32_t i = 0;
    while (chars-- && i < s.n)
        i += (uint32_t)uni_len((unsigned char)s.s[i]);
    return i;
}

bool py_space(uint32_t c)
{
    return uni_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

bool str_eq(struct str s, const char *w)
{
    return strlen(w) == s.n && memcmp(s.s, w, s.n) == 0;
}

int val_length(struct render *r, struct val v, int64_t *n)
{
    switch (v.kind) {
    case V_UNDEFINED:
        *n = 0;
        return 0;
    case V_STR:
        *n = (int64_t)str_chars(v.s);
        return spend(r, v.s.n / 64);
    case V_LIST:
    case V_TUPLE:
        *n = (int64_t)v.l->n;
        return 0;
    case V_DICT:
        *n = (int64_t)v.d->n;
        return 0;
    default:
        return rfail(r, "%s has no length", val_type(v));
    }
}

int val_iterate(struct render *r, struct val v, struct vlist **out)
{
    struct val l, x;
    if (v.kind == V_LIST || v.kind == V_TUPLE) {
        *out = v.l;
        return 0;
    }
    if (val_list(r, V_LIST, &l) < 0)
        return -1;
    *out = l.l;
    switch (v.kind) {
    case V_UNDEFINED:
        return 0;
    case V_DICT:
        for (size_t i = 0; i < v.d->n; i++)
            if (list_push(r, l.l, v.d->key[i]) < 0)
                return -1;
        return 0;
    case V_STR:
        for (uint32_t i = 0; i < v.s.n; i += x.s.n) {
            x = (struct val){ .kind = V_STR, .s = { v.s.s + i, (uint32_t)uni_len((unsigned char)v.s.s[i]) } };
            if (list_push(r, l.l, x) < 0)
                return -1;
        }
        return 0;
    default:
        return rfail(r, "%s cannot be looped over", val_type(v));
    }
}

int val_contains(struct render *r, struct val in, struct val what, bool *yes)
{
    *yes = false;
    switch (in.kind) {
    case V_UNDEFINED:
        return 0;
    case V_STR:
        if (what.kind != V_STR)
            return rfail(r, "\"in\" a text wants a text, not %s", val_type(what));
        *yes = what.s.n == 0 || find_bytes(in.s.s, in.s.n, what.s.s, what.s.n) != NULL;
        return spend(r, 1 + in.s.n / 64);
    case V_DICT:
        *yes = dict_find(in.d, what) != NULL;
        return spend(r, 1 + in.d->n / 8);
    case V_LIST:
    case V_TUPLE:
        for (size_t i = 0; i < in.l->n && !*yes; i++) {
            if (spend(r, 1) < 0)
                return -1;
            *yes = val_equal(r, in.l->v[i], what, 0);
        }
        return 0;
    default:
        return rfail(r, "\"in\" cannot look into %s", val_type(in));
    }
}

/* ---- tojson ---- */

struct dump {
    struct render *r;
    struct buf *out;
    struct str indent; /* s NULL: one line */
    struct str item, colon;
    bool ascii, sorted;
};

static void dump_str(const struct dump *d, struct str s)
{
    if (!d->ascii) {
        json_put_str(d->out, s.s, s.n);
        return;
    }
    struct buf b = BUF_INIT;
    json_put_str(&b, s.s, s.n);
    for (size_t i = 0; i < b.len;) {
        uint32_t cp;
        size_t len = (size_t)uni_get(b.s + i, &cp);
        if (cp < 0x80)
            buf_add(d->out, b.s + i, 1);
        else if (cp < 0x10000)
            buf_printf(d->out, "\\u%04x", cp);
        else
            buf_printf(d->out, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
        i += len;
    }
    buf_release(&b);
}

static void new_line(const struct dump *d, int depth)
{
    if (!d->indent.s)
        return;
    buf_putc(d->out, '\n');
    for (int i = 0; i < depth; i++)
        buf_add(d->out, d->indent.s, d->indent.n);
}

static int by_key(const void *a, const void *b)
{
    const struct val *x = a, *y = b;
    size_t n = x->s.n < y->s.n ? x->s.n : y->s.n;
    int c = n ? memcmp(x->s.s, y->s.s, n) : 0;
    return c ? c : (x->s.n > y->s.n) - (x->s.n < y->s.n);
}

static int dump(const struct dump *d, struct val v, int depth);

static int dump_key(const struct dump *d, struct val k)
{
    if (k.kind == V_STR) {
        dump_str(d, k.s);
        return 0;
    }
    buf_putc(d->out, '"');
    if (dump(d, k, 0) < 0)
        return -1;
    buf_putc(d->out, '"');
    return 0;
}

static int dump_dict(const struct dump *d, const struct vdict *v, int depth)
{
    struct render *r = d->r;
    struct val *keys = v->key;
    if (v->n == 0) {
        buf_puts(d->out, "{}");
        return 0;
    }
    if (d->sorted) {
        keys = ralloc(r, v->n * sizeof *keys);
        if (!keys)
            return -1;
        memcpy(keys, v->key, v->n * sizeof *keys);
        for (size_t i = 0; i < v->n; i++)
            if (keys[i].kind != V_STR)
                return rfail(r, "tojson: sort_keys wants keys that are texts");
        qsort(keys, v->n, sizeof *keys, by_key);
    }
    buf_putc(d->out, '{');
    for (size_t i = 0; i < v->n; i++) {
        if (i)
            buf_add(d->out, d->item.s, d->item.n);
        new_line(d, depth + 1);
        if (dump_key(d, keys[i]) < 0)
            return -1;
        buf_add(d->out, d->colon.s, d->colon.n);
        if (spend(r, 1 + (d->sorted ? v->n / 8 : 0)) < 0 ||
            dump(d, d->sorted ? *dict_find(v, keys[i]) : v->v[i], depth + 1) < 0)
            return -1;
    }
    new_line(d, depth);
    buf_putc(d->out, '}');
    return 0;
}

static int dump(const struct dump *d, struct val v, int depth)
{
    struct render *r = d->r;
    if (depth > DEEP)
        return rfail(r, "tojson: nested deeper than %d", DEEP);
    if (spend(r, 1) < 0)
        return -1;
    if (d->out->len > TEMPLATE_MAX_BYTES)
        return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    switch (v.kind) {
    case V_NONE:
        buf_puts(d->out, "null");
        return 0;
    case V_BOOL:
        buf_puts(d->out, v.i ? "true" : "false");
        return 0;
    case V_FLOAT:
        if (isnan(v.f))
            buf_puts(d->out, "NaN");
        else if (isinf(v.f))
            buf_puts(d->out, v.f < 0 ? "-Infinity" : "Infinity");
        else
            json_put_double(d->out, v.f);
        return 0;
    case V_INT:
    case V_BIG:
        return val_repr(r, v, d->out, 0);
    case V_STR:
        dump_str(d, v.s);
        return spend(r, v.s.n / 64);
    case V_LIST:
    case V_TUPLE:
        if (v.l->n == 0) {
            buf_puts(d->out, "[]");
            return 0;
        }
        buf_putc(d->out, '[');
        for (size_t i = 0; i < v.l->n; i++) {
            if (i)
                buf_add(d->out, d->item.s, d->item.n);
            new_line(d, depth + 1);
            if (dump(d, v.l->v[i], depth + 1) < 0)
                return -1;
        }
        new_line(d, depth);
        buf_putc(d->out, ']');
        return 0;
    case V_DICT:
        return dump_dict(d, v.d, depth);
    default:
        return rfail(r, "tojson: %s is not JSON", val_type(v));
    }
}

static const struct val *argument(const struct args *a, size_t at, const char *name)
{
    for (size_t i = 0; i < a->n_kw; i++)
        if (str_eq(a->kw[i].name, name))
            return &a->kw[i].v;
    return at < a->n ? &a->v[at] : NULL;
}

/* transformers' filter: tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
int val_json(struct render *r, struct val v, const struct args *a, struct val *out)
{
    static const char blanks[] = "                                ";
    struct buf b = BUF_INIT;
    struct dump d = { .r = r, .out = &b, .item = { ", ", 2 }, .colon = { ": ", 2 } };
    const struct val *x = argument(a, 0, "ensure_ascii");
    d.ascii = x && val_true(*x);
    x = argument(a, 1, "indent");
    if (x && x->kind == V_STR) {
        d.indent = x->s;
    } else if (x && (x->kind == V_INT || x->kind == V_BOOL)) {
        if (x->i > 32)
            return rfail(r, "tojson: indent is larger than 32");
        d.indent = (struct str){ blanks, x->i > 0 ? (uint32_t)x->i : 0 };
    } else if (x && x->kind != V_NONE) {
        return rfail(r, "tojson: indent is %s", val_type(*x));
    }
    if (d.indent.s)
        d.item = (struct str){ ",", 1 };
    x = argument(a, 2, "separators");
    if (x && (x->kind == V_TUPLE || x->kind == V_LIST) && x->l->n == 2 && x->l->v[0].kind == V_STR &&
        x->l->v[1].kind == V_STR) {
        d.item = x->l->v[0].s;
        d.colon = x->l->v[1].s;
    } else if (x && x->kind != V_NONE) {
        return rfail(r, "tojson: separators is not a pair of texts");
    }
    x = argument(a, 3, "sort_keys");
    d.sorted = x && val_true(*x);
    int rc = dump(&d, v, 0);
    if (rc == 0)
        rc = val_str(r, b.s, b.len, out);
    buf_release(&b);
    return rc;
}
