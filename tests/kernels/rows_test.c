/* rows_test.c - norms, gates, rotation, embeddings and log-probabilities against the oracle, at every awkward width;
 * and rows in a batch against the same rows alone. */
#include "kernels/kernel_test.h"

static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025 };
enum { SIZES = sizeof sizes / sizeof *sizes };

/* One call of one operation: makes its tensors from the same numbers on whatever device, and returns the result. */
enum op { RMSNORM, LAYERNORM, SILU_MUL, GELU, ADD, GATHER, EMBED, ADD_ROW, LOGPROB, ENTROPY, OPS };
static const char *const op_name[] = { "rmsnorm", "layernorm", "silu_mul", "gelu",    "add",
                                       "gather",  "embed",     "add_row",  "logprob", "entropy" };

struct inputs {
    int rows, cols;
    float *x, *y, *g, *b; /* x: [rows, 2 cols] */
    int32_t *index;       /* [rows], below rows */
};

static struct inputs inputs_of(int rows, int cols, float scale)
{
    struct source s = source_of((uint64_t)(rows * 5000 + cols));
    struct inputs in = { rows, cols, NULL, NULL, NULL, NULL, NULL };
    in.x = random_floats(&s, (int64_t)rows * cols * 2, scale);
    in.y = random_floats(&s, (int64_t)rows * cols, 1);
    in.g = random_floats(&s, cols, 1);
    in.b = random_floats(&s, cols, 1);
    in.index = xcalloc((size_t)rows, sizeof *in.index);
    for (int i = 0; i < rows; i++)
        in.index[i] = next_int(&s, rows < cols ? rows : cols);
    return in;
}

static void inputs_free(struct inputs *in)
{
    free(in->x);
    free(in->y);
    free(in->g);
    free(in->b);
    free(in->index);
}

static float *result(struct device *d, enum op op, const struct inputs *in, int first, int rows)
{
    int cols = in->cols;
    struct err e = { "" };
    struct tensor *x = floats_of(d, rows, cols, in->x + first * cols), *g = floats_of(d, 1, cols, in->g);
    struct tensor *x2 = floats_of(d, rows, 2 * cols, in->x + first * 2 * cols), *b = floats_of(d, 1, cols, in->b);
    struct tensor *y = floats_of(d, rows, cols, in->y + first * cols), *v = floats_of(d, rows, 1, NULL);
    struct tensor *h = floats_of(d, rows, 1, NULL), *all = floats_of(d, in->rows, cols, in->x);
    struct tensor *index = ints_of(d, rows, 1, in->index + first), *out = y;
    struct weight_part part = { in->x, DTYPE_F32, in->rows };
    struct weight *table = NULL;
    assert_ok(d->weight_new(d, &table, &part, 1, cols, "table", &e));
    switch (op) {
    case RMSNORM:
        d->rmsnorm(d, y, x, g, 1e-6f, rows, cols);
        break;
    case LAYERNORM:
        d->layernorm(d, y, x, g, b, 1e-5f, rows, cols);
        break;
    case SILU_MUL:
        d->silu_mul(d, y, x2, rows, cols);
        break;
    case GELU:
        d->gelu(d, y, x, (int64_t)rows * cols);
        break;
    case ADD:
        d->add(d, y, x, (int64_t)rows * cols);
        break;
    case GATHER:
        d->gather_rows(d, y, all, index, rows, cols);
        break;
    case EMBED:
        d->embed(d, y, table, index, rows);
        break;
    case ADD_ROW:
        d->add_row(d, y, table, index, rows);
        break;
    case LOGPROB:
    case ENTROPY:
        d->logprobs(d, v, h, NULL, x, index, rows, cols);
        out = op == LOGPROB ? v : h;
        break;
    case OPS:
        break;
    }
    float *r = floats_back(d, out);
    struct tensor *made[] = { x, g, x2, b, y, v, h, all, index };
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        d->tensor_free(d, made[i]);
    d->weight_free(d, table);
    return r;
}

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

static float *rotated(struct device *d, const struct rope_args *shape, bool norm, float **k_cache, float **v_cache)
{
    struct rope_args a = *shape;
    struct source s = source_of(77);
    int64_t kv = (int64_t)a.kv_heads * a.head_dim, width = a.heads * a.head_dim + 2 * kv;
    float *x = random_floats(&s, a.rows * width, 1), *g = random_floats(&s, 2 * a.head_dim, 1);
    int half = a.rotary / 2;
    float *cosine = xcalloc(64 * (size_t)half + 1, 4), *sine = xcalloc(64 * (size_t)half + 1, 4);
    for (int i = 0; i < 64 * half; i++) {
        cosine[i] = (float)cos(i * 0.37);
        sine[i] = (float)sin(i * 0.37);
    }
    int32_t at[64], to[64];
    for (int i = 0; i < a.rows; i++) {
        at[i] = next_int(&s, 64);
        to[i] = (i * 37 + 5) % 64;
    }
    struct tensor *t[] = { a.qkv = floats_of(d, a.rows, width, x),
                           floats_of(d, 1, a.head_dim, g),
                           floats_of(d, 1, a.head_dim, g + a.head_dim),
                           floats_of(d, 64, half, cosine),
                           floats_of(d, 64, half, sine),
                           ints_of(d, a.rows, 1, at),
                           ints_of(d, a.rows, 1, to),
                           a.k_cache = floats_of(d, 64, kv, NULL),
                           a.v_cache = floats_of(d, 64, kv, NULL) };
    a.q_norm = norm ? t[1] : NULL;
    a.k_norm = norm ? t[2] : NULL;
    a.cos = t[3];
    a.sin = t[4];
    a.table_row = t[5];
    a.cache_row = t[6];
    a.eps = 1e-6f;
    d->rope(d, &a);
    float *y = floats_back(d, a.qkv);
    *k_cache = floats_back(d, a.k_cache);
    *v_cache = floats_back(d, a.v_cache);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(x);
    free(g);
    free(cosine);
    free(sine);
    return y;
}

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
            float *k[2], *v[2];
            float *want = rotated(oracle, a, i % 2, &k[0], &v[0]), *got = rotated(d, a, i % 2, &k[1], &v[1]);
            int64_t kv = (int64_t)a->kv_heads * a->head_dim, n = a->rows * (a->heads * a->head_dim + 2 * kv);
            assert_close("rope", got, want, n, 1e-6, 2e-6);
            assert_close("k cache", k[1], k[0], 64 * kv, 1e-6, 2e-6);
            assert_close("v cache", v[1], v[0], 64 * kv, 0, 0);
            free(want);
            free(got);
            for (int j = 0; j < 2; j++) {
                free(k[j]);
                free(v[j]);
            }
        }
        device_close(d);
    }
    device_close(oracle);
}

/* ---- log-probabilities at the edges ---- */

static void test_logprob_edges(void **state)
{
    (void)state;
    struct err e = { "" };
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
        struct tensor *logits = floats_of(d, 4, 9, x[0]), *t = ints_of(d, 4, 1, target), *lp = floats_of(d, 4, 1, NULL);
        struct tensor *h = floats_of(d, 4, 1, NULL), *best = ints_of(d, 4, 1, NULL);
        d->logprobs(d, lp, h, best, logits, t, 4, 9);
        float *l = floats_back(d, lp), *entropy = floats_back(d, h);
        int32_t id[4];
        assert_ok(d->tensor_read(d, best, 0, id, 4, &e));
        assert_true(id[0] == 1 && id[1] == 1 && id[2] == 7 && id[3] == 8);
        assert_true(l[1] == 0 && entropy[1] == 0);
        assert_true(isnan(l[2]) && isnan(l[3]));
        assert_false(isnan(entropy[3]));
        struct tensor *made[] = { logits, t, lp, h, best };
        for (int i = 0; i < 5; i++)
            d->tensor_free(d, made[i]);
        free(l);
        free(entropy);
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
