/* params.c - the parameters of full training: every tensor of the plan, in F32, in place of the mapped one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/learn.h"

int param_new(struct trainable *t, struct param **out, int64_t rows, int64_t cols, bool matrix, struct err *e)
{
    struct device *d = t->m->d;
    struct param *p = xcalloc(1, sizeof *p);
    *p = (struct param){ .rows = rows, .cols = cols, .matrix = matrix, .nparts = 1 };
    t->param = xreallocarray(t->param, t->nparams + 1, sizeof *t->param);
    t->param[t->nparams++] = p; /* whatever fails now is freed with t */
    *out = p;
    return d->tensor_new(d, &p->value, DTYPE_F32, rows, cols, "parameters", e) < 0 ||
                   d->tensor_new(d, &p->grad, DTYPE_F32, rows, cols, "gradients", e) < 0
               ? -1
               : 0;
}

/* Which gradient belongs to which member of the model. */
static struct tensor **grad_place(struct trainable *t, const struct plan_item *it)
{
    struct model *m = t->m;
    const struct {
        const void *slot;
        struct tensor **grad;
    } own[] = { { &m->embed, &t->embed },  { &m->head, &t->head },     { &m->positions, &t->positions },
                { &m->types, &t->types },  { &m->head_b, &t->head_b }, { &m->norm, &t->norm },
                { &m->norm_b, &t->norm_b } };
    const void *slot = it->weight ? (const void *)it->weight : (const void *)it->vector;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (own[i].slot == slot)
            return own[i].grad;
    for (int i = 0; i < m->c.layers; i++) {
        struct model_layer *l = &m->layer[i];
        struct layer_grads *g = &t->layer[i];
        const struct {
            const void *slot;
            struct tensor **grad;
        } of[] = { { &l->qkv, &g->w[SITE_QKV] },   { &l->o, &g->w[SITE_O] },         { &l->up, &g->w[SITE_UP] },
                   { &l->down, &g->w[SITE_DOWN] }, { &l->qkv_b, &g->b[SITE_QKV] },   { &l->o_b, &g->b[SITE_O] },
                   { &l->up_b, &g->b[SITE_UP] },   { &l->down_b, &g->b[SITE_DOWN] }, { &l->norm1, &g->norm1 },
                   { &l->norm1_b, &g->norm1_b },   { &l->norm2, &g->norm2 },         { &l->norm2_b, &g->norm2_b },
                   { &l->q_norm, &g->q_norm },     { &l->k_norm, &g->k_norm } };
        for (size_t k = 0; k < sizeof of / sizeof *of; k++)
            if (of[k].slot == slot)
                return of[k].grad;
    }
    return NULL;
}

/* What transformers would start from: matrices normal, norms 1, biases 0. */
static void initial_values(const struct trainable *t, const struct plan_item *it, int part, float *v, size_t n)
{
    const char *name = it->part[part].name;
    bool bias = strstr(name, "bias") != NULL, norm = it->vector && !bias;
    struct rng r = rng_stream(t->o.seed, name, strlen(name), 0);
    for (size_t i = 0; i < n; i++)
        v[i] = bias ? 0 : norm ? 1 : t->m->c.initializer_range * (float)rng_normal(&r, i);
}

static int fill_values(struct trainable *t, const struct plan_item *it, struct param *p)
{
    size_t at = 0;
    for (int i = 0; i < it->nparts; i++) {
        size_t n = (size_t)it->part[i].rows * (size_t)(it->vector ? 1 : it->cols);
        float *v = xreallocarray(NULL, n, sizeof *v);
        if (it->part[i].found)
            model_floats(v, it->part[i].found, 0, n);
        else
            initial_values(t, it, i, v, n);
        t->m->d->tensor_write(t->m->d, p->value, at, v, n);
        free(v);
        at += n;
        p->part[i].rows = it->part[i].rows;
        strcpy(p->part[i].name, it->part[i].name);
    }
    p->nparts = it->nparts;
    return 0;
}

static int make_param(struct trainable *t, const struct plan_item *it, struct err *e)
{
    struct device *d = t->m->d;
    struct param *p;
    int64_t rows = 0;
    for (int i = 0; i < it->nparts; i++)
        rows += it->part[i].rows;
    if (param_new(t, &p, it->weight ? rows : 1, it->weight ? it->cols : rows, it->weight != NULL, e) < 0)
        return -1;
    fill_values(t, it, p);
    struct tensor **grad = grad_place(t, it);
    if (grad)
        *grad = p->grad;
    if (it->vector) { /* the model's own tensor becomes the parameter's */
        d->tensor_free(d, *it->vector);
        *it->vector = p->value;
        return 0;
    }
    struct weight **slot = it->weight;
    if (!slot)
        return err_set(e, "plan item %s has no place", it->part[0].name);
    if (*slot)
        d->weight_free(d, *slot);
    *slot = NULL;
    return d->weight_from_tensor(d, slot, p->value, it->part[0].name, e);
}

int params_full(struct trainable *t, struct err *e)
{
    struct plan p;
    struct buf problems = BUF_INIT;
    int rc = 0;
    plan_make(&p, t->m);
    if (t->m->st && plan_match(&p, t->m, &problems) > 0)
        rc = err_set(e, "%s: %s", t->m->dir, problems.s);
    for (size_t i = 0; rc == 0 && i < p.n; i++)
        rc = make_param(t, &p.item[i], e);
    if (t->m->c.tied)
        t->m->head = t->m->embed;
    plan_release(&p);
    buf_release(&problems);
    return rc;
}
