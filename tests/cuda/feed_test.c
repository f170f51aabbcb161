/* feed_test.c - the device has work while the host does its own: what is asked of the emulated machine, in order. */
#include "unit/test.h"

#include "cuda/cuda_test.h"
#include "model/score.h"
#include "task/compress.h"
#include "unit/infer_util.h"

#ifdef NO_EMULATION
const char *emu_trace(void)
{
    return "";
}
void emu_set_memory_left(size_t bytes)
{
    (void)bytes;
}
#else
/* The programs' own way to a device ends in the emulation (see Makefile). */
int __wrap_device_open(struct device **out, const char *name, int threads, struct err *e); /* NOLINT */
int __wrap_device_open(struct device **out, const char *name, int threads, struct err *e)  /* NOLINT */
{
    (void)name;
    (void)threads;
    return latent_device_open(LATENT_DEVICE_ABI, LATENT_BUILD_ID, 0, false, out, e);
}
#endif

static int count(const char *s, char c)
{
    int n = 0;
    for (; *s; s++)
        n += *s == c;
    return n;
}

static void expect_trace(const char *got, const char *want, const char *when)
{
    if (strcmp(got, want) != 0)
        fail_msg("%s: the host asked for '%s', expected '%s'", when, got, want);
}

/* ---- the compressor ---- */

enum { JOBS = 3 };

static void fill_jobs(struct compress_job *jobs, const char *what)
{
    for (int i = 0; i < JOBS; i++) {
        buf_printf(&jobs[i].label, "%s %d", what, i);
        for (int k = 0; k < 4; k++)
            buf_printf(&jobs[i].text, "%s number %d of %d costs %d dollars. ", what, k, i, 7 * k + i);
    }
}

static void test_compress(void **state)
{
    (void)state;
    static const double half = 0.5;
    struct err e = { "" };
    struct compressor *c;
    struct compress_job a[JOBS] = { 0 }, b[JOBS] = { 0 }, again[JOBS] = { 0 };
    struct compress_spec spec = { .model = "tests/golden/models/xlmr",
                                  .rule = { .math_safe = true },
                                  .ratio = &half,
                                  .nratio = 1,
                                  .device = "cuda:0",
                                  .threads = 1,
                                  .rows = 64 };
    SKIP_WITHOUT_EMULATION("the emulation knows what was asked for");
    fill_jobs(a, "apple");
    fill_jobs(b, "lemon");
    fill_jobs(again, "apple");
    assert_ok(compressor_open(&c, &spec, &e));
    assert_ok(compressor_run(c, again, JOBS, &e)); /* room is made */
    emu_trace();
    assert_ok(compressor_begin(c, a, JOBS, &e));
    const char *first = xstrdup(emu_trace());
    int passes = count(first, 'b');
    assert_true(passes > 1);
    assert_ok(compressor_begin(c, b, JOBS, &e));
    for (int i = 0; i < passes; i++)
        assert_memory_equal(first + 3 * i, "wkb", 3);
    assert_int_equal(strlen(first), 3 * passes);
    expect_trace(emu_trace(), first, "a second batch on top of the first"); /* nothing is waited for */
    assert_ok(compressor_end(c, &e));
    expect_trace(emu_trace(), "t", "the end of the first batch");
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(a[i].cut[0].text.len, again[i].cut[0].text.len);
        assert_memory_equal(a[i].cut[0].text.s, again[i].cut[0].text.s, a[i].cut[0].text.len);
        compress_job_release(&a[i]);
        compress_job_release(&again[i]);
    }
    compressor_close(c); /* with a batch under way */
    for (int i = 0; i < JOBS; i++)
        compress_job_release(&b[i]);
    free((char *)first);
}

/* What a program says whose passes do not fit. */
static void test_no_room(void **state)
{
    (void)state;
    static const double half = 0.5;
    struct err e = { "" };
    SKIP_WITHOUT_EMULATION("only the emulation has as little memory as a test wants");
    for (int surprisal = 0; surprisal < 2; surprisal++) {
        struct compressor *c;
        struct compress_job jobs[JOBS] = { 0 };
        struct compress_spec spec = { .model = surprisal ? "tests/golden/models/qwen3" : "tests/golden/models/xlmr",
                                      .method = surprisal ? COMPRESS_SURPRISAL : COMPRESS_LLMLINGUA2,
                                      .ratio = &half,
                                      .nratio = 1,
                                      .device = "cuda:0",
                                      .threads = 1,
                                      .rows = 1 << 20 };
        fill_jobs(jobs, "apple");
        for (int i = 0; i < 500; i++)
            buf_puts(&jobs[0].text, "So there are 12 of them, and 13 of the others. ");
        assert_ok(compressor_open(&c, &spec, &e));
        emu_set_memory_left(1 << 20);
        assert_int_equal(compressor_run(c, jobs, JOBS, &e), -1);
        emu_set_memory_left(4 << 20);
        if (!strstr(e.msg, " tokens needs ") || !strstr(e.msg, "cuda:0, where 1.0 MiB are free: "))
            fail_msg("it says '%s'", e.msg);
        compressor_close(c);
        for (int i = 0; i < JOBS; i++)
            compress_job_release(&jobs[i]);
    }
}

/* ---- the engine ---- */

static void test_engine(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 5, 6, 7 };
    enum { STEPS = 20 };
    struct err e = { "" };
    struct engine *g;
    struct gen_params p;
    SKIP_WITHOUT_EMULATION("the emulation knows what was asked for");
    struct opened m = open_golden_on(open_device_under_test(true), "qwen3");
    assert_ok(engine_open(&g, m.m, &(struct engine_options){ .batch = 2 }, &e));
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    p.max_new = STEPS;
    assert_ok(engine_submit(g, &(struct gen_request){ prompt, 3, 2, 0, 1, "feed", NULL, &p }, &e));
    emu_trace();
    for (int i = 0; i < STEPS; i++) {
        assert_int_equal(engine_step(g, &e), 1);
        const char *got = emu_trace();
        if (i > 3) /* the step is enqueued before the tokens of the second before it are waited for */
            expect_trace(got, "kbt", "a step");
        else if (i < 2 && strchr(got, 't'))
            fail_msg("step %d waits: '%s'", i, got);
    }
    engine_close(g);
    close_opened(&m);
}

/* ---- the scorer ---- */

enum { SEQS = 6, TOKENS = 9 };

static void test_score(void **state)
{
    (void)state;
    struct err e = { "" };
    struct scorer *s;
    struct score_seq q[SEQS];
    int32_t ids[SEQS][TOKENS];
    static float logprob[SEQS][TOKENS], entropy[SEQS][TOKENS];
    float alone[TOKENS], its_entropy[TOKENS];
    SKIP_WITHOUT_EMULATION("the emulation knows what was asked for");
    struct opened m = open_golden_on(open_device_under_test(true), "qwen3");
    for (int i = 0; i < SEQS; i++) {
        for (int t = 0; t < TOKENS; t++)
            ids[i][t] = 7 + 11 * i + 5 * t;
        q[i] = (struct score_seq){ ids[i], TOKENS, 1 + i, logprob[i], i == 5 ? NULL : entropy[i] };
    }
    assert_ok(scorer_open(&s, m.m, 2 * TOKENS, &e)); /* two a pass */
    assert_ok(scorer_run(s, q, SEQS, &e));
    emu_trace();
    assert_ok(scorer_run(s, q, SEQS, &e));
    expect_trace(emu_trace(), "wkwkbwkwkbtwkwkbt", "three passes");
    for (int i = 0; i < SEQS; i++) {
        struct score_seq one = { ids[i], TOKENS, 1 + i, alone, its_entropy };
        assert_ok(scorer_run(s, &one, 1, &e));
        assert_memory_equal(alone, logprob[i], (size_t)(TOKENS - 1 - i) * sizeof *alone);
        if (q[i].entropy)
            assert_memory_equal(its_entropy, entropy[i], (size_t)(TOKENS - 1 - i) * sizeof *alone);
    }
    scorer_close(s);
    close_opened(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_compress), cmocka_unit_test(test_no_room),
                                        cmocka_unit_test(test_score), cmocka_unit_test(test_engine) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
