/* compress_bench - real chains of thought through a small XLM-R-shaped encoder with random weights: 5 ratios end to
 * end, what a further ratio costs, what is spent outside the encoder, words a second; beside the llmlingua package.
 *
 *     compress_bench [TEXTS]     rows: what, value, gate; exit 1 if a gate is missed. TEXTS: so many traces [400]
 *
 * One thread, CPU time of the process (the machine may have other work), the best of three runs; what is outside the
 * encoder is the least time on the wall that was not in it, divided by that CPU time; the encoder has 4
 * layers of width 256 (4 heads) and the cut XLM-R vocabulary of the shared data. Inside the clock: everything from text
 * to records; outside: opening. The peer is tests/bench/peer_llmlingua.py, run by $PEER_PYTHON or python3 on the same
 * folder, one thread, CPU time too; where the package cannot be imported the row says so and is not gated. Our --compat
 * results must be the package's, text for text. Gates: at least 10 times the peer; a further ratio below 2 %; outside
 * the encoder below 5 %; splitting and merging above 2 million tokens a second. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/record.h"
#include "io/safetensors.h"
#include "task/compress.h"
#include "task/think.h"
#include "text/tiktoken.h"
#include "text/tokenizer.h"

enum { LAYERS = 4, WIDTH = 256, HEADS = 4, FFN = 1024, POSITIONS = 514, SPARE = 100, RUNS = 3 };
static const double ratios[] = { 0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.4, 0.6, 0.8, 0.15 };
static struct err e;
static bool missed;

static void die(void)
{
    fprintf(stderr, "compress_bench: %s\n", e.msg);
    exit(1);
}

static double read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static void gate(const char *what, double got, double want, bool at_least)
{
    bool ok = at_least ? got >= want : got <= want;
    missed |= !ok;
    printf("%s\t%.4g\tgate %s %g\t%s\n", what, got, at_least ? ">=" : "<=", want, ok ? "ok" : "MISSED");
    fflush(stdout);
}

static const char *shared(const char *name)
{
    static char path[4][4096];
    static int k;
    const char *root = getenv("LATENT_SHARED");
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", root ? root : "../shared", name);
    return path[k];
}

/* ---- the encoder ---- */

struct shape {
    struct st_entry v[16 * LAYERS + 8];
    size_t n;
};

static void add(struct shape *s, const char *name, int64_t rows, int64_t cols)
{
    s->v[s->n++] =
        (struct st_entry){ .name = xstrdup(name), .dtype = ST_F32, .rank = cols ? 2 : 1, .shape = { rows, cols } };
}

static void add_linear(struct shape *s, const char *name, int64_t rows, int64_t cols)
{
    char full[200];
    snprintf(full, sizeof full, "%s.weight", name);
    add(s, full, rows, cols);
    snprintf(full, sizeof full, "%s.bias", name);
    add(s, full, rows, 0);
}

static void add_layer(struct shape *s, int i)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
    } part[] = { { "attention.self.query", WIDTH, WIDTH },
                 { "attention.self.key", WIDTH, WIDTH },
                 { "attention.self.value", WIDTH, WIDTH },
                 { "attention.output.dense", WIDTH, WIDTH },
                 { "attention.output.LayerNorm", WIDTH, 0 },
                 { "intermediate.dense", FFN, WIDTH },
                 { "output.dense", WIDTH, FFN },
                 { "output.LayerNorm", WIDTH, 0 } };
    for (size_t k = 0; k < sizeof part / sizeof *part; k++) {
        char name[200];
        snprintf(name, sizeof name, "roberta.encoder.layer.%d.%s", i, part[k].name);
        add_linear(s, name, part[k].rows, part[k].cols);
    }
}

static void put_file(const char *dir, const char *name, const char *s, size_t n)
{
    char *path = path_join(dir, name);
    if (file_write_atomic(path, s, n, &e) < 0)
        die();
    free(path);
}

/* A checkpoint folder under dir whose name the package accepts. */
static void make_model(const char *dir)
{
    struct shape s = { .n = 0 };
    struct buf b = BUF_INIT;
    if (file_read(&b, shared("data/tokenizers/xlmr-family-unigram/tokenizer.json"), 0, &e) < 0)
        die();
    put_file(dir, "tokenizer.json", b.s, b.len);
    struct tokenizer *t;
    if (tokenizer_open_json(&t, b.s, b.len, "tokenizer.json", &e) < 0)
        die();
    int64_t vocab = tokenizer_size(t) + SPARE;
    tokenizer_close(t);
    add(&s, "roberta.embeddings.word_embeddings.weight", vocab, WIDTH);
    add(&s, "roberta.embeddings.position_embeddings.weight", POSITIONS, WIDTH);
    add(&s, "roberta.embeddings.token_type_embeddings.weight", 1, WIDTH);
    add_linear(&s, "roberta.embeddings.LayerNorm", WIDTH, 0);
    for (int i = 0; i < LAYERS; i++)
        add_layer(&s, i);
    add_linear(&s, "classifier", 2, WIDTH);
    void **data = xcalloc(s.n, sizeof *data);
    for (size_t i = 0; i < s.n; i++) {
        size_t n = (size_t)(s.v[i].shape[0] * (s.v[i].rank == 2 ? s.v[i].shape[1] : 1));
        bool norm = strstr(s.v[i].name, "LayerNorm.weight") != NULL;
        float *v = xreallocarray(NULL, n, sizeof *v);
        struct rng r = rng_stream(1, s.v[i].name, strlen(s.v[i].name), 0);
        for (size_t k = 0; k < n; k++)
            v[k] = (float)(norm ? 1 + 0.1 * rng_normal(&r, k) : rng_normal(&r, k) / sqrt(WIDTH));
        data[i] = v;
    }
    char *path = path_join(dir, "model.safetensors");
    if (safetensors_write(path, s.v, (const void *const *)data, s.n, &e) < 0)
        die();
    free(path);
    for (size_t i = 0; i < s.n; i++) {
        free((char *)s.v[i].name);
        free(data[i]);
    }
    free(data);
    buf_reset(&b);
    buf_printf(
        &b,
        "{\"architectures\": [\"XLMRobertaForTokenClassification\"], \"model_type\": \"xlm-roberta\", "
        "\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
        "\"vocab_size\": %lld, \"max_position_embeddings\": %d, \"type_vocab_size\": 1, \"layer_norm_eps\": 1e-05, "
        "\"hidden_act\": \"gelu\", \"pad_token_id\": 1, \"bos_token_id\": 0, \"eos_token_id\": 2, "
        "\"torch_dtype\": \"float32\"}\n",
        WIDTH, FFN, LAYERS, HEADS, (long long)vocab, POSITIONS);
    put_file(dir, "config.json", b.s, b.len);
    static const char config[] =
        "{\"bos_token\": \"<s>\", \"cls_token\": \"<s>\", \"eos_token\": \"</s>\", \"mask_token\": \"<mask>\", "
        "\"model_max_length\": 512, \"pad_token\": \"<pad>\", \"sep_token\": \"</s>\", \"tokenizer_class\": "
        "\"XLMRobertaTokenizer\", \"unk_token\": \"<unk>\"}\n";
    put_file(dir, "tokenizer_config.json", config, sizeof config - 1);
    buf_release(&b);
}

/* ---- the texts ---- */

struct texts {
    struct compress_job *job;
    size_t n;
};

static void read_texts(struct texts *t, size_t most, const char *dir)
{
    struct rec_reader *in;
    struct rec r;
    struct buf b = BUF_INIT, lines = BUF_INIT;
    const char *path = shared("data/real_cots.jsonl");
    int rc = rec_open(&in, &path, 1, &e);
    t->job = xcalloc(most, sizeof *t->job);
    while (rc >= 0 && t->n < most && (rc = rec_read(in, &r, &e)) > 0) {
        buf_reset(&b);
        if (rec_text(&r, "response_text", &b, &e) < 0)
            die();
        struct view v = think_before_end(b.s, b.len);
        v = v.s ? view_trim(v.s, v.n) : view_trim(b.s, b.len);
        buf_add(&t->job[t->n].text, v.s, v.n);
        buf_printf(&t->job[t->n].label, "text %zu", t->n);
        buf_puts(&lines, "{\"text\": ");
        json_put_str(&lines, v.s, v.n);
        buf_puts(&lines, "}\n");
        t->n++;
    }
    if (rc < 0)
        die();
    rec_close(in);
    put_file(dir, "texts.jsonl", lines.s, lines.len);
    buf_release(&b);
    buf_release(&lines);
}

/* ---- the runs ---- */

struct cost {
    double cpu;     /* of the whole */
    double outside; /* by the clock on the wall: what is not the encoder */
};

static struct compress_spec spec_of(const char *dir, size_t nratio, bool compat)
{
    struct compress_spec s = { .model = dir,
                               .rule = { .math_safe = true, .compat = compat },
                               .ratio = ratios,
                               .nratio = nratio,
                               .device = "cpu",
                               .threads = 1,
                               .rows = 4096 };
    if (compat)
        s.cl100k = shared("data/tokenizers/cl100k/cl100k_base.tiktoken");
    return s;
}

/* Texts to records, the best of some runs. */
static struct cost compress_all(struct texts *t, const char *dir, size_t nratio, bool compat, struct buf *out)
{
    struct compress_spec s = spec_of(dir, nratio, compat);
    struct compressor *c;
    struct cost best = { INFINITY, INFINITY };
    if (compressor_open(&c, &s, &e) < 0 || compressor_run(c, t->job, 1, &e) < 0) /* weights are packed at first use */
        die();
    for (int run = 0; run < RUNS; run++) {
        double model = compressor_model_seconds(c), begin = now(), start = read_clock(CLOCK_MONOTONIC);
        buf_reset(out);
        if (compressor_run(c, t->job, t->n, &e) < 0)
            die();
        for (size_t i = 0; i < t->n; i++)
            for (size_t r = 0; r < nratio; r++)
                compress_record(c, &t->job[i], NULL, i, r, false, out);
        double cpu = now() - begin, wall = read_clock(CLOCK_MONOTONIC) - start;
        double outside = wall - (compressor_model_seconds(c) - model);
        best.cpu = cpu < best.cpu ? cpu : best.cpu;
        best.outside = outside < best.outside ? outside : best.outside;
    }
    compressor_close(c);
    return best;
}

/* Splitting and merging alone, tokens a second. */
static double words_per_second(const struct texts *t, const char *dir, bool compat, double *tokenizing)
{
    struct tokenizer *tok;
    struct tiktoken *tik = NULL;
    struct lingua *l;
    struct lingua_scratch *sc = lingua_scratch_new();
    struct lingua_text *x = xcalloc(t->n, sizeof *x);
    struct lingua_words w = { .n = 0 };
    struct tokens ids = TOKENS_INIT;
    double best = INFINITY, best_tokenizing = INFINITY;
    size_t tokens = 0;
    if (tokenizer_open(&tok, dir, &e) < 0 ||
        (compat && tiktoken_open(&tik, shared("data/tokenizers/cl100k/cl100k_base.tiktoken"), &e) < 0))
        die();
    struct lingua_spec s = {
        .family = LINGUA_XLMR, .tokenizer = tok, .window = 512, .math_safe = true, .compat = compat, .cl100k = tik
    };
    if (lingua_open(&l, &s, &e) < 0)
        die();
    for (int run = 0; run < RUNS + 2; run++) {
        double begin = now();
        for (size_t i = 0; i < t->n; i++)
            if (lingua_split(l, sc, t->job[i].text.s, t->job[i].text.len, &x[i], &e) < 0 ||
                lingua_merge(l, sc, &x[i], &w, &e) < 0)
                die();
        double seconds = now() - begin;
        best = seconds < best ? seconds : best;
        begin = now();
        for (size_t i = 0; i < t->n; i++)
            if (tokenizer_encode(tok, t->job[i].text.s, t->job[i].text.len, TOK_OFFSETS, &ids, &e) < 0)
                die();
        seconds = now() - begin;
        best_tokenizing = seconds < best_tokenizing ? seconds : best_tokenizing;
    }
    for (size_t i = 0; i < t->n; i++) {
        tokens += x[i].n;
        lingua_text_release(&x[i]);
    }
    free(x);
    tokens_release(&ids);
    lingua_words_release(&w);
    lingua_close(l);
    lingua_scratch_free(sc);
    tokenizer_close(tok);
    tiktoken_close(tik);
    *tokenizing = (double)tokens / best_tokenizing;
    return (double)tokens / best;
}

static uint64_t fnv(const struct buf *b)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < b->len; i++)
        h = (h ^ (unsigned char)b->s[i]) * 0x100000001b3u;
    return h;
}

/* The package on the same folder: its seconds, or 0. *same: our compat texts that equal its. */
static double run_peer(const struct texts *t, const char *dir, size_t *same)
{
    struct buf cmd = BUF_INIT, hashes = BUF_INIT;
    double seconds = 0;
    const char *python = getenv("PEER_PYTHON");
    buf_printf(&cmd, "%s tests/bench/peer_llmlingua.py %s %s/texts.jsonl %s %s/hashes 0.1 0.3 0.5 0.7 0.9 2>%s/log",
               python ? python : "python3", dir, dir, shared("data/tokenizers/cl100k/cl100k_base.tiktoken"), dir, dir);
    FILE *f = popen(cmd.s, "r");
    bool ok = f && fscanf(f, "%lf", &seconds) == 1;
    if (f)
        pclose(f);
    buf_reset(&cmd);
    buf_printf(&cmd, "%s/hashes", dir);
    if (ok && file_read(&hashes, cmd.s, 0, &e) < 0)
        die();
    const char *at = hashes.s;
    for (size_t r = 0; ok && r < 5; r++)
        for (size_t i = 0; i < t->n; i++) {
            char *end;
            *same += strtoull(at, &end, 16) == fnv(&t->job[i].cut[r].text);
            at = end;
        }
    buf_release(&cmd);
    buf_release(&hashes);
    return ok ? seconds : 0;
}

static void remove_folder(const char *dir)
{
    static const char *const names[] = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "texts.jsonl", "hashes", "log"
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = path_join(dir, names[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

int main(int argc, char **argv)
{
    size_t most = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 400;
    char dir[] = "/tmp/xlm-roberta-large-bench-XXXXXX";
    struct texts t = { NULL, 0 };
    struct buf out = BUF_INIT;
    if (access(shared("data/real_cots.jsonl"), R_OK) != 0) {
        printf("# skip: shared data absent: data/real_cots.jsonl\n");
        return 0;
    }
    if (!mkdtemp(dir))
        return 1;
    make_model(dir);
    read_texts(&t, most, dir);
    double tokenizing;
    for (int compat = 0; compat < 2; compat++) {
        double words = words_per_second(&t, dir, compat, &tokenizing);
        gate(compat ? "split and merge, --compat, tokens/s" : "split and merge, tokens/s", words, 2e6, true);
    }
    printf("of that, tokenizing once, tokens/s\t%.4g\n", tokenizing);
    struct cost one = compress_all(&t, dir, 1, false, &out), five = compress_all(&t, dir, 5, false, &out),
                ten = compress_all(&t, dir, 10, false, &out);
    printf("%zu texts, 5 ratios, s\t%.4g\t%.4g outside the encoder\n", t.n, five.cpu, five.outside);
    gate("each further ratio, share of one", (ten.outside - one.outside) / 9 / one.cpu, 0.02, false);
    gate("outside the encoder, 5 ratios, share", five.outside / five.cpu, 0.05, false);
    struct cost compat = compress_all(&t, dir, 5, true, &out);
    gate("outside the encoder, --compat, share", compat.outside / compat.cpu, 0.05, false);
    size_t same = 0;
    double peer = run_peer(&t, dir, &same);
    if (peer > 0) {
        printf("llmlingua package, s\t%.4g\n", peer);
        gate("times as fast as the package", peer / five.cpu, 10, true);
        gate("--compat, times as fast as the package", peer / compat.cpu, 10, true);
        gate("--compat texts equal to the package's, share", (double)same / (double)(5 * t.n), 1, true);
    } else {
        printf("llmlingua package\tnot installed for %s, no ratio\n",
               getenv("PEER_PYTHON") ? getenv("PEER_PYTHON") : "python3");
    }
    for (size_t i = 0; i < t.n; i++)
        compress_job_release(&t.job[i]);
    free(t.job);
    buf_release(&out);
    remove_folder(dir);
    return missed;
}
