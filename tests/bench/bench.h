/* bench.h - what benchmarks share: clocks, the load they ran under, a peer to ask.
 *
 *     bench_begin("model_bench");          the name for messages; prints the load average
 *     bench_must(device_open(&d, "cpu", 2, &bench_err));
 *     double limit = peak_flops(threads, 0) * 1e-9;      train/peak.h
 *
 * Limits are measured in the same run as what is compared with them. */
#ifndef LATENT_BENCH_H
#define LATENT_BENCH_H

#include <stdarg.h>
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
