/* answer_fuzz - the answer checker on hostile text.
 *
 * Input: one byte (task, mode), the gold up to the first NUL byte, the text behind it. Checked: no crash, no leak, and
 * what must hold for any text: a verdict is the same when asked again, and a text that is equal to the gold by bytes is
 * never unequal for a reason other than being undefined (or being no choice in a choice task). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "task/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct err e = { "" };
    struct answer_checker *c;
    struct answer_result a, b;
    struct buf out = BUF_INIT, more = BUF_INIT;
    if (n < 2)
        return 0;
    enum answer_task task = (enum answer_task)(data[0] % 4);
    enum answer_mode mode = (data[0] >> 2) % 2 ? ANSWER_SOLUTION : ANSWER_PRED;
    const char *gold = (const char *)data + 1, *text = memchr(gold, 0, n - 1);
    size_t gold_n = text ? (size_t)(text - gold) : n - 1;
    text = text ? text + 1 : gold;
    size_t text_n = text == gold ? n - 1 : n - 2 - gold_n;
    require(answer_checker_open(&c, &e) == 0);
    answer_result_init(&a);
    answer_result_init(&b);
    require(answer_grade(c, task, gold, gold_n, text, text_n, mode, &a, &e) == 0);
    require(answer_grade(c, task, gold, gold_n, text, text_n, mode, &b, &e) == 0);
    require(a.verdict == b.verdict && strcmp(a.reason, b.reason) == 0);
    require(a.extracted.len == b.extracted.len && a.pred_form.len == b.pred_form.len);
    if (task == ANSWER_MATH && gold_n && memchr(gold, '\\', gold_n) == NULL) {
        require(answer_grade(c, task, gold, gold_n, gold, gold_n, ANSWER_PRED, &b, &e) == 0);
        require(b.verdict == ANSWER_EQUAL || strcmp(b.reason, "undefined") == 0 || strncmp(b.reason, "no_", 3) == 0);
    }
    answer_compat_extract(text, text_n, &out);
    answer_compat_extract_xml(text, text_n, &out, &more);
    answer_compat_think(text, text_n, &out, &more);
    answer_compat_score(task, text, text_n, gold, gold_n);
    answer_gold_math(text, text_n, &out);
    answer_gold_gsm8k(text, text_n, &out);
    buf_release(&out);
    buf_release(&more);
    answer_result_release(&a);
    answer_result_release(&b);
    answer_checker_close(c);
    return 0;
}
