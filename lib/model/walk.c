/* walk.c - a decoder's layers forwards, keeping, and backwards. Same arithmetic as decoder.c. */
#include <math.h>

#include "model/learn.h"

struct side { /* one matrix of a layer, its width and bias */
    struct weight *w;
    struct tensor *bias;
    int64_t in, out;
};

static struct side side_of(const struct trainable *t, int layer, enum site s)
{
    const struct model_config *c = &t->m->c;
    const struct model_layer *l = &t->m->layer[layer];
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    int64_t up = (c->encoder ? 1 : 2) * (int64_t)c->ffn;
    switch (s) {
    case SITE_QKV:
        return (struct side){ l->qkv, l->qkv_b, c->hidden, q + 2 * kv };
    case SITE_O:
        return (struct side){ l->o, l->o_b, q, c->hidden };
    case SITE_UP:
        return (struct side){ l->up, l->up_b, c->hidden, up };
    default:
        return (struct side){ l->down, l->down_b, c->ffn, c->hidden };
    }
}

/* Every (layer, site) has draws of its own: far enough apart for any batch. */
static uint64_t draws_of(const struct trainable *t, int layer, enum site s)
{
    return t->dropout_first + (((uint64_t)layer * SITES + s) << 40);
}

void site_forward(struct trainable *t, int layer, enum site s, struct tensor *y, const struct tensor *x, int rows,
                  bool add)
{
    struct side w = side_of(t, layer, s);
    struct device *d = t->m->d;
    struct branch *branch = t->layer[layer].branch[s];
    /* what is kept is rounded behind each product: the branch's is smaller, and so is its own rounding */
    bool branch_first = branch && !add && kept_type(t) != DTYPE_F32;
    if (branch)
        d->hold(d, x, rows * w.in);
    if (branch_first)
        branch_forward(t, branch, y, x, rows, draws_of(t, layer, s), false);
    d->linear(d, y, x, w.w, w.bias, rows, add || branch_first);
    if (branch && !branch_first)
        branch_forward(t, branch, y, x, rows, draws_of(t, layer, s), true);
    if (branch)
        d->let_go(d, x);
}

void site_backward(struct trainable *t, int layer, enum site s, struct tensor *dx, const struct tensor *dy,
                   const struct tensor *x, int rows)
{
    struct side w = side_of(t, layer, s);
    struct device *d = t->m->d;
    const struct layer_grads *g = &t->layer[layer];
    d->hold(d, dy, rows * w.out);
    d->linear_dx(d, dx, dy, w.w, rows, false);
    if (g->w[s])
        d->linear_dw(d, g->w[s], g->b[s], dy, x, rows, (int)w.out, (int)w.in);
    if (g->branch[s])
        branch_backward(t, g->branch[s], dx, dy, x, rows, draws_of(t, layer, s));
    d->let_go(d, dy);
}

static struct rope_args rope_of(const struct trainable *t, int layer, int rows, const struct kept *k)
{
    const struct model_config *c = &t->m->c;
    const struct model_layer *l = &t->m->layer[layer];
    /* with head norms what goes into them is kept, for the way back; else what comes out of the rotation */
    return (struct rope_args){ .qkv = c->qk_norm ? t->qkv : k->qkv,
                               .from = c->qk_norm ? k->qkv : t->dqkv,
                               .q_norm = l->q_norm,
                               .k_norm = l->k_norm,
                               .eps = c->eps,
                               .cos = t->m->cos,
                               .sin = t->m->sin,
                               .table_row = t->table_row,
                               .rows = rows,
                               .heads = c->heads,
                               .kv_heads = c->kv_heads,
                               .head_dim = c->head_dim,
                               .rotary = c->rotary };
}

static struct attend_varlen_args attend_of(const struct trainable *t, int layer, const struct train_batch *b,
                                           struct kept *k)
{
    const struct model_config *c = &t->m->c;
    return (struct attend_varlen_args){ .out = k->att,
                                        .qkv = c->qk_norm ? t->qkv : k->qkv,
                                        .begin = t->begin,
                                        .nseq = b->nseq,
                                        .rows = b->rows,
                                        .heads = c->heads,
                                        .kv_heads = c->kv_heads,
                                        .head_dim = c->head_dim,
                                        .scale = (float)(1 / sqrt((double)c->head_dim)),
                                        .window = c->encoder ? 0 : c->window[layer],
                                        .causal = !c->encoder };
}

void decoder_layer_forward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k)
{
    struct model *m = t->m;
    struct device *d = m->d;
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    int rows = b->rows;
    int64_t n = (int64_t)rows * c->hidden;
    struct rope_args rope = rope_of(t, layer, rows, k);
    struct attend_varlen_args a = attend_of(t, layer, b, k);
    d->copy(d, k->x, t->stream, n);
    d->rmsnorm(d, t->xn, t->stream, l->norm1, c->eps, rows, c->hidden);
    site_forward(t, layer, SITE_QKV, c->qk_norm ? k->qkv : t->dqkv, t->xn, rows, false);
    d->rope(d, &rope);
    d->attend_varlen_keep(d, &a, k->lse);
    site_forward(t, layer, SITE_O, t->stream, k->att, rows, true);
    d->copy(d, k->mid, t->stream, n);
    d->rmsnorm(d, t->xn, t->stream, l->norm2, c->eps, rows, c->hidden);
    site_forward(t, layer, SITE_UP, k->up, t->xn, rows, false);
    d->silu_mul(d, t->act, k->up, rows, c->ffn);
    site_forward(t, layer, SITE_DOWN, t->stream, t->act, rows, true);
}

/* dx comes in as the gradient of the layer's output and leaves as that of its input: residual paths stay in it. */
void decoder_layer_backward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k)
{
    struct model *m = t->m;
    struct device *d = m->d;
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    const struct layer_grads *g = &t->layer[layer];
    int rows = b->rows;
    struct rope_args rope = rope_of(t, layer, rows, k);
    struct attend_varlen_args a = attend_of(t, layer, b, k);
    d->silu_mul(d, t->act, k->up, rows, c->ffn);
    site_backward(t, layer, SITE_DOWN, t->dact, t->dx, t->act, rows);
    d->silu_mul_backward(d, t->dup, t->dact, k->up, rows, c->ffn);
    d->rmsnorm(d, t->xn, k->mid, l->norm2, c->eps, rows, c->hidden);
    site_backward(t, layer, SITE_UP, t->dxn, t->dup, t->xn, rows);
    d->rmsnorm_backward(d, t->dx, g->norm2, t->dxn, k->mid, l->norm2, c->eps, rows, c->hidden);
    site_backward(t, layer, SITE_O, t->datt, t->dx, k->att, rows);
    if (c->qk_norm)
        d->rope(d, &rope);
    d->attend_varlen_backward(d, &a, t->dqkv, t->datt, k->lse);
    d->rope_backward(d, &rope, t->dqkv, k->qkv, g->q_norm, g->k_norm);
    d->rmsnorm(d, t->xn, k->x, l->norm1, c->eps, rows, c->hidden);
    site_backward(t, layer, SITE_QKV, t->dxn, t->dqkv, t->xn, rows);
    d->rmsnorm_backward(d, t->dx, g->norm1, t->dxn, k->x, l->norm1, c->eps, rows, c->hidden);
}

/* ---- encoders: a = LN1(x + o(att)); out = LN2(a + down(gelu(up(a)))) ---- */

void encoder_embed(struct trainable *t, const struct train_batch *b)
{
    struct model *m = t->m;
    struct device *d = m->d;
    d->embed(d, t->hn, m->embed, t->ids, b->rows);
    d->add_row(d, t->hn, m->types, t->zeros, b->rows);
    d->add_row(d, t->hn, m->positions, t->table_row, b->rows);
    d->layernorm(d, t->x[0], t->hn, m->norm, m->norm_b, m->c.eps, b->rows, m->c.hidden);
}

void encoder_embed_backward(struct trainable *t, const struct train_batch *b)
{
    struct model *m = t->m;
    struct device *d = m->d;
    int rows = b->rows, hidden = m->c.hidden;
    encoder_embed(t, b); /* the sum again: hn */
    d->fill(d, t->dxn, 0, (int64_t)rows * hidden);
    d->layernorm_backward(d, t->dxn, t->norm, t->norm_b, t->dx, t->hn, m->norm, m->c.eps, rows, hidden);
    if (t->embed)
        d->embed_backward(d, t->embed, t->dxn, t->ids, rows, hidden);
    if (t->types)
        d->embed_backward(d, t->types, t->dxn, t->zeros, rows, hidden);
    if (t->positions)
        d->embed_backward(d, t->positions, t->dxn, t->table_row, rows, hidden);
}

void encoder_layer_forward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k)
{
    struct model *m = t->m;
    struct device *d = m->d;
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    int rows = b->rows;
    int64_t n = (int64_t)rows * c->hidden;
    struct attend_varlen_args a = attend_of(t, layer, b, k);
    site_forward(t, layer, SITE_QKV, k->qkv, t->x[layer], rows, false);
    d->attend_varlen_keep(d, &a, k->lse);
    d->copy(d, k->mid, t->x[layer], n);
    site_forward(t, layer, SITE_O, k->mid, k->att, rows, true);
    d->layernorm(d, k->a, k->mid, l->norm1, l->norm1_b, c->eps, rows, c->hidden);
    site_forward(t, layer, SITE_UP, k->up, k->a, rows, false);
    d->gelu(d, t->act, k->up, (int64_t)rows * c->ffn);
    d->copy(d, k->sum, k->a, n);
    site_forward(t, layer, SITE_DOWN, k->sum, t->act, rows, true);
    d->layernorm(d, t->x[layer + 1], k->sum, l->norm2, l->norm2_b, c->eps, rows, c->hidden);
}

void encoder_layer_backward(struct trainable *t, int layer, const struct train_batch *b, struct kept *k)
{
    struct model *m = t->m;
    struct device *d = m->d;
    const struct model_config *c = &m->c;
    const struct model_layer *l = &m->layer[layer];
    const struct layer_grads *g = &t->layer[layer];
    int rows = b->rows;
    int64_t n = (int64_t)rows * c->hidden;
    struct attend_varlen_args a = attend_of(t, layer, b, k);
    /* through LN2: dxn is the gradient of the sum, which both a and the MLP receive */
    d->fill(d, t->dxn, 0, n);
    d->layernorm_backward(d, t->dxn, g->norm2, g->norm2_b, t->dx, k->sum, l->norm2, c->eps, rows, c->hidden);
    d->gelu(d, t->act, k->up, (int64_t)rows * c->ffn);
    site_backward(t, layer, SITE_DOWN, t->dact, t->dxn, t->act, rows);
    d->gelu_backward(d, t->dup, t->dact, k->up, (int64_t)rows * c->ffn);
    site_backward(t, layer, SITE_UP, t->dx, t->dup, k->a, rows);
    d->add(d, t->dx, t->dxn, n);
    /* through LN1 */
    d->fill(d, t->dxn, 0, n);
    d->layernorm_backward(d, t->dxn, g->norm1, g->norm1_b, t->dx, k->mid, l->norm1, c->eps, rows, c->hidden);
    site_backward(t, layer, SITE_O, t->datt, t->dxn, k->att, rows);
    d->attend_varlen_backward(d, &a, t->dqkv, t->datt, k->lse);
    site_backward(t, layer, SITE_QKV, t->dx, t->dqkv, t->x[layer], rows);
    d->add(d, t->dx, t->dxn, n);
}
