/* gemm_impl.h - the micro-kernels, written once over a vector type; gemm_base.c, gemm_avx2.c and gemm_avx512.c include
 * it with
 *     V           the vector, VN floats wide
 *     V_LOAD(p) V_STORE(p, v) V_SPLAT(p: const float *) V_ZERO
 *     V_FMA(a, b, c)     a * b + c, rounded as the class says
 *     V_LOW(p) V_HIGH(p) the low / high bf16 halves of VN words at p, widened
 * Every accumulator is one chain over k: neither the tile nor the blocking over k can be seen in the result. */

enum { VP = PANEL / VN }; /* vectors in a panel's row */

/* Rows of x in fours: a row's address is one of four sums of registers, so that sixteen rows need six. */
struct rows_of_x {
    const char *four[(TILE_ROWS + 3) / 4];
    int64_t step, step3; /* bytes between rows, and between a row and the third after it */
};

static inline __attribute__((always_inline)) const float *row_of(const struct rows_of_x *x, int r)
{
    return (const float *)(const void *)(x->four[r / 4] + (r % 4 == 3 ? x->step3 : r % 4 * x->step));
}

static inline __attribute__((always_inline)) void next_k(const int mr, struct rows_of_x *x)
{
#pragma GCC unroll 4
    for (int f = 0; f < (mr + 3) / 4; f++) {
        x->four[f] += sizeof(float);
        __asm__("" : "+r"(x->four[f])); /* else the compiler makes a pointer of each row, and spills them */
    }
}

static inline __attribute__((always_inline)) void one_k(const int mr, const int nv, V c[TILE_ROWS][NV_MAX], const V *b,
                                                        struct rows_of_x *x)
{
#pragma GCC unroll 16
    for (int r = 0; r < mr; r++) {
        V a = V_SPLAT(row_of(x, r));
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            c[r][j] = V_FMA(a, b[j], c[r][j]);
    }
    next_k(mr, x);
}

/* Asks for a line of each of n panels. */
static inline __attribute__((always_inline)) void fetch(const int np, int n, const char *w, size_t panel_bytes)
{
#pragma GCC unroll 8
    for (int p = 0; p < np; p++)
        if (p < n)
            __builtin_prefetch(w + (size_t)p * panel_bytes);
}

static inline __attribute__((always_inline)) void tile(const int mr, const int np, const bool bf16, int64_t kn,
                                                       const float *x, int64_t ldx, const char *w, size_t panel_bytes,
                                                       float *acc, bool first, size_t ahead, int fetched)
{
    const int nv = np * VP;
    V c[TILE_ROWS][NV_MAX], b[NV_MAX];
    struct rows_of_x rows = { .step = ldx * 4, .step3 = ldx * 12 };
    __asm__("" : "+r"(rows.step3));
#pragma GCC unroll 4
    for (int f = 0; f < (mr + 3) / 4; f++)
        rows.four[f] = (const char *)(x + 4 * f * ldx);
#pragma GCC unroll 16
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            c[r][j] = first ? V_ZERO : V_LOAD(acc + r * np * PANEL + j * VN);
    if (bf16) {
        int64_t k = 0;
        for (; k + 1 < kn; k += 2, w += PANEL * 4) {
            fetch(np, fetched, w + ahead, panel_bytes);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOW(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, &rows);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_HIGH(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, &rows);
        }
        if (k < kn) {
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOW(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, &rows);
        }
    } else {
#pragma GCC unroll 2
        for (int64_t k = 0; k < kn; k++, w += PANEL * 4) {
            fetch(np, fetched, w + ahead, panel_bytes);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOAD((const float *)(const void *)(w + (size_t)(j / VP) * panel_bytes) + j % VP * VN);
            one_k(mr, nv, c, b, &rows);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            V_STORE(acc + r * np * PANEL + j * VN, c[r][j]);
}

/* kn rows of a bf16 panel as floats. */
static inline __attribute__((always_inline)) void widen_panel(float *to, const char *from, int64_t kn)
{
    for (int64_t k = 0; k < kn; k += 2, from += PANEL * 4, to += 2 * PANEL) /* an odd kn writes one row of zeros more */
        for (int j = 0; j < VP; j++) {
            V_STORE(to + j * VN, V_LOW(from + j * VN * 4));
            V_STORE(to + PANEL + j * VN, V_HIGH(from + j * VN * 4));
        }
}

/* Accumulators, `width` a row, to rows of y. The chain is finished: bias and the sum into y are one addition each. */
static void put(const float *acc, int width, float *y, int64_t stride, int64_t rows, int64_t cols, const float *bias,
                bool add)
{
    for (int64_t r = 0; r < rows; r++, acc += width, y += stride) {
        if (add && bias)
            for (int64_t i = 0; i < cols; i++)
                y[i] += acc[i] + bias[i];
        else if (add)
            for (int64_t i = 0; i < cols; i++)
                y[i] += acc[i];
        else if (bias)
            for (int64_t i = 0; i < cols; i++)
                y[i] = acc[i] + bias[i];
        else
            for (int64_t i = 0; i < cols; i++)
                y[i] = acc[i];
    }
}

#define TILE(mr, np)                                                                                                   \
    static void f32_##mr##x##np(int64_t kn, const float *x, int64_t ldx, const char *w, size_t panel_bytes,            \
                                float *acc, bool first, size_t ahead, int fetched)                                     \
    {                                                                                                                  \
        tile(mr, np, false, kn, x, ldx, w, panel_bytes, acc, first, ahead, fetched);                                   \
    }                                                                                                                  \
    static void bf16_##mr##x##np(int64_t kn, const float *x, int64_t ldx, const char *w, size_t panel_bytes,           \
                                 float *acc, bool first, size_t ahead, int fetched)                                    \
    {                                                                                                                  \
        tile(mr, np, true, kn, x, ldx, w, panel_bytes, acc, first, ahead, fetched);                                    \
    }
