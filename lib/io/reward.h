/* reward.h - asking the reward server (latent score --serve) how likely a model finds the gold answer.
 *
 *     reward_open(&r, NULL, &e);                       // $SCORER_URL, else http://127.0.0.1:8009
 *     struct reward_query q = { .messages = "[{\"role\": \"user\", \"content\": \"1+1?\"}]",
 *                               .solution = text, .solution_n = n, .gold = "2", .gold_n = 1 };
 *     reward_score(r, &q, 1, &score, &e);              // several: one request, scored together
 *     reward_close(r);
 *
 * $SCORER_TIMEOUT is how many seconds a request may take (120). There is no second try: the caller knows what to do
 * without an answer (rl specification, section 6). One thread uses a client; its connection is kept open. */
#ifndef LATENT_REWARD_H
#define LATENT_REWARD_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct json;

/* One thing to be scored, as client and server see it. */
struct reward_query {
    const char *messages; /* JSON array of {"role", "content"}; NULL: prompt_ids instead */
    const int32_t *prompt_ids;
    int n_prompt_ids;
    const char *solution; /* UTF-8; NULL: solution_ids instead, so that latent tokens survive */
    size_t solution_n;
    const int32_t *solution_ids;
    int n_solution_ids;
    const char *gold;
    size_t gold_n;
};

/* As a JSON object: prompt_messages or prompt_ids, solution_str or solution_ids, ground_truth. */
void reward_query_write(const struct reward_query *q, struct buf *out);

struct reward_client;
int reward_open(struct reward_client **out, const char *url, struct err *e);
void reward_close(struct reward_client *r); /* NULL is fine */

/* 0 when the server is there and says it is well. */
int reward_health(struct reward_client *r, struct err *e);

/* score[i] of q[i]. -1: no answer in time, or the server's refusal, in its words. */
int reward_score(struct reward_client *r, const struct reward_query *q, int n, double *score /* [n] */, struct err *e);

#endif
