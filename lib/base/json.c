/* json.c - see json.h. One checking walk (json_skip); everything else trusts it. */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"

/* ---- checking walk ---- */

static size_t skip_space(const char *s, size_t n, size_t i)
{
    while (i < n && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r'))
        i++;
    return i;
}

/* First offset at or after i whose byte is a quote, a backslash, a control character or not ASCII. */
static size_t skip_plain(const char *s, size_t n, size_t i)
{
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
    while (n - i >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(s + i));
        /* signed compare: bytes >= 0x80 are negative, hence also "less than space" */
        __m128i stop =
            _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)), _mm_cmplt_epi8(v, space));
        int mask = _mm_movemask_epi8(stop);
        if (mask)
            return i + (size_t)__builtin_ctz((unsigned)mask);
        i += 16;
    }
#endif
    while (i < n && s[i] != '"' && s[i] != '\\' && (unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x80)
        i++;
    return i;
}

static int hex4(const char *s, unsigned *out)
{
    unsigned v = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)s[i];
        unsigned d;
        if (c >= '0' && c <= '9')
            d = c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            d = (c | 32u) - 'a' + 10;
        else
            return -1;
        v = v << 4 | d;
    }
    *out = v;
    return 0;
}

/* s[*i] is the opening quote. */
static int skip_string(const char *s, size_t n, size_t *at, struct err *e)
{
    size_t i = *at + 1;
    for (;;) {
        i = skip_plain(s, n, i);
        if (i >= n)
            return err_set(e, "string that starts at byte %zu has no end", *at);
        unsigned char c = (unsigned char)s[i];
        if (c == '"') {
            *at = i + 1;
            return 0;
        }
        if (c == '\\') {
            unsigned u;
            if (n - i < 2)
                return err_set(e, "string that starts at byte %zu has no end", *at);
            if (s[i + 1] == 'u') {
                if (n - i < 6 || hex4(s + i + 2, &u) < 0)
                    return err_set(e, "bad \\u escape at byte %zu", i);
                i += 6;
            } else if (memchr("\"\\/bfnrt", s[i + 1], 8)) {
                i += 2;
            } else {
                return err_set(e, "bad escape at byte %zu", i);
            }
        } else if (c < 0x20) {
            return err_set(e, "raw control character 0x%02x inside a string at byte %zu", c, i);
        } else {
            uint32_t cp;
            int len = utf8_decode(s + i, n - i, &cp);
            if (len == 0)
                return err_set(e, "not UTF-8 at byte %zu (0x%02x)", i, c);
            i += (size_t)len;
        }
    }
}

static size_t skip_digits(const char *s, size_t n, size_t i)
{
    while (i < n && s[i] >= '0' && s[i] <= '9')
        i++;
    return i;
}

static int skip_word(const char *s, size_t n, size_t *at, const char *word, struct err *e)
{
    size_t len = strlen(word);
    if (n - *at < len || memcmp(s + *at, word, len) != 0)
        return err_set(e, "expected a value at byte %zu", *at);
    *at += len;
    return 0;
}

static int skip_number(const char *s, size_t n, size_t *at, struct err *e)
{
    size_t i = *at;
    if (s[i] == '-') {
        i++;
        if (i < n && s[i] == 'I') {
            *at = i;
            return skip_word(s, n, at, "Infinity", e);
        }
    }
    size_t d = skip_digits(s, n, i);
    if (d == i || (s[i] == '0' && d > i + 1))
        return err_set(e, "bad number at byte %zu", *at);
    i = d;
    if (i < n && s[i] == '.') {
        d = skip_digits(s, n, i + 1);
        if (d == i + 1)
            return err_set(e, "bad number at byte %zu", *at);
        i = d;
    }
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        i++;
        if (i < n && (s[i] == '+' || s[i] == '-'))
            i++;
        d = skip_digits(s, n, i);
        if (d == i)
            return err_set(e, "bad number at byte %zu", *at);
        i = d;
    }
    *at = i;
    return 0;
}

static int skip_scalar(const char *s, size_t n, size_t *i, struct err *e)
{
    switch (s[*i]) {
    case '"':
        return skip_string(s, n, i, e);
    case 't':
        return skip_word(s, n, i, "true", e);
    case 'f':
        return skip_word(s, n, i, "false", e);
    case 'n':
        return skip_word(s, n, i, "null", e);
    case 'N':
        return skip_word(s, n, i, "NaN", e);
    case 'I':
        return skip_word(s, n, i, "Infinity", e);
    default:
        if (s[*i] == '-' || (s[*i] >= '0' && s[*i] <= '9'))
            return skip_number(s, n, i, e);
        if (n - *i >= 3 && memcmp(s + *i, "\xef\xbb\xbf", 3) == 0)
            return err_set(e, "a byte order mark at byte %zu, where a value was expected", *i);
        return err_set(e, "expected a value at byte %zu", *i);
    }
}

/* After '{' or ',' in an object: the key and its colon. */
static int skip_key(const char *s, size_t n, size_t *i, struct err *e)
{
    if (*i >= n || s[*i] != '"')
        return err_set(e, "expected a key in quotes at byte %zu", *i);
    if (skip_string(s, n, i, e) < 0)
        return -1;
    *i = skip_space(s, n, *i);
    if (*i >= n || s[*i] != ':')
        return err_set(e, "expected ':' at byte %zu", *i);
    *i = skip_space(s, n, *i + 1);
    return 0;
}

int json_skip(const char *s, size_t n, size_t *at, struct err *e)
{
    char close[JSON_MAX_DEPTH];
    int depth = 0;
    size_t i = *at;
    for (;;) { /* s[i] must start a value */
        if (i >= n)
            return err_set(e, "text ends at byte %zu where a value was expected", i);
        if (s[i] == '{' || s[i] == '[') {
            if (depth == JSON_MAX_DEPTH)
                return err_set(e, "nested deeper than %d at byte %zu", JSON_MAX_DEPTH, i);
            char c = s[i] == '{' ? '}' : ']';
            close[depth++] = c;
            i = skip_space(s, n, i + 1);
            if (i < n && s[i] == c) {
                i++;
                depth--;
            } else {
                if (c == '}' && skip_key(s, n, &i, e) < 0)
                    return -1;
                continue;
            }
        } else if (skip_scalar(s, n, &i, e) < 0) {
            return -1;
        }
        for (;;) { /* a value has just ended */
            if (depth == 0) {
                *at = i;
                return 0;
            }
            i = skip_space(s, n, i);
            if (i >= n)
                return err_set(e, "text ends at byte %zu where ',' or '%c' was expected", i, close[depth - 1]);
            if (s[i] == close[depth - 1]) {
                i++;
                depth--;
                continue;
            }
            if (s[i] != ',')
                return err_set(e, "expected ',' or '%c' at byte %zu", close[depth - 1], i);
            i = skip_space(s, n, i + 1);
            if (close[depth - 1] == '}' && skip_key(s, n, &i, e) < 0)
                return -1;
            break;
        }
    }
}

int json_parse(struct json *out, const char *text, size_t n, struct err *e)
{
    size_t begin = skip_space(text, n, 0), end = begin;
    if (json_skip(text, n, &end, e) < 0)
        return -1;
    size_t rest = skip_space(text, n, end);
    if (rest != n)
        return err_set(e, "text goes on after the value, at byte %zu", rest);
    *out = (struct json){ text + begin, end - begin };
    return 0;
}

enum json_kind json_kind(struct json v)
{
    if (v.n == 0)
        return JSON_NONE;
    switch (v.s[0]) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

/* ---- walks over checked text ---- */

static const char *end_of_string(const char *p)
{
    for (p++; *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p + 1;
}

static const char *end_of_value(const char *p, const char *end)
{
    if (*p == '"')
        return end_of_string(p);
    if (*p != '{' && *p != '[') {
        while (p < end && *p != ',' && *p != '}' && *p != ']' && *p != ' ' && *p != '\n' && *p != '\t' && *p != '\r')
            p++;
        return p;
    }
    int depth = 0;
    for (;;) {
        if (*p == '"') {
            p = end_of_string(p);
            continue;
        }
        if (*p == '{' || *p == '[')
            depth++;
        else if ((*p == '}' || *p == ']') && --depth == 0)
            return p + 1;
        p++;
    }
}

static const char *space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
        p++;
    return p;
}

struct json_iter json_each(struct json v)
{
    enum json_kind k = json_kind(v);
    if (k != JSON_OBJECT && k != JSON_ARRAY)
        return (struct json_iter){ NULL, NULL, false };
    const char *end = v.s + v.n - 1; /* the closing bracket */
    return (struct json_iter){ space(v.s + 1, end), end, k == JSON_OBJECT };
}

bool json_next(struct json_iter *it, struct json *key, struct json *val)
{
    if (it->p >= it->end)
        return false;
    const char *p = it->p;
    if (it->object) {
        const char *k = end_of_string(p);
        if (key)
            *key = (struct json){ p, (size_t)(k - p) };
        p = space(k, it->end);
        p = space(p + 1, it->end); /* the colon */
    } else if (key) {
        *key = (struct json){ NULL, 0 };
    }
    const char *v = end_of_value(p, it->end);
    *val = (struct json){ p, (size_t)(v - p) };
    p = space(v, it->end);
    if (p < it->end && *p == ',')
        p = space(p + 1, it->end);
    it->p = p;
    return true;
}

size_t json_count(struct json v)
{
    struct json_iter it = json_each(v);
    struct json member;
    size_t n = 0;
    while (json_next(&it, NULL, &member))
        n++;
    return n;
}

bool json_get(struct json object, const char *name, struct json *val)
{
    if (json_kind(object) != JSON_OBJECT)
        return false;
    struct json_iter it = json_each(object);
    struct json k, v;
    bool found = false;
    while (json_next(&it, &k, &v))
        if (json_str_is(k, name)) {
            *val = v;
            found = true;
        }
    return found;
}

bool json_at(struct json array, size_t index, struct json *val)
{
    if (json_kind(array) != JSON_ARRAY)
        return false;
    struct json_iter it = json_each(array);
    while (json_next(&it, NULL, val))
        if (index-- == 0)
            return true;
    return false;
}

/* ---- scalars ---- */

bool json_str_plain(struct json v)
{
    return memchr(v.s, '\\', v.n) == NULL;
}

/* p is behind "\u"; reads one escaped code point, joining a surrogate pair; returns the end. */
static const char *unescape_u(const char *p, const char *end, uint32_t *cp)
{
    unsigned u = 0, low = 0;
    hex4(p, &u);
    p += 4;
    *cp = u;
    if (u >= 0xd800 && u < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' && hex4(p + 2, &low) == 0 &&
        low >= 0xdc00 && low < 0xe000) {
        *cp = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
        return p + 6;
    }
    if (u >= 0xd800 && u < 0xe000)
        *cp = 0xfffd;
    return p;
}

void json_str(struct json v, struct buf *out)
{
    const char *p = v.s + 1, *end = v.s + v.n - 1;
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        if (!slash)
            slash = end;
        buf_add(out, p, (size_t)(slash - p));
        if (slash == end)
            break;
        p = slash + 2;
        switch (slash[1]) {
        case 'b':
            buf_putc(out, '\b');
            break;
        case 'f':
            buf_putc(out, '\f');
            break;
        case 'n':
            buf_putc(out, '\n');
            break;
        case 'r':
            buf_putc(out, '\r');
            break;
        case 't':
            buf_putc(out, '\t');
            break;
        case 'u': {
            uint32_t cp;
            char bytes[4];
            p = unescape_u(p, end, &cp);
            buf_add(out, bytes, (size_t)utf8_encode(cp, bytes));
            break;
        }
        default:
            buf_putc(out, slash[1]);
        }
    }
    buf_add(out, "", 0);
}

char *json_str_dup(struct json v)
{
    struct buf b = BUF_INIT;
    json_str(v, &b);
    return buf_take(&b);
}

bool json_str_is(struct json v, const char *s)
{
    if (json_kind(v) != JSON_STRING)
        return false;
    size_t n = strlen(s);
    if (json_str_plain(v))
        return v.n - 2 == n && memcmp(v.s + 1, s, n) == 0;
    struct buf b = BUF_INIT;
    json_str(v, &b);
    bool same = b.len == n && memcmp(b.s, s, n) == 0;
    buf_release(&b);
    return same;
}

bool json_int(struct json v, int64_t *out)
{
    if (json_kind(v) != JSON_NUMBER || v.n > 20)
        return false;
    bool minus = v.s[0] == '-';
    uint64_t u = 0;
    for (size_t i = minus; i < v.n; i++) {
        if (v.s[i] < '0' || v.s[i] > '9')
            return false;
        if (__builtin_mul_overflow(u, 10u, &u) || __builtin_add_overflow(u, (uint64_t)(v.s[i] - '0'), &u))
            return false;
    }
    if (u > (uint64_t)INT64_MAX + minus)
        return false;
    *out = minus ? (int64_t)(0 - u) : (int64_t)u;
    return true;
}

bool json_double(struct json v, double *out)
{
    char text[64], *big = NULL, *t = text;
    if (json_kind(v) != JSON_NUMBER)
        return false;
    if (v.n >= sizeof text)
        t = big = xmalloc(v.n + 1);
    memcpy(t, v.s, v.n);
    t[v.n] = '\0';
    *out = strtod(t, NULL); /* reads NaN and Infinity too; the process never leaves the C locale */
    free(big);
    return true;
}

bool json_bool(struct json v, bool *out)
{
    enum json_kind k = json_kind(v);
    *out = k == JSON_TRUE;
    return k == JSON_TRUE || k == JSON_FALSE;
}

/* ---- writing ---- */

void json_put_str(struct buf *b, const char *s, size_t n)
{
    buf_putc(b, '"');
    size_t i = 0;
    while (i < n) {
        size_t j = skip_plain(s, n, i);
        buf_add(b, s + i, j - i);
        i = j;
        if (i == n)
            break;
        unsigned char c = (unsigned char)s[i];
        uint32_t cp;
        int len = 1;
        switch (c) {
        case '"':
            buf_add(b, "\\\"", 2);
            break;
        case '\\':
            buf_add(b, "\\\\", 2);
            break;
        case '\n':
            buf_add(b, "\\n", 2);
            break;
        case '\r':
            buf_add(b, "\\r", 2);
            break;
        case '\t':
            buf_add(b, "\\t", 2);
            break;
        case '\b':
            buf_add(b, "\\b", 2);
            break;
        case '\f':
            buf_add(b, "\\f", 2);
            break;
        default:
            if (c < 0x20) {
                buf_printf(b, "\\u%04x", c);
            } else if ((len = utf8_decode(s + i, n - i, &cp)) > 0) {
                buf_add(b, s + i, (size_t)len);
            } else {
                buf_add(b, "\xef\xbf\xbd", 3);
                len = 1;
            }
        }
        i += (size_t)len;
    }
    buf_putc(b, '"');
}

void json_put_cstr(struct buf *b, const char *s)
{
    if (s)
        json_put_str(b, s, strlen(s));
    else
        buf_puts(b, "null");
}

/* digits: the shortest significant digits found, as "d.ddde+XX" from %e; laid out as Python's repr() does. */
static void put_repr(struct buf *b, const char *sci)
{
    char digits[40] = "";
    int nd = 0, exp = 0;
    const char *p = sci;
    if (*p == '-') {
        buf_putc(b, '-');
        p++;
    }
    for (; *p && *p != 'e'; p++)
        if (*p != '.')
            digits[nd++] = *p;
    if (*p == 'e')
        exp = atoi(p + 1);
    while (nd > 1 && digits[nd - 1] == '0')
        nd--;
    if (exp < -4 || exp >= 16) {
        buf_putc(b, digits[0]);
        if (nd > 1) {
            buf_putc(b, '.');
            buf_add(b, digits + 1, (size_t)nd - 1);
        }
        buf_printf(b, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
    } else if (exp < 0) {
        buf_puts(b, "0.");
        for (int i = -1; i > exp; i--)
            buf_putc(b, '0');
        buf_add(b, digits, (size_t)nd);
    } else {
        for (int i = 0; i <= exp || i < nd; i++) {
            if (i == exp + 1)
                buf_putc(b, '.');
            buf_putc(b, i < nd ? digits[i] : '0');
        }
        if (nd <= exp + 1)
            buf_puts(b, ".0");
    }
}

static bool put_special(struct buf *b, double v)
{
    if (isnan(v))
        buf_puts(b, "NaN");
    else if (isinf(v))
        buf_puts(b, v < 0 ? "-Infinity" : "Infinity");
    else
        return false;
    return true;
}

void json_put_double(struct buf *b, double v)
{
    char sci[40];
    if (put_special(b, v))
        return;
    for (int prec = 0; prec <= 16; prec++) {
        snprintf(sci, sizeof sci, "%.*e", prec, v);
        if (strtod(sci, NULL) == v)
            break;
    }
    put_repr(b, sci);
}

void json_put_float(struct buf *b, float v)
{
    char sci[40];
    if (put_special(b, (double)v))
        return;
    for (int prec = 0; prec <= 8; prec++) {
        snprintf(sci, sizeof sci, "%.*e", prec, (double)v);
        if (strtof(sci, NULL) == v)
            break;
    }
    put_repr(b, sci);
}
