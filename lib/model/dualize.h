/* dualize.h - a dual-vocabulary model out of an ordinary one: new rows in embedding and head, new tokens, meta.
 *
 * Rows are streamed from the mapped checkpoint to the new file, in the checkpoint's dtype; the model is never in memory
 * as a whole. Layout (pipelines specification, 3.1 and 3.2): the tokenizer is padded with fillers to the rows of the
 * matrix, think tokens that are missing come behind them, then the latent ids.
 *
 * Random parts are exact functions of the seed: g(i) = rng_normal(rng_stream(seed, TENSOR, ROW), i), where TENSOR is
 * the tensor's name, ROW the id whose row it is and i the dimension. Sums are in double; a value is rounded to float,
 * then to the dtype (to nearest, ties to even).
 *     clone_eos    row = e + noise * mean|e| * g         e: the source's row in the same matrix
 *     add          row = mu + noise * sigma * g          mu, sigma (unbiased): each dimension over the rows before
 *     custom without embeddings
 *                  row = mu + sigma * g                  over the rows [0, V)
 * Everything else is copied. */
#ifndef LATENT_MODEL_DUALIZE_H
#define LATENT_MODEL_DUALIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "model/dual.h"

struct err;

enum dualize_mode { DUALIZE_FULL_COPY, DUALIZE_SUBSET, DUALIZE_CUSTOM };
enum dualize_think { THINK_ERROR, THINK_ADD, THINK_CLONE_EOS };

struct dualize_options {
    const char *model; /* folder */
    const char *name;  /* what the meta file calls it; NULL: the folder */
    enum dualize_mode mode;
    const char *subset_regex;      /* subset: ids whose token (in the tokenizer's spelling) it matches somewhere, ... */
    const char *subset_ids;        /* ... or a file with a JSON array of ids */
    const char *custom_tokens;     /* custom: a file with a token a line */
    const char *custom_embeddings; /* and their rows, .npy float32 [L, width], or NULL */
    enum dualize_think think_missing;
    double noise;
    uint64_t seed;
    bool tokens; /* write the latent tokens into tokenizer.json, for others: ours need them in mode custom only */
};

/* Fills the folder `into`, which is there. What was made is left in *made (dual_meta_release). */
int dualize(const struct dualize_options *o, const char *into, struct dual_meta *made, struct err *e);

/* ---- .npy files: float32, C order, two dimensions ---- */
struct npy {
    const char *data; /* [rows, cols] little-endian floats, unaligned, in the mapping */
    int64_t rows, cols;
    void *map; /* private */
};
int npy_open(struct npy *a, const char *path, struct err *e);
void npy_close(struct npy *a); /* a zeroed one is fine */

#endif
