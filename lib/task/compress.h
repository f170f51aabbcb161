/* compress.h - many texts through one compressor: each text is scored once, whatever the number of ratios, in passes
 * shared with other texts, and cut on all threads.
 *
 *     compressor_open(&c, &spec, &e);
 *     jobs[i].text ... ; compressor_run(c, jobs, n, &e);      // jobs[i].cut[r], jobs[i].scores
 *     compressor_close(c);
 *
 * or, so that the device has work while the host cuts and writes and reads,
 *
 *     compressor_begin(c, jobs, n, &e);                       // split, and on its way through the model
 *     compressor_begin(c, others, m, &e);
 *     compressor_end(c, &e);                                  // the first batch: jobs[i].cut[r], jobs[i].scores
 *     compressor_end(c, &e);
 *
 * The compressor's model is opened at the first text that needs it: ratio 1 alone, or scores from a file, never do.
 * Results do not depend on the batch, the threads or the neighbours. */
#ifndef LATENT_TASK_COMPRESS_H
#define LATENT_TASK_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "task/llmlingua.h"

struct err;
struct rec;

enum { COMPRESS_MAX_RATIOS = 32 };

/* What a score is: the encoder's probability to be kept; how little a causal model expected the word; by how much it
 * expects less of what comes after when the word is left out. */
enum compress_method { COMPRESS_LLMLINGUA2, COMPRESS_SURPRISAL, COMPRESS_LEAVE_OUT };

struct compress_spec {
    const char *model; /* folder of the encoder, or of the causal model for the other methods */
    enum compress_method method;
    const char *target;      /* folder of the model whose tokens count, or NULL */
    const char *cl100k;      /* rank table, with compat */
    const char *scores;      /* file of scores to read instead of running the model, or NULL */
    bool want_scores;        /* fill job.scores */
    bool want_labels;        /* words, scores and keep flags in the records: ratio 1 needs the model too */
    struct lingua_spec rule; /* compat, force words, math_safe, exact ...; models and tables are filled in here */
    const double *ratio;     /* [nratio], each 0 < r <= 1 */
    size_t nratio;
    const char *device;
    int threads; /* 0: all cores */
    int rows;    /* the most rows of a pass (a longer chunk has a pass to itself) */
};

struct compress_cut {
    struct buf text;
    uint8_t *keep; /* [job.words.n] */
    size_t keep_cap;
    int64_t tokens;   /* of the text: target tokens, or pieces of the compressor without a target; compat: cl100k */
    double by_target; /* achieved rate in target tokens; NaN without a target */
    double by_pieces; /* achieved rate in the compressor's own pieces */
};

struct compress_job {
    struct buf text;          /* in: valid UTF-8 */
    struct buf label;         /* in: what messages call it ("samples.jsonl:7") */
    const struct rec *sample; /* in: question and answer of the text, borrowed; only leave-out looks at it */
    struct buf scores;        /* out: its line of a scores file */
    int64_t tokens;           /* out: as in compress_cut, of the whole text */
    struct lingua_text pieces;
    struct lingua_words words;
    struct compress_cut cut[COMPRESS_MAX_RATIOS];
    struct err *err; /* private */
    bool failed, scored;
};
void compress_job_release(struct compress_job *j);

struct compressor;
int compressor_open(struct compressor **out, const struct compress_spec *spec, struct err *e);
void compressor_close(struct compressor *c); /* NULL is fine */
int compressor_run(struct compressor *c, struct compress_job *jobs, size_t n, struct err *e);

/* The two halves of compressor_run. A batch that fails to begin is not begun, and what was begun before is well. The
 * jobs are borrowed until they have ended; at most COMPRESS_BEGUN batches at a time. */
enum { COMPRESS_BEGUN = 2 };
int compressor_begin(struct compressor *c, struct compress_job *jobs, size_t n, struct err *e);
int compressor_end(struct compressor *c, struct err *e); /* the batch that was begun first */

/* Seconds that the caller has spent so far giving work to the model and waiting for it, and rows it was given: for
 * benchmarks and the log. */
double compressor_model_seconds(const struct compressor *c);
uint64_t compressor_model_rows(const struct compressor *c);

/* Number of target tokens of a text; only with a target. */
int64_t compressor_count(struct compressor *c, const char *s, size_t n, struct err *e);

/* ---- records ---- */

/* Appends the record of job's ratio number `ratio` to out. sample is the input record, or NULL for a line of text,
 * whose source_id is then "text_LINE". reference: exactly the reference's keys, in its order; else also
 * question_source_id and sample_index, achieved_rate_target (null without a target), achieved_rate_compressor, and with
 * labels words, scores and keep. */
void compress_record(const struct compressor *c, const struct compress_job *j, const struct rec *sample, uint64_t line,
                     size_t ratio, bool reference, struct buf *out);

/* "48.7%", as the reference writes it: 100 when nothing is left. */
void compress_percent(int64_t tokens, int64_t of, char out[32]);

#endif
