/* Every golden checkpoint against transformers' numbers, on both CPU devices; and the ways to compute one thing agree
 * to the bit: through the cache in any pieces, without a cache, alone and packed. */
#include "unit/model_testing.h"

static double tolerance(const char *name)
{
    return strcmp(name, "qwen3-bf16") == 0 || strcmp(name, "llama-fp16") == 0 ? 1e-2 : 1e-4;
}

static void check_logits(const char *name, const char *device)
{
    struct opened o = open_golden(name, device);
    for (int k = 0; k < 3; k++) {
        char key[64];
        int n;
        snprintf(key, sizeof key, "ids.%d", k);
        int32_t *ids = golden_ids(o.golden, key, &n);
        snprintf(key, sizeof key, "logits.%d", k);
        float *got = varlen_logits(&o, ids, (int32_t[]){ n }, 1);
        compare(o.name, key, got, safetensors_find(o.golden, key), tolerance(name));
        free(got);
        free(ids);
    }
    close_golden(&o);
}

static void test_decoders(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        for (int d = 0; d < TEST_DEVICES; d++)
            check_logits(golden_decoders[i], test_devices[d]);
}

static void test_encoders(void **state)
{
    (void)state;
    for (int d = 0; d < TEST_DEVICES; d++) {
        check_logits("xlmr", test_devices[d]);
        check_logits("bert", test_devices[d]);
    }
}

/* The hidden states of LATENT_DUMP are transformers' hidden_states. */
static void check_hidden(const char *name)
{
    struct err e = { "" };
    char *dir = path_join(test_tmpdir(), name), key[64], path[4200];
    setenv("LATENT_DUMP", dir, 1);
    static int pass; /* numbered through the process: forward, logits, forward, logits ... */
    struct opened o = open_golden(name, "cpu");
    unsetenv("LATENT_DUMP");
    for (int k = 0; k < 3; k++) {
        int n;
        struct safetensors *st;
        snprintf(key, sizeof key, "ids.%d", k);
        int32_t *ids = golden_ids(o.golden, key, &n);
        free(varlen_logits(&o, ids, (int32_t[]){ n }, 1));
        free(ids);
        snprintf(path, sizeof path, "%s/pass-%06d.safetensors", dir, pass);
        pass += 2;
        assert_ok(safetensors_open(&st, path, &e));
        int layers = model_config(o.m)->layers;
        bool encoder = model_config(o.m)->encoder;
        for (int l = 0; l <= layers; l++) {
            char want[64];
            snprintf(want, sizeof want, "hidden.%d.%d", k, l);
            snprintf(key, sizeof key, "hidden.%d", l);
            const struct st_tensor *got = safetensors_find(st, l == layers && !encoder ? "norm" : key);
            assert_non_null(got);
            float *copy = xcalloc(got->elements, sizeof *copy);
            memcpy(copy, got->data, got->bytes);
            compare(o.name, want, copy, safetensors_find(o.golden, want), 1e-4);
            free(copy);
        }
        assert_non_null(safetensors_find(st, "attention.1"));
        safetensors_close(st);
    }
    close_golden(&o);
    free(dir);
}

static void test_hidden(void **state)
{
    (void)state;
    check_hidden("qwen3");
    check_hidden("llama3");
    check_hidden("xlmr");
    check_hidden("bert");
}

static void same_rows(const char *who, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: element %zu is %.9g and %.9g", who, i, (double)a[i], (double)b[i]);
}

/* Pieces of any size through the cache give the bits of one pass without it. */
static void check_pieces(const char *name, const char *device)
{
    static const int sizes[][4] = { { 1000 }, { 1 }, { 7, 1, 13, 2 }, { 32, 1 }, { 31, 2, 33 }, { 5 } };
    struct opened o = open_golden(name, device);
    int n, vocab = model_config(o.m)->vocab, total = 75;
    int32_t *ids = golden_ids(o.golden, "ids.2", &n), *seq = xcalloc((size_t)total, sizeof *seq);
    for (int i = 0; i < total; i++)
        seq[i] = ids[i % n];
    float *want = varlen_logits(&o, seq, (int32_t[]){ total }, 1);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct sequence s;
        sequence_open(&s, &o, total, model_rope_offset(o.m, total));
        for (int piece = 0; s.n < total; piece++) {
            int size = sizes[k][piece % 4] ? sizes[k][piece % 4] : sizes[k][0], from = s.n;
            size = size < total - from ? size : total - from;
            float *got = feed(&s, seq + from, size);
            same_rows(o.name, got, want + (size_t)from * (size_t)vocab, (size_t)size * (size_t)vocab);
            free(got);
        }
        sequence_close(&s);
    }
    free(want);
    free(seq);
    free(ids);
    close_golden(&o);
}

static void test_pieces(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        for (int d = 0; d < TEST_DEVICES; d++)
            check_pieces(golden_decoders[i], test_devices[d]);
}

/* Sequences packed behind each other give what each gives alone. */
static void check_packed(const char *name)
{
    struct opened o = open_golden(name, "cpu");
    const struct model_config *c = model_config(o.m);
    size_t cols = (size_t)(c->encoder ? c->labels : c->vocab), at = 0;
    int n, rows = 0;
    int32_t len[] = { 33, 1, 7, 20, 1, 2 }, pack[64];
    int32_t *ids = golden_ids(o.golden, "ids.2", &n);
    for (int s = 0; s < 6; s++)
        for (int i = 0; i < len[s]; i++)
            pack[rows++] = ids[(s + i) % n];
    float *all = varlen_logits(&o, pack, len, 6);
    rows = 0;
    for (int s = 0; s < 6; s++) {
        float *one = varlen_logits(&o, pack + rows, &len[s], 1);
        same_rows(o.name, all + at, one, (size_t)len[s] * cols);
        at += (size_t)len[s] * cols;
        rows += len[s];
        free(one);
    }
    free(all);
    free(ids);
    close_golden(&o);
}

static void test_packed(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        check_packed(golden_decoders[i]);
    check_packed("xlmr");
    check_packed("bert");
}

/* ---- golden/greedy.jsonl, token by token ---- */

static int best_of(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int read_ids(struct json line, const char *key, int32_t *out, int most)
{
    struct json list, x;
    int64_t v;
    int n = 0;
    assert_true(json_get(line, key, &list));
    struct json_iter it = json_each(list);
    while (json_next(&it, NULL, &x)) {
        assert_true(n < most && json_int(x, &v));
        out[n++] = (int32_t)v;
    }
    return n;
}

/* Greedy ids after a prompt. With longrope the whole sequence moves to the long list when it outgrows the short one, so
 * the cache is made anew (as transformers drops it). */
static void check_greedy(const struct opened *o, struct json line)
{
    int32_t ids[256], want[64];
    int n = read_ids(line, "ids", ids, 128), nwant = read_ids(line, "out", want, 64);
    int vocab = model_config(o->m)->vocab, most = n + nwant;
    struct sequence s;
    sequence_open(&s, o, most, model_rope_offset(o->m, n));
    for (int i = 0; i < nwant; i++, n++) {
        int64_t offset = model_rope_offset(o->m, n);
        if (offset != s.offset) {
            sequence_close(&s);
            sequence_open(&s, o, most, offset);
        }
        int from = s.n;
        float *logits = feed(&s, ids + from, n - from);
        ids[n] = best_of(logits + (size_t)(n - from - 1) * (size_t)vocab, vocab);
        free(logits);
        if (ids[n] != want[i])
            fail_msg("%s: token %d after %d is %d, expected %d", o->name, i, n, ids[n], want[i]);
    }
    sequence_close(&s);
}

static void test_greedy(void **state)
{
    (void)state;
    struct err e = { "" };
    for (int i = 0; i < GOLDEN_DECODERS; i++)
        for (int d = 0; d < TEST_DEVICES; d++) {
            struct opened o = open_golden(golden_decoders[i], test_devices[d]);
            char path[512];
            struct buf text = BUF_INIT;
            snprintf(path, sizeof path, "tests/golden/models/%s/golden/greedy.jsonl", golden_decoders[i]);
            assert_ok(file_read(&text, path, 0, &e));
            for (char *at = text.s, *end; (end = strchr(at, '\n')); at = end + 1) {
                struct json line;
                assert_ok(json_parse(&line, at, (size_t)(end - at), &e));
                check_greedy(&o, line);
            }
            buf_release(&text);
            close_golden(&o);
        }
}

/* The padded batch of the encoders' golden, without the padding. */
static void check_batch(const char *name)
{
    struct opened o = open_golden(name, "cpu");
    const struct st_tensor *mask = safetensors_find(o.golden, "mask.batch"),
                           *logits = safetensors_find(o.golden, "logits.batch");
    assert_non_null(mask);
    int n, nseq = (int)mask->shape[0], width = (int)mask->shape[1];
    int32_t *ids = golden_ids(o.golden, "ids.batch", &n), *keep = golden_ids(o.golden, "mask.batch", &n);
    int32_t *pack = xcalloc((size_t)n, sizeof *pack), *len = xcalloc((size_t)nseq, sizeof *len);
    int rows = 0;
    for (int i = 0; i < n; i++)
        if (keep[i]) {
            pack[rows++] = ids[i];
            len[i / width]++;
        }
    float *got = varlen_logits(&o, pack, len, nseq), *padded = xcalloc(2 * (size_t)n, sizeof *padded);
    memcpy(padded, logits->data, logits->bytes);
    for (int i = 0, r = 0; i < n; i++)
        if (keep[i]) {
            memcpy(padded + 2 * i, got + 2 * r, 8);
            r++;
        }
    compare(o.name, "logits.batch", padded, logits, 1e-4);
    free(got);
    free(padded);
    free(pack);
    free(len);
    free(ids);
    free(keep);
    close_golden(&o);
}

static void test_batch(void **state)
{
    (void)state;
    check_batch("xlmr");
    check_batch("bert");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoders), cmocka_unit_test(test_encoders), cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_pieces),   cmocka_unit_test(test_packed),   cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
