/* keep_test.c - what training keeps for the way back, in the type of the device: each operation that takes or makes it
 * against the oracle on the same numbers, and passes of a model. */
#include "cuda/train_check.h"
#include "train/memory.h"
#include "train/optimizer.h"
#include "unit/train_golden.h"

/* Random numbers that bf16 holds. */
static float *kept_floats(struct source *s, int64_t n, float scale)
{
    float *v = random_floats(s, n, scale);
    round_to_bf16(v, n);
    return v;
}

/* A tensor of them as d keeps them, or in F32. */
static struct tensor *kept_tensor(struct device *d, struct source *s, int64_t rows, int64_t cols, float scale)
{
    float *v = kept_floats(s, rows * cols, scale);
    struct tensor *t = narrowed(d, d->keep_dtype, rows, cols, v);
    free(v);
    return t;
}

static struct tensor *exact_tensor(struct device *d, struct source *s, int64_t rows, int64_t cols, float scale)
{
    float *v = kept_floats(s, rows * cols, scale);
    struct tensor *t = floats_of(d, rows, cols, v);
    free(v);
    return t;
}

static struct tensor *room_to_keep(struct device *d, int64_t rows, int64_t cols)
{
    return tensor_of(d, d->keep_dtype, rows, cols, NULL);
}

static void keep_kept(struct result *r, struct device *d, const struct tensor *t)
{
    int64_t n = d->tensor_rows(t) * d->tensor_cols(t);
    if (d->keep_dtype == DTYPE_F32) {
        keep(r, d, t);
        return;
    }
    uint16_t *v = back(d, t, sizeof *v);
    r->n[r->count] = n;
    r->out[r->count] = xcalloc((size_t)n + 1, sizeof(float));
    for (int64_t i = 0; i < n; i++)
        r->out[r->count][i] = bf16_float(v[i]);
    r->count++;
    free(v);
}

static void free_all(struct device *d, struct tensor **t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        d->tensor_free(d, t[i]);
}

#define FREE_ALL(d, ...)                                                                                               \
    free_all(d, (struct tensor *[]){ __VA_ARGS__ }, sizeof(struct tensor *[]){ __VA_ARGS__ } / sizeof(struct tensor *))

/* ---- problems ---- */

static void run_kept_norm(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(21);
    struct tensor *x = exact_tensor(d, &s, p->rows, p->n, 2), *kept = room_to_keep(d, p->rows, p->n);
    struct tensor *g = random_tensor(d, &s, 1, p->n, 1), *y = room_to_keep(d, p->rows, p->n);
    struct tensor *again = room_to_keep(d, p->rows, p->n), *wide = floats_of(d, p->rows, p->n, NULL);
    d->rmsnorm(d, y, x, g, 1e-5f, p->rows, p->n);
    d->copy(d, kept, x, (int64_t)p->rows * p->n);
    d->rmsnorm(d, again, kept, g, 1e-5f, p->rows, p->n);
    d->copy(d, wide, kept, (int64_t)p->rows * p->n);
    keep_kept(r, d, y);
    keep_kept(r, d, kept);
    keep_kept(r, d, again);
    keep(r, d, wide);
    FREE_ALL(d, x, kept, g, y, again, wide);
}

static void run_kept_norm_back(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(22);
    struct tensor *x = kept_tensor(d, &s, p->rows, p->n, 2), *dy = random_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *g = random_tensor(d, &s, 1, p->n, 1), *dx = random_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dg = random_tensor(d, &s, 1, p->n, 1);
    d->rmsnorm_backward(d, dx, dg, dy, x, g, 1e-5f, p->rows, p->n);
    keep(r, d, dx);
    keep(r, d, dg);
    FREE_ALL(d, x, dy, g, dx, dg);
}

static void run_kept_gate(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(23);
    struct tensor *x = kept_tensor(d, &s, p->rows, 2 * p->n, 6), *y = room_to_keep(d, p->rows, p->n);
    d->silu_mul(d, y, x, p->rows, p->n);
    keep_kept(r, d, y);
    FREE_ALL(d, x, y);
}

static void run_kept_gate_back(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(23);
    struct tensor *x = kept_tensor(d, &s, p->rows, 2 * p->n, 6), *dy = random_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dx = room_to_keep(d, p->rows, 2 * p->n);
    d->silu_mul_backward(d, dx, dy, x, p->rows, p->n);
    keep_kept(r, d, dx);
    FREE_ALL(d, x, dy, dx);
}

/* n: half a head; k: all of it turns, and there are norms, or neither */
static struct rope_args rope_problem(struct device *d, struct source *s, const struct problem *p)
{
    int hd = 2 * p->n, rotary = p->k ? hd : 2 * (p->n / 2);
    float *angle = random_floats(s, 16 * (rotary / 2) + 1, 3), *cs = xcalloc((size_t)(16 * rotary + 2), sizeof *cs);
    int32_t *row = xcalloc((size_t)p->rows, sizeof *row);
    for (int i = 0; i < 16 * (rotary / 2); i++) {
        cs[i] = cosf(angle[i]);
        angle[i] = sinf(angle[i]);
    }
    for (int i = 0; i < p->rows; i++)
        row[i] = next_int(s, 16);
    struct rope_args a = { .q_norm = p->k ? random_tensor(d, s, 1, hd, 1) : NULL,
                           .k_norm = p->k ? random_tensor(d, s, 1, hd, 1) : NULL,
                           .eps = 1e-5f,
                           .cos = floats_of(d, 16, rotary / 2, cs),
                           .sin = floats_of(d, 16, rotary / 2, angle),
                           .table_row = ints_of(d, 1, p->rows, row),
                           .rows = p->rows,
                           .heads = 3,
                           .kv_heads = 1,
                           .head_dim = hd,
                           .rotary = rotary };
    free(angle);
    free(cs);
    free(row);
    return a;
}

static void free_rope(struct device *d, const struct rope_args *a)
{
    const struct tensor *v[] = { a->q_norm, a->k_norm, a->cos, a->sin, a->table_row };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        d->tensor_free(d, (struct tensor *)(uintptr_t)v[i]);
}

static void run_kept_rope(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(24);
    struct rope_args a = rope_problem(d, &s, p);
    int width = 5 * a.head_dim;
    struct tensor *from = kept_tensor(d, &s, p->rows, width, 1), *wide = floats_of(d, p->rows, width, NULL);
    struct tensor *to = room_to_keep(d, p->rows, width), *floats = floats_of(d, p->rows, width, NULL);
    struct tensor *also = room_to_keep(d, p->rows, width);
    d->copy(d, floats, from, (int64_t)p->rows * width);
    a.qkv = to;
    a.from = from;
    d->rope(d, &a);
    a.qkv = also;
    a.from = floats;
    d->rope(d, &a);
    a.qkv = wide;
    d->rope(d, &a);
    keep_kept(r, d, to);
    keep_kept(r, d, also);
    keep(r, d, wide);
    free_rope(d, &a);
    FREE_ALL(d, from, wide, to, floats, also);
}

static void run_kept_rope_back(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(25);
    struct rope_args a = rope_problem(d, &s, p);
    int hd = a.head_dim;
    struct tensor *raw = kept_tensor(d, &s, p->rows, 5 * hd, 1), *dqkv = random_tensor(d, &s, p->rows, 5 * hd, 1);
    struct tensor *dq = random_tensor(d, &s, 1, hd, 1), *dk = random_tensor(d, &s, 1, hd, 1);
    d->rope_backward(d, &a, dqkv, raw, dq, dk);
    keep(r, d, dqkv);
    keep(r, d, dq);
    keep(r, d, dk);
    free_rope(d, &a);
    FREE_ALL(d, raw, dqkv, dq, dk);
}

/* A product of what is kept, kept itself; more added to it, with a bias; the gradient of the matrix. Odd sizes and such
 * as the chip multiplies fast. */
static void run_kept_linear(struct device *d, const struct problem *p, struct result *r)
{
    struct err e = { "" };
    struct source s = source_of(26);
    float *v = kept_floats(&s, (int64_t)p->n * p->k, 1);
    struct weight_part part = { v, DTYPE_F32, p->n };
    struct weight *w;
    assert_ok(d->weight_new(d, &w, &part, 1, p->k, "test", &e));
    struct tensor *x = kept_tensor(d, &s, p->rows, p->k, 1), *floats = exact_tensor(d, &s, p->rows, p->k, 1);
    struct tensor *bias = random_tensor(d, &s, 1, p->n, 3), *dy = kept_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dx = random_tensor(d, &s, p->rows, p->k, 1), *db = random_tensor(d, &s, 1, p->n, 1);
    struct tensor *y = room_to_keep(d, p->rows, p->n), *z = kept_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dw = random_tensor(d, &s, p->n, p->k, 1);
    d->hold(d, x, (int64_t)p->rows * p->k);
    d->linear(d, y, x, w, NULL, p->rows, false);
    d->let_go(d, x);
    d->linear(d, z, floats, w, bias, p->rows, true);
    d->linear_dx(d, dx, dy, w, p->rows, true);
    d->linear_dw(d, dw, db, dy, x, p->rows, p->n, p->k);
    keep_kept(r, d, y);
    keep_kept(r, d, z);
    keep(r, d, dw);
    keep(r, d, dx);
    keep(r, d, db);
    FREE_ALL(d, x, floats, bias, dy, y, z, dw, dx, db);
    d->weight_free(d, w);
    free(v);
}

/* rows: head_dim; n: window; k: whole sequences */
static void run_kept_attention(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(27);
    int hd = p->rows, rows = FOUR_ROWS, width = 8 * hd;
    struct tensor *qkv = kept_tensor(d, &s, rows, width, 1), *dout = exact_tensor(d, &s, rows, 4 * hd, 1);
    struct tensor *out = room_to_keep(d, rows, 4 * hd), *lse = floats_of(d, rows, 4, NULL);
    struct tensor *dqkv = floats_of(d, rows, width, NULL), *b = ints_of(d, 1, 5, four_begin);
    struct attend_varlen_args a = four_sequences(p, out, qkv, b);
    d->attend_varlen_keep(d, &a, lse);
    d->attend_varlen_backward(d, &a, dqkv, dout, lse);
    keep_kept(r, d, out);
    keep(r, d, lse);
    keep(r, d, dqkv);
    FREE_ALL(d, qkv, dout, out, lse, dqkv, b);
}

/* ---- checks: kept results are rounded to bf16, others come of the same numbers ---- */

static const int sizes[] = { 1, 7, 8, 9, 32, 33 };
enum { SIZES = sizeof sizes / sizeof *sizes };
static const double half_a_step = 1.0 / 256; /* of bf16: what rounding may change */

static void rows(struct device *d, struct device *o)
{
    for (int i = 0; i < SIZES; i++) {
        struct problem p = { "rows", sizes[i], sizes[(i * 3 + 4) % SIZES], i % 2 };
        compare(d, o, run_kept_norm, &p, 1e-5, half_a_step);
        compare(d, o, run_kept_gate, &p, 1e-5, half_a_step);
        compare(d, o, run_kept_rope, &p, 1e-4, half_a_step);
        compare(d, o, run_kept_norm_back, &p, 3e-4, 3e-4);
        compare(d, o, run_kept_gate_back, &p, 1e-5, half_a_step);
        compare(d, o, run_kept_rope_back, &p, 3e-4, 3e-4);
    }
    compare(d, o, run_kept_norm, &(struct problem){ "wide", 2, 4099, 0 }, 1e-5, half_a_step);
    compare(d, o, run_kept_norm, &(struct problem){ "wide", 2, 4610, 0 }, 1e-5, half_a_step);
    compare(d, o, run_kept_norm_back, &(struct problem){ "wide", 2, 1025, 0 }, 3e-4, 3e-4);
    compare(d, o, run_kept_gate, &(struct problem){ "wide", 2, 2056, 0 }, 1e-5, half_a_step);
    compare(d, o, run_kept_gate_back, &(struct problem){ "wide", 2, 2056, 0 }, 1e-5, half_a_step);
    compare(d, o, run_kept_rope, &(struct problem){ "heads of 128", 3, 64, 1 }, 1e-4, half_a_step);
}

/* Sums that were rounded before more was added to them: of their size then. */
static void products(struct device *d, struct device *o)
{
    double tol = d->keep_dtype == DTYPE_F32 ? 1e-4 : 0.05;
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < SIZES; j++)
            compare(d, o, run_kept_linear,
                    &(struct problem){ "linear", sizes[i], sizes[j], sizes[(i + j + 3) % SIZES] }, tol,
                    3 * half_a_step);
    compare(d, o, run_kept_linear, &(struct problem){ "linear", 130, 64, 128 }, 0.1, 3 * half_a_step);
}

/* Heads for the tensor cores, and such as have none. */
static void attention(struct device *d, struct device *o)
{
    static const int heads[] = { 16, 33, 64 };
    double tol = d->keep_dtype == DTYPE_F32 ? 1e-4 : 0.05;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        compare(d, o, run_kept_attention, &(struct problem){ "causal", heads[i], 0, 0 }, tol, tol);
        compare(d, o, run_kept_attention, &(struct problem){ "window", heads[i], 5, 0 }, tol, tol);
        compare(d, o, run_kept_attention, &(struct problem){ "whole", heads[i], 0, 1 }, tol, tol);
    }
}

/* ---- a model's passes ---- */

static float *gradients(const char *family, bool lora, bool recompute, int64_t *n)
{
    struct err e = { "" };
    struct device *d = open_device_under_test(true);
    struct model *m;
    struct trainable *t;
    struct row rows_of[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    double loss;
    int32_t from;
    assert_ok(model_open(&m, model_of(family, &from), d, &e));
    struct trainable_options o = { .lora = lora ? &golden_lora : NULL, .max_rows = MAX_ROWS, .recompute = recompute };
    assert_ok(trainable_open(&t, m, &o, &e));
    read_rows(family, rows_of);
    pack(p, rows_of, first_three, 3, false);
    assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
    float *all = NULL;
    *n = 0;
    for (size_t i = 0; i < trainable_params(t); i++) {
        const struct param *q = trainable_param(t, i);
        all = xreallocarray(all, (size_t)(*n + q->rows * q->cols), sizeof *all);
        assert_ok(d->tensor_read(d, q->grad, 0, all + *n, (size_t)(q->rows * q->cols), &e));
        *n += q->rows * q->cols;
    }
    trainable_close(t);
    model_close(m);
    device_close(d);
    free_rows(rows_of);
    free(p);
    return all;
}

/* --recompute is a matter of memory: not a bit may change, though the stream that a layer begins with is kept rounded.
 */
static void test_recomputed(void **state)
{
    static const char *const families[] = { "qwen3", "qwen2" };
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (int i = 0; i < 4; i++) {
        int64_t n, m;
        float *kept = gradients(families[i / 2], i % 2, false, &n),
              *again = gradients(families[i / 2], i % 2, true, &m);
        assert_int_equal(n, m);
        assert_memory_equal(kept, again, (size_t)n * sizeof *kept);
        free(kept);
        free(again);
    }
}

/* Memory by the true shapes, of which nothing is made. */
static struct model *blank(struct device *d, const char *config)
{
    struct err e = { "" };
    struct model *m;
    char path[4200];
    snprintf(path, sizeof path, "%s/config.json", test_tmpdir());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(config, f);
    fclose(f);
    assert_ok(model_open_blank(&m, test_tmpdir(), d, &e));
    return m;
}

#define QWEN3_4B(vocabulary)                                                                                           \
    "{\"model_type\": \"qwen3\", \"hidden_size\": 2560, \"intermediate_size\": 9728, \"num_hidden_layers\": 36,"       \
    " \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"head_dim\": 128, \"vocab_size\": " vocabulary         \
    ", \"max_position_embeddings\": 262144, \"tie_word_embeddings\": true}"
static const char qwen3_4b[] = QWEN3_4B("151936"), dual_4b[] = QWEN3_4B("303872");

/* What a run of these options will take on the device as it is planned, in GB. */
static double planned(struct device *d, const char *config, const struct trainable_options *o, const char *what)
{
    struct model *m = blank(d, config);
    struct memory_plan p;
    memory_plan(&p, m, o);
    double gb = 1e-9 * (double)p.total;
    print_message("# %s: weights %.1f, state %.1f, a pass of %d rows %.1f, together %.1f GB\n", what,
                  1e-9 * (double)p.weights, 1e-9 * (double)p.state, p.rows, 1e-9 * (double)p.activations, gb);
    model_close(m);
    return gb;
}

static void test_plans(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    struct device *d = open_device_under_test(true);
    static const struct lora_options lora = { .rank = 8, .alpha = 16 },
                                     dropped = { .rank = 8, .alpha = 16, .dropout = 0.05 };
    const struct trainable_options full = { .max_rows = 16384 };
    assert_true(planned(d, qwen3_4b, &full, "full, 4B") <= 125);
    assert_true(planned(d, dual_4b, &full, "full, 4B with two vocabularies") <= 125);
    assert_true(planned(d, qwen3_4b, &(struct trainable_options){ .lora = &lora, .max_rows = 22400 }, "LoRA") <= 75);
    assert_true(planned(d, qwen3_4b, &(struct trainable_options){ .lora = &lora, .max_rows = 45000 }, "LoRA") <= 139);
    assert_true(planned(d, qwen3_4b, &(struct trainable_options){ .lora = &dropped, .max_rows = 45000 },
                        "LoRA with dropout") <= 143);
    assert_true(planned(d, dual_4b,
                        &(struct trainable_options){ .lora = &lora, .rows_from = 151936, .max_rows = 40000 },
                        "LoRA and the latent rows") <= 139);
    device_close(d);
}

#ifndef NO_EMULATION
/* The plan against what is taken, after a pass of all rows and a step. */
static void plan_against(const char *family, const struct trainable_options *options, bool bf16)
{
    struct err e = { "" };
    struct device *d = open_device_under_test(bf16);
    struct model *m;
    struct trainable *t;
    struct optimizer opt;
    struct row rows_of[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    struct trainable_options o = *options;
    struct memory_plan plan;
    double loss;
    int32_t from;
    size_t before = emu_in_use();
    assert_ok(model_open(&m, model_of(family, &from), d, &e));
    read_rows(family, rows_of);
    pack(p, rows_of, (const int[]){ 0, 1, 2, 3, 4, 5, 6, 7 }, 8, model_config(m)->encoder);
    for (int i = 0; i < p->b.rows; i++) /* all of them are learnt */
        p->target[i] = p->ids[i] % (model_config(m)->encoder ? 2 : 500);
    o.max_rows = p->b.rows;
    o.rows_from = o.lora ? from : 0;
    memory_plan(&plan, m, &o);
    assert_ok(trainable_open(&t, m, &o, &e));
    assert_ok(optimizer_open(&opt, t, d, 0, 1, &e));
    assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
    double taken = (double)(emu_in_use() - before), said = (double)(plan.weights + plan.state + plan.activations);
    print_message("# %s%s%s on %s: planned %.0f, taken %.0f: %+.1f %%\n", family, o.lora ? ", LoRA" : "",
                  o.recompute ? ", recomputed" : "", d->numerics, said, taken, 100 * (said / taken - 1));
    assert_true(fabs(said / taken - 1) < 0.05);
    optimizer_close(&opt);
    trainable_close(t);
    model_close(m);
    device_close(d);
    free_rows(rows_of);
    free(p);
}

static void test_plan_is_taken(void **state)
{
    (void)state;
    static const struct lora_options dropped = { .rank = 4, .alpha = 8, .dropout = 0.1 };
    SKIP_WITHOUT_EMULATION("the emulation counts what is taken");
    plan_against("qwen3", &(struct trainable_options){ .lora = NULL }, true);
    plan_against("qwen3", &(struct trainable_options){ .recompute = true }, true);
    plan_against("llama3", &(struct trainable_options){ .lora = &golden_lora }, true);
    plan_against("phi3", &(struct trainable_options){ .lora = &dropped }, true);
    plan_against("dual-tied", &(struct trainable_options){ .lora = &golden_lora }, true);
    plan_against("xlmr", &(struct trainable_options){ .lora = NULL }, true);
    plan_against("qwen3", &(struct trainable_options){ .lora = NULL }, false);
}
#endif

static void test_bytes_of_a_token(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct device *d = open_device_under_test(bf16);
        struct model *m = blank(d, qwen3_4b);
        int64_t kept = trainable_kept_bytes(m);
        print_message("# Qwen3-4B keeps %lld bytes a token on %s\n", (long long)kept, d->numerics);
        assert_true(kept <= (bf16 ? 2600000 : 5200000));
        model_close(m);
        device_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(rows),
        CHECK_BF16(rows),
        CHECK(products),
        CHECK_BF16(products),
        CHECK(attention),
        CHECK_BF16(attention),
        cmocka_unit_test(test_recomputed),
        cmocka_unit_test(test_bytes_of_a_token),
        cmocka_unit_test(test_plans),
#ifndef NO_EMULATION
        cmocka_unit_test(test_plan_is_taken),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
