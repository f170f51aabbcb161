/* sampling.h - what collect and eval share: their options, their questions, and the loop from questions to rows.
 *
 *     static struct sampling_options o = SAMPLING_DEFAULTS;
 *     static const struct opt opts[] = { SAMPLING_ROWS(o), OPT_ROW_END };
 *     ...
 *     sampling_check(&o, &e);                              // -1: misuse
 *     sampling_open(&s, &o, &run, inputs, ninputs, &e);    // finds and fingerprints the model; computes nothing
 *     sampling_stage(&s, &spec);                           // model, sides, numerics, input into the stage's key
 *     ... tool_stage(&st, t, &spec, &e) ...
 *     sampling_run(&s, st, row, arg, &e);                  // reads the questions, samples what is missing, puts rows
 *     sampling_commit(&s, st, &e);
 *     sampling_close(&s);
 *
 * Unit u of output r is sample u % num_samples of question u / num_samples at ratio r. The model is opened only if a
 * sample is missing. */
#ifndef LATENT_SAMPLING_H
#define LATENT_SAMPLING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/opt.h"
#include "io/stage.h"
#include "model/locate.h"
#include "task/generate.h"
#include "task/judge.h"
#include "task/prompt.h"
#include "task/question.h"

struct err;

struct sampling_options {
    const char *model, *benchmark, *split, *shard, *shard_style;
    int64_t limit;
    const char *format, *family, *few_shot, *prompt_data, *layout, *think;
    int64_t num_few_shot;
    bool suppress, compat, fp8_cache, batch_dependent;
    int64_t num_samples, max_tokens, max_context, top_k;
    double temperature, top_p, min_p, presence, frequency, repetition;
    double end_bias;
    struct opt_list stop;
    int64_t batch;
    const char *kv_memory;
};

#define SAMPLING_DEFAULTS(split_, think_)                                                                              \
    {                                                                                                                  \
        .split = (split_), .shard_style = "block", .think = (think_), .limit = -1, .format = "tokenskip",              \
        .family = "auto", .num_few_shot = 8, .num_samples = 1, .max_tokens = 512, .top_p = 1, .repetition = 1,         \
        .end_bias = 5                                                                                                  \
    }

#define SAMPLING_ROWS(o)                                                                                               \
    OPT_ROW_GROUP("Model and questions"),                                                                              \
        OPT_ROW_STRING("model", 'm', &(o).model, "DIR",                                                                \
                       "checkpoint to sample from; else $MODEL, else embedded:reasoner", OPT_RUN),                     \
        OPT_ROW_STRING("benchmark", 0, &(o).benchmark, "NAME",                                                         \
                       "bring the questions of this set instead of reading them", OPT_RUN),                            \
        OPT_ROW_STRING("split", 0, &(o).split, "S", "with --benchmark: which part of the set", OPT_RUN),               \
        OPT_ROW_INT("limit", 'n', &(o).limit, "N", "only the first N questions; -1: all", OPT_RESULT, -1, 1e15),       \
        OPT_ROW_ALIAS("num-questions", "limit"),                                                                       \
        OPT_ROW_STRING("shard", 0, &(o).shard, "K/N", "only part K (0..N-1) of N equal parts, after --limit",          \
                       OPT_RESULT),                                                                                    \
        OPT_ROW_CHOICE("shard-style", 0, &(o).shard_style, "block|stride",                                             \
                       "with --compat: part K is questions K, K+N, K+2N ...", OPT_RESULT),                             \
        OPT_ROW_GROUP("Prompt"),                                                                                       \
        OPT_ROW_CHOICE("prompt-format", 0, &(o).format, PROMPT_FORMATS, "how the question is put", OPT_RESULT),        \
        OPT_ROW_CHOICE("model-family", 0, &(o).family, "auto|qwen|llama3", "what stands around the ratio",             \
                       OPT_RESULT),                                                                                    \
        OPT_ROW_STRING("few-shot", 0, &(o).few_shot, "FILE", "worked examples in front of the question", OPT_RUN),     \
        OPT_ROW_INT("num-few-shot", 0, &(o).num_few_shot, "N", "how many of them", OPT_RESULT, 1, 1000),               \
        OPT_ROW_STRING("prompt-data", 0, &(o).prompt_data, "FILE",                                                     \
                       "system text and examples from FILE, or sot, cod: replaces the format's", OPT_RUN),             \
        OPT_ROW_CHOICE("prompt-layout", 0, &(o).layout, PROMPT_LAYOUTS,                                                \
                       "with --prompt-data: where its examples stand", OPT_RESULT),                                    \
        OPT_ROW_CHOICE("think", 0, &(o).think, "append|template",                                                      \
                       "append <think> unless the prompt ends with it, or leave it to the chat template", OPT_RESULT), \
        OPT_ROW_FLAG("suppress-thinking", 0, &(o).suppress, "end the prompt with an empty thinking block",             \
                     OPT_RESULT),                                                                                      \
        OPT_ROW_GROUP("Sampling"),                                                                                     \
        OPT_ROW_INT("num-samples", 'N', &(o).num_samples, "N", "samples of each question", OPT_RESULT, 1, 1e6),        \
        OPT_ROW_REAL("temperature", 't', &(o).temperature, "T", "0: always the likeliest token", OPT_RESULT, 0, 100),  \
        OPT_ROW_REAL("top-p", 0, &(o).top_p, "P", "smallest set of tokens with this probability; 1: off", OPT_RESULT,  \
                     1e-9, 1),                                                                                         \
        OPT_ROW_INT("top-k", 0, &(o).top_k, "K", "the K likeliest tokens; 0: off", OPT_RESULT, 0, 1e9),                \
        OPT_ROW_REAL("min-p", 0, &(o).min_p, "P",                                                                      \
                     "tokens with at least this share of the likeliest one's probability", OPT_RESULT, 0, 1),          \
        OPT_ROW_REAL("presence-penalty", 0, &(o).presence, "X", "subtracted once for tokens generated before",         \
                     OPT_RESULT, -100, 100),                                                                           \
        OPT_ROW_REAL("frequency-penalty", 0, &(o).frequency, "X", "subtracted for each time they were generated",      \
                     OPT_RESULT, -100, 100),                                                                           \
        OPT_ROW_REAL("repetition-penalty", 0, &(o).repetition, "X",                                                    \
                     "divides the logits of tokens seen before; 1: off", OPT_RESULT, 1e-3, 100),                       \
        OPT_ROW_REAL("end-bias", 0, &(o).end_bias, "X",                                                                \
                     "two vocabularies: added to the logit of the think end while thinking", OPT_RESULT, -1000, 1000), \
        OPT_ROW_INT("max-tokens", 0, &(o).max_tokens, "N", "tokens of a response at most", OPT_RESULT, 1, 1e8),        \
        OPT_ROW_INT("max-model-len", 0, &(o).max_context, "N",                                                         \
                    "tokens of prompt and response at most; 0: what the model has room for", OPT_RESULT, 0, 1e8),      \
        OPT_ROW_LIST("stop", 0, &(o).stop, "TEXT", "end a response in front of TEXT (may be repeated)", OPT_RESULT),   \
        OPT_ROW_FLAG("fp8-cache", 0, &(o).fp8_cache,                                                                   \
                     "CUDA: keys and values in 8 bits (e4m3); room for twice as many, other results", OPT_RESULT),     \
        OPT_ROW_FLAG("batch-dependent", 0, &(o).batch_dependent,                                                       \
                     "CUDA: sums in the order that is fastest for the batch, on which the results then depend",        \
                     OPT_RESULT),                                                                                      \
        OPT_ROW_GROUP("How it runs (the result does not depend on it)"),                                               \
        OPT_ROW_INT("batch", 'b', &(o).batch, "N", "sequences at the same time; 0: 16", OPT_RUN, 0, 65536),            \
        OPT_ROW_STRING("kv-memory", 0, &(o).kv_memory, "BYTES",                                                        \
                       "for keys and values, as in 512M or 2G; else what the batch needs", OPT_RUN)

/* Sizes as "512M": digits and an optional K, M, G or T (powers of 1024). 0 for NULL. */
int sampling_size(const char *text, int64_t *bytes, struct err *e);

/* -1: a combination that makes no sense (misuse). */
int sampling_check(const struct sampling_options *o, struct err *e);

struct sampling_run_options {
    const char *device;
    int64_t threads, seed;
    bool keep_going;
};

struct sampling_counts {
    int64_t questions, samples, resumed, rejected;  /* of the whole run */
    int64_t correct, truncated, unanswered, tokens; /* of what was sampled now */
    bool graded;                                    /* else nobody knows how many are correct or unanswered */
};

struct sampling {
    const struct sampling_options *o;
    struct sampling_run_options run;
    struct model_place model;
    char *feed; /* temporary file of the questions of --benchmark */
    char *data_path, *template_path;
    const char *const *inputs;
    int ninputs;
    struct stage_side sides[3];
    struct stage_model stage_model;
    struct prompt_data data;
    struct exemplars shots;
    struct prompt_spec spec;
    struct generator *generator; /* NULL until a sample is missing */
    struct judge *judge;
    double ratio[32];
    int nratios;
    uint64_t first_unit; /* 1: unit 0 of each output is somebody else's (a summary) */
    struct item *item;   /* the questions of this shard */
    size_t nitems;
    struct sampling_counts counts;
};

int sampling_open(struct sampling *s, const struct sampling_options *o, const struct sampling_run_options *run,
                  const char *const *inputs, int ninputs, struct err *e);
void sampling_close(struct sampling *s);
void sampling_stage(struct sampling *s, struct stage_spec *spec);

/* One finished sample, taken apart and judged. */
struct sample {
    const struct question *q;
    int output, index;
    double ratio;
    const struct generated *g;
    struct view text;          /* trimmed */
    struct think parts;        /* of text */
    int64_t think_tokens;      /* of parts.reasoning; 0 without */
    int64_t before_end_tokens; /* of all that stands before </think>; all generated tokens without it, 0 when thinking
                                  is suppressed */
    bool graded;
    const struct judgement *verdict;
};
/* Appends the row (with newline). */
typedef int sampling_row_fn(void *arg, const struct sampling *s, const struct sample *x, struct buf *row,
                            struct err *e);
/* grade false: verdicts are left out. 0, or -1 (also when a signal came: finished samples are kept). */
int sampling_run(struct sampling *s, struct stage *st, bool grade, sampling_row_fn *row, void *arg, struct err *e);

/* Counts into the manifest, the outputs appear, the summary is said. */
int sampling_commit(struct sampling *s, struct stage *st, struct err *e);

#endif
