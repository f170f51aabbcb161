/* wrap.cuh - everything a kernel may say that is PTX or a warp intrinsic. Kernels include this and nothing of CUDA.
 *
 * Compiled by nvcc each is inline PTX or the intrinsic; compiled as host C++ the emulation (emu/) stands behind the
 * same names. Both compile without contraction (-fmad=false, -ffp-contract=off): where a multiply and an add are one
 * rounding, the kernels say fmaf. bf16 is two bytes with our own conversions, round to nearest even on both sides.
 * Words of two bf16 hold the lower index in the lower half.
 *
 * Fragment layouts: PTX ISA 8.x, "Matrix Fragments for mma.m16n8k16 with floating point type" (.bf16) and "ldmatrix".
 * With g = lane / 4 and t = lane % 4:
 *   A (16 x 16): a[0] row g, columns 2t 2t+1; a[1] row g+8; a[2] row g, columns 2t+8 2t+9; a[3] row g+8, the same
 * columns B (16 x 8):  b[0] rows 2t 2t+1, column g; b[1] rows 2t+8 2t+9, column g C (16 x 8):  c[0] c[1] row g, columns
 * 2t 2t+1; c[2] c[3] row g+8 ldmatrix: matrix i takes its eight 16-byte rows from lanes 8i .. 8i+7; register i of a
 * lane is row g, columns 2t 2t+1 of it (.trans: rows 2t 2t+1 of column g) The emulation proves the layouts written
 * here, not the chip's: tests/bench/device.sh runs the same tests on the chip. */
#ifndef LATENT_WRAP_CUH
#define LATENT_WRAP_CUH

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_runtime.h>
typedef cudaStream_t stream_t;
#define LAUNCH(kernel, grid, block, shared, stream, ...) (kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
/* A kernel that takes more than 48 KiB of dynamic shared memory must be told; cheap, so said before each launch. */
#define ALLOW_SHARED(kernel, bytes)                                                                                    \
    ((void)cudaFuncSetAttribute((kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)))
/* How many blocks of a kernel the chip holds at a time. */
#define RESIDENT_BLOCKS(kernel, threads, shared) resident_blocks((kernel), (threads), (shared))
template <class K> static inline int resident_blocks(K *kernel, int threads, size_t shared)
{
    int device = 0, multiprocessors = 1, each = 1;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    (void)cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared);
    return multiprocessors * each;
}
#define SHARED(type, name, count) __shared__ type name[count]
#define SHARED_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]
#define PLANTED(fault) false
#define UNROLL _Pragma("unroll")
#else
#include "kernels/cuda/emu/host.h"
#define RESIDENT_BLOCKS(kernel, threads, shared) 5
#define UNROLL
#endif

enum { WARP_LANES = 32 };

struct bf16 {
    uint16_t bits;
};
struct alignas(8) pair_of_floats { /* read and written at once */
    float a, b;
};
struct f8 { /* e4m3: bias 7, no infinity, NaN is 0x7f, the largest number is 448 */
    uint8_t bits;
};

/* ---- conversions: to nearest, ties to even, on both sides ---- */

static __device__ __forceinline__ float float_of_bf16(bf16 h)
{
    return __uint_as_float(static_cast<uint32_t>(h.bits) << 16);
}

#ifdef __CUDACC__ /* one instruction; the same bits, but for a NaN's */
static __device__ __forceinline__ bf16 bf16_of_float(float f)
{
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    return bf16{ bits };
}

static __device__ __forceinline__ uint32_t bf16_pair(float lower, float upper)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
}
#else
static inline bf16 bf16_of_float(float f)
{
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) /* NaN stays NaN */
        return bf16{ static_cast<uint16_t>(u >> 16 | 0x40) };
    return bf16{ static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16) };
}

static inline uint32_t bf16_pair(float lower, float upper)
{
    return bf16_of_float(lower).bits | static_cast<uint32_t>(bf16_of_float(upper).bits) << 16;
}
#endif

static __device__ __forceinline__ float float_of_f8(f8 x) /* exact; so is its bf16 */
{
    uint32_t sign = static_cast<uint32_t>(x.bits & 0x80) << 24, e = x.bits >> 3 & 15, m = x.bits & 7;
    if ((x.bits & 0x7f) == 0x7f)
        return __uint_as_float(sign | 0x7fc00000u);
    if (e == 0)
        return __uint_as_float(sign | __float_as_uint(static_cast<float>(m) * 0.001953125f));
    return __uint_as_float(sign | (e + 120) << 23 | m << 20);
}

/* Two numbers, in the lower bytes of the halves, as two bf16. Their bits are moved to where bf16 has them, which leaves
 * an exponent 120 too low, and so multiplied by 2^120. Exact, but NaN comes out as 480: see f8_nans. */
static __device__ __forceinline__ uint32_t bf16_pair_of_f8(uint32_t halves)
{
    uint32_t low = (halves & 0x00800080u) << 8 | (halves & 0x007f007fu) << 4;
#ifdef __CUDACC__
    uint32_t pair;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(low), "r"(0x7b807b80u), "r"(0x80008000u)); /* - 0 */
    return pair;
#else
    return bf16_pair(float_of_bf16(bf16{ static_cast<uint16_t>(low) }) * 0x1p120f,
                     float_of_bf16(bf16{ static_cast<uint16_t>(low >> 16) }) * 0x1p120f);
#endif
}

/* The highest bit of each of four numbers that is NaN. */
static __device__ __forceinline__ uint32_t f8_nans(uint32_t four)
{
    return ((four & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
}

static __device__ __forceinline__ f8 f8_of_float(float f)
{
    uint32_t u = __float_as_uint(f), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) /* NaN stays NaN */
        return f8{ static_cast<uint8_t>(sign | 0x7f) };
    if (a > 0x43e00000u) /* 448 */
        return f8{ static_cast<uint8_t>(sign | 0x7e) };
    if (a < 0x3c800000u) /* below 2^-6: so many times 2^-9; the sum rounds */
        return f8{ static_cast<uint8_t>(sign | (__float_as_uint(__uint_as_float(a) * 512 + 8388608.0f) & 15)) };
    return f8{ static_cast<uint8_t>(sign | (((a + 0x7ffffu + (a >> 20 & 1)) >> 20) - (120 << 3))) };
}

#ifdef __CUDACC__

/* ---- the device ---- */

#define SYNC_BLOCK() __syncthreads()
static const unsigned ALL_LANES = 0xffffffffu;

static __device__ __forceinline__ void sync_warp()
{
    __syncwarp();
}
template <class T> static __device__ __forceinline__ T shuffle_xor(T v, int with)
{
    return __shfl_xor_sync(ALL_LANES, v, with);
}
template <class T> static __device__ __forceinline__ T shuffle_from(T v, int lane)
{
    return __shfl_sync(ALL_LANES, v, lane);
}
static __device__ __forceinline__ unsigned vote(bool yes)
{
    return __ballot_sync(ALL_LANES, yes);
}
static __device__ __forceinline__ int count_bits(unsigned x)
{
    return __popc(x);
}
static __device__ __forceinline__ int first_bit(unsigned x) /* x is not 0 */
{
    return __ffs(static_cast<int>(x)) - 1;
}
/* 2^x, to 2^-22 of itself; 2^0 is 1, 2^-inf is 0, and so is what lies below all normal numbers */
static __device__ __forceinline__ float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
/* 16 bytes from global to shared memory; when not `valid` the target is filled with zeros and src is not read. */
static __device__ __forceinline__ void copy16_async(void *dst, const void *src, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most `pending` of this thread's newest groups are under way. */
template <int pending> static __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
static __device__ __forceinline__ void ldmatrix4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

/* ---- the host ---- */

#define SYNC_BLOCK() emu::barrier(emu::place{ __FILE__, __LINE__ })
static const unsigned ALL_LANES = 0xffffffffu;

static inline void sync_warp(EMU_HERE)
{
    emu::sync_warp(at);
}
template <class T> static inline T shuffle_xor(T v, int with, EMU_HERE)
{
    int lane = emu::self->lane;
    return emu::lane_value<T>(emu::gather("shuffle", ALL_LANES, &v, sizeof v, at), lane ^ with);
}
template <class T> static inline T shuffle_from(T v, int lane, EMU_HERE)
{
    return emu::lane_value<T>(emu::gather("shuffle", ALL_LANES, &v, sizeof v, at), lane & 31);
}
static inline unsigned vote(bool yes, EMU_HERE)
{
    const emu::gathered *g = emu::gather("vote", ALL_LANES, &yes, sizeof yes, at);
    unsigned bits = 0;
    for (int i = 0; i < emu::WARP; i++)
        bits |= static_cast<unsigned>(emu::lane_value<bool>(g, i)) << i;
    return bits;
}
static inline int count_bits(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int first_bit(unsigned x)
{
    return __builtin_ctz(x);
}
static inline float power_of_2(float x)
{
    return exp2f(x);
}
static inline void copy16_async(void *dst, const void *src, bool valid)
{
    emu::copy_async(dst, src, 16, valid ? 16 : 0);
}
static inline void copy_async_commit()
{
    emu::copy_commit();
}
template <int pending> static inline void copy_async_wait()
{
    emu::copy_wait(pending);
}
static inline const unsigned char *ldmatrix_row(const emu::gathered *g, int matrix, int row)
{
    return emu::lane_value<const unsigned char *>(g, 8 * matrix + row);
}
static inline void ldmatrix4(uint32_t r[4], const void *row, EMU_HERE)
{
    emu::need_aligned("ldmatrix", row, 16);
    const emu::gathered *all = emu::gather("ldmatrix", ALL_LANES, &row, sizeof row, at);
    int g = emu::self->lane / 4, t = emu::self->lane % 4;
    for (int i = 0; i < 4; i++)
        memcpy(&r[i], ldmatrix_row(all, i, g) + 4 * t, 4);
}
static inline void ldmatrix4_trans(uint32_t r[4], const void *row, EMU_HERE)
{
    emu::need_aligned("ldmatrix", row, 16);
    const emu::gathered *all = emu::gather("ldmatrix.trans", ALL_LANES, &row, sizeof row, at);
    int g = emu::self->lane / 4, t = emu::self->lane % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t lower, upper;
        memcpy(&lower, ldmatrix_row(all, i, 2 * t) + 2 * g, 2);
        memcpy(&upper, ldmatrix_row(all, i, 2 * t + 1) + 2 * g, 2);
        r[i] = lower | static_cast<uint32_t>(upper) << 16;
    }
}

struct mma_argument {
    uint32_t a[4], b[2];
};

static inline float mma_half(uint32_t word, int upper)
{
    return float_of_bf16(bf16{ static_cast<uint16_t>(upper ? word >> 16 : word) });
}

static inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1, EMU_HERE)
{
    mma_argument mine = { { a[0], a[1], a[2], a[3] }, { b0, b1 } };
    const emu::gathered *all = emu::gather("mma", ALL_LANES, &mine, sizeof mine, at);
    mma_argument lane[32];
    for (int i = 0; i < 32; i++)
        lane[i] = emu::lane_value<mma_argument>(all, i);
    int g = emu::self->lane / 4, t = emu::self->lane % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, col = 2 * t + i % 2;
        float sum = c[i]; /* the chip's order of the sixteen products is not documented: no bits are compared with it */
        for (int k = 0; k < 16; k++) {
            const mma_argument *from_a = &lane[row % 8 * 4 + k % 8 / 2], *from_b = &lane[col * 4 + k % 8 / 2];
            sum += mma_half(from_a->a[row / 8 + k / 8 * 2], k % 2) * mma_half(from_b->b[k / 8], k % 2);
        }
        c[i] = sum;
    }
}

#endif

/* ---- sums over a warp and a block: fixed order ---- */

static __device__ __forceinline__ int lane_id()
{
    return static_cast<int>(threadIdx.x % WARP_LANES);
}

static __device__ __forceinline__ int warp_id()
{
    return static_cast<int>(threadIdx.x / WARP_LANES);
}

template <class T> static __device__ __forceinline__ T warp_sum(T v)
{
    for (int i = WARP_LANES / 2; i > 0; i /= 2) {
        if (PLANTED(PLANT_SHUFFLE) && i == 1 && lane_id() >= 16)
            break;
        v += shuffle_xor(v, i);
    }
    return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
    for (int i = WARP_LANES / 2; i > 0; i /= 2)
        v = fmaxf(v, shuffle_xor(v, i));
    return v;
}

static __device__ __forceinline__ int warp_min(int v)
{
    for (int i = WARP_LANES / 2; i > 0; i /= 2) {
        int other = shuffle_xor(v, i);
        v = other < v ? other : v;
    }
    return v;
}

/* The block's sum, in every thread. sums: shared memory of one T a warp; may be used again at once. */
template <class T> static __device__ __forceinline__ T block_sum(T v, T *sums)
{
    int warps = static_cast<int>(blockDim.x / WARP_LANES);
    v = warp_sum(v);
    if (!PLANTED(PLANT_REUSED_SUMS))
        SYNC_BLOCK(); /* whoever read an earlier sum has it */
    if (lane_id() == 0)
        sums[warp_id()] = v;
    if (!PLANTED(PLANT_NO_BARRIER))
        SYNC_BLOCK();
    return warp_sum(lane_id() < warps ? sums[lane_id()] : T(0));
}

static __device__ __forceinline__ float block_max(float v, float *most)
{
    int warps = static_cast<int>(blockDim.x / WARP_LANES);
    v = warp_max(v);
    SYNC_BLOCK();
    if (lane_id() == 0)
        most[warp_id()] = v;
    SYNC_BLOCK();
    return warp_max(lane_id() < warps + PLANTED(PLANT_PAST_THE_SUMS) ? most[lane_id()] : -INFINITY);
}

static __device__ __forceinline__ int block_min(int v, int *least)
{
    int warps = static_cast<int>(blockDim.x / WARP_LANES);
    v = warp_min(v);
    SYNC_BLOCK();
    if (lane_id() == 0)
        least[warp_id()] = v;
    SYNC_BLOCK();
    return warp_min(lane_id() < warps ? least[lane_id()] : 0x7fffffff);
}

#endif
