/* tokenizer.c - opening, encoding, the vocabulary; see tokenizer.h. */
#include "text/tokenizer.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/utf8.h"
#include "text/added.h"
#include "text/parts.h"
#include "text/unicode.h"

enum { MAX_FILE = 1 << 30 };

/* ---- memory of a thread ---- */

void tokens_room(struct tokens *ts, size_t extra)
{
    size_t cap = ts->cap;
    ts->id = grow(ts->id, &cap, ts->n + extra, sizeof *ts->id);
    if (cap == ts->cap)
        return;
    ts->cap = cap;
    ts->begin = xreallocarray(ts->begin, cap, sizeof *ts->begin);
    ts->end = xreallocarray(ts->end, cap, sizeof *ts->end);
    ts->type = xreallocarray(ts->type, cap, sizeof *ts->type);
}

struct tok_scratch *scratch_of(struct tokens *ts)
{
    if (!ts->scratch)
        ts->scratch = xcalloc(1, sizeof *ts->scratch);
    return ts->scratch;
}

void scratch_free(struct tok_scratch *sc)
{
    if (!sc)
        return;
    buf_release(&sc->repaired);
    buf_release(&sc->tmp);
    nstr_release(&sc->ns);
    free(sc->piece);
    free(sc->piece2);
    free(sc->match);
    regex_scratch_free(sc->md);
    free(sc->bpe);
    free(sc->heap);
    free(sc->best);
    free(sc->cp);
    free(sc->blank);
    wordcache_free(sc->cache);
    if (sc->other)
        tokens_release(sc->other);
    free(sc->other);
    free(sc);
}

void tokens_release(struct tokens *ts)
{
    free(ts->id);
    free(ts->begin);
    free(ts->end);
    free(ts->type);
    scratch_free(ts->scratch);
    *ts = (struct tokens)TOKENS_INIT;
}

/* ---- encoding ---- */

static int run_pieces(const struct tokenizer *t, struct tok_scratch *sc, bool offsets, struct tokens *out,
                      struct err *e)
{
    if (pre_run(t, sc, e) < 0)
        return -1;
    for (size_t i = 0; i < sc->n_piece; i++) {
        const struct piece *p = &sc->piece[i];
        if (p->id >= 0)
            tokens_push(out, p->id, p->b, p->e);
        else if (model_run(t, sc, p->b, p->e, p->shift, offsets, out, e) < 0)
            return -1;
    }
    return 0;
}

static void add_piece(struct tok_scratch *sc, uint32_t b, uint32_t e, int32_t id)
{
    const struct nstr *ns = &sc->ns;
    if (b == e)
        return;
    sc->piece = grow(sc->piece, &sc->cap_piece, sc->n_piece + 1, sizeof *sc->piece);
    struct piece p = { b, e, ns->track ? ns->al[b].b : ns->shift, id };
    if (id >= 0 && ns->track)
        p = (struct piece){ ns->al[b].b, ns->al[e - 1].e, 0, id };
    sc->piece[sc->n_piece++] = p;
}

/* Text between added tokens that are searched raw. */
static int segment(const struct tokenizer *t, struct tok_scratch *sc, const char *s, size_t n, size_t at,
                   unsigned flags, struct tokens *out, struct err *e)
{
    bool offsets = flags & TOK_OFFSETS;
    struct nstr *ns = &sc->ns;
    nstr_set(ns, s, n, (uint32_t)at, offsets || t->need_track);
    if (norm_run(t, sc, ns, e) < 0)
        return -1;
    sc->n_piece = 0;
    struct found f = { 0, 0, 0, 0 };
    size_t from = 0;
    if (ns->n > INT32_MAX)
        return err_set(e, "normalized text of %zu bytes is too long", ns->n);
    while (t->any_normalized && added_next(t, true, flags & TOK_SPLIT_SPECIALS, ns->s, ns->n, from, &f)) {
        add_piece(sc, (uint32_t)f.floor, (uint32_t)f.b, -1);
        add_piece(sc, (uint32_t)f.b, (uint32_t)f.e, f.id);
        from = f.floor = f.e;
    }
    add_piece(sc, (uint32_t)f.floor, (uint32_t)ns->n, -1);
    return run_pieces(t, sc, offsets, out, e);
}

/* Byte offsets in text to code points. */
static void to_code_points(struct tok_scratch *sc, const char *s, size_t n, size_t first, struct tokens *out)
{
    size_t i = 0;
    while (i < n && (unsigned char)s[i] < 0x80)
        i++;
    if (i == n)
        return;
    sc->cp = grow(sc->cp, &sc->cp_cap, n + 1, sizeof *sc->cp);
    uint32_t count = 0;
    for (i = 0; i < n; i++) {
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
        sc->cp[i] = count - 1;
    }
    sc->cp[n] = count;
    for (i = first; i < out->n; i++) {
        out->begin[i] = sc->cp[out->begin[i] < n ? out->begin[i] : n];
        out->end[i] = sc->cp[out->end[i] < n ? out->end[i] : n];
    }
}

/* An added token's text, for the trimming of offsets, is what it matched, swallowed blanks included. */
static void note_blanks(const struct tokenizer *t, struct tok_scratch *sc, const char *s, size_t first,
                        const struct tokens *out)
{
    struct str text;
    for (size_t i = first; i < out->n; i++) {
        if (!added_text(t, out->id[i], &text) || out->end[i] - out->begin[i] == text.n)
            continue;
        uint32_t n = out->end[i] - out->begin[i];
        sc->blank = grow(sc->blank, &sc->cap_blank, sc->n_blank + 1, sizeof *sc->blank);
        sc->blank[sc->n_blank++] = (struct swallowed){ i, (uint32_t)count_blanks(s + out->begin[i], n, false),
                                                       (uint32_t)count_blanks(s + out->begin[i], n, true) };
    }
}

static int encode_text(const struct tokenizer *t, const char *s, size_t n, unsigned flags, struct tokens *out,
                       struct err *e)
{
    struct tok_scratch *sc = scratch_of(out);
    size_t first = out->n, from = 0;
    if (n > INT32_MAX)
        return err_set(e, "text of %zu bytes is longer than 2 GiB", n);
    if (utf8_check(s, n) != n) {
        buf_reset(&sc->repaired);
        uni_repair(s, n, &sc->repaired);
        s = sc->repaired.s;
        n = sc->repaired.len;
        if (n > INT32_MAX)
            return err_set(e, "text of %zu bytes is longer than 2 GiB", n);
    }
    struct found f = { 0, 0, 0, 0 };
    while (added_next(t, false, flags & TOK_SPLIT_SPECIALS, s, n, from, &f)) {
        if (f.b > f.floor && segment(t, sc, s + f.floor, f.b - f.floor, f.floor, flags, out, e) < 0)
            return -1;
        tokens_push(out, f.id, (uint32_t)f.b, (uint32_t)f.e);
        from = f.floor = f.e;
    }
    if (f.floor < n && segment(t, sc, s + f.floor, n - f.floor, f.floor, flags, out, e) < 0)
        return -1;
    if (flags & TOK_OFFSETS) {
        note_blanks(t, sc, s, first, out);
        to_code_points(sc, s, n, first, out);
    }
    return 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct tokens *out,
                     struct err *e)
{
    out->n = 0;
    scratch_of(out)->n_blank = 0;
    if (encode_text(t, text, n, flags, out, e) < 0)
        return err_prefix(e, "%s", t->name);
    return post_run(t, flags & TOK_SPECIALS, flags & TOK_OFFSETS, out->n, false, out, e);
}

int tokenizer_encode_pair(const struct tokenizer *t, const char *a, size_t na, const char *b, size_t nb, unsigned flags,
                          struct tokens *out, struct err *e)
{
    out->n = 0;
    scratch_of(out)->n_blank = 0;
    if (encode_text(t, a, na, flags, out, e) < 0)
        return err_prefix(e, "%s", t->name);
    size_t n_a = out->n;
    if (encode_text(t, b, nb, flags, out, e) < 0)
        return err_prefix(e, "%s", t->name);
    return post_run(t, flags & TOK_SPECIALS, flags & TOK_OFFSETS, n_a, true, out, e);
}

int tokenizer_normalize(const struct tokenizer *t, const char *text, size_t n, struct buf *out, struct err *e)
{
    struct tokens ts = TOKENS_INIT;
    struct tok_scratch *sc = scratch_of(&ts);
    struct buf good = BUF_INIT;
    uni_repair(text, n, &good);
    nstr_set(&sc->ns, good.s ? good.s : "", good.len, 0, false);
    int rc = norm_run(t, sc, &sc->ns, e);
    if (rc == 0)
        buf_add(out, sc->ns.s, sc->ns.n);
    buf_release(&good);
    tokens_release(&ts);
    return rc;
}

int tokenizer_pieces(const struct tokenizer *t, const char *text, size_t n,
                     void (*fn)(void *arg, const char *s, size_t n), void *arg, struct err *e)
{
    struct tokens ts = TOKENS_INIT;
    struct tok_scratch *sc = scratch_of(&ts);
    struct buf good = BUF_INIT;
    uni_repair(text, n, &good);
    nstr_set(&sc->ns, good.s ? good.s : "", good.len, 0, t->need_track);
    sc->n_piece = 0;
    add_piece(sc, 0, (uint32_t)good.len, -1);
    int rc = pre_run(t, sc, e);
    for (size_t i = 0; rc == 0 && i < sc->n_piece; i++)
        fn(arg, sc->ns.s + sc->piece[i].b, sc->piece[i].e - sc->piece[i].b);
    buf_release(&good);
    tokens_release(&ts);
    return rc;
}

/* ---- the vocabulary ---- */

int32_t tokenizer_id_n(const struct tokenizer *t, const char *token, size_t n)
{
    int32_t k = vocab_find(&t->added_map, token, n);
    if (k >= 0)
        return t->added[k].id;
    k = latent_id(t, token, n);
    return k >= 0 ? k : vocab_find(&t->model.v, token, n);
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
    return tokenizer_id_n(t, token, strlen(token));
}

bool tokenizer_token(const struct tokenizer *t, int32_t id, struct buf *out)
{
    struct str s;
    if (!added_text(t, id, &s)) {
        if (latent_text(t, id, out))
            return true;
        if (id < 0 || (uint32_t)id >= t->model.v.size || !t->model.v.tok[id].s)
            return false;
        s = t->model.v.tok[id];
    }
    buf_add(out, s.s, s.n);
    return true;
}

int32_t tokenizer_size(const struct tokenizer *t)
{
    int32_t size = (int32_t)t->model.v.size;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= size)
            size = t->added[i].id + 1;
    if (t->latent_count && t->latent_first + t->latent_count > size)
        size = t->latent_first + t->latent_count;
    return size;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->added_of_n && t->added_of[id] && t->added[t->added_of[id] - 1].special;
}

bool tokenizer_is_added(const struct tokenizer *t, int32_t id)
{
    struct str s;
    return added_text(t, id, &s) ||
           (t->latent_count && id >= t->latent_first && id - t->latent_first < t->latent_count);
}

bool tokenizer_latent_range(const struct tokenizer *t, int32_t *first, int32_t *count)
{
    if (t->latent_count == 0)
        return false;
    *first = t->latent_first;
    *count = t->latent_count;
    return true;
}

static int32_t id_or_none(const struct tokenizer *t, const char *token)
{
    return token ? tokenizer_id(t, token) : -1;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return id_or_none(t, t->bos);
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return id_or_none(t, t->eos);
}

int32_t tokenizer_pad(const struct tokenizer *t)
{
    return id_or_none(t, t->pad);
}

int32_t tokenizer_unk(const struct tokenizer *t)
{
    return t->unk ? tokenizer_id(t, t->unk) : t->model.unk >= 0 ? t->model.unk : -1;
}

const char *tokenizer_bos_token(const struct tokenizer *t)
{
    return t->bos;
}

const char *tokenizer_eos_token(const struct tokenizer *t)
{
    return t->eos;
}

const char *tokenizer_pad_token(const struct tokenizer *t)
{
    return t->pad;
}

int tokenizer_add(struct tokenizer *t, const struct tok_added *tokens, size_t n, int32_t *first_id, struct err *e)
{
    static _Atomic uint64_t serial = (uint64_t)1 << 32;
    for (size_t i = 0; i < n; i++)
        if (add_one(t, &tokens[i], -1, e) < 0)
            return -1;
    if (first_id)
        *first_id = n ? tokenizer_id(t, tokens[0].content) : -1;
    t->serial = atomic_fetch_add(&serial, 1);
    return added_refresh(t, e);
}

/* ---- opening ---- */

static bool is_latent(const struct tokenizer *t, int64_t id)
{
    return t->latent_count && t->latent_head.s && id >= t->latent_first && id - t->latent_first < t->latent_count;
}

static int added_entry(struct tokenizer *t, struct json x, int64_t *id, struct buf *text, struct err *e)
{
    struct json v;
    if (!json_get(x, "id", &v) || !json_int(v, id) || *id < 0)
        return err_set(e, "an entry of added_tokens has no id");
    if (is_latent(t, *id))
        return 0;
    if (!json_get(x, "content", &v) || json_kind(v) != JSON_STRING)
        return err_set(e, "added token %lld has no content", (long long)*id);
    buf_reset(text);
    json_str(v, text);
    bool special = obj_flag(x, "special", false);
    struct tok_added a = {
        text->s ? text->s : "",       obj_flag(x, "single_word", false),   obj_flag(x, "lstrip", false),
        obj_flag(x, "rstrip", false), obj_flag(x, "normalized", !special), special
    };
    if (strlen(a.content) != text->len)
        return err_set(e, "added token %lld holds U+0000", (long long)*id);
    if (vocab_find(&t->added_map, a.content, text->len) >= 0)
        return err_set(e, "added token \"%.60s\" stands twice", a.content);
    return add_one(t, &a, *id, e);
}

/* The list whose "[" is at p; *end is where it ends, behind "]". */
static int added_parse(struct tokenizer *t, const char *p, const char *doc_end, const char **end, struct err *e)
{
    struct json x, list = { p, (size_t)(doc_end - p) };
    struct buf text = BUF_INIT;
    struct json_iter it = json_each(list); /* goes as far as we let it */
    int rc = 0;
    while (rc == 0 && *it.p != ']' && json_next(&it, NULL, &x)) {
        int64_t id;
        rc = added_entry(t, x, &id, &text, e);
        if (rc == 0 && is_latent(t, id) && id == t->latent_first)
            it.p = latent_skip(t, x, it.p, it.end);
    }
    *end = it.p + 1;
    buf_release(&text);
    t->n_file_added = t->n_added;
    return rc;
}

/* Is the member at it->p the list of added tokens? Then it is read without walking over it once more, and passed. */
static int added_member(struct tokenizer *t, struct json_iter *it, struct json doc, struct err *e)
{
    static const char name[] = "\"added_tokens\"";
    static const char blanks[] = " \n\t\r";
    const char *p = it->p, *end = it->end, *close;
    if ((size_t)(end - p) < sizeof name || memcmp(p, name, sizeof name - 1) != 0)
        return 0;
    for (p += sizeof name - 1; p < end && (*p == ':' || memchr(blanks, *p, 4)); p++)
        ;
    if (*p != '[')
        return 0;
    if (t->span_added.n)
        return err_set(e, "added_tokens stands twice");
    if (added_parse(t, p, doc.s + doc.n, &close, e) < 0)
        return -1;
    t->span_added = (struct json){ p, (size_t)(close - p) };
    for (p = close; p < end && memchr(blanks, *p, 4); p++)
        ;
    if (p < end && *p == ',')
        for (p++; p < end && memchr(blanks, *p, 4); p++)
            ;
    it->p = p;
    return 1;
}

/* Pieces may stay raw bytes when the last thing that happens to them is ByteLevel and the model knows every letter. */
static void choose_raw(struct tokenizer *t)
{
    struct model *m = &t->model;
    m->raw = m->kind == MODEL_BPE && t->n_pre && t->pre[t->n_pre - 1].kind == PRE_BYTELEVEL && m->bytes_complete &&
             m->prefix.n == 0 && m->suffix.n == 0;
}

int tokenizer_parse(struct tokenizer *t, struct err *e)
{
    struct json doc, key, v, none = { NULL, 0 }, norm = none, pre = none, post = none, dec = none, model = none;
    int rc;
    if (json_parse(&doc, t->json.s ? t->json.s : "", t->json.len, e) < 0)
        return -1;
    if (json_kind(doc) != JSON_OBJECT)
        return err_set(e, "expected an object");
    struct json_iter it = json_each(doc);
    while ((rc = added_member(t, &it, doc, e)) == 1 || (rc == 0 && json_next(&it, &key, &v))) {
        if (rc == 1)
            continue;
        if (json_str_is(key, "normalizer"))
            norm = v;
        else if (json_str_is(key, "pre_tokenizer"))
            pre = v;
        else if (json_str_is(key, "post_processor"))
            post = v;
        else if (json_str_is(key, "decoder"))
            dec = v;
        else if (json_str_is(key, "model"))
            model = v;
    }
    if (rc < 0)
        return -1;
    if (model.n == 0)
        return err_set(e, "no \"model\": not a tokenizer.json");
    if (norm_parse(t, norm, e) < 0 || pre_parse(t, pre, e) < 0 || post_parse(t, post, e) < 0 ||
        dec_parse(t, dec, e) < 0 || model_parse(t, model, e) < 0)
        return -1;
    choose_raw(t);
    return added_refresh(t, e);
}

static struct tokenizer *tokenizer_new(const char *name)
{
    static _Atomic uint64_t serial = 1;
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->serial = atomic_fetch_add(&serial, 1);
    t->name = xstrdup(name);
    vocab_init(&t->added_map, 64);
    return t;
}

int tokenizer_open_json(struct tokenizer **out, const char *json, size_t n, const char *name, struct err *e)
{
    struct tokenizer *t = tokenizer_new(name);
    buf_add(&t->json, json, n);
    if (tokenizer_parse(t, e) < 0) {
        tokenizer_close(t);
        return err_prefix(e, "%s", name);
    }
    *out = t;
    return 0;
}

static char *token_text(struct json v) /* "text" or {"content": "text"} */
{
    struct json c;
    if (json_kind(v) == JSON_OBJECT && json_get(v, "content", &c))
        v = c;
    return json_kind(v) == JSON_STRING ? json_str_dup(v) : NULL;
}

static int config_read(struct tokenizer *t, const char *dir, const char *name, struct err *e)
{
    static const char *const keys[] = { "bos_token", "eos_token", "pad_token", "unk_token" };
    char **to[] = { &t->bos, &t->eos, &t->pad, &t->unk };
    char *path = path_join(dir, name);
    struct buf text = BUF_INIT;
    struct json doc, v;
    int rc = 0;
    if (file_exists(path)) {
        rc = file_read(&text, path, MAX_FILE, e);
        if (rc == 0 && (rc = json_parse(&doc, text.s ? text.s : "", text.len, e)) < 0)
            err_prefix(e, "%s", path);
        for (int i = 0; rc == 0 && i < 4; i++)
            if (!*to[i] && obj_get(doc, keys[i], &v))
                *to[i] = token_text(v);
        if (rc == 0 && obj_flag(doc, "clean_up_tokenization_spaces", false))
            t->clean_up = true;
    }
    buf_release(&text);
    free(path);
    return rc;
}

static int open_folder(struct tokenizer *t, const char *dir, const char *json, struct err *e)
{
    if (latent_open(t, dir, e) < 0)
        return -1;
    if (file_exists(json)) {
        free(t->name);
        t->name = xstrdup(json);
        if (file_read(&t->json, json, MAX_FILE, e) < 0)
            return -1;
        if (tokenizer_parse(t, e) < 0)
            return err_prefix(e, "%s", json);
    } else if (files_open(t, dir, e) < 0) {
        return -1;
    }
    if (config_read(t, dir, "tokenizer_config.json", e) < 0)
        return -1;
    return config_read(t, dir, "special_tokens_map.json", e);
}

int tokenizer_open(struct tokenizer **out, const char *path, struct err *e)
{
    struct tokenizer *t = tokenizer_new(path);
    char *dir, *json;
    if (file_is_dir(path)) {
        dir = xstrdup(path);
        json = path_join(path, "tokenizer.json");
    } else {
        const char *base = path_base(path);
        dir = base == path ? xstrdup(".") : xstrndup(path, (size_t)(base - path));
        json = xstrdup(path);
        if (!file_exists(path)) {
            free(dir);
            free(json);
            tokenizer_close(t);
            return err_set(e, "%s: no such folder or tokenizer.json", path);
        }
    }
    int rc = open_folder(t, dir, json, e);
    free(dir);
    free(json);
    if (rc < 0) {
        tokenizer_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_norm; i++) {
        regex_close(t->norm[i].re);
        free(t->norm[i].map.unit);
        free(t->norm[i].map.pool);
    }
    for (size_t i = 0; i < t->n_pre; i++)
        regex_close(t->pre[i].re);
    for (size_t i = 0; i < t->n_dec; i++)
        regex_close(t->dec[i].re);
    free(t->norm);
    free(t->pre);
    free(t->dec);
    free(t->post);
    model_release(&t->model);
    free(t->added);
    free(t->added_of);
    vocab_release(&t->added_map);
    trie_release(&t->raw_trie);
    trie_release(&t->normal_trie);
    free(t->source);
    free(t->source_sorted);
    free(t->bos);
    free(t->eos);
    free(t->pad);
    free(t->unk);
    buf_release(&t->json);
    arena_release(&t->arena);
    free(t->name);
    free(t);
}
