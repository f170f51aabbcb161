/* plan.c - which tensors a checkpoint must hold, by family, and how they become weights. Facts: formats specification,
 * sections 4 and 6. */
#include "model/parts.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

/* ---- making ---- */

static struct plan_item *add_item(struct plan *p, struct weight **w, struct tensor **v, int64_t cols)
{
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 64;
        p->item = xreallocarray(p->item, p->cap, sizeof *p->item);
    }
    p->item[p->n] = (struct plan_item){ .weight = w, .vector = v, .cols = cols };
    return &p->item[p->n++];
}

static void add_part(struct plan_item *it, int64_t rows, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add_part(struct plan_item *it, int64_t rows, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(it->part[it->nparts].name, PLAN_NAME, fmt, ap);
    va_end(ap);
    it->part[it->nparts++].rows = rows;
}

#define MATRIX(dest, cols) add_item(p, dest, NULL, cols)
#define VECTOR(dest) add_item(p, NULL, dest, 1)

static void plan_decoder_attention(struct plan *p, const struct model_config *c, struct model_layer *l, const char *at)
{
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    const int64_t rows[3] = { q, kv, kv };
    struct plan_item *w = MATRIX(&l->qkv, c->hidden);
    if (c->family == MODEL_PHI3) {
        add_part(w, q + 2 * kv, "%sself_attn.qkv_proj.weight", at);
    } else {
        for (int i = 0; i < 3; i++)
            add_part(w, rows[i], "%sself_attn.%c_proj.weight", at, "qkv"[i]);
    }
    if (c->qkv_bias) {
        struct plan_item *b = VECTOR(&l->qkv_b);
        for (int i = 0; i < 3; i++)
            add_part(b, rows[i], "%sself_attn.%c_proj.bias", at, "qkv"[i]);
    }
    if (c->qk_norm) {
        add_part(VECTOR(&l->q_norm), c->head_dim, "%sself_attn.q_norm.weight", at);
        add_part(VECTOR(&l->k_norm), c->head_dim, "%sself_attn.k_norm.weight", at);
    }
    add_part(MATRIX(&l->o, q), c->hidden, "%sself_attn.o_proj.weight", at);
    if (c->o_bias)
        add_part(VECTOR(&l->o_b), c->hidden, "%sself_attn.o_proj.bias", at);
}

static void plan_decoder_mlp(struct plan *p, const struct model_config *c, struct model_layer *l, const char *at)
{
    struct plan_item *w = MATRIX(&l->up, c->hidden);
    if (c->family == MODEL_PHI3) {
        add_part(w, 2 * (int64_t)c->ffn, "%smlp.gate_up_proj.weight", at);
    } else {
        add_part(w, c->ffn, "%smlp.gate_proj.weight", at);
        add_part(w, c->ffn, "%smlp.up_proj.weight", at);
    }
    add_part(MATRIX(&l->down, c->ffn), c->hidden, "%smlp.down_proj.weight", at);
    if (c->mlp_bias) {
        struct plan_item *b = VECTOR(&l->up_b);
        add_part(b, c->ffn, "%smlp.gate_proj.bias", at);
        add_part(b, c->ffn, "%smlp.up_proj.bias", at);
        add_part(VECTOR(&l->down_b), c->hidden, "%smlp.down_proj.bias", at);
    }
}

static void plan_decoder(struct plan *p, struct model *m)
{
    const struct model_config *c = &m->c;
    add_part(MATRIX(&m->embed, c->hidden), c->vocab, "model.embed_tokens.weight");
    for (int i = 0; i < c->layers; i++) {
        char at[64];
        struct model_layer *l = &m->layer[i];
        snprintf(at, sizeof at, "model.layers.%d.", i);
        add_part(VECTOR(&l->norm1), c->hidden, "%sinput_layernorm.weight", at);
        plan_decoder_attention(p, c, l, at);
        add_part(VECTOR(&l->norm2), c->hidden, "%spost_attention_layernorm.weight", at);
        plan_decoder_mlp(p, c, l, at);
    }
    add_part(VECTOR(&m->norm), c->hidden, "model.norm.weight");
    if (!c->tied)
        add_part(MATRIX(&m->head, c->hidden), c->vocab, "lm_head.weight");
}

/* dense layer NAME of [rows, cols] with its bias */
static void plan_dense(struct plan *p, struct weight **w, struct tensor **b, int64_t rows, int64_t cols, const char *at,
                       const char *name)
{
    add_part(MATRIX(w, cols), rows, "%s%s.weight", at, name);
    add_part(VECTOR(b), rows, "%s%s.bias", at, name);
}

static void plan_layernorm(struct plan *p, struct tensor **g, struct tensor **b, int64_t n, const char *at,
                           const char *name)
{
    add_part(VECTOR(g), n, "%s%s.weight", at, name);
    add_part(VECTOR(b), n, "%s%s.bias", at, name);
}

static void plan_encoder_layer(struct plan *p, const struct model_config *c, struct model_layer *l, const char *at)
{
    static const char *const names[] = { "query", "key", "value" };
    struct plan_item *w = MATRIX(&l->qkv, c->hidden);
    for (int i = 0; i < 3; i++)
        add_part(w, c->hidden, "%sattention.self.%s.weight", at, names[i]);
    struct plan_item *b = VECTOR(&l->qkv_b);
    for (int i = 0; i < 3; i++)
        add_part(b, c->hidden, "%sattention.self.%s.bias", at, names[i]);
    plan_dense(p, &l->o, &l->o_b, c->hidden, c->hidden, at, "attention.output.dense");
    plan_layernorm(p, &l->norm1, &l->norm1_b, c->hidden, at, "attention.output.LayerNorm");
    plan_dense(p, &l->up, &l->up_b, c->ffn, c->hidden, at, "intermediate.dense");
    plan_dense(p, &l->down, &l->down_b, c->hidden, c->ffn, at, "output.dense");
    plan_layernorm(p, &l->norm2, &l->norm2_b, c->hidden, at, "output.LayerNorm");
}

static void plan_encoder(struct plan *p, struct model *m)
{
    const struct model_config *c = &m->c;
    const char *base = c->family == MODEL_XLMR ? "roberta." : "bert.";
    char at[64];
    add_part(MATRIX(&m->embed, c->hidden), c->vocab, "%sembeddings.word_embeddings.weight", base);
    add_part(MATRIX(&m->positions, c->hidden), c->max_positions, "%sembeddings.position_embeddings.weight", base);
    add_part(MATRIX(&m->types, c->hidden), c->types, "%sembeddings.token_type_embeddings.weight", base);
    snprintf(at, sizeof at, "%sembeddings.", base);
    plan_layernorm(p, &m->norm, &m->norm_b, c->hidden, at, "LayerNorm");
    for (int i = 0; i < c->layers; i++) {
        snprintf(at, sizeof at, "%sencoder.layer.%d.", base, i);
        plan_encoder_layer(p, c, &m->layer[i], at);
    }
    plan_dense(p, &m->head, &m->head_b, c->labels, c->hidden, "", "classifier");
}

void plan_make(struct plan *p, struct model *m)
{
    *p = (struct plan){ NULL, 0, 0 };
    if (m->c.encoder)
        plan_encoder(p, m);
    else
        plan_decoder(p, m);
}

void plan_release(struct plan *p)
{
    free(p->item);
    *p = (struct plan){ NULL, 0, 0 };
}

/* ---- matching ---- */

/* Old BERT files call a LayerNorm's weight and bias gamma and beta. */
static const struct st_tensor *find_tensor(const struct safetensors *st, const char *name)
{
    const struct st_tensor *t = safetensors_find(st, name);
    const char *dot = strrchr(name, '.');
    if (t || !dot || dot - name < 9 || strncmp(dot - 9, "LayerNorm", 9) != 0)
        return t;
    struct buf old = BUF_INIT;
    buf_add(&old, name, (size_t)(dot - name));
    buf_puts(&old, strcmp(dot, ".weight") == 0 ? ".gamma" : ".beta");
    t = safetensors_find(st, old.s);
    buf_release(&old);
    return t;
}

/* Tensors that files may carry and nobody needs. */
static bool ignorable(const struct model_config *c, const char *name)
{
    static const char *const ends[] = { "rotary_emb.inv_freq", ".position_ids", ".masked_bias" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (path_ends_with(name, ends[i]))
            return true;
    if (c->encoder)
        return strncmp(name, "bert.pooler.", 12) == 0 || strncmp(name, "roberta.pooler.", 15) == 0 ||
               strncmp(name, "pooler.", 7) == 0;
    return c->tied && strcmp(name, "lm_head.weight") == 0; /* the embedding matrix is used, as transformers does */
}

static bool is_float(enum st_dtype t)
{
    return t == ST_F32 || t == ST_BF16 || t == ST_F16;
}

static int check_part(const struct plan_item *it, int i, const struct model *m, struct buf *problems)
{
    const struct st_tensor *t = it->part[i].found;
    const char *name = it->part[i].name;
    char shape[ST_SHAPE_TEXT], expected[64];
    if (!t) {
        buf_printf(problems, "tensor %s is missing\n", name);
        return 1;
    }
    int problem = 0;
    if (!is_float(t->dtype)) {
        buf_printf(problems, "tensor %s has dtype %s, expected F32, BF16 or F16\n", name, st_dtype_name(t->dtype));
        problem = 1;
    }
    bool fits = it->vector ? t->rank == 1 && t->shape[0] == it->part[i].rows
                           : t->rank == 2 && t->shape[0] == it->part[i].rows && t->shape[1] == it->cols;
    if (!fits) {
        snprintf(expected, sizeof expected, it->vector ? "[%" PRId64 "]" : "[%" PRId64 ", %" PRId64 "]",
                 it->part[i].rows, it->cols);
        buf_printf(problems, "tensor %s has shape %s, expected %s\n", name, st_shape_text(t, shape), expected);
        problem = 1;
    }
    (void)m;
    return problem;
}

int plan_match(struct plan *p, const struct model *m, struct buf *problems)
{
    bool *used = xcalloc(safetensors_count(m->st) + 1, sizeof *used);
    int n = 0;
    for (size_t i = 0; i < p->n; i++)
        for (int k = 0; k < p->item[i].nparts; k++) {
            const struct st_tensor *t = find_tensor(m->st, p->item[i].part[k].name);
            p->item[i].part[k].found = t;
            if (t)
                used[t - safetensors_at(m->st, 0)] = true;
            n += check_part(&p->item[i], k, m, problems);
        }
    for (size_t i = 0; i < safetensors_count(m->st); i++) {
        const char *name = safetensors_at(m->st, i)->name;
        if (!used[i] && !ignorable(&m->c, name)) {
            buf_printf(problems, "tensor %s is not part of this architecture (%s)\n", name, m->c.family_name);
            n++;
        }
    }
    free(used);
    return n;
}

int model_problems(const char *dir, const char *problems, int n, struct err *e)
{
    enum { ROOM = 700 };
    struct buf b = BUF_INIT;
    int told = 0;
    const char *at = problems;
    while (at && *at) {
        const char *end = strchr(at, '\n');
        size_t len = end ? (size_t)(end - at) : strlen(at);
        if (told > 0 && b.len + len > ROOM)
            break;
        buf_puts(&b, told++ ? "; " : "");
        buf_add(&b, at, len);
        at = end ? end + 1 : at + len;
    }
    if (told < n)
        buf_printf(&b, "; and %lld more %s", COUNTED(n - told, "problem", "problems"));
    err_set(e, "%s: %s", dir, b.s ? b.s : "");
    buf_release(&b);
    return -1;
}

/* ---- loading ---- */

static enum dtype dtype_of(enum st_dtype t)
{
    return t == ST_F32 ? DTYPE_F32 : t == ST_BF16 ? DTYPE_BF16 : DTYPE_F16;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void model_floats(float *out, const struct st_tensor *t, uint64_t first, uint64_t n)
{
    const char *p = (const char *)t->data + first * (uint64_t)(st_dtype_bits(t->dtype) / 8);
    if (t->dtype == ST_F32) {
        memcpy(out, p, n * sizeof *out);
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        uint32_t bits = (uint32_t)h << 16;
        if (t->dtype == ST_BF16)
            memcpy(&out[i], &bits, sizeof bits);
        else
            out[i] = half_to_float(h);
    }
}

static int load_vector(const struct plan_item *it, struct device *d, struct err *e)
{
    int64_t n = 0, at = 0;
    for (int i = 0; i < it->nparts; i++)
        n += it->part[i].rows;
    float *host = xcalloc((size_t)n, sizeof *host);
    for (int i = 0; i < it->nparts; i++) {
        model_floats(host + at, it->part[i].found, 0, (uint64_t)it->part[i].rows);
        at += it->part[i].rows;
    }
    int rc = d->tensor_new(d, it->vector, DTYPE_F32, 1, n, it->part[0].name, e);
    if (rc == 0)
        d->tensor_write(d, *it->vector, 0, host, (size_t)n);
    free(host);
    return rc;
}

static int load_matrix(const struct plan_item *it, struct device *d, struct err *e)
{
    struct weight_part part[PLAN_PARTS];
    for (int i = 0; i < it->nparts; i++) {
        const struct st_tensor *t = it->part[i].found;
        part[i] = (struct weight_part){ .host = t->data, .dtype = dtype_of(t->dtype), .rows = it->part[i].rows };
    }
    return d->weight_new(d, it->weight, part, it->nparts, it->cols, it->part[0].name, e);
}

/* Before gigabytes move: is there room for all? A device without memory of its own does not say. */
static int check_room(const struct plan *p, struct device *d, struct err *e)
{
    int64_t need = 0, left = d->memory_left(d);
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_item *it = &p->item[i];
        int64_t size = (int64_t)dtype_size(it->vector ? DTYPE_F32 : d->weight_dtype);
        for (int k = 0; k < it->nparts; k++)
            need += it->part[k].rows * (it->vector ? 1 : it->cols) * size;
    }
    if (left < 0 || need <= left)
        return 0;
    return err_set(
        e,
        "the weights need %.1f MiB of the memory of %s, where %.1f MiB are free: free some, or take a device "
        "with more, or --device cpu",
        (double)need / 1048576, d->name, (double)left / 1048576);
}

int plan_load(struct plan *p, struct model *m, struct err *e)
{
    if (check_room(p, m->d, e) < 0)
        return err_prefix(e, "%s", m->dir);
    int rc = 0;
    safetensors_advise(m->st, true); /* norms and biases, between gigabytes of matrices that are not touched yet */
    for (size_t i = 0; i < p->n && rc == 0; i++)
        rc = p->item[i].vector ? load_vector(&p->item[i], m->d, e) : load_matrix(&p->item[i], m->d, e);
    safetensors_advise(m->st, false);
    if (rc < 0)
        return err_prefix(e, "%s", m->dir);
    if (m->c.tied)
        m->head = m->embed;
    return 0;
}
