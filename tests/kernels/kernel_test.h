/* kernel_test.h - for tests that hold one device against another: devices, random tensors, narrow numbers, comparison.
 *
 * What such tests compute lies in *_problem.h and train_problems.h beside this file, once for the paths of the CPU and
 * for CUDA. */
#ifndef LATENT_KERNEL_TEST_H
#define LATENT_KERNEL_TEST_H

#include <math.h>

#include "base/rng.h"
#include "kernels/cpu/fast.h"
#include "unit/test.h"

/* Opens the path, or NULL where this CPU lacks it. */
static inline struct device *open_path(enum cpu_isa isa, int threads)
{
    struct err e = { "" };
    struct device *d = NULL;
    if (!cpu_has(isa))
        return NULL;
    assert_ok(cpu_open(&d, isa, threads, &e));
    return d;
}

static inline const char *path_name(enum cpu_isa isa)
{
    static const char *const names[] = { "oracle", "base", "avx2", "avx512" };
    return names[isa];
}

/* A stream of numbers, each different, the same on every run. */
struct source {
    struct rng r;
    uint64_t at;
};

static inline struct source source_of(uint64_t seed)
{
    return (struct source){ rng_stream(seed, "kernels", 7, 0), 0 };
}

static inline float next_float(struct source *s) /* about -1 .. 1 */
{
    return (float)(2 * rng_unit(&s->r, s->at++) - 1);
}

static inline int next_int(struct source *s, int n) /* 0 .. n-1 */
{
    return (int)rng_below(&s->r, s->at++, (uint32_t)n);
}

static inline float *random_floats(struct source *s, int64_t n, float scale)
{
    float *v = xcalloc((size_t)n, sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = scale * next_float(s);
    return v;
}

static inline struct tensor *tensor_of(struct device *d, enum dtype t, int64_t rows, int64_t cols, const void *host)
{
    struct err e = { "" };
    struct tensor *x = NULL;
    assert_ok(d->tensor_new(d, &x, t, rows, cols, "test tensor", &e));
    if (host)
        d->tensor_write(d, x, 0, host, (size_t)(rows * cols));
    return x;
}

static inline struct tensor *floats_of(struct device *d, int64_t rows, int64_t cols, const float *host)
{
    return tensor_of(d, DTYPE_F32, rows, cols, host);
}

static inline struct tensor *ints_of(struct device *d, int64_t rows, int64_t cols, const int32_t *host)
{
    return tensor_of(d, DTYPE_I32, rows, cols, host);
}

/* ---- narrow numbers, from their definitions ---- */

static inline uint16_t bf16_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_float(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline void round_to_bf16(float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = bf16_float(bf16_bits(v[i]));
}

/* e4m3: the nearest of all numbers, of two the one with the even code; 448 for what is beyond. */
static inline float f8_float(uint8_t code)
{
    int e = code >> 3 & 15, m = code & 7;
    float f = e ? ldexpf(1 + (float)m / 8, e - 7) : ldexpf((float)m / 8, -6);
    return (code & 0x7f) == 0x7f ? NAN : code & 0x80 ? -f : f;
}

static inline uint8_t f8_bits(float f)
{
    int best = 0;
    if (isnan(f))
        return 0x7f;
    for (int i = 1; i < 0x7f; i++) {
        float d = fabsf(f8_float((uint8_t)i) - fabsf(f)), most = fabsf(f8_float((uint8_t)best) - fabsf(f));
        if (d < most || (d == most && i % 2 == 0))
            best = i;
    }
    return (uint8_t)(best | (signbit(f) ? 0x80 : 0));
}

/* A tensor of DTYPE_F32, BF16 or F8 of the numbers nearest to v. */
static inline struct tensor *narrowed(struct device *d, enum dtype type, int64_t rows, int64_t cols, const float *v)
{
    char *stored = xcalloc((size_t)(rows * cols) + 1, sizeof *v);
    for (int64_t i = 0; i < rows * cols; i++) {
        uint16_t h = bf16_bits(v[i]);
        if (type == DTYPE_F32)
            memcpy(stored + 4 * i, &v[i], 4);
        else if (type == DTYPE_BF16)
            memcpy(stored + 2 * i, &h, 2);
        else
            stored[i] = (char)f8_bits(v[i]);
    }
    struct tensor *t = tensor_of(d, type, rows, cols, stored);
    free(stored);
    return t;
}

/* ---- results ---- */

/* Where faults are planted a device may fail: there (cuda_test.h) it is a mismatch like others. */
#ifndef READ_FAILED
#define READ_FAILED(d, e) fail_msg("%s: %s", (d)->name, (e)->msg)
#endif

/* All of a tensor in fresh memory; zeros after a failure that did not end the test. */
static inline void *back(struct device *d, const struct tensor *t, size_t size)
{
    struct err e = { "" };
    size_t n = (size_t)(d->tensor_rows(t) * d->tensor_cols(t));
    void *v = xcalloc(n ? n : 1, size);
    if (d->tensor_read(d, t, 0, v, n, &e) < 0)
        READ_FAILED(d, &e);
    return v;
}

static inline float *floats_back(struct device *d, const struct tensor *t)
{
    return back(d, t, sizeof(float));
}

/* The same of DTYPE_F32 or BF16. */
static inline float *widened(struct device *d, const struct tensor *t, enum dtype type)
{
    if (type == DTYPE_F32)
        return floats_back(d, t);
    int64_t n = d->tensor_rows(t) * d->tensor_cols(t);
    uint16_t *h = back(d, t, sizeof *h);
    float *v = xcalloc((size_t)n + 1, sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = bf16_float(h[i]);
    free(h);
    return v;
}

/* |got - want| <= atol + rtol |want| everywhere. A NaN on either side fails, unless both are NaN and nan_ok. */
static inline void assert_close(const char *what, const float *got, const float *want, int64_t n, double atol,
                                double rtol)
{
    int64_t worst = -1;
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]), tol = atol + rtol * fabs((double)want[i]);
        if (d <= tol)
            continue;
        if (worst < 0 || !(d <= most)) {
            worst = i;
            most = d;
        }
    }
    if (worst >= 0)
        fail_msg("%s: worst at [%lld] of %lld: got %.9g want %.9g, difference %.3g", what, (long long)worst,
                 (long long)n, got[worst], want[worst], most);
}

static inline void assert_same_bits(const char *what, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s: bits differ at [%lld] of %lld: %.9g and %.9g", what, (long long)i, (long long)n, got[i],
                     want[i]);
}

#endif
