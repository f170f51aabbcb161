/* rng.h - random numbers that depend on what they are for, never on when they are drawn.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a function from
 * (key, counter) to 128 random bits. Ours is keyed by what the design promises: seed, record and sample in the key and
 * the upper counter, position in the lower one, so a token's draw is the same whatever batch, thread or shard it lands
 * in. */
#ifndef LATENT_RNG_H
#define LATENT_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    uint32_t key[2];
    uint32_t stream[2]; /* counter words 2 and 3 */
};

/* One stream per (seed, source_id, sample_index). source_id is the record's id, n bytes. */
struct rng rng_stream(uint64_t seed, const char *source_id, size_t n, uint32_t sample_index);

void rng_block(const struct rng *r, uint64_t position, uint32_t out[4]); /* 128 bits at this position */
uint32_t rng_u32(const struct rng *r, uint64_t position);
double rng_unit(const struct rng *r, uint64_t position);                /* 53 bits, 0 <= x < 1 */
uint32_t rng_below(const struct rng *r, uint64_t position, uint32_t n); /* 0..n-1 without bias (n >= 1) */
double rng_normal(const struct rng *r, uint64_t position);              /* mean 0, deviation 1 (Box-Muller) */

/* CPython's random.Random(seed): MT19937 with init_by_array, for --compat and data splits that must match the
 * reference. */
struct rng_python {
    uint32_t mt[624];
    int at;
};
void rng_python_seed(struct rng_python *r, uint64_t seed);
uint32_t rng_python_u32(struct rng_python *r);
uint32_t rng_python_below(struct rng_python *r, uint32_t n);                         /* _randbelow: choice() index */
void rng_python_sample(struct rng_python *r, uint32_t n, uint32_t k, uint32_t *out); /* sample(range(n), k) */
void rng_python_shuffle(struct rng_python *r, uint32_t n, uint32_t *items);

#endif
