/* record.h - JSONL: one object a line, read in place.
 *
 *     struct rec_reader *in;  rec_open(&in, files, nfiles, &e);       // no files, or "-": standard input
 *     while ((rc = rec_read(in, &r, &e)) > 0) {
 *         if (rec_text(&r, "question", &text, &e) < 0) ...            // "FILE:12: ..." is in front of every sentence
 *     }
 *
 * Several files are one stream. A byte order mark at the start of a file and CRLF line ends are dropped; empty lines
 * are skipped; a last line without newline counts. Lines may be as long as memory allows. Everything borrowed from a
 * record is valid until the next rec_read. The hash of the content goes into manifests and run log. */
#ifndef LATENT_RECORD_H
#define LATENT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "io/hash.h"

struct buf;
struct err;

struct rec_field {
    struct json key, val; /* exact spans of the line */
};

struct rec {
    const char *line; /* the line without its end */
    size_t len;
    uint64_t index;     /* 0, 1, 2 ... over the whole stream */
    struct json object; /* the line without outer white space */
    struct rec_field *field;
    size_t nfields;
    const char *where; /* "train.jsonl:17", for messages */
};

struct rec_reader;
int rec_open(struct rec_reader **out, const char *const *files, int nfiles, struct err *e);
void rec_close(struct rec_reader *in); /* NULL is fine */

enum { REC_BAD = -2 }; /* this line is no record (line, len, index are set all the same); reading may go on */
/* 1: *r holds the next record; 0: end; -1: the stream failed; REC_BAD: a broken line (e says where and why). */
int rec_read(struct rec_reader *in, struct rec *r, struct err *e);

/* Inputs seen so far, for manifests: how many files, name and content hash of each (complete only at the end). */
int rec_inputs(const struct rec_reader *in);
const char *rec_input_name(const struct rec_reader *in, int i);
struct hash128 rec_input_hash(const struct rec_reader *in, int i);

/* Splits a line that the caller holds (checked like a read one); where is borrowed. */
int rec_parse(struct rec *r, const char *line, size_t n, const char *where, struct err *e);
void rec_release(struct rec *r); /* only for records filled by rec_parse */

/* ---- fields. A missing or wrong one is an error that names place, key, and what was found. ---- */
bool rec_get(const struct rec *r, const char *key, struct json *val);               /* false: no such key */
int rec_text(const struct rec *r, const char *key, struct buf *out, struct err *e); /* appends the string */
int rec_text_or_null(const struct rec *r, const char *key, struct buf *out,
                     struct err *e); /* 1 string, 0 null/absent */
int rec_int(const struct rec *r, const char *key, int64_t *out, struct err *e);
int rec_real(const struct rec *r, const char *key, double *out, struct err *e);
int rec_bool(const struct rec *r, const char *key, bool *out, struct err *e);

/* ---- writing: members go to a buffer in the order of the calls, in Python's spelling (", " and ": ") ---- */
void rec_begin(struct buf *b);                                 /* { */
void rec_put(struct buf *b, const char *key, struct json raw); /* any value, byte for byte */
void rec_put_text(struct buf *b, const char *key, const char *s, size_t n);
void rec_put_cstr(struct buf *b, const char *key, const char *s); /* NULL writes null */
void rec_put_int(struct buf *b, const char *key, int64_t v);
void rec_put_real(struct buf *b, const char *key, double v);
void rec_put_bool(struct buf *b, const char *key, bool v);
void rec_put_null(struct buf *b, const char *key);
void rec_put_number(struct buf *b, const char *key, double v); /* NaN, which is "not known": null */
void rec_end(struct buf *b);                                   /* } and the newline */

/* The record again with some members replaced or appended: change[].raw is JSON text; everything else is copied byte
 * for byte, in its place. At most 64 changes. */
struct rec_change {
    const char *key;
    const char *raw;
};
void rec_rewrite(struct buf *b, const struct rec *r, const struct rec_change *change, size_t n);

#endif
