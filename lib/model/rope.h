/* rope.h - how positions become angles: the frequencies of each scaling, and the tables of cosines and sines.
 *
 * Everything is computed as transformers computes it, in fp32 and in its order, because at position 100,000 the
 * rounding of a float angle is already visible. Facts: formats specification, 5.2. Inside lib/model only. */
#ifndef LATENT_MODEL_ROPE_H
#define LATENT_MODEL_ROPE_H

#include <stdint.h>

#include "model/model.h"

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE };

struct model_rope {
    enum rope_kind kind;
    double factor;
    double low, high;        /* llama3: low_freq_factor, high_freq_factor */
    double fast, slow;       /* yarn: beta_fast, beta_slow */
    double attention_factor; /* cosines and sines are multiplied by it; 0: by what the kind says */
    double original;         /* llama3, yarn, longrope: original_max_position_embeddings */
    double *lists[2];        /* longrope: short_factor, long_factor [rotary / 2]; owned */
};

void model_rope_free(struct model_rope *r); /* NULL is fine */

/* The frequencies inv[rotary / 2] (list 1: the long one of longrope), and what cosines and sines are multiplied by. */
void model_rope_frequencies(const struct model_config *c, int list, float *inv, float *scale);

/* Cosines and sines of positions from..to-1 into [to - from, rotary / 2] each. */
void model_rope_rows(const struct model_config *c, int list, int64_t from, int64_t to, float *cosines, float *sines);

#endif
