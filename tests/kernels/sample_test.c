/* sample_test.c - the sampler: every option against the distribution it should give, the fast path against the oracle
 * token by token, and what a draw does to its slot.
 *
 * The chi-square tests use a fixed seed and a limit that right code passes on all but one seed in a million a test. */
#include "kernels/sample_problem.h"

enum { V = 10, SLOTS = 512, ROUNDS = 40 };

/* ---- distributions ---- */

static const float logits10[V] = { 1.0f, 0.5f, 2.0f, -1.0f, 0.0f, 1.5f, -0.5f, 0.5f, -2.0f, 1.8f };
/* prompt occurrences << 16 | generated occurrences */
static const int32_t counts10[V] = { 1 << 16, 0, 2, (1 << 16) | 1, 0, 3, 0, 1 << 16, 0, 0 };

struct option {
    const char *name;
    void (*set)(struct sample_slot *s);
    bool counts;
};

static void set_none(struct sample_slot *s)
{
    (void)s;
}
static void set_temperature(struct sample_slot *s)
{
    s->temperature = 0.6f;
}
static void set_top_k(struct sample_slot *s)
{
    s->top_k = 3;
}
static void set_top_p(struct sample_slot *s)
{
    s->top_p = 0.7f;
}
static void set_min_p(struct sample_slot *s)
{
    s->min_p = 0.25f;
}
static void set_all_p(struct sample_slot *s)
{
    s->temperature = 1.5f;
    s->top_k = 7;
    s->top_p = 0.8f;
    s->min_p = 0.35f;
}
static void set_repetition(struct sample_slot *s)
{
    s->repetition = 1.5f;
}
static void set_presence(struct sample_slot *s)
{
    s->presence = 0.8f;
    s->frequency = 0.4f;
}
static void set_range(struct sample_slot *s)
{
    s->lo[0] = 2;
    s->hi[0] = 6;
    s->also[0][0] = 9;
    s->never[0][0] = 5;
}
static void set_phase(struct sample_slot *s)
{
    set_range(s);
    s->phase = 1;
    s->lo[1] = 6;
    s->never[1][3] = 8;
    s->also[1][7] = 0;
    s->flip_id = 7;
    s->flip_bias = 5; /* must not count in phase 1 */
}
static void set_bias(struct sample_slot *s)
{
    s->flip_id = 3;
    s->flip_bias = 2.5f;
}

static const struct option options[] = {
    { "plain", set_none, false },        { "temperature", set_temperature, false },
    { "top_k", set_top_k, false },       { "top_p", set_top_p, false },
    { "min_p", set_min_p, false },       { "together", set_all_p, false },
    { "repetition", set_repetition, 1 }, { "presence", set_presence, true },
    { "range", set_range, false },       { "phase 1", set_phase, false },
    { "flip bias", set_bias, false },
};
enum { OPTIONS = sizeof options / sizeof *options };

static bool listed(const int32_t *list, int id)
{
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* What the words of formats.md 12 say, by repeated search for the largest: shares no code with either sampler. */
static void expect(const struct sample_slot *s, double p[V])
{
    double l[V], sum = 0;
    int order[V], n = 0, ph = s->phase;
    for (int i = 0; i < V; i++) {
        l[i] = logits10[i];
        if (counts10[i] && s->repetition != 1)
            l[i] = l[i] > 0 ? l[i] / s->repetition : l[i] * s->repetition;
        if (counts10[i] & 0xffff)
            l[i] -= s->presence + s->frequency * (counts10[i] & 0xffff);
        if (ph == 0 && i == s->flip_id)
            l[i] += s->flip_bias;
        bool in = (i >= s->lo[ph] && i < s->hi[ph]) || listed(s->also[ph], i);
        p[i] = in && !listed(s->never[ph], i) ? exp(l[i] / s->temperature) : 0;
    }
    double q[V];
    memcpy(q, p, sizeof q);
    for (;; n++) {
        int best = -1;
        for (int i = 0; i < V; i++)
            if (q[i] > 0 && (best < 0 || q[i] > q[best]))
                best = i;
        if (best < 0)
            break;
        order[n] = best;
        q[best] = 0;
    }
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    for (int i = 0; i < n; i++)
        sum += p[order[i]];
    double mass = 0;
    int kept = 0;
    while (kept < n && (kept == 0 || mass < s->top_p * sum * (1 - 1e-12)))
        mass += p[order[kept++]];
    double largest = p[order[0]], total = 0;
    memset(q, 0, sizeof q);
    for (int i = 0; i < kept; i++)
        if (p[order[i]] >= s->min_p * largest)
            total += q[order[i]] = p[order[i]];
    for (int i = 0; i < V; i++)
        p[i] = q[i] / total;
}

static double chi_square_limit(int freedom) /* one in a million (Wilson and Hilferty) */
{
    double t = 2.0 / (9 * freedom);
    return freedom * pow(1 - t + 4.7534 * sqrt(t), 3);
}

static void check_counts(const char *what, const int64_t *seen, const double *p, int64_t n)
{
    double chi = 0;
    int cells = 0;
    for (int i = 0; i < V; i++) {
        double want = p[i] * (double)n;
        if (p[i] == 0) {
            if (seen[i])
                fail_msg("%s: id %d drawn %d times, probability 0", what, i, (int)seen[i]);
            continue;
        }
        cells++;
        chi += ((double)seen[i] - want) * ((double)seen[i] - want) / want;
    }
    if (cells > 1 && !(chi < chi_square_limit(cells - 1)))
        fail_msg("%s: chi square %.1f with %d cells, limit %.1f", what, chi, cells, chi_square_limit(cells - 1));
}

static void test_distributions(void **state)
{
    (void)state;
    static struct sample_slot slots[SLOTS];
    static int32_t id[SLOTS];
    struct err e = { "" };
    for (int isa = CPU_ORACLE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 2);
        for (int o = 0; d && o < OPTIONS; o++) {
            struct sampler s = sampler_of(d, SLOTS, V, options[o].counts);
            int64_t seen[V] = { 0 };
            for (int i = 0; i < SLOTS; i++)
                d->tensor_write(d, s.logits, (size_t)i * V, logits10, V);
            for (int round = 0; round < ROUNDS; round++) {
                for (int i = 0; i < SLOTS; i++) {
                    slots[i] = slot_of(1, V, 7, (uint32_t)i);
                    options[o].set(&slots[i]);
                    slots[i].generated = round;
                    if (options[o].counts)
                        d->tensor_write(d, s.counts, (size_t)i * V, counts10, V);
                }
                put_slots(&s, slots);
                assert_ok(sample(&s, id, &e));
                for (int i = 0; i < SLOTS; i++)
                    seen[id[i]]++;
            }
            double p[V];
            expect(&slots[0], p);
            char what[64];
            snprintf(what, sizeof what, "%s %s", path_name(isa), options[o].name);
            check_counts(what, seen, p, (int64_t)SLOTS * ROUNDS);
            sampler_free(&s);
        }
        device_close(d);
    }
}

/* ---- token by token ---- */

static void test_oracle(void **state)
{
    (void)state;
    static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 5000 };
    enum { N = 33, STEPS = 8 };
    struct err e = { "" };
    for (int isa = CPU_BASE; isa <= CPU_AVX2; isa++)
        for (int z = 0; z < 11; z++) {
            struct device *d[2] = { open_path(CPU_ORACLE, 1), open_path(isa, 2) };
            if (!d[1]) {
                device_close(d[0]);
                continue;
            }
            int vocab = sizes[z];
            struct source src = source_of((uint64_t)vocab);
            struct sampler s[2] = { sampler_of(d[0], N, vocab, true), sampler_of(d[1], N, vocab, true) };
            struct sample_slot slots[2][N];
            for (int i = 0; i < N; i++)
                slots[0][i] = random_slot(&src, vocab, (uint32_t)i);
            for (int j = 0; j < 2; j++)
                put_slots(&s[j], slots[0]);
            for (int step = 0; step < STEPS; step++) {
                float *x = tied_logits(&src, N * vocab);
                int32_t id[2][N];
                float *lp[2];
                for (int j = 0; j < 2; j++) {
                    d[j]->tensor_write(d[j], s[j].logits, 0, x, (size_t)(N * vocab));
                    assert_ok(sample(&s[j], id[j], &e));
                    lp[j] = floats_back(d[j], s[j].logprob);
                    get_slots(&s[j], slots[j]);
                }
                for (int i = 0; i < N; i++) {
                    if (id[0][i] != id[1][i])
                        fail_msg("%s vocab %d step %d row %d: %d, oracle %d", path_name(isa), vocab, step, i, id[1][i],
                                 id[0][i]);
                    assert_memory_equal(&slots[0][i], &slots[1][i], sizeof slots[0][i]);
                    if (id[0][i] >= 0)
                        assert_close("logprob", &lp[1][i], &lp[0][i], 1, 1e-6, 1e-6);
                }
                free(lp[0]);
                free(lp[1]);
                free(x);
            }
            for (int j = 0; j < 2; j++) {
                sampler_free(&s[j]);
                device_close(d[j]);
            }
        }
}

/* ---- what a draw does ---- */

static void test_greedy_and_slots(void **state)
{
    (void)state;
    struct err e = { "" };
    for (int isa = CPU_ORACLE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 1);
        if (!d)
            continue;
        struct sampler s = sampler_of(d, 7, V, true);
        float x[7][V];
        for (int i = 0; i < 7; i++)
            memcpy(x[i], logits10, sizeof x[i]);
        x[0][5] = x[0][9] = 2; /* 2, 5 and 9 tie */
        for (int i = 0; i < V; i++)
            x[4][i] = -INFINITY;
        d->tensor_write(d, s.logits, 0, x, 7 * V);
        struct sample_slot slots[7], after[7];
        for (int i = 0; i < 7; i++) {
            slots[i] = slot_of(0, V, 1, (uint32_t)i);
            slots[i].position = 10 + i;
            slots[i].generated = i;
        }
        slots[1].stop[4] = 2; /* greedy id is 2: stops */
        slots[2].limit = 3;   /* this is the third */
        slots[3].done = SAMPLE_STOPPED;
        slots[4].lo[0] = 4; /* nothing finite: the lowest allowed id */
        slots[4].never[0][2] = 4;
        slots[4].temperature = 1;
        slots[5].flip_id = 2; /* flips */
        slots[6].done = SAMPLE_EMPTY;
        put_slots(&s, slots);
        int32_t id[7], counts[7 * V];
        assert_ok(sample(&s, id, &e));
        get_slots(&s, after);
        const int32_t want[7] = { 2, 2, 2, -1, 5, 2, -1 };
        const int32_t done[7] = { 0, SAMPLE_STOPPED, SAMPLE_LENGTH, SAMPLE_STOPPED, 0, 0, SAMPLE_EMPTY };
        assert_ok(d->tensor_read(d, s.counts, 0, counts, 7 * V, &e));
        for (int i = 0; i < 7; i++) {
            assert_int_equal(id[i], want[i]);
            assert_int_equal(after[i].done, done[i]);
            assert_int_equal(after[i].phase, i == 5);
            if (want[i] < 0) {
                assert_memory_equal(&after[i], &slots[i], sizeof after[i]);
                continue;
            }
            assert_int_equal(after[i].last, want[i]);
            assert_int_equal(after[i].generated, i + 1);
            assert_int_equal(after[i].position, 11 + i);
            assert_int_equal(counts[i * V + want[i]], 1);
        }
        sampler_free(&s);
        device_close(d);
    }
}

static void test_nan_is_a_failure(void **state)
{
    (void)state;
    for (int isa = CPU_ORACLE; isa <= CPU_AVX2; isa++) {
        struct device *d = open_path(isa, 2);
        if (!d)
            continue;
        struct err e = { "" };
        struct sampler s = sampler_of(d, 4, V, false);
        float x[4][V];
        struct sample_slot slots[4];
        for (int i = 0; i < 4; i++) {
            memcpy(x[i], logits10, sizeof x[i]);
            slots[i] = slot_of(1, V, 1, (uint32_t)i);
        }
        x[2][9] = NAN;
        slots[3].done = SAMPLE_EMPTY;
        x[3][0] = NAN; /* nobody's row: no failure */
        int32_t id[4];
        d->tensor_write(d, s.logits, 0, x, 4 * V);
        put_slots(&s, slots);
        assert_int_equal(sample(&s, id, &e), -1);
        assert_non_null(strstr(e.msg, "NaN in logits of sampler slot 2"));
        e.msg[0] = '\0';
        assert_int_equal(d->sync(d, &e), -1); /* sticky */
        struct read_ticket *r;
        assert_int_equal(d->read_begin(d, &r, s.id, 0, 4, &e), 0);
        assert_int_equal(d->read_wait(d, r, id, &e), -1);
        sampler_free(&s);
        device_close(d);
    }
}

static void test_decode_inputs(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d = open_path(cpu_best(), 1);
    struct sampler s = sampler_of(d, 3, V, false);
    struct sample_slot slots[3];
    for (int i = 0; i < 3; i++)
        slots[i] = slot_of(1, V, 1, 0);
    slots[0].last = 4, slots[0].position = 33;
    slots[1].last = 5, slots[1].position = 70, slots[1].done = SAMPLE_LENGTH;
    slots[2].last = 6, slots[2].position = 0;
    put_slots(&s, slots);
    const int32_t pages[3][3] = { { 5, 9, 0 }, { 1, 2, 3 }, { 7, 0, 0 } }, offset[3] = { 100, 0, 1 },
                  of[3] = { 2, 1, 0 };
    struct tensor *t[7] = { ints_of(d, 3, 1, of),   ints_of(d, 3, 3, pages[0]), ints_of(d, 3, 1, offset),
                            ints_of(d, 3, 1, NULL), ints_of(d, 3, 1, NULL),     ints_of(d, 3, 1, NULL),
                            ints_of(d, 3, 1, NULL) };
    struct decode_inputs_args a = { t[0], s.slots, t[1], t[2], t[3], t[4], t[5], t[6], 3 };
    d->decode_inputs(d, &a);
    const int32_t want[4][3] = { { 6, 0, 4 }, { 1, 0, 133 }, { 1, 1, 34 }, { 7 * KV_PAGE, -1, 9 * KV_PAGE + 1 } };
    for (int i = 0; i < 4; i++) {
        int32_t got[3];
        assert_ok(d->tensor_read(d, t[3 + i], 0, got, 3, &e));
        assert_memory_equal(got, want[i], sizeof got);
    }
    for (int i = 0; i < 7; i++)
        d->tensor_free(d, t[i]);
    sampler_free(&s);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distributions),    cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_greedy_and_slots), cmocka_unit_test(test_nan_is_a_failure),
        cmocka_unit_test(test_decode_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
