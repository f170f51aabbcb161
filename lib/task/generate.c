/* generate.c - see generate.h. */
#include "task/generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "kernels/kernels.h"
#include "model/dual.h"
#include "model/model.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct generator {
    struct device *device;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat; /* opened when a prompt first needs it */
    struct engine *engine;
    struct gen_params params;
    struct tokens tokens;
    struct buf prompt;
    int max_context;   /* 0: the model's */
    size_t rendered;   /* bytes of the last prompt that came from the template */
    struct dual *dual; /* NULL: one vocabulary */
    int32_t *shown_as; /* [vocabulary], with dual */
    char *dir;
};

/* ---- two vocabularies ---- */

static int open_dual(struct generator *g, struct err *e)
{
    const struct model_config *c = model_config(g->model);
    int rc = dual_open(&g->dual, g->dir, g->tokenizer, e);
    if (rc <= 0)
        return rc;
    const struct dual_meta *m = dual_meta(g->dual);
    if (c->vocab != m->visible + m->latent)
        return err_set(e, "%s: the model has %d ids, its two vocabularies %d + %d", g->dir, c->vocab, m->visible,
                       m->latent);
    g->shown_as = xreallocarray(NULL, (size_t)c->vocab, sizeof *g->shown_as);
    for (int32_t i = 0; i < c->vocab; i++)
        g->shown_as[i] = dual_source(g->dual, i);
    return 0;
}

static int constrain(struct generator *g, const struct generator_options *o, struct err *e)
{
    const struct model_config *c = model_config(g->model);
    struct gen_params *p = &g->params;
    struct dual_phases ph;
    if (!g->dual)
        return 0;
    if (dual_phases(g->dual, c->eos, c->n_eos, o->compat, &ph, e) < 0)
        return err_prefix(e, "%s", g->dir);
    memcpy(p->lo, ph.lo, sizeof p->lo);
    memcpy(p->hi, ph.hi, sizeof p->hi);
    memcpy(p->also, ph.also, sizeof p->also);
    memcpy(p->never, ph.never, sizeof p->never);
    p->flip_id = ph.flip_id;
    p->flip_bias = (float)o->end_bias;
    return 0;
}

const struct dual_meta *generator_dual(const struct generator *g)
{
    return g->dual ? dual_meta(g->dual) : NULL;
}

int generator_open(struct generator **out, const struct generator_options *o, struct err *e)
{
    struct generator *g = xcalloc(1, sizeof *g);
    g->dir = xstrdup(o->model);
    g->max_context = o->max_context;
    if (tokenizer_open(&g->tokenizer, o->model, e) < 0 || device_open(&g->device, o->device, o->threads, e) < 0 ||
        (o->fp8_cache && device_use_fp8_cache(g->device, e) < 0) ||
        (o->batch_dependent && device_use_any_order(g->device, e) < 0) ||
        model_open(&g->model, o->model, g->device, e) < 0)
        goto failed;
    if (model_config(g->model)->encoder) {
        err_set(e, "%s: is an encoder (%s) and cannot generate", o->model, model_config(g->model)->family_name);
        goto failed;
    }
    if (open_dual(g, e) < 0)
        goto failed;
    struct engine_options eo = {
        .kv_memory = o->kv_memory, .batch = o->batch, .tokenizer = g->tokenizer, .shown_as = g->shown_as
    };
    if (engine_open(&g->engine, g->model, &eo, e) < 0)
        goto failed;
    gen_params_init(&g->params, model_config(g->model));
    if (constrain(g, o, e) < 0)
        goto failed;
    *out = g;
    return 0;
failed:
    generator_close(g);
    return -1;
}

void generator_close(struct generator *g)
{
    if (!g)
        return;
    engine_close(g->engine);
    model_close(g->model);
    device_close(g->device);
    chat_template_close(g->chat);
    tokenizer_close(g->tokenizer);
    tokens_release(&g->tokens);
    buf_release(&g->prompt);
    dual_close(g->dual);
    free(g->shown_as);
    free(g->dir);
    free(g);
}

struct gen_params *generator_params(struct generator *g)
{
    return &g->params;
}

const char *generator_family(const struct generator *g)
{
    return model_config(g->model)->family == MODEL_LLAMA ? "llama3" : "qwen";
}

static void put_messages(const struct turns *t, struct buf *out)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < t->n; i++) {
        buf_printf(out, "%s{\"role\": \"%s\", \"content\": ", i ? ", " : "", t->v[i].role);
        json_put_cstr(out, t->v[i].text);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

static int render(struct generator *g, const struct turns *t, struct buf *text, struct err *e)
{
    if (!g->chat && chat_template_open(&g->chat, g->dir, e) < 0)
        return -1;
    struct buf messages = BUF_INIT;
    put_messages(t, &messages);
    int rc = chat_template_render_json(g->chat, messages.s, NULL, true, tokenizer_bos_token(g->tokenizer),
                                       tokenizer_eos_token(g->tokenizer), text, e);
    buf_release(&messages);
    return rc;
}

static bool is_raw(const struct prompt_spec *spec)
{
    return spec->format == PROMPT_RAW && !spec->data;
}

int generator_prompt(struct generator *g, const struct prompt_spec *spec, const struct prompt_question *q, double ratio,
                     struct buf *text, struct err *e)
{
    struct turns t = { NULL, 0, 0 };
    int rc = prompt_turns(spec, q, ratio, &t, e);
    if (rc == 0 && is_raw(spec))
        buf_puts(text, t.v[0].text);
    else if (rc == 0)
        rc = render(g, &t, text, e);
    g->rendered = text->len;
    if (rc == 0)
        rc = prompt_finish(spec, &t, text, e);
    turns_release(&t);
    return rc;
}

int generator_submit(struct generator *g, const struct prompt_spec *spec, const struct prompt_question *q, double ratio,
                     int first, int n, uint64_t seed, void *user, struct err *e)
{
    buf_reset(&g->prompt);
    if (generator_prompt(g, spec, q, ratio, &g->prompt, e) < 0)
        return -1;
    /* a template writes its own BOS */
    unsigned flags = is_raw(spec) ? TOK_SPECIALS : 0;
    if (tokenizer_encode(g->tokenizer, g->prompt.s ? g->prompt.s : "", g->prompt.len, flags, &g->tokens, e) < 0)
        return -1;
    if (g->dual)
        g->params.phase = dual_phase(g->dual, g->tokens.id, (int64_t)g->tokens.n, model_config(g->model)->eos,
                                     model_config(g->model)->n_eos);
    struct gen_params p = g->params;
    int room = g->max_context - (int)g->tokens.n;
    if (g->max_context && room < 1)
        return err_set(e, "%s: the prompt has %zu tokens, prompt and response together may have %d", q->source_id,
                       g->tokens.n, g->max_context);
    if (g->max_context && p.max_new > room)
        p.max_new = room;
    struct gen_request r = { .prompt = g->tokens.id,
                             .n_prompt = (int)g->tokens.n,
                             .n_samples = n,
                             .first_sample = first,
                             .seed = seed,
                             .source_id = q->source_id,
                             .user = user,
                             .params = &p };
    return engine_submit(g->engine, &r, e);
}

static bool ends_open(const struct generator *g)
{
    static const char end[] = "<think>\n";
    size_t n = sizeof end - 1;
    return g->prompt.len >= n && memcmp(g->prompt.s + g->prompt.len - n, end, n) == 0;
}

bool generator_thinking(const struct generator *g)
{
    return g->dual ? g->params.phase == 0 : ends_open(g);
}

bool generator_appended(const struct generator *g)
{
    return ends_open(g) && g->prompt.len == g->rendered + strlen("<think>\n");
}

/* A stop string ended it: r->text is the text in front of that, where the think end may have no text. Ours is the same
 * but for the think end, so it is cut where it has as many bytes. */
static void cut_dual(const struct gen_result *r, bool special, struct generated *out)
{
    size_t n = strlen(r->text);
    if (special && out->think_end >= 0 && n > (size_t)out->think_end)
        n += out->think_end_n;
    if (n < out->text.len) {
        out->text.len = n;
        out->text.s[n] = '\0';
    }
    if (out->think_end >= 0 && (size_t)out->think_end + out->think_end_n > out->text.len)
        out->think_end = -1;
}

static void keep_ids(const struct gen_result *r, int32_t think_end, struct generated *out)
{
    if (out->tokens > out->cap) {
        out->cap = out->tokens;
        out->ids = xreallocarray(out->ids, (size_t)out->cap, sizeof *out->ids);
    }
    for (int i = 0; i < out->tokens; i++)
        out->ids[i] = i < r->n ? r->ids[i] : r->stop_id;
    out->think_end_at = -1;
    for (int i = out->tokens; i-- > 0;)
        out->think_end_at = out->ids[i] == think_end ? i : out->think_end_at;
}

/* Counts, and the text in three parts: thought, the think end (which may be a special token), the answer. */
static int put_dual(struct generator *g, struct gen_result *r, struct generated *out, struct err *e)
{
    const struct dual_meta *m = dual_meta(g->dual);
    int end = r->n;
    out->latent = 0;
    out->think_end = -1;
    out->think_end_n = strlen(m->think_end);
    keep_ids(r, m->think_end_id, out);
    for (int i = 0; i < r->n; i++)
        out->latent += dual_is_latent(g->dual, r->ids[i]);
    out->thought = r->n > 0 && (dual_is_latent(g->dual, r->ids[0]) || r->ids[0] == m->think_end_id);
    for (int i = r->n; out->thought && i-- > 0;)
        end = r->ids[i] == m->think_end_id ? i : end;
    dual_show(g->dual, r->ids, r->n);
    if (tokenizer_decode(g->tokenizer, r->ids, (size_t)end, true, &out->text, e) < 0)
        return -1;
    if (end < r->n) {
        out->think_end = (long)out->text.len;
        buf_puts(&out->text, m->think_end);
        if (tokenizer_decode(g->tokenizer, r->ids + end + 1, (size_t)(r->n - end - 1), true, &out->text, e) < 0)
            return -1;
    }
    if (r->text)
        cut_dual(r, tokenizer_is_special(g->tokenizer, m->think_end_id), out);
    return 0;
}

int generator_next(struct generator *g, struct generated *out, struct err *e)
{
    struct gen_result r;
    int rc = engine_next(g->engine, &r, e);
    if (rc <= 0)
        return rc;
    out->user = r.user;
    out->sample = r.sample_index;
    out->tokens = r.n + (r.stop_id >= 0);
    out->truncated = r.finish == GEN_LENGTH;
    buf_reset(&out->text);
    out->dual = g->dual != NULL;
    if (g->dual)
        rc = put_dual(g, &r, out, e) < 0 ? -1 : rc;
    else if (r.text)
        buf_puts(&out->text, r.text);
    else if (tokenizer_decode(g->tokenizer, r.ids, (size_t)r.n, true, &out->text, e) < 0)
        rc = -1;
    gen_result_release(&r);
    return rc;
}

void generated_release(struct generated *out)
{
    buf_release(&out->text);
    free(out->ids);
}

int64_t generator_waiting(const struct generator *g)
{
    return engine_stats(g->engine).waiting;
}

struct engine_stats generator_stats(const struct generator *g)
{
    return engine_stats(g->engine);
}

int generator_count(struct generator *g, const char *text, size_t n, int64_t *out, struct err *e)
{
    if (tokenizer_encode(g->tokenizer, text, n, 0, &g->tokens, e) < 0)
        return -1;
    *out = (int64_t)g->tokens.n;
    return 0;
}
