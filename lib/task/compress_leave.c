/* compress_leave.c - words left out: a word matters as much as what depends on it becomes less likely without it.
 *
 * The text stands where the model would write it: behind its question, before its answer (task/scoring.h renders both).
 * Each word is taken out in turn, and the rest is scored again. What depends on a word are the numbers and the
 * mathematics behind it, the answer among them: not the answer alone, which does not need an early result once it has
 * been restated, and not the prose, which says how people talk. The word's score is the log-probability they lose. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "model/model.h"
#include "model/score.h"
#include "task/compress_private.h"
#include "task/scoring.h"

struct leaver {
    struct scoring *scoring;
    struct scorer *scorer; /* borrowed */
    struct lingua_scratch *scratch;
    struct lingua_spans spans;
    struct score_row whole, *part; /* [cap] without one word each */
    struct score_seq *seq;
    uint8_t *keep, *counts; /* counts: does a token of the whole depend on others */
    float *lp;
    size_t cap, tokens_cap, lp_cap;
    struct buf line, text;
};

int leaver_open(struct leaver **out, const char *dir, struct model *m, struct scorer *s, struct err *e)
{
    struct leaver *v = xcalloc(1, sizeof *v);
    struct scoring_spec spec = { .dir = dir,
                                 .format = PROMPT_TOKENSKIP,
                                 .delimiter = "",
                                 .max_tokens = (int)model_config(m)->max_positions,
                                 .vocab = (int)model_config(m)->vocab };
    v->scorer = s;
    v->scratch = lingua_scratch_new();
    v->whole = (struct score_row)SCORE_ROW_INIT;
    *out = NULL;
    if (scoring_open(&v->scoring, &spec, e) < 0) {
        leaver_close(v);
        return -1;
    }
    *out = v;
    return 0;
}

void leaver_close(struct leaver *v)
{
    if (!v)
        return;
    for (size_t i = 0; i < v->cap; i++)
        score_row_release(&v->part[i]);
    score_row_release(&v->whole);
    free(v->part);
    free(v->seq);
    free(v->keep);
    free(v->counts);
    free(v->lp);
    free(v->spans.v);
    buf_release(&v->line);
    buf_release(&v->text);
    lingua_scratch_free(v->scratch);
    scoring_close(v->scoring);
    free(v);
}

/* The sample with another reasoning, as tokens. */
static int put_row(struct leaver *v, const struct compress_job *j, const char *reasoning, size_t n,
                   struct score_row *row, struct err *e)
{
    static const char *const copied[] = { "benchmark", "question", "answer", "gold_answer" };
    struct json x;
    struct rec r;
    buf_reset(&v->line);
    rec_begin(&v->line);
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        if (rec_get(j->sample, copied[i], &x))
            rec_put(&v->line, copied[i], x);
    rec_put_text(&v->line, "reasoning", reasoning, n);
    rec_end(&v->line);
    if (rec_parse(&r, v->line.s, v->line.len - 1, j->label.s, e) < 0)
        return -1;
    int rc = scoring_prepare(v->scoring, &r, row, e);
    rec_release(&r);
    return rc < 0 ? -1 : row->reason[0] ? err_set(e, "%s: %s", j->label.s, row->reason) : 0;
}

static void room_for(struct leaver *v, size_t words)
{
    if (words <= v->cap)
        return;
    v->part = xreallocarray(v->part, words, sizeof *v->part);
    v->seq = xreallocarray(v->seq, words + 1, sizeof *v->seq);
    v->keep = xreallocarray(v->keep, words, 1);
    for (; v->cap < words; v->cap++)
        v->part[v->cap] = (struct score_row)SCORE_ROW_INIT;
}

/* Which tokens of the completion are of numbers or mathematics. */
static void mark_counting(struct leaver *v)
{
    const struct score_row *w = &v->whole;
    size_t from = w->region[REGION_COMPLETION].begin, at = 0, k = 0; /* characters */
    if (w->tok.n > v->tokens_cap) {
        v->tokens_cap = w->tok.n + w->tok.n / 2;
        v->counts = xreallocarray(v->counts, v->tokens_cap, 1);
    }
    lingua_spans(w->text.s, w->text.len, &v->spans);
    for (size_t i = 0, byte = 0; i < v->spans.n; i++) { /* bytes become characters */
        uint32_t *edge[] = { &v->spans.v[i].b, &v->spans.v[i].e };
        for (int x = 0; x < 2; x++) {
            for (; byte < *edge[x]; byte++)
                at += ((unsigned char)w->text.s[byte] & 0xc0) != 0x80;
            *edge[x] = (uint32_t)at;
        }
    }
    for (size_t t = 0; t < w->tok.n; t++) {
        while (k < v->spans.n && v->spans.v[k].e <= w->tok.begin[t])
            k++;
        v->counts[t] = k < v->spans.n && v->spans.v[k].b < w->tok.end[t] && w->tok.begin[t] >= from;
    }
}

/* Tokens at the end that two rows have in common. */
static int common_end(const struct tokens *a, const struct tokens *b)
{
    size_t n = 0;
    while (n + 1 < a->n && n + 1 < b->n && a->id[a->n - 1 - n] == b->id[b->n - 1 - n])
        n++;
    return (int)n;
}

/* All rows through the model: the whole from its completion on, the others behind their gap. */
static int score_rows(struct leaver *v, size_t words, uint64_t *rows, struct err *e)
{
    size_t at = 0, need = v->whole.tok.n * (words + 1);
    if (need > v->lp_cap) {
        v->lp_cap = need + need / 2;
        v->lp = xreallocarray(v->lp, v->lp_cap, sizeof *v->lp);
    }
    for (size_t i = 0; i <= words; i++) {
        const struct score_row *r = i < words ? &v->part[i] : &v->whole;
        int n = (int)r->tok.n, first = i < words ? n - common_end(&v->whole.tok, &r->tok) : 1;
        v->seq[i] = (struct score_seq){ r->tok.id, n, first, v->lp + at, NULL };
        at += (size_t)(n - first);
        *rows += (uint64_t)n;
    }
    return scorer_run(v->scorer, v->seq, (int)words + 1, e);
}

static double lost(const struct leaver *v, const struct score_seq *whole, const struct score_seq *part)
{
    double sum = 0;
    for (int k = 1; k <= part->n - part->first; k++)
        if (v->counts[whole->n - k])
            sum += (double)whole->logprob[whole->n - 1 - k] - (double)part->logprob[part->n - part->first - k];
    return sum;
}

int leaver_run(struct leaver *v, const struct lingua *l, struct compress_job *j, uint64_t *rows, struct err *e)
{
    struct lingua_words *w = &j->words;
    uint64_t pieces;
    if (lingua_merge(l, v->scratch, &j->pieces, w, e) < 0 ||
        put_row(v, j, j->text.s ? j->text.s : "", j->text.len, &v->whole, e) < 0)
        return -1;
    room_for(v, w->n + 1);
    mark_counting(v);
    memset(v->keep, 1, w->n);
    for (size_t i = 0; i < w->n; i++) {
        buf_reset(&v->text);
        v->keep[i] = 0;
        lingua_assemble(w, v->keep, &pieces, &v->text);
        v->keep[i] = 1;
        if (put_row(v, j, v->text.s ? v->text.s : "", v->text.len, &v->part[i], e) < 0)
            return -1;
    }
    if (score_rows(v, w->n, rows, e) < 0)
        return -1;
    for (size_t i = 0, k = 0; i < w->n; i++) {
        double x = lost(v, &v->seq[w->n], &v->seq[i]);
        for (; k < j->pieces.n && j->pieces.piece[k].b < w->word[i].e; k++)
            j->pieces.piece[k].p = (float)x;
    }
    return 0;
}
