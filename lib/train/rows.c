/* rows.c - see rows.h. */
#include "train/rows.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "io/record.h"
#include "model/dual.h"
#include "model/model.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct rows_inside {
    struct rows_spec spec;
    char *dir;
    struct tokenizer *tok;
    struct chat_template *chat; /* opened by the first conversation */
    struct dual *dual;          /* NULL: an ordinary model */
    struct tokens prefix, full;
    struct buf given, text; /* the two renderings */
    int32_t *labels;        /* of the row in hand */
    size_t cap;
    int32_t *joined; /* a prompt and what was tokenized apart from it */
    size_t joined_cap;
};

int rows_open(struct rows **out, const struct rows_spec *spec, struct err *e)
{
    struct rows *r = xcalloc(1, sizeof *r);
    struct rows_inside *in = r->inside = xcalloc(1, sizeof *in);
    *out = NULL;
    in->spec = *spec;
    in->dir = xstrdup(spec->dir);
    if (tokenizer_open(&in->tok, spec->dir, e) < 0 || dual_open(&in->dual, spec->dir, in->tok, e) < 0) {
        rows_close(r);
        return -1;
    }
    if (spec->latent_only && !in->dual) {
        rows_close(r);
        return err_set(e, "%s is no dual model: --latent-only has no latent ids to learn", spec->dir);
    }
    *out = r;
    return 0;
}

const struct dual *rows_dual(const struct rows *r)
{
    return r->inside->dual;
}

void rows_close(struct rows *r)
{
    if (!r)
        return;
    struct rows_inside *in = r->inside;
    dual_close(in->dual);
    chat_template_close(in->chat);
    tokenizer_close(in->tok);
    tokens_release(&in->prefix);
    tokens_release(&in->full);
    buf_release(&in->given);
    buf_release(&in->text);
    free(in->labels);
    free(in->joined);
    free(in->dir);
    free(in);
    free(r->row);
    arena_release(&r->memory);
    free(r);
}

/* ---- the question of a row ---- */

static bool text_member(struct json object, const char *key, struct buf *out)
{
    struct json v;
    buf_reset(out);
    if (!json_get(object, key, &v) || json_kind(v) != JSON_STRING)
        return false;
    json_str(v, out);
    return true;
}

/* Length without a last "_s" and the digits behind it; "gsm_small_7" has none. */
static size_t without_sample(const char *s, size_t n)
{
    size_t i = n;
    while (i > 0 && s[i - 1] >= '0' && s[i - 1] <= '9')
        i--;
    return i < n && i > 2 && s[i - 1] == 's' && s[i - 2] == '_' ? i - 2 : n;
}

/* question_source_id, else source_id without its sample, of the row or of its metadata. Without either the prompt is
 * the question, where there is one (NULL: none), else the row is one of its own. */
static uint64_t question_of(const struct rec *rec, const struct buf *prompt)
{
    struct buf b = BUF_INIT;
    struct json meta;
    if (!rec_get(rec, "metadata", &meta) || json_kind(meta) != JSON_OBJECT)
        meta = rec->object;
    bool found = text_member(meta, "question_source_id", &b) || text_member(rec->object, "question_source_id", &b);
    if (!found && (text_member(meta, "source_id", &b) || text_member(rec->object, "source_id", &b))) {
        found = true;
        b.len = without_sample(b.s ? b.s : "", b.len);
    }
    if (!found) {
        buf_reset(&b);
        if (prompt)
            buf_add(&b, prompt->s ? prompt->s : "", prompt->len);
        else
            buf_printf(&b, "row %llu", (unsigned long long)rec->index);
    }
    uint64_t h = hash_bytes(b.s ? b.s : "", b.len).lo;
    buf_release(&b);
    return h;
}

/* ---- taking a row: labels of the tokens themselves, -100 where nothing is learnt ---- */

static int32_t *labels_room(struct rows_inside *in, size_t n)
{
    if (n > in->cap) {
        in->cap = n + n / 2;
        in->labels = xreallocarray(in->labels, in->cap, sizeof *in->labels);
    }
    return in->labels;
}

static int keep(struct rows *r, const struct rec *rec, const int32_t *ids, const int32_t *labels, size_t n,
                const struct buf *prompt, struct err *e)
{
    const struct rows_inside *in = r->inside;
    const struct model_config *c = in->spec.config;
    int32_t classes = c->encoder ? c->labels : c->vocab;
    if (n > (size_t)in->spec.max_length) {
        r->dropped++;
        return 0;
    }
    struct train_row *row;
    bool others = false; /* something to learn, but not with latent_only */
    if ((r->n & (r->n + 1)) == 0 || r->n == 0)
        r->row = xreallocarray(r->row, 2 * (r->n + 1), sizeof *r->row);
    row = &r->row[r->n];
    *row = (struct train_row){ .n = (int)n, .question = question_of(rec, prompt) };
    row->ids = arena_alloc(&r->memory, n * sizeof *row->ids + 1);
    row->target = arena_alloc(&r->memory, n * sizeof *row->target + 1);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return err_set(e, "%s: token %zu is %d, the model's ids end at %d", rec->where, i, ids[i], c->vocab - 1);
        if (labels[i] != -100 && (labels[i] < 0 || labels[i] >= classes))
            return err_set(e, "%s: label %zu is %d, %s end at %d", rec->where, i, labels[i],
                           c->encoder ? "the model's classes" : "the model's ids", classes - 1);
        if (!c->encoder && labels[i] != -100 && labels[i] != ids[i])
            return err_set(e,
                           "%s: label %zu is %d, the token there is %d: a label is the token itself or -100, and is "
                           "not moved by one",
                           rec->where, i, labels[i], ids[i]);
        int32_t want = c->encoder ? labels[i] : i + 1 < n ? labels[i + 1] : -100;
        if (want >= 0 && in->spec.latent_only && !dual_is_latent(in->dual, want)) {
            others = true;
            want = -100;
        }
        row->ids[i] = ids[i];
        row->target[i] = want < 0 ? -1 : want;
        row->targets += want >= 0;
    }
    if (row->targets == 0 && others) {
        r->visible++;
        return 0;
    }
    if (row->targets == 0)
        return err_set(e, "%s: no token of this row has a label: it would train on nothing", rec->where);
    r->n++;
    return 1;
}

/* ---- conversations ---- */

static int render(struct rows_inside *in, const struct rec *rec, struct json messages, bool prompt, struct buf *out,
                  struct err *e)
{
    struct chat_input input = { .messages = messages,
                                .add_generation_prompt = prompt,
                                .bos_token = tokenizer_bos_token(in->tok),
                                .eos_token = tokenizer_eos_token(in->tok),
                                .date = -1 };
    if (!in->chat && chat_template_open(&in->chat, in->dir, e) < 0)
        return -1;
    buf_reset(out);
    if (chat_template_render(in->chat, &input, out, e) < 0)
        return err_prefix(e, "%s", rec->where);
    return 0;
}

static bool role_is(struct json message, const char *role)
{
    struct json v;
    return json_get(message, "role", &v) && json_kind(v) == JSON_STRING && json_str_is(v, role);
}

/* given: all turns but the last; text: all turns. */
static int render_chat(struct rows_inside *in, const struct rec *rec, struct json messages, size_t n, struct err *e)
{
    struct buf first = BUF_INIT;
    struct json_iter it = json_each(messages);
    struct json m;
    buf_putc(&first, '[');
    for (size_t i = 0; i + 1 < n && json_next(&it, NULL, &m); i++) {
        buf_puts(&first, i ? ", " : "");
        buf_add(&first, m.s, m.n);
    }
    buf_putc(&first, ']');
    int rc = render(in, rec, (struct json){ first.s, first.len }, true, &in->given, e) < 0 ||
                     render(in, rec, messages, false, &in->text, e) < 0
                 ? -1
                 : 0;
    buf_release(&first);
    return rc;
}

/* question, a blank, answer, end of text */
static int render_raw(struct rows_inside *in, const struct rec *rec, struct json messages, struct err *e)
{
    struct json_iter it = json_each(messages);
    struct json m;
    const char *end = tokenizer_eos_token(in->tok);
    struct buf answer = BUF_INIT;
    int turns = 0, rc = 0;
    buf_reset(&in->given);
    while (json_next(&it, NULL, &m)) {
        if (role_is(m, "system"))
            continue;
        rc = text_member(m, "content", turns ? &answer : &in->given) ? rc : -1;
        turns++;
    }
    if (rc < 0 || turns != 2)
        rc = err_set(e, "%s: raw text is made of one user turn and one assistant turn", rec->where);
    else if (answer.len && (strstr(answer.s, "<think>") || strstr(answer.s, "<answer>")))
        rc = err_set(e, "%s: the answer holds <think> or <answer>, which raw text has no place for", rec->where);
    buf_reset(&in->text);
    buf_add(&in->text, in->given.s ? in->given.s : "", in->given.len);
    buf_putc(&in->text, ' ');
    buf_add(&in->text, answer.s ? answer.s : "", answer.len);
    buf_puts(&in->text, end ? end : "");
    buf_release(&answer);
    return rc;
}

/* Where the reasoning ends, in code points of the text behind byte `from`; -1: cannot tell. */
static int64_t reasoning_end(const struct buf *text, size_t from)
{
    static const char *const mark[] = { "</think>", "<answer>", "\nThe final answer is", "\nThe answer is" };
    const char *at = NULL;
    if (from > text->len)
        return -1;
    for (size_t i = 0; i < sizeof mark / sizeof *mark && !at; i++)
        for (const char *p = text->s + from; (p = strstr(p, mark[i])); p++)
            at = p; /* the last one */
    if (!at)
        return -1;
    int64_t n = 0;
    for (const char *p = text->s; p < at; p++)
        n += ((unsigned char)*p & 0xC0) != 0x80;
    return n;
}

/* The first token behind the reasoning that begins at `first`. */
static size_t answer_begins(const struct rows_inside *in, size_t first)
{
    int64_t at = reasoning_end(&in->text, in->given.len);
    size_t end = first;
    while (at >= 0 && end < in->full.n && (int64_t)in->full.end[end] <= at)
        end++;
    return end;
}

/* Takes tokens out of the middle of [first, end) of `full`, so that the row has max_length tokens. Returns false if
 * there are not enough (two stay). */
static bool cut_middle(struct rows_inside *in, size_t first, size_t end)
{
    size_t too_many = in->full.n - (size_t)in->spec.max_length;
    if (end < first + too_many + 2)
        return false;
    size_t head = first + (end - first - too_many + 1) / 2;
    memmove(in->full.id + head, in->full.id + head + too_many, (in->full.n - head - too_many) * sizeof *in->full.id);
    in->full.n -= too_many;
    return true;
}

static int not_a_prefix(struct rows_inside *in, const struct rec *rec, size_t at, struct err *e)
{
    struct buf a = BUF_INIT, b = BUF_INIT;
    if (at < in->prefix.n)
        tokenizer_token(in->tok, in->prefix.id[at], &a);
    if (at < in->full.n)
        tokenizer_token(in->tok, in->full.id[at], &b);
    err_set(
        e,
        "%s: the prompt is no prefix of the row: token %zu is '%s' in the prompt and '%s' in the whole conversation "
        "(the answer's first characters join the prompt's last token, or the template changes earlier turns)",
        rec->where, at, a.s ? a.s : "", b.s ? b.s : "the end");
    buf_release(&a);
    buf_release(&b);
    return -1;
}

/* An empty thinking block behind a prompt that opens it: one token may hold the line ends of both. The sampler's prompt
 * ends between them, so that is where such a row is cut in two. */
static bool empty_thinking(const struct rows_inside *in)
{
    static const char open[] = "<think>\n", close[] = "\n</think>";
    size_t n = in->given.len, k = strlen(open);
    return n >= k && in->text.len > n && memcmp(in->given.s + n - k, open, k) == 0 &&
           memcmp(in->text.s, in->given.s, n) == 0 && strncmp(in->text.s + n, close, strlen(close)) == 0;
}

/* Its tokens: those of the prompt, then those of the rest (in->full). */
static int32_t *join(struct rows_inside *in)
{
    size_t n = in->prefix.n + in->full.n;
    if (n > in->joined_cap) {
        in->joined_cap = n + n / 2;
        in->joined = xreallocarray(in->joined, in->joined_cap, sizeof *in->joined);
    }
    memcpy(in->joined, in->prefix.id, in->prefix.n * sizeof *in->joined);
    memcpy(in->joined + in->prefix.n, in->full.id, in->full.n * sizeof *in->joined);
    return in->joined;
}

/* ---- thinking of dual models ---- */

static bool is_thinking(const struct rows_inside *in, const int32_t *ids, size_t first)
{
    const struct model_config *c = in->spec.config;
    return in->dual && dual_phase(in->dual, ids, (int64_t)first, c->eos, c->n_eos) == 0;
}

/* Where the thinking that begins at `first` ends; n: nowhere. By id, not by text: of several the first counts, as for
 * dual_remap, and nothing that is cut may hold it. */
static size_t think_end(const struct rows_inside *in, const int32_t *ids, size_t first, size_t n)
{
    size_t end = first;
    while (end < n && ids[end] != dual_meta(in->dual)->think_end_id)
        end++;
    return end;
}

static void make_latent(struct rows *r, int32_t *ids, size_t first, size_t n)
{
    struct rows_inside *in = r->inside;
    int64_t end = dual_remap(in->dual, ids, (int64_t)first, (int64_t)n);
    for (int64_t i = (int64_t)first; i < end; i++)
        if (dual_is_latent(in->dual, ids[i]))
            r->latent++;
        else
            r->stayed++;
}

/* What is learnt: ids[first .. n), labels likewise. */
static int keep_chat(struct rows *r, const struct rec *rec, int32_t *ids, size_t first, size_t n, struct err *e)
{
    struct rows_inside *in = r->inside;
    int32_t *labels = labels_room(in, n + 1);
    bool thinks = is_thinking(in, ids, first);
    if (thinks && think_end(in, ids, first, n) == n) {
        r->endless++;
        return 0;
    }
    if (thinks)
        make_latent(r, ids, first, n);
    for (size_t i = 0; i < n; i++)
        labels[i] = i < first ? -100 : ids[i];
    return keep(r, rec, ids, labels, n, &in->given, e);
}

static int add_chat(struct rows *r, const struct rec *rec, struct json messages, struct err *e)
{
    struct rows_inside *in = r->inside;
    struct json last;
    size_t n = json_kind(messages) == JSON_ARRAY ? json_count(messages) : 0;
    if (in->spec.config->encoder)
        return err_set(e, "%s: %s is an encoder: it learns from words and labels, not from messages", rec->where,
                       in->spec.config->family_name);
    if (n == 0 || !json_at(messages, n - 1, &last) || !role_is(last, "assistant"))
        return err_set(e, "%s: the last of the messages must be the assistant's", rec->where);
    if ((in->spec.raw ? render_raw(in, rec, messages, e) : render_chat(in, rec, messages, n, e)) < 0)
        return -1;
    size_t apart = empty_thinking(in) ? in->given.len : 0;
    if (tokenizer_encode(in->tok, in->given.s ? in->given.s : "", in->given.len, 0, &in->prefix, e) < 0 ||
        tokenizer_encode(in->tok, in->text.s ? in->text.s + apart : "", in->text.len - apart, TOK_OFFSETS, &in->full,
                         e) < 0)
        return -1;
    size_t first = in->prefix.n;
    if (apart)
        return keep_chat(r, rec, join(in), first, first + in->full.n, e);
    for (size_t i = 0; i < first; i++)
        if (i >= in->full.n || in->prefix.id[i] != in->full.id[i])
            return not_a_prefix(in, rec, i, e);
    bool thinks = is_thinking(in, in->full.id, first);
    size_t end = thinks ? think_end(in, in->full.id, first, in->full.n) : answer_begins(in, first);
    bool endless = thinks && end == in->full.n;
    if (in->full.n > (size_t)in->spec.max_length && in->spec.cut_middle && !endless && cut_middle(in, first, end))
        r->cut++;
    return keep_chat(r, rec, in->full.id, first, in->full.n, e);
}

/* ---- tokens and words ---- */

static int integers(const struct rec *rec, const char *key, struct json list, int32_t *out, size_t n, struct err *e)
{
    struct json_iter it = json_each(list);
    struct json v;
    for (size_t i = 0; i < n && json_next(&it, NULL, &v); i++) {
        int64_t x = 0;
        bool truth;
        if (json_bool(v, &truth))
            x = truth;
        else if (!json_int(v, &x) || x < INT32_MIN || x > INT32_MAX)
            return err_set(e, "%s: \"%s\" %zu is %.*s, expected a whole number", rec->where, key, i,
                           (int)(v.n > 40 ? 40 : v.n), v.s);
        out[i] = (int32_t)x;
    }
    return 0;
}

static int both_lists(const struct rec *rec, const char *key, struct json a, struct json *labels, size_t *n,
                      struct err *e)
{
    if (!rec_get(rec, "labels", labels) || json_kind(*labels) != JSON_ARRAY || json_kind(a) != JSON_ARRAY)
        return err_set(e, "%s: \"%s\" and \"labels\" must be lists", rec->where, key);
    *n = json_count(a);
    if (json_count(*labels) != *n)
        return err_set(e, "%s: %zu %s and %zu labels", rec->where, *n, key, json_count(*labels));
    return 0;
}

static int add_tokens(struct rows *r, const struct rec *rec, struct json ids, struct err *e)
{
    struct json list;
    size_t n;
    if (both_lists(rec, "ids", ids, &list, &n, e) < 0)
        return -1;
    int32_t *labels = labels_room(r->inside, 2 * n + 1), *id = labels + n;
    if (integers(rec, "ids", ids, id, n, e) < 0 || integers(rec, "labels", list, labels, n, e) < 0)
        return -1;
    return keep(r, rec, id, labels, n, NULL, e);
}

static void put_token(struct rows_inside *in, size_t *n, int32_t **ids, int32_t id, int32_t label)
{
    labels_room(in, 2 * (*n + 1)); /* pairs, taken apart afterwards */
    in->labels[2 * *n] = id;
    in->labels[2 * *n + 1] = label;
    *ids = in->labels;
    (*n)++;
}

static int add_words(struct rows *r, const struct rec *rec, struct json words, struct err *e)
{
    struct rows_inside *in = r->inside;
    struct json list, v;
    size_t count, n = 0;
    int32_t *pairs = NULL;
    if (!in->spec.config->encoder)
        return err_set(e, "%s: words and labels are for encoders, this model is %s", rec->where,
                       in->spec.config->family_name);
    if (both_lists(rec, "words", words, &list, &count, e) < 0)
        return -1;
    int32_t *label = xcalloc(count + 1, sizeof *label);
    int rc = integers(rec, "labels", list, label, count, e);
    /* what stands around a text: half of the tokens of the empty one on each side */
    if (rc == 0)
        rc = tokenizer_encode(in->tok, "", 0, TOK_SPECIALS, &in->prefix, e);
    for (size_t i = 0; rc == 0 && i < (in->prefix.n + 1) / 2; i++)
        put_token(in, &n, &pairs, in->prefix.id[i], -100);
    struct json_iter it = json_each(words);
    for (size_t w = 0; rc == 0 && w < count && json_next(&it, NULL, &v); w++) {
        if (json_kind(v) != JSON_STRING) {
            rc = err_set(e, "%s: word %zu is no text", rec->where, w);
            break;
        }
        buf_reset(&in->text);
        json_str(v, &in->text);
        rc = tokenizer_encode(in->tok, in->text.s ? in->text.s : "", in->text.len, 0, &in->full, e);
        for (size_t i = 0; rc == 0 && i < in->full.n; i++)
            put_token(in, &n, &pairs, in->full.id[i], i > 0 && in->spec.first_piece ? -100 : label[w]);
    }
    for (size_t i = (in->prefix.n + 1) / 2; rc == 0 && i < in->prefix.n; i++)
        put_token(in, &n, &pairs, in->prefix.id[i], -100);
    free(label);
    if (rc < 0)
        return -1;
    int32_t *id = xcalloc(2 * n + 1, sizeof *id);
    for (size_t i = 0; i < n; i++) {
        id[i] = pairs[2 * i];
        id[n + i] = pairs[2 * i + 1];
    }
    rc = keep(r, rec, id, id + n, n, NULL, e);
    free(id);
    return rc;
}

int rows_add(struct rows *r, const struct rec *rec, struct err *e)
{
    struct json v;
    if (rec_get(rec, "messages", &v))
        return add_chat(r, rec, v, e);
    if (rec_get(rec, "ids", &v))
        return add_tokens(r, rec, v, e);
    if (rec_get(rec, "words", &v))
        return add_words(r, rec, v, e);
    return err_set(e, "%s: no \"messages\", no \"ids\", no \"words\": nothing to train on", rec->where);
}

/* ---- for people ---- */

int rows_show(struct rows *r, size_t i, size_t limit, struct buf *out, struct err *e)
{
    const struct rows_inside *in = r->inside;
    const struct train_row *row = &r->row[i];
    bool encoder = in->spec.config->encoder;
    int first = 0;
    while (first < row->n && row->target[first] < 0)
        first++;
    first += !encoder; /* the token that is predicted, not the one it is predicted from */
    struct buf a = BUF_INIT, b = BUF_INIT;
    int rc = tokenizer_decode(in->tok, row->ids, (size_t)first, false, &a, e);
    if (rc == 0)
        rc = tokenizer_decode(in->tok, row->ids + first, (size_t)(row->n - first), false, &b, e);
    size_t skip = a.len > limit ? a.len - limit : 0;
    while (skip < a.len && ((unsigned char)a.s[skip] & 0xC0) == 0x80)
        skip++;
    size_t show = b.len > limit ? limit : b.len;
    while (show < b.len && show > 0 && ((unsigned char)b.s[show] & 0xC0) == 0x80)
        show--;
    buf_printf(out, "%d tokens, %d learnt: %s%s \u2502\u2502 %.*s%s", row->n, row->targets, skip ? "... " : "",
               a.s ? a.s + skip : "", (int)show, b.s ? b.s : "", show < b.len ? " ..." : "");
    buf_release(&a);
    buf_release(&b);
    return rc;
}
