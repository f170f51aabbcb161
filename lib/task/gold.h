/* gold.h - the log-probability reward: how likely a model finds the gold answer behind a prompt and a reasoning.
 *
 *     gold_open(&g, &(struct gold_options){ .dir = dir, .device = "auto", .max_tokens = 4096, .rows = 2048 }, &e);
 *     gold_run(g, items, n, &e);              // items[i].score, or items[i].error
 *     gold_close(g);
 *
 * For one item (rl specification, section 6):
 *   1. the gold answer, normalized (gold_normalize); empty: -100
 *   2. prefix: the messages through the chat template with a generation prompt, then the solution up to and with its
 *      first think end; without one the whole solution, and 2 is taken off the score
 *   3. for the answer and for the answer behind a blank: encoded apart from the prefix, mean log-probability of its
 *      tokens; no tokens: -100
 *   4. the better of the two
 * Ids instead of messages or solution are taken as they are. The think end is that of dual_vocab_meta.json, else
 * "</think>". Unless batch_dependent, an item's score does not depend on the items beside it; what they share is
 * computed once (model/branch.h). One thread uses it. */
#ifndef LATENT_TASK_GOLD_H
#define LATENT_TASK_GOLD_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/reward.h"

struct buf;
struct err;
struct gold;

struct gold_options {
    const char *dir, *device;
    int threads;
    int max_tokens;       /* of prefix and answer together; more is an item's error */
    int rows;             /* of one pass of the model */
    bool fp8_cache;       /* device_use_fp8_cache */
    bool batch_dependent; /* device_use_any_order */
};
int gold_open(struct gold **out, const struct gold_options *o, struct err *e);
void gold_close(struct gold *g); /* NULL is fine */
const char *gold_device(const struct gold *g);
int64_t gold_rows(const struct gold *g); /* that went through the model so far; what items share counts once */

struct gold_item {
    const struct reward_query *query;
    double score;
    char error[512]; /* why there is no score: the item's own fault; "" */
};
/* -1: the device failed. */
int gold_run(struct gold *g, struct gold_item *const *items, int n, struct err *e);

/* Without $ \! \, \; \: \left \right, braces around all of it, dots at its end, and blanks; a/b of whole numbers
 * reduced; numbers without needless zeros. Appends. */
void gold_normalize(const char *s, size_t n, struct buf *out);

#endif
