/* linear_test.c - the product against the oracle, and against itself: a row's bits may not depend on its neighbours,
 * on the thread count, on the tile, or on how often a weight was packed. */
#include "kernels/kernel_test.h"

static uint16_t f16_of(float f) /* only for numbers that f16 holds exactly up to rounding toward zero, |f| < 2 */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    int e = (int)(u >> 23 & 255) - 127 + 15;
    if (e <= 0)
        return (uint16_t)(u >> 16 & 0x8000);
    return (uint16_t)((u >> 16 & 0x8000) | (uint32_t)e << 10 | (u >> 13 & 0x3ff));
}

static void *stored(const float *v, int64_t n, enum dtype t)
{
    char *p = xcalloc((size_t)n + 1, 4);
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = t == DTYPE_BF16 ? bf16_bits(v[i]) : f16_of(v[i]);
        if (t == DTYPE_F32)
            memcpy(p + 4 * i, &v[i], 4);
        else
            memcpy(p + 2 * i, &h, 2);
    }
    return p;
}

struct problem {
    int64_t m, n, k;
    enum dtype type;
    bool bias, add;
    float *x, *y; /* y: what add mode finds */
    float *b;
    void *w;
};

static struct problem problem_of(int64_t m, int64_t n, int64_t k, enum dtype type, bool bias, bool add)
{
    struct source s = source_of((uint64_t)(m * 1000003 + n * 1009 + k));
    struct problem p = { m, n, k, type, bias, add, NULL, NULL, NULL, NULL };
    p.x = random_floats(&s, m * k, 1);
    p.y = random_floats(&s, m * n, 1);
    p.b = random_floats(&s, n, 1);
    float *w = random_floats(&s, n * k, 1);
    p.w = stored(w, n * k, type);
    free(w);
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->x);
    free(p->y);
    free(p->b);
    free(p->w);
}

/* Rows m0 .. m0+m-1 of the problem, in two stacked parts when n allows. */
static float *solve(struct device *d, const struct problem *p, int64_t m0, int64_t m)
{
    struct err e = { "" };
    int64_t n0 = p->n / 3;
    struct weight_part parts[2] = {
        { p->w, p->type, n0 }, { (const char *)p->w + (size_t)(n0 * p->k) * dtype_size(p->type), p->type, p->n - n0 }
    };
    struct weight *w = NULL;
    assert_ok(d->weight_new(d, &w, parts, 2, p->k, "test weight", &e));
    struct tensor *x = floats_of(d, m, p->k, p->x + m0 * p->k), *y = floats_of(d, m, p->n, p->y + m0 * p->n);
    struct tensor *b = p->bias ? floats_of(d, 1, p->n, p->b) : NULL;
    d->linear(d, y, x, w, b, (int)m, p->add);
    float *out = floats_back(d, y);
    d->tensor_free(d, x);
    d->tensor_free(d, y);
    d->tensor_free(d, b);
    d->weight_free(d, w);
    return out;
}

static void against_oracle(int64_t m, int64_t n, int64_t k, enum dtype type, bool bias, bool add)
{
    struct device *oracle = open_path(CPU_ORACLE, 1);
    struct problem p = problem_of(m, n, k, type, bias, add);
    float *want = solve(oracle, &p, 0, m), *avx2 = NULL;
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        if (!d)
            continue;
        char what[128];
        snprintf(what, sizeof what, "linear %s m %d n %d k %d type %d bias %d add %d", path_name(isa), (int)m, (int)n,
                 (int)k, type, bias, add);
        float *got = solve(d, &p, 0, m);
        assert_close(what, got, want, m * n, 1e-6 * sqrt((double)k) + 1e-6, 1e-6);
        if (isa == CPU_AVX2) {
            avx2 = got;
        } else {
            if (isa == CPU_AVX512)
                assert_same_bits(what, got, avx2, m * n);
            free(got);
        }
        device_close(d);
    }
    free(avx2);
    free(want);
    problem_free(&p);
    device_close(oracle);
}

static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025 };
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Every size in every place, the other two drawn from the list; large cubes would take the oracle minutes. */
static void test_sizes(void **state)
{
    (void)state;
    struct source s = source_of(1);
    for (int place = 0; place < 3; place++)
        for (int i = 0; i < SIZES; i++)
            for (int type = DTYPE_F32; type <= DTYPE_F16; type++) {
                int64_t v[3];
                for (int j = 0; j < 3; j++)
                    v[j] = sizes[next_int(&s, SIZES)];
                v[place] = sizes[i];
                while (v[0] * v[1] * v[2] > 4000000)
                    for (int j = 0; j < 3; j++)
                        if (j != place && v[j] > 8)
                            v[j] = sizes[next_int(&s, 7)];
                against_oracle(v[0], v[1], v[2], (enum dtype)type, next_int(&s, 2), next_int(&s, 2));
            }
}

static void test_rows_alone(void **state)
{
    (void)state;
    static const struct {
        int64_t n, k;
        enum dtype type;
    } shape[] = { { 150, 77, DTYPE_F32 }, { 33, 530, DTYPE_F32 }, { 150, 77, DTYPE_BF16 }, { 16, 1023, DTYPE_BF16 } };
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++)
        for (int i = 0; i < 4; i++) {
            struct device *one = open_path(isa, 1), *two = open_path(isa, 2);
            if (!one)
                continue;
            struct problem p = problem_of(130, shape[i].n, shape[i].k, shape[i].type, i % 2, i / 2);
            float *alone = xcalloc(130 * (size_t)p.n, sizeof *alone);
            for (int r = 0; r < 130; r++) {
                float *row = solve(one, &p, r, 1);
                memcpy(alone + r * p.n, row, (size_t)p.n * sizeof *row);
                free(row);
            }
            for (int m = 1; m <= 130; m++) {
                char what[64];
                snprintf(what, sizeof what, "linear %s case %d at m %d", path_name(isa), i, m);
                float *a = solve(one, &p, 0, m), *b = solve(two, &p, 130 - m, m);
                assert_same_bits(what, a, alone, m * p.n);
                assert_same_bits(what, b, alone + (130 - m) * p.n, m * p.n);
                free(a);
                free(b);
            }
            free(alone);
            problem_free(&p);
            device_close(one);
            device_close(two);
        }
}

/* A block has the bits of the whole product; around it nothing else is written. */
static void check_block(struct device *d, const struct problem *p, const float *whole, int row, int rows, int col,
                        int cols)
{
    struct err e = { "" };
    struct weight_part part = { p->w, p->type, p->n };
    struct weight *w = NULL;
    assert_ok(d->weight_new(d, &w, &part, 1, p->k, "test weight", &e));
    struct tensor *x = floats_of(d, p->m, p->k, p->x), *y = floats_of(d, p->m, p->n, p->y);
    d->linear_block(d, y, x, w, row, rows, col, cols);
    float *got = floats_back(d, y);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            int64_t at = i * p->n + j;
            bool inside = i >= row && i < row + rows && j >= col && j < col + cols;
            if (memcmp(&got[at], &whole[at], sizeof *got) != 0 &&
                (inside || memcmp(&got[at], &p->y[at], sizeof *got) != 0))
                fail_msg("row %d column %d of block %d+%d, %d+%d: %g, expected %g", (int)i, (int)j, row, rows, col,
                         cols, (double)got[at], (double)whole[at]);
        }
    free(got);
    d->tensor_free(d, x);
    d->tensor_free(d, y);
    d->weight_free(d, w);
}

static void test_blocks(void **state)
{
    (void)state;
    static const int edges[] = { 0, 1, 15, 16, 17, 31, 32, 33, 100, 149, 150 };
    enum { EDGES = sizeof edges / sizeof *edges };
    for (int isa = CPU_ORACLE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path((enum cpu_isa)isa, 2);
        for (int type = DTYPE_F32; d && type <= DTYPE_BF16; type++) {
            struct problem p = problem_of(23, 150, 77, (enum dtype)type, false, false);
            float *whole = solve(d, &p, 0, p.m);
            for (int a = 0; a < EDGES; a++)
                for (int b = a; b < EDGES; b++)
                    check_block(d, &p, whole, (a * 7) % 23, (b * 5) % (24 - (a * 7) % 23), edges[a],
                                edges[b] - edges[a]);
            free(whole);
            problem_free(&p);
        }
        if (d)
            device_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_rows_alone),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
