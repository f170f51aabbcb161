/* dual.c - see dual.h. */
#include "model/dual.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/model.h"
#include "model/parts.h"
#include "text/tokenizer.h"

static const char meta_name[] = "dual_vocab_meta.json";
enum { MOST_IDS = 1 << 24, META_LIMIT = 256 << 20 };

/* ---- meta: reading ---- */

void dual_meta_release(struct dual_meta *m)
{
    char *const s[] = { m->base_model,  m->mode,      m->latent_format, m->filler_format, m->embeddings_file,
                        m->think_start, m->think_end, m->think_init,    m->clone_source };
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        free(s[i]);
    free(m->source);
    *m = (struct dual_meta){ .clone_source_id = -1 };
}

static int get_id(struct json o, const char *key, int32_t most, int32_t *out, struct err *e)
{
    struct json v;
    int64_t n;
    if (!json_get(o, key, &v) || !json_int(v, &n) || n < 0 || n > most)
        return err_set(e, "\"%s\" is not a whole number from 0 to %d", key, most);
    *out = (int32_t)n;
    return 0;
}

/* A text, or null where that is allowed; an absent key counts as null. */
static int get_text(struct json o, const char *key, bool null, char **out, struct err *e)
{
    struct json v;
    bool there = json_get(o, key, &v);
    if (there && json_kind(v) == JSON_STRING)
        *out = json_str_dup(v);
    else if (!null || (there && json_kind(v) != JSON_NULL))
        return err_set(e, "\"%s\" is not a text%s", key, null ? " or null" : "");
    return 0;
}

static int get_list(struct dual_meta *m, struct json list, struct err *e)
{
    struct json x;
    int64_t n;
    if (json_count(list) != (size_t)m->latent)
        return err_set(e, "source_ids has %zu ids, L is %d", json_count(list), m->latent);
    m->source = xreallocarray(NULL, (size_t)m->latent + 1, sizeof *m->source);
    bool in_order = true;
    struct json_iter it = json_each(list);
    for (int32_t i = 0; json_next(&it, NULL, &x); i++) {
        if (!json_int(x, &n) || n < 0 || n >= m->visible)
            return err_set(e, "source_ids[%d] is not a visible id (0 to %d)", i, m->visible - 1);
        m->source[i] = (int32_t)n;
        in_order = in_order && m->source[i] == m->source[0] + i;
    }
    if (in_order) {
        m->source_first = m->latent ? m->source[0] : 0;
        free(m->source);
        m->source = NULL;
    }
    return 0;
}

static int get_sources(struct dual_meta *m, struct json o, struct err *e)
{
    struct json v;
    int32_t count;
    m->has_sources = json_get(o, "source_ids", &v) && json_kind(v) != JSON_NULL;
    if (!m->has_sources)
        return strcmp(m->mode, "custom") == 0 ? 0 : err_set(e, "source_ids is null in mode %s", m->mode);
    if (json_kind(v) == JSON_ARRAY)
        return get_list(m, v, e);
    if (json_kind(v) != JSON_OBJECT)
        return err_set(e, "source_ids is neither null, nor a list, nor a range");
    if (get_id(v, "first", MOST_IDS, &m->source_first, e) < 0 || get_id(v, "count", MOST_IDS, &count, e) < 0)
        return err_prefix(e, "source_ids");
    if (count != m->latent)
        return err_set(e, "source_ids counts %d ids, L is %d", count, m->latent);
    if (m->source_first > m->visible - count)
        return err_set(e, "source_ids ends at %d, visible ids at %d", m->source_first + count - 1, m->visible - 1);
    return 0;
}

static int check_sizes(const struct dual_meta *m, struct json o, struct err *e)
{
    int32_t offset, total;
    if (get_id(o, "latent_id_offset", MOST_IDS, &offset, e) < 0 || get_id(o, "total_vocab", MOST_IDS, &total, e) < 0)
        return -1;
    if (offset != m->visible)
        return err_set(e, "latent_id_offset is %d, V is %d", offset, m->visible);
    if (total != m->visible + m->latent)
        return err_set(e, "total_vocab is %d, V + L is %d", total, m->visible + m->latent);
    if (m->base_rows > m->visible || m->latent == 0)
        return err_set(e, "V_model_orig is %d, V %d, L %d", m->base_rows, m->visible, m->latent);
    return 0;
}

static int parse_meta(struct dual_meta *m, struct json o, struct err *e)
{
    struct json v;
    m->clone_source_id = -1;
    if (json_kind(o) != JSON_OBJECT)
        return err_set(e, "expected an object");
    if (get_id(o, "V_model_orig", MOST_IDS, &m->base_rows, e) < 0 || get_id(o, "V", MOST_IDS / 2, &m->visible, e) < 0 ||
        get_id(o, "L", MOST_IDS / 2, &m->latent, e) < 0 || check_sizes(m, o, e) < 0 ||
        get_text(o, "base_model", true, &m->base_model, e) < 0 || get_text(o, "mode", false, &m->mode, e) < 0 ||
        get_text(o, "latent_token_format", true, &m->latent_format, e) < 0 ||
        get_text(o, "filler_token_format", true, &m->filler_format, e) < 0 || get_sources(m, o, e) < 0 ||
        get_text(o, "latent_init_embeddings_file", true, &m->embeddings_file, e) < 0 ||
        get_text(o, "think_start_token", false, &m->think_start, e) < 0 ||
        get_text(o, "think_end_token", false, &m->think_end, e) < 0 ||
        get_id(o, "think_start_token_id", m->visible - 1, &m->think_start_id, e) < 0 ||
        get_id(o, "think_end_token_id", m->visible - 1, &m->think_end_id, e) < 0 ||
        get_text(o, "think_init_mode", true, &m->think_init, e) < 0 ||
        get_text(o, "think_clone_source_token", true, &m->clone_source, e) < 0)
        return -1;
    if (json_get(o, "think_clone_source_id", &v) && json_kind(v) != JSON_NULL)
        return get_id(o, "think_clone_source_id", m->visible - 1, &m->clone_source_id, e);
    return 0;
}

int dual_meta_read(struct dual_meta *m, const char *dir, struct err *e)
{
    char *path = path_join(dir, meta_name);
    struct buf text = BUF_INIT;
    struct json o;
    int rc = 0;
    *m = (struct dual_meta){ .clone_source_id = -1 };
    if (file_exists(path)) {
        rc = file_read(&text, path, META_LIMIT, e) < 0 ? -1 : 1;
        if (rc == 1 && (json_parse(&o, text.s ? text.s : "", text.len, e) < 0 || parse_meta(m, o, e) < 0)) {
            err_prefix(e, "%s", path);
            dual_meta_release(m);
            rc = -1;
        }
    }
    buf_release(&text);
    free(path);
    return rc;
}

/* ---- meta: writing ---- */

static void put_text(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, ",\n  \"%s\": ", key);
    json_put_cstr(b, value);
}

static void put_sources(struct buf *b, const struct dual_meta *m)
{
    buf_puts(b, ",\n  \"source_ids\": ");
    if (!m->has_sources) {
        buf_puts(b, "null");
    } else if (!m->source) {
        buf_printf(b, "{\n    \"first\": %d,\n    \"count\": %d\n  }", m->source_first, m->latent);
    } else {
        for (int32_t i = 0; i < m->latent; i++)
            buf_printf(b, "%s    %d", i ? ",\n" : "[\n", m->source[i]);
        buf_puts(b, "\n  ]");
    }
}

void dual_meta_write(const struct dual_meta *m, struct buf *b)
{
    buf_puts(b, "{\n  \"base_model\": ");
    json_put_cstr(b, m->base_model);
    buf_printf(b, ",\n  \"V_model_orig\": %d,\n  \"V\": %d,\n  \"L\": %d,\n  \"total_vocab\": %d", m->base_rows,
               m->visible, m->latent, m->visible + m->latent);
    buf_printf(b, ",\n  \"latent_id_offset\": %d", m->visible);
    put_text(b, "mode", m->mode);
    put_text(b, "latent_token_format", m->latent_format);
    put_text(b, "filler_token_format", m->filler_format);
    put_sources(b, m);
    put_text(b, "latent_init_embeddings_file", m->embeddings_file);
    put_text(b, "think_start_token", m->think_start);
    buf_printf(b, ",\n  \"think_start_token_id\": %d", m->think_start_id);
    put_text(b, "think_end_token", m->think_end);
    buf_printf(b, ",\n  \"think_end_token_id\": %d", m->think_end_id);
    put_text(b, "think_init_mode", m->think_init);
    if (m->clone_source_id >= 0)
        buf_printf(b, ",\n  \"think_clone_source_id\": %d", m->clone_source_id);
    else
        buf_puts(b, ",\n  \"think_clone_source_id\": null");
    put_text(b, "think_clone_source_token", m->clone_source);
    buf_puts(b, "\n}\n");
}

/* ---- ids ---- */

struct dual {
    struct dual_meta meta;
    int32_t *latent_of;   /* [V] where sources are a list: the latent id, or -1 */
    int32_t filler_first; /* fillers are the ids filler_first .. base_rows - 1 */
};

static void invert(struct dual *v)
{
    const struct dual_meta *m = &v->meta;
    if (!m->source)
        return;
    v->latent_of = xreallocarray(NULL, (size_t)m->visible, sizeof *v->latent_of);
    for (int32_t i = 0; i < m->visible; i++)
        v->latent_of[i] = -1;
    for (int32_t i = m->latent - 1; i >= 0; i--) /* of several copies the first one counts */
        v->latent_of[m->source[i]] = m->visible + i;
}

/* "<|filler_{}|>" with 0 in it. */
static int find_fillers(struct dual *v, const struct tokenizer *t)
{
    struct buf name = BUF_INIT;
    const char *format = v->meta.filler_format, *open = format ? strchr(format, '{') : NULL;
    const char *close = open ? strchr(open, '}') : NULL;
    v->filler_first = v->meta.base_rows;
    if (close) {
        buf_add(&name, format, (size_t)(open - format));
        buf_putc(&name, '0');
        buf_puts(&name, close + 1);
        int32_t id = tokenizer_id(t, name.s);
        if (id >= 0 && id < v->meta.base_rows)
            v->filler_first = id;
    }
    buf_release(&name);
    return 0;
}

int dual_open(struct dual **out, const char *dir, const struct tokenizer *t, struct err *e)
{
    struct dual_meta m;
    struct tokenizer *own = NULL;
    *out = NULL;
    int rc = dual_meta_read(&m, dir, e);
    if (rc <= 0)
        return rc;
    if (!t && tokenizer_open(&own, dir, e) < 0) {
        dual_meta_release(&m);
        return -1;
    }
    struct dual *v = xcalloc(1, sizeof *v);
    v->meta = m;
    invert(v);
    find_fillers(v, t ? t : own);
    tokenizer_close(own);
    *out = v;
    return 1;
}

void dual_close(struct dual *v)
{
    if (!v)
        return;
    dual_meta_release(&v->meta);
    free(v->latent_of);
    free(v);
}

const struct dual_meta *dual_meta(const struct dual *v)
{
    return &v->meta;
}

bool dual_is_latent(const struct dual *v, int32_t id)
{
    return id >= v->meta.visible && id - v->meta.visible < v->meta.latent;
}

int32_t dual_source(const struct dual *v, int32_t id)
{
    return v->meta.has_sources && dual_is_latent(v, id) ? dual_meta_source(&v->meta, id - v->meta.visible) : id;
}

int32_t dual_latent(const struct dual *v, int32_t visible)
{
    const struct dual_meta *m = &v->meta;
    if (!m->has_sources || visible < 0 || visible >= m->visible)
        return -1;
    if (v->latent_of)
        return v->latent_of[visible];
    int32_t i = visible - m->source_first;
    return i >= 0 && i < m->latent ? m->visible + i : -1;
}

void dual_show(const struct dual *v, int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ids[i] = dual_source(v, ids[i]);
}

int64_t dual_remap(const struct dual *v, int32_t *ids, int64_t from, int64_t n)
{
    int64_t end = from;
    while (end < n && ids[end] != v->meta.think_end_id)
        end++;
    if (end == n)
        return -1;
    for (int64_t i = from; i < end; i++) {
        int32_t latent = dual_latent(v, ids[i]);
        ids[i] = latent >= 0 ? latent : ids[i];
    }
    return end;
}

/* ---- what may be generated ---- */

static bool is_one_of(int32_t id, const int32_t *list, int n)
{
    for (int i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static bool is_filler(const struct dual *v, int32_t i)
{
    int32_t s = dual_meta_source(&v->meta, i);
    return s >= v->filler_first && s < v->meta.base_rows;
}

static int put_id(int32_t *list, int32_t id, struct err *e)
{
    for (int i = 0; i < SAMPLE_STOP_IDS; i++)
        if (list[i] == id || list[i] < 0) {
            list[i] = id;
            return 0;
        }
    return err_set(e, "%s: more than %d ids stand apart from their range", meta_name, SAMPLE_STOP_IDS);
}

/* Latents are in the order of their sources, so the mirrors of fillers are one run near the end: the range ends in
 * front of it, and the few behind it (think tokens that were added) are named. */
static int thinking_ids(const struct dual *v, const int32_t *eos, int n_eos, struct dual_phases *out, struct err *e)
{
    const struct dual_meta *m = &v->meta;
    int32_t end = m->latent, at = 0;
    if (!m->has_sources)
        return 0;
    while (at < m->latent && !is_filler(v, at))
        at++;
    if (at < m->latent)
        end = at;
    out->hi[0] = m->visible + end;
    for (int32_t i = 0; i < m->latent; i++) {
        int32_t s = dual_meta_source(m, i);
        bool refused = s == m->think_end_id || is_one_of(s, eos, n_eos) || is_filler(v, i);
        if (i < end && refused && put_id(out->never[0], m->visible + i, e) < 0)
            return -1;
        if (i >= end && !refused && put_id(out->also[0], m->visible + i, e) < 0)
            return -1;
    }
    return 0;
}

int dual_phases(const struct dual *v, const int32_t *eos, int n_eos, bool compat, struct dual_phases *out,
                struct err *e)
{
    const struct dual_meta *m = &v->meta;
    int32_t total = m->visible + m->latent;
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < SAMPLE_STOP_IDS; i++)
            out->also[p][i] = out->never[p][i] = -1;
    out->lo[0] = m->visible;
    out->hi[0] = total;
    out->lo[1] = 0;
    out->hi[1] = m->visible;
    out->flip_id = m->think_end_id;
    out->also[0][0] = m->think_end_id;
    if (compat) {
        out->hi[0] = 2 * m->visible < total ? 2 * m->visible : total;
        return n_eos == 0 || (put_id(out->also[0], eos[0], e) == 0 && put_id(out->also[1], eos[0], e) == 0) ? 0 : -1;
    }
    for (int i = 0; i < n_eos; i++)
        if (eos[i] >= m->visible && put_id(out->also[1], eos[i], e) < 0)
            return -1;
    return thinking_ids(v, eos, n_eos, out, e);
}

int dual_phase(const struct dual *v, const int32_t *prompt, int64_t n, const int32_t *eos, int n_eos)
{
    for (int64_t i = n; i-- > 0;) {
        if (prompt[i] == v->meta.think_end_id)
            return 1;
        if (prompt[i] == v->meta.think_start_id || is_one_of(prompt[i], eos, n_eos))
            return 0;
    }
    return 0;
}

/* ---- checks ---- */

struct check {
    const struct dual_meta *m;
    const struct model_config *c;
    struct buf *report, *facts;
    int problems, copies;
};

static void problem(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct check *k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(k->report, fmt, ap);
    va_end(ap);
    buf_putc(k->report, '\n');
    k->problems++;
}

static void check_think(struct check *k, const struct tokenizer *t, const char *text, int32_t id)
{
    struct tokens ids = TOKENS_INIT;
    struct err e = { "" };
    if (tokenizer_id(t, text) != id)
        problem(k, "think token %s has id %d in the tokenizer, %d in %s", text, tokenizer_id(t, text), id, meta_name);
    else if (tokenizer_encode(t, text, strlen(text), 0, &ids, &e) < 0 || ids.n != 1 || ids.id[0] != id)
        problem(k, "think token %s encodes to %lld %s, expected the one id %d", text, COUNTED(ids.n, "id", "ids"), id);
    tokens_release(&ids);
}

static void check_tokens(struct check *k, const char *dir)
{
    struct tokenizer *t;
    struct err e = { "" };
    int32_t total = k->m->visible + k->m->latent;
    if (k->c->vocab != total)
        problem(k, "config.json has a vocab_size of %d, %s a total of %d", k->c->vocab, meta_name, total);
    if (tokenizer_open(&t, dir, &e) < 0) {
        problem(k, "%s", e.msg);
        return;
    }
    if (tokenizer_size(t) != total)
        problem(k, "the tokenizer has %d ids, %s a total of %d", tokenizer_size(t), meta_name, total);
    check_think(k, t, k->m->think_start, k->m->think_start_id);
    check_think(k, t, k->m->think_end, k->m->think_end_id);
    tokenizer_close(t);
}

struct rows {
    double cosine, least, diff, norm; /* sums, but for least and diff */
    int n, wrong;
    int32_t first_wrong;
};

static void compare_row(struct rows *r, const float *a, const float *b, int64_t d, int32_t id, double tol)
{
    double ab = 0, aa = 0, bb = 0, diff = 0;
    for (int64_t i = 0; i < d; i++) {
        double x = (double)a[i], y = (double)b[i], by = fabs(x - y);
        ab += x * y;
        aa += x * x;
        bb += y * y;
        diff = by <= diff ? diff : by; /* NaN stays */
    }
    double cosine = aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : aa == bb;
    r->cosine += cosine;
    r->norm += sqrt(aa);
    r->least = r->n == 0 || cosine < r->least ? cosine : r->least;
    r->diff = diff <= r->diff ? r->diff : diff;
    if (!(diff <= tol) && r->wrong++ == 0)
        r->first_wrong = id;
    r->n++;
}

static void check_rows(struct check *k, const struct st_tensor *t, int samples, double tol)
{
    const struct dual_meta *m = k->m;
    int64_t d = t->shape[1];
    struct rows r = { 0 };
    float *a = xcalloc(2 * (size_t)d, sizeof *a), *b = a + d;
    int32_t step = m->latent / samples > 1 ? m->latent / samples : 1;
    for (int32_t i = 0; i < m->latent && r.n < samples; i += step) {
        uint64_t from = (uint64_t)(m->has_sources ? dual_meta_source(m, i) : m->visible + i);
        model_floats(a, t, (uint64_t)(m->visible + i) * (uint64_t)d, (uint64_t)d);
        model_floats(b, t, from * (uint64_t)d, (uint64_t)d);
        compare_row(&r, a, b, d, m->visible + i, tol);
    }
    free(a);
    if (r.wrong) {
        problem(
            k, "%s: %lld %s (of %d, tolerance %g), the first is id %d", t->name,
            COUNTED(r.wrong, "latent row is not a copy of its source", "latent rows are not copies of their sources"),
            r.n, tol, r.first_wrong);
        k->copies++;
    }
    if (k->facts && m->has_sources)
        buf_printf(k->facts, "%s: %d latent rows: cosine with their sources %.6f, least %.6f, largest difference %g\n",
                   t->name, r.n, r.cosine / r.n, r.least, r.diff);
    else if (k->facts)
        buf_printf(k->facts, "%s: %d latent rows: mean norm %.6f\n", t->name, r.n, r.norm / r.n);
}

static int check_copies(struct check *k, const char *dir, int samples, double tol, struct err *e)
{
    static const char *const names[] = { "model.embed_tokens.weight", "lm_head.weight" };
    struct safetensors *st;
    if (safetensors_open_dir(&st, dir, e) < 0)
        return -1;
    safetensors_advise(st, true);
    for (int i = 0; i < 2; i++) {
        const struct st_tensor *t = safetensors_find(st, names[i]);
        if (t && t->rank == 2 && t->shape[0] == k->m->visible + k->m->latent)
            check_rows(k, t, samples, tol);
        else if (t)
            problem(k, "%s has %lld rows, %s a total of %d", names[i], (long long)t->shape[0], meta_name,
                    k->m->visible + k->m->latent);
    }
    safetensors_close(st);
    return 0;
}

int dual_check(const char *dir, int samples, double tol, struct buf *report, struct buf *facts, int *copies,
               struct err *e)
{
    struct dual_meta m;
    struct model_config c;
    int rc = dual_meta_read(&m, dir, e);
    if (copies)
        *copies = 0;
    if (rc <= 0)
        return rc;
    if (model_config_read(&c, dir, e) < 0) {
        dual_meta_release(&m);
        return -1;
    }
    struct check k = { &m, &c, report, facts, 0, 0 };
    check_tokens(&k, dir);
    rc = samples > 0 ? check_copies(&k, dir, samples, tol, e) : 0;
    if (copies)
        *copies = k.copies;
    model_config_release(&c);
    dual_meta_release(&m);
    return rc < 0 ? -1 : k.problems;
}
