/* tiktoken.c - see tiktoken.h. Byte-pair merging by rank: the two neighbours whose joined bytes have the lowest rank
 * become one until no joined neighbours have a rank. Neighbours wait in a heap, so a long run of letters costs
 * n log n. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tiktoken.h"

#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

/* cl100k_base's pattern; \s is spelled out because PCRE2 and the package differ on it. */
#define WS "\\t-\\r\\x{85}\\p{Z}"
static const char pattern[] =
    "('s|'S|'t|'T|'re|'rE|'Re|'RE|'ve|'vE|'Ve|'VE|'m|'M|'ll|'lL|'Ll|'LL|'d|'D)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
    "\\p{N}{1,3}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+";

struct entry {
    uint32_t at, n; /* bytes in the pool */
};

struct tiktoken {
    pcre2_code *re;
    struct buf pool;
    struct entry *entry; /* [size] by rank */
    uint32_t size;
    uint32_t *slot; /* rank + 1 by hash of the bytes, 0: free */
    uint32_t mask;
};

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

/* Rank of some bytes, or UINT32_MAX. */
static uint32_t rank_of(const struct tiktoken *t, const char *s, size_t n)
{
    for (uint32_t i = (uint32_t)hash(s, n) & t->mask;; i = (i + 1) & t->mask) {
        if (!t->slot[i])
            return UINT32_MAX;
        const struct entry *x = &t->entry[t->slot[i] - 1];
        if (x->n == n && memcmp(t->pool.s + x->at, s, n) == 0)
            return t->slot[i] - 1;
    }
}

/* ---- the table ---- */

static int sextet(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Appends the decoded bytes; false if it is not base64. */
static bool base64(const char *s, size_t n, struct buf *out)
{
    while (n && s[n - 1] == '=')
        n--;
    uint32_t acc = 0;
    int bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = sextet(s[i]);
        if (v < 0)
            return false;
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_putc(out, (char)(acc >> bits & 0xff));
        }
    }
    return n > 0;
}

/* One line "BASE64 RANK"; ranks are 0, 1, 2 ... in order, as in the published file. */
static int read_line(struct tiktoken *t, const char *s, size_t n, size_t line, const char *path, struct err *e)
{
    const char *blank = memchr(s, ' ', n);
    size_t at = t->pool.len;
    uint64_t rank = 0;
    bool ok = blank && base64(s, (size_t)(blank - s), &t->pool) && blank + 1 < s + n;
    for (const char *p = ok ? blank + 1 : s + n; p < s + n && ok; p++) {
        ok = *p >= '0' && *p <= '9' && rank < 10000000;
        rank = rank * 10 + (uint64_t)(*p - '0');
    }
    if (!ok || rank != t->size)
        return err_set(e, "%s:%zu: expected base64, a blank and the rank %u, found %.*s", path, line, t->size,
                       (int)(n > 40 ? 40 : n), s);
    if ((t->size & (t->size - 1)) == 0)
        t->entry = xreallocarray(t->entry, t->size ? (size_t)t->size * 2 : 1, sizeof *t->entry);
    t->entry[t->size++] = (struct entry){ (uint32_t)at, (uint32_t)(t->pool.len - at) };
    return 0;
}

static void index_table(struct tiktoken *t)
{
    uint32_t size = 1024;
    while (size < t->size * 2)
        size *= 2;
    t->slot = xcalloc(size, sizeof *t->slot);
    t->mask = size - 1;
    for (uint32_t r = 0; r < t->size; r++) {
        uint32_t i = (uint32_t)hash(t->pool.s + t->entry[r].at, t->entry[r].n) & t->mask;
        while (t->slot[i])
            i = (i + 1) & t->mask;
        t->slot[i] = r + 1;
    }
}

static int read_table(struct tiktoken *t, const char *path, struct err *e)
{
    struct file_map m;
    if (file_map_open(&m, path, e) < 0)
        return -1;
    int rc = 0;
    size_t line = 1;
    for (const char *p = m.p, *end = m.p + m.n; rc == 0 && p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        rc = read_line(t, p, n && p[n - 1] == '\r' ? n - 1 : n, line, path, e);
        p = nl ? nl + 1 : end;
    }
    file_map_close(&m);
    if (rc == 0 && t->size < 256)
        rc = err_set(e, "%s: expected a rank table of at least 256 tokens, found %u", path, t->size);
    return rc;
}

int tiktoken_open(struct tiktoken **out, const char *path, struct err *e)
{
    struct tiktoken *t = xcalloc(1, sizeof *t);
    int code;
    PCRE2_SIZE at;
    *out = NULL;
    t->re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code,
                          &at, NULL);
    if (!t->re) {
        tiktoken_close(t);
        return err_set(e, "cl100k's pattern does not compile at %zu (PCRE2 error %d)", (size_t)at, code);
    }
    pcre2_jit_compile(t->re, PCRE2_JIT_COMPLETE); /* slower without, but right */
    if (read_table(t, path, e) < 0) {
        tiktoken_close(t);
        return -1;
    }
    index_table(t);
    *out = t;
    return 0;
}

void tiktoken_close(struct tiktoken *t)
{
    if (!t)
        return;
    pcre2_code_free(t->re);
    buf_release(&t->pool);
    free(t->entry);
    free(t->slot);
    free(t);
}

void tiktoken_scratch_free(struct tiktoken_scratch *s)
{
    pcre2_match_data_free(s->match);
    free(s->part);
    free(s->heap);
    *s = (struct tiktoken_scratch){ NULL, NULL, 0, NULL, 0, 0 };
}

/* ---- merging ---- */

/* A piece of the word: bytes [at, at + n) and the rank it would have together with the next one. n 0: swallowed. */
struct tiktoken_part {
    uint32_t at, n, prev, next, rank;
};

static void pair_rank(const struct tiktoken *t, const char *s, struct tiktoken_part *p, uint32_t i)
{
    p[i].rank = p[i].next == UINT32_MAX ? UINT32_MAX : rank_of(t, s + p[i].at, (size_t)p[i].n + p[p[i].next].n);
}

static void merge(const struct tiktoken *t, const char *s, struct tiktoken_part *p, uint32_t i)
{
    uint32_t gone = p[i].next;
    p[i].n += p[gone].n;
    p[gone].n = 0;
    p[i].next = p[gone].next;
    if (p[gone].next != UINT32_MAX)
        p[p[gone].next].prev = i;
    pair_rank(t, s, p, i);
    if (p[i].prev != UINT32_MAX)
        pair_rank(t, s, p, p[i].prev);
}

/* Short words: the lowest rank is looked for by walking. */
static void merge_by_walking(const struct tiktoken *t, const char *s, struct tiktoken_part *p)
{
    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = 0; i != UINT32_MAX; i = p[i].next)
            if (p[i].rank < p[best].rank)
                best = i;
        if (p[best].rank == UINT32_MAX)
            return;
        merge(t, s, p, best);
    }
}

/* Long words: a heap of rank << 32 | part. What is no longer so is dropped when it comes up. */
static void push(struct tiktoken_scratch *sc, uint32_t rank, uint32_t part)
{
    if (rank == UINT32_MAX)
        return;
    if (sc->heap_n == sc->heap_cap) {
        sc->heap_cap = sc->heap_cap ? sc->heap_cap * 2 : 1024;
        sc->heap = xreallocarray(sc->heap, sc->heap_cap, sizeof *sc->heap);
    }
    uint64_t x = (uint64_t)rank << 32 | part;
    size_t i = sc->heap_n++;
    for (; i && sc->heap[(i - 1) / 2] > x; i = (i - 1) / 2)
        sc->heap[i] = sc->heap[(i - 1) / 2];
    sc->heap[i] = x;
}

static uint64_t pop(struct tiktoken_scratch *sc)
{
    uint64_t top = sc->heap[0], x = sc->heap[--sc->heap_n];
    size_t i = 0, n = sc->heap_n;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && sc->heap[child + 1] < sc->heap[child])
            child++;
        if (sc->heap[child] >= x)
            break;
        sc->heap[i] = sc->heap[child];
    }
    sc->heap[i] = x;
    return top;
}

static void merge_by_heap(const struct tiktoken *t, struct tiktoken_scratch *sc, const char *s, size_t n)
{
    struct tiktoken_part *p = sc->part;
    sc->heap_n = 0;
    for (uint32_t i = 0; i < n; i++)
        push(sc, p[i].rank, i);
    while (sc->heap_n) {
        uint64_t top = pop(sc);
        uint32_t i = (uint32_t)top;
        if (p[i].n == 0 || p[i].rank != (uint32_t)(top >> 32))
            continue;
        merge(t, s, p, i);
        push(sc, p[i].rank, i);
        if (p[i].prev != UINT32_MAX)
            push(sc, p[p[i].prev].rank, p[i].prev);
    }
}

enum { WALK = 64 }; /* up to so many bytes walking is faster */

/* Tokens of one piece of the pattern. */
static size_t piece(const struct tiktoken *t, struct tiktoken_scratch *sc, const char *s, size_t n, int32_t *ids,
                    size_t room)
{
    uint32_t whole = rank_of(t, s, n);
    if (whole != UINT32_MAX) {
        if (room)
            ids[0] = (int32_t)whole;
        return 1;
    }
    if (sc->part_cap < n) {
        sc->part_cap = n < 256 ? 256 : n * 2;
        sc->part = xreallocarray(sc->part, sc->part_cap, sizeof *sc->part);
    }
    struct tiktoken_part *p = sc->part;
    for (uint32_t i = 0; i < n; i++)
        p[i] = (struct tiktoken_part){ i, 1, i ? i - 1 : UINT32_MAX, i + 1 < n ? i + 1 : UINT32_MAX, UINT32_MAX };
    for (uint32_t i = 0; i < n; i++)
        pair_rank(t, s, p, i);
    if (n <= WALK)
        merge_by_walking(t, s, p);
    else
        merge_by_heap(t, sc, s, n);
    size_t count = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = p[i].next, count++)
        if (count < room)
            ids[count] = (int32_t)rank_of(t, s + p[i].at, p[i].n);
    return count;
}

/* Tokens of valid UTF-8. */
static size_t encode(const struct tiktoken *t, struct tiktoken_scratch *sc, const char *s, size_t n, int32_t *ids,
                     size_t room)
{
    size_t count = 0, at = 0;
    if (!sc->match)
        sc->match = pcre2_match_data_create_from_pattern(t->re, NULL);
    while (at < n) {
        int rc = pcre2_match(t->re, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, sc->match, NULL);
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(sc->match);
        size_t from = rc > 0 ? o[0] : n, to = rc > 0 ? o[1] : n;
        if (to == from) /* no match left, which the pattern does not allow: the rest is one piece */
            to = n, from = at;
        count += piece(t, sc, s + from, to - from, ids + count, count < room ? room - count : 0);
        at = to;
    }
    return count;
}

size_t tiktoken_encode(const struct tiktoken *t, struct tiktoken_scratch *sc, const char *text, size_t n, int32_t *ids,
                       size_t cap)
{
    size_t count = 0;
    while (n) {
        size_t good = utf8_check(text, n);
        count += encode(t, sc, text, good, ids + count, count < cap ? cap - count : 0);
        text += good;
        n -= good;
        if (n) { /* a stray byte */
            count += piece(t, sc, text, 1, ids + count, count < cap ? cap - count : 0);
            text++;
            n--;
        }
    }
    return count;
}

size_t tiktoken_count(const struct tiktoken *t, struct tiktoken_scratch *sc, const char *text, size_t n)
{
    return tiktoken_encode(t, sc, text, n, NULL, 0);
}
