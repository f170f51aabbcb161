/* dual_bench - what a second vocabulary costs a decode step: the head is twice as tall, but only the half that a
 * sequence's phase allows is computed, so a token should cost what it costs in the model before.
 *
 *     dual_bench [SECONDS]     rows: dual, batch, phase, microseconds a token, times the model with one vocabulary
 *
 * The 12.5M shape of decode_bench with one vocabulary of 8,192 ids, and with two; one thread, processor time, best of
 * the runs that fit in SECONDS; sampled at temperature 0.7. Inside the clock: a whole batch with its prompts. Each row
 * ends with the share of the head's product that was computed. */
#include "bench.h"
#include "infer/engine.h"
#include "random_model.h"

enum { VISIBLE = 8192, PROMPT = 16, NEW = 100, BATCH = 16 };

enum mix { PLAIN, THINKING, ANSWERING, MIXED };
static const char *const mixes[] = { "one vocabulary", "thinking", "answering", "half and half" };

static void submit(struct engine *g, struct model *m, enum mix mix)
{
    struct gen_params p;
    int32_t prompt[PROMPT];
    for (int k = 0; k < BATCH; k++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", k);
        gen_params_init(&p, model_config(m));
        p.n_stop = 0;
        p.temperature = 0.7f;
        p.max_new = NEW;
        if (mix != PLAIN) {
            p.lo[0] = p.hi[1] = VISIBLE;
            p.flip_id = p.also[0][0] = 5;
            p.flip_bias = -1e9f; /* stays in its phase: a fixed amount of work */
            p.phase = mix == ANSWERING || (mix == MIXED && k % 2);
        }
        for (int i = 0; i < PROMPT; i++)
            prompt[i] = 3 + (7 * i + k) % 1000;
        struct gen_request q = { prompt, PROMPT, 1, 0, 1, name, NULL, &p };
        bench_must(engine_submit(g, &q, &bench_err));
    }
}

/* Seconds of one batch; *share: of the head. */
static double run_batch(struct model *m, enum mix mix, double *share)
{
    struct engine *g;
    struct gen_result r;
    int got;
    bench_must(engine_open(&g, m, &(struct engine_options){ .batch = BATCH }, &bench_err));
    submit(g, m, mix);
    double t = bench_cpu();
    while ((got = engine_next(g, &r, &bench_err)) > 0)
        gen_result_release(&r);
    bench_must(got);
    t = bench_cpu() - t;
    struct engine_stats s = engine_stats(g);
    *share = (double)s.logits / ((double)s.generated * model_config(m)->vocab);
    engine_close(g);
    return t;
}

static double best_of(struct model *m, enum mix mix, double seconds, double *share)
{
    double best = 1e9, until = bench_cpu() + seconds;
    do {
        double t = run_batch(m, mix, share);
        best = t < best ? t : best;
    } while (bench_cpu() < until);
    return best / (BATCH * NEW);
}

int main(int argc, char **argv)
{
    struct random_shape shape = { .layers = 8,
                                  .hidden = 320,
                                  .ffn = 856,
                                  .heads = 10,
                                  .kv_heads = 10,
                                  .vocab = VISIBLE,
                                  .max_positions = 1024,
                                  .tied = true };
    double seconds = argc > 1 ? atof(argv[1]) : 3, plain = 0, share;
    struct device *d;
    bench_begin("dual_bench");
    bench_must(device_open(&d, "cpu", 1, &bench_err));
    for (int dual = 0; dual < 2; dual++) {
        char *dir = bench_folder();
        struct model *m;
        shape.vocab = VISIBLE << dual;
        bench_must(random_model_write(dir, &shape, 1, &bench_err));
        bench_must(model_open(&m, dir, d, &bench_err));
        for (enum mix mix = dual ? THINKING : PLAIN; mix <= (dual ? MIXED : PLAIN); mix++) {
            double t = best_of(m, mix, seconds, &share);
            plain = dual ? plain : t;
            printf("dual,12.5M,cpu,1 thread,batch %d,%s,%.1f us a token,%.2f times,head %.1f %%\n", BATCH, mixes[mix],
                   1e6 * t, t / plain, 100 * share);
        }
        model_close(m);
        bench_remove(dir);
        free(dir);
    }
    device_close(d);
    return 0;
}
