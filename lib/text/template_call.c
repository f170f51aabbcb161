/* template_call.c - tests, methods and functions of chat templates. What stands in no table here is refused by
 * name. Texts follow Python: white space, case and splitting as str does it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/utf8.h"
#include "text/template_call.h"
#include "text/unicode.h"

/* ---- arguments ---- */

const struct val *call_arg(const struct args *a, size_t at, const char *name)
{
    for (size_t i = 0; name && i < a->n_kw; i++)
        if (str_eq(a->kw[i].name, name))
            return &a->kw[i].v;
    return at < a->n ? &a->v[at] : NULL;
}

int want_str(struct render *r, const char *who, const struct val *v, struct str *out)
{
    *out = (struct str){ "", 0 };
    if (!v || v->kind != V_STR)
        return rfail(r, "%s wants a text, not %s", who, v ? val_type(*v) : "nothing");
    *out = v->s;
    return 0;
}

int want_int(struct render *r, const char *who, const struct val *v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (!v)
        return 0;
    if (v->kind != V_INT && v->kind != V_BOOL)
        return rfail(r, "%s wants a whole number, not %s", who, val_type(*v));
    *out = v->i;
    return 0;
}

struct val val_of_str(const char *s, size_t n)
{
    return (struct val){ .kind = V_STR, .s = { s, (uint32_t)n } };
}

int val_of_buf(struct render *r, struct buf *b, int rc, struct val *out)
{
    if (rc == 0 && b->len > TEMPLATE_MAX_BYTES)
        rc = rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    if (rc == 0)
        rc = val_str(r, b->s, b->len, out);
    buf_release(b);
    return rc;
}

int text_of(struct render *r, struct val v, struct str *out)
{
    if (v.kind == V_STR) {
        *out = v.s;
        return 0;
    }
    struct buf b = BUF_INIT;
    struct val s = { .kind = V_STR, .s = { "", 0 } };
    *out = s.s;
    if (val_of_buf(r, &b, val_text(r, v, &b), &s) < 0)
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

struct str text_strip(struct str s, const struct str *set, bool left, bool right)
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

int text_case(struct render *r, struct str s, int how, struct val *out)
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
    return val_of_buf(r, &b, spend(r, s.n / 8), out);
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
            struct str rest = text_strip((struct str){ s.s + b, s.n - b }, NULL, false, true);
            return list_push(r, l, val_of_str(rest.s, rest.n));
        }
        while (i < s.n && !blank_at(s.s + i))
            i += (uint32_t)uni_len((unsigned char)s.s[i]);
        if (list_push(r, l, val_of_str(s.s + b, i - b)) < 0)
            return -1;
    }
    return 0;
}

static int split(struct render *r, struct str s, const struct args *a, struct val *out)
{
    const struct val *sep = call_arg(a, 0, "sep");
    struct str by;
    int64_t max;
    if (want_int(r, "split", call_arg(a, 1, "maxsplit"), -1, &max) < 0 || val_list(r, V_LIST, out) < 0)
        return -1;
    if (!sep || sep->kind == V_NONE)
        return split_blanks(r, s, max, out->l);
    if (want_str(r, "split", sep, &by) < 0)
        return -1;
    if (by.n == 0)
        return rfail(r, "split wants a separator that is not empty");
    const char *p;
    while ((max < 0 || (int64_t)out->l->n < max) && (p = find_bytes(s.s, s.n, by.s, by.n))) {
        if (list_push(r, out->l, val_of_str(s.s, (size_t)(p - s.s))) < 0)
            return -1;
        s.n -= (uint32_t)(p - s.s) + by.n;
        s.s = p + by.n;
    }
    return list_push(r, out->l, val_of_str(s.s, s.n));
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
    const struct val *sep = call_arg(a, 0, "sep");
    struct str by;
    int64_t max;
    struct val turned;
    if (want_int(r, "rsplit", call_arg(a, 1, "maxsplit"), -1, &max) < 0)
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
        if (spend(r, 1 + (s.n - at) / 64) < 0 ||
            list_push(r, turned.l, val_of_str(s.s + at + by.n, s.n - at - by.n)) < 0)
            return -1;
        s.n = (uint32_t)at;
    }
    if (list_push(r, out->l, val_of_str(s.s, s.n)) < 0)
        return -1;
    for (size_t i = turned.l->n; i-- > 0;)
        if (list_push(r, out->l, turned.l->v[i]) < 0)
            return -1;
    return 0;
}

static int split_lines(struct render *r, struct str s, const struct args *a, struct val *out)
{
    const struct val *k = call_arg(a, 0, "keepends");
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
        if (list_push(r, out->l, val_of_str(s.s + b, (keep ? i : e) - b)) < 0)
            return -1;
        b = i;
    }
    return 0;
}

int text_replace(struct render *r, struct str s, struct str from, struct str to, int64_t max, struct val *out)
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
    return val_of_buf(r, &b, rc, out);
}

int text_join(struct render *r, struct val list, struct str by, const struct val *attribute, struct val *out)
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
    return val_of_buf(r, &b, rc, out);
}

int64_t text_count(struct str s, struct str what)
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
    if (want_str(r, "find", call_arg(a, 0, NULL), &what) < 0 || want_int(r, "find", call_arg(a, 1, NULL), 0, &from) < 0)
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
    if (want_str(r, "partition", call_arg(a, 0, NULL), &by) < 0)
        return -1;
    if (by.n == 0)
        return rfail(r, "partition wants a separator that is not empty");
    const char *p = last ? NULL : find_bytes(s.s, s.n, by.s, by.n);
    size_t at = last ? find_last(s, by) : p ? (size_t)(p - s.s) : SIZE_MAX;
    struct val v[3] = { val_of_str(s.s, s.n), val_of_str("", 0), val_of_str("", 0) };
    if (at != SIZE_MAX) {
        v[0] = val_of_str(s.s, at);
        v[1] = val_of_str(by.s, by.n);
        v[2] = val_of_str(s.s + at + by.n, s.n - at - by.n);
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
    if (want_int(r, "padding", call_arg(a, 0, NULL), 0, &width) < 0)
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
    return val_of_buf(r, &b, spend(r, b.len / 64), out);
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
            return text_case(r, s, cases[i].how, out);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (str_eq(name, kinds[i].name)) {
            *out = val_bool(all_are(s, kinds[i].how));
            return spend(r, s.n / 8);
        }
    if (str_eq(name, "strip") || str_eq(name, "lstrip") || str_eq(name, "rstrip")) {
        const struct val *set = call_arg(a, 0, NULL);
        bool given = set && set->kind != V_NONE;
        if (given && want_str(r, "strip", set, &x) < 0)
            return -1;
        s = text_strip(s, given ? &x : NULL, name.s[0] != 'r', name.s[0] != 'l');
        *out = val_of_str(s.s, s.n);
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
        if (want_str(r, "replace", call_arg(a, 0, "old"), &x) < 0 ||
            want_str(r, "replace", call_arg(a, 1, "new"), &y) < 0 ||
            want_int(r, "replace", call_arg(a, 2, "count"), -1, &n) < 0)
            return -1;
        return text_replace(r, s, x, y, n, out);
    }
    if (str_eq(name, "find") || str_eq(name, "rfind") || str_eq(name, "index"))
        return find(r, s, name, a, out);
    if (str_eq(name, "partition") || str_eq(name, "rpartition"))
        return partition(r, s, name.s[0] == 'r', a, out);
    if (str_eq(name, "zfill") || str_eq(name, "ljust") || str_eq(name, "rjust"))
        return pad(r, s, name, a, out);
    if (str_eq(name, "join"))
        return a->n == 1 ? text_join(r, a->v[0], s, NULL, out) : rfail(r, "join wants one argument");
    if (want_str(r, "a method of a text", call_arg(a, 0, NULL), &x) < 0)
        return -1;
    if (str_eq(name, "count")) {
        *out = val_int(text_count(s, x));
        return spend(r, s.n / 64);
    }
    bool suffix = str_eq(name, "removesuffix");
    if (x.n <= s.n && memcmp(suffix ? s.s + s.n - x.n : s.s, x.s, x.n) == 0) {
        s.s += suffix ? 0 : x.n;
        s.n -= x.n;
    }
    *out = val_of_str(s.s, s.n);
    return 0;
}

int dict_items(struct render *r, const struct vdict *d, struct val *out)
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
        const struct val *v = dict_find(d, a->v[0]), *absent = call_arg(a, 1, "default");
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
    if (a->n != 1 || text_of(r, a->v[0], &s) < 0)
        return rfail(r, "raise_exception");
    return rfail(r, "the template refuses: %.*s", (int)(s.n < 400 ? s.n : 400), s.s);
}

static int fn_strftime(struct render *r, const struct args *a, struct val *out)
{
    struct str f;
    char format[256], text[1024];
    struct tm tm;
    time_t when = (time_t)r->date;
    if (want_str(r, "strftime_now", call_arg(a, 0, NULL), &f) < 0)
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

int64_t val_whole(const struct val *v)
{
    return v && (v->kind == V_INT || v->kind == V_BOOL) ? v->i : 0;
}

bool val_is_number(struct val v)
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
    int64_t by = k == T_DIVISIBLE ? val_whole(b) : 2;
    if (by == 0)
        return rfail(r, "divisibleby wants a number that is not 0");
    bool even = by == -1 || a.i % by == 0;
    *out = k == T_ODD ? !even : even;
    return 0;
}

int run_test(struct render *r, int which, struct val v, const struct args *a, bool *out)
{
    const struct val *b = call_arg(a, 0, NULL);
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
        *out = val_is_number(v);
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
        if (text_of(r, v, &s) < 0)
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
