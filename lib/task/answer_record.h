/* answer_record.h - one record graded: which of its keys are gold and answer, and what is written back.
 *
 * In: gold (or gold_answer), and pred, or solution, or response_text. Out: the same object, byte for byte in its place,
 * with equal, extracted, reason, gold_form and pred_form; equal_compat with compat. A sample (gold_answer and
 * response_text) also gets is_correct, which is false whenever finish_reason is "length". */
#ifndef LATENT_TASK_ANSWER_RECORD_H
#define LATENT_TASK_ANSWER_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "task/answer.h"

struct buf;
struct err;
struct rec;
struct tokenizer;

struct answer_record_options {
    int task;                          /* enum answer_task, or -1: what the record's benchmark says, else mathematics */
    bool compat;                       /* equal_compat: the reference's verdict */
    bool fill;                         /* missing sample keys are derived from response_text */
    const char *benchmark;             /* fill: for records without one; may be NULL */
    const struct tokenizer *tokenizer; /* fill: counts the tokens; may be NULL, then there are no counts */
};

struct answer_counts {
    int64_t records, equal, unequal, undecided, no_answer, truncated, equal_compat;
};

/* Scratch of one thread. */
struct answer_grader;
int answer_grader_open(struct answer_grader **out, struct err *e);
void answer_grader_close(struct answer_grader *g); /* NULL is fine */
/* Gives back what FLINT keeps for the calling thread. The last grader that a thread uses must be flushed by it. */
void answer_grader_flush(struct answer_grader *g);

/* Appends the graded line to out and adds to counts. -1: a key is missing or of the wrong type (e names the place). */
int answer_record_grade(struct answer_grader *g, const struct answer_record_options *o, const struct rec *r,
                        struct buf *out, struct answer_counts *counts, struct err *e);

#endif
