/* safetensors_write.c - the writer; see safetensors.h. Layout is decided at open, so tensors can be streamed in any
 * order, straight to their place. Everything lies in *.part files until the commit renames them. */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

struct out_tensor {
    char *name;
    enum st_dtype dtype;
    int rank;
    int64_t shape[ST_MAX_RANK];
    uint64_t bytes, written;
    uint64_t offset; /* in the file */
    uint64_t elements;
    int file;
};

struct out_file {
    char *path, *part;
    int fd;         /* -1: closed */
    uint64_t bytes; /* of tensors */
    bool done;      /* renamed */
};

struct st_writer {
    struct out_tensor *t;
    size_t n;
    struct out_file *files;
    int nfiles;
    char *index; /* path of the index; NULL: a single file */
};

/* ---- layout ---- */

static int measure(struct out_tensor *t, const struct st_entry *s, struct err *e)
{
    *t = (struct out_tensor){ .name = xstrdup(s->name), .dtype = s->dtype, .rank = s->rank, .elements = 1 };
    uint64_t bits;
    for (int i = 0; i < s->rank; i++) {
        t->shape[i] = s->shape[i];
        if (s->shape[i] < 0 || __builtin_mul_overflow(t->elements, (uint64_t)s->shape[i], &t->elements))
            return err_set(e, "tensor %s: its shape cannot be written", s->name);
    }
    if (__builtin_mul_overflow(t->elements, (uint64_t)st_dtype_bits(s->dtype), &bits) || bits % 8)
        return err_set(e, "tensor %s: its size cannot be written", s->name);
    t->bytes = bits / 8;
    return 0;
}

static int measure_all(struct st_writer *w, const struct st_entry *entries, size_t n, struct err *e)
{
    w->t = xcalloc(n ? n : 1, sizeof *w->t);
    for (size_t i = 0; i < n; i++) {
        w->n = i + 1;
        if (measure(&w->t[i], &entries[i], e) < 0)
            return -1;
    }
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct out_tensor *x = *(struct out_tensor *const *)a, *y = *(struct out_tensor *const *)b;
    if (x->file != y->file)
        return x->file - y->file;
    if (x->dtype != y->dtype)
        return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Pointers to all tensors in the order of the files' bytes. Caller frees. */
static struct out_tensor **in_order(struct st_writer *w)
{
    struct out_tensor **order = xcalloc(w->n ? w->n : 1, sizeof *order);
    for (size_t i = 0; i < w->n; i++)
        order[i] = &w->t[i];
    qsort(order, w->n, sizeof *order, by_place);
    return order;
}

static void put_header_entry(struct buf *b, const struct out_tensor *t, uint64_t at)
{
    buf_putc(b, ',');
    json_put_cstr(b, t->name);
    buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
    buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + t->bytes);
}

static int put_all(int fd, const char *p, uint64_t n, uint64_t at, const char *path, struct err *e)
{
    while (n > 0) {
        size_t some = n < (1u << 30) ? (size_t)n : 1u << 30;
        ssize_t put = pwrite(fd, p, some, (off_t)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(e, "%s: cannot write", path);
        p += put;
        at += (uint64_t)put;
        n -= (uint64_t)put;
    }
    return 0;
}

/* Header of one file: tensors order[0..n), which get their offsets. */
static int start_file(struct out_file *f, struct out_tensor **order, size_t n, struct err *e)
{
    struct buf b = BUF_INIT;
    uint64_t at = 0;
    buf_add(&b, "\0\0\0\0\0\0\0\0", 8);
    buf_puts(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        put_header_entry(&b, order[i], at);
        order[i]->offset = at;
        at += order[i]->bytes;
    }
    buf_putc(&b, '}');
    while (b.len % 8)
        buf_putc(&b, ' ');
    for (int i = 0; i < 8; i++)
        b.s[i] = (char)(unsigned char)((uint64_t)(b.len - 8) >> 8 * i);
    for (size_t i = 0; i < n; i++)
        order[i]->offset += b.len;
    f->bytes = at;
    f->fd = open(f->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = f->fd < 0 ? err_errno(e, "%s: cannot create", f->part) : put_all(f->fd, b.s, b.len, 0, f->path, e);
    buf_release(&b);
    return rc;
}

static int start_files(struct st_writer *w, struct err *e)
{
    struct out_tensor **order = in_order(w);
    int rc = 0;
    for (size_t i = 1; i < w->n && rc == 0; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            rc = err_set(e, "%s: tensor %s would stand twice", w->files[0].path, order[i]->name);
    size_t from = 0;
    for (int f = 0; f < w->nfiles && rc == 0; f++) {
        size_t to = from;
        while (to < w->n && order[to]->file == f)
            to++;
        rc = start_file(&w->files[f], order + from, to - from, e);
        from = to;
    }
    free(order);
    return rc;
}

static void name_file(struct out_file *f, char *path /* taken */)
{
    struct buf part = BUF_INIT;
    buf_printf(&part, "%s.%ld.part", path, (long)getpid());
    *f = (struct out_file){ .path = path, .part = buf_take(&part), .fd = -1 };
}

static void add_out_file(struct st_writer *w, char *path)
{
    w->files = xreallocarray(w->files, (size_t)w->nfiles + 1, sizeof *w->files);
    name_file(&w->files[w->nfiles++], path);
}

int st_writer_open(struct st_writer **out, const char *path, const struct st_entry *entries, size_t n, struct err *e)
{
    struct st_writer *w = xcalloc(1, sizeof *w);
    *out = NULL;
    add_out_file(w, xstrdup(path));
    if (measure_all(w, entries, n, e) < 0 || start_files(w, e) < 0) {
        st_writer_close(w);
        return -1;
    }
    *out = w;
    return 0;
}

/* Fills shards in entry order; a tensor larger than the limit has one to itself. Returns how many there are. */
static int assign_shards(struct st_writer *w, uint64_t limit)
{
    uint64_t in_shard = 0;
    int shard = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (in_shard > 0 && (w->t[i].bytes > limit || in_shard > limit - w->t[i].bytes)) {
            shard++;
            in_shard = 0;
        }
        w->t[i].file = shard;
        in_shard += w->t[i].bytes;
    }
    return shard + 1;
}

int st_writer_open_dir(struct st_writer **out, const char *dir, const struct st_entry *entries, size_t n,
                       uint64_t shard_bytes, struct err *e)
{
    struct st_writer *w = xcalloc(1, sizeof *w);
    *out = NULL;
    if (measure_all(w, entries, n, e) < 0) {
        st_writer_close(w);
        return -1;
    }
    int shards = assign_shards(w, shard_bytes ? shard_bytes : UINT64_MAX);
    for (int i = 0; i < shards; i++) {
        char name[64] = "model.safetensors";
        if (shards > 1)
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, shards);
        add_out_file(w, path_join(dir, name));
    }
    if (shards > 1)
        w->index = path_join(dir, "model.safetensors.index.json");
    if (start_files(w, e) < 0) {
        st_writer_close(w);
        return -1;
    }
    *out = w;
    return 0;
}

/* ---- bytes ---- */

int st_writer_put(struct st_writer *w, size_t i, const void *bytes, uint64_t n, struct err *e)
{
    struct out_tensor *t = &w->t[i];
    const struct out_file *f = &w->files[t->file];
    if (n > t->bytes - t->written)
        return err_set(e, "%s: tensor %s was given more than its %" PRIu64 " bytes", f->path, t->name, t->bytes);
    if (put_all(f->fd, bytes, n, t->offset + t->written, f->path, e) < 0)
        return -1;
    t->written += n;
    return 0;
}

/* ---- commit ---- */

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp((*(struct out_tensor *const *)a)->name, (*(struct out_tensor *const *)b)->name);
}

static int write_index(struct st_writer *w, struct err *e)
{
    struct out_tensor **order = in_order(w);
    struct buf b = BUF_INIT;
    uint64_t elements = 0, bytes = 0;
    qsort(order, w->n, sizeof *order, by_tensor_name);
    for (size_t i = 0; i < w->n; i++) {
        elements += w->t[i].elements;
        bytes += w->t[i].bytes;
    }
    buf_printf(&b, "{\n  \"metadata\": {\n    \"total_parameters\": %" PRIu64 ",\n    \"total_size\": %" PRIu64,
               elements, bytes);
    buf_puts(&b, "\n  },\n  \"weight_map\": {");
    for (size_t i = 0; i < w->n; i++) {
        buf_puts(&b, i ? ",\n    " : "\n    ");
        json_put_cstr(&b, order[i]->name);
        buf_printf(&b, ": \"%s\"", path_base(w->files[order[i]->file].path));
    }
    buf_puts(&b, "\n  }\n}\n");
    int rc = file_write_atomic(w->index, b.s, b.len, e);
    buf_release(&b);
    free(order);
    return rc;
}

static int finish_file(struct out_file *f, struct err *e)
{
    int bad = fsync(f->fd) < 0, saved = errno, closed = close(f->fd);
    f->fd = -1;
    if (!bad && closed < 0) {
        bad = 1;
        saved = errno;
    }
    errno = saved;
    return bad ? err_errno(e, "%s: cannot write", f->path) : 0;
}

int st_writer_commit(struct st_writer *w, struct err *e)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->t[i].written != w->t[i].bytes)
            return err_set(e, "%s: tensor %s has %" PRIu64 " of its %" PRIu64 " bytes", w->files[w->t[i].file].path,
                           w->t[i].name, w->t[i].written, w->t[i].bytes);
    for (int i = 0; i < w->nfiles; i++)
        if (finish_file(&w->files[i], e) < 0)
            return -1;
    for (int i = 0; i < w->nfiles; i++) {
        if (rename(w->files[i].part, w->files[i].path) < 0)
            return err_errno(e, "%s: cannot rename to this", w->files[i].path);
        w->files[i].done = true;
    }
    return w->index ? write_index(w, e) : 0;
}

void st_writer_close(struct st_writer *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->nfiles; i++) {
        if (w->files[i].fd >= 0)
            close(w->files[i].fd);
        if (!w->files[i].done)
            unlink(w->files[i].part);
        free(w->files[i].path);
        free(w->files[i].part);
    }
    for (size_t i = 0; i < w->n; i++)
        free(w->t[i].name);
    free(w->t);
    free(w->files);
    free(w->index);
    free(w);
}

int safetensors_write(const char *path, const struct st_entry *entries, const void *const *data, size_t n,
                      struct err *e)
{
    struct st_writer *w;
    if (st_writer_open(&w, path, entries, n, e) < 0)
        return -1;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = st_writer_put(w, i, data[i], w->t[i].bytes, e);
    if (rc == 0)
        rc = st_writer_commit(w, e);
    st_writer_close(w);
    return rc;
}
