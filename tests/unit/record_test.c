/* record_test.c - lib/io/record, stream, hash: what is read, what is refused, what is copied byte for byte. */
#include <sys/stat.h>

#include "base/file.h"
#include "io/record.h"
#include "io/stream.h"
#include "unit/test.h"

#include <fcntl.h>

static const char *write_tmp(const char *name, const void *bytes, size_t n)
{
    static char path[4][4200];
    static int turn;
    struct err e = { "" };
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", test_tmpdir(), name);
    assert_ok(file_write_atomic(p, bytes, n, &e));
    return p;
}

static void lines_come_as_they_are(void **state)
{
    (void)state;
    struct err e = { "" };
    static const char text[] = "\xef\xbb\xbf{\"a\": 1.50, \"b\": \"\\ud800\"}\r\n"
                               "\n"
                               "  {\"a\":NaN,\"c\":[1,{\"x\":2}]}  \n"
                               "{}";
    const char *files[2] = { write_tmp("a.jsonl", text, sizeof text - 1), write_tmp("b.jsonl", "{\"a\": -0}\n", 10) };
    struct rec_reader *in;
    struct rec r;
    struct json v;
    int64_t n;
    double d;
    assert_ok(rec_open(&in, files, 2, &e));
    assert_int_equal(rec_read(in, &r, &e), 1);
    assert_true(r.index == 0 && r.nfields == 2 && rec_get(&r, "a", &v) && v.n == 4); /* 1.50 keeps its spelling */
    assert_non_null(strstr(r.where, "a.jsonl:1"));
    assert_int_equal(rec_read(in, &r, &e), 1);
    assert_non_null(strstr(r.where, "a.jsonl:3"));
    assert_int_equal(rec_real(&r, "a", &d, &e), 0);
    assert_int_equal(rec_int(&r, "c", &n, &e), -1);
    assert_non_null(strstr(e.msg, "key \"c\" must be a whole number, found [1,{\"x\":2}]"));
    assert_int_equal(rec_int(&r, "z", &n, &e), -1);
    assert_non_null(strstr(e.msg, "no key \"z\""));
    assert_int_equal(rec_read(in, &r, &e), 1);
    assert_int_equal(r.nfields, 0);
    assert_int_equal(rec_read(in, &r, &e), 1);
    assert_true(r.index == 3 && strstr(r.where, "b.jsonl:1"));
    assert_int_equal(rec_read(in, &r, &e), 0);
    assert_int_equal(rec_inputs(in), 2);
    assert_true(hash_equal(rec_input_hash(in, 0), hash_bytes(text, sizeof text - 1)));
    rec_close(in);
}

static void broken_lines_name_file_and_line(void **state)
{
    (void)state;
    struct err e = { "" };
    static const char text[] = "{\"a\":1}\n{\"a\":\n[1]\n{\"s\":\"\xff\"}\n{\"a\":2}\n";
    const char *f = write_tmp("broken.jsonl", text, sizeof text - 1);
    struct rec_reader *in;
    struct rec r;
    assert_ok(rec_open(&in, &f, 1, &e));
    assert_int_equal(rec_read(in, &r, &e), 1);
    assert_int_equal(rec_read(in, &r, &e), REC_BAD);
    assert_non_null(strstr(e.msg, "broken.jsonl:2: text ends"));
    assert_int_equal(rec_read(in, &r, &e), REC_BAD);
    assert_non_null(strstr(e.msg, "broken.jsonl:3: expected an object"));
    assert_int_equal(rec_read(in, &r, &e), REC_BAD);
    assert_non_null(strstr(e.msg, "broken.jsonl:4: not UTF-8"));
    assert_int_equal(rec_read(in, &r, &e), 1); /* reading goes on behind them */
    assert_int_equal(rec_read(in, &r, &e), 0);
    rec_close(in);
    const char *none = "/nonexistent/x.jsonl";
    assert_int_equal(rec_open(&in, &none, 1, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent/x.jsonl: cannot open: No such file"));
}

static void zstd_is_found_by_content_and_must_be_whole(void **state)
{
    (void)state;
    struct err e = { "" };
    char path[4200];
    snprintf(path, sizeof path, "%s/z", test_tmpdir());
    struct out_stream *o;
    struct buf want = BUF_INIT;
    assert_ok(out_open_fd(&o, open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666), path, true, &e));
    for (int i = 0; i < 50000; i++) {
        char line[64];
        int n = snprintf(line, sizeof line, "{\"i\": %d, \"x\": %d}\n", i, i * 7919);
        buf_add(&want, line, (size_t)n);
        assert_ok(out_write(o, line, (size_t)n, &e));
    }
    assert_ok(out_finish(o, true, &e));
    struct rec_reader *in;
    struct rec r;
    const char *f = path;
    int64_t v, count = 0;
    assert_ok(rec_open(&in, &f, 1, &e));
    while (rec_read(in, &r, &e) > 0) {
        assert_ok(rec_int(&r, "i", &v, &e));
        assert_int_equal(v, count++);
    }
    assert_int_equal(count, 50000);
    assert_true(hash_equal(rec_input_hash(in, 0), hash_bytes(want.s, want.len))); /* of the content */
    rec_close(in);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
    int rc;
    assert_ok(rec_open(&in, &f, 1, &e));
    while ((rc = rec_read(in, &r, &e)) > 0)
        ;
    assert_int_equal(rc, -1);
    assert_non_null(strstr(e.msg, "ends in the middle"));
    rec_close(in);
    buf_release(&want);
}

static void rewriting_touches_only_what_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *want;
    } t[] = {
        { "{\"a\":1.0,\"b\" :  2e1 , \"a\":3 }", "{\"a\":\"X\",\"b\" :  2e1 , \"a\":\"X\", \"n\": null }\n" },
        { "{}", "{\"a\": \"X\", \"n\": null}\n" },
        { "{\"z\":[ 1,2 ]}", "{\"z\":[ 1,2 ], \"a\": \"X\", \"n\": null}\n" },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct err e = { "" };
        struct rec r;
        struct buf b = BUF_INIT;
        assert_ok(rec_parse(&r, t[i].line, strlen(t[i].line), "x:1", &e));
        rec_rewrite(&b, &r, (struct rec_change[]){ { "a", "\"X\"" }, { "n", "null" } }, 2);
        assert_string_equal(b.s, t[i].want);
        buf_release(&b);
        rec_release(&r);
    }
}

static void long_lines_and_chunk_borders(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf b = BUF_INIT;
    for (int len = 262100; len < 262190; len++) { /* the read block is 256 KiB: step the newline across it */
        buf_reset(&b);
        buf_puts(&b, "{\"s\": \"");
        while ((int)b.len < len)
            buf_putc(&b, 'x');
        buf_puts(&b, "\"}\n{\"t\": 1}\n");
        const char *f = write_tmp("long.jsonl", b.s, b.len);
        struct rec_reader *in;
        struct rec r;
        int64_t v;
        assert_ok(rec_open(&in, &f, 1, &e));
        assert_int_equal(rec_read(in, &r, &e), 1);
        assert_int_equal(r.len, len + 2);
        assert_int_equal(rec_read(in, &r, &e), 1);
        assert_ok(rec_int(&r, "t", &v, &e));
        assert_int_equal(rec_read(in, &r, &e), 0);
        rec_close(in);
    }
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_as_they_are),
        cmocka_unit_test(broken_lines_name_file_and_line),
        cmocka_unit_test(zstd_is_found_by_content_and_must_be_whole),
        cmocka_unit_test(rewriting_touches_only_what_is_named),
        cmocka_unit_test(long_lines_and_chunk_borders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
