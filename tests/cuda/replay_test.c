/* replay_test.c - operations recorded and replayed on the CUDA device (emulated, or the chip), and the engine's
 * decoding steps on top of them: the same bits as steps that are not recorded, whatever the bucket, and no page touched
 * that is not a sequence's own. */
#include "unit/test.h"

#include "cuda/cuda_test.h"
#include "infer/impl.h"
#include "unit/infer_util.h"

enum { N = 40 };

static void expect_all(struct device *d, const struct tensor *t, float want, const char *when)
{
    float *v = back(d, t, sizeof *v);
    for (int i = 0; i < N; i++)
        if (v[i] != want)
            fail_msg("%s: [%d] is %g, expected %g (%s)", when, i, (double)v[i], (double)want, mismatch);
    free(v);
}

static void write_all(struct device *d, struct tensor *t, float value)
{
    float v[N];
    for (int i = 0; i < N; i++)
        v[i] = value;
    d->tensor_write(d, t, 0, v, N);
}

static struct tensor *row_of(struct device *d)
{
    return floats_of(d, 1, N, NULL);
}

static void test_device(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    struct err e = { "" };
    struct device *d = open_device_under_test(false);
    struct tensor *x = row_of(d), *y = row_of(d), *other = row_of(d);
    write_all(d, x, 1);
    assert_true(d->record_begin(d));
    d->add(d, y, x, N);
    d->copy(d, x, y, N);
    struct recording *r = d->record_end(d);
    assert_non_null(r);
    expect_all(d, y, 0, "recorded, not run");
    assert_true(d->replay(d, r));
    assert_true(d->replay(d, r));
    expect_all(d, y, 2, "replayed twice");
    write_all(d, x, 10);
    assert_true(d->replay(d, r));
    expect_all(d, x, 12, "what memory holds now");
    d->tensor_free(d, other);
    assert_false(d->replay(d, r));
    expect_all(d, x, 12, "memory was freed");
    d->recording_free(d, r);
    d->recording_free(d, NULL);
    d->tensor_free(d, x);
    d->tensor_free(d, y);
    assert_ok(d->sync(d, &e));
    device_close(d);
}

/* A product on a bf16 device needs work space: there is none before it has run. */
static void test_without_room(void **state)
{
    (void)state;
    SKIP_WITHOUT_DEVICE();
    struct err e = { "" };
    static float one[N * N];
    for (int i = 0; i < N * N; i++)
        one[i] = 1;
    struct device *d = open_device_under_test(true);
    struct tensor *x = row_of(d), *y = row_of(d);
    struct weight *w;
    assert_ok(d->weight_new(d, &w, &(struct weight_part){ one, DTYPE_F32, N }, 1, N, "test", &e));
    write_all(d, x, 1);
    for (int ran = 0; ran < 2; ran++) {
        assert_true(d->record_begin(d));
        d->linear(d, y, x, w, NULL, 1, false);
        struct recording *r = d->record_end(d);
        assert_int_equal(r != NULL, ran);
        write_all(d, y, 5);
        if (r)
            assert_true(d->replay(d, r));
        else
            d->linear(d, y, x, w, NULL, 1, false);
        expect_all(d, y, N, ran ? "replayed" : "not recorded");
        d->recording_free(d, r);
    }
    d->weight_free(d, w);
    d->tensor_free(d, x);
    d->tensor_free(d, y);
    device_close(d);
}

/* ---- the engine ---- */

enum { REQUESTS = 6, SAMPLES = 2 };

struct run {
    struct gen_result *r[REQUESTS];
    unsigned char *cache;
    size_t cache_bytes;
    struct engine_stats stats;
};

static void keep_cache(struct engine *g, struct run *out)
{
    struct err e = { "" };
    struct device *d = g->device;
    for (int i = 0; i < 2 * g->kv.layers; i++) {
        const struct tensor *t = i % 2 ? g->kv.v[i / 2] : g->kv.k[i / 2];
        size_t n = (size_t)(d->tensor_rows(t) * d->tensor_cols(t)), size = dtype_size(d->kv_dtype);
        out->cache = xrealloc(out->cache, out->cache_bytes + n * size);
        assert_ok(d->tensor_read(d, t, 0, out->cache + out->cache_bytes, n, &e));
        for (size_t k = 0; k < (size_t)d->tensor_cols(t) * KV_PAGE * size; k++)
            if (out->cache[out->cache_bytes + k])
                fail_msg("page 0 was written");
        out->cache_bytes += n * size;
    }
}

/* Requests of different lengths and kinds; the last ones come when others have ended. */
static void run(const char *name, bool recorded, const struct engine_options *o, int kind, struct run *out)
{
    struct err e = { "" };
    struct greedy_case c[MOST_CASES];
    struct gen_params p[REQUESTS];
    struct gen_request q[REQUESTS];
    struct gen_result r;
    struct engine *g;
    int n = greedy_load(name, c), got, steps = 0;
    struct opened m = open_golden_on(open_device_under_test(kind % 2), name);
    *out = (struct run){ 0 };
    if (!recorded)
        m.d->record_begin = NULL;
    struct engine_options options = *o;
    if (kind == 0) /* too little for all: some give up their pages */
        options.kv_memory = 7 * (int64_t)kv_page_bytes(m.m);
    assert_ok(engine_open(&g, m.m, &options, &e));
    for (int i = 0; i < REQUESTS; i++) {
        int vocab = model_config(m.m)->vocab;
        gen_params_init(&p[i], model_config(m.m));
        p[i].n_stop = 0;
        p[i].max_new = kind == 0 && i < 3 ? 45 : 5 + 3 * i;
        p[i].temperature = i % 2 ? 1 : 0;
        p[i].logprobs = kind == 2 && i == 3;
        if (kind == 1 && i > 2)
            p[i].presence = 0.5f; /* penalties make a tensor when most shapes have been recorded */
        if (kind == 2) {          /* two vocabularies */
            p[i].hi[0] = vocab / 2;
            p[i].also[0][0] = p[i].flip_id = vocab - 1;
            p[i].flip_bias = 2;
            p[i].lo[1] = vocab / 2;
        }
        out->r[i] = xcalloc(SAMPLES, sizeof *out->r[i]);
        q[i] = (struct gen_request){ c[i % n].prompt, c[i % n].n_prompt, SAMPLES, 0, 1, "replay", &out->r[i], &p[i] };
        if (i < 3)
            assert_ok(engine_submit(g, &q[i], &e));
    }
    for (int next = 3; (got = engine_step(g, &e)) > 0 || next < REQUESTS; steps++) {
        while (engine_poll(g, &r))
            (*(struct gen_result **)r.user)[r.sample_index] = r;
        if (next < REQUESTS && steps % 6 == 5)
            assert_ok(engine_submit(g, &q[next++], &e));
        if (kind == 2 && steps == 9) /* as after many kinds of requests: with the next one all are forgotten */
            while (g->nrecordings < STEP_RECORDINGS)
                g->nrecordings++;
        if (steps % 20 == 19) /* whatever was recorded may name it */
            m.d->tensor_free(m.d, row_of(m.d));
    }
    if (got < 0)
        fail_msg("%s", e.msg);
    while (engine_poll(g, &r))
        (*(struct gen_result **)r.user)[r.sample_index] = r;
    out->stats = engine_stats(g);
    keep_cache(g, out);
    engine_close(g);
    close_opened(&m);
}

static void release(struct run *x)
{
    for (int i = 0; i < REQUESTS; i++) {
        for (int k = 0; k < SAMPLES; k++)
            gen_result_release(&x->r[i][k]);
        free(x->r[i]);
    }
    free(x->cache);
}

static void test_engine(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct engine_options o;
        int kind;
    } ways[] = {
        { "qwen3", { .batch = 6, .prefill_chunk = 9, .read_delay = 1 }, 0 },
        { "qwen3-bf16", { .batch = 3, .prefill_chunk = 32, .read_delay = 1 }, 1 },
        { "phi3-longrope", { .batch = 9, .prefill_chunk = 32, .read_delay = 2 }, 2 },
    };
    SKIP_WITHOUT_DEVICE();
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        struct run eager, replayed;
        run(ways[w].name, false, &ways[w].o, ways[w].kind, &eager);
        run(ways[w].name, true, &ways[w].o, ways[w].kind, &replayed);
        assert_int_equal(eager.stats.replayed, 0);
        print_message("# %s: %lld of %lld steps replayed\n", ways[w].name, (long long)replayed.stats.replayed,
                      (long long)replayed.stats.steps);
        assert_true(ways[w].kind || eager.stats.preempted > 0);
        assert_true(replayed.stats.replayed * 3 > replayed.stats.steps);
        assert_int_equal(replayed.stats.steps, eager.stats.steps);
        for (int i = 0; i < REQUESTS; i++)
            for (int k = 0; k < SAMPLES; k++) {
                const struct gen_result *a = &eager.r[i][k], *b = &replayed.r[i][k];
                assert_int_equal(a->n, b->n);
                assert_true(a->n > 0);
                assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
                if (a->logprobs)
                    assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->n * sizeof *a->logprobs);
            }
        assert_int_equal(eager.cache_bytes, replayed.cache_bytes);
        assert_memory_equal(eager.cache, replayed.cache, eager.cache_bytes);
        release(&eager);
        release(&replayed);
    }
}

static void test_buckets(void **state)
{
    (void)state;
    for (int n = 1, last = 0; n < 3000; n++) {
        int b = replay_bucket(n);
        assert_true(b >= n && b >= last && replay_bucket(b) == b && (n < 9 || b - n < 8 || (b - n) * 8 <= n));
        last = b;
    }
    static const int pairs[][2] = { { 1, 1 },   { 2, 2 },   { 3, 4 },     { 5, 8 },    { 9, 16 },
                                    { 64, 64 }, { 65, 72 }, { 129, 144 }, { 700, 704 } };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        assert_int_equal(replay_bucket(pairs[i][0]), pairs[i][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_device), cmocka_unit_test(test_without_room),
                                        cmocka_unit_test(test_engine), cmocka_unit_test(test_buckets) };
    watch_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
