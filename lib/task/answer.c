/* answer.c - the checker's outside: names, results, and the order in which a comparison is tried. */
#include "task/answer.h"

#include <flint/fmpq.h>
#include <flint/fmpz.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "task/answer_private.h"

static const char *const task_names[] = { "math", "gsm8k", "mmlu", "exact" };

bool answer_task_of(const char *name, enum answer_task *out)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, task_names[i]) == 0) {
            *out = (enum answer_task)i;
            return true;
        }
    if (strcmp(name, "multiple_choice") == 0 || strcmp(name, "metamathqa") == 0) {
        *out = name[1] == 'u' ? ANSWER_MMLU : ANSWER_EXACT;
        return true;
    }
    return false;
}

const char *answer_task_name(enum answer_task task)
{
    return task_names[task];
}

void answer_result_init(struct answer_result *r)
{
    memset(r, 0, sizeof *r);
    r->reason = "unknown";
}

void answer_result_release(struct answer_result *r)
{
    buf_release(&r->extracted);
    buf_release(&r->gold_form);
    buf_release(&r->pred_form);
}

struct answer_checker {
    struct arena arena;
};

int answer_checker_open(struct answer_checker **out, struct err *e)
{
    (void)e;
    *out = xcalloc(1, sizeof **out);
    return 0;
}

void answer_checker_close(struct answer_checker *c)
{
    if (!c)
        return;
    arena_release(&c->arena);
    free(c);
    flint_cleanup();
}

/* First working version: plain rationals and folded text; the tree comes behind it. */
static bool plain_rational(struct span v, fmpq_t out)
{
    char digits[64];
    size_t n = 0;
    v = span_strip(v);
    for (size_t i = 0; i < v.n; i++) {
        if (v.s[i] == ',' && i + 3 < v.n)
            continue;
        if (n + 1 >= sizeof digits || !(ch_digit(v.s[i]) || v.s[i] == '/' || (v.s[i] == '-' && i == 0)))
            return false;
        digits[n++] = v.s[i];
    }
    digits[n] = 0;
    return n && fmpq_set_str(out, digits, 10) == 0;
}

static bool folded_equal(struct span a, struct span b)
{
    size_t i = 0, j = 0;
    for (;;) {
        while (i < a.n && ch_space(a.s[i]))
            i++;
        while (j < b.n && ch_space(b.s[j]))
            j++;
        if (i >= a.n || j >= b.n)
            return i >= a.n && j >= b.n;
        if (a.s[i++] != b.s[j++])
            return false;
    }
}

int answer_grade(struct answer_checker *c, enum answer_task task, const char *gold, size_t gold_n, const char *text,
                 size_t text_n, enum answer_mode mode, struct answer_result *r, struct err *e)
{
    struct span g = span_strip(span_of(gold, gold_n)), p = span_strip(span_of(text, text_n));
    (void)c;
    if ((unsigned)task > ANSWER_EXACT || (unsigned)mode > ANSWER_SOLUTION)
        return err_set(e, "unknown answer task %d or mode %d", (int)task, (int)mode);
    buf_reset(&r->extracted);
    buf_reset(&r->gold_form);
    buf_reset(&r->pred_form);
    buf_add(&r->gold_form, g.s, g.n);
    r->verdict = ANSWER_UNEQUAL;
    if (mode == ANSWER_SOLUTION) {
        if (!answer_extract(task, text, text_n, &r->extracted)) {
            r->reason = "no_answer";
            return 0;
        }
    } else {
        buf_add(&r->extracted, p.s, p.n);
    }
    p = span_of(r->extracted.s, r->extracted.len);
    buf_add(&r->pred_form, p.s, p.n);
    fmpq_t a, b;
    fmpq_init(a);
    fmpq_init(b);
    if (folded_equal(g, p)) {
        r->verdict = ANSWER_EQUAL;
        r->reason = "string";
    } else if (plain_rational(g, a) && plain_rational(p, b)) {
        r->reason = "rational";
        r->verdict = fmpq_equal(a, b) ? ANSWER_EQUAL : ANSWER_UNEQUAL;
    } else {
        r->reason = "text";
    }
    fmpq_clear(a);
    fmpq_clear(b);
    return 0;
}
