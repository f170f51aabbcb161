/* Any bytes as a safetensors file: opened or refused with a sentence, and every byte of every tensor can be read. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    char path[64];
    struct err e = { "" };
    struct safetensors *st;
    volatile unsigned sum = 0;
    if (fd < 0 || (n && write(fd, data, n) != (ssize_t)n))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (safetensors_open(&st, path, &e) < 0) {
        if (!e.msg[0])
            abort();
        close(fd);
        return 0;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        const unsigned char *p = t->data;
        char text[ST_SHAPE_TEXT];
        for (uint64_t k = 0; k < t->bytes; k++)
            sum += p[k];
        if (safetensors_find(st, t->name) != t || st_shape_text(t, text) != text)
            abort();
        total += t->bytes;
    }
    if (total > n)
        abort();
    safetensors_close(st);
    close(fd);
    return 0;
}
