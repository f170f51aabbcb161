/* dual_bench - what a second vocabulary costs a decode step: the head is twice as tall, but only the half that a
 * sequence's phase allows is computed, so a token should cost what it costs in the model before.
 *
 *     dual_bench [SECONDS]     rows: dual, batch, phase, microseconds a token, times the model with one vocabulary
 *
 * The 12.5M shape of decode_bench with one vocabulary of 8,192 ids, and with two; one thread, processor time, best of
 * the runs that fit in SECONDS; sampled at temperature 0.7. Inside the clock: a whole batch with its prompts. Each row
 * ends with the share of the head's product that was computed. */
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "infer/engine.h"
#include "random_model.h"

enum { VISIBLE = 8192, PROMPT = 16, NEW = 100, BATCH = 16 };

static struct err e;

static void die(void)
{
    fprintf(stderr, "dual_bench: %s\n", e.msg);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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
        if (engine_submit(g, &q, &e) < 0)
            die();
    }
}

/* Seconds of one batch; *share: of the head. */
static double run_batch(struct model *m, enum mix mix, double *share)
{
    struct engine *g;
    struct gen_result r;
    int got;
    if (engine_open(&g, m, &(struct engine_options){ .batch = BATCH }, &e) < 0)
        die();
    submit(g, m, mix);
    double t = now();
    while ((got = engine_next(g, &r, &e)) > 0)
        gen_result_release(&r);
    if (got < 0)
        die();
    t = now() - t;
    struct engine_stats s = engine_stats(g);
    *share = (double)s.logits / ((double)s.generated * model_config(m)->vocab);
    engine_close(g);
    return t;
}

static double best_of(struct model *m, enum mix mix, double seconds, double *share)
{
    double best = 1e9, until = now() + seconds;
    do {
        double t = run_batch(m, mix, share);
        best = t < best ? t : best;
    } while (now() < until);
    return best / (BATCH * NEW);
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
    if (device_open(&d, "cpu", 1, &e) < 0)
        die();
    for (int dual = 0; dual < 2; dual++) {
        char dir[] = "/tmp/latent-bench-XXXXXX";
        struct model *m;
        shape.vocab = VISIBLE << dual;
        if (!mkdtemp(dir) || random_model_write(dir, &shape, 1, &e) < 0 || model_open(&m, dir, d, &e) < 0)
            die();
        for (enum mix mix = dual ? THINKING : PLAIN; mix <= (dual ? MIXED : PLAIN); mix++) {
            double t = best_of(m, mix, seconds, &share);
            plain = dual ? plain : t;
            printf("dual,12.5M,cpu,1 thread,batch %d,%s,%.1f us a token,%.2f times,head %.1f %%\n", BATCH, mixes[mix],
                   1e6 * t, t / plain, 100 * share);
            fflush(stdout);
        }
        model_close(m);
        remove_model(dir);
    }
    device_close(d);
    return 0;
}
