/* mem.c - see mem.h. */
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"

/* stderr may need memory itself: write the sentence by hand. */
static _Noreturn void out_of_memory(void)
{
    static const char msg[] = "latent: out of memory\n";
    if (write(2, msg, sizeof msg - 1) < 0)
        _exit(1);
    _exit(1);
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p)
        out_of_memory();
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p)
        out_of_memory();
    return p;
}

void *xrealloc(void *p, size_t n)
{
    p = realloc(p, n ? n : 1);
    if (!p)
        out_of_memory();
    return p;
}

void *xreallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        out_of_memory();
    return xrealloc(p, bytes);
}

char *xstrndup(const char *s, size_t n)
{
    char *p = xmalloc(n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

/* Large memory gives its whole pages back first: they read as zeros and cost nothing before they are used. */
static void zero(char *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), head = (page - (uintptr_t)p % page) % page;
    if (n < (size_t)1 << 20) {
        memset(p, 0, n);
        return;
    }
    size_t middle = (n - head) / page * page;
    if (madvise(p + head, middle, MADV_DONTNEED) < 0)
        memset(p + head, 0, middle);
    memset(p, 0, head);
    memset(p + head + middle, 0, n - head - middle);
}

int mem_try_zeroed(void **out, size_t n, const char *what, struct err *e)
{
    size_t rounded = (n + 63) & ~(size_t)63;
    void *p = rounded < n ? NULL : aligned_alloc(64, rounded ? rounded : 64);
    if (!p)
        return err_set(e, "no memory for the %s: %.1f MiB are needed", what, (double)n / 1048576.0);
    zero(p, rounded ? rounded : 64);
    *out = p;
    return 0;
}

/* ---- buf ---- */

char *buf_grow(struct buf *b, size_t extra)
{
    size_t need;
    if (__builtin_add_overflow(b->len, extra, &need) || __builtin_add_overflow(need, 1, &need))
        out_of_memory();
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap + b->cap / 2;
        b->cap = cap < need ? need : cap;
        b->s = xrealloc(b->s, b->cap);
    }
    return b->s + b->len;
}

void buf_add(struct buf *b, const void *bytes, size_t n)
{
    char *to = buf_grow(b, n);
    if (n)
        memcpy(to, bytes, n);
    b->len += n;
    b->s[b->len] = '\0';
}

void buf_puts(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_putc(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0) {
        char *to = buf_grow(b, (size_t)n);
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    if (b->s)
        b->s[0] = '\0';
}

void buf_release(struct buf *b)
{
    free(b->s);
    *b = (struct buf)BUF_INIT;
}

char *buf_take(struct buf *b)
{
    char *s = b->s ? b->s : xstrdup("");
    *b = (struct buf)BUF_INIT;
    return s;
}

/* ---- arena ---- */

struct arena_block {
    struct arena_block *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};

void *arena_alloc(struct arena *a, size_t n)
{
    size_t need = (n + 15) & ~(size_t)15;
    if (need < n || (a->limit && need > a->limit - (a->used < a->limit ? a->used : a->limit)))
        return NULL;
    struct arena_block *b = a->blocks;
    if (!b || need > b->cap - b->used) {
        size_t cap = b ? b->cap * 2 : 4096;
        if (cap > (size_t)1 << 20)
            cap = (size_t)1 << 20;
        if (cap < need)
            cap = need;
        b = xmalloc(sizeof *b + cap);
        *b = (struct arena_block){ .next = a->blocks, .cap = cap };
        a->blocks = b;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    a->used += need;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    void *p = arena_alloc(a, n);
    if (p)
        memset(p, 0, n);
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *p = arena_alloc(a, n + 1);
    if (p) {
        if (n)
            memcpy(p, s, n);
        p[n] = '\0';
    }
    return p;
}

void arena_reset(struct arena *a)
{
    struct arena_block *keep = a->blocks;
    if (keep) {
        for (struct arena_block *b = keep->next, *next; b; b = next) {
            next = b->next;
            free(b);
        }
        keep->next = NULL;
        keep->used = 0;
    }
    a->used = 0;
}

void arena_release(struct arena *a)
{
    for (struct arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct arena){ .limit = a->limit };
}
