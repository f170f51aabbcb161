/* train.c - see train.h: opening, one pass, refreshing, taking tensors out. */
#include "model/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/learn.h"

/* ---- memory ---- */

struct want {
    struct tensor **t;
    enum dtype dtype;
    int64_t rows, cols;
};

static int64_t qkv_width(const struct model_config *c)
{
    return (int64_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
}

static int64_t up_width(const struct model_config *c)
{
    return (c->encoder ? 1 : 2) * (int64_t)c->ffn;
}

static int make_tensors(struct device *d, const struct want *w, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (w[i].cols > 0 && d->tensor_new(d, w[i].t, w[i].dtype, w[i].rows, w[i].cols, "activations", e) < 0)
            return -1;
    return 0;
}

static int make_kept(struct trainable *t, struct kept *k, struct err *e)
{
    const struct model_config *c = &t->m->c;
    int64_t rows = t->o.max_rows, q = (int64_t)c->heads * c->head_dim;
    enum dtype kept = kept_type(t);
    const struct want w[] = {
        { &k->x, kept, rows, c->encoder ? 0 : c->hidden },
        { &k->qkv, kept, rows, qkv_width(c) },
        { &k->att, kept, rows, q },
        { &k->lse, DTYPE_F32, rows, c->heads },
        { &k->mid, kept, rows, c->hidden },
        { &k->up, kept, rows, up_width(c) },
        { &k->sum, kept, rows, c->encoder ? c->hidden : 0 },
        { &k->a, kept, rows, c->encoder ? c->hidden : 0 },
    };
    return make_tensors(t->m->d, w, sizeof w / sizeof *w, e);
}

/* Tensors of x. */
static int streams(const struct model_config *c, bool recompute)
{
    return c->encoder ? c->layers + 1 : recompute ? c->layers : 0;
}

static int make_scratch(struct trainable *t, struct err *e)
{
    const struct model_config *c = &t->m->c;
    int64_t rows = t->o.max_rows, head = t->o.head_rows, q = (int64_t)c->heads * c->head_dim;
    int64_t out = c->encoder ? c->labels : c->vocab;
    int64_t hn = c->encoder && rows > head ? rows : head; /* encoders: also the sum of the embeddings */
    enum dtype kept = kept_type(t);
    const struct want w[] = {
        { &t->stream, DTYPE_F32, rows, c->encoder ? 0 : c->hidden },
        { &t->qkv, kept, rows, c->qk_norm ? qkv_width(c) : 0 },
        { &t->xn, kept, rows, c->encoder ? 0 : c->hidden },
        { &t->act, kept, rows, c->ffn },
        { &t->dx, DTYPE_F32, rows, c->hidden },
        { &t->dxn, DTYPE_F32, rows, c->hidden },
        { &t->dqkv, DTYPE_F32, rows, qkv_width(c) },
        { &t->dup, kept, rows, up_width(c) },
        { &t->dact, DTYPE_F32, rows, c->ffn },
        { &t->datt, DTYPE_F32, rows, q },
        { &t->ids, DTYPE_I32, rows, 1 },
        { &t->table_row, DTYPE_I32, rows, 1 },
        { &t->begin, DTYPE_I32, rows + 1, 1 },
        { &t->zeros, DTYPE_I32, rows, 1 },
        { &t->index, DTYPE_I32, head, 1 },
        { &t->target, DTYPE_I32, head, 1 },
        { &t->pick, DTYPE_F32, head, c->hidden },
        { &t->hn, DTYPE_F32, hn, c->hidden },
        { &t->dpick, DTYPE_F32, head, c->hidden },
        { &t->dhn, DTYPE_F32, head, c->hidden },
        { &t->logits, DTYPE_F32, head, out },
        { &t->loss, DTYPE_F32, head, 1 },
    };
    if (make_tensors(t->m->d, w, sizeof w / sizeof *w, e) < 0)
        return -1;
    t->x = xcalloc((size_t)c->layers + 1, sizeof *t->x);
    t->kept = xcalloc((size_t)c->layers, sizeof *t->kept);
    for (int i = 0; i < streams(c, t->o.recompute); i++)
        if (make_tensors(t->m->d, &(struct want){ &t->x[i], DTYPE_F32, rows, c->hidden }, 1, e) < 0)
            return -1;
    for (int i = 0; i < (t->o.recompute ? 1 : c->layers); i++)
        if (make_kept(t, &t->kept[i], e) < 0)
            return -1;
    return 0;
}

static int64_t kept_size(const struct model *m)
{
    return (int64_t)dtype_size(m->c.encoder ? DTYPE_F32 : m->d->keep_dtype);
}

static int64_t layer_bytes(const struct model *m)
{
    const struct model_config *c = &m->c;
    int64_t q = (int64_t)c->heads * c->head_dim, hidden = c->hidden;
    return kept_size(m) * (qkv_width(c) + q + hidden * (c->encoder ? 3 : 2) + up_width(c)) + 4 * (int64_t)c->heads;
}

int64_t trainable_kept_bytes(const struct model *m)
{
    return layer_bytes(m) * m->c.layers;
}

int64_t trainable_activation_bytes(const struct model *m, int rows, int head_rows, bool recompute)
{
    const struct model_config *c = &m->c;
    int64_t q = (int64_t)c->heads * c->head_dim, out = c->encoder ? c->labels : c->vocab, hidden = c->hidden;
    int64_t row = recompute ? layer_bytes(m) : trainable_kept_bytes(m);
    row += 4 * hidden * streams(c, recompute) + kept_size(m) * (c->ffn + up_width(c));
    if (!c->encoder)
        row += 4 * hidden + kept_size(m) * (hidden + (c->qk_norm ? qkv_width(c) : 0));
    row += 4 * (2 * hidden + c->ffn + qkv_width(c) + q + 4);
    return row * rows + 4 * (int64_t)head_rows * (out + 4 * hidden + 3);
}

/* 1,024 rows keep a device busy; with two vocabularies half of them do. */
int trainable_head_rows(const struct model_config *c, const struct trainable_options *o)
{
    int rows = o->head_rows > 0 ? o->head_rows : c->vocab > 1 << 18 ? 512 : 1024;
    return rows < o->max_rows ? rows : o->max_rows;
}

int64_t trainable_state_bytes(const struct trainable *t)
{
    int64_t n = 0;
    for (size_t i = 0; i < t->nparams; i++)
        n += t->param[i]->rows * t->param[i]->cols;
    return 16 * n; /* value, gradient, two moments */
}

/* ---- opening and closing ---- */

int trainable_open(struct trainable **out, struct model *m, const struct trainable_options *o, struct err *e)
{
    struct trainable *t = xcalloc(1, sizeof *t);
    *out = NULL;
    t->m = m;
    t->o = *o;
    t->o.head_rows = trainable_head_rows(&m->c, o);
    if (o->lora) {
        t->lora = *o->lora;
        t->targets = xstrdup(o->lora->targets ? o->lora->targets : "all-linear");
    }
    t->layer = xcalloc((size_t)m->c.layers, sizeof *t->layer);
    int rc = o->lora ? params_lora(t, e) : params_full(t, e);
    if (rc == 0)
        rc = make_scratch(t, e);
    if (rc == 0 && !m->c.encoder)
        rc = model_need_positions(m, t->o.max_rows, e);
    if (rc < 0) {
        trainable_close(t);
        return -1;
    }
    trainable_refresh(t, 0);
    trainable_zero(t);
    *out = t;
    return 0;
}

static void free_kept(struct trainable *t, struct kept *k)
{
    struct tensor *v[] = { k->x, k->qkv, k->att, k->lse, k->mid, k->up, k->sum, k->a };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        t->m->d->tensor_free(t->m->d, v[i]);
}

void trainable_close(struct trainable *t)
{
    if (!t)
        return;
    struct device *d = t->m->d;
    for (size_t i = 0; i < t->nbranches; i++)
        branch_free(t, t->branch[i]);
    branch_rooms_free(t);
    free(t->branch);
    split_close(t);
    struct tensor *v[] = { t->stream, t->qkv,  t->xn,    t->act,       t->dx,     t->dxn,   t->dqkv,  t->dup,
                           t->dact,   t->datt, t->ids,   t->table_row, t->begin,  t->zeros, t->index, t->target,
                           t->pick,   t->hn,   t->dpick, t->dhn,       t->logits, t->loss };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        d->tensor_free(d, v[i]);
    for (int i = 0; t->x && i <= t->m->c.layers; i++)
        d->tensor_free(d, t->x[i]);
    for (int i = 0; t->kept && i < t->m->c.layers; i++)
        free_kept(t, &t->kept[i]);
    for (size_t i = 0; i < t->nparams; i++) {
        d->tensor_free(d, t->param[i]->grad);
        if (t->o.lora)
            d->tensor_free(d, t->param[i]->value); /* full: vectors are the model's, matrices are read by its weights */
        else if (t->param[i]->matrix)
            model_keep_tensor(t->m, t->param[i]->value);
        free(t->param[i]);
    }
    free(t->param);
    free(t->x);
    free(t->kept);
    free(t->layer);
    free(t->targets);
    free(t);
}

struct device *trainable_device(const struct trainable *t)
{
    return t->m->d;
}

size_t trainable_params(const struct trainable *t)
{
    return t->nparams;
}

struct param *trainable_param(struct trainable *t, size_t i)
{
    return t->param[i];
}

void trainable_zero(struct trainable *t)
{
    struct device *d = t->m->d;
    for (size_t i = 0; i < t->nparams; i++) {
        const struct param *p = t->param[i];
        /* the gradients of a branch grow in its stacks: those of its parameters are copies of a pass */
        if (!t->o.lora || p == t->split_embed.param || p == t->split_head.param)
            d->fill(d, p->grad, 0, p->rows * p->cols);
    }
    for (size_t i = 0; i < t->nbranches; i++)
        branch_zero(t, t->branch[i]);
}

static struct rng draws_of(const struct trainable *t, const char *name)
{
    return rng_stream(t->o.seed, name, strlen(name), (uint32_t)t->draw);
}

void refresh_weight(struct trainable *t, struct weight *w, const struct tensor *values, const char *name)
{
    struct rng r = draws_of(t, name);
    t->m->d->weight_refresh(t->m->d, w, values, t->draw ? r.key : NULL, r.stream);
}

void trainable_refresh(struct trainable *t, int64_t step)
{
    t->draw = t->o.by_chance ? step : 0;
    branches_refresh(t);
    split_refresh(t);
    if (t->o.lora)
        return;
    struct plan p;
    plan_make(&p, t->m);
    for (size_t i = 0; i < p.n; i++) /* params_full made one parameter an item, in this order */
        if (p.item[i].weight)
            refresh_weight(t, *p.item[i].weight, t->param[i]->value, t->param[i]->part[0].name);
    plan_release(&p);
}

/* ---- one pass ---- */

static int write_batch(struct trainable *t, const struct train_batch *b, struct err *e)
{
    struct device *d = t->m->d;
    const struct model_config *c = &t->m->c;
    int32_t *row = xcalloc((size_t)b->rows + 1, sizeof *row);
    for (int s = 0; s < b->nseq; s++) {
        int length = b->begin[s + 1] - b->begin[s];
        int64_t base = c->encoder ? c->position_base : model_rope_offset(t->m, length);
        if (length > c->max_positions - (c->encoder ? c->position_base : 0)) {
            free(row);
            return err_set(e, "a sequence of %d tokens is longer than the model's %lld positions", length,
                           (long long)c->max_positions);
        }
        for (int i = 0; i < length; i++)
            row[b->begin[s] + i] = (int32_t)(base + i);
    }
    d->tensor_write(d, t->ids, 0, b->ids, (size_t)b->rows);
    d->tensor_write(d, t->table_row, 0, row, (size_t)b->rows);
    d->tensor_write(d, t->begin, 0, b->begin, (size_t)b->nseq + 1);
    free(row);
    return 0;
}

static struct kept *kept_of(struct trainable *t, int layer)
{
    return &t->kept[t->o.recompute ? 0 : layer];
}

static void forward(struct trainable *t, const struct train_batch *b)
{
    struct model *m = t->m;
    if (m->c.encoder)
        encoder_embed(t, b);
    else if (is_split(t))
        split_embed(t, b);
    else
        m->d->embed(m->d, t->stream, m->embed, t->ids, b->rows);
    for (int i = 0; i < m->c.layers; i++) {
        if (!m->c.encoder && t->o.recompute)
            m->d->copy(m->d, t->x[i], t->stream, (int64_t)b->rows * m->c.hidden);
        (m->c.encoder ? encoder_layer_forward : decoder_layer_forward)(t, i, b, kept_of(t, i));
    }
}

static struct tensor *last_of(const struct trainable *t)
{
    return t->m->c.encoder ? t->x[t->m->c.layers] : t->stream;
}

/* What the head sees of the rows that were picked. */
static void pick_to_hn(struct trainable *t, int n)
{
    struct model *m = t->m;
    if (m->c.encoder)
        m->d->copy(m->d, t->hn, t->pick, (int64_t)n * m->c.hidden);
    else
        m->d->rmsnorm(m->d, t->hn, t->pick, m->norm, m->c.eps, n, m->c.hidden);
}

/* Logits of the first n rows of hn. */
static void logits(struct trainable *t, int n)
{
    if (is_split(t))
        split_logits(t, n);
    else
        t->m->d->linear(t->m->d, t->logits, t->hn, t->m->head, t->m->head_b, n, false);
}

/* dhn from the gradient of the logits; the head's grows. */
static void logits_backward(struct trainable *t, int n)
{
    struct model *m = t->m;
    struct tensor *dw = m->c.tied ? t->embed : t->head;
    if (is_split(t)) {
        split_logits_backward(t, n);
        return;
    }
    m->d->linear_dx(m->d, t->dhn, t->logits, m->head, n, false);
    if (dw)
        m->d->linear_dw(m->d, dw, t->head_b, t->logits, t->hn, n, m->c.encoder ? m->c.labels : m->c.vocab, m->c.hidden);
}

/* Rows index[0..n) of the last residual stream through norm, head and loss; and back into dx. */
static int head_chunk(struct trainable *t, const int32_t *index, const int32_t *target, int n, float scale,
                      double *loss, struct err *e)
{
    struct model *m = t->m;
    struct device *d = m->d;
    const struct model_config *c = &m->c;
    int out = c->encoder ? c->labels : c->vocab;
    float *each = xcalloc((size_t)n, sizeof *each);
    d->tensor_write(d, t->index, 0, index, (size_t)n);
    d->tensor_write(d, t->target, 0, target, (size_t)n);
    d->gather_rows(d, t->pick, last_of(t), t->index, n, c->hidden);
    pick_to_hn(t, n);
    logits(t, n);
    d->cross_entropy(d, t->loss, t->logits, t->target, scale, n, out);
    int rc = d->tensor_read(d, t->loss, 0, each, (size_t)n, e);
    for (int i = 0; rc == 0 && i < n; i++)
        *loss += (double)each[i];
    free(each);
    if (rc < 0 || scale == 0)
        return rc;
    logits_backward(t, n);
    if (c->encoder) {
        d->scatter_rows(d, t->dx, t->dhn, t->index, n, c->hidden);
    } else {
        d->fill(d, t->dpick, 0, (int64_t)n * c->hidden);
        d->rmsnorm_backward(d, t->dpick, t->norm, t->dhn, t->pick, m->norm, c->eps, n, c->hidden);
        d->scatter_rows(d, t->dx, t->dpick, t->index, n, c->hidden);
    }
    return 0;
}

static int head(struct trainable *t, const struct train_batch *b, float scale, double *loss, struct err *e)
{
    int32_t *index = xcalloc((size_t)t->o.head_rows, sizeof *index),
            *target = xcalloc((size_t)t->o.head_rows, sizeof *target);
    int rc = 0, n = 0;
    t->m->d->fill(t->m->d, t->dx, 0, (int64_t)b->rows * t->m->c.hidden);
    for (int i = 0; rc == 0 && i <= b->rows; i++) {
        if (i < b->rows && b->target[i] >= 0) {
            index[n] = i;
            target[n++] = b->target[i];
        }
        if (n == t->o.head_rows || (i == b->rows && n > 0)) {
            rc = head_chunk(t, index, target, n, scale, loss, e);
            n = 0;
        }
    }
    free(index);
    free(target);
    return rc;
}

static void backward(struct trainable *t, const struct train_batch *b)
{
    struct model *m = t->m;
    for (int i = m->c.layers; i-- > 0;) {
        if (!m->c.encoder && t->o.recompute)
            m->d->copy(m->d, t->stream, t->x[i], (int64_t)b->rows * m->c.hidden);
        if (t->o.recompute)
            (m->c.encoder ? encoder_layer_forward : decoder_layer_forward)(t, i, b, kept_of(t, i));
        (m->c.encoder ? encoder_layer_backward : decoder_layer_backward)(t, i, b, kept_of(t, i));
    }
    if (m->c.encoder)
        encoder_embed_backward(t, b);
    else if (is_split(t))
        split_embed_backward(t, b);
    else if (t->embed)
        m->d->embed_backward(m->d, t->embed, t->dx, t->ids, b->rows, m->c.hidden);
}

static int forth_and_back(struct trainable *t, const struct train_batch *b, float scale, double *loss, struct err *e)
{
    forward(t, b);
    if (head(t, b, scale, loss, e) < 0)
        return -1;
    if (scale != 0) {
        backward(t, b);
        branches_collect(t);
    }
    return t->m->d->sync(t->m->d, e);
}

/* How many rows a pass has is part of what a run is, so sums may go by it; not those of others on this device. */
int trainable_pass(struct trainable *t, const struct train_batch *b, float scale, double *loss, struct err *e)
{
    struct device *d = t->m->d;
    if (b->rows > t->o.max_rows)
        return err_set(e, "a batch of %d tokens is larger than the %d that memory was made for", b->rows,
                       t->o.max_rows);
    *loss = 0;
    t->dropout_first = b->dropout_first;
    t->evaluating = scale == 0;
    if (write_batch(t, b, e) < 0)
        return -1;
    if (d->any_order)
        d->any_order(d, true);
    int rc = forth_and_back(t, b, scale, loss, e);
    if (d->any_order)
        d->any_order(d, false);
    return rc;
}

int trainable_logits(struct trainable *t, const struct train_batch *b, int first, int n, float *out, struct err *e)
{
    struct model *m = t->m;
    struct device *d = m->d;
    int width = m->c.encoder ? m->c.labels : m->c.vocab;
    if (b->rows > t->o.max_rows || n > t->o.head_rows || n > b->rows - first)
        return err_set(e, "a batch of %d tokens and %d logits is larger than memory was made for", b->rows, n);
    t->evaluating = true;
    if (write_batch(t, b, e) < 0)
        return -1;
    forward(t, b);
    int32_t *index = xcalloc((size_t)n + 1, sizeof *index);
    for (int i = 0; i < n; i++)
        index[i] = first + i;
    d->tensor_write(d, t->index, 0, index, (size_t)n);
    free(index);
    d->gather_rows(d, t->pick, last_of(t), t->index, n, m->c.hidden);
    pick_to_hn(t, n);
    logits(t, n);
    return d->tensor_read(d, t->logits, 0, out, (size_t)n * (size_t)width, e);
}

double trainable_flops(const struct trainable *t, const struct train_batch *b)
{
    const struct model_config *c = &t->m->c;
    double q = (double)c->heads * c->head_dim, hidden = c->hidden, ffn = c->ffn, pairs = 0, adapters = 0, heads = 0;
    double layer = hidden * (double)qkv_width(c) + q * hidden + hidden * (double)up_width(c) + ffn * hidden;
    for (int s = 0; s < b->nseq; s++) {
        double n = b->begin[s + 1] - b->begin[s];
        pairs += c->encoder ? n * n : n * (n + 1) / 2;
    }
    for (int i = 0; i < b->rows; i++)
        heads += b->target[i] >= 0;
    for (size_t i = 0; t->o.lora && i < t->nparams; i++)
        adapters += (double)(t->param[i]->rows * t->param[i]->cols);
    if (is_split(t)) /* rows of the embedding are not multiplied, those of the head only where there is a target */
        adapters -= (double)t->split_embed.param->rows * hidden * (c->tied ? 1 : 2);
    double head = hidden * (c->encoder ? c->labels : c->vocab);
    double own = is_split(t) ? hidden * (double)t->split_embed.param->rows : 0;
    return (t->o.lora ? 4 : 6) * (layer * c->layers * b->rows + head * heads) + 6 * adapters * b->rows +
           2 * own * heads + 3 * 4 * pairs * q * c->layers;
}

/* ---- taking tensors out ---- */

/* W + scaling B A for the rows of one part, in F32: each element one sum in order of the rank. */
static int add_branch(struct trainable *t, const char *name, float *w, int64_t rows, int64_t cols, struct err *e)
{
    struct device *d = t->m->d;
    char a_name[128], b_name[128];
    size_t n = strlen(name);
    const struct param *a = NULL, *b = NULL;
    if (n < 8 || strcmp(name + n - 7, ".weight") != 0)
        return 0;
    snprintf(a_name, sizeof a_name, "base_model.model.%.*s.lora_A.weight", (int)(n - 7 > 90 ? 90 : n - 7), name);
    snprintf(b_name, sizeof b_name, "base_model.model.%.*s.lora_B.weight", (int)(n - 7 > 90 ? 90 : n - 7), name);
    for (size_t i = 0; i < t->nparams; i++) {
        if (strcmp(t->param[i]->part[0].name, a_name) == 0)
            a = t->param[i];
        if (strcmp(t->param[i]->part[0].name, b_name) == 0)
            b = t->param[i];
    }
    if (!a || !b)
        return 0;
    int64_t r = a->rows;
    float *av = xreallocarray(NULL, (size_t)(r * cols), sizeof *av),
          *bv = xreallocarray(NULL, (size_t)(rows * r), sizeof *bv);
    double s = lora_scaling(&t->lora);
    int rc = d->tensor_read(d, a->value, 0, av, (size_t)(r * cols), e) < 0 ||
                     d->tensor_read(d, b->value, 0, bv, (size_t)(rows * r), e) < 0
                 ? -1
                 : 0;
    for (int64_t i = 0; rc == 0 && i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double sum = 0;
            for (int64_t k = 0; k < r; k++)
                sum += (double)bv[i * r + k] * av[k * cols + j];
            w[i * cols + j] = (float)(w[i * cols + j] + s * sum);
        }
    free(av);
    free(bv);
    return rc;
}

/* The parameter that holds a tensor of the checkpoint, from element *at on, *n of them; NULL: none does. */
static const struct param *param_with(const struct trainable *t, const char *name, int64_t *at, int64_t *n)
{
    for (size_t i = 0; i < t->nparams; i++) {
        const struct param *p = t->param[i];
        *at = 0;
        for (int k = 0; k < p->nparts; k++) {
            *n = p->part[k].rows * (p->matrix ? p->cols : 1);
            if (strcmp(p->part[k].name, name) == 0)
                return p;
            *at += *n;
        }
    }
    *at = *n = 0;
    return NULL;
}

static int full_tensor(struct trainable *t, const char *name, float **values, int64_t *n, struct err *e)
{
    int64_t at;
    const struct param *p = param_with(t, name, &at, n);
    if (!p)
        return err_set(e, "no parameter is called %s", name);
    *values = xreallocarray(NULL, (size_t)*n, sizeof **values);
    return t->m->d->tensor_read(t->m->d, p->value, (size_t)at, *values, (size_t)*n, e);
}

int trainable_tensor(struct trainable *t, const char *name, bool merge, float **values, int64_t *n, struct err *e)
{
    if (!t->o.lora)
        return full_tensor(t, name, values, n, e);
    const struct st_tensor *s = t->m->st ? safetensors_find(t->m->st, name) : NULL;
    if (!s)
        return err_set(e, "%s: no tensor %s", t->m->dir, name);
    *n = (int64_t)s->elements;
    *values = xreallocarray(NULL, s->elements, sizeof **values);
    model_floats(*values, s, 0, s->elements);
    if (!merge || s->rank != 2)
        return 0;
    return add_branch(t, name, *values, s->shape[0], s->shape[1], e) < 0 || split_overlay(t, name, *values, e) < 0 ? -1
                                                                                                                   : 0;
}

void trainable_to_bf16(const struct trainable *t, const char *name, const float *v, size_t n, uint16_t *out)
{
    int64_t at, len;
    const struct param *p = param_with(t, name, &at, &len);
    struct rng r = draws_of(t, p ? p->part[0].name : name);
    uint32_t draw[4], u;
    for (size_t i = 0; i < n; i++, at++) {
        if (t->draw && (i == 0 || at % 8 == 0))
            rng_block(&r, (uint64_t)at / 8, draw);
        memcpy(&u, &v[i], 4);
        uint32_t add = t->draw ? draw[at % 8 / 2] >> 16 * (at % 2) & 0xffff : 0x7fff + (u >> 16 & 1);
        out[i] = (uint16_t)(isnan(v[i]) ? u >> 16 | 0x40 : (u + add) >> 16);
    }
}
