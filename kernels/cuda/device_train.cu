/* device_train.cu - the operations of training of struct device: shapes are checked here, work is done by train.cu and
 * the multiplication of rt.h. On a bf16 device every product rounds both operands to bf16 and sums in float; all
 * else is float. */
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda/train_ops.h"

/* ---- weights whose values live in a tensor ---- */

static void weight_refresh(device *d, weight *w, const tensor *values)
{
    cuda *c = of(d);
    WANT("weight_refresh", values->dtype == DTYPE_F32 && values->rows == w->rows && values->cols == w->cols);
    if (!cuda_alive(c))
        return;
    err e;
    int64_t n = w->rows * w->cols;
    if (c->f32)
        cuda_note(c, rt_copy(c->r, w->data, values->data, static_cast<size_t>(n) * 4, &e), e);
    else
        op_to_bf16(rt_stream(c->r), static_cast<bf16 *>(w->data), f32(values), n);
    cuda_launched(c);
}

static int weight_from_tensor(device *d, weight **out, const tensor *values, const char *what, err *e)
{
    WANT("weight_from_tensor", values->dtype == DTYPE_F32);
    *out = cuda_weight_new(of(d), values->rows, values->cols, what, e);
    if (!*out)
        return -1;
    weight_refresh(d, *out, values);
    return 0;
}

/* ---- element by element ---- */

static void copy(device *d, tensor *y, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    err e;
    WANT("copy", holds(y, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
    if (cuda_alive(c))
        cuda_note(c, rt_copy(c->r, y->data, x->data, static_cast<size_t>(n) * 4, &e), e);
}

static void copy_block(device *d, tensor *y, int64_t y_row, int64_t y_col, const tensor *x, int64_t x_row,
                       int64_t x_col, int64_t rows, int64_t cols, float by)
{
    cuda *c = of(d);
    WANT("copy_block", y->dtype == DTYPE_F32 && x->dtype == DTYPE_F32);
    WANT("copy_block", y_row >= 0 && y_col >= 0 && y_row + rows <= y->rows && y_col + cols <= y->cols);
    WANT("copy_block", x_row >= 0 && x_col >= 0 && x_row + rows <= x->rows && x_col + cols <= x->cols);
    if (!cuda_alive(c))
        return;
    op_copy_block(rt_stream(c->r), f32(y) + y_row * y->cols + y_col, y->cols, f32(x) + x_row * x->cols + x_col, x->cols,
                  rows, cols, by);
    cuda_launched(c);
}

static void fill(device *d, tensor *y, float value, int64_t n)
{
    cuda *c = of(d);
    WANT("fill", holds(y, DTYPE_F32, n));
    if (!cuda_alive(c))
        return;
    op_fill(rt_stream(c->r), f32(y), value, n);
    cuda_launched(c);
}

static void scale(device *d, tensor *y, float by, int64_t n)
{
    cuda *c = of(d);
    WANT("scale", holds(y, DTYPE_F32, n));
    if (!cuda_alive(c))
        return;
    op_scale(rt_stream(c->r), f32(y), by, n);
    cuda_launched(c);
}

static void dropout(device *d, tensor *y, float p, const uint32_t key[2], const uint32_t stream[2], uint64_t first,
                    int64_t n)
{
    cuda *c = of(d);
    WANT("dropout", holds(y, DTYPE_F32, n) && p >= 0 && p < 1);
    if (!cuda_alive(c))
        return;
    op_dropout(rt_stream(c->r), f32(y), p, key, stream, first, n);
    cuda_launched(c);
}

static void scatter_rows(device *d, tensor *y, const tensor *x, const tensor *index, int n, int cols)
{
    cuda *c = of(d);
    WANT("scatter_rows", is(y, DTYPE_F32, 0, cols) && is(x, DTYPE_F32, n, cols) && holds(index, DTYPE_I32, n));
    if (!cuda_alive(c))
        return;
    op_scatter(rt_stream(c->r), f32(y), f32(x), i32(index), n, cols);
    cuda_launched(c);
}

static void embed_backward(device *d, tensor *dtable, const tensor *dy, const tensor *ids, int rows, int cols)
{
    cuda *c = of(d);
    WANT("embed_backward", is(dtable, DTYPE_F32, 0, cols) && is(dy, DTYPE_F32, rows, cols));
    WANT("embed_backward", holds(ids, DTYPE_I32, rows));
    if (!cuda_alive(c))
        return;
    op_embed_backward(rt_stream(c->r), f32(dtable), f32(dy), i32(ids), rows, cols);
    cuda_launched(c);
}

/* ---- products ---- */

/* x as it is multiplied: itself, or rounded into *room, which moves on. */
static const void *operand(cuda *c, const float *x, int64_t n, char **room)
{
    if (c->f32)
        return x;
    bf16 *to = reinterpret_cast<bf16 *>(*room);
    op_to_bf16(rt_stream(c->r), to, x, n);
    *room += (static_cast<size_t>(n) * 2 + 255) / 256 * 256;
    return to;
}

static size_t room_of(const cuda *c, int64_t n)
{
    return c->f32 ? 0 : static_cast<size_t>(n) * 2 + 256;
}

static void linear_dx(device *d, tensor *dx, const tensor *dy, const weight *w, int rows, bool add)
{
    cuda *c = of(d);
    WANT("linear_dx", is(dx, DTYPE_F32, rows, w->cols) && is(dy, DTYPE_F32, rows, w->rows) && dx->data != dy->data);
    if (!cuda_alive(c) || rows <= 0)
        return;
    char *room = static_cast<char *>(cuda_scratch(c, room_of(c, rows * w->rows)));
    if (c->failed)
        return;
    err e;
    product_op o = {};
    o.y = f32(dx);
    o.y_stride = w->cols;
    o.a = operand(c, f32(dy), rows * w->rows, &room);
    o.b = w->data;
    o.bf16_in = !c->f32;
    o.b_turned = true;
    o.m = rows;
    o.n = static_cast<int>(w->cols);
    o.k = static_cast<int>(w->rows);
    o.add = add;
    cuda_note(c, rt_product(c->r, o, &e), e);
    cuda_launched(c);
}

static void linear_dw(device *d, tensor *dw, tensor *db, const tensor *dy, const tensor *x, int rows, int n, int k)
{
    cuda *c = of(d);
    WANT("linear_dw", holds(dw, DTYPE_F32, static_cast<int64_t>(n) * k) && is(dy, DTYPE_F32, rows, n));
    WANT("linear_dw", is(x, DTYPE_F32, rows, k) && (!db || holds(db, DTYPE_F32, n)));
    if (!cuda_alive(c) || rows <= 0)
        return;
    int64_t dy_n = static_cast<int64_t>(rows) * n, x_n = static_cast<int64_t>(rows) * k;
    size_t sums = db ? column_sums_scratch(rows, n) : 0, products = room_of(c, dy_n) + room_of(c, x_n);
    char *room = static_cast<char *>(cuda_scratch(c, sums > products ? sums : products));
    if (c->failed)
        return;
    if (db)
        op_column_sums(rt_stream(c->r), f32(db), f32(dy), rows, n, room);
    err e;
    product_op o = {};
    o.y = f32(dw);
    o.y_stride = k;
    o.a = operand(c, f32(dy), dy_n, &room);
    o.b = operand(c, f32(x), x_n, &room);
    o.bf16_in = !c->f32;
    o.a_turned = o.b_turned = true;
    o.m = n;
    o.n = k;
    o.k = rows;
    o.add = true;
    cuda_note(c, rt_product(c->r, o, &e), e);
    cuda_launched(c);
}

/* ---- norms and gates ---- */

static void norm_backward(cuda *c, norm_backward_op &o)
{
    o.scratch = cuda_scratch(c, norm_backward_scratch(o));
    if (c->failed)
        return;
    op_norm_backward(rt_stream(c->r), o);
    cuda_launched(c);
}

static void row_norm_backward(device *d, tensor *dx, tensor *dg, tensor *db, const tensor *dy, const tensor *x,
                              const tensor *g, float eps, int rows, int cols, bool layer, const char *op)
{
    cuda *c = of(d);
    WANT(op, is(dx, DTYPE_F32, rows, cols) && is(dy, DTYPE_F32, rows, cols) && is(x, DTYPE_F32, rows, cols));
    WANT(op, holds(g, DTYPE_F32, cols) && (!dg || holds(dg, DTYPE_F32, cols)) && (!db || holds(db, DTYPE_F32, cols)));
    if (!cuda_alive(c) || rows <= 0)
        return;
    norm_backward_op o = { f32(dx), f32(dg), f32(db), f32(dy), f32(x), f32(g), cols,  cols,
                           cols,    1,       cols,    rows,    eps,    false,  layer, nullptr };
    norm_backward(c, o);
}

static void rmsnorm_backward(device *d, tensor *dx, tensor *dg, const tensor *dy, const tensor *x, const tensor *g,
                             float eps, int rows, int cols)
{
    row_norm_backward(d, dx, dg, nullptr, dy, x, g, eps, rows, cols, false, "rmsnorm_backward");
}

static void layernorm_backward(device *d, tensor *dx, tensor *dg, tensor *db, const tensor *dy, const tensor *x,
                               const tensor *g, float eps, int rows, int cols)
{
    row_norm_backward(d, dx, dg, db, dy, x, g, eps, rows, cols, true, "layernorm_backward");
}

static void silu_mul_backward(device *d, tensor *dgate_up, const tensor *dy, const tensor *gate_up, int rows, int cols)
{
    cuda *c = of(d);
    int64_t both = 2 * static_cast<int64_t>(cols);
    WANT("silu_mul_backward", is(dgate_up, DTYPE_F32, rows, both) && is(gate_up, DTYPE_F32, rows, both));
    WANT("silu_mul_backward", is(dy, DTYPE_F32, rows, cols));
    if (!cuda_alive(c))
        return;
    op_silu_mul_backward(rt_stream(c->r), f32(dgate_up), f32(dy), f32(gate_up), rows, cols);
    cuda_launched(c);
}

static void gelu_backward(device *d, tensor *dx, const tensor *dy, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    WANT("gelu_backward", holds(dx, DTYPE_F32, n) && holds(dy, DTYPE_F32, n) && holds(x, DTYPE_F32, n));
    if (!cuda_alive(c))
        return;
    op_gelu_backward(rt_stream(c->r), f32(dx), f32(dy), f32(x), n);
    cuda_launched(c);
}

/* ---- rotation ---- */

static void head_norm_backward(cuda *c, const rope_args *a, float *grad, const float *raw, const tensor *g, tensor *dg,
                               int heads, int64_t width)
{
    norm_backward_op o = { grad,   f32(dg), nullptr, grad,   raw,         f32(g),
                           width,  width,   width,   heads,  a->head_dim, static_cast<int64_t>(a->rows) * heads,
                           a->eps, true,    false,   nullptr };
    norm_backward(c, o);
}

static void rope_backward(device *d, const rope_args *a, tensor *dqkv, const tensor *raw, tensor *dq_norm,
                          tensor *dk_norm)
{
    cuda *c = of(d);
    int hd = a->head_dim, half = a->rotary / 2;
    int64_t width = static_cast<int64_t>(a->heads + 2 * a->kv_heads) * hd, q = static_cast<int64_t>(a->heads) * hd;
    WANT("rope_backward", is(dqkv, DTYPE_F32, a->rows, width) && holds(a->table_row, DTYPE_I32, a->rows));
    WANT("rope_backward", is(a->cos, DTYPE_F32, 0, half) && is(a->sin, DTYPE_F32, a->cos->rows, half));
    WANT("rope_backward", !(a->q_norm || a->k_norm) || is(raw, DTYPE_F32, a->rows, width));
    WANT("rope_backward", !dq_norm || holds(dq_norm, DTYPE_F32, hd));
    WANT("rope_backward", !dk_norm || holds(dk_norm, DTYPE_F32, hd));
    if (!cuda_alive(c) || a->rows == 0)
        return;
    op_unrotate(rt_stream(c->r), f32(dqkv), f32(a->cos), f32(a->sin), i32(a->table_row), a->rows, a->heads, a->kv_heads,
                hd, a->rotary);
    if (a->q_norm)
        head_norm_backward(c, a, f32(dqkv), f32(raw), a->q_norm, dq_norm, a->heads, width);
    if (a->k_norm && !c->failed)
        head_norm_backward(c, a, f32(dqkv) + q, f32(raw) + q, a->k_norm, dk_norm, a->kv_heads, width);
    cuda_launched(c);
}

/* ---- attention ---- */

static void attend_varlen_keep(device *d, const attend_varlen_args *a, tensor *lse)
{
    WANT("attend_varlen_keep", holds(lse, DTYPE_F32, static_cast<int64_t>(a->rows) * a->heads));
    cuda_attend_varlen(d, a, f32(lse));
}

static void attend_varlen_backward(device *d, const attend_varlen_args *a, tensor *dqkv, const tensor *dout,
                                   const tensor *lse)
{
    cuda *c = of(d);
    int64_t items = static_cast<int64_t>(a->rows) * a->heads;
    attend_op o = cuda_varlen_op(a, "attend_varlen_backward");
    WANT("attend_varlen_backward", is(dqkv, DTYPE_F32, a->rows, a->qkv->cols));
    WANT("attend_varlen_backward", is(dout, DTYPE_F32, a->rows, a->out->cols) && holds(lse, DTYPE_F32, items));
    if (!cuda_alive(c) || a->rows == 0)
        return;
    float *delta = static_cast<float *>(cuda_scratch(c, static_cast<size_t>(items) * sizeof(float)));
    if (!delta)
        return;
    o.lse = f32(lse);
    op_attend_backward(rt_stream(c->r), o, f32(dqkv), f32(dout), delta);
    cuda_launched(c);
}

/* ---- loss and optimizer ---- */

static void cross_entropy(device *d, tensor *loss, tensor *logits, const tensor *target, float by, int n, int vocab)
{
    cuda *c = of(d);
    WANT("cross_entropy", is(logits, DTYPE_F32, n, vocab) && holds(loss, DTYPE_F32, n) && holds(target, DTYPE_I32, n));
    if (!cuda_alive(c))
        return;
    op_cross_entropy(rt_stream(c->r), f32(loss), f32(logits), i32(target), by, n, vocab);
    cuda_launched(c);
}

static void sum_squares(device *d, tensor *out, int at, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    WANT("sum_squares", holds(out, DTYPE_F32, at + 1) && holds(x, DTYPE_F32, n));
    if (!cuda_alive(c))
        return;
    double *pieces = static_cast<double *>(cuda_scratch(c, SQUARES_BLOCKS * sizeof(double)));
    if (!pieces)
        return;
    op_sum_squares(rt_stream(c->r), f32(out) + at, f32(x), n, pieces);
    cuda_launched(c);
}

static void adamw(device *d, tensor *value, tensor *m, tensor *v, const tensor *grad, float grad_scale, float lr,
                  float beta1, float beta2, float eps, float decay, int64_t step, int64_t n)
{
    cuda *c = of(d);
    WANT("adamw", holds(value, DTYPE_F32, n) && holds(m, DTYPE_F32, n) && holds(v, DTYPE_F32, n));
    WANT("adamw", holds(grad, DTYPE_F32, n) && step >= 1);
    if (!cuda_alive(c))
        return;
    double power = static_cast<double>(step);
    float bias1 = static_cast<float>(1 - pow(static_cast<double>(beta1), power));
    float bias2_sqrt = static_cast<float>(sqrt(1 - pow(static_cast<double>(beta2), power)));
    op_adamw(rt_stream(c->r), adamw_op{ f32(value), f32(m), f32(v), f32(grad), grad_scale, 1 - lr * decay, lr / bias1,
                                        beta1, beta2, bias2_sqrt, eps, n });
    cuda_launched(c);
}

void cuda_train_init(device *d)
{
    d->weight_from_tensor = weight_from_tensor;
    d->weight_refresh = weight_refresh;
    d->copy = copy;
    d->copy_block = copy_block;
    d->fill = fill;
    d->scale = scale;
    d->dropout = dropout;
    d->linear_dx = linear_dx;
    d->linear_dw = linear_dw;
    d->embed_backward = embed_backward;
    d->rmsnorm_backward = rmsnorm_backward;
    d->layernorm_backward = layernorm_backward;
    d->silu_mul_backward = silu_mul_backward;
    d->gelu_backward = gelu_backward;
    d->rope_backward = rope_backward;
    d->attend_varlen_keep = attend_varlen_keep;
    d->attend_varlen_backward = attend_varlen_backward;
    d->scatter_rows = scatter_rows;
    d->cross_entropy = cross_entropy;
    d->sum_squares = sum_squares;
    d->adamw = adamw;
}
