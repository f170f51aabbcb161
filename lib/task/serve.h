/* serve.h - the reward server: the log-probability reward (task/gold.h) over HTTP, on this machine only.
 *
 *     serve_open(&s, &(struct serve_options){ .model = dir, .port = 8009, ... }, &e);   // answers from here on
 *     ... wait for a signal ...
 *     serve_close(s);                                  // finishes what it has, answers 503 to the rest, stops
 *
 *     GET  /health       {"ok":true,"model_dir":"...","device":"cpu"}
 *     POST /score        {"prompt_messages":[{"role":..,"content":..}],"solution_str":..,"ground_truth":..}
 *                        -> {"score":-0.7}
 *     POST /score_batch  {"items":[such objects]} -> {"scores":[...]}
 * prompt_ids and solution_ids, lists of token ids, may stand for prompt_messages and solution_str: latent tokens
 * survive so. Refusals are {"error":"..."} with 400 (the request), 403 (a page of another origin), 404, 405, 413 (too
 * large) or 503 (stopping, or too much waits).
 *
 * One thread talks to all clients, one computes: it takes up to max_concurrency waiting requests at a time and scores
 * them together. A score is the same to the bit whatever it is scored with. A client that needs longer than
 * `seconds` for its request is cut off. Signals are the caller's business: those that shall stop it should be blocked
 * before serve_open, whose threads inherit that. */
#ifndef LATENT_TASK_SERVE_H
#define LATENT_TASK_SERVE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct serve;

struct serve_options {
    const char *name;   /* what /health calls the model; NULL: dir */
    const char *dir;    /* its folder */
    const char *device; /* as in device_open */
    const char *host;   /* "127.0.0.1", any other address of the loopback, or "localhost" */
    int port;           /* 0: any free one */
    int threads;
    int max_concurrency;  /* requests scored together at most */
    int max_tokens, rows; /* as in struct gold_options */
    bool fp8_cache;       /* and this */
    bool batch_dependent; /* and this */
    int64_t body_limit;   /* bytes of a request; 0: 8 MiB */
    double seconds;       /* in which a request must have come; 0: 30 */
};

int serve_open(struct serve **out, const struct serve_options *o, struct err *e);
int serve_port(const struct serve *s);
void serve_close(struct serve *s); /* NULL is fine */

struct serve_stats {
    int64_t requests, items, batches, refused; /* answered with scores, in how many batches; refused with 4xx, 5xx */
    int64_t rows;                              /* tokens that went through the model: what items share counts once */
};
struct serve_stats serve_stats(struct serve *s);

#endif
