/* impl.h - inside the engine. Nobody else includes this (but the engine's own tests).
 *
 * engine.c   opening, submitting, results, numbers
 * schedule.c who runs: choosing, giving pages, preempting, planning a step's rows
 * step.c     one step: enqueueing the plan, reading tokens late, ending sequences
 * replay.c   the decoding step as a recording of the device
 * head.c     which columns of the head a step needs
 * pages.c    pages of the cache        stop.c   stop strings
 *
 * One rule makes it simple: a prompt's last token is not prefilled. Prefill computes keys and values of all tokens but
 * the newest; the newest is the input of an ordinary decode step, which samples. So a sequence that starts, one that
 * shares its prompt's pages with others and one that comes back after preemption look alike, and no result depends on
 * which of them it was.
 *
 * At any time at most one sequence is partly prefilled, the next is admitted only when all its rows are planned: so
 * pages named for sharing are always computed by operations enqueued earlier (or by the same call, where every layer
 * writes all keys before it reads any). */
#ifndef LATENT_INFER_IMPL_H
#define LATENT_INFER_IMPL_H

#include "infer/engine.h"
#include "infer/pages.h"

struct stop_scan;

enum {
    MAX_READ_DELAY = 2,
    CHOOSE_WINDOW = 256, /* waiting requests among which the longest is started first */
    STEP_RECORDINGS = 64,
    LONGEST_LEAST = 256, /* positions that a step is made for at least */
    STEP_BLOCKS = SAMPLE_STOP_IDS + 1,
    HEAD_GROUPS = 4, /* sets of columns that a step tells apart; what comes after them gets all columns */
};

/* A submitted prompt; lives until its last sample has finished. */
struct request {
    struct request *next; /* in the list of those with samples not started */
    int refs;             /* samples not finished */
    int32_t *prompt;      /* owned */
    int n_prompt;
    int next_sample, end_sample; /* indices still to be started: next_sample .. end_sample - 1 */
    int limit;                   /* tokens a sample may have: max_new, or what the context has room for */
    bool started;
    struct seq *ready; /* the next sample, made and waiting for room; or NULL */
    uint64_t seed;
    char *source_id; /* owned */
    void *user;
    struct gen_params params; /* strings owned */
};

/* A sample that has started. */
struct seq {
    struct seq *next; /* in the list of those that wait to run again, oldest first */
    struct request *req;
    int sample_index;
    uint64_t order;         /* of starting: the highest is the youngest */
    uint64_t run;           /* number of this stay in a slot: rows of earlier stays are dropped when they are read */
    int slot;               /* -1: not running */
    int32_t *ids;           /* [limit], owned */
    float *logprobs;        /* [limit] or NULL, owned */
    int n;                  /* tokens received */
    int issued;             /* tokens that enqueued steps will have made */
    int cached;             /* positions whose keys and values are computed by what is enqueued */
    int npages;             /* entries of its row of the page table */
    bool long_list;         /* rotated by the long list (longrope) */
    int phase;              /* after the tokens received */
    struct hash128 name;    /* of its last named page */
    int named;              /* pages of the prompt named so far */
    struct stop_scan *scan; /* NULL: no stop strings */
};

/* A result that nobody has fetched. */
struct finished {
    struct finished *next;
    struct gen_result result;
};

/* A step whose tokens have not been read. */
struct pending {
    struct read_ticket *ids, *logprobs;
    int n;
    int *slot;     /* [batch] */
    uint64_t *run; /* [batch] */
};

/* What makes two decoding steps the same list of operations. */
struct step_shape {
    int rows, nblocks, longest;
    struct logit_block block[STEP_BLOCKS]; /* of all rows */
    const struct tensor *counts;
    bool logprobs;
};

struct step_recording {
    struct step_shape shape;
    bool seen; /* it ran once: what it needs of the device is there */
    struct recording *kept;
};

struct engine {
    struct model *model;
    struct device *device;
    const struct model_config *config;
    struct engine_options options;
    bool failed;

    /* device */
    struct kv_cache kv;
    size_t page_bytes;
    int max_pages;                                            /* columns of the page table */
    struct tensor *slots, *page_table, *rope_offset, *counts; /* [batch + 1]: the last is the spare slot of replay.c */
    struct tensor *slot_of;                                   /* decoding rows */
    struct tensor *ids, *table_row, *cache_row;               /* [rows] */
    struct tensor *context, *seq_slot;                        /* [sequences]: decoding rows, then prompts */
    struct tensor *q_begin, *q_begin_decode;                  /* of a mixed step; 0, 1, 2 ... */
    struct tensor *logits, *out_id, *out_logprob;

    /* host's copies and scratch */
    struct pages pages;
    int32_t *table;    /* [batch, max_pages] what page_table holds */
    struct seq **slot; /* [batch] who is there */
    struct seq **live; /* [batch] who is in a slot, oldest first */
    int nlive;
    struct seq *prefilling;                     /* the one whose prompt is partly computed */
    int32_t *rows_id, *rows_table, *rows_cache; /* [prefill_chunk] prompt rows of this step */
    int nrows;
    int32_t *part_slot, *part_context, *part_begin; /* [batch] prompts of this step: slot, positions, first row */
    int nparts;
    int32_t *decode_slot; /* [bucket of batch] decoding slots of this step, those of a head group side by side */
    int ndecode;
    int longest;         /* no sequence of this step is longer */
    int32_t *head_group; /* [batch] of each decoding row, while they are sorted */
    struct logit_block head_block[HEAD_GROUPS * (SAMPLE_STOP_IDS + 1)];
    int nhead_blocks;
    int32_t *sent_slot;     /* [bucket of batch] what slot_of holds */
    int32_t *scratch;       /* [bucket of batch + 1] */
    int32_t *count_scratch; /* [vocab] */
    int32_t *got_id;        /* [batch] */
    float *got_logprob;     /* [batch] */
    struct pending pending[MAX_READ_DELAY + 1];
    int first_pending, npending;

    struct step_recording recording[STEP_RECORDINGS];
    int nrecordings;

    /* queues */
    struct request *waiting, **waiting_end;
    struct seq *again; /* preempted */
    struct finished *finished, **finished_end;
    uint64_t next_order, next_run;
    int nlogprobs;                  /* running samples that want log-probabilities */
    int64_t again_count, unstarted; /* samples */
    struct engine_stats stats;
};

/* ---- schedule.c ---- */

/* Fills decode_slot and the prompt rows: who decodes in this step, which prompt tokens are computed beside. */
int schedule(struct engine *g, struct err *e);

/* The sequence leaves its slot and its pages; what is under way for it is dropped when read. */
void seq_leave(struct engine *g, struct seq *s);
void seq_free(struct seq *s);
void request_drop(struct request *q); /* one sample less; frees after the last */

/* The steps under way for this sequence are forgotten: it goes on from its newest token. */
void seq_rewind(struct engine *g, struct seq *s);

static inline int seq_total(const struct seq *s)
{
    return s->req->n_prompt + s->issued; /* tokens that exist when the next step begins */
}

static inline bool has_penalties(const struct gen_params *p)
{
    return p->presence != 0 || p->frequency != 0 || p->repetition != 1;
}

/* ---- head.c ---- */
void plan_head(struct engine *g);               /* sorts decode_slot, fills head_block */
bool head_is_whole(const struct gen_params *p); /* does it need all columns whatever its phase? */

/* ---- step.c ---- */
int enqueue_step(struct engine *g, struct err *e); /* what schedule() planned */
int read_oldest(struct engine *g, struct err *e);  /* tokens of the oldest step that is not read */
void finish(struct engine *g, struct seq *s, enum gen_finish how, int32_t stop_id);
void drop_pending(struct engine *g); /* frees the tickets */

/* The operations of a step: the first `decode` entries of slot_of decode, beside the prompt rows that were planned. */
void enqueue_operations(struct engine *g, int decode, const struct logit_block *block, int nblocks);

/* ---- replay.c: where the device can record ---- */
int replay_bucket(int n);           /* rows that n decoding rows are padded to */
void replay_step(struct engine *g); /* enqueue_operations of the step that was planned, recorded or not */
void replay_close(struct engine *g);

/* ---- stop.c ---- */
int stop_scan_open(struct stop_scan **out, const struct engine_options *o, const struct gen_params *p, struct err *e);
void stop_scan_close(struct stop_scan *c); /* NULL is fine */

/* Takes the next token. *which: the stop string that is complete now (the one that begins first), or -1. */
int stop_scan_add(struct stop_scan *c, int32_t id, int *which, struct err *e);

/* After a hit: the text before the stop string (yours) and how many tokens begin in it. */
char *stop_scan_text(const struct stop_scan *c, int *tokens);

#endif
