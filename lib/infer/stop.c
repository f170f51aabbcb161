/* stop.c - stop strings: they may begin inside a token and span several, so they are looked for in the text. */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "infer/impl.h"
#include "text/tokenizer.h"

struct stop_scan {
    struct tok_stream *stream; /* owned */
    struct buf text;           /* all that is certain so far */
    size_t *at;                /* [n] bytes of text before each token */
    size_t n, cap;
    const struct gen_params *params; /* borrowed from the request */
    const int32_t *shown_as;         /* borrowed from the engine's caller; NULL: ids as they are */
    size_t longest;                  /* bytes of the longest stop string */
    size_t cut;                      /* after a hit: where it begins */
};

int stop_scan_open(struct stop_scan **out, const struct engine_options *o, const struct gen_params *p, struct err *e)
{
    struct stop_scan *c = xcalloc(1, sizeof *c);
    c->params = p;
    c->shown_as = o->shown_as;
    for (int i = 0; i < p->n_stop_strings; i++)
        if (strlen(p->stop_strings[i]) > c->longest)
            c->longest = strlen(p->stop_strings[i]);
    if (tok_stream_open(&c->stream, o->tokenizer, true, e) < 0) {
        free(c);
        return -1;
    }
    *out = c;
    return 0;
}

void stop_scan_close(struct stop_scan *c)
{
    if (!c)
        return;
    tok_stream_close(c->stream);
    buf_release(&c->text);
    free(c->at);
    free(c);
}

/* The stop string that begins first in text[from..]; -1: none. */
static int find_stop(struct stop_scan *c, size_t from)
{
    const char *text = c->text.s ? c->text.s : "", *first = NULL;
    int which = -1;
    for (int i = 0; i < c->params->n_stop_strings; i++) {
        const char *stop = c->params->stop_strings[i];
        const char *hit = memmem(text + from, c->text.len - from, stop, strlen(stop));
        if (hit && (!first || hit < first)) {
            first = hit;
            which = i;
        }
    }
    c->cut = first ? (size_t)(first - text) : 0;
    return which;
}

int stop_scan_add(struct stop_scan *c, int32_t id, int *which, struct err *e)
{
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 256;
        c->at = xreallocarray(c->at, c->cap, sizeof *c->at);
    }
    size_t before = c->text.len;
    c->at[c->n++] = before;
    if (tok_stream_put(c->stream, c->shown_as ? c->shown_as[id] : id, &c->text, e) < 0)
        return -1;
    size_t overlap = c->longest - 1; /* what came before may be the beginning of one */
    *which = c->text.len == before ? -1 : find_stop(c, before > overlap ? before - overlap : 0);
    return 0;
}

char *stop_scan_text(const struct stop_scan *c, int *tokens)
{
    size_t n = 0;
    while (n < c->n && c->at[n] < c->cut)
        n++;
    *tokens = (int)n;
    return xstrndup(c->text.s, c->cut);
}
