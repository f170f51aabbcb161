/* json.h - JSON read in place: spans of the caller's text, no trees, no copies.
 *
 *     struct json doc, v;
 *     if (json_parse(&doc, text, n, &e) < 0) ...           // the one place where text is checked
 *     if (json_get(doc, "model", &v) && json_kind(v) == JSON_OBJECT) ...
 *     struct json_iter it = json_each(v);
 *     while (json_next(&it, &key, &val)) ...               // cannot fail: the text was checked
 *
 * Accepted beyond RFC 8259, because Python writes it: NaN, Infinity, -Infinity, and escaped lone surrogates. Raw
 * bytes in strings must be UTF-8, control characters in strings must be escaped. Spans are borrowed from the text
 * and keep its spelling, so a number or a string copied by span comes out byte for byte.
 * A key that stands twice in an object: the last one counts, as in Python. */
#ifndef LATENT_JSON_H
#define LATENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;

enum { JSON_MAX_DEPTH = 256 };

enum json_kind { JSON_NONE, JSON_NULL, JSON_TRUE, JSON_FALSE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* The exact text of one value: no white space around it, quotes and brackets included. n = 0: no value. */
struct json {
    const char *s;
    size_t n;
};

/* Checks that text[0..n) is exactly one value with optional white space around it. The error says what was expected
 * and the offset where it was not found. */
int json_parse(struct json *out, const char *text, size_t n, struct err *e);

enum json_kind json_kind(struct json v);

struct json_iter {
    const char *p, *end;
    bool object;
};

/* Walks an object or array that json_parse has checked; anything else has no members. key may be NULL. */
struct json_iter json_each(struct json container);
bool json_next(struct json_iter *it, struct json *key, struct json *val);
size_t json_count(struct json container);

bool json_get(struct json object, const char *key, struct json *val);
bool json_at(struct json array, size_t index, struct json *val);

/* Strings. json_str appends the decoded text (lone surrogates become U+FFFD); json_str_dup hands it over, NUL-
 * terminated (the text may hold U+0000: then use json_str). Both want JSON_STRING. */
void json_str(struct json v, struct buf *out);
char *json_str_dup(struct json v);
bool json_str_is(struct json v, const char *s);
bool json_str_plain(struct json v); /* no escapes inside: v.s + 1, v.n - 2 is the text itself */

/* Numbers: false when v is not a number of that kind or does not fit. json_int wants digits only (no 1.0, no 1e3). */
bool json_int(struct json v, int64_t *out);
bool json_double(struct json v, double *out); /* NaN and infinities included */
bool json_bool(struct json v, bool *out);

/* Writing, in the dialect of Python's json.dumps(ensure_ascii=False). */
void json_put_str(struct buf *b, const char *s, size_t n); /* quoted; bytes that are not UTF-8 become U+FFFD */
void json_put_cstr(struct buf *b, const char *s);          /* NULL writes null */
void json_put_double(struct buf *b, double v);             /* shortest text that reads back the same, like repr() */
void json_put_float(struct buf *b, float v);               /* shortest text that reads back as the same float */

/* Where the value that starts at text + i ends (checked), for readers that split a stream themselves. -1 on error. */
int json_skip(const char *text, size_t n, size_t *i, struct err *e);

#endif
