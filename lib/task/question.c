/* question.c - see question.h. */
#include "task/question.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "task/answer.h"

static bool has(const struct rec *r, const char *key, enum json_kind kind)
{
    struct json v;
    return rec_get(r, key, &v) && json_kind(v) == kind;
}

enum question_schema question_schema_of(const struct rec *r)
{
    if (has(r, "source_id", JSON_STRING) && has(r, "question", JSON_STRING) && has(r, "gold_answer", JSON_STRING))
        return SCHEMA_QUESTION;
    if (has(r, "problem", JSON_STRING) && has(r, "solution", JSON_STRING))
        return SCHEMA_MATH;
    if (has(r, "question", JSON_STRING) && has(r, "choices", JSON_ARRAY) && has(r, "answer", JSON_NUMBER))
        return SCHEMA_MMLU;
    if (has(r, "question", JSON_STRING) && has(r, "options", JSON_ARRAY) && has(r, "answer", JSON_STRING))
        return SCHEMA_MMLU_PRO;
    if (has(r, "question", JSON_STRING) && has(r, "answer", JSON_STRING))
        return SCHEMA_GSM8K;
    if (has(r, "query", JSON_STRING) && has(r, "response", JSON_STRING))
        return SCHEMA_METAMATH;
    return SCHEMA_NONE;
}

const char *question_benchmark(enum question_schema s)
{
    static const char *const name[] = {
        [SCHEMA_GSM8K] = "gsm8k",       [SCHEMA_MATH] = "math",           [SCHEMA_MMLU] = "mmlu",
        [SCHEMA_MMLU_PRO] = "mmlu_pro", [SCHEMA_METAMATH] = "metamathqa",
    };
    return s >= SCHEMA_GSM8K ? name[s] : NULL;
}

/* Question and choices as a person would write them: the text, then "A. ..." one a line. */
static int put_choices(const struct rec *r, const char *key, struct buf *text, struct err *e)
{
    struct json list, item;
    rec_get(r, key, &list);
    struct json_iter it = json_each(list);
    char letter = 'A';
    while (json_next(&it, NULL, &item)) {
        if (json_kind(item) != JSON_STRING || letter > 'Z')
            return err_set(e, "%s: key \"%s\" must be a list of at most 26 strings", r->where, key);
        buf_printf(text, "\n%c. ", letter++);
        json_str(item, text);
    }
    return 0;
}

static int read_mmlu(const struct rec *r, struct buf *text, struct buf *gold, struct err *e)
{
    int64_t index;
    struct json list;
    if (rec_text(r, "question", text, e) < 0 || put_choices(r, "choices", text, e) < 0 ||
        rec_int(r, "answer", &index, e) < 0)
        return -1;
    rec_get(r, "choices", &list);
    if (index < 0 || (size_t)index >= json_count(list))
        return err_set(e, "%s: key \"answer\" must name a choice from 0 to %zu, found %lld", r->where,
                       json_count(list) - 1, (long long)index);
    buf_putc(gold, (char)('A' + index));
    return 0;
}

static int read_metamath(const struct rec *r, struct buf *text, struct buf *gold, struct err *e)
{
    static const char mark[] = "The answer is:";
    struct buf response = BUF_INIT;
    int rc = rec_text(r, "query", text, e) < 0 || rec_text(r, "response", &response, e) < 0 ? -1 : 0;
    const char *at = rc == 0 && response.s ? strstr(response.s, mark) : NULL;
    for (const char *next = at; next; next = strstr(next + 1, mark))
        at = next;
    if (rc == 0 && !at)
        rc = err_set(e, "%s: key \"response\" has no \"%s\"", r->where, mark);
    if (rc == 0 && at) {
        at += sizeof mark - 1;
        size_t n = strlen(at), from = strspn(at, " \n\t\r");
        while (n > from && strchr(" \n\t\r", at[n - 1]))
            n--;
        buf_add(gold, at + from, n - from);
    }
    buf_release(&response);
    return rc;
}

static int read_solution(const struct rec *r, enum question_schema s, struct buf *text, struct buf *gold, struct err *e)
{
    bool math = s == SCHEMA_MATH;
    struct buf solution = BUF_INIT;
    int rc = rec_text(r, math ? "problem" : "question", text, e) < 0 ||
                     rec_text(r, math ? "solution" : "answer", &solution, e) < 0
                 ? -1
                 : 0;
    if (rc == 0) {
        const char *p = solution.s ? solution.s : "";
        if (math)
            answer_gold_math(p, solution.len, gold);
        else if (!answer_gold_gsm8k(p, solution.len, gold))
            rc = err_set(e, "%s: key \"answer\" has no \"####\" with the gold answer behind it", r->where);
    }
    buf_release(&solution);
    return rc;
}

static int read_row(const struct rec *r, enum question_schema s, struct buf *text, struct buf *gold, struct err *e)
{
    switch (s) {
    case SCHEMA_GSM8K:
    case SCHEMA_MATH:
        return read_solution(r, s, text, gold, e);
    case SCHEMA_MMLU:
        return read_mmlu(r, text, gold, e);
    case SCHEMA_MMLU_PRO:
        return rec_text(r, "question", text, e) < 0 || put_choices(r, "options", text, e) < 0
                   ? -1
                   : rec_text(r, "answer", gold, e);
    case SCHEMA_METAMATH:
        return read_metamath(r, text, gold, e);
    default:
        return err_set(e,
                       "%s: not a row of a known question set (gsm8k: question, answer; math: problem, solution; mmlu: "
                       "question, choices, answer; metamathqa: query, response)",
                       r->where);
    }
}

int question_from_row(const struct rec *r, const char *benchmark, const char *split, uint64_t row, struct buf *out,
                      struct err *e)
{
    static const char *const carried[] = { "subject", "type", "level", "unique_id" };
    enum question_schema s = question_schema_of(r);
    struct buf text = BUF_INIT, gold = BUF_INIT;
    if (s == SCHEMA_QUESTION) { /* nothing to make: passed on as it is */
        buf_add(out, r->line, r->len);
        buf_putc(out, '\n');
        return 0;
    }
    int rc = read_row(r, s, &text, &gold, e);
    if (rc == 0) {
        struct buf one = BUF_INIT; /* rec_put looks at the last byte of its buffer */
        char id[256];
        const char *b = benchmark ? benchmark : question_benchmark(s);
        snprintf(id, sizeof id, "%s_%s_%llu", b, split, (unsigned long long)row);
        rec_begin(&one);
        rec_put_cstr(&one, "benchmark", b);
        rec_put_cstr(&one, "source_id", id);
        rec_put_text(&one, "question", text.s ? text.s : "", text.len);
        rec_put_text(&one, "gold_answer", gold.s ? gold.s : "", gold.len);
        bool subject = false;
        for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) {
            struct json v;
            bool is_type = strcmp(carried[i], "type") == 0; /* MATH-500's word for the subject */
            if (!rec_get(r, carried[i], &v) || (is_type && (subject || s != SCHEMA_MATH)))
                continue;
            subject |= i == 0;
            rec_put(&one, is_type ? "subject" : carried[i], v);
        }
        rec_end(&one);
        buf_add(out, one.s, one.len);
        buf_release(&one);
    }
    buf_release(&text);
    buf_release(&gold);
    return rc;
}

/* Rows as they are published are what people bring first. */
static int refuse_published(const struct rec *r, struct err *e)
{
    struct json v;
    const char *set = rec_get(r, "source_id", &v) ? NULL : question_benchmark(question_schema_of(r));
    if (!set)
        return 0;
    return err_set(
        e, "%s: a row of %s as it is published, without source_id; dataset --file FILE makes questions of such rows",
        r->where, set);
}

int question_read(struct question *q, const struct rec *r, struct err *e)
{
    buf_reset(&q->benchmark);
    buf_reset(&q->source_id);
    buf_reset(&q->question);
    buf_reset(&q->gold);
    if (refuse_published(r, e) < 0 || rec_text(r, "source_id", &q->source_id, e) < 0 ||
        rec_text(r, "question", &q->question, e) < 0 || rec_text(r, "gold_answer", &q->gold, e) < 0)
        return -1;
    return rec_text_or_null(r, "benchmark", &q->benchmark, e) < 0 ? -1 : 0;
}

void question_release(struct question *q)
{
    buf_release(&q->benchmark);
    buf_release(&q->source_id);
    buf_release(&q->question);
    buf_release(&q->gold);
}
