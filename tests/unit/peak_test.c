/* peak_test.c - the machine's peak: threads add up, and no more than that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/peak.h"

/* What a share of the peak is divided by must not count a thread twice. By processor time, so load does not matter. */
static void test_threads_add_up(void **state)
{
    (void)state;
    double one = peak_flops(1, 8), two = peak_flops(2, 8);
    if (one == 0)
        skip(); /* no fused multiply-adds here */
    assert_true(one > 1e8);
    assert_true(two > 0.5 * one && two < 2.6 * one);
}

static void test_wider_is_no_slower(void **state)
{
    (void)state;
    double narrow = peak_flops(1, 8), wide = peak_flops(1, 16), widest = peak_flops(1, 0);
    if (narrow == 0 || wide == 0)
        skip(); /* one width only */
    assert_true(wide > 0.7 * narrow && wide < 2.6 * narrow);
    assert_true(widest > 0.7 * wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_add_up),
        cmocka_unit_test(test_wider_is_no_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
