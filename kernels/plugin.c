/* plugin.c - see plugin.h. The library stays loaded until the program ends: CUDA does not like to be unloaded. */
#include "kernels/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

enum { PATH_BYTES = 4096 };
static const char file_name[] = "latent_cuda.so";

/* $LATENT_CUDA as it is, or as a folder. It was asked for, so its absence is an error and nothing else is tried. */
static bool asked_path(char path[PATH_BYTES])
{
    const char *asked = getenv("LATENT_CUDA");
    struct stat st;
    if (!asked || !*asked)
        return false;
    bool folder = stat(asked, &st) == 0 && S_ISDIR(st.st_mode);
    snprintf(path, PATH_BYTES, folder ? "%s/%s" : "%.0s%s", asked, folder ? file_name : asked);
    return true;
}

/* Programs lie in PREFIX/bin, stages in PREFIX/libexec/latent. */
static bool installed_path(char path[PATH_BYTES])
{
    static const char *const ways[] = { "/../lib/latent", "/../../lib/latent" };
    ssize_t n = readlink("/proc/self/exe", path, PATH_BYTES - 64);
    if (n <= 0)
        return false;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return false;
    for (int i = 1; i >= 0; i--) { /* the first way is what stays, and what a sentence names, when there is neither */
        snprintf(slash, (size_t)(path + PATH_BYTES - slash), "%s/%s", ways[i], file_name);
        if (access(path, R_OK) == 0)
            break;
    }
    return true;
}

static int index_of(const char *name, int *index, struct err *e)
{
    *index = 0;
    if (!strcmp(name, "cuda"))
        return 0;
    char *end;
    long n = strncmp(name, "cuda:", 5) == 0 && name[5] >= '0' && name[5] <= '9' ? strtol(name + 5, &end, 10) : -1;
    if (n < 0 || n > 1023 || *end)
        return err_set(e, "device %s: expected cuda:N with N from 0", name);
    *index = (int)n;
    return 0;
}

/* 90 for compute capability 9.0; 0: nobody knows. The driver says it without a context. */
static int chip_of(int index)
{
    enum { MAJOR = 75, MINOR = 76 }; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_* */
    static const char *const names[] = { "cuInit", "cuDeviceGet", "cuDeviceGetAttribute" };
    int (*init)(unsigned), (*get)(int *, int), (*attribute)(int *, int, int), device, major, minor;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *symbol[3] = { NULL };
    for (int i = 0; i < 3 && library; i++)
        symbol[i] = dlsym(library, names[i]);
    if (!symbol[0] || !symbol[1] || !symbol[2])
        return 0;
    memcpy(&init, &symbol[0], sizeof init); /* as below */
    memcpy(&get, &symbol[1], sizeof get);
    memcpy(&attribute, &symbol[2], sizeof attribute);
    if (init(0) != 0 || get(&device, index) != 0 || attribute(&major, MAJOR, device) != 0 ||
        attribute(&minor, MINOR, device) != 0)
        return 0;
    return 10 * major + minor;
}

const char *plugin_numerics(const char *name, bool f32)
{
    static char text[PLUGIN_CLASS];
    int index;
    struct err ignore;
    return plugin_class(text, index_of(name, &index, &ignore) == 0 ? chip_of(index) : 0, f32);
}

int plugin_open(struct device **out, const char *name, bool f32, struct err *e)
{
    char path[PATH_BYTES];
    int index;
    *out = NULL;
    if (index_of(name, &index, e) < 0)
        return -1;
    bool asked = asked_path(path);
    if (!asked && !installed_path(path))
        return err_set(e, "device %s: this program does not know where it lies, so set LATENT_CUDA to %s", name,
                       file_name);
    if (access(path, R_OK) != 0)
        return err_set(e, "device %s: there is no CUDA plugin %s%s", name, path,
                       asked ? " (from LATENT_CUDA)" : "; build it where nvcc is, or set LATENT_CUDA");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return err_set(e, "device %s: the CUDA plugin cannot be loaded: %s", name, dlerror());
    latent_device_open_fn *open_device;
    void *symbol = dlsym(library, LATENT_DEVICE_OPEN_NAME);
    if (!symbol)
        return err_set(e, "device %s: %s is not a plugin of latent: it has no %s", name, path, LATENT_DEVICE_OPEN_NAME);
    memcpy(&open_device, &symbol, sizeof symbol); /* ISO C has no cast from void * to a function */
    if (open_device(LATENT_DEVICE_ABI, LATENT_BUILD_ID, index, f32, out, e) < 0)
        return err_prefix(e, "%s", path);
    return 0;
}
