/* cpu.h - what the files of the CPU device share. Nothing outside kernels/ and its tests includes this.
 *
 * Calls come in through front.c, which checks every shape once and then calls one table of operations: the oracle's
 * (oracle.c) or the fast path's (fast.c). Operations finish before they return, which "enqueue only" allows. */
#ifndef LATENT_CPU_H
#define LATENT_CPU_H

#include "base/err.h"
#include "base/pool.h"
#include "kernels/front.h"
#include "kernels/slot.h"

enum cpu_isa {
    CPU_ORACLE, /* naive, double sums */
    CPU_BASE,   /* portable C, multiply then add: class cpu-base-f32 */
    CPU_AVX2,   /* fused multiply-add: class cpu-avx2-f32 */
    CPU_AVX512, /* wider GEMM tiles, the same chains and the same bits: class cpu-avx2-f32 */
};

enum { PANEL = 16, MAX_PARTS = 8 };

/* The packed form is made at the first multiplication: 16 output columns lie side by side, k after k, so that one
 * multiplication reads memory in order. bf16 keeps its two bytes: words of (k, k + 1) pairs. */
struct weight {
    struct weight_part part[MAX_PARTS];
    int nparts;
    int64_t rows, cols;
    char *what;
    void *packed; /* NULL: not yet */
    bool packed_bf16;
    size_t panel_bytes; /* from one panel to the next */
    /* training: a weight whose values changed is packed again, in place; `across` is its transpose, packed */
    bool stale, stale_across;
    struct weight *across;
};

/* Memory that a thread reuses from call to call; it only grows. */
struct scratch {
    void *p;
    size_t bytes;
};

struct read_ticket {
    struct read_ticket *next; /* free ones */
    void *bytes;
    size_t cap, n;
};

struct cpu;

/* One row per operation of struct device, same arguments, shapes checked. */
struct cpu_ops {
    void (*embed)(struct cpu *c, struct tensor *y, const struct weight *table, const struct tensor *ids, int rows,
                  bool add);
    void (*linear)(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, const struct tensor *bias,
                   int rows, bool add);
    void (*linear_block)(struct cpu *c, struct tensor *y, const struct tensor *x, struct weight *w, int row, int rows,
                         int col, int cols);
    void (*rmsnorm)(struct cpu *c, float *y, const float *x, const float *g, float eps, int rows, int cols);
    void (*layernorm)(struct cpu *c, float *y, const float *x, const float *g, const float *b, float eps, int rows,
                      int cols);
    void (*add)(struct cpu *c, float *y, const float *x, int64_t n);
    void (*silu_mul)(struct cpu *c, float *y, const float *gate_up, int rows, int cols);
    void (*gelu)(struct cpu *c, float *y, const float *x, int64_t n);
    void (*gather_rows)(struct cpu *c, float *y, const float *x, const int32_t *index, int n, int cols);
    void (*rope)(struct cpu *c, const struct rope_args *a);
    void (*attend)(struct cpu *c, const struct attend_args *a);
    void (*attend_varlen)(struct cpu *c, const struct attend_varlen_args *a);
    void (*logprobs)(struct cpu *c, float *logprob, float *entropy, int32_t *best, const float *logits,
                     const int32_t *target, int n, int vocab);
    void (*sample)(struct cpu *c, const struct sample_args *a);
};

struct train_ops;

struct cpu {
    struct device d; /* first: a struct device * of ours is a struct cpu * */
    struct cpu_ops ops;
    const struct train_ops *train; /* train.h */
    enum cpu_isa isa;
    struct pool *pool;
    int threads;
    struct scratch *scratch; /* [threads + 1]: the last is for lists that all threads read */
    struct read_ticket *tickets;
    bool failed;       /* sticky */
    struct err reason; /* of the first failure */
};

extern const struct cpu_ops cpu_oracle_ops;

/* Opens one particular path; tests compare them. The CPU must have what isa asks for. */
int cpu_open(struct device **out, enum cpu_isa isa, int threads, struct err *e);
bool cpu_has(enum cpu_isa isa);
enum cpu_isa cpu_best(void); /* LATENT_NUMERICS=base asks for the base path */
const char *cpu_numerics(enum cpu_isa isa);

void cpu_memory_init(struct device *d); /* memory.c: tensors, weights, reading, closing */
void cpu_front_init(struct device *d);  /* front.c: the operations */
void cpu_train_init(struct cpu *c);     /* train.c: those of training */

/* The first failure is kept; the next waiting call reports it. */
void cpu_fail(struct cpu *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* At least n bytes that live until the thread's next call; NULL (and the device has failed) when memory is short. */
void *cpu_scratch(struct cpu *c, int thread, size_t n, const char *what);

/* Row r of the stacked parts as floats. */
void weight_row(const struct weight *w, int64_t r, float *out);
void weight_row_part(const struct weight *w, int64_t r, int64_t first, int64_t n, float *out);
void floats_from(float *out, const void *host, enum dtype t, int64_t n);

/* Packs w if it is not packed yet; false when the device failed. */
bool weight_pack(struct cpu *c, struct weight *w);

#endif
