/* batch.c - see batch.h. */
#include "train/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"

/* ---- the split ---- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static size_t questions_of(const struct rows *rows, uint64_t **out)
{
    uint64_t *q = xreallocarray(NULL, rows->n + 1, sizeof *q);
    size_t n = 0;
    for (size_t i = 0; i < rows->n; i++)
        q[i] = rows->row[i].question;
    if (rows->n)
        qsort(q, rows->n, sizeof *q, by_number);
    for (size_t i = 0; i < rows->n; i++)
        if (i == 0 || q[i] != q[n - 1])
            q[n++] = q[i];
    *out = q;
    return n;
}

/* A question is set aside when its draw is among the k lowest: one draw each, by its name, so the split of one question
 * does not depend on the order of rows. */
static uint64_t draw_of(uint64_t seed, uint64_t question)
{
    struct rng r = rng_stream(seed, "eval split", 10, 0);
    uint32_t x[4];
    rng_block(&r, question, x);
    return (uint64_t)x[0] << 32 | x[1];
}

static int split(struct batches *b, struct err *e)
{
    const struct rows *rows = b->rows;
    uint64_t *q, *draw, limit = 0;
    size_t n = questions_of(rows, &q), take = (size_t)ceil(b->spec.eval_ratio * (double)n);
    draw = xreallocarray(NULL, n + 1, sizeof *draw);
    for (size_t i = 0; i < n; i++)
        draw[i] = draw_of(b->spec.seed, q[i]);
    if (n)
        qsort(draw, n, sizeof *draw, by_number);
    if (take)
        limit = draw[take - 1];
    for (size_t i = 0; i < rows->n; i++)
        if (take && draw_of(b->spec.seed, rows->row[i].question) <= limit)
            b->eval[b->neval++] = (uint32_t)i;
        else
            b->train[b->ntrain++] = (uint32_t)i;
    free(q);
    free(draw);
    if (b->ntrain == 0)
        return rows->n == 0 ? err_set(e, "there are no rows to train on")
                            : err_set(e, "%lld %s set aside by --eval-ratio: none is left to train on",
                                      COUNTED(rows->n, "row is", "rows are"));
    return 0;
}

/* ---- epochs and steps ---- */

static void shuffle(struct batches *b, int64_t epoch)
{
    if (b->order_epoch == epoch)
        return;
    struct rng r = rng_stream(b->spec.seed, "epoch", 5, (uint32_t)epoch);
    memcpy(b->order, b->train, b->ntrain * sizeof *b->order);
    for (uint32_t i = b->ntrain; i-- > 1;) {
        uint32_t j = rng_below(&r, i, i + 1), x = b->order[i];
        b->order[i] = b->order[j];
        b->order[j] = x;
    }
    b->order_epoch = epoch;
}

static uint32_t step_size(const struct batches *b, uint32_t first)
{
    uint64_t left = b->ntrain - first;
    int64_t tokens = b->spec.batch_tokens * b->spec.accumulate;
    if (tokens == 0) {
        uint64_t n = (uint64_t)(b->spec.batch_rows * b->spec.accumulate);
        return (uint32_t)(n < left ? n : left);
    }
    uint32_t n = 0;
    for (; n < left && (n == 0 || tokens > 0); n++)
        tokens -= b->rows->row[b->order[first + n]].n;
    if (n > 1 && tokens < 0)
        n--; /* the row that went over */
    return n;
}

static void add_epoch(struct batches *b, int64_t epoch, int64_t limit)
{
    if (b->spec.batch_tokens)
        shuffle(b, epoch);
    for (uint32_t first = 0; first < b->ntrain && b->steps < limit;) {
        uint32_t n = step_size(b, first);
        if ((b->steps & (b->steps - 1)) == 0) /* room grows in powers of two */
            b->step = xreallocarray(b->step, (size_t)(b->steps ? 2 * b->steps : 1), sizeof *b->step);
        b->step[b->steps++] = (struct step_range){ epoch, first, n };
        first += n;
    }
}

static void plan_steps(struct batches *b)
{
    if (b->spec.max_steps > 0) {
        for (int64_t epoch = 0; b->steps < b->spec.max_steps; epoch++)
            add_epoch(b, epoch, b->spec.max_steps);
        return;
    }
    int64_t whole = (int64_t)floor(b->spec.epochs);
    for (int64_t epoch = 0; epoch < whole; epoch++)
        add_epoch(b, epoch, INT64_MAX);
    if (b->spec.epochs > (double)whole) {
        int64_t before = b->steps;
        add_epoch(b, whole, INT64_MAX);
        b->steps = before + (int64_t)ceil((b->spec.epochs - (double)whole) * (double)(b->steps - before));
    }
}

int batches_open(struct batches **out, const struct rows *rows, const struct batch_spec *spec, struct err *e)
{
    struct batches *b = xcalloc(1, sizeof *b);
    *out = NULL;
    b->rows = rows;
    b->spec = *spec;
    b->order_epoch = -1;
    b->train = xcalloc(rows->n + 1, sizeof *b->train);
    b->eval = xcalloc(rows->n + 1, sizeof *b->eval);
    b->order = xcalloc(rows->n + 1, sizeof *b->order);
    if (split(b, e) < 0) {
        batches_close(b);
        return -1;
    }
    plan_steps(b);
    *out = b;
    return 0;
}

void batches_close(struct batches *b)
{
    if (!b)
        return;
    free(b->train);
    free(b->eval);
    free(b->order);
    free(b->step);
    free(b);
}

uint32_t batches_step(struct batches *b, int64_t s, const uint32_t **rows)
{
    const struct step_range *r = &b->step[s];
    shuffle(b, r->epoch);
    *rows = b->order + r->first;
    return r->n;
}

double batches_epoch(const struct batches *b, int64_t steps_done)
{
    if (steps_done == 0)
        return 0;
    const struct step_range *r = &b->step[steps_done - 1];
    return (double)r->epoch + (double)(r->first + r->n) / (double)b->ntrain;
}

static int largest_of(const struct rows *rows, const uint32_t *list, uint32_t n, int pass_tokens)
{
    int most = 0, total = 0;
    for (uint32_t i = 0; i < n; i++) {
        int one = rows->row[list[i]].n;
        total = total && total + one > pass_tokens ? one : total + one; /* as pass_fill takes them */
        if (total > most)
            most = total;
    }
    return most;
}

int batches_largest_pass(struct batches *b)
{
    int most = largest_of(b->rows, b->eval, b->neval, b->spec.pass_tokens);
    for (int64_t s = 0; s < b->steps; s++) {
        const uint32_t *list;
        uint32_t n = batches_step(b, s, &list);
        int one = largest_of(b->rows, list, n, b->spec.pass_tokens);
        if (one > most)
            most = one;
    }
    return most;
}

/* ---- a pass ---- */

uint32_t pass_fill(struct pass *p, const struct rows *rows, const uint32_t *list, uint32_t n, int pass_tokens)
{
    uint32_t take = 0;
    int total = 0;
    while (take < n && (take == 0 || total + rows->row[list[take]].n <= pass_tokens))
        total += rows->row[list[take++]].n;
    if (total > p->cap_rows) {
        p->cap_rows = total;
        p->ids = xreallocarray(p->ids, (size_t)total, sizeof *p->ids);
        p->target = xreallocarray(p->target, (size_t)total, sizeof *p->target);
    }
    if ((int)take > p->cap_seq) {
        p->cap_seq = (int)take;
        p->begin = xreallocarray(p->begin, take + 1, sizeof *p->begin);
    }
    int at = 0;
    p->targets = 0;
    for (uint32_t i = 0; i < take; i++) {
        const struct train_row *r = &rows->row[list[i]];
        p->begin[i] = at;
        memcpy(p->ids + at, r->ids, (size_t)r->n * sizeof *p->ids);
        memcpy(p->target + at, r->target, (size_t)r->n * sizeof *p->target);
        at += r->n;
        p->targets += r->targets;
    }
    p->begin[take] = at;
    p->b = (struct train_batch){ .rows = at, .nseq = (int)take, .ids = p->ids, .begin = p->begin, .target = p->target };
    return take;
}

void pass_release(struct pass *p)
{
    free(p->ids);
    free(p->target);
    free(p->begin);
    *p = (struct pass){ .cap_rows = 0 };
}
