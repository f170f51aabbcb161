/* template_fuzz - any bytes as a chat template; what opens must render or fail with a sentence, within its bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err e = { "" };
    struct chat_template *t;
    struct buf out = BUF_INIT;
    if (chat_template_open_text(&t, (const char *)data, n, "fuzz", &e) < 0) {
        if (!e.msg[0])
            abort();
        return 0;
    }
    int rc =
        chat_template_render_json(t,
                                  "[{\"role\":\"user\",\"content\":\"h\xc3\xa9llo </think> "
                                  "x\"},{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[]}]",
                                  "{\"l\":[3,1,2],\"d\":{\"a\":1,\"b\":[null,true,2.5]},\"s\":\"a b,c\",\"n\":null}",
                                  true, "<s>", "</s>", &out, &e);
    if (rc < 0 ? !e.msg[0] || out.len : utf8_check(out.s ? out.s : "", out.len) != out.len)
        abort();
    chat_template_close(t);
    buf_release(&out);
    return 0;
}
