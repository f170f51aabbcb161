/* template_lex.c - the tokens inside a tag of a chat template, by Jinja2's lexical rules. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/template_parser.h"

void template_fail(struct err *e, const struct chat_template *t, int line, const char *fmt, ...)
{
    char msg[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    err_set(e, "%s:%d: %s", t->name, line, msg);
}

/* ---- characters ---- */

static bool word_char(char c)
{
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (unsigned char)c >= 0x80;
}

void lex_advance(struct parser *p, size_t to)
{
    for (; p->at < to; p->at++)
        p->line += p->s[p->at] == '\n';
}

static bool looking_at(const struct parser *p, const char *what)
{
    size_t k = strlen(what);
    return p->n - p->at >= k && memcmp(p->s + p->at, what, k) == 0;
}

/* ---- tokens inside a tag ---- */

static int hex_digits(const char *s, int n, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) {
        char c = s[i];
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else
            return -1;
    }
    *out = v;
    return 0;
}

/* Python's escapes. s[*i] is behind the backslash. */
static int unescape(struct parser *p, const char *s, size_t n, size_t *i, struct buf *out)
{
    static const char from[] = "ntr\\'\"abfv0", to[] = "\n\t\r\\'\"\a\b\f\v";
    char c = s[(*i)++];
    const char *k = strchr(from, c);
    if (c == '\n')
        return 0;
    if (k && *k && c != '0') {
        buf_putc(out, to[k - from]);
        return 0;
    }
    if (c == '0' && !(*i < n && s[*i] >= '0' && s[*i] <= '7')) {
        buf_putc(out, '\0');
        return 0;
    }
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits) {
        uint32_t cp;
        char utf8[4];
        if (n - *i < (size_t)digits || hex_digits(s + *i, digits, &cp) < 0 || cp > 0x10ffff ||
            (cp >= 0xd800 && cp < 0xe000))
            return fail(p, "bad \\%c escape in a text", c);
        *i += (size_t)digits;
        buf_add(out, utf8, (size_t)utf8_encode(cp, utf8));
        return 0;
    }
    if ((c >= '0' && c <= '7') || c == 'N')
        return fail(p, "escape \\%c in a text is not supported", c);
    buf_putc(out, '\\');
    buf_putc(out, c);
    return 0;
}

static int lex_string(struct parser *p)
{
    char quote = p->s[p->at];
    struct buf out = BUF_INIT;
    size_t i = p->at + 1;
    int rc = 0;
    while (rc == 0 && i < p->n && p->s[i] != quote) {
        if (p->s[i] == '\\' && i + 1 < p->n) {
            i++;
            rc = unescape(p, p->s, p->n, &i, &out);
        } else {
            buf_putc(&out, p->s[i++]);
        }
    }
    if (rc == 0 && i >= p->n)
        rc = fail(p, "a text in quotes has no end");
    if (rc == 0) {
        p->tok.kind = T_STR;
        p->tok.s = (struct str){ arena_strndup(&p->t->arena, out.s, out.len), (uint32_t)out.len };
        lex_advance(p, i + 1);
    }
    buf_release(&out);
    return rc;
}

static int lex_number(struct parser *p)
{
    char text[400];
    size_t i = p->at, k = 0;
    bool real = false;
    while (i < p->n && k < sizeof text - 1) {
        char c = p->s[i];
        if ((c >= '0' && c <= '9') || c == '_') {
            if (c != '_')
                text[k++] = c;
        } else if (c == '.' && !real && i + 1 < p->n && p->s[i + 1] >= '0' && p->s[i + 1] <= '9') {
            real = true;
            text[k++] = c;
        } else if ((c == 'e' || c == 'E') && i + 1 < p->n &&
                   ((p->s[i + 1] >= '0' && p->s[i + 1] <= '9') ||
                    ((p->s[i + 1] == '-' || p->s[i + 1] == '+') && i + 2 < p->n && p->s[i + 2] >= '0' &&
                     p->s[i + 2] <= '9'))) {
            real = true;
            text[k++] = c;
            text[k++] = p->s[++i];
        } else {
            break;
        }
        i++;
    }
    text[k] = '\0';
    errno = 0;
    if (real) {
        p->tok.kind = T_FLOAT;
        p->tok.f = strtod(text, NULL);
    } else {
        p->tok.kind = T_INT;
        p->tok.i = strtoll(text, NULL, 10);
        if (errno == ERANGE)
            return fail(p, "number %s is too large", text);
    }
    lex_advance(p, i);
    return 0;
}

static int lex_op(struct parser *p)
{
    static const char *const ops[] = { "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "|",
                                       "(",  ")",  "[",  "]",  "{",  "}",  ",", ":", ".", "=", "<", ">" };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (looking_at(p, ops[i])) {
            char c = ops[i][0];
            p->tok.kind = T_OP;
            p->tok.s = (struct str){ ops[i], (uint32_t)strlen(ops[i]) };
            p->brackets += c == '(' || c == '[' || c == '{';
            p->brackets -= c == ')' || c == ']' || c == '}';
            lex_advance(p, p->at + p->tok.s.n);
            return 0;
        }
    unsigned char c = (unsigned char)p->s[p->at];
    return c >= 0x20 && c < 0x7f ? fail(p, "unexpected character '%c'", c) : fail(p, "unexpected byte 0x%02x", c);
}

/* The end of the tag, with what it swallows behind it. */
static bool lex_tag_end(struct parser *p)
{
    const char *end = p->variable ? "}}" : "%}";
    char with[4] = { p->s[p->at], end[0], end[1], 0 };
    if (p->brackets > 0)
        return false;
    bool strip = with[0] == '-' && looking_at(p, with), keep = !p->variable && with[0] == '+' && looking_at(p, with);
    if (!strip && !keep && !looking_at(p, end))
        return false;
    lex_advance(p, p->at + 2 + (strip || keep));
    if (strip)
        while (p->at < p->n && blank(p->s[p->at]))
            lex_advance(p, p->at + 1);
    else if (!keep && !p->variable && p->at < p->n && p->s[p->at] == '\n')
        lex_advance(p, p->at + 1);
    p->line_start = p->at > 0 && p->s[p->at - 1] == '\n';
    p->tok.kind = T_TAG_END;
    p->in_tag = false;
    return true;
}

int lex_next(struct parser *p)
{
    while (p->at < p->n && blank(p->s[p->at]))
        lex_advance(p, p->at + 1);
    if (p->at >= p->n)
        return fail(p, "the template ends inside a tag");
    if (lex_tag_end(p))
        return 0;
    char c = p->s[p->at];
    if (c == '\'' || c == '"')
        return lex_string(p);
    if (c >= '0' && c <= '9')
        return lex_number(p);
    if (word_char(c)) {
        size_t i = p->at;
        while (i < p->n && word_char(p->s[i]))
            i++;
        p->tok.kind = T_NAME;
        p->tok.s = (struct str){ p->s + p->at, (uint32_t)(i - p->at) };
        lex_advance(p, i);
        return 0;
    }
    return lex_op(p);
}

int lex_unexpected(struct parser *p, const char *wanted)
{
    switch (p->tok.kind) {
    case T_TAG_END:
        return fail(p, "expected %s, found the end of the tag", wanted);
    case T_STR:
        return fail(p, "expected %s, found a text", wanted);
    case T_INT:
    case T_FLOAT:
        return fail(p, "expected %s, found a number", wanted);
    default:
        return fail(p, "expected %s, found \"%.*s\"", wanted, (int)(p->tok.s.n < 100 ? p->tok.s.n : 100), p->tok.s.s);
    }
}

int lex_expect_op(struct parser *p, const char *op)
{
    char wanted[16];
    snprintf(wanted, sizeof wanted, "\"%s\"", op);
    return is_op(p, op) ? lex_next(p) : lex_unexpected(p, wanted);
}
