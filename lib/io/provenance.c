/* provenance.c - see provenance.h. */
#include "io/provenance.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/stream.h"

struct provenance {
    struct provenance_entry *entry; /* in the order found */
    size_t n, cap;
    size_t *bucket; /* open addressing by output hash: index + 1 */
    size_t nbuckets;
    struct buf problems;
    int nproblems;
};

struct provenance *provenance_new(void)
{
    return xcalloc(1, sizeof(struct provenance));
}

void provenance_free(struct provenance *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++) {
        free(p->entry[i].path);
        free(p->entry[i].file);
        manifest_release(&p->entry[i].m);
    }
    free(p->entry);
    free(p->bucket);
    buf_release(&p->problems);
    free(p);
}

static size_t hash_slot(const char *hex)
{
    size_t h = 0;
    for (int i = 0; i < 12; i++)
        h = h << 4 | (size_t)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
    return h;
}

static void place(struct provenance *p, size_t index)
{
    size_t at = hash_slot(p->entry[index].m.output) & (p->nbuckets - 1);
    while (p->bucket[at])
        at = (at + 1) & (p->nbuckets - 1);
    p->bucket[at] = index + 1;
}

static void add_manifest(struct provenance *p, const char *path, const char *file)
{
    struct err e = { "" };
    struct manifest m;
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->entry[i].path, path) == 0)
            return;
    if (manifest_read(&m, path, &e) < 0) {
        buf_printf(&p->problems, "%s\n", e.msg);
        p->nproblems++;
        return;
    }
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->entry = xreallocarray(p->entry, p->cap, sizeof *p->entry);
        free(p->bucket);
        p->nbuckets = p->cap * 2;
        p->bucket = xcalloc(p->nbuckets, sizeof *p->bucket);
        for (size_t i = 0; i < p->n; i++)
            place(p, i);
    }
    p->entry[p->n] = (struct provenance_entry){ xstrdup(path), file ? xstrdup(file) : NULL, m };
    place(p, p->n++);
}

void provenance_add_file(struct provenance *p, const char *file)
{
    char *path = manifest_path(file);
    if (file_exists(path))
        add_manifest(p, path, file);
    free(path);
}

void provenance_add_tree(struct provenance *p, const char *dir)
{
    struct dirent **list;
    int n = scandir(dir, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        char *path = path_join(dir, name);
        struct stat st;
        if (name[0] != '.' && lstat(path, &st) == 0) {
            if (S_ISDIR(st.st_mode)) {
                provenance_add_tree(p, path);
            } else if (path_ends_with(name, ".run.json") && strlen(name) > 9) {
                char *file = xstrndup(path, strlen(path) - 9);
                add_manifest(p, path, file);
                free(file);
            }
        }
        free(path);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
}

void provenance_add_log(struct provenance *p)
{
    char *dir = runlog_dir();
    DIR *d = dir ? opendir(dir) : NULL;
    struct dirent *ent;
    while (d && (ent = readdir(d)))
        if (path_ends_with(ent->d_name, ".json")) {
            char *path = path_join(dir, ent->d_name);
            add_manifest(p, path, NULL);
            free(path);
        }
    if (d)
        closedir(d);
    free(dir);
    const char *store = getenv("LATENT_STORE");
    if (store && *store)
        provenance_add_tree(p, store);
}

/* A step that changed nothing: following it would lead back to the same bytes. */
static bool is_idle(const struct manifest *m)
{
    for (int i = 0; i < m->ninputs; i++)
        if (strcmp(m->input[i].hash, m->output) == 0)
            return true;
    return false;
}

const struct provenance_entry *provenance_find(const struct provenance *p, const char *hex)
{
    if (!p->nbuckets)
        return NULL;
    for (size_t at = hash_slot(hex) & (p->nbuckets - 1); p->bucket[at]; at = (at + 1) & (p->nbuckets - 1)) {
        const struct provenance_entry *found = &p->entry[p->bucket[at] - 1];
        if (strcmp(found->m.output, hex) == 0 && !is_idle(&found->m))
            return found;
    }
    return NULL;
}

size_t provenance_count(const struct provenance *p)
{
    return p->n;
}

const struct provenance_entry *provenance_at(const struct provenance *p, size_t i)
{
    return &p->entry[i];
}

int provenance_problems(const struct provenance *p, struct buf *problems)
{
    buf_add(problems, p->problems.s ? p->problems.s : "", p->problems.len);
    return p->nproblems;
}

/* ---- one file against its manifest ---- */

static int count_content(const char *file, int64_t *records, int64_t *bytes, char hex[HASH_HEX], struct err *e)
{
    struct in_stream *in;
    const char *c;
    size_t n;
    int rc;
    *records = *bytes = 0;
    if (in_open(&in, file, e) < 0)
        return -1;
    struct hasher *h = hasher_new();
    while ((rc = in_chunk(in, &c, &n, e)) > 0) {
        hasher_add(h, c, n);
        *bytes += (int64_t)n;
        for (const char *at = c; (at = memchr(at, '\n', (size_t)(c + n - at))); at++)
            ++*records;
    }
    hash_hex(hasher_get(h), hex);
    hasher_free(h);
    in_close(in);
    return rc;
}

int provenance_check(const char *file, struct buf *problems)
{
    struct err e = { "" };
    struct manifest m;
    char *path = manifest_path(file), hex[HASH_HEX], key[HASH_HEX];
    int64_t records, bytes;
    int bad = 0;
    if (!file_exists(path)) {
        buf_printf(problems, "%s: no manifest beside it (%s): nothing says how it was made\n", file, path);
        bad = 1;
    } else if (manifest_read(&m, path, &e) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        bad = 1;
    } else {
        if (count_content(file, &records, &bytes, hex, &e) < 0) {
            buf_printf(problems, "%s\n", e.msg);
            bad++;
        } else if (strcmp(hex, m.output) != 0) {
            buf_printf(problems, "%s: content hash is %s, its manifest says %s: it was changed after it was made\n",
                       file, hex, m.output);
            bad++;
        } else if (records != m.records || bytes != m.bytes) {
            buf_printf(problems, "%s: %lld records in %lld bytes, its manifest says %lld in %lld\n", file,
                       (long long)records, (long long)bytes, (long long)m.records, (long long)m.bytes);
            bad++;
        }
        hash_hex(manifest_key(&m, true), key);
        if (strcmp(key, m.key) != 0) {
            buf_printf(problems, "%s: options, inputs or models give key %s, it says %s\n", path, key, m.key);
            bad++;
        }
        manifest_release(&m);
    }
    free(path);
    return bad;
}

/* ---- walk ---- */

struct walk {
    struct provenance *p;
    struct provenance_report *out;
    provenance_model_fn *fingerprint;
    char seen[4096][HASH_HEX]; /* keys walked already: a shared input is listed once */
    int nseen;
};

static void problem(struct walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct walk *w, const char *fmt, ...)
{
    va_list ap;
    char line[2048];
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    buf_printf(w->out->problems, "%s\n", line);
    w->out->nproblems++;
}

static void line(struct walk *w, int depth, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void line(struct walk *w, int depth, const char *fmt, ...)
{
    va_list ap;
    char text[4096];
    if (!w->out->tree)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_printf(w->out->tree, "%*s%s\n", 2 * depth, "", text);
}

static bool seen_before(struct walk *w, const char *hex)
{
    for (int i = 0; i < w->nseen; i++)
        if (strcmp(w->seen[i], hex) == 0)
            return true;
    if (w->nseen < (int)(sizeof w->seen / sizeof *w->seen))
        snprintf(w->seen[w->nseen++], HASH_HEX, "%s", hex);
    return false;
}

static bool file_has_hash(const char *path, const char *hex)
{
    struct hash128 h;
    struct err ignore;
    char now[HASH_HEX];
    if (!file_exists(path) || hash_file(path, true, &h, &ignore) < 0)
        return false;
    hash_hex(h, now);
    return strcmp(now, hex) == 0;
}

static void walk_manifest(struct walk *w, int depth, const char *name, const struct manifest *m);

static void walk_model(struct walk *w, int depth, const struct manifest_model *d)
{
    char now[33];
    struct err e = { "" };
    const char *state = "";
    if (!w->fingerprint) {
        state = "";
    } else if (!file_is_dir(d->name)) {
        state = "  (not at this place now)";
    } else if (w->fingerprint(d->name, now, &e) < 0) {
        problem(w, "%s: %s", d->name, e.msg);
    } else if (strcmp(now, d->hash) != 0) {
        problem(w, "%s: this model folder has fingerprint %s, the run used %s: it was changed or swapped", d->name, now,
                d->hash);
    }
    line(w, depth, "%s %s  %s%s", d->role, d->name, d->hash, state);
    if (w->out->json) {
        buf_puts(w->out->json, "{\"model\": ");
        json_put_cstr(w->out->json, d->name);
        buf_puts(w->out->json, ", \"role\": ");
        json_put_cstr(w->out->json, d->role);
        buf_printf(w->out->json, ", \"fingerprint\": \"%s\"}", d->hash);
    }
}

static void walk_input(struct walk *w, int depth, const struct manifest_input *in, const char *of)
{
    const struct provenance_entry *from;
    char label[4096];
    snprintf(label, sizeof label, "%s%s%s", in->role, *in->role ? " " : "", in->name);
    provenance_add_file(w->p, in->name);
    from = provenance_find(w->p, in->hash);
    if (from) {
        struct manifest m = from->m; /* the index may move while the walk adds to it */
        walk_manifest(w, depth, label, &m);
        return;
    }
    bool here = file_has_hash(in->name, in->hash);
    line(w, depth, "%s  %s  %s", label, in->hash, here ? "source" : "MISSING");
    if (w->out->json) {
        buf_puts(w->out->json, "{\"source\": ");
        json_put_cstr(w->out->json, in->name);
        buf_printf(w->out->json, ", \"hash\": \"%s\", \"present\": %s}", in->hash, here ? "true" : "false");
    }
    if (here)
        return;
    if (file_exists(in->name))
        problem(w, "%s: was made from %s as it was (hash %s); that file has other bytes now and nothing else has those",
                of, in->name, in->hash);
    else
        problem(w, "%s: its input %s (hash %s) is missing: no file and no run in the log has it", of, in->name,
                in->hash);
}

static void walk_manifest(struct walk *w, int depth, const char *name, const struct manifest *m)
{
    bool again = seen_before(w, m->key);
    line(w, depth, "%s  %s  %s %s  %lld records%s", name, m->output, m->program, m->version, (long long)m->records,
         again ? "  (see above)" : "");
    struct buf *j = w->out->json;
    if (j) {
        buf_puts(j, "{\"name\": ");
        json_put_cstr(j, name);
        buf_printf(j, ", \"hash\": \"%s\", \"program\": ", m->output);
        json_put_cstr(j, m->program);
        buf_printf(j, ", \"key\": \"%s\", \"options\": %s, \"from\": [", m->key, m->options);
    }
    for (int i = 0; !again && i < m->nmodels; i++) {
        if (j && i)
            buf_puts(j, ", ");
        walk_model(w, depth + 1, &m->model[i]);
    }
    for (int i = 0; !again && i < m->ninputs; i++) {
        if (j && (i || m->nmodels))
            buf_puts(j, ", ");
        walk_input(w, depth + 1, &m->input[i], name);
    }
    if (j)
        buf_puts(j, "]}");
}

void provenance_trace(struct provenance *p, const char *file, provenance_model_fn *fingerprint,
                      struct provenance_report *out)
{
    struct walk *w = xcalloc(1, sizeof *w);
    struct manifest m;
    struct err e = { "" };
    char *path = file_is_dir(file) ? path_join(file, "run.json") : manifest_path(file);
    *w = (struct walk){ .p = p, .out = out, .fingerprint = fingerprint };
    if (manifest_read(&m, path, &e) < 0) {
        problem(w, "%s", e.msg);
    } else {
        walk_manifest(w, 0, file, &m);
        manifest_release(&m);
    }
    free(path);
    free(w);
}
