/* schedule.c - who runs in the next step. See impl.h. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "infer/impl.h"

static int pages_for(int positions)
{
    return (positions + KV_PAGE - 1) / KV_PAGE;
}

/* ---- leaving ---- */

void seq_free(struct seq *s)
{
    if (!s)
        return;
    free(s->ids);
    free(s->logprobs);
    stop_scan_close(s->scan);
    free(s);
}

void request_drop(struct request *q)
{
    if (--q->refs > 0)
        return;
    seq_free(q->ready);
    for (int i = 0; i < q->params.n_stop_strings; i++)
        free((char *)q->params.stop_strings[i]);
    free(q->prompt);
    free(q->source_id);
    free(q);
}

void seq_leave(struct engine *g, struct seq *s)
{
    const int32_t *row = g->table + (size_t)s->slot * (size_t)g->max_pages;
    for (int i = s->npages - 1; i >= 0; i--) /* the end of a prompt is forgotten before its beginning */
        page_drop(&g->pages, row[i]);
    s->npages = 0;
    int at = 0;
    while (g->live[at] != s)
        at++;
    memmove(g->live + at, g->live + at + 1, (size_t)(g->nlive - at - 1) * sizeof(struct seq *));
    g->nlive--;
    g->slot[s->slot] = NULL;
    g->nlogprobs -= s->req->params.logprobs;
    if (g->prefilling == s)
        g->prefilling = NULL;
    s->slot = -1;
}

/* Gives up its place; computed again later. Tokens under way are forgotten: their draws will be the same. */
static void preempt(struct engine *g, struct seq *s)
{
    seq_leave(g, s);
    s->issued = s->n;
    struct seq **at = &g->again;
    while (*at && (*at)->order < s->order)
        at = &(*at)->next;
    s->next = *at;
    *at = s;
    g->again_count++;
}

/* ---- decoding rows ---- */

static void append_page(struct engine *g, struct seq *s, int32_t page)
{
    size_t at = (size_t)s->slot * (size_t)g->max_pages + (size_t)s->npages++;
    g->table[at] = page;
    g->device->tensor_write(g->device, g->page_table, at, &page, 1);
}

/* A page for the position of the next step. False if s itself had to go. */
static bool page_for_next(struct engine *g, struct seq *s)
{
    while (s->npages < pages_for(seq_total(s))) {
        int32_t page = page_take(&g->pages);
        if (page) {
            append_page(g, s, page);
            continue;
        }
        struct seq *youngest = g->live[g->nlive - 1];
        preempt(g, youngest);
        g->stats.preempted++;
        if (youngest == s)
            return false;
    }
    return true;
}

/* With the next step this sequence becomes longer than the short list of rotations is good for: all its keys must be
 * computed again. */
static bool crosses(const struct engine *g, const struct seq *s)
{
    return g->config->longrope && !s->long_list && model_rope_offset(g->model, seq_total(s)) != 0;
}

static void plan_decode(struct engine *g)
{
    g->ndecode = 0;
    for (int i = 0; i < g->nlive; i++) {
        struct seq *s = g->live[i];
        if (s == g->prefilling || s->issued == s->req->limit)
            continue;
        if (crosses(g, s)) {
            if (s->issued == s->n) { /* else its tokens are still under way */
                preempt(g, s);
                i--;
            }
            continue;
        }
        if (!page_for_next(g, s))
            break; /* s was the youngest, hence the last */
        s->cached = seq_total(s);
        s->issued++;
        g->decode_slot[g->ndecode++] = s->slot;
    }
}

/* ---- prompt rows ---- */

static int32_t token_at(const struct seq *s, int position)
{
    int n = s->req->n_prompt;
    return position < n ? s->req->prompt[position] : s->ids[position - n];
}

/* Names the pages of the prompt that are computed now, so that others find them. */
static void name_pages(struct engine *g, struct seq *s)
{
    int full = (s->cached < s->req->n_prompt ? s->cached : s->req->n_prompt) / KV_PAGE;
    const int32_t *row = g->table + (size_t)s->slot * (size_t)g->max_pages;
    for (; s->named < full; s->named++) {
        s->name = page_name_next(s->name, s->req->prompt + s->named * KV_PAGE, s->long_list);
        page_set_name(&g->pages, row[s->named], s->name);
    }
}

/* Rows of g->prefilling, as many as fit in this step. */
static void plan_rows(struct engine *g)
{
    struct seq *s = g->prefilling;
    int end = seq_total(s) - 1, room = g->options.prefill_chunk - g->nrows;
    int n = end - s->cached < room ? end - s->cached : room;
    const int32_t *row = g->table + (size_t)s->slot * (size_t)g->max_pages;
    int32_t turn = (int32_t)model_rope_offset(g->model, seq_total(s));
    if (n > 0) {
        g->part_slot[g->nparts] = s->slot;
        g->part_begin[g->nparts] = g->nrows;
        g->part_context[g->nparts++] = s->cached + n;
    }
    for (int i = 0; i < n; i++, s->cached++, g->nrows++) {
        g->rows_id[g->nrows] = token_at(s, s->cached);
        g->rows_table[g->nrows] = s->cached + turn;
        g->rows_cache[g->nrows] = row[s->cached / KV_PAGE] * KV_PAGE + s->cached % KV_PAGE;
    }
    g->stats.prefilled += n;
    name_pages(g, s);
    if (s->cached == end)
        g->prefilling = NULL;
}

/* ---- starting ---- */

static void fill_slot(const struct engine *g, const struct seq *s, struct sample_slot *out)
{
    const struct request *q = s->req;
    const struct gen_params *p = &q->params;
    struct rng r = rng_stream(q->seed, q->source_id, strlen(q->source_id), (uint32_t)s->sample_index);
    *out = (struct sample_slot){
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .presence = p->presence,
        .frequency = p->frequency,
        .repetition = p->repetition,
        .lo = { p->lo[0], p->lo[1] },
        .hi = { p->hi[0] < g->config->vocab ? p->hi[0] : g->config->vocab,
                p->hi[1] < g->config->vocab ? p->hi[1] : g->config->vocab },
        .phase = s->phase,
        .flip_id = p->flip_id,
        .flip_bias = p->flip_bias,
        .key = { r.key[0], r.key[1] },
        .stream = { r.stream[0], r.stream[1] },
        .position = q->n_prompt + s->n - 1,
        .generated = s->n,
        .limit = q->limit,
        .last = token_at(s, q->n_prompt + s->n - 1),
        .done = SAMPLE_RUNNING,
    };
    memcpy(out->also, p->also, sizeof out->also);
    memcpy(out->never, p->never, sizeof out->never);
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        out->stop[i] = i < p->n_stop ? p->stop_ids[i] : -1;
}

/* The row of counts is only looked at through the penalties: without them it may hold anything. */
static void write_counts(struct engine *g, const struct seq *s)
{
    const struct request *q = s->req;
    size_t vocab = (size_t)g->config->vocab;
    if (!has_penalties(&q->params))
        return;
    memset(g->count_scratch, 0, vocab * sizeof *g->count_scratch);
    for (int i = 0; i < q->n_prompt; i++)
        if (g->count_scratch[q->prompt[i]] < 0x7fff0000)
            g->count_scratch[q->prompt[i]] += 1 << 16;
    for (int i = 0; i < s->n; i++)
        g->count_scratch[s->ids[i]]++;
    g->device->tensor_write(g->device, g->counts, (size_t)s->slot * vocab, g->count_scratch, vocab);
}

/* The slot goes on from the tokens received; what was enqueued for it before is dropped when it is read. */
static void send_state(struct engine *g, struct seq *s)
{
    struct sample_slot state;
    fill_slot(g, s, &state);
    s->run = ++g->next_run;
    g->device->tensor_write(g->device, g->slots, (size_t)s->slot * sizeof state, &state, sizeof state);
    if (g->counts)
        write_counts(g, s);
}

void seq_rewind(struct engine *g, struct seq *s)
{
    s->issued = s->n;
    send_state(g, s);
}

/* Whole pages of its prompt that a prefill computes. */
static int shareable_pages(const struct seq *s)
{
    int end = seq_total(s) - 1;
    return (end < s->req->n_prompt ? end : s->req->n_prompt) / KV_PAGE;
}

/* Pages of its prompt that are in the cache already, from the first on, are held and entered in row. */
static int find_shared(struct engine *g, struct seq *s, int32_t *row)
{
    int shared = 0, most = shareable_pages(s);
    s->name = (struct hash128){ 0, 0 };
    while (shared < most) {
        struct hash128 name = page_name_next(s->name, s->req->prompt + shared * KV_PAGE, s->long_list);
        int32_t page = page_find(&g->pages, name);
        if (!page)
            break;
        page_hold(&g->pages, page);
        row[shared++] = page;
        s->name = name;
    }
    return shared;
}

/* Its pages up to the position of its next step; a page for everybody who runs stays free, so that starting one does
 * not at once preempt another. False: not now. */
static bool take_pages(struct engine *g, struct seq *s, int slot)
{
    int32_t *row = g->table + (size_t)slot * (size_t)g->max_pages;
    int need = pages_for(seq_total(s)), shared = find_shared(g, s, row);
    if (need - shared + g->nlive > pages_available(&g->pages)) {
        while (shared > 0)
            page_drop(&g->pages, row[--shared]);
        return false;
    }
    s->named = shared;
    s->cached = shared * KV_PAGE;
    for (s->npages = shared; s->npages < need; s->npages++)
        row[s->npages] = page_take(&g->pages);
    return true;
}

static bool seq_enter(struct engine *g, struct seq *s, int slot)
{
    struct device *d = g->device;
    int32_t turn = (int32_t)model_rope_offset(g->model, seq_total(s));
    s->long_list = turn != 0;
    if (!take_pages(g, s, slot))
        return false;
    s->slot = slot;
    send_state(g, s);
    d->tensor_write(d, g->rope_offset, (size_t)slot, &turn, 1);
    size_t row = (size_t)slot * (size_t)g->max_pages;
    d->tensor_write(d, g->page_table, row, g->table + row, (size_t)s->npages);
    g->slot[slot] = s;
    int at = g->nlive++;
    for (; at > 0 && g->live[at - 1]->order > s->order; at--)
        g->live[at] = g->live[at - 1];
    g->live[at] = s;
    g->nlogprobs += s->req->params.logprobs;
    g->stats.shared += s->cached;
    if (!s->req->started || s->named < shareable_pages(s))
        g->stats.prefills++;
    s->req->started = true;
    g->prefilling = s;
    return true;
}

/* A request of which some samples run already goes on; else the one with the longest course among the first ones. */
static struct request **choose(struct engine *g)
{
    struct request **best = NULL;
    int i = 0;
    for (struct request **at = &g->waiting; *at && i < CHOOSE_WINDOW; at = &(*at)->next, i++) {
        if ((*at)->started)
            return at;
        if (!best || (*at)->n_prompt + (*at)->limit > (*best)->n_prompt + (*best)->limit)
            best = at;
    }
    return best;
}

static struct seq *seq_new(struct engine *g, struct request *q, struct err *e)
{
    struct seq *s = xcalloc(1, sizeof *s);
    size_t limit = (size_t)(q->limit ? q->limit : 1);
    *s = (struct seq){ .req = q, .sample_index = q->next_sample, .slot = -1, .phase = q->params.phase };
    s->ids = malloc(limit * sizeof *s->ids);
    s->logprobs = q->params.logprobs ? malloc(limit * sizeof *s->logprobs) : NULL;
    if (!s->ids || (q->params.logprobs && !s->logprobs)) {
        seq_free(s);
        err_set(e, "no memory for the tokens of %s: %zu are asked for", q->source_id, limit);
        return NULL;
    }
    if (q->params.n_stop_strings && stop_scan_open(&s->scan, &g->options, &q->params, e) < 0) {
        seq_free(s);
        return NULL;
    }
    return s;
}

/* Starts the next sample of the chosen request. 1: done, 0: no room now. */
static int start_new(struct engine *g, int slot, struct err *e)
{
    struct request **link = choose(g), *q = *link;
    struct seq *s = q->ready ? q->ready : seq_new(g, q, e);
    q->ready = NULL;
    if (!s)
        return -1;
    s->order = g->next_order;
    if (q->limit > 0 && !seq_enter(g, s, slot)) {
        q->ready = s; /* waiting for room costs no allocation */
        return 0;
    }
    g->next_order++;
    g->unstarted--;
    g->stats.prompt_tokens += q->n_prompt;
    if (++q->next_sample == q->end_sample) {
        *link = q->next;
        if (!*link)
            g->waiting_end = link;
    }
    if (q->limit == 0) /* nothing to compute */
        finish(g, s, GEN_LENGTH, -1);
    return 1;
}

static int start_again(struct engine *g, int slot)
{
    struct seq *s = g->again;
    struct seq *after = s->next;
    if (!seq_enter(g, s, slot))
        return 0;
    g->again = after;
    g->again_count--;
    return 1;
}

/* Fills free slots and the step's prompt rows. */
static int plan_prompts(struct engine *g, struct err *e)
{
    g->nrows = g->nparts = 0;
    for (int slot = 0;;) {
        if (g->prefilling) {
            plan_rows(g);
            if (g->prefilling)
                return 0; /* the step is full */
            continue;
        }
        while (slot < g->options.batch && g->slot[slot])
            slot++;
        if (slot == g->options.batch || (!g->again && !g->waiting))
            return 0;
        int started = g->again ? start_again(g, slot) : start_new(g, slot, e);
        if (started <= 0)
            return started;
    }
}

int schedule(struct engine *g, struct err *e)
{
    plan_decode(g);
    plan_head(g);
    return plan_prompts(g, e);
}
