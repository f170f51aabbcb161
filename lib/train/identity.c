/* identity.c - see identity.h. */
#include "train/identity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/dual.h"
#include "model/train.h"

enum { MOST_TARGETS = 64 }; /* logits of so many rows are looked at */

static double log_sum_exp(const float *x, int64_t n)
{
    double most = x[0];
    for (int64_t i = 1; i < n; i++)
        most = fmax(most, (double)x[i]);
    double sum = exp((double)x[0] - most);
    for (int64_t i = 1; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* Mean loss of the targets in rows first .. first + n - 1 among the first `width` ids. */
static int loss_of(struct trainable *t, const struct train_batch *b, int first, int n, int64_t vocab, int64_t width,
                   double *loss, struct err *e)
{
    float *logits = xreallocarray(NULL, (size_t)n * (size_t)vocab, sizeof *logits);
    int rc = trainable_logits(t, b, first, n, logits, e), targets = 0;
    *loss = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        const float *row = logits + (size_t)i * (size_t)vocab;
        int32_t target = b->target[first + i];
        if (target < 0)
            continue;
        *loss += log_sum_exp(row, width) - (double)row[target];
        targets++;
    }
    *loss /= targets;
    free(logits);
    return rc;
}

int train_identity(struct trainable *t, const struct dual *v, const struct train_row *row, struct identity *out,
                   struct err *e)
{
    const struct dual_meta *m = dual_meta(v);
    int64_t vocab = (int64_t)m->visible + m->latent;
    int32_t begin[2] = { 0, row->n };
    int first = 0, n;
    while (row->target[first] < 0)
        first++;
    n = row->n - first < MOST_TARGETS ? row->n - first : MOST_TARGETS;
    int32_t *ids = xreallocarray(NULL, 2 * (size_t)row->n, sizeof *ids), *target = ids + row->n;
    memcpy(ids, row->ids, (size_t)row->n * sizeof *ids);
    memcpy(target, row->target, (size_t)row->n * sizeof *target);
    struct train_batch b = { .rows = row->n, .nseq = 1, .ids = ids, .begin = begin, .target = target };
    *out = (struct identity){ .targets = 0 };
    for (int i = first; i < first + n; i++)
        out->targets += target[i] >= 0;
    int rc = loss_of(t, &b, first, n, vocab, vocab, &out->dual, e);
    dual_show(v, ids, row->n);
    dual_show(v, target, row->n);
    if (rc == 0)
        rc = loss_of(t, &b, first, n, vocab, m->visible, &out->standard, e);
    free(ids);
    return rc;
}

double identity_gap(const struct identity *i)
{
    return i->dual - i->standard - log(2);
}
