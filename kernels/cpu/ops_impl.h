/* ops_impl.h - the fast path's operations on rows, included by ops_avx2.c and ops_base.c.
 *
 * Sums over a row: element i belongs to lane i % 32; the four vectors of lanes are added in pairs, then their lanes as
 * sum8 does. The order depends on the row's length only. */
#include "kernels/cpu/vec.h"

/* ---- norms ---- */

/* sum of f(x[i]) in the fixed order; f is inlined, NULL tails are f's zero */
#define ROW_SUM(result, x, n, expr)                                                                                    \
    do {                                                                                                               \
        v8 a_[4] = { { 0 }, { 0 }, { 0 }, { 0 } };                                                                     \
        int64_t i_ = 0;                                                                                                \
        for (; i_ + 32 <= (n); i_ += 32)                                                                               \
            for (int j_ = 0; j_ < 4; j_++) {                                                                           \
                v8 e = load8((x) + i_ + 8 * j_), s = a_[j_];                                                           \
                a_[j_] = expr;                                                                                         \
            }                                                                                                          \
        for (int j_ = 0; i_ < (n); i_ += 8, j_++) {                                                                    \
            int64_t left_ = (n)-i_ < 8 ? (n)-i_ : 8;                                                                   \
            v8 e = left_ < 8 ? load_some((x) + i_, left_, pad_) : load8((x) + i_), s = a_[j_];                         \
            a_[j_] = expr;                                                                                             \
        }                                                                                                              \
        (result) = sum8((a_[0] + a_[1]) + (a_[2] + a_[3]));                                                            \
    } while (0)

static void rmsnorm_row(float *y, const float *x, const float *g, float eps, int64_t n)
{
    const float pad_ = 0;
    float ss;
    ROW_SUM(ss, x, n, fma8(e, e, s));
    float r = 1 / sqrtf(ss / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = g[i] * (x[i] * r);
}

static void layernorm_row(float *y, const float *x, const float *g, const float *b, float eps, int64_t n)
{
    float total, ss;
    float pad_ = 0;
    ROW_SUM(total, x, n, s + e);
    float mean = total / (float)n;
    pad_ = mean;
    ROW_SUM(ss, x, n, fma8(e - splat(mean), e - splat(mean), s));
    float r = 1 / sqrtf(ss / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * r * g[i] + b[i];
}

/* ---- gates ---- */

static void silu_mul_row(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(y + i, silu8(load8(gate + i)) * load8(up + i));
    if (i < n)
        store_some(y + i, silu8(load_some(gate + i, n - i, 0)) * load_some(up + i, n - i, 0), n - i);
}

static void gelu_row(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(y + i, gelu8(load8(x + i)));
    if (i < n)
        store_some(y + i, gelu8(load_some(x + i, n - i, 0)), n - i);
}

static void add_row(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void exp_row(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(y + i, exp8(load8(x + i)));
    if (i < n)
        store_some(y + i, exp8(load_some(x + i, n - i, 0)), n - i);
}

/* ---- rotation: products and sums round apart, as in the reference ---- */

static void rotate_row(float *x, const float *cosine, const float *sine, int half)
{
    float *y = x + half;
    for (int j = 0; j < half; j++) {
        float a = x[j], b = y[j];
        x[j] = a * cosine[j] - b * sine[j];
        y[j] = b * cosine[j] + a * sine[j];
    }
}

/* ---- whole rows of logits ---- */

static float max_row(const float *x, int64_t n, bool *nan)
{
    v8 m = splat(-INFINITY);
    i8 bad = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        v8 v = load8(x + i);
        m = max8(v, m);
        bad |= v != v;
    }
    if (i < n) {
        v8 v = load_some(x + i, n - i, -INFINITY);
        m = max8(v, m);
        bad |= v != v;
    }
    int32_t any = 0;
    for (int j = 0; j < 8; j++)
        any |= bad[j];
    *nan = any != 0;
    return max_lane(m);
}

/* Sums of e^(x - max) and of e^(x - max) (x - max), in double, eight lanes. */
static void sum_exp_row(const float *x, int64_t n, float max, double *sum, double *weighted)
{
    d4 s[2] = { { 0 }, { 0 } }, w[2] = { { 0 }, { 0 } };
    for (int64_t i = 0; i < n; i += 8) {
        v8 z = (n - i < 8 ? load_some(x + i, n - i, -INFINITY) : load8(x + i)) - splat(max);
        v8 p = exp8(z);
        z = select8(p == splat(0), splat(0), z); /* 0 log 0 is 0 */
        s[0] += low_doubles(p);
        s[1] += high_doubles(p);
        w[0] += low_doubles(p) * low_doubles(z);
        w[1] += high_doubles(p) * high_doubles(z);
    }
    *sum = sum4(s[0]) + sum4(s[1]);
    *weighted = sum4(w[0]) + sum4(w[1]);
}

/* w = e^((x - max) / temperature); z = the exponent. */
static void soften_row(float *w, float *z, const float *x, int64_t n, float max, float temperature)
{
    v8 m = splat(max), t = splat(temperature);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        v8 v = (load8(x + i) - m) / t;
        store8(z + i, v);
        store8(w + i, exp8(v));
    }
    if (i < n) {
        v8 v = (load_some(x + i, n - i, max) - m) / t;
        store_some(z + i, v, n - i);
        store_some(w + i, exp8(v), n - i);
    }
}

static double sum_row(const float *x, int64_t n)
{
    d4 s[2] = { { 0 }, { 0 } };
    for (int64_t i = 0; i < n; i += 8) {
        v8 v = n - i < 8 ? load_some(x + i, n - i, 0) : load8(x + i);
        s[0] += low_doubles(v);
        s[1] += high_doubles(v);
    }
    return sum4(s[0]) + sum4(s[1]);
}
