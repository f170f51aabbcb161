/* 2,000 texts against the tokenizers package: ids, offsets and decoded text by hash (tests/golden/README.md, "text/").
 * The last group of texts, `any`, is code points of any age; there the tables of two Unicode versions may differ, and
 * the test only counts. */
#include "unit/test.h"

#include <zstd.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer.h"

static struct err e;

struct text {
    char *s;
    size_t n;
    bool any;
};

static struct text *texts;
static size_t n_texts, n_real;

static void add_text(struct buf *b, bool any)
{
    static size_t cap;
    if (n_texts == cap) {
        cap = cap ? cap * 2 : 1024;
        texts = xreallocarray(texts, cap, sizeof *texts);
    }
    texts[n_texts].n = b->len;
    texts[n_texts].s = buf_take(b);
    texts[n_texts++].any = any;
}

static const char *str_field(struct json o, const char *key, struct buf *b)
{
    struct json v;
    buf_reset(b);
    if (!json_get(o, key, &v) || json_kind(v) != JSON_STRING)
        return NULL;
    json_str(v, b);
    buf_puts(b, "");
    return b->s;
}

static int64_t int_field(struct json o, const char *key)
{
    struct json v;
    int64_t n = 0;
    assert_true(json_get(o, key, &v) && json_int(v, &n));
    return n;
}

/* One field of some lines of a file of shared data; where it is absent, texts that count but are not tested. */
static void add_real(struct json spec)
{
    struct buf name = BUF_INIT, field = BUF_INIT, path = BUF_INIT, file = BUF_INIT;
    int64_t first = int_field(spec, "first"), count = int_field(spec, "count"), line = 0;
    str_field(spec, "file", &name);
    str_field(spec, "field", &field);
    buf_printf(&path, "data/%s", name.s);
    const char *found = shared_file(path.s);
    if (found)
        assert_ok(file_read(&file, found, 0, &e));
    for (char *s = file.s, *nl; s && line < first + count && (nl = strchr(s, '\n')); s = nl + 1, line++) {
        struct json o, v;
        struct buf b = BUF_INIT;
        if (line < first)
            continue;
        assert_ok(json_parse(&o, s, (size_t)(nl - s), &e));
        assert_true(json_get(o, field.s, &v));
        json_str(v, &b);
        add_text(&b, false);
    }
    for (int64_t i = found ? count : 0; i < count; i++) {
        struct buf b = BUF_INIT;
        add_text(&b, false);
    }
    n_real = n_texts;
    buf_release(&name);
    buf_release(&field);
    buf_release(&path);
    buf_release(&file);
}

static int read_texts(void **state)
{
    (void)state;
    struct buf file = BUF_INIT, b = BUF_INIT, group = BUF_INIT, part = BUF_INIT;
    struct json o, v;
    assert_ok(file_read(&file, "tests/golden/text/lines.jsonl", 0, &e));
    for (char *s = file.s, *nl; (nl = strchr(s, '\n')); s = nl + 1) {
        assert_ok(json_parse(&o, s, (size_t)(nl - s), &e));
        str_field(o, "group", &group);
        if (json_get(o, "file", &v)) {
            add_real(o);
            continue;
        }
        if (str_field(o, "repeat", &part)) {
            int64_t times = int_field(o, "times");
            buf_reset(&b);
            for (int64_t i = 0; i < times; i++)
                buf_add(&b, part.s, part.len);
        } else {
            str_field(o, "text", &b);
        }
        add_text(&b, strcmp(group.s, "any") == 0);
    }
    assert_int_equal(n_texts, 2000);
    buf_release(&file);
    buf_release(&group);
    buf_release(&part);
    return 0;
}

static int free_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_texts; i++)
        free(texts[i].s);
    free(texts);
    return 0;
}

static uint64_t fnv(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint32_t fold(uint64_t h)
{
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

static char *unpack(const char *path)
{
    struct file_map m;
    assert_ok(file_map_open(&m, path, &e));
    unsigned long long n = ZSTD_getFrameContentSize(m.p, m.n);
    assert_true(n < (unsigned)1 << 28);
    char *out = xmalloc((size_t)n + 1);
    assert_int_equal(ZSTD_decompress(out, (size_t)n, m.p, m.n), n);
    out[n] = '\0';
    file_map_close(&m);
    return out;
}

static void line_of(const struct tokenizer *t, const struct text *x, struct tokens *ts, struct buf *decoded,
                    char out[64])
{
    const uint64_t basis = 0xcbf29ce484222325u;
    uint64_t off = basis;
    struct tokens plain = TOKENS_INIT;
    assert_ok(tokenizer_encode(t, x->s, x->n, TOK_OFFSETS, ts, &e));
    assert_ok(tokenizer_encode(t, x->s, x->n, 0, &plain, &e));
    assert_int_equal(plain.n, ts->n);
    if (ts->n)
        assert_memory_equal(plain.id, ts->id, ts->n * sizeof *ts->id);
    tokens_release(&plain);
    for (size_t i = 0; i < ts->n; i++) {
        off = fnv(off, &ts->begin[i], 4);
        off = fnv(off, &ts->end[i], 4);
    }
    buf_reset(decoded);
    assert_ok(tokenizer_decode(t, ts->id, ts->n, false, decoded, &e));
    snprintf(out, 64, "%zu %016llx %08x %08x", ts->n, (unsigned long long)fnv(basis, ts->id, ts->n * 4), fold(off),
             fold(fnv(basis, decoded->s ? decoded->s : "", decoded->len)));
}

static void compare(const char *name, const char *folder, size_t first)
{
    struct tokenizer *t;
    struct tokens ts = TOKENS_INIT;
    struct buf decoded = BUF_INIT;
    char path[300], got[64];
    size_t i = first, rare = 0;
    snprintf(path, sizeof path, "tests/golden/text/%s.hash.zst", name);
    char *want = unpack(path);
    assert_ok(tokenizer_open(&t, folder, &e));
    tokenizer_set_clean_up(t, false); /* transformers' step, not the package's */
    for (char *s = want, *nl; (nl = strchr(s, '\n')); s = nl + 1, i++) {
        *nl = '\0';
        assert_true(i < n_texts);
        line_of(t, &texts[i], &ts, &decoded, got);
        if (strcmp(got, s) == 0)
            continue;
        if (!texts[i].any)
            fail_msg("%s, text %zu \"%.80s\": got %s, want %s", name, i, texts[i].s, got, s);
        rare++;
    }
    assert_int_equal(i, 2000);
    if (rare)
        printf("# %s: %zu texts of rare code points differ\n", name, rare);
    free(want);
    buf_release(&decoded);
    tokens_release(&ts);
    tokenizer_close(t);
}

#define SHARED(fn, name)                                                                                               \
    static void fn(void **state)                                                                                       \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        SHARED_OR_SKIP(dir, "data/tokenizers/" name);                                                                  \
        compare(name, dir, 0);                                                                                         \
    }
SHARED(qwen2, "qwen2")
SHARED(llama3, "llama3")
SHARED(phi3, "phi3")
SHARED(gpt2, "gpt2")
SHARED(bert, "bert-base-uncased")
SHARED(mbert, "mbert-cased")
SHARED(xlmr, "xlmr-family-unigram")
SHARED(barthez, "barthez-spm-bpe")

static void tiny(void **state)
{
    (void)state;
    compare("tiny-qwen3", "tests/golden/models/qwen3", n_real);
    compare("tiny-phi3", "tests/golden/models/phi3", n_real);
    compare("tiny-xlmr", "tests/golden/models/xlmr", n_real);
    compare("tiny-bert", "tests/golden/models/bert", n_real);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2), cmocka_unit_test(llama3),  cmocka_unit_test(phi3),
        cmocka_unit_test(gpt2),  cmocka_unit_test(bert),    cmocka_unit_test(mbert),
        cmocka_unit_test(xlmr),  cmocka_unit_test(barthez), cmocka_unit_test(tiny),
    };
    return cmocka_run_group_tests_name("text: 2,000 texts against tokenizers", tests, read_texts, free_texts);
}
