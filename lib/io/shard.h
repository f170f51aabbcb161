/* shard.h - a contiguous part of the work: --shard k/n, k from 0 as in file names (_shard00of04).
 *
 * Shards cut at question borders, so that the outputs of shards 0 .. n-1, one behind the other, are the bytes of the
 * unsharded run. */
#ifndef LATENT_SHARD_H
#define LATENT_SHARD_H

#include <stdint.h>

struct err;

struct shard {
    uint64_t k, n; /* n = 1: everything */
};

int shard_parse(struct shard *s, const char *text /* NULL: everything */, struct err *e);

/* Items from..to-1 of total belong to this shard. */
void shard_range(const struct shard *s, uint64_t total, uint64_t *from, uint64_t *to);

#endif
