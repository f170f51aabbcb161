/* fast.h - the pieces of the fast path, per instruction set. */
#ifndef LATENT_CPU_FAST_H
#define LATENT_CPU_FAST_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/cpu.h"

/* ---- multiplication ---- */

enum { TILE_ROWS = 6, TILE_WIDTHS = 4 };

/* Runs `rows` x (panels * PANEL) chains over k = 0 .. kn-1: acc[r * panels * PANEL + c] starts from 0 (first) or from
 * what an earlier call left, which continues the same chain. w points at the first panel's k = 0 of this call. */
typedef void gemm_tile(int64_t kn, const float *x, int64_t ldx, const char *w, size_t panel_bytes, float *acc,
                       bool first);

/* [height][log2 of the panels taken at once]. widest: enough chains in flight to hide the latency of an addition, no
 * more than there are registers. A height has every width that a greater height has. */
struct gemm_isa {
    int max_rows;
    int widest[TILE_ROWS + 1];
    gemm_tile *f32[TILE_ROWS + 1][TILE_WIDTHS], *bf16[TILE_ROWS + 1][TILE_WIDTHS];
};
extern const struct gemm_isa gemm_base, gemm_avx2, gemm_avx512;

void fast_linear(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, const struct tensor *bias,
                 int rows, bool add);

/* Puts the fast path's operations over the oracle's. */
void fast_init(struct cpu_ops *ops);

#endif
