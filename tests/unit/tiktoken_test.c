/* tiktoken: ids of the published package (js-tiktoken's and tiktoken's, by hand from the specification), splits, and a
 * long word. */
#include "io/record.h"
#include "test.h"
#include "text/tiktoken.h"

static struct tiktoken *table;
static struct tiktoken_scratch scratch;

static size_t count(const char *s)
{
    return tiktoken_count(table, &scratch, s, strlen(s));
}

static void open_table(void)
{
    struct err e = { "" };
    if (table)
        return;
    SHARED_OR_SKIP(path, "data/tokenizers/cl100k/cl100k_base.tiktoken");
    assert_ok(tiktoken_open(&table, path, &e));
}

static void test_ids(void **state)
{
    static const struct {
        const char *text;
        size_t n;
        int32_t id[12];
    } cases[] = {
        { "hello world", 2, { 15339, 1917 } },
        { "\xe2\x96\x81", 2, { 10634, 223 } },
        { "tiktoken is great!", 6, { 83, 1609, 5963, 374, 2294, 0 } },
        { "", 0, { 0 } },
        { "<|endoftext|>", 7, { 27, 91, 8862, 728, 428, 91, 29 } },
    };
    (void)state;
    open_table();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t id[64];
        size_t n = tiktoken_encode(table, &scratch, cases[i].text, strlen(cases[i].text), id, 64);
        if (n != cases[i].n)
            fail_msg("%s: %zu tokens, want %zu", cases[i].text, n, cases[i].n);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(id[k], cases[i].id[k]);
    }
}

/* What the compressor's weights rest on (pipelines specification, 2.7 and 11.3). */
static void test_weights(void **state)
{
    (void)state;
    open_table();
    assert_int_equal(count("\xe2\x96\x81"), 2);
    assert_int_equal(count("\xe2\x96\x81Let"), 3);
    assert_int_equal(count("."), 1);
    assert_int_equal(count("\xe2\x96\x81\\frac"), 4);
    assert_int_equal(count("\\frac"), 2);
    assert_int_equal(count("{1"), 2);
}

/* Walking and the heap give the same tokens: a long word costs what its parts cost, within the seams. */
static void test_long_word(void **state)
{
    (void)state;
    open_table();
    struct buf b = BUF_INIT;
    for (int i = 0; i < 100000; i++)
        buf_putc(&b, 'a');
    assert_int_equal(tiktoken_count(table, &scratch, b.s, 64), 8);
    assert_int_equal(tiktoken_count(table, &scratch, b.s, 128), 16);
    assert_int_equal(tiktoken_count(table, &scratch, b.s, b.len), 12500);
    buf_release(&b);
}

/* The package's ids of 400 real responses, as a number: h = 31 h + id. */
static void test_corpus(void **state)
{
    struct err e = { "" };
    struct rec_reader *in;
    struct rec r;
    struct buf text = BUF_INIT;
    uint32_t h = 0;
    size_t total = 0;
    static int32_t id[20000];
    (void)state;
    open_table();
    SHARED_OR_SKIP(path, "data/real_cots.jsonl");
    const char *files[] = { path };
    assert_ok(rec_open(&in, files, 1, &e));
    while (rec_read(in, &r, &e) > 0) {
        buf_reset(&text);
        assert_ok(rec_text(&r, "response_text", &text, &e));
        size_t n = tiktoken_encode(table, &scratch, text.s, text.len, id, 20000);
        assert_int_equal(tiktoken_count(table, &scratch, text.s, text.len), n);
        for (size_t i = 0; i < n; i++)
            h = h * 31 + (uint32_t)id[i];
        total += n;
    }
    assert_int_equal(total, 149771);
    assert_int_equal(h, 3198314903u);
    buf_release(&text);
    rec_close(in);
}

static void test_bad_bytes(void **state)
{
    (void)state;
    open_table();
    assert_int_equal(count("\xff"), 1);
    assert_int_equal(count("hello world\xff\xfe"), 4);
}

static void test_refused(void **state)
{
    struct err e = { "" };
    struct tiktoken *t = NULL;
    char path[4200];
    (void)state;
    assert_int_equal(tiktoken_open(&t, "/nowhere/x.tiktoken", &e), -1);
    snprintf(path, sizeof path, "%s/bad.tiktoken", test_tmpdir());
    FILE *f = fopen(path, "w");
    fputs("IQ== 0\nIg== 2\n", f);
    fclose(f);
    assert_int_equal(tiktoken_open(&t, path, &e), -1);
    assert_non_null(strstr(e.msg, "bad.tiktoken:2: expected base64, a blank and the rank 1"));
    assert_null(t);
}

static int close_table(void **state)
{
    (void)state;
    tiktoken_close(table);
    tiktoken_scratch_free(&scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),    cmocka_unit_test(test_weights),   cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_corpus), cmocka_unit_test(test_bad_bytes), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("tiktoken", tests, NULL, close_table);
}
