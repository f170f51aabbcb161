/* attend_avx512.c - attention with sixteen floats a vector; the sums of attend_avx2.c, bit for bit. */
#include <immintrin.h>

#include "kernels/cpu/fast.h"
#include "kernels/cpu/vec.h"

enum { W = 16, DOT_ROWS = 2, DOT_KEYS = 8, TURN_ROWS = 4, TURN_COLS = 2, TURN_PAYS = 8, MIX_ROWS = 8, MIX_COLS = 4 };
#define A __m512
#define A_LOAD(p) _mm512_loadu_ps(p)
#define A_STORE(p, a) _mm512_storeu_ps(p, a)
#define A_SPLAT(x) _mm512_set1_ps(x)
#define A_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define A_LOAD_SOME(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)

/* exp8's steps; what is not less than its limit, NaN included, is scaled by 2^n */
INLINE __m512 A_EXP(__m512 x)
{
    __m512 n = A_FMA(x, A_SPLAT(0x1.715476p+0f), A_SPLAT(EXP_MAGIC)) - A_SPLAT(EXP_MAGIC);
    __m512 r = A_FMA(n, A_SPLAT(2.12194440e-4f), A_FMA(n, A_SPLAT(-0.693359375f), x));
    __m512 p = A_SPLAT(1.9875691500e-4f);
    p = A_FMA(p, r, A_SPLAT(1.3981999507e-3f));
    p = A_FMA(p, r, A_SPLAT(8.3334519073e-3f));
    p = A_FMA(p, r, A_SPLAT(4.1665795894e-2f));
    p = A_FMA(p, r, A_SPLAT(1.6666665459e-1f));
    p = A_FMA(p, r, A_SPLAT(5.0000001201e-1f));
    p = A_FMA(p, r * r, r) + A_SPLAT(1);
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, A_SPLAT(-87.33f), _CMP_NLT_UQ), p, n);
}

INLINE v8 fold(const __m512 a[1])
{
    return _mm512_castps512_ps256(a[0]) + _mm512_extractf32x8_ps(a[0], 1);
}

INLINE v8 top(const __m512 a[1])
{
    return max8(_mm512_castps512_ps256(a[0]), _mm512_extractf32x8_ps(a[0], 1));
}

#include "kernels/cpu/attend_impl.h"

const struct attend_isa attend_avx512 = { attend_block, attend_token, attend_finish, attend_block_back };
