/* oracle.c - every operation as its definition reads: naive loops, sums in double, one thread, no scratch reuse.
 * Everything faster is compared with this; nothing here is ever made faster. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

static void embed(struct cpu *c, struct tensor *y, const struct weight *table, const struct tensor *ids, int rows,
                  bool add)
{
    (void)c;
    int64_t cols = table->cols;
    float *row = xcalloc((size_t)cols, sizeof *row);
    for (int t = 0; t < rows; t++) {
        weight_row(table, i32(ids)[t], row);
        for (int64_t i = 0; i < cols; i++)
            f32(y)[t * cols + i] = add ? f32(y)[t * cols + i] + row[i] : row[i];
    }
    free(row);
}

/* Rows from .. end-1, columns first .. last-1 of the product. */
static void product(struct tensor *y, const struct tensor *x, const struct weight *w, const struct tensor *bias,
                    int64_t from, int64_t end, int64_t first, int64_t last, bool add)
{
    int64_t n_out = w->rows, k_in = w->cols;
    float *row = xcalloc((size_t)k_in, sizeof *row);
    for (int64_t n = first; n < last; n++) {
        weight_row(w, n, row);
        for (int64_t t = from; t < end; t++) {
            double sum = bias ? f32(bias)[n] : 0;
            for (int64_t k = 0; k < k_in; k++)
                sum += (double)f32(x)[t * k_in + k] * row[k];
            float *out = &f32(y)[t * n_out + n];
            *out = (float)(add ? *out + sum : sum);
        }
    }
    free(row);
}

static void linear(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, const struct tensor *bias,
                   int rows, bool add)
{
    (void)c;
    product(y, x, w, bias, 0, rows, 0, w->rows, add);
}

static void linear_block(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, int row, int rows,
                         int col, int cols)
{
    (void)c;
    product(y, x, w, NULL, row, row + rows, col, col + cols, false);
}

static void rmsnorm_row(float *y, const float *x, const float *g, float eps, int n)
{
    double ss = 0;
    for (int i = 0; i < n; i++)
        ss += (double)x[i] * x[i];
    double r = 1 / sqrt(ss / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = (float)(x[i] * r * g[i]);
}

static void rmsnorm(struct cpu *c, float *y, const float *x, const float *g, float eps, int rows, int cols)
{
    (void)c;
    for (int64_t t = 0; t < rows; t++)
        rmsnorm_row(y + t * cols, x + t * cols, g, eps, cols);
}

static void layernorm(struct cpu *c, float *y, const float *x, const float *g, const float *b, float eps, int rows,
                      int cols)
{
    (void)c;
    for (int64_t t = 0; t < rows; t++) {
        const float *in = x + t * cols;
        double mean = 0, var = 0;
        for (int i = 0; i < cols; i++)
            mean += in[i];
        mean /= cols;
        for (int i = 0; i < cols; i++)
            var += (in[i] - mean) * (in[i] - mean);
        double r = 1 / sqrt(var / cols + eps);
        for (int i = 0; i < cols; i++)
            y[t * cols + i] = (float)((in[i] - mean) * r * g[i] + b[i]);
    }
}

static void add(struct cpu *c, float *y, const float *x, int64_t n)
{
    (void)c;
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void silu_mul(struct cpu *c, float *y, const float *gate_up, int rows, int cols)
{
    (void)c;
    for (int64_t t = 0; t < rows; t++) {
        const float *gate = gate_up + t * 2 * cols, *up = gate + cols;
        for (int i = 0; i < cols; i++)
            y[t * cols + i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
    }
}

static void gelu(struct cpu *c, float *y, const float *x, int64_t n)
{
    (void)c;
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(0.5 * x[i] * (1 + erf(x[i] * M_SQRT1_2)));
}

static void gather_rows(struct cpu *c, float *y, const float *x, const int32_t *index, int n, int cols)
{
    (void)c;
    for (int64_t i = 0; i < n; i++)
        memcpy(y + i * cols, x + (int64_t)index[i] * cols, (size_t)cols * sizeof *y);
}

/* ---- rotation ---- */

static void rotate(float *x, const float *cosine, const float *sine, int half)
{
    for (int j = 0; j < half; j++) {
        double a = x[j], b = x[j + half];
        x[j] = (float)(a * cosine[j] - b * sine[j]);
        x[j + half] = (float)(b * cosine[j] + a * sine[j]);
    }
}

static void rope(struct cpu *c, const struct rope_args *a)
{
    (void)c;
    int hd = a->head_dim, half = a->rotary / 2;
    int64_t kv = (int64_t)a->kv_heads * hd, width = (int64_t)a->heads * hd + 2 * kv;
    for (int64_t t = 0; t < a->rows; t++) {
        float *row = f32(a->qkv) + t * width;
        int64_t at = (int64_t)i32(a->table_row)[t] * half;
        if (a->from)
            memcpy(row, f32(a->from) + t * width, (size_t)width * sizeof *row);
        for (int h = 0; h < a->heads + a->kv_heads; h++) {
            const struct tensor *norm = h < a->heads ? a->q_norm : a->k_norm;
            float *x = row + (int64_t)h * hd;
            if (norm)
                rmsnorm_row(x, x, f32(norm), a->eps, hd);
            rotate(x, f32(a->cos) + at, f32(a->sin) + at, half);
        }
        if (a->k_cache && i32(a->cache_row)[t] >= 0) {
            int64_t to = i32(a->cache_row)[t] * kv;
            memcpy(f32(a->k_cache) + to, row + (int64_t)a->heads * hd, (size_t)kv * 4);
            memcpy(f32(a->v_cache) + to, row + (int64_t)a->heads * hd + kv, (size_t)kv * 4);
        }
    }
}

/* ---- attention: one query against keys lo .. hi-1, found through k_at / v_at ---- */

struct keys {
    const float *k, *v;  /* this head's column in row 0 */
    int64_t stride;      /* from one row to the next */
    const int32_t *page; /* NULL: rows lie one behind the other */
};

static const float *key_row(const struct keys *keys, const float *base, int j)
{
    int64_t row = keys->page ? (int64_t)keys->page[j / KV_PAGE] * KV_PAGE + j % KV_PAGE : j;
    return base + row * keys->stride;
}

static void attend_one(float *out, const float *q, const struct keys *keys, int lo, int hi, int hd, double scale)
{
    double *p = xcalloc((size_t)hi, sizeof *p), max = -INFINITY, sum = 0;
    for (int j = lo; j < hi; j++) {
        const float *k = key_row(keys, keys->k, j);
        for (int i = 0; i < hd; i++)
            p[j] += (double)q[i] * k[i];
        p[j] *= scale;
        max = p[j] > max ? p[j] : max;
    }
    for (int j = lo; j < hi; j++) {
        p[j] = exp(p[j] - max);
        sum += p[j];
    }
    for (int i = 0; i < hd; i++) {
        double o = 0;
        for (int j = lo; j < hi; j++)
            o += p[j] * key_row(keys, keys->v, j)[i];
        out[i] = (float)(o / sum);
    }
    free(p);
}

static int window_start(int position, int window)
{
    return window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
}

static void attend(struct cpu *c, const struct attend_args *a)
{
    (void)c;
    int hd = a->head_dim, group = a->heads / a->kv_heads;
    int64_t kv = (int64_t)a->kv_heads * hd, q_width = (int64_t)a->heads * hd;
    for (int s = 0; s < a->nseq; s++) {
        int begin = i32(a->q_begin)[s], end = i32(a->q_begin)[s + 1];
        const int32_t *page = i32(a->page_table) + i32(a->seq_slot)[s] * a->page_table->cols;
        for (int t = begin; t < end; t++) {
            int position = i32(a->context)[s] - (end - t);
            for (int h = 0; h < a->heads; h++) {
                int64_t col = (int64_t)(h / group) * hd;
                struct keys keys = { f32(a->k) + col, f32(a->v) + col, kv, page };
                attend_one(f32(a->out) + t * q_width + (int64_t)h * hd,
                           f32(a->qkv) + t * (q_width + 2 * kv) + (int64_t)h * hd, &keys,
                           window_start(position, a->window), position + 1, hd, a->scale);
            }
        }
    }
}

static void attend_varlen(struct cpu *c, const struct attend_varlen_args *a)
{
    (void)c;
    int hd = a->head_dim, group = a->heads / a->kv_heads;
    int64_t kv = (int64_t)a->kv_heads * hd, q_width = (int64_t)a->heads * hd, width = q_width + 2 * kv;
    for (int s = 0; s < a->nseq; s++) {
        int begin = i32(a->begin)[s], end = i32(a->begin)[s + 1];
        const float *first = f32(a->qkv) + begin * width + q_width;
        for (int t = begin; t < end; t++) {
            int position = t - begin;
            for (int h = 0; h < a->heads; h++) {
                int64_t col = (int64_t)(h / group) * hd;
                struct keys keys = { first + col, first + kv + col, width, NULL };
                attend_one(f32(a->out) + t * q_width + (int64_t)h * hd, f32(a->qkv) + t * width + (int64_t)h * hd,
                           &keys, a->causal ? window_start(position, a->window) : 0,
                           a->causal ? position + 1 : end - begin, hd, a->scale);
            }
        }
    }
}

/* ---- ends of the network ---- */

static double log_sum_exp(const float *x, int n)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return sum <= 0 ? max : max + log(sum);
}

static void logprobs(struct cpu *c, float *logprob, float *entropy, int32_t *best, const float *logits,
                     const int32_t *target, int n, int vocab)
{
    (void)c;
    for (int64_t t = 0; t < n; t++) {
        const float *x = logits + t * vocab;
        double lse = log_sum_exp(x, vocab), h = 0;
        int top = 0;
        for (int i = 0; i < vocab; i++) {
            double lp = x[i] - lse;
            if (lp > -INFINITY || isnan(lp))
                h -= exp(lp) * lp;
            if (x[i] > x[top])
                top = i;
        }
        logprob[t] = target[t] < 0 ? NAN : (float)(x[target[t]] - lse);
        if (entropy)
            entropy[t] = (float)h;
        if (best)
            best[t] = top;
    }
}

/* ---- sampling: the whole vocabulary sorted, every filter as formats.md 12 words it ---- */

struct candidate {
    double logit, p;
    int32_t id;
};

static int by_logit(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static int by_id(const void *x, const void *y)
{
    const struct candidate *a = x, *b = y;
    return a->id < b->id ? -1 : 1;
}

static double adjusted(const struct sample_slot *s, const int32_t *counts, int32_t id, float logit)
{
    float l = logit; /* float throughout: ties must be the ties that the fast path sees */
    if (counts && counts[id]) {
        int32_t generated = counts[id] & 0xffff;
        if (s->repetition != 1)
            l = l > 0 ? l / s->repetition : l * s->repetition;
        if (generated) {
            l = l - s->frequency * (float)generated;
            l = l - s->presence;
        }
    }
    if (id == s->flip_id && s->phase == 0)
        l = l + s->flip_bias;
    return l;
}

static void softmax(struct candidate *v, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i].p = exp(v[i].logit - v[0].logit);
    for (int i = 0; i < n; i++)
        v[i].p /= sum;
}

static int32_t draw(const struct sample_slot *s, struct candidate *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_logit);
    if (s->temperature == 0 || v[0].logit == -INFINITY || v[0].logit == INFINITY)
        return v[0].id;
    for (int i = n; i-- > 0;)
        v[i].logit = (float)((float)v[i].logit - (float)v[0].logit) / s->temperature;
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    softmax(v, n);
    if (s->top_p < 1) {
        double mass = 0;
        int kept = 0;
        while (kept < n && (kept == 0 || mass < s->top_p))
            mass += v[kept++].p;
        n = kept;
    }
    for (int i = 1; i < n; i++)
        if (v[i].p < s->min_p * v[0].p)
            n = i;
    softmax(v, n);
    qsort(v, (size_t)n, sizeof *v, by_id);
    struct rng r = { { s->key[0], s->key[1] }, { s->stream[0], s->stream[1] } };
    double u = rng_unit(&r, (uint64_t)s->generated), mass = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (v[i].p > 0)
            last = i;
        if ((mass += v[i].p) > u)
            break;
    }
    return v[last].id;
}

static void sample_row(struct cpu *c, const struct sample_args *a, int row, struct candidate *v)
{
    int32_t slot = i32(a->slot_of)[row];
    struct sample_slot *s = (struct sample_slot *)a->slots->data + slot;
    const float *logits = f32(a->logits) + (int64_t)row * a->vocab;
    int32_t *counts = a->counts ? i32(a->counts) + (int64_t)slot * a->vocab : NULL;
    i32(a->out_id)[row] = -1;
    if (a->out_logprob)
        f32(a->out_logprob)[row] = NAN;
    if (s->done != SAMPLE_RUNNING)
        return;
    int n = 0;
    for (int32_t id = 0; id < a->vocab; id++) {
        if (isnan(logits[id])) {
            cpu_fail(c, "NaN in logits of sampler slot %d (id %d)", slot, id);
            return;
        }
        if (slot_allows(s, id))
            v[n++] = (struct candidate){ adjusted(s, counts, id, logits[id]), 0, id };
    }
    if (n == 0) {
        cpu_fail(c, "sampler slot %d allows no id at all in phase %d", slot, s->phase);
        return;
    }
    int32_t id = draw(s, v, n);
    i32(a->out_id)[row] = id;
    if (a->out_logprob)
        f32(a->out_logprob)[row] = (float)(logits[id] - log_sum_exp(logits, a->vocab));
    slot_take(s, id, counts);
}

static void sample(struct cpu *c, const struct sample_args *a)
{
    struct candidate *v = xcalloc((size_t)a->vocab, sizeof *v);
    for (int row = 0; row < a->n && !c->failed; row++)
        sample_row(c, a, row, v);
    free(v);
}

const struct cpu_ops cpu_oracle_ops = {
    embed, linear,      linear_block, rmsnorm, layernorm,     add,      silu_mul,
    gelu,  gather_rows, rope,         attend,  attend_varlen, logprobs, sample,
};
