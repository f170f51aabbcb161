/* train_test.c - the operations of training of the CUDA kernels against the oracle, and whole passes of golden
 * checkpoints on the CUDA device (emulated, or the chip) against torch and PEFT. */
#include "cuda/train_check.h"
#include "unit/train_golden.h"

enum { SIZES = 5 };
static const int sizes[SIZES] = { 1, 7, 8, 9, 33 };

static void products(struct device *d, struct device *o)
{
    double tol = test_bf16 ? 0.05 : 1e-4, of_130 = test_bf16 ? 0.1 : 1e-4;
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < SIZES; j++)
            compare(d, o, run_linear, &(struct problem){ "linear", sizes[i], sizes[j], sizes[(i + j + 3) % SIZES] },
                    tol, tol);
    compare(d, o, run_linear, &(struct problem){ "linear", 130, 3, 5 }, of_130, of_130); /* three pieces of rows */
}

static void rows_back(struct device *d, struct device *o)
{
    for (int i = 0; i < SIZES; i++) {
        struct problem p = { "rows", sizes[i], sizes[(i * 3 + 4) % SIZES], i % 2 };
        compare(d, o, run_norms, &p, 3e-4, 3e-4);
        compare(d, o, run_gates, &p, 1e-5, 1e-5);
        compare(d, o, run_rope, &p, 3e-4, 3e-4);
        compare(d, o, run_ends, &p, 2e-5, 2e-5);
    }
    compare(d, o, run_norms, &(struct problem){ "norms", 130, 31, 0 }, 3e-4, 3e-4);
    compare(d, o, run_gates, &(struct problem){ "gates", 2, 1025, 0 }, 1e-5, 1e-5); /* a full piece, and one more */
    compare(d, o, run_norms, &(struct problem){ "norms", 2, 1025, 0 }, 3e-4, 3e-4); /* a block a row */
    compare(d, o, run_ends, &(struct problem){ "ends", 2, 1025, 0 }, 2e-5, 2e-5);
    compare(d, o, run_ends, &(struct problem){ "ends", 300, 3, 0 }, 2e-5, 2e-5); /* an id's rows in two pieces */
    compare(d, o, run_adamw, &(struct problem){ "adamw", 3, 257, 0 }, 1e-5, 1e-5);
}

static void attention_back(struct device *d, struct device *o)
{
    static const int heads[] = { 1, 33 };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        compare(d, o, run_attention, &(struct problem){ "causal", heads[i], 0, 0 }, 1e-4, 1e-4);
        compare(d, o, run_attention, &(struct problem){ "window", heads[i], 5, 0 }, 1e-4, 1e-4);
        compare(d, o, run_attention, &(struct problem){ "whole", heads[i], 0, 1 }, 1e-4, 1e-4);
    }
}

/* Blocks, fills, scales, dropped elements, scattered rows: exact. */
static void run_moves(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(8);
    static const uint32_t key[] = { 1, 2 }, stream[] = { 3, 4 };
    int n = p->n;
    struct tensor *x = random_tensor(d, &s, 5, n, 1), *y = random_tensor(d, &s, 7, n + 2, 1);
    struct tensor *wide = random_tensor(d, &s, 9, n, 1), *dropped = random_tensor(d, &s, 5, n, 1);
    struct tensor *index = ints_of(d, 1, 5, (const int32_t[]){ 8, 0, 3, 1, 7 });
    const struct block_copy blocks[] = { { y, 1, 2, x, 1, 0, 4, n, -0.5f },
                                         { y, 6, 0, x, 0, 0, 1, n, 1 },
                                         { y, 0, n + 2, x, 0, 0, 4, 0, 1 } };
    d->copy_blocks(d, blocks, 3);
    d->scale(d, x, 3, 2 * (int64_t)n);
    d->scatter_rows(d, wide, x, index, 5, n);
    d->fill(d, x, 2.5f, n);
    d->dropout(d, dropped, 0.25f, key, stream, (UINT64_C(1) << 32) - 3, 5 * (int64_t)n);
    struct tensor *all[] = { x, y, wide, dropped, index };
    for (int i = 0; i < 4; i++)
        keep(r, d, all[i]);
    for (int i = 0; i < 5; i++)
        d->tensor_free(d, all[i]);
}

/* Two products of x and two of dy, held (then changed and held once more) or not: the same bits, and fewer passes that
 * round. */
static void products_of(struct device *d, bool held, struct result *r, uint64_t *launches)
{
    struct err e = { "" };
    struct source s = source_of(9);
    enum { ROWS = 9, N = 24, K = 17 };
    float *v = random_floats(&s, (int64_t)N * K, 1);
    struct weight_part part = { v, DTYPE_F32, N };
    struct weight *w;
    assert_ok(d->weight_new(d, &w, &part, 1, K, "test", &e));
    struct tensor *x = random_tensor(d, &s, ROWS, K, 1), *dy = random_tensor(d, &s, ROWS, N, 1);
    struct tensor *y = floats_of(d, ROWS, N, NULL), *dx = floats_of(d, ROWS, K, NULL);
    struct tensor *dw = floats_of(d, N, K, NULL), *all[] = { x, dy, y, dx, dw };
#ifndef NO_EMULATION
    uint64_t before = emu_launches();
#else
    (void)launches;
#endif
    for (int i = 0; i < 2; i++) {
        if (held) {
            d->hold(d, x, (int64_t)ROWS * K);
            d->hold(d, dy, (int64_t)ROWS * N);
        }
        d->linear(d, y, x, w, NULL, ROWS, true);
        d->linear_dx(d, dx, dy, w, ROWS, true);
        d->linear_dw(d, dw, NULL, dy, x, ROWS, N, K);
        if (held) {
            d->let_go(d, dy);
            d->let_go(d, x);
        }
        d->scale(d, x, -3, (int64_t)ROWS * K);
        d->scale(d, dy, 5, (int64_t)ROWS * N);
    }
#ifndef NO_EMULATION
    *launches = emu_launches() - before;
#endif
    for (int i = 2; i < 5; i++)
        keep(r, d, all[i]);
    for (int i = 0; i < 5; i++)
        d->tensor_free(d, all[i]);
    d->weight_free(d, w);
    free(v);
}

static void held(struct device *d, struct device *o)
{
    struct result got = { .count = 0 }, want = { .count = 0 };
    uint64_t fewer = 0, more = 0;
    (void)o;
    products_of(d, true, &got, &fewer);
    products_of(d, false, &want, &more);
    for (int i = 0; i < got.count; i++)
        same_floats("products of held tensors", got.out[i], want.out[i], want.n[i], 0, 0);
    if (!real_device() && more - fewer != 4)
        note_mismatch("held tensors save %d launches, not 4", (int)(more - fewer));
    result_release(&got);
    result_release(&want);
}

/* More tensors than a launch takes, and some of more than a block's piece: the bits of the CPU's fast path. */
static void optimizer(struct device *d, struct device *o)
{
    struct device *fast = open_path(cpu_best(), 1);
    (void)o;
    compare(d, fast, run_adamw, &(struct problem){ "adamw", 67, 1, 0 }, 0, 0);
    compare(d, fast, run_adamw, &(struct problem){ "adamw", 4, 2047, 0 }, 0, 0);
    device_close(fast);
}

/* Rows of a cache within the cache, and more blocks than a launch takes. */
static void moves_of_pages(struct device *d, struct device *o, enum dtype type)
{
    enum { ROWS = 128, COLS = 6 };
    uint16_t v[ROWS * COLS];
    struct block_copy b[ROWS];
    struct device *each[] = { d, o };
    uint8_t *got[2];
    for (int i = 0; i < ROWS * COLS; i++)
        v[i] = (uint16_t)(i * 0x101);
    for (int k = 0; k < 2; k++) {
        struct tensor *t = tensor_of(each[k], type, ROWS, COLS, v);
        for (int i = 0; i < ROWS; i++)
            b[i] = (struct block_copy){ t, i, 0, t, i / 2 * 2 + 1, 0, i % 2 == 0, COLS - i % 3, 1 };
        each[k]->copy_blocks(each[k], b, ROWS);
        got[k] = back(each[k], t, dtype_size(type));
        each[k]->tensor_free(each[k], t);
    }
    for (size_t i = 0; i < ROWS * COLS * dtype_size(type); i++)
        if (got[0][i] != got[1][i])
            note_mismatch("byte %zu of copied pages: got %d want %d", i, got[0][i], got[1][i]);
    free(got[0]);
    free(got[1]);
}

static void moves(struct device *d, struct device *o)
{
    moves_of_pages(d, o, DTYPE_BF16);
    moves_of_pages(d, o, DTYPE_U8);
    for (int i = 0; i < SIZES; i++)
        compare(d, o, run_moves, &(struct problem){ "moves", 5, sizes[i], 0 }, 0, 0);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    test_bf16 = false;
    expect_found(PLANT_PIECE, products, "the last row of a piece is not summed");
    expect_found(PLANT_REPEATED_ID, rows_back, "a repeated id is added twice");
    expect_found(PLANT_UNSEEN_ROW, attention_back, "a key misses its own row");
    expect_found(PLANT_PIECE, optimizer, "the last element of a tensor stays as it is");
    test_bf16 = true;
    expect_found(PLANT_HELD_ON, held, "what was rounded before is taken once more");
}

/* Torch's and PEFT's losses, gradients and first steps: in float as the CPU has them; in bf16 near. */
static void test_golden(void **state)
{
    (void)state;
    static const char *const families[] = { "qwen3", "phi3", "xlmr" };
    SKIP_WITHOUT_DEVICE();
    for (int i = 0; i < 3; i++) {
        struct device *d = open_device_under_test(false);
        full_gradients(families[i], d, i == 1, i == 1 ? 7 : 0, 1e-4);
        if (i < 2)
            lora_gradients(families[i], d, 0, 1e-4);
        device_close(d);
    }
    struct device *d = open_device_under_test(false);
    golden_steps("qwen3", d, NULL, "full_steps.jsonl", real_device() ? 20 : 2, 1e-3f, 0.01f, 1e-3);
    golden_steps("llama3", d, &golden_lora, "lora_steps.jsonl", real_device() ? 20 : 2, 1e-2f, 0, 1e-3);
    device_close(d);
    d = open_device_under_test(true);
    full_gradients("qwen3", d, false, 0,
                   7e-2);                      /* the largest error of a gradient of 16 numbers; as a whole it is 4 % */
    full_gradients("phi3", d, false, 0, 5e-2); /* not xlmr: its key biases have gradient 0, but for the rounding */
    lora_gradients("qwen3", d, 0, 5e-2);
    device_close(d);
}

/* A pass may add as its rows suggest; logits for others to compare with, and whatever comes after, may not. */
static void test_order(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("only the emulation says in which order a product might be added");
    struct err e = { "" };
    struct device *d = open_device_under_test(true);
    struct model *m;
    struct trainable *t;
    assert_ok(model_open(&m, "tests/golden/models/qwen3", d, &e));
    assert_ok(trainable_open(&t, m, &(struct trainable_options){ .lora = &golden_lora, .max_rows = 8, .seed = 1 }, &e));
    static const int32_t ids[] = { 5, 6, 7, 8, 9 }, target[] = { 6, 7, 8, 9, -1 };
    struct train_batch b = { 5, 1, ids, (int32_t[]){ 0, 5 }, target, 0 };
    const struct model_config *c = model_config(m);
    float *logits = xcalloc((size_t)c->vocab, sizeof *logits);
    double loss;
    for (int scale = 0; scale <= 1; scale++) {
        uint64_t before = products_in_any_order();
        assert_ok(trainable_pass(t, &b, (float)scale, &loss, &e));
        assert_in_range(products_in_any_order() - before, 4 * c->layers + 1, 1000);
        before = products_in_any_order();
        assert_ok(trainable_logits(t, &b, 4, 1, logits, &e));
        assert_int_equal(products_in_any_order(), before);
    }
    free(logits);
    trainable_close(t);
    model_close(m);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(products),
        CHECK_BF16(products),
        CHECK_BF16(held),
        CHECK(rows_back),
        CHECK(moves),
        CHECK(optimizer),
        CHECK(attention_back),
        cmocka_unit_test(test_planted),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
