/* answer_lex.c - LaTeX, plain mathematics and English around it, as tokens.
 *
 * Normalization happens here, token by token and never by replacing text: styles, sizes and spaces vanish, synonyms
 * meet in one kind, numbers swallow their thousands separators, words become functions, units, separators or text. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "task/answer_words.h"

enum action {
    A_TOKEN,    /* kind, name */
    A_REL,      /* op */
    A_SKIP,     /* means nothing here */
    A_SIZE,     /* \left and friends: a following dot goes too */
    A_SKIP_ARG, /* goes with its argument */
    A_TEXT,
    A_ROMAN, /* \mathrm, \operatorname: a word inside is text, a letter a letter */
    A_BLACKBOARD,
    A_ENV,
    A_BAD,
};

struct command {
    const char *word;
    enum action action;
    int kind; /* token kind or relation */
    const char *name;
};

#define SYM(w)                                                                                                         \
    {                                                                                                                  \
        w, A_TOKEN, T_SYM, w                                                                                           \
    }
#define FUN(w)                                                                                                         \
    {                                                                                                                  \
        w, A_TOKEN, T_FUNC, w                                                                                          \
    }
#define TOK(w, k)                                                                                                      \
    {                                                                                                                  \
        w, A_TOKEN, k, w                                                                                               \
    }
#define REL(w, r)                                                                                                      \
    {                                                                                                                  \
        w, A_REL, r, NULL                                                                                              \
    }
#define DO(w, a)                                                                                                       \
    {                                                                                                                  \
        w, a, 0, NULL                                                                                                  \
    }

/* Sorted by word (strcmp order): looked up by bisection. */
static const struct command commands[] = {
    SYM("Alpha"),
    SYM("Beta"),
    { "Big", A_SIZE, 0, NULL },
    DO("Bigg", A_SIZE),
    DO("Biggl", A_SIZE),
    DO("Biggr", A_SIZE),
    DO("Bigl", A_SIZE),
    DO("Bigr", A_SIZE),
    SYM("Delta"),
    SYM("Gamma"),
    FUN("Im"),
    SYM("Lambda"),
    REL("Leftrightarrow", REL_OTHER),
    TOK("Longrightarrow", T_BAD),
    SYM("Omega"),
    SYM("Phi"),
    SYM("Pi"),
    SYM("Psi"),
    FUN("Re"),
    TOK("Rightarrow", T_BAD),
    SYM("Sigma"),
    SYM("Theta"),
    SYM("Upsilon"),
    { "Vert", A_TOKEN, T_NORM, NULL },
    SYM("Xi"),
    { "acos", A_TOKEN, T_FUNC, "arccos" },
    SYM("alpha"),
    TOK("angle", T_ANGLE),
    REL("approx", REL_APPROX),
    FUN("arccos"),
    { "arccosh", A_TOKEN, T_FUNC, "arccosh" },
    FUN("arccot"),
    FUN("arccsc"),
    { "arcosh", A_TOKEN, T_FUNC, "arccosh" },
    FUN("arcsec"),
    FUN("arcsin"),
    { "arcsinh", A_TOKEN, T_FUNC, "arcsinh" },
    FUN("arctan"),
    { "arctanh", A_TOKEN, T_FUNC, "arctanh" },
    { "arctg", A_TOKEN, T_FUNC, "arctan" },
    { "arg", A_TOKEN, T_FUNC, "arg" },
    { "arsinh", A_TOKEN, T_FUNC, "arcsinh" },
    { "artanh", A_TOKEN, T_FUNC, "arctanh" },
    { "asin", A_TOKEN, T_FUNC, "arcsin" },
    { "ast", A_TOKEN, T_TIMES, "*" },
    { "atan", A_TOKEN, T_FUNC, "arctan" },
    TOK("backslash", T_SETMINUS),
    TOK("bar", T_DECOR),
    { "begin", A_ENV, T_BEGIN, NULL },
    SYM("beta"),
    DO("bf", A_SKIP),
    DO("big", A_SIZE),
    { "bigcap", A_TOKEN, T_CAP, NULL },
    { "bigcup", A_TOKEN, T_CUP, NULL },
    DO("bigg", A_SIZE),
    DO("biggl", A_SIZE),
    DO("biggr", A_SIZE),
    DO("bigl", A_SIZE),
    DO("bigr", A_SIZE),
    TOK("binom", T_BINOM),
    DO("bm", A_SKIP),
    DO("boldsymbol", A_SKIP),
    DO("boxed", A_SKIP),
    { "bullet", A_TOKEN, T_TIMES, NULL },
    { "cap", A_TOKEN, T_CAP, NULL },
    { "cdot", A_TOKEN, T_TIMES, NULL },
    { "cdotp", A_TOKEN, T_TIMES, NULL },
    TOK("cdots", T_DOTS),
    { "cfrac", A_TOKEN, T_FRAC, NULL },
    SYM("chi"),
    { "choose", A_TOKEN, T_CHOOSE, NULL },
    { "circ", A_TOKEN, T_DEGREE, NULL },
    { "colon", A_TOKEN, T_COLON, NULL },
    DO("color", A_SKIP_ARG),
    REL("cong", REL_OTHER),
    FUN("cos"),
    FUN("cosh"),
    FUN("cot"),
    FUN("coth"),
    FUN("csc"),
    { "csch", A_TOKEN, T_FUNC, "csch" },
    { "ctg", A_TOKEN, T_FUNC, "cot" },
    { "cup", A_TOKEN, T_CUP, NULL },
    { "dbinom", A_TOKEN, T_BINOM, NULL },
    TOK("ddots", T_DOTS),
    { "deg", A_TOKEN, T_DEGREE, NULL },
    { "degree", A_TOKEN, T_DEGREE, NULL },
    SYM("delta"),
    FUN("det"),
    { "dfrac", A_TOKEN, T_FRAC, NULL },
    DO("displaystyle", A_SKIP),
    { "div", A_TOKEN, T_DIV, NULL },
    TOK("dot", T_DECOR),
    TOK("dots", T_DOTS),
    TOK("dotsc", T_DOTS),
    SYM("ell"),
    { "emptyset", A_TOKEN, T_EMPTY, NULL },
    { "end", A_ENV, T_FINISH, NULL },
    DO("enspace", A_SKIP),
    DO("ensuremath", A_SKIP),
    { "epsilon", A_TOKEN, T_SYM, "epsilon" },
    REL("equiv", REL_OTHER),
    SYM("eta"),
    { "euro", A_TOKEN, T_CURRENCY, "euro" },
    TOK("exists", T_BAD),
    FUN("exp"),
    DO("fbox", A_SKIP),
    TOK("forall", T_BAD),
    { "frac", A_TOKEN, T_FRAC, NULL },
    SYM("gamma"),
    FUN("gcd"),
    REL("ge", REL_GE),
    REL("geq", REL_GE),
    REL("geqslant", REL_GE),
    REL("gt", REL_GT),
    TOK("hat", T_DECOR),
    SYM("hbar"),
    DO("hfill", A_SKIP),
    DO("hline", A_SKIP),
    DO("hspace", A_SKIP_ARG),
    TOK("iff", T_BAD),
    { "imath", A_TOKEN, T_SYM, "i" },
    TOK("implies", T_BAD),
    REL("in", REL_IN),
    { "infty", A_TOKEN, T_INF, NULL },
    { "int", A_BAD, 0, NULL },
    SYM("iota"),
    DO("it", A_SKIP),
    { "jmath", A_TOKEN, T_SYM, "j" },
    SYM("kappa"),
    { "lVert", A_TOKEN, T_NORM, NULL },
    SYM("lambda"),
    { "land", A_TOKEN, T_AND, NULL },
    { "langle", A_TOKEN, T_LANGLE, NULL },
    DO("large", A_SKIP),
    { "lbrace", A_TOKEN, T_LSET, NULL },
    { "lbrack", A_TOKEN, T_LBRACK, NULL },
    { "lceil", A_TOKEN, T_LCEIL, NULL },
    FUN("lcm"),
    TOK("ldots", T_DOTS),
    REL("le", REL_LE),
    DO("left", A_SIZE),
    REL("leq", REL_LE),
    REL("leqslant", REL_LE),
    { "lfloor", A_TOKEN, T_LFLOOR, NULL },
    { "lg", A_TOKEN, T_FUNC, "log" },
    DO("lim", A_BAD),
    DO("limits", A_SKIP),
    FUN("ln"),
    FUN("log"),
    TOK("longrightarrow", T_BAD),
    { "lor", A_TOKEN, T_OR, NULL },
    { "lparen", A_TOKEN, T_LPAREN, NULL },
    REL("lt", REL_LT),
    { "lvert", A_TOKEN, T_BAR, NULL },
    DO("mathbb", A_BLACKBOARD),
    DO("mathbf", A_SKIP),
    DO("mathcal", A_SKIP),
    DO("mathfrak", A_SKIP),
    DO("mathit", A_SKIP),
    DO("mathrm", A_ROMAN),
    DO("mathsf", A_ROMAN),
    DO("mathtt", A_ROMAN),
    FUN("max"),
    DO("mbox", A_TEXT),
    { "mid", A_TOKEN, T_BAR, NULL },
    DO("middle", A_SIZE),
    FUN("min"),
    DO("mleft", A_SIZE),
    TOK("mod", T_BAD),
    { "mp", A_TOKEN, T_MP, NULL },
    DO("mright", A_SIZE),
    SYM("mu"),
    SYM("nabla"),
    REL("ne", REL_NE),
    { "neg", A_TOKEN, T_MINUS, NULL },
    REL("neq", REL_NE),
    { "newline", A_TOKEN, T_ROW, NULL },
    DO("nolimits", A_SKIP),
    DO("nonumber", A_SKIP),
    DO("not", A_BAD),
    DO("notin", A_BAD),
    SYM("nu"),
    SYM("omega"),
    DO("operatorname", A_ROMAN),
    { "over", A_TOKEN, T_OVER, NULL },
    TOK("overline", T_DECOR),
    TOK("overrightarrow", T_DECOR),
    REL("parallel", REL_OTHER),
    TOK("partial", T_SYM),
    { "pct", A_TOKEN, T_PERCENT, NULL },
    REL("perp", REL_OTHER),
    DO("phantom", A_SKIP_ARG),
    { "phi", A_TOKEN, T_SYM, "phi" },
    { "pi", A_TOKEN, T_PI, NULL },
    { "pm", A_TOKEN, T_PM, NULL },
    DO("pmod", A_BAD),
    { "pounds", A_TOKEN, T_CURRENCY, "pound" },
    { "prime", A_TOKEN, T_PRIME, NULL },
    { "prod", A_TOKEN, T_SUM, "prod" },
    REL("propto", REL_OTHER),
    SYM("psi"),
    DO("qquad", A_SKIP),
    DO("quad", A_SKIP),
    { "rVert", A_TOKEN, T_NORM, NULL },
    { "rangle", A_TOKEN, T_RANGLE, NULL },
    { "rbrace", A_TOKEN, T_RSET, NULL },
    { "rbrack", A_TOKEN, T_RBRACK, NULL },
    { "rceil", A_TOKEN, T_RCEIL, NULL },
    { "rfloor", A_TOKEN, T_RFLOOR, NULL },
    SYM("rho"),
    DO("right", A_SIZE),
    TOK("rightarrow", T_BAD),
    DO("rm", A_SKIP),
    { "rparen", A_TOKEN, T_RPAREN, NULL },
    { "rvert", A_TOKEN, T_BAR, NULL },
    DO("scriptstyle", A_SKIP),
    FUN("sec"),
    { "sech", A_TOKEN, T_FUNC, "sech" },
    { "setminus", A_TOKEN, T_SETMINUS, NULL },
    { "sgn", A_TOKEN, T_FUNC, "sign" },
    SYM("sigma"),
    REL("sim", REL_OTHER),
    REL("simeq", REL_APPROX),
    FUN("sin"),
    FUN("sinh"),
    DO("small", A_SKIP),
    DO("space", A_SKIP),
    { "sqrt", A_TOKEN, T_SQRT, NULL },
    REL("subset", REL_OTHER),
    REL("subseteq", REL_OTHER),
    { "sum", A_TOKEN, T_SUM, "sum" },
    FUN("tan"),
    FUN("tanh"),
    SYM("tau"),
    { "tbinom", A_TOKEN, T_BINOM, NULL },
    DO("text", A_TEXT),
    DO("textbf", A_TEXT),
    DO("textcolor", A_SKIP_ARG),
    { "textdollar", A_TOKEN, T_CURRENCY, "dollar" },
    DO("textit", A_TEXT),
    DO("textnormal", A_TEXT),
    DO("textrm", A_TEXT),
    DO("textsf", A_TEXT),
    DO("textstyle", A_SKIP),
    DO("texttt", A_TEXT),
    { "tfrac", A_TOKEN, T_FRAC, NULL },
    { "tg", A_TOKEN, T_FUNC, "tan" },
    SYM("theta"),
    DO("thinspace", A_SKIP),
    TOK("tilde", T_DECOR),
    { "times", A_TOKEN, T_CROSS, NULL },
    TOK("to", T_BAD),
    TOK("triangle", T_ANGLE),
    DO("underline", A_SKIP),
    SYM("upsilon"),
    { "varepsilon", A_TOKEN, T_SYM, "epsilon" },
    { "varnothing", A_TOKEN, T_EMPTY, NULL },
    { "varphi", A_TOKEN, T_SYM, "phi" },
    SYM("varpi"),
    { "vartheta", A_TOKEN, T_SYM, "theta" },
    TOK("vdots", T_DOTS),
    TOK("vec", T_DECOR),
    { "vee", A_TOKEN, T_OR, NULL },
    { "vert", A_TOKEN, T_BAR, NULL },
    DO("vspace", A_SKIP_ARG),
    { "wedge", A_TOKEN, T_AND, NULL },
    TOK("widehat", T_DECOR),
    SYM("xi"),
    { "yen", A_TOKEN, T_CURRENCY, "yen" },
    SYM("zeta"),
};

static int by_word(const void *key, const void *row)
{
    const struct span *k = key;
    const char *w = ((const struct command *)row)->word;
    size_t n = strlen(w);
    int d = memcmp(k->s, w, k->n < n ? k->n : n);
    return d ? d : k->n < n ? -1 : k->n > n;
}

static const struct command *command_of(struct span word)
{
    return bsearch(&word, commands, sizeof commands / sizeof *commands, sizeof *commands, by_word);
}

/* ---- the lexer ---- */

struct lexer {
    struct answer_checker *c;
    struct span v;
    size_t i;
    struct tok *t;
    int n, room; /* t has two more */
    bool space, overflow;
    int text;     /* depth of \text */
    int depth;    /* of brackets, for thousands */
    char *digits; /* room for the digits of all numbers */
};

static struct tok *emit(struct lexer *x, enum tok_kind kind, struct span text)
{
    if (x->n >= x->room) {
        x->overflow = true;
        return &x->t[x->room];
    }
    struct tok *t = &x->t[x->n++];
    memset(t, 0, sizeof *t);
    t->kind = kind;
    t->text = text;
    t->space = x->space;
    t->in_text = x->text > 0;
    x->space = false;
    return t;
}

static void emit_name(struct lexer *x, enum tok_kind kind, const char *name)
{
    emit(x, kind, span_of(name ? name : "", name ? strlen(name) : 0));
}

static void emit_rel(struct lexer *x, enum rel op)
{
    emit(x, T_REL, span_of("", 0))->op = op;
}

static struct span rest(const struct lexer *x)
{
    return span_of(x->v.s + x->i, x->v.n - x->i);
}

static char at(const struct lexer *x, size_t i)
{
    return i < x->v.n ? x->v.s[i] : 0;
}

static void lex_all(struct lexer *x);

static void lex_inner(struct lexer *x, struct span inner, int text)
{
    struct lexer y = *x;
    y.v = inner;
    y.i = 0;
    y.text += text;
    if (x->text > 4)
        return;
    lex_all(&y);
    x->n = y.n;
    x->overflow = y.overflow;
    x->digits = y.digits;
    x->space = true;
}

/* ---- numbers ---- */

/* Does a thousands separator with three digits behind it stand at i? Returns the offset of those digits, else 0. *soft:
 * it could also separate two numbers. */
static size_t group_at(const struct lexer *x, size_t i, bool *soft)
{
    size_t j = i;
    *soft = false;
    if (at(x, j) == ' ' && at(x, j + 1) == '{')
        j++;
    if (at(x, j) == '{') {
        j++;
        while (at(x, j) == ' ')
            j++;
        if (at(x, j++) != ',')
            return 0;
        while (at(x, j) == ' ')
            j++;
        if (at(x, j++) != '}')
            return 0;
    } else if (at(x, j) == ',') {
        j++;
        if (at(x, j) == '\\' && (at(x, j + 1) == '!' || at(x, j + 1) == ',')) {
            j += 2;
            while (at(x, j) == ' ')
                j++;
        } else {
            *soft = true;
            if (at(x, j) == ' ')
                j++;
        }
    } else if (at(x, j) == '\\' && (at(x, j + 1) == ',' || at(x, j + 1) == '!' || at(x, j + 1) == ' ')) {
        j += 2;
        if (at(x, j) == ',')
            return 0;
    } else if (at(x, j) == '~') {
        j++;
    } else if (at(x, j) == ' ' && ch_digit(at(x, j + 1))) {
        *soft = true;
        j++;
    } else if (at(x, j) == '\xc2' && at(x, j + 1) == '\xa0') {
        j += 2;
    } else {
        return 0;
    }
    for (size_t k = 0; k < 3; k++)
        if (!ch_digit(at(x, j + k)))
            return 0;
    return ch_digit(at(x, j + 3)) ? 0 : j;
}

static void lex_number(struct lexer *x)
{
    enum tok_kind before = x->n ? x->t[x->n - 1].kind : T_END;
    bool argument = before == T_FRAC || before == T_SQRT || before == T_HAT || before == T_SUB || before == T_BINOM;
    size_t start = x->i, i = start, n = 0;
    char *digits = x->digits;
    while (ch_digit(at(x, i)))
        digits[n++] = at(x, i++);
    if (n >= 1 && n <= 3 && !argument && digits[0] != '0') {
        bool any_soft = false, soft;
        size_t j = i, groups = 0, next;
        while ((next = group_at(x, j, &soft))) {
            any_soft = any_soft || soft;
            j = next + 3;
            groups++;
        }
        if (groups && any_soft)
            x->c->ambiguous |= READ_THOUSANDS;
        if (groups && (!any_soft || (x->c->reading & READ_THOUSANDS))) {
            while ((next = group_at(x, i, &soft))) {
                memcpy(digits + n, x->v.s + next, 3);
                n += 3;
                i = next + 3;
            }
        }
    }
    bool point = false;
    struct span rep = { NULL, 0 };
    if (at(x, i) == '.' && ch_digit(at(x, i + 1))) {
        point = true;
        digits[n++] = '.';
        for (i++; ch_digit(at(x, i)); i++)
            digits[n++] = at(x, i);
    } else if (at(x, i) == '.' && at(x, i + 1) == '\\') {
        point = true;
    }
    if (point) { /* 0.1\overline{6} */
        static const char *const bars[] = { "\\overline{", "\\bar{", "\\dot{" };
        size_t j = at(x, i) == '.' ? i + 1 : i;
        for (size_t k = 0; k < 3; k++) {
            size_t m = strlen(bars[k]), e;
            if (!span_starts(span_of(x->v.s + j, x->v.n - j), bars[k]))
                continue;
            for (e = j + m; ch_digit(at(x, e)); e++)
                ;
            if (e > j + m && at(x, e) == '}') {
                if (at(x, i) == '.')
                    digits[n++] = '.';
                rep = span_of(x->v.s + j + m, e - j - m);
                i = e + 1;
            }
            break;
        }
    }
    int exp10 = 0;
    if ((at(x, i) == 'e' || at(x, i) == 'E') && !rep.n && !argument) {
        size_t j = i + 1, d;
        bool minus = at(x, j) == '-', sign = minus || at(x, j) == '+';
        j += sign;
        for (d = j; ch_digit(at(x, d)); d++)
            ;
        /* 2e-3 is also "two e minus three": then only a form that a program prints counts */
        if (d > j && d - j <= 6 && !ch_alpha(at(x, d)) && (at(x, i) == 'E' || !sign || point || d - j >= 2)) {
            for (size_t k = j; k < d; k++)
                exp10 = exp10 * 10 + (at(x, k) - '0');
            exp10 = minus ? -exp10 : exp10;
            i = d;
        }
    }
    if (i == start) { /* .\overline without digits */
        x->i++;
        emit(x, T_BAD, span_of(".", 1));
        return;
    }
    digits[n] = 0;
    x->digits += n + 1;
    struct tok *t = emit(x, T_NUM, span_of(digits, n));
    t->rep = rep;
    t->exp10 = exp10;
    x->i = i;
}

/* ---- words ---- */

static bool after_value(const struct lexer *x)
{
    if (!x->n)
        return false;
    switch (x->t[x->n - 1].kind) {
    case T_NUM:
    case T_RBRACE:
    case T_RPAREN:
    case T_PI:
    case T_PERCENT:
    case T_DEGREE:
    case T_TEXT:
        return true;
    default:
        return false;
    }
}

static void emit_number_word(struct lexer *x, const char *digits)
{
    struct tok *last = x->n ? &x->t[x->n - 1] : NULL;
    /* twenty-one: tens, a hyphen, a digit */
    if (last && last->kind == T_MINUS && x->n >= 2 && x->t[x->n - 2].kind == T_NUM && !last->space && !x->space &&
        strlen(digits) == 1 && x->t[x->n - 2].text.n == 2 && x->t[x->n - 2].text.s[1] == '0') {
        char *both = arena_alloc(&x->c->arena, 3);
        both[0] = x->t[x->n - 2].text.s[0];
        both[1] = digits[0];
        both[2] = 0;
        x->t[x->n - 2].text = span_of(both, 2);
        x->n--;
        return;
    }
    emit_name(x, last && (last->kind == T_NUM || last->kind == T_TIMES) ? T_BAD : T_NUM, digits);
}

/* "one half", "x = two-thirds": the word of a digit, then this word, which is of so many parts. Digits in front of it
 * are left alone: 3 quarters may be coins. */
static bool emit_fraction_word(struct lexer *x, struct span word, const char *parts)
{
    bool hyphen = x->n >= 2 && x->t[x->n - 1].kind == T_MINUS && !x->t[x->n - 1].space && !x->space;
    int i = x->n - 1 - hyphen;
    if (i < 0 || x->t[i].kind != T_NUM || (i > 0 && x->t[i - 1].kind != T_REL) || !is_digit_word(x->t[i].text))
        return false;
    struct span above = x->t[i].text;
    bool plural = ch_lower(word.s[word.n - 1]) == 's';
    if ((above.s[0] != '1') != plural)
        return false; /* two fifth, and one fifths: no fraction */
    x->n = i;
    emit_name(x, T_FRAC, NULL);
    emit(x, T_NUM, above);
    emit_name(x, T_NUM, parts);
    return true;
}

static void lex_word(struct lexer *x)
{
    size_t i = x->i;
    while (ch_alpha(at(x, i)))
        i++;
    struct span w = span_of(x->v.s + x->i, i - x->i);
    const struct word *k = NULL;
    bool attached = x->i > 0 && !x->space; /* 2pi, 5cm */
    /* a.m. and p.m. */
    if (w.n == 1 && at(x, i) == '.' && ch_lower(at(x, i + 1)) == 'm' && !ch_alpha(at(x, i + 2)) &&
        (ch_lower(w.s[0]) == 'a' || ch_lower(w.s[0]) == 'p')) {
        emit_name(x, T_AMPM, ch_lower(w.s[0]) == 'a' ? "am" : "pm");
        x->i = i + 2 + (at(x, i + 2) == '.');
        return;
    }
    if (w.n == 1) {
        emit(x, x->text ? T_TEXT : T_SYM, w);
        x->i = i;
        return;
    }
    x->i = i;
    if ((span_is(w, "sec") || span_is(w, "min")) && after_value(x) && at(x, i) != '(') {
        emit(x, T_TEXT, w);
        return;
    }
    if ((span_is_fold(w, "am") || span_is_fold(w, "pm")) && !after_value(x))
        k = NULL;
    else
        k = word_of(w);
    if (k && k->kind == T_NUM) {
        emit_number_word(x, k->name);
        return;
    }
    if (k && (k->kind == T_FUNC || k->kind == T_SQRT || k->kind == T_PI || k->kind == T_INF) && ch_upper(w.s[0]))
        k = NULL;
    if (k) {
        emit_name(x, k->kind, k->name);
        return;
    }
    if ((k = scale_of(w))) {
        if (k->kind == T_NUM && x->n && x->t[x->n - 1].kind == T_NUM) {
            emit_name(x, T_TIMES, NULL);
            emit_name(x, T_NUM, k->name);
        } else if (k->kind == T_NUM || !k->name || !emit_fraction_word(x, w, k->name)) {
            emit(x, x->n && k->kind == T_BAD ? T_BAD : T_TEXT, w);
        }
        return;
    }
    if (x->text || is_short_word(w) || (after_value(x) && is_short_unit(w))) {
        emit(x, T_TEXT, w);
        return;
    }
    if (!attached && (k = function_before_letter(w))) { /* sinx, lnx */
        emit_name(x, T_FUNC, k->name);
        emit(x, T_SYM, span_of(w.s + w.n - 1, 1));
        return;
    }
    if (w.n >= 4) {
        emit(x, T_TEXT, w);
        return;
    }
    for (size_t j = 0; j < w.n; j++) /* a product of letters */
        emit(x, T_SYM, span_of(w.s + j, 1));
}

/* ---- commands ---- */

static void lex_text(struct lexer *x, bool roman)
{
    size_t open = x->i, end;
    struct span in;
    while (at(x, open) == ' ')
        open++;
    if (at(x, open) != '{') { /* \text A */
        return;
    }
    span_braced(x->v, open, &in, &end);
    struct span word = span_strip(in);
    bool letters = word.n > 0;
    for (size_t k = 0; k < word.n; k++)
        letters = letters && ch_alpha(word.s[k]);
    x->i = end;
    if (roman && (word.n == 1 || !letters)) { /* \mathrm{e}, \mathrm{d}x */
        lex_inner(x, in, 0);
        return;
    }
    if (!word.n) {
        x->space = true;
        return;
    }
    x->space = x->space || in.s[0] == ' ';
    lex_inner(x, in, 1);
}

static void skip_group(struct lexer *x)
{
    size_t open = x->i, end;
    struct span in;
    while (at(x, open) == ' ')
        open++;
    if (at(x, open) == '*')
        open++;
    if (at(x, open) == '{') {
        span_braced(x->v, open, &in, &end);
        x->i = end;
    }
}

static void lex_env(struct lexer *x, enum tok_kind kind)
{
    size_t open = x->i, end;
    struct span in;
    if (at(x, open) != '{') {
        emit_name(x, T_BAD, NULL);
        return;
    }
    span_braced(x->v, open, &in, &end);
    x->i = end;
    struct tok *t = emit(x, kind, span_strip(in));
    if (kind == T_BEGIN && (span_is(t->text, "array") || span_is(t->text, "tabular"))) /* column spec */
        skip_group(x);
}

static void lex_blackboard(struct lexer *x)
{
    while (at(x, x->i) == ' ')
        x->i++;
    bool brace = at(x, x->i) == '{';
    char c = at(x, x->i + brace);
    if (!ch_alpha(c)) {
        emit_name(x, T_BAD, NULL);
        return;
    }
    x->i += brace ? 3 : 1;
    if (c == 'R')
        emit_name(x, T_REALS, NULL);
    else
        emit(x, T_NAMED_SET, span_of(x->v.s + x->i - (brace ? 2 : 1), 1));
}

static void lex_command(struct lexer *x)
{
    size_t i = x->i + 1;
    char c = at(x, i);
    if (c == '\\') { /* a doubled backslash: escaped twice before a known command or delimiter, else a row ends */
        size_t j = i + 1;
        while (ch_alpha(at(x, j)))
            j++;
        if (j > i + 1 && command_of(span_of(x->v.s + i + 1, j - i - 1))) {
            x->i = i;
            lex_command(x);
            return;
        }
        if (at(x, i + 1) == '{' || at(x, i + 1) == '}' || at(x, i + 1) == '%' || at(x, i + 1) == '!') {
            x->i = i;
            lex_command(x);
            return;
        }
        x->i = i + 1;
        emit_name(x, T_ROW, NULL);
        return;
    }
    if (!ch_alpha(c)) {
        x->i = i + (i < x->v.n);
        switch (c) {
        case '{':
            x->depth++;
            emit_name(x, T_LSET, NULL);
            break;
        case '}':
            x->depth -= x->depth > 0;
            emit_name(x, T_RSET, NULL);
            break;
        case '%':
            emit_name(x, T_PERCENT, NULL);
            break;
        case '$':
            emit_name(x, T_CURRENCY, "dollar");
            break;
        case '|':
            emit_name(x, T_NORM, NULL);
            break;
        case '&':
        case '#':
        case '_':
            emit_name(x, T_BAD, NULL);
            break;
        default: /* spaces, delimiters, escaped quotes */
            x->space = true;
        }
        return;
    }
    while (ch_alpha(at(x, i)))
        i++;
    struct span word = span_of(x->v.s + x->i + 1, i - x->i - 1);
    const struct command *k = command_of(word);
    x->i = i;
    if (!k) {
        /* \pir is no command of ours; TeX would not know it either */
        emit_name(x, T_BAD, NULL);
        return;
    }
    switch (k->action) {
    case A_TOKEN:
        emit_name(x, (enum tok_kind)k->kind, k->name);
        break;
    case A_REL:
        emit_rel(x, (enum rel)k->kind);
        break;
    case A_SKIP:
        x->space = x->space || span_is(word, "quad") || span_is(word, "qquad");
        break;
    case A_SIZE:
        while (at(x, x->i) == ' ')
            x->i++;
        if (at(x, x->i) == '.')
            x->i++;
        break;
    case A_SKIP_ARG:
        skip_group(x);
        x->space = true;
        break;
    case A_TEXT:
    case A_ROMAN:
        lex_text(x, k->action == A_ROMAN);
        break;
    case A_BLACKBOARD:
        lex_blackboard(x);
        break;
    case A_ENV:
        lex_env(x, (enum tok_kind)k->kind);
        break;
    case A_BAD:
        emit_name(x, T_BAD, NULL);
        break;
    }
}

/* ---- Unicode ---- */

static void lex_unicode(struct lexer *x)
{
    static const struct {
        uint32_t cp;
        enum tok_kind kind;
        const char *name;
    } table[] = {
        { 0xa2, T_TEXT, "cents" },      { 0xa3, T_CURRENCY, "pound" },
        { 0xa5, T_CURRENCY, "yen" },    { 0xb0, T_DEGREE, NULL },
        { 0xb1, T_PM, NULL },           { 0xb7, T_TIMES, NULL },
        { 0xd7, T_CROSS, NULL },        { 0xf7, T_DIV, NULL },
        { 0x2013, T_MINUS, NULL },      { 0x2014, T_MINUS, NULL },
        { 0x2026, T_DOTS, NULL },       { 0x2032, T_PRIME, NULL },
        { 0x20ac, T_CURRENCY, "euro" }, { 0x20b9, T_CURRENCY, "rupee" },
        { 0x211d, T_REALS, NULL },      { 0x2205, T_EMPTY, NULL },
        { 0x2212, T_MINUS, NULL },      { 0x2213, T_MP, NULL },
        { 0x2216, T_SETMINUS, NULL },   { 0x221a, T_SQRT, NULL },
        { 0x221e, T_INF, NULL },        { 0x2220, T_ANGLE, "angle" },
        { 0x2227, T_AND, NULL },        { 0x2228, T_OR, NULL },
        { 0x2229, T_CAP, NULL },        { 0x222a, T_CUP, NULL },
        { 0x22c5, T_TIMES, NULL },      { 0x27e8, T_LANGLE, NULL },
        { 0x27e9, T_RANGLE, NULL },     { 0x3c0, T_PI, NULL },
    };
    static const char *const greek[] = { "alpha",   "beta", "gamma", "delta",  "epsilon", "zeta", "eta",
                                         "theta",   "iota", "kappa", "lambda", "mu",      "nu",   "xi",
                                         "omicron", "pi",   "rho",   "sigma",  "sigma",   "tau",  "upsilon",
                                         "phi",     "chi",  "psi",   "omega" };
    uint32_t cp = 0;
    int n = utf8_decode(x->v.s + x->i, x->v.n - x->i, &cp);
    if (!n) {
        x->i++;
        emit_name(x, T_BAD, NULL);
        return;
    }
    x->i += (size_t)n;
    for (size_t k = 0; k < sizeof table / sizeof *table; k++)
        if (table[k].cp == cp) {
            emit_name(x, table[k].kind, table[k].name);
            return;
        }
    if (cp >= 0x3b1 && cp <= 0x3c9) {
        emit_name(x, T_SYM, greek[cp - 0x3b1]);
    } else if (cp == 0x2264 || cp == 0x2a7d) {
        emit_rel(x, REL_LE);
    } else if (cp == 0x2265 || cp == 0x2a7e) {
        emit_rel(x, REL_GE);
    } else if (cp == 0x2260) {
        emit_rel(x, REL_NE);
    } else if (cp == 0x2248) {
        emit_rel(x, REL_APPROX);
    } else if (cp == 0x2208) {
        emit_rel(x, REL_IN);
    } else if (cp == 0xb2 || cp == 0xb3) {
        emit_name(x, T_HAT, NULL);
        emit_name(x, T_NUM, cp == 0xb2 ? "2" : "3");
    } else if (cp == 0xbc || cp == 0xbd || cp == 0xbe) { /* one token each, so that 3 1/2 is a mixed number */
        emit_name(x, T_FRAC, NULL);
        emit_name(x, T_NUM, cp == 0xbe ? "3" : "1");
        emit_name(x, T_NUM, cp == 0xbd ? "2" : "4");
    } else if (cp == 0xa0 || (cp >= 0x2000 && cp <= 0x200d) || cp == 0x202f || cp == 0x3000 || cp == 0xfeff ||
               cp == 0x201c || cp == 0x201d || cp == 0x2018) {
        x->space = true;
    } else if (cp == 0x2019) {
        emit_name(x, T_PRIME, NULL);
    } else {
        emit(x, T_BAD, span_of(x->v.s + x->i - n, (size_t)n));
    }
}

/* ---- everything ---- */

static void bracket(struct lexer *x, enum tok_kind kind, int depth)
{
    x->depth += depth;
    if (x->depth < 0)
        x->depth = 0;
    x->i++;
    emit_name(x, kind, NULL);
}

static void lex_one(struct lexer *x)
{
    char c = at(x, x->i), d = at(x, x->i + 1);
    if (ch_space(c) || c == '~') {
        x->space = true;
        x->i++;
        return;
    }
    if (ch_digit(c) || (c == '.' && (ch_digit(d) || span_starts(rest(x), ".\\overline{")))) {
        lex_number(x);
        return;
    }
    if (ch_alpha(c)) {
        lex_word(x);
        return;
    }
    if ((unsigned char)c >= 0x80) {
        lex_unicode(x);
        return;
    }
    switch (c) {
    case '\\':
        lex_command(x);
        return;
    case '$': /* a delimiter, or money that was not escaped: either way no part of the value */
    case '"':
    case '`':
        x->space = true;
        x->i++;
        return;
    case '{':
        bracket(x, T_LBRACE, 0);
        return;
    case '}':
        bracket(x, T_RBRACE, 0);
        return;
    case '(':
        bracket(x, T_LPAREN, 1);
        return;
    case ')':
        bracket(x, T_RPAREN, -1);
        return;
    case '[':
        bracket(x, T_LBRACK, 1);
        return;
    case ']':
        bracket(x, T_RBRACK, -1);
        return;
    case '|':
        bracket(x, d == '|' ? T_NORM : T_BAR, 0);
        x->i += d == '|';
        return;
    case '*':
        x->i += d == '*' ? 2 : 1;
        emit_name(x, d == '*' ? T_HAT : T_TIMES, NULL);
        return;
    case '<':
    case '>':
        x->i += d == '=' ? 2 : 1;
        emit_rel(x, d == '=' ? (c == '<' ? REL_LE : REL_GE) : (c == '<' ? REL_LT : REL_GT));
        return;
    case '!':
        if (d == '=') {
            x->i += 2;
            emit_rel(x, REL_NE);
            return;
        }
        break;
    case '=':
        x->i += d == '=' ? 2 : 1;
        emit_rel(x, REL_EQ);
        return;
    case '.':
        if (d == '.') {
            while (at(x, x->i) == '.')
                x->i++;
            emit_name(x, T_DOTS, NULL);
            return;
        }
        x->i++;
        if (x->i < x->v.n && span_strip(rest(x)).n && !x->text) /* in the middle: not mathematics */
            emit_name(x, T_BAD, NULL);
        return;
    default:
        break;
    }
    static const struct {
        char c;
        enum tok_kind kind;
    } plain[] = { { '+', T_PLUS },  { '-', T_MINUS }, { '/', T_DIV },     { '^', T_HAT },
                  { '_', T_SUB },   { '!', T_BANG },  { '%', T_PERCENT }, { '\'', T_PRIME },
                  { ':', T_COLON }, { ',', T_COMMA }, { ';', T_SEMI },    { '&', T_AMP } };
    x->i++;
    for (size_t k = 0; k < sizeof plain / sizeof *plain; k++)
        if (plain[k].c == c) {
            emit_name(x, plain[k].kind, NULL);
            return;
        }
    emit_name(x, T_BAD, NULL);
}

static void lex_all(struct lexer *x)
{
    while (x->i < x->v.n && !x->overflow)
        lex_one(x);
}

/* Punctuation at the end that belongs to the sentence around the answer. */
static bool is_leftover(enum tok_kind k)
{
    return k == T_COMMA || k == T_SEMI || k == T_COLON || k == T_ROW;
}

struct tok *answer_lex(struct answer_checker *c, struct span v)
{
    struct lexer x = { .c = c, .v = v };
    x.room = v.n * 3 < MAX_TOKENS ? (int)v.n * 3 : MAX_TOKENS; /* a sign such as 1/2 makes three */
    x.t = arena_alloc(&c->arena, (size_t)(x.room + 2) * sizeof *x.t);
    x.digits = arena_alloc(&c->arena, 2 * v.n + 2);
    lex_all(&x);
    if (x.overflow) {
        limit_hit(c, "limit:tokens");
        return NULL;
    }
    while (x.n && is_leftover(x.t[x.n - 1].kind))
        x.n--;
    memset(&x.t[x.n], 0, sizeof *x.t);
    return x.t;
}
