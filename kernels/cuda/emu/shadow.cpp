/* shadow.cpp - shadow memory: who read and wrote each byte that threads share, and what of it is wrong.
 *
 * Two accesses of one byte, one of them a write, need something between them: a block barrier, or a sync_warp where
 * both are in one warp; between two blocks of a launch there is nothing. Shuffles, votes, ldmatrix and mma bring lanes
 * together but order no memory. So each byte has its last writer and two readers: the last one, and one beside it.
 * Atomic operations do not race with each other. A byte nobody wrote is not read; nothing is read or written outside of
 * what was asked for; the target of an asynchronous copy is left alone until the copy was waited for.
 * Compiled without the instrumentation, like all of the emulation. */
#include "kernels/cuda/emu/shadow.h"
#include "kernels/cuda/emu/host.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" char __executable_start; /* of the linker */

namespace emu
{

enum kind { READ, WRITE, ATOMIC, COPY /* that nobody waited for yet */ };

bool watching;

static uint32_t now = 1, launch_at, block_at, barrier_at, sync_at[MAX_THREADS / WARP];

cell *shadow_cells(size_t bytes)
{
    if (!watching)
        return nullptr;
    void *p = mmap(nullptr, (bytes + 1) * sizeof(cell), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return static_cast<cell *>(p);
}

void shadow_cells_free(cell *cells, size_t bytes)
{
    if (cells)
        munmap(cells, (bytes + 1) * sizeof(cell));
}

void shadow_barrier()
{
    barrier_at = ++now;
    for (uint32_t &at : sync_at)
        at = now;
}

void shadow_block()
{
    shadow_barrier();
    block_at = now;
}

void shadow_launch()
{
    shadow_block();
    launch_at = now;
}

void shadow_sync_warp(int warp)
{
    sync_at[warp] = ++now;
}

/* ---- sentences ---- */

static uint32_t offset_of(const void *pc)
{
    return static_cast<uint32_t>(static_cast<const char *>(pc) - &__executable_start);
}

/* FILE:LINE of a kernel's access, and of the call it was inlined at when that stands in another file; binutils know. */
static void line_of(uint32_t pc, char *text, size_t size)
{
    char command[128], line[512], first[256] = "";
    snprintf(command, sizeof command, "addr2line -i -e /proc/%ld/exe 0x%x 2>/dev/null", static_cast<long>(getpid()),
             pc - 1);
    snprintf(text, size, "a line that addr2line does not know");
    FILE *f = popen(command, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, " \n")] = '\0';
        char *name = strstr(line, "kernels/cuda/"), *colon = strrchr(line, ':');
        if (!name || !colon || strstr(name, "/emu/"))
            continue;
        if (!first[0]) {
            snprintf(first, sizeof first, "%s", name);
            snprintf(text, size, "%s", name);
        } else if (strncmp(first, name, static_cast<size_t>(colon - name) + 1) != 0) {
            snprintf(text, size, "%s from %s", first, name);
            break;
        }
    }
    if (f)
        pclose(f);
}

static const char *verb_of(int kind)
{
    static const char *const verbs[] = { "reads", "writes", "updates", "copies to" };
    return verbs[kind];
}

[[noreturn]] static void fault(const char *what, touch mine, size_t bytes, const region &r, const void *p,
                               const touch *before)
{
    char here[600], there[600], place[128], text[1800];
    long long at = static_cast<const unsigned char *>(p) - r.begin;
    if (r.number)
        snprintf(place, sizeof place, "allocation %lld + %lld of %zu", static_cast<long long>(r.number), at, r.bytes);
    else
        snprintf(place, sizeof place, "shared '%s' + %lld of %zu", r.name, at, r.bytes);
    line_of(mine.pc, here, sizeof here);
    int n = snprintf(text, sizeof text, "%s: block %u,%u,%u thread %d %s %zu bytes at %s (%s)", what, self->block.x,
                     self->block.y, self->block.z, mine.thread, verb_of(mine.kind), bytes, place, here);
    if (before) {
        line_of(before->pc, there, sizeof there);
        snprintf(text + n, sizeof text - static_cast<size_t>(n), ", which thread %d%s %s before (%s)", before->thread,
                 before->time < block_at ? " of another block" : "", verb_of(before->kind), there);
    }
    fault_here(text);
}

/* ---- one access ---- */

/* Nothing stands between `a`, an earlier access, and what the running thread does now. */
static bool unordered(const touch &a, int thread, const region &r)
{
    if (a.time < launch_at || (a.time < block_at && !r.number)) /* each block has shared memory of its own */
        return false;
    if (a.time < block_at)
        return true;
    return a.thread != thread && a.time >= (a.thread / WARP == thread / WARP ? sync_at[thread / WARP] : barrier_at);
}

static void check(const touch &a, const touch &mine, size_t bytes, const region &r, const void *p)
{
    if (unordered(a, mine.thread, r))
        fault(a.time < block_at ? "race between blocks" : "race", mine, bytes, r, p, &a);
}

/* How much a reader threatens the writers to come. */
static int weight(const touch &a, const touch &mine)
{
    if (a.time < launch_at)
        return 0;
    if (a.time < block_at)
        return 4;
    if (a.time >= barrier_at && a.thread / WARP != mine.thread / WARP)
        return 3;
    return a.time >= sync_at[a.thread / WARP] && a.thread != mine.thread ? 2 : 1;
}

static void see(const void *p, size_t bytes, kind what, const void *pc)
{
    if (!watching || !self || bytes == 0)
        return; /* self: not the host */
    region r = region_of(p);
    if (!r.cells)
        return;
    touch mine = { now, offset_of(pc), static_cast<uint16_t>(running_thread()), static_cast<uint16_t>(what) };
    size_t at = static_cast<size_t>(static_cast<const unsigned char *>(p) - r.begin);
    if (at > r.bytes || bytes > r.bytes - at)
        fault("out of bounds", mine, bytes, r, p, nullptr);
    for (cell *c = r.cells + at; c < r.cells + at + bytes; c++) {
        bool written = c->write.time >= (r.number ? 1 : block_at);
        if (written && c->write.kind == COPY)
            fault("a copy is under way", mine, bytes, r, p, &c->write);
        if (!written && (what == READ || what == ATOMIC))
            fault("never written", mine, bytes, r, p, nullptr);
        if (written && !(what == ATOMIC && c->write.kind == ATOMIC))
            check(c->write, mine, bytes, r, p);
        if (what == READ) {
            if (weight(c->read, mine) > weight(c->other, mine))
                c->other = c->read;
            c->read = mine;
        } else {
            check(c->read, mine, bytes, r, p);
            check(c->other, mine, bytes, r, p);
            c->write = mine;
        }
    }
}

void shadow_host_write(const void *to, size_t bytes)
{
    if (!watching)
        return;
    region r = region_of(to);
    for (size_t i = 0, at = static_cast<size_t>(static_cast<const unsigned char *>(to) - r.begin); r.cells && i < bytes;
         i++)
        r.cells[at + i] = cell{ touch{ now, 0, 0, WRITE }, {}, {} };
}

void shadow_copy_begin(const void *to, const void *from, int bytes, int valid, const void *pc)
{
    see(from, static_cast<size_t>(valid), READ, pc);
    see(to, static_cast<size_t>(bytes), COPY, pc);
}

/* From here on it is a write of the thread that waited. */
void shadow_copy_end(const void *to, int bytes)
{
    region r = watching ? region_of(to) : region{};
    for (int i = 0; r.cells && i < bytes; i++) {
        touch &w = r.cells[static_cast<const unsigned char *>(to) - r.begin + i].write;
        w.time = now;
        w.kind = WRITE;
    }
}

} // namespace emu

/* ---- what the compiler calls ---- */

#define HOOK(name, kind, bytes)                                                                                        \
    extern "C" void name(void *p);                                                                                     \
    extern "C" void name(void *p)                                                                                      \
    {                                                                                                                  \
        emu::see(p, bytes, emu::kind, __builtin_return_address(0));                                                    \
    }
#define HOOKS(bytes)                                                                                                   \
    HOOK(__tsan_read##bytes, READ, bytes)                                                                              \
    HOOK(__tsan_write##bytes, WRITE, bytes)                                                                            \
    HOOK(__tsan_unaligned_read##bytes, READ, bytes)                                                                    \
    HOOK(__tsan_unaligned_write##bytes, WRITE, bytes)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#define RANGE_HOOK(name, kind)                                                                                         \
    extern "C" void name(void *p, size_t bytes);                                                                       \
    extern "C" void name(void *p, size_t bytes)                                                                        \
    {                                                                                                                  \
        emu::see(p, bytes, emu::kind, __builtin_return_address(0));                                                    \
    }
RANGE_HOOK(__tsan_read_range, READ)
RANGE_HOOK(__tsan_write_range, WRITE)
#define ADD_HOOK(bits)                                                                                                 \
    extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(uint##bits##_t *p, uint##bits##_t v, int order);         \
    extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(uint##bits##_t *p, uint##bits##_t v, int)                \
    {                                                                                                                  \
        emu::see(p, sizeof *p, emu::ATOMIC, __builtin_return_address(0));                                              \
        uint##bits##_t old = *p;                                                                                       \
        *p = old + v;                                                                                                  \
        return old;                                                                                                    \
    }
ADD_HOOK(32)
ADD_HOOK(64)
extern "C" bool __tsan_atomic32_compare_exchange_strong(uint32_t *p, uint32_t *expected, uint32_t v, int, int);
extern "C" bool __tsan_atomic32_compare_exchange_strong(uint32_t *p, uint32_t *expected, uint32_t v, int, int)
{
    emu::see(p, sizeof *p, emu::ATOMIC, __builtin_return_address(0));
    uint32_t old = *p;
    if (old == *expected)
        *p = v;
    bool same = old == *expected;
    *expected = old;
    return same;
}
extern "C" void __tsan_init();
extern "C" void __tsan_init()
{
}
extern "C" void __tsan_func_entry(void *);
extern "C" void __tsan_func_entry(void *)
{
}
extern "C" void __tsan_func_exit();
extern "C" void __tsan_func_exit()
{
}
