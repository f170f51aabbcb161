/* pool.h - threads that share out numbered pieces of work.
 *
 * Pieces are claimed in order, one at a time; which thread takes which piece is not fixed, so a piece must not depend
 * on another and must write only its own results. Threads are not pinned; a worker without work spins at most 50 us,
 * then sleeps. One caller at a time; the caller works too. */
#ifndef LATENT_POOL_H
#define LATENT_POOL_H

struct pool;
struct err;

/* threads >= 1, the caller included; 1 makes no thread at all. */
int pool_open(struct pool **out, int threads, struct err *e);
void pool_close(struct pool *p); /* NULL is fine */
int pool_threads(const struct pool *p);

/* Calls fn(arg, i, thread) for i in 0..n-1, thread in 0..threads-1, and returns when all are done. p may be NULL:
 * serial. */
void pool_run(struct pool *p, int n, void (*fn)(void *arg, int i, int thread), void *arg);

/* Cores this process may run on, the default of --threads. */
int pool_cores(void);

#endif
