/* cuda_test.h - CUDA kernels against the oracle of the CPU: the device under test, and comparisons that collect.
 *
 * The device is the emulation (kernels/cuda/emu), linked in; with LATENT_TEST_DEVICE=cuda:N it is the plugin's, so that
 * tests/bench/device.sh runs these same tests on the chip. A check does not fail by itself: it writes the first
 * mismatch to `mismatch`, for planted faults must be found and everything else must not. */
#ifndef LATENT_CUDA_TEST_H
#define LATENT_CUDA_TEST_H

#include "unit/test.h"

static char mismatch[2048];

static inline void note_mismatch(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void note_mismatch(const char *fmt, ...)
{
    va_list ap;
    if (mismatch[0])
        return;
    va_start(ap, fmt);
    vsnprintf(mismatch, sizeof mismatch, fmt, ap);
    va_end(ap);
}

#define READ_FAILED(d, e) note_mismatch("%s: %s", (d)->name, (e)->msg)

#include "kernels/cuda/emu/emu.h"
#include "kernels/kernel_test.h"
#include "kernels/plugin.h"

static inline const char *real_device(void)
{
    return getenv("LATENT_TEST_DEVICE");
}

#ifdef NO_EMULATION
#define SKIP_WITHOUT_DEVICE()                                                                                          \
    do {                                                                                                               \
        if (!real_device()) {                                                                                          \
            printf("# skip: no C++ compiler was there to build the CUDA emulation\n");                                 \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)
#else
#define SKIP_WITHOUT_DEVICE() ((void)0)
latent_device_open_fn latent_device_open; /* of the emulation */
#endif

/* For what only the emulation can show. */
#define SKIP_WITHOUT_EMULATION(why)                                                                                    \
    do {                                                                                                               \
        SKIP_WITHOUT_DEVICE();                                                                                         \
        if (real_device()) {                                                                                           \
            printf("# skip: %s\n", why);                                                                               \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

/* For what only the emulation's shadow memory can show. */
#define SKIP_UNWATCHED()                                                                                               \
    do {                                                                                                               \
        SKIP_WITHOUT_EMULATION("accesses are watched in the emulation only");                                          \
        if (!can_watch()) {                                                                                            \
            printf("# skip: accesses are not watched in a build with the address sanitizer\n");                        \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

/* Products so far that might have been added in any order; the chip does not say. */
static inline uint64_t products_in_any_order(void)
{
#ifdef NO_EMULATION
    return 0;
#else
    return emu_any_order();
#endif
}

static inline bool can_watch(void)
{
#ifdef NO_EMULATION
    return false;
#else
    bool can = emu_watch(true);
    emu_watch(false);
    return can;
#endif
}

/* For a whole test program whose tests switch nothing. */
static inline void watch_all(void)
{
#ifndef NO_EMULATION
    emu_watch(true);
#endif
}

/* bf16: its matrices and caches hold bf16, its normal way; else float. */
static inline struct device *open_device_under_test(bool bf16)
{
    struct err e = { "" };
    struct device *d = NULL;
    if (real_device()) {
        assert_ok(plugin_open(&d, real_device(), !bf16, &e));
        assert_string_equal(d->numerics, plugin_numerics(real_device(), !bf16));
    }
#ifndef NO_EMULATION
    else
        assert_ok(latent_device_open(LATENT_DEVICE_ABI, LATENT_BUILD_ID, 0, !bf16, &d, &e));
#endif
    return d;
}

static inline void same_floats(const char *what, const float *got, const float *want, int64_t n, double atol,
                               double rtol)
{
    for (int64_t i = 0; i < n; i++) {
        double tol = atol + rtol * fabs((double)want[i]);
        bool same = got[i] == want[i] || (isnan(got[i]) && isnan(want[i])); /* infinities too */
        if (!same && (isinf(want[i]) || !(fabs((double)got[i] - want[i]) <= tol)))
            note_mismatch("%s: [%lld] of %lld: got %.9g want %.9g", what, (long long)i, (long long)n, got[i], want[i]);
    }
}

static inline void same_ints(const char *what, const int32_t *got, const int32_t *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (got[i] != want[i])
            note_mismatch("%s: [%lld] of %lld: got %d want %d", what, (long long)i, (long long)n, got[i], want[i]);
}

/* Compares a tensor of both devices, frees both. */
static inline void same_tensors(const char *what, struct device *a, struct tensor *got, struct device *b,
                                struct tensor *want, double atol, double rtol)
{
    float *x = back(a, got, sizeof *x), *y = back(b, want, sizeof *y);
    same_floats(what, x, y, b->tensor_rows(want) * b->tensor_cols(want), atol, rtol);
    free(x);
    free(y);
    a->tensor_free(a, got);
    b->tensor_free(b, want);
}

typedef void check_fn(struct device *d /* under test */, struct device *oracle);
static bool test_bf16; /* how the device of checks is opened */

/* Runs a check in one order of threads with one fault planted, watched or not; true: nothing wrong was seen. */
static inline bool check_in_order(check_fn *check, enum emu_order order, enum plant fault, bool watch)
{
    mismatch[0] = '\0';
#ifndef NO_EMULATION
    emu_clear();
    emu_set_order(order);
    emu_plant(fault);
    emu_watch(watch);
    uint64_t before = emu_launches();
#else
    (void)order;
    (void)fault;
    (void)watch;
#endif
    struct device *d = open_device_under_test(test_bf16), *oracle = open_path(CPU_ORACLE, 1);
    check(d, oracle);
    device_close(d);
    device_close(oracle);
#ifndef NO_EMULATION
    emu_plant(PLANT_NONE);
    emu_watch(false);
    if (emu_fault())
        note_mismatch("%s", emu_fault());
    if (!real_device() && emu_launches() == before)
        note_mismatch("the check ran no kernel");
#endif
    return !mismatch[0];
}

static inline void expect_right(check_fn *check)
{
    static const char *const names[] = { "forward", "reverse", "shuffled" };
    for (int order = 0; order < EMU_ORDERS; order++) {
        if (!check_in_order(check, (enum emu_order)order, PLANT_NONE, order == EMU_FORWARD))
            fail_msg("threads %s: %s", names[order], mismatch);
        if (real_device())
            break;
    }
}

/* A test that is one check on the device of floats, or of bf16: CHECK(norms), CHECK_BF16(widths). */
struct one_check {
    check_fn *check;
    bool bf16;
};

static inline void test_is_right(void **state)
{
    const struct one_check *c = *state;
    SKIP_WITHOUT_DEVICE();
    test_bf16 = c->bf16;
    expect_right(c->check);
}

#define CHECK(f)                                                                                                       \
    {                                                                                                                  \
#f, test_is_right, NULL, NULL, &(struct one_check)                                                             \
        {                                                                                                              \
            f, false                                                                                                   \
        }                                                                                                              \
    }
#define CHECK_BF16(f)                                                                                                  \
    {                                                                                                                  \
#f " in bf16", test_is_right, NULL, NULL, &(struct one_check)                                                  \
        {                                                                                                              \
            f, true                                                                                                    \
        }                                                                                                              \
    }

/* Each fault gives a wrong result in one order of threads at least. The chip has no planted faults. */
static inline void expect_found(enum plant fault, check_fn *check, const char *name)
{
    bool found = false;
    for (int order = 0; order < EMU_ORDERS; order++)
        found = !check_in_order(check, (enum emu_order)order, fault, false) || found;
    if (!found)
        fail_msg("the planted fault '%s' was not found", name);
}

/* Each fault is named by who watches, whatever it did to the result. */
static inline void expect_named(enum plant fault, check_fn *check, const char *sentence)
{
    bool right = check_in_order(check, EMU_FORWARD, fault, true);
    if (right || !strstr(mismatch, sentence))
        fail_msg("a planted fault is not named '%s' but '%s'", sentence, mismatch);
}

#endif
