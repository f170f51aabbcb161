/* mem.h - memory: checked allocation, growable bytes, arenas.
 *
 * x* functions are for small things whose number the code bounds: when memory is gone they end the process with
 * one sentence (the only place in the library that does). Whatever a user's input sizes freely (models, caches,
 * batches) goes through mem_try_*, which return -1 like everything else.
 * Who opens frees; a pointer returned by *_take is the caller's. */
#ifndef LATENT_MEM_H
#define LATENT_MEM_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

struct err;

void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
void *xreallocarray(void *p, size_t n, size_t size); /* overflow of n * size counts as out of memory */
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);

/* 64-byte aligned and zeroed; free() it. `what` names it in the error: "key-value cache". */
int mem_try_zeroed(void **out, size_t n, const char *what, struct err *e);

/* ---- struct buf: growable bytes, always NUL-terminated once anything was added ---- */
struct buf {
    char *s;    /* owned; NULL while nothing was added */
    size_t len; /* without the NUL */
    size_t cap;
};
#define BUF_INIT                                                                                                       \
    {                                                                                                                  \
        NULL, 0, 0                                                                                                     \
    }

void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
char *buf_grow(struct buf *b, size_t extra); /* room for extra bytes (+ NUL) at b->s + b->len, which is returned */
void buf_reset(struct buf *b);               /* len = 0, memory kept */
void buf_release(struct buf *b);             /* frees; usable again */
char *buf_take(struct buf *b);               /* hands the string over (never NULL); b is empty again */

/* ---- struct arena: many small objects, freed together ---- */
struct arena {
    struct arena_block *blocks;
    size_t used;  /* bytes handed out since the last reset */
    size_t limit; /* 0: none; else arena_alloc returns NULL rather than pass it */
};

void *arena_alloc(struct arena *a, size_t n); /* 16-byte aligned, not zeroed */
void *arena_zalloc(struct arena *a, size_t n);
char *arena_strndup(struct arena *a, const char *s, size_t n);
void arena_reset(struct arena *a); /* keeps one block */
void arena_release(struct arena *a);

#endif
