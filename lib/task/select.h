/* select.h - which samples go on: filters, the shortest per question, the best by score, exemplars.
 *
 *     selector_open(&s, &spec, &e);
 *     for each record: selector_add(s, &r, &out, &e);     // lines that are certain by now are appended to out
 *     selector_finish(s, &out, &e);
 *
 * The steps, in this order: correct, lengths, dedup; then at most one of shortest, top and exemplars. A record's length
 * is its reasoning_token_count, else compressed_reasoning_token_count, else response_token_count; its text likewise.
 * With whole it is response_token_count and response_text, as in the paper on self-training. Its question is
 * question_source_id, else source_id without its last "_s" and what follows. Groups are of one question and one
 * compression_ratio (records without a ratio have one of their own).
 *
 * Ties: the earlier record wins, always. Lines come out in input order. Kept lines are copied byte for byte.
 *
 * compat, as the reference does it:
 *   - records with `samples`, its files of one object a question, are read as the flat samples they stand for
 *     (select_flatten); nested writes them;
 *   - repeats are dropped before anything else is looked at: a wrong sample hides a right one of the same reasoning;
 *   - `shortest` gives questions in the order they were first seen, shortest first;
 *   - exemplars go by reward, 1 - length / max_tokens and never below 0: a length that reaches max_tokens is dropped,
 *     and without max_tokens all lengths from SELECT_REWARD_TOKENS on are equal. */
#ifndef LATENT_TASK_SELECT_H
#define LATENT_TASK_SELECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct rec;

enum { SELECT_REWARD_TOKENS = 2048 };

struct select_spec {
    bool correct;              /* only is_correct */
    int64_t min_tokens;        /* -1: none */
    int64_t max_tokens;        /* -1: none; inclusive, but compat exemplars drop a count that reaches it */
    bool dedup;                /* of equal reasoning in one group, the first only */
    int64_t shortest;          /* so many per group; 0: all */
    double top;                /* this share of a group's scored records; 0: all */
    int64_t min_per_group;     /* top keeps at least so many */
    const char *by;            /* key of the score */
    const char *const *scores; /* [nscores] files of score rows; a record may also carry the key itself */
    size_t nscores;
    int64_t exemplars; /* so many, the shortest right ones, one a question; 0: no exemplars */
    bool whole;        /* lengths and texts of the whole response, not of its reasoning */
    bool nested;       /* compat: one object a question, its samples inside, without repeats */
    bool compat;
};

struct select_counts {
    uint64_t in, out, wrong, too_short, too_long, repeated, unscored;
};

struct selector;
int selector_open(struct selector **out, const struct select_spec *spec, struct err *e);
void selector_close(struct selector *s); /* NULL is fine */
int selector_add(struct selector *s, const struct rec *r, struct buf *out, struct err *e);
int selector_finish(struct selector *s, struct buf *out, struct err *e);
const struct select_counts *selector_counts(const struct selector *s);

/* How many of n scored records `top` keeps: min(n, max(least, round(n * top))), round half to even as in Python. */
int64_t select_top_count(int64_t n, double top, int64_t least);

/* The samples of a record with `samples`, one a line, as collect writes them; what the reference's file does not say is
 * null. 1, 0: it has no samples, and is flat already; -1. */
int select_flatten(const struct rec *r, struct buf *out, struct err *e);

/* Length of the bare question id inside source_id[0..n): up to its last "_s". */
size_t select_question_id(const char *source_id, size_t n);

#endif
