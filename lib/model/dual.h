/* dual.h - models with two vocabularies: visible ids [0, V) answer, latent ids [V, V + L) think.
 *
 *     struct dual *v;
 *     int is = dual_open(&v, dir, &e);                 // 0: an ordinary model, v is NULL
 *     dual_latent(v, 17);                              // the latent id that stands for visible 17, or -1
 *     dual_source(v, id);                              // the visible id a latent one stands for; others as they are
 *     dual_phases(v, eos, n_eos, false, &ph, &e);      // what may be generated: thinking, answering
 *     dual_close(v);
 *
 * A folder is dual when it has dual_vocab_meta.json. Latent ids are arithmetic: nothing here depends on the tokens'
 * texts but for the fillers (ids that pad the tokenizer to the size of the matrix), whose first id is asked of the
 * folder's tokenizer once. Layout and rules: pipelines specification, section 3. A dual is read-only after open. */
#ifndef LATENT_MODEL_DUAL_H
#define LATENT_MODEL_DUAL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

struct buf;
struct err;
struct tokenizer;

/* dual_vocab_meta.json. Texts are NULL where the file says null. */
struct dual_meta {
    char *base_model;
    int32_t base_rows; /* "V_model_orig": rows of the embedding matrix before */
    int32_t visible;   /* "V" */
    int32_t latent;    /* "L" */
    char *mode;        /* full_copy, subset, custom */
    char *latent_format, *filler_format;
    bool has_sources;     /* false: "source_ids" is null (custom) */
    int32_t *source;      /* [latent], or NULL: source_first + i */
    int32_t source_first; /* of a range */
    char *embeddings_file;
    char *think_start, *think_end;
    int32_t think_start_id, think_end_id;
    char *think_init;        /* existing, add, clone_eos */
    int32_t clone_source_id; /* -1: null */
    char *clone_source;
};
void dual_meta_release(struct dual_meta *m);

/* Checks types and sizes (offset V, total V + L, one source for each latent id, sources and think ids visible); all
 * numbers can be trusted afterwards. 1: read, 0: there is no such file, -1. */
int dual_meta_read(struct dual_meta *m, const char *dir, struct err *e);

/* The file's text: the specification's keys in its order, indent 2; sources that follow one another are a range
 * {"first": F, "count": L}. */
void dual_meta_write(const struct dual_meta *m, struct buf *out);

static inline int32_t dual_meta_source(const struct dual_meta *m, int32_t i)
{
    return m->source ? m->source[i] : m->source_first + i;
}

/* ---- ids ---- */

struct dual;

/* 1: *out is the vocabulary of this folder; 0: not a dual model (*out is NULL); -1. The tokenizer may be NULL: it is
 * opened from the folder then. */
int dual_open(struct dual **out, const char *dir, const struct tokenizer *t, struct err *e);
void dual_close(struct dual *v); /* NULL is fine */
const struct dual_meta *dual_meta(const struct dual *v);

bool dual_is_latent(const struct dual *v, int32_t id);
int32_t dual_source(const struct dual *v, int32_t id); /* without a source (custom): the id itself */
int32_t dual_latent(const struct dual *v, int32_t visible);

/* In place: every latent id becomes its source. */
void dual_show(const struct dual *v, int32_t *ids, int64_t n);

/* The rule of training (and of whoever scores what a model was trained on): reasoning is latent. In ids[from .. n) the
 * part before the first think end becomes latent, where it has latent ids; the rest stays. Returns the position of the
 * think end; without one nothing changes and it returns -1. */
int64_t dual_remap(const struct dual *v, int32_t *ids, int64_t from, int64_t n);

/* ---- what may be generated ---- */

/* Fields as in struct sample_slot: phase 0 is thinking, phase 1 answering, flip_id the think end. */
struct dual_phases {
    int32_t lo[2], hi[2];
    int32_t also[2][SAMPLE_STOP_IDS], never[2][SAMPLE_STOP_IDS];
    int32_t flip_id;
};

/* Thinking: latent ids but for the mirrors of think end, stop ids and fillers, and the think end. Answering: visible
 * ids and the stop ids. compat: the reference's set instead: thinking [V, min(2V, total)), the think end and the first
 * stop id. Fails if a foreign folder scatters its fillers so that more than SAMPLE_STOP_IDS ids stand apart. */
int dual_phases(const struct dual *v, const int32_t *eos, int n_eos, bool compat, struct dual_phases *out,
                struct err *e);

/* The phase that generation after this prompt begins in: answering if the last turn has its thinking closed already
 * (a think end with no stop id and no think start behind it). */
int dual_phase(const struct dual *v, const int32_t *prompt, int64_t n, const int32_t *eos, int n_eos);

/* ---- checks ---- */

/* Everything of a dual folder that model_check does not see: meta against config and tokenizer, think tokens, and, with
 * samples > 0, that many latent rows (of embedding and head, evenly spaced) against their sources within tol: fresh
 * models only, training moves them. Lines go to report, facts worth knowing (cosines, differences) to facts, which may
 * be NULL. The number of problems; -1: unreadable. copies (may be NULL): how many of them are about copied rows. */
int dual_check(const char *dir, int samples, double tol, struct buf *report, struct buf *facts, int *copies,
               struct err *e);

#endif
