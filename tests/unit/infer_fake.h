/* infer_fake.h - a model and a device of a few lines, for tests of the scheduler: every number it makes depends on the
 * whole sequence before it, through the pages of the cache, so a wrong page, a stale one, one rotated by the wrong list
 * or a missing row changes the tokens. fake_expect() says what must come out, without any cache. Included by one test
 * file; it takes the place of lib/model and of the tokenizer's stream. */
#ifndef LATENT_INFER_FAKE_H
#define LATENT_INFER_FAKE_H

#include "base/rng.h"
#include "infer/engine.h"

struct tensor {
    enum dtype type;
    int64_t rows, cols;
    void *data;
};

struct read_ticket {
    void *data;
    size_t bytes;
};

struct model {
    struct model_config config;
    struct device device;
    int max_rows, tickets;
    int64_t forwards, rows;
};

static uint32_t fake_mix(uint32_t h, uint32_t x)
{
    h = (h ^ x) * 0x9e3779b1u;
    return (h ^ (h >> 15)) * 0x85ebca77u;
}

/* ---- the device ---- */

static int fake_tensor_new(struct device *d, struct tensor **out, enum dtype t, int64_t rows, int64_t cols,
                           const char *what, struct err *e)
{
    (void)d, (void)what, (void)e;
    *out = xcalloc(1, sizeof **out);
    size_t size = t == DTYPE_U8 ? 1 : 4;
    **out = (struct tensor){ t, rows, cols, xcalloc((size_t)(rows * cols), size) };
    return 0;
}

static void fake_tensor_free(struct device *d, struct tensor *t)
{
    (void)d;
    if (t)
        free(t->data);
    free(t);
}

static size_t fake_size(const struct tensor *t)
{
    return t->type == DTYPE_U8 ? 1 : 4;
}

static void fake_tensor_write(struct device *d, struct tensor *t, size_t first, const void *host, size_t n)
{
    (void)d;
    assert_true(first + n <= (size_t)(t->rows * t->cols));
    memcpy((char *)t->data + first * fake_size(t), host, n * fake_size(t));
}

static int fake_read_begin(struct device *d, struct read_ticket **out, const struct tensor *t, size_t first, size_t n,
                           struct err *e)
{
    (void)e;
    struct model *m = (struct model *)((char *)d - offsetof(struct model, device));
    *out = xcalloc(1, sizeof **out);
    (*out)->bytes = n * fake_size(t);
    (*out)->data = xmalloc((*out)->bytes);
    memcpy((*out)->data, (char *)t->data + first * fake_size(t), (*out)->bytes);
    m->tickets++;
    return 0;
}

static int fake_read_wait(struct device *d, struct read_ticket *r, void *host, struct err *e)
{
    (void)e;
    struct model *m = (struct model *)((char *)d - offsetof(struct model, device));
    memcpy(host, r->data, r->bytes);
    free(r->data);
    free(r);
    m->tickets--;
    return 0;
}

#define I32(t) ((int32_t *)(t)->data)
#define U32(t) ((uint32_t *)(t)->data)
#define SLOT(t, i) ((struct sample_slot *)(t)->data + (i))

static void fake_decode_inputs(struct device *d, const struct decode_inputs_args *a)
{
    (void)d;
    for (int i = 0; i < a->n; i++) {
        int32_t s = I32(a->slot_of)[i];
        const struct sample_slot *slot = SLOT(a->slots, s);
        bool runs = slot->done == SAMPLE_RUNNING;
        int32_t at = runs ? slot->position : 0;
        int32_t page = runs ? I32(a->page_table)[s * a->page_table->cols + at / KV_PAGE] : 0;
        assert_true(!runs || page > 0);
        I32(a->ids)[i] = runs ? slot->last : 0;
        I32(a->table_row)[i] = runs ? at + I32(a->rope_offset)[s] : 0;
        I32(a->context)[i] = at + 1;
        I32(a->cache_row)[i] = runs ? page * KV_PAGE + at % KV_PAGE : -1;
    }
}

static float fake_logprob(uint32_t h)
{
    return -(float)(h >> 8) / 65536.0f;
}

/* Draws depend on state, stream and number of the token; every 23rd id or so is 1, a stop id if it is among them. */
static int32_t fake_draw(uint32_t h, const uint32_t key[2], const uint32_t stream[2], int32_t generated, int vocab)
{
    h = fake_mix(fake_mix(h, key[0] ^ stream[0]), (uint32_t)generated ^ key[1] ^ stream[1]);
    return h % 23 == 0 ? 1 : 2 + (int32_t)((h >> 3) % (uint32_t)(vocab - 2));
}

static void fake_sample(struct device *d, const struct sample_args *a)
{
    (void)d;
    for (int i = 0; i < a->n; i++) {
        struct sample_slot *s = SLOT(a->slots, I32(a->slot_of)[i]);
        I32(a->out_id)[i] = -1;
        if (s->done != SAMPLE_RUNNING)
            continue;
        uint32_t h = U32(a->logits)[(int64_t)i * a->logits->cols];
        int32_t id = fake_draw(h, s->key, s->stream, s->generated, a->vocab);
        if (a->out_logprob)
            ((float *)a->out_logprob->data)[i] = fake_logprob(h);
        I32(a->out_id)[i] = id;
        s->last = id;
        s->position++;
        s->generated++;
        for (int k = 0; k < SAMPLE_STOP_IDS; k++)
            if (s->stop[k] == id)
                s->done = SAMPLE_STOPPED;
        if (s->done == SAMPLE_RUNNING && s->generated == s->limit)
            s->done = SAMPLE_LENGTH;
    }
}

/* ---- the model ---- */

const struct model_config *model_config(const struct model *m)
{
    return &m->config;
}

struct device *model_device(const struct model *m)
{
    return (struct device *)&m->device;
}

const char *model_dir(const struct model *m)
{
    (void)m;
    return "fake";
}

int64_t model_rope_offset(const struct model *m, int64_t length)
{
    return m->config.longrope && length > m->config.rope_original ? m->config.max_positions : 0;
}

bool model_dumps(const struct model *m)
{
    (void)m;
    return false;
}

size_t kv_page_bytes(const struct model *m)
{
    (void)m;
    return 2 * KV_PAGE * 4;
}

int kv_cache_open(struct kv_cache *kv, const struct model *m, int64_t pages, struct err *e)
{
    struct device *d = model_device(m);
    *kv = (struct kv_cache){ .layers = 1, .pages = pages };
    kv->k = xcalloc(1, sizeof *kv->k);
    kv->v = xcalloc(1, sizeof *kv->v);
    return d->tensor_new(d, &kv->k[0], DTYPE_I32, pages * KV_PAGE, 1, "k", e) |
           d->tensor_new(d, &kv->v[0], DTYPE_I32, pages * KV_PAGE, 1, "v", e);
}

void kv_cache_close(struct kv_cache *kv, const struct model *m)
{
    struct device *d = model_device(m);
    if (kv->k) {
        d->tensor_free(d, kv->k[0]);
        d->tensor_free(d, kv->v[0]);
    }
    free(kv->k);
    free(kv->v);
}

int64_t model_row_bytes(const struct model *m)
{
    (void)m;
    return 4;
}

int model_reserve(struct model *m, int max_rows, struct err *e)
{
    (void)e;
    m->max_rows = max_rows;
    return 0;
}

/* Layer 1 folds what every position stored (id and rotation), layer 2 what layer 1 made of every position. */
static uint32_t fake_fold(const struct tensor *cache, const int32_t *pages, int n)
{
    uint32_t h = 1;
    for (int j = 0; j < n; j++)
        h = fake_mix(h, U32(cache)[pages[j / KV_PAGE] * KV_PAGE + j % KV_PAGE]);
    return h;
}

void model_forward(struct model *m, struct kv_cache *kv, const struct model_batch *b)
{
    assert_true(b->rows <= m->max_rows && b->rows > 0);
    m->forwards++;
    m->rows += b->rows;
    for (int i = 0; i < b->rows; i++)
        if (I32(b->cache_row)[i] >= 0)
            U32(kv->k[0])[I32(b->cache_row)[i]] = fake_mix((uint32_t)I32(b->ids)[i], (uint32_t)I32(b->table_row)[i]);
    for (int pass = 0; pass < 2; pass++)
        for (int s = 0; s < b->nseq; s++) {
            const int32_t *pages = I32(b->page_table) + I32(b->seq_slot)[s] * b->page_table->cols;
            int begin = I32(b->q_begin)[s], end = I32(b->q_begin)[s + 1];
            for (int i = begin; i < end; i++) {
                int n = I32(b->context)[s] - (end - 1 - i);
                uint32_t h = fake_fold(pass ? kv->v[0] : kv->k[0], pages, n);
                if (pass && i < b->logit_rows)
                    U32(b->logits)[(int64_t)i * b->logits->cols] = h;
                else if (!pass && I32(b->cache_row)[i] >= 0)
                    U32(kv->v[0])[I32(b->cache_row)[i]] = h;
            }
        }
}

static int64_t fake_memory_left(struct device *d)
{
    (void)d;
    return -1;
}

static void fake_model_init(struct model *m, int vocab, int max_positions, int rope_original)
{
    *m = (struct model){
        .config = { .vocab = vocab,
                    .max_positions = max_positions,
                    .rope_original = rope_original,
                    .longrope = rope_original > 0,
                    .n_eos = 1,
                    .eos = { 1 } },
        .device = { .name = "fake",
                    .memory_left = fake_memory_left,
                    .tensor_new = fake_tensor_new,
                    .tensor_free = fake_tensor_free,
                    .tensor_write = fake_tensor_write,
                    .read_begin = fake_read_begin,
                    .read_wait = fake_read_wait,
                    .sample = fake_sample,
                    .decode_inputs = fake_decode_inputs },
    };
}

/* ---- the tokenizer: id 26 k + c is k + 1 times the letter c, and its text is certain one token later ---- */

struct tok_stream {
    int32_t held; /* -1: none */
};

int tok_stream_open(struct tok_stream **out, const struct tokenizer *t, bool skip_special, struct err *e);
int tok_stream_put(struct tok_stream *s, int32_t id, struct buf *out, struct err *e);
void tok_stream_close(struct tok_stream *s);

int tok_stream_open(struct tok_stream **out, const struct tokenizer *t, bool skip_special, struct err *e)
{
    (void)t, (void)skip_special, (void)e;
    *out = xcalloc(1, sizeof **out);
    (*out)->held = -1;
    return 0;
}

static void fake_text(struct buf *out, int32_t id)
{
    for (int i = 0; id >= 0 && i <= id / 26; i++)
        buf_putc(out, (char)('a' + id % 26));
}

int tok_stream_put(struct tok_stream *s, int32_t id, struct buf *out, struct err *e)
{
    (void)e;
    fake_text(out, s->held);
    s->held = id;
    return 0;
}

void tok_stream_close(struct tok_stream *s)
{
    free(s);
}

/* State after tokens[0..n): what the engine must have come to by whatever way. */
static uint32_t fake_state(const struct model *m, const int32_t *tokens, int n)
{
    uint32_t turn = (uint32_t)model_rope_offset(m, n), one = 1, two = 1;
    for (int j = 0; j < n; j++) {
        one = fake_mix(one, fake_mix((uint32_t)tokens[j], (uint32_t)j + turn));
        two = fake_mix(two, one);
    }
    return two;
}

/* Adds a token; if now a stop string is in the text, cuts the text before it. */
static int fake_stop_string(const struct gen_params *p, struct buf *text, int32_t id)
{
    char *first = NULL;
    int which = -1;
    fake_text(text, id);
    for (int i = 0; i < p->n_stop_strings && text->s; i++) {
        char *hit = strstr(text->s, p->stop_strings[i]);
        if (hit && (!first || hit < first)) {
            first = hit;
            which = i;
        }
    }
    if (first) {
        *first = '\0';
        text->len = (size_t)(first - text->s);
    }
    return which;
}

/* Checks a result against the definition. */
static void fake_expect(const struct model *m, const struct gen_request *q, const struct gen_result *r)
{
    const struct gen_params *p = q->params;
    int room = (int)m->config.max_positions - q->n_prompt, limit = p->max_new < room ? p->max_new : room;
    struct rng s = rng_stream(q->seed, q->source_id, strlen(q->source_id), (uint32_t)r->sample_index);
    int32_t *t = xreallocarray(NULL, (size_t)(q->n_prompt + limit + 1), sizeof *t);
    memcpy(t, q->prompt, (size_t)q->n_prompt * sizeof *t);
    int n = 0, keep = -1, which = -1;
    bool stopped = false;
    struct buf text = BUF_INIT;
    while (n < limit && !stopped && which < 0) {
        uint32_t h = fake_state(m, t, q->n_prompt + n);
        int32_t id = fake_draw(h, s.key, s.stream, n, m->config.vocab);
        for (int k = 0; k < p->n_stop; k++)
            stopped |= p->stop_ids[k] == id;
        if (!stopped) {
            if (n < r->n)
                assert_int_equal(r->ids[n], id);
            if (n < r->n && p->logprobs)
                assert_memory_equal(&r->logprobs[n], &(float){ fake_logprob(h) }, sizeof(float));
            t[q->n_prompt + n++] = id;
            which = fake_stop_string(p, &text, n > 1 ? t[q->n_prompt + n - 2] : -1);
        }
    }
    for (size_t have = 0; which >= 0 && have < text.len; have += 1 + (size_t)t[q->n_prompt + keep] / 26)
        keep++;
    assert_int_equal(r->n, which < 0 ? n : text.len ? keep + 2 : 0);
    assert_int_equal(r->stop_string, which);
    if (which >= 0)
        assert_string_equal(r->text, text.s);
    assert_int_equal(r->finish, stopped || which >= 0 ? GEN_STOP : GEN_LENGTH);
    buf_release(&text);
    free(t);
}

#endif
