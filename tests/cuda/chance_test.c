/* chance_test.c - weights rounded to bf16 by chance: exactly what the draws say, without bias, and the same however a
 * training came to its step. On the CUDA device (emulated, or the chip). */
#include <float.h>

#include "cuda/cuda_test.h"
#include "train/checkpoint.h"
#include "unit/train_golden.h"

static const struct rng draws = { { 1, 2 }, { 3, 4 } };

/* values as [rows, n / rows], rounded by chance; the caller frees what the device multiplies by. */
static float *rounded(struct device *d, const float *values, int rows, int n, const struct rng *r)
{
    struct err e = { "" };
    struct weight *w;
    struct tensor *t = floats_of(d, rows, n / rows, values), *y = floats_of(d, rows, n / rows, NULL);
    int32_t *all = xcalloc((size_t)rows, sizeof *all);
    for (int i = 0; i < rows; i++)
        all[i] = i;
    struct tensor *ids = ints_of(d, 1, rows, all);
    assert_ok(d->weight_from_tensor(d, &w, t, "test", &e));
    d->weight_refresh(d, w, t, r->key, r->stream);
    d->embed(d, y, w, ids, rows);
    float *out = back(d, y, sizeof *out);
    struct tensor *made[] = { t, y, ids };
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        d->tensor_free(d, made[i]);
    d->weight_free(d, w);
    free(all);
    return out;
}

/* From the definition: of the two neighbours the one behind x when what lies between x and the nearer to 0, in 65536ths
 * of their distance, makes a whole one with the draw. */
static float by_definition(float x, const struct rng *r, uint64_t i)
{
    uint32_t block[4], bits;
    if (!isfinite(x))
        return x;
    rng_block(r, i / 8, block);
    memcpy(&bits, &x, 4);
    float a = bf16_float((uint16_t)(bits >> 16)), b = bf16_float((uint16_t)((bits >> 16) + 1));
    double step = isinf(b) ? 0x1p120 : fabs((double)b - a), draw = block[i % 8 / 2] >> 16 * (i % 2) & 0xffff;
    return fabs((double)x - a) / step * 65536 + draw >= 65536 ? b : a;
}

static void same_bits(const char *what, const float *got, const float *want, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            note_mismatch("%s: [%d] of %d: got %a want %a", what, i, n, (double)got[i], (double)want[i]);
}

static const float odd_ones[] = { 0,           -0.0f,      1,           -1.5f,  INFINITY,   -INFINITY,
                                  NAN,         FLT_MAX,    -FLT_MAX,    1e-40f, -0x1p-149f, 0x1p-133f,
                                  1.00390625f, 1.0000001f, 0x1.fep127f, 1e30f,  -3e-30f };
enum { ODD = sizeof odd_ones / sizeof *odd_ones };

static float *some_values(int n)
{
    struct source s = source_of(n);
    float *v = random_floats(&s, n, 3);
    for (int i = 0; i < n; i++)
        v[i] = i % 3 == 2 ? odd_ones[i / 3 % ODD] : ldexpf(v[i], i % 40 - 20);
    for (int i = 0; i + 1 < n; i += 100) { /* NaN that adding or cutting off would make a number of */
        memcpy(&v[i], &(uint32_t){ 0x7fffffff }, 4);
        memcpy(&v[i + 1], &(uint32_t){ 0xff800001 }, 4);
    }
    return v;
}

static void same_as_defined(struct device *d, struct device *o)
{
    static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 2055, 6000 };
    (void)o;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int n = sizes[k];
        float *v = some_values(n), *got = rounded(d, v, 1, n, &draws);
        for (int i = 0; i < n; i++) {
            float want = by_definition(v[i], &draws, (uint64_t)i);
            if (!(got[i] == want && !signbit(got[i]) == !signbit(want)) && !(isnan(got[i]) && isnan(want)))
                note_mismatch("%d elements, [%d] = %a: got %a want %a", n, i, (double)v[i], (double)got[i],
                              (double)want);
        }
        free(v);
        free(got);
    }
}

/* The shape of the matrix says nothing to an element, nor do those behind it. */
static void same_in_any_shape(struct device *d, struct device *o)
{
    enum { N = 2520 };
    (void)o;
    float *v = some_values(N), *want = rounded(d, v, 1, N, &draws);
    static const int rows[] = { 8, 9, 1260, N };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        float *got = rounded(d, v, rows[k], N, &draws), *first = rounded(d, v, 1, rows[k], &draws);
        same_bits("another shape", got, want, N);
        same_bits("the first ones", first, want, rows[k]);
        free(got);
        free(first);
    }
    free(v);
    free(want);
}

/* Each value in many places: only its neighbours come out, or itself where bf16 has it, and the mean lies within five
 * deviations of it. */
static void without_bias(struct device *d, struct device *o)
{
    enum { KINDS = 11, EACH = 4096 };
    static const float values[KINDS] = {
        1.001f,      -1.001f, 1.0039f, 0x1.01p-100f, -0x1.0002p77f, 0x1.00fffep0f, 0x1.000002p0f, 0x3p-149f,
        3.14159265f, -1.75f,  0
    };
    float *v = xcalloc((size_t)KINDS * EACH, sizeof *v);
    (void)o;
    for (int i = 0; i < KINDS * EACH; i++)
        v[i] = values[i % KINDS];
    float *got = rounded(d, v, 1, KINDS * EACH, &draws);
    for (int k = 0; k < KINDS; k++) {
        uint32_t u;
        memcpy(&u, &values[k], 4);
        double low = bf16_float((uint16_t)(u >> 16)), high = bf16_float((uint16_t)((u >> 16) + 1)), sum = 0;
        double p = (u & 0xffff) / 65536.0;
        for (int i = k; i < KINDS * EACH; i += KINDS) {
            double x = (double)got[i];
            if (x != low && (x != high || p == 0))
                note_mismatch("%a is rounded to %a, neighbours %a and %a", (double)values[k], x, low, high);
            sum += (x - low) / (high - low);
        }
        if (!(fabs(sum / EACH - p) <= 5 * sqrt(p * (1 - p) / EACH)))
            note_mismatch("%a: %g of the draws went up, expected %g", (double)values[k], sum / EACH, p);
    }
    free(v);
    free(got);
}

/* A device of floats has nothing to round, and says so. */
static void test_floats(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    struct device *d = open_device_under_test(false);
    float *v = some_values(100), *got = rounded(d, v, 1, 100, &draws);
    assert_int_equal(d->weight_dtype, DTYPE_F32);
    mismatch[0] = '\0';
    same_bits("floats", got, v, 100);
    assert_string_equal(mismatch, "");
    free(v);
    free(got);
    device_close(d);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    test_bf16 = true;
    expect_found(PLANT_LOCAL_DRAW, same_as_defined, "draws counted from the block's first element");
}

/* ---- training ---- */

/* A training of qwen3 in bf16, taken apart: as much of it as lies behind the checkpoint in `dir`. */
struct learning {
    struct device *d;
    struct model *m;
    struct trainable *t;
    struct optimizer o;
    struct checkpoint *c;
    struct packed pack;
};

static void begin(struct learning *l, const char *dir, bool lora, bool by_chance)
{
    struct err e = { "" };
    struct row rows[ROWS_IN_FILE];
    l->d = open_device_under_test(true);
    assert_int_equal(l->d->weight_dtype, DTYPE_BF16);
    assert_ok(model_open(&l->m, "tests/golden/models/qwen3", l->d, &e));
    assert_ok(trainable_open(
        &l->t, l->m,
        &(struct trainable_options){
            .lora = lora ? &golden_lora : NULL, .max_rows = MAX_ROWS, .seed = 5, .by_chance = by_chance },
        &e));
    assert_ok(optimizer_open(&l->o, l->t, l->d, 0.01, 1, &e));
    assert_ok(checkpoint_open(&l->c, dir, &e));
    assert_ok(checkpoint_load(l->c, &l->o, &e));
    read_rows("qwen3", rows);
    pack(&l->pack, rows, (const int[]){ 0 }, 1, false);
    free_rows(rows);
}

static void end(struct learning *l, bool remove)
{
    checkpoint_close(l->c, remove);
    optimizer_close(&l->o);
    trainable_close(l->t);
    model_close(l->m);
    device_close(l->d);
}

static float *first_logits(struct learning *l)
{
    struct err e = { "" };
    size_t n = (size_t)model_config(l->m)->vocab;
    float *v = xcalloc(n, sizeof *v);
    assert_ok(trainable_logits(l->t, &l->pack.b, 3, 1, v, &e));
    return v;
}

/* Steps up to `to`, then the loss of the next pass in *loss. look: with an evaluation between all of them. */
static void learn(struct learning *l, int64_t to, bool look, double *loss)
{
    struct err e = { "" };
    double norm;
    for (int64_t step = l->c->step; step < to; step++) {
        if (look)
            free(first_logits(l));
        assert_ok(trainable_pass(l->t, &l->pack.b, 1.0f / (float)l->pack.targets, loss, &e));
        assert_ok(optimizer_norm(&l->o, &norm, &e));
        optimizer_step(&l->o, step + 1, 1e-3, norm);
    }
    assert_ok(trainable_pass(l->t, &l->pack.b, 1.0f / (float)l->pack.targets, loss, &e));
    trainable_zero(l->t);
}

static float *all_values(struct learning *l, size_t *n)
{
    float *v = NULL;
    *n = 0;
    for (size_t i = 0; i < trainable_params(l->t); i++) {
        float *one = floats_back(l->d, trainable_param(l->t, i)->value);
        size_t count = (size_t)(trainable_param(l->t, i)->rows * trainable_param(l->t, i)->cols);
        v = xreallocarray(v, *n + count, sizeof *v);
        memcpy(v + *n, one, count * sizeof *v);
        *n += count;
        free(one);
    }
    return v;
}

static void resume(const char *dir, bool lora)
{
    struct err e = { "" };
    struct learning l;
    size_t n, m;
    double want_loss, loss, nearest_loss;
    begin(&l, dir, lora, true);
    learn(&l, 3, false, &want_loss);
    float *want = all_values(&l, &n);
    end(&l, true);

    begin(&l, dir, lora, true);
    learn(&l, 2, true, &loss);
    assert_ok(checkpoint_save(l.c, &l.o, 2, false, 0, &e));
    end(&l, false);

    begin(&l, dir, lora, true); /* killed, and goes on */
    learn(&l, 3, true, &loss);
    float *got = all_values(&l, &m);
    assert_int_equal(n, m);
    assert_memory_equal(got, want, n * sizeof *want);
    assert_true(loss == want_loss);
    float *judged = first_logits(&l);
    assert_ok(checkpoint_save(l.c, &l.o, 3, false, 0, &e));
    end(&l, false);

    begin(&l, dir, lora, false); /* the same values to nearest: another model, but not much of one */
    float *nearest = first_logits(&l);
    learn(&l, 3, false, &nearest_loss);
    assert_memory_not_equal(judged, nearest, (size_t)model_config(l.m)->vocab * sizeof *nearest);
    assert_true(nearest_loss != want_loss && fabs(nearest_loss - want_loss) < 0.05 * want_loss);
    end(&l, true);
    free(want);
    free(got);
    free(judged);
    free(nearest);
}

/* A tensor of the checkpoint in bf16, as it is written, against the numbers that the device multiplies by: rows
 * first .. first + rows - 1 of w, whose products with the rows of an identity they are. */
static void written(struct learning *l, const char *name, const struct weight *w, int first, int rows, int cols,
                    int all)
{
    struct err e = { "" };
    float *v, *one = xcalloc((size_t)(cols * cols), sizeof *one);
    int64_t n;
    for (int i = 0; i < cols; i++)
        one[i * cols + i] = 1;
    struct tensor *x = floats_of(l->d, cols, cols, one), *y = floats_of(l->d, cols, all, NULL);
    assert_ok(trainable_tensor(l->t, name, true, &v, &n, &e));
    assert_int_equal(n, rows * cols);
    uint16_t *bits = xcalloc((size_t)n, sizeof *bits);
    trainable_to_bf16(l->t, name, v, (size_t)n, bits);
    l->d->linear(l->d, y, x, w, NULL, cols, false);
    float *got = floats_back(l->d, y);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < cols; k++)
            if (!(bf16_float(bits[i * cols + k]) == got[k * all + first + i]))
                fail_msg("%s[%d][%d]: %a is written, %a multiplied", name, i, k, (double)bf16_float(bits[i * cols + k]),
                         (double)got[k * all + first + i]);
    l->d->tensor_free(l->d, x);
    l->d->tensor_free(l->d, y);
    free(one);
    free(v);
    free(bits);
    free(got);
}

static void test_written(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    char *dir = path_join(test_tmpdir(), "written");
    for (int by_chance = 0; by_chance < 2; by_chance++) {
        struct learning l;
        double loss;
        begin(&l, dir, false, by_chance);
        learn(&l, 1, false, &loss);
        const struct model_config *c = model_config(l.m);
        int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
        written(&l, "model.embed_tokens.weight", l.m->embed, 0, c->vocab, c->hidden, c->vocab);
        written(&l, "model.layers.0.self_attn.v_proj.weight", l.m->layer[0].qkv, q + kv, kv, c->hidden, q + 2 * kv);
        end(&l, true);
    }
    free(dir);
}

static void test_resumed(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    char *dir = path_join(test_tmpdir(), "checkpoint");
    resume(dir, false);
    resume(dir, true);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK_BF16(same_as_defined),    CHECK_BF16(same_in_any_shape),  CHECK_BF16(without_bias),
        cmocka_unit_test(test_floats),  cmocka_unit_test(test_planted), cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
