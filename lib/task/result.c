/* result.c - see result.h. */
#include "task/result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/record.h"

/* ---- gathering ---- */

/* "math" of "math_test_17"; the whole id if it has no split in it. */
static char *benchmark_of_id(const char *id)
{
    const char *cut = strstr(id, "_test_");
    cut = cut ? cut : strstr(id, "_train_");
    return xstrndup(id, cut ? (size_t)(cut - id) : strlen(id));
}

static char *text_of(const struct rec *line, const char *key)
{
    struct json v;
    return rec_get(line, key, &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : NULL;
}

static struct result_set *find_set(struct results *r, const char *label, const char *benchmark, double ratio)
{
    for (size_t i = r->n; i > 0; i--) {
        struct result_set *s = &r->v[i - 1];
        if (fabs(s->ratio - ratio) < 1e-9 && strcmp(s->label, label) == 0 && strcmp(s->benchmark, benchmark) == 0)
            return s;
    }
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 8;
        r->v = xreallocarray(r->v, r->cap, sizeof *r->v);
    }
    struct result_set *s = &r->v[r->n++];
    *s = (struct result_set){ .label = xstrdup(label), .benchmark = xstrdup(benchmark), .ratio = ratio };
    return s;
}

/* -1 when the key is absent or no truth value. */
static int8_t optional_bool(const struct rec *line, const char *key)
{
    struct json v;
    bool b;
    return rec_get(line, key, &v) && json_bool(v, &b) ? (int8_t)b : -1;
}

static int8_t read_truncated(const struct rec *line)
{
    struct json v;
    if (!rec_get(line, "finish_reason", &v) || json_kind(v) != JSON_STRING)
        return -1;
    return json_str_is(v, "length");
}

/* A row without its id; the number of tokens stands under the reference's names. */
static int read_row(const struct rec *line, struct result_row *row, struct err *e)
{
    struct json v;
    bool has_index = rec_get(line, "sample_index", &v);
    if (rec_bool(line, "is_correct", &row->correct, e) < 0 || rec_real(line, "num_tokens", &row->tokens, e) < 0 ||
        rec_real(line, "think_tokens", &row->think, e) < 0 ||
        (has_index && rec_int(line, "sample_index", &row->sample, e) < 0))
        return -1;
    row->answered = rec_get(line, "extracted", &v) && json_kind(v) == JSON_STRING;
    row->compat = optional_bool(line, "is_correct_compat");
    row->truncated = read_truncated(line);
    return 0;
}

static int row_ratio(const struct results *r, const struct rec *line, double *ratio, struct err *e)
{
    struct json v;
    *ratio = r->summary_ratio > 0 ? r->summary_ratio : 1;
    return rec_get(line, "compression_ratio", &v) ? rec_real(line, "compression_ratio", ratio, e) : 0;
}

/* What a set remembers of its rows beside their numbers. */
static void note_origin(const struct results *r, struct result_set *s, const struct rec *line)
{
    if (s->nfile == 0 || s->file[s->nfile - 1] != r->file) {
        s->file = xreallocarray(s->file, s->nfile + 1, sizeof *s->file);
        s->file[s->nfile++] = r->file;
    }
    if (s->nhead < r->keep) {
        s->head = xreallocarray(s->head, s->nhead + 1, sizeof *s->head);
        s->head[s->nhead++] = xstrndup(line->object.s, line->object.n);
    }
}

int results_add(struct results *r, const char *label, const struct rec *line, struct err *e)
{
    struct json v;
    struct result_row row = { 0 };
    double ratio;
    if (rec_get(line, "type", &v) && json_str_is(v, "summary"))
        return rec_real(line, "compression_ratio", &r->summary_ratio, e);
    if (read_row(line, &row, e) < 0 || row_ratio(r, line, &ratio, e) < 0)
        return -1;
    struct buf id = BUF_INIT;
    if (rec_text(line, "source_id", &id, e) < 0) {
        buf_release(&id);
        return -1;
    }
    row.id = buf_take(&id);
    char *benchmark = text_of(line, "benchmark");
    if (!benchmark)
        benchmark = benchmark_of_id(row.id);
    struct result_set *s = find_set(r, label, benchmark, ratio);
    free(benchmark);
    note_origin(r, s, line);
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->v = xreallocarray(s->v, s->cap, sizeof *s->v);
    }
    s->v[s->n++] = row;
    return 0;
}

void results_file(struct results *r, int file)
{
    r->file = file;
    r->summary_ratio = 0;
}

static int by_sample(const void *a, const void *b)
{
    const struct result_row *x = a, *y = b;
    int c = strcmp(x->id, y->id);
    return c ? c : (x->sample > y->sample) - (x->sample < y->sample);
}

int results_finish(struct results *r, struct err *e)
{
    for (size_t i = 0; i < r->n; i++) {
        struct result_set *s = &r->v[i];
        qsort(s->v, s->n, sizeof *s->v, by_sample);
        for (size_t j = 1; j < s->n; j++)
            if (by_sample(&s->v[j - 1], &s->v[j]) == 0)
                return err_set(e,
                               "%s: ratio %g: sample %lld of %s stands twice (a stale shard, or a file given twice?)",
                               s->label, s->ratio, (long long)s->v[j].sample, s->v[j].id);
    }
    return 0;
}

void results_release(struct results *r)
{
    for (size_t i = 0; i < r->n; i++) {
        struct result_set *s = &r->v[i];
        for (size_t j = 0; j < s->n; j++)
            free(s->v[j].id);
        for (size_t j = 0; j < s->nhead; j++)
            free(s->head[j]);
        free(s->head);
        free(s->file);
        free(s->v);
        free(s->label);
        free(s->benchmark);
    }
    free(r->v);
    *r = (struct results){ .n = 0 };
}

/* ---- one set ---- */

/* Rows i .. returned-1 are the samples of one question. */
static size_t question_end(const struct result_set *s, size_t i)
{
    size_t j = i + 1;
    while (j < s->n && strcmp(s->v[i].id, s->v[j].id) == 0)
        j++;
    return j;
}

static double mean_correct(const struct result_set *s, size_t i, size_t end)
{
    int64_t k = 0;
    for (size_t j = i; j < end; j++)
        k += s->v[j].correct;
    return (double)k / (double)(end - i);
}

static double mean_think(const struct result_set *s, size_t i, size_t end)
{
    double sum = 0;
    for (size_t j = i; j < end; j++)
        sum += s->v[j].think;
    return sum / (double)(end - i);
}

/* Accuracy per question, and what the number of samples says. The array is the caller's. */
static double *per_question(const struct result_set *s, struct result_summary *out)
{
    double *acc = xmalloc((s->n + 1) * sizeof *acc);
    out->per_question = s->n ? INT64_MAX : 0;
    for (size_t i = 0, end; i < s->n; i = end) {
        end = question_end(s, i);
        acc[out->questions++] = mean_correct(s, i, end);
        if ((int64_t)(end - i) < out->per_question)
            out->per_question = (int64_t)(end - i);
    }
    return acc;
}

static double mean_pass_at_k(const struct result_set *s, int64_t k)
{
    double sum = 0;
    int64_t questions = 0;
    for (size_t i = 0, end; i < s->n; i = end, questions++) {
        end = question_end(s, i);
        int64_t n = (int64_t)(end - i);
        sum += stat_pass_at_k(n, llround(mean_correct(s, i, end) * (double)n), k);
    }
    return sum / (double)questions;
}

static struct spread spread_of(double *v, size_t n)
{
    stat_sort(v, n);
    return (struct spread){ stat_mean(v, n), stat_percentile(v, n, 50), stat_percentile(v, n, 90) };
}

static void lengths(const struct result_set *s, struct result_summary *out)
{
    double *v = xmalloc((s->n + 1) * sizeof *v), all = 0, right = 0;
    int64_t correct = 0;
    for (size_t i = 0; i < s->n; i++) {
        v[i] = s->v[i].tokens;
        all += v[i];
        right += s->v[i].correct ? v[i] : 0;
        correct += s->v[i].correct;
    }
    out->tokens = spread_of(v, s->n);
    out->tokens_correct = correct ? right / (double)correct : NAN;
    out->tokens_per_correct = correct ? all / (double)correct : NAN;
    for (size_t i = 0; i < s->n; i++)
        v[i] = s->v[i].think;
    out->think = spread_of(v, s->n);
    free(v);
}

/* Share of rows with value 1 among all; NaN when any row does not say. */
static double known_share(const struct result_set *s, bool compat)
{
    int64_t k = 0;
    for (size_t i = 0; i < s->n; i++) {
        int8_t x = compat ? s->v[i].compat : s->v[i].truncated;
        if (x < 0)
            return NAN;
        k += x;
    }
    return s->n ? (double)k / (double)s->n : NAN;
}

void result_summarize(const struct result_set *s, struct result_summary *out)
{
    *out = (struct result_summary){ .samples = (int64_t)s->n };
    double *acc = per_question(s, out);
    size_t n = (size_t)out->questions;
    out->accuracy = stat_mean(acc, n);
    if (out->samples == out->questions)
        out->accuracy_95 = stat_wilson(llround(out->accuracy * (double)n), (int64_t)n);
    else
        out->accuracy_95 = stat_student(acc, n);
    out->accuracy_95.lo = fmax(out->accuracy_95.lo, 0);
    out->accuracy_95.hi = fmin(out->accuracy_95.hi, 1);
    free(acc);
    out->accuracy_compat = known_share(s, true);
    out->truncated = known_share(s, false);
    out->pass_at_k = out->per_question > 1 ? mean_pass_at_k(s, out->per_question) : NAN;
    int64_t mute = 0;
    for (size_t i = 0; i < s->n; i++)
        mute += !s->v[i].answered;
    out->unanswered = s->n ? (double)mute / (double)s->n : NAN;
    lengths(s, out);
}

/* ---- two sets ---- */

struct pairing {
    double *diff;
    size_t n;
    int64_t both, first, second, neither;
    double think_first, think_second;
    bool single; /* one sample a question on both sides, so far */
};

static void pair_question(struct pairing *p, const struct result_set *a, size_t i, size_t iend,
                          const struct result_set *b, size_t j, size_t jend)
{
    double x = mean_correct(a, i, iend), y = mean_correct(b, j, jend);
    p->diff[p->n++] = y - x;
    p->think_first += mean_think(a, i, iend);
    p->think_second += mean_think(b, j, jend);
    p->single = p->single && iend - i == 1 && jend - j == 1;
    *(x > 0.5 ? (y > 0.5 ? &p->both : &p->first) : (y > 0.5 ? &p->second : &p->neither)) += 1;
}

void result_compare(const struct result_set *first, const struct result_set *second, struct result_pair *out)
{
    struct pairing p = { .single = true };
    p.diff = xmalloc((first->n + 1) * sizeof *p.diff);
    for (size_t i = 0, j = 0; i < first->n && j < second->n;) {
        size_t iend = question_end(first, i), jend = question_end(second, j);
        int c = strcmp(first->v[i].id, second->v[j].id);
        if (c == 0)
            pair_question(&p, first, i, iend, second, j, jend);
        i = c <= 0 ? iend : i;
        j = c >= 0 ? jend : j;
    }
    *out = (struct result_pair){ .questions = (int64_t)p.n, .difference = stat_mean(p.diff, p.n) };
    if (p.single) {
        out->first_only = p.first;
        out->second_only = p.second;
        out->difference_95 = stat_newcombe(p.both, p.first, p.second, p.neither);
    } else {
        out->difference_95 = stat_student(p.diff, p.n);
    }
    out->length_ratio = p.think_first > 0 ? p.think_second / p.think_first : NAN;
    free(p.diff);
}
