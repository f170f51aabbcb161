/* fast.c - the fast path's operations on rows: shares rows out, and calls the instruction set's function on each. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/fast.h"

enum { PIECE_ELEMENTS = 16384 }; /* some microseconds of work: less does not pay for another thread */

/* ---- work on rows in pieces ---- */

struct row_job {
    struct cpu *c;
    void (*run)(const struct row_job *j, int64_t row);
    int64_t rows, rows_per_piece;
    /* what the operations need */
    const struct row_isa *isa;
    float *y;
    const float *x, *g, *b;
    const int32_t *index;
    const struct weight *table;
    const struct rope_args *rope;
    int64_t cols;
    float eps;
    bool add;
    /* logprobs */
    float *entropy;
    int32_t *best;
};

static void row_piece(void *arg, int i, int thread)
{
    (void)thread;
    const struct row_job *j = arg;
    int64_t end = (i + 1) * j->rows_per_piece;
    for (int64_t r = i * j->rows_per_piece; r < end && r < j->rows; r++)
        j->run(j, r);
}

/* width: elements that one row costs */
static void run_rows(struct cpu *c, struct row_job *j, int64_t rows, int64_t width)
{
    j->c = c;
    j->isa = rows_of(c);
    j->rows = rows;
    j->rows_per_piece = PIECE_ELEMENTS / (width + 1) + 1;
    pool_run(c->pool, (int)((rows + j->rows_per_piece - 1) / j->rows_per_piece), row_piece, j);
}

/* n elements as rows of PIECE_ELEMENTS */
static int64_t span_of(const struct row_job *j, int64_t row)
{
    int64_t left = j->cols - row * PIECE_ELEMENTS;
    return left < PIECE_ELEMENTS ? left : PIECE_ELEMENTS;
}

static void run_span(struct cpu *c, struct row_job *j)
{
    run_rows(c, j, (j->cols + PIECE_ELEMENTS - 1) / PIECE_ELEMENTS, PIECE_ELEMENTS);
}

/* ---- the operations ---- */

static void embed_row(const struct row_job *j, int64_t r)
{
    float *y = j->y + r * j->cols;
    if (!j->add) {
        weight_row(j->table, j->index[r], y);
        return;
    }
    for (int64_t i = 0; i < j->cols; i += 256) { /* in pieces that need no scratch */
        float part[256];
        int64_t n = j->cols - i < 256 ? j->cols - i : 256;
        weight_row_part(j->table, j->index[r], i, n, part);
        j->isa->add(y + i, part, n);
    }
}

static void embed(struct cpu *c, struct tensor *y, const struct weight *table, const struct tensor *ids, int rows,
                  bool add)
{
    struct row_job j = {
        .run = embed_row, .y = f32(y), .table = table, .index = i32(ids), .cols = table->cols, .add = add
    };
    run_rows(c, &j, rows, table->cols);
}

static void rmsnorm_one(const struct row_job *j, int64_t r)
{
    j->isa->rmsnorm(j->y + r * j->cols, j->x + r * j->cols, j->g, j->eps, j->cols);
}

static void rmsnorm(struct cpu *c, float *y, const float *x, const float *g, float eps, int rows, int cols)
{
    struct row_job j = { .run = rmsnorm_one, .y = y, .x = x, .g = g, .eps = eps, .cols = cols };
    run_rows(c, &j, rows, cols);
}

static void layernorm_one(const struct row_job *j, int64_t r)
{
    j->isa->layernorm(j->y + r * j->cols, j->x + r * j->cols, j->g, j->b, j->eps, j->cols);
}

static void layernorm(struct cpu *c, float *y, const float *x, const float *g, const float *b, float eps, int rows,
                      int cols)
{
    struct row_job j = { .run = layernorm_one, .y = y, .x = x, .g = g, .b = b, .eps = eps, .cols = cols };
    run_rows(c, &j, rows, cols);
}

static void add_span(const struct row_job *j, int64_t r)
{
    j->isa->add(j->y + r * PIECE_ELEMENTS, j->x + r * PIECE_ELEMENTS, span_of(j, r));
}

static void add(struct cpu *c, float *y, const float *x, int64_t n)
{
    struct row_job j = { .run = add_span, .y = y, .x = x, .cols = n };
    run_span(c, &j);
}

static void gelu_span(const struct row_job *j, int64_t r)
{
    j->isa->gelu(j->y + r * PIECE_ELEMENTS, j->x + r * PIECE_ELEMENTS, span_of(j, r));
}

static void gelu(struct cpu *c, float *y, const float *x, int64_t n)
{
    struct row_job j = { .run = gelu_span, .y = y, .x = x, .cols = n };
    run_span(c, &j);
}

static void silu_mul_one(const struct row_job *j, int64_t r)
{
    const float *gate = j->x + r * 2 * j->cols;
    j->isa->silu_mul(j->y + r * j->cols, gate, gate + j->cols, j->cols);
}

static void silu_mul(struct cpu *c, float *y, const float *gate_up, int rows, int cols)
{
    struct row_job j = { .run = silu_mul_one, .y = y, .x = gate_up, .cols = cols };
    run_rows(c, &j, rows, 4 * (int64_t)cols); /* an exponential costs more than a sum */
}

static void gather_one(const struct row_job *j, int64_t r)
{
    memcpy(j->y + r * j->cols, j->x + j->index[r] * j->cols, (size_t)j->cols * sizeof(float));
}

static void gather_rows(struct cpu *c, float *y, const float *x, const int32_t *index, int n, int cols)
{
    struct row_job j = { .run = gather_one, .y = y, .x = x, .index = index, .cols = cols };
    run_rows(c, &j, n, cols);
}

static void rope_one(const struct row_job *j, int64_t r)
{
    const struct rope_args *a = j->rope;
    int half = a->rotary / 2;
    int64_t hd = a->head_dim, q = a->heads * hd, kv = a->kv_heads * hd, at = (int64_t)i32(a->table_row)[r] * half;
    float *row = f32(a->qkv) + r * (q + 2 * kv);
    if (a->from)
        memcpy(row, f32(a->from) + r * (q + 2 * kv), (size_t)(q + 2 * kv) * sizeof *row);
    for (int h = 0; h < a->heads + a->kv_heads; h++) {
        const float *norm = f32(h < a->heads ? a->q_norm : a->k_norm);
        float *x = row + h * hd;
        if (norm)
            j->isa->rmsnorm(x, x, norm, a->eps, hd);
        j->isa->rotate(x, f32(a->cos) + at, f32(a->sin) + at, half);
    }
    if (a->k_cache && i32(a->cache_row)[r] >= 0) {
        int64_t to = i32(a->cache_row)[r] * kv;
        memcpy(f32(a->k_cache) + to, row + q, (size_t)kv * sizeof *row);
        memcpy(f32(a->v_cache) + to, row + q + kv, (size_t)kv * sizeof *row);
    }
}

static void rope(struct cpu *c, const struct rope_args *a)
{
    struct row_job j = { .run = rope_one, .rope = a };
    run_rows(c, &j, a->rows, 4 * (int64_t)(a->heads + 2 * a->kv_heads) * a->head_dim); /* and the caches are far */
}

/* log softmax = (x - max) - log S, entropy = log S - sum of e^(x - max) (x - max) / S, all in double */
static void logprobs_one(const struct row_job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    bool nan;
    double sum, weighted;
    float max = j->isa->max(x, j->cols, &nan);
    j->isa->sum_exp(x, j->cols, max, &sum, &weighted);
    double log_sum = log(sum);
    j->y[r] = j->index[r] < 0 ? NAN : (float)((double)x[j->index[r]] - max - log_sum);
    if (j->entropy)
        j->entropy[r] = (float)(log_sum - weighted / sum);
    if (j->best) {
        int32_t id = 0;
        while (id < j->cols && x[id] != max)
            id++;
        j->best[r] = id < j->cols ? id : 0; /* nothing but NaN */
    }
}

static void logprobs(struct cpu *c, float *logprob, float *entropy, int32_t *best, const float *logits,
                     const int32_t *target, int n, int vocab)
{
    struct row_job j = {
        .run = logprobs_one, .y = logprob, .entropy = entropy, .best = best, .x = logits, .index = target, .cols = vocab
    };
    run_rows(c, &j, n, 4 * (int64_t)vocab);
}

void fast_init(struct cpu_ops *ops)
{
    *ops = (struct cpu_ops){
        embed, fast_linear, fast_linear_block,  rmsnorm,  layernorm,   add, silu_mul, gelu, gather_rows,
        rope,  fast_attend, fast_attend_varlen, logprobs, fast_sample,
    };
}
