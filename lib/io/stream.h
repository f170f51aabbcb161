/* stream.h - bytes in and bytes out: plain or zstd, file or pipe.
 *
 * In: what starts with the zstd magic number is decompressed, whatever its name; several zstd frames are one stream.
 * Out: compressed when asked. A truncated or corrupt zstd stream is an error, never a short end. */
#ifndef LATENT_STREAM_H
#define LATENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

struct err;

struct in_stream;
int in_open(struct in_stream **out, const char *path /* "-" is standard input */, struct err *e);
/* The next piece of content, borrowed until the next call: 1, or 0 at the end, or -1. */
int in_chunk(struct in_stream *in, const char **p, size_t *n, struct err *e);
void in_close(struct in_stream *in);             /* NULL is fine */
const char *in_name(const struct in_stream *in); /* for messages: the path, or "standard input" */

struct out_stream;
int out_open_fd(struct out_stream **out, int fd, const char *name, bool zstd, struct err *e); /* fd becomes its own */
int out_write(struct out_stream *o, const void *p, size_t n, struct err *e);
int out_flush(struct out_stream *o, struct err *e); /* what was written goes to the kernel now */
/* Everything to the kernel (and to the disk, with sync); the stream is gone afterwards, also on error. */
int out_finish(struct out_stream *o, bool sync, struct err *e);
void out_abandon(struct out_stream *o); /* closes without caring; NULL is fine */

#endif
