/* regex.c - Oniguruma's Ruby dialect, in which tokenizer files write their patterns, run by PCRE2.
 *
 * Spelled differently and translated here: \s \S \w \W (Unicode's White_Space and word characters; PCRE2's own differ
 * in U+180E and in combining marks), \h \H (a hex digit), (?m) (dot matches newline), ^ and $ (always per line). Nested
 * classes and && inside classes have no equal in PCRE2 10.42 and are refused. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "text/parts.h"

#define SPACE                                                                                                          \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                                      \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define HEX "0-9A-Fa-f"

/* Bounds of one match: far above what tokenizer patterns need on text, low enough to end in a second. */
enum { MATCH_LIMIT = 50000000, DEPTH_LIMIT = 1000000, HEAP_LIMIT_KIB = 262144, JIT_STACK_MAX = 8 << 20 };

struct regex {
    pcre2_code *code;
    bool jit;
};

struct match_memory {
    pcre2_match_data *data;
    pcre2_match_context *ctx;
    pcre2_jit_stack *stack;
};

static int put_class(struct buf *out, bool in_class, const char *positive, const char *negative, struct err *e, char c)
{
    if (in_class) {
        if (!positive)
            return err_set(e, "\\%c inside a character class is not supported", c);
        buf_puts(out, positive);
    } else {
        buf_puts(out, positive ? "[" : "[^");
        buf_puts(out, positive ? positive : negative);
        buf_puts(out, "]");
    }
    return 0;
}

static int translate_escape(struct buf *out, const char *p, size_t n, size_t *i, bool in_class, struct err *e)
{
    if (n - *i < 2)
        return err_set(e, "the pattern ends in a backslash");
    char c = p[*i + 1];
    *i += 2;
    switch (c) {
    case 's':
        return put_class(out, in_class, SPACE, NULL, e, c);
    case 'S':
        return put_class(out, in_class, NOT_SPACE, NULL, e, c);
    case 'w':
        return put_class(out, in_class, WORD, NULL, e, c);
    case 'W':
        return put_class(out, in_class, NULL, WORD, e, c);
    case 'h':
        return put_class(out, in_class, HEX, NULL, e, c);
    case 'H':
        return put_class(out, in_class, NULL, HEX, e, c);
    default:
        buf_putc(out, '\\');
        buf_putc(out, c);
        return 0;
    }
}

/* (?imx-imx) and (?imx-imx: in Ruby's letters. p[i] is behind "(?". */
static size_t translate_flags(struct buf *out, const char *p, size_t n, size_t i)
{
    size_t j = i;
    while (j < n && strchr("imx-", p[j]) && p[j])
        j++;
    if (j == i || j == n || (p[j] != ':' && p[j] != ')'))
        return i;
    for (; i < j; i++)
        buf_putc(out, p[i] == 'm' ? 's' : p[i]);
    return j;
}

static int translate(struct buf *out, const char *p, size_t n, struct err *e)
{
    bool in_class = false;
    size_t begin = 0;
    for (size_t i = 0; i < n;) {
        char c = p[i];
        if (c == '\\') {
            if (translate_escape(out, p, n, &i, in_class, e) < 0)
                return -1;
            continue;
        }
        if (in_class) {
            if (c == '[' && !(i + 1 < n && p[i + 1] == ':'))
                return err_set(e, "a character class inside a class is not supported");
            if (c == '&' && i + 1 < n && p[i + 1] == '&')
                return err_set(e, "&& inside a class is not supported");
            if (c == '[') { /* [:alpha:] */
                const char *end = memchr(p + i, ']', n - i);
                size_t len = end ? (size_t)(end - p) - i + 1 : 1;
                buf_add(out, p + i, len);
                i += len;
                continue;
            }
            if (c == ']' && i > begin)
                in_class = false;
        } else if (c == '[') {
            in_class = true;
            begin = i + 1;
            if (begin < n && p[begin] == '^')
                begin++;
            buf_add(out, p + i, begin - i);
            i = begin;
            continue;
        } else if (c == '(' && i + 1 < n && p[i + 1] == '?') {
            buf_puts(out, "(?");
            i = translate_flags(out, p, n, i + 2);
            continue;
        }
        buf_putc(out, c);
        i++;
    }
    return 0;
}

int regex_open(struct regex **out, const char *pattern, size_t n, struct err *e)
{
    struct buf text = BUF_INIT;
    if (n > 65536)
        return err_set(e, "a pattern of %zu bytes is longer than 65536", n);
    if (translate(&text, pattern, n, e) < 0) {
        buf_release(&text);
        return err_prefix(e, "pattern \"%.*s\"", (int)(n < 200 ? n : 200), pattern);
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    if (ctx)
        pcre2_set_parens_nest_limit(ctx, 100);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)(text.s ? text.s : ""), text.len,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, ctx);
    pcre2_compile_context_free(ctx);
    buf_release(&text);
    if (!re) {
        PCRE2_UCHAR msg[200];
        pcre2_get_error_message(code, msg, sizeof msg);
        return err_set(e, "pattern \"%.*s\": %s", (int)(n < 200 ? n : 200), pattern, (char *)msg);
    }
    struct regex *r = xcalloc(1, sizeof *r);
    r->code = re;
    r->jit = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
    *out = r;
    return 0;
}

void regex_close(struct regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r);
}

static struct match_memory *memory(void **md, struct err *e)
{
    struct match_memory *m = *md;
    if (m)
        return m;
    m = xcalloc(1, sizeof *m);
    m->data = pcre2_match_data_create(1, NULL);
    m->ctx = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32768, JIT_STACK_MAX, NULL);
    *md = m;
    if (!m->data || !m->ctx) {
        err_set(e, "out of memory for matching patterns");
        return NULL;
    }
    pcre2_set_match_limit(m->ctx, MATCH_LIMIT);
    pcre2_set_depth_limit(m->ctx, DEPTH_LIMIT);
    pcre2_set_heap_limit(m->ctx, HEAP_LIMIT_KIB);
    if (m->stack)
        pcre2_jit_stack_assign(m->ctx, NULL, m->stack);
    return m;
}

void regex_scratch_free(void *md)
{
    struct match_memory *m = md;
    if (!m)
        return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->ctx);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

int regex_find(const struct regex *r, void **md, const char *s, size_t n, size_t from, size_t *b, size_t *end,
               struct err *e)
{
    struct match_memory *m = memory(md, e);
    if (!m)
        return -1;
    int rc;
    if (r->jit)
        rc = pcre2_jit_match(r->code, (PCRE2_SPTR)s, n, from, 0, m->data, m->ctx);
    else
        rc = pcre2_match(r->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->data, m->ctx);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(r->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->ctx);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        PCRE2_UCHAR msg[200];
        pcre2_get_error_message(rc, msg, sizeof msg);
        return err_set(e, "a pattern stopped at byte %zu of the text: %s", from, (char *)msg);
    }
    PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
    *b = o[0];
    *end = o[1];
    if (*end < *b || *b < from)
        return err_set(e, "a pattern matched backwards at byte %zu of the text", from);
    return 1;
}
