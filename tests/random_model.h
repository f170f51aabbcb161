/* random_model.h - a checkpoint folder with random weights, for tests and benchmarks that need a shape, not a meaning.
 * Llama as Hugging Face lays it out: config.json and model.safetensors, no tokenizer. */
#ifndef LATENT_RANDOM_MODEL_H
#define LATENT_RANDOM_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/safetensors.h"

struct random_shape {
    int layers, hidden, ffn, heads, kv_heads, vocab, max_positions;
    bool tied;
    bool bf16;     /* how the weights are stored */
    double spread; /* standard deviation of the weights; 0: 1 / sqrt(hidden) */
};

static inline void random_model_entry(struct st_entry *list, size_t *n, char *name, int64_t rows, int64_t cols,
                                      const struct random_shape *s)
{
    list[(*n)++] = (struct st_entry){
        .name = name, .dtype = s->bf16 ? ST_BF16 : ST_F32, .rank = cols ? 2 : 1, .shape = { rows, cols }
    };
}

static inline char *random_model_name(int layer, const char *what)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "model.layers.%d.%s.weight", layer, what);
    return buf_take(&b);
}

/* Names and shapes; names are allocated. */
static inline size_t random_model_entries(struct st_entry *list, const struct random_shape *s)
{
    size_t n = 0;
    int64_t d = s->hidden, kv = d / s->heads * s->kv_heads, f = s->ffn;
    random_model_entry(list, &n, xstrdup("model.embed_tokens.weight"), s->vocab, d, s);
    for (int i = 0; i < s->layers; i++) {
        random_model_entry(list, &n, random_model_name(i, "input_layernorm"), d, 0, s);
        random_model_entry(list, &n, random_model_name(i, "self_attn.q_proj"), d, d, s);
        random_model_entry(list, &n, random_model_name(i, "self_attn.k_proj"), kv, d, s);
        random_model_entry(list, &n, random_model_name(i, "self_attn.v_proj"), kv, d, s);
        random_model_entry(list, &n, random_model_name(i, "self_attn.o_proj"), d, d, s);
        random_model_entry(list, &n, random_model_name(i, "post_attention_layernorm"), d, 0, s);
        random_model_entry(list, &n, random_model_name(i, "mlp.gate_proj"), f, d, s);
        random_model_entry(list, &n, random_model_name(i, "mlp.up_proj"), f, d, s);
        random_model_entry(list, &n, random_model_name(i, "mlp.down_proj"), d, f, s);
    }
    random_model_entry(list, &n, xstrdup("model.norm.weight"), d, 0, s);
    if (!s->tied)
        random_model_entry(list, &n, xstrdup("lm_head.weight"), s->vocab, d, s);
    return n;
}

/* Values of one tensor; norms are around 1. */
static inline void *random_model_values(const struct st_entry *t, const struct random_shape *s, uint64_t seed)
{
    size_t n = (size_t)(t->shape[0] * (t->rank == 2 ? t->shape[1] : 1));
    float *v = xreallocarray(NULL, n, sizeof *v);
    struct rng r = rng_stream(seed, t->name, strlen(t->name), 0);
    double spread = s->spread > 0 ? s->spread : 1 / sqrt((double)s->hidden);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(t->rank == 1 ? 1 + 0.2 * rng_normal(&r, i) : spread * rng_normal(&r, i));
    for (size_t i = 0; i < n && s->bf16; i++) { /* cut off, in place: the writes stay behind the reads */
        uint32_t bits;
        memcpy(&bits, &v[i], 4);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy((char *)v + 2 * i, &half, 2);
    }
    return v;
}

/* dir must exist. */
static inline int random_model_write(const char *dir, const struct random_shape *s, uint64_t seed, struct err *e)
{
    size_t most = 9 * (size_t)s->layers + 3;
    struct st_entry *list = xcalloc(most, sizeof *list);
    void **data = xcalloc(most, sizeof *data);
    size_t n = random_model_entries(list, s);
    for (size_t i = 0; i < n; i++)
        data[i] = random_model_values(&list[i], s, seed);
    char *path = path_join(dir, "model.safetensors");
    int rc = safetensors_write(path, list, (const void *const *)data, n, e);
    free(path);
    for (size_t i = 0; i < n; i++) {
        free((char *)list[i].name);
        free(data[i]);
    }
    free(list);
    free(data);
    struct buf b = BUF_INIT;
    buf_printf(&b,
               "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%d,"
               "\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
               "\"num_key_value_heads\":%d,\"vocab_size\":%d,\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-5,"
               "\"rope_theta\":10000.0,\"hidden_act\":\"silu\",\"tie_word_embeddings\":%s,\"bos_token_id\":1,"
               "\"eos_token_id\":2,\"torch_dtype\":\"%s\"}\n",
               s->hidden, s->ffn, s->layers, s->heads, s->kv_heads, s->vocab, s->max_positions,
               s->tied ? "true" : "false", s->bf16 ? "bfloat16" : "float32");
    path = path_join(dir, "config.json");
    if (rc == 0)
        rc = file_write_atomic(path, b.s, b.len, e);
    free(path);
    buf_release(&b);
    return rc;
}

#endif
