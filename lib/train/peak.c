/* peak.c - see peak.h. */
#include "train/peak.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, STEPS = 1000000, TIMES = 6 }; /* as many chains as latency and two units ask for */

/* Each thread times itself when all have come: the processor time of a whole process leaves out what its other threads
 * have done since the last tick. */
struct chains {
    int threads, width;
    atomic_int come;
    double *took;
    float *sum;
};

__attribute__((target("avx2,fma"))) static float chains_avx2(void)
{
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
    return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static float chains_avx512(void)
{
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
    return _mm512_cvtss_f32(a[0]);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_chains(void *arg, int i, int thread)
{
    struct chains *c = arg;
    (void)thread;
    atomic_fetch_add(&c->come, 1);
    while (atomic_load(&c->come) < c->threads)
        _mm_pause();
    double t = seconds();
    c->sum[i] = c->width == 16 ? chains_avx512() : chains_avx2();
    c->took[i] = seconds() - t;
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
    struct chains c = { .threads = threads, .width = width };
    c.took = xcalloc((size_t)threads, sizeof *c.took);
    c.sum = xcalloc((size_t)threads, sizeof *c.sum);
    for (int round = 0; round < TIMES; round++) {
        double slowest = 0;
        atomic_store(&c.come, 0);
        pool_run(pool, threads, run_chains, &c);
        for (int i = 0; i < threads; i++)
            slowest = c.took[i] > slowest ? c.took[i] : slowest;
        double rate = slowest > 0 ? 2.0 * CHAINS * width * STEPS * threads / slowest : 0;
        best = rate > best ? rate : best;
    }
    free(c.took);
    free(c.sum);
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
