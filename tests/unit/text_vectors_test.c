/* Published vectors: every file of data/tokenizers/vectors, in full. */
#include "unit/test.h"

#include <dirent.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer.h"

static struct err e;

/* The lines of a JSONL file, one at a time. */
struct lines {
    struct buf text;
    size_t at;
    int line;
};

static void lines_open(struct lines *l, const char *path)
{
    memset(l, 0, sizeof *l);
    assert_ok(file_read(&l->text, path, 0, &e));
}

static bool lines_next(struct lines *l, struct json *v)
{
    while (l->at < l->text.len) {
        char *s = l->text.s + l->at, *nl = memchr(s, '\n', l->text.len - l->at);
        size_t n = nl ? (size_t)(nl - s) : l->text.len - l->at;
        l->at += n + 1;
        l->line++;
        if (n == 0)
            continue;
        assert_ok(json_parse(v, s, n, &e));
        return true;
    }
    buf_release(&l->text);
    return false;
}

static char *field(struct json o, const char *key, size_t *n)
{
    struct json v;
    struct buf b = BUF_INIT;
    if (!json_get(o, key, &v) || json_kind(v) != JSON_STRING)
        return NULL;
    json_str(v, &b);
    if (n)
        *n = b.len;
    return buf_take(&b);
}

static bool flag(struct json o, const char *key)
{
    struct json v;
    bool b = false;
    return json_get(o, key, &v) && json_bool(v, &b) && b;
}

static void check_ids(const char *where, struct json want, const int32_t *id, size_t n)
{
    struct json_iter it = json_each(want);
    struct json v;
    size_t i = 0;
    while (json_next(&it, NULL, &v)) {
        int64_t x;
        assert_true(json_int(v, &x));
        if (i >= n || id[i] != x)
            fail_msg("%s: id[%zu]: got %d of %zu ids, want %lld in %.*s", where, i, i < n ? id[i] : -1, n, (long long)x,
                     (int)(want.n < 400 ? want.n : 400), want.s);
        i++;
    }
    if (i != n)
        fail_msg("%s: got %zu ids, want %zu", where, n, i);
}

static void check_types(const char *where, struct json want, const uint8_t *type, size_t n)
{
    struct json_iter it = json_each(want);
    struct json v;
    size_t i = 0;
    for (; json_next(&it, NULL, &v); i++) {
        int64_t x;
        assert_true(json_int(v, &x));
        if (i >= n || type[i] != x)
            fail_msg("%s: type_ids[%zu]", where, i);
    }
    assert_int_equal(i, n);
}

/* Code points [b, e) of text. */
static void code_points(const char *text, uint32_t b, uint32_t e_, struct buf *out)
{
    uint32_t k = 0;
    for (const char *p = text; *p && k < e_; p++) {
        if (k >= b)
            buf_putc(out, *p);
        if (((unsigned char)p[1] & 0xc0) != 0x80)
            k++;
    }
}

/* "tokens" of a vector: texts of tokens before special ones are added; an added token shows what it matched. */
static void check_tokens(const char *where, const struct tokenizer *t, struct json want, const char *text,
                         const struct tokens *ts)
{
    struct json_iter it = json_each(want);
    struct json v;
    size_t i = 0;
    for (; json_next(&it, NULL, &v); i++) {
        struct buf a = BUF_INIT, b = BUF_INIT;
        json_str(v, &a);
        buf_puts(&b, "");
        if (i >= ts->n)
            fail_msg("%s: token %zu \"%s\" is missing", where, i, a.s);
        if (tokenizer_is_added(t, ts->id[i]) && ts->begin[i] < ts->end[i]) {
            code_points(text, ts->begin[i], ts->end[i], &b);
        } else {
            tokenizer_token(t, ts->id[i], &b);
        }
        buf_puts(&a, "");
        struct buf plain = BUF_INIT;
        tokenizer_token(t, ts->id[i], &plain);
        if (strcmp(a.s, b.s) != 0 && strcmp(a.s, plain.s ? plain.s : "") != 0)
            fail_msg("%s: token %zu: got \"%s\", want \"%s\"", where, i, b.s, a.s);
        buf_release(&a);
        buf_release(&b);
        buf_release(&plain);
    }
    if (i != ts->n)
        fail_msg("%s: got %zu tokens, want %zu", where, ts->n, i);
}

static void check_decode(const char *where, struct tokenizer *t, struct json o, const char *key, bool skip)
{
    size_t n;
    char *want = field(o, key, &n);
    struct json ids, v;
    struct buf out = BUF_INIT;
    int32_t id[20000];
    size_t k = 0;
    if (!want || !json_get(o, "ids", &ids)) {
        free(want);
        return;
    }
    struct json_iter it = json_each(ids);
    while (json_next(&it, NULL, &v)) {
        int64_t x;
        assert_true(json_int(v, &x) && k < 20000);
        id[k++] = (int32_t)x;
    }
    assert_ok(tokenizer_decode(t, id, k, skip, &out, &e));
    if (out.len != n || memcmp(out.s ? out.s : "", want, n) != 0)
        fail_msg("%s: %s: got \"%s\", want \"%s\"", where, key, out.s, want);
    buf_release(&out);
    /* the same text when ids arrive one by one, less the clean-up */
    bool clean = tokenizer_set_clean_up(t, false);
    assert_ok(tokenizer_decode(t, id, k, skip, &out, &e));
    tokenizer_set_clean_up(t, clean);
    free(want);
    n = out.len;
    want = xstrndup(out.s ? out.s : "", n);
    struct tok_stream *s;
    struct buf parts = BUF_INIT;
    assert_ok(tok_stream_open(&s, t, skip, &e));
    for (size_t i = 0; i < k; i++)
        assert_ok(tok_stream_put(s, id[i], &parts, &e));
    assert_ok(tok_stream_end(s, &parts, &e));
    tok_stream_close(s);
    if (parts.len != n || memcmp(parts.s ? parts.s : "", want, n) != 0)
        fail_msg("%s: %s streamed: got \"%s\", want \"%s\"", where, key, parts.s, want);
    buf_release(&parts);
    buf_release(&out);
    free(want);
}

static void check_case(struct tokenizer *t, struct json o)
{
    struct tokens ts = TOKENS_INIT;
    struct json v;
    size_t n, np;
    char *where = field(o, "id", NULL), *text = field(o, "text", &n), *pair = field(o, "text_pair", &np);
    bool specials = flag(o, "add_special_tokens");
    unsigned flags = specials ? TOK_SPECIALS : 0;
    for (unsigned more = 0; more <= TOK_OFFSETS; more += TOK_OFFSETS) { /* two paths, one answer */
        if (pair)
            assert_ok(tokenizer_encode_pair(t, text, n, pair, np, flags | more, &ts, &e));
        else
            assert_ok(tokenizer_encode(t, text, n, flags | more, &ts, &e));
        if (json_get(o, "ids", &v))
            check_ids(where, v, ts.id, ts.n);
        if (json_get(o, "type_ids", &v))
            check_types(where, v, ts.type, ts.n);
    }
    if (json_get(o, "tokens", &v) && !pair) {
        assert_ok(tokenizer_encode(t, text, n, TOK_OFFSETS, &ts, &e));
        check_tokens(where, t, v, text, &ts);
    }
    check_decode(where, t, o, "decoded", false);
    check_decode(where, t, o, "decoded_skip_special", true);
    free(where);
    free(text);
    free(pair);
    tokens_release(&ts);
}

/* clean_up: the published models' tokenizer_config.json asks for clean_up_tokenization_spaces (or is so old that it was
 * the default); the data folders do not hold those files, so the test says it. */
static void run_file(const char *vectors, const char *folder, bool clean_up)
{
    struct lines l;
    struct json o;
    struct tokenizer *t;
    char vec[4096], dir[4096];
    snprintf(vec, sizeof vec, "%s", vectors);
    snprintf(dir, sizeof dir, "%s", folder);
    assert_ok(tokenizer_open(&t, dir, &e));
    tokenizer_set_clean_up(t, clean_up);
    lines_open(&l, vec);
    int n = 0;
    for (; lines_next(&l, &o); n++)
        check_case(t, o);
    assert_true(n > 0);
    tokenizer_close(t);
}

#define VECTORS(name, folder, clean_up)                                                                                \
    static void name(void **state)                                                                                     \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        SHARED_OR_SKIP(vec, "data/tokenizers/vectors/" folder ".jsonl");                                               \
        SHARED_OR_SKIP(dir, "data/tokenizers/" folder);                                                                \
        run_file(vec, dir, clean_up);                                                                                  \
    }
VECTORS(qwen2, "qwen2", false)
VECTORS(llama3, "llama3", true)
VECTORS(gpt2, "gpt2", true)
VECTORS(phi3, "phi3", false)
VECTORS(bert, "bert-base-uncased", true)
VECTORS(mbert, "mbert-cased", true)

/* Text with one part replaced by another; both must be there. */
static void swap(struct buf *b, const char *from_key, const char *to)
{
    struct json doc, v;
    struct buf out = BUF_INIT;
    assert_ok(json_parse(&doc, b->s, b->len, &e));
    assert_true(json_get(doc, from_key, &v));
    buf_add(&out, b->s, (size_t)(v.s - b->s));
    buf_puts(&out, to);
    buf_puts(&out, v.s + v.n);
    buf_release(b);
    *b = out;
}

/* Variant A is the file; B has Metaspace alone and a second normalizer. */
static void xlmr(void **state)
{
    (void)state;
    SHARED_OR_SKIP(vec, "data/tokenizers/vectors/xlmr-family-unigram.jsonl");
    SHARED_OR_SKIP(file, "data/tokenizers/xlmr-family-unigram/tokenizer.json");
    struct tokenizer *a, *b;
    struct buf text = BUF_INIT, norm = BUF_INIT;
    struct json doc, v, x;
    assert_ok(file_read(&text, file, 0, &e));
    assert_ok(tokenizer_open_json(&a, text.s, text.len, "A", &e));
    assert_ok(json_parse(&doc, text.s, text.len, &e));
    assert_true(json_get(doc, "normalizer", &v));
    buf_puts(&norm, "{\"type\":\"Sequence\",\"normalizers\":[");
    buf_add(&norm, v.s, v.n);
    buf_puts(&norm, ",{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}]}");
    assert_true(json_get(doc, "pre_tokenizer", &v) && json_get(v, "pretokenizers", &x) && json_at(x, 1, &v));
    char *meta = xstrndup(v.s, v.n);
    swap(&text, "normalizer", norm.s);
    swap(&text, "pre_tokenizer", meta);
    assert_ok(tokenizer_open_json(&b, text.s, text.len, "B", &e));
    struct lines l;
    lines_open(&l, vec);
    while (lines_next(&l, &x)) {
        char *variant = field(x, "variant", NULL);
        check_case(strcmp(variant, "B") == 0 ? b : a, x);
        free(variant);
    }
    free(meta);
    buf_release(&text);
    buf_release(&norm);
    tokenizer_close(a);
    tokenizer_close(b);
}

static void charsmap(void **state)
{
    (void)state;
    SHARED_OR_SKIP(vec, "data/tokenizers/vectors/precompiled_charsmap.jsonl");
    SHARED_OR_SKIP(dir, "data/tokenizers/xlmr-family-unigram");
    struct tokenizer *t;
    struct lines l;
    struct json o;
    assert_ok(tokenizer_open(&t, dir, &e));
    lines_open(&l, vec);
    while (lines_next(&l, &o)) {
        struct buf out = BUF_INIT;
        size_t n, nw;
        char *text = field(o, "text", &n), *want = field(o, "normalized", &nw), *id = field(o, "id", NULL);
        assert_ok(tokenizer_normalize(t, text, n, &out, &e));
        if (out.len != nw || memcmp(out.s ? out.s : "", want, nw) != 0)
            fail_msg("%s: got \"%s\", want \"%s\"", id, out.s, want);
        buf_release(&out);
        free(text);
        free(want);
        free(id);
    }
    tokenizer_close(t);
}

static void unigram(void **state)
{
    (void)state;
    SHARED_OR_SKIP(vec, "data/tokenizers/vectors/unigram_unit.jsonl");
    struct lines l;
    struct json o, v, unk, fall;
    lines_open(&l, vec);
    while (lines_next(&l, &o)) {
        struct tokenizer *t;
        struct tokens ts = TOKENS_INIT;
        struct buf file = BUF_INIT;
        size_t n;
        char *id = field(o, "id", NULL), *text = field(o, "text", &n);
        assert_true(json_get(o, "vocab", &v) && json_get(o, "unk_id", &unk));
        if (!json_get(o, "byte_fallback", &fall))
            fall = (struct json){ "false", 5 };
        buf_printf(
            &file,
            "{\"added_tokens\":[],\"model\":{\"type\":\"Unigram\",\"unk_id\":%.*s,\"byte_fallback\":%.*s,\"vocab\":",
            (int)unk.n, unk.s, (int)fall.n, fall.s);
        buf_add(&file, v.s, v.n);
        buf_puts(&file, "}}");
        assert_ok(tokenizer_open_json(&t, file.s, file.len, id, &e));
        assert_ok(tokenizer_encode(t, text, n, TOK_OFFSETS, &ts, &e));
        assert_true(json_get(o, "tokens", &v));
        struct json_iter it = json_each(v);
        size_t i = 0;
        for (; json_next(&it, NULL, &v); i++) {
            struct buf want = BUF_INIT, got = BUF_INIT;
            json_str(v, &want);
            if (i >= ts.n)
                fail_msg("%s: token %zu is missing", id, i);
            if (!json_int(unk, &(int64_t){ 0 }))
                fail_msg("%s: unk_id", id);
            int64_t u;
            json_int(unk, &u);
            if (ts.id[i] == u)
                code_points(text, ts.begin[i], ts.end[i], &got);
            else
                tokenizer_token(t, ts.id[i], &got);
            if (want.len != got.len || memcmp(want.s, got.s, want.len) != 0)
                fail_msg("%s: token %zu: got \"%s\", want \"%s\"", id, i, got.s, want.s);
            buf_release(&want);
            buf_release(&got);
        }
        if (i != ts.n)
            fail_msg("%s: got %zu tokens, want %zu", id, ts.n, i);
        buf_release(&file);
        tokens_release(&ts);
        tokenizer_close(t);
        free(text);
        free(id);
    }
}

struct pieces {
    struct json_iter want;
    const char *id;
    size_t n;
};

static void one_piece(void *arg, const char *s, size_t n)
{
    struct pieces *p = arg;
    struct json v;
    struct buf want = BUF_INIT;
    if (!json_next(&p->want, NULL, &v))
        fail_msg("%s: piece %zu \"%.*s\" is one too many", p->id, p->n, (int)n, s);
    json_str(v, &want);
    if (want.len != n || memcmp(want.s ? want.s : "", s, n) != 0)
        fail_msg("%s: piece %zu: got \"%.*s\", want \"%s\"", p->id, p->n, (int)n, s, want.s);
    buf_release(&want);
    p->n++;
}

static void split_regex(void **state)
{
    (void)state;
    SHARED_OR_SKIP(vec, "data/tokenizers/vectors/split_regex.jsonl");
    struct lines l;
    struct json o, v;
    lines_open(&l, vec);
    while (lines_next(&l, &o)) {
        struct tokenizer *t;
        struct buf file = BUF_INIT;
        size_t n;
        char *id = field(o, "id", NULL), *text = field(o, "text", &n);
        buf_puts(&file, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Split\","
                        "\"pattern\":{\"Regex\":");
        assert_true(json_get(o, "pattern", &v));
        buf_add(&file, v.s, v.n);
        assert_true(json_get(o, "behavior", &v));
        buf_printf(&file, "},\"behavior\":%.*s,\"invert\":%s}}", (int)v.n, v.s, flag(o, "invert") ? "true" : "false");
        assert_ok(tokenizer_open_json(&t, file.s, file.len, id, &e));
        assert_true(json_get(o, "pieces", &v));
        struct pieces p = { json_each(v), id, 0 };
        assert_ok(tokenizer_pieces(t, text, n, one_piece, &p, &e));
        if (json_next(&p.want, NULL, &v))
            fail_msg("%s: piece %zu %.*s is missing", id, p.n, (int)v.n, v.s);
        tokenizer_close(t);
        buf_release(&file);
        free(text);
        free(id);
    }
}

static void added_tokens(void **state)
{
    (void)state;
    SHARED_OR_SKIP(vec, "data/tokenizers/vectors/added_tokens.jsonl");
    SHARED_OR_SKIP(path, "data/tokenizers/gpt2/tokenizer.json");
    struct lines l;
    struct json o, list, a, v;
    lines_open(&l, vec);
    while (lines_next(&l, &o)) {
        struct tokenizer *t;
        struct tokens ts = TOKENS_INIT;
        struct buf file = BUF_INIT;
        size_t n;
        char *id = field(o, "id", NULL), *text = field(o, "text", &n);
        assert_ok(file_read(&file, path, 0, &e));
        char pre[200];
        snprintf(pre, sizeof pre, "{\"type\":\"ByteLevel\",\"add_prefix_space\":%s,\"trim_offsets\":true}",
                 flag(o, "byte_level_add_prefix_space") ? "true" : "false");
        swap(&file, "pre_tokenizer", pre);
        assert_ok(tokenizer_open_json(&t, file.s, file.len, id, &e));
        assert_true(json_get(o, "add", &list));
        struct json_iter it = json_each(list);
        while (json_next(&it, NULL, &a)) {
            char *content = field(a, "content", NULL);
            struct tok_added x = { content,           flag(a, "single_word"), flag(a, "lstrip"),
                                   flag(a, "rstrip"), flag(a, "normalized"),  flag(a, "special") };
            assert_ok(tokenizer_add(t, &x, 1, NULL, &e));
            free(content);
        }
        assert_ok(tokenizer_encode(t, text, n, TOK_OFFSETS, &ts, &e));
        assert_true(json_get(o, "tokens", &v));
        check_tokens(id, t, v, text, &ts);
        tokens_release(&ts);
        tokenizer_close(t);
        buf_release(&file);
        free(text);
        free(id);
    }
}

static void real_xlmr(void **state)
{
    (void)state;
    SHARED_OR_SKIP(a, "data/tokenizers/vectors-needing-real-file/xlm-roberta-full.jsonl");
    const char *real = shared_file("data/tokenizers/xlm-roberta-base/tokenizer.json");
    if (!real) { /* not part of the shared data, so its absence is no fault of a machine */
        printf("# skip: the real XLM-R tokenizer.json has to be fetched by hand\n");
        skip();
    }
    char file[4096];
    snprintf(file, sizeof file, "%s", real ? real : "");
    run_file(a, file, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2),       cmocka_unit_test(llama3),       cmocka_unit_test(gpt2),
        cmocka_unit_test(phi3),        cmocka_unit_test(bert),         cmocka_unit_test(mbert),
        cmocka_unit_test(xlmr),        cmocka_unit_test(charsmap),     cmocka_unit_test(unigram),
        cmocka_unit_test(split_regex), cmocka_unit_test(added_tokens), cmocka_unit_test(real_xlmr),
    };
    return cmocka_run_group_tests_name("text: published vectors", tests, NULL, NULL);
}
