/* refwords.c - see refwords.h. */
#include "task/refwords.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

struct line {
    char **v;
    int n;
    const char *shards, *shard; /* --num-shards, --shard-id */
};

static bool says_compat(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--compat") == 0)
            return true;
    return false;
}

/* The value behind argv[*i], whose name has n characters: after '=' or the next argument. */
static const char *value_of(char **argv, int argc, int *i, size_t n, struct err *e)
{
    if (argv[*i][n] == '=')
        return argv[*i] + n + 1;
    if (*i + 1 < argc)
        return argv[++*i];
    err_set(e, "%s needs a value", argv[*i]);
    return NULL;
}

static int put_word(struct line *out, const struct refword *w, char **argv, int argc, int *i, size_t n, struct err *e)
{
    struct buf b = BUF_INIT;
    size_t ours = strlen(w->ours);
    buf_puts(&b, w->ours);
    if (!ours || w->ours[ours - 1] == '=') {
        const char *v = value_of(argv, argc, i, n, e);
        if (!v || (w->only && strcmp(v, w->only) != 0)) {
            buf_release(&b);
            return v ? err_set(e, "--%s %s: there is only %s", w->word, v, w->only) : -1;
        }
        buf_puts(&b, w->zero && strcmp(v, w->zero) == 0 ? "0" : v);
    } else if (argv[*i][n] == '=') {
        buf_release(&b);
        return err_set(e, "--%s takes no value", w->word);
    }
    if (ours)
        out->v[out->n++] = buf_take(&b);
    buf_release(&b);
    return 0;
}

static int put_argument(struct line *out, const struct refword *words, char **argv, int argc, int *i, struct err *e)
{
    const char *name = argv[*i];
    size_t n = strcspn(name, "=");
    if (strncmp(name, "--", 2) == 0 && n > 2) {
        const char **shard = n == 12 && !strncmp(name, "--num-shards", n) ? &out->shards
                             : n == 10 && !strncmp(name, "--shard-id", n) ? &out->shard
                                                                          : NULL;
        if (shard)
            return (*shard = value_of(argv, argc, i, n, e)) ? 0 : -1;
        for (const struct refword *w = words; w->word; w++)
            if (strlen(w->word) == n - 2 && !strncmp(name + 2, w->word, n - 2))
                return put_word(out, w, argv, argc, i, n, e);
    }
    out->v[out->n++] = argv[*i];
    return 0;
}

int refwords_translate(const struct refword *words, int *argc, char ***argv, struct err *e)
{
    if (!says_compat(*argc, *argv))
        return 0;
    struct line out = { .v = xcalloc((size_t)*argc + 3, sizeof(char *)) };
    int rc = 0, i = 1;
    out.v[out.n++] = (*argv)[0];
    for (; rc == 0 && i < *argc && strcmp((*argv)[i], "--") != 0; i++)
        rc = put_argument(&out, words, *argv, *argc, &i, e);
    if (rc == 0 && !out.shards != !out.shard)
        rc = err_set(e, "--num-shards and --shard-id go together");
    if (rc == 0 && out.shards) {
        struct buf b = BUF_INIT;
        buf_printf(&b, "--shard=%s/%s", out.shard, out.shards);
        out.v[out.n++] = buf_take(&b);
        out.v[out.n++] = xstrdup("--shard-style=stride");
    }
    for (; rc == 0 && i < *argc; i++)
        out.v[out.n++] = (*argv)[i];
    *argc = out.n;
    *argv = out.v;
    return rc;
}
