/* template_parse.c - a chat template's text to its tree: Jinja2's grammar, and where tags are (with trim_blocks and
 * lstrip_blocks). Precedence from low to high: if-else, or, and, not, comparisons, + -, ~, * / // %, unary - +, **,
 * then attributes, subscripts, calls, filters and tests. */
#include <stdlib.h>
#include <string.h>

#include "text/template.h"
#include "text/template_parser.h"

static struct node *node(struct parser *p, enum node_kind kind)
{
    struct node *x = arena_zalloc(&p->t->arena, sizeof *x);
    x->kind = kind;
    x->line = p->line;
    return x;
}

/* A growing list of nodes; kept in the arena when it is done. */
struct nodes {
    struct node **v;
    size_t n, cap;
};

static void nodes_push(struct nodes *l, struct node *x)
{
    l->v = grow(l->v, &l->cap, l->n + 1, sizeof(struct node *));
    l->v[l->n++] = x;
}

static void nodes_take(struct parser *p, struct nodes *l, struct node ***v, size_t *n)
{
    *v = arena_alloc(&p->t->arena, (l->n + 1) * sizeof **v);
    if (l->n)
        memcpy(*v, l->v, l->n * sizeof **v);
    *n = l->n;
    free(l->v);
    *l = (struct nodes){ NULL, 0, 0 };
}

/* ---- expressions ---- */

static int expression(struct parser *p, struct node **out);
static int unary(struct parser *p, struct node **out, bool with_filter);

static int enter(struct parser *p)
{
    return ++p->depth > TEMPLATE_MAX_DEPTH ? fail(p, "nested deeper than %d", TEMPLATE_MAX_DEPTH) : 0;
}

/* Arguments behind "(", up to and with ")". */
static int arguments(struct parser *p, struct node *call)
{
    struct nodes l = { NULL, 0, 0 };
    int rc = 0;
    while (rc == 0 && !is_op(p, ")")) {
        struct node *x = NULL;
        if (is_op(p, "*") || is_op(p, "**"))
            rc = fail(p, "* and ** in a call are not supported");
        else
            rc = expression(p, &x);
        if (rc == 0 && is_op(p, "=")) {
            if (x->kind != N_NAME) {
                rc = fail(p, "expected a name before \"=\" in a call");
                break;
            }
            struct node *k = node(p, N_KEYWORD);
            k->text = x->text;
            if ((rc = lex_next(p)) == 0)
                rc = expression(p, &k->a);
            x = k;
        }
        if (rc == 0)
            nodes_push(&l, x);
        if (rc == 0 && !is_op(p, ")"))
            rc = lex_expect_op(p, ",");
    }
    if (rc == 0)
        rc = lex_next(p);
    nodes_take(p, &l, &call->kids, &call->n);
    return rc;
}

/* Members up to the closing bracket; pairs: key: value. */
static int members(struct parser *p, struct node *x, const char *close, bool pairs)
{
    struct nodes l = { NULL, 0, 0 };
    int rc = 0;
    while (rc == 0 && !is_op(p, close)) {
        struct node *k;
        if ((rc = expression(p, &k)) < 0)
            break;
        nodes_push(&l, k);
        if (pairs) {
            if ((rc = lex_expect_op(p, ":")) < 0 || (rc = expression(p, &k)) < 0)
                break;
            nodes_push(&l, k);
        }
        if (!is_op(p, close))
            rc = lex_expect_op(p, ",");
    }
    if (rc == 0)
        rc = lex_next(p);
    nodes_take(p, &l, &x->kids, &x->n);
    return rc;
}

static int parenthesis(struct parser *p, struct node **out)
{
    if (is_op(p, ")")) {
        *out = node(p, N_TUPLE);
        return lex_next(p);
    }
    struct node *first;
    if (expression(p, &first) < 0)
        return -1;
    if (is_op(p, ")")) {
        *out = first;
        return lex_next(p);
    }
    if (lex_expect_op(p, ",") < 0)
        return -1;
    *out = node(p, N_TUPLE);
    if (members(p, *out, ")", false) < 0)
        return -1;
    struct node **kids = arena_alloc(&p->t->arena, ((*out)->n + 1) * sizeof *kids);
    kids[0] = first;
    memcpy(kids + 1, (*out)->kids, (*out)->n * sizeof *kids);
    (*out)->kids = kids;
    (*out)->n++;
    return 0;
}

static int primary(struct parser *p, struct node **out)
{
    struct node *x;
    if (p->tok.kind == T_NAME) {
        bool yes = is_word(p, "true") || is_word(p, "True");
        if (yes || is_word(p, "false") || is_word(p, "False")) {
            x = node(p, N_CONST_BOOL);
            x->i = yes;
        } else {
            x = node(p, is_word(p, "none") || is_word(p, "None") ? N_CONST_NONE : N_NAME);
        }
        x->text = p->tok.s;
        *out = x;
        return lex_next(p);
    }
    if (p->tok.kind == T_STR) {
        struct buf all = BUF_INIT; /* neighbours are one text */
        x = node(p, N_CONST_STR);
        int rc = 0;
        while (rc == 0 && p->tok.kind == T_STR) {
            buf_add(&all, p->tok.s.s, p->tok.s.n);
            rc = lex_next(p);
        }
        x->text = (struct str){ arena_strndup(&p->t->arena, all.s, all.len), (uint32_t)all.len };
        buf_release(&all);
        *out = x;
        return rc;
    }
    if (p->tok.kind == T_INT || p->tok.kind == T_FLOAT) {
        *out = x = node(p, p->tok.kind == T_INT ? N_CONST_INT : N_CONST_FLOAT);
        x->i = p->tok.i;
        x->f = p->tok.f;
        return lex_next(p);
    }
    if (is_op(p, "("))
        return lex_next(p) < 0 ? -1 : parenthesis(p, out);
    if (is_op(p, "[")) {
        *out = x = node(p, N_LIST);
        return lex_next(p) < 0 ? -1 : members(p, x, "]", false);
    }
    if (is_op(p, "{")) {
        *out = x = node(p, N_DICT);
        return lex_next(p) < 0 ? -1 : members(p, x, "}", true);
    }
    return lex_unexpected(p, "an expression");
}

/* Behind "[": an index or a slice, and "]". */
static int subscript(struct parser *p, struct node *of, struct node **out)
{
    struct node *x = node(p, N_INDEX), **part[] = { &x->b, &x->c, &x->d };
    x->a = of;
    int k = 0;
    for (;;) {
        if (!is_op(p, ":") && !is_op(p, "]") && expression(p, part[k]) < 0)
            return -1;
        if (!is_op(p, ":"))
            break;
        x->kind = N_SLICE;
        if (++k == 3)
            return lex_unexpected(p, "\"]\"");
        if (lex_next(p) < 0)
            return -1;
    }
    if (x->kind == N_INDEX && !x->b)
        return lex_unexpected(p, "an index");
    if (is_op(p, ","))
        return fail(p, "several indices in [] are not supported");
    *out = x;
    return lex_expect_op(p, "]");
}

static int postfix(struct parser *p, struct node **x)
{
    for (;;) {
        struct node *y = NULL;
        if (is_op(p, ".")) {
            if (lex_next(p) < 0)
                return -1;
            y = node(p, N_ATTR);
            y->a = *x;
            if (p->tok.kind == T_INT) { /* a.0 is a[0] */
                y->kind = N_INDEX;
                y->b = node(p, N_CONST_INT);
                y->b->i = p->tok.i;
            } else if (p->tok.kind != T_NAME) {
                return lex_unexpected(p, "a name behind \".\"");
            }
            y->text = p->tok.s;
            if (lex_next(p) < 0)
                return -1;
        } else if (is_op(p, "[")) {
            if (lex_next(p) < 0 || subscript(p, *x, &y) < 0)
                return -1;
        } else if (is_op(p, "(")) {
            y = node(p, N_CALL);
            y->a = *x;
            if (lex_next(p) < 0 || arguments(p, y) < 0)
                return -1;
        } else {
            return 0;
        }
        *x = y;
    }
}

static int filter(struct parser *p, struct node **x)
{
    if (p->tok.kind != T_NAME)
        return lex_unexpected(p, "the name of a filter");
    struct node *f = node(p, N_FILTER);
    f->text = p->tok.s;
    f->which = filter_index(f->text);
    f->a = *x;
    if (f->which < 0)
        return fail(p, "filter \"%.*s\" is not supported", (int)f->text.n, f->text.s);
    *x = f;
    if (lex_next(p) < 0)
        return -1;
    return is_op(p, "(") ? (lex_next(p) < 0 ? -1 : arguments(p, f)) : 0;
}

static bool starts_operand(const struct parser *p)
{
    if (p->tok.kind == T_NAME)
        return !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and") && !is_word(p, "is") &&
               !is_word(p, "if") && !is_word(p, "in") && !is_word(p, "not");
    return p->tok.kind == T_STR || p->tok.kind == T_INT || p->tok.kind == T_FLOAT || is_op(p, "[") || is_op(p, "{");
}

static int test(struct parser *p, struct node **x)
{
    struct node *y = node(p, N_TEST), *arg;
    y->a = *x;
    if (is_word(p, "not")) {
        y->i = 1;
        if (lex_next(p) < 0)
            return -1;
    }
    if (p->tok.kind != T_NAME)
        return lex_unexpected(p, "the name of a test");
    y->text = p->tok.s;
    y->which = test_index(y->text);
    if (y->which < 0)
        return fail(p, "test \"%.*s\" is not supported", (int)y->text.n, y->text.s);
    *x = y;
    if (lex_next(p) < 0)
        return -1;
    if (is_op(p, "("))
        return lex_next(p) < 0 ? -1 : arguments(p, y);
    if (!starts_operand(p))
        return 0;
    if (primary(p, &arg) < 0 || postfix(p, &arg) < 0)
        return -1;
    y->kids = arena_alloc(&p->t->arena, sizeof *y->kids);
    y->kids[0] = arg;
    y->n = 1;
    return 0;
}

static int filters(struct parser *p, struct node **x)
{
    for (;;) {
        int rc;
        if (is_op(p, "|"))
            rc = lex_next(p) < 0 ? -1 : filter(p, x);
        else if (is_word(p, "is"))
            rc = lex_next(p) < 0 ? -1 : test(p, x);
        else if (is_op(p, "("))
            rc = postfix(p, x);
        else
            return 0;
        if (rc < 0)
            return -1;
    }
}

static int unary(struct parser *p, struct node **out, bool with_filter)
{
    if (enter(p) < 0)
        return -1;
    int rc;
    if (is_op(p, "-") || is_op(p, "+")) {
        struct node *x = node(p, N_UNARY);
        x->op = is_op(p, "-") ? OP_NEG : OP_POS;
        rc = lex_next(p) < 0 ? -1 : unary(p, &x->a, false);
        *out = x;
    } else {
        rc = primary(p, out);
    }
    if (rc == 0)
        rc = postfix(p, out);
    if (rc == 0 && with_filter)
        rc = filters(p, out);
    p->depth--;
    return rc;
}

static int operand(struct parser *p, struct node **out)
{
    return unary(p, out, true);
}

struct level {
    int (*below)(struct parser *p, struct node **out);
    struct {
        const char *text;
        enum op op;
    } ops[5];
};

static int binary(struct parser *p, struct node **out, const struct level *l)
{
    if (l->below(p, out) < 0)
        return -1;
    for (;;) {
        int k = 0;
        while (l->ops[k].text && !is_op(p, l->ops[k].text))
            k++;
        if (!l->ops[k].text)
            return 0;
        struct node *x = node(p, N_BINARY);
        x->op = l->ops[k].op;
        x->a = *out;
        if (lex_next(p) < 0 || l->below(p, &x->b) < 0)
            return -1;
        *out = x;
    }
}

static int power(struct parser *p, struct node **out)
{
    static const struct level l = { operand, { { "**", OP_POW }, { NULL, OP_ADD } } };
    return binary(p, out, &l);
}

static int product(struct parser *p, struct node **out)
{
    static const struct level l = {
        power, { { "*", OP_MUL }, { "/", OP_DIV }, { "//", OP_FLOOR }, { "%", OP_MOD }, { NULL, OP_ADD } }
    };
    return binary(p, out, &l);
}

static int concat(struct parser *p, struct node **out)
{
    static const struct level l = { product, { { "~", OP_CONCAT }, { NULL, OP_ADD } } };
    return binary(p, out, &l);
}

static int sum(struct parser *p, struct node **out)
{
    static const struct level l = { concat, { { "+", OP_ADD }, { "-", OP_SUB }, { NULL, OP_ADD } } };
    return binary(p, out, &l);
}

static int comparison_op(struct parser *p, enum op *op)
{
    static const struct {
        const char *text;
        enum op op;
    } ops[] = { { "==", OP_EQ }, { "!=", OP_NE }, { "<=", OP_LE }, { "<", OP_LT }, { ">=", OP_GE }, { ">", OP_GT } };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (is_op(p, ops[i].text)) {
            *op = ops[i].op;
            return lex_next(p) < 0 ? -1 : 1;
        }
    if (is_word(p, "in")) {
        *op = OP_IN;
        return lex_next(p) < 0 ? -1 : 1;
    }
    if (is_word(p, "not")) {
        /* only "not in" can stand here */
        if (lex_next(p) < 0)
            return -1;
        if (!is_word(p, "in"))
            return lex_unexpected(p, "\"in\" behind \"not\"");
        *op = OP_NOT_IN;
        return lex_next(p) < 0 ? -1 : 1;
    }
    return 0;
}

static int comparison(struct parser *p, struct node **out)
{
    struct nodes l = { NULL, 0, 0 };
    enum op op = OP_EQ;
    int rc = sum(p, out);
    if (rc < 0)
        return -1;
    struct node *x = node(p, N_COMPARE);
    while ((rc = comparison_op(p, &op)) == 1) {
        struct node *k = node(p, N_KEYWORD);
        k->op = op;
        if ((rc = sum(p, &k->a)) < 0)
            break;
        nodes_push(&l, k);
    }
    nodes_take(p, &l, &x->kids, &x->n);
    if (rc == 0 && x->n) {
        x->a = *out;
        *out = x;
    }
    return rc;
}

static int negation(struct parser *p, struct node **out)
{
    if (!is_word(p, "not"))
        return comparison(p, out);
    if (enter(p) < 0)
        return -1;
    struct node *x = *out = node(p, N_NOT);
    int rc = lex_next(p) < 0 ? -1 : negation(p, &x->a);
    p->depth--;
    return rc;
}

static int conjunction(struct parser *p, struct node **out)
{
    if (negation(p, out) < 0)
        return -1;
    while (is_word(p, "and")) {
        struct node *x = node(p, N_AND);
        x->a = *out;
        if (lex_next(p) < 0 || negation(p, &x->b) < 0)
            return -1;
        *out = x;
    }
    return 0;
}

static int condition_free(struct parser *p, struct node **out)
{
    if (conjunction(p, out) < 0)
        return -1;
    while (is_word(p, "or")) {
        struct node *x = node(p, N_OR);
        x->a = *out;
        if (lex_next(p) < 0 || conjunction(p, &x->b) < 0)
            return -1;
        *out = x;
    }
    return 0;
}

static int expression(struct parser *p, struct node **out)
{
    if (enter(p) < 0)
        return -1;
    int rc = condition_free(p, out);
    while (rc == 0 && is_word(p, "if")) {
        struct node *x = node(p, N_IF_EXPR);
        x->a = *out;
        *out = x;
        rc = lex_next(p) < 0 ? -1 : condition_free(p, &x->b);
        if (rc == 0 && is_word(p, "else"))
            rc = lex_next(p) < 0 ? -1 : expression(p, &x->c);
    }
    p->depth--;
    return rc;
}

/* expression, or a tuple without parentheses */
static int expression_list(struct parser *p, struct node **out, bool with_condition)
{
    struct nodes l = { NULL, 0, 0 };
    struct node *x;
    int rc = with_condition ? expression(p, &x) : condition_free(p, &x);
    if (rc == 0 && !is_op(p, ",")) {
        *out = x;
        return 0;
    }
    if (rc == 0)
        nodes_push(&l, x);
    while (rc == 0 && is_op(p, ",")) {
        if ((rc = lex_next(p)) < 0 || p->tok.kind == T_TAG_END || is_word(p, "in") || is_op(p, "="))
            break;
        rc = with_condition ? expression(p, &x) : condition_free(p, &x);
        if (rc == 0)
            nodes_push(&l, x);
    }
    *out = node(p, N_TUPLE);
    nodes_take(p, &l, &(*out)->kids, &(*out)->n);
    return rc;
}

/* ---- statements ---- */

static int body(struct parser *p, struct node *into, const char *const *ends);

static int tag_end(struct parser *p)
{
    return p->tok.kind == T_TAG_END ? 0 : lex_unexpected(p, "the end of the tag");
}

/* A name, or several with commas (parentheses allowed). attr: name.attribute may be set. */
static int target(struct parser *p, struct node **out, bool attr)
{
    struct nodes l = { NULL, 0, 0 };
    bool paren = is_op(p, "("), comma = false;
    int rc = paren ? lex_next(p) : 0;
    while (rc == 0) {
        if (p->tok.kind != T_NAME) {
            rc = lex_unexpected(p, "a name");
            break;
        }
        struct node *x = node(p, N_NAME);
        x->text = p->tok.s;
        nodes_push(&l, x);
        if ((rc = lex_next(p)) == 0 && attr && l.n == 1 && is_op(p, ".")) {
            struct node *y = node(p, N_ATTR);
            y->a = x;
            if ((rc = lex_next(p)) == 0 && p->tok.kind != T_NAME)
                rc = lex_unexpected(p, "a name behind \".\"");
            y->text = p->tok.s;
            if (rc == 0)
                rc = lex_next(p);
            l.v[0] = y;
            break;
        }
        if (rc < 0 || !is_op(p, ","))
            break;
        comma = true;
        rc = lex_next(p);
        if (rc == 0 && (is_word(p, "in") || is_op(p, "=") || is_op(p, ")")))
            break;
    }
    if (rc == 0 && paren)
        rc = lex_expect_op(p, ")");
    struct node *t = node(p, N_TUPLE);
    nodes_take(p, &l, &t->kids, &t->n);
    if (rc == 0)
        *out = t->n == 1 && !comma ? t->kids[0] : t;
    return rc;
}

static int parse_if(struct parser *p, struct node **out)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    static const char *const end[] = { "endif", NULL };
    struct node *x = *out = node(p, N_IF);
    for (;;) {
        if (expression_list(p, &x->a, true) < 0 || tag_end(p) < 0 || body(p, x, ends) < 0)
            return -1;
        if (!is_word(p, "elif"))
            break;
        x->b = node(p, N_IF);
        x = x->b;
        if (lex_next(p) < 0)
            return -1;
    }
    if (is_word(p, "else")) {
        x->b = node(p, N_BLOCK);
        if (lex_next(p) < 0 || tag_end(p) < 0 || body(p, x->b, end) < 0)
            return -1;
    }
    return lex_next(p) < 0 ? -1 : tag_end(p);
}

static int parse_for(struct parser *p, struct node **out)
{
    static const char *const ends[] = { "else", "endfor", NULL };
    static const char *const end[] = { "endfor", NULL };
    struct node *x = *out = node(p, N_FOR);
    if (target(p, &x->b, false) < 0)
        return -1;
    if (!is_word(p, "in"))
        return lex_unexpected(p, "\"in\"");
    if (lex_next(p) < 0 || expression_list(p, &x->a, false) < 0)
        return -1;
    if (is_word(p, "if") && (lex_next(p) < 0 || expression(p, &x->c) < 0))
        return -1;
    if (is_word(p, "recursive"))
        return fail(p, "recursive loops are not supported");
    if (tag_end(p) < 0)
        return -1;
    p->loops++;
    int rc = body(p, x, ends);
    p->loops--;
    if (rc < 0)
        return -1;
    if (is_word(p, "else")) {
        x->d = node(p, N_BLOCK);
        if (lex_next(p) < 0 || tag_end(p) < 0 || body(p, x->d, end) < 0)
            return -1;
    }
    return lex_next(p) < 0 ? -1 : tag_end(p);
}

static int parse_set(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endset", NULL };
    struct node *x = *out = node(p, N_SET);
    if (target(p, &x->b, true) < 0)
        return -1;
    if (is_op(p, "=")) {
        if (lex_next(p) < 0 || expression_list(p, &x->a, true) < 0)
            return -1;
        return tag_end(p);
    }
    x->kind = N_SET_BLOCK;
    while (is_op(p, "|"))
        if (lex_next(p) < 0 || filter(p, &x->a) < 0)
            return -1;
    if (tag_end(p) < 0 || body(p, x, end) < 0)
        return -1;
    return lex_next(p) < 0 ? -1 : tag_end(p);
}

/* Parameters of a macro, behind "(". */
static int parameters(struct parser *p, struct node *x)
{
    struct nodes l = { NULL, 0, 0 };
    int rc = 0;
    while (rc == 0 && !is_op(p, ")")) {
        if (p->tok.kind != T_NAME) {
            rc = lex_unexpected(p, "the name of a parameter");
            break;
        }
        struct node *k = node(p, N_KEYWORD);
        k->text = p->tok.s;
        nodes_push(&l, k);
        rc = lex_next(p);
        if (rc == 0 && is_op(p, "="))
            rc = lex_next(p) < 0 ? -1 : expression(p, &k->a);
        if (rc == 0 && !is_op(p, ")"))
            rc = lex_expect_op(p, ",");
    }
    if (rc == 0)
        rc = lex_next(p);
    nodes_take(p, &l, &x->args, &x->n_args);
    return rc;
}

static int inner_body(struct parser *p, struct node *x, const char *const *end)
{
    int loops = p->loops;
    p->loops = 0; /* break does not reach out of a macro */
    int rc = tag_end(p) < 0 ? -1 : body(p, x, end);
    p->loops = loops;
    return rc < 0 || lex_next(p) < 0 ? -1 : tag_end(p);
}

static int parse_macro(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endmacro", NULL };
    struct node *x = *out = node(p, N_MACRO);
    if (p->tok.kind != T_NAME)
        return lex_unexpected(p, "the name of a macro");
    x->text = p->tok.s;
    if (lex_next(p) < 0 || lex_expect_op(p, "(") < 0 || parameters(p, x) < 0)
        return -1;
    return inner_body(p, x, end);
}

static int parse_call(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endcall", NULL };
    struct node *x = *out = node(p, N_CALL_BLOCK);
    if (is_op(p, "(") && (lex_next(p) < 0 || parameters(p, x) < 0))
        return -1;
    if (expression(p, &x->a) < 0)
        return -1;
    if (x->a->kind != N_CALL)
        return fail(p, "expected a call behind \"call\"");
    return inner_body(p, x, end);
}

static int parse_filter_block(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endfilter", NULL };
    struct node *x = *out = node(p, N_FILTER_BLOCK);
    if (filter(p, &x->a) < 0)
        return -1;
    while (is_op(p, "|"))
        if (lex_next(p) < 0 || filter(p, &x->a) < 0)
            return -1;
    return inner_body(p, x, end);
}

static int parse_with(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endwith", NULL };
    struct node *x = *out = node(p, N_WITH);
    struct nodes l = { NULL, 0, 0 };
    int rc = 0;
    while (rc == 0 && p->tok.kind != T_TAG_END) {
        struct node *k = node(p, N_SET);
        if ((rc = target(p, &k->b, false)) < 0 || (rc = lex_expect_op(p, "=")) < 0 || (rc = expression(p, &k->a)) < 0)
            break;
        nodes_push(&l, k);
        if (is_op(p, ","))
            rc = lex_next(p);
        else
            break;
    }
    nodes_take(p, &l, &x->args, &x->n_args);
    if (rc < 0 || tag_end(p) < 0 || body(p, x, end) < 0 || lex_next(p) < 0)
        return -1;
    return tag_end(p);
}

static int parse_generation(struct parser *p, struct node **out)
{
    static const char *const end[] = { "endgeneration", NULL };
    struct node *x = *out = node(p, N_BLOCK);
    if (tag_end(p) < 0 || body(p, x, end) < 0 || lex_next(p) < 0)
        return -1;
    return tag_end(p);
}

static int parse_jump(struct parser *p, struct node **out, enum node_kind kind)
{
    if (p->loops == 0)
        return fail(p, "break or continue outside a loop");
    *out = node(p, kind);
    return tag_end(p);
}

/* The word behind {% is p->tok. */
static int statement(struct parser *p, struct node **out)
{
    static const struct {
        const char *name;
        int (*parse)(struct parser *p, struct node **out);
    } all[] = {
        { "if", parse_if },     { "for", parse_for },
        { "set", parse_set },   { "macro", parse_macro },
        { "call", parse_call }, { "filter", parse_filter_block },
        { "with", parse_with }, { "generation", parse_generation },
    };
    if (p->tok.kind != T_NAME)
        return lex_unexpected(p, "a statement");
    struct str word = p->tok.s;
    if (lex_next(p) < 0)
        return -1;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (str_is(word, all[i].name))
            return all[i].parse(p, out);
    if (str_is(word, "break"))
        return parse_jump(p, out, N_BREAK);
    if (str_is(word, "continue"))
        return parse_jump(p, out, N_CONTINUE);
    return fail(p, "statement \"%.*s\" is not supported here", (int)(word.n < 100 ? word.n : 100), word.s);
}

/* ---- text between tags ---- */

static void push_text(struct parser *p, struct nodes *l, size_t b, size_t e, int line)
{
    if (b >= e)
        return;
    struct node *x = node(p, N_TEXT);
    x->line = line;
    x->text = (struct str){ p->s + b, (uint32_t)(e - b) };
    nodes_push(l, x);
}

/* Where the text [b, e) before a tag ends: a "-" eats blanks, a tag alone on its line loses its indentation. */
static size_t text_end(const struct parser *p, size_t b, size_t e, char sign, bool variable)
{
    if (sign == '-') {
        while (e > b && blank(p->s[e - 1]))
            e--;
        return e;
    }
    if (sign == '+' || variable)
        return e;
    size_t i = e;
    while (i > b && p->s[i - 1] != '\n' && blank(p->s[i - 1]))
        i--;
    return (i > b && p->s[i - 1] == '\n') || (i == b && p->line_start) ? i : e;
}

static int skip_comment(struct parser *p)
{
    const char *end = find_bytes(p->s + p->at, p->n - p->at, "#}", 2);
    if (!end)
        return fail(p, "a comment has no end");
    size_t i = (size_t)(end - p->s);
    char sign = i > p->at ? p->s[i - 1] : ' ';
    lex_advance(p, i + 2);
    if (sign == '-')
        while (p->at < p->n && blank(p->s[p->at]))
            lex_advance(p, p->at + 1);
    else if (sign != '+' && p->at < p->n && p->s[p->at] == '\n')
        lex_advance(p, p->at + 1);
    p->line_start = p->s[p->at - 1] == '\n';
    return 0;
}

static size_t skip_blanks(const struct parser *p, size_t i)
{
    while (i < p->n && blank(p->s[i]))
        i++;
    return i;
}

/* Is this the tag {% word %}, from i behind "{%"? Where it ends (behind "%}"), its closing sign in *sign; else 0. */
static size_t plain_tag(const struct parser *p, size_t i, const char *word, char *sign)
{
    size_t k = strlen(word);
    if (i < p->n && (p->s[i] == '-' || p->s[i] == '+'))
        i++;
    i = skip_blanks(p, i);
    if (p->n - i < k || memcmp(p->s + i, word, k) != 0)
        return 0;
    i = skip_blanks(p, i + k);
    *sign = ' ';
    if (i < p->n && (p->s[i] == '-' || p->s[i] == '+'))
        *sign = p->s[i++];
    return p->n - i >= 2 && p->s[i] == '%' && p->s[i + 1] == '}' ? i + 2 : 0;
}

static int raw_block(struct parser *p, struct nodes *l, size_t begin, char begin_sign)
{
    char sign;
    size_t b = begin_sign == '-' ? skip_blanks(p, begin) : begin;
    for (size_t i = b; i + 1 < p->n; i++) {
        size_t end;
        if (p->s[i] != '{' || p->s[i + 1] != '%' || !(end = plain_tag(p, i + 2, "endraw", &sign)))
            continue;
        p->line_start = false;
        push_text(p, l, b, text_end(p, b, i, i + 2 < p->n ? p->s[i + 2] : ' ', false), p->line);
        lex_advance(p, end);
        if (sign == '-')
            lex_advance(p, skip_blanks(p, p->at));
        else if (sign != '+' && p->at < p->n && p->s[p->at] == '\n')
            lex_advance(p, p->at + 1);
        p->line_start = p->s[p->at - 1] == '\n';
        return 0;
    }
    return fail(p, "a raw block has no end");
}

/* Statements and text up to one of the words in ends, which stays in p->tok (ends NULL: to the end of the template). */
static int body_list(struct parser *p, struct nodes *l, const char *const *ends)
{
    for (;;) {
        size_t b = p->at, i = b;
        int line = p->line;
        while (i + 1 < p->n && !(p->s[i] == '{' && (p->s[i + 1] == '{' || p->s[i + 1] == '%' || p->s[i + 1] == '#')))
            i++;
        if (i + 1 >= p->n) {
            push_text(p, l, b, p->n, line);
            lex_advance(p, p->n);
            return ends ? fail(p, "the template ends where \"%s\" was expected", ends[0]) : 0;
        }
        char what = p->s[i + 1], sign = i + 2 < p->n ? p->s[i + 2] : ' ';
        bool variable = what == '{';
        push_text(p, l, b, text_end(p, b, i, sign, variable), line);
        lex_advance(p, i + 2);
        if (what == '#') {
            if (skip_comment(p) < 0)
                return -1;
            continue;
        }
        char close;
        size_t raw = what == '%' ? plain_tag(p, p->at, "raw", &close) : 0;
        if (raw) {
            if (raw_block(p, l, raw, close) < 0)
                return -1;
            continue;
        }
        if (sign == '-' || sign == '+')
            lex_advance(p, p->at + 1);
        p->in_tag = true;
        p->variable = variable;
        p->brackets = 0;
        if (lex_next(p) < 0)
            return -1;
        struct node *x = NULL;
        if (variable) {
            x = node(p, N_OUTPUT);
            if (expression_list(p, &x->a, true) < 0 || tag_end(p) < 0)
                return -1;
        } else {
            for (size_t k = 0; ends && ends[k]; k++)
                if (is_word(p, ends[k]))
                    return 0;
            if (statement(p, &x) < 0)
                return -1;
        }
        nodes_push(l, x);
    }
}

static int body(struct parser *p, struct node *into, const char *const *ends)
{
    struct nodes l = { NULL, 0, 0 };
    int rc = enter(p) < 0 ? -1 : body_list(p, &l, ends);
    p->depth--;
    nodes_take(p, &l, &into->kids, &into->n);
    return rc;
}

int template_parse(struct chat_template *t, const char *s, size_t n, struct err *e)
{
    struct parser p = { .t = t, .s = s, .n = n, .line = 1, .line_start = true, .e = e };
    t->root = node(&p, N_BLOCK);
    return body(&p, t->root, NULL);
}
