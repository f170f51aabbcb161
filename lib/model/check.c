/* check.c - model_check: everything that can be said about a folder without running it. */
#include "model/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/parts.h"
#include "text/tokenizer.h"

/* ---- values ---- */

struct values {
    uint64_t nan, inf, first; /* first: index of the first bad one */
};

/* exponent all ones: infinity if the fraction is 0, else NaN */
static void count_16(struct values *v, const char *p, uint64_t n, unsigned exponent, unsigned fraction)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        if (__builtin_expect((h & exponent) != exponent, 1))
            continue;
        if (v->nan + v->inf == 0)
            v->first = i;
        if (h & fraction)
            v->nan++;
        else
            v->inf++;
    }
}

static void count_32(struct values *v, const char *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, p + 4 * i, 4);
        if (__builtin_expect((u & 0x7f800000) != 0x7f800000, 1))
            continue;
        if (v->nan + v->inf == 0)
            v->first = i;
        if (u & 0x7fffff)
            v->nan++;
        else
            v->inf++;
    }
}

int check_values(const struct st_tensor *t, struct buf *report)
{
    struct values v = { 0, 0, 0 };
    if (t->dtype == ST_F32)
        count_32(&v, t->data, t->elements);
    else if (t->dtype == ST_BF16)
        count_16(&v, t->data, t->elements, 0x7f80, 0x7f);
    else if (t->dtype == ST_F16)
        count_16(&v, t->data, t->elements, 0x7c00, 0x3ff);
    if (v.nan + v.inf == 0)
        return 0;
    buf_printf(report,
               "tensor %s holds %" PRIu64 " NaN and %" PRIu64 " infinite values, the first at element %" PRIu64 "\n",
               t->name, v.nan, v.inf, v.first);
    return 1;
}

/* ---- ids ---- */

static int check_ids(const struct model_config *c, struct buf *report)
{
    int n = 0;
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] >= c->vocab) {
            buf_printf(report, "stop id %d is outside the vocabulary of %d\n", c->eos[i], c->vocab);
            n++;
        }
    if (c->bos >= c->vocab) {
        buf_printf(report, "bos_token_id %d is outside the vocabulary of %d\n", c->bos, c->vocab);
        n++;
    }
    return n;
}

/* ---- tokenizer ---- */

/* Every id that the tokenizer can produce has an embedding row, and the stop ids are tokens. (The matrix may have more
 * rows than there are tokens: they round its size up.) */
static int check_tokenizer(const char *dir, const struct model_config *c, struct buf *report)
{
    struct tokenizer *t;
    struct err e = { "" };
    struct buf text = BUF_INIT;
    int n = 0;
    if (tokenizer_open(&t, dir, &e) < 0) {
        buf_printf(report, "%s\n", e.msg);
        return 1;
    }
    if (tokenizer_size(t) > c->vocab) {
        buf_printf(report, "the tokenizer has ids up to %d, the embedding matrix %d rows\n", tokenizer_size(t) - 1,
                   c->vocab);
        n++;
    }
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] < c->vocab && !tokenizer_token(t, c->eos[i], &text)) {
            buf_printf(report, "stop id %d is no token of the tokenizer\n", c->eos[i]);
            n++;
        }
    buf_release(&text);
    tokenizer_close(t);
    return n;
}

int model_check(const char *dir, struct buf *report, struct err *e)
{
    struct model m = { 0 };
    struct plan p = { NULL, 0, 0 };
    int n = -1;
    if (model_config_read(&m.c, dir, e) < 0)
        return -1;
    if (safetensors_open_dir(&m.st, dir, e) == 0) {
        m.layer = xcalloc((size_t)m.c.layers, sizeof *m.layer);
        plan_make(&p, &m);
        n = plan_match(&p, &m, report);
        for (size_t i = 0; safetensors_note(m.st, i); i++, n++)
            buf_printf(report, "%s\n", safetensors_note(m.st, i));
        for (size_t i = 0; i < safetensors_count(m.st); i++)
            n += check_values(safetensors_at(m.st, i), report);
        n += check_ids(&m.c, report);
        n += check_tokenizer(dir, &m.c, report);
        plan_release(&p);
        free(m.layer);
    }
    safetensors_close(m.st);
    model_config_release(&m.c);
    return n;
}
