/* evaluate.c - see evaluate.h. */
#include "task/evaluate.h"

#include <string.h>

#include "base/utf8.h"
#include "io/record.h"

static void put_view(struct buf *b, const char *key, struct view v)
{
    if (v.s)
        rec_put_text(b, key, v.s, v.n);
    else
        rec_put_null(b, key);
}

static void put_answer(struct buf *b, bool answered, const struct buf *answer)
{
    if (answered)
        rec_put_text(b, "extracted", answer->s ? answer->s : "", answer->len);
    else
        rec_put_null(b, "extracted");
}

void evaluate_row(const struct sampling *s, const struct sample *x, struct buf *b)
{
    const struct judgement *g = x->verdict;
    rec_begin(b);
    rec_put_cstr(b, "benchmark", x->q->benchmark.s);
    rec_put_cstr(b, "source_id", x->q->source_id.s);
    rec_put_int(b, "sample_index", x->index);
    rec_put_cstr(b, "question", x->q->question.s);
    rec_put_text(b, "gold_answer", x->q->gold.s, x->q->gold.len);
    rec_put_real(b, "compression_ratio", x->ratio);
    rec_put_cstr(b, "prompt_format", prompt_format_name(s->spec.format));
    rec_put_text(b, "response_text", x->text.s, x->text.n);
    put_view(b, "reasoning", x->parts.reasoning);
    put_answer(b, g->answered, &g->answer);
    rec_put_cstr(b, "verdict", g->verdict);
    rec_put_cstr(b, "reason", g->reason);
    rec_put_bool(b, "is_correct", g->correct);
    rec_put_bool(b, "is_correct_compat", g->compat_correct);
    rec_put_int(b, "num_tokens", x->g->tokens);
    rec_put_int(b, "think_tokens", x->before_end_tokens);
    if (x->g->dual) {
        rec_put_int(b, "latent_tokens", x->g->latent);
        rec_put_int(b, "visible_tokens", x->g->tokens - x->g->latent);
    }
    rec_put_cstr(b, "finish_reason", x->g->truncated ? "length" : "stop");
    rec_put_int(b, "seed", s->run.seed);
    rec_end(b);
}

/* ---- the reference ---- */

/* The first 500 characters. */
static void put_head(struct buf *b, const char *key, const char *s, size_t n)
{
    size_t end = 0;
    uint32_t cp;
    for (int i = 0; i < 500 && end < n; i++) {
        int k = utf8_decode(s + end, n - end, &cp);
        end += k ? (size_t)k : 1;
    }
    rec_put_text(b, key, n ? s : "", end);
}

static void put_ids(struct buf *b, const int32_t *ids, int n)
{
    buf_putc(b, '[');
    for (int i = 0; i < n; i++)
        buf_printf(b, "%s%d", i ? ", " : "", ids[i]);
    buf_putc(b, ']');
}

/* Two vocabularies: how many ids of each, the first 50, and those around the first think end. */
static void put_compat_ids(struct buf *b, const struct generated *g)
{
    struct buf v = BUF_INIT;
    int at = g->think_end_at, from = at > 5 ? at - 5 : 0, end = at + 11 < g->tokens ? at + 11 : g->tokens;
    rec_put_int(b, "num_latent_ids", g->latent);
    rec_put_int(b, "num_visible_ids", g->tokens - g->latent);
    put_ids(&v, g->ids, g->tokens < 50 ? g->tokens : 50);
    rec_put(b, "raw_token_ids_head", (struct json){ v.s, v.len });
    if (at >= 0) {
        buf_reset(&v);
        buf_printf(&v, "{\"offset\": %d, \"ids\": ", from);
        put_ids(&v, g->ids + from, end - from);
        buf_printf(&v, ", \"think_end_pos\": %d}", at);
        rec_put(b, "raw_ids_around_think_end", (struct json){ v.s, v.len });
    }
    buf_release(&v);
}

void evaluate_compat_row(const struct sample *x, struct evaluate_totals *t, struct buf *b)
{
    const struct judgement *g = x->verdict;
    struct view before = think_before_end(x->text.s, x->text.n);
    t->samples++;
    t->correct += g->compat_correct;
    t->tokens += x->g->tokens;
    t->think_tokens += x->before_end_tokens;
    t->correct_tokens += g->compat_correct ? x->g->tokens : 0;
    rec_begin(b);
    rec_put_cstr(b, "source_id", x->q->source_id.s);
    put_head(b, "prediction", x->parts.visible.s, x->parts.visible.n);
    put_head(b, "thinking", before.s, before.n);
    rec_put_int(b, "num_tokens", x->g->tokens);
    rec_put_int(b, "think_tokens", x->before_end_tokens);
    rec_put_bool(b, "is_correct", g->compat_correct);
    put_answer(b, g->compat_answered, &g->compat_answer);
    if (x->g->dual)
        put_compat_ids(b, x->g);
    rec_end(b);
}

enum { NOTHING, SOT, COD };

/* Which of the reference's methods the prompt data stands for, by its name. */
static int method_of(const struct sampling *s)
{
    const char *name = s->spec.data ? s->spec.data->name : NULL;
    if (!name)
        return NOTHING;
    return strncmp(name, "cod", 3) == 0 ? COD : SOT;
}

static void put_prompt_format(const struct sampling *s, struct buf *b)
{
    struct buf v = BUF_INIT;
    int method = method_of(s);
    if (method == NOTHING && s->spec.format == PROMPT_TOKENSKIP)
        buf_printf(&v, "tokenskip_chat_template:%s", strcmp(s->spec.delimiter, "<|eot_id|>") == 0 ? "llama3" : "qwen");
    else if (method == NOTHING)
        buf_puts(&v, s->spec.format == PROMPT_RAW ? "raw_text" : prompt_format_name(s->spec.format));
    else
        buf_printf(&v, "%s:%s%s%s", method == SOT ? "sot" : "cod", s->spec.data->name,
                   s->spec.layout == LAYOUT_SYSTEM_ONLY ? ":system_only"
                   : s->spec.layout == LAYOUT_MULTITURN ? ":multiturn"
                                                        : "",
                   s->spec.suppress ? ":suppress_thinking" : "");
    rec_put_cstr(b, "prompt_format", v.s);
    buf_release(&v);
}

static void put_methods(const struct sampling *s, struct buf *b)
{
    int method = method_of(s);
    bool multiturn = s->spec.data && s->spec.layout == LAYOUT_MULTITURN;
    rec_put_bool(b, "sot_prompt", method == SOT);
    rec_put_cstr(b, "sot_paradigm", method == SOT ? s->spec.data->name : NULL);
    rec_put_bool(b, "sot_multiturn_exemplars", method == SOT && multiturn);
    rec_put_bool(b, "cod_prompt", method == COD);
    rec_put_cstr(b, "cod_paradigm", method == COD ? s->spec.data->name : NULL);
    rec_put_bool(b, "cod_multiturn_exemplars", method == COD && multiturn);
    rec_put_null(b, "cod_shot");
    rec_put_bool(b, "suppress_thinking", s->spec.suppress);
}

static double per(int64_t sum, int64_t n)
{
    return n ? (double)sum / (double)n : 0;
}

void evaluate_compat_summary(const struct sampling *s, double ratio, const struct evaluate_totals *t, struct buf *b)
{
    rec_begin(b);
    rec_put_cstr(b, "type", "summary");
    rec_put_cstr(b, "model_path", s->stage_model.name);
    put_prompt_format(s, b);
    rec_put_bool(b, "tokenskip_prompt", !s->spec.data && s->spec.format == PROMPT_TOKENSKIP);
    rec_put_real(b, "compression_ratio", ratio);
    put_methods(s, b);
    rec_put_int(b, "num_samples", t->samples);
    rec_put_int(b, "correct", t->correct);
    rec_put_real(b, "accuracy", per(t->correct, t->samples));
    rec_put_real(b, "avg_tokens", per(t->tokens, t->samples));
    rec_put_real(b, "avg_thinking_tokens", per(t->think_tokens, t->samples));
    rec_put_real(b, "avg_correct_tokens", per(t->correct_tokens, t->correct));
    rec_end(b);
}
