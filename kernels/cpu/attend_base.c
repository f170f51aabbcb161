/* attend_base.c - attention for other machines. */
#include "kernels/cpu/fast.h"
#include "kernels/cpu/vec.h"

enum { W = 8, DOT_ROWS = 1, DOT_KEYS = 4, TURN_ROWS = 3, TURN_COLS = 2, TURN_PAYS = 8, MIX_ROWS = 4, MIX_COLS = 4 };
#define A v8
#define A_LOAD(p) load8(p)
#define A_STORE(p, a) store8(p, a)
#define A_SPLAT(x) splat(x)
#define A_FMA(a, b, c) fma8(a, b, c)
#define A_EXP(x) exp8(x)
#define A_LOAD_SOME(p, n) load_some(p, n, 0)

INLINE v8 fold(const v8 a[2])
{
    return a[0] + a[1];
}

INLINE v8 top(const v8 a[2])
{
    return max8(a[0], a[1]);
}

#include "kernels/cpu/attend_impl.h"

const struct attend_isa attend_base = { attend_block, attend_token, attend_finish, attend_block_back };
