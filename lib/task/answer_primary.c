/* answer_primary.c - what operators join in an answer: groups and brackets, roots and functions, big sums, systems and
 * matrices, decorated and plain letters, bars, derivatives. */
#include <stdlib.h>
#include <string.h>

#include "task/answer_parser.h"

/* An argument of \frac, \sqrt, ^: a group, or one token; a digit run gives one digit. */
struct node *parse_argument(struct parser *p)
{
    struct tok *t = &p->t[p->i];
    if (t->kind == T_NUM && is_digits(t->text) && !t->exp10 && !t->rep.n) {
        struct tok one = *t;
        one.text.n = 1;
        t->text.s++;
        t->text.n--;
        if (!t->text.n)
            p->i++;
        return number_of(p->c, &one);
    }
    if (t->kind == T_TEXT && t->text.n == 1) {
        p->i++;
        return node_name(p->c, N_SYM, name_of(p, t->text), 0);
    }
    return parse_primary(p);
}

static struct node *group(struct parser *p, enum tok_kind close)
{
    int abs = p->abs;
    p->abs = 0;
    struct node *a = parse_items(p, false);
    p->abs = abs;
    return a && take(p, close) ? a : NULL;
}

/* {..}: TeX's group, or a set written without backslashes when it holds a list */
static struct node *parse_braces(struct parser *p)
{
    int abs = p->abs;
    p->abs = 0;
    if (take(p, T_RBRACE)) {
        p->abs = abs;
        return peek(p) == T_END || !starts_factor(p) ? NULL : parse_primary(p);
    }
    struct node *a = parse_items(p, false);
    if (a && (peek(p) == T_CHOOSE || peek(p) == T_OVER)) {
        bool choose = p->t[p->i++].kind == T_CHOOSE;
        struct node *b = parse_items(p, false);
        if (b && choose) {
            struct node *n = node_name(p->c, N_FUNC, "binom", 2);
            n->kid[0] = a;
            n->kid[1] = b;
            a = n;
        } else {
            a = b ? quotient(p->c, a, b) : NULL;
        }
    }
    p->abs = abs;
    if (!a || !take(p, T_RBRACE))
        return NULL;
    if (a->kind == N_LIST) {
        struct node *s = node_new(p->c, N_SET, a->n);
        memcpy(s->kid, a->kid, (size_t)a->n * sizeof *a->kid);
        return s;
    }
    return a;
}

static struct node *parse_set_braces(struct parser *p)
{
    if (take(p, T_RSET))
        return node_new(p->c, N_EMPTY, 0);
    if (peek(p) == T_BEGIN) { /* \left\{ in front of a system, \right. behind it */
        struct node *system = parse_primary(p);
        if (system && system->kind == N_LIST && peek(p) != T_RSET)
            return system;
        struct node *s = node_new(p->c, N_SET, 1);
        s->kid[0] = system;
        return system && take(p, T_RSET) ? s : NULL;
    }
    /* {x | x > 3}, {x in R : x > 3} */
    int bar = p->i + 1;
    if (peek(p) == T_SYM && p->t[bar].kind == T_REL && p->t[bar].op == REL_IN && p->t[bar + 1].kind == T_REALS)
        bar += 2;
    if (peek(p) == T_SYM && (p->t[bar].kind == T_BAR || p->t[bar].kind == T_COLON)) {
        p->i = bar + 1;
        struct node *cond = group(p, T_RSET);
        return cond && (cond->kind == N_REL || cond->kind == N_LIST) ? cond : NULL;
    }
    struct node *a = group(p, T_RSET);
    if (!a)
        return NULL;
    int n = a->kind == N_LIST ? a->n : 1;
    struct node *s = node_new(p->c, N_SET, n);
    memcpy(s->kid, a->kind == N_LIST ? a->kid : &a, (size_t)n * sizeof *a->kid);
    return s;
}

/* ( or [ up to ) or ]: a tuple or interval, or brackets around one thing */
static struct node *parse_bracket(struct parser *p, char open)
{
    int abs = p->abs;
    p->abs = 0;
    struct node *a = parse_items(p, false);
    p->abs = abs;
    enum tok_kind k = peek(p);
    if (!a || (k != T_RPAREN && k != T_RBRACK && k != T_RANGLE && !(open == ']' && k == T_LBRACK)))
        return NULL;
    p->i++;
    char close = k == T_RBRACK ? ']' : ')';
    if (open == ']') /* ]a,b[ */
        open = '(', close = k == T_RBRACK ? ']' : ')';
    if (a->kind != N_LIST || a->op) {
        if (open == '(' && close == ')' && a->kind == N_LIST)
            return a;
        if (a->kind == N_LIST || (open == '[') != (close == ']'))
            return NULL;
        a->group = true;
        return a;
    }
    struct node *t = node_new(p->c, N_TUPLE, a->n);
    memcpy(t->kid, a->kid, (size_t)a->n * sizeof *a->kid);
    t->open = open;
    t->close = close;
    return t;
}

static struct node *parse_root(struct parser *p)
{
    struct node *degree = NULL;
    if (take(p, T_LBRACK)) {
        degree = parse_sum(p);
        if (!degree || !take(p, T_RBRACK))
            return NULL;
    }
    struct node *a;
    const struct tok *t = &p->t[p->i];
    if (t->kind == T_NUM && (t->text.n > 1 || t->rep.n)) { /* \sqrt12: TeX takes one digit, people mean twelve */
        p->c->ambiguous |= READ_ROOT_RUN;
        a = (p->c->reading & READ_ROOT_RUN) || !is_digits(t->text) ? number_of(p->c, &p->t[p->i++]) : parse_argument(p);
    } else {
        a = parse_argument(p);
    }
    if (!a)
        return NULL;
    struct node *exp = quotient(p->c, node_num(p->c, 1), degree ? degree : node_num(p->c, 2));
    return node_2(p->c, N_POW, a, exp);
}

static struct node *parse_function(struct parser *p)
{
    const char *name = name_of(p, p->t[p->i++].text);
    struct node *power = NULL, *base = NULL, *a = NULL;
    while (peek(p) == T_HAT || peek(p) == T_SUB) {
        bool hat = p->t[p->i++].kind == T_HAT;
        struct node *x = hat ? parse_exponent(p) : parse_subscript(p);
        if (!x || (hat ? power : base))
            return NULL;
        *(hat ? &power : &base) = x;
    }
    if (!enter(p))
        return NULL;
    bool minus = false, several = false;
    if (peek(p) == T_LPAREN || peek(p) == T_LBRACE || peek(p) == T_LBRACK) {
        a = parse_primary(p);
        several = a && (a->kind == N_TUPLE || a->kind == N_SET || a->kind == N_LIST);
    } else { /* up to the next sign or function */
        if (peek(p) == T_MINUS) {
            minus = true;
            p->i++;
        }
        bool any = false;
        while (starts_factor(p) && peek(p) != T_FUNC) {
            struct node *b = parse_power(p);
            if (!b)
                break;
            a = a ? node_2(p->c, N_MUL, a, b) : b;
            any = true;
            if (peek(p) == T_DIV) {
                p->i++;
                b = parse_power(p);
                a = b ? quotient(p->c, a, b) : NULL;
                if (!a)
                    break;
            }
        }
        if (!any && peek(p) == T_FUNC)
            a = parse_function(p);
    }
    p->depth--;
    if (!a)
        return NULL;
    if (minus)
        a = node_neg(p->c, a);
    bool trig = strstr("sin cos tan cot sec csc sinh cosh tanh", name) != NULL;
    if (power && power->kind == N_NUM && trig && fmpz_equal_si(fmpq_numref(power->q), -1) &&
        fmpz_is_one(fmpq_denref(power->q))) { /* \sin^{-1} x */
        char *arc = arena_alloc(&p->c->arena, strlen(name) + 4);
        memcpy(arc, "arc", 3);
        memcpy(arc + 3, name, strlen(name) + 1);
        name = arc;
        power = NULL;
    }
    struct node *f;
    if (base) {
        if (strcmp(name, "log") != 0)
            return NULL;
        f = node_name(p->c, N_FUNC, "log", 2);
        f->kid[0] = a;
        f->kid[1] = base;
    } else if (several) {
        f = node_name(p->c, N_FUNC, name, a->n);
        memcpy(f->kid, a->kid, (size_t)a->n * sizeof *a->kid);
    } else {
        f = func_1(p->c, name, a);
    }
    return power ? node_2(p->c, N_POW, f, power) : f;
}

/* \sum_{k=a}^{b} body */
static struct node *parse_big_sum(struct parser *p)
{
    struct node *n = node_name(p->c, N_SUM, name_of(p, p->t[p->i++].text), 4);
    struct node *sub = NULL, *sup = NULL;
    while (peek(p) == T_SUB || peek(p) == T_HAT) {
        bool hat = p->t[p->i++].kind == T_HAT;
        if (hat)
            sup = parse_exponent(p);
        else if (take(p, T_LBRACE))
            sub = group(p, T_RBRACE);
        if (!(hat ? sup : sub))
            return NULL;
    }
    if (!sub || !sup)
        return NULL;
    if (sub->kind == N_NAMED && sub->n == 1 && strlen(sub->names[0]) > 0) {
        n->kid[0] = node_name(p->c, N_SYM, sub->names[0], 0);
        n->kid[1] = sub->kid[0];
    } else if (sub->kind == N_REL && sub->n == 2 && sub->ops[0] == REL_EQ) {
        n->kid[0] = sub->kid[0];
        n->kid[1] = sub->kid[1];
        if (n->kid[0]->kind == N_I)
            n->kid[0] = node_name(p->c, N_SYM, "i", 0);
    } else {
        return NULL;
    }
    n->kid[2] = sup;
    n->kid[3] = parse_product(p);
    return n->kid[3] && n->kid[0]->kind == N_SYM ? n : NULL;
}

/* cases, aligned and one-column arrays of relations: a list of them that holds together */
static struct node *parse_system(struct parser *p, bool align)
{
    struct node *row[MAX_LIST];
    int n = 0, abs = p->abs;
    p->abs = 0;
    while (peek(p) != T_FINISH) {
        while (align && take(p, T_AMP))
            ;
        struct node *x = parse_relation(p);
        if (!x || n >= MAX_LIST)
            return NULL;
        row[n++] = x;
        while (take(p, T_COMMA) || take(p, T_AND))
            ;
        if (peek(p) != T_FINISH && !take(p, T_ROW))
            return NULL;
        while (take(p, T_ROW))
            ;
    }
    p->abs = abs;
    p->i++;
    return n ? list_of(p->c, row, n, 2) : NULL;
}

static bool has_relation(const struct parser *p)
{
    for (int i = p->i; p->t[i].kind != T_END && p->t[i].kind != T_FINISH; i++)
        if (p->t[i].kind == T_REL)
            return true;
    return false;
}

static struct node *parse_matrix(struct parser *p)
{
    struct span env = p->t[p->i++].text;
    struct node *cells[MAX_MATRIX * MAX_MATRIX];
    int rows = 0, cols = 0, col = 0, n = 0, abs = p->abs;
    if (env.n && env.s[env.n - 1] == '*')
        env.n--;
    bool align = span_is(env, "aligned") || span_is(env, "align") || span_is(env, "split") || span_is(env, "gathered");
    if (align || span_is(env, "cases") || (span_is(env, "array") && has_relation(p)))
        return parse_system(p, align);
    bool det = span_is(env, "vmatrix") || span_is(env, "Vmatrix");
    if (!det && !span_is(env, "pmatrix") && !span_is(env, "bmatrix") && !span_is(env, "Bmatrix") &&
        !span_is(env, "matrix") && !span_is(env, "smallmatrix") && !span_is(env, "array"))
        return NULL;
    p->abs = 0;
    while (!(peek(p) == T_FINISH && col == 0)) {
        struct node *x = parse_relation(p);
        if (!x || x->kind == N_REL)
            return NULL;
        if (n >= MAX_MATRIX * MAX_MATRIX) {
            limit_hit(p->c, "limit:matrix");
            return NULL;
        }
        cells[n++] = x;
        col++;
        if (take(p, T_AMP))
            continue;
        if ((peek(p) != T_ROW && peek(p) != T_FINISH) || (rows && col != cols))
            return NULL;
        cols = col;
        col = 0;
        rows++;
        while (take(p, T_ROW))
            ;
    }
    p->abs = abs;
    if (!take(p, T_FINISH) || !rows)
        return NULL;
    if (rows > MAX_MATRIX || cols > MAX_MATRIX) {
        limit_hit(p->c, "limit:matrix");
        return NULL;
    }
    struct node *m = node_new(p->c, N_MATRIX, n);
    memcpy(m->kid, cells, (size_t)n * sizeof *cells);
    m->rows = rows;
    m->cols = cols;
    return det ? func_1(p->c, "det", m) : m;
}

/* \overline{AB}, \vec{v}: a name of its own */
static struct node *parse_decorated(struct parser *p)
{
    int a = p->i++;
    if (peek(p) == T_LBRACE) {
        int end = closing(p, p->i, p->i + MAX_TOKENS);
        if (end < 0)
            return NULL;
        p->i = end + 1;
    } else if (peek(p) == T_SYM) {
        p->i++;
    } else {
        return NULL;
    }
    return node_name(p->c, N_SYM, name_of_range(p, a, p->i), 0);
}

static struct node *parse_symbol(struct parser *p)
{
    struct span v = p->t[p->i++].text;
    if (span_is(v, "e") || span_is(v, "i"))
        return node_new(p->c, v.s[0] == 'e' ? N_E : N_I, 0);
    return node_name(p->c, N_SYM, name_of(p, v), 0);
}

static struct node *parse_bars(struct parser *p, enum tok_kind close)
{
    p->abs++;
    struct node *a = parse_sum(p);
    p->abs--;
    if (!a || !take(p, close))
        return NULL;
    return func_1(p->c, close == T_BAR ? "abs" : "norm", a);
}

/* \frac{dy}{dx}: a name, not a quotient of products */
static struct node *parse_derivative(struct parser *p)
{
    const struct tok *t = &p->t[p->i + 1];
    int n = 0;
    for (int part = 0; part < 2; part++) {
        if (t[n].kind != T_LBRACE || t[n + 1].kind != T_SYM || !span_is(t[n + 1].text, "d"))
            return NULL;
        n += 2;
        if (t[n].kind == T_SYM)
            n++;
        else if (part)
            return NULL;
        if (t[n++].kind != T_RBRACE)
            return NULL;
    }
    p->i += 1 + n;
    return node_name(p->c, N_SYM, name_of_range(p, p->i - 1 - n, p->i), 0);
}

static struct node *primary(struct parser *p)
{
    struct tok *t = &p->t[p->i];
    struct node *a, *b;
    switch (t->kind) {
    case T_NUM:
        p->i++;
        return number_of(p->c, t);
    case T_SYM:
        return parse_symbol(p);
    case T_FUNC:
        return parse_function(p);
    case T_PI:
        p->i++;
        return node_new(p->c, N_PI, 0);
    case T_INF:
        p->i++;
        return node_new(p->c, N_INF, 0);
    case T_EMPTY:
        p->i++;
        return node_new(p->c, N_EMPTY, 0);
    case T_REALS:
        p->i++;
        return node_new(p->c, N_REALS, 0);
    case T_NAMED_SET:
        p->i++;
        a = node_name(p->c, N_SYM, name_of(p, t->text), 1); /* Z the set is not Z the letter */
        a->kid[0] = node_new(p->c, N_REALS, 0);
        return a;
    case T_FRAC:
    case T_BINOM:
        if (t->kind == T_FRAC && (a = parse_derivative(p)))
            return a;
        p->i++;
        a = parse_argument(p);
        b = a ? parse_argument(p) : NULL;
        if (!b)
            return NULL;
        if (t->kind == T_FRAC)
            return quotient(p->c, a, b);
        a = node_2(p->c, N_FUNC, a, b);
        a->name = "binom";
        return a;
    case T_SQRT:
        p->i++;
        return parse_root(p);
    case T_SUM:
        return parse_big_sum(p);
    case T_DECOR:
        return parse_decorated(p);
    case T_ANGLE:
        p->i++;
        while (peek(p) == T_SYM)
            p->i++;
        return node_name(p->c, N_SYM, name_of_range(p, (int)(t - p->t), p->i), 0);
    case T_BEGIN:
        return parse_matrix(p);
    case T_LBRACE:
        p->i++;
        return parse_braces(p);
    case T_LSET:
        p->i++;
        return parse_set_braces(p);
    case T_LPAREN:
    case T_LANGLE:
        p->i++;
        return parse_bracket(p, '(');
    case T_LBRACK:
        p->i++;
        return parse_bracket(p, '[');
    case T_RBRACK:
        p->i++;
        return parse_bracket(p, ']');
    case T_LFLOOR:
    case T_LCEIL:
        p->i++;
        a = group(p, t->kind == T_LFLOOR ? T_RFLOOR : T_RCEIL);
        return a ? func_1(p->c, t->kind == T_LFLOOR ? "floor" : "ceil", a) : NULL;
    case T_BAR:
    case T_NORM:
        p->i++;
        return parse_bars(p, t->kind);
    case T_TEXT: /* \text{A} as a letter */
        if (t->text.n == 1) {
            p->i++;
            return node_name(p->c, N_SYM, name_of(p, t->text), 0);
        }
        return NULL;
    default:
        return NULL;
    }
}

struct node *parse_primary(struct parser *p)
{
    if (!enter(p))
        return NULL;
    struct node *a = primary(p);
    p->depth--;
    return a;
}
