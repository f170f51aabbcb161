/* failure_test.c - machines that lack something or are lost on the way: each call of the emulated runtime fails in
 * turn, and every time there is one clear sentence, nothing hangs, and all is given back. */
#include "unit/test.h"

#include "cuda/cuda_test.h"
#include "unit/infer_util.h"

#ifdef NO_EMULATION
void emu_fail(enum emu_failure how, int after)
{
    (void)how;
    (void)after;
}
int emu_failed(void)
{
    return 0;
}
void emu_set_memory_left(size_t bytes)
{
    (void)bytes;
}
static int open_device(struct device **out, struct err *e)
{
    (void)out;
    (void)e;
    return -1;
}
#else
static int open_device(struct device **out, struct err *e)
{
    return latent_device_open(LATENT_DEVICE_ABI, LATENT_BUILD_ID, 0, false, out, e);
}
#endif

enum { MEMORY_LEFT = 4 << 20 };

/* A model, two samples of it, everything closed again. */
static int generate(const struct engine_options *o, struct err *e)
{
    static const int32_t prompt[] = { 5, 6, 7 };
    struct device *d = NULL;
    struct model *m = NULL;
    struct engine *g = NULL;
    struct gen_result r;
    struct gen_params p;
    int got = -1;
    if (open_device(&d, e) < 0)
        return -1;
    if (model_open(&m, "tests/golden/models/qwen2", d, e) == 0 && engine_open(&g, m, o, e) == 0) {
        gen_params_init(&p, model_config(m));
        p.max_new = 4;
        p.n_stop = 0;
        struct gen_request q = { prompt, 3, 2, 0, 1, "failing", NULL, &p };
        got = engine_submit(g, &q, e);
        while (got >= 0 && (got = engine_next(g, &r, e)) > 0)
            gen_result_release(&r);
    }
    engine_close(g);
    model_close(m);
    device_close(d);
    return got;
}

static void expect_words(const struct err *e, const char *words)
{
    if (!strstr(e->msg, words))
        fail_msg("it says '%s', which has no '%s'", e->msg, words);
}

static void test_opening(void **state)
{
    (void)state;
    static const struct {
        enum emu_failure how;
        const char *words;
    } ways[] = {
        { EMU_NO_DRIVER, "cuda:0: this machine has no NVIDIA driver" },
        { EMU_OLD_DRIVER, "the driver is for CUDA 12.2, this build needs 13.0 or newer" },
        { EMU_NO_DEVICE, "the driver finds no CUDA device" },
    };
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct err e = { "" };
        emu_fail(ways[i].how, 0);
        assert_int_equal(generate(&(struct engine_options){ .batch = 2 }, &e), -1);
        expect_words(&e, ways[i].words);
    }
}

/* Every call in turn. */
static void fail_in_turn(enum emu_failure how, const char *words, const char *advice)
{
    int runs = 0;
    for (int after = 0;; after++, runs++) {
        struct err e = { "" };
        emu_fail(how, after);
        int rc = generate(&(struct engine_options){ .batch = 2, .read_delay = after % 3 }, &e);
        bool failed = emu_failed();
        emu_fail(EMU_WELL, 0);
        if (!failed) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, -1);
        expect_words(&e, words);
        expect_words(&e, advice);
    }
    print_message("# %d runs failed in turn\n", runs);
    assert_true(runs > 20);
}

static void test_lost(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    fail_in_turn(EMU_LOST, "the device was lost while ", "run the same command again when nvidia-smi shows the device");
}

static void test_no_memory(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    fail_in_turn(EMU_NO_MEMORY, "no device memory for the ", " MiB are needed, 4.0 of 256.0 MiB are free");
}

/* The first failure stays: nothing runs any more, and every waiting call says the same. */
static void test_sticky(void **state)
{
    (void)state;
    struct err e = { "" }, again = { "" };
    struct device *d;
    struct tensor *x;
    float one = 1, got = 5;
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    assert_ok(open_device(&d, &e));
    assert_ok(d->tensor_new(d, &x, DTYPE_F32, 1, 1, "test", &e));
    emu_fail(EMU_LOST, 0);
    d->tensor_write(d, x, 0, &one, 1);
    emu_fail(EMU_WELL, 0); /* it came back: that does not help */
    d->tensor_write(d, x, 0, &one, 1);
    d->add(d, x, x, 1);
    assert_int_equal(d->sync(d, &e), -1);
    assert_int_equal(d->tensor_read(d, x, 0, &got, 1, &again), -1);
    expect_words(&e, "cuda:0: the device was lost while a write");
    assert_string_equal(e.msg, again.msg);
    assert_true(got == 5);
    d->tensor_free(d, x);
    device_close(d);
}

/* What is too large is refused before anything moves, with what would fit. */
static void test_room(void **state)
{
    (void)state;
    struct err e = { "" };
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    emu_set_memory_left(100000);
    assert_int_equal(generate(&(struct engine_options){ .batch = 2 }, &e), -1);
    emu_set_memory_left(MEMORY_LEFT);
    expect_words(&e, "models/qwen2: the weights need ");
    expect_words(&e, "of the memory of cuda:0, where 0.1 MiB are free");
    assert_int_equal(generate(&(struct engine_options){ .batch = 64, .kv_memory = 8 << 20 }, &e), -1);
    expect_words(&e, "cuda:0 has 4.0 MiB left, of which ");
    expect_words(&e, " would do (--kv-memory)");
    assert_int_equal(generate(&(struct engine_options){ .batch = 2 }, &e), 0);
}

/* The number behind `words`, which says what would fit. */
static int what_fits(const struct err *e, const char *words, const char *unit)
{
    const char *at = strstr(e->msg, words);
    char *end;
    if (!at)
        fail_msg("it says '%s', which has no '%s'", e->msg, words);
    long n = strtol(at + strlen(words), &end, 10);
    if (strncmp(end, unit, strlen(unit)) != 0)
        fail_msg("it says '%s', where '%s' should follow %ld", e->msg, unit, n);
    return (int)n;
}

/* What fits is told, and does fit; one more does not. */
static void test_batch_that_fits(void **state)
{
    (void)state;
    struct err e = { "" };
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    assert_int_equal(generate(&(struct engine_options){ .batch = 4096 }, &e), -1);
    expect_words(&e, "models/qwen2: 4096 sequences at a time need ");
    expect_words(&e, " MiB of the memory of cuda:0, besides keys and values, where 4.0 MiB are free: ");
    int fit = what_fits(&e, "are free: ", " would fit (--batch)");
    assert_int_equal(generate(&(struct engine_options){ .batch = fit }, &e), 0);
    assert_int_equal(generate(&(struct engine_options){ .batch = fit + 1 }, &e), -1);
    emu_set_memory_left(600000);
    assert_int_equal(generate(&(struct engine_options){ .batch = 2 }, &e), -1);
    emu_set_memory_left(MEMORY_LEFT);
    expect_words(&e, "not even one would fit");
}

/* Passes of compressors, and of causal models that score. */
static void test_pass_that_fits(void **state)
{
    (void)state;
    static const char *const names[] = { "xlmr", "bert", "qwen3" };
    SKIP_WITHOUT_EMULATION("only the emulation can be made to fail");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = { "" };
        struct device *d;
        assert_ok(open_device(&d, &e));
        struct opened m = open_golden_on(d, names[i]);
        assert_int_equal(model_reserve(m.m, 100000, &e), -1);
        expect_words(&e, names[i]);
        expect_words(&e, ": a pass of 100000 tokens needs ");
        int fit =
            what_fits(&e, " MiB of the memory of cuda:0, where 4.0 MiB are free: ", " would fit (a smaller --batch)");
        assert_ok(model_reserve(m.m, fit, &e));
        assert_int_equal(model_reserve(m.m, fit + 1, &e), -1);
        emu_set_memory_left(100);
        assert_int_equal(model_reserve(m.m, 1, &e), -1);
        expect_words(&e, "there is no room for a single one");
        char dir[100];
        struct model *again;
        snprintf(dir, sizeof dir, "tests/golden/models/%s", names[i]);
        assert_int_equal(model_open(&again, dir, d, &e), -1);
        expect_words(&e, ": the weights need ");
        expect_words(&e, "free some, or take a device with more, or --device cpu");
        emu_set_memory_left(MEMORY_LEFT);
        close_opened(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),        cmocka_unit_test(test_lost), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_sticky),         cmocka_unit_test(test_room), cmocka_unit_test(test_batch_that_fits),
        cmocka_unit_test(test_pass_that_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
