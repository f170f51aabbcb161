/* compress.c - see compress.h: what happens to a batch of texts. */
#include "task/compress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/pool.h"
#include "io/record.h"
#include "model/model.h"
#include "task/compress_private.h"
#include "text/tiktoken.h"
#include "text/tokenizer.h"

enum { PACKAGE_WINDOW = 512, LONGEST_WINDOW = 4096 };

struct begun {
    struct compress_job *jobs;
    size_t n;
    bool modelled; /* its scores come from the model */
    struct compress_flight flight;
};

struct compressor {
    struct compress_spec spec;
    struct tokenizer *own, *target;
    struct tiktoken *cl100k;
    struct lingua *l;
    struct compress_model *model; /* opened when first needed */
    struct scores *scores;
    struct buf settings;
    char fingerprint[33]; /* of the model, for the scores that are written */
    enum lingua_family family;
    bool below_one; /* some ratio cuts */
    struct pool *pool;
    int threads;
    struct lingua_scratch **scratch;    /* [threads] */
    struct begun begun[COMPRESS_BEGUN]; /* oldest first */
    int nbegun;
};

void compress_job_release(struct compress_job *j)
{
    buf_release(&j->text);
    buf_release(&j->label);
    buf_release(&j->scores);
    lingua_text_release(&j->pieces);
    lingua_words_release(&j->words);
    for (int i = 0; i < COMPRESS_MAX_RATIOS; i++) {
        buf_release(&j->cut[i].text);
        free(j->cut[i].keep);
    }
    free(j->err);
    memset(j, 0, sizeof *j);
}

/* ---- opening ---- */

static int family_of(const struct compress_spec *s, const struct model_config *c, enum lingua_family *out,
                     struct err *e)
{
    if (s->method != COMPRESS_LLMLINGUA2) {
        *out = LINGUA_CAUSAL;
        return c->encoder ? err_set(e, "%s: %s needs a causal model, found %s", s->model,
                                    s->method == COMPRESS_SURPRISAL ? "surprisal" : "leave-out", c->family_name)
                          : 0;
    }
    *out = c->family == MODEL_BERT ? LINGUA_BERT : LINGUA_XLMR;
    return c->encoder ? 0
                      : err_set(e,
                                "%s: a compressor is an XLM-RoBERTa or BERT with labels, found %s (--method surprisal "
                                "takes it)",
                                s->model, c->family_name);
}

/* What the folder says without its weights: family, window, tokenizer. */
static int open_folder(struct compressor *c, struct lingua_spec *rule, struct err *e)
{
    struct model_config cfg = { 0 };
    if (model_config_read(&cfg, c->spec.model, e) < 0)
        return -1;
    int rc = family_of(&c->spec, &cfg, &rule->family, e);
    int64_t window = cfg.max_positions - (cfg.encoder ? cfg.position_base : 0);
    int64_t most = rule->family == LINGUA_CAUSAL ? LONGEST_WINDOW : PACKAGE_WINDOW;
    if (rc == 0 && rule->compat && window < PACKAGE_WINDOW)
        rc = err_set(e, "%s: the llmlingua package needs %d positions, this encoder has %lld", c->spec.model,
                     PACKAGE_WINDOW, (long long)window);
    rule->window = (int)(window < most ? window : most);
    model_config_release(&cfg);
    if (rc < 0 || tokenizer_open(&c->own, c->spec.model, e) < 0)
        return -1;
    rule->tokenizer = c->own;
    return c->spec.want_scores ? model_fingerprint(c->spec.model, c->fingerprint, e) : 0;
}

static int open_parts(struct compressor *c, struct err *e)
{
    struct lingua_spec rule = c->spec.rule;
    rule.tokenizer = NULL;
    scores_settings(&c->spec, &c->settings);
    if (c->spec.scores && scores_open(&c->scores, c->spec.scores, c->settings.s, e) < 0)
        return -1;
    if (!c->scores && open_folder(c, &rule, e) < 0)
        return -1;
    if (c->scores)
        rule.family = scores_family(c->scores);
    if (c->spec.target && tokenizer_open(&c->target, c->spec.target, e) < 0)
        return -1;
    rule.target = c->target;
    if (rule.compat && c->spec.cl100k && tiktoken_open(&c->cl100k, c->spec.cl100k, e) < 0)
        return -1;
    rule.cl100k = c->cl100k;
    c->family = rule.family;
    return lingua_open(&c->l, &rule, e);
}

int compressor_open(struct compressor **out, const struct compress_spec *spec, struct err *e)
{
    struct compressor *c = xcalloc(1, sizeof *c);
    *out = NULL;
    c->spec = *spec;
    c->threads = spec->threads > 0 ? spec->threads : pool_cores();
    for (size_t i = 0; i < spec->nratio; i++)
        c->below_one |= 1 - spec->ratio[i] > 0;
    if (open_parts(c, e) < 0 || pool_open(&c->pool, c->threads, e) < 0) {
        compressor_close(c);
        return -1;
    }
    c->scratch = xcalloc((size_t)c->threads, sizeof *c->scratch);
    for (int i = 0; i < c->threads; i++)
        c->scratch[i] = lingua_scratch_new();
    *out = c;
    return 0;
}

void compressor_close(struct compressor *c)
{
    if (!c)
        return;
    for (int i = 0; c->scratch && i < c->threads; i++)
        lingua_scratch_free(c->scratch[i]);
    free(c->scratch);
    pool_close(c->pool);
    for (int i = 0; i < c->nbegun; i++)
        compress_model_drop(c->model, &c->begun[i].flight);
    compress_model_close(c->model);
    lingua_close(c->l);
    scores_close(c->scores);
    tokenizer_close(c->own);
    tokenizer_close(c->target);
    tiktoken_close(c->cl100k);
    buf_release(&c->settings);
    free(c);
}

double compressor_model_seconds(const struct compressor *c)
{
    return c->model ? compress_model_seconds(c->model) : 0;
}

uint64_t compressor_model_rows(const struct compressor *c)
{
    return c->model ? compress_model_rows(c->model) : 0;
}

int64_t compressor_count(struct compressor *c, const char *s, size_t n, struct err *e)
{
    return lingua_count(c->scratch[0], c->target, s, n, e);
}

/* ---- the steps of a batch ---- */

struct batch {
    struct compressor *c;
    struct compress_job *jobs;
};

static const char *text_of(const struct buf *b)
{
    return b->s ? b->s : "";
}

static void split_job(void *arg, int i, int thread)
{
    struct batch *b = arg;
    struct compressor *c = b->c;
    struct compress_job *j = &b->jobs[i];
    if (!j->err)
        j->err = xcalloc(1, sizeof *j->err);
    j->err->msg[0] = 0;
    j->scored = c->scores != NULL;
    j->failed =
        (c->scores ? scores_find(c->scores, &j->text, text_of(&j->label), c->spec.rule.compat, &j->pieces, j->err)
                   : lingua_split(c->l, c->scratch[thread], text_of(&j->text), j->text.len, &j->pieces, j->err)) < 0;
}

static double rate(int64_t part, int64_t whole)
{
    return whole ? (double)part / (double)whole : 1;
}

/* One ratio of one text. */
static int cut_one(struct compressor *c, struct lingua_scratch *sc, struct compress_job *j, size_t r, int64_t target,
                   struct err *e)
{
    struct compress_cut *x = &j->cut[r];
    uint64_t pieces;
    if (x->keep_cap < j->words.n) {
        x->keep_cap = j->words.n + 64;
        x->keep = xreallocarray(x->keep, x->keep_cap, 1);
    }
    buf_reset(&x->text);
    if (lingua_cut(c->l, sc, &j->words, c->spec.ratio[r], x->keep, &pieces, &x->text, e) < 0)
        return -1;
    x->by_pieces = rate((int64_t)pieces, (int64_t)j->words.pieces);
    x->by_target = (double)NAN;
    x->tokens = (int64_t)pieces;
    if (c->target) {
        int64_t n = lingua_count(sc, c->target, text_of(&x->text), x->text.len, e);
        if (n < 0)
            return -1;
        x->by_target = rate(n, target);
        x->tokens = n;
    }
    if (c->spec.rule.compat)
        x->tokens = lingua_count_cl100k(c->l, sc, text_of(&x->text), x->text.len);
    return 0;
}

static int cut_all(struct compressor *c, struct lingua_scratch *sc, struct compress_job *j, struct err *e)
{
    int64_t target = 0;
    if (lingua_merge(c->l, sc, &j->pieces, &j->words, e) < 0)
        return -1;
    j->tokens = (int64_t)j->words.pieces;
    if (c->target) {
        j->tokens = target = lingua_count(sc, c->target, text_of(&j->text), j->text.len, e);
        if (target < 0)
            return -1;
    }
    if (c->spec.rule.compat)
        j->tokens = lingua_count_cl100k(c->l, sc, text_of(&j->text), j->text.len);
    for (size_t r = 0; r < c->spec.nratio; r++)
        if (cut_one(c, sc, j, r, target, e) < 0)
            return -1;
    return 0;
}

static void cut_job(void *arg, int i, int thread)
{
    struct batch *b = arg;
    struct compressor *c = b->c;
    struct compress_job *j = &b->jobs[i];
    j->failed = cut_all(c, c->scratch[thread], j, j->err) < 0;
    buf_reset(&j->scores);
    if (!j->failed && c->spec.want_scores)
        scores_write(c->settings.s, c->fingerprint, c->family, &j->pieces, &j->text, c->spec.rule.compat, &j->scores);
}

static int first_failure(const struct compress_job *jobs, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (jobs[i].failed) {
            *e = *jobs[i].err;
            return -1;
        }
    return 0;
}

static int begin_model(struct compressor *c, struct begun *b, struct err *e)
{
    const struct compress_spec *s = &c->spec;
    b->modelled = !c->scores && (c->below_one || s->want_scores || s->want_labels);
    if (!b->modelled)
        return 0;
    if (!c->model && compress_model_open(&c->model, s->model, s->method, s->device, s->threads, s->rows, e) < 0)
        return -1;
    return compress_model_begin(c->model, c->l, b->jobs, b->n, &b->flight, e);
}

int compressor_begin(struct compressor *c, struct compress_job *jobs, size_t n, struct err *e)
{
    struct begun *b = &c->begun[c->nbegun];
    *b = (struct begun){ .jobs = jobs, .n = n };
    pool_run(c->pool, (int)n, split_job, &(struct batch){ c, jobs });
    if (first_failure(jobs, n, e) < 0 || begin_model(c, b, e) < 0)
        return -1;
    c->nbegun++;
    return 0;
}

static void nothing_scored(struct compress_job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < jobs[i].pieces.n; k++)
            jobs[i].pieces.piece[k].p = 0;
}

int compressor_end(struct compressor *c, struct err *e)
{
    struct begun b = c->begun[0];
    memmove(c->begun, c->begun + 1, (size_t)--c->nbegun * sizeof *c->begun);
    if (b.modelled && compress_model_end(c->model, c->l, b.jobs, &b.flight, e) < 0)
        return -1;
    if (!b.modelled && !c->scores)
        nothing_scored(b.jobs, b.n);
    pool_run(c->pool, (int)b.n, cut_job, &(struct batch){ c, b.jobs });
    return first_failure(b.jobs, b.n, e);
}

int compressor_run(struct compressor *c, struct compress_job *jobs, size_t n, struct err *e)
{
    return compressor_begin(c, jobs, n, e) < 0 ? -1 : compressor_end(c, e);
}

/* ---- records ---- */

void compress_percent(int64_t tokens, int64_t of, char out[32])
{
    double ratio = tokens == 0 ? 1 : (double)of / (double)tokens;
    snprintf(out, 32, "%.1f%%", 1 / ratio * 100);
}

static void copy(struct buf *out, const struct rec *sample, const char *key)
{
    struct json v;
    if (sample && rec_get(sample, key, &v))
        rec_put(out, key, v);
}

static void put_labels(const struct compress_job *j, const struct compress_cut *x, struct buf *out)
{
    const struct lingua_words *w = &j->words;
    buf_puts(out, ", \"words\": [");
    for (size_t i = 0; i < w->n; i++) {
        if (i)
            buf_puts(out, ", ");
        json_put_str(out, w->s + w->word[i].b, w->word[i].e - w->word[i].b);
    }
    buf_puts(out, "], \"scores\": [");
    for (size_t i = 0; i < w->n; i++) {
        if (i)
            buf_puts(out, ", ");
        json_put_float(out, (float)w->word[i].p);
    }
    buf_puts(out, "], \"keep\": [");
    for (size_t i = 0; i < w->n; i++)
        buf_puts(out, i ? (x->keep[i] ? ", 1" : ", 0") : (x->keep[i] ? "1" : "0"));
    buf_putc(out, ']');
}

void compress_record(const struct compressor *c, const struct compress_job *j, const struct rec *sample, uint64_t line,
                     size_t ratio, bool reference, struct buf *out)
{
    static const char *const copied[] = { "benchmark", "source_id", "question", "gold_answer", "answer" };
    const struct compress_cut *x = &j->cut[ratio];
    char percent[32], name[32];
    struct buf r = BUF_INIT; /* rec_put looks at what is there already */
    rec_begin(&r);
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        copy(&r, sample, copied[i]);
    if (!sample) {
        snprintf(name, sizeof name, "text_%llu", (unsigned long long)line);
        rec_put_cstr(&r, "source_id", name);
    }
    rec_put_real(&r, "compression_ratio", c->spec.ratio[ratio]);
    rec_put_text(&r, "original_reasoning", text_of(&j->text), j->text.len);
    rec_put_text(&r, "compressed_reasoning", text_of(&x->text), x->text.len);
    rec_put_int(&r, "original_reasoning_token_count", j->tokens);
    rec_put_int(&r, "compressed_reasoning_token_count", x->tokens);
    compress_percent(x->tokens, j->tokens, percent);
    rec_put_cstr(&r, "actual_compression_rate", percent);
    if (!reference) {
        copy(&r, sample, "question_source_id");
        copy(&r, sample, "sample_index");
        rec_put_number(&r, "achieved_rate_target", x->by_target);
        rec_put_number(&r, "achieved_rate_compressor", x->by_pieces);
        if (c->spec.want_labels)
            put_labels(j, x, &r);
    }
    rec_end(&r);
    buf_add(out, r.s, r.len);
    buf_release(&r);
}
