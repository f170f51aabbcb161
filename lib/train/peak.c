/* peak.c - see peak.h. */
#include "train/peak.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/err.h"
#include "base/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, STEPS = 200000, TIMES = 5 }; /* as many chains as latency and two units ask for */

static volatile float sink;

__attribute__((target("avx2,fma"))) static void chains_avx2(void *arg, int i, int thread)
{
    (void)arg, (void)i, (void)thread;
    __m256 a[CHAINS], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int k = 0; k < STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm256_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    sink = _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static void chains_avx512(void *arg, int i, int thread)
{
    (void)arg, (void)i, (void)thread;
    __m512 a[CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int k = 0; k < STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm512_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    sink = _mm512_cvtss_f32(a[0]);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* of all threads */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double peak_flops(int threads, int width)
{
    struct pool *pool;
    struct err e;
    double best = 0;
    bool wide = __builtin_cpu_supports("avx512f");
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || (width == 16 && !wide))
        return 0;
    if (!width)
        width = wide ? 16 : 8;
    if (threads <= 0)
        threads = pool_cores();
    if (pool_open(&pool, threads, &e) < 0)
        return 0;
    for (int i = 0; i < TIMES; i++) {
        double t = seconds();
        pool_run(pool, threads, width == 16 ? chains_avx512 : chains_avx2, NULL);
        t = seconds() - t;
        double rate = t > 0 ? 2.0 * CHAINS * width * STEPS * threads * threads / t : 0;
        best = rate > best ? rate : best;
    }
    pool_close(pool);
    return best;
}
#else
double peak_flops(int threads, int width)
{
    (void)threads, (void)width;
    return 0;
}
#endif
