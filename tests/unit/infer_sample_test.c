/* What is drawn: frequencies against the softmax, ranges of two phases, penalties, stop strings; and that decoding
 * allocates nothing. */
#include "test.h"

#include <math.h>

#include "infer_util.h"
#include "random_model.h"
#include "text/tokenizer.h"

static struct err e;

/* ---- counting allocations: glibc's own functions behind ours ---- */

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define COUNTS_ALLOCATIONS 1
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static _Atomic long allocations;

void *malloc(size_t n)
{
    allocations++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    allocations++;
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    allocations++;
    return __libc_memalign(align, n);
}
#else
#define COUNTS_ALLOCATIONS 0
static long allocations;
#endif

static struct opened open_random(int vocab, uint64_t seed, int threads)
{
    struct random_shape s = { .layers = 2,
                              .hidden = 16,
                              .ffn = 24,
                              .heads = 2,
                              .kv_heads = 1,
                              .vocab = vocab,
                              .max_positions = 512,
                              .spread = 0.4 };
    char dir[4200];
    snprintf(dir, sizeof dir, "%s/random-%d-%d", test_tmpdir(), vocab, (int)seed);
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(random_model_write(dir, &s, seed, &e));
    return open_dir("cpu", dir, threads);
}

/* ---- frequencies ---- */

enum { VOCAB = 24, DRAWS = 20000 };

/* Raw log-probabilities of the next token: greedy, one id allowed at a time. */
static void raw_logprobs(struct model *m, int32_t prompt, double *out)
{
    struct gen_params p[VOCAB];
    struct gen_request q[VOCAB];
    struct gen_result *r[VOCAB];
    for (int id = 0; id < VOCAB; id++) {
        gen_params_init(&p[id], model_config(m));
        p[id].logprobs = true;
        p[id].max_new = 1;
        p[id].n_stop = 0;
        p[id].lo[0] = id;
        p[id].hi[0] = id + 1;
        q[id] = (struct gen_request){ &prompt, 1, 1, 0, 1, "raw", NULL, &p[id] };
    }
    run_all(m, &(struct engine_options){ .batch = VOCAB }, q, VOCAB, r);
    for (int id = 0; id < VOCAB; id++) {
        assert_int_equal(r[id]->ids[0], id);
        out[id] = (double)r[id]->logprobs[0];
    }
    release_all(q, VOCAB, r);
}

static int by_falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void normalize(double *p)
{
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += p[i];
    for (int i = 0; i < VOCAB; i++)
        p[i] /= sum;
}

/* Keeps what is at least as probable as the n-th. */
static void keep_most(double *p, int n)
{
    double sorted[VOCAB];
    memcpy(sorted, p, sizeof sorted);
    qsort(sorted, VOCAB, sizeof *sorted, by_falling);
    for (int i = 0; i < VOCAB; i++)
        if (p[i] < sorted[n - 1])
            p[i] = 0;
    normalize(p);
}

/* The distribution that the options promise, in transformers' order. */
static void promised(const double *raw, const struct gen_params *o, double *p)
{
    double most = 0, sum = 0, sorted[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        double bias = i == o->flip_id ? (double)o->flip_bias : 0;
        p[i] = i >= o->lo[0] && i < o->hi[0] ? exp((raw[i] + bias) / (double)o->temperature) : 0;
    }
    normalize(p);
    if (o->top_k)
        keep_most(p, o->top_k);
    memcpy(sorted, p, sizeof sorted);
    qsort(sorted, VOCAB, sizeof *sorted, by_falling);
    int n = 0;
    while (n < VOCAB && sum < (double)o->top_p - (o->top_p == 1 ? -1 : 0))
        sum += sorted[n++];
    keep_most(p, n);
    for (int i = 0; i < VOCAB; i++)
        most = p[i] > most ? p[i] : most;
    for (int i = 0; i < VOCAB; i++)
        if (p[i] < (double)o->min_p * most)
            p[i] = 0;
    normalize(p);
}

/* Chi-square of counts against p, cells with fewer than 5 expected pooled; compared with the value that chance passes
 * once in a million tests (Wilson and Hilferty's approximation). */
static void check_frequencies(const char *what, const int *count, const double *p, int n)
{
    double chi = 0, pool_want = 0, pool_got = 0;
    int cells = 0;
    for (int i = 0; i < VOCAB; i++) {
        double want = p[i] * n;
        if (p[i] == 0)
            assert_int_equal(count[i], 0);
        if (want < 5) {
            pool_want += want;
            pool_got += count[i];
            continue;
        }
        chi += (count[i] - want) * (count[i] - want) / want;
        cells++;
    }
    if (pool_want >= 5) {
        chi += (pool_got - pool_want) * (pool_got - pool_want) / pool_want;
        cells++;
    }
    double k = cells > 1 ? cells - 1 : 1, z = 4.7534; /* one-sided 1e-6 */
    double t = 1 - 2 / (9 * k) + z * sqrt(2 / (9 * k)), limit = k * t * t * t;
    if (!(chi <= limit))
        fail_msg("%s: chi-square %.1f over %d cells, limit %.1f", what, chi, cells, limit);
}

struct option_case {
    const char *name;
    float temperature, top_p, min_p;
    int top_k, lo, hi, flip_id;
    float flip_bias;
};

static void test_frequencies(void **state)
{
    (void)state;
    static const struct option_case cases[] = {
        { "softmax", 1, 1, 0, 0, 0, VOCAB, -1, 0 },
        { "temperature 0.6", 0.6f, 1, 0, 0, 0, VOCAB, -1, 0 },
        { "temperature 1.7", 1.7f, 1, 0, 0, 0, VOCAB, -1, 0 },
        { "top-k 5", 1, 1, 0, 5, 0, VOCAB, -1, 0 },
        { "top-p 0.7", 1, 0.7f, 0, 0, 0, VOCAB, -1, 0 },
        { "min-p 0.2", 1, 1, 0.2f, 0, 0, VOCAB, -1, 0 },
        { "together", 1.3f, 0.9f, 0.05f, 12, 0, VOCAB, -1, 0 },
        { "range", 1, 1, 0, 0, 5, 17, -1, 0 },
        { "bias", 0.8f, 1, 0, 0, 5, 17, 7, 1.5f },
    };
    struct opened m = open_random(VOCAB, 1, 2);
    int32_t prompt = 3;
    double raw[VOCAB], p[VOCAB], all = 0;
    raw_logprobs(m.m, prompt, raw);
    for (int i = 0; i < VOCAB; i++)
        all += exp(raw[i]);
    assert_true(fabs(all - 1) < 1e-5);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct gen_params o;
        int count[VOCAB] = { 0 };
        gen_params_init(&o, model_config(m.m));
        o.temperature = cases[c].temperature;
        o.top_p = cases[c].top_p;
        o.min_p = cases[c].min_p;
        o.top_k = cases[c].top_k;
        o.lo[0] = cases[c].lo;
        o.hi[0] = cases[c].hi;
        o.flip_id = cases[c].flip_id;
        o.flip_bias = cases[c].flip_bias;
        o.max_new = 1;
        o.n_stop = 0;
        struct gen_request q = { &prompt, 1, DRAWS, 0, 11, cases[c].name, NULL, &o };
        struct gen_result *r;
        run_all(m.m, &(struct engine_options){ .batch = 64 }, &q, 1, &r);
        for (int i = 0; i < DRAWS; i++)
            count[r[i].ids[0]]++;
        release_all(&q, 1, &r);
        promised(raw, &o, p);
        check_frequencies(cases[c].name, count, p, DRAWS);
    }
    close_opened(&m);
}

/* ---- two phases ---- */

static struct rng dice;
static uint64_t throw_;

static int roll(int n)
{
    return (int)rng_below(&dice, throw_++, (uint32_t)n);
}

static void random_phases(struct gen_params *p, int vocab)
{
    int half = vocab / 2;
    p->temperature = 0.5f + 0.1f * (float)roll(20);
    p->max_new = 20 + roll(20);
    for (int phase = 0; phase < 2; phase++) {
        p->lo[phase] = (phase ? 0 : half) + roll(half / 2);
        p->hi[phase] = p->lo[phase] + 5 + roll(half / 2 - 5);
        for (int i = roll(4); i > 0; i--)
            p->also[phase][i] = roll(vocab);
        for (int i = roll(4); i > 0; i--)
            p->never[phase][i] = roll(vocab);
    }
    p->flip_id = roll(half);
    p->also[0][0] = p->flip_id;
    p->flip_bias = (float)roll(4);
    p->n_stop = 1;
    p->stop_ids[0] = p->also[1][7] = roll(vocab);
}

static bool among(const int32_t *list, int32_t id)
{
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* Returns whether the sequence changed its phase. */
static bool check_phases(const struct gen_params *p, const struct gen_result *r)
{
    int phase = 0;
    for (int i = 0; i < r->n + (r->stop_id >= 0); i++) {
        int32_t id = i < r->n ? r->ids[i] : r->stop_id;
        bool in = id >= p->lo[phase] && id < p->hi[phase];
        assert_true(in || among(p->also[phase], id));
        assert_false(among(p->never[phase], id));
        if (id == p->flip_id)
            phase = 1;
    }
    return phase;
}

static void test_phases(void **state)
{
    (void)state;
    enum { MODELS = 10, REQUESTS = 20, SAMPLES = 10 };
    int flipped = 0;
    for (int k = 0; k < MODELS; k++) {
        struct gen_params p[REQUESTS];
        struct gen_request q[REQUESTS];
        struct gen_result *r[REQUESTS];
        int32_t prompt[REQUESTS];
        dice = rng_stream(3, "phases", 6, (uint32_t)k);
        int vocab = 40 + roll(160);
        struct opened m = open_random(vocab, (uint64_t)(100 + k), 1);
        for (int i = 0; i < REQUESTS; i++) {
            gen_params_init(&p[i], model_config(m.m));
            random_phases(&p[i], vocab);
            prompt[i] = roll(vocab);
            q[i] = (struct gen_request){ &prompt[i], 1, SAMPLES, 0, 9, "phases", NULL, &p[i] };
        }
        struct engine_options o = { .batch = 32, .read_delay = k % 3, .kv_memory = 0 };
        if (k % 2) /* preempted sequences come back in the right phase */
            o.kv_memory = 12 * (int64_t)kv_page_bytes(m.m);
        run_all(m.m, &o, q, REQUESTS, r);
        for (int i = 0; i < REQUESTS; i++)
            for (int s = 0; s < SAMPLES; s++)
                flipped += check_phases(&p[i], &r[i][s]);
        release_all(q, REQUESTS, r);
        close_opened(&m);
    }
    assert_true(flipped > 100 && flipped < MODELS * REQUESTS * SAMPLES);
}

/* ---- the part of the head that a phase allows ---- */

static int64_t allowed(const struct gen_params *p, int phase, int vocab)
{
    int hi = p->hi[phase] < vocab ? p->hi[phase] : vocab;
    int64_t n = hi - p->lo[phase];
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        n += p->also[phase][i] >= 0 && (p->also[phase][i] < p->lo[phase] || p->also[phase][i] >= hi);
    return n;
}

/* Columns that a sequence's tokens needed, its stop id included. */
static int64_t needed(const struct gen_params *p, const struct gen_result *r, int vocab)
{
    int64_t sum = 0;
    int phase = p->phase;
    for (int i = 0; i < r->n + (r->stop_id >= 0); i++) {
        sum += allowed(p, phase, vocab);
        if (i < r->n && r->ids[i] == p->flip_id)
            phase = 1;
    }
    return sum;
}

static void same_tokens(const struct gen_result *a, const struct gen_result *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->stop_id, b->stop_id);
}

/* Who wants log-probabilities has the whole head computed: with and without them the tokens must be the same ones,
 * whatever runs beside and however late a flip is read. */
static void test_half_head(void **state)
{
    (void)state;
    enum { REQUESTS = 12, SAMPLES = 6, SETS = 4 };
    int64_t half = 0, whole = 0;
    for (int k = 0; k < 12; k++) {
        struct gen_params p[SETS], all[SETS];
        struct gen_request q[REQUESTS];
        struct gen_result *r[REQUESTS], *want[REQUESTS];
        int32_t prompt[REQUESTS];
        dice = rng_stream(4, "half", 4, (uint32_t)k);
        int vocab = 40 + roll(160), sets = k < 6 ? 2 : SETS; /* of four sets some find no group any more */
        struct opened m = open_random(vocab, (uint64_t)(200 + k), 1 + k % 2);
        for (int i = 0; i < sets; i++) {
            gen_params_init(&p[i], model_config(m.m));
            random_phases(&p[i], vocab);
            p[i].phase = i == 1 && k % 4 == 3; /* thinking is closed already */
            if (k % 3 == 1)
                p[i].presence = p[i].repetition = 1.5f;
            all[i] = p[i];
            all[i].logprobs = true;
        }
        for (int i = 0; i < REQUESTS; i++) {
            prompt[i] = roll(vocab);
            q[i] = (struct gen_request){ &prompt[i], 1, SAMPLES, 0, 9, "half", NULL, &all[i % sets] };
        }
        struct engine_stats s = run_all(m.m, &(struct engine_options){ .batch = 16 }, q, REQUESTS, want);
        assert_int_equal(s.logits, s.generated * vocab);
        for (int delay = 0; delay < 3; delay++) {
            struct engine_options o = { .batch = 16 + delay, .read_delay = delay };
            if (k % 2)
                o.kv_memory = 12 * (int64_t)kv_page_bytes(m.m);
            for (int i = 0; i < REQUESTS; i++)
                q[i].params = &p[i % sets];
            if (k % 4 == 2) /* neighbours that want everything */
                q[3].params = &all[3 % sets];
            s = run_all(m.m, &o, q, REQUESTS, r);
            int64_t columns = 0;
            for (int i = 0; i < REQUESTS; i++)
                for (int j = 0; j < SAMPLES; j++) {
                    same_tokens(&r[i][j], &want[i][j]);
                    columns += needed(&p[i % sets], &r[i][j], vocab);
                }
            if (delay == 0 && sets == 2 && k % 4 != 2)
                assert_int_equal(s.logits, columns);
            half += s.logits;
            whole += s.generated * vocab;
            release_all(q, REQUESTS, r);
        }
        release_all(q, REQUESTS, want);
        close_opened(&m);
    }
    assert_true(half < whole * 3 / 4);
}

/* ---- penalties ---- */

static void test_penalties(void **state)
{
    (void)state;
    struct opened m = open_random(VOCAB, 2, 1);
    int32_t prompt[] = { 3, 4, 5, 4 };
    for (int which = 0; which < 3; which++) {
        struct gen_params p;
        struct gen_result *r;
        gen_params_init(&p, model_config(m.m));
        p.temperature = 1;
        p.n_stop = 0;
        p.max_new = 10;
        *(which == 0 ? &p.presence : which == 1 ? &p.frequency : &p.repetition) = 1e6f;
        struct gen_request q = { prompt, 4, 50, 0, 1, "penalties", NULL, &p };
        run_all(m.m, &(struct engine_options){ .read_delay = which }, &q, 1, &r);
        int repeats = 0, prompted = 0;
        for (int s = 0; s < 50; s++)
            for (int i = 0; i < r[s].n; i++) {
                for (int k = 0; k < i; k++)
                    repeats += r[s].ids[i] == r[s].ids[k];
                prompted += r[s].ids[i] >= 3 && r[s].ids[i] <= 5;
            }
        if (which < 2) /* nothing twice; what the prompt has counts for repetition alone */
            assert_int_equal(repeats, 0);
        assert_true(which < 2 ? prompted > 0 : prompted < 40);
        release_all(&q, 1, &r);
    }
    close_opened(&m);
}

/* ---- stop strings ---- */

static void check_stop_string(struct model *m, const struct tokenizer *t, const struct greedy_case *c, const char *text,
                              size_t from, size_t n)
{
    char *stop = xstrndup(text + from, n);
    struct gen_params p;
    struct gen_result *r;
    gen_params_init(&p, model_config(m));
    p.n_stop = 0;
    p.max_new = c->n_out;
    p.n_stop_strings = 2;
    p.stop_strings[0] = "this is nowhere in the text";
    p.stop_strings[1] = stop;
    struct gen_request q = { c->prompt, c->n_prompt, 1, 0, 1, "strings", NULL, &p };
    run_all(m, &(struct engine_options){ .tokenizer = t, .read_delay = (int)(from % 3) }, &q, 1, &r);
    size_t first = (size_t)(strstr(text, stop) - text);
    assert_int_equal(r->stop_string, 1);
    assert_int_equal(r->finish, GEN_STOP);
    assert_int_equal(strlen(r->text), first);
    assert_memory_equal(r->text, text, first);
    assert_true(r->n <= c->n_out);
    assert_memory_equal(r->ids, c->out, (size_t)r->n * sizeof(int32_t));
    release_all(&q, 1, &r);
    free(stop);
}

/* Every stretch of 1 to 9 ASCII letters of the greedy text, wherever it lies in the tokens. */
static void test_stop_strings(void **state)
{
    (void)state;
    static const char *const models[] = { "qwen3", "phi3" };
    for (int k = 0; k < 2; k++) {
        struct greedy_case c[MOST_CASES];
        struct tokenizer *t;
        struct buf text = BUF_INIT;
        char dir[256];
        int checked = 0;
        greedy_load(models[k], c);
        snprintf(dir, sizeof dir, "tests/golden/models/%s", models[k]);
        struct opened m = open_golden("cpu", models[k], 1);
        assert_ok(tokenizer_open(&t, dir, &e));
        assert_ok(tokenizer_decode(t, c[1].out, (size_t)c[1].n_out, true, &text, &e));
        for (size_t from = 0; from < text.len; from++)
            for (size_t n = 1; n <= 9 && from + n + 4 < text.len; n += 2) {
                bool ascii = true;
                for (size_t i = from; i < from + n; i++)
                    ascii &= text.s[i] > ' ' && text.s[i] < 127;
                if (!ascii)
                    continue;
                check_stop_string(m.m, t, &c[1], text.s, from, n);
                checked++;
            }
        assert_true(checked > 20);
        buf_release(&text);
        tokenizer_close(t);
        close_opened(&m);
    }
}

/* ---- no allocation while decoding ---- */

static void test_no_allocation(void **state)
{
    (void)state;
    if (!COUNTS_ALLOCATIONS) {
        printf("# skip: allocations are not counted under the sanitizer\n");
        skip();
    }
    struct opened m = open_random(VOCAB, 1, 2);
    int32_t prompt[] = { 3, 4, 5, 4 };
    for (int delay = 0; delay <= 2; delay++) {
        struct engine *g;
        struct gen_params p;
        gen_params_init(&p, model_config(m.m));
        p.temperature = 1;
        p.top_p = 0.9f;
        p.repetition = 1.1f;
        p.n_stop = 0;
        p.logprobs = true;
        p.max_new = 400;
        struct gen_request q = { prompt, 4, 8, 0, 1, "quiet", NULL, &p };
        assert_ok(engine_open(&g, m.m, &(struct engine_options){ .batch = 8, .read_delay = delay }, &e));
        assert_ok(engine_submit(g, &q, &e));
        for (int i = 0; i < 40; i++)
            assert_int_equal(engine_step(g, &e), 1);
        long before = allocations;
        for (int i = 0; i < 300; i++) /* over nine ends of pages */
            assert_int_equal(engine_step(g, &e), 1);
        assert_int_equal(allocations - before, 0);
        engine_close(g);
    }
    close_opened(&m);
}

/* Nor while somebody waits for room in the cache. */
static void test_waiting_allocates_nothing(void **state)
{
    (void)state;
    if (!COUNTS_ALLOCATIONS) {
        printf("# skip: allocations are not counted under the sanitizer\n");
        skip();
    }
    struct opened m = open_random(VOCAB, 1, 1);
    struct engine *g;
    struct gen_params p;
    int32_t prompt[320] = { 3 };
    gen_params_init(&p, model_config(m.m));
    p.n_stop = 0;
    p.max_new = 60;
    struct engine_options o = { .kv_memory = 30 * (int64_t)kv_page_bytes(m.m) };
    assert_ok(engine_open(&g, m.m, &o, &e));
    for (int i = 0; i < 6; i++) {
        prompt[0] = i; /* nothing shared */
        struct gen_request q = { prompt, 320, 1, 0, 1, "waits", NULL, &p };
        assert_ok(engine_submit(g, &q, &e));
    }
    for (int i = 0; i < 6; i++)
        assert_int_equal(engine_step(g, &e), 1);
    long before = allocations;
    for (int i = 0; i < 20; i++)
        assert_int_equal(engine_step(g, &e), 1);
    assert_int_equal(allocations - before, 0);
    assert_int_equal(engine_stats(g).running, 2);
    assert_int_equal(engine_stats(g).waiting, 4);
    engine_close(g);
    close_opened(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_half_head),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_waiting_allocates_nothing),
    };
    return cmocka_run_group_tests_name("infer_sample", tests, NULL, NULL);
}
