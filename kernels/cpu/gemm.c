/* gemm.c - linear: shares out rows and panels, and runs micro-kernels over them.
 *
 * Work is cut into pieces of (a block of rows) x (some panels). Within a piece a few panels stay in the first cache
 * while the block's rows, which fit the second, pass over them. K is cut only when the panels would not fit. */
#include <string.h>

#include "kernels/cpu/fast.h"

enum {
    K_WHOLE = 512,          /* up to here K is not cut */
    K_BLOCK = 384,          /* so much of a panel stays in L1 while rows pass over it */
    ROWS_BYTES = 256 << 10, /* of x in L2 */
    SERIAL_MACS = 100000,   /* less is done before another thread wakes */
    STREAM_BYTES = 8192,    /* asked for before they are used, of all panels of a strip that is read once */
    WIDEN_TILES = 5,        /* fewer tiles do not pay for a widened copy */
    PIECE_MACS = 40000,
    PIECES_EACH = 8, /* for a thread, where rows are many; where few, one, so that strips follow each other */
    ACC_ROWS = 192,  /* rows of a block: their accumulators wait in scratch while K is cut */
};

struct gemm {
    struct cpu *c;
    const struct gemm_isa *isa;
    const struct weight *w;
    const float *x, *bias;
    float *y;
    bool add;
    int64_t n, k, rows;
    int64_t tiles, tiles_per_block, first_panel, panels, panels_per_piece, pieces_per_block;
    int64_t k_block; /* even, for bf16 words */
    int widest;      /* log2 of the panels that one tile takes */
};

static int64_t tile_begin(const struct gemm *g, int64_t t) /* heights differ by at most one */
{
    return t * g->rows / g->tiles;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What a thread's scratch holds. */
struct room {
    float acc[(ACC_ROWS + TILE_ROWS) * (PANEL << (TILE_WIDTHS - 1))];
    float wide[K_WHOLE * PANEL];
};

/* The last two tiles ask for half of the next strip's panels each: how far away they are, and how many. */
static size_t next_strip(const struct weight *w, int64_t tiles_left, int width, int *panels)
{
    int half = (1 << width) / 2, all = 1 << width;
    *panels = tiles_left == 1 ? all - half : tiles_left == 2 ? half : 0;
    return (size_t)w->panel_bytes * (size_t)(tiles_left == 1 ? all + half : all);
}

/* Tiles t0 .. t1-1 against 1 << width panels. While K is cut the accumulators of all these tiles wait in acc. A bf16
 * panel that several tiles pass over is widened once. */
static void strip(const struct gemm *g, int64_t t0, int64_t t1, int64_t panel, int width, struct room *room)
{
    const struct weight *w = g->w;
    const char *packed = (const char *)w->packed + (size_t)panel * w->panel_bytes;
    int64_t row0 = tile_begin(g, t0);
    int cols = PANEL << width;
    bool widen = w->packed_bf16 && g->isa->widen && t1 - t0 >= WIDEN_TILES && width == 0;
    for (int64_t k0 = 0; k0 < g->k; k0 += g->k_block) {
        int64_t kn = min64(g->k - k0, g->k_block);
        const char *wk = packed + (size_t)k0 * PANEL * (w->packed_bf16 ? 2 : 4);
        if (widen) {
            g->isa->widen(room->wide, wk, kn);
            wk = (const char *)room->wide;
        }
        for (int64_t t = t0; t < t1; t++) {
            int64_t row = tile_begin(g, t), height = tile_begin(g, t + 1) - row;
            float *to = g->k_block < g->k ? room->acc + (row - row0) * cols : room->acc;
            gemm_tile *run = w->packed_bf16 && !widen ? g->isa->bf16[height][width] : g->isa->f32[height][width];
            int fetched = 1 << width;
            size_t ahead = t1 - t0 == 1 ? (size_t)STREAM_BYTES >> width : next_strip(w, t1 - t, width, &fetched);
            if (widen)
                fetched = 0;
            run(kn, g->x + row * g->k + k0, g->k, wk, w->panel_bytes, to, k0 == 0, ahead, fetched);
            if (k0 + kn == g->k)
                g->isa->put(to, cols, g->y + row * g->n + panel * PANEL, g->n, height,
                            min64(g->n - panel * PANEL, cols), g->bias ? g->bias + panel * PANEL : NULL, g->add);
        }
    }
}

static void piece(void *arg, int i, int thread)
{
    const struct gemm *g = arg;
    int64_t t0 = i / g->pieces_per_block * g->tiles_per_block, t1 = min64(t0 + g->tiles_per_block, g->tiles);
    int64_t p = i % g->pieces_per_block * g->panels_per_piece, end = min64(p + g->panels_per_piece, g->panels);
    int width = g->widest;
    while (p < end) {
        while ((int64_t)1 << width > end - p)
            width--;
        strip(g, t0, t1, g->first_panel + p, width, g->c->scratch[thread].p);
        p += (int64_t)1 << width;
    }
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* So many of n things to a piece that there are about `pieces`, or up to twice as many, and threads end together. */
static int64_t even(int64_t n, int64_t pieces, int64_t threads)
{
    int64_t most = ceil_div(n, pieces), best = most, least = INT64_MAX;
    for (int64_t each = most; each >= 1 && each >= most / 2 && least > ceil_div(n, threads); each--) {
        int64_t longest = ceil_div(ceil_div(n, each), threads) * each;
        if (longest < least) {
            least = longest;
            best = each;
        }
    }
    return best;
}

/* Blocks of rows as tall as L2 allows; then as many pieces per block as keep all threads busy to the end, each a whole
 * number of the widest tiles. */
static int64_t plan(struct gemm *g)
{
    g->tiles = ceil_div(g->rows, g->isa->max_rows);
    int64_t threads = g->c->threads, height = ceil_div(g->rows, g->tiles);
    g->widest = g->isa->widest[height];
    int64_t cuts = g->tiles > 1 && g->k > K_WHOLE ? ceil_div(g->k, K_BLOCK) : 1;
    g->k_block = cuts == 1 ? g->k : (ceil_div(g->k, cuts) + 1) & ~(int64_t)1;
    int64_t rows = ROWS_BYTES / (g->k * (int64_t)sizeof(float));
    rows = rows < 4 * height ? 4 * height : rows > ACC_ROWS ? ACC_ROWS : rows;
    int64_t blocks = ceil_div(g->tiles, rows / height);
    g->tiles_per_block = ceil_div(g->tiles, blocks);
    blocks = ceil_div(g->tiles, g->tiles_per_block);
    int pieces_each = 1;
    if (blocks >= threads) { /* as many for each thread, and small ones: the last piece is waited for */
        g->tiles_per_block = ceil_div(g->tiles, ceil_div(blocks, threads) * threads);
        blocks = ceil_div(g->tiles, g->tiles_per_block);
        pieces_each = PIECES_EACH;
    }
    int64_t groups = ceil_div(g->panels, (int64_t)1 << g->widest), macs = g->rows * g->k * g->panels * PANEL;
    int64_t want = min64(pieces_each * threads, macs / PIECE_MACS + 1);
    if (threads == 1 || macs < SERIAL_MACS)
        want = 1;
    g->panels_per_piece = even(groups, min64(ceil_div(want, blocks), groups), threads) << g->widest;
    g->pieces_per_block = ceil_div(g->panels, g->panels_per_piece);
    return blocks * g->pieces_per_block;
}

static const struct gemm_isa *isa_of(const struct cpu *c)
{
#if defined(__x86_64__)
    if (c->isa == CPU_AVX512)
        return &gemm_avx512;
    if (c->isa == CPU_AVX2)
        return &gemm_avx2;
#endif
    (void)c;
    return &gemm_base;
}

static void multiply(struct gemm *g)
{
    struct cpu *c = g->c;
    int64_t pieces = plan(g);
    for (int t = 0; t < c->threads; t++)
        if (!cpu_scratch(c, t, sizeof(struct room), "product"))
            return;
    pool_run(g->rows * g->k * min64(g->n, g->panels * PANEL) < SERIAL_MACS ? NULL : c->pool, (int)pieces, piece, g);
}

void fast_linear(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, const struct tensor *bias,
                 int rows, bool add)
{
    if (!weight_pack(c, w))
        return;
    struct gemm g = { .c = c, .isa = isa_of(c), .w = w, .x = f32(x), .bias = f32(bias), .y = f32(y), .add = add };
    g.n = w->rows;
    g.k = w->cols;
    g.rows = rows;
    g.panels = ceil_div(g.n, PANEL);
    multiply(&g);
}

/* Whole panels: that is why the columns around the block get their product too. */
void fast_linear_block(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, int row, int rows,
                       int col, int cols)
{
    if (!weight_pack(c, w))
        return;
    struct gemm g = { .c = c, .isa = isa_of(c), .w = w, .n = w->rows, .k = w->cols, .rows = rows };
    g.x = f32(x) + row * g.k;
    g.y = f32(y) + row * g.n;
    g.first_panel = col / PANEL;
    g.panels = ceil_div(col + cols, PANEL) - g.first_panel;
    multiply(&g);
}
