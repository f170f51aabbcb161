/* score.h - how likely a model finds given tokens: log-probability and entropy at each position, many sequences at
 * once.
 *
 *     struct scorer *s;
 *     scorer_open(&s, m, 2048, &e);
 *     struct score_seq q = { .ids = ids, .n = n, .first = prompt_tokens, .logprob = lp, .entropy = NULL };
 *     scorer_run(s, &q, 1, &e);
 *     scorer_close(s);
 *
 * Sequences are packed one behind the other, longest first, without padding and without a cache, into passes of at most
 * max_rows tokens (a longer one has a pass to itself). What a sequence gets does not depend on its company or on
 * max_rows. The head is multiplied only for the positions asked for, in pieces that keep [positions, vocabulary] small.
 *
 * A scorer borrows its model (a decoder); one thread uses it. */
#ifndef LATENT_MODEL_SCORE_H
#define LATENT_MODEL_SCORE_H

#include <stdint.h>

struct err;
struct model;
struct scorer;

struct score_seq {
    const int32_t *ids; /* [n], each inside the vocabulary */
    int n;
    int first;      /* score tokens first .. n-1 (>= 1: the first token has nothing in front of it) */
    float *logprob; /* [n - first] log softmax at the token, nats */
    float *entropy; /* [n - first] of the distribution it was drawn from, nats; NULL: not wanted */
};

int scorer_open(struct scorer **out, struct model *m, int max_rows, struct err *e);
/* A sequence longer than the model's max_positions is an error. */
int scorer_run(struct scorer *s, const struct score_seq *seq, int n, struct err *e);
void scorer_close(struct scorer *s); /* NULL is fine */

#endif
