/* dump.c - LATENT_DUMP=DIR: the output of every layer of every pass as safetensors; see parts.h for the names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/parts.h"

struct model_dump {
    struct device *d;
    char *dir;
    struct st_entry *entries;
    void **data;
    size_t n;
};

static int passes; /* of the whole process */

struct model_dump *dump_open(const struct model *m)
{
    const char *dir = getenv("LATENT_DUMP");
    struct err e = { "" };
    if (!dir || !*dir)
        return NULL;
    if (file_mkdirs(dir, &e) < 0) {
        log_warn("LATENT_DUMP: %s", e.msg);
        return NULL;
    }
    struct model_dump *d = xcalloc(1, sizeof *d);
    *d = (struct model_dump){ .d = m->d, .dir = xstrdup(dir) };
    return d;
}

void dump_tensor(struct model_dump *d, const char *name, int layer, const struct tensor *t, int rows)
{
    if (!d)
        return;
    struct err e = { "" };
    int64_t cols = d->d->tensor_cols(t);
    size_t n = (size_t)rows * (size_t)cols;
    float *host = xcalloc(n ? n : 1, sizeof *host);
    if (d->d->tensor_read(d->d, t, 0, host, n, &e) < 0) {
        log_warn("LATENT_DUMP: %s", e.msg);
        free(host);
        return;
    }
    struct buf b = BUF_INIT;
    buf_puts(&b, name);
    if (layer >= 0)
        buf_printf(&b, ".%d", layer);
    d->entries = xreallocarray(d->entries, d->n + 1, sizeof *d->entries);
    d->data = xreallocarray(d->data, d->n + 1, sizeof *d->data);
    d->entries[d->n] = (struct st_entry){ .name = buf_take(&b), .dtype = ST_F32, .rank = 2, .shape = { rows, cols } };
    d->data[d->n++] = host;
}

void dump_write(struct model_dump *d)
{
    if (!d || d->n == 0)
        return;
    struct err e = { "" };
    struct buf path = BUF_INIT;
    buf_printf(&path, "%s/pass-%06d.safetensors", d->dir, passes++);
    if (safetensors_write(path.s, d->entries, (const void *const *)d->data, d->n, &e) < 0)
        log_warn("LATENT_DUMP: %s", e.msg);
    for (size_t i = 0; i < d->n; i++) {
        free((void *)(size_t)d->entries[i].name);
        free(d->data[i]);
    }
    d->n = 0;
    buf_release(&path);
}

void dump_close(struct model_dump *d)
{
    if (!d)
        return;
    dump_write(d);
    free(d->entries);
    free(d->data);
    free(d->dir);
    free(d);
}
