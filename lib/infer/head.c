/* head.c - which columns of the head a step computes.
 *
 * A sequence needs the logits of the ids that its phase allows, and no others; one that wants log-probabilities needs
 * all. With two vocabularies that is half of the largest matrix. Rows with the same needs stand side by side in the
 * step, and each group is a few blocks of the product.
 *
 * The phase is what the tokens received so far say. Steps enqueued before a flip was read computed the columns of the
 * phase before it: the sequence then goes on from the flip (seq_rewind), as its draws depend on nothing that was lost.
 */
#include <string.h>

#include "infer/impl.h"

struct need {
    int32_t lo, hi;                /* this range, clipped to the vocabulary, */
    int32_t also[SAMPLE_STOP_IDS]; /* and these ids */
};

bool head_is_whole(const struct gen_params *p)
{
    return p->logprobs;
}

static struct need need_of(const struct engine *g, const struct seq *s)
{
    const struct gen_params *p = &s->req->params;
    int32_t vocab = g->config->vocab;
    struct need n;
    memset(&n, 0xff, sizeof n); /* also: none */
    n.lo = p->lo[s->phase] > 0 ? p->lo[s->phase] : 0;
    n.hi = p->hi[s->phase] < vocab ? p->hi[s->phase] : vocab;
    if (head_is_whole(p)) {
        n.lo = 0;
        n.hi = vocab;
    }
    for (int i = 0, k = 0; i < SAMPLE_STOP_IDS; i++) {
        int32_t id = p->also[s->phase][i];
        if (id >= 0 && (id < n.lo || id >= n.hi))
            n.also[k++] = id;
    }
    return n;
}

static void add_block(struct engine *g, int row, int rows, int col, int cols)
{
    if (rows > 0 && cols > 0)
        g->head_block[g->nhead_blocks++] = (struct logit_block){ row, rows, col, cols };
}

static int group_of(const struct need *n, struct need *all, int *ngroups)
{
    for (int k = 0; k < *ngroups; k++)
        if (!memcmp(n, &all[k], sizeof *n))
            return k;
    if (*ngroups == HEAD_GROUPS)
        return HEAD_GROUPS;
    all[*ngroups] = *n;
    return (*ngroups)++;
}

void plan_head(struct engine *g)
{
    struct need need[HEAD_GROUPS];
    int begin[HEAD_GROUPS + 2] = { 0 }, ngroups = 0, vocab = g->config->vocab;
    for (int i = 0; i < g->ndecode; i++) {
        struct need n = need_of(g, g->slot[g->decode_slot[i]]);
        g->head_group[i] = group_of(&n, need, &ngroups);
        begin[g->head_group[i] + 1]++;
        g->scratch[i] = g->decode_slot[i];
    }
    for (int k = 0; k <= HEAD_GROUPS; k++)
        begin[k + 1] += begin[k];
    g->nhead_blocks = 0;
    for (int k = 0; k < ngroups; k++) {
        int row = begin[k], rows = begin[k + 1] - row;
        add_block(g, row, rows, need[k].lo, need[k].hi - need[k].lo);
        for (int i = 0; i < SAMPLE_STOP_IDS && need[k].also[i] >= 0; i++)
            add_block(g, row, rows, need[k].also[i], 1);
    }
    add_block(g, begin[HEAD_GROUPS], g->ndecode - begin[HEAD_GROUPS], 0, vocab);
    for (int i = 0; i < g->nhead_blocks; i++)
        g->stats.logits += (int64_t)g->head_block[i].rows * g->head_block[i].cols;
    for (int i = 0; i < g->ndecode; i++)
        g->decode_slot[begin[g->head_group[i]]++] = g->scratch[i];
}
