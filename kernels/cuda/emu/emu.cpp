/* emu.cpp - blocks, threads, barriers, warp operations, shared memory and asynchronous copies on the host.
 *
 * A block runs alone. Each of its threads is a fiber that runs until it waits: at a barrier, or at a warp operation
 * until every lane of the mask has come to the same one. Threads run forward, reversed or shuffled, so that code which
 * leans on an order gives a wrong result in one of them. Memory is hostile: fresh memory holds NaN; the target of an
 * asynchronous copy turns to NaN when the copy is issued and is filled at the last moment the waits allow, from what
 * the source holds then; guard zones follow every allocation. The first fault of a launch ends it; its sentence stays
 * until emu_clear. Who touched which byte is shadow.cpp's. */
#include "kernels/cuda/emu/host.h"
#include "kernels/cuda/emu/shadow.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__x86_64__) || defined(EMU_UCONTEXT)
#define EMU_USE_UCONTEXT 1
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define EMU_ASAN 1
#endif

namespace emu
{

enum {
    STACK = 256 << 10,
    SHARED_ALL = 1 << 20,
    SHARED_MAX = 227 << 10,
    STATIC_MAX = 48 << 10,
    GUARD = 64,
    STATICS = 64
};
enum { POISON = 0xff, GUARD_BYTE = 0xf5 }; /* 0xffff and 0xffffffff are NaN as bf16, half and float */

/* ---- fibers ---- */

struct fiber {
#ifdef EMU_USE_UCONTEXT
    ucontext_t context;
#else
    void *sp;
#endif
    void *fake_stack; /* the address sanitizer's */
    void *bottom;
    size_t size;
};

#ifndef EMU_USE_UCONTEXT
extern "C" void latent_emu_switch(void **save, void *to);
__asm__(".text\n.globl latent_emu_switch\n.type latent_emu_switch,@function\nlatent_emu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size latent_emu_switch,.-latent_emu_switch\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
#endif

static void fiber_make(fiber *f, void *bottom, size_t size, void (*entry)())
{
    f->fake_stack = nullptr;
    f->bottom = bottom;
    f->size = size;
#ifdef EMU_USE_UCONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = bottom;
    f->context.uc_stack.ss_size = size;
    f->context.uc_link = nullptr;
    makecontext(&f->context, entry, 0);
#else
    void **top = reinterpret_cast<void **>(static_cast<char *>(bottom) + size);
    *--top = nullptr; /* entry sees the stack as after a call */
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    f->sp = top;
#endif
}

static void fiber_switch(fiber *from, fiber *to)
{
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
#endif
#ifdef EMU_USE_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    latent_emu_switch(&from->sp, to->sp);
#endif
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

/* ---- threads of the running block ---- */

enum state { READY, AT_BARRIER, AT_WARP, DONE };

struct copy {
    void *dst;
    const void *src;
    int bytes, valid, group;
};

struct thread {
    running r; /* first: what the kernel sees */
    fiber f;
    enum state state;
    int index, warp;
    place at; /* where it waits */
    const char *op;
    unsigned mask;
    unsigned char arg[ARG_BYTES];
    gathered *held; /* the last operation's arguments; given back at the next */
    copy *copies;
    int ncopies, cap, group;
};

struct block_static {
    const void *key;
    const char *name;
    size_t at, bytes;
};

running *self;
int planted;
kept **recording;

static thread threads[MAX_THREADS];
static gathered pool[MAX_THREADS / WARP][WARP + 1]; /* a lane holds at most one, so one is always free */
static int nthreads, order_now = EMU_FORWARD;
static uint32_t shuffle_state = 1;
static fiber scheduler;
static char *stacks;
static void (*body)(void *);
static void *body_closure;
static const char *kernel_name;
static unsigned char *shared_memory;
static cell *shared_cells;
static size_t shared_used, dynamic_bytes;
static block_static statics[STATICS];
static int nstatics;
static uint64_t launches;
static bool faulted; /* this launch */
static bool have_fault;
static char fault[1024];

static const char *const SYNC_WARP = "sync_warp";

static thread *me()
{
    return reinterpret_cast<thread *>(self);
}

static void report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *fmt, ...)
{
    faulted = true;
    if (have_fault)
        return;
    have_fault = true;
    int n = snprintf(fault, sizeof fault, "%s: ", kernel_name ? kernel_name : "host");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fault + n, sizeof fault - static_cast<size_t>(n), fmt, ap);
    va_end(ap);
}

static void leave() /* the running thread waits, or ends */
{
    fiber_switch(&me()->f, &scheduler);
}

/* A fault inside a thread: the launch is over, this fiber never runs again. */
static void die()
{
    for (;;)
        leave();
}

static void finish_copies(thread *t, int before_group)
{
    int left = 0;
    for (int i = 0; i < t->ncopies; i++) {
        copy c = t->copies[i];
        if (c.group >= before_group) {
            t->copies[left++] = c;
            continue;
        }
        memcpy(c.dst, c.src, static_cast<size_t>(c.valid));
        memset(static_cast<char *>(c.dst) + c.valid, 0, static_cast<size_t>(c.bytes - c.valid));
        shadow_copy_end(c.dst, c.bytes);
    }
    t->ncopies = left;
}

static void thread_main()
{
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, const_cast<const void **>(&scheduler.bottom), &scheduler.size);
#endif
    body(body_closure);
    if (me()->ncopies > 0)
        report("thread %d ends with %d asynchronous copies that nobody waited for", me()->index, me()->ncopies);
    me()->state = DONE;
    die();
}

void barrier(place at)
{
    me()->state = AT_BARRIER;
    me()->op = "barrier";
    me()->at = at;
    leave();
}

static bool same_operation(const thread *a, const thread *b)
{
    return b->state == AT_WARP && a->mask == b->mask && a->op == b->op && a->at.line == b->at.line &&
           a->at.file == b->at.file;
}

const gathered *gather(const char *op, unsigned mask, const void *arg, size_t bytes, place at)
{
    thread *t = me(), *lanes = &threads[t->warp * WARP];
    if (t->held)
        t->held->refs--;
    t->held = nullptr;
    memcpy(t->arg, arg, bytes);
    t->state = AT_WARP;
    t->op = op;
    t->mask = mask;
    t->at = at;
    if (!(mask >> t->r.lane & 1)) {
        report("%s:%d: lane %d is not in its own mask %08x of %s", at.file, at.line, t->r.lane, mask, op);
        die();
    }
    for (int i = 0; i < WARP; i++)
        if ((mask >> i & 1) && !same_operation(t, &lanes[i])) {
            leave();
            return t->held;
        }
    if (op == SYNC_WARP && planted != PLANT_UNORDERED_LANES)
        shadow_sync_warp(t->warp);
    gathered *g = pool[t->warp];
    while (g->refs > 0)
        g++;
    memset(g->arg, POISON, sizeof g->arg); /* lanes outside the mask */
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) {
            memcpy(g->arg[i], lanes[i].arg, ARG_BYTES);
            g->refs++;
            lanes[i].held = g;
            lanes[i].state = READY;
        }
    return g;
}

void need_aligned(const char *op, const void *p, unsigned bytes)
{
    if (reinterpret_cast<uintptr_t>(p) % bytes) {
        report("%s of %u bytes at an address that is not aligned to it", op, bytes);
        die();
    }
}

void copy_async(void *dst, const void *src, int bytes, int valid)
{
    thread *t = me();
    need_aligned("cp.async", dst, static_cast<unsigned>(bytes));
    if (valid)
        need_aligned("cp.async", src, static_cast<unsigned>(bytes));
    if (t->ncopies == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 16;
        t->copies = static_cast<copy *>(realloc(t->copies, static_cast<size_t>(t->cap) * sizeof(copy)));
        if (!t->copies)
            abort();
    }
    shadow_copy_begin(dst, src, bytes, valid, __builtin_return_address(0));
    memset(dst, POISON, static_cast<size_t>(bytes));
    t->copies[t->ncopies++] = { dst, src, bytes, valid, t->group };
}

void sync_warp(place at)
{
    gather(SYNC_WARP, 0xffffffffu, "", 1, at);
}

void copy_commit()
{
    me()->group++;
}

void copy_wait(int pending)
{
    finish_copies(me(), me()->group - pending);
}

/* ---- shared memory ---- */

static void *shared_take(size_t bytes)
{
    size_t at = (shared_used + 127) & ~static_cast<size_t>(127);
    shared_used = at + bytes + GUARD;
    memset(shared_memory + at, POISON, bytes);
    memset(shared_memory + at + bytes, GUARD_BYTE, GUARD);
    return shared_memory + at;
}

void *shared_static(const void *key, size_t bytes, const char *name)
{
    size_t sum = bytes;
    for (int i = 0; i < nstatics; i++) {
        if (statics[i].key == key)
            return shared_memory + statics[i].at;
        sum += statics[i].bytes;
    }
    if (nstatics == STATICS || sum > STATIC_MAX) {
        report("more than %d bytes of static shared memory", STATIC_MAX);
        die();
    }
    unsigned char *p = static_cast<unsigned char *>(shared_take(bytes));
    statics[nstatics++] = { key, name, static_cast<size_t>(p - shared_memory), bytes };
    return p;
}

void *shared_dynamic()
{
    return shared_static(&dynamic_bytes, 0, "dynamic") == nullptr ? nullptr : shared_memory + statics[0].at;
}

static bool guard_holds(const unsigned char *p)
{
    for (int i = 0; i < GUARD; i++)
        if (p[i] != GUARD_BYTE)
            return false;
    return true;
}

static void block_memory_reset(size_t dynamic)
{
    if (!shared_memory && !(shared_memory = static_cast<unsigned char *>(aligned_alloc(128, SHARED_ALL))))
        abort();
    if (!shared_cells)
        shared_cells = shadow_cells(SHARED_ALL);
    shared_used = 0;
    void *p = shared_take(dynamic);
    statics[0] = { &dynamic_bytes, "dynamic", static_cast<size_t>(static_cast<unsigned char *>(p) - shared_memory),
                   dynamic };
    nstatics = 1;
}

static void block_memory_check()
{
    for (int i = 0; i < nstatics && !faulted; i++)
        if (!guard_holds(shared_memory + statics[i].at + statics[i].bytes))
            report("a write behind the %zu bytes of shared memory '%s'", statics[i].bytes, statics[i].name);
}

/* ---- global memory ---- */

struct allocation {
    allocation *next;
    size_t bytes;
    cell *cells;
    int64_t number;
    unsigned char before[GUARD];
};
static_assert(sizeof(allocation) % 16 == 0, "what follows stays aligned");
static allocation *allocations;

static unsigned char *payload(allocation *a)
{
    return reinterpret_cast<unsigned char *>(a) + 256;
}

#ifdef EMU_ASAN
static allocation *take(size_t bytes)
{
    return static_cast<allocation *>(aligned_alloc(256, (bytes + 255) & ~static_cast<size_t>(255)));
}

static void give(allocation *a)
{
    free(a);
}

static allocation *owner_of(const void *)
{
    return nullptr;
}
#else
/* Pages of their own, never given out twice: whoever comes late stops there. */
enum { PAGE = 4096 };
static const size_t ARENA = static_cast<size_t>(64) << 30;
static unsigned char *arena;
static allocation **owners; /* of the arena's pages */
static size_t arena_used;

static void *zero_pages(size_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

static allocation *take(size_t bytes)
{
    if (!arena) {
        arena = static_cast<unsigned char *>(zero_pages(ARENA));
        owners = static_cast<allocation **>(zero_pages(ARENA / PAGE * sizeof *owners));
    }
    size_t pages = (bytes + PAGE - 1) / PAGE;
    if (pages > (ARENA - arena_used) / PAGE)
        return nullptr;
    allocation *a = reinterpret_cast<allocation *>(arena + arena_used);
    for (size_t i = 0; i < pages; i++)
        owners[arena_used / PAGE + i] = a;
    arena_used += pages * PAGE;
    return a;
}

static void give(allocation *a)
{
    size_t bytes = 256 + a->bytes + GUARD, pages = (bytes + PAGE - 1) / PAGE,
           first = static_cast<size_t>(reinterpret_cast<unsigned char *>(a) - arena) / PAGE;
    for (size_t i = 0; i < pages; i++)
        owners[first + i] = nullptr;
    madvise(a, pages * PAGE, MADV_DONTNEED);
    mprotect(a, pages * PAGE, PROT_NONE);
}

static allocation *owner_of(const void *p)
{
    size_t at = static_cast<size_t>(static_cast<const unsigned char *>(p) - arena);
    return at < arena_used ? owners[at / PAGE] : nullptr;
}
#endif

region region_of(const void *p)
{
    size_t at = static_cast<size_t>(static_cast<const unsigned char *>(p) - shared_memory);
    if (at < SHARED_ALL) {
        int i = nstatics - 1;
        while (i > 0 && at < statics[i].at)
            i--;
        return { shared_memory + statics[i].at, statics[i].bytes, shared_cells + statics[i].at, 0, statics[i].name };
    }
    allocation *a = owner_of(p);
    return a ? region{ payload(a), a->bytes, a->cells, a->number, "" } : region{};
}

int running_thread()
{
    return me()->index;
}

void fault_here(const char *sentence)
{
    report("%s", sentence);
    die();
    abort();
}

static void global_memory_check()
{
    for (allocation *a = allocations; a && !faulted; a = a->next)
        if (!guard_holds(a->before) || !guard_holds(payload(a) + a->bytes))
            report("a write %s an allocation of %zu bytes", guard_holds(a->before) ? "behind" : "before", a->bytes);
}

/* ---- one launch ---- */

static uint32_t next_random(uint32_t n)
{
    shuffle_state = shuffle_state * 1664525u + 1013904223u;
    return static_cast<uint32_t>((static_cast<uint64_t>(shuffle_state) * n) >> 32);
}

static void arrange(int *order)
{
    for (int i = 0; i < nthreads; i++)
        order[i] = order_now == EMU_REVERSE ? nthreads - 1 - i : i;
    for (int i = nthreads - 1; i > 0 && order_now == EMU_SHUFFLED; i--) {
        int j = static_cast<int>(next_random(static_cast<uint32_t>(i) + 1)), x = order[i];
        order[i] = order[j];
        order[j] = x;
    }
}

/* Everybody waits and nothing can release them: says who waits where. */
static void report_waiting(const char *what)
{
    char text[800];
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < nthreads && n < sizeof text - 200; i++) {
        bool seen = threads[i].state == DONE;
        int same = 0;
        for (int j = 0; j < nthreads; j++)
            if (threads[j].state != DONE && threads[j].op == threads[i].op &&
                threads[j].at.line == threads[i].at.line && threads[j].at.file == threads[i].at.file) {
                same++;
                seen = seen || j < i;
            }
        if (!seen)
            n += static_cast<size_t>(snprintf(text + n, sizeof text - n, "%s%d at %s %s:%d (the first is thread %d)",
                                              n ? ", " : "", same, threads[i].op, threads[i].at.file,
                                              threads[i].at.line, i));
    }
    report("%s: %s", what, text);
}

/* True when waiting threads were released. */
static bool release_barrier()
{
    int waiting = 0, running_ = 0, first = -1;
    bool diverged = false;
    for (int i = 0; i < nthreads; i++) {
        if (threads[i].state == DONE)
            continue;
        running_++;
        if (threads[i].state != AT_BARRIER)
            continue;
        waiting++;
        first = first < 0 ? i : first;
        diverged =
            diverged || threads[i].at.line != threads[first].at.line || threads[i].at.file != threads[first].at.file;
    }
    if (waiting == 0 || waiting != running_)
        return false;
    if (waiting != nthreads) {
        report_waiting("divergent barrier, some threads of the block have ended");
        return false;
    }
    if (diverged) {
        report_waiting("divergent barriers in one block");
        return false;
    }
    for (int i = 0; i < nthreads; i++)
        threads[i].state = READY;
    shadow_barrier();
    return true;
}

static void run_block()
{
    static int order[MAX_THREADS];
    for (;;) {
        bool progress = false, all_done = true;
        arrange(order);
        for (int i = 0; i < nthreads; i++) {
            thread *t = &threads[order[i]];
            if (t->state != READY)
                continue;
            progress = true;
            self = &t->r;
            fiber_switch(&scheduler, &t->f);
            self = nullptr;
            if (faulted)
                return;
        }
        for (int i = 0; i < nthreads; i++)
            all_done = all_done && threads[i].state == DONE;
        if (all_done)
            return;
        if (!release_barrier() && !progress && !faulted)
            report_waiting("deadlock");
        if (faulted)
            return;
    }
}

static void start_block(dim3 grid, dim3 block, dim3 at)
{
    for (int i = 0; i < nthreads; i++) {
        thread *t = &threads[i];
        unsigned u = static_cast<unsigned>(i);
        t->r.thread = dim3(u % block.x, u / block.x % block.y, u / block.x / block.y);
        t->r.block = at;
        t->r.block_dim = block;
        t->r.grid_dim = grid;
        t->r.lane = i % WARP;
        t->index = i;
        t->warp = i / WARP;
        t->state = READY;
        t->held = nullptr;
        t->ncopies = t->group = 0;
        fiber_make(&t->f, stacks + static_cast<size_t>(i) * STACK, STACK, thread_main);
    }
    for (gathered *g = pool[0]; g < pool[0] + sizeof pool / sizeof pool[0][0]; g++)
        g->refs = 0;
}

void launch(dim3 grid, dim3 block, size_t shared, const char *name, void (*call)(void *), void *closure)
{
    kernel_name = name;
    faulted = false;
    launches++;
    uint64_t n = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (n == 0 || n > MAX_THREADS || n % WARP || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
        grid.z > 65535 || shared > SHARED_MAX)
        report("grid %u x %u x %u of blocks of %u x %u x %u threads with %zu bytes cannot be launched", grid.x, grid.y,
               grid.z, block.x, block.y, block.z, shared);
    if (!stacks) {
        void *p = mmap(nullptr, static_cast<size_t>(STACK) * MAX_THREADS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            abort();
        stacks = static_cast<char *>(p);
    }
    body = call;
    body_closure = closure;
    nthreads = static_cast<int>(n);
    shadow_launch();
    for (unsigned z = 0; z < grid.z && !faulted; z++)
        for (unsigned y = 0; y < grid.y && !faulted; y++)
            for (unsigned x = 0; x < grid.x && !faulted; x++) {
                shadow_block();
                block_memory_reset(shared);
                start_block(grid, block, dim3(x, y, z));
                run_block();
                block_memory_check();
            }
    global_memory_check();
#ifdef EMU_ASAN
    if (faulted) /* fibers that never came back left their frames marked */
        __asan_unpoison_memory_region(stacks, static_cast<size_t>(STACK) * MAX_THREADS);
#endif
    kernel_name = nullptr;
}

} // namespace emu

using namespace emu;

void emu_set_order(enum emu_order order)
{
    order_now = order;
    shuffle_state = 1;
}

void emu_plant(enum plant f)
{
    planted = f;
}

bool emu_watch(bool on)
{
#ifndef EMU_ASAN
    watching = on;
#endif
    return watching == on;
}

const char *emu_fault(void)
{
    return have_fault ? fault : nullptr;
}

void emu_clear(void)
{
    have_fault = false;
}

uint64_t emu_launches(void)
{
    return launches;
}

void *emu_malloc(size_t bytes)
{
    static int64_t number;
    allocation *a = take(256 + bytes + GUARD);
    if (!a)
        return nullptr;
    a->next = allocations;
    a->bytes = bytes;
    a->cells = shadow_cells(bytes);
    a->number = ++number;
    memset(a->before, GUARD_BYTE, GUARD);
    memset(payload(a), POISON, bytes);
    memset(payload(a) + bytes, GUARD_BYTE, GUARD);
    allocations = a;
    return payload(a);
}

size_t emu_in_use(void)
{
    size_t bytes = 0;
    for (const allocation *a = allocations; a; a = a->next)
        bytes += a->bytes;
    return bytes;
}

void emu_free(void *p)
{
    for (allocation **a = &allocations; p && *a; a = &(*a)->next)
        if (payload(*a) == p) {
            allocation *gone = *a;
            *a = gone->next;
            shadow_cells_free(gone->cells, gone->bytes);
            give(gone);
            return;
        }
}
