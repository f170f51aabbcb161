/* export.c - see export.h. */
#include "task/export.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "io/hash.h"
#include "io/manifest.h"
#include "io/record.h"
#include "io/wandb.h"
#include "task/think.h"

int export_check(const struct export *x, struct err *e)
{
    if (!*x->project || strlen(x->project) > 128 || strpbrk(x->project, "/\\#?%:"))
        return err_set(e, "project %s: W&B wants 1 to 128 characters, none of / \\ # ? %% :", x->project);
    return x->name && !*x->name ? err_set(e, "the name of a run must not be empty") : 0;
}

/* ---- keys with JSON values ---- */

struct values {
    struct wandb_item *v;
    char **own; /* what v borrows: key, value, key, value ... */
    size_t n;
};

static void add(struct values *t, const char *key, char *json)
{
    t->v = xreallocarray(t->v, t->n + 1, sizeof *t->v);
    t->own = xreallocarray(t->own, 2 * (t->n + 1), sizeof *t->own);
    t->own[2 * t->n] = xstrdup(key);
    t->own[2 * t->n + 1] = json;
    t->v[t->n] = (struct wandb_item){ t->own[2 * t->n], json };
    t->n++;
}

static void add_int(struct values *t, const char *key, int64_t v)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%lld", (long long)v);
    add(t, key, buf_take(&b));
}

/* What is not known is left out. */
static void add_real(struct values *t, const char *key, double v)
{
    struct buf b = BUF_INIT;
    if (isnan(v))
        return;
    json_put_double(&b, v);
    add(t, key, buf_take(&b));
}

static void add_text(struct values *t, const char *key, const char *s)
{
    struct buf b = BUF_INIT;
    json_put_cstr(&b, s);
    add(t, key, buf_take(&b));
}

static void add_raw(struct values *t, const char *key, struct json v)
{
    add(t, key, xstrndup(v.s, v.n));
}

static void values_release(struct values *t)
{
    for (size_t i = 0; i < 2 * t->n; i++)
        free(t->own[i]);
    free(t->own);
    free(t->v);
}

/* ---- where a run comes from ---- */

struct origin {
    struct manifest m;      /* of the file of the run that is made: it names the inputs */
    struct manifest source; /* of the first input that has one; else empty */
    double started;         /* seconds since 1970; 0: not known */
    double seconds;         /* spent in making the inputs; NaN: not known */
};

static double seconds_of_date(const char *s)
{
    struct tm tm = { 0 };
    if (!s ||
        sscanf(s, "%d-%d-%dT%d:%d:%dZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 6)
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (double)timegm(&tm);
}

static int read_source(struct origin *o, const char *path, struct err *e)
{
    struct manifest m = { .ninputs = 0 };
    if (!file_exists(path))
        return 0;
    if (manifest_read(&m, path, e) < 0)
        return -1;
    o->seconds = isnan(o->seconds) ? m.seconds : o->seconds + m.seconds;
    if (o->source.program) {
        manifest_release(&m);
        return 0;
    }
    o->source = m;
    o->started = seconds_of_date(m.started);
    return 0;
}

static void origin_start(struct origin *o, const struct export *x, const char *name)
{
    struct buf options = BUF_INIT;
    *o = (struct origin){ .seconds = NAN };
    o->m.program = xstrdup("report");
    o->m.version = xstrdup(LATENT_VERSION);
    o->m.numerics = xstrdup("exact");
    o->m.result = x->result;
    o->m.started = xstrdup("");
    rec_begin(&options);
    rec_put_cstr(&options, "project", x->project);
    rec_put_cstr(&options, "run-name", name);
    rec_end(&options);
    options.s[--options.len] = '\0'; /* the newline */
    o->m.options = buf_take(&options);
}

static int origin_input(struct origin *o, const char *file, struct err *e)
{
    struct hash128 h;
    if (hash_file(file, true, &h, e) < 0)
        return -1;
    manifest_add_input(&o->m, file, "", h);
    return 0;
}

static void origin_release(struct origin *o)
{
    manifest_release(&o->m);
    manifest_release(&o->source);
}

/* Of everything that tells one run from another. */
static void make_id(const struct origin *o, const char *what, char id[WANDB_ID + 1])
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s\n%s %d\n%s\n%.17g\n", what, o->m.version, (int)o->m.result, o->m.options, o->started);
    for (int i = 0; i < o->m.ninputs; i++)
        buf_printf(&b, "%s\n", o->m.input[i].hash);
    wandb_id(b.s, b.len, id);
    buf_release(&b);
}

/* How the input was made, as far as its manifest says. */
static void add_source(struct values *t, const struct manifest *m)
{
    struct json options, family;
    bool parsed = m->options && json_parse(&options, m->options, strlen(m->options), NULL) == 0;
    add_text(t, "model", m->nmodels ? m->model[0].name : NULL);
    if (parsed && json_get(options, "model-family", &family))
        add_raw(t, "model_family", family);
    if (m->nmodels)
        add_text(t, "model_fingerprint", m->model[0].hash);
    if (parsed)
        add_raw(t, "options", options);
    if (m->program) {
        add_text(t, "program", m->program);
        add_text(t, "version", m->version);
        add_text(t, "numerics", m->numerics);
    }
}

static char *name_of(const struct export *x, const char *label, bool alone)
{
    struct buf b = BUF_INIT;
    if (x->name)
        buf_puts(&b, x->name);
    if (x->name && !alone)
        buf_putc(&b, '_');
    if (!x->name || !alone)
        buf_puts(&b, label);
    return buf_take(&b);
}

static int finish(struct wandb *w, const struct export *x, struct origin *o, int rc, struct err *e)
{
    struct buf folder = BUF_INIT;
    if (rc == 0)
        rc = wandb_write(w, x->dir, &o->m, &folder, e);
    if (rc == 0)
        log_info("%s", folder.s);
    buf_release(&folder);
    wandb_free(w);
    return rc;
}

/* ---- one set of results ---- */

static void put_raw_or_null(struct buf *b, const struct rec *r, const char *key, const char *other)
{
    struct json v;
    if (rec_get(r, key, &v) || (other && rec_get(r, other, &v)))
        buf_add(b, v.s, v.n);
    else
        buf_puts(b, "null");
}

static void put_question(struct buf *b, const struct rec *r)
{
    struct json v;
    struct buf text = BUF_INIT;
    size_t end = 0;
    uint32_t cp;
    if (rec_get(r, "question", &v) && json_kind(v) == JSON_STRING)
        json_str(v, &text);
    for (int i = 0; i < 500 && end < text.len; i++) {
        int k = utf8_decode(text.s + end, text.len - end, &cp);
        end += k > 0 ? (size_t)k : 1;
    }
    json_put_str(b, text.s ? text.s : "", end);
    buf_release(&text);
}

/* What was said behind the thinking. */
static void put_answer_part(struct buf *b, const struct rec *r)
{
    struct json v;
    struct buf text = BUF_INIT;
    if (!rec_get(r, "response_text", &v) || json_kind(v) != JSON_STRING) {
        put_raw_or_null(b, r, "prediction", NULL);
        return;
    }
    json_str(v, &text);
    struct think t = think_split(text.s ? text.s : "", text.len);
    json_put_str(b, t.visible.s ? t.visible.s : "", t.visible.n);
    buf_release(&text);
}

static const char columns[] =
    "{\"columns\": [\"source_id\", \"question\", \"gold_answer\", \"thinking\", \"answer_part\", "
    "\"extracted_answer\", \"is_correct\", \"think_tokens\", \"total_tokens\"], \"data\": [";
enum { SAMPLE_COLUMNS = 9 };

static int put_sample(struct buf *b, const char *line, struct err *e)
{
    struct rec r = { 0 };
    if (rec_parse(&r, line, strlen(line), "sample", e) < 0)
        return -1;
    buf_putc(b, '[');
    put_raw_or_null(b, &r, "source_id", NULL);
    buf_puts(b, ", ");
    put_question(b, &r);
    buf_puts(b, ", ");
    put_raw_or_null(b, &r, "gold_answer", NULL);
    buf_puts(b, ", ");
    put_raw_or_null(b, &r, "reasoning", "thinking");
    buf_puts(b, ", ");
    put_answer_part(b, &r);
    static const char *const rest[] = { "extracted", "is_correct", "think_tokens", "num_tokens" };
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        buf_puts(b, ", ");
        put_raw_or_null(b, &r, rest[i], NULL);
    }
    buf_putc(b, ']');
    rec_release(&r);
    return 0;
}

static int add_samples(struct values *t, struct wandb *w, const struct result_set *s, struct err *e)
{
    struct buf text = BUF_INIT, value = BUF_INIT;
    int rc = 0;
    buf_puts(&text, columns);
    for (size_t i = 0; rc == 0 && i < s->nhead; i++) {
        buf_puts(&text, i ? ", " : "");
        rc = put_sample(&text, s->head[i], e);
    }
    buf_puts(&text, "]}");
    wandb_table(w, "eval/sample_cots", text.s, text.len, SAMPLE_COLUMNS, s->nhead, &value);
    add(t, "eval/sample_cots", buf_take(&value));
    buf_release(&text);
    return rc;
}

static void add_histogram(struct values *t, const struct result_set *s)
{
    struct buf value = BUF_INIT;
    double *v = xmalloc((s->n + 1) * sizeof *v);
    for (size_t i = 0; i < s->n; i++)
        v[i] = s->v[i].think;
    wandb_histogram(v, s->n, &value);
    add(t, "eval/thinking_length_distribution", buf_take(&value));
    free(v);
}

static void add_scalars(struct values *t, const struct report_line *l, double seconds)
{
    const struct result_summary *s = &l->sum;
    int64_t correct = 0;
    for (size_t i = 0; i < l->set->n; i++)
        correct += l->set->v[i].correct;
    add_real(t, "eval/accuracy", s->accuracy);
    add_int(t, "eval/num_correct", correct);
    add_int(t, "eval/num_samples", s->samples);
    add_real(t, "eval/avg_tokens", s->tokens.mean);
    add_real(t, "eval/avg_thinking_tokens", s->think.mean);
    add_real(t, "eval/avg_tokens_correct", isnan(s->tokens_correct) ? 0 : s->tokens_correct);
    add_real(t, "eval/generation_time_s", seconds);
    add_real(t, "eval/truncated", s->truncated);
    add_real(t, "eval/unanswered", s->unanswered);
}

/* Does the first line say that the model was told the ratio? */
static void add_prompt(struct values *t, const struct result_set *s)
{
    struct rec r = { 0 };
    struct json v;
    if (s->nhead && rec_parse(&r, s->head[0], strlen(s->head[0]), "sample", NULL) == 0 &&
        rec_get(&r, "prompt_format", &v))
        add(t, "tokenskip_prompt", xstrdup(json_str_is(v, "tokenskip") ? "true" : "false"));
    rec_release(&r);
}

static int origin_of_set(struct origin *o, const struct export *x, const struct result_set *s, struct err *e)
{
    for (size_t i = 0; i < s->nfile; i++) {
        const char *file = x->file[s->file[i]];
        char *path = manifest_path(file);
        int rc = origin_input(o, file, e) < 0 || read_source(o, path, e) < 0 ? -1 : 0;
        free(path);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int export_set(const struct export *x, const struct report_line *l, bool alone, struct err *e)
{
    const struct result_set *s = l->set;
    struct origin o;
    struct values config = { NULL, NULL, 0 }, row = { NULL, NULL, 0 };
    struct buf label = BUF_INIT;
    char id[WANDB_ID + 1];
    buf_printf(&label, "%s%s%s_ratio%g", s->label, strcmp(s->label, s->benchmark) ? "_" : "",
               strcmp(s->label, s->benchmark) ? s->benchmark : "", s->ratio);
    char *name = name_of(x, label.s, alone);
    origin_start(&o, x, name);
    int rc = origin_of_set(&o, x, s, e);
    if (rc == 0) {
        add_text(&config, "run", s->label);
        add_text(&config, "benchmark", s->benchmark);
        add_real(&config, "compression_ratio", s->ratio);
        add_int(&config, "num_samples", l->sum.samples);
        add_prompt(&config, s);
        add_source(&config, &o.source);
        make_id(&o, label.s, id);
        struct wandb *w = wandb_new(&(struct wandb_run){ .id = id,
                                                         .project = x->project,
                                                         .name = name,
                                                         .group = s->label,
                                                         .job_type = "eval",
                                                         .started = o.started,
                                                         .config = config.v,
                                                         .nconfig = config.n });
        add_scalars(&row, l, o.seconds);
        add_histogram(&row, s);
        rc = add_samples(&row, w, s, e);
        wandb_log(w, isnan(o.seconds) ? 0 : o.seconds, row.v, row.n);
        rc = finish(w, x, &o, rc, e);
    }
    values_release(&config);
    values_release(&row);
    origin_release(&o);
    buf_release(&label);
    free(name);
    return rc;
}

/* ---- one training ---- */

/* "eval_loss" is eval/loss, everything else train/KEY, as Hugging Face's trainer has it; epoch and step too. */
static int log_line(struct wandb *w, const struct trainlog_line *l, struct err *e)
{
    struct values row = { NULL, NULL, 0 };
    struct json doc, key, v;
    if (json_parse(&doc, l->text, strlen(l->text), e) < 0)
        return -1;
    add_int(&row, "train/global_step", l->step);
    struct json_iter it = json_each(doc);
    while (json_next(&it, &key, &v)) {
        if (json_kind(v) != JSON_NUMBER || json_str_is(key, "step"))
            continue;
        struct buf name = BUF_INIT;
        char *plain = json_str_dup(key);
        bool eval = strncmp(plain, "eval_", 5) == 0;
        buf_printf(&name, "%s/%s", eval ? "eval" : "train", plain + (eval ? 5 : 0));
        add_raw(&row, name.s, v);
        free(plain);
        buf_release(&name);
    }
    wandb_log(w, l->seconds, row.v, row.n);
    values_release(&row);
    return 0;
}

/* The log lies in the folder of the model that it is about, whose run.json says how it was made. */
static int origin_of_log(struct origin *o, const char *file, struct err *e)
{
    size_t n = (size_t)(path_base(file) - file);
    struct buf path = BUF_INIT;
    buf_add(&path, file, n);
    buf_puts(&path, "run.json");
    int rc = origin_input(o, file, e) < 0 || read_source(o, path.s, e) < 0 ? -1 : 0;
    buf_release(&path);
    return rc;
}

static int export_log(const struct export *x, const struct trainlog *t, bool alone, struct err *e)
{
    struct origin o;
    struct values config = { NULL, NULL, 0 };
    char id[WANDB_ID + 1], *name = name_of(x, t->label, alone);
    origin_start(&o, x, name);
    int rc = origin_of_log(&o, x->file[t->file], e);
    if (rc == 0) {
        add_text(&config, "run", t->label);
        add_source(&config, &o.source);
        make_id(&o, t->label, id);
        struct wandb *w = wandb_new(&(struct wandb_run){ .id = id,
                                                         .project = x->project,
                                                         .name = name,
                                                         .job_type = "train",
                                                         .started = o.started,
                                                         .step_metric = "train/global_step",
                                                         .config = config.v,
                                                         .nconfig = config.n });
        for (size_t i = 0; rc == 0 && i < t->n; i++)
            rc = log_line(w, &t->v[i], e);
        rc = finish(w, x, &o, rc, e);
    }
    values_release(&config);
    origin_release(&o);
    free(name);
    return rc;
}

int export_runs(const struct export *x, const struct report *rep, const struct trainlogs *logs, struct err *e)
{
    bool alone = rep->n + logs->n == 1;
    for (size_t i = 0; i < rep->n; i++)
        if (export_set(x, &rep->v[i], alone, e) < 0)
            return -1;
    for (size_t i = 0; i < logs->n; i++)
        if (export_log(x, &logs->v[i], alone, e) < 0)
            return -1;
    return 0;
}
