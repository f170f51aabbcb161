/* answer_record.c - see answer_record.h. */
#include "task/answer_record.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "io/record.h"
#include "task/think.h"
#include "text/tokenizer.h"

enum { MAX_CHANGES = 16 };

struct answer_grader {
    struct answer_checker *checker;
    struct answer_result result;
    struct buf gold, text, word, compat;
    struct tokens tokens;
    struct buf raw[MAX_CHANGES]; /* JSON of the changed members */
    struct rec_change change[MAX_CHANGES];
    size_t changes;
};

int answer_grader_open(struct answer_grader **out, struct err *e)
{
    struct answer_grader *g = xcalloc(1, sizeof *g);
    answer_result_init(&g->result);
    if (answer_checker_open(&g->checker, e) < 0) {
        answer_grader_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void answer_grader_close(struct answer_grader *g)
{
    if (!g)
        return;
    answer_result_release(&g->result);
    answer_checker_close(g->checker);
    buf_release(&g->gold);
    buf_release(&g->text);
    buf_release(&g->word);
    buf_release(&g->compat);
    tokens_release(&g->tokens);
    for (size_t i = 0; i < MAX_CHANGES; i++)
        buf_release(&g->raw[i]);
    free(g);
}

void answer_grader_flush(struct answer_grader *g)
{
    answer_checker_flush(g->checker);
}

/* ---- members to write ---- */

static struct buf *next_change(struct answer_grader *g, const char *key)
{
    struct buf *b = &g->raw[g->changes];
    buf_reset(b);
    g->change[g->changes++].key = key;
    return b;
}

static void set_text(struct answer_grader *g, const char *key, const char *s, size_t n)
{
    json_put_str(next_change(g, key), s ? s : "", n);
}

static void set_view(struct answer_grader *g, const char *key, struct view v)
{
    if (v.s)
        set_text(g, key, v.s, v.n);
    else
        buf_puts(next_change(g, key), "null");
}

static void set_bool(struct answer_grader *g, const char *key, bool v)
{
    buf_puts(next_change(g, key), v ? "true" : "false");
}

static bool has(const struct rec *r, const char *key)
{
    struct json v;
    return rec_get(r, key, &v);
}

static bool has_value(const struct rec *r, const char *key)
{
    struct json v;
    return rec_get(r, key, &v) && json_kind(v) != JSON_NULL;
}

static bool member_is(const struct rec *r, const char *key, const char *word)
{
    struct json v;
    return rec_get(r, key, &v) && json_kind(v) == JSON_STRING && json_str_is(v, word);
}

/* ---- reading ---- */

enum source { FROM_PRED, FROM_SOLUTION, FROM_RESPONSE };

static int read_texts(struct answer_grader *g, const struct rec *r, enum source *source, struct err *e)
{
    static const char *const keys[] = { "pred", "solution", "response_text" };
    int k = 0;
    while (k < 3 && !has_value(r, keys[k]))
        k++;
    if (k == 3 && has(r, "samples"))
        return err_set(e, "%s: holds the samples of a question: select --compat makes them flat", r->where);
    if (k == 3)
        return err_set(e, "%s: no pred, solution or response_text to grade", r->where);
    const char *gold = has_value(r, "gold") ? "gold" : "gold_answer";
    if (!has(r, gold))
        return err_set(e, "%s: no gold or gold_answer to grade against", r->where);
    buf_reset(&g->gold);
    buf_reset(&g->text);
    buf_puts(&g->gold, "");
    buf_puts(&g->text, "");
    *source = (enum source)k;
    return rec_text(r, gold, &g->gold, e) < 0 || rec_text(r, keys[k], &g->text, e) < 0 ? -1 : 0;
}

static enum answer_task task_for(struct answer_grader *g, const struct answer_record_options *o, const struct rec *r)
{
    enum answer_task task = ANSWER_MATH;
    struct json v;
    if (o->task >= 0)
        return (enum answer_task)o->task;
    buf_reset(&g->word);
    buf_puts(&g->word, o->benchmark ? o->benchmark : "");
    if (rec_get(r, "benchmark", &v) && json_kind(v) == JSON_STRING) {
        buf_reset(&g->word);
        json_str(v, &g->word);
    }
    if (g->word.s && !answer_task_of(g->word.s, &task) && strncmp(g->word.s, "mmlu", 4) == 0)
        task = ANSWER_MMLU;
    return task;
}

/* ---- the reference beside us ---- */

static bool compat_equal(struct answer_grader *g, enum answer_task task, const struct rec *r, enum source source,
                         struct view v)
{
    if (source == FROM_PRED)
        return answer_compat_score(task, v.s, v.n, g->gold.s, g->gold.len);
    bool found = member_is(r, "prompt_format", "xml") ? answer_compat_extract_xml(v.s, v.n, NULL, &g->compat) & 1
                                                      : answer_compat_extract(v.s, v.n, &g->compat);
    return found && answer_compat_score(task, g->compat.s ? g->compat.s : "", g->compat.len, g->gold.s, g->gold.len);
}

/* ---- fill ---- */

static int count_tokens(struct answer_grader *g, const struct answer_record_options *o, const char *key, struct view v,
                        struct err *e)
{
    size_t n = 0;
    if (v.s && v.n) {
        if (tokenizer_encode(o->tokenizer, v.s, v.n, 0, &g->tokens, e) < 0)
            return -1;
        n = g->tokens.n;
    }
    buf_printf(next_change(g, key), "%zu", n);
    return 0;
}

static int fill(struct answer_grader *g, const struct answer_record_options *o, const struct rec *r, struct think parts,
                struct err *e)
{
    if (o->benchmark && !has_value(r, "benchmark"))
        set_text(g, "benchmark", o->benchmark, strlen(o->benchmark));
    if (!has(r, "reasoning"))
        set_view(g, "reasoning", parts.reasoning);
    if (!has(r, "answer")) {
        bool none = strcmp(g->result.reason, "no_answer") == 0;
        set_view(g, "answer", (struct view){ none ? NULL : g->result.extracted.s, g->result.extracted.len });
    }
    if (!o->tokenizer)
        return 0;
    /* the end of the text was a token too, but which is not known: the count is of what can be seen */
    if (!has_value(r, "reasoning_token_count") && count_tokens(g, o, "reasoning_token_count", parts.reasoning, e) < 0)
        return -1;
    if (!has_value(r, "response_token_count") &&
        count_tokens(g, o, "response_token_count", (struct view){ g->text.s, g->text.len }, e) < 0)
        return -1;
    return 0;
}

/* ---- one record ---- */

static void count(struct answer_counts *c, const struct answer_result *a, bool cut, bool compat)
{
    bool none = strcmp(a->reason, "no_answer") == 0;
    c->records++;
    c->equal += a->verdict == ANSWER_EQUAL && !cut;
    c->undecided += a->verdict == ANSWER_UNDECIDED;
    c->unequal += a->verdict == ANSWER_UNEQUAL && !none;
    c->no_answer += none;
    c->truncated += cut;
    c->equal_compat += compat;
}

int answer_record_grade(struct answer_grader *g, const struct answer_record_options *o, const struct rec *r,
                        struct buf *out, struct answer_counts *counts, struct err *e)
{
    enum source source = FROM_PRED;
    g->changes = 0;
    if (read_texts(g, r, &source, e) < 0)
        return -1;
    enum answer_task task = task_for(g, o, r);
    struct answer_result *a = &g->result;
    struct think parts = think_split(g->text.s, g->text.len);
    bool cut = source == FROM_RESPONSE && member_is(r, "finish_reason", "length");
    bool sample = source == FROM_RESPONSE && has_value(r, "gold_answer");
    /* thinking that was cut off is no answer; with a closed block the answer is looked for behind it */
    struct view v = source == FROM_PRED ? (struct view){ g->text.s, g->text.len } : parts.visible;
    if (answer_grade(g->checker, task, g->gold.s, g->gold.len, v.s, v.n,
                     source == FROM_PRED ? ANSWER_PRED : ANSWER_SOLUTION, a, e) < 0)
        return -1;
    bool equal = a->verdict == ANSWER_EQUAL, compat = o->compat && compat_equal(g, task, r, source, v);
    if (o->fill && source == FROM_RESPONSE && fill(g, o, r, parts, e) < 0)
        return -1;
    if (sample || (o->fill && source == FROM_RESPONSE))
        set_bool(g, "is_correct", equal && !cut);
    if (sample && has(r, "answer") && !has_value(r, "answer") && strcmp(a->reason, "no_answer") != 0)
        set_text(g, "answer", a->extracted.s, a->extracted.len);
    set_bool(g, "equal", equal && !cut);
    if (strcmp(a->reason, "no_answer") == 0)
        buf_puts(next_change(g, "extracted"), "null");
    else
        set_text(g, "extracted", a->extracted.s, a->extracted.len);
    const char *reason = cut ? "truncated" : a->reason;
    set_text(g, "reason", reason, strlen(reason));
    set_text(g, "gold_form", a->gold_form.s, a->gold_form.len);
    set_text(g, "pred_form", a->pred_form.s, a->pred_form.len);
    if (o->compat)
        set_bool(g, "equal_compat", compat);
    for (size_t i = 0; i < g->changes; i++)
        g->change[i].raw = g->raw[i].s;
    rec_rewrite(out, r, g->change, g->changes);
    count(counts, a, cut, compat);
    return 0;
}
