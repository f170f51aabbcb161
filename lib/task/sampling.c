/* sampling.c - see sampling.h. */
#include "task/sampling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "io/shard.h"
#include "model/dual.h"
#include "task/answer.h"
#include "task/feed.h"

struct item {
    struct question q;
    struct hash128 hash; /* of its line */
    char *where;
    const char *again; /* where its id stood before: an error */
    uint32_t *chosen;  /* exemplars as the reference draws them; NULL: ours are drawn */
};

/* Samples first .. first+n-1 of an item at one ratio that are not there yet. */
struct gap {
    struct item *item;
    int output, first, n;
    bool thinking; /* its prompt ends in an open thinking block */
};

struct work {
    struct sampling *s;
    struct stage *st;
    sampling_row_fn *row;
    void *arg;
    bool grade;
    struct gap *gap;
    size_t ngaps, cap, submitted;
    int64_t total, done;
    double start;
    struct judgement verdict;
    struct buf line, think;
};

/* ---- options ---- */

int sampling_size(const char *text, int64_t *bytes, struct err *e)
{
    static const char unit[] = "KMGT";
    char *end;
    *bytes = 0;
    if (!text)
        return 0;
    double v = strtod(text, &end);
    const char *u = *end ? strchr(unit, *end) : NULL;
    if (u)
        end++;
    for (; u && u >= unit; u--)
        v *= 1024;
    if (end == text || *end || strspn(text, "0123456789.") == 0 || !(v >= 1 && v < 9e18))
        return err_set(e, "--kv-memory %s: expected a size such as 512M or 2G", text);
    *bytes = (int64_t)v;
    return 0;
}

int sampling_check(const struct sampling_options *o, struct err *e)
{
    int64_t bytes;
    struct shard shard;
    if (sampling_size(o->kv_memory, &bytes, e) < 0 || shard_parse(&shard, o->shard, e) < 0)
        return -1;
    if (strcmp(o->shard_style, "stride") == 0 && !o->compat)
        return err_set(e, "--shard-style stride is the reference's: it goes with --compat");
    if (o->few_shot && o->prompt_data)
        return err_set(e, "--few-shot and --prompt-data are two ways to show examples: give one");
    if (o->few_shot && strcmp(o->format, "raw") == 0)
        return err_set(e, "--few-shot needs a chat: --prompt-format raw is the question alone");
    if (o->layout && !o->prompt_data)
        return err_set(e, "--prompt-layout says where the examples of --prompt-data stand: give that too");
    if (o->suppress && strcmp(o->format, "raw") == 0 && !o->prompt_data)
        return err_set(e, "--suppress-thinking needs a chat: --prompt-format raw is the question alone");
    if (o->stop.n > GEN_STOP_STRINGS)
        return err_set(e, "--stop: at most %d texts", GEN_STOP_STRINGS);
    for (size_t i = 0; i < o->stop.n; i++)
        if (!*o->stop.v[i])
            return err_set(e, "--stop: the text is empty");
    return 0;
}

/* ---- before the stage: names become files, files become fingerprints ---- */

static int open_prompt(struct sampling *s, struct err *e)
{
    const struct sampling_options *o = s->o;
    struct prompt_spec *p = &s->spec;
    p->format = prompt_format_of(o->format);
    p->seed = (uint64_t)s->run.seed;
    p->suppress = o->suppress;
    p->compat = o->compat;
    p->delimiter = prompt_delimiter(o->family); /* auto: known when the model is open */
    p->open_think = strcmp(o->think, "append") == 0 && (p->format == PROMPT_TOKENSKIP || o->prompt_data);
    if (o->few_shot) {
        if (exemplars_open(&s->shots, o->few_shot, e) < 0)
            return -1;
        p->shots = &s->shots;
        p->num_shots = (size_t)o->num_few_shot;
    }
    if (o->prompt_data) {
        s->data_path = prompt_data_find(o->prompt_data, e);
        if (!s->data_path || prompt_data_open(&s->data, s->data_path, e) < 0)
            return -1;
        p->data = &s->data;
        p->num_shots = (size_t)o->num_few_shot;
        p->layout = o->layout ? (enum prompt_layout)prompt_layout_of(o->layout) : s->data.layout;
    }
    return 0;
}

static int open_input(struct sampling *s, struct err *e)
{
    const char *set = s->o->benchmark;
    if (!set && s->ninputs == 0 && isatty(0))
        set = "arith";
    if (!set)
        return 0;
    if (s->ninputs)
        return err_set(e, "--benchmark %s brings its own questions, %s has others", set, s->inputs[0]);
    s->feed = feed_dataset(set, s->o->split, e);
    if (!s->feed)
        return -1;
    s->inputs = (const char *const *)&s->feed;
    s->ninputs = 1;
    return 0;
}

int sampling_open(struct sampling *s, const struct sampling_options *o, const struct sampling_run_options *run,
                  const char *const *inputs, int ninputs, struct err *e)
{
    *s = (struct sampling){ .o = o, .run = *run, .inputs = inputs, .ninputs = ninputs, .ratio = { 1 }, .nratios = 1 };
    if (model_locate(&s->model, "--model", o->model, "MODEL", "embedded:reasoner", e) < 0 || open_prompt(s, e) < 0)
        return -1;
    s->template_path = path_join(s->model.dir, "chat_template.jinja");
    return open_input(s, e);
}

void sampling_stage(struct sampling *s, struct stage_spec *spec)
{
    s->sides[0] = (struct stage_side){ "few-shot", s->o->few_shot };
    s->sides[1] = (struct stage_side){ "prompt-data", s->data_path };
    s->sides[2] = (struct stage_side){ "chat-template", file_exists(s->template_path) ? s->template_path : NULL };
    s->stage_model = (struct stage_model){ "model", s->model.name, s->model.fingerprint };
    spec->numerics = device_numerics(s->run.device);
    spec->inputs = s->inputs;
    spec->ninputs = s->ninputs;
    spec->sides = s->sides;
    spec->nsides = 3;
    spec->models = &s->stage_model;
    spec->nmodels = 1;
}

static void close_items(struct sampling *s)
{
    for (size_t i = 0; i < s->nitems; i++) {
        question_release(&s->item[i].q);
        free(s->item[i].where);
        free(s->item[i].chosen);
    }
    free(s->item);
}

void sampling_close(struct sampling *s)
{
    close_items(s);
    generator_close(s->generator);
    judge_close(s->judge);
    exemplars_close(&s->shots);
    prompt_data_close(&s->data);
    if (s->feed)
        unlink(s->feed);
    free(s->feed);
    model_place_release(&s->model);
    free(s->data_path);
    free(s->template_path);
    *s = (struct sampling){ 0 };
}

/* ---- questions ---- */

static int read_item(struct item *it, const struct rec *r, struct err *e)
{
    *it = (struct item){ .hash = hash_bytes(r->line, r->len) };
    if (question_read(&it->q, r, e) < 0)
        return -1;
    if (!it->q.question.len || memchr(it->q.question.s, 0, it->q.question.len))
        return err_set(e, "%s: the question is empty or holds a NUL character", r->where);
    if (!it->q.source_id.len || memchr(it->q.source_id.s, 0, it->q.source_id.len))
        return err_set(e, "%s: source_id is empty or holds a NUL character", r->where);
    it->where = xstrdup(r->where);
    buf_puts(&it->q.benchmark, "");
    buf_puts(&it->q.gold, "");
    return 0;
}

static int read_items(struct sampling *s, struct rec_reader *in, struct err *e)
{
    struct rec r;
    size_t cap = 0;
    int rc = 1;
    while ((s->o->limit < 0 || s->nitems < (size_t)s->o->limit) && (rc = rec_read(in, &r, e)) != 0) {
        if (rc == -1)
            return -1;
        if (s->nitems == cap) {
            cap = cap ? 2 * cap : 256;
            s->item = xreallocarray(s->item, cap, sizeof *s->item);
        }
        struct item *it = &s->item[s->nitems];
        if (rc != REC_BAD && read_item(it, &r, e) == 0) {
            s->nitems++;
            continue;
        }
        if (rc != REC_BAD)
            question_release(&it->q);
        if (!s->run.keep_going)
            return -1;
        log_warn("%s", e->msg);
        s->counts.rejected++;
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
    int c = strcmp(x->q.source_id.s, y->q.source_id.s);
    c = c ? c : strcmp(x->q.benchmark.s, y->q.benchmark.s);
    return c ? c : (x > y) - (x < y);
}

/* Later stages join by id and refuse one that stands twice, hours from here. With keep_going the first stays. */
static int check_ids(struct sampling *s, struct err *e)
{
    struct item **sorted = xmalloc((s->nitems + 1) * sizeof(struct item *));
    size_t kept = 0;
    for (size_t i = 0; i < s->nitems; i++)
        sorted[i] = &s->item[i];
    qsort(sorted, s->nitems, sizeof *sorted, by_name);
    for (size_t i = 1, first = 0; i < s->nitems; i++) {
        if (strcmp(sorted[i]->q.source_id.s, sorted[first]->q.source_id.s) == 0 &&
            strcmp(sorted[i]->q.benchmark.s, sorted[first]->q.benchmark.s) == 0)
            sorted[i]->again = sorted[first]->where;
        else
            first = i;
    }
    free(sorted);
    for (size_t i = 0; i < s->nitems; i++) {
        struct item it = s->item[i];
        if (!it.again) {
            s->item[kept++] = it;
            continue;
        }
        err_set(e, "%s: source_id %s stands at %s already", it.where, it.q.source_id.s, it.again);
        if (!s->run.keep_going)
            return -1; /* the first of them: nothing has moved yet */
        log_warn("%s", e->msg);
        s->counts.rejected++;
        question_release(&it.q);
        free(it.where);
    }
    s->nitems = kept;
    return 0;
}

/* Only this shard's questions stay. */
static int cut_shard(struct sampling *s, struct err *e)
{
    struct shard shard;
    uint64_t from, to, step = 1;
    if (shard_parse(&shard, s->o->shard, e) < 0)
        return -1;
    shard_range(&shard, s->nitems, &from, &to);
    if (strcmp(s->o->shard_style, "stride") == 0) {
        from = shard.k;
        to = s->nitems;
        step = shard.n;
    }
    struct item *kept = xcalloc(s->nitems + 1, sizeof *kept);
    size_t n = 0;
    for (uint64_t i = from; i < to; i += step) {
        kept[n++] = s->item[i];
        s->item[i] = (struct item){ .where = NULL };
    }
    close_items(s);
    s->item = kept;
    s->nitems = n;
    return 0;
}

/* One stream of random numbers over this shard's questions. */
static int draw_compat(struct sampling *s, struct err *e)
{
    struct rng_python r;
    if (!s->o->compat || !s->spec.shots)
        return 0;
    rng_python_seed(&r, (uint64_t)s->run.seed);
    for (size_t i = 0; i < s->nitems; i++) {
        s->item[i].chosen = xcalloc(s->spec.num_shots, sizeof *s->item[i].chosen);
        if (exemplars_draw_compat(s->spec.shots, &r, s->spec.num_shots, s->item[i].chosen, e) < 0)
            return err_prefix(e, "%s", s->o->few_shot);
    }
    return 0;
}

/* ---- what is missing ---- */

static uint64_t unit_of(const struct sampling *s, const struct item *it, int sample)
{
    return s->first_unit + (uint64_t)(it - s->item) * (uint64_t)s->o->num_samples + (uint64_t)sample;
}

static void add_missing(struct work *w, struct item *it, int output, int sample)
{
    struct gap *last = w->ngaps ? &w->gap[w->ngaps - 1] : NULL;
    w->total++;
    if (last && last->item == it && last->output == output && last->first + last->n == sample) {
        last->n++;
        return;
    }
    if (w->ngaps == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 256;
        w->gap = xreallocarray(w->gap, w->cap, sizeof *w->gap);
    }
    w->gap[w->ngaps++] = (struct gap){ it, output, sample, 1, false };
}

static void find_gaps(struct work *w)
{
    struct sampling *s = w->s;
    for (size_t i = 0; i < s->nitems; i++)
        for (int r = 0; r < s->nratios; r++)
            for (int k = 0; k < s->o->num_samples; k++)
                if (!stage_have(w->st, r, unit_of(s, &s->item[i], k), s->item[i].hash))
                    add_missing(w, &s->item[i], r, k);
    s->counts.questions = (int64_t)s->nitems;
    s->counts.samples = (int64_t)s->nitems * s->o->num_samples * s->nratios;
    s->counts.resumed = s->counts.samples - w->total;
}

/* ---- the loop ---- */

static int open_generator(struct sampling *s, struct err *e)
{
    const struct sampling_options *o = s->o;
    struct generator_options go = {
        .model = s->model.dir, .device = s->run.device, .threads = (int)s->run.threads, .batch = (int)o->batch
    };
    go.end_bias = o->end_bias;
    go.compat = o->compat;
    go.fp8_cache = o->fp8_cache;
    go.batch_dependent = o->batch_dependent;
    go.max_context = (int)o->max_context;
    if (sampling_size(o->kv_memory, &go.kv_memory, e) < 0 || generator_open(&s->generator, &go, e) < 0)
        return -1;
    struct gen_params *p = generator_params(s->generator);
    p->temperature = (float)o->temperature;
    p->top_p = (float)o->top_p;
    p->min_p = (float)o->min_p;
    p->top_k = (int)o->top_k;
    p->presence = (float)o->presence;
    p->frequency = (float)o->frequency;
    p->repetition = (float)o->repetition;
    p->max_new = (int)o->max_tokens;
    p->n_stop_strings = (int)o->stop.n;
    for (size_t i = 0; i < o->stop.n; i++)
        p->stop_strings[i] = o->stop.v[i];
    s->spec.delimiter = prompt_delimiter(strcmp(o->family, "auto") == 0 ? generator_family(s->generator) : o->family);
    const struct dual_meta *dual = generator_dual(s->generator);
    if (dual)
        log_info("two vocabularies: thinks with ids from %d on, ends with %s, bias %g", dual->visible, dual->think_end,
                 o->end_bias);
    return judge_open(&s->judge, e);
}

/* A question that cannot be sampled: its units are empty. */
static int reject(struct work *w, const struct gap *g, struct err *e)
{
    err_prefix(e, "%s", g->item->where);
    if (!w->s->run.keep_going)
        return -1;
    log_warn("%s", e->msg);
    w->s->counts.rejected++;
    for (int k = 0; k < g->n; k++, w->done++)
        if (stage_put(w->st, g->output, unit_of(w->s, g->item, g->first + k), g->item->hash, "", 0, e) < 0)
            return -1;
    return 0;
}

static int submit_more(struct work *w, struct err *e)
{
    struct sampling *s = w->s;
    int64_t window = 4 * s->o->batch > 64 ? 4 * s->o->batch : 64;
    while (w->submitted < w->ngaps && generator_waiting(s->generator) < window) {
        struct gap *g = &w->gap[w->submitted++];
        struct prompt_question q = { g->item->q.benchmark.s, g->item->q.source_id.s, g->item->q.question.s,
                                     g->item->chosen };
        if (generator_submit(s->generator, &s->spec, &q, s->ratio[g->output], g->first, g->n, (uint64_t)s->run.seed, g,
                             e) < 0 &&
            reject(w, g, e) < 0)
            return -1;
        g->thinking = generator_thinking(s->generator);
        if (w->submitted == 1 && generator_appended(s->generator))
            log_info("the chat template leaves the thinking closed: <think> is appended to the prompts");
    }
    return 0;
}

/* As the reference reads what it samples for self-training: paper takes all of it for the reasoning, xml looks for tags
 * in what is visible. What a dual model thought is not: its latent ids are cut out there before anything is read. */
static struct think split_concise(struct work *w, const struct sample *x)
{
    const struct generated *g = x->g;
    struct view seen = x->text;
    if (g->dual && g->thought) {
        size_t at = g->think_end < 0 ? g->text.len : (size_t)g->think_end;
        seen = view_trim((g->text.s ? g->text.s : "") + at, g->text.len - at);
    }
    struct think t = { seen, seen, false };
    if (w->s->spec.format == PROMPT_XML) {
        bool found = answer_compat_extract_xml(seen.s, seen.n, &w->think, NULL) & 2;
        t.reasoning = (struct view){ found ? (w->think.s ? w->think.s : "") : NULL, w->think.len };
    }
    return t;
}

/* By the ids where there are two vocabularies: a latent copy of </think> is a thought. Where the prompt had opened the
 * thinking, the first </think> ends it, whatever stands behind: a model that is asked for tags may write a second block
 * there. The reference reads the text alone. */
static struct think split(struct work *w, const struct sample *x, bool thinking)
{
    const struct prompt_spec *p = &w->s->spec;
    const struct generated *g = x->g;
    const char *text = g->text.s ? g->text.s : "";
    if (w->s->o->compat && !p->data && (p->format == PROMPT_XML || p->format == PROMPT_PAPER))
        return split_concise(w, x);
    if (!w->s->o->compat && g->dual && g->thought)
        return g->think_end < 0 ? think_only(x->text.s, x->text.n)
                                : think_split_at(text, g->text.len, (size_t)g->think_end, g->think_end_n);
    long end = thinking && !w->s->o->compat && !g->dual ? view_find(x->text.s, x->text.n, "</think>") : -1;
    return end >= 0 ? think_split_at(x->text.s, x->text.n, (size_t)end, strlen("</think>"))
                    : think_split(x->text.s, x->text.n);
}

static int count_tokens(struct sampling *s, struct sample *x, struct err *e)
{
    struct view before = think_before_end(x->g->text.s ? x->g->text.s : "", x->g->text.len);
    if (x->g->dual && x->g->thought && !s->o->compat)
        before =
            x->g->think_end < 0 ? (struct view){ NULL, 0 } : (struct view){ x->g->text.s, (size_t)x->g->think_end };
    x->before_end_tokens = s->o->suppress ? 0 : x->g->tokens;
    if (before.s && !s->o->suppress && generator_count(s->generator, before.s, before.n, &x->before_end_tokens, e) < 0)
        return -1;
    /* the reference counts latent ids where there are any, whatever text it took for the reasoning */
    bool concise = s->spec.format == PROMPT_XML || s->spec.format == PROMPT_PAPER;
    if (s->o->compat && concise && !s->spec.data && x->g->dual && x->g->latent > 0) {
        x->think_tokens = x->g->latent;
        return 0;
    }
    return x->parts.reasoning.s
               ? generator_count(s->generator, x->parts.reasoning.s, x->parts.reasoning.n, &x->think_tokens, e)
               : 0;
}

static void count_sample(struct sampling_counts *c, const struct sample *x)
{
    c->tokens += x->g->tokens;
    c->truncated += x->g->truncated;
    c->correct += x->graded && x->verdict->correct;
    c->unanswered += x->graded && !x->verdict->answered;
}

/* The row of one finished sample goes to its place. */
static int finish(struct work *w, const struct generated *g, struct err *e)
{
    struct sampling *s = w->s;
    const struct gap *gap = g->user;
    const struct question *q = &gap->item->q;
    struct sample x = { .q = q, .output = gap->output, .index = g->sample, .ratio = s->ratio[gap->output], .g = g };
    x.text = view_trim(g->text.s ? g->text.s : "", g->text.len);
    x.parts = split(w, &x, gap->thinking);
    x.graded = w->grade;
    x.verdict = &w->verdict;
    struct response r = {
        q->benchmark.s, q->gold.s, q->gold.len, s->spec.format, x.parts, g->truncated, gap->thinking
    };
    if (count_tokens(s, &x, e) < 0 || (x.graded && judge_response(s->judge, &r, &w->verdict, e) < 0))
        return -1;
    buf_reset(&w->line);
    if (w->row(w->arg, s, &x, &w->line, e) < 0)
        return -1;
    count_sample(&s->counts, &x);
    w->done++;
    return stage_put(w->st, gap->output, unit_of(s, gap->item, g->sample), gap->item->hash, w->line.s, w->line.len, e);
}

static double tokens_per_second(const struct work *w)
{
    double t = log_seconds() - w->start;
    return t > 0 ? (double)w->s->counts.tokens / t : 0;
}

static void show_progress(const struct work *w)
{
    char extra[64];
    snprintf(extra, sizeof extra, "%.0f tokens/s", tokens_per_second(w));
    progress_at((uint64_t)w->done, extra);
}

static int loop(struct work *w, struct err *e)
{
    struct generated g = { .user = w->gap };
    int rc = 1;
    while (rc > 0) {
        if (stage_interrupted())
            rc = stage_stopped(w->st, e);
        else if (submit_more(w, e) < 0)
            rc = -1;
        else
            rc = generator_next(w->s->generator, &g, e);
        if (rc > 0 && finish(w, &g, e) < 0)
            rc = -1;
        show_progress(w);
    }
    generated_release(&g);
    return rc;
}

static void say_memory(const struct work *w)
{
    struct engine_stats st = generator_stats(w->s->generator);
    log_info("%lld %s in %.1f s, %.0f tokens/s; keys and values took %.1f of %.1f MiB",
             COUNTED(w->s->counts.tokens, "token", "tokens"), log_seconds() - w->start, tokens_per_second(w),
             (double)st.kv_peak / 1048576, (double)st.kv_limit / 1048576);
}

int sampling_run(struct sampling *s, struct stage *st, bool grade, sampling_row_fn *row, void *arg, struct err *e)
{
    struct work w = { .s = s, .st = st, .row = row, .arg = arg, .grade = grade };
    s->counts.graded = grade;
    if (read_items(s, stage_input(st), e) < 0 || check_ids(s, e) < 0 || cut_shard(s, e) < 0 || draw_compat(s, e) < 0)
        return -1;
    if (s->nitems == 0)
        log_warn("there is no question in the input");
    else if (exemplars_check(&s->shots, s->item[0].q.benchmark.s, e) < 0)
        return err_prefix(e, "%s", s->o->few_shot);
    find_gaps(&w);
    int rc = 0;
    if (w.ngaps) {
        rc = open_generator(s, e);
        w.start = log_seconds();
        progress_begin("sampled", (uint64_t)w.total, "sequences");
        if (rc == 0)
            rc = loop(&w, e);
        progress_end();
        if (rc == 0)
            say_memory(&w);
    }
    judgement_release(&w.verdict);
    buf_release(&w.line);
    buf_release(&w.think);
    free(w.gap);
    return rc;
}

int sampling_commit(struct sampling *s, struct stage *st, struct err *e)
{
    const struct sampling_counts *c = &s->counts;
    struct buf b = BUF_INIT;
    buf_printf(&b, "{\"questions\": %lld, \"samples\": %lld, \"rejected\": %lld}", (long long)c->questions,
               (long long)c->samples / s->nratios, (long long)c->rejected);
    int rc = stage_commit(st, b.s, e);
    buf_release(&b);
    if (rc < 0)
        return rc;
    struct buf said = BUF_INIT;
    if (c->graded)
        buf_printf(&said, "%lld correct, %lld truncated, %lld unanswered", (long long)c->correct,
                   (long long)c->truncated, (long long)c->unanswered);
    else /* nobody has looked: "0 correct" would alarm */
        buf_printf(&said, "%lld truncated, none graded", (long long)c->truncated);
    log_info("%lld %s, %lld %s (%lld of an earlier run); of the new ones %s",
             COUNTED(c->questions, "question", "questions"), COUNTED(c->samples, "sample", "samples"),
             (long long)c->resumed, said.s);
    buf_release(&said);
    return 0;
}
