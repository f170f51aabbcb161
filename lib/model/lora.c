/* lora.c - low-rank branches: stacked for multiplication, apart as parameters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/learn.h"

double lora_scaling(const struct lora_options *o)
{
    return o->rslora ? o->alpha / sqrt((double)o->rank) : o->alpha / (double)o->rank;
}

/* ---- multiplication ---- */

/* What the branch sees: x itself, or x with dropped elements, the same ones forwards and backwards. */
static const struct tensor *branch_input(struct trainable *t, struct branch *b, const struct tensor *x, int rows,
                                         uint64_t draw)
{
    struct device *d = t->m->d;
    if (!b->room->drop || t->evaluating)
        return x;
    struct rng r = rng_stream(t->o.seed, "dropout", 7, 0);
    d->copy(d, b->room->drop, x, (int64_t)rows * b->in);
    d->dropout(d, b->room->drop, (float)t->lora.dropout, r.key, r.stream, draw, (int64_t)rows * b->in);
    return b->room->drop;
}

void branch_forward(struct trainable *t, struct branch *b, struct tensor *y, const struct tensor *x, int rows,
                    uint64_t draw, bool add)
{
    struct device *d = t->m->d;
    d->linear(d, b->room->h, branch_input(t, b, x, rows, draw), b->aw, NULL, rows, false);
    d->linear(d, y, b->room->h, b->bw, NULL, rows, add);
}

void branch_backward(struct trainable *t, struct branch *b, struct tensor *dx, const struct tensor *dy,
                     const struct tensor *x, int rows, uint64_t draw)
{
    struct device *d = t->m->d;
    const struct tensor *in = branch_input(t, b, x, rows, draw);
    d->hold(d, in, (int64_t)rows * b->in);
    d->linear(d, b->room->h, in, b->aw, NULL, rows, false);
    d->linear_dw(d, b->bg, NULL, dy, b->room->h, rows, (int)b->out, (int)b->rank);
    d->linear_dx(d, b->room->dh, dy, b->bw, rows, false);
    d->linear_dw(d, b->ag, NULL, b->room->dh, in, rows, (int)b->rank, (int)b->in);
    d->let_go(d, in);
    if (!b->room->drop) {
        d->linear_dx(d, dx, b->room->dh, b->aw, rows, true);
        return;
    }
    /* the mask once more, on the gradient: the same draws */
    struct rng r = rng_stream(t->o.seed, "dropout", 7, 0);
    d->linear_dx(d, b->room->drop, b->room->dh, b->aw, rows, false);
    d->dropout(d, b->room->drop, (float)t->lora.dropout, r.key, r.stream, draw, (int64_t)rows * b->in);
    d->add(d, dx, b->room->drop, (int64_t)rows * b->in);
}

/* ---- stacks and parameters: part i of A lies at rows at .. at + r, its B at [first, at] scaled ---- */

/* A copy for each A and B of every branch, from the parameter or its gradient to the stacks or back. */
static struct block_copy *blocks_of_branches(const struct trainable *t, bool grad, size_t *n)
{
    float by = (float)lora_scaling(&t->lora);
    struct block_copy *c = xcalloc(2 * PARAM_PARTS * t->nbranches + 1, sizeof *c);
    *n = 0;
    for (size_t k = 0; k < t->nbranches; k++) {
        const struct branch *b = t->branch[k];
        for (int i = 0, at = 0; i < b->nparts; i++) {
            const struct param *pa = b->a[i], *pb = b->b[i];
            if (!pa)
                continue;
            if (grad) {
                c[(*n)++] = (struct block_copy){ pa->grad, 0, 0, b->ag, at, 0, pa->rows, b->in, 1 };
                c[(*n)++] = (struct block_copy){ pb->grad, 0, 0, b->bg, b->first[i], at, pb->rows, pb->cols, by };
            } else {
                c[(*n)++] = (struct block_copy){ b->av, at, 0, pa->value, 0, 0, pa->rows, b->in, 1 };
                c[(*n)++] = (struct block_copy){ b->bv, b->first[i], at, pb->value, 0, 0, pb->rows, pb->cols, by };
            }
            at += (int)pa->rows;
        }
    }
    return c;
}

void branches_refresh(struct trainable *t)
{
    struct device *d = t->m->d;
    size_t n;
    struct block_copy *c = blocks_of_branches(t, false, &n);
    d->copy_blocks(d, c, n);
    for (size_t i = 0; i < t->nbranches; i++) {
        const struct branch *b = t->branch[i];
        int k = 0;
        while (!b->a[k])
            k++;
        refresh_weight(t, b->aw, b->av, b->a[k]->part[0].name);
        refresh_weight(t, b->bw, b->bv, b->b[k]->part[0].name);
    }
    free(c);
}

void branches_collect(struct trainable *t)
{
    size_t n;
    struct block_copy *c = blocks_of_branches(t, true, &n);
    t->m->d->copy_blocks(t->m->d, c, n);
    free(c);
}

void branch_zero(struct trainable *t, struct branch *b)
{
    struct device *d = t->m->d;
    d->fill(d, b->ag, 0, b->rank * b->in);
    d->fill(d, b->bg, 0, b->out * b->rank);
}

void branch_free(struct trainable *t, struct branch *b)
{
    struct device *d = t->m->d;
    struct tensor *v[] = { b->av, b->bv, b->ag, b->bg };
    if (b->aw)
        d->weight_free(d, b->aw);
    if (b->bw)
        d->weight_free(d, b->bw);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        d->tensor_free(d, v[i]);
    free(b);
}

/* ---- making ---- */

static bool is_target(const char *targets, const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    if (strcmp(targets, "all-linear") == 0)
        return true;
    for (const char *p = targets; *p;) {
        size_t n = strcspn(p, ",");
        if (strlen(last) == n && memcmp(p, last, n) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* Kaiming uniform with a = sqrt(5), as PEFT: U(-1/sqrt(in), 1/sqrt(in)), one stream a tensor. */
static void fresh_a(struct trainable *t, struct param *a)
{
    size_t n = (size_t)(a->rows * a->cols);
    float *v = xreallocarray(NULL, n, sizeof *v), bound = 1 / sqrtf((float)a->cols);
    struct rng r = rng_stream(t->o.seed, a->part[0].name, strlen(a->part[0].name), 0);
    for (size_t i = 0; i < n; i++)
        v[i] = bound * (float)(2 * rng_unit(&r, i) - 1);
    t->m->d->tensor_write(t->m->d, a->value, 0, v, n);
    free(v);
}

/* All layers have the same parts with a branch, and one layer runs at a time: the first makes room for all. */
static int make_room(struct trainable *t, struct branch *b, struct err *e)
{
    struct device *d = t->m->d;
    struct branch_room *r = b->room;
    int64_t rows = t->o.max_rows;
    if (r->h)
        return 0;
    return d->tensor_new(d, &r->h, DTYPE_F32, rows, b->rank, "adapter", e) < 0 ||
                   d->tensor_new(d, &r->dh, DTYPE_F32, rows, b->rank, "adapter", e) < 0 ||
                   (t->lora.dropout > 0 && d->tensor_new(d, &r->drop, DTYPE_F32, rows, b->in, "adapter", e) < 0)
               ? -1
               : 0;
}

void branch_rooms_free(struct trainable *t)
{
    struct device *d = t->m->d;
    for (int s = 0; s < SITES; s++) {
        d->tensor_free(d, t->branch_room[s].h);
        d->tensor_free(d, t->branch_room[s].dh);
        d->tensor_free(d, t->branch_room[s].drop);
    }
}

/* The branch beside one plan item, if any of its parts is a target. */
static int make_branch(struct trainable *t, const struct plan_item *it, struct branch **out, enum site site,
                       struct err *e)
{
    struct branch *b = xcalloc(1, sizeof *b);
    struct device *d = t->m->d;
    int rc = 0;
    *out = NULL;
    b->nparts = it->nparts;
    b->in = it->cols;
    b->room = &t->branch_room[site];
    for (int i = 0; rc == 0 && i < it->nparts; i++) {
        char module[128];
        size_t n = strlen(it->part[i].name) - strlen(".weight");
        snprintf(module, sizeof module, "%.*s", (int)n, it->part[i].name);
        b->first[i] = b->out;
        b->out += it->part[i].rows;
        if (!is_target(t->targets, module))
            continue;
        rc = param_new(t, &b->a[i], t->lora.rank, it->cols, true, e) < 0 ||
                     param_new(t, &b->b[i], it->part[i].rows, t->lora.rank, true, e) < 0
                 ? -1
                 : 0;
        if (rc < 0)
            break;
        b->a[i]->part[0].rows = b->a[i]->rows;
        b->b[i]->part[0].rows = b->b[i]->rows;
        snprintf(b->a[i]->part[0].name, sizeof b->a[i]->part[0].name, "base_model.model.%.90s.lora_A.weight", module);
        snprintf(b->b[i]->part[0].name, sizeof b->b[i]->part[0].name, "base_model.model.%.90s.lora_B.weight", module);
        fresh_a(t, b->a[i]);
        b->rank += t->lora.rank;
    }
    if (rc < 0 || b->rank == 0) {
        branch_free(t, b);
        return rc;
    }
    const struct {
        struct tensor **t;
        int64_t rows, cols;
    } want[] = {
        { &b->av, b->rank, b->in }, { &b->bv, b->out, b->rank }, { &b->ag, b->rank, b->in }, { &b->bg, b->out, b->rank }
    };
    for (size_t i = 0; rc == 0 && i < sizeof want / sizeof *want; i++)
        rc = d->tensor_new(d, want[i].t, DTYPE_F32, want[i].rows, want[i].cols, "adapter", e);
    if (rc == 0)
        rc = make_room(t, b, e);
    if (rc == 0 && (d->weight_from_tensor(d, &b->aw, b->av, "adapter A", e) < 0 ||
                    d->weight_from_tensor(d, &b->bw, b->bv, "adapter B", e) < 0))
        rc = -1;
    if (rc < 0) {
        branch_free(t, b);
        return -1;
    }
    t->branch = xreallocarray(t->branch, t->nbranches + 1, sizeof *t->branch);
    t->branch[t->nbranches++] = b;
    *out = b;
    return 0;
}

/* Is it a matrix of a layer: one that a branch can stand beside? */
static bool is_layer_matrix(const struct model *m, const struct plan_item *it)
{
    return it->weight && it->weight != &m->embed && it->weight != &m->head && it->weight != &m->positions &&
           it->weight != &m->types;
}

static bool is_part_target(const char *targets, const struct plan_item *it, int part)
{
    char module[PLAN_NAME];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(it->part[part].name) - strlen(".weight")),
             it->part[part].name);
    return is_target(targets, module);
}

int lora_check_targets(const struct model_config *c, const char *targets, struct err *e)
{
    struct model m = { .c = *c, .layer = xcalloc((size_t)c->layers, sizeof *m.layer) };
    struct plan p;
    bool found = false;
    plan_make(&p, &m);
    for (size_t i = 0; i < p.n && !found; i++)
        for (int k = 0; k < p.item[i].nparts && is_layer_matrix(&m, &p.item[i]); k++)
            found = found || is_part_target(targets, &p.item[i], k);
    plan_release(&p);
    free(m.layer);
    return found ? 0 : err_set(e, "no matrix of this model is named by the targets %s", targets);
}

void trainable_count(struct model *m, const struct trainable_options *o, struct trainable_counts *out)
{
    const struct lora_options *lora = o->lora;
    struct plan p;
    *out = (struct trainable_counts){ .all = 0 };
    if (o->rows_from)
        out->rows = (m->c.vocab - o->rows_from) * (int64_t)m->c.hidden * (m->c.tied ? 1 : 2);
    plan_make(&p, m);
    for (size_t i = 0; i < p.n; i++) {
        const struct plan_item *it = &p.item[i];
        bool layer = is_layer_matrix(m, it), first = true;
        for (int k = 0; k < it->nparts; k++) {
            int64_t size = it->part[k].rows * (it->weight ? it->cols : 1);
            out->all += size;
            if (!lora) {
                out->trained += size;
            } else if (layer && is_part_target(lora->targets ? lora->targets : "all-linear", it, k)) {
                out->trained += lora->rank * (it->cols + it->part[k].rows);
                out->ranks += lora->rank;
                out->inputs += first ? it->cols : 0;
                first = false;
            }
        }
    }
    out->ranks /= m->c.layers; /* every layer has the same */
    out->inputs /= m->c.layers;
    plan_release(&p);
}

static struct branch **place_of(struct trainable *t, struct weight *const *slot, enum site *at)
{
    for (int i = 0; i < t->m->c.layers; i++) {
        const struct model_layer *l = &t->m->layer[i];
        struct weight *const *site[SITES] = { &l->qkv, &l->o, &l->up, &l->down };
        for (int s = 0; s < SITES; s++)
            if (site[s] == slot) {
                *at = (enum site)s;
                return &t->layer[i].branch[s];
            }
    }
    return NULL;
}

static bool says_something(struct json doc, const char *key)
{
    struct json v;
    bool truth = false;
    if (!json_get(doc, key, &v))
        return false;
    return json_kind(v) == JSON_OBJECT || json_kind(v) == JSON_ARRAY ? json_count(v) > 0
                                                                     : json_bool(v, &truth) && truth;
}

/* A and B alone do not say how much they count: with another alpha a run would begin somewhere else in silence. */
static int check_scaling(const struct trainable *t, const char *dir, struct err *e)
{
    static const char *const unknown[] = { "use_dora", "rank_pattern", "alpha_pattern" };
    struct buf b = BUF_INIT;
    struct json doc, v;
    double alpha = 0;
    char *path = path_join(dir, "adapter_config.json");
    int rc = file_read(&b, path, 64 << 20, e);
    if (rc == 0 && json_parse(&doc, b.s ? b.s : "", b.len, e) < 0)
        rc = err_prefix(e, "%s", path);
    for (size_t i = 0; rc == 0 && i < sizeof unknown / sizeof *unknown; i++)
        if (says_something(doc, unknown[i]))
            rc = err_set(e, "%s: %s: an adapter with it cannot be gone on from", path, unknown[i]);
    if (rc == 0 && (!json_get(doc, "lora_alpha", &v) || !json_double(v, &alpha)))
        rc = err_set(e, "%s: lora_alpha must be a number", path);
    if (rc == 0 && (alpha != t->lora.alpha || says_something(doc, "use_rslora") != t->lora.rslora))
        rc = err_set(e, "%s: lora_alpha is %g%s, asked for is %g%s", path, alpha,
                     says_something(doc, "use_rslora") ? " with rslora" : "", t->lora.alpha,
                     t->lora.rslora ? " with rslora" : "");
    free(path);
    buf_release(&b);
    return rc;
}

/* Values of a saved adapter; every parameter must be in it, in its shape, and nothing else. */
int lora_load(struct trainable *t, const char *dir, struct err *e)
{
    struct safetensors *st;
    char *path = path_join(dir, "adapter_model.safetensors");
    int rc = safetensors_open(&st, path, e);
    /* PEFT keeps an encoder's classifier in the adapter: the base's own */
    if (rc == 0 && safetensors_count(st) != t->nparams &&
        safetensors_count(st) != t->nparams + (t->m->c.encoder ? 2 : 0))
        rc = err_set(e, "%s: %zu tensors, this model with these targets has %zu", path, safetensors_count(st),
                     t->nparams);
    for (size_t i = 0; rc == 0 && i < t->nparams; i++) {
        struct param *p = t->param[i];
        const struct st_tensor *s = safetensors_find(st, p->part[0].name);
        if (!s || s->rank != 2 || s->shape[0] != p->rows || s->shape[1] != p->cols) {
            rc = err_set(
                e, "%s: tensor %s must be there as [%lld, %lld]: the adapter is of another model, rank, target or rows",
                path, p->part[0].name, (long long)p->rows, (long long)p->cols);
            break;
        }
        float *v = xreallocarray(NULL, s->elements, sizeof *v);
        model_floats(v, s, 0, s->elements);
        t->m->d->tensor_write(t->m->d, p->value, 0, v, s->elements);
        free(v);
    }
    if (rc == 0 || st)
        safetensors_close(st);
    free(path);
    return rc == 0 ? check_scaling(t, dir, e) : rc;
}

int params_lora(struct trainable *t, struct err *e)
{
    struct plan p;
    int rc = lora_check_targets(&t->m->c, t->targets, e);
    plan_make(&p, t->m);
    for (size_t i = 0; rc == 0 && i < p.n; i++) {
        enum site site = SITES;
        struct branch **to = p.item[i].weight ? place_of(t, p.item[i].weight, &site) : NULL;
        if (to)
            rc = make_branch(t, &p.item[i], to, site, e);
    }
    plan_release(&p);
    if (rc == 0 && t->o.rows_from)
        rc = params_rows(t, e);
    if (rc == 0 && t->o.adapter)
        rc = lora_load(t, t->o.adapter, e);
    return rc;
}
