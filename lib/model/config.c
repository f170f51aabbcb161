/* config.c - config.json and generation_config.json, in the spellings of transformers 4 and 5. What is not understood
 * is refused by name; unknown keys and nulls are passed over. Facts: formats specification, section 3. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/model.h"
#include "model/rope.h"

enum { CONFIG_LIMIT = 64 << 20, MOST = 1 << 28 };

/* One JSON object and the first thing that was wrong with it: getters after a failure do nothing. */
struct reader {
    const char *path;
    struct json doc;
    struct err *e;
    bool bad;
};

static const struct {
    const char *type, *architecture;
    enum model_family family;
} families[] = {
    { "qwen2", "Qwen2ForCausalLM", MODEL_QWEN2 },
    { "qwen3", "Qwen3ForCausalLM", MODEL_QWEN3 },
    { "llama", "LlamaForCausalLM", MODEL_LLAMA },
    { "phi3", "Phi3ForCausalLM", MODEL_PHI3 },
    { "xlm-roberta", "XLMRobertaForTokenClassification", MODEL_XLMR },
    { "bert", "BertForTokenClassification", MODEL_BERT },
};
enum { FAMILIES = sizeof families / sizeof *families };

/* ---- getters: null and absent are the same ---- */

static bool find(struct reader *r, const char *key, struct json *v)
{
    return !r->bad && json_get(r->doc, key, v) && json_kind(*v) != JSON_NULL;
}

static void refuse(struct reader *r, const char *key, struct json v, const char *expected)
{
    if (!r->bad)
        err_set(r->e, "%s: %s is %.*s, expected %s", r->path, key, (int)(v.n < 80 ? v.n : 80), v.s, expected);
    r->bad = true;
}

static int64_t get_int(struct reader *r, const char *key, int64_t lo, int64_t hi, int64_t absent)
{
    struct json v;
    int64_t n = absent;
    double d;
    if (!find(r, key, &v))
        return absent;
    if (!json_int(v, &n)) { /* 4096.0 is a whole number too */
        if (!json_double(v, &d) || !(d >= -1e15 && d <= 1e15) || (double)(int64_t)d != d)
            return refuse(r, key, v, "a whole number"), absent;
        n = (int64_t)d;
    }
    if (n < lo || n > hi) {
        struct buf b = BUF_INIT;
        buf_printf(&b, "a whole number from %" PRId64 " to %" PRId64, lo, hi);
        refuse(r, key, v, b.s);
        buf_release(&b);
        return absent;
    }
    return n;
}

static int64_t need_int(struct reader *r, const char *key, int64_t lo, int64_t hi)
{
    struct json v;
    if (!r->bad && !find(r, key, &v)) {
        err_set(r->e, "%s: has no %s", r->path, key);
        r->bad = true;
    }
    return get_int(r, key, lo, hi, lo);
}

static double get_real(struct reader *r, const char *key, double absent)
{
    struct json v;
    double d = absent;
    if (find(r, key, &v) && (!json_double(v, &d) || !(d > 0 && d < 1e18)))
        refuse(r, key, v, "a number above 0");
    return d;
}

static bool get_bool(struct reader *r, const char *key, bool absent)
{
    struct json v;
    bool b = absent;
    if (find(r, key, &v) && !json_bool(v, &b))
        refuse(r, key, v, "true or false");
    return b;
}

static void want_word(struct reader *r, const char *key, const char *word)
{
    struct json v;
    char expected[64];
    snprintf(expected, sizeof expected, "\"%s\"", word);
    if (find(r, key, &v) && !json_str_is(v, word))
        refuse(r, key, v, expected);
}

/* ---- which architecture ---- */

static void unknown_architecture(struct reader *r, const char *what, struct json v)
{
    struct buf known = BUF_INIT;
    for (int i = 0; i < FAMILIES; i++)
        buf_printf(&known, "%s%s", i ? ", " : "", families[i].architecture);
    err_set(r->e, "%s: unknown architecture: %s is %.*s; known are %s", r->path, what, (int)(v.n < 100 ? v.n : 100),
            v.n ? v.s : "", known.s);
    buf_release(&known);
    r->bad = true;
}

static void read_family(struct reader *r, struct model_config *c)
{
    struct json type, list, first = { "absent", 6 };
    int f = 0;
    if (!find(r, "model_type", &type))
        type = first;
    while (f < FAMILIES && !json_str_is(type, families[f].type))
        f++;
    if (f == FAMILIES) {
        unknown_architecture(r, "model_type", type);
        return;
    }
    if (find(r, "architectures", &list) && json_at(list, 0, &first) && !json_str_is(first, families[f].architecture))
        unknown_architecture(r, "architectures[0]", first);
    if (find(r, "quantization_config", &list))
        refuse(r, "quantization_config", list, "none: quantized checkpoints are not read");
    c->family = families[f].family;
    c->encoder = c->family == MODEL_XLMR || c->family == MODEL_BERT;
    snprintf(c->family_name, sizeof c->family_name, "%s", families[f].type);
}

/* ---- rotation ---- */

static double *read_list(struct reader *r, const char *key, int n)
{
    struct json v, x;
    double *list = xcalloc((size_t)n + 1, sizeof *list);
    if (!find(r, key, &v)) {
        if (!r->bad)
            err_set(r->e, "%s: longrope needs %s", r->path, key);
        r->bad = true;
        return list;
    }
    struct json_iter it = json_each(v);
    char expected[64];
    snprintf(expected, sizeof expected, "%d numbers above 0", n);
    int i = 0;
    for (; json_next(&it, NULL, &x); i++) {
        double d;
        if (i >= n || !json_double(x, &d) || !(d > 0)) {
            i = -1;
            break;
        }
        list[i] = d;
    }
    if (i != n)
        refuse(r, key, v, expected);
    return list;
}

static enum rope_kind read_kind(struct reader *scaling, const struct model_config *c)
{
    static const char *const names[] = { "default", "linear", "llama3", "yarn", "longrope" };
    struct json v;
    if (!find(scaling, "rope_type", &v) && !find(scaling, "type", &v))
        return ROPE_DEFAULT;
    /* older spellings, in Phi-3's first files */
    if (json_str_is(v, "su") || (c->family == MODEL_PHI3 && json_str_is(v, "yarn")))
        return ROPE_LONGROPE;
    for (int i = 0; i < 5; i++)
        if (json_str_is(v, names[i]))
            return (enum rope_kind)i;
    refuse(scaling, "rope_type", v, "default, linear, llama3, yarn or longrope");
    return ROPE_DEFAULT;
}

static void read_scaling(struct reader *r, struct reader *scaling, struct model_config *c)
{
    struct model_rope *rope = c->rope;
    struct json v;
    rope->kind = read_kind(scaling, c);
    rope->attention_factor = get_real(scaling, "attention_factor", 0);
    if (find(scaling, "mscale", &v))
        refuse(scaling, "mscale", v, "none: this form of yarn is not known");
    if (rope->kind == ROPE_DEFAULT)
        return;
    if (rope->kind != ROPE_LONGROPE)
        rope->factor = get_real(scaling, "factor", 1);
    int64_t original = get_int(r, "original_max_position_embeddings", 1, INT64_C(1) << 40, 0);
    if (!original)
        original = get_int(scaling, "original_max_position_embeddings", 1, INT64_C(1) << 40, 0);
    if (!original)
        original = c->max_positions;
    rope->original = (double)original;
    rope->low = get_real(scaling, "low_freq_factor", 1);
    rope->high = get_real(scaling, "high_freq_factor", 4);
    rope->fast = get_real(scaling, "beta_fast", 32);
    rope->slow = get_real(scaling, "beta_slow", 1);
    if (rope->kind == ROPE_LLAMA3 && !(rope->high > rope->low) && !r->bad && !scaling->bad) {
        err_set(r->e, "%s: high_freq_factor must be above low_freq_factor", r->path);
        r->bad = true;
    }
    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_LONGROPE)
        c->rope_original = original;
    if (rope->kind == ROPE_LONGROPE) {
        c->longrope = true;
        rope->factor = (double)c->max_positions / rope->original;
        rope->lists[0] = read_list(scaling, "short_factor", c->rotary / 2);
        rope->lists[1] = read_list(scaling, "long_factor", c->rotary / 2);
    }
}

static void read_rope(struct reader *r, struct model_config *c)
{
    struct json v;
    struct reader scaling = { r->path, { "{}", 2 }, r->e, r->bad };
    bool v5 = find(r, "rope_parameters", &v);
    if (v5 || find(r, "rope_scaling", &v)) {
        scaling.doc = v;
        if (json_kind(v) != JSON_OBJECT)
            refuse(r, v5 ? "rope_parameters" : "rope_scaling", v, "an object");
        else if (json_get(v, "full_attention", &v) || json_get(v, "sliding_attention", &v))
            refuse(r, "rope_parameters", v, "one object for all layers");
    }
    scaling.bad = r->bad;
    c->rope_theta = get_real(v5 ? &scaling : r, "rope_theta", 0);
    if (c->rope_theta <= 0)
        c->rope_theta = get_real(r, "rope_theta", 10000);
    double part = get_real(&scaling, "partial_rotary_factor", get_real(r, "partial_rotary_factor", 1));
    c->rotary = (int)(c->head_dim * (part < 1 ? part : 1));
    if (c->rotary % 2 && !r->bad) {
        err_set(r->e, "%s: %d of the %d dimensions of a head would turn, which is odd", r->path, c->rotary,
                c->head_dim);
        r->bad = true;
    }
    read_scaling(r, &scaling, c);
    r->bad |= scaling.bad;
}

/* ---- windows ---- */

static void read_windows(struct reader *r, struct model_config *c)
{
    struct json types, t;
    int64_t window = get_int(r, "sliding_window", 0, INT64_C(1) << 40, 0);
    int from = 0;
    c->window = xcalloc((size_t)c->layers, sizeof *c->window);
    if (c->family == MODEL_LLAMA)
        return;
    if (c->family != MODEL_PHI3) {
        from = (int)get_int(r, "max_window_layers", 0, MOST, c->layers);
        if (!get_bool(r, "use_sliding_window", false))
            window = 0;
    }
    int w = window < c->max_positions ? (int)window : 0; /* a wider one never hides anything */
    bool listed = find(r, "layer_types", &types) && json_count(types) == (size_t)c->layers;
    for (int i = 0; i < c->layers; i++) {
        bool slides = i >= from;
        if (listed && json_at(types, (size_t)i, &t)) {
            slides = json_str_is(t, "sliding_attention");
            if (!slides && !json_str_is(t, "full_attention"))
                refuse(r, "layer_types", t, "full_attention or sliding_attention");
        }
        c->window[i] = slides ? w : 0;
    }
}

/* ---- families ---- */

static void read_heads(struct reader *r, struct model_config *c)
{
    c->heads = (int)need_int(r, "num_attention_heads", 1, 65536);
    c->kv_heads = (int)get_int(r, "num_key_value_heads", 1, 65536, c->heads);
    if (r->bad)
        return;
    bool own = c->family == MODEL_QWEN3 || c->family == MODEL_LLAMA;
    int64_t absent = c->family == MODEL_QWEN3 ? 128 : c->hidden / c->heads;
    c->head_dim = (int)(own ? get_int(r, "head_dim", 1, 65536, absent) : absent);
    if (c->heads % c->kv_heads) {
        err_set(r->e, "%s: %d attention heads cannot share %d key-value heads", r->path, c->heads, c->kv_heads);
        r->bad = true;
    } else if (!own && c->hidden % c->heads) {
        err_set(r->e, "%s: hidden_size %d is no multiple of num_attention_heads %d", r->path, c->hidden, c->heads);
        r->bad = true;
    }
}

static void read_decoder(struct reader *r, struct model_config *c)
{
    want_word(r, "hidden_act", "silu");
    c->initializer_range = (float)get_real(r, "initializer_range", 0.02);
    c->eps = (float)get_real(r, "rms_norm_eps", c->family == MODEL_PHI3 ? 1e-5 : 1e-6);
    c->tied = get_bool(r, "tie_word_embeddings", false);
    c->qk_norm = c->family == MODEL_QWEN3;
    bool flag = (c->family == MODEL_QWEN3 || c->family == MODEL_LLAMA) && get_bool(r, "attention_bias", false);
    c->qkv_bias = flag || c->family == MODEL_QWEN2; /* Qwen2 has them always, and no key */
    c->o_bias = flag;
    c->mlp_bias = c->family == MODEL_LLAMA && get_bool(r, "mlp_bias", false);
    c->position_base = 0;
    if (!r->bad) {
        read_rope(r, c);
        read_windows(r, c);
    }
}

static void read_encoder(struct reader *r, struct model_config *c)
{
    struct json v;
    want_word(r, "hidden_act", "gelu");
    want_word(r, "position_embedding_type", "absolute");
    if (get_bool(r, "is_decoder", false)) {
        find(r, "is_decoder", &v);
        refuse(r, "is_decoder", v, "false");
    }
    c->initializer_range = (float)get_real(r, "initializer_range", 0.02);
    c->eps = (float)get_real(r, "layer_norm_eps", 1e-12);
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->types = (int)get_int(r, "type_vocab_size", 1, 65536, 2);
    c->position_base = c->family == MODEL_XLMR ? (int)get_int(r, "pad_token_id", 0, MOST, 1) + 1 : 0;
    c->labels = (int)get_int(r, "num_labels", 1, 65536, 2);
    if (find(r, "id2label", &v) && json_count(v) > 0)
        c->labels = (int)json_count(v);
    c->rope_theta = 10000;
    c->window = xcalloc((size_t)c->layers, sizeof *c->window);
}

static void read_sizes(struct reader *r, struct model_config *c)
{
    c->layers = (int)need_int(r, "num_hidden_layers", 1, 4096);
    c->hidden = (int)need_int(r, "hidden_size", 1, 1 << 20);
    c->ffn = (int)need_int(r, "intermediate_size", 1, 1 << 22);
    c->vocab = (int)need_int(r, "vocab_size", 1, MOST);
    c->max_positions = get_int(r, "max_position_embeddings", 1, MOST, c->encoder ? 512 : 2048);
    read_heads(r, c);
}

/* ---- ids ---- */

static bool read_eos(struct reader *r, struct model_config *c)
{
    struct json v, x;
    int64_t id;
    if (!find(r, "eos_token_id", &v))
        return false;
    c->n_eos = 0;
    if (json_int(v, &id) && id >= 0 && id < INT32_MAX) {
        c->eos[c->n_eos++] = (int32_t)id;
        return true;
    }
    struct json_iter it = json_each(v);
    while (json_next(&it, NULL, &x)) {
        if (!json_int(x, &id) || id < 0 || id >= INT32_MAX || c->n_eos == MODEL_MAX_EOS) {
            refuse(r, "eos_token_id", v, "an id or a list of at most 8");
            return true;
        }
        c->eos[c->n_eos++] = (int32_t)id;
    }
    if (json_kind(v) != JSON_ARRAY)
        refuse(r, "eos_token_id", v, "an id or a list of at most 8");
    return c->n_eos > 0;
}

static void read_ids(struct reader *r, struct model_config *c)
{
    read_eos(r, c);
    c->bos = (int)get_int(r, "bos_token_id", -1, MOST, c->bos);
    c->pad = (int)get_int(r, "pad_token_id", -1, MOST, c->pad);
}

/* ---- files ---- */

/* Reads DIR/NAME, calls fn on it. Returns 0 also if an optional file is not there. */
static int with_file(const char *dir, const char *name, bool optional,
                     void (*fn)(struct reader *, struct model_config *), struct model_config *c, struct err *e)
{
    char *path = path_join(dir, name);
    struct buf text = BUF_INIT;
    struct reader r = { .path = path, .e = e };
    int rc = 0;
    if (!optional || file_exists(path)) {
        if (file_read(&text, path, CONFIG_LIMIT, e) < 0)
            rc = -1;
        else if (json_parse(&r.doc, text.s, text.len, e) < 0)
            rc = err_prefix(e, "%s", path);
        else if (json_kind(r.doc) != JSON_OBJECT)
            rc = err_set(e, "%s: expected an object", path);
        else
            fn(&r, c);
    }
    buf_release(&text);
    free(path);
    return rc < 0 || r.bad ? -1 : 0;
}

static void read_config(struct reader *r, struct model_config *c)
{
    read_family(r, c);
    if (!r->bad)
        read_sizes(r, c);
    if (r->bad)
        return;
    if (c->encoder)
        read_encoder(r, c);
    else
        read_decoder(r, c);
    read_ids(r, c);
}

int model_config_read(struct model_config *c, const char *dir, struct err *e)
{
    *c = (struct model_config){ .bos = -1, .pad = -1, .rope = xcalloc(1, sizeof *c->rope) };
    int rc = 0;
    if (!file_is_dir(dir))
        rc = err_set(e, "%s: no such model folder", dir);
    else if (with_file(dir, "config.json", false, read_config, c, e) < 0 ||
             with_file(dir, "generation_config.json", true, read_ids, c, e) < 0)
        rc = -1;
    if (rc < 0)
        model_config_release(c);
    return rc;
}

void model_config_release(struct model_config *c)
{
    model_rope_free(c->rope);
    free(c->window);
    *c = (struct model_config){ .bos = -1, .pad = -1 };
}
