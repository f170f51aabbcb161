/* model.h - a checkpoint opened on a device, and its forward pass.
 *
 *     struct device *d;  device_open(&d, "auto", 0, &e);
 *     struct model *m;   model_open(&m, "path/to/folder", d, &e);
 *     ... model_forward (decoders, through a cache), model_forward_varlen (scoring, encoders) ...
 *     model_close(m);    device_close(d);
 *
 * A folder is taken as Hugging Face lays it out (safetensors single or sharded, config.json in old or transformers-5
 * spelling). Every tensor's name, dtype and shape is checked once at open, all problems in one message; then it is
 * trusted. Weights are not converted: they stay mapped and are packed by the device at first use. A model borrows its
 * device. */
#ifndef LATENT_MODEL_H
#define LATENT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct err;

enum model_family { MODEL_QWEN2, MODEL_QWEN3, MODEL_LLAMA, MODEL_PHI3, MODEL_XLMR, MODEL_BERT };

enum { MODEL_MAX_EOS = 8 };

struct model_rope; /* how positions become angles; rope.h */

/* config.json (and generation_config.json for the stop ids), spelled out. Facts: formats specification, sections 3
 * to 6. */
struct model_config {
    enum model_family family;
    char family_name[16]; /* "qwen3" */
    bool encoder;         /* XLM-R, BERT: bidirectional, token classification */
    int layers, hidden, ffn, heads, kv_heads, head_dim, vocab;
    int rotary; /* dimensions that turn */
    float eps;  /* of RMSNorm or LayerNorm */
    bool tied;  /* the head is the embedding matrix */
    bool qk_norm, qkv_bias, o_bias, mlp_bias;
    int64_t max_positions;
    double rope_theta;
    int64_t rope_original;      /* original_max_position_embeddings of llama3 and longrope; 0: none */
    bool longrope;              /* two frequency lists: rows 0.. use the short one, rows max_positions.. the long one */
    struct model_rope *rope;    /* owned; the scaling's other numbers */
    int *window;                /* [layers] sliding window, 0: none */
    int labels;                 /* encoders: number of classes */
    int position_base;          /* encoders: position of the first token (XLM-R 2, BERT 0); so a sequence has room for
                                   max_positions - position_base tokens */
    int types;                  /* encoders: rows of the token-type table; all tokens have type 0 */
    float initializer_range;    /* deviation of initial matrices when training starts from nothing */
    int n_eos, bos, pad;        /* -1: none */
    int32_t eos[MODEL_MAX_EOS]; /* stop ids: generation_config.json's, else config.json's */
};

struct model;

int model_open(struct model **out, const char *dir, struct device *d, struct err *e);
void model_close(struct model *m); /* NULL is fine */
const struct model_config *model_config(const struct model *m);
struct device *model_device(const struct model *m);
const char *model_dir(const struct model *m);

/* config.json alone, for programs that need sizes before weights. *c is released with model_config_release. */
int model_config_read(struct model_config *c, const char *dir, struct err *e);
void model_config_release(struct model_config *c);

/* xxh3-128 in hex (32 digits + NUL) over config, tokenizer and weight bytes: what keys and manifests call the model.
 * Cached by device, inode, size and mtime of each file, so a second call costs no reading. */
int model_fingerprint(const char *dir, char out[33], struct err *e);

/* Everything that can be said about a folder without running it: names, shapes, NaN and infinities, tokenizer
 * agreement, index, stale shards. One line per problem is appended to report; returns the number of problems, or -1 if
 * it cannot be read. */
struct buf;
int model_check(const char *dir, struct buf *report, struct err *e);

/* The same of a folder with a PEFT adapter (LoRA): names, pairs, ranks, NaN and infinities, and shapes against the base
 * model where its folder is found. facts: lines about what was not looked at. */
int adapter_check(const char *dir, struct buf *report, struct buf *facts, struct err *e);

/* Row of the rotation table for a token: its position, or behind max_positions for a sequence in the long list
 * (longrope). length: highest position + 1 that this sequence will have in this forward pass. */
int64_t model_rope_offset(const struct model *m, int64_t length);

/* ---- decoders through a paged cache ---- */
struct kv_cache {
    /* [layers], [pages * KV_PAGE, kv_heads * head_dim] in the device's kv_dtype; instead of F8 some may be BF16 */
    struct tensor **k, **v;
    int layers;
    int64_t pages; /* page 0 is the one that belongs to nobody */
};
size_t kv_page_bytes(const struct model *m); /* of all layers together */
int kv_cache_open(struct kv_cache *kv, const struct model *m, int64_t pages, struct err *e);
void kv_cache_close(struct kv_cache *kv, const struct model *m);

/* Rows row .. row+rows-1 of the logits, columns col .. col+cols-1. */
struct logit_block {
    int row, rows, col, cols;
};

struct model_batch {
    int rows; /* T, at most the max_rows of model_reserve */
    int nseq;
    const struct tensor *ids;         /* I32 [T] */
    const struct tensor *table_row;   /* I32 [T] */
    const struct tensor *cache_row;   /* I32 [T] */
    const struct tensor *page_table;  /* I32 [slots, max_pages] */
    const struct tensor *seq_slot;    /* I32 [nseq] */
    const struct tensor *q_begin;     /* I32 [nseq + 1] */
    const struct tensor *context;     /* I32 [nseq] */
    int longest;                      /* no context is longer; 0: not known */
    int singles;                      /* so many sequences at the beginning have one row each */
    int logit_rows;                   /* how many rows want logits; 0: none */
    const struct tensor *logit_index; /* I32 [logit_rows]: which rows; NULL: rows 0..logit_rows-1 */
    struct tensor *logits;            /* F32 [>= logit_rows, V] */
    const struct logit_block *block;  /* [nblocks] what of the logits is wanted: the rest holds anything finite */
    int nblocks;                      /* 0: all of it */
    bool keep;                        /* logit_rows 0: model_logits gives logits of these rows afterwards */
};

/* Scratch for calls of up to max_rows rows; made by the first forward otherwise. Growing it is the only allocation.
 * Refused, with what would fit, where the device's memory has no room for it. */
int model_reserve(struct model *m, int max_rows, struct err *e);
int64_t model_row_bytes(const struct model *m); /* of device memory that each row takes, what the device rounds too */

/* Does every pass write its layers to files (LATENT_DUMP)? Then it reads from the device on the way. */
bool model_dumps(const struct model *m);

/* Enqueues one pass; errors of the device show at its next sync. */
void model_forward(struct model *m, struct kv_cache *kv, const struct model_batch *b);

/* ---- without a cache: whole sequences packed one behind the other ----
 * Decoders: hidden states after the last norm of all rows are kept on the device; logits are asked for in pieces, so
 * that [rows, V] never has to exist. Encoders: logits [rows, labels]. */
struct model_varlen {
    int rows, nseq;
    const struct tensor *ids;       /* I32 [T] */
    const struct tensor *table_row; /* I32 [T]: decoders: rotation row; encoders: position id */
    const struct tensor *begin;     /* I32 [nseq + 1] */
};
void model_forward_varlen(struct model *m, const struct model_varlen *b);
/* Logits of rows 0..n-1 (or of rows index[0..n-1], I32, if given) of the last model_forward_varlen, or of the last
 * model_forward that kept its rows. */
void model_logits(struct model *m, struct tensor *logits /* F32 [>= n, V or labels] */, const struct tensor *index,
                  int n);

#endif
