/* split.c - the last rows of embedding and head learn beside adapters, the rows before them stay as they are.
 *
 * Both matrices lie in two parts: the checkpoint's first rows, which nothing here can write to, and the parameter. A
 * row of the embedding comes from the part that its id is in; logits are two products side by side. An element of a
 * product is one chain of sums over its own row, so splitting changes no logit. With tied weights both ends read and
 * teach one parameter. The checkpoint's matrix as a whole is not used, and freed: it may lie on a device already. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/learn.h"

static const char embed_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";

/* ---- opening and closing ---- */

/* PEFT's name for trainable tokens of the module whose weight this is. */
static int open_split(struct trainable *t, struct split *s, const char *name, struct err *e)
{
    struct device *d = t->m->d;
    const struct model_config *c = &t->m->c;
    const struct st_tensor *st = safetensors_find(t->m->st, name);
    int64_t first = t->o.rows_from, rows = c->vocab - first;
    if (!st)
        return err_set(e, "%s: no tensor %s", t->m->dir, name);
    struct weight_part base = { .host = st->data,
                                .dtype = st->dtype == ST_F32    ? DTYPE_F32
                                         : st->dtype == ST_BF16 ? DTYPE_BF16
                                                                : DTYPE_F16,
                                .rows = first };
    if (param_new(t, &s->param, rows, c->hidden, true, e) < 0)
        return -1;
    snprintf(s->param->part[0].name, sizeof s->param->part[0].name,
             "base_model.model.%.*s.token_adapter.trainable_tokens_delta", (int)(strlen(name) - strlen(".weight")),
             name);
    s->param->part[0].rows = rows;
    size_t n = (size_t)(rows * c->hidden);
    float *v = xreallocarray(NULL, n, sizeof *v);
    model_floats(v, st, (uint64_t)(first * c->hidden), n);
    d->tensor_write(d, s->param->value, 0, v, n);
    free(v);
    return d->weight_new(d, &s->base, &base, 1, c->hidden, name, e) < 0 ||
                   d->weight_from_tensor(d, &s->own, s->param->value, name, e) < 0
               ? -1
               : 0;
}

int params_rows(struct trainable *t, struct err *e)
{
    const struct model_config *c = &t->m->c;
    struct device *d = t->m->d;
    int64_t first = t->o.rows_from, head = t->o.head_rows;
    if (c->encoder || !t->m->st || first <= 0 || first >= c->vocab)
        return err_set(e, "rows from %lld on cannot be trained apart: the model has %d, and must be a decoder",
                       (long long)first, c->vocab);
    d->weight_free(d, t->m->embed);
    if (!c->tied)
        d->weight_free(d, t->m->head);
    t->m->embed = t->m->head = NULL;
    if (open_split(t, &t->split_embed, embed_name, e) < 0 ||
        (!c->tied && open_split(t, &t->split_head, head_name, e) < 0))
        return -1;
    return d->tensor_new(d, &t->base_logits, DTYPE_F32, head, first, "logits", e) < 0 ||
                   d->tensor_new(d, &t->own_logits, DTYPE_F32, head, c->vocab - first, "logits", e) < 0 ||
                   d->tensor_new(d, &t->part_ids, DTYPE_I32, t->o.max_rows, 1, "ids", e) < 0 ||
                   d->tensor_new(d, &t->part_at, DTYPE_I32, t->o.max_rows, 1, "ids", e) < 0
               ? -1
               : 0;
}

static void close_split(struct device *d, struct split *s)
{
    if (s->base)
        d->weight_free(d, s->base);
    if (s->own)
        d->weight_free(d, s->own);
}

void split_close(struct trainable *t)
{
    struct tensor *v[] = { t->base_logits, t->own_logits, t->part_ids, t->part_at };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        t->m->d->tensor_free(t->m->d, v[i]);
    close_split(t->m->d, &t->split_embed);
    close_split(t->m->d, &t->split_head);
}

void split_refresh(struct trainable *t)
{
    struct split *s[] = { &t->split_embed, &t->split_head };
    for (int i = 0; i < 2; i++)
        if (s[i]->param)
            refresh_weight(t, s[i]->own, s[i]->param->value, s[i]->param->part[0].name);
}

static struct split *head_of(struct trainable *t)
{
    return t->m->c.tied ? &t->split_embed : &t->split_head;
}

/* ---- embedding ---- */

/* Rows of the pass whose ids are in one of the two parts, and their rows of that part; how many. */
static int write_part(struct trainable *t, const struct train_batch *b, bool own)
{
    struct device *d = t->m->d;
    int32_t first = t->o.rows_from, *id = xcalloc(2 * (size_t)b->rows + 1, sizeof *id), *at = id + b->rows;
    int n = 0;
    for (int i = 0; i < b->rows; i++)
        if ((b->ids[i] >= first) == own) {
            id[n] = b->ids[i] - (own ? first : 0);
            at[n++] = i;
        }
    d->tensor_write(d, t->part_ids, 0, id, (size_t)n);
    d->tensor_write(d, t->part_at, 0, at, (size_t)n);
    free(id);
    return n;
}

void split_embed(struct trainable *t, const struct train_batch *b)
{
    struct device *d = t->m->d;
    int hidden = t->m->c.hidden;
    d->fill(d, t->stream, 0, (int64_t)b->rows * hidden);
    for (int own = 0; own < 2; own++) {
        int n = write_part(t, b, own);
        if (n == 0)
            continue;
        d->embed(d, t->dxn, own ? t->split_embed.own : t->split_embed.base, t->part_ids, n);
        d->scatter_rows(d, t->stream, t->dxn, t->part_at, n, hidden);
    }
}

void split_embed_backward(struct trainable *t, const struct train_batch *b)
{
    struct device *d = t->m->d;
    int hidden = t->m->c.hidden, n = write_part(t, b, true);
    if (n == 0)
        return;
    d->gather_rows(d, t->dxn, t->dx, t->part_at, n, hidden);
    d->embed_backward(d, t->split_embed.param->grad, t->dxn, t->part_ids, n, hidden);
}

/* ---- head ---- */

void split_logits(struct trainable *t, int n)
{
    struct device *d = t->m->d;
    const struct split *s = head_of(t);
    int64_t first = t->o.rows_from, rows = s->param->rows;
    d->linear(d, t->base_logits, t->hn, s->base, NULL, n, false);
    d->linear(d, t->own_logits, t->hn, s->own, NULL, n, false);
    const struct block_copy both[] = { { t->logits, 0, 0, t->base_logits, 0, 0, n, first, 1 },
                                       { t->logits, 0, first, t->own_logits, 0, 0, n, rows, 1 } };
    d->copy_blocks(d, both, 2);
}

void split_logits_backward(struct trainable *t, int n)
{
    struct device *d = t->m->d;
    const struct split *s = head_of(t);
    int64_t first = t->o.rows_from, rows = s->param->rows;
    const struct block_copy both[] = { { t->base_logits, 0, 0, t->logits, 0, 0, n, first, 1 },
                                       { t->own_logits, 0, 0, t->logits, 0, first, n, rows, 1 } };
    d->copy_blocks(d, both, 2);
    d->linear_dx(d, t->dhn, t->base_logits, s->base, n, false);
    d->linear_dx(d, t->dhn, t->own_logits, s->own, n, true);
    d->linear_dw(d, s->param->grad, NULL, t->own_logits, t->hn, n, (int)rows, t->m->c.hidden);
}

/* ---- taking out ---- */

int split_overlay(struct trainable *t, const char *name, float *values, struct err *e)
{
    const struct split *s = strcmp(name, embed_name) == 0  ? &t->split_embed
                            : strcmp(name, head_name) == 0 ? &t->split_head
                                                           : NULL;
    if (!s || !s->param)
        return 0;
    const struct param *p = s->param;
    return t->m->d->tensor_read(t->m->d, p->value, 0, values + (size_t)t->o.rows_from * (size_t)p->cols,
                                (size_t)(p->rows * p->cols), e);
}
