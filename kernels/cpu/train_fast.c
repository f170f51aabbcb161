/* train_fast.c - the training operations on the fast path.
 *
 * Both products of the way back are the forward product with other operands: dx = dy W reads W packed across (its
 * transpose), dw = dy^T x reads x packed, and dy turned. So each element is one chain in a fixed order here too. What
 * sums over rows (dg, db) is cut by columns, and a piece walks the rows in order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/train.h"

enum {
    PIECE = 16384, /* elements of quick work that pay for another thread */
    COLUMNS = 64,
    BACK_ROWS = 64 /* query rows that meet a block of keys together */
};

static int pieces_of(int64_t n, int64_t each)
{
    return (int)((n + each - 1) / each);
}

/* ---- dx = dy W ---- */

struct across {
    struct weight *w;
    struct weight *t;
    struct cpu *c;
};

/* Panel i of the transpose: columns 16 i .. of W, row after row. */
static void pack_across(void *arg, int i, int thread)
{
    struct across *a = arg;
    (void)thread;
    float *to = (float *)(void *)((char *)a->t->packed + (size_t)i * a->t->panel_bytes);
    int64_t first = (int64_t)i * PANEL, n = a->w->cols - first < PANEL ? a->w->cols - first : PANEL;
    for (int64_t r = 0; r < a->w->rows; r++, to += PANEL) {
        weight_row_part(a->w, r, first, n, to);
        for (int64_t k = n; k < PANEL; k++)
            to[k] = 0;
    }
}

static bool ready_across(struct cpu *c, struct weight *w)
{
    struct weight *t = w->across;
    if (t && !w->stale_across)
        return true;
    int panels = pieces_of(w->cols, PANEL);
    if (!t) {
        t = xcalloc(1, sizeof *t);
        t->rows = w->cols;
        t->cols = w->rows;
        t->panel_bytes = (size_t)w->rows * PANEL * sizeof(float);
        t->what = xstrdup(w->what);
        t->packed = aligned_alloc(64, ((size_t)panels * t->panel_bytes + 63) & ~(size_t)63);
        w->across = t;
        if (!t->packed) {
            cpu_fail(c, "no memory to pack the %s across: %.1f MiB are needed", w->what,
                     (double)panels * (double)t->panel_bytes / 1048576.0);
            return false;
        }
    }
    struct across a = { w, t, c };
    pool_run(c->pool, panels, pack_across, &a);
    w->stale_across = false;
    return true;
}

static void linear_dx(struct cpu *c, float *dx, const float *dy, struct weight *w, int rows, bool add)
{
    struct tensor y = { dx, DTYPE_F32, rows, w->cols }, x = { (void *)(size_t)dy, DTYPE_F32, rows, w->rows };
    if (ready_across(c, w))
        fast_linear(c, &y, &x, w->across, NULL, rows, add);
}

/* ---- dw += dy^T x ---- */

struct turning {
    const struct train_isa *isa;
    float *packed, *turned;
    const float *dy, *x;
    int64_t rows, n, k;
};

static void pack_x(void *arg, int i, int thread)
{
    const struct turning *a = arg;
    (void)thread;
    float *to = a->packed + (int64_t)i * a->rows * PANEL;
    int64_t first = (int64_t)i * PANEL, n = a->k - first < PANEL ? a->k - first : PANEL;
    for (int64_t t = 0; t < a->rows; t++, to += PANEL) {
        memcpy(to, a->x + t * a->k + first, (size_t)n * sizeof *to);
        for (int64_t j = n; j < PANEL; j++)
            to[j] = 0;
    }
}

/* Columns 16 i .. of dy become rows. */
static void turn_dy(void *arg, int i, int thread)
{
    const struct turning *a = arg;
    (void)thread;
    int64_t first = (int64_t)i * PANEL, end = first + PANEL < a->n ? first + PANEL : a->n;
    a->isa->turn(a->turned + first * a->rows, a->rows, a->dy + first, a->n, a->rows, end - first);
}

struct columns {
    float *sum;
    const float *x;
    int64_t rows, n;
};

static void add_columns(void *arg, int i, int thread)
{
    const struct columns *a = arg;
    (void)thread;
    int64_t first = (int64_t)i * COLUMNS, end = first + COLUMNS < a->n ? first + COLUMNS : a->n;
    for (int64_t t = 0; t < a->rows; t++)
        for (int64_t o = first; o < end; o++)
            a->sum[o] += a->x[t * a->n + o];
}

static void linear_dw(struct cpu *c, float *dw, float *db, const float *dy, const float *x, int rows, int n, int k)
{
    int64_t panels = pieces_of(k, PANEL), packed = panels * rows * PANEL;
    float *room = cpu_scratch(c, c->threads, (size_t)(packed + (int64_t)n * rows) * sizeof *room, "weight gradient");
    if (!room)
        return;
    struct turning t = { train_isa_of(c), room, room + packed, dy, x, rows, n, k };
    pool_run(c->pool, (int)panels, pack_x, &t);
    pool_run(c->pool, pieces_of(n, PANEL), turn_dy, &t);
    struct weight w = {
        .rows = k, .cols = rows, .packed = t.packed, .panel_bytes = (size_t)rows * PANEL * sizeof(float)
    };
    struct tensor out = { dw, DTYPE_F32, n, k }, in = { t.turned, DTYPE_F32, n, rows };
    fast_linear(c, &out, &in, &w, NULL, n, true);
    struct columns s = { db, dy, rows, n };
    if (db)
        pool_run((int64_t)rows * n < PIECE ? NULL : c->pool, pieces_of(n, COLUMNS), add_columns, &s);
}

/* ---- norms ---- */

struct norm_job {
    const struct norm_backward *a;
    const struct train_isa *isa;
    float *r, *mean; /* per row; mean NULL for rmsnorm */
    int64_t rows_per_piece;
};

static void norm_rows(void *arg, int i, int thread)
{
    const struct norm_job *j = arg;
    const struct norm_backward *a = j->a;
    (void)thread;
    for (int64_t t = i * j->rows_per_piece; t < (i + 1) * j->rows_per_piece && t < a->rows; t++) {
        int64_t at = t * a->cols;
        if (j->mean)
            j->isa->layernorm(a->dx + at, a->dy + at, a->x + at, a->g, a->eps, a->cols, &j->mean[t], &j->r[t]);
        else
            j->r[t] = j->isa->rmsnorm(a->dx + at, a->dy + at, a->x + at, a->g, a->eps, a->cols);
    }
}

static void norm_columns(void *arg, int i, int thread)
{
    const struct norm_job *j = arg;
    const struct norm_backward *a = j->a;
    (void)thread;
    int64_t first = (int64_t)i * COLUMNS, end = first + COLUMNS < a->cols ? first + COLUMNS : a->cols;
    for (int64_t t = 0; t < a->rows; t++) {
        float r = j->r[t], mean = j->mean ? j->mean[t] : 0;
        const float *dy = a->dy + t * a->cols, *x = a->x + t * a->cols;
        for (int64_t k = first; a->dg && k < end; k++)
            a->dg[k] += dy[k] * ((x[k] - mean) * r);
        for (int64_t k = first; a->db && k < end; k++)
            a->db[k] += dy[k];
    }
}

static void norm_backward(struct cpu *c, const struct norm_backward *a, bool layer)
{
    float *r = xreallocarray(NULL, (size_t)a->rows * 2 + 1, sizeof *r);
    struct norm_job j = { a, train_isa_of(c), r, layer ? r + a->rows : NULL, PIECE / (a->cols + 1) + 1 };
    struct pool *pool = a->rows * a->cols < PIECE ? NULL : c->pool;
    pool_run(pool, pieces_of(a->rows, j.rows_per_piece), norm_rows, &j);
    if (a->dg || a->db)
        pool_run(pool, pieces_of(a->cols, COLUMNS), norm_columns, &j);
    free(r);
}

static void rmsnorm_backward(struct cpu *c, const struct norm_backward *a)
{
    norm_backward(c, a, false);
}

static void layernorm_backward(struct cpu *c, const struct norm_backward *a)
{
    norm_backward(c, a, true);
}

/* ---- gates ---- */

struct gate_job {
    const struct train_isa *isa;
    float *dx;
    const float *dy, *x;
    int64_t n, cols;
};

static void silu_row(void *arg, int i, int thread)
{
    const struct gate_job *j = arg;
    int64_t n = j->cols, t = i;
    (void)thread;
    j->isa->silu_mul(j->dx + t * 2 * n, j->dx + t * 2 * n + n, j->dy + t * n, j->x + t * 2 * n, j->x + t * 2 * n + n,
                     n);
}

static void silu_mul_backward(struct cpu *c, float *dgate_up, const float *dy, const float *gate_up, int rows, int cols)
{
    struct gate_job j = { train_isa_of(c), dgate_up, dy, gate_up, rows, cols };
    pool_run((int64_t)rows * cols < PIECE ? NULL : c->pool, rows, silu_row, &j);
}

static int64_t span(int64_t n, int i)
{
    return n - (int64_t)i * PIECE < PIECE ? n - (int64_t)i * PIECE : PIECE;
}

static void gelu_span(void *arg, int i, int thread)
{
    const struct gate_job *j = arg;
    int64_t at = (int64_t)i * PIECE;
    (void)thread;
    j->isa->gelu(j->dx + at, j->dy + at, j->x + at, span(j->n, i));
}

static void gelu_backward(struct cpu *c, float *dx, const float *dy, const float *x, int64_t n)
{
    struct gate_job j = { train_isa_of(c), dx, dy, x, n, 0 };
    pool_run(c->pool, pieces_of(n, PIECE), gelu_span, &j);
}

/* ---- attention: a piece is one key-value head of one sequence, whose gradients nobody else touches ---- */

struct attend_job {
    struct cpu *c;
    const struct attend_varlen_args *a;
    const struct train_isa *isa;
    float *dqkv;
    const float *dout, *lse;
    int group, chunk_rows;
};

/* What a piece looks at. */
struct place {
    int begin, rows, head;    /* of the sequence; the first query head */
    int64_t q_width, width;   /* of rows of out, of qkv */
    const float *qkv, *k, *v; /* row 0 of the sequence, of the head */
};

static size_t back_bytes(int n, int hd)
{
    int64_t width = (hd + 15) & ~15;
    return (size_t)(n * (3 * width + 2 * ATTEND_BLOCK + 4) + (int64_t)hd * ATTEND_BLOCK) * sizeof(float);
}

static struct queries_back back_room(float *scratch, int n, int hd)
{
    struct queries_back s = { .turned = scratch, .width = (hd + 15) & ~15 };
    s.q = s.turned + (int64_t)hd * ATTEND_BLOCK;
    s.dout = s.q + n * s.width;
    s.dq = s.dout + n * s.width;
    s.p = s.dq + n * s.width;
    s.ds = s.p + (int64_t)n * ATTEND_BLOCK;
    s.lse = s.ds + (int64_t)n * ATTEND_BLOCK;
    s.delta = s.lse + n;
    s.lo = (int32_t *)(void *)(s.delta + n);
    s.hi = s.lo + n;
    return s;
}

/* Rows t .. t + rows - 1 of the sequence, each head of the group after the other. */
static void back_start(const struct attend_job *j, const struct place *at, int t, int rows, struct queries_back *s)
{
    int hd = j->a->head_dim, n = rows * j->group;
    memset(s->dq, 0, (size_t)(n * s->width) * sizeof *s->dq);
    for (int r = 0; r < n; r++) {
        int64_t row = t + r / j->group, head = at->head + r % j->group,
                out = (at->begin + row) * at->q_width + head * hd;
        memcpy(s->q + r * s->width, at->qkv + row * at->width + head * hd, (size_t)hd * sizeof(float));
        memcpy(s->dout + r * s->width, j->dout + out, (size_t)hd * sizeof(float));
        s->lse[r] = j->lse[(at->begin + row) * j->a->heads + head];
        s->delta[r] = j->isa->dot(j->dout + out, f32(j->a->out) + out, hd);
    }
}

/* Which positions of block b the rows see; *begin .. *end - 1 are the rows that see any. */
static void back_look(const struct attend_job *j, const struct place *at, int t, int rows, int b,
                      struct queries_back *s, int *begin, int *end)
{
    *begin = *end = 0;
    for (int r = 0; r < rows * j->group; r++) {
        int lo, hi;
        train_sees(j->a, at->rows, t + r / j->group, &lo, &hi);
        lo = lo - b * ATTEND_BLOCK < 0 ? 0 : lo - b * ATTEND_BLOCK;
        hi = hi - b * ATTEND_BLOCK > ATTEND_BLOCK ? ATTEND_BLOCK : hi - b * ATTEND_BLOCK;
        *begin += lo >= hi && *end == 0;
        *end = lo < hi ? r + 1 : *end;
        s->lo[r] = lo;
        s->hi[r] = hi;
    }
}

static void back_chunk(const struct attend_job *j, const struct place *at, int t, int rows, float *scratch)
{
    const struct attend_varlen_args *a = j->a;
    const struct attend_isa *isa = attend_isa_of(j->c);
    int hd = a->head_dim, from, to, unused, begin, end;
    struct queries_back s = back_room(scratch, rows * j->group, hd);
    float *dqkv = j->dqkv + at->begin * at->width;
    back_start(j, at, t, rows, &s);
    train_sees(a, at->rows, t, &from, &unused);
    train_sees(a, at->rows, t + rows - 1, &unused, &to);
    for (int b = from / ATTEND_BLOCK; b * ATTEND_BLOCK < to; b++) {
        int64_t row = (int64_t)b * ATTEND_BLOCK * at->width;
        back_look(j, at, t, rows, b, &s, &begin, &end);
        if (begin < end)
            isa->back(&s, begin, end, at->k + row, at->v + row, at->width, dqkv + (at->k - at->qkv) + row,
                      dqkv + (at->v - at->qkv) + row, at->width, hd, a->scale);
    }
    for (int r = 0; r < rows * j->group; r++)
        memcpy(dqkv + (t + r / j->group) * at->width + (int64_t)(at->head + r % j->group) * hd, s.dq + r * s.width,
               (size_t)hd * sizeof(float));
}

static void clear_rows(float *x, int64_t rows, int64_t width, int64_t n)
{
    for (int64_t t = 0; t < rows; t++)
        memset(x + t * width, 0, (size_t)n * sizeof *x);
}

static void attend_piece(void *arg, int i, int thread)
{
    const struct attend_job *j = arg;
    const struct attend_varlen_args *a = j->a;
    int seq = i / a->kv_heads, head = i % a->kv_heads, hd = a->head_dim;
    int64_t kv = (int64_t)a->kv_heads * hd;
    struct place at = { .begin = i32(a->begin)[seq], .head = head * j->group, .q_width = (int64_t)a->heads * hd };
    at.rows = i32(a->begin)[seq + 1] - at.begin;
    at.width = at.q_width + 2 * kv;
    at.qkv = f32(a->qkv) + at.begin * at.width;
    at.k = at.qkv + at.q_width + (int64_t)head * hd;
    at.v = at.k + kv;
    clear_rows(j->dqkv + at.begin * at.width + (at.k - at.qkv), at.rows, at.width, hd);
    clear_rows(j->dqkv + at.begin * at.width + (at.v - at.qkv), at.rows, at.width, hd);
    for (int t = 0; t < at.rows; t += j->chunk_rows)
        back_chunk(j, &at, t, at.rows - t < j->chunk_rows ? at.rows - t : j->chunk_rows, j->c->scratch[thread].p);
}

static void attend_backward(struct cpu *c, const struct attend_varlen_args *a, float *dqkv, const float *dout,
                            const float *lse)
{
    struct attend_job j = { c, a, train_isa_of(c), dqkv, dout, lse, a->heads / a->kv_heads, 0 };
    j.chunk_rows = j.group > BACK_ROWS ? 1 : BACK_ROWS / j.group;
    for (int t = 0; t < c->threads; t++)
        if (!cpu_scratch(c, t, back_bytes(j.chunk_rows * j.group, a->head_dim), "attention"))
            return;
    pool_run(c->pool, a->nseq * a->kv_heads, attend_piece, &j);
}

/* ---- loss ---- */

struct loss_job {
    const struct row_isa *rows;
    const struct train_isa *isa;
    float *loss, *logits;
    const int32_t *target;
    float scale;
    int64_t vocab;
};

static void loss_row(void *arg, int t, int thread)
{
    const struct loss_job *j = arg;
    float *x = j->logits + t * j->vocab;
    int32_t target = j->target[t];
    (void)thread;
    if (target < 0) {
        j->loss[t] = 0;
        memset(x, 0, (size_t)j->vocab * sizeof *x);
        return;
    }
    bool nan;
    double sum, weighted;
    float max = j->rows->max(x, j->vocab, &nan);
    j->rows->sum_exp(x, j->vocab, max, &sum, &weighted);
    j->loss[t] = nan ? NAN : (float)((double)max + log(sum) - x[target]);
    j->isa->softmax_grad(x, j->vocab, max, (float)(1 / sum), j->scale);
    x[target] -= j->scale;
}

static void cross_entropy(struct cpu *c, float *loss, float *logits, const int32_t *target, float scale, int n,
                          int vocab)
{
    struct loss_job j = { rows_of(c), train_isa_of(c), loss, logits, target, scale, vocab };
    pool_run(c->pool, n, loss_row, &j);
}

/* ---- optimizer ---- */

struct square_job {
    const struct train_isa *isa;
    const float *x;
    double *sum;
    int64_t n;
};

static void square_span(void *arg, int i, int thread)
{
    const struct square_job *j = arg;
    (void)thread;
    j->sum[i] = j->isa->sum_squares(j->x + (int64_t)i * PIECE, span(j->n, i));
}

static double sum_squares(struct cpu *c, const float *x, int64_t n)
{
    int pieces = pieces_of(n, PIECE);
    double total = 0, *sum = xcalloc((size_t)pieces + 1, sizeof *sum);
    struct square_job j = { train_isa_of(c), x, sum, n };
    pool_run(c->pool, pieces, square_span, &j);
    for (int i = 0; i < pieces; i++)
        total += sum[i];
    free(sum);
    return total;
}

struct adamw_job {
    const struct adamw_step *a;
    const struct train_isa *isa;
};

static void adamw_span(void *arg, int i, int thread)
{
    const struct adamw_job *j = arg;
    const struct adamw_step *a = j->a;
    int64_t at = (int64_t)i * PIECE;
    (void)thread;
    j->isa->adamw(a->value + at, a->m + at, a->v + at, a->grad + at, span(a->n, i), a->grad_scale, 1 - a->lr * a->decay,
                  a->lr / a->bias1, a->beta1, a->beta2, a->bias2_sqrt, a->eps);
}

static void adamw(struct cpu *c, const struct adamw_step *a)
{
    struct adamw_job j = { a, train_isa_of(c) };
    pool_run(c->pool, pieces_of(a->n, PIECE), adamw_span, &j);
}

const struct train_ops train_fast_ops = {
    linear_dx,     linear_dw,        rmsnorm_backward, layernorm_backward, silu_mul_backward,
    gelu_backward, fast_attend_keep, attend_backward,  cross_entropy,      sum_squares,
    adamw,
};
