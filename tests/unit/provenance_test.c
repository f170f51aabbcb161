/* provenance_test.c - lib/io/provenance and lib/io/garbage: what no shell can plant, and large trees. */
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "io/garbage.h"
#include "io/provenance.h"
#include "unit/test.h"

/* Not file_write_atomic: nobody waits for the disk here. */
static char *put(const char *dir, const char *name, const char *text)
{
    struct err e = { "" };
    char *path = path_join(dir, name);
    assert_ok(file_mkparents(path, &e));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* The manifest of a file with this text. input: a hash, or NULL. */
static struct manifest manifest_of(const char *text, const char *program, const char *input)
{
    struct hash128 h;
    struct manifest m = { .program = xstrdup(program),
                          .version = xstrdup("0"),
                          .numerics = xstrdup("exact"),
                          .options = xstrdup("{\"n\":1}"),
                          .started = xstrdup("2026-01-01T00:00:00Z"),
                          .result = 1,
                          .bytes = (int64_t)strlen(text) };
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        m.records++;
    if (input && hash_parse(input, &h))
        manifest_add_input(&m, "in", "", h);
    hash_hex(hash_bytes(text, strlen(text)), m.output);
    hash_hex(manifest_key(&m, true), m.key);
    return m;
}

/* A file with a manifest that fits. */
static void make(const char *dir, const char *name, const char *text, const char *program, const char *input)
{
    struct buf json = BUF_INIT;
    char *path = put(dir, name, text), *manifest = manifest_path(name);
    struct manifest m = manifest_of(text, program, input);
    manifest_write(&m, &json);
    free(put(dir, manifest, json.s));
    manifest_release(&m);
    buf_release(&json);
    free(manifest);
    free(path);
}

/* An editor that knows how the seal is made: then the key does not fit. */
static void an_edited_option_with_a_new_seal_is_seen(void **state)
{
    (void)state;
    struct err e = { "" };
    struct manifest m;
    struct buf json = BUF_INIT, problems = BUF_INIT;
    char *dir = path_join(test_tmpdir(), "edited");
    make(dir, "f", "{}\n", "test", NULL);
    char *file = path_join(dir, "f"), *manifest = manifest_path(file);
    assert_int_equal(provenance_check(file, &problems), 0);
    assert_ok(manifest_read(&m, manifest, &e));
    free(m.options);
    m.options = xstrdup("{\"n\":2}");
    manifest_write(&m, &json);
    assert_ok(file_write_atomic(manifest, json.s, json.len, &e));
    assert_int_equal(provenance_check(file, &problems), 1);
    assert_non_null(strstr(problems.s, "options, inputs or models give key"));
    manifest_release(&m);
    buf_release(&json);
    buf_release(&problems);
    free(manifest);
    free(file);
    free(dir);
}

static bool listed(const struct garbage *g, const char *end, const char *what)
{
    for (size_t i = 0; i < g->n; i++)
        if (path_ends_with(g->item[i].path, end))
            return what && strcmp(g->item[i].what, what) == 0;
    return what == NULL;
}

static void garbage_is_what_nothing_needs(void **state)
{
    (void)state;
    struct err e = { "" };
    struct garbage g;
    char *dir = path_join(test_tmpdir(), "out"), hex[HASH_HEX];
    const char *dirs[] = { dir };
    /* result <- stored intermediate <- another; and two that nothing reads */
    make(dir, "store/00000000000000000000000000000001", "one\n", "test", NULL);
    hash_hex(hash_bytes("one\n", 4), hex);
    make(dir, "store/00000000000000000000000000000002", "two\n", "test", hex);
    hash_hex(hash_bytes("two\n", 4), hex);
    make(dir, "result", "three\n", "test", hex);
    make(dir, "store/00000000000000000000000000000003", "four\n", "other", hex);
    free(put(dir, "store/00000000000000000000000000000004.zst", "no manifest"));
    free(put(dir, "store/README", "not ours"));
    free(put(dir, "00000000000000000000000000000005", "not in the store"));
    /* killed runs: of a process that is gone, of one that lives, of a finished file, of an unfinished one */
    char alive[64];
    snprintf(alive, sizeof alive, "result.%ld.part", (long)getpid());
    free(put(dir, "result.99999999.part", "x"));
    free(put(dir, alive, "x"));
    free(put(dir, "notes.part", "a user's"));
    free(put(dir, "unfinished.0123456789abcdef.journal", "x"));
    char *old = put(dir, "result.0123456789abcdef.journal", "x");
    const struct timespec past[2] = { { 1000, 0 }, { 1000, 0 } };
    assert_int_equal(utimensat(0, old, past, 0), 0);
    free(put(dir, "model.part/weights", "xyz"));
    free(put(dir, "sub folder/it's\n.99999999.link", "x"));
    assert_ok(garbage_find(&g, dirs, 1, &e));
    assert_true(listed(&g, "0001", NULL));
    assert_true(listed(&g, "0002", NULL));
    assert_true(listed(&g, "0003", "store entry"));
    assert_true(listed(&g, "0003.run.json", "store entry"));
    assert_true(listed(&g, "0004.zst", "store entry"));
    assert_true(listed(&g, "README", NULL));
    assert_true(listed(&g, "0005", NULL));
    assert_true(listed(&g, "result.99999999.part", "part"));
    assert_true(listed(&g, alive, NULL));
    assert_true(listed(&g, "notes.part", NULL));
    assert_true(listed(&g, "unfinished.0123456789abcdef.journal", NULL));
    assert_true(listed(&g, "result.0123456789abcdef.journal", "journal"));
    assert_true(listed(&g, "model.part/weights", "part"));
    assert_true(listed(&g, "it's\n.99999999.link", "part"));
    assert_true(listed(&g, "result", NULL));
    assert_int_equal(g.n, 7);
    garbage_release(&g);
    /* a result that cannot be read: nobody knows what it needs */
    free(put(dir, "result.run.json", "{}"));
    assert_int_equal(garbage_find(&g, dirs, 1, &e), -1);
    assert_non_null(strstr(e.msg, "result.run.json"));
    garbage_release(&g);
    free(old);
    free(dir);
}

/* Processor time: the machine may be busy. */
static void ten_thousand_artefacts_take_seconds(void **state)
{
    (void)state;
    char *dir = path_join(test_tmpdir(), "many"), name[64], text[64], hex[HASH_HEX] = "";
    struct buf problems = BUF_INIT;
    int bad = 0;
    for (int i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "%d/f_shard%02dof50", i / 50, i % 50);
        snprintf(text, sizeof text, "{\"i\": %d}\n", i);
        make(dir, name, text, "test", i % 50 ? hex : NULL);
        hash_hex(hash_bytes(text, strlen(text)), hex);
    }
    clock_t start = clock();
    struct provenance *p = provenance_new();
    provenance_add_tree(p, dir);
    assert_int_equal(provenance_count(p), 10000);
    for (size_t i = 0; i < provenance_count(p); i++)
        bad += provenance_check(provenance_at(p, i)->file, &problems);
    bad += provenance_check_shards(p, &problems);
    struct provenance_report report = { .problems = &problems };
    char *last = path_join(dir, "199/f_shard49of50");
    provenance_trace(p, last, NULL, &report);
    provenance_free(p);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("# 10,000 artefacts: %.2f s\n", seconds);
    assert_int_equal(bad, 0);
    assert_true(seconds < 10);
    buf_release(&problems);
    free(last);
    free(dir);
}

/* A run log of 100,000 steps, each of the one before, and a result behind them; processor time again. */
static void a_long_chain_is_walked_to_its_end(void **state)
{
    (void)state;
    enum { STEPS = 100000 };
    struct err e = { "" };
    char *dir = path_join(test_tmpdir(), "chain"), *runs = path_join(dir, "runs"), *last = path_join(dir, "last");
    char text[32], name[128], input[HASH_HEX] = "";
    const char *dirs[] = { dir };
    struct buf json = BUF_INIT, tree = BUF_INIT, out = BUF_INIT, problems = BUF_INIT;
    free(put(runs, "none", "no entry"));
    for (int i = 0; i < STEPS; i++) {
        snprintf(text, sizeof text, "%d\n", i);
        struct manifest m = manifest_of(text, "step", i ? input : NULL);
        snprintf(name, sizeof name, "%s.%s.json", m.output, m.key);
        memcpy(input, m.output, HASH_HEX);
        buf_reset(&json);
        manifest_write(&m, &json);
        char *path = path_join(runs, name);
        FILE *f = fopen(path, "w");
        assert_true(f && fputs(json.s, f) >= 0 && fclose(f) == 0);
        free(path);
        manifest_release(&m);
    }
    make(dir, "last", "the result\n", "test", input);
    setenv("LATENT_RUNS", runs, 1);
    clock_t start = clock();
    struct provenance *p = provenance_new();
    provenance_add_log(p);
    assert_int_equal(provenance_count(p), STEPS);
    struct provenance_report report = { .tree = &tree, .json = &out, .problems = &problems };
    provenance_trace(p, last, NULL, &report);
    provenance_free(p);
    assert_int_equal(report.nproblems, 0);
    int lines = 0, open = 0, deepest = 0;
    for (size_t i = 0; i < tree.len; i++)
        lines += tree.s[i] == '\n';
    assert_int_equal(lines, STEPS + 1);
    assert_non_null(strstr(tree.s, "\n    in  ")); /* the second step behind it */
    assert_non_null(strstr(tree.s, " [100000] in  "));
    for (size_t i = 0; i < out.len; i++) {
        open += (out.s[i] == '{') - (out.s[i] == '}');
        deepest = open > deepest ? open : deepest;
    }
    assert_int_equal(open, 0);
    assert_true(deepest > STEPS);
    struct garbage g;
    assert_ok(garbage_find(&g, dirs, 1, &e));
    assert_int_equal(g.n, 0);
    garbage_release(&g);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("# a chain of 100,000 steps: %.2f s\n", seconds);
    assert_true(seconds < 20);
    unsetenv("LATENT_RUNS");
    struct buf *all[] = { &json, &tree, &out, &problems };
    for (int i = 0; i < 4; i++)
        buf_release(all[i]);
    free(last);
    free(runs);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_edited_option_with_a_new_seal_is_seen),
        cmocka_unit_test(garbage_is_what_nothing_needs),
        cmocka_unit_test(ten_thousand_artefacts_take_seconds),
        cmocka_unit_test(a_long_chain_is_walked_to_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
