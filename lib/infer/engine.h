/* engine.h - generation: many prompts in, sampled continuations out, as fast as the device allows.
 *
 *     struct gen_params p;      gen_params_init(&p, model_config(m));  p.temperature = 0.7f; ...
 *     struct engine *g;         engine_open(&g, m, &(struct engine_options){ .batch = 16 }, &e);
 *     struct gen_request q = { .prompt = ids, .n_prompt = n, .n_samples = 8, .seed = 1, .source_id = "gsm8k-17",
 *                              .user = record, .params = &p };
 *     struct gen_result r;
 *     for (;;) {
 *         while (there is a question && engine_stats(g).waiting < WINDOW)
 *             engine_submit(g, &q, &e);
 *         int got = engine_next(g, &r, &e);    1: a sample; 0: all are done; -1: failed
 *         if (got <= 0) break;
 *         ... r.user, r.sample_index, r.ids[0 .. r.n-1] ... put it in order: samples finish in any order ...
 *         gen_result_release(&r);
 *     }
 *     engine_close(g);
 *
 * Continuous batching over a paged key-value cache: sequences start and end at every step, prompts are computed in
 * chunks beside the decoding rows, the samples of a request and prompts with a common beginning share pages of the
 * cache, and when the cache is full sequences wait or, youngest first, give up their pages and are computed again.
 *
 * A result (ids, log-probabilities to the bit, finish) depends on model, device numerics, prompt, params, seed,
 * source_id and sample_index. It does not depend on the engine's options, on threads, on what else is running or on
 * the order of submission.
 *
 * An engine borrows its model and tokenizer; one thread calls it at a time, and while it is open nobody else calls
 * model_forward on that model. After -1 of engine_step or engine_next only engine_close is of use; a refused
 * engine_submit changes nothing. */
#ifndef LATENT_INFER_ENGINE_H
#define LATENT_INFER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/model.h"

struct err;
struct tokenizer;
struct engine;

enum { GEN_STOP_STRINGS = 16 };

/* How to sample, when to end. The fields from lo on are for vocabularies of two halves and are copied to struct
 * sample_slot as they stand (kernels.h): phase 0 until flip_id is generated, then phase 1. */
struct gen_params {
    float temperature;                 /* 0: greedy */
    float top_p, min_p;                /* 1 and 0: off */
    int top_k;                         /* 0: off */
    float presence, frequency;         /* 0: off */
    float repetition;                  /* 1: off */
    int max_new;                       /* tokens at most, the stop id included; >= 0 */
    int n_stop;                        /* ids that end the sequence; they are not part of the result */
    int32_t stop_ids[SAMPLE_STOP_IDS]; /* [n_stop] */
    int n_stop_strings;
    const char *stop_strings[GEN_STOP_STRINGS]; /* UTF-8, not empty; need engine_options.tokenizer */
    bool logprobs;                              /* fill gen_result.logprobs */
    int32_t lo[2], hi[2];                       /* ids allowed in each phase: lo <= id < hi */
    int32_t also[2][SAMPLE_STOP_IDS];           /* and these; -1: none */
    int32_t never[2][SAMPLE_STOP_IDS];          /* but not these; -1: none */
    int32_t phase;                              /* to begin in */
    int32_t flip_id;                            /* -1: none */
    float flip_bias;                            /* added to flip_id's logit in phase 0, before everything else */
};

/* Greedy, 512 tokens, the model's stop ids, every id of the vocabulary allowed, nothing else. */
void gen_params_init(struct gen_params *p, const struct model_config *c);

/* One prompt to be continued n_samples times. Everything is copied. */
struct gen_request {
    const int32_t *prompt;
    int n_prompt;     /* >= 1 */
    int n_samples;    /* >= 1 */
    int first_sample; /* index of the first one: samples have the indices first_sample .. first_sample+n_samples-1 */
    uint64_t seed;
    const char *source_id; /* names the random stream (seed, source_id, sample_index), and the request in errors */
    void *user;            /* handed back with each sample */
    const struct gen_params *params;
};

enum gen_finish { GEN_STOP, GEN_LENGTH };

/* A finished sample. The arrays are yours: gen_result_release. */
struct gen_result {
    void *user;
    int sample_index;
    int n_prompt;
    int n;           /* tokens, the stop id not counted */
    int32_t *ids;    /* [n] */
    float *logprobs; /* [n] log softmax of the raw logits (no temperature, penalty, range or bias); NULL unless asked */
    enum gen_finish finish; /* GEN_LENGTH: max_new tokens, or as many as the model's context has room for */
    int32_t stop_id;        /* the stop id that ended it, -1: none did */
    /* A stop string ended it: which one, and the text before it (NUL-terminated, without special tokens). ids then are
     * the tokens after which so much text was certain; the last may reach into the stop string, so take the text from
     * here. Else -1 and NULL. */
    int stop_string;
    char *text;
};
void gen_result_release(struct gen_result *r);

struct engine_options {
    int64_t kv_memory;                 /* bytes for the cache of keys and values; 0: what `batch` sequences of full
                                          length need, but at most 1 GiB (or one such sequence, if that is more) and at
                                          most a quarter of the machine's memory */
    int batch;                         /* sequences that run at the same time at most; 0: 16 */
    int prefill_chunk;                 /* prompt tokens computed beside a decode step at most; 0: 256 */
    int read_delay;                    /* how many steps late the host reads tokens, up to 2; 0: 2 where the device
                                          computes while the host goes on, none where it does not */
    const struct tokenizer *tokenizer; /* for stop strings; may be NULL */
    const int32_t *shown_as;           /* [vocabulary], borrowed: the id whose text stands for each; NULL: its own */
};

/* All device memory is taken here, but for penalties (4 bytes an id and running sequence, at the first request that
 * has some). */
int engine_open(struct engine **out, struct model *m, const struct engine_options *o, struct err *e);
void engine_close(struct engine *g); /* NULL is fine; what has not finished is dropped */

/* Refused, with source_id and the numbers in the sentence: an empty prompt, one longer than the model's context, a
 * request whose longest course would not fit in the cache even alone, ids outside the vocabulary, parameters out of
 * range. Generation is capped where the context ends (GEN_LENGTH). How many wait is the caller's business. */
int engine_submit(struct engine *g, const struct gen_request *q, struct err *e);

/* One pass of the model for everything that runs. Returns 1 while there is more to do, 0 when nothing is left. */
int engine_step(struct engine *g, struct err *e);

/* A finished sample if there is one, without computing: 1 or 0. */
int engine_poll(struct engine *g, struct gen_result *r);

/* The next finished sample, stepping until there is one. 0: nothing is left. */
int engine_next(struct engine *g, struct gen_result *r, struct err *e);

struct engine_stats {
    int64_t running;           /* samples in the batch now, prompts under way included */
    int64_t waiting;           /* samples submitted and not running, preempted ones included */
    int64_t done;              /* samples finished so far */
    int64_t generated;         /* tokens received so far, stop ids included */
    int64_t prompt_tokens;     /* of all samples that started */
    int64_t prefilled;         /* rows computed for prompts, and again for preempted sequences */
    int64_t shared;            /* rows not computed because their page was there already */
    int64_t prefills;          /* times a prompt was computed: once a request, more often only after preemption; samples
                                  that found its whole pages compute the rest of the last page and do not count */
    int64_t preempted;         /* times a sequence gave up its pages */
    int64_t steps;             /* passes of the model */
    int64_t replayed;          /* of those: enqueued as a recording of the device */
    int64_t logits;            /* numbers of the head's product: rows times the columns that their phase allows */
    int64_t kv_used, kv_limit; /* bytes of pages that sequences hold, and of the whole cache */
    int64_t kv_peak;           /* highest kv_used so far */
};
struct engine_stats engine_stats(const struct engine *g);

#endif
