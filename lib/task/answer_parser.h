/* answer_parser.h - between answer_parse.c (operators, loosest first) and answer_primary.c (what they join). The
 * functions take tokens from p->i on; NULL: this is nothing that we read. */
#ifndef LATENT_TASK_ANSWER_PARSER_H
#define LATENT_TASK_ANSWER_PARSER_H

#include "task/answer_private.h"

struct parser {
    struct answer_checker *c;
    struct tok *t;
    int i, depth;
    int abs; /* inside |..|: the next bar closes */
};

/* answer_parse.c */
struct node *parse_items(struct parser *p, bool top);
struct node *parse_relation(struct parser *p);
struct node *parse_sum(struct parser *p);
struct node *parse_product(struct parser *p);
struct node *parse_power(struct parser *p);
struct node *parse_exponent(struct parser *p);
struct node *parse_subscript(struct parser *p);
struct node *list_of(struct answer_checker *c, struct node **items, int n, int op);
struct node *number_of(struct answer_checker *c, const struct tok *t);
const char *name_of_range(struct parser *p, int a, int b);
int closing(const struct parser *p, int open, int b);
bool starts_factor(const struct parser *p);

/* answer_primary.c */
struct node *parse_primary(struct parser *p);
struct node *parse_argument(struct parser *p);

static inline struct node *quotient(struct answer_checker *c, struct node *a, struct node *b)
{
    return node_2(c, N_MUL, a, node_2(c, N_POW, b, node_num(c, -1)));
}

static inline struct node *func_1(struct answer_checker *c, const char *name, struct node *a)
{
    struct node *n = node_name(c, N_FUNC, name, 1);
    n->kid[0] = a;
    return n;
}

static inline enum tok_kind peek(const struct parser *p)
{
    return p->t[p->i].kind;
}

static inline bool take(struct parser *p, enum tok_kind k)
{
    if (peek(p) != k)
        return false;
    p->i++;
    return true;
}

static inline bool enter(struct parser *p)
{
    if (++p->depth <= MAX_DEPTH)
        return true;
    limit_hit(p->c, "limit:depth");
    return false;
}

static inline bool is_digits(struct span v)
{
    for (size_t i = 0; i < v.n; i++)
        if (!ch_digit(v.s[i]))
            return false;
    return v.n > 0;
}

static inline const char *name_of(struct parser *p, struct span v)
{
    return arena_strndup(&p->c->arena, v.s, v.n);
}

#endif
