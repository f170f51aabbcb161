/* save.c - writing tokenizer.json and tokenizer_config.json back with added tokens, everything else byte for byte.
 *
 * What is new is spelled as its neighbours are: white space after brackets, between members and around colons is taken
 * from the list or object it goes into. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "text/added.h"
#include "text/parts.h"

/* White space of a container. */
struct style {
    struct str open, sep, close, colon;
};

static struct str between(const char *b, const char *e)
{
    return (struct str){ b, (uint32_t)(e - b) };
}

static bool style_of(struct json v, struct style *out)
{
    struct json_iter it = json_each(v);
    struct json key, x;
    if (!json_next(&it, &key, &x))
        return false;
    const char *first = key.n ? key.s : x.s, *end = x.s + x.n;
    out->open = between(v.s + 1, first);
    out->colon = key.n ? between(key.s + key.n, x.s) : (struct str){ ":", 1 };
    out->sep = (struct str){ NULL, 0 };
    while (json_next(&it, &key, &x)) {
        if (!out->sep.s)
            out->sep = between(end, key.n ? key.s : x.s);
        end = x.s + x.n;
    }
    out->close = between(end, v.s + v.n - 1);
    return true;
}

/* Fallbacks: one line, or, where the text around has line ends, indented by so many blanks. */
static struct style plain_style(bool lines, uint32_t indent)
{
    static const char deep[] = "\n                ";
    struct style s = { { "", 0 }, { NULL, 0 }, { "", 0 }, { ":", 1 } };
    if (lines) {
        s.open = (struct str){ deep, indent + 1 };
        s.close = (struct str){ deep, indent - 1 };
        s.colon = (struct str){ ": ", 2 };
    }
    return s;
}

static void put(struct buf *b, struct str s)
{
    buf_add(b, s.s, s.n);
}

/* Between two members; where there is only one to learn from, a comma and what stands behind the bracket. */
static void put_sep(struct buf *b, const struct style *s)
{
    put(b, s->sep.s ? s->sep : (struct str){ ",", 1 });
    if (!s->sep.s)
        put(b, s->open);
}

static void put_entry(struct buf *b, const struct style *s, const struct added *a, bool with_id)
{
    static const char *const names[2][7] = {
        { "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special" },
        { "content", "lstrip", "normalized", "rstrip", "single_word", "special", NULL },
    };
    buf_putc(b, '{');
    put(b, s->open);
    for (int i = 0; i < 7 && names[!with_id][i]; i++) {
        const char *name = names[!with_id][i];
        if (i)
            put_sep(b, s);
        json_put_cstr(b, name);
        put(b, s->colon);
        if (strcmp(name, "id") == 0)
            buf_printf(b, "%d", a->id);
        else if (strcmp(name, "content") == 0)
            json_put_str(b, a->content.s, a->content.n);
        else
            buf_puts(b, (strcmp(name, "single_word") == 0  ? a->single_word
                         : strcmp(name, "lstrip") == 0     ? a->lstrip
                         : strcmp(name, "rstrip") == 0     ? a->rstrip
                         : strcmp(name, "normalized") == 0 ? a->normalized
                                                           : a->special)
                            ? "true"
                            : "false");
    }
    put(b, s->close);
    buf_putc(b, '}');
}

static int by_id(const void *a, const void *b)
{
    const struct added *const *x = a, *const *y = b;
    return (*x)->id < (*y)->id ? -1 : (*x)->id > (*y)->id;
}

/* The tokens of tokenizer_add, sorted by id. Caller frees. */
static const struct added **new_tokens(const struct tokenizer *t, size_t *n)
{
    const struct added **v = xreallocarray(NULL, t->n_added + 1, sizeof *v);
    *n = 0;
    for (size_t i = t->n_file_added; i < t->n_added; i++)
        v[(*n)++] = &t->added[i];
    if (*n)
        qsort(v, *n, sizeof *v, by_id);
    return v;
}

static bool same_flags(const struct added *a, struct json v)
{
    return a->single_word == obj_flag(v, "single_word", false) && a->lstrip == obj_flag(v, "lstrip", false) &&
           a->rstrip == obj_flag(v, "rstrip", false) && a->special == obj_flag(v, "special", false) &&
           a->normalized == obj_flag(v, "normalized", !obj_flag(v, "special", false));
}

/* The list with the new tokens in their places; entries whose flags changed are written anew. */
static void put_list(const struct tokenizer *t, struct json list, struct buf *b)
{
    bool lines = memchr(t->json.s, '\n', t->json.len) != NULL;
    struct style outer = plain_style(lines, 4), inner = plain_style(lines, 6);
    struct json_iter it = json_each(list);
    struct json x, id;
    size_t n, k = 0;
    const struct added **add = new_tokens(t, &n);
    bool first = true;
    style_of(list, &outer);
    if (json_next(&it, NULL, &x))
        style_of(x, &inner);
    it = json_each(list);
    buf_putc(b, '[');
    for (;;) {
        bool more = json_next(&it, NULL, &x);
        int64_t at = INT64_MAX;
        if (more && !(json_get(x, "id", &id) && json_int(id, &at)))
            at = INT64_MAX;
        while (k < n && (!more || add[k]->id < at)) {
            if (first)
                put(b, outer.open);
            else
                put_sep(b, &outer);
            put_entry(b, &inner, add[k++], true);
            first = false;
        }
        if (!more)
            break;
        if (first)
            put(b, outer.open);
        else
            put_sep(b, &outer);
        const struct added *a =
            at >= 0 && (uint64_t)at < t->added_of_n && t->added_of[at] ? &t->added[t->added_of[at] - 1] : NULL;
        if (a && !same_flags(a, x))
            put_entry(b, &inner, a, true);
        else
            buf_add(b, x.s, x.n);
        first = false;
    }
    if (!first)
        put(b, outer.close);
    buf_putc(b, ']');
    free(add);
}

int tokenizer_save(const struct tokenizer *t, const char *path, struct err *e)
{
    struct buf b = BUF_INIT;
    const char *s = t->json.s, *end = s + t->json.len;
    struct json list = t->span_added;
    bool changed = t->n_added > t->n_file_added;
    struct json_iter it = json_each(list);
    struct json x, id;
    int64_t at;
    while (!changed && json_next(&it, NULL, &x)) /* flags set anew by tokenizer_add */
        changed = json_get(x, "id", &id) && json_int(id, &at) && at >= 0 && (uint64_t)at < t->added_of_n &&
                  t->added_of[at] && !same_flags(&t->added[t->added_of[at] - 1], x);
    if (!changed)
        return file_write_atomic(path, s, t->json.len, e);
    if (list.n) {
        buf_add(&b, s, (size_t)(list.s - s));
        put_list(t, list, &b);
        s = list.s + list.n;
    } else {
        const char *brace = memchr(s, '{', t->json.len);
        buf_add(&b, s, (size_t)(brace + 1 - s));
        buf_puts(&b, "\"added_tokens\":");
        put_list(t, (struct json){ "[]", 2 }, &b);
        buf_putc(&b, ',');
        s = brace + 1;
    }
    buf_add(&b, s, (size_t)(end - s));
    int rc = file_write_atomic(path, b.s, b.len, e);
    buf_release(&b);
    return rc;
}

/* ---- tokenizer_config.json ---- */

/* added_tokens_decoder with the new tokens behind what is there. */
static void put_decoder(const struct tokenizer *t, struct json old, bool lines, struct buf *b)
{
    struct style outer = plain_style(lines, 4), inner = plain_style(lines, 6);
    struct json_iter it = json_each(old);
    struct json key, x;
    size_t n;
    const struct added **add = new_tokens(t, &n);
    bool any = style_of(old, &outer);
    if (json_next(&it, &key, &x))
        style_of(x, &inner);
    buf_putc(b, '{');
    if (any)
        buf_add(b, old.s + 1, old.n - 2 - outer.close.n);
    for (size_t i = 0; i < n; i++) {
        char name[16];
        if (any || i)
            put_sep(b, &outer);
        else
            put(b, outer.open);
        snprintf(name, sizeof name, "\"%d\"", add[i]->id);
        if (json_get(old, name + 1, &x)) /* never: ids are new */
            continue;
        buf_puts(b, name);
        put(b, outer.colon);
        put_entry(b, &inner, add[i], false);
    }
    if (any || n)
        put(b, outer.close);
    buf_putc(b, '}');
    free(add);
}

static void put_specials(const struct tokenizer *t, struct json old, bool lines, struct buf *b)
{
    struct style outer = plain_style(lines, 4);
    size_t n;
    const struct added **add = new_tokens(t, &n);
    bool any = style_of(old, &outer);
    buf_putc(b, '[');
    if (any)
        buf_add(b, old.s + 1, old.n - 2 - outer.close.n);
    for (size_t i = 0; i < n; i++) {
        if (!add[i]->special)
            continue;
        if (any)
            put_sep(b, &outer);
        else
            put(b, outer.open);
        any = true;
        json_put_str(b, add[i]->content.s, add[i]->content.n);
    }
    if (any)
        put(b, outer.close);
    buf_putc(b, ']');
    free(add);
}

static bool any_special(const struct tokenizer *t)
{
    for (size_t i = t->n_file_added; i < t->n_added; i++)
        if (t->added[i].special)
            return true;
    return false;
}

/* Replaces or appends one member of an object. */
static void put_member(struct buf *out, struct json doc, const char *key, const struct buf *value, bool lines)
{
    struct style s = plain_style(lines, 2);
    struct json v;
    bool any = style_of(doc, &s);
    if (json_get(doc, key, &v) && json_kind(v) != JSON_NONE) {
        buf_add(out, doc.s, (size_t)(v.s - doc.s));
        buf_add(out, value->s, value->len);
        buf_add(out, v.s + v.n, (size_t)(doc.s + doc.n - (v.s + v.n)));
        return;
    }
    buf_putc(out, '{');
    if (any) {
        buf_add(out, doc.s + 1, doc.n - 2 - s.close.n);
        put_sep(out, &s);
    } else {
        put(out, s.open);
    }
    json_put_cstr(out, key);
    put(out, s.colon);
    buf_add(out, value->s, value->len);
    put(out, s.close);
    buf_putc(out, '}');
}

int tokenizer_config_add(const struct tokenizer *t, const char *config, size_t n, struct buf *out, struct err *e)
{
    struct json doc, v;
    if (json_parse(&doc, config, n, e) < 0)
        return err_prefix(e, "tokenizer_config.json");
    if (json_kind(doc) != JSON_OBJECT)
        return err_set(e, "tokenizer_config.json: expected an object");
    if (t->n_added == t->n_file_added) {
        buf_add(out, config, n);
        return 0;
    }
    bool lines = memchr(config, '\n', n) != NULL;
    struct buf decoder = BUF_INIT, specials = BUF_INIT, step = BUF_INIT;
    if (!json_get(doc, "added_tokens_decoder", &v) || json_kind(v) != JSON_OBJECT)
        v = (struct json){ "{}", 2 };
    put_decoder(t, v, lines, &decoder);
    buf_add(&step, config, (size_t)(doc.s - config));
    put_member(&step, doc, "added_tokens_decoder", &decoder, lines);
    buf_add(&step, doc.s + doc.n, (size_t)(config + n - (doc.s + doc.n)));
    int rc = 0;
    if (any_special(t)) {
        if (!json_get(doc, "additional_special_tokens", &v) || json_kind(v) != JSON_ARRAY)
            v = (struct json){ "[]", 2 };
        put_specials(t, v, lines, &specials);
        rc = json_parse(&doc, step.s, step.len, e);
        if (rc == 0) {
            buf_add(out, step.s, (size_t)(doc.s - step.s));
            put_member(out, doc, "additional_special_tokens", &specials, lines);
            buf_add(out, doc.s + doc.n, (size_t)(step.s + step.len - (doc.s + doc.n)));
        }
    } else {
        buf_add(out, step.s, step.len);
    }
    buf_release(&decoder);
    buf_release(&specials);
    buf_release(&step);
    return rc;
}
