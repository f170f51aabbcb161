/* infer_util.h - golden models, their greedy continuations and a way to run requests, for the engine's tests. */
#ifndef LATENT_INFER_UTIL_H
#define LATENT_INFER_UTIL_H

#include "base/file.h"
#include "base/json.h"
#include "infer/engine.h"
#include "io/hash.h"

enum { MOST_CASES = 8, MOST_IDS = 512 };

struct greedy_case {
    int32_t prompt[MOST_IDS], out[MOST_IDS];
    int n_prompt, n_out;
};

struct opened {
    struct device *d;
    struct model *m;
};

static inline int greedy_ids(struct json line, const char *key, int32_t *out)
{
    struct json list, v;
    int64_t id;
    int n = 0;
    assert_true(json_get(line, key, &list));
    for (struct json_iter it = json_each(list); json_next(&it, NULL, &v); n++) {
        assert_true(n < MOST_IDS && json_int(v, &id));
        out[n] = (int32_t)id;
    }
    return n;
}

static inline int greedy_load_file(const char *path, struct greedy_case *c)
{
    struct err e;
    struct buf text = BUF_INIT;
    assert_ok(file_read(&text, path, 0, &e));
    int n = 0;
    for (char *p = text.s, *end; (end = strchr(p, '\n')); p = end + 1) {
        struct json line;
        assert_ok(json_parse(&line, p, (size_t)(end - p), &e));
        assert_true(n < MOST_CASES);
        c[n].n_prompt = greedy_ids(line, "ids", c[n].prompt);
        c[n].n_out = greedy_ids(line, "out", c[n].out);
        n++;
    }
    buf_release(&text);
    return n;
}

static inline int greedy_load(const char *model, struct greedy_case *c)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/models/%s/golden/greedy.jsonl", model);
    return greedy_load_file(path, c);
}

static inline struct opened open_dir(const char *device, const char *dir, int threads)
{
    struct err e;
    struct opened o;
    assert_ok(device_open(&o.d, device, threads, &e));
    assert_ok(model_open(&o.m, dir, o.d, &e));
    return o;
}

/* On a device that is open, which close_opened closes. */
static inline struct opened open_golden_on(struct device *d, const char *model)
{
    struct err e;
    struct opened o = { .d = d };
    char dir[256];
    snprintf(dir, sizeof dir, "tests/golden/models/%s", model);
    assert_ok(model_open(&o.m, dir, d, &e));
    return o;
}

static inline struct opened open_golden(const char *device, const char *model, int threads)
{
    struct err e;
    struct device *d;
    assert_ok(device_open(&d, device, threads, &e));
    return open_golden_on(d, model);
}

static inline void close_opened(struct opened *o)
{
    model_close(o->m);
    device_close(o->d);
}

/* Submits all at once and returns results by request and sample: results[i] has the samples of q[i] in order. */
static inline struct engine_stats run_all(struct model *m, const struct engine_options *o, struct gen_request *q, int n,
                                          struct gen_result **results)
{
    struct err e;
    struct engine *g;
    struct gen_result r;
    int got;
    assert_ok(engine_open(&g, m, o, &e));
    for (int i = 0; i < n; i++) {
        results[i] = xcalloc((size_t)q[i].n_samples, sizeof **results);
        q[i].user = &results[i];
        assert_ok(engine_submit(g, &q[i], &e));
    }
    while ((got = engine_next(g, &r, &e)) > 0) {
        struct gen_result **of = r.user;
        (*of)[r.sample_index] = r;
    }
    if (got < 0)
        fail_msg("%s", e.msg);
    struct engine_stats s = engine_stats(g);
    assert_true(s.kv_peak <= s.kv_limit && (!o->kv_memory || s.kv_limit <= o->kv_memory));
    engine_close(g);
    return s;
}

static inline void release_all(const struct gen_request *q, int n, struct gen_result **results)
{
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < q[i].n_samples; k++)
            gen_result_release(&results[i][k]);
        free(results[i]);
    }
}

/* One hash over everything that results promise. */
static inline struct hash128 hash_results(const struct gen_request *q, int n, struct gen_result **results)
{
    struct hasher *h = hasher_new();
    for (int i = 0; i < n; i++)
        for (int k = 0; k < q[i].n_samples; k++) {
            const struct gen_result *r = &results[i][k];
            const int32_t head[] = { i, r->sample_index, r->n, (int32_t)r->finish, r->stop_id, r->n_prompt };
            hasher_add(h, head, sizeof head);
            hasher_add(h, r->ids, (size_t)r->n * sizeof *r->ids);
            if (r->logprobs)
                hasher_add(h, r->logprobs, (size_t)r->n * sizeof *r->logprobs);
        }
    struct hash128 sum = hasher_get(h);
    hasher_free(h);
    return sum;
}

#endif
