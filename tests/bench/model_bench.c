/* model_bench - opening and prefill, as shares of what the machine can do.
 *
 *     model_bench [DIR]        DIR: also opens and times that checkpoint (one token)
 *
 * 1. Open: a folder with the tensors of Qwen3-4B (8 GB of zeros in a sparse file) is opened; nothing but headers and
 *    norms may be read. LATENT_BENCH_4B=1 also computes one token with it (packing included, and after it).
 * 2. Prefill: 512 tokens through two llama shapes with random weights (performance specification, section 6), logits of
 *    all rows included, no cache; best of the passes that fit in three seconds. LATENT_BENCH_PYTHON=PYTHON, one that
 * has transformers: its figure follows, for the same checkpoint. LATENT_BENCH_THREADS=N: instead of 2 (1 disturbs and
 * is disturbed less). On a machine that has other work compare the processor time, the best pass's divided by the
 * threads. FLOPs: 2 per weight and token, and attention's two products over the causal half. The limit is this
 * machine's multiply-add peak, measured in the same run. Outside the clock: opening, packing, the first pass. */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/resource.h>

#include "bench.h"

#include "base/rng.h"
#include "io/hash.h"
#include "io/safetensors.h"
#include "kernels/kernels.h"
#include "model/branch.h"
#include "model/model.h"
#include "train/peak.h"

static int threads;

enum { PREFILL_SECONDS = 3 };

/* ---- checkpoints ---- */

struct shape {
    const char *name, *type, *architecture;
    int hidden, ffn, layers, heads, kv_heads, head_dim, vocab;
    bool tied, qk_norm;
};

static void add(struct st_entry *en, size_t *n, enum st_dtype t, int64_t rows, int64_t cols, const char *fmt, int layer)
{
    struct buf b = BUF_INIT;
    const char *percent = strchr(fmt, '%');
    buf_add(&b, fmt, percent ? (size_t)(percent - fmt) : strlen(fmt));
    if (percent)
        buf_printf(&b, "%d%s", layer, percent + 1);
    en[(*n)++] = (struct st_entry){ buf_take(&b), t, cols ? 2 : 1, { rows, cols } };
}

static size_t entries_of(const struct shape *s, enum st_dtype t, struct st_entry *en)
{
    size_t n = 0;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    add(en, &n, t, s->vocab, s->hidden, "model.embed_tokens.weight", 0);
    for (int l = 0; l < s->layers; l++) {
        add(en, &n, t, s->hidden, 0, "model.layers.%.input_layernorm.weight", l);
        add(en, &n, t, q, s->hidden, "model.layers.%.self_attn.q_proj.weight", l);
        add(en, &n, t, kv, s->hidden, "model.layers.%.self_attn.k_proj.weight", l);
        add(en, &n, t, kv, s->hidden, "model.layers.%.self_attn.v_proj.weight", l);
        add(en, &n, t, s->hidden, q, "model.layers.%.self_attn.o_proj.weight", l);
        if (s->qk_norm) {
            add(en, &n, t, s->head_dim, 0, "model.layers.%.self_attn.q_norm.weight", l);
            add(en, &n, t, s->head_dim, 0, "model.layers.%.self_attn.k_norm.weight", l);
        }
        add(en, &n, t, s->hidden, 0, "model.layers.%.post_attention_layernorm.weight", l);
        add(en, &n, t, s->ffn, s->hidden, "model.layers.%.mlp.gate_proj.weight", l);
        add(en, &n, t, s->ffn, s->hidden, "model.layers.%.mlp.up_proj.weight", l);
        add(en, &n, t, s->hidden, s->ffn, "model.layers.%.mlp.down_proj.weight", l);
    }
    add(en, &n, t, s->hidden, 0, "model.norm.weight", 0);
    if (!s->tied)
        add(en, &n, t, s->vocab, s->hidden, "lm_head.weight", 0);
    return n;
}

static void write_config(const struct shape *s, const char *dir)
{
    struct buf b = BUF_INIT;
    char *path = path_join(dir, "config.json");
    buf_printf(&b,
               "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,"
               "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,"
               "\"vocab_size\":%d,\"tie_word_embeddings\":%s,\"max_position_embeddings\":262144,"
               "\"rope_theta\":5000000,\"eos_token_id\":0}\n",
               s->architecture, s->type, s->hidden, s->ffn, s->layers, s->heads, s->kv_heads, s->head_dim, s->vocab,
               s->tied ? "true" : "false");
    bench_must(file_mkdirs(dir, &bench_err));
    bench_must(file_write_atomic(path, b.s, b.len, &bench_err));
    buf_release(&b);
    free(path);
}

/* Random weights of deviation 0.05, norms 1. */
static void write_random(const struct shape *s, const char *dir)
{
    struct st_entry *en = xcalloc(64 + 11 * (size_t)s->layers, sizeof *en);
    size_t n = entries_of(s, ST_F32, en);
    struct rng r = rng_stream(1, s->name, strlen(s->name), 0);
    struct st_writer *w;
    uint64_t at = 0;
    write_config(s, dir);
    bench_must(st_writer_open_dir(&w, dir, en, n, 0, &bench_err));
    for (size_t i = 0; i < n; i++) {
        int64_t count = en[i].shape[0] * (en[i].rank == 2 ? en[i].shape[1] : 1);
        float *v = xcalloc((size_t)count, sizeof *v);
        for (int64_t k = 0; k < count; k++)
            v[k] = en[i].rank == 1 ? 1.0f : (float)((rng_unit(&r, at++) - 0.5) * 0.17);
        bench_must(st_writer_put(w, i, v, (uint64_t)count * 4, &bench_err));
        free(v);
        free((void *)(size_t)en[i].name);
    }
    bench_must(st_writer_commit(w, &bench_err));
    st_writer_close(w);
    free(en);
}

/* The same tensors in bf16, all zeros: a header and a hole. */
static uint64_t write_sparse(const struct shape *s, const char *dir)
{
    struct st_entry *en = xcalloc(64 + 11 * (size_t)s->layers, sizeof *en);
    size_t n = entries_of(s, ST_BF16, en);
    struct buf b = BUF_INIT;
    uint64_t at = 0;
    buf_add(&b, "\0\0\0\0\0\0\0\0", 8);
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = 2 * (uint64_t)en[i].shape[0] * (uint64_t)(en[i].rank == 2 ? en[i].shape[1] : 1);
        buf_printf(&b, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%" PRId64, i ? ',' : '{', en[i].name, en[i].shape[0]);
        if (en[i].rank == 2)
            buf_printf(&b, ",%" PRId64, en[i].shape[1]);
        buf_printf(&b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + bytes);
        at += bytes;
        free((void *)(size_t)en[i].name);
    }
    buf_putc(&b, '}');
    for (int i = 0; i < 8; i++)
        b.s[i] = (char)((b.len - 8) >> 8 * i);
    write_config(s, dir);
    char *path = path_join(dir, "model.safetensors");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, b.s, b.len) != (ssize_t)b.len || ftruncate(fd, (off_t)(b.len + at)) < 0 || close(fd) < 0)
        bench_must(err_errno(&bench_err, "%s: cannot write", path));
    free(path);
    free(en);
    buf_release(&b);
    return at;
}

/* ---- passes ---- */

struct run {
    struct device *d;
    struct model *m;
    struct tensor *ids, *pos, *begin, *logits;
    int rows, vocab;
};

static void run_open(struct run *r, struct device *d, struct model *m, int rows)
{
    int32_t *v = xcalloc((size_t)rows, sizeof *v), ends[2] = { 0, rows };
    *r = (struct run){ .d = d, .m = m, .rows = rows, .vocab = model_config(m)->vocab };
    bench_must(d->tensor_new(d, &r->ids, DTYPE_I32, 1, rows, "ids", &bench_err));
    bench_must(d->tensor_new(d, &r->pos, DTYPE_I32, 1, rows, "positions", &bench_err));
    bench_must(d->tensor_new(d, &r->begin, DTYPE_I32, 1, 2, "ends", &bench_err));
    bench_must(d->tensor_new(d, &r->logits, DTYPE_F32, rows, r->vocab, "logits", &bench_err));
    for (int i = 0; i < rows; i++)
        v[i] = i;
    d->tensor_write(d, r->pos, 0, v, (size_t)rows);
    for (int i = 0; i < rows; i++)
        v[i] = (int32_t)((unsigned)i * 2654435761u % (unsigned)r->vocab);
    d->tensor_write(d, r->ids, 0, v, (size_t)rows);
    d->tensor_write(d, r->begin, 0, ends, 2);
    free(v);
}

static double run_pass(struct run *r)
{
    double t = bench_now();
    struct model_varlen b = { .rows = r->rows, .nseq = 1, .ids = r->ids, .table_row = r->pos, .begin = r->begin };
    model_forward_varlen(r->m, &b);
    model_logits(r->m, r->logits, NULL, r->rows);
    bench_must(r->d->sync(r->d, &bench_err));
    return bench_now() - t;
}

static void run_close(struct run *r)
{
    r->d->tensor_free(r->d, r->ids);
    r->d->tensor_free(r->d, r->pos);
    r->d->tensor_free(r->d, r->begin);
    r->d->tensor_free(r->d, r->logits);
}

static double flops_of(const struct model_config *c, int rows)
{
    double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;
    double weights = c->layers * ((q + 2 * kv) * c->hidden + q * c->hidden + 3.0 * c->ffn * c->hidden) +
                     (double)c->vocab * c->hidden;
    double pairs = (double)rows * (rows + 1) / 2;
    return 2 * weights * rows + 4 * pairs * q * c->layers;
}

/* ---- the reward server's work ---- */

enum { ITEMS = 32, SHARED = 400, ANSWER = 10 };

/* Best seconds of n sequences scored together, or one call each. */
static double run_items(struct branches *b, const struct score_seq *q, bool together)
{
    double best = 1e9;
    for (int rep = 0; rep < 5; rep++) {
        double t = bench_now();
        if (together)
            bench_must(branches_run(b, q, ITEMS, &bench_err));
        for (int i = 0; i < ITEMS && !together; i++)
            bench_must(branches_run(b, &q[i], 1, &bench_err));
        t = bench_now() - t;
        best = t < best ? t : best;
    }
    return best;
}

/* Answers behind one prompt together and one at a time; then items that share nothing, 64 tokens of which the last are
 * the answer, as a share of the peak (only the answer's rows pass the head). */
static void bench_reward(struct model *m, const char *name, double limit)
{
    const struct model_config *c = model_config(m);
    static int32_t ids[ITEMS][SHARED + ANSWER];
    static float logprob[ITEMS][ANSWER];
    struct score_seq q[ITEMS];
    struct branches *b;
    bench_must(branches_open(&b, m, &(struct branches_options){ .positions = 16384, .rows = 512 }, &bench_err));
    for (int i = 0; i < ITEMS; i++) {
        for (int k = 0; k < SHARED + ANSWER; k++)
            ids[i][k] = k < SHARED ? k * 7 % 1000 : (k * 13 + i * 31) % 1000;
        q[i] = (struct score_seq){ ids[i], SHARED + ANSWER, SHARED, logprob[i], NULL };
    }
    double one = run_items(b, q, false), all = run_items(b, q, true);
    printf("reward\t%s\t%d threads\t%d items, %d tokens shared\t%.1f ms one at a time\t%.1f ms together\t%.1f times\n",
           name, threads, ITEMS, SHARED, one * 1e3, all * 1e3, one / all);
    for (int i = 0; i < ITEMS; i++) {
        for (int k = 0; k < 64; k++)
            ids[i][k] = (k * 7 + i * 101 + 1) % 1000;
        q[i] = (struct score_seq){ ids[i], 64, 64 - ANSWER, logprob[i], NULL };
    }
    all = run_items(b, q, true);
    double head = 2.0 * c->vocab * c->hidden;
    double gflops = ITEMS * (flops_of(c, 63) - head * (63 - ANSWER)) / all * 1e-9;
    printf(
        "reward\t%s\t%d threads\t%d items of 64 tokens, nothing shared\t%.1f ms\t%.1f GFLOP/s\tpeak %.1f\tshare %.2f\n",
        name, threads, ITEMS, all * 1e3, gflops, limit, gflops / limit);
    branches_close(b);
}

static void bench_prefill(const struct shape *s, const char *tmp, double limit)
{
    struct device *d;
    struct model *m;
    struct run r;
    char *dir = path_join(tmp, s->name);
    write_random(s, dir);
    bench_must(device_open(&d, "cpu", threads, &bench_err));
    bench_must(model_open(&m, dir, d, &bench_err));
    run_open(&r, d, m, 512);
    run_pass(&r);
    double best = 1e9, busy = 1e9, until = bench_now() + PREFILL_SECONDS;
    while (bench_now() < until) {
        double cpu = bench_cpu(), t = run_pass(&r);
        cpu = (bench_cpu() - cpu) / threads;
        best = t < best ? t : best;
        busy = cpu < busy ? cpu : busy;
    }
    size_t n = (size_t)r.rows * (size_t)r.vocab;
    float *logits = xcalloc(n, sizeof *logits);
    char hex[HASH_HEX];
    bench_must(d->tensor_read(d, r.logits, 0, logits, n, &bench_err));
    hash_hex(hash_bytes(logits, n * sizeof *logits), hex);
    double gflops = flops_of(model_config(m), 512) / best * 1e-9;
    printf("prefill\t%s\t%s\t%d threads\t512 tokens\t%.0f tokens/s, %.0f by processor time\t%.1f GFLOP/s\tpeak "
           "%.1f\tshare %.2f\t%.8s\n",
           s->name, d->numerics, threads, 512 / best, 512 / busy, gflops, limit, gflops / limit, hex);
    free(logits);
    run_close(&r);
    bench_reward(m, s->name, limit);
    model_close(m);
    device_close(d);
    bench_times(s->name, 512 / best, bench_ask("model_peer.py", "\"%s\" %d", dir, threads), 0);
    bench_remove(dir);
    free(dir);
}

static double resident_mb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static void bench_open(const char *dir, const char *name, uint64_t bytes, bool token)
{
    struct device *d;
    struct model *m;
    bench_must(device_open(&d, "cpu", threads, &bench_err));
    double t = bench_now();
    bench_must(model_open(&m, dir, d, &bench_err));
    t = bench_now() - t;
    printf("open\t%s\t%.2f GB\t%.3f s\tpeak memory %.0f MB\n", name, (double)bytes * 1e-9, t, resident_mb());
    if (token) {
        struct run r;
        run_open(&r, d, m, 1);
        double first = run_pass(&r), second = run_pass(&r);
        printf("token\t%s\tfirst %.1f s, packing included\tsecond %.2f s\tpeak memory %.0f MB\n", name, first, second,
               resident_mb());
        run_close(&r);
    }
    model_close(m);
    device_close(d);
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = {
        { "3.4M", "llama", "LlamaForCausalLM", 192, 512, 6, 6, 6, 32, 4096, true, false },
        { "12.5M", "llama", "LlamaForCausalLM", 320, 864, 8, 5, 5, 64, 8192, true, false },
    };
    static const struct shape qwen = { "qwen3-4b", "qwen3", "Qwen3ForCausalLM", 2560, 9728, 36, 32, 8, 128, 151936,
                                       true,       true };
    bench_begin("model_bench");
    threads = bench_threads();
    char *tmp = bench_folder();
    char *dir = path_join(tmp, qwen.name);
    uint64_t bytes = write_sparse(&qwen, dir);
    bench_open(dir, qwen.name, bytes, getenv("LATENT_BENCH_4B") != NULL);
    bench_remove(dir);
    free(dir);
    if (argc > 1)
        bench_open(argv[1], argv[1], 0, true);
    double limit = peak_flops(threads, 0) * 1e-9;
    for (int i = 0; i < 2; i++)
        bench_prefill(&shapes[i], tmp, limit);
    bench_remove(tmp);
    free(tmp);
    return 0;
}
