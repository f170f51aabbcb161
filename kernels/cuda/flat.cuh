/* flat.cuh - kernels that go over elements: a block takes a piece of a list, a thread EACH elements of the piece.
 *
 * Such kernels are bound by memory, and a thread with one small read under way at a time does not keep it busy: in a
 * full piece all of a thread's reads come first. Hence two functions: what is read of element i, and what is written
 * of that. The lists do not overlap, or element i is read and written in one place. */
#ifndef LATENT_FLAT_CUH
#define LATENT_FLAT_CUH

#include "kernels/cuda/wrap.cuh"

enum { FLAT_THREADS = 256, EACH = 4, FLAT_PIECE = EACH * FLAT_THREADS };

struct two {
    float a, b;
};

/* N neighbours, read and written at once: they lie at a multiple of N, and at most 16 bytes count. */
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) several {
    T v[N];
};

static __device__ __forceinline__ float as_float(float x)
{
    return x;
}
static __device__ __forceinline__ float as_float(bf16 x)
{
    return float_of_bf16(x);
}
static __device__ __forceinline__ void store(float *to, float x)
{
    *to = x;
}
static __device__ __forceinline__ void store(bf16 *to, float x)
{
    *to = bf16_of_float(x);
}

/* N neighbours as floats. */
template <int N, class T> static __device__ __forceinline__ void read_several(float *v, const T *from)
{
    several<T, N> x = *reinterpret_cast<const several<T, N> *>(from);
    UNROLL
    for (int j = 0; j < N; j++)
        v[j] = as_float(x.v[j]);
}
template <int N, class T> static __device__ __forceinline__ void write_several(T *to, const float *v)
{
    several<T, N> x;
    UNROLL
    for (int j = 0; j < N; j++)
        store(&x.v[j], v[j]);
    *reinterpret_cast<several<T, N> *>(to) = x;
}

static inline unsigned flat_pieces(int64_t n)
{
    return static_cast<unsigned>((n + FLAT_PIECE - 1) / FLAT_PIECE);
}

template <class R, class W>
static __device__ __forceinline__ void each_of_piece(unsigned piece, int64_t n, R read, W write)
{
    int64_t first = static_cast<int64_t>(piece) * FLAT_PIECE + threadIdx.x;
    if (first - threadIdx.x + FLAT_PIECE > n) {
        for (int64_t i = first; i < n; i += FLAT_THREADS)
            write(i, read(i));
        return;
    }
    decltype(read(first)) v[EACH];
    UNROLL
    for (int j = 0; j < EACH; j++)
        v[j] = read(first + j * FLAT_THREADS);
    UNROLL
    for (int j = 0; j < EACH; j++)
        write(first + j * FLAT_THREADS, v[j]);
}

#endif
