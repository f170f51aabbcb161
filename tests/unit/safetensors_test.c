/* safetensors: what the Python package wrote is read and written again byte for byte; what is broken is refused with
 * one sentence that names file and tensor. */
#include "unit/test.h"

#include <dirent.h>
#include <sys/stat.h>

#include "base/file.h"
#include "io/safetensors.h"

static char *tmp_path(const char *name)
{
    return path_join(test_tmpdir(), name);
}

/* ---- round trips ---- */

static struct st_entry *entries_of(const struct safetensors *st, const void ***data)
{
    size_t n = safetensors_count(st);
    struct st_entry *en = xcalloc(n, sizeof *en);
    *data = xcalloc(n, sizeof **data);
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = safetensors_at(st, n - 1 - i); /* any order will do */
        en[i] = (struct st_entry){ .name = t->name, .dtype = t->dtype, .rank = t->rank };
        memcpy(en[i].shape, t->shape, sizeof t->shape);
        (*data)[i] = t->data;
    }
    return en;
}

static void same_bytes(const char *a, const char *b)
{
    struct err e = { "" };
    struct file_map x, y;
    assert_ok(file_map_open(&x, a, &e));
    assert_ok(file_map_open(&y, b, &e));
    if (x.n != y.n || memcmp(x.p, y.p, x.n) != 0)
        fail_msg("%s and %s differ", a, b);
    file_map_close(&x);
    file_map_close(&y);
}

static void round_trip(const char *path)
{
    struct err e = { "" };
    struct safetensors *st;
    const void **data;
    char *copy = tmp_path("copy.safetensors");
    assert_ok(safetensors_open(&st, path, &e));
    struct st_entry *en = entries_of(st, &data);
    assert_ok(safetensors_write(copy, en, data, safetensors_count(st), &e));
    same_bytes(path, copy);
    safetensors_close(st);
    free(en);
    free(data);
    free(copy);
}

/* Every golden file of the models is one that the Python package wrote. */
static void test_round_trip(void **state)
{
    (void)state;
    int files = 0;
    DIR *d = opendir("tests/golden/models");
    assert_non_null(d);
    for (struct dirent *ent; (ent = readdir(d));) {
        char dir[512];
        snprintf(dir, sizeof dir, "tests/golden/models/%s", ent->d_name);
        DIR *m = ent->d_name[0] != '.' ? opendir(dir) : NULL;
        for (struct dirent *f; m && (f = readdir(m));) {
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
            if (path_ends_with(path, ".safetensors"))
                round_trip(path), files++;
        }
        if (m)
            closedir(m);
        char golden[1024];
        snprintf(golden, sizeof golden, "%s/golden/logits.safetensors", dir);
        if (m && file_exists(golden))
            round_trip(golden), files++;
    }
    closedir(d);
    assert_true(files > 20);
}

/* The order in which transformers fills shards. */
static const char *const qwen2_order[] = {
    "model.embed_tokens.weight",
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "model.norm.weight",
    "lm_head.weight",
};

static void add_entry(struct st_entry *en, const struct st_tensor **src, size_t *n, const struct safetensors *st,
                      const char *name)
{
    const struct st_tensor *t = safetensors_find(st, name);
    assert_non_null(t);
    en[*n] = (struct st_entry){ .name = t->name, .dtype = t->dtype, .rank = t->rank };
    memcpy(en[*n].shape, t->shape, sizeof t->shape);
    src[(*n)++] = t;
}

static void test_shards(void **state)
{
    (void)state;
    struct err e = { "" };
    struct safetensors *st;
    struct st_entry en[64];
    const struct st_tensor *src[64];
    const char *from = "tests/golden/models/qwen2-sharded";
    size_t n = 0;
    assert_ok(safetensors_open_dir(&st, from, &e));
    assert_int_equal(safetensors_files(st), 2);
    assert_null(safetensors_note(st, 0));
    add_entry(en, src, &n, st, qwen2_order[0]);
    for (int l = 0; l < 2; l++)
        for (int i = 1; i <= 12; i++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%d.%s", l, qwen2_order[i]);
            add_entry(en, src, &n, st, name);
        }
    add_entry(en, src, &n, st, qwen2_order[13]);
    add_entry(en, src, &n, st, qwen2_order[14]);
    assert_int_equal(n, safetensors_count(st));

    struct st_writer *w;
    assert_ok(st_writer_open_dir(&w, test_tmpdir(), en, n, 216192 * 6 / 10, &e));
    for (size_t i = n; i-- > 0;) { /* in two pieces each, last tensor first */
        assert_ok(st_writer_put(w, i, src[i]->data, src[i]->bytes / 3, &e));
        assert_ok(
            st_writer_put(w, i, (const char *)src[i]->data + src[i]->bytes / 3, src[i]->bytes - src[i]->bytes / 3, &e));
    }
    assert_ok(st_writer_commit(w, &e));
    st_writer_close(w);
    const char *names[] = { "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                            "model.safetensors.index.json" };
    for (int i = 0; i < 3; i++) {
        char *a = path_join(from, names[i]), *b = tmp_path(names[i]);
        same_bytes(a, b);
        unlink(b);
        free(a);
        free(b);
    }
    safetensors_close(st);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    struct err e = { "" };
    struct st_writer *w;
    char *path = tmp_path("unfinished.safetensors");
    struct st_entry en[2] = { { "a", ST_F32, 1, { 2 } }, { "b", ST_BF16, 2, { 1, 3 } } };
    assert_ok(st_writer_open(&w, path, en, 2, &e));
    assert_ok(st_writer_put(w, 0, "12345678", 8, &e));
    assert_int_equal(st_writer_put(w, 1, "1234567", 7, &e), -1);
    assert_non_null(strstr(e.msg, "tensor b was given more than its 6 bytes"));
    assert_int_equal(st_writer_commit(w, &e), -1);
    assert_non_null(strstr(e.msg, "tensor b has 0 of its 6 bytes"));
    st_writer_close(w);
    assert_false(file_exists(path));
    en[1].name = "a";
    en[1].dtype = ST_F32;
    assert_int_equal(st_writer_open(&w, path, en, 2, &e), -1);
    assert_non_null(strstr(e.msg, "tensor a would stand twice"));
    assert_int_equal(st_writer_open(&w, "/nonexistent/x.safetensors", en, 1, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent/x.safetensors"));
    free(path);
}

/* ---- bad files: header text, bytes of data, what the sentence must say (NULL: it is fine) ---- */

static const struct bad {
    const char *header;
    size_t data;
    const char *say[2];
} bads[] = {
    { "{}", 0, { NULL } },
    { "{}   ", 0, { NULL } },
    { "{\"__metadata__\":{\"format\":\"pt\"}}", 0, { NULL } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, { NULL } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, { NULL } },
    { "{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"F16\",\"shape\":[2],"
      "\"data_offsets\":[0,4]}}",
      4,
      { NULL } },
    { "{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, { NULL } },
    { "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, { "tensor a", "end at a byte" } },
    { "{}", 4, { "the tensors end at byte 0", "has 4" } },
    { "", 0, { "does not start with '{'" } },
    { " {}", 0, { "does not start with '{'" } },
    { "{\"a\":", 0, { "header" } },
    { "{} x", 0, { "header" } },
    { "{\"a\":3}", 0, { "tensor a", "needs dtype" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, { "tensor a", "data_offsets" } },
    { "{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, { "tensor a", "\"F31\"" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, { "tensor a", "-1 in its shape" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, { "tensor a", "1.0 in its shape" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, { "more than 8" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}",
      4,
      { "shape of tensor a overflows" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,4]}}",
      4,
      { "tensor a overflows" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, { "tensor a", "expected [begin, end]" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, { "tensor a", "expected [begin, end]" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
      4,
      { "tensor a ends at byte 8", "truncated" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}",
      8,
      { "tensor a ends at byte 9223372036854775807", "truncated" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}",
      8,
      { "tensor a has 8 bytes", "[3] in F32 needs 12" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, { "end at byte 4", "has 8" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, { "before tensor a", "no tensor" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
      "\"data_offsets\":[4,12]}}",
      12,
      { "tensors a and b overlap" } },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
      "\"data_offsets\":[4,8]}}",
      8,
      { "tensor a stands twice" } },
    { "{\"\\u0000\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, { "NUL" } },
};

static void write_raw(const char *path, uint64_t n, const char *header, size_t data)
{
    struct err e = { "" };
    struct buf b = BUF_INIT;
    for (int i = 0; i < 8; i++)
        buf_putc(&b, (char)(n >> 8 * i));
    buf_puts(&b, header);
    for (size_t i = 0; i < data; i++)
        buf_putc(&b, 'x');
    assert_ok(file_write_atomic(path, b.s, b.len, &e));
    buf_release(&b);
}

static void test_bad_headers(void **state)
{
    (void)state;
    char *path = tmp_path("bad.safetensors");
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        struct err e = { "" };
        struct safetensors *st;
        write_raw(path, strlen(bads[i].header), bads[i].header, bads[i].data);
        int rc = safetensors_open(&st, path, &e);
        if (!bads[i].say[0]) {
            if (rc < 0)
                fail_msg("%s: refused: %s", bads[i].header, e.msg);
            safetensors_close(st);
            continue;
        }
        if (rc == 0 || !strstr(e.msg, "bad.safetensors"))
            fail_msg("%s: got \"%s\"", bads[i].header, e.msg);
        for (int k = 0; k < 2; k++)
            if (bads[i].say[k] && !strstr(e.msg, bads[i].say[k]))
                fail_msg("%s: \"%s\" does not say \"%s\"", bads[i].header, e.msg, bads[i].say[k]);
    }
    free(path);
}

static void refused(const char *path, bool dir, const char *say)
{
    struct err e = { "" };
    struct safetensors *st;
    int rc = dir ? safetensors_open_dir(&st, path, &e) : safetensors_open(&st, path, &e);
    if (rc == 0 || !strstr(e.msg, say))
        fail_msg("%s: got \"%s\", expected \"%s\"", path, e.msg, say);
}

static void test_bad_lengths(void **state)
{
    (void)state;
    struct err e = { "" };
    char *path = tmp_path("length.safetensors");
    write_raw(path, 100000001, "{}", 0);
    refused(path, false, "at most 100000000");
    write_raw(path, UINT64_MAX, "{}", 0);
    refused(path, false, "at most 100000000");
    write_raw(path, 3, "{}", 0);
    refused(path, false, "truncated");
    assert_ok(file_write_atomic(path, "1234567", 7, &e));
    refused(path, false, "has 7 bytes");
    assert_ok(file_write_atomic(path, "", 0, &e));
    refused(path, false, "has 0 bytes");
    refused("/nonexistent.safetensors", false, "cannot open");
    free(path);
}

/* Cutting a good file anywhere, or adding a byte, is found. */
static void test_truncated(void **state)
{
    (void)state;
    struct err e = { "" };
    struct file_map m;
    char *path = tmp_path("cut.safetensors");
    assert_ok(file_map_open(&m, "tests/golden/models/qwen3-bf16/model.safetensors", &e));
    for (size_t n = 0; n < m.n; n += n < 64 ? 1 : 997) {
        struct safetensors *st;
        assert_ok(file_write_atomic(path, m.p, n, &e));
        assert_int_equal(safetensors_open(&st, path, &e), -1);
    }
    struct buf b = BUF_INIT;
    buf_add(&b, m.p, m.n);
    buf_putc(&b, 'x');
    assert_ok(file_write_atomic(path, b.s, b.len, &e));
    refused(path, false, "the file has");
    buf_release(&b);
    file_map_close(&m);
    free(path);
}

/* ---- folders ---- */

static void put_file(const char *dir, const char *name, const char *text)
{
    struct err e = { "" };
    char *path = path_join(dir, name);
    assert_ok(file_write_atomic(path, text, strlen(text), &e));
    free(path);
}

static void put_tensor(const char *dir, const char *file, const char *tensor)
{
    struct err e = { "" };
    char *path = path_join(dir, file);
    struct st_entry en = { tensor, ST_F32, 1, { 1 } };
    const void *data = "\0\0\200?";
    assert_ok(safetensors_write(path, &en, &data, 1, &e));
    free(path);
}

/* The one note of a folder, without the file's name. */
static const char *only_note(const char *dir)
{
    static char text[256];
    struct err e = { "" };
    struct safetensors *st;
    assert_ok(safetensors_open_dir(&st, dir, &e));
    assert_null(safetensors_note(st, 1));
    snprintf(text, sizeof text, "%s", strstr(safetensors_note(st, 0), ".json: ") + strlen(".json: "));
    safetensors_close(st);
    return text;
}

static void test_folders(void **state)
{
    (void)state;
    struct err e = { "" };
    struct safetensors *st;
    const char *index = "model.safetensors.index.json";
    char *dir = tmp_path("folder");
    refused(dir, true, "no such folder");
    assert_ok(file_mkdirs(dir, &e));
    refused(dir, true, "has neither model.safetensors nor");
    put_file(dir, "pytorch_model-00001-of-00002.bin", "x");
    refused(dir, true, "save_pretrained");
    put_file(dir, index, "{\"weight_map\":{}}");
    refused(dir, true, "names no tensor");
    put_file(dir, index, "{\"weight_map\":{\"a\":\"../a.safetensors\"}}");
    refused(dir, true, "for a file name");
    put_file(dir, index, "{\"weight_map\":{\"a\":\"a.safetensors\"}}");
    refused(dir, true, "names a.safetensors, which is not there");
    put_file(dir, index, "{\"weight_map\":[]}");
    refused(dir, true, "has no weight_map");
    put_file(dir, index, "{");
    refused(dir, true, index);
    put_tensor(dir, "a.safetensors", "a");
    put_tensor(dir, "b.safetensors", "b");
    put_file(dir, index, "{\"weight_map\":{\"a\":\"a.safetensors\",\"c\":\"b.safetensors\"}}");
    refused(dir, true, "\"c\" should lie in b.safetensors");
    put_file(dir, index, "{\"weight_map\":{\"a\":\"b.safetensors\",\"b\":\"a.safetensors\"}}");
    refused(dir, true, "should lie in b.safetensors and does not");
    put_file(dir, index, "{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}");
    assert_string_equal(only_note(dir), "has no metadata.total_size, the tensors are 8 bytes");
    put_file(dir, index,
             "{\"metadata\":{\"total_size\":9},\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}");
    assert_string_equal(only_note(dir), "metadata.total_size is 9, the tensors are 8 bytes");
    put_file(dir, index,
             "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}");
    assert_ok(safetensors_open_dir(&st, dir, &e));
    assert_int_equal(safetensors_count(st), 2);
    assert_null(safetensors_note(st, 0));
    assert_non_null(safetensors_find(st, "b"));
    assert_null(safetensors_find(st, "bb"));
    safetensors_close(st);
    put_tensor(dir, "b.safetensors", "a");
    refused(dir, true, "tensor a lies in a.safetensors too");
    /* a new single file wins over the index, and what lies beside it is noticed */
    put_tensor(dir, "model.safetensors", "m");
    put_tensor(dir, "adapter_model.safetensors", "m");
    assert_ok(safetensors_open_dir(&st, dir, &e));
    assert_int_equal(safetensors_count(st), 1);
    assert_non_null(strstr(safetensors_note(st, 0), "a.safetensors: does not belong"));
    assert_non_null(strstr(safetensors_note(st, 1), "b.safetensors: does not belong"));
    assert_null(safetensors_note(st, 2));
    safetensors_close(st);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_shards),      cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_bad_lengths), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
