/* golden_test.c - whole golden checkpoints on the CUDA device (emulated, or the chip) against transformers' numbers:
 * the graph of lib/model over every inference operation, without a cache and through it. */
#include "unit/model_testing.h"

#include "cuda/cuda_test.h"

static struct opened open_model(const char *name)
{
    struct err e = { "" };
    struct opened o = { .d = open_device_under_test() };
    char path[512];
    snprintf(o.name, sizeof o.name, "%s on %s", name, o.d->name);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    assert_ok(model_open(&o.m, path, o.d, &e));
    snprintf(path, sizeof path, "tests/golden/models/%s/golden/logits.safetensors", name);
    assert_ok(safetensors_open(&o.golden, path, &e));
    return o;
}

/* The longest of three inputs. bf16 checkpoints multiply with rounded activations. */
static void check_logits(const char *name, double tolerance)
{
    struct opened o = open_model(name);
    int n;
    int32_t *ids = golden_ids(o.golden, "ids.2", &n);
    float *got = varlen_logits(&o, ids, (int32_t[]){ n }, 1);
    compare(o.name, "logits.2", got, safetensors_find(o.golden, "logits.2"), tolerance);
    if (!model_config(o.m)->encoder) { /* the same through pages, in pieces */
        struct sequence s;
        int vocab = model_config(o.m)->vocab;
        sequence_open(&s, &o, n, model_rope_offset(o.m, n));
        float *all = xcalloc((size_t)n * (size_t)vocab, sizeof *all);
        while (s.n < n) {
            int from = s.n, size = from == 0 ? n / 2 : 1;
            float *piece = feed(&s, ids + from, size);
            memcpy(all + (size_t)from * (size_t)vocab, piece, (size_t)size * (size_t)vocab * sizeof *all);
            free(piece);
        }
        sequence_close(&s);
        compare(o.name, "logits.2", all, safetensors_find(o.golden, "logits.2"), tolerance);
        if (!real_device() && memcmp(all, got, (size_t)n * (size_t)vocab * sizeof *all) != 0)
            fail_msg("%s: through the cache in pieces the logits have other bits", o.name);
        free(all);
    }
    free(got);
    free(ids);
    close_golden(&o);
}

static void test_decoders(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        check_logits(golden_decoders[i], strcmp(golden_decoders[i], "qwen3-bf16") == 0   ? 3e-2
                                         : strcmp(golden_decoders[i], "llama-fp16") == 0 ? 1e-2
                                                                                         : 1e-4);
}

static void test_encoders(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    check_logits("xlmr", 1e-4);
    check_logits("bert", 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_encoders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
