/* llmlingua_spans.c - numbers and mathematics of a text, see llmlingua.h. One walk from left to right; a construct that
 * does not close is ordinary text. */
#include <stdlib.h>
#include <string.h>

#include "task/llmlingua_private.h"

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool alnum(char c)
{
    return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80);
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* An empty line begins at s[i], which is a newline. */
static bool empty_line(const char *s, size_t n, size_t i)
{
    for (i++; i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r'); i++)
        ;
    return i < n && s[i] == '\n';
}

/* End of a number whose first digit is at i: groups, decimals, ratios and times, exponent, per cent. */
static size_t number_end(const char *s, size_t n, size_t i)
{
    for (;;) {
        while (i < n && digit(s[i]))
            i++;
        if (i + 1 < n && strchr(".,/:", s[i]) && s[i] && digit(s[i + 1]))
            i++;
        else
            break;
    }
    size_t x = i;
    if (x + 1 < n && (s[x] == 'e' || s[x] == 'E')) {
        x += s[x + 1] == '+' || s[x + 1] == '-' ? 2 : 1;
        size_t d = x;
        while (x < n && digit(s[x]))
            x++;
        if (x > d && (x == n || !alnum(s[x])))
            i = x;
    }
    if (i < n && s[i] == '%')
        i++;
    else if (i + 1 < n && s[i] == '\\' && s[i + 1] == '%')
        i += 2;
    return i;
}

/* Where it begins: a decimal point and a sign in front belong to it when nothing stands before them. */
static size_t number_begin(const char *s, size_t from, size_t i)
{
    if (i > from && s[i - 1] == '.' && (i == 1 || (!alnum(s[i - 2]) && s[i - 2] != '.')))
        i--;
    if (i > from && (s[i - 1] == '-' || s[i - 1] == '+') &&
        (i == 1 || blank(s[i - 2]) || memchr("([{=,:;<>", s[i - 2], 9)))
        i--;
    return i;
}

enum { LONGEST_BOX = 4096 }; /* bytes; keeps text that opens boxes without end linear */

/* Behind the closing brace of the group that opens at i, or 0. */
static size_t brace_end(const char *s, size_t n, size_t i)
{
    int depth = 0;
    for (n = n - i > LONGEST_BOX ? i + LONGEST_BOX : n; i < n; i++) {
        if (s[i] == '\\' && i + 1 < n)
            i++;
        else if (s[i] == '{')
            depth++;
        else if (s[i] == '}' && --depth == 0)
            return i + 1;
    }
    return 0;
}

static bool is_boxed(const char *s, size_t n, size_t i)
{
    return n - i > 7 && memcmp(s + i, "\\boxed{", 7) == 0;
}

/* Behind the closing \) or \] of the mathematics that opens at i, or 0. Only \[ may cross an empty line. */
static size_t bracket_end(const char *s, size_t n, size_t i)
{
    char open = s[i + 1], close = open == '(' ? ')' : ']';
    for (i += 2; i + 1 < n; i++) {
        if (s[i] == '\n' && open == '(' && empty_line(s, n, i))
            return 0;
        if (s[i] != '\\')
            continue;
        if (s[i + 1] == close)
            return i + 2;
        if (s[i + 1] == open)
            return 0; /* the other one opens; this one was lost */
        i++;
    }
    return 0;
}

/* Behind the closing dollar(s), or 0. */
static size_t dollar_end(const char *s, size_t n, size_t i)
{
    bool two = i + 1 < n && s[i + 1] == '$';
    size_t from = i + (two ? 2 : 1);
    if (from >= n || (!two && blank(s[from])))
        return 0;
    for (i = from; i < n; i++) {
        if (s[i] == '\n' && empty_line(s, n, i))
            return 0;
        if (s[i] == '\\') {
            i++;
        } else if (s[i] == '$' && two) {
            if (i + 1 < n && s[i + 1] == '$' && i > from)
                return i + 2;
        } else if (s[i] == '$') {
            if (blank(s[i - 1]))
                return 0;
            return i > from && !(i + 1 < n && digit(s[i + 1])) ? i + 1 : 0;
        }
    }
    return 0;
}

static void add(struct lingua_spans *out, size_t b, size_t e, int kind)
{
    ROOM(out->v, out->cap, out->n + 1);
    out->v[out->n++] = (struct lingua_span){ (uint32_t)b, (uint32_t)e, kind };
}

static bool holds_boxed(const char *s, size_t b, size_t e)
{
    for (size_t i = b; i < e; i++)
        if (s[i] == '\\' && is_boxed(s, e, i))
            return true;
    return false;
}

/* What opens at i, if anything does: its end, or 0. */
static size_t math_end(const char *s, size_t n, size_t i, int *kind)
{
    *kind = SPAN_MATH;
    if (s[i] == '$')
        return dollar_end(s, n, i);
    if (s[i] != '\\' || i + 1 >= n)
        return 0;
    if (s[i + 1] == '(' || s[i + 1] == '[')
        return bracket_end(s, n, i);
    if (is_boxed(s, n, i)) {
        *kind = SPAN_BOXED;
        return brace_end(s, n, i + 6);
    }
    return 0;
}

void lingua_spans(const char *s, size_t n, struct lingua_spans *out)
{
    size_t from = 0; /* behind the last span */
    out->n = 0;
    for (size_t i = 0; i < n;) {
        int kind;
        size_t end = math_end(s, n, i, &kind);
        if (end) {
            if (kind == SPAN_MATH && holds_boxed(s, i, end))
                kind |= SPAN_BOXED;
            add(out, i, end, kind);
            i = from = end;
        } else if (digit(s[i])) {
            end = number_end(s, n, i);
            add(out, number_begin(s, from, i), end, SPAN_NUMBER);
            i = from = end;
        } else {
            i += s[i] == '\\' && i + 1 < n && !digit(s[i + 1]) && !alnum(s[i + 1]) ? 2 : 1;
        }
    }
}
