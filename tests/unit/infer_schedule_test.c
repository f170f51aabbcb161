/* The scheduler over a fake model (infer_fake.h): whatever is shared, waits or is preempted, the tokens are those of
 * the definition. */
#include "test.h"

#include "infer_fake.h"

#include "infer/impl.h"

enum { VOCAB = 40 };

static struct err e;

/* ---- random work ---- */

struct work {
    struct gen_request *q;
    struct gen_params *params;
    char (*name)[16];
    int *seen; /* bit per sample */
    int n, samples;
};

static struct rng dice;
static uint64_t throw_;

static int roll(int n)
{
    return (int)rng_below(&dice, throw_++, (uint32_t)n);
}

static void work_make(struct work *w, const struct model *m, int n, int longest, int most_new)
{
    *w = (struct work){ .n = n };
    w->q = xcalloc((size_t)n, sizeof *w->q);
    w->params = xcalloc((size_t)n, sizeof *w->params);
    w->name = xcalloc((size_t)n, sizeof *w->name);
    w->seen = xcalloc((size_t)n, sizeof *w->seen);
    for (int i = 0; i < n; i++) {
        int like = i && roll(2) ? roll(i) : -1; /* half begin like an earlier one */
        int len = 1 + roll(longest), shared = 0;
        int32_t *prompt = xreallocarray(NULL, (size_t)len, sizeof *prompt);
        if (like >= 0)
            shared = w->q[like].n_prompt < len ? w->q[like].n_prompt : len;
        for (int k = 0; k < len; k++)
            prompt[k] = k < shared ? w->q[like].prompt[k] : roll(VOCAB);
        gen_params_init(&w->params[i], &m->config);
        w->params[i].max_new = roll(most_new + 1);
        w->params[i].n_stop = roll(4) ? 1 : 0;
        w->params[i].logprobs = roll(2);
        w->params[i].presence = roll(3) ? 0 : 0.5f;
        static const char *const strings[] = { "bb", "cd", "aaa", "j", "nnm" };
        for (int k = roll(4) ? 0 : 1 + roll(2); k > 0; k--)
            w->params[i].stop_strings[w->params[i].n_stop_strings++] = strings[roll(5)];
        snprintf(w->name[i], sizeof w->name[i], "q%d", i);
        w->q[i] = (struct gen_request){ .prompt = prompt,
                                        .n_prompt = len,
                                        .n_samples = 1 + roll(5),
                                        .first_sample = roll(3),
                                        .seed = 7,
                                        .source_id = w->name[i],
                                        .user = &w->q[i],
                                        .params = &w->params[i] };
        w->samples += w->q[i].n_samples;
    }
}

static void work_release(struct work *w)
{
    for (int i = 0; i < w->n; i++)
        free((void *)w->q[i].prompt);
    free(w->q);
    free(w->params);
    free(w->name);
    free(w->seen);
}

static void check_result(const struct work *w, const struct model *m, struct gen_result *r)
{
    const struct gen_request *q = r->user;
    int bit = 1 << (r->sample_index - q->first_sample);
    assert_true(r->sample_index >= q->first_sample && r->sample_index < q->first_sample + q->n_samples);
    assert_false(w->seen[q - w->q] & bit);
    w->seen[q - w->q] |= bit;
    assert_int_equal(r->n_prompt, q->n_prompt);
    fake_expect(m, q, r);
    gen_result_release(r);
}

static void check_pages(const struct engine *g)
{
    const struct pages *p = &g->pages;
    int32_t used = 0;
    int64_t held = 0, refs = 0;
    for (int32_t i = 1; i < p->count; i++) {
        used += p->refs[i] > 0;
        refs += p->refs[i];
    }
    for (int i = 0; i < g->nlive; i++)
        held += g->live[i]->npages;
    assert_int_equal(refs, held);
    assert_int_equal(used, p->used);
    assert_int_equal(used + p->nfree + p->idle, p->count - 1);
    assert_true(engine_stats(g).kv_used <= engine_stats(g).kv_limit);
}

/* Runs all of it, submitting while fewer than window samples wait. */
static struct engine_stats run(struct model *m, struct work *w, const struct engine_options *o, int window)
{
    struct engine *g;
    struct gen_result r;
    int next = 0, got = 0;
    memset(w->seen, 0, (size_t)w->n * sizeof *w->seen);
    assert_ok(engine_open(&g, m, o, &e));
    for (;;) {
        while (next < w->n && engine_stats(g).waiting < window)
            assert_ok(engine_submit(g, &w->q[next++], &e));
        int more = engine_step(g, &e);
        assert_true(more >= 0);
        check_pages(g);
        for (; engine_poll(g, &r); got++)
            check_result(w, m, &r);
        if (!more && next == w->n)
            break;
    }
    assert_int_equal(got, w->samples);
    struct engine_stats s = engine_stats(g);
    assert_int_equal(s.done, got);
    assert_int_equal(s.running + s.waiting + s.kv_used, 0);
    engine_close(g);
    assert_int_equal(m->tickets, 0);
    return s;
}

/* ---- tests ---- */

static void test_any_schedule(void **state)
{
    (void)state;
    static const int batches[] = { 1, 2, 7, 64 }, chunks[] = { 1, 3, 64, 1000 };
    struct model m;
    int64_t preempted = 0;
    for (int round = 0; round < 3000; round++) {
        dice = rng_stream(1, "schedule", 8, (uint32_t)round);
        fake_model_init(&m, VOCAB, 160, round % 3 == 2 ? 20 + roll(60) : 0);
        struct work w;
        work_make(&w, &m, 1 + roll(12), 100, 60);
        int64_t page = (int64_t)kv_page_bytes(&m);
        struct engine_options o = { .batch = batches[roll(4)],
                                    .prefill_chunk = chunks[roll(4)],
                                    .read_delay = roll(3),
                                    .kv_memory = roll(3) ? page * (6 + roll(8)) : 0,
                                    .tokenizer = (const struct tokenizer *)&m /* any: the fake looks at none */ };
        preempted += run(&m, &w, &o, 1 + roll(20)).preempted;
        work_release(&w);
    }
    assert_true(preempted > 200);
}

static void test_shared_prompt(void **state)
{
    (void)state;
    struct model m;
    fake_model_init(&m, VOCAB, 400, 0);
    int32_t prompt[101];
    for (int i = 0; i < 101; i++)
        prompt[i] = i % VOCAB;
    struct gen_params p;
    gen_params_init(&p, &m.config);
    p.max_new = 5;
    struct gen_request q = { prompt, 101, 8, 0, 1, "one", NULL, &p };
    for (int chunk = 1; chunk < 300; chunk += 40) {
        struct engine *g;
        struct gen_result r;
        assert_ok(engine_open(&g, &m, &(struct engine_options){ .batch = 8, .prefill_chunk = chunk }, &e));
        assert_ok(engine_submit(g, &q, &e));
        int n = 0;
        for (; engine_next(g, &r, &e) > 0; n++)
            gen_result_release(&r);
        struct engine_stats s = engine_stats(g);
        assert_int_equal(n, 8);
        assert_int_equal(s.prefills, 1);
        assert_int_equal(s.shared, 7 * 96);         /* three whole pages */
        assert_int_equal(s.prefilled, 100 + 7 * 4); /* of the fourth each has its own */
        assert_int_equal(s.prompt_tokens, 8 * 101);
        engine_close(g);
    }
}

static void test_refused(void **state)
{
    (void)state;
    struct model m;
    fake_model_init(&m, VOCAB, 100, 0);
    int32_t prompt[101] = { 0 };
    struct gen_params p;
    gen_params_init(&p, &m.config);
    struct gen_request q = { prompt, 101, 1, 0, 1, "long-one", NULL, &p };
    struct engine *g;
    int64_t page = (int64_t)kv_page_bytes(&m);
    assert_ok(engine_open(&g, &m, &(struct engine_options){ .kv_memory = 3 * page }, &e));
    assert_int_equal(engine_submit(g, &q, &e), -1);
    assert_string_equal(e.msg, "long-one: the prompt has 101 tokens, the model's context has room for 100");
    q.n_prompt = 60;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    assert_string_equal(e.msg, "long-one: 60 prompt tokens and up to 40 new ones need 1280 bytes of key-value memory, "
                               "there are 768: up to 5 new ones would fit (--max-tokens)");
    p.max_new = 5; /* 64 positions: two pages */
    assert_ok(engine_submit(g, &q, &e));
    p.max_new = 6;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    q.n_prompt = 0;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    q.n_prompt = 3;
    prompt[2] = VOCAB;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    assert_string_equal(e.msg, "long-one: id 40 at position 2 of the prompt, the vocabulary has 40");
    prompt[2] = 0;
    p.top_p = 0;
    assert_int_equal(engine_submit(g, &q, &e), -1);
    p.top_p = 1;
    p.lo[0] = p.hi[0];
    assert_int_equal(engine_submit(g, &q, &e), -1);
    p.lo[0] = 0;
    p.stop_strings[p.n_stop_strings++] = "x"; /* without a tokenizer */
    assert_int_equal(engine_submit(g, &q, &e), -1);
    struct gen_result r;
    assert_int_equal(engine_next(g, &r, &e), 1); /* the one that was accepted is untouched */
    assert_int_equal(r.n_prompt, 60);
    gen_result_release(&r);
    assert_int_equal(engine_next(g, &r, &e), 0);
    engine_close(g);
    assert_int_equal(engine_open(&g, &m, &(struct engine_options){ .kv_memory = page }, &e), -1);
    assert_int_equal(engine_open(&g, &m, &(struct engine_options){ .read_delay = 3 }, &e), -1);
}

static void test_context_ends(void **state)
{
    (void)state;
    struct model m;
    fake_model_init(&m, VOCAB, 64, 0);
    int32_t prompt[64] = { 3 };
    struct gen_params p;
    gen_params_init(&p, &m.config);
    p.n_stop = 0;
    struct engine *g;
    struct gen_result r;
    assert_ok(engine_open(&g, &m, &(struct engine_options){ 0 }, &e));
    for (int n = 1; n <= 64; n++) {
        struct gen_request q = { prompt, n, 1, 0, 1, "x", NULL, &p };
        assert_ok(engine_submit(g, &q, &e));
        assert_int_equal(engine_next(g, &r, &e), 1);
        assert_int_equal(r.n, 64 - n);
        assert_int_equal(r.finish, GEN_LENGTH);
        gen_result_release(&r);
    }
    engine_close(g);
}

/* Closing in the middle loses nothing but the results; the sanitizers look at the rest. */
static void test_close_early(void **state)
{
    (void)state;
    struct model m;
    fake_model_init(&m, VOCAB, 160, 0);
    for (int steps = 0; steps < 40; steps += 3) {
        dice = rng_stream(2, "early", 5, (uint32_t)steps);
        struct work w;
        struct engine *g;
        struct engine_options o = { .batch = 4,
                                    .kv_memory = 6 * (int64_t)kv_page_bytes(&m),
                                    .read_delay = 2,
                                    .tokenizer = (const struct tokenizer *)&m };
        work_make(&w, &m, 8, 90, 60);
        assert_ok(engine_open(&g, &m, &o, &e));
        for (int i = 0; i < w.n; i++)
            assert_ok(engine_submit(g, &w.q[i], &e));
        for (int i = 0; i < steps; i++)
            assert_true(engine_step(g, &e) >= 0);
        engine_close(g);
        work_release(&w);
        assert_int_equal(m.tickets, 0);
    }
}

/* The longest course starts first, however they come. */
static void test_longest_first(void **state)
{
    (void)state;
    struct model m;
    fake_model_init(&m, VOCAB, 160, 0);
    int32_t prompt[50] = { 2 };
    struct gen_params p;
    gen_params_init(&p, &m.config);
    p.n_stop = 0;
    p.max_new = 10;
    struct engine *g;
    struct gen_result r;
    assert_ok(engine_open(&g, &m, &(struct engine_options){ .batch = 1 }, &e));
    for (int i = 0; i < 5; i++) {
        struct gen_request q = { prompt, 1 + (i * 3) % 5, 1, 0, 1, "x", NULL, &p };
        assert_ok(engine_submit(g, &q, &e));
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(engine_next(g, &r, &e), 1);
        assert_int_equal(r.n_prompt, 5 - i);
        gen_result_release(&r);
    }
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_schedule), cmocka_unit_test(test_shared_prompt), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_context_ends), cmocka_unit_test(test_close_early),   cmocka_unit_test(test_longest_first),
    };
    return cmocka_run_group_tests_name("infer_schedule", tests, NULL, NULL);
}
