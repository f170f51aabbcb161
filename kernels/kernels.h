/* kernels.h - the device: resident tensors, and operations that only enqueue.
 *
 * One header is the whole boundary. Above it (lib/model, lib/infer, lib/train) there is one implementation of
 * everything and no word of AVX or CUDA; behind it stand cpu          kernels/cpu: the fast path, AVX2+FMA where the
 * CPU has it ("cpu-avx2-f32"), portable C elsewhere
 *                  ("cpu-base-f32")
 *     cpu-oracle   kernels/cpu/oracle.c: naive loops, sums in double; what everything else is compared with
 *     cuda:N       latent_cuda.so, found at run time: matrices and caches in bf16 ("cuda-sm90-bf16"), or, with
 *                  LATENT_NUMERICS=f32, everything in float for comparisons ("cuda-sm90-f32")
 *
 * Rules
 * - Operations run in the order they were called and return at once; an operation's arguments (host arrays too) are
 * consumed before it returns. Only sync, read_wait and tensor_read wait. A failure on the device is sticky: later
 * operations do nothing, and the next waiting call reports it. Wrong shapes are bugs: they abort with the operation's
 * name.
 * - Unless any_order was called, a row's result does not depend on the other rows, on how many there are, or on the
 * thread count: every output element of `linear` is one fused-multiply-add chain over k = 0, 1, 2 ... K-1 starting from
 * 0; attention sums over fixed blocks of ATTEND_BLOCK positions counted from position 0; norms sum in a fixed order.
 * Hence prefill and decode agree bit for bit.
 * - Activations are F32; a KEPT tensor is F32 or of the device's keep_dtype, and is rounded when it is written. Shapes
 * stand beside each argument, row-major, T = rows (tokens of this call, all sequences packed one behind the other),
 * D = model width, V = vocabulary rows.
 * - One thread calls a device at a time. */
#ifndef LATENT_KERNELS_H
#define LATENT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_U8, DTYPE_F8 /* e4m3, caches only */ };
size_t dtype_size(enum dtype t); /* bytes of one element */

enum {
    KV_PAGE = 32,      /* positions of one sequence that share a page of the key-value cache */
    ATTEND_BLOCK = 32, /* positions summed together in attention; a page never straddles a block */
    SAMPLE_STOP_IDS = 8,
    HELD_TENSORS = 2, /* see hold */
};

struct tensor; /* resident memory with a dtype and a shape [rows, cols]; opaque */
struct weight; /* a matrix in the layout this device multiplies by; opaque */

/* Where a weight's bytes lie in host memory (a mapped checkpoint). Several parts are stacked by rows: q, k and v become
 * one matrix. The memory is borrowed until weight_free: a device may pack lazily, at the first use. No alignment is
 * assumed. */
struct weight_part {
    const void *host;
    enum dtype dtype; /* F32, BF16, F16 */
    int64_t rows;
};

/* ---- attention over the paged cache ----
 * The cache of a layer is two tensors [pages * KV_PAGE, kv_heads * head_dim]; position p of the sequence in slot s lies
 * in row page_table[s][p / KV_PAGE] * KV_PAGE + p % KV_PAGE. Page 0 belongs to nobody: whoever has no pages reads it.
 */
struct attend_args {
    struct tensor *out;              /* F32 [T, heads * head_dim] */
    const struct tensor *qkv;        /* F32 [T, (heads + 2 * kv_heads) * head_dim]: only the q part is read */
    const struct tensor *k, *v;      /* caches of this layer (kv_dtype or BF16), new rows already appended */
    const struct tensor *page_table; /* I32 [slots, max_pages] */
    const struct tensor *seq_slot;   /* I32 [nseq]: row of page_table */
    const struct tensor *q_begin;    /* I32 [nseq + 1]: rows q_begin[s] .. q_begin[s+1]-1 belong to sequence s */
    const struct tensor
        *context; /* I32 [nseq]: positions in the cache, these rows included; the last row is at context-1 */
    int nseq, rows, heads, kv_heads, head_dim;
    float scale;
    int window;  /* > 0: a query at i sees keys j with i - window < j <= i */
    int longest; /* no context is longer; 0: not known. What a device takes room for. */
    int singles; /* so many sequences at the beginning have one row each, as when others decode beside prompts; or 0 */
};

/* ---- attention without a cache: scoring, encoders, training ---- */
struct attend_varlen_args {
    struct tensor *out;         /* KEPT [T, heads * head_dim] */
    const struct tensor *qkv;   /* KEPT, as out: [T, (heads + 2 * kv_heads) * head_dim], rotated already */
    const struct tensor *begin; /* I32 [nseq + 1] */
    int nseq, rows, heads, kv_heads, head_dim;
    float scale;
    int window;
    bool causal; /* false: every row sees its whole sequence */
};

/* ---- q/k norm, rotation, append ---- */
struct rope_args {
    struct tensor *qkv;             /* F32 [T, (heads + 2 * kv_heads) * head_dim], q and k rotated in place */
    const struct tensor *from;      /* NULL, or what is read instead, KEPT; then qkv may be KEPT, too */
    const struct tensor *q_norm;    /* F32 [head_dim] RMSNorm weight per head before rotation, or NULL */
    const struct tensor *k_norm;    /* F32 [head_dim] or NULL */
    float eps;                      /* of those norms */
    const struct tensor *cos, *sin; /* F32 [table rows, rotary / 2] */
    const struct tensor
        *table_row; /* I32 [T]: row of cos/sin for each token (its position, or its position in another list) */
    int rows, heads, kv_heads, head_dim, rotary; /* only the first `rotary` dimensions turn */
    struct tensor *k_cache, *v_cache;            /* or both NULL: no append */
    const struct tensor *cache_row; /* I32 [T]: row of the caches that takes this token's k and v; -1: none */
};

/* ---- sampling ----
 * One sequence's sampler, as it lies in device memory (a U8 tensor [slots, sizeof]). The host fills it when a sequence
 * starts and afterwards only reads. The sampler knows id ranges, one bit a sequence and a bias, nothing of what they
 * mean. */
struct sample_slot {
    float temperature;                 /* 0: greedy, ties go to the lowest id */
    float top_p;                       /* 1: off */
    float min_p;                       /* 0: off */
    int32_t top_k;                     /* 0: off */
    float presence, frequency;         /* subtracted from logits of generated ids; 0: off */
    float repetition;                  /* ids seen in prompt or output: logit > 0 is divided, else multiplied; 1: off */
    int32_t lo[2], hi[2];              /* allowed ids lo <= id < hi while phase is 0 / 1 */
    int32_t also[2][SAMPLE_STOP_IDS];  /* further ids allowed in each phase; -1: none */
    int32_t never[2][SAMPLE_STOP_IDS]; /* ids refused in each phase although inside the range; -1: none */
    int32_t phase;                     /* 0 or 1 */
    int32_t flip_id;                   /* generating this id sets phase to 1; -1: none */
    float flip_bias;                   /* added to flip_id's logit while phase is 0 */
    uint32_t key[2], stream[2];        /* struct rng of (seed, source_id, sample_index) */
    int32_t stop[SAMPLE_STOP_IDS];     /* ids that end the sequence; -1: none */
    int32_t position;                  /* where `last` goes in the cache; starts at prompt tokens - 1, + 1 a draw */
    int32_t generated;                 /* tokens generated so far; the draw of token i uses counter i */
    int32_t limit;                     /* stop after this many generated tokens */
    int32_t last;                      /* the newest token (input of the next step) */
    int32_t done;                      /* SAMPLE_RUNNING ... */
};
enum { SAMPLE_RUNNING = 0, SAMPLE_STOPPED = 1, SAMPLE_LENGTH = 2, SAMPLE_EMPTY = 3 /* nobody in this slot */ };

struct sample_args {
    const struct tensor *logits;  /* F32 [n, V] */
    const struct tensor *slot_of; /* I32 [n]: whose row this is */
    struct tensor *slots;         /* U8 [slots, sizeof(struct sample_slot)] */
    struct tensor
        *counts; /* I32 [slots, V]: prompt occurrences << 16 | generated occurrences; NULL: no penalties in use */
    struct tensor *out_id;      /* I32 [n]: the token, or -1 for a row whose slot is not running */
    struct tensor *out_logprob; /* F32 [n]: log softmax of the raw logits at the token; may be NULL */
    int n, vocab;
};

/* Inputs of the next decode step, made on the device from the slots: for row i, slot s = slot_of[i]:
 * ids[i] = last, table_row[i] = position + rope_offset[s], context[i] = position + 1, cache_row[i] from the page table.
 * A slot that is not running gives id 0, table_row 0, context 1 and cache_row -1: in bounds, cheap, and nothing of the
 * cache changes. */
struct decode_inputs_args {
    const struct tensor *slot_of;                         /* I32 [n] */
    const struct tensor *slots;                           /* U8 [slots, sizeof(struct sample_slot)] */
    const struct tensor *page_table;                      /* I32 [slots, max_pages] */
    const struct tensor *rope_offset;                     /* I32 [slots] */
    struct tensor *ids, *table_row, *context, *cache_row; /* I32 [n] each */
    int n;
};

/* ---- lists: what an operation does to many tensors it is asked in one call, for each call costs a launch ---- */

/* y[y_row + i][y_col + j] = by * x[x_row + i][x_col + j] for i < rows, j < cols; rows are as wide as the tensors. Both
 * F32, or, with by = 1, of any one type. */
struct block_copy {
    struct tensor *y;
    int64_t y_row, y_col;
    const struct tensor *x;
    int64_t x_row, x_col;
    int64_t rows, cols;
    float by;
};

struct adamw_part {
    struct tensor *value, *m, *v; /* F32 [n] */
    const struct tensor *grad;    /* F32 [n] */
    int64_t n;
    float decay;
};
struct adamw_args {
    const struct adamw_part *part; /* of a step: all that learns, in one call */
    size_t parts;
    float grad_scale, lr, beta1, beta2, eps; /* grad is multiplied by grad_scale first (clipping, averaging) */
    int64_t step;                            /* from 1 */
};

struct read_ticket; /* a copy to the host that is under way */
struct recording;   /* operations that are enqueued again and again */

struct device {
    const char *name;        /* "cpu", "cpu-oracle", "cuda:0" */
    const char *numerics;    /* numerics class, part of keys and manifests: "cpu-avx2-f32" ... */
    enum dtype kv_dtype;     /* what the tensors of a key-value cache hold: F32, BF16, or F8 when asked for */
    enum dtype weight_dtype; /* what weights are multiplied as whose values lie in a tensor: F32 or BF16 */
    enum dtype keep_dtype;   /* what training keeps for the way back, and makes to be multiplied: F32 or BF16 */

    /* -- memory. `what` names the thing in the sentence when memory is short. Fresh tensors hold zeros. -- */
    int (*tensor_new)(struct device *d, struct tensor **out, enum dtype t, int64_t rows, int64_t cols, const char *what,
                      struct err *e);
    void (*tensor_free)(struct device *d, struct tensor *t); /* NULL is fine */
    int64_t (*tensor_rows)(const struct tensor *t);
    int64_t (*tensor_cols)(const struct tensor *t);
    /* first and n count elements, from the tensor's start; host holds the tensor's dtype */
    void (*tensor_write)(struct device *d, struct tensor *t, size_t first, const void *host, size_t n);
    int (*tensor_read)(struct device *d, const struct tensor *t, size_t first, void *host, size_t n, struct err *e);
    /* A read that is enqueued now (it sees what was enqueued before) and taken later; the ticket is freed by read_wait.
     */
    int (*read_begin)(struct device *d, struct read_ticket **out, const struct tensor *t, size_t first, size_t n,
                      struct err *e);
    int (*read_wait)(struct device *d, struct read_ticket *r, void *host, struct err *e);
    int (*weight_new)(struct device *d, struct weight **out, const struct weight_part *parts, int nparts, int64_t cols,
                      const char *what, struct err *e);
    void (*weight_free)(struct device *d, struct weight *w);
    /* Bytes that can be taken now; -1: not the device's to know (the CPU shares the machine's). */
    int64_t (*memory_left)(struct device *d);
    int (*sync)(struct device *d, struct err *e);
    void (*close)(struct device *d);

    /* -- the same operations again and again: all NULL on a device that has nothing to gain --
     * From record_begin (false: not now) to record_end operations are kept with their arguments as they are and are not
     * run; nothing may be written, read, made or freed between. Those same operations must have run before. replay
     * enqueues what was kept; it sees what device memory holds then. */
    bool (*record_begin)(struct device *d);
    struct recording *(*record_end)(struct device *d);     /* NULL: could not be kept; enqueue as ever */
    bool (*replay)(struct device *d, struct recording *r); /* false: memory was freed since, so nothing is enqueued */
    void (*recording_free)(struct device *d, struct recording *r); /* NULL is fine */

    /* The order of sums; NULL on a device that has one. While it may be any, `linear` adds in the order that is fastest
     * for the number of rows: a row's last bits depend on how many there are, and linear_block has bits of its own. The
     * same calls still give the same bytes. */
    void (*any_order)(struct device *d, bool may);

    /* -- rows in, rows out -- */
    void (*embed)(struct device *d, struct tensor *y /* F32 [T, D] */, const struct weight *table /* [V, D] */,
                  const struct tensor *ids /* I32 [T] */, int rows);
    /* y = x W^T + bias, or y += x W^T + bias. bias F32 [N] may be NULL. */
    void (*linear)(struct device *d, struct tensor *y /* KEPT [T, N] */, const struct tensor *x /* KEPT [T, K] */,
                   const struct weight *w /* [N, K] */, const struct tensor *bias, int rows, bool add);
    /* A block of y = x W^T, with the same bits: rows row .. row+rows-1, columns col .. col+cols-1. Around it an element
     * may get its product too, or stay as it is. */
    void (*linear_block)(struct device *d, struct tensor *y /* F32 [T, N] */, const struct tensor *x /* F32 [T, K] */,
                         const struct weight *w /* [N, K] */, int row, int rows, int col, int cols);
    void (*rmsnorm)(struct device *d, struct tensor *y, const struct tensor *x /* both KEPT [T, D] */,
                    const struct tensor *g /* F32 [D] */, float eps, int rows, int cols);
    void (*layernorm)(struct device *d, struct tensor *y, const struct tensor *x, const struct tensor *g,
                      const struct tensor *b, float eps, int rows, int cols);
    void (*add)(struct device *d, struct tensor *y, const struct tensor *x, int64_t n); /* y += x */
    void (*add_row)(struct device *d, struct tensor *y /* F32 [T, D] */, const struct weight *table,
                    const struct tensor *ids /* I32 [T] */, int rows); /* y += table[ids]: position embeddings */
    void (*silu_mul)(struct device *d, struct tensor *y /* KEPT [T, F] */,
                     const struct tensor *gate_up /* KEPT, as y: [T, 2F] */, int rows, int cols /* F */);
    void (*gelu)(struct device *d, struct tensor *y, const struct tensor *x, int64_t n); /* exact: erf */
    void (*gather_rows)(struct device *d, struct tensor *y /* F32 [n, D] */, const struct tensor *x /* F32 [T, D] */,
                        const struct tensor *index /* I32 [n] */, int n, int cols);
    void (*rope)(struct device *d, const struct rope_args *a);
    void (*attend)(struct device *d, const struct attend_args *a);
    void (*attend_varlen)(struct device *d, const struct attend_varlen_args *a);

    /* -- ends of the network -- */
    /* For each row: log softmax at target (NaN where target is -1), entropy of the distribution in nats (may be NULL),
     * and the highest-scoring id (may be NULL). Log-sum-exp in double on the CPU. */
    void (*logprobs)(struct device *d, struct tensor *logprob /* F32 [n] */, struct tensor *entropy /* F32 [n] */,
                     struct tensor *best /* I32 [n] */, const struct tensor *logits /* F32 [n, V] */,
                     const struct tensor *target /* I32 [n] */, int n, int vocab);
    void (*sample)(struct device *d, const struct sample_args *a);
    void (*decode_inputs)(struct device *d, const struct decode_inputs_args *a);

    /* -- training: what the forward pass keeps, and the way back --
     * Gradients are F32 and are added to (`+=`) unless said otherwise; sums over rows run in row order, so the bytes do
     * not depend on the thread count. Micro-batches and ranks are RESULT options of train: they do change the order of
     * sums. */

    /* A weight whose values live in a tensor (trainable matrices, LoRA factors): packed again by weight_refresh. Where
     * weight_dtype is BF16 they are rounded: to nearest, or, given a key, up or down by chance, so that the mean over
     * many draws is the value itself (what bf16 holds exactly stays). Element i, counted from 0 over the whole tensor,
     * is drawn with bits 16 (i % 8) .. + 15 of the 128 at position i / 8 of the stream (base/rng.h). */
    int (*weight_from_tensor)(struct device *d, struct weight **out, const struct tensor *values /* F32 [N, K] */,
                              const char *what, struct err *e);
    void (*weight_refresh)(struct device *d, struct weight *w, const struct tensor *values,
                           const uint32_t key[2] /* NULL: to nearest */, const uint32_t stream[2]);

    void (*copy)(struct device *d, struct tensor *y, const struct tensor *x, int64_t n); /* both KEPT */
    void (*copy_blocks)(struct device *d, const struct block_copy *b, size_t n);         /* in any order */
    void (*fill)(struct device *d, struct tensor *y, float value, int64_t n);
    void (*scale)(struct device *d, struct tensor *y, float by, int64_t n); /* y *= by */
    /* y[i] = kept ? y[i] / (1 - p) : 0; element i is kept by the draw at position first + i of the stream */
    void (*dropout)(struct device *d, struct tensor *y, float p, const uint32_t key[2], const uint32_t stream[2],
                    uint64_t first, int64_t n);

    /* From hold to let_go the first n elements of x stay as they are: a device that rounds what it multiplies then
     * rounds them once for all products. At most HELD_TENSORS at a time, each let go before it changes. */
    void (*hold)(struct device *d, const struct tensor *x /* KEPT */, int64_t n);
    void (*let_go)(struct device *d, const struct tensor *x);
    /* linear: dx (+)= dy W; dW += dy^T x; db += column sums of dy */
    void (*linear_dx)(struct device *d, struct tensor *dx /* F32 [T, K] */, const struct tensor *dy /* KEPT [T, N] */,
                      const struct weight *w, int rows, bool add);
    void (*linear_dw)(struct device *d, struct tensor *dw /* F32 [N, K] */, struct tensor *db /* F32 [N] or NULL */,
                      const struct tensor *dy, const struct tensor *x /* KEPT, dy too */, int rows, int n, int k);
    /* dtable[ids[t]] += dy[t]; rows in order */
    void (*embed_backward)(struct device *d, struct tensor *dtable /* F32 [V, D] */, const struct tensor *dy,
                           const struct tensor *ids, int rows, int cols);
    /* dx += ..., dg += ... (dg may be NULL: frozen) */
    void (*rmsnorm_backward)(struct device *d, struct tensor *dx, struct tensor *dg, const struct tensor *dy,
                             const struct tensor *x /* KEPT */, const struct tensor *g, float eps, int rows, int cols);
    void (*layernorm_backward)(struct device *d, struct tensor *dx, struct tensor *dg, struct tensor *db,
                               const struct tensor *dy, const struct tensor *x, const struct tensor *g, float eps,
                               int rows, int cols);
    void (*silu_mul_backward)(struct device *d, struct tensor *dgate_up /* =, KEPT */, const struct tensor *dy,
                              const struct tensor *gate_up /* KEPT, as dgate_up */, int rows, int cols);
    void (*gelu_backward)(struct device *d, struct tensor *dx /* = */, const struct tensor *dy, const struct tensor *x,
                          int64_t n);
    /* In place on the gradient of rotated q and k: rotation undone, then back through the head norms. raw is qkv as it
     * was before rope (needed with head norms only). dq_norm, dk_norm += (NULL: frozen). v's part stays. */
    void (*rope_backward)(struct device *d, const struct rope_args *a, struct tensor *dqkv,
                          const struct tensor *raw /* KEPT */, struct tensor *dq_norm, struct tensor *dk_norm);
    /* The forward form keeps the log-sum-exp of each row and head; the backward one writes (=) dqkv in qkv's layout. */
    void (*attend_varlen_keep)(struct device *d, const struct attend_varlen_args *a,
                               struct tensor *lse /* F32 [T, heads] */);
    void (*attend_varlen_backward)(struct device *d, const struct attend_varlen_args *a, struct tensor *dqkv,
                                   const struct tensor *dout, const struct tensor *lse);
    void (*scatter_rows)(struct device *d, struct tensor *y /* F32 [T, D], += */,
                         const struct tensor *x /* F32 [n, D] */,
                         const struct tensor *index /* I32 [n], no row twice */, int n, int cols);

    /* Fused loss, in place: logits become their gradient, scaled by `scale`; loss[t] = -log p(target). Rows whose
     * target is -1 have loss 0 and gradient 0. */
    void (*cross_entropy)(struct device *d, struct tensor *loss /* F32 [n] */, struct tensor *logits /* F32 [n, V] */,
                          const struct tensor *target /* I32 [n] */, float scale, int n, int vocab);

    /* out[at] += the sum of squares of each of n whole tensors, one after the other, in double-then-float, fixed
     * order: the pieces of the global norm */
    void (*sum_squares)(struct device *d, struct tensor *out /* F32 */, int at, const struct tensor *const *x,
                        size_t n);
    /* AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW: value *= 1 - lr * decay; then the bias-corrected step. */
    void (*adamw)(struct device *d, const struct adamw_args *a);
};

/* Opens "cpu", "cpu-oracle", "cuda:N" or "auto" (cuda:0 when there is one, else cpu). threads 0: all cores. */
int device_open(struct device **out, const char *name, int threads, struct err *e);
void device_close(struct device *d); /* NULL is fine; tensors and weights must be freed before */

/* Caches opened from here on hold e4m3 numbers (OCP 8-bit floating point), rounded to nearest even, at scale 1: what is
 * beyond 448 becomes 448. A scale, of heads or of tokens, would only move that range: between 2^-6 and 448 powers of
 * two change no result. Half the bytes, and other results. Refused where a device has no such cache. */
int device_use_fp8_cache(struct device *d, struct err *e);

/* any_order from here on, for a whole run. Refused where a device has one order only. */
int device_use_any_order(struct device *d, struct err *e);

/* The numerics class that device_open(name) would have, without opening it: programs need it for their key.
 * Stands until the next call. */
const char *device_numerics(const char *name);

#endif
