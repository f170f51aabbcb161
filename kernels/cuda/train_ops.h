/* train_ops.h - what train.cu offers to device_train.cu; the rules are those of ops.h. No sum depends on anything but
 * its own operands: those over rows are taken in pieces of fixed size, piece after piece, and nothing is added
 * atomically. */
#ifndef LATENT_CUDA_TRAIN_OPS_H
#define LATENT_CUDA_TRAIN_OPS_H

#include "kernels/cuda/ops.h"

/* Lists travel as a kernel's argument, which has 4 KB: so many tensors, or blocks of them, a launch. first_block is for
 * the operation itself. */
enum { LIST_MAX = 48 };

struct copy_op {
    int blocks;
    struct {
        void *y;
        const void *x;
        int64_t y_stride, x_stride, rows, cols, first_block; /* strides in elements */
        int size;                                            /* of an element: 1, 2 or 4; by is of 4 */
        float by;
    } block[LIST_MAX];
};
void op_copy_blocks(stream_t st, copy_op &o);
void op_fill(stream_t st, float *y, float value, int64_t n);
void op_scale(stream_t st, float *y, float by, int64_t n);
/* up or down: see weight_refresh */
void op_to_bf16_by_chance(stream_t st, bf16 *y, const float *x, int64_t n, const uint32_t key[2],
                          const uint32_t stream[2]);
void op_dropout(stream_t st, float *y, float p, const uint32_t key[2], const uint32_t stream[2], uint64_t first,
                int64_t n);

/* y[index[i]] += x[i]; no row twice */
void op_scatter(stream_t st, float *y, const float *x, const int32_t *index, int n, int cols);
/* the same where rows do repeat: those of one id are added in their order */
void op_embed_backward(stream_t st, float *dtable, const float *dy, const int32_t *ids, int rows, int cols);

/* A norm of vectors of `cols` elements: number i is number i % heads of row i / heads, rows lie `stride` apart. */
struct norm_backward_op {
    float *dx;      /* += ; or = with `replace`, then dx may be dy */
    float *dg, *db; /* += , or NULL */
    const float *dy;
    const void *x; /* bf16 with x_bf16, else float */
    const float *g;
    int64_t dx_stride, dy_stride, x_stride;
    int heads, cols;
    int64_t vectors;
    float eps;
    bool replace, layer, x_bf16; /* layer: with a mean */
    void *scratch;               /* norm_backward_scratch bytes */
};
size_t norm_backward_scratch(const norm_backward_op &o);
void op_norm_backward(stream_t st, const norm_backward_op &o);

/* db += sums of dy's columns; scratch: column_sums_scratch bytes */
size_t column_sums_scratch(int64_t rows, int cols);
void op_column_sums(stream_t st, float *db, const void *dy, bool dy_bf16, int64_t rows, int cols, void *scratch);

void op_silu_mul_backward(stream_t st, float *dgate_up, const float *dy, const float *gate_up, int rows, int cols);
void op_silu_mul_backward_kept(stream_t st, bf16 *dgate_up, const float *dy, const bf16 *gate_up, int rows, int cols);
void op_gelu_backward(stream_t st, float *dx, const float *dy, const float *x, int64_t n);
/* q and k of dqkv are turned back, in place */
void op_unrotate(stream_t st, float *dqkv, const float *cos, const float *sin, const int32_t *table_row, int rows,
                 int heads, int kv_heads, int head_dim, int rotary);

/* o.lse is read. dqkv is written, delta: rows * heads floats of scratch. */
void op_attend_backward(stream_t st, const attend_op &o, float *dqkv, const float *dout, float *delta);
/* The way back of op_attend_varlen; attend_varlen.cu. */
void op_attend_varlen_backward(stream_t st, const attend_op &o, float *dqkv, const float *dout, void *scratch);

void op_cross_entropy(stream_t st, float *loss, float *logits, const int32_t *target, float scale, int n, int vocab);
/* *out += , tensor after tensor; scratch: SQUARES_BLOCKS doubles a tensor */
enum { SQUARES_BLOCKS = 256 };
struct squares_op {
    float *out;
    int tensors;
    struct {
        const float *x;
        int64_t n;
        int first_block, blocks;
    } tensor[LIST_MAX];
};
void op_sum_squares(stream_t st, squares_op &o, double *scratch);

/* A step of all tensors of the list in one launch. */
struct adamw_op {
    float grad_scale, rate, beta1, beta2, bias2_sqrt, eps; /* rate: lr / bias1 */
    int tensors;
    struct {
        float *value, *m, *v;
        const float *grad;
        int64_t n, first_block;
        float keep; /* 1 - lr decay */
    } tensor[LIST_MAX];
};
void op_adamw(stream_t st, adamw_op &o);

#endif
