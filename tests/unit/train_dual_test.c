/* train_dual_test.c - rows of dual models: what becomes latent in each mode, what is dropped, what is learnt. */
#include <math.h>

#include "base/file.h"
#include "io/record.h"
#include "model/dualize.h"
#include "model/model.h"
#include "model/train.h"
#include "text/tokenizer.h"
#include "train/identity.h"
#include "train/rows.h"
#include "unit/test.h"

static struct err e;

static void text_file(char *path, size_t n, const char *name, const char *text)
{
    snprintf(path, n, "%s/%s", test_tmpdir(), name);
    assert_ok(file_write_atomic(path, text, strlen(text), &e));
}

/* A dual folder of the golden qwen3; its prompts open the thinking. */
static const char *dual_model(enum dualize_mode mode, struct dual_meta *meta)
{
    static char dir[4200];
    char ids[4200], tokens[4200];
    struct dualize_options o = { .model = "tests/golden/models/qwen3", .name = "qwen3", .mode = mode, .noise = 0.01 };
    snprintf(dir, sizeof dir, "%s/dual-%d", test_tmpdir(), (int)mode);
    text_file(ids, sizeof ids, "ids.json", "[15, 16, 17, 32, 67, 220, 301]");
    text_file(tokens, sizeof tokens, "tokens", "<|step|>\n<|hm|>\n");
    if (mode == DUALIZE_SUBSET)
        o.subset_ids = ids;
    if (mode == DUALIZE_CUSTOM)
        o.custom_tokens = tokens;
    o.tokens = mode == DUALIZE_CUSTOM;
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(dualize(&o, dir, meta, &e));
    return dir;
}

struct taken {
    struct rows *rows;
    struct model_config config;
};

static void take(struct taken *t, const char *dir, const char *lines, struct rows_spec spec)
{
    char path[4200];
    const char *f = path;
    struct rec_reader *in;
    struct rec r;
    text_file(path, sizeof path, "rows.jsonl", lines);
    assert_ok(model_config_read(&t->config, dir, &e));
    spec.dir = dir;
    spec.config = &t->config;
    if (spec.max_length == 0)
        spec.max_length = 512;
    assert_ok(rows_open(&t->rows, &spec, &e));
    assert_ok(rec_open(&in, &f, 1, &e));
    while (rec_read(in, &r, &e) > 0)
        assert_ok(rows_add(t->rows, &r, &e));
    rec_close(in);
}

static void drop(struct taken *t)
{
    rows_close(t->rows);
    model_config_release(&t->config);
}

#define ASK "{\"messages\": [{\"role\": \"user\", \"content\": \"1+2?\"}, {\"role\": \"assistant\", \"content\": "
#define THOUGHT "Add 0 and 1 and 2: it is 1, 2\\n\\n</think>\\n\\nSo it is 3"

/* The same row by the base model's own tokens, which the dual tokenizer leaves as they are. */
static void modes(enum dualize_mode mode)
{
    struct dual_meta m;
    struct taken base, dual;
    take(&base, "tests/golden/models/qwen3", ASK "\"" THOUGHT "\"}]}\n", (struct rows_spec){ .max_length = 0 });
    take(&dual, dual_model(mode, &m), ASK "\"" THOUGHT "\"}]}\n", (struct rows_spec){ .max_length = 0 });
    assert_int_equal(base.rows->n, 1);
    assert_int_equal(dual.rows->n, 1);
    const struct train_row *a = &base.rows->row[0], *b = &dual.rows->row[0];
    int first = 0, end, latent = 0;
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->targets, b->targets);
    while (a->target[first] < 0)
        first++;
    first++;
    for (end = first; a->ids[end] != m.think_end_id; end++)
        ;
    assert_true(end - first > 10);
    for (int i = 0; i < a->n; i++) {
        int32_t want = a->ids[i];
        if (i >= first && i < end) { /* looked for, not computed: source_ids is the table that is inverted */
            for (int32_t k = m.latent; m.has_sources && k-- > 0;)
                if (dual_meta_source(&m, k) == a->ids[i])
                    want = m.visible + k;
            latent += want != a->ids[i];
        }
        if (b->ids[i] != want)
            fail_msg("mode %d: token %d is %d, expected %d", (int)mode, i, b->ids[i], want);
        if (i > 0)
            assert_int_equal(b->target[i - 1], i < first ? -1 : want);
    }
    assert_int_equal(dual.rows->latent, latent);
    assert_int_equal(dual.rows->stayed, end - first - latent);
    if (mode == DUALIZE_FULL_COPY)
        assert_int_equal(dual.rows->stayed, 0);
    if (mode == DUALIZE_SUBSET)
        assert_true(latent > 3 && dual.rows->stayed > 3);
    if (mode == DUALIZE_CUSTOM)
        assert_int_equal(latent, 0);
    drop(&base);
    drop(&dual);
    dual_meta_release(&m);
}

static void thinking_becomes_latent_in_every_mode(void **state)
{
    (void)state;
    modes(DUALIZE_FULL_COPY);
    modes(DUALIZE_SUBSET);
    modes(DUALIZE_CUSTOM);
}

static int latent_of(const struct train_row *r, const struct dual_meta *m)
{
    int n = 0;
    for (int i = 0; i < r->n; i++)
        n += r->ids[i] >= m->visible;
    return n;
}

static int think_ends(const struct train_row *r, const struct dual_meta *m)
{
    int n = 0;
    for (int i = 0; i < r->n; i++)
        n += r->ids[i] == m->think_end_id;
    return n;
}

static void thinking_without_an_end_is_never_learnt(void **state)
{
    (void)state;
    struct dual_meta m;
    struct taken t;
    const char *dir = dual_model(DUALIZE_FULL_COPY, &m);
    char *plain = xstrdup(dir);
    /* a template that adds no thinking of its own, and opens none: what the answer says is all there is */
    struct buf b = BUF_INIT;
    char *config = path_join(dir, "tokenizer_config.json");
    buf_puts(
        &b,
        "{\"chat_template\": \"{% for x in messages %}<|im_start|>{{ x.role }}\\n{{ x.content }}<|im_end|>\\n{% endfor "
        "%}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}\"}");
    assert_ok(file_write_atomic(config, b.s, b.len, &e));
    take(&t, plain, ASK "\"" THOUGHT "\"}]}\n" ASK "\"Add 1 and 2. It is 3\"}]}\n",
         (struct rows_spec){ .max_length = 0 });
    assert_int_equal(t.rows->n, 1);
    assert_int_equal(t.rows->endless, 1);
    assert_int_equal(think_ends(&t.rows->row[0], &m), 1);
    drop(&t);
    /* too long: cut inside the thinking, whose end stays; the first end counts, and what is behind it is no thinking */
    const char *two =
        ASK "\"one two three four five six seven eight nine ten\\n</think>\\n\\nsee </think> so it is 3\"}]}\n" ASK
            "\"one two three four five six seven eight nine ten eleven twelve: 3\"}]}\n";
    take(&t, plain, two, (struct rows_spec){ .max_length = 0 });
    assert_int_equal(t.rows->n, 1);
    int whole = t.rows->row[0].n, latent = latent_of(&t.rows->row[0], &m);
    assert_int_equal(think_ends(&t.rows->row[0], &m), 2);
    drop(&t);
    for (int less = 1; less < whole; less++) {
        take(&t, plain, two, (struct rows_spec){ .max_length = whole - less, .cut_middle = true });
        assert_int_equal(t.rows->endless, 1);
        assert_int_equal(t.rows->n + t.rows->dropped, 1);
        assert_int_equal(t.rows->n, less <= latent - 2 ? 1 : 0);
        for (size_t i = 0; i < t.rows->n; i++) {
            assert_int_equal(t.rows->row[i].n, whole - less);
            assert_int_equal(latent_of(&t.rows->row[i], &m), latent - less);
            assert_int_equal(think_ends(&t.rows->row[i], &m), 2);
        }
        drop(&t);
    }
    /* without cutting it is dropped, never shortened at its end */
    take(&t, plain, two, (struct rows_spec){ .max_length = whole - 1 });
    assert_int_equal(t.rows->n, 0);
    assert_int_equal(t.rows->dropped, 1);
    drop(&t);
    /* a prompt that has closed the thinking: the answer is no thinking */
    buf_reset(&b);
    buf_puts(
        &b,
        "{\"chat_template\": \"{% for x in messages %}<|im_start|>{{ x.role }}\\n{% if x.role == 'assistant' "
        "%}<think>\\n\\n</think>\\n\\n{% endif %}{{ x.content }}<|im_end|>\\n{% endfor %}{% if add_generation_prompt "
        "%}<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n{% endif %}\"}");
    assert_ok(file_write_atomic(config, b.s, b.len, &e));
    take(&t, plain, ASK "\"It is 3\"}]}\n", (struct rows_spec){ .max_length = 0 });
    assert_int_equal(t.rows->n, 1);
    assert_int_equal(latent_of(&t.rows->row[0], &m), 0);
    drop(&t);
    buf_release(&b);
    free(config);
    free(plain);
    dual_meta_release(&m);
}

static void latent_only_learns_latent_ids_only(void **state)
{
    (void)state;
    struct dual_meta m;
    struct taken t;
    struct rows_spec spec = { .latent_only = true };
    const char *dir = dual_model(DUALIZE_FULL_COPY, &m);
    char *lines;
    struct buf b = BUF_INIT;
    buf_printf(
        &b,
        "%s{\"ids\": [1, 2, %d, %d, 5], \"labels\": [-100, 2, %d, -100, 5]}\n{\"ids\": [1, 2], \"labels\": [1, 2]}\n",
        ASK "\"" THOUGHT "\"}]}\n", m.visible + 3, m.visible + 4, m.visible + 3);
    lines = buf_take(&b);
    take(&t, dir, lines, spec);
    assert_int_equal(t.rows->n, 2);
    assert_int_equal(t.rows->visible, 1);
    assert_int_equal(t.rows->row[0].targets, t.rows->latent);
    for (int i = 0; i < t.rows->row[0].n; i++)
        assert_true(t.rows->row[0].target[i] == -1 || t.rows->row[0].target[i] >= m.visible);
    const int32_t want[] = { -1, m.visible + 3, -1, -1, -1 };
    assert_memory_equal(t.rows->row[1].target, want, sizeof want);
    drop(&t);
    spec = (struct rows_spec){ .dir = "tests/golden/models/qwen3", .latent_only = true };
    assert_ok(model_config_read(&t.config, spec.dir, &e));
    spec.config = &t.config;
    assert_int_equal(rows_open(&t.rows, &spec, &e), -1);
    assert_string_equal(e.msg, "tests/golden/models/qwen3 is no dual model: --latent-only has no latent ids to learn");
    model_config_release(&t.config);
    free(lines);
    dual_meta_release(&m);
}

/* The loss of a full copy with frozen rows is the standard one and ln 2, with any adapter; with other rows it is not.
 */
static void copies_cost_ln_2(void **state)
{
    (void)state;
    static const struct lora_options lora = { .rank = 4, .alpha = 8, .targets = "all-linear" };
    for (int other = 0; other < 2; other++) {
        struct dual_meta m;
        struct taken t;
        struct device *d;
        struct model *model;
        struct trainable *train;
        struct identity i;
        const char *dir = dual_model(other ? DUALIZE_SUBSET : DUALIZE_FULL_COPY, &m);
        take(&t, dir, ASK "\"" THOUGHT "\"}]}\n", (struct rows_spec){ .max_length = 0 });
        assert_ok(device_open(&d, "cpu", 2, &e));
        assert_ok(model_open(&model, dir, d, &e));
        struct trainable_options o = { .lora = &lora, .max_rows = 128, .adapter = "tests/golden/train/qwen3/adapter" };
        assert_ok(trainable_open(&train, model, &o, &e));
        assert_ok(train_identity(train, rows_dual(t.rows), &t.rows->row[0], &i, &e));
        assert_true(i.targets > 20 && i.standard > 1);
        if (other)
            assert_true(fabs(identity_gap(&i)) > 0.01);
        else
            assert_true(fabs(identity_gap(&i)) <= IDENTITY_TOLERANCE);
        trainable_close(train);
        model_close(model);
        device_close(d);
        drop(&t);
        dual_meta_release(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thinking_becomes_latent_in_every_mode),
        cmocka_unit_test(thinking_without_an_end_is_never_learnt),
        cmocka_unit_test(latent_only_learns_latent_ids_only),
        cmocka_unit_test(copies_cost_ln_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
