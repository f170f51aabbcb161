/* Tokenizers beyond the vectors: adding and saving, plain files, dual vocabularies, broken input, bounds, refusals. */
#include "unit/test.h"

#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

static struct err e;

/* A byte-level BPE over the 256 letters, written as tokenizer.json; made here so that tests need no data. */
static const char *letters_json(const char *extra_vocab, const char *merges, const char *pre, const char *added)
{
    static struct buf b;
    buf_reset(&b);
    buf_printf(
        &b, "{\n  \"version\": \"1.0\",\n  \"added_tokens\": %s,\n  \"normalizer\": null,\n  \"pre_tokenizer\": %s,\n",
        added, pre);
    buf_puts(&b, "  \"post_processor\": null,\n  \"decoder\": {\"type\": \"ByteLevel\"},\n  \"model\": {\"type\": "
                 "\"BPE\", \"vocab\": {");
    int id = 0;
    for (int i = 0, next = 0x100; i < 256; i++) {
        bool plain = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i != 0xad);
        char c[4];
        int n = utf8_encode((uint32_t)(plain ? i : next++), c);
        if (id)
            buf_puts(&b, ", ");
        json_put_str(&b, c, (size_t)n);
        buf_printf(&b, ": %d", id++);
    }
    buf_printf(&b, "%s}, \"merges\": [%s]}\n}\n", extra_vocab, merges);
    return b.s;
}

#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}"

static struct tokenizer *small(const char *added)
{
    struct tokenizer *t;
    const char *json = letters_json(", \"aa\": 256, \"aaaa\": 257", "\"a a\", [\"aa\", \"aa\"]", BYTE_LEVEL, added);
    assert_ok(tokenizer_open_json(&t, json, strlen(json), "small", &e));
    return t;
}

static void want_ids(const struct tokenizer *t, const char *text, const char *want)
{
    struct tokens ts = TOKENS_INIT;
    struct buf got = BUF_INIT;
    assert_ok(tokenizer_encode(t, text, strlen(text), 0, &ts, &e));
    buf_puts(&got, "");
    for (size_t i = 0; i < ts.n; i++)
        buf_printf(&got, i ? " %d" : "%d", ts.id[i]);
    if (strcmp(got.s, want) != 0)
        fail_msg("\"%s\": got %s, want %s", text, got.s, want);
    buf_release(&got);
    tokens_release(&ts);
}

static void long_words(void **state)
{
    (void)state;
    struct tokenizer *t = small("[]");
    struct tokens ts = TOKENS_INIT;
    size_t n = 10 << 20;
    char *text = xmalloc(n);
    memset(text, 'a', n);
    clock_t begin = clock();
    assert_ok(tokenizer_encode(t, text, n, 0, &ts, &e));
    assert_int_equal(ts.n, n / 4);
    for (size_t i = 0; i < ts.n; i += 1000)
        assert_int_equal(ts.id[i], 257);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)('a' + i % 3 % 2);
    assert_ok(tokenizer_encode(t, text, n, TOK_OFFSETS, &ts, &e));
    assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 60);
    free(text);
    tokens_release(&ts);
    tokenizer_close(t);
}

/* Short words (scan) and long ones (heap) merge alike. */
static void merge_loops_agree(void **state)
{
    (void)state;
    struct tokenizer *t = small("[]");
    struct tokens a = TOKENS_INIT, b = TOKENS_INIT;
    char text[400];
    uint32_t seed = 1;
    for (int round = 0; round < 300; round++) {
        size_t n = 90 + (size_t)round % 12; /* both sides of the border */
        for (size_t i = 0; i < n; i++)
            text[i] = (seed = seed * 1664525 + 1013904223) >> 28 ? 'a' : 'b';
        assert_ok(tokenizer_encode(t, text, n, 0, &a, &e));
        /* greedy by hand: runs of a, four by four */
        size_t k = 0;
        for (size_t i = 0; i < n;) {
            size_t run = 0;
            while (i + run < n && text[i + run] == 'a')
                run++;
            for (size_t r = run; r;) {
                size_t take = r >= 4 ? 4 : r >= 2 ? 2 : 1;
                assert_true(k < a.n);
                assert_int_equal(a.id[k++], take == 4 ? 257 : take == 2 ? 256 : 'a');
                r -= take;
            }
            i += run;
            if (i < n) {
                assert_int_equal(a.id[k++], 'b');
                i++;
            }
        }
        assert_int_equal(k, a.n);
    }
    tokens_release(&a);
    tokens_release(&b);
    tokenizer_close(t);
}

static void broken_utf8(void **state)
{
    (void)state;
    struct tokenizer *t = small("[]");
    struct tokens ts = TOKENS_INIT;
    struct buf out = BUF_INIT;
    static const char text[] = "a\xff\xf0\x9f\x98z\xe2\x82\xc3(";
    assert_ok(tokenizer_encode(t, text, sizeof text - 1, TOK_OFFSETS, &ts, &e));
    assert_ok(tokenizer_decode(t, ts.id, ts.n, false, &out, &e));
    assert_string_equal(out.s, "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd(");
    assert_int_equal(ts.end[ts.n - 1], 7); /* code points of the repaired text */
    assert_int_equal(ts.begin[1], 1);
    assert_int_equal(ts.end[3], 2);
    tokens_release(&ts);
    buf_release(&out);
    tokenizer_close(t);
}

/* Decoding ids one by one gives the same text, in whole characters. */
static void streams(void **state)
{
    (void)state;
    struct tokenizer *t = small("[{\"id\": 258, \"content\": \"<x>\", \"special\": true}]");
    static const char text[] = "\xf0\x9f\x98\x80 \xc3\xa9<x>\xe4\xb8\xad";
    struct tokens ts = TOKENS_INIT;
    struct tok_stream *s;
    struct buf out = BUF_INIT;
    assert_ok(tokenizer_encode(t, text, sizeof text - 1, 0, &ts, &e));
    for (int skip = 0; skip < 2; skip++) {
        buf_reset(&out);
        assert_ok(tok_stream_open(&s, t, skip, &e));
        for (size_t i = 0; i < ts.n; i++) {
            assert_ok(tok_stream_put(s, ts.id[i], &out, &e));
            assert_int_equal(utf8_check(out.s ? out.s : "", out.len), out.len);
        }
        assert_ok(tok_stream_end(s, &out, &e));
        assert_string_equal(out.s, skip ? "\xf0\x9f\x98\x80 \xc3\xa9\xe4\xb8\xad" : text);
        tok_stream_close(s);
    }
    buf_reset(&out);
    assert_ok(tok_stream_open(&s, t, false, &e));
    assert_ok(tok_stream_put(s, tokenizer_id(t, "\xc3\xb0"), &out, &e)); /* the letter of byte f0 */
    assert_int_equal(out.len, 0);
    assert_ok(tok_stream_end(s, &out, &e));
    assert_string_equal(out.s, "\xef\xbf\xbd");
    tok_stream_close(s);
    tokens_release(&ts);
    buf_release(&out);
    tokenizer_close(t);
}

static char *saved(const struct tokenizer *t)
{
    char *path = path_join(test_tmpdir(), "saved.json");
    struct buf b = BUF_INIT;
    assert_ok(tokenizer_save(t, path, &e));
    assert_ok(file_read(&b, path, 0, &e));
    free(path);
    return buf_take(&b);
}

static void adds_and_saves(void **state)
{
    (void)state;
    static const char old[] =
        "[\n    {\n      \"id\": 300,\n      \"content\": \"<x>\",\n      \"special\": true\n    }\n  ]";
    struct tokenizer *t = small(old), *u;
    char *before = saved(t);
    assert_string_equal(before,
                        letters_json(", \"aa\": 256, \"aaaa\": 257", "\"a a\", [\"aa\", \"aa\"]", BYTE_LEVEL, old));
    struct tok_added add[] = { { "<think>", false, false, false, false, false },
                               { " \"w\"", true, true, true, true, true },
                               { "aa", false, false, false, false, false } };
    int32_t first;
    assert_ok(tokenizer_add(t, add, 3, &first, &e));
    assert_int_equal(first, 301);
    assert_int_equal(tokenizer_id(t, "<think>"), 301);
    assert_int_equal(tokenizer_id(t, " \"w\""), 302);
    assert_int_equal(tokenizer_id(t, "aa"), 256);
    assert_int_equal(tokenizer_size(t), 303);
    assert_true(tokenizer_is_special(t, 302) && !tokenizer_is_special(t, 301) && tokenizer_is_added(t, 256));
    want_ids(t, "<think>b<x>", "301 98 300");
    char *after = saved(t);
    static const char entry[] =
        "{\n      \"id\": 301,\n      \"content\": \"<think>\",\n      \"single_word\": false,\n      \"lstrip\": "
        "false,\n      \"rstrip\": false,\n      \"normalized\": false,\n      \"special\": false\n    }";
    assert_non_null(strstr(after, entry));
    assert_true(strstr(after, "\"id\": 256") < strstr(after, "\"id\": 300"));
    const char *tail = strstr(before, "],\n  \"normalizer\""), *tail2 = strstr(after, "],\n  \"normalizer\"");
    assert_string_equal(tail, tail2);
    assert_ok(tokenizer_open_json(&u, after, strlen(after), "saved", &e));
    want_ids(u, "<think>b<x> \"w\" aa", "301 98 300 302 256");
    char *again = saved(u);
    assert_string_equal(again, after);
    free(before);
    free(after);
    free(again);
    tokenizer_close(t);
    tokenizer_close(u);
}

static void config_grows(void **state)
{
    (void)state;
    struct tokenizer *t = small("[]");
    struct tok_added add = { "<y>", false, false, true, false, true };
    struct buf out = BUF_INIT;
    struct json doc, v, x;
    static const char config[] = "{\n  \"added_tokens_decoder\": {\n    \"3\": {\n      \"content\": \"q\",\n      "
                                 "\"special\": true\n    }\n  },\n"
                                 "  \"z\": 1.50\n}\n";
    assert_ok(tokenizer_add(t, &add, 1, NULL, &e));
    assert_ok(tokenizer_config_add(t, config, sizeof config - 1, &out, &e));
    assert_ok(json_parse(&doc, out.s, out.len, &e));
    assert_true(json_get(doc, "added_tokens_decoder", &v) && json_get(v, "258", &x) && json_get(v, "3", &x));
    assert_true(json_get(doc, "additional_special_tokens", &v) && json_at(v, 0, &x) && json_str_is(x, "<y>"));
    assert_non_null(strstr(out.s, "\"z\": 1.50"));
    assert_non_null(strstr(out.s, "    },\n    \"258\": {\n      \"content\": \"<y>\",\n"));
    buf_reset(&out);
    assert_ok(tokenizer_config_add(t, "{}", 2, &out, &e));
    assert_ok(json_parse(&doc, out.s, out.len, &e));
    assert_true(json_get(doc, "added_tokens_decoder", &v) && json_get(v, "258", &x));
    buf_release(&out);
    tokenizer_close(t);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    assert_ok(file_mkparents(path, &e));
    assert_ok(file_write_atomic(path, text, strlen(text), &e));
    free(path);
}

static void dual(void **state)
{
    (void)state;
    char *dir = path_join(test_tmpdir(), "dual");
    struct tokenizer *t;
    struct buf out = BUF_INIT;
    int32_t first, count;
    write_file(dir, "tokenizer.json",
               letters_json("", "", BYTE_LEVEL,
                            "[{\"id\": 256, \"content\": \"</think>\"}, {\"id\": 300, \"content\": \"<|latent_0|>\"}, "
                            "{\"id\": 301, \"content\": \"<|latent_1|>\"}]"));
    write_file(dir, "dual_vocab_meta.json",
               "{\"V\": 300, \"L\": 300, \"latent_token_format\": \"<|latent_{}|>\", \"source_ids\": {\"first\": 0, "
               "\"count\": 300}}");
    assert_ok(tokenizer_open(&t, dir, &e));
    assert_true(tokenizer_latent_range(t, &first, &count) && first == 300 && count == 300);
    assert_int_equal(tokenizer_size(t), 600);
    assert_int_equal(tokenizer_id(t, "<|latent_299|>"), 599);
    assert_int_equal(tokenizer_id(t, "<|latent_300|>"), -1);
    assert_int_equal(tokenizer_id(t, "<|latent_07|>"), -1);
    assert_true(tokenizer_token(t, 305, &out));
    assert_string_equal(out.s, "<|latent_5|>");
    assert_true(!tokenizer_token(t, 600, &out) && !tokenizer_token(t, 299, &out));
    want_ids(t, "<|latent_12|><|latent_0|></think>x<|latent_999|",
             "312 300 256 120 60 124 108 97 116 101 110 116 95 57 57 57 124");
    buf_reset(&out);
    assert_ok(tokenizer_decode(t, (int32_t[]){ 312, 256, 120 }, 3, true, &out, &e));
    assert_string_equal(out.s, "<|latent_12|></think>x");
    assert_true(tokenizer_is_added(t, 599) && !tokenizer_is_special(t, 599));
    tokenizer_close(t);
    write_file(dir, "dual_vocab_meta.json",
               "{\"V\": 300, \"L\": 3, \"latent_token_format\": \"<|latent_{}|>\", \"source_ids\": [7, 90, 11]}");
    assert_ok(tokenizer_open(&t, dir, &e));
    assert_int_equal(tokenizer_id(t, "<|latent_90|>"), 301);
    assert_int_equal(tokenizer_id(t, "<|latent_1|>"), -1);
    buf_reset(&out);
    assert_true(tokenizer_token(t, 302, &out));
    assert_string_equal(out.s, "<|latent_11|>");
    tokenizer_close(t);
    write_file(dir, "dual_vocab_meta.json",
               "{\"V\": 300, \"L\": 3, \"latent_token_format\": \"<|latent_{}|>\", \"source_ids\": [7]}");
    assert_int_equal(tokenizer_open(&t, dir, &e), -1);
    assert_non_null(strstr(e.msg, "source_ids"));
    buf_release(&out);
    free(dir);
}

static void plain_files(void **state)
{
    (void)state;
    SHARED_OR_SKIP(from, "data/tokenizers/qwen2/vocab.json");
    SHARED_OR_SKIP(full, "data/tokenizers/qwen2");
    char *dir = path_join(test_tmpdir(), "plain");
    static const char *const names[] = { "vocab.json", "merges.txt", "tokenizer_config.json" };
    struct tokenizer *t, *u;
    struct tokens a = TOKENS_INIT, b = TOKENS_INIT;
    (void)from;
    for (int i = 0; i < 3; i++) {
        struct buf file = BUF_INIT;
        char *path = path_join(full, names[i]), *to = path_join(dir, names[i]);
        assert_ok(file_read(&file, path, 0, &e));
        assert_ok(file_mkparents(to, &e));
        assert_ok(file_write_atomic(to, file.s, file.len, &e));
        buf_release(&file);
        free(path);
        free(to);
    }
    assert_ok(tokenizer_open(&t, dir, &e));
    assert_ok(tokenizer_open(&u, full, &e));
    static const char text[] = "Natalia's 48 clips: 48/2 = \\boxed{24}\n\n\xe4\xb8\xad\xe6\x96\x87 C\xcc\xa7<|im_end|>";
    assert_ok(tokenizer_encode(t, text, sizeof text - 1, TOK_OFFSETS, &a, &e));
    assert_ok(tokenizer_encode(u, text, sizeof text - 1, TOK_OFFSETS, &b, &e));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.id, b.id, a.n * sizeof *a.id);
    assert_memory_equal(a.end, b.end, a.n * sizeof *a.end);
    assert_int_equal(tokenizer_eos(t), tokenizer_id(u, "<|im_end|>"));
    assert_int_equal(tokenizer_pad(t), 151643);
    assert_int_equal(tokenizer_bos(t), -1);
    tokenizer_close(t);
    /* what it writes is a tokenizer.json of its own */
    tokens_release(&a);
    tokens_release(&b);
    tokenizer_close(u);
    free(dir);
}

static void vocab_txt(void **state)
{
    (void)state;
    char *dir = path_join(test_tmpdir(), "wordpiece");
    struct tokenizer *t;
    struct tokens ts = TOKENS_INIT;
    struct buf out = BUF_INIT;
    write_file(dir, "vocab.txt", "[PAD]\n[UNK]\r\n[CLS]\n[SEP]\n[MASK]\nhe\n##llo\n,\nworld \n");
    assert_ok(tokenizer_open(&t, dir, &e));
    assert_ok(tokenizer_encode(t, "Hello, W\xc3\xb6rld zz", 16, TOK_SPECIALS, &ts, &e));
    static const int32_t want[] = { 2, 5, 6, 7, 8, 1, 3 };
    assert_int_equal(ts.n, 7);
    assert_memory_equal(ts.id, want, sizeof want);
    assert_ok(tokenizer_decode(t, ts.id, ts.n, true, &out, &e));
    assert_string_equal(out.s, "hello, world");
    tokens_release(&ts);
    buf_release(&out);
    tokenizer_close(t);
    free(dir);
}

static void refuse(const char *json, const char *sentence)
{
    struct tokenizer *t;
    if (tokenizer_open_json(&t, json, strlen(json), "f", &e) == 0)
        fail_msg("%s: opened", json);
    if (!strstr(e.msg, sentence))
        fail_msg("%s: got \"%s\", want \"%s\"", json, e.msg, sentence);
}

static void refusals(void **state)
{
    (void)state;
    refuse("", "f: ");
    refuse("[]", "expected an object");
    refuse("{}", "not a tokenizer.json");
    refuse("{\"model\": {\"type\": \"Rwkv\"}}", "model \"Rwkv\" is not supported");
    refuse("{\"normalizer\": {\"type\": \"Odd\"}, \"model\": {}}", "normalizer \"Odd\" is not supported");
    refuse("{\"pre_tokenizer\": {\"type\": \"Odd\"}, \"model\": {}}", "pre-tokenizer \"Odd\" is not supported");
    refuse("{\"decoder\": {\"type\": \"Odd\"}, \"model\": {}}", "decoder \"Odd\" is not supported");
    refuse("{\"post_processor\": {\"type\": \"Odd\"}, \"model\": {}}", "post-processor \"Odd\" is not supported");
    refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
           "the right part is not in the vocabulary");
    refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}", "not two parts");
    refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}", "belongs to");
    refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999}, \"merges\": []}}", "is not between");
    refuse("{\"model\": {\"type\": \"BPE\", \"dropout\": 0.1, \"vocab\": {}, \"merges\": []}}", "dropout");
    refuse("{\"added_tokens\": [{\"id\": 1, \"content\": \"x\"}, {\"id\": 1, \"content\": \"y\"}], \"model\": "
           "{\"type\": \"BPE\", "
           "\"vocab\": {\"a\": 0}, \"merges\": []}}",
           "have the same id 1");
    refuse("{\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": "
           "\"[a[b]]\"}}, \"model\": {}}",
           "class inside a class");
    refuse("{\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}, "
           "\"model\": {}}",
           "pattern \"(\"");
    struct tokenizer *t;
    assert_int_equal(tokenizer_open(&t, "/nonexistent/x", &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent/x"));
    assert_int_equal(tokenizer_open(&t, test_tmpdir(), &e), -1);
    assert_non_null(strstr(e.msg, "no tokenizer here"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merge_loops_agree), cmocka_unit_test(broken_utf8),  cmocka_unit_test(streams),
        cmocka_unit_test(adds_and_saves),    cmocka_unit_test(config_grows), cmocka_unit_test(dual),
        cmocka_unit_test(plain_files),       cmocka_unit_test(vocab_txt),    cmocka_unit_test(refusals),
        cmocka_unit_test(long_words),
    };
    return cmocka_run_group_tests_name("text: tokenizers", tests, NULL, NULL);
}
