/* answer_bench - microseconds a case on the case files, and answers a second.
 *
 *     answer_bench [ROUNDS]     rows: file, cases, agreement, median, p99, max (us), cases/s, gate; exit 1 if one is
 * missed
 *
 * Inside the clock: answer_grade with a warm checker, extraction included; outside: reading the file. A case counts
 * with its shortest time over the rounds, so that neighbours on the machine do not. The peer is Math-Verify 0.8
 * (Python, median 1 to 5 ms a case, p99 0.4 s, by the measurements of the grading specification). Needs the shared
 * data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "task/answer.h"

struct one {
    char *gold, *text;
    bool pred, equal;
    double us;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static char *text_of(struct json doc, const char *a, const char *b)
{
    struct json v;
    return json_get(doc, a, &v) || json_get(doc, b, &v) ? json_str_dup(v) : NULL;
}

static size_t load(const char *path, struct one **out)
{
    struct err e = { "" };
    struct file_map m;
    size_t n = 0, at = 0;
    *out = NULL;
    if (file_map_open(&m, path, &e) < 0) {
        fprintf(stderr, "answer_bench: %s\n", e.msg);
        exit(1);
    }
    while (at < m.n) {
        const char *q = memchr(m.p + at, '\n', m.n - at);
        size_t len = q ? (size_t)(q - (m.p + at)) : m.n - at;
        struct json doc, v;
        if (json_parse(&doc, m.p + at, len, &e) < 0)
            exit(1);
        *out = xreallocarray(*out, n + 1, sizeof **out);
        struct one *c = &(*out)[n++];
        c->pred = json_get(doc, "pred", &v);
        c->gold = text_of(doc, "gold", "gold_answer");
        c->text = c->pred ? text_of(doc, "pred", "pred") : text_of(doc, "solution", "response_text");
        c->equal = (json_get(doc, "equal", &v) || json_get(doc, "is_correct", &v)) && json_kind(v) == JSON_TRUE;
        c->us = 1e9;
        at += len + 1;
    }
    file_map_close(&m);
    return n;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct one *)a)->us, y = ((const struct one *)b)->us;
    return x < y ? -1 : x > y;
}

static bool bench(const char *root, const char *name, enum answer_task task, int rounds)
{
    char path[4096];
    struct err e = { "" };
    struct answer_checker *c;
    struct answer_result r;
    struct one *v;
    size_t agree = 0;
    double total = 0;
    snprintf(path, sizeof path, "%s/data/%s", root, name);
    if (access(path, R_OK) != 0) {
        printf("%s: skipped, shared data absent\n", name);
        return true;
    }
    size_t n = load(path, &v);
    if (!n || answer_checker_open(&c, &e) < 0)
        return false;
    answer_result_init(&r);
    for (int k = 0; k < rounds; k++)
        for (size_t i = 0; i < n; i++) {
            double t = now();
            answer_grade(c, task, v[i].gold, strlen(v[i].gold), v[i].text, strlen(v[i].text),
                         v[i].pred ? ANSWER_PRED : ANSWER_SOLUTION, &r, &e);
            t = now() - t;
            v[i].us = t < v[i].us ? t : v[i].us;
            agree += k == 0 && (r.verdict == ANSWER_EQUAL) == v[i].equal;
        }
    for (size_t i = 0; i < n; i++)
        total += v[i].us;
    qsort(v, n, sizeof *v, by_time);
    double median = v[n / 2].us, p99 = v[n * 99 / 100].us;
    bool ok = median < 50 && p99 < 2000;
    printf("%-28s %5zu cases, %5.1f %% agree, median %6.1f us, p99 %7.1f us, max %7.1f us, %8.0f cases/s  %s\n", name,
           n, 100.0 * (double)agree / (double)n, median, p99, v[n - 1].us, 1e6 * (double)n / total,
           ok ? "ok" : "MISSED");
    for (size_t i = 0; i < n; i++) {
        free(v[i].gold);
        free(v[i].text);
    }
    free(v);
    answer_result_release(&r);
    answer_checker_close(c);
    return ok;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    const char *root = getenv("LATENT_SHARED");
    root = root ? root : "../shared";
    bool ok = bench(root, "grading/cases.jsonl", ANSWER_MATH, rounds);
    ok = bench(root, "real_cots.jsonl", ANSWER_MATH, rounds) && ok;
    ok = bench(root, "gsm8k_model_solutions.jsonl", ANSWER_GSM8K, rounds) && ok;
    puts("gate: median under 50 us, p99 under 2 ms; peer: Math-Verify, median 1000 to 5000 us, p99 400000 us");
    return !ok;
}
