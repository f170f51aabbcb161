/* answer_private.h - between the stages of the answer checker: extract, lex, parse, canon, compare.
 *
 *   text -> answer_extract_span -> lex -> parse (a few readings) -> canon -> compare
 *
 * Tokens, nodes and strings live in the checker's arena, rationals in its pool; both are emptied by every grade. */
#ifndef LATENT_TASK_ANSWER_PRIVATE_H
#define LATENT_TASK_ANSWER_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "task/answer.h"

/* ---- characters (ASCII only, whatever the locale) ---- */
static inline bool ch_digit(char c)
{
    return c >= '0' && c <= '9';
}
static inline bool ch_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}
static inline bool ch_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || ch_upper(c);
}
static inline bool ch_alnum(char c)
{
    return ch_alpha(c) || ch_digit(c);
}
static inline bool ch_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}
static inline char ch_lower(char c)
{
    return ch_upper(c) ? (char)(c + 32) : c;
}

struct span {
    const char *s;
    size_t n;
};
static inline struct span span_of(const char *s, size_t n)
{
    struct span v = { s, n };
    return v;
}
struct span span_strip(struct span v);
bool span_is(struct span v, const char *s);
bool span_starts(struct span v, const char *s);      /* bytes equal */
bool span_starts_fold(struct span v, const char *s); /* s in lower case */
bool span_is_fold(struct span v, const char *s);
/* Content of the brace group that opens at v.s[open]; *end is the offset behind its closing brace. An unclosed group
 * ends at the end of the line, at a lone $ or at the end of the text, and the result is false. */
bool span_braced(struct span v, size_t open, struct span *inner, size_t *end);

#endif
