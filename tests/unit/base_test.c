/* base_test.c - lib/base: buffers, JSON spans, numbers, random numbers, options, threads. */
#define _XOPEN_SOURCE 700 /* posix_openpt */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/opt.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "unit/test.h"

static struct json parse(const char *text)
{
    struct err e = { "" };
    struct json v = { NULL, 0 };
    if (json_parse(&v, text, strlen(text), &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    return v;
}

static void json_accepts_what_python_writes(void **state)
{
    (void)state;
    struct json v, k;
    struct json doc =
        parse(" {\"a\": [1, -0.5e+3, NaN, -Infinity, true, null], \"b\\u0063\": \"x\\ud800y\\ud83d\\ude00\"} ");
    assert_true(json_get(doc, "bc", &v)); /* the key has an escape */
    struct buf b = BUF_INIT;
    json_str(v, &b);
    assert_string_equal(b.s, "x\xef\xbf\xbdy\xf0\x9f\x98\x80");
    buf_release(&b);
    assert_true(json_get(doc, "a", &v));
    assert_int_equal(json_count(v), 6);
    double d;
    struct json n;
    assert_true(json_at(v, 1, &n) && json_double(n, &d) && d == -500.0);
    assert_true(json_at(v, 2, &n) && json_double(n, &d) && d != d);
    struct json_iter it = json_each(doc);
    assert_true(json_next(&it, &k, &v) && json_str_is(k, "a"));
    assert_true(json_next(&it, &k, &v));
    assert_false(json_next(&it, &k, &v));
    assert_true(json_get(parse("{\"a\":1,\"a\":2}"), "a", &v) && v.s[0] == '2');
}

static void json_refuses_with_a_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } bad[] = {
        { "", "ends at byte 0" },        { "{\"a\":1", "byte 6" },
        { "{\"a\" 1}", "expected ':'" }, { "[1,]", "expected a value" },
        { "[01]", "bad number" },        { "\"\x01\"", "control character" },
        { "\"\xff\"", "not UTF-8" },     { "\"\\x\"", "bad escape" },
        { "\"\\u12g4\"", "bad \\u" },    { "1 2", "goes on" },
        { "{1:2}", "expected a key" },   { "nul", "expected a value" },
        { "\"abc", "has no end" },       { "[1}", "expected ',' or ']'" },
        { "-", "bad number" },           { "\xef\xbb\xbf{}", "a byte order mark at byte 0" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = { "" };
        struct json v;
        assert_int_equal(json_parse(&v, bad[i].text, strlen(bad[i].text), &e), -1);
        if (!strstr(e.msg, bad[i].part))
            fail_msg("%s: got \"%s\", want \"%s\"", bad[i].text, e.msg, bad[i].part);
    }
    char deep[2 * JSON_MAX_DEPTH + 3];
    memset(deep, '[', JSON_MAX_DEPTH + 1);
    memset(deep + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
    struct err e = { "" };
    struct json v;
    assert_int_equal(json_parse(&v, deep, 2 * JSON_MAX_DEPTH + 2, &e), -1);
    assert_non_null(strstr(e.msg, "nested deeper"));
}

static void numbers_are_written_as_python_writes_them(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *want;
    } t[] = { { 1, "1.0" },
              { 0.1, "0.1" },
              { -0.0, "-0.0" },
              { 1e16, "1e+16" },
              { 1e15, "1000000000000000.0" },
              { 123456.75, "123456.75" },
              { 1e-5, "1e-05" },
              { 0.0001, "0.0001" },
              { 5e-324, "5e-324" },
              { 1.7976931348623157e308, "1.7976931348623157e+308" },
              { 0.30000000000000004, "0.30000000000000004" } };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct buf b = BUF_INIT;
        json_put_double(&b, t[i].v);
        assert_string_equal(b.s, t[i].want);
        buf_release(&b);
    }
    int64_t n;
    assert_true(json_int(parse("-9223372036854775808"), &n) && n == INT64_MIN);
    assert_false(json_int(parse("9223372036854775808"), &n));
    assert_false(json_int(parse("1.0"), &n));
}

static void utf8_is_strict(void **state)
{
    (void)state;
    uint32_t cp;
    assert_int_equal(utf8_decode("\xed\xa0\x80", 3, &cp), 0); /* surrogate */
    assert_int_equal(utf8_decode("\xc0\x80", 2, &cp), 0);     /* overlong */
    assert_int_equal(utf8_decode("\xf4\x90\x80\x80", 4, &cp), 0);
    for (uint32_t c = 0; c < 0x110000; c++) {
        char out[4];
        if (c >= 0xd800 && c < 0xe000)
            continue;
        int n = utf8_encode(c, out);
        if (utf8_decode(out, (size_t)n, &cp) != n || cp != c)
            fail_msg("U+%04X does not come back", c);
    }
    assert_int_equal(utf8_check("abcdefghij\xffk", 12), 10);
}

/* Philox4x32-10 known answers from the Random123 distribution's kat_vectors; CPython vectors from the specification of
 * the reference (seed 42). */
static void random_numbers_match_published_vectors(void **state)
{
    (void)state;
    struct rng zero = { { 0, 0 }, { 0, 0 } };
    uint32_t b[4];
    rng_block(&zero, 0, b);
    const uint32_t want0[4] = { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 };
    assert_memory_equal(b, want0, sizeof b);
    struct rng ones = { { 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff } };
    rng_block(&ones, UINT64_MAX, b);
    const uint32_t want1[4] = { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd };
    assert_memory_equal(b, want1, sizeof b);

    struct rng_python py;
    rng_python_seed(&py, 42);
    const uint32_t raw[4] = { 2746317213u, 478163327u, 107420369u, 3184935163u };
    for (int i = 0; i < 4; i++)
        assert_int_equal(rng_python_u32(&py), raw[i]);
    rng_python_seed(&py, 42);
    static const int five[] = {
        0, 0, 2, 1, 1, 1, 0, 4, 0, 4, 3, 0, 0, 0, 1, 1, 4, 4, 0, 4, 1, 4, 3, 1, 3, 4, 2, 0, 1, 3
    };
    for (size_t i = 0; i < sizeof five / sizeof *five; i++)
        assert_int_equal(rng_python_below(&py, 5), five[i]);
    rng_python_seed(&py, 42);
    static const uint32_t draws[2][8] = { { 28, 6, 70, 62, 57, 35, 26, 22 }, { 108, 8, 7, 23, 55, 59, 6, 50 } };
    for (int d = 0; d < 2; d++) {
        uint32_t out[8];
        rng_python_sample(&py, 128, 8, out);
        assert_memory_equal(out, draws[d], sizeof out);
    }
}

static void streams_are_apart_and_uniform(void **state)
{
    (void)state;
    struct rng a = rng_stream(1, "q_1", 3, 0), b = rng_stream(1, "q_1", 3, 1), c = rng_stream(1, "q_2", 3, 0);
    assert_int_not_equal(rng_u32(&a, 0), rng_u32(&b, 0));
    assert_int_not_equal(rng_u32(&a, 0), rng_u32(&c, 0));
    double sum = 0, normal = 0, square = 0;
    for (int i = 0; i < 100000; i++) {
        sum += rng_unit(&a, (uint64_t)i);
        double z = rng_normal(&b, (uint64_t)i);
        normal += z;
        square += z * z;
    }
    assert_true(sum / 1e5 > 0.495 && sum / 1e5 < 0.505); /* 5.5 standard errors */
    assert_true(normal / 1e5 > -0.02 && normal / 1e5 < 0.02);
    assert_true(square / 1e5 > 0.97 && square / 1e5 < 1.03);
}

static struct {
    bool flag;
    const char *s, *word;
    int64_t n;
    double x;
    struct opt_reals r;
    struct opt_list l;
} o;
static const struct opt table[] = {
    OPT_ROW_FLAG("flag", 'f', &o.flag, "a flag", OPT_RESULT),
    OPT_ROW_STRING("str", 's', &o.s, "S", "a string", OPT_RUN),
    OPT_ROW_CHOICE("word", 0, &o.word, "one|two", "a word", OPT_RESULT),
    OPT_ROW_INT("num", 'n', &o.n, "N", "a number", OPT_RESULT, 1, 100),
    OPT_ROW_REAL("x", 0, &o.x, "X", "a real", OPT_RESULT, 0, 1),
    OPT_ROW_REALS("ratio", 'r', &o.r, "R,...", "reals", OPT_RESULT, 0, 1),
    OPT_ROW_LIST("file", 0, &o.l, "F", "repeats", OPT_RUN),
    OPT_ROW_ALIAS("compression-ratio", "ratio"),
    OPT_ROW_END,
};
static const struct opt *const tables[] = { table, NULL };

static void options_parse_strictly(void **state)
{
    (void)state;
    struct err e = { "" };
    char *argv[] = { "p",      "in1",    "-fn7", "--word=two", "--x", "0.25", "--compression-ratio",
                     "0.1,.5", "--file", "a",    "--file",     "b",   "-",    "--",
                     "-n",     NULL };
    int k;
    assert_ok(opt_parse(tables, 15, argv, &k, &e));
    assert_int_equal(k, 3);
    assert_string_equal(argv[1], "in1");
    assert_string_equal(argv[2], "-");
    assert_string_equal(argv[3], "-n");
    assert_true(o.flag && o.n == 7 && o.x == 0.25 && o.r.n == 2 && o.r.v[1] == 0.5 && o.l.n == 2);
    assert_true(opt_given(tables, "ratio") && !opt_given(tables, "str"));
    struct buf b = BUF_INIT;
    opt_result_json(tables, &b);
    assert_string_equal(b.s, "\"flag\":true,\"word\":\"two\",\"num\":7,\"x\":0.25,\"ratio\":[0.1,0.5]");
    buf_release(&b);

    static const struct {
        const char *arg, *part;
    } bad[] = { { "--num=7x", "whole number" },         { "--num=0", "between 1 and 100" },
                { "--num= 7", "whole number" },         { "--x=nan", "expected a number" },
                { "--x=0x1", "expected a number" },     { "--ratio=0.1,,2", "expected a number" },
                { "--ratio=0.5,2", "between 0 and 1" }, { "--word=three", "one of one|two" },
                { "--nope", "unknown option" },         { "--flag=1", "takes no value" },
                { "--num", "needs a value" },           { "-z", "unknown option -z" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char arg[64];
        snprintf(arg, sizeof arg, "%s", bad[i].arg);
        char *av[] = { "p", arg, NULL };
        assert_int_equal(opt_parse(tables, 2, av, &k, &e), -1);
        if (!strstr(e.msg, bad[i].part))
            fail_msg("%s: got \"%s\"", bad[i].arg, e.msg);
    }
}

static atomic_int hits[1000];
static void hit(void *arg, int i, int thread)
{
    (void)arg;
    (void)thread;
    atomic_fetch_add(&hits[i], 1);
}

static void pool_runs_every_piece_once(void **state)
{
    (void)state;
    struct err e = { "" };
    for (int threads = 1; threads <= 4; threads++) {
        struct pool *p;
        assert_ok(pool_open(&p, threads, &e));
        for (int i = 0; i < 1000; i++)
            atomic_store(&hits[i], 0);
        for (int round = 0; round < 50; round++)
            pool_run(p, 1000, hit, NULL);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(atomic_load(&hits[i]), 50);
        pool_close(p);
    }
}

static void arenas_stop_at_their_limit(void **state)
{
    (void)state;
    struct arena a = { .limit = 1000 };
    assert_non_null(arena_alloc(&a, 900));
    assert_null(arena_alloc(&a, 200));
    arena_reset(&a);
    assert_non_null(arena_alloc(&a, 200));
    arena_release(&a);
}

/* Also where freed memory is taken again, and with neighbours at both ends. */
static void zeroed_memory_is_zero(void **state)
{
    (void)state;
    struct err e;
    static const size_t sizes[] = { 1, 64, 100000, (1 << 20) - 1, 1 << 20, (1 << 20) + 4097, 5000000 };
    for (int round = 0; round < 20; round++) {
        unsigned char *p[7];
        for (int i = 0; i < 7; i++) {
            void *q;
            assert_ok(mem_try_zeroed(&q, sizes[i], "test", &e));
            p[i] = q;
            for (size_t k = 0; k < sizes[i]; k++)
                if (p[i][k])
                    fail_msg("byte %zu of %zu is %d", k, sizes[i], p[i][k]);
            memset(p[i], 100 + i, sizes[i]);
        }
        for (int i = 0; i < 7; i++) {
            for (size_t k = 0; k < sizes[i]; k++)
                assert_true(p[i][k] == 100 + i);
            free(p[i]);
        }
    }
}

/* What a program says while standard error is a terminal of so many columns. */
static void on_terminal(unsigned short cols, void (*talk)(void), char *said, size_t cap)
{
    struct winsize size = { .ws_row = 25, .ws_col = cols };
    struct err e;
    int master = posix_openpt(O_RDWR | O_NOCTTY), keep = dup(2);
    if (master < 0) {
        printf("# skip: no pseudo-terminal can be had (is /dev/pts mounted?)\n");
        skip();
    }
    assert_true(grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0 && ioctl(slave, TIOCSWINSZ, &size) == 0 && dup2(slave, 2) == 2);
    assert_ok(log_open("program", LOG_NORMAL, NULL, &e));
    talk();
    log_close();
    fflush(stderr);
    assert_true(dup2(keep, 2) == 2);
    assert_true(write(slave, "\004", 1) == 1); /* what was written comes piece by piece: up to this mark */
    size_t n = 0;
    while (n == 0 || said[n - 1] != 4) {
        ssize_t got = read(master, said + n, cap - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    said[n - 1] = 0;
    close(slave);
    close(master);
    close(keep);
    assert_ok(log_open("program", LOG_NORMAL, NULL, &e));
}

static void show_progress(void)
{
    progress_begin("measured", 1000000, "sequences");
    usleep(250000);
    progress_at(123456, "7,830 tokens/s");
}

static void warn(void)
{
    log_warn("so");
}

static void progress_is_cut_to_the_terminal(void **state)
{
    (void)state;
    char said[4096];
    on_terminal(40, show_progress, said, sizeof said);
    const char *line = strstr(said, "program: measured 123456/1000000 ");
    assert_non_null(line);
    assert_int_equal(strcspn(line, "\r"), 39); /* a full last column would wrap */
    on_terminal(200, show_progress, said, sizeof said);
    assert_non_null(strstr(said, " left\r"));
    on_terminal(0, show_progress, said, sizeof said); /* a terminal that does not know */
    assert_non_null(strstr(said, " left\r"));
}

static void colour_can_be_refused(void **state)
{
    (void)state;
    char said[4096];
    unsetenv("NO_COLOR");
    on_terminal(80, warn, said, sizeof said);
    assert_string_equal(said, "program: \033[33mwarning: \033[0mso\r\n");
    setenv("NO_COLOR", "1", 1);
    on_terminal(80, warn, said, sizeof said);
    assert_string_equal(said, "program: warning: so\r\n");
    unsetenv("NO_COLOR");
}

static void zombies_do_not_live(void **state)
{
    (void)state;
    assert_true(process_lives(getpid()));
    assert_true(process_lives(1)); /* another user's, perhaps */
    assert_false(process_lives(0));
    assert_false(process_lives(99999999));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    siginfo_t ended;
    assert_int_equal(waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOWAIT), 0);
    assert_int_equal(kill(pid, 0), 0); /* it is still there, unreaped */
    assert_false(process_lives(pid));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(process_lives(pid));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_accepts_what_python_writes),
        cmocka_unit_test(json_refuses_with_a_place),
        cmocka_unit_test(numbers_are_written_as_python_writes_them),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(random_numbers_match_published_vectors),
        cmocka_unit_test(streams_are_apart_and_uniform),
        cmocka_unit_test(options_parse_strictly),
        cmocka_unit_test(pool_runs_every_piece_once),
        cmocka_unit_test(zeroed_memory_is_zero),
        cmocka_unit_test(arenas_stop_at_their_limit),
        cmocka_unit_test(progress_is_cut_to_the_terminal),
        cmocka_unit_test(colour_can_be_refused),
        cmocka_unit_test(zombies_do_not_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
