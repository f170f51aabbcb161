/* train.h - a model that learns: forward with what the way back needs, backward, and the parameters with their
 * gradients.
 *
 *     struct trainable *t;
 *     trainable_open(&t, m, &(struct trainable_options){ .lora = &lora, .max_rows = 4096 }, &e);
 *     trainable_pass(t, &batch, 1.0f / targets, &loss, &e);   // gradients are added up over passes
 *     for each parameter: the optimizer changes value from grad (lib/train)
 *     trainable_refresh(t, step); trainable_zero(t);
 *
 * The layers are those of decoder.c and encoder.c, walked the other way; rows are whole sequences packed one behind the
 * other, so packing, padding and accumulation give one and the same gradient. Only rows with a target pass through the
 * head, in chunks of head_rows: logits of the whole batch never exist. Kept per row and layer: the residual stream
 * (twice), q, k, v, the attention's output and the gate and up products; norms, gates and rotations are computed again.
 * On a bf16 device they are kept in bf16 (decoders), the residual stream itself runs in F32.
 * With `recompute` only the residual stream between layers is kept, in F32, and each layer runs forward once more: the
 * same gradients.
 *
 * Full: every tensor of the checkpoint is a parameter, kept in F32 (master weights). LoRA (Hu et al. 2021): A [r, in]
 * and B [out, r] beside each targeted matrix, y = W x + (alpha / r) B A x; the matrices that share an input are
 * multiplied by one stacked A. Beside them the last rows of embedding and head may learn (latent ids of a dual model):
 * parameters of their own, so that what stays has neither gradient nor moments. Names are Hugging Face's and PEFT's
 * (rows: its trainable tokens). Facts: formats specification 7, pipelines specification 4. */
#ifndef LATENT_MODEL_TRAIN_H
#define LATENT_MODEL_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"

struct err;

struct lora_options {
    int rank;
    double alpha;
    bool rslora;         /* scaling alpha / sqrt(rank) instead of alpha / rank */
    double dropout;      /* of the branch's input; the matrices of one stack share a mask */
    const char *targets; /* "all-linear" or names separated by commas: "q_proj,v_proj" */
};

/* -1: they name no matrix of a layer of such a model. trainable_open asks too; this is for who has more to read first.
 */
int lora_check_targets(const struct model_config *c, const char *targets, struct err *e);

struct trainable_options {
    const struct lora_options *lora; /* NULL: full */
    const char *adapter;             /* folder with adapter_model.safetensors to start from, or NULL: fresh (B = 0) */
    int32_t rows_from;               /* LoRA: rows of embedding and head from this id on learn too; 0: none */
    uint64_t seed;                   /* of fresh A, of initial weights, of dropout */
    int max_rows;                    /* of one pass */
    int head_rows;                   /* rows of logits at a time; 0: see trainable_head_rows */
    bool recompute;
    bool by_chance; /* see trainable_refresh */
};

/* One parameter: a tensor of the checkpoint or of the adapter, or several that lie in one stacked matrix. */
enum { PARAM_PARTS = 3 };
struct param {
    struct tensor *value, *grad; /* F32 [rows, cols] */
    int64_t rows, cols;
    bool matrix; /* weight decay applies to it (two dimensions, as torch counts them) */
    int nparts;
    struct {
        char name[128];
        int64_t rows; /* stacked by rows */
    } part[PARAM_PARTS];
};

struct trainable;

int trainable_open(struct trainable **out, struct model *m, const struct trainable_options *o, struct err *e);
void trainable_close(struct trainable *t); /* the model stays as it is; full: with its trained values */

/* Bytes of device memory that a pass of `rows` rows takes beside the weights, and that parameters take with two
 * moments. */
int64_t trainable_activation_bytes(const struct model *m, int rows, int head_rows, bool recompute);
int trainable_head_rows(const struct model_config *c, const struct trainable_options *o);
int64_t trainable_kept_bytes(const struct model *m); /* of one row, of all that waits for the way back */
int64_t trainable_state_bytes(const struct trainable *t);

/* What a model would train, without reading anything for it. */
struct trainable_counts {
    int64_t all;     /* numbers that the model has */
    int64_t trained; /* LoRA: those of the adapters; full: all */
    int64_t rows;    /* beside them: those of the rows from rows_from on */
    int64_t ranks;   /* of the adapters of one layer together */
    int64_t inputs;  /* widths that they take, those that share one once */
};
void trainable_count(struct model *m, const struct trainable_options *o, struct trainable_counts *out);

struct device *trainable_device(const struct trainable *t);
size_t trainable_params(const struct trainable *t);
struct param *trainable_param(struct trainable *t, size_t i);

struct train_batch {
    int rows, nseq;
    const int32_t *ids;   /* [rows] host memory, as everything here */
    const int32_t *begin; /* [nseq + 1] */
    const int32_t
        *target; /* [rows]: what row t is to predict (decoders: the next token; encoders: its label); -1: nothing */
    uint64_t dropout_first; /* position of this batch in the dropout stream: distinct for every pass */
};

/* Sum of losses over the rows with a target into *loss (a plain sum; NaN is the caller's to refuse). scale != 0:
 * gradients of scale * loss are added to grad. 0: forward only, without dropout. */
int trainable_pass(struct trainable *t, const struct train_batch *b, float scale, double *loss, struct err *e);

/* Logits of rows first .. first + n - 1 (n at most head_rows), forward only, without dropout, to host memory
 * [n, vocab or labels]. */
int trainable_logits(struct trainable *t, const struct train_batch *b, int first, int n, float *logits, struct err *e);

/* Floating-point operations that learning from this batch takes, forward and backward: twice the numbers that are
 * multiplied. What is computed again is not counted again. */
double trainable_flops(const struct trainable *t, const struct train_batch *b);

void trainable_zero(struct trainable *t); /* the next pass adds to 0 */
/* Values have changed, in this step (from 1; 0: they are where training starts): what multiplies follows them. Where it
 * is bf16 they are rounded to nearest; with by_chance up or down instead, with draws keyed by seed, step, tensor and
 * element, so that in the mean a weight is what it is in float. */
void trainable_refresh(struct trainable *t, int64_t step);

/* A whole tensor of the checkpoint as it stands now (with LoRA and merge: W + scaling B A, summed in double), in F32,
 * by its Hugging Face name; rows that learnt are in it; values is [rows, cols], the caller frees it. */
int trainable_tensor(struct trainable *t, const char *name, bool merge, float **values, int64_t *n, struct err *e);

/* Values of a tensor, as trainable_tensor gave them, in bf16: rounded as what multiplies is. */
void trainable_to_bf16(const struct trainable *t, const char *name, const float *v, size_t n, uint16_t *out);

/* Scaling of the adapter: alpha / r or alpha / sqrt(r). */
double lora_scaling(const struct lora_options *o);

/* A model without weights, from DIR/config.json: trainable_open (full) then makes transformers' initial values (normal
 * with initializer_range, norms 1, biases 0). */
int model_open_blank(struct model **out, const char *dir, struct device *d, struct err *e);

#endif
