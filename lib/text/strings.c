/* strings.c - the vocabulary's hash table, the trie, and small helpers; see parts.h. */
#define _GNU_SOURCE 1 /* memmem */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "text/parts.h"

enum { MAX_ID = 1 << 24 }; /* ids may have holes, but not without end */

void *grow(void *p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return p;
    size_t n = *cap ? *cap : 16;
    while (n < need)
        n *= 2;
    *cap = n;
    return xreallocarray(p, n, size);
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t bytes_hash(const char *s, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = mix(h ^ w, 0xa0761d6478bd642fu);
    }
    w = 0;
    for (size_t i = 0; i < n; i++)
        w |= (uint64_t)(unsigned char)s[i] << (8 * i);
    return mix(h ^ w, 0xe7037ed1a0b428dbu);
}

const char *find_bytes(const char *s, size_t n, const char *what, size_t k)
{
    return memmem(s, n, what, k);
}

/* ---- vocab ---- */

void vocab_init(struct vocab *v, size_t expected)
{
    memset(v, 0, sizeof *v);
    uint32_t n = 64;
    while (n < expected * 2)
        n *= 2;
    v->slot = xcalloc(n, sizeof *v->slot);
    v->mask = n - 1;
}

void vocab_release(struct vocab *v)
{
    free(v->tok);
    free(v->slot);
    memset(v, 0, sizeof *v);
}

static bool same(struct str a, const char *s, size_t n)
{
    return a.n == n && memcmp(a.s, s, n) == 0;
}

static struct vocab_slot *slot_of(const struct vocab *v, const char *s, size_t n, uint32_t *tag)
{
    uint64_t h = bytes_hash(s, n);
    uint32_t i = (uint32_t)h & v->mask;
    *tag = (uint32_t)(h >> 32);
    while (v->slot[i].id1 && !(v->slot[i].tag == *tag && same(v->tok[v->slot[i].id1 - 1], s, n)))
        i = (i + 1) & v->mask;
    return &v->slot[i];
}

static void vocab_rehash(struct vocab *v)
{
    struct vocab_slot *old = v->slot;
    uint32_t n = v->mask + 1;
    v->slot = xcalloc((size_t)n * 2, sizeof *v->slot);
    v->mask = n * 2 - 1;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].id1) {
            uint32_t tag;
            *slot_of(v, v->tok[old[i].id1 - 1].s, v->tok[old[i].id1 - 1].n, &tag) = old[i];
        }
    free(old);
}

int vocab_put(struct vocab *v, const char *s, uint32_t n, int64_t id, struct err *e)
{
    if (id < 0 || id >= MAX_ID)
        return err_set(e, "id %lld of token \"%.*s\" is not between 0 and %d", (long long)id, (int)(n < 60 ? n : 60), s,
                       MAX_ID - 1);
    if ((uint32_t)id >= v->size) {
        size_t old = v->cap;
        v->tok = grow(v->tok, &v->cap, (size_t)id + 1, sizeof *v->tok);
        if (v->cap > old)
            memset(v->tok + old, 0, (v->cap - old) * sizeof *v->tok);
        v->size = (uint32_t)id + 1;
    }
    if (v->tok[id].s && !same(v->tok[id], s, n))
        return err_set(e, "id %lld belongs to \"%.*s\" and to \"%.*s\"", (long long)id,
                       (int)(v->tok[id].n < 60 ? v->tok[id].n : 60), v->tok[id].s, (int)(n < 60 ? n : 60), s);
    v->tok[id] = (struct str){ s, n };
    uint32_t tag;
    struct vocab_slot *slot = slot_of(v, s, n, &tag);
    if (slot->id1) {
        if (slot->id1 - 1 != (uint32_t)id)
            v->tok[slot->id1 - 1].s = NULL;
        slot->id1 = (uint32_t)id + 1;
        return 0;
    }
    *slot = (struct vocab_slot){ (uint32_t)id + 1, tag };
    if (++v->count * 2 > v->mask)
        vocab_rehash(v);
    return 0;
}

int32_t vocab_find(const struct vocab *v, const char *s, size_t n)
{
    uint32_t tag;
    return v->slot ? (int32_t)slot_of(v, s, n, &tag)->id1 - 1 : -1;
}

/* ---- trie ---- */

void trie_init(struct trie *t)
{
    memset(t, 0, sizeof *t);
    t->nodes = 1;
    t->cap = 256;
    t->value = xmalloc(t->cap * sizeof *t->value);
    t->value[0] = -1;
    t->mask = 1023;
    t->key = xcalloc(t->mask + 1, sizeof *t->key);
    t->child = xcalloc(t->mask + 1, sizeof *t->child);
}

void trie_release(struct trie *t)
{
    free(t->key);
    free(t->child);
    free(t->value);
    memset(t, 0, sizeof *t);
}

static uint32_t edge(const struct trie *t, uint64_t key)
{
    uint32_t i = (uint32_t)(mix(key, 0x9e3779b97f4a7c15u)) & t->mask;
    while (t->key[i] && t->key[i] != key)
        i = (i + 1) & t->mask;
    return i;
}

uint32_t trie_step(const struct trie *t, uint32_t node, unsigned char c)
{
    if (node == 0)
        return t->root[c];
    uint64_t key = ((uint64_t)node << 8 | c) + 1;
    uint32_t i = edge(t, key);
    return t->key[i] ? t->child[i] : 0;
}

static void trie_rehash(struct trie *t)
{
    uint64_t *key = t->key;
    uint32_t *child = t->child, n = t->mask + 1;
    t->mask = n * 2 - 1;
    t->key = xcalloc((size_t)n * 2, sizeof *t->key);
    t->child = xcalloc((size_t)n * 2, sizeof *t->child);
    for (uint32_t i = 0; i < n; i++)
        if (key[i]) {
            uint32_t j = edge(t, key[i]);
            t->key[j] = key[i];
            t->child[j] = child[i];
        }
    free(key);
    free(child);
}

void trie_put(struct trie *t, const char *s, size_t n, int32_t value)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        uint32_t next = trie_step(t, node, c);
        if (!next) {
            if (t->nodes == t->cap) {
                t->cap *= 2;
                t->value = xreallocarray(t->value, t->cap, sizeof *t->value);
            }
            next = t->nodes++;
            t->value[next] = -1;
            if (node == 0) {
                t->root[c] = next;
            } else {
                uint64_t key = ((uint64_t)node << 8 | c) + 1;
                uint32_t j = edge(t, key);
                t->key[j] = key;
                t->child[j] = next;
                if (++t->edges * 2 > t->mask)
                    trie_rehash(t);
            }
        }
        node = next;
    }
    t->value[node] = value;
}

/* ---- JSON ---- */

bool obj_get(struct json o, const char *key, struct json *v)
{
    return json_get(o, key, v) && json_kind(*v) != JSON_NULL;
}

struct str arena_str(struct arena *a, struct json v)
{
    if (json_str_plain(v))
        return (struct str){ v.s + 1, (uint32_t)(v.n - 2) };
    struct buf b = BUF_INIT;
    json_str(v, &b);
    struct str out = { arena_strndup(a, b.s ? b.s : "", b.len), (uint32_t)b.len };
    buf_release(&b);
    return out;
}

bool obj_str(struct arena *a, struct json o, const char *key, struct str *out)
{
    struct json v;
    if (!json_get(o, key, &v) || json_kind(v) != JSON_STRING)
        return false;
    *out = arena_str(a, v);
    return true;
}

/* The members of an object that are short, as an object of their own; each of `big` that is there goes to its span. One
 * walk over the megabytes of a model section instead of one for every key. */
struct json obj_small(struct arena *a, struct json o, const char *const *names, struct json *big, size_t n)
{
    struct buf b = BUF_INIT;
    struct json key, v, out;
    struct json_iter it = json_each(o);
    for (size_t i = 0; i < n; i++)
        big[i] = (struct json){ NULL, 0 };
    buf_putc(&b, '{');
    while (json_next(&it, &key, &v)) {
        size_t i = 0;
        while (i < n && !json_str_is(key, names[i]))
            i++;
        if (i < n) {
            big[i] = v;
            continue;
        }
        if (v.n > 4096)
            continue;
        if (b.len > 1)
            buf_putc(&b, ',');
        buf_add(&b, key.s, key.n);
        buf_putc(&b, ':');
        buf_add(&b, v.s, v.n);
    }
    buf_putc(&b, '}');
    out.s = arena_strndup(a, b.s, b.len);
    out.n = b.len;
    buf_release(&b);
    return out;
}

bool obj_flag(struct json o, const char *key, bool absent)
{
    struct json v;
    bool b;
    return json_get(o, key, &v) && json_bool(v, &b) ? b : absent;
}
