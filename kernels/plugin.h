/* plugin.h - how the program finds latent_cuda.so, and what the two must agree on.
 *
 * The plugin is searched in $LATENT_CUDA (a file, or a folder that holds it), then in EXE/../lib/latent and
 * EXE/../../lib/latent, EXE being the folder of the running program. It has one symbol; abi and build id must be equal
 * on both sides, because struct device and struct sample_slot are shared as they lie in memory. The build id is a
 * checksum of the headers that say so. */
#ifndef LATENT_PLUGIN_H
#define LATENT_PLUGIN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/kernels.h"

enum { LATENT_DEVICE_ABI = 3 };

#ifndef LATENT_BUILD_ID
#define LATENT_BUILD_ID "unknown"
#endif

/* Opens device `index` of the machine. f32: matrices and caches hold float, else bf16. On a mismatch: -1, with a
 * sentence that names both sides. */
typedef int latent_device_open_fn(uint32_t abi, const char *build_id, int index, bool f32, struct device **out,
                                  struct err *e);
#define LATENT_DEVICE_OPEN_NAME "latent_device_open"

/* "cuda" or "cuda:N". */
int plugin_open(struct device **out, const char *name, bool f32, struct err *e);

/* The numerics class, "cuda-sm90-bf16": chips of two compute capabilities may add in two orders. "cuda-none-bf16": the
 * emulation's, and that of a device that the driver does not know. */
enum { PLUGIN_CLASS = 32 };
static inline const char *plugin_class(char text[PLUGIN_CLASS], int chip /* 90 for 9.0; 0: none */, bool f32)
{
    char name[16] = "none";
    if (chip > 0)
        snprintf(name, sizeof name, "sm%d", chip);
    snprintf(text, PLUGIN_CLASS, "cuda-%s-%s", name, f32 ? "f32" : "bf16");
    return text;
}

/* That of "cuda:N", which is not opened for it; the text stands until the next call. */
const char *plugin_numerics(const char *name, bool f32);

#endif
