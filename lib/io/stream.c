/* stream.c - see stream.h. */
#include "io/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/err.h"
#include "base/mem.h"

enum { IN_BLOCK = 1 << 18, OUT_BLOCK = 1 << 18 };

struct in_stream {
    char *name;
    int fd;
    char *raw;
    size_t raw_len, raw_at; /* bytes read, bytes consumed */
    bool eof;
    bool started;     /* the first bytes were looked at */
    ZSTD_DCtx *zstd;  /* NULL for plain */
    char *plain;      /* decompressed */
    size_t zstd_hint; /* 0: at a frame border */
};

int in_open(struct in_stream **out, const char *path, struct err *e)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "%s: cannot open", path);
    struct in_stream *in = xcalloc(1, sizeof *in);
    in->name = xstrdup(standard ? "standard input" : path);
    in->fd = fd;
    in->raw = xmalloc(IN_BLOCK);
    *out = in;
    return 0;
}

void in_close(struct in_stream *in)
{
    if (!in)
        return;
    if (in->fd > 0)
        close(in->fd);
    ZSTD_freeDCtx(in->zstd);
    free(in->plain);
    free(in->raw);
    free(in->name);
    free(in);
}

const char *in_name(const struct in_stream *in)
{
    return in->name;
}

/* Appends what one read gives: 1, 0 at the end, -1. */
static int fill(struct in_stream *in, struct err *e)
{
    for (;;) {
        ssize_t got = read(in->fd, in->raw + in->raw_len, IN_BLOCK - in->raw_len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(e, "%s: cannot read", in->name);
        in->raw_len += (size_t)got;
        in->eof = got == 0;
        return got > 0;
    }
}

static int start(struct in_stream *in, struct err *e)
{
    static const unsigned char magic[4] = { 0x28, 0xb5, 0x2f, 0xfd };
    int got = 1;
    in->started = true;
    while (in->raw_len < 4 && got > 0)
        if ((got = fill(in, e)) < 0)
            return -1;
    if (in->raw_len >= 4 && memcmp(in->raw, magic, 4) == 0) {
        in->zstd = ZSTD_createDCtx();
        in->plain = xmalloc(IN_BLOCK);
        if (!in->zstd)
            return err_set(e, "%s: no memory for the decompressor", in->name);
    }
    return 0;
}

/* Refills an empty input buffer: 1, 0 at the end, -1. */
static int refill(struct in_stream *in, struct err *e)
{
    if (in->raw_at < in->raw_len)
        return 1;
    in->raw_at = in->raw_len = 0;
    return in->eof ? 0 : fill(in, e);
}

static int chunk_plain(struct in_stream *in, const char **p, size_t *n, struct err *e)
{
    int rc = refill(in, e);
    if (rc <= 0)
        return rc;
    *p = in->raw + in->raw_at;
    *n = in->raw_len - in->raw_at;
    in->raw_at = in->raw_len;
    return 1;
}

static int chunk_zstd(struct in_stream *in, const char **p, size_t *n, struct err *e)
{
    for (;;) {
        int rc = refill(in, e);
        if (rc == 0 && in->zstd_hint != 0)
            return err_set(e, "%s: the zstd stream ends in the middle (truncated file?)", in->name);
        if (rc <= 0)
            return rc;
        ZSTD_inBuffer from = { in->raw, in->raw_len, in->raw_at };
        ZSTD_outBuffer to = { in->plain, IN_BLOCK, 0 };
        size_t hint = ZSTD_decompressStream(in->zstd, &to, &from);
        if (ZSTD_isError(hint))
            return err_set(e, "%s: not valid zstd: %s", in->name, ZSTD_getErrorName(hint));
        in->zstd_hint = hint;
        in->raw_at = from.pos;
        if (to.pos > 0) {
            *p = in->plain;
            *n = to.pos;
            return 1;
        }
    }
}

int in_chunk(struct in_stream *in, const char **p, size_t *n, struct err *e)
{
    if (!in->started && start(in, e) < 0)
        return -1;
    return in->zstd ? chunk_zstd(in, p, n, e) : chunk_plain(in, p, n, e);
}

/* ---- out ---- */

struct out_stream {
    char *name;
    int fd;
    char *raw; /* to the kernel */
    size_t raw_len;
    ZSTD_CCtx *zstd;
};

int out_open_fd(struct out_stream **out, int fd, const char *name, bool zstd, struct err *e)
{
    struct out_stream *o = xcalloc(1, sizeof *o);
    o->name = xstrdup(name);
    o->fd = fd;
    o->raw = xmalloc(OUT_BLOCK);
    if (zstd) {
        o->zstd = ZSTD_createCCtx();
        if (!o->zstd) {
            out_abandon(o);
            return err_set(e, "%s: no memory for the compressor", name);
        }
        ZSTD_CCtx_setParameter(o->zstd, ZSTD_c_compressionLevel, 9);
        ZSTD_CCtx_setParameter(o->zstd, ZSTD_c_checksumFlag, 1);
    }
    *out = o;
    return 0;
}

static int drain(struct out_stream *o, const char *p, size_t n, struct err *e)
{
    while (n > 0) {
        ssize_t put = write(o->fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(e, "%s: cannot write", o->name);
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int flush_raw(struct out_stream *o, struct err *e)
{
    int rc = drain(o, o->raw, o->raw_len, e);
    o->raw_len = 0;
    return rc;
}

static int compress(struct out_stream *o, const void *p, size_t n, ZSTD_EndDirective how, struct err *e)
{
    ZSTD_inBuffer from = { p, n, 0 };
    for (;;) {
        ZSTD_outBuffer to = { o->raw, OUT_BLOCK, o->raw_len };
        size_t left = ZSTD_compressStream2(o->zstd, &to, &from, how);
        if (ZSTD_isError(left))
            return err_set(e, "%s: zstd: %s", o->name, ZSTD_getErrorName(left));
        o->raw_len = to.pos;
        bool more = how == ZSTD_e_continue ? from.pos < from.size : left != 0;
        if ((o->raw_len == OUT_BLOCK || more) && flush_raw(o, e) < 0)
            return -1;
        if (!more)
            return 0;
    }
}

int out_write(struct out_stream *o, const void *p, size_t n, struct err *e)
{
    if (o->zstd)
        return compress(o, p, n, ZSTD_e_continue, e);
    if (n > OUT_BLOCK - o->raw_len && flush_raw(o, e) < 0)
        return -1;
    if (n >= OUT_BLOCK)
        return drain(o, p, n, e);
    memcpy(o->raw + o->raw_len, p, n);
    o->raw_len += n;
    return 0;
}

int out_flush(struct out_stream *o, struct err *e)
{
    if (o->zstd && compress(o, "", 0, ZSTD_e_flush, e) < 0)
        return -1;
    return flush_raw(o, e);
}

void out_abandon(struct out_stream *o)
{
    if (!o)
        return;
    if (o->fd >= 0)
        close(o->fd);
    ZSTD_freeCCtx(o->zstd);
    free(o->raw);
    free(o->name);
    free(o);
}

int out_finish(struct out_stream *o, bool sync, struct err *e)
{
    int rc = o->zstd ? compress(o, "", 0, ZSTD_e_end, e) : 0;
    if (rc == 0)
        rc = flush_raw(o, e);
    if (rc == 0 && sync && fsync(o->fd) < 0 && errno != EINVAL && errno != EROFS)
        rc = err_errno(e, "%s: cannot write", o->name);
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) < 0 && rc == 0)
        rc = err_errno(e, "%s: cannot write", o->name);
    out_abandon(o);
    return rc;
}
