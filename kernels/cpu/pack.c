/* pack.c - a matrix in the order in which it is multiplied, made at its first use.
 *
 * Lazily, because a 4B checkpoint must open at once; a matrix at a time and in parallel, because that is how much of
 * it is needed at a time. The mapped source pages are then marked cold (MADV_COLD, never MADV_DONTNEED: the source may
 * be anybody's memory, and this hint loses nothing), so that the kernel reclaims them before anything else. */
#include "kernels/cpu/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"

struct packing {
    const struct weight *w;
    char *to;
};

static bool all_bf16(const struct weight *w)
{
    for (int i = 0; i < w->nparts; i++)
        if (w->part[i].dtype != DTYPE_BF16)
            return false;
    return true;
}

static const char *source_row(const struct weight *w, int64_t r)
{
    const struct weight_part *p = w->part;
    while (r >= p->rows)
        r -= p++->rows;
    return (const char *)p->host + (size_t)(r * w->cols) * dtype_size(p->dtype);
}

enum { TILE_K = 64 }; /* rows of a panel that are written together: they stay in the first cache for all 16 columns */

/* Words of two: element k in the low half, k + 1 in the high one; column c of the panel at word (k / 2) * PANEL + c. */
static void pack_bf16(const struct weight *w, int64_t first, int n, uint32_t *to)
{
    int64_t pairs = w->cols / 2;
    const char *from[PANEL];
    for (int col = 0; col < n; col++)
        from[col] = source_row(w, first + col);
    for (int64_t k = 0; k < pairs; k += TILE_K)
        for (int col = 0; col < n; col++)
            for (int64_t i = k; i < pairs && i < k + TILE_K; i++)
                memcpy(&to[i * PANEL + col], from[col] + 4 * i, 4);
    if (w->cols % 2)
        for (int col = 0; col < n; col++)
            memcpy(&to[pairs * PANEL + col], from[col] + 4 * pairs, 2); /* the panel was zeroed: k + 1 is 0 */
}

static void pack_f32(const struct weight *w, int64_t first, int n, float *to)
{
    float part[TILE_K];
    for (int64_t k = 0; k < w->cols; k += TILE_K) {
        int64_t kn = w->cols - k < TILE_K ? w->cols - k : TILE_K;
        for (int col = 0; col < n; col++) {
            weight_row_part(w, first + col, k, kn, part);
            for (int64_t i = 0; i < kn; i++)
                to[(k + i) * PANEL + col] = part[i];
        }
    }
}

static void pack_panel(void *arg, int i, int thread)
{
    (void)thread;
    const struct packing *p = arg;
    const struct weight *w = p->w;
    char *to = p->to + (size_t)i * w->panel_bytes;
    int64_t first = (int64_t)i * PANEL;
    int n = w->rows - first < PANEL ? (int)(w->rows - first) : PANEL;
    if (n < PANEL || (w->packed_bf16 && w->cols % 2))
        memset(to, 0, w->panel_bytes);
    if (w->packed_bf16)
        pack_bf16(w, first, n, (uint32_t *)(void *)to);
    else
        pack_f32(w, first, n, (float *)(void *)to);
}

static void let_go(const struct weight *w)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < w->nparts; i++) {
        uintptr_t from = (uintptr_t)w->part[i].host;
        uintptr_t end = from + (size_t)(w->part[i].rows * w->cols) * dtype_size(w->part[i].dtype);
        from = (from + page - 1) & ~(page - 1);
        end &= ~(page - 1);
#ifdef MADV_COLD
        if (from < end)
            madvise((void *)from, end - from, MADV_COLD); /* only a hint: an old kernel refuses it, and no harm */
#endif
    }
}

bool weight_pack(struct cpu *c, struct weight *w)
{
    if (w->packed && !w->stale)
        return true;
    w->stale = false;
    w->packed_bf16 = all_bf16(w);
    w->panel_bytes = (size_t)(w->packed_bf16 ? (w->cols + 1) / 2 : w->cols) * PANEL * 4;
    int64_t panels = (w->rows + PANEL - 1) / PANEL;
    size_t huge = (size_t)1 << 21, bytes = (size_t)panels * w->panel_bytes, align = bytes >= 2 * huge ? huge : 64;
    char *to = w->packed ? w->packed : aligned_alloc(align, (bytes + align - 1) & ~(align - 1));
    if (!to) {
        cpu_fail(c, "no memory to pack the %s: %.1f MiB are needed", w->what, (double)bytes / 1048576.0);
        return false;
    }
#ifdef MADV_HUGEPAGE
    if (align == huge)
        madvise(to, bytes, MADV_HUGEPAGE);
#endif
    struct packing p = { w, to };
    pool_run(c->pool, (int)panels, pack_panel, &p);
    if (bytes >= huge && !w->packed)
        let_go(w);
    w->packed = to;
    return true;
}
