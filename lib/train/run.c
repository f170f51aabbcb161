/* run.c - see run.h. */
#include "train/run.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

struct run {
    struct trainable *t;
    struct optimizer *o;
    struct batches *b;
    struct checkpoint *c;
    const struct run_options *opt;
    int64_t warmup;
    struct pass pass;
    double loss, norm, lr; /* of the step in hand */
    int64_t tokens;
    double flops;
    double began; /* clock */
    int64_t began_tokens;
};

/* ---- a step ---- */

static int refuse_number(const struct run *r, int64_t s, const char *what, double v, struct err *e)
{
    return err_set(e,
                   "step %lld: %s is %s: training stops (too high a learning rate, or weights that are not numbers)%s",
                   (long long)s + 1, what, isnan(v) ? "not a number" : "infinite",
                   r->c->step ? "; the last checkpoint is kept" : "");
}

static int one_step(struct run *r, int64_t s, struct err *e)
{
    const uint32_t *list;
    uint32_t n = batches_step(r->b, s, &list);
    const struct rows *rows = r->b->rows;
    int64_t targets = 0;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        targets += rows->row[list[i]].targets;
    r->tokens = 0;
    r->flops = 0;
    for (uint32_t at = 0; at < n;) {
        double loss;
        at += pass_fill(&r->pass, rows, list + at, n - at, r->b->spec.pass_tokens);
        r->pass.b.dropout_first = (uint64_t)(r->c->tokens + r->tokens) * (uint64_t)r->opt->width;
        if (trainable_pass(r->t, &r->pass.b, (float)(1.0 / (double)targets), &loss, e) < 0)
            return -1;
        sum += loss;
        r->tokens += r->pass.b.rows;
        r->flops += trainable_flops(r->t, &r->pass.b);
    }
    r->loss = sum / (double)targets;
    if (!isfinite(r->loss))
        return refuse_number(r, s, "the loss", r->loss, e);
    if (optimizer_norm(r->o, &r->norm, e) < 0)
        return -1;
    if (!isfinite(r->norm))
        return refuse_number(r, s, "the gradient", r->norm, e);
    r->lr = r->opt->lr * schedule_at(r->opt->schedule, s, r->b->steps, r->warmup);
    optimizer_step(r->o, s + 1, r->lr, r->norm);
    r->c->tokens += r->tokens;
    r->c->loss = r->loss;
    return 0;
}

/* ---- the log ---- */

static void put_number(struct buf *b, const char *key, double v)
{
    buf_printf(b, ", \"%s\": ", key);
    json_put_double(b, v);
}

static int write_line(struct run *r, struct buf *b, struct err *e)
{
    buf_puts(b, "}\n");
    int bad = fwrite(b->s, 1, b->len, r->c->metrics) != b->len || fflush(r->c->metrics) != 0;
    buf_release(b);
    return bad ? err_errno(e, "%s/metrics.jsonl: cannot write", r->c->dir) : 0;
}

static double speed(const struct run *r)
{
    double s = log_seconds() - r->began;
    return s > 0 ? (double)(r->c->tokens - r->began_tokens) / s : 0;
}

static int log_step(struct run *r, int64_t done, double seconds, struct err *e)
{
    struct buf b = BUF_INIT;
    struct rusage u;
    char words[96];
    getrusage(RUSAGE_SELF, &u);
    buf_printf(&b, "{\"step\": %lld", (long long)done);
    put_number(&b, "epoch", batches_epoch(r->b, done));
    put_number(&b, "loss", r->loss);
    put_number(&b, "grad_norm", r->norm);
    put_number(&b, "learning_rate", r->lr);
    double per = seconds > 0 ? 1 / seconds : 0;
    buf_printf(&b, ", \"tokens\": %lld, \"tokens_per_second\": %.1f, \"flops_per_second\": %.3g",
               (long long)r->c->tokens, (double)r->tokens * per, r->flops * per);
    if (r->opt->peak > 0)
        buf_printf(&b, ", \"peak_share\": %.3f", r->flops * per / r->opt->peak);
    buf_printf(&b, ", \"memory\": %lld", 1024LL * u.ru_maxrss);
    snprintf(words, sizeof words, "loss %.4f, %.0f tokens/s", r->loss, speed(r));
    progress_at((uint64_t)done, words);
    return write_line(r, &b, e);
}

static int log_eval(struct run *r, int64_t done, double loss, bool best, struct err *e)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "{\"step\": %lld", (long long)done);
    put_number(&b, "epoch", batches_epoch(r->b, done));
    put_number(&b, "eval_loss", loss);
    log_info("step %lld: eval loss %.6f%s", (long long)done, loss, best ? ", the lowest so far" : "");
    return write_line(r, &b, e);
}

/* ---- evaluation and saving ---- */

int train_eval(struct trainable *t, const struct rows *rows, const uint32_t *list, uint32_t n, int pass_tokens,
               double *loss, struct err *e)
{
    struct pass p = { .cap_rows = 0 };
    double sum = 0;
    int64_t targets = 0;
    int rc = 0;
    for (uint32_t at = 0; rc == 0 && at < n;) {
        double one;
        at += pass_fill(&p, rows, list + at, n - at, pass_tokens);
        rc = trainable_pass(t, &p.b, 0, &one, e);
        sum += one;
        targets += p.targets;
    }
    pass_release(&p);
    *loss = targets ? sum / (double)targets : NAN;
    return rc;
}

/* every = 0: at the end of an epoch; always at the end of the run. */
static bool is_due(const struct run *r, int64_t done, int64_t every)
{
    if (done == r->b->steps)
        return true;
    return every > 0 ? done % every == 0 : r->b->step[done].epoch != r->b->step[done - 1].epoch;
}

static int after_step(struct run *r, int64_t done, struct err *e)
{
    bool eval = r->b->neval && is_due(r, done, r->opt->eval_every), best = false;
    bool stop = r->opt->stop && r->opt->stop();
    double loss = NAN;
    if (eval) {
        if (train_eval(r->t, r->b->rows, r->b->eval, r->b->neval, r->b->spec.pass_tokens, &loss, e) < 0)
            return -1;
        if (!isfinite(loss))
            return refuse_number(r, done - 1, "the eval loss", loss, e);
        best = loss < r->c->best_loss;
        if (log_eval(r, done, loss, best, e) < 0)
            return -1;
    }
    if ((eval || stop || is_due(r, done, r->opt->save_every)) && checkpoint_save(r->c, r->o, done, best, loss, e) < 0)
        return -1;
    if (stop && done < r->b->steps)
        return err_set(e, "interrupted after step %lld, which is kept; the same command goes on from here",
                       (long long)done);
    return 0;
}

int train_run(struct trainable *t, struct optimizer *o, struct batches *b, struct checkpoint *c,
              const struct run_options *opt, struct run_result *out, struct err *e)
{
    struct run r = { .t = t, .o = o, .b = b, .c = c, .opt = opt };
    r.warmup = schedule_warmup(opt->warmup_ratio, b->steps);
    if (checkpoint_load(c, o, e) < 0)
        return -1;
    if (c->step)
        log_info("goes on behind step %lld of %lld", (long long)c->step, (long long)b->steps);
    r.began = log_seconds();
    r.began_tokens = c->tokens;
    int rc = 0;
    progress_begin("training", (uint64_t)b->steps, "steps");
    for (int64_t s = c->step; rc == 0 && s < b->steps; s++) {
        double start = log_seconds();
        rc = one_step(&r, s, e);
        if (rc == 0)
            rc = log_step(&r, s + 1, log_seconds() - start, e);
        if (rc == 0)
            rc = after_step(&r, s + 1, e);
    }
    progress_end();
    if (rc == 0 && c->best_step && c->best_step != b->steps)
        rc = checkpoint_load_best(c, o, e);
    pass_release(&r.pass);
    *out = (struct run_result){ c->loss, c->best_step ? c->best_loss : NAN, c->best_step, c->tokens,
                                log_seconds() - r.began };
    return rc;
}
