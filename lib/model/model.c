/* model.c - opening and closing, the rotation tables, the cache's memory; see model.h. Graphs are in decoder.c and
 * encoder.c. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/parts.h"
#include "model/rope.h"
#include "model/train.h"

/* ---- open ---- */

static int check_sizes(const struct model_config *c, const char *dir, struct err *e)
{
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] >= c->vocab)
            return err_set(e, "%s: stop id %d is outside the vocabulary of %d", dir, c->eos[i], c->vocab);
    if (c->encoder && c->max_positions <= c->position_base)
        return err_set(e, "%s: max_position_embeddings leaves no room for a token", dir);
    return 0;
}

static int load(struct model *m, struct err *e)
{
    struct plan p;
    struct buf problems = BUF_INIT;
    plan_make(&p, m);
    int n = plan_match(&p, m, &problems);
    int rc = n ? model_problems(m->dir, problems.s, n, e) : plan_load(&p, m, e);
    buf_release(&problems);
    plan_release(&p);
    return rc;
}

/* Sizes, but no weights: lib/model/train.h fills them. */
int model_open_blank(struct model **out, const char *dir, struct device *d, struct err *e)
{
    struct model *m = xcalloc(1, sizeof *m);
    *out = NULL;
    m->dir = xstrdup(dir);
    m->d = d;
    if (model_config_read(&m->c, dir, e) == 0 && check_sizes(&m->c, dir, e) == 0) {
        m->layer = xcalloc((size_t)m->c.layers, sizeof *m->layer);
        if (m->c.encoder || model_need_positions(m, 1, e) == 0) {
            *out = m;
            return 0;
        }
    }
    model_close(m);
    return -1;
}

void model_keep_tensor(struct model *m, struct tensor *t)
{
    m->own = xreallocarray(m->own, m->nown + 1, sizeof *m->own);
    m->own[m->nown++] = t;
}

int model_open(struct model **out, const char *dir, struct device *d, struct err *e)
{
    struct model *m = xcalloc(1, sizeof *m);
    *out = NULL;
    m->dir = xstrdup(dir);
    m->d = d;
    if (model_config_read(&m->c, dir, e) < 0 || check_sizes(&m->c, dir, e) < 0 ||
        safetensors_open_dir(&m->st, dir, e) < 0)
        goto failed;
    m->layer = xcalloc((size_t)m->c.layers, sizeof *m->layer);
    if (load(m, e) < 0 || (!m->c.encoder && model_need_positions(m, 1, e) < 0))
        goto failed;
    for (size_t i = 0; safetensors_note(m->st, i); i++)
        log_warn("%s", safetensors_note(m->st, i));
    m->dump = dump_open(m);
    *out = m;
    return 0;
failed:
    model_close(m);
    return -1;
}

static void free_layer(struct device *d, struct model_layer *l)
{
    struct tensor *v[] = { l->norm1,  l->norm1_b, l->qkv_b,   l->o_b,  l->q_norm,
                           l->k_norm, l->norm2,   l->norm2_b, l->up_b, l->down_b };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        d->tensor_free(d, v[i]);
    struct weight *w[] = { l->qkv, l->o, l->up, l->down };
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        if (w[i])
            d->weight_free(d, w[i]);
}

static void free_scratch(struct model *m)
{
    struct model_scratch *s = &m->s;
    struct tensor *v[] = { s->x, s->xn, s->qkv, s->att, s->up, s->act, s->pick, s->row };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        m->d->tensor_free(m->d, v[i]);
    *s = (struct model_scratch){ 0 };
}

void model_close(struct model *m)
{
    if (!m)
        return;
    struct device *d = m->d;
    for (int i = 0; m->layer && i < m->c.layers; i++)
        free_layer(d, &m->layer[i]);
    free(m->layer);
    struct weight *w[] = { m->embed, m->head == m->embed ? NULL : m->head, m->positions, m->types };
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        if (w[i])
            d->weight_free(d, w[i]);
    struct tensor *v[] = { m->head_b, m->norm, m->norm_b, m->cos, m->sin };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        d->tensor_free(d, v[i]);
    for (size_t i = 0; i < m->nown; i++)
        d->tensor_free(d, m->own[i]);
    free(m->own);
    free_scratch(m);
    dump_close(m->dump);
    safetensors_close(m->st);
    model_config_release(&m->c);
    free(m->dir);
    free(m);
}

const struct model_config *model_config(const struct model *m)
{
    return &m->c;
}

struct device *model_device(const struct model *m)
{
    return m->d;
}

const char *model_dir(const struct model *m)
{
    return m->dir;
}

/* ---- rotation tables ----
 * Real contexts have up to 262,144 positions, 130 MB of table, of which few runs see a tenth: rows are made when a
 * cache or a batch may use them. With two lists of frequencies (longrope) the long one's rows begin at max_positions.
 */

static int write_rows(struct model *m, int64_t from, int64_t to, struct err *e)
{
    enum { BLOCK = 1024 };
    size_t half = (size_t)m->c.rotary / 2;
    void *host;
    if (half == 0)
        return 0;
    if (mem_try_zeroed(&host, 2 * BLOCK * half * sizeof(float), "rotation table", e) < 0)
        return -1;
    float *cosines = host, *sines = cosines + BLOCK * half;
    for (int list = 0; list <= (int)m->c.longrope; list++)
        for (int64_t p = from; p < to; p += BLOCK) {
            int64_t n = to - p < BLOCK ? to - p : BLOCK, row = p + (list ? m->c.max_positions : 0);
            model_rope_rows(&m->c, list, p, p + n, cosines, sines);
            m->d->tensor_write(m->d, m->cos, (size_t)row * half, cosines, (size_t)n * half);
            m->d->tensor_write(m->d, m->sin, (size_t)row * half, sines, (size_t)n * half);
        }
    free(host);
    return 0;
}

static int grow_tables(struct model *m, int64_t rows, struct err *e)
{
    struct device *d = m->d;
    int half = m->c.rotary / 2;
    struct tensor *cosines, *sines;
    if (d->tensor_new(d, &cosines, DTYPE_F32, rows, half, "rotation table", e) < 0)
        return -1;
    if (d->tensor_new(d, &sines, DTYPE_F32, rows, half, "rotation table", e) < 0) {
        d->tensor_free(d, cosines);
        return -1;
    }
    d->tensor_free(d, m->cos);
    d->tensor_free(d, m->sin);
    m->cos = cosines;
    m->sin = sines;
    m->table_rows = rows;
    m->table_written = 0;
    return 0;
}

int model_need_positions(struct model *m, int64_t n, struct err *e)
{
    const struct model_config *c = &m->c;
    if (n > c->max_positions)
        n = c->max_positions;
    if (n <= m->table_written)
        return 0;
    int64_t want = 2 * m->table_written > n ? 2 * m->table_written : n;
    want = want < 1024 ? 1024 : want;
    want = want < c->max_positions ? want : c->max_positions;
    int64_t rows = c->longrope ? 2 * c->max_positions : want;
    if (m->table_rows < rows && grow_tables(m, rows, e) < 0)
        return -1;
    if (write_rows(m, m->table_written, want, e) < 0)
        return -1;
    m->table_written = want;
    return 0;
}

int64_t model_rope_offset(const struct model *m, int64_t length)
{
    return m->c.longrope && length > m->c.rope_original ? m->c.max_positions : 0;
}

/* ---- scratch ---- */

enum { ACTIVATIONS = 8 };

struct activation {
    struct tensor **t;
    enum dtype dtype;
    int64_t cols;
};

static void list_activations(const struct model_config *c, struct model_scratch *s, struct activation a[ACTIVATIONS])
{
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    const struct activation all[ACTIVATIONS] = {
        { &s->x, DTYPE_F32, c->hidden },
        { &s->xn, DTYPE_F32, c->hidden },
        { &s->qkv, DTYPE_F32, q + 2 * kv },
        { &s->att, DTYPE_F32, q },
        { &s->up, DTYPE_F32, (c->encoder ? 1 : 2) * (int64_t)c->ffn },
        { &s->act, DTYPE_F32, c->ffn },
        { &s->pick, DTYPE_F32, c->hidden },
        { &s->row, DTYPE_I32, 1 },
    };
    memcpy(a, all, sizeof all);
}

int64_t model_row_bytes(const struct model *m)
{
    struct model_scratch none;
    struct activation a[ACTIVATIONS];
    int64_t bytes = 0, widest = 0;
    list_activations(&m->c, &none, a);
    for (int i = 0; i < ACTIVATIONS; i++) {
        bytes += a[i].cols * (int64_t)dtype_size(a[i].dtype);
        widest = a[i].cols > widest ? a[i].cols : widest;
    }
    /* operands of products and of attention, rounded, in rooms that grow by a quarter more */
    return bytes + (m->d->weight_dtype == DTYPE_BF16 ? 2 * widest * 2 * 5 / 4 : 0);
}

static int check_room(const struct model *m, int rows, struct err *e)
{
    int64_t row = model_row_bytes(m), left = m->d->memory_left(m->d), fit = left / row;
    if (left < 0 || rows <= fit)
        return 0;
    char fitting[80] = "there is no room for a single one: free some, or --device cpu";
    if (fit)
        snprintf(fitting, sizeof fitting, "%lld would fit (a smaller --batch)", (long long)fit);
    return err_set(e, "%s: a pass of %d tokens needs %.1f MiB of the memory of %s, where %.1f MiB are free: %s", m->dir,
                   rows, (double)(rows * row) / 1048576, m->d->name, (double)left / 1048576, fitting);
}

int model_reserve(struct model *m, int max_rows, struct err *e)
{
    struct activation a[ACTIVATIONS];
    if (max_rows <= m->s.rows)
        return 0;
    free_scratch(m);
    if (check_room(m, max_rows, e) < 0)
        return -1;
    list_activations(&m->c, &m->s, a);
    for (int i = 0; i < ACTIVATIONS; i++)
        if (m->d->tensor_new(m->d, a[i].t, a[i].dtype, max_rows, a[i].cols, "activations", e) < 0) {
            free_scratch(m);
            return -1;
        }
    m->s.rows = max_rows;
    return 0;
}

bool model_dumps(const struct model *m)
{
    return m->dump != NULL;
}

/* ---- cache ---- */

/* e4m3 has no number between B and B + B / 8 or so. Where the keys of a layer have a bias far above what the tokens add
 * to it (Qwen2 and Qwen2.5: hundreds in the first and the last layer) that is lost, whatever the scale: the layer keeps
 * bf16. */
enum { FP8_BIAS = 16 };

static enum dtype cache_dtype(const struct model *m, int layer)
{
    enum dtype t = m->d->kv_dtype;
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.self_attn.k_proj.bias", layer);
    const struct st_tensor *bias = t == DTYPE_F8 && m->st ? safetensors_find(m->st, name) : NULL;
    for (uint64_t i = 0; bias && i < bias->elements; i++) {
        float v;
        model_floats(&v, bias, i, 1);
        if (fabsf(v) > FP8_BIAS)
            return DTYPE_BF16;
    }
    return t;
}

size_t kv_page_bytes(const struct model *m)
{
    const struct model_config *c = &m->c;
    size_t n = 0;
    for (int i = 0; i < c->layers; i++)
        n += 2 * KV_PAGE * (size_t)c->kv_heads * (size_t)c->head_dim * dtype_size(cache_dtype(m, i));
    return n;
}

int kv_cache_open(struct kv_cache *kv, const struct model *m, int64_t pages, struct err *e)
{
    const struct model_config *c = &m->c;
    struct device *d = m->d;
    size_t n = (size_t)c->layers;
    *kv = (struct kv_cache){ xcalloc(n, sizeof *kv->k), xcalloc(n, sizeof *kv->v), c->layers, pages };
    /* The table of rotations is the one part of a const model that grows. */
    int64_t most = pages > c->max_positions / KV_PAGE ? c->max_positions : pages * KV_PAGE;
    int rc = model_need_positions((struct model *)(uintptr_t)m, most, e);
    int64_t rows = pages * KV_PAGE, cols = (int64_t)c->kv_heads * c->head_dim;
    int wide = 0;
    for (int i = 0; i < c->layers && rc == 0; i++) {
        enum dtype t = cache_dtype(m, i);
        wide += t != d->kv_dtype;
        if (d->tensor_new(d, &kv->k[i], t, rows, cols, "key-value cache", e) < 0 ||
            d->tensor_new(d, &kv->v[i], t, rows, cols, "key-value cache", e) < 0)
            rc = -1;
    }
    if (wide && rc == 0)
        log_info(
            "%d of %d layers keep keys and values in bf16: the bias of their keys is beyond %d, too much for 8 bits",
            wide, c->layers, FP8_BIAS);
    if (rc < 0)
        kv_cache_close(kv, m);
    return rc;
}

void kv_cache_close(struct kv_cache *kv, const struct model *m)
{
    for (int i = 0; i < kv->layers; i++) {
        m->d->tensor_free(m->d, kv->k[i]);
        m->d->tensor_free(m->d, kv->v[i]);
    }
    free(kv->k);
    free(kv->v);
    *kv = (struct kv_cache){ NULL, NULL, 0, 0 };
}
