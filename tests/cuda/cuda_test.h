/* cuda_test.h - CUDA kernels against the oracle of the CPU: the device under test, and comparisons that collect.
 *
 * The device is the emulation (kernels/cuda/emu), linked in; with LATENT_TEST_DEVICE=cuda:N it is the plugin's, so that
 * tests/bench/device.sh runs these same tests on the chip. A check does not fail by itself: it writes the first
 * mismatch to `mismatch`, for planted faults must be found and everything else must not. */
#ifndef LATENT_CUDA_TEST_H
#define LATENT_CUDA_TEST_H

#include "kernels/cuda/emu/emu.h"
#include "kernels/kernel_test.h"
#include "kernels/plugin.h"

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

static bool test_bf16; /* matrices and caches of the device under test hold bf16: its normal way; off: float */

static inline struct device *open_device_under_test(void)
{
    struct err e = { "" };
    struct device *d = NULL;
    if (real_device())
        assert_ok(plugin_open(&d, real_device(), !test_bf16, &e));
#ifndef NO_EMULATION
    else
        assert_ok(latent_device_open(LATENT_DEVICE_ABI, LATENT_BUILD_ID, 0, !test_bf16, &d, &e));
#endif
    return d;
}

/* Reads into fresh memory; a failure of the device is a mismatch and gives zeros. */
static inline void *back(struct device *d, const struct tensor *t, size_t size)
{
    struct err e = { "" };
    size_t n = (size_t)(d->tensor_rows(t) * d->tensor_cols(t));
    void *v = xcalloc(n ? n : 1, size);
    if (d->tensor_read(d, t, 0, v, n, &e) < 0)
        note_mismatch("%s: %s", d->name, e.msg);
    return v;
}

static inline void same_floats(const char *what, const float *got, const float *want, int64_t n, double atol,
                               double rtol)
{
    for (int64_t i = 0; i < n; i++) {
        double tol = atol + rtol * fabs((double)want[i]);
        if (!(fabs((double)got[i] - want[i]) <= tol) && !(isnan(got[i]) && isnan(want[i])))
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

static inline uint16_t bf16_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_float(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline void round_to_bf16(float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = bf16_float(bf16_bits(v[i]));
}

/* e4m3, from its definition: the nearest of all numbers, of two the one with the even code; 448 for what is beyond. */
static inline float f8_float(uint8_t code)
{
    int e = code >> 3 & 15, m = code & 7;
    float f = e ? ldexpf(1 + (float)m / 8, e - 7) : ldexpf((float)m / 8, -6);
    return (code & 0x7f) == 0x7f ? NAN : code & 0x80 ? -f : f;
}

static inline uint8_t f8_bits(float f)
{
    int best = 0;
    if (isnan(f))
        return 0x7f;
    for (int i = 1; i < 0x7f; i++) {
        float d = fabsf(f8_float((uint8_t)i) - fabsf(f)), most = fabsf(f8_float((uint8_t)best) - fabsf(f));
        if (d < most || (d == most && i % 2 == 0))
            best = i;
    }
    return (uint8_t)(best | (signbit(f) ? 0x80 : 0));
}

typedef void check_fn(struct device *d /* under test */, struct device *oracle);

/* Runs a check in one order of threads with one fault planted; true: nothing wrong was seen. */
static inline bool check_in_order(check_fn *check, enum emu_order order, enum plant fault)
{
    mismatch[0] = '\0';
#ifndef NO_EMULATION
    emu_clear();
    emu_set_order(order);
    emu_plant(fault);
    uint64_t before = emu_launches();
#else
    (void)order;
    (void)fault;
#endif
    struct device *d = open_device_under_test(), *oracle = open_path(CPU_ORACLE, 1);
    check(d, oracle);
    device_close(d);
    device_close(oracle);
#ifndef NO_EMULATION
    emu_plant(PLANT_NONE);
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
        if (!check_in_order(check, (enum emu_order)order, PLANT_NONE))
            fail_msg("threads %s: %s", names[order], mismatch);
        if (real_device())
            break;
    }
}

/* Each fault is found in one order of threads at least. The chip has no planted faults. */
static inline void expect_found(enum plant fault, check_fn *check, const char *name)
{
    bool found = false;
    for (int order = 0; order < EMU_ORDERS; order++)
        found = !check_in_order(check, (enum emu_order)order, fault) || found;
    if (!found)
        fail_msg("the planted fault '%s' was not found", name);
}

#endif
