/* train_base.c - the way back on rows, for other machines. */
#include "kernels/cpu/fast.h"
#include "kernels/cpu/train_impl.h"

const struct train_isa train_base = {
    dot_row,
    turn,
    rmsnorm_row_backward,
    layernorm_row_backward,
    silu_mul_row_backward,
    gelu_row_backward,
    softmax_grad_row,
    sum_squares_row,
    adamw_row,
};
