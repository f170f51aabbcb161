/* scoring.c - see scoring.h. */
#include "task/scoring.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "model/dual.h"
#include "task/think.h"
#include "text/template.h"

struct scoring {
    struct scoring_spec spec;
    struct tokenizer *tokenizer;
    struct dual *dual;          /* NULL: one vocabulary */
    struct chat_template *chat; /* opened when a row first needs it */
};

int scoring_open(struct scoring **out, const struct scoring_spec *spec, struct err *e)
{
    struct scoring *s = xcalloc(1, sizeof *s);
    *out = NULL;
    s->spec = *spec;
    if (tokenizer_open(&s->tokenizer, spec->dir, e) < 0 || dual_open(&s->dual, spec->dir, s->tokenizer, e) < 0) {
        scoring_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void scoring_close(struct scoring *s)
{
    if (!s)
        return;
    chat_template_close(s->chat);
    dual_close(s->dual);
    tokenizer_close(s->tokenizer);
    free(s);
}

void score_row_release(struct score_row *row)
{
    buf_release(&row->head);
    buf_release(&row->text);
    tokens_release(&row->tok);
}

static void skip(struct score_row *row, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void skip(struct score_row *row, const char *fmt, ...)
{
    va_list ap;
    if (row->reason[0])
        return;
    va_start(ap, fmt);
    vsnprintf(row->reason, sizeof row->reason, fmt, ap);
    va_end(ap);
}

/* ---- names ---- */

/* The question's id: a sample's without its last _s and what follows. */
static void put_question_id(struct buf *b, struct json source_id)
{
    struct buf id = BUF_INIT;
    json_str(source_id, &id);
    long cut = view_find_last(id.s ? id.s : "", id.len, "_s");
    rec_put_text(b, "question_source_id", id.s ? id.s : "", cut >= 0 ? (size_t)cut : id.len);
    buf_release(&id);
}

/* source_id, question_source_id, compression_ratio: of the row, or of its metadata. A row without source_id is named by
 * its place. */
static void put_names(struct score_row *row, const struct rec *r)
{
    struct json meta = { "{}", 2 }, id, v;
    rec_get(r, "metadata", &meta);
    rec_begin(&row->head);
    bool own = rec_get(r, "source_id", &id), named = own || json_get(meta, "source_id", &id);
    if (named && json_kind(id) == JSON_STRING) {
        rec_put(&row->head, "source_id", id);
        put_question_id(&row->head, id);
    } else {
        rec_put_int(&row->head, "index", (int64_t)r->index);
    }
    if (rec_get(r, "compression_ratio", &v) || json_get(meta, "compression_ratio", &v))
        rec_put(&row->head, "compression_ratio", v);
}

/* ---- regions ---- */

static size_t characters(const char *s, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += (s[i] & 0xc0) != 0x80;
    return n;
}

static void set_region(struct score_row *row, enum score_region k, size_t begin, size_t end)
{
    row->region[k].there = true;
    row->region[k].begin = characters(row->text.s, begin);
    row->region[k].end = row->region[k].begin + characters(row->text.s + begin, end - begin);
}

/* Regions of a sample, whose answer is known. False: the text has no \boxed{ and </think>. */
static bool find_answer(struct score_row *row, size_t answer_bytes)
{
    struct answer_regions a;
    if (!think_answer_regions(row->text.s, row->text.len, answer_bytes, &a))
        return false;
    set_region(row, REGION_ANSWER, a.answer.begin, a.answer.end);
    set_region(row, REGION_BOXED, a.boxed.begin, a.boxed.end);
    set_region(row, REGION_POST_COT, a.post_cot.begin, a.post_cot.end);
    return true;
}

/* Regions of any other text, where it has them: the answer is what the last \boxed{...} of the completion (bytes from
 * `from` on) holds, to its matching brace. Without </think> there is no post_cot. */
static void look_for_answer(struct score_row *row, size_t from)
{
    const char *s = row->text.s;
    size_t n = row->text.len;
    long at = view_find_last(s, n, "\\boxed{");
    if (at < 0 || (size_t)at < from)
        return;
    size_t begin = (size_t)at + 7, end = begin;
    for (int depth = 1; end < n; end++) {
        depth += s[end] == '{' ? 1 : s[end] == '}' ? -1 : 0;
        if (depth == 0)
            break;
    }
    if (end == n)
        return; /* never closed */
    long think = view_find_last(s, n, "</think>");
    if (think >= 0 && (size_t)think >= from && think < at && end + 2 <= n) {
        find_answer(row, end - begin);
    } else {
        set_region(row, REGION_ANSWER, begin, end);
        set_region(row, REGION_BOXED, (size_t)at, end + 1);
    }
}

/* ---- texts ---- */

static int render(struct scoring *s, const char *messages, bool prompt, struct buf *out, struct err *e)
{
    return chat_template_render_json(s->chat, messages, NULL, prompt, tokenizer_bos_token(s->tokenizer),
                                     tokenizer_eos_token(s->tokenizer), out, e);
}

/* row->text from all messages; the completion begins where it leaves the rendering of `before`, which has everything
 * but the last message and a generation prompt. */
static int render_row(struct scoring *s, struct score_row *row, const char *all, const char *before, size_t *from,
                      struct err *e)
{
    struct err own = { "" };
    struct buf prompt = BUF_INIT;
    if (!s->chat && chat_template_open(&s->chat, s->spec.dir, e) < 0)
        return -1;
    if (render(s, all, false, &row->text, &own) < 0 || render(s, before, true, &prompt, &own) < 0) {
        skip(row, "%s", own.msg);
    } else {
        size_t n = 0;
        while (n < prompt.len && n < row->text.len && prompt.s[n] == row->text.s[n])
            n++;
        while (n > 0 && n < row->text.len && (row->text.s[n] & 0xc0) == 0x80)
            n--; /* whole characters */
        set_region(row, REGION_COMPLETION, n, row->text.len);
        *from = n;
    }
    buf_release(&prompt);
    return 0;
}

static int messages_row(struct scoring *s, struct json messages, struct score_row *row, struct err *e)
{
    struct buf before = BUF_INIT, all = BUF_INIT;
    struct json m, role = { NULL, 0 };
    size_t n = json_kind(messages) == JSON_ARRAY ? json_count(messages) : 0, i = 0, from = 0;
    buf_putc(&before, '[');
    for (struct json_iter it = json_each(messages); n && json_next(&it, NULL, &m); i++) {
        if (i + 1 < n) {
            buf_puts(&before, i ? "," : "");
            buf_add(&before, m.s, m.n);
        } else if (!json_get(m, "role", &role)) {
            role = (struct json){ NULL, 0 };
        }
    }
    buf_putc(&before, ']');
    buf_add(&all, messages.s, messages.n);
    int rc = 0;
    if (!n || !json_str_is(role, "assistant"))
        skip(row, "messages does not end with a turn of the assistant");
    else
        rc = render_row(s, row, all.s, before.s, &from, e);
    if (rc == 0 && !row->reason[0])
        look_for_answer(row, from);
    buf_release(&before);
    buf_release(&all);
    return rc;
}

static void put_message(struct buf *b, const char *role, const char *content, size_t n)
{
    buf_puts(b, b->len > 1 ? "," : "");
    buf_puts(b, "{\"role\":");
    json_put_cstr(b, role);
    buf_puts(b, ",\"content\":");
    json_put_str(b, content, n);
    buf_putc(b, '}');
}

/* The first of the keys that holds a string; appended to out. */
static bool first_text(const struct rec *r, const char *const *keys, struct buf *out)
{
    struct json v;
    for (; *keys; keys++)
        if (rec_get(r, *keys, &v) && json_kind(v) == JSON_STRING) {
            json_str(v, out);
            buf_grow(out, 0)[0] = '\0'; /* "" too is a string */
            return true;
        }
    return false;
}

struct sample_texts {
    struct buf question, reasoning, answer, benchmark;
    double ratio;
};

static bool sample_read(const struct rec *r, struct sample_texts *t, struct score_row *row)
{
    struct json v;
    t->ratio = 1;
    first_text(r, (const char *const[]){ "benchmark", NULL }, &t->benchmark);
    if (!first_text(r, (const char *const[]){ "question", NULL }, &t->question))
        skip(row, "question is no text");
    if (!first_text(r, (const char *const[]){ "compressed_reasoning", "reasoning", NULL }, &t->reasoning))
        skip(row, "there is no reasoning");
    if (!first_text(r, (const char *const[]){ "answer", "gold_answer", NULL }, &t->answer))
        skip(row, "there is no answer");
    if (rec_get(r, "compressed_reasoning", &v) &&
        (!rec_get(r, "compression_ratio", &v) || !json_double(v, &t->ratio) || !(t->ratio > 0 && t->ratio <= 1)))
        skip(row, "compression_ratio is no number above 0 and up to 1");
    return !row->reason[0];
}

static void assistant_text(const struct scoring *s, const struct sample_texts *t, struct buf *out)
{
    if (s->spec.compat && s->spec.format == PROMPT_TOKENSKIP) {
        buf_add(out, t->reasoning.s, t->reasoning.len);
        buf_puts(out, "\n\n");
        prompt_assistant(s->spec.format, NULL, t->answer.s, false, out);
    } else {
        prompt_assistant(s->spec.format, t->reasoning.s, t->answer.s, false, out);
    }
}

static int sample_chat(struct scoring *s, const struct sample_texts *t, struct score_row *row, struct err *e)
{
    struct prompt_spec spec = { .format = s->spec.format, .delimiter = s->spec.delimiter };
    struct prompt_question q = { .benchmark = t->benchmark.s ? t->benchmark.s : "",
                                 .source_id = "",
                                 .question = t->question.s };
    struct turns turns = { 0 };
    struct buf all = BUF_INIT, before = BUF_INIT, said = BUF_INIT;
    int rc = prompt_turns(&spec, &q, t->ratio, &turns, e);
    buf_putc(&all, '[');
    for (size_t i = 0; i < turns.n; i++)
        put_message(&all, turns.v[i].role, turns.v[i].text, strlen(turns.v[i].text));
    buf_add(&before, all.s, all.len);
    buf_putc(&before, ']');
    assistant_text(s, t, &said);
    put_message(&all, "assistant", said.s, said.len);
    buf_putc(&all, ']');
    size_t from = 0;
    if (rc == 0)
        rc = render_row(s, row, all.s, before.s, &from, e);
    buf_release(&all);
    buf_release(&before);
    buf_release(&said);
    turns_release(&turns);
    return rc;
}

static int sample_row(struct scoring *s, const struct rec *r, struct score_row *row, struct err *e)
{
    struct sample_texts t = { .ratio = 1 };
    int rc = 0;
    if (sample_read(r, &t, row)) {
        rec_put_text(&row->head, "answer", t.answer.s, t.answer.len);
        if (s->spec.format == PROMPT_RAW) {
            buf_add(&row->text, t.question.s, t.question.len);
            buf_putc(&row->text, '\n');
            size_t from = row->text.len;
            assistant_text(s, &t, &row->text);
            set_region(row, REGION_COMPLETION, from, row->text.len);
        } else {
            rc = sample_chat(s, &t, row, e);
        }
    }
    if (rc == 0 && !row->reason[0] && !find_answer(row, t.answer.len) && s->spec.format == PROMPT_TOKENSKIP)
        skip(row, "the rendered conversation has no \\boxed{ and </think>");
    buf_release(&t.question);
    buf_release(&t.reasoning);
    buf_release(&t.answer);
    buf_release(&t.benchmark);
    return rc;
}

static void plain_row(const struct rec *r, struct score_row *row)
{
    if (!first_text(r, (const char *const[]){ "prompt", NULL }, &row->text))
        skip(row, "prompt is no text");
    size_t from = row->text.len;
    if (!first_text(r, (const char *const[]){ "completion", NULL }, &row->text))
        skip(row, "completion is no text");
    if (row->reason[0])
        return;
    set_region(row, REGION_COMPLETION, from, row->text.len);
    look_for_answer(row, from);
}

/* ---- tokens ---- */

static bool overlaps(const struct score_row *row, enum score_region k, size_t t)
{
    size_t begin = row->tok.begin[t], end = row->tok.end[t];
    return row->region[k].there && end > begin && begin < row->region[k].end && end > row->region[k].begin;
}

/* What such a model was trained on: the reasoning of the completion is latent. */
static void remap(const struct scoring *s, struct score_row *row)
{
    size_t t = 0, n = row->tok.n;
    while (t < n && !overlaps(row, REGION_COMPLETION, t))
        t++;
    dual_remap(s->dual, row->tok.id, (int64_t)t, (int64_t)n);
    for (t = 0; t < n; t++)
        row->latent += dual_is_latent(s->dual, row->tok.id[t]);
}

static int encode(const struct scoring *s, struct score_row *row, unsigned flags)
{
    struct err e = { "" };
    if (tokenizer_encode(s->tokenizer, row->text.s, row->text.len, flags | TOK_OFFSETS, &row->tok, &e) < 0) {
        skip(row, "%s", e.msg);
        return -1;
    }
    if (row->tok.n > (size_t)s->spec.max_tokens) {
        skip(row, "%zu tokens are more than %d", row->tok.n, s->spec.max_tokens);
        return -1;
    }
    if (s->dual)
        remap(s, row);
    row->first = (int)row->tok.n;
    for (size_t t = row->tok.n; t-- > 0;) {
        if (row->tok.id[t] >= s->spec.vocab)
            skip(row, "token %d is outside the model's vocabulary of %d", row->tok.id[t], s->spec.vocab);
        for (int k = 0; t >= 1 && k < SCORE_REGIONS; k++)
            if (overlaps(row, (enum score_region)k, t))
                row->first = (int)t;
    }
    if (row->first == (int)row->tok.n)
        skip(row, "there is no token to score");
    return 0;
}

int scoring_prepare(struct scoring *s, const struct rec *r, struct score_row *row, struct err *e)
{
    struct json v;
    int rc = 0;
    unsigned flags = 0;
    buf_reset(&row->head);
    buf_reset(&row->text);
    row->tok.n = 0;
    row->first = row->latent = 0;
    row->reason[0] = '\0';
    memset(row->region, 0, sizeof row->region);
    put_names(row, r);
    if (rec_get(r, "messages", &v)) {
        rc = messages_row(s, v, row, e);
    } else if (rec_get(r, "prompt", &v) && rec_get(r, "completion", &v)) {
        plain_row(r, row);
        flags = TOK_SPECIALS;
    } else if (rec_get(r, "question", &v)) {
        rc = sample_row(s, r, row, e);
        flags = s->spec.format == PROMPT_RAW ? TOK_SPECIALS : 0;
    } else {
        skip(row, "the row has neither messages, nor prompt and completion, nor a question");
    }
    if (rc == 0 && !row->reason[0])
        encode(s, row, flags);
    return rc;
}

/* ---- writing ---- */

struct total {
    double logprob, entropy;
    int64_t tokens;
};

static struct total sum(const struct score_row *row, enum score_region k, const float *logprob, const float *entropy)
{
    struct total sum = { 0, 0, 0 };
    for (size_t t = (size_t)row->first; t < row->tok.n; t++)
        if (overlaps(row, k, t)) {
            sum.logprob += (double)logprob[t - (size_t)row->first];
            sum.entropy += (double)entropy[t - (size_t)row->first];
            sum.tokens++;
        }
    return sum;
}

static void put_mean(struct buf *b, const char *key, double total, int64_t n)
{
    if (n)
        rec_put_real(b, key, total / (double)n);
    else
        rec_put_null(b, key);
}

static void put_tokens(const struct score_row *row, const float *logprob, const float *entropy, struct buf *out)
{
    static const char *const keys[] = { "ids", "logprobs", "entropies" };
    struct buf b = BUF_INIT;
    buf_printf(&b, "{\"first\": %d", row->first);
    for (int k = 0; k < 3; k++) {
        buf_printf(&b, ", \"%s\": [", keys[k]);
        for (size_t t = k == 0 ? 0 : (size_t)row->first, i = 0; t < row->tok.n; t++, i++) {
            buf_puts(&b, i ? ", " : "");
            if (k == 0)
                buf_printf(&b, "%d", row->tok.id[t]);
            else
                json_put_float(&b, k == 1 ? logprob[i] : entropy[i]);
        }
        buf_putc(&b, ']');
    }
    buf_putc(&b, '}');
    rec_put(out, "tokens", (struct json){ b.s, b.len });
    buf_release(&b);
}

void scoring_write(const struct scoring *s, const struct score_row *row, const float *logprob, const float *entropy,
                   struct buf *out)
{
    static const char *const names[] = { NULL, "answer", "boxed", "post_cot" };
    struct total total[SCORE_REGIONS];
    char key[64];
    struct buf b = BUF_INIT;
    buf_add(&b, row->head.s, row->head.len);
    for (int k = 0; k < SCORE_REGIONS && !row->reason[0]; k++)
        total[k] = sum(row, (enum score_region)k, logprob, entropy);
    for (int k = REGION_ANSWER; k < SCORE_REGIONS && !row->reason[0]; k++) {
        snprintf(key, sizeof key, "logprob_%s", names[k]);
        if (row->region[k].there)
            rec_put_real(&b, key, total[k].logprob);
        else
            rec_put_null(&b, key);
        snprintf(key, sizeof key, "num_%s_tokens", names[k]);
        rec_put_int(&b, key, total[k].tokens);
    }
    if (row->tok.n)
        rec_put_int(&b, "input_token_count", (int64_t)row->tok.n);
    if (row->tok.n && s->dual)
        rec_put_int(&b, "latent_token_count", row->latent);
    rec_put_bool(&b, "skipped", row->reason[0] != '\0');
    if (row->reason[0]) {
        rec_put_cstr(&b, "reason", row->reason);
    } else {
        const struct total *all = &total[REGION_COMPLETION];
        rec_put_real(&b, "logprob", all->logprob);
        rec_put_int(&b, "num_tokens", all->tokens);
        put_mean(&b, "surprisal", -all->logprob, all->tokens);
        put_mean(&b, "entropy", all->entropy, all->tokens);
        for (int k = REGION_ANSWER; k < SCORE_REGIONS; k++) {
            snprintf(key, sizeof key, "mean_logprob_%s", names[k]);
            put_mean(&b, key, total[k].logprob, total[k].tokens);
        }
        if (s->spec.tokens)
            put_tokens(row, logprob, entropy, &b);
    }
    rec_end(&b);
    buf_add(out, b.s, b.len);
    buf_release(&b);
}
