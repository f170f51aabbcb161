/* memory.c - see memory.h. */
#include "train/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/parts.h"

int memory_parse(const char *text, int64_t *bytes, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *u = *end ? strchr(units, *end) : NULL;
    if (end == text || !(v > 0) || (*end && (!u || end[1])) || v > 1e15)
        return err_set(e, "expected a size such as 512M or 8G");
    for (int i = 0; u && i <= u - units; i++)
        v *= 1024;
    *bytes = (int64_t)v;
    return 0;
}

static int64_t file_bytes(const struct model *m)
{
    int64_t n = 0;
    for (size_t i = 0; m->st && i < safetensors_count(m->st); i++)
        n += (int64_t)safetensors_at(m->st, i)->bytes;
    return n;
}

static int64_t tensor_bytes(const struct model *m, const char *name)
{
    const struct st_tensor *t = m->st ? safetensors_find(m->st, name) : NULL;
    return t ? (int64_t)t->bytes : 0;
}

/* LoRA: the checkpoint as it lies in memory, and packed for the way there and the way back; two bytes stay two bytes.
 * An embedding that is no head is only read, and of rows that learn the checkpoint's are. */
static int64_t frozen_bytes(const struct model *m, const struct trainable_options *o)
{
    int64_t all = file_bytes(m), embed = m->c.encoder ? 0 : tensor_bytes(m, "model.embed_tokens.weight");
    int64_t head = m->c.tied ? embed : tensor_bytes(m, "lm_head.weight");
    int64_t packed = all - (m->c.tied ? 0 : embed);
    if (o->rows_from)
        packed -= head / m->c.vocab * (m->c.vocab - o->rows_from);
    return all + 2 * packed;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What the device turns and packs for the gradient of one matrix: its rows of dy and x once more, the widest matrix
 * counts. */
static int64_t scratch_bytes(const struct model_config *c, const struct trainable_options *o, int head_rows)
{
    int64_t q = (int64_t)c->heads * c->head_dim, qkv = q + 2 * (int64_t)c->kv_heads * c->head_dim;
    int64_t up = (c->encoder ? 1 : 2) * (int64_t)c->ffn, rank = o->lora ? o->lora->rank : 0;
    int64_t in = o->lora ? 3 * rank : c->hidden, out = larger(larger(qkv, up), larger(c->hidden, c->ffn));
    int64_t widest = (int64_t)o->max_rows * (out + (in + 15) / 16 * 16);
    if (!o->lora || o->rows_from)
        widest = larger(widest, (int64_t)head_rows * ((c->encoder ? c->labels : c->vocab) + (c->hidden + 15)));
    return 4 * widest;
}

/* Room grows by a little more than it must: cuda_room. */
static int64_t grown(int64_t bytes)
{
    const int64_t most = 32 << 20;
    return bytes + (bytes / 4 < most ? bytes / 4 : most);
}

/* What a device with memory of its own rounds and sums beside the tensors of a pass: gradients that several products
 * take; attention's way back, or the logits' gradient; what goes into the head. */
static int64_t device_scratch(const struct model *m, const struct trainable_options *o, int head_rows)
{
    const struct model_config *c = &m->c;
    int64_t q = (int64_t)c->heads * c->head_dim, qkv = q + 2 * (int64_t)c->kv_heads * c->head_dim;
    int64_t rows = o->max_rows, hidden = c->hidden, out = c->encoder ? c->labels : c->vocab;
    int64_t attention = rows * (2 * q + 8 * (int64_t)c->heads), head = 2 * head_rows * (out + hidden);
    int64_t held = larger(qkv, hidden), fresh = head_rows * hidden;
    if (m->d->weight_dtype == DTYPE_F32)
        return grown(rows * 4 * (int64_t)c->heads);
    if (c->encoder) { /* which keeps F32: what attention and products take is rounded here */
        attention += 2 * rows * qkv;
        held = larger(held, c->ffn);
        fresh = rows * c->ffn;
    }
    int64_t dropped = o->lora && o->lora->dropout > 0 ? larger(hidden, larger(q, c->ffn)) : 0;
    return grown(larger(attention, head)) + grown(2 * rows * held) + grown(2 * rows * dropped) + grown(2 * fresh);
}

static bool has_own_memory(const struct model *m)
{
    return m->d->memory_left(m->d) >= 0;
}

/* There every matrix lies once, as it is multiplied, and of rows that learn only those. */
static void plan_on_device(struct memory_plan *p, const struct model *m, const struct trainable_options *o,
                           const struct trainable_counts *n)
{
    int64_t size = (int64_t)dtype_size(m->d->weight_dtype);
    p->weights = size * n->all;
    p->state = 16 * p->trained + (o->lora ? (8 + size) * n->trained : 0); /* adapters also stacked */
}

static const int64_t program_bytes = 8 << 20; /* libraries, tokenizer, rows */

void memory_plan(struct memory_plan *p, struct model *m, const struct trainable_options *o)
{
    *p = (struct memory_plan){ .rows = o->max_rows };
    struct trainable_counts n;
    trainable_count(m, o, &n);
    p->trained = n.trained + n.rows;
    p->all = n.all;
    p->weights = o->lora ? frozen_bytes(m, o) : file_bytes(m) + 8 * p->all;
    p->state = (o->lora ? 32 : 16) * n.trained; /* adapters also stacked, and packed both ways */
    if (o->rows_from)                           /* those of the head also packed both ways */
        p->state += 16 * n.rows + 8 * (m->c.vocab - o->rows_from) * (int64_t)m->c.hidden;
    if (has_own_memory(m))
        plan_on_device(p, m, o, &n);
    int head = trainable_head_rows(&m->c, o);
    p->activations = trainable_activation_bytes(m, o->max_rows, head, o->recompute) + 8 * n.ranks * o->max_rows +
                     (has_own_memory(m) ? device_scratch(m, o, head) : scratch_bytes(&m->c, o, head));
    if (o->lora && o->lora->dropout > 0)
        p->activations += 4 * n.inputs * o->max_rows;
    if (o->rows_from) /* logits once more, in their two parts */
        p->activations += 4 * (int64_t)head * m->c.vocab + 8 * (int64_t)o->max_rows;
    p->total = program_bytes + p->weights + p->state + p->activations;
}

static void put_size(struct buf *b, int64_t bytes)
{
    if (bytes >= INT64_C(10) << 30)
        buf_printf(b, "%.1f GiB", (double)bytes / (1 << 30));
    else
        buf_printf(b, "%.1f MiB", (double)bytes / (1 << 20));
}

void memory_text(const struct memory_plan *p, struct buf *out)
{
    buf_printf(out, "trains %lld of %lld numbers; memory: weights ", (long long)p->trained, (long long)p->all);
    put_size(out, p->weights);
    buf_puts(out, ", state ");
    put_size(out, p->state);
    buf_printf(out, ", passes of %d tokens ", p->rows);
    put_size(out, p->activations);
    buf_puts(out, ", together ");
    put_size(out, p->total);
}

/* The most rows of a pass that fit, or 0. */
static int most_rows(struct model *m, const struct trainable_options *o, int64_t limit)
{
    int low = 0, high = o->max_rows;
    while (low < high) {
        struct memory_plan p;
        struct trainable_options try = *o;
        try.max_rows = low + (high - low + 1) / 2;
        memory_plan(&p, m, &try);
        if (p.total <= limit)
            low = try.max_rows;
        else
            high = try.max_rows - 1;
    }
    return low;
}

int memory_check(const struct memory_plan *p, struct model *m, const struct trainable_options *o, int64_t limit,
                 struct err *e)
{
    int64_t machine = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    char more[64] = "--memory";
    struct buf b = BUF_INIT;
    if (limit == 0 && has_own_memory(m)) { /* a checkpoint's weights are there already */
        limit = m->d->memory_left(m->d) + (m->st ? p->weights : 0);
        snprintf(more, sizeof more, "the %.1f GiB of %s", (double)limit / (1 << 30), m->d->name);
    } else if (limit == 0) {
        if (p->total > machine)
            log_warn("this is more than the machine's %lld MiB", (long long)(machine >> 20));
        return 0;
    }
    if (p->total <= limit)
        return 0;
    int rows = most_rows(m, o, limit);
    put_size(&b, p->total);
    if (rows)
        err_set(e, "%s are needed, more than %s: --pass-tokens %d fits (and --max-length must not be above it)%s", b.s,
                more, rows, o->recompute ? "" : "; --recompute needs less");
    else
        err_set(e,
                "%s are needed, more than %s, and a smaller pass does not help: weights and state alone are too "
                "large%s",
                b.s, more, o->lora ? "" : "; --method lora needs less");
    buf_release(&b);
    return -1;
}
