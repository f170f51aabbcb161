/* shard.c - see shard.h. */
#include "io/shard.h"

#include <stddef.h>

#include "base/err.h"

static const char *number(const char *p, uint64_t *out)
{
    uint64_t v = 0;
    const char *start = p;
    for (; *p >= '0' && *p <= '9' && p - start < 9; p++)
        v = v * 10 + (uint64_t)(*p - '0');
    *out = v;
    return p == start ? NULL : p;
}

int shard_parse(struct shard *s, const char *text, struct err *e)
{
    *s = (struct shard){ 0, 1 };
    if (!text)
        return 0;
    const char *p = number(text, &s->k);
    if (p && *p == '/')
        p = number(p + 1, &s->n);
    else
        p = NULL;
    if (!p || *p || s->n < 1 || s->k >= s->n)
        return err_set(e, "--shard %s: expected k/n with k from 0 to n-1, as in 0/4", text);
    return 0;
}

void shard_range(const struct shard *s, uint64_t total, uint64_t *from, uint64_t *to)
{
    *from = (uint64_t)((unsigned __int128)total * s->k / s->n);
    *to = (uint64_t)((unsigned __int128)total * (s->k + 1) / s->n);
}
