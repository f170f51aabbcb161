/* answer_parse.c - tokens to a tree, by precedence climbing:
 *
 *   list (, ; and or)  <  relation  <  set operators  <  ratio  <  + - +-  <  product, quotient  <  sign  <  power
 *   <  postfix ! % degree
 *
 * What they join (numbers, letters, brackets, functions, matrices) is read by answer_primary.c. NULL means "not
 * mathematics that we read", and the answer is compared as text. The tree keeps what was written; meaning (labels,
 * lists of assignments, intervals) is given by answer_canon.c. */
#include <stdlib.h>
#include <string.h>

#include "task/answer_parser.h"

static bool plain_int(const struct tok *t)
{
    return t->kind == T_NUM && is_digits(t->text) && !t->rep.n && !t->exp10;
}

static bool is_word(const struct tok *t, const char *w)
{
    return t->kind == T_TEXT && span_is_fold(t->text, w);
}

/* Texts of tokens a..b, for names of things that are not evaluated. */
const char *name_of_range(struct parser *p, int a, int b)
{
    size_t n = 1;
    for (int i = a; i < b; i++)
        n += p->t[i].text.n + 2;
    char *s = arena_alloc(&p->c->arena, n), *d = s;
    for (int i = a; i < b; i++) {
        const struct tok *t = &p->t[i];
        memcpy(d, t->text.s ? t->text.s : "", t->text.n);
        d += t->text.n;
        char mark = t->kind == T_PLUS                       ? '+'
                    : t->kind == T_MINUS                    ? '-'
                    : t->kind == T_PRIME                    ? '\''
                    : t->kind == T_SUB                      ? '_'
                    : t->kind == T_COMMA                    ? ','
                    : t->kind == T_LPAREN                   ? '('
                    : t->kind == T_RPAREN                   ? ')'
                    : t->kind == T_COLON                    ? ':'
                    : t->kind == T_BAR                      ? '|'
                    : t->kind == T_DIV || t->kind == T_FRAC ? '/'
                                                            : 0;
        if (mark) {
            *d++ = mark;
        } else if (!t->text.n && t->kind != T_LBRACE && t->kind != T_RBRACE) { /* some sign, told apart by its kind */
            *d++ = '?';
            *d++ = (char)('A' + t->kind % 26);
        } else if (t->text.n > 1 && i + 1 < b) {
            *d++ = ' ';
        }
    }
    *d = 0;
    return s;
}

/* ---- numbers ---- */

static void power_of_ten(fmpz_t out, ulong n)
{
    fmpz_set_ui(out, 10);
    fmpz_pow_ui(out, out, n);
}

struct node *number_of(struct answer_checker *c, const struct tok *t)
{
    struct node *n = node_new(c, N_NUM, 0);
    n->q = pool_q(c);
    char *s = arena_alloc(&c->arena, t->text.n + t->rep.n + 1);
    int len = 0, places = 0, sig = 0;
    bool point = false;
    for (size_t i = 0; i < t->text.n; i++) {
        char ch = t->text.s[i];
        if (ch == '.') {
            point = true;
            continue;
        }
        s[len++] = ch;
        places += point;
        sig += sig || ch != '0';
    }
    s[len] = 0;
    fmpz_t ten;
    fmpz_init(ten);
    fmpz_set_str(fmpq_numref(n->q), len ? s : "0", 10);
    power_of_ten(ten, (ulong)places);
    if (t->rep.n) { /* digits d, k repeating r: (d * (10^k - 1) + r) / (10^places * (10^k - 1)) */
        fmpz_t nines, r;
        fmpz_init(nines);
        fmpz_init(r);
        power_of_ten(nines, t->rep.n);
        fmpz_sub_ui(nines, nines, 1);
        memcpy(s, t->rep.s, t->rep.n);
        s[t->rep.n] = 0;
        fmpz_set_str(r, s, 10);
        fmpz_mul(fmpq_numref(n->q), fmpq_numref(n->q), nines);
        fmpz_add(fmpq_numref(n->q), fmpq_numref(n->q), r);
        fmpz_mul(ten, ten, nines);
        fmpz_clear(nines);
        fmpz_clear(r);
    } else {
        n->decimal = point || t->exp10 < 0;
        n->sig = sig;
        n->places = places - t->exp10;
    }
    fmpz_set(fmpq_denref(n->q), ten);
    fmpq_canonicalise(n->q);
    int e = t->exp10;
    if (e > MAX_EXPONENT || e < -MAX_EXPONENT) {
        limit_hit(c, "limit:bits");
        e = 0;
        n->kind = N_UNDEF;
    }
    power_of_ten(ten, (ulong)abs(e));
    if (e > 0)
        fmpq_mul_fmpz(n->q, n->q, ten);
    else if (e < 0)
        fmpq_div_fmpz(n->q, n->q, ten);
    fmpz_clear(ten);
    return n;
}

/* ---- names in front of = ---- */

/* Behind the subscript or prime marks at i. */
static int skip_marks(const struct parser *p, int i)
{
    for (;;) {
        if (p->t[i].kind == T_PRIME) {
            i++;
        } else if (p->t[i].kind == T_SUB) {
            i++;
            if (p->t[i].kind == T_LBRACE) {
                int depth = 0;
                do {
                    depth += p->t[i].kind == T_LBRACE ? 1 : p->t[i].kind == T_RBRACE ? -1 : 0;
                    i++;
                } while (depth && p->t[i].kind != T_END);
            } else if (p->t[i].kind != T_END) {
                i++;
            }
        } else {
            return i;
        }
    }
}

/* a name: one letter, several capital letters, words, an angle, a decorated name */
static bool is_name(const struct parser *p, int a, int b)
{
    int letters = 0, small = 0, texts = 0;
    for (int i = a; i < b;) {
        const struct tok *t = &p->t[i];
        if (t->kind == T_SYM) {
            letters++;
            small += !(t->text.n == 1 && ch_upper(t->text.s[0]));
            i = skip_marks(p, i + 1);
        } else if (t->kind == T_TEXT) {
            texts++;
            i = skip_marks(p, i + 1);
        } else if (t->kind == T_ANGLE) {
            small -= 8; /* m\angle ABC */
            i++;
        } else if (t->kind == T_DECOR) {
            small -= 8;
            letters++;
            i++;
            while (i < b && (p->t[i].kind == T_LBRACE || p->t[i].kind == T_RBRACE || p->t[i].kind == T_SYM))
                i++;
        } else {
            return false;
        }
        if (i > b)
            return false;
    }
    return (letters && !texts && (letters == 1 || small <= 0)) || (texts && letters <= 1);
}

int closing(const struct parser *p, int open, int b)
{
    int depth = 0;
    for (int i = open; i < b && p->t[i].kind != T_END; i++) {
        depth += p->t[i].kind == p->t[open].kind ? 1 : p->t[i].kind == p->t[open].kind + 1 ? -1 : 0;
        if (!depth)
            return i;
    }
    return -1;
}

/* Is a..b something that an answer may be labelled with? */
static bool is_label(const struct parser *p, int a, int b)
{
    if (a >= b)
        return false;
    if (is_name(p, a, b))
        return true;
    const struct tok *t = p->t;
    if (t[a].kind == T_BAR && t[b - 1].kind == T_BAR && b - a > 2)
        return is_name(p, a + 1, b - 1);
    if (t[a].kind == T_SYM || t[a].kind == T_TEXT) { /* f(x), f^{-1}(x), P(A) */
        int i = skip_marks(p, a + 1);
        if (i + 4 < b && t[i].kind == T_HAT && t[i + 1].kind == T_LBRACE && t[i + 2].kind == T_MINUS)
            i = i + 5;
        if (i < b && t[i].kind == T_LPAREN && closing(p, i, b) == b - 1)
            return true;
    }
    if (t[a].kind == T_FRAC && t[a + 1].kind == T_LBRACE) {
        int m = closing(p, a + 1, b);
        return m > 0 && m + 1 < b && t[m + 1].kind == T_LBRACE && closing(p, m + 1, b) == b - 1 &&
               is_name(p, a + 2, m) && is_name(p, m + 2, b - 1);
    }
    int start = a, parts = 0;
    for (int i = a; i <= b; i++)
        if (i == b || t[i].kind == T_COLON || t[i].kind == T_DIV) {
            if (i == start || !is_name(p, start, i))
                return false;
            start = i + 1;
            parts++;
        }
    return parts >= 2;
}

/* (x,y): names to *names; their number, 0 if it is no tuple of names. */
static int tuple_label(struct parser *p, int a, int b, const char ***names)
{
    if (b - a < 5 || p->t[a].kind != T_LPAREN || p->t[b - 1].kind != T_RPAREN)
        return 0;
    const char **list = arena_alloc(&p->c->arena, MAX_LIST * sizeof *list);
    int n = 0, start = a + 1;
    for (int i = a + 1; i < b; i++)
        if (i == b - 1 || p->t[i].kind == T_COMMA || p->t[i].kind == T_SEMI) {
            if (n >= MAX_LIST || i == start || !is_name(p, start, i))
                return 0;
            list[n++] = name_of_range(p, start, i);
            start = i + 1;
        }
    *names = list;
    return n >= 2 ? n : 0;
}

/* ---- lists ---- */

static bool is_separator(enum tok_kind k)
{
    return k == T_COMMA || k == T_SEMI || k == T_AND || k == T_OR || k == T_ROW;
}

struct node *list_of(struct answer_checker *c, struct node **items, int n, int op)
{
    if (n == 1)
        return items[0];
    struct node *list = node_new(c, N_LIST, n);
    memcpy(list->kid, items, (size_t)n * sizeof *items);
    list->op = op;
    return list;
}

/* Items up to a token that is none; a single one is itself, several are a list. Where both , and ; stand, ; separates
 * groups. */
struct node *parse_items(struct parser *p, bool top)
{
    struct node *items[MAX_LIST], *groups[MAX_LIST];
    int n = 0, ng = 0, op = 0;
    bool comma = false, semi = false;
    for (int i = p->i, depth = 0; p->t[i].kind != T_END; i++) {
        enum tok_kind k = p->t[i].kind;
        depth += k == T_LPAREN || k == T_LBRACK || k == T_LSET || k == T_LBRACE || k == T_LANGLE || k == T_BEGIN;
        depth -= k == T_RPAREN || k == T_RBRACK || k == T_RSET || k == T_RBRACE || k == T_RANGLE || k == T_FINISH;
        if (depth < 0)
            break;
        comma = comma || (k == T_COMMA && !depth);
        semi = semi || (k == T_SEMI && !depth);
    }
    while (top && (peek(p) == T_AMP || peek(p) == T_ROW))
        p->i++;
    for (;;) {
        struct node *item = parse_relation(p);
        if (!item)
            return NULL;
        if (n >= MAX_LIST || ng >= MAX_LIST) {
            limit_hit(p->c, "limit:list");
            return NULL;
        }
        items[n++] = item;
        if (!is_separator(peek(p)))
            break;
        bool split = false;
        while (is_separator(peek(p)) || (top && peek(p) == T_AMP)) {
            op |= peek(p) == T_OR ? 1 : peek(p) == T_AND ? 2 : 0;
            split = split || (peek(p) == T_SEMI && comma && semi);
            p->i++;
        }
        if (peek(p) == T_END) /* "1, 2," */
            break;
        if (split) {
            groups[ng++] = list_of(p->c, items, n, 0);
            n = 0;
        }
    }
    if (!ng)
        return list_of(p->c, items, n, op);
    groups[ng++] = list_of(p->c, items, n, 0);
    return list_of(p->c, groups, ng, op);
}

/* ---- units ---- */

/* 20 degrees, and then C or F */
static bool is_temperature(const struct parser *p, int i)
{
    const struct tok *t = &p->t[i];
    return t->kind == T_SYM && (span_is(t->text, "C") || span_is(t->text, "F")) && i > 0 &&
           (t[-1].kind == T_DEGREE || (t[-1].kind == T_RBRACE && i > 1 && t[-2].kind == T_DEGREE));
}

static bool starts_unit(const struct parser *p)
{
    return is_temperature(p, p->i) || peek(p) == T_TEXT || peek(p) == T_CURRENCY;
}

/* Words behind a value: "square cm", "cm^2", "m/s", "miles per hour". Canonical: singular, powers as ^n. */
static const char *parse_unit(struct parser *p)
{
    static const struct {
        const char *from, *to;
    } same[] = { { "centimeter", "cm" }, { "centimetre", "cm" }, { "meter", "m" },       { "metre", "m" },
                 { "kilometer", "km" },  { "kilometre", "km" },  { "millimeter", "mm" }, { "foot", "ft" },
                 { "feet", "ft" },       { "inch", "in" },       { "inche", "in" },      { "mile", "mi" },
                 { "hour", "h" },        { "hr", "h" },          { "minute", "min" },    { "second", "s" },
                 { "sec", "s" },         { "kilogram", "kg" },   { "gram", "g" },        { "pound", "lb" },
                 { "lbs", "lb" },        { "cent", "cent" },     { "mph", "mi/h" },      { "yard", "yd" },
                 { "liter", "l" },       { "litre", "l" },       { "unit", "" },         { "units", "" },
                 { "hrs", "h" },         { "yds", "yd" },        { "kgs", "kg" },        { "yr", "year" },
                 { "yrs", "year" },      { "ounce", "oz" },      { "kph", "km/h" },      { "kmh", "km/h" },
                 { "milliliter", "ml" }, { "millilitre", "ml" } };
    struct buf b = BUF_INIT;
    int power = 1;
    for (;; p->i++) {
        const struct tok *t = &p->t[p->i];
        char word[32];
        if (t->kind == T_HAT && plain_int(&p->t[p->i + 1]) && b.len) {
            p->i++;
            power = atoi(p->t[p->i].text.s);
            buf_printf(&b, "^%d", power);
            power = 1;
            continue;
        }
        if (t->kind == T_HAT && p->t[p->i + 1].kind == T_LBRACE && plain_int(&p->t[p->i + 2]) &&
            p->t[p->i + 3].kind == T_RBRACE && b.len) {
            buf_printf(&b, "^%d", atoi(p->t[p->i + 2].text.s));
            p->i += 3;
            continue;
        }
        if (t->kind == T_DIV && (p->t[p->i + 1].kind == T_TEXT) && b.len) {
            buf_putc(&b, '/');
            continue;
        }
        if (t->kind == T_LBRACE && p->t[p->i + 1].kind == T_RBRACE) {
            p->i++;
            continue;
        }
        if (t->kind != T_TEXT && t->kind != T_CURRENCY && !is_temperature(p, p->i))
            break;
        if (is_word(t, "square") || is_word(t, "sq")) {
            power = 2;
            continue;
        }
        if (is_word(t, "cubic") || is_word(t, "cu")) {
            power = 3;
            continue;
        }
        if (is_word(t, "per")) {
            buf_putc(&b, '/');
            continue;
        }
        size_t n = t->text.n < sizeof word - 1 ? t->text.n : sizeof word - 1;
        for (size_t i = 0; i < n; i++)
            word[i] = ch_lower(t->text.s[i]);
        if (n > 3 && word[n - 1] == 's' && word[n - 2] != 's')
            n--;
        word[n] = 0;
        const char *name = word;
        for (size_t i = 0; i < sizeof same / sizeof *same; i++)
            if (strcmp(word, same[i].from) == 0)
                name = same[i].to;
        if (b.len && b.s[b.len - 1] != '/' && *name)
            buf_putc(&b, ' ');
        buf_puts(&b, name);
        if (power > 1 && *name)
            buf_printf(&b, "^%d", power);
        power = 1;
    }
    const char *unit = arena_strndup(&p->c->arena, b.s ? b.s : "", b.len);
    buf_release(&b);
    return unit;
}

static struct node *with_unit(struct parser *p, struct node *v, const char *unit)
{
    if (!*unit)
        return v;
    if (v->kind == N_QTY)
        return strcmp(v->name, unit) == 0 ? v : NULL;
    struct node *q = node_name(p->c, N_QTY, unit, 1);
    q->kid[0] = v;
    return q;
}

/* ---- relations ---- */

static struct node *parse_ratio(struct parser *p);

static struct node *parse_set(struct parser *p)
{
    struct node *a = parse_ratio(p);
    while (a) {
        enum kind k = peek(p) == T_CUP ? N_UNION : peek(p) == T_CAP ? N_INTER : peek(p) == T_SETMINUS ? N_DIFF : N_NUM;
        if (k == N_NUM)
            break;
        p->i++;
        struct node *b = parse_ratio(p);
        a = b ? node_2(p->c, k, a, b) : NULL;
    }
    return a;
}

/* Words and nothing else up to the end of the item. */
static struct node *parse_words(struct parser *p)
{
    int a = p->i;
    while (peek(p) == T_TEXT || peek(p) == T_PRIME || (peek(p) == T_MINUS && p->t[p->i + 1].kind == T_TEXT))
        p->i++;
    enum tok_kind k = peek(p);
    if (k == T_END || is_separator(k) || k == T_RPAREN || k == T_RBRACK || k == T_RSET || k == T_RBRACE)
        return node_name(p->c, N_TEXT, name_of_range(p, a, p->i), 0);
    p->i = a;
    return NULL;
}

static struct node *labelled(struct parser *p, const char *name, struct node *lhs, struct node *value)
{
    struct node *n = node_new(p->c, N_NAMED, 1);
    n->names = arena_alloc(&p->c->arena, sizeof *n->names);
    n->names[0] = name;
    n->kid[0] = value;
    n->lhs = lhs;
    return n;
}

/* Which value does a chain name = v = w say? The last exact one. */
static struct node *chain_value(struct node **side, const enum rel *ops, int n)
{
    int last = n - 1;
    while (last > 1 && ops[last - 1] == REL_APPROX)
        last--;
    return side[last];
}

struct node *parse_relation(struct parser *p)
{
    struct node *side[MAX_LIST], *found = NULL;
    enum rel ops[MAX_LIST];
    int n = 0, first = p->i, first_end = 0;
    bool all_equal = true;
    if (!enter(p))
        return NULL;
    if (peek(p) == T_TEXT && (found = parse_words(p))) {
        p->depth--;
        return found;
    }
    /* "Area: 5", "k: 5" */
    for (int i = p->i; p->t[i].kind == T_TEXT || p->t[i].kind == T_SYM; i++)
        if (p->t[i + 1].kind == T_COLON && is_name(p, p->i, i + 1) && p->t[i + 2].kind != T_SYM &&
            p->t[i + 2].kind != T_END && p->t[i + 2].kind != T_TEXT) {
            p->i = first = i + 2;
            break;
        }
    if (peek(p) == T_REL && p->t[p->i].op <= REL_APPROX) /* "= 5", "\approx 5" */
        if (p->t[p->i].op == REL_EQ || p->t[p->i].op == REL_APPROX)
            first = ++p->i;
    for (;;) {
        struct node *s = NULL;
        if (n == 0) { /* a label made of words, angles, bars is no expression */
            int i = p->i, depth = 0;
            while (p->t[i].kind != T_END && p->t[i].kind != T_REL && !(is_separator(p->t[i].kind) && !depth)) {
                depth += p->t[i].kind == T_LPAREN ? 1 : p->t[i].kind == T_RPAREN ? -1 : 0;
                i++;
            }
            if (p->t[i].kind == T_REL && (p->t[i].op == REL_EQ || p->t[i].op == REL_APPROX) && is_label(p, p->i, i)) {
                s = node_name(p->c, N_SYM, name_of_range(p, p->i, i), 0);
                int save = p->i;
                struct node *real = parse_set(p);
                if (real && p->i == i) /* keep the expression, for equations between two sides that both have letters */
                    s = real;
                else
                    p->i = save;
                p->i = i;
            }
        }
        if (!s)
            s = parse_set(p);
        if (!s || n >= MAX_LIST)
            goto bad;
        if (n == 0)
            first_end = p->i;
        side[n++] = s;
        if (peek(p) != T_REL)
            break;
        ops[n - 1] = p->t[p->i].op;
        all_equal = all_equal && (ops[n - 1] == REL_EQ || ops[n - 1] == REL_APPROX);
        p->i++;
        while (peek(p) == T_AMP)
            p->i++;
    }
    p->depth--;
    if (n == 1)
        return side[0];
    if (all_equal) {
        const char **names;
        int k = tuple_label(p, first, first_end, &names);
        struct node *v = chain_value(side, ops, n);
        if (k && v->kind == N_TUPLE && v->n == k) {
            struct node *r = node_new(p->c, N_NAMED, k);
            r->names = names;
            memcpy(r->kid, v->kid, (size_t)k * sizeof *v->kid);
            r->op = 1;
            return r;
        }
        if (k && n == 2)
            return v;
        if (n >= 2 && ops[n - 2] == REL_APPROX && !(n == 2 && is_label(p, first, first_end)))
            n--; /* 70/9 \approx 7.78: the exact value counts */
        if (n == 1)
            return side[0];
        if (is_label(p, first, first_end))
            return labelled(p, name_of_range(p, first, first_end), side[0], v);
    }
    if (n == 2 && ops[0] == REL_IN &&
        (is_label(p, first, first_end) || tuple_label(p, first, first_end, &(const char **){ 0 })))
        return labelled(p, name_of_range(p, first, first_end), side[0], side[1]);
    struct node *r = node_new(p->c, N_REL, n);
    memcpy(r->kid, side, (size_t)n * sizeof *side);
    r->ops = arena_alloc(&p->c->arena, (size_t)n);
    for (int i = 0; i + 1 < n; i++)
        r->ops[i] = (unsigned char)ops[i];
    return r;
bad:
    p->depth--;
    return NULL;
}

/* ---- ratios and times ---- */

static struct node *parse_time(struct parser *p)
{
    const struct tok *h = &p->t[p->i];
    int used = 1, minutes = 0;
    if (!plain_int(h) || h->text.n > 2)
        return NULL;
    if (h[1].kind == T_COLON && plain_int(&h[2]) && h[2].text.n == 2) {
        used = 3;
        minutes = atoi(h[2].text.s);
    }
    bool marked = h[used].kind == T_AMPM;
    if ((used == 1 && !marked) || h[used].kind == T_COLON || minutes > 59 || atoi(h->text.s) > 24)
        return NULL;
    struct node *n = node_new(p->c, N_TIME, 2);
    n->sig = atoi(h->text.s) * 60 + minutes;
    n->op = !marked ? 0 : span_is(h[used].text, "am") ? 1 : 2;
    n->kid[0] = number_of(p->c, h);
    n->kid[1] = node_num(p->c, minutes);
    p->i += used + marked;
    return n;
}

static struct node *parse_ratio(struct parser *p)
{
    struct node *part[MAX_LIST];
    int n = 0;
    if ((part[0] = parse_time(p)))
        return part[0];
    for (;;) {
        if (n >= MAX_LIST || !(part[n++] = parse_sum(p)))
            return NULL;
        if (!take(p, T_COLON))
            break;
    }
    if (n == 1)
        return part[0];
    struct node *r = node_new(p->c, N_RATIO, n);
    memcpy(r->kid, part, (size_t)n * sizeof *part);
    return r;
}

/* ---- sums ---- */

bool starts_factor(const struct parser *p)
{
    switch (peek(p)) {
    case T_SYM:
        return !is_temperature(p, p->i);
    case T_NUM:
    case T_FUNC:
    case T_PI:
    case T_INF:
    case T_FRAC:
    case T_SQRT:
    case T_BINOM:
    case T_SUM:
    case T_DECOR:
    case T_BEGIN:
    case T_LBRACE:
    case T_LPAREN:
    case T_LBRACK:
    case T_LANGLE:
    case T_LFLOOR:
    case T_LCEIL:
    case T_NORM:
    case T_ANGLE:
    case T_EMPTY:
    case T_REALS:
    case T_NAMED_SET:
    case T_LSET:
        return true;
    case T_BAR:
        return p->abs == 0;
    default:
        return false;
    }
}

/* \frac of two plain integers at i: a mixed number's part. */
static bool integer_fraction(const struct parser *p, int i)
{
    if (p->t[i].kind != T_FRAC)
        return false;
    i++;
    if (plain_int(&p->t[i]) && p->t[i].text.n == 2) /* \frac45 */
        return true;
    for (int k = 0; k < 2; k++) {
        bool brace = p->t[i].kind == T_LBRACE;
        if (!plain_int(&p->t[i + brace]))
            return false;
        i += 1 + brace;
        if (brace && p->t[i++].kind != T_RBRACE)
            return false;
    }
    return true;
}

static struct node *parse_signed(struct parser *p)
{
    int minus = 0, sign = 0;
    while (peek(p) == T_MINUS || peek(p) == T_PLUS) {
        minus += peek(p) == T_MINUS;
        sign++;
        p->i++;
    }
    if (sign > 2)
        return NULL;
    struct node *a = parse_power(p);
    return a && minus % 2 ? node_neg(p->c, a) : a;
}

struct node *parse_product(struct parser *p)
{
    struct node *a = NULL;
    bool divide = false;
    if (!enter(p))
        return NULL;
    for (bool first = true;; first = false) {
        enum tok_kind k = peek(p);
        bool implicit = false;
        if (!first) {
            if (k == T_TIMES || k == T_CROSS) {
                p->i++;
                divide = false;
            } else if (k == T_DIV) {
                p->i++;
                divide = true;
            } else if (starts_factor(p)) {
                enum tok_kind before = p->t[p->i - 1].kind;
                if (k == T_NUM && (before == T_NUM || before == T_SYM)) {
                    a = NULL;
                    break;
                }
                divide = false;
                implicit = true;
            } else {
                break;
            }
        }
        int start = p->i;
        bool integer = plain_int(&p->t[start]);
        struct node *b = first || implicit ? parse_power(p) : parse_signed(p);
        if (!b) {
            a = NULL;
            break;
        }
        if (integer && p->i == start + 1 && !divide && integer_fraction(p, p->i)) {
            struct node *f = parse_power(p);
            if (!f) {
                a = NULL;
                break;
            }
            b = node_2(p->c, N_ADD, b, f);
        } else if (integer && p->i == start + 1 && !divide && plain_int(&p->t[p->i]) && p->t[p->i].space &&
                   p->t[p->i + 1].kind == T_DIV && plain_int(&p->t[p->i + 2])) { /* 3 1/2 */
            struct node *x = number_of(p->c, &p->t[p->i]), *y = number_of(p->c, &p->t[p->i + 2]);
            p->i += 3;
            b = node_2(p->c, N_ADD, b, quotient(p->c, x, y));
        }
        a = !a ? b : divide ? quotient(p->c, a, b) : node_2(p->c, N_MUL, a, b);
        divide = false;
    }
    p->depth--;
    return a;
}

struct node *parse_sum(struct parser *p)
{
    struct node *a = NULL;
    const char *currency = NULL;
    for (bool first = true;; first = false) {
        enum tok_kind k = peek(p);
        int minus = 0;
        if (!first && k != T_PLUS && k != T_MINUS && k != T_PM && k != T_MP)
            break;
        bool pm = k == T_PM || k == T_MP;
        if (k == T_PLUS || k == T_MINUS || pm)
            p->i++;
        minus += k == T_MINUS;
        for (int more = 0; peek(p) == T_MINUS || peek(p) == T_PLUS; more++, p->i++) {
            minus += peek(p) == T_MINUS;
            if (more)
                return NULL;
        }
        if (peek(p) == T_CURRENCY) {
            currency = name_of(p, p->t[p->i++].text);
            if (take(p, T_MINUS))
                minus++;
        }
        struct node *b = parse_product(p);
        if (!b)
            return NULL;
        /* -3 1/2 is -(3 + 1/2): the mixed number is one factor */
        if (minus % 2)
            b = node_neg(p->c, b);
        if (pm) {
            a = node_2(p->c, N_PM, a ? a : node_num(p->c, 0), b);
            a->op = k == T_MP;
        } else {
            a = a ? node_2(p->c, N_ADD, a, b) : b;
        }
        if (starts_unit(p) || (peek(p) == T_LBRACE && p->t[p->i + 1].kind == T_TEXT))
            break;
    }
    if (currency && !(a = with_unit(p, a, currency)))
        return NULL;
    if (starts_unit(p)) {
        const char *unit = parse_unit(p);
        if (currency && !*unit)
            return a;
        /* "$5 dollars" is once enough; other words behind money ("per hour") are not kept apart */
        a = currency ? (strcmp(unit, currency) == 0 ? a : with_unit(p, a->kid[0], unit)) : with_unit(p, a, unit);
    }
    return a;
}

/* ---- powers and postfix ---- */

/* ^\circ, ^{\circ}, a degree sign */
static bool take_degree(struct parser *p)
{
    const struct tok *t = &p->t[p->i];
    if (t->kind == T_DEGREE) {
        p->i++;
    } else if (t->kind == T_HAT && t[1].kind == T_DEGREE) {
        p->i += 2;
    } else if (t->kind == T_HAT && t[1].kind == T_LBRACE && t[2].kind == T_DEGREE && t[3].kind == T_RBRACE) {
        p->i += 4;
    } else {
        return false;
    }
    return true;
}

static bool take_prime(struct parser *p)
{
    if (take(p, T_PRIME))
        return true;
    if (peek(p) == T_HAT && p->t[p->i + 1].kind == T_PRIME) {
        p->i += 2;
        return true;
    }
    return false;
}

struct node *parse_exponent(struct parser *p)
{
    bool minus = false;
    if (peek(p) == T_MINUS || peek(p) == T_PLUS)
        minus = p->t[p->i++].kind == T_MINUS;
    struct node *e = NULL;
    if (!enter(p))
        return NULL;
    if (peek(p) == T_NUM)
        e = number_of(p->c, &p->t[p->i++]);
    else
        e = parse_argument(p);
    if (e && peek(p) == T_HAT && !take_degree(p)) {
        p->i++;
        struct node *f = parse_exponent(p);
        e = f ? node_2(p->c, N_POW, e, f) : NULL;
    }
    p->depth--;
    return e && minus ? node_neg(p->c, e) : e;
}

static struct node *with_prime(struct parser *p, struct node *a)
{
    if (a->kind != N_SYM)
        return NULL;
    size_t n = strlen(a->name);
    char *s = arena_alloc(&p->c->arena, n + 2);
    memcpy(s, a->name, n);
    s[n] = '\'';
    s[n + 1] = 0;
    struct node *b = node_new(p->c, N_SYM, a->n);
    *b = *a;
    b->name = s;
    return b;
}

/* Subscript of a letter: a tree, so that F_{n-k-1} and F_{n-1-k} are one name. Words become a name. */
struct node *parse_subscript(struct parser *p)
{
    if (peek(p) == T_LBRACE) {
        int end = closing(p, p->i, p->i + MAX_TOKENS);
        int a = ++p->i;
        if (end < 0)
            return NULL;
        struct node *s = parse_items(p, false);
        if (s && p->i == end) {
            p->i++;
            return s;
        }
        p->i = end + 1;
        return node_name(p->c, N_SYM, name_of_range(p, a, end), 0);
    }
    if (peek(p) == T_NUM || peek(p) == T_TEXT) {
        const struct tok *t = &p->t[p->i++];
        return t->kind == T_NUM ? number_of(p->c, t) : node_name(p->c, N_SYM, name_of(p, t->text), 0);
    }
    return parse_argument(p);
}

static struct node *parse_base(struct parser *p, const struct tok *digits)
{
    bool brace = take(p, T_LBRACE);
    if (!plain_int(&p->t[p->i]) || p->t[p->i].text.n > 2)
        return NULL;
    struct node *n = node_new(p->c, N_BASE, 0);
    struct span d = digits->text;
    while (d.n > 1 && d.s[0] == '0')
        d.s++, d.n--;
    n->name = name_of(p, d);
    n->sig = atoi(p->t[p->i++].text.s);
    return brace && !take(p, T_RBRACE) ? NULL : n;
}

struct node *parse_power(struct parser *p)
{
    if (!enter(p))
        return NULL;
    int first = p->i;
    struct node *a = parse_primary(p), *power = NULL;
    while (a) {
        if (take_degree(p)) {
            struct node *d = node_new(p->c, N_DEG, 1);
            d->kid[0] = a;
            a = d;
        } else if (take_prime(p)) {
            a = with_prime(p, a);
        } else if (peek(p) == T_HAT) {
            p->i++;
            struct node *e = parse_exponent(p);
            if (!e || power) {
                a = NULL;
                break;
            }
            power = e;
        } else if (peek(p) == T_SUB) {
            const struct tok *t = &p->t[first];
            p->i++;
            if (t->kind == T_NUM && p->i == first + 2) {
                a = is_digits(t->text) && !t->exp10 ? parse_base(p, t) : NULL;
                continue;
            }
            struct node *s = parse_subscript(p);
            if (!s || a->kind != N_SYM || a->n) {
                if (s && (a->kind == N_I || a->kind == N_E)) { /* e_1, i_0: a letter after all */
                    a = node_name(p->c, N_SYM, a->kind == N_I ? "i" : "e", 0);
                } else {
                    a = NULL;
                    break;
                }
            }
            struct node *b = node_name(p->c, N_SYM, a->name, 1);
            b->kid[0] = s;
            a = b;
        } else if (peek(p) == T_BANG) {
            p->i++;
            if (power || peek(p) == T_BANG) { /* n!! is something else */
                a = NULL;
                break;
            }
            a = func_1(p->c, "fact", a);
        } else if (peek(p) == T_PERCENT) {
            p->i++;
            if (power)
                a = node_2(p->c, N_POW, a, power), power = NULL;
            struct node *d = node_new(p->c, N_PCT, 1);
            d->kid[0] = a;
            a = d;
            break;
        } else {
            break;
        }
    }
    p->depth--;
    return a && power ? node_2(p->c, N_POW, a, power) : a;
}

struct node *answer_parse(struct answer_checker *c, struct tok *t)
{
    struct parser p = { .c = c, .t = t };
    if (t[0].kind == T_END)
        return NULL;
    struct node *a = parse_items(&p, true);
    return a && peek(&p) == T_END ? a : NULL;
}
