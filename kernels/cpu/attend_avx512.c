/* attend_avx512.c - attention with sixteen floats a vector; the sums of attend_avx2.c, bit for bit. */
#include <immintrin.h>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/vec.h"

enum { W = 16, DOT_ROWS = 2, DOT_KEYS = 8, MIX_ROWS = 4, MIX_COLS = 4 };
#define A __m512
#define A_LOAD(p) _mm512_loadu_ps(p)
#define A_STORE(p, a) _mm512_storeu_ps(p, a)
#define A_SPLAT(x) _mm512_set1_ps(x)
#define A_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define A_LOAD_SOME(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)

INLINE v8 fold(const __m512 a[1])
{
    return _mm512_castps512_ps256(a[0]) + _mm512_extractf32x8_ps(a[0], 1);
}

#include "kernels/cpu/attend_impl.h"

void attend_block_avx512(struct query *rows, int n, const float *k, const float *v, int64_t stride, int hd, float scale)
{
    attend_rows(rows, n, k, v, stride, hd, scale);
}
