/* answer_extract.c - where in a response the answer stands.
 *
 * Candidates have ranks; inside a rank the last one by position wins, so a later self-correction counts:
 *   a  \boxed{..} or \fbox{..} (neighbours joined to a list), "final answer is X"
 *   b  "the answer is X", "answer: X", "#### X", a line "A: X", <answer>X</answer>
 *   c  the last math block, behind its last =
 *   d  the last number; for choices the last lone capital letter
 * Everything is a span into the text and every scan is linear: searches go backward from the end, over a bounded number
 * of anchors, and no box or sentence is followed further than REACH bytes. */
#include <string.h>

#include "base/mem.h"
#include "task/answer_private.h"

enum { REACH = 1 << 14, ANCHORS = 32, BOXES = 64 };

/* ---- spans ---- */

struct span span_strip(struct span v)
{
    while (v.n && ch_space(v.s[0]))
        v.s++, v.n--;
    while (v.n && ch_space(v.s[v.n - 1]))
        v.n--;
    return v;
}

bool span_starts(struct span v, const char *s)
{
    size_t n = strlen(s);
    return v.n >= n && memcmp(v.s, s, n) == 0;
}

bool span_is(struct span v, const char *s)
{
    return v.n == strlen(s) && span_starts(v, s);
}

bool span_starts_fold(struct span v, const char *s)
{
    size_t i = 0;
    for (; s[i]; i++)
        if (i >= v.n || ch_lower(v.s[i]) != s[i])
            return false;
    return true;
}

bool span_is_fold(struct span v, const char *s)
{
    return v.n == strlen(s) && span_starts_fold(v, s);
}

static struct span span_from(struct span v, size_t i)
{
    return span_of(v.s + i, v.n - i);
}

static struct span span_sub(struct span v, size_t from, size_t to)
{
    return span_of(v.s + from, to - from);
}

bool span_braced(struct span v, size_t open, struct span *inner, size_t *end)
{
    size_t depth = 0, i = open, stop = v.n - open > REACH ? open + REACH : v.n;
    for (; i < stop; i++) {
        if (v.s[i] == '\\' && i + 1 < stop) {
            i++; /* \{ and \} are set braces, and come in pairs of their own */
        } else if (v.s[i] == '{') {
            depth++;
        } else if (v.s[i] == '}' && --depth == 0) {
            *inner = span_sub(v, open + 1, i);
            *end = i + 1;
            return true;
        }
    }
    for (i = open + 1; i < stop && v.s[i] != '\n' && !(v.s[i] == '$' && v.s[i - 1] != '\\'); i++)
        ;
    *inner = span_sub(v, open + 1, i);
    *end = i;
    return false;
}

static bool is_escaped(struct span v, size_t i)
{
    size_t k = 0;
    while (k < i && v.s[i - 1 - k] == '\\')
        k++;
    return k % 2 == 1;
}

/* ---- text that was escaped once too often ---- */

static bool escaped_word(struct span v, const char *const *words, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (span_starts(v, words[k]))
            return true;
    return false;
}

bool answer_unescape(struct span v, struct buf *out)
{
    static const char *const known[] = { "boxed", "frac", "dfrac", "tfrac", "left", "text", "sqrt", "begin", "pi",
                                         "(",     "[",    "circ",  "times", "cdot", "!",    "$",    "mbox",  "{" };
    static const char *const single[] = { "text",  "times", "tfrac", "theta", "neq", "ne",
                                          "right", "nu",    "tan",   "to",    "rm" };
    bool doubled = false;
    for (size_t i = 0; i < v.n;) {
        size_t run = 0;
        while (i + run < v.n && v.s[i + run] == '\\')
            run++;
        if (!run) {
            i++;
            continue;
        }
        struct span next = span_from(v, i + run);
        if (run % 2) {
            if (run > 1 || !next.n || !strchr("ntr\"'", next.s[0]) ||
                escaped_word(next, single, sizeof single / sizeof *single))
                return false;
        } else if (escaped_word(next, known, sizeof known / sizeof *known)) {
            doubled = true;
        }
        i += run;
    }
    if (!doubled)
        return false;
    buf_reset(out);
    for (size_t i = 0; i < v.n; i++) {
        char next = i + 1 < v.n ? v.s[i + 1] : 0;
        if (v.s[i] != '\\') {
            buf_putc(out, v.s[i]);
        } else {
            i++;
            buf_putc(out, next == 'n' || next == 'r' ? '\n' : next == 't' ? ' ' : next);
        }
    }
    return true;
}

/* ---- the part of the response that counts ---- */

static size_t find_last(struct span v, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = v.n >= n ? v.n - n + 1 : 0; i-- > 0;)
        if (v.s[i] == word[0] && memcmp(v.s + i, word, n) == 0)
            return i;
    return SIZE_MAX;
}

static struct span search_area(struct span v)
{
    static const char *const markers[] = { "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>" };
    if (v.n > ANSWER_MAX_RESPONSE)
        v = span_from(v, v.n - ANSWER_MAX_RESPONSE);
    size_t think = find_last(v, "</think>");
    if (think != SIZE_MAX && span_strip(span_from(v, think + 8)).n)
        v = span_from(v, think + 8);
    for (size_t i = 0; i < v.n; i++) {
        if (v.s[i] != '<')
            continue;
        for (size_t m = 0; m < sizeof markers / sizeof *markers; m++)
            if (span_starts(span_from(v, i), markers[m]) && span_strip(span_sub(v, 0, i)).n)
                return span_sub(v, 0, i);
    }
    return v;
}

/* ---- boxes ---- */

struct box {
    size_t at, end; /* of the whole \boxed{..} */
    struct span in;
};

/* Is there a box command at i? Returns the offset behind its name, 0 if not. */
static size_t box_name(struct span v, size_t i)
{
    static const char *const names[] = { "\\boxed", "\\fbox", "\\framebox" };
    if (v.s[i] != '\\')
        return 0;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        size_t n = strlen(names[k]);
        if (span_starts(span_from(v, i), names[k]) && (i + n >= v.n || !ch_alpha(v.s[i + n])))
            return i + n;
    }
    return 0;
}

static bool box_read(struct span v, size_t at, struct box *b)
{
    size_t i = box_name(v, at);
    if (!i)
        return false;
    while (i < v.n && ch_space(v.s[i]))
        i++;
    if (i >= v.n)
        return false;
    b->at = at;
    if (v.s[i] == '{') {
        span_braced(v, i, &b->in, &b->end);
    } else { /* one token: a control word, or what stands together */
        size_t j = i;
        if (v.s[j] == '\\') {
            j++;
            while (j < v.n && ch_alpha(v.s[j]))
                j++;
        } else {
            while (j < v.n && (ch_alnum(v.s[j]) || v.s[j] == '.' || v.s[j] == '-' || v.s[j] == '/'))
                j++;
            while (j > i && v.s[j - 1] == '.')
                j--;
        }
        b->in = span_sub(v, i, j);
        b->end = j;
    }
    b->in = span_strip(b->in);
    return b->in.n > 0;
}

/* Offset behind one separator at i (white space, comma, "and", \quad, math delimiter ...), or i if there is none. */
static size_t skip_separator(struct span v, size_t i)
{
    static const char *const words[] = { "\\qquad", "\\quad", "\\\\", "\\(", "\\)", "\\[", "\\]", "\\,", "\\;",
                                         "\\ ",     "\\!",    "and",  "or",  "$",   ",",   ";",   "&",   "~" };
    static const char *const boxes[] = { "\\text", "\\mbox", "\\textrm", "\\mathrm", "\\textnormal" };
    if (i >= v.n)
        return i;
    if (ch_space(v.s[i]))
        return i + 1;
    struct span rest = span_from(v, i);
    for (size_t k = 0; k < sizeof words / sizeof *words; k++)
        if (span_starts(rest, words[k])) {
            size_t n = strlen(words[k]);
            if (ch_alpha(words[k][n - 1]) && rest.n > n && ch_alpha(rest.s[n]))
                continue;
            return i + n;
        }
    for (size_t k = 0; k < sizeof boxes / sizeof *boxes; k++) {
        size_t n = strlen(boxes[k]), end;
        struct span in;
        if (!span_starts(rest, boxes[k]) || n >= rest.n || rest.s[n] != '{')
            continue;
        if (!span_braced(rest, n, &in, &end))
            return i;
        in = span_strip(in);
        if (span_is(in, "and") || span_is(in, "or") || span_is(in, ",") || in.n == 0)
            return i + end;
    }
    return i;
}

/* A label such as "y_2 =" at i; returns the offset behind it, i if there is none. */
static size_t skip_label(struct span v, size_t i)
{
    size_t j = i;
    if (j >= v.n || !ch_alpha(v.s[j]))
        return i;
    j++;
    if (j < v.n && v.s[j] == '_') {
        j++;
        if (j < v.n && v.s[j] == '{') {
            struct span in;
            span_braced(v, j, &in, &j);
        } else {
            j++;
        }
    }
    while (j < v.n && ch_space(v.s[j]))
        j++;
    return j < v.n && v.s[j] == '=' ? j + 1 : i;
}

static bool only_separators(struct span v)
{
    bool label = false;
    size_t i = 0;
    while (i < v.n) {
        size_t j = skip_separator(v, i);
        if (j == i && !label) {
            j = skip_label(v, i);
            label = true;
        }
        if (j == i)
            return false;
        i = j;
    }
    return true;
}

/* Percent sign or unit word that follows a closed box, through closing delimiters; appended to out. */
static void add_trailing_unit(struct span v, size_t i, struct buf *out)
{
    static const char *const units[] = { "degrees", "feet",  "inches", "meters", "metres",  "miles",
                                         "square",  "cubic", "units",  "hours",  "minutes", "seconds",
                                         "dollars", "cents", "cm",     "km" };
    bool space = false;
    size_t start = i;
    for (;;) {
        struct span r = span_from(v, i);
        if (r.n && (ch_space(r.s[0]) || r.s[0] == '~') && r.s[0] != '\n')
            space = true, i++;
        else if (r.n && r.s[0] == '$' && i - start < 8)
            i++;
        else if (span_starts(r, "\\)") || span_starts(r, "\\]") || span_starts(r, "\\,") || span_starts(r, "\\ "))
            i += 2;
        else
            break;
    }
    struct span r = span_from(v, i);
    size_t n = 0;
    if (span_starts(r, "\\text{") || span_starts(r, "\\mbox{") || span_starts(r, "\\mathrm{")) {
        struct span in;
        size_t end;
        if (span_braced(r, (size_t)((const char *)memchr(r.s, '{', r.n) - r.s), &in, &end))
            r = span_strip(in), space = true;
    }
    if (span_starts(r, "\\%") || span_starts(r, "%") || span_starts_fold(r, "percent") || span_starts_fold(r, "pct")) {
        if (!(r.s[0] != '\\' && r.s[0] != '%') || r.n <= 3 || span_starts_fold(r, "percent") || !ch_alpha(r.s[3]))
            buf_puts(out, "\\%");
        return;
    }
    if (span_starts(r, "^\\circ") || span_starts(r, "^{\\circ}") || span_starts(r, "\xc2\xb0")) {
        buf_puts(out, "^\\circ");
        return;
    }
    while (n < r.n && ch_alpha(r.s[n]))
        n++;
    for (size_t k = 0; space && k < sizeof units / sizeof *units; k++)
        if (span_is(span_of(r.s, n), units[k])) {
            if (span_is(span_of(r.s, n), "square") || span_is(span_of(r.s, n), "cubic")) {
                size_t m = n + 1;
                while (m < r.n && ch_alpha(r.s[m]))
                    m++;
                if (n >= r.n || r.s[n] != ' ' || m == n + 1)
                    return;
                n = m;
            }
            buf_puts(out, "\\text{ ");
            buf_add(out, r.s, n);
            buf_putc(out, '}');
            return;
        }
}

/* The last box, joined with its neighbours. Returns where it starts, SIZE_MAX if there is none. */
static size_t last_boxes(struct span v, struct buf *out)
{
    size_t at[BOXES], count = 0;
    struct box b[BOXES];
    for (size_t i = v.n; i-- > 0 && count < BOXES;)
        if (v.s[i] == '\\' && box_name(v, i))
            at[count++] = i;
    size_t n = 0; /* b[0] is the last box */
    for (size_t k = 0; k < count; k++) {
        struct box x;
        if (!box_read(v, at[k], &x))
            continue;
        if (n && (x.end > b[n - 1].at || !only_separators(span_sub(v, x.end, b[n - 1].at))))
            break;
        b[n++] = x;
    }
    buf_reset(out);
    if (!n)
        return SIZE_MAX;
    for (size_t k = n; k-- > 0;) {
        if (k + 1 < n && b[k].in.n == b[k + 1].in.n && memcmp(b[k].in.s, b[k + 1].in.s, b[k].in.n) == 0)
            continue;
        if (out->len)
            buf_puts(out, ", ");
        buf_add(out, b[k].in.s, b[k].in.n);
    }
    if (n == 1)
        add_trailing_unit(v, b[0].end, out);
    return b[0].at;
}

/* ---- math blocks ---- */

struct block {
    size_t start, end; /* delimiters included */
    size_t in, in_end;
};

/* The text with what is known about where closing delimiters stand, which keeps repeated searches linear. */
enum closer { CLOSE_ROUND, CLOSE_SQUARE, CLOSE_DOLLAR, CLOSE_DOLLARS, CLOSERS };
struct scan {
    struct span v;
    struct {
        size_t from, at; /* the first one at or after `from` is `at` (SIZE_MAX: none); from > at: nothing known */
    } known[CLOSERS];
};

static struct scan scan_of(struct span v)
{
    struct scan sc = { v, { { 1, 0 }, { 1, 0 }, { 1, 0 }, { 1, 0 } } };
    return sc;
}

/* Ordinary words in an inline block (two of three and more letters, or four small ones) mean that its dollar signs are
 * money. */
static bool reads_as_prose(struct span in)
{
    size_t words = 0;
    for (size_t i = 0; i < in.n;) {
        if (in.s[i] == '\\') {
            size_t j = i + 1;
            while (j < in.n && ch_alpha(in.s[j]))
                j++;
            if (j < in.n && in.s[j] == '{' &&
                (span_starts(span_from(in, i), "\\text") || span_starts(span_from(in, i), "\\mbox") ||
                 span_starts(span_from(in, i), "\\mathrm") || span_starts(span_from(in, i), "\\operatorname"))) {
                struct span t;
                span_braced(in, j, &t, &j);
            }
            i = j > i + 1 ? j : i + 2;
        } else if (ch_alpha(in.s[i])) {
            size_t j = i;
            while (j < in.n && ch_alpha(in.s[j]))
                j++;
            bool word = j >= in.n || in.s[j] == ' ' || in.s[j] == ',' || in.s[j] == '.' || in.s[j] == '\n';
            words += word ? (j - i >= 3 ? 2 : j - i == 2) : 0;
            i = j;
        } else {
            i++;
        }
    }
    return words >= 4;
}

static size_t find_from(struct span v, size_t i, const char *word)
{
    size_t n = strlen(word);
    for (; i + n <= v.n; i++)
        if (v.s[i] == word[0] && memcmp(v.s + i, word, n) == 0 && !is_escaped(v, i))
            return i;
    return SIZE_MAX;
}

static size_t find_close(struct scan *sc, size_t i, enum closer kind)
{
    static const char *const text[CLOSERS] = { "\\)", "\\]", "$", "$$" };
    if (!(sc->known[kind].from <= i && i <= sc->known[kind].at)) {
        sc->known[kind].from = i;
        sc->known[kind].at = find_from(sc->v, i, text[kind]);
    }
    size_t at = sc->known[kind].at;
    return at == SIZE_MAX || at - i > REACH ? SIZE_MAX : at;
}

/* Does a math block open at i? A lone $ whose partner is missing or whose content is prose is money. */
static bool block_at(struct scan *sc, size_t i, struct block *b)
{
    struct span v = sc->v, r = span_from(v, i);
    size_t skip = 2, close;
    if (r.s[0] != '$' && !span_starts(r, "\\(") && !span_starts(r, "\\["))
        return false;
    if (is_escaped(v, i))
        return false;
    if (span_starts(r, "\\(")) {
        close = find_close(sc, i + 2, CLOSE_ROUND);
    } else if (span_starts(r, "\\[")) {
        close = find_close(sc, i + 2, CLOSE_SQUARE);
    } else if (span_starts(r, "$$")) {
        close = find_close(sc, i + 2, CLOSE_DOLLARS);
    } else if (r.s[0] == '$') {
        skip = 1;
        close = find_close(sc, i + 1, CLOSE_DOLLAR);
        /* "= $20 and 3 * 2 = $6": money twice */
        if (close != SIZE_MAX &&
            (reads_as_prose(span_sub(v, i + 1, close)) || (close + 1 < v.n && ch_digit(v.s[close + 1]))))
            return false;
    } else {
        return false;
    }
    if (close == SIZE_MAX || close == i + skip)
        return false;
    b->start = i;
    b->in = i + skip;
    b->in_end = close;
    b->end = close + skip;
    return true;
}

/* 3: a digit, relation, set or word; 2: a constant or operator; 1: something; 0: nothing. */
static int block_weight(struct span in)
{
    static const char *const strong[] = { "\\le",   "\\ge",    "\\ne",      "\\in",    "\\lt",
                                          "\\gt",   "\\{",     "\\cup",     "\\empty", "\\varnothing",
                                          "\\text", "\\begin", "\\mathrm{", "\\lbrace" };
    in = span_strip(in);
    int weight = in.n ? 1 : 0;
    for (size_t i = 0; i < in.n; i++) {
        char c = in.s[i];
        if (ch_digit(c) || c == '=' || c == '<' || c == '>')
            return 3;
        if (c == '\\') {
            if (span_starts(span_from(in, i), "\\left") || span_starts(span_from(in, i), "\\infty"))
                continue;
            for (size_t k = 0; k < sizeof strong / sizeof *strong; k++)
                if (span_starts(span_from(in, i), strong[k]))
                    return 3;
            weight = 2;
        } else if (c == '+' || c == '-' || c == '^' || c == '/') {
            weight = 2;
        }
    }
    return weight;
}

/* ---- free text ---- */

static bool is_percent_word(struct span w)
{
    return span_starts_fold(w, "percent") || span_is_fold(w, "pct") || span_is(w, "%") || span_is(w, "\\%");
}

enum word { W_PROSE, W_VALUE, W_LETTER, W_SIGN, W_JOIN };

/* What a blank-separated piece of a sentence is. */
static enum word word_kind(struct span w)
{
    size_t letters = 0, others = 0, run = 0;
    bool digit = false, command = false;
    if (span_is(w, "and") || span_is(w, "or"))
        return W_JOIN;
    for (size_t i = 0; i < w.n; i++) {
        if (ch_digit(w.s[i])) {
            digit = true;
            run = 0;
        } else if (w.s[i] == '\\' && i + 1 < w.n && ch_alpha(w.s[i + 1])) {
            command = true;
        } else if (ch_alpha(w.s[i])) {
            letters++;
            run++;
        } else {
            others++;
            run = 0;
        }
    }
    (void)run;
    if (command || (digit && letters <= 4))
        return W_VALUE;
    if (digit)
        return strpbrk("+*/^=", "=") && memchr(w.s, '=', w.n) ? W_VALUE : W_PROSE;
    if (letters == 0)
        return others ? W_SIGN : W_PROSE;
    return letters == 1 && others <= 2 ? W_LETTER : W_PROSE;
}

static bool sign_only_punctuation(struct span w)
{
    for (size_t i = 0; i < w.n; i++)
        if (!strchr(".,:;!?\"'*`", w.s[i]))
            return false;
    return true;
}

/* The last run of value-like pieces in text without math blocks; false if it holds no number or command. */
static bool last_value_run(struct span v, size_t from, size_t to, size_t *start, size_t *end)
{
    bool found = false, has = false, open = false;
    size_t rs = 0, re = 0, i = from;
    enum word first = W_PROSE;
    bool first_alone = false;
    while (i <= to) {
        while (i < to && ch_space(v.s[i]))
            i++;
        size_t j = i;
        while (j < to && !ch_space(v.s[j]))
            j++;
        struct span w = span_sub(v, i, j);
        enum word k = j > i ? word_kind(w) : W_PROSE;
        if (k == W_SIGN && sign_only_punctuation(w))
            k = W_PROSE;
        if (k == W_PROSE || (k == W_JOIN && !open)) {
            if (open && has) {
                found = true;
                *start = rs;
                *end = re;
                if (j > i && is_percent_word(w))
                    *end = j;
            }
            open = has = false;
            if (j == i)
                break;
            i = j;
            continue;
        }
        if (!open) {
            open = true;
            rs = i;
            first = k;
            first_alone = true;
        } else if (first_alone) {
            if (first == W_LETTER && k == W_VALUE) /* "a 50% chance": the letter was an article */
                rs = i;
            first_alone = false;
        }
        if (k != W_JOIN)
            re = j;
        has = has || k == W_VALUE;
        i = j;
    }
    return found;
}

static struct span trim_answer(struct span v)
{
    for (;;) {
        v = span_strip(v);
        if (v.n && strchr(".,;:*\"'`!", v.s[v.n - 1]) && !(v.n >= 2 && v.s[v.n - 1] == '!' && ch_digit(v.s[v.n - 2])) &&
            !(v.n >= 4 && v.s[v.n - 1] == '.' &&
              (span_is(span_from(v, v.n - 4), "p.m.") || span_is(span_from(v, v.n - 4), "a.m."))))
            v.n -= v.n >= 2 && v.s[v.n - 2] == '\\' ? 2 : 1;
        else if (v.n && strchr("*\"'`:", v.s[0]))
            v.s++, v.n--;
        else if (span_starts(v, "\\\""))
            v.s += 2, v.n -= 2;
        else
            return v;
    }
}

/* End of the sentence that starts at i: a full stop before white space, a new line, or the set phrase. */
static size_t sentence_end(struct scan *sc, size_t i)
{
    struct span v = sc->v;
    size_t stop = v.n - i > REACH ? i + REACH : v.n;
    while (i < stop) {
        struct block b;
        if (block_at(sc, i, &b)) {
            i = b.end;
            continue;
        }
        if (v.s[i] == '\n' || span_starts(span_from(v, i), "I hope it is correct"))
            return i;
        if (v.s[i] == '\\' && i + 1 < stop) {
            size_t open = box_name(v, i);
            struct span in;
            if (open && open < v.n && v.s[open] == '{')
                span_braced(v, open, &in, &i);
            else
                i += 2;
            continue;
        }
        if (v.s[i] == '.' && (i + 1 >= v.n || ch_space(v.s[i + 1]) || strchr("\"'*)", v.s[i + 1]))) {
            bool abbreviation = i >= 3 && v.s[i - 2] == '.' && ch_lower(v.s[i - 1]) == 'm';
            if (!abbreviation || i + 2 >= v.n || !(v.s[i + 1] == ' ' && !ch_upper(v.s[i + 2])))
                return abbreviation ? i + 1 : i;
        }
        i++;
    }
    return stop;
}

static bool word_before(struct span v, size_t i, const char *word)
{
    size_t n = strlen(word);
    while (i > 0 && (v.s[i - 1] == ' ' || v.s[i - 1] == '$'))
        i--;
    return i >= n && span_starts_fold(span_from(v, i - n), word) && (i == n || !ch_alpha(v.s[i - n - 1]));
}

/* What a sentence says, X of "the answer is X". value: only if it carries a number, block or box. */
static bool sentence_answer(struct scan *sc, size_t i, bool value, struct buf *out)
{
    struct span v = sc->v;
    while (i < v.n && (ch_space(v.s[i]) || strchr(":*=_", v.s[i])))
        i++;
    if (i >= v.n)
        return false;
    size_t end = sentence_end(sc, i);
    struct span best = span_of(v.s, 0);
    int weight = 0;
    size_t best_end = 0, first_block = SIZE_MAX, last_end = 0;
    size_t text_from = i;
    for (size_t k = i; k <= end;) {
        struct block b;
        bool is_block = k < end && block_at(sc, k, &b) && b.end <= end;
        if (is_block || k == end) {
            size_t s, e;
            if (last_value_run(v, text_from, k, &s, &e)) {
                if (weight == 3 && is_percent_word(trim_answer(span_sub(v, s, e))))
                    e = s;
                else
                    best = span_sub(v, s, e), weight = 3, best_end = e, first_block = SIZE_MAX;
            }
        }
        if (is_block) {
            int w = block_weight(span_sub(v, b.in, b.in_end));
            if (w >= weight && w > 0) {
                if (first_block == SIZE_MAX || last_end > b.start || !only_separators(span_sub(v, last_end, b.start)))
                    first_block = b.start;
                best = span_sub(v, first_block, b.end);
                weight = w;
                best_end = b.end;
                last_end = b.end;
            }
            k = text_from = b.end;
            continue;
        }
        k++;
    }
    if (weight) {
        buf_reset(out);
        struct span t = trim_answer(best);
        size_t at = (size_t)(best.s - v.s);
        if (word_before(v, at, "not")) /* "the answer is not 7." says no answer */
            return false;
        if (word_before(v, at, "minus") || word_before(v, at, "negative"))
            buf_putc(out, '-');
        buf_add(out, t.s, t.n);
        add_trailing_unit(v, best_end, out);
        return t.n > 0;
    }
    struct span t = trim_answer(span_sub(v, i, end));
    if (value || !t.n || t.n > ANSWER_MAX_ANSWER)
        return false;
    buf_reset(out);
    buf_add(out, t.s, t.n);
    return true;
}

/* ---- anchors ---- */

static size_t skip_decoration(struct span v, size_t i)
{
    while (i < v.n && (v.s[i] == ' ' || v.s[i] == '*' || v.s[i] == '_'))
        i++;
    return i;
}

/* Where X starts for the word "answer" at i, or SIZE_MAX: behind "is", ":", "=" or at a math block. For "final answer"
 * a heading of its own line also counts. */
static size_t answer_anchor(struct scan *sc, size_t i, bool final)
{
    struct span v = sc->v;
    struct block b;
    i += 6;
    if (i < v.n && ch_lower(v.s[i]) == 's')
        i++;
    if (i < v.n && ch_alpha(v.s[i]))
        return SIZE_MAX;
    size_t j = skip_decoration(v, i);
    if (j >= v.n)
        return SIZE_MAX;
    if (v.s[j] == ':' || v.s[j] == '=')
        return j + 1;
    if (block_at(sc, j, &b) || box_name(v, j))
        return j;
    if (final && v.s[j] == '\n')
        return j + 1;
    /* "answer is", "answer to the problem is": the verb within the sentence */
    for (size_t k = j, words = 0; k < v.n && words < 8 && k - j < 100; words++) {
        struct span r = span_from(v, k);
        if (span_starts_fold(r, "is") || span_starts_fold(r, "be") || span_starts_fold(r, "are") ||
            span_starts_fold(r, "was")) {
            size_t n = span_starts_fold(r, "is") || span_starts_fold(r, "be") ? 2 : 3;
            if (r.n > n && !ch_alnum(r.s[n]))
                return k + n;
        }
        while (k < v.n && !ch_space(v.s[k]) && v.s[k] != '.' && v.s[k] != '\n')
            k++;
        if (k >= v.n || v.s[k] == '.' || v.s[k] == '\n')
            return SIZE_MAX;
        k++;
    }
    return SIZE_MAX;
}

static bool preceded_by(struct span v, size_t i, const char *word)
{
    size_t n = strlen(word);
    while (i > 0 && (v.s[i - 1] == ' ' || v.s[i - 1] == '*' || v.s[i - 1] == '\n'))
        i--;
    return i >= n && span_starts_fold(span_from(v, i - n), word);
}

/* The last anchor that yields something. final: rank a, else rank b. Returns its position. */
static size_t last_sentence(struct scan *sc, bool final, bool value, struct buf *out)
{
    struct span v = sc->v;
    size_t tries = 0;
    for (size_t i = v.n; i-- > 0 && tries < ANCHORS;) {
        struct span r = span_from(v, i);
        bool line = i == 0 || v.s[i - 1] == '\n';
        char c = r.s[0];
        if ((c == 'a' || c == 'A') && span_starts_fold(r, "answer") && (i == 0 || !ch_alpha(v.s[i - 1]))) {
            if (preceded_by(v, i, "final") != final)
                continue;
            tries++;
            if (!final && i > 0 && v.s[i - 1] == '<' && r.n > 7 && r.s[6] == '>') {
                size_t close = find_from(r, 7, "</answer>");
                struct span t = span_strip(span_sub(r, 7, close == SIZE_MAX ? r.n : close));
                if (!t.n || t.n > ANSWER_MAX_ANSWER)
                    continue;
                buf_reset(out);
                buf_add(out, t.s, t.n);
                return i;
            }
            size_t x = answer_anchor(sc, i, final);
            if (x != SIZE_MAX && sentence_answer(sc, x, value, out))
                return i;
        } else if (!final && c == '#' && span_starts(r, "####") && r.n > 4 && r.s[4] != '#') {
            tries++;
            if (sentence_answer(sc, i + 4, false, out))
                return i;
        } else if (!final && line && (span_starts(r, "A:") || span_starts(r, "**A:"))) {
            tries++;
            if (sentence_answer(sc, i + (c == '*' ? 4 : 2), false, out))
                return i;
        }
    }
    return SIZE_MAX;
}

/* ---- ranks c and d ---- */

/* Behind the last = of a chain; a list of equations stays whole. */
static struct span behind_equals(struct span in)
{
    size_t depth = 0, at = SIZE_MAX;
    bool list = false;
    if (find_from(in, 0, "\\begin") != SIZE_MAX)
        return in;
    for (size_t i = 0; i < in.n; i++) {
        char c = in.s[i];
        if (c == '\\' && i + 1 < in.n && !ch_alpha(in.s[i + 1])) {
            i++;
            c = in.s[i];
            if (c == '{')
                depth++;
            else if (c == '}' && depth)
                depth--;
        } else if (strchr("([{", c) && c) {
            depth++;
        } else if (strchr(")]}", c) && c && depth) {
            depth--;
        } else if (c == '=' && !depth && !(i && strchr("<>!", in.s[i - 1]))) {
            at = i;
        } else if ((c == ',' || c == ';') && !depth && at != SIZE_MAX && !(i + 1 < in.n && ch_digit(in.s[i + 1]))) {
            list = true;
        }
    }
    if (at == SIZE_MAX || list || !span_strip(span_from(in, at + 1)).n)
        return in;
    return span_from(in, at + 1);
}

static bool last_block(struct scan *sc, struct buf *out)
{
    struct span v = sc->v;
    struct block best = { 0, 0, 0, 0 };
    int weight = 1;
    size_t before = 0; /* end of the last block that counted */
    bool joined = false;
    for (size_t i = 0; i < v.n;) {
        struct block b;
        if (!block_at(sc, i, &b)) {
            i += v.s[i] == '\\' ? 2 : 1;
            continue;
        }
        int w = block_weight(span_sub(v, b.in, b.in_end));
        if (w >= 2 && (w >= weight || w == 3)) {
            struct span between = span_sub(v, before, b.start);
            joined = before && w == 3 && weight == 3 && span_strip(between).n && only_separators(between);
            if (joined) /* "$x=2$ and $x=4$" */
                best.end = b.end;
            else
                best = b;
            weight = w;
            before = b.end;
        }
        i = b.end;
    }
    if (!best.end)
        return false;
    struct span in = joined ? span_sub(v, best.start, best.end) : behind_equals(span_sub(v, best.in, best.in_end));
    struct span t = trim_answer(in);
    buf_reset(out);
    buf_add(out, t.s, t.n);
    add_trailing_unit(v, best.end, out);
    return t.n > 0;
}

static bool last_number(struct span v, struct buf *out)
{
    for (size_t e = v.n; e-- > 0;) {
        if (!ch_digit(v.s[e]))
            continue;
        size_t s = e;
        while (s > 0 && (ch_digit(v.s[s - 1]) ||
                         ((v.s[s - 1] == ',' || v.s[s - 1] == '.' || v.s[s - 1] == '/' || v.s[s - 1] == ':') && s > 1 &&
                          (ch_digit(v.s[s - 2]) || v.s[s - 1] == '.') && ch_digit(v.s[s]))))
            s--;
        if (s > 0 && (ch_alpha(v.s[s - 1]) || v.s[s - 1] == '_')) { /* inside an identifier */
            e = s;
            continue;
        }
        if (word_before(v, s, "not")) {
            e = s;
            continue;
        }
        bool minus = s > 0 && v.s[s - 1] == '-' && (s == 1 || !(ch_alnum(v.s[s - 2]) || v.s[s - 2] == ')'));
        minus = minus || (s > 1 && v.s[s - 1] == '$' && v.s[s - 2] == '-');
        struct span t = span_sub(v, s, e + 1);
        buf_reset(out);
        if (minus)
            buf_putc(out, '-');
        buf_add(out, t.s, t.n);
        add_trailing_unit(v, e + 1, out);
        return true;
    }
    return false;
}

/* ---- choices ---- */

bool answer_lone_letter(struct span v, size_t i)
{
    if (v.s[i] < 'A' || v.s[i] > 'J')
        return false;
    if (i > 0 &&
        (ch_alnum(v.s[i - 1]) || v.s[i - 1] == '\\' || v.s[i - 1] == '\'' || (unsigned char)v.s[i - 1] >= 0x80))
        return false;
    if (i + 1 < v.n && (ch_alnum(v.s[i + 1]) || v.s[i + 1] == '\'' || (unsigned char)v.s[i + 1] >= 0x80))
        return false;
    bool bracket = word_before(v, i, "option") || word_before(v, i, "choice");
    bracket = bracket || (i > 0 && (v.s[i - 1] == '(' || v.s[i - 1] == '*' || v.s[i - 1] == '{'));
    if (!bracket && v.s[i] == 'I')
        return false;
    struct span next = span_from(v, i + 1);
    if (!bracket && v.s[i] == 'A' && next.n > 1 && next.s[0] == ' ' && next.s[1] >= 'a' && next.s[1] <= 'z' &&
        !span_starts(next, " or ") && !span_starts(next, " and "))
        return false; /* the article */
    return true;
}

/* The lone letter that is joined to the one at i by nothing but "and", "or", commas and brackets, forward (step 1) or
 * backward (-1); 0 if there is none. */
static char joined_letter(struct span v, size_t i, int step)
{
    size_t from = i, j = i;
    bool word = false;
    while ((step > 0 ? ++j < v.n : j-- > 0) && (j > from ? j - from : from - j) < 24) {
        char ch = v.s[j];
        if (answer_lone_letter(v, j))
            return word ? ch : 0;
        if (ch == ',' || ch == '/' || ch == '&' || ch == ';') {
            word = true;
        } else if (ch_alpha(ch)) {
            size_t a = j, b;
            while (a > 0 && ch_alpha(v.s[a - 1]))
                a--;
            for (b = j + 1; b < v.n && ch_alpha(v.s[b]); b++)
                ;
            struct span w = span_sub(v, a, b);
            if (!span_is(w, "and") && !span_is(w, "or") && !span_is(w, "text") && !span_is(w, "textbf"))
                return 0;
            word = word || !span_starts(w, "text");
            j = step > 0 ? b - 1 : a;
        } else if (!ch_space(ch) && !strchr("()*{}\\$", ch)) {
            return 0;
        }
    }
    return 0;
}

/* The letter at i, with the one it is joined to: "A or B" picks neither. */
static void put_letter(struct span v, size_t i, struct buf *out)
{
    char other = joined_letter(v, i, 1);
    other = other ? other : joined_letter(v, i, -1);
    buf_reset(out);
    buf_putc(out, v.s[i]);
    if (other && other != v.s[i])
        buf_printf(out, ", %c", other);
}

static bool first_letter(struct span v, struct buf *out)
{
    for (size_t i = 0; i < v.n; i++)
        if (answer_lone_letter(v, i)) {
            put_letter(v, i, out);
            return true;
        }
    return false;
}

static bool starting_letter(struct span v, struct buf *out)
{
    struct span t = span_strip(v);
    if (span_starts(t, "A:")) /* the A of "answer" */
        t = span_strip(span_from(t, 2));
    while (t.n && strchr("*(", t.s[0]))
        t.s++, t.n--;
    if (!t.n || !answer_lone_letter(t, 0) || (t.n > 1 && !strchr(".):,*\n", t.s[1])))
        return false;
    put_letter(t, 0, out);
    return true;
}

static bool extract_choice(struct span v, struct buf *out)
{
    struct scan sc = scan_of(v);
    struct buf found = BUF_INIT;
    size_t box = last_boxes(v, &found);
    size_t final = SIZE_MAX, tries = 0;
    bool ok = box != SIZE_MAX && first_letter(span_of(found.s, found.len), out);
    for (size_t i = v.n; i-- > 0 && final == SIZE_MAX && (!ok || i > box) && tries < ANCHORS;)
        if (ch_lower(v.s[i]) == 'f' && span_starts_fold(span_from(v, i), "final answer")) {
            tries++;
            size_t x = answer_anchor(&sc, i + 6, true);
            if (x != SIZE_MAX) {
                while (x < v.n && (ch_space(v.s[x]) || strchr(":*", v.s[x])))
                    x++;
                if (first_letter(span_sub(v, x, sentence_end(&sc, x)), out))
                    ok = true, final = i;
            }
        }
    ok = ok || starting_letter(v, out);
    tries = 0;
    for (size_t i = v.n; !ok && i-- > 0 && tries < ANCHORS;) {
        struct span r = span_from(v, i);
        if (ch_lower(r.s[0]) == 'a' && span_starts_fold(r, "answer") && (i == 0 || !ch_alpha(v.s[i - 1]))) {
            size_t x = i > 0 && v.s[i - 1] == '<' && r.n > 7 && r.s[6] == '>' ? i + 7 : answer_anchor(&sc, i, false);
            tries++;
            if (x != SIZE_MAX)
                ok = first_letter(span_sub(v, x, sentence_end(&sc, x)), out);
        } else if (span_starts(r, "####")) {
            tries++;
            ok = first_letter(span_sub(v, i + 4, sentence_end(&sc, i + 4)), out);
        }
    }
    for (size_t i = v.n; !ok && i-- > 0;)
        if (answer_lone_letter(v, i)) {
            put_letter(v, i, out);
            ok = true;
        }
    buf_release(&found);
    return ok;
}

/* ---- the whole ---- */

static bool extract_math(struct span v, struct buf *out)
{
    struct scan sc = scan_of(v);
    struct buf sentence = BUF_INIT;
    size_t box = last_boxes(v, out);
    size_t final = last_sentence(&sc, true, box != SIZE_MAX, &sentence);
    bool ok = box != SIZE_MAX;
    if (final != SIZE_MAX && (!ok || final > box)) {
        struct buf swap = *out;
        *out = sentence;
        sentence = swap;
        ok = true;
    }
    buf_release(&sentence);
    return ok || last_sentence(&sc, false, false, out) != SIZE_MAX || last_block(&sc, out) || last_number(v, out);
}

static void drop_calculator_notes(struct span v, struct buf *out)
{
    size_t i = 0;
    while (i < v.n) {
        size_t open = i;
        while (open < v.n && !(v.s[open] == '<' && open + 1 < v.n && v.s[open + 1] == '<'))
            open++;
        buf_add(out, v.s + i, open - i);
        if (open >= v.n)
            return;
        size_t close = open + 2;
        while (close + 1 < v.n && !(v.s[close] == '>' && v.s[close + 1] == '>') && v.s[close] != '\n')
            close++;
        if (close + 1 < v.n && v.s[close] == '>') {
            i = close + 2;
        } else {
            buf_add(out, v.s + open, 2);
            i = open + 2;
        }
    }
}

int answer_extract(enum answer_task task, const char *text, size_t n, struct buf *out)
{
    struct span v = search_area(span_of(text, n));
    struct buf copy = BUF_INIT, plain = BUF_INIT;
    bool ok;
    buf_reset(out);
    if (answer_unescape(v, &plain))
        v = span_of(plain.s, plain.len);
    if (task == ANSWER_GSM8K) {
        drop_calculator_notes(v, &copy);
        v = span_of(copy.s, copy.len);
    }
    ok = v.n && (task == ANSWER_MMLU ? extract_choice(v, out) : extract_math(v, out));
    buf_release(&copy);
    buf_release(&plain);
    if (!ok)
        buf_reset(out);
    return ok;
}

/* ---- golds ---- */

int answer_gold_gsm8k(const char *answer, size_t n, struct buf *out)
{
    struct span v = span_of(answer, n);
    size_t at = find_last(v, "####");
    struct span t = span_strip(at == SIZE_MAX ? v : span_from(v, at + 4));
    buf_reset(out);
    buf_add(out, t.s, t.n);
    return at != SIZE_MAX;
}

int answer_gold_math(const char *solution, size_t n, struct buf *out)
{
    struct span v = span_of(solution, n);
    struct box b;
    for (size_t i = v.n; i-- > 0;)
        if (v.s[i] == '\\' && box_name(v, i) && box_read(v, i, &b)) {
            buf_reset(out);
            buf_add(out, b.in.s, b.in.n);
            return 1;
        }
    struct span t = span_strip(v);
    buf_reset(out);
    buf_add(out, t.s, t.n);
    return 0;
}
