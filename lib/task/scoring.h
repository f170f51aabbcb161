/* scoring.h - rows whose text is to be scored: which text, which tokens of it, where the answer lies, and the row that
 * comes out. Between them stands the model (model/score.h).
 *
 *     scoring_open(&sc, &spec, &e);
 *     scoring_prepare(sc, &rec, &row, &e);         // row.reason says why it is skipped, or is empty
 *     ... log-probabilities and entropies of tokens row.first .. row.tok.n - 1 ...
 *     scoring_write(sc, &row, logprob, entropy, &line);
 *
 * Three kinds of rows, told by their keys:
 *   messages              a conversation: rendered with the chat template; the last turn, the assistant's, is scored
 *   prompt, completion    plain text, encoded together with the tokenizer's special tokens; the completion is scored
 *   question ...          a sample, or a compressed sample (compressed_reasoning, compression_ratio): the conversation
 *                         that `prepare` makes of it, with its answer (else gold_answer)
 * With two vocabularies (model/dual.h) the reasoning of what is scored is read as latent ids, as in training.
 * Regions (pipelines specification, 1.3): answer, boxed, post_cot; a token belongs to a region if it overlaps it. */
#ifndef LATENT_TASK_SCORING_H
#define LATENT_TASK_SCORING_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "io/record.h"
#include "task/prompt.h"
#include "text/tokenizer.h"

struct err;
struct scoring;

struct scoring_spec {
    const char *dir;           /* the model's folder: tokenizer and chat template */
    enum prompt_format format; /* of samples */
    const char *delimiter;     /* around their ratio */
    int max_tokens;            /* longer rows are skipped */
    int vocab;                 /* ids beyond it cannot be scored */
    bool tokens;               /* write every token */
    bool compat;               /* samples: the chain of thought untrimmed, as the reference scores it */
};

int scoring_open(struct scoring **out, const struct scoring_spec *spec, struct err *e);
void scoring_close(struct scoring *s); /* NULL is fine */

enum score_region { REGION_COMPLETION, REGION_ANSWER, REGION_BOXED, REGION_POST_COT, SCORE_REGIONS };

struct score_row {
    struct buf head; /* the finished members up to the scores */
    struct buf text;
    struct tokens tok;
    int first;         /* tokens first .. tok.n - 1 are wanted */
    int latent;        /* of its ids */
    char reason[1024]; /* why it is skipped; "" */
    struct {
        bool there;
        size_t begin, end; /* characters (code points) of text */
    } region[SCORE_REGIONS];
};
#define SCORE_ROW_INIT                                                                                                 \
    {                                                                                                                  \
        .tok = TOKENS_INIT                                                                                             \
    }
void score_row_release(struct score_row *row);

/* Fills row (reused memory). What is wrong with one row becomes its reason; -1: the model folder is unusable. */
int scoring_prepare(struct scoring *s, const struct rec *r, struct score_row *row, struct err *e);

/* Appends the finished line. logprob, entropy: of tokens first .. n - 1; not looked at for skipped rows. */
void scoring_write(const struct scoring *s, const struct score_row *row, const float *logprob, const float *entropy,
                   struct buf *out);

#endif
