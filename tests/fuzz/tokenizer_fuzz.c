/* tokenizer_fuzz - any bytes as a tokenizer.json; what opens must encode, decode and save without harm.
 * Input: the JSON, a line of its own "---", then text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int cond)
{
    if (!cond)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err e = { "" };
    struct tokenizer *t;
    struct tokens ts = TOKENS_INIT;
    struct buf out = BUF_INIT, parts = BUF_INIT;
    const char *s = (const char *)data, *text = "Hello w\xc3\xb6rld 12  x\n";
    size_t nj = n, nt = strlen(text);
    for (size_t i = 0; i + 5 <= n; i++)
        if (memcmp(s + i, "\n---\n", 5) == 0) {
            nj = i;
            text = s + i + 5;
            nt = n - i - 5;
            break;
        }
    if (tokenizer_open_json(&t, s, nj, "fuzz", &e) < 0) {
        must(e.msg[0] != '\0');
        return 0;
    }
    for (unsigned flags = 0; flags < 8; flags++)
        if (tokenizer_encode(t, text, nt, flags, &ts, &e) == 0) {
            for (size_t i = 0; i < ts.n; i++)
                must(ts.id[i] >= 0 && (!(flags & TOK_OFFSETS) || ts.end[i] <= nt + 1 || ts.begin[i] <= ts.end[i]));
            buf_reset(&out);
            if (tokenizer_decode(t, ts.id, ts.n, flags & 1, &out, &e) < 0)
                must(e.msg[0] != '\0');
            struct tok_stream *st;
            must(tok_stream_open(&st, t, flags & 1, &e) == 0);
            buf_reset(&parts);
            int rc = 0;
            for (size_t i = 0; rc == 0 && i < ts.n && i < 200; i++)
                rc = tok_stream_put(st, ts.id[i], &parts, &e);
            if (rc == 0)
                rc = tok_stream_end(st, &parts, &e);
            tok_stream_close(st);
        } else {
            must(e.msg[0] != '\0');
        }
    if (tokenizer_encode_pair(t, text, nt, "b c", 3, TOK_SPECIALS | TOK_OFFSETS, &ts, &e) < 0)
        must(e.msg[0] != '\0');
    struct tok_added add = { "<new>", n & 1, n & 2, n & 4, n & 8, n & 16 };
    if (tokenizer_add(t, &add, 1, NULL, &e) == 0) {
        must(tokenizer_id(t, "<new>") >= 0);
        must(tokenizer_size(t) > tokenizer_id(t, "<new>"));
        buf_reset(&out);
        must(tokenizer_token(t, tokenizer_id(t, "<new>"), &out));
    }
    buf_reset(&out);
    if (tokenizer_config_add(t, s, nj, &out, &e) < 0)
        must(e.msg[0] != '\0');
    tokens_release(&ts);
    buf_release(&out);
    buf_release(&parts);
    tokenizer_close(t);
    return 0;
}
