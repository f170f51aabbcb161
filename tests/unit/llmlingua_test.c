/* llmlingua --compat against the package itself, on two random encoders: every text, words, labels, chunks (see
 * tests/golden/README.md); and the tables of the specification. */
#include <math.h>

#include "io/record.h"
#include "task/compress.h"
#include "task/think.h"
#include "test.h"

enum { TEXTS = 404, REASONINGS = 400 };
static const double rates[] = { 0.1, 0.3, 0.5, 0.7, 0.9 };
static const int joined[][3] = { { 0, 4, 1 }, { 4, 12, 1 }, { 40, 60, 1 }, { 7, 9, 0 } }; /* the last: 7 twice */
static struct buf text[TEXTS];

/* ---- SHA-256, to compare with the golden file's digests ---- */
static uint32_t ror(uint32_t x, int k)
{
    return x >> k | x << (32 - k);
}

static void sha256_block(uint32_t h[8], const unsigned char *p)
{
    static uint32_t k[64];
    uint32_t w[64], v[8];
    if (!k[0])
        for (int i = 0, n = 2; i < 64; n++) {
            bool prime = true;
            for (int d = 2; d * d <= n; d++)
                prime &= n % d != 0;
            if (prime)
                k[i++] = (uint32_t)(uint64_t)floorl((cbrtl(n) - floorl(cbrtl(n))) * 4294967296.0L);
        }
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], x = v[4];
        uint32_t t1 = v[7] + (ror(x, 6) ^ ror(x, 11) ^ ror(x, 25)) + ((x & v[5]) ^ (~x & v[6])) + k[i] + w[i];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

static void sha256_16(const char *s, size_t n, char out[17])
{
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    unsigned char last[128] = { 0 };
    size_t whole = n / 64 * 64, rest = n - whole, end = rest < 56 ? 64 : 128;
    for (size_t i = 0; i < whole; i += 64)
        sha256_block(h, (const unsigned char *)s + i);
    if (rest)
        memcpy(last, s + whole, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[end - 1 - (size_t)i] = (unsigned char)((uint64_t)n * 8 >> (8 * i));
    for (size_t i = 0; i < end; i += 64)
        sha256_block(h, last + i);
    snprintf(out, 17, "%08x%08x", h[0], h[1]);
}

/* ---- the texts ---- */
static void read_texts(const char *path)
{
    struct err e = { "" };
    struct rec_reader *in;
    struct rec r;
    struct buf b = BUF_INIT;
    const char *files[] = { path };
    if (text[0].s)
        return;
    assert_ok(rec_open(&in, files, 1, &e));
    for (int i = 0; i < REASONINGS; i++) {
        assert_int_equal(rec_read(in, &r, &e), 1);
        buf_reset(&b);
        assert_ok(rec_text(&r, "response_text", &b, &e));
        struct view s = think_before_end(b.s, b.len);
        if (!s.s)
            s = (struct view){ b.s, b.len };
        s = view_trim(s.s, s.n);
        buf_add(&text[i], s.s, s.n);
    }
    for (int i = REASONINGS; i < TEXTS; i++)
        for (int k = joined[i - REASONINGS][0]; k < joined[i - REASONINGS][1]; k++) {
            const struct buf *from = &text[joined[i - REASONINGS][2] ? k : 7];
            if (text[i].len)
                buf_puts(&text[i], "\n\n");
            buf_add(&text[i], from->s, from->len);
        }
    rec_close(in);
    buf_release(&b);
}

static const char *const llama3_force[] = { "Step", ":" };

static void open_compat(struct compressor **c, const char *model, const char *cl100k, bool llama3)
{
    struct err e = { "" };
    struct compress_spec spec = {
        .model = model, .cl100k = cl100k, .ratio = rates, .nratio = 5, .device = "cpu", .threads = 2, .rows = 2048
    };
    spec.rule.compat = true;
    if (llama3) {
        spec.rule.force = llama3_force;
        spec.rule.nforce = 2;
        spec.rule.force_digits = spec.rule.drop_consecutive = true;
    }
    assert_ok(compressor_open(c, &spec, &e));
}

/* Which text a golden line speaks of. */
static int text_index(const struct rec *r)
{
    struct json v, first;
    int64_t i = 0;
    if (rec_get(r, "source", &v)) {
        assert_true(json_int(v, &i));
        return (int)i;
    }
    assert_true(rec_get(r, "join", &v) && json_at(v, 0, &first) && json_int(first, &i));
    for (int k = 0; k < 4; k++)
        if (joined[k][0] == i && (joined[k][2] || i == 7))
            return REASONINGS + k;
    fail();
    return -1;
}

static struct json item(const struct rec *r, const char *key, size_t i)
{
    struct json list, v = { "", 0 };
    if (!rec_get(r, key, &list) || !json_at(list, i, &v))
        fail_msg("%s: no %s[%zu]", r->where, key, i);
    return v;
}

struct tally {
    int results, near, wrong;
};

/* One golden line against the five cuts of its text. */
static void check_result(const struct rec *r, const struct compress_job *j, struct tally *n)
{
    int64_t want;
    struct json v;
    assert_true(rec_get(r, "origin_tokens", &v) && json_int(v, &want));
    assert_int_equal(j->tokens, want);
    assert_true(rec_get(r, "chunks", &v) && json_int(v, &want));
    assert_int_equal(j->pieces.nchunk, want);
    for (size_t k = 0; k < 5; k++) {
        char digest[17], percent[32];
        double gap = 0;
        const struct compress_cut *x = &j->cut[k];
        sha256_16(x->text.s ? x->text.s : "", x->text.len, digest);
        compress_percent(x->tokens, j->tokens, percent);
        n->results++;
        bool same = json_str_is(item(r, "sha256", k), digest) && json_str_is(item(r, "rate", k), percent) &&
                    json_int(item(r, "compressed_tokens", k), &want) && x->tokens == want;
        if (same)
            continue;
        assert_true(json_double(item(r, "gap", k), &gap));
        if (gap < 1e-5) {
            n->near++;
            continue;
        }
        n->wrong++;
        printf("# %s rate %g: gap %g, got %s %s %lld\n", r->where, rates[k], gap, digest, percent,
               (long long)x->tokens);
    }
}

/* Golden lines with these arguments; check is called with the job of the line's text. */
static void each_golden(const char *path, const char *args, const struct compress_job *jobs,
                        void (*check)(const struct rec *, const struct compress_job *, struct tally *), struct tally *n)
{
    struct err e = { "" };
    struct rec_reader *in;
    struct rec r;
    const char *files[] = { path };
    assert_ok(rec_open(&in, files, 1, &e));
    while (rec_read(in, &r, &e) == 1) {
        struct json v;
        if (rec_get(&r, "args", &v) && !json_str_is(v, args))
            continue;
        check(&r, &jobs[text_index(&r)], n);
    }
    rec_close(in);
}

static void check_text(const struct rec *r, const struct compress_job *j, struct tally *n)
{
    struct buf b = BUF_INIT;
    for (size_t k = 0; k < 5; k++) {
        buf_reset(&b);
        json_str(item(r, "compressed", k), &b);
        n->results++;
        if (b.len != j->cut[k].text.len || memcmp(b.s, j->cut[k].text.s, b.len) != 0)
            n->near++; /* counted against the digests, which know how near it was */
    }
    buf_release(&b);
}

/* Words, their probabilities, chunks. */
static void check_words(const struct rec *r, const struct compress_job *j, struct tally *n)
{
    struct buf b = BUF_INIT;
    struct json list;
    assert_true(rec_get(r, "words", &list));
    assert_int_equal(json_count(list), j->words.n);
    for (size_t i = 0; i < j->words.n; i++) {
        const struct lingua_word *w = &j->words.word[i];
        double p = 0;
        buf_reset(&b);
        json_str(item(r, "words", i), &b);
        if (b.len != w->e - w->b || memcmp(b.s, j->words.s + w->b, b.len) != 0)
            fail_msg("%s: word %zu is %.*s, want %s", r->where, i, (int)(w->e - w->b), j->words.s + w->b, b.s);
        assert_true(json_double(item(r, "probs", i), &p));
        if (!(fabs(p - w->p) <= 2e-6))
            fail_msg("%s: word %zu %s got %.9g want %.9g", r->where, i, b.s, w->p, p);
        n->results++;
    }
    for (size_t i = 0; i < j->pieces.nchunk; i++) {
        buf_reset(&b);
        json_str(item(r, "chunk_texts", i), &b);
        assert_int_equal(b.len, j->pieces.chunk[i].e - j->pieces.chunk[i].b);
        assert_memory_equal(b.s, j->pieces.s.s + j->pieces.chunk[i].b, b.len);
    }
    buf_release(&b);
}

static void compare(const char *name, bool llama3)
{
    struct err e = { "" };
    struct compressor *c;
    struct tally n = { 0, 0, 0 };
    char model[200], golden[200];
    SHARED_OR_SKIP(cots, "data/real_cots.jsonl");
    SHARED_OR_SKIP(cl100k, "data/tokenizers/cl100k/cl100k_base.tiktoken");
    read_texts(cots);
    snprintf(model, sizeof model, "tests/golden/models/%s", name);
    open_compat(&c, model, cl100k, llama3);
    struct compress_job *jobs = xcalloc(TEXTS, sizeof *jobs);
    for (int i = 0; i < TEXTS; i++) {
        buf_add(&jobs[i].text, text[i].s, text[i].len);
        buf_printf(&jobs[i].label, "text %d", i);
    }
    assert_ok(compressor_run(c, jobs, TEXTS, &e));
    snprintf(golden, sizeof golden, "tests/golden/llmlingua/%s/results.jsonl", name);
    each_golden(golden, llama3 ? "llama3" : "rate", jobs, check_result, &n);
    printf("# %s %s: %d results, %d differ within a gap of 1e-5, %d wrong\n", name, llama3 ? "llama3" : "rate",
           n.results, n.near, n.wrong);
    assert_int_equal(n.wrong, 0);
    assert_true(n.results == (llama3 ? 44 : 404) * 5);
    struct tally whole = { 0, 0, 0 };
    snprintf(golden, sizeof golden, "tests/golden/llmlingua/%s/texts.jsonl", name);
    each_golden(golden, llama3 ? "llama3" : "rate", jobs, check_text, &whole);
    assert_true(whole.results >= 30 && whole.near <= n.near);
    if (!llama3) {
        snprintf(golden, sizeof golden, "tests/golden/llmlingua/%s/words.jsonl", name);
        each_golden(golden, "", jobs, check_words, &whole);
    }
    for (int i = 0; i < TEXTS; i++)
        compress_job_release(&jobs[i]);
    free(jobs);
    compressor_close(c);
}

static void test_xlmr(void **state)
{
    (void)state;
    compare("xlmr", false);
}

static void test_xlmr_llama3(void **state)
{
    (void)state;
    compare("xlmr", true);
}

static void test_bert(void **state)
{
    (void)state;
    compare("bert", false);
}

static void test_bert_llama3(void **state)
{
    (void)state;
    compare("bert", true);
}

/* Specification 2.7: q of each rate, with the doubles' truncation. */
static void test_percent(void **state)
{
    static const struct {
        double rate;
        int q;
    } cases[] = { { 0.1, 91 }, { 0.2, 81 }, { 0.3, 71 },  { 0.4, 61 }, { 0.5, 51 }, { 0.55, 45 }, { 0.6, 41 },
                  { 0.7, 31 }, { 0.8, 20 }, { 0.85, 16 }, { 0.9, 10 }, { 0.95, 6 }, { 0.99, 2 } };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(lingua_percent(cases[i].rate), cases[i].q);
}

static void test_digest(void **state)
{
    char out[17];
    (void)state;
    sha256_16("abc", 3, out);
    assert_string_equal(out, "ba7816bf8f01cfea");
}

static int done(void **state)
{
    (void)state;
    for (int i = 0; i < TEXTS; i++)
        buf_release(&text[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest),      cmocka_unit_test(test_percent), cmocka_unit_test(test_xlmr),
        cmocka_unit_test(test_xlmr_llama3), cmocka_unit_test(test_bert),    cmocka_unit_test(test_bert_llama3),
    };
    return cmocka_run_group_tests_name("llmlingua", tests, NULL, done);
}
