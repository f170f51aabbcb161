/* rt_emu.cpp - the machine of rt.h on the host: memory between guard zones, multiplication by the plain kernel. */
#include "kernels/cuda/rt.h"

#include <stdlib.h>
#include <string.h>

/* A small chip: what is free decides the default size of a cache; one thing larger than all of it is refused. */
static const size_t MEMORY = static_cast<size_t>(256) << 20, MEMORY_LEFT = static_cast<size_t>(4) << 20;

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

int rt_alloc(rt *, void **out, size_t bytes, const char *what, err *e)
{
    *out = bytes > MEMORY ? nullptr : emu_malloc(bytes);
    return *out ? 0 : rt_no_memory(e, what, bytes, MEMORY_LEFT, MEMORY);
}

int64_t rt_memory_left(rt *)
{
    return MEMORY_LEFT;
}

void rt_free(rt *, void *p)
{
    emu_free(p);
}

int rt_zero(rt *, void *p, size_t bytes, err *)
{
    emu::enqueue([=] { memset(p, 0, bytes); });
    return 0;
}

int rt_copy(rt *, void *to, const void *from, size_t bytes, err *)
{
    emu::enqueue([=] { memmove(to, from, bytes); });
    return 0;
}

int rt_write(rt *, void *to, const void *host, size_t bytes, err *)
{
    memcpy(to, host, bytes);
    return 0;
}

int rt_launched(rt *, err *e)
{
    const char *fault = emu_fault();
    return fault ? err_set(e, "%s", fault) : 0;
}

int rt_sync(rt *r, err *e)
{
    return rt_launched(r, e);
}

int rt_read(rt *, void *host, const void *from, size_t bytes, err *)
{
    memcpy(host, from, bytes);
    return 0;
}

int rt_ticket_begin(rt *, rt_ticket **out, const void *from, size_t bytes, err *e)
{
    rt_ticket *t = static_cast<rt_ticket *>(malloc(sizeof *t + bytes));
    if (!t)
        return err_set(e, "no memory for a read of %zu bytes", bytes);
    t->bytes = bytes;
    memcpy(t->data, from, bytes);
    *out = t;
    return 0;
}

int rt_ticket_wait(rt *, rt_ticket *t, void *host, err *)
{
    memcpy(host, t->data, t->bytes);
    free(t);
    return 0;
}

int rt_upload(rt *, void *to, size_t bytes, rt_fill *fill, void *arg, err *)
{
    size_t piece = 64; /* small: the pieces' seams must show in tests */
    for (size_t at = 0; at < bytes; at += piece)
        fill(arg, at, bytes - at < piece ? bytes - at : piece, static_cast<char *>(to) + at);
    return 0;
}

struct rt_recording {
    emu::kept *first;
};

static rt_recording *the_recording;

int rt_record_begin(rt *, err *e)
{
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

int rt_product(rt *, const product_op &o, err *)
{
    op_product_plain(0, o);
    return 0;
}
