/* plugin_test.c - finding latent_cuda.so: each way of not having a device has its own sentence. */
#include "unit/test.h"

#include <dlfcn.h>

#include "kernels/plugin.h"

static const char *plugin_file(void)
{
    static char path[4096];
    const char *build = getenv("BUILD");
    snprintf(path, sizeof path, "%s/cuda/latent_cuda.so", build ? build : "build");
    return access(path, R_OK) == 0 ? path : NULL;
}

static void expect_sentence(const char *name, const char *part)
{
    struct err e = { "" };
    struct device *d = (struct device *)&e;
    assert_int_equal(device_open(&d, name, 0, &e), -1);
    assert_null(d);
    if (!strstr(e.msg, part))
        fail_msg("opening %s says '%s', which has no '%s'", name, e.msg, part);
}

static void test_absent(void **state)
{
    (void)state;
    char file[4200];
    unsetenv("LATENT_CUDA");
    expect_sentence("cuda:x", "expected cuda:N");
    expect_sentence("cuda:", "expected cuda:N");
    expect_sentence("cuda:0", "there is no CUDA plugin");
    expect_sentence("cuda", "lib/latent/latent_cuda.so");
    setenv("LATENT_CUDA", "/nowhere/x.so", 1);
    expect_sentence("cuda:0", "no CUDA plugin /nowhere/x.so (from LATENT_CUDA)");
    setenv("LATENT_CUDA", test_tmpdir(), 1);
    expect_sentence("cuda:0", "latent_cuda.so (from LATENT_CUDA)");
    snprintf(file, sizeof file, "%s/latent_cuda.so", test_tmpdir());
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs("not a library\n", f);
    fclose(f);
    expect_sentence("cuda:0", "cannot be loaded");
    unsetenv("LATENT_CUDA");
    assert_string_equal(device_numerics("cuda:1023"), "cuda-none-bf16"); /* so many are nowhere */
    setenv("LATENT_NUMERICS", "f32", 1);
    assert_string_equal(device_numerics("cuda:1023"), "cuda-none-f32");
    expect_sentence("cuda:0", "there is no CUDA plugin");
    expect_sentence("cpu", "only 'base' can be asked for with device cpu");
    setenv("LATENT_NUMERICS", "base", 1);
    expect_sentence("cuda:0", "only 'f32' can be asked for with device cuda:0");
    unsetenv("LATENT_NUMERICS");
}

/* On a machine without a GPU this is all of the plugin that can run: it loads, compares builds and refuses. */
static void test_present(void **state)
{
    (void)state;
    struct err e = { "" };
    struct device *d = NULL;
    const char *file = plugin_file();
    if (!file) {
        printf("# skip: latent_cuda.so was not built: no nvcc, or a build with sanitizers\n");
        skip();
    }
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        printf("# skip: latent_cuda.so does not load here: %s\n", dlerror());
        skip();
    }
    latent_device_open_fn *open_device;
    void *symbol = dlsym(library, LATENT_DEVICE_OPEN_NAME);
    assert_non_null(symbol);
    memcpy(&open_device, &symbol, sizeof symbol);
    assert_int_equal(open_device(LATENT_DEVICE_ABI + 1, LATENT_BUILD_ID, 0, false, &d, &e), -1);
    assert_non_null(strstr(e.msg, "another build"));
    assert_int_equal(open_device(LATENT_DEVICE_ABI, "0.0.0-1", 0, false, &d, &e), -1);
    assert_non_null(strstr(e.msg, "the program has 3, 0.0.0-1"));
    setenv("LATENT_CUDA", file, 1);
    if (device_open(&d, "cuda:0", 0, &e) == 0)
        device_close(d);
    else if (!strstr(e.msg, "no NVIDIA driver") && !strstr(e.msg, "finds no CUDA device") &&
             !strstr(e.msg, "driver is for"))
        fail_msg("without a device the plugin says: %s", e.msg);
    unsetenv("LATENT_CUDA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_present),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
