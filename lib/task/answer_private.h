/* answer_private.h - between the stages of the answer checker: extract, lex, parse, canon, compare.
 *
 *   text -> answer_extract_span -> lex -> parse (a few readings) -> canon -> compare
 *
 * Tokens, nodes and strings live in the checker's arena, rationals in its pool; both are emptied by every grade. */
#ifndef LATENT_TASK_ANSWER_PRIVATE_H
#define LATENT_TASK_ANSWER_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <flint/fmpq.h>
#include <flint/fmpz.h>

#include "base/mem.h"
#include "task/answer.h"

/* ---- characters (ASCII only, whatever the locale) ---- */
static inline bool ch_digit(char c)
{
    return c >= '0' && c <= '9';
}
static inline bool ch_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}
static inline bool ch_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || ch_upper(c);
}
static inline bool ch_alnum(char c)
{
    return ch_alpha(c) || ch_digit(c);
}
static inline bool ch_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}
static inline char ch_lower(char c)
{
    return ch_upper(c) ? (char)(c + 32) : c;
}

struct span {
    const char *s;
    size_t n;
};
static inline struct span span_of(const char *s, size_t n)
{
    struct span v = { s, n };
    return v;
}
struct span span_strip(struct span v);
bool span_is(struct span v, const char *s);
bool span_starts(struct span v, const char *s);      /* bytes equal */
bool span_starts_fold(struct span v, const char *s); /* s in lower case */
bool span_is_fold(struct span v, const char *s);
/* Content of the brace group that opens at v.s[open]; *end is the offset behind its closing brace. An unclosed group
 * ends at the end of the line, at a lone $ or at the end of the text, and the result is false. */
bool span_braced(struct span v, size_t open, struct span *inner, size_t *end);

/* Text whose backslashes were doubled (and whose new lines became \\n) by one JSON encoding too many: false if it was
 * not, else the text as it was meant. */
bool answer_unescape(struct span v, struct buf *out);

/* Is v.s[i] a capital letter A to J on its own, and not the article or the pronoun? */
bool answer_lone_letter(struct span v, size_t i);

/* ---- limits: counts, so that a verdict is the same on every machine ---- */
enum {
    MAX_TOKENS = 2000,
    MAX_DEPTH = 64,
    MAX_LIST = 64,
    MAX_MATCH = 32,  /* elements of lists that are paired by search */
    MAX_MATRIX = 16, /* rows, columns */
    MAX_EXPONENT = 4096,
    MAX_BITS = 200000, /* of an exact number */
    MAX_FACTORIAL = 5000,
    MAX_TERMS = 20000, /* of a polynomial */
    MAX_ATOMS = 24,
    MAX_LETTERS = 12,
    MAX_SUM = 1000,    /* terms of a sum or product that is written out */
    MAX_NODES = 40000, /* of all trees of a comparison */
    MAX_READINGS = 4,
};

/* ---- tokens ---- */
enum tok_kind {
    T_END,
    T_NUM,  /* text: digits with at most one dot; rep: repeating digits; exp10 */
    T_SYM,  /* text: name of a letter */
    T_FUNC, /* text: name of a function */
    T_TEXT, /* text: a word */
    T_PI,
    T_INF,
    T_EMPTY, /* the empty set */
    T_REALS,
    T_NAMED_SET, /* \mathbb{Z} ...: text */
    T_FRAC,
    T_SQRT,
    T_BINOM,
    T_CHOOSE,
    T_OVER,
    T_SUM,   /* text: sum, prod */
    T_DECOR, /* \overline and friends: text */
    T_ANGLE, /* \angle, \triangle: text */
    T_BEGIN, /* text: environment */
    T_FINISH,
    T_LBRACE, /* grouping braces */
    T_RBRACE,
    T_LSET, /* \{ */
    T_RSET,
    T_LPAREN,
    T_RPAREN,
    T_LBRACK,
    T_RBRACK,
    T_LANGLE,
    T_RANGLE,
    T_LFLOOR,
    T_RFLOOR,
    T_LCEIL,
    T_RCEIL,
    T_BAR,
    T_NORM,
    T_PLUS,
    T_MINUS,
    T_PM,
    T_MP,
    T_TIMES,
    T_CROSS, /* \times, which also joins sets and vectors */
    T_DIV,
    T_HAT,
    T_SUB,
    T_BANG,
    T_PERCENT,
    T_DEGREE,
    T_PRIME,
    T_CURRENCY, /* text: dollar, euro ... */
    T_COLON,
    T_COMMA,
    T_SEMI,
    T_AND,
    T_OR,
    T_AMP,
    T_ROW,
    T_REL, /* op */
    T_CUP,
    T_CAP,
    T_SETMINUS,
    T_AMPM, /* text: am, pm */
    T_DOTS,
    T_BAD,
};

enum rel { REL_EQ, REL_LT, REL_GT, REL_LE, REL_GE, REL_NE, REL_APPROX, REL_IN, REL_OTHER };

struct tok {
    enum tok_kind kind;
    enum rel op;
    bool space;   /* white space before it */
    bool in_text; /* inside \text{..} */
    int exp10;
    struct span text, rep;
};

/* Readings: which way an ambiguous spelling is taken. */
enum { READ_THOUSANDS = 1, READ_ROOT_RUN = 2 };

/* ---- trees ---- */
enum kind {
    N_NUM, /* q; decimal literals keep sig and places */
    N_PI,
    N_E,
    N_I,
    N_INF,
    N_SYM, /* name; kid[0]: subscript, if any */
    N_ADD,
    N_MUL,
    N_POW,  /* kid[0] ^ kid[1] */
    N_FUNC, /* name, kids */
    N_SUM,  /* name (sum, prod), kids: variable, from, to, body */
    N_PM,   /* kid[0] +- kid[1]; op 1: -+ */
    N_PCT,
    N_DEG,
    N_QTY,   /* kid[0] with name = unit */
    N_TUPLE, /* open, close */
    N_SET,
    N_LIST, /* op: 1 if the separators say "or", 2 if "and" */
    N_UNION,
    N_INTER,
    N_DIFF,
    N_EMPTY,
    N_REALS,
    N_MATRIX, /* rows, cols */
    N_REL,    /* kids: sides, ops[i] between i and i+1 */
    N_NAMED,  /* names[i] = kid[i]; op 1: a tuple of names */
    N_BASE,   /* name: digits, base in sig */
    N_RATIO,  /* kids */
    N_TIME,   /* sig: minutes since midnight or 12 o'clock; op 0 none, 1 am, 2 pm */
    N_TEXT,   /* name: words */
    N_UNDEF,
};

struct node {
    enum kind kind;
    int n;
    struct node **kid;
    const char *name;
    fmpq *q;
    int op;
    int sig, places; /* decimal literal: significant digits, digits behind the point */
    bool decimal;
    bool group; /* stood in brackets: (1+2) */
    char open, close;
    int rows, cols;
    unsigned char *ops;
    const char **names;
    struct node *lhs; /* N_NAMED of one name: the name as an expression */
};

/* A pool of rationals that are cleared together. */
enum { POOL_CHUNK = 256 };
struct q_chunk {
    struct q_chunk *next;
    int used;
    fmpq q[POOL_CHUNK];
};

struct answer_checker {
    struct arena arena;
    struct q_chunk *chunks; /* the first is being filled; all but `spare` in use */
    struct q_chunk *spare;
    int nodes;         /* made in this comparison */
    long work;         /* ball arithmetic done in this comparison, in units of one 128-bit operation */
    const char *limit; /* what a bound stopped, NULL if nothing */
    unsigned reading;  /* the reading being parsed, and the ambiguities met */
    unsigned ambiguous;
    struct buf plain[2]; /* both sides, where they had to be unescaped */
};

struct node *node_new(struct answer_checker *c, enum kind kind, int kids);
struct node *node_num(struct answer_checker *c, slong n);
struct node *node_q(struct answer_checker *c, const fmpq_t q);
struct node *node_2(struct answer_checker *c, enum kind kind, struct node *a, struct node *b);
struct node *node_name(struct answer_checker *c, enum kind kind, const char *name, int kids);
struct node *node_neg(struct answer_checker *c, struct node *a);
fmpq *pool_q(struct answer_checker *c);
void limit_hit(struct answer_checker *c, const char *what); /* keeps the first */

/* Tokens of an answer, ended by T_END, in the reading c->reading; NULL when there are too many. c->ambiguous collects
 * READ_* bits of spellings that can be taken two ways, here and in the parser. */
struct tok *answer_lex(struct answer_checker *c, struct span v);

/* The tree of an answer; NULL if it is not mathematics that we read. */
struct node *answer_parse(struct answer_checker *c, struct tok *t);

/* Canonical form: numbers folded, sums and products flat and sorted, labels resolved, signs expanded. */
struct node *answer_canon(struct answer_checker *c, struct node *n);
int node_cmp(const struct node *a, const struct node *b); /* structural order; 0: the same tree */
bool node_has_letters(const struct node *n);
bool node_is_scalar(const struct node *n);
struct node *node_map(struct answer_checker *c, const struct node *n, const char *var, struct node *value);
void node_print(const struct node *n, struct buf *out);

/* ---- comparison ---- */
enum tri { NO, YES, MAYBE };
enum tri answer_equal(struct answer_checker *c, struct node *gold, struct node *pred, const char **reason);

/* Identity of rational functions; atoms that are not letters make a difference MAYBE. */
enum poly_mode {
    POLY_SAME,     /* a = b */
    POLY_EQUATION, /* a = 0 and b = 0 say the same: numerators up to a factor */
    POLY_FACTOR,   /* a = k b with a constant k, whose sign goes to *sign */
};
enum tri poly_equal(struct answer_checker *c, struct node *a, struct node *b, enum poly_mode mode, int *sign);
/* Balls: constants, or values at fixed points where there are letters. */
enum tri ball_equal(struct answer_checker *c, struct node *a, struct node *b, const char **reason);
/* A constant that is a division by zero, a logarithm of zero or the like. */
bool ball_undefined(struct answer_checker *c, const struct node *n);
/* Equations and relations: is a = factor * b? *sign gets the factor's sign, 0 if unknown. */
enum tri ball_proportional(struct answer_checker *c, struct node *a, struct node *b, int *sign);
/* Real constants: -1, 0, 1, or 2 when it cannot be said. Infinities allowed. */
int real_order(struct answer_checker *c, struct node *a, struct node *b);
/* |a - b| <= 10^-places, a decimal literal against anything constant. */
enum tri ball_within(struct answer_checker *c, struct node *dec, struct node *exact);

#endif
