/* answer_equal.c - equality by structure: what kind of thing each side is, then numbers, sets, relations by their own
 * rules. Every test is one-sided safe: YES and NO are meant, MAYBE is "a bound or an unknown function was in the way".
 */
#include <stdlib.h>
#include <string.h>

#include "task/answer_private.h"

static enum tri value_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why);

/* ---- numbers ---- */

static bool is_integer(const struct node *n)
{
    return n->kind == N_NUM && fmpz_is_one(fmpq_denref(n->q));
}

static struct node *percent_of(struct answer_checker *c, struct node *v)
{
    fmpq_t h;
    fmpq_init(h);
    fmpq_set_si(h, 1, 100);
    struct node *r = answer_canon(c, node_2(c, N_MUL, node_q(c, h), v));
    fmpq_clear(h);
    return r;
}

/* |a - b| <= 10^-places, or half of it. */
static bool rationals_near(const fmpq *a, const fmpq *b, int places, bool half)
{
    fmpq_t d, u;
    fmpz_t ten;
    fmpq_init(d);
    fmpq_init(u);
    fmpz_init_set_ui(ten, 10);
    fmpz_pow_ui(ten, ten, (ulong)places);
    fmpq_sub(d, a, b);
    fmpq_abs(d, d);
    fmpq_mul_fmpz(d, d, ten);
    fmpq_set_si(u, 1, half ? 2 : 1);
    bool near = fmpq_cmp(d, u) <= 0;
    fmpq_clear(d);
    fmpq_clear(u);
    fmpz_clear(ten);
    return near;
}

/* The tolerance policy: decimals of six and more significant digits, never against an integer. */
static enum tri decimals_equal(struct answer_checker *c, struct node *a, struct node *b)
{
    enum { SIG = 6 };
    bool da = a->kind == N_NUM && a->decimal, db = b->kind == N_NUM && b->decimal;
    if ((!da && !db) || is_integer(a) || is_integer(b))
        return NO;
    if (da && db) {
        if (a->sig < SIG || b->sig < SIG || a->places > 1000 || b->places > 1000 || a->places < 0 || b->places < 0)
            return NO;
        struct node *shorter = a->places <= b->places ? a : b;
        return rationals_near(a->q, b->q, shorter->places, true) ? YES : NO;
    }
    struct node *dec = da ? a : b, *exact = da ? b : a;
    if (dec->sig < SIG || dec->places < 0 || dec->places > 1000)
        return NO;
    if (exact->kind == N_NUM)
        return rationals_near(dec->q, exact->q, dec->places, false) ? YES : NO;
    enum tri r = ball_within(c, dec, exact);
    if (r != YES)
        return r;
    /* 2.999999 is not log_2 8: the integer next to the literal must not be the value */
    fmpq_t half;
    struct node *near = node_num(c, 0);
    fmpq_init(half);
    fmpq_set_si(half, 1, 2);
    fmpq_add(half, half, dec->q);
    fmpz_fdiv_q(fmpq_numref(near->q), fmpq_numref(half), fmpq_denref(half));
    fmpq_clear(half);
    const char *why;
    return rationals_near(near->q, dec->q, dec->places > 0 ? dec->places - 1 : 0, false) &&
                   ball_equal(c, exact, near, &why) != NO
               ? NO
               : YES;
}

static enum tri numbers_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    if (g->kind == N_NUM && p->kind == N_NUM) {
        *why = "rational";
        if (fmpq_equal(g->q, p->q))
            return YES;
        if (decimals_equal(c, g, p) == YES) {
            *why = "decimal";
            return YES;
        }
        return NO;
    }
    if (node_cmp(g, p) == 0) {
        bool bad = ball_undefined(c, g);
        *why = bad ? "undefined" : "string";
        return bad ? NO : YES;
    }
    if ((g->kind == N_NUM && g->decimal) || (p->kind == N_NUM && p->decimal)) {
        enum tri r = decimals_equal(c, g, p);
        if (r == YES) {
            *why = "decimal";
            return YES;
        }
    }
    *why = "poly";
    enum tri r = poly_equal(c, g, p, POLY_SAME, NULL);
    if (r != MAYBE)
        return r;
    return ball_equal(c, g, p, why);
}

static struct node *strip_mark(struct node *n, enum kind kind, bool *had)
{
    *had = n->kind == kind;
    if (*had)
        return n->kid[0];
    /* -40\% is read as -1 * 40% */
    return n;
}

static enum tri scalars_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    bool gq, pq, gp, pp, gd, pd;
    struct node *gv = strip_mark(g, N_QTY, &gq), *pv = strip_mark(p, N_QTY, &pq);
    if (gq && pq && strcmp(g->name, p->name) != 0) {
        *why = "unit";
        return NO;
    }
    if (gq != pq && node_has_letters(gq ? pv : gv)) { /* 6 \text{ m} against 6 m */
        const char *unit = gq ? g->name : p->name;
        if (unit[0] && !unit[1]) {
            struct node *typed = answer_canon(c, node_2(c, N_MUL, gq ? gv : pv, node_name(c, N_SYM, unit, 0)));
            if (node_cmp(typed, gq ? pv : gv) == 0) {
                *why = "unit";
                return YES;
            }
        }
    }
    gv = strip_mark(gv, N_PCT, &gp);
    pv = strip_mark(pv, N_PCT, &pp);
    gv = strip_mark(gv, N_DEG, &gd);
    pv = strip_mark(pv, N_DEG, &pd);
    if ((gq || gp || gd) && (pq || pp || pd) && (gq != pq || gp != pp || gd != pd)) { /* 32 cm against 32% */
        *why = "unit";
        return NO;
    }
    enum tri r = numbers_equal(c, gv, pv, why);
    if (r == YES || gp == pp)
        return r;
    const char *second;
    enum tri s =
        gp ? numbers_equal(c, percent_of(c, gv), pv, &second) : numbers_equal(c, gv, percent_of(c, pv), &second);
    if (s == YES)
        *why = "percent";
    return s == NO ? r : s;
}

/* ---- lists and sets ---- */

static bool is_collection(const struct node *n)
{
    return n->kind == N_LIST || n->kind == N_SET;
}

static enum tri in_order(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    enum tri all = YES;
    if (g->n != p->n)
        return NO;
    for (int i = 0; i < g->n; i++) {
        enum tri r = value_equal(c, g->kid[i], p->kid[i], why);
        if (r == NO)
            return NO;
        if (r == MAYBE)
            all = MAYBE;
    }
    return all;
}

/* Elements without repeats; *n of them. */
static struct node **distinct(struct answer_checker *c, struct node *s, int *n)
{
    struct node **out = arena_alloc(&c->arena, (size_t)(s->n ? s->n : 1) * sizeof *out);
    const char *why;
    *n = 0;
    for (int i = 0; i < s->n; i++) {
        bool seen = false;
        for (int j = 0; j < *n && !seen; j++)
            seen = node_cmp(out[j], s->kid[i]) == 0 || value_equal(c, out[j], s->kid[i], &why) == YES;
        if (!seen)
            out[(*n)++] = s->kid[i];
    }
    return out;
}

static enum tri sets_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    bool used[MAX_MATCH] = { false };
    int gn, pn;
    enum tri all = YES;
    *why = g->kind == N_SET || p->kind == N_SET ? "set" : "list";
    if (g->n > MAX_MATCH || p->n > MAX_MATCH) {
        const char *inner;
        if (in_order(c, g, p, &inner) == YES)
            return YES;
        limit_hit(c, "limit:list");
        return MAYBE;
    }
    struct node **a = distinct(c, g, &gn), **b = distinct(c, p, &pn);
    const char *inner = *why;
    if (gn != pn)
        return NO;
    /* equality is an equivalence, so the first match is as good as any */
    for (int i = 0; i < gn; i++) {
        enum tri best = NO;
        for (int j = 0; j < pn && best != YES; j++) {
            if (used[j])
                continue;
            enum tri r = value_equal(c, a[i], b[j], &inner);
            if (r == YES)
                used[j] = true;
            if (r != NO)
                best = r;
        }
        if (best == NO)
            return NO;
        if (best == MAYBE)
            all = MAYBE;
    }
    return all;
}

/* ---- subsets of the real line ---- */

struct segment {
    struct node *lo, *hi;
    bool lo_in, hi_in;
};
enum { MAX_SEGMENTS = 64 };
struct line {
    struct segment s[MAX_SEGMENTS];
    int n;
};

static struct node *infinity(struct answer_checker *c, bool minus)
{
    struct node *n = node_new(c, N_INF, 0);
    return minus ? node_2(c, N_MUL, node_num(c, -1), n) : n;
}

static bool line_add(struct line *l, struct node *lo, bool lo_in, struct node *hi, bool hi_in)
{
    if (l->n >= MAX_SEGMENTS)
        return false;
    struct segment s = { lo, hi, lo_in, hi_in };
    l->s[l->n++] = s;
    return true;
}

/* Sorted by lower end, overlapping and touching segments merged, empty ones dropped. */
static bool line_normal(struct answer_checker *c, struct line *l)
{
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        int d = real_order(c, l->s[i].lo, l->s[i].hi);
        if (d == 2)
            return false;
        if (d < 0 || (d == 0 && l->s[i].lo_in && l->s[i].hi_in))
            l->s[n++] = l->s[i];
    }
    l->n = n;
    for (int i = 1; i < l->n; i++) { /* insertion sort: short lists */
        struct segment s = l->s[i];
        int j = i;
        for (; j > 0; j--) {
            int d = real_order(c, s.lo, l->s[j - 1].lo);
            if (d == 2)
                return false;
            if (d > 0 || (d == 0 && !(s.lo_in && !l->s[j - 1].lo_in)))
                break;
            l->s[j] = l->s[j - 1];
        }
        l->s[j] = s;
    }
    n = 0;
    for (int i = 0; i < l->n; i++) {
        struct segment *last = n ? &l->s[n - 1] : NULL, s = l->s[i];
        int d = last ? real_order(c, s.lo, last->hi) : 1;
        if (d == 2)
            return false;
        if (d > 0 || (d == 0 && !s.lo_in && !last->hi_in)) {
            l->s[n++] = s;
            continue;
        }
        d = real_order(c, s.hi, last->hi);
        if (d == 2)
            return false;
        if (d > 0)
            last->hi = s.hi, last->hi_in = s.hi_in;
        else if (d == 0)
            last->hi_in = last->hi_in || s.hi_in;
    }
    l->n = n;
    return true;
}

static bool line_union(struct answer_checker *c, struct line *a, const struct line *b)
{
    for (int i = 0; i < b->n; i++)
        if (!line_add(a, b->s[i].lo, b->s[i].lo_in, b->s[i].hi, b->s[i].hi_in))
            return false;
    return line_normal(c, a);
}

static bool line_complement(struct answer_checker *c, struct line *l)
{
    struct line r = { .n = 0 };
    struct node *at = infinity(c, true);
    bool in = false; /* is `at` itself still free? */
    for (int i = 0; i < l->n; i++) {
        if (!line_add(&r, at, in, l->s[i].lo, !l->s[i].lo_in))
            return false;
        at = l->s[i].hi;
        in = !l->s[i].hi_in;
    }
    if (!line_add(&r, at, in, infinity(c, false), false))
        return false;
    /* (-oo, -oo) and (oo, oo) are empty */
    *l = r;
    return line_normal(c, l);
}

static bool line_intersect(struct answer_checker *c, struct line *a, struct line *b)
{
    return line_complement(c, a) && line_complement(c, b) && line_union(c, a, b) && line_complement(c, a);
}

static const char *only_letter(const struct node *n, const char *found, bool *several)
{
    if (n->kind == N_SYM) {
        if (found && strcmp(found, n->name) != 0)
            *several = true;
        return n->name;
    }
    if (n->kind == N_SUM)
        *several = true;
    for (int i = 0; i < n->n; i++)
        found = only_letter(n->kid[i], found, several);
    return found;
}

static bool is_line(struct answer_checker *c, struct node *n, struct line *out);

/* a x + b of a tree; false if it is not linear with constant coefficients. */
static bool linear(struct answer_checker *c, struct node *d, const char *x, struct node **a, struct node **b)
{
    struct node *sym = node_name(c, N_SYM, x, 0);
    *b = answer_canon(c, node_map(c, d, x, node_num(c, 0)));
    struct node *one = answer_canon(c, node_map(c, d, x, node_num(c, 1)));
    if ((*b)->kind == N_UNDEF || one->kind == N_UNDEF || node_has_letters(*b) || node_has_letters(one))
        return false;
    *a = answer_canon(c, node_2(c, N_ADD, one, node_neg(c, *b)));
    struct node *line = answer_canon(c, node_2(c, N_ADD, node_2(c, N_MUL, *a, sym), *b));
    const char *why;
    return poly_equal(c, line, d, POLY_SAME, NULL) == YES || ball_equal(c, line, d, &why) == YES;
}

/* The solution set of l op r in the one letter x. */
static bool solve(struct answer_checker *c, struct node *l, enum rel op, struct node *r, const char *x,
                  struct line *out)
{
    struct node *a, *b, *inf = infinity(c, false), *minus = infinity(c, true);
    out->n = 0;
    if (op == REL_IN)
        return l->kind == N_SYM && is_line(c, r, out);
    if (!node_is_scalar(l) || !node_is_scalar(r) || op > REL_NE)
        return false;
    if (r->kind == N_FUNC && strcmp(r->name, "abs") == 0 && !node_has_letters(l)) {
        struct node *t = l;
        l = r;
        r = t;
        op = op == REL_LT ? REL_GT : op == REL_GT ? REL_LT : op == REL_LE ? REL_GE : op == REL_GE ? REL_LE : op;
    }
    if (l->kind == N_FUNC && strcmp(l->name, "abs") == 0 && !node_has_letters(r) && l->n == 1) {
        struct line other;
        bool inside = op == REL_LT || op == REL_LE || op == REL_NE;
        struct node *neg = answer_canon(c, node_neg(c, r));
        enum rel low = op == REL_LT   ? REL_GT
                       : op == REL_LE ? REL_GE
                       : op == REL_GT ? REL_LT
                       : op == REL_GE ? REL_LE
                                      : op;
        if (real_order(c, r, node_num(c, 0)) != 1 || !solve(c, l->kid[0], op, r, x, out) ||
            !solve(c, l->kid[0], low, neg, x, &other))
            return false;
        return inside ? line_intersect(c, out, &other) : line_union(c, out, &other);
    }
    struct node *d = answer_canon(c, node_2(c, N_ADD, l, node_neg(c, r)));
    if (!node_is_scalar(d) || !linear(c, d, x, &a, &b))
        return false;
    int sign = real_order(c, a, node_num(c, 0));
    if (sign == 0 || sign == 2)
        return false;
    struct node *v = answer_canon(c, node_2(c, N_MUL, node_neg(c, b), node_2(c, N_POW, a, node_num(c, -1))));
    if (sign < 0)
        op = op == REL_LT ? REL_GT : op == REL_GT ? REL_LT : op == REL_LE ? REL_GE : op == REL_GE ? REL_LE : op;
    switch (op) {
    case REL_EQ:
        return line_add(out, v, true, v, true);
    case REL_NE:
        return line_add(out, minus, false, v, false) && line_add(out, v, false, inf, false);
    case REL_LT:
    case REL_LE:
        return line_add(out, minus, false, v, op == REL_LE);
    default:
        return line_add(out, v, op == REL_GE, inf, false);
    }
}

static bool relation_line(struct answer_checker *c, struct node *n, const char *x, struct line *out)
{
    for (int i = 0; i + 1 < n->n; i++) {
        struct line one;
        if (!solve(c, n->kid[i], (enum rel)n->ops[i], n->kid[i + 1], x, &one))
            return false;
        if (i == 0)
            *out = one;
        else if (!line_intersect(c, out, &one))
            return false;
    }
    return line_normal(c, out);
}

static bool real_constant(struct answer_checker *c, struct node *n)
{
    return real_order(c, n, node_num(c, 0)) != 2;
}

/* Relations side by side: "or" joins them, "and" intersects; a comma intersects unless nothing is left. */
static bool relations_line(struct answer_checker *c, struct node *n, struct line *out)
{
    struct line both = { .n = 0 }, any = { .n = 0 };
    const char *x = NULL;
    bool several = false, first = true;
    for (int i = 0; i < n->n; i++) {
        if (n->kid[i]->kind == N_NAMED && n->kid[i]->n == 1)
            x = only_letter(n->kid[i]->lhs ? n->kid[i]->lhs : n->kid[i], x, &several);
        else
            x = only_letter(n->kid[i], x, &several);
    }
    if (!x || several)
        return false;
    for (int i = 0; i < n->n; i++) {
        struct line one = { .n = 0 }, copy;
        struct node *k = n->kid[i];
        if (k->kind == N_REL ? !relation_line(c, k, x, &one) : !(k->kind == N_NAMED && is_line(c, k, &one)))
            return false;
        copy = one;
        if (!line_union(c, &any, &one))
            return false;
        if (first)
            both = copy;
        else if (!line_intersect(c, &both, &copy))
            return false;
        first = false;
    }
    *out = n->op == 1 || (n->op != 2 && both.n == 0) ? any : both;
    return true;
}

static bool is_line(struct answer_checker *c, struct node *n, struct line *out)
{
    struct line b;
    out->n = 0;
    switch (n->kind) {
    case N_EMPTY:
        return true;
    case N_REALS:
        return line_add(out, infinity(c, true), false, infinity(c, false), false);
    case N_TUPLE:
        return n->n == 2 && real_constant(c, n->kid[0]) && real_constant(c, n->kid[1]) &&
               real_order(c, n->kid[0], n->kid[1]) <= 0 &&
               line_add(out, n->kid[0], n->open == '[', n->kid[1], n->close == ']') && line_normal(c, out);
    case N_SET:
        for (int i = 0; i < n->n; i++)
            if (!node_is_scalar(n->kid[i]) || !real_constant(c, n->kid[i]) ||
                !line_add(out, n->kid[i], true, n->kid[i], true))
                return false;
        return line_normal(c, out);
    case N_LIST: {
        bool rel = false, plain = n->n > 0;
        for (int i = 0; i < n->n; i++) {
            rel = rel || n->kid[i]->kind == N_REL;
            plain = plain && (n->kid[i]->kind == N_TUPLE || n->kid[i]->kind == N_UNION);
        }
        if (rel)
            return relations_line(c, n, out);
        if (plain && n->op) { /* (1,2) or (3,4) */
            for (int i = 0; i < n->n; i++)
                if (!is_line(c, n->kid[i], &b) || !line_union(c, out, &b))
                    return false;
            return true;
        }
        return false;
    }
    case N_UNION:
    case N_INTER:
    case N_DIFF:
        if (!is_line(c, n->kid[0], out) || !is_line(c, n->kid[1], &b))
            return false;
        if (n->kind == N_UNION)
            return line_union(c, out, &b);
        return (n->kind == N_INTER || line_complement(c, &b)) && line_intersect(c, out, &b);
    case N_REL: {
        bool several = false;
        const char *x = only_letter(n, NULL, &several);
        return x && !several && relation_line(c, n, x, out);
    }
    case N_NAMED:
        if (n->n != 1)
            return false;
        if (is_line(c, n->kid[0], out))
            return true;
        return node_is_scalar(n->kid[0]) && real_constant(c, n->kid[0]) &&
               line_add(out, n->kid[0], true, n->kid[0], true);
    default:
        return false;
    }
}

/* The letter that a relation or a labelled set speaks of; NULL for a bare set. */
static const char *letter_of(const struct node *n)
{
    bool several = false;
    if (n->kind == N_NAMED)
        return n->lhs ? only_letter(n->lhs, NULL, &several) : NULL;
    if (n->kind == N_REL)
        return only_letter(n, NULL, &several);
    if (n->kind == N_LIST)
        for (int i = 0; i < n->n; i++)
            if (letter_of(n->kid[i]))
                return letter_of(n->kid[i]);
    return NULL;
}

static enum tri lines_equal(struct answer_checker *c, struct node *g, struct node *p)
{
    const char *x = letter_of(g), *y = letter_of(p);
    if (x && y && strcmp(x, y) != 0)
        return NO;
    struct line a, b;
    if (!is_line(c, g, &a) || !is_line(c, p, &b))
        return MAYBE;
    if (a.n != b.n)
        return NO;
    for (int i = 0; i < a.n; i++) {
        int lo = real_order(c, a.s[i].lo, b.s[i].lo), hi = real_order(c, a.s[i].hi, b.s[i].hi);
        if (lo == 2 || hi == 2)
            return MAYBE;
        if (lo || hi || a.s[i].lo_in != b.s[i].lo_in || a.s[i].hi_in != b.s[i].hi_in)
            return NO;
    }
    return YES;
}

static bool names_a_line(const struct node *n)
{
    return n->kind == N_UNION || n->kind == N_INTER || n->kind == N_DIFF || n->kind == N_REALS || n->kind == N_EMPTY ||
           n->kind == N_REL || n->kind == N_TUPLE || n->kind == N_SET || n->kind == N_LIST ||
           (n->kind == N_NAMED && n->n == 1);
}

/* Finite sets under union, intersection and difference, whatever their elements. NULL if it is none. */
static struct node *finite_set(struct answer_checker *c, struct node *n)
{
    if (n->kind == N_SET)
        return n;
    if (n->kind == N_EMPTY)
        return node_new(c, N_SET, 0);
    if (n->kind != N_UNION && n->kind != N_INTER && n->kind != N_DIFF)
        return NULL;
    struct node *a = finite_set(c, n->kid[0]), *b = finite_set(c, n->kid[1]);
    if (!a || !b || a->n + b->n > MAX_LIST)
        return NULL;
    struct node *r = node_new(c, N_SET, a->n + b->n);
    const char *why;
    r->n = 0;
    for (int i = 0; i < a->n; i++) {
        bool in_b = false;
        for (int j = 0; j < b->n && n->kind != N_UNION; j++)
            in_b = in_b || value_equal(c, a->kid[i], b->kid[j], &why) == YES;
        if (n->kind == N_UNION || in_b == (n->kind == N_INTER))
            r->kid[r->n++] = a->kid[i];
    }
    for (int j = 0; j < b->n && n->kind == N_UNION; j++)
        r->kid[r->n++] = b->kid[j];
    return r;
}

/* ---- equations and relations ---- */

static struct node *minus(struct answer_checker *c, struct node *a, struct node *b)
{
    return answer_canon(c, node_2(c, N_ADD, a, node_neg(c, b)));
}

/* l - r of an equation, NULL if it is none between scalars. */
static struct node *equation(struct answer_checker *c, struct node *n)
{
    if (n->kind == N_NAMED && n->n == 1 && n->lhs && node_is_scalar(n->lhs) && node_is_scalar(n->kid[0]))
        return minus(c, n->lhs, n->kid[0]);
    if (n->kind == N_REL && n->n == 2 && n->ops[0] == REL_EQ && node_is_scalar(n->kid[0]) && node_is_scalar(n->kid[1]))
        return minus(c, n->kid[0], n->kid[1]);
    return NULL;
}

static enum tri equations_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    int sign;
    *why = "equation";
    if (!g || !p || g->kind == N_UNDEF || p->kind == N_UNDEF)
        return NO;
    enum tri r = poly_equal(c, g, p, POLY_EQUATION, NULL);
    return r != MAYBE ? r : ball_proportional(c, g, p, &sign);
}

/* Pairs of neighbours of a chain, each turned to "smaller first". */
static enum rel turned(struct node *n, int i, struct node **lo, struct node **hi)
{
    enum rel op = (enum rel)n->ops[i];
    bool swap = op == REL_GT || op == REL_GE;
    *lo = n->kid[i + swap];
    *hi = n->kid[i + !swap];
    return op == REL_GT ? REL_LT : op == REL_GE ? REL_LE : op;
}

static enum tri pair_equal(struct answer_checker *c, struct node *g, int i, struct node *p, int j)
{
    struct node *gl, *gh, *pl, *ph;
    const char *why;
    enum rel op = turned(g, i, &gl, &gh);
    int sign;
    if (op != turned(p, j, &pl, &ph))
        return NO;
    if (op == REL_IN || op == REL_OTHER || !node_is_scalar(gl) || !node_is_scalar(gh) || !node_is_scalar(pl) ||
        !node_is_scalar(ph)) {
        enum tri a = value_equal(c, gl, pl, &why), b = a == NO ? NO : value_equal(c, gh, ph, &why);
        return a == NO || b == NO ? NO : a == YES && b == YES ? YES : MAYBE;
    }
    struct node *gd = minus(c, gl, gh), *pd = minus(c, pl, ph);
    if (op == REL_EQ)
        return equations_equal(c, gd, pd, &why);
    enum tri r = poly_equal(c, gd, pd, POLY_FACTOR, &sign);
    if (r == MAYBE)
        r = ball_proportional(c, gd, pd, &sign);
    if (r != YES || op == REL_NE)
        return r;
    return sign > 0 ? YES : sign < 0 ? NO : MAYBE;
}

static enum tri relations_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    enum tri all = YES;
    *why = "relation";
    if (g->n != p->n)
        return NO;
    bool reversed =
        g->n > 2 && (g->ops[0] == REL_LT || g->ops[0] == REL_LE) != (p->ops[0] == REL_LT || p->ops[0] == REL_LE);
    for (int i = 0; i + 1 < g->n; i++) {
        enum tri r = pair_equal(c, g, i, p, reversed ? p->n - 2 - i : i);
        if (r == NO)
            return NO;
        if (r == MAYBE)
            all = MAYBE;
    }
    return all;
}

/* ---- records ---- */

static enum tri records_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    enum tri all = YES;
    if (g->n != p->n)
        return NO;
    for (int i = 0; i < g->n; i++) {
        int j = 0;
        while (j < p->n && strcmp(g->names[i], p->names[j]) != 0)
            j++;
        enum tri r = j == p->n ? NO : value_equal(c, g->kid[i], p->kid[j], why);
        if (r == NO)
            return NO;
        if (r == MAYBE)
            all = MAYBE;
    }
    return all;
}

static enum tri named_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    if (g->kind == N_NAMED && p->kind == N_NAMED) {
        if (g->n > 1 || p->n > 1) {
            *why = "list";
            return records_equal(c, g, p, why);
        }
        if (strcmp(g->names[0], p->names[0]) == 0) {
            enum tri r = value_equal(c, g->kid[0], p->kid[0], why);
            return r;
        }
        *why = "equation";
        if (node_has_letters(g->kid[0]) && node_has_letters(p->kid[0]))
            return equations_equal(c, equation(c, g), equation(c, p), why);
        return NO;
    }
    struct node *named = g->kind == N_NAMED ? g : p, *other = named == g ? p : g;
    if (named->n > 1) {
        *why = "list";
        if (other->kind == N_TUPLE ? other->open != '(' || other->close != ')'
                                   : other->kind != N_LIST || named->op == 1)
            return NO;
        return named == g ? in_order(c, g, p, why) : in_order(c, g, p, why);
    }
    if (other->kind == N_REL) {
        if (other->n == 2 && other->ops[0] == REL_EQ)
            return equations_equal(c, equation(c, g), equation(c, p), why);
        *why = "interval";
        enum tri r = lines_equal(c, g, p);
        return r == MAYBE && !c->limit ? NO : r;
    }
    return named == g ? value_equal(c, g->kid[0], p, why) : value_equal(c, g, p->kid[0], why);
}

/* ---- the rest ---- */

static struct node *quotient_of(struct answer_checker *c, struct node *r)
{
    return answer_canon(c, node_2(c, N_MUL, r->kid[0], node_2(c, N_POW, r->kid[1], node_num(c, -1))));
}

static enum tri ratios_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    bool gr = g->kind == N_RATIO || g->kind == N_TIME, pr = p->kind == N_RATIO || p->kind == N_TIME;
    *why = g->kind == N_TIME || p->kind == N_TIME ? "time" : "ratio";
    if (g->kind == N_TIME && p->kind == N_TIME)
        return g->sig == p->sig && (g->op == p->op || !g->op || !p->op) ? YES : NO;
    if ((g->kind == N_TIME && g->op) || (p->kind == N_TIME && p->op))
        return NO;
    if (!gr || !pr) {
        struct node *r = gr ? g : p, *s = gr ? p : g;
        if (r->n != 2 || !node_is_scalar(s))
            return NO;
        struct node *q = quotient_of(c, r);
        if (q->kind == N_UNDEF)
            return NO;
        const char *inner;
        return gr ? scalars_equal(c, q, s, &inner) : scalars_equal(c, s, q, &inner);
    }
    if (g->n != p->n)
        return NO;
    enum tri all = YES;
    for (int i = 0; i < g->n; i++) {
        struct node *a = answer_canon(c, node_2(c, N_MUL, g->kid[i], p->kid[(i + 1) % g->n]));
        struct node *b = answer_canon(c, node_2(c, N_MUL, p->kid[i], g->kid[(i + 1) % g->n]));
        if (!node_is_scalar(a) || !node_is_scalar(b))
            return NO;
        /* 0:0 is proportional to everything */
        if (g->kid[i]->kind == N_NUM &&
            fmpq_is_zero(g->kid[i]->q) != (p->kid[i]->kind == N_NUM && fmpq_is_zero(p->kid[i]->q)))
            return NO;
        const char *inner;
        enum tri r = numbers_equal(c, a, b, &inner);
        if (r == NO)
            return NO;
        if (r == MAYBE)
            all = MAYBE;
    }
    return all;
}

static bool fold_same(const char *a, const char *b)
{
    for (;; a++, b++) {
        while (*a && !ch_alnum(*a) && !((unsigned char)*a & 0x80))
            a++;
        while (*b && !ch_alnum(*b) && !((unsigned char)*b & 0x80))
            b++;
        if (ch_lower(*a) != ch_lower(*b))
            return false;
        if (!*a)
            return true;
    }
}

static const char *word_of(const struct node *n)
{
    if (n->kind == N_TEXT || (n->kind == N_SYM && !n->n))
        return n->name;
    return n->kind == N_E ? "e" : n->kind == N_I ? "i" : NULL;
}

static bool has_undefined(const struct node *n)
{
    if (n->kind == N_UNDEF)
        return true;
    for (int i = 0; i < n->n; i++)
        if (has_undefined(n->kid[i]))
            return true;
    return false;
}

static enum tri tuples_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    const char *inner;
    bool square = g->open == '[' || g->close == ']' || p->open == '[' || p->close == ']';
    *why = g->n == 2 && p->n == 2 && square ? "interval" : "tuple";
    if (g->open != p->open || g->close != p->close)
        return NO;
    return in_order(c, g, p, &inner);
}

static enum tri matrices_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    const char *inner;
    *why = "matrix";
    if (g->rows != p->rows || g->cols != p->cols)
        return NO;
    return in_order(c, g, p, &inner);
}

static enum tri value_equal(struct answer_checker *c, struct node *g, struct node *p, const char **why)
{
    if (g->kind == N_UNDEF || p->kind == N_UNDEF) {
        *why = "undefined";
        return NO;
    }
    if (node_cmp(g, p) == 0 && !node_is_scalar(g)) {
        *why = "string";
        return YES;
    }
    if (g->kind == N_TEXT || p->kind == N_TEXT) {
        *why = "text";
        return word_of(g) && word_of(p) && fold_same(word_of(g), word_of(p)) ? YES : NO;
    }
    if (node_is_scalar(g) && node_is_scalar(p))
        return scalars_equal(c, g, p, why);
    if (g->kind == N_NAMED || p->kind == N_NAMED)
        return named_equal(c, g, p, why);
    if (g->kind == N_RATIO || g->kind == N_TIME || p->kind == N_RATIO || p->kind == N_TIME)
        return ratios_equal(c, g, p, why);
    if (g->kind == N_BASE || p->kind == N_BASE) {
        *why = "base";
        return NO; /* equal ones are the same tree */
    }
    if (g->kind == N_TUPLE && p->kind == N_TUPLE)
        return tuples_equal(c, g, p, why);
    if (g->kind == N_MATRIX && p->kind == N_MATRIX)
        return matrices_equal(c, g, p, why);
    if (g->kind == N_REL && p->kind == N_REL) {
        enum tri r = g->n == 2 && g->ops[0] == REL_EQ && p->n == 2 && p->ops[0] == REL_EQ
                         ? equations_equal(c, equation(c, g), equation(c, p), why)
                         : relations_equal(c, g, p, why);
        if (r == YES)
            return YES;
        enum tri s = lines_equal(c, g, p);
        if (s == MAYBE)
            return r;
        *why = "interval";
        return s;
    }
    if (is_collection(g) && is_collection(p)) {
        enum tri r = sets_equal(c, g, p, why);
        if (r == YES || g->kind != N_LIST || p->kind != N_LIST)
            return r;
        enum tri s = lines_equal(c, g, p);
        return s == YES ? YES : r;
    }
    struct node *fg = finite_set(c, g), *fp = finite_set(c, p);
    if ((fg || g->kind == N_LIST) && (fp || p->kind == N_LIST))
        return sets_equal(c, fg ? fg : g, fp ? fp : p, why);
    if (is_collection(g) || is_collection(p)) { /* a set of one is its element */
        struct node *s = is_collection(g) ? g : p, *v = s == g ? p : g;
        int n;
        struct node **kid = distinct(c, s, &n);
        if (n == 1 && (node_is_scalar(v) || v->kind == N_TUPLE || v->kind == N_MATRIX))
            return s == g ? value_equal(c, kid[0], v, why) : value_equal(c, v, kid[0], why);
    }
    if (names_a_line(g) && names_a_line(p)) {
        *why = "interval";
        enum tri r = lines_equal(c, g, p);
        if (r != MAYBE)
            return r;
        if ((g->kind == N_UNION || g->kind == N_INTER) && p->kind == g->kind) { /* with letters: part by part */
            const char *inner;
            if (in_order(c, g, p, &inner) == YES)
                return YES;
        }
        return c->limit ? MAYBE : NO;
    }
    *why = "kind";
    return NO;
}

enum tri answer_equal(struct answer_checker *c, struct node *gold, struct node *pred, const char **reason)
{
    if (has_undefined(gold) || has_undefined(pred)) {
        *reason = c->limit ? c->limit : "undefined"; /* not made, or not there */
        return c->limit ? MAYBE : NO;
    }
    return value_equal(c, gold, pred, reason);
}
