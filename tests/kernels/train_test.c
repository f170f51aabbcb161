/* train_test.c - the operations of training: the oracle against finite differences, the fast paths against the oracle,
 * threads against each other bit for bit. */
#include "kernels/train_problems.h"

enum { SIZES = 7 };
static const int sizes[SIZES] = { 1, 7, 8, 9, 33, 65, 130 };

/* ---- the comparisons ---- */

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
    compare(run_adamw, &(struct problem){ "adamw", 5, 7, 0 }, 1e-5);
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
        struct adamw_part part = { value, m, v, grad, 1, 0.05f };
        d->adamw(d, &(struct adamw_args){ &part, 1, 1, 0.1f, 0.9f, 0.999f, 1e-8f, step });
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
