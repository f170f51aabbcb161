/* identity.h - what a dual model is while its latent rows are copies that stay as they are: the standard model and
 * ln 2.
 *
 * In mode full_copy every visible id has a latent twin with the same row in embedding and head. As long as those rows
 * are frozen (LoRA alone), nothing in the network can tell the two apart: hidden states are those of the standard
 * model, every probability is split into two equal halves, and the loss, in which all latent ids count, is the standard
 * one plus ln 2, always. Gradients are the same. So such a run trains the standard model under other names, and what
 * tells the two apart afterwards are only the rules of generation. Facts: pipelines specification 3.6. */
#ifndef LATENT_TRAIN_IDENTITY_H
#define LATENT_TRAIN_IDENTITY_H

#include "train/rows.h"

struct dual;
struct err;
struct trainable;

struct identity {
    double dual;     /* mean loss of the row's first targets, as the row is */
    double standard; /* of the same tokens by their visible ids, among visible ids only */
    int targets;
};

/* Both losses of one row, forward only. It must fit into a pass. */
int train_identity(struct trainable *t, const struct dual *v, const struct train_row *row, struct identity *out,
                   struct err *e);

/* dual - standard - ln 2; more than this means that the rows are no copies. */
#define IDENTITY_TOLERANCE 1e-5
double identity_gap(const struct identity *i);

#endif
