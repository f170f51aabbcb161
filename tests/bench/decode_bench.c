/* decode_bench - generation on the CPU, two threads, as a share of what the machine could do.
 *
 *     decode_bench [SECONDS]       rows: shape, batch, tokens/s, limit, share, gate; exit 1 if a gate is missed
 *
 * Two llama shapes with random weights (performance specification, section 6). Inside the clock: decode steps of a full
 * batch through the engine, sampled at temperature 0.7, contexts of 26 to 306 tokens; outside: opening, prompts, the
 * first steps; each step counts with its shortest time over the runs that fit in SECONDS. The limit is computed from
 * this machine, measured in the same run: a step takes at least the time to read the weights and the batch's keys and
 * values once (bandwidth over a buffer of that size) and at least the time of its multiply-adds (peak of independent
 * vector FMAs). Each row ends with a hash of the tokens: a fast wrong answer is not a result.
 * LATENT_BENCH_PYTHON=PYTHON, one that has transformers: its generate() follows where there is a gate, for the same
 * checkpoint; we should be five times as fast. */
#include <immintrin.h>

#include "bench.h"

#include "infer/engine.h"
#include "io/hash.h"
#include "random_model.h"
#include "train/peak.h"

enum { THREADS = 2, PROMPT = 16, NEW = 300 };

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
    bench_must(mem_try_zeroed(&p, n, "bandwidth buffer", &bench_err));
    memset(p, 1, n); /* untouched memory would all be one page of zeros */
    struct span s = { .p = p, .n = n };
    for (int round = 0; round < 12; round++) {
        double t = bench_now();
        for (int k = 0; k < 8; k++)
            pool_run(pool, THREADS, read_part, &s);
        t = bench_now() - t;
        best = 8 * (double)n / t > best ? 8 * (double)n / t : best;
    }
    free(p);
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
        bench_must(engine_submit(g, &q, &bench_err));
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

/* One batch that starts together, in an engine whose cache has been used before. step[i] keeps the shortest time that
 * the i-th step took in any run: what else the machine does meanwhile is not ours. */
static void run_batch(struct engine *g, struct model *m, int batch, double *step, struct hash128 *hash)
{
    submit_batch(g, m, batch);
    for (int i = 0, more = 1; more; i++) {
        double t = bench_now();
        bench_must(more = engine_step(g, &bench_err));
        t = bench_now() - t;
        if (i < NEW)
            step[i] = step[i] == 0 || t < step[i] ? t : step[i];
    }
    *hash = hash_of_all(g);
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

static int bench_batch(struct model *m, const char *dir, const char *name, const struct random_shape *s,
                       const struct gate *gate, double peak, struct pool *pool, double seconds)
{
    double bytes = 4 * (multiplied_weights(s) + gate->batch * attended(s));
    double flops = 2 * gate->batch * (multiplied_weights(s) + attended(s) * s->heads / s->kv_heads);
    double bandwidth = measure_bandwidth(pool, (size_t)bytes);
    double least = bytes / bandwidth > flops / peak ? bytes / bandwidth : flops / peak, limit = gate->batch / least;
    double step[NEW] = { 0 }, until = bench_now() + seconds;
    struct hash128 hash;
    char hex[HASH_HEX];
    struct engine *g;
    bench_must(engine_open(&g, m, &(struct engine_options){ .batch = gate->batch }, &bench_err));
    do
        run_batch(g, m, gate->batch, step, &hash);
    while (bench_now() < until);
    engine_close(g);
    double best = best_rate(step, gate->batch);
    bool ok = best >= gate->tokens;
    hash_hex(hash, hex);
    printf("decode,%s,cpu,%d threads,batch %d,%.0f tokens/s,limit %.0f (%.0f GB/s),%.0f %%,gate %.0f,%s,%.8s\n", name,
           THREADS, gate->batch, best, limit, bandwidth / 1e9, 100 * best / limit, gate->tokens, ok ? "ok" : "MISSED",
           hex);
    double peers = gate->tokens > 0
                       ? bench_ask("decode_peer.py", "\"%s\" %d %d %d %d", dir, THREADS, gate->batch, PROMPT, NEW)
                       : 0;
    return !ok + bench_times(name, best, peers, 5);
}

static int bench_shape(const char *name, const struct random_shape *s, const struct gate *gates, double peak,
                       struct pool *pool, double seconds)
{
    char *dir = bench_folder();
    struct device *d;
    struct model *m;
    int missed = 0;
    bench_must(random_model_write(dir, s, 1, &bench_err));
    bench_must(device_open(&d, "cpu", THREADS, &bench_err));
    bench_must(model_open(&m, dir, d, &bench_err));
    printf("# %s: %.1f M weights multiplied, FMA peak %.0f GF/s\n", name, multiplied_weights(s) / 1e6, peak / 1e9);
    for (; gates->batch; gates++)
        missed += bench_batch(m, dir, name, s, gates, peak, pool, seconds);
    model_close(m);
    device_close(d);
    bench_remove(dir);
    free(dir);
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
    bench_begin("decode_bench");
    bench_must(pool_open(&pool, THREADS, &bench_err));
    double peak = peak_flops(THREADS, 0);
    int missed = bench_shape("3.4M", &small, small_gates, peak, pool, seconds) +
                 bench_shape("12.5M", &large, large_gates, peak, pool, seconds);
    pool_close(pool);
    return missed ? 1 : 0;
}
