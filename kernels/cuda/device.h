/* device.h - what device.cu and device_train.cu share: the device's structures, shape checks, the first failure. */
#ifndef LATENT_CUDA_DEVICE_H
#define LATENT_CUDA_DEVICE_H

#include "kernels/cuda/rt.h"
extern "C" {
#include "kernels/front.h"
#include "kernels/plugin.h"
}

struct weight {
    void *data; /* bf16, or float on a device opened with f32 */
    int64_t rows, cols;
};

struct room { /* grows with what is asked for */
    void *p;
    size_t bytes;
};

struct cuda {
    struct device d; /* first */
    char name[32], numerics[PLUGIN_CLASS];
    rt *r;
    bool f32;       /* matrices and caches hold float */
    bool any_order; /* of sums of linear */
    bool failed;
    err reason;
    struct room scratch;
    uint64_t frees;        /* of device memory so far: a recording of before may name what is gone */
    bool recording, unfit; /* unfit: what is being recorded cannot be kept */
    int32_t *failure;      /* [2], device: see sample_op */
    struct rounded {
        const float *x; /* NULL: none */
        int64_t n;
        struct room narrow;      /* x rounded; the memory stays for the next */
    } held[HELD_TENSORS], fresh; /* what the last operation, products aside, wrote for them */
};

static inline cuda *of(device *d)
{
    return reinterpret_cast<cuda *>(d);
}

void cuda_note(cuda *c, int rc, const err &why); /* a failure of the machine */
bool cuda_alive(cuda *c);                        /* enters the device; false: it has failed. Nothing is fresh now. */
void cuda_launched(cuda *c);
/* Work space for one operation; NULL: there is none, and the device has failed. */
void *cuda_scratch(cuda *c, size_t bytes);
void *cuda_room(cuda *c, struct room *r, size_t bytes); /* the same of another room */
/* The first n elements of x rounded, where x is held; else NULL. */
const void *cuda_held(const cuda *c, const float *x, int64_t n);
void cuda_free(cuda *c, void *p);
/* NULL when there is no memory. */
weight *cuda_weight_new(cuda *c, int64_t rows, int64_t cols, const char *what, err *e);

/* What a KEPT tensor holds: one of the two is not NULL. */
static inline bf16 *narrow_of(const tensor *t)
{
    return t && t->dtype == DTYPE_BF16 ? static_cast<bf16 *>(t->data) : nullptr;
}
static inline float *wide_of(const tensor *t)
{
    return t && t->dtype == DTYPE_F32 ? static_cast<float *>(t->data) : nullptr;
}

static inline size_t size_of(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_I32 ? 4 : t == DTYPE_U8 || t == DTYPE_F8 ? 1 : 2;
}

static inline size_t product_size(const cuda *c) /* bytes of an element that is multiplied */
{
    return c->f32 ? 4 : 2;
}

/* Attention without a cache as the kernels take it, its shapes checked; and its forward form, lse kept unless NULL. */
attend_op cuda_varlen_op(const attend_varlen_args *a, const char *op);
/* Where the tensor cores take no such heads, what is kept in bf16 is widened: o's qkv, and its out when it is read.
 * Room for both is at the beginning of `room`, of cuda_widened bytes (0: nothing to widen). */
size_t cuda_widened(const attend_op &o);
void cuda_widen(cuda *c, attend_op *o, bool out, void *room);
void cuda_attend_varlen(device *d, const attend_varlen_args *a, float *lse);

/* Fills the table's operations of training (device_train.cu). */
void cuda_train_init(device *d);

#endif
