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

/* ---- attention: one row and head against the positions of one block ---- */

/* q . k of eight keys; a row at or behind `last` repeats it, so that nothing outside the cache is read. */
INLINE v8 dots8(const float *q, const float *k, int64_t stride, int last, int hd)
{
    const float *row[8];
    v8 a[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        row[j] = k + (j < last ? j : last) * stride;
        a[j] = splat(0);
    }
    int i = 0;
    for (; i + 8 <= hd; i += 8) {
        v8 v = load8(q + i);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++)
            a[j] = fma8(v, load8(row[j] + i), a[j]);
    }
    if (i < hd) {
        v8 v = load_some(q + i, hd - i, 0);
        for (int j = 0; j < 8; j++)
            a[j] = fma8(v, load_some(row[j] + i, hd - i, 0), a[j]);
    }
    return sums8(a);
}

/* acc = acc * decay + sum over j of p[j] * v[j], columns i .. i + 8 * nv - 1 */
INLINE void mix(float *acc, const float *p, const float *v, int64_t stride, int lo, int hi, float decay, const int nv)
{
    v8 a[8];
#pragma GCC unroll 8
    for (int c = 0; c < nv; c++)
        a[c] = load8(acc + 8 * c) * splat(decay);
    for (int j = lo; j < hi; j++) {
        v8 pj = splat(p[j]);
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            a[c] = fma8(pj, load8(v + j * stride + 8 * c), a[c]);
    }
#pragma GCC unroll 8
    for (int c = 0; c < nv; c++)
        store8(acc + 8 * c, a[c]);
}

/* One step of the running softmax. state: the largest score so far, the sum of the weights, then hd accumulators.
 * Positions lo .. hi-1 of the block are seen (0 <= lo < hi <= ATTEND_BLOCK). */
static void attend_block(float *state, const float *q, const float *k, const float *v, int64_t stride, int lo, int hi,
                         int hd, float scale)
{
    float p[ATTEND_BLOCK] __attribute__((aligned(32)));
    v8 s[4], top = splat(-INFINITY);
    for (int g = 0; g < 4; g++) {
        const i8 lane = { 0, 1, 2, 3, 4, 5, 6, 7 };
        s[g] = splat(-INFINITY);
        if (8 * g < hi && 8 * g + 8 > lo) {
            s[g] = dots8(q, k + 8 * g * stride, stride, hi - 1 - 8 * g, hd) * splat(scale);
            i8 at = lane + 8 * g;
            s[g] = select8((at >= lo) & (at < hi), s[g], splat(-INFINITY));
        }
        top = max8(top, s[g]);
    }
    float max = max_lane(top), before = state[0];
    max = before > max ? before : max;
    for (int g = 0; g < 4; g++) {
        s[g] = exp8(s[g] - splat(max));
        store8(p + 8 * g, s[g]);
    }
    float decay = exp8(splat(before - max))[0];
    state[0] = max;
    state[1] = state[1] * decay + sum8((s[0] + s[1]) + (s[2] + s[3]));
    float *acc = state + 2;
    int i = 0;
    for (; i + 64 <= hd; i += 64)
        mix(acc + i, p, v + i, stride, lo, hi, decay, 8);
    for (; i + 16 <= hd; i += 16)
        mix(acc + i, p, v + i, stride, lo, hi, decay, 2);
    for (; i + 8 <= hd; i += 8)
        mix(acc + i, p, v + i, stride, lo, hi, decay, 1);
    for (; i < hd; i++) {
        v8 a = splat(acc[i] * decay);
        for (int j = lo; j < hi; j++)
            a = fma8(splat(p[j]), splat(v[j * stride + i]), a);
        acc[i] = a[0];
    }
}
