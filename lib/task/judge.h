/* judge.h - one response judged: what it answered and whether that is right, by our rules and by the reference's.
 *
 * The answer is looked for in what the model said behind its thinking. A response that was cut by the length limit is
 * never correct, and one that was cut while it was still thinking has no answer at all. */
#ifndef LATENT_JUDGE_H
#define LATENT_JUDGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "task/prompt.h"
#include "task/think.h"

struct err;
struct judge;

/* One judge serves one thread. */
int judge_open(struct judge **out, struct err *e);
void judge_close(struct judge *j); /* NULL is fine */

struct response {
    const char *benchmark; /* chooses how answers are read: gsm8k, mmlu*, else mathematics */
    const char *gold;
    size_t gold_n;
    enum prompt_format format;
    struct think parts; /* think_split of the response */
    bool truncated;
    bool thinking; /* the prompt had opened a thinking block */
};

struct judgement {
    bool correct;
    bool answered;       /* answer holds something */
    const char *verdict; /* equal, unequal or undecided: of the answer, also where truncation makes it wrong */
    const char *reason;  /* of the verdict (answer.h), or "truncated" */
    struct buf answer;   /* as it stood in the response */
    /* the reference's rules, faults included */
    bool compat_correct, compat_answered;
    struct buf compat_answer;
};

/* Fills *out; its buffers are reused from call to call. */
int judge_response(struct judge *j, const struct response *r, struct judgement *out, struct err *e);
void judgement_release(struct judgement *g);

#endif
