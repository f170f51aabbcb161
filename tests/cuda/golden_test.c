/* golden_test.c - whole golden checkpoints on the CUDA device (emulated, or the chip) against transformers' numbers:
 * the graph of lib/model over every inference operation, without a cache and through it. */
#include "unit/model_testing.h"

#include "cuda/cuda_test.h"

static struct opened open_model(const char *name, bool bf16)
{
    struct err e = { "" };
    struct opened o = { .d = open_device_under_test(bf16) };
    char path[512];
    snprintf(o.name, sizeof o.name, "%s on %s", name, o.d->numerics);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    assert_ok(model_open(&o.m, path, o.d, &e));
    snprintf(path, sizeof path, "tests/golden/models/%s/golden/logits.safetensors", name);
    assert_ok(safetensors_open(&o.golden, path, &e));
    return o;
}

static float *through_cache(const struct opened *o, const int32_t *ids, int n, int first)
{
    struct sequence s;
    int vocab = model_config(o->m)->vocab;
    float *all = xcalloc((size_t)n * (size_t)vocab, sizeof *all);
    sequence_open(&s, o, n, model_rope_offset(o->m, n));
    while (s.n < n) {
        int from = s.n, size = from == 0 ? first : 1;
        float *piece = feed(&s, ids + from, size);
        memcpy(all + (size_t)from * (size_t)vocab, piece, (size_t)size * (size_t)vocab * sizeof *all);
        free(piece);
    }
    sequence_close(&s);
    return all;
}

/* The longest of three inputs: without a cache; through pages, a part of it token by token. */
static void check_opened(struct opened o, bool bf16, double tolerance)
{
    int n;
    int32_t *ids = golden_ids(o.golden, "ids.2", &n);
    float *got = varlen_logits(&o, ids, (int32_t[]){ n }, 1);
    compare(o.name, "logits.2", got, safetensors_find(o.golden, "logits.2"), tolerance);
    if (!model_config(o.m)->encoder) {
        float *pieces = through_cache(&o, ids, n, n / 2), *whole = bf16 ? through_cache(&o, ids, n, n) : got;
        compare(o.name, "logits.2", pieces, safetensors_find(o.golden, "logits.2"), tolerance);
        /* a pass without a cache sums bf16 products in another order than one through it */
        if (!real_device() && memcmp(pieces, whole, (size_t)n * (size_t)model_config(o.m)->vocab * sizeof *got) != 0)
            fail_msg("%s: through the cache in pieces the logits have other bits", o.name);
        if (bf16)
            free(whole);
        free(pieces);
    }
    free(got);
    free(ids);
    close_golden(&o);
}

static void check_logits(const char *name, bool bf16, double tolerance)
{
    check_opened(open_model(name, bf16), bf16, tolerance);
}

static void test_decoders(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        check_logits(golden_decoders[i], false,
                     strcmp(golden_decoders[i], "qwen3-bf16") == 0   ? 3e-2
                     : strcmp(golden_decoders[i], "llama-fp16") == 0 ? 1e-2
                                                                     : 1e-4);
}

static void test_encoders(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    check_logits("xlmr", false, 1e-4);
    check_logits("bert", false, 1e-4);
}

/* What a batch decides of the order of sums is within what their rounding is allowed to be. */
static void test_any_order(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    static const char *const names[] = { "qwen3", "qwen3", "qwen3-bf16", "xlmr" };
    static const bool bf16[] = { false, true, true, true };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = { "" };
        struct opened o = open_model(names[i], bf16[i]);
        uint64_t before = products_in_any_order();
        assert_ok(device_use_any_order(o.d, &e));
        check_opened(o, bf16[i], bf16[i] ? 3e-2 : 1e-4);
        if (!real_device())
            assert_true(products_in_any_order() > before);
    }
}

/* The device's normal way: heads of 8 without a cache, of 16 with one too, go through the tensor cores' kernels. */
static void test_bf16_way(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    check_logits("qwen3", true, 3e-2);
    check_logits("qwen3-bf16", true, 3e-2);
    check_logits("llama3-tied", true, 3e-2);
    check_logits("phi3", true, 3e-2);
    check_logits("xlmr", true, 3e-2);
    check_logits("bert", true, 3e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_encoders),
        cmocka_unit_test(test_bf16_way),
        cmocka_unit_test(test_any_order),
    };
    watch_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
