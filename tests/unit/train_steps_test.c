/* train_steps_test.c - lib/train against torch and PEFT: schedules, 20 steps; batches; packing; checkpoints. */
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "io/record.h"
#include "model/parts.h"
#include "train/checkpoint.h"
#include "train/run.h"
#include "unit/test.h"

/* ---- schedules ---- */

static void schedules_are_transformers(void **state)
{
    (void)state;
    struct err e = { "" };
    const char *f = "tests/golden/train/schedules.jsonl";
    struct rec_reader *in;
    struct rec r;
    int lines = 0;
    assert_ok(rec_open(&in, &f, 1, &e));
    while (rec_read(in, &r, &e) > 0) {
        struct buf name = BUF_INIT;
        struct json lr, x;
        int64_t steps, warmup, t = 0;
        double ratio;
        assert_ok(rec_text(&r, "name", &name, &e));
        assert_ok(rec_int(&r, "steps", &steps, &e));
        assert_ok(rec_int(&r, "warmup_steps", &warmup, &e));
        assert_ok(rec_real(&r, "warmup_ratio", &ratio, &e));
        assert_int_equal(schedule_warmup(ratio, steps), warmup);
        assert_true(rec_get(&r, "lr", &lr));
        struct json_iter it = json_each(lr);
        for (; json_next(&it, NULL, &x); t++) {
            double want, got = schedule_at(schedule_of(name.s), t, steps, warmup);
            assert_true(json_double(x, &want));
            if (!(fabs(got - want) <= 1e-12))
                fail_msg("%s, step %lld of %lld: %.17g, transformers has %.17g", name.s, (long long)t, (long long)steps,
                         got, want);
        }
        assert_int_equal(t, steps);
        buf_release(&name);
        lines++;
    }
    assert_true(lines >= 12);
    rec_close(in);
}

/* ---- a model with its golden rows ---- */

struct setup {
    struct device *d;
    struct model *m;
    struct rows *rows;
    struct trainable *t;
    struct optimizer o;
};

static void setup(struct setup *s, const char *family, const struct lora_options *lora, bool golden_adapter,
                  double decay, int max_rows)
{
    struct err e = { "" };
    struct rec_reader *in;
    struct rec r;
    char dir[128], file[128], adapter[128];
    const char *f = file;
    snprintf(dir, sizeof dir, "tests/golden/models/%s", family);
    snprintf(file, sizeof file, "tests/golden/train/%s/rows.jsonl", family);
    snprintf(adapter, sizeof adapter, "tests/golden/train/%s/adapter", family);
    assert_ok(device_open(&s->d, "cpu", 2, &e));
    assert_ok(model_open(&s->m, dir, s->d, &e));
    assert_ok(
        rows_open(&s->rows, &(struct rows_spec){ .dir = dir, .config = model_config(s->m), .max_length = 512 }, &e));
    assert_ok(rec_open(&in, &f, 1, &e));
    while (rec_read(in, &r, &e) > 0)
        assert_int_equal(rows_add(s->rows, &r, &e), 1);
    rec_close(in);
    assert_int_equal(s->rows->n, 8);
    assert_ok(
        trainable_open(&s->t, s->m,
                       &(struct trainable_options){
                           .lora = lora, .adapter = golden_adapter ? adapter : NULL, .max_rows = max_rows, .seed = 3 },
                       &e));
    assert_ok(optimizer_open(&s->o, s->t, s->d, decay, 1, &e));
}

static void teardown(struct setup *s)
{
    optimizer_close(&s->o);
    trainable_close(s->t);
    rows_close(s->rows);
    model_close(s->m);
    device_close(s->d);
}

/* Loss of these rows, gradients summed over passes of at most pass_tokens. */
static double passes(struct setup *s, const uint32_t *list, uint32_t n, int pass_tokens)
{
    struct err e = { "" };
    struct pass p = { .cap_rows = 0 };
    int64_t targets = 0;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        targets += s->rows->row[list[i]].targets;
    for (uint32_t at = 0; at < n;) {
        double one;
        at += pass_fill(&p, s->rows, list + at, n - at, pass_tokens);
        assert_ok(trainable_pass(s->t, &p.b, (float)(1.0 / (double)targets), &one, &e));
        sum += one;
    }
    pass_release(&p);
    return sum / (double)targets;
}

/* ---- twenty steps ---- */

static void twenty(const char *family, const struct lora_options *lora, const char *steps, double lr, double decay)
{
    struct err e = { "" };
    struct setup s;
    struct rec_reader *in;
    struct rec r;
    char path[128];
    const char *f = path;
    setup(&s, family, lora, lora != NULL, decay, 512);
    snprintf(path, sizeof path, "tests/golden/train/%s/%s", family, steps);
    assert_ok(rec_open(&in, &f, 1, &e));
    for (int64_t step = 0; step < 20; step++) {
        uint32_t list[2] = { (uint32_t)(2 * step % 8), (uint32_t)((2 * step + 1) % 8) };
        double want, norm, loss = passes(&s, list, 2, 512);
        assert_int_equal(rec_read(in, &r, &e), 1);
        assert_ok(rec_real(&r, "loss", &want, &e));
        if (!(fabs(loss - want) <= 1e-3))
            fail_msg("%s %s, step %lld: loss %.9g, reference %.9g", family, steps, (long long)step, loss, want);
        assert_ok(optimizer_norm(&s.o, &norm, &e));
        optimizer_step(&s.o, step + 1, lr, norm);
    }
    rec_close(in);
    teardown(&s);
}

static const struct lora_options golden_lora = { .rank = 4, .alpha = 8, .targets = "all-linear" };

static void twenty_steps_follow_torch_and_peft(void **state)
{
    (void)state;
    static const char *const families[] = { "qwen2", "qwen3", "llama3", "phi3", "xlmr", "bert" };
    for (int i = 0; i < 6; i++)
        twenty(families[i], NULL, "full_steps.jsonl", 1e-3, 0.01);
    for (int i = 0; i < 4; i++)
        twenty(families[i], &golden_lora, "lora_steps.jsonl", 1e-2, 0);
}

/* ---- packing ---- */

enum layout { PACKED, ACCUMULATED, PADDED };
enum { MOST_PARAMS = 256 };

/* Every row as long as the longest, in one pass: what stands behind a row's end is not learnt, and no row of a decoder
 * sees it. */
static double padded(struct setup *s, const uint32_t *list, uint32_t n)
{
    struct err e = { "" };
    int width = 0, targets = 0;
    double loss;
    for (uint32_t i = 0; i < n; i++)
        width = s->rows->row[list[i]].n > width ? s->rows->row[list[i]].n : width;
    int32_t *ids = xcalloc(2 * n * (size_t)width, sizeof *ids), *target = ids + n * (size_t)width;
    int32_t *begin = xcalloc(n + 1, sizeof *begin);
    for (uint32_t i = 0; i < n; i++) {
        const struct train_row *r = &s->rows->row[list[i]];
        int32_t *at = target + i * (size_t)width;
        begin[i + 1] = (int32_t)(i + 1) * width;
        memcpy(ids + begin[i], r->ids, (size_t)r->n * sizeof *ids);
        memcpy(at, r->target, (size_t)r->n * sizeof *at);
        for (int k = r->n; k < width; k++)
            at[k] = -1;
        targets += r->targets;
    }
    struct train_batch b = { .rows = (int)n * width, .nseq = (int)n, .ids = ids, .begin = begin, .target = target };
    assert_ok(trainable_pass(s->t, &b, (float)(1.0 / (double)targets), &loss, &e));
    free(ids);
    free(begin);
    return loss / targets;
}

/* Gradients of all parameters; size[i] numbers are of parameter i. */
static float *gradients(const char *family, const struct lora_options *lora, enum layout how, double *loss,
                        int64_t *size, size_t *params)
{
    static const uint32_t all[8] = { 3, 1, 7, 0, 2, 6, 5, 4 };
    struct err e = { "" };
    struct setup s;
    float *out = NULL;
    setup(&s, family, lora, lora != NULL, 0, 4096);
    size_t n = 0;
    *loss = how == PADDED ? padded(&s, all, 8) : passes(&s, all, 8, how == PACKED ? 4096 : 1);
    *params = trainable_params(s.t);
    assert_true(*params <= MOST_PARAMS);
    for (size_t i = 0; i < *params; i++) {
        const struct param *p = trainable_param(s.t, i);
        size_t count = (size_t)(p->rows * p->cols);
        out = xreallocarray(out, n + count, sizeof *out);
        assert_ok(s.d->tensor_read(s.d, p->grad, 0, out + n, count, &e));
        size[i] = (int64_t)count;
        n += count;
    }
    teardown(&s);
    return out;
}

/* Parameter by parameter: the difference as a vector, against the gradient. */
static void same_gradients(const char *what, const float *a, const float *b, const int64_t *size, size_t params)
{
    for (size_t i = 0, at = 0; i < params; at += (size_t)size[i++]) {
        double difference = 0, norm = 0;
        for (int64_t k = 0; k < size[i]; k++) {
            double x = a[at + (size_t)k], d = x - b[at + (size_t)k];
            difference += d * d;
            norm += x * x;
        }
        if (!(sqrt(difference) <= 1e-6 * sqrt(norm)))
            fail_msg("%s: gradient of parameter %zu: they differ by %.3g of it", what, i, sqrt(difference / norm));
    }
}

/* Encoders have no padded form: everything sees everything. (Torch's padded batches are what model_train_test compares
 * packed gradients with, encoders' too.) */
static void packed_padded_and_accumulated_are_one(void **state)
{
    (void)state;
    static const char *const families[] = { "qwen2", "qwen3", "llama3", "phi3", "xlmr", "bert" };
    for (int i = 0; i < 6; i++)
        for (int lora = 0; lora < (i < 4 ? 2 : 1); lora++) {
            const struct lora_options *o = lora ? &golden_lora : NULL;
            static int64_t size[MOST_PARAMS];
            double a, b;
            size_t n;
            float *one = gradients(families[i], o, PACKED, &a, size, &n);
            for (enum layout how = ACCUMULATED; how <= (i < 4 ? PADDED : ACCUMULATED); how++) {
                float *other = gradients(families[i], o, how, &b, size, &n);
                assert_true(fabs(a - b) <= 1e-6 * a);
                same_gradients(families[i], one, other, size, n);
                free(other);
            }
            free(one);
        }
}

/* ---- batches ---- */

static void fake_rows(struct rows *rows, struct train_row *row, size_t n)
{
    for (size_t i = 0; i < n; i++)
        row[i] = (struct train_row){ .n = (int)(10 + i % 7), .targets = 3, .question = 1000 + i / 4 };
    *rows = (struct rows){ .row = row, .n = n };
}

static void epochs_see_every_row_once(void **state)
{
    (void)state;
    struct err e = { "" };
    struct train_row row[50];
    struct rows rows;
    fake_rows(&rows, row, 50);
    for (int tokens = 0; tokens < 2; tokens++) {
        struct batches *b;
        struct batch_spec spec = {
            .seed = 7, .batch_rows = 4, .accumulate = 2, .batch_tokens = tokens ? 40 : 0, .pass_tokens = 64, .epochs = 3
        };
        assert_ok(batches_open(&b, &rows, &spec, &e));
        int seen[3][50] = { { 0 } };
        for (int64_t s = 0; s < b->steps; s++) {
            const uint32_t *list;
            uint32_t n = batches_step(b, s, &list);
            int total = 0;
            for (uint32_t i = 0; i < n; i++) {
                seen[b->step[s].epoch][list[i]]++;
                total += row[list[i]].n;
            }
            assert_true(n > 0);
            if (tokens)
                assert_true(total <= 80);
            else
                assert_true(n == 8 || s % 7 == 6);
        }
        if (!tokens)
            assert_int_equal(b->steps, 21); /* 50 rows in eights: seven steps an epoch */
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < 50; i++)
                assert_int_equal(seen[k][i], 1);
        assert_true(batches_epoch(b, b->steps) == 3);
        /* any step can be asked for first */
        const uint32_t *list;
        uint32_t before[64], n = batches_step(b, b->steps - 2, &list);
        memcpy(before, list, n * sizeof *list);
        batches_step(b, 0, &list);
        assert_int_equal(batches_step(b, b->steps - 2, &list), n);
        assert_memory_equal(before, list, n * sizeof *list);
        batches_close(b);
    }
}

static void questions_are_on_one_side(void **state)
{
    (void)state;
    struct err e = { "" };
    struct train_row row[50];
    struct rows rows;
    struct batches *b;
    fake_rows(&rows, row, 50);
    struct batch_spec spec = {
        .seed = 7, .eval_ratio = 0.25, .batch_rows = 4, .accumulate = 1, .pass_tokens = 64, .epochs = 1.5
    };
    assert_ok(batches_open(&b, &rows, &spec, &e));
    for (uint32_t i = 0; i < b->neval; i++)
        for (uint32_t k = 0; k < b->ntrain; k++)
            assert_true(row[b->eval[i]].question != row[b->train[k]].question);
    assert_int_equal(b->neval + b->ntrain, 50);
    assert_true(b->neval >= 14 && b->neval <= 16); /* 4 of 13 questions */
    int64_t whole = (b->ntrain + 3) / 4;
    assert_int_equal(b->steps, whole + (whole + 1) / 2);
    batches_close(b);
    spec.max_steps = 5;
    assert_ok(batches_open(&b, &rows, &spec, &e));
    assert_int_equal(b->steps, 5);
    batches_close(b);
    fake_rows(&rows, row, 4); /* one question */
    assert_int_equal(batches_open(&b, &rows, &spec, &e), -1);
}

/* ---- checkpoints: stopped anywhere, the same values ---- */

static int stop_after;
static bool stop(void)
{
    return stop_after-- == 0;
}

static void run_to(const char *dir, int stops_after, bool done, float **values, int64_t *n)
{
    struct err e = { "" };
    struct setup s;
    struct batches *b;
    struct checkpoint *c;
    struct run_result result;
    setup(&s, "qwen3", NULL, false, 0.01, 512);
    struct batch_spec spec = {
        .seed = 5, .eval_ratio = 0.2, .batch_rows = 2, .accumulate = 1, .pass_tokens = 100, .epochs = 5
    };
    for (size_t i = 0; i < s.rows->n; i++)
        s.rows->row[i].question = i / 2;
    assert_ok(batches_open(&b, s.rows, &spec, &e));
    assert_ok(checkpoint_open(&c, dir, &e));
    stop_after = stops_after;
    int rc = train_run(
        s.t, &s.o, b, c,
        &(struct run_options){
            .lr = 3e-3, .warmup_ratio = 0.1, .schedule = SCHEDULE_COSINE, .eval_every = 4, .stop = stop, .width = 96 },
        &result, &e);
    assert_int_equal(rc, done ? 0 : -1);
    if (done) {
        *n = 0;
        *values = NULL;
        for (size_t i = 0; i < trainable_params(s.t); i++) {
            const struct param *p = trainable_param(s.t, i);
            size_t count = (size_t)(p->rows * p->cols);
            *values = xreallocarray(*values, (size_t)*n + count, sizeof **values);
            assert_ok(s.d->tensor_read(s.d, p->value, 0, *values + *n, count, &e));
            *n += (int64_t)count;
        }
    }
    checkpoint_close(c, done);
    batches_close(b);
    teardown(&s);
}

static void stopped_and_resumed_is_the_same(void **state)
{
    (void)state;
    char tmp[] = "/tmp/latent-train-XXXXXX";
    float *want, *got;
    int64_t n, m;
    assert_non_null(mkdtemp(tmp));
    char *dir = path_join(tmp, "c");
    run_to(dir, 1000, true, &want, &n);
    assert_false(file_exists(dir));
    run_to(dir, 0, false, NULL, NULL);
    run_to(dir, 4, false, NULL, NULL);
    run_to(dir, 1, false, NULL, NULL);
    run_to(dir, 1000, true, &got, &m);
    assert_int_equal(n, m);
    assert_memory_equal(want, got, (size_t)n * sizeof *want);
    free(want);
    free(got);
    free(dir);
    rmdir(tmp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_are_transformers),
        cmocka_unit_test(twenty_steps_follow_torch_and_peft),
        cmocka_unit_test(packed_padded_and_accumulated_are_one),
        cmocka_unit_test(epochs_see_every_row_once),
        cmocka_unit_test(questions_are_on_one_side),
        cmocka_unit_test(stopped_and_resumed_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
