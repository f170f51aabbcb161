/* answer_ball.c - certified balls (Arb): a difference that excludes zero is a proof of inequality; one that stays
 * around zero at 900 and more bits is taken for equality, which no pair of short expressions has been seen to break.
 *
 * With letters both sides are evaluated at fixed points: rational, unrelated, the same on every machine. Work is
 * counted in operations weighted by precision, never in time. */
#include <acb.h>
#include <arb.h>
#include <stdlib.h>
#include <string.h>

#include "task/answer_private.h"

enum {
    MAX_WORK = 60000,        /* units of one 128-bit operation, for a whole comparison */
    MAX_MAGNITUDE = 1 << 20, /* binary exponent */
    MAX_PREC = 8192,
    POINTS = 4,
    TRIES = 12,
};

struct eval {
    struct answer_checker *c;
    slong prec;
    const char *letter[MAX_LETTERS];
    int letters;
    const fmpq *value; /* [letters] */
    slong top;         /* largest binary exponent met */
    slong big;         /* largest absolute value of one */
    bool undefined, stopped;
    bool complex; /* left the real numbers: an even root or a logarithm of something not positive */
};

static bool work(struct eval *v, long units)
{
    v->c->work += units * (v->prec / 128);
    if (v->c->work <= MAX_WORK)
        return true;
    v->stopped = true;
    limit_hit(v->c, "limit:work");
    return false;
}

static slong exponent_of(const arb_t x)
{
    slong a = arf_is_zero(arb_midref(x)) ? -ARF_PREC_EXACT : arf_abs_bound_lt_2exp_si(arb_midref(x));
    return a;
}

/* Keeps track of magnitudes; false when the value is not finite or out of bounds. */
static bool note(struct eval *v, const acb_t x)
{
    if (!acb_is_finite(x)) {
        v->undefined = true;
        return false;
    }
    slong e = exponent_of(acb_realref(x)), f = exponent_of(acb_imagref(x));
    if (f > e)
        e = f;
    if (e == -ARF_PREC_EXACT) /* zero */
        return true;
    if (e > MAX_MAGNITUDE || e < -MAX_MAGNITUDE) {
        v->stopped = true;
        limit_hit(v->c, "limit:bits");
        return false;
    }
    if (e > v->top)
        v->top = e;
    /* what cancels to rounding noise has a tiny midpoint that means nothing */
    if (labs(e) > v->big && !acb_contains_zero(x))
        v->big = labs(e);
    return true;
}

static bool eval(struct eval *v, const struct node *n, acb_t r);

/* Real and odd: \sqrt[3]{-8} is -2. */
static bool eval_rational_power(struct eval *v, acb_t r, const acb_t x, const fmpq *q)
{
    slong p = v->prec;
    ulong k = fmpz_get_ui(fmpq_denref(q));
    if (acb_is_zero(x)) {
        if (fmpq_sgn(q) <= 0)
            v->undefined = true;
        acb_zero(r);
        return fmpq_sgn(q) > 0;
    }
    if (acb_is_real(x) && arb_is_positive(acb_realref(x))) {
        arb_root_ui(acb_realref(r), acb_realref(x), k, p);
        arb_zero(acb_imagref(r));
    } else if (acb_is_real(x) && arb_is_negative(acb_realref(x)) && k % 2) {
        arb_neg(acb_realref(r), acb_realref(x));
        arb_root_ui(acb_realref(r), acb_realref(r), k, p);
        arb_neg(acb_realref(r), acb_realref(r));
        arb_zero(acb_imagref(r));
    } else {
        v->complex = true;
        acb_root_ui(r, x, k, p);
    }
    acb_pow_fmpz(r, r, fmpq_numref(q), p);
    return true;
}

static bool eval_power(struct eval *v, const struct node *n, acb_t r)
{
    const struct node *e = n->kid[1];
    acb_t x, y;
    acb_init(x);
    acb_init(y);
    bool ok = eval(v, n->kid[0], x);
    if (!ok)
        goto out;
    slong mag = exponent_of(acb_realref(x));
    if (exponent_of(acb_imagref(x)) > mag)
        mag = exponent_of(acb_imagref(x));
    mag = mag == -ARF_PREC_EXACT ? 1 : labs(mag) + 1;
    if (e->kind == N_NUM) {
        fmpq *q = e->q;
        if (fmpz_bits(fmpq_numref(q)) > 20 || fmpz_cmp_si(fmpq_denref(q), 1000) > 0 ||
            labs(fmpz_get_si(fmpq_numref(q))) > MAX_MAGNITUDE / mag) {
            if (fmpz_bits(fmpq_numref(q)) <= 20) { /* a fine root: through the logarithm */
                ok = work(v, 24);
                acb_set_fmpq(y, q, v->prec);
                acb_pow(r, x, y, v->prec);
                ok = ok && note(v, r);
            } else {
                v->stopped = true;
                limit_hit(v->c, "limit:bits");
                ok = false;
            }
            goto out;
        }
        ok = work(v, 4 + 2 * (long)fmpz_bits(fmpq_numref(q)));
        if (fmpz_is_one(fmpq_denref(q)))
            acb_pow_fmpz(r, x, fmpq_numref(q), v->prec);
        else
            ok = ok && eval_rational_power(v, r, x, q);
    } else {
        ok = work(v, 24) && eval(v, e, y);
        if (ok && (exponent_of(acb_realref(y)) > 20 || exponent_of(acb_imagref(y)) > 20)) {
            v->stopped = true;
            limit_hit(v->c, "limit:bits");
            ok = false;
        }
        v->complex = v->complex || (ok && !arb_is_positive(acb_realref(x)));
        if (ok && n->kid[0]->kind == N_E)
            acb_exp(r, y, v->prec);
        else if (ok)
            acb_pow(r, x, y, v->prec);
    }
    ok = ok && note(v, r);
out:
    acb_clear(x);
    acb_clear(y);
    return ok;
}

static void factorial(acb_t r, const acb_t x, slong prec)
{
    acb_t t;
    acb_init(t);
    acb_add_ui(t, x, 1, prec);
    acb_gamma(r, t, prec);
    acb_clear(t);
}

static bool eval_function(struct eval *v, const struct node *n, acb_t r)
{
    static const struct {
        const char *name;
        void (*fn)(acb_t, const acb_t, slong);
    } plain[] = {
        { "sin", acb_sin },     { "cos", acb_cos },       { "tan", acb_tan },       { "cot", acb_cot },
        { "sec", acb_sec },     { "csc", acb_csc },       { "arcsin", acb_asin },   { "arccos", acb_acos },
        { "arctan", acb_atan }, { "sinh", acb_sinh },     { "cosh", acb_cosh },     { "tanh", acb_tanh },
        { "coth", acb_coth },   { "arcsinh", acb_asinh }, { "arccosh", acb_acosh }, { "arctanh", acb_atanh }
    };
    bool gamma = strcmp(n->name, "fact") == 0 || strcmp(n->name, "binom") == 0;
    slong p = v->prec;
    acb_t x, y;
    if (!work(v, gamma ? 600 : 24) || n->n < 1 || n->n > 2)
        return false;
    acb_init(x);
    acb_init(y);
    bool ok = eval(v, n->kid[0], x) && (n->n < 2 || eval(v, n->kid[1], y));
    bool known = n->n == 1;
    bool huge = ok && (exponent_of(acb_realref(x)) > 16 || exponent_of(acb_imagref(x)) > 16);
    if (!ok)
        goto out;
    for (size_t i = 0; known && i < sizeof plain / sizeof *plain; i++)
        if (strcmp(plain[i].name, n->name) == 0) {
            if (huge && i != 10) { /* reduction of a large argument costs, and answers have none */
                v->stopped = true;
                limit_hit(v->c, "limit:bits");
                ok = false;
                goto out;
            }
            plain[i].fn(r, x, p);
            ok = note(v, r);
            goto out;
        }
    if (strcmp(n->name, "ln") == 0 || strcmp(n->name, "log") == 0)
        v->complex = v->complex || !arb_is_positive(acb_realref(x));
    if (n->n == 1 && strcmp(n->name, "ln") == 0) {
        acb_log(r, x, p);
    } else if (n->n == 2 && strcmp(n->name, "log") == 0) {
        acb_log(x, x, p);
        acb_log(y, y, p);
        acb_div(r, x, y, p);
    } else if (n->n == 1 &&
               (strcmp(n->name, "arccot") == 0 || strcmp(n->name, "arcsec") == 0 || strcmp(n->name, "arccsc") == 0)) {
        acb_inv(x, x, p);
        (n->name[3] == 's' ? acb_acos : n->name[4] == 's' ? acb_asin : acb_atan)(r, x, p);
    } else if (n->n == 1 && strcmp(n->name, "abs") == 0) {
        acb_abs(acb_realref(r), x, p);
        arb_zero(acb_imagref(r));
    } else if (n->n == 1 && strcmp(n->name, "Re") == 0) {
        acb_set_arb(r, acb_realref(x));
    } else if (n->n == 1 && strcmp(n->name, "Im") == 0) {
        acb_set_arb(r, acb_imagref(x));
    } else if (n->n == 1 && strcmp(n->name, "arg") == 0) {
        acb_arg(acb_realref(r), x, p);
        arb_zero(acb_imagref(r));
    } else if (n->n == 1 && (strcmp(n->name, "floor") == 0 || strcmp(n->name, "ceil") == 0) && acb_is_real(x)) {
        (n->name[0] == 'f' ? arb_floor : arb_ceil)(acb_realref(r), acb_realref(x), p);
        arb_zero(acb_imagref(r));
    } else if (n->n == 2 && (strcmp(n->name, "max") == 0 || strcmp(n->name, "min") == 0) && acb_is_real(x) &&
               acb_is_real(y)) {
        (n->name[1] == 'a' ? arb_max : arb_min)(acb_realref(r), acb_realref(x), acb_realref(y), p);
        arb_zero(acb_imagref(r));
    } else if (gamma && !huge && n->n == 1) {
        factorial(r, x, p);
    } else if (gamma && !huge && n->n == 2) {
        acb_t t;
        acb_init(t);
        acb_sub(t, x, y, p);
        factorial(t, t, p);
        factorial(y, y, p);
        factorial(r, x, p);
        acb_mul(t, t, y, p);
        acb_div(r, r, t, p);
        acb_clear(t);
    } else {
        ok = false;
    }
    ok = ok && note(v, r);
out:
    acb_clear(x);
    acb_clear(y);
    return ok;
}

static bool eval(struct eval *v, const struct node *n, acb_t r)
{
    if (!work(v, 1))
        return false;
    switch (n->kind) {
    case N_NUM:
        acb_set_fmpq(r, n->q, v->prec);
        return note(v, r);
    case N_PI:
        acb_const_pi(r, v->prec);
        return true;
    case N_E:
        arb_const_e(acb_realref(r), v->prec);
        arb_zero(acb_imagref(r));
        return true;
    case N_I:
        acb_onei(r);
        return true;
    case N_SYM:
        for (int i = 0; i < v->letters; i++)
            if (strcmp(v->letter[i], n->name) == 0) {
                acb_set_fmpq(r, v->value + i, v->prec);
                return true;
            }
        return false;
    case N_ADD:
    case N_MUL: {
        acb_t x;
        acb_init(x);
        bool ok = eval(v, n->kid[0], r);
        for (int i = 1; ok && i < n->n; i++) {
            ok = eval(v, n->kid[i], x);
            if (ok && n->kind == N_ADD)
                acb_add(r, r, x, v->prec);
            else if (ok)
                acb_mul(r, r, x, v->prec);
            ok = ok && note(v, r);
        }
        acb_clear(x);
        return ok;
    }
    case N_POW:
        return eval_power(v, n, r);
    case N_FUNC:
        return eval_function(v, n, r);
    default:
        return false;
    }
}

/* ---- letters and points ---- */

struct traits {
    bool roots, absolute;
};

static bool find_letters(struct eval *v, const struct node *n, struct traits *t)
{
    if (n->kind == N_SYM) {
        for (int i = 0; i < v->letters; i++)
            if (strcmp(v->letter[i], n->name) == 0)
                return true;
        if (v->letters >= MAX_LETTERS) {
            limit_hit(v->c, "limit:size");
            return false;
        }
        v->letter[v->letters++] = n->name;
        return true;
    }
    if (n->kind == N_FUNC) {
        t->absolute = t->absolute || strcmp(n->name, "abs") == 0;
        t->roots = t->roots || strcmp(n->name, "ln") == 0 || strcmp(n->name, "log") == 0;
    }
    if (n->kind == N_POW)
        t->roots = t->roots || n->kid[1]->kind != N_NUM || !fmpz_is_one(fmpq_denref(n->kid[1]->q));
    for (int i = 0; i < n->n; i++)
        if (!find_letters(v, n->kid[i], t))
            return false;
    return true;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Point k: each letter a fixed fraction between 1/3 and 3 over a large prime; the signs of odd points vary if signs
 * may. */
static void make_point(fmpq *value, const struct eval *v, int k, bool signs)
{
    const slong prime = 2147483647;
    for (int i = 0; i < v->letters; i++) {
        uint64_t h = mix((uint64_t)k * 64 + (uint64_t)i);
        slong num = prime / 3 + (slong)(h % (uint64_t)(prime / 3 * 8));
        bool minus = signs && (k % 2) && ((h >> 60) % 2 || i == 0);
        fmpq_set_si(value + i, minus ? -num : num, (ulong)prime);
    }
}

/* ---- decisions ---- */

/* log2 of the radius of a ball around zero; very small if it is exact. */
static slong radius_exponent(const acb_t d)
{
    mag_t m;
    mag_init(m);
    acb_get_mag(m, d);
    slong e = mag_is_zero(m)                ? -MAX_MAGNITUDE * 4
              : fmpz_fits_si(MAG_EXPREF(m)) ? fmpz_get_si(MAG_EXPREF(m))
                                            : -MAX_MAGNITUDE * 4;
    mag_clear(m);
    return e;
}

/* One evaluation of a - b: NO if it excludes zero, YES if it is zero to `target` bits below the largest operand. */
static enum tri difference(struct eval *v, const struct node *a, const struct node *b, slong target, bool *gold_bad)
{
    acb_t x, y;
    enum tri r = MAYBE;
    acb_init(x);
    acb_init(y);
    v->undefined = false;
    *gold_bad = !eval(v, a, x);
    if (!*gold_bad && eval(v, b, y)) {
        acb_sub(x, x, y, v->prec);
        if (acb_is_finite(x)) {
            if (!acb_contains_zero(x))
                r = NO;
            else if (radius_exponent(x) <= v->top - target)
                r = YES;
        }
    }
    acb_clear(x);
    acb_clear(y);
    return r;
}

static enum tri constants_equal(struct answer_checker *c, const struct node *a, const struct node *b,
                                const char **reason)
{
    static const slong steps[] = { 128, 512, 1024 };
    struct eval v = { .c = c };
    const char *before = c->limit;
    bool bad;
    *reason = "ball";
    for (int i = 0; i < 3; i++) {
        v.prec = steps[i];
        v.top = 0;
        enum tri r = difference(&v, a, b, 900 + 4 * v.big, &bad);
        if (r == NO) {
            c->limit = before;
            return NO;
        }
        if (v.stopped)
            return MAYBE;
        if (i < 2)
            continue;
        slong target = 900 + 4 * v.big;
        if (r == YES && target <= 1000)
            return YES;
        if (v.undefined) {
            *reason = "undefined";
            return MAYBE;
        }
        if (target + 128 > MAX_PREC) {
            limit_hit(c, "limit:bits");
            return MAYBE;
        }
        v.prec = target + 256;
        v.top = 0;
        return difference(&v, a, b, target, &bad);
    }
    return MAYBE;
}

static bool may_be_undefined(const struct node *n)
{
    if (n->kind == N_FUNC || (n->kind == N_POW && n->kid[0]->kind != N_NUM && n->kid[0]->kind != N_PI &&
                              n->kid[0]->kind != N_E && n->kid[0]->kind != N_I))
        return true;
    for (int i = 0; i < n->n; i++)
        if (may_be_undefined(n->kid[i]))
            return true;
    return false;
}

bool ball_undefined(struct answer_checker *c, const struct node *n)
{
    struct eval v = { .c = c, .prec = 512 };
    const char *before = c->limit;
    if (!may_be_undefined(n) || node_has_letters(n))
        return false;
    acb_t x;
    acb_init(x);
    eval(&v, n, x);
    acb_clear(x);
    c->limit = before;
    return v.undefined;
}

static enum tri points_equal(struct eval *v, const struct node *a, const struct node *b, bool signs)
{
    fmpq value[MAX_LETTERS];
    int good = 0;
    enum tri r = YES;
    for (int i = 0; i < v->letters; i++)
        fmpq_init(value + i);
    v->value = value;
    for (int k = 0; k < TRIES && good < POINTS && r == YES; k++) {
        bool bad;
        make_point(value, v, k, signs);
        v->prec = 256;
        v->top = v->big = 0;
        enum tri d = difference(v, a, b, 128, &bad);
        if (d == MAYBE && !v->stopped && !bad) {
            v->prec = 1024;
            v->top = 0;
            d = difference(v, a, b, 512, &bad);
        }
        if (v->stopped)
            r = MAYBE;
        else if (d == NO)
            r = NO;
        else if (d == YES)
            good++;
        else if (!bad && !v->undefined)
            r = MAYBE; /* near, but not near enough */
    }
    /* With roots or logarithms the points were positive. A difference at another real point, where nothing left the
     * real numbers, counts too: \sqrt{x^2} is not x, though \sqrt{xy} may be \sqrt{x}\sqrt{y}. */
    for (int k = 0; k < POINTS && r == YES && good >= 3 && !signs; k++) {
        bool bad;
        make_point(value, v, 2 * k + 1, true);
        v->prec = 256;
        v->top = v->big = 0;
        v->complex = false;
        if (difference(v, a, b, 128, &bad) == NO && !v->complex)
            r = NO;
        if (v->stopped)
            r = MAYBE;
    }
    for (int i = 0; i < v->letters; i++)
        fmpq_clear(value + i);
    return r == YES && good < 3 ? MAYBE : r;
}

enum tri ball_equal(struct answer_checker *c, struct node *a, struct node *b, const char **reason)
{
    struct eval v = { .c = c };
    struct traits t = { false, false };
    if (!find_letters(&v, a, &t) || !find_letters(&v, b, &t))
        return MAYBE;
    if (!v.letters)
        return constants_equal(c, a, b, reason);
    *reason = "points";
    return points_equal(&v, a, b, t.absolute || !t.roots);
}

enum tri ball_proportional(struct answer_checker *c, struct node *a, struct node *b, int *sign)
{
    struct eval v = { .c = c, .prec = 512 };
    struct traits t = { false, false };
    fmpq value[MAX_LETTERS];
    enum tri r = YES;
    int good = 0;
    *sign = 0;
    if (!find_letters(&v, a, &t) || !find_letters(&v, b, &t) || !v.letters)
        return MAYBE;
    acb_t x, y, first;
    acb_init(x);
    acb_init(y);
    acb_init(first);
    for (int i = 0; i < v.letters; i++)
        fmpq_init(value + i);
    v.value = value;
    for (int k = 0; k < TRIES && good < POINTS && r == YES; k++) {
        make_point(value, &v, k, t.absolute || !t.roots);
        v.undefined = false;
        if (!eval(&v, a, x) || !eval(&v, b, y)) {
            if (v.stopped)
                r = MAYBE;
            continue;
        }
        if (acb_contains_zero(x) || acb_contains_zero(y)) {
            r = acb_contains_zero(x) != acb_contains_zero(y) ? NO : MAYBE;
            continue;
        }
        acb_div(x, x, y, v.prec);
        if (acb_rel_accuracy_bits(x) < 256) {
            r = MAYBE;
        } else if (!good++) {
            acb_set(first, x);
            if (arb_contains_zero(acb_imagref(x)))
                *sign = arb_is_positive(acb_realref(x)) ? 1 : -1;
        } else if (!acb_overlaps(first, x)) {
            r = NO;
        }
    }
    for (int i = 0; i < v.letters; i++)
        fmpq_clear(value + i);
    acb_clear(x);
    acb_clear(y);
    acb_clear(first);
    return r == YES && good < 3 ? MAYBE : r;
}

static int infinity_of(const struct node *n)
{
    if (n->kind == N_INF)
        return 1;
    return n->kind == N_MUL && n->n == 2 && n->kid[1]->kind == N_INF ? -1 : 0;
}

int real_order(struct answer_checker *c, struct node *a, struct node *b)
{
    int ia = infinity_of(a), ib = infinity_of(b);
    if (ia || ib)
        return ia == ib ? 0 : ia - ib < 0 ? -1 : 1;
    if (a->kind == N_NUM && b->kind == N_NUM) {
        int d = fmpq_cmp(a->q, b->q);
        return d < 0 ? -1 : d > 0;
    }
    struct eval v = { .c = c, .prec = 256 };
    acb_t x, y;
    int r = 2;
    if (node_has_letters(a) || node_has_letters(b))
        return 2;
    if (node_cmp(a, b) == 0)
        return 0;
    acb_init(x);
    acb_init(y);
    if (eval(&v, a, x) && eval(&v, b, y) && arb_contains_zero(acb_imagref(x)) && arb_contains_zero(acb_imagref(y))) {
        if (arb_lt(acb_realref(x), acb_realref(y)))
            r = -1;
        else if (arb_gt(acb_realref(x), acb_realref(y)))
            r = 1;
    }
    acb_clear(x);
    acb_clear(y);
    const char *reason;
    if (r == 2 && constants_equal(c, a, b, &reason) == YES)
        r = 0;
    return r;
}

enum tri ball_within(struct answer_checker *c, struct node *dec, struct node *exact)
{
    if (node_has_letters(exact) || dec->places < 0 || dec->places > 1000)
        return NO;
    struct eval v = { .c = c, .prec = 256 + 4 * (dec->places + dec->sig) };
    acb_t x, y;
    fmpz_t ten;
    enum tri r = MAYBE;
    acb_init(x);
    acb_init(y);
    fmpz_init_set_ui(ten, 10);
    fmpz_pow_ui(ten, ten, (ulong)dec->places);
    if (eval(&v, exact, x) && eval(&v, dec, y) && arb_contains_zero(acb_imagref(x))) {
        arb_sub(acb_realref(x), acb_realref(x), acb_realref(y), v.prec);
        arb_mul_fmpz(acb_realref(x), acb_realref(x), ten, v.prec);
        arb_abs(acb_realref(x), acb_realref(x));
        arb_one(acb_realref(y));
        r = arb_le(acb_realref(x), acb_realref(y)) ? YES : arb_gt(acb_realref(x), acb_realref(y)) ? NO : MAYBE;
    }
    fmpz_clear(ten);
    acb_clear(x);
    acb_clear(y);
    return r;
}
