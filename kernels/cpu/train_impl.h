/* train_impl.h - the way back on rows, included by train_avx2.c and train_base.c. Sums over a row: lane i % 8, then
 * sum8. */
#include "kernels/cpu/vec.h"

static float dot_row(const float *a, const float *b, int64_t n)
{
    v8 s = splat(0);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        s = fma8(load8(a + i), load8(b + i), s);
    if (i < n)
        s = fma8(load_some(a + i, n - i, 0), load_some(b + i, n - i, 0), s);
    return sum8(s);
}

/* y[j][i] = x[i][j], in squares of eight. Down the rows of x first: a few lines of each row of y are filled from one
 * end to the other. */
static void turn(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t cols)
{
    v8 a[8];
    int64_t i = 0;
    for (; i + 8 <= rows; i += 8) {
        int64_t j = 0;
        for (; j + 8 <= cols; j += 8) {
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
                a[k] = load8(x + (i + k) * x_stride + j);
            turn8(a);
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
                store8(y + (j + k) * y_stride + i, a[k]);
        }
        for (; j < cols; j++)
            for (int k = 0; k < 8; k++)
                y[j * y_stride + i + k] = x[(i + k) * x_stride + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            y[j * y_stride + i] = x[i * x_stride + j];
}

static float rmsnorm_row_backward(float *dx, const float *dy, const float *x, const float *g, float eps, int64_t n)
{
    v8 ss = splat(0), dot = splat(0);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        v8 e = load8(x + i);
        ss = fma8(e, e, ss);
        dot = fma8(load8(dy + i) * load8(g + i), e, dot);
    }
    if (i < n) {
        v8 e = load_some(x + i, n - i, 0);
        ss = fma8(e, e, ss);
        dot = fma8(load_some(dy + i, n - i, 0) * load_some(g + i, n - i, 0), e, dot);
    }
    float r = 1 / sqrtf(sum8(ss) / (float)n + eps), by = r * r * r * sum8(dot) / (float)n;
    for (i = 0; i < n; i++)
        dx[i] += r * (dy[i] * g[i]) - by * x[i];
    return r;
}

static void layernorm_row_backward(float *dx, const float *dy, const float *x, const float *g, float eps, int64_t n,
                                   float *mean, float *r)
{
    double m = 0, var = 0, one = 0, two = 0; /* rows are short and this is no hot path: plain sums in order */
    for (int64_t i = 0; i < n; i++)
        m += x[i];
    m /= (double)n;
    for (int64_t i = 0; i < n; i++)
        var += (x[i] - m) * (x[i] - m);
    double inv = 1 / sqrt(var / (double)n + eps);
    for (int64_t i = 0; i < n; i++) {
        double h = (double)dy[i] * g[i];
        one += h;
        two += h * (x[i] - m) * inv;
    }
    one /= (double)n;
    two /= (double)n;
    for (int64_t i = 0; i < n; i++)
        dx[i] += (float)(inv * ((double)dy[i] * g[i] - one - (x[i] - m) * inv * two));
    *mean = (float)m;
    *r = (float)inv;
}

INLINE void silu_back8(v8 d, v8 g, v8 u, v8 *dg, v8 *du)
{
    v8 s = splat(1) / (splat(1) + exp8(-g));
    *dg = d * u * s * (splat(1) + g * (splat(1) - s));
    *du = d * g * s;
}

static void silu_mul_row_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                                  int64_t n)
{
    v8 dg, du;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        silu_back8(load8(dy + i), load8(gate + i), load8(up + i), &dg, &du);
        store8(dgate + i, dg);
        store8(dup + i, du);
    }
    if (i < n) {
        silu_back8(load_some(dy + i, n - i, 0), load_some(gate + i, n - i, 0), load_some(up + i, n - i, 0), &dg, &du);
        store_some(dgate + i, dg, n - i);
        store_some(dup + i, du, n - i);
    }
}

INLINE v8 gelu_back8(v8 d, v8 x)
{
    return d * (cdf8(x) + x * splat(0.39894228f) * exp8(splat(-0.5f) * x * x));
}

static void gelu_row_backward(float *dx, const float *dy, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(dx + i, gelu_back8(load8(dy + i), load8(x + i)));
    if (i < n)
        store_some(dx + i, gelu_back8(load_some(dy + i, n - i, 0), load_some(x + i, n - i, 0)), n - i);
}

/* x = scale softmax(x); the target's 1 is taken off by the caller */
static void softmax_grad_row(float *x, int64_t n, float max, float inverse_sum, float scale)
{
    v8 by = splat(inverse_sum * scale);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(x + i, exp8(load8(x + i) - splat(max)) * by);
    if (i < n)
        store_some(x + i, exp8(load_some(x + i, n - i, 0) - splat(max)) * by, n - i);
}

static double sum_squares_row(const float *x, int64_t n)
{
    d4 s = { 0 };
    for (int64_t i = 0; i < n; i += 8) {
        v8 v = n - i < 8 ? load_some(x + i, n - i, 0) : load8(x + i);
        s += low_doubles(v) * low_doubles(v);
        s += high_doubles(v) * high_doubles(v);
    }
    return sum4(s);
}

static void adamw_row(float *value, float *m, float *v, const float *grad, int64_t n, float grad_scale, float keep,
                      float rate, float beta1, float beta2, float bias2_sqrt, float eps)
{
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * grad_scale;
        m[i] = beta1 * m[i] + (1 - beta1) * g;
        v[i] = beta2 * v[i] + (1 - beta2) * (g * g);
        value[i] = value[i] * keep - rate * m[i] / (sqrtf(v[i]) / bias2_sqrt + eps);
    }
}
