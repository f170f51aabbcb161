/* ops.h - what the kernel files offer to device.cu: one function an operation, device pointers, shapes checked already.
 *
 * Each enqueues on `st` and returns. Shapes are those of kernels.h; T = rows. Kernel files hold the kernels and nothing
 * of memory; device.cu holds memory and nothing of kernels. */
#ifndef LATENT_CUDA_OPS_H
#define LATENT_CUDA_OPS_H

#include "kernels/cuda/wrap.cuh"
extern "C" {
#include "kernels/kernels.h"
}

/* ---- rows.cu ---- */
void op_embed(stream_t st, float *y, const void *table, bool table_bf16, const int32_t *ids, int rows, int cols,
              bool add);
/* y = rmsnorm(x) g. With residual: first x += residual, in place. */
void op_rmsnorm(stream_t st, float *y, float *x, const float *residual, const float *g, float eps, int rows, int cols);
void op_layernorm(stream_t st, float *y, const float *x, const float *g, const float *b, float eps, int rows, int cols);
void op_add(stream_t st, float *y, const float *x, int64_t n);
void op_silu_mul(stream_t st, float *y, const float *gate_up, int rows, int cols);
void op_gelu(stream_t st, float *y, const float *x, int64_t n);
void op_gather(stream_t st, float *y, const float *x, const int32_t *index, int n, int cols);
void op_to_bf16(stream_t st, bf16 *y, const float *x, int64_t n);
void op_add_bias(stream_t st, float *y, const float *bias, int rows, int cols);
/* y [rows, n] = x W^T + bias (or +=), a row of y being ldy long; plain float sums in the order of k: what the emulation
 * multiplies with, and the device where cuBLASLt has no algorithm (rows of odd length). w_bf16: x is rounded to bf16
 * too, as the tensor cores see it.
 */
void op_linear_plain(stream_t st, float *y, const float *x, const void *w, bool w_bf16, const float *bias, int rows,
                     int n, int64_t ldy, int k, bool add);

struct rope_op {
    float *qkv;
    const float *q_norm, *k_norm, *cos, *sin;
    float eps;
    const int32_t *table_row, *cache_row;
    void *k_cache, *v_cache; /* or NULL */
    bool cache_bf16;
    int rows, heads, kv_heads, head_dim, rotary;
};
void op_rope(stream_t st, const rope_op &o);

struct decode_inputs_op {
    const int32_t *slot_of;
    const sample_slot *slots;
    const int32_t *page_table, *rope_offset;
    int32_t *ids, *table_row, *context, *cache_row;
    int n, max_pages;
};
void op_decode_inputs(stream_t st, const decode_inputs_op &o);

/* ---- attend.cu, attend_mma.cu ---- */
struct attend_op {
    float *out;
    const float *qkv;
    const void *k, *v; /* paged: caches; else NULL: keys and values lie in qkv */
    bool cache_bf16;
    const int32_t *page_table, *seq_slot, *context; /* paged only */
    const int32_t *begin;                           /* [nseq + 1] */
    int nseq, rows, max_pages, heads, kv_heads, head_dim;
    float scale;
    int window;
    bool causal;
};
/* Any head_dim, F32 or bf16 cache, float sums. */
void op_attend(stream_t st, const attend_op &o);
/* bf16 cache and head_dim 16, 32, 64 or 128: tensor cores. Split-KV with ATTEND_SPLIT positions a split when every
 * sequence has one row, one pass otherwise; both give the same bits. */
enum { ATTEND_SPLIT = 256 };
bool attend_mma_takes(const attend_op &o);
size_t attend_mma_scratch(const attend_op &o, bool decode); /* bytes of op_attend_mma's scratch */
void op_attend_mma(stream_t st, const attend_op &o, bool decode, void *scratch);

/* ---- ends.cu, sample.cu ---- */
void op_logprobs(stream_t st, float *logprob, float *entropy, int32_t *best, const float *logits, const int32_t *target,
                 int n, int vocab);

enum sample_failure { SAMPLE_FINE, SAMPLE_NAN, SAMPLE_NO_ID };
struct sample_op {
    const float *logits;
    const int32_t *slot_of;
    sample_slot *slots;
    int32_t *counts, *out_id;
    float *out_logprob;
    int32_t *failure; /* [2]: sample_failure and slot of the first row that failed; the host clears it */
    int n, vocab;
};
enum { SAMPLE_VOCAB_MAX = 512 * 1024 };
void op_sample(stream_t st, const sample_op &o);

#endif
