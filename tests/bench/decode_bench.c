/* decode_bench - generation on the CPU, two threads, as a share of what the machine could do.
 *
 *     decode_bench [SECONDS]       rows: shape, batch, tokens/s, limit, share, gate; exit 1 if a gate is missed
 *
 * Two llama shapes with random weights (performance specification, section 6). Inside the clock: decode steps of a full
 * batch through the engine, sampled at temperature 0.7, contexts of 26 to 306 tokens; outside: opening, prompts, the
 * first steps; each step counts with its shortest time over the runs that fit in SECONDS. The limit is computed from
 * this machine, measured in the same run: a step takes at least the time to read the weights and the batch's keys and
 * values once (bandwidth over a buffer of that size) and at least the time of its multiply-adds (peak of independent
 * vector FMAs). Each row ends
 * with a hash of the tokens: a fast wrong answer is not a result. */
#include <immintrin.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"
#include "infer/engine.h"
#include "io/hash.h"
#include "random_model.h"

enum { THREADS = 2, PROMPT = 16, NEW = 300 };

static struct err e;

static void die(void)
{
    fprintf(stderr, "decode_bench: %s\n", e.msg);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what the machine can do ---- */

struct span {
    const char *p;
    size_t n;
    double sum[THREADS * 8];
};

__attribute__((target("avx2"))) static double read_all(const char *p, size_t n)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= n; i += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const void *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const void *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const void *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const void *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (double)_mm256_extract_epi64(a, 0);
}

static void read_part(void *arg, int i, int thread)
{
    struct span *s = arg;
    size_t part = s->n / THREADS / 128 * 128;
    s->sum[thread * 8] += read_all(s->p + (size_t)i * part, part);
}

/* Bytes a second over a buffer of n bytes that is read again and again. */
static double measure_bandwidth(struct pool *pool, size_t n)
{
    void *p;
    double best = 0;
    if (mem_try_zeroed(&p, n, "bandwidth buffer", &e) < 0)
        die();
    memset(p, 1, n); /* untouched memory would all be one page of zeros */
    struct span s = { .p = p, .n = n };
    for (int round = 0; round < 12; round++) {
        double t = now();
        for (int k = 0; k < 8; k++)
            pool_run(pool, THREADS, read_part, &s);
        t = now() - t;
        best = 8 * (double)n / t > best ? 8 * (double)n / t : best;
    }
    free(p);
    return best;
}

enum { FMA_LOOPS = 2000000 };

__attribute__((target("avx2,fma"))) static float fma_avx2(void)
{
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int k = 0; k < 12; k++)
        a[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < FMA_LOOPS; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; k++)
            a[k] = _mm256_fmadd_ps(a[k], x, y);
    }
    for (int k = 1; k < 12; k++)
        a[0] = _mm256_add_ps(a[0], a[k]);
    return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static float fma_avx512(void)
{
    __m512 a[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    for (int k = 0; k < 12; k++)
        a[k] = _mm512_set1_ps((float)k);
    for (int i = 0; i < FMA_LOOPS; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; k++)
            a[k] = _mm512_fmadd_ps(a[k], x, y);
    }
    for (int k = 1; k < 12; k++)
        a[0] = _mm512_add_ps(a[0], a[k]);
    return _mm512_cvtss_f32(a[0]);
}

static void fma_part(void *arg, int i, int thread)
{
    (void)i;
    float *sum = arg;
    sum[thread * 16] += __builtin_cpu_supports("avx512f") ? fma_avx512() : fma_avx2();
}

/* Multiply-adds a second, times two. */
static double measure_peak(struct pool *pool)
{
    float sum[THREADS * 16] = { 0 };
    double best = 0, lanes = __builtin_cpu_supports("avx512f") ? 16 : 8;
    for (int round = 0; round < 8; round++) {
        double t = now();
        pool_run(pool, THREADS, fma_part, sum);
        t = now() - t;
        double rate = THREADS * 2.0 * lanes * 12 * FMA_LOOPS / t;
        best = rate > best ? rate : best;
    }
    return best;
}

/* ---- what the engine does ---- */

/* Weights that a token's row is multiplied with; the embedding is only looked up. */
static double multiplied_weights(const struct random_shape *s)
{
    double d = s->hidden, kv = d / s->heads * s->kv_heads;
    return s->layers * (2 * d * d + 2 * d * kv + 3 * d * s->ffn) + d * s->vocab;
}

/* Keys and values that a token attends to, on average over the clock's steps. */
static double attended(const struct random_shape *s)
{
    return 2.0 * s->layers * (double)s->hidden / s->heads * s->kv_heads * (PROMPT + NEW / 2.0);
}

static void submit_batch(struct engine *g, struct model *m, int batch)
{
    struct gen_params p;
    int32_t prompt[PROMPT];
    gen_params_init(&p, model_config(m));
    p.n_stop = 0;
    p.temperature = 0.7f;
    p.max_new = NEW;
    for (int k = 0; k < batch; k++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", k);
        for (int i = 0; i < PROMPT; i++)
            prompt[i] = 3 + (7 * i + k) % 1000;
        struct gen_request q = { prompt, PROMPT, 1, 0, 1, name, NULL, &p };
        if (engine_submit(g, &q, &e) < 0)
            die();
    }
}

/* Results come in any order: the sum of their hashes. */
static struct hash128 hash_of_all(struct engine *g)
{
    struct hash128 sum = { 0, 0 };
    for (struct gen_result r; engine_poll(g, &r); gen_result_release(&r)) {
        struct hash128 one = hash_bytes(r.ids, (size_t)r.n * sizeof *r.ids);
        sum.lo += one.lo;
        sum.hi += one.hi;
    }
    return sum;
}

/* One batch that starts together. step[i] keeps the shortest time that the i-th step took in any run: what else the
 * machine does meanwhile is not ours. */
static void run_batch(struct model *m, int batch, double *step, struct hash128 *hash)
{
    struct engine *g;
    if (engine_open(&g, m, &(struct engine_options){ .batch = batch }, &e) < 0)
        die();
    submit_batch(g, m, batch);
    for (int i = 0, more = 1; more; i++) {
        double t = now();
        if ((more = engine_step(g, &e)) < 0)
            die();
        t = now() - t;
        if (i < NEW)
            step[i] = step[i] == 0 || t < step[i] ? t : step[i];
    }
    *hash = hash_of_all(g);
    engine_close(g);
}

/* Tokens a second from the tenth step to the tenth last. */
static double best_rate(const double *step, int batch)
{
    double sum = 0;
    for (int i = 10; i < NEW - 10; i++)
        sum += step[i];
    return batch * (NEW - 20) / sum;
}

struct gate {
    int batch;
    double tokens; /* a second, on the machine of the performance specification; 0: none */
};

static int bench_batch(struct model *m, const char *name, const struct random_shape *s, const struct gate *gate,
                       double peak, struct pool *pool, double seconds)
{
    double bytes = 4 * (multiplied_weights(s) + gate->batch * attended(s));
    double flops = 2 * gate->batch * (multiplied_weights(s) + attended(s) * s->heads / s->kv_heads);
    double bandwidth = measure_bandwidth(pool, (size_t)bytes);
    double least = bytes / bandwidth > flops / peak ? bytes / bandwidth : flops / peak, limit = gate->batch / least;
    double step[NEW] = { 0 }, until = now() + seconds;
    struct hash128 hash;
    char hex[HASH_HEX];
    do
        run_batch(m, gate->batch, step, &hash);
    while (now() < until);
    double best = best_rate(step, gate->batch);
    bool ok = best >= gate->tokens;
    hash_hex(hash, hex);
    printf("decode,%s,cpu,%d threads,batch %d,%.0f tokens/s,limit %.0f (%.0f GB/s),%.0f %%,gate %.0f,%s,%.8s\n", name,
           THREADS, gate->batch, best, limit, bandwidth / 1e9, 100 * best / limit, gate->tokens, ok ? "ok" : "MISSED",
           hex);
    fflush(stdout);
    return !ok;
}

static void remove_model(const char *dir)
{
    static const char *const files[] = { "model.safetensors", "config.json" };
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

static int bench_shape(const char *name, const struct random_shape *s, const struct gate *gates, double peak,
                       struct pool *pool, double seconds)
{
    char dir[] = "/tmp/latent-bench-XXXXXX";
    struct device *d;
    struct model *m;
    int missed = 0;
    if (!mkdtemp(dir) || random_model_write(dir, s, 1, &e) < 0 || device_open(&d, "cpu", THREADS, &e) < 0 ||
        model_open(&m, dir, d, &e) < 0)
        die();
    printf("# %s: %.1f M weights multiplied, FMA peak %.0f GF/s\n", name, multiplied_weights(s) / 1e6, peak / 1e9);
    for (; gates->batch; gates++)
        missed += bench_batch(m, name, s, gates, peak, pool, seconds);
    model_close(m);
    device_close(d);
    remove_model(dir);
    return missed;
}

int main(int argc, char **argv)
{
    static const struct random_shape small = { .layers = 6,
                                               .hidden = 192,
                                               .ffn = 512,
                                               .heads = 6,
                                               .kv_heads = 6,
                                               .vocab = 4096,
                                               .max_positions = 1024,
                                               .tied = true };
    static const struct random_shape large = { .layers = 8,
                                               .hidden = 320,
                                               .ffn = 856,
                                               .heads = 10,
                                               .kv_heads = 10,
                                               .vocab = 8192,
                                               .max_positions = 1024,
                                               .tied = true };
    static const struct gate small_gates[] = { { 1, 3000 }, { 4, 0 }, { 16, 10000 }, { 64, 0 }, { 0, 0 } };
    static const struct gate large_gates[] = { { 1, 1000 }, { 4, 0 }, { 16, 2500 }, { 64, 0 }, { 0, 0 } };
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    struct pool *pool;
    if (pool_open(&pool, THREADS, &e) < 0)
        die();
    double peak = measure_peak(pool);
    int missed = bench_shape("3.4M", &small, small_gates, peak, pool, seconds) +
                 bench_shape("12.5M", &large, large_gates, peak, pool, seconds);
    pool_close(pool);
    return missed ? 1 : 0;
}
