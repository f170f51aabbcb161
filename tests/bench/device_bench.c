/* device_bench - operations of a CUDA device in the shapes of Qwen3-4B, as shares of what the device can do.
 *
 *     device_bench [DEVICE]     rows: name, shape, milliseconds, GB/s or TFLOP/s, share of the limit measured beside it
 *
 * Inside the clock: REPEAT enqueued operations and one wait, the shortest of five rounds; host launch cost counts where
 * it cannot hide. Random data (zeros multiply faster). Limits are measured first: bandwidth by a copy of 1 GiB (bytes
 * read and written), multiplication at 8192^3. Without a device it says so and is content. */
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

enum { HIDDEN = 2560, FFN = 9728, HEADS = 32, KV_HEADS = 8, HD = 128, VOCAB = 151936, REPEAT = 20, ROUNDS = 5 };

static struct err e;
static struct device *d;
static double bandwidth, flops; /* measured limits, bytes and operations a second */

static void die(void)
{
    fprintf(stderr, "device_bench: %s\n", e.msg);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_for_all(void)
{
    if (d->sync(d, &e) < 0)
        die();
}

/* Enough different numbers; made once, written again and again. */
static const float *noise(size_t n)
{
    static float *v;
    static size_t have;
    if (have < n) {
        free(v);
        v = xreallocarray(NULL, n, sizeof *v);
        uint32_t x = 12345;
        for (size_t i = 0; i < n; i++) {
            x = x * 1664525u + 1013904223u;
            v[i] = (float)(int32_t)x * 0x1p-31f;
        }
        have = n;
    }
    return v;
}

static struct tensor *tensor(enum dtype t, int64_t rows, int64_t cols)
{
    struct tensor *x;
    if (d->tensor_new(d, &x, t, rows, cols, "bench", &e) < 0)
        die();
    size_t n = (size_t)(rows * cols), piece = 1 << 24;
    for (size_t at = 0; at < n && (t == DTYPE_F32 || t == DTYPE_BF16); at += piece) {
        size_t m = n - at < piece ? n - at : piece;
        const float *f = noise(m);
        if (t == DTYPE_F32) {
            d->tensor_write(d, x, at, f, m);
            continue;
        }
        uint16_t *h = xreallocarray(NULL, m, sizeof *h);
        for (size_t i = 0; i < m; i++) {
            uint32_t u;
            memcpy(&u, &f[i], 4);
            h[i] = (uint16_t)(u >> 16);
        }
        d->tensor_write(d, x, at, h, m);
        free(h);
    }
    return x;
}

static struct tensor *ints(int64_t rows, int64_t cols, const int32_t *v)
{
    struct tensor *x;
    if (d->tensor_new(d, &x, DTYPE_I32, rows, cols, "bench", &e) < 0)
        die();
    d->tensor_write(d, x, 0, v, (size_t)(rows * cols));
    return x;
}

typedef void operation(void *arg);

static double seconds(operation *op, void *arg)
{
    double best = 1e30;
    op(arg);
    wait_for_all();
    for (int r = 0; r < ROUNDS; r++) {
        double t = now();
        for (int i = 0; i < REPEAT; i++)
            op(arg);
        wait_for_all();
        t = (now() - t) / REPEAT;
        best = t < best ? t : best;
    }
    return best;
}

static void row(const char *name, const char *shape, double t, double bytes, double ops)
{
    double by_bytes = bytes / bandwidth, by_ops = ops / flops, limit = by_bytes > by_ops ? by_bytes : by_ops;
    printf("%-16s %-28s %9.4f ms %8.1f GB/s %8.1f TFLOP/s %5.1f%%\n", name, shape, t * 1e3, bytes / t * 1e-9,
           ops / t * 1e-12, 100 * limit / t);
    fflush(stdout);
}

/* ---- linear ---- */

struct linear {
    struct tensor *y, *x;
    struct weight *w;
    int rows;
};

static void linear_op(void *arg)
{
    struct linear *l = arg;
    d->linear(d, l->y, l->x, l->w, NULL, l->rows, false);
}

static double linear_time(int rows, int n, int k)
{
    size_t size = (size_t)n * (size_t)k;
    uint16_t *h = xreallocarray(NULL, size, sizeof *h);
    const float *f = noise(1 << 20);
    for (size_t i = 0; i < size; i++) {
        uint32_t u;
        memcpy(&u, &f[i % ((1 << 20) - 3)], 4);
        h[i] = (uint16_t)(u >> 16);
    }
    struct weight_part part = { h, DTYPE_BF16, n };
    struct linear l = { tensor(DTYPE_F32, rows, n), tensor(DTYPE_F32, rows, k), NULL, rows };
    if (d->weight_new(d, &l.w, &part, 1, k, "bench", &e) < 0)
        die();
    double t = seconds(linear_op, &l);
    d->weight_free(d, l.w);
    d->tensor_free(d, l.x);
    d->tensor_free(d, l.y);
    free(h);
    return t;
}

/* ---- attention ---- */

static void attend_op(void *arg)
{
    d->attend(d, arg);
}

/* `rows` new rows at the end of each of nseq contexts. */
static void attention(const char *name, enum dtype type, int nseq, int rows, int context)
{
    int per = (context + KV_PAGE - 1) / KV_PAGE, pages = nseq * per + 1, width = (HEADS + 2 * KV_HEADS) * HD;
    int32_t *table = xcalloc((size_t)(nseq * per), 4), *slot = xcalloc((size_t)nseq, 4),
            *begin = xcalloc((size_t)nseq + 1, 4), *contexts = xcalloc((size_t)nseq, 4);
    for (int s = 0; s < nseq; s++) {
        slot[s] = s;
        begin[s + 1] = begin[s] + rows;
        contexts[s] = context;
        for (int p = 0; p < per; p++)
            table[s * per + p] = 1 + (p * nseq + s); /* pages of one sequence lie apart, as after a while of serving */
    }
    struct tensor *t[] = { tensor(DTYPE_F32, nseq * rows, HEADS * HD),
                           tensor(DTYPE_F32, nseq * rows, width),
                           tensor(type, (int64_t)pages * KV_PAGE, KV_HEADS * HD),
                           tensor(type, (int64_t)pages * KV_PAGE, KV_HEADS * HD),
                           ints(nseq, per, table),
                           ints(nseq, 1, slot),
                           ints(nseq + 1, 1, begin),
                           ints(nseq, 1, contexts) };
    struct attend_args a = { t[0], t[1],        t[2],  t[3],     t[4], t[5],        t[6], t[7],
                             nseq, nseq * rows, HEADS, KV_HEADS, HD,   0.08838835f, 0 };
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d rows, context %d", nseq, rows, context);
    double bytes = 2.0 * nseq * context * KV_HEADS * HD * (double)dtype_size(type) + 4.0 * nseq * rows * 2 * HEADS * HD;
    double keys = (double)nseq * rows * (context - (rows - 1) / 2.0);
    row(name, shape, seconds(attend_op, &a), bytes, 4.0 * keys * HEADS * HD);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(table);
    free(slot);
    free(begin);
    free(contexts);
}

/* ---- sampler, norms ---- */

static void sample_op(void *arg)
{
    d->sample(d, arg);
}

static void sampler(int n, int top_k, float top_p)
{
    int32_t *index = xcalloc((size_t)n, 4);
    struct sample_slot *slots = xcalloc((size_t)n, sizeof *slots);
    for (int i = 0; i < n; i++) {
        index[i] = i;
        slots[i] = (struct sample_slot){ .temperature = 0.6f,
                                         .top_p = top_p,
                                         .top_k = top_k,
                                         .repetition = 1,
                                         .hi = { VOCAB, VOCAB },
                                         .flip_id = -1,
                                         .limit = 1 << 30,
                                         .key = { (uint32_t)i, 1 } };
        for (int j = 0; j < SAMPLE_STOP_IDS; j++)
            slots[i].also[0][j] = slots[i].also[1][j] = slots[i].never[0][j] = slots[i].never[1][j] = slots[i].stop[j] =
                -1;
    }
    struct tensor *t[] = { tensor(DTYPE_F32, n, VOCAB), ints(n, 1, index), tensor(DTYPE_U8, n, sizeof *slots),
                           ints(n, 1, index), tensor(DTYPE_F32, n, 1) };
    struct sample_args a = { t[0], t[1], t[2], NULL, t[3], t[4], n, VOCAB };
    d->tensor_write(d, t[2], 0, slots, (size_t)n * sizeof *slots);
    char shape[64];
    snprintf(shape, sizeof shape, "%d rows, top_k %d top_p %.2f", n, top_k, (double)top_p);
    row("sample", shape, seconds(sample_op, &a), 4.0 * n * VOCAB, 0);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(index);
    free(slots);
}

struct pair {
    struct tensor *y, *x, *g;
    int rows;
};

static void copy_op(void *arg)
{
    struct pair *p = arg;
    d->copy(d, p->y, p->x, 1 << 28);
}

static void norm_op(void *arg)
{
    struct pair *p = arg;
    d->rmsnorm(d, p->y, p->x, p->g, 1e-6f, p->rows, HIDDEN);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "cuda:0";
    if (device_open(&d, name, 0, &e) < 0) {
        printf("# skip: device_bench: %s\n", e.msg);
        return argc > 1; /* a device that was asked for by name must be there */
    }
    struct pair big = { tensor(DTYPE_F32, 1, 1 << 28), tensor(DTYPE_F32, 1, 1 << 28), NULL, 0 };
    bandwidth = 2.0 * 4 * (1 << 28) / seconds(copy_op, &big);
    d->tensor_free(d, big.x);
    d->tensor_free(d, big.y);
    flops = 2.0 * 8192 * 8192 * 8192 / linear_time(8192, 8192, 8192);
    printf("# %s (%s): copy %.0f GB/s, multiplication %.0f TFLOP/s\n", d->name, d->numerics, bandwidth * 1e-9,
           flops * 1e-12);
    static const int linears[][2] = {
        { (HEADS + 2 * KV_HEADS) * HD, HIDDEN }, { HIDDEN, HEADS * HD }, { 2 * FFN, HIDDEN }, { HIDDEN, FFN }
    };
    static const int batches[] = { 1, 32, 256, 4096 };
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
        for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
            int m = batches[b], n = linears[i][0], k = linears[i][1];
            char shape[64];
            snprintf(shape, sizeof shape, "%d x %d x %d", m, n, k);
            row("linear", shape, linear_time(m, n, k), 2.0 * n * k + 4.0 * m * (n + k), 2.0 * m * n * k);
        }
    attention("decode bf16", DTYPE_BF16, 1, 1, 4096);
    attention("decode bf16", DTYPE_BF16, 64, 1, 2048);
    attention("decode bf16", DTYPE_BF16, 256, 1, 1024);
    attention("decode bf16", DTYPE_BF16, 256, 1, 2048);
    attention("decode f32", DTYPE_F32, 64, 1, 1024);
    attention("prefill bf16", DTYPE_BF16, 16, 256, 256);
    attention("prefill bf16", DTYPE_BF16, 2, 4096, 4096);
    sampler(1, 20, 0.95f);
    sampler(256, 0, 1);
    sampler(256, 20, 0.95f);
    sampler(256, 0, 0.95f);
    struct pair p = { tensor(DTYPE_F32, 4096, HIDDEN), tensor(DTYPE_F32, 4096, HIDDEN), tensor(DTYPE_F32, 1, HIDDEN),
                      4096 };
    row("rmsnorm", "4096 x 2560", seconds(norm_op, &p), 8.0 * 4096 * HIDDEN, 0);
    d->tensor_free(d, p.x);
    d->tensor_free(d, p.y);
    d->tensor_free(d, p.g);
    device_close(d);
    return 0;
}
