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
        for (int round = 0; round < 3; round++) {
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

/* The device takes a row by parts of 4,096 ids and chunks of 512. */
enum { CHUNK = 512, PART = 4096 };

/* Slots that must not care where a part ends: one option each. */
static int slots_over_parts(struct sample_slot *slots, int vocab)
{
    enum { N = 11 };
    for (int i = 0; i < N; i++)
        slots[i] = slot_of(1, vocab, 5, (uint32_t)i);
    slots[0].temperature = 0;
    slots[2].top_k = 20;
    slots[3].top_p = 0.9f;
    slots[4].top_k = vocab - 1;
    slots[4].top_p = 0.99f;
    slots[5].min_p = 0.02f;
    slots[5].temperature = 3;
    slots[6].lo[0] = vocab - 1; /* one id is left, the last */
    slots[6].top_k = 3;
    slots[7].hi[0] = 0; /* only what a list allows, at the edges of chunks and parts */
    slots[7].also[0][0] = CHUNK - 1;
    slots[7].also[0][1] = PART - 1 < vocab ? PART - 1 : vocab - 1;
    slots[7].also[0][7] = PART < vocab ? PART : 0;
    slots[8].temperature = 0;
    slots[8].lo[0] = vocab / 2;
    slots[8].also[0][3] = 0;
    slots[8].never[0][2] = vocab - 1;
    slots[9].temperature = 0.4f;
    slots[9].repetition = 1.3f;
    slots[9].top_p = 0.7f;
    slots[10].temperature = 1e9f; /* all but equal: half of them stay */
    slots[10].top_p = 0.5f;
    return N;
}

/* Rows whose largest logit lies at every edge in turn, twice, and of which one part is -infinity. */
static float *edged_logits(struct source *src, int n, int vocab, int round)
{
    static const int at[] = { 0, CHUNK - 1, CHUNK, PART - 1, PART, 2 * PART - 1, 2 * PART };
    enum { EDGES = sizeof at / sizeof *at };
    float *x = tied_logits(src, (int64_t)n * vocab);
    for (int i = 0; i < n; i++) {
        float *row = x + (int64_t)i * vocab;
        int edge = at[(i + round) % EDGES], part = (i + round) % 4;
        for (int j = part * PART; j < (part + 1) * PART && j < vocab && vocab > PART; j++)
            row[j] = -INFINITY;
        row[edge < vocab ? edge : vocab - 1] = row[vocab - 1] = 9;
    }
    return x;
}

static void over_parts(struct device *d, struct device *o, const int *sizes, int nsizes, int rounds)
{
    for (int z = 0; z < nsizes; z++) {
        int vocab = sizes[z];
        struct source src = source_of((uint64_t)vocab);
        struct sample_slot slots[ROWS];
        char what[64];
        int n = slots_over_parts(slots, vocab);
        struct sampler s[2] = { sampler_with(d, n, vocab, true, slots), sampler_with(o, n, vocab, true, slots) };
        for (int round = 0; round < rounds; round++) {
            float *x = edged_logits(&src, n, vocab, round);
            snprintf(what, sizeof what, "parts of %d, step %d", vocab, round);
            step(s, x, what);
            free(x);
        }
        sampler_free(&s[0]);
        sampler_free(&s[1]);
    }
}

static void edges_of_parts(struct device *d, struct device *o)
{
    over_parts(d, o, (int[]){ PART - 1, PART, PART + 1, 2 * PART + CHUNK + 1 }, 4, 3);
}

static void true_vocabulary(struct device *d, struct device *o)
{
    over_parts(d, o, (int[]){ 151936 }, 1, 1);
}

/* A row in the company of others, the last of n: the bits it has alone. */
static void any_company(struct device *d, struct device *o)
{
    enum { V = PART + 1000, MOST = 300 };
    static const int companies[] = { 1, 7, MOST };
    struct sample_slot all[ROWS], slots[MOST];
    int kinds = slots_over_parts(all, V);
    (void)o;
    for (int k = 0; k < kinds; k += 3) {
        struct source src = source_of((uint64_t)k);
        float *row = tied_logits(&src, V), logprob[3];
        int32_t id[3];
        for (int c = 0; c < 3; c++) {
            int n = companies[c];
            for (int i = 0; i < n; i++) {
                slots[i] = all[(i + k) % kinds];
                slots[i].done = i < 3 ? SAMPLE_RUNNING : SAMPLE_EMPTY;
            }
            slots[n - 1] = all[k];
            struct sampler s = sampler_of(d, n, V, false);
            put_slots(&s, slots);
            d->tensor_write(d, s.logits, (size_t)(n - 1) * V, row, V);
            struct sample_args a = sample_args_of(&s);
            d->sample(d, &a);
            int32_t *ids = back(d, s.id, sizeof *ids);
            float *logprobs = back(d, s.logprob, sizeof *logprobs);
            id[c] = ids[n - 1];
            logprob[c] = logprobs[n - 1];
            if (id[c] != id[0] || memcmp(&logprob[c], &logprob[0], sizeof *logprob) != 0)
                note_mismatch("options %d: alone id %d, %.9g; among %d id %d, %.9g", k, id[0], logprob[0], n, id[c],
                              logprob[c]);
            free(ids);
            free(logprobs);
            sampler_free(&s);
        }
        free(row);
    }
}

/* Nothing finite: the lowest id that the slot allows. */
static void nothing_finite(struct device *d, struct device *o)
{
    enum { V = PART + 100 };
    struct sample_slot slots[2] = { slot_of(1, V, 3, 0), slot_of(1, V, 3, 1) };
    struct err e = { "" };
    float x[2 * V];
    int32_t id[2];
    (void)o;
    for (int i = 0; i < 2 * V; i++)
        x[i] = -INFINITY;
    x[3] = INFINITY; /* row 0 is slot 1: the infinite one wins */
    slots[0].lo[0] = PART + 33;
    slots[0].never[0][5] = PART + 33;
    struct sampler s = sampler_with(d, 2, V, false, slots);
    struct sample_args a = sample_args_of(&s);
    a.out_logprob = NULL; /* not asked for */
    d->tensor_write(d, s.logits, 0, x, 2 * V);
    d->sample(d, &a);
    if (d->tensor_read(d, s.id, 0, id, 2, &e) < 0)
        note_mismatch("%s", e.msg);
    else
        same_ints("nothing finite", id, (int32_t[]){ 3, PART + 34 }, 2);
    sampler_free(&s);
}

static void failures(struct device *d, struct device *o)
{
    enum { V = PART + 100 };
    struct sample_slot slots[3] = { slot_of(1, V, 3, 0), slot_of(1, V, 3, 1), slot_of(1, V, 3, 2) };
    struct source src = source_of(12);
    struct err e = { "" };
    int32_t id[3];
    (void)o;
    float *x = random_floats(&src, 3 * V, 1);
    x[2 * V - 1] = NAN;
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
    x[2 * V - 1] = 0;
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
    expect_found(PLANT_PART_EDGE, edges_of_parts, "the last id of a chunk is left out");
}

static void test_named(void **state)
{
    (void)state;
    SKIP_UNWATCHED();
    test_bf16 = false;
    expect_named(PLANT_PART_MORE, nothing_finite, ": never written: ");
    expect_named(PLANT_BLOCKS_MEET, random_options, ": race between blocks: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(random_options),        CHECK(single_options), CHECK(edges_of_parts), CHECK(true_vocabulary),
        CHECK(any_company),           CHECK(nothing_finite), CHECK(failures),       cmocka_unit_test(test_planted),
        cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
