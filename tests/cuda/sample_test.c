/* sample_test.c - the CUDA sampler against the oracle, token by token: ids, slots and log-probabilities. */
#include "cuda/cuda_test.h"
#include "kernels/sample_problem.h"

enum { ROWS = 12 };

/* Rows have the slots from the last to the first. */
static struct sampler sampler_with(struct device *d, int n, int vocab, bool counts, const struct sample_slot *slots)
{
    struct sampler s = sampler_of(d, n, vocab, counts);
    int32_t index[ROWS];
    for (int i = 0; i < n; i++)
        index[i] = n - 1 - i;
    d->tensor_write(d, s.slot_of, 0, index, (size_t)n);
    put_slots(&s, slots);
    return s;
}

static void step(struct sampler s[2], const float *logits, const char *what)
{
    int32_t *id[2];
    float *lp[2];
    struct sample_slot *slots[2];
    int32_t *counts[2] = { NULL, NULL };
    for (int j = 0; j < 2; j++) {
        struct device *d = s[j].d;
        struct sample_args a = sample_args_of(&s[j]);
        d->tensor_write(d, s[j].logits, 0, logits, (size_t)s[j].n * (size_t)s[j].vocab);
        d->sample(d, &a);
        id[j] = back(d, s[j].id, 4);
        lp[j] = back(d, s[j].logprob, 4);
        slots[j] = back(d, s[j].slots, 1);
        if (s[j].counts)
            counts[j] = back(d, s[j].counts, 4);
    }
    same_ints(what, id[0], id[1], s[0].n);
    same_floats(what, lp[0], lp[1], s[0].n, 1e-5, 1e-5);
    if (memcmp(slots[0], slots[1], (size_t)s[0].n * sizeof **slots) != 0)
        note_mismatch("%s: the slots differ", what);
    if (counts[0])
        same_ints(what, counts[0], counts[1], (int64_t)s[0].n * s[0].vocab);
    for (int j = 0; j < 2; j++) {
        free(id[j]);
        free(lp[j]);
        free(slots[j]);
        free(counts[j]);
    }
}

static void random_options(struct device *d, struct device *o)
{
    static const int sizes[] = { 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 3000 };
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        int vocab = sizes[z];
        struct source src = source_of((uint64_t)vocab);
        struct sample_slot slots[ROWS];
        char what[64];
        for (int i = 0; i < ROWS; i++)
            slots[i] = random_slot(&src, vocab, (uint32_t)i);
        slots[2].done = SAMPLE_EMPTY;
        struct sampler s[2] = { sampler_with(d, ROWS, vocab, true, slots), sampler_with(o, ROWS, vocab, true, slots) };
        for (int round = 0; round < 4; round++) {
            float *x = tied_logits(&src, ROWS * vocab);
            snprintf(what, sizeof what, "vocabulary %d, step %d", vocab, round);
            step(s, x, what);
            free(x);
        }
        sampler_free(&s[0]);
        sampler_free(&s[1]);
    }
}

/* One option at a time, so that each is seen at work; many ties, so that cuts fall into them. */
static void single_options(struct device *d, struct device *o)
{
    enum { V = 70, N = 10 };
    struct sample_slot slots[N];
    struct source src = source_of(11);
    for (int i = 0; i < N; i++)
        slots[i] = slot_of(1, V, 3, (uint32_t)i);
    slots[0].top_k = 5;
    slots[1].top_p = 0.6f;
    slots[2].min_p = 0.3f;
    slots[3].top_k = 30;
    slots[3].top_p = 0.9f;
    slots[4].temperature = 0;
    slots[5].top_p = 0;
    slots[6].top_k = 69;
    slots[7].min_p = 1;
    slots[8].lo[0] = 20;
    slots[8].hi[0] = 21;
    slots[9].temperature = 0.01f;
    struct sampler s[2] = { sampler_with(d, N, V, false, slots), sampler_with(o, N, V, false, slots) };
    for (int round = 0; round < 12; round++) {
        float x[N * V];
        for (int i = 0; i < N * V; i++)
            x[i] = (float)next_int(&src, 4) / 2;
        for (int i = 0; i < V; i++)
            if (round == 3 && i != 40)
                x[i] = -INFINITY; /* of the last slot: one id is left */
        step(s, x, "single options");
    }
    sampler_free(&s[0]);
    sampler_free(&s[1]);
}

/* Nothing finite: the lowest id that the slot allows. */
static void nothing_finite(struct device *d, struct device *o)
{
    enum { V = 40 };
    struct sample_slot slots[2] = { slot_of(1, V, 3, 0), slot_of(1, V, 3, 1) };
    struct err e = { "" };
    float x[2 * V];
    int32_t id[2];
    (void)o;
    for (int i = 0; i < 2 * V; i++)
        x[i] = -INFINITY;
    x[3] = INFINITY; /* row 0 is slot 1: the infinite one wins */
    slots[0].lo[0] = 33;
    slots[0].never[0][5] = 33;
    struct sampler s = sampler_with(d, 2, V, false, slots);
    struct sample_args a = sample_args_of(&s);
    a.out_logprob = NULL; /* not asked for */
    d->tensor_write(d, s.logits, 0, x, 2 * V);
    d->sample(d, &a);
    if (d->tensor_read(d, s.id, 0, id, 2, &e) < 0)
        note_mismatch("%s", e.msg);
    else
        same_ints("nothing finite", id, (int32_t[]){ 3, 34 }, 2);
    sampler_free(&s);
}

static void failures(struct device *d, struct device *o)
{
    enum { V = 40 };
    struct sample_slot slots[3] = { slot_of(1, V, 3, 0), slot_of(1, V, 3, 1), slot_of(1, V, 3, 2) };
    struct source src = source_of(12);
    struct err e = { "" };
    int32_t id[3];
    (void)o;
    float *x = random_floats(&src, 3 * V, 1);
    x[V + 39] = NAN;
    struct sampler s = sampler_with(d, 3, V, false, slots);
    struct sample_args a = sample_args_of(&s);
    a.out_logprob = NULL; /* not asked for */
    d->tensor_write(d, s.logits, 0, x, 3 * V);
    d->sample(d, &a);
    struct read_ticket *r; /* the read of the step itself says it */
    assert_ok(d->read_begin(d, &r, s.id, 0, 3, &e));
    if (d->read_wait(d, r, id, &e) != -1 || !strstr(e.msg, "NaN in logits of sampler slot 1"))
        note_mismatch("a NaN passed: %s", e.msg);
    if (d->sync(d, &e) != -1)
        note_mismatch("the failure did not last");
    sampler_free(&s);
    struct device *fresh = open_device_under_test(test_bf16);
    slots[2].lo[0] = slots[2].hi[0] = 5;
    x[V + 39] = 0;
    s = sampler_with(fresh, 3, V, false, slots);
    a = sample_args_of(&s);
    fresh->tensor_write(fresh, s.logits, 0, x, 3 * V);
    fresh->sample(fresh, &a);
    if (fresh->sync(fresh, &e) != -1 || !strstr(e.msg, "slot 2 allows no id at all"))
        note_mismatch("a slot without ids passed: %s", e.msg);
    sampler_free(&s);
    device_close(fresh);
    free(x);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    expect_found(PLANT_NO_ATOMIC_CLEAR, single_options, "the histogram is not cleared");
    expect_found(PLANT_NO_BARRIER, single_options, "no barrier before the sums of the warps are read");
}

static void test_named(void **state)
{
    (void)state;
    SKIP_UNWATCHED();
    test_bf16 = false;
    expect_named(PLANT_PAST_THE_SUMS, single_options, ": never written: ");
    expect_named(PLANT_BLOCKS_MEET, random_options, ": race between blocks: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(random_options), CHECK(single_options),          CHECK(nothing_finite),
        CHECK(failures),       cmocka_unit_test(test_planted), cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
