/* output.c - see output.h. */
#include "train/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/parts.h"

static const uint64_t shard_bytes = UINT64_C(5000000000); /* as transformers cuts them */

/* ---- adapter ---- */

/* The last word of a module of "base_model.model.MODULE.lora_A.weight", or 0 characters for lora_B. */
static size_t module_word(const char *name, const char **word)
{
    const char *end = strstr(name, ".lora_A.weight");
    const char *p = end;
    while (p && p > name && p[-1] != '.')
        p--;
    *word = p;
    return p ? (size_t)(end - p) : 0;
}

static void put_targets(struct trainable *t, struct buf *out)
{
    struct buf seen = BUF_INIT;
    buf_putc(&seen, ' ');
    buf_puts(out, "[");
    for (size_t i = 0; i < trainable_params(t); i++) {
        const char *word;
        char key[64];
        size_t n = module_word(trainable_param(t, i)->part[0].name, &word);
        if (n == 0 || n > sizeof key - 3)
            continue;
        snprintf(key, sizeof key, " %.*s ", (int)n, word);
        if (strstr(seen.s, key))
            continue;
        buf_printf(out, "%s\n    \"%.*s\"", seen.len > 1 ? "," : "", (int)n, word);
        buf_puts(&seen, key + 1);
    }
    buf_puts(out, "\n  ]");
    buf_release(&seen);
}

/* Rows that were trained are PEFT's trainable tokens: the ids from the first of them to the end of the vocabulary. */
static void put_rows(struct trainable *t, const struct model_config *c, struct buf *out)
{
    static const char end[] = ".token_adapter.trainable_tokens_delta";
    int modules = 0;
    for (size_t i = 0; i < trainable_params(t); i++) {
        const struct param *p = trainable_param(t, i);
        const char *name = p->part[0].name, *stop = strstr(name, end), *word = stop;
        while (word && word[-1] != '.')
            word--;
        if (!stop)
            continue;
        buf_printf(out, "%s\n    \"%.*s\": [", modules++ ? "," : ",\n  \"trainable_token_indices\": {",
                   (int)(stop - word), word);
        for (int64_t id = c->vocab - p->rows; id < c->vocab; id++)
            buf_printf(out, id + 1 < c->vocab ? "%lld, " : "%lld]", (long long)id);
    }
    buf_puts(out, modules ? "\n  }" : "");
}

static int write_text(const char *dir, const char *name, const struct buf *b, struct err *e)
{
    char *path = path_join(dir, name);
    int rc = file_write_atomic(path, b->s, b->len, e);
    free(path);
    return rc;
}

static int adapter_config(const char *dir, struct trainable *t, const struct lora_options *lora,
                          const struct model_config *c, const char *base, struct err *e)
{
    struct buf b = BUF_INIT;
    buf_puts(&b, "{\n  \"base_model_name_or_path\": ");
    json_put_cstr(&b, base);
    buf_puts(&b, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
                 "  \"init_lora_weights\": true,\n  \"lora_alpha\": ");
    if (lora->alpha == floor(lora->alpha))
        buf_printf(&b, "%.0f", lora->alpha);
    else
        json_put_double(&b, lora->alpha);
    buf_puts(&b, ",\n  \"lora_dropout\": ");
    json_put_double(&b, lora->dropout);
    buf_printf(&b, ",\n  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n  \"r\": %d,\n  \"target_modules\": ",
               lora->rank);
    put_targets(t, &b);
    buf_printf(&b, ",\n  \"task_type\": \"%s\"", c->encoder ? "TOKEN_CLS" : "CAUSAL_LM");
    put_rows(t, c, &b);
    buf_printf(&b, ",\n  \"use_dora\": false,\n  \"use_rslora\": %s\n}\n", lora->rslora ? "true" : "false");
    int rc = write_text(dir, "adapter_config.json", &b, e);
    buf_release(&b);
    return rc;
}

/* PEFT takes the classifier out of an adapter for token classification: the base's, which stays as it is. */
static const struct {
    const char *name, *saved;
} kept_whole[] = { { "classifier.weight", "base_model.model.classifier.weight" },
                   { "classifier.bias", "base_model.model.classifier.bias" } };

static int put_kept(struct st_writer *w, size_t i, struct trainable *t, const char *name, struct err *e)
{
    float *v = NULL;
    int64_t n = 0;
    int rc = trainable_tensor(t, name, false, &v, &n, e);
    if (rc == 0)
        rc = st_writer_put(w, i, v, (uint64_t)n * sizeof *v, e);
    free(v);
    return rc;
}

int output_adapter(const char *dir, struct trainable *t, const struct lora_options *lora, const struct model_config *c,
                   const char *base, struct err *e)
{
    size_t n = trainable_params(t), kept = c->encoder ? 2 : 0;
    struct device *d = trainable_device(t);
    struct st_entry *entry = xcalloc(n + 3, sizeof *entry);
    struct st_writer *w = NULL;
    char *path = path_join(dir, "adapter_model.safetensors");
    for (size_t i = 0; i < n; i++) {
        const struct param *p = trainable_param(t, i);
        entry[i] =
            (struct st_entry){ .name = p->part[0].name, .dtype = ST_F32, .rank = 2, .shape = { p->rows, p->cols } };
    }
    for (size_t i = 0; i < kept; i++)
        entry[n + i] = (struct st_entry){
            .name = kept_whole[i].saved, .dtype = ST_F32, .rank = i ? 1 : 2, .shape = { c->labels, c->hidden }
        };
    int rc = adapter_config(dir, t, lora, c, base, e);
    if (rc == 0)
        rc = st_writer_open(&w, path, entry, n + kept, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct param *p = trainable_param(t, i);
        size_t count = (size_t)(p->rows * p->cols);
        float *v = xreallocarray(NULL, count + 1, sizeof *v);
        rc = d->tensor_read(d, p->value, 0, v, count, e);
        if (rc == 0)
            rc = st_writer_put(w, i, v, count * sizeof *v, e);
        free(v);
    }
    for (size_t i = 0; rc == 0 && i < kept; i++)
        rc = put_kept(w, n + i, t, kept_whole[i].name, e);
    if (rc == 0)
        rc = st_writer_commit(w, e);
    st_writer_close(w);
    free(entry);
    free(path);
    return rc;
}

/* ---- weights: F32 to what the base has ---- */

static uint16_t to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    double a = fabs((double)f);
    if (isnan(f))
        return sign | 0x7E00;
    if (a >= 65520)
        return sign | 0x7C00;
    if (a < 0x1p-14) /* subnormal: steps of 2^-24; 1024 of them are the smallest normal one */
        return (uint16_t)(sign | (uint16_t)nearbyint(a * 0x1p24));
    int exponent = ilogb(a);
    double steps = nearbyint(scalbn(a, 10 - exponent)); /* 1024 .. 2048 */
    return (uint16_t)(sign | (uint16_t)(((exponent + 15) << 10) + (int)steps - 1024));
}

static enum st_dtype stored_as(enum st_dtype base, enum output_dtype want)
{
    bool real = base == ST_F32 || base == ST_BF16 || base == ST_F16;
    return !real || want == OUTPUT_BASE ? base : want == OUTPUT_F32 ? ST_F32 : ST_BF16;
}

/* ---- which tensors ---- */

struct entries {
    struct st_entry *v;
    char **name; /* owned */
    size_t n;
};

static void entries_add(struct entries *l, const char *name, enum st_dtype t, int rank, const int64_t *shape)
{
    l->v = xreallocarray(l->v, l->n + 1, sizeof *l->v);
    l->name = xreallocarray(l->name, l->n + 1, sizeof *l->name);
    l->name[l->n] = xstrdup(name);
    l->v[l->n] = (struct st_entry){ .name = l->name[l->n], .dtype = t, .rank = rank };
    memcpy(l->v[l->n].shape, shape, (size_t)rank * sizeof *shape);
    l->n++;
}

static void entries_release(struct entries *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->name[i]);
    free(l->name);
    free(l->v);
}

/* The model's tensors in its own order, then what else the base's files hold. */
static void list_tensors(struct entries *l, struct model *m, enum output_dtype dtype)
{
    struct plan p;
    plan_make(&p, m);
    for (size_t i = 0; i < p.n; i++)
        for (int k = 0; k < p.item[i].nparts; k++) {
            const char *name = p.item[i].part[k].name;
            const struct st_tensor *s = m->st ? safetensors_find(m->st, name) : NULL;
            int64_t shape[2] = { p.item[i].part[k].rows, p.item[i].cols };
            entries_add(l, name, stored_as(s ? s->dtype : ST_F32, dtype), p.item[i].weight ? 2 : 1, shape);
        }
    plan_release(&p);
}

bool output_has_bf16(struct model *m, enum output_dtype dtype)
{
    struct entries l = { NULL, NULL, 0 };
    bool has = false;
    list_tensors(&l, m, dtype);
    for (size_t i = 0; i < l.n; i++)
        has |= l.v[i].dtype == ST_BF16;
    entries_release(&l);
    return has;
}

static int write_tensor(struct st_writer *w, size_t i, const struct st_entry *entry, struct trainable *t, struct err *e)
{
    float *v = NULL;
    int64_t n;
    uint64_t want = 1;
    int rc = trainable_tensor(t, entry->name, true, &v, &n, e);
    for (int k = 0; k < entry->rank; k++)
        want *= (uint64_t)entry->shape[k];
    if (rc == 0 && (uint64_t)n != want)
        rc =
            err_set(e, "tensor %s: %lld values where %llu belong", entry->name, (long long)n, (unsigned long long)want);
    if (rc == 0 && entry->dtype == ST_F32) {
        rc = st_writer_put(w, i, v, (uint64_t)n * 4, e);
    } else if (rc == 0) {
        uint16_t *half = xreallocarray(NULL, (size_t)n + 1, sizeof *half);
        if (entry->dtype == ST_BF16)
            trainable_to_bf16(t, entry->name, v, (size_t)n, half);
        for (int64_t k = 0; entry->dtype == ST_F16 && k < n; k++)
            half[k] = to_f16(v[k]);
        rc = st_writer_put(w, i, half, (uint64_t)n * 2, e);
        free(half);
    }
    free(v);
    return rc;
}

static int write_weights(const char *dir, struct trainable *t, struct model *m, enum output_dtype dtype, struct err *e)
{
    struct entries l = { NULL, NULL, 0 };
    struct st_writer *w = NULL;
    list_tensors(&l, m, dtype);
    int rc = st_writer_open_dir(&w, dir, l.v, l.n, shard_bytes, e);
    for (size_t i = 0; rc == 0 && i < l.n; i++)
        rc = write_tensor(w, i, &l.v[i], t, e);
    if (rc == 0)
        rc = st_writer_commit(w, e);
    st_writer_close(w);
    entries_release(&l);
    return rc;
}

/* ---- config.json ---- */

static const char *architecture(const struct model_config *c)
{
    static const char *const of[] = { [MODEL_QWEN2] = "Qwen2ForCausalLM",
                                      [MODEL_QWEN3] = "Qwen3ForCausalLM",
                                      [MODEL_LLAMA] = "LlamaForCausalLM",
                                      [MODEL_PHI3] = "Phi3ForCausalLM",
                                      [MODEL_XLMR] = "XLMRobertaForTokenClassification",
                                      [MODEL_BERT] = "BertForTokenClassification" };
    return of[c->family];
}

static void member(struct buf *b, const char *key, const char *value, size_t n)
{
    buf_puts(b, b->len > 1 ? ",\n  " : "\n  ");
    json_put_cstr(b, key);
    buf_puts(b, ": ");
    buf_add(b, value, n);
}

/* transformers 5 keeps everything about rotation in one object; older readers want it apart. */
static void old_rope(struct buf *b, struct json rope)
{
    struct json v, key;
    struct buf rest = BUF_INIT;
    struct json_iter it = json_each(rope);
    bool plain = !json_get(rope, "rope_type", &v) || json_str_is(v, "default");
    while (json_next(&it, &key, &v)) {
        if (json_str_is(key, "rope_theta") || json_str_is(key, "partial_rotary_factor")) {
            char *name = json_str_dup(key);
            member(b, name, v.s, v.n);
            free(name);
        } else {
            buf_printf(&rest, "%s\n    %.*s: %.*s", rest.len ? "," : "", (int)key.n, key.s, (int)v.n, v.s);
        }
    }
    if (plain) {
        member(b, "rope_scaling", "null", 4);
    } else {
        struct buf all = BUF_INIT;
        buf_printf(&all, "{%s\n  }", rest.s ? rest.s : "");
        member(b, "rope_scaling", all.s, all.len);
        buf_release(&all);
    }
    buf_release(&rest);
}

static void config_text(struct buf *b, struct json doc, const struct model_config *c, const char *dtype)
{
    struct json key, v;
    struct json_iter it = json_each(doc);
    struct buf quoted = BUF_INIT;
    bool named = false, typed = false;
    json_put_cstr(&quoted, dtype);
    buf_putc(b, '{');
    while (json_next(&it, &key, &v)) {
        char *name = json_str_dup(key);
        named |= strcmp(name, "architectures") == 0;
        if (strcmp(name, "rope_parameters") == 0) {
            old_rope(b, v);
        } else if (strcmp(name, "dtype") == 0 || strcmp(name, "torch_dtype") == 0) {
            if (!typed && dtype)
                member(b, "torch_dtype", quoted.s, quoted.len);
            else if (!typed)
                member(b, "torch_dtype", v.s, v.n);
            typed = true;
        } else {
            member(b, name, v.s, v.n);
        }
        free(name);
    }
    if (!typed && dtype)
        member(b, "torch_dtype", quoted.s, quoted.len);
    if (!named) {
        buf_reset(&quoted);
        buf_printf(&quoted, "[\n    \"%s\"\n  ]", architecture(c));
        member(b, "architectures", quoted.s, quoted.len);
    }
    buf_puts(b, "\n}\n");
    buf_release(&quoted);
}

/* dtype: of the weights now; NULL: as the file says */
static int write_config(const char *dir, const char *base_dir, const struct model_config *c, const char *dtype,
                        struct err *e)
{
    struct buf in = BUF_INIT, out = BUF_INIT;
    struct json doc;
    char *path = path_join(base_dir, "config.json");
    int rc = file_read(&in, path, 16 << 20, e);
    if (rc == 0 && json_parse(&doc, in.s ? in.s : "", in.len, e) < 0)
        rc = err_prefix(e, "%s", path);
    if (rc == 0) {
        config_text(&out, doc, c, dtype);
        rc = write_text(dir, "config.json", &out, e);
    }
    buf_release(&in);
    buf_release(&out);
    free(path);
    return rc;
}

int output_model(const char *dir, struct trainable *t, struct model *m, const char *base_dir, enum output_dtype dtype,
                 struct err *e)
{
    const char *name = dtype == OUTPUT_F32 ? "float32" : dtype == OUTPUT_BF16 ? "bfloat16" : m->st ? NULL : "float32";
    return write_weights(dir, t, m, dtype, e) < 0 || write_config(dir, base_dir, &m->c, name, e) < 0 ? -1 : 0;
}

/* ---- what is copied ---- */

int output_tokenizer(const char *dir, const char *from, struct err *e)
{
    static const char *const names[] = { "tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "vocab.txt",
                                         "tokenizer.model",
                                         "sentencepiece.bpe.model",
                                         "chat_template.jinja",
                                         "generation_config.json",
                                         "dual_vocab_meta.json" };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
        char *path = path_join(from, names[i]);
        struct buf b = BUF_INIT;
        if (file_exists(path)) {
            rc = file_read(&b, path, 0, e);
            if (rc == 0) {
                buf_puts(&b, ""); /* an empty file has bytes too */
                rc = write_text(dir, names[i], &b, e);
            }
        }
        buf_release(&b);
        free(path);
    }
    return rc;
}

/* ---- drift ---- */

static int forward(struct model *m, struct device *d, const struct train_batch *b, int n, int width, float *out,
                   struct err *e)
{
    const struct model_config *c = model_config(m);
    int32_t *row = xcalloc((size_t)b->rows + 1, sizeof *row);
    struct tensor *ids = NULL, *table = NULL, *begin = NULL, *logits = NULL;
    for (int s = 0; s < b->nseq; s++)
        for (int i = b->begin[s]; i < b->begin[s + 1]; i++)
            row[i] = (int32_t)((c->encoder ? c->position_base : model_rope_offset(m, b->begin[s + 1] - b->begin[s])) +
                               i - b->begin[s]);
    int rc = d->tensor_new(d, &ids, DTYPE_I32, b->rows, 1, "probe", e) < 0 ||
                     d->tensor_new(d, &table, DTYPE_I32, b->rows, 1, "probe", e) < 0 ||
                     d->tensor_new(d, &begin, DTYPE_I32, b->nseq + 1, 1, "probe", e) < 0 ||
                     d->tensor_new(d, &logits, DTYPE_F32, n, width, "probe", e) < 0 || model_reserve(m, b->rows, e) < 0
                 ? -1
                 : 0;
    if (rc == 0 && !c->encoder)
        rc = model_need_positions(m, b->rows, e);
    if (rc == 0) {
        d->tensor_write(d, ids, 0, b->ids, (size_t)b->rows);
        d->tensor_write(d, table, 0, row, (size_t)b->rows);
        d->tensor_write(d, begin, 0, b->begin, (size_t)b->nseq + 1);
        model_forward_varlen(m, &(struct model_varlen){
                                    .rows = b->rows, .nseq = b->nseq, .ids = ids, .table_row = table, .begin = begin });
        model_logits(m, logits, NULL, n);
        rc = d->tensor_read(d, logits, 0, out, (size_t)n * (size_t)width, e);
    }
    d->tensor_free(d, ids);
    d->tensor_free(d, table);
    d->tensor_free(d, begin);
    d->tensor_free(d, logits);
    free(row);
    return rc;
}

int output_drift(const char *dir, struct device *d, const struct train_batch *b, int n, int width, const float *logits,
                 struct drift *out, struct err *e)
{
    struct model *m;
    size_t count = (size_t)n * (size_t)width;
    *out = (struct drift){ .tokens = n };
    if (model_open(&m, dir, d, e) < 0)
        return -1;
    float *got = xreallocarray(NULL, count + 1, sizeof *got);
    int rc = forward(m, d, b, n, width, got, e);
    double sum = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        double x = fabs((double)got[i] - (double)logits[i]);
        out->most = x <= out->most ? out->most : x; /* not a number stays */
        out->scale = fmax(out->scale, fabs((double)logits[i]));
        sum += x;
    }
    out->mean = count ? sum / (double)count : 0;
    free(got);
    model_close(m);
    return rc;
}
