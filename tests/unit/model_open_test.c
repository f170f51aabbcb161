/* Opening checkpoints: configs in every spelling, and what is refused, each with its sentence. */
#include "unit/model_testing.h"

#include <dirent.h>

#include "model/rope.h"

/* ---- folders made from golden ones ---- */

/* A fresh folder with the files of a golden one; config.json with `old` replaced by `new` (NULL: as it is). */
static char *folder(const char *golden, const char *old, const char *new)
{
    static int made;
    struct err e = { "" };
    char name[64], from[512];
    snprintf(name, sizeof name, "model%d", made++);
    snprintf(from, sizeof from, "tests/golden/models/%s", golden);
    char *dir = path_join(test_tmpdir(), name);
    assert_ok(file_mkdirs(dir, &e));
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *ent; (ent = readdir(d));) {
        char *src = path_join(from, ent->d_name), *dst = path_join(dir, ent->d_name);
        struct buf b = BUF_INIT;
        if (!file_is_dir(src)) {
            assert_ok(file_read(&b, src, 0, &e));
            char *at = old && strcmp(ent->d_name, "config.json") == 0 ? strstr(b.s, old) : NULL;
            if (at) {
                struct buf c = BUF_INIT;
                buf_add(&c, b.s, (size_t)(at - b.s));
                buf_puts(&c, new);
                buf_puts(&c, at + strlen(old));
                buf_release(&b);
                b = c;
            } else if (old && strcmp(ent->d_name, "config.json") == 0) {
                fail_msg("%s/config.json does not hold %s", from, old);
            }
            assert_ok(file_write_atomic(dst, b.s ? b.s : "", b.len, &e));
        }
        buf_release(&b);
        free(src);
        free(dst);
    }
    closedir(d);
    return dir;
}

/* Rewrites dir's model.safetensors; edit may change an entry (its data is then zeros), returns false to drop it. */
static void edit_tensors(const char *dir, bool (*edit)(struct st_entry *en))
{
    struct err e = { "" };
    struct safetensors *st;
    char *path = path_join(dir, "model.safetensors"), *zeros = xcalloc(1, 1 << 20);
    assert_ok(safetensors_open(&st, path, &e));
    size_t n = 0, all = safetensors_count(st);
    struct st_entry *en = xcalloc(all, sizeof *en);
    const void **data = xcalloc(all, sizeof *data);
    for (size_t i = 0; i < all; i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        struct st_entry was = { .name = t->name, .dtype = t->dtype, .rank = t->rank };
        memcpy(was.shape, t->shape, sizeof was.shape);
        en[n] = was;
        if (!edit(&en[n]))
            continue;
        bool same = en[n].dtype == was.dtype && memcmp(en[n].shape, was.shape, sizeof was.shape) == 0;
        data[n++] = same ? t->data : zeros;
    }
    assert_ok(safetensors_write(path, en, data, n, &e));
    safetensors_close(st);
    free(en);
    free(data);
    free(zeros);
    free(path);
}

/* Opening dir fails and says all of these. Frees dir. */
static void refused(char *dir, const char *a, const char *b, const char *c)
{
    struct err e = { "" };
    struct device *d;
    struct model *m;
    const char *say[] = { a, b, c };
    assert_ok(device_open(&d, "cpu", 1, &e));
    if (model_open(&m, dir, d, &e) == 0)
        fail_msg("%s was opened, expected \"%s\"", dir, a);
    for (int i = 0; i < 3; i++)
        if (say[i] && !strstr(e.msg, say[i]))
            fail_msg("\"%s\" does not say \"%s\"", e.msg, say[i]);
    device_close(d);
    free(dir);
}

/* ---- configs ---- */

static void test_spellings(void **state)
{
    (void)state;
    struct err e = { "" };
    struct model_config c, old;
    SHARED_OR_SKIP(path, "data/configs/qwen3-4b-thinking-2507.transformers5-style.json");
    SHARED_OR_SKIP(folder4, "data/tokenizers/qwen3-thinking-2507");
    char *dir = path_join(test_tmpdir(), "v5"), *config = path_join(dir, "config.json");
    struct buf b = BUF_INIT;
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(file_read(&b, path, 0, &e));
    assert_ok(file_write_atomic(config, b.s, b.len, &e));
    assert_ok(model_config_read(&c, dir, &e));
    assert_ok(model_config_read(&old, folder4, &e));
    assert_int_equal(c.family, MODEL_QWEN3);
    assert_true(c.tied && old.tied && c.qk_norm && !c.qkv_bias && !c.encoder);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.hidden, 2560);
    assert_int_equal(c.layers, 36);
    assert_int_equal(c.rotary, 128);
    assert_true(c.rope_theta == 5e6 && old.rope_theta == 5e6);
    assert_int_equal(c.max_positions, 262144);
    assert_int_equal(c.window[35], 0);
    assert_int_equal(c.n_eos, 1); /* config.json's */
    assert_int_equal(c.eos[0], 151645);
    assert_int_equal(old.n_eos, 2); /* generation_config.json's */
    assert_int_equal(old.eos[0], 151645);
    assert_int_equal(old.eos[1], 151643);
    model_config_release(&c);
    model_config_release(&old);
    buf_release(&b);
    free(config);
    free(dir);
}

static void test_sizes(void **state)
{
    (void)state;
    struct err e = { "" };
    struct model_config c;
    assert_ok(model_config_read(&c, "tests/golden/models/qwen3-sliding", &e));
    assert_int_equal(c.window[0], 0);
    assert_int_equal(c.window[1], 8);
    assert_int_equal(c.window[2], 8);
    model_config_release(&c);
    assert_ok(model_config_read(&c, "tests/golden/models/phi3-longrope", &e));
    assert_true(c.longrope);
    assert_int_equal(c.rope_original, 32);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.bos, 1);
    model_config_release(&c);
    assert_ok(model_config_read(&c, "tests/golden/models/xlmr", &e));
    assert_true(c.encoder && c.labels == 2 && c.position_base == 2);
    model_config_release(&c);
    assert_int_equal(model_config_read(&c, "/nonexistent", &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent: no such model folder"));
}

/* The older layer_types list decides over max_window_layers. */
static void test_layer_types(void **state)
{
    (void)state;
    struct err e = { "" };
    struct model_config c;
    char *dir = folder("qwen3-sliding", "\"max_window_layers\": 1",
                       "\"max_window_layers\": 1, \"layer_types\": [\"sliding_attention\", \"full_attention\", "
                       "\"sliding_attention\"]");
    assert_ok(model_config_read(&c, dir, &e));
    assert_int_equal(c.window[0], 8);
    assert_int_equal(c.window[1], 0);
    assert_int_equal(c.window[2], 8);
    model_config_release(&c);
    free(dir);
}

static void test_bad_configs(void **state)
{
    (void)state;
    refused(folder("qwen3", "\"qwen3\"", "\"mamba\""), "unknown architecture: model_type is \"mamba\"",
            "Qwen3ForCausalLM", "config.json");
    refused(folder("qwen3", "\"Qwen3ForCausalLM\"", "\"Qwen3ForSequenceClassification\""),
            "unknown architecture: architectures[0] is \"Qwen3ForSequenceClassification\"", NULL, NULL);
    refused(folder("qwen3", "\"model_type\"", "\"x\""), "model_type is absent", NULL, NULL);
    refused(folder("qwen3", "\"hidden_size\"", "\"x\""), "config.json: has no hidden_size", NULL, NULL);
    refused(folder("qwen3", "\"hidden_size\": 48", "\"hidden_size\": -1"), "hidden_size is -1, expected", NULL, NULL);
    refused(folder("qwen3", "\"hidden_size\": 48", "\"hidden_size\": 4.5"), "hidden_size is 4.5, expected a whole",
            NULL, NULL);
    refused(folder("qwen3", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"), "4 attention heads",
            "3 key-value", NULL);
    refused(folder("qwen3", "\"silu\"", "\"relu\""), "hidden_act is \"relu\", expected \"silu\"", NULL, NULL);
    refused(
        folder("qwen3", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2.0}"),
        "rope_type is \"dynamic\", expected default, linear, llama3, yarn or longrope", NULL, NULL);
    refused(folder("qwen3", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"longrope\"}"),
            "short_factor", NULL, NULL);
    refused(folder("phi3-longrope", "1.05,", ""), "short_factor", "expected 8 numbers", NULL);
    refused(folder("qwen3", "\"eos_token_id\": 597", "\"quantization_config\": {}"), "quantization_config", "quantized",
            NULL);
    refused(folder("qwen3", "{", "["), "config.json", NULL, NULL);
    refused(folder("bert", "\"absolute\"", "\"relative_key\""), "position_embedding_type is \"relative_key\"", NULL,
            NULL);
}

/* ---- scalings without a golden folder of their own: frequencies by their properties ---- */

static void frequencies(const char *scaling, float *inv, float *scale)
{
    struct err e = { "" };
    struct model_config c;
    char *dir = folder("qwen3", "\"rope_scaling\": null", scaling);
    assert_ok(model_config_read(&c, dir, &e));
    model_rope_frequencies(&c, 0, inv, scale);
    model_config_release(&c);
    free(dir);
}

static void test_scalings(void **state)
{
    (void)state;
    float plain[8], inv[8], scale;
    frequencies("\"rope_scaling\": null", plain, &scale);
    assert_true(plain[0] == 1 && scale == 1);
    frequencies("\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}", inv, &scale);
    for (int j = 0; j < 8; j++)
        assert_true(inv[j] == plain[j] / 4);
    frequencies("\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
                "\"original_max_position_embeddings\": 128}",
                inv, &scale);
    assert_true(fabs((double)scale - (0.1 * log(4) + 1)) < 1e-6);
    assert_true(inv[0] == plain[0]);                              /* turns often: kept */
    assert_true(fabsf(inv[7] - plain[7] / 4) < 1e-6f * plain[7]); /* turns less than once: interpolated */
    for (int j = 1; j < 8; j++)
        assert_true(inv[j] < inv[j - 1]);
}

/* ---- tensors ---- */

static bool drop_norm(struct st_entry *en)
{
    return strcmp(en->name, "model.norm.weight") != 0;
}

static bool several(struct st_entry *en)
{
    if (strcmp(en->name, "model.layers.1.mlp.up_proj.weight") == 0)
        return false;
    if (strcmp(en->name, "model.layers.0.self_attn.q_norm.weight") == 0)
        en->shape[0] = 15;
    if (strcmp(en->name, "model.layers.2.mlp.down_proj.weight") == 0)
        en->name = "model.layers.2.mlp.downproj.weight";
    return true;
}

static bool wrong_dtype(struct st_entry *en)
{
    if (strcmp(en->name, "model.norm.weight") == 0)
        en->dtype = ST_I32;
    return true;
}

static bool flat(struct st_entry *en)
{
    if (strcmp(en->name, "model.layers.0.mlp.up_proj.weight") == 0) {
        en->shape[0] *= en->shape[1];
        en->shape[1] = 0;
        en->rank = 1;
    }
    return true;
}

static bool nothing(struct st_entry *en)
{
    (void)en;
    return false;
}

static bool old_names(struct st_entry *en)
{
    static char names[64][128];
    static int used;
    char *at = strstr(en->name, "LayerNorm.");
    if (at) {
        snprintf(names[used], sizeof names[used], "%.*sLayerNorm.%s", (int)(at - en->name), en->name,
                 strcmp(at + 10, "weight") == 0 ? "gamma" : "beta");
        en->name = names[used++];
    }
    return true;
}

static void test_tensors(void **state)
{
    (void)state;
    char *dir = folder("qwen3", NULL, NULL);
    edit_tensors(dir, drop_norm);
    refused(dir, "tensor model.norm.weight is missing", NULL, NULL);
    dir = folder("qwen3", NULL, NULL);
    edit_tensors(dir, several); /* all in one message */
    struct err e = { "" };
    struct device *d;
    struct model *m;
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_int_equal(model_open(&m, dir, d, &e), -1);
    device_close(d);
    assert_non_null(strstr(e.msg, "tensor model.layers.0.self_attn.q_norm.weight has shape [15], expected [16]"));
    assert_non_null(strstr(e.msg, "tensor model.layers.1.mlp.up_proj.weight is missing"));
    assert_non_null(strstr(e.msg, "tensor model.layers.2.mlp.down_proj.weight is missing"));
    assert_non_null(strstr(e.msg, "tensor model.layers.2.mlp.downproj.weight is not part of this architecture"));
    assert_null(strchr(e.msg, '\n'));
    free(dir);
    dir = folder("qwen3", NULL, NULL);
    edit_tensors(dir, wrong_dtype);
    refused(dir, "tensor model.norm.weight has dtype I32, expected F32, BF16 or F16", NULL, NULL);
    dir = folder("qwen3", NULL, NULL);
    edit_tensors(dir, flat);
    refused(dir, "model.layers.0.mlp.up_proj.weight has shape [3840], expected [80, 48]", NULL, NULL);
    dir = folder("qwen3", NULL, NULL);
    edit_tensors(dir, nothing);
    refused(dir, "tensor model.embed_tokens.weight is missing", "more problems", NULL);
    refused(folder("qwen3-untied", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true, \"head_dim\": 8"),
            "expected [24, 32]", NULL, NULL);
}

/* gamma and beta, position_ids and pooler: as old files have them */
static void test_old_names(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d;
    struct model *m;
    char *dir = folder("bert", NULL, NULL);
    edit_tensors(dir, old_names);
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_ok(model_open(&m, dir, d, &e));
    model_close(m);
    device_close(d);
    free(dir);
}

/* ---- model_check ---- */

static void put_text(const char *dir, const char *name, const char *text)
{
    struct err e = { "" };
    char *path = path_join(dir, name);
    assert_ok(file_write_atomic(path, text, strlen(text), &e));
    free(path);
}

static void put_float(const char *dir, const char *tensor, int index, float v)
{
    struct err e = { "" };
    struct safetensors *st;
    char *path = path_join(dir, "model.safetensors");
    struct buf b = BUF_INIT;
    assert_ok(safetensors_open(&st, path, &e));
    assert_ok(file_read(&b, path, 0, &e));
    /* the tensor's place in the file: the data section is the end of the file */
    const struct st_tensor *t = safetensors_find(st, tensor);
    uint64_t behind = 0;
    for (size_t i = 0; i < safetensors_count(st); i++)
        if ((const char *)safetensors_at(st, i)->data >= (const char *)t->data)
            behind += safetensors_at(st, i)->bytes;
    memcpy(b.s + b.len - behind + 4 * index, &v, 4);
    safetensors_close(st);
    assert_ok(file_write_atomic(path, b.s, b.len, &e));
    buf_release(&b);
    free(path);
}

static void test_check(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf r = BUF_INIT;
    for (int i = 0; i < GOLDEN_DECODERS + 2; i++) {
        const char *encoders[] = { "xlmr", "bert" };
        char path[512];
        snprintf(path, sizeof path, "tests/golden/models/%s",
                 i < GOLDEN_DECODERS ? golden_decoders[i] : encoders[i - GOLDEN_DECODERS]);
        int n = model_check(path, &r, &e);
        if (n != 0)
            fail_msg("%s: %d problems: %s %s", path, n, r.s ? r.s : "", e.msg);
    }
    char *dir = folder("qwen3", NULL, NULL);
    put_float(dir, "model.norm.weight", 3, NAN);
    put_float(dir, "model.norm.weight", 5, INFINITY);
    put_float(dir, "model.layers.1.mlp.up_proj.weight", 0, -INFINITY);
    assert_int_equal(model_check(dir, &r, &e), 2);
    assert_non_null(
        strstr(r.s, "tensor model.norm.weight holds 1 NaN and 1 infinite values, the first at element 3\n"));
    assert_non_null(strstr(r.s, "tensor model.layers.1.mlp.up_proj.weight holds 0 NaN and 1 infinite"));
    buf_reset(&r);
    /* a stale shard, and a missing tensor */
    char *from = path_join(dir, "model.safetensors"), *to = path_join(dir, "model-00001-of-00002.safetensors");
    struct buf b = BUF_INIT;
    assert_ok(file_read(&b, from, 0, &e));
    assert_ok(file_write_atomic(to, b.s, b.len, &e));
    edit_tensors(dir, drop_norm);
    assert_int_equal(model_check(dir, &r, &e), 3);
    assert_non_null(strstr(r.s, "model.norm.weight is missing"));
    assert_non_null(strstr(r.s, "model-00001-of-00002.safetensors: does not belong"));
    assert_int_equal(model_check("/nonexistent", &r, &e), -1);
    free(dir);
    /* a vocabulary that is too small for the tokenizer, a stop id without a token */
    buf_reset(&r);
    dir = folder("qwen2", "\"vocab_size\": 600", "\"vocab_size\": 590");
    assert_true(model_check(dir, &r, &e) > 0);
    assert_non_null(strstr(r.s, "the tokenizer has ids up to 599, the embedding matrix 590 rows"));
    assert_non_null(strstr(r.s, "stop id 597 is outside the vocabulary of 590"));
    buf_reset(&r);
    free(dir);
    dir = folder("qwen3", NULL, NULL);
    put_text(dir, "generation_config.json", "{\"eos_token_id\": [597, 605]}");
    assert_int_equal(model_check(dir, &r, &e), 1);
    assert_string_equal(r.s, "stop id 605 is no token of the tokenizer\n");
    buf_release(&b);
    buf_release(&r);
    free(from);
    free(to);
    free(dir);
}

/* ---- fingerprint ---- */

static void test_fingerprint(void **state)
{
    (void)state;
    struct err e = { "" };
    char a[33], b[33], c[33];
    char *dir = folder("qwen3", NULL, NULL);
    assert_ok(model_fingerprint("tests/golden/models/qwen3", a, &e));
    assert_ok(model_fingerprint(dir, b, &e));
    assert_string_equal(a, b); /* the folder's name does not count */
    assert_int_equal(strlen(a), 32);
    put_float(dir, "model.norm.weight", 3, 0.5f);
    assert_ok(model_fingerprint(dir, c, &e));
    assert_string_not_equal(a, c);
    assert_int_equal(model_fingerprint("/nonexistent", c, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent"));
    free(dir);
}

int main(void)
{
    setenv("LATENT_HASH_CACHE", "off", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),   cmocka_unit_test(test_sizes),    cmocka_unit_test(test_layer_types),
        cmocka_unit_test(test_bad_configs), cmocka_unit_test(test_scalings), cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_old_names),   cmocka_unit_test(test_check),    cmocka_unit_test(test_fingerprint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
