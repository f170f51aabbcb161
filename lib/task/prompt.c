/* prompt.c - see prompt.h. */
#include "task/prompt.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "task/think.h"

static const char *const format_names[] = { "tokenskip", "xml", "paper", "raw" };
static const char *const layout_names[] = { "inlined", "multiturn", "system-only" };

static const char helpful[] = "You are a helpful assistant.";
static const char instruction[] = "Please reason step by step, and put your final answer within \\boxed{}.\n";
static const char xml_words[] =
    "You are solving a math word problem. Read the problem carefully and compute the final numerical answer. Think "
    "step by step before answering. Write your reasoning in <think> tags, then give your final answer in <answer> "
    "tags. Example: <think>Step-by-step reasoning...</think><answer>42</answer>";
static const char xml_competition[] =
    "You are solving a competition math problem. Read the problem carefully and solve it step by step. Write your "
    "reasoning in <think> tags, then give your final answer in <answer> tags. Example: <think>Step-by-step "
    "reasoning...</think><answer>\\frac{1}{2}</answer>";
static const char paper[] =
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're ready "
    "to answer, please use the format 'The answer is'";

/* ---- pieces ---- */

enum prompt_format prompt_format_of(const char *word)
{
    for (size_t i = 0; i < sizeof format_names / sizeof *format_names; i++)
        if (strcmp(format_names[i], word) == 0)
            return (enum prompt_format)i;
    assert(!"unknown prompt format");
    return PROMPT_RAW;
}

const char *prompt_format_name(enum prompt_format f)
{
    return format_names[f];
}

const char *prompt_system(enum prompt_format f, const char *benchmark)
{
    switch (f) {
    case PROMPT_TOKENSKIP:
        return helpful;
    case PROMPT_XML:
        return benchmark && strncmp(benchmark, "math", 4) == 0 ? xml_competition : xml_words;
    case PROMPT_PAPER:
        return paper;
    case PROMPT_RAW:
        break;
    }
    return NULL;
}

const char *prompt_delimiter(const char *model_family)
{
    return strcmp(model_family, "llama3") == 0 ? "<|eot_id|>" : "<|im_end|>";
}

bool prompt_ratio_is_one(double ratio)
{
    return fabs(ratio - 1) < 1e-9;
}

void prompt_suffix(double ratio, const char *delimiter, struct buf *out)
{
    if (!prompt_ratio_is_one(ratio))
        buf_printf(out, "%s%g%s", delimiter, ratio, delimiter);
}

void prompt_user(enum prompt_format f, const char *question, double ratio, const char *delimiter, struct buf *out)
{
    if (f == PROMPT_TOKENSKIP)
        buf_puts(out, instruction);
    buf_puts(out, question);
    if (f == PROMPT_TOKENSKIP)
        prompt_suffix(ratio, delimiter, out);
}

/* Length of the tag at s that must go, 0 for none: the four of ours, and with compat any <abc> or </abc>. */
static size_t tag_at(const char *s, bool compat)
{
    static const char *const ours[] = { "<think>", "</think>", "<answer>", "</answer>" };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strncmp(s, ours[i], strlen(ours[i])) == 0)
            return strlen(ours[i]);
    if (!compat || *s != '<')
        return 0;
    const char *p = s + 1 + (s[1] == '/');
    const char *word = p;
    while (*p >= 'a' && *p <= 'z')
        p++;
    return p > word && *p == '>' ? (size_t)(p - s) + 1 : 0;
}

/* Our tags go first and any other in a second walk, so that what the first leaves together counts in the second. */
static void drop_tags(struct buf *b, bool compat)
{
    size_t to = 0;
    for (size_t i = 0; i < b->len;) {
        size_t k = tag_at(b->s + i, compat);
        if (k == 0)
            b->s[to++] = b->s[i++];
        i += k;
    }
    b->len = to;
    if (b->s)
        b->s[to] = '\0';
}

static void strip_reasoning(const char *reasoning, bool compat, struct buf *out)
{
    const char *end = strstr(reasoning, "<answer>");
    struct buf b = BUF_INIT;
    buf_add(&b, reasoning, end ? (size_t)(end - reasoning) : strlen(reasoning));
    drop_tags(&b, false);
    if (compat)
        drop_tags(&b, true);
    struct view t = view_trim(b.s ? b.s : "", b.len);
    buf_add(out, t.s, t.n);
    buf_release(&b);
}

void prompt_assistant(enum prompt_format f, const char *reasoning, const char *answer, bool compat, struct buf *out)
{
    switch (f) {
    case PROMPT_XML:
        if (reasoning)
            buf_printf(out, "<think>\n%s\n</think>\n", reasoning);
        buf_printf(out, "<answer>%s</answer>", answer);
        break;
    case PROMPT_TOKENSKIP:
        if (reasoning) {
            strip_reasoning(reasoning, compat, out);
            buf_puts(out, "\n\n");
        }
        buf_printf(out, "</think>\n\nThe final answer is: $\\boxed{%s}$", answer);
        break;
    case PROMPT_PAPER:
    case PROMPT_RAW:
        if (reasoning) {
            strip_reasoning(reasoning, compat, out);
            buf_putc(out, '\n');
        }
        buf_printf(out, "The answer is %s", answer);
        break;
    }
}

/* ---- exemplars ---- */

static char *member_text(struct json object, const char *key)
{
    struct json v;
    return json_get(object, key, &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : NULL;
}

static int add_exemplar(struct exemplars *x, struct json o, struct err *e)
{
    x->v = xreallocarray(x->v, x->n + 1, sizeof *x->v);
    struct exemplar *m = &x->v[x->n++];
    *m = (struct exemplar){ member_text(o, "source_id"), member_text(o, "question"), member_text(o, "reasoning"),
                            member_text(o, "answer"),    member_text(o, "solution"), member_text(o, "benchmark") };
    if (!m->question)
        return err_set(e, "exemplar %zu has no text under \"question\"", x->n);
    if (!m->answer && !m->solution)
        return err_set(e, "exemplar %zu has neither \"answer\" nor \"solution\"", x->n);
    return 0;
}

static int add_exemplars(struct exemplars *x, struct json array, struct err *e)
{
    struct json o;
    for (struct json_iter it = json_each(array); json_next(&it, NULL, &o);)
        if (add_exemplar(x, o, e) < 0)
            return -1;
    return 0;
}

static int add_exemplar_lines(struct exemplars *x, const struct buf *b, struct err *e)
{
    size_t line = 0;
    for (const char *p = b->s, *stop = b->s + b->len; p < stop; line++) {
        const char *end = memchr(p, '\n', (size_t)(stop - p));
        size_t n = (size_t)((end ? end : stop) - p);
        struct json o;
        if (view_trim(p, n).n && (json_parse(&o, p, n, e) < 0 || add_exemplar(x, o, e) < 0))
            return err_prefix(e, "%zu", line + 1);
        p += n + 1;
    }
    return 0;
}

int exemplars_check(const struct exemplars *x, const char *benchmark, struct err *e)
{
    for (size_t i = 0; i < x->n; i++)
        if (x->v[i].benchmark && strcmp(x->v[i].benchmark, benchmark) != 0)
            return err_set(e, "exemplar %zu belongs to %s, the questions to %s", i + 1, x->v[i].benchmark, benchmark);
    return 0;
}

int exemplars_open(struct exemplars *x, const char *path, struct err *e)
{
    *x = (struct exemplars){ NULL, 0 };
    struct buf b = BUF_INIT;
    struct json doc;
    int rc = file_read(&b, path, 0, e);
    if (rc == 0) {
        struct view t = view_trim(b.s ? b.s : "", b.len);
        if (t.n && t.s[0] == '[')
            rc = json_parse(&doc, b.s, b.len, e) < 0 ? -1 : add_exemplars(x, doc, e);
        else if (t.n)
            rc = add_exemplar_lines(x, &b, e);
        if (rc == 0 && x->n == 0)
            rc = err_set(e, "no exemplars");
        if (rc < 0)
            err_prefix(e, "%s", path);
    }
    buf_release(&b);
    if (rc < 0)
        exemplars_close(x);
    return rc;
}

void exemplars_close(struct exemplars *x)
{
    for (size_t i = 0; i < x->n; i++) {
        struct exemplar *m = &x->v[i];
        free(m->source_id);
        free(m->question);
        free(m->reasoning);
        free(m->answer);
        free(m->solution);
        free(m->benchmark);
    }
    free(x->v);
    *x = (struct exemplars){ NULL, 0 };
}

static bool is_itself(const struct exemplar *m, const char *source_id, const char *question)
{
    return strcmp(m->question, question) == 0 || (m->source_id && strcmp(m->source_id, source_id) == 0);
}

int exemplars_draw(const struct exemplars *x, uint64_t seed, const char *source_id, const char *question, size_t k,
                   uint32_t *out, struct err *e)
{
    struct rng r = rng_stream(seed, source_id, strlen(source_id), UINT32_MAX); /* no sample has this index */
    uint32_t *pool = xmalloc((x->n + 1) * sizeof *pool);
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++)
        if (!is_itself(&x->v[i], source_id, question))
            pool[n++] = (uint32_t)i;
    int rc = 0;
    if (n < k)
        rc = err_set(e, "%lld %s wanted for %s, the file has %lld %s", COUNTED(k, "exemplar", "exemplars"), source_id,
                     COUNTED(n, "other", "others"));
    for (size_t i = 0; rc == 0 && i < k; i++) {
        size_t j = i + rng_below(&r, i, (uint32_t)(n - i));
        uint32_t chosen = pool[j];
        pool[j] = pool[i];
        out[i] = pool[i] = chosen;
    }
    free(pool);
    return rc;
}

int exemplars_draw_compat(const struct exemplars *x, struct rng_python *r, size_t k, uint32_t *out, struct err *e)
{
    if (x->n < k)
        return err_set(e, "%lld %s wanted, the file has %zu", COUNTED(k, "exemplar", "exemplars"), x->n);
    rng_python_sample(r, (uint32_t)x->n, (uint32_t)k, out);
    return 0;
}

/* ---- prompt data ---- */

int prompt_layout_of(const char *word)
{
    for (size_t i = 0; i < sizeof layout_names / sizeof *layout_names; i++)
        if (strcmp(layout_names[i], word) == 0)
            return (int)i;
    return -1;
}

static int parse_prompt_data(struct prompt_data *d, struct json doc, struct err *e)
{
    struct json v;
    d->system = member_text(doc, "system");
    d->name = member_text(doc, "name");
    if (!d->system)
        return err_set(e, "no text under \"system\"");
    char *layout = member_text(doc, "layout");
    int l = layout ? prompt_layout_of(layout) : LAYOUT_INLINED;
    free(layout);
    if (l < 0)
        return err_set(e, "\"layout\" must be one of %s", PROMPT_LAYOUTS);
    d->layout = (enum prompt_layout)l;
    if (!json_get(doc, "exemplars", &v))
        return 0;
    if (json_kind(v) != JSON_ARRAY)
        return err_set(e, "\"exemplars\" must be an array");
    return add_exemplars(&d->shots, v, e);
}

char *prompt_data_find(const char *name, struct err *e)
{
    if (file_exists(name))
        return xstrdup(name);
    struct buf b = BUF_INIT;
    buf_printf(&b, "prompts/%s.json", name);
    char *path = strchr(name, '/') ? NULL : path_of_data(b.s);
    buf_release(&b);
    if (path && file_exists(path))
        return path;
    free(path);
    err_set(e, "%s: no such file, and no such prompt in the installed data", name);
    return NULL;
}

int prompt_data_open(struct prompt_data *d, const char *path, struct err *e)
{
    *d = (struct prompt_data){ 0 };
    struct buf b = BUF_INIT;
    struct json doc;
    int rc = file_read(&b, path, 0, e);
    if (rc == 0 && (json_parse(&doc, b.s ? b.s : "", b.len, e) < 0 || parse_prompt_data(d, doc, e) < 0))
        rc = err_prefix(e, "%s", path);
    buf_release(&b);
    if (rc < 0)
        prompt_data_close(d);
    return rc;
}

void prompt_data_close(struct prompt_data *d)
{
    free(d->name);
    free(d->system);
    exemplars_close(&d->shots);
    *d = (struct prompt_data){ 0 };
}

/* ---- whole prompts ---- */

static void add_turn(struct turns *t, const char *role, char *text, char *insert)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 4;
        t->v = xreallocarray(t->v, t->cap, sizeof *t->v);
    }
    t->v[t->n++] = (struct turn){ role, text, insert };
}

void turns_release(struct turns *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->v[i].text);
        free(t->v[i].insert);
    }
    free(t->v);
    *t = (struct turns){ NULL, 0, 0 };
}

/* An earlier pair of turns; the answer goes in after rendering. */
static void add_pair(struct turns *t, char *user, char *assistant)
{
    struct buf mark = BUF_INIT;
    add_turn(t, "user", user, NULL);
    buf_printf(&mark, "@@exemplar:%zu@@", t->n);
    add_turn(t, "assistant", buf_take(&mark), assistant);
}

static size_t count_shots(const struct prompt_spec *spec)
{
    size_t n = spec->data->shots.n;
    return spec->num_shots && spec->num_shots < n ? spec->num_shots : n;
}

static char *inlined_user(const struct prompt_spec *spec, const char *question)
{
    static const char bar[] = "\n\n---\n\n";
    struct buf b = BUF_INIT;
    size_t n = count_shots(spec);
    buf_puts(&b, "Below are worked examples in the required format.\n\n");
    for (size_t i = 0; i < n; i++) {
        const struct exemplar *m = &spec->data->shots.v[i];
        buf_printf(&b, "%sQuestion:\n%s\n\nAnswer:\n%s", i ? bar : "", m->question,
                   m->answer ? m->answer : m->solution);
    }
    buf_printf(&b,
               "%sNow solve the following problem in the same format. Put your final answer inside \\boxed{}.\n\n"
               "Question:\n%s\n\nAnswer:",
               bar, question);
    return buf_take(&b);
}

static void data_turns(const struct prompt_spec *spec, const char *question, struct turns *out)
{
    add_turn(out, "system", xstrdup(spec->data->system), NULL);
    if (spec->layout == LAYOUT_INLINED && spec->data->shots.n) {
        add_turn(out, "user", inlined_user(spec, question), NULL);
        return;
    }
    for (size_t i = 0; spec->layout == LAYOUT_MULTITURN && i < count_shots(spec); i++) {
        const struct exemplar *m = &spec->data->shots.v[i];
        add_pair(out, xstrdup(m->question), xstrdup(m->answer ? m->answer : m->solution));
    }
    add_turn(out, "user", xstrdup(question), NULL);
}

static char *user_text(const struct prompt_spec *spec, const char *question, double ratio)
{
    struct buf b = BUF_INIT;
    prompt_user(spec->format, question, ratio, spec->delimiter, &b);
    return buf_take(&b);
}

static void exemplar_turns(const struct prompt_spec *spec, const struct exemplar *m, struct turns *out)
{
    struct buf b = BUF_INIT;
    if (m->answer)
        prompt_assistant(spec->format, m->reasoning, m->answer, spec->compat, &b);
    else
        buf_puts(&b, m->solution);
    add_pair(out, user_text(spec, m->question, 1), buf_take(&b));
}

static int few_shot_turns(const struct prompt_spec *spec, const struct prompt_question *q, struct turns *out,
                          struct err *e)
{
    uint32_t *drawn = xcalloc(spec->num_shots + 1, sizeof *drawn);
    const uint32_t *chosen = q->chosen ? q->chosen : drawn;
    int rc =
        q->chosen ? 0 : exemplars_draw(spec->shots, spec->seed, q->source_id, q->question, spec->num_shots, drawn, e);
    for (size_t i = 0; rc == 0 && i < spec->num_shots; i++)
        exemplar_turns(spec, &spec->shots->v[chosen[i]], out);
    free(drawn);
    return rc;
}

int prompt_turns(const struct prompt_spec *spec, const struct prompt_question *q, double ratio, struct turns *out,
                 struct err *e)
{
    if (spec->data) {
        data_turns(spec, q->question, out);
        return 0;
    }
    bool few = spec->shots && spec->num_shots;
    const char *system = prompt_system(spec->format, q->benchmark);
    if (system && !(few && spec->format == PROMPT_PAPER)) /* the paper's few-shot prompt has no system turn */
        add_turn(out, "system", xstrdup(system), NULL);
    if (few && few_shot_turns(spec, q, out, e) < 0)
        return -1;
    add_turn(out, "user", user_text(spec, q->question, ratio), NULL);
    return 0;
}

static int put_exemplar(const struct turn *t, struct buf *text, struct err *e)
{
    long at = view_find(text->s ? text->s : "", text->len, t->text);
    if (at < 0)
        return err_set(e, "the model's chat template leaves out an earlier assistant turn: exemplars cannot be shown");
    struct buf b = BUF_INIT;
    buf_add(&b, text->s, (size_t)at);
    buf_puts(&b, t->insert);
    buf_puts(&b, text->s + (size_t)at + strlen(t->text));
    buf_release(text);
    *text = b;
    return 0;
}

static bool ends_with(const struct buf *b, const char *end)
{
    size_t n = strlen(end);
    return b->len >= n && memcmp(b->s + b->len - n, end, n) == 0;
}

int prompt_finish(const struct prompt_spec *spec, const struct turns *t, struct buf *text, struct err *e)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->v[i].insert && put_exemplar(&t->v[i], text, e) < 0)
            return -1;
    bool open = ends_with(text, "<think>\n");
    if (spec->suppress)
        buf_puts(text, open ? "\n</think>\n\n" : "<think>\n\n</think>\n\n");
    else if (spec->open_think && (!open || spec->compat))
        buf_puts(text, "<think>\n");
    return 0;
}
