/* schema_test.c - lib/io/schema: the table against latent-record(5), and every way a line can be wrong. */
#include <stdlib.h>

#include "base/file.h"
#include "io/manifest.h"
#include "io/schema.h"
#include "unit/test.h"

/* ---- the page ---- */

struct pair {
    char key[64], type[64];
};

/* Keys and types of a section's table, sorted. Lines: ".It a , b Ta type Ta meaning". */
static size_t read_page(const char *page, const char *section, struct pair *out, size_t cap)
{
    char head[128];
    size_t n = 0;
    snprintf(head, sizeof head, "\n.Sh %s\n", section);
    const char *p = strstr(page, head);
    if (!p)
        fail_msg("latent-record(5) has no section %s", section);
    p += strlen(head);
    const char *end = strstr(p, "\n.Sh ");
    while ((p = strstr(p, "\n.It ")) && p < end) {
        p += 5;
        const char *ta = strstr(p, " Ta "), *type_end = strstr(ta + 4, " Ta ");
        char keys[512];
        snprintf(keys, sizeof keys, "%.*s", (int)(ta - p), p);
        if (strncmp(keys, "Sy ", 3) == 0)
            continue;
        for (char *save, *k = strtok_r(keys, " ,", &save); k; k = strtok_r(NULL, " ,", &save)) {
            assert_true(n < cap);
            snprintf(out[n].key, sizeof out[n].key, "%s", k);
            snprintf(out[n].type, sizeof out[n].type, "%.*s", (int)(type_end - ta - 4), ta + 4);
            n++;
        }
    }
    return n;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static void the_page_agrees(void **state)
{
    (void)state;
    struct err e = { "" };
    struct buf page = BUF_INIT;
    size_t n;
    const struct schema_kind *k = schema_kinds(&n);
    assert_ok(file_read(&page, "man/latent-record.5", 0, &e));
    for (size_t i = 0; i < n; i++) {
        struct pair ours[64] = { { "", "" } }, theirs[64] = { { "", "" } };
        size_t m = read_page(page.s, k[i].section, theirs, 64);
        for (size_t f = 0; f < k[i].nfields; f++) {
            char type[SCHEMA_TYPE_TEXT];
            snprintf(ours[f].key, sizeof ours[f].key, "%s", k[i].field[f].key);
            snprintf(ours[f].type, sizeof ours[f].type, "%s", schema_type_text(k[i].field[f].types, type));
        }
        qsort(ours, k[i].nfields, sizeof *ours, by_key);
        qsort(theirs, m, sizeof *theirs, by_key);
        for (size_t f = 0; f < m && f < k[i].nfields; f++)
            if (strcmp(ours[f].key, theirs[f].key) != 0 || strcmp(ours[f].type, theirs[f].type) != 0)
                fail_msg("%s: the table has %s (%s), the page %s (%s)", k[i].section, ours[f].key, ours[f].type,
                         theirs[f].key, theirs[f].type);
        assert_int_equal(m, k[i].nfields);
    }
    buf_release(&page);
}

/* ---- lines ---- */

static struct buf problems;

static const char *check(const char *lines, const char *program, const char *options, const char *counts)
{
    struct err e = { "" };
    char *path = path_join(test_tmpdir(), "f");
    assert_ok(file_write_atomic(path, lines, strlen(lines), &e));
    struct manifest m = { .program = (char *)(size_t)program,
                          .options = (char *)(size_t)options,
                          .counts = (char *)(size_t)counts };
    buf_reset(&problems);
    buf_puts(&problems, "");
    int n = schema_check(path, program ? &m : NULL, &problems);
    int lines_said = 0;
    for (const char *p = problems.s; (p = strchr(p, '\n')); p++)
        lines_said++;
    assert_true(n == lines_said || (n > 10 && lines_said == 11));
    /* without the folder, for comparing */
    struct buf short_text = BUF_INIT;
    for (const char *p = problems.s, *at; *p; p = at + strlen(path)) {
        at = strstr(p, path);
        if (!at) {
            buf_puts(&short_text, p);
            break;
        }
        buf_printf(&short_text, "%.*sF", (int)(at - p), p);
    }
    buf_reset(&problems);
    buf_puts(&problems, short_text.s ? short_text.s : "");
    buf_release(&short_text);
    free(path);
    return problems.s;
}

#define Q "{\"benchmark\": \"math\", \"source_id\": \"a\", \"question\": \"q\", \"gold_answer\": \"1\"}\n"

static void questions(void **state)
{
    (void)state;
    assert_string_equal(check(Q Q, "dataset", "{}", "{\"questions\": 2, \"rejected\": 0}"), "");
    assert_string_equal(check(Q Q, "dataset", "{}", "{\"questions\": 3, \"rejected\": 0}"),
                        "F: 2 records, its manifest counts 3 questions\n");
    assert_string_equal(check(Q Q, "dataset", "{}", "{\"questions\": 3, \"rejected\": 1}"), "");
    assert_string_equal(check(Q "{\"source_id\": 5, \"question\": null}\n", "dataset", "{}", "{}"),
                        "F line 2: source_id: expected string, found 5\n"
                        "F line 2: question: expected string, found null\n"
                        "F line 2: gold_answer: expected string, found nothing\n");
    assert_string_equal(check("[]\n" Q, "dataset", "{}", "{}"), "F:1: expected an object in {}, found []\n");
    assert_string_equal(check("[]\n" Q, NULL, NULL, NULL), "");
    assert_string_equal(check("\n" Q "\n[]\n", "dataset", "{}", "{}"), "F:4: expected an object in {}, found []\n");
    assert_string_equal(check(Q "{\"messages\": []}\n", "dataset", "{}", "{}"),
                        "F line 2: expected a question, found a conversation\n");
    /* a long value is cut between characters */
    assert_string_equal(
        check("{\"source_id\": [\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\303\244\303\244\"], \"question\": "
              "\"\", \"gold_answer\": \"\"}\n",
              NULL, NULL, NULL),
        "F line 1: source_id: expected string, found [\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\303\244...\n");
    /* more than ten */
    struct buf many = BUF_INIT;
    for (int i = 0; i < 25; i++)
        buf_puts(&many, "{\"source_id\": \"a\", \"question\": \"q\", \"gold_answer\": 1}\n");
    const char *said = check(many.s, "dataset", "{}", "{}");
    assert_non_null(strstr(said, "F line 10: gold_answer: expected string, found 1\n"
                                 "F: and 15 more lines or keys like these\n"));
    buf_release(&many);
}

#define SAMPLE_OLD                                                                                                     \
    "\"benchmark\": \"math\", \"source_id\": \"a_s0\", \"question_source_id\": \"a\", \"sample_index\": 0, "           \
    "\"question\": \"q\", \"gold_answer\": \"1\", \"prompt_format\": \"tokenskip\", \"response_text\": \"t\", "        \
    "\"reasoning\": null, \"answer\": null, \"is_correct\": false, \"reasoning_token_count\": 0, "                     \
    "\"response_token_count\": 3"

static void samples(void **state)
{
    (void)state;
    assert_string_equal(check("{" SAMPLE_OLD ", \"finish_reason\": \"stop\", \"seed\": 1}\n", "collect",
                              "{\"compat\":false}", "{\"samples\": 1}"),
                        "");
    assert_string_equal(check("{" SAMPLE_OLD "}\n", "collect", "{\"compat\":true}", "{}"), "");
    assert_string_equal(check("{" SAMPLE_OLD "}\n", "collect", "{\"compat\":false}", "{}"),
                        "F line 1: finish_reason: expected string, found nothing\n"
                        "F line 1: seed: expected integer, found nothing\n");
    /* somebody else's: what readers need */
    assert_string_equal(check("{\"source_id\": \"a\", \"question\": \"q\", \"response_text\": \"t\"}\n", "grade", "{}",
                              "{\"records\": 1}"),
                        "");
    assert_string_equal(
        check("{\"source_id\": \"a\", \"question\": \"q\", \"response_text\": \"t\", \"is_correct\": 1}\n", "grade",
              "{}", "{}"),
        "F line 1: is_correct: expected boolean/null, found 1\n");
    /* gold and pred: nothing is known of them */
    assert_string_equal(check("{\"gold\": \"1\", \"pred\": \"2\"}\n", "grade", "{}", "{\"records\": 7}"), "");
}

static void rows(void **state)
{
    (void)state;
    const char *good =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": "
        "\"b\"}], \"metadata\": {\"benchmark\": \"math\", \"method\": \"direct\", \"source_id\": \"a\"}}\n";
    assert_string_equal(check(good, "prepare", "{}", "{\"rows\": 1}"), "");
    assert_string_equal(check("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n", NULL, NULL, NULL),
                        "F line 1: messages: expected turns, found [{\"role\": \"user\", \"content\": \"a\"}]\n");
    assert_string_equal(
        check("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}], \"metadata\": {\"method\": "
              "\"direct\", \"source_id\": \"a\", \"benchmark\": \"b\", \"conditioned\": \"no\"}}\n",
              "prepare", "{}", "{}"),
        "F line 1: metadata.conditioned: expected boolean, found \"no\"\n");
    assert_string_equal(check("{\"words\": [\"a\", \"b\"], \"labels\": [0]}\n{\"words\": [\"a\"], \"labels\": [0.5]}\n"
                              "{\"words\": [1], \"labels\": [1]}\n{\"words\": [], \"labels\": []}\n",
                              NULL, NULL, NULL),
                        "F line 1: labels: expected 2 items, as in words, found 1\n"
                        "F line 2: labels: expected integers, found [0.5]\n"
                        "F line 3: words: expected strings, found [1]\n");
    assert_string_equal(check("{\"ids\": [1, 2], \"labels\": [-100, 2]}\n", NULL, NULL, NULL), "");
    /* prepare's other kind, and lines of both in one file */
    const char *labels = "{\"words\": [\"a\"], \"labels\": [0], \"metadata\": {\"method\": \"labels\", \"source_id\": "
                         "\"a\", \"compression_ratio\": 0.5}}\n";
    assert_string_equal(check(labels, "prepare", "{}", "{\"rows\": 1}"), "");
    struct buf both = BUF_INIT;
    buf_printf(&both, "%s%s", labels, good);
    assert_string_equal(check(both.s, "prepare", "{}", "{}"),
                        "F line 2: expected a row of labelled words, found a conversation\n");
    buf_release(&both);
    assert_string_equal(check("{\"words\": [\"a\"], \"labels\": [0]}\n", NULL, NULL, NULL), "");
}

static void scores_and_logs(void **state)
{
    (void)state;
    assert_string_equal(check("{\"index\": 0, \"skipped\": true, \"reason\": \"no\"}\n", "score", "{}", "{}"), "");
    const char *said = check("{\"index\": 0, \"skipped\": false, \"logprob\": NaN}\n", "score", "{}", "{}");
    assert_non_null(strstr(said, "F line 1: logprob: expected number, found NaN\n"));
    assert_non_null(strstr(said, "F line 1: num_answer_tokens: expected integer, found nothing\n"));
    assert_string_equal(
        check("{\"step\": 1, \"epoch\": 0.5, \"eval_loss\": 1.5}\n{\"step\": 1, \"epoch\": 0.5, \"loss\": "
              "Infinity, \"grad_norm\": 1, \"learning_rate\": 0, \"tokens\": 1, "
              "\"tokens_per_second\": 1, \"memory\": 1}\n",
              NULL, NULL, NULL),
        "F line 2: loss: expected number, found Infinity\n");
    assert_string_equal(check("x,y\n1,2\n", "report", "{}", "{}"), "");
    assert_string_equal(check("{\"ids\": [1]}\n", "tok", "{}", "{}"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_agrees), cmocka_unit_test(questions),
        cmocka_unit_test(samples),         cmocka_unit_test(rows),
        cmocka_unit_test(scores_and_logs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
