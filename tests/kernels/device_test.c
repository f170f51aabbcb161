/* device_test.c - opening by name, memory, tickets, lazy packing, and bugs that abort with the operation's name. */
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kernels/kernel_test.h"

static void test_names(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d;
    const char *best = cpu_has(CPU_AVX2) ? "cpu-avx2-f32" : "cpu-base-f32";
    unsetenv("LATENT_NUMERICS");
    assert_ok(device_open(&d, "cpu-oracle", 0, &e));
    assert_string_equal(d->name, "cpu-oracle");
    assert_string_equal(d->numerics, device_numerics("cpu-oracle"));
    device_close(d);
    assert_ok(device_open(&d, "auto", 0, &e));
    assert_string_equal(d->name, "cpu");
    assert_string_equal(d->numerics, best);
    assert_int_equal(d->kv_dtype, DTYPE_F32);
    assert_int_equal(d->weight_dtype, DTYPE_F32);
    assert_string_equal(device_numerics("cpu"), best);
    device_close(d);
    setenv("LATENT_NUMERICS", "base", 1);
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_string_equal(d->numerics, "cpu-base-f32");
    assert_string_equal(device_numerics("cpu"), "cpu-base-f32");
    device_close(d);
    setenv("LATENT_NUMERICS", "fast", 1);
    assert_int_equal(device_open(&d, "cpu", 1, &e), -1);
    assert_null(d);
    assert_non_null(strstr(e.msg, "fast"));
    unsetenv("LATENT_NUMERICS");
    assert_int_equal(device_open(&d, "gpu", 1, &e), -1);
    assert_non_null(strstr(e.msg, "gpu"));
    device_close(NULL);
}

static void test_memory(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d = open_path(cpu_best(), 1);
    struct tensor *t;
    assert_int_equal(d->tensor_new(d, &t, DTYPE_F32, INT64_C(1) << 40, INT64_C(1) << 40, "impossible tensor", &e), -1);
    assert_non_null(strstr(e.msg, "impossible tensor"));
    assert_null(t);
    const int32_t v[6] = { 1, 2, 3, 4, 5, 6 };
    int32_t back[6];
    t = ints_of(d, 2, 3, NULL);
    assert_ok(d->tensor_read(d, t, 0, back, 6, &e));
    assert_int_equal(back[5], 0);
    d->tensor_write(d, t, 2, v, 4);
    struct read_ticket *r[2];
    assert_ok(d->read_begin(d, &r[0], t, 1, 5, &e));
    d->tensor_write(d, t, 0, v, 6); /* the ticket saw what was there before */
    assert_ok(d->read_begin(d, &r[1], t, 0, 6, &e));
    assert_ok(d->read_wait(d, r[0], back, &e));
    assert_true(back[0] == 0 && back[1] == 1 && back[4] == 4);
    assert_ok(d->read_wait(d, r[1], back, &e));
    assert_memory_equal(back, v, sizeof v);
    d->tensor_free(d, t);
    d->tensor_free(d, NULL);
    d->weight_free(d, NULL);
    device_close(d);
}

/* A source in mapped pages, large enough that packing marks them cold: it must keep its bytes, embedding still reads
 * it, and a weight made of it again gives the same product. */
static void test_packing(void **state)
{
    (void)state;
    enum { N = 1500, K = 700, M = 3 };
    struct err e = { "" };
    struct source s = source_of(4);
    float *w = random_floats(&s, N * K, 1), *x = random_floats(&s, M * K, 1);
    char *mapped = mmap(NULL, N * K * 4 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(mapped != MAP_FAILED);
    memcpy(mapped + 2, w, N * K * 4); /* checkpoints do not align */
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct device *d = open_path(isa, 2);
        if (!d)
            continue;
        float *first = NULL;
        for (int again = 0; again < 3; again++) {
            struct weight_part part = { mapped + 2, DTYPE_F32, N };
            struct weight *weight;
            assert_ok(d->weight_new(d, &weight, &part, 1, K, "mapped weight", &e));
            struct tensor *tx = floats_of(d, M, K, x), *ty = floats_of(d, M, N, NULL);
            const int32_t id[2] = { N - 1, 7 };
            struct tensor *ids = ints_of(d, 2, 1, id), *rows = floats_of(d, 2, K, NULL);
            for (int twice = 0; twice <= again; twice++)
                d->linear(d, ty, tx, weight, NULL, M, false);
            d->embed(d, rows, weight, ids, 2);
            float *y = floats_back(d, ty), *row = floats_back(d, rows);
            if (first)
                assert_same_bits("packed again", y, first, M * N);
            assert_same_bits("embedding after packing", row, w + (N - 1) * K, K);
            assert_same_bits("embedding after packing", row + K, w + 7 * K, K);
            free(row);
            if (first)
                free(y);
            else
                first = y;
            d->tensor_free(d, tx);
            d->tensor_free(d, ty);
            d->tensor_free(d, ids);
            d->tensor_free(d, rows);
            d->weight_free(d, weight);
        }
        free(first);
        device_close(d);
    }
    assert_memory_equal(mapped + 2, w, N * K * 4);
    munmap(mapped, N * K * 4 + 4096);
    free(w);
    free(x);
}

/* ---- once a shape was seen, nothing grows ---- */

static void one_step(struct device *d, struct tensor **t, struct weight *w, int rows)
{
    struct attend_args a = { t[1], t[2], t[3], t[3], t[4], t[5], t[6], t[7], 2, 2, 2, 1, 32, 1, 0, 0, 0 };
    struct sample_args s = { t[8], t[5], t[9], NULL, t[10], NULL, 2, 300 };
    struct read_ticket *r;
    struct err e = { "" };
    int32_t id[2];
    d->linear(d, t[8], t[0], w, NULL, rows, false);
    d->attend(d, &a);
    d->sample(d, &s);
    assert_ok(d->read_begin(d, &r, t[10], 0, 2, &e));
    assert_ok(d->read_wait(d, r, id, &e));
}

static void test_nothing_grows(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d = open_path(cpu_best(), 1); /* a second thread has the allocator's own memory coming and going */
    static float host[300 * 64];
    const int32_t zero[2] = { 0, 1 }, begin[3] = { 0, 1, 2 }, context[2] = { 30, 31 }, table[2] = { 1, 2 };
    struct sample_slot slots[2] = { { .done = SAMPLE_RUNNING,
                                      .hi = { 300, 300 },
                                      .repetition = 1,
                                      .temperature = 1,
                                      .top_p = 0.9f,
                                      .limit = 1 << 30,
                                      .stop = { -1, -1, -1, -1, -1, -1, -1, -1 } } };
    memset(slots[0].never, 0xff, sizeof slots[0].never);
    slots[1] = slots[0];
    struct tensor *t[] = { floats_of(d, 70, 64, NULL),  floats_of(d, 2, 64, NULL),
                           floats_of(d, 2, 128, NULL),  floats_of(d, 96, 32, NULL),
                           ints_of(d, 2, 1, table),     ints_of(d, 2, 1, zero),
                           ints_of(d, 3, 1, begin),     ints_of(d, 2, 1, context),
                           floats_of(d, 70, 300, NULL), tensor_of(d, DTYPE_U8, 2, sizeof slots[0], slots),
                           ints_of(d, 2, 1, NULL) };
    struct weight_part part = { host, DTYPE_F32, 300 };
    struct weight *w;
    assert_ok(d->weight_new(d, &w, &part, 1, 64, "weight", &e));
    one_step(d, t, w, 70);
    struct cpu *c = (struct cpu *)d;
    struct scratch before[2];
    memcpy(before, c->scratch, sizeof before);
    size_t used = mallinfo2().uordblks;
    for (int i = 0; i < 50; i++)
        one_step(d, t, w, 1 + i);
    assert_memory_equal(before, c->scratch, sizeof before);
    assert_int_equal(mallinfo2().uordblks, used);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    d->weight_free(d, w);
    device_close(d);
}

/* ---- bugs ---- */

static void wrong_rows(struct device *d)
{
    struct tensor *x = floats_of(d, 2, 8, NULL);
    d->gelu(d, x, x, 17);
}

static void wrong_id(struct device *d)
{
    static const float host[8];
    struct weight_part part = { host, DTYPE_F32, 2 };
    struct weight *w;
    struct err e = { "" };
    const int32_t id = 2;
    assert_ok(d->weight_new(d, &w, &part, 1, 4, "table", &e));
    d->embed(d, floats_of(d, 1, 4, NULL), w, ints_of(d, 1, 1, &id), 1);
}

static void expect_abort(void (*bug)(struct device *), const char *name)
{
    int fd[2];
    char said[256] = "";
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 2);
        signal(SIGABRT, SIG_DFL);
        struct device *d = open_path(CPU_ORACLE, 1);
        bug(d);
        _exit(0);
    }
    close(fd[1]);
    ssize_t n = read(fd[0], said, sizeof said - 1);
    close(fd[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(n > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(said, name));
}

static void test_bugs_abort(void **state)
{
    (void)state;
    expect_abort(wrong_rows, "gelu");
    expect_abort(wrong_id, "embed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_memory),     cmocka_unit_test(test_packing),
        cmocka_unit_test(test_nothing_grows), cmocka_unit_test(test_bugs_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
