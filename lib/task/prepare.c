/* prepare.c - see prepare.h. */
#include "task/prepare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/record.h"
#include "task/select.h"
#include "task/think.h"

enum { MOST_RATIOS = 64 };

/* One trace: what its records have in common, and its compressed forms. */
struct trace {
    struct buf benchmark, source_id, question, answer, original;
    struct buf question_id, index; /* JSON text: "null" where absent */
    int64_t tokens;                /* of the original; -1: not said */
    struct form {
        double ratio, achieved; /* achieved: NaN where not said */
        struct buf text;
    } form[MOST_RATIOS];
    size_t n;
    bool open;
};

struct line { /* compat: a compressed record that waits */
    struct buf id;
    double ratio;
    size_t at, n;
    uint64_t order;
};

struct preparer {
    struct prepare_spec spec;
    struct prepare_counts n;
    struct trace t;
    const char *delimiter;
    struct buf user, said, id;
    /* ids that are behind us */
    char **seen;
    size_t seen_n, seen_cap;
    struct selector *select; /* concise */
    struct buf lines;        /* concise, compat: lines of the stream */
    struct line *line;
    size_t nline, line_cap;
};

/* ---- rows ---- */

static const char *str(const struct buf *b)
{
    return b->s ? b->s : "";
}

static void put_turn(struct buf *out, const char *role, const char *content, bool first)
{
    buf_puts(out, first ? "{\"role\": \"" : ", {\"role\": \"");
    buf_puts(out, role);
    buf_puts(out, "\", \"content\": ");
    json_put_cstr(out, content);
    buf_putc(out, '}');
}

/* Is the question put as collect puts it in the tokenskip format? The reference does so for its tokenskip method only,
 * and there for every format. */
static bool asks_tokenskip(const struct prepare_spec *s)
{
    return s->method == PREPARE_TOKENSKIP || (s->format == PROMPT_TOKENSKIP && !s->compat);
}

/* xml brings its own system turn, tokenskip in its own format the plain one; the others have none. Solutions stand
 * behind the whole prompt of their format. */
static const char *system_of(const struct prepare_spec *s, const char *benchmark)
{
    if (s->format == PROMPT_XML || s->method == PREPARE_SOLUTION ||
        (s->format == PROMPT_TOKENSKIP && asks_tokenskip(s)))
        return prompt_system(s->format, benchmark);
    return NULL;
}

static const char *format_name(const struct prepare_spec *s)
{
    return s->compat && s->format == PROMPT_TOKENSKIP ? "tokenskip_paper" : prompt_format_name(s->format);
}

static const char *method_name(const struct prepare_spec *s)
{
    static const char *const name[] = { "tokenskip", "concise", "direct", "solution", "labels", "distill" };
    return name[s->method];
}

/* One row; reasoning NULL for none. label is the condition, target what it was cut for. */
static void put_row(struct preparer *p, const char *reasoning, double label, double target, struct buf *out)
{
    const struct prepare_spec *s = &p->spec;
    const struct trace *t = &p->t;
    const char *system = system_of(s, str(&t->benchmark));
    buf_reset(&p->user);
    buf_reset(&p->said);
    prompt_user(asks_tokenskip(s) ? PROMPT_TOKENSKIP : PROMPT_XML, str(&t->question), label, p->delimiter, &p->user);
    prompt_assistant(s->format, reasoning, str(&t->answer), s->compat, &p->said);
    buf_puts(out, "{\"messages\": [");
    if (system)
        put_turn(out, "system", system, true);
    put_turn(out, "user", str(&p->user), !system);
    put_turn(out, "assistant", str(&p->said), false);
    buf_puts(out, "], \"metadata\": {\"benchmark\": ");
    json_put_cstr(out, str(&t->benchmark));
    buf_printf(out, ", \"method\": \"%s\", \"source_id\": ", method_name(s));
    json_put_cstr(out, str(&t->source_id));
    if (s->method == PREPARE_TOKENSKIP) {
        bool conditioned = !prompt_ratio_is_one(label);
        buf_puts(out, ", \"compression_ratio\": ");
        json_put_double(out, label);
        if (s->label_achieved) {
            buf_puts(out, ", \"target_ratio\": ");
            json_put_double(out, target);
        }
        buf_printf(out,
                   ", \"prompt_format\": \"%s\", \"conditioned\": %s, \"question_source_id\": %s, \"sample_index\": %s",
                   format_name(s), conditioned ? "true" : "false", str(&t->question_id), str(&t->index));
        p->n.conditioned += conditioned;
    }
    buf_puts(out, "}}\n");
    p->n.rows++;
}

/* ---- reading ---- */

static void raw_or_null(const struct rec *r, const char *key, struct buf *out)
{
    struct json v;
    buf_reset(out);
    if (rec_get(r, key, &v))
        buf_add(out, v.s, v.n);
    else
        buf_puts(out, "null");
}

/* The model's answer, else the gold one. */
static int read_answer(const struct rec *r, struct buf *out, struct err *e)
{
    buf_reset(out);
    int rc = rec_text_or_null(r, "answer", out, e);
    return rc != 0 ? (rc < 0 ? -1 : 0) : rec_text(r, "gold_answer", out, e);
}

static int read_common(struct trace *t, const struct rec *r, struct err *e)
{
    buf_reset(&t->benchmark);
    buf_reset(&t->source_id);
    buf_reset(&t->question);
    buf_reset(&t->original);
    t->n = 0;
    t->tokens = -1;
    raw_or_null(r, "question_source_id", &t->question_id);
    raw_or_null(r, "sample_index", &t->index);
    return rec_text(r, "benchmark", &t->benchmark, e) < 0 || rec_text(r, "source_id", &t->source_id, e) < 0 ||
                   rec_text(r, "question", &t->question, e) < 0
               ? -1
               : 0;
}

static bool same_ratio(double a, double b)
{
    return fabs(a - b) < 1e-9;
}

/* The achieved rate of a record: in target tokens, else in the compressor's; NaN when it says neither. */
static double achieved_of(const struct rec *r)
{
    static const char *const keys[] = { "achieved_rate_target", "achieved_rate_compressor" };
    struct json v;
    double x;
    for (int i = 0; i < 2; i++)
        if (rec_get(r, keys[i], &v) && json_double(v, &x))
            return x;
    return (double)NAN;
}

static int add_form(struct trace *t, const struct rec *r, struct err *e)
{
    double ratio;
    if (rec_real(r, "compression_ratio", &ratio, e) < 0)
        return -1;
    for (size_t i = 0; i < t->n; i++)
        if (same_ratio(t->form[i].ratio, ratio))
            return err_set(e, "%s: %s comes twice with ratio %g", r->where, str(&t->source_id), ratio);
    if (t->n == MOST_RATIOS)
        return err_set(e, "%s: more than %d ratios of %s", r->where, MOST_RATIOS, str(&t->source_id));
    struct form *f = &t->form[t->n];
    buf_reset(&f->text);
    if (rec_text(r, "compressed_reasoning", &f->text, e) < 0)
        return -1;
    f->ratio = ratio;
    f->achieved = achieved_of(r);
    t->n++;
    return 0;
}

/* ---- tokenskip from the stream ---- */

static const struct form *form_of(const struct trace *t, double ratio)
{
    for (size_t i = 0; i < t->n; i++)
        if (same_ratio(t->form[i].ratio, ratio))
            return &t->form[i];
    return NULL;
}

/* Two decimals, never 0. */
static double label_of(const struct prepare_spec *s, const struct form *f)
{
    if (!s->label_achieved || isnan(f->achieved))
        return f->ratio;
    double x = round(f->achieved * 100) / 100;
    return x < 0.01 ? 0.01 : x > 1 ? 1 : x;
}

static void put_ratio(struct preparer *p, double ratio, struct buf *out)
{
    struct trace *t = &p->t;
    const struct form *f = form_of(t, ratio);
    if (prompt_ratio_is_one(ratio))
        put_row(p, str(&t->original), 1, 1, out);
    else
        put_row(p, str(&f->text), label_of(&p->spec, f), f->ratio, out);
}

/* The pool as this trace has it. */
static size_t pool_of(const struct preparer *p, double pool[MOST_RATIOS + 1])
{
    const struct trace *t = &p->t;
    size_t n = 0;
    if (!p->spec.nratio) {
        pool[n++] = 1;
        for (size_t i = 0; i < t->n; i++)
            if (!prompt_ratio_is_one(t->form[i].ratio))
                pool[n++] = t->form[i].ratio;
        return n;
    }
    for (size_t i = 0; i < p->spec.nratio && n < MOST_RATIOS; i++)
        if (prompt_ratio_is_one(p->spec.ratio[i]) || form_of(t, p->spec.ratio[i]))
            pool[n++] = p->spec.ratio[i];
    return n;
}

static void finish_trace(struct preparer *p, struct buf *out)
{
    struct trace *t = &p->t;
    double pool[MOST_RATIOS + 1];
    if (!t->open)
        return;
    t->open = false;
    p->n.traces++;
    if (p->spec.max_tokens >= 0 && t->tokens > p->spec.max_tokens) {
        p->n.too_long++;
        return;
    }
    size_t n = pool_of(p, pool);
    if (!n) {
        p->n.without++;
        return;
    }
    if (p->spec.all_ratios) {
        for (size_t i = 0; i < n; i++)
            put_ratio(p, pool[i], out);
        return;
    }
    struct rng r = rng_stream(p->spec.seed, str(&t->source_id), t->source_id.len, 0);
    put_ratio(p, pool[rng_below(&r, 0, (uint32_t)n)], out);
}

static uint64_t hash(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* false: the id was there before. */
static bool note_id(struct preparer *p, const char *id)
{
    if (p->seen_n * 2 >= p->seen_cap) {
        size_t old_cap = p->seen_cap;
        char **old = p->seen;
        p->seen_cap = old_cap ? old_cap * 2 : 1024;
        p->seen = xcalloc(p->seen_cap, sizeof *p->seen);
        for (size_t i = 0; i < old_cap; i++)
            if (old[i]) {
                size_t k = hash(old[i]) & (p->seen_cap - 1);
                while (p->seen[k])
                    k = (k + 1) & (p->seen_cap - 1);
                p->seen[k] = old[i];
            }
        free(old);
    }
    size_t k = hash(id) & (p->seen_cap - 1);
    for (; p->seen[k]; k = (k + 1) & (p->seen_cap - 1))
        if (strcmp(p->seen[k], id) == 0)
            return false;
    p->seen[k] = xstrdup(id);
    p->seen_n++;
    return true;
}

static int add_compressed(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    struct trace *t = &p->t;
    buf_reset(&p->id);
    if (rec_text(r, "source_id", &p->id, e) < 0)
        return -1;
    if (t->open && strcmp(str(&t->source_id), str(&p->id)) == 0)
        return add_form(t, r, e);
    finish_trace(p, out);
    if (!note_id(p, str(&p->id)))
        return err_set(e,
                       "%s: %s comes again: all ratios of a trace must stand together, as one run of compress writes "
                       "them",
                       r->where, str(&p->id));
    if (read_common(t, r, e) < 0 || read_answer(r, &t->answer, e) < 0 ||
        rec_text(r, "original_reasoning", &t->original, e) < 0)
        return -1;
    struct json v;
    if (rec_get(r, "original_reasoning_token_count", &v) &&
        rec_int(r, "original_reasoning_token_count", &t->tokens, e) < 0)
        return -1;
    t->open = true;
    return add_form(t, r, e);
}

/* ---- concise, direct and solution ---- */

static int put_concise(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    struct trace *t = &p->t;
    if (read_common(t, r, e) < 0 || read_answer(r, &t->answer, e) < 0 || rec_text(r, "reasoning", &t->original, e) < 0)
        return -1;
    size_t n = select_question_id(str(&t->source_id), t->source_id.len);
    struct json v;
    if (rec_get(r, "question_source_id", &v) && json_kind(v) == JSON_STRING) {
        buf_reset(&t->source_id);
        json_str(v, &t->source_id);
    } else if (t->source_id.s) {
        t->source_id.len = n;
        t->source_id.s[n] = 0;
    }
    p->n.traces++;
    put_row(p, str(&t->original), 1, 1, out);
    return 0;
}

struct chosen {
    size_t at, n;
    uint64_t row; /* of its question in the data set */
};

/* The row number that ends a question's id (math_train_17: 17); without one it stays in its place, at the end. */
static uint64_t row_of(const struct rec *r)
{
    struct buf id = BUF_INIT;
    struct err none;
    uint64_t row = UINT64_MAX;
    if (rec_text_or_null(r, "question_source_id", &id, &none) > 0 || rec_text(r, "source_id", &id, &none) == 0) {
        size_t n = select_question_id(str(&id), id.len), from = n;
        while (from > 0 && id.s[from - 1] >= '0' && id.s[from - 1] <= '9')
            from--;
        if (from < n && n - from < 19)
            row = strtoull(id.s + from, NULL, 10);
    }
    buf_release(&id);
    return row;
}

static int by_row(const void *a, const void *b)
{
    const struct chosen *x = a, *y = b;
    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* The chosen samples as they came, with compat in the order of the data set, which the reference walks. */
static int finish_concise(struct preparer *p, struct buf *out, struct err *e)
{
    struct buf lines = BUF_INIT;
    struct chosen *v = NULL;
    size_t n = 0, cap = 0;
    struct rec r;
    int rc = selector_finish(p->select, &lines, e);
    for (size_t at = 0; rc == 0 && at < lines.len;) {
        size_t len = (size_t)((const char *)memchr(lines.s + at, '\n', lines.len - at) - (lines.s + at));
        rc = rec_parse(&r, lines.s + at, len, "a chosen sample", e);
        if (rc < 0)
            break;
        if (n == cap) {
            cap = cap ? 2 * cap : 1024;
            v = xreallocarray(v, cap, sizeof *v);
        }
        v[n++] = (struct chosen){ at, len, p->spec.compat ? row_of(&r) : 0 };
        rec_release(&r);
        at += len + 1;
    }
    if (n)
        qsort(v, n, sizeof *v, by_row);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = rec_parse(&r, lines.s + v[i].at, v[i].n, "a chosen sample", e);
        if (rc == 0) {
            rc = put_concise(p, &r, out, e);
            rec_release(&r);
        }
    }
    free(v);
    buf_release(&lines);
    return rc;
}

static int add_question(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    struct trace *t = &p->t;
    if (read_common(t, r, e) < 0)
        return -1;
    bool worked = p->spec.method == PREPARE_SOLUTION;
    buf_reset(&t->answer);
    if (rec_text(r, "gold_answer", &t->answer, e) < 0 || (worked && rec_text(r, "solution", &t->original, e) < 0))
        return -1;
    p->n.traces++;
    put_row(p, worked ? str(&t->original) : NULL, 1, 1, out);
    return 0;
}

/* ---- labels ---- */

static void put_copy(struct buf *out, const struct rec *r, const char *key)
{
    struct json v;
    if (rec_get(r, key, &v))
        rec_put(out, key, v);
}

/* Words and flags stay as they were written: train holds the one against the other. */
static int put_labels(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    static const char *const names[] = { "source_id", "compression_ratio", "question_source_id", "sample_index" };
    struct json words, keep;
    struct buf row = BUF_INIT, meta = BUF_INIT;
    if (!rec_get(r, "words", &words) || !rec_get(r, "keep", &keep))
        return err_set(e, "%s: no \"words\" and \"keep\" (compress --labels writes them)", r->where);
    rec_begin(&meta);
    put_copy(&meta, r, "benchmark");
    rec_put_cstr(&meta, "method", method_name(&p->spec));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        put_copy(&meta, r, names[i]);
    rec_end(&meta);
    rec_begin(&row);
    rec_put(&row, "words", words);
    rec_put(&row, "labels", keep);
    rec_put(&row, "metadata", (struct json){ meta.s, meta.len - 1 });
    rec_end(&row);
    buf_add(out, row.s, row.len);
    buf_release(&row);
    buf_release(&meta);
    p->n.traces++;
    p->n.rows++;
    return 0;
}

/* ---- distill ---- */

static void put_member(const struct rec *r, const char *key, struct buf *out)
{
    struct json v;
    buf_printf(out, ", \"%s\": ", key);
    if (rec_get(r, key, &v))
        buf_add(out, v.s, v.n);
    else
        buf_puts(out, "null");
}

static int add_distilled(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    struct trace *t = &p->t;
    if (read_common(t, r, e) < 0 || read_answer(r, &t->answer, e) < 0 || rec_text(r, "reasoning", &t->original, e) < 0)
        return -1;
    struct view why = view_trim(str(&t->original), t->original.len);
    p->n.traces++;
    buf_reset(&p->said);
    buf_puts(&p->said, "<think>\n");
    buf_add(&p->said, why.s, why.n);
    buf_printf(&p->said, "\n</think>\n\\boxed{%s}", str(&t->answer));
    buf_puts(out, "{\"messages\": [");
    put_turn(out, "system", p->spec.data->system, true);
    put_turn(out, "user", str(&t->question), false);
    put_turn(out, "assistant", str(&p->said), false);
    buf_puts(out, "], \"metadata\": {\"benchmark\": ");
    json_put_cstr(out, str(&t->benchmark));
    buf_puts(out, ", \"method\": ");
    buf_reset(&p->id);
    buf_printf(&p->id, "%s_distill", p->spec.data->name ? p->spec.data->name : "prompt");
    json_put_cstr(out, str(&p->id));
    buf_puts(out, ", \"source_id\": ");
    json_put_cstr(out, str(&t->source_id));
    buf_printf(out, ", \"question_source_id\": %s", str(&t->question_id));
    put_member(r, "reasoning_token_count", out);
    put_member(r, "response_token_count", out);
    buf_puts(out, "}}\n");
    p->n.rows++;
    return 0;
}

/* ---- compat: samples from a file, compressed ones from the stream ---- */

static int hold_line(struct preparer *p, const struct rec *r, struct err *e)
{
    if (p->nline == p->line_cap) {
        p->line_cap = p->line_cap ? p->line_cap * 2 : 1024;
        p->line = xreallocarray(p->line, p->line_cap, sizeof *p->line);
    }
    struct line *l = &p->line[p->nline];
    *l = (struct line){ BUF_INIT, 0, p->lines.len, r->len, p->nline };
    if (rec_text(r, "source_id", &l->id, e) < 0 || rec_real(r, "compression_ratio", &l->ratio, e) < 0) {
        buf_release(&l->id);
        return -1;
    }
    buf_add(&p->lines, r->line, r->len);
    p->nline++;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int c = strcmp(str(&x->id), str(&y->id));
    return c ? c : x->order < y->order ? -1 : x->order > y->order;
}

/* The last line of this id and ratio (a dict keeps the last), or NULL. */
static const struct line *find_line(const struct preparer *p, const char *id, double ratio)
{
    size_t lo = 0, hi = p->nline;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(str(&p->line[mid].id), id) <= 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    while (lo > 0 && strcmp(str(&p->line[lo - 1].id), id) == 0)
        if (same_ratio(p->line[--lo].ratio, ratio))
            return &p->line[lo];
    return NULL;
}

/* Samples that may be drawn for, in the order in which their ids came first; of equal ids the last one counts. */
struct originals {
    struct buf lines;
    struct line *v;
    size_t n, cap;
};

static int add_original(struct originals *o, const struct rec *r, struct err *e)
{
    struct json v;
    bool right = false;
    struct buf text = BUF_INIT;
    if (rec_bool(r, "is_correct", &right, e) < 0)
        return -1;
    int rc = right ? rec_text_or_null(r, "reasoning", &text, e) : 0;
    bool has = rc > 0 && text.len;
    buf_release(&text);
    if (rc < 0 || !has)
        return rc < 0 ? -1 : 0;
    if (!rec_get(r, "source_id", &v) || json_kind(v) != JSON_STRING)
        return err_set(e, "%s: no source_id", r->where);
    if (o->n == o->cap) {
        o->cap = o->cap ? o->cap * 2 : 1024;
        o->v = xreallocarray(o->v, o->cap, sizeof *o->v);
    }
    struct line *l = &o->v[o->n];
    *l = (struct line){ BUF_INIT, 0, o->lines.len, r->len, o->n };
    json_str(v, &l->id);
    buf_add(&o->lines, r->line, r->len);
    o->n++;
    return 0;
}

static int by_order(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int read_originals(struct originals *o, const char *path, struct err *e)
{
    struct rec_reader *in;
    struct rec r;
    int rc;
    if (rec_open(&in, &path, 1, e) < 0)
        return -1;
    while ((rc = rec_read(in, &r, e)) > 0)
        if ((rc = add_original(o, &r, e)) < 0)
            break;
    rec_close(in);
    if (rc < 0)
        return -1;
    if (o->n)
        qsort(o->v, o->n, sizeof *o->v, by_id);
    size_t n = 0;
    for (size_t from = 0, to; from < o->n; from = to) { /* first place, last value */
        for (to = from + 1; to < o->n && strcmp(str(&o->v[to].id), str(&o->v[from].id)) == 0; to++)
            ;
        o->v[to - 1].order = o->v[from].order;
        for (size_t i = from; i < to - 1; i++)
            buf_release(&o->v[i].id);
        o->v[n++] = o->v[to - 1];
    }
    o->n = n;
    if (o->n)
        qsort(o->v, o->n, sizeof *o->v, by_order);
    return 0;
}

/* The reasoning of the drawn ratio into t->original: 1, or 0 when there is none. */
static int drawn_reasoning(struct preparer *p, const struct rec *sample, double ratio, struct err *e)
{
    struct trace *t = &p->t;
    if (prompt_ratio_is_one(ratio))
        return rec_text(sample, "reasoning", &t->original, e) < 0 ? -1 : 1;
    const struct line *l = find_line(p, str(&t->source_id), ratio);
    if (!l)
        return 0;
    struct rec r;
    if (rec_parse(&r, p->lines.s + l->at, l->n, str(&l->id), e) < 0)
        return -1;
    int rc = rec_text(&r, "compressed_reasoning", &t->original, e);
    rec_release(&r);
    return rc < 0 ? -1 : 1;
}

static int put_drawn(struct preparer *p, const struct originals *o, const struct line *l, double ratio, struct buf *out,
                     struct err *e)
{
    struct rec r;
    if (rec_parse(&r, o->lines.s + l->at, l->n, str(&l->id), e) < 0)
        return -1;
    int rc = read_common(&p->t, &r, e);
    if (rc == 0)
        rc = read_answer(&r, &p->t.answer, e);
    if (rc == 0)
        rc = drawn_reasoning(p, &r, ratio, e);
    rec_release(&r);
    p->n.traces++;
    if (rc == 0)
        p->n.without++;
    else if (rc > 0)
        put_row(p, str(&p->t.original), ratio, ratio, out);
    return rc < 0 ? -1 : 0;
}

static int check_pool(const struct preparer *p, struct err *e)
{
    for (size_t i = 0; i < p->spec.nratio; i++) {
        bool found = prompt_ratio_is_one(p->spec.ratio[i]);
        for (size_t k = 0; k < p->nline && !found; k++)
            found = same_ratio(p->line[k].ratio, p->spec.ratio[i]);
        if (!found)
            return err_set(e, "the compressed samples have no record of ratio %g", p->spec.ratio[i]);
    }
    return 0;
}

static int finish_compat(struct preparer *p, struct buf *out, struct err *e)
{
    struct originals o = { BUF_INIT, NULL, 0, 0 };
    struct rng_python rng;
    int rc = check_pool(p, e);
    if (rc == 0)
        rc = read_originals(&o, p->spec.original, e);
    if (p->nline)
        qsort(p->line, p->nline, sizeof *p->line, by_id);
    rng_python_seed(&rng, p->spec.seed);
    for (size_t i = 0; rc == 0 && i < o.n; i++)
        rc = put_drawn(p, &o, &o.v[i], p->spec.ratio[rng_python_below(&rng, (uint32_t)p->spec.nratio)], out, e);
    for (size_t i = 0; i < o.n; i++)
        buf_release(&o.v[i].id);
    free(o.v);
    buf_release(&o.lines);
    return rc;
}

/* ---- the preparer ---- */

int preparer_open(struct preparer **out, const struct prepare_spec *spec, struct err *e)
{
    static const double reference_pool[] = { 1.0, 0.9, 0.8, 0.7, 0.6, 0.5 };
    struct preparer *p = xcalloc(1, sizeof *p);
    *out = NULL;
    p->spec = *spec;
    p->delimiter = prompt_delimiter(spec->family);
    if (spec->compat && !spec->nratio) {
        p->spec.ratio = reference_pool;
        p->spec.nratio = sizeof reference_pool / sizeof *reference_pool;
    }
    int64_t most = spec->max_tokens < 0 && spec->compat ? SELECT_REWARD_TOKENS : spec->max_tokens;
    struct select_spec pick = { .correct = true,
                                .dedup = true,
                                .shortest = 1,
                                .min_tokens = 1,
                                .max_tokens = most < 0 ? -1 : most - spec->compat,
                                .compat = spec->compat };
    if (spec->method == PREPARE_CONCISE && selector_open(&p->select, &pick, e) < 0) {
        preparer_close(p);
        return -1;
    }
    *out = p;
    return 0;
}

void preparer_close(struct preparer *p)
{
    if (!p)
        return;
    struct buf *bufs[] = { &p->t.benchmark,   &p->t.source_id, &p->t.question, &p->t.answer, &p->t.original,
                           &p->t.question_id, &p->t.index,     &p->user,       &p->said,     &p->id,
                           &p->lines };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        buf_release(bufs[i]);
    for (int i = 0; i < MOST_RATIOS; i++)
        buf_release(&p->t.form[i].text);
    for (size_t i = 0; i < p->seen_cap; i++)
        free(p->seen[i]);
    for (size_t i = 0; i < p->nline; i++)
        buf_release(&p->line[i].id);
    free(p->seen);
    free(p->line);
    selector_close(p->select);
    free(p);
}

const struct prepare_counts *preparer_counts(const struct preparer *p)
{
    return &p->n;
}

int preparer_add(struct preparer *p, const struct rec *r, struct buf *out, struct err *e)
{
    p->n.in++;
    switch (p->spec.method) {
    case PREPARE_CONCISE:
        return selector_add(p->select, r, out, e);
    case PREPARE_DIRECT:
    case PREPARE_SOLUTION:
        return add_question(p, r, out, e);
    case PREPARE_LABELS:
        return put_labels(p, r, out, e);
    case PREPARE_DISTILL:
        return add_distilled(p, r, out, e);
    case PREPARE_TOKENSKIP:
        break;
    }
    return p->spec.compat ? hold_line(p, r, e) : add_compressed(p, r, out, e);
}

int preparer_finish(struct preparer *p, struct buf *out, struct err *e)
{
    if (p->spec.method == PREPARE_CONCISE)
        return finish_concise(p, out, e);
    if (p->spec.method == PREPARE_TOKENSKIP && p->spec.compat)
        return finish_compat(p, out, e);
    finish_trace(p, out);
    return 0;
}
