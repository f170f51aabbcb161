/* decoder.c - the graph of Qwen2, Qwen3, Llama and Phi-3, once for passes through a cache and once-over passes without
 * one. Pre-norm: h += Attn(norm(h)); h += MLP(norm(h)). Facts: formats specification, section 5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "model/model.h"
#include "model/parts.h"

/* What differs between a pass through a cache (b, kv) and one without (v). */
struct pass {
    int rows;
    const struct tensor *ids, *table_row;
    struct kv_cache *kv;
    const struct model_batch *b;
    const struct model_varlen *v;
};

/* Passes cannot fail; a caller that may run out of memory reserves beforehand (model.h): not to have done so is a bug.
 */
static void need_rows(struct model *m, int rows)
{
    struct err e = { "" };
    if (model_reserve(m, rows, &e) < 0) {
        fprintf(stderr, "latent: %s\n", e.msg);
        abort();
    }
}

static void attend(struct model *m, const struct pass *p, int layer)
{
    const struct model_config *c = &m->c;
    float scale = (float)(1 / sqrt((double)c->head_dim));
    if (p->b)
        m->d->attend(m->d, &(struct attend_args){ .out = m->s.att,
                                                  .qkv = m->s.qkv,
                                                  .k = p->kv->k[layer],
                                                  .v = p->kv->v[layer],
                                                  .page_table = p->b->page_table,
                                                  .seq_slot = p->b->seq_slot,
                                                  .q_begin = p->b->q_begin,
                                                  .context = p->b->context,
                                                  .nseq = p->b->nseq,
                                                  .rows = p->rows,
                                                  .heads = c->heads,
                                                  .kv_heads = c->kv_heads,
                                                  .head_dim = c->head_dim,
                                                  .scale = scale,
                                                  .window = c->window[layer],
                                                  .longest = p->b->longest,
                                                  .singles = p->b->singles });
    else
        m->d->attend_varlen(m->d, &(struct attend_varlen_args){ .out = m->s.att,
                                                                .qkv = m->s.qkv,
                                                                .begin = p->v->begin,
                                                                .nseq = p->v->nseq,
                                                                .rows = p->rows,
                                                                .heads = c->heads,
                                                                .kv_heads = c->kv_heads,
                                                                .head_dim = c->head_dim,
                                                                .scale = scale,
                                                                .window = c->window[layer],
                                                                .causal = true });
}

static void attention(struct model *m, const struct pass *p, int layer)
{
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    struct device *d = m->d;
    struct model_scratch *s = &m->s;
    d->rmsnorm(d, s->xn, s->x, l->norm1, c->eps, p->rows, c->hidden);
    d->linear(d, s->qkv, s->xn, l->qkv, l->qkv_b, p->rows, false);
    d->rope(d, &(struct rope_args){ .qkv = s->qkv,
                                    .q_norm = l->q_norm,
                                    .k_norm = l->k_norm,
                                    .eps = c->eps,
                                    .cos = m->cos,
                                    .sin = m->sin,
                                    .table_row = p->table_row,
                                    .rows = p->rows,
                                    .heads = c->heads,
                                    .kv_heads = c->kv_heads,
                                    .head_dim = c->head_dim,
                                    .rotary = c->rotary,
                                    .k_cache = p->kv ? p->kv->k[layer] : NULL,
                                    .v_cache = p->kv ? p->kv->v[layer] : NULL,
                                    .cache_row = p->b ? p->b->cache_row : NULL });
    attend(m, p, layer);
    d->linear(d, s->x, s->att, l->o, l->o_b, p->rows, true);
    dump_tensor(m->dump, "attention", layer + 1, s->x, p->rows);
}

static void mlp(struct model *m, const struct pass *p, int layer)
{
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    struct device *d = m->d;
    struct model_scratch *s = &m->s;
    d->rmsnorm(d, s->xn, s->x, l->norm2, c->eps, p->rows, c->hidden);
    d->linear(d, s->up, s->xn, l->up, l->up_b, p->rows, false);
    d->silu_mul(d, s->act, s->up, p->rows, c->ffn);
    d->linear(d, s->x, s->act, l->down, l->down_b, p->rows, true);
    dump_tensor(m->dump, "hidden", layer + 1, s->x, p->rows);
}

static void layers(struct model *m, const struct pass *p)
{
    m->d->embed(m->d, m->s.x, m->embed, p->ids, p->rows);
    dump_tensor(m->dump, "hidden", 0, m->s.x, p->rows);
    for (int i = 0; i < m->c.layers; i++) {
        attention(m, p, i);
        mlp(m, p, i);
    }
}

void model_forward(struct model *m, struct kv_cache *kv, const struct model_batch *b)
{
    struct device *d = m->d;
    int n = b->logit_rows;
    need_rows(m, b->rows);
    m->varlen_rows = 0;
    layers(m, &(struct pass){ .rows = b->rows, .ids = b->ids, .table_row = b->table_row, .kv = kv, .b = b });
    if (n > 0) {
        const struct tensor *x = m->s.x;
        if (b->logit_index) {
            d->gather_rows(d, m->s.pick, x, b->logit_index, n, m->c.hidden);
            x = m->s.pick;
        }
        d->rmsnorm(d, m->s.xn, x, m->norm, m->c.eps, n, m->c.hidden);
        dump_tensor(m->dump, "norm", -1, m->s.xn, n);
        if (b->nblocks == 0)
            d->linear(d, b->logits, m->s.xn, m->head, NULL, n, false);
        for (int i = 0; i < b->nblocks; i++)
            d->linear_block(d, b->logits, m->s.xn, m->head, b->block[i].row, b->block[i].rows, b->block[i].col,
                            b->block[i].cols);
        dump_tensor(m->dump, "logits", -1, b->logits, n);
    } else if (b->keep) {
        d->rmsnorm(d, m->s.xn, m->s.x, m->norm, m->c.eps, b->rows, m->c.hidden);
        dump_tensor(m->dump, "norm", -1, m->s.xn, b->rows);
        m->varlen_rows = b->rows;
    }
    dump_write(m->dump);
}

void model_forward_varlen(struct model *m, const struct model_varlen *b)
{
    need_rows(m, b->rows);
    m->varlen_rows = b->rows;
    if (m->c.encoder) {
        encoder_forward(m, b);
    } else {
        struct err e = { "" };
        if (model_need_positions(m, b->rows, &e) < 0) {
            fprintf(stderr, "latent: %s\n", e.msg);
            abort();
        }
        layers(m, &(struct pass){ .rows = b->rows, .ids = b->ids, .table_row = b->table_row, .v = b });
        m->d->rmsnorm(m->d, m->s.xn, m->s.x, m->norm, m->c.eps, b->rows, m->c.hidden);
        dump_tensor(m->dump, "norm", -1, m->s.xn, b->rows);
    }
    dump_write(m->dump);
}

void model_logits(struct model *m, struct tensor *logits, const struct tensor *index, int n)
{
    struct device *d = m->d;
    const struct tensor *x = m->c.encoder ? m->s.x : m->s.xn;
    if (n > m->varlen_rows && !index) {
        fprintf(stderr, "latent: bug: model_logits: %d rows of %d\n", n, m->varlen_rows);
        abort();
    }
    if (index) {
        d->gather_rows(d, m->s.pick, x, index, n, m->c.hidden);
        x = m->s.pick;
    }
    d->linear(d, logits, x, m->head, m->head_b, n, false);
    dump_tensor(m->dump, "logits", -1, logits, n);
    dump_write(m->dump);
}
