/* Generation with real models: transformers' greedy continuations, and one result whatever the engine's options. */
#include "test.h"

#include "infer_util.h"

static struct err e;

static const char *const decoders[] = { "qwen2",      "qwen2-sharded", "qwen3",        "qwen3-untied",
                                        "qwen3-bf16", "qwen3-sliding", "llama3",       "llama3-tied",
                                        "phi3",       "phi3-longrope", "phi3-sliding", "llama-fp16" };
enum { DECODERS = sizeof decoders / sizeof *decoders };

static void requests_of(const struct greedy_case *c, int n, const struct gen_params *p, struct gen_request *q)
{
    for (int i = 0; i < n; i++)
        q[i] = (struct gen_request){ c[i].prompt, c[i].n_prompt, 1, 0, 1, "golden", NULL, p };
}

/* ---- greedy, prompts of 1 to 60 tokens in one batch ---- */

static void check_greedy(const char *device, const char *model, const struct engine_options *o)
{
    struct greedy_case c[MOST_CASES];
    struct gen_request q[MOST_CASES];
    struct gen_result *r[MOST_CASES];
    struct gen_params p;
    int n = greedy_load(model, c);
    struct opened m = open_golden(device, model, 2);
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    p.max_new = c[0].n_out;
    requests_of(c, n, &p, q);
    run_all(m.m, o, q, n, r);
    for (int i = 0; i < n; i++) {
        assert_int_equal(r[i]->n, c[i].n_out);
        for (int k = 0; k < r[i]->n; k++)
            if (r[i]->ids[k] != c[i].out[k])
                fail_msg("%s, %s, prompt of %d: token %d is %d, transformers has %d", model, device, c[i].n_prompt, k,
                         r[i]->ids[k], c[i].out[k]);
        assert_int_equal(r[i]->finish, GEN_LENGTH);
    }
    release_all(q, n, r);
    close_opened(&m);
}

static void test_greedy(void **state)
{
    (void)state;
    for (int i = 0; i < DECODERS; i++)
        check_greedy("cpu", decoders[i], &(struct engine_options){ .batch = 4, .prefill_chunk = 7 });
}

static void test_greedy_oracle(void **state)
{
    (void)state;
    for (int i = 0; i < DECODERS; i++)
        check_greedy("cpu-oracle", decoders[i], &(struct engine_options){ .batch = 3, .read_delay = 2 });
}

/* A trained model, with its stop ids: where the texts end is part of them. tests/cli/reasoner.bats has the texts. */
static void test_trained(void **state)
{
    (void)state;
    static const char dir[] = "data/models/reasoner";
    struct greedy_case c[MOST_CASES];
    struct gen_request q[MOST_CASES];
    struct gen_result *r[MOST_CASES];
    struct gen_params p;
    if (!file_exists("data/models/reasoner/model.safetensors")) {
        printf("# skip: the embedded reasoner is not there\n");
        skip();
    }
    int n = greedy_load_file("tests/golden/reasoner/greedy.jsonl", c);
    for (int round = 0; round < 3; round++) {
        struct opened m = open_dir("cpu", dir, 1 + round % 2);
        struct engine_options o = { .batch = round == 0 ? 1 : 3 * round, .read_delay = round };
        gen_params_init(&p, model_config(m.m));
        requests_of(c, n, &p, q);
        run_all(m.m, &o, q, n, r);
        for (int i = 0; i < n; i++) {
            assert_int_equal(r[i]->n + 1, c[i].n_out);
            for (int k = 0; k < r[i]->n; k++)
                if (r[i]->ids[k] != c[i].out[k])
                    fail_msg("text %d: token %d is %d, transformers has %d", i, k, r[i]->ids[k], c[i].out[k]);
            assert_int_equal(r[i]->finish, GEN_STOP);
            assert_int_equal(r[i]->stop_id, c[i].out[r[i]->n]);
        }
        release_all(q, n, r);
        close_opened(&m);
    }
}

/* ---- one hash ---- */

enum { MIXED = 9 };

/* Sampled and greedy, with and without penalties and log-probabilities, common prompts and common beginnings. */
static void mixed_requests(const struct greedy_case *c, const struct model_config *config, struct gen_params *p,
                           struct gen_request *q)
{
    static char name[MIXED][16];
    for (int i = 0; i < MIXED; i++) {
        gen_params_init(&p[i], config);
        p[i].temperature = i % 4 ? 0.6f + 0.1f * (float)i : 0;
        p[i].top_p = i % 3 ? 1 : 0.9f;
        p[i].top_k = i % 5 ? 0 : 20;
        p[i].min_p = i % 7 ? 0 : 0.01f;
        p[i].repetition = i % 3 == 1 ? 1.1f : 1;
        p[i].frequency = i % 4 == 1 ? 0.2f : 0;
        p[i].logprobs = i % 2;
        p[i].max_new = 12 + 7 * i;
        snprintf(name[i], sizeof name[i], "m%d", i);
        q[i] = (struct gen_request){ .prompt = c[3].prompt,
                                     .n_prompt = i < 4 ? c[3].n_prompt - i : 1 + 11 * (i - 4),
                                     .n_samples = i % 3 + 1,
                                     .seed = 5,
                                     .source_id = name[i],
                                     .params = &p[i] };
    }
}

struct setting {
    int threads;
    struct engine_options o;
    int pages; /* of the cache; 0: default */
};

static const struct setting settings[] = {
    { 1, { .batch = 1 }, 0 },
    { 2, { .batch = 7 }, 0 },
    { 2, { .batch = 64 }, 0 },
    { 1, { .batch = 7, .prefill_chunk = 1 }, 0 },
    { 2, { .batch = 7, .prefill_chunk = 3 }, 0 },
    { 2, { .batch = 64, .prefill_chunk = 64, .read_delay = 1 }, 0 },
    { 1, { .batch = 7, .prefill_chunk = 3, .read_delay = 2 }, 0 },
    { 2, { .batch = 7 }, 7 },
    { 2, { .batch = 64, .read_delay = 1 }, 9 },
    { 1, { .batch = 3, .prefill_chunk = 3, .read_delay = 2 }, 8 },
};

static void check_one_hash(const char *device, const char *model)
{
    struct greedy_case c[MOST_CASES];
    struct gen_request q[MIXED];
    struct gen_params p[MIXED];
    struct gen_result *r[MIXED];
    struct hash128 first = { 0, 0 };
    int64_t preempted = 0;
    greedy_load(model, c);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct opened m = open_golden(device, model, settings[i].threads);
        struct engine_options o = settings[i].o;
        o.kv_memory = settings[i].pages * (int64_t)kv_page_bytes(m.m);
        mixed_requests(c, model_config(m.m), p, q);
        preempted += run_all(m.m, &o, q, MIXED, r).preempted;
        struct hash128 h = hash_results(q, MIXED, r);
        if (i == 0)
            first = h;
        if (!hash_equal(first, h))
            fail_msg("%s on %s: setting %zu gives other results than setting 0", model, device, i);
        release_all(q, MIXED, r);
        close_opened(&m);
    }
    assert_true(preempted > 0);
}

static void test_one_hash(void **state)
{
    (void)state;
    static const char *const some[] = { "qwen3", "phi3-longrope", "llama3", "qwen3-sliding" };
    for (int i = 0; i < 4; i++)
        check_one_hash("cpu", some[i]);
    check_one_hash("cpu-oracle", "qwen2");
}

/* Order of submission and neighbours: each request alone gives what it gave among the others. */
static void test_alone(void **state)
{
    (void)state;
    struct greedy_case c[MOST_CASES];
    struct gen_request q[MIXED], back[MIXED];
    struct gen_params p[MIXED];
    struct gen_result *r[MIXED], *other[MIXED];
    greedy_load("qwen3", c);
    struct opened m = open_golden("cpu", "qwen3", 2);
    mixed_requests(c, model_config(m.m), p, q);
    struct engine_options o = { .batch = 6 };
    run_all(m.m, &o, q, MIXED, r);
    for (int i = 0; i < MIXED; i++)
        back[i] = q[MIXED - 1 - i];
    run_all(m.m, &o, back, MIXED, other);
    for (int i = 0; i < MIXED; i++)
        assert_true(hash_equal(hash_results(&q[i], 1, &r[i]), hash_results(&q[i], 1, &other[MIXED - 1 - i])));
    release_all(back, MIXED, other);
    for (int i = 0; i < MIXED; i++) {
        run_all(m.m, &o, &q[i], 1, &other[i]);
        assert_true(hash_equal(hash_results(&q[i], 1, &r[i]), hash_results(&q[i], 1, &other[i])));
        release_all(&q[i], 1, &other[i]);
    }
    release_all(q, MIXED, r);
    close_opened(&m);
}

/* ---- ends ---- */

static void test_stop_ids(void **state)
{
    (void)state;
    struct greedy_case c[MOST_CASES];
    struct gen_params p;
    struct gen_result *r;
    greedy_load("qwen3", c);
    struct opened m = open_golden("cpu", "qwen3", 1);
    gen_params_init(&p, model_config(m.m));
    assert_int_equal(p.n_stop, 2); /* generation_config.json's */
    assert_int_equal(p.stop_ids[0], 597);
    p.n_stop = 1;
    for (int delay = 0; delay <= 2; delay++) /* prompt 0 goes ... 158, 597, 597: eos is token 24 */
        for (int want = 22; want <= 26; want++) {
            p.max_new = want;
            struct gen_request q = { c[0].prompt, c[0].n_prompt, 1, 0, 1, "x", NULL, &p };
            run_all(m.m, &(struct engine_options){ .read_delay = delay }, &q, 1, &r);
            assert_int_equal(r->n, want <= 24 ? want : 24);
            assert_int_equal(r->finish, want <= 24 ? GEN_LENGTH : GEN_STOP);
            assert_int_equal(r->stop_id, want <= 24 ? -1 : 597);
            release_all(&q, 1, &r);
        }
    p.n_stop = 2; /* the second of two: 139 is token 3 */
    p.stop_ids[1] = 139;
    struct gen_request q = { c[0].prompt, c[0].n_prompt, 1, 0, 1, "x", NULL, &p };
    run_all(m.m, &(struct engine_options){ 0 }, &q, 1, &r);
    assert_int_equal(r->n, 3);
    assert_int_equal(r->stop_id, 139);
    release_all(&q, 1, &r);
    close_opened(&m);
}

static void test_context_ends(void **state)
{
    (void)state;
    struct greedy_case c[MOST_CASES];
    struct gen_params p;
    struct gen_result *r;
    int32_t prompt[129];
    greedy_load("phi3-longrope", c);
    struct opened m = open_golden("cpu", "phi3-longrope", 1);
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    for (int i = 0; i < 129; i++)
        prompt[i] = c[3].prompt[i % c[3].n_prompt];
    struct gen_request q = { prompt, 128 - 20, 2, 0, 1, "end", NULL, &p };
    run_all(m.m, &(struct engine_options){ 0 }, &q, 1, &r);
    assert_int_equal(r[0].n, 20);
    assert_int_equal(r[1].finish, GEN_LENGTH);
    release_all(&q, 1, &r);
    struct engine *g;
    assert_ok(engine_open(&g, m.m, &(struct engine_options){ 0 }, &e));
    q.n_prompt = 129;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    assert_string_equal(e.msg, "end: the prompt has 129 tokens, the model's context has room for 128");
    engine_close(g);
    close_opened(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),       cmocka_unit_test(test_greedy_oracle), cmocka_unit_test(test_trained),
        cmocka_unit_test(test_one_hash),     cmocka_unit_test(test_alone),         cmocka_unit_test(test_stop_ids),
        cmocka_unit_test(test_context_ends),
    };
    return cmocka_run_group_tests_name("infer_golden", tests, NULL, NULL);
}
