/* kernel_test.h - for tests that hold one path of the CPU against another: devices, random tensors, comparison. */
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

static inline float *floats_back(struct device *d, const struct tensor *t)
{
    struct err e = { "" };
    size_t n = (size_t)(d->tensor_rows(t) * d->tensor_cols(t));
    float *v = xcalloc(n, sizeof *v);
    assert_ok(d->tensor_read(d, t, 0, v, n, &e));
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
