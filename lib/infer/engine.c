/* engine.c - opening, submitting, results and numbers of the generation engine. See engine.h and impl.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "infer/impl.h"

enum { DEFAULT_BATCH = 16, DEFAULT_CHUNK = 256 };

/* ---- opening ---- */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int check_options(struct engine *g, struct err *e)
{
    struct engine_options *o = &g->options;
    if (g->config->encoder)
        return err_set(e, "%s is an encoder: generation needs a decoder", model_dir(g->model));
    if (o->batch < 0 || o->batch > 1 << 16)
        return err_set(e, "batch is %d, expected 1 to %d", o->batch, 1 << 16);
    if (o->prefill_chunk < 0 || o->prefill_chunk > 1 << 20)
        return err_set(e, "prefill chunk is %d rows, expected 1 to %d", o->prefill_chunk, 1 << 20);
    if (o->read_delay < 0 || o->read_delay > MAX_READ_DELAY)
        return err_set(e, "read delay is %d steps, expected 0 to %d", o->read_delay, MAX_READ_DELAY);
    if (o->kv_memory < 0)
        return err_set(e, "key-value memory is %lld bytes", (long long)o->kv_memory);
    if (o->read_delay == 0 && g->device->record_begin) /* it works behind the host */
        o->read_delay = MAX_READ_DELAY;
    o->batch = o->batch ? o->batch : DEFAULT_BATCH;
    o->prefill_chunk = o->prefill_chunk ? o->prefill_chunk : DEFAULT_CHUNK;
    return 0;
}

static int64_t pages_of_context(const struct engine *g)
{
    return (g->config->max_positions + KV_PAGE - 1) / KV_PAGE;
}

/* Device memory that a step takes besides the cache. */
static int64_t step_bytes(const struct engine *g, int64_t batch)
{
    int64_t row = model_row_bytes(g->model), sequence = 4 * (g->config->vocab + pages_of_context(g));
    return replay_bucket((int)batch) * (row + sequence) + g->options.prefill_chunk * row;
}

/* What a cache may take of the memory of a device: nine tenths of what a step leaves. */
static int64_t cache_room(const struct engine *g, int64_t left)
{
    return (left - step_bytes(g, g->options.batch)) / 10 * 9;
}

/* What `batch` sequences of full length need. On the machine's memory no more than 1 GiB (or one such sequence, if that
 * is larger) and a quarter of it. */
static int64_t default_pages(const struct engine *g, int64_t left)
{
    int64_t context = pages_of_context(g), page = (int64_t)g->page_bytes;
    if (left >= 0)
        return min64(context * g->options.batch, cache_room(g, left) / page) + 1;
    int64_t machine = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    int64_t some = ((int64_t)1 << 30) / page;
    int64_t want = min64(context * g->options.batch, some > context ? some : context);
    return min64(want, machine / 4 / page) + 1;
}

/* Is there room for a step, and beside it for a page? Else what would fit is told. */
static int check_step(const struct engine *g, int64_t left, struct err *e)
{
    int64_t batch = g->options.batch, rest = left - 2 * (int64_t)g->page_bytes, fit = batch;
    char fitting[80] = "not even one would fit: free some, or --device cpu";
    if (left < 0 || step_bytes(g, batch) <= rest)
        return 0;
    while (fit > 0 && step_bytes(g, fit) > rest)
        fit--;
    if (fit > 0)
        snprintf(fitting, sizeof fitting, "%lld would fit (--batch)", (long long)fit);
    return err_set(e,
                   "%s: %lld sequences at a time need %.1f MiB of the memory of %s, besides keys and values, where "
                   "%.1f MiB are free: %s",
                   model_dir(g->model), (long long)batch, (double)step_bytes(g, batch) / 1048576, g->device->name,
                   (double)left / 1048576, fitting);
}

static int open_cache(struct engine *g, struct err *e)
{
    g->page_bytes = kv_page_bytes(g->model);
    int64_t context = pages_of_context(g), page = (int64_t)g->page_bytes, left = g->device->memory_left(g->device);
    if (check_step(g, left, e) < 0)
        return -1;
    int64_t n = g->options.kv_memory ? g->options.kv_memory / page : default_pages(g, left);
    n = min64(n, min64(context * g->options.batch + 1, INT32_MAX / KV_PAGE)); /* no more than can be in use */
    if (n < 2)
        return err_set(e, "key-value memory of %lld bytes holds no sequence: at least %lld are needed",
                       (long long)(g->options.kv_memory ? g->options.kv_memory : n * page), 2 * (long long)page);
    if (left >= 0 && n * page > left - step_bytes(g, g->options.batch))
        return err_set(e, "key-value memory of %.1f MiB: %s has %.1f MiB left, of which %.1f would do (--kv-memory)",
                       (double)(n * page) / 1048576, g->device->name, (double)left / 1048576,
                       (double)cache_room(g, left) / 1048576);
    g->max_pages = (int)min64(context, n - 1);
    g->stats.kv_limit = n * (int64_t)g->page_bytes;
    if (kv_cache_open(&g->kv, g->model, n, e) < 0)
        return -1;
    return pages_init(&g->pages, (int32_t)n, e);
}

static int open_tensors(struct engine *g, struct err *e)
{
    int64_t batch = replay_bucket(g->options.batch), rows = batch + g->options.prefill_chunk;
    int64_t slots = g->options.batch + 1; /* and the spare one of replay.c */
    const struct {
        struct tensor **t;
        enum dtype type;
        int64_t rows, cols;
        const char *what;
    } all[] = {
        { &g->slots, DTYPE_U8, slots, sizeof(struct sample_slot), "sampler state" },
        { &g->page_table, DTYPE_I32, slots, g->max_pages, "page table" },
        { &g->rope_offset, DTYPE_I32, 1, slots, "sampler state" },
        { &g->slot_of, DTYPE_I32, 1, batch, "sampler state" },
        { &g->ids, DTYPE_I32, 1, rows, "step inputs" },
        { &g->table_row, DTYPE_I32, 1, rows, "step inputs" },
        { &g->cache_row, DTYPE_I32, 1, rows, "step inputs" },
        { &g->context, DTYPE_I32, 1, batch, "step inputs" },
        { &g->seq_slot, DTYPE_I32, 1, batch, "step inputs" },
        { &g->q_begin, DTYPE_I32, 1, batch + 1, "step inputs" },
        { &g->q_begin_decode, DTYPE_I32, 1, batch + 1, "step inputs" },
        { &g->logits, DTYPE_F32, batch, g->config->vocab, "logits of a step" },
        { &g->out_id, DTYPE_I32, 1, batch, "step outputs" },
        { &g->out_logprob, DTYPE_F32, 1, batch, "step outputs" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (g->device->tensor_new(g->device, all[i].t, all[i].type, all[i].rows, all[i].cols, all[i].what, e) < 0)
            return -1;
    struct sample_slot spare = { .done = SAMPLE_EMPTY };
    g->device->tensor_write(g->device, g->slots, (size_t)g->options.batch * sizeof spare, &spare, sizeof spare);
    return 0;
}

static void free_tensors(struct engine *g)
{
    struct tensor *all[] = { g->slots,     g->page_table, g->rope_offset, g->slot_of,     g->ids,
                             g->table_row, g->cache_row,  g->context,     g->seq_slot,    g->q_begin,
                             g->logits,    g->out_id,     g->counts,      g->out_logprob, g->q_begin_decode };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        g->device->tensor_free(g->device, all[i]);
}

static int open_host(struct engine *g, struct err *e)
{
    size_t batch = (size_t)replay_bucket(g->options.batch), chunk = (size_t)g->options.prefill_chunk;
    void *table;
    if (mem_try_zeroed(&table, batch * (size_t)g->max_pages * sizeof *g->table, "page table", e) < 0)
        return -1;
    g->table = table;
    g->slot = xcalloc(batch, sizeof(struct seq *));
    g->live = xcalloc(batch, sizeof(struct seq *));
    g->rows_id = xcalloc(chunk, sizeof *g->rows_id);
    g->rows_table = xcalloc(chunk, sizeof *g->rows_table);
    g->rows_cache = xcalloc(chunk, sizeof *g->rows_cache);
    g->part_slot = xcalloc(batch, sizeof *g->part_slot);
    g->part_context = xcalloc(batch, sizeof *g->part_context);
    g->part_begin = xcalloc(batch, sizeof *g->part_begin);
    g->decode_slot = xcalloc(batch, sizeof *g->decode_slot);
    g->head_group = xcalloc(batch, sizeof *g->head_group);
    g->sent_slot = xcalloc(batch, sizeof *g->sent_slot);
    g->scratch = xcalloc(batch + 1, sizeof *g->scratch);
    g->count_scratch = xcalloc((size_t)g->config->vocab, sizeof *g->count_scratch);
    g->got_id = xcalloc(batch, sizeof *g->got_id);
    g->got_logprob = xcalloc(batch, sizeof *g->got_logprob);
    for (int i = 0; i <= MAX_READ_DELAY; i++) {
        g->pending[i].slot = xcalloc(batch, sizeof *g->pending[i].slot);
        g->pending[i].run = xcalloc(batch, sizeof *g->pending[i].run);
    }
    for (size_t i = 0; i <= batch; i++)
        g->scratch[i] = (int32_t)i;
    g->device->tensor_write(g->device, g->q_begin_decode, 0, g->scratch, batch + 1);
    return 0;
}

static void free_host(struct engine *g)
{
    void *all[] = { g->table,       g->slot,        g->live,          g->rows_id,      g->rows_table, g->rows_cache,
                    g->part_slot,   g->part_begin,  g->sent_slot,     g->part_context, g->scratch,    g->got_id,
                    g->decode_slot, g->got_logprob, g->count_scratch, g->head_group };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    for (int i = 0; i <= MAX_READ_DELAY; i++) {
        free(g->pending[i].slot);
        free(g->pending[i].run);
    }
}

int engine_open(struct engine **out, struct model *m, const struct engine_options *o, struct err *e)
{
    struct engine *g = xcalloc(1, sizeof *g);
    g->model = m;
    g->device = model_device(m);
    g->config = model_config(m);
    g->options = *o;
    g->waiting_end = &g->waiting;
    g->finished_end = &g->finished;
    if (check_options(g, e) < 0 || open_cache(g, e) < 0 || open_tensors(g, e) < 0 || open_host(g, e) < 0 ||
        model_reserve(m, replay_bucket(g->options.batch) + g->options.prefill_chunk, e) < 0) {
        engine_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

static void drop_sequences(struct engine *g)
{
    while (g->nlive) {
        struct seq *s = g->live[g->nlive - 1];
        seq_leave(g, s);
        request_drop(s->req);
        seq_free(s);
    }
    for (struct seq *s = g->again, *next; s; s = next) {
        next = s->next;
        request_drop(s->req);
        seq_free(s);
    }
    for (struct request *q = g->waiting, *next; q; q = next) {
        next = q->next;
        q->refs = 1;
        request_drop(q);
    }
}

void engine_close(struct engine *g)
{
    if (!g)
        return;
    drop_pending(g);
    drop_sequences(g);
    for (struct gen_result r; engine_poll(g, &r);)
        gen_result_release(&r);
    replay_close(g);
    free_tensors(g);
    kv_cache_close(&g->kv, g->model);
    pages_release(&g->pages);
    free_host(g);
    free(g);
}

/* ---- submitting ---- */

void gen_params_init(struct gen_params *p, const struct model_config *c)
{
    *p = (struct gen_params){ .top_p = 1, .repetition = 1, .max_new = 512, .n_stop = c->n_eos, .flip_id = -1 };
    for (int i = 0; i < c->n_eos; i++)
        p->stop_ids[i] = c->eos[i];
    for (int phase = 0; phase < 2; phase++) {
        p->hi[phase] = c->vocab;
        for (int i = 0; i < SAMPLE_STOP_IDS; i++)
            p->also[phase][i] = p->never[phase][i] = -1;
    }
}

static bool in_vocab(const struct engine *g, int32_t id)
{
    return id >= 0 && id < g->config->vocab;
}

/* Is there an id that this phase allows? */
static bool allows_something(const struct engine *g, const struct gen_params *p, int phase)
{
    int64_t lo = p->lo[phase] > 0 ? p->lo[phase] : 0, hi = min64(p->hi[phase], g->config->vocab);
    int64_t n = hi > lo ? hi - lo : 0;
    for (int i = 0; i < SAMPLE_STOP_IDS; i++) {
        if (p->also[phase][i] >= 0)
            return true;
        n -= p->never[phase][i] >= lo && p->never[phase][i] < hi; /* twice the same one: refused too early, no harm */
    }
    return n > 0;
}

static int check_ranges(const struct engine *g, const struct gen_params *p, const char *who, struct err *e)
{
    for (int phase = 0; phase < 2; phase++) {
        for (int i = 0; i < SAMPLE_STOP_IDS; i++)
            if (p->also[phase][i] >= g->config->vocab)
                return err_set(e, "%s: allowed id %d, but the vocabulary has %d", who, p->also[phase][i],
                               g->config->vocab);
        if ((phase == p->phase || p->flip_id >= 0) && !allows_something(g, p, phase))
            return err_set(e, "%s: phase %d allows no id: %d to %d of %d", who, phase, p->lo[phase], p->hi[phase],
                           g->config->vocab);
    }
    if (p->phase != 0 && p->phase != 1)
        return err_set(e, "%s: phase is %d, expected 0 or 1", who, p->phase);
    if (p->flip_id >= g->config->vocab || !isfinite(p->flip_bias))
        return err_set(e, "%s: flip id %d with bias %g, the vocabulary has %d", who, p->flip_id, (double)p->flip_bias,
                       g->config->vocab);
    return 0;
}

static int check_params(const struct engine *g, const struct gen_params *p, const char *who, struct err *e)
{
    if (!(p->temperature >= 0 && isfinite(p->temperature)))
        return err_set(e, "%s: temperature is %g, expected 0 or more", who, (double)p->temperature);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return err_set(e, "%s: top-p is %g, expected more than 0 and at most 1", who, (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return err_set(e, "%s: min-p is %g, expected 0 to 1", who, (double)p->min_p);
    if (p->top_k < 0)
        return err_set(e, "%s: top-k is %d, expected 0 (off) or more", who, p->top_k);
    if (!isfinite(p->presence) || !isfinite(p->frequency) || !(p->repetition > 0 && isfinite(p->repetition)))
        return err_set(e, "%s: penalties are %g (presence), %g (frequency), %g (repetition, expected more than 0)", who,
                       (double)p->presence, (double)p->frequency, (double)p->repetition);
    if (p->max_new < 0)
        return err_set(e, "%s: %d new tokens are asked for", who, p->max_new);
    if (p->n_stop < 0 || p->n_stop > SAMPLE_STOP_IDS)
        return err_set(e, "%s: %d stop ids, expected at most %d", who, p->n_stop, SAMPLE_STOP_IDS);
    if (p->n_stop_strings < 0 || p->n_stop_strings > GEN_STOP_STRINGS)
        return err_set(e, "%s: %d stop strings, expected at most %d", who, p->n_stop_strings, GEN_STOP_STRINGS);
    for (int i = 0; i < p->n_stop_strings; i++)
        if (!p->stop_strings[i] || !p->stop_strings[i][0])
            return err_set(e, "%s: stop string %d is empty", who, i);
    if (p->n_stop_strings && !g->options.tokenizer)
        return err_set(e, "%s: stop strings need a tokenizer", who);
    return check_ranges(g, p, who, e);
}

static int check_request(const struct engine *g, const struct gen_request *q, struct err *e)
{
    const char *who = q->source_id;
    if (q->n_prompt < 1)
        return err_set(e, "%s: the prompt has no tokens", who);
    if (q->n_prompt > g->config->max_positions)
        return err_set(e, "%s: the prompt has %d tokens, the model's context has room for %lld", who, q->n_prompt,
                       (long long)g->config->max_positions);
    for (int i = 0; i < q->n_prompt; i++)
        if (!in_vocab(g, q->prompt[i]))
            return err_set(e, "%s: id %d at position %d of the prompt, the vocabulary has %d", who, q->prompt[i], i,
                           g->config->vocab);
    if (q->n_samples < 1 || q->first_sample < 0 || q->first_sample > INT32_MAX - q->n_samples)
        return err_set(e, "%s: %d samples from number %d on are asked for", who, q->n_samples, q->first_sample);
    return check_params(g, q->params, who, e);
}

/* The longest course of one sample must fit in the cache. */
static int check_room(const struct engine *g, const struct gen_request *q, int limit, struct err *e)
{
    int64_t pages = ((int64_t)q->n_prompt + limit - 1 + KV_PAGE - 1) / KV_PAGE + 1; /* and page 0 */
    if (limit == 0 || pages <= g->pages.count)
        return 0;
    int64_t fit = ((int64_t)g->pages.count - 1) * KV_PAGE - q->n_prompt + 1;
    char fitting[80] = "the prompt alone is too long for it";
    if (fit > 0)
        snprintf(fitting, sizeof fitting, "up to %lld new ones would fit (--max-tokens)", (long long)fit);
    return err_set(
        e, "%s: %d prompt tokens and up to %d new ones need %lld bytes of key-value memory, there are %lld: %s%s",
        q->source_id, q->n_prompt, limit, (long long)(pages * (int64_t)g->page_bytes), (long long)g->stats.kv_limit,
        fitting, g->device->kv_dtype == DTYPE_BF16 ? "; --fp8-cache needs half" : "");
}

int engine_submit(struct engine *g, const struct gen_request *q, struct err *e)
{
    if (check_request(g, q, e) < 0)
        return -1;
    int limit = (int)min64(q->params->max_new, g->config->max_positions - q->n_prompt);
    if (check_room(g, q, limit, e) < 0)
        return -1;
    if (has_penalties(q->params) && !g->counts &&
        g->device->tensor_new(g->device, &g->counts, DTYPE_I32, g->options.batch + 1, g->config->vocab, "penalties",
                              e) < 0)
        return -1;
    struct request *r = xcalloc(1, sizeof *r);
    *r = (struct request){
        .refs = q->n_samples,
        .n_prompt = q->n_prompt,
        .next_sample = q->first_sample,
        .end_sample = q->first_sample + q->n_samples,
        .limit = limit,
        .seed = q->seed,
        .source_id = xstrdup(q->source_id),
        .user = q->user,
        .params = *q->params,
    };
    r->prompt = xreallocarray(NULL, (size_t)q->n_prompt, sizeof *r->prompt);
    memcpy(r->prompt, q->prompt, (size_t)q->n_prompt * sizeof *r->prompt);
    for (int i = 0; i < q->params->n_stop_strings; i++)
        r->params.stop_strings[i] = xstrdup(q->params->stop_strings[i]);
    *g->waiting_end = r;
    g->waiting_end = &r->next;
    g->unstarted += q->n_samples;
    return 0;
}

/* ---- running ---- */

static bool busy(const struct engine *g)
{
    return g->nlive || g->again || g->waiting || g->npending;
}

static int step(struct engine *g, struct err *e)
{
    if (schedule(g, e) < 0)
        return -1;
    int64_t used = (int64_t)g->pages.used * (int64_t)g->page_bytes;
    if (used > g->stats.kv_peak)
        g->stats.kv_peak = used;
    int late = g->options.read_delay;
    if (g->ndecode + g->nrows > 0) {
        if (enqueue_step(g, e) < 0)
            return -1;
    } else {
        late = g->npending - 1; /* nothing to compute before more is known */
    }
    while (g->npending > 0 && g->npending > late)
        if (read_oldest(g, e) < 0)
            return -1;
    return 0;
}

int engine_step(struct engine *g, struct err *e)
{
    if (g->failed)
        return err_set(e, "generation failed before");
    if (busy(g) && step(g, e) < 0) {
        g->failed = true;
        return -1;
    }
    return busy(g);
}

int engine_poll(struct engine *g, struct gen_result *r)
{
    struct finished *f = g->finished;
    if (!f)
        return 0;
    *r = f->result;
    g->finished = f->next;
    if (!g->finished)
        g->finished_end = &g->finished;
    free(f);
    return 1;
}

int engine_next(struct engine *g, struct gen_result *r, struct err *e)
{
    while (!engine_poll(g, r)) {
        int more = engine_step(g, e);
        if (more < 0)
            return -1;
        if (!more && !g->finished)
            return 0;
    }
    return 1;
}

void gen_result_release(struct gen_result *r)
{
    free(r->ids);
    free(r->logprobs);
    free(r->text);
    *r = (struct gen_result){ 0 };
}

struct engine_stats engine_stats(const struct engine *g)
{
    struct engine_stats s = g->stats;
    s.running = g->nlive;
    s.waiting = g->unstarted + g->again_count;
    s.kv_used = (int64_t)g->pages.used * (int64_t)g->page_bytes;
    return s;
}
