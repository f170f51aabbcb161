/* files.c - tokenizers without a tokenizer.json (vocab.json + merges.txt, vocab.txt), and dual_vocab_meta.json.
 *
 * The plain files say nothing of normalizer and pattern. They follow from the tokenizer class that
 * tokenizer_config.json names, or from config.json's model_type; from there on the same parsers run on the same JSON as
 * if it had been written in a tokenizer.json. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "text/added.h"
#include "text/parts.h"

enum { MAX_FILE = 1 << 30 };

#define QWEN                                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "                                  \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"                                                                         \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static const char qwen_head[] =
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
    "\"pattern\":{\"Regex\":\"" QWEN "\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}]},\"post_processor\":{\"type\":"
    "\"ByteLevel\","
    "\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}";

static const char gpt2_head[] =
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,"
    "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
    "\"use_regex\":true}";

/* A JSON file of the folder; absent: *doc is none. text holds it. */
static int read_json(const char *dir, const char *name, struct buf *text, struct json *doc, struct err *e)
{
    char *path = path_join(dir, name);
    int rc = 0;
    *doc = (struct json){ NULL, 0 };
    if (file_exists(path)) {
        rc = file_read(text, path, MAX_FILE, e);
        if (rc == 0 && (rc = json_parse(doc, text->s ? text->s : "", text->len, e)) < 0)
            err_prefix(e, "%s", path);
    }
    free(path);
    return rc;
}

/* merges.txt as a JSON list of pairs. */
static int merges_json(const struct buf *text, struct buf *out, struct err *e)
{
    const char *p = text->s ? text->s : "", *end = p + text->len;
    size_t line = 0;
    bool first = true;
    buf_putc(out, '[');
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        const char *s = p;
        p = nl ? nl + 1 : end;
        line++;
        if (n && s[n - 1] == '\r')
            n--;
        if (n == 0 || (n >= 8 && memcmp(s, "#version", 8) == 0))
            continue;
        const char *gap = memchr(s, ' ', n);
        if (!gap || memchr(gap + 1, ' ', n - (size_t)(gap + 1 - s)))
            return err_set(e, "merges.txt:%zu: expected two parts with one space between", line);
        if (!first)
            buf_putc(out, ',');
        first = false;
        buf_putc(out, '[');
        json_put_str(out, s, (size_t)(gap - s));
        buf_putc(out, ',');
        json_put_str(out, gap + 1, n - (size_t)(gap + 1 - s));
        buf_putc(out, ']');
    }
    buf_putc(out, ']');
    return 0;
}

static void put_flag(struct buf *out, const char *key, bool on)
{
    buf_printf(out, ",\"%s\":%s", key, on ? "true" : "false");
}

static int by_id(const void *a, const void *b)
{
    const struct added *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void put_added(struct buf *out, const struct added *a)
{
    buf_printf(out, "{\"id\":%d,\"content\":", a->id);
    json_put_str(out, a->content.s, a->content.n);
    put_flag(out, "single_word", a->single_word);
    put_flag(out, "lstrip", a->lstrip);
    put_flag(out, "rstrip", a->rstrip);
    put_flag(out, "normalized", a->normalized);
    put_flag(out, "special", a->special);
    buf_putc(out, '}');
}

/* added_tokens_decoder of tokenizer_config.json (or added_tokens.json: text to id) as added_tokens, sorted by id. */
static int added_json(const char *dir, struct json config, struct buf *out, struct err *e)
{
    struct json list, key, v, doc;
    struct buf text = BUF_INIT;
    struct arena arena = { 0 };
    struct added *a = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;
    bool decoder = json_get(config, "added_tokens_decoder", &list) && json_kind(list) == JSON_OBJECT;
    if (!decoder && (rc = read_json(dir, "added_tokens.json", &text, &doc, e)) == 0)
        list = doc;
    struct json_iter it = json_each(rc == 0 ? list : (struct json){ NULL, 0 });
    while (rc == 0 && json_next(&it, &key, &v)) {
        int64_t id = -1;
        a = grow(a, &cap, n + 1, sizeof *a);
        memset(&a[n], 0, sizeof a[n]);
        if (decoder) {
            struct json digits = { key.s + 1, key.n - 2 };
            a[n].single_word = obj_flag(v, "single_word", false);
            a[n].lstrip = obj_flag(v, "lstrip", false);
            a[n].rstrip = obj_flag(v, "rstrip", false);
            a[n].special = obj_flag(v, "special", false);
            a[n].normalized = obj_flag(v, "normalized", !a[n].special);
            if (digits.n == 0 || !json_int(digits, &id) || !obj_str(&arena, v, "content", &a[n].content))
                rc = err_set(e,
                             "tokenizer_config.json: added_tokens_decoder: an entry is not \"id\": {\"content\": ...}");
        } else {
            a[n].content = arena_str(&arena, key);
            a[n].normalized = true;
            if (!json_int(v, &id))
                rc = err_set(e, "added_tokens.json: an id is not a number");
        }
        if (rc == 0 && (id < 0 || id > INT32_MAX))
            rc = err_set(e, "added token id %lld is out of range", (long long)id);
        a[n++].id = (int32_t)id;
    }
    if (n)
        qsort(a, n, sizeof *a, by_id);
    buf_putc(out, '[');
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (i)
            buf_putc(out, ',');
        put_added(out, &a[i]);
    }
    buf_putc(out, ']');
    buf_release(&text);
    arena_release(&arena);
    free(a);
    return rc;
}

/* Does a word that says what the model is contain name? tokenizer_class first, model_type where it is silent. */
static bool family(struct json config, struct json model, const char *cls, const char *type)
{
    struct json v;
    struct buf b = BUF_INIT;
    bool yes = false;
    if (obj_get(config, "tokenizer_class", &v) && json_kind(v) == JSON_STRING) {
        json_str(v, &b);
        yes = b.s && strncmp(b.s, cls, strlen(cls)) == 0;
    } else if (obj_get(model, "model_type", &v) && json_kind(v) == JSON_STRING) {
        json_str(v, &b);
        yes = b.s && strncmp(b.s, type, strlen(type)) == 0;
    }
    buf_release(&b);
    return yes;
}

static int bpe_files(struct tokenizer *t, const char *dir, struct json config, struct json model, struct err *e)
{
    const char *head = family(config, model, "Qwen", "qwen")   ? qwen_head
                       : family(config, model, "GPT2", "gpt2") ? gpt2_head
                                                               : NULL;
    struct buf vocab = BUF_INIT, merges = BUF_INIT;
    char *path = path_join(dir, "vocab.json");
    int rc = file_read(&vocab, path, MAX_FILE, e);
    free(path);
    path = path_join(dir, "merges.txt");
    if (rc == 0)
        rc = file_read(&merges, path, MAX_FILE, e);
    free(path);
    struct json doc;
    if (rc == 0 && !head)
        rc = err_set(
            e,
            "%s: vocab.json and merges.txt do not say how text is cut, and neither tokenizer_class nor model_type "
            "names a family whose rules are known (Qwen, GPT-2)",
            dir);
    if (rc == 0 && (rc = json_parse(&doc, vocab.s ? vocab.s : "", vocab.len, e)) < 0)
        err_prefix(e, "%s/vocab.json", dir);
    if (rc == 0) {
        struct buf *j = &t->json;
        buf_puts(j, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":");
        rc = added_json(dir, config, j, e);
        buf_printf(j, ",%s,\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,", head);
        buf_puts(j, "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":false,"
                    "\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":");
        buf_add(j, doc.s, doc.n);
        buf_puts(j, ",\"merges\":");
        if (rc == 0 && (rc = merges_json(&merges, j, e)) < 0)
            err_prefix(e, "%s", dir);
        buf_puts(j, "}}");
    }
    buf_release(&vocab);
    buf_release(&merges);
    return rc;
}

static void bert_special(struct buf *out, struct json config, const char *key, const char *absent, struct buf *name)
{
    struct json v, c;
    (void)out;
    buf_reset(name);
    if (obj_get(config, key, &v) && json_kind(v) == JSON_OBJECT && json_get(v, "content", &c))
        v = c;
    if (obj_get(config, key, &v) && json_kind(v) == JSON_STRING)
        json_str(v, name);
    else
        buf_puts(name, absent);
}

struct vocab_line {
    struct buf json; /* "token":id,... */
    struct vocab v;
};

static int32_t find_line(const struct vocab *v, const struct buf *name)
{
    return vocab_find(v, name->s ? name->s : "", name->len);
}

/* vocab.txt: WordPiece, one token a line, white space at its end does not count. */
static int wordpiece_files(struct tokenizer *t, const char *dir, struct json config, struct err *e)
{
    static const char *const keys[] = { "pad_token", "unk_token", "cls_token", "sep_token", "mask_token" };
    static const char *const names[] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" };
    struct buf text = BUF_INIT, vocab = BUF_INIT, name = BUF_INIT, *j = &t->json;
    struct vocab v;
    struct json x;
    int32_t id[5] = { -1, -1, -1, -1, -1 };
    char *path = path_join(dir, "vocab.txt");
    int rc = file_read(&text, path, MAX_FILE, e);
    vocab_init(&v, text.len / 8);
    const char *p = text.s ? text.s : "", *end = p + text.len;
    for (int32_t line = 0; rc == 0 && p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        while (n && strchr(" \t\r\f\v", p[n - 1]))
            n--;
        if (line)
            buf_putc(&vocab, ',');
        json_put_str(&vocab, p, n);
        buf_printf(&vocab, ":%d", line);
        rc = vocab_put(&v, p, (uint32_t)n, line, e);
        p = nl ? nl + 1 : end;
    }
    bool lower = obj_flag(config, "do_lower_case", true);
    bool strip_given = obj_get(config, "strip_accents", &x);
    if (rc == 0) {
        bool comma = false;
        buf_puts(j, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
        for (int i = 0; i < 5; i++) {
            bert_special(j, config, keys[i], names[i], &name);
            id[i] = find_line(&v, &name);
            if (id[i] < 0)
                continue;
            struct added a = { .content = { name.s, (uint32_t)name.len }, .id = id[i], .special = true };
            if (comma)
                buf_putc(j, ',');
            put_added(j, &a);
            comma = true;
        }
        buf_puts(j, "],\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true");
        put_flag(j, "handle_chinese_chars", obj_flag(config, "tokenize_chinese_chars", true));
        buf_printf(j, ",\"strip_accents\":%s",
                   !strip_given                               ? "null"
                   : obj_flag(config, "strip_accents", false) ? "true"
                                                              : "false");
        put_flag(j, "lowercase", lower);
        buf_puts(j, "},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":");
        if (id[2] >= 0 && id[3] >= 0) {
            buf_puts(j, "{\"type\":\"BertProcessing\",\"sep\":[");
            bert_special(j, config, keys[3], names[3], &name);
            json_put_str(j, name.s, name.len);
            buf_printf(j, ",%d],\"cls\":[", id[3]);
            bert_special(j, config, keys[2], names[2], &name);
            json_put_str(j, name.s, name.len);
            buf_printf(j, ",%d]}", id[2]);
        } else {
            buf_puts(j, "null");
        }
        buf_puts(j, ",\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},\"model\":{\"type\":"
                    "\"WordPiece\",\"unk_token\":");
        bert_special(j, config, keys[1], names[1], &name);
        json_put_str(j, name.s, name.len);
        buf_puts(j, ",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{");
        buf_add(j, vocab.s ? vocab.s : "", vocab.len);
        buf_puts(j, "}}}");
    } else {
        err_prefix(e, "%s", path);
    }
    free(path);
    vocab_release(&v);
    buf_release(&text);
    buf_release(&vocab);
    buf_release(&name);
    return rc;
}

static bool has(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool yes = file_exists(path);
    free(path);
    return yes;
}

int files_open(struct tokenizer *t, const char *dir, struct err *e)
{
    struct buf a = BUF_INIT, b = BUF_INIT;
    struct json config, model;
    int rc = read_json(dir, "tokenizer_config.json", &a, &config, e);
    if (rc == 0)
        rc = read_json(dir, "config.json", &b, &model, e);
    t->from_files = true;
    if (rc == 0) {
        if (has(dir, "vocab.json") && has(dir, "merges.txt"))
            rc = bpe_files(t, dir, config, model, e);
        else if (has(dir, "vocab.txt"))
            rc = wordpiece_files(t, dir, config, e);
        else
            rc = err_set(
                e, "%s: no tokenizer here: neither tokenizer.json, nor vocab.json with merges.txt, nor vocab.txt", dir);
    }
    buf_release(&a);
    buf_release(&b);
    if (rc == 0 && (rc = tokenizer_parse(t, e)) < 0)
        err_prefix(e, "%s", dir);
    return rc;
}

/* ---- dual vocabulary ---- */

static int meta_int(struct json meta, const char *key, int32_t *out, struct err *e)
{
    struct json v;
    int64_t n;
    if (!json_get(meta, key, &v) || !json_int(v, &n) || n < 0 || n >= 1 << 24)
        return err_set(e, "\"%s\" is not a number between 0 and %d", key, (1 << 24) - 1);
    *out = (int32_t)n;
    return 0;
}

static int meta_sources(struct tokenizer *t, struct json meta, struct err *e)
{
    struct json v, x;
    if (!obj_get(meta, "source_ids", &v))
        return 0;
    if (json_kind(v) == JSON_OBJECT) {
        int32_t count = -1;
        if (meta_int(v, "first", &t->source_first, e) < 0 || meta_int(v, "count", &count, e) < 0)
            return err_prefix(e, "source_ids");
        return count == t->latent_count ? 0 : err_set(e, "source_ids counts %d ids, L is %d", count, t->latent_count);
    }
    if (json_kind(v) != JSON_ARRAY || json_count(v) != (size_t)t->latent_count)
        return err_set(e, "source_ids is neither a range nor a list of L = %d ids", t->latent_count);
    t->source = xreallocarray(NULL, (size_t)t->latent_count + 1, sizeof *t->source);
    bool identity = true;
    struct json_iter it = json_each(v);
    for (int32_t i = 0; json_next(&it, NULL, &x); i++) {
        int64_t n;
        if (!json_int(x, &n) || n < 0 || n >= 1 << 24)
            return err_set(e, "source_ids[%d] is not an id", i);
        t->source[i] = (int32_t)n;
        identity = identity && n == i;
    }
    if (identity) {
        free(t->source);
        t->source = NULL;
    }
    return 0;
}

static int meta_read(struct tokenizer *t, struct json meta, struct err *e)
{
    struct json v;
    if (meta_int(meta, "V", &t->latent_first, e) < 0 || meta_int(meta, "L", &t->latent_count, e) < 0)
        return -1;
    if ((int64_t)t->latent_first + t->latent_count >= 1 << 24)
        return err_set(e, "V + L = %lld is too large", (long long)t->latent_first + t->latent_count);
    if (!obj_get(meta, "latent_token_format", &v)) /* custom: its tokens are named in tokenizer.json */
        return 0;
    struct buf f = BUF_INIT;
    if (json_kind(v) == JSON_STRING)
        json_str(v, &f);
    char *open = f.s ? strchr(f.s, '{') : NULL, *close = open ? strchr(open, '}') : NULL;
    if (!open || !close || open == f.s) {
        buf_release(&f);
        return err_set(e, "latent_token_format is not text with {} in it");
    }
    t->latent_head.n = (uint32_t)(open - f.s);
    t->latent_head.s = arena_strndup(&t->arena, f.s, t->latent_head.n);
    t->latent_tail.n = (uint32_t)strlen(close + 1);
    t->latent_tail.s = arena_strndup(&t->arena, close + 1, t->latent_tail.n);
    buf_release(&f);
    if (meta_sources(t, meta, e) < 0)
        return -1;
    latent_sort(t);
    return 0;
}

int latent_open(struct tokenizer *t, const char *dir, struct err *e)
{
    struct buf text = BUF_INIT;
    struct json meta;
    int rc = read_json(dir, "dual_vocab_meta.json", &text, &meta, e);
    if (rc == 0 && meta.n && (rc = meta_read(t, meta, e)) < 0)
        err_prefix(e, "%s/dual_vocab_meta.json", dir);
    buf_release(&text);
    return rc;
}
