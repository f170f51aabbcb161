/* llmlingua_compat.c - the llmlingua package 0.2.2 under numpy 2, step by step, faults included (pipelines
 * specification, 2.2 to 2.8). Comments name the package's functions. */
#define _GNU_SOURCE /* memmem */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/err.h"
#include "base/utf8.h"
#include "task/llmlingua_private.h"

#define METASPACE "\xe2\x96\x81"

/* ---- opening ---- */

static int add_map(struct lingua *l, const char *word, size_t index, struct err *e)
{
    struct lingua_map *m = &l->map[l->nmap++];
    m->word = word;
    m->n = strlen(word);
    m->token_n = (size_t)snprintf(m->token, sizeof m->token, "[NEW%zu]", index);
    m->id = tokenizer_id(l->spec.tokenizer, m->token);
    return m->id >= 0 ? 0 : err_set(e, "the compressor's tokenizer has no token %s", m->token);
}

/* init_llmlingua2 adds [NEW0] .. [NEW99]; compress_prompt_llmlingua2 maps force words that are no single piece. */
static int map_force_words(struct lingua *l, struct err *e)
{
    char name[LINGUA_MAX_FORCE][20];
    struct tok_added added[LINGUA_MAX_FORCE];
    struct tokens ts = TOKENS_INIT;
    int rc = 0;
    bool needed = false;
    for (size_t i = 0; i < l->spec.nforce && !needed && rc == 0; i++) {
        rc = tokenizer_encode(l->spec.tokenizer, l->spec.force[i], l->force_n[i], 0, &ts, e);
        needed = ts.n != 1;
    }
    if (rc == 0 && needed) {
        for (int i = 0; i < LINGUA_MAX_FORCE; i++) {
            snprintf(name[i], sizeof name[i], "[NEW%d]", i);
            added[i] = (struct tok_added){ name[i], false, false, false, false, true };
        }
        rc = tokenizer_add(l->spec.tokenizer, added, LINGUA_MAX_FORCE, NULL, e);
    }
    for (size_t i = 0; i < l->spec.nforce && needed && rc == 0; i++) {
        rc = tokenizer_encode(l->spec.tokenizer, l->spec.force[i], l->force_n[i], 0, &ts, e);
        if (rc == 0 && ts.n != 1)
            rc = add_map(l, l->spec.force[i], i, e);
    }
    tokens_release(&ts);
    return rc;
}

static void add_id(int32_t *list, int *n, int32_t id)
{
    if (id >= 0)
        list[(*n)++] = id;
}

/* TokenClfDataset is made without the model's name and so takes BERT's strings for every model. */
static int32_t bert_id(const struct lingua *l, const char *token)
{
    int32_t id = tokenizer_id(l->spec.tokenizer, token);
    return id >= 0 ? id : l->unk;
}

int lingua_compat_open(struct lingua *l, struct err *e)
{
    static const char *const xlmr[] = { "<s>", "</s>", "<unk>", "<pad>", "<mask>" };
    static const char *const bert[] = { "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]" };
    if (l->spec.family == LINGUA_CAUSAL)
        return err_set(e, "the llmlingua package has no surprisal method to be compatible with");
    if (l->spec.nforce > LINGUA_MAX_FORCE)
        return err_set(e, "at most %d force words", LINGUA_MAX_FORCE);
    if (!l->spec.cl100k)
        return err_set(e, "the package's weights are cl100k tokens: their rank table is needed");
    if (!l->spec.tokenizer)
        return 0;
    for (int i = 0; i < 5; i++)
        add_id(l->special, &l->nspecial,
               tokenizer_id(l->spec.tokenizer, l->spec.family == LINGUA_BERT ? bert[i] : xlmr[i]));
    if (!l->spec.fixed_specials) {
        l->open = bert_id(l, "[CLS]");
        l->close = bert_id(l, "[SEP]");
    }
    l->pad = tokenizer_id(l->spec.tokenizer, "[PAD]");
    if (map_force_words(l, e) < 0)
        return -1;
    add_id(l->ends, &l->nends, tokenizer_id(l->spec.tokenizer, "."));
    add_id(l->ends, &l->nends, tokenizer_id(l->spec.tokenizer, "\n"));
    for (int i = 0; i < l->nmap; i++)
        if (strcmp(l->map[i].word, ".") == 0 || strcmp(l->map[i].word, "\n") == 0)
            add_id(l->ends, &l->nends, l->map[i].id);
    return 0;
}

static bool listed(const int32_t *list, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* ---- strings, as Python does them ---- */

static void replace_all(struct buf *b, const char *from, size_t nf, const char *to, size_t nt)
{
    struct buf out = BUF_INIT;
    const char *s = b->s, *end = b->s + b->len, *at;
    if (!nf || !b->len || !memmem(s, b->len, from, nf))
        return;
    while ((at = memmem(s, (size_t)(end - s), from, nf))) {
        buf_add(&out, s, (size_t)(at - s));
        buf_add(&out, to, nt);
        s = at + nf;
    }
    buf_add(&out, s, (size_t)(end - s));
    buf_release(b);
    *b = out;
}

/* One token of a Metaspace decoder: blanks for the marks, none at all for the first token. */
static void decode_metaspace(struct buf *out, const char *s, size_t n, bool first)
{
    for (const char *end = s + n, *at; s < end; s = at + 3) {
        at = memmem(s, (size_t)(end - s), METASPACE, 3);
        if (!at) {
            buf_add(out, s, (size_t)(end - s));
            return;
        }
        buf_add(out, s, (size_t)(at - s));
        if (!first)
            buf_putc(out, ' ');
    }
}

/* One token of a WordPiece decoder with its clean-up, which sees each token alone. */
static void decode_wordpiece(struct buf *out, const char *s, size_t n, bool first)
{
    static const char *const clean[][2] = { { " .", "." },     { " ?", "?" },           { " !", "!" },
                                            { " ,", "," },     { " ' ", "'" },          { " n't", "n't" },
                                            { " 'm", "'m" },   { " do not", " don't" }, { " 's", "'s" },
                                            { " 've", "'ve" }, { " 're", "'re" } };
    size_t at = out->len;
    if (!first && n >= 2 && memcmp(s, "##", 2) == 0) {
        s += 2;
        n -= 2;
    } else if (!first) {
        buf_putc(out, ' ');
    }
    buf_add(out, s, n);
    if (memchr(s, ' ', n)) { /* a force word with blanks: the general way */
        struct buf b = BUF_INIT;
        buf_add(&b, out->s + at, out->len - at);
        for (size_t i = 0; i < sizeof clean / sizeof *clean; i++)
            replace_all(&b, clean[i][0], strlen(clean[i][0]), clean[i][1], strlen(clean[i][1]));
        out->len = at;
        buf_add(out, b.s, b.len);
        buf_release(&b);
        return;
    }
    if (out->len == at || out->s[at] != ' ')
        return;
    static const char *const glued[] = { ".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re" };
    for (size_t i = 0; i < sizeof glued / sizeof *glued; i++)
        if (strncmp(out->s + at + 1, glued[i], strlen(glued[i])) == 0) {
            memmove(out->s + at, out->s + at + 1, out->len - at); /* with its NUL */
            out->len--;
            return;
        }
}

static void decode_token(const struct lingua *l, struct buf *out, const char *s, size_t n, bool first)
{
    (l->spec.family == LINGUA_BERT ? decode_wordpiece : decode_metaspace)(out, s, n, first);
}

/* ---- __chunk_context ---- */

/* tokenize() shows a Unigram's unknown piece as the text it stands for. Offsets point into the text before
 * normalization, so the normalized text is tokenized once more where there is such a piece. */
static int encode_with_unknowns(const struct lingua *l, struct lingua_scratch *sc, struct buf *text, bool *spans,
                                struct err *e)
{
    const struct tokenizer *t = l->spec.tokenizer;
    *spans = false;
    if (tokenizer_encode(t, text->s ? text->s : "", text->len, 0, &sc->tokens, e) < 0)
        return -1;
    bool unknown = false;
    for (size_t i = 0; i < sc->tokens.n && !unknown; i++)
        unknown = sc->tokens.id[i] == l->unk;
    if (!unknown || l->spec.family == LINGUA_BERT)
        return 0;
    struct buf norm = BUF_INIT;
    if (tokenizer_normalize(t, text->s, text->len, &norm, e) < 0 ||
        tokenizer_encode(t, norm.s ? norm.s : "", norm.len, TOK_OFFSETS, &sc->again, e) < 0) {
        buf_release(&norm);
        return -1;
    }
    bool same =
        sc->again.n == sc->tokens.n && memcmp(sc->again.id, sc->tokens.id, sc->tokens.n * sizeof *sc->tokens.id) == 0;
    if (same) {
        buf_release(text);
        *text = norm;
    } else {
        buf_release(&norm);
        if (tokenizer_encode(t, text->s, text->len, TOK_OFFSETS, &sc->again, e) < 0)
            return -1;
    }
    lingua_byte_table(sc, text->s, text->len);
    *spans = true;
    return 0;
}

/* convert_tokens_to_string over tokens [st, end) of the text. */
static void decode_range(const struct lingua *l, struct lingua_scratch *sc, const struct buf *text, bool spans,
                         size_t st, size_t end, struct buf *out)
{
    for (size_t i = st; i < end; i++) {
        if (spans && sc->tokens.id[i] == l->unk) {
            uint32_t b = sc->byte_of[sc->again.begin[i]], e = sc->byte_of[sc->again.end[i]];
            decode_token(l, out, text->s + b, e - b, i == st);
            continue;
        }
        buf_reset(&sc->b);
        tokenizer_token(l->spec.tokenizer, sc->tokens.id[i], &sc->b);
        decode_token(l, out, sc->b.s ? sc->b.s : "", sc->b.len, i == st);
    }
}

static const struct lingua_map *mapped(const struct lingua *l, int32_t id)
{
    for (int i = 0; i < l->nmap; i++)
        if (l->map[i].id == id)
            return &l->map[i];
    return NULL;
}

/* The chunk's text with the force words back in, behind what is there. */
static void unmap_chunk(const struct lingua *l, struct lingua_text *out, struct lingua_chunk *c)
{
    struct buf b = BUF_INIT;
    if (!l->nmap)
        return;
    buf_add(&b, out->s.s + c->b, c->e - c->b);
    for (int k = 0; k < l->nmap; k++)
        replace_all(&b, l->map[k].token, l->map[k].token_n, l->map[k].word, l->map[k].n);
    c->b = (uint32_t)out->s.len;
    buf_add(&out->s, b.s, b.len);
    c->e = (uint32_t)out->s.len;
    buf_release(&b);
}

/* The chunk as TokenClfDataset tokenizes it again: its pieces become pieces of out. */
static int retokenize(const struct lingua *l, struct lingua_scratch *sc, struct lingua_text *out, uint32_t b,
                      uint32_t e, struct err *err)
{
    const struct tokenizer *t = l->spec.tokenizer;
    size_t window = (size_t)l->spec.window;
    if (tokenizer_encode(t, out->s.s ? out->s.s + b : "", e - b, 0, &sc->again, err) < 0)
        return -1;
    const struct tokens *ts = &sc->again;
    bool open = ts->n + 2 > window;
    size_t n = ts->n + 1 > window ? window - 1 : ts->n;
    struct lingua_chunk c = { (uint32_t)out->n, (uint32_t)n, b, e, open };
    for (size_t i = 0; i < n; i++) {
        struct lingua_piece p = { (uint32_t)out->s.len, 0, ts->id[i], 0, 0 };
        const struct lingua_map *map = mapped(l, ts->id[i]);
        if (ts->id[i] < l->size)
            p.flags = l->start_flag[ts->id[i]];
        if (map) { /* replace_added_token */
            buf_add(&out->s, map->word, map->n);
            p.flags |= PIECE_FORCE;
        } else {
            tokenizer_token(t, ts->id[i], &out->s);
        }
        p.e = (uint32_t)out->s.len;
        if (listed(l->special, l->nspecial, ts->id[i]))
            p.flags |= PIECE_SPECIAL;
        if (ts->id[i] == l->pad)
            p.flags |= PIECE_MASKED | PIECE_SPECIAL;
        lingua_push_piece(out, p);
    }
    unmap_chunk(l, out, &c);
    lingua_push_chunk(out, c);
    return 0;
}

int lingua_compat_split(const struct lingua *l, struct lingua_scratch *sc, const char *text, size_t n,
                        struct lingua_text *out, struct err *e)
{
    struct buf s = BUF_INIT;
    bool spans;
    buf_add(&s, text, n);
    for (int i = 0; i < l->nmap; i++)
        replace_all(&s, l->map[i].word, l->map[i].n, l->map[i].token, l->map[i].token_n);
    int rc = encode_with_unknowns(l, sc, &s, &spans, e);
    size_t total = rc == 0 ? sc->tokens.n : 0, room = (size_t)l->spec.window - 2;
    buf_reset(&sc->a); /* where each chunk's text ends */
    for (size_t st = 0; st < total;) {
        size_t end = total;
        if (st + room <= total - 1) {
            size_t last = st + room;
            for (size_t j = last; j > st; j--)
                if (listed(l->ends, l->nends, sc->tokens.id[j])) {
                    last = j;
                    break;
                }
            end = last + 1;
        }
        decode_range(l, sc, &s, spans, st, end, &out->s);
        uint32_t at = (uint32_t)out->s.len;
        buf_add(&sc->a, &at, sizeof at);
        st = end;
    }
    buf_release(&s);
    uint32_t b = 0;
    for (size_t i = 0; rc == 0 && i < sc->a.len / sizeof(uint32_t); i++) {
        uint32_t end;
        memcpy(&end, sc->a.s + i * sizeof end, sizeof end);
        rc = retokenize(l, sc, out, b, end, e);
        b = end;
    }
    return rc;
}

void lingua_whole(const struct lingua_text *t, struct buf *out)
{
    for (size_t i = 0; i < t->nchunk; i++)
        buf_add(out, t->s.s + t->chunk[i].b, t->chunk[i].e - t->chunk[i].b);
}

/* ---- __merge_token_to_word, __token_prob_to_word_prob ---- */

/* re.search(r"\\d", token) */
static bool has_digit(const char *s, size_t n)
{
    uint32_t cp;
    for (int k; n && (k = utf8_decode(s, n, &cp)) > 0; s += k, n -= (size_t)k)
        if (cp < 0x80 ? cp >= '0' && cp <= '9' : utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND)
            return true;
    return false;
}

static void pure_token(const struct lingua *l, const char **s, size_t *n)
{
    if (l->spec.family == LINGUA_BERT)
        for (; *n && **s == '#'; ++*s)
            --*n;
    else
        for (; *n >= 3 && memcmp(*s, METASPACE, 3) == 0; *s += 3)
            *n -= 3;
}

/* What Python's sum() holds: a Python float until the first np.float32 comes, float32 from then on. */
struct sum {
    double wide;
    float narrow;
    bool is_narrow;
};

static void sum_add(struct sum *a, bool forced, float p)
{
    if (forced && !a->is_narrow) {
        a->wide += 1.0;
    } else if (!a->is_narrow) {
        a->narrow = (float)a->wide + p;
        a->is_narrow = true;
    } else {
        a->narrow += forced ? 1.0f : p;
    }
}

static void close_word(const struct lingua *l, struct lingua_words *w, struct lingua_word *x, const struct sum *a,
                       const struct sum *first)
{
    x->e = (uint32_t)w->own.len;
    const struct sum *s = l->spec.first ? first : a;
    float count = l->spec.first ? 1.0f : (float)x->pieces;
    x->wide = !s->is_narrow;
    x->p = s->is_narrow ? (double)(s->narrow / count) : s->wide / (double)count;
    x->force = lingua_is_force(l, w->own.s + x->b, x->e - x->b);
}

static void merge_chunk(const struct lingua *l, const struct lingua_text *t, uint32_t chunk, struct lingua_words *w)
{
    const struct lingua_chunk *c = &t->chunk[chunk];
    struct sum a = { 0, 0, false }, first = a;
    struct lingua_word *x = NULL;
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        const struct lingua_piece *p = &t->piece[i];
        const char *s = t->s.s + p->b;
        size_t n = p->e - p->b;
        if (p->flags & PIECE_SPECIAL)
            continue;
        const char *bare = s;
        size_t bare_n = n;
        pure_token(l, &bare, &bare_n);
        /* A chunk that begins inside a word is an IndexError there; here it begins one. */
        bool start = (p->flags & PIECE_START) || !x, forced = l->spec.force_digits && has_digit(s, n);
        if (start) {
            if (x)
                close_word(l, w, x, &a, &first);
            x = lingua_push_word(w);
            x->b = (uint32_t)w->own.len;
            x->chunk = chunk;
            a = (struct sum){ 0, 0, false };
            forced |= (p->flags & PIECE_FORCE) || lingua_is_force(l, bare, bare_n);
            buf_add(&w->own, s, n);
        } else {
            buf_add(&w->own, bare, bare_n);
        }
        sum_add(&a, forced, p->p);
        if (start)
            first = a;
        x->pieces++;
    }
    if (x)
        close_word(l, w, x, &a, &first);
}

/* ---- weights ---- */

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return (h ^ h >> 32) | 1;
}

static void grow_weights(struct lingua_scratch *sc)
{
    size_t slots = sc->slots ? sc->slots * 2 : 4096;
    struct weight_slot *slot = xcalloc(slots, sizeof *slot);
    for (size_t i = 0; i < sc->slots; i++)
        if (sc->slot[i].hash) {
            size_t k = sc->slot[i].hash & (slots - 1);
            while (slot[k].hash)
                k = (k + 1) & (slots - 1);
            slot[k] = sc->slot[i];
        }
    free(sc->slot);
    sc->slot = slot;
    sc->slots = slots;
}

/* len(oai_tokenizer.encode(word)), remembered. */
static uint32_t weight_of(const struct lingua *l, struct lingua_scratch *sc, const char *s, size_t n)
{
    enum { MANY = 1 << 20 };
    if (sc->used > MANY) { /* words of this thread are a cache, not a record */
        memset(sc->slot, 0, sc->slots * sizeof *sc->slot);
        buf_reset(&sc->words);
        sc->used = 0;
    }
    if (sc->used * 2 >= sc->slots)
        grow_weights(sc);
    uint64_t h = hash(s, n);
    size_t i = h & (sc->slots - 1);
    for (; sc->slot[i].hash; i = (i + 1) & (sc->slots - 1))
        if (sc->slot[i].hash == h && sc->slot[i].n == n && memcmp(sc->words.s + sc->slot[i].at, s, n) == 0)
            return sc->slot[i].weight;
    uint32_t weight = (uint32_t)tiktoken_count(l->spec.cl100k, &sc->tik, s, n);
    sc->slot[i] = (struct weight_slot){ h, (uint32_t)sc->words.len, (uint32_t)n, weight };
    buf_add(&sc->words, s, n);
    sc->used++;
    return weight;
}

/* ---- order and percentile ---- */

static void sort_range(uint32_t *order, size_t n, const struct lingua_word *word, const double *p)
{
    /* heapsort: in place, no worst case, and equal values may come in any order here */
#define KEY(i) (p ? p[order[i]] : word[order[i]].p)
    for (size_t end = n, start = n / 2; end > 1;) {
        if (start) {
            start--;
        } else {
            uint32_t x = order[--end];
            order[end] = order[0];
            order[0] = x;
        }
        for (size_t root = start, child; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && KEY(child) < KEY(child + 1))
                child++;
            if (KEY(root) >= KEY(child))
                break;
            uint32_t x = order[root];
            order[root] = order[child];
            order[child] = x;
        }
    }
#undef KEY
}

static void order_chunk(struct lingua_words *w, size_t from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w->order[from + i] = (uint32_t)(from + i);
    sort_range(w->order + from, n, w->word, NULL);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        w->cum[from + i] = sum += w->word[w->order[from + i]].weight;
}

int lingua_compat_merge(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_text *t,
                        struct lingua_words *w, struct err *e)
{
    (void)e;
    for (size_t c = 0; c < t->nchunk; c++) {
        size_t from = w->n;
        merge_chunk(l, t, (uint32_t)c, w);
        for (size_t i = from; i < w->n; i++) {
            struct lingua_word *x = &w->word[i];
            x->weight = weight_of(l, sc, w->own.s + x->b, x->e - x->b);
            w->weight += x->weight;
            w->pieces += x->pieces;
        }
        lingua_order_room(w);
        order_chunk(w, from, w->n - from);
    }
    w->s = w->own.s;
    w->n_s = w->own.len;
    return 0;
}

/* The value at `index` of the list in which every word stands as often as it weighs. */
static double at_index(const struct lingua_word *word, const uint32_t *order, const uint64_t *cum, size_t n,
                       uint64_t index, const double *p)
{
    size_t lo = 0, hi = n - 1;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cum[mid] > index)
            hi = mid;
        else
            lo = mid + 1;
    }
    return p ? p[order[lo]] : word[order[lo]].p;
}

/* numpy 2's percentile, method linear, for a list of float32 (narrow) or of Python floats among them (wide). */
static double percentile(const struct lingua_word *word, const uint32_t *order, const uint64_t *cum, size_t n, int q,
                         bool wide, const double *p)
{
    uint64_t total = cum[n - 1];
    if (total == 0)
        return (double)NAN;
    double v = (double)(total - 1) * ((double)q / 100.0);
    if (v >= (double)(total - 1))
        return at_index(word, order, cum, n, total - 1, p);
    double i = floor(v), t = v - i;
    double a = at_index(word, order, cum, n, (uint64_t)i, p), b = at_index(word, order, cum, n, (uint64_t)i + 1, p);
    if (wide)
        return t >= 0.5 ? b - (b - a) * (1 - t) : a + (b - a) * t;
    float fa = (float)a, fb = (float)b, d = fb - fa;
    float up = d * (float)t, down = d * (float)(1 - t);
    return t >= 0.5 ? (double)(fb - down) : (double)(fa + up);
}

int lingua_percent(double ratio)
{
    double reduce = 1 - ratio > 0 ? 1 - ratio : 0;
    return (int)(100 * reduce + 1);
}

/* ---- __compress ---- */

static bool same_word(const struct lingua_words *w, const struct lingua_word *a, const struct lingua_word *b)
{
    return a->e - a->b == b->e - b->b && memcmp(w->own.s + a->b, w->own.s + b->b, a->e - a->b) == 0;
}

/* drop_consecutive: force words behind themselves lose their probability. p: [n] of these words; returns whether one
 * did, which makes the list wide. */
static bool silence_repeats(struct lingua_scratch *sc, const struct lingua_words *w, size_t from, size_t n,
                            double ratio, bool wide, double *p)
{
    double reduce = 1 - ratio > 0 ? 1 - ratio : 0;
    const struct lingua_word *word = w->word + from, *prev = NULL;
    bool between = false, any = false;
    ROOM(sc->idx, sc->idx_cap, n);
    uint64_t *ones = xreallocarray(NULL, n, sizeof *ones);
    for (size_t i = 0; i < n; i++) {
        sc->idx[i] = (uint32_t)i;
        ones[i] = i + 1;
    }
    sort_range(sc->idx, n, word, NULL);
    double threshold = percentile(word, sc->idx, ones, n, (int)(100 * reduce), wide, NULL);
    free(ones);
    for (size_t i = 0; i < n; i++) {
        if (!word[i].force) {
            between |= p[i] > threshold;
            continue;
        }
        if (between) {
            between = false;
        } else if (prev && same_word(w, &word[i], prev)) {
            p[i] = 0;
            any = true;
        }
        prev = &word[i];
    }
    return any;
}

static double threshold_of(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, size_t from,
                           size_t n, double ratio, double *p)
{
    const struct lingua_word *word = w->word + from;
    bool wide = false;
    for (size_t i = 0; i < n; i++) {
        p[i] = word[i].p;
        wide |= word[i].wide;
    }
    int q = lingua_percent(ratio);
    if (!l->spec.drop_consecutive || !silence_repeats(sc, w, from, n, ratio, wide, p))
        return percentile(w->word, w->order + from, w->cum + from, n, q, wide, NULL);
    ROOM(sc->idx, sc->idx_cap, n);
    uint64_t *cum = xreallocarray(NULL, n, sizeof *cum), sum = 0;
    for (size_t i = 0; i < n; i++)
        sc->idx[i] = (uint32_t)i;
    sort_range(sc->idx, n, word, p);
    for (size_t i = 0; i < n; i++)
        cum[i] = sum += word[sc->idx[i]].weight;
    double t = percentile(word, sc->idx, cum, n, q, true, p);
    free(cum);
    return t;
}

static void cut_chunk(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, size_t from,
                      size_t n, double ratio, uint8_t *keep, uint64_t *pieces, struct buf *out)
{
    const struct lingua_word *word = w->word + from, *last = NULL;
    ROOM(sc->dbl, sc->dbl_cap, n);
    double t = threshold_of(l, sc, w, from, n, ratio, sc->dbl);
    const double *p = sc->dbl;
    for (size_t i = 0; i < n; i++) {
        keep[from + i] = p[i] > t || (t == 1.0 && p[i] == t);
        if (!keep[from + i])
            continue;
        if (l->spec.drop_consecutive && word[i].force && last && same_word(w, last, &word[i])) {
            keep[from + i] = 0;
            continue;
        }
        decode_token(l, out, w->own.s + word[i].b, word[i].e - word[i].b, !last);
        *pieces += word[i].pieces;
        last = &word[i];
    }
}

int lingua_compat_cut(const struct lingua *l, struct lingua_scratch *sc, const struct lingua_words *w, double ratio,
                      uint8_t *keep, uint64_t *pieces, struct buf *out, struct err *e)
{
    *pieces = 0;
    (void)e;
    if (1 - ratio <= 0) {
        lingua_whole(w->text, out);
        memset(keep, 1, w->n);
        *pieces = w->pieces;
        return 0;
    }
    for (size_t from = 0, to; from < w->n; from = to) {
        for (to = from; to < w->n && w->word[to].chunk == w->word[from].chunk; to++)
            ;
        cut_chunk(l, sc, w, from, to - from, ratio, keep, pieces, out);
    }
    return 0;
}
