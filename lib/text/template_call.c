/* template_call.c - filters, tests, methods and functions of chat templates. What stands in no table here is refused by
 * name. Texts follow Python: white space, case and splitting as str does it. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/template_value.h"
#include "text/unicode.h"

/* ---- arguments ---- */

static const struct val *arg(const struct args *a, size_t at, const char *name)
{
    for (size_t i = 0; name && i < a->n_kw; i++)
        if (str_eq(a->kw[i].name, name))
            return &a->kw[i].v;
    return at < a->n ? &a->v[at] : NULL;
}

static int want_str(struct render *r, const char *who, const struct val *v, struct str *out)
{
    *out = (struct str){ "", 0 };
    if (!v || v->kind != V_STR)
        return rfail(r, "%s wants a text, not %s", who, v ? val_type(*v) : "nothing");
    *out = v->s;
    return 0;
}

static int want_int(struct render *r, const char *who, const struct val *v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (!v)
        return 0;
    if (v->kind != V_INT && v->kind != V_BOOL)
        return rfail(r, "%s wants a whole number, not %s", who, val_type(*v));
    *out = v->i;
    return 0;
}

static struct val str_val(const char *s, size_t n)
{
    return (struct val){ .kind = V_STR, .s = { s, (uint32_t)n } };
}

static int take_buf(struct render *r, struct buf *b, int rc, struct val *out)
{
    if (rc == 0 && b->len > TEMPLATE_MAX_BYTES)
        rc = rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    if (rc == 0)
        rc = val_str(r, b->s, b->len, out);
    buf_release(b);
    return rc;
}

/* A value as a text: itself, or str() of it. */
static int as_str(struct render *r, struct val v, struct str *out)
{
    if (v.kind == V_STR) {
        *out = v.s;
        return 0;
    }
    struct buf b = BUF_INIT;
    struct val s = { .kind = V_STR, .s = { "", 0 } };
    *out = s.s;
    if (take_buf(r, &b, val_text(r, v, &b), &s) < 0)
        return -1;
    *out = s.s;
    return 0;
}

/* ---- texts ---- */

static bool in_set(const struct str *set, const char *s, size_t len)
{
    if (!set) {
        uint32_t cp;
        uni_get(s, &cp);
        return py_space(cp);
    }
    for (uint32_t i = 0; i < set->n; i += (uint32_t)uni_len((unsigned char)set->s[i]))
        if (set->n - i >= len && memcmp(set->s + i, s, len) == 0 && (size_t)uni_len((unsigned char)set->s[i]) == len)
            return true;
    return false;
}

static struct str strip(struct str s, const struct str *set, bool left, bool right)
{
    while (left && s.n) {
        uint32_t len = (uint32_t)uni_len((unsigned char)s.s[0]);
        if (!in_set(set, s.s, len))
            break;
        s.s += len;
        s.n -= len;
    }
    while (right && s.n) {
        uint32_t i = s.n - 1;
        while (i && ((unsigned char)s.s[i] & 0xc0) == 0x80)
            i--;
        if (!in_set(set, s.s + i, s.n - i))
            break;
        s.n = i;
    }
    return s;
}

static bool cased(uint32_t c)
{
    uint32_t x[3];
    return (uni_lower(c, x), x[0]) != c || (uni_upper(c, x), x[0]) != c;
}

enum { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP };

static int change_case(struct render *r, struct str s, int how, struct val *out)
{
    struct buf b = BUF_INIT;
    bool begin = true;
    for (uint32_t i = 0; i < s.n;) {
        uint32_t cp, to[3];
        char c[4];
        i += (uint32_t)uni_get(s.s + i, &cp);
        bool up = how == CASE_UPPER || ((how == CASE_TITLE || how == CASE_CAPITAL) && begin);
        if (how == CASE_SWAP)
            up = (uni_lower(cp, to), to[0]) == cp;
        int n = up ? uni_upper(cp, to) : uni_lower(cp, to);
        for (int k = 0; k < n; k++)
            buf_add(&b, c, (size_t)utf8_encode(to[k], c));
        begin = how == CASE_TITLE && !cased(cp);
    }
    return take_buf(r, &b, spend(r, s.n / 8), out);
}

static bool blank_at(const char *s)
{
    return in_set(NULL, s, 0);
}

static int split_blanks(struct render *r, struct str s, int64_t max, struct vlist *l)
{
    for (uint32_t i = 0; i < s.n;) {
        if (blank_at(s.s + i)) {
            i += (uint32_t)uni_len((unsigned char)s.s[i]);
            continue;
        }
        uint32_t b = i;
        if (max >= 0 && (int64_t)l->n == max) {
            struct str rest = strip((struct str){ s.s + b, s.n - b }, NULL, false, true);
            return list_push(r, l, str_val(rest.s, rest.n));
        }
        while (i < s.n && !blank_at(s.s + i))
            i += (uint32_t)uni_len((unsigned char)s.s[i]);
        if (list_push(r, l, str_val(s.s + b, i - b)) < 0)
            return -1;
    }
    return 0;
}

static int split(struct render *r, struct str s, const struct args *a, struct val *out)
{
    const struct val *sep = arg(a, 0, "sep");
    struct str by;
    int64_t max;
    if (want_int(r, "split", arg(a, 1, "maxsplit"), -1, &max) < 0 || val_list(r, V_LIST, out) < 0)
        return -1;
    if (!sep || sep->kind == V_NONE)
        return split_blanks(r, s, max, out->l);
    if (want_str(r, "split", sep, &by) < 0)
        return -1;
    if (by.n == 0)
        return rfail(r, "split wants a separator that is not empty");
    const char *p;
    while ((max < 0 || (int64_t)out->l->n < max) && (p = find_bytes(s.s, s.n, by.s, by.n))) {
        if (list_push(r, out->l, str_val(s.s, (size_t)(p - s.s))) < 0)
            return -1;
        s.n -= (uint32_t)(p - s.s) + by.n;
        s.s = p + by.n;
    }
    return list_push(r, out->l, str_val(s.s, s.n));
}

/* Last occurrence, or SIZE_MAX. */
static size_t find_last(struct str s, struct str what)
{
    for (size_t i = s.n >= what.n ? s.n - what.n + 1 : 0; i-- > 0;)
        if (memcmp(s.s + i, what.s, what.n) == 0)
            return i;
    return SIZE_MAX;
}

static int rsplit(struct render *r, struct str s, const struct args *a, struct val *out)
{
    const struct val *sep = arg(a, 0, "sep");
    struct str by;
    int64_t max;
    struct val turned;
    if (want_int(r, "rsplit", arg(a, 1, "maxsplit"), -1, &max) < 0)
        return -1;
    if (max < 0 || !sep || sep->kind == V_NONE) {
        if (max >= 0)
            return rfail(r, "rsplit with a count wants a separator");
        return split(r, s, a, out);
    }
    if (want_str(r, "rsplit", sep, &by) < 0)
        return -1;
    if (by.n == 0)
        return rfail(r, "rsplit wants a separator that is not empty");
    if (val_list(r, V_LIST, &turned) < 0 || val_list(r, V_LIST, out) < 0)
        return -1;
    size_t at;
    while ((int64_t)turned.l->n < max && (at = find_last(s, by)) != SIZE_MAX) {
        if (spend(r, 1 + (s.n - at) / 64) < 0 || list_push(r, turned.l, str_val(s.s + at + by.n, s.n - at - by.n)) < 0)
            return -1;
        s.n = (uint32_t)at;
    }
    if (list_push(r, out->l, str_val(s.s, s.n)) < 0)
        return -1;
    for (size_t i = turned.l->n; i-- > 0;)
        if (list_push(r, out->l, turned.l->v[i]) < 0)
            return -1;
    return 0;
}

static int split_lines(struct render *r, struct str s, const struct args *a, struct val *out)
{
    const struct val *k = arg(a, 0, "keepends");
    bool keep = k && val_true(*k);
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (uint32_t i = 0, b = 0; i < s.n || b < s.n;) {
        uint32_t cp = '\n', e = i, len = 0;
        if (i < s.n)
            len = (uint32_t)uni_get(s.s + i, &cp);
        if (i < s.n &&
            !((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029)) {
            i += len;
            continue;
        }
        i += len;
        if (cp == '\r' && i < s.n && s.s[i] == '\n')
            i++;
        if (list_push(r, out->l, str_val(s.s + b, (keep ? i : e) - b)) < 0)
            return -1;
        b = i;
    }
    return 0;
}

static int replace(struct render *r, struct str s, struct str from, struct str to, int64_t max, struct val *out)
{
    struct buf b = BUF_INIT;
    int64_t done = 0;
    int rc = spend(r, s.n / 64);
    while (rc == 0 && (max < 0 || done < max)) {
        const char *p = NULL;
        size_t skip = from.n;
        if (from.n) {
            p = find_bytes(s.s, s.n, from.s, from.n);
        } else if (done == 0 || s.n) { /* between all characters */
            skip = done ? (size_t)uni_len((unsigned char)s.s[0]) : 0;
            p = s.s + skip;
            buf_add(&b, s.s, skip);
            s.s = p;
            s.n -= (uint32_t)skip;
            skip = 0;
        }
        if (!p)
            break;
        buf_add(&b, s.s, (size_t)(p - s.s));
        buf_add(&b, to.s, to.n);
        s.n -= (uint32_t)((size_t)(p - s.s) + skip);
        s.s = p + skip;
        done++;
        rc = spend(r, 1);
        if (rc == 0 && b.len > TEMPLATE_MAX_BYTES)
            rc = rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    }
    buf_add(&b, s.s, s.n);
    return take_buf(r, &b, rc, out);
}

static int join(struct render *r, struct val list, struct str by, const struct val *attribute, struct val *out)
{
    struct vlist *l;
    struct buf b = BUF_INIT;
    if (val_iterate(r, list, &l) < 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        struct val x = l->v[i];
        if (i)
            buf_add(&b, by.s, by.n);
        if (attribute)
            rc = get_item(r, x, *attribute, &x);
        if (rc == 0)
            rc = val_text(r, x, &b);
        if (rc == 0 && b.len > TEMPLATE_MAX_BYTES)
            rc = rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    }
    return take_buf(r, &b, rc, out);
}

static int64_t count(struct str s, struct str what)
{
    int64_t n = 0;
    const char *p;
    if (what.n == 0)
        return (int64_t)str_chars(s) + 1;
    while ((p = find_bytes(s.s, s.n, what.s, what.n))) {
        n++;
        s.n -= (uint32_t)(p - s.s) + what.n;
        s.s = p + what.n;
    }
    return n;
}

enum { IS_DIGIT, IS_ALPHA, IS_ALNUM, IS_SPACE, IS_UPPER, IS_LOWER };

static bool all_are(struct str s, int what)
{
    bool any = false;
    for (uint32_t i = 0; i < s.n;) {
        uint32_t cp, x[3];
        i += (uint32_t)uni_get(s.s + i, &cp);
        bool digit = uni_is_numeric(cp), alpha = uni_is_word(cp) && !digit && !uni_is_mark(cp) && cp != '_';
        bool up = (uni_lower(cp, x), x[0]) != cp, low = (uni_upper(cp, x), x[0]) != cp;
        switch (what) {
        case IS_DIGIT:
            if (!digit)
                return false;
            break;
        case IS_ALPHA:
            if (!alpha)
                return false;
            break;
        case IS_ALNUM:
            if (!alpha && !digit)
                return false;
            break;
        case IS_SPACE:
            if (!py_space(cp))
                return false;
            break;
        default:
            if (what == IS_UPPER ? low : up)
                return false;
            any = any || up || low;
            continue;
        }
        any = true;
    }
    return any;
}

/* ---- methods ---- */

static const char *const str_methods[] = { "strip",        "lstrip",       "rstrip",     "split",     "rsplit",
                                           "splitlines",   "startswith",   "endswith",   "replace",   "upper",
                                           "lower",        "title",        "capitalize", "swapcase",  "find",
                                           "rfind",        "index",        "count",      "join",      "isdigit",
                                           "isalpha",      "isalnum",      "isspace",    "isupper",   "islower",
                                           "removeprefix", "removesuffix", "isnumeric",  "isdecimal", "partition",
                                           "rpartition",   "zfill",        "ljust",      "rjust" };
static const char *const dict_methods[] = { "items", "keys", "values", "get" };
static const char *const list_methods[] = { "index", "count" };
static const char *const loop_methods[] = { "cycle", "changed" };

static bool listed(struct str name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(name, list[i]))
            return true;
    return false;
}

#define LISTED(name, list) listed(name, list, sizeof list / sizeof list[0])

bool has_method(struct val v, struct str name)
{
    switch (v.kind) {
    case V_STR:
        return LISTED(name, str_methods);
    case V_DICT:
        return LISTED(name, dict_methods);
    case V_LIST:
    case V_TUPLE:
        return LISTED(name, list_methods);
    case V_LOOP:
        return LISTED(name, loop_methods);
    default:
        return false;
    }
}

/* startswith and endswith: a text or a tuple of texts. */
static int affix(struct render *r, struct str s, const struct args *a, bool end, struct val *out)
{
    struct vlist one = { a->v, 1, 1 };
    const struct vlist *l = a->n == 1 && a->v[0].kind == V_TUPLE ? a->v[0].l : &one;
    *out = val_bool(false);
    if (a->n != 1)
        return rfail(r, "%s with %zu arguments is not supported", end ? "endswith" : "startswith", a->n);
    for (size_t i = 0; i < l->n; i++) {
        struct str x;
        if (want_str(r, end ? "endswith" : "startswith", &l->v[i], &x) < 0)
            return -1;
        if (x.n <= s.n && memcmp(end ? s.s + s.n - x.n : s.s, x.s, x.n) == 0)
            *out = val_bool(true);
    }
    return 0;
}

static int find(struct render *r, struct str s, struct str name, const struct args *a, struct val *out)
{
    struct str what;
    int64_t from;
    if (want_str(r, "find", arg(a, 0, NULL), &what) < 0 || want_int(r, "find", arg(a, 1, NULL), 0, &from) < 0)
        return -1;
    if (a->n > 2 || from < 0)
        return rfail(r, "find with an end or a negative begin is not supported");
    size_t skip = str_offset(s, (size_t)from), at;
    if (str_eq(name, "rfind")) {
        at = find_last(s, what);
    } else {
        const char *p = find_bytes(s.s + skip, s.n - skip, what.s, what.n);
        at = p ? (size_t)(p - s.s) : SIZE_MAX;
    }
    if (at == SIZE_MAX && str_eq(name, "index"))
        return rfail(r, "index: the text is not there");
    *out = val_int(at == SIZE_MAX ? -1 : (int64_t)str_chars((struct str){ s.s, (uint32_t)at }));
    return spend(r, s.n / 64);
}

static int partition(struct render *r, struct str s, bool last, const struct args *a, struct val *out)
{
    struct str by;
    if (want_str(r, "partition", arg(a, 0, NULL), &by) < 0)
        return -1;
    if (by.n == 0)
        return rfail(r, "partition wants a separator that is not empty");
    const char *p = last ? NULL : find_bytes(s.s, s.n, by.s, by.n);
    size_t at = last ? find_last(s, by) : p ? (size_t)(p - s.s) : SIZE_MAX;
    struct val v[3] = { str_val(s.s, s.n), str_val("", 0), str_val("", 0) };
    if (at != SIZE_MAX) {
        v[0] = str_val(s.s, at);
        v[1] = str_val(by.s, by.n);
        v[2] = str_val(s.s + at + by.n, s.n - at - by.n);
    } else if (last) {
        v[2] = v[0];
        v[0] = v[1];
    }
    if (val_list(r, V_TUPLE, out) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (list_push(r, out->l, v[i]) < 0)
            return -1;
    return 0;
}

static int pad(struct render *r, struct str s, struct str name, const struct args *a, struct val *out)
{
    struct str with = { str_eq(name, "zfill") ? "0" : " ", 1 };
    int64_t width, n = (int64_t)str_chars(s);
    if (want_int(r, "padding", arg(a, 0, NULL), 0, &width) < 0)
        return -1;
    if (a->n > 1 && !str_eq(name, "zfill") && want_str(r, "padding", &a->v[1], &with) < 0)
        return -1;
    if (width > TEMPLATE_MAX_BYTES / 4)
        return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    struct buf b = BUF_INIT;
    bool left = str_eq(name, "ljust");
    if (str_eq(name, "zfill") && s.n && (s.s[0] == '-' || s.s[0] == '+') && n < width) {
        buf_putc(&b, s.s[0]);
        s.s++;
        s.n--;
    }
    if (left)
        buf_add(&b, s.s, s.n);
    for (; n < width; n++)
        buf_add(&b, with.s, with.n);
    if (!left)
        buf_add(&b, s.s, s.n);
    return take_buf(r, &b, spend(r, b.len / 64), out);
}

static int str_method(struct render *r, struct str s, struct str name, const struct args *a, struct val *out)
{
    static const struct {
        const char *name;
        int how;
    } cases[] = { { "lower", CASE_LOWER },
                  { "upper", CASE_UPPER },
                  { "title", CASE_TITLE },
                  { "capitalize", CASE_CAPITAL },
                  { "swapcase", CASE_SWAP } },
      kinds[] = { { "isdigit", IS_DIGIT }, { "isnumeric", IS_DIGIT }, { "isdecimal", IS_DIGIT },
                  { "isalpha", IS_ALPHA }, { "isalnum", IS_ALNUM },   { "isspace", IS_SPACE },
                  { "isupper", IS_UPPER }, { "islower", IS_LOWER } };
    struct str x, y;
    int64_t n;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (str_eq(name, cases[i].name))
            return change_case(r, s, cases[i].how, out);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (str_eq(name, kinds[i].name)) {
            *out = val_bool(all_are(s, kinds[i].how));
            return spend(r, s.n / 8);
        }
    if (str_eq(name, "strip") || str_eq(name, "lstrip") || str_eq(name, "rstrip")) {
        const struct val *set = arg(a, 0, NULL);
        bool given = set && set->kind != V_NONE;
        if (given && want_str(r, "strip", set, &x) < 0)
            return -1;
        s = strip(s, given ? &x : NULL, name.s[0] != 'r', name.s[0] != 'l');
        *out = str_val(s.s, s.n);
        return 0;
    }
    if (str_eq(name, "split"))
        return split(r, s, a, out);
    if (str_eq(name, "rsplit"))
        return rsplit(r, s, a, out);
    if (str_eq(name, "splitlines"))
        return split_lines(r, s, a, out);
    if (str_eq(name, "startswith") || str_eq(name, "endswith"))
        return affix(r, s, a, name.s[0] == 'e', out);
    if (str_eq(name, "replace")) {
        if (want_str(r, "replace", arg(a, 0, "old"), &x) < 0 || want_str(r, "replace", arg(a, 1, "new"), &y) < 0 ||
            want_int(r, "replace", arg(a, 2, "count"), -1, &n) < 0)
            return -1;
        return replace(r, s, x, y, n, out);
    }
    if (str_eq(name, "find") || str_eq(name, "rfind") || str_eq(name, "index"))
        return find(r, s, name, a, out);
    if (str_eq(name, "partition") || str_eq(name, "rpartition"))
        return partition(r, s, name.s[0] == 'r', a, out);
    if (str_eq(name, "zfill") || str_eq(name, "ljust") || str_eq(name, "rjust"))
        return pad(r, s, name, a, out);
    if (str_eq(name, "join"))
        return a->n == 1 ? join(r, a->v[0], s, NULL, out) : rfail(r, "join wants one argument");
    if (want_str(r, "a method of a text", arg(a, 0, NULL), &x) < 0)
        return -1;
    if (str_eq(name, "count")) {
        *out = val_int(count(s, x));
        return spend(r, s.n / 64);
    }
    bool suffix = str_eq(name, "removesuffix");
    if (x.n <= s.n && memcmp(suffix ? s.s + s.n - x.n : s.s, x.s, x.n) == 0) {
        s.s += suffix ? 0 : x.n;
        s.n -= x.n;
    }
    *out = str_val(s.s, s.n);
    return 0;
}

static int dict_items(struct render *r, const struct vdict *d, struct val *out)
{
    struct val pair;
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < d->n; i++)
        if (val_list(r, V_TUPLE, &pair) < 0 || list_push(r, pair.l, d->key[i]) < 0 ||
            list_push(r, pair.l, d->v[i]) < 0 || list_push(r, out->l, pair) < 0)
            return -1;
    return 0;
}

static int dict_method(struct render *r, const struct vdict *d, struct str name, const struct args *a, struct val *out)
{
    if (str_eq(name, "items"))
        return dict_items(r, d, out);
    if (str_eq(name, "get")) {
        if (a->n < 1)
            return rfail(r, "get wants a key");
        const struct val *v = dict_find(d, a->v[0]), *absent = arg(a, 1, "default");
        *out = v ? *v : absent ? *absent : val_none();
        return spend(r, d->n / 8);
    }
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < d->n; i++)
        if (list_push(r, out->l, str_eq(name, "keys") ? d->key[i] : d->v[i]) < 0)
            return -1;
    return 0;
}

static int list_method(struct render *r, const struct vlist *l, struct str name, const struct args *a, struct val *out)
{
    int64_t n = 0;
    if (a->n != 1)
        return rfail(r, "%.*s wants one argument", (int)name.n, name.s);
    for (size_t i = 0; i < l->n; i++) {
        if (spend(r, 1) < 0)
            return -1;
        if (!val_equal(r, l->v[i], a->v[0], 0))
            continue;
        if (str_eq(name, "index")) {
            *out = val_int((int64_t)i);
            return 0;
        }
        n++;
    }
    if (str_eq(name, "index"))
        return rfail(r, "index: the value is not in the list");
    *out = val_int(n);
    return 0;
}

static int loop_method(struct render *r, struct loop *l, struct str name, const struct args *a, struct val *out)
{
    if (str_eq(name, "cycle")) {
        if (a->n == 0)
            return rfail(r, "loop.cycle wants values");
        *out = a->v[l->at % a->n];
        return 0;
    }
    struct val was = { .kind = V_TUPLE, .l = &l->changed },
               now = { .kind = V_TUPLE, .l = &(struct vlist){ a->v, a->n, a->n } };
    *out = val_bool(!l->changed_set || !val_equal(r, was, now, 0));
    l->changed_set = true;
    l->changed = (struct vlist){ a->v, a->n, a->n };
    return 0;
}

int call_method(struct render *r, const struct method *m, const struct args *a, struct val *out)
{
    switch (m->of.kind) {
    case V_STR:
        return str_method(r, m->of.s, m->name, a, out);
    case V_DICT:
        return dict_method(r, m->of.d, m->name, a, out);
    case V_LOOP:
        return loop_method(r, m->of.loop, m->name, a, out);
    default:
        return list_method(r, m->of.l, m->name, a, out);
    }
}

/* ---- functions ---- */

static int fn_namespace(struct render *r, const struct args *a, struct val *out, enum val_kind kind)
{
    if (val_dict(r, kind, out) < 0)
        return -1;
    if (a->n > 1 || (a->n == 1 && a->v[0].kind != V_DICT))
        return rfail(r, "namespace and dict want names with values, or one dict");
    for (size_t i = 0; a->n == 1 && i < a->v[0].d->n; i++)
        if (dict_put(r, out->d, a->v[0].d->key[i], a->v[0].d->v[i]) < 0)
            return -1;
    for (size_t i = 0; i < a->n_kw; i++)
        if (dict_put(r, out->d, (struct val){ .kind = V_STR, .s = a->kw[i].name }, a->kw[i].v) < 0)
            return -1;
    return 0;
}

static int fn_range(struct render *r, const struct args *a, struct val *out)
{
    int64_t v[3] = { 0, 0, 1 };
    if (a->n < 1 || a->n > 3 || a->n_kw)
        return rfail(r, "range wants one to three numbers");
    for (size_t i = 0; i < a->n; i++)
        if (want_int(r, "range", &a->v[i], 0, &v[i]) < 0)
            return -1;
    if (a->n == 1) {
        v[1] = v[0];
        v[0] = 0;
    }
    if (v[2] == 0)
        return rfail(r, "range with step 0");
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        if (out->l->n == 100000) /* Jinja's sandbox has the same bound */
            return rfail(r, "range is longer than 100000");
        if (list_push(r, out->l, val_int(i)) < 0)
            return -1;
        if (__builtin_add_overflow(i, v[2], &i))
            break;
    }
    return 0;
}

static int fn_raise(struct render *r, const struct args *a, struct val *out)
{
    struct str s;
    (void)out;
    if (a->n != 1 || as_str(r, a->v[0], &s) < 0)
        return rfail(r, "raise_exception");
    return rfail(r, "the template refuses: %.*s", (int)(s.n < 400 ? s.n : 400), s.s);
}

static int fn_strftime(struct render *r, const struct args *a, struct val *out)
{
    struct str f;
    char format[256], text[1024];
    struct tm tm;
    time_t when = (time_t)r->date;
    if (want_str(r, "strftime_now", arg(a, 0, NULL), &f) < 0)
        return -1;
    if (f.n == 0 || f.n >= sizeof format || memchr(f.s, '\0', f.n) || !gmtime_r(&when, &tm))
        return rfail(r, "strftime_now: bad format");
    memcpy(format, f.s, f.n);
    format[f.n] = '\0';
    size_t n = strftime(text, sizeof text, format, &tm);
    return val_str(r, text, n, out);
}

static const char *const builtins[] = { "namespace", "dict", "range", "raise_exception", "strftime_now" };

int builtin_index(struct str name)
{
    for (int i = 0; i < 5; i++)
        if (str_eq(name, builtins[i]))
            return i;
    return -1;
}

int call_builtin(struct render *r, int which, const struct args *a, struct val *out)
{
    switch (which) {
    case 0:
        return fn_namespace(r, a, out, V_NAMESPACE);
    case 1:
        return fn_namespace(r, a, out, V_DICT);
    case 2:
        return fn_range(r, a, out);
    case 3:
        return fn_raise(r, a, out);
    default:
        return fn_strftime(r, a, out);
    }
}

/* ---- tests ---- */

static int64_t int_of(const struct val *v)
{
    return v && (v->kind == V_INT || v->kind == V_BOOL) ? v->i : 0;
}

static bool is_number(struct val v)
{
    return v.kind == V_INT || v.kind == V_FLOAT || v.kind == V_BOOL || v.kind == V_BIG;
}

static bool is_sequence(struct val v)
{
    return v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_STR || v.kind == V_DICT || v.kind == V_UNDEFINED;
}

enum test_kind {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_STRING,
    T_MAPPING,
    T_SEQUENCE,
    T_ITERABLE,
    T_NUMBER,
    T_INTEGER,
    T_FLOATING,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_CALLABLE,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_IN,
    T_EVEN,
    T_ODD,
    T_DIVISIBLE,
    T_UPPER,
    T_LOWER,
    T_SAME,
    T_FILTER,
    T_TEST,
};

static const struct {
    const char *name;
    enum test_kind kind;
} tests[] = {
    { "defined", T_DEFINED },
    { "undefined", T_UNDEFINED },
    { "none", T_NONE },
    { "string", T_STRING },
    { "mapping", T_MAPPING },
    { "sequence", T_SEQUENCE },
    { "iterable", T_ITERABLE },
    { "number", T_NUMBER },
    { "integer", T_INTEGER },
    { "float", T_FLOATING },
    { "boolean", T_BOOLEAN },
    { "true", T_TRUE },
    { "false", T_FALSE },
    { "callable", T_CALLABLE },
    { "eq", T_EQ },
    { "equalto", T_EQ },
    { "ne", T_NE },
    { "lt", T_LT },
    { "lessthan", T_LT },
    { "le", T_LE },
    { "gt", T_GT },
    { "greaterthan", T_GT },
    { "ge", T_GE },
    { "in", T_IN },
    { "even", T_EVEN },
    { "odd", T_ODD },
    { "divisibleby", T_DIVISIBLE },
    { "upper", T_UPPER },
    { "lower", T_LOWER },
    { "sameas", T_SAME },
    { "filter", T_FILTER },
    { "test", T_TEST },
};

int test_index(struct str name)
{
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (str_eq(name, tests[i].name))
            return (int)i;
    return -1;
}

static int test_order(struct render *r, enum test_kind k, struct val a, const struct val *b, bool *out)
{
    int c;
    if (!b)
        return rfail(r, "a comparing test wants a value");
    if (k == T_EQ || k == T_NE) {
        *out = val_equal(r, a, *b, 0) == (k == T_EQ);
        return spend(r, 1);
    }
    if (k == T_IN)
        return val_contains(r, *b, a, out);
    if (val_compare(r, a, *b, &c) < 0)
        return -1;
    *out = c != 2 && (k == T_LT ? c < 0 : k == T_LE ? c <= 0 : k == T_GT ? c > 0 : c >= 0);
    return 0;
}

static int test_number(struct render *r, enum test_kind k, struct val a, const struct val *b, bool *out)
{
    if (a.kind != V_INT && a.kind != V_BOOL)
        return rfail(r, "even, odd and divisibleby want a whole number, not %s", val_type(a));
    int64_t by = k == T_DIVISIBLE ? int_of(b) : 2;
    if (by == 0)
        return rfail(r, "divisibleby wants a number that is not 0");
    bool even = by == -1 || a.i % by == 0;
    *out = k == T_ODD ? !even : even;
    return 0;
}

static int run_test(struct render *r, int which, struct val v, const struct args *a, bool *out)
{
    const struct val *b = arg(a, 0, NULL);
    enum test_kind k = tests[which].kind;
    struct str s;
    switch (k) {
    case T_DEFINED:
    case T_UNDEFINED:
        *out = (v.kind == V_UNDEFINED) == (k == T_UNDEFINED);
        return 0;
    case T_NONE:
        *out = v.kind == V_NONE;
        return 0;
    case T_STRING:
        *out = v.kind == V_STR;
        return 0;
    case T_MAPPING:
        *out = v.kind == V_DICT;
        return 0;
    case T_SEQUENCE:
    case T_ITERABLE:
        *out = is_sequence(v);
        return 0;
    case T_NUMBER:
        *out = is_number(v);
        return 0;
    case T_INTEGER:
        *out = v.kind == V_INT || v.kind == V_BIG;
        return 0;
    case T_FLOATING:
        *out = v.kind == V_FLOAT;
        return 0;
    case T_BOOLEAN:
        *out = v.kind == V_BOOL;
        return 0;
    case T_TRUE:
    case T_FALSE:
        *out = v.kind == V_BOOL && v.i == (k == T_TRUE);
        return 0;
    case T_CALLABLE:
        *out = v.kind == V_MACRO || v.kind == V_METHOD || v.kind == V_BUILTIN;
        return 0;
    case T_EVEN:
    case T_ODD:
    case T_DIVISIBLE:
        return test_number(r, k, v, b, out);
    case T_UPPER:
    case T_LOWER:
        if (as_str(r, v, &s) < 0)
            return -1;
        *out = all_are(s, k == T_UPPER ? IS_UPPER : IS_LOWER);
        return spend(r, s.n / 8);
    case T_SAME:
        if (!b)
            return rfail(r, "sameas wants a value");
        *out = v.kind == b->kind && val_equal(r, v, *b, 0) &&
               (v.kind == V_NONE || v.kind == V_BOOL || v.kind == V_INT || v.kind == V_STR || v.l == b->l);
        return 0;
    case T_FILTER:
    case T_TEST:
        *out = v.kind == V_STR && (k == T_FILTER ? filter_index(v.s) : test_index(v.s)) >= 0;
        return 0;
    default:
        return test_order(r, k, v, b, out);
    }
}

int call_test(struct render *r, const struct node *t, struct val in, const struct args *a, bool *out)
{
    return run_test(r, t->which, in, a, out);
}

/* ---- filters ---- */

typedef int filter_fn(struct render *r, struct val v, const struct args *a, struct val *out);
static int run_filter(struct render *r, int which, struct val v, const struct args *a, struct val *out);

static int f_trim(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s, set;
    const struct val *x = arg(a, 0, "chars");
    bool given = x && x->kind != V_NONE;
    if (as_str(r, v, &s) < 0 || (given && want_str(r, "trim", x, &set) < 0))
        return -1;
    s = strip(s, given ? &set : NULL, true, true);
    *out = str_val(s.s, s.n);
    return 0;
}

static int f_length(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    int64_t n = 0;
    if (val_length(r, v, &n) < 0)
        return -1;
    *out = val_int(n);
    return 0;
}

static int cased_text(struct render *r, struct val v, int how, struct val *out)
{
    struct str s;
    return as_str(r, v, &s) < 0 ? -1 : change_case(r, s, how, out);
}

static int f_upper(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    return cased_text(r, v, CASE_UPPER, out);
}

static int f_lower(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    return cased_text(r, v, CASE_LOWER, out);
}

static int f_capitalize(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    return cased_text(r, v, CASE_CAPITAL, out);
}

/* Jinja's own: a word begins behind white space, - ( { [ < only. */
static int f_title(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s;
    struct buf b = BUF_INIT;
    bool begin = true;
    (void)a;
    if (as_str(r, v, &s) < 0)
        return -1;
    for (uint32_t i = 0; i < s.n;) {
        uint32_t cp, to[3];
        char c[4];
        i += (uint32_t)uni_get(s.s + i, &cp);
        int n = begin ? uni_upper(cp, to) : uni_lower(cp, to);
        for (int k = 0; k < n; k++)
            buf_add(&b, c, (size_t)utf8_encode(to[k], c));
        begin = py_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp));
    }
    return take_buf(r, &b, spend(r, s.n / 8), out);
}

static int f_replace(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s, x, y;
    int64_t n;
    const struct val *max = arg(a, 2, "count");
    if (max && max->kind == V_NONE)
        max = NULL;
    if (as_str(r, v, &s) < 0 || want_str(r, "replace", arg(a, 0, "old"), &x) < 0 ||
        want_str(r, "replace", arg(a, 1, "new"), &y) < 0 || want_int(r, "replace", max, -1, &n) < 0)
        return -1;
    return replace(r, s, x, y, n, out);
}

static int f_join(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str by = { "", 0 };
    const struct val *d = arg(a, 0, "d");
    if (d && as_str(r, *d, &by) < 0)
        return -1;
    return join(r, v, by, arg(a, 1, "attribute"), out);
}

static int end_of_list(struct render *r, struct val v, bool last, struct val *out)
{
    struct vlist *l;
    if (val_iterate(r, v, &l) < 0)
        return -1;
    *out =
        l->n ? l->v[last ? l->n - 1 : 0] : (struct val){ .kind = V_UNDEFINED, .s = { "member of an empty list", 23 } };
    return 0;
}

static int f_first(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    return end_of_list(r, v, false, out);
}

static int f_last(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    return end_of_list(r, v, true, out);
}

static int f_default(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *d = arg(a, 0, "default_value"), *b = arg(a, 1, "boolean");
    bool falsy = b && val_true(*b) && !val_true(v);
    (void)r;
    *out = v.kind != V_UNDEFINED && !falsy ? v : d ? *d : str_val("", 0);
    return 0;
}

static int f_items(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    if (v.kind == V_UNDEFINED)
        return val_list(r, V_LIST, out);
    if (v.kind != V_DICT)
        return rfail(r, "items wants a dict, not %s", val_type(v));
    return dict_items(r, v.d, out);
}

static int copy_list(struct render *r, const struct vlist *l, struct val *out)
{
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (list_push(r, out->l, l->v[i]) < 0)
            return -1;
    return 0;
}

static int f_list(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct vlist *l;
    (void)a;
    return val_iterate(r, v, &l) < 0 ? -1 : copy_list(r, l, out);
}

static int f_string(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    out->kind = V_STR;
    return as_str(r, v, &out->s);
}

static int number_text(struct val v, char *text, size_t size)
{
    struct str s = v.kind == V_STR ? strip(v.s, NULL, true, true) : (struct str){ "", 0 };
    if (s.n == 0 || s.n >= size)
        return -1;
    memcpy(text, s.s, s.n);
    text[s.n] = '\0';
    return 0;
}

static int f_int(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *d = arg(a, 0, "default"), *base = arg(a, 1, "base");
    char text[64], *end;
    (void)r;
    if (base && int_of(base) != 10)
        return rfail(r, "int with a base other than 10 is not supported");
    *out = d ? *d : val_int(0);
    if (v.kind == V_INT || v.kind == V_BOOL)
        *out = val_int(v.i);
    else if (v.kind == V_FLOAT && fabs(v.f) < 9e18)
        *out = val_int((int64_t)v.f);
    else if (number_text(v, text, sizeof text) == 0) {
        int64_t i = strtoll(text, &end, 10);
        if (*end == '\0') {
            *out = val_int(i);
        } else {
            double f = strtod(text, &end);
            if (*end == '\0' && fabs(f) < 9e18)
                *out = val_int((int64_t)f);
        }
    }
    return 0;
}

static int f_float(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *d = arg(a, 0, "default");
    char text[400], *end;
    (void)r;
    *out = d ? *d : (struct val){ .kind = V_FLOAT, .f = 0 };
    if (v.kind == V_INT || v.kind == V_BOOL)
        *out = (struct val){ .kind = V_FLOAT, .f = (double)v.i };
    else if (v.kind == V_FLOAT)
        *out = v;
    else if (number_text(v, text, sizeof text) == 0) {
        double f = strtod(text, &end);
        if (*end == '\0')
            *out = (struct val){ .kind = V_FLOAT, .f = f };
    }
    return 0;
}

static int f_abs(struct render *r, struct val v, const struct args *a, struct val *out)
{
    (void)a;
    if (v.kind == V_FLOAT)
        *out = (struct val){ .kind = V_FLOAT, .f = fabs(v.f) };
    else if ((v.kind == V_INT || v.kind == V_BOOL) && v.i != INT64_MIN)
        *out = val_int(v.i < 0 ? -v.i : v.i);
    else
        return rfail(r, "abs wants a number, not %s", val_type(v));
    return 0;
}

static int f_round(struct render *r, struct val v, const struct args *a, struct val *out)
{
    int64_t places;
    const struct val *method = arg(a, 1, "method");
    if (want_int(r, "round", arg(a, 0, "precision"), 0, &places) < 0)
        return -1;
    if (!is_number(v) || v.kind == V_BIG || places < 0 || places > 15)
        return rfail(r, "round wants a number and up to 15 places");
    double f = v.kind == V_FLOAT ? v.f : (double)v.i, p = pow(10, (double)places);
    char text[400];
    if (method && method->kind == V_STR && str_eq(method->s, "ceil")) {
        f = ceil(f * p) / p;
    } else if (method && method->kind == V_STR && str_eq(method->s, "floor")) {
        f = floor(f * p) / p;
    } else { /* to nearest in decimal, ties by the exact value, as Python's round() */
        snprintf(text, sizeof text, "%.*f", (int)places, f);
        f = strtod(text, NULL);
    }
    if ((v.kind == V_INT || v.kind == V_BOOL) && !(method && method->kind == V_STR && !str_eq(method->s, "common")))
        *out = val_int(v.i);
    else
        *out = (struct val){ .kind = V_FLOAT, .f = f };
    return 0;
}

static int f_reverse(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct vlist *l;
    (void)a;
    if (val_iterate(r, v, &l) < 0)
        return -1;
    if (v.kind == V_STR) {
        struct buf b = BUF_INIT;
        for (size_t i = l->n; i-- > 0;)
            buf_add(&b, l->v[i].s.s, l->v[i].s.n);
        return take_buf(r, &b, 0, out);
    }
    if (val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = l->n; i-- > 0;)
        if (list_push(r, out->l, l->v[i]) < 0)
            return -1;
    return 0;
}

/* a.b.0: attribute by attribute; a number: an item. */
static int dotted(struct render *r, struct val v, struct val name, struct val *out)
{
    if (name.kind != V_STR)
        return get_item(r, v, name, out);
    struct str rest = name.s;
    *out = v;
    for (;;) {
        const char *dot = memchr(rest.s, '.', rest.n);
        struct str part = { rest.s, dot ? (uint32_t)(dot - rest.s) : rest.n };
        bool digits = part.n > 0 && part.n < 10;
        int64_t i = 0;
        for (uint32_t k = 0; k < part.n; k++) {
            digits = digits && part.s[k] >= '0' && part.s[k] <= '9';
            i = digits ? i * 10 + (part.s[k] - '0') : 0;
        }
        if (get_item(r, *out, digits ? val_int(i) : str_val(part.s, part.n), out) < 0)
            return -1;
        if (!dot)
            return 0;
        rest.n -= part.n + 1;
        rest.s = dot + 1;
    }
}

/* The key a member sorts by: itself or an attribute; texts in lower case unless case_sensitive. */
static int sort_key(struct render *r, struct val v, const struct val *attribute, bool sensitive, struct val *out)
{
    *out = v;
    if (attribute && attribute->kind != V_NONE && dotted(r, v, *attribute, out) < 0)
        return -1;
    if (out->kind == V_STR && !sensitive)
        return change_case(r, out->s, CASE_LOWER, out);
    return 0;
}

/* Stable merge sort of idx by key; comparisons may fail. */
static int merge_sort(struct render *r, const struct val *key, size_t *idx, size_t *tmp, size_t n, bool down)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) {
                int c = 0;
                if (i < mid && j < hi && val_compare(r, key[idx[i]], key[idx[j]], &c) < 0)
                    return -1;
                bool left = j >= hi || (i < mid && (down ? c >= 0 : c <= 0 || c == 2));
                tmp[k] = left ? idx[i++] : idx[j++];
            }
        }
        memcpy(idx, tmp, n * sizeof *idx);
    }
    return 0;
}

static int sorted(struct render *r, const struct vlist *l, const struct val *key, bool down, struct val *out)
{
    size_t *idx = ralloc(r, (l->n + 1) * sizeof *idx), *tmp = ralloc(r, (l->n + 1) * sizeof *tmp);
    if (!idx || !tmp || val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        idx[i] = i;
    if (merge_sort(r, key, idx, tmp, l->n, down) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (list_push(r, out->l, l->v[idx[i]]) < 0)
            return -1;
    return 0;
}

static int f_sort(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *down = arg(a, 0, "reverse"), *sens = arg(a, 1, "case_sensitive"), *attr = arg(a, 2, "attribute");
    struct vlist *l;
    if (val_iterate(r, v, &l) < 0)
        return -1;
    struct val *key = ralloc(r, (l->n + 1) * sizeof *key);
    if (!key)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (sort_key(r, l->v[i], attr, sens && val_true(*sens), &key[i]) < 0)
            return -1;
    return sorted(r, l, key, down && val_true(*down), out);
}

static int f_dictsort(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *sens = arg(a, 0, "case_sensitive"), *by = arg(a, 1, "by"), *down = arg(a, 2, "reverse");
    struct val items;
    if (v.kind != V_DICT)
        return rfail(r, "dictsort wants a dict, not %s", val_type(v));
    if (dict_items(r, v.d, &items) < 0)
        return -1;
    struct val *key = ralloc(r, (v.d->n + 1) * sizeof *key);
    if (!key)
        return -1;
    bool value = by && by->kind == V_STR && str_eq(by->s, "value");
    for (size_t i = 0; i < v.d->n; i++)
        if (sort_key(r, value ? v.d->v[i] : v.d->key[i], NULL, sens && val_true(*sens), &key[i]) < 0)
            return -1;
    return sorted(r, items.l, key, down && val_true(*down), out);
}

static int f_unique(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *sens = arg(a, 0, "case_sensitive"), *attr = arg(a, 1, "attribute");
    struct vlist *l;
    struct val seen, key;
    if (val_iterate(r, v, &l) < 0 || val_list(r, V_LIST, out) < 0 || val_list(r, V_LIST, &seen) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        bool there;
        if (sort_key(r, l->v[i], attr, sens && val_true(*sens), &key) < 0 || val_contains(r, seen, key, &there) < 0)
            return -1;
        if (!there && (list_push(r, seen.l, key) < 0 || list_push(r, out->l, l->v[i]) < 0))
            return -1;
    }
    return 0;
}

static int f_map(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *attr = arg(a, a->n, "attribute"), *absent = arg(a, a->n, "default");
    struct args rest = { a->n ? a->v + 1 : NULL, a->n ? a->n - 1 : 0, a->kw, a->n_kw };
    struct vlist *l;
    int which = -1;
    if (!attr && (a->n == 0 || a->v[0].kind != V_STR || (which = filter_index(a->v[0].s)) < 0))
        return rfail(r, "map wants the name of a filter that is supported, or attribute=");
    if (val_iterate(r, v, &l) < 0 || val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        struct val x;
        int rc = attr ? dotted(r, l->v[i], *attr, &x) : run_filter(r, which, l->v[i], &rest, &x);
        if (rc == 0 && attr && x.kind == V_UNDEFINED && absent)
            x = *absent;
        if (rc < 0 || list_push(r, out->l, x) < 0)
            return -1;
    }
    return 0;
}

/* select, reject, selectattr, rejectattr */
static int choose(struct render *r, struct val v, const struct args *a, bool attr, bool want, struct val *out)
{
    size_t skip = attr ? 1 : 0;
    struct vlist *l;
    int which = -1;
    if (attr && a->n == 0)
        return rfail(r, "selectattr and rejectattr want the name of an attribute");
    if (a->n > skip && (a->v[skip].kind != V_STR || (which = test_index(a->v[skip].s)) < 0))
        return rfail(r, "select and reject want the name of a test that is supported");
    struct args rest = { a->v + skip + 1, a->n > skip + 1 ? a->n - skip - 1 : 0, a->kw, a->n_kw };
    if (val_iterate(r, v, &l) < 0 || val_list(r, V_LIST, out) < 0)
        return -1;
    for (size_t i = 0; i < l->n; i++) {
        struct val x = l->v[i];
        bool yes = false;
        if (spend(r, 1) < 0 || (attr && dotted(r, x, a->v[0], &x) < 0))
            return -1;
        if (which < 0)
            yes = val_true(x);
        else if (run_test(r, which, x, &rest, &yes) < 0)
            return -1;
        if (yes == want && list_push(r, out->l, l->v[i]) < 0)
            return -1;
    }
    return 0;
}

static int f_select(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return choose(r, v, a, false, true, out);
}

static int f_reject(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return choose(r, v, a, false, false, out);
}

static int f_selectattr(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return choose(r, v, a, true, true, out);
}

static int f_rejectattr(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return choose(r, v, a, true, false, out);
}

static int f_indent(struct render *r, struct val v, const struct args *a, struct val *out)
{
    static const char spaces[] = "                                ";
    const struct val *w = arg(a, 0, "width"), *first = arg(a, 1, "first"), *blank = arg(a, 2, "blank");
    struct str s, by = { spaces, 4 };
    struct buf b = BUF_INIT;
    if (as_str(r, v, &s) < 0)
        return -1;
    if (w && w->kind == V_STR)
        by = w->s;
    else if (w && w->kind == V_INT && w->i >= 0 && w->i <= 32)
        by.n = (uint32_t)w->i;
    else if (w)
        return rfail(r, "indent wants a width up to 32 or a text");
    bool all = blank && val_true(*blank);
    for (uint32_t i = 0; i <= s.n;) {
        const char *nl = memchr(s.s + i, '\n', s.n - i);
        uint32_t e = nl ? (uint32_t)(nl - s.s) : s.n;
        if (i == 0 ? first && val_true(*first) : all || e > i)
            buf_add(&b, by.s, by.n);
        buf_add(&b, s.s + i, e - i);
        if (nl)
            buf_putc(&b, '\n');
        if (b.len > TEMPLATE_MAX_BYTES || !nl)
            break;
        i = e + 1;
    }
    return take_buf(r, &b, spend(r, b.len / 64), out);
}

static int f_sum(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *attr = arg(a, 0, "attribute"), *start = arg(a, 1, "start");
    struct vlist *l;
    if (val_iterate(r, v, &l) < 0)
        return -1;
    *out = start ? *start : val_int(0);
    for (size_t i = 0; i < l->n; i++) {
        struct val x = l->v[i];
        if (spend(r, 1) < 0 || (attr && attr->kind != V_NONE && dotted(r, x, *attr, &x) < 0) ||
            arith(r, OP_ADD, *out, x, out) < 0)
            return -1;
    }
    return 0;
}

static int extreme(struct render *r, struct val v, const struct args *a, bool max, struct val *out)
{
    const struct val *sens = arg(a, 0, "case_sensitive"), *attr = arg(a, 1, "attribute");
    struct vlist *l;
    struct val best, key;
    if (val_iterate(r, v, &l) < 0)
        return -1;
    *out = (struct val){ .kind = V_UNDEFINED, .s = { "member of an empty list", 23 } };
    for (size_t i = 0; i < l->n; i++) {
        int c = 0;
        if (sort_key(r, l->v[i], attr, sens && val_true(*sens), &key) < 0 || (i && val_compare(r, key, best, &c) < 0))
            return -1;
        if (i == 0 || (c != 2 && (max ? c > 0 : c < 0))) {
            best = key;
            *out = l->v[i];
        }
    }
    return 0;
}

static int f_min(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return extreme(r, v, a, false, out);
}

static int f_max(struct render *r, struct val v, const struct args *a, struct val *out)
{
    return extreme(r, v, a, true, out);
}

static int f_escape(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s;
    struct buf b = BUF_INIT;
    (void)a;
    if (as_str(r, v, &s) < 0)
        return -1;
    for (uint32_t i = 0; i < s.n; i++) {
        const char *to = s.s[i] == '&'    ? "&amp;"
                         : s.s[i] == '<'  ? "&lt;"
                         : s.s[i] == '>'  ? "&gt;"
                         : s.s[i] == '\'' ? "&#39;"
                         : s.s[i] == '"'  ? "&#34;"
                                          : NULL;
        if (to)
            buf_puts(&b, to);
        else
            buf_putc(&b, s.s[i]);
    }
    return take_buf(r, &b, spend(r, s.n / 8), out);
}

static int f_wordcount(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s;
    int64_t n = 0;
    bool in = false;
    (void)a;
    if (as_str(r, v, &s) < 0)
        return -1;
    for (uint32_t i = 0; i < s.n;) {
        uint32_t cp;
        i += (uint32_t)uni_get(s.s + i, &cp);
        bool now = uni_is_word(cp);
        n += now && !in;
        in = now;
    }
    *out = val_int(n);
    return spend(r, s.n / 8);
}

static int f_batch(struct render *r, struct val v, const struct args *a, struct val *out)
{
    int64_t size;
    const struct val *fill = arg(a, 1, "fill_with");
    struct vlist *l;
    struct val row = val_none();
    if (want_int(r, "batch", arg(a, 0, "linecount"), 0, &size) < 0 || val_iterate(r, v, &l) < 0 ||
        val_list(r, V_LIST, out) < 0)
        return -1;
    if (size < 1)
        return rfail(r, "batch wants a size above 0");
    for (size_t i = 0; i < l->n; i++) {
        if (i % (size_t)size == 0 && (val_list(r, V_LIST, &row) < 0 || list_push(r, out->l, row) < 0))
            return -1;
        if (list_push(r, row.l, l->v[i]) < 0)
            return -1;
    }
    while (fill && fill->kind != V_NONE && l->n && row.l->n < (size_t)size)
        if (list_push(r, row.l, *fill) < 0)
            return -1;
    return 0;
}

static int f_attr(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str name;
    return want_str(r, "attr", arg(a, 0, "name"), &name) < 0 ? -1 : get_attr(r, v, name, out);
}

static const struct {
    const char *name;
    filter_fn *fn;
} filters[] = {
    { "trim", f_trim },
    { "length", f_length },
    { "count", f_length },
    { "upper", f_upper },
    { "lower", f_lower },
    { "capitalize", f_capitalize },
    { "title", f_title },
    { "replace", f_replace },
    { "join", f_join },
    { "first", f_first },
    { "last", f_last },
    { "default", f_default },
    { "d", f_default },
    { "tojson", val_json },
    { "items", f_items },
    { "list", f_list },
    { "string", f_string },
    { "int", f_int },
    { "float", f_float },
    { "abs", f_abs },
    { "round", f_round },
    { "reverse", f_reverse },
    { "sort", f_sort },
    { "dictsort", f_dictsort },
    { "unique", f_unique },
    { "map", f_map },
    { "select", f_select },
    { "reject", f_reject },
    { "selectattr", f_selectattr },
    { "rejectattr", f_rejectattr },
    { "indent", f_indent },
    { "sum", f_sum },
    { "min", f_min },
    { "max", f_max },
    { "escape", f_escape },
    { "e", f_escape },
    { "safe", f_string },
    { "wordcount", f_wordcount },
    { "batch", f_batch },
    { "attr", f_attr },
};

int filter_index(struct str name)
{
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (str_eq(name, filters[i].name))
            return (int)i;
    return -1;
}

/* map('map', ...) nests: its depth counts. */
static int run_filter(struct render *r, int which, struct val v, const struct args *a, struct val *out)
{
    if (++r->depth > TEMPLATE_MAX_DEPTH * 2)
        return rfail(r, "nested deeper than %d", TEMPLATE_MAX_DEPTH * 2);
    int rc = spend(r, 1) < 0 ? -1 : filters[which].fn(r, v, a, out);
    r->depth--;
    return rc;
}

int call_filter(struct render *r, const struct node *f, struct val in, const struct args *a, struct val *out)
{
    return run_filter(r, f->which, in, a, out);
}
