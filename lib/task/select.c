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

struct selector {
    struct select_spec spec;
    struct select_counts n;
    struct keys groups, seen, scores; /* seen: for dedup; scores: index into value */
    double *value;
    size_t nvalue, value_cap;
    struct buf lines, id, text, question;
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

static int read_length(const struct rec *r, int64_t *out, struct err *e)
{
    static const char *const keys[] = { "reasoning_token_count", "compressed_reasoning_token_count",
                                        "response_token_count" };
    struct json v;
    for (int i = 0; i < 3; i++)
        if (rec_get(r, keys[i], &v) && json_kind(v) != JSON_NULL)
            return rec_int(r, keys[i], out, e);
    return err_set(e, "%s: no reasoning_token_count, compressed_reasoning_token_count or response_token_count",
                   r->where);
}

/* The text that is compared and shown: the compressed reasoning, else the reasoning, else the response. Trimmed. */
static int read_text(struct selector *s, const struct rec *r, struct view *out, struct err *e)
{
    static const char *const keys[] = { "compressed_reasoning", "reasoning", "response_text" };
    buf_reset(&s->text);
    for (int i = 0; i < 3; i++) {
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
    if (needs_length(p) && read_length(r, length, e) < 0)
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

int selector_add(struct selector *s, const struct rec *r, struct buf *out, struct err *e)
{
    char ratio[32];
    int64_t length;
    bool grouped = s->spec.shortest || s->spec.top > 0 || s->spec.exemplars;
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

/* ---- exemplars ---- */

static void put_raw(struct buf *b, const struct rec *r, const char *key)
{
    struct json v;
    if (rec_get(r, key, &v))
        rec_put(b, key, v);
    else
        rec_put_null(b, key);
}

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

struct order { /* for qsort, which has no argument */
    uint64_t group;
    double key; /* small first */
    size_t i;
};

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

int selector_finish(struct selector *s, struct buf *out, struct err *e)
{
    size_t n = s->nheld;
    if (!n)
        return s->spec.exemplars ? put_exemplars(s, NULL, 0, out, e) : 0;
    struct order *order = xreallocarray(NULL, n, sizeof *order);
    for (size_t i = 0; i < n; i++)
        order[i] =
            (struct order){ s->held[i].group, s->spec.top > 0 ? -s->held[i].score : (double)s->held[i].length, i };
    qsort(order, n, sizeof *order, by_group);
    int rc = 0;
    if (s->spec.exemplars) {
        rc = put_exemplars(s, order, n, out, e);
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
