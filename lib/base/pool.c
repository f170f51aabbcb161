/* pool.c - see pool.h. Work is announced by a generation number; pieces are claimed from a shared counter. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"

enum { SPIN_NS = 50000 };

struct pool {
    int threads;
    pthread_t *id;
    int started;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    _Atomic uint32_t generation; /* raised once per pool_run */
    atomic_bool stop;
    /* the running job; written before generation is raised */
    void (*fn)(void *arg, int i, int thread);
    void *arg;
    int n;
    atomic_int next;   /* piece to claim */
    atomic_bool open;  /* the job may be joined: false once the caller finds no piece left */
    atomic_int inside; /* workers that may touch the job */
};

struct worker {
    struct pool *pool;
    int thread;
};

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work_on(struct pool *p, int thread)
{
    int i;
    while ((i = atomic_fetch_add(&p->next, 1)) < p->n)
        p->fn(p->arg, i, thread);
}

/* Spins for a while, then sleeps, until *word differs from old or the pool stops. */
static void wait_for_work(struct pool *p, uint32_t old)
{
    int64_t until = nanoseconds() + SPIN_NS;
    do {
        for (int k = 0; k < 64; k++) {
            if (atomic_load(&p->generation) != old || atomic_load(&p->stop))
                return;
            pause_cpu();
        }
    } while (nanoseconds() < until);
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->generation) == old && !atomic_load(&p->stop))
        pthread_cond_wait(&p->work, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    struct worker w = *(struct worker *)arg;
    free(arg);
    uint32_t seen = 0;
    for (;;) {
        wait_for_work(w.pool, seen);
        if (atomic_load(&w.pool->stop))
            return NULL;
        seen = atomic_load(&w.pool->generation);
        /* Enter, then look whether the job is still open: whoever closes it looks at `inside` afterwards, so either we
         * see it closed or the caller waits for us. A worker that wakes too late holds nobody up. */
        atomic_fetch_add(&w.pool->inside, 1);
        if (atomic_load(&w.pool->open))
            work_on(w.pool, w.thread);
        if (atomic_fetch_sub(&w.pool->inside, 1) == 1) {
            pthread_mutex_lock(&w.pool->lock);
            pthread_cond_signal(&w.pool->done);
            pthread_mutex_unlock(&w.pool->lock);
        }
    }
}

int pool_open(struct pool **out, int threads, struct err *e)
{
    struct pool *p = xcalloc(1, sizeof *p);
    p->threads = threads;
    p->id = xcalloc((size_t)threads, sizeof *p->id);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    for (int t = 1; t < threads; t++) {
        struct worker *w = xmalloc(sizeof *w);
        *w = (struct worker){ p, t };
        int rc = pthread_create(&p->id[t], NULL, worker_main, w);
        if (rc) {
            free(w);
            pool_close(p);
            return err_set(e, "cannot start thread %d of %d: %s", t, threads, strerror(rc));
        }
        p->started++;
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int t = 1; t <= p->started; t++)
        pthread_join(p->id[t], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->id);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p ? p->threads : 1;
}

void pool_run(struct pool *p, int n, void (*fn)(void *arg, int i, int thread), void *arg)
{
    if (!p || p->started == 0 || n <= 1) {
        for (int i = 0; i < n; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    atomic_store(&p->next, 0);
    atomic_store(&p->open, true);
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    work_on(p, 0);
    atomic_store(&p->open, false);
    int64_t until = nanoseconds() + SPIN_NS;
    do {
        for (int k = 0; k < 64; k++) {
            if (atomic_load(&p->inside) == 0)
                return;
            pause_cpu();
        }
    } while (nanoseconds() < until);
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->inside) != 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

int pool_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return 1;
}
