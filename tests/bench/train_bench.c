/* train_bench - full and LoRA training steps, as shares of the machine's multiply-add peak.
 *
 *     train_bench [STEPS]
 *
 * Two llama shapes with random weights (performance specification, section 6), rows of 128 tokens, 1,024 tokens a step:
 * forward, backward, norm, AdamW, packing of the changed weights. Best and median of STEPS steps (12); the first is
 * outside the clock. FLOPs: 6 per weight and token (LoRA: 4, and its own), and attention's products over the causal
 * half, forward once and backward twice. GFLOP/s and shares are those of the best step by the clock; on a machine that
 * has other work compare tokens/s by processor time, the best step's divided by the threads. The limit is this
 * machine's multiply-add peak, measured in the same run. Gates: 4,500 and 1,300 tokens/s (full, two threads).
 * LATENT_BENCH_PYTHON=PYTHON, one with torch: its figure follows, for the same model and steps.
 * LATENT_BENCH_THREADS=N: instead of 2. */
#include "bench.h"

#include "random_model.h"
#include "train/optimizer.h"
#include "train/peak.h"

static int threads;

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
    bench_must(trainable_pass(t, b, 1.0f / TOKENS, loss, &bench_err));
    bench_must(optimizer_norm(o, &norm, &bench_err));
    optimizer_step(o, step, 1e-3, norm);
    bench_must(o->d->sync(o->d, &bench_err));
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
    bench_must(device_open(&d, "cpu", threads, &bench_err));
    bench_must(model_open(&m, tmp, d, &bench_err));
    bench_must(trainable_open(&t, m, &to, &bench_err));
    bench_must(optimizer_open(&o, t, d, 0.01, 1, &bench_err));
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
        double start = bench_now(), cpu = bench_cpu();
        one_step(t, &o, &b, i + 2, &loss);
        took[i] = bench_now() - start;
        cpu = (bench_cpu() - cpu) / threads;
        busy = cpu < busy ? cpu : busy;
    }
    qsort(took, (size_t)steps, sizeof *took, by_size);
    double gflops = flops_of(&s->s, lora, trained) / took[0] * 1e-9;
    printf("train\t%s\t%s\t%s\t%d threads\t%.0f tokens/s (median %.0f), "
           "%.0f by processor time\t%.1f GFLOP/s\tpeak %.1f\tshare %.2f\tloss %.6f\n",
           s->name, lora ? "lora" : "full", d->numerics, threads, TOKENS / took[0], TOKENS / took[steps / 2],
           TOKENS / busy, gflops, limit, gflops / limit, loss / TOKENS);
    double ours = TOKENS / took[0];
    free(took);
    free(ids);
    free(target);
    optimizer_close(&o);
    trainable_close(t);
    model_close(m);
    device_close(d);
    double peers =
        bench_ask("train_peer.py", "\"%s\" %d %d %d %d %s", tmp, threads, ROWS, ROW, steps, lora ? "lora" : "full");
    bench_times(s->name, ours, peers, 1.5);
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = { { "3.4M", { 6, 192, 512, 6, 6, 4096, 1024, true, false, 0 } },
                                           { "12.5M", { 8, 320, 864, 5, 5, 8192, 1024, true, false, 0 } } };
    int steps = argc > 1 ? atoi(argv[1]) : 12;
    if (steps < 1)
        return 2;
    bench_begin("train_bench");
    threads = bench_threads();
    char *tmp = bench_folder();
    double limit = peak_flops(threads, 0) * 1e-9;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bench_must(random_model_write(tmp, &shapes[i].s, 1, &bench_err));
        bench(&shapes[i], tmp, steps, false, limit);
        bench(&shapes[i], tmp, steps, true, limit);
    }
    bench_remove(tmp);
    free(tmp);
    return 0;
}
