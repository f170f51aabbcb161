/* trainlog.c - see trainlog.h. */
#include "task/trainlog.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/record.h"
#include "task/plot.h"
#include "task/table.h"

/* ---- gathering ---- */

bool trainlog_is(const struct rec *line)
{
    struct json v;
    return !rec_get(line, "source_id", &v) && rec_get(line, "step", &v) &&
           (rec_get(line, "loss", &v) || rec_get(line, "eval_loss", &v));
}

/* NaN when the line has no such number. */
static int optional_real(const struct rec *line, const char *key, double *out, struct err *e)
{
    struct json v;
    *out = NAN;
    return rec_get(line, key, &v) ? rec_real(line, key, out, e) : 0;
}

static int read_line(const struct rec *line, struct trainlog_line *l, double *speed, struct err *e)
{
    return rec_int(line, "step", &l->step, e) < 0 || optional_real(line, "epoch", &l->epoch, e) < 0 ||
                   optional_real(line, "loss", &l->loss, e) < 0 ||
                   optional_real(line, "eval_loss", &l->eval_loss, e) < 0 ||
                   optional_real(line, "tokens", &l->tokens, e) < 0 ||
                   optional_real(line, "memory", &l->memory, e) < 0 ||
                   optional_real(line, "tokens_per_second", speed, e) < 0
               ? -1
               : 0;
}

static struct trainlog *find_log(struct trainlogs *t, const char *label, int file)
{
    for (size_t i = t->n; i > 0; i--)
        if (t->v[i - 1].file == file && strcmp(t->v[i - 1].label, label) == 0)
            return &t->v[i - 1];
    t->v = xreallocarray(t->v, t->n + 1, sizeof *t->v);
    t->v[t->n] = (struct trainlog){ .label = xstrdup(label), .file = file };
    return &t->v[t->n++];
}

/* The clock of a log is its speeds: a step of n tokens at s tokens a second took n / s. */
static double elapsed(const struct trainlog *t, const struct trainlog_line *l, double speed)
{
    double before = 0, tokens = 0;
    for (size_t i = t->n; i > 0; i--)
        if (!isnan(t->v[i - 1].tokens)) {
            tokens = t->v[i - 1].tokens;
            break;
        }
    if (t->n)
        before = t->v[t->n - 1].seconds;
    return speed > 0 && l->tokens > tokens ? before + (l->tokens - tokens) / speed : before;
}

int trainlogs_add(struct trainlogs *t, const char *label, int file, const struct rec *line, struct err *e)
{
    struct trainlog_line l = { .step = 0 };
    double speed;
    if (read_line(line, &l, &speed, e) < 0)
        return -1;
    struct trainlog *log = find_log(t, label, file);
    const struct trainlog_line *last = log->n ? &log->v[log->n - 1] : NULL;
    if (last && (l.step < last->step || (l.step == last->step && !isnan(l.loss))))
        return err_set(e, "%s: step %lld behind step %lld: is this one log?", line->where, (long long)l.step,
                       (long long)last->step);
    l.seconds = elapsed(log, &l, speed);
    l.text = xstrndup(line->object.s, line->object.n);
    if (log->n == log->cap) {
        log->cap = log->cap ? 2 * log->cap : 64;
        log->v = xreallocarray(log->v, log->cap, sizeof *log->v);
    }
    log->v[log->n++] = l;
    return 0;
}

void trainlogs_release(struct trainlogs *t)
{
    for (size_t i = 0; i < t->n; i++) {
        for (size_t j = 0; j < t->v[i].n; j++)
            free(t->v[i].v[j].text);
        free(t->v[i].v);
        free(t->v[i].label);
    }
    free(t->v);
    *t = (struct trainlogs){ NULL, 0 };
}

/* ---- numbers ---- */

static void add_loss(struct trainlog_loss *s, double loss, int64_t step)
{
    if (isnan(loss))
        return;
    if (isnan(s->first))
        s->first = loss;
    s->last = loss;
    if (!(s->best <= loss)) {
        s->best = loss;
        s->best_step = step;
    }
}

void trainlog_summarize(const struct trainlog *t, struct trainlog_summary *out)
{
    const struct trainlog_loss none = { NAN, NAN, NAN, 0 };
    *out = (struct trainlog_summary){ 0, NAN, NAN, NAN, NAN, none, none };
    for (size_t i = 0; i < t->n; i++) {
        const struct trainlog_line *l = &t->v[i];
        out->steps = l->step;
        out->epochs = isnan(l->epoch) ? out->epochs : l->epoch;
        out->tokens = isnan(l->tokens) ? out->tokens : l->tokens;
        out->memory = fmax(out->memory, l->memory); /* of a number and NaN, the number */
        out->seconds = l->seconds > 0 ? l->seconds : out->seconds;
        add_loss(&out->loss, l->loss, l->step);
        add_loss(&out->eval, l->eval_loss, l->step);
    }
}

/* ---- the table ---- */

enum { RUN, STEPS, EPOCHS, TOKENS, FIRST, LAST, BEST, BEST_AT, EVAL_LAST, EVAL_BEST, EVAL_AT, SPEED, MEMORY, TIME };
static const struct table_column columns[] = {
    [RUN] = { "log", true },         [STEPS] = { "steps", false },      [EPOCHS] = { "epochs", false },
    [TOKENS] = { "tokens", false },  [FIRST] = { "first loss", false }, [LAST] = { "last", false },
    [BEST] = { "best", false },      [BEST_AT] = { "at", false },       [EVAL_LAST] = { "eval loss", false },
    [EVAL_BEST] = { "best", false }, [EVAL_AT] = { "at", false },       [SPEED] = { "tokens/s", false },
    [MEMORY] = { "memory", false },  [TIME] = { "time", false },
};

/* 950, 12.3k, 4.56M */
static void put_count(struct buf *b, double v)
{
    static const char unit[] = { 'k', 'M', 'G', 'T' };
    int u = -1;
    for (; v >= 1000 && u < 3; u++)
        v /= 1000;
    if (u < 0)
        buf_printf(b, "%.0f", v);
    else
        buf_printf(b, "%.*f%c", v < 10 ? 2 : v < 100 ? 1 : 0, v, unit[u]);
}

static void put_time(struct buf *b, double seconds)
{
    long long s = llround(seconds);
    if (s < 60)
        buf_printf(b, "%.1f s", seconds);
    else
        buf_printf(b, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

static void put_loss(struct table *t, const struct trainlog_loss *l, size_t last, size_t best, size_t at)
{
    table_real(t, last, "%.4f", l->last);
    table_real(t, best, "%.4f", l->best);
    if (!isnan(l->best))
        buf_printf(table_cell(t, at), "%lld", (long long)l->best_step);
}

static void fill_row(struct table *t, const struct trainlog *log)
{
    struct trainlog_summary s;
    trainlog_summarize(log, &s);
    table_row(t);
    buf_puts(table_cell(t, RUN), log->label);
    buf_printf(table_cell(t, STEPS), "%lld", (long long)s.steps);
    table_real(t, EPOCHS, "%.2f", s.epochs);
    table_real(t, FIRST, "%.4f", s.loss.first);
    put_loss(t, &s.loss, LAST, BEST, BEST_AT);
    put_loss(t, &s.eval, EVAL_LAST, EVAL_BEST, EVAL_AT);
    if (!isnan(s.tokens))
        put_count(table_cell(t, TOKENS), s.tokens);
    if (!isnan(s.tokens / s.seconds))
        put_count(table_cell(t, SPEED), s.tokens / s.seconds);
    if (!isnan(s.memory))
        buf_printf(table_cell(t, MEMORY), "%.0f MB", s.memory / 1e6);
    if (!isnan(s.seconds))
        put_time(table_cell(t, TIME), s.seconds);
}

void trainlogs_table(const struct trainlogs *logs, bool markdown, struct buf *out)
{
    struct table t;
    table_open(&t, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < logs->n; i++)
        fill_row(&t, &logs->v[i]);
    if (markdown)
        table_markdown(&t, out);
    else
        table_text(&t, out);
    table_close(&t);
}

static void put_whole(struct buf *b, const char *key, double v)
{
    if (isnan(v))
        rec_put_null(b, key);
    else
        rec_put_int(b, key, (int64_t)v);
}

static void put_losses(struct buf *b, const char *name, const struct trainlog_loss *l)
{
    const double v[] = { l->first, l->last, l->best };
    static const char *const part[] = { "first", "last", "best" };
    char key[32];
    for (int i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "%s_%s", name, part[i]);
        rec_put_number(b, key, v[i]);
    }
    snprintf(key, sizeof key, "%s_best_step", name);
    put_whole(b, key, isnan(l->best) ? NAN : (double)l->best_step);
}

void trainlogs_jsonl(const struct trainlogs *logs, struct buf *out)
{
    for (size_t i = 0; i < logs->n; i++) {
        struct trainlog_summary s;
        trainlog_summarize(&logs->v[i], &s);
        rec_begin(out);
        rec_put_cstr(out, "log", logs->v[i].label);
        rec_put_int(out, "steps", s.steps);
        rec_put_number(out, "epochs", s.epochs);
        put_whole(out, "tokens", s.tokens);
        put_losses(out, "loss", &s.loss);
        put_losses(out, "eval_loss", &s.eval);
        rec_put_number(out, "tokens_per_second", s.tokens / s.seconds);
        put_whole(out, "memory", s.memory);
        rec_put_number(out, "seconds", s.seconds);
        rec_end(out);
    }
}

/* ---- the picture ---- */

/* A long log is drawn as at most this many points, each the mean of its neighbours. */
enum { POINTS = 1000 };

/* Data block NAME of one log's losses, train or eval; how many points it has. */
static size_t put_block(const struct trainlog *log, const char *name, size_t index, bool eval, struct buf *b)
{
    size_t n = 0, points = 0, many = 0;
    double sum = 0, steps = 0;
    for (size_t i = 0; i < log->n; i++)
        n += !isnan(eval ? log->v[i].eval_loss : log->v[i].loss);
    size_t each = (n + POINTS - 1) / POINTS;
    buf_printf(b, "$%s%zu << EOD\n", name, index);
    for (size_t i = 0; i < log->n; i++) {
        double loss = eval ? log->v[i].eval_loss : log->v[i].loss;
        if (isnan(loss))
            continue;
        sum += loss;
        steps += (double)log->v[i].step;
        if (++many < each && points * each + many < n)
            continue;
        buf_printf(b, "%.17g %.17g\n", steps / (double)many, sum / (double)many);
        points++;
        sum = steps = 0;
        many = 0;
    }
    buf_puts(b, "EOD\n");
    return points;
}

static void put_curve(struct buf *b, const struct trainlogs *logs, size_t i, bool eval, bool first)
{
    struct buf title = BUF_INIT;
    buf_printf(&title, "%s %s", logs->v[i].label, eval ? "eval" : "train");
    buf_printf(b, "%s$%s%zu using 1:2 with %s lt %zu title ", first ? "plot " : ", ", eval ? "eval" : "train", i,
               eval ? "linespoints pt 7 lw 2" : "lines", 2 * i + 1 + eval);
    plot_quote(b, title.s);
    buf_release(&title);
}

int trainlogs_plot(const struct trainlogs *logs, bool svg, struct buf *out, struct err *e)
{
    struct buf script = BUF_INIT, curves = BUF_INIT;
    for (size_t i = 0; i < logs->n; i++)
        for (int eval = 0; eval < 2; eval++)
            if (put_block(&logs->v[i], eval ? "eval" : "train", i, eval, &script))
                put_curve(&curves, logs, i, eval, curves.len == 0);
    buf_puts(&script, "set xlabel \"step\"\nset ylabel \"loss\"\nset grid\nset key top right noenhanced\n");
    buf_printf(&script, "%s\n", curves.s);
    int rc = plot_draw(&script, svg, out, e);
    buf_release(&script);
    buf_release(&curves);
    return rc;
}
