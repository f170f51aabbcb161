/* learn.h - inside of a trainable model, for lib/model's own files. */
#ifndef LATENT_MODEL_LEARN_H
#define LATENT_MODEL_LEARN_H

#include "model/parts.h"
#include "model/train.h"

/* A LoRA branch beside one stacked matrix [out, in]: h = x A^T with the A of all targeted parts stacked, y += h B^T
 * with their scaled B on the diagonal. */
struct branch {
    struct param *a[PARAM_PARTS], *b[PARAM_PARTS]; /* NULL: this part is not targeted */
    int64_t first[PARAM_PARTS];                    /* row of the part in the stacked matrix */
    int nparts;
    int64_t in, out, rank;  /* of the stacks: rank is the sum */
    struct tensor *av, *bv; /* F32 [rank, in], [out, rank]: the stacks, from which the weights are packed */
    struct tensor *ag, *bg; /* their gradients */
    struct weight *aw, *bw;
    struct branch_room *room;
};

/* What branches need while they run: one for all layers' of a site. */
struct branch_room {
    struct tensor *h, *dh; /* F32 [max_rows, rank] */
    struct tensor *drop;   /* F32 [max_rows, in], only with dropout */
};

/* Matrices of a layer that may have a branch. */
enum site { SITE_QKV, SITE_O, SITE_UP, SITE_DOWN, SITES };

/* Gradients of what a struct model_layer holds; NULL where it is frozen. */
struct layer_grads {
    struct tensor *w[SITES], *b[SITES];
    struct tensor *norm1, *norm1_b, *norm2, *norm2_b, *q_norm, *k_norm;
    struct branch *branch[SITES];
};

/* What a layer keeps for the way back, [max_rows, ...] of kept_type, but lse F32. */
struct kept {
    struct tensor *x;   /* decoders: residual stream that came in */
    struct tensor *qkv; /* decoders: rotated, or with head norms as it was before them */
    struct tensor *att, *lse;
    struct tensor
        *mid; /* decoders: residual stream between attention and MLP; encoders: sum before the first LayerNorm */
    struct tensor *up;
    struct tensor *sum; /* encoders: sum before the second LayerNorm; a: its input */
    struct tensor *a;
};

/* The last rows of embedding or head learn beside the adapters: the matrix in two, what stays and what learns. */
struct split {
    struct param *param;       /* F32 [rows that learn, hidden]; NULL: not split */
    struct weight *base, *own; /* the checkpoint's rows before them; those of the parameter */
};

struct trainable {
    struct model *m;
    struct trainable_options o;
    struct lora_options lora;
    char *targets;
    struct param **param;
    size_t nparams;
    struct layer_grads *layer;
    struct tensor *embed, *head, *head_b, *norm, *norm_b, *positions, *types; /* gradients; NULL: frozen */
    struct branch **branch;                                                   /* all of them */
    struct branch_room branch_room[SITES];
    size_t nbranches;
    struct split split_embed, split_head; /* split_head: only of an untied head */
    /* scratch */
    struct kept *kept;     /* [layers], or one with recompute */
    struct tensor *stream; /* decoders: the residual stream, F32 however it is kept */
    struct tensor **x;     /* [layers + 1], encoders: what goes into each layer, and comes out of the last; decoders,
                              with recompute: the stream into each layer */
    struct tensor *qkv;    /* with head norms: rotated */
    struct tensor *xn, *act, *dx, *dxn, *dqkv, *dup, *dact, *datt;
    struct tensor *ids, *table_row, *begin, *zeros;
    struct tensor *index, *target, *pick, *hn, *dpick, *dhn, *logits, *loss;
    struct tensor *base_logits, *own_logits; /* split: the two parts of logits, F32 [head_rows, ...] */
    struct tensor *part_ids, *part_at;       /* split: rows of a pass that one part embeds, I32 [max_rows] */
    int64_t draw;                            /* step whose draws weights are rounded with; 0: to nearest */
    uint64_t dropout_first;                  /* of the pass that runs */
    bool evaluating;                         /* the pass that runs drops nothing */
};

/* A bf16 device multiplies q, k, v, gates and the attention's output as bf16 anyway: a decoder keeps them so, and what
 * a norm comes from. Encoders add up what they keep, in F32. */
static inline enum dtype kept_type(const struct trainable *t)
{
    return t->m->c.encoder ? DTYPE_F32 : t->m->d->keep_dtype;
}

/* What multiplies follows its values; name is that of the values' draws. */
void refresh_weight(struct trainable *t, struct weight *w, const struct tensor *values, const char *name);

/* ---- params.c ---- */
int params_full(struct trainable *t, struct err *e);
int param_new(struct trainable *t, struct param **out, int64_t rows, int64_t cols, bool matrix, struct err *e);

/* ---- lora.c ---- */
int params_lora(struct trainable *t, struct err *e);
void branch_free(struct trainable *t, struct branch *b);
void branch_rooms_free(struct trainable *t);
/* y = branch(x), or +=; with its own dropout position. */
void branch_forward(struct trainable *t, struct branch *b, struct tensor *y, const struct tensor *x, int rows,
                    uint64_t draw, bool add);
/* dx += way back; gradients of A and B grow. */
void branch_backward(struct trainable *t, struct branch *b, struct tensor *dx, const struct tensor *dy,
                     const struct tensor *x, int rows, uint64_t draw);
void branches_refresh(struct trainable *t); /* stacks follow the parameters */
void branches_collect(struct trainable *t); /* gradients of the parameters from those of the stacks */
void branch_zero(struct trainable *t, struct branch *b);
int lora_load(struct trainable *t, const char *dir, struct err *e);

/* ---- split.c ---- */
static inline bool is_split(const struct trainable *t)
{
    return t->split_embed.param != NULL;
}
int params_rows(struct trainable *t, struct err *e);
void split_close(struct trainable *t);
void split_refresh(struct trainable *t);
void split_embed(struct trainable *t, const struct train_batch *b);
void split_embed_backward(struct trainable *t, const struct train_batch *b);
void split_logits(struct trainable *t, int n);          /* logits of hn */
void split_logits_backward(struct trainable *t, int n); /* dhn from the gradient that lies in logits */
/* The rows that learn, over those of a tensor of the checkpoint that was read; other tensors stay. */
int split_overlay(struct trainable *t, const char *name, float *values, struct err *e);

/* ---- walk.c ---- */
void decoder_layer_forward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k);
void decoder_layer_backward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k);
void encoder_embed(struct trainable *t, const struct train_batch *b);
void encoder_embed_backward(struct trainable *t, const struct train_batch *b);
void encoder_layer_forward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k);
void encoder_layer_backward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k);

/* y = x W^T (+ bias) (+ branch), or += */
void site_forward(struct trainable *t, int layer, enum site s, struct tensor *y, const struct tensor *x, int rows,
                  bool add);
/* dx = dy W (+ branch); gradients of weight and bias grow */
void site_backward(struct trainable *t, int layer, enum site s, struct tensor *dx, const struct tensor *dy,
                   const struct tensor *x, int rows);

#endif
