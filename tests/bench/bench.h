/* bench.h - what benchmarks share: clocks, the machine's limits, the load they ran under, a peer to ask.
 *
 *     bench_begin("model_bench");          the name for messages; prints the load average
 *     bench_must(device_open(&d, "cpu", 2, &bench_err));
 *     double limit = bench_peak(threads);
 *
 * Limits are measured in the same run as what is compared with them. */
#ifndef LATENT_BENCH_H
#define LATENT_BENCH_H

#include <immintrin.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/pool.h"

static const char *bench_name;
static struct err bench_err;

static inline void bench_must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", bench_name, bench_err.msg);
        exit(1);
    }
}

static inline void bench_begin(const char *name)
{
    double load[3] = { -1, -1, -1 };
    bench_name = name;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getloadavg(load, 3) < 0)
        load[0] = -1;
    printf("# %s: %d cores, load average %.2f %.2f %.2f\n", name, pool_cores(), load[0], load[1], load[2]);
}

/* LATENT_BENCH_THREADS, else two (one where there is one core). */
static inline int bench_threads(void)
{
    const char *n = getenv("LATENT_BENCH_THREADS");
    return n && atoi(n) > 0 ? atoi(n) : pool_cores() < 2 ? 1 : 2;
}

static inline double bench_clock(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double bench_now(void)
{
    return bench_clock(CLOCK_MONOTONIC);
}

/* Of all threads: says more than the clock on a machine that has other work. */
static inline double bench_cpu(void)
{
    return bench_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/* ---- multiply-adds ---- */

enum { PEAK_STEPS = 2000000, PEAK_CHAINS = 12, PEAK_ROUNDS = 8, PEAK_THREADS = 64 };

/* Each thread times itself by its processor time, when all have come: so no thread does another's part, and what else
 * the machine does is not counted. */
struct bench_peak {
    int threads;
    atomic_int come;
    bool wide;
    double took[PEAK_THREADS];
    float sum[PEAK_THREADS];
};

__attribute__((target("avx2,fma"))) static inline float bench_fma_avx2(void)
{
    __m256 a[PEAK_CHAINS], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int j = 0; j < PEAK_CHAINS; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < PEAK_CHAINS; j++)
            a[j] = _mm256_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < PEAK_CHAINS; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static inline float bench_fma_avx512(void)
{
    __m512 a[PEAK_CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int j = 0; j < PEAK_CHAINS; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < PEAK_CHAINS; j++)
            a[j] = _mm512_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < PEAK_CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    return _mm512_cvtss_f32(a[0]);
}

static inline void bench_peak_part(void *arg, int i, int thread)
{
    struct bench_peak *p = arg;
    (void)thread;
    atomic_fetch_add(&p->come, 1);
    while (atomic_load(&p->come) < p->threads)
        _mm_pause();
    double t = bench_clock(CLOCK_THREAD_CPUTIME_ID);
    p->sum[i] = p->wide ? bench_fma_avx512() : bench_fma_avx2();
    p->took[i] = bench_clock(CLOCK_THREAD_CPUTIME_ID) - t;
}

/* GFLOP/s of all threads together, with the widest vectors there are; 0 without FMA. */
static inline double bench_peak(int threads)
{
    struct bench_peak p = { .threads = threads, .wide = __builtin_cpu_supports("avx512f") };
    struct pool *pool;
    double best = 0;
    if (!__builtin_cpu_supports("fma") || threads > PEAK_THREADS)
        return 0;
    bench_must(pool_open(&pool, threads, &bench_err));
    for (int round = 0; round < PEAK_ROUNDS; round++) {
        double slowest = 0;
        atomic_store(&p.come, 0);
        pool_run(pool, threads, bench_peak_part, &p);
        for (int i = 0; i < threads; i++)
            slowest = p.took[i] > slowest ? p.took[i] : slowest;
        double rate = 2.0 * (p.wide ? 16 : 8) * PEAK_CHAINS * PEAK_STEPS * threads / slowest;
        best = rate > best ? rate : best;
    }
    pool_close(pool);
    return best * 1e-9;
}

/* ---- folders and peers ---- */

/* A new folder for checkpoints; to be freed. */
static inline char *bench_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = path_join(tmp ? tmp : "/tmp", "latent-bench-XXXXXX");
    if (!mkdtemp(dir))
        bench_must(err_errno(&bench_err, "%s", dir));
    return dir;
}

/* Removes a folder that holds one checkpoint or nothing. */
static inline void bench_remove(const char *dir)
{
    static const char *const names[] = { "config.json", "model.safetensors" };
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, names[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

/* Runs tests/bench/SCRIPT ARGUMENTS with the Python that LATENT_BENCH_PYTHON names and shows what it says; returns the
 * number in front of " tokens/s", 0 if there is none. */
__attribute__((format(printf, 2, 3))) static inline double bench_ask(const char *script, const char *fmt, ...)
{
    const char *python = getenv("LATENT_BENCH_PYTHON");
    struct buf command = BUF_INIT;
    char line[4096];
    double figure = 0;
    va_list ap;
    if (!python || !*python)
        return 0;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    fflush(stdout);
    buf_printf(&command, "\"%s\" tests/bench/%s %s", python, script, line);
    FILE *f = popen(command.s, "r");
    while (f && fgets(line, sizeof line, f)) {
        char *unit = strstr(line, " tokens/s"), *number = unit;
        fputs(line, stdout);
        while (number && number > line && strchr("0123456789.", number[-1]))
            number--;
        if (unit)
            figure = strtod(number, NULL);
    }
    if (!f || pclose(f) != 0)
        fprintf(stderr, "%s: %s did not run\n", bench_name, command.s);
    buf_release(&command);
    return figure;
}

/* A row about the peer's figure, if there was one; gate 0: none. Returns whether the gate is missed. */
static inline bool bench_times(const char *what, double ours, double peers, double gate)
{
    bool missed = peers > 0 && ours < gate * peers;
    if (peers > 0)
        printf("times\t%s\t%.2f times as fast as the peer\tgate %.1f\t%s\n", what, ours / peers, gate,
               missed ? "MISSED" : "ok");
    return missed;
}

#endif
