/* rows_test.c - norms, gates, rotation, embeddings and log-probabilities against the oracle, at every awkward width;
 * and rows in a batch against the same rows alone. */
#include "kernels/rows_problem.h"

static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static void compare(int rows, int cols, float scale)
{
    struct inputs in = inputs_of(rows, cols, scale);
    struct device *oracle = open_path(CPU_ORACLE, 1);
    for (int isa = CPU_BASE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 2);
        if (!d)
            continue;
        for (int op = 0; op < OPS; op++) {
            char what[96];
            int64_t n = op >= LOGPROB ? rows : (int64_t)rows * cols;
            snprintf(what, sizeof what, "%s %s %d x %d (scale %g)", path_name(isa), op_name[op], rows, cols, scale);
            float *want = result(oracle, op, &in, 0, rows), *got = result(d, op, &in, 0, rows);
            assert_close(what, got, want, n, op == LAYERNORM ? 2e-6 : 1e-6 * (scale > 1 ? scale : 1), 3e-6);
            int part = rows / 2, left = rows - part;
            float *again = result(d, op, &in, part, left);
            assert_same_bits(what, again, got + n / rows * part, n / rows * left);
            free(want);
            free(got);
            free(again);
        }
        device_close(d);
    }
    device_close(oracle);
    inputs_free(&in);
}

static void test_widths(void **state)
{
    (void)state;
    for (int i = 0; i < SIZES; i++) {
        compare(1, sizes[i], 1);
        compare(33, sizes[i], 8);
        compare(sizes[i], 31, 30);
    }
}

static void test_exp_accuracy(void **state)
{
    (void)state;
    double worst = 0;
    for (int isa = CPU_BASE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 1);
        if (!d)
            continue;
        const struct row_isa *rows = rows_of((struct cpu *)d);
        float x[1024], y[1024], one;
        for (int block = 0; block < 1000; block++) {
            for (int i = 0; i < 1024; i++)
                x[i] = -87.33f + (float)(block * 1024 + i) * (88.72f + 87.33f) / 1024000;
            rows->exp(y, x, 1024);
            for (int i = 0; i < 1024; i++) {
                double want = exp(x[i]),
                       ulp = fabs(y[i] - want) / (double)(nextafterf((float)want, INFINITY) - (float)want);
                worst = ulp > worst ? ulp : worst;
            }
            rows->exp(&one, &x[block], 1);
            assert_memory_equal(&one, &y[block], sizeof one);
        }
        const float edge[] = { -INFINITY, -1000, -88, 0, 89, INFINITY, NAN };
        rows->exp(y, edge, 7);
        assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0 && y[3] == 1 && isinf(y[4]) && isinf(y[5]) && isnan(y[6]));
        device_close(d);
    }
    printf("# exp: worst error %.2f ulp\n", worst);
    assert_true(worst <= 2);
}

/* ---- rotation ---- */

static void test_rope(void **state)
{
    (void)state;
    static const struct rope_args shape[] = {
        { .rows = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .rotary = 2 },
        { .rows = 33, .heads = 4, .kv_heads = 2, .head_dim = 32, .rotary = 32 },
        { .rows = 7, .heads = 3, .kv_heads = 1, .head_dim = 31, .rotary = 18 },
        { .rows = 64, .heads = 8, .kv_heads = 8, .head_dim = 64, .rotary = 64 },
        { .rows = 5, .heads = 2, .kv_heads = 1, .head_dim = 128, .rotary = 96 },
        { .rows = 5, .heads = 2, .kv_heads = 1, .head_dim = 9, .rotary = 0 },
    };
    struct device *oracle = open_path(CPU_ORACLE, 1);
    for (int isa = CPU_BASE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 2);
        for (int i = 0; d && i < 12; i++) {
            const struct rope_args *a = &shape[i / 2];
            struct rotated want = rotated(oracle, a, i % 2, true, DTYPE_F32);
            struct rotated got = rotated(d, a, i % 2, true, DTYPE_F32);
            int64_t kv = (int64_t)a->kv_heads * a->head_dim, n = a->rows * (a->heads * a->head_dim + 2 * kv);
            assert_close("rope", got.qkv, want.qkv, n, 1e-6, 2e-6);
            assert_close("k cache", got.k_cache, want.k_cache, CACHE_ROWS * kv, 1e-6, 2e-6);
            assert_close("v cache", got.v_cache, want.v_cache, CACHE_ROWS * kv, 0, 0);
            rotated_free(&want);
            rotated_free(&got);
        }
        device_close(d);
    }
    device_close(oracle);
}

/* ---- log-probabilities at the edges ---- */

static void test_logprob_edges(void **state)
{
    (void)state;
    for (int isa = CPU_ORACLE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 1);
        if (!d)
            continue;
        const float x[4][9] = { { 0, 3, 3, 1, 1, 1, 1, 1, 3 }, /* a tie: the lowest id */
                                { -INFINITY, 0, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                  -INFINITY },
                                { 1, 2, 3, 4, 5, 6, 7, 8, NAN },
                                { 1, 2, 3, 4, 5, 6, 7, 8, 9 } };
        const int32_t target[] = { 1, 1, 0, -1 };
        struct scores s = scores_of(d, x[0], target, 4, 9);
        assert_true(s.best[0] == 1 && s.best[1] == 1 && s.best[2] == 7 && s.best[3] == 8);
        assert_true(s.logprob[1] == 0 && s.entropy[1] == 0);
        assert_true(isnan(s.logprob[2]) && isnan(s.logprob[3]));
        assert_false(isnan(s.entropy[3]));
        scores_free(&s);
        device_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_exp_accuracy),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_logprob_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
