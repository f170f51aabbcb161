/* safetensors.c - the reader; see safetensors.h. The writer is safetensors_write.c. */
#include "io/safetensors.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { HEADER_LIMIT = 100000000, INDEX_LIMIT = 256 << 20 };

static const struct {
    const char *name;
    int bits;
} dtypes[ST_DTYPES] = {
    [ST_BOOL] = { "BOOL", 8 },       [ST_F4] = { "F4", 4 },           [ST_F6_E2M3] = { "F6_E2M3", 6 },
    [ST_F6_E3M2] = { "F6_E3M2", 6 }, [ST_U8] = { "U8", 8 },           [ST_I8] = { "I8", 8 },
    [ST_F8_E5M2] = { "F8_E5M2", 8 }, [ST_F8_E4M3] = { "F8_E4M3", 8 }, [ST_F8_E8M0] = { "F8_E8M0", 8 },
    [ST_I16] = { "I16", 16 },        [ST_U16] = { "U16", 16 },        [ST_F16] = { "F16", 16 },
    [ST_BF16] = { "BF16", 16 },      [ST_I32] = { "I32", 32 },        [ST_U32] = { "U32", 32 },
    [ST_F32] = { "F32", 32 },        [ST_C64] = { "C64", 64 },        [ST_F64] = { "F64", 64 },
    [ST_I64] = { "I64", 64 },        [ST_U64] = { "U64", 64 },
};

const char *st_dtype_name(enum st_dtype t)
{
    return dtypes[t].name;
}

int st_dtype_bits(enum st_dtype t)
{
    return dtypes[t].bits;
}

const char *st_shape_text(const struct st_tensor *t, char *text)
{
    size_t at = 0;
    text[at++] = '[';
    for (int i = 0; i < t->rank; i++)
        at += (size_t)snprintf(text + at, ST_SHAPE_TEXT - at, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    snprintf(text + at, ST_SHAPE_TEXT - at, "]");
    return text;
}

struct st_file {
    char *path;
    struct file_map map;
};

struct safetensors {
    struct st_file *files;
    size_t nfiles;
    struct st_tensor *tensors; /* sorted by name once everything was read */
    size_t n, cap;
    struct arena names;
    char **notes;
    size_t nnotes;
};

/* ---- one header ---- */

static uint64_t read_u64(const char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | (unsigned char)p[i];
    return v;
}

/* Copies a JSON string; NULL if it holds a NUL. */
static char *take_name(struct arena *a, struct json v)
{
    struct buf b = BUF_INIT;
    json_str(v, &b);
    const char *s = b.s ? b.s : "";
    char *name = memchr(s, '\0', b.len) ? NULL : arena_strndup(a, s, b.len);
    buf_release(&b);
    return name;
}

static int shorten(size_t n, int most)
{
    return n < (size_t)most ? (int)n : most;
}

static int read_dtype(struct st_tensor *t, struct json v, const char *path, struct err *e)
{
    for (int i = 0; i < ST_DTYPES; i++)
        if (json_str_is(v, dtypes[i].name)) {
            t->dtype = (enum st_dtype)i;
            return 0;
        }
    return err_set(e, "%s: tensor %s has dtype %.*s, which safetensors does not know", path, t->name, shorten(v.n, 40),
                   v.s);
}

static int read_shape(struct st_tensor *t, struct json v, const char *path, struct err *e)
{
    struct json_iter it = json_each(v);
    struct json dim;
    uint64_t bits;
    t->elements = 1;
    while (json_next(&it, NULL, &dim)) {
        int64_t d;
        if (!json_int(dim, &d) || d < 0)
            return err_set(e, "%s: tensor %s has %.*s in its shape, expected a number of at least 0", path, t->name,
                           shorten(dim.n, 40), dim.s);
        if (t->rank == ST_MAX_RANK)
            return err_set(e, "%s: tensor %s has more than %d dimensions", path, t->name, ST_MAX_RANK);
        t->shape[t->rank++] = d;
        if (__builtin_mul_overflow(t->elements, (uint64_t)d, &t->elements))
            return err_set(e, "%s: the shape of tensor %s overflows", path, t->name);
    }
    if (__builtin_mul_overflow(t->elements, (uint64_t)dtypes[t->dtype].bits, &bits))
        return err_set(e, "%s: the size of tensor %s overflows", path, t->name);
    if (bits % 8)
        return err_set(e, "%s: tensor %s does not end at a byte", path, t->name);
    t->bytes = bits / 8;
    return 0;
}

static int read_offsets(struct st_tensor *t, struct json v, const char *data, uint64_t size, const char *path,
                        struct err *e)
{
    struct json from, to;
    int64_t begin, end;
    if (json_count(v) != 2 || !json_at(v, 0, &from) || !json_at(v, 1, &to) || !json_int(from, &begin) ||
        !json_int(to, &end) || begin < 0 || end < begin)
        return err_set(e, "%s: tensor %s has data_offsets %.*s, expected [begin, end]", path, t->name, shorten(v.n, 60),
                       v.s);
    if ((uint64_t)end > size)
        return err_set(e, "%s: tensor %s ends at byte %" PRId64 " of the data, the file has %" PRIu64 " (truncated?)",
                       path, t->name, end, size);
    if ((uint64_t)(end - begin) != t->bytes) {
        char shape[ST_SHAPE_TEXT];
        return err_set(e, "%s: tensor %s has %" PRId64 " bytes, its shape %s in %s needs %" PRIu64, path, t->name,
                       end - begin, st_shape_text(t, shape), dtypes[t->dtype].name, t->bytes);
    }
    t->data = data + begin;
    return 0;
}

static int read_tensor(struct safetensors *st, struct json key, struct json v, const char *data, uint64_t size,
                       struct err *e)
{
    const char *path = st->files[st->nfiles - 1].path;
    struct st_tensor t = { .file = (int)st->nfiles - 1, .name = take_name(&st->names, key) };
    struct json dtype, shape, offsets;
    if (!t.name)
        return err_set(e, "%s: a tensor's name holds a NUL character", path);
    if (!json_get(v, "dtype", &dtype) || json_kind(dtype) != JSON_STRING || !json_get(v, "shape", &shape) ||
        json_kind(shape) != JSON_ARRAY || !json_get(v, "data_offsets", &offsets) || json_kind(offsets) != JSON_ARRAY)
        return err_set(e, "%s: tensor %s needs dtype, shape and data_offsets in the header", path, t.name);
    if (read_dtype(&t, dtype, path, e) < 0 || read_shape(&t, shape, path, e) < 0 ||
        read_offsets(&t, offsets, data, size, path, e) < 0)
        return -1;
    if (st->n == st->cap) {
        st->cap = st->cap ? 2 * st->cap : 64;
        st->tensors = xreallocarray(st->tensors, st->cap, sizeof *st->tensors);
    }
    st->tensors[st->n++] = t;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) /* empty tensors before the one that begins there too */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The file's tensors, one behind the other, are exactly its data. */
static int check_layout(struct st_tensor *t, size_t n, const char *data, uint64_t size, const char *path, struct err *e)
{
    uint64_t at = 0;
    if (n)
        qsort(t, n, sizeof *t, by_offset);
    for (size_t i = 0; i < n; i++) {
        uint64_t begin = (uint64_t)((const char *)t[i].data - data);
        if (begin < at)
            return err_set(e, "%s: tensors %s and %s overlap", path, t[i - 1].name, t[i].name);
        if (begin > at)
            return err_set(e, "%s: the %" PRIu64 " bytes before tensor %s belong to no tensor", path, begin - at,
                           t[i].name);
        at = begin + t[i].bytes;
    }
    if (at != size)
        return err_set(e, "%s: the tensors end at byte %" PRIu64 " of the data, the file has %" PRIu64, path, at, size);
    return 0;
}

static int read_header(struct safetensors *st, struct json header, const char *data, uint64_t size, struct err *e)
{
    struct json_iter it = json_each(header);
    struct json key, val;
    size_t first = st->n;
    while (json_next(&it, &key, &val))
        if (!json_str_is(key, "__metadata__") && read_tensor(st, key, val, data, size, e) < 0)
            return -1;
    const char *path = st->files[st->nfiles - 1].path;
    if (!st->tensors) /* a file without tensors */
        return check_layout(&(struct st_tensor){ 0 }, 0, data, size, path, e);
    return check_layout(st->tensors + first, st->n - first, data, size, path, e);
}

static int add_file(struct safetensors *st, const char *path, struct err *e)
{
    st->files = xreallocarray(st->files, st->nfiles + 1, sizeof *st->files);
    struct st_file *f = &st->files[st->nfiles++];
    *f = (struct st_file){ .path = xstrdup(path) };
    if (file_map_open(&f->map, path, e) < 0)
        return -1;
    if (f->map.n < 8)
        return err_set(e, "%s: not a safetensors file: it has %zu bytes", path, f->map.n);
    uint64_t n = read_u64(f->map.p);
    if (n > HEADER_LIMIT)
        return err_set(e, "%s: the header claims %" PRIu64 " bytes, at most %d are allowed (not a safetensors file?)",
                       path, n, HEADER_LIMIT);
    if (n > f->map.n - 8)
        return err_set(e, "%s: the header claims %" PRIu64 " bytes, the file has %zu behind its length (truncated?)",
                       path, n, f->map.n - 8);
    const char *text = f->map.p + 8;
    struct json header;
    if (n == 0 || text[0] != '{')
        return err_set(e, "%s: the header does not start with '{' (not a safetensors file?)", path);
    if (json_parse(&header, text, (size_t)n, e) < 0)
        return err_prefix(e, "%s: header", path);
    return read_header(st, header, text + n, f->map.n - 8 - n, e);
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : x->file - y->file;
}

static int sort_names(struct safetensors *st, struct err *e)
{
    if (st->n)
        qsort(st->tensors, st->n, sizeof *st->tensors, by_name);
    for (size_t i = 1; i < st->n; i++) {
        const struct st_tensor *t = &st->tensors[i];
        if (strcmp(t[-1].name, t->name) != 0)
            continue;
        if (t[-1].file == t->file)
            return err_set(e, "%s: tensor %s stands twice in the header", st->files[t->file].path, t->name);
        return err_set(e, "%s: tensor %s lies in %s too", st->files[t->file].path, t->name,
                       path_base(st->files[t[-1].file].path));
    }
    return 0;
}

int safetensors_open(struct safetensors **out, const char *path, struct err *e)
{
    struct safetensors *st = xcalloc(1, sizeof *st);
    *out = NULL;
    if (add_file(st, path, e) < 0 || sort_names(st, e) < 0) {
        safetensors_close(st);
        return -1;
    }
    *out = st;
    return 0;
}

/* ---- folders ---- */

static void note(struct safetensors *st, char *sentence)
{
    st->notes = xreallocarray(st->notes, st->nnotes + 1, sizeof *st->notes);
    st->notes[st->nnotes++] = sentence;
}

static int shard_of(struct safetensors *st, const char *name)
{
    for (size_t i = 0; i < st->nfiles; i++)
        if (strcmp(path_base(st->files[i].path), name) == 0)
            return (int)i;
    return -1;
}

static int open_shards(struct safetensors *st, const char *dir, const char *index, struct json map, struct err *e)
{
    struct json_iter it = json_each(map);
    struct json key, val;
    while (json_next(&it, &key, &val)) {
        const char *name = json_kind(val) == JSON_STRING ? take_name(&st->names, val) : NULL;
        if (!name || !*name || strchr(name, '/'))
            return err_set(e, "%s: %.*s has %.*s for a file name", index, shorten(key.n, 200), key.s,
                           shorten(val.n, 80), val.s);
        if (shard_of(st, name) >= 0)
            continue;
        char *path = path_join(dir, name);
        int rc =
            file_exists(path) ? add_file(st, path, e) : err_set(e, "%s: names %s, which is not there", index, name);
        free(path);
        if (rc < 0)
            return -1;
    }
    return st->nfiles ? 0 : err_set(e, "%s: weight_map names no tensor", index);
}

/* Every tensor of the index lies where it says; what it does not name is noted. */
static int check_index(struct safetensors *st, const char *index, struct json map, struct err *e)
{
    struct json_iter it = json_each(map);
    struct json key, val;
    bool *seen = xcalloc(st->n + 1, sizeof *seen);
    int rc = 0;
    while (rc == 0 && json_next(&it, &key, &val)) {
        const char *name = take_name(&st->names, key), *file = take_name(&st->names, val);
        const struct st_tensor *t = name ? safetensors_find(st, name) : NULL;
        if (!t || strcmp(path_base(st->files[t->file].path), file) != 0)
            rc = err_set(e, "%s: tensor %.*s should lie in %s and does not", index, shorten(key.n, 300), key.s, file);
        else
            seen[t - st->tensors] = true;
    }
    for (size_t i = 0; rc == 0 && i < st->n; i++)
        if (!seen[i]) {
            struct buf b = BUF_INIT;
            buf_printf(&b, "%s: does not name tensor %s of %s", index, st->tensors[i].name,
                       path_base(st->files[st->tensors[i].file].path));
            note(st, buf_take(&b));
        }
    free(seen);
    return rc;
}

/* transformers reads metadata, and tools plan memory by total_size. */
static void check_total(struct safetensors *st, const char *index, struct json doc)
{
    struct json metadata, v;
    struct buf b = BUF_INIT;
    uint64_t total = 0;
    double said = -1;
    for (size_t i = 0; i < st->n; i++)
        total += st->tensors[i].bytes;
    if (!json_get(doc, "metadata", &metadata) || !json_get(metadata, "total_size", &v) || !json_double(v, &said))
        buf_printf(&b, "%s: has no metadata.total_size, the tensors are %" PRIu64 " bytes", index, total);
    else if (said != (double)total)
        buf_printf(&b, "%s: metadata.total_size is %.*s, the tensors are %" PRIu64 " bytes", index, shorten(v.n, 40),
                   v.s, total);
    if (b.len)
        note(st, buf_take(&b));
    buf_release(&b);
}

static int open_index(struct safetensors *st, const char *dir, const char *index, struct err *e)
{
    struct buf text = BUF_INIT;
    struct json doc, map;
    int rc = file_read(&text, index, INDEX_LIMIT, e);
    if (rc == 0 && json_parse(&doc, text.s, text.len, e) < 0)
        rc = err_prefix(e, "%s", index);
    if (rc == 0 && (!json_get(doc, "weight_map", &map) || json_kind(map) != JSON_OBJECT))
        rc = err_set(e, "%s: has no weight_map", index);
    if (rc == 0 &&
        (open_shards(st, dir, index, map, e) < 0 || sort_names(st, e) < 0 || check_index(st, index, map, e) < 0))
        rc = -1;
    if (rc == 0)
        check_total(st, index, doc);
    buf_release(&text);
    return rc;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Notes every other *.safetensors of the folder; says whether pickled weights lie there. */
static bool look_around(struct safetensors *st, const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *ent;
    bool pickled = false;
    size_t first = st->nnotes;
    while (d && (ent = readdir(d))) {
        const char *n = ent->d_name;
        if (strncmp(n, "pytorch_model", 13) == 0 && path_ends_with(n, ".bin"))
            pickled = true;
        /* adapters have a name of their own, and are never loaded as part of a model */
        if (!path_ends_with(n, ".safetensors") || shard_of(st, n) >= 0 || strncmp(n, "adapter_", 8) == 0)
            continue;
        struct buf b = BUF_INIT;
        buf_printf(&b, "%s/%s: does not belong to this model, but vLLM would load it: remove it", dir, n);
        note(st, buf_take(&b));
    }
    if (d)
        closedir(d);
    if (st->nnotes > first)
        qsort(st->notes + first, st->nnotes - first, sizeof *st->notes, by_string);
    return pickled;
}

static int open_folder(struct safetensors *st, const char *dir, const char *single, const char *index, struct err *e)
{
    if (file_exists(single))
        return add_file(st, single, e) < 0 ? -1 : sort_names(st, e);
    if (file_exists(index))
        return open_index(st, dir, index, e);
    if (!file_is_dir(dir))
        return err_set(e, "%s: no such folder", dir);
    if (look_around(st, dir))
        return err_set(
            e,
            "%s: holds pickled weights (pytorch_model*.bin) only, and reading those can run code; load it in "
            "Python and save it as safetensors: model.save_pretrained(DIR, safe_serialization=True)",
            dir);
    return err_set(e, "%s: has neither model.safetensors nor model.safetensors.index.json", dir);
}

int safetensors_open_dir(struct safetensors **out, const char *dir, struct err *e)
{
    struct safetensors *st = xcalloc(1, sizeof *st);
    char *single = path_join(dir, "model.safetensors"), *index = path_join(dir, "model.safetensors.index.json");
    int rc = open_folder(st, dir, single, index, e);
    *out = NULL;
    if (rc == 0) {
        look_around(st, dir);
        *out = st;
    } else {
        safetensors_close(st);
    }
    free(single);
    free(index);
    return rc;
}

void safetensors_close(struct safetensors *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->nfiles; i++) {
        file_map_close(&st->files[i].map);
        free(st->files[i].path);
    }
    for (size_t i = 0; i < st->nnotes; i++)
        free(st->notes[i]);
    free(st->files);
    free(st->notes);
    free(st->tensors);
    arena_release(&st->names);
    free(st);
}

/* ---- looking ---- */

size_t safetensors_count(const struct safetensors *st)
{
    return st->n;
}

const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i)
{
    return &st->tensors[i];
}

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    size_t lo = 0, hi = st->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, st->tensors[mid].name);
        if (c == 0)
            return &st->tensors[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

size_t safetensors_files(const struct safetensors *st)
{
    return st->nfiles;
}

const char *safetensors_file(const struct safetensors *st, size_t i)
{
    return st->files[i].path;
}

const char *safetensors_note(const struct safetensors *st, size_t i)
{
    return i < st->nnotes ? st->notes[i] : NULL;
}

void safetensors_advise(const struct safetensors *st, bool scattered)
{
    for (size_t i = 0; i < st->nfiles; i++)
        if (st->files[i].map.n)
            madvise((void *)(size_t)st->files[i].map.p, st->files[i].map.n, scattered ? MADV_RANDOM : MADV_NORMAL);
}
