/* gemm_base.c - for machines without AVX2: four floats a vector, which gcc maps to what there is. A product is rounded
 * before it is added, so this is a numerics class of its own. */
#include <string.h>

#include "kernels/cpu/fast.h"

typedef float v4 __attribute__((vector_size(16)));
typedef uint32_t u4 __attribute__((vector_size(16)));

enum { VN = 4, NV_MAX = 4 };
#define V v4
#define V_ZERO ((v4){ 0 })
#define V_LOAD(p) (*(const v4 *)(const void *)(p))
#define V_STORE(p, v) (*(v4 *)(void *)(p) = (v))
#define V_SPLAT(p) ((v4){ *(p), *(p), *(p), *(p) })
#define V_FMA(a, b, c) ((a) * (b) + (c))
#define V_LOW(p) ((v4)(*(const u4 *)(const void *)(p) << 16))
#define V_HIGH(p) ((v4)(*(const u4 *)(const void *)(p)&0xffff0000u))

#include "kernels/cpu/gemm_impl.h"

TILE(1, 1)
TILE(2, 1)

static void widen(float *to, const char *from, int64_t kn)
{
    widen_panel(to, from, kn);
}

const struct gemm_isa gemm_base = {
    .widen = widen,
    .put = put,
    .max_rows = 2,
    .widest = { 0, 0, 0 },
    .f32 = {
        { NULL },
        { f32_1x1 },
        { f32_2x1 },
    },
    .bf16 = {
        { NULL },
        { bf16_1x1 },
        { bf16_2x1 },
    },
};
