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
