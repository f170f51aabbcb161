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

/* What a product takes is written twice: as it is, and rounded unless `narrow` is NULL. */
static __device__ __forceinline__ void store_both(float *y, bf16 *narrow, int64_t i, float v)
{
    y[i] = v;
    if (narrow)
        narrow[i] = bf16_of_float(v);
}

/* ---- rows.cu ---- */
void op_embed(stream_t st, float *y, const void *table, bool table_bf16, const int32_t *ids, int rows, int cols,
              bool add);
/* narrow: y rounded, or NULL. The same in attend_op below. */
void op_rmsnorm(stream_t st, float *y, bf16 *narrow, const float *x, const float *g, float eps, int rows, int cols);
/* y is bf16, and x too or not. */
void op_rmsnorm_kept(stream_t st, bf16 *y, const void *x, bool x_bf16, const float *g, float eps, int rows, int cols);
void op_layernorm(stream_t st, float *y, bf16 *narrow, const float *x, const float *g, const float *b, float eps,
                  int rows, int cols);
void op_add(stream_t st, float *y, const float *x, int64_t n);
void op_silu_mul(stream_t st, float *y, bf16 *narrow, const float *gate_up, int rows, int cols);
void op_silu_mul_kept(stream_t st, bf16 *y, const bf16 *gate_up, int rows, int cols);
void op_gelu(stream_t st, float *y, bf16 *narrow, const float *x, int64_t n);
void op_gather(stream_t st, float *y, const float *x, const int32_t *index, int n, int cols);
void op_to_bf16(stream_t st, bf16 *y, const float *x, int64_t n);
void op_to_float(stream_t st, float *y, const bf16 *x, int64_t n);
/* y = a b^T + bias, or += . Both operands are bf16, or both float; a turned one lies the other way round in memory. */
struct product_op {
    void *y;                                    /* [m, n], a row being y_stride long */
    const void *a, *b;                          /* [m, k], [n, k]; turned: [k, m], [k, n] */
    bool bf16_in, bf16_out, a_turned, b_turned; /* bf16_out: sums are rounded; with bf16_in and without bias only */
    const float *bias;                          /* [n] or NULL */
    int m, n, k;
    bool add;
    bool any_order; /* else an element's sum does not depend on m and n */
    int64_t y_stride;
};
/* Plain float sums in the order of k: what the emulation multiplies with, and the device where cuBLASLt has no
 * algorithm (rows of odd length). */
void op_product_plain(stream_t st, const product_op &o);

struct rope_op {
    float *qkv;
    const float *q_norm, *k_norm, *cos, *sin;
    float eps;
    const int32_t *table_row, *cache_row;
    void *k_cache, *v_cache; /* or NULL */
    enum dtype cache;        /* F32, BF16, F8 */
    int rows, heads, kv_heads, head_dim, rotary;
};
void op_rope(stream_t st, const rope_op &o);
/* The same from one place to another, all three of q, k, v; o.qkv and the caches are not looked at. */
void op_rope_kept(stream_t st, const rope_op &o, void *to, bool to_bf16, const void *from, bool from_bf16);

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
    bf16 *narrow; /* written by the tensor cores' kernels only; then out may be NULL */
    const float *qkv;
    const bf16 *narrow_qkv;                         /* attend_varlen.cu: instead of qkv, or NULL */
    const void *k, *v;                              /* paged: caches; else NULL: keys and values lie in qkv */
    enum dtype cache;                               /* F32, BF16, F8 */
    const int32_t *page_table, *seq_slot, *context; /* paged only */
    const int32_t *begin;                           /* [nseq + 1] */
    int nseq, rows, max_pages, heads, kv_heads, head_dim;
    int longest; /* paged: no context is longer */
    float scale;
    int window;
    bool causal;
    float *lse; /* [rows, heads] log of the sum of e^score: op_attend writes it unless NULL, the way back reads it */
};
/* Two neighbours of out, the first at an even place. */
static __device__ __forceinline__ void store_pair(const attend_op &o, int64_t at, float a, float b)
{
    if (o.out)
        *reinterpret_cast<pair_of_floats *>(o.out + at) = pair_of_floats{ a, b };
    if (o.narrow)
        *reinterpret_cast<uint32_t *>(o.narrow + at) = bf16_pair(a, b);
}
/* The last sequence that begins at or before row t: empty ones before it are skipped. */
static __device__ __forceinline__ int sequence_of(const int32_t *begin, int nseq, int t)
{
    int lo = 0, hi = nseq;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (begin[mid] <= t)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}
/* Tiles of `each` packed rows (token, head of the group), the sequences' one behind the other. Every sequence may leave
 * one unfilled, so sequence s begins at tile number (begin[s] - begin[0]) group / each + s, which a search finds; some
 * are empty. */
struct packed_tile {
    int sequence, begin, tokens, first_row; /* tokens of the sequence, 0: none in this tile; packed row in it */
};
static __device__ __forceinline__ packed_tile packed_tile_at(const attend_op &o, int group, int each, int tile)
{
    int lo = 0, hi = o.nseq, zero = o.begin[0];
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if ((o.begin[mid] - zero) * group / each + mid <= tile)
            lo = mid;
        else
            hi = mid;
    }
    int begin = o.begin[lo], tokens = o.begin[lo + 1] - begin;
    int first = (tile - (begin - zero) * group / each - lo) * each;
    return packed_tile{ lo, begin, first < tokens * group ? tokens : 0, first };
}
static inline unsigned packed_tiles(const attend_op &o, int group, int each)
{
    return static_cast<unsigned>(static_cast<int64_t>(o.rows) * group / each + o.nseq);
}
/* Any head_dim and cache, float sums. */
void op_attend(stream_t st, const attend_op &o);
/* bf16 or e4m3 cache and head_dim 16, 32, 64 or 128: tensor cores. Split-KV with ATTEND_SPLIT positions a split when
 * `decode`, a good way when every sequence has one row, one pass otherwise; both give the same bits. */
enum { ATTEND_SPLIT = 256 };
bool attend_mma_takes(const attend_op &o);
size_t attend_mma_scratch(const attend_op &o); /* bytes of op_attend_mma's scratch, when decoding */
void op_attend_mma(stream_t st, const attend_op &o, bool decode, void *scratch);

/* ---- attend_varlen.cu: the same without a cache, operands rounded to bf16, heads of 8, 16 .. 128 ---- */
bool attend_varlen_takes(const attend_op &o);
size_t attend_varlen_scratch(const attend_op &o, bool backward); /* bytes */
void op_attend_varlen(stream_t st, const attend_op &o, void *scratch);

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
    int first; /* op_sample's own: the first row of a group */
    void *scratch;
};
enum { SAMPLE_VOCAB_MAX = 512 * 1024 };
size_t sample_scratch(const sample_op &o); /* bytes */
void op_sample(stream_t st, const sample_op &o);

#endif
