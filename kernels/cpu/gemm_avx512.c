/* gemm_avx512.c - 14 x 32 tiles in twenty-eight of the thirty-two registers; the chains of gemm_avx2.c, bit for bit. */
#include <immintrin.h>

#include "kernels/cpu/fast.h"

enum { VN = 16, NV_MAX = 8 };
#define V __m512
#define V_ZERO _mm512_setzero_ps()
#define V_LOAD(p) _mm512_load_ps(p)
#define V_STORE(p, v) _mm512_store_ps(p, v)
#define V_SPLAT(p) _mm512_set1_ps(*(p))
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define WORDS(p) _mm512_load_si512((const void *)(p))
#define V_LOW(p) _mm512_castsi512_ps(_mm512_slli_epi32(WORDS(p), 16))
#define V_HIGH(p) _mm512_castsi512_ps(_mm512_and_si512(WORDS(p), _mm512_set1_epi32((int)0xffff0000)))

#include "kernels/cpu/gemm_impl.h"

TILE(1, 8)
TILE(1, 4)
TILE(1, 2)
TILE(1, 1)
TILE(2, 4)
TILE(2, 2)
TILE(2, 1)
TILE(3, 4)
TILE(3, 2)
TILE(3, 1)
TILE(4, 4)
TILE(4, 2)
TILE(4, 1)
TILE(5, 4)
TILE(5, 2)
TILE(5, 1)
TILE(6, 4)
TILE(6, 2)
TILE(6, 1)
TILE(7, 2)
TILE(7, 1)
TILE(8, 2)
TILE(8, 1)
TILE(9, 2)
TILE(9, 1)
TILE(10, 2)
TILE(10, 1)
TILE(11, 2)
TILE(11, 1)
TILE(12, 2)
TILE(12, 1)
TILE(13, 2)
TILE(13, 1)
TILE(14, 2)
TILE(14, 1)

const struct gemm_isa gemm_avx512 = {
    .put = put,
    .max_rows = 14,
    .widest = { 0, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1 },
    .f32 = {
        { NULL },
        { f32_1x1, f32_1x2, f32_1x4, f32_1x8 },
        { f32_2x1, f32_2x2, f32_2x4 },
        { f32_3x1, f32_3x2, f32_3x4 },
        { f32_4x1, f32_4x2, f32_4x4 },
        { f32_5x1, f32_5x2, f32_5x4 },
        { f32_6x1, f32_6x2, f32_6x4 },
        { f32_7x1, f32_7x2 },
        { f32_8x1, f32_8x2 },
        { f32_9x1, f32_9x2 },
        { f32_10x1, f32_10x2 },
        { f32_11x1, f32_11x2 },
        { f32_12x1, f32_12x2 },
        { f32_13x1, f32_13x2 },
        { f32_14x1, f32_14x2 },
    },
    .bf16 = {
        { NULL },
        { bf16_1x1, bf16_1x2, bf16_1x4, bf16_1x8 },
        { bf16_2x1, bf16_2x2, bf16_2x4 },
        { bf16_3x1, bf16_3x2, bf16_3x4 },
        { bf16_4x1, bf16_4x2, bf16_4x4 },
        { bf16_5x1, bf16_5x2, bf16_5x4 },
        { bf16_6x1, bf16_6x2, bf16_6x4 },
        { bf16_7x1, bf16_7x2 },
        { bf16_8x1, bf16_8x2 },
        { bf16_9x1, bf16_9x2 },
        { bf16_10x1, bf16_10x2 },
        { bf16_11x1, bf16_11x2 },
        { bf16_12x1, bf16_12x2 },
        { bf16_13x1, bf16_13x2 },
        { bf16_14x1, bf16_14x2 },
    },
};
