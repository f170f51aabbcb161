/* attend_impl.h - rows against the positions of one block, included by attend_base.c, _avx2.c and _avx512.c with
 *     W, A               floats in a vector, the vector
 *     A_LOAD A_STORE A_SPLAT A_FMA A_LOAD_SOME(p, n)
 *     fold(a)            sixteen lanes to eight: lane i plus lane i + 8
 *     DOT_ROWS DOT_KEYS  rows and keys whose products are in registers together
 *     MIX_ROWS MIX_COLS  rows and vectors of columns likewise
 * A score is a sum of sixteen lanes over the head's dimensions, folded, then summed as sum8 does; an accumulator is one
 * chain over the positions. Neither depends on the vector's width or on the rows beside, so the widths agree. */
#include "kernels/cpu/vec.h"

enum { LANES = 16, AN = LANES / W };

/* scores of rows r .. r + nr - 1 with eight keys; a key at or behind `last` repeats it: nothing outside is read */
INLINE void dots(const struct query *rows, const int nr, int first, const float *k, int64_t stride, int last, int hd,
                 v8 scale)
{
    v8 sum[DOT_ROWS][8];
#pragma GCC unroll 8
    for (int part = 0; part < 8; part += DOT_KEYS) {
        A a[DOT_ROWS][DOT_KEYS][AN];
        const float *key[DOT_KEYS];
#pragma GCC unroll 8
        for (int j = 0; j < DOT_KEYS; j++) {
            key[j] = k + (part + j < last ? part + j : last) * stride;
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
                for (int c = 0; c < AN; c++)
                    a[r][j][c] = A_SPLAT(0);
        }
        int i = 0;
        for (; i + LANES <= hd; i += LANES) {
#pragma GCC unroll 4
            for (int c = 0; c < AN; c++) {
#pragma GCC unroll 8
                for (int j = 0; j < DOT_KEYS; j++) {
                    A kj = A_LOAD(key[j] + i + c * W);
#pragma GCC unroll 4
                    for (int r = 0; r < nr; r++)
                        a[r][j][c] = A_FMA(A_LOAD(rows[r].q + i + c * W), kj, a[r][j][c]);
                }
            }
        }
        if (i < hd) {
#pragma GCC unroll 4
            for (int c = 0; c < AN; c++) {
                int n = hd - i - c * W < 0 ? 0 : hd - i - c * W < W ? hd - i - c * W : W;
#pragma GCC unroll 8
                for (int j = 0; j < DOT_KEYS; j++) {
                    A kj = A_LOAD_SOME(key[j] + i + c * W, n);
#pragma GCC unroll 4
                    for (int r = 0; r < nr; r++)
                        a[r][j][c] = A_FMA(A_LOAD_SOME(rows[r].q + i + c * W, n), kj, a[r][j][c]);
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
            for (int j = 0; j < DOT_KEYS; j++)
                sum[r][part + j] = fold(a[r][j]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
        store8(rows[r].p + first, sums8(sum[r]) * scale);
}

/* Scores to weights: the running maximum, the running sum, and how much the past counts for still. */
INLINE void soften(struct query *row)
{
    const i8 lane = { 0, 1, 2, 3, 4, 5, 6, 7 };
    v8 s[4], top = splat(-INFINITY);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        i8 at = lane + 8 * g;
        s[g] = select8((at >= row->lo) & (at < row->hi), load8(row->p + 8 * g), splat(-INFINITY));
        top = max8(top, s[g]);
    }
    float before = row->state[0], max = max_lanes(top);
    max = before > max ? before : max;
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        s[g] = exp8(s[g] - splat(max));
        store8(row->p + 8 * g, s[g]);
    }
    row->decay = exp8(splat(before - max))[0];
    row->state[0] = max;
    row->state[1] = row->state[1] * row->decay + sum8((s[0] + s[1]) + (s[2] + s[3]));
}

/* accumulators = accumulators * decay + sum over j of p[j] * v[j], nv vectors from column i on; all rows see lo .. hi
 */
INLINE void mix(const struct query *rows, const int nr, const float *v, int64_t stride, int i, const int nv)
{
    A a[MIX_ROWS][MIX_COLS];
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            a[r][c] = A_LOAD(rows[r].state + 2 + i + c * W) * A_SPLAT(rows[r].decay);
    const float *from = v + rows[0].lo * stride + i;
    for (int j = rows[0].lo; j < rows[0].hi; j++, from += stride) {
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++) {
            A vj = A_LOAD(from + c * W);
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++)
                a[r][c] = A_FMA(A_SPLAT(rows[r].p[j]), vj, a[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            A_STORE(rows[r].state + 2 + i + c * W, a[r][c]);
}

INLINE void mix_all(const struct query *rows, const int nr, const float *v, int64_t stride, int hd)
{
    int i = 0;
    for (; i + MIX_COLS * W <= hd; i += MIX_COLS * W)
        mix(rows, nr, v, stride, i, MIX_COLS);
    for (; i + W <= hd; i += W)
        mix(rows, nr, v, stride, i, 1);
    for (; i < hd; i++)
        for (int r = 0; r < nr; r++) {
            float *to = rows[r].state + 2 + i;
            v8 a = splat(*to * rows[r].decay);
            for (int j = rows[r].lo; j < rows[r].hi; j++)
                a = fma8(splat(rows[r].p[j]), splat(v[j * stride + i]), a);
            *to = a[0];
        }
}

INLINE bool see_the_same(const struct query *rows, int n)
{
    for (int r = 1; r < n; r++)
        if (rows[r].lo != rows[0].lo || rows[r].hi != rows[0].hi)
            return false;
    return true;
}

/* Three passes over the rows: products, weights, products. Within a pass rows do not wait for each other. */
INLINE void attend_rows(struct query *rows, int n, const float *k, const float *v, int64_t stride, int hd, float scale)
{
    int lo = ATTEND_BLOCK, hi = 0;
    for (int r = 0; r < n; r++) {
        lo = rows[r].lo < lo ? rows[r].lo : lo;
        hi = rows[r].hi > hi ? rows[r].hi : hi;
    }
    for (int first = lo & ~7; first < hi; first += 8) {
        int r = 0;
        for (; r + DOT_ROWS <= n; r += DOT_ROWS)
            dots(rows + r, DOT_ROWS, first, k + first * stride, stride, hi - 1 - first, hd, splat(scale));
        for (; r < n; r++)
            dots(rows + r, 1, first, k + first * stride, stride, hi - 1 - first, hd, splat(scale));
    }
    for (int r = 0; r < n; r++)
        soften(rows + r);
    for (int r = 0; r < n;) {
        if (r + MIX_ROWS <= n && see_the_same(rows + r, MIX_ROWS)) {
            mix_all(rows + r, MIX_ROWS, v, stride, hd);
            r += MIX_ROWS;
        } else {
            mix_all(rows + r++, 1, v, stride, hd);
        }
    }
}
