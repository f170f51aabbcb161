/* wandb.c - see wandb.h. */
#include "io/wandb.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/hash.h"
#include "io/manifest.h"
#include <io/wandb.pb-c.h> /* generated from wandb.proto */

/* ---- the log: LevelDB's, but with zlib's CRC-32, unmasked, and blocks that count from the start of the file ---- */

enum { BLOCK = 32768, CHUNK_HEAD = 7 };
enum { FULL = 1, FIRST, MIDDLE, LAST };
static const unsigned char file_head[7] = { ':', 'W', '&', 'B', 0xe1, 0xbe, 0 };

static uint32_t crc32_add(uint32_t crc, const unsigned char *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static uint32_t chunk_crc(unsigned char type, const unsigned char *p, size_t n)
{
    return crc32_add(crc32_add(0, &type, 1), p, n);
}

static void log_chunk(struct buf *b, unsigned char type, const unsigned char *p, size_t n)
{
    uint32_t crc = chunk_crc(type, p, n);
    for (int i = 0; i < 4; i++)
        buf_putc(b, (char)(crc >> (8 * i) & 0xff));
    buf_putc(b, (char)(n & 0xff));
    buf_putc(b, (char)(n >> 8));
    buf_putc(b, (char)type);
    buf_add(b, p, n);
}

/* No chunk begins in the last 6 bytes of a block: they are zeros. */
static void log_pad(struct buf *b)
{
    for (size_t left = BLOCK - b->len % BLOCK; left > 0 && left < CHUNK_HEAD; left--)
        buf_putc(b, '\0');
}

static void log_record(struct buf *b, const unsigned char *p, size_t n)
{
    bool first = true, last;
    do {
        log_pad(b);
        size_t room = BLOCK - b->len % BLOCK - CHUNK_HEAD, take = n < room ? n : room;
        last = take == n;
        log_chunk(b, first ? (last ? FULL : FIRST) : (last ? LAST : MIDDLE), p, take);
        p += take;
        n -= take;
        first = false;
    } while (!last);
}

/* ---- a run in the making ---- */

struct pair {
    char *key, *value;
};
struct pairs {
    struct pair *v;
    size_t n;
};

struct media {
    char *path; /* below files/ */
    struct buf text;
};

struct wandb {
    char *id, *step_metric;
    double started, runtime;
    struct buf log;
    int64_t records, rows;
    struct pairs last; /* the latest value of every key: the summary */
    struct media *media;
    size_t nmedia;
};

static void pairs_set(struct pairs *p, const char *key, const char *value)
{
    size_t i = 0;
    while (i < p->n && strcmp(p->v[i].key, key) != 0)
        i++;
    if (i == p->n) {
        p->v = xreallocarray(p->v, p->n + 1, sizeof *p->v);
        p->v[p->n++] = (struct pair){ xstrdup(key), NULL };
    }
    free(p->v[i].value);
    p->v[i].value = xstrdup(value);
}

static bool pairs_has(const struct pairs *p, const char *key)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->v[i].key, key) == 0)
            return true;
    return false;
}

static void pairs_release(struct pairs *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->v[i].key);
        free(p->v[i].value);
    }
    free(p->v);
}

static void put_record(struct wandb *w, Wb__Record *r)
{
    r->num = ++w->records;
    size_t n = wb__record__get_packed_size(r);
    uint8_t *bytes = xmalloc(n);
    wb__record__pack(r, bytes);
    log_record(&w->log, bytes, n);
    free(bytes);
}

/* protobuf-c wants mutable strings and an array of pointers; what it packs it does not change. */
static char *borrowed(const char *s)
{
    union {
        const char *c;
        char *m;
    } u = { s ? s : "" };
    return u.m;
}

struct items {
    Wb__Item *v, **p;
    size_t n;
};

static void items_add(struct items *t, const char *key, const char *value)
{
    t->v = xreallocarray(t->v, t->n + 1, sizeof *t->v);
    t->v[t->n] = (Wb__Item)WB__ITEM__INIT;
    t->v[t->n].key = borrowed(key);
    t->v[t->n++].value = borrowed(value);
}

static Wb__Item **items_pointers(struct items *t)
{
    t->p = xreallocarray(t->p, t->n + 1, sizeof(Wb__Item *));
    for (size_t i = 0; i < t->n; i++)
        t->p[i] = &t->v[i];
    return t->p;
}

static void items_release(struct items *t)
{
    free(t->v);
    free(t->p);
}

static void put_header(struct wandb *w)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__Header head = WB__HEADER__INIT;
    Wb__Version version = WB__VERSION__INIT;
    version.producer = borrowed("latent " LATENT_VERSION);
    version.min_consumer = borrowed("0.13.0"); /* the oldest with these records */
    head.version = &version;
    r.kind_case = WB__RECORD__KIND_HEADER;
    r.header = &head;
    put_record(w, &r);
}

static void put_run(struct wandb *w, const struct wandb_run *run)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__Run m = WB__RUN__INIT;
    Wb__Config config = WB__CONFIG__INIT;
    Wb__Timestamp start = WB__TIMESTAMP__INIT;
    struct items items = { NULL, NULL, 0 };
    for (size_t i = 0; i < run->nconfig; i++)
        items_add(&items, run->config[i].key, run->config[i].value);
    config.n_update = items.n;
    config.update = items_pointers(&items);
    start.seconds = (int64_t)floor(run->started);
    start.nanos = (int32_t)((run->started - floor(run->started)) * 1e9);
    m.id = borrowed(run->id);
    m.project = borrowed(run->project);
    m.name = borrowed(run->name);
    m.group = borrowed(run->group);
    m.job_type = borrowed(run->job_type);
    m.config = &config;
    m.start = &start;
    r.kind_case = WB__RECORD__KIND_RUN;
    r.run = &m;
    put_record(w, &r);
    items_release(&items);
}

struct wandb *wandb_new(const struct wandb_run *run)
{
    struct wandb *w = xcalloc(1, sizeof *w);
    w->id = xstrdup(run->id);
    w->step_metric = run->step_metric ? xstrdup(run->step_metric) : NULL;
    w->started = run->started;
    buf_add(&w->log, file_head, sizeof file_head);
    put_header(w);
    put_run(w, run);
    return w;
}

void wandb_free(struct wandb *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->nmedia; i++) {
        free(w->media[i].path);
        buf_release(&w->media[i].text);
    }
    free(w->media);
    pairs_release(&w->last);
    buf_release(&w->log);
    free(w->step_metric);
    free(w->id);
    free(w);
}

/* W&B's own client expands a pattern when a key comes first; so every key is defined by its name. */
static void put_metric(struct wandb *w, const char *key)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__Metric m = WB__METRIC__INIT;
    Wb__MetricOptions options = WB__METRIC_OPTIONS__INIT;
    options.defined = true;
    if (strcmp(key, w->step_metric) != 0) {
        m.step_metric = w->step_metric;
        options.step_sync = true;
    }
    m.name = borrowed(key);
    m.options = &options;
    r.kind_case = WB__RECORD__KIND_METRIC;
    r.metric = &m;
    put_record(w, &r);
}

void wandb_log(struct wandb *w, double runtime, const struct wandb_item *item, size_t n)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__History history = WB__HISTORY__INIT;
    Wb__Step step = WB__STEP__INIT;
    struct items items = { NULL, NULL, 0 };
    struct buf clock = BUF_INIT, elapsed = BUF_INIT;
    char number[32];
    w->runtime = runtime;
    snprintf(number, sizeof number, "%" PRId64, w->rows);
    json_put_double(&elapsed, runtime);
    json_put_double(&clock, w->started + runtime);
    const struct wandb_item own[] = { { "_step", number }, { "_runtime", elapsed.s }, { "_timestamp", clock.s } };
    for (size_t i = 0; i < n; i++) {
        if (w->step_metric && !pairs_has(&w->last, item[i].key))
            put_metric(w, item[i].key);
        items_add(&items, item[i].key, item[i].value);
        pairs_set(&w->last, item[i].key, item[i].value);
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        items_add(&items, own[i].key, own[i].value);
        pairs_set(&w->last, own[i].key, own[i].value);
    }
    step.num = w->rows++;
    history.n_item = items.n;
    history.item = items_pointers(&items);
    history.step = &step;
    r.kind_case = WB__RECORD__KIND_HISTORY;
    r.history = &history;
    put_record(w, &r);
    items_release(&items);
    buf_release(&elapsed);
    buf_release(&clock);
}

/* ---- values ---- */

void wandb_id(const char *text, size_t n, char id[WANDB_ID + 1])
{
    uint64_t h = hash_bytes(text, n).lo;
    for (int i = 0; i < WANDB_ID; i++, h /= 36)
        id[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[h % 36];
    id[WANDB_ID] = '\0';
}

enum { BINS = 64 };

/* Bin i holds edge(i) <= v < edge(i + 1), the last one its right edge too. */
static double edge(double low, double high, int i)
{
    return i == BINS ? high : low + (high - low) * i / BINS;
}

void wandb_histogram(const double *v, size_t n, struct buf *value)
{
    double low = n ? v[0] : 0, high = n ? v[0] : 1;
    int64_t count[BINS] = { 0 };
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, v[i]);
        high = fmax(high, v[i]);
    }
    if (low == high) {
        low -= 0.5;
        high += 0.5;
    }
    for (size_t i = 0; i < n; i++) {
        int k = (int)((v[i] - low) / (high - low) * BINS);
        k = k < BINS ? k : BINS - 1;
        while (k > 0 && v[i] < edge(low, high, k))
            k--;
        while (k < BINS - 1 && v[i] >= edge(low, high, k + 1))
            k++;
        count[k]++;
    }
    buf_puts(value, "{\"_type\": \"histogram\", \"values\": [");
    for (int i = 0; i < BINS; i++)
        buf_printf(value, "%s%" PRId64, i ? ", " : "", count[i]);
    buf_puts(value, "], \"bins\": [");
    for (int i = 0; i <= BINS; i++) {
        buf_puts(value, i ? ", " : "");
        json_put_double(value, edge(low, high, i));
    }
    buf_puts(value, "]}");
}

static void sha256_hex(const void *p, size_t n, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = { 0 };
    unsigned len = 0;
    if (EVP_Digest(p, n, digest, &len, EVP_sha256(), NULL) != 1)
        len = 0; /* 64 zeros, which no reader takes for a match */
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void wandb_table(struct wandb *w, const char *key, const char *text, size_t n, size_t columns, size_t rows,
                 struct buf *value)
{
    char hex[65];
    sha256_hex(text, n, hex);
    struct buf path = BUF_INIT;
    buf_printf(&path, "media/table/%s_%" PRId64 "_%.20s.table.json", key, w->rows, hex);
    buf_printf(value, "{\"_type\": \"table-file\", \"sha256\": \"%s\", \"size\": %zu, \"path\": ", hex, n);
    json_put_cstr(value, path.s);
    buf_printf(value, ", \"ncols\": %zu, \"nrows\": %zu, \"log_mode\": \"IMMUTABLE\"}", columns, rows);
    w->media = xreallocarray(w->media, w->nmedia + 1, sizeof *w->media);
    struct media *m = &w->media[w->nmedia++];
    *m = (struct media){ buf_take(&path), BUF_INIT };
    buf_add(&m->text, text, n);
}

/* ---- the end, and the folder ---- */

static void put_files(struct wandb *w)
{
    for (size_t i = 0; i < w->nmedia; i++) {
        Wb__Record r = WB__RECORD__INIT;
        Wb__Files files = WB__FILES__INIT;
        Wb__File file = WB__FILE__INIT, *list[] = { &file };
        file.path = w->media[i].path;
        file.type = 2;
        files.n_file = 1;
        files.file = list;
        r.kind_case = WB__RECORD__KIND_FILES;
        r.files = &files;
        put_record(w, &r);
    }
}

static void put_summary(struct wandb *w)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__Summary summary = WB__SUMMARY__INIT;
    struct items items = { NULL, NULL, 0 };
    char *nested[] = { borrowed("_wandb"), borrowed("runtime") }, seconds[32];
    snprintf(seconds, sizeof seconds, "%.0f", w->runtime);
    for (size_t i = 0; i < w->last.n; i++)
        items_add(&items, w->last.v[i].key, w->last.v[i].value);
    items_add(&items, "", seconds);
    items.v[items.n - 1].nested = nested;
    items.v[items.n - 1].n_nested = 2;
    summary.n_update = items.n;
    summary.update = items_pointers(&items);
    r.kind_case = WB__RECORD__KIND_SUMMARY;
    r.summary = &summary;
    put_record(w, &r);
    items_release(&items);
}

/* Syncers before 0.28.1 hold the exit back until final comes. */
static void put_end(struct wandb *w)
{
    Wb__Record r = WB__RECORD__INIT;
    Wb__Exit end = WB__EXIT__INIT;
    Wb__Empty empty = WB__EMPTY__INIT;
    end.runtime = (int32_t)w->runtime;
    r.kind_case = WB__RECORD__KIND_EXIT;
    r.exit = &end;
    put_record(w, &r);
    r.kind_case = WB__RECORD__KIND_FINAL;
    r.final = &empty;
    put_record(w, &r);
    r.kind_case = WB__RECORD__KIND_FOOTER;
    r.footer = &empty;
    put_record(w, &r);
    log_pad(&w->log); /* old readers want the last block whole when less than a chunk's head is left of it */
}

static void folder_name(const struct wandb *w, const char *dir, struct buf *out)
{
    time_t t = (time_t)floor(w->started);
    struct tm tm;
    char date[32];
    strftime(date, sizeof date, "%Y%m%d_%H%M%S", gmtime_r(&t, &tm));
    buf_printf(out, "%s/wandb/offline-run-%s-%s", dir, date, w->id);
}

static bool file_is(const char *path, const void *bytes, size_t n)
{
    struct file_map m = { NULL, 0 };
    bool same =
        file_exists(path) && file_map_open(&m, path, NULL) == 0 && m.n == n && (n == 0 || memcmp(m.p, bytes, n) == 0);
    file_map_close(&m);
    return same;
}

static int write_if_other(const char *path, const void *bytes, size_t n, struct err *e)
{
    if (file_is(path, bytes, n))
        return 0;
    return file_mkparents(path, e) < 0 || file_write_atomic(path, bytes, n, e) < 0 ? -1 : 0;
}

static int write_media(const struct wandb *w, const char *folder, struct err *e)
{
    char *files = path_join(folder, "files");
    int rc = file_mkdirs(files, e); /* the syncer wants it even if it is empty */
    for (size_t i = 0; rc == 0 && i < w->nmedia; i++) {
        char *path = path_join(files, w->media[i].path);
        rc = write_if_other(path, w->media[i].text.s, w->media[i].text.len, e);
        free(path);
    }
    free(files);
    return rc;
}

static int write_manifest(const struct wandb *w, const char *to, struct manifest *m, struct err *e)
{
    struct buf text = BUF_INIT, part = BUF_INIT;
    buf_printf(&part, "wandb %s", w->id);
    free(m->part);
    m->part = buf_take(&part);
    buf_printf(&part, "{\"messages\": %" PRId64 ", \"history\": %" PRId64 "}", w->records, w->rows);
    free(m->counts);
    m->counts = buf_take(&part);
    m->records = 0; /* lines, as in every manifest, though here they mean nothing */
    for (size_t i = 0; i < w->log.len; i++)
        m->records += w->log.s[i] == '\n';
    m->bytes = (int64_t)w->log.len;
    hash_hex(hash_bytes(w->log.s, w->log.len), m->output);
    hash_hex(manifest_key(m, true), m->key);
    manifest_write(m, &text);
    int rc = file_write_atomic(to, text.s, text.len, e);
    buf_release(&text);
    return rc;
}

/* A run file that is there already, whole, keeps its place; so does its manifest, unless a kill came between the two.
 */
static int write_run(const struct wandb *w, const char *path, struct manifest *m, struct err *e)
{
    bool there = file_is(path, w->log.s, w->log.len);
    char *about = manifest_path(path);
    int rc = there ? 0 : file_write_atomic(path, w->log.s, w->log.len, e);
    if (rc == 0 && m && !(there && file_exists(about)))
        rc = write_manifest(w, about, m, e);
    free(about);
    return rc;
}

int wandb_write(struct wandb *w, const char *dir, struct manifest *m, struct buf *folder, struct err *e)
{
    struct buf where = BUF_INIT, path = BUF_INIT;
    put_files(w);
    put_summary(w);
    put_end(w);
    folder_name(w, dir, &where);
    buf_printf(&path, "%s/run-%s.wandb", where.s, w->id);
    int rc = write_media(w, where.s, e);
    if (rc == 0)
        rc = write_run(w, path.s, m, e);
    buf_puts(folder, where.s);
    buf_release(&path);
    buf_release(&where);
    return rc;
}

/* ---- reading ---- */

struct scan {
    const char *path;
    const unsigned char *p;
    size_t n, at;
    struct buf record;
    struct wandb_item *item;
    struct buf names; /* nested keys, joined, one after the other */
};

static uint32_t little(const unsigned char *p, int bytes)
{
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

/* The next chunk's head is checked and stepped over; 0 at the end of the file. */
static int next_chunk(struct scan *s, unsigned char *type, size_t *len, struct err *e)
{
    size_t left = BLOCK - s->at % BLOCK;
    for (; left > 0 && left < CHUNK_HEAD && s->at < s->n; left--, s->at++)
        if (s->p[s->at] != 0)
            return err_set(e, "%s: byte %zu: expected zeros up to the end of the block", s->path, s->at);
    if (s->at == s->n)
        return 0;
    left = BLOCK - s->at % BLOCK;
    if (s->n - s->at < CHUNK_HEAD)
        return err_set(e, "%s: byte %zu: the file ends inside the head of a chunk", s->path, s->at);
    const unsigned char *head = s->p + s->at;
    *len = little(head + 4, 2);
    *type = head[6];
    if (*len > left - CHUNK_HEAD)
        return err_set(e, "%s: byte %zu: a chunk of %zu bytes crosses the end of its block", s->path, s->at, *len);
    if (*len > s->n - s->at - CHUNK_HEAD)
        return err_set(e, "%s: byte %zu: the file ends inside a chunk", s->path, s->at);
    uint32_t want = little(head, 4), got = chunk_crc(*type, head + CHUNK_HEAD, *len);
    if (want != got)
        return err_set(e, "%s: byte %zu: checksum %08x, expected %08x", s->path, s->at, got, want);
    s->at += CHUNK_HEAD;
    return 1;
}

/* 1: s->record holds the next one; 0: end. */
static int next_record(struct scan *s, struct err *e)
{
    bool inside = false;
    buf_reset(&s->record);
    for (;;) {
        unsigned char type = 0;
        size_t len = 0, at = s->at;
        int rc = next_chunk(s, &type, &len, e);
        if (rc < 0 || (rc == 0 && !inside))
            return rc;
        if (rc == 0)
            return err_set(e, "%s: the file ends inside a record", s->path);
        if (type < FULL || type > LAST || inside != (type == MIDDLE || type == LAST))
            return err_set(e, "%s: byte %zu: a chunk of type %d does not belong here", s->path, at, type);
        buf_add(&s->record, s->p + s->at, len);
        s->at += len;
        if (type == FULL || type == LAST)
            return 1;
        inside = true;
    }
}

/* Nested keys are joined in one buffer first, which may move as it grows. */
static void show_items(struct scan *s, Wb__Item *const *item, size_t n, struct wandb_record *out)
{
    buf_reset(&s->names);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < item[i]->n_nested; j++)
            buf_printf(&s->names, "%s%s", j ? "." : "", item[i]->nested[j]);
        if (item[i]->n_nested)
            buf_putc(&s->names, '\0');
    }
    s->item = xreallocarray(s->item, n + 1, sizeof *s->item);
    const char *name = s->names.s;
    for (size_t i = 0; i < n; i++) {
        s->item[i] = (struct wandb_item){ item[i]->n_nested ? name : item[i]->key, item[i]->value };
        if (item[i]->n_nested)
            name += strlen(name) + 1;
    }
    out->item = s->item;
    out->n = n;
}

static void show_files(struct scan *s, const Wb__Files *files, struct wandb_record *out)
{
    s->item = xreallocarray(s->item, files->n_file + 1, sizeof *s->item);
    for (size_t i = 0; i < files->n_file; i++)
        s->item[i] = (struct wandb_item){ files->file[i]->path, NULL };
    out->item = s->item;
    out->n = files->n_file;
}

static void show_metric(struct scan *s, const Wb__Metric *m, struct wandb_record *out)
{
    s->item = xreallocarray(s->item, 1, sizeof *s->item);
    s->item[0] = (struct wandb_item){ m->name, m->step_metric };
    out->item = s->item;
    out->n = 1;
}

static void show_run(struct scan *s, const Wb__Run *run, struct wandb_record *out)
{
    out->kind = "run";
    out->id = run->id;
    out->project = run->project;
    out->name = run->name;
    if (run->config)
        show_items(s, run->config->update, run->config->n_update, out);
}

static void show_record(struct scan *s, const Wb__Record *r, struct wandb_record *out)
{
    *out = (struct wandb_record){ .num = r->num, .kind = "other" };
    switch (r->kind_case) {
    case WB__RECORD__KIND_HISTORY:
        out->kind = "history";
        out->step = r->history->step ? r->history->step->num : 0;
        show_items(s, r->history->item, r->history->n_item, out);
        break;
    case WB__RECORD__KIND_SUMMARY:
        out->kind = "summary";
        show_items(s, r->summary->update, r->summary->n_update, out);
        break;
    case WB__RECORD__KIND_CONFIG:
        out->kind = "config";
        show_items(s, r->config->update, r->config->n_update, out);
        break;
    case WB__RECORD__KIND_FILES:
        out->kind = "files";
        show_files(s, r->files, out);
        break;
    case WB__RECORD__KIND_METRIC:
        out->kind = "metric";
        show_metric(s, r->metric, out);
        break;
    case WB__RECORD__KIND_RUN:
        show_run(s, r->run, out);
        break;
    case WB__RECORD__KIND_EXIT:
        out->kind = "exit";
        out->code = r->exit->code;
        break;
    case WB__RECORD__KIND_HEADER:
        out->kind = "header";
        break;
    case WB__RECORD__KIND_TELEMETRY:
        out->kind = "telemetry";
        break;
    case WB__RECORD__KIND_FINAL:
        out->kind = "final";
        break;
    case WB__RECORD__KIND_FOOTER:
        out->kind = "footer";
        break;
    default:
        break;
    }
}

static int read_records(struct scan *s, int (*each)(void *to, const struct wandb_record *r, struct err *e), void *to,
                        struct err *e)
{
    int rc;
    size_t at;
    while (at = s->at, (rc = next_record(s, e)) > 0) {
        Wb__Record *r = wb__record__unpack(NULL, s->record.len, (const uint8_t *)(s->record.s ? s->record.s : ""));
        struct wandb_record shown;
        if (!r)
            return err_set(e, "%s: byte %zu: this record is no message of W&B's", s->path, at);
        show_record(s, r, &shown);
        rc = each(to, &shown, e);
        wb__record__free_unpacked(r, NULL);
        if (rc < 0)
            return -1;
    }
    return rc;
}

int wandb_read(const char *path, int (*each)(void *to, const struct wandb_record *r, struct err *e), void *to,
               struct err *e)
{
    struct file_map m = { NULL, 0 };
    if (file_map_open(&m, path, e) < 0)
        return -1;
    struct scan s = { .path = path, .p = (const unsigned char *)m.p, .n = m.n, .at = sizeof file_head };
    int rc = m.n < sizeof file_head || memcmp(m.p, file_head, sizeof file_head) != 0
                 ? err_set(e, "%s: this is no run file of W&B: it does not begin with :W&B, E1 BE, 00", path)
                 : read_records(&s, each, to, e);
    buf_release(&s.record);
    buf_release(&s.names);
    free(s.item);
    file_map_close(&m);
    return rc;
}

/* ---- checking a folder ---- */

struct checking {
    const char *path, *folder;
    struct wandb_facts *f;
    int stage; /* 0 header, 1 run, 2 anything, 3 final, 4 footer, 5 nothing more */
    int64_t step;
};

/* Which record may come where. */
static int check_order(struct checking *c, const struct wandb_record *r, struct err *e)
{
    static const char *const want[] = { "header", "run", NULL, "final", "footer" };
    if (r->num != ++c->f->records)
        return err_set(e, "%s: record %" PRId64 " has the number %" PRId64, c->path, c->f->records, r->num);
    if (c->stage == 5)
        return err_set(e, "%s: record %" PRId64 " (%s) stands behind the footer", c->path, r->num, r->kind);
    if (want[c->stage] && strcmp(r->kind, want[c->stage]) != 0)
        return err_set(e, "%s: record %" PRId64 " is %s, expected %s", c->path, r->num, r->kind, want[c->stage]);
    if (c->stage != 2 || strcmp(r->kind, "exit") == 0)
        c->stage++;
    return 0;
}

static int check_file(const struct checking *c, const char *name, struct err *e)
{
    struct buf path = BUF_INIT;
    buf_printf(&path, "%s/files/%s", c->folder, name);
    int rc = file_exists(path.s) ? 0 : err_set(e, "%s: this file of the run is missing", path.s);
    buf_release(&path);
    return rc;
}

/* {"_type": "table-file", "sha256": .., "size": .., "path": ..} */
static int check_table(const struct checking *c, struct json v, struct err *e)
{
    struct json sha, size, name;
    int64_t bytes = 0;
    char hex[65];
    struct file_map m = { NULL, 0 };
    struct buf path = BUF_INIT;
    if (!json_get(v, "sha256", &sha) || !json_get(v, "size", &size) || !json_get(v, "path", &name) ||
        !json_int(size, &bytes) || json_kind(name) != JSON_STRING)
        return err_set(e, "%s: a table without sha256, size and path", c->path);
    buf_printf(&path, "%s/files/", c->folder);
    json_str(name, &path);
    int rc = file_map_open(&m, path.s, e);
    if (rc == 0) {
        sha256_hex(m.p, m.n, hex);
        int quote = json_kind(sha) == JSON_STRING;
        if ((int64_t)m.n != bytes || !json_str_is(sha, hex))
            rc = err_set(e, "%s: %zu bytes with sha256 %s, expected %" PRId64 " with %.*s", path.s, m.n, hex, bytes,
                         (int)sha.n - 2 * quote, sha.s + quote);
    }
    file_map_close(&m);
    buf_release(&path);
    return rc;
}

static int check_value(const struct checking *c, const struct wandb_record *r, const struct wandb_item *item,
                       struct err *e)
{
    struct json v, type;
    struct err why = { "" };
    if (json_parse(&v, item->value, strlen(item->value), &why) < 0)
        return err_set(e, "%s: record %" PRId64 ": %s: %s", c->path, r->num, item->key, why.msg);
    return json_get(v, "_type", &type) && json_str_is(type, "table-file") ? check_table(c, v, e) : 0;
}

static int check_history(struct checking *c, const struct wandb_record *r, struct err *e)
{
    if (c->f->history++ && r->step <= c->step)
        return err_set(e, "%s: record %" PRId64 ": step %" PRId64 " behind step %" PRId64, c->path, r->num, r->step,
                       c->step);
    c->step = r->step;
    return 0;
}

static int check_record(void *to, const struct wandb_record *r, struct err *e)
{
    struct checking *c = to;
    int rc = check_order(c, r, e);
    if (rc == 0 && strcmp(r->kind, "run") == 0 && c->stage == 2 && !c->f->id) {
        c->f->id = xstrdup(r->id);
        c->f->project = xstrdup(r->project);
        c->f->name = xstrdup(r->name);
    }
    if (rc == 0 && strcmp(r->kind, "history") == 0)
        rc = check_history(c, r, e);
    if (strcmp(r->kind, "exit") == 0)
        c->f->code = r->code;
    for (size_t i = 0; rc == 0 && i < r->n && strcmp(r->kind, "metric") != 0; i++)
        rc = r->item[i].value ? check_value(c, r, &r->item[i], e) : check_file(c, r->item[i].key, e);
    return rc;
}

/* The name of the folder's one run file; caller frees. */
static char *find_run_file(const char *folder, struct err *e)
{
    DIR *d = opendir(folder);
    char *found = NULL;
    int n = 0;
    if (!d) {
        err_errno(e, "%s: cannot be read", folder);
        return NULL;
    }
    for (struct dirent *entry; (entry = readdir(d));)
        if (path_ends_with(entry->d_name, ".wandb") && n++ == 0)
            found = path_join(folder, entry->d_name);
    closedir(d);
    if (n == 1)
        return found;
    free(found);
    err_set(e, "%s: %d files called *.wandb, expected one", folder, n);
    return NULL;
}

int wandb_check(const char *folder, struct wandb_facts *out, struct err *e)
{
    *out = (struct wandb_facts){ .code = 0 };
    char *path = find_run_file(folder, e), *files = path_join(folder, "files");
    struct checking c = { .path = path, .folder = folder, .f = out };
    struct buf want = BUF_INIT;
    int rc = path ? wandb_read(path, check_record, &c, e) : -1;
    if (rc == 0 && c.stage < 5)
        rc = err_set(e, "%s: the run has no end: record %" PRId64 " is the last, expected exit, final, footer", path,
                     out->records);
    if (rc == 0) {
        buf_printf(&want, "run-%s.wandb", out->id);
        if (strcmp(path_base(path), want.s) != 0)
            rc = err_set(e, "%s: holds the run %s, expected the name %s", path, out->id, want.s);
    }
    if (rc == 0 && !file_is_dir(files))
        rc = err_set(e, "%s: this folder is missing, and W&B's sync needs it", files);
    buf_release(&want);
    free(files);
    free(path);
    if (rc < 0)
        wandb_facts_release(out);
    return rc;
}

void wandb_facts_release(struct wandb_facts *f)
{
    free(f->id);
    free(f->project);
    free(f->name);
    *f = (struct wandb_facts){ .code = 0 };
}
