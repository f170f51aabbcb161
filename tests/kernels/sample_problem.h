/* sample_problem.h - the sampler's problems: slots with and without options, and one sampler over them. */
#ifndef LATENT_SAMPLE_PROBLEM_H
#define LATENT_SAMPLE_PROBLEM_H

#include "kernels/kernel_test.h"

static inline struct sample_slot slot_of(float temperature, int vocab, uint64_t seed, uint32_t index)
{
    struct rng r = rng_stream(seed, "slot", 4, index);
    struct sample_slot s = { .temperature = temperature,
                             .top_p = 1,
                             .repetition = 1,
                             .hi = { vocab, vocab },
                             .flip_id = -1,
                             .limit = 1 << 30,
                             .key = { r.key[0], r.key[1] },
                             .stream = { r.stream[0], r.stream[1] } };
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        s.also[0][i] = s.also[1][i] = s.never[0][i] = s.never[1][i] = s.stop[i] = -1;
    return s;
}

struct sampler {
    struct device *d;
    int n, vocab;
    struct tensor *logits, *slot_of, *slots, *counts, *id, *logprob;
};

static inline struct sampler sampler_of(struct device *d, int n, int vocab, bool counts)
{
    struct sampler s = { .d = d, .n = n, .vocab = vocab };
    int32_t *index = xcalloc((size_t)n, sizeof *index);
    for (int i = 0; i < n; i++)
        index[i] = i;
    s.logits = floats_of(d, n, vocab, NULL);
    s.slot_of = ints_of(d, n, 1, index);
    s.slots = tensor_of(d, DTYPE_U8, n, sizeof(struct sample_slot), NULL);
    s.counts = counts ? ints_of(d, n, vocab, NULL) : NULL;
    s.id = ints_of(d, n, 1, NULL);
    s.logprob = floats_of(d, n, 1, NULL);
    free(index);
    return s;
}

static inline void sampler_free(struct sampler *s)
{
    struct tensor *t[] = { s->logits, s->slot_of, s->slots, s->counts, s->id, s->logprob };
    for (int i = 0; i < 6; i++)
        s->d->tensor_free(s->d, t[i]);
}

static inline void put_slots(struct sampler *s, const struct sample_slot *slots)
{
    s->d->tensor_write(s->d, s->slots, 0, slots, (size_t)s->n * sizeof *slots);
}

static inline void get_slots(struct sampler *s, struct sample_slot *slots)
{
    struct err e = { "" };
    assert_ok(s->d->tensor_read(s->d, s->slots, 0, slots, (size_t)s->n * sizeof *slots, &e));
}

static inline struct sample_args sample_args_of(const struct sampler *s)
{
    return (struct sample_args){ s->logits, s->slot_of, s->slots, s->counts, s->id, s->logprob, s->n, s->vocab };
}

static inline int sample(struct sampler *s, int32_t *id, struct err *e)
{
    struct sample_args a = sample_args_of(s);
    s->d->sample(s->d, &a);
    return s->d->tensor_read(s->d, s->id, 0, id, (size_t)s->n, e);
}

/* Any of the options, at any of a few values. */
static inline struct sample_slot random_slot(struct source *src, int vocab, uint32_t index)
{
    static const float temperature[] = { 0, 0.3f, 0.7f, 1, 1.7f }, top_p[] = { 1, 0.95f, 0.5f, 0.01f };
    static const float min_p[] = { 0, 0, 0.05f, 0.5f };
    static const int top_k[] = { 0, 1, 20, 200 };
    struct sample_slot s = slot_of(1, vocab, 3, index);
    s.temperature = temperature[next_int(src, 5)];
    s.top_p = top_p[next_int(src, 4)];
    s.min_p = min_p[next_int(src, 4)];
    s.top_k = top_k[next_int(src, 4)];
    s.repetition = next_int(src, 2) ? 1 : 1.1f;
    s.presence = next_int(src, 2) ? 0 : 0.5f;
    s.frequency = next_int(src, 2) ? 0 : 0.1f;
    s.flip_id = next_int(src, vocab + 1) - 1;
    s.flip_bias = 3;
    if (next_int(src, 2)) {
        s.hi[0] = vocab / 2 + 1;
        s.lo[1] = vocab / 2;
        s.also[0][0] = next_int(src, vocab);
        s.never[1][0] = vocab - 1 > vocab / 2 ? vocab - 1 : -1;
    }
    s.stop[1] = next_int(src, vocab);
    s.limit = 3 + next_int(src, 5);
    return s;
}

/* Ties occur, as they do in bf16. */
static inline float *tied_logits(struct source *src, int64_t n)
{
    float *x = random_floats(src, n, 8);
    for (int64_t i = 0; i < n; i++)
        x[i] = roundf(x[i] * 16) / 16;
    return x;
}

#endif
