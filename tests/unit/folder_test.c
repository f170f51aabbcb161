/* folder_test.c - lib/io/folder: who believes remembered hashes, and who reads. lib/io/journal: nothing stays of
 * nothing.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "io/folder.h"
#include "io/journal.h"
#include "unit/test.h"

static char *in_tmp(const char *name)
{
    return path_join(test_tmpdir(), name);
}

static void put_file(const char *dir, const char *name, const char *text)
{
    struct err e = { "" };
    char *path = path_join(dir, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), &e), 0);
    free(path);
}

static char *make_folder(const char *name, char key[HASH_HEX])
{
    struct err e = { "" };
    struct folder *f;
    char *dir = in_tmp(name);
    struct manifest m = { .program = xstrdup("train"), .options = xstrdup("{}"), .result = 1 };
    assert_int_equal(folder_open(&f, dir, &e), 0);
    put_file(folder_path(f), "config.json", "{}");
    put_file(folder_path(f), "weights", "0123456789");
    assert_int_equal(folder_commit(f, &m, &e), 0);
    memcpy(key, m.key, HASH_HEX);
    folder_close(f);
    manifest_release(&m);
    return dir;
}

/* Other bytes, the same size and time: the one change that a remembered hash cannot see. */
static void change_in_secret(const char *dir, const char *name)
{
    struct stat st;
    char *path = path_join(dir, name);
    assert_int_equal(stat(path, &st), 0);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "X", 1, 3), 1);
    const struct timespec times[2] = { st.st_atim, st.st_mtim };
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    free(path);
}

static void asking_reads_no_weights_and_checking_does(void **state)
{
    (void)state;
    char key[HASH_HEX];
    struct buf problems = BUF_INIT;
    setenv("XDG_CACHE_HOME", test_tmpdir(), 1);
    unsetenv("LATENT_HASH_CACHE");
    char *dir = make_folder("model", key);
    assert_true(folder_is_current(dir, key));
    change_in_secret(dir, "weights");
    assert_true(folder_is_current(dir, key)); /* nothing was read since the commit */
    assert_int_equal(folder_check(dir, NULL, &problems), 1);
    assert_non_null(strstr(problems.s, "weights: its hash is"));
    setenv("LATENT_HASH_CACHE", "off", 1);
    assert_false(folder_is_current(dir, key));
    unsetenv("LATENT_HASH_CACHE");
    buf_release(&problems);
    free(dir);
}

static void a_file_with_two_names_is_read_once(void **state)
{
    (void)state;
    char key[HASH_HEX];
    struct buf problems = BUF_INIT;
    struct hash_memo memo = { NULL, 0 };
    char *store = in_tmp("store");
    setenv("LATENT_STORE", store, 1);
    char *dir = make_folder("twice", key), *stored = store_path(key, "");
    unsetenv("LATENT_STORE");
    assert_int_equal(folder_check(dir, &memo, &problems), 0);
    size_t files = memo.n;
    assert_true(files > 0);
    assert_int_equal(folder_check(stored, &memo, &problems), 0);
    assert_int_equal(memo.n, files);
    /* changed meanwhile: it is read again */
    char *path = path_join(dir, "weights");
    assert_int_equal(unlink(path), 0);
    put_file(dir, "weights", "9876543210");
    assert_int_equal(folder_check(dir, &memo, &problems), 1);
    assert_int_equal(folder_check(stored, &memo, &problems), 0);
    assert_true(memo.n > files);
    hash_memo_release(&memo);
    buf_release(&problems);
    free(path);
    free(stored);
    free(store);
    free(dir);
}

static void a_change_that_time_or_size_shows_is_seen(void **state)
{
    (void)state;
    char key[HASH_HEX];
    setenv("XDG_CACHE_HOME", test_tmpdir(), 1);
    char *dir = make_folder("other", key);
    assert_true(folder_is_current(dir, key));
    put_file(dir, "weights", "0123456789a");
    assert_false(folder_is_current(dir, key));
    put_file(dir, "weights", "0123456789");
    assert_true(folder_is_current(dir, key));
    put_file(dir, "stranger", "");
    assert_false(folder_is_current(dir, key));
    free(dir);
}

static void a_journal_without_entries_goes(void **state)
{
    (void)state;
    struct err e = { "" };
    struct journal *j, *second = NULL;
    struct hash128 key = { 1, 2 }, in = { 3, 4 };
    char *path = in_tmp("out.0123.journal");
    assert_int_equal(journal_open(&j, path, key, &e), 0);
    assert_true(file_exists(path));
    assert_int_equal(journal_open(&second, path, key, &e), -1); /* and the loser removes nothing */
    assert_true(file_exists(path));
    journal_close(j, false);
    assert_false(file_exists(path));
    assert_int_equal(journal_open(&j, path, key, &e), 0);
    assert_int_equal(journal_add(j, 0, in, "", 0, &e), 0); /* a unit without lines is an entry */
    journal_close(j, false);
    assert_true(file_exists(path));
    assert_int_equal(journal_open(&j, path, key, &e), 0);
    assert_true(journal_has(j, 0, in));
    journal_close(j, true);
    assert_false(file_exists(path));
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asking_reads_no_weights_and_checking_does),
        cmocka_unit_test(a_file_with_two_names_is_read_once),
        cmocka_unit_test(a_change_that_time_or_size_shows_is_seen),
        cmocka_unit_test(a_journal_without_entries_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
