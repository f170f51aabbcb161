/* answer.c - the checker's outside: names, results, and the order in which a comparison is tried. */
#include "task/answer.h"

#include <flint/fmpq.h>
#include <flint/fmpz.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "task/answer_private.h"

static const char *const task_names[] = { "math", "gsm8k", "mmlu", "exact" };

bool answer_task_of(const char *name, enum answer_task *out)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, task_names[i]) == 0) {
            *out = (enum answer_task)i;
            return true;
        }
    if (strcmp(name, "multiple_choice") == 0 || strcmp(name, "metamathqa") == 0) {
        *out = name[1] == 'u' ? ANSWER_MMLU : ANSWER_EXACT;
        return true;
    }
    return false;
}

const char *answer_task_name(enum answer_task task)
{
    return task_names[task];
}

void answer_result_init(struct answer_result *r)
{
    memset(r, 0, sizeof *r);
    r->reason = "unknown";
}

void answer_result_release(struct answer_result *r)
{
    buf_release(&r->extracted);
    buf_release(&r->gold_form);
    buf_release(&r->pred_form);
}

int answer_checker_open(struct answer_checker **out, struct err *e)
{
    (void)e;
    *out = xcalloc(1, sizeof **out);
    return 0;
}

static void checker_reset(struct answer_checker *c)
{
    while (c->chunks) {
        struct q_chunk *k = c->chunks;
        for (int i = 0; i < k->used; i++)
            fmpq_clear(&k->q[i]);
        c->chunks = k->next;
        k->next = c->spare;
        c->spare = k;
    }
    arena_reset(&c->arena);
    c->nodes = 0;
    c->work = 0;
    c->limit = NULL;
}

void answer_checker_flush(struct answer_checker *c)
{
    checker_reset(c);
    flint_cleanup();
}

void answer_checker_close(struct answer_checker *c)
{
    if (!c)
        return;
    checker_reset(c);
    while (c->spare) {
        struct q_chunk *k = c->spare;
        c->spare = k->next;
        free(k);
    }
    arena_release(&c->arena);
    buf_release(&c->plain[0]);
    buf_release(&c->plain[1]);
    free(c);
    flint_cleanup();
}

/* ---- text ---- */

/* A text as it is compared: letters folded; style commands, white space and punctuation left out. What stands between
 * two digits stays (1.5 is not 15, and 3 1/2 not 31/2), and brackets stay where they are asked for. */
struct fold {
    struct span v;
    size_t i;
    bool brackets;
    char last; /* given out before */
};

static char fold_next(struct fold *f)
{
    char gap = 0;
    while (f->i < f->v.n) {
        char ch = f->v.s[f->i];
        if (ch == '\\') {
            size_t j = f->i + 1;
            while (j < f->v.n && ch_alpha(f->v.s[j]))
                j++;
            f->i = j > f->i + 1 || f->i + 1 >= f->v.n || f->v.s[f->i + 1] == '\\' ? j : f->i + 2;
            gap = gap ? gap : ' ';
        } else if (ch_alnum(ch) || (unsigned char)ch >= 0x80 || strchr("+-=<>/^_|%&", ch) ||
                   (f->brackets && strchr("()[]", ch)) || (ch == '!' && ch_digit(f->last))) {
            if (gap && ch_digit(ch) && ch_digit(f->last))
                return f->last = gap;
            f->i++;
            return f->last = ch_lower(ch);
        } else {
            gap = gap && gap != ' ' ? gap : ch_space(ch) ? ' ' : ch;
            f->i++;
        }
    }
    return 0;
}

static bool folded_equal(struct span a, struct span b, bool brackets)
{
    struct fold x = { a, 0, brackets, 0 }, y = { b, 0, brackets, 0 };
    for (bool any = false;; any = true) {
        char p = fold_next(&x), q = fold_next(&y);
        if (p != q)
            return false;
        if (!p)
            return any;
    }
}

/* Equal but for white space next to something that is no letter or digit. */
static bool bytes_equal(struct span a, struct span b)
{
    size_t i = 0, j = 0;
    for (char last = 0;; last = a.s[i - 1]) {
        bool space_a = false, space_b = false;
        for (; i < a.n && ch_space(a.s[i]); i++)
            space_a = true;
        for (; j < b.n && ch_space(b.s[j]); j++)
            space_b = true;
        if (i >= a.n || j >= b.n)
            return i >= a.n && j >= b.n;
        if (space_a != space_b && ch_alnum(last) && ch_alnum(a.s[i]))
            return false;
        if (a.s[i++] != b.s[j++])
            return false;
    }
}

static bool tokens_equal(const struct tok *a, const struct tok *b)
{
    for (; a->kind == b->kind && a->op == b->op && a->exp10 == b->exp10 && a->text.n == b->text.n &&
           a->rep.n == b->rep.n && memcmp(a->text.s ? a->text.s : "", b->text.s ? b->text.s : "", a->text.n) == 0 &&
           memcmp(a->rep.s ? a->rep.s : "", b->rep.s ? b->rep.s : "", a->rep.n) == 0;
         a++, b++)
        if (a->kind == T_END)
            return true;
    return false;
}

/* ---- choices ---- */

/* The letter that an answer picks: "C", "(C)", "\text{(C)}", "C) 45", "**C**", "option C"; 0 if it picks none. */
static char picked_letter(struct span v, bool gold)
{
    static const char *const skip[] = { "\\textbf{", "\\text{",  "\\mathrm{", "\\mbox{", "\\textrm{",
                                        "\\mathbf{", "\\boxed{", "option",    "choice",  "answer",
                                        "Option",    "Choice",   "Answer",    "\\(",     "\\left(" };
    v = span_strip(v);
    for (bool again = true; again;) {
        again = false;
        while (v.n && strchr(" *($\"'{~:", v.s[0]))
            v.s++, v.n--;
        for (size_t i = 0; i < sizeof skip / sizeof *skip; i++)
            if (span_starts(v, skip[i])) {
                v.s += strlen(skip[i]);
                v.n -= strlen(skip[i]);
                again = true;
            }
    }
    if (!v.n || v.s[0] < 'A' || v.s[0] > 'J')
        return 0;
    char letter = v.s[0];
    v.s++, v.n--;
    bool open = span_starts(v, "\\right)") || span_starts(v, "\\)") || (v.n && !gold && strchr(").:*", v.s[0]));
    if (open) { /* "C) 45"; a second letter would be a second choice */
        for (size_t i = 0; i < v.n; i++)
            if (answer_lone_letter(v, i))
                return 0;
        return letter;
    }
    while (v.n && strchr(" )}*$\"'.", v.s[0]))
        v.s++, v.n--;
    return v.n ? 0 : letter;
}

/* ---- one side ---- */

struct side {
    struct span text;
    struct tok *tok[MAX_READINGS];
    struct node *tree[MAX_READINGS]; /* NULL: not mathematics */
    int n;
};

/* Commas of a gold alone are thousands when they can be; next to a space or in brackets they separate. */
static bool gold_has_thousands(struct span v)
{
    for (size_t i = 0; i < v.n; i++) {
        if (strchr("([{", v.s[i]) && v.s[i])
            return false;
        if (v.s[i] == ',' && i + 1 < v.n && v.s[i + 1] == ' ')
            return false;
    }
    return true;
}

static void read_once(struct answer_checker *c, struct side *s, unsigned reading)
{
    c->reading = reading;
    struct tok *t = answer_lex(c, s->text);
    struct node *n = t ? answer_parse(c, t) : NULL;
    /* parsing eats the digits of \frac12: for a comparison of tokens they are read again */
    s->tok[s->n] = n || !t ? t : answer_lex(c, s->text);
    s->tree[s->n] = n ? answer_canon(c, n) : NULL;
    s->n++;
}

static void read_side(struct answer_checker *c, struct side *s, struct span text, bool gold)
{
    unsigned reading = READ_THOUSANDS | READ_ROOT_RUN;
    s->text = text;
    s->n = 0;
    if (gold && !gold_has_thousands(text))
        reading &= ~(unsigned)READ_THOUSANDS;
    c->ambiguous = 0;
    read_once(c, s, reading);
    unsigned seen = c->ambiguous;
    bool commas = !gold && (seen & READ_THOUSANDS);
    if (commas)
        read_once(c, s, reading & ~(unsigned)READ_THOUSANDS);
    if (seen & READ_ROOT_RUN)
        read_once(c, s, reading & ~(unsigned)READ_ROOT_RUN);
    if (commas && (seen & READ_ROOT_RUN))
        read_once(c, s, 0);
}

static enum tri sides_equal(struct answer_checker *c, struct side *g, struct side *p, int *gi, int *pi,
                            const char **why)
{
    enum tri best = NO;
    const char *first = NULL;
    for (int i = 0; i < g->n; i++)
        for (int j = 0; j < p->n; j++) {
            struct node *a = g->tree[i], *b = p->tree[j];
            enum tri r;
            *why = "text";
            if (a && b && a->kind != N_TEXT && b->kind != N_TEXT)
                r = answer_equal(c, a, b, why);
            else if ((a && a->kind == N_TEXT) || (b && b->kind == N_TEXT))
                r = folded_equal(g->text, p->text, false) ? YES : NO;
            else if (!a && !b)
                r = g->tok[i] && p->tok[j] && tokens_equal(g->tok[i], p->tok[j]) ? YES : NO;
            else
                r = NO;
            if (r == YES) {
                *gi = i;
                *pi = j;
                return YES;
            }
            if (!first || (r == MAYBE && best == NO)) {
                first = *why;
                best = r;
                *gi = i;
                *pi = j;
            }
        }
    *why = first ? first : "unknown";
    return best;
}

static void put_form(struct buf *out, const struct side *s, int i)
{
    buf_reset(out);
    if (s->n && s->tree[i])
        node_print(s->tree[i], out);
    else
        buf_add(out, s->text.s, s->text.n);
}

static void conclude(struct answer_result *r, enum answer_verdict verdict, const char *reason)
{
    r->verdict = verdict;
    r->reason = reason;
}

/* ---- what stands around an answer ---- */

/* Where `word` begins a command or a word of v outside of brackets; v.n if nowhere. */
static size_t find_outer(struct span v, const char *word)
{
    size_t n = strlen(word);
    int depth = 0;
    for (size_t k = 0; k < v.n; k++) {
        depth += strchr("([{", v.s[k]) && v.s[k] ? 1 : strchr(")]}", v.s[k]) && v.s[k] ? -1 : 0;
        if (depth == 0 && v.n - k >= n && memcmp(v.s + k, word, n) == 0 && (k + n == v.n || !ch_alpha(v.s[k + n])))
            return k;
    }
    return v.n;
}

/* Nothing but equations: what follows from them is meant without a condition. */
static bool is_equation(struct span v)
{
    static const char *const not_one[] = {
        "\\le", "\\leq", "\\ge", "\\geq", "\\ne", "\\neq", "\\in", "\\lor", "\\text"
    };
    for (size_t i = 0; i < sizeof not_one / sizeof *not_one; i++)
        if (find_outer(v, not_one[i]) < v.n)
            return false;
    bool equal = false;
    for (size_t i = 0; i < v.n; i++) {
        if ((unsigned char)v.s[i] >= 0x80 || (strchr(",;<>!:", v.s[i]) && v.s[i]))
            return false;
        equal |= v.s[i] == '=';
    }
    return equal;
}

/* "x - 2 = 0 \implies x = 2" answers x = 2, and "\therefore 5" answers 5. */
static struct span conclusion(struct span v)
{
    static const char *const arrows[] = { "\\implies", "\\Rightarrow", "\\Longrightarrow", "\\therefore" };
    struct span rest = v;
    for (bool found = true; found;) {
        found = false;
        for (size_t i = 0; i < sizeof arrows / sizeof *arrows && !found; i++) {
            size_t k = find_outer(rest, arrows[i]);
            if (k == rest.n)
                continue;
            struct span before = span_strip(span_of(rest.s, k));
            if (before.n && !is_equation(before))
                return v;
            k += strlen(arrows[i]);
            rest = span_strip(span_of(rest.s + k, rest.n - k));
            found = true;
        }
    }
    return rest.n ? rest : v;
}

/* "yes, because ..." answers yes: a single word with a reason. */
static struct span without_reason(struct span v)
{
    size_t n = 0;
    while (n < v.n && ch_alpha(v.s[n]))
        n++;
    struct span tail = span_strip(span_of(v.s + n, v.n - n));
    bool comma = tail.n && tail.s[0] == ',';
    if (comma)
        tail = span_strip(span_of(tail.s + 1, tail.n - 1));
    bool reason = tail.n && (find_outer(tail, "because") == 0 || (comma && find_outer(tail, "since") == 0));
    return n > 1 && reason ? span_of(v.s, n) : v;
}

/* The ladder for one answer string. */
static void grade_answer(struct answer_checker *c, struct span gold, struct span pred, struct answer_result *r)
{
    bool same = bytes_equal(gold, pred);
    if (gold.n > ANSWER_MAX_ANSWER || pred.n > ANSWER_MAX_ANSWER) {
        conclude(r, same ? ANSWER_EQUAL : ANSWER_UNDECIDED, same ? "string" : "limit:length");
        return;
    }
    struct side g, p;
    int gi = 0, pi = 0;
    const char *why;
    checker_reset(c);
    if (answer_unescape(gold, &c->plain[0]))
        gold = span_of(c->plain[0].s, c->plain[0].len);
    if (answer_unescape(pred, &c->plain[1]))
        pred = span_of(c->plain[1].s, c->plain[1].len);
    if (conclusion(gold).n == gold.n) /* else the implication is the answer */
        pred = conclusion(pred);
    if (without_reason(gold).n == gold.n)
        pred = without_reason(pred);
    read_side(c, &g, gold, true);
    read_side(c, &p, pred, false);
    enum tri t = sides_equal(c, &g, &p, &gi, &pi, &why);
    put_form(&r->gold_form, &g, gi);
    put_form(&r->pred_form, &p, pi);
    if (t == YES) {
        conclude(r, ANSWER_EQUAL, same ? "string" : why);
        return;
    }
    if (same && strcmp(why, "undefined") != 0) {
        conclude(r, ANSWER_EQUAL, "string");
        return;
    }
    char a = picked_letter(gold, true), b = a ? picked_letter(pred, false) : 0;
    if (a && b)
        conclude(r, a == b ? ANSWER_EQUAL : ANSWER_UNEQUAL, "choice");
    else if (t == MAYBE || c->limit)
        conclude(r, ANSWER_UNDECIDED, c->limit ? c->limit : strcmp(why, "undefined") == 0 ? why : "unknown");
    else
        conclude(r, ANSWER_UNEQUAL, why);
}

static void grade_choice(struct span gold, struct span text, struct answer_result *r)
{
    char a = picked_letter(gold, true), b = picked_letter(text, false);
    conclude(r, a && a == b ? ANSWER_EQUAL : ANSWER_UNEQUAL, a ? "choice" : "no_gold");
    buf_reset(&r->pred_form);
    if (b)
        buf_putc(&r->pred_form, b);
}

static void set_buf(struct buf *b, struct span v)
{
    buf_reset(b);
    buf_add(b, v.s, v.n);
}

/* A box inside an answer string is unwrapped. */
static bool has_box(struct span v)
{
    for (size_t i = 0; i + 5 < v.n; i++)
        if (v.s[i] == '\\' &&
            (span_starts(span_of(v.s + i, v.n - i), "\\boxed") || span_starts(span_of(v.s + i, v.n - i), "\\fbox")))
            return true;
    return false;
}

int answer_grade(struct answer_checker *c, enum answer_task task, const char *gold, size_t gold_n, const char *text,
                 size_t text_n, enum answer_mode mode, struct answer_result *r, struct err *e)
{
    struct span g = span_strip(span_of(gold, gold_n)), whole = span_of(text, text_n), p;
    if ((unsigned)task > ANSWER_EXACT || (unsigned)mode > ANSWER_SOLUTION)
        return err_set(e, "unknown answer task %d or mode %d", (int)task, (int)mode);
    set_buf(&r->gold_form, g);
    buf_reset(&r->pred_form);
    if (mode == ANSWER_SOLUTION || (task != ANSWER_EXACT && text_n <= ANSWER_MAX_ANSWER && has_box(whole)))
        answer_extract(task, text, text_n, &r->extracted);
    else
        set_buf(&r->extracted, span_strip(whole));
    char choice = task == ANSWER_MATH ? picked_letter(g, true) : 0;
    p = span_of(r->extracted.s, r->extracted.len);
    if (!p.n && choice && mode == ANSWER_SOLUTION) {
        answer_extract(ANSWER_MMLU, text, text_n, &r->extracted);
        p = span_of(r->extracted.s, r->extracted.len);
    }
    set_buf(&r->pred_form, p);
    if (!g.n) {
        conclude(r, ANSWER_UNEQUAL, "no_gold");
    } else if (!p.n) {
        conclude(r, ANSWER_UNEQUAL, "no_answer");
    } else if (task == ANSWER_MMLU) {
        grade_choice(g, p, r);
    } else if (task == ANSWER_EXACT) {
        conclude(r, folded_equal(g, p, true) ? ANSWER_EQUAL : ANSWER_UNEQUAL, "text");
    } else {
        grade_answer(c, g, p, r);
        if (choice && r->verdict != ANSWER_EQUAL && mode == ANSWER_SOLUTION && !picked_letter(p, false) &&
            !has_box(whole)) {
            /* the number at the end of the explanation was no choice */
            if (answer_extract(ANSWER_MMLU, text, text_n, &r->extracted))
                grade_choice(g, span_of(r->extracted.s, r->extracted.len), r);
        }
    }
    return 0;
}
