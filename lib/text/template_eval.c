/* template_eval.c - runs a chat template's tree. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "text/template_value.h"
#include "text/unicode.h"

static int eval(struct render *r, const struct node *x, struct val *out);
static int run(struct render *r, const struct node *x);

static int run_all(struct render *r, const struct node *x)
{
    for (size_t i = 0; i < x->n && r->jump == RUN_ON; i++)
        if (run(r, x->kids[i]) < 0)
            return -1;
    return 0;
}

static int deeper(struct render *r)
{
    return ++r->depth > TEMPLATE_MAX_DEPTH * 2 ? rfail(r, "nested deeper than %d", TEMPLATE_MAX_DEPTH * 2) : 0;
}

/* ---- names ---- */

static struct scope *scope_new(struct render *r, struct scope *up)
{
    struct scope *s = ralloc(r, sizeof *s);
    if (s)
        *s = (struct scope){ .up = up };
    return s;
}

static bool same_name(struct str a, struct str b)
{
    return a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
}

static int scope_set(struct render *r, struct scope *s, struct str name, struct val v)
{
    for (size_t i = 0; i < s->n; i++)
        if (same_name(s->var[i].name, name)) {
            s->var[i].v = v;
            return 0;
        }
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        struct var *var = ralloc(r, cap * sizeof *var);
        if (!var)
            return -1;
        if (s->n)
            memcpy(var, s->var, s->n * sizeof *var);
        s->var = var;
        s->cap = cap;
    }
    s->var[s->n++] = (struct var){ name, v };
    return spend(r, 1 + s->n / 8);
}

static int lookup(struct render *r, struct str name, struct val *out)
{
    uint64_t cost = 1;
    for (const struct scope *s = r->scope; s; s = s->up) {
        cost += 1 + s->n / 8;
        for (size_t i = 0; i < s->n; i++)
            if (same_name(s->var[i].name, name)) {
                *out = s->var[i].v;
                return spend(r, cost);
            }
    }
    int k = builtin_index(name);
    if (k >= 0 && !(str_eq(name, "strftime_now") && r->date < 0))
        *out = (struct val){ .kind = V_BUILTIN, .i = k };
    else
        *out = (struct val){ .kind = V_UNDEFINED, .s = name };
    return spend(r, cost);
}

static int undefined(struct render *r, struct val v)
{
    return rfail(r, "\"%.*s\" is undefined", (int)(v.s.n < 200 ? v.s.n : 200), v.s.s);
}

/* ---- attributes and items ---- */

static int loop_attr(struct render *r, const struct loop *l, struct str name, struct val *out)
{
    int64_t at = (int64_t)l->at, n = (int64_t)l->items->n;
    if (str_eq(name, "index"))
        *out = val_int(at + 1);
    else if (str_eq(name, "index0"))
        *out = val_int(at);
    else if (str_eq(name, "revindex"))
        *out = val_int(n - at);
    else if (str_eq(name, "revindex0"))
        *out = val_int(n - at - 1);
    else if (str_eq(name, "first"))
        *out = val_bool(at == 0);
    else if (str_eq(name, "last"))
        *out = val_bool(at + 1 == n);
    else if (str_eq(name, "length"))
        *out = val_int(n);
    else if (str_eq(name, "depth"))
        *out = val_int(1);
    else if (str_eq(name, "depth0"))
        *out = val_int(0);
    else if (str_eq(name, "previtem"))
        *out = at ? l->items->v[at - 1] : (struct val){ .kind = V_UNDEFINED, .s = name };
    else if (str_eq(name, "nextitem"))
        *out = at + 1 < n ? l->items->v[at + 1] : (struct val){ .kind = V_UNDEFINED, .s = name };
    else
        return rfail(r, "loop.%.*s is not supported", (int)name.n, name.s);
    return 0;
}

static int bound(struct render *r, struct val v, struct str name, struct val *out)
{
    struct method *m = ralloc(r, sizeof *m);
    if (!m)
        return -1;
    *m = (struct method){ v, name };
    *out = (struct val){ .kind = V_METHOD, .method = m };
    return 0;
}

static int no_attr(struct render *r, struct val v, struct str name, struct val *out)
{
    if (v.kind == V_UNDEFINED)
        return undefined(r, v);
    *out = (struct val){ .kind = V_UNDEFINED, .s = name };
    return 0;
}

int get_attr(struct render *r, struct val v, struct str name, struct val *out)
{
    if (v.kind == V_LOOP && !has_method(v, name))
        return loop_attr(r, v.loop, name, out);
    if (has_method(v, name))
        return bound(r, v, name, out);
    if (v.kind == V_DICT || v.kind == V_NAMESPACE) {
        const struct val *x = dict_find_str(v.d, name);
        if (spend(r, v.d->n / 8) < 0)
            return -1;
        if (x) {
            *out = *x;
            return 0;
        }
    }
    return no_attr(r, v, name, out);
}

int get_item(struct render *r, struct val v, struct val key, struct val *out)
{
    if (v.kind == V_DICT) {
        const struct val *x = dict_find(v.d, key);
        if (spend(r, v.d->n / 8) < 0)
            return -1;
        if (x) {
            *out = *x;
            return 0;
        }
    }
    if ((v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_STR) && (key.kind == V_INT || key.kind == V_BOOL)) {
        int64_t n, i = key.i;
        if (val_length(r, v, &n) < 0)
            return -1;
        if (i < 0)
            i += n;
        if (i >= 0 && i < n) {
            if (v.kind != V_STR) {
                *out = v.l->v[i];
                return 0;
            }
            size_t at = str_offset(v.s, (size_t)i);
            *out = (struct val){ .kind = V_STR, .s = { v.s.s + at, (uint32_t)uni_len((unsigned char)v.s.s[at]) } };
            return 0;
        }
    }
    if (key.kind == V_STR && v.kind != V_DICT)
        return get_attr(r, v, key.s, out);
    if (key.kind == V_STR && has_method(v, key.s))
        return bound(r, v, key.s, out);
    struct str name = { "item", 4 };
    return no_attr(r, v, key.kind == V_STR ? key.s : name, out);
}

static int slice_end(struct render *r, const struct node *x, struct val *v, bool *given)
{
    *given = false;
    if (!x)
        return 0;
    if (eval(r, x, v) < 0)
        return -1;
    if (v->kind == V_NONE)
        return 0;
    if (v->kind != V_INT && v->kind != V_BOOL)
        return rfail(r, "a slice wants whole numbers, not %s", val_type(*v));
    *given = true;
    return 0;
}

static int64_t clamp(int64_t i, int64_t n, int64_t lo, int64_t hi)
{
    if (i < 0)
        i = i < -n ? -1 : i + n; /* below the beginning */
    return i < lo ? lo : i > hi ? hi : i;
}

/* Python's slices. */
static int slice(struct render *r, const struct node *x, struct val v, struct val *out)
{
    struct val b, e, s;
    bool has_b, has_e, has_s;
    int64_t n;
    if (v.kind == V_UNDEFINED)
        return undefined(r, v);
    if (v.kind != V_LIST && v.kind != V_TUPLE && v.kind != V_STR)
        return rfail(r, "%s cannot be sliced", val_type(v));
    if (slice_end(r, x->b, &b, &has_b) < 0 || slice_end(r, x->c, &e, &has_e) < 0 ||
        slice_end(r, x->d, &s, &has_s) < 0 || val_length(r, v, &n) < 0)
        return -1;
    int64_t step = has_s ? s.i : 1;
    if (step == 0)
        return rfail(r, "a slice with step 0");
    if (step < -n - 1)
        step = -n - 1;
    if (step > n + 1)
        step = n + 1;
    int64_t at = step > 0 ? 0 : n - 1, end = step > 0 ? n : -1;
    if (has_b)
        at = step > 0 ? clamp(b.i, n, 0, n) : clamp(b.i, n, -1, n - 1);
    if (has_e)
        end = step > 0 ? clamp(e.i, n, 0, n) : clamp(e.i, n, -1, n - 1);
    if (v.kind == V_STR && step == 1) {
        size_t from = str_offset(v.s, (size_t)at), to = end > at ? str_offset(v.s, (size_t)end) : from;
        *out = (struct val){ .kind = V_STR, .s = { v.s.s + from, (uint32_t)(to - from) } };
        return 0;
    }
    struct vlist *items;
    struct val l;
    if (val_iterate(r, v, &items) < 0 || val_list(r, v.kind == V_TUPLE ? V_TUPLE : V_LIST, &l) < 0)
        return -1;
    for (; step > 0 ? at < end : at > end; at += step)
        if (list_push(r, l.l, items->v[at]) < 0)
            return -1;
    *out = l;
    if (v.kind != V_STR)
        return 0;
    struct buf text = BUF_INIT;
    for (size_t i = 0; i < l.l->n; i++)
        buf_add(&text, l.l->v[i].s.s, l.l->v[i].s.n);
    int rc = val_str(r, text.s, text.len, out);
    buf_release(&text);
    return rc;
}

/* ---- arithmetic ---- */

static bool as_double(struct val v, double *f)
{
    if (v.kind == V_FLOAT)
        *f = v.f;
    else if (v.kind == V_INT || v.kind == V_BOOL)
        *f = (double)v.i;
    else
        return false;
    return true;
}

static bool is_int(struct val v)
{
    return v.kind == V_INT || v.kind == V_BOOL;
}

static int int_arith(struct render *r, enum op op, int64_t a, int64_t b, struct val *out)
{
    int64_t x = 0;
    bool over = false;
    if ((op == OP_FLOOR || op == OP_MOD || op == OP_DIV) && b == 0)
        return rfail(r, "division by zero");
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &x);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &x);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &x);
        break;
    case OP_DIV:
        *out = (struct val){ .kind = V_FLOAT, .f = (double)a / (double)b };
        return 0;
    case OP_FLOOR:
        if (b == -1) {
            over = __builtin_sub_overflow((int64_t)0, a, &x);
        } else {
            x = a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
        }
        break;
    case OP_MOD:
        x = b == -1 ? 0 : a % b;
        if (x && (x < 0) != (b < 0))
            x += b;
        break;
    default: /* ** */
        if (b < 0) {
            if (a == 0)
                return rfail(r, "division by zero");
            *out = (struct val){ .kind = V_FLOAT, .f = pow((double)a, (double)b) };
            return 0;
        }
        x = 1;
        for (int64_t i = 0; i < b && !over && a != 1 && !(a == 0 && i > 0); i++) {
            if (a == -1) {
                x = b % 2 ? -1 : 1;
                break;
            }
            over = __builtin_mul_overflow(x, a, &x);
        }
    }
    if (over)
        return rfail(r, "a whole number beyond 64 bits is not supported");
    *out = val_int(x);
    return 0;
}

static int join_text(struct render *r, struct val a, struct val b, struct val *out)
{
    size_t n = (size_t)a.s.n + b.s.n;
    char *p = n > TEMPLATE_MAX_BYTES ? NULL : ralloc(r, n + 1);
    if (!p)
        return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
    memcpy(p, a.s.s, a.s.n);
    memcpy(p + a.s.n, b.s.s, b.s.n);
    p[n] = '\0';
    *out = (struct val){ .kind = V_STR, .s = { p, (uint32_t)n } };
    return spend(r, n / 64);
}

static int repeat(struct render *r, struct val v, int64_t times, struct val *out)
{
    struct buf b = BUF_INIT;
    int rc = 0;
    if (times < 0)
        times = 0;
    if (v.kind == V_STR) {
        if (v.s.n && times > TEMPLATE_MAX_BYTES / (int64_t)v.s.n)
            return rfail(r, "the template needs more than %d bytes", TEMPLATE_MAX_BYTES);
        for (int64_t i = 0; v.s.n && i < times; i++)
            buf_add(&b, v.s.s, v.s.n);
        rc = val_str(r, b.s, b.len, out);
        buf_release(&b);
        return rc;
    }
    struct vlist *from = v.l;
    if (val_list(r, v.kind, out) < 0)
        return -1;
    for (int64_t i = 0; from->n && i < times; i++)
        for (size_t k = 0; k < from->n; k++)
            if (list_push(r, out->l, from->v[k]) < 0)
                return -1;
    return 0;
}

int arith(struct render *r, enum op op, struct val a, struct val b, struct val *out)
{
    double x, y;
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
        return undefined(r, a.kind == V_UNDEFINED ? a : b);
    if (is_int(a) && is_int(b))
        return int_arith(r, op, a.i, b.i, out);
    if (as_double(a, &x) && as_double(b, &y)) {
        if ((op == OP_DIV || op == OP_FLOOR || op == OP_MOD) && y == 0)
            return rfail(r, "division by zero");
        double m = op == OP_MOD ? fmod(x, y) : 0;
        if (m != 0 && (m < 0) != (y < 0))
            m += y;
        *out = (struct val){ .kind = V_FLOAT,
                             .f = op == OP_ADD     ? x + y
                                  : op == OP_SUB   ? x - y
                                  : op == OP_MUL   ? x * y
                                  : op == OP_DIV   ? x / y
                                  : op == OP_FLOOR ? floor(x / y)
                                  : op == OP_MOD   ? m
                                                   : pow(x, y) };
        return 0;
    }
    if (op == OP_ADD && a.kind == V_STR && b.kind == V_STR)
        return join_text(r, a, b, out);
    if (op == OP_ADD && (a.kind == V_LIST || a.kind == V_TUPLE) && a.kind == b.kind) {
        struct vlist *l = a.l, *m = b.l;
        if (val_list(r, a.kind, out) < 0)
            return -1;
        for (size_t i = 0; i < l->n; i++)
            if (list_push(r, out->l, l->v[i]) < 0)
                return -1;
        for (size_t i = 0; i < m->n; i++)
            if (list_push(r, out->l, m->v[i]) < 0)
                return -1;
        return 0;
    }
    bool left = a.kind == V_STR || a.kind == V_LIST || a.kind == V_TUPLE;
    bool right = b.kind == V_STR || b.kind == V_LIST || b.kind == V_TUPLE;
    if (op == OP_MUL && ((left && is_int(b)) || (right && is_int(a))))
        return left ? repeat(r, a, b.i, out) : repeat(r, b, a.i, out);
    if (op == OP_MOD && a.kind == V_STR)
        return rfail(r, "%% formatting of texts is not supported");
    static const char *const names[] = { "+", "-", "*", "/", "//", "%", "**" };
    return rfail(r, "%s %s %s is not possible", val_type(a), names[op], val_type(b));
}

static int concat(struct render *r, struct val a, struct val b, struct val *out)
{
    struct buf text = BUF_INIT;
    int rc = val_text(r, a, &text) < 0 || val_text(r, b, &text) < 0 ? -1 : val_str(r, text.s, text.len, out);
    buf_release(&text);
    return rc;
}

static int compare(struct render *r, enum op op, struct val a, struct val b, bool *out)
{
    int c = 0;
    switch (op) {
    case OP_EQ:
        *out = val_equal(r, a, b, 0);
        return spend(r, 1);
    case OP_NE:
        *out = !val_equal(r, a, b, 0);
        return spend(r, 1);
    case OP_IN:
        return val_contains(r, b, a, out);
    case OP_NOT_IN:
        if (val_contains(r, b, a, out) < 0)
            return -1;
        *out = !*out;
        return 0;
    default:
        if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
            return undefined(r, a.kind == V_UNDEFINED ? a : b);
        if (val_compare(r, a, b, &c) < 0)
            return -1;
        *out = c == 2 ? false : op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c > 0 : c >= 0;
        return 0;
    }
}

/* ---- calls ---- */

static int arguments(struct render *r, struct node *const *kids, size_t n, struct args *a)
{
    memset(a, 0, sizeof *a);
    a->v = ralloc(r, (n + 1) * sizeof *a->v);
    a->kw = ralloc(r, (n + 1) * sizeof *a->kw);
    if (!a->v || !a->kw)
        return -1;
    for (size_t i = 0; i < n; i++) {
        struct val v;
        if (eval(r, kids[i]->kind == N_KEYWORD ? kids[i]->a : kids[i], &v) < 0)
            return -1;
        if (kids[i]->kind == N_KEYWORD)
            a->kw[a->n_kw++] = (struct var){ kids[i]->text, v };
        else
            a->v[a->n++] = v;
    }
    return 0;
}

/* Runs statements with their output in a text of its own. */
static int captured(struct render *r, const struct node *x, struct val *out)
{
    struct buf text = BUF_INIT, *old = r->out;
    size_t floor = r->out_floor;
    r->out = &text;
    r->out_floor = 0;
    int rc = run_all(r, x);
    r->out = old;
    r->out_floor = floor;
    if (rc == 0)
        rc = val_str(r, text.s, text.len, out);
    buf_release(&text);
    return rc;
}

static int bind(struct render *r, const struct macro *m, const struct args *a, struct scope *s)
{
    const struct node *def = m->def;
    size_t used = 0;
    if (a->n > def->n_args)
        return rfail(r, "macro %.*s takes %lld %s, not %zu", (int)def->text.n, def->text.s ? def->text.s : "",
                     COUNTED(def->n_args, "argument", "arguments"), a->n);
    for (size_t i = 0; i < def->n_args; i++) {
        const struct node *p = def->args[i];
        struct val v = { .kind = V_UNDEFINED, .s = p->text };
        bool found = i < a->n;
        if (found)
            v = a->v[i];
        for (size_t k = 0; !found && k < a->n_kw; k++)
            if (same_name(a->kw[k].name, p->text)) {
                v = a->kw[k].v;
                used++;
                found = true;
            }
        if (!found && p->a) {
            struct scope *old = r->scope;
            r->scope = s;
            int rc = eval(r, p->a, &v);
            r->scope = old;
            if (rc < 0)
                return -1;
        }
        if (scope_set(r, s, p->text, v) < 0)
            return -1;
    }
    for (size_t k = 0; k < a->n_kw; k++)
        if (str_eq(a->kw[k].name, "caller")) {
            used++;
            if (scope_set(r, s, a->kw[k].name, a->kw[k].v) < 0)
                return -1;
        }
    return used == a->n_kw ? 0 : rfail(r, "a macro is called with a name it does not have");
}

static int call_macro(struct render *r, const struct macro *m, const struct args *a, struct val *out)
{
    struct scope *old = r->scope, *s = scope_new(r, m->scope);
    if (!s || deeper(r) < 0 || bind(r, m, a, s) < 0)
        return -1;
    r->scope = s;
    int rc = captured(r, m->def, out);
    r->scope = old;
    r->depth--;
    return rc;
}

static int call_value(struct render *r, struct val f, const struct args *a, struct val *out)
{
    switch (f.kind) {
    case V_MACRO:
        return call_macro(r, f.macro, a, out);
    case V_METHOD:
        return call_method(r, f.method, a, out);
    case V_BUILTIN:
        return call_builtin(r, (int)f.i, a, out);
    case V_UNDEFINED:
        return undefined(r, f);
    default:
        return rfail(r, "%s cannot be called", val_type(f));
    }
}

static int eval_call(struct render *r, const struct node *x, const struct val *caller, struct val *out)
{
    struct val f;
    struct args a;
    if (eval(r, x->a, &f) < 0 || arguments(r, x->kids, x->n, &a) < 0)
        return -1;
    r->line = x->line;
    if (caller)
        a.kw[a.n_kw++] = (struct var){ { "caller", 6 }, *caller };
    return call_value(r, f, &a, out);
}

/* ---- expressions ---- */

static int eval_members(struct render *r, const struct node *x, struct val *out)
{
    struct val v;
    if (val_list(r, x->kind == N_LIST ? V_LIST : V_TUPLE, out) < 0)
        return -1;
    for (size_t i = 0; i < x->n; i++)
        if (eval(r, x->kids[i], &v) < 0 || list_push(r, out->l, v) < 0)
            return -1;
    return 0;
}

static int eval_dict(struct render *r, const struct node *x, struct val *out)
{
    struct val k, v;
    if (val_dict(r, V_DICT, out) < 0)
        return -1;
    for (size_t i = 0; i + 1 < x->n; i += 2)
        if (eval(r, x->kids[i], &k) < 0 || eval(r, x->kids[i + 1], &v) < 0 || dict_put(r, out->d, k, v) < 0)
            return -1;
    return 0;
}

static int eval_compare(struct render *r, const struct node *x, struct val *out)
{
    struct val a, b;
    bool yes = true;
    if (eval(r, x->a, &a) < 0)
        return -1;
    for (size_t i = 0; i < x->n && yes; i++) {
        if (eval(r, x->kids[i]->a, &b) < 0)
            return -1;
        r->line = x->line;
        if (compare(r, x->kids[i]->op, a, b, &yes) < 0)
            return -1;
        a = b;
    }
    *out = val_bool(yes);
    return 0;
}

static int eval_unary(struct render *r, const struct node *x, struct val *out)
{
    struct val v;
    if (eval(r, x->a, &v) < 0)
        return -1;
    if (v.kind == V_FLOAT) {
        *out = (struct val){ .kind = V_FLOAT, .f = x->op == OP_NEG ? -v.f : v.f };
        return 0;
    }
    if (!is_int(v))
        return v.kind == V_UNDEFINED ? undefined(r, v) : rfail(r, "%s has no sign", val_type(v));
    return int_arith(r, x->op == OP_NEG ? OP_SUB : OP_ADD, 0, v.i, out);
}

static int eval_filter(struct render *r, const struct node *x, struct val *out)
{
    struct val in;
    struct args a;
    if (x->a) {
        if (eval(r, x->a, &in) < 0)
            return -1;
    } else if (r->has_input) {
        in = r->block_input;
        r->has_input = false;
    } else {
        return rfail(r, "a filter without a value");
    }
    if (arguments(r, x->kids, x->n, &a) < 0)
        return -1;
    r->line = x->line;
    return call_filter(r, x, in, &a, out);
}

static int eval_test(struct render *r, const struct node *x, struct val *out)
{
    struct val in;
    struct args a;
    bool yes;
    if (eval(r, x->a, &in) < 0 || arguments(r, x->kids, x->n, &a) < 0)
        return -1;
    r->line = x->line;
    if (call_test(r, x, in, &a, &yes) < 0)
        return -1;
    *out = val_bool(yes != (x->i != 0));
    return 0;
}

static int eval_inner(struct render *r, const struct node *x, struct val *out)
{
    struct val a, b;
    switch (x->kind) {
    case N_CONST_STR:
        *out = (struct val){ .kind = V_STR, .s = x->text };
        return 0;
    case N_CONST_INT:
        *out = val_int(x->i);
        return 0;
    case N_CONST_FLOAT:
        *out = (struct val){ .kind = V_FLOAT, .f = x->f };
        return 0;
    case N_CONST_BOOL:
        *out = val_bool(x->i);
        return 0;
    case N_CONST_NONE:
        *out = val_none();
        return 0;
    case N_NAME:
        return lookup(r, x->text, out);
    case N_LIST:
    case N_TUPLE:
        return eval_members(r, x, out);
    case N_DICT:
        return eval_dict(r, x, out);
    case N_ATTR:
        return eval(r, x->a, &a) < 0 ? -1 : (r->line = x->line, get_attr(r, a, x->text, out));
    case N_INDEX:
        return eval(r, x->a, &a) < 0 || eval(r, x->b, &b) < 0 ? -1 : (r->line = x->line, get_item(r, a, b, out));
    case N_SLICE:
        return eval(r, x->a, &a) < 0 ? -1 : slice(r, x, a, out);
    case N_CALL:
        return eval_call(r, x, NULL, out);
    case N_FILTER:
        return eval_filter(r, x, out);
    case N_TEST:
        return eval_test(r, x, out);
    case N_UNARY:
        return eval_unary(r, x, out);
    case N_BINARY:
        if (eval(r, x->a, &a) < 0 || eval(r, x->b, &b) < 0)
            return -1;
        r->line = x->line;
        return x->op == OP_CONCAT ? concat(r, a, b, out) : arith(r, x->op, a, b, out);
    case N_COMPARE:
        return eval_compare(r, x, out);
    case N_AND:
    case N_OR:
        if (eval(r, x->a, out) < 0)
            return -1;
        return val_true(*out) == (x->kind == N_AND) ? eval(r, x->b, out) : 0;
    case N_NOT:
        if (eval(r, x->a, &a) < 0)
            return -1;
        *out = val_bool(!val_true(a));
        return 0;
    case N_IF_EXPR:
        if (eval(r, x->b, &a) < 0)
            return -1;
        if (val_true(a))
            return eval(r, x->a, out);
        *out = (struct val){ .kind = V_UNDEFINED, .s = { "the value of an if without else", 31 } };
        return x->c ? eval(r, x->c, out) : 0;
    default:
        return rfail(r, "not an expression");
    }
}

static int eval(struct render *r, const struct node *x, struct val *out)
{
    r->line = x->line;
    if (spend(r, 1) < 0 || deeper(r) < 0)
        return -1;
    int rc = eval_inner(r, x, out);
    r->depth--;
    return rc;
}

/* ---- statements ---- */

static int assign(struct render *r, const struct node *target, struct val v)
{
    struct val ns;
    if (target->kind == N_NAME)
        return scope_set(r, r->scope, target->text, v);
    if (target->kind == N_ATTR) {
        if (lookup(r, target->a->text, &ns) < 0)
            return -1;
        if (ns.kind != V_NAMESPACE)
            return rfail(r, "only attributes of a namespace can be set, %.*s is %s", (int)target->a->text.n,
                         target->a->text.s, val_type(ns));
        return dict_put(r, ns.d, (struct val){ .kind = V_STR, .s = target->text }, v);
    }
    struct vlist *items;
    if (val_iterate(r, v, &items) < 0)
        return -1;
    if (items->n != target->n)
        return rfail(r, "%lld %s for %lld %s", COUNTED(items->n, "value", "values"),
                     COUNTED(target->n, "name", "names"));
    for (size_t i = 0; i < target->n; i++)
        if (scope_set(r, r->scope, target->kids[i]->text, items->v[i]) < 0)
            return -1;
    return 0;
}

/* The members for which the loop's condition holds. */
static int filtered(struct render *r, const struct node *x, struct vlist **items)
{
    struct val kept, cond;
    struct scope *old = r->scope;
    if (!x->c)
        return 0;
    if (val_list(r, V_LIST, &kept) < 0)
        return -1;
    for (size_t i = 0; i < (*items)->n; i++) {
        if (!(r->scope = scope_new(r, old)) || assign(r, x->b, (*items)->v[i]) < 0 || eval(r, x->c, &cond) < 0)
            return -1;
        if (val_true(cond) && list_push(r, kept.l, (*items)->v[i]) < 0)
            return -1;
    }
    r->scope = old;
    *items = kept.l;
    return 0;
}

static int run_for(struct render *r, const struct node *x)
{
    struct val over;
    struct vlist *items;
    struct scope *old = r->scope;
    if (eval(r, x->a, &over) < 0)
        return -1;
    r->line = x->line;
    if (val_iterate(r, over, &items) < 0 || filtered(r, x, &items) < 0)
        return -1;
    if (items->n == 0)
        return x->d ? run_all(r, x->d) : 0;
    struct loop *loop = ralloc(r, sizeof *loop);
    if (!loop)
        return -1;
    memset(loop, 0, sizeof *loop);
    loop->items = items;
    for (size_t i = 0, n = items->n; i < n && r->jump != RUN_BREAK; i++) {
        r->jump = RUN_ON;
        loop->at = i;
        if (spend(r, 1) < 0 || !(r->scope = scope_new(r, old)) ||
            scope_set(r, r->scope, (struct str){ "loop", 4 }, (struct val){ .kind = V_LOOP, .loop = loop }) < 0 ||
            assign(r, x->b, items->v[i]) < 0 || run_all(r, x) < 0)
            return -1;
    }
    r->scope = old;
    r->jump = RUN_ON;
    return 0;
}

static int run_if(struct render *r, const struct node *x)
{
    struct val v;
    for (; x && x->kind == N_IF; x = x->b) {
        if (eval(r, x->a, &v) < 0)
            return -1;
        if (val_true(v))
            return run_all(r, x);
    }
    return x ? run_all(r, x) : 0;
}

/* Statements in a scope of their own, captured and passed through filters (NULL: none). */
static int run_filtered(struct render *r, const struct node *x, const struct node *filters, struct val *out)
{
    struct scope *old = r->scope;
    struct val text;
    if (!(r->scope = scope_new(r, old)))
        return -1;
    int rc = captured(r, x, &text);
    r->scope = old;
    *out = text;
    if (rc < 0 || !filters)
        return rc;
    r->block_input = text;
    r->has_input = true;
    return eval(r, filters, out);
}

static int put(struct render *r, struct val v)
{
    if (val_text(r, v, r->out) < 0)
        return -1;
    if (r->out->len - r->out_floor > TEMPLATE_MAX_BYTES)
        return rfail(r, "the output is longer than %d bytes", TEMPLATE_MAX_BYTES);
    return 0;
}

static int run_macro(struct render *r, const struct node *x, struct val *out)
{
    struct macro *m = ralloc(r, sizeof *m);
    if (!m)
        return -1;
    *m = (struct macro){ x, r->scope };
    *out = (struct val){ .kind = V_MACRO, .macro = m };
    return 0;
}

static int run_with(struct render *r, const struct node *x)
{
    struct scope *old = r->scope, *s = scope_new(r, old);
    struct val v;
    if (!s)
        return -1;
    for (size_t i = 0; i < x->n_args; i++) { /* values are computed outside */
        r->scope = old;
        if (eval(r, x->args[i]->a, &v) < 0)
            return -1;
        r->scope = s;
        if (assign(r, x->args[i]->b, v) < 0)
            return -1;
    }
    r->scope = s;
    int rc = run_all(r, x);
    r->scope = old;
    return rc;
}

static int run_inner(struct render *r, const struct node *x)
{
    struct val v, caller;
    switch (x->kind) {
    case N_TEXT:
        return put(r, (struct val){ .kind = V_STR, .s = x->text });
    case N_OUTPUT:
        return eval(r, x->a, &v) < 0 ? -1 : put(r, v);
    case N_IF:
        return run_if(r, x);
    case N_FOR:
        return run_for(r, x);
    case N_SET:
        return eval(r, x->a, &v) < 0 ? -1 : assign(r, x->b, v);
    case N_SET_BLOCK:
        return run_filtered(r, x, x->a, &v) < 0 ? -1 : assign(r, x->b, v);
    case N_MACRO:
        return run_macro(r, x, &v) < 0 ? -1 : scope_set(r, r->scope, x->text, v);
    case N_CALL_BLOCK:
        return run_macro(r, x, &caller) < 0 || eval_call(r, x->a, &caller, &v) < 0 ? -1 : put(r, v);
    case N_FILTER_BLOCK:
        return run_filtered(r, x, x->a, &v) < 0 ? -1 : put(r, v);
    case N_WITH:
        return run_with(r, x);
    case N_BREAK:
        r->jump = RUN_BREAK;
        return 0;
    case N_CONTINUE:
        r->jump = RUN_CONTINUE;
        return 0;
    default:
        return run_all(r, x);
    }
}

static int run(struct render *r, const struct node *x)
{
    r->line = x->line;
    if (spend(r, 1) < 0 || deeper(r) < 0)
        return -1;
    int rc = run_inner(r, x);
    r->depth--;
    return rc;
}

/* ---- rendering ---- */

static int define(struct render *r, const char *name, struct val v)
{
    return scope_set(r, r->scope, (struct str){ name, (uint32_t)strlen(name) }, v);
}

static int define_all(struct render *r, const struct chat_input *in)
{
    struct val v;
    if (!(r->scope = scope_new(r, NULL)))
        return -1;
    if (json_kind(in->messages) != JSON_ARRAY)
        return rfail(r, "messages is not a list");
    if (val_of_json(r, in->messages, &v) < 0 || define(r, "messages", v) < 0 ||
        define(r, "add_generation_prompt", val_bool(in->add_generation_prompt)) < 0 ||
        define(r, "tools", val_none()) < 0 || define(r, "documents", val_none()) < 0)
        return -1;
    const char *names[] = { "bos_token", "eos_token" }, *tokens[] = { in->bos_token, in->eos_token };
    for (int i = 0; i < 2; i++)
        if (tokens[i] && (val_str(r, tokens[i], strlen(tokens[i]), &v) < 0 || define(r, names[i], v) < 0))
            return -1;
    if (in->kwargs.n && json_kind(in->kwargs) != JSON_OBJECT)
        return rfail(r, "kwargs is not an object");
    struct json_iter it = json_each(in->kwargs);
    struct json key, x;
    while (json_next(&it, &key, &x)) {
        struct val k;
        if (val_of_json(r, key, &k) < 0 || val_of_json(r, x, &v) < 0 || scope_set(r, r->scope, k.s, v) < 0)
            return -1;
    }
    return 0;
}

int chat_template_render(const struct chat_template *c, const struct chat_input *in, struct buf *out, struct err *e)
{
    struct render r = { .t = c, .out = out, .out_floor = out->len, .line = 1, .date = in->date, .e = e };
    r.arena.limit = TEMPLATE_MAX_BYTES;
    size_t before = out->len;
    int rc = define_all(&r, in) < 0 ? -1 : run_all(&r, c->root);
    arena_release(&r.arena);
    if (rc < 0 && out->s) {
        out->len = before;
        out->s[before] = '\0';
    }
    return rc;
}

int chat_template_render_json(const struct chat_template *c, const char *messages, const char *kwargs,
                              bool add_generation_prompt, const char *bos, const char *eos, struct buf *out,
                              struct err *e)
{
    struct chat_input in = {
        .add_generation_prompt = add_generation_prompt, .bos_token = bos, .eos_token = eos, .date = -1
    };
    if (json_parse(&in.messages, messages, strlen(messages), e) < 0)
        return err_prefix(e, "messages");
    if (kwargs && json_parse(&in.kwargs, kwargs, strlen(kwargs), e) < 0)
        return err_prefix(e, "kwargs");
    return chat_template_render(c, &in, out, e);
}
