/* branch.c - see branch.h.
 *
 * Sequences are sorted, so each shares its longest beginning with the one in front of it; what it does not share is its
 * segment. The owner of a position is the sequence whose segment it lies in. A segment that begins inside a page whose
 * rows belong to others gets a copy of that page, which exists only when the owner's pass is over: its level is one
 * more than the owner's. */
#include "model/branch.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/model.h"

enum { LOGIT_BYTES = 32 << 20, SLOTS = 256 };

struct branch {
    const struct score_seq *seq;
    int64_t turn; /* offset of its rotations (longrope) */
    int inputs;   /* all tokens but the last */
    int from;     /* its segment: positions from .. inputs - 1 */
    int level;
    int32_t copy_page; /* whose first copy_rows rows begin its first page; 0: none */
    int copy_rows;
};

/* The log-probability of a token behind a position. */
struct want {
    int owner, position;
    int32_t target;
    float *out;
};

struct branches {
    struct model *m;
    struct device *d;
    struct branches_options o;
    struct kv_cache kv;
    int max_pages, vocab, piece;
    struct tensor *page_table, *seq_slot, *q_begin, *context, *ids, *table_row, *cache_row;
    struct tensor *logits, *expanded, *index, *target, *logprob;
    int32_t *table;                                  /* [SLOTS, max_pages] */
    int32_t *host_ids, *host_turn, *host_cache;      /* [rows] */
    int32_t *host_slot, *host_begin, *host_context;  /* [SLOTS + 1] */
    int32_t *host_index, *host_expand, *host_target; /* [piece] */
    float *host_logprob;                             /* [piece] */
    float **host_out;                                /* [piece] */
    struct branches_stats stats;
};

/* ---- open ---- */

static void free_tensors(struct branches *b)
{
    struct tensor *t[] = { b->page_table, b->seq_slot, b->q_begin,  b->context, b->ids,    b->table_row,
                           b->cache_row,  b->logits,   b->expanded, b->index,   b->target, b->logprob };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        b->d->tensor_free(b->d, t[i]);
}

static int open_tensors(struct branches *b, struct err *e)
{
    const struct {
        struct tensor **t;
        enum dtype type;
        int64_t rows, cols;
    } want[] = {
        { &b->page_table, DTYPE_I32, SLOTS, b->max_pages },
        { &b->seq_slot, DTYPE_I32, 1, SLOTS },
        { &b->q_begin, DTYPE_I32, 1, SLOTS + 1 },
        { &b->context, DTYPE_I32, 1, SLOTS },
        { &b->ids, DTYPE_I32, 1, b->o.rows },
        { &b->table_row, DTYPE_I32, 1, b->o.rows },
        { &b->cache_row, DTYPE_I32, 1, b->o.rows },
        { &b->logits, DTYPE_F32, b->piece, b->vocab },
        { &b->expanded, DTYPE_F32, b->piece, b->vocab },
        { &b->index, DTYPE_I32, 1, b->piece },
        { &b->target, DTYPE_I32, 1, b->piece },
        { &b->logprob, DTYPE_F32, 1, b->piece },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (b->d->tensor_new(b->d, want[i].t, want[i].type, want[i].rows, want[i].cols, "scoring", e) < 0)
            return -1;
    return 0;
}

static void open_host(struct branches *b)
{
    size_t rows = (size_t)b->o.rows, piece = (size_t)b->piece;
    b->table = xcalloc((size_t)SLOTS * (size_t)b->max_pages, sizeof *b->table);
    b->host_ids = xcalloc(3 * rows, sizeof *b->host_ids);
    b->host_turn = b->host_ids + rows;
    b->host_cache = b->host_turn + rows;
    b->host_slot = xcalloc(3 * (SLOTS + 1), sizeof *b->host_slot);
    b->host_begin = b->host_slot + SLOTS + 1;
    b->host_context = b->host_begin + SLOTS + 1;
    b->host_index = xcalloc(3 * piece, sizeof *b->host_index);
    b->host_expand = b->host_index + piece;
    b->host_target = b->host_expand + piece;
    b->host_logprob = xcalloc(piece, sizeof *b->host_logprob);
    b->host_out = xcalloc(piece, sizeof *b->host_out);
}

int branches_open(struct branches **out, struct model *m, const struct branches_options *o, struct err *e)
{
    const struct model_config *c = model_config(m);
    *out = NULL;
    if (c->encoder)
        return err_set(e, "%s: %s is an encoder, which gives no next-token probabilities", model_dir(m),
                       c->family_name);
    struct branches *b = xcalloc(1, sizeof *b);
    *b = (struct branches){ .m = m, .d = model_device(m), .o = *o, .vocab = c->vocab };
    int64_t piece = LOGIT_BYTES / ((int64_t)c->vocab * 4);
    piece = piece < 16 ? 16 : piece > 512 ? 512 : piece;
    b->o.rows = o->rows < 16 ? 16 : o->rows;
    b->piece = (int)(piece < b->o.rows ? piece : b->o.rows);
    b->max_pages = (int)((o->positions + KV_PAGE - 1) / KV_PAGE);
    if (kv_cache_open(&b->kv, m, b->max_pages + 1, e) < 0 || open_tensors(b, e) < 0 ||
        model_reserve(m, b->o.rows, e) < 0) {
        branches_close(b);
        return -1;
    }
    open_host(b);
    *out = b;
    return 0;
}

void branches_close(struct branches *b)
{
    if (!b)
        return;
    free_tensors(b);
    kv_cache_close(&b->kv, b->m);
    free(b->table);
    free(b->host_ids);
    free(b->host_slot);
    free(b->host_index);
    free(b->host_logprob);
    free(b->host_out);
    free(b);
}

struct branches_stats branches_stats(const struct branches *b)
{
    return b->stats;
}

/* ---- the tree ---- */

static int by_tokens(const void *x, const void *y)
{
    const struct branch *a = x, *b = y;
    if (a->turn != b->turn)
        return a->turn < b->turn ? -1 : 1;
    int n = a->inputs < b->inputs ? a->inputs : b->inputs;
    for (int i = 0; i < n; i++)
        if (a->seq->ids[i] != b->seq->ids[i])
            return a->seq->ids[i] < b->seq->ids[i] ? -1 : 1;
    if (a->inputs != b->inputs)
        return a->inputs < b->inputs ? -1 : 1;
    return a->seq < b->seq ? -1 : a->seq > b->seq;
}

static int common(const struct branch *a, const struct branch *b)
{
    int n = a->inputs < b->inputs ? a->inputs : b->inputs, i = 0;
    while (a->turn == b->turn && i < n && a->seq->ids[i] == b->seq->ids[i])
        i++;
    return i;
}

static int owner_of(const struct branch *v, int i, int position)
{
    while (position < v[i].from)
        i--;
    return i;
}

static int pages_of(int positions)
{
    return (positions + KV_PAGE - 1) / KV_PAGE;
}

/* Pages that v[i] needs of its own behind v[i - 1]; first: there is nobody in front of it. Sets its segment. */
static int find_segment(struct branch *v, int i, bool first)
{
    struct branch *s = &v[i];
    s->from = first ? 0 : common(&v[i - 1], s);
    s->level = s->copy_rows = 0;
    s->copy_page = 0;
    if (s->from == 0)
        return pages_of(s->inputs);
    bool extends = v[i - 1].inputs == s->from; /* it goes on where that one ends, in the same page */
    return pages_of(s->inputs) - (extends ? pages_of(s->from) : s->from / KV_PAGE);
}

/* Enters its pages in row i of the table; the new ones are next, next + 1 ... */
static int32_t give_pages(struct branches *b, struct branch *v, int i, int32_t next)
{
    struct branch *s = &v[i];
    int32_t *row = b->table + (size_t)i * (size_t)b->max_pages, *before = row - b->max_pages;
    bool extends = s->from > 0 && v[i - 1].inputs == s->from;
    int shared = extends ? pages_of(s->from) : s->from / KV_PAGE;
    if (shared)
        memcpy(row, before, (size_t)shared * sizeof *row);
    for (int p = shared; p < pages_of(s->inputs); p++)
        row[p] = next++;
    if (s->from == 0)
        return next;
    int owner = owner_of(v, i - 1, s->from - 1);
    s->level = v[owner].level;
    if (!extends && s->from % KV_PAGE) {
        s->level++;
        s->copy_page = b->table[(size_t)owner * (size_t)b->max_pages + (size_t)(s->from / KV_PAGE)];
        s->copy_rows = s->from % KV_PAGE;
    }
    return next;
}

/* ---- wants ---- */

static int by_place(const void *x, const void *y)
{
    const struct want *a = x, *b = y;
    if (a->owner != b->owner)
        return a->owner < b->owner ? -1 : 1;
    return (a->position > b->position) - (a->position < b->position);
}

static struct want *list_wants(const struct branch *v, int n, size_t *count)
{
    size_t total = 0, k = 0;
    for (int i = 0; i < n; i++)
        total += (size_t)(v[i].seq->n - v[i].seq->first);
    struct want *w = xcalloc(total + 1, sizeof *w);
    for (int i = 0; i < n; i++) {
        const struct score_seq *s = v[i].seq;
        for (int p = s->n - 2, owner = i; p >= s->first - 1; p--) {
            owner = owner_of(v, owner, p);
            w[k++] = (struct want){ owner, p, s->ids[p + 1], &s->logprob[p + 1 - s->first] };
        }
    }
    qsort(w, total, sizeof *w, by_place);
    *count = total;
    return w;
}

/* Logits of the rows in host_index, then the log-probabilities of up to `piece` wants, whose row among them is in
 * host_expand (plain: one for each). */
static int score_wants(struct branches *b, int rows, int n, bool fresh, bool plain, struct err *e)
{
    struct device *d = b->d;
    if (fresh) {
        d->tensor_write(d, b->index, 0, b->host_index, (size_t)rows);
        model_logits(b->m, b->logits, b->index, rows);
        b->stats.logits += rows;
    }
    if (!plain) {
        d->tensor_write(d, b->index, 0, b->host_expand, (size_t)n);
        d->gather_rows(d, b->expanded, b->logits, b->index, n, b->vocab);
    }
    d->tensor_write(d, b->target, 0, b->host_target, (size_t)n);
    d->logprobs(d, b->logprob, NULL, NULL, plain ? b->logits : b->expanded, b->target, n, b->vocab);
    if (d->tensor_read(d, b->logprob, 0, b->host_logprob, (size_t)n, e) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        *b->host_out[i] = b->host_logprob[i];
    return 0;
}

/* The wants w[0..n) of the pass just made; row[i] is the row of w[i], not falling. Up to `piece` different rows make a
 * block of logits, whose wants are taken `piece` at a time. */
static int score_pass(struct branches *b, const struct want *w, const int32_t *row, size_t n, struct err *e)
{
    for (size_t from = 0, to; from < n; from = to) {
        int rows = 0, k = 0;
        bool fresh = true;
        for (to = from; to < n; to++) {
            bool next = to == from || row[to] != row[to - 1];
            if (next && rows == b->piece)
                break;
            if (next)
                b->host_index[rows++] = row[to];
        }
        for (size_t i = from, r = 0; i < to; i++) {
            r += i > from && row[i] != row[i - 1];
            b->host_expand[k] = (int32_t)r;
            b->host_target[k] = w[i].target;
            b->host_out[k++] = w[i].out;
            if (k < b->piece && i + 1 < to)
                continue;
            if (score_wants(b, rows, k, fresh, to - from == (size_t)rows, e) < 0)
                return -1;
            fresh = false;
            k = 0;
        }
    }
    return 0;
}

/* ---- passes ---- */

struct pass {
    int rows, nseq;
    struct want *want; /* [nwant] in the order of rows */
    int32_t *want_row;
    size_t nwant;
};

static int run_pass(struct branches *b, struct pass *p, struct err *e)
{
    struct device *d = b->d;
    int rc = 0;
    if (p->rows) {
        int longest = 0;
        for (int i = 0; i < p->nseq; i++)
            longest = b->host_context[i] > longest ? b->host_context[i] : longest;
        b->host_begin[p->nseq] = p->rows;
        d->tensor_write(d, b->ids, 0, b->host_ids, (size_t)p->rows);
        d->tensor_write(d, b->table_row, 0, b->host_turn, (size_t)p->rows);
        d->tensor_write(d, b->cache_row, 0, b->host_cache, (size_t)p->rows);
        d->tensor_write(d, b->seq_slot, 0, b->host_slot, (size_t)p->nseq);
        d->tensor_write(d, b->q_begin, 0, b->host_begin, (size_t)p->nseq + 1);
        d->tensor_write(d, b->context, 0, b->host_context, (size_t)p->nseq);
        model_forward(b->m, &b->kv,
                      &(struct model_batch){ .rows = p->rows,
                                             .nseq = p->nseq,
                                             .ids = b->ids,
                                             .table_row = b->table_row,
                                             .cache_row = b->cache_row,
                                             .page_table = b->page_table,
                                             .seq_slot = b->seq_slot,
                                             .q_begin = b->q_begin,
                                             .context = b->context,
                                             .longest = longest,
                                             .keep = true });
        b->stats.passes++;
        b->stats.computed += p->rows;
        rc = score_pass(b, p->want, p->want_row, p->nwant, e);
    }
    p->rows = p->nseq = 0;
    p->nwant = 0;
    return rc;
}

static void copy_pages(struct branches *b, const struct branch *s, const int32_t *row)
{
    struct device *d = b->d;
    int64_t to = (int64_t)row[s->from / KV_PAGE] * KV_PAGE, from = (int64_t)s->copy_page * KV_PAGE;
    int64_t cols = d->tensor_cols(b->kv.k[0]);
    for (int l = 0; l < b->kv.layers; l++) {
        struct tensor *k = b->kv.k[l], *v = b->kv.v[l];
        const struct block_copy both[] = { { k, to, 0, k, from, 0, s->copy_rows, cols, 1 },
                                           { v, to, 0, v, from, 0, s->copy_rows, cols, 1 } };
        d->copy_blocks(d, both, 2);
    }
}

/* Positions from .. to-1 of v[i] join the pass; its wants from *w on, up to `end`, too. */
static void add_rows(struct branches *b, struct pass *p, const struct branch *v, int i, int from, int to,
                     const struct want *all, size_t *w, size_t end)
{
    const int32_t *row = b->table + (size_t)i * (size_t)b->max_pages;
    b->host_slot[p->nseq] = i;
    b->host_begin[p->nseq] = p->rows;
    b->host_context[p->nseq++] = to;
    for (int t = from; t < to; t++, p->rows++) {
        b->host_ids[p->rows] = v[i].seq->ids[t];
        b->host_turn[p->rows] = (int32_t)(t + v[i].turn);
        b->host_cache[p->rows] = row[t / KV_PAGE] * KV_PAGE + t % KV_PAGE;
        for (; *w < end && all[*w].owner == i && all[*w].position == t; ++*w) {
            p->want[p->nwant] = all[*w];
            p->want_row[p->nwant++] = p->rows;
        }
    }
}

static int run_level(struct branches *b, struct pass *p, const struct branch *v, int n, int level, const struct want *w,
                     const size_t *begin, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (v[i].level == level && v[i].copy_page && v[i].from < v[i].inputs)
            copy_pages(b, &v[i], b->table + (size_t)i * (size_t)b->max_pages);
    for (int i = 0; i < n; i++) {
        size_t at = begin[i];
        if (v[i].level != level)
            continue;
        for (int from = v[i].from, to; from < v[i].inputs; from = to) {
            to = v[i].inputs - from < b->o.rows - p->rows ? v[i].inputs : from + b->o.rows - p->rows;
            add_rows(b, p, v, i, from, to, w, &at, begin[i + 1]);
            if (p->rows == b->o.rows && run_pass(b, p, e) < 0)
                return -1;
        }
    }
    return run_pass(b, p, e);
}

/* Sequences that fit in the cache together. */
static int run_part(struct branches *b, struct branch *v, int n, struct err *e)
{
    int32_t next = 1;
    int levels = 0, rc = 0;
    size_t nwant;
    for (int i = 0; i < n; i++) {
        find_segment(v, i, i == 0);
        next = give_pages(b, v, i, next);
        levels = v[i].level > levels ? v[i].level : levels;
    }
    b->d->tensor_write(b->d, b->page_table, 0, b->table, (size_t)n * (size_t)b->max_pages);
    struct want *w = list_wants(v, n, &nwant);
    size_t *begin = xcalloc((size_t)n + 2, sizeof *begin);
    for (size_t k = 0; k < nwant; k++)
        begin[w[k].owner + 1]++;
    for (int i = 0; i < n; i++)
        begin[i + 1] += begin[i];
    struct pass p = { .want = xcalloc(nwant + 1, sizeof *p.want), .want_row = xcalloc(nwant + 1, sizeof *p.want_row) };
    for (int level = 0; level <= levels && rc == 0; level++)
        rc = run_level(b, &p, v, n, level, w, begin, e);
    free(p.want);
    free(p.want_row);
    free(begin);
    free(w);
    return rc;
}

static int check(const struct branches *b, const struct score_seq *s, struct err *e)
{
    int64_t room = (int64_t)b->max_pages * KV_PAGE, context = model_config(b->m)->max_positions;
    if (s->n > context)
        return err_set(e, "%s: a text of %d tokens is longer than the model's context of %lld", model_dir(b->m), s->n,
                       (long long)context);
    if (s->n - 1 > room)
        return err_set(e, "a text of %d tokens does not fit in a cache of %lld positions", s->n, (long long)room);
    return 0;
}

int branches_run(struct branches *b, const struct score_seq *seq, int n, struct err *e)
{
    struct branch *v = xcalloc((size_t)n + 1, sizeof *v);
    int count = 0, rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        if (seq[i].first >= seq[i].n)
            continue;
        rc = check(b, &seq[i], e);
        v[count++] =
            (struct branch){ .seq = &seq[i], .turn = model_rope_offset(b->m, seq[i].n), .inputs = seq[i].n - 1 };
        b->stats.tokens += seq[i].n - 1;
    }
    if (count)
        qsort(v, (size_t)count, sizeof *v, by_tokens);
    for (int from = 0, to; from < count && rc == 0; from = to) {
        int pages = find_segment(v, from, true);
        for (to = from + 1; to < count && to - from < SLOTS; to++) {
            int more = find_segment(v, to, false);
            if (pages + more > b->max_pages)
                break;
            pages += more;
        }
        rc = run_part(b, v + from, to - from, e);
    }
    free(v);
    return rc;
}
