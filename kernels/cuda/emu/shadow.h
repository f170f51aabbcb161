/* shadow.h - who touched which byte: what the emulation tells its shadow memory. Included by the emulation only.
 *
 * Kernels are compiled with the compiler's thread-sanitizer instrumentation, and shadow.cpp stands where its run-time
 * library would: each read and write of a kernel arrives there. It looks only while a test watches (emu_watch). */
#ifndef LATENT_EMU_SHADOW_H
#define LATENT_EMU_SHADOW_H

#include <stddef.h>
#include <stdint.h>

namespace emu
{

struct touch {     /* one access */
    uint32_t time; /* counts barriers, sync_warps, blocks and launches; 0: never */
    uint32_t pc;   /* from the program's start */
    uint16_t thread, kind;
};

struct cell {                 /* of a byte */
    touch write, read, other; /* other: a reader beside `read`, of another block or warp if there was one */
};

/* What an address belongs to. */
struct region {
    unsigned char *begin; /* NULL: to nothing that threads share */
    size_t bytes;
    cell *cells;      /* NULL: it was not watched from its beginning */
    int64_t number;   /* of an allocation; 0: shared memory, */
    const char *name; /* which has a name */
};

extern bool watching;

cell *shadow_cells(size_t bytes); /* zero pages that come when they are touched; NULL unless watching */
void shadow_cells_free(cell *cells, size_t bytes);
void shadow_launch();
void shadow_block();
void shadow_barrier();
void shadow_sync_warp(int warp);
void shadow_host_write(const void *to, size_t bytes);
void shadow_copy_begin(const void *to, const void *from, int bytes, int valid, const void *pc);
void shadow_copy_end(const void *to, int bytes);

/* emu.cpp's side */
region region_of(const void *p);
int running_thread();
[[noreturn]] void fault_here(const char *sentence); /* ends the launch */

} // namespace emu

#endif
