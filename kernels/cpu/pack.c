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
    struct cpu *c;
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

/* Words of two: element k in the low half, k + 1 in the high one; column c of the panel at word (k / 2) * PANEL + c. */
static void pack_bf16(const struct weight *w, int64_t first, int n, uint16_t *to)
{
    for (int col = 0; col < n; col++) {
        const char *from = source_row(w, first + col);
        for (int64_t k = 0; k < w->cols; k++)
            memcpy(&to[(k / 2 * PANEL + col) * 2 + k % 2], from + 2 * k, 2);
    }
}

static void pack_f32(const struct weight *w, int64_t first, int n, float *to, float *row)
{
    for (int col = 0; col < n; col++) {
        weight_row(w, first + col, row);
        for (int64_t k = 0; k < w->cols; k++)
            to[k * PANEL + col] = row[k];
    }
}

static void pack_panel(void *arg, int i, int thread)
{
    struct packing *p = arg;
    const struct weight *w = p->w;
    char *to = p->to + (size_t)i * w->panel_bytes;
    int64_t first = (int64_t)i * PANEL;
    int n = w->rows - first < PANEL ? (int)(w->rows - first) : PANEL;
    if (n < PANEL || (w->packed_bf16 && w->cols % 2))
        memset(to, 0, w->panel_bytes);
    if (w->packed_bf16)
        pack_bf16(w, first, n, (uint16_t *)(void *)to);
    else
        pack_f32(w, first, n, (float *)(void *)to, p->c->scratch[thread].p);
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
    for (int t = 0; t < c->threads; t++)
        if (!cpu_scratch(c, t, (size_t)w->cols * 4, w->what))
            return false;
    char *to = w->packed ? w->packed : aligned_alloc(align, (bytes + align - 1) & ~(align - 1));
    if (!to) {
        cpu_fail(c, "no memory to pack the %s: %.1f MiB are needed", w->what, (double)bytes / 1048576.0);
        return false;
    }
#ifdef MADV_HUGEPAGE
    if (align == huge)
        madvise(to, bytes, MADV_HUGEPAGE);
#endif
    struct packing p = { c, w, to };
    pool_run(c->pool, (int)panels, pack_panel, &p);
    if (bytes >= huge && !w->packed)
        let_go(w);
    w->packed = to;
    return true;
}
