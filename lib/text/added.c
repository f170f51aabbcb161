/* added.c - added tokens and latent ids: finding them in text, names of ids, adding more. */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/utf8.h"
#include "text/unicode.h"

/* ---- latent ids: head + number + tail ---- */

static int by_source(const void *a, const void *b)
{
    const struct source_of *x = a, *y = b;
    return x->source < y->source ? -1 : x->source > y->source;
}

void latent_sort(struct tokenizer *t)
{
    if (!t->source)
        return;
    t->source_sorted = xreallocarray(NULL, (size_t)t->latent_count + 1, sizeof *t->source_sorted);
    for (int32_t i = 0; i < t->latent_count; i++)
        t->source_sorted[i] = (struct source_of){ t->source[i], i };
    qsort(t->source_sorted, (size_t)t->latent_count, sizeof *t->source_sorted, by_source);
}

static int32_t latent_of_source(const struct tokenizer *t, int64_t n)
{
    if (!t->source)
        return n >= t->source_first && n - t->source_first < t->latent_count
                   ? t->latent_first + (int32_t)(n - t->source_first)
                   : -1;
    if (n > INT32_MAX)
        return -1;
    struct source_of key = { (int32_t)n, 0 };
    const struct source_of *hit = bsearch(&key, t->source_sorted, (size_t)t->latent_count, sizeof key, by_source);
    return hit ? t->latent_first + hit->index : -1;
}

/* Is there a latent token's text at s? Its id and length, or -1. */
static int32_t latent_at(const struct tokenizer *t, const char *s, size_t n, size_t *len)
{
    size_t i = t->latent_head.n;
    int64_t v = 0;
    if (t->latent_count == 0 || !t->latent_head.s || n < i || memcmp(s, t->latent_head.s, i) != 0)
        return -1;
    size_t digits = i;
    while (i < n && i - digits < 10 && s[i] >= '0' && s[i] <= '9')
        v = v * 10 + (s[i++] - '0');
    if (i == digits || (s[digits] == '0' && i - digits > 1) || n - i < t->latent_tail.n ||
        memcmp(s + i, t->latent_tail.s, t->latent_tail.n) != 0)
        return -1;
    *len = i + t->latent_tail.n;
    return latent_of_source(t, v);
}

bool latent_text(const struct tokenizer *t, int32_t id, struct buf *out)
{
    int64_t i = (int64_t)id - t->latent_first;
    if (t->latent_count == 0 || !t->latent_head.s || i < 0 || i >= t->latent_count)
        return false;
    buf_add(out, t->latent_head.s, t->latent_head.n);
    buf_printf(out, "%lld", (long long)(t->source ? t->source[i] : t->source_first + i));
    buf_add(out, t->latent_tail.s, t->latent_tail.n);
    return true;
}

int32_t latent_id(const struct tokenizer *t, const char *s, size_t n)
{
    size_t len;
    int32_t id = latent_at(t, s, n, &len);
    return id >= 0 && len == n ? id : -1;
}

static bool eat(const char **p, const char *end, const char *b, size_t n)
{
    if ((size_t)(end - *p) < n || memcmp(*p, b, n) != 0)
        return false;
    *p += n;
    return true;
}

static bool eat_number(const char **p, const char *end, int64_t v)
{
    char digits[24];
    size_t i = sizeof digits;
    do
        digits[--i] = (char)('0' + v % 10);
    while (v /= 10);
    return eat(p, end, digits + i, sizeof digits - i);
}

/* A written dual vocabulary repeats one entry L times with other numbers. From the first, x (next: where the one behind
 * it begins), the following ones are known byte for byte: passes over as many as are just that, without parsing. */
const char *latent_skip(const struct tokenizer *t, struct json x, const char *next, const char *end)
{
    struct json id, content;
    const char *p = next;
    if (!json_get(x, "id", &id) || !json_get(x, "content", &content) || id.s > content.s || !json_str_plain(content) ||
        content.n < t->latent_head.n + t->latent_tail.n + 2)
        return next;
    const char *number = content.s + 1 + t->latent_head.n, *behind = number;
    while (*behind >= '0' && *behind <= '9')
        behind++;
    const char *mid = id.s + id.n;
    for (int32_t i = 1; i < t->latent_count; i++) {
        const char *q = p;
        int64_t source = t->source ? t->source[i] : t->source_first + (int64_t)i;
        if (!eat(&q, end, x.s, (size_t)(id.s - x.s)) || !eat_number(&q, end, t->latent_first + (int64_t)i) ||
            !eat(&q, end, mid, (size_t)(number - mid)) || !eat_number(&q, end, source) ||
            !eat(&q, end, behind, (size_t)(next - behind)))
            break;
        p = q;
    }
    return p;
}

/* ---- finding added tokens ---- */

static bool word_before(const char *s, size_t at)
{
    uint32_t cp;
    if (at == 0)
        return false;
    do
        at--;
    while (at && ((unsigned char)s[at] & 0xc0) == 0x80);
    uni_get(s + at, &cp);
    return uni_is_word(cp);
}

static bool word_after(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    if (at >= n)
        return false;
    uni_get(s + at, &cp);
    return uni_is_word(cp);
}

static size_t blanks_before(const char *s, size_t floor, size_t at)
{
    uint32_t cp;
    while (at > floor) {
        size_t i = at - 1;
        while (i > floor && ((unsigned char)s[i] & 0xc0) == 0x80)
            i--;
        uni_get(s + i, &cp);
        if (!uni_is_space(cp))
            break;
        at = i;
    }
    return at;
}

static size_t blanks_after(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    while (at < n) {
        size_t len = (size_t)uni_get(s + at, &cp);
        if (!uni_is_space(cp))
            break;
        at += len;
    }
    return at;
}

/* Longest token that begins at s[at]: its index in t->added, or -1; a latent one: its id in *latent. */
static int32_t longest_at(const struct tokenizer *t, const struct trie *trie, const char *s, size_t n, size_t at,
                          size_t *end, int32_t *latent)
{
    int32_t best = -1;
    uint32_t node = 0;
    *latent = -1;
    for (size_t i = at; i < n && (node = trie_step(trie, node, (unsigned char)s[i])); i++)
        if (trie->value[node] >= 0) {
            best = trie->value[node];
            *end = i + 1;
        }
    size_t len;
    if (trie == &t->raw_trie && t->latent_count && (*latent = latent_at(t, s + at, n - at, &len)) >= 0) {
        if (best < 0 || at + len > *end)
            *end = at + len;
        else
            *latent = -1;
    }
    return best;
}

bool added_next(const struct tokenizer *t, bool normalized, bool split_specials, const char *s, size_t n, size_t from,
                struct found *out)
{
    const struct trie *trie = normalized ? &t->normal_trie : &t->raw_trie;
    unsigned char latent = !normalized && t->latent_count && t->latent_head.n ? (unsigned char)t->latent_head.s[0] : 0;
    for (size_t at = from; at < n; at++) {
        unsigned char c = (unsigned char)s[at];
        if (!trie->root[c] && !(latent && c == latent))
            continue;
        size_t end = at;
        int32_t id;
        int32_t k = longest_at(t, trie, s, n, at, &end, &id);
        if (id >= 0) {
            out->b = at;
            out->e = end;
            out->id = id;
            return true;
        }
        if (k < 0)
            continue;
        const struct added *a = &t->added[k];
        if ((split_specials && a->special) || (a->single_word && (word_before(s, at) || word_after(s, n, end)))) {
            at = end - 1; /* the scan goes on behind the rejected match */
            continue;
        }
        out->b = a->lstrip ? blanks_before(s, out->floor, at) : at;
        out->e = a->rstrip ? blanks_after(s, n, end) : end;
        out->id = a->id;
        return true;
    }
    return false;
}

/* ---- the list ---- */

bool added_text(const struct tokenizer *t, int32_t id, struct str *out)
{
    if (id < 0 || (size_t)id >= t->added_of_n || !t->added_of[id])
        return false;
    *out = t->added[t->added_of[id] - 1].content;
    return true;
}

static int64_t next_id(const struct tokenizer *t)
{
    int64_t max = t->added_ids - 1, size = t->model.v.count;
    if (t->latent_count && t->latent_first + t->latent_count - 1 > max)
        max = t->latent_first + t->latent_count - 1;
    return max >= size ? max + 1 : size;
}

int add_one(struct tokenizer *t, const struct tok_added *a, int64_t id, struct err *e)
{
    size_t n = strlen(a->content);
    int32_t k = vocab_find(&t->added_map, a->content, n);
    if (n == 0)
        return err_set(e, "an added token is empty");
    if (utf8_check(a->content, n) != n)
        return err_set(e, "an added token is not UTF-8");
    if (k < 0) {
        if (id < 0 && (id = vocab_find(&t->model.v, a->content, n)) < 0)
            id = next_id(t);
        if (id >= 1 << 24)
            return err_set(e, "id %lld of added token \"%.60s\" is too large", (long long)id, a->content);
        struct str other;
        if (added_text(t, (int32_t)id, &other))
            return err_set(e, "added tokens \"%.*s\" and \"%.60s\" have the same id %lld",
                           (int)(other.n < 60 ? other.n : 60), other.s, a->content, (long long)id);
        k = (int32_t)t->n_added;
        t->added = grow(t->added, &t->cap_added, t->n_added + 1, sizeof *t->added);
        struct added *x = memset(&t->added[t->n_added++], 0, sizeof *x);
        x->content = (struct str){ arena_strndup(&t->arena, a->content, n), (uint32_t)n };
        x->id = (int32_t)id;
        t->added_ids = id + 1 > t->added_ids ? id + 1 : t->added_ids;
        if (vocab_put(&t->added_map, x->content.s, x->content.n, k, e) < 0)
            return -1;
        if ((size_t)id >= t->added_of_n) {
            size_t cap = t->added_of_n, old = cap;
            t->added_of = grow(t->added_of, &cap, (size_t)id + 1, sizeof *t->added_of);
            memset(t->added_of + old, 0, (cap - old) * sizeof *t->added_of);
            t->added_of_n = cap;
        }
        t->added_of[id] = (uint32_t)k + 1;
    }
    struct added *x = &t->added[k];
    x->single_word = a->single_word;
    x->lstrip = a->lstrip;
    x->rstrip = a->rstrip;
    x->normalized = a->normalized;
    x->special = a->special;
    return 0;
}

int added_refresh(struct tokenizer *t, struct err *e)
{
    struct buf text = BUF_INIT;
    trie_release(&t->raw_trie);
    trie_release(&t->normal_trie);
    trie_init(&t->raw_trie);
    trie_init(&t->normal_trie);
    t->any_normalized = false;
    for (size_t i = 0; i < t->n_added; i++) {
        struct added *a = &t->added[i];
        if (!a->normalized) {
            trie_put(&t->raw_trie, a->content.s, a->content.n, (int32_t)i);
            continue;
        }
        buf_reset(&text);
        if (tokenizer_normalize(t, a->content.s, a->content.n, &text, e) < 0) {
            buf_release(&text);
            return -1;
        }
        t->any_normalized = true;
        if (text.len)
            trie_put(&t->normal_trie, text.s, text.len, (int32_t)i);
    }
    buf_release(&text);
    return 0;
}
