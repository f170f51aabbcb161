/* vec.h - eight floats, and the functions of them that libm has only one at a time.
 *
 * Included by files that fix the class first: ops_avx2.c (a product and a sum round once) and ops_base.c (twice). The
 * operations and their order are the same in both; gcc maps eight floats to whatever registers there are. A function
 * gives one lane the same result whatever stands in the others. */
#ifndef LATENT_CPU_VEC_H
#define LATENT_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef uint32_t u8 __attribute__((vector_size(32)));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef double d4 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))

INLINE v8 splat(float x)
{
    return (v8){ x, x, x, x, x, x, x, x };
}

INLINE v8 load8(const float *p)
{
    return *(const v8u *)p;
}

INLINE void store8(float *p, v8 v)
{
    *(v8u *)p = v;
}

INLINE v8 load_some(const float *p, int64_t n, float rest) /* n < 8; the other lanes hold rest */
{
    v8 v = splat(rest);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

INLINE void store_some(float *p, v8 v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}

#ifdef __AVX2__
INLINE v8 fma8(v8 a, v8 b, v8 c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE v8 max8(v8 a, v8 b) /* b where either is NaN */
{
    return _mm256_max_ps(a, b);
}
INLINE v8 select8(i8 mask, v8 a, v8 b)
{
    return _mm256_blendv_ps(b, a, (v8)mask);
}
#else
INLINE v8 fma8(v8 a, v8 b, v8 c)
{
    return a * b + c;
}
INLINE v8 select8(i8 mask, v8 a, v8 b)
{
    return (v8)(((i8)a & mask) | ((i8)b & ~mask));
}
INLINE v8 max8(v8 a, v8 b)
{
    return select8(a > b, a, b);
}
#endif

/* ((0+1)+(2+3)) + ((4+5)+(6+7)): the one order in which lanes are summed */
INLINE float sum8(v8 v)
{
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/* sum8 of eight vectors at once */
INLINE v8 sums8(const v8 a[8])
{
#ifdef __AVX2__
    __m256 x = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    __m256 y = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_permute2f128_ps(x, y, 0x20) + _mm256_permute2f128_ps(x, y, 0x31);
#else
    v8 s = { 0 };
    for (int i = 0; i < 8; i++)
        s[i] = sum8(a[i]);
    return s;
#endif
}

/* Eight vectors of eight: row and column change places. */
INLINE void turn8(v8 a[8])
{
    v8 b[8], c[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            c[i + 2 * j] = __builtin_shufflevector(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            c[i + 2 * j + 1] = __builtin_shufflevector(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = __builtin_shufflevector(c[i], c[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        a[i + 4] = __builtin_shufflevector(c[i], c[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

INLINE float max_lane(v8 v)
{
    float m = v[0];
    for (int i = 1; i < 8; i++)
        m = v[i] > m ? v[i] : m;
    return m;
}

INLINE float max_lanes(v8 v) /* the same, in three steps */
{
#ifdef __AVX2__
    v = max8(v, _mm256_permute2f128_ps(v, v, 1));
    v = max8(v, _mm256_permute_ps(v, 0x4e));
    return max8(v, _mm256_permute_ps(v, 0xb1))[0];
#else
    return max_lane(v);
#endif
}

/* The greatest lane of each of eight vectors. */
INLINE v8 maxes8(const v8 a[8])
{
#ifdef __AVX2__
    v8 b[4], c[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        b[i] = max8(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x88), _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xdd));
    for (int i = 0; i < 2; i++)
        c[i] = max8(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0x88), _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0xdd));
    return max8(_mm256_permute2f128_ps(c[0], c[1], 0x20), _mm256_permute2f128_ps(c[0], c[1], 0x31));
#else
    v8 m = { 0 };
    for (int i = 0; i < 8; i++)
        m[i] = max_lane(a[i]);
    return m;
#endif
}

#define EXP_MAGIC 0x1.8p23f /* adding it rounds to an integer that can be read from the low bits */

/* e^x within 1.1 ulp (rows_test.c measures it); 0 below -87.33, where the result would be subnormal,
 * infinity above 88.72. Cody and Waite's reduction, the polynomial of Cephes' expf. */
INLINE v8 exp8(v8 x)
{
    v8 t = fma8(x, splat(0x1.715476p+0f), splat(EXP_MAGIC));
    v8 n = t - splat(EXP_MAGIC);
    v8 r = fma8(n, splat(-0.693359375f), x);
    r = fma8(n, splat(2.12194440e-4f), r);
    v8 p = splat(1.9875691500e-4f);
    p = fma8(p, r, splat(1.3981999507e-3f));
    p = fma8(p, r, splat(8.3334519073e-3f));
    p = fma8(p, r, splat(4.1665795894e-2f));
    p = fma8(p, r, splat(1.6666665459e-1f));
    p = fma8(p, r, splat(5.0000001201e-1f));
    p = fma8(p, r * r, r) + splat(1);
    v8 y = (v8)((u8)p + ((u8)t << 23)); /* times 2^n; the magic's own bits leave at the top */
    y = select8(x < splat(-87.33f), splat(0), y);
    y = select8(x > splat(88.72283f), splat(INFINITY), y);
    return select8(x == x, y, x); /* NaN stays */
}

/* The normal distribution function at x. Near 0 by erf's odd polynomial; farther out by erfc = e^poly, which
 * keeps its relative accuracy where 1 + erf would cancel. Both fitted with mpmath's chebyfit: 2e-8 and 6e-7 relative,
 * the latter of at most 0.2. */
INLINE v8 cdf8(v8 x)
{
    v8 z = x * splat(0.70710678f);
    v8 s = z * z;
    v8 t = (v8)((i8)z & 0x7fffffff);
    v8 near = splat(-0.0006012555987f);
    near = fma8(near, s, splat(0.004997642057f));
    near = fma8(near, s, splat(-0.02676983051f));
    near = fma8(near, s, splat(0.1128191091f));
    near = fma8(near, s, splat(-0.3761250351f));
    near = fma8(near, s, splat(1.128379151f));
    near = fma8(near * z, splat(0.5f), splat(0.5f));
    v8 far = splat(-1.330820092e-5f);
    far = fma8(far, t, splat(0.0003185376702f));
    far = fma8(far, t, splat(-0.003451545686f));
    far = fma8(far, t, splat(0.02271130381f));
    far = fma8(far, t, splat(-0.1035980776f));
    far = fma8(far, t, splat(-0.6386221312f));
    far = fma8(far, t, splat(-1.126332242f));
    far = fma8(far, t, splat(-0.0006175340607f));
    far = exp8(far) * splat(0.5f);
    far = select8(x < splat(0), far, splat(1) - far);
    return select8(t < splat(0.91f), near, far);
}

INLINE v8 gelu8(v8 x)
{
    return x * cdf8(x);
}

INLINE v8 silu8(v8 x)
{
    return x / (splat(1) + exp8(-x));
}

INLINE d4 low_doubles(v8 v)
{
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), d4);
}

INLINE d4 high_doubles(v8 v)
{
    return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), d4);
}

INLINE double sum4(d4 a)
{
    return (a[0] + a[1]) + (a[2] + a[3]);
}

#endif
