/* report.c - see report.h. */
#include "task/report.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/record.h"

extern char **environ;

/* ---- lines and their baselines ---- */

static bool is_one(double ratio)
{
    return fabs(ratio - 1) < 1e-9;
}

static bool same_run(const struct result_set *a, const struct result_set *b)
{
    return strcmp(a->label, b->label) == 0 && strcmp(a->benchmark, b->benchmark) == 0;
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

/* ---- the table: columns of text, those without any value left out ---- */

struct column {
    const char *head;
    bool left;                                                  /* aligned; numbers are aligned at the right */
    void (*cell)(const struct report_line *l, struct buf *out); /* nothing: no value */
};

static void put_percent(struct buf *b, double share)
{
    if (!isnan(share))
        buf_printf(b, "%.1f", 100 * share);
}

static void put_interval(struct buf *b, struct interval i, const char *fmt)
{
    if (!isnan(i.lo) && !isnan(i.hi))
        buf_printf(b, fmt, 100 * i.lo, 100 * i.hi);
}

static void put_length(struct buf *b, double tokens)
{
    if (!isnan(tokens))
        buf_printf(b, "%.1f", tokens);
}

static void cell_run(const struct report_line *l, struct buf *b)
{
    buf_puts(b, l->set->label);
}
static void cell_benchmark(const struct report_line *l, struct buf *b)
{
    buf_puts(b, l->set->benchmark);
}
static void cell_ratio(const struct report_line *l, struct buf *b)
{
    buf_printf(b, "%g", l->set->ratio);
}
static void cell_n(const struct report_line *l, struct buf *b)
{
    if (l->sum.samples == l->sum.questions)
        buf_printf(b, "%lld", (long long)l->sum.questions);
    else
        buf_printf(b, "%lld/%lld", (long long)l->sum.questions, (long long)l->sum.samples);
}
static void cell_accuracy(const struct report_line *l, struct buf *b)
{
    put_percent(b, l->sum.accuracy);
}
static void cell_accuracy_95(const struct report_line *l, struct buf *b)
{
    put_interval(b, l->sum.accuracy_95, "%.1f-%.1f");
}
static void cell_compat(const struct report_line *l, struct buf *b)
{
    put_percent(b, l->sum.accuracy_compat);
}
static void cell_pass(const struct report_line *l, struct buf *b)
{
    if (!isnan(l->sum.pass_at_k))
        buf_printf(b, "%.1f @%lld", 100 * l->sum.pass_at_k, (long long)l->sum.per_question);
}
static void cell_think(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.think.mean);
}
static void cell_think_50(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.think.p50);
}
static void cell_think_90(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.think.p90);
}
static void cell_tokens(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.tokens.mean);
}
static void cell_tokens_50(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.tokens.p50);
}
static void cell_tokens_90(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.tokens.p90);
}
static void cell_tokens_correct(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.tokens_correct);
}
static void cell_tokens_per_correct(const struct report_line *l, struct buf *b)
{
    put_length(b, l->sum.tokens_per_correct);
}
static void cell_truncated(const struct report_line *l, struct buf *b)
{
    put_percent(b, l->sum.truncated);
}
static void cell_unanswered(const struct report_line *l, struct buf *b)
{
    put_percent(b, l->sum.unanswered);
}
static void cell_length_ratio(const struct report_line *l, struct buf *b)
{
    if (l->base && !isnan(l->pair.length_ratio))
        buf_printf(b, "%.3f", l->pair.length_ratio);
}
static void cell_change(const struct report_line *l, struct buf *b)
{
    if (l->base && l->base != l->set && l->pair.questions)
        buf_printf(b, "%+.1f", 100 * l->pair.difference);
}
static void cell_change_95(const struct report_line *l, struct buf *b)
{
    if (l->base && l->base != l->set)
        put_interval(b, l->pair.difference_95, "%+.1f to %+.1f");
}
static void cell_paired(const struct report_line *l, struct buf *b)
{
    if (l->base && l->base != l->set)
        buf_printf(b, "%lld", (long long)l->pair.questions);
}

static const struct column columns[] = {
    { "run", true, cell_run },
    { "benchmark", true, cell_benchmark },
    { "ratio", false, cell_ratio },
    { "n", false, cell_n },
    { "accuracy %", false, cell_accuracy },
    { "95 %", false, cell_accuracy_95 },
    { "compat %", false, cell_compat },
    { "pass@k %", false, cell_pass },
    { "think", false, cell_think },
    { "p50", false, cell_think_50 },
    { "p90", false, cell_think_90 },
    { "tokens", false, cell_tokens },
    { "p50", false, cell_tokens_50 },
    { "p90", false, cell_tokens_90 },
    { "if correct", false, cell_tokens_correct },
    { "per correct", false, cell_tokens_per_correct },
    { "truncated %", false, cell_truncated },
    { "unanswered %", false, cell_unanswered },
    { "length", false, cell_length_ratio },
    { "change", false, cell_change },
    { "95 %", false, cell_change_95 },
    { "pairs", false, cell_paired },
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static char *cell_text(const struct report_line *l, int c)
{
    struct buf b = BUF_INIT;
    columns[c].cell(l, &b);
    return b.len ? buf_take(&b) : xstrdup("-");
}

/* Characters, not bytes: labels are paths and may hold any. */
static int text_width(const char *s)
{
    int w = 0;
    for (; *s; s++)
        w += ((unsigned char)*s & 0xc0) != 0x80;
    return w;
}

static int column_width(const struct report *rep, int c)
{
    int width = text_width(columns[c].head);
    bool any = false;
    for (size_t i = 0; i < rep->n; i++) {
        char *s = cell_text(&rep->v[i], c);
        int w = text_width(s);
        any |= strcmp(s, "-") != 0;
        width = w > width ? w : width;
        free(s);
    }
    return any ? width : 0; /* 0: left out */
}

static void put_padded(struct buf *b, const char *s, int width, bool left)
{
    int pad = width - text_width(s);
    buf_printf(b, "%*s%s%*s", left ? 0 : pad, "", s, left ? pad : 0, "");
}

/* One row; l NULL: the heads. */
static void put_row(const struct report_line *l, const int *width, bool markdown, struct buf *out)
{
    const char *between = markdown ? "| " : "";
    for (int c = 0; c < COLUMNS; c++) {
        if (!width[c])
            continue;
        char *s = l ? cell_text(l, c) : xstrdup(columns[c].head);
        buf_puts(out, between);
        put_padded(out, s, width[c], columns[c].left);
        between = markdown ? " | " : "  ";
        free(s);
    }
    if (markdown)
        buf_puts(out, " |");
    while (out->len && out->s[out->len - 1] == ' ')
        out->s[--out->len] = '\0';
    buf_putc(out, '\n');
}

static void put_rule(const int *width, struct buf *out)
{
    for (int c = 0; c < COLUMNS; c++) {
        if (!width[c])
            continue;
        buf_puts(out, columns[c].left ? "| :" : "| ");
        for (int i = 1; i < width[c]; i++)
            buf_putc(out, '-');
        buf_puts(out, columns[c].left ? " " : ": ");
    }
    buf_puts(out, "|\n");
}

static void put_table(const struct report *rep, bool markdown, struct buf *out)
{
    int width[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        width[c] = column_width(rep, c);
    put_row(NULL, width, markdown, out);
    if (markdown)
        put_rule(width, out);
    for (size_t i = 0; i < rep->n; i++)
        put_row(&rep->v[i], width, markdown, out);
}

void report_text(const struct report *rep, struct buf *out)
{
    put_table(rep, false, out);
}

void report_markdown(const struct report *rep, struct buf *out)
{
    put_table(rep, true, out);
}

/* ---- lines for programs ---- */

static void put_number(struct buf *b, const char *key, double v)
{
    if (isnan(v))
        rec_put_null(b, key);
    else
        rec_put_real(b, key, v);
}

static void put_spread(struct buf *b, const char *name, const struct spread *s)
{
    const double v[] = { s->mean, s->p50, s->p90 };
    static const char *const part[] = { "mean", "p50", "p90" };
    for (int i = 0; i < 3; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", name, part[i]);
        put_number(b, key, v[i]);
    }
}

static void put_pair(struct buf *b, const struct report_line *l)
{
    const struct result_pair *p = &l->pair;
    rec_put_cstr(b, "baseline_run", l->base->label);
    put_number(b, "baseline_ratio", l->base->ratio);
    rec_put_int(b, "paired_questions", p->questions);
    rec_put_int(b, "baseline_only", p->first_only);
    rec_put_int(b, "this_only", p->second_only);
    put_number(b, "difference", p->difference);
    put_number(b, "difference_lo", p->difference_95.lo);
    put_number(b, "difference_hi", p->difference_95.hi);
    put_number(b, "length_ratio", p->length_ratio);
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
        put_number(out, "accuracy", s->accuracy);
        put_number(out, "accuracy_lo", s->accuracy_95.lo);
        put_number(out, "accuracy_hi", s->accuracy_95.hi);
        put_number(out, "accuracy_compat", s->accuracy_compat);
        rec_put_int(out, "k", s->per_question);
        put_number(out, "pass_at_k", s->pass_at_k);
        put_spread(out, "think", &s->think);
        put_spread(out, "tokens", &s->tokens);
        put_number(out, "tokens_correct", s->tokens_correct);
        put_number(out, "tokens_per_correct", s->tokens_per_correct);
        put_number(out, "truncated", s->truncated);
        put_number(out, "unanswered", s->unanswered);
        if (l->base)
            put_pair(out, l);
        rec_end(out);
    }
}

/* ---- the picture ---- */

/* In double quotes for gnuplot. */
static void put_quoted(struct buf *b, const char *s)
{
    buf_putc(b, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_putc(b, '\\');
        buf_putc(b, (unsigned char)*s < ' ' ? ' ' : *s);
    }
    buf_putc(b, '"');
}

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

static void plot_script(const struct report *rep, const char *terminal, const char *path, struct buf *b)
{
    buf_printf(b, "set terminal %s\nset encoding utf8\nset output ", terminal);
    put_quoted(b, path);
    buf_puts(b,
             "\nset xlabel \"tokens of reasoning, mean\"\nset ylabel \"accuracy, % (95 % interval)\"\n"
             "set grid\nset key bottom right noenhanced\nset offsets graph 0.06, graph 0.06, graph 0.04, graph 0.04\n");
    int runs = put_blocks(rep, b);
    for (int i = 0; i < runs; i++) {
        const struct result_set *s = run_of(rep, i);
        struct buf title = BUF_INIT;
        buf_printf(&title, "%s%s%s", s->label, strcmp(s->label, s->benchmark) ? " " : "",
                   strcmp(s->label, s->benchmark) ? s->benchmark : "");
        buf_printf(b, "%s$run%d using 1:2:3:4 with yerrorlines lt %d pt 7 title ", i ? ", " : "plot ", i, i + 1);
        put_quoted(b, title.s);
        buf_printf(b, ", $run%d using 1:2:5 with labels left offset 0.8,0.6 notitle", i);
        buf_release(&title);
    }
    buf_puts(b, "\n");
}

/* The script is a file without a name on gnuplot's standard input: a pipe would kill us if gnuplot died early. */
static int run_gnuplot(const struct buf *script, struct err *e)
{
    FILE *f = tmpfile();
    if (!f)
        return err_errno(e, "cannot make a temporary file for gnuplot");
    if (fwrite(script->s, 1, script->len, f) != script->len || fflush(f) != 0 || fseek(f, 0, SEEK_SET) != 0) {
        fclose(f);
        return err_errno(e, "cannot write gnuplot's script");
    }
    char program[] = "gnuplot", *argv[] = { program, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(f), 0);
    posix_spawn_file_actions_adddup2(&actions, 2, 1); /* what it says is for people */
    pid_t child;
    int status = 0, rc = posix_spawnp(&child, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    while (rc == 0 && waitpid(child, &status, 0) < 0)
        rc = errno == EINTR ? 0 : errno;
    fclose(f);
    if (rc == ENOENT || (rc == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127))
        return err_set(e, "the program gnuplot, which draws the plot, is not on the PATH (Debian: gnuplot-nox)");
    if (rc != 0)
        return err_set(e, "cannot run gnuplot: %s", strerror(rc));
    return status == 0 ? 0 : err_set(e, "gnuplot failed; its own words are above");
}

int report_plot(const struct report *rep, bool svg, struct buf *out, struct err *e)
{
    char path[] = "/tmp/latent-plot-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return err_errno(e, "%s: cannot be made for gnuplot to draw into", path);
    close(fd);
    struct buf script = BUF_INIT;
    plot_script(rep, svg ? "svg size 720,480 background rgb \"white\"" : "png size 900,600", path, &script);
    int rc = run_gnuplot(&script, e);
    if (rc == 0)
        rc = file_read(out, path, 0, e);
    unlink(path);
    buf_release(&script);
    return rc;
}
