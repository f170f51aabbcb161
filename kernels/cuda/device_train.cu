/* device_train.cu - the operations of training of struct device: shapes are checked here, work is done by train.cu and
 * the multiplication of rt.h. On a bf16 device every product rounds both operands to bf16 and sums in float, and what
 * is kept for the way back is bf16; all else is float. */
#include <math.h>
#include <stdlib.h>

#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/train_ops.h"

/* ---- weights whose values live in a tensor ---- */

static void weight_refresh(device *d, weight *w, const tensor *values, const uint32_t key[2], const uint32_t stream[2])
{
    cuda *c = of(d);
    WANT("weight_refresh", values->dtype == DTYPE_F32 && values->rows == w->rows && values->cols == w->cols);
    if (!cuda_alive(c))
        return;
    err e;
    int64_t n = w->rows * w->cols;
    if (c->f32)
        cuda_note(c, rt_copy(c->r, w->data, values->data, static_cast<size_t>(n) * 4, &e), e);
    else if (key)
        op_to_bf16_by_chance(rt_stream(c->r), static_cast<bf16 *>(w->data), f32(values), n, key, stream);
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
    weight_refresh(d, *out, values, nullptr, nullptr);
    return 0;
}

/* ---- element by element ---- */

static void copy(device *d, tensor *y, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    err e;
    want_copy(y, x, n);
    if (!cuda_alive(c))
        return;
    if (y->dtype == x->dtype)
        cuda_note(c, rt_copy(c->r, y->data, x->data, static_cast<size_t>(n) * size_of(y->dtype), &e), e);
    else if (narrow_of(y))
        op_to_bf16(rt_stream(c->r), narrow_of(y), f32(x), n);
    else
        op_to_float(rt_stream(c->r), f32(y), narrow_of(x), n);
    cuda_launched(c);
}

static void copy_blocks(device *d, const block_copy *b, size_t n)
{
    cuda *c = of(d);
    want_copy_blocks(b, n);
    if (!cuda_alive(c))
        return;
    copy_op o = {};
    for (size_t i = 0; i < n; i++) {
        size_t size = size_of(b[i].y->dtype);
        if (b[i].rows > 0 && b[i].cols > 0)
            o.block[o.blocks++] = {
                static_cast<char *>(b[i].y->data) + static_cast<size_t>(b[i].y_row * b[i].y->cols + b[i].y_col) * size,
                static_cast<char *>(b[i].x->data) + static_cast<size_t>(b[i].x_row * b[i].x->cols + b[i].x_col) * size,
                b[i].y->cols,
                b[i].x->cols,
                b[i].rows,
                b[i].cols,
                0,
                static_cast<int>(size),
                b[i].by
            };
        if (o.blocks == LIST_MAX || i + 1 == n) {
            op_copy_blocks(rt_stream(c->r), o);
            o.blocks = 0;
        }
    }
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
    want_dropout(y, p, n);
    if (!cuda_alive(c))
        return;
    op_dropout(rt_stream(c->r), f32(y), p, key, stream, first, n);
    cuda_launched(c);
}

static void scatter_rows(device *d, tensor *y, const tensor *x, const tensor *index, int n, int cols)
{
    cuda *c = of(d);
    want_scatter_rows("scatter_rows", y, x, index, n, cols);
    if (!cuda_alive(c))
        return;
    op_scatter(rt_stream(c->r), f32(y), f32(x), i32(index), n, cols);
    cuda_launched(c);
}

static void embed_backward(device *d, tensor *dtable, const tensor *dy, const tensor *ids, int rows, int cols)
{
    cuda *c = of(d);
    want_scatter_rows("embed_backward", dtable, dy, ids, rows, cols);
    if (!cuda_alive(c))
        return;
    op_embed_backward(rt_stream(c->r), f32(dtable), f32(dy), i32(ids), rows, cols);
    cuda_launched(c);
}

/* ---- products ---- */

static void hold(device *d, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    want_hold(x, n);
    if (narrow_of(x))
        return; /* it is rounded */
    bool fresh = c->fresh.x == f32(x) && c->fresh.n >= n;
    if (!cuda_alive(c) || c->f32)
        return;
    for (auto &h : c->held) {
        if (h.x)
            continue;
        if (fresh) {
            std::swap(h.narrow, c->fresh.narrow);
        } else {
            void *narrow = cuda_room(c, &h.narrow, static_cast<size_t>(n) * sizeof(bf16));
            if (c->failed)
                return;
            if (!PLANTED(PLANT_HELD_ON) || h.n != n)
                op_to_bf16(rt_stream(c->r), static_cast<bf16 *>(narrow), f32(x), n);
        }
        h.x = f32(x);
        h.n = n;
        cuda_launched(c);
        return;
    }
    device_bug("hold", "too many tensors are held");
}

static void let_go(device *d, const tensor *x)
{
    for (auto &h : of(d)->held)
        if (h.x == x->data)
            h.x = nullptr;
}

const void *cuda_held(const cuda *c, const float *x, int64_t n)
{
    for (auto &h : c->held)
        if (h.x == x && h.n >= n)
            return h.narrow.p;
    return nullptr;
}

/* x as it is multiplied, where it lies so: itself, or rounded when it was held. Else NULL. */
static const void *lies_as(const cuda *c, const tensor *x, int64_t n)
{
    return c->f32 || narrow_of(x) ? x->data : cuda_held(c, f32(x), n);
}

/* x as it is multiplied; what must be rounded goes into *room, which moves on. */
static const void *operand(cuda *c, const tensor *x, int64_t n, char **room)
{
    const void *lies = lies_as(c, x, n);
    if (lies)
        return lies;
    bf16 *to = reinterpret_cast<bf16 *>(*room);
    op_to_bf16(rt_stream(c->r), to, f32(x), n);
    *room += (static_cast<size_t>(n) * 2 + 255) / 256 * 256;
    return to;
}

static size_t room_of(const cuda *c, const tensor *x, int64_t n)
{
    return lies_as(c, x, n) ? 0 : static_cast<size_t>(n) * 2 + 256;
}

static void linear_dx(device *d, tensor *dx, const tensor *dy, const weight *w, int rows, bool add)
{
    cuda *c = of(d);
    want_linear_dx(dx, dy, w->rows, w->cols, rows);
    if (!cuda_alive(c) || rows <= 0)
        return;
    char *room = static_cast<char *>(cuda_scratch(c, room_of(c, dy, rows * w->rows)));
    if (c->failed)
        return;
    err e;
    product_op o = {};
    o.y = f32(dx);
    o.y_stride = w->cols;
    o.a = operand(c, dy, rows * w->rows, &room);
    o.b = w->data;
    o.bf16_in = !c->f32;
    o.b_turned = true;
    o.any_order = true; /* of gradients nobody wants one row alone */
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
    want_linear_dw(dw, db, dy, x, rows, n, k);
    if (!cuda_alive(c) || rows <= 0)
        return;
    int64_t dy_n = static_cast<int64_t>(rows) * n, x_n = static_cast<int64_t>(rows) * k;
    size_t sums = db ? column_sums_scratch(rows, n) : 0, products = room_of(c, dy, dy_n) + room_of(c, x, x_n);
    char *room = static_cast<char *>(cuda_scratch(c, sums > products ? sums : products));
    if (c->failed)
        return;
    if (db)
        op_column_sums(rt_stream(c->r), f32(db), dy->data, narrow_of(dy), rows, n, room);
    err e;
    product_op o = {};
    o.y = f32(dw);
    o.y_stride = k;
    o.a = operand(c, dy, dy_n, &room);
    o.b = operand(c, x, x_n, &room);
    o.bf16_in = !c->f32;
    o.a_turned = o.b_turned = o.any_order = true;
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
    want_norm_backward(op, dx, dg, db, dy, x, g, rows, cols);
    if (!cuda_alive(c) || rows <= 0)
        return;
    norm_backward_op o = {};
    o.dx = f32(dx);
    o.dg = f32(dg);
    o.db = f32(db);
    o.dy = f32(dy);
    o.x = x->data;
    o.x_bf16 = x->dtype == DTYPE_BF16;
    o.g = f32(g);
    o.dx_stride = o.dy_stride = o.x_stride = o.cols = cols;
    o.heads = 1;
    o.vectors = rows;
    o.eps = eps;
    o.layer = layer;
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
    want_silu_mul_backward(dgate_up, dy, gate_up, rows, cols);
    if (!cuda_alive(c))
        return;
    if (narrow_of(gate_up))
        op_silu_mul_backward_kept(rt_stream(c->r), narrow_of(dgate_up), f32(dy), narrow_of(gate_up), rows, cols);
    else
        op_silu_mul_backward(rt_stream(c->r), f32(dgate_up), f32(dy), f32(gate_up), rows, cols);
    cuda_launched(c);
}

static void gelu_backward(device *d, tensor *dx, const tensor *dy, const tensor *x, int64_t n)
{
    cuda *c = of(d);
    want_gelu_backward(dx, dy, x, n);
    if (!cuda_alive(c))
        return;
    op_gelu_backward(rt_stream(c->r), f32(dx), f32(dy), f32(x), n);
    cuda_launched(c);
}

/* ---- rotation ---- */

/* Of heads whose first begins at column `at`. */
static void head_norm_backward(cuda *c, const rope_args *a, const tensor *dqkv, const tensor *raw, int64_t at,
                               const tensor *g, tensor *dg, int heads)
{
    norm_backward_op o = {};
    o.dx = f32(dqkv) + at;
    o.dg = f32(dg);
    o.dy = o.dx;
    o.x_bf16 = raw->dtype == DTYPE_BF16;
    o.x = static_cast<const char *>(raw->data) + static_cast<size_t>(at) * size_of(raw->dtype);
    o.g = f32(g);
    o.dx_stride = o.dy_stride = o.x_stride = dqkv->cols;
    o.heads = heads;
    o.cols = a->head_dim;
    o.vectors = static_cast<int64_t>(a->rows) * heads;
    o.eps = a->eps;
    o.replace = true;
    norm_backward(c, o);
}

static void rope_backward(device *d, const rope_args *a, tensor *dqkv, const tensor *raw, tensor *dq_norm,
                          tensor *dk_norm)
{
    cuda *c = of(d);
    int hd = a->head_dim;
    want_rope_backward(a, dqkv, raw, dq_norm, dk_norm);
    if (!cuda_alive(c) || a->rows == 0)
        return;
    op_unrotate(rt_stream(c->r), f32(dqkv), f32(a->cos), f32(a->sin), i32(a->table_row), a->rows, a->heads, a->kv_heads,
                hd, a->rotary);
    if (a->q_norm)
        head_norm_backward(c, a, dqkv, raw, 0, a->q_norm, dq_norm, a->heads);
    if (a->k_norm && !c->failed)
        head_norm_backward(c, a, dqkv, raw, static_cast<int64_t>(a->heads) * hd, a->k_norm, dk_norm, a->kv_heads);
    cuda_launched(c);
}

/* ---- attention ---- */

static void attend_varlen_keep(device *d, const attend_varlen_args *a, tensor *lse)
{
    want_attend_varlen_keep(a, lse);
    cuda_attend_varlen(d, a, f32(lse));
}

static void attend_varlen_backward(device *d, const attend_varlen_args *a, tensor *dqkv, const tensor *dout,
                                   const tensor *lse)
{
    cuda *c = of(d);
    int64_t items = static_cast<int64_t>(a->rows) * a->heads;
    want_attend_varlen_backward(a, dqkv, dout, lse);
    attend_op o = cuda_varlen_op(a, "attend_varlen_backward");
    if (!cuda_alive(c) || a->rows == 0)
        return;
    bool narrow = !c->f32 && attend_varlen_takes(o);
    size_t widened = narrow ? 0 : cuda_widened(o);
    void *room =
        cuda_scratch(c, narrow ? attend_varlen_scratch(o, true) : widened + static_cast<size_t>(items) * sizeof(float));
    if (!room)
        return;
    o.lse = f32(lse);
    if (narrow) {
        op_attend_varlen_backward(rt_stream(c->r), o, f32(dqkv), f32(dout), room);
    } else {
        cuda_widen(c, &o, true, room);
        op_attend_backward(rt_stream(c->r), o, f32(dqkv), f32(dout),
                           reinterpret_cast<float *>(static_cast<char *>(room) + widened));
    }
    cuda_launched(c);
}

/* ---- loss and optimizer ---- */

static void cross_entropy(device *d, tensor *loss, tensor *logits, const tensor *target, float by, int n, int vocab)
{
    cuda *c = of(d);
    want_cross_entropy(loss, logits, target, n, vocab);
    if (!cuda_alive(c))
        return;
    op_cross_entropy(rt_stream(c->r), f32(loss), f32(logits), i32(target), by, n, vocab);
    cuda_launched(c);
}

static void sum_squares(device *d, tensor *out, int at, const tensor *const *x, size_t n)
{
    cuda *c = of(d);
    want_sum_squares(out, at, x, n);
    if (!cuda_alive(c))
        return;
    double *pieces = static_cast<double *>(cuda_scratch(c, LIST_MAX * SQUARES_BLOCKS * sizeof(double)));
    if (!pieces)
        return;
    squares_op o = {};
    o.out = f32(out) + at;
    for (size_t i = 0; i < n; i++) {
        o.tensor[o.tensors++] = { f32(x[i]), x[i]->rows * x[i]->cols, 0, 0 };
        if (o.tensors == LIST_MAX || i + 1 == n) {
            op_sum_squares(rt_stream(c->r), o, pieces);
            o.tensors = 0;
        }
    }
    cuda_launched(c);
}

static void adamw(device *d, const adamw_args *a)
{
    cuda *c = of(d);
    want_adamw(a);
    if (!cuda_alive(c))
        return;
    double power = static_cast<double>(a->step);
    adamw_op o = {};
    o.grad_scale = a->grad_scale;
    o.rate = a->lr / static_cast<float>(1 - pow(static_cast<double>(a->beta1), power));
    o.beta1 = a->beta1;
    o.beta2 = a->beta2;
    o.bias2_sqrt = static_cast<float>(sqrt(1 - pow(static_cast<double>(a->beta2), power)));
    o.eps = a->eps;
    for (size_t i = 0; i < a->parts; i++) {
        const adamw_part &p = a->part[i];
        o.tensor[o.tensors++] = { f32(p.value), f32(p.m), f32(p.v), f32(p.grad), p.n, 0, 1 - a->lr * p.decay };
        if (o.tensors == LIST_MAX || i + 1 == a->parts) {
            op_adamw(rt_stream(c->r), o);
            o.tensors = 0;
        }
    }
    cuda_launched(c);
}

void cuda_train_init(device *d)
{
    DEVICE_FILL_TRAINING(d);
}
