/* record.c - see record.h. */
#include "io/record.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/stream.h"

struct input {
    char *name;
    struct hasher *hash;
};

struct rec_reader {
    const char *const *files;
    int nfiles;
    int file; /* index of the open one */
    struct in_stream *in;
    struct input *inputs;
    int ninputs;
    const char *chunk;
    size_t chunk_len, chunk_at;
    struct buf carry; /* start of a line whose end is in the next chunk */
    uint64_t line;    /* number within the file */
    uint64_t index;
    bool at_start; /* nothing of this file was consumed: a byte order mark may stand here */
    bool eof;
    struct buf where;
    struct rec_field *field;
    size_t fields_cap;
    const char *standard[1];
};

int rec_open(struct rec_reader **out, const char *const *files, int nfiles, struct err *e)
{
    struct rec_reader *in = xcalloc(1, sizeof *in);
    in->standard[0] = "-";
    in->files = nfiles ? files : in->standard;
    in->nfiles = nfiles ? nfiles : 1;
    in->file = -1;
    in->inputs = xcalloc((size_t)in->nfiles, sizeof *in->inputs);
    /* Missing files are known before any work starts, not hours later. */
    for (int i = 0; i < in->nfiles; i++) {
        struct in_stream *probe = NULL;
        if (!file_is_pipe(in->files[i]) && in_open(&probe, in->files[i], e) < 0) {
            rec_close(in);
            return -1;
        }
        in_close(probe);
    }
    *out = in;
    return 0;
}

void rec_close(struct rec_reader *in)
{
    if (!in)
        return;
    in_close(in->in);
    for (int i = 0; i < in->ninputs; i++) {
        free(in->inputs[i].name);
        hasher_free(in->inputs[i].hash);
    }
    free(in->inputs);
    buf_release(&in->carry);
    buf_release(&in->where);
    free(in->field);
    free(in);
}

int rec_inputs(const struct rec_reader *in)
{
    return in->ninputs;
}

const char *rec_input_name(const struct rec_reader *in, int i)
{
    return in->inputs[i].name;
}

struct hash128 rec_input_hash(const struct rec_reader *in, int i)
{
    return hasher_get(in->inputs[i].hash);
}

/* Opens the next file: 1, or 0 when there is none, or -1. */
static int next_file(struct rec_reader *in, struct err *e)
{
    in_close(in->in);
    in->in = NULL;
    if (++in->file >= in->nfiles)
        return 0;
    if (in_open(&in->in, in->files[in->file], e) < 0)
        return -1;
    in->inputs[in->ninputs++] = (struct input){ xstrdup(in_name(in->in)), hasher_new() };
    in->line = 0;
    in->at_start = true;
    return 1;
}

/* More bytes of the open file: 1, or 0 at its end, or -1. */
static int next_chunk(struct rec_reader *in, struct err *e)
{
    int rc = in_chunk(in->in, &in->chunk, &in->chunk_len, e);
    in->chunk_at = 0;
    if (rc > 0)
        hasher_add(in->inputs[in->ninputs - 1].hash, in->chunk, in->chunk_len);
    else
        in->chunk_len = 0;
    return rc;
}

/* Takes bytes of the current chunk up to and with a newline: 1 and the line, or 0 when the chunk ended first. */
static int take_line(struct rec_reader *in, const char **line, size_t *n)
{
    const char *from = in->chunk + in->chunk_at;
    size_t left = in->chunk_len - in->chunk_at;
    const char *end = memchr(from, '\n', left);
    if (!end) {
        buf_add(&in->carry, from, left);
        in->chunk_at = in->chunk_len;
        return 0;
    }
    in->chunk_at += (size_t)(end - from) + 1;
    *line = from;
    *n = (size_t)(end - from);
    if (in->carry.len) {
        buf_add(&in->carry, from, *n);
        *line = in->carry.s;
        *n = in->carry.len;
    }
    return 1;
}

/* The next line of the stream, without its end: 1, 0, -1. */
static int next_line(struct rec_reader *in, const char **line, size_t *n, struct err *e)
{
    buf_reset(&in->carry);
    for (;;) {
        if (!in->in) {
            int rc = in->eof ? 0 : next_file(in, e);
            if (rc <= 0) {
                in->eof = true;
                return rc;
            }
        }
        if (in->chunk_at == in->chunk_len) {
            int rc = next_chunk(in, e);
            if (rc < 0)
                return -1;
            if (rc == 0) { /* the file ends, perhaps in a line without newline */
                in_close(in->in);
                in->in = NULL;
                if (in->carry.len == 0)
                    continue;
                *line = in->carry.s;
                *n = in->carry.len;
                in->line++;
                return 1;
            }
        }
        if (take_line(in, line, n)) {
            in->line++;
            return 1;
        }
    }
}

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r')
            return false;
    return true;
}

/* One checking pass over the line, then one that notes the spans of its members. */
static int split(struct rec *r, struct rec_field **field, size_t *cap, const char *line, size_t n, struct err *e)
{
    if (json_parse(&r->object, line, n, e) < 0)
        return -1;
    if (json_kind(r->object) != JSON_OBJECT)
        return err_set(e, "expected an object in {}, found %.*s", (int)(n > 20 ? 20 : n), line);
    struct json_iter it = json_each(r->object);
    struct json key, val;
    r->nfields = 0;
    while (json_next(&it, &key, &val)) {
        if (r->nfields == *cap) {
            *cap = *cap ? *cap * 2 : 16;
            *field = xreallocarray(*field, *cap, sizeof **field);
        }
        (*field)[r->nfields++] = (struct rec_field){ key, val };
    }
    r->field = *field;
    return 0;
}

int rec_read(struct rec_reader *in, struct rec *r, struct err *e)
{
    const char *line;
    size_t n;
    do {
        int rc = next_line(in, &line, &n, e);
        if (rc <= 0)
            return rc;
        if (in->at_start && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
            line += 3;
            n -= 3;
        }
        in->at_start = false;
        if (n && line[n - 1] == '\r')
            n--;
    } while (blank(line, n));
    buf_reset(&in->where);
    buf_printf(&in->where, "%s:%llu", in->inputs[in->ninputs - 1].name, (unsigned long long)in->line);
    *r = (struct rec){ .line = line, .len = n, .index = in->index++, .where = in->where.s };
    if (split(r, &in->field, &in->fields_cap, line, n, e) < 0) {
        err_prefix(e, "%s", r->where);
        return REC_BAD;
    }
    return 1;
}

int rec_parse(struct rec *r, const char *line, size_t n, const char *where, struct err *e)
{
    struct rec_field *field = NULL;
    size_t cap = 0;
    *r = (struct rec){ .line = line, .len = n, .where = where };
    if (split(r, &field, &cap, line, n, e) < 0) {
        free(field);
        r->field = NULL;
        return err_prefix(e, "%s", where);
    }
    return 0;
}

void rec_release(struct rec *r)
{
    free(r->field);
    r->field = NULL;
    r->nfields = 0;
}

/* ---- fields ---- */

bool rec_get(const struct rec *r, const char *key, struct json *val)
{
    for (size_t i = r->nfields; i-- > 0;)
        if (json_str_is(r->field[i].key, key)) {
            *val = r->field[i].val;
            return true;
        }
    return false;
}

static int wrong(const struct rec *r, const char *key, const char *want, struct err *e)
{
    struct json v;
    if (rec_get(r, key, &v))
        return err_set(e, "%s: key \"%s\" must be %s, found %.*s%s", r->where, key, want, (int)(v.n > 40 ? 40 : v.n),
                       v.s, v.n > 40 ? "..." : "");
    return err_set(e, "%s: no key \"%s\" (%s is needed)", r->where, key, want);
}

int rec_text(const struct rec *r, const char *key, struct buf *out, struct err *e)
{
    struct json v;
    if (!rec_get(r, key, &v) || json_kind(v) != JSON_STRING)
        return wrong(r, key, "a string", e);
    json_str(v, out);
    return 0;
}

int rec_text_or_null(const struct rec *r, const char *key, struct buf *out, struct err *e)
{
    struct json v;
    if (!rec_get(r, key, &v) || json_kind(v) == JSON_NULL)
        return 0;
    if (json_kind(v) != JSON_STRING)
        return wrong(r, key, "a string or null", e);
    json_str(v, out);
    return 1;
}

int rec_int(const struct rec *r, const char *key, int64_t *out, struct err *e)
{
    struct json v;
    if (!rec_get(r, key, &v) || !json_int(v, out))
        return wrong(r, key, "a whole number", e);
    return 0;
}

int rec_real(const struct rec *r, const char *key, double *out, struct err *e)
{
    struct json v;
    if (!rec_get(r, key, &v) || !json_double(v, out))
        return wrong(r, key, "a number", e);
    return 0;
}

int rec_bool(const struct rec *r, const char *key, bool *out, struct err *e)
{
    struct json v;
    if (!rec_get(r, key, &v) || !json_bool(v, out))
        return wrong(r, key, "true or false", e);
    return 0;
}

/* ---- writing ---- */

void rec_begin(struct buf *b)
{
    buf_putc(b, '{');
}

static void put_key(struct buf *b, const char *key)
{
    if (b->len && b->s[b->len - 1] != '{')
        buf_add(b, ", ", 2);
    json_put_cstr(b, key);
    buf_add(b, ": ", 2);
}

void rec_put(struct buf *b, const char *key, struct json raw)
{
    put_key(b, key);
    buf_add(b, raw.s, raw.n);
}

void rec_put_text(struct buf *b, const char *key, const char *s, size_t n)
{
    put_key(b, key);
    json_put_str(b, s, n);
}

void rec_put_cstr(struct buf *b, const char *key, const char *s)
{
    put_key(b, key);
    json_put_cstr(b, s);
}

void rec_put_int(struct buf *b, const char *key, int64_t v)
{
    put_key(b, key);
    buf_printf(b, "%lld", (long long)v);
}

void rec_put_real(struct buf *b, const char *key, double v)
{
    put_key(b, key);
    json_put_double(b, v);
}

void rec_put_bool(struct buf *b, const char *key, bool v)
{
    put_key(b, key);
    buf_puts(b, v ? "true" : "false");
}

void rec_put_null(struct buf *b, const char *key)
{
    put_key(b, key);
    buf_puts(b, "null");
}

void rec_put_number(struct buf *b, const char *key, double v)
{
    if (isnan(v))
        rec_put_null(b, key);
    else
        rec_put_real(b, key, v);
}

void rec_end(struct buf *b)
{
    buf_add(b, "}\n", 2);
}

void rec_rewrite(struct buf *b, const struct rec *r, const struct rec_change *change, size_t n)
{
    const char *at = r->object.s, *end = r->object.s + r->object.n - 1; /* end: the closing brace */
    bool done[64] = { false };
    for (size_t i = 0; i < r->nfields; i++)
        for (size_t c = 0; c < n && c < 64; c++) {
            if (!json_str_is(r->field[i].key, change[c].key))
                continue;
            buf_add(b, at, (size_t)(r->field[i].val.s - at));
            buf_puts(b, change[c].raw);
            at = r->field[i].val.s + r->field[i].val.n;
            done[c] = true;
            break;
        }
    /* New members go behind the last value, so that white space before the brace stays where it was. */
    const char *last = r->nfields ? r->field[r->nfields - 1].val.s + r->field[r->nfields - 1].val.n : r->object.s + 1;
    if (last > at)
        buf_add(b, at, (size_t)(last - at));
    at = last;
    bool first = r->nfields == 0;
    for (size_t c = 0; c < n && c < 64; c++) {
        if (done[c])
            continue;
        buf_puts(b, first ? "" : ", ");
        first = false;
        json_put_cstr(b, change[c].key);
        buf_puts(b, ": ");
        buf_puts(b, change[c].raw);
    }
    buf_add(b, at, (size_t)(end - at));
    buf_add(b, "}\n", 2);
}
