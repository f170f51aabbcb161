/* slot.c - what all samplers share: which ids a slot allows, and what taking one does to it. */
#include "kernels/cpu/cpu.h"

bool slot_allows(const struct sample_slot *s, int32_t id)
{
    int phase = s->phase != 0;
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (s->never[phase][i] == id)
            return false;
    if (id >= s->lo[phase] && id < s->hi[phase])
        return true;
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (s->also[phase][i] == id)
            return true;
    return false;
}

void slot_take(struct sample_slot *s, int32_t id, int32_t *counts)
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
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (s->stop[i] == id)
            s->done = SAMPLE_STOPPED;
}
