/* answer_data_test.c - the checker against real golds, answers and responses (shared data, skipped where absent):
 * agreement with labels, no false accept, MATH-500 against itself, rewritten, and against each other, and the
 * reference's ceiling on it. */
#include "base/file.h"
#include "base/json.h"
#include "task/answer.h"
#include "unit/test.h"

struct lines {
    struct file_map map;
    size_t at;
};

static bool next_line(struct lines *l, struct json *doc)
{
    struct err e = { "" };
    if (l->at >= l->map.n)
        return false;
    const char *p = l->map.p + l->at, *q = memchr(p, '\n', l->map.n - l->at);
    size_t n = q ? (size_t)(q - p) : l->map.n - l->at;
    assert_ok(json_parse(doc, p, n, &e));
    l->at += n + 1;
    return true;
}

static bool text_of(struct json doc, const char *key, struct buf *out)
{
    struct json v;
    buf_reset(out);
    if (!json_get(doc, key, &v) || json_kind(v) != JSON_STRING)
        return false;
    json_str(v, out);
    if (!out->s)
        buf_puts(out, "");
    return true;
}

struct score {
    int cases[2], agree[2], false_accepts;
};

static struct score agreement(const char *path, enum answer_task task)
{
    struct err e = { "" };
    struct lines l = { .at = 0 };
    struct answer_checker *c;
    struct answer_result r;
    struct score s = { .false_accepts = 0 };
    struct json doc, v;
    struct buf gold = BUF_INIT, text = BUF_INIT;
    assert_ok(file_map_open(&l.map, path, &e));
    assert_ok(answer_checker_open(&c, &e));
    answer_result_init(&r);
    while (next_line(&l, &doc)) {
        assert_true(text_of(doc, "gold", &gold) || text_of(doc, "gold_answer", &gold));
        bool pred = text_of(doc, "pred", &text);
        if (!pred)
            assert_true(text_of(doc, "solution", &text) || text_of(doc, "response_text", &text));
        assert_true(json_get(doc, "equal", &v) || json_get(doc, "is_correct", &v));
        bool truth = json_kind(v) == JSON_TRUE;
        assert_ok(
            answer_grade(c, task, gold.s, gold.len, text.s, text.len, pred ? ANSWER_PRED : ANSWER_SOLUTION, &r, &e));
        bool equal = r.verdict == ANSWER_EQUAL;
        s.cases[pred]++;
        s.agree[pred] += equal == truth;
        s.false_accepts += equal && !truth;
        if (equal != truth)
            printf("# %s: gold %s, extracted %s: label %d, reason %s\n", path, gold.s,
                   r.extracted.s ? r.extracted.s : "", truth, r.reason);
    }
    printf("# %s: answers %d of %d, responses %d of %d, false accepts %d\n", path, s.agree[1], s.cases[1], s.agree[0],
           s.cases[0], s.false_accepts);
    answer_result_release(&r);
    answer_checker_close(c);
    buf_release(&gold);
    buf_release(&text);
    file_map_close(&l.map);
    return s;
}

static void case_files_agree(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "data/grading/cases.jsonl");
    struct score s = agreement(path, ANSWER_MATH);
    assert_int_equal(s.false_accepts, 0);
    assert_true(s.agree[1] * 100 >= s.cases[1] * 99);
    assert_true(s.agree[0] * 100 >= s.cases[0] * 98);
}

static void model_responses_agree(void **state)
{
    (void)state;
    SHARED_OR_SKIP(math, "data/real_cots.jsonl");
    SHARED_OR_SKIP(gsm8k, "data/gsm8k_model_solutions.jsonl");
    struct score s = agreement(math, ANSWER_MATH);
    assert_true(s.agree[0] * 100 >= s.cases[0] * 99);
    s = agreement(gsm8k, ANSWER_GSM8K);
    assert_true(s.agree[0] * 100 >= s.cases[0] * 99);
}

/* ---- MATH-500 ---- */

enum { MATH500 = 500 };
struct golds {
    char *answer[MATH500], *solution[MATH500];
    int n;
};

static void load_golds(struct golds *g, const char *path)
{
    struct err e = { "" };
    struct lines l = { .at = 0 };
    struct json doc;
    struct buf b = BUF_INIT;
    assert_ok(file_map_open(&l.map, path, &e));
    g->n = 0;
    while (next_line(&l, &doc) && g->n < MATH500) {
        assert_true(text_of(doc, "answer", &b));
        g->answer[g->n] = xstrdup(b.s);
        assert_true(text_of(doc, "solution", &b));
        g->solution[g->n++] = xstrdup(b.s);
    }
    buf_release(&b);
    file_map_close(&l.map);
    assert_int_equal(g->n, MATH500);
}

static void free_golds(struct golds *g)
{
    for (int i = 0; i < g->n; i++) {
        free(g->answer[i]);
        free(g->solution[i]);
    }
}

static char *replaced(const char *s, const char *from, const char *to)
{
    struct buf b = BUF_INIT;
    size_t n = strlen(from);
    while (*s) {
        if (strncmp(s, from, n) == 0) {
            buf_puts(&b, to);
            s += n;
        } else {
            buf_putc(&b, *s++);
        }
    }
    return buf_take(&b);
}

/* \frac{a}{b} with small b dividing a power of ten, alone: its decimal; else NULL. */
static char *as_decimal(const char *s)
{
    long a, b;
    int n = 0;
    bool minus = *s == '-';
    if (sscanf(s + minus, "\\frac{%ld}{%ld}%n", &a, &b, &n) != 2 || s[(size_t)n + minus] || b == 0)
        return NULL;
    long ten = 1;
    int places = 0;
    while (ten % b && places < 12) {
        ten *= 10;
        places++;
    }
    if (ten % b)
        return NULL;
    struct buf out = BUF_INIT;
    long v = a * (ten / b);
    buf_printf(&out, "%s%ld.%0*ld", minus ? "-" : "", v / ten, places ? places : 1, v % ten);
    return buf_take(&out);
}

/* A list at depth 0 in reversed order, NULL if it is none (or a number with thousands). */
static char *reversed_list(const char *s)
{
    const char *part[16];
    size_t len[16];
    int n = 0, depth = 0;
    const char *start = s;
    for (const char *p = s;; p++) {
        if (*p && strchr("([{", *p))
            depth++;
        else if (*p && strchr(")]}", *p))
            depth--;
        if (!*p || (*p == ',' && depth == 0)) {
            if (n == 16)
                return NULL;
            part[n] = start;
            len[n++] = (size_t)(p - start);
            start = p + 1;
        }
        if (!*p)
            break;
    }
    if (n < 2 || strstr(s, "\\!") || (n == 2 && len[1] == 3 && strspn(s, "0123456789,") == strlen(s)))
        return NULL;
    struct buf b = BUF_INIT;
    while (n-- > 0) {
        buf_add(&b, part[n], len[n]);
        if (n)
            buf_puts(&b, ", ");
    }
    return buf_take(&b);
}

struct math500 {
    struct answer_checker *c;
    struct answer_result r;
    int wrong, tried;
};

static void must_accept(struct math500 *m, const char *gold, const char *text, enum answer_mode mode, const char *what)
{
    struct err e = { "" };
    if (!text)
        return;
    m->tried++;
    assert_ok(answer_grade(m->c, ANSWER_MATH, gold, strlen(gold), text, strlen(text), mode, &m->r, &e));
    if (m->r.verdict != ANSWER_EQUAL) {
        m->wrong++;
        printf("# %s: gold %s, text %s: %s (%s | %s)\n", what, gold, mode == ANSWER_PRED ? text : m->r.extracted.s,
               m->r.reason, m->r.gold_form.s, m->r.pred_form.s);
    }
}

static void accept_rewrite(struct math500 *m, const char *gold, char *text, const char *what)
{
    must_accept(m, gold, text, ANSWER_PRED, what);
    free(text);
}

static void math500_accepts_itself(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "data/datasets/math500/test.jsonl");
    struct err e = { "" };
    static struct golds g;
    struct math500 m = { .wrong = 0 };
    load_golds(&g, path);
    assert_ok(answer_checker_open(&m.c, &e));
    answer_result_init(&m.r);
    for (int i = 0; i < g.n; i++) {
        const char *a = g.answer[i];
        struct buf b = BUF_INIT;
        must_accept(&m, a, a, ANSWER_PRED, "itself");
        must_accept(&m, a, g.solution[i], ANSWER_SOLUTION, "its solution");
        buf_printf(&b, "So we find the answer.\n\nThe final answer is: $\\boxed{%s}$.", a);
        must_accept(&m, a, b.s, ANSWER_SOLUTION, "boxed");
        buf_reset(&b);
        buf_printf(&b, "The final answer is $%s$. I hope it is correct.", a);
        must_accept(&m, a, b.s, ANSWER_SOLUTION, "sentence");
        buf_reset(&b);
        buf_printf(&b, "\\[\n%s\n\\]", a);
        must_accept(&m, a, b.s, ANSWER_PRED, "display");
        buf_reset(&b);
        for (const char *p = a; *p; p++) { /* spaces around signs and commas that stand in no number and no text */
            bool sign = strchr("+=()", *p) != NULL;
            buf_printf(&b, sign && !strstr(a, "text") ? " %c " : "%c", *p);
        }
        must_accept(&m, a, b.s, ANSWER_PRED, "spaces");
        buf_release(&b);
        accept_rewrite(&m, a, replaced(a, "\\frac", "\\dfrac"), "dfrac");
        accept_rewrite(&m, a, replaced(a, "\\frac", "\\tfrac"), "tfrac");
        accept_rewrite(&m, a, replaced(a, "\\", "\\\\"), "escaped twice");
        accept_rewrite(&m, a, replaced(a, "\\left", ""), "left"); /* unbalanced sizes mean nothing */
        accept_rewrite(&m, a, replaced(a, "\\pi", "π"), "Unicode");
        accept_rewrite(&m, a, replaced(a, "\\text", "\\mbox"), "mbox");
        accept_rewrite(&m, a, replaced(a, "^\\circ", "°"), "degree");
        accept_rewrite(&m, a, replaced(a, "^\\circ", ""), "no degree");
        accept_rewrite(&m, a, replaced(a, "pmatrix", "bmatrix"), "bmatrix");
        accept_rewrite(&m, a, replaced(a, "\\$", ""), "no dollar");
        accept_rewrite(&m, a, as_decimal(a), "decimal");
        accept_rewrite(&m, a, reversed_list(a), "reversed");
    }
    printf("# MATH-500: %d of %d rewrites accepted\n", m.tried - m.wrong, m.tried);
    answer_result_release(&m.r);
    answer_checker_close(m.c);
    free_golds(&g);
    assert_int_equal(m.wrong, 0);
}

/* What two golds that say the same have in common: the value as plain text, by other means than the checker's. */
static char *plain(const char *s)
{
    static const char *const drop[] = { "\\left",           "\\right",        "\\!", "\\$", "^\\circ", " ",
                                        "\\text{ degrees}", "\\text{degrees}" };
    char *t = replaced(s, "\\dfrac", "\\frac");
    for (size_t i = 0; i < sizeof drop / sizeof *drop; i++) {
        char *u = replaced(t, drop[i], "");
        free(t);
        t = u;
    }
    return t;
}

/* Pairs of different spellings, seen by eye, that are truly equal. */
static bool known_equal(const char *a, const char *b)
{
    static const char *const pairs[][2] = {
        { "\\frac{1}{4}", "\\frac14" },
        { "\\frac{4}{3}", "\\frac43" },
        { "\\frac{3}{4}", "\\frac34" },
        { "\\frac{5}{9}", "\\frac59" },
        { "-2,1", "1,-2" },
        { "\\frac{9}{5}", "1\\frac{4}{5}" },
        { "5", "x=5" },
        { "15", "15\\mbox{cm}^2" },
        { "10080", "10,080" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if ((strcmp(a, pairs[i][0]) == 0 && strcmp(b, pairs[i][1]) == 0) ||
            (strcmp(b, pairs[i][0]) == 0 && strcmp(a, pairs[i][1]) == 0))
            return true;
    return false;
}

static void math500_refuses_other_golds(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "data/datasets/math500/test.jsonl");
    struct err e = { "" };
    static struct golds g;
    struct math500 m = { .wrong = 0 };
    static char *forms[MATH500];
    int equal = 0, undecided = 0;
    load_golds(&g, path);
    for (int i = 0; i < g.n; i++)
        forms[i] = plain(g.answer[i]);
    assert_ok(answer_checker_open(&m.c, &e));
    answer_result_init(&m.r);
    for (int i = 0; i < g.n; i++)
        for (int j = 0; j < g.n; j++) {
            if (i == j)
                continue;
            assert_ok(answer_grade(m.c, ANSWER_MATH, g.answer[i], strlen(g.answer[i]), g.answer[j], strlen(g.answer[j]),
                                   ANSWER_PRED, &m.r, &e));
            bool same = strcmp(forms[i], forms[j]) == 0 || known_equal(forms[i], forms[j]);
            if ((strstr(g.answer[i], "\\$") && strstr(g.answer[j], "\\circ")) ||
                (strstr(g.answer[j], "\\$") && strstr(g.answer[i], "\\circ")))
                same = false; /* 36 dollars are not 36 degrees */
            undecided += m.r.verdict == ANSWER_UNDECIDED;
            equal += m.r.verdict == ANSWER_EQUAL;
            if ((m.r.verdict == ANSWER_EQUAL) != same) {
                m.wrong++;
                printf("# %s against %s: %s\n", g.answer[i], g.answer[j], m.r.reason);
            }
        }
    printf("# MATH-500 pairs: %d equal, %d undecided of %d\n", equal, undecided, g.n * (g.n - 1));
    for (int i = 0; i < g.n; i++)
        free(forms[i]);
    answer_result_release(&m.r);
    answer_checker_close(m.c);
    free_golds(&g);
    assert_int_equal(m.wrong, 0);
    assert_int_equal(undecided, 0);
}

/* ---- the reference ---- */

static void compat_reproduces_the_ceiling(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "data/datasets/math500/test.jsonl");
    static struct golds g;
    struct buf text = BUF_INIT, answer = BUF_INIT, gold = BUF_INIT;
    int correct = 0;
    load_golds(&g, path);
    for (int i = 0; i < g.n; i++) {
        assert_int_equal(answer_gold_math(g.solution[i], strlen(g.solution[i]), &gold), 1);
        buf_reset(&text);
        buf_printf(&text, "The final answer is: $\\boxed{%s}$", gold.s);
        if (answer_compat_extract(text.s, text.len, &answer))
            correct += answer_compat_math(answer.s ? answer.s : "", answer.len, gold.s, gold.len);
    }
    buf_release(&text);
    buf_release(&answer);
    buf_release(&gold);
    free_golds(&g);
    assert_int_equal(correct, 397);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(case_files_agree),
        cmocka_unit_test(model_responses_agree),
        cmocka_unit_test(math500_accepts_itself),
        cmocka_unit_test(math500_refuses_other_golds),
        cmocka_unit_test(compat_reproduces_the_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
