/* model_train_test.c - losses, gradients and short trainings against torch and PEFT (tests/golden/train). */
#include "unit/train_golden.h"

static struct device *open_device(const char *name)
{
    struct err e = { "" };
    struct device *d;
    assert_ok(device_open(&d, name, 2, &e));
    return d;
}

static const char *const duals[] = { "dual-tied", "dual-untied" };
static const char *const families[] = { "qwen2", "qwen3", "llama3", "phi3", "xlmr", "bert" };

static void full_gradients_are_torchs(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        struct device *cpu = open_device("cpu"), *oracle = open_device("cpu-oracle");
        full_gradients(families[i], cpu, false, 0, 1e-4);
        full_gradients(families[i], cpu, true, 7, 1e-4); /* recomputed, and the head in small chunks */
        full_gradients(families[i], oracle, false, 16, 1e-4);
        device_close(cpu);
        device_close(oracle);
    }
}

static void lora_gradients_are_pefts(void **state)
{
    (void)state;
    struct device *d = open_device("cpu");
    for (int i = 0; i < 6; i++) {
        lora_gradients(i < 4 ? families[i] : duals[i - 4], d, 0, 1e-4);
        lora_gradients(i < 4 ? families[i] : duals[i - 4], d, 7, 1e-4);
    }
    device_close(d);
}

/* ---- rows that learn ---- */

static float *logits_of(struct trainable *t, const struct train_batch *b, size_t n)
{
    struct err e = { "" };
    float *v = xcalloc(n, sizeof *v);
    assert_ok(trainable_logits(t, b, 3, 7, v, &e));
    return v;
}

/* Splitting the matrices changes no bit of the logits; what a step changes are the rows from `from` on. */
static void latent_rows_learn_and_visible_rows_stay(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct err e = { "" };
        struct device *d;
        struct model *m;
        struct trainable *t;
        struct row rows[ROWS_IN_FILE];
        struct packed *p = xcalloc(1, sizeof *p);
        int32_t from;
        double loss;
        assert_ok(device_open(&d, "cpu", 2, &e));
        assert_ok(model_open(&m, model_of(duals[i], &from), d, &e));
        const struct model_config *c = model_config(m);
        struct trainable_options o = { .lora = &golden_lora, .max_rows = MAX_ROWS };
        read_rows(duals[i], rows);
        pack(p, rows, first_three, 3, false);
        assert_ok(trainable_open(&t, m, &o, &e));
        size_t n = 7 * (size_t)c->vocab;
        float *whole = logits_of(t, &p->b, n);
        trainable_close(t);
        o.rows_from = from;
        assert_ok(trainable_open(&t, m, &o, &e));
        float *split = logits_of(t, &p->b, n);
        assert_memory_equal(whole, split, n * sizeof *whole);
        assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
        for (size_t k = 0; k < trainable_params(t); k++) { /* a step of any optimizer */
            struct param *q = trainable_param(t, k);
            d->scale(d, q->grad, -1, q->rows * q->cols);
            d->add(d, q->value, q->grad, q->rows * q->cols);
        }
        trainable_refresh(t, 1);
        const char *const names[] = { "model.embed_tokens.weight", "lm_head.weight" };
        for (int k = 0; k < (c->tied ? 1 : 2); k++) {
            float *got;
            int64_t count;
            assert_ok(trainable_tensor(t, names[k], true, &got, &count, &e));
            const float *base = safetensors_find(m->st, names[k])->data;
            size_t visible = (size_t)from * (size_t)c->hidden;
            assert_int_equal(count, (int64_t)c->vocab * c->hidden);
            assert_memory_equal(got, base, visible * sizeof *got);
            assert_memory_not_equal(got + visible, base + visible, ((size_t)count - visible) * sizeof *got);
            free(got);
        }
        free(whole);
        free(split);
        trainable_close(t);
        model_close(m);
        device_close(d);
        free_rows(rows);
        free(p);
    }
    struct err e = { "" };
    struct device *d;
    struct model *m;
    struct trainable *t;
    assert_ok(device_open(&d, "cpu", 2, &e));
    assert_ok(model_open(&m, "tests/golden/models/xlmr", d, &e));
    struct trainable_options o = { .lora = &golden_lora, .max_rows = 8, .rows_from = 10 };
    assert_int_equal(trainable_open(&t, m, &o, &e), -1);
    assert_non_null(strstr(e.msg, "must be a decoder"));
    model_close(m);
    device_close(d);
}

static void twenty_full_steps_follow_torch(void **state)
{
    (void)state;
    struct device *d = open_device("cpu");
    for (int i = 0; i < 6; i++)
        golden_steps(families[i], d, NULL, "full_steps.jsonl", 20, 1e-3f, 0.01f, 1e-3);
    device_close(d);
}

static void twenty_lora_steps_follow_peft(void **state)
{
    (void)state;
    struct device *d = open_device("cpu");
    for (int i = 0; i < 6; i++)
        golden_steps(i < 4 ? families[i] : duals[i - 4], d, &golden_lora, "lora_steps.jsonl", 20, 1e-2f, 0, 1e-3);
    device_close(d);
}

/* ---- packed, apart, accumulated; threads ---- */

static float *all_grads(const char *family, int threads, bool apart, const struct lora_options *lora, int64_t *n)
{
    struct err e = { "" };
    struct device *d;
    struct model *m;
    struct trainable *t;
    struct row rows[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    char path[256];
    double loss;
    int targets;
    snprintf(path, sizeof path, "tests/golden/models/%s", family);
    assert_ok(device_open(&d, "cpu", threads, &e));
    assert_ok(model_open(&m, path, d, &e));
    bool encoder = model_config(m)->encoder;
    assert_ok(trainable_open(&t, m, &(struct trainable_options){ .lora = lora, .max_rows = MAX_ROWS, .seed = 3 }, &e));
    read_rows(family, rows);
    pack(p, rows, first_three, 3, encoder);
    targets = p->targets;
    for (int i = 0; i < (apart ? 3 : 1); i++) {
        if (apart)
            pack(p, rows, first_three + i, 1, encoder);
        assert_ok(trainable_pass(t, &p->b, 1.0f / (float)targets, &loss, &e));
    }
    *n = 0;
    for (size_t i = 0; i < trainable_params(t); i++)
        *n += trainable_param(t, i)->rows * trainable_param(t, i)->cols;
    float *all = xcalloc((size_t)*n, sizeof *all);
    int64_t at = 0;
    for (size_t i = 0; i < trainable_params(t); i++) {
        struct param *q = trainable_param(t, i);
        assert_ok(d->tensor_read(d, q->grad, 0, all + at, (size_t)(q->rows * q->cols), &e));
        at += q->rows * q->cols;
    }
    trainable_close(t);
    model_close(m);
    device_close(d);
    free_rows(rows);
    free(p);
    return all;
}

static void packing_and_threads_change_nothing(void **state)
{
    (void)state;
    const struct lora_options dropped = { .rank = 3, .alpha = 6, .dropout = 0.25, .targets = "q_proj,down_proj" };
    for (int i = 0; i < 6; i++) {
        int64_t n;
        float *one = all_grads(families[i], 1, false, NULL, &n), *two = all_grads(families[i], 2, false, NULL, &n);
        float *apart = all_grads(families[i], 1, true, NULL, &n);
        assert_memory_equal(one, two, (size_t)n * sizeof *one);
        assert_tensor(families[i], apart, one, n, 1e-6);
        free(one);
        free(two);
        free(apart);
    }
    int64_t n;
    float *one = all_grads("qwen3", 1, false, &dropped, &n), *two = all_grads("qwen3", 3, false, &dropped, &n);
    assert_memory_equal(one, two, (size_t)n * sizeof *one);
    free(one);
    free(two);
}

static void errors_are_said_before_time_is_lost(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d;
    struct model *m;
    struct trainable *t;
    struct lora_options none = { .rank = 4, .alpha = 8, .targets = "nothing_proj" };
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_ok(model_open(&m, "tests/golden/models/qwen2", d, &e));
    assert_int_equal(trainable_open(&t, m, &(struct trainable_options){ .lora = &none, .max_rows = 8 }, &e), -1);
    assert_non_null(strstr(e.msg, "nothing_proj"));
    struct trainable_options other = { .lora = &golden_lora,
                                       .adapter = "tests/golden/train/phi3/adapter",
                                       .max_rows = 8 };
    assert_int_equal(trainable_open(&t, m, &other, &e), -1);
    assert_non_null(strstr(e.msg, "adapter_model.safetensors"));
    struct lora_options rank = { .rank = 5, .alpha = 8, .targets = "all-linear" };
    other = (struct trainable_options){ .lora = &rank, .adapter = "tests/golden/train/qwen2/adapter", .max_rows = 8 };
    assert_int_equal(trainable_open(&t, m, &other, &e), -1);
    assert_non_null(strstr(e.msg, "of another model, rank, target or rows"));
    assert_ok(trainable_open(&t, m, &(struct trainable_options){ .lora = &golden_lora, .max_rows = 4 }, &e));
    int32_t ids[6] = { 1, 2, 3, 4, 5, 6 }, target[6] = { -1, 3, 4, 5, 6, -1 }, begin[2] = { 0, 6 };
    struct train_batch b = { .rows = 6, .nseq = 1, .ids = ids, .begin = begin, .target = target };
    double loss;
    assert_int_equal(trainable_pass(t, &b, 1, &loss, &e), -1);
    assert_non_null(strstr(e.msg, "larger than the 4"));
    trainable_close(t);
    model_close(m);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_gradients_are_torchs),
        cmocka_unit_test(lora_gradients_are_pefts),
        cmocka_unit_test(latent_rows_learn_and_visible_rows_stay),
        cmocka_unit_test(twenty_full_steps_follow_torch),
        cmocka_unit_test(twenty_lora_steps_follow_peft),
        cmocka_unit_test(packing_and_threads_change_nothing),
        cmocka_unit_test(errors_are_said_before_time_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
