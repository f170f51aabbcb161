/* llmlingua.c - see llmlingua.h: opening, chunks of the text itself, rows in and numbers out. What the package does
 * otherwise is in llmlingua_compat.c. */
#include "task/llmlingua.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "task/llmlingua_private.h"

bool lingua_is_punctuation(const char *s, size_t n)
{
    static const char all[] = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
    if (n == 0 || n >= sizeof all)
        return false;
    const char *at = strchr(all, s[0]);
    return s[0] && at && n <= strlen(at) && memcmp(at, s, n) == 0;
}

bool lingua_is_force(const struct lingua *l, const char *s, size_t n)
{
    for (size_t i = 0; i < l->spec.nforce; i++)
        if (l->force_n[i] == n && memcmp(l->spec.force[i], s, n) == 0)
            return true;
    return false;
}

/* ---- opening ---- */

static bool starts_with(const char *s, size_t n, const char *prefix)
{
    size_t k = strlen(prefix);
    return n >= k && memcmp(s, prefix, k) == 0;
}

/* Does a token's own text begin a word? Where white space in the text decides too, lingua_split adds that. */
static bool begins_word(const struct lingua *l, const char *s, size_t n)
{
    if (l->spec.family == LINGUA_BERT) {
        if (!starts_with(s, n, "##"))
            return true;
        while (n && *s == '#') /* the package's lstrip("##") takes all of them */
            s++, n--;
        return lingua_is_force(l, s, n);
    }
    if (lingua_is_punctuation(s, n) || lingua_is_force(l, s, n))
        return true;
    return l->spec.family == LINGUA_XLMR && starts_with(s, n, "\xe2\x96\x81");
}

static void mark_starts(struct lingua *l)
{
    struct buf b = BUF_INIT;
    l->size = tokenizer_size(l->spec.tokenizer);
    l->start_flag = xcalloc((size_t)l->size + 1, 1);
    for (int32_t id = 0; id < l->size; id++) {
        buf_reset(&b);
        if (tokenizer_token(l->spec.tokenizer, id, &b) && begins_word(l, b.s ? b.s : "", b.len))
            l->start_flag[id] = PIECE_START;
    }
    for (int i = 0; i < l->nmap; i++)
        if (l->map[i].id < l->size)
            l->start_flag[l->map[i].id] = PIECE_START;
    buf_release(&b);
}

static int own_specials(struct lingua *l, struct err *e)
{
    const struct tokenizer *t = l->spec.tokenizer;
    switch (l->spec.family) {
    case LINGUA_XLMR:
        l->open = tokenizer_id(t, "<s>");
        l->close = tokenizer_id(t, "</s>");
        break;
    case LINGUA_BERT:
        l->open = tokenizer_id(t, "[CLS]");
        l->close = tokenizer_id(t, "[SEP]");
        break;
    case LINGUA_CAUSAL:
        l->open = tokenizer_bos(t);
        l->close = -1;
        return 0;
    }
    if (l->open < 0 || l->close < 0)
        return err_set(e, "the compressor's tokenizer has no %s",
                       l->spec.family == LINGUA_XLMR ? "<s> and </s>" : "[CLS] and [SEP]");
    return 0;
}

int lingua_open(struct lingua **out, const struct lingua_spec *spec, struct err *e)
{
    struct lingua *l = xcalloc(1, sizeof *l);
    *out = NULL;
    l->spec = *spec;
    l->unk = spec->tokenizer ? tokenizer_unk(spec->tokenizer) : -1;
    l->open = l->close = l->pad = -1;
    l->force_n = xcalloc(spec->nforce + 1, sizeof *l->force_n);
    for (size_t i = 0; i < spec->nforce; i++)
        l->force_n[i] = strlen(spec->force[i]);
    int rc = spec->tokenizer ? own_specials(l, e) : 0;
    if (rc == 0 && spec->compat)
        rc = lingua_compat_open(l, e);
    if (rc == 0 && spec->tokenizer && spec->window < 8)
        rc = err_set(e, "the compressor sees only %d positions at a time, at least 8 are needed", spec->window);
    if (rc < 0) {
        lingua_close(l);
        return -1;
    }
    if (spec->tokenizer)
        mark_starts(l);
    *out = l;
    return 0;
}

void lingua_close(struct lingua *l)
{
    if (!l)
        return;
    free(l->force_n);
    free(l->start_flag);
    free(l);
}

struct lingua_scratch *lingua_scratch_new(void)
{
    return xcalloc(1, sizeof(struct lingua_scratch));
}

void lingua_scratch_free(struct lingua_scratch *s)
{
    if (!s)
        return;
    tokens_release(&s->tokens);
    tokens_release(&s->again);
    tiktoken_scratch_free(&s->tik);
    buf_release(&s->a);
    buf_release(&s->b);
    buf_release(&s->words);
    free(s->byte_of);
    free(s->spans.v);
    free(s->idx);
    free(s->dbl);
    free(s->keep);
    free(s->slot);
    free(s);
}

void lingua_text_release(struct lingua_text *t)
{
    buf_release(&t->s);
    free(t->piece);
    free(t->chunk);
    *t = (struct lingua_text){ BUF_INIT, NULL, 0, 0, NULL, 0, 0 };
}

void lingua_words_release(struct lingua_words *w)
{
    buf_release(&w->own);
    free(w->word);
    free(w->order);
    free(w->cum);
    memset(w, 0, sizeof *w);
}

void lingua_push_piece(struct lingua_text *t, struct lingua_piece p)
{
    ROOM(t->piece, t->cap, t->n + 1);
    t->piece[t->n++] = p;
}

void lingua_push_chunk(struct lingua_text *t, struct lingua_chunk c)
{
    ROOM(t->chunk, t->chunk_cap, t->nchunk + 1);
    t->chunk[t->nchunk++] = c;
}

struct lingua_word *lingua_push_word(struct lingua_words *w)
{
    ROOM(w->word, w->cap, w->n + 1);
    memset(&w->word[w->n], 0, sizeof *w->word);
    return &w->word[w->n++];
}

void lingua_order_room(struct lingua_words *w)
{
    if (w->order_cap >= w->n)
        return;
    w->order_cap = w->cap;
    w->order = xreallocarray(w->order, w->order_cap, sizeof *w->order);
    w->cum = xreallocarray(w->cum, w->order_cap, sizeof *w->cum);
}

/* ---- the text as pieces ---- */

void lingua_byte_table(struct lingua_scratch *sc, const char *s, size_t n)
{
    size_t k = 0;
    ROOM(sc->byte_of, sc->byte_of_cap, n + 2);
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            sc->byte_of[k++] = (uint32_t)i;
    sc->byte_of[k] = (uint32_t)n;
}

/* Length of the white space character at s, or 0. */
static int blank_at(const char *s, size_t n)
{
    if (n == 0)
        return 0;
    unsigned char c = (unsigned char)s[0];
    if (c == ' ' || (c >= '\t' && c <= '\r'))
        return 1;
    if (c == 0xc2 && n > 1 && ((unsigned char)s[1] == 0xa0 || (unsigned char)s[1] == 0x85))
        return 2;
    if (c == 0xe3 && n > 2 && memcmp(s, "\xe3\x80\x80", 3) == 0)
        return 3;
    if (c == 0xe2 && n > 2) {
        uint32_t cp;
        utf8_decode(s, n, &cp);
        if ((cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f)
            return 3;
    }
    return 0;
}

/* Pieces of the whole text: spans without the white space around them, and whether each begins a word. */
static void take_pieces(const struct lingua *l, struct lingua_scratch *sc, struct lingua_text *out)
{
    const struct tokens *ts = &sc->tokens;
    const char *s = out->s.s;
    uint32_t end = 0; /* of the text that pieces have covered */
    for (size_t i = 0; i < ts->n; i++) {
        struct lingua_piece p = { sc->byte_of[ts->begin[i]], sc->byte_of[ts->end[i]], ts->id[i], 0, 0 };
        int k;
        bool gap = end == 0 || p.b > end; /* gaps hold white space, or characters that normalization removed */
        while (p.b < p.e && (k = blank_at(s + p.b, p.e - p.b)) > 0) {
            p.b += (uint32_t)k;
            gap = true;
        }
        while (p.e > p.b && (unsigned char)s[p.e - 1] <= ' ')
            p.e--;
        p.flags = ts->id[i] < l->size ? l->start_flag[ts->id[i]] : 0;
        if (gap || (l->spec.family == LINGUA_CAUSAL && lingua_is_punctuation(s + p.b, p.e - p.b)))
            p.flags |= PIECE_START;
        if (p.e > end)
            end = p.e;
        lingua_push_piece(out, p);
    }
}

/* Is the border in front of piece i the end of a sentence (2), of a word (1), or inside a word (0)? */
static int border(const struct lingua_text *t, size_t i)
{
    const struct lingua_piece *a = &t->piece[i - 1], *b = &t->piece[i];
    if (!(b->flags & PIECE_START) || b->b < a->e)
        return 0;
    const char *gap = t->s.s + a->e;
    if (memchr(gap, '\n', b->b - a->e))
        return 2;
    char last = a->e ? t->s.s[a->e - 1] : 0;
    return b->b > a->e && (last == '.' || last == '!' || last == '?') ? 2 : 1;
}

/* Chunks of at most `room` pieces that end with a sentence where the second half has one, else with a word. */
static void cut_chunks(struct lingua_text *t, size_t room)
{
    for (size_t at = 0; at < t->n;) {
        size_t end = at + room;
        if (end >= t->n) {
            end = t->n;
        } else {
            size_t word = 0, sentence = 0;
            for (size_t i = end; i > at + room / 2 && !sentence; i--) {
                int kind = border(t, i);
                if (kind == 2)
                    sentence = i;
                else if (kind == 1 && !word)
                    word = i;
            }
            end = sentence ? sentence : word ? word : end;
        }
        lingua_push_chunk(
            t, (struct lingua_chunk){ (uint32_t)at, (uint32_t)(end - at), t->piece[at].b, t->piece[end - 1].e, false });
        at = end;
    }
}

int lingua_split(const struct lingua *l, struct lingua_scratch *sc, const char *text, size_t n, struct lingua_text *out,
                 struct err *e)
{
    buf_reset(&out->s);
    out->n = out->nchunk = 0;
    if (l->spec.compat)
        return lingua_compat_split(l, sc, text, n, out, e);
    buf_add(&out->s, text, n);
    if (tokenizer_encode(l->spec.tokenizer, text, n, TOK_OFFSETS | TOK_SPLIT_SPECIALS, &sc->tokens, e) < 0)
        return -1;
    lingua_byte_table(sc, text, n);
    take_pieces(l, sc, out);
    cut_chunks(out, (size_t)(l->spec.window - (l->open >= 0) - (l->close >= 0)));
    return 0;
}

/* ---- rows ---- */

int lingua_rows(const struct lingua *l, const struct lingua_text *t, size_t chunk, int32_t *id, int32_t *position)
{
    const struct lingua_chunk *c = &t->chunk[chunk];
    int rows = 0, at = 0;
#define ROW(x)                                                                                                         \
    do {                                                                                                               \
        if (id)                                                                                                        \
            id[rows] = (x);                                                                                            \
        if (position)                                                                                                  \
            position[rows] = at;                                                                                       \
        rows++;                                                                                                        \
    } while (0)
    if (l->open >= 0) {
        ROW(l->open);
        at++;
    }
    for (uint32_t i = 0; i < c->n; i++, at++)
        if (!(t->piece[c->first + i].flags & PIECE_MASKED))
            ROW(t->piece[c->first + i].id);
    if (l->close >= 0 && !c->open)
        ROW(l->close);
#undef ROW
    return rows;
}

/* A causal model says of each row how likely the next one was: piece i has its number from the row in front. A first
 * piece with nothing in front is taken to be as surprising as the chunk's pieces are on average. */
static void store_surprisal(struct lingua_piece *p, uint32_t n, bool bos, const float *row)
{
    double sum = 0;
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 && !bos)
            continue;
        p[i].p = -row[i - !bos];
        sum += (double)p[i].p;
        have++;
    }
    if (n && !bos)
        p[0].p = have ? (float)(sum / have) : 0;
}

void lingua_store(const struct lingua *l, struct lingua_text *t, size_t chunk, const float *row)
{
    const struct lingua_chunk *c = &t->chunk[chunk];
    struct lingua_piece *p = t->piece + c->first;
    if (l->spec.family == LINGUA_CAUSAL) {
        store_surprisal(p, c->n, l->open >= 0, row);
        return;
    }
    size_t at = l->open >= 0;
    for (uint32_t i = 0; i < c->n; i++)
        p[i].p = p[i].flags & PIECE_MASKED ? 0 : row[at++];
}

/* ---- both behaviours ---- */

int lingua_merge(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t, struct lingua_words *w,
                 struct err *e)
{
    w->n = 0;
    w->weight = w->pieces = 0;
    w->text = t;
    buf_reset(&w->own);
    return l->spec.compat ? lingua_compat_merge(l, sc, t, w, e) : lingua_units(l, sc, t, w, e);
}

int lingua_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
               uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e)
{
    uint64_t none = 0;
    if (!keep) {
        ROOM(sc->keep, sc->keep_cap, w->n + 1);
        keep = sc->keep;
    }
    return (l->spec.compat ? lingua_compat_cut : lingua_unit_cut)(l, sc, w, ratio, keep, pieces ? pieces : &none, out,
                                                                  e);
}

int64_t lingua_count(struct lingua_scratch *sc, const struct tokenizer *t, const char *s, size_t n, struct err *e)
{
    if (tokenizer_encode(t, s, n, TOK_SPLIT_SPECIALS, &sc->again, e) < 0)
        return -1;
    return (int64_t)sc->again.n;
}

int64_t lingua_count_cl100k(const struct lingua *l, struct lingua_scratch *sc, const char *s, size_t n)
{
    return (int64_t)tiktoken_count(l->spec.cl100k, &sc->tik, s, n);
}
