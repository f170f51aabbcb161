/* utf8.h - UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef LATENT_UTF8_H
#define LATENT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length (1..4) of the character at s[0..n) and its code point; 0 if the bytes there are no character (or n is 0). */
int utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Writes cp (a valid code point) to out[4]; returns its length. */
int utf8_encode(uint32_t cp, char *out);

/* Offset of the first byte that is not part of valid UTF-8, or n when all is well. */
size_t utf8_check(const char *s, size_t n);

#endif
