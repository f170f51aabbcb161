/* device.cu - struct device over the kernels: memory, shape checks, one operation after another.
 *
 * Shapes are checked by kernels/front.h; what lies in device memory (ids, page tables) is not looked at. Activations
 * are F32, but what training keeps: bf16 as weights. Weights and caches hold bf16 whatever the checkpoint has (rounded
 * to nearest even), or float all of them when the device was opened so, for comparisons. The first failure is kept,
 * later operations do nothing, the next waiting call reports it. Operations of training: device_train.cu.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device.h"

struct recording {
    rt_recording *kept;
    uint64_t frees;
};

struct read_ticket {
    rt_ticket *t, *failure; /* what was asked for, and the sampler's failure so far; NULL: the device had failed */
};

static void fail(cuda *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(cuda *c, const char *fmt, ...)
{
    if (c->failed)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->reason.msg, sizeof c->reason.msg, fmt, ap);
    va_end(ap);
    c->failed = true;
}

/* What cannot be recorded is none of the machine's failures: it runs unrecorded, and says so then if it cannot. */
void cuda_note(cuda *c, int rc, const err &why)
{
    if (rc < 0 && c->recording)
        c->unfit = true;
    else if (rc < 0)
        fail(c, "%s: %s", c->name, why.msg);
}

static bool alive_for_product(cuda *c)
{
    rt_enter(c->r);
    return !c->failed;
}

bool cuda_alive(cuda *c)
{
    c->fresh.x = nullptr;
    return alive_for_product(c);
}

void cuda_launched(cuda *c)
{
    err e;
    cuda_note(c, rt_launched(c->r, &e), e);
}

static int report(cuda *c, err *e)
{
    return c->failed ? err_set(e, "%s", c->reason.msg) : 0;
}

void cuda_free(cuda *c, void *p)
{
    c->fresh.x = nullptr; /* the next tensor may lie where it lay */
    if (p)
        c->frees++;
    rt_free(c->r, p);
}

/* Room that grew once grows again soon; a large one is worth its bytes. */
static const size_t SLACK = static_cast<size_t>(32) << 20;

void *cuda_room(cuda *c, room *r, size_t bytes)
{
    err e;
    if (r->bytes >= bytes)
        return r->p;
    if (c->recording) { /* a first run makes room; what this one names is not enough and never run */
        c->unfit = true;
        return r->p;
    }
    cuda_free(c, r->p);
    *r = room{ nullptr, 0 };
    bytes += bytes / 4 < SLACK ? bytes / 4 : SLACK;
    int rc = rt_alloc(c->r, &r->p, bytes, "work space", &e);
    cuda_note(c, rc, e);
    r->bytes = rc < 0 ? 0 : bytes;
    return r->p;
}

void *cuda_scratch(cuda *c, size_t bytes)
{
    return cuda_room(c, &c->scratch, bytes);
}

/* Where an operation is to write the n elements of y a second time, rounded, for the products that come next; NULL:
 * nowhere. To be called after cuda_alive. */
static bf16 *fresh_room(cuda *c, const float *y, int64_t n)
{
    if (c->f32 || n <= 0)
        return nullptr;
    void *narrow = cuda_room(c, &c->fresh.narrow, static_cast<size_t>(n) * sizeof(bf16));
    c->fresh.x = narrow ? y : nullptr;
    c->fresh.n = n;
    return static_cast<bf16 *>(narrow);
}

/* The first n elements of x rounded, where they are already and a product may take them from; else NULL. */
static const void *rounded_already(const cuda *c, const float *x, int64_t n)
{
    const cuda::rounded &f = c->fresh;
    const void *held = cuda_held(c, x, n);
    if (held || !f.x || x < f.x || x + n > f.x + f.n || (x - f.x) % 128) /* 256 bytes */
        return held;
    return static_cast<const bf16 *>(f.narrow.p) + (x - f.x);
}

/* ---- memory ---- */

static int new_memory(cuda *c, void **out, int64_t rows, int64_t cols, size_t size, const char *what, err *e)
{
    size_t n;
    if (!want_new(rows, cols, what, &n))
        return err_set(e, "no memory for the %s: %lld x %lld elements", what, static_cast<long long>(rows),
                       static_cast<long long>(cols));
    return rt_alloc(c->r, out, n * size, what, e);
}

static int tensor_new(device *d, tensor **out, enum dtype t, int64_t rows, int64_t cols, const char *what, err *e)
{
    void *data = nullptr;
    *out = nullptr;
    rt_enter(of(d)->r);
    if (new_memory(of(d), &data, rows, cols, size_of(t), what, e) < 0)
        return -1;
    tensor *x = static_cast<tensor *>(malloc(sizeof *x));
    if (!x || rt_zero(of(d)->r, data, static_cast<size_t>(rows * cols) * size_of(t), e) < 0) {
        rt_free(of(d)->r, data);
        free(x);
        return x ? -1 : err_set(e, "no memory");
    }
    *x = tensor{ data, t, rows, cols };
    *out = x;
    return 0;
}

static void tensor_free(device *d, tensor *t)
{
    if (!t)
        return;
    rt_enter(of(d)->r);
    cuda_free(of(d), t->data);
    free(t);
}

static int64_t tensor_rows(const tensor *t)
{
    return t->rows;
}

static int64_t tensor_cols(const tensor *t)
{
    return t->cols;
}

static char *range_of(const cuda *c, const tensor *t, size_t first, size_t n, const char *op)
{
    want_range(t, first, n, op);
    WANT(op, !c->recording);
    return static_cast<char *>(t->data) + first * size_of(t->dtype);
}

static void tensor_write(device *d, tensor *t, size_t first, const void *host, size_t n)
{
    cuda *c = of(d);
    err e;
    char *to = range_of(c, t, first, n, "tensor_write");
    if (cuda_alive(c))
        cuda_note(c, rt_write(c->r, to, host, n * size_of(t->dtype), &e), e);
}

/* What the sampler could not say while it ran. */
static void name_failure(cuda *c, const int32_t failure[2])
{
    if (failure[0] == SAMPLE_NAN)
        fail(c, "NaN in logits of sampler slot %d", failure[1]);
    else if (failure[0] == SAMPLE_NO_ID)
        fail(c, "sampler slot %d allows no id at all", failure[1]);
}

static void look_for_failure(cuda *c)
{
    int32_t failure[2] = { 0, 0 };
    err e;
    if (c->failed)
        return;
    cuda_note(c, rt_read(c->r, failure, c->failure, sizeof failure, &e), e);
    name_failure(c, failure);
}

static int tensor_read(device *d, const tensor *t, size_t first, void *host, size_t n, err *e)
{
    cuda *c = of(d);
    err why;
    const char *from = range_of(c, t, first, n, "tensor_read");
    if (cuda_alive(c))
        cuda_note(c, rt_read(c->r, host, from, n * size_of(t->dtype), &why), why);
    look_for_failure(c);
    return report(c, e);
}

static int read_begin(device *d, read_ticket **out, const tensor *t, size_t first, size_t n, err *e)
{
    cuda *c = of(d);
    err why;
    const char *from = range_of(c, t, first, n, "read_begin");
    read_ticket *k = static_cast<read_ticket *>(calloc(1, sizeof *k));
    *out = k;
    if (!k)
        return err_set(e, "no memory");
    if (cuda_alive(c))
        cuda_note(c, rt_ticket_begin(c->r, &k->t, from, n * size_of(t->dtype), &why), why);
    if (!c->failed)
        cuda_note(c, rt_ticket_begin(c->r, &k->failure, c->failure, 2 * sizeof(int32_t), &why), why);
    return 0;
}

/* A sampler's failure shows at the read of its step: looking for it in device memory would wait for what was enqueued
 * since. */
static int read_wait(device *d, read_ticket *k, void *host, err *e)
{
    cuda *c = of(d);
    err why;
    rt_enter(c->r);
    int32_t failure[2] = { 0, 0 };
    if (k->t)
        cuda_note(c, rt_ticket_wait(c->r, k->t, host, &why), why);
    if (k->failure)
        cuda_note(c, rt_ticket_wait(c->r, k->failure, failure, &why), why);
    name_failure(c, failure);
    free(k);
    return report(c, e);
}

static int64_t memory_left(device *d)
{
    rt_enter(of(d)->r);
    return rt_memory_left(of(d)->r);
}

static int sync_device(device *d, err *e)
{
    cuda *c = of(d);
    err why;
    if (cuda_alive(c))
        cuda_note(c, rt_sync(c->r, &why), why);
    look_for_failure(c);
    return report(c, e);
}

/* ---- recordings ---- */

static bool record_begin(device *d)
{
    cuda *c = of(d);
    err e;
    WANT("record_begin", !c->recording);
    c->recording = cuda_alive(c) && rt_record_begin(c->r, &e) == 0;
    c->unfit = false;
    return c->recording;
}

static recording *record_end(device *d)
{
    cuda *c = of(d);
    WANT("record_end", c->recording);
    c->recording = false;
    c->fresh.x = nullptr; /* it was not written */
    recording *r = static_cast<recording *>(malloc(sizeof *r));
    rt_recording *kept = rt_record_end(c->r);
    if (r && kept && !c->unfit && !c->failed) {
        *r = recording{ kept, c->frees };
        return r;
    }
    rt_recording_free(c->r, kept);
    free(r);
    return nullptr;
}

static bool replay(device *d, recording *r)
{
    cuda *c = of(d);
    err e;
    if (r->frees != c->frees)
        return false;
    if (cuda_alive(c))
        cuda_note(c, rt_replay(c->r, r->kept, &e), e);
    return true;
}

static void recording_free(device *d, recording *r)
{
    if (!r)
        return;
    rt_enter(of(d)->r);
    rt_recording_free(of(d)->r, r->kept);
    free(r);
}

/* ---- weights: the mapped checkpoint goes through pinned buffers, converted on the way where it must be ---- */

struct weight_source {
    const weight_part *part;
    int64_t cols;
    bool bf16;
};

static float float_of_half(uint16_t h)
{
    uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff, u;
    float f;
    if (exponent == 0) {
        f = static_cast<float>(fraction) / 16777216.0f; /* subnormal: exact */
        return sign ? -f : f;
    }
    u = exponent == 31 ? sign | 0x7f800000 | fraction << 13 : sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Element i of a checkpoint's tensor, which need not be aligned. */
static float number_at(const char *from, enum dtype t, size_t i)
{
    uint32_t u = 0;
    uint16_t h = 0;
    float f;
    if (t == DTYPE_F32) {
        memcpy(&f, from + 4 * i, 4);
        return f;
    }
    memcpy(&h, from + 2 * i, 2);
    if (t == DTYPE_F16)
        return float_of_half(h);
    u = static_cast<uint32_t>(h) << 16;
    memcpy(&f, &u, 4);
    return f;
}

static void put_number(char *to, bool bf16, float f)
{
    uint32_t u;
    if (!bf16) {
        memcpy(to, &f, 4);
        return;
    }
    memcpy(&u, &f, 4); /* as bf16_of_float, which nvcc keeps for the device */
    uint16_t h =
        static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
    memcpy(to, &h, 2);
}

/* Bytes at .. at+n of the stacked parts, as they will lie on the device. Pieces end at elements: all are multiples
 * of 4. */
static void fill_weight(void *arg, size_t at, size_t n, void *buffer)
{
    const weight_source *s = static_cast<const weight_source *>(arg);
    size_t size = s->bf16 ? 2 : 4, first = at / size, left = n / size;
    char *to = static_cast<char *>(buffer);
    const weight_part *p = s->part;
    while (left > 0) {
        size_t in_part = static_cast<size_t>(p->rows * s->cols);
        if (first >= in_part) {
            first -= in_part;
            p++;
            continue;
        }
        size_t take = in_part - first < left ? in_part - first : left;
        const char *from = static_cast<const char *>(p->host) + first * size_of(p->dtype);
        if (p->dtype == (s->bf16 ? DTYPE_BF16 : DTYPE_F32))
            memcpy(to, from, take * size);
        else
            for (size_t i = 0; i < take; i++)
                put_number(to + i * size, s->bf16, number_at(from, p->dtype, i));
        to += take * size;
        left -= take;
        first = 0;
        p++;
    }
}

weight *cuda_weight_new(cuda *c, int64_t rows, int64_t cols, const char *what, err *e)
{
    rt_enter(c->r);
    weight *w = static_cast<weight *>(malloc(sizeof *w));
    if (!w) {
        err_set(e, "no memory");
        return nullptr;
    }
    *w = weight{ nullptr, rows, cols };
    if (new_memory(c, &w->data, rows, cols, product_size(c), what, e) == 0)
        return w;
    free(w);
    return nullptr;
}

static int weight_new(device *d, weight **out, const weight_part *parts, int nparts, int64_t cols, const char *what,
                      err *e)
{
    cuda *c = of(d);
    weight_source s = { parts, cols, !c->f32 };
    int64_t rows = 0;
    *out = nullptr;
    for (int i = 0; i < nparts; i++)
        rows += parts[i].rows;
    weight *w = cuda_weight_new(c, rows, cols, what, e);
    if (!w)
        return -1;
    if (rt_upload(c->r, w->data, static_cast<size_t>(rows * cols) * product_size(c), fill_weight, &s, e) < 0) {
        rt_free(c->r, w->data);
        free(w);
        return -1;
    }
    *out = w;
    return 0;
}

static void weight_free(device *d, weight *w)
{
    if (!w)
        return;
    rt_enter(of(d)->r);
    cuda_free(of(d), w->data);
    free(w);
}

static void close_device(device *d)
{
    cuda *c = of(d);
    rt_enter(c->r);
    rt_free(c->r, c->scratch.p);
    rt_free(c->r, c->failure);
    rt_free(c->r, c->fresh.narrow.p);
    for (auto &h : c->held)
        rt_free(c->r, h.narrow.p);
    rt_close(c->r);
    free(c);
}

/* ---- rows in, rows out ---- */

static void embed_or_add(device *d, tensor *y, const weight *table, const tensor *ids, int rows, bool add,
                         const char *op)
{
    cuda *c = of(d);
    want_embed(op, y, table->cols, ids, rows);
    if (!cuda_alive(c))
        return;
    op_embed(rt_stream(c->r), f32(y), table->data, !c->f32, i32(ids), rows, static_cast<int>(table->cols), add);
    cuda_launched(c);
}

static void embed(device *d, tensor *y, const weight *table, const tensor *ids, int rows)
{
    embed_or_add(d, y, table, ids, rows, false, "embed");
}

static void add_row(device *d, tensor *y, const weight *table, const tensor *ids, int rows)
{
    embed_or_add(d, y, table, ids, rows, true, "add_row");
}

/* Rounds x, from element `at` on, where products are of bf16 and it is not yet, and enqueues. cuBLASLt adds a bias of
 * y's own type only: sums of which bf16 is kept get theirs in float and are rounded behind it. */
static void multiply(cuda *c, const tensor *x, int64_t at, product_op o)
{
    int64_t n = static_cast<int64_t>(o.m) * o.k, sums = static_cast<int64_t>(o.m) * o.n;
    bf16 *kept = o.bf16_out && o.bias ? static_cast<bf16 *>(o.y) : nullptr;
    o.bf16_in = !c->f32;
    o.any_order = c->any_order;
    o.a = narrow_of(x) ? narrow_of(x) + at : o.bf16_in ? rounded_already(c, f32(x) + at, n) : f32(x) + at;
    size_t wide = kept ? (static_cast<size_t>(sums) * sizeof(float) + 255) / 256 * 256 : 0;
    size_t bytes = wide + (o.a ? 0 : static_cast<size_t>(n) * sizeof(bf16));
    char *room = bytes ? static_cast<char *>(cuda_scratch(c, bytes)) : nullptr;
    if (bytes && !room)
        return;
    if (!o.a) {
        op_to_bf16(rt_stream(c->r), reinterpret_cast<bf16 *>(room + wide), f32(x) + at, n);
        o.a = room + wide;
    }
    if (kept) {
        o.y = room;
        o.bf16_out = false;
        if (o.add)
            op_to_float(rt_stream(c->r), static_cast<float *>(o.y), kept, sums);
    }
    err e;
    if (c->fresh.x == o.y)
        c->fresh.x = nullptr;
    cuda_note(c, rt_product(c->r, o, &e), e);
    if (kept)
        op_to_bf16(rt_stream(c->r), kept, static_cast<float *>(o.y), sums);
    cuda_launched(c);
}

static void any_order(device *d, bool may)
{
    WANT("any_order", !of(d)->recording);
    of(d)->any_order = may;
}

static void linear(device *d, tensor *y, const tensor *x, const weight *w, const tensor *bias, int rows, bool add)
{
    cuda *c = of(d);
    want_linear(y, x, w->rows, w->cols, bias, rows);
    if (!alive_for_product(c) || rows <= 0)
        return;
    product_op o = {};
    o.y = y->data;
    o.bf16_out = y->dtype == DTYPE_BF16;
    o.y_stride = w->rows;
    o.b = w->data;
    o.bias = f32(bias);
    o.m = rows;
    o.n = static_cast<int>(w->rows);
    o.k = static_cast<int>(w->cols);
    o.add = add;
    multiply(c, x, 0, o);
}

/* The block grows until it begins where cuBLASLt's fast algorithms want it: at 64 columns (256 bytes), and at the first
 * row where rows are not multiples of that. */
static void linear_block(device *d, tensor *y, const tensor *x, const weight *w, int row, int rows, int col, int cols)
{
    cuda *c = of(d);
    want_linear_block(y, x, w->rows, w->cols, row, rows, col, cols);
    if (!alive_for_product(c) || rows <= 0 || cols <= 0)
        return;
    int64_t first = col / 64 * 64, end = (col + cols + 63) / 64 * 64, n = w->rows, k = w->cols;
    end = end < n ? end : n;
    if (n % 64 || k % 64) {
        rows += row;
        row = 0;
    }
    product_op o = {};
    o.y = f32(y) + row * n + first;
    o.y_stride = n;
    o.b = static_cast<const char *>(w->data) + static_cast<size_t>(first * k) * product_size(c);
    o.m = rows;
    o.n = static_cast<int>(end - first);
    o.k = static_cast<int>(k);
    multiply(c, x, row * k, o);
}

static void rmsnorm(device *d, tensor *y, const tensor *x, const tensor *g, float eps, int rows, int cols)
{
    cuda *c = of(d);
    want_rmsnorm(y, x, g, rows, cols);
    if (!cuda_alive(c))
        return;
    if (narrow_of(y)) {
        op_rmsnorm_kept(rt_stream(c->r), narrow_of(y), x->data, x->dtype == DTYPE_BF16, f32(g), eps, rows, cols);
    } else {
        bf16 *narrow = fresh_room(c, f32(y), static_cast<int64_t>(rows) * cols);
        op_rmsnorm(rt_stream(c->r), f32(y), narrow, f32(x), f32(g), eps, rows, cols);
    }
    cuda_launched(c);
}

static void layernorm(device *d, tensor *y, const tensor *x, const tensor *g, const tensor *b, float eps, int rows,
                      int cols)
{
    cuda *c = of(d);
    want_layernorm(y, x, g, b, rows, cols);
    if (!cuda_alive(c))
        return;
    bf16 *narrow = fresh_room(c, f32(y), static_cast<int64_t>(rows) * cols);
    op_layernorm(rt_stream(c->r), f32(y), narrow, f32(x), f32(g), f32(b), eps, rows, cols);
    cuda_launched(c);
}

static void add(device *d, tensor *y, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    want_pair("add", y, x, n);
    if (!cuda_alive(c))
        return;
    op_add(rt_stream(c->r), f32(y), f32(x), n);
    cuda_launched(c);
}

static void silu_mul(device *d, tensor *y, const tensor *gate_up, int rows, int cols)
{
    cuda *c = of(d);
    want_silu_mul(y, gate_up, rows, cols);
    if (!cuda_alive(c))
        return;
    if (narrow_of(y)) {
        op_silu_mul_kept(rt_stream(c->r), narrow_of(y), narrow_of(gate_up), rows, cols);
    } else {
        bf16 *narrow = fresh_room(c, f32(y), static_cast<int64_t>(rows) * cols);
        op_silu_mul(rt_stream(c->r), f32(y), narrow, f32(gate_up), rows, cols);
    }
    cuda_launched(c);
}

static void gelu(device *d, tensor *y, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    want_pair("gelu", y, x, n);
    if (!cuda_alive(c))
        return;
    bf16 *narrow = fresh_room(c, f32(y), n);
    op_gelu(rt_stream(c->r), f32(y), narrow, f32(x), n);
    cuda_launched(c);
}

static void gather_rows(device *d, tensor *y, const tensor *x, const tensor *index, int n, int cols)
{
    cuda *c = of(d);
    want_gather_rows(y, x, index, n, cols);
    if (!cuda_alive(c))
        return;
    op_gather(rt_stream(c->r), f32(y), f32(x), i32(index), n, cols);
    cuda_launched(c);
}

static void rope(device *d, const rope_args *a)
{
    cuda *c = of(d);
    want_rope(a);
    if (!cuda_alive(c))
        return;
    rope_op o = {};
    o.qkv = wide_of(a->qkv);
    o.q_norm = f32(a->q_norm);
    o.k_norm = f32(a->k_norm);
    o.cos = f32(a->cos);
    o.sin = f32(a->sin);
    o.eps = a->eps;
    o.table_row = i32(a->table_row);
    if (a->k_cache) {
        o.cache_row = i32(a->cache_row);
        o.k_cache = a->k_cache->data;
        o.v_cache = a->v_cache->data;
        o.cache = a->k_cache->dtype;
    }
    o.rows = a->rows;
    o.heads = a->heads;
    o.kv_heads = a->kv_heads;
    o.head_dim = a->head_dim;
    o.rotary = a->rotary;
    if (a->from)
        op_rope_kept(rt_stream(c->r), o, a->qkv->data, narrow_of(a->qkv), a->from->data, narrow_of(a->from));
    else
        op_rope(rt_stream(c->r), o);
    cuda_launched(c);
}

/* What both kinds of attention say of themselves. */
template <class A> static attend_op attention_of(const A &a)
{
    attend_op o = {};
    o.out = wide_of(a.out);
    o.narrow = narrow_of(a.out);
    o.qkv = wide_of(a.qkv);
    o.narrow_qkv = narrow_of(a.qkv);
    o.nseq = a.nseq;
    o.rows = a.rows;
    o.heads = a.heads;
    o.kv_heads = a.kv_heads;
    o.head_dim = a.head_dim;
    o.scale = a.scale;
    o.window = a.window;
    return o;
}

/* The first so many sequences have one row each and go the way of decoding, the others that of prompts; both ways give
 * the same bits for any batch. */
static void attend_tensor_cores(cuda *c, const attend_op &o, int singles)
{
    attend_op one = o, more = o;
    one.nseq = singles;
    one.rows = singles < o.nseq ? singles : o.rows;
    more.begin += one.nseq;
    more.seq_slot += one.nseq;
    more.context += one.nseq;
    more.nseq -= one.nseq;
    more.rows -= one.rows;
    void *parts = cuda_scratch(c, attend_mma_scratch(one));
    one.narrow = more.narrow = fresh_room(c, o.out, static_cast<int64_t>(o.rows) * o.heads * o.head_dim);
    if (c->failed)
        return;
    op_attend_mma(rt_stream(c->r), one, true, parts);
    op_attend_mma(rt_stream(c->r), more, false, nullptr);
}

static void attend(device *d, const attend_args *a)
{
    cuda *c = of(d);
    want_attend(a);
    WANT("attend", a->head_dim <= 256);
    if (!cuda_alive(c) || a->rows == 0)
        return;
    attend_op o = attention_of(*a);
    o.k = a->k->data;
    o.v = a->v->data;
    o.cache = a->k->dtype;
    o.page_table = i32(a->page_table);
    o.max_pages = static_cast<int>(a->page_table->cols);
    o.longest = a->longest > 0 && a->longest < o.max_pages * KV_PAGE ? a->longest : o.max_pages * KV_PAGE;
    o.seq_slot = i32(a->seq_slot);
    o.context = i32(a->context);
    o.begin = i32(a->q_begin);
    o.causal = true;
    if (attend_mma_takes(o)) {
        attend_tensor_cores(c, o, a->rows <= a->nseq ? a->nseq : a->singles); /* of the first a guess at the shape */
    } else {
        op_attend(rt_stream(c->r), o);
    }
    cuda_launched(c);
}

attend_op cuda_varlen_op(const attend_varlen_args *a, const char *op)
{
    WANT(op, a->head_dim <= 256);
    attend_op o = attention_of(*a);
    o.begin = i32(a->begin);
    o.causal = a->causal;
    return o;
}

size_t cuda_widened(const attend_op &o)
{
    int64_t width = static_cast<int64_t>(2 * o.heads + 2 * o.kv_heads) * o.head_dim;
    return o.narrow_qkv ? static_cast<size_t>(o.rows * width) * sizeof(float) : 0;
}

void cuda_widen(cuda *c, attend_op *o, bool out, void *room)
{
    int64_t n = static_cast<int64_t>(o->rows) * (o->heads + 2 * o->kv_heads) * o->head_dim;
    float *qkv = static_cast<float *>(room);
    if (!o->narrow_qkv)
        return;
    op_to_float(rt_stream(c->r), qkv, o->narrow_qkv, n);
    o->qkv = qkv;
    o->out = qkv + n;
    if (out)
        op_to_float(rt_stream(c->r), o->out, o->narrow, static_cast<int64_t>(o->rows) * o->heads * o->head_dim);
}

void cuda_attend_varlen(device *d, const attend_varlen_args *a, float *lse)
{
    cuda *c = of(d);
    attend_op o = cuda_varlen_op(a, "attend_varlen");
    o.lse = lse;
    if (!cuda_alive(c) || a->rows == 0)
        return;
    int64_t n = static_cast<int64_t>(o.rows) * o.heads * o.head_dim;
    if (!c->f32 && attend_varlen_takes(o)) {
        void *qkv = cuda_scratch(c, attend_varlen_scratch(o, false));
        if (o.out)
            o.narrow = fresh_room(c, o.out, n);
        if (c->failed)
            return;
        op_attend_varlen(rt_stream(c->r), o, qkv);
    } else {
        bf16 *kept = o.narrow;
        void *room = cuda_scratch(c, cuda_widened(o));
        if (c->failed)
            return;
        cuda_widen(c, &o, false, room);
        op_attend(rt_stream(c->r), o);
        if (kept)
            op_to_bf16(rt_stream(c->r), kept, o.out, n);
    }
    cuda_launched(c);
}

static void attend_varlen(device *d, const attend_varlen_args *a)
{
    want_attend_varlen("attend_varlen", a);
    cuda_attend_varlen(d, a, nullptr);
}

/* ---- ends of the network ---- */

static void logprobs(device *d, tensor *logprob, tensor *entropy, tensor *best, const tensor *logits,
                     const tensor *target, int n, int vocab)
{
    cuda *c = of(d);
    want_logprobs(logprob, entropy, best, logits, target, n, vocab);
    if (!cuda_alive(c))
        return;
    op_logprobs(rt_stream(c->r), f32(logprob), f32(entropy), i32(best), f32(logits), i32(target), n, vocab);
    cuda_launched(c);
}

static void sample(device *d, const sample_args *a)
{
    cuda *c = of(d);
    want_sample(a);
    if (!cuda_alive(c))
        return;
    if (a->vocab > SAMPLE_VOCAB_MAX) {
        fail(c, "%s: a vocabulary of %d ids: the sampler takes at most %d", c->name, a->vocab, SAMPLE_VOCAB_MAX);
        return;
    }
    sample_op o = {};
    o.logits = f32(a->logits);
    o.slot_of = i32(a->slot_of);
    o.slots = static_cast<sample_slot *>(a->slots->data);
    o.counts = i32(a->counts);
    o.out_id = i32(a->out_id);
    o.out_logprob = f32(a->out_logprob);
    o.failure = c->failure;
    o.n = a->n;
    o.vocab = a->vocab;
    o.scratch = cuda_scratch(c, sample_scratch(o));
    if (!o.scratch)
        return;
    op_sample(rt_stream(c->r), o);
    cuda_launched(c);
}

static void decode_inputs(device *d, const decode_inputs_args *a)
{
    cuda *c = of(d);
    want_decode_inputs(a);
    if (!cuda_alive(c))
        return;
    decode_inputs_op o = { i32(a->slot_of),
                           static_cast<sample_slot *>(a->slots->data),
                           i32(a->page_table),
                           i32(a->rope_offset),
                           i32(a->ids),
                           i32(a->table_row),
                           i32(a->context),
                           i32(a->cache_row),
                           a->n,
                           static_cast<int>(a->page_table->cols) };
    op_decode_inputs(rt_stream(c->r), o);
    cuda_launched(c);
}

static void fill_table(device *d)
{
    DEVICE_FILL_MEMORY(d);
    DEVICE_FILL_FORWARD(d);
    d->any_order = any_order;
    d->record_begin = record_begin;
    d->record_end = record_end;
    d->replay = replay;
    d->recording_free = recording_free;
    cuda_train_init(d);
}

/* The one symbol of the plugin. */
extern "C" __attribute__((visibility("default"))) int latent_device_open(uint32_t abi, const char *build_id, int index,
                                                                         bool f32, device **out, err *e)
{
    *out = nullptr;
    if (abi != LATENT_DEVICE_ABI || strcmp(build_id, LATENT_BUILD_ID) != 0)
        return err_set(e, "the CUDA plugin is of another build: it has interface %d, build %s; the program has %u, %s",
                       LATENT_DEVICE_ABI, LATENT_BUILD_ID, abi, build_id);
    cuda *c = static_cast<cuda *>(calloc(1, sizeof *c));
    if (!c)
        return err_set(e, "no memory");
    snprintf(c->name, sizeof c->name, "cuda:%d", index);
    c->d.name = c->name;
    c->d.kv_dtype = c->d.weight_dtype = c->d.keep_dtype = f32 ? DTYPE_F32 : DTYPE_BF16;
    c->f32 = f32;
    fill_table(&c->d);
    if (rt_open(&c->r, index, e) < 0) {
        free(c);
        return -1;
    }
    c->d.numerics = plugin_class(c->numerics, rt_chip(c->r), f32);
    void *failure = nullptr;
    if (rt_alloc(c->r, &failure, 2 * sizeof(int32_t), "sampler", e) < 0 ||
        rt_zero(c->r, failure, 2 * sizeof(int32_t), e) < 0) {
        rt_free(c->r, failure);
        rt_close(c->r);
        free(c);
        return -1;
    }
    c->failure = static_cast<int32_t *>(failure);
    *out = &c->d;
    return 0;
}
