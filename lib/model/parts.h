/* parts.h - what an opened model consists of. For lib/model, and for lib/train, which walks the same layers backwards.
 *
 * One list of wanted tensors (model_plan) is both the check at open and the loader: each entry says which tensors of
 * the file, of which shape, become which part of struct model. */
#ifndef LATENT_MODEL_PARTS_H
#define LATENT_MODEL_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "io/safetensors.h"
#include "kernels/kernels.h"
#include "model/model.h"

struct buf;
struct err;

/* Matrices are [out, in]; q, k, v are one matrix, gate and up are one. Biases are NULL where there are none. */
struct model_layer {
    struct tensor *norm1, *norm1_b; /* decoders: before attention; encoders: behind it (LayerNorm, with norm1_b) */
    struct weight *qkv, *o;
    struct tensor *qkv_b, *o_b;
    struct tensor *q_norm, *k_norm;
    struct tensor *norm2, *norm2_b; /* decoders: before the MLP; encoders: behind it */
    struct weight *up, *down;       /* up: gate and up stacked in decoders, intermediate.dense in encoders */
    struct tensor *up_b, *down_b;
};

/* Scratch for a pass of at most `rows` rows. */
struct model_scratch {
    int rows;
    struct tensor *x, *xn;     /* F32 [rows, hidden]: the residual stream, and its normed form */
    struct tensor *qkv, *att;  /* F32 [rows, (heads + 2 kv) hd], [rows, heads hd] */
    struct tensor *up, *act;   /* F32 [rows, ffn or 2 ffn], [rows, ffn] */
    struct tensor *pick, *row; /* F32 [rows, hidden]: gathered rows; I32 [rows] zeros: token types */
};

struct model_dump;

struct model {
    struct model_config c;
    char *dir;
    struct device *d;
    struct safetensors *st; /* stays mapped: devices borrow weights until weight_free */
    struct model_layer *layer;
    struct weight *embed, *head; /* head == embed when tied; encoders: the classifier */
    struct weight *positions, *types;
    struct tensor *head_b;
    struct tensor *norm, *norm_b;      /* decoders: the last one; encoders: of the embeddings */
    struct tensor *cos, *sin;          /* [table rows, rotary / 2] */
    int64_t table_rows, table_written; /* for each list of frequencies */
    struct model_scratch s;
    int varlen_rows; /* of the last model_forward_varlen */
    struct model_dump *dump;
    struct tensor **own; /* trained matrices, which the weights read */
    size_t nown;
};

/* The model frees the tensor when it closes. */
void model_keep_tensor(struct model *m, struct tensor *t);

/* ---- the plan ---- */
enum { PLAN_PARTS = 3, PLAN_NAME = 128 };

struct plan_item {
    struct weight **weight; /* one of these two is set: a matrix [rows, cols] ... */
    struct tensor **vector; /* ... or a vector [cols] */
    int nparts;
    struct {
        char name[PLAN_NAME];
        int64_t rows;
        const struct st_tensor *found;
    } part[PLAN_PARTS]; /* stacked by rows (vectors: end to end) */
    int64_t cols;
};

struct plan {
    struct plan_item *item;
    size_t n, cap;
};

/* What config says the file must hold; m->layer must be there. Released with plan_release. */
void plan_make(struct plan *p, struct model *m);
void plan_release(struct plan *p);

/* Looks every tensor up in m->st, checks dtype and shape, looks for strangers. One line per problem is appended to
 * `problems`; returns how many. */
int plan_match(struct plan *p, const struct model *m, struct buf *problems);

/* Makes weights and vectors on m->d. */
int plan_load(struct plan *p, struct model *m, struct err *e);

/* NaN and infinities of a tensor: appends a line and returns 1, or 0. */
int check_values(const struct st_tensor *t, struct buf *report);

/* Elements of a F32, BF16 or F16 tensor as floats. */
void model_floats(float *out, const struct st_tensor *t, uint64_t first, uint64_t n);

/* Problems, a line each, as one sentence that fits into an err: the first ones, and how many more. Returns -1. */
int model_problems(const char *dir, const char *problems, int n, struct err *e);

/* ---- rotation tables ---- */
/* Makes sure that positions 0..n-1 (at most max_positions) have rows. */
int model_need_positions(struct model *m, int64_t n, struct err *e);

/* ---- LATENT_DUMP=DIR ----
 * Every pass writes DIR/pass-NNNNNN.safetensors, all tensors F32 [rows, width], named as golden/logits.safetensors
 * counts layers:
 *     hidden.0         embeddings (encoders: after their LayerNorm)
 *     attention.L      the residual stream after layer L's attention (encoders: after that LayerNorm), L = 1 ...
 *     hidden.L         the residual stream after layer L; of the last layer before the final norm
 *     norm             decoders: after the final norm, of the rows that want logits (varlen: all)
 *     logits           what model_forward computed; model_logits writes a file of its own with this alone
 * Passes are numbered through the whole process. Dumping waits for the device at every layer. */
struct model_dump *dump_open(const struct model *m);
void dump_tensor(struct model_dump *d, const char *name, int layer /* -1: none */, const struct tensor *t, int rows);
void dump_write(struct model_dump *d);
void dump_close(struct model_dump *d);

/* ---- graphs: rows of m->s, which are large enough ---- */
void encoder_forward(struct model *m, const struct model_varlen *b);

#endif
