/* report.c - see report.h. */
#include "task/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/record.h"
#include "task/plot.h"
#include "task/table.h"

/* ---- lines and their baselines ---- */

static bool is_one(double ratio)
{
    return fabs(ratio - 1) < 1e-9;
}

static bool same_run(const struct result_set *a, const struct result_set *b)
{
    return strcmp(a->label, b->label) == 0 && strcmp(a->benchmark, b->benchmark) == 0;
}

static bool one_benchmark(const struct report *rep)
{
    for (size_t i = 1; i < rep->n; i++)
        if (strcmp(rep->v[i].set->benchmark, rep->v[0].set->benchmark) != 0)
            return false;
    return true;
}

/* How well b serves as the baseline of s; 0: not at all. */
static int base_rank(const struct result_set *b, const struct result_set *s, const char *first_run, bool pair)
{
    if (strcmp(b->benchmark, s->benchmark) != 0)
        return 0;
    if (pair)
        return strcmp(b->label, first_run) != 0 ? 0 : 1 + (fabs(b->ratio - s->ratio) < 1e-9);
    return !is_one(b->ratio) ? 0 : 1 + same_run(b, s);
}

static const struct result_set *find_base(const struct results *r, const struct result_set *s, bool pair)
{
    const struct result_set *best = NULL;
    int best_rank = 0;
    for (size_t i = 0; i < r->n; i++) {
        int rank = base_rank(&r->v[i], s, r->v[0].label, pair);
        if (rank > best_rank) {
            best = &r->v[i];
            best_rank = rank;
        }
    }
    return best;
}

/* Index of the first set of this set's run: the order of runs. */
static size_t run_order(const struct results *r, const struct result_set *s)
{
    size_t i = 0;
    while (!same_run(&r->v[i], s))
        i++;
    return i;
}

static bool comes_before(const struct results *r, const struct result_set *a, const struct result_set *b)
{
    size_t x = run_order(r, a), y = run_order(r, b);
    return x != y ? x < y : a->ratio > b->ratio;
}

void report_make(struct report *rep, const struct results *r, bool pair)
{
    rep->n = r->n;
    rep->v = xcalloc(r->n + 1, sizeof *rep->v);
    for (size_t i = 0; i < r->n; i++) {
        size_t at = i;
        for (; at > 0 && comes_before(r, &r->v[i], rep->v[at - 1].set); at--)
            rep->v[at] = rep->v[at - 1];
        rep->v[at] = (struct report_line){ .set = &r->v[i] };
    }
    for (size_t i = 0; i < rep->n; i++) {
        struct report_line *l = &rep->v[i];
        result_summarize(l->set, &l->sum);
        l->base = find_base(r, l->set, pair);
        if (l->base)
            result_compare(l->base, l->set, &l->pair);
    }
}

void report_release(struct report *rep)
{
    free(rep->v);
    *rep = (struct report){ NULL, 0 };
}

/* ---- the table ---- */

enum {
    RUN,
    BENCHMARK,
    RATIO,
    N,
    ACCURACY,
    ACCURACY_95,
    COMPAT,
    PASS,
    THINK,
    P50,
    P90,
    LENGTH,
    CORRECT,
    SPENT,
    CUT,
    NONE,
    CHANGE,
    CHANGE_95,
    PAIRS,
    COLUMNS
};
static const struct table_column heads[COLUMNS] = {
    [RUN] = { "run", true },          [BENCHMARK] = { "benchmark", true },
    [RATIO] = { "ratio", false },     [N] = { "n", false },
    [ACCURACY] = { "acc %", false },  [ACCURACY_95] = { "95 %", false },
    [COMPAT] = { "compat %", false }, [PASS] = { "pass@k %", false },
    [THINK] = { "think", false },     [P50] = { "p50", false },
    [P90] = { "p90", false },         [LENGTH] = { "len", false },
    [CORRECT] = { "right", false },   [SPENT] = { "spent", false },
    [CUT] = { "cut", false },         [NONE] = { "none", false },
    [CHANGE] = { "change", false },   [CHANGE_95] = { "95 %", false },
    [PAIRS] = { "pairs", false },
};

static void put_interval(struct buf *b, struct interval i, const char *fmt)
{
    if (!isnan(i.lo) && !isnan(i.hi))
        buf_printf(b, fmt, 100 * i.lo, 100 * i.hi);
}

/* Means below a thousand keep a decimal; more would only look exact. */
static void put_length(struct table *t, size_t column, double tokens)
{
    table_real(t, column, tokens < 1000 ? "%.1f" : "%.0f", tokens);
}

static void fill_pair(struct table *t, const struct report_line *l)
{
    if (!l->base || !l->pair.questions)
        return;
    table_real(t, LENGTH, "%.2f", l->pair.length_ratio);
    if (l->base == l->set)
        return;
    table_real(t, CHANGE, "%+.1f", 100 * l->pair.difference);
    put_interval(table_cell(t, CHANGE_95), l->pair.difference_95, "%+.1f..%+.1f");
    if (l->pair.questions != l->sum.questions)
        buf_printf(table_cell(t, PAIRS), "%lld", (long long)l->pair.questions);
}

/* Do the reference's rules judge any set differently? (A new row's verdict under them is always there.) */
static bool compat_differs(const struct report *rep)
{
    for (size_t i = 0; i < rep->n; i++)
        if (fabs(rep->v[i].sum.accuracy_compat - rep->v[i].sum.accuracy) > 1e-9)
            return true;
    return false;
}

static void fill_row(struct table *t, const struct report_line *l, bool several, bool compat)
{
    const struct result_summary *s = &l->sum;
    table_row(t);
    buf_puts(table_cell(t, RUN), l->set->label);
    buf_puts(table_cell(t, BENCHMARK), several ? l->set->benchmark : "");
    buf_printf(table_cell(t, RATIO), "%g", l->set->ratio);
    buf_printf(table_cell(t, N), "%lld", (long long)s->questions);
    if (s->samples != s->questions)
        buf_printf(table_cell(t, N), "/%lld", (long long)s->samples);
    table_real(t, ACCURACY, "%.1f", 100 * s->accuracy);
    put_interval(table_cell(t, ACCURACY_95), s->accuracy_95, "%.1f-%.1f");
    table_real(t, COMPAT, "%.1f", compat ? 100 * s->accuracy_compat : NAN);
    if (!isnan(s->pass_at_k))
        buf_printf(table_cell(t, PASS), "%.1f @%lld", 100 * s->pass_at_k, (long long)s->per_question);
    put_length(t, THINK, s->think.mean);
    table_real(t, P50, "%.0f", s->think.p50);
    table_real(t, P90, "%.0f", s->think.p90);
    put_length(t, CORRECT, s->tokens_correct);
    put_length(t, SPENT, s->tokens_per_correct);
    table_real(t, CUT, "%.1f", 100 * s->truncated);
    table_real(t, NONE, "%.1f", 100 * s->unanswered);
    fill_pair(t, l);
}

/* The benchmark has a column when there are several, else it stands in the first head. */
void report_table(const struct report *rep, bool markdown, struct buf *out)
{
    struct table_column column[COLUMNS];
    struct table t;
    struct buf head = BUF_INIT;
    bool several = !one_benchmark(rep), compat = compat_differs(rep);
    memcpy(column, heads, sizeof column);
    if (!several) {
        buf_puts(&head, rep->v[0].set->benchmark);
        column[RUN].head = head.s;
    }
    table_open(&t, column, COLUMNS);
    for (size_t i = 0; i < rep->n; i++)
        fill_row(&t, &rep->v[i], several, compat);
    if (markdown)
        table_markdown(&t, out);
    else
        table_text(&t, out);
    table_close(&t);
    buf_release(&head);
}

/* ---- lines for programs ---- */

static void put_spread(struct buf *b, const char *name, const struct spread *s)
{
    const double v[] = { s->mean, s->p50, s->p90 };
    static const char *const part[] = { "mean", "p50", "p90" };
    for (int i = 0; i < 3; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", name, part[i]);
        rec_put_number(b, key, v[i]);
    }
}

static void put_pair(struct buf *b, const struct report_line *l)
{
    const struct result_pair *p = &l->pair;
    bool own = l->base == l->set; /* a set has no difference from itself, and so none that is not certain */
    rec_put_cstr(b, "baseline_run", l->base->label);
    rec_put_number(b, "baseline_ratio", l->base->ratio);
    rec_put_int(b, "paired_questions", p->questions);
    rec_put_int(b, "baseline_only", p->first_only);
    rec_put_int(b, "this_only", p->second_only);
    rec_put_number(b, "difference", own ? NAN : p->difference);
    rec_put_number(b, "difference_lo", own ? NAN : p->difference_95.lo);
    rec_put_number(b, "difference_hi", own ? NAN : p->difference_95.hi);
    rec_put_number(b, "length_ratio", p->length_ratio);
}

void report_jsonl(const struct report *rep, struct buf *out)
{
    for (size_t i = 0; i < rep->n; i++) {
        const struct report_line *l = &rep->v[i];
        const struct result_summary *s = &l->sum;
        rec_begin(out);
        rec_put_cstr(out, "run", l->set->label);
        rec_put_cstr(out, "benchmark", l->set->benchmark);
        rec_put_real(out, "compression_ratio", l->set->ratio);
        rec_put_int(out, "questions", s->questions);
        rec_put_int(out, "samples", s->samples);
        rec_put_number(out, "accuracy", s->accuracy);
        rec_put_number(out, "accuracy_lo", s->accuracy_95.lo);
        rec_put_number(out, "accuracy_hi", s->accuracy_95.hi);
        rec_put_number(out, "accuracy_compat", s->accuracy_compat);
        rec_put_int(out, "k", s->per_question);
        rec_put_number(out, "pass_at_k", s->pass_at_k);
        put_spread(out, "think", &s->think);
        put_spread(out, "tokens", &s->tokens);
        rec_put_number(out, "tokens_correct", s->tokens_correct);
        rec_put_number(out, "tokens_per_correct", s->tokens_per_correct);
        rec_put_number(out, "truncated", s->truncated);
        rec_put_number(out, "unanswered", s->unanswered);
        if (l->base)
            put_pair(out, l);
        rec_end(out);
    }
}

/* ---- the picture ---- */

/* Data block of each run; returns how many there are. */
static int put_blocks(const struct report *rep, struct buf *b)
{
    int runs = 0;
    for (size_t i = 0; i < rep->n; i++) {
        const struct report_line *l = &rep->v[i];
        if (i == 0 || !same_run(rep->v[i - 1].set, l->set))
            buf_printf(b, "%s$run%d << EOD\n", runs ? "EOD\n" : "", runs), runs++;
        buf_printf(b, "%.17g %.17g %.17g %.17g %g\n", l->sum.think.mean, 100 * l->sum.accuracy,
                   100 * l->sum.accuracy_95.lo, 100 * l->sum.accuracy_95.hi, l->set->ratio);
    }
    buf_puts(b, runs ? "EOD\n" : "");
    return runs;
}

static const struct result_set *run_of(const struct report *rep, int run)
{
    int seen = -1;
    for (size_t i = 0; i < rep->n; i++)
        if ((i == 0 || !same_run(rep->v[i - 1].set, rep->v[i].set)) && ++seen == run)
            return rep->v[i].set;
    return NULL;
}

/* A run's line with its points; a run of several points says which ratio each is. */
static void plot_run(const struct report *rep, int run, struct buf *b)
{
    const struct result_set *s = run_of(rep, run);
    struct buf title = BUF_INIT;
    int points = 0;
    for (size_t i = 0; i < rep->n; i++)
        points += same_run(rep->v[i].set, s);
    buf_puts(&title, s->label);
    if (!one_benchmark(rep) && strcmp(s->label, s->benchmark) != 0)
        buf_printf(&title, " %s", s->benchmark);
    buf_printf(b, "%s$run%d using 1:2:3:4 with yerrorlines lt %d lw 2 pt 7 title ", run ? ", " : "plot ", run, run + 1);
    plot_quote(b, title.s);
    if (points > 1)
        buf_printf(b, ", $run%d using 1:2:5 with labels left offset 0.8,-0.7 textcolor lt %d notitle", run, run + 1);
    buf_release(&title);
}

static void plot_script(const struct report *rep, struct buf *b)
{
    buf_puts(b,
             "set xlabel \"tokens of reasoning, mean (at the points: the ratio that was asked for)\"\n"
             "set ylabel \"accuracy, % (95 % interval)\"\n"
             "set grid\nset key bottom right noenhanced\nset offsets graph 0.06, graph 0.06, graph 0.04, graph 0.04\n");
    if (one_benchmark(rep)) {
        buf_puts(b, "set title ");
        plot_quote(b, rep->v[0].set->benchmark);
        buf_puts(b, " noenhanced\n");
    }
    int runs = put_blocks(rep, b);
    for (int i = 0; i < runs; i++)
        plot_run(rep, i, b);
    buf_puts(b, "\n");
}

int report_plot(const struct report *rep, bool svg, struct buf *out, struct err *e)
{
    struct buf script = BUF_INIT;
    plot_script(rep, &script);
    int rc = plot_draw(&script, svg, out, e);
    buf_release(&script);
    return rc;
}
