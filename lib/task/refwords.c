/* refwords.c - see refwords.h. */
#include "task/refwords.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

struct shards {
    const char *n, *k; /* --num-shards, --shard-id */
};

/* Adds a text that the line owns. */
static void put_own(struct refwords_line *out, char *text)
{
    out->own[out->nown++] = text;
    out->v[out->n++] = text;
}

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

static int put_word(struct refwords_line *out, const struct refword *w, char **argv, int argc, int *i, size_t n,
                    struct err *e)
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
        put_own(out, buf_take(&b));
    buf_release(&b);
    return 0;
}

static int put_argument(struct refwords_line *out, struct shards *shards, const struct refword *words, char **argv,
                        int argc, int *i, struct err *e)
{
    const char *name = argv[*i];
    size_t n = strcspn(name, "=");
    if (strncmp(name, "--", 2) == 0 && n > 2) {
        const char **shard = n == 12 && !strncmp(name, "--num-shards", n) ? &shards->n
                             : n == 10 && !strncmp(name, "--shard-id", n) ? &shards->k
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

int refwords_translate(struct refwords_line *line, const struct refword *words, int argc, char **argv, struct err *e)
{
    *line = (struct refwords_line){ .v = argv, .n = argc };
    if (!says_compat(argc, argv))
        return 0;
    struct shards shards = { NULL, NULL };
    size_t most = (size_t)argc + 3;
    *line = (struct refwords_line){ .v = xcalloc(most, sizeof(char *)), .own = xcalloc(most, sizeof(char *)) };
    int rc = 0, i = 1;
    line->v[line->n++] = argv[0];
    for (; rc == 0 && i < argc && strcmp(argv[i], "--") != 0; i++)
        rc = put_argument(line, &shards, words, argv, argc, &i, e);
    if (rc == 0 && !shards.n != !shards.k)
        rc = err_set(e, "--num-shards and --shard-id go together");
    if (rc == 0 && shards.n) {
        struct buf b = BUF_INIT;
        buf_printf(&b, "--shard=%s/%s", shards.k, shards.n);
        put_own(line, buf_take(&b));
        put_own(line, xstrdup("--shard-style=stride"));
    }
    for (; rc == 0 && i < argc; i++)
        line->v[line->n++] = argv[i];
    return rc;
}

void refwords_release(struct refwords_line *line)
{
    if (!line->own)
        return;
    for (int i = 0; i < line->nown; i++)
        free(line->own[i]);
    free(line->own);
    free(line->v);
}
