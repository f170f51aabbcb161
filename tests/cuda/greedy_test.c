/* greedy_test.c - the generation engine on the CUDA device (emulated, or the chip): transformers' greedy continuations,
 * token by token, through paged prefill, decode inputs and the sampler. */
#include "unit/test.h"

#include "base/file.h"
#include "cuda/cuda_test.h"
#include "io/safetensors.h"
#include "model/branch.h"
#include "unit/infer_util.h"

/* Two batches give the same tokens in bf16 too; there they need not be transformers', which may turn at a near tie. In
 * any order of sums only the same batch twice does. */
static void check_batches(const char *name, bool fp8_cache, bool any_order)
{
    static const struct engine_options options[2] = { { .batch = 4, .prefill_chunk = 7 },
                                                      { .batch = 1, .prefill_chunk = 32, .read_delay = 2 } };
    struct err e = { "" };
    struct greedy_case c[MOST_CASES];
    struct gen_request q[2][MOST_CASES];
    struct gen_result *r[2][MOST_CASES];
    struct gen_params p;
    int n = greedy_load(name, c);
    struct device *d = open_device_under_test(true);
    if (fp8_cache)
        assert_ok(device_use_fp8_cache(d, &e));
    if (any_order)
        assert_ok(device_use_any_order(d, &e));
    uint64_t before = products_in_any_order();
    struct opened m = open_golden_on(d, name);
    assert_int_equal(kv_page_bytes(m.m), (fp8_cache ? 2 : 4) * KV_PAGE * model_config(m.m)->layers *
                                             model_config(m.m)->kv_heads * model_config(m.m)->head_dim);
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    p.max_new = 12;
    for (int way = 0; way < 2; way++) {
        for (int i = 0; i < n; i++)
            q[way][i] = (struct gen_request){ c[i].prompt, c[i].n_prompt, 1, 0, 1, "golden", NULL, &p };
        run_all(m.m, &options[any_order ? 0 : way], q[way], n, r[way]);
    }
    if (!real_device())
        assert_int_equal(products_in_any_order() > before, any_order);
    for (int i = 0; i < n; i++) {
        assert_int_equal(r[0][i]->n, 12);
        assert_int_equal(r[1][i]->n, 12);
        assert_memory_equal(r[0][i]->ids, r[1][i]->ids, 12 * sizeof *r[0][i]->ids);
    }
    release_all(q[0], n, r[0]);
    release_all(q[1], n, r[1]);
    close_opened(&m);
}

static void check_greedy(const char *name, const struct engine_options *options)
{
    struct greedy_case c[MOST_CASES];
    struct gen_request q[MOST_CASES];
    struct gen_result *r[MOST_CASES];
    struct gen_params p;
    int n = greedy_load(name, c);
    struct opened m = open_golden_on(open_device_under_test(false), name);
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    p.max_new = c[0].n_out;
    for (int i = 0; i < n; i++)
        q[i] = (struct gen_request){ c[i].prompt, c[i].n_prompt, 1, 0, 1, "golden", NULL, &p };
    run_all(m.m, options, q, n, r);
    for (int i = 0; i < n; i++) {
        assert_int_equal(r[i]->n, c[i].n_out);
        for (int k = 0; k < r[i]->n; k++)
            if (r[i]->ids[k] != c[i].out[k])
                fail_msg("%s on %s, prompt of %d: token %d is %d, transformers has %d", name, m.d->name, c[i].n_prompt,
                         k, r[i]->ids[k], c[i].out[k]);
    }
    release_all(q, n, r);
    close_opened(&m);
}

/* fp32 checkpoints: a bf16 one may turn at a near tie. */
static void test_greedy(void **state)
{
    (void)state;
    static const char *const names[] = { "qwen2", "qwen3", "qwen3-sliding", "llama3", "phi3", "phi3-longrope" };
    SKIP_WITHOUT_DEVICE();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_greedy(names[i], &(struct engine_options){ .batch = 4, .prefill_chunk = 7, .read_delay = (int)(i % 3) });
}

static void test_batches(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    check_batches("qwen3-bf16", false, false);
    check_batches("qwen3-bf16", true, false);
    check_batches("qwen3-bf16", false, true);
}

enum { LENGTH = 45, SEQS = 3, PART = 37 };
enum cache { CACHE_FLOAT, CACHE_BF16, CACHE_F8 };

static struct opened open_with(enum cache cache, const char *dir)
{
    struct err e = { "" };
    struct opened m = { .d = open_device_under_test(cache > CACHE_FLOAT) };
    if (cache == CACHE_F8)
        assert_ok(device_use_fp8_cache(m.d, &e));
    assert_ok(model_open(&m.m, dir, m.d, &e));
    return m;
}

/* Sequences that part within a page: its rows are copied, whatever the cache holds. */
static void check_branches(struct opened *m, float together[SEQS][LENGTH])
{
    struct err e = { "" };
    struct branches *b;
    int32_t ids[SEQS][LENGTH];
    float alone[LENGTH];
    struct score_seq seq[SEQS] = { 0 };
    for (int s = 0; s < SEQS; s++) {
        for (int i = 0; i < LENGTH; i++)
            ids[s][i] = 10 + i * 7 % 50 + (i >= PART ? s : 0);
        seq[s] = (struct score_seq){ .ids = ids[s], .n = LENGTH, .first = 1, .logprob = together[s] };
    }
    assert_ok(branches_open(&b, m->m, &(struct branches_options){ 512, 64 }, &e));
    assert_ok(branches_run(b, seq, SEQS, &e));
    assert_true(branches_stats(b).computed < 2 * LENGTH);
    for (int s = 0; s < SEQS; s++) {
        seq[s].logprob = alone;
        assert_ok(branches_run(b, &seq[s], 1, &e));
        assert_memory_equal(alone, together[s], (LENGTH - 1) * sizeof *alone);
    }
    branches_close(b);
}

static void test_branches(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (enum cache cache = CACHE_FLOAT; cache <= CACHE_F8; cache++) {
        float logprob[SEQS][LENGTH];
        struct opened m = open_with(cache, "tests/golden/models/qwen3-bf16");
        check_branches(&m, logprob);
        close_opened(&m);
    }
}

/* qwen2, the keys of whose layers from `first` on have a large bias in one dimension; the folder's name. */
static const char *make_biased(int first)
{
    static char dir[4200];
    static const char *const files[] = { "config.json", "model.safetensors" };
    struct err e = { "" };
    struct safetensors *st;
    snprintf(dir, sizeof dir, "%s/biased%d", test_tmpdir(), first);
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(safetensors_open(&st, "tests/golden/models/qwen2/model.safetensors", &e));
    for (int i = 0; i < 2; i++) {
        struct buf b = BUF_INIT;
        char *from = path_join("tests/golden/models/qwen2", files[i]), *to = path_join(dir, files[i]);
        assert_ok(file_read(&b, from, 0, &e));
        for (int layer = first; layer < 2; layer++) {
            char name[64];
            snprintf(name, sizeof name, "model.layers.%d.self_attn.k_proj.bias", layer);
            const struct st_tensor *bias = safetensors_find(st, name);
            for (size_t at = 0; at + bias->bytes <= b.len; at++)
                if (memcmp(b.s + at, bias->data, bias->bytes) == 0)
                    memcpy(b.s + at, &(float){ -300 }, sizeof(float));
        }
        assert_ok(file_write_atomic(to, b.s, b.len, &e));
        buf_release(&b);
        free(from);
        free(to);
    }
    safetensors_close(st);
    return dir;
}

/* Beside such a bias 8 bits hold nothing else: its layer keeps bf16, the others do not. */
static void test_biased_keys(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    for (int first = 0; first < 2; first++) {
        const char *dir = make_biased(first);
        float want[SEQS][LENGTH] = { { 0 } }, got[SEQS][LENGTH] = { { 0 } };
        struct opened m = open_with(CACHE_BF16, dir);
        size_t all = kv_page_bytes(m.m);
        check_branches(&m, want);
        close_opened(&m);
        m = open_with(CACHE_F8, dir);
        assert_int_equal(model_config(m.m)->layers, 2);
        assert_int_equal(kv_page_bytes(m.m), first == 0 ? all : all / 2 + all / 4);
        check_branches(&m, got);
        close_opened(&m);
        if (first == 0)
            assert_memory_equal(got, want, sizeof got);
        else
            assert_memory_not_equal(got, want, sizeof got);
    }
}

static void test_refused(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    struct err e = { "" };
    struct device *d = open_device_under_test(false); /* of floats */
    assert_int_equal(device_use_fp8_cache(d, &e), -1);
    assert_non_null(strstr(e.msg, "-f32) keeps keys and values as float"));
    device_close(d);
    d = open_path(CPU_BASE, 1);
    assert_int_equal(device_use_any_order(d, &e), -1);
    assert_non_null(strstr(e.msg, "device cpu (cpu-base-f32) adds in one order"));
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_greedy), cmocka_unit_test(test_batches),
                                        cmocka_unit_test(test_branches), cmocka_unit_test(test_biased_keys),
                                        cmocka_unit_test(test_refused) };
    watch_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
