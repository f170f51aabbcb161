/* random.cuh - rng_block and rng_unit of lib/base/rng.c, on the device: the same bits. */
#ifndef LATENT_CUDA_RANDOM_CUH
#define LATENT_CUDA_RANDOM_CUH

#include "kernels/cuda/wrap.cuh"

static __device__ __forceinline__ void random_at(uint32_t c[4], uint32_t k0, uint32_t k1, uint32_t stream0,
                                                 uint32_t stream1, uint64_t position)
{
    c[0] = static_cast<uint32_t>(position);
    c[1] = static_cast<uint32_t>(position >> 32);
    c[2] = stream0;
    c[3] = stream1;
    for (int round = 0; round < 10; round++) {
        uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c[0], b = static_cast<uint64_t>(0xCD9E8D57u) * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
        c[1] = static_cast<uint32_t>(b);
        c[2] = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
        c[3] = static_cast<uint32_t>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static __device__ __forceinline__ double unit_at(uint32_t k0, uint32_t k1, uint32_t stream0, uint32_t stream1,
                                                 uint64_t position)
{
    uint32_t c[4];
    random_at(c, k0, k1, stream0, stream1, position);
    uint64_t bits = static_cast<uint64_t>(c[0] >> 5) << 26 | c[1] >> 6;
    return static_cast<double>(bits) * (1.0 / 9007199254740992.0);
}

#endif
