/* answer_compat.c - the reference's extraction and scoring, faults included. Python's re and str methods are restated
 * by hand; nothing here is called unless someone asks for --compat. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "task/answer_private.h"

/* ---- Python's idea of white space ---- */

/* Length of the white-space character at s (str.isspace), 0 if there is none. */
static size_t py_space(const char *s, size_t n)
{
    uint32_t cp;
    size_t len = (size_t)utf8_decode(s, n, &cp);
    if (!len)
        return 0;
    bool space = (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
                 (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
                 cp == 0x3000;
    return space ? len : 0;
}

static struct span py_strip(struct span v)
{
    size_t len;
    while (v.n && (len = py_space(v.s, v.n)))
        v.s += len, v.n -= len;
    while (v.n) {
        size_t back = 1;
        while (back < v.n && back < 4 && ((unsigned char)v.s[v.n - back] & 0xc0) == 0x80)
            back++;
        if (py_space(v.s + v.n - back, back) != back)
            break;
        v.n -= back;
    }
    return v;
}

static size_t find(struct span v, size_t from, const char *word, bool fold)
{
    size_t n = strlen(word);
    for (size_t i = from; i + n <= v.n; i++) {
        struct span r = span_of(v.s + i, v.n - i);
        if (fold ? span_starts_fold(r, word) : span_starts(r, word))
            return i;
    }
    return SIZE_MAX;
}

static void put(struct buf *out, struct span v)
{
    buf_reset(out);
    buf_add(out, v.s, v.n);
}

static struct span sub(struct span v, size_t from, size_t to)
{
    return span_of(v.s + from, to - from);
}

/* ---- numbers ---- */

/* -?\d+\.?\d* (sign, dot optional) at or after from; length in *n, SIZE_MAX if none. */
static size_t find_number(struct span v, size_t from, bool sign, bool lone_dot, size_t *n)
{
    for (size_t i = from; i < v.n; i++) {
        size_t j = i;
        if (sign && v.s[j] == '-')
            j++;
        if (j >= v.n || !ch_digit(v.s[j]))
            continue;
        while (j < v.n && ch_digit(v.s[j]))
            j++;
        if (j < v.n && v.s[j] == '.' && (lone_dot || (j + 1 < v.n && ch_digit(v.s[j + 1])))) {
            j++;
            while (j < v.n && ch_digit(v.s[j]))
                j++;
        }
        *n = j - i;
        return i;
    }
    return SIZE_MAX;
}

static double to_double(struct span v)
{
    char *s = xstrndup(v.s, v.n);
    double d = strtod(s, NULL); /* no program here sets a locale */
    free(s);
    return d;
}

static void without_commas(struct span v, struct buf *out)
{
    buf_reset(out);
    for (size_t i = 0; i < v.n; i++)
        if (v.s[i] != ',')
            buf_putc(out, v.s[i]);
}

/* ---- extract_boxed_or_numeric_answer ---- */

/* The last \boxed{X} whose X is not empty and has no braces. */
static bool flat_box(struct span v, struct span *out)
{
    bool found = false;
    for (size_t i = 0; (i = find(v, i, "\\boxed{", false)) != SIZE_MAX;) {
        size_t j = i + 7;
        while (j < v.n && v.s[j] != '{' && v.s[j] != '}')
            j++;
        if (j < v.n && v.s[j] == '}' && j > i + 7) {
            *out = sub(v, i + 7, j);
            found = true;
            i = j + 1;
        } else {
            i += 7;
        }
    }
    return found;
}

/* The number of an answer: the first one behind the last split, the last one without a split. */
static int put_number(struct span part, bool split, struct buf *out)
{
    struct buf plain = BUF_INIT;
    without_commas(part, &plain);
    part = span_of(plain.s, plain.len);
    size_t len = 0, at = find_number(part, 0, true, true, &len), best = at, best_len = len;
    while (at != SIZE_MAX && !split) {
        best = at;
        best_len = len;
        at = find_number(part, at + len, true, true, &len);
    }
    buf_reset(out);
    if (best != SIZE_MAX) {
        struct span num = sub(part, best, best + best_len);
        const char *dot = memchr(num.s, '.', num.n);
        if (dot && dot + 1 < num.s + num.n) {
            while (num.s[num.n - 1] == '0')
                num.n--;
            if (num.s[num.n - 1] == '.')
                num.n--;
        }
        buf_add(out, num.s, num.n);
    }
    buf_release(&plain);
    return best != SIZE_MAX;
}

/* What stands behind the last of the phrases, all of v without one; ASCII case is ignored. */
static struct span behind_last(struct span v, const char *const *phrase, size_t n, bool *split)
{
    struct span part = v;
    *split = false;
    for (size_t i = 0; i < v.n; i++) {
        struct span r = span_of(v.s + i, v.n - i);
        size_t k = 0;
        while (k < n && !span_starts_fold(r, phrase[k]))
            k++;
        if (k < n) {
            size_t len = strlen(phrase[k]);
            part = span_of(r.s + len, r.n - len);
            *split = true;
            i += len - 1;
        }
    }
    return part;
}

int answer_compat_extract(const char *text, size_t n, struct buf *out)
{
    static const char *const phrase[] = { "the final answer is:", "the answer is" };
    struct span v = span_of(text, n), box;
    bool split;
    if (flat_box(v, &box)) {
        without_commas(py_strip(box), out);
        return 1;
    }
    struct span part = behind_last(v, phrase, 2, &split);
    return put_number(part, split, out);
}

int answer_compat_extract_paper(const char *text, size_t n, struct buf *out)
{
    static const char *const phrase[] = { "answer is" };
    bool split;
    struct span part = behind_last(span_of(text, n), phrase, 1, &split);
    return put_number(part, split, out);
}

/* ---- think blocks ---- */

int answer_compat_extract_xml(const char *text, size_t n, struct buf *think, struct buf *answer)
{
    struct buf plain = BUF_INIT, none = BUF_INIT;
    struct span v;
    int found = 0;
    for (size_t i = 0; i < n;) { /* <|latent_N|> */
        size_t j = i;
        if (span_starts(span_of(text + i, n - i), "<|latent_")) {
            j = i + 9;
            while (j < n && ch_digit(text[j]))
                j++;
            j = j > i + 9 && j + 1 < n && text[j] == '|' && text[j + 1] == '>' ? j + 2 : i;
        }
        if (j == i)
            buf_putc(&plain, text[j++]);
        i = j;
    }
    v = span_of(plain.s, plain.len);
    if (!think)
        think = &none;
    buf_reset(think);
    if (answer)
        buf_reset(answer);
    size_t a = find(v, 0, "<answer>", false), a_end = a == SIZE_MAX ? a : find(v, a, "</answer>", false);
    if (a_end != SIZE_MAX) {
        found |= 1;
        if (answer)
            put(answer, py_strip(sub(v, a + 8, a_end)));
    }
    size_t t = find(v, 0, "<think>", false), c = find(v, 0, "</think>", false);
    size_t t_end = t == SIZE_MAX ? t : find(v, t, "</think>", false);
    if (t_end != SIZE_MAX) {
        put(think, py_strip(sub(v, t + 7, t_end)));
        found |= 2;
    } else if (c != SIZE_MAX && (a = find(v, c, "<answer>", false)) != SIZE_MAX) {
        struct span between = py_strip(sub(v, c + 8, a));
        put(think, between.n ? between : span_of("(latent)", 8));
        found |= 2;
    } else if (t != SIZE_MAX && (a = find(v, t, "<answer>", false)) != SIZE_MAX) {
        put(think, py_strip(sub(v, t + 7, a)));
        found |= 2;
    }
    buf_release(&plain);
    buf_release(&none);
    return found;
}

int answer_compat_think(const char *text, size_t n, struct buf *reasoning, struct buf *visible)
{
    static const char *const ends[] = { "\n\nthe final answer is:", "\nthe final answer is:", "\n\nthe answer is",
                                        "\nthe answer is" };
    struct span v = span_of(text, n), why = { NULL, 0 }, see = v;
    size_t open = find(v, 0, "<think>", false);
    size_t close = open == SIZE_MAX ? open : find(v, open + 7, "</think>", false);
    bool block = true;
    if (close != SIZE_MAX) {
        why = py_strip(sub(v, open + 7, close));
        see = py_strip(sub(v, close + 8, n));
    } else if ((close = find(v, 0, "</think>", false)) != SIZE_MAX) {
        why = py_strip(sub(v, 0, close));
        see = py_strip(sub(v, close + 8, n));
    } else {
        block = false;
        size_t end = SIZE_MAX;
        for (size_t i = 0; i < 4 && end == SIZE_MAX; i++)
            end = find(v, 0, ends[i], true);
        why = py_strip(sub(v, 0, end == SIZE_MAX ? n : end));
    }
    put(reasoning, why);
    put(visible, see);
    return block || why.n ? 3 : 1;
}

/* ---- scorers ---- */

static bool norm_equal(struct span a, struct span b)
{
    size_t i = 0, j = 0, len;
    for (;;) { /* lower case, no white space, no ASCII punctuation */
        while (i < a.n &&
               ((len = py_space(a.s + i, a.n - i)) || ((unsigned char)a.s[i] < 0x80 && !ch_alnum(a.s[i]) &&
                                                       (unsigned char)a.s[i] > 0x20 && a.s[i] != 0x7f && (len = 1))))
            i += len;
        while (j < b.n &&
               ((len = py_space(b.s + j, b.n - j)) || ((unsigned char)b.s[j] < 0x80 && !ch_alnum(b.s[j]) &&
                                                       (unsigned char)b.s[j] > 0x20 && b.s[j] != 0x7f && (len = 1))))
            j += len;
        if (i >= a.n || j >= b.n)
            return i >= a.n && j >= b.n;
        if (ch_lower(a.s[i++]) != ch_lower(b.s[j++]))
            return false;
    }
}

bool answer_compat_exact(const char *answer, size_t n, const char *gold, size_t gold_n)
{
    return norm_equal(span_of(answer, n), span_of(gold, gold_n));
}

bool answer_compat_math(const char *answer, size_t n, const char *gold, size_t gold_n)
{
    static const char *const intros[] = { "The answer is", "Answer", "Final answer", "Therefore,", "Thus," };
    struct span a = span_of(answer, n), g = span_of(gold, gold_n), part = { NULL, 0 };
    size_t box = SIZE_MAX, i;
    for (i = 0; (i = find(a, i, "\\boxed{", false)) != SIZE_MAX; i += 7)
        box = i;
    if (box != SIZE_MAX) {
        size_t end, depth = 0;
        for (end = box + 6; end < a.n; end++) {
            if (a.s[end] == '{')
                depth++;
            else if (a.s[end] == '}' && --depth == 0)
                break;
        }
        part = py_strip(sub(a, box + 7, end));
    } else {
        bool found = false;
        for (size_t k = 0; k < sizeof intros / sizeof *intros && !found; k++) {
            if ((i = find(a, 0, intros[k], false)) == SIZE_MAX)
                continue;
            i += strlen(intros[k]);
            if (k < 3 && i < a.n && a.s[i] == ':')
                i++;
            size_t end = i;
            while (end < a.n && a.s[end] != '\n')
                end++;
            part = py_strip(sub(a, i, end));
            found = true;
        }
        if (!found) {
            part = py_strip(a);
            for (i = part.n; i > 0 && part.s[i - 1] != '\n'; i--)
                ;
            part = py_strip(sub(part, i, part.n));
        }
    }
    if (norm_equal(part, g))
        return true;
    size_t gn, pn, ga = find_number(g, 0, true, false, &gn), pa = find_number(part, 0, true, false, &pn);
    if (ga != 0 || gn != g.n || pa == SIZE_MAX)
        return false;
    return to_double(sub(part, pa, pa + pn)) == to_double(g);
}

bool answer_compat_gsm8k(const char *answer, size_t n, const char *gold, size_t gold_n)
{
    struct span a = span_of(answer, n), g = span_of(gold, gold_n);
    size_t an, gn, at = find_number(a, 0, false, false, &an), gt = find_number(g, 0, false, false, &gn);
    if (at != SIZE_MAX && gt != SIZE_MAX && to_double(sub(a, at, at + an)) == to_double(sub(g, gt, gt + gn)))
        return true;
    return norm_equal(a, g);
}

bool answer_compat_choice(const char *answer, size_t n, const char *gold, size_t gold_n)
{
    char found[2] = { 0, 0 };
    struct span side[2] = { span_of(answer, n), span_of(gold, gold_n) };
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < side[k].n && !found[k]; i++)
            if (ch_lower(side[k].s[i]) >= 'a' && ch_lower(side[k].s[i]) <= 'd')
                found[k] = ch_lower(side[k].s[i]);
    return found[0] && found[0] == found[1];
}

bool answer_compat_score(enum answer_task task, const char *answer, size_t n, const char *gold, size_t gold_n)
{
    switch (task) {
    case ANSWER_GSM8K:
        return answer_compat_gsm8k(answer, n, gold, gold_n);
    case ANSWER_MMLU:
        return answer_compat_choice(answer, n, gold, gold_n);
    case ANSWER_EXACT:
        return answer_compat_exact(answer, n, gold, gold_n);
    case ANSWER_MATH:
        break;
    }
    return answer_compat_math(answer, n, gold, gold_n);
}
