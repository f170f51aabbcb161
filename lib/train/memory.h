/* memory.h - what a run will take, said before it takes it. */
#ifndef LATENT_TRAIN_MEMORY_H
#define LATENT_TRAIN_MEMORY_H

#include <stdint.h>

#include "model/train.h"

struct buf;
struct err;

struct memory_plan {
    int64_t weights;      /* the checkpoint as it lies in memory, and packed for multiplication both ways; a device
                             with memory of its own: as it multiplies them */
    int64_t state;        /* what is trained: values, gradients, two moments, F32 */
    int64_t activations;  /* of one pass, and what the device needs beside them */
    int64_t total;        /* and the program itself */
    int64_t trained, all; /* how many numbers */
    int rows;             /* of a pass */
};

void memory_plan(struct memory_plan *p, struct model *m, const struct trainable_options *o);
void memory_text(const struct memory_plan *p, struct buf *out); /* appends one line, without its end */

/* limit 0: the machine's memory, of which more is only warned, or the device's own. Too much: -1, with the largest pass
 * that fits. */
int memory_check(const struct memory_plan *p, struct model *m, const struct trainable_options *o, int64_t limit,
                 struct err *e);

int memory_parse(const char *text, int64_t *bytes, struct err *e); /* "512M", "8G" */

#endif
