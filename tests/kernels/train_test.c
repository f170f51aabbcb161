/* train_test.c - the operations of training: the oracle against finite differences, the fast paths against the oracle,
 * threads against each other bit for bit. */
#include "kernels/kernel_test.h"

enum { SIZES = 7 };
static const int sizes[SIZES] = { 1, 7, 8, 9, 33, 65, 130 };

/* One problem: random inputs, and an operation that leaves its results in out[]. Run on each path. */
struct problem {
    const char *name;
    int rows, n, k; /* what they mean is the operation's */
};

enum { MAX_OUT = 4 };
struct result {
    float *out[MAX_OUT];
    int64_t n[MAX_OUT];
    int count;
};

static void keep(struct result *r, struct device *d, const struct tensor *t)
{
    r->n[r->count] = d->tensor_rows(t) * d->tensor_cols(t);
    r->out[r->count++] = floats_back(d, t);
}

static void result_release(struct result *r)
{
    for (int i = 0; i < r->count; i++)
        free(r->out[i]);
}

static struct tensor *random_tensor(struct device *d, struct source *s, int64_t rows, int64_t cols, float scale)
{
    float *v = random_floats(s, rows * cols, scale);
    struct tensor *t = floats_of(d, rows, cols, v);
    free(v);
    return t;
}

/* ---- the operations under test ---- */

static void run_linear(struct device *d, const struct problem *p, struct result *r)
{
    struct err e = { "" };
    struct source s = source_of(1);
    float *w = random_floats(&s, (int64_t)p->n * p->k, 1);
    struct weight_part part = { w, DTYPE_F32, p->n };
    struct weight *weight, *again;
    assert_ok(d->weight_new(d, &weight, &part, 1, p->k, "test", &e));
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, p->k, 1);
    struct tensor *dx = random_tensor(d, &s, p->rows, p->k, 1), *dw = random_tensor(d, &s, p->n, p->k, 1);
    struct tensor *db = random_tensor(d, &s, 1, p->n, 1), *values = floats_of(d, p->n, p->k, w);
    d->linear_dx(d, dx, dy, weight, p->rows, true);
    d->linear_dw(d, dw, db, dy, x, p->rows, p->n, p->k);
    keep(r, d, dx);
    keep(r, d, dw);
    keep(r, d, db);
    /* a weight that changes: both packed forms follow */
    struct tensor *y = floats_of(d, p->rows, p->n, NULL);
    assert_ok(d->weight_from_tensor(d, &again, values, "test", &e));
    d->linear(d, y, x, again, NULL, p->rows, false);
    d->linear_dx(d, dx, dy, again, p->rows, false);
    d->scale(d, values, -2, (int64_t)p->n * p->k);
    d->weight_refresh(d, again, values);
    d->linear_dx(d, dx, dy, again, p->rows, true); /* dy W - 2 dy W */
    d->linear(d, y, x, again, NULL, p->rows, true);
    float *a = floats_back(d, dx), *b = floats_back(d, y);
    struct tensor *dx1 = floats_of(d, p->rows, p->k, NULL), *y1 = floats_of(d, p->rows, p->n, NULL);
    d->linear_dx(d, dx1, dy, weight, p->rows, false);
    d->linear(d, y1, x, weight, NULL, p->rows, false);
    float *a1 = floats_back(d, dx1), *b1 = floats_back(d, y1);
    for (int64_t i = 0; i < (int64_t)p->rows * p->k; i++)
        a1[i] = -a1[i];
    for (int64_t i = 0; i < (int64_t)p->rows * p->n; i++)
        b1[i] = -b1[i];
    assert_close("dx after refresh", a, a1, (int64_t)p->rows * p->k, 1e-4, 1e-4);
    assert_close("y after refresh", b, b1, (int64_t)p->rows * p->n, 1e-4, 1e-4);
    free(a);
    free(b);
    free(a1);
    free(b1);
    d->weight_free(d, weight);
    d->weight_free(d, again);
    struct tensor *all[] = { dy, x, dx, dw, db, values, y, dx1, y1 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(w);
}

static void run_norms(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(2);
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, p->n, 2);
    struct tensor *g = random_tensor(d, &s, 1, p->n, 1), *dx = random_tensor(d, &s, p->rows, p->n, 1);
    struct tensor *dg = random_tensor(d, &s, 1, p->n, 1), *db = random_tensor(d, &s, 1, p->n, 1);
    d->rmsnorm_backward(d, dx, dg, dy, x, g, 1e-5f, p->rows, p->n);
    keep(r, d, dx);
    if (p->n > 1) /* layernorm of one column has no derivative to speak of: x - mean is 0 */
        d->layernorm_backward(d, dx, dg, db, dy, x, g, 1e-3f, p->rows, p->n);
    keep(r, d, dx);
    keep(r, d, dg);
    keep(r, d, db);
    struct tensor *all[] = { dy, x, g, dx, dg, db };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

static void run_gates(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(3);
    struct tensor *dy = random_tensor(d, &s, p->rows, p->n, 1), *x = random_tensor(d, &s, p->rows, 2 * p->n, 6);
    struct tensor *dx = floats_of(d, p->rows, 2 * p->n, NULL), *dz = floats_of(d, p->rows, p->n, NULL);
    struct tensor *z = random_tensor(d, &s, p->rows, p->n, 6);
    d->silu_mul_backward(d, dx, dy, x, p->rows, p->n);
    d->gelu_backward(d, dz, dy, z, (int64_t)p->rows * p->n);
    keep(r, d, dx);
    keep(r, d, dz);
    struct tensor *all[] = { dy, x, dx, dz, z };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

/* rows = head_dim, n = window, k = kind: 0 causal, 1 whole sequences */
static void run_attention(struct device *d, const struct problem *p, struct result *r)
{
    static const int32_t begin[] = { 0, 1, 34, 35, 100 };
    struct source s = source_of(4);
    int hd = p->rows, rows = 100, width = (4 + 2 * 2) * hd;
    struct tensor *qkv = random_tensor(d, &s, rows, width, 1), *dout = random_tensor(d, &s, rows, 4 * hd, 1);
    struct tensor *out = floats_of(d, rows, 4 * hd, NULL), *lse = floats_of(d, rows, 4, NULL);
    struct tensor *dqkv = random_tensor(d, &s, rows, width, 9), *b = ints_of(d, 1, 5, begin);
    struct attend_varlen_args a = { .out = out,
                                    .qkv = qkv,
                                    .begin = b,
                                    .nseq = 4,
                                    .rows = rows,
                                    .heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = hd,
                                    .scale = 0.5f,
                                    .window = p->n,
                                    .causal = p->k == 0 };
    d->attend_varlen_keep(d, &a, lse);
    d->attend_varlen_backward(d, &a, dqkv, dout, lse);
    keep(r, d, out);
    keep(r, d, lse);
    keep(r, d, dqkv);
    struct tensor *all[] = { qkv, dout, out, lse, dqkv, b };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
}

static void run_rope(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(5);
    int hd = 2 * p->n, width = (3 + 2) * hd, rotary = p->k ? hd : 2 * (p->n / 2);
    struct tensor *raw = random_tensor(d, &s, p->rows, width, 1), *dqkv = random_tensor(d, &s, p->rows, width, 1);
    struct tensor *qn = random_tensor(d, &s, 1, hd, 1), *kn = random_tensor(d, &s, 1, hd, 1);
    struct tensor *dqn = random_tensor(d, &s, 1, hd, 1), *dkn = random_tensor(d, &s, 1, hd, 1);
    float *angle = random_floats(&s, 16 * (rotary / 2) + 1, 3), *cs = xcalloc((size_t)(16 * rotary + 2), sizeof *cs);
    int32_t *row = xcalloc((size_t)p->rows, sizeof *row);
    for (int i = 0; i < 16 * (rotary / 2); i++) {
        cs[i] = cosf(angle[i]);
        angle[i] = sinf(angle[i]);
    }
    for (int i = 0; i < p->rows; i++)
        row[i] = next_int(&s, 16);
    struct tensor *cosine = floats_of(d, 16, rotary / 2, cs), *sine = floats_of(d, 16, rotary / 2, angle);
    struct tensor *rows = ints_of(d, 1, p->rows, row);
    struct rope_args a = { .qkv = dqkv,
                           .q_norm = qn,
                           .k_norm = kn,
                           .eps = 1e-5f,
                           .cos = cosine,
                           .sin = sine,
                           .table_row = rows,
                           .rows = p->rows,
                           .heads = 3,
                           .kv_heads = 1,
                           .head_dim = hd,
                           .rotary = rotary };
    d->rope_backward(d, &a, dqkv, raw, dqn, dkn);
    keep(r, d, dqkv);
    keep(r, d, dqn);
    keep(r, d, dkn);
    struct tensor *all[] = { raw, dqkv, qn, kn, dqn, dkn, cosine, sine, rows };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(angle);
    free(cs);
    free(row);
}

static void run_ends(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(6);
    struct tensor *logits = random_tensor(d, &s, p->rows, p->n, 8), *loss = floats_of(d, 1, p->rows, NULL);
    int32_t *target = xcalloc((size_t)p->rows, sizeof *target), *ids = xcalloc((size_t)p->rows, sizeof *ids);
    for (int i = 0; i < p->rows; i++) {
        target[i] = next_int(&s, p->n + 1) - 1;
        ids[i] = next_int(&s, 5);
    }
    struct tensor *t = ints_of(d, 1, p->rows, target), *id = ints_of(d, 1, p->rows, ids);
    struct tensor *table = random_tensor(d, &s, 5, p->n, 1), *squares = floats_of(d, 1, 3, NULL);
    d->cross_entropy(d, loss, logits, t, 0.25f, p->rows, p->n);
    d->embed_backward(d, table, logits, id, p->rows, p->n);
    d->sum_squares(d, squares, 1, table, (int64_t)5 * p->n);
    keep(r, d, loss);
    keep(r, d, logits);
    keep(r, d, table);
    keep(r, d, squares);
    struct tensor *all[] = { logits, loss, t, id, table, squares };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(target);
    free(ids);
}

static void run_adamw(struct device *d, const struct problem *p, struct result *r)
{
    struct source s = source_of(7);
    struct tensor *value = random_tensor(d, &s, 1, p->n, 1), *m = floats_of(d, 1, p->n, NULL);
    struct tensor *v = floats_of(d, 1, p->n, NULL);
    for (int step = 1; step <= 5; step++) {
        struct tensor *grad = random_tensor(d, &s, 1, p->n, 1);
        d->adamw(d, value, m, v, grad, 0.5f, 1e-2f, 0.9f, 0.999f, 1e-8f, 0.01f, step, p->n);
        d->tensor_free(d, grad);
    }
    keep(r, d, value);
    keep(r, d, m);
    keep(r, d, v);
    d->tensor_free(d, value);
    d->tensor_free(d, m);
    d->tensor_free(d, v);
}

/* ---- the comparisons ---- */

typedef void run_fn(struct device *d, const struct problem *p, struct result *r);

static struct result run_on(enum cpu_isa isa, int threads, run_fn *run, const struct problem *p)
{
    struct result r = { .count = 0 };
    struct device *d = open_path(isa, threads);
    if (!d)
        return r;
    run(d, p, &r);
    device_close(d);
    return r;
}

static void compare(run_fn *run, const struct problem *p, double tol)
{
    char what[128];
    struct result want = run_on(CPU_ORACLE, 1, run, p);
    for (int isa = CPU_BASE; isa <= CPU_AVX512; isa++) {
        struct result one = run_on((enum cpu_isa)isa, 1, run, p), three = run_on((enum cpu_isa)isa, 3, run, p);
        for (int i = 0; i < one.count; i++) {
            snprintf(what, sizeof what, "%s %dx%dx%d output %d on %s", p->name, p->rows, p->n, p->k, i,
                     path_name((enum cpu_isa)isa));
            assert_close(what, one.out[i], want.out[i], want.n[i], tol, tol);
            assert_same_bits(what, three.out[i], one.out[i], one.n[i]);
        }
        if (isa == CPU_AVX512 && one.count) { /* wider tiles, the same bits */
            struct result avx2 = run_on(CPU_AVX2, 2, run, p);
            for (int i = 0; i < one.count; i++)
                assert_same_bits(p->name, one.out[i], avx2.out[i], one.n[i]);
            result_release(&avx2);
        }
        result_release(&one);
        result_release(&three);
    }
    result_release(&want);
}

static void products(void **state)
{
    (void)state;
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < SIZES; j += 2)
            compare(run_linear, &(struct problem){ "linear", sizes[i], sizes[j], sizes[(i + j + 3) % SIZES] }, 1e-4);
    compare(run_linear, &(struct problem){ "linear", 257, 129, 1025 }, 3e-4);
}

static void rows(void **state)
{
    (void)state;
    for (int i = 0; i < SIZES; i++)
        for (int j = 0; j < SIZES; j++) {
            struct problem p = { "rows", sizes[i], sizes[j], j % 2 };
            compare(run_norms, &p, 3e-4);
            compare(run_gates, &p, 1e-5);
            compare(run_rope, &p, 3e-4);
            compare(run_ends, &p, 2e-5);
        }
    compare(run_ends, &(struct problem){ "ends", 3, 40000, 0 }, 2e-5);
    compare(run_adamw, &(struct problem){ "adamw", 1, 20001, 0 }, 1e-5);
}

static void attention(void **state)
{
    (void)state;
    static const int heads[] = { 1, 8, 9, 31, 64 };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        compare(run_attention, &(struct problem){ "causal", heads[i], 0, 0 }, 1e-4);
        compare(run_attention, &(struct problem){ "window", heads[i], 5, 0 }, 1e-4);
        compare(run_attention, &(struct problem){ "whole", heads[i], 0, 1 }, 1e-4);
    }
}

/* ---- the oracle's derivatives against differences of the forward operations ----
 * loss = sum(c * f(x)); d loss / dx by central differences. Forward values are floats, so steps are wide and tolerances
 * with them. */

static double weighed(struct device *d, const struct tensor *y, const float *c)
{
    double s = 0;
    float *v = floats_back(d, y);
    for (int64_t i = 0; i < d->tensor_rows(y) * d->tensor_cols(y); i++)
        s += (double)c[i] * v[i];
    free(v);
    return s;
}

struct forward {
    struct device *d;
    struct tensor *x, *y;
    void (*run)(struct forward *f);
    struct tensor *g, *b, *begin, *lse, *cosine, *sine, *rows, *target;
    int n;
};

static void check_differences(const char *name, struct forward *f, const float *c, const float *want, double tol)
{
    int64_t n = f->d->tensor_rows(f->x) * f->d->tensor_cols(f->x);
    float *x = floats_back(f->d, f->x), *got = xcalloc((size_t)n, sizeof *got);
    const float h = 4e-3f;
    for (int64_t i = 0; i < n; i++) {
        double side[2];
        for (int k = 0; k < 2; k++) {
            float v = x[i] + (k ? h : -h);
            f->d->tensor_write(f->d, f->x, (size_t)i, &v, 1);
            f->run(f);
            side[k] = weighed(f->d, f->y, c);
        }
        f->d->tensor_write(f->d, f->x, (size_t)i, &x[i], 1);
        got[i] = (float)((side[1] - side[0]) / (2 * (double)h));
    }
    assert_close(name, got, want, n, tol, tol);
    free(x);
    free(got);
}

static void fwd_rmsnorm(struct forward *f)
{
    f->d->rmsnorm(f->d, f->y, f->x, f->g, 1e-3f, 3, f->n);
}

static void fwd_layernorm(struct forward *f)
{
    f->d->layernorm(f->d, f->y, f->x, f->g, f->b, 1e-3f, 3, f->n);
}

static void fwd_silu(struct forward *f)
{
    f->d->silu_mul(f->d, f->y, f->x, 3, f->n);
}

static void fwd_gelu(struct forward *f)
{
    f->d->gelu(f->d, f->y, f->x, 3 * f->n);
}

static struct attend_varlen_args attention_of(struct forward *f, int window)
{
    return (struct attend_varlen_args){ .out = f->y,
                                        .qkv = f->x,
                                        .begin = f->begin,
                                        .nseq = 2,
                                        .rows = 7,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 4,
                                        .scale = 0.5f,
                                        .window = window,
                                        .causal = f->n == 0 };
}

static void fwd_attend(struct forward *f)
{
    struct attend_varlen_args a = attention_of(f, f->n == 0 ? 3 : 0);
    f->d->attend_varlen(f->d, &a);
}

static struct rope_args rope_of(struct forward *f, struct tensor *qkv)
{
    return (struct rope_args){ .qkv = qkv,
                               .q_norm = f->g,
                               .k_norm = f->b,
                               .eps = 1e-3f,
                               .cos = f->cosine,
                               .sin = f->sine,
                               .table_row = f->rows,
                               .rows = 3,
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 4,
                               .rotary = 4 };
}

static void fwd_rope(struct forward *f)
{
    struct rope_args a = rope_of(f, f->y);
    f->d->copy(f->d, f->y, f->x, 3 * 16);
    f->d->rope(f->d, &a);
}

static void fwd_loss(struct forward *f)
{
    struct tensor *scratch = floats_of(f->d, 3, 5, NULL);
    f->d->copy(f->d, scratch, f->x, 15);
    f->d->cross_entropy(f->d, f->y, scratch, f->target, 1, 3, 5);
    f->d->tensor_free(f->d, scratch);
}

static void derivatives(void **state)
{
    (void)state;
    struct device *d = open_path(CPU_ORACLE, 1);
    struct source s = source_of(8);
    float *c = random_floats(&s, 200, 1);
    static const int32_t begin[] = { 0, 2, 7 }, rows3[] = { 1, 0, 2 }, target[] = { 2, -1, 4 };
    int n = 5;
    struct forward f = { .d = d, .n = n };
    f.g = random_tensor(d, &s, 1, n, 1);
    f.b = random_tensor(d, &s, 1, n, 1);
    f.x = random_tensor(d, &s, 3, n, 1);
    f.y = floats_of(d, 3, n, NULL);
    struct tensor *dx = floats_of(d, 3, n, NULL), *dg = floats_of(d, 1, n, NULL), *db = floats_of(d, 1, n, NULL);
    struct tensor *cy = floats_of(d, 3, n, c);
    float *want;

    f.run = fwd_rmsnorm;
    d->rmsnorm_backward(d, dx, dg, cy, f.x, f.g, 1e-3f, 3, n);
    check_differences("rmsnorm dx", &f, c, want = floats_back(d, dx), 2e-3);
    free(want);
    want = floats_back(d, dg);
    {
        float *g = floats_back(d, f.g);
        for (int i = 0; i < n; i++) {
            double side[2];
            for (int k = 0; k < 2; k++) {
                float v = g[i] + (k ? 4e-3f : -4e-3f);
                d->tensor_write(d, f.g, (size_t)i, &v, 1);
                fwd_rmsnorm(&f);
                side[k] = weighed(d, f.y, c);
            }
            d->tensor_write(d, f.g, (size_t)i, &g[i], 1);
            float got = (float)((side[1] - side[0]) / 8e-3);
            assert_close("rmsnorm dg", &got, &want[i], 1, 2e-3, 2e-3);
        }
        free(g);
    }
    free(want);

    f.run = fwd_layernorm;
    d->fill(d, dx, 0, 3 * n);
    d->layernorm_backward(d, dx, dg, db, cy, f.x, f.g, 1e-3f, 3, n);
    check_differences("layernorm dx", &f, c, want = floats_back(d, dx), 2e-3);
    free(want);

    f.run = fwd_gelu;
    d->gelu_backward(d, dx, cy, f.x, 3 * n);
    check_differences("gelu dx", &f, c, want = floats_back(d, dx), 2e-3);
    free(want);

    struct forward gate = { .d = d, .n = n, .run = fwd_silu, .y = f.y };
    gate.x = random_tensor(d, &s, 3, 2 * n, 2);
    struct tensor *dgu = floats_of(d, 3, 2 * n, NULL);
    d->silu_mul_backward(d, dgu, cy, gate.x, 3, n);
    check_differences("silu dx", &gate, c, want = floats_back(d, dgu), 2e-3);
    free(want);

    for (int whole = 0; whole < 2; whole++) {
        struct forward at = { .d = d, .n = whole, .run = fwd_attend };
        at.x = random_tensor(d, &s, 7, 16, 1);
        at.y = floats_of(d, 7, 8, NULL);
        at.begin = ints_of(d, 1, 3, begin);
        at.lse = floats_of(d, 7, 2, NULL);
        struct tensor *dq = floats_of(d, 7, 16, NULL), *co = floats_of(d, 7, 8, c);
        struct attend_varlen_args a = attention_of(&at, whole ? 0 : 3);
        d->attend_varlen_keep(d, &a, at.lse);
        d->attend_varlen_backward(d, &a, dq, co, at.lse);
        check_differences("attention", &at, c, want = floats_back(d, dq), 2e-3);
        free(want);
        struct tensor *all[] = { at.x, at.y, at.begin, at.lse, dq, co };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            d->tensor_free(d, all[i]);
    }

    struct forward ro = { .d = d, .run = fwd_rope };
    ro.x = random_tensor(d, &s, 3, 16, 1);
    ro.y = floats_of(d, 3, 16, NULL);
    ro.g = random_tensor(d, &s, 1, 4, 1);
    ro.b = random_tensor(d, &s, 1, 4, 1);
    float cs[6], sn[6];
    for (int i = 0; i < 6; i++) {
        float a = 3 * next_float(&s);
        cs[i] = cosf(a);
        sn[i] = sinf(a);
    }
    ro.cosine = floats_of(d, 3, 2, cs);
    ro.sine = floats_of(d, 3, 2, sn);
    ro.rows = ints_of(d, 1, 3, rows3);
    struct tensor *dr = floats_of(d, 3, 16, c), *dn = floats_of(d, 1, 4, NULL), *dk = floats_of(d, 1, 4, NULL);
    struct rope_args ra = rope_of(&ro, dr);
    d->rope_backward(d, &ra, dr, ro.x, dn, dk);
    check_differences("rope and head norms", &ro, c, want = floats_back(d, dr), 3e-3);
    free(want);

    struct forward lo = { .d = d, .run = fwd_loss };
    lo.x = random_tensor(d, &s, 3, 5, 1);
    lo.y = floats_of(d, 1, 3, NULL);
    lo.target = ints_of(d, 1, 3, target);
    float ones[3] = { 1, 1, 1 };
    struct tensor *grad = floats_of(d, 3, 5, NULL), *unused = floats_of(d, 1, 3, NULL);
    d->copy(d, grad, lo.x, 15);
    d->cross_entropy(d, unused, grad, lo.target, 1, 3, 5);
    check_differences("cross entropy", &lo, ones, want = floats_back(d, grad), 2e-3);
    free(want);

    struct tensor *all[] = { f.g,  f.b,       f.x,     f.y,     dx, dg, db, cy,   gate.x, dgu,       ro.x, ro.y,  ro.g,
                             ro.b, ro.cosine, ro.sine, ro.rows, dr, dn, dk, lo.x, lo.y,   lo.target, grad, unused };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->tensor_free(d, all[i]);
    free(c);
    device_close(d);
}

/* torch.optim.AdamW's own lines, in double, for one element */
static void adamw_is_torchs(void **state)
{
    (void)state;
    struct device *d = open_path(cpu_best(), 1);
    float v0 = 0.7f, g[3] = { 0.3f, -2.0f, 1e-4f };
    struct tensor *value = floats_of(d, 1, 1, &v0), *m = floats_of(d, 1, 1, NULL), *v = floats_of(d, 1, 1, NULL);
    double p = (double)v0, avg = 0, sq = 0;
    for (int step = 1; step <= 3; step++) {
        struct tensor *grad = floats_of(d, 1, 1, &g[step - 1]);
        d->adamw(d, value, m, v, grad, 1, 0.1f, 0.9f, 0.999f, 1e-8f, 0.05f, step, 1);
        d->tensor_free(d, grad);
        double gr = (double)g[step - 1];
        p *= 1 - 0.1 * 0.05;
        avg = 0.9 * avg + 0.1 * gr;
        sq = 0.999 * sq + 0.001 * gr * gr;
        double denom = sqrt(sq) / sqrt(1 - pow(0.999, step)) + 1e-8;
        p -= 0.1 / (1 - pow(0.9, step)) * avg / denom;
        float *got = floats_back(d, value), want = (float)p;
        assert_close("adamw", got, &want, 1, 1e-6, 1e-5);
        free(got);
    }
    d->tensor_free(d, value);
    d->tensor_free(d, m);
    d->tensor_free(d, v);
    device_close(d);
}

static void dropout_depends_on_its_stream_only(void **state)
{
    (void)state;
    struct device *d = open_path(cpu_best(), 1);
    const uint32_t key[2] = { 1, 2 }, stream[2] = { 3, 4 };
    enum { N = 4000 };
    struct tensor *a = floats_of(d, 1, N, NULL), *b = floats_of(d, 1, N, NULL);
    d->fill(d, a, 1, N);
    d->dropout(d, a, 0.25f, key, stream, 100, N);
    d->fill(d, b, 1, N);
    d->dropout(d, b, 0.25f, key, stream, 100 + N / 2, N); /* the second half of a's draws first */
    float *x = floats_back(d, a), *y = floats_back(d, b);
    assert_same_bits("dropout", y, x + N / 2, N / 2);
    int kept = 0;
    for (int i = 0; i < N; i++) {
        assert_true(x[i] == 0 || x[i] == 1 / 0.75f);
        kept += x[i] != 0;
    }
    assert_true(kept > N * 0.75 - 140 && kept < N * 0.75 + 140); /* 5 standard deviations */
    free(x);
    free(y);
    d->tensor_free(d, a);
    d->tensor_free(d, b);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derivatives),
        cmocka_unit_test(products),
        cmocka_unit_test(rows),
        cmocka_unit_test(attention),
        cmocka_unit_test(adamw_is_torchs),
        cmocka_unit_test(dropout_depends_on_its_stream_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
