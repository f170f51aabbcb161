/* arith_test.c - generated word problems: every line of the working is true, and test shares nothing with train. */
#include "io/record.h"
#include "task/arith.h"
#include "unit/test.h"

/* Every "a op b = c" in the text holds; returns how many there are and appends them to key. */
static int check_equations(const char *text, struct buf *key, long *last)
{
    int found = 0;
    for (const char *p = text; *p; p++) {
        long a, b, c;
        char op;
        int n = 0;
        if ((p > text && p[-1] >= '0' && p[-1] <= '9') || *p < '0' || *p > '9')
            continue;
        if (sscanf(p, "%ld %c %ld = %ld%n", &a, &op, &b, &c, &n) != 4 || n == 0 || !strchr("+-*/", op))
            continue;
        bool holds = (op == '+' && a + b == c) || (op == '-' && a - b == c) || (op == '*' && a * b == c) ||
                     (op == '/' && b != 0 && a % b == 0 && a / b == c);
        if (!holds)
            fail_msg("%ld %c %ld = %ld in: %s", a, op, b, c, text);
        buf_printf(key, "%ld%c%ld ", a, op, b);
        *last = c;
        found++;
    }
    return found;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void working_is_true_and_test_is_apart(void **state)
{
    (void)state;
    enum { TRAIN = 20000, TEST = 1000 };
    struct err e = { "" };
    char **train = xcalloc(TRAIN, sizeof *train);
    struct buf line = BUF_INIT, text = BUF_INIT, key = BUF_INIT;
    int levels[5] = { 0 };
    for (int i = 0; i < TRAIN + TEST; i++) {
        bool test = i >= TRAIN;
        struct rec r;
        long last = -1;
        int64_t level;
        buf_reset(&line);
        buf_reset(&text);
        buf_reset(&key);
        arith_row(42, test ? "test" : "train", (uint64_t)(test ? i - TRAIN : i), &line);
        assert_ok(rec_parse(&r, line.s, line.len - 1, "arith", &e));
        assert_ok(rec_int(&r, "level", &level, &e));
        assert_in_range(level, 2, 4);
        levels[level]++;
        assert_ok(rec_text(&r, "solution", &text, &e));
        assert_true(check_equations(text.s, &key, &last) >= (int)level);
        buf_reset(&text);
        assert_ok(rec_text(&r, "gold_answer", &text, &e));
        assert_int_equal(strtol(text.s, NULL, 10), last);
        assert_in_range(last, 1, ARITH_MAX);
        if (test) {
            char *k = key.s;
            assert_null(bsearch(&k, train, TRAIN, sizeof *train, by_text)); /* the same numbers in the same steps */
        } else {
            train[i] = xstrdup(key.s);
        }
        if (i == TRAIN - 1)
            qsort(train, TRAIN, sizeof *train, by_text);
        rec_release(&r);
    }
    for (int l = 2; l <= 4; l++)
        assert_true(levels[l] > (TRAIN + TEST) / 4);
    for (int i = 0; i < TRAIN; i++)
        free(train[i]);
    free(train);
    buf_release(&line);
    buf_release(&text);
    buf_release(&key);
}

static void rows_depend_on_seed_split_and_number_only(void **state)
{
    (void)state;
    struct buf a = BUF_INIT, b = BUF_INIT, c = BUF_INIT;
    arith_row(1, "train", 7, &a);
    arith_row(1, "train", 8, &b);
    arith_row(1, "train", 7, &b);
    assert_string_equal(b.s + b.len - a.len, a.s);
    arith_row(2, "train", 7, &c);
    assert_string_not_equal(a.s, c.s);
    assert_int_equal(arith_rows("validation"), -1);
    buf_release(&a);
    buf_release(&b);
    buf_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(working_is_true_and_test_is_apart),
        cmocka_unit_test(rows_depend_on_seed_split_and_number_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
