/* template_node.h - the tree a chat template is parsed to. Private to lib/text.
 * Parsed by template_lex.c and template_parse.c, run by template_eval.c with what is in template_value.c, _call.c and
 * _filter.c. */
#ifndef LATENT_TEXT_TEMPLATE_NODE_H
#define LATENT_TEXT_TEMPLATE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "text/parts.h"

enum node_kind {
    /* expressions */
    N_CONST_STR, /* text */
    N_CONST_INT,
    N_CONST_FLOAT,
    N_CONST_BOOL, /* i */
    N_CONST_NONE,
    N_NAME,    /* text */
    N_LIST,    /* kids */
    N_TUPLE,   /* kids */
    N_DICT,    /* kids: key, value, key, value ... */
    N_ATTR,    /* a.text */
    N_INDEX,   /* a[b] */
    N_SLICE,   /* a[b:c:d] (b, c, d may be NULL) */
    N_CALL,    /* a(kids) */
    N_FILTER,  /* a|text(kids); a NULL inside a filter block */
    N_TEST,    /* a is text(kids); i: negated */
    N_UNARY,   /* op a */
    N_BINARY,  /* a op b */
    N_COMPARE, /* a, then kids with ops in their i */
    N_AND,
    N_OR,
    N_NOT,
    N_IF_EXPR, /* a if b else c (c may be NULL) */
    N_KEYWORD, /* an argument text=a */
    /* statements */
    N_TEXT,         /* text */
    N_OUTPUT,       /* a */
    N_IF,           /* a: condition, kids: body, b: N_IF or N_BLOCK behind else */
    N_FOR,          /* b: target, a: iterable, c: condition or NULL, kids: body, d: N_BLOCK behind else */
    N_SET,          /* b: target, a: value */
    N_SET_BLOCK,    /* b: target, kids: body, a: filters or NULL */
    N_MACRO,        /* text: name; args: N_KEYWORD with a = default or NULL; kids: body */
    N_CALL_BLOCK,   /* a: call; args as of a macro; kids: body */
    N_FILTER_BLOCK, /* a: filters, kids: body */
    N_WITH,         /* args: N_SET; kids: body */
    N_BLOCK,        /* kids (also a generation block) */
    N_BREAK,
    N_CONTINUE,
};

enum op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOOR,
    OP_MOD,
    OP_POW,
    OP_CONCAT,
    OP_NEG,
    OP_POS,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
};

struct node {
    enum node_kind kind;
    int line;
    enum op op;
    int which; /* of a filter, test: index in its table */
    struct str text;
    int64_t i;
    double f;
    struct node *a, *b, *c, *d;
    struct node **kids;
    size_t n;
    struct node **args;
    size_t n_args;
};

struct chat_template {
    char *name;
    char *source;
    struct arena arena;
    struct node *root;
};

/* -1: not known. */
int filter_index(struct str name);
int test_index(struct str name);

/* Sets the error, with the template's name and the line in front. Through fail and rfail, which are always -1, as
 * compilers and checkers can see. */
void template_fail(struct err *e, const struct chat_template *t, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

int template_parse(struct chat_template *t, const char *s, size_t n, struct err *e);

#endif
