/* step.c - one step: everything is enqueued from device state, tokens are read up to read_delay steps later. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "infer/impl.h"

/* ---- enqueueing ---- */

static void send_decode_slots(struct engine *g, int rows)
{
    for (int i = g->ndecode; i < rows; i++)
        g->decode_slot[i] = g->options.batch; /* the spare one */
    size_t bytes = (size_t)rows * sizeof *g->decode_slot;
    if (!memcmp(g->sent_slot, g->decode_slot, bytes))
        return;
    memcpy(g->sent_slot, g->decode_slot, bytes);
    g->device->tensor_write(g->device, g->slot_of, 0, g->decode_slot, (size_t)rows);
}

/* Prompt rows go behind the decoding rows of the same call. */
static void send_prompts(struct engine *g)
{
    struct device *d = g->device;
    size_t at = (size_t)g->ndecode, rows = (size_t)g->nrows, parts = (size_t)g->nparts;
    d->tensor_write(d, g->ids, at, g->rows_id, rows);
    d->tensor_write(d, g->table_row, at, g->rows_table, rows);
    d->tensor_write(d, g->cache_row, at, g->rows_cache, rows);
    d->tensor_write(d, g->context, at, g->part_context, parts);
    memcpy(g->scratch, g->decode_slot, at * sizeof *g->scratch);
    memcpy(g->scratch + at, g->part_slot, parts * sizeof *g->scratch);
    d->tensor_write(d, g->seq_slot, 0, g->scratch, at + parts);
    for (int i = 0; i < g->ndecode; i++)
        g->scratch[i] = i;
    for (int i = 0; i < g->nparts; i++)
        g->scratch[g->ndecode + i] = g->ndecode + g->part_begin[i];
    g->scratch[at + parts] = g->ndecode + g->nrows;
    d->tensor_write(d, g->q_begin, 0, g->scratch, at + parts + 1);
}

static void enqueue_inputs(struct engine *g, int rows)
{
    struct decode_inputs_args in = {
        .slot_of = g->slot_of,
        .slots = g->slots,
        .page_table = g->page_table,
        .rope_offset = g->rope_offset,
        .ids = g->ids,
        .table_row = g->table_row,
        .context = g->context,
        .cache_row = g->cache_row,
        .n = rows,
    };
    g->device->decode_inputs(g->device, &in);
}

static void enqueue_sample(struct engine *g, int rows)
{
    struct sample_args a = {
        .logits = g->logits,
        .slot_of = g->slot_of,
        .slots = g->slots,
        .counts = g->counts,
        .out_id = g->out_id,
        .out_logprob = g->nlogprobs ? g->out_logprob : NULL,
        .n = rows,
        .vocab = g->config->vocab,
    };
    g->device->sample(g->device, &a);
}

/* The read of this step's tokens, taken later by read_oldest. */
static int enqueue_read(struct engine *g, struct err *e)
{
    struct pending *p = &g->pending[(g->first_pending + g->npending) % (MAX_READ_DELAY + 1)];
    struct device *d = g->device;
    size_t n = (size_t)g->ndecode;
    p->logprobs = NULL;
    if (d->read_begin(d, &p->ids, g->out_id, 0, n, e) < 0)
        return -1;
    p->n = g->ndecode;
    for (int i = 0; i < g->ndecode; i++) {
        p->slot[i] = g->decode_slot[i];
        p->run[i] = g->slot[g->decode_slot[i]]->run;
    }
    g->npending++;
    return g->nlogprobs ? d->read_begin(d, &p->logprobs, g->out_logprob, 0, n, e) : 0;
}

/* Positions of the longest sequence in this step, rounded up to a power of two so that few shapes are recorded. */
static int longest_context(const struct engine *g)
{
    int most = 1, longest = LONGEST_LEAST;
    for (int i = 0; i < g->ndecode; i++) {
        const struct seq *s = g->slot[g->decode_slot[i]];
        most = s->cached > most ? s->cached : most;
    }
    for (int i = 0; i < g->nparts; i++)
        most = g->part_context[i] > most ? g->part_context[i] : most;
    while (longest < most)
        longest *= 2;
    return longest;
}

/* The first `decode` rows decode; those of prompts follow. */
static void enqueue_forward(struct engine *g, int decode, const struct logit_block *block, int nblocks)
{
    struct model_batch b = {
        .rows = decode + g->nrows,
        .nseq = decode + g->nparts,
        .ids = g->ids,
        .table_row = g->table_row,
        .cache_row = g->cache_row,
        .page_table = g->page_table,
        .seq_slot = g->nrows ? g->seq_slot : g->slot_of,
        .q_begin = g->nrows ? g->q_begin : g->q_begin_decode,
        .context = g->context,
        .longest = g->longest,
        .singles = decode,
        .logit_rows = decode,
        .logits = g->logits,
        .block = block,
        .nblocks = nblocks,
    };
    model_forward(g->model, &g->kv, &b);
}

void enqueue_operations(struct engine *g, int decode, const struct logit_block *block, int nblocks)
{
    if (decode)
        enqueue_inputs(g, decode);
    if (g->nrows)
        send_prompts(g);
    enqueue_forward(g, decode, block, nblocks);
    if (decode)
        enqueue_sample(g, decode);
}

int enqueue_step(struct engine *g, struct err *e)
{
    bool replayed = g->device->record_begin && !g->nrows && !model_dumps(g->model);
    g->longest = longest_context(g);
    send_decode_slots(g, replayed ? replay_bucket(g->ndecode) : g->ndecode);
    g->stats.steps++;
    if (replayed)
        replay_step(g);
    else
        enqueue_operations(g, g->ndecode, g->head_block, g->nhead_blocks);
    return g->ndecode ? enqueue_read(g, e) : 0;
}

/* ---- receiving ---- */

void finish(struct engine *g, struct seq *s, enum gen_finish how, int32_t stop_id)
{
    struct finished *f = xcalloc(1, sizeof *f);
    f->result = (struct gen_result){
        .user = s->req->user,
        .sample_index = s->sample_index,
        .n_prompt = s->req->n_prompt,
        .n = s->n,
        .ids = s->ids,
        .logprobs = s->logprobs,
        .finish = how,
        .stop_id = stop_id,
        .stop_string = -1,
    };
    *g->finished_end = f;
    g->finished_end = &f->next;
    g->stats.done++;
    s->ids = NULL;
    s->logprobs = NULL;
    if (s->slot >= 0)
        seq_leave(g, s);
    request_drop(s->req);
    seq_free(s);
}

static void finish_with_string(struct engine *g, struct seq *s, int which)
{
    int tokens;
    char *text = stop_scan_text(s->scan, &tokens);
    s->n = tokens < s->n ? tokens : s->n;
    struct finished **at = g->finished_end;
    finish(g, s, GEN_STOP, -1);
    (*at)->result.stop_string = which;
    (*at)->result.text = text;
}

static bool is_stop(const struct gen_params *p, int32_t id)
{
    for (int i = 0; i < p->n_stop; i++)
        if (p->stop_ids[i] == id)
            return true;
    return false;
}

static int receive(struct engine *g, struct seq *s, int32_t id, float logprob, struct err *e)
{
    int hit = -1;
    const struct request *q = s->req;
    g->stats.generated++;
    if (is_stop(&q->params, id)) {
        finish(g, s, GEN_STOP, id);
        return 0;
    }
    if (s->logprobs)
        s->logprobs[s->n] = logprob;
    s->ids[s->n++] = id;
    bool flips = id == q->params.flip_id && s->phase == 0;
    s->phase |= flips;
    if (s->scan && stop_scan_add(s->scan, id, &hit, e) < 0)
        return err_prefix(e, "%s", q->source_id);
    if (hit >= 0)
        finish_with_string(g, s, hit);
    else if (s->n == q->limit)
        finish(g, s, GEN_LENGTH, -1);
    else if (flips && s->issued > s->n && !head_is_whole(&q->params))
        seq_rewind(g, s); /* what is under way has the columns of the phase before */
    return 0;
}

int read_oldest(struct engine *g, struct err *e)
{
    struct pending *p = &g->pending[g->first_pending];
    struct device *d = g->device;
    struct read_ticket *ids = p->ids, *logprobs = p->logprobs;
    p->ids = p->logprobs = NULL;
    g->first_pending = (g->first_pending + 1) % (MAX_READ_DELAY + 1);
    g->npending--;
    int rc = d->read_wait(d, ids, g->got_id, e);
    if (logprobs && d->read_wait(d, logprobs, g->got_logprob, rc < 0 ? NULL : e) < 0)
        rc = -1;
    if (rc < 0)
        return -1;
    for (int i = 0; i < p->n; i++) {
        struct seq *s = g->slot[p->slot[i]];
        if (s && s->run == p->run[i] && g->got_id[i] >= 0 &&
            receive(g, s, g->got_id[i], logprobs ? g->got_logprob[i] : 0, e) < 0)
            return -1;
    }
    return 0;
}

void drop_pending(struct engine *g)
{
    for (; g->npending > 0; g->npending--) {
        struct pending *p = &g->pending[g->first_pending];
        if (p->ids)
            g->device->read_wait(g->device, p->ids, g->got_id, NULL);
        if (p->logprobs)
            g->device->read_wait(g->device, p->logprobs, g->got_logprob, NULL);
        p->ids = p->logprobs = NULL;
        g->first_pending = (g->first_pending + 1) % (MAX_READ_DELAY + 1);
    }
}
