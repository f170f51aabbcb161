/* select.c - see select.h. Records that wait for the end are kept as their lines. */
#include "task/select.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/hash.h"
#include "io/record.h"
#include "task/think.h"

/* ---- 128-bit keys to numbers ---- */

struct key_slot {
    struct hash128 key;
    uint64_t value;
    bool used;
};

struct keys {
    struct key_slot *slot;
    size_t cap, n;
};

/* The value of a key; *is_new: it was not there, and the caller writes the value. */
static uint64_t *keys_at(struct keys *k, struct hash128 key, bool *is_new)
{
    if (k->n * 2 >= k->cap) {
        struct keys old = *k;
        k->cap = old.cap ? old.cap * 2 : 1024;
        k->slot = xcalloc(k->cap, sizeof *k->slot);
        k->n = 0;
        for (size_t i = 0; i < old.cap; i++)
            if (old.slot[i].used) {
                bool ignore;
                *keys_at(k, old.slot[i].key, &ignore) = old.slot[i].value;
            }
        free(old.slot);
    }
    size_t i = key.lo & (k->cap - 1);
    while (k->slot[i].used && !hash_equal(k->slot[i].key, key))
        i = (i + 1) & (k->cap - 1);
    *is_new = !k->slot[i].used;
    if (*is_new) {
        k->slot[i] = (struct key_slot){ key, 0, true };
        k->n++;
    }
    return &k->slot[i].value;
}

static struct hash128 key_of(const char *a, size_t na, const char *b, size_t nb)
{
    struct hasher *h = hasher_new();
    uint64_t n = na;
    hasher_add(h, &n, sizeof n);
    hasher_add(h, a, na);
    hasher_add(h, b, nb);
    struct hash128 x = hasher_get(h);
    hasher_free(h);
    return x;
}

/* ---- the selector ---- */

struct held {
    size_t at, n; /* its line */
    uint64_t group;
    int64_t length;
    double score;
    bool keep;
};

struct order { /* for qsort, which has no argument */
    uint64_t group;
    double key; /* small first */
    size_t i;
};

struct selector {
    struct select_spec spec;
    struct select_counts n;
    struct keys groups, seen, scores; /* seen: for dedup; scores: index into value */
    double *value;
    size_t nvalue, value_cap;
    struct buf lines, id, text, question, flat;
    struct held *held;
    size_t nheld, held_cap;
};

static size_t add_value(struct selector *s, double v)
{
    if (s->nvalue == s->value_cap) {
        s->value_cap = s->value_cap ? s->value_cap * 2 : 1024;
        s->value = xreallocarray(s->value, s->value_cap, sizeof *s->value);
    }
    s->value[s->nvalue] = v;
    return s->nvalue++;
}

/* The ratio as text that is equal for equal numbers; "" without one. */
static int ratio_text(const struct rec *r, char out[32], struct err *e)
{
    struct json v;
    double ratio;
    out[0] = 0;
    if (!rec_get(r, "compression_ratio", &v))
        return 0;
    if (rec_real(r, "compression_ratio", &ratio, e) < 0)
        return -1;
    snprintf(out, 32, "%.12g", ratio);
    return 0;
}

static int read_score_file(struct selector *s, const char *path, struct err *e)
{
    struct rec_reader *in;
    struct rec r;
    int rc;
    if (rec_open(&in, &path, 1, e) < 0)
        return -1;
    while ((rc = rec_read(in, &r, e)) > 0) {
        char ratio[32];
        double v;
        bool is_new, skipped = false;
        struct json flag;
        if (rec_get(&r, "skipped", &flag) && json_bool(flag, &skipped) && skipped)
            continue;
        buf_reset(&s->id);
        if (rec_text(&r, "source_id", &s->id, e) < 0 || ratio_text(&r, ratio, e) < 0 ||
            rec_real(&r, s->spec.by, &v, e) < 0) {
            rc = -1;
            break;
        }
        uint64_t *at = keys_at(&s->scores, key_of(s->id.s, s->id.len, ratio, strlen(ratio)), &is_new);
        *at = is_new ? add_value(s, v) : *at;
        s->value[*at] = v; /* a row that stands twice: the later one counts, as in the reference */
    }
    rec_close(in);
    return rc < 0 ? -1 : 0;
}

int selector_open(struct selector **out, const struct select_spec *spec, struct err *e)
{
    struct selector *s = xcalloc(1, sizeof *s);
    *out = NULL;
    s->spec = *spec;
    for (size_t i = 0; i < spec->nscores; i++)
        if (read_score_file(s, spec->scores[i], e) < 0) {
            selector_close(s);
            return -1;
        }
    *out = s;
    return 0;
}

void selector_close(struct selector *s)
{
    if (!s)
        return;
    free(s->groups.slot);
    free(s->seen.slot);
    free(s->scores.slot);
    free(s->value);
    free(s->held);
    buf_release(&s->lines);
    buf_release(&s->id);
    buf_release(&s->text);
    buf_release(&s->question);
    buf_release(&s->flat);
    free(s);
}

const struct select_counts *selector_counts(const struct selector *s)
{
    return &s->n;
}

/* ---- one record ---- */

size_t select_question_id(const char *source_id, size_t n)
{
    for (size_t i = n; i >= 2; i--)
        if (source_id[i - 2] == '_' && source_id[i - 1] == 's')
            return i - 2;
    return n;
}

static int read_question(struct selector *s, const struct rec *r, struct err *e)
{
    buf_reset(&s->question);
    int rc = rec_text_or_null(r, "question_source_id", &s->question, e);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (rec_text(r, "source_id", &s->question, e) < 0)
        return -1;
    s->question.len = select_question_id(s->question.s, s->question.len);
    return 0;
}

static int read_length(const struct selector *s, const struct rec *r, int64_t *out, struct err *e)
{
    static const char *const keys[] = { "reasoning_token_count", "compressed_reasoning_token_count",
                                        "response_token_count" };
    struct json v;
    if (s->spec.whole)
        return rec_int(r, keys[2], out, e);
    for (int i = 0; i < 3; i++)
        if (rec_get(r, keys[i], &v) && json_kind(v) != JSON_NULL)
            return rec_int(r, keys[i], out, e);
    return err_set(e, "%s: no reasoning_token_count, compressed_reasoning_token_count or response_token_count",
                   r->where);
}

/* The text that is compared and shown: the compressed reasoning, else the reasoning, else the response. Trimmed. The
 * reference has no response in place of a reasoning that is not there. */
static int read_text(struct selector *s, const struct rec *r, struct view *out, struct err *e)
{
    static const char *const keys[] = { "compressed_reasoning", "reasoning", "response_text" };
    int first = s->spec.whole ? 2 : 0, end = s->spec.compat && !s->spec.whole ? 2 : 3;
    buf_reset(&s->text);
    for (int i = first; i < end; i++) {
        int rc = rec_text_or_null(r, keys[i], &s->text, e);
        if (rc < 0)
            return -1;
        if (rc > 0) {
            *out = view_trim(s->text.s ? s->text.s : "", s->text.len);
            return 0;
        }
    }
    *out = (struct view){ "", 0 };
    return 0;
}

static bool needs_length(const struct select_spec *p)
{
    return p->min_tokens >= 0 || p->max_tokens >= 0 || p->shortest || p->exemplars;
}

/* The filters: 1 goes on, 0 does not, -1. */
static int passes(struct selector *s, const struct rec *r, int64_t *length, struct err *e)
{
    const struct select_spec *p = &s->spec;
    bool right = true;
    if ((p->correct || p->exemplars) && rec_bool(r, "is_correct", &right, e) < 0)
        return -1;
    if (!right)
        return s->n.wrong++, 0;
    *length = 0;
    if (needs_length(p) && read_length(s, r, length, e) < 0)
        return -1;
    if (p->min_tokens >= 0 && *length < p->min_tokens)
        return s->n.too_short++, 0;
    if (p->max_tokens >= 0 && *length > p->max_tokens - (p->exemplars && p->compat))
        return s->n.too_long++, 0;
    return 1;
}

/* Is it the first of its text? In one group; exemplars compare over the whole input, as the reference does. */
static int is_first(struct selector *s, const struct rec *r, const char *group, size_t n, struct err *e)
{
    struct view text;
    bool is_new;
    if (read_text(s, r, &text, e) < 0)
        return -1;
    if (text.n == 0 && s->spec.compat) /* nothing was thought: that is no repeat */
        return 1;
    keys_at(&s->seen, key_of(group, s->spec.exemplars ? 0 : n, text.s, text.n), &is_new);
    if (!is_new)
        s->n.repeated++;
    return is_new;
}

/* The score that comes with the record or from the score files; NaN: none. */
static int read_score(struct selector *s, const struct rec *r, const char *ratio, double *out, struct err *e)
{
    struct json v;
    *out = (double)NAN;
    if (rec_get(r, s->spec.by, &v) && json_kind(v) != JSON_NULL)
        return rec_real(r, s->spec.by, out, e);
    buf_reset(&s->id);
    if (rec_text(r, "source_id", &s->id, e) < 0)
        return -1;
    if (!s->scores.n)
        return 0;
    struct hash128 key = key_of(s->id.s, s->id.len, ratio, strlen(ratio));
    for (size_t i = key.lo & (s->scores.cap - 1); s->scores.slot[i].used; i = (i + 1) & (s->scores.cap - 1))
        if (hash_equal(s->scores.slot[i].key, key)) {
            *out = s->value[s->scores.slot[i].value];
            return 0;
        }
    return 0;
}

static void put_exemplar(struct selector *s, const struct rec *r, int64_t length, const struct view *text);

static int hold(struct selector *s, const struct rec *r, const char *ratio, int64_t length, const char *group, size_t n,
                struct err *e)
{
    struct held h = { .length = length };
    bool is_new;
    if (s->spec.top > 0) {
        if (read_score(s, r, ratio, &h.score, e) < 0)
            return -1;
        if (isnan(h.score))
            return s->n.unscored++, 0;
    }
    uint64_t *g = keys_at(&s->groups, key_of(group, n, "", 0), &is_new);
    if (is_new)
        *g = s->groups.n - 1;
    h.group = *g;
    h.at = s->lines.len;
    if (s->spec.exemplars) {
        struct view text;
        if (read_text(s, r, &text, e) < 0)
            return -1;
        if (text.n == 0 || length <= 0)
            return 0;
        put_exemplar(s, r, length, &text);
    } else {
        buf_add(&s->lines, r->line, r->len);
    }
    h.n = s->lines.len - h.at;
    if (s->nheld == s->held_cap) {
        s->held_cap = s->held_cap ? s->held_cap * 2 : 1024;
        s->held = xreallocarray(s->held, s->held_cap, sizeof *s->held);
    }
    s->held[s->nheld++] = h;
    return 0;
}

static int add_flat(struct selector *s, const struct rec *r, struct buf *out, struct err *e)
{
    char ratio[32];
    int64_t length;
    bool grouped = s->spec.shortest || s->spec.top > 0 || s->spec.exemplars || s->spec.nested;
    s->n.in++;
    bool repeats_first = s->spec.compat && s->spec.dedup && !s->spec.exemplars;
    int rc = repeats_first ? 1 : passes(s, r, &length, e);
    if (rc <= 0)
        return rc;
    if (grouped || s->spec.dedup) {
        if (read_question(s, r, e) < 0 || ratio_text(r, ratio, e) < 0)
            return -1;
        buf_putc(&s->question, '\n'); /* question and ratio make the group */
        buf_puts(&s->question, ratio);
    }
    if (s->spec.dedup || s->spec.exemplars) {
        rc = is_first(s, r, s->question.s, s->question.len, e);
        if (rc <= 0)
            return rc;
    }
    if (repeats_first && (rc = passes(s, r, &length, e)) <= 0)
        return rc;
    if (grouped)
        return hold(s, r, ratio, length, s->question.s, s->question.len, e);
    buf_add(out, r->line, r->len);
    buf_putc(out, '\n');
    s->n.out++;
    return 0;
}

/* ---- the reference's files: one object a question, its samples inside ---- */

static void put_value(struct buf *b, struct json object, const char *from, const char *key)
{
    struct json v;
    if (json_get(object, from, &v))
        rec_put(b, key, v);
    else
        rec_put_null(b, key);
}

static void put_raw(struct buf *b, const struct rec *r, const char *key)
{
    put_value(b, r->object, key, key);
}

static int flatten_one(const struct rec *r, struct json sample, const struct buf *id, struct buf *out, struct err *e)
{
    struct json v, text, shown;
    int64_t index;
    if (json_kind(sample) != JSON_OBJECT || !json_get(sample, "sample_idx", &v) || !json_int(v, &index))
        return err_set(e, "%s: a member of \"samples\" is no object with a whole number as \"sample_idx\"", r->where);
    bool has_text = json_get(sample, "text", &text), has_shown = json_get(sample, "response_text", &shown);
    if (!has_text && !has_shown)
        return err_set(e, "%s: sample %lld has neither \"response_text\" nor \"text\"", r->where, (long long)index);
    struct buf own = BUF_INIT;
    buf_printf(&own, "%s_s%lld", id->s, (long long)index);
    rec_begin(out);
    put_raw(out, r, "benchmark");
    rec_put_cstr(out, "source_id", own.s);
    rec_put_cstr(out, "question_source_id", id->s);
    rec_put_int(out, "sample_index", index);
    put_raw(out, r, "question");
    put_raw(out, r, "gold_answer");
    rec_put_null(out, "prompt_format");
    rec_put(out, "response_text", has_shown ? shown : text);
    put_value(out, sample, "think", "reasoning");
    put_value(out, sample, "answer", "answer");
    put_value(out, sample, "is_correct", "is_correct");
    put_value(out, sample, "think_token_count", "reasoning_token_count");
    rec_put_null(out, "response_token_count");
    if (has_text && has_shown && (text.n != shown.n || memcmp(text.s, shown.s, text.n) != 0))
        rec_put(out, "text", text);
    rec_end(out);
    buf_release(&own);
    return 0;
}

int select_flatten(const struct rec *r, struct buf *out, struct err *e)
{
    struct json samples, sample;
    struct buf id = BUF_INIT;
    if (!rec_get(r, "samples", &samples) || json_kind(samples) != JSON_ARRAY)
        return 0;
    int rc = rec_text(r, "source_id", &id, e);
    buf_puts(&id, "");
    for (struct json_iter it = json_each(samples); rc == 0 && json_next(&it, NULL, &sample);)
        rc = flatten_one(r, sample, &id, out, e);
    buf_release(&id);
    return rc < 0 ? -1 : 1;
}

int selector_add(struct selector *s, const struct rec *r, struct buf *out, struct err *e)
{
    struct rec flat;
    int rc;
    buf_reset(&s->flat);
    if (!s->spec.compat || (rc = select_flatten(r, &s->flat, e)) == 0)
        return add_flat(s, r, out, e);
    for (size_t at = 0; rc > 0 && at < s->flat.len;) {
        size_t n = (size_t)((const char *)memchr(s->flat.s + at, '\n', s->flat.len - at) - (s->flat.s + at));
        if (rec_parse(&flat, s->flat.s + at, n, r->where, e) < 0)
            return -1;
        rc = add_flat(s, &flat, out, e) < 0 ? -1 : 1;
        rec_release(&flat);
        at += n + 1;
    }
    return rc < 0 ? -1 : 0;
}

static void put_sample(struct selector *s, const struct rec *r, int64_t *right, struct buf *out)
{
    struct json v;
    bool is_right;
    int64_t chars = 0;
    *right += rec_get(r, "is_correct", &v) && json_bool(v, &is_right) && is_right;
    buf_reset(&s->text);
    if (rec_get(r, "reasoning", &v) && json_kind(v) == JSON_STRING)
        json_str(v, &s->text);
    for (size_t i = 0; i < s->text.len; i++)
        chars += ((unsigned char)s->text.s[i] & 0xC0) != 0x80;
    rec_begin(out);
    put_value(out, r->object, "sample_index", "sample_idx");
    put_value(out, r->object, rec_get(r, "text", &v) ? "text" : "response_text", "text");
    put_value(out, r->object, "reasoning", "think");
    put_raw(out, r, "answer");
    put_raw(out, r, "is_correct");
    rec_put_int(out, "think_length", chars);
    put_value(out, r->object, "reasoning_token_count", "think_token_count");
    put_raw(out, r, "response_text");
    buf_putc(out, '}');
}

/* The samples v[0..n) of one question. */
static int put_nested(struct selector *s, const struct order *v, size_t n, struct buf *out, struct err *e)
{
    struct buf samples = BUF_INIT;
    int64_t right = 0;
    for (size_t i = 0; i < n; i++) {
        const struct held *h = &s->held[v[i].i];
        struct rec r;
        if (rec_parse(&r, s->lines.s + h->at, h->n, "a held sample", e) < 0) {
            buf_release(&samples);
            return -1;
        }
        if (i == 0) {
            read_question(s, &r, e);
            rec_begin(out);
            put_raw(out, &r, "benchmark");
            rec_put_text(out, "source_id", s->question.s, s->question.len);
            put_raw(out, &r, "question");
            put_raw(out, &r, "gold_answer");
        }
        buf_puts(&samples, i ? ", " : "[");
        put_sample(s, &r, &right, &samples);
        rec_release(&r);
    }
    buf_putc(&samples, ']');
    rec_put_int(out, "num_correct", right);
    rec_put_int(out, "num_samples", (int64_t)n);
    rec_put(out, "samples", (struct json){ samples.s, samples.len });
    rec_end(out);
    s->n.out += n;
    buf_release(&samples);
    return 0;
}

/* ---- exemplars ---- */

/* {"benchmark", "source_id" (the question's), "question", "gold_answer", "reasoning", "answer", "solution",
 * "think_token_count"} goes to s->lines. */
static void put_exemplar(struct selector *s, const struct rec *r, int64_t length, const struct view *text)
{
    struct buf b = BUF_INIT;
    size_t id = strcspn(s->question.s, "\n");
    rec_begin(&b);
    put_raw(&b, r, "benchmark");
    rec_put_text(&b, "source_id", s->question.s, id);
    put_raw(&b, r, "question");
    put_raw(&b, r, "gold_answer");
    rec_put_text(&b, "reasoning", text->s, text->n);
    put_raw(&b, r, "answer");
    put_raw(&b, r, "solution");
    rec_put_int(&b, "think_token_count", length);
    buf_putc(&b, '}');
    buf_add(&s->lines, b.s, b.len);
    buf_release(&b);
}

/* An object's text, a member a line, as json.dumps(indent=2) writes it inside an array. */
static void indent_object(const char *s, size_t n, struct buf *out)
{
    struct json doc = { s, n }, key, val;
    struct json_iter it = json_each(doc);
    bool first = true;
    buf_puts(out, "  {");
    while (json_next(&it, &key, &val)) {
        buf_puts(out, first ? "\n    " : ",\n    ");
        buf_add(out, key.s, key.n);
        buf_puts(out, ": ");
        buf_add(out, val.s, val.n);
        first = false;
    }
    buf_puts(out, "\n  }");
}

/* ---- the end ---- */

static int by_group(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->i < y->i ? -1 : 1;
}

int64_t select_top_count(int64_t n, double top, int64_t least)
{
    double x = (double)n * top, k = floor(x), rest = x - k;
    if (rest > 0.5 || (rest == 0.5 && fmod(k, 2) != 0))
        k += 1;
    int64_t keep = (int64_t)k > least ? (int64_t)k : least;
    return keep < n ? keep : n;
}

static void put_line(struct selector *s, size_t i, struct buf *out)
{
    const struct held *h = &s->held[i];
    s->n.out++;
    if (s->spec.top > 0) { /* the reference adds the score it went by */
        struct rec r;
        struct buf score = BUF_INIT, name = BUF_INIT;
        struct err never;
        json_put_double(&score, h->score);
        json_put_cstr(&name, s->spec.by);
        struct rec_change change[] = { { "quality_score", score.s }, { "quality_score_key", name.s } };
        if (rec_parse(&r, s->lines.s + h->at, h->n, "", &never) == 0) {
            rec_rewrite(out, &r, change, 2);
            rec_release(&r);
        }
        buf_release(&score);
        buf_release(&name);
        return;
    }
    buf_add(out, s->lines.s + h->at, h->n);
    buf_putc(out, '\n');
}

static int put_exemplars(struct selector *s, struct order *order, size_t n, struct buf *out, struct err *e)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) /* the shortest of each group, which comes first there */
        if (i == 0 || order[i].group != order[i - 1].group)
            order[best++] = order[i];
    if (best == 0)
        return err_set(e, "no sample is fit for an exemplar (right, with reasoning, within the lengths)");
    /* equal lengths: the question that was seen first */
    for (size_t i = 0; i < best; i++)
        order[i] = (struct order){ 0, order[i].key, s->held[order[i].i].group << 32 | order[i].i };
    qsort(order, best, sizeof *order, by_group);
    size_t take = best < (size_t)s->spec.exemplars ? best : (size_t)s->spec.exemplars;
    if (s->spec.compat)
        buf_puts(out, "[\n");
    for (size_t i = 0; i < take; i++) {
        const struct held *h = &s->held[order[i].i & UINT32_MAX];
        if (s->spec.compat)
            indent_object(s->lines.s + h->at, h->n, out);
        else
            buf_add(out, s->lines.s + h->at, h->n);
        buf_puts(out, s->spec.compat && i + 1 < take ? ",\n" : "\n");
    }
    if (s->spec.compat)
        buf_putc(out, ']');
    s->n.out += take;
    return 0;
}

/* Marks what each group keeps. */
static void choose(struct selector *s, const struct order *order, size_t n)
{
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from; to < n && order[to].group == order[from].group; to++)
            ;
        int64_t size = (int64_t)(to - from);
        int64_t keep = s->spec.top > 0 ? select_top_count(size, s->spec.top, s->spec.min_per_group) : s->spec.shortest;
        for (size_t i = from; i < to && (int64_t)(i - from) < keep; i++)
            s->held[order[i].i].keep = true;
    }
}

/* What a group is sorted by, small first. */
static double key_of_held(const struct select_spec *p, const struct held *h)
{
    int64_t most = p->max_tokens >= 0 ? p->max_tokens : SELECT_REWARD_TOKENS;
    if (p->top > 0)
        return -h->score;
    if (p->nested)
        return 0;
    return (double)(p->exemplars && p->compat && h->length > most ? most : h->length);
}

int selector_finish(struct selector *s, struct buf *out, struct err *e)
{
    size_t n = s->nheld;
    if (!n)
        return s->spec.exemplars ? put_exemplars(s, NULL, 0, out, e) : 0;
    struct order *order = xreallocarray(NULL, n, sizeof *order);
    for (size_t i = 0; i < n; i++)
        order[i] = (struct order){ s->held[i].group, key_of_held(&s->spec, &s->held[i]), i };
    qsort(order, n, sizeof *order, by_group);
    int rc = 0;
    if (s->spec.exemplars) {
        rc = put_exemplars(s, order, n, out, e);
    } else if (s->spec.nested) {
        for (size_t from = 0, to; rc == 0 && from < n; from = to) {
            for (to = from; to < n && order[to].group == order[from].group; to++)
                ;
            rc = put_nested(s, order + from, to - from, out, e);
        }
    } else {
        choose(s, order, n);
        bool grouped = s->spec.compat && s->spec.shortest;
        for (size_t i = 0; i < n; i++) {
            size_t k = grouped ? order[i].i : i;
            if (s->held[k].keep)
                put_line(s, k, out);
        }
    }
    free(order);
    return rc;
}
