/* generate.h - questions in, responses out: a model with its tokenizer, its chat template and an engine.
 *
 *     struct generator *g;
 *     generator_open(&g, &(struct generator_options){ .model = dir, .device = "auto" }, &e);
 *     generator_params(g)->temperature = 0.7f;                 // the model's stop ids are there already
 *     generator_submit(g, &spec, &question, 0.5, 0, 8, seed, user, &e);
 *     while ((rc = generator_next(g, &out, &e)) > 0) ...       // in any order; out is overwritten by the next call
 *     generator_close(g);
 *
 * One thread uses a generator. */
#ifndef LATENT_GENERATE_H
#define LATENT_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "infer/engine.h"
#include "task/prompt.h"

struct err;
struct generator;

struct generator_options {
    const char *model; /* folder */
    const char *device;
    int threads, batch;   /* 0: as many as there are cores; the engine's own */
    int64_t kv_memory;    /* bytes; 0: the engine's own */
    bool fp8_cache;       /* device_use_fp8_cache */
    bool batch_dependent; /* device_use_any_order */
    double end_bias;      /* models with two vocabularies: added to the think end's logit while thinking ... */
    int max_context;      /* tokens of prompt and response at most; 0: what the model has room for */
    bool compat;          /* ... and the reference's set of ids instead of ours (model/dual.h) */
};
int generator_open(struct generator **out, const struct generator_options *o, struct err *e);
void generator_close(struct generator *g); /* NULL is fine */

/* Greedy, 512 tokens, the model's stop ids; with two vocabularies also their ranges, and every submitted prompt gets
 * the phase that it ends in. Changes count for what is submitted afterwards. */
struct gen_params *generator_params(struct generator *g);

/* "llama3" for Llama models, else "qwen": the words of --model-family. */
const char *generator_family(const struct generator *g);

/* The prompt of a question as text; in raw the question itself. */
int generator_prompt(struct generator *g, const struct prompt_spec *spec, const struct prompt_question *q, double ratio,
                     struct buf *text, struct err *e);

/* Samples first .. first+n-1 of a question. Random numbers belong to (seed, source_id, sample). */
int generator_submit(struct generator *g, const struct prompt_spec *spec, const struct prompt_question *q, double ratio,
                     int first, int n, uint64_t seed, void *user, struct err *e);

/* Does the answer to the last submitted prompt begin by thinking? The prompt ends in an open thinking block, or, with
 * two vocabularies, its last turn has not closed the thinking. */
bool generator_thinking(const struct generator *g);
/* Does it end in one that is our doing, not the template's? */
bool generator_appended(const struct generator *g);

struct generated {
    void *user;
    int sample;
    struct buf text; /* without special tokens; not trimmed; latent ids as their sources */
    int tokens;      /* generated, the stop id included */
    bool truncated;  /* the length limit or the end of the context cut it */
    /* With two vocabularies (dual) the ids say what was thought, whatever the text looks like. */
    bool dual;
    int latent;         /* of tokens; the others are visible */
    bool thought;       /* it began by thinking */
    long think_end;     /* bytes of text in front of the think end; -1: none */
    size_t think_end_n; /* bytes of the think end */
    int32_t *ids;       /* [tokens] as they were generated, the stop id included */
    int cap;            /* room in ids */
    int think_end_at;   /* place of the first think end in ids; -1: none */
};
/* 1: *out is the next finished sample; 0: nothing is left; -1. */
int generator_next(struct generator *g, struct generated *out, struct err *e);
void generated_release(struct generated *out);

int64_t generator_waiting(const struct generator *g); /* samples submitted and not running yet */

/* Two vocabularies: what the model's folder says of them; NULL: an ordinary model. */
struct dual_meta;
const struct dual_meta *generator_dual(const struct generator *g);
struct engine_stats generator_stats(const struct generator *g);

/* Tokens of a text, without the tokenizer's special ones. */
int generator_count(struct generator *g, const char *text, size_t n, int64_t *out, struct err *e);

#endif
