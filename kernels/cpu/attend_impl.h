/* attend_impl.h - rows against the positions of one block, included by attend_base.c, _avx2.c and _avx512.c with
 *     W, A               floats in a vector, the vector
 *     A_LOAD A_STORE A_SPLAT A_FMA A_LOAD_SOME(p, n)
 *     A_EXP(x)           exp8's value for x <= 0 or NaN
 *     fold(a) top(a)     sixteen lanes to eight: lane i plus lane i + 8, or the greater of the two
 *     DOT_ROWS DOT_KEYS  rows and keys whose products are in registers together
 *     TURN_ROWS TURN_COLS  rows and vectors of keys likewise, where the keys were turned
 *     MIX_ROWS MIX_COLS  rows and vectors of columns likewise
 * A score is a sum of sixteen lanes over the head's dimensions (dimension d is lane d % 16's), folded, then summed as
 * sum8 does; an accumulator is one chain over the positions. Neither depends on the vector's width or on the rows
 * beside, so the widths agree, and few rows may take another way to the same sums than many. */
#include "kernels/cpu/vec.h"

enum { LANES = 16, AN = LANES / W, BLOCK_VECTORS = ATTEND_BLOCK / W };

/* ---- scores, few rows: the lanes lie in a register, and are summed across ---- */

/* scores of rows r .. r + nr - 1 with eight keys; a key at or behind `last` repeats it: nothing outside is read */
INLINE void dots(const struct queries *s, int row, const int nr, int first, const float *k, int64_t stride, int last,
                 int hd, v8 scale)
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
                        a[r][j][c] = A_FMA(A_LOAD(s->q[row + r] + i + c * W), kj, a[r][j][c]);
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
                        a[r][j][c] = A_FMA(A_LOAD_SOME(s->q[row + r] + i + c * W, n), kj, a[r][j][c]);
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
        store8(s->p + (row + r) * ATTEND_BLOCK + first, sums8(sum[r]) * scale);
}

/* ---- scores, many rows: keys lie side by side in a register, each lane's sum in one of its own ---- */

/* The block's keys turned: turned[d * ATTEND_BLOCK + j]. A key behind `last` repeats it. */
INLINE void turn_keys(float *turned, const float *k, int64_t stride, int last, int hd)
{
    for (int j = 0; j <= last; j += 8) {
        const float *key[8];
        v8 a[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            key[i] = k + (j + i < last ? j + i : last) * stride;
        for (int d = 0; d < hd; d += 8) {
            int n = hd - d < 8 ? hd - d : 8;
            if (n == 8)
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++)
                    a[i] = load8(key[i] + d);
            else
                for (int i = 0; i < 8; i++)
                    a[i] = load_some(key[i] + d, n, 0);
            turn8(a);
            for (int i = 0; i < n; i++)
                store8(turned + (d + i) * ATTEND_BLOCK + j, a[i]);
        }
    }
}

typedef A turned_tile[TURN_ROWS][TURN_COLS];

/* One lane's sums over dimensions d, d + 16 ... */
INLINE void lane_sums(turned_tile a, const struct queries *s, int row, const int nr, const float *turned, int d, int hd)
{
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int c = 0; c < TURN_COLS; c++)
            if (d < hd)
                a[r][c] = A_SPLAT(s->q[row + r][d]) * A_LOAD(turned + d * ATTEND_BLOCK + c * W);
            else
                a[r][c] = A_SPLAT(0);
    for (d += LANES; d < hd; d += LANES) {
        A k[TURN_COLS];
#pragma GCC unroll 4
        for (int c = 0; c < TURN_COLS; c++)
            k[c] = A_LOAD(turned + d * ATTEND_BLOCK + c * W);
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++) {
            A q = A_SPLAT(s->q[row + r][d]);
#pragma GCC unroll 4
            for (int c = 0; c < TURN_COLS; c++)
                a[r][c] = A_FMA(q, k[c], a[r][c]);
        }
    }
}

INLINE void add_tile(turned_tile a, turned_tile b, const int nr)
{
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int c = 0; c < TURN_COLS; c++)
            a[r][c] = a[r][c] + b[r][c];
}

/* Lanes l and l + 8, of two neighbours: what fold and the first step of sum8 do. */
INLINE void two_lanes(turned_tile a, const struct queries *s, int row, const int nr, const float *turned, int l, int hd)
{
    turned_tile b, c;
    lane_sums(a, s, row, nr, turned, l, hd);
    lane_sums(b, s, row, nr, turned, l + 8, hd);
    add_tile(a, b, nr);
    lane_sums(b, s, row, nr, turned, l + 1, hd);
    lane_sums(c, s, row, nr, turned, l + 9, hd);
    add_tile(b, c, nr);
    add_tile(a, b, nr);
}

/* scores of nr rows with TURN_COLS * W keys from `first` on */
INLINE void products(const struct queries *s, int row, const int nr, int first, const float *turned, int hd,
                     float scale)
{
    turned_tile a, b, c;
    two_lanes(a, s, row, nr, turned + first, 0, hd);
    two_lanes(b, s, row, nr, turned + first, 2, hd);
    add_tile(a, b, nr);
    two_lanes(b, s, row, nr, turned + first, 4, hd);
    two_lanes(c, s, row, nr, turned + first, 6, hd);
    add_tile(b, c, nr);
    add_tile(a, b, nr);
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int i = 0; i < TURN_COLS; i++)
            A_STORE(s->p + (row + r) * ATTEND_BLOCK + first + i * W, a[r][i] * A_SPLAT(scale));
}

/* ---- weights: the running maximum, the running sum, and how much the past counts for still ---- */

/* Scores of positions that the row does not see become minus infinity. */
INLINE void hide(const struct queries *s, int row)
{
    const i8 lane = { 0, 1, 2, 3, 4, 5, 6, 7 };
    float *p = s->p + row * ATTEND_BLOCK;
    int lo = s->lo[row], hi = s->hi[row];
    if (lo == 0 && hi == ATTEND_BLOCK)
        return;
#pragma GCC unroll 4
    for (int g = 0; g < ATTEND_BLOCK; g += 8)
        store8(p + g, select8((lane >= lo - g) & (lane < hi - g), load8(p + g), splat(-INFINITY)));
}

INLINE v8 greatest(const float *p)
{
    A a[BLOCK_VECTORS];
#pragma GCC unroll 4
    for (int g = 0; g < BLOCK_VECTORS; g++)
        a[g] = A_LOAD(p + g * W);
    return max8(top(a), top(a + AN));
}

/* Scores to weights; returns their sums, which are to be summed further. */
INLINE v8 weigh(float *p, float max)
{
    A a[BLOCK_VECTORS];
#pragma GCC unroll 4
    for (int g = 0; g < BLOCK_VECTORS; g++) {
        a[g] = A_EXP(A_LOAD(p + g * W) - A_SPLAT(max));
        A_STORE(p + g * W, a[g]);
    }
    return fold(a) + fold(a + AN);
}

INLINE void soften(const struct queries *s, int row)
{
    float *p = s->p + row * ATTEND_BLOCK;
    hide(s, row);
    float before = s->max[row], max = max_lanes(greatest(p));
    max = before > max ? before : max;
    s->decay[row] = exp8(splat(before - max))[0];
    s->max[row] = max;
    s->sum[row] = s->sum[row] * s->decay[row] + sum8(weigh(p, max));
}

INLINE void soften8(const struct queries *s, int row)
{
    float *p = s->p + row * ATTEND_BLOCK;
    v8 of[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; r++) {
        hide(s, row + r);
        of[r] = greatest(p + r * ATTEND_BLOCK);
    }
    v8 before = load8(s->max + row), max = max8(before, maxes8(of)), decay = exp8(before - max);
    store8(s->max + row, max);
    store8(s->decay + row, decay);
#pragma GCC unroll 8
    for (int r = 0; r < 8; r++)
        of[r] = weigh(p + r * ATTEND_BLOCK, s->max[row + r]);
    store8(s->sum + row, load8(s->sum + row) * decay + sums8(of));
}

/* ---- weighted values ---- */

/* accumulators = accumulators * decay + sum over j of p[j] * v[j], nv vectors from column i on, positions from .. to-1;
 * `first`: the decay is still to be applied */
INLINE void mix(const struct queries *s, int row, const int nr, const float *v, int64_t stride, int i, const int nv,
                int from, int to, const bool first)
{
    A a[MIX_ROWS][MIX_COLS];
    const float *p = s->p + row * ATTEND_BLOCK;
    float *acc = s->acc + row * s->width + i;
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++) {
            a[r][c] = A_LOAD(acc + r * s->width + c * W);
            if (first)
                a[r][c] = a[r][c] * A_SPLAT(s->decay[row + r]);
        }
    v += from * stride + i;
    for (int j = from; j < to; j++, v += stride) {
        A vj[MIX_COLS];
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            vj[c] = A_LOAD(v + c * W);
#pragma GCC unroll 8
        for (int r = 0; r < nr; r++) {
            A w = A_SPLAT(p[r * ATTEND_BLOCK + j]);
#pragma GCC unroll 8
            for (int c = 0; c < nv; c++)
                a[r][c] = A_FMA(w, vj[c], a[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            A_STORE(acc + r * s->width + c * W, a[r][c]);
}

INLINE void mix_element(const struct queries *s, int row, const float *v, int64_t stride, int i)
{
    float *to = s->acc + row * s->width + i;
    const float *p = s->p + row * ATTEND_BLOCK;
    v8 a = splat(*to * s->decay[row]);
    for (int j = s->lo[row]; j < s->hi[row]; j++)
        a = fma8(splat(p[j]), splat(v[j * stride + i]), a);
    *to = a[0];
}

INLINE void mix_one(const struct queries *s, int row, const float *v, int64_t stride, int hd)
{
    int i = 0, lo = s->lo[row], hi = s->hi[row];
    for (; i + MIX_COLS * W <= hd; i += MIX_COLS * W)
        mix(s, row, 1, v, stride, i, MIX_COLS, lo, hi, true);
    for (; i + 2 * W <= hd; i += 2 * W)
        mix(s, row, 1, v, stride, i, 2, lo, hi, true);
    for (; i + W <= hd; i += W)
        mix(s, row, 1, v, stride, i, 1, lo, hi, true);
    for (; i < hd; i++)
        mix_element(s, row, v, stride, i);
}

/* nv vectors of columns of MIX_ROWS rows: together as far as all of them see, then each alone. */
INLINE void mix_columns(const struct queries *s, int row, const float *v, int64_t stride, int i, const int nv, int to)
{
    mix(s, row, MIX_ROWS, v, stride, i, nv, s->lo[row], to, true);
    for (int r = row; r < row + MIX_ROWS; r++)
        if (to < s->hi[r])
            mix(s, r, 1, v, stride, i, nv, to, s->hi[r], false);
}

/* MIX_ROWS rows that begin to see at the same position. */
INLINE void mix_tile(const struct queries *s, int row, const float *v, int64_t stride, int hd)
{
    int to = s->hi[row], i = 0;
    for (int r = 1; r < MIX_ROWS; r++)
        to = s->hi[row + r] < to ? s->hi[row + r] : to;
    for (; i + 2 * W <= hd; i += 2 * W)
        mix_columns(s, row, v, stride, i, 2, to);
    for (; i + W <= hd; i += W)
        mix_columns(s, row, v, stride, i, 1, to);
    for (; i < hd; i++)
        for (int r = row; r < row + MIX_ROWS; r++)
            mix_element(s, r, v, stride, i);
}

INLINE bool begin_together(const struct queries *s, int row, int n)
{
    for (int r = row; r < row + n; r++)
        if (s->lo[r] != s->lo[row] || s->hi[r] <= s->lo[row])
            return false;
    return true;
}

/* ---- all of it: three passes over the rows, in which they do not wait for each other ---- */

static void attend_block(const struct queries *s, int begin, int end, const float *k, const float *v, int64_t stride,
                         int hd, float scale)
{
    int lo = ATTEND_BLOCK, hi = 0, r;
    for (r = begin; r < end; r++) {
        lo = s->lo[r] < lo ? s->lo[r] : lo;
        hi = s->hi[r] > hi ? s->hi[r] : hi;
    }
    if (end - begin >= TURN_PAYS) {
        turn_keys(s->turned, k, stride, hi - 1, hd);
        for (int first = 0; first < hi; first += TURN_COLS * W) {
            for (r = begin; r + TURN_ROWS <= end; r += TURN_ROWS)
                products(s, r, TURN_ROWS, first, s->turned, hd, scale);
            for (; r < end; r++)
                products(s, r, 1, first, s->turned, hd, scale);
        }
    } else
        for (int first = lo & ~7; first < hi; first += 8) {
            for (r = begin; r + DOT_ROWS <= end; r += DOT_ROWS)
                dots(s, r, DOT_ROWS, first, k + first * stride, stride, hi - 1 - first, hd, splat(scale));
            for (; r < end; r++)
                dots(s, r, 1, first, k + first * stride, stride, hi - 1 - first, hd, splat(scale));
        }
    for (r = begin; r + 8 <= end; r += 8)
        soften8(s, r);
    for (; r < end; r++)
        soften(s, r);
    for (r = begin; r < end;) {
        if (r + MIX_ROWS <= end && begin_together(s, r, MIX_ROWS)) {
            mix_tile(s, r, v, stride, hd);
            r += MIX_ROWS;
        } else {
            mix_one(s, r++, v, stride, hd);
        }
    }
}

static void attend_finish(float *out, const float *acc, float sum, int hd)
{
    for (int i = 0; i < hd; i++)
        out[i] = acc[i] / sum;
}
