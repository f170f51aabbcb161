/* score.c - see score.h. */
#include "model/score.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/model.h"

enum { LOGIT_BYTES = 32 << 20 }; /* one piece of logits */

struct scorer {
    struct model *m;
    struct device *d;
    int max_rows, vocab;
    int piece; /* positions of one piece */
    struct tensor *logits, *logprob, *entropy, *index, *target;
    struct tensor *ids, *row, *begin; /* of a pass; grown for longer ones */
    struct tensor *all[2];            /* its log-probabilities and entropies */
    int rows, seqs;                   /* what these have room for */
    int32_t *host;                    /* [4 * rows + seqs + 1]: ids, table rows, index, target, begin */
    float *scores;                    /* [2 * rows] */
};

static void free_pass(struct scorer *s)
{
    struct tensor *t[] = { s->ids, s->row, s->begin, s->all[0], s->all[1] };
    for (int i = 0; i < 5; i++)
        s->d->tensor_free(s->d, t[i]);
    s->ids = s->row = s->begin = s->all[0] = s->all[1] = NULL;
    s->rows = s->seqs = 0;
}

static int room_for(struct scorer *s, int rows, int seqs, struct err *e)
{
    struct device *d = s->d;
    if (rows <= s->rows && seqs <= s->seqs)
        return 0;
    rows = rows > s->rows ? rows : s->rows;
    seqs = seqs > s->seqs ? seqs : s->seqs;
    free_pass(s);
    if (d->tensor_new(d, &s->ids, DTYPE_I32, 1, rows, "tokens", e) < 0 ||
        d->tensor_new(d, &s->row, DTYPE_I32, 1, rows, "positions", e) < 0 ||
        d->tensor_new(d, &s->begin, DTYPE_I32, 1, seqs + 1, "sequences", e) < 0 ||
        d->tensor_new(d, &s->all[0], DTYPE_F32, 1, rows, "log-probabilities", e) < 0 ||
        d->tensor_new(d, &s->all[1], DTYPE_F32, 1, rows, "entropies", e) < 0)
        return -1;
    s->host = xreallocarray(s->host, 4 * (size_t)rows + (size_t)seqs + 1, sizeof *s->host);
    s->scores = xreallocarray(s->scores, 2 * (size_t)rows, sizeof *s->scores);
    s->rows = rows;
    s->seqs = seqs;
    return model_reserve(s->m, rows, e);
}

int scorer_open(struct scorer **out, struct model *m, int max_rows, struct err *e)
{
    *out = NULL;
    if (model_config(m)->encoder)
        return err_set(e, "%s: %s is an encoder, which gives no next-token probabilities", model_dir(m),
                       model_config(m)->family_name);
    struct scorer *s = xcalloc(1, sizeof *s);
    struct device *d = model_device(m);
    *s = (struct scorer){ .m = m, .d = d, .max_rows = max_rows, .vocab = model_config(m)->vocab };
    int64_t piece = LOGIT_BYTES / ((int64_t)s->vocab * 4);
    s->piece = (int)(piece < 16 ? 16 : piece > 512 ? 512 : piece);
    if (d->tensor_new(d, &s->logits, DTYPE_F32, s->piece, s->vocab, "logits", e) < 0 ||
        d->tensor_new(d, &s->logprob, DTYPE_F32, 1, s->piece, "log-probabilities", e) < 0 ||
        d->tensor_new(d, &s->entropy, DTYPE_F32, 1, s->piece, "entropies", e) < 0 ||
        d->tensor_new(d, &s->index, DTYPE_I32, 1, s->piece, "positions", e) < 0 ||
        d->tensor_new(d, &s->target, DTYPE_I32, 1, s->piece, "targets", e) < 0) {
        scorer_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void scorer_close(struct scorer *s)
{
    if (!s)
        return;
    struct tensor *t[] = { s->logits, s->logprob, s->entropy, s->index, s->target };
    for (int i = 0; i < 5; i++)
        s->d->tensor_free(s->d, t[i]);
    free_pass(s);
    free(s->host);
    free(s->scores);
    free(s);
}

/* ---- one pass ---- */

struct pass {
    const struct score_seq *const *seq; /* [n]; NULL: none */
    int n;
    struct read_ticket *read[2]; /* log-probabilities, entropies or NULL */
};

/* Log-probabilities of `n` positions (rows index[], tokens target[]) of the pass, in pieces. */
static void score_positions(struct scorer *s, const int32_t *index, const int32_t *target, int n, bool entropy)
{
    struct device *d = s->d;
    for (int from = 0; from < n; from += s->piece) {
        int k = n - from < s->piece ? n - from : s->piece;
        struct block_copy keep[] = {
            { .y = s->all[0], .y_col = from, .x = s->logprob, .rows = 1, .cols = k, .by = 1 },
            { .y = s->all[1], .y_col = from, .x = s->entropy, .rows = 1, .cols = k, .by = 1 },
        };
        d->tensor_write(d, s->index, 0, index + from, (size_t)k);
        d->tensor_write(d, s->target, 0, target + from, (size_t)k);
        model_logits(s->m, s->logits, s->index, k);
        d->logprobs(d, s->logprob, entropy ? s->entropy : NULL, NULL, s->logits, s->target, k, s->vocab);
        d->copy_blocks(d, keep, entropy ? 2 : 1);
    }
}

static void hand_out(const struct scorer *s, const struct score_seq *const *seq, int n)
{
    const float *logprob = s->scores, *entropy = s->scores + s->rows;
    for (int i = 0; i < n; i++)
        for (int t = seq[i]->first; t < seq[i]->n; t++) {
            seq[i]->logprob[t - seq[i]->first] = *logprob++;
            if (seq[i]->entropy)
                seq[i]->entropy[t - seq[i]->first] = *entropy;
            entropy++;
        }
}

/* Enqueues a pass and the reads of what it gives. */
static int begin_pass(struct scorer *s, struct pass *p, int rows, struct err *e)
{
    if (room_for(s, rows, p->n, e) < 0)
        return -1;
    struct device *d = s->d;
    int32_t *ids = s->host, *row = ids + s->rows, *index = row + s->rows, *target = index + s->rows,
            *begin = target + s->rows;
    int at = 0, wanted = 0;
    bool entropy = false;
    begin[0] = 0;
    for (int i = 0; i < p->n; i++) {
        const struct score_seq *q = p->seq[i];
        int64_t offset = model_rope_offset(s->m, q->n);
        for (int t = 0; t < q->n; t++, at++) {
            ids[at] = q->ids[t];
            row[at] = (int32_t)(t + offset);
            if (t >= q->first) {
                index[wanted] = at - 1;
                target[wanted++] = ids[at];
            }
        }
        begin[i + 1] = at;
        entropy |= q->entropy != NULL;
    }
    d->tensor_write(d, s->ids, 0, ids, (size_t)rows);
    d->tensor_write(d, s->row, 0, row, (size_t)rows);
    d->tensor_write(d, s->begin, 0, begin, (size_t)p->n + 1);
    model_forward_varlen(s->m, &(struct model_varlen){
                                   .rows = rows, .nseq = p->n, .ids = s->ids, .table_row = s->row, .begin = s->begin });
    score_positions(s, index, target, wanted, entropy);
    for (int i = 0; i < (entropy ? 2 : 1); i++)
        if (d->read_begin(d, &p->read[i], s->all[i], 0, (size_t)wanted, e) < 0)
            return -1;
    return 0;
}

/* Waits for a pass, if there is one. */
static int end_pass(struct scorer *s, struct pass *p, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < 2; i++)
        if (p->read[i] && s->d->read_wait(s->d, p->read[i], s->scores + i * s->rows, rc < 0 ? NULL : e) < 0)
            rc = -1;
    if (rc == 0)
        hand_out(s, p->seq, p->n);
    *p = (struct pass){ NULL, 0, { NULL, NULL } };
    return rc;
}

/* ---- packing ---- */

static int longest_first(const void *a, const void *b)
{
    const struct score_seq *x = *(const struct score_seq *const *)a, *y = *(const struct score_seq *const *)b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return x < y ? -1 : x > y;
}

int scorer_run(struct scorer *s, const struct score_seq *seq, int n, struct err *e)
{
    const struct score_seq **order = xcalloc((size_t)n + 1, sizeof *order);
    int count = 0, rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        if (seq[i].n > model_config(s->m)->max_positions)
            rc = err_set(e, "%s: a text of %d tokens is longer than the model's context of %lld", model_dir(s->m),
                         seq[i].n, (long long)model_config(s->m)->max_positions);
        else if (seq[i].first < seq[i].n) /* there is something to score */
            order[count++] = &seq[i];
    }
    if (count)
        qsort(order, (size_t)count, sizeof *order, longest_first);
    struct pass before = { NULL, 0, { NULL, NULL } };
    for (int from = 0, to; from < count && rc == 0; from = to) {
        int rows = order[from]->n;
        for (to = from + 1; to < count && order[to]->n <= s->max_rows - rows; to++)
            rows += order[to]->n;
        struct pass now = { order + from, to - from, { NULL, NULL } };
        rc = begin_pass(s, &now, rows, e);
        if (end_pass(s, &before, rc < 0 ? NULL : e) < 0) /* the device has work meanwhile */
            rc = -1;
        before = now;
    }
    if (end_pass(s, &before, rc < 0 ? NULL : e) < 0)
        rc = -1;
    free(order);
    return rc;
}
