/* train_oracle.c - the way back, as the derivative is written down: naive loops, sums in double. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cpu/train.h"

static void linear_dx(struct cpu *c, float *dx, const float *dy, struct weight *w, int rows, bool add)
{
    (void)c;
    float *row = xreallocarray(NULL, (size_t)w->cols, sizeof *row);
    double *sum = xreallocarray(NULL, (size_t)w->cols, sizeof *sum);
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t k = 0; k < w->cols; k++)
            sum[k] = 0;
        for (int64_t n = 0; n < w->rows; n++) {
            weight_row(w, n, row);
            for (int64_t k = 0; k < w->cols; k++)
                sum[k] += (double)dy[t * w->rows + n] * row[k];
        }
        for (int64_t k = 0; k < w->cols; k++)
            dx[t * w->cols + k] = (float)(sum[k] + (add ? dx[t * w->cols + k] : 0));
    }
    free(row);
    free(sum);
}

static void linear_dw(struct cpu *c, float *dw, float *db, const float *dy, const float *x, int rows, int n, int k)
{
    (void)c;
    for (int64_t o = 0; o < n; o++) {
        for (int64_t i = 0; i < k; i++) {
            double s = 0;
            for (int64_t t = 0; t < rows; t++)
                s += (double)dy[t * n + o] * x[t * k + i];
            dw[o * k + i] += (float)s;
        }
        double s = 0;
        for (int64_t t = 0; t < rows; t++)
            s += dy[t * n + o];
        if (db)
            db[o] += (float)s;
    }
}

/* y = g x r with r = 1 / sqrt(mean(x^2) + eps):  dx = r (g dy - x r^2 mean(g dy x)). */
static void rmsnorm_backward(struct cpu *c, const struct norm_backward *a)
{
    (void)c;
    double *dg = xcalloc((size_t)a->cols, sizeof *dg);
    for (int64_t t = 0; t < a->rows; t++) {
        const float *x = a->x + t * a->cols, *dy = a->dy + t * a->cols;
        double ss = 0, dot = 0, n = (double)a->cols;
        for (int64_t i = 0; i < a->cols; i++) {
            ss += (double)x[i] * x[i];
            dot += (double)dy[i] * a->g[i] * x[i];
        }
        double r = 1 / sqrt(ss / n + a->eps);
        for (int64_t i = 0; i < a->cols; i++) {
            a->dx[t * a->cols + i] += (float)(r * ((double)dy[i] * a->g[i] - x[i] * r * r * dot / n));
            dg[i] += (double)dy[i] * x[i] * r;
        }
    }
    for (int64_t i = 0; a->dg && i < a->cols; i++)
        a->dg[i] += (float)dg[i];
    free(dg);
}

/* z = (x - mean) r, y = g z + b:  dx = r (g dy - mean(g dy) - z mean(g dy z)). */
static void layernorm_backward(struct cpu *c, const struct norm_backward *a)
{
    (void)c;
    double *dg = xcalloc((size_t)a->cols, sizeof *dg), *db = xcalloc((size_t)a->cols, sizeof *db), n = (double)a->cols;
    for (int64_t t = 0; t < a->rows; t++) {
        const float *x = a->x + t * a->cols, *dy = a->dy + t * a->cols;
        double mean = 0, var = 0, one = 0, two = 0;
        for (int64_t i = 0; i < a->cols; i++)
            mean += x[i] / n;
        for (int64_t i = 0; i < a->cols; i++)
            var += (x[i] - mean) * (x[i] - mean) / n;
        double r = 1 / sqrt(var + a->eps);
        for (int64_t i = 0; i < a->cols; i++) {
            double z = (x[i] - mean) * r, h = (double)dy[i] * a->g[i];
            one += h / n;
            two += h * z / n;
            dg[i] += dy[i] * z;
            db[i] += dy[i];
        }
        for (int64_t i = 0; i < a->cols; i++)
            a->dx[t * a->cols + i] += (float)(r * ((double)dy[i] * a->g[i] - one - (x[i] - mean) * r * two));
    }
    for (int64_t i = 0; i < a->cols; i++) {
        if (a->dg)
            a->dg[i] += (float)dg[i];
        if (a->db)
            a->db[i] += (float)db[i];
    }
    free(dg);
    free(db);
}

static void silu_mul_backward(struct cpu *c, float *dgate_up, const float *dy, const float *gate_up, int rows, int cols)
{
    (void)c;
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < cols; i++) {
            double g = gate_up[t * 2 * cols + i], u = gate_up[t * 2 * cols + cols + i], d = dy[t * cols + i];
            double s = 1 / (1 + exp(-g));
            dgate_up[t * 2 * cols + i] = (float)(d * u * s * (1 + g * (1 - s)));
            dgate_up[t * 2 * cols + cols + i] = (float)(d * g * s);
        }
}

static void gelu_backward(struct cpu *c, float *dx, const float *dy, const float *x, int64_t n)
{
    (void)c;
    for (int64_t i = 0; i < n; i++) {
        double z = x[i], cdf = 0.5 * erfc(-z * 0.7071067811865476), pdf = 0.3989422804014327 * exp(-0.5 * z * z);
        dx[i] = (float)(dy[i] * (cdf + z * pdf));
    }
}

/* ---- attention ---- */

static double score(const float *q, const float *k, int hd, float scale)
{
    double s = 0;
    for (int i = 0; i < hd; i++)
        s += (double)q[i] * k[i];
    return s * scale;
}

static void attend_keep(struct cpu *c, const struct attend_varlen_args *a, float *lse)
{
    int hd = a->head_dim, group = a->heads / a->kv_heads;
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * hd;
    const float *qkv = f32(a->qkv);
    c->ops.attend_varlen(c, a);
    for (int s = 0; s < a->nseq; s++) {
        int begin = i32(a->begin)[s], end = i32(a->begin)[s + 1];
        for (int t = begin; t < end; t++)
            for (int h = 0; h < a->heads; h++) {
                const float *q = qkv + t * width + (int64_t)h * hd;
                const float *k = qkv + (int64_t)begin * width + (int64_t)(a->heads + h / group) * hd;
                double max = -INFINITY, sum = 0;
                int lo, hi;
                train_sees(a, end - begin, t - begin, &lo, &hi);
                for (int j = lo; j < hi; j++)
                    max = fmax(max, score(q, k + j * width, hd, a->scale));
                for (int j = lo; j < hi; j++)
                    sum += exp(score(q, k + j * width, hd, a->scale) - max);
                lse[(int64_t)t * a->heads + h] = sum == 0 ? -INFINITY : (float)(max + log(sum));
            }
    }
}

/* p = e^(s - lse);  dv_j += p do;  ds = p (do.v_j - do.o);  dq += ds scale k_j;  dk_j += ds scale q. */
static void attend_backward(struct cpu *c, const struct attend_varlen_args *a, float *dqkv, const float *dout,
                            const float *lse)
{
    (void)c;
    int hd = a->head_dim, group = a->heads / a->kv_heads;
    int64_t width = (int64_t)(a->heads + 2 * a->kv_heads) * hd, q_width = (int64_t)a->heads * hd;
    int64_t kv = (int64_t)a->kv_heads * hd;
    const float *qkv = f32(a->qkv), *out = f32(a->out);
    double *sum = xcalloc((size_t)(a->rows * width), sizeof *sum);
    for (int s = 0; s < a->nseq; s++) {
        int begin = i32(a->begin)[s], end = i32(a->begin)[s + 1];
        for (int t = begin; t < end; t++)
            for (int h = 0; h < a->heads; h++) {
                const float *q = qkv + t * width + (int64_t)h * hd, *o = out + t * q_width + (int64_t)h * hd;
                const float *d = dout + t * q_width + (int64_t)h * hd;
                double delta = score(d, o, hd, 1);
                int lo, hi;
                train_sees(a, end - begin, t - begin, &lo, &hi);
                for (int j = begin + lo; j < begin + hi; j++) {
                    int64_t at = j * width + q_width + (int64_t)(h / group) * hd;
                    const float *k = qkv + at, *v = k + kv;
                    double p = exp(score(q, k, hd, a->scale) - lse[(int64_t)t * a->heads + h]);
                    double ds = p * (score(d, v, hd, 1) - delta) * a->scale;
                    for (int i = 0; i < hd; i++) {
                        sum[t * width + (int64_t)h * hd + i] += ds * k[i];
                        sum[at + i] += ds * q[i];
                        sum[at + kv + i] += p * d[i];
                    }
                }
            }
    }
    for (int64_t i = 0; i < a->rows * width; i++)
        dqkv[i] = (float)sum[i];
    free(sum);
}

/* ---- loss and optimizer ---- */

static void cross_entropy(struct cpu *c, float *loss, float *logits, const int32_t *target, float scale, int n,
                          int vocab)
{
    (void)c;
    for (int64_t t = 0; t < n; t++) {
        float *x = logits + t * vocab;
        double max = -INFINITY, sum = 0;
        for (int i = 0; i < vocab; i++)
            max = fmax(max, x[i]);
        for (int i = 0; i < vocab; i++)
            sum += exp(x[i] - max);
        double lse = sum == 0 ? max : max + log(sum);
        loss[t] = target[t] < 0 ? 0 : (float)(lse - x[target[t]]);
        for (int i = 0; i < vocab; i++)
            x[i] = target[t] < 0 ? 0 : (float)(scale * (exp(x[i] - lse) - (i == target[t])));
    }
}

static double sum_squares(struct cpu *c, const float *x, int64_t n)
{
    (void)c;
    double s = 0;
    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * x[i];
    return s;
}

static void adamw(struct cpu *c, const struct adamw_step *a)
{
    (void)c;
    for (int64_t i = 0; i < a->n; i++) {
        double g = (double)a->grad[i] * a->grad_scale;
        double p = a->value[i] * (1 - (double)a->lr * a->decay);
        double m = a->beta1 * (double)a->m[i] + (1 - (double)a->beta1) * g;
        double v = a->beta2 * (double)a->v[i] + (1 - (double)a->beta2) * g * g;
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        a->value[i] = (float)(p - a->lr / a->bias1 * m / (sqrt(v) / a->bias2_sqrt + a->eps));
    }
}

const struct train_ops train_oracle_ops = {
    linear_dx,     linear_dw,   rmsnorm_backward, layernorm_backward, silu_mul_backward,
    gelu_backward, attend_keep, attend_backward,  cross_entropy,      sum_squares,
    adamw,
};
