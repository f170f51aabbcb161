/* branch.h - log-probabilities of many sequences that begin alike: what they share is computed once.
 *
 *     struct branches *b;
 *     branches_open(&b, m, &(struct branches_options){ .positions = 16384, .rows = 512 }, &e);
 *     branches_run(b, seq, n, &e);                  // the same struct score_seq as model/score.h, without entropies
 *     branches_close(b);
 *
 * The sequences of one call are a tree of tokens. Each node of it is computed once, through a paged cache: sequences
 * share pages as far as whole pages go, and where they part within a page its rows are copied. A depth of the tree is
 * one pass (in pieces of at most `rows` rows), so 32 answers to one question cost the question once and the answers in
 * one batch. Positions that several sequences want are multiplied with the head once.
 *
 * What a sequence gets does not depend on its company: to the bit the same as alone (but not as scorer_run's, which
 * sums attention without pages; the two agree within rounding).
 *
 * Borrows its model, a decoder; one thread uses it, and nobody else calls model_forward meanwhile. */
#ifndef LATENT_MODEL_BRANCH_H
#define LATENT_MODEL_BRANCH_H

#include <stdint.h>

#include "model/score.h"

struct err;
struct model;
struct branches;

struct branches_options {
    int64_t positions; /* that the cache has room for: no sequence may be longer; a call with more is done in parts */
    int rows;          /* of one pass at most */
};

int branches_open(struct branches **out, struct model *m, const struct branches_options *o, struct err *e);
int branches_run(struct branches *b, const struct score_seq *seq, int n, struct err *e);
void branches_close(struct branches *b); /* NULL is fine */

struct branches_stats {
    int64_t tokens;   /* of the sequences, without their last ones, which nobody reads */
    int64_t computed; /* rows that went through the layers */
    int64_t logits;   /* rows that went through the head */
    int64_t passes;
};
struct branches_stats branches_stats(const struct branches *b);

#endif
