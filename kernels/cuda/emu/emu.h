/* emu.h - how tests steer the emulated device. C and C++.
 *
 * The emulation runs the kernels' own source as host C++: one block at a time, one fiber per thread (emu.cpp). It is
 * for small shapes and for truth, not for speed. What it cannot show: blocks that run at once and
 * work together, the chip's own fragment layouts, occupancy, time. */
#ifndef LATENT_EMU_H
#define LATENT_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum emu_order { EMU_FORWARD, EMU_REVERSE, EMU_SHUFFLED, EMU_ORDERS };

/* Faults that stay planted in the kernels (PLANTED in wrap.cuh): tests switch one on and want it found. */
enum plant {
    PLANT_NONE,
    PLANT_NO_BARRIER,      /* block_sum: the barrier between writing and reading the warps' sums is missing */
    PLANT_DIVERGED,        /* rmsnorm: half of the block skips a barrier */
    PLANT_PAGE,            /* attention: the next page of the table */
    PLANT_LANE,            /* mma: two lanes of the B fragment swapped */
    PLANT_NO_WAIT,         /* attention: K and V are read before their copy has been waited for */
    PLANT_NO_REFILL_GUARD, /* attention: a stage is refilled while others may still read it */
    PLANT_PAST_THE_END,    /* silu_mul: one element too many */
    PLANT_MASK,            /* softmax: one key too many is visible */
    PLANT_SHUFFLE,         /* warp_sum: half of a warp skips a shuffle */
    PLANT_NO_ATOMIC_CLEAR, /* sampler: the histogram is not cleared */
    PLANT_PIECE,           /* sums over rows, adamw: the last one of a piece is left out */
    PLANT_REPEATED_ID,     /* embedding backward: a repeated id's rows are added by each of them */
    PLANT_UNSEEN_ROW,      /* attention backward: a key misses its own row */
    PLANT_STALE_STATISTIC, /* attention backward: log-sum-exp and do.out of an earlier tile */
    PLANT_HELD_ON,         /* hold: what an earlier hold rounded is taken once more */
    PLANT_LOCAL_DRAW,      /* rounding by chance: draws are counted from the block's first element */
    PLANT_REUSED_SUMS,     /* block_sum: the sums are written while an earlier sum may still be read */
    PLANT_PAST_THE_SUMS,   /* block_max: the sum of one warp more */
    PLANT_UNORDERED_LANES, /* sync_warp: lanes meet, but their memory is not in order */
    PLANT_ASKEW,           /* ldmatrix: rows that begin two bytes late */
    PLANT_BLOCKS_MEET,     /* sampler: every block writes the word of failures */
    PLANT_PART_EDGE,       /* sampler: the last id of a chunk is left out */
    PLANT_PART_MORE,       /* sampler: a part more than a row has */
    PLANTS
};

/* What the emulated machine can lack or lose. */
enum emu_failure { EMU_WELL, EMU_NO_DRIVER, EMU_OLD_DRIVER, EMU_NO_DEVICE, EMU_NO_MEMORY, EMU_LOST };

/* The next call but `after` that can fail this way fails; EMU_LOST: and every call behind it. EMU_WELL: none. */
void emu_fail(enum emu_failure how, int after);
int emu_failed(void);                   /* has it come to that? */
void emu_set_memory_left(size_t bytes); /* 4 MiB at first */

void emu_set_order(enum emu_order order);
void emu_plant(enum plant fault);
/* On: what kernels do to each byte is watched, and what the chip would not stand by becomes a fault: a race, a read of
 * what nobody wrote or before its copy was waited for, an access out of bounds. Slow. Turn it before memory is taken:
 * what was there is not watched. False: it cannot be had (in a build
 * with the address sanitizer). */
bool emu_watch(bool on);
const char *emu_fault(void); /* the first fault since emu_clear, a sentence; NULL: none */
void emu_clear(void);
uint64_t emu_launches(void);  /* so far; a test that ran no kernel proves nothing */
uint64_t emu_any_order(void); /* products so far that might have been added in any order; here all have the same */

/* What the host asked for since the last call, in order: w a write, k kernels, b a read that is begun; and what it
 * waited for: t a read that was begun before, r a read, f memory given back, s everything. The same again is not
 * repeated; stands until the next call. */
const char *emu_trace(void);

/* Global memory between guard zones, filled with NaN. NULL when there is none. Guards are checked after every
 * launch. */
void *emu_malloc(size_t bytes);
void emu_free(void *p);
size_t emu_in_use(void); /* bytes */

#ifdef __cplusplus
}
#endif
#endif
