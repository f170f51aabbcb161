/* template_parser.h - between template_lex.c (tokens inside a tag) and template_parse.c (the tree). */
#ifndef LATENT_TEXT_TEMPLATE_PARSER_H
#define LATENT_TEXT_TEMPLATE_PARSER_H

#include <string.h>

#include "text/template_node.h"

enum tok_kind { T_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP, T_TAG_END };

struct tok {
    enum tok_kind kind;
    struct str s; /* name, operator, decoded text */
    int64_t i;
    double f;
};

struct parser {
    struct chat_template *t;
    const char *s;
    size_t n, at;
    int line, depth;
    int brackets;      /* open ( [ { of the tag */
    bool in_tag;       /* between {% or {{ and its end */
    bool variable;     /* the tag is {{ */
    bool line_start;   /* the data to come begins a line */
    struct tok tok;    /* the token looked at */
    int loops, macros; /* statements around the present one */
    struct err *e;
};

#define fail(p, ...) (template_fail((p)->e, (p)->t, (p)->line, __VA_ARGS__), -1)

int lex_next(struct parser *p); /* the tag's next token becomes p->tok */
int lex_unexpected(struct parser *p, const char *wanted);
int lex_expect_op(struct parser *p, const char *op);
void lex_advance(struct parser *p, size_t to); /* counts lines */

static inline bool blank(char c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

static inline bool is_op(const struct parser *p, const char *op)
{
    return p->tok.kind == T_OP && strlen(op) == p->tok.s.n && memcmp(op, p->tok.s.s, p->tok.s.n) == 0;
}

static inline bool str_is(struct str s, const char *w)
{
    return strlen(w) == s.n && memcmp(w, s.s, s.n) == 0;
}

static inline bool is_word(const struct parser *p, const char *w)
{
    return p->tok.kind == T_NAME && str_is(p->tok.s, w);
}

#endif
