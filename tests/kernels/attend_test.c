/* attend_test.c - attention against the oracle, and its three forms against each other: a packed batch, a prefill over
 * pages, and decoding token by token must give the same bits, whatever the page table looks like. */
#include "kernels/attend_problem.h"

static const struct shape shapes[] = {
    { 4, 2, 32, 0 }, { 1, 1, 1, 0 },   { 3, 1, 7, 0 },   { 6, 3, 33, 0 }, { 8, 8, 64, 0 },  { 4, 1, 128, 40 },
    { 2, 2, 9, 1 },  { 4, 2, 16, 33 }, { 2, 1, 80, 32 }, { 5, 5, 31, 7 }, { 16, 2, 32, 0 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_oracle(void **state)
{
    (void)state;
    const int lengths[] = { 1, 7, 8, 31, 32, 33, 65, 9 };
    struct device *oracle = open_path(CPU_ORACLE, 1);
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        for (int i = 0; d && i < SHAPES; i++) {
            struct batch b = batch_of(shapes[i], 8, lengths, (uint64_t)i);
            int64_t n = b.rows * b.q_width;
            for (int kind = 0; kind < 3; kind++) {
                char what[64];
                snprintf(what, sizeof what, "%s shape %d kind %d", path_name(isa), i, kind);
                float *want = kind == 2 ? paged(oracle, &b, DTYPE_F32, 0, 5) : varlen(oracle, &b, kind == 0);
                float *got = kind == 2 ? paged(d, &b, DTYPE_F32, 0, 6) : varlen(d, &b, kind == 0);
                assert_close(what, got, want, n, 3e-6, 3e-6);
                free(want);
                free(got);
            }
            free(b.qkv);
        }
        device_close(d);
    }
    device_close(oracle);
}

static void test_long(void **state)
{
    (void)state;
    struct device *oracle = open_path(CPU_ORACLE, 1);
    const int lengths[][2] = { { 1023, 1 }, { 1024, 2 }, { 1025, 33 } };
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        for (int i = 0; d && i < 3; i++) {
            struct batch b = batch_of((struct shape){ 2, 1, 16, i == 1 ? 500 : 0 }, 2, lengths[i], (uint64_t)i);
            float *want = varlen(oracle, &b, true), *got = paged(d, &b, DTYPE_F32, 0, 6);
            assert_close("long", got, want, b.rows * b.q_width, 3e-6, 3e-6);
            free(want);
            free(got);
            free(b.qkv);
        }
        device_close(d);
    }
    device_close(oracle);
}

static void test_same_bits(void **state)
{
    (void)state;
    const int lengths[] = { 70, 1, 33, 64, 128 };
    float *avx2[SHAPES] = { NULL };
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *one = open_path(isa, 1), *two = open_path(isa, 2);
        for (int i = 0; one && i < SHAPES; i++) {
            struct batch b = batch_of(shapes[i], 5, lengths, (uint64_t)i);
            float *want = varlen(one, &b, true);
            static const int steps[] = { 0, 1, 5, 32, 33 };
            for (int j = 0; j < 5; j++) {
                char what[64];
                snprintf(what, sizeof what, "%s shape %d, %d tokens a call", path_name(isa), i, steps[j]);
                float *got = paged(j % 2 ? one : two, &b, DTYPE_F32, steps[j], (uint64_t)j);
                assert_same_bits(what, got, want, b.rows * b.q_width);
                free(got);
            }
            float *got = varlen(two, &b, true);
            assert_same_bits("two threads", got, want, b.rows * b.q_width);
            free(got);
            if (isa == CPU_AVX512)
                assert_same_bits("avx512 and avx2", want, avx2[i], b.rows * b.q_width);
            if (isa == CPU_AVX2)
                avx2[i] = want;
            else
                free(want);
            free(b.qkv);
        }
        device_close(one);
        device_close(two);
    }
    for (int i = 0; i < SHAPES; i++)
        free(avx2[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
