/* encoder.c - the graph of XLM-RoBERTa and BERT: post-norm, bidirectional. a = LN(x + dense(attn(x)));
 * x = LN(a + dense(gelu(dense(a)))). Facts: formats specification, section 6. */
#include <math.h>

#include "model/model.h"
#include "model/parts.h"

static void embeddings(struct model *m, const struct model_varlen *b)
{
    struct device *d = m->d;
    struct model_scratch *s = &m->s;
    d->embed(d, s->xn, m->embed, b->ids, b->rows);
    d->add_row(d, s->xn, m->types, s->row, b->rows); /* every token is of type 0 */
    d->add_row(d, s->xn, m->positions, b->table_row, b->rows);
    d->layernorm(d, s->x, s->xn, m->norm, m->norm_b, m->c.eps, b->rows, m->c.hidden);
    dump_tensor(m->dump, "hidden", 0, s->x, b->rows);
}

static void layer(struct model *m, const struct model_varlen *b, int i)
{
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[i];
    struct device *d = m->d;
    struct model_scratch *s = &m->s;
    d->linear(d, s->qkv, s->x, l->qkv, l->qkv_b, b->rows, false);
    d->attend_varlen(d, &(struct attend_varlen_args){ .out = s->att,
                                                      .qkv = s->qkv,
                                                      .begin = b->begin,
                                                      .nseq = b->nseq,
                                                      .rows = b->rows,
                                                      .heads = c->heads,
                                                      .kv_heads = c->kv_heads,
                                                      .head_dim = c->head_dim,
                                                      .scale = (float)(1 / sqrt((double)c->head_dim)),
                                                      .causal = false });
    d->linear(d, s->x, s->att, l->o, l->o_b, b->rows, true);
    d->layernorm(d, s->xn, s->x, l->norm1, l->norm1_b, c->eps, b->rows, c->hidden);
    dump_tensor(m->dump, "attention", i + 1, s->xn, b->rows);
    d->linear(d, s->up, s->xn, l->up, l->up_b, b->rows, false);
    d->gelu(d, s->act, s->up, (int64_t)b->rows * c->ffn);
    d->linear(d, s->xn, s->act, l->down, l->down_b, b->rows, true);
    d->layernorm(d, s->x, s->xn, l->norm2, l->norm2_b, c->eps, b->rows, c->hidden);
    dump_tensor(m->dump, "hidden", i + 1, s->x, b->rows);
}

void encoder_forward(struct model *m, const struct model_varlen *b)
{
    embeddings(m, b);
    for (int i = 0; i < m->c.layers; i++)
        layer(m, b, i);
}
