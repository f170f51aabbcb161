/* compress: the default behaviour (what is protected, how much is kept, what stands between), and that one run over
 * many ratios, batches, threads or saved scores gives the same bytes. The models are random: tests/golden/models. */
#include <math.h>

#include "io/record.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "model/score.h"
#include "task/compress.h"
#include "task/scoring.h"
#include "task/think.h"
#include "test.h"

/* ---- spans ---- */

/* The spans of a text, as "kind:text|..." with n, m, b for number, mathematics, boxed. */
static void spans_as_text(const char *s, struct buf *out)
{
    struct lingua_spans v = { NULL, 0, 0 };
    buf_reset(out);
    buf_puts(out, "");
    lingua_spans(s, strlen(s), &v);
    for (size_t i = 0; i < v.n; i++) {
        int k = v.v[i].kind;
        buf_printf(out, "%s%s%s%s:%.*s", i ? "|" : "", k & SPAN_NUMBER ? "n" : "", k & SPAN_MATH ? "m" : "",
                   k & SPAN_BOXED ? "b" : "", (int)(v.v[i].e - v.v[i].b), s + v.v[i].b);
    }
    free(v.v);
}

static void test_spans(void **state)
{
    static const char *const cases[][2] = {
        { "no numbers here", "" },
        { "3.14 and 1,000 and .5", "n:3.14|n:1,000|n:.5" },
        { "x = -5, 3-5, a -7%", "n:-5|n:3|n:5|n:-7%" },
        { "3/4 of 10:30, 1e-5 but 2em", "n:3/4|n:10:30|n:1e-5|n:2" },
        { "end 5. Next", "n:5" },
        { "$x+1$ costs $5 and $10", "m:$x+1$|n:5|n:10" },
        { "$$a\n=b$$ or \\(c\\) or \\[d\n\n=2\\]", "m:$$a\n=b$$|m:\\(c\\)|m:\\[d\n\n=2\\]" },
        { "\\(never closed 7", "n:7" },
        { "\\(lost \\(x\\)", "m:\\(x\\)" },
        { "so \\boxed{\\frac{1}{2}} it is", "b:\\boxed{\\frac{1}{2}}" },
        { "$\\boxed{4}$.", "mb:$\\boxed{4}$" },
        { "\\boxed{open", "" },
        { "\\$3 and a \\\\[2pt]", "n:3|n:2" },
        { "$a$2 is no mathematics", "n:2" },
    };
    struct buf b = BUF_INIT;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spans_as_text(cases[i][0], &b);
        assert_string_equal(b.s ? b.s : "", cases[i][1]);
    }
    buf_release(&b);
}

/* Constructs that never close cost no more than their length. */
static void test_spans_are_linear(void **state)
{
    static const char *const evil[] = { "\\(", "\\[", "\\boxed{", "$x ", "$$", "$", "1,", "\\" };
    struct lingua_spans v = { NULL, 0, 0 };
    (void)state;
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        struct buf b = BUF_INIT;
        while (b.len < 300000)
            buf_puts(&b, evil[i]);
        lingua_spans(b.s, b.len, &v);
        buf_release(&b);
    }
    free(v.v);
}

/* ---- cutting with scores of our own ---- */

/* A lingua_text of words (separated by white space, one piece each, punctuation aside) with these scores. */
static void make_text(struct lingua_text *t, const char *s, const float *p)
{
    size_t k = 0;
    t->n = t->nchunk = 0;
    buf_reset(&t->s);
    buf_puts(&t->s, s);
    t->cap = strlen(s) + 1;
    t->piece = xreallocarray(t->piece, t->cap, sizeof *t->piece);
    for (size_t i = 0; s[i];) {
        size_t n = strcspn(s + i, " \n");
        if (n)
            t->piece[t->n++] = (struct lingua_piece){ (uint32_t)i, (uint32_t)(i + n), 0, p[k++], PIECE_START };
        i += n + (s[i + n] != 0);
    }
    t->chunk = xreallocarray(t->chunk, 1, sizeof *t->chunk);
    t->chunk[0] = (struct lingua_chunk){ 0, (uint32_t)t->n, 0, (uint32_t)strlen(s), false };
    t->nchunk = t->chunk_cap = 1;
}

static void cut_is(struct lingua_spec spec, const char *s, const float *p, double ratio, const char *want)
{
    struct err e = { "" };
    struct lingua *l;
    struct lingua_scratch *sc = lingua_scratch_new();
    struct lingua_text t = { .n = 0 };
    struct lingua_words w = { .n = 0 };
    struct buf out = BUF_INIT;
    assert_ok(lingua_open(&l, &spec, &e));
    make_text(&t, s, p);
    assert_ok(lingua_merge(l, sc, &t, &w, &e));
    assert_ok(lingua_cut(l, sc, &w, ratio, NULL, NULL, &out, &e));
    assert_string_equal(out.s ? out.s : "", want);
    buf_release(&out);
    lingua_words_release(&w);
    lingua_text_release(&t);
    lingua_scratch_free(sc);
    lingua_close(l);
}

static void test_cuts(void **state)
{
    static const float p[] = { .9f, .1f, .8f, .2f, .7f, .3f, .6f, .4f };
    static const char *const force[] = { "b" };
    struct lingua_spec plain = { .family = LINGUA_XLMR }, safe = plain, kept = plain, digits = plain;
    (void)state;
    safe.math_safe = true;
    kept.force = force;
    kept.nforce = 1;
    digits.force_digits = true;
    cut_is(plain, "a b c d", p, 0.5, "a c");
    cut_is(plain, "a b c d", p, 0.25, "a");
    cut_is(plain, "a b c d", p, 0.01, "a"); /* something always stays */
    cut_is(plain, "  a b\nc d \n", p, 1, "  a b\nc d \n");
    cut_is(plain, "", p, 0.5, "");
    cut_is(plain, "a b\nc d", p, 0.5, "a\nc");
    cut_is(plain, "a\nb\n\nc d", p, 0.5, "a\n\nc");
    cut_is(plain, "a  b c", (const float[]){ .9f, .8f, .1f }, 0.6, "a  b");
    /* ties: the earlier word */
    cut_is(plain, "a b c d", (const float[]){ .5f, .5f, .5f, .5f }, 0.5, "a b");
    /* mathematics is one unit, whose score is the mean */
    cut_is(safe, "a $x + 1$ b c", (const float[]){ .9f, .5f, .5f, .5f, .1f, .2f }, 0.7, "a $x + 1$");
    cut_is(safe, "a $x + 1$ b c", (const float[]){ .9f, .1f, .1f, .1f, .5f, .6f }, 0.5, "a b c");
    cut_is(safe, "so \\boxed{1 + 2} a b c d e", (const float[]){ .9f, 0, 0, 0, .9f, .8f, .7f, .6f, .5f }, 0.1,
           "\\boxed{1 + 2}");
    cut_is(kept, "a b c d", p, 0.25, "b");
    cut_is(kept, "a bb c d", p, 0.25, "a");
    cut_is(digits, "a b c 4", p, 0.5, "a 4");
}

/* Pieces without white space between: nothing grows together that was apart. */
static void test_joins(void **state)
{
    struct err e = { "" };
    struct lingua *l;
    struct lingua_spec spec = { .family = LINGUA_XLMR };
    struct lingua_scratch *sc = lingua_scratch_new();
    struct lingua_text t = { .n = 0 };
    struct lingua_words w = { .n = 0 };
    struct buf out = BUF_INIT;
    (void)state;
    make_text(&t, "12+34=x,", (const float[]){ 0 });
    static const struct lingua_piece pieces[] = { { 0, 2, 0, .9f, PIECE_START }, { 2, 3, 0, .1f, PIECE_START },
                                                  { 3, 5, 0, .8f, PIECE_START }, { 5, 6, 0, .1f, PIECE_START },
                                                  { 6, 7, 0, .1f, PIECE_START }, { 7, 8, 0, .7f, PIECE_START } };
    memcpy(t.piece, pieces, sizeof pieces);
    t.n = t.chunk[0].n = 6;
    assert_ok(lingua_open(&l, &spec, &e));
    assert_ok(lingua_merge(l, sc, &t, &w, &e));
    assert_ok(lingua_cut(l, sc, &w, 0.5, NULL, NULL, &out, &e));
    assert_string_equal(out.s, "12 34 ,");
    buf_release(&out);
    lingua_words_release(&w);
    lingua_text_release(&t);
    lingua_scratch_free(sc);
    lingua_close(l);
}

/* ---- many texts ---- */

static const char *const texts[] = {
    "First, we multiply \\(10\\) and \\(6\\): \\[ 10 \\cdot 6 = 60 \\] so it is \\(\\boxed{420}\\).",
    "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May.",
    "",
    "   \n ",
    "\xe2\x82\xac 5 \xf0\x9f\x98\x80 ok, na\xc3\xafve \xc2\xbd cup \xe4\xbd\xa0\xe5\xa5\xbd.",
    "<s> [CLS] are ordinary text </s> [SEP] [PAD] <unk> here",
    "one",
};
enum { TEXTS = sizeof texts / sizeof *texts };

/* All results of these texts (repeated, and one long text) as one string. */
static void results(struct compress_spec spec, size_t copies, struct buf *out, struct buf *scores)
{
    struct err e = { "" };
    struct compressor *c;
    size_t n = copies * TEXTS + 1;
    spec.want_labels = true;
    struct compress_job *jobs = xcalloc(n, sizeof *jobs);
    for (size_t i = 0; i < n; i++) {
        buf_printf(&jobs[i].label, "text %zu", i);
        for (size_t k = 0; k < (i + 1 < n ? 1 : 60); k++) /* the last: several chunks */
            buf_puts(&jobs[i].text, texts[i + 1 < n ? i % TEXTS : k % TEXTS]);
    }
    assert_ok(compressor_open(&c, &spec, &e));
    assert_ok(compressor_run(c, jobs, n, &e));
    for (size_t i = 0; i < n; i++) {
        for (size_t r = 0; r < spec.nratio; r++)
            compress_record(c, &jobs[i], NULL, i, r, false, out);
        if (scores)
            buf_add(scores, jobs[i].scores.s, jobs[i].scores.len);
        compress_job_release(&jobs[i]);
    }
    assert_true(jobs[0].text.s == NULL);
    free(jobs);
    compressor_close(c);
}

static void assert_same(struct buf *a, struct buf *b)
{
    assert_int_equal(a->len, b->len);
    assert_memory_equal(a->s, b->s, a->len);
    buf_release(b);
}

static void same_bytes(const char *model, enum compress_method method)
{
    static const double ratios[] = { 0.3, 1, 0.7 };
    struct compress_spec spec = { .model = model,
                                  .method = method,
                                  .rule = { .math_safe = true },
                                  .ratio = ratios,
                                  .nratio = 3,
                                  .device = "cpu",
                                  .threads = 1,
                                  .rows = 4096 };
    struct buf a = BUF_INIT, b = BUF_INIT, scores = BUF_INIT;
    results(spec, 3, &a, NULL);
    assert_true(a.len > 1000);
    for (int rows = 1; rows < 2000; rows = rows * 9 + 1) {
        spec.rows = rows;
        spec.threads = rows % 2 ? 2 : 1;
        results(spec, 3, &b, NULL);
        assert_same(&a, &b);
    }
    /* scores in a file: the same bytes without the model */
    char path[4200];
    snprintf(path, sizeof path, "%s/scores.jsonl", test_tmpdir());
    spec.want_scores = true;
    results(spec, 3, &b, &scores);
    assert_same(&a, &b);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(scores.s, 1, scores.len, f), scores.len);
    fclose(f);
    spec.want_scores = false;
    spec.scores = path;
    spec.model = "/nowhere";
    results(spec, 3, &b, NULL);
    assert_same(&a, &b);
    buf_release(&a);
    buf_release(&scores);
}

static void test_same_bytes(void **state)
{
    (void)state;
    same_bytes("tests/golden/models/xlmr", COMPRESS_LLMLINGUA2);
    same_bytes("tests/golden/models/bert", COMPRESS_LLMLINGUA2);
}

static void test_surprisal(void **state)
{
    (void)state;
    same_bytes("tests/golden/models/qwen3", COMPRESS_SURPRISAL);
    same_bytes("tests/golden/models/llama3", COMPRESS_SURPRISAL);
}

/* ---- words left out ---- */

static const char leave_sample[] =
    "{\"benchmark\": \"math\", \"source_id\": \"m_s0\", \"question\": \"What is 12 and 30?\", \"answer\": \"42\", "
    "\"reasoning\": \"%s\"}";

static void leave_row(struct scoring *sc, const char *reasoning, struct score_row *row)
{
    struct buf line = BUF_INIT;
    struct err e = { "" };
    struct rec r;
    buf_printf(&line, leave_sample, reasoning);
    assert_ok(rec_parse(&r, line.s, line.len, "sample", &e));
    assert_ok(scoring_prepare(sc, &r, row, &e));
    assert_string_equal(row->reason, "");
    rec_release(&r);
    buf_release(&line);
}

/* Log-probabilities of tokens 1 .. n-1. */
static float *all_logprobs(struct scorer *s, const struct score_row *row)
{
    struct err e = { "" };
    float *lp = xcalloc(row->tok.n, sizeof *lp);
    assert_ok(scorer_run(s, &(struct score_seq){ row->tok.id, (int)row->tok.n, 1, lp, NULL }, 1, &e));
    return lp;
}

/* Tokens are matched by their characters: what begins behind the gap begins `shorter` characters earlier without the
 * word. Those that hold a digit, or lie in the answer's mathematics, count. */
static double naive_loss(const struct score_row *whole, const float *lp, const struct score_row *part, const float *lp2,
                         size_t behind, size_t shorter, size_t math)
{
    double sum = 0;
    for (size_t t = 1; t < whole->tok.n; t++) {
        size_t b = whole->tok.begin[t], e = whole->tok.end[t];
        bool counts = e > math;
        for (size_t i = b; i < e; i++)
            counts |= whole->text.s[i] >= '0' && whole->text.s[i] <= '9';
        if (b < behind || !counts || b >= strlen(whole->text.s) - strlen("<|im_end|>\n"))
            continue;
        for (size_t u = 1; u < part->tok.n; u++)
            if (part->tok.begin[u] + shorter == b)
                sum += (double)lp[t - 1] - (double)lp2[u - 1];
    }
    return sum;
}

static void test_leave_out(void **state)
{
    static const char model[] = "tests/golden/models/qwen3";
    static const char *const words[] = { "we", "take", "12", "and", "put", "30", "to", "it", "so", "42", "it", "is" };
    enum { WORDS = sizeof words / sizeof *words };
    static const double half = 0.5;
    struct err e = { "" };
    struct buf text = BUF_INIT, line = BUF_INIT;
    struct compress_spec spec = { .model = model,
                                  .method = COMPRESS_LEAVE_OUT,
                                  .rule = { .math_safe = true },
                                  .ratio = &half,
                                  .nratio = 1,
                                  .device = "cpu",
                                  .threads = 1,
                                  .rows = 64 };
    struct compressor *c;
    struct compress_job job = { .text = BUF_INIT };
    struct rec r;
    (void)state;
    for (int i = 0; i < WORDS; i++)
        buf_printf(&text, "%s%s", i ? " " : "", words[i]);
    buf_printf(&line, leave_sample, text.s);
    assert_ok(rec_parse(&r, line.s, line.len, "sample", &e));
    buf_puts(&job.text, text.s);
    buf_puts(&job.label, "sample");
    job.sample = &r;
    assert_ok(compressor_open(&c, &spec, &e));
    assert_ok(compressor_run(c, &job, 1, &e));
    assert_int_equal(job.words.n, WORDS);

    struct device *d;
    struct model *m;
    struct scorer *s;
    struct scoring *sc;
    struct score_row whole = SCORE_ROW_INIT, part = SCORE_ROW_INIT;
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_ok(model_open(&m, model, d, &e));
    assert_ok(scorer_open(&s, m, 512, &e));
    struct scoring_spec rows = { .dir = model, .delimiter = "", .max_tokens = 1000, .vocab = model_config(m)->vocab };
    assert_ok(scoring_open(&sc, &rows, &e));
    leave_row(sc, text.s, &whole);
    float *lp = all_logprobs(s, &whole);
    size_t at = (size_t)(strstr(whole.text.s, "we take") - whole.text.s);
    size_t math = (size_t)(strstr(whole.text.s, "$\\boxed") - whole.text.s);
    for (int i = 0; i < WORDS; i++) {
        buf_reset(&text);
        for (int k = 0; k < WORDS; k++)
            if (k != i)
                buf_printf(&text, "%s%s", text.len ? " " : "", words[k]);
        leave_row(sc, text.s, &part);
        float *lp2 = all_logprobs(s, &part);
        size_t n = strlen(words[i]);
        double want = naive_loss(&whole, lp, &part, lp2, at + n, n + 1, math);
        assert_float_equal(job.words.word[i].p, want, 1e-3);
        assert_true(fabs(want) > 1e-3);
        at += n + 1;
        free(lp2);
    }
    free(lp);
    score_row_release(&whole);
    score_row_release(&part);
    scoring_close(sc);
    scorer_close(s);
    model_close(m);
    device_close(d);
    compressor_close(c);
    compress_job_release(&job);
    rec_release(&r);
    buf_release(&text);
    buf_release(&line);
}

/* Each ratio alone gives what it gives among others. */
static void test_one_by_one(void **state)
{
    static const double all[] = { 0.1, 0.3, 0.5, 0.7, 0.9, 1 };
    struct compress_spec spec = { .model = "tests/golden/models/xlmr",
                                  .rule = { .math_safe = true, .exact = true },
                                  .ratio = all,
                                  .nratio = 6,
                                  .device = "cpu",
                                  .threads = 2,
                                  .rows = 512 };
    struct buf together = BUF_INIT, alone[6] = { BUF_INIT }, again = BUF_INIT;
    const char *at[6];
    (void)state;
    results(spec, 1, &together, NULL);
    spec.nratio = 1;
    for (int i = 0; i < 6; i++) {
        spec.ratio = &all[i];
        results(spec, 1, &alone[i], NULL);
        at[i] = alone[i].s;
    }
    for (size_t r = 0; r < TEXTS + 1; r++)
        for (int i = 0; i < 6; i++) {
            const char *end = strchr(at[i], '\n') + 1;
            buf_add(&again, at[i], (size_t)(end - at[i]));
            at[i] = end;
        }
    assert_same(&together, &again);
    buf_release(&together);
    for (int i = 0; i < 6; i++)
        buf_release(&alone[i]);
}

/* ---- 400 real traces ---- */

struct numbers { /* digits with groups and decimals, sorted */
    struct view v[4000];
    size_t n;
};

static int by_text(const void *a, const void *b)
{
    const struct view *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int c = memcmp(x->s, y->s, n);
    return c ? c : x->n < y->n ? -1 : x->n > y->n;
}

static void find_numbers(const char *s, size_t n, struct numbers *out)
{
#define DIGIT(i) ((i) < n && s[i] >= '0' && s[i] <= '9')
    out->n = 0;
    for (size_t i = 0; i < n;) {
        size_t b = i;
        while (DIGIT(i) || (i > b && (s[i] == '.' || s[i] == ',') && DIGIT(i + 1)))
            i++;
        if (i > b)
            out->v[out->n++] = (struct view){ s + b, i - b };
        else
            i++;
    }
    qsort(out->v, out->n, sizeof *out->v, by_text);
#undef DIGIT
}

/* Every number of the compressed text is one of the original's, as often as there. */
static bool numbers_are_whole(const struct buf *whole, const struct buf *part)
{
    static struct numbers a, b;
    size_t k = 0;
    find_numbers(whole->s, whole->len, &a);
    find_numbers(part->s, part->len, &b);
    for (size_t i = 0; i < b.n; i++, k++) {
        while (k < a.n && by_text(&a.v[k], &b.v[i]) < 0)
            k++;
        if (k == a.n || by_text(&a.v[k], &b.v[i]) != 0)
            return false;
    }
    return true;
}

static bool boxes_survive(const struct buf *whole, const struct buf *part)
{
    for (const char *at = whole->s; (at = strstr(at, "\\boxed{")); at++) {
        size_t i = 6;
        for (int depth = 0; at[i]; i++) {
            depth += at[i] == '{' ? 1 : at[i] == '}' ? -1 : 0;
            if (depth == 0)
                break;
        }
        char *box = xstrndup(at, i + 1);
        bool found = !at[i] || strstr(part->s, box);
        free(box);
        if (!found)
            return false;
    }
    return true;
}

/* No number is split, every box stays, and the rate is met: in total within 2 points, for 95 % of the traces of more
 * than 100 tokens within 5. */
static void real_traces(const char *model, const char *target)
{
    static const double ratios[] = { 0.1, 0.3, 0.5, 0.7, 0.9 };
    struct compress_spec spec = { .model = model,
                                  .target = target,
                                  .rule = { .math_safe = true, .exact = true },
                                  .ratio = ratios,
                                  .nratio = 5,
                                  .device = "cpu",
                                  .threads = 2,
                                  .rows = 4096 };
    struct err e = { "" };
    struct compressor *c;
    struct rec_reader *in;
    struct rec r;
#ifdef __SANITIZE_ADDRESS__
    enum { N = 30 }; /* too few for the shares, enough for the sanitizer */
#else
    enum { N = 400 };
#endif
    SHARED_OR_SKIP(path, "data/real_cots.jsonl");
    const char *files[] = { path };
    struct compress_job *jobs = xcalloc(N, sizeof *jobs);
    assert_ok(rec_open(&in, files, 1, &e));
    for (int i = 0; i < N; i++) {
        assert_int_equal(rec_read(in, &r, &e), 1);
        assert_ok(rec_text(&r, "response_text", &jobs[i].text, &e));
        buf_puts(&jobs[i].label, r.where);
    }
    rec_close(in);
    assert_ok(compressor_open(&c, &spec, &e));
    assert_ok(compressor_run(c, jobs, N, &e));
    for (size_t k = 0; k < 5; k++) {
        double tokens = 0, kept = 0;
        int longer = 0, near = 0;
        for (int i = 0; i < N; i++) {
            const struct compress_cut *x = &jobs[i].cut[k];
            if (!numbers_are_whole(&jobs[i].text, &x->text))
                fail_msg("%s at %g: a number was split", jobs[i].label.s, ratios[k]);
            if (!boxes_survive(&jobs[i].text, &x->text))
                fail_msg("%s at %g: a box is gone", jobs[i].label.s, ratios[k]);
            tokens += (double)jobs[i].tokens;
            kept += (double)x->tokens;
            if (jobs[i].tokens <= 100)
                continue;
            longer++;
            near += fabs((double)x->tokens / (double)jobs[i].tokens - ratios[k]) <= 0.05;
        }
        printf("# %s, %s: ratio %g is %.4f in total, %d of %d within 5 points\n", model, target ? target : "own pieces",
               ratios[k], kept / tokens, near, longer);
        assert_true(N < 400 || fabs(kept / tokens - ratios[k]) <= 0.02);
        assert_true(N < 400 || (longer > 100 && near >= 0.95 * longer));
    }
    for (int i = 0; i < N; i++)
        compress_job_release(&jobs[i]);
    free(jobs);
    compressor_close(c);
}

static void test_real_traces(void **state)
{
    (void)state;
    real_traces("tests/golden/models/xlmr", NULL);
    real_traces("tests/golden/models/bert", NULL);
}

static void test_real_traces_in_target_tokens(void **state)
{
    (void)state;
    SHARED_OR_SKIP(qwen, "data/tokenizers/qwen2/tokenizer.json");
    real_traces("tests/golden/models/xlmr", qwen);
    real_traces("tests/golden/models/bert", qwen);
}

static void test_refused(void **state)
{
    static const double half = 0.5;
    struct err e = { "" };
    struct compressor *c;
    struct compress_job job = { .text = BUF_INIT };
    struct compress_spec spec = {
        .model = "tests/golden/models/qwen3", .ratio = &half, .nratio = 1, .device = "cpu", .threads = 1, .rows = 64
    };
    (void)state;
    assert_int_equal(compressor_open(&c, &spec, &e), -1);
    assert_non_null(strstr(e.msg, "a compressor is an XLM-RoBERTa or BERT"));
    spec.model = "tests/golden/models/xlmr";
    spec.method = COMPRESS_SURPRISAL;
    assert_int_equal(compressor_open(&c, &spec, &e), -1);
    assert_non_null(strstr(e.msg, "surprisal needs a causal model"));
    spec.method = COMPRESS_LLMLINGUA2;
    spec.scores = "tests/golden/models/xlmr/config.json"; /* no such lines */
    assert_int_equal(compressor_open(&c, &spec, &e), -1);
    char path[4200];
    snprintf(path, sizeof path, "%s/empty.jsonl", test_tmpdir());
    fclose(fopen(path, "w"));
    spec.scores = path;
    assert_ok(compressor_open(&c, &spec, &e));
    buf_puts(&job.text, "some text");
    buf_puts(&job.label, "a.jsonl:1");
    assert_int_equal(compressor_run(c, &job, 1, &e), -1);
    assert_non_null(strstr(e.msg, "a.jsonl:1: "));
    assert_non_null(strstr(e.msg, "has no scores of this text"));
    compress_job_release(&job);
    compressor_close(c);
}

static void test_percent(void **state)
{
    char s[32];
    (void)state;
    compress_percent(487, 1000, s);
    assert_string_equal(s, "48.7%");
    compress_percent(0, 10, s);
    assert_string_equal(s, "100.0%");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),       cmocka_unit_test(test_spans_are_linear),
        cmocka_unit_test(test_cuts),        cmocka_unit_test(test_joins),
        cmocka_unit_test(test_same_bytes),  cmocka_unit_test(test_surprisal),
        cmocka_unit_test(test_real_traces), cmocka_unit_test(test_real_traces_in_target_tokens),
        cmocka_unit_test(test_leave_out),   cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_percent),
    };
    return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
