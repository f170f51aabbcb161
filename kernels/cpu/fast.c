/* fast.c - the fast path's table. */
#include "kernels/cpu/fast.h"

void fast_init(struct cpu_ops *ops)
{
    ops->linear = fast_linear;
}
