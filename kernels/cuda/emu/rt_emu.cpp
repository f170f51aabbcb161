/* rt_emu.cpp - the machine of rt.h on the host: memory between guard zones, multiplication by the plain kernel. */
#include "kernels/cuda/emu/shadow.h"
#include "kernels/cuda/rt.h"

#include <stdlib.h>
#include <string.h>

/* A small chip: what is free decides the default size of a cache; one thing larger than all of it is refused. */
static const size_t MEMORY = static_cast<size_t>(256) << 20;
static size_t memory_left = static_cast<size_t>(4) << 20;

/* ---- failing when a test wants it ---- */

static enum emu_failure planned;
static int before;
static bool struck, lost;

void emu_fail(enum emu_failure how, int after)
{
    planned = how;
    before = after;
    struck = lost = false;
}

int emu_failed(void)
{
    return struck;
}

void emu_set_memory_left(size_t bytes)
{
    memory_left = bytes;
}

/* ---- what was asked for ---- */

enum { TRACED = 4096 };
static char trace[TRACED], told[TRACED];

static void note(char what)
{
    size_t n = strlen(trace);
    if (n + 1 < TRACED && !(n && trace[n - 1] == what))
        trace[n] = what;
}

const char *emu_trace(void)
{
    memcpy(told, trace, TRACED);
    memset(trace, 0, TRACED);
    return told;
}

static bool strikes(enum emu_failure how)
{
    if (lost && how == EMU_LOST)
        return true;
    if (planned != how || before-- > 0)
        return false;
    planned = EMU_WELL;
    struck = true;
    lost = how == EMU_LOST;
    return true;
}

static int alive(const char *doing, err *e)
{
    return strikes(EMU_LOST) ? rt_lost(e, doing, "a test took it away") : 0;
}

/* ---- the machine ---- */

struct rt {
    int unused;
};

struct rt_ticket {
    size_t bytes;
    unsigned char data[];
};

static rt the_rt;

int rt_open(rt **out, int index, err *e)
{
    if (index != 0)
        return err_set(e, "the emulation has device 0 only, not %d", index);
    if (strikes(EMU_NO_DRIVER))
        return rt_no_driver(e, index);
    if (strikes(EMU_OLD_DRIVER))
        return rt_old_driver(e, index, 12020, 13000);
    if (strikes(EMU_NO_DEVICE))
        return rt_no_device(e, index);
    if (alive("opening it", e) < 0)
        return -1;
    *out = &the_rt;
    return 0;
}

void rt_close(rt *)
{
}

void rt_enter(rt *)
{
}

stream_t rt_stream(rt *)
{
    return 0;
}

int rt_chip(rt *)
{
    return 0;
}

int rt_alloc(rt *, void **out, size_t bytes, const char *what, err *e)
{
    *out = nullptr;
    if (alive("taking memory", e) < 0)
        return -1;
    *out = bytes > MEMORY || strikes(EMU_NO_MEMORY) ? nullptr : emu_malloc(bytes);
    return *out ? 0 : rt_no_memory(e, what, bytes, memory_left, MEMORY);
}

int64_t rt_memory_left(rt *)
{
    return static_cast<int64_t>(memory_left);
}

void rt_free(rt *, void *p)
{
    if (p)
        note('f');
    emu_free(p);
}

int rt_zero(rt *, void *p, size_t bytes, err *e)
{
    if (alive("clearing memory", e) < 0)
        return -1;
    emu::enqueue([=] {
        memset(p, 0, bytes);
        emu::shadow_host_write(p, bytes);
    });
    return 0;
}

int rt_copy(rt *, void *to, const void *from, size_t bytes, err *e)
{
    if (alive("copying", e) < 0)
        return -1;
    emu::enqueue([=] {
        memmove(to, from, bytes);
        emu::shadow_host_write(to, bytes);
    });
    return 0;
}

int rt_write(rt *, void *to, const void *host, size_t bytes, err *e)
{
    note('w');
    if (alive("a write", e) < 0)
        return -1;
    memcpy(to, host, bytes);
    emu::shadow_host_write(to, bytes);
    return 0;
}

static int launched(err *e)
{
    if (alive("starting a kernel", e) < 0)
        return -1;
    const char *fault = emu_fault();
    return fault ? err_set(e, "%s", fault) : 0;
}

int rt_launched(rt *, err *e)
{
    note('k');
    return launched(e);
}

int rt_sync(rt *, err *e)
{
    note('s');
    return launched(e);
}

int rt_read(rt *, void *host, const void *from, size_t bytes, err *e)
{
    note('r');
    if (alive("a read", e) < 0)
        return -1;
    memcpy(host, from, bytes);
    return 0;
}

int rt_ticket_begin(rt *, rt_ticket **out, const void *from, size_t bytes, err *e)
{
    note('b');
    if (alive("a read", e) < 0)
        return -1;
    rt_ticket *t = static_cast<rt_ticket *>(malloc(sizeof *t + bytes));
    if (!t)
        return err_set(e, "no memory for a read of %zu bytes", bytes);
    t->bytes = bytes;
    memcpy(t->data, from, bytes);
    *out = t;
    return 0;
}

int rt_ticket_wait(rt *, rt_ticket *t, void *host, err *e)
{
    note('t');
    int rc = alive("running what was enqueued", e);
    if (rc == 0)
        memcpy(host, t->data, t->bytes);
    free(t);
    return rc;
}

int rt_upload(rt *, void *to, size_t bytes, rt_fill *fill, void *arg, err *e)
{
    if (alive("an upload", e) < 0)
        return -1;
    size_t piece = 64; /* small: the pieces' seams must show in tests */
    for (size_t at = 0; at < bytes; at += piece)
        fill(arg, at, bytes - at < piece ? bytes - at : piece, static_cast<char *>(to) + at);
    emu::shadow_host_write(to, bytes);
    return 0;
}

struct rt_recording {
    emu::kept *first;
};

static rt_recording *the_recording;

int rt_record_begin(rt *, err *e)
{
    if (alive("beginning a recording", e) < 0)
        return -1;
    the_recording = static_cast<rt_recording *>(calloc(1, sizeof *the_recording));
    if (!the_recording)
        return err_set(e, "no memory");
    emu::recording = &the_recording->first;
    return 0;
}

rt_recording *rt_record_end(rt *)
{
    emu::recording = nullptr;
    return the_recording;
}

int rt_replay(rt *r, rt_recording *x, err *e)
{
    if (alive("replaying a step", e) < 0)
        return -1;
    for (emu::kept *k = x->first; k; k = k->next)
        k->run(k);
    return rt_launched(r, e);
}

void rt_recording_free(rt *, rt_recording *x)
{
    for (emu::kept *k = x ? x->first : nullptr, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    free(x);
}

static uint64_t any_order;

uint64_t emu_any_order(void)
{
    return any_order;
}

int rt_product(rt *, const product_op &o, err *e)
{
    note('k');
    if (alive("starting a product", e) < 0)
        return -1;
    any_order += o.any_order;
    op_product_plain(0, o);
    return 0;
}
