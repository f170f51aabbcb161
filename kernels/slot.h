/* slot.h - what all samplers share, on every device: which ids a slot allows, and what taking one does to it. C, C++
 * and device code. */
#ifndef LATENT_SLOT_H
#define LATENT_SLOT_H

#include "kernels/kernels.h"

#ifdef __CUDACC__
#define SLOT_FUNCTION static __device__ __forceinline__
#else
#define SLOT_FUNCTION static inline
#endif

SLOT_FUNCTION bool slot_lists(const int32_t *list, int32_t id)
{
    bool found = false;
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        found = found || list[i] == id;
    return found;
}

SLOT_FUNCTION bool slot_allows(const struct sample_slot *s, int32_t id)
{
    int phase = s->phase != 0;
    if (slot_lists(s->never[phase], id))
        return false;
    return (id >= s->lo[phase] && id < s->hi[phase]) || slot_lists(s->also[phase], id);
}

/* counts: of this slot, or NULL */
SLOT_FUNCTION void slot_take(struct sample_slot *s, int32_t id, int32_t *counts)
{
    if (counts && (counts[id] & 0xffff) != 0xffff) /* saturates: must not run into the prompt's half */
        counts[id]++;
    s->last = id;
    s->generated++;
    s->position++;
    if (id == s->flip_id)
        s->phase = 1;
    if (s->generated >= s->limit)
        s->done = SAMPLE_LENGTH;
    if (slot_lists(s->stop, id))
        s->done = SAMPLE_STOPPED;
}

#endif
