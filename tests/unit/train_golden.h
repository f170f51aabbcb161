/* train_golden.h - losses, gradients and the first steps of a training on an opened device, against torch and PEFT
 * (tests/golden/train). */
#ifndef LATENT_TRAIN_GOLDEN_H
#define LATENT_TRAIN_GOLDEN_H

#include <math.h>

#include "base/file.h"
#include "io/record.h"
#include "io/safetensors.h"
#include "model/dualize.h"
#include "model/parts.h"
#include "model/train.h"
#include "unit/test.h"

enum { MAX_ROWS = 512, MAX_SEQ = 16, ROWS_IN_FILE = 8 };

struct row {
    int32_t *ids, *labels;
    int n;
};

/* The folder of a family; dual-tied and dual-untied are made first, and their latent rows learn. */
static inline const char *model_of(const char *family, int32_t *rows_from)
{
    static char path[4200];
    char subset[256];
    struct err e = { "" };
    struct dual_meta meta;
    *rows_from = 0;
    snprintf(path, sizeof path, "tests/golden/models/%s", family);
    if (strncmp(family, "dual", 4) != 0)
        return path;
    snprintf(subset, sizeof subset, "tests/golden/train/%s/subset.json", family);
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), family);
    assert_ok(file_mkdirs(path, &e));
    struct dualize_options o = { .model = strcmp(family, "dual-tied") == 0 ? "tests/golden/models/qwen3"
                                                                           : "tests/golden/models/qwen3-untied",
                                 .name = "base",
                                 .mode = DUALIZE_SUBSET,
                                 .subset_ids = subset };
    assert_ok(dualize(&o, path, &meta, &e));
    *rows_from = meta.visible;
    dual_meta_release(&meta);
    return path;
}

static inline int ids_in(struct json v, int32_t **out)
{
    struct json_iter it = json_each(v);
    struct json x;
    int n = 0;
    *out = xcalloc(json_count(v) + 1, sizeof **out);
    while (json_next(&it, NULL, &x)) {
        int64_t k;
        assert_true(json_int(x, &k));
        (*out)[n++] = (int32_t)k;
    }
    return n;
}

static inline void read_rows(const char *family, struct row rows[ROWS_IN_FILE])
{
    struct err e = { "" };
    char path[256];
    const char *f = path;
    struct rec_reader *in;
    struct rec r;
    int n = 0;
    snprintf(path, sizeof path, "tests/golden/train/%s/rows.jsonl", family);
    assert_ok(rec_open(&in, &f, 1, &e));
    while (n < ROWS_IN_FILE && rec_read(in, &r, &e) > 0) {
        struct json ids, labels;
        assert_true(rec_get(&r, "ids", &ids) && rec_get(&r, "labels", &labels));
        rows[n].n = ids_in(ids, &rows[n].ids);
        assert_int_equal(ids_in(labels, &rows[n].labels), rows[n].n);
        n++;
    }
    assert_int_equal(n, ROWS_IN_FILE);
    rec_close(in);
}

static inline void free_rows(struct row rows[ROWS_IN_FILE])
{
    for (int i = 0; i < ROWS_IN_FILE; i++) {
        free(rows[i].ids);
        free(rows[i].labels);
    }
}

/* Rows pick[0..n) packed; decoders predict the next label, encoders their own. */
struct packed {
    int32_t ids[MAX_ROWS], target[MAX_ROWS], begin[MAX_SEQ + 1];
    struct train_batch b;
    int targets;
};

static inline void pack(struct packed *p, const struct row *rows, const int *pick, int n, bool encoder)
{
    int at = 0;
    p->targets = 0;
    for (int s = 0; s < n; s++) {
        const struct row *r = &rows[pick[s]];
        p->begin[s] = at;
        for (int i = 0; i < r->n; i++, at++) {
            int32_t label = encoder ? r->labels[i] : i + 1 < r->n ? r->labels[i + 1] : -100;
            p->ids[at] = r->ids[i];
            p->target[at] = label < 0 ? -1 : label;
            p->targets += label >= 0;
        }
    }
    p->begin[n] = at;
    p->b = (struct train_batch){ .rows = at, .nseq = n, .ids = p->ids, .begin = p->begin, .target = p->target };
}

static inline double number(const char *path, const char *key)
{
    struct err e = { "" };
    struct buf b = BUF_INIT;
    struct json doc, v;
    double x = NAN;
    assert_ok(file_read(&b, path, 0, &e));
    assert_ok(json_parse(&doc, b.s, b.len, &e));
    assert_true(json_get(doc, key, &v) && json_double(v, &x));
    buf_release(&b);
    return x;
}

static inline void assert_tensor(const char *name, const float *got, const float *want, int64_t n, double tol)
{
    double most = 0, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    if (!(worst <= tol * most + 1e-7))
        fail_msg("%s: worst at [%lld]: got %.9g want %.9g, max |want| %.9g", name, (long long)at, (double)got[at],
                 (double)want[at], most);
}

/* The golden gradient of a tensor, mostly-zero matrices spread out again; NULL if it has none. */
static inline float *golden_grad(const struct safetensors *st, const char *name, int64_t rows, int64_t cols)
{
    char sparse[160];
    float *v = xcalloc((size_t)(rows * cols), sizeof *v);
    const struct st_tensor *t = safetensors_find(st, name);
    if (t) {
        assert_int_equal(t->elements, rows * cols);
        model_floats(v, t, 0, t->elements);
        return v;
    }
    snprintf(sparse, sizeof sparse, "%s@rows", name);
    const struct st_tensor *at = safetensors_find(st, sparse);
    snprintf(sparse, sizeof sparse, "%s@values", name);
    const struct st_tensor *values = safetensors_find(st, sparse);
    if (!at || !values) {
        free(v);
        return NULL;
    }
    for (uint64_t i = 0; i < at->elements; i++) {
        int64_t r;
        memcpy(&r, (const char *)at->data + 8 * i, 8);
        model_floats(v + r * cols, values, i * (uint64_t)cols, (uint64_t)cols);
    }
    return v;
}

static inline int compare_grads(struct trainable *t, struct device *d, const char *path, double tol)
{
    struct err e = { "" };
    struct safetensors *st;
    int compared = 0;
    assert_ok(safetensors_open(&st, path, &e));
    for (size_t i = 0; i < trainable_params(t); i++) {
        struct param *p = trainable_param(t, i);
        int64_t n = p->rows * p->cols, at = 0, cols = p->matrix ? p->cols : 1;
        float *got = xcalloc((size_t)n, sizeof *got);
        assert_ok(d->tensor_read(d, p->grad, 0, got, (size_t)n, &e));
        for (int k = 0; k < p->nparts; k++) {
            float *want = golden_grad(st, p->part[k].name, p->part[k].rows, cols);
            if (!want)
                fail_msg("%s: no golden gradient of %s", path, p->part[k].name);
            assert_tensor(p->part[k].name, got + at, want, p->part[k].rows * cols, tol);
            at += p->part[k].rows * cols;
            compared++;
            free(want);
        }
        free(got);
    }
    safetensors_close(st);
    return compared;
}

static const int first_three[] = { 0, 1, 2 };

static inline void full_gradients(const char *family, struct device *d, bool recompute, int head_rows, double tol)
{
    struct err e = { "" };
    struct model *m;
    struct trainable *t;
    struct row rows[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    char path[256];
    double loss;
    snprintf(path, sizeof path, "tests/golden/models/%s", family);
    assert_ok(model_open(&m, path, d, &e));
    bool encoder = model_config(m)->encoder;
    assert_ok(trainable_open(
        &t, m, &(struct trainable_options){ .max_rows = MAX_ROWS, .head_rows = head_rows, .recompute = recompute },
        &e));
    read_rows(family, rows);
    pack(p, rows, first_three, 3, encoder);
    assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
    snprintf(path, sizeof path, "tests/golden/train/%s/full.json", family);
    double want = number(path, "loss");
    assert_int_equal(p->targets, (int)number(path, "targets"));
    if (!(fabs(loss / p->targets - want) <= tol / 10 * want))
        fail_msg("%s: loss %.9g, torch %.9g", family, loss / p->targets, want);
    snprintf(path, sizeof path, "tests/golden/train/%s/full_grads.safetensors", family);
    assert_true(compare_grads(t, d, path, tol) > 10);
    trainable_close(t);
    model_close(m);
    free_rows(rows);
    free(p);
}

static const struct lora_options golden_lora = { .rank = 4, .alpha = 8, .targets = "all-linear" };

/* head_rows > 0: the head in small chunks, layers recomputed */
static inline void lora_gradients(const char *family, struct device *d, int head_rows, double tol)
{
    struct err e = { "" };
    struct model *m;
    struct trainable *t;
    struct row rows[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    char path[256], adapter[256];
    double loss;
    int32_t from;
    snprintf(adapter, sizeof adapter, "tests/golden/train/%s/adapter", family);
    assert_ok(model_open(&m, model_of(family, &from), d, &e));
    struct trainable_options o = { .lora = &golden_lora,
                                   .adapter = adapter,
                                   .max_rows = MAX_ROWS,
                                   .rows_from = from,
                                   .head_rows = head_rows,
                                   .recompute = head_rows > 0 };
    assert_ok(trainable_open(&t, m, &o, &e));
    read_rows(family, rows);
    pack(p, rows, first_three, 3, false);
    assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
    snprintf(path, sizeof path, "tests/golden/train/%s/lora.json", family);
    double want = number(path, "loss");
    if (!(fabs(loss / p->targets - want) <= tol / 10 * want))
        fail_msg("%s: LoRA loss %.9g, PEFT %.9g", family, loss / p->targets, want);
    snprintf(path, sizeof path, "tests/golden/train/%s/lora_grads.safetensors", family);
    assert_true(compare_grads(t, d, path, tol) > 10);
    trainable_close(t);
    model_close(m);
    free_rows(rows);
    free(p);
}

/* ---- steps ---- */

static inline float global_norm(struct trainable *t, struct device *d)
{
    struct err e = { "" };
    struct tensor *sum;
    float s = 0;
    assert_ok(d->tensor_new(d, &sum, DTYPE_F32, 1, 1, "norm", &e));
    for (size_t i = 0; i < trainable_params(t); i++) {
        const struct tensor *grad = trainable_param(t, i)->grad;
        d->sum_squares(d, sum, 0, &grad, 1);
    }
    assert_ok(d->tensor_read(d, sum, 0, &s, 1, &e));
    d->tensor_free(d, sum);
    return sqrtf(s);
}

/* The first `count` of twenty steps. */
static inline void golden_steps(const char *family, struct device *d, const struct lora_options *lora,
                                const char *steps, int count, float lr, float decay, double tol)
{
    struct err e = { "" };
    struct model *m;
    struct trainable *t;
    struct row rows[ROWS_IN_FILE];
    struct packed *p = xcalloc(1, sizeof *p);
    char path[256], adapter[256];
    const char *f = path;
    int32_t from;
    snprintf(adapter, sizeof adapter, "tests/golden/train/%s/adapter", family);
    assert_ok(model_open(&m, model_of(family, &from), d, &e));
    bool encoder = model_config(m)->encoder;
    struct trainable_options o = {
        .lora = lora, .adapter = lora ? adapter : NULL, .max_rows = MAX_ROWS, .rows_from = from
    };
    assert_ok(trainable_open(&t, m, &o, &e));
    read_rows(family, rows);
    size_t n = trainable_params(t);
    struct adamw_part *part = xcalloc(n, sizeof *part);
    for (size_t i = 0; i < n; i++) {
        struct param *q = trainable_param(t, i);
        part[i] = (struct adamw_part){
            .value = q->value, .grad = q->grad, .n = q->rows * q->cols, .decay = q->matrix ? decay : 0
        };
        assert_ok(d->tensor_new(d, &part[i].m, DTYPE_F32, q->rows, q->cols, "m", &e));
        assert_ok(d->tensor_new(d, &part[i].v, DTYPE_F32, q->rows, q->cols, "v", &e));
    }
    struct rec_reader *in;
    struct rec r;
    snprintf(path, sizeof path, "tests/golden/train/%s/%s", family, steps);
    assert_ok(rec_open(&in, &f, 1, &e));
    for (int step = 0; step < count; step++) {
        int pick[2] = { 2 * step % 8, (2 * step + 1) % 8 };
        double loss, want, want_norm;
        assert_int_equal(rec_read(in, &r, &e), 1);
        assert_ok(rec_real(&r, "loss", &want, &e));
        assert_ok(rec_real(&r, "grad_norm", &want_norm, &e));
        pack(p, rows, pick, 2, encoder);
        trainable_zero(t);
        assert_ok(trainable_pass(t, &p->b, 1.0f / (float)p->targets, &loss, &e));
        float norm = global_norm(t, d);
        if (!(fabs(loss / p->targets - want) <= tol) || !(fabs((double)norm - want_norm) <= 20 * tol * want_norm))
            fail_msg("%s %s step %d: loss %.9g norm %.9g, reference %.9g and %.9g", family, steps, step,
                     loss / p->targets, (double)norm, want, want_norm);
        float clip = norm > 1 ? 1 / (norm + 1e-6f) : 1;
        d->adamw(d, &(struct adamw_args){ part, n, clip, lr, 0.9f, 0.999f, 1e-8f, step + 1 });
        trainable_refresh(t, step + 1);
    }
    rec_close(in);
    for (size_t i = 0; i < n; i++) {
        d->tensor_free(d, part[i].m);
        d->tensor_free(d, part[i].v);
    }
    free(part);
    trainable_close(t);
    model_close(m);
    free_rows(rows);
    free(p);
}

#endif
