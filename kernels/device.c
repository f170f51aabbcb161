/* device.c - finds a device by its name. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "kernels/cpu/cpu.h"
#include "kernels/plugin.h"

size_t dtype_size(enum dtype t)
{
    switch (t) {
    case DTYPE_F32:
    case DTYPE_I32:
        return 4;
    case DTYPE_BF16:
    case DTYPE_F16:
        return 2;
    case DTYPE_U8:
    case DTYPE_F8:
        return 1;
    }
    return 0;
}

static bool is_cuda(const char *name)
{
    return strncmp(name, "cuda", 4) == 0 && (!name[4] || name[4] == ':');
}

int device_open(struct device **out, const char *name, int threads, struct err *e)
{
    *out = NULL;
    if (!strcmp(name, "cpu-oracle"))
        return cpu_open(out, CPU_ORACLE, threads, e);
    const char *asked = getenv("LATENT_NUMERICS"), *choice = is_cuda(name) ? "f32" : "base";
    if (asked && strcmp(asked, choice) != 0)
        return err_set(e, "LATENT_NUMERICS is '%s': only '%s' can be asked for with device %s", asked, choice, name);
    if (!strcmp(name, "cpu") || !strcmp(name, "auto")) /* auto: until the plugin has proved itself on a device */
        return cpu_open(out, cpu_best(), threads, e);
    if (is_cuda(name))
        return plugin_open(out, name, asked != NULL, e);
    return err_set(e, "unknown device '%s': expected auto, cpu, cpu-oracle or cuda:N", name);
}

int device_use_fp8_cache(struct device *d, struct err *e)
{
    if (d->kv_dtype == DTYPE_F32)
        return err_set(e, "device %s (%s) keeps keys and values as float: an FP8 cache needs a CUDA device in bf16",
                       d->name, d->numerics);
    d->kv_dtype = DTYPE_F8;
    return 0;
}

int device_use_any_order(struct device *d, struct err *e)
{
    if (!d->any_order)
        return err_set(e,
                       "device %s (%s) adds in one order, whatever the batch: products that depend on it need a CUDA "
                       "device",
                       d->name, d->numerics);
    d->any_order(d, true);
    return 0;
}

void device_close(struct device *d)
{
    if (d)
        d->close(d);
}

const char *device_numerics(const char *name)
{
    if (!strcmp(name, "cpu-oracle"))
        return cpu_numerics(CPU_ORACLE);
    if (is_cuda(name))
        return plugin_numerics(name, getenv("LATENT_NUMERICS") != NULL);
    return cpu_numerics(cpu_best());
}
