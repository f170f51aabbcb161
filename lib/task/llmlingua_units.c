/* llmlingua_units.c - the default behaviour: units of the original text, met by rank, joined with the original's white
 * space. See llmlingua.h. */
#define _GNU_SOURCE /* memmem */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "task/llmlingua_private.h"

/* ---- words ---- */

static bool has_digit(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] >= '0' && s[i] <= '9')
            return true;
    return false;
}

/* Pieces of words: a piece that stands for nothing visible waits for the next one, pieces over the same characters
 * (one character that became several, or a mark in front of a word) stay together. */
static void merge_pieces(const struct lingua *l, const struct lingua_text *t, struct lingua_words *w)
{
    struct lingua_word *x = NULL;
    double sum = 0;
    for (uint32_t c = 0; c < t->nchunk; c++)
        for (uint32_t i = t->chunk[c].first; i < t->chunk[c].first + t->chunk[c].n; i++) {
            const struct lingua_piece *p = &t->piece[i];
            bool joins = x && (!(p->flags & PIECE_START) || p->b < x->e || x->b == x->e);
            if (!joins) {
                x = lingua_push_word(w);
                *x = (struct lingua_word){ .b = p->b, .e = p->e, .chunk = c };
                sum = 0;
            } else if (x->b == x->e) {
                x->b = p->b;
                x->e = p->e;
            }
            if (p->e > x->e)
                x->e = p->e;
            sum = x->pieces && l->spec.first ? sum : sum + (double)p->p;
            x->pieces++;
            x->p = l->spec.first ? sum : sum / x->pieces;
        }
    if (x && x->b == x->e) { /* nothing visible came: not a word */
        if (w->n > 1)
            w->word[w->n - 2].pieces += x->pieces;
        w->n--;
    }
}

/* ---- units: words that share a protected span become one ---- */

static bool inside_word(const char *s, size_t n, size_t i) /* a letter or digit on both sides of byte i */
{
#define LETTER(c) (((c)&0x80) || ((c) >= '0' && (c) <= '9') || (((c) | 32) >= 'a' && ((c) | 32) <= 'z'))
    return i > 0 && i < n && LETTER(s[i - 1]) && LETTER(s[i]);
#undef LETTER
}

static int by_begin(const void *a, const void *b)
{
    const struct lingua_span *x = a, *y = b;
    return x->b != y->b ? (x->b < y->b ? -1 : 1) : x->e < y->e ? -1 : x->e > y->e;
}

/* Every place where a force word stands as a word of its own is a span that is kept. */
static void add_force_spans(const struct lingua *l, const char *s, size_t n, struct lingua_spans *v)
{
    for (size_t f = 0; f < l->spec.nforce; f++) {
        const char *word = l->spec.force[f], *at = s;
        size_t k = l->force_n[f];
        while (k && (at = memmem(at, n - (size_t)(at - s), word, k))) {
            size_t b = (size_t)(at - s);
            if (!inside_word(s, n, b) && !inside_word(s, n, b + k)) {
                ROOM(v->v, v->cap, v->n + 1);
                v->v[v->n++] = (struct lingua_span){ (uint32_t)b, (uint32_t)(b + k), SPAN_BOXED };
            }
            at += k;
        }
    }
    if (v->n > 1 && l->spec.nforce)
        qsort(v->v, v->n, sizeof *v->v, by_begin);
}

static void join(struct lingua_word *into, const struct lingua_word *x)
{
    into->p = (into->p * into->pieces + x->p * x->pieces) / (into->pieces + x->pieces);
    into->pieces += x->pieces;
    into->e = x->e > into->e ? x->e : into->e;
    into->force |= x->force;
}

static void merge_units(const struct lingua *l, const struct lingua_spans *v, const char *s, struct lingua_words *w)
{
    size_t n = 0, k = 0;
    uint32_t until = 0; /* the newest unit goes on to here */
    for (size_t i = 0; i < w->n; i++) {
        struct lingua_word *x = &w->word[i];
        uint32_t reach = x->e;
        while (k < v->n && v->v[k].e <= x->b)
            k++;
        for (size_t j = k; j < v->n && v->v[j].b < x->e; j++) {
            if (v->v[j].e <= x->b)
                continue;
            reach = v->v[j].e > reach ? v->v[j].e : reach;
            x->force |= (v->v[j].kind & SPAN_BOXED) != 0;
        }
        x->force |= l->spec.force_digits && has_digit(s + x->b, x->e - x->b);
        if (n && x->b < until) {
            join(&w->word[n - 1], x);
            until = reach > until ? reach : until;
        } else {
            w->word[n++] = *x;
            until = reach;
        }
    }
    w->n = n;
}

/* ---- weights and rank ---- */

/* Target tokens go to the unit that holds their last byte, white space to the unit behind it. */
static int weigh_in_target(const struct lingua *l, struct lingua_scratch *sc, const char *s, size_t n,
                           struct lingua_words *w, struct err *e)
{
    if (tokenizer_encode(l->spec.target, s, n, TOK_OFFSETS | TOK_SPLIT_SPECIALS, &sc->again, e) < 0)
        return -1;
    lingua_byte_table(sc, s, n);
    size_t u = 0;
    for (size_t i = 0; i < sc->again.n && w->n; i++) {
        uint32_t end = sc->byte_of[sc->again.end[i]];
        while (u + 1 < w->n && w->word[u].e < end)
            u++;
        w->word[u].weight++;
    }
    return 0;
}

struct ranked { /* for qsort, which has no argument for the words */
    double p;
    uint32_t i;
    bool force;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->force != y->force)
        return x->force ? -1 : 1;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->i < y->i ? -1 : 1; /* ties keep the earlier unit, so a higher ratio only ever adds */
}

static void rank_units(struct lingua_words *w)
{
    struct ranked *r = xreallocarray(NULL, w->n + 1, sizeof *r);
    for (size_t i = 0; i < w->n; i++)
        r[i] = (struct ranked){ w->word[i].p, (uint32_t)i, w->word[i].force };
    qsort(r, w->n, sizeof *r, by_rank);
    lingua_order_room(w);
    uint64_t sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        w->order[i] = r[i].i;
        w->cum[i] = sum += w->word[r[i].i].weight;
    }
    free(r);
}

int lingua_units(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t, struct lingua_words *w,
                 struct err *e)
{
    const char *s = t->s.s ? t->s.s : "";
    w->s = s;
    w->n_s = t->s.len;
    merge_pieces(l, t, w);
    sc->spans.n = 0;
    if (l->spec.math_safe)
        lingua_spans(s, t->s.len, &sc->spans);
    add_force_spans(l, s, t->s.len, &sc->spans);
    merge_units(l, &sc->spans, s, w);
    bool target = l->spec.exact && l->spec.target;
    if (target && weigh_in_target(l, sc, s, t->s.len, w, e) < 0)
        return -1;
    for (size_t i = 0; i < w->n; i++) {
        if (!target)
            w->word[i].weight = w->word[i].pieces;
        w->weight += w->word[i].weight;
        w->pieces += w->word[i].pieces;
    }
    rank_units(w);
    return 0;
}

/* ---- the text again ---- */

/* White space of a gap: 0 none, 1 blank, 2 line end, 3 empty line. */
static int gap_kind(const char *s, size_t b, size_t e)
{
    int lines = 0, kind = 0;
    for (size_t i = b; i < e; i++) {
        if (s[i] == '\n')
            lines++;
        else if (!(s[i] == ' ' || (s[i] >= '\t' && s[i] <= '\r') || (s[i] & 0x80)))
            continue;
        kind = 1;
    }
    return lines > 1 ? 3 : lines ? 2 : kind;
}

static bool letter(char c)
{
    return (c & 0x80) || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

/* Would two units that had something between them grow together into a number or word that never stood there? */
static bool would_join(char left, char right)
{
    bool dl = left >= '0' && left <= '9', dr = right >= '0' && right <= '9';
    return (letter(left) && letter(right)) || (dr && memchr(".,/:+-", left, 6)) || (dl && memchr(".,/:%", right, 5));
}

/* What stands between unit i and unit k, the next one that is kept: the original white space where they are neighbours,
 * else the most that was there, so that lines stay lines. */
static void add_gap(const struct lingua_words *w, size_t i, size_t k, struct buf *out)
{
    static const char *const text[] = { "", " ", "\n", "\n\n" };
    uint32_t end = w->word[i].e;
    if (k == i + 1) {
        buf_add(out, w->s + end, w->word[k].b - end);
        return;
    }
    int kind = 0;
    for (size_t u = i; u < k; u++) {
        int here = gap_kind(w->s, w->word[u].e, w->word[u + 1].b);
        kind = here > kind ? here : kind;
    }
    /* a comma that stood at a dropped word stays a comma of the word before */
    if (kind == 1 && w->word[k].b == w->word[k - 1].e && memchr(".,;:!?)]}", w->s[w->word[k].b], 9))
        kind = 0;
    if (!kind && would_join(w->s[end - 1], w->s[w->word[k].b]))
        kind = 1;
    buf_puts(out, text[kind]);
}

void lingua_assemble(const struct lingua_words *w, const uint8_t *keep, uint64_t *pieces, struct buf *out)
{
    size_t last = SIZE_MAX;
    *pieces = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (!keep[i])
            continue;
        if (last != SIZE_MAX)
            add_gap(w, last, i, out);
        buf_add(out, w->s + w->word[i].b, w->word[i].e - w->word[i].b);
        *pieces += w->word[i].pieces;
        last = i;
    }
}

/* ---- how many ---- */

/* The units of highest rank whose weight comes nearest to the goal; force units whatever it is, and at least one. */
static void keep_nearest(const struct lingua_words *w, double goal, uint8_t *keep)
{
    size_t k = 0;
    while (k < w->n && (w->word[w->order[k]].force || (double)w->cum[k] < goal))
        k++;
    /* order[k] passes the goal: in if that is nearer */
    double before = k ? (double)w->cum[k - 1] : 0;
    if (k < w->n && (k == 0 || (double)w->cum[k] - goal <= goal - before))
        k++;
    for (size_t i = 0; i < k; i++)
        keep[w->order[i]] = 1;
}

/* By rank, leaving out what does not fit any more. */
static void keep_filling(const struct lingua_words *w, double goal, uint8_t *keep)
{
    double sum = 0;
    bool any = false;
    for (size_t i = 0; i < w->n; i++) {
        const struct lingua_word *x = &w->word[w->order[i]];
        if (x->force || (sum < goal && sum + (double)x->weight <= goal + 0.5)) {
            keep[w->order[i]] = 1;
            sum += (double)x->weight;
            any = true;
        } else if (sum >= goal) {
            break;
        }
    }
    if (!any && w->n)
        keep[w->order[0]] = 1;
}

/* Target tokens depend on what stands beside them, so the goal is corrected by what the result really has. */
static int cut_exactly(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double goal,
                       uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e)
{
    enum { ROUNDS = 5 };
    double aim = goal, best_aim = goal, best = INFINITY;
    size_t at = out->len;
    for (int round = 0; round < ROUNDS; round++) {
        memset(keep, 0, w->n);
        out->len = at;
        keep_filling(w, aim, keep);
        lingua_assemble(w, keep, pieces, out);
        int64_t got = lingua_count(sc, l->spec.target, out->s + at, out->len - at, e);
        if (got < 0)
            return -1;
        double off = (double)got - goal;
        if (fabs(off) < best) {
            best = fabs(off);
            best_aim = aim;
        }
        if (best <= 0.5)
            return 0;
        aim -= off;
    }
    memset(keep, 0, w->n);
    out->len = at;
    keep_filling(w, best_aim, keep);
    lingua_assemble(w, keep, pieces, out);
    return 0;
}

int lingua_unit_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
                    uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e)
{
    double goal = ratio * (double)w->weight;
    *pieces = 0;
    if (ratio >= 1 || w->n == 0) { /* the original, to the byte */
        buf_add(out, w->s, w->n_s);
        memset(keep, 1, w->n);
        *pieces = w->pieces;
        return 0;
    }
    buf_grow(out, 1); /* out->s is there, even if nothing is kept */
    if (l->spec.exact && l->spec.target)
        return cut_exactly(l, sc, w, goal, keep, pieces, out, e);
    memset(keep, 0, w->n);
    if (l->spec.exact)
        keep_filling(w, goal, keep);
    else
        keep_nearest(w, goal, keep);
    lingua_assemble(w, keep, pieces, out);
    return 0;
}
