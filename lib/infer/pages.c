/* pages.c - see pages.h. */
#include "infer/pages.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/kernels.h"

int pages_init(struct pages *p, int32_t count, struct err *e)
{
    *p = (struct pages){ .count = count };
    uint32_t buckets = 16;
    while (buckets < (uint32_t)count && buckets < 1u << 30)
        buckets *= 2;
    p->mask = buckets - 1;
    size_t ints = 5 * (size_t)count + buckets;
    void *words, *names;
    if (mem_try_zeroed(&words, ints * sizeof(int32_t), "list of cache pages", e) < 0)
        return -1;
    p->free = words;
    if (mem_try_zeroed(&names, (size_t)count * sizeof *p->name, "list of cache pages", e) < 0) {
        pages_release(p);
        return -1;
    }
    p->name = names;
    p->refs = p->free + count;
    p->chain = p->refs + count;
    p->older = p->chain + count;
    p->newer = p->older + count;
    p->bucket = p->newer + count;
    for (int32_t page = count - 1; page > 0; page--) /* low pages first */
        p->free[p->nfree++] = page;
    return 0;
}

void pages_release(struct pages *p)
{
    free(p->free);
    free(p->name);
    *p = (struct pages){ 0 };
}

struct hash128 page_name_next(struct hash128 before, const int32_t *tokens, uint32_t kind)
{
    struct {
        struct hash128 before;
        int32_t tokens[KV_PAGE];
        uint32_t kind, zero;
    } in = { .before = before, .kind = kind };
    memcpy(in.tokens, tokens, sizeof in.tokens);
    return hash_bytes(&in, sizeof in);
}

static bool is_named(const struct pages *p, int32_t page)
{
    return !hash_equal(p->name[page], (struct hash128){ 0, 0 });
}

static int32_t *bucket_of(const struct pages *p, struct hash128 name)
{
    return &p->bucket[name.lo & p->mask];
}

static void idle_remove(struct pages *p, int32_t page)
{
    int32_t before = p->older[page], after = p->newer[page];
    *(before ? &p->newer[before] : &p->oldest) = after;
    *(after ? &p->older[after] : &p->youngest) = before;
    p->older[page] = p->newer[page] = 0;
    p->idle--;
}

static void idle_append(struct pages *p, int32_t page)
{
    p->older[page] = p->youngest;
    p->newer[page] = 0;
    *(p->youngest ? &p->newer[p->youngest] : &p->oldest) = page;
    p->youngest = page;
    p->idle++;
}

static void unname(struct pages *p, int32_t page)
{
    int32_t *link = bucket_of(p, p->name[page]);
    while (*link != page)
        link = &p->chain[*link];
    *link = p->chain[page];
    p->chain[page] = 0;
    p->name[page] = (struct hash128){ 0, 0 };
}

int32_t pages_available(const struct pages *p)
{
    return p->nfree + p->idle;
}

int32_t page_take(struct pages *p)
{
    int32_t page = 0;
    if (p->nfree) {
        page = p->free[--p->nfree];
    } else if (p->idle) {
        page = p->oldest;
        idle_remove(p, page);
        unname(p, page);
    } else {
        return 0;
    }
    p->refs[page] = 1;
    p->used++;
    return page;
}

int32_t page_find(const struct pages *p, struct hash128 name)
{
    int32_t page = *bucket_of(p, name);
    while (page && !hash_equal(p->name[page], name))
        page = p->chain[page];
    return page;
}

void page_hold(struct pages *p, int32_t page)
{
    if (p->refs[page]++ == 0) {
        idle_remove(p, page);
        p->used++;
    }
}

void page_drop(struct pages *p, int32_t page)
{
    if (--p->refs[page])
        return;
    p->used--;
    if (is_named(p, page))
        idle_append(p, page);
    else
        p->free[p->nfree++] = page;
}

void page_set_name(struct pages *p, int32_t page, struct hash128 name)
{
    if (is_named(p, page) || page_find(p, name))
        return;
    int32_t *first = bucket_of(p, name);
    p->name[page] = name;
    p->chain[page] = *first;
    *first = page;
}
