/* rows_test.c - row operations, linear, rotation, decode inputs, log-probabilities of the CUDA kernels. */
#include "cuda/cuda_test.h"
#include "kernels/rows_problem.h"

static const int widths[] = { 1, 7, 8, 9, 31, 32, 33, 257, 1025 };
enum { WIDTHS = sizeof widths / sizeof *widths };

/* One input to both devices. */
struct both {
    struct tensor *d, *o;
};

static struct both put(struct device *d, struct device *o, enum dtype t, int64_t rows, int64_t cols, const void *host)
{
    return (struct both){ tensor_of(d, t, rows, cols, host), tensor_of(o, t, rows, cols, host) };
}

static struct both put_random(struct device *d, struct device *o, struct source *s, int64_t rows, int64_t cols,
                              float scale)
{
    float *v = random_floats(s, rows * cols, scale);
    struct both b = put(d, o, DTYPE_F32, rows, cols, v);
    free(v);
    return b;
}

static void drop(struct device *d, struct device *o, struct both b)
{
    d->tensor_free(d, b.d);
    o->tensor_free(o, b.o);
}

/* Operations first .. last of kernels/rows_problem.h. */
static void compare_rows(struct device *d, struct device *o, enum op first, enum op last, float scale)
{
    enum { ROWS = 5 };
    for (int w = 0; w < WIDTHS; w++) {
        int n = widths[w];
        struct inputs in = inputs_of(ROWS, n, scale);
        for (enum op op = first; op <= last; op++) {
            bool exact = op > GELU; /* sums and copies */
            float *got = result(d, op, &in, 0, ROWS), *want = result(o, op, &in, 0, ROWS);
            same_floats(op_name[op], got, want, (int64_t)ROWS * n,
                        exact                      ? 0
                        : op == LAYERNORM && n > 1 ? 1e-4
                                                   : 1e-6,
                        exact ? 0 : 1e-5);
            free(got);
            free(want);
        }
        inputs_free(&in);
    }
}

static void norms(struct device *d, struct device *o)
{
    compare_rows(d, o, RMSNORM, LAYERNORM, 3);
}

static void pointwise(struct device *d, struct device *o)
{
    compare_rows(d, o, SILU_MUL, ADD_ROW, 8);
}

struct weights {
    struct weight *d, *o;
    unsigned char *bytes;
};

/* Numbers of F32 and F16 become the nearest of bf16. The halves here are all normal. */
static void round_parts(const struct weight_part part[2], int64_t cols)
{
    for (int p = 0; p < 2; p++)
        for (int64_t i = 0; i < part[p].rows * cols; i++) {
            unsigned char *at = (unsigned char *)(uintptr_t)part[p].host + (size_t)i * dtype_size(part[p].dtype);
            float f;
            uint16_t h;
            if (part[p].dtype == DTYPE_F32) {
                memcpy(&f, at, 4);
                round_to_bf16(&f, 1);
                memcpy(at, &f, 4);
            } else if (part[p].dtype == DTYPE_F16) { /* seven bits of its ten are left */
                memcpy(&h, at, 2);
                h = (uint16_t)((h + 3 + (h >> 3 & 1)) & ~7);
                memcpy(at, &h, 2);
            }
        }
}

/* Stacked parts that start at an odd address, as in a checkpoint. */
static struct weights weights_of(struct device *d, struct device *o, struct source *s, const enum dtype type[2],
                                 int64_t n0, int64_t n1, int64_t cols)
{
    struct err e = { "" };
    struct weights w = { NULL, NULL, xcalloc((size_t)((n0 + n1) * cols), 4) };
    struct weight_part part[2] = { { NULL, type[0], n0 }, { NULL, type[1], n1 } };
    w.bytes = xrealloc(w.bytes, (size_t)((n0 + n1) * cols) * 4 + 2);
    unsigned char *to = w.bytes + 1;
    for (int p = 0; p < 2; p++) {
        part[p].host = to;
        for (int64_t i = 0; i < part[p].rows * cols; i++) {
            float f = next_float(s);
            uint16_t h = type[p] == DTYPE_BF16 ? bf16_bits(f) : (uint16_t)(0x2c00 + next_int(s, 0x1000));
            memcpy(to, type[p] == DTYPE_F32 ? (void *)&f : (void *)&h, dtype_size(type[p]));
            to += dtype_size(type[p]);
        }
    }
    assert_ok(d->weight_new(d, &w.d, part, 2, cols, "test weight", &e));
    if (test_bf16) /* the oracle multiplies by what the device rounds to */
        round_parts(part, cols);
    assert_ok(o->weight_new(o, &w.o, part, 2, cols, "test weight", &e));
    return w;
}

static void weights_drop(struct device *d, struct device *o, struct weights *w)
{
    d->weight_free(d, w->d);
    o->weight_free(o, w->o);
    free(w->bytes);
}

/* Around the block stands the product already: there it may be written again, or not. */
static void check_block(struct device *d, struct device *o, const struct weights *w, const struct both *x, int rows,
                        int n)
{
    struct err e;
    int row = rows / 2, col = n / 3;
    struct both y = put(d, o, DTYPE_F32, rows, n, NULL);
    float *whole = xcalloc((size_t)(rows * n), sizeof *whole);
    o->linear(o, y.o, x->o, w->o, NULL, rows, false);
    assert_ok(o->tensor_read(o, y.o, 0, whole, (size_t)(rows * n), &e));
    for (int i = row; i < rows; i++)
        memset(whole + i * n + col, 0, (size_t)(n - col) * sizeof *whole);
    d->tensor_write(d, y.d, 0, whole, (size_t)(rows * n));
    d->linear_block(d, y.d, x->d, w->d, row, rows - row, col, n - col);
    same_tensors("linear_block", d, y.d, o, y.o, 1e-5, 1e-5);
    free(whole);
}

static void embedding_and_linear(struct device *d, struct device *o)
{
    static const enum dtype types[][2] = {
        { DTYPE_BF16, DTYPE_BF16 }, { DTYPE_F32, DTYPE_F32 }, { DTYPE_F16, DTYPE_F16 }, { DTYPE_BF16, DTYPE_F32 }
    };
    static const int shapes[][3] = { { 1, 1, 1 }, { 3, 4, 7 }, { 9, 31, 33 }, { 2, 16, 64 } }; /* rows, n1, k */
    struct source s = source_of(3);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int rows = shapes[i][0], n = shapes[i][1] + 2, k = shapes[i][2];
            struct weights w = weights_of(d, o, &s, types[t], 2, n - 2, k);
            float *v = random_floats(&s, rows * k, 1);
            if (test_bf16)
                round_to_bf16(v, rows * k); /* as the device does */
            struct both x = put(d, o, DTYPE_F32, rows, k, v), bias = put_random(d, o, &s, 1, n, 1);
            for (int form = 0; form < 3; form++) {
                struct both y = put_random(d, o, &s, rows, n, 1);
                d->linear(d, y.d, x.d, w.d, form ? bias.d : NULL, rows, form == 2);
                o->linear(o, y.o, x.o, w.o, form ? bias.o : NULL, rows, form == 2);
                same_tensors("linear", d, y.d, o, y.o, 1e-5, 1e-5);
            }
            check_block(d, o, &w, &x, rows, n);
            int32_t ids[9];
            for (int j = 0; j < rows; j++)
                ids[j] = next_int(&s, n);
            struct both at = put(d, o, DTYPE_I32, rows, 1, ids), y = put(d, o, DTYPE_F32, rows, k, NULL);
            d->embed(d, y.d, w.d, at.d, rows);
            o->embed(o, y.o, w.o, at.o, rows);
            d->add_row(d, y.d, w.d, at.d, rows);
            o->add_row(o, y.o, w.o, at.o, rows);
            same_tensors("embed", d, y.d, o, y.o, 0, 0);
            free(v);
            drop(d, o, x);
            drop(d, o, bias);
            drop(d, o, at);
            weights_drop(d, o, &w);
        }
}

static void rotation(struct device *d, struct device *o)
{
    static const struct {
        struct rope_args a;
        bool norms, append;
    } shapes[] = { { { .heads = 1, .kv_heads = 1, .head_dim = 2, .rotary = 2 }, true, true },
                   { { .heads = 3, .kv_heads = 1, .head_dim = 7, .rotary = 4 }, true, true },
                   { { .heads = 4, .kv_heads = 2, .head_dim = 32, .rotary = 32 }, false, true },
                   { { .heads = 5, .kv_heads = 5, .head_dim = 33, .rotary = 16 }, true, true },
                   { { .heads = 4, .kv_heads = 1, .head_dim = 64, .rotary = 64 }, true, false },
                   { { .heads = 6, .kv_heads = 2, .head_dim = 128, .rotary = 128 }, true, true } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int narrow = 0; narrow < 2; narrow++) {
            struct rope_args a = shapes[i].a;
            a.rows = 5;
            int64_t kv = (int64_t)a.kv_heads * a.head_dim, n = a.rows * (a.heads * a.head_dim + 2 * kv);
            double step = narrow ? 0x1p-8 : 0; /* of bf16 */
            struct rotated want = rotated(o, &a, shapes[i].norms, shapes[i].append, DTYPE_F32);
            struct rotated got = rotated(d, &a, shapes[i].norms, shapes[i].append, narrow ? DTYPE_BF16 : DTYPE_F32);
            same_floats("rope", got.qkv, want.qkv, n, 1e-6, 1e-5);
            same_floats("key cache", got.k_cache, want.k_cache, CACHE_ROWS * kv, 1e-6, step + 1e-5);
            same_floats("value cache", got.v_cache, want.v_cache, CACHE_ROWS * kv, 0, step);
            rotated_free(&want);
            rotated_free(&got);
        }
}

/* Values go into the cache as they are: every e4m3 number, what lies between two, and what is beyond all. */
static void eight_bits(struct device *d, struct device *o)
{
    enum { W = 512 };
    /* codes of torch.float8_e4m3fn */
    static const float known[] = { 0.001f, 0.0009765625f, 0.0029296875f, 0.0146484375f, 17, 18, 19, 448, 463, -0.5f };
    static const uint8_t codes[] = { 1, 0, 2, 8, 88, 89, 90, 126, 126, 176 };
    float qkv[3 * W] = { 0 }, one[1] = { 1 };
    int32_t zero = 0;
    (void)o;
    for (int i = 0; i < W; i++) {
        float x = f8_float((uint8_t)(i / 2)), next = f8_float((uint8_t)(i / 2 + 1));
        qkv[2 * W + i] = i % 2 && isfinite(next) ? (x + next) / 2 : x;
    }
    qkv[2 * W + 510] = 1e30f;
    qkv[2 * W + 511] = -INFINITY;
    memcpy(qkv + 2 * W + 254, (float[]){ 449, 0.0625f * 1.0625f }, 2 * sizeof(float));
    for (int part = 0; part < 2; part++) {
        if (part)
            memcpy(qkv + 2 * W, known, sizeof known);
        struct tensor *x = floats_of(d, 1, 3 * W, qkv), *table = floats_of(d, 1, 1, one), *at = ints_of(d, 1, 1, &zero);
        struct tensor *k = tensor_of(d, DTYPE_F8, 1, W, NULL), *v = tensor_of(d, DTYPE_F8, 1, W, NULL);
        struct rope_args a = { .qkv = x, .cos = table, .sin = table, .table_row = at, .rows = 1, .heads = 1 };
        a.kv_heads = 1;
        a.head_dim = W;
        a.rotary = 2;
        a.k_cache = k;
        a.v_cache = v;
        a.cache_row = at;
        d->rope(d, &a);
        uint8_t *got = back(d, v, 1);
        for (int i = 0; i < W; i++)
            if ((got[i] & 0x7f) != 0x7f || !isnan(qkv[2 * W + i]))
                same_ints("e4m3", (int32_t[]){ got[i] }, (int32_t[]){ f8_bits(qkv[2 * W + i]) }, 1);
        for (size_t i = 0; part && i < sizeof codes; i++)
            same_ints("e4m3 of torch", (int32_t[]){ got[i] }, (int32_t[]){ codes[i] }, 1);
        free(got);
        struct tensor *made[] = { x, table, at, k, v };
        for (int i = 0; i < 5; i++)
            d->tensor_free(d, made[i]);
    }
}

static void log_probabilities(struct device *d, struct device *o)
{
    struct source s = source_of(5);
    for (int w = 0; w < WIDTHS; w++) {
        int n = widths[w], rows = 4;
        int32_t target[] = { -1, 0, n - 1, n / 2 };
        float *v = random_floats(&s, rows * n, 5);
        if (n > 3) {
            v[n] = -INFINITY;
            v[2 * n + 1] = v[2 * n + 3] = 9; /* a tie: the lower id is best */
            v[3 * n + 2] = 80;               /* nearly all of the mass on one id */
        }
        struct scores got = scores_of(d, v, target, rows, n), want = scores_of(o, v, target, rows, n);
        same_ints("best", got.best, want.best, rows);
        for (int i = 0; i < rows; i++) /* -infinity is a log-probability too */
            if (!(isinf(got.logprob[i]) && isinf(want.logprob[i])))
                same_floats("logprob", &got.logprob[i], &want.logprob[i], 1, 1e-5, 1e-5);
        same_floats("entropy", got.entropy, want.entropy, rows, 1e-5, 1e-5);
        scores_free(&got);
        scores_free(&want);
        free(v);
    }
}

static void step_inputs(struct device *d, struct device *o)
{
    enum { SLOTS = 9, PAGES = 3, N = 7 };
    struct sample_slot slots[SLOTS] = { 0 };
    int32_t pages[SLOTS * PAGES], offset[SLOTS], of[N] = { 8, 0, 3, 3, 1, 7, 2 };
    for (int i = 0; i < SLOTS; i++) {
        slots[i].position = (int[]){ 0, 31, 32, 33, 63, 64, 95, 1, 5 }[i];
        slots[i].last = 100 + i;
        slots[i].done = i % 4 == 3 ? SAMPLE_STOPPED : SAMPLE_RUNNING;
        offset[i] = 10 * i;
        for (int p = 0; p < PAGES; p++)
            pages[i * PAGES + p] = 1 + i * PAGES + p;
    }
    struct both s = put(d, o, DTYPE_U8, SLOTS, sizeof *slots, NULL), to[4];
    d->tensor_write(d, s.d, 0, slots, sizeof slots);
    o->tensor_write(o, s.o, 0, slots, sizeof slots);
    struct both at = put(d, o, DTYPE_I32, N, 1, of), table = put(d, o, DTYPE_I32, SLOTS, PAGES, pages),
                off = put(d, o, DTYPE_I32, SLOTS, 1, offset);
    for (int i = 0; i < 4; i++)
        to[i] = put(d, o, DTYPE_I32, N, 1, NULL);
    struct decode_inputs_args a = { at.d, s.d, table.d, off.d, to[0].d, to[1].d, to[2].d, to[3].d, N };
    struct decode_inputs_args b = { at.o, s.o, table.o, off.o, to[0].o, to[1].o, to[2].o, to[3].o, N };
    d->decode_inputs(d, &a);
    o->decode_inputs(o, &b);
    for (int i = 0; i < 4; i++) {
        int32_t *x = back(d, to[i].d, 4), *y = back(o, to[i].o, 4);
        same_ints((const char *[]){ "ids", "table_row", "context", "cache_row" }[i], x, y, N);
        free(x);
        free(y);
        drop(d, o, to[i]);
    }
    drop(d, o, s);
    drop(d, o, at);
    drop(d, o, table);
    drop(d, o, off);
}

/* Nothing in a call: no kernel may be launched with an empty grid. */
static void empty(struct device *d, struct device *o)
{
    struct source s = source_of(6);
    struct both x = put_random(d, o, &s, 1, 4, 1), y = put(d, o, DTYPE_F32, 1, 4, NULL);
    d->rmsnorm(d, y.d, x.d, x.d, 1e-6f, 0, 4);
    d->add(d, y.d, x.d, 0);
    struct tensor *none = tensor_of(d, DTYPE_F32, 0, 8, NULL);
    d->silu_mul(d, y.d, none, 0, 4);
    d->tensor_free(d, none);
    d->add(d, y.d, x.d, 4);
    o->add(o, y.o, x.o, 4);
    same_tensors("add", d, y.d, o, y.o, 0, 0);
    drop(d, o, x);
}

/* More than there is: the sentence has what it was for, what is needed and what is free. The device goes on. */
static void no_room(struct device *d, struct device *o)
{
    (void)o;
    struct err e = { "" };
    struct tensor *t;
    float one = 1, got = 0;
    if (d->tensor_new(d, &t, DTYPE_F32, INT64_C(1) << 20, INT64_C(1) << 20, "impossible tensor", &e) != -1 || t ||
        !strstr(e.msg, "impossible tensor: 4194304.0 MiB are needed, ") || !strstr(e.msg, "MiB are free"))
        note_mismatch("too large a tensor: %s", e.msg);
    t = tensor_of(d, DTYPE_F32, 1, 1, &one);
    d->add(d, t, t, 1);
    if (d->tensor_read(d, t, 0, &got, 1, &e) < 0 || got != 2)
        note_mismatch("after a refusal: %s", e.msg);
    d->tensor_free(d, t);
}

/* The bits of a row of a product do not depend on how many rows there are, nor those of a column on the others. On the
 * chip these are sizes among which cuBLASLt changes its mind. */
static void rows_alone(struct device *d, struct device *o)
{
    static const int some[] = { 1, 7, 33, 130 };
    int by = real_device() ? 8 : 1, rows = 140 * by, n = 192 * by, k = 128 * by;
    struct source s = source_of(8);
    struct weights w = weights_of(d, o, &s, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16 }, 2, n - 2, k);
    struct both x = put_random(d, o, &s, rows, k, 1), y = put(d, o, DTYPE_F32, rows, n, NULL);
    d->linear(d, y.d, x.d, w.d, NULL, rows, false);
    float *all = floats_back(d, y.d);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        int m = some[i] * by;
        d->fill(d, y.d, 0, (int64_t)rows * n);
        d->linear(d, y.d, x.d, w.d, NULL, m, false);
        float *got = floats_back(d, y.d);
        if (memcmp(got, all, (size_t)m * (size_t)n * sizeof *got) != 0)
            note_mismatch("the first %d of %d rows have other bits alone", m, rows);
        free(got);
    }
    d->fill(d, y.d, 0, (int64_t)rows * n);
    d->linear_block(d, y.d, x.d, w.d, 64, rows - 64, 70, 50);
    float *got = floats_back(d, y.d);
    for (int64_t row = 64; row < rows; row++)
        if (memcmp(got + row * n + 70, all + row * n + 70, 50 * sizeof *got) != 0)
            note_mismatch("columns of row %d have other bits alone", (int)row);
    free(got);
    free(all);
    drop(d, o, x);
    drop(d, o, y);
    weights_drop(d, o, &w);
}

/* Rows like these are where cuBLASLt would rather split a sum: in any order the product is near, the same twice, and
 * nothing of it stays when it is over. */
static void any_order(struct device *d, struct device *o)
{
    static const int some[] = { 1, 5, 32 };
    int by = real_device() ? 16 : 1, n = 64 * by, k = 160 * by;
    struct source s = source_of(12);
    struct weights w = weights_of(d, o, &s, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16 }, 2, n - 2, k);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        int m = some[i];
        struct both x = put_random(d, o, &s, m, k, 1), y = put(d, o, DTYPE_F32, m, n, NULL);
        float *got[4];
        for (int way = 0; way < 4; way++) { /* in order, any, any, in order */
            uint64_t before = products_in_any_order();
            bool any = way == 1 || way == 2;
            d->any_order(d, any);
            d->fill(d, y.d, 0, (int64_t)m * n);
            d->linear(d, y.d, x.d, w.d, NULL, m, false);
            got[way] = floats_back(d, y.d);
            if (!real_device() && products_in_any_order() - before != any)
                note_mismatch("way %d of %d rows: %d products in any order", way, m,
                              (int)(products_in_any_order() - before));
        }
        d->any_order(d, false);
        same_floats("in any order", got[1], got[0], (int64_t)m * n, 1e-3, 1e-4);
        if (memcmp(got[1], got[2], (size_t)m * (size_t)n * sizeof(float)) != 0)
            note_mismatch("%d rows in any order: other bits the second time", m);
        if (memcmp(got[0], got[3], (size_t)m * (size_t)n * sizeof(float)) != 0)
            note_mismatch("%d rows in order: other bits after those in any order", m);
        for (int way = 0; way < 4; way++)
            free(got[way]);
        drop(d, o, x);
        drop(d, o, y);
    }
    weights_drop(d, o, &w);
}

/* A bf16 device rounds what it multiplies, at best where it is made: a product must never take what was there before.
 * Between two operations a tensor is freed or not: after that nothing is known of any. */
static float *rounded(struct device *d, struct device *o, bool freed)
{
    enum { ROWS = 5, N = 64 };
    struct source s = source_of(11);
    struct weights w = weights_of(d, o, &s, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16 }, 2, N - 2, N);
    struct both x = put_random(d, o, &s, ROWS, N, 1), g = put_random(d, o, &s, 1, N, 1),
                a = put_random(d, o, &s, ROWS, N, 1), b = put_random(d, o, &s, ROWS, N, 1),
                y = put_random(d, o, &s, ROWS, N, 1);
    struct both all[] = { x, g, a, b, y };
    float ones[ROWS * N];
    for (int i = 0; i < ROWS * N; i++)
        ones[i] = 1;
    d->linear(d, b.d, x.d, w.d, NULL, ROWS, false); /* room is made, which would round anew too */
    for (int i = 0; i < 8; i++) {
        if (i == 0 || i == 4 || i == 6)
            d->rmsnorm(d, a.d, x.d, g.d, 1e-6f, ROWS, N);
        else if (i == 1)
            d->linear(d, b.d, a.d, w.d, NULL, ROWS, false);
        else if (i == 2)
            d->linear(d, a.d, b.d, w.d, NULL, ROWS, true); /* over what was rounded */
        else if (i == 5)
            d->add(d, a.d, x.d, ROWS * N);
        else if (i == 7)
            d->tensor_write(d, a.d, 0, ones, ROWS * N);
        if (freed)
            d->tensor_free(d, floats_of(d, 1, N, NULL));
        if (i == 3 || i == 5 || i == 7)
            d->linear(d, y.d, a.d, w.d, NULL, ROWS, true);
    }
    float *got = floats_back(d, y.d);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        drop(d, o, all[i]);
    weights_drop(d, o, &w);
    return got;
}

static void rounded_anew(struct device *d, struct device *o)
{
    float *got = rounded(d, o, false), *want = rounded(d, o, true);
    same_floats("products of what was written anew", got, want, 5 * 64, 0, 0);
    free(got);
    free(want);
}

static void test_planted(void **state)
{
    (void)state;
    SKIP_WITHOUT_EMULATION("faults are planted in the emulation only");
    expect_found(PLANT_NO_BARRIER, norms, "no barrier before the sums of the warps are read");
    expect_found(PLANT_SHUFFLE, norms, "half of a warp skips a shuffle");
    expect_found(PLANT_PAST_THE_END, pointwise, "one element too many");
    expect_found(PLANT_DIVERGED, norms, "half of the block at another barrier");
    if (!strstr(mismatch, "divergent barriers") || !strstr(mismatch, "rows.cu:"))
        fail_msg("a divergent barrier is not named with its lines: %s", mismatch);
}

static bool has_lines(void)
{
    return system("readelf -S /proc/$PPID/exe 2>/dev/null | grep -q debug_line") == 0;
}

static void test_named(void **state)
{
    (void)state;
    SKIP_UNWATCHED();
    test_bf16 = false;
    expect_named(PLANT_NO_BARRIER, norms, ": never written: ");
    expect_named(PLANT_REUSED_SUMS, norms, ": race: ");
    if (!has_lines())
        printf("# lines of faults were not looked at: no binutils, or a program without debug information\n");
    else if (!strstr(mismatch, "kernels/cuda/wrap.cuh:") || !strstr(mismatch, " from kernels/cuda/rows.cu:"))
        fail_msg("a race is not named with its lines: %s", mismatch);
    expect_named(PLANT_PAST_THE_END, pointwise, ": out of bounds: ");
    expect_named(PLANT_PAST_THE_SUMS, log_probabilities, ": out of bounds: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(norms),
        CHECK(pointwise),
        CHECK(rotation),
        CHECK(eight_bits),
        CHECK(embedding_and_linear),
        CHECK_BF16(embedding_and_linear),
        CHECK(rows_alone),
        CHECK_BF16(rows_alone),
        CHECK(any_order),
        CHECK_BF16(any_order),
        CHECK_BF16(rounded_anew),
        CHECK(step_inputs),
        CHECK(log_probabilities),
        CHECK(empty),
        CHECK(no_room),
        cmocka_unit_test(test_planted),
        cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
