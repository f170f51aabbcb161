/* dualize.c - see dualize.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/dualize.h"

#include <inttypes.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "io/safetensors.h"
#include "model/model.h"
#include "model/parts.h"
#include "text/tokenizer.h"

static const char embed_name[] = "model.embed_tokens.weight", head_name[] = "lm_head.weight";
static const char latent_format[] = "<|latent_{}|>", filler_format[] = "<|filler_{}|>";
enum { BLOCK = 1 << 22, TEXT_LIMIT = 256 << 20 };

struct work {
    const struct dualize_options *o;
    const char *into;
    struct dual_meta *m;
    struct model_config c;
    struct tokenizer *t;
    struct safetensors *st;
    struct npy array;  /* custom embeddings */
    struct buf custom; /* custom tokens: NUL-terminated texts, one behind the other */
};

/* ---- tokens ---- */

/* Is this text one token, alone in its encoding? */
static bool is_single(const struct tokenizer *t, const char *text, int32_t *id)
{
    struct tokens ids = TOKENS_INIT;
    struct err e = { "" };
    *id = tokenizer_id(t, text);
    bool single =
        *id >= 0 && tokenizer_encode(t, text, strlen(text), 0, &ids, &e) == 0 && ids.n == 1 && ids.id[0] == *id;
    tokens_release(&ids);
    return single;
}

static bool first_single(const struct tokenizer *t, const char *const *texts, const char **text, int32_t *id)
{
    for (; *texts; texts++)
        if (is_single(t, *texts, id)) {
            *text = *texts;
            return true;
        }
    return false;
}

/* Tokens FORMAT with from .. from+n-1, which must get the ids id, id + 1 ... */
static int add_numbered(struct tokenizer *t, const char *format, const struct dual_meta *numbers, int32_t n, int32_t id,
                        struct err *e)
{
    size_t head = (size_t)(strchr(format, '{') - format);
    struct tok_added *list = xcalloc((size_t)n + 1, sizeof *list);
    struct buf b = BUF_INIT;
    size_t *at = xcalloc((size_t)n + 1, sizeof *at);
    int32_t first = id;
    for (int32_t i = 0; i < n; i++) {
        at[i] = b.len;
        buf_printf(&b, "%.*s%d%s", (int)head, format, numbers ? dual_meta_source(numbers, i) : i, format + head + 2);
        b.len++; /* the NUL stays */
        buf_grow(&b, 0);
    }
    int rc = 0;
    for (int32_t i = 0; i < n && rc == 0; i++) {
        list[i].content = b.s + at[i];
        if (tokenizer_id(t, list[i].content) >= 0)
            rc = err_set(e, "the tokenizer has a token %s already", list[i].content);
    }
    if (rc == 0 && n && tokenizer_add(t, list, (size_t)n, &first, e) < 0)
        rc = -1;
    if (rc == 0 && first != id)
        rc = err_set(e, "%s got the id %d, expected %d: the vocabulary has holes", list[0].content, first, id);
    buf_release(&b);
    free(at);
    free(list);
    return rc;
}

/* Rows of the matrix without a token get one. */
static int add_fillers(struct work *w, struct err *e)
{
    int32_t have = tokenizer_size(w->t);
    w->m->base_rows = w->c.vocab;
    w->m->filler_format = xstrdup(filler_format);
    if (have > w->c.vocab)
        return err_set(e, "the tokenizer has ids up to %d, the embedding matrix %d rows", have - 1, w->c.vocab);
    return add_numbered(w->t, filler_format, NULL, w->c.vocab - have, have, e);
}

static int add_think(struct work *w, const char *text, int32_t *id, struct err *e)
{
    int32_t want = tokenizer_size(w->t);
    struct tok_added a = { .content = text, .special = true };
    if (tokenizer_id(w->t, text) >= 0)
        return err_set(e, "%s is a token, but does not encode to one id", text);
    if (tokenizer_add(w->t, &a, 1, id, e) < 0)
        return -1;
    return *id == want ? 0 : err_set(e, "%s got the id %d, expected %d", text, *id, want);
}

static int find_clone_source(struct work *w, struct err *e)
{
    static const char *const ends[] = { "<|im_end|>", "<|eot_id|>", "<|end|>", "</s>", NULL };
    const char *text;
    if (first_single(w->t, ends, &text, &w->m->clone_source_id)) {
        w->m->clone_source = xstrdup(text);
        return 0;
    }
    w->m->clone_source_id = tokenizer_eos(w->t);
    if (w->m->clone_source_id < 0)
        return err_set(e, "--think-missing clone_eos: the tokenizer names no end of text to clone");
    w->m->clone_source = xstrdup(tokenizer_eos_token(w->t));
    return 0;
}

static int find_think(struct work *w, struct err *e)
{
    static const char *const starts[] = { "<think>", "<thinking>", "[THINK]", "<|think|>", NULL };
    static const char *const ends[] = { "</think>", "</thinking>", "[/THINK]", "<|/think|>", NULL };
    const char *start = starts[0], *end = ends[0];
    struct dual_meta *m = w->m;
    bool has_start = first_single(w->t, starts, &start, &m->think_start_id);
    bool has_end = first_single(w->t, ends, &end, &m->think_end_id);
    bool missing = !has_start || !has_end;
    if (!has_start)
        start = starts[0];
    if (!has_end)
        end = ends[0];
    if (missing && w->o->think_missing == THINK_ERROR)
        return err_set(e,
                       "the tokenizer has no single token for %s: --think-missing add or clone_eos makes the think "
                       "tokens that are not there",
                       !has_start ? "the start of thinking (<think>)" : "the end of thinking (</think>)");
    if (add_fillers(w, e) < 0 || (!has_start && add_think(w, start, &m->think_start_id, e) < 0) ||
        (!has_end && add_think(w, end, &m->think_end_id, e) < 0))
        return -1;
    m->think_start = xstrdup(start);
    m->think_end = xstrdup(end);
    m->think_init = xstrdup(!missing ? "existing" : w->o->think_missing == THINK_CLONE_EOS ? "clone_eos" : "add");
    m->visible = tokenizer_size(w->t);
    return missing && w->o->think_missing == THINK_CLONE_EOS ? find_clone_source(w, e) : 0;
}

/* ---- which ids get a latent one ---- */

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Sorted, each once, into the meta; in a row they are a range. */
static int set_sources(struct dual_meta *m, int32_t *ids, int32_t n, struct err *e)
{
    int32_t kept = 0;
    if (n == 0) {
        free(ids);
        return err_set(e, "the subset is empty");
    }
    qsort(ids, (size_t)n, sizeof *ids, by_id);
    for (int32_t i = 0; i < n; i++)
        if (i == 0 || ids[i] != ids[i - 1])
            ids[kept++] = ids[i];
    m->has_sources = true;
    m->latent = kept;
    m->source = ids;
    if (ids[kept - 1] - ids[0] == kept - 1) {
        m->source_first = ids[0];
        m->source = NULL;
        free(ids);
    }
    return 0;
}

static int subset_of_file(struct work *w, struct err *e)
{
    struct buf text = BUF_INIT;
    struct json list, x;
    int64_t id;
    int32_t *ids = NULL, n = 0;
    int rc = file_read(&text, w->o->subset_ids, TEXT_LIMIT, e);
    if (rc == 0 && (rc = json_parse(&list, text.s ? text.s : "", text.len, e)) < 0)
        err_prefix(e, "%s", w->o->subset_ids);
    if (rc == 0 && json_kind(list) != JSON_ARRAY)
        rc = err_set(e, "%s: expected a list of ids", w->o->subset_ids);
    if (rc == 0)
        ids = xreallocarray(NULL, json_count(list) + 1, sizeof *ids);
    for (struct json_iter it = rc == 0 ? json_each(list) : (struct json_iter){ 0 };
         rc == 0 && json_next(&it, NULL, &x);)
        if (!json_int(x, &id) || id < 0 || id >= w->m->visible)
            rc = err_set(e, "%s: %.*s is not an id from 0 to %d", w->o->subset_ids, (int)(x.n < 40 ? x.n : 40), x.s,
                         w->m->visible - 1);
        else
            ids[n++] = (int32_t)id;
    buf_release(&text);
    if (rc == 0)
        return set_sources(w->m, ids, n, e);
    free(ids);
    return -1;
}

static int match_ids(struct work *w, pcre2_code *re, int32_t *ids, int32_t *n, struct err *e)
{
    pcre2_match_data *md = pcre2_match_data_create(1, NULL);
    struct buf token = BUF_INIT;
    int rc = 0;
    for (int32_t id = 0; id < w->m->visible && rc == 0; id++) {
        buf_reset(&token);
        if (!tokenizer_token(w->t, id, &token))
            continue;
        int got = pcre2_match(re, (PCRE2_SPTR)(token.s ? token.s : ""), token.len, 0, 0, md, NULL);
        if (got >= 0)
            ids[(*n)++] = id;
        else if (got != PCRE2_ERROR_NOMATCH)
            rc = err_set(e, "--subset-regex %s: gives up on token %d (%s)", w->o->subset_regex, id, token.s);
    }
    buf_release(&token);
    pcre2_match_data_free(md);
    return rc;
}

static int subset_of_regex(struct work *w, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[256];
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)w->o->subset_regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!re) {
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, "--subset-regex %s: %s (at byte %zu)", w->o->subset_regex, (const char *)why, (size_t)at);
    }
    int32_t *ids = xreallocarray(NULL, (size_t)w->m->visible + 1, sizeof *ids), n = 0;
    int rc = match_ids(w, re, ids, &n, e);
    pcre2_code_free(re);
    if (rc == 0)
        return set_sources(w->m, ids, n, e);
    free(ids);
    return -1;
}

/* One token a line; each must be new. */
static int read_custom(struct work *w, struct err *e)
{
    struct buf text = BUF_INIT;
    const char *file = w->o->custom_tokens;
    int rc = file_read(&text, file, TEXT_LIMIT, e);
    if (rc == 0 && utf8_check(text.s ? text.s : "", text.len) != text.len)
        rc = err_set(e, "%s: is not UTF-8", file);
    char *p = text.s, *end = text.s + text.len;
    for (int32_t line = 1; rc == 0 && p && p < end; line++) {
        char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        size_t n = (size_t)(stop - p) - (stop > p && stop[-1] == '\r');
        if (n == 0 || memchr(p, 0, n))
            rc = err_set(e, "%s:%d: a token is expected on each line", file, line);
        else if (tokenizer_id_n(w->t, p, n) >= 0)
            rc = err_set(e, "%s:%d: %.*s is a token already", file, line, (int)(n < 80 ? n : 80), p);
        buf_add(&w->custom, p, n);
        buf_putc(&w->custom, 0);
        w->m->latent++;
        p = stop + 1;
    }
    if (rc == 0 && !w->m->latent)
        rc = err_set(e, "%s: there are no tokens in it", file);
    buf_release(&text);
    return rc;
}

static int add_custom(struct work *w, struct err *e)
{
    const struct dual_meta *m = w->m;
    struct tok_added *list = xcalloc((size_t)m->latent, sizeof *list);
    const char *p = w->custom.s;
    for (int32_t i = 0; i < m->latent; i++, p += strlen(p) + 1)
        list[i].content = p;
    int rc = tokenizer_add(w->t, list, (size_t)m->latent, NULL, e);
    if (rc == 0 && tokenizer_size(w->t) != m->visible + m->latent)
        rc = err_set(e, "%s: a token stands in it twice", w->o->custom_tokens);
    free(list);
    return rc;
}

static int choose_latent(struct work *w, struct err *e)
{
    struct dual_meta *m = w->m;
    switch (w->o->mode) {
    case DUALIZE_FULL_COPY:
        m->mode = xstrdup("full_copy");
        m->has_sources = true;
        m->latent = m->visible;
        break;
    case DUALIZE_SUBSET:
        m->mode = xstrdup("subset");
        if ((w->o->subset_ids ? subset_of_file(w, e) : subset_of_regex(w, e)) < 0)
            return -1;
        break;
    case DUALIZE_CUSTOM:
        m->mode = xstrdup("custom");
        return read_custom(w, e);
    }
    m->latent_format = xstrdup(latent_format);
    return 0;
}

static int write_tokenizer(struct work *w, struct err *e)
{
    struct dual_meta *m = w->m;
    int rc = 0;
    if (m->has_sources && w->o->tokens)
        rc = add_numbered(w->t, latent_format, m, m->latent, m->visible, e);
    else if (!m->has_sources)
        rc = add_custom(w, e);
    if (rc < 0)
        return -1;
    char *path = path_join(w->into, "tokenizer.json");
    rc = tokenizer_save(w->t, path, e);
    free(path);
    return rc;
}

/* ---- rows ---- */

static void put_16(char *to, uint32_t bits)
{
    uint16_t h = (uint16_t)bits;
    memcpy(to, &h, 2);
}

/* To nearest, ties to even; what is too large becomes infinite. */
static uint32_t half_bits(float x)
{
    uint32_t u, sign;
    memcpy(&u, &x, 4);
    sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u >= 0x7f800000)
        return sign | (u > 0x7f800000 ? 0x7e00 : 0x7c00);
    if (u >= 0x477ff000)
        return sign | 0x7c00;
    if (u < 0x38800000) { /* subnormal: in steps of 2^-24 */
        float y;
        memcpy(&y, &u, 4);
        return sign | (uint32_t)lrintf(y * 16777216.0f);
    }
    u += 0xfff + (u >> 13 & 1);
    return sign | ((u - 0x38000000) >> 13);
}

static void to_dtype(char *to, const float *x, int64_t n, enum st_dtype t)
{
    if (t == ST_F32) {
        memcpy(to, x, (size_t)n * 4);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        put_16(to + 2 * i, t == ST_F16 ? half_bits(x[i]) : (u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}

struct moments {
    double *mean, *deviation; /* [d] */
};

/* Of each dimension over n rows, which are given by one or two pieces of memory. */
static void add_sums(const struct st_tensor *t, int64_t n, int64_t d, const double *mean, double *sum, float *row)
{
    for (int64_t r = 0; r < n; r++) {
        model_floats(row, t, (uint64_t)(r * d), (uint64_t)d);
        for (int64_t i = 0; i < d; i++) {
            double by = (double)row[i] - (mean ? mean[i] : 0);
            sum[i] += mean ? by * by : by;
        }
    }
}

/* The rows of the checkpoint, then `more` rows of the same dtype. */
static void measure(struct moments *k, const struct st_tensor *t, const char *more, int64_t nmore)
{
    int64_t d = t->shape[1], n = t->shape[0] + nmore;
    struct st_tensor tail = *t;
    float *row = xcalloc((size_t)d, sizeof *row);
    k->mean = xcalloc(2 * (size_t)d, sizeof *k->mean);
    k->deviation = k->mean + d;
    tail.data = more;
    add_sums(t, t->shape[0], d, NULL, k->mean, row);
    add_sums(&tail, nmore, d, NULL, k->mean, row);
    for (int64_t i = 0; i < d; i++)
        k->mean[i] /= (double)n;
    add_sums(t, t->shape[0], d, k->mean, k->deviation, row);
    add_sums(&tail, nmore, d, k->mean, k->deviation, row);
    for (int64_t i = 0; i < d; i++)
        k->deviation[i] = n > 1 ? sqrt(k->deviation[i] / (double)(n - 1)) : 0;
    free(row);
}

static void draw_row(const struct work *w, const struct moments *k, const char *tensor, int32_t id, double by,
                     float *row, int64_t d)
{
    struct rng r = rng_stream(w->o->seed, tensor, strlen(tensor), (uint32_t)id);
    for (int64_t i = 0; i < d; i++)
        row[i] = (float)(k->mean[i] + by * k->deviation[i] * rng_normal(&r, (uint64_t)i));
}

static void clone_row(const struct work *w, const struct st_tensor *t, int32_t id, float *row)
{
    int64_t d = t->shape[1];
    double size = 0;
    struct rng r = rng_stream(w->o->seed, t->name, strlen(t->name), (uint32_t)id);
    model_floats(row, t, (uint64_t)w->m->clone_source_id * (uint64_t)d, (uint64_t)d);
    for (int64_t i = 0; i < d; i++)
        size += fabs((double)row[i]);
    size /= (double)d;
    for (int64_t i = 0; i < d; i++)
        row[i] = (float)((double)row[i] + w->o->noise * size * rng_normal(&r, (uint64_t)i));
}

/* The rows of think tokens that were added, in the tensor's dtype; NULL: none. */
static char *think_rows(const struct work *w, const struct st_tensor *t)
{
    int32_t n = w->m->visible - w->m->base_rows;
    int64_t d = t->shape[1];
    size_t bytes = (size_t)(st_dtype_bits(t->dtype) / 8) * (size_t)d;
    struct moments k = { NULL, NULL };
    if (n == 0)
        return NULL;
    char *out = xcalloc((size_t)n, bytes);
    float *row = xcalloc((size_t)d, sizeof *row);
    bool clone = strcmp(w->m->think_init, "clone_eos") == 0;
    if (!clone)
        measure(&k, t, NULL, 0);
    for (int32_t i = 0; i < n; i++) {
        if (clone)
            clone_row(w, t, w->m->base_rows + i, row);
        else
            draw_row(w, &k, t->name, w->m->base_rows + i, w->o->noise, row, d);
        to_dtype(out + (size_t)i * bytes, row, d, t->dtype);
    }
    free(k.mean);
    free(row);
    return out;
}

/* ---- writing ---- */

struct target {
    struct st_writer *w;
    size_t i;
};

static int put_bytes(const struct target *to, const char *p, uint64_t n, struct err *e)
{
    for (uint64_t at = 0; at < n; at += BLOCK)
        if (st_writer_put(to->w, to->i, p + at, n - at < BLOCK ? n - at : BLOCK, e) < 0)
            return -1;
    return 0;
}

/* Copies of visible rows: those of the checkpoint, then the think rows. */
static int put_copies(const struct work *w, const struct target *to, const struct st_tensor *t, const char *think,
                      struct err *e)
{
    const struct dual_meta *m = w->m;
    uint64_t bytes = t->bytes / (uint64_t)t->shape[0];
    for (int32_t i = 0; i < m->latent;) {
        int32_t s = dual_meta_source(m, i), n = 1;
        int32_t end = s < m->base_rows ? m->base_rows : m->visible;
        while (i + n < m->latent && dual_meta_source(m, i + n) == s + n && s + n < end)
            n++;
        const char *from = s < m->base_rows ? (const char *)t->data + (uint64_t)s * bytes
                                            : think + (uint64_t)(s - m->base_rows) * bytes;
        if (put_bytes(to, from, (uint64_t)n * bytes, e) < 0)
            return -1;
        i += n;
    }
    return 0;
}

static int put_custom(const struct work *w, const struct target *to, const struct st_tensor *t, const char *think,
                      struct err *e)
{
    const struct dual_meta *m = w->m;
    int64_t d = t->shape[1];
    size_t bytes = (size_t)(st_dtype_bits(t->dtype) / 8) * (size_t)d;
    struct moments k = { NULL, NULL };
    float *row = xcalloc((size_t)d, sizeof *row);
    char *out = xcalloc(1, bytes);
    int rc = 0;
    if (!w->array.data)
        measure(&k, t, think, m->visible - m->base_rows);
    for (int32_t i = 0; i < m->latent && rc == 0; i++) {
        if (w->array.data)
            memcpy(row, w->array.data + (size_t)i * (size_t)d * 4, (size_t)d * 4);
        else
            draw_row(w, &k, t->name, m->visible + i, 1, row, d);
        to_dtype(out, row, d, t->dtype);
        rc = put_bytes(to, out, bytes, e);
    }
    free(k.mean);
    free(row);
    free(out);
    return rc;
}

static int put_matrix(const struct work *w, const struct target *to, const struct st_tensor *t, struct err *e)
{
    uint64_t bytes = t->bytes / (uint64_t)t->shape[0];
    char *think = think_rows(w, t);
    int rc = put_bytes(to, t->data, t->bytes, e);
    if (rc == 0 && think)
        rc = put_bytes(to, think, (uint64_t)(w->m->visible - w->m->base_rows) * bytes, e);
    if (rc == 0)
        rc = w->m->has_sources ? put_copies(w, to, t, think, e) : put_custom(w, to, t, think, e);
    free(think);
    return rc;
}

static bool is_matrix(const struct st_tensor *t)
{
    return strcmp(t->name, embed_name) == 0 || strcmp(t->name, head_name) == 0;
}

static int check_matrix(const struct work *w, const struct st_tensor *t, const char *name, struct err *e)
{
    char shape[ST_SHAPE_TEXT];
    if (!t)
        return err_set(e, "there is no tensor %s", name);
    if (t->rank != 2 || t->shape[0] != w->c.vocab || t->shape[1] != w->c.hidden)
        return err_set(e, "tensor %s is %s, expected [%d, %d]", name, st_shape_text(t, shape), w->c.vocab, w->c.hidden);
    if (t->dtype != ST_F32 && t->dtype != ST_BF16 && t->dtype != ST_F16)
        return err_set(e, "tensor %s has dtype %s, expected F32, BF16 or F16", name, st_dtype_name(t->dtype));
    if (w->array.data && w->array.cols != t->shape[1])
        return err_set(e, "%s has rows of %" PRId64 " values, the model's have %d", w->o->custom_embeddings,
                       w->array.cols, w->c.hidden);
    return 0;
}

/* The order of the checkpoint: by file, then by name. */
static int by_file(const void *a, const void *b)
{
    const struct st_tensor *x = *(const struct st_tensor *const *)a, *y = *(const struct st_tensor *const *)b;
    return x->file != y->file ? (x->file > y->file ? 1 : -1) : strcmp(x->name, y->name);
}

static int put_all(const struct work *w, const struct st_tensor *const *t, size_t n, struct err *e)
{
    struct st_entry *entry = xcalloc(n, sizeof *entry);
    struct target to = { NULL, 0 };
    for (size_t i = 0; i < n; i++) {
        entry[i] = (struct st_entry){ .name = t[i]->name, .dtype = t[i]->dtype, .rank = t[i]->rank };
        memcpy(entry[i].shape, t[i]->shape, sizeof entry[i].shape);
        if (is_matrix(t[i]))
            entry[i].shape[0] = w->m->visible + w->m->latent;
    }
    int rc = st_writer_open_dir(&to.w, w->into, entry, n, (uint64_t)5000 * 1000 * 1000, e);
    for (; rc == 0 && to.i < n; to.i++)
        rc = is_matrix(t[to.i]) ? put_matrix(w, &to, t[to.i], e) : put_bytes(&to, t[to.i]->data, t[to.i]->bytes, e);
    if (rc == 0)
        rc = st_writer_commit(to.w, e);
    st_writer_close(to.w);
    free(entry);
    return rc;
}

static int write_weights(const struct work *w, struct err *e)
{
    const struct st_tensor *head = safetensors_find(w->st, head_name);
    if (check_matrix(w, safetensors_find(w->st, embed_name), embed_name, e) < 0 ||
        (!w->c.tied && check_matrix(w, head, head_name, e) < 0))
        return -1;
    size_t n = 0, count = safetensors_count(w->st);
    const struct st_tensor **t = xcalloc(count, sizeof *t);
    for (size_t i = 0; i < count; i++) {
        const struct st_tensor *x = safetensors_at(w->st, i);
        if (!(w->c.tied && x == head)) /* a head that nobody reads */
            t[n++] = x;
    }
    qsort(t, n, sizeof *t, by_file);
    int rc = put_all(w, t, n, e);
    free(t);
    return rc;
}

/* ---- the small files ---- */

static int copy_file(const struct work *w, const char *from, const char *name, struct err *e)
{
    struct buf b = BUF_INIT;
    char *path = path_join(w->into, name);
    int rc = file_read(&b, from, 0, e);
    if (rc == 0)
        rc = file_write_atomic(path, b.s ? b.s : "", b.len, e);
    buf_release(&b);
    free(path);
    return rc;
}

static int copy_files(const struct work *w, struct err *e)
{
    static const char *const names[] = { "generation_config.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "chat_template.jinja",
                                         "vocab.json",
                                         "merges.txt",
                                         "LICENSE",
                                         "NOTICE" };
    int rc = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && rc == 0; i++) {
        char *from = path_join(w->o->model, names[i]);
        if (file_exists(from))
            rc = copy_file(w, from, names[i], e);
        free(from);
    }
    if (rc == 0 && w->m->embeddings_file)
        rc = copy_file(w, w->o->custom_embeddings, w->m->embeddings_file, e);
    return rc;
}

/* config.json byte for byte, but for vocab_size. */
static int write_config(const struct work *w, struct err *e)
{
    struct buf text = BUF_INIT, out = BUF_INIT;
    struct json o, v;
    char *from = path_join(w->o->model, "config.json"), *to = path_join(w->into, "config.json");
    int rc = file_read(&text, from, TEXT_LIMIT, e);
    if (rc == 0)
        rc = json_parse(&o, text.s ? text.s : "", text.len, e);
    if (rc == 0 && !json_get(o, "vocab_size", &v))
        rc = err_set(e, "%s: there is no vocab_size", from);
    if (rc == 0) {
        buf_add(&out, text.s, (size_t)(v.s - text.s));
        buf_printf(&out, "%d", w->m->visible + w->m->latent);
        buf_puts(&out, v.s + v.n);
        rc = file_write_atomic(to, out.s, out.len, e);
    }
    free(from);
    free(to);
    buf_release(&text);
    buf_release(&out);
    return rc;
}

static int write_meta(const struct work *w, struct err *e)
{
    struct buf b = BUF_INIT;
    char *path = path_join(w->into, "dual_vocab_meta.json");
    dual_meta_write(w->m, &b);
    int rc = file_write_atomic(path, b.s, b.len, e);
    free(path);
    buf_release(&b);
    return rc;
}

/* ---- all of it ---- */

static int open_all(struct work *w, struct err *e)
{
    struct dual_meta old;
    int is_dual = dual_meta_read(&old, w->o->model, e);
    dual_meta_release(&old);
    if (is_dual)
        return is_dual < 0 ? -1 : err_set(e, "it is a dual model already");
    if (w->c.encoder)
        return err_set(e, "%s is an encoder and cannot think", w->c.family_name);
    if (safetensors_open_dir(&w->st, w->o->model, e) < 0 || tokenizer_open(&w->t, w->o->model, e) < 0)
        return -1;
    return w->o->custom_embeddings ? npy_open(&w->array, w->o->custom_embeddings, e) : 0;
}

static int check_array(const struct work *w, struct err *e)
{
    if (!w->array.data)
        return 0;
    if (w->array.rows != w->m->latent)
        return err_set(e, "%s has %" PRId64 " rows, %s %d tokens", w->o->custom_embeddings, w->array.rows,
                       w->o->custom_tokens, w->m->latent);
    for (int64_t i = 0; i < w->array.rows * w->array.cols; i++) {
        float x;
        memcpy(&x, w->array.data + 4 * i, 4);
        if (!isfinite(x))
            return err_set(e, "%s: value %" PRId64 " is not finite", w->o->custom_embeddings, i);
    }
    w->m->embeddings_file = xstrdup("latent_init_embeddings.npy");
    return 0;
}

static int make(struct work *w, struct err *e)
{
    w->m->base_model = xstrdup(w->o->name ? w->o->name : w->o->model);
    if (open_all(w, e) < 0 || find_think(w, e) < 0 || choose_latent(w, e) < 0 || check_array(w, e) < 0)
        return -1;
    if (w->m->visible + w->m->latent > 1 << 24)
        return err_set(e, "%d ids are too many", w->m->visible + w->m->latent);
    return write_weights(w, e) < 0 || write_tokenizer(w, e) < 0 || copy_files(w, e) < 0 || write_config(w, e) < 0
               ? -1
               : write_meta(w, e);
}

int dualize(const struct dualize_options *o, const char *into, struct dual_meta *made, struct err *e)
{
    struct work w = { .o = o, .into = into, .m = made };
    *made = (struct dual_meta){ .clone_source_id = -1 };
    int rc = model_config_read(&w.c, o->model, e);
    if (rc == 0) {
        rc = make(&w, e);
        if (rc < 0)
            err_prefix(e, "%s", o->model);
        model_config_release(&w.c);
    }
    tokenizer_close(w.t);
    safetensors_close(w.st);
    npy_close(&w.array);
    buf_release(&w.custom);
    if (rc < 0)
        dual_meta_release(made);
    return rc;
}
