/* replay.c - the decoding step as a recording of the device, one for each number of rows, length and shape of the head.
 *
 * A step that decodes and nothing else is the same list of operations every time, for what differs lies in device
 * memory. So where the device can record (kernels.h), the second step of a shape is recorded and later ones are
 * replayed: the host has one call to make instead of hundreds. To keep shapes few, the rows are padded to a bucket;
 * rows of padding belong to the spare slot behind the last one, where nobody ever runs, and change neither cache nor
 * results. A row's bits do not depend on the other rows, so results are those of steps that were not recorded. */
#include <string.h>

#include "infer/impl.h"

/* 1, 2, 4, 8, 16, 24 ... 128, 144 ... 256, 288 ...: beyond 64 rows padding is less than an eighth. */
int replay_bucket(int n)
{
    int by = n > 4 ? 8 : n > 2 ? 4 : n;
    while (by * 16 < n)
        by *= 2;
    return (n + by - 1) / by * by;
}

static struct step_shape shape_of(const struct engine *g, int bucket)
{
    struct step_shape s = { .rows = bucket, .longest = g->longest, .logprobs = g->nlogprobs > 0, .counts = g->counts };
    for (int i = 0; i < g->nhead_blocks; i++) {
        const struct logit_block *b = &g->head_block[i];
        if (b->rows != g->ndecode || i == STEP_BLOCKS) { /* rows differ in what they need: all columns for all */
            s.nblocks = 0;
            return s;
        }
        s.block[s.nblocks++] = (struct logit_block){ 0, bucket, b->col, b->cols };
    }
    return s;
}

static bool same_shape(const struct step_shape *a, const struct step_shape *b)
{
    return a->rows == b->rows && a->longest == b->longest && a->logprobs == b->logprobs && a->counts == b->counts &&
           a->nblocks == b->nblocks && !memcmp(a->block, b->block, (size_t)a->nblocks * sizeof *a->block);
}

static void forget(struct engine *g, struct step_recording *r)
{
    g->device->recording_free(g->device, r->kept);
    *r = (struct step_recording){ 0 };
}

void replay_close(struct engine *g)
{
    for (int i = 0; i < g->nrecordings; i++)
        forget(g, &g->recording[i]);
    g->nrecordings = 0;
}

static struct step_recording *recording_of(struct engine *g, const struct step_shape *s)
{
    for (int i = 0; i < g->nrecordings; i++)
        if (same_shape(&g->recording[i].shape, s))
            return &g->recording[i];
    if (g->nrecordings == STEP_RECORDINGS) /* many kinds of requests: begin again */
        replay_close(g);
    struct step_recording *r = &g->recording[g->nrecordings++];
    r->shape = *s;
    return r;
}

/* Records the step, without running it. */
static bool record(struct engine *g, struct step_recording *r)
{
    struct device *d = g->device;
    d->recording_free(d, r->kept);
    r->kept = NULL;
    if (!d->record_begin(d))
        return false;
    enqueue_operations(g, r->shape.rows, r->shape.block, r->shape.nblocks);
    r->kept = d->record_end(d);
    return r->kept != NULL;
}

void replay_step(struct engine *g)
{
    struct device *d = g->device;
    struct step_shape s = shape_of(g, replay_bucket(g->ndecode));
    struct step_recording *r = recording_of(g, &s);
    if (r->seen && ((r->kept && d->replay(d, r->kept)) || (record(g, r) && d->replay(d, r->kept)))) {
        g->stats.replayed++;
        return;
    }
    r->seen = true;
    enqueue_operations(g, s.rows, s.block, s.nblocks);
}
