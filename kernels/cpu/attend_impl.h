/* attend_impl.h - rows against the positions of one block, forth and back, included by attend_base.c, _avx2.c and
 * _avx512.c with W, A               floats in a vector, the vector A_LOAD A_STORE A_SPLAT A_FMA A_LOAD_SOME(p, n)
 *     A_EXP(x)           exp8's value for x < 88 or NaN
 *     fold(a) top(a)     sixteen lanes to eight: lane i plus lane i + 8, or the greater of the two
 *     DOT_ROWS DOT_KEYS  rows and keys whose products are in registers together
 *     TURN_ROWS TURN_COLS  rows and vectors of keys likewise, where the keys were turned
 *     MIX_ROWS MIX_COLS  rows and vectors of columns likewise
 * A score is a sum of sixteen lanes over the head's dimensions (dimension d is lane d % 16's), folded, then summed as
 * sum8 does (on the way back: of eight lanes); an accumulator is one chain over the positions. Neither depends on the
 * vector's width or on the rows beside, so the widths agree, and few rows may take another way to the same sums than
 * many. */
#include "kernels/cpu/vec.h"

enum { LANES = 16, AN = LANES / W, BLOCK_VECTORS = ATTEND_BLOCK / W };

/* ---- scores, few rows: the lanes lie in a register, and are summed across ---- */

/* scores of rows r .. r + nr - 1 with eight keys; a key at or behind `last` repeats it: nothing outside is read */
INLINE void dots(const struct queries *s, int row, const int nr, int first, const float *k, int64_t stride, int last,
                 int hd, v8 scale)
{
    v8 sum[DOT_ROWS][8];
    const bool all = last >= 7;
#pragma GCC unroll 8
    for (int part = 0; part < 8; part += DOT_KEYS) {
        A a[DOT_ROWS][DOT_KEYS][AN];
        const float *key[DOT_KEYS];
#pragma GCC unroll 8
        for (int j = 0; j < DOT_KEYS; j++) {
            key[j] = all ? k + (part + j) * stride : k + (part + j < last ? part + j : last) * stride;
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
                        a[r][j][c] = A_FMA(A_LOAD(s->q + (row + r) * s->width + i + c * W), kj, a[r][j][c]);
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
                        a[r][j][c] = A_FMA(A_LOAD_SOME(s->q + (row + r) * s->width + i + c * W, n), kj, a[r][j][c]);
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

/* The sums over dimensions d, d + step ... of nr rows, `width` apart, with TURN_COLS * W keys. */
INLINE void chains(turned_tile a, const float *q, int64_t width, const int nr, const float *turned, int d,
                   const int step, int hd)
{
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int c = 0; c < TURN_COLS; c++)
            if (d < hd)
                a[r][c] = A_SPLAT(q[r * width + d]) * A_LOAD(turned + d * ATTEND_BLOCK + c * W);
            else
                a[r][c] = A_SPLAT(0);
    for (d += step; d < hd; d += step) {
        A k[TURN_COLS];
#pragma GCC unroll 4
        for (int c = 0; c < TURN_COLS; c++)
            k[c] = A_LOAD(turned + d * ATTEND_BLOCK + c * W);
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++) {
            A x = A_SPLAT(q[r * width + d]);
#pragma GCC unroll 4
            for (int c = 0; c < TURN_COLS; c++)
                a[r][c] = A_FMA(x, k[c], a[r][c]);
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

/* Lane l; of sixteen lanes it is folded. */
INLINE void lane(turned_tile a, const float *q, int64_t width, const int nr, const float *turned, int l,
                 const int lanes, int hd)
{
    chains(a, q, width, nr, turned, l, lanes, hd);
    if (lanes == LANES) {
        turned_tile b;
        chains(b, q, width, nr, turned, l + 8, lanes, hd);
        add_tile(a, b, nr);
    }
}

INLINE void two_lanes(turned_tile a, const float *q, int64_t width, const int nr, const float *turned, int l,
                      const int lanes, int hd)
{
    turned_tile b;
    lane(a, q, width, nr, turned, l, lanes, hd);
    lane(b, q, width, nr, turned, l + 1, lanes, hd);
    add_tile(a, b, nr);
}

/* p = scale times the products of nr rows with TURN_COLS * W keys */
INLINE void products(float *p, const float *q, int64_t width, const int nr, const float *turned, const int lanes,
                     int hd, float scale)
{
    turned_tile a, b, c;
    two_lanes(a, q, width, nr, turned, 0, lanes, hd);
    two_lanes(b, q, width, nr, turned, 2, lanes, hd);
    add_tile(a, b, nr);
    two_lanes(b, q, width, nr, turned, 4, lanes, hd);
    two_lanes(c, q, width, nr, turned, 6, lanes, hd);
    add_tile(b, c, nr);
    add_tile(a, b, nr);
#pragma GCC unroll 4
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 4
        for (int i = 0; i < TURN_COLS; i++)
            A_STORE(p + r * ATTEND_BLOCK + i * W, a[r][i] * A_SPLAT(scale));
}

/* All of n rows with the keys before `hi`. */
INLINE void all_products(float *p, const float *q, int64_t width, int n, const float *turned, int hi, const int lanes,
                         int hd, float scale)
{
    for (int first = 0; first < hi; first += TURN_COLS * W) {
        int r = 0;
        for (; r + TURN_ROWS <= n; r += TURN_ROWS)
            products(p + r * ATTEND_BLOCK + first, q + r * width, width, TURN_ROWS, turned + first, lanes, hd, scale);
        for (; r < n; r++)
            products(p + r * ATTEND_BLOCK + first, q + r * width, width, 1, turned + first, lanes, hd, scale);
    }
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

/* ---- weighted sums of rows ---- */

/* One of the sums: acc[r] = acc[r] * decay[r] + sum over j of w[r * w_row + j * w_step] * v[j], from <= j < to. */
struct sums {
    float *acc;
    const float *w, *v;
    const float *decay; /* NULL: 1 */
    int64_t width, w_row, w_step, stride;
    int from, to;
};

/* nr rows of acc, nv vectors of columns from i on */
INLINE void mix(const struct sums *s, const int nr, int i, const int nv)
{
    A a[MIX_ROWS][MIX_COLS];
    float *acc = s->acc + i;
    const float *w = s->w + s->from * s->w_step, *v = s->v + s->from * s->stride + i;
    int64_t width = s->width, w_row = s->w_row, w_step = s->w_step, stride = s->stride;
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++) {
            a[r][c] = A_LOAD(acc + r * width + c * W);
            if (s->decay)
                a[r][c] = a[r][c] * A_SPLAT(s->decay[r]);
        }
    for (int j = s->from; j < s->to; j++, v += stride, w += w_step) {
        A vj[MIX_COLS];
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            vj[c] = A_LOAD(v + c * W);
#pragma GCC unroll 8
        for (int r = 0; r < nr; r++) {
            A x = A_SPLAT(w[r * w_row]);
#pragma GCC unroll 8
            for (int c = 0; c < nv; c++)
                a[r][c] = A_FMA(x, vj[c], a[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < nr; r++)
#pragma GCC unroll 8
        for (int c = 0; c < nv; c++)
            A_STORE(acc + r * width + c * W, a[r][c]);
}

INLINE void mix_element(const struct sums *s, int r, int i)
{
    float *to = s->acc + r * s->width + i;
    v8 a = splat(s->decay ? *to * s->decay[r] : *to);
    for (int j = s->from; j < s->to; j++)
        a = fma8(splat(s->w[r * s->w_row + j * s->w_step]), splat(s->v[j * s->stride + i]), a);
    *to = a[0];
}

INLINE void mix_all(const struct sums *s, const int nr, int hd)
{
    int i = 0;
    for (; nr == 1 && i + MIX_COLS * W <= hd; i += MIX_COLS * W)
        mix(s, nr, i, MIX_COLS);
    for (; i + 2 * W <= hd; i += 2 * W)
        mix(s, nr, i, 2);
    for (; i + W <= hd; i += W)
        mix(s, nr, i, 1);
    for (; i < hd; i++)
        for (int r = 0; r < nr; r++)
            mix_element(s, r, i);
}

/* The values of one row or of MIX_ROWS rows that begin to see at the same position: together as far as all of them see,
 * then each alone. */
INLINE void mix_values(const struct queries *s, int row, const int nr, const float *v, int64_t stride, int hd)
{
    struct sums m = { .acc = s->acc + row * s->width,
                      .w = s->p + row * ATTEND_BLOCK,
                      .v = v,
                      .decay = s->decay + row,
                      .width = s->width,
                      .w_row = ATTEND_BLOCK,
                      .w_step = 1,
                      .stride = stride,
                      .from = s->lo[row],
                      .to = s->hi[row] };
    for (int r = 1; r < nr; r++)
        m.to = s->hi[row + r] < m.to ? s->hi[row + r] : m.to;
    mix_all(&m, nr, hd);
    m.decay = NULL;
    m.from = m.to;
    for (int r = row; nr > 1 && r < row + nr; r++, m.acc += s->width, m.w += ATTEND_BLOCK)
        if (m.from < s->hi[r]) {
            m.to = s->hi[r];
            mix_all(&m, 1, hd);
        }
}

INLINE bool begin_together(const struct queries *s, int row, int n)
{
    for (int r = row; r < row + n; r++)
        if (s->lo[r] != s->lo[row] || s->hi[r] <= s->lo[row])
            return false;
    return true;
}

/* ---- forth: three passes over the rows, in which they do not wait for each other ---- */

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
        all_products(s->p + begin * ATTEND_BLOCK, s->q + begin * s->width, s->width, end - begin, s->turned, hi, LANES,
                     hd, scale);
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
            mix_values(s, r, MIX_ROWS, v, stride, hd);
            r += MIX_ROWS;
        } else {
            mix_values(s, r++, 1, v, stride, hd);
        }
    }
}

/* Asks for eight rows' columns of one head. */
INLINE void fetch_rows(const float *p, int64_t stride, int hd)
{
    for (int i = 0; i < hd; i += 16) {
        const float *row = p + i;
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++, row += stride)
            __builtin_prefetch(row);
    }
}

enum { EIGHT_COLS = 32 / W };

/* Eight positions of a row whose head has whole vectors of 32: mix_all's chains, every product by a weight of its own.
 */
INLINE void mix_eight(float *acc, const float *w, float decay, const float *v, int64_t stride, int hd)
{
    for (int i = 0; i < hd; i += 32) {
        A a[EIGHT_COLS];
        const float *vj = v + i;
#pragma GCC unroll 4
        for (int c = 0; c < EIGHT_COLS; c++)
            a[c] = A_LOAD(acc + i + c * W) * A_SPLAT(decay);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++, vj += stride)
#pragma GCC unroll 4
            for (int c = 0; c < EIGHT_COLS; c++)
                a[c] = A_FMA(A_SPLAT(w[j]), A_LOAD(vj + c * W), a[c]);
#pragma GCC unroll 4
        for (int c = 0; c < EIGHT_COLS; c++)
            A_STORE(acc + i + c * W, a[c]);
    }
}

/* The values of positions from .. to - 1, which lie in one eight, for a row. */
INLINE void mix_some(const struct queries *s, int row, int from, int to, bool first, const float *v, int64_t stride,
                     int hd)
{
    float *acc = s->acc + row * s->width;
    const float *w = s->p + row * ATTEND_BLOCK, *decay = first ? s->decay + row : NULL;
    if (to - from == 8 && hd % 32 == 0) {
        mix_eight(acc, w + from, decay ? *decay : 1, v + from * stride, stride, hd);
        return;
    }
    struct sums m = { acc, w, v, decay, s->width, ATTEND_BLOCK, 1, stride, from, to };
    mix_all(&m, 1, hd);
}

/* Eight positions of all heads lie side by side in memory and are passed over together: so memory is read in order. */
static void attend_token(const struct queries *s, int heads, int group, const float *k, const float *v,
                         const float *next_k, const float *next_v, int64_t stride, int hd, float scale)
{
    int lo = s->lo[0], hi = s->hi[0], r, rows = heads * group;
    for (int first = lo & ~7; first < hi; first += 8)
        for (int h = 0; h < heads; h++) {
            int64_t at = first * stride + (int64_t)h * hd;
            fetch_rows(next_k + at, stride, hd);
            for (r = 0; r + DOT_ROWS <= group; r += DOT_ROWS)
                dots(s, h * group + r, DOT_ROWS, first, k + at, stride, hi - 1 - first, hd, splat(scale));
            for (; r < group; r++)
                dots(s, h * group + r, 1, first, k + at, stride, hi - 1 - first, hd, splat(scale));
        }
    for (r = 0; r + 8 <= rows; r += 8)
        soften8(s, r);
    for (; r < rows; r++)
        soften(s, r);
    for (int from = lo, to; from < hi; from = to) {
        to = (from | 7) + 1 < hi ? (from | 7) + 1 : hi;
        for (int h = 0; h < heads; h++) {
            fetch_rows(next_v + (from & ~7) * stride + (int64_t)h * hd, stride, hd);
            for (r = h * group; r < (h + 1) * group; r++)
                mix_some(s, r, from, to, from == lo, v + (int64_t)h * hd, stride, hd);
        }
    }
}

static void attend_finish(float *out, const float *acc, float sum, int hd)
{
    for (int i = 0; i < hd; i++)
        out[i] = acc[i] / sum;
}

/* ---- back ---- */

/* Products to p and ds; 0 where a row does not see. */
INLINE void back_weights(const struct queries_back *s, int row, float scale)
{
    float *p = s->p + row * ATTEND_BLOCK, *ds = s->ds + row * ATTEND_BLOCK;
    const i8 lane = { 0, 1, 2, 3, 4, 5, 6, 7 };
    int lo = s->lo[row], hi = s->hi[row];
#pragma GCC unroll 4
    for (int g = 0; g < ATTEND_BLOCK; g += W) {
        A w = A_EXP(A_LOAD(p + g) - A_SPLAT(s->lse[row]));
        A_STORE(p + g, w);
        A_STORE(ds + g, w * (A_LOAD(ds + g) - A_SPLAT(s->delta[row])) * A_SPLAT(scale));
    }
    if (lo > 0 || hi < ATTEND_BLOCK)
#pragma GCC unroll 4
        for (int g = 0; g < ATTEND_BLOCK; g += 8) {
            i8 seen = (lane >= lo - g) & (lane < hi - g);
            store8(p + g, select8(seen, load8(p + g), splat(0)));
            store8(ds + g, select8(seen, load8(ds + g), splat(0)));
        }
}

/* Gradients of the block's keys or values grow: to[j] += sum over rows of w[row][j] * x[row]. */
INLINE void grow(float *to, int64_t to_stride, const struct queries_back *s, int begin, int end, const float *w,
                 const float *x, int hd)
{
    struct sums m = { .width = to_stride, .w_row = 1, .w_step = ATTEND_BLOCK, .v = x, .stride = s->width };
    int hi = s->hi[end - 1], j = s->lo[begin];
    m.from = begin;
    m.to = end;
    while (j < hi) {
        m.acc = to + j * to_stride;
        m.w = w + j;
        while (s->hi[m.from] <= j) /* rows that see nothing from here on */
            m.from++;
        if (j + MIX_ROWS <= hi) {
            mix_all(&m, MIX_ROWS, hd);
            j += MIX_ROWS;
        } else {
            mix_all(&m, 1, hd);
            j++;
        }
    }
}

static void attend_block_back(const struct queries_back *s, int begin, int end, const float *k, const float *v,
                              int64_t stride, float *dk, float *dv, int64_t dstride, int hd, float scale)
{
    int lo = s->lo[begin], hi = s->hi[end - 1], n = end - begin, r; /* lo and hi rise */
    int64_t at = begin * s->width, at_p = (int64_t)begin * ATTEND_BLOCK;
    turn_keys(s->turned, k, stride, hi - 1, hd);
    all_products(s->p + at_p, s->q + at, s->width, n, s->turned, hi, 8, hd, scale);
    turn_keys(s->turned, v, stride, hi - 1, hd);
    all_products(s->ds + at_p, s->dout + at, s->width, n, s->turned, hi, 8, hd, 1);
    for (r = begin; r < end; r++)
        back_weights(s, r, scale);
    grow(dk, dstride, s, begin, end, s->ds, s->q, hd);
    grow(dv, dstride, s, begin, end, s->p, s->dout, hd);
    struct sums m = { .w_row = ATTEND_BLOCK, .w_step = 1, .v = k, .stride = stride, .width = s->width };
    m.from = lo;
    m.to = hi;
    for (r = begin; r < end;) {
        m.acc = s->dq + r * s->width;
        m.w = s->ds + r * ATTEND_BLOCK;
        if (r + MIX_ROWS <= end) {
            mix_all(&m, MIX_ROWS, hd);
            r += MIX_ROWS;
        } else {
            mix_all(&m, 1, hd);
            r++;
        }
    }
}
