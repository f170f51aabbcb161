/* answer_canon.c - canonical form: what the parser read becomes what was meant.
 *
 * Numbers are folded exactly (within the bounds), sums and products flattened and sorted, matrices of literals added
 * and multiplied, +- expanded into two values, and labels ("x =", lists of assignments) resolved. Anything inexact or
 * with letters stays a tree; poly and ball decide about it. */
#include <stdlib.h>
#include <string.h>

#include "task/answer_private.h"

static struct node *canon(struct answer_checker *c, struct node *n, bool trig);
static struct node *item(struct answer_checker *c, struct node *n);

/* ---- questions about trees ---- */

bool node_is_scalar(const struct node *n)
{
    switch (n->kind) {
    case N_NUM:
    case N_PI:
    case N_E:
    case N_I:
    case N_SYM:
    case N_SUM:
        return true;
    case N_ADD:
    case N_MUL:
    case N_POW:
    case N_FUNC:
    case N_PCT:
    case N_DEG:
    case N_QTY:
        for (int i = 0; i < n->n; i++)
            if (!node_is_scalar(n->kid[i]))
                return false;
        return true;
    default:
        return false;
    }
}

bool node_has_letters(const struct node *n)
{
    if (n->kind == N_SYM || n->kind == N_SUM)
        return true;
    for (int i = 0; i < n->n; i++)
        if (node_has_letters(n->kid[i]))
            return true;
    return false;
}

int node_cmp(const struct node *a, const struct node *b)
{
    if (a == b)
        return 0;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->kind == N_NUM) {
        int d = fmpq_cmp(a->q, b->q);
        return d ? d : 0;
    }
    int d = strcmp(a->name ? a->name : "", b->name ? b->name : "");
    if (!d)
        d = a->n - b->n;
    if (!d)
        d = a->op - b->op;
    if (!d)
        d = (a->open - b->open) * 256 + a->close - b->close;
    if (!d)
        d = (a->rows - b->rows) * 256 + a->sig - b->sig;
    for (int i = 0; !d && a->kind == N_REL && i + 1 < a->n; i++)
        d = a->ops[i] - b->ops[i];
    for (int i = 0; !d && a->kind == N_NAMED && i < a->n; i++)
        d = strcmp(a->names[i], b->names[i]);
    for (int i = 0; !d && i < a->n; i++)
        d = node_cmp(a->kid[i], b->kid[i]);
    return d < 0 ? -1 : d > 0;
}

static int by_node(const void *a, const void *b)
{
    return node_cmp(*(struct node *const *)a, *(struct node *const *)b);
}

static bool is_int(const struct node *n)
{
    return n->kind == N_NUM && fmpz_is_one(fmpq_denref(n->q));
}

static bool small_int(const struct node *n, slong limit)
{
    return is_int(n) && fmpz_cmpabs(fmpq_numref(n->q), (fmpz[1]){ limit }) <= 0;
}

static slong int_of(const struct node *n)
{
    return fmpz_get_si(fmpq_numref(n->q));
}

static slong bits_of(const fmpq *q)
{
    slong a = (slong)fmpz_bits(fmpq_numref(q)), b = (slong)fmpz_bits(fmpq_denref(q));
    return a > b ? a : b;
}

static struct node *undefined(struct answer_checker *c)
{
    return node_new(c, N_UNDEF, 0);
}

static struct node *copy_with(struct answer_checker *c, const struct node *n, int kids)
{
    struct node *m = node_new(c, n->kind, kids), **kid = m->kid;
    *m = *n;
    m->n = kids;
    m->kid = kid;
    return m;
}

/* n with the letter var replaced. */
struct node *node_map(struct answer_checker *c, const struct node *n, const char *var, struct node *value)
{
    if (n->kind == N_SYM && !n->n && strcmp(n->name, var) == 0)
        return value;
    if (n->kind == N_SUM && n->kid[0]->kind == N_SYM && strcmp(n->kid[0]->name, var) == 0)
        return (struct node *)n; /* bound again */
    struct node *m = copy_with(c, n, n->n);
    for (int i = 0; i < n->n; i++)
        m->kid[i] = node_map(c, n->kid[i], var, value);
    return m;
}

static int tree_size(const struct node *n)
{
    int s = 1;
    for (int i = 0; i < n->n && s < MAX_NODES; i++)
        s += tree_size(n->kid[i]);
    return s;
}

/* ---- sums and products ---- */

static struct node *add_matrices(struct answer_checker *c, const struct node *a, const struct node *b)
{
    if (a->rows != b->rows || a->cols != b->cols)
        return undefined(c);
    struct node *m = copy_with(c, a, a->n);
    for (int i = 0; i < a->n; i++)
        m->kid[i] = canon(c, node_2(c, N_ADD, a->kid[i], b->kid[i]), false);
    return m;
}

static struct node *multiply(struct answer_checker *c, struct node *a, struct node *b)
{
    if (a->kind != N_MATRIX && b->kind != N_MATRIX)
        return canon(c, node_2(c, N_MUL, a, b), false);
    if (a->kind != N_MATRIX || b->kind != N_MATRIX) {
        struct node *s = a->kind == N_MATRIX ? b : a, *m = a->kind == N_MATRIX ? a : b, *r = copy_with(c, m, m->n);
        if (!node_is_scalar(s))
            return undefined(c);
        for (int i = 0; i < m->n; i++)
            r->kid[i] = canon(c, node_2(c, N_MUL, s, m->kid[i]), false);
        return r;
    }
    if (a->cols != b->rows)
        return undefined(c);
    struct node *r = node_new(c, N_MATRIX, a->rows * b->cols);
    r->rows = a->rows;
    r->cols = b->cols;
    for (int i = 0; i < a->rows; i++)
        for (int j = 0; j < b->cols; j++) {
            struct node *sum = node_new(c, N_ADD, a->cols);
            if (c->nodes > MAX_NODES)
                return undefined(c);
            for (int k = 0; k < a->cols; k++)
                sum->kid[k] = node_2(c, N_MUL, a->kid[i * a->cols + k], b->kid[k * b->cols + j]);
            r->kid[i * b->cols + j] = canon(c, sum, false);
        }
    return r;
}

/* Kids of nested sums (products) in one row; returns their number or -1 when there is no room. */
static int flatten(struct answer_checker *c, struct node *n, enum kind kind, struct node **out, int room, bool trig)
{
    int used = 0;
    for (int i = 0; i < n->n; i++) {
        struct node *k = n->kid[i];
        int m;
        if (k->kind == kind) {
            m = flatten(c, k, kind, out + used, room - used, trig);
        } else {
            k = canon(c, k, trig);
            if (k->kind == kind) {
                m = k->n <= room - used ? k->n : -1;
                if (m > 0)
                    memcpy(out + used, k->kid, (size_t)m * sizeof *out);
            } else {
                m = room > used ? 1 : -1;
                if (m > 0)
                    out[used] = k;
            }
        }
        if (m < 0)
            return -1;
        used += m;
    }
    return used;
}

/* Inside arithmetic marks count: 40% is 2/5, degrees and units are plain numbers. */
static struct node *unmark(struct answer_checker *c, struct node *n)
{
    while (n->kind == N_PCT || n->kind == N_DEG || n->kind == N_QTY) {
        bool pct = n->kind == N_PCT;
        n = n->kid[0];
        if (pct) {
            fmpq_t h;
            fmpq_init(h);
            fmpq_set_si(h, 1, 100);
            n = canon(c, node_2(c, N_MUL, node_q(c, h), n), false);
            fmpq_clear(h);
        }
    }
    return n;
}

static struct node *canon_sum(struct answer_checker *c, struct node *n, bool trig)
{
    struct node **kid = arena_alloc(&c->arena, MAX_TOKENS * sizeof *kid);
    int m = flatten(c, n, N_ADD, kid, MAX_TOKENS, trig), used = 0;
    struct node *matrix = NULL, *inf = NULL;
    if (m < 0 || c->nodes > MAX_NODES) {
        limit_hit(c, "limit:size");
        return undefined(c);
    }
    fmpq_t sum;
    fmpq_init(sum);
    bool number = false, bad = false;
    for (int i = 0; i < m; i++) {
        struct node *k = unmark(c, kid[i]);
        bool minus_inf = k->kind == N_MUL && k->n == 2 && k->kid[1]->kind == N_INF;
        if (k->kind == N_UNDEF) {
            bad = true;
        } else if (k->kind == N_NUM) {
            fmpq_add(sum, sum, k->q);
            number = true;
        } else if (k->kind == N_MATRIX) {
            matrix = matrix ? add_matrices(c, matrix, k) : k;
            bad = bad || matrix->kind == N_UNDEF;
            if (bad)
                matrix = NULL;
        } else if (k->kind == N_INF || minus_inf) {
            bad = bad || (inf && node_cmp(inf, k) != 0);
            inf = k;
        } else {
            kid[used++] = k;
        }
        if (bits_of(sum) > MAX_BITS) {
            limit_hit(c, "limit:bits");
            bad = true;
        }
    }
    struct node *r;
    if (bad || (matrix && (used || number))) {
        r = undefined(c);
    } else if (matrix) {
        r = matrix;
    } else if (inf) {
        r = inf;
    } else if (!used) {
        r = node_q(c, sum);
    } else {
        if (number && !fmpq_is_zero(sum))
            kid[used++] = node_q(c, sum);
        if (used == 1) {
            r = kid[0];
        } else {
            r = node_new(c, N_ADD, used);
            memcpy(r->kid, kid, (size_t)used * sizeof *kid);
            qsort(r->kid, (size_t)used, sizeof *r->kid, by_node);
        }
    }
    fmpq_clear(sum);
    return r;
}

static struct node *canon_product(struct answer_checker *c, struct node *n, bool trig)
{
    struct node **kid = arena_alloc(&c->arena, MAX_TOKENS * sizeof *kid);
    int m = flatten(c, n, N_MUL, kid, MAX_TOKENS, trig), used = 0, infs = 0;
    struct node *matrix = NULL;
    if (m < 0 || c->nodes > MAX_NODES) {
        limit_hit(c, "limit:size");
        return undefined(c);
    }
    fmpq_t product;
    fmpq_init(product);
    fmpq_one(product);
    bool bad = false;
    for (int i = 0; i < m; i++) {
        struct node *k = unmark(c, kid[i]);
        if (k->kind == N_UNDEF) {
            bad = true;
        } else if (k->kind == N_NUM) {
            if (bits_of(product) + bits_of(k->q) > MAX_BITS) {
                limit_hit(c, "limit:bits");
                bad = true;
            } else {
                fmpq_mul(product, product, k->q);
            }
        } else if (k->kind == N_MATRIX) {
            matrix = matrix ? multiply(c, matrix, k) : k;
            bad = bad || matrix->kind == N_UNDEF;
            if (bad)
                matrix = NULL;
        } else {
            infs += k->kind == N_INF;
            kid[used++] = k;
        }
    }
    struct node *r;
    if (bad || (infs && (fmpq_is_zero(product) || used > 1))) {
        r = undefined(c);
    } else if (infs) {
        r = fmpq_sgn(product) > 0 ? kid[0] : node_2(c, N_MUL, node_num(c, -1), kid[0]);
    } else if (fmpq_is_zero(product) && !matrix) {
        /* 0 * x is 0 even where x is a letter; what is undefined was caught above, 0 * 1/(1-1) by its folded factor */
        bool scalar = true;
        for (int i = 0; i < used; i++)
            scalar = scalar && node_is_scalar(kid[i]);
        r = scalar ? node_num(c, 0) : undefined(c);
    } else {
        if (!fmpq_is_one(product) || !used)
            kid[used++] = node_q(c, product);
        if (used == 1) {
            r = kid[0];
        } else {
            r = node_new(c, N_MUL, used);
            memcpy(r->kid, kid, (size_t)used * sizeof *kid);
            qsort(r->kid, (size_t)used, sizeof *r->kid, by_node);
        }
        if (matrix)
            r = used == 1 && r->kind == N_NUM && fmpq_is_one(r->q) ? matrix : multiply(c, r, matrix);
    }
    fmpq_clear(product);
    return r;
}

/* ---- powers ---- */

static bool exact_root(fmpz_t r, const fmpz_t a, ulong k)
{
    if (fmpz_sgn(a) < 0 && k % 2 == 0)
        return false;
    fmpz_t t;
    fmpz_init(t);
    fmpz_root(r, a, (slong)k);
    fmpz_pow_ui(t, r, k);
    bool ok = fmpz_equal(t, a);
    fmpz_clear(t);
    return ok;
}

/* base^(p/k) as a rational, if it is one and within bounds. */
static struct node *fold_power(struct answer_checker *c, struct node *base, struct node *exp)
{
    fmpz *p = fmpq_numref(exp->q), *k = fmpq_denref(exp->q);
    if (fmpq_is_zero(base->q))
        return fmpz_sgn(p) < 0 ? undefined(c) : node_num(c, fmpz_is_zero(p));
    if (fmpq_is_one(base->q))
        return base;
    if (fmpz_cmp_si(k, 64) > 0)
        return NULL;
    bool minus_one = fmpz_is_one(k) && fmpz_is_one(fmpq_denref(base->q)) && fmpz_equal_si(fmpq_numref(base->q), -1);
    if (minus_one)
        return node_num(c, fmpz_is_even(p) ? 1 : -1);
    if (fmpz_cmpabs(p, (fmpz[1]){ MAX_EXPONENT }) > 0)
        return NULL;
    slong e = fmpz_get_si(p);
    fmpq_t q;
    fmpq_init(q);
    struct node *r = NULL;
    if (fmpz_is_one(k)) {
        fmpq_set(q, base->q);
    } else if (!exact_root(fmpq_numref(q), fmpq_numref(base->q), fmpz_get_ui(k)) ||
               !exact_root(fmpq_denref(q), fmpq_denref(base->q), fmpz_get_ui(k))) {
        goto out;
    }
    if (bits_of(q) * labs(e) <= MAX_BITS) {
        fmpq_pow_si(q, q, e);
        r = node_q(c, q);
    }
out:
    fmpq_clear(q);
    return r;
}

static struct node *canon_power(struct answer_checker *c, struct node *n, bool trig)
{
    struct node *a = unmark(c, canon(c, n->kid[0], trig)), *b = unmark(c, canon(c, n->kid[1], false)), *r;
    if (a->kind == N_UNDEF || b->kind == N_UNDEF || b->kind == N_INF || a->kind == N_INF)
        return a->kind == N_INF && is_int(b) && int_of(b) == 1 ? a : undefined(c);
    if (a->kind == N_MATRIX) {
        if (!small_int(b, 10) || int_of(b) < 1)
            return undefined(c);
        r = a;
        for (slong i = 1; i < int_of(b); i++) {
            r = multiply(c, r, a);
            if (r->kind != N_MATRIX)
                return r;
        }
        return r;
    }
    if (a->kind == N_NUM && b->kind == N_NUM && (r = fold_power(c, a, b)))
        return r;
    if (b->kind == N_NUM && fmpq_is_one(b->q))
        return a;
    if (b->kind == N_NUM && fmpq_is_zero(b->q) && node_is_scalar(a))
        return node_num(c, 1);
    if (a->kind == N_POW && is_int(b) && a->kid[1]->kind == N_NUM && is_int(a->kid[1]))
        return canon(c, node_2(c, N_POW, a->kid[0], canon(c, node_2(c, N_MUL, a->kid[1], b), false)), false);
    /* \sqrt{x}^2 with one inner root and a power that undoes it */
    if (a->kind == N_POW && is_int(b) && a->kid[1]->kind == N_NUM && int_of(b) > 0) {
        struct node *e = canon(c, node_2(c, N_MUL, a->kid[1], b), false);
        return canon(c, node_2(c, N_POW, a->kid[0], e), false);
    }
    return node_2(c, N_POW, a, b);
}

/* ---- functions ---- */

static struct node *determinant(struct answer_checker *c, const struct node *m)
{
    int n = m->rows;
    if (n != m->cols || n > 5)
        return undefined(c);
    if (n == 1)
        return m->kid[0];
    struct node *sum = node_new(c, N_ADD, n);
    for (int j = 0; j < n; j++) {
        struct node *minor = node_new(c, N_MATRIX, (n - 1) * (n - 1));
        minor->rows = minor->cols = n - 1;
        for (int r = 1; r < n; r++)
            for (int k = 0, to = 0; k < n; k++)
                if (k != j)
                    minor->kid[(r - 1) * (n - 1) + to++] = m->kid[r * n + k];
        struct node *t = node_2(c, N_MUL, m->kid[j], determinant(c, minor));
        sum->kid[j] = j % 2 ? node_neg(c, t) : t;
    }
    return canon(c, sum, false);
}

static struct node *fold_integers(struct answer_checker *c, const char *name, struct node *f)
{
    fmpz_t a;
    fmpz_init_set(a, fmpq_numref(f->kid[0]->q));
    struct node *r = node_new(c, N_NUM, 0);
    r->q = pool_q(c);
    for (int i = 1; i < f->n; i++)
        if (name[0] == 'g')
            fmpz_gcd(a, a, fmpq_numref(f->kid[i]->q));
        else
            fmpz_lcm(a, a, fmpq_numref(f->kid[i]->q));
    fmpz_set(fmpq_numref(r->q), a);
    fmpz_clear(a);
    return r;
}

static struct node *canon_function(struct answer_checker *c, struct node *n)
{
    static const char *const trigs[] = { "sin", "cos", "tan", "cot", "sec", "csc" };
    const char *name = n->name;
    bool trig = false, numbers = true, ints = true;
    for (size_t i = 0; i < sizeof trigs / sizeof *trigs; i++)
        trig = trig || strcmp(name, trigs[i]) == 0;
    struct node *f = copy_with(c, n, n->n), *a;
    for (int i = 0; i < n->n; i++) {
        struct node *k = canon(c, n->kid[i], trig);
        f->kid[i] = trig && k->kind == N_DEG ? k : unmark(c, k);
        if (f->kid[i]->kind == N_UNDEF)
            return f->kid[i];
        numbers = numbers && f->kid[i]->kind == N_NUM;
        ints = ints && is_int(f->kid[i]);
    }
    if (!f->n)
        return undefined(c);
    a = f->kid[0];
    if (trig && a->kind == N_DEG) {
        fmpq_t d;
        fmpq_init(d);
        fmpq_set_si(d, 1, 180);
        f->kid[0] = canon(c, node_2(c, N_MUL, node_2(c, N_MUL, node_q(c, d), node_new(c, N_PI, 0)), a->kid[0]), false);
        fmpq_clear(d);
        return f;
    }
    if (strcmp(name, "exp") == 0 && f->n == 1)
        return canon(c, node_2(c, N_POW, node_new(c, N_E, 0), a), false);
    if (strcmp(name, "log") == 0 && f->n == 1) {
        struct node *l = node_2(c, N_FUNC, a, node_num(c, 10));
        l->name = "log";
        return l;
    }
    if (strcmp(name, "det") == 0 || strcmp(name, "abs") == 0)
        if (a->kind == N_MATRIX)
            return determinant(c, a);
    if (strcmp(name, "norm") == 0) {
        struct node *sum;
        if (a->kind == N_TUPLE || a->kind == N_MATRIX) {
            sum = node_new(c, N_ADD, a->n);
            for (int i = 0; i < a->n; i++)
                sum->kid[i] = node_2(c, N_POW, a->kid[i], node_num(c, 2));
            return canon(c, node_2(c, N_POW, sum, node_2(c, N_POW, node_num(c, 2), node_num(c, -1))), false);
        }
        return f;
    }
    if (!numbers)
        return f;
    fmpz *num = fmpq_numref(a->q), *den = fmpq_denref(a->q);
    if (strcmp(name, "abs") == 0) {
        struct node *r = node_q(c, a->q);
        fmpq_abs(r->q, r->q);
        r->decimal = a->decimal;
        r->sig = a->sig;
        r->places = a->places;
        return r;
    }
    if (strcmp(name, "floor") == 0 || strcmp(name, "ceil") == 0) {
        struct node *r = node_num(c, 0);
        if (name[0] == 'f')
            fmpz_fdiv_q(fmpq_numref(r->q), num, den);
        else
            fmpz_cdiv_q(fmpq_numref(r->q), num, den);
        return r;
    }
    if ((strcmp(name, "max") == 0 || strcmp(name, "min") == 0)) {
        struct node *best = a;
        for (int i = 1; i < f->n; i++)
            if ((fmpq_cmp(f->kid[i]->q, best->q) > 0) == (name[1] == 'a'))
                best = f->kid[i];
        return best;
    }
    if (!ints)
        return f;
    if (strcmp(name, "gcd") == 0 || strcmp(name, "lcm") == 0)
        return fold_integers(c, name, f);
    if (strcmp(name, "fact") == 0) {
        if (fmpz_sgn(num) < 0)
            return undefined(c);
        if (!small_int(a, MAX_FACTORIAL)) {
            limit_hit(c, "limit:bits");
            return f;
        }
        struct node *r = node_num(c, 0);
        fmpz_fac_ui(fmpq_numref(r->q), fmpz_get_ui(num));
        return r;
    }
    if (strcmp(name, "binom") == 0 && f->n == 2 && small_int(a, MAX_FACTORIAL) && small_int(f->kid[1], MAX_FACTORIAL) &&
        int_of(a) >= 0) {
        struct node *r = node_num(c, 0);
        if (int_of(f->kid[1]) >= 0)
            fmpz_bin_uiui(fmpq_numref(r->q), fmpz_get_ui(num), fmpz_get_ui(fmpq_numref(f->kid[1]->q)));
        return r;
    }
    return f;
}

static struct node *canon_big_sum(struct answer_checker *c, struct node *n)
{
    struct node *from = unmark(c, canon(c, n->kid[1], false)), *to = unmark(c, canon(c, n->kid[2], false));
    const char *var = n->kid[0]->name;
    bool product = n->name[0] == 'p';
    if (small_int(from, 1L << 30) && small_int(to, 1L << 30)) {
        slong count = int_of(to) - int_of(from) + 1;
        if (count <= 0)
            return node_num(c, product);
        if (count <= MAX_SUM && count * tree_size(n->kid[3]) <= MAX_NODES / 4) {
            struct node *all = node_new(c, product ? N_MUL : N_ADD, (int)count);
            for (slong i = 0; i < count; i++) {
                all->kid[i] = canon(c, node_map(c, n->kid[3], var, node_num(c, int_of(from) + i)), false);
                if (c->nodes > MAX_NODES)
                    return undefined(c);
            }
            return canon(c, all, false);
        }
    }
    struct node *r = copy_with(c, n, 4);
    struct node *bound = node_name(c, N_SYM, "#", 0);
    char *fresh = arena_alloc(&c->arena, 16); /* deeper sums get other names */
    int depth = 0;
    for (const struct node *k = n->kid[3]; k->kind == N_SUM; k = k->kid[3])
        depth++;
    fresh[0] = '#';
    fresh[1] = (char)('0' + depth % 10);
    fresh[2] = 0;
    bound->name = fresh;
    r->kid[0] = bound;
    r->kid[1] = from;
    r->kid[2] = to;
    r->kid[3] = canon(c, node_map(c, n->kid[3], var, bound), false);
    return r;
}

/* A letter with a subscript becomes one name. */
static struct node *canon_symbol(struct answer_checker *c, struct node *n)
{
    if (!n->n)
        return n;
    struct buf b = BUF_INIT;
    struct node *sub = n->kid[0]->kind == N_REALS ? n->kid[0] : canon(c, n->kid[0], false);
    buf_puts(&b, n->name);
    buf_puts(&b, "_{");
    node_print(sub, &b);
    buf_putc(&b, '}');
    struct node *s = node_name(c, N_SYM, arena_strndup(&c->arena, b.s, b.len), 0);
    buf_release(&b);
    return s;
}

static struct node *canon(struct answer_checker *c, struct node *n, bool trig)
{
    if (c->nodes > MAX_NODES)
        return undefined(c);
    switch (n->kind) {
    case N_ADD:
        return canon_sum(c, n, trig);
    case N_MUL:
        return canon_product(c, n, trig);
    case N_POW:
        return canon_power(c, n, trig);
    case N_FUNC:
        return canon_function(c, n);
    case N_SUM:
        return canon_big_sum(c, n);
    case N_SYM:
        return canon_symbol(c, n);
    case N_PM:
        return undefined(c);
    case N_PCT:
    case N_DEG:
    case N_QTY:
    case N_TUPLE:
    case N_SET:
    case N_LIST:
    case N_UNION:
    case N_INTER:
    case N_DIFF:
    case N_MATRIX:
    case N_RATIO:
    case N_REL:
    case N_NAMED: {
        struct node *m = copy_with(c, n, n->n);
        for (int i = 0; i < n->n; i++)
            m->kid[i] = item(c, n->kid[i]);
        return m;
    }
    default:
        return n;
    }
}

/* ---- plus-minus ---- */

static int count_pm(const struct node *n)
{
    int k = n->kind == N_PM;
    for (int i = 0; i < n->n; i++)
        k += count_pm(n->kid[i]);
    return k;
}

static struct node *choose_sign(struct answer_checker *c, struct node *n, bool upper)
{
    if (!count_pm(n))
        return n;
    if (n->kind == N_PM) {
        struct node *a = choose_sign(c, n->kid[0], upper), *b = choose_sign(c, n->kid[1], upper);
        bool plus = upper == (n->op == 0);
        return node_2(c, N_ADD, a, plus ? b : node_neg(c, b));
    }
    struct node *m = copy_with(c, n, n->n);
    for (int i = 0; i < n->n; i++)
        m->kid[i] = choose_sign(c, n->kid[i], upper);
    return m;
}

/* ---- lists and labels ---- */

static bool is_collection(const struct node *n)
{
    return n->kind == N_LIST || n->kind == N_SET;
}

/* Lists inside a list (from +-, from groups of one) are part of it; tuples and sets are elements. */
static struct node *spread(struct answer_checker *c, struct node *n)
{
    int total = 0;
    bool nested = false;
    for (int i = 0; i < n->n; i++) {
        bool in = n->kid[i]->kind == N_LIST && n->kid[i]->op == 4;
        nested = nested || in;
        total += in ? n->kid[i]->n : 1;
    }
    if (!nested)
        return n;
    struct node *m = copy_with(c, n, total);
    for (int i = 0, k = 0; i < n->n; i++) {
        if (n->kid[i]->kind == N_LIST && n->kid[i]->op == 4)
            for (int j = 0; j < n->kid[i]->n; j++)
                m->kid[k++] = n->kid[i]->kid[j];
        else
            m->kid[k++] = n->kid[i];
    }
    return m;
}

static struct node *record(struct answer_checker *c, struct node **kid, int n)
{
    struct node *r = node_new(c, N_NAMED, n);
    r->names = arena_alloc(&c->arena, (size_t)n * sizeof *r->names);
    for (int i = 0; i < n; i++) {
        r->names[i] = kid[i]->names[0];
        r->kid[i] = kid[i]->kid[0];
    }
    return r;
}

/* x=1, x=2 is two values; a=1, b=2 is a record; p=5, q=2, p=7, q=2 is two records; n=1, 2, 3 labels them all. */
static struct node *resolve_list(struct answer_checker *c, struct node *n)
{
    int named = 0;
    for (int i = 0; i < n->n; i++)
        named += n->kid[i]->kind == N_NAMED && n->kid[i]->n == 1;
    if (named == 0)
        return n;
    if (named == 1 && n->kid[0]->kind == N_NAMED) {
        struct node *m = copy_with(c, n, n->n);
        for (int i = 1; i < n->n; i++) {
            if (n->kid[i]->kind == N_REL || n->kid[i]->kind == N_NAMED)
                return n;
            m->kid[i] = n->kid[i];
        }
        m->kid[0] = n->kid[0]->kid[0];
        return m;
    }
    if (named != n->n)
        return n;
    int period = 1;
    while (period < n->n) {
        bool known = false;
        for (int i = 0; i < period; i++)
            known = known || strcmp(n->kid[i]->names[0], n->kid[period]->names[0]) == 0;
        if (known)
            break;
        period++;
    }
    if (n->n % period)
        return n;
    for (int i = 0; i < n->n; i++)
        if (strcmp(n->kid[i]->names[0], n->kid[i % period]->names[0]) != 0)
            return n;
    if (period == n->n)
        return record(c, n->kid, n->n);
    struct node *m = copy_with(c, n, n->n / period);
    for (int i = 0; i < m->n; i++)
        m->kid[i] = period == 1 ? n->kid[i]->kid[0] : record(c, n->kid + i * period, period);
    if (period == 1) /* values of one name: x = 1, x = 2 */
        m = spread(c, m);
    return m;
}

static bool constant_chain(const struct node *n)
{
    for (int i = 0; i < n->n; i++)
        if ((i && n->ops[i - 1] != REL_EQ && n->ops[i - 1] != REL_APPROX) || node_has_letters(n->kid[i]) ||
            !node_is_scalar(n->kid[i]))
            return false;
    return true;
}

static struct node *item(struct answer_checker *c, struct node *n)
{
    if (c->nodes > MAX_NODES) {
        limit_hit(c, "limit:size");
        return undefined(c);
    }
    if (is_collection(n)) {
        struct node *m = spread(c, canon(c, n, false));
        return resolve_list(c, m);
    }
    if (n->kind == N_TUPLE || n->kind == N_UNION || n->kind == N_INTER || n->kind == N_DIFF || n->kind == N_MATRIX ||
        n->kind == N_RATIO || n->kind == N_NAMED) {
        struct node *m = canon(c, n, false);
        if (n->kind == N_NAMED && n->lhs)
            m->lhs = canon(c, n->lhs, false);
        if (n->kind == N_TUPLE)
            for (int i = 0; i < m->n; i++)
                if (m->kid[i]->kind == N_LIST && m->kid[i]->op == 4) { /* (1 \pm 2, 3) is two points */
                    struct node *l = node_new(c, N_LIST, 2);
                    l->op = 4;
                    for (int s = 0; s < 2; s++)
                        l->kid[s] = canon(c, choose_sign(c, n, s == 0), false);
                    return l;
                }
        return m;
    }
    if (n->kind == N_REL && constant_chain(n)) /* 10/4 = 2.5 says 2.5 */
        return item(c, n->kid[n->n - 1]);
    if (n->kind == N_REL && count_pm(n) == 0)
        return canon(c, n, false);
    if (count_pm(n)) {
        struct node *l = node_new(c, N_LIST, 2);
        l->op = 4;
        for (int s = 0; s < 2; s++)
            l->kid[s] = item(c, choose_sign(c, n, s == 0));
        return l;
    }
    return canon(c, n, false);
}

struct node *answer_canon(struct answer_checker *c, struct node *n)
{
    return item(c, n);
}

/* ---- printing ---- */

static void print_kids(const struct node *n, struct buf *out, const char *between)
{
    for (int i = 0; i < n->n; i++) {
        if (i)
            buf_puts(out, between);
        node_print(n->kid[i], out);
    }
}

static void print_wrapped(const struct node *n, struct buf *out, bool wrap)
{
    if (wrap)
        buf_putc(out, '(');
    node_print(n, out);
    if (wrap)
        buf_putc(out, ')');
}

static void print_q(const struct node *n, struct buf *out)
{
    if (bits_of(n->q) > 4096) {
        buf_printf(out, "[number of %ld bits]", (long)bits_of(n->q));
        return;
    }
    char *s = fmpq_get_str(NULL, 10, n->q);
    buf_puts(out, s);
    flint_free(s);
}

void node_print(const struct node *n, struct buf *out)
{
    static const char *const rels[] = { " = ", " < ", " > ", " <= ", " >= ", " != ", " ~ ", " in ", " ? " };
    if (out->len > ANSWER_MAX_ANSWER * 2) /* forms are for people */
        return;
    switch (n->kind) {
    case N_NUM:
        print_q(n, out);
        break;
    case N_PI:
        buf_puts(out, "pi");
        break;
    case N_E:
        buf_putc(out, 'e');
        break;
    case N_I:
        buf_putc(out, 'i');
        break;
    case N_INF:
        buf_puts(out, "oo");
        break;
    case N_EMPTY:
        buf_puts(out, "{}");
        break;
    case N_REALS:
        buf_puts(out, "RR");
        break;
    case N_UNDEF:
        buf_puts(out, "undefined");
        break;
    case N_SYM:
    case N_TEXT:
        buf_puts(out, n->name);
        if (n->n) {
            buf_puts(out, "_{");
            node_print(n->kid[0], out);
            buf_putc(out, '}');
        }
        break;
    case N_ADD:
        print_kids(n, out, " + ");
        break;
    case N_MUL:
        for (int i = 0; i < n->n; i++) {
            if (i)
                buf_putc(out, '*');
            print_wrapped(n->kid[i], out, n->kid[i]->kind == N_ADD);
        }
        break;
    case N_POW: {
        enum kind k = n->kid[0]->kind;
        print_wrapped(n->kid[0], out,
                      k == N_ADD || k == N_MUL || k == N_POW ||
                          (k == N_NUM && (fmpq_sgn(n->kid[0]->q) < 0 || !is_int(n->kid[0]))));
        buf_putc(out, '^');
        k = n->kid[1]->kind;
        print_wrapped(n->kid[1], out, !(k == N_SYM || k == N_PI || (k == N_NUM && is_int(n->kid[1]))));
        break;
    }
    case N_FUNC:
    case N_SUM:
        buf_puts(out, n->name);
        buf_putc(out, '(');
        print_kids(n, out, ", ");
        buf_putc(out, ')');
        break;
    case N_PM:
        print_kids(n, out, " +- ");
        break;
    case N_PCT:
    case N_DEG:
        print_wrapped(n->kid[0], out, n->kid[0]->kind == N_ADD);
        buf_puts(out, n->kind == N_PCT ? "%" : " deg");
        break;
    case N_QTY:
        node_print(n->kid[0], out);
        buf_puts(out, " [");
        buf_puts(out, n->name);
        buf_putc(out, ']');
        break;
    case N_TUPLE:
        buf_putc(out, n->open);
        print_kids(n, out, ", ");
        buf_putc(out, n->close);
        break;
    case N_SET:
        buf_putc(out, '{');
        print_kids(n, out, ", ");
        buf_putc(out, '}');
        break;
    case N_LIST:
        print_kids(n, out, n->op == 1 ? " or " : ", ");
        break;
    case N_UNION:
    case N_INTER:
    case N_DIFF:
        buf_putc(out, '(');
        print_kids(n, out, n->kind == N_UNION ? " u " : n->kind == N_INTER ? " n " : " \\ ");
        buf_putc(out, ')');
        break;
    case N_MATRIX:
        for (int i = 0; i < n->n; i++) {
            buf_puts(out, i == 0 ? "[[" : i % n->cols ? ", " : "], [");
            node_print(n->kid[i], out);
        }
        buf_puts(out, "]]");
        break;
    case N_REL:
        for (int i = 0; i < n->n; i++) {
            if (i)
                buf_puts(out, rels[n->ops[i - 1]]);
            node_print(n->kid[i], out);
        }
        break;
    case N_NAMED:
        for (int i = 0; i < n->n; i++) {
            buf_puts(out, i ? ", " : "");
            buf_puts(out, n->names[i]);
            buf_puts(out, " = ");
            node_print(n->kid[i], out);
        }
        break;
    case N_BASE:
        buf_printf(out, "%s_%d", n->name, n->sig);
        break;
    case N_RATIO:
        print_kids(n, out, ":");
        break;
    case N_TIME:
        buf_printf(out, "%d:%02d%s", n->sig / 60, n->sig % 60, n->op == 1 ? " am" : n->op == 2 ? " pm" : "");
        break;
    }
}
