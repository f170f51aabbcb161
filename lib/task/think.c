/* think.c - see think.h. */
#define _GNU_SOURCE /* memmem */
#include "task/think.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"

static const char think_open[] = "<think>", think_close[] = "</think>";

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Length of the white space character that ends at s + n, 0 if there is none. */
static size_t space_before(const char *s, size_t n)
{
    uint32_t cp;
    size_t back = 1;
    while (back < 4 && back < n && ((unsigned char)s[n - back] & 0xc0) == 0x80)
        back++;
    if (back > n || utf8_decode(s + n - back, back, &cp) != (int)back)
        return 0;
    return is_space(cp) ? back : 0;
}

struct view view_trim(const char *s, size_t n)
{
    uint32_t cp;
    size_t k;
    while (n && (k = (size_t)utf8_decode(s, n, &cp)) > 0 && is_space(cp)) {
        s += k;
        n -= k;
    }
    while (n && (k = space_before(s, n)) > 0)
        n -= k;
    return (struct view){ s, n };
}

long view_find(const char *s, size_t n, const char *needle)
{
    const char *p = n ? memmem(s, n, needle, strlen(needle)) : NULL;
    return p ? (long)(p - s) : -1;
}

long view_find_last(const char *s, size_t n, const char *needle)
{
    size_t len = strlen(needle);
    for (size_t i = n < len ? 0 : n - len + 1; i > 0; i--)
        if (memcmp(s + i - 1, needle, len) == 0)
            return (long)(i - 1);
    return -1;
}

long view_find_nocase(const char *s, size_t n, const char *needle)
{
    size_t len = strlen(needle);
    for (size_t i = 0; i + len <= n; i++)
        if (strncasecmp(s + i, needle, len) == 0)
            return (long)i;
    return -1;
}

/* Text before the first announcement of the answer; the order of the list decides, not the place. */
static struct view before_announcement(const char *s, size_t n)
{
    static const char *const words[] = { "\n\nThe final answer is:", "\nThe final answer is:", "\n\nThe answer is",
                                         "\nThe answer is" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        long at = view_find_nocase(s, n, words[i]);
        if (at >= 0) {
            n = (size_t)at;
            break;
        }
    }
    struct view r = view_trim(s, n);
    return r.n ? r : (struct view){ NULL, 0 };
}

struct think think_split(const char *s, size_t n)
{
    const size_t open_n = sizeof think_open - 1, close_n = sizeof think_close - 1;
    size_t begin = 0;
    long end = -1, open = view_find(s, n, think_open);
    if (open >= 0) {
        begin = (size_t)open + open_n;
        end = view_find(s + begin, n - begin, think_close);
    }
    if (end < 0) {
        begin = 0;
        end = view_find(s, n, think_close);
    }
    if (end < 0)
        return (struct think){ before_announcement(s, n), { s, n }, false };
    size_t stop = begin + (size_t)end;
    return (struct think){ view_trim(s + begin, stop - begin), view_trim(s + stop + close_n, n - stop - close_n),
                           true };
}

/* Thinking without the <think> it may begin with. */
static struct view without_open(const char *s, size_t n)
{
    struct view v = view_trim(s, n);
    size_t k = sizeof think_open - 1;
    return v.n >= k && memcmp(v.s, think_open, k) == 0 ? view_trim(v.s + k, v.n - k) : v;
}

struct think think_split_at(const char *s, size_t n, size_t end, size_t end_n)
{
    return (struct think){ without_open(s, end), view_trim(s + end + end_n, n - end - end_n), true };
}

struct think think_only(const char *s, size_t n)
{
    return (struct think){ without_open(s, n), { s + n, 0 }, false };
}

struct view think_before_end(const char *s, size_t n)
{
    long end = view_find(s, n, think_close);
    return end < 0 ? (struct view){ NULL, 0 } : (struct view){ s, (size_t)end };
}

bool think_answer_regions(const char *s, size_t n, size_t answer_bytes, struct answer_regions *out)
{
    static const char box[] = "\\boxed{";
    long at = view_find_last(s, n, box), close = view_find_last(s, n, think_close);
    if (at < 0 || close < 0)
        return false;
    size_t begin = (size_t)at + sizeof box - 1;
    if (answer_bytes > n - begin || n - begin - answer_bytes < 2)
        return false;
    size_t end = begin + answer_bytes;
    out->answer = (struct range){ begin, end };
    out->boxed = (struct range){ (size_t)at, end + 1 };
    out->post_cot = (struct range){ (size_t)close, end + 2 };
    return true;
}
