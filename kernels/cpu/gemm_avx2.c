/* gemm_avx2.c - 6 x 16 tiles in twelve of the sixteen registers. */
#include <immintrin.h>

#include "kernels/cpu/fast.h"

enum { VN = 8, NV_MAX = 8 };
#define V __m256
#define V_ZERO _mm256_setzero_ps()
#define V_LOAD(p) _mm256_load_ps(p)
#define V_STORE(p, v) _mm256_store_ps(p, v)
#define V_SPLAT(p) _mm256_broadcast_ss(p)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define WORDS(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define V_LOW(p) _mm256_castsi256_ps(_mm256_slli_epi32(WORDS(p), 16))
#define V_HIGH(p) _mm256_castsi256_ps(_mm256_and_si256(WORDS(p), _mm256_set1_epi32((int)0xffff0000)))

#include "kernels/cpu/gemm_impl.h"

TILE(1, 4)
TILE(1, 2)
TILE(1, 1)
TILE(2, 2)
TILE(2, 1)
TILE(3, 2)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)

static void widen(float *to, const char *from, int64_t kn)
{
    widen_panel(to, from, kn);
}

const struct gemm_isa gemm_avx2 = {
    .widen = widen,
    .put = put,
    .max_rows = 6,
    .widest = { 0, 2, 1, 1, 0, 0, 0 },
    .f32 = {
        { NULL },
        { f32_1x1, f32_1x2, f32_1x4 },
        { f32_2x1, f32_2x2 },
        { f32_3x1, f32_3x2 },
        { f32_4x1 },
        { f32_5x1 },
        { f32_6x1 },
    },
    .bf16 = {
        { NULL },
        { bf16_1x1, bf16_1x2, bf16_1x4 },
        { bf16_2x1, bf16_2x2 },
        { bf16_3x1, bf16_3x2 },
        { bf16_4x1 },
        { bf16_5x1 },
        { bf16_6x1 },
    },
};
