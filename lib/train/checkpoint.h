/* checkpoint.h - a run that was killed goes on: parameters, moments and the place in the run, on disk.
 *
 * A folder beside the output, OUTPUT.KEY.checkpoint, holds
 *     state.json                which files count, and the place; replaced in one step, so it never lies
 *     step-N.safetensors        values and both moments of every parameter after N steps, F32
 *     best-N.safetensors        values alone of the step with the lowest eval loss
 *     metrics.jsonl             the log so far; what lies behind the last checkpoint is cut off at resume
 *     lock                      held while a run is at it: a second run is refused
 * It is removed when the output is whole. Everything else about a run is a function of the step (batch.h). */
#ifndef LATENT_TRAIN_CHECKPOINT_H
#define LATENT_TRAIN_CHECKPOINT_H

#include <stdint.h>
#include <stdio.h>

#include "train/optimizer.h"

struct err;

struct checkpoint {
    char *dir;
    int lock;
    FILE *metrics;     /* behind its last whole line */
    int64_t step;      /* steps done at the last save; 0: none */
    int64_t best_step; /* 0: none */
    double best_loss;
    int64_t tokens; /* of all passes so far */
    double loss;    /* of the last step */
};

/* Makes the folder or takes up what lies in it. */
int checkpoint_open(struct checkpoint **out, const char *dir, struct err *e);
void checkpoint_close(struct checkpoint *c, bool remove); /* NULL is fine */

/* Values and moments as they were at c->step; nothing when that is 0. */
int checkpoint_load(struct checkpoint *c, struct optimizer *o, struct err *e);

/* Saves the state after `step` steps. best: this step has the lowest eval loss so far, which is `loss`. */
int checkpoint_save(struct checkpoint *c, struct optimizer *o, int64_t step, bool best, double loss, struct err *e);

/* Values of the best step into the parameters; nothing if there is none. */
int checkpoint_load_best(struct checkpoint *c, struct optimizer *o, struct err *e);

char *checkpoint_metrics_path(const struct checkpoint *c); /* caller frees */

#endif
