/* ops_avx2.c - operations on rows for CPUs with AVX2 and FMA. */
#include <immintrin.h>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/ops_impl.h"

const struct row_isa rows_avx2 = {
    rmsnorm_row, layernorm_row, silu_mul_row, gelu_row,   add_row, exp_row,
    rotate_row,  max_row,       sum_exp_row,  soften_row, sum_row,
};
