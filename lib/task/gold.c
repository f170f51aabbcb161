/* gold.c - see gold.h. */
#include "task/gold.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/branch.h"
#include "model/dual.h"
#include "model/model.h"
#include "task/think.h"
#include "text/template.h"
#include "text/tokenizer.h"

enum { VARIANTS = 2, CACHE_POSITIONS = 16384 };
static const int64_t cache_bytes = (int64_t)2 << 30;
static const double no_answer = -100, no_think_end = -2;

struct gold {
    struct device *device;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat; /* opened when messages first need it */
    struct branches *branches;
    int max_tokens, vocab;
    char *dir, *think_end;
    int32_t think_end_id; /* -1: no such token */
    struct tokens tokens;
    struct buf text, answer;
};

/* ---- the gold answer ---- */

/* Bytes of what is dropped at s. */
static size_t dropped(const char *s, size_t n)
{
    static const char *const words[] = { "\\left", "\\right" };
    if (*s == '$')
        return 1;
    if (n >= 2 && *s == '\\' && strchr("!,;:", s[1]) && s[1])
        return 2;
    for (size_t i = 0; i < 2; i++) {
        size_t k = strlen(words[i]);
        if (n >= k && memcmp(s, words[i], k) == 0 && (n == k || !isalpha((unsigned char)s[k])))
            return k;
    }
    return 0;
}

/* Do the braces at both ends belong together? */
static bool is_braced(const char *s, size_t n)
{
    int depth = 0;
    if (n < 2 || s[0] != '{' || s[n - 1] != '}')
        return false;
    for (size_t i = 0; i < n; i++) {
        depth += s[i] == '{' ? 1 : s[i] == '}' ? -1 : 0;
        if (depth == 0)
            return i == n - 1;
    }
    return false;
}

static bool is_whole(const char *s, size_t n)
{
    size_t i = n && *s == '-';
    return n > i && n - i <= 18 && strspn(s + i, "0123456789") >= n - i;
}

/* "6/-4" as "-3/2"; false: no such fraction. */
static bool put_fraction(const char *s, struct buf *out)
{
    const char *slash = strchr(s, '/');
    if (!slash || !is_whole(s, (size_t)(slash - s)) || !is_whole(slash + 1, strlen(slash + 1)))
        return false;
    long long a = strtoll(s, NULL, 10), b = strtoll(slash + 1, NULL, 10), x = llabs(a), y = llabs(b);
    if (b == 0)
        return false;
    while (y) {
        long long r = x % y;
        x = y;
        y = r;
    }
    a = b < 0 ? -a / x : a / x;
    b = llabs(b) / x;
    buf_printf(out, b == 1 ? "%lld" : "%lld/%lld", a, b);
    return true;
}

/* "007.50" as "7.5"; false: no decimal number. */
static bool put_number(const char *s, struct buf *out)
{
    bool minus = *s == '-';
    const char *p = s + (minus || *s == '+');
    size_t whole = strspn(p, "0123456789");
    const char *dot = p + whole;
    size_t more = *dot == '.' ? strspn(dot + 1, "0123456789") : 0;
    if (dot[*dot == '.' ? 1 + more : 0] || whole + more == 0)
        return false;
    while (whole > 1 && *p == '0') {
        p++;
        whole--;
    }
    while (more && dot[more] == '0')
        more--;
    bool zero = more == 0 && (whole == 0 || (whole == 1 && *p == '0'));
    buf_printf(out, "%s%.*s%s%.*s", minus && !zero ? "-" : "", whole ? (int)whole : 1, whole ? p : "0", more ? "." : "",
               (int)more, dot + 1);
    return true;
}

void gold_normalize(const char *s, size_t n, struct buf *out)
{
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < n;) {
        size_t k = dropped(s + i, n - i);
        if (!k)
            buf_putc(&b, s[i] == '\n' ? ' ' : s[i]);
        i += k ? k : 1;
    }
    struct view v = view_trim(b.s ? b.s : "", b.len);
    while (is_braced(v.s, v.n))
        v = view_trim(v.s + 1, v.n - 2);
    while (v.n && v.s[v.n - 1] == '.')
        v.n--;
    struct buf t = BUF_INIT;
    for (size_t i = 0; i < v.n; i++)
        if (v.s[i] != ' ')
            buf_putc(&t, v.s[i]);
    buf_puts(&t, "");
    if (strlen(t.s) != t.len || (!put_fraction(t.s, out) && !put_number(t.s, out)))
        buf_add(out, t.s, t.len);
    buf_release(&b);
    buf_release(&t);
}

/* ---- open ---- */

static int find_think_end(struct gold *g, struct err *e)
{
    struct dual *v;
    if (dual_open(&v, g->dir, g->tokenizer, e) < 0)
        return -1;
    g->think_end = xstrdup(v ? dual_meta(v)->think_end : "</think>");
    g->think_end_id = v ? dual_meta(v)->think_end_id : tokenizer_id(g->tokenizer, g->think_end);
    dual_close(v);
    return 0;
}

static int64_t positions(const struct gold *g)
{
    int64_t n = CACHE_POSITIONS, page = (int64_t)kv_page_bytes(g->model);
    while (n > g->max_tokens && n / KV_PAGE * page > cache_bytes)
        n /= 2;
    return n > g->max_tokens ? n : g->max_tokens;
}

int gold_open(struct gold **out, const struct gold_options *o, struct err *e)
{
    struct gold *g = xcalloc(1, sizeof *g);
    g->dir = xstrdup(o->dir);
    *out = NULL;
    if (tokenizer_open(&g->tokenizer, o->dir, e) < 0 || find_think_end(g, e) < 0 ||
        device_open(&g->device, o->device, o->threads, e) < 0 ||
        (o->fp8_cache && device_use_fp8_cache(g->device, e) < 0) ||
        (o->batch_dependent && device_use_any_order(g->device, e) < 0) ||
        model_open(&g->model, o->dir, g->device, e) < 0)
        goto failed;
    const struct model_config *c = model_config(g->model);
    g->vocab = c->vocab;
    g->max_tokens = o->max_tokens < c->max_positions ? o->max_tokens : (int)c->max_positions;
    if (branches_open(&g->branches, g->model, &(struct branches_options){ .positions = positions(g), .rows = o->rows },
                      e) < 0)
        goto failed;
    *out = g;
    return 0;
failed:
    gold_close(g);
    return -1;
}

void gold_close(struct gold *g)
{
    if (!g)
        return;
    branches_close(g->branches);
    model_close(g->model);
    device_close(g->device);
    chat_template_close(g->chat);
    tokenizer_close(g->tokenizer);
    tokens_release(&g->tokens);
    buf_release(&g->text);
    buf_release(&g->answer);
    free(g->dir);
    free(g->think_end);
    free(g);
}

const char *gold_device(const struct gold *g)
{
    return g->device->name;
}

/* ---- one item ---- */

struct ids {
    int32_t *v;
    size_t n, cap;
};

/* An item on its way: its prefix with either answer behind it. */
struct course {
    struct ids ids[VARIANTS];
    int first; /* tokens of the prefix */
    float *logprob[VARIANTS];
    double penalty;
};

static int fault(struct gold_item *it, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fault(struct gold_item *it, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(it->error, sizeof it->error, fmt, ap);
    va_end(ap);
    return -1;
}

static void ids_add(struct ids *to, const int32_t *v, size_t n)
{
    if (to->n + n > to->cap) {
        to->cap = 2 * (to->n + n) + 64;
        to->v = xreallocarray(to->v, to->cap, sizeof *to->v);
    }
    if (n)
        memcpy(to->v + to->n, v, n * sizeof *v);
    to->n += n;
}

static int add_text(struct gold *g, struct gold_item *it, const char *s, size_t n, struct ids *to)
{
    struct err e = { "" };
    if (tokenizer_encode(g->tokenizer, s, n, 0, &g->tokens, &e) < 0)
        return fault(it, "%s", e.msg);
    ids_add(to, g->tokens.id, g->tokens.n);
    return 0;
}

static int render(struct gold *g, struct gold_item *it)
{
    struct err e = { "" };
    if (!g->chat && chat_template_open(&g->chat, g->dir, &e) < 0)
        return fault(it, "%s", e.msg);
    if (chat_template_render_json(g->chat, it->query->messages, NULL, true, tokenizer_bos_token(g->tokenizer),
                                  tokenizer_eos_token(g->tokenizer), &g->text, &e) < 0)
        return fault(it, "%s", e.msg);
    return 0;
}

/* Prompt and solution as text are encoded together; ids begin a piece of their own. */
static int make_prefix(struct gold *g, struct gold_item *it, struct course *c)
{
    const struct reward_query *q = it->query;
    bool closed = false;
    buf_reset(&g->text);
    if (q->messages && render(g, it) < 0)
        return -1;
    if (!q->messages)
        ids_add(&c->ids[0], q->prompt_ids, (size_t)q->n_prompt_ids);
    if (q->solution) {
        long at = view_find(q->solution, q->solution_n, g->think_end);
        closed = at >= 0;
        buf_add(&g->text, q->solution, closed ? (size_t)at + strlen(g->think_end) : q->solution_n);
    }
    if (g->text.len && add_text(g, it, g->text.s, g->text.len, &c->ids[0]) < 0)
        return -1;
    if (!q->solution) {
        int n = 0;
        while (n < q->n_solution_ids && !closed)
            closed = q->solution_ids[n++] == g->think_end_id;
        ids_add(&c->ids[0], q->solution_ids, (size_t)n);
    }
    c->penalty = closed ? 0 : no_think_end;
    c->first = (int)c->ids[0].n;
    return 0;
}

static int check_ids(const struct gold *g, struct gold_item *it, const struct ids *ids)
{
    if (ids->n > (size_t)g->max_tokens)
        return fault(it, "%zu tokens are more than %d", ids->n, g->max_tokens);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->v[i] < 0 || ids->v[i] >= g->vocab)
            return fault(it, "id %d is outside the vocabulary of %d", ids->v[i], g->vocab);
    return 0;
}

/* Both courses of an item; its score already where there is nothing to ask the model. */
static int prepare(struct gold *g, struct gold_item *it, struct course *c)
{
    it->error[0] = '\0';
    it->score = no_answer;
    buf_reset(&g->answer);
    buf_putc(&g->answer, ' ');
    gold_normalize(it->query->gold ? it->query->gold : "", it->query->gold_n, &g->answer);
    if (g->answer.len == 1)
        return 0;
    if (make_prefix(g, it, c) < 0)
        return -1;
    if (c->first == 0)
        return fault(it, "there is no token in front of the answer");
    if (c->first > g->max_tokens)
        return fault(it, "%d tokens are more than %d", c->first, g->max_tokens);
    ids_add(&c->ids[1], c->ids[0].v, c->ids[0].n);
    for (int k = 0; k < VARIANTS; k++) {
        const char *s = g->answer.s + (k == 0);
        if (add_text(g, it, s, strlen(s), &c->ids[k]) < 0 || check_ids(g, it, &c->ids[k]) < 0)
            return -1;
        c->logprob[k] = xcalloc(c->ids[k].n, sizeof *c->logprob[k]);
    }
    return 0;
}

static double mean(const float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i];
    return n ? sum / (double)n : no_answer;
}

static void finish(struct gold_item *it, const struct course *c)
{
    if (!c->logprob[0] || it->error[0])
        return;
    double a = mean(c->logprob[0], c->ids[0].n - (size_t)c->first),
           b = mean(c->logprob[1], c->ids[1].n - (size_t)c->first);
    it->score = (a > b ? a : b) + c->penalty;
    if (!isfinite(it->score))
        fault(it, "the model gives no finite log-probability");
}

int64_t gold_rows(const struct gold *g)
{
    return branches_stats(g->branches).computed;
}

int gold_run(struct gold *g, struct gold_item *const *items, int n, struct err *e)
{
    struct course *c = xcalloc((size_t)n + 1, sizeof *c);
    struct score_seq *seq = xcalloc(VARIANTS * (size_t)n + 1, sizeof *seq);
    int count = 0;
    for (int i = 0; i < n; i++)
        if (prepare(g, items[i], &c[i]) == 0 && c[i].logprob[0])
            for (int k = 0; k < VARIANTS; k++)
                seq[count++] =
                    (struct score_seq){ c[i].ids[k].v, (int)c[i].ids[k].n, c[i].first, c[i].logprob[k], NULL };
    int rc = branches_run(g->branches, seq, count, e);
    for (int i = 0; i < n; i++) {
        if (rc == 0)
            finish(items[i], &c[i]);
        for (int k = 0; k < VARIANTS; k++) {
            free(c[i].ids[k].v);
            free(c[i].logprob[k]);
        }
    }
    free(seq);
    free(c);
    return rc;
}
