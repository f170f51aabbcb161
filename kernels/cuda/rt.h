/* rt.h - what device.cu needs of a machine: memory, copies, a multiplication, one stream. Two of them exist: rt_cuda.cu
 * over the CUDA runtime and cuBLASLt, emu/rt_emu.cpp over the emulation.
 *
 * 0 or -1 with a sentence, as everywhere. Everything runs in the order of the calls; only rt_read, rt_ticket_wait and
 * rt_sync wait. */
#ifndef LATENT_CUDA_RT_H
#define LATENT_CUDA_RT_H

#include "kernels/cuda/ops.h"
extern "C" {
#include "base/err.h"
}

struct rt;
struct rt_ticket;

/* ---- what can be wrong with a machine: one sentence each, whichever runtime says it ---- */

static inline int rt_no_driver(err *e, int index)
{
    return err_set(e, "device cuda:%d: this machine has no NVIDIA driver, or it is not loaded: --device cpu needs none",
                   index);
}
static inline int rt_no_device(err *e, int index)
{
    return err_set(e, "device cuda:%d: the driver finds no CUDA device (does CUDA_VISIBLE_DEVICES hide it?)", index);
}
static inline int rt_old_driver(err *e, int index, int found, int needed) /* as CUDA counts: 12020 is 12.2 */
{
    return err_set(e,
                   "device cuda:%d: the driver is for CUDA %d.%d, this build needs %d.%d or newer: update the driver",
                   index, found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10);
}
static inline int rt_no_memory(err *e, const char *what, size_t bytes, size_t left, size_t all)
{
    return err_set(e, "no device memory for the %s: %.1f MiB are needed, %.1f of %.1f MiB are free", what,
                   static_cast<double>(bytes) / 1048576, static_cast<double>(left) / 1048576,
                   static_cast<double>(all) / 1048576);
}
static inline int rt_lost(err *e, const char *doing, const char *why)
{
    return err_set(
        e,
        "the device was lost while %s (%s); what was on it is gone, what -o or a checkpoint has is kept: run "
        "the same command again when nvidia-smi shows the device",
        doing, why);
}

int rt_open(rt **out, int index, err *e);
void rt_close(rt *r);
void rt_enter(rt *r); /* the calling thread works with this device from here on */
stream_t rt_stream(rt *r);
int rt_chip(rt *r); /* 90 for compute capability 9.0; 0: none */

/* Not cleared. The sentence says how much was needed and how much was free. */
int rt_alloc(rt *r, void **out, size_t bytes, const char *what, err *e);
int64_t rt_memory_left(rt *r);
void rt_free(rt *r, void *p); /* waits for what is under way */
int rt_zero(rt *r, void *p, size_t bytes, err *e);
int rt_copy(rt *r, void *to, const void *from, size_t bytes, err *e);   /* on the device */
int rt_write(rt *r, void *to, const void *host, size_t bytes, err *e);  /* host may change once it returns */
int rt_read(rt *r, void *host, const void *from, size_t bytes, err *e); /* waits */
int rt_ticket_begin(rt *r, rt_ticket **out, const void *from, size_t bytes, err *e);
int rt_ticket_wait(rt *r, rt_ticket *t, void *host, err *e); /* frees t, whatever comes of it */
/* Upload by pieces through pinned memory: `fill` writes piece [at, at + n) of the source into a buffer. */
typedef void rt_fill(void *arg, size_t at, size_t n, void *buffer);
int rt_upload(rt *r, void *to, size_t bytes, rt_fill *fill, void *arg, err *e);

/* What is launched between the two is kept and not run. NULL: it could not be kept; the device is well. */
struct rt_recording;
int rt_record_begin(rt *r, err *e);
rt_recording *rt_record_end(rt *r);
int rt_replay(rt *r, rt_recording *x, err *e);
void rt_recording_free(rt *r, rt_recording *x); /* NULL is fine */

int rt_launched(rt *r, err *e); /* did the launches so far start? does not wait */
int rt_sync(rt *r, err *e);

int rt_product(rt *r, const product_op &o, err *e);

#endif
