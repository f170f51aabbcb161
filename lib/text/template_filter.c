/* template_filter.c - filters of chat templates. What stands in no table here is refused by name; texts follow Python.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/template_call.h"
#include "text/unicode.h"

typedef int filter_fn(struct render *r, struct val v, const struct args *a, struct val *out);
static int run_filter(struct render *r, int which, struct val v, const struct args *a, struct val *out);

static int f_trim(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s, set;
    const struct val *x = call_arg(a, 0, "chars");
    bool given = x && x->kind != V_NONE;
    if (text_of(r, v, &s) < 0 || (given && want_str(r, "trim", x, &set) < 0))
        return -1;
    s = text_strip(s, given ? &set : NULL, true, true);
    *out = val_of_str(s.s, s.n);
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
    return text_of(r, v, &s) < 0 ? -1 : text_case(r, s, how, out);
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
    if (text_of(r, v, &s) < 0)
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
    return val_of_buf(r, &b, spend(r, s.n / 8), out);
}

static int f_replace(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s, x, y;
    int64_t n;
    const struct val *max = call_arg(a, 2, "count");
    if (max && max->kind == V_NONE)
        max = NULL;
    if (text_of(r, v, &s) < 0 || want_str(r, "replace", call_arg(a, 0, "old"), &x) < 0 ||
        want_str(r, "replace", call_arg(a, 1, "new"), &y) < 0 || want_int(r, "replace", max, -1, &n) < 0)
        return -1;
    return text_replace(r, s, x, y, n, out);
}

static int f_join(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str by = { "", 0 };
    const struct val *d = call_arg(a, 0, "d");
    if (d && text_of(r, *d, &by) < 0)
        return -1;
    return text_join(r, v, by, call_arg(a, 1, "attribute"), out);
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
    const struct val *d = call_arg(a, 0, "default_value"), *b = call_arg(a, 1, "boolean");
    bool falsy = b && val_true(*b) && !val_true(v);
    (void)r;
    *out = v.kind != V_UNDEFINED && !falsy ? v : d ? *d : val_of_str("", 0);
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
    return text_of(r, v, &out->s);
}

static int number_text(struct val v, char *text, size_t size)
{
    struct str s = v.kind == V_STR ? text_strip(v.s, NULL, true, true) : (struct str){ "", 0 };
    if (s.n == 0 || s.n >= size)
        return -1;
    memcpy(text, s.s, s.n);
    text[s.n] = '\0';
    return 0;
}

static int f_int(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *d = call_arg(a, 0, "default"), *base = call_arg(a, 1, "base");
    char text[64], *end;
    (void)r;
    if (base && val_whole(base) != 10)
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
    const struct val *d = call_arg(a, 0, "default");
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
    const struct val *method = call_arg(a, 1, "method");
    if (want_int(r, "round", call_arg(a, 0, "precision"), 0, &places) < 0)
        return -1;
    if (!val_is_number(v) || v.kind == V_BIG || places < 0 || places > 15)
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
        return val_of_buf(r, &b, 0, out);
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
        if (get_item(r, *out, digits ? val_int(i) : val_of_str(part.s, part.n), out) < 0)
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
        return text_case(r, out->s, CASE_LOWER, out);
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
    const struct val *down = call_arg(a, 0, "reverse"), *sens = call_arg(a, 1, "case_sensitive"),
                     *attr = call_arg(a, 2, "attribute");
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
    const struct val *sens = call_arg(a, 0, "case_sensitive"), *by = call_arg(a, 1, "by"),
                     *down = call_arg(a, 2, "reverse");
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
    const struct val *sens = call_arg(a, 0, "case_sensitive"), *attr = call_arg(a, 1, "attribute");
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
    const struct val *attr = call_arg(a, a->n, "attribute"), *absent = call_arg(a, a->n, "default");
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
    const struct val *w = call_arg(a, 0, "width"), *first = call_arg(a, 1, "first"), *blank = call_arg(a, 2, "blank");
    struct str s, by = { spaces, 4 };
    struct buf b = BUF_INIT;
    if (text_of(r, v, &s) < 0)
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
    return val_of_buf(r, &b, spend(r, b.len / 64), out);
}

static int f_sum(struct render *r, struct val v, const struct args *a, struct val *out)
{
    const struct val *attr = call_arg(a, 0, "attribute"), *start = call_arg(a, 1, "start");
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
    const struct val *sens = call_arg(a, 0, "case_sensitive"), *attr = call_arg(a, 1, "attribute");
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
    if (text_of(r, v, &s) < 0)
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
    return val_of_buf(r, &b, spend(r, s.n / 8), out);
}

static int f_wordcount(struct render *r, struct val v, const struct args *a, struct val *out)
{
    struct str s;
    int64_t n = 0;
    bool in = false;
    (void)a;
    if (text_of(r, v, &s) < 0)
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
    const struct val *fill = call_arg(a, 1, "fill_with");
    struct vlist *l;
    struct val row = val_none();
    if (want_int(r, "batch", call_arg(a, 0, "linecount"), 0, &size) < 0 || val_iterate(r, v, &l) < 0 ||
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
    return want_str(r, "attr", call_arg(a, 0, "name"), &name) < 0 ? -1 : get_attr(r, v, name, out);
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
