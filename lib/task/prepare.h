/* prepare.h - compressed samples, samples or questions become rows to train on:
 * {"messages": [{"role", "content"}, ...], "metadata": {...}}, see latent-record(5).
 *
 *     preparer_open(&p, &spec, &e);
 *     for each record: preparer_add(p, &r, &out, &e);     // finished rows are appended to out
 *     preparer_finish(p, &out, &e);
 *
 * tokenskip  records of compress; all ratios of a trace stand together, as compress writes them. One ratio of the pool
 *            is drawn for each trace, by (seed, source_id), from those the trace has; 1 is the original reasoning,
 *            which every record carries. all_ratios: a row for each. A trace that is too long has no row at all.
 * concise    samples: the shortest right one of each question, without repeats (select.h).
 * direct     questions: the gold answer without reasoning.
 * labels     records of compress --labels: their words with the keep flags, for a compressor to learn
 * solution   questions with a worked solution: the solution as the reasoning, then the gold answer, behind the prompt
 *            that collect puts in this format.
 * distill    samples, all of them: the system text of prompt data (sot, cod), the bare question, the reasoning in its
 *            block and the answer in a box. The exemplars that made the samples are left out.
 *
 * Otherwise the question is put as collect puts it in the row's format.
 *
 * compat, concise: the reference's sample files are read; lengths stay below max_tokens, or 2048; rows come in the
 * order of the data set. compat, concise and direct: only xml has a system turn, and no format puts words in front of
 * the question.
 *
 * compat, tokenskip: `original` is the file of samples and the stream has the compressed ones, in any order. Samples
 * draw from random.Random(seed).choice in their order, one draw each, used or not; a drawn ratio that the sample does
 * not have gives no row; the length limit spares ratio 1; what looks like a tag is cut out of the reasoning. */
#ifndef LATENT_TASK_PREPARE_H
#define LATENT_TASK_PREPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "task/prompt.h"

struct buf;
struct err;
struct rec;

enum prepare_method {
    PREPARE_TOKENSKIP,
    PREPARE_CONCISE,
    PREPARE_DIRECT,
    PREPARE_SOLUTION,
    PREPARE_LABELS,
    PREPARE_DISTILL
};

struct prepare_spec {
    enum prepare_method method;
    enum prompt_format format; /* of the assistant's text; tokenskip and xml exclude each other */
    const char *family;        /* "qwen" or "llama3": what stands around the ratio */
    const double *ratio;       /* [nratio] the pool; none: 1 and whatever the trace has */
    size_t nratio;
    bool all_ratios;
    bool label_achieved; /* the condition is the achieved rate (two decimals), not the target */
    int64_t max_tokens;  /* of the original reasoning; -1: none */
    uint64_t seed;
    const char *original;           /* compat, tokenskip */
    const struct prompt_data *data; /* distill */
    bool compat;
};

struct prepare_counts {
    uint64_t in, traces, rows, conditioned, too_long, without; /* without: no ratio of the pool was there */
};

struct preparer;
int preparer_open(struct preparer **out, const struct prepare_spec *spec, struct err *e);
void preparer_close(struct preparer *p); /* NULL is fine */
int preparer_add(struct preparer *p, const struct rec *r, struct buf *out, struct err *e);
int preparer_finish(struct preparer *p, struct buf *out, struct err *e);
const struct prepare_counts *preparer_counts(const struct preparer *p);

#endif
