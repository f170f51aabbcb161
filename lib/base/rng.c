/* rng.c - see rng.h. */
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void philox(uint32_t ctr[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * ctr[0], b = (uint64_t)0xCD9E8D57u * ctr[2];
        uint32_t c1 = ctr[1], c3 = ctr[3];
        ctr[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        ctr[1] = (uint32_t)b;
        ctr[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        ctr[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* FNV-1a, then two finishing rounds: ids that differ in one character must differ in many bits. */
static uint64_t hash_id(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

struct rng rng_stream(uint64_t seed, const char *source_id, size_t n, uint32_t sample_index)
{
    uint64_t id = hash_id(source_id, n);
    uint32_t mix[4] = { (uint32_t)id, (uint32_t)(id >> 32), sample_index, 0x6c61746eu };
    philox(mix, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (struct rng){ { mix[0], mix[1] }, { mix[2], mix[3] } };
}

void rng_block(const struct rng *r, uint64_t position, uint32_t out[4])
{
    uint32_t ctr[4] = { (uint32_t)position, (uint32_t)(position >> 32), r->stream[0], r->stream[1] };
    philox(ctr, r->key[0], r->key[1]);
    memcpy(out, ctr, sizeof ctr);
}

uint32_t rng_u32(const struct rng *r, uint64_t position)
{
    uint32_t b[4];
    rng_block(r, position, b);
    return b[0];
}

static double unit(uint32_t hi, uint32_t lo)
{
    return (double)((uint64_t)(hi >> 5) << 26 | lo >> 6) * 0x1p-53;
}

double rng_unit(const struct rng *r, uint64_t position)
{
    uint32_t b[4];
    rng_block(r, position, b);
    return unit(b[0], b[1]);
}

uint32_t rng_below(const struct rng *r, uint64_t position, uint32_t n)
{
    uint32_t b[4];
    rng_block(r, position, b);
    uint64_t wide = (uint64_t)b[0] << 32 | b[1]; /* 64 bits scaled to n: the bias is below n / 2^64 */
    return (uint32_t)(((unsigned __int128)wide * n) >> 64);
}

double rng_normal(const struct rng *r, uint64_t position)
{
    uint32_t b[4];
    rng_block(r, position, b);
    double u = 1.0 - unit(b[0], b[1]), v = unit(b[2], b[3]);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* ---- CPython ---- */

static void mt_seed(struct rng_python *r, uint32_t s)
{
    r->mt[0] = s;
    for (uint32_t i = 1; i < 624; i++)
        r->mt[i] = 1812433253u * (r->mt[i - 1] ^ r->mt[i - 1] >> 30) + i;
    r->at = 624;
}

void rng_python_seed(struct rng_python *r, uint64_t seed)
{
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t len = key[1] ? 2 : 1, i = 1, j = 0;
    mt_seed(r, 19650218u);
    for (int k = 624; k > 0; k--) {
        r->mt[i] = (r->mt[i] ^ (r->mt[i - 1] ^ r->mt[i - 1] >> 30) * 1664525u) + key[j] + j;
        if (++i >= 624) {
            r->mt[0] = r->mt[623];
            i = 1;
        }
        j = (j + 1) % len;
    }
    for (int k = 623; k > 0; k--) {
        r->mt[i] = (r->mt[i] ^ (r->mt[i - 1] ^ r->mt[i - 1] >> 30) * 1566083941u) - i;
        if (++i >= 624) {
            r->mt[0] = r->mt[623];
            i = 1;
        }
    }
    r->mt[0] = 0x80000000u;
}

uint32_t rng_python_u32(struct rng_python *r)
{
    if (r->at >= 624) {
        for (int k = 0; k < 624; k++) {
            uint32_t y = (r->mt[k] & 0x80000000u) | (r->mt[(k + 1) % 624] & 0x7fffffffu);
            r->mt[k] = r->mt[(k + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        r->at = 0;
    }
    uint32_t y = r->mt[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

uint32_t rng_python_below(struct rng_python *r, uint32_t n)
{
    int bits = 32 - __builtin_clz(n);
    uint32_t v;
    do
        v = rng_python_u32(r) >> (32 - bits);
    while (v >= n);
    return v;
}

/* random.sample switches between a pool and a set of taken indices by size; both consume the same kind of draws but not
 * the same ones, so both are here. */
void rng_python_sample(struct rng_python *r, uint32_t n, uint32_t k, uint32_t *out)
{
    uint64_t setsize = 21;
    if (k > 5) {
        double p = ceil(log((double)k * 3) / log(4.0));
        setsize += (uint64_t)pow(4.0, p);
    }
    if (n <= setsize) {
        uint32_t *pool = xreallocarray(NULL, n ? n : 1, sizeof *pool);
        for (uint32_t i = 0; i < n; i++)
            pool[i] = i;
        for (uint32_t i = 0; i < k; i++) {
            uint32_t j = rng_python_below(r, n - i);
            out[i] = pool[j];
            pool[j] = pool[n - i - 1];
        }
        free(pool);
        return;
    }
    unsigned char *taken = xcalloc((n + 7) / 8, 1);
    for (uint32_t i = 0; i < k; i++) {
        uint32_t j;
        do
            j = rng_python_below(r, n);
        while (taken[j / 8] >> (j % 8) & 1);
        taken[j / 8] |= (unsigned char)(1u << (j % 8));
        out[i] = j;
    }
    free(taken);
}

void rng_python_shuffle(struct rng_python *r, uint32_t n, uint32_t *items)
{
    for (uint32_t i = n; i-- > 1;) {
        uint32_t j = rng_python_below(r, i + 1), t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}
