/* post.c - the post_processor section: special tokens around the text, type ids, trimmed offsets. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "text/parts.h"
#include "text/unicode.h"

/* ---- running ---- */

size_t count_blanks(const char *s, size_t n, bool from_end)
{
    size_t blanks = 0;
    uint32_t cp;
    if (!from_end) {
        for (size_t i = 0; i < n; blanks++) {
            size_t len = (size_t)uni_get(s + i, &cp);
            if (cp != byte_letter[' '] && !uni_is_space(cp))
                break;
            i += len;
        }
        return blanks;
    }
    while (n) {
        size_t i = n - 1;
        while (i && ((unsigned char)s[i] & 0xc0) == 0x80)
            i--;
        uni_get(s + i, &cp);
        if (cp != byte_letter[' '] && !uni_is_space(cp))
            break;
        n = i;
        blanks++;
    }
    return blanks;
}

/* Offsets without the blanks at the ends of a token (ByteLevel's trim_offsets). first: index of the text's first token.
 */
static void trim(const struct tokenizer *t, bool prefix, size_t first, size_t end, struct tokens *out)
{
    const struct tok_scratch *sc = scratch_of(out);
    size_t k = 0;
    for (size_t i = first; i < end; i++) {
        struct str s;
        if (!added_text(t, out->id[i], &s)) {
            if ((uint32_t)out->id[i] >= t->model.v.size || !t->model.v.tok[out->id[i]].s)
                continue;
            s = t->model.v.tok[out->id[i]];
        }
        size_t lead = count_blanks(s.s, s.n, false), trail = count_blanks(s.s, s.n, true);
        while (k < sc->n_blank && sc->blank[k].at < i)
            k++;
        if (k < sc->n_blank && sc->blank[k].at == i) {
            lead = sc->blank[k].lead;
            trail = sc->blank[k].trail;
        }
        if (lead && prefix && (i == first || out->begin[i] == 0))
            lead--;
        if (lead)
            out->begin[i] = out->end[i] - out->begin[i] < lead ? out->end[i] : out->begin[i] + (uint32_t)lead;
        if (trail && out->end[i] >= trail) {
            uint32_t cut = out->end[i] - (uint32_t)trail;
            out->end[i] = cut > out->begin[i] ? cut : out->begin[i];
        }
    }
}

static struct tokens *fresh(struct tokens *out)
{
    struct tok_scratch *sc = scratch_of(out);
    if (!sc->other)
        sc->other = xcalloc(1, sizeof *sc->other);
    sc->other->n = 0;
    return sc->other;
}

static void copy_tokens(struct tokens *to, const struct tokens *from, size_t b, size_t e, uint8_t type)
{
    if (e <= b)
        return;
    tokens_room(to, e - b);
    memcpy(to->id + to->n, from->id + b, (e - b) * sizeof *to->id);
    memcpy(to->begin + to->n, from->begin + b, (e - b) * sizeof *to->begin);
    memcpy(to->end + to->n, from->end + b, (e - b) * sizeof *to->end);
    memset(to->type + to->n, type, e - b);
    to->n += e - b;
}

static void take_result(struct tokens *out, struct tokens *built)
{
    struct tokens old = *out;
    *out = *built;
    out->scratch = old.scratch;
    *built = old;
    built->scratch = NULL;
}

static void push_special(struct tokens *to, int32_t id, uint8_t type)
{
    tokens_push(to, id, 0, 0);
    to->type[to->n - 1] = type;
}

static void apply_template(const struct post_item *item, size_t items, bool specials, size_t n_a, struct tokens *out)
{
    struct tokens *to = fresh(out);
    for (size_t i = 0; i < items; i++) {
        if (item[i].seq == 0)
            copy_tokens(to, out, 0, n_a, item[i].type);
        else if (item[i].seq == 1)
            copy_tokens(to, out, n_a, out->n, item[i].type);
        for (uint32_t k = 0; specials && item[i].seq < 0 && k < item[i].n; k++)
            push_special(to, item[i].id[k], item[i].type);
    }
    take_result(out, to);
}

static void apply_bert(const struct post *p, size_t n_a, bool pair, struct tokens *out)
{
    struct tokens *to = fresh(out);
    bool roberta = p->kind == POST_ROBERTA;
    push_special(to, p->cls, 0);
    copy_tokens(to, out, 0, n_a, 0);
    push_special(to, p->sep, 0);
    if (pair) {
        uint8_t type = roberta ? 0 : 1;
        if (roberta)
            push_special(to, p->sep, 0);
        copy_tokens(to, out, n_a, out->n, type);
        push_special(to, p->sep, type);
    }
    take_result(out, to);
}

int post_run(const struct tokenizer *t, bool specials, bool offsets, size_t n_a, bool pair, struct tokens *out,
             struct err *e)
{
    (void)e;
    if (pair && out->n > n_a)
        memset(out->type + n_a, 1, out->n - n_a);
    for (size_t i = 0; i < t->n_post; i++) {
        const struct post *p = &t->post[i];
        if (offsets && p->trim) {
            trim(t, p->prefix, 0, n_a, out);
            trim(t, p->prefix, n_a, out->n, out);
        }
        if (p->kind == POST_TEMPLATE) {
            const struct post_item *item = pair ? p->pair : p->single;
            size_t n = pair ? p->n_pair : p->n_single;
            if (!specials && !pair && n == 1 && item[0].seq == 0 && item[0].type == 0)
                continue;
            apply_template(item, n, specials, n_a, out);
        } else if (p->kind == POST_ROBERTA || p->kind == POST_BERT) {
            if (p->kind == POST_ROBERTA && out->n)
                memset(out->type, 0, out->n);
            if (specials)
                apply_bert(p, n_a, pair, out);
        }
    }
    return 0;
}

/* ---- parsing ---- */

static int special_ids(struct tokenizer *t, struct json specials, struct str name, struct post_item *item,
                       struct err *e)
{
    struct json_iter it = json_each(specials);
    struct json key, v, ids, x;
    while (json_next(&it, &key, &v)) {
        struct str k = arena_str(&t->arena, key);
        if (k.n != name.n || memcmp(k.s, name.s, k.n) != 0)
            continue;
        if (!json_get(v, "ids", &ids) || json_kind(ids) != JSON_ARRAY)
            break;
        item->n = 0;
        item->id = arena_zalloc(&t->arena, (json_count(ids) + 1) * sizeof *item->id);
        struct json_iter each = json_each(ids);
        while (json_next(&each, NULL, &x)) {
            int64_t id;
            if (!json_int(x, &id) || id < 0 || id > INT32_MAX)
                return err_set(e, "special token \"%.*s\": ids are not numbers", (int)name.n, name.s);
            item->id[item->n++] = (int32_t)id;
        }
        return 0;
    }
    return err_set(e, "the template names \"%.*s\", which special_tokens does not have", (int)name.n, name.s);
}

static int item_parse(struct tokenizer *t, struct json v, struct json specials, bool pair, struct post_item *item,
                      struct err *e)
{
    struct json part, x;
    struct str id;
    int64_t type = 0;
    bool special = json_get(v, "SpecialToken", &part);
    if (!special && !json_get(v, "Sequence", &part))
        return err_set(e, "a template item is neither SpecialToken nor Sequence");
    if (!obj_str(&t->arena, part, "id", &id))
        return err_set(e, "a template item without an id");
    if (obj_get(part, "type_id", &x) && (!json_int(x, &type) || type < 0 || type > 255))
        return err_set(e, "a template item whose type_id is not between 0 and 255");
    item->type = (uint8_t)type;
    item->seq = -1;
    if (special)
        return special_ids(t, specials, id, item, e);
    if (id.n != 1 || (id.s[0] != 'A' && id.s[0] != 'B') || (id.s[0] == 'B' && !pair))
        return err_set(e, "template sequence \"%.*s\" is not A%s", (int)id.n, id.s, pair ? " or B" : "");
    item->seq = id.s[0] - 'A';
    return 0;
}

static int template_list(struct tokenizer *t, struct json v, const char *name, bool pair, struct post_item **out,
                         size_t *n, struct err *e)
{
    struct json list, specials, x;
    if (!json_get(v, name, &list) || json_kind(list) != JSON_ARRAY)
        return err_set(e, "post-processor TemplateProcessing without a list \"%s\"", name);
    if (!json_get(v, "special_tokens", &specials))
        specials = (struct json){ NULL, 0 };
    *out = arena_zalloc(&t->arena, (json_count(list) + 1) * sizeof **out);
    *n = 0;
    struct json_iter it = json_each(list);
    while (json_next(&it, NULL, &x))
        if (item_parse(t, x, specials, pair, &(*out)[(*n)++], e) < 0)
            return err_prefix(e, "post-processor TemplateProcessing");
    return 0;
}

static int pair_parse(struct json v, const char *key, int32_t *id, struct err *e)
{
    struct json x, y;
    int64_t n;
    if (!json_get(v, key, &x) || !json_at(x, 1, &y) || !json_int(y, &n) || n < 0 || n > INT32_MAX)
        return err_set(e, "post-processor: \"%s\" is not [token, id]", key);
    *id = (int32_t)n;
    return 0;
}

static int parse(struct tokenizer *t, struct json v, int depth, struct err *e)
{
    struct str type;
    struct json list, x;
    if (!obj_str(&t->arena, v, "type", &type))
        return err_set(e, "a post-processor without a type");
    if (type.n == 8 && memcmp(type.s, "Sequence", 8) == 0) {
        if (depth > 8)
            return err_set(e, "post-processors nested deeper than 8");
        if (!json_get(v, "processors", &list) || json_kind(list) != JSON_ARRAY)
            return err_set(e, "post-processor Sequence without a list \"processors\"");
        struct json_iter it = json_each(list);
        while (json_next(&it, NULL, &x))
            if (parse(t, x, depth + 1, e) < 0)
                return -1;
        return 0;
    }
    t->post = xreallocarray(t->post, t->n_post + 1, sizeof *t->post);
    struct post *p = memset(&t->post[t->n_post++], 0, sizeof *p);
    for (size_t i = 0; i + 1 < t->n_post; i++)
        if (t->post[i].kind != POST_BYTELEVEL && !(type.n == 9 && memcmp(type.s, "ByteLevel", 9) == 0))
            return err_set(e, "two post-processors that add tokens are not supported");
    if (type.n == 9 && memcmp(type.s, "ByteLevel", 9) == 0) {
        p->kind = POST_BYTELEVEL;
        p->trim = obj_flag(v, "trim_offsets", true);
        p->prefix = obj_flag(v, "add_prefix_space", true);
        return 0;
    }
    if (type.n == 18 && memcmp(type.s, "TemplateProcessing", 18) == 0) {
        p->kind = POST_TEMPLATE;
        if (template_list(t, v, "single", false, &p->single, &p->n_single, e) < 0)
            return -1;
        return template_list(t, v, "pair", true, &p->pair, &p->n_pair, e);
    }
    bool roberta = type.n == 17 && memcmp(type.s, "RobertaProcessing", 17) == 0;
    if (!roberta && !(type.n == 14 && memcmp(type.s, "BertProcessing", 14) == 0))
        return err_set(e, "post-processor \"%.*s\" is not supported", (int)type.n, type.s);
    p->kind = roberta ? POST_ROBERTA : POST_BERT;
    p->trim = roberta && obj_flag(v, "trim_offsets", true);
    p->prefix = roberta && obj_flag(v, "add_prefix_space", true);
    if (pair_parse(v, "sep", &p->sep, e) < 0)
        return -1;
    return pair_parse(v, "cls", &p->cls, e);
}

int post_parse(struct tokenizer *t, struct json v, struct err *e)
{
    return json_kind(v) == JSON_NULL || json_kind(v) == JSON_NONE ? 0 : parse(t, v, 0, e);
}
