/* rows.h - what a model is trained on: rows of JSON lines as token ids, each with what it is to predict.
 *
 *     rows_open(&rows, &spec, &e);
 *     while ((got = rec_read(in, &r, &e)) > 0) rows_add(rows, &r, &e);
 *     for (i < rows->n) ... rows->row[i].ids[0 .. n), .target[0 .. n) ...
 *
 * Three kinds of rows, by their keys:
 *     {"messages": [...]}                  a conversation that ends with the assistant's turn, which is what is learnt.
 *         Prefix: all turns but the last, rendered by the checkpoint's chat template with a generation prompt; full:
 *         all turns. Both are tokenized without added specials, and the prefix must be a token prefix of the full text:
 *         otherwise nobody could say which tokens are the answer. The end of the turn is learnt too. One exception: an
 *         empty thinking block behind a prompt that opens it, where both line ends may be one token, is tokenized from
 *         the prompt's end on, as the sampler goes on from there.
 *     {"ids": [...], "labels": [...]}      tokens; a label of -100 is not learnt. Labels are those of the tokens
 *         themselves: decoders predict labels[t + 1] from token t.
 *     {"words": [...], "labels": [...]}    encoders: every word is tokenized alone, between the tokenizer's special
 *         tokens; all its pieces have its label, or only the first one (first_piece).
 *
 * A row longer than max_length is dropped and counted. With cut_middle, the middle of a conversation's reasoning is
 * taken out instead (what lies between prompt and </think>, or in front of the answer's sentence); the answer and the
 * end of the turn are never cut. A row that would train on nothing is refused.
 *
 * For a dual model the reasoning of a conversation, up to its first think end, becomes latent ids, where it has any. A
 * conversation whose thinking does not end is dropped and counted, or visible thinking would be learnt. One whose
 * prompt has closed the thinking already has none, and stays as it is, as rows of tokens do. With latent_only nothing
 * but latent ids is learnt; rows without any are dropped and counted. */
#ifndef LATENT_TRAIN_ROWS_H
#define LATENT_TRAIN_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

struct dual;
struct err;
struct model_config;
struct rec;

struct train_row {
    int32_t *ids, *target; /* [n]; target -1: nothing to predict here */
    int n, targets;        /* how many are not -1 */
    uint64_t question;     /* rows of one question have one number: the eval split keeps them together */
};

struct rows_spec {
    const char *dir; /* whose tokenizer and chat template */
    const struct model_config *config;
    int max_length;
    bool cut_middle, first_piece;
    bool latent_only; /* an error for an ordinary model */
    bool raw;         /* conversations: question, a blank, answer, end of text; no template, no system turn */
};

struct rows {
    struct train_row *row;
    size_t n;
    uint64_t dropped, cut;     /* too long; shortened */
    uint64_t endless, visible; /* dropped: thinking without an end; latent_only: no latent target */
    uint64_t latent, stayed;   /* tokens of thinking: with a latent id, without */
    struct arena memory;
    struct rows_inside *inside;
};

int rows_open(struct rows **out, const struct rows_spec *spec, struct err *e);
/* 1: taken; 0: dropped and counted; -1: refused, e says where and why. */
int rows_add(struct rows *r, const struct rec *rec, struct err *e);
void rows_close(struct rows *r);                    /* NULL is fine */
const struct dual *rows_dual(const struct rows *r); /* NULL: an ordinary model */

/* For people: the row as text, with a mark between what is given and what is learnt. */
struct buf;
int rows_show(struct rows *r, size_t i, size_t limit, struct buf *out, struct err *e);

#endif
