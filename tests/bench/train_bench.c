/* train_bench - full and LoRA training steps, as shares of the machine's multiply-add peak.
 *
 *     train_bench [STEPS]
 *
 * Two llama shapes with random weights (performance specification, section 6), rows of 128 tokens, 1,024 tokens a step:
 * forward, backward, norm, AdamW, packing of the changed weights. Best and median of STEPS steps (12); the first is
 * outside the clock. FLOPs: 6 per weight and token (LoRA: 4, and its own), and attention's products over the causal
 * half, forward once and backward twice. GFLOP/s and shares are those of the best step's processor time divided by the
 * threads (other work disturbs it less), the limit's too. The limit is this machine's multiply-add peak (AVX2, and
 * AVX-512 where there is one), measured in the same run. Gates: 4,500 and 1,300 tokens/s (full, two threads).
 * LATENT_BENCH_PYTHON=PYTHON, one with torch: its figure follows, for the same model and steps.
 * LATENT_BENCH_THREADS=N: instead of 2. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"
#include "random_model.h"
#include "train/optimizer.h"

static struct err e;
static int threads = 2;

static void must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "train_bench: %s\n", e.msg);
        exit(1);
    }
}

/* Of all threads: what counts on a machine that has other work. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the limit ---- */

enum { PEAK_STEPS = 2000000, CHAINS = 12 };
static volatile float sink;

__attribute__((target("avx2,fma"))) static void peak_avx2(void *arg, int i, int thread)
{
    (void)arg, (void)i, (void)thread;
    __m256 a[CHAINS], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm256_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    sink = _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static void peak_avx512(void *arg, int i, int thread)
{
    (void)arg, (void)i, (void)thread;
    __m512 a[CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int j = 0; j < CHAINS; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++)
            a[j] = _mm512_fmadd_ps(a[j], b, c);
    }
    for (int j = 1; j < CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    sink = _mm512_cvtss_f32(a[0]);
}

static double peak(int width)
{
    struct pool *pool;
    double best = 1e9;
    must(pool_open(&pool, threads, &e));
    for (int rep = 0; rep < 7; rep++) {
        double t = cpu_now();
        pool_run(pool, threads, width == 16 ? peak_avx512 : peak_avx2, NULL);
        t = (cpu_now() - t) / threads;
        best = t < best ? t : best;
    }
    pool_close(pool);
    return 2.0 * CHAINS * width * PEAK_STEPS * threads / best * 1e-9;
}

/* ---- steps ---- */

enum { ROW = 128, ROWS = 8, TOKENS = ROW * ROWS };

struct shape {
    const char *name;
    struct random_shape s;
};

static double flops_of(const struct random_shape *s, bool lora, int64_t trained)
{
    double d = s->hidden, weights = s->layers * (4 * d * d + 3.0 * s->ffn * d) + (double)s->vocab * d;
    double pairs = ROWS * (double)ROW * (ROW + 1) / 2;
    return (lora ? 4 : 6) * weights * TOKENS + (lora ? 6.0 * (double)trained * TOKENS : 0) +
           3 * 4 * pairs * d * s->layers;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void one_step(struct trainable *t, struct optimizer *o, struct train_batch *b, int step, double *loss)
{
    double norm;
    must(trainable_pass(t, b, 1.0f / TOKENS, loss, &e));
    must(optimizer_norm(o, &norm, &e));
    optimizer_step(o, step, 1e-3, norm);
    must(o->d->sync(o->d, &e));
}

static void ask_peer(const char *dir, int steps, bool lora)
{
    const char *python = getenv("LATENT_BENCH_PYTHON");
    struct buf command = BUF_INIT;
    if (!python || !*python)
        return;
    fflush(stdout);
    buf_printf(&command, "\"%s\" tests/bench/train_peer.py \"%s\" %d %d %d %d %s", python, dir, threads, ROWS, ROW,
               steps, lora ? "lora" : "full");
    if (system(command.s) != 0)
        fprintf(stderr, "train_bench: %s did not run\n", command.s);
    buf_release(&command);
}

static void bench(const struct shape *s, const char *tmp, int steps, bool lora, double limit)
{
    struct device *d;
    struct model *m;
    struct trainable *t;
    struct optimizer o;
    struct lora_options lo = { .rank = 8, .alpha = 16, .targets = "all-linear" };
    struct trainable_options to = { .lora = lora ? &lo : NULL, .max_rows = TOKENS, .seed = 1 };
    int64_t trained = 0;
    must(device_open(&d, "cpu", threads, &e));
    must(model_open(&m, tmp, d, &e));
    must(trainable_open(&t, m, &to, &e));
    must(optimizer_open(&o, t, d, 0.01, 1, &e));
    for (size_t i = 0; i < trainable_params(t); i++)
        trained += trainable_param(t, i)->rows * trainable_param(t, i)->cols;
    int32_t *ids = xcalloc(TOKENS, sizeof *ids), *target = xcalloc(TOKENS, sizeof *target), begin[ROWS + 1];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((unsigned)i * 2654435761u % (unsigned)s->s.vocab);
    for (int i = 0; i < TOKENS; i++)
        target[i] = ids[(i + 1) % TOKENS];
    for (int i = 0; i <= ROWS; i++)
        begin[i] = i * ROW;
    struct train_batch b = { .rows = TOKENS, .nseq = ROWS, .ids = ids, .begin = begin, .target = target };
    double *took = xcalloc((size_t)steps, sizeof *took), busy = 1e9, loss;
    one_step(t, &o, &b, 1, &loss);
    for (int i = 0; i < steps; i++) {
        double start = now(), cpu = cpu_now();
        one_step(t, &o, &b, i + 2, &loss);
        took[i] = now() - start;
        cpu = (cpu_now() - cpu) / threads;
        busy = cpu < busy ? cpu : busy;
    }
    qsort(took, (size_t)steps, sizeof *took, by_size);
    double gflops = flops_of(&s->s, lora, trained) / busy * 1e-9;
    printf("train\t%s\t%s\t%s\t%d threads\t%.0f tokens/s (median %.0f), "
           "%.0f by processor time\t%.1f GFLOP/s\tpeak %.1f\tshare %.2f\tloss %.6f\n",
           s->name, lora ? "lora" : "full", d->numerics, threads, TOKENS / took[0], TOKENS / took[steps / 2],
           TOKENS / busy, gflops, limit, gflops / limit, loss / TOKENS);
    free(took);
    free(ids);
    free(target);
    optimizer_close(&o);
    trainable_close(t);
    model_close(m);
    device_close(d);
    ask_peer(tmp, steps, lora);
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = { { "3.4M", { 6, 192, 512, 6, 6, 4096, 1024, true, false, 0 } },
                                           { "12.5M", { 8, 320, 864, 5, 5, 8192, 1024, true, false, 0 } } };
    int steps = argc > 1 ? atoi(argv[1]) : 12;
    char tmp[4096];
    const char *n = getenv("LATENT_BENCH_THREADS");
    if (n && atoi(n) > 0)
        threads = atoi(n);
    snprintf(tmp, sizeof tmp, "%s/latent-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (steps < 1 || !mkdtemp(tmp))
        return 1;
    double limit = peak(8), wide = __builtin_cpu_supports("avx512f") ? peak(16) : 0;
    limit = wide > limit ? wide : limit;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        must(random_model_write(tmp, &shapes[i].s, 1, &e));
        bench(&shapes[i], tmp, steps, false, limit);
        bench(&shapes[i], tmp, steps, true, limit);
    }
    for (int i = 0; i < 2; i++) {
        char *path = path_join(tmp, i ? "config.json" : "model.safetensors");
        unlink(path);
        free(path);
    }
    return rmdir(tmp);
}
