/* ops_base.c - operations on rows for other machines. */
#include "kernels/cpu/fast.h"
#include "kernels/cpu/ops_impl.h"

const struct row_isa rows_base = {
    rmsnorm_row, layernorm_row, silu_mul_row, gelu_row,   add_row, exp_row,
    rotate_row,  max_row,       sum_exp_row,  soften_row, sum_row,
};
