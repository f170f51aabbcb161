/* score - how likely a model finds texts, and above all their answers. See latent-score(1). */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/shard.h"
#include "model/locate.h"
#include "model/model.h"
#include "model/score.h"
#include "task/scoring.h"
#include "task/serve.h"
#include "tools/tool.h"

static struct {
    const char *model, *format, *family, *part;
    int64_t max_tokens, limit, batch;
    bool tokens, compat, serve, fp8_cache, batch_dependent;
    const char *host;
    int64_t port, concurrency;
} o = { .host = "127.0.0.1",
        .port = 8009,
        .concurrency = 8,
        .format = "tokenskip",
        .family = "auto",
        .max_tokens = 4096,
        .limit = -1,
        .batch = 2048 };
static struct shard shard; /* --shard */

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_STRING("model", 'm', &o.model, "DIR", "checkpoint to score with; else $MODEL, else embedded:reasoner",
                   OPT_RUN),
    OPT_ROW_ALIAS("model-dir", "model"),
    OPT_ROW_INT("limit", 'n', &o.limit, "N", "only the first N rows; -1: all", OPT_RESULT, -1, 1e15),
    OPT_ROW_STRING("shard", 0, &o.part, "K/N", "only part K (0..N-1) of N equal parts, after --limit", OPT_RESULT),
    OPT_ROW_CHOICE("prompt-format", 0, &o.format, PROMPT_FORMATS, "samples: how the question is put", OPT_RESULT),
    OPT_ROW_CHOICE("model-family", 0, &o.family, "auto|qwen|llama3", "samples: what stands around the ratio",
                   OPT_RESULT),
    OPT_ROW_INT("max-seq-len", 0, &o.max_tokens, "N", "rows of more tokens are skipped", OPT_RESULT, 2, 1e8),
    OPT_ROW_FLAG("tokens", 't', &o.tokens, "write every token with its log-probability and entropy", OPT_RESULT),
    OPT_ROW_FLAG("compat", 0, &o.compat, "samples: the chain of thought untrimmed, as the reference scores it",
                 OPT_RESULT),
    OPT_ROW_FLAG("batch-dependent", 0, &o.batch_dependent,
                 "CUDA: sums in the order that is fastest for the batch, on which the results then depend", OPT_RESULT),
    OPT_ROW_INT("batch", 'b', &o.batch, "N", "tokens of one pass (a longer row has its own)", OPT_RUN, 1, 1e8),
    OPT_ROW_GROUP("Reward server"),
    OPT_ROW_FLAG("serve", 0, &o.serve, "answer requests over HTTP until SIGINT, SIGTERM or SIGHUP", OPT_RUN),
    OPT_ROW_STRING("host", 0, &o.host, "ADDRESS", "with --serve: address of the loopback to listen on", OPT_RUN),
    OPT_ROW_INT("port", 0, &o.port, "N", "with --serve: port; 0: any free one", OPT_RUN, 0, 65535),
    OPT_ROW_INT("max-concurrency", 0, &o.concurrency, "N", "with --serve: requests scored together at most", OPT_RUN, 1,
                4096),
    OPT_ROW_FLAG("fp8-cache", 0, &o.fp8_cache, "with --serve, CUDA: keys and values in 8 bits (e4m3); other results",
                 OPT_RESULT),
    OPT_ROW_END,
};

/* Rows wait here until there are enough for passes of like lengths. */
enum { WINDOW_ROWS = 512, WINDOW_PASSES = 8 };

struct waiting {
    struct score_row row;
    uint64_t unit;
    struct hash128 input;
};

struct score {
    struct stage *st;
    struct scoring *rows;
    const char *dir;
    struct device *d;
    struct model *m; /* opened when the first row needs it */
    struct scorer *scorer;
    struct waiting *wait; /* [WINDOW_ROWS] */
    int n;
    size_t tokens;
    int64_t scored, skipped, rejected, done_tokens;
    uint64_t first; /* index of the shard's first row */
};

/* With --shard the rows wait until their number is known. */
struct line {
    char *text, *where;
    size_t n;
};

static int open_model(struct score *s, struct err *e)
{
    if (s->scorer)
        return 0;
    if (device_open(&s->d, common.device, (int)common.threads, e) < 0 ||
        (o.batch_dependent && device_use_any_order(s->d, e) < 0) || model_open(&s->m, s->dir, s->d, e) < 0 ||
        scorer_open(&s->scorer, s->m, (int)o.batch, e) < 0)
        return -1;
    log_info("%s on %s (%s)", s->dir, s->d->name, s->d->numerics);
    return 0;
}

/* Gives every row that can be scored its place in `values`: log-probabilities, then entropies. */
static int run_model(struct score *s, float *values, struct err *e)
{
    struct score_seq *seq = xcalloc((size_t)s->n + 1, sizeof *seq);
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const struct score_row *r = &s->wait[i].row;
        size_t wanted = r->tok.n - (size_t)r->first;
        if (r->reason[0])
            continue;
        seq[n++] = (struct score_seq){ r->tok.id, (int)r->tok.n, r->first, values, values + wanted };
        values += 2 * wanted;
    }
    int rc = n == 0 || (open_model(s, e) == 0 && scorer_run(s->scorer, seq, n, e) == 0) ? 0 : -1;
    free(seq);
    return rc;
}

static int flush(struct score *s, struct err *e)
{
    struct buf line = BUF_INIT;
    float *values = xcalloc(2 * s->tokens + 1, sizeof *values), *at = values;
    int rc = run_model(s, values, e);
    for (int i = 0; i < s->n && rc == 0; i++) {
        struct waiting *w = &s->wait[i];
        size_t wanted = w->row.reason[0] ? 0 : w->row.tok.n - (size_t)w->row.first;
        buf_reset(&line);
        scoring_write(s->rows, &w->row, at, at + wanted, &line);
        at += 2 * wanted;
        rc = stage_put(s->st, 0, w->unit, w->input, line.s, line.len, e);
        if (w->row.reason[0])
            s->skipped++;
        else
            s->scored++;
    }
    s->done_tokens += (int64_t)s->tokens;
    progress_at((uint64_t)(s->scored + s->skipped), NULL);
    s->n = 0;
    s->tokens = 0;
    free(values);
    buf_release(&line);
    return rc;
}

static int take(struct score *s, const struct rec *r, struct err *e)
{
    struct waiting *w = &s->wait[s->n];
    w->unit = r->index - s->first;
    w->input = hash_bytes(r->line, r->len);
    if (stage_have(s->st, 0, w->unit, w->input))
        return 0;
    if (scoring_prepare(s->rows, r, &w->row, e) < 0)
        return -1;
    s->n++;
    if (!w->row.reason[0])
        s->tokens += w->row.tok.n;
    bool full = s->n == WINDOW_ROWS || s->tokens >= WINDOW_PASSES * (size_t)o.batch;
    return full ? flush(s, e) : 0;
}

/* A broken line: its unit is empty. */
static int reject(struct score *s, const struct rec *r, struct err *e)
{
    struct hash128 input = hash_bytes(r->line, r->len);
    uint64_t unit = r->index - s->first;
    log_warn("%s", e->msg);
    s->rejected++;
    return stage_have(s->st, 0, unit, input) ? 0 : stage_put(s->st, 0, unit, input, "", 0, e);
}

/* One line of the input; rc is what reading it gave. */
static int take_line(struct score *s, const struct rec *r, int rc, struct err *e)
{
    if (stage_interrupted())
        return flush(s, e) < 0 ? -1 : stage_stopped(s->st, e);
    if (rc == REC_BAD && common.keep_going)
        return reject(s, r, e);
    return rc > 0 ? take(s, r, e) : -1;
}

static int score_stream(struct score *s, struct err *e)
{
    struct rec r;
    int rc;
    for (int64_t i = 0; i != o.limit && (rc = rec_read(stage_input(s->st), &r, e)) != 0; i++)
        if (take_line(s, &r, rc, e) < 0)
            return -1;
    return 0;
}

static int read_lines(struct score *s, struct line **out, uint64_t *n, struct err *e)
{
    struct rec r;
    int rc = 1;
    uint64_t cap = 0;
    for (*n = 0; (int64_t)*n != o.limit && (rc = rec_read(stage_input(s->st), &r, e)) != 0; ++*n) {
        if (rc == -1)
            return -1;
        if (*n == cap) {
            cap = cap ? cap * 2 : 1024;
            *out = xreallocarray(*out, cap, sizeof **out);
        }
        (*out)[*n] = (struct line){ xstrndup(r.line, r.len), xstrdup(r.where), r.len };
    }
    return 0;
}

static int score_shard(struct score *s, struct err *e)
{
    struct line *line = NULL;
    uint64_t n, to = 0;
    int rc = read_lines(s, &line, &n, e);
    if (rc == 0)
        shard_range(&shard, n, &s->first, &to);
    for (uint64_t i = s->first; i < to && rc == 0; i++) {
        struct rec r;
        int got = rec_parse(&r, line[i].text, line[i].n, line[i].where, e);
        r.index = i;
        rc = take_line(s, &r, got < 0 ? REC_BAD : 1, e);
        rec_release(&r);
    }
    for (uint64_t i = 0; i < n; i++) {
        free(line[i].text);
        free(line[i].where);
    }
    free(line);
    return rc;
}

static int score_all(struct score *s, struct err *e)
{
    progress_begin("scoring", 0, "rows");
    if ((shard.n > 1 ? score_shard(s, e) : score_stream(s, e)) < 0 || flush(s, e) < 0)
        return -1;
    progress_end();
    struct buf counts = BUF_INIT;
    buf_printf(&counts,
               "{\"scored\": %lld, \"skipped\": %lld, \"tokens\": %lld, \"resumed\": %llu, \"rejected\": %lld}",
               (long long)s->scored, (long long)s->skipped, (long long)s->done_tokens,
               (unsigned long long)stage_resumed(s->st), (long long)s->rejected);
    int rc = stage_commit(s->st, counts.s, e);
    buf_release(&counts);
    if (s->skipped)
        log_info("%lld %s skipped; each says why", COUNTED(s->skipped, "row was", "rows were"));
    return rc;
}

static int run_stage(struct score *s, const struct model_config *c, struct err *e)
{
    const char *family = strcmp(o.family, "auto") ? o.family : c->family == MODEL_LLAMA ? "llama3" : "qwen";
    struct scoring_spec spec = { .dir = s->dir,
                                 .format = prompt_format_of(o.format),
                                 .delimiter = prompt_delimiter(family),
                                 .max_tokens = (int)(o.max_tokens < c->max_positions ? o.max_tokens : c->max_positions),
                                 .vocab = c->vocab,
                                 .tokens = o.tokens,
                                 .compat = o.compat };
    if (scoring_open(&s->rows, &spec, e) < 0)
        return -1;
    s->wait = xcalloc(WINDOW_ROWS, sizeof *s->wait);
    int rc = score_all(s, e);
    for (int i = 0; i < WINDOW_ROWS; i++)
        score_row_release(&s->wait[i].row);
    free(s->wait);
    scorer_close(s->scorer);
    model_close(s->m);
    if (s->d)
        device_close(s->d);
    scoring_close(s->rows);
    return rc;
}

static int run_located(const struct tool *t, const struct model_place *p, int nfiles, char **files, struct err *e)
{
    struct score s = { .dir = p->dir };
    struct model_config c;
    if (model_config_read(&c, p->dir, e) < 0)
        return TOOL_FAILED;
    struct stage_model model = { "model", p->name, p->fingerprint };
    struct stage_spec spec = { .numerics = device_numerics(common.device),
                               .inputs = (const char *const *)files,
                               .ninputs = nfiles,
                               .models = &model,
                               .nmodels = 1,
                               .resume = true };
    int rc = 0;
    if (c.encoder)
        rc = err_set(e, "%s: %s is an encoder, which gives no next-token probabilities", p->name, c.family_name);
    if (rc == 0)
        rc = tool_stage(&s.st, t, &spec, e);
    if (rc == STAGE_RUN)
        rc = run_stage(&s, &c, e);
    stage_close(s.st);
    model_config_release(&c);
    return rc < 0 ? TOOL_FAILED : s.rejected ? TOOL_REJECTS : TOOL_OK;
}

/* ---- the server ---- */

/* Every connection is a file. */
static void raise_file_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static int serve(const struct model_place *p, struct err *e)
{
    struct serve *s;
    sigset_t stop;
    struct sigaction hangup;
    int got;
    struct serve_options so = { .name = p->name,
                                .dir = p->dir,
                                .device = common.device,
                                .threads = (int)common.threads,
                                .host = o.host,
                                .port = (int)o.port,
                                .max_concurrency = (int)o.concurrency,
                                .max_tokens = (int)o.max_tokens,
                                .rows = (int)o.batch,
                                .fp8_cache = o.fp8_cache,
                                .batch_dependent = o.batch_dependent };
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) /* ignored: nohup */
        sigaddset(&stop, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* in all threads: sigwait takes them */
    raise_file_limit();
    if (serve_open(&s, &so, e) < 0)
        return TOOL_FAILED;
    log_info("%s: answering on http://%s:%d", p->name, o.host, serve_port(s));
    sigwait(&stop, &got);
    log_info("stopping");
    struct serve_stats st = serve_stats(s);
    serve_close(s);
    log_info("%lld %s with %lld %s in %lld %s, %lld refused", COUNTED(st.requests, "request", "requests"),
             COUNTED(st.items, "item", "items"), COUNTED(st.batches, "batch", "batches"), (long long)st.refused);
    return TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct model_place p;
    if (o.serve && (nfiles || common.output))
        return tool_misuse(e, "--serve reads no files and writes none");
    if (o.fp8_cache && !o.serve)
        return tool_misuse(e, "--fp8-cache is for --serve: rows of files are scored without a cache");
    if (shard_parse(&shard, o.part, e) < 0)
        return TOOL_MISUSE;
    if (model_locate(&p, "--model", o.model, "MODEL", "embedded:reasoner", e) < 0)
        return TOOL_FAILED;
    int rc = o.serve ? serve(&p, e) : run_located(t, &p, nfiles, files, e);
    model_place_release(&p);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "score", "[OPTION]... [FILE]...", "log-probabilities of answers and texts under a model", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
