/* answer_poly.c - identity of rational functions over the rationals, exactly, with FLINT's multivariate polynomials.
 *
 * Letters are generators; so is everything that is no sum, product or whole power: pi, roots, function values. Those
 * are not independent of each other, so with them a difference proves nothing (MAYBE) while an identity still holds
 * (YES). Sizes are estimated before each product or power; past the bounds the answer is MAYBE. */
#include <flint/fmpq_mpoly.h>
#include <stdlib.h>
#include <string.h>

#include "task/answer_private.h"

enum { MAX_COEFF_BITS = 1 << 22 }; /* of all coefficients of a polynomial together */

struct atoms {
    struct answer_checker *c;
    const struct node *a[MAX_ATOMS];
    struct node *root[MAX_ATOMS]; /* owned by the arena: x^(1/k) */
    int n, letters, opaque;
    fmpq_mpoly_ctx_t ctx;
};

struct quot {
    fmpq_mpoly_t num, den;
};

/* x^(p/k) with small p and k: a product of generators. Other powers are generators themselves. */
static bool root_power(const struct node *n)
{
    return n->kind == N_POW && n->kid[1]->kind == N_NUM && fmpz_cmp_si(fmpq_denref(n->kid[1]->q), 64) <= 0 &&
           fmpz_cmpabs(fmpq_numref(n->kid[1]->q), (fmpz[1]){ MAX_EXPONENT }) <= 0;
}

static bool whole_power(const struct node *n)
{
    return root_power(n) && fmpz_is_one(fmpq_denref(n->kid[1]->q));
}

/* Is n the atom's own tree, or a power of the root that the atom is? */
static int find_atom(const struct atoms *t, const struct node *n)
{
    for (int i = 0; i < t->n; i++) {
        const struct node *a = t->a[i];
        if (root_power(n) && !whole_power(n)) {
            if (root_power(a) && !whole_power(a) && fmpz_equal(fmpq_denref(a->kid[1]->q), fmpq_denref(n->kid[1]->q)) &&
                node_cmp(a->kid[0], n->kid[0]) == 0)
                return i;
        } else if (node_cmp(a, n) == 0) {
            return i;
        }
    }
    return -1;
}

static bool collect(struct atoms *t, const struct node *n)
{
    if (n->kind == N_NUM)
        return true;
    if (n->kind == N_ADD || n->kind == N_MUL || whole_power(n)) {
        for (int i = 0; i < (whole_power(n) ? 1 : n->n); i++)
            if (!collect(t, n->kid[i]))
                return false;
        return true;
    }
    if (n->kind == N_UNDEF || !node_is_scalar(n))
        return false;
    if (find_atom(t, n) >= 0)
        return true;
    if (t->n >= MAX_ATOMS || (n->kind == N_SYM && t->letters >= MAX_LETTERS)) {
        limit_hit(t->c, "limit:size");
        return false;
    }
    t->a[t->n++] = n;
    *(n->kind == N_SYM ? &t->letters : &t->opaque) += 1;
    return true;
}

/* ---- arithmetic with bounds ---- */

static slong coeff_bits(const fmpq_mpoly_t a)
{
    slong b = fmpz_mpoly_max_bits(a->zpoly);
    return (b < 0 ? -b : b) + (slong)fmpz_bits(fmpq_numref(a->content)) + (slong)fmpz_bits(fmpq_denref(a->content));
}

static bool mul(struct atoms *t, fmpq_mpoly_t r, const fmpq_mpoly_t a, const fmpq_mpoly_t b)
{
    slong la = fmpq_mpoly_length(a, t->ctx), lb = fmpq_mpoly_length(b, t->ctx);
    if (la && lb && (la > MAX_TERMS / lb || la * lb > MAX_COEFF_BITS / (coeff_bits(a) + coeff_bits(b) + 1))) {
        limit_hit(t->c, "limit:terms");
        return false;
    }
    fmpq_mpoly_mul(r, a, b, t->ctx);
    return true;
}

static bool power(struct atoms *t, fmpq_mpoly_t r, const fmpq_mpoly_t a, ulong e)
{
    slong len = fmpq_mpoly_length(a, t->ctx);
    double terms = 1;
    for (ulong k = 1; len > 1 && k <= e && terms <= MAX_TERMS; k++) /* binomial(len - 1 + e, e) */
        terms = terms * (double)((ulong)len - 1 + k) / (double)k;
    double bits = (double)(coeff_bits(a) + (len > 1 ? (slong)FLINT_BIT_COUNT(len) : 0)) * (double)e;
    if (e > MAX_EXPONENT || terms > MAX_TERMS || terms * bits > MAX_COEFF_BITS) {
        limit_hit(t->c, "limit:terms");
        return false;
    }
    return fmpq_mpoly_pow_ui(r, a, e, t->ctx) != 0;
}

static void quot_init(struct atoms *t, struct quot *q)
{
    fmpq_mpoly_init(q->num, t->ctx);
    fmpq_mpoly_init(q->den, t->ctx);
    fmpq_mpoly_one(q->den, t->ctx);
}

static void quot_clear(struct atoms *t, struct quot *q)
{
    fmpq_mpoly_clear(q->num, t->ctx);
    fmpq_mpoly_clear(q->den, t->ctx);
}

static bool quot_add(struct atoms *t, struct quot *r, const struct quot *x)
{
    if (fmpq_mpoly_equal(r->den, x->den, t->ctx)) {
        fmpq_mpoly_add(r->num, r->num, x->num, t->ctx);
        return true;
    }
    fmpq_mpoly_t u;
    fmpq_mpoly_init(u, t->ctx);
    bool ok = mul(t, u, x->num, r->den) && mul(t, r->num, r->num, x->den) && mul(t, r->den, r->den, x->den);
    if (ok)
        fmpq_mpoly_add(r->num, r->num, u, t->ctx);
    fmpq_mpoly_clear(u, t->ctx);
    return ok;
}

static bool build(struct atoms *t, const struct node *n, struct quot *r);

static bool build_power(struct atoms *t, const struct node *n, struct quot *r)
{
    const fmpz *p = fmpq_numref(n->kid[1]->q);
    slong e = fmpz_get_si(p);
    struct quot b;
    quot_init(t, &b);
    bool ok = true;
    if (whole_power(n))
        ok = build(t, n->kid[0], &b);
    else
        fmpq_mpoly_gen(b.num, find_atom(t, n), t->ctx);
    if (ok && e < 0) {
        fmpq_mpoly_swap(b.num, b.den, t->ctx);
        ok = !fmpq_mpoly_is_zero(b.den, t->ctx);
    }
    ok = ok && power(t, r->num, b.num, (ulong)labs(e)) && power(t, r->den, b.den, (ulong)labs(e));
    quot_clear(t, &b);
    return ok;
}

/* r = n; r is fresh (0/1). false: out of bounds, or a division by zero. */
static bool build(struct atoms *t, const struct node *n, struct quot *r)
{
    if (n->kind == N_NUM) {
        fmpq_mpoly_set_fmpq(r->num, n->q, t->ctx);
        return true;
    }
    if (n->kind == N_ADD || n->kind == N_MUL) {
        bool ok = true;
        if (n->kind == N_MUL)
            fmpq_mpoly_one(r->num, t->ctx);
        for (int i = 0; ok && i < n->n; i++) {
            struct quot x;
            quot_init(t, &x);
            ok = build(t, n->kid[i], &x);
            if (ok && n->kind == N_ADD)
                ok = quot_add(t, r, &x);
            else if (ok)
                ok = mul(t, r->num, r->num, x.num) && mul(t, r->den, r->den, x.den);
            quot_clear(t, &x);
        }
        return ok;
    }
    if (whole_power(n) || root_power(n))
        return build_power(t, n, r);
    fmpq_mpoly_gen(r->num, find_atom(t, n), t->ctx);
    return true;
}

/* ---- comparison ---- */

static bool monic_equal(struct atoms *t, const fmpq_mpoly_t a, const fmpq_mpoly_t b, int *sign)
{
    bool za = fmpq_mpoly_is_zero(a, t->ctx), zb = fmpq_mpoly_is_zero(b, t->ctx);
    if (za || zb)
        return za && zb;
    fmpq_t x, y;
    fmpq_mpoly_t u, v;
    fmpq_init(x);
    fmpq_init(y);
    fmpq_mpoly_init(u, t->ctx);
    fmpq_mpoly_init(v, t->ctx);
    fmpq_mpoly_get_term_coeff_fmpq(x, a, 0, t->ctx);
    fmpq_mpoly_get_term_coeff_fmpq(y, b, 0, t->ctx);
    *sign = fmpq_sgn(x) * fmpq_sgn(y);
    fmpq_mpoly_make_monic(u, a, t->ctx);
    fmpq_mpoly_make_monic(v, b, t->ctx);
    bool same = fmpq_mpoly_equal(u, v, t->ctx);
    fmpq_mpoly_clear(u, t->ctx);
    fmpq_mpoly_clear(v, t->ctx);
    fmpq_clear(x);
    fmpq_clear(y);
    return same;
}

enum tri poly_equal(struct answer_checker *c, struct node *a, struct node *b, enum poly_mode mode, int *sign)
{
    struct atoms t = { .c = c };
    const char *before = c->limit;
    enum tri r = MAYBE;
    int s = 0;
    if (!collect(&t, a) || !collect(&t, b))
        return MAYBE;
    fmpq_mpoly_ctx_init(t.ctx, t.n ? t.n : 1, ORD_LEX);
    struct quot x, y;
    quot_init(&t, &x);
    quot_init(&t, &y);
    if (build(&t, a, &x) && build(&t, b, &y)) {
        bool same;
        fmpq_mpoly_t u, v;
        fmpq_mpoly_init(u, t.ctx);
        fmpq_mpoly_init(v, t.ctx);
        if (mode == POLY_EQUATION) { /* zeros of the numerators */
            r = monic_equal(&t, x.num, y.num, &s) ? YES : t.opaque ? MAYBE : NO;
        } else if (mul(&t, u, x.num, y.den) && mul(&t, v, y.num, x.den)) {
            same = mode == POLY_SAME ? fmpq_mpoly_equal(u, v, t.ctx) : monic_equal(&t, u, v, &s);
            r = same ? YES : t.opaque ? MAYBE : NO;
        }
        fmpq_mpoly_clear(u, t.ctx);
        fmpq_mpoly_clear(v, t.ctx);
    }
    quot_clear(&t, &x);
    quot_clear(&t, &y);
    fmpq_mpoly_ctx_clear(t.ctx);
    if (sign)
        *sign = s;
    if (r != MAYBE)
        c->limit = before; /* what a bound stopped did not matter */
    return r;
}
