/* host.h - CUDA C++ as wrap.cuh needs it, for a host compiler. Included by wrap.cuh only. */
#ifndef LATENT_EMU_HOST_H
#define LATENT_EMU_HOST_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/emu/emu.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline)) /* so that faults name the kernel's line too */
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct int4 {
    int x, y, z, w;
};

namespace emu
{

enum { WARP = 32, MAX_THREADS = 1024, ARG_BYTES = 64 };

struct place {
    const char *file;
    int line;
};

/* What all lanes of one warp operation brought along. */
struct gathered {
    int refs;
    unsigned char arg[WARP][ARG_BYTES];
};

struct running {
    dim3 thread, block, block_dim, grid_dim;
    int lane;
};
extern running *self; /* the running thread */
extern int planted;

void barrier(place at);
void need_aligned(const char *op, const void *p, unsigned bytes);
const gathered *gather(const char *op, unsigned mask, const void *arg, size_t bytes, place at);
void sync_warp(place at);
void *shared_static(const void *key, size_t bytes, const char *name);
void *shared_dynamic();
void copy_async(void *dst, const void *src, int bytes, int valid);
void copy_commit();
void copy_wait(int pending);
void launch(dim3 grid, dim3 block, size_t shared, const char *name, void (*call)(void *), void *closure);

/* What a stream that records keeps instead of running it: a call with its arguments by value. */
struct kept {
    kept *next;
    void (*run)(kept *k);
};
extern kept **recording; /* where the next one is hung; NULL: calls run at once */

template <class F> struct kept_call {
    kept k; /* first */
    F call;
};

template <class F> void enqueue(F call)
{
    static_assert(__is_trivially_copyable(F), "kept as bytes");
    if (!recording) {
        call();
        return;
    }
    void (*run)(kept *) = [](kept *k) { reinterpret_cast<kept_call<F> *>(k)->call(); };
    kept_call<F> *k = static_cast<kept_call<F> *>(malloc(sizeof *k));
    if (!k)
        abort();
    memcpy(static_cast<void *>(&k->call), &call, sizeof call);
    k->k = kept{ nullptr, run };
    *recording = &k->k;
    recording = &k->k.next;
}

template <class F> void launch_body(dim3 grid, dim3 block, size_t shared, const char *name, F body)
{
    enqueue([=]() mutable {
        launch(
            grid, block, shared, name, [](void *f) { (*static_cast<F *>(f))(); }, &body);
    });
}

template <class T> T lane_value(const gathered *g, int lane)
{
    T v;
    memcpy(&v, g->arg[lane], sizeof v);
    return v;
}

} // namespace emu

#define threadIdx (emu::self->thread)
#define blockIdx (emu::self->block)
#define blockDim (emu::self->block_dim)
#define gridDim (emu::self->grid_dim)
#define EMU_HERE emu::place at = { __builtin_FILE(), __builtin_LINE() }

typedef int stream_t; /* everything runs at once, in order */

#define LAUNCH(kernel, grid, block, shared, stream, ...)                                                               \
    ((void)(stream), emu::launch_body(grid, block, shared, #kernel, [=] { (kernel)(__VA_ARGS__); }))
#define ALLOW_SHARED(kernel, bytes) ((void)(bytes))
#define SHARED(type, name, count)                                                                                      \
    static char name##_key;                                                                                            \
    type *name = static_cast<type *>(emu::shared_static(&name##_key, sizeof(type) * (count), #name))
#define SHARED_DYNAMIC(name) unsigned char *name = static_cast<unsigned char *>(emu::shared_dynamic())
#define PLANTED(fault) (emu::planted == (fault))

template <class T> inline T atomicAdd(T *p, T v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline int atomicCAS(int *p, int expected, int v)
{
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
#endif
