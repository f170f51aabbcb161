/* memory.c - tensors, weights and tickets of the CPU device. */
#include "kernels/cpu/cpu.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void cpu_fail(struct cpu *c, const char *fmt, ...)
{
    if (c->failed)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->reason.msg, sizeof c->reason.msg, fmt, ap);
    va_end(ap);
    c->failed = true;
}

void *cpu_scratch(struct cpu *c, int thread, size_t n, const char *what)
{
    struct scratch *s = &c->scratch[thread];
    if (s->bytes >= n)
        return s->p;
    size_t bytes = (n + n / 4 + 4095) & ~(size_t)4095;
    void *p = aligned_alloc(64, bytes);
    if (!p) {
        cpu_fail(c, "no memory for the %s: %.1f MiB are needed", what, (double)bytes / 1048576.0);
        return NULL;
    }
    free(s->p);
    *s = (struct scratch){ p, bytes };
    return p;
}

/* ---- conversion: exact, every bf16 and f16 number is a float ---- */

static float float_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static float float_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31)
        return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float f = (float)fraction * 0x1p-24f; /* subnormal: an exact product */
        return sign ? -f : f;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

void floats_from(float *out, const void *host, enum dtype t, int64_t n)
{
    const char *p = host; /* checkpoints do not align their tensors */
    if (t == DTYPE_F32) {
        memcpy(out, p, (size_t)n * 4);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = t == DTYPE_BF16 ? float_of_bits((uint32_t)h << 16) : float_of_f16(h);
    }
}

void weight_row_part(const struct weight *w, int64_t r, int64_t first, int64_t n, float *out)
{
    const struct weight_part *p = w->part;
    while (r >= p->rows)
        r -= p++->rows;
    floats_from(out, (const char *)p->host + (size_t)(r * w->cols + first) * dtype_size(p->dtype), p->dtype, n);
}

void weight_row(const struct weight *w, int64_t r, float *out)
{
    weight_row_part(w, r, 0, w->cols, out);
}

/* ---- the memory part of struct device ---- */

static int tensor_new(struct device *d, struct tensor **out, enum dtype t, int64_t rows, int64_t cols, const char *what,
                      struct err *e)
{
    (void)d;
    size_t n;
    *out = NULL;
    if (!want_new(rows, cols, what, &n))
        return err_set(e, "no memory for the %s: %lld x %lld elements", what, (long long)rows, (long long)cols);
    void *data = NULL;
    if (mem_try_zeroed(&data, n * dtype_size(t), what, e) < 0)
        return -1;
    struct tensor *x = xmalloc(sizeof *x);
    *x = (struct tensor){ data, t, rows, cols };
    *out = x;
    return 0;
}

static void tensor_free(struct device *d, struct tensor *t)
{
    (void)d;
    if (!t)
        return;
    free(t->data);
    free(t);
}

static int64_t tensor_rows(const struct tensor *t)
{
    return t->rows;
}

static int64_t tensor_cols(const struct tensor *t)
{
    return t->cols;
}

static char *span(const struct tensor *t, size_t first, size_t n, const char *op)
{
    want_range(t, first, n, op);
    return (char *)t->data + first * dtype_size(t->dtype);
}

static void tensor_write(struct device *d, struct tensor *t, size_t first, const void *host, size_t n)
{
    char *p = span(t, first, n, "tensor_write");
    if (!((struct cpu *)d)->failed && n)
        memcpy(p, host, n * dtype_size(t->dtype));
}

static int sync_device(struct device *d, struct err *e)
{
    struct cpu *c = (struct cpu *)d;
    return c->failed ? err_set(e, "%s", c->reason.msg) : 0;
}

static int64_t memory_left(struct device *d)
{
    (void)d;
    return -1;
}

static int tensor_read(struct device *d, const struct tensor *t, size_t first, void *host, size_t n, struct err *e)
{
    const char *p = span(t, first, n, "tensor_read");
    if (sync_device(d, e) < 0)
        return -1;
    if (n)
        memcpy(host, p, n * dtype_size(t->dtype));
    return 0;
}

/* Tickets go back to a list: decoding reads every step and should not allocate. */
static int read_begin(struct device *d, struct read_ticket **out, const struct tensor *t, size_t first, size_t n,
                      struct err *e)
{
    (void)e;
    struct cpu *c = (struct cpu *)d;
    const char *p = span(t, first, n, "read_begin");
    struct read_ticket *r = c->tickets;
    if (r)
        c->tickets = r->next;
    else
        r = xcalloc(1, sizeof *r);
    r->n = n * dtype_size(t->dtype);
    if (r->n > r->cap) {
        r->bytes = xrealloc(r->bytes, r->n);
        r->cap = r->n;
    }
    if (r->n)
        memcpy(r->bytes, p, r->n);
    *out = r;
    return 0;
}

static int read_wait(struct device *d, struct read_ticket *r, void *host, struct err *e)
{
    struct cpu *c = (struct cpu *)d;
    int rc = sync_device(d, e);
    if (rc == 0 && r->n)
        memcpy(host, r->bytes, r->n);
    r->next = c->tickets;
    c->tickets = r;
    return rc;
}

static int weight_new(struct device *d, struct weight **out, const struct weight_part *parts, int nparts, int64_t cols,
                      const char *what, struct err *e)
{
    (void)d;
    (void)e;
    if (nparts < 1 || nparts > MAX_PARTS || cols < 1)
        device_bug("weight_new", what);
    struct weight *w = xcalloc(1, sizeof *w);
    w->nparts = nparts;
    w->cols = cols;
    w->what = xstrdup(what);
    for (int i = 0; i < nparts; i++) {
        if (parts[i].rows < 0 || parts[i].dtype > DTYPE_F16)
            device_bug("weight_new", what);
        w->part[i] = parts[i];
        w->rows += parts[i].rows;
    }
    *out = w;
    return 0;
}

static void weight_free(struct device *d, struct weight *w)
{
    if (!w)
        return;
    weight_free(d, w->across);
    free(w->packed);
    free(w->what);
    free(w);
}

static void close_device(struct device *d)
{
    struct cpu *c = (struct cpu *)d;
    pool_close(c->pool);
    for (int t = 0; c->scratch && t <= c->threads; t++)
        free(c->scratch[t].p);
    free(c->scratch);
    while (c->tickets) {
        struct read_ticket *next = c->tickets->next;
        free(c->tickets->bytes);
        free(c->tickets);
        c->tickets = next;
    }
    free(c);
}

void cpu_memory_init(struct device *d)
{
    DEVICE_FILL_MEMORY(d);
}
