/* wandb_test.c - lib/io/wandb: what is written is read back, at every size around a block's end; damage is named. (That
 * W&B's own package reads it too, tests/golden/check_wandb.py shows.) */
#include <math.h>

#include "base/file.h"
#include "base/json.h"
#include "io/wandb.h"
#include "unit/test.h"

static struct wandb *small_run(const char *id)
{
    static const struct wandb_item config[] = { { "model", "\"a \\u00e9\"" }, { "lr", "0.001" } };
    return wandb_new(&(struct wandb_run){ .id = id,
                                          .project = "proj",
                                          .name = "a name",
                                          .started = 1700000000.5,
                                          .step_metric = "train/global_step",
                                          .config = config,
                                          .nconfig = 2 });
}

static void log_two(struct wandb *w, const char *step, const char *loss)
{
    const struct wandb_item items[] = { { "train/global_step", step }, { "train/loss", loss } };
    wandb_log(w, atof(step), items, 2);
}

/* The records as lines of text. */
static int show(void *to, const struct wandb_record *r, struct err *e)
{
    struct buf *b = to;
    (void)e;
    buf_printf(b, "%d %s", (int)r->num, r->kind);
    if (r->id)
        buf_printf(b, " %s %s %s", r->id, r->project, r->name);
    if (strcmp(r->kind, "history") == 0)
        buf_printf(b, " @%d", (int)r->step);
    for (size_t i = 0; i < r->n; i++)
        buf_printf(b, " %s=%s", r->item[i].key, r->item[i].value ? r->item[i].value : "");
    buf_putc(b, '\n');
    return 0;
}

static void a_run_is_read_back(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf folder = BUF_INIT, path = BUF_INIT, text = BUF_INIT, table = BUF_INIT;
    struct wandb *w = small_run("abcd1234");
    static const char rows[] = "{\"columns\": [\"x\"], \"data\": [[1], [2]]}";
    log_two(w, "1", "2.5");
    log_two(w, "2", "NaN");
    wandb_table(w, "t/k", rows, sizeof rows - 1, 1, 2, &table);
    wandb_log(w, 3, &(struct wandb_item){ "t/k", table.s }, 1);
    assert_ok(wandb_write(w, test_tmpdir(), NULL, &folder, &e));
    wandb_free(w);
    assert_non_null(strstr(folder.s, "/wandb/offline-run-20231114_221320-abcd1234"));
    buf_printf(&path, "%s/run-abcd1234.wandb", folder.s);
    assert_ok(wandb_read(path.s, show, &text, &e));
    struct buf want = BUF_INIT;
    buf_printf(&want,
               "1 header\n"
               "2 run abcd1234 proj a name model=\"a \\u00e9\" lr=0.001\n"
               "3 metric train/global_step=\n"
               "4 metric train/loss=train/global_step\n"
               "5 history @0 train/global_step=1 train/loss=2.5 _step=0 _runtime=1.0 _timestamp=1700000001.5\n"
               "6 history @1 train/global_step=2 train/loss=NaN _step=1 _runtime=2.0 _timestamp=1700000002.5\n"
               "7 metric t/k=train/global_step\n"
               "8 history @2 t/k=%s _step=2 _runtime=3.0 _timestamp=1700000003.5\n"
               "9 files media/table/t/k_2_%.20s.table.json=\n"
               "10 summary train/global_step=2 train/loss=NaN _step=2 _runtime=3.0 _timestamp=1700000003.5 t/k=%s "
               "_wandb.runtime=3\n"
               "11 exit\n12 final\n13 footer\n",
               table.s, strstr(table.s, "sha256\": \"") + 10, table.s);
    assert_string_equal(text.s, want.s);
    struct wandb_facts f;
    assert_ok(wandb_check(folder.s, &f, &e));
    assert_string_equal(f.name, "a name");
    assert_int_equal(f.records, 13);
    assert_int_equal(f.history, 3);
    wandb_facts_release(&f);
    buf_release(&want);
    buf_release(&text);
    buf_release(&table);
    buf_release(&path);
    buf_release(&folder);
}

/* The first row ends at every place around the end of its block: whole, padded with 1 to 6 zeros, and with an empty
 * first chunk behind it. */
static void every_length_around_a_block_survives(void **state)
{
    (void)state;
    struct err e = { "" };
    int padded = 0, empty = 0;
    char dir[4200];
    snprintf(dir, sizeof dir, "%s/lengths", test_tmpdir());
    for (int n = 32768 - 164; n < 32768 - 148; n++) {
        struct buf folder = BUF_INIT, text = BUF_INIT, value = BUF_INIT, path = BUF_INIT, file = BUF_INIT;
        struct wandb *w = wandb_new(&(struct wandb_run){ .id = "x", .project = "p", .name = "n" });
        buf_printf(&value, "\"%0*d\"", n, 7);
        wandb_log(w, 1, &(struct wandb_item){ "long", value.s }, 1);
        wandb_log(w, 2, &(struct wandb_item){ "long", "1" }, 1);
        assert_ok(wandb_write(w, dir, NULL, &folder, &e));
        wandb_free(w);
        buf_printf(&path, "%s/run-x.wandb", folder.s);
        assert_ok(wandb_read(path.s, show, &text, &e));
        assert_non_null(strstr(text.s, value.s));
        assert_non_null(strstr(text.s, "footer"));
        assert_ok(file_read(&file, path.s, 0, &e));
        static const char zeros[7] = { 0 };
        bool zero_length = memcmp(file.s + 32768 - 3, "\0\0\2", 3) == 0;
        padded += !zero_length && memcmp(file.s + 32768 - 1, zeros, 1) == 0;
        empty += zero_length;
        buf_release(&file);
        buf_release(&path);
        buf_release(&value);
        buf_release(&text);
        buf_release(&folder);
    }
    assert_int_equal(padded, 7); /* 1 to 6, and the row that ends with the block, whose own last byte is a zero */
    assert_int_equal(empty, 1);
}

static void put(const char *path, const struct buf *b, size_t n)
{
    unlink(path); /* a truncated file is flushed to the disk when it is closed, a new one is not */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->s, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void must_fail(const char *folder, const char *what)
{
    struct err e = { "" };
    struct wandb_facts f;
    assert_int_equal(wandb_check(folder, &f, &e), -1);
    if (!strstr(e.msg, what))
        fail_msg("%s: expected %s", e.msg, what);
}

static void damage_is_named(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf folder = BUF_INIT, path = BUF_INIT, good = BUF_INIT, table = BUF_INIT, file = BUF_INIT;
    struct wandb *w = small_run("damaged1");
    wandb_table(w, "t", "{}", 2, 0, 0, &table);
    wandb_log(w, 3, &(struct wandb_item){ "t", table.s }, 1);
    assert_ok(wandb_write(w, test_tmpdir(), NULL, &folder, &e));
    wandb_free(w);
    buf_printf(&path, "%s/run-damaged1.wandb", folder.s);
    assert_ok(file_read(&good, path.s, 0, &e));
    for (size_t i = 0; i < good.len; i++) { /* a flipped bit anywhere */
        good.s[i] ^= 4;
        put(path.s, &good, good.len);
        good.s[i] ^= 4;
        must_fail(folder.s, "run-damaged1.wandb: ");
    }
    for (size_t n = 0; n < good.len; n++) { /* a lost end of any length */
        put(path.s, &good, n);
        must_fail(folder.s, "run-damaged1.wandb: ");
    }
    put(path.s, &good, good.len);
    buf_printf(&file, "%s/files/media/table/t_0_%.20s.table.json", folder.s, strstr(table.s, "sha256\": \"") + 10);
    put(file.s, &good, 2);
    must_fail(folder.s, "expected 2 with");
    unlink(file.s);
    must_fail(folder.s, "table.json");
    buf_release(&file);
    buf_release(&table);
    buf_release(&good);
    buf_release(&path);
    buf_release(&folder);
}

/* numpy.histogram([1, 2, 3, 3], bins=64) puts them into bins 0, 32, 63, 63. */
static void histograms_are_numpys(void **state)
{
    (void)state;
    static const double v[] = { 1, 2, 3, 3 };
    struct err e = { "" };
    struct buf b = BUF_INIT;
    struct json doc, counts, bins, x;
    double first, last;
    wandb_histogram(v, 4, &b);
    assert_ok(json_parse(&doc, b.s, b.len, &e));
    assert_true(json_get(doc, "values", &counts) && json_get(doc, "bins", &bins));
    assert_int_equal(json_count(counts), 64);
    assert_int_equal(json_count(bins), 65);
    for (size_t i = 0; i < 64; i++) {
        int64_t got;
        assert_true(json_at(counts, i, &x) && json_int(x, &got));
        assert_int_equal(got, i == 0 || i == 32 ? 1 : i == 63 ? 2 : 0);
    }
    assert_true(json_at(bins, 0, &x) && json_double(x, &first) && json_at(bins, 64, &x) && json_double(x, &last));
    assert_true(first == 1 && last == 3);
    buf_reset(&b);
    wandb_histogram(v, 1, &b); /* one value alone: half a unit on both sides */
    assert_ok(json_parse(&doc, b.s, b.len, &e));
    assert_true(json_get(doc, "bins", &bins) && json_at(bins, 0, &x) && json_double(x, &first) && first == 0.5);
    buf_release(&b);
}

static void equal_runs_are_equal_bytes(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf file[2] = { BUF_INIT, BUF_INIT };
    char id[2][WANDB_ID + 1];
    for (int i = 0; i < 2; i++) {
        struct buf folder = BUF_INIT, path = BUF_INIT;
        char dir[4200];
        snprintf(dir, sizeof dir, "%s/again%d", test_tmpdir(), i);
        wandb_id("some inputs", 11, id[i]);
        struct wandb *w = small_run(id[i]);
        log_two(w, "1", "2.5");
        assert_ok(wandb_write(w, dir, NULL, &folder, &e));
        wandb_free(w);
        buf_printf(&path, "%s/run-%s.wandb", folder.s, id[i]);
        assert_ok(file_read(&file[i], path.s, 0, &e));
        buf_release(&path);
        buf_release(&folder);
    }
    assert_string_equal(id[0], id[1]);
    assert_int_equal(strlen(id[0]), WANDB_ID);
    assert_int_equal(file[0].len, file[1].len);
    assert_memory_equal(file[0].s, file[1].s, file[0].len);
    wandb_id("some input", 10, id[1]);
    assert_string_not_equal(id[0], id[1]);
    buf_release(&file[0]);
    buf_release(&file[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_read_back),
        cmocka_unit_test(every_length_around_a_block_survives),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(histograms_are_numpys),
        cmocka_unit_test(equal_runs_are_equal_bytes),
    };
    return cmocka_run_group_tests_name("wandb", tests, NULL, NULL);
}
