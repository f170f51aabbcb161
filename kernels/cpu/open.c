/* open.c - which path this machine gets. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/fast.h"

bool cpu_has(enum cpu_isa isa)
{
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == CPU_AVX2)
        return avx2;
    if (isa == CPU_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#endif
    return isa == CPU_ORACLE || isa == CPU_BASE;
}

enum cpu_isa cpu_best(void)
{
    const char *asked = getenv("LATENT_NUMERICS");
    if (asked && !strcmp(asked, "base"))
        return CPU_BASE;
    return cpu_has(CPU_AVX512) ? CPU_AVX512 : cpu_has(CPU_AVX2) ? CPU_AVX2 : CPU_BASE;
}

const char *cpu_numerics(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ORACLE:
        return "cpu-oracle-f64";
    case CPU_BASE:
        return "cpu-base-f32";
    case CPU_AVX2:
    case CPU_AVX512:
        return "cpu-avx2-f32";
    }
    return NULL;
}

int cpu_open(struct device **out, enum cpu_isa isa, int threads, struct err *e)
{
    *out = NULL;
    if (!cpu_has(isa))
        return err_set(e, "this CPU lacks the instructions of the path that was asked for");
    struct cpu *c = xcalloc(1, sizeof *c);
    c->isa = isa;
    c->ops = cpu_oracle_ops;
    if (isa != CPU_ORACLE)
        fast_init(&c->ops);
    c->threads = isa == CPU_ORACLE ? 1 : threads > 0 ? threads : pool_cores();
    c->scratch = xcalloc((size_t)c->threads + 1, sizeof *c->scratch);
    c->d.name = isa == CPU_ORACLE ? "cpu-oracle" : "cpu";
    c->d.numerics = cpu_numerics(isa);
    cpu_memory_init(&c->d);
    cpu_front_init(&c->d);
    cpu_train_init(c);
    if (pool_open(&c->pool, c->threads, e) < 0) {
        c->d.close(&c->d);
        return -1;
    }
    *out = &c->d;
    return 0;
}
