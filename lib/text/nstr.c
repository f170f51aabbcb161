/* nstr.c - text with alignments: for every byte, the bytes of the original text it stands for.
 *
 * The alignment rules are the reference's, oddities included (a replacement by more characters than it had counts all
 * of them as new and leaves the old one unconsumed): offsets are compared with the package's, see text_golden_test.c.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "text/parts.h"
#include "text/unicode.h"

static void al_room(struct nstr *ns, int which, size_t n)
{
    ns->als[which] = grow(ns->als[which], &ns->al_cap[which], n, sizeof **ns->als);
}

void nstr_set(struct nstr *ns, const char *s, size_t n, uint32_t shift, bool track)
{
    ns->s = s;
    ns->n = n;
    ns->shift = shift;
    ns->track = track;
    ns->cur = 0;
    if (!track)
        return;
    al_room(ns, 0, n + 1);
    ns->al = ns->als[0];
    for (size_t i = 0; i < n;) {
        size_t len = (size_t)uni_len((unsigned char)s[i]);
        struct span al = { shift + (uint32_t)i, shift + (uint32_t)(i + len) };
        for (size_t k = 0; k < len && i < n; k++)
            ns->al[i++] = al;
    }
}

void nstr_release(struct nstr *ns)
{
    buf_release(&ns->buf[0]);
    buf_release(&ns->buf[1]);
    free(ns->als[0]);
    free(ns->als[1]);
    memset(ns, 0, sizeof *ns);
}

void nstr_begin(struct nstr *ns, size_t removed)
{
    buf_reset(&ns->buf[!ns->cur]);
    ns->al_n = 0;
    ns->idx = 0;
    while (removed-- && ns->idx < ns->n)
        ns->idx += (size_t)uni_len((unsigned char)ns->s[ns->idx]);
}

void nstr_add(struct nstr *ns, const char *s, size_t n, struct span al)
{
    int to = !ns->cur;
    buf_add(&ns->buf[to], s, n);
    if (ns->track) {
        al_room(ns, to, ns->al_n + n + 1);
        for (size_t i = 0; i < n; i++)
            ns->als[to][ns->al_n++] = al;
    }
}

void nstr_copy(struct nstr *ns, size_t from, size_t end)
{
    int to = !ns->cur;
    buf_add(&ns->buf[to], ns->s + from, end - from);
    if (ns->track) {
        al_room(ns, to, ns->al_n + (end - from) + 1);
        if (end > from)
            memcpy(ns->als[to] + ns->al_n, ns->al + from, (end - from) * sizeof *ns->al);
        ns->al_n += end - from;
    }
}

void nstr_put(struct nstr *ns, uint32_t cp, long change)
{
    char c[4];
    int len = utf8_encode(cp, c);
    struct span al = { ns->shift, ns->shift };
    if (ns->track && ns->n) {
        if (change <= 0)
            al = ns->al[ns->idx < ns->n ? ns->idx : ns->n - 1];
        else if (ns->idx > 0)
            al = ns->al[(ns->idx < ns->n ? ns->idx : ns->n) - 1];
    }
    for (; change <= 0 && ns->idx < ns->n; change++)
        ns->idx += (size_t)uni_len((unsigned char)ns->s[ns->idx]);
    nstr_add(ns, c, (size_t)len, al);
}

void nstr_keep(struct nstr *ns, const char *s, size_t n)
{
    if (s != ns->s + ns->idx) { /* what is written is no longer what is read: one by one */
        for (size_t i = 0; i < n; i++)
            nstr_put(ns, (unsigned char)s[i], 0);
        return;
    }
    nstr_copy(ns, ns->idx, ns->idx + n);
    ns->idx += n;
}

void nstr_end(struct nstr *ns)
{
    ns->cur = !ns->cur;
    ns->s = ns->buf[ns->cur].s ? ns->buf[ns->cur].s : "";
    ns->n = ns->buf[ns->cur].len;
    ns->al = ns->als[ns->cur];
}

/* ---- canonical and compatibility forms ---- */

struct nchar {
    uint32_t cp;
    int ccc;
    long change;
};

struct run {
    struct nchar *c; /* decomposed characters, canonical order */
    size_t n, cap;
    size_t sorted; /* c[sorted..n) is the run of marks that is still growing */
};

static void run_push(struct run *r, uint32_t cp, long change)
{
    r->c = grow(r->c, &r->cap, r->n + 1, sizeof *r->c);
    int ccc = cp < 0x300 ? 0 : utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
    r->c[r->n++] = (struct nchar){ cp, ccc, change };
}

static int by_class(const void *a, const void *b)
{
    const struct nchar *x = a, *y = b;
    return x->ccc - y->ccc;
}

/* Stable sort of the marks after the last starter. */
static void run_sort(struct run *r, struct run *tmp)
{
    size_t b = r->sorted, n = r->n - b;
    r->sorted = r->n;
    if (n < 2)
        return;
    if (n <= 32) {
        for (size_t i = b + 1; i < r->n; i++)
            for (size_t j = i; j > b && by_class(&r->c[j - 1], &r->c[j]) > 0; j--) {
                struct nchar x = r->c[j];
                r->c[j] = r->c[j - 1];
                r->c[j - 1] = x;
            }
        return;
    }
    size_t at[257] = { 0 };
    for (size_t i = b; i < r->n; i++)
        at[r->c[i].ccc + 1]++;
    for (int i = 0; i < 256; i++)
        at[i + 1] += at[i];
    tmp->c = grow(tmp->c, &tmp->cap, n, sizeof *tmp->c);
    for (size_t i = b; i < r->n; i++)
        tmp->c[at[r->c[i].ccc]++] = r->c[i];
    memcpy(r->c + b, tmp->c, n * sizeof *r->c);
}

/* Hostile text can hold one run of marks as long as itself; everything here stays linear in it. */
static void decompose(struct nstr *ns, bool compat, struct run *r)
{
    struct run tmp = { 0 };
    for (size_t i = 0; i < ns->n;) {
        uint32_t cp;
        i += (size_t)uni_get(ns->s + i, &cp);
        utf8proc_int32_t out[64];
        utf8proc_ssize_t n = 1;
        out[0] = (utf8proc_int32_t)cp;
        if (cp >= 0x80) {
            int last = 0;
            n = utf8proc_decompose_char((utf8proc_int32_t)cp, out, 64,
                                        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0), &last);
            if (n <= 0 || n > 64) {
                out[0] = (utf8proc_int32_t)cp;
                n = 1;
            }
        }
        for (utf8proc_ssize_t k = 0; k < n; k++) {
            run_push(r, (uint32_t)out[k], k > 0);
            if (r->c[r->n - 1].ccc == 0) {
                r->n--;
                struct nchar starter = r->c[r->n];
                run_sort(r, &tmp);
                r->c[r->n++] = starter;
                r->sorted = r->n;
            }
        }
    }
    run_sort(r, &tmp);
    free(tmp.c);
}

static bool may_follow(uint32_t c) /* can it be the second of a composition? */
{
    return c >= 0x300 && !(c >= 0x3400 && c < 0xa000) && !(c >= 0xac00 && c < 0xe000);
}

static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (!may_follow(b))
        return 0;
    if (a >= 0x1100 && a < 0x1113 && b >= 0x1161 && b < 0x1176)
        return 0xac00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
    if (a >= 0xac00 && a < 0xd7a4 && (a - 0xac00) % 28 == 0)
        return b > 0x11a7 && b < 0x11c3 ? a + (b - 0x11a7) : 0;
    const utf8proc_property_t *pa = utf8proc_get_property((utf8proc_int32_t)a);
    const utf8proc_property_t *pb = utf8proc_get_property((utf8proc_int32_t)b);
    if (pa->comb_index == UINT16_MAX || pb->comb_index == UINT16_MAX)
        return 0;
    utf8proc_int32_t pair[3] = { (utf8proc_int32_t)a, (utf8proc_int32_t)b, 0 };
    utf8proc_ssize_t n = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return n == 1 ? (uint32_t)pair[0] : 0;
}

static void put_run(struct nstr *ns, const struct nchar *c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        nstr_put(ns, c[i].cp, c[i].change);
}

/* Canonical composition (UAX #15) over the decomposed characters; a composite's change is the sum less one. */
static void recompose(struct nstr *ns, struct run *r)
{
    struct run marks = { 0 };
    struct nchar starter = { 0, 0, 0 };
    bool have = false;
    int last = -1; /* class of the last mark that stayed */
    for (size_t i = 0; i < r->n; i++) {
        struct nchar c = r->c[i];
        if (!have) {
            if (c.ccc != 0) {
                nstr_put(ns, c.cp, c.change);
            } else {
                starter = c;
                have = true;
            }
            continue;
        }
        uint32_t whole = last < 0 || last < c.ccc ? compose_pair(starter.cp, c.cp) : 0;
        if (whole) {
            starter.cp = whole;
            starter.change += c.change - 1;
        } else if (c.ccc == 0) {
            nstr_put(ns, starter.cp, starter.change);
            put_run(ns, marks.c, marks.n);
            marks.n = 0;
            last = -1;
            starter = c;
        } else {
            marks.c = grow(marks.c, &marks.cap, marks.n + 1, sizeof *marks.c);
            marks.c[marks.n++] = c;
            last = c.ccc;
        }
    }
    if (have)
        nstr_put(ns, starter.cp, starter.change);
    put_run(ns, marks.c, marks.n);
    free(marks.c);
}

void nstr_normalize(struct nstr *ns, bool compose, bool compat)
{
    unsigned char limit = compose && !compat ? 0xcc : 0x80; /* below U+0300 NFC changes nothing */
    size_t i = 0;
    while (i < ns->n && (unsigned char)ns->s[i] < limit)
        i++;
    if (i == ns->n)
        return;
    struct run r = { 0 };
    decompose(ns, compat, &r);
    nstr_begin(ns, 0);
    if (compose)
        recompose(ns, &r);
    else
        put_run(ns, r.c, r.n);
    nstr_end(ns);
    free(r.c);
}
