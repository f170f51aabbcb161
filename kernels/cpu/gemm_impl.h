/* gemm_impl.h - the micro-kernels, written once over a vector type; gemm_base.c, gemm_avx2.c and gemm_avx512.c include
 * it with
 *     V           the vector, VN floats wide
 *     V_LOAD(p) V_STORE(p, v) V_SPLAT(p: const float *) V_ZERO
 *     V_FMA(a, b, c)     a * b + c, rounded as the class says
 *     V_LOW(p) V_HIGH(p) the low / high bf16 halves of VN words at p, widened
 * Every accumulator is one chain over k: neither the tile nor the blocking over k can be seen in the result. */

enum { VP = PANEL / VN }; /* vectors in a panel's row */

static inline __attribute__((always_inline)) void one_k(const int mr, const int nv, V c[TILE_ROWS][NV_MAX], const V *b,
                                                        const float *x, int64_t ldx)
{
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) {
        V a = V_SPLAT(x + r * ldx);
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            c[r][j] = V_FMA(a, b[j], c[r][j]);
    }
}

/* Asks for the line of each panel that will be needed `ahead` bytes later. */
static inline __attribute__((always_inline)) void fetch(const int np, const char *w, size_t panel_bytes)
{
#pragma GCC unroll 8
    for (int p = 0; p < np; p++)
        __builtin_prefetch(w + (size_t)p * panel_bytes);
}

static inline __attribute__((always_inline)) void tile(const int mr, const int np, const bool bf16, int64_t kn,
                                                       const float *x, int64_t ldx, const char *w, size_t panel_bytes,
                                                       float *acc, bool first, size_t ahead)
{
    const int nv = np * VP;
    V c[TILE_ROWS][NV_MAX], b[NV_MAX];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            c[r][j] = first ? V_ZERO : V_LOAD(acc + r * np * PANEL + j * VN);
    if (bf16) {
        int64_t k = 0;
        for (; k + 1 < kn; k += 2, w += PANEL * 4) {
            if (ahead)
                fetch(np, w + ahead, panel_bytes);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOW(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, x + k, ldx);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_HIGH(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, x + k + 1, ldx);
        }
        if (k < kn) {
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOW(w + (size_t)(j / VP) * panel_bytes + (size_t)(j % VP) * VN * 4);
            one_k(mr, nv, c, b, x + k, ldx);
        }
    } else {
#pragma GCC unroll 2
        for (int64_t k = 0; k < kn; k++, w += PANEL * 4) {
            if (ahead)
                fetch(np, w + ahead, panel_bytes);
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++)
                b[j] = V_LOAD((const float *)(const void *)(w + (size_t)(j / VP) * panel_bytes) + j % VP * VN);
            one_k(mr, nv, c, b, x + k, ldx);
        }
    }
#pragma GCC unroll 8
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
                                float *acc, bool first, size_t ahead)                                                  \
    {                                                                                                                  \
        tile(mr, np, false, kn, x, ldx, w, panel_bytes, acc, first, ahead);                                            \
    }                                                                                                                  \
    static void bf16_##mr##x##np(int64_t kn, const float *x, int64_t ldx, const char *w, size_t panel_bytes,           \
                                 float *acc, bool first, size_t ahead)                                                 \
    {                                                                                                                  \
        tile(mr, np, true, kn, x, ldx, w, panel_bytes, acc, first, ahead);                                             \
    }
