/* stage_test.c - lib/io/stage: keys, store, journal, order, provenance. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/opt.h"
#include "io/manifest.h"
#include "io/stage.h"
#include "unit/test.h"

static int64_t seed = 1, batch = 8;
static const struct opt table[] = {
    OPT_ROW_INT("seed", 0, &seed, "N", "seed", OPT_RESULT, 0, 0),
    OPT_ROW_INT("batch", 0, &batch, "N", "batch", OPT_RUN, 0, 0),
    OPT_ROW_END,
};
static const struct opt *const tables[] = { table, NULL };

static char in_path[4200], out_path[4200];

static int setup(void **state)
{
    (void)state;
    struct err e = { "" };
    char store[4200], runs[4200];
    snprintf(in_path, sizeof in_path, "%s/in.jsonl", test_tmpdir());
    snprintf(out_path, sizeof out_path, "%s/out.jsonl", test_tmpdir());
    snprintf(store, sizeof store, "%s/store", test_tmpdir());
    snprintf(runs, sizeof runs, "%s/runs", test_tmpdir());
    setenv("LATENT_STORE", store, 1);
    setenv("LATENT_RUNS", runs, 1);
    setenv("XDG_CACHE_HOME", test_tmpdir(), 1);
    struct buf b = BUF_INIT;
    static int test; /* another input each time: the store remembers the tests before */
    test++;
    for (int i = 0; i < 100; i++)
        buf_printf(&b, "{\"i\": %d}\n", i + test);
    int rc = file_write_atomic(in_path, b.s, b.len, &e);
    buf_release(&b);
    seed = 1;
    return rc;
}

static struct stage_output one_output;

static int open_stage(struct stage **st, struct err *e)
{
    static const char *inputs[1];
    inputs[0] = in_path;
    one_output = (struct stage_output){ out_path, "" };
    struct stage_spec spec = { .program = "test",
                               .result = 1,
                               .options = tables,
                               .numerics = "exact",
                               .inputs = inputs,
                               .ninputs = 1,
                               .outputs = &one_output,
                               .noutputs = 1,
                               .resume = true };
    return stage_open(st, &spec, e);
}

static int made; /* units computed, not taken back */

/* Doubles every number; stops after `limit` computed units as a kill would, without commit. 1 committed, 0 not run. */
static int run(int limit, bool backwards)
{
    struct err e = { "" };
    struct stage *st;
    struct rec r;
    made = 0;
    int rc = open_stage(&st, &e);
    if (rc < 0)
        fail_msg("%s", e.msg);
    if (rc == STAGE_UP_TO_DATE)
        return 0;
    struct hash128 in[100];
    int64_t value[100], n = 0;
    while ((rc = rec_read(stage_input(st), &r, &e)) > 0) {
        in[n] = hash_bytes(r.line, r.len);
        assert_ok(rec_int(&r, "i", &value[n], &e));
        n++;
    }
    for (int64_t k = 0; k < n && made < limit; k++) {
        int64_t u = backwards ? n - 1 - k : k;
        if (stage_have(st, 0, (uint64_t)u, in[u]))
            continue;
        char line[64];
        int len = snprintf(line, sizeof line, "{\"twice\": %lld}\n", (long long)(2 * value[u] + seed - 1));
        assert_ok(stage_put(st, 0, (uint64_t)u, in[u], line, (size_t)len, &e));
        made++;
    }
    if (made < limit)
        assert_ok(stage_commit(st, "{\"records\": 100}", &e));
    stage_close(st);
    return made < limit;
}

static void hash_output(char hex[HASH_HEX])
{
    struct err e = { "" };
    struct hash128 h;
    assert_ok(hash_file_fresh(out_path, true, &h, &e));
    hash_hex(h, hex);
}

static void resumes_and_orders(void **state)
{
    (void)state;
    char a[HASH_HEX], b[HASH_HEX];
    assert_int_equal(run(30, false), 0);
    assert_false(file_exists(out_path)); /* no half file */
    assert_int_equal(run(30, true), 0);
    assert_int_equal(run(1000, true), 1);
    assert_int_equal(made, 40);
    hash_output(a);
    unlink(out_path);
    setenv("LATENT_STORE", "", 1);
    assert_int_equal(run(1000, false), 1);
    assert_int_equal(made, 100);
    hash_output(b);
    assert_string_equal(a, b);
}

static void knows_when_there_is_no_work(void **state)
{
    (void)state;
    struct err e = { "" };
    char a[HASH_HEX], b[HASH_HEX];
    assert_int_equal(run(1000, false), 1);
    assert_int_equal(run(1000, false), 0); /* up to date */
    hash_output(a);
    seed = 2;
    assert_int_equal(run(1000, false), 1);
    hash_output(b);
    assert_string_not_equal(a, b);
    seed = 1;
    assert_int_equal(run(1000, false), 0); /* from the store */
    hash_output(b);
    assert_string_equal(a, b);
    unlink(out_path);
    assert_int_equal(run(1000, false), 0); /* gone: linked again */
    hash_output(b);
    assert_string_equal(a, b);
    /* a changed file is made again, whatever the manifest says */
    unlink(out_path);
    setenv("LATENT_STORE", "", 1);
    assert_ok(file_write_atomic(out_path, "{}\n", 3, &e));
    assert_int_equal(run(1000, false), 1);
    hash_output(b);
    assert_string_equal(a, b);
    /* a changed input, too */
    assert_ok(file_write_atomic(in_path, "{\"i\": 5}\n", 9, &e));
    assert_int_equal(run(1000, false), 1);
    assert_int_equal(made, 1);
}

static int shell(const char *script)
{
    char cmd[9000];
    snprintf(cmd, sizeof cmd, "f=%s; alive=%ld; %s", out_path, (long)getppid(), script);
    return system(cmd);
}

/* What a killed process leaves, beside what a living one has there. */
static void leave_behind(void)
{
    assert_int_equal(shell("sh -c 'for p; do echo > $p.$$.part; echo > $p.$$.link; done' - $f $f.run.json;"
                           " echo > $f.run.json.$alive.part"),
                     0);
}

static void only_the_living(void)
{
    assert_int_equal(shell("test \"$(ls -d $f.*.part $f.*.link 2>/dev/null)\" = $f.run.json.$alive.part"), 0);
    assert_int_equal(shell("rm $f.run.json.$alive.part"), 0);
}

static void journal_survives_a_torn_tail(void **state)
{
    (void)state;
    struct err e = { "" };
    unlink(out_path);
    setenv("LATENT_STORE", "", 1);
    seed = 77;
    assert_int_equal(run(50, false), 0);
    leave_behind();
    assert_int_equal(shell("j=$(ls $f.*.journal | head -1); s=$(stat -c %s $j); truncate -s $((s - 5)) $j"), 0);
    assert_int_equal(run(1000, false), 1);
    assert_int_equal(made, 51); /* the torn entry was made again */
    struct manifest m;
    char *path = manifest_path(out_path);
    assert_ok(manifest_read(&m, path, &e));
    assert_int_equal(m.records, 100);
    assert_string_equal(m.options, "{\"seed\":77}"); /* RUN options are not in it */
    manifest_release(&m);
    free(path);
    assert_int_equal(shell("! ls $f.*.journal 2>/dev/null"), 0);
    only_the_living();
    leave_behind();
    assert_int_equal(run(1000, false), 0); /* up to date */
    only_the_living();
}

static void second_process_is_refused(void **state)
{
    (void)state;
    struct err e = { "" };
    struct stage *st;
    seed = 99;
    setenv("LATENT_STORE", "", 1);
    assert_int_equal(open_stage(&st, &e), STAGE_RUN);
    pid_t pid = fork();
    if (pid == 0) {
        struct stage *other;
        _exit(open_stage(&other, &e) == -1 && strstr(e.msg, "another process") ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    stage_close(st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(resumes_and_orders, setup),
        cmocka_unit_test_setup(knows_when_there_is_no_work, setup),
        cmocka_unit_test_setup(journal_survives_a_torn_tail, setup),
        cmocka_unit_test_setup(second_process_is_refused, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
