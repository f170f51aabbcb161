/* unicode.h - character classes and mappings as the reference counts them; beside it, utf8proc (Unicode 14). */
#ifndef LATENT_TEXT_UNICODE_H
#define LATENT_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

bool uni_is_space(uint32_t c);   /* White_Space: Rust's char::is_whitespace, Oniguruma's \s; not U+001C..001F */
bool uni_is_word(uint32_t c);    /* \w of the Rust regex crate: Alphabetic, M, Nd, Pc, Join_Control */
bool uni_is_punct(uint32_t c);   /* the 32 ASCII marks and categories P* (Unicode 8, as the reference has it) */
bool uni_is_numeric(uint32_t c); /* categories N* */
bool uni_is_mark(uint32_t c);    /* categories M* */
bool uni_is_mn(uint32_t c);      /* category Mn */
bool uni_is_other(uint32_t c);   /* BERT's control characters: categories Cc, Cf, Co */
bool uni_is_chinese(uint32_t c); /* BERT's Chinese characters, its hole at U+2B820..2B91F included */

/* Full lower- and upper-casing of one character: writes 1..3 code points, returns how many. */
int uni_lower(uint32_t c, uint32_t out[3]);
int uni_upper(uint32_t c, uint32_t out[3]);

/* Appends s as UTF-8, every maximal ill-formed subpart replaced by U+FFFD. */
void uni_repair(const char *s, size_t n, struct buf *out);

/* One character of text that is known to be UTF-8; returns its length. */
static inline int uni_get(const char *s, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    if (u[0] < 0xe0) {
        *cp = (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
        return 2;
    }
    if (u[0] < 0xf0) {
        *cp = (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
        return 3;
    }
    *cp = (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
    return 4;
}

static inline int uni_len(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

#endif
