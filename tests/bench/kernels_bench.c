/* kernels_bench.c - the CPU's operations as shares of what this machine can do.
 *
 * The limit is measured first: chains of fused multiply-adds on registers. The products are those of one forward pass
 * through two llama-shaped models (every layer with weights of its own, so that caches see what they see in life), and
 * OpenBLAS, where it is installed, does the same passes in the same run. Outside the clock: packing, first touch.
 * Every figure is a best of many, product by product: the machine may have other work, and a pass is longer than a time
 * slice. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/cpu/cpu.h"
#include "train/peak.h"

static int bench_threads;

/* One thread: the time it ran, whoever else wanted the core. Several: the time that passed. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(bench_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(int rc, const struct err *e)
{
    if (rc < 0) {
        fprintf(stderr, "kernels_bench: %s\n", e->msg);
        exit(1);
    }
}

/* ---- products of a forward pass ---- */

struct model {
    const char *name;
    int d, ff, layers, vocab;
};
static const struct model models[] = { { "3.4M", 192, 512, 6, 4096 }, { "12.5M", 320, 864, 8, 8192 } };

enum { MAX_MATRICES = 4 * 8 + 1 };

struct matrix {
    int n, k;
    void *host;
    struct weight *w;
};

static int matrices_of(const struct model *m, enum dtype t, struct matrix *out)
{
    int count = 0;
    for (int l = 0; l < m->layers; l++) {
        out[count++] = (struct matrix){ 3 * m->d, m->d, NULL, NULL };
        out[count++] = (struct matrix){ m->d, m->d, NULL, NULL };
        out[count++] = (struct matrix){ 2 * m->ff, m->d, NULL, NULL };
        out[count++] = (struct matrix){ m->d, m->ff, NULL, NULL };
    }
    out[count++] = (struct matrix){ m->vocab, m->d, NULL, NULL };
    for (int i = 0; i < count; i++) {
        size_t n = (size_t)out[i].n * (size_t)out[i].k;
        if (t == DTYPE_F32) {
            float *f = xcalloc(n, sizeof *f);
            for (size_t j = 0; j < n; j++)
                f[j] = (float)(j * 2654435761u % 1000) * 0.001f - 0.5f;
            out[i].host = f;
        } else {
            uint16_t *h = xcalloc(n, sizeof *h);
            for (size_t j = 0; j < n; j++)
                h[j] = (uint16_t)(0x3e00 + j * 40503u % 128);
            out[i].host = h;
        }
    }
    return count;
}

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
static sgemm_fn *sgemm;

struct pass {
    struct device *d; /* NULL: OpenBLAS */
    struct matrix *matrix;
    int count, m;
    struct tensor *x[MAX_MATRICES], *y[MAX_MATRICES];
};

static void multiply(const struct pass *p, int i)
{
    const struct matrix *w = &p->matrix[i];
    if (p->d)
        p->d->linear(p->d, p->y[i], p->x[i], w->w, NULL, p->m, false);
    else
        sgemm(101, 111, 112, p->m, w->n, w->k, 1, f32(p->x[i]), w->k, w->host, w->k, 0, f32(p->y[i]), w->n);
}

/* Passes over all matrices in order; the sum of each matrix's best time. */
static double time_pass(const struct pass *p)
{
    double best[MAX_MATRICES], sum = 0, start = seconds();
    for (int i = 0; i < p->count; i++)
        best[i] = 1e9;
    for (int rep = 0; rep < 1000 && (rep < 4 || seconds() - start < 0.4); rep++)
        for (int i = 0; i < p->count; i++) {
            double t = seconds();
            multiply(p, i);
            t = seconds() - t;
            best[i] = t < best[i] ? t : best[i];
        }
    for (int i = 0; i < p->count; i++)
        sum += best[i];
    return sum;
}

static void bench_products(const struct model *m, enum dtype t, enum cpu_isa isa, int threads, double limit)
{
    static const int rows[] = { 1, 4, 16, 64, 512 };
    struct matrix matrix[MAX_MATRICES];
    struct err e = { "" };
    int count = matrices_of(m, t, matrix);
    double macs = 0;
    struct device *d = NULL;
    must(cpu_open(&d, isa == CPU_ORACLE ? CPU_AVX2 : isa, threads, &e), &e);
    for (int i = 0; i < count; i++) {
        struct weight_part part = { matrix[i].host, t, matrix[i].n };
        must(d->weight_new(d, &matrix[i].w, &part, 1, matrix[i].k, "matrix", &e), &e);
        macs += (double)matrix[i].n * matrix[i].k;
    }
    printf("%-6s %-5s %-9s %d ", m->name, t == DTYPE_F32 ? "fp32" : "bf16",
           isa == CPU_ORACLE   ? "openblas"
           : isa == CPU_AVX512 ? "avx512"
           : isa == CPU_AVX2   ? "avx2"
                               : "base",
           threads);
    for (int r = 0; r < 5; r++) {
        struct pass p = { .d = isa == CPU_ORACLE ? NULL : d, .matrix = matrix, .count = count, .m = rows[r] };
        for (int i = 0; i < count; i++) {
            must(d->tensor_new(d, &p.x[i], DTYPE_F32, rows[r], matrix[i].k, "x", &e), &e);
            must(d->tensor_new(d, &p.y[i], DTYPE_F32, rows[r], matrix[i].n, "y", &e), &e);
            for (int64_t j = 0; j < (int64_t)rows[r] * matrix[i].k; j++)
                f32(p.x[i])[j] = (float)(j % 17) * 0.1f - 0.8f;
        }
        double s = time_pass(&p), gf = 2 * macs * rows[r] / s * 1e-9;
        printf(" %6.1f %3.0f%% %7.0f |", gf, 100 * gf / limit, rows[r] / s);
        fflush(stdout);
        for (int i = 0; i < count; i++) {
            d->tensor_free(d, p.x[i]);
            d->tensor_free(d, p.y[i]);
        }
    }
    printf("\n");
    for (int i = 0; i < count; i++) {
        d->weight_free(d, matrix[i].w);
        free(matrix[i].host);
    }
    device_close(d);
}

/* ---- attention and sampler ---- */

static void bench_attention(const char *name, int nseq, int rows_each, int context, int heads, int kv_heads, int hd,
                            double limit)
{
    struct err e = { "" };
    struct device *d = NULL;
    must(cpu_open(&d, cpu_best(), bench_threads, &e), &e);
    int rows = nseq * rows_each, pages = (context + KV_PAGE - 1) / KV_PAGE;
    int64_t q = heads * hd, kv = kv_heads * hd;
    struct tensor *out, *qkv, *k, *v, *table, *slot, *begin, *ctx;
    must(d->tensor_new(d, &out, DTYPE_F32, rows, q, "out", &e), &e);
    must(d->tensor_new(d, &qkv, DTYPE_F32, rows, q + 2 * kv, "qkv", &e), &e);
    must(d->tensor_new(d, &k, DTYPE_F32, (int64_t)(nseq * pages + 1) * KV_PAGE, kv, "k", &e), &e);
    must(d->tensor_new(d, &v, DTYPE_F32, (int64_t)(nseq * pages + 1) * KV_PAGE, kv, "v", &e), &e);
    must(d->tensor_new(d, &table, DTYPE_I32, nseq, pages, "table", &e), &e);
    must(d->tensor_new(d, &slot, DTYPE_I32, nseq, 1, "slot", &e), &e);
    must(d->tensor_new(d, &begin, DTYPE_I32, nseq + 1, 1, "begin", &e), &e);
    must(d->tensor_new(d, &ctx, DTYPE_I32, nseq, 1, "context", &e), &e);
    for (int s = 0; s < nseq; s++) {
        i32(slot)[s] = s;
        i32(begin)[s + 1] = (s + 1) * rows_each;
        i32(ctx)[s] = context;
        for (int p = 0; p < pages; p++)
            i32(table)[s * pages + p] = 1 + s * pages + p;
    }
    for (int64_t i = 0; i < k->rows * kv; i++)
        f32(k)[i] = f32(v)[i] = (float)(i % 13) * 0.1f - 0.6f;
    struct attend_args a = {
        out, qkv, k, v, table, slot, begin, ctx, nseq, rows, heads, kv_heads, hd, 0.125f, 0, 0, 0
    };
    double best = 1e9, start = seconds(), pairs = (double)rows * (context - (rows_each - 1) / 2.0);
    for (int rep = 0; rep < 2000 && seconds() - start < 0.5; rep++) {
        double t = seconds();
        d->attend(d, &a);
        t = seconds() - t;
        best = t < best ? t : best;
    }
    double gf = 4 * pairs * (double)q / best * 1e-9;
    printf("attention %-28s %8.1f us %7.1f GF/s %3.0f%% of peak, %5.1f GB/s of keys and values\n", name, best * 1e6, gf,
           100 * gf / limit, rows_each == 1 ? 8.0 * nseq * context * (double)kv / best * 1e-9 : 0.0);
    struct tensor *made[] = { out, qkv, k, v, table, slot, begin, ctx };
    for (int i = 0; i < 8; i++)
        d->tensor_free(d, made[i]);
    device_close(d);
}

static void bench_sampler(const char *name, int n, int vocab, float temperature, float top_p, int top_k)
{
    struct err e = { "" };
    struct device *d = NULL;
    must(cpu_open(&d, cpu_best(), bench_threads, &e), &e);
    struct tensor *logits, *of, *slots, *id;
    must(d->tensor_new(d, &logits, DTYPE_F32, n, vocab, "logits", &e), &e);
    must(d->tensor_new(d, &of, DTYPE_I32, n, 1, "slot_of", &e), &e);
    must(d->tensor_new(d, &slots, DTYPE_U8, n, sizeof(struct sample_slot), "slots", &e), &e);
    must(d->tensor_new(d, &id, DTYPE_I32, n, 1, "id", &e), &e);
    struct rng r = rng_stream(1, "bench", 5, 0);
    for (int64_t i = 0; i < (int64_t)n * vocab; i++) /* about as peaked as a language model */
        f32(logits)[i] = (float)(2.5 * rng_normal(&r, (uint64_t)i));
    for (int i = 0; i < n; i++) {
        struct sample_slot *s = (struct sample_slot *)slots->data + i;
        memset(s, 0xff, sizeof *s); /* every list of ids: none */
        *s = (struct sample_slot){ .temperature = temperature,
                                   .top_p = top_p,
                                   .top_k = top_k,
                                   .repetition = 1,
                                   .hi = { vocab, vocab },
                                   .flip_id = -1,
                                   .limit = 1 << 30,
                                   .key = { (uint32_t)i, 1 } };
        for (int j = 0; j < SAMPLE_STOP_IDS; j++)
            s->also[0][j] = s->also[1][j] = s->never[0][j] = s->never[1][j] = s->stop[j] = -1;
        i32(of)[i] = i;
    }
    struct sample_args a = { logits, of, slots, NULL, id, NULL, n, vocab };
    double best = 1e9, start = seconds();
    for (int rep = 0; rep < 2000 && seconds() - start < 0.3; rep++) {
        double t = seconds();
        d->sample(d, &a);
        t = seconds() - t;
        best = t < best ? t : best;
    }
    printf("sampler   %-28s %8.1f us %7.2f us a row, %.2f ns a logit\n", name, best * 1e6, best / n * 1e6,
           best / n / vocab * 1e9);
    struct tensor *made[] = { logits, of, slots, id };
    for (int i = 0; i < 4; i++)
        d->tensor_free(d, made[i]);
    device_close(d);
}

static void open_blas(int threads)
{
    void *so = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!so) {
        printf("openblas: not installed, no peer in this run\n");
        return;
    }
    void (*set)(int) = NULL;
    *(void **)&set = dlsym(so, "openblas_set_num_threads");
    *(void **)&sgemm = dlsym(so, "cblas_sgemm");
    if (set)
        set(threads);
}

/* usage: kernels_bench [THREADS] */
int main(int argc, char **argv)
{
    int cores = argc > 1 ? atoi(argv[1]) : pool_cores();
    if (cores < 1)
        cores = 1;
    bench_threads = cores;
    double limit[CPU_AVX512 + 1] = { 0 }, single = 0;
    printf("peak of fused multiply-adds, GF/s:");
    for (int isa = CPU_AVX2; isa <= CPU_AVX512; isa++, single = 0)
        for (int t = 1; t <= cores && cpu_has(isa); t += cores - 1 > 0 ? cores - 1 : 1) {
            double p = peak_flops(t, isa == CPU_AVX512 ? 16 : 8) * 1e-9;
            printf("  %s x%d %.0f", isa == CPU_AVX512 ? "avx512" : "avx2", t, p);
            p = p < t * single ? t * single : p; /* other work on the machine lowers what several threads show */
            single = t == 1 ? p : single;
            limit[isa] = p;
        }
    double best =
        limit[cpu_best() > CPU_AVX2 ? cpu_best() : CPU_AVX2]; /* what base, openblas and the rest are held against */
    printf("\nproducts of one forward pass, %d threads: GF/s, share of the instruction set's peak, tokens/s, at M "
           "rows\n%-25s",
           cores, "");
    for (int i = 0; i < 5; i++)
        printf(" M = %-15d|", (const int[]){ 1, 4, 16, 64, 512 }[i]);
    printf("\n");
    open_blas(cores);
    for (int m = 0; m < 2; m++) {
        for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++)
            for (int t = DTYPE_F32; t <= DTYPE_BF16 && cpu_has(isa); t++)
                bench_products(&models[m], t, isa, cores, isa == CPU_BASE ? best : limit[isa]);
        if (sgemm)
            bench_products(&models[m], DTYPE_F32, CPU_ORACLE, cores, best);
    }
    bench_attention("decode, 16 x context 512", 16, 1, 512, 5, 5, 64, best);
    bench_attention("decode, 1 x context 2048", 1, 1, 2048, 5, 5, 64, best);
    bench_attention("prefill, 512", 1, 512, 512, 5, 5, 64, best);
    bench_attention("prefill, 512, group of 4", 1, 512, 512, 8, 2, 64, best);
    bench_sampler("16 x 8192, T 0.7", 16, 8192, 0.7f, 1, 0);
    bench_sampler("16 x 8192, T 0.7, top_p 0.95", 16, 8192, 0.7f, 0.95f, 0);
    bench_sampler("16 x 8192, 0.6, 0.95, top_k 20", 16, 8192, 0.6f, 0.95f, 20);
    bench_sampler("4 x 151936, 0.6, 0.95, top_k 20", 4, 151936, 0.6f, 0.95f, 20);
    bench_sampler("16 x 8192, greedy", 16, 8192, 0, 1, 0);
    return 0;
}
