/* device_bench - a CUDA device in the shapes of Qwen3-4B and XLM-R-large, as shares of what the device can do.
 *
 *     device_bench [DEVICE [PART...]]     rows: name, shape, milliseconds, figure, share of the limit measured beside
 *
 * Parts:
 * - limits: copy bandwidth and multiplication at 8192^3 alone (always first)
 * - kernels: linear, attention, sampler, norms, each alone (default); products in order and in any
 * - decode: whole decode steps by batch and context, tokens a second; in order and in any
 * - prefill: packed prompts of 256, tokens a second
 * - train: a LoRA step (rank 8 on all matrices) of packed rows of 700, tokens a second
 * - encoder: XLM-R-large over packed texts of 512, tokens a second
 *
 * LATENT_BENCH_SMALL=1: tiny shapes, to walk through it on any device (the CPU too).
 *
 * Inside the clock: many enqueued operations and one wait, the shortest of five rounds; host launch cost counts where
 * it cannot hide. Random data (zeros multiply faster). Steps run one layer's weights and cache once for each layer of
 * the model: larger than any cache of the chip, so it stands for all of them. Limits: decode and prefill by the
 * serial bound, each operation's bytes at the copy's bandwidth or its FLOPs at the multiplication's rate, whichever
 * takes longer; training by its model FLOPs (4 a frozen weight). Without a device it says so and is content. */
#include "bench.h"
#include "kernels/kernels.h"

struct shape {
    int hidden, ffn, heads, kv_heads, hd, vocab, layers;
};
static const struct shape qwen3_4b = { 2560, 9728, 32, 8, 128, 151936, 36 };
static const struct shape xlmr_large = { 1024, 4096, 16, 16, 64, 250102, 24 };
static const struct shape tiny = { 64, 96, 4, 2, 16, 300, 2 };
static struct shape m; /* the one in use */
static bool small;
enum { ROUNDS = 5 };
static int repeat = 20;

static struct device *d;
static double bandwidth, flops; /* measured limits, bytes and operations a second */

static void wait_for_all(void)
{
    bench_must(d->sync(d, &bench_err));
}

/* Enough different numbers; made once, written again and again. */
static const float *noise(size_t n)
{
    static float *v;
    static size_t have;
    if (have < n) {
        free(v);
        v = xreallocarray(NULL, n, sizeof *v);
        uint32_t x = 12345;
        for (size_t i = 0; i < n; i++) {
            x = x * 1664525u + 1013904223u;
            v[i] = (float)(int32_t)x * 0x1p-31f;
        }
        have = n;
    }
    return v;
}

static struct tensor *tensor(enum dtype t, int64_t rows, int64_t cols)
{
    struct tensor *x;
    bench_must(d->tensor_new(d, &x, t, rows, cols, "bench", &bench_err));
    size_t n = (size_t)(rows * cols), piece = 1 << 24;
    for (size_t at = 0; at < n && (t == DTYPE_F32 || t == DTYPE_BF16); at += piece) {
        size_t some = n - at < piece ? n - at : piece;
        const float *f = noise(some);
        if (t == DTYPE_F32) {
            d->tensor_write(d, x, at, f, some);
            continue;
        }
        uint16_t *h = xreallocarray(NULL, some, sizeof *h);
        for (size_t i = 0; i < some; i++) {
            uint32_t u;
            memcpy(&u, &f[i], 4);
            h[i] = (uint16_t)(u >> 16);
        }
        d->tensor_write(d, x, at, h, some);
        free(h);
    }
    return x;
}

static struct tensor *ints(int64_t rows, int64_t cols, const int32_t *v)
{
    struct tensor *x;
    bench_must(d->tensor_new(d, &x, DTYPE_I32, rows, cols, "bench", &bench_err));
    d->tensor_write(d, x, 0, v, (size_t)(rows * cols));
    return x;
}

typedef void operation(void *arg);

static double seconds(operation *op, void *arg)
{
    double best = 1e30;
    op(arg);
    wait_for_all();
    for (int r = 0; r < ROUNDS; r++) {
        double t = bench_now();
        for (int i = 0; i < repeat; i++)
            op(arg);
        wait_for_all();
        t = (bench_now() - t) / repeat;
        best = t < best ? t : best;
    }
    return best;
}

static void row(const char *name, const char *shape, double t, double bytes, double ops)
{
    double by_bytes = bytes / bandwidth, by_ops = ops / flops, limit = by_bytes > by_ops ? by_bytes : by_ops;
    printf("%-16s %-28s %9.4f ms %8.1f GB/s %8.1f TFLOP/s %5.1f%%\n", name, shape, t * 1e3, bytes / t * 1e-9,
           ops / t * 1e-12, 100 * limit / t);
}

/* ---- both ways: what it costs that a row's bits do not depend on the batch ---- */

enum { IN_ORDER, IN_ANY, WAYS };

static void turn_to(int way)
{
    if (d->any_order)
        d->any_order(d, way == IN_ANY);
}

/* The ways take turns: a clock that drifts is neither's. */
static void both_ways(operation *op, void *const arg[WAYS], double t[WAYS])
{
    t[IN_ORDER] = t[IN_ANY] = 1e30;
    for (int turn = 0; turn < 2 * WAYS; turn++) {
        int way = turn % WAYS;
        turn_to(way);
        double now = seconds(op, arg[way]);
        t[way] = now < t[way] ? now : t[way];
    }
    turn_to(IN_ORDER);
}

static void cost_row(const char *name, const char *shape, const double t[WAYS])
{
    double cost = 100 * (t[IN_ORDER] / t[IN_ANY] - 1);
    const char *verdict = cost <= 3 ? "within the aim of 3%" : cost <= 10 ? "within the gate of 10%" : "ABOVE 10%";
    printf("%-16s %-28s %9.4f ms %9.4f ms in any order, cost %.1f%%: %s\n", name, shape, t[IN_ORDER] * 1e3,
           t[IN_ANY] * 1e3, cost, d->any_order ? verdict : "there is one order");
}

/* ---- linear ---- */

static void *kept[16]; /* what weights borrow */
static int nkept;

static void drop_kept(void)
{
    while (nkept > 0)
        free(kept[--nkept]);
}

struct linear {
    struct tensor *y, *x;
    struct weight *w;
    int rows;
};

static void linear_op(void *arg)
{
    struct linear *l = arg;
    d->linear(d, l->y, l->x, l->w, NULL, l->rows, false);
}

static struct weight *random_weight(int n, int k)
{
    size_t size = (size_t)n * (size_t)k;
    uint16_t *h = xreallocarray(NULL, size, sizeof *h);
    const float *f = noise(1 << 20);
    struct weight *w;
    for (size_t i = 0; i < size; i++) {
        float v = f[i % ((1 << 20) - 3)] / 32;
        uint32_t u;
        memcpy(&u, &v, 4);
        h[i] = (uint16_t)(u >> 16);
    }
    struct weight_part part = { h, DTYPE_BF16, n };
    bench_must(d->weight_new(d, &w, &part, 1, k, "bench", &bench_err));
    wait_for_all(); /* the CPU packs at the first use */
    kept[nkept++] = h;
    return w;
}

static struct linear linear_open(int rows, int n, int k)
{
    return (struct linear){ tensor(DTYPE_F32, rows, n), tensor(DTYPE_F32, rows, k), random_weight(n, k), rows };
}

static void linear_close(struct linear *l)
{
    d->weight_free(d, l->w);
    d->tensor_free(d, l->x);
    d->tensor_free(d, l->y);
    drop_kept();
}

static double linear_time(int rows, int n, int k)
{
    struct linear l = linear_open(rows, n, k);
    double t = seconds(linear_op, &l);
    linear_close(&l);
    return t;
}

/* ---- attention ---- */

static void attend_op(void *arg)
{
    d->attend(d, arg);
}

/* `rows` new rows at the end of each of nseq contexts. */
static void attention(const char *name, enum dtype type, int nseq, int rows, int context)
{
    int per = (context + KV_PAGE - 1) / KV_PAGE, pages = nseq * per + 1, width = (m.heads + 2 * m.kv_heads) * m.hd;
    int32_t *table = xcalloc((size_t)(nseq * per), 4), *slot = xcalloc((size_t)nseq, 4),
            *begin = xcalloc((size_t)nseq + 1, 4), *contexts = xcalloc((size_t)nseq, 4);
    for (int s = 0; s < nseq; s++) {
        slot[s] = s;
        begin[s + 1] = begin[s] + rows;
        contexts[s] = context;
        for (int p = 0; p < per; p++)
            table[s * per + p] = 1 + (p * nseq + s); /* pages of one sequence lie apart, as after a while of serving */
    }
    struct tensor *t[] = { tensor(DTYPE_F32, nseq * rows, m.heads * m.hd),
                           tensor(DTYPE_F32, nseq * rows, width),
                           tensor(type, (int64_t)pages * KV_PAGE, m.kv_heads * m.hd),
                           tensor(type, (int64_t)pages * KV_PAGE, m.kv_heads * m.hd),
                           ints(nseq, per, table),
                           ints(nseq, 1, slot),
                           ints(nseq + 1, 1, begin),
                           ints(nseq, 1, contexts) };
    struct attend_args a = { t[0],        t[1],    t[2],       t[3], t[4], t[5], t[6],    t[7], nseq,
                             nseq * rows, m.heads, m.kv_heads, m.hd, 0.1f, 0,    context, 0 };
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d rows, context %d", nseq, rows, context);
    double bytes =
        2.0 * nseq * context * m.kv_heads * m.hd * (double)dtype_size(type) + 4.0 * nseq * rows * 2 * m.heads * m.hd;
    double keys = (double)nseq * rows * (context - (rows - 1) / 2.0);
    row(name, shape, seconds(attend_op, &a), bytes, 4.0 * keys * m.heads * m.hd);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(table);
    free(slot);
    free(begin);
    free(contexts);
}

/* Without a cache, packed and causal as in training: there, and back (its five products, however many are done). */
struct varlen {
    struct attend_varlen_args a;
    struct tensor *dqkv, *dout, *lse;
};

static void varlen_op(void *arg)
{
    struct varlen *v = arg;
    d->attend_varlen_keep(d, &v->a, v->lse);
}

static void varlen_back_op(void *arg)
{
    struct varlen *v = arg;
    d->attend_varlen_backward(d, &v->a, v->dqkv, v->dout, v->lse);
}

static void varlen(int nseq, int each)
{
    int rows = nseq * each, q = m.heads * m.hd, width = q + 2 * m.kv_heads * m.hd;
    int32_t *begin = xcalloc((size_t)nseq + 1, sizeof *begin);
    for (int s = 0; s < nseq; s++)
        begin[s + 1] = begin[s] + each;
    struct tensor *t[] = { tensor(DTYPE_F32, rows, q), tensor(DTYPE_F32, rows, width),
                           ints(nseq + 1, 1, begin),   tensor(DTYPE_F32, rows, width),
                           tensor(DTYPE_F32, rows, q), tensor(DTYPE_F32, rows, m.heads) };
    struct varlen v = { { t[0], t[1], t[2], nseq, rows, m.heads, m.kv_heads, m.hd, 0.1f, 0, true }, t[3], t[4], t[5] };
    double bytes = 4.0 * rows * (q + width), ops = 4 * (double)nseq * each * (each + 1) / 2 * q;
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d rows, no cache", nseq, each);
    row("varlen", shape, seconds(varlen_op, &v), bytes, ops);
    row("varlen back", shape, seconds(varlen_back_op, &v), 2 * bytes, 2.5 * ops);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(begin);
}

/* ---- sampler, norms ---- */

static void sample_op(void *arg)
{
    d->sample(d, arg);
}

static struct sample_slot sampling_slot(uint32_t stream, int top_k, float top_p)
{
    struct sample_slot s = { .temperature = 0.6f,
                             .top_p = top_p,
                             .top_k = top_k,
                             .repetition = 1,
                             .hi = { m.vocab, m.vocab },
                             .flip_id = -1,
                             .limit = 1 << 30,
                             .key = { stream, 1 } };
    for (int j = 0; j < SAMPLE_STOP_IDS; j++)
        s.also[0][j] = s.also[1][j] = s.never[0][j] = s.never[1][j] = s.stop[j] = -1;
    return s;
}

static void sampler(int n, int top_k, float top_p)
{
    int32_t *index = xcalloc((size_t)n, 4);
    struct sample_slot *slots = xcalloc((size_t)n, sizeof *slots);
    for (int i = 0; i < n; i++) {
        index[i] = i;
        slots[i] = sampling_slot((uint32_t)i, top_k, top_p);
    }
    struct tensor *t[] = { tensor(DTYPE_F32, n, m.vocab), ints(n, 1, index), tensor(DTYPE_U8, n, sizeof *slots),
                           ints(n, 1, index), tensor(DTYPE_F32, n, 1) };
    struct sample_args a = { t[0], t[1], t[2], NULL, t[3], t[4], n, m.vocab };
    d->tensor_write(d, t[2], 0, slots, (size_t)n * sizeof *slots);
    char shape[64];
    snprintf(shape, sizeof shape, "%d rows, top_k %d top_p %.2f", n, top_k, (double)top_p);
    row("sample", shape, seconds(sample_op, &a), 4.0 * n * m.vocab, 0);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    free(index);
    free(slots);
}

struct pair {
    struct tensor *y, *x, *g;
    int rows;
};

static void copy_op(void *arg)
{
    struct pair *p = arg;
    d->copy(d, p->y, p->x, p->rows);
}

static void norm_op(void *arg)
{
    struct pair *p = arg;
    d->rmsnorm(d, p->y, p->x, p->g, 1e-6f, p->rows, m.hidden);
}

/* ---- the whole pass, layer after layer ---- */

struct pass {
    int rows, nseq, context; /* decode: rows = nseq; prefill: rows of nseq prompts */
    bool causal, paged, encoder;
    struct weight *qkv, *out, *up, *down, *head;
    struct tensor *x, *xn, *big, *att, *wide, *act, *g, *cosine, *sine, *table_row, *cache_row, *k, *v;
    struct tensor *pages, *slot, *begin, *contexts, *logits, *ids, *logprob, *slots;
    int logit_rows;
};

static struct tensor *counted(int n, int from, int by)
{
    int32_t *v = xcalloc((size_t)n, sizeof *v);
    for (int i = 0; i < n; i++)
        v[i] = from + i * by;
    struct tensor *t = ints(n, 1, v);
    free(v);
    return t;
}

static int qkv_cols(void)
{
    return (m.heads + 2 * m.kv_heads) * m.hd;
}

static struct pass pass_open(int nseq, int each, int context, int kind) /* kind: 0 decode, 1 prefill, 2 encoder */
{
    int rows = nseq * each, q = m.heads * m.hd, kv = m.kv_heads * m.hd, per = (context + KV_PAGE - 1) / KV_PAGE;
    struct pass p = { .rows = rows, .nseq = nseq, .context = context, .causal = kind != 2, .encoder = kind == 2 };
    p.qkv = random_weight(qkv_cols(), m.hidden);
    p.out = random_weight(m.hidden, q);
    p.up = random_weight((p.encoder ? 1 : 2) * m.ffn, m.hidden);
    p.down = random_weight(m.hidden, m.ffn);
    p.x = tensor(DTYPE_F32, rows, m.hidden);
    p.xn = tensor(DTYPE_F32, rows, m.hidden);
    p.big = tensor(DTYPE_F32, rows, qkv_cols());
    p.att = tensor(DTYPE_F32, rows, q);
    p.wide = tensor(DTYPE_F32, rows, (p.encoder ? 1 : 2) * (int64_t)m.ffn);
    p.act = tensor(DTYPE_F32, rows, m.ffn);
    p.g = tensor(DTYPE_F32, 1, m.hidden > m.hd ? m.hidden : m.hd);
    p.begin = counted(nseq + 1, 0, each);
    if (p.encoder)
        return p;
    p.paged = true;
    p.cosine = tensor(DTYPE_F32, context, m.hd / 2);
    p.sine = tensor(DTYPE_F32, context, m.hd / 2);
    p.k = tensor(d->kv_dtype, ((int64_t)nseq * per + 1) * KV_PAGE, kv);
    p.v = tensor(d->kv_dtype, ((int64_t)nseq * per + 1) * KV_PAGE, kv);
    p.slot = counted(nseq, 0, 1);
    p.contexts = counted(nseq, context, 0);
    int32_t *table = xcalloc((size_t)(nseq * per), 4), *row = xcalloc((size_t)rows, 4), *to = xcalloc((size_t)rows, 4);
    for (int s = 0; s < nseq; s++) {
        for (int i = 0; i < per; i++)
            table[s * per + i] = 1 + i * nseq + s;
        for (int i = 0; i < each; i++) {
            int at = context - each + i;
            row[s * each + i] = at;
            to[s * each + i] = table[s * per + at / KV_PAGE] * KV_PAGE + at % KV_PAGE;
        }
    }
    p.pages = ints(nseq, per, table);
    p.table_row = ints(rows, 1, row);
    p.cache_row = ints(rows, 1, to);
    free(table);
    free(row);
    free(to);
    p.logit_rows = nseq;
    p.head = random_weight(m.vocab, m.hidden);
    p.logits = tensor(DTYPE_F32, nseq, m.vocab);
    p.ids = counted(nseq, 0, 0);
    p.logprob = tensor(DTYPE_F32, nseq, 1);
    struct sample_slot *slots = xcalloc((size_t)nseq, sizeof *slots);
    for (int i = 0; i < nseq; i++)
        slots[i] = sampling_slot((uint32_t)i, 20, 0.95f);
    p.slots = tensor(DTYPE_U8, nseq, sizeof *slots);
    d->tensor_write(d, p.slots, 0, slots, (size_t)nseq * sizeof *slots);
    free(slots);
    return p;
}

static void pass_close(struct pass *p)
{
    struct tensor *t[] = { p->x,      p->xn,    p->big,       p->att,       p->wide, p->act,     p->g,
                           p->cosine, p->sine,  p->table_row, p->cache_row, p->k,    p->v,       p->pages,
                           p->slot,   p->begin, p->contexts,  p->logits,    p->ids,  p->logprob, p->slots };
    struct weight *w[] = { p->qkv, p->out, p->up, p->down, p->head };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        d->tensor_free(d, t[i]);
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        d->weight_free(d, w[i]);
    drop_kept();
}

static void pass_attention(struct pass *p)
{
    if (p->encoder) {
        d->attend_varlen(d, &(struct attend_varlen_args){ .out = p->att,
                                                          .qkv = p->big,
                                                          .begin = p->begin,
                                                          .nseq = p->nseq,
                                                          .rows = p->rows,
                                                          .heads = m.heads,
                                                          .kv_heads = m.kv_heads,
                                                          .head_dim = m.hd,
                                                          .scale = 0.1f });
        return;
    }
    d->rope(d, &(struct rope_args){ .qkv = p->big,
                                    .q_norm = p->g,
                                    .k_norm = p->g,
                                    .eps = 1e-6f,
                                    .cos = p->cosine,
                                    .sin = p->sine,
                                    .table_row = p->table_row,
                                    .rows = p->rows,
                                    .heads = m.heads,
                                    .kv_heads = m.kv_heads,
                                    .head_dim = m.hd,
                                    .rotary = m.hd,
                                    .k_cache = p->k,
                                    .v_cache = p->v,
                                    .cache_row = p->cache_row });
    d->attend(d, &(struct attend_args){ .out = p->att,
                                        .qkv = p->big,
                                        .k = p->k,
                                        .v = p->v,
                                        .page_table = p->pages,
                                        .seq_slot = p->slot,
                                        .q_begin = p->begin,
                                        .context = p->contexts,
                                        .nseq = p->nseq,
                                        .rows = p->rows,
                                        .heads = m.heads,
                                        .kv_heads = m.kv_heads,
                                        .head_dim = m.hd,
                                        .scale = 0.1f,
                                        .longest = p->context });
}

static void pass_op(void *arg)
{
    struct pass *p = arg;
    for (int i = 0; i < m.layers; i++) {
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, p->rows, m.hidden);
        d->linear(d, p->big, p->xn, p->qkv, NULL, p->rows, false);
        pass_attention(p);
        d->linear(d, p->x, p->att, p->out, NULL, p->rows, true);
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, p->rows, m.hidden);
        d->linear(d, p->wide, p->xn, p->up, NULL, p->rows, false);
        if (p->encoder)
            d->gelu(d, p->act, p->wide, (int64_t)p->rows * m.ffn);
        else
            d->silu_mul(d, p->act, p->wide, p->rows, m.ffn);
        d->linear(d, p->x, p->act, p->down, NULL, p->rows, true);
    }
    if (!p->head)
        return;
    d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, p->logit_rows, m.hidden);
    d->linear(d, p->logits, p->xn, p->head, NULL, p->logit_rows, false);
    d->sample(d,
              &(struct sample_args){ p->logits, p->slot, p->slots, NULL, p->ids, p->logprob, p->logit_rows, m.vocab });
}

static double bound(double bytes, double ops)
{
    double a = bytes / bandwidth, b = ops / flops;
    return a > b ? a : b;
}

/* Attention's pairs of positions: each of a sequence's `each` last rows with all before it. */
static double pairs(int nseq, int each, int context, bool causal)
{
    return (double)nseq * each * (causal ? context - (each - 1) / 2.0 : context);
}

static double layer_weights(bool encoder)
{
    return (double)m.hidden * (qkv_cols() + m.heads * m.hd + (encoder ? 2.0 : 3.0) * m.ffn);
}

static void replay_op(void *arg)
{
    if (!d->replay(d, arg))
        abort(); /* nothing was freed */
}

static void whole_row(const char *name, const struct pass *p, const char *shape, double t, double limit)
{
    printf("%-16s %-28s %9.4f ms %12.0f tokens/s %5.1f%%\n", name, shape, t * 1e3, p->rows / t, 100 * limit / t);
}

static void steps_both_ways(int nseq, int context)
{
    struct pass p = pass_open(nseq, 1, context, 0);
    struct recording *r[WAYS] = { NULL, NULL };
    double t[WAYS];
    char shape[64];
    int was = repeat;
    repeat = small ? 1 : 3;
    snprintf(shape, sizeof shape, "%d x 1, context %d", nseq, context);
    both_ways(pass_op, (void *[]){ &p, &p }, t);
    cost_row("decode, order", shape, t);
    for (int way = 0; way < WAYS && d->record_begin; way++) { /* what is recorded has run now */
        turn_to(way);
        if (!d->record_begin(d))
            break;
        pass_op(&p);
        r[way] = d->record_end(d);
    }
    turn_to(IN_ORDER);
    if (r[IN_ORDER] && r[IN_ANY]) {
        both_ways(replay_op, (void *const *)r, t);
        cost_row("  replayed", shape, t);
    }
    for (int way = 0; way < WAYS && d->record_begin; way++)
        d->recording_free(d, r[way]);
    repeat = was;
    pass_close(&p);
}

static void whole(const char *name, int nseq, int each, int context, int kind)
{
    struct pass p = pass_open(nseq, each, context, kind);
    int was = repeat;
    repeat = small ? 1 : 3;
    double t = seconds(pass_op, &p), replayed = 0, size = (double)dtype_size(d->kv_dtype), w = layer_weights(p.encoder);
    if (kind == 0 && d->record_begin && d->record_begin(d)) {
        pass_op(&p);
        struct recording *r = d->record_end(d);
        replayed = r ? seconds(replay_op, r) : 0;
        d->recording_free(d, r);
    }
    repeat = was;
    double limit = m.layers * bound(size * w, 2 * w * p.rows);
    double keys = 4 * pairs(nseq, each, context, p.causal) * m.heads * m.hd;
    limit += m.layers * bound(p.paged ? 2.0 * nseq * context * m.kv_heads * m.hd * size : 0, keys);
    if (p.head)
        limit += bound(size * m.vocab * m.hidden, 2.0 * m.vocab * m.hidden * p.logit_rows);
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d, context %d", nseq, each, context);
    whole_row(name, &p, shape, t, limit);
    if (replayed > 0)
        whole_row("  replayed", &p, shape, replayed, limit);
    pass_close(&p);
}

/* ---- a LoRA step: rank 8 on every matrix, gradients of the adapters only ---- */

enum { RANK = 8 };

struct branch {
    struct tensor *a, *b, *da, *db, *h, *dh;
    struct weight *aw, *bw;
    int in, out;
};

struct step {
    struct pass p;
    struct branch br[4];
    struct tensor *lse, *dx, *dxn, *dbig, *datt, *dwide, *dact, *raw, *target, *loss;
    int head_rows;
};

static struct branch branch_open(int rows, int in, int out)
{
    struct branch b = { tensor(DTYPE_F32, RANK, in),
                        tensor(DTYPE_F32, out, RANK),
                        tensor(DTYPE_F32, RANK, in),
                        tensor(DTYPE_F32, out, RANK),
                        tensor(DTYPE_F32, rows, RANK),
                        tensor(DTYPE_F32, rows, RANK),
                        NULL,
                        NULL,
                        in,
                        out };
    bench_must(d->weight_from_tensor(d, &b.aw, b.a, "bench", &bench_err));
    bench_must(d->weight_from_tensor(d, &b.bw, b.b, "bench", &bench_err));
    return b;
}

static void branch_close(struct branch *b)
{
    struct tensor *t[] = { b->a, b->b, b->da, b->db, b->h, b->dh };
    d->weight_free(d, b->aw);
    d->weight_free(d, b->bw);
    for (int i = 0; i < 6; i++)
        d->tensor_free(d, t[i]);
}

static void forward(struct branch *b, struct tensor *y, const struct tensor *x, const struct weight *w, int rows,
                    bool add)
{
    d->hold(d, x, (int64_t)rows * b->in);
    d->linear(d, y, x, w, NULL, rows, add);
    d->linear(d, b->h, x, b->aw, NULL, rows, false);
    d->linear(d, y, b->h, b->bw, NULL, rows, true);
    d->let_go(d, x);
}

static void back_through(struct branch *b, struct tensor *dx, const struct tensor *dy, const struct tensor *x,
                         const struct weight *w, int rows)
{
    d->hold(d, dy, (int64_t)rows * b->out);
    d->hold(d, x, (int64_t)rows * b->in);
    d->linear_dx(d, dx, dy, w, rows, false);
    d->linear(d, b->h, x, b->aw, NULL, rows, false);
    d->linear_dw(d, b->db, NULL, dy, b->h, rows, b->out, RANK);
    d->linear_dx(d, b->dh, dy, b->bw, rows, false);
    d->linear_dw(d, b->da, NULL, b->dh, x, rows, RANK, b->in);
    d->let_go(d, x);
    d->let_go(d, dy);
    d->linear_dx(d, dx, b->dh, b->aw, rows, true);
}

static void step_op(void *arg)
{
    struct step *s = arg;
    struct pass *p = &s->p;
    int rows = p->rows;
    struct attend_varlen_args a = { .out = p->att,
                                    .qkv = p->big,
                                    .begin = p->begin,
                                    .nseq = p->nseq,
                                    .rows = rows,
                                    .heads = m.heads,
                                    .kv_heads = m.kv_heads,
                                    .head_dim = m.hd,
                                    .scale = 0.1f,
                                    .causal = true };
    struct rope_args r = { .qkv = p->big,
                           .q_norm = p->g,
                           .k_norm = p->g,
                           .eps = 1e-6f,
                           .cos = p->cosine,
                           .sin = p->sine,
                           .table_row = p->table_row,
                           .rows = rows,
                           .heads = m.heads,
                           .kv_heads = m.kv_heads,
                           .head_dim = m.hd,
                           .rotary = m.hd };
    for (int i = 0; i < m.layers; i++) {
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, rows, m.hidden);
        forward(&s->br[0], p->big, p->xn, p->qkv, rows, false);
        d->copy(d, s->raw, p->big, (int64_t)rows * qkv_cols());
        d->rope(d, &r);
        d->attend_varlen_keep(d, &a, s->lse);
        forward(&s->br[1], p->x, p->att, p->out, rows, true);
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, rows, m.hidden);
        forward(&s->br[2], p->wide, p->xn, p->up, rows, false);
        d->silu_mul(d, p->act, p->wide, rows, m.ffn);
        forward(&s->br[3], p->x, p->act, p->down, rows, true);
    }
    for (int at = 0; at < rows; at += s->head_rows) {
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, s->head_rows, m.hidden);
        d->linear(d, p->logits, p->xn, p->head, NULL, s->head_rows, false);
        d->cross_entropy(d, s->loss, p->logits, s->target, 1e-3f, s->head_rows, m.vocab);
        d->linear_dx(d, s->dxn, p->logits, p->head, s->head_rows, false);
    }
    for (int i = 0; i < m.layers; i++) {
        back_through(&s->br[3], s->dact, s->dx, p->act, p->down, rows);
        d->silu_mul_backward(d, s->dwide, s->dact, p->wide, rows, m.ffn);
        d->rmsnorm(d, p->xn, p->x, p->g, 1e-6f, rows, m.hidden);
        back_through(&s->br[2], s->dxn, s->dwide, p->xn, p->up, rows);
        d->rmsnorm_backward(d, s->dx, NULL, s->dxn, p->x, p->g, 1e-6f, rows, m.hidden);
        back_through(&s->br[1], s->datt, s->dx, p->att, p->out, rows);
        d->attend_varlen_backward(d, &a, s->dbig, s->datt, s->lse);
        d->rope_backward(d, &r, s->dbig, s->raw, NULL, NULL);
        back_through(&s->br[0], s->dxn, s->dbig, p->xn, p->qkv, rows);
        d->rmsnorm_backward(d, s->dx, NULL, s->dxn, p->x, p->g, 1e-6f, rows, m.hidden);
    }
}

static void training(int nseq, int each)
{
    int rows = nseq * each, q = m.heads * m.hd;
    struct step s = { .p = pass_open(nseq, each, each, 1) };
    s.head_rows = small ? nseq : rows % 2048 == 0 ? 2048 : each; /* divides rows */
    s.br[0] = branch_open(rows, m.hidden, qkv_cols());
    s.br[1] = branch_open(rows, q, m.hidden);
    s.br[2] = branch_open(rows, m.hidden, 2 * m.ffn);
    s.br[3] = branch_open(rows, m.ffn, m.hidden);
    d->tensor_free(d, s.p.logits);
    s.p.logits = tensor(DTYPE_F32, s.head_rows, m.vocab);
    s.target = counted(s.head_rows, 1, 0);
    struct {
        struct tensor **t;
        int64_t cols;
    } all[] = { { &s.lse, m.heads },    { &s.dx, m.hidden }, { &s.dxn, m.hidden }, { &s.dbig, qkv_cols() },
                { &s.raw, qkv_cols() }, { &s.datt, q },      { &s.dact, m.ffn },   { &s.dwide, 2 * (int64_t)m.ffn },
                { &s.loss, 1 } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        *all[i].t = tensor(DTYPE_F32, rows, all[i].cols);
    int was = repeat;
    repeat = 1;
    double t = seconds(step_op, &s);
    repeat = was;
    double w = layer_weights(false) * m.layers + (double)m.hidden * m.vocab;
    double adapters =
        (double)RANK * m.layers * (m.hidden + qkv_cols() + q + m.hidden + m.hidden + 2.0 * m.ffn + m.ffn + m.hidden);
    double ops = rows * (4 * w + 6 * adapters) + 12 * pairs(nseq, each, each, true) * m.heads * m.hd * m.layers;
    char shape[64];
    snprintf(shape, sizeof shape, "LoRA, %d x %d", nseq, each);
    printf("%-16s %-28s %9.4f ms %12.0f tokens/s %5.1f%%\n", "train", shape, t * 1e3, rows / t, 100 * ops / flops / t);
    for (int i = 0; i < 4; i++)
        branch_close(&s.br[i]);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, *all[i].t);
    d->tensor_free(d, s.target);
    pass_close(&s.p);
}

/* ---- parts ---- */

static int some(int n, int few)
{
    return small ? few : n;
}

/* All of a model's, for batches of decoding. */
static void linears_both_ways(void)
{
    const int linears[][2] = { { qkv_cols(), m.hidden },
                               { m.hidden, m.heads * m.hd },
                               { 2 * m.ffn, m.hidden },
                               { m.hidden, m.ffn },
                               { m.vocab, m.hidden } };
    const int batches[] = { 1, some(32, 2), some(256, 3), some(700, 4) };
    enum { LINEARS = sizeof linears / sizeof *linears, BATCHES = sizeof batches / sizeof *batches };
    double all[BATCHES][WAYS] = { { 0 } }, t[WAYS];
    char shape[64];
    for (int i = 0; i < LINEARS; i++) {
        int n = linears[i][0], k = linears[i][1];
        struct linear l = linear_open(batches[BATCHES - 1], n, k);
        for (int b = 0; b < BATCHES; b++) {
            l.rows = batches[b];
            both_ways(linear_op, (void *[]){ &l, &l }, t);
            snprintf(shape, sizeof shape, "%d x %d x %d", l.rows, n, k);
            cost_row("linear, order", shape, t);
            for (int way = 0; way < WAYS; way++)
                all[b][way] += (i == LINEARS - 1 ? 1 : m.layers) * t[way];
        }
        linear_close(&l);
    }
    for (int b = 0; b < BATCHES; b++) {
        snprintf(shape, sizeof shape, "%d rows, %d layers and head", batches[b], m.layers);
        cost_row("linears, order", shape, all[b]);
    }
}

static void part_kernels(void)
{
    const int linears[][2] = {
        { qkv_cols(), m.hidden }, { m.hidden, m.heads * m.hd }, { 2 * m.ffn, m.hidden }, { m.hidden, m.ffn }
    };
    const int batches[] = { 1, some(32, 2), some(256, 3), some(512, 3), some(4096, 4), some(22400, 5) };
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
        for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
            int rows = batches[b], n = linears[i][0], k = linears[i][1];
            char shape[64];
            snprintf(shape, sizeof shape, "%d x %d x %d", rows, n, k);
            row("linear", shape, linear_time(rows, n, k), 2.0 * n * k + 4.0 * rows * (n + k), 2.0 * rows * n * k);
        }
    linears_both_ways();
    attention("decode", d->kv_dtype, 1, 1, some(4096, 40));
    attention("decode", d->kv_dtype, some(64, 3), 1, some(2048, 70));
    attention("decode", d->kv_dtype, some(256, 4), 1, some(1024, 33));
    attention("decode", d->kv_dtype, some(256, 5), 1, some(2048, 65));
    if (d->kv_dtype == DTYPE_BF16)
        attention("decode, fp8", DTYPE_F8, some(256, 5), 1, some(2048, 65));
    attention("prefill", d->kv_dtype, some(16, 2), some(256, 30), some(256, 30));
    attention("prefill", d->kv_dtype, 2, some(4096, 40), some(4096, 40));
    varlen(some(32, 2), some(700, 40));
    varlen(some(4, 2), some(4096, 70));
    sampler(1, 0, 1);
    sampler(1, 20, 0.95f);
    sampler(some(256, 2), 0, 1);
    sampler(some(256, 2), 20, 0.95f);
    sampler(some(256, 2), 0, 0.95f);
    struct pair p = { tensor(DTYPE_F32, some(4096, 4), m.hidden), tensor(DTYPE_F32, some(4096, 4), m.hidden),
                      tensor(DTYPE_F32, 1, m.hidden), some(4096, 4) };
    row("rmsnorm", "rows of the model's width", seconds(norm_op, &p), 8.0 * p.rows * m.hidden, 0);
    d->tensor_free(d, p.x);
    d->tensor_free(d, p.y);
    d->tensor_free(d, p.g);
}

static void part_decode(void)
{
    whole("decode step", 1, 1, some(1024, 40), 0);
    whole("decode step", some(32, 2), 1, some(2048, 40), 0);
    whole("decode step", some(256, 3), 1, some(1024, 40), 0);
    whole("decode step", some(256, 4), 1, some(2048, 70), 0);
    whole("decode step", some(700, 5), 1, some(1268, 33), 0);
    steps_both_ways(1, some(1024, 40));
    steps_both_ways(some(256, 4), some(2048, 70));
}

static void part_prefill(void)
{
    whole("prefill", some(16, 2), some(256, 20), some(256, 20), 1);
    whole("prefill", some(64, 3), some(256, 20), some(256, 20), 1);
}

static void part_train(void)
{
    training(some(8, 2), some(700, 9));
    training(some(32, 2), some(700, 20));
}

static void part_encoder(void)
{
    m = small ? tiny : xlmr_large;
    whole("encoder", some(16, 2), some(512, 20), some(512, 20), 2);
    whole("encoder", some(128, 3), some(512, 20), some(512, 20), 2);
}

static void limits(void)
{
    int64_t n = some(1 << 28, 1 << 16);
    int side = some(8192, 64);
    struct pair big = { tensor(DTYPE_F32, 1, n), tensor(DTYPE_F32, 1, n), NULL, (int)n };
    bandwidth = 2.0 * 4 * (double)n / seconds(copy_op, &big);
    d->tensor_free(d, big.x);
    d->tensor_free(d, big.y);
    flops = 2.0 * side * side * side / linear_time(side, side, side);
    printf("# %s (%s): copy %.0f GB/s, multiplication %.0f TFLOP/s\n", d->name, d->numerics, bandwidth * 1e-9,
           flops * 1e-12);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = { { "kernels", part_kernels }, { "decode", part_decode },   { "prefill", part_prefill },
                  { "train", part_train },     { "encoder", part_encoder }, { "limits", NULL } };
    const char *name = argc > 1 ? argv[1] : "cuda:0", *fallback = "kernels";
    small = getenv("LATENT_BENCH_SMALL") != NULL;
    bench_begin("device_bench");
    if (device_open(&d, name, 0, &bench_err) < 0) {
        printf("# skip: device_bench: %s\n", bench_err.msg);
        return argc > 1; /* a device that was asked for by name must be there */
    }
    m = small ? tiny : qwen3_4b;
    limits();
    for (int i = 2; i < argc || fallback; i++) {
        const char *part = i < argc ? argv[i] : fallback;
        size_t k = 0;
        while (k < sizeof parts / sizeof *parts && strcmp(parts[k].name, part) != 0)
            k++;
        if (k == sizeof parts / sizeof *parts) {
            fprintf(stderr, "device_bench: unknown part '%s'\n", part);
            return 2;
        }
        fallback = NULL;
        m = small ? tiny : qwen3_4b;
        if (parts[k].run)
            parts[k].run();
    }
    device_close(d);
    return 0;
}
