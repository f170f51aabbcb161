/* compress_model.c - chunks of many texts through an encoder or a causal model, see compress.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "model/model.h"
#include "model/score.h"
#include "task/compress_private.h"

struct compress_model {
    struct device *d;
    struct model *m;
    struct scorer *scorer; /* causal models */
    struct leaver *leaver; /* leave-out */
    int rows, room;        /* rows of a pass; what the tensors hold */
    struct tensor *ids, *position, *begin, *logits;
    int32_t *host_ids, *host_position, *host_begin;
    float *host_logits, *row;
    double seconds;
    uint64_t total;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void free_tensors(struct compress_model *c)
{
    struct tensor *t[] = { c->ids, c->position, c->begin, c->logits };
    for (int i = 0; i < 4; i++)
        if (t[i])
            c->d->tensor_free(c->d, t[i]);
    c->ids = c->position = c->begin = c->logits = NULL;
    c->room = 0;
}

static int room_for(struct compress_model *c, int rows, struct err *e)
{
    struct device *d = c->d;
    int labels = model_config(c->m)->labels;
    if (rows <= c->room)
        return 0;
    free_tensors(c);
    if (model_reserve(c->m, rows, e) < 0 || d->tensor_new(d, &c->ids, DTYPE_I32, rows, 1, "tokens of a pass", e) < 0 ||
        d->tensor_new(d, &c->position, DTYPE_I32, rows, 1, "positions of a pass", e) < 0 ||
        d->tensor_new(d, &c->begin, DTYPE_I32, rows + 1, 1, "sequences of a pass", e) < 0 ||
        d->tensor_new(d, &c->logits, DTYPE_F32, rows, labels, "scores of a pass", e) < 0)
        return -1;
    size_t n = (size_t)rows;
    c->host_ids = xreallocarray(c->host_ids, n, sizeof *c->host_ids);
    c->host_position = xreallocarray(c->host_position, n, sizeof *c->host_position);
    c->host_begin = xreallocarray(c->host_begin, n + 1, sizeof *c->host_begin);
    c->host_logits = xreallocarray(c->host_logits, n * (size_t)labels, sizeof *c->host_logits);
    c->row = xreallocarray(c->row, n, sizeof *c->row);
    c->room = rows;
    return 0;
}

int compress_model_open(struct compress_model **out, const char *dir, enum compress_method method, const char *device,
                        int threads, int rows, struct err *e)
{
    struct compress_model *c = xcalloc(1, sizeof *c);
    *out = NULL;
    c->rows = rows;
    if (device_open(&c->d, device, threads, e) < 0 || model_open(&c->m, dir, c->d, e) < 0) {
        compress_model_close(c);
        return -1;
    }
    const struct model_config *cfg = model_config(c->m);
    int rc = 0;
    if (method != COMPRESS_LLMLINGUA2)
        rc = scorer_open(&c->scorer, c->m, rows, e);
    else if (!cfg->encoder)
        rc =
            err_set(e, "%s: a compressor is an XLM-RoBERTa or BERT with labels, found %s (--method surprisal takes it)",
                    dir, cfg->family_name);
    else if (cfg->labels < 2)
        rc = err_set(e, "%s: a compressor has 2 labels (drop, keep), found %d", dir, cfg->labels);
    if (rc == 0 && method == COMPRESS_LEAVE_OUT)
        rc = leaver_open(&c->leaver, dir, c->m, c->scorer, e);
    if (rc < 0) {
        compress_model_close(c);
        return -1;
    }
    *out = c;
    return 0;
}

void compress_model_close(struct compress_model *c)
{
    if (!c)
        return;
    leaver_close(c->leaver);
    scorer_close(c->scorer);
    if (c->d)
        free_tensors(c);
    free(c->host_ids);
    free(c->host_position);
    free(c->host_begin);
    free(c->host_logits);
    free(c->row);
    model_close(c->m);
    device_close(c->d);
    free(c);
}

double compress_model_seconds(const struct compress_model *c)
{
    return c->seconds;
}

uint64_t compress_model_rows(const struct compress_model *c)
{
    return c->total;
}

struct compress_place { /* a chunk */
    uint32_t job, chunk;
    int rows;
};

struct compress_pass {
    struct read_ticket *logits;
    size_t from, to; /* its chunks */
};

void compress_model_drop(struct compress_model *c, struct compress_flight *f)
{
    struct err ignore;
    for (; f->taken < f->passes; f->taken++)
        c->d->read_wait(c->d, f->pass[f->taken].logits, c->host_logits, &ignore);
    free(f->place);
    free(f->pass);
    *f = (struct compress_flight){ NULL, NULL, 0, 0 };
}

/* ---- encoders ---- */

/* softmax in float32, probability of label 1 */
static float keep_probability(const float *x, int labels)
{
    float max = x[0], sum = 0;
    for (int i = 1; i < labels; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < labels; i++)
        sum += expf(x[i] - max);
    return expf(x[1] - max) / sum;
}

static int check_ids(const struct compress_model *c, const int32_t *id, int n, const char *label, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= model_config(c->m)->vocab)
            return err_set(e, "%s: token %d has no row in the compressor's embedding (%d rows)", label, id[i],
                           model_config(c->m)->vocab);
    return 0;
}

/* Enqueues a pass of the chunks p[0 .. n-1], and the read of what it gives. */
static int begin_pass(struct compress_model *c, const struct lingua *l, const struct compress_job *jobs,
                      const struct compress_place *p, size_t n, int rows, struct read_ticket **logits, struct err *e)
{
    struct device *d = c->d;
    int at = 0, labels = model_config(c->m)->labels, base = model_config(c->m)->position_base;
    if (room_for(c, rows > c->rows ? rows : c->rows, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        c->host_begin[i] = at;
        const struct compress_job *j = &jobs[p[i].job];
        int k = lingua_rows(l, &j->pieces, p[i].chunk, c->host_ids + at, c->host_position + at);
        if (check_ids(c, c->host_ids + at, k, j->label.s, e) < 0)
            return -1;
        for (int r = 0; r < k; r++)
            c->host_position[at + r] += base;
        at += k;
    }
    c->host_begin[n] = at;
    d->tensor_write(d, c->ids, 0, c->host_ids, (size_t)at);
    d->tensor_write(d, c->position, 0, c->host_position, (size_t)at);
    d->tensor_write(d, c->begin, 0, c->host_begin, n + 1);
    model_forward_varlen(c->m, &(struct model_varlen){ at, (int)n, c->ids, c->position, c->begin });
    model_logits(c->m, c->logits, NULL, at);
    c->total += (uint64_t)at;
    return d->read_begin(d, logits, c->logits, 0, (size_t)at * (size_t)labels, e);
}

/* Waits for the next pass. */
static int take_pass(struct compress_model *c, const struct lingua *l, struct compress_job *jobs,
                     struct compress_flight *f, struct err *e)
{
    const struct compress_pass *pass = &f->pass[f->taken++];
    const float *logits = c->host_logits;
    int labels = model_config(c->m)->labels;
    if (c->d->read_wait(c->d, pass->logits, c->host_logits, e) < 0)
        return -1;
    for (size_t i = pass->from; i < pass->to; i++) {
        const struct compress_place *p = &f->place[i];
        for (int r = 0; r < p->rows; r++, logits += labels)
            c->row[r] = keep_probability(logits, labels);
        lingua_store(l, &jobs[p->job].pieces, p->chunk, c->row);
    }
    return 0;
}

static int longest_first(const void *a, const void *b)
{
    const struct compress_place *x = a, *y = b;
    if (x->rows != y->rows)
        return x->rows > y->rows ? -1 : 1;
    if (x->job != y->job)
        return x->job < y->job ? -1 : 1;
    return x->chunk < y->chunk ? -1 : 1;
}

/* Chunks of like length go together, so that threads that share out sequences get like work. */
static int begin_encoding(struct compress_model *c, const struct lingua *l, const struct compress_job *jobs,
                          struct compress_flight *f, size_t n, struct err *e)
{
    const struct compress_place *p = f->place;
    qsort(f->place, n, sizeof *f->place, longest_first);
    f->pass = xcalloc(n, sizeof *f->pass);
    for (size_t from = 0, to; from < n; from = to) {
        struct compress_pass *pass = &f->pass[f->passes];
        int rows = p[from].rows;
        for (to = from + 1; to < n && rows + p[to].rows <= c->rows; to++)
            rows += p[to].rows;
        *pass = (struct compress_pass){ NULL, from, to };
        if (begin_pass(c, l, jobs, p + from, to - from, rows, &pass->logits, e) < 0)
            return -1;
        f->passes++;
    }
    return 0;
}

/* ---- causal models ---- */

static int surprise_all(struct compress_model *c, const struct lingua *l, struct compress_job *jobs,
                        const struct compress_place *p, size_t n, struct err *e)
{
    size_t rows = 0;
    for (size_t i = 0; i < n; i++)
        rows += (size_t)p[i].rows;
    struct score_seq *seq = xcalloc(n + 1, sizeof *seq);
    int32_t *ids = xcalloc(rows + 1, sizeof *ids);
    float *lp = xcalloc(rows + 1, sizeof *lp);
    size_t at = 0, want = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct compress_job *j = &jobs[p[i].job];
        lingua_rows(l, &j->pieces, p[i].chunk, ids + at, NULL);
        rc = check_ids(c, ids + at, p[i].rows, j->label.s, e);
        if (p[i].rows > 1)
            seq[want++] = (struct score_seq){ ids + at, p[i].rows, 1, lp + at, NULL };
        at += (size_t)p[i].rows;
    }
    if (rc == 0 && want)
        rc = scorer_run(c->scorer, seq, (int)want, e);
    at = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        lingua_store(l, &jobs[p[i].job].pieces, p[i].chunk, lp + at);
        at += (size_t)p[i].rows;
    }
    c->total += rows;
    free(seq);
    free(ids);
    free(lp);
    return rc;
}

static int leave_out_all(struct compress_model *c, const struct lingua *l, struct compress_job *jobs, size_t n,
                         struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!jobs[i].scored)
            rc = leaver_run(c->leaver, l, &jobs[i], &c->total, e);
    return rc;
}

/* Every chunk of the jobs that are not scored. */
static size_t list_places(const struct lingua *l, const struct compress_job *jobs, size_t n,
                          struct compress_place **out)
{
    size_t chunks = 0, k = 0;
    for (size_t i = 0; i < n; i++)
        chunks += jobs[i].scored ? 0 : jobs[i].pieces.nchunk;
    struct compress_place *p = *out = xcalloc(chunks + 1, sizeof *p);
    for (size_t i = 0; i < n; i++)
        for (size_t x = 0; !jobs[i].scored && x < jobs[i].pieces.nchunk; x++)
            p[k++] =
                (struct compress_place){ (uint32_t)i, (uint32_t)x, lingua_rows(l, &jobs[i].pieces, x, NULL, NULL) };
    return chunks;
}

int compress_model_begin(struct compress_model *c, const struct lingua *l, struct compress_job *jobs, size_t n,
                         struct compress_flight *out, struct err *e)
{
    double start = now();
    int rc = 0;
    *out = (struct compress_flight){ NULL, NULL, 0, 0 };
    if (c->leaver) {
        rc = leave_out_all(c, l, jobs, n, e);
    } else {
        size_t chunks = list_places(l, jobs, n, &out->place);
        if (chunks)
            rc = c->scorer ? surprise_all(c, l, jobs, out->place, chunks, e)
                           : begin_encoding(c, l, jobs, out, chunks, e);
    }
    if (rc < 0)
        compress_model_drop(c, out);
    c->seconds += now() - start;
    return rc;
}

int compress_model_end(struct compress_model *c, const struct lingua *l, struct compress_job *jobs,
                       struct compress_flight *f, struct err *e)
{
    double start = now();
    int rc = 0;
    while (f->taken < f->passes && rc == 0)
        rc = take_pass(c, l, jobs, f, e);
    compress_model_drop(c, f);
    c->seconds += now() - start;
    return rc;
}
