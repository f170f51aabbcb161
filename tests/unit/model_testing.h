/* model_testing.h - what the tests of lib/model share: golden folders, plain forward passes, comparison. */
#ifndef LATENT_MODEL_TESTING_H
#define LATENT_MODEL_TESTING_H

#include "unit/test.h"

#include <inttypes.h>
#include <math.h>

#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "kernels/kernels.h"
#include "model/model.h"

static const char *const golden_decoders[] = {
    "qwen3",         "qwen3-untied",  "qwen2",        "qwen2-sharded", "llama3",     "llama3-tied", "phi3",
    "phi3-longrope", "qwen3-sliding", "phi3-sliding", "qwen3-bf16",    "llama-fp16", "llama-bias",  "phi3-partial",
};
enum { GOLDEN_DECODERS = sizeof golden_decoders / sizeof *golden_decoders };
static const char *const test_devices[] = { "cpu", "cpu-oracle" };
enum { TEST_DEVICES = 2 };

struct opened {
    struct device *d;
    struct model *m;
    struct safetensors *golden;
    char name[128]; /* "qwen3 on cpu", for messages */
};

static inline struct opened open_golden(const char *name, const char *device)
{
    struct err e = { "" };
    struct opened o = { 0 };
    char path[512];
    snprintf(o.name, sizeof o.name, "%s on %s", name, device);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    assert_ok(device_open(&o.d, device, 2, &e));
    assert_ok(model_open(&o.m, path, o.d, &e));
    snprintf(path, sizeof path, "tests/golden/models/%s/golden/logits.safetensors", name);
    assert_ok(safetensors_open(&o.golden, path, &e));
    return o;
}

static inline void close_golden(struct opened *o)
{
    model_close(o->m);
    device_close(o->d);
    safetensors_close(o->golden);
}

static inline struct tensor *ints(struct device *d, const int32_t *v, int n)
{
    struct err e = { "" };
    struct tensor *t;
    assert_ok(d->tensor_new(d, &t, DTYPE_I32, 1, n, "test", &e));
    d->tensor_write(d, t, 0, v, (size_t)n);
    return t;
}

static inline struct tensor *floats(struct device *d, int64_t rows, int64_t cols)
{
    struct err e = { "" };
    struct tensor *t;
    assert_ok(d->tensor_new(d, &t, DTYPE_F32, rows, cols, "test", &e));
    return t;
}

static inline float *read_floats(struct device *d, const struct tensor *t, size_t n)
{
    struct err e = { "" };
    float *p = xcalloc(n + 1, sizeof *p);
    assert_ok(d->tensor_read(d, t, 0, p, n, &e));
    return p;
}

/* golden I64 ids as int32; caller frees */
static inline int32_t *golden_ids(const struct safetensors *st, const char *name, int *n)
{
    const struct st_tensor *t = safetensors_find(st, name);
    assert_non_null(t);
    *n = (int)t->elements;
    int32_t *ids = xcalloc((size_t)*n + 1, sizeof *ids);
    for (int i = 0; i < *n; i++) {
        int64_t v;
        memcpy(&v, (const char *)t->data + 8 * i, 8);
        ids[i] = (int32_t)v;
    }
    return ids;
}

/* |got - want| <= rtol * max|want|, NaN fails */
static inline void compare(const char *model, const char *name, const float *got, const struct st_tensor *want,
                           double rtol)
{
    double most = 0, worst = 0;
    for (uint64_t i = 0; i < want->elements; i++) {
        float w;
        memcpy(&w, (const char *)want->data + 4 * i, 4);
        most = fmax(most, fabs((double)w));
    }
    for (uint64_t i = 0; i < want->elements; i++) {
        float w;
        memcpy(&w, (const char *)want->data + 4 * i, 4);
        double diff = fabs((double)got[i] - (double)w);
        worst = fmax(worst, diff);
        if (!(diff <= rtol * most))
            fail_msg("%s: %s[%" PRIu64 "] got %.9g want %.9g, worst allowed %.3g", model, name, i, (double)got[i],
                     (double)w, rtol * most);
    }
    if (getenv("LATENT_TEST_VERBOSE"))
        printf("# %s %s: %.2e of max\n", model, name, worst / most);
}

/* A pass without a cache over sequences packed behind each other; logits of all rows. Caller frees. */
static inline float *varlen_logits(const struct opened *o, const int32_t *ids, const int32_t *len, int nseq)
{
    const struct model_config *c = model_config(o->m);
    int rows = 0;
    int32_t *begin = xcalloc((size_t)nseq + 1, sizeof *begin);
    for (int s = 0; s < nseq; s++)
        begin[s + 1] = rows += len[s];
    int32_t *pos = xcalloc((size_t)rows + 1, sizeof *pos);
    for (int s = 0; s < nseq; s++)
        for (int i = 0; i < len[s]; i++)
            pos[begin[s] + i] = c->encoder ? c->position_base + i : (int32_t)(i + model_rope_offset(o->m, len[s]));
    int cols = c->encoder ? c->labels : c->vocab;
    struct tensor *t[4] = { ints(o->d, ids, rows), ints(o->d, pos, rows), ints(o->d, begin, nseq + 1),
                            floats(o->d, rows, cols) };
    struct model_varlen b = { .rows = rows, .nseq = nseq, .ids = t[0], .table_row = t[1], .begin = t[2] };
    model_forward_varlen(o->m, &b);
    model_logits(o->m, t[3], NULL, rows);
    float *out = read_floats(o->d, t[3], (size_t)rows * (size_t)cols);
    for (int i = 0; i < 4; i++)
        o->d->tensor_free(o->d, t[i]);
    free(begin);
    free(pos);
    return out;
}

/* A sequence growing in a cache: feed() adds tokens and returns the logits of all added rows. The pages of the cache
 * are handed out backwards, so that a pass that ignores the page table is found out. */
struct sequence {
    const struct opened *o;
    struct kv_cache kv;
    struct tensor *pages, *slot;
    int32_t *page;
    int npages, n;
    int64_t offset; /* into the rotation table */
};

static inline void sequence_open(struct sequence *s, const struct opened *o, int most, int64_t offset)
{
    struct err e = { "" };
    const int32_t slot = 1;
    *s = (struct sequence){ .o = o, .npages = (most + KV_PAGE - 1) / KV_PAGE, .offset = offset };
    assert_ok(kv_cache_open(&s->kv, o->m, s->npages + 1, &e));
    s->page = xcalloc(2 * (size_t)s->npages, sizeof *s->page); /* two slots; ours is the second */
    for (int i = 0; i < s->npages; i++)
        s->page[s->npages + i] = s->npages - i;
    assert_ok(o->d->tensor_new(o->d, &s->pages, DTYPE_I32, 2, s->npages, "test", &e));
    o->d->tensor_write(o->d, s->pages, 0, s->page, 2 * (size_t)s->npages);
    s->slot = ints(o->d, &slot, 1);
}

static inline void sequence_close(struct sequence *s)
{
    kv_cache_close(&s->kv, s->o->m);
    s->o->d->tensor_free(s->o->d, s->pages);
    s->o->d->tensor_free(s->o->d, s->slot);
    free(s->page);
}

static inline float *feed(struct sequence *s, const int32_t *ids, int rows)
{
    struct device *d = s->o->d;
    int vocab = model_config(s->o->m)->vocab;
    int32_t *row = xcalloc(2 * (size_t)rows, sizeof *row), begin[2] = { 0, rows }, context = s->n + rows;
    for (int i = 0; i < rows; i++) {
        int p = s->n + i;
        row[i] = (int32_t)(p + s->offset);
        row[rows + i] = s->page[s->npages + p / KV_PAGE] * KV_PAGE + p % KV_PAGE;
    }
    struct tensor *t[6] = { ints(d, ids, rows), ints(d, row, rows),   ints(d, row + rows, rows),
                            ints(d, begin, 2),  ints(d, &context, 1), floats(d, rows, vocab) };
    struct model_batch b = { .rows = rows,
                             .nseq = 1,
                             .ids = t[0],
                             .table_row = t[1],
                             .cache_row = t[2],
                             .page_table = s->pages,
                             .seq_slot = s->slot,
                             .q_begin = t[3],
                             .context = t[4],
                             .logit_rows = rows,
                             .logits = t[5] };
    model_forward(s->o->m, &s->kv, &b);
    float *out = read_floats(d, t[5], (size_t)rows * (size_t)vocab);
    for (int i = 0; i < 6; i++)
        d->tensor_free(d, t[i]);
    free(row);
    s->n += rows;
    return out;
}

#endif
