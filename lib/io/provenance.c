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
#include "base/log.h"
#include "base/mem.h"
#include "io/schema.h"
#include "io/stream.h"

/* Open addressing: index + 1 of what its owner keeps in an array; 0: free. */
struct table {
    size_t *at, n; /* a power of two, more than half of it free */
};

struct provenance {
    struct provenance_entry *entry; /* in the order found */
    size_t n, cap;
    struct table by_output, by_path;
    struct buf problems;
    int nproblems;
    struct fresh *fresh; /* fingerprints of folders as they are now: many runs use one model */
    size_t nfresh;
};

struct fresh {
    char *dir, hash[HASH_HEX];
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
        free(p->entry[i].folder);
        manifest_release(&p->entry[i].m);
    }
    for (size_t i = 0; i < p->nfresh; i++)
        free(p->fresh[i].dir);
    free(p->fresh);
    free(p->entry);
    free(p->by_output.at);
    free(p->by_path.at);
    buf_release(&p->problems);
    free(p);
}

/* Empty, for twice as many as before; its owner places all again. */
static void table_grow(struct table *t, size_t n)
{
    free(t->at);
    *t = (struct table){ xcalloc(n, sizeof *t->at), n };
}

static size_t table_slot(const struct table *t, const char *text)
{
    return hash_bytes(text, strlen(text)).lo & (t->n - 1);
}

static void place(struct table *t, const char *text, size_t index)
{
    size_t at = table_slot(t, text);
    while (t->at[at])
        at = (at + 1) & (t->n - 1);
    t->at[at] = index + 1;
}

static bool is_indexed(const struct provenance *p, const char *path)
{
    const struct table *t = &p->by_path;
    for (size_t at = t->n ? table_slot(t, path) : 0; t->n && t->at[at]; at = (at + 1) & (t->n - 1))
        if (strcmp(p->entry[t->at[at] - 1].path, path) == 0)
            return true;
    return false;
}

/* What a model folder's manifest says of the model. */
static void read_model(struct provenance_entry *x)
{
    struct json counts, v;
    if (json_parse(&counts, x->m.counts, strlen(x->m.counts), NULL) == 0 && json_get(counts, "fingerprint", &v) &&
        json_kind(v) == JSON_STRING && v.n == HASH_HEX + 1)
        memcpy(x->model, v.s + 1, HASH_HEX - 1);
}

static void add_manifest(struct provenance *p, const char *path, const char *file, const char *folder)
{
    struct err e = { "" };
    struct manifest m;
    if (is_indexed(p, path))
        return;
    if (manifest_read(&m, path, &e) < 0) {
        buf_printf(&p->problems, "%s\n", e.msg);
        p->nproblems++;
        return;
    }
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->entry = xreallocarray(p->entry, p->cap, sizeof *p->entry);
        table_grow(&p->by_output, p->cap * 2);
        table_grow(&p->by_path, p->cap * 2);
        for (size_t i = 0; i < p->n; i++) {
            place(&p->by_output, p->entry[i].m.output, i);
            place(&p->by_path, p->entry[i].path, i);
        }
    }
    p->entry[p->n] = (struct provenance_entry){
        .path = xstrdup(path), .file = file ? xstrdup(file) : NULL, .folder = folder ? xstrdup(folder) : NULL, .m = m
    };
    if (folder)
        read_model(&p->entry[p->n]);
    place(&p->by_output, m.output, p->n);
    place(&p->by_path, path, p->n++);
}

void provenance_add_file(struct provenance *p, const char *file)
{
    char *path = manifest_path(file);
    if (file_exists(path))
        add_manifest(p, path, file, NULL);
    free(path);
}

void provenance_add_tree(struct provenance *p, const char *dir)
{
    struct file_names list;
    struct err ignore;
    if (file_list(&list, dir, &ignore) < 0)
        return;
    for (size_t i = 0; i < list.n; i++) {
        const char *name = list.v[i];
        char *path = path_join(dir, name);
        struct stat st;
        if (name[0] != '.' && lstat(path, &st) == 0) {
            if (S_ISDIR(st.st_mode)) {
                provenance_add_tree(p, path);
            } else if (path_ends_with(name, ".run.json") && strlen(name) > 9) {
                char *file = xstrndup(path, strlen(path) - 9);
                add_manifest(p, path, file, NULL);
                free(file);
            } else if (strcmp(name, "run.json") == 0) {
                add_manifest(p, path, NULL, dir);
            }
        }
        free(path);
    }
    file_names_release(&list);
}

/* A run log: entries OUTHASH.KEY.json. */
static void add_runs(struct provenance *p, const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *ent;
    while (d && (ent = readdir(d)))
        if (strlen(ent->d_name) == 2 * (size_t)HASH_HEX + 4 && path_ends_with(ent->d_name, ".json")) {
            char *path = path_join(dir, ent->d_name);
            add_manifest(p, path, NULL, NULL);
            free(path);
        }
    if (d)
        closedir(d);
}

void provenance_add_log(struct provenance *p)
{
    char *dir = runlog_dir();
    const char *store = getenv("LATENT_STORE");
    if (dir)
        add_runs(p, dir);
    free(dir);
    if (store && *store)
        provenance_add_tree(p, store);
}

void provenance_add_around(struct provenance *p, const char *file)
{
    char *at = realpath(file, NULL), *slash;
    const char *given = strrchr(file, '/');
    /* the folder under the name that the user gave it, as far as messages show it */
    char *dir = given ? xstrndup(file, (size_t)(given - file)) : xstrdup(".");
    provenance_add_tree(p, *dir ? dir : "/");
    free(dir);
    while (at && (slash = strrchr(at, '/')) && slash != at) {
        *slash = '\0';
        char *runs = path_join(at, "runs"), *store = path_join(at, "store");
        add_runs(p, runs);
        if (file_is_dir(store))
            provenance_add_tree(p, store);
        free(runs);
        free(store);
    }
    free(at);
}

/* A step that changed nothing: following it would lead back to the same bytes. */
static bool is_idle(const struct manifest *m)
{
    for (int i = 0; i < m->ninputs; i++)
        if (strcmp(m->input[i].hash, m->output) == 0)
            return true;
    return false;
}

const struct provenance_entry *provenance_find(const struct provenance *p, const char *hex, bool piped)
{
    const struct provenance_entry *first = NULL;
    const struct table *t = &p->by_output;
    for (size_t at = t->n ? table_slot(t, hex) : 0; t->n && t->at[at]; at = (at + 1) & (t->n - 1)) {
        const struct provenance_entry *found = &p->entry[t->at[at] - 1];
        if (strcmp(found->m.output, hex) != 0 || is_idle(&found->m))
            continue;
        if (!piped || !found->file)
            return found;
        if (!first)
            first = found;
    }
    return first;
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

static int check_input_shards(const char *file, const struct manifest *m, struct buf *problems);

int provenance_check(const char *file, struct buf *problems)
{
    struct err e = { "" };
    struct manifest m;
    char *path = manifest_path(file), hex[HASH_HEX], key[HASH_HEX];
    int64_t records, bytes;
    int bad = 0;
    if (!file_exists(file)) {
        buf_printf(problems, "%s: is not there\n", file);
        bad = 1;
    } else if (!file_exists(path)) {
        buf_printf(problems, "%s: no manifest beside it (%s): nothing says how it was made\n", file, path);
        bad = 1 + schema_check(file, NULL, problems);
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
            buf_printf(problems, "%s: %lld %s in %lld %s, its manifest says %lld in %lld\n", file,
                       COUNTED(records, "record", "records"), COUNTED(bytes, "byte", "bytes"), (long long)m.records,
                       (long long)m.bytes);
            bad++;
        } else {
            bad += schema_check(file, &m, problems);
        }
        bad += check_input_shards(file, &m, problems);
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

/* ---- shards ---- */

struct shard_name {
    const char *stem, *end; /* the text in front of _shard, and behind the numbers */
    size_t nstem;
    int k, n;
};

static const char *digits(const char *p, int *out)
{
    *out = 0;
    const char *start = p;
    while (*p >= '0' && *p <= '9' && p - start < 6)
        *out = *out * 10 + (*p++ - '0');
    return p == start ? NULL : p;
}

/* "math_shard00of04.jsonl": the name that pipelines give to a part. */
static bool parse_shard(const char *path, struct shard_name *s)
{
    const char *at = NULL, *p;
    for (p = strstr(path_base(path), "_shard"); p; p = strstr(p + 1, "_shard"))
        at = p;
    if (!at || !(p = digits(at + 6, &s->k)) || strncmp(p, "of", 2) != 0 || !(p = digits(p + 2, &s->n)))
        return false;
    s->stem = path;
    s->nstem = (size_t)(at - path);
    s->end = p;
    return *p == '.' || *p == '\0';
}

static bool same_stem(const struct shard_name *a, const struct shard_name *b)
{
    return a->nstem == b->nstem && memcmp(a->stem, b->stem, a->nstem) == 0 && strcmp(a->end, b->end) == 0;
}

/* The shards among the inputs are one run's, each once. */
static int check_input_shards(const char *file, const struct manifest *m, struct buf *problems)
{
    int bad = 0;
    for (int i = 0; i < m->ninputs && !bad; i++) {
        struct shard_name a, b;
        if (!parse_shard(m->input[i].name, &a))
            continue;
        for (int k = i + 1; k < m->ninputs && !bad; k++) {
            if (!parse_shard(m->input[k].name, &b) || !same_stem(&a, &b) || (a.n == b.n && a.k != b.k))
                continue;
            buf_printf(problems, "%s: was made from %s and %s: shards of two runs, rows may stand twice\n", file,
                       m->input[i].name, m->input[k].name);
            bad = 1;
        }
    }
    return bad;
}

/* Does some file with a name read these bytes? */
static bool is_read(const struct provenance *p, const char *hash)
{
    for (size_t i = 0; i < p->n; i++)
        for (int k = 0; p->entry[i].file && k < p->entry[i].m.ninputs; k++)
            if (strcmp(p->entry[i].m.input[k].hash, hash) == 0)
                return true;
    return false;
}

/* What must be the same in all shards of one run. */
static struct hash128 settings_of(const struct manifest *m)
{
    struct buf b = BUF_INIT;
    struct json options, key, v;
    buf_printf(&b, "%s %lld %s\n", m->program, (long long)m->result, m->numerics);
    if (json_parse(&options, m->options, strlen(m->options), NULL) == 0) {
        struct json_iter it = json_each(options);
        while (json_next(&it, &key, &v))
            if (!json_str_is(key, "shard"))
                buf_printf(&b, "%.*s %.*s\n", (int)key.n, key.s, (int)v.n, v.s);
    }
    for (int i = 0; i < m->nmodels; i++)
        buf_printf(&b, "%s %s\n", m->model[i].role, m->model[i].hash);
    struct hash128 h = hash_bytes(b.s, b.len);
    buf_release(&b);
    return h;
}

struct shard_entry {
    struct shard_name name;
    const struct provenance_entry *x;
    bool read;
};

static int by_stem(const void *a, const void *b)
{
    return strcmp(((const struct shard_entry *)a)->x->file, ((const struct shard_entry *)b)->x->file);
}

/* Of two runs the one whose shards are read, else the later one. */
static bool is_before(const struct shard_entry *a, const struct shard_entry *b)
{
    if (a->read != b->read)
        return b->read;
    return strcmp(a->x->m.started, b->x->m.started) < 0;
}

static int check_group(const struct shard_entry *v, size_t n, struct buf *problems)
{
    const struct shard_entry *now = v;
    int bad = 0;
    for (size_t i = 1; i < n; i++)
        if (is_before(now, &v[i]))
            now = &v[i];
    struct hash128 settings = settings_of(&now->x->m);
    for (size_t i = 0; i < n; i++) {
        bool other = v[i].name.n != now->name.n;
        if (!other && hash_equal(settings, settings_of(&v[i].x->m)))
            continue;
        buf_printf(problems, "%s: is a shard of an older run (%s, made %s) beside %s (made %s): remove it\n",
                   v[i].x->file, other ? "another number of shards" : "other settings", v[i].x->m.started, now->x->file,
                   now->x->m.started);
        bad++;
    }
    return bad;
}

int provenance_check_shards(const struct provenance *p, struct buf *problems)
{
    struct shard_entry *v = xcalloc(p->n + 1, sizeof *v);
    size_t n = 0;
    int bad = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->entry[i].file && parse_shard(p->entry[i].file, &v[n].name)) {
            v[n].read = is_read(p, p->entry[i].m.output);
            v[n++].x = &p->entry[i];
        }
    qsort(v, n, sizeof *v, by_stem);
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && same_stem(&v[from].name, &v[to].name);)
            to++;
        bad += check_group(v + from, to - from, problems);
    }
    free(v);
    return bad;
}

/* ---- walk ---- */

/* A run whose models and inputs are being walked, one after the other. A list of them instead of calls within calls:
 * a chain may be longer than the stack. */
struct step {
    struct manifest m;
    char *name; /* of what it made */
    int depth, next;
    bool of_folder; /* m is this step's own, and what it made is a model that is walked */
    int outer;      /* then: of_model behind it */
};

struct walk {
    struct provenance *p;
    struct provenance_report *out;
    const struct provenance_models *models; /* or NULL */
    const char *root;                       /* where the walk began */
    struct step *step;                      /* from the root to where the walk is */
    size_t nsteps, step_cap;
    char (*seen)[HASH_HEX]; /* keys walked already: a shared input is listed once */
    size_t nseen, seen_cap;
    struct table by_key; /* of seen */
    int of_model;        /* depth of the inputs of the model folder that is being followed */
};

static void problem(struct walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct walk *w, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(w->out->problems, fmt, ap);
    va_end(ap);
    buf_putc(w->out->problems, '\n');
    w->out->nproblems++;
}

static void line(struct walk *w, int depth, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void line(struct walk *w, int depth, const char *fmt, ...)
{
    va_list ap;
    enum { DEEPEST = 100 }; /* a line is not indented any further: the depth stands in front of it */
    if (!w->out->tree)
        return;
    buf_printf(w->out->tree, "%*s", 2 * (depth < DEEPEST ? depth : DEEPEST), "");
    if (depth > DEEPEST)
        buf_printf(w->out->tree, "[%d] ", depth);
    va_start(ap, fmt);
    buf_vprintf(w->out->tree, fmt, ap);
    va_end(ap);
    buf_putc(w->out->tree, '\n');
}

static bool seen_before(struct walk *w, const char *hex)
{
    struct table *t = &w->by_key;
    for (size_t at = t->n ? table_slot(t, hex) : 0; t->n && t->at[at]; at = (at + 1) & (t->n - 1))
        if (strcmp(w->seen[t->at[at] - 1], hex) == 0)
            return true;
    if (w->nseen == w->seen_cap) {
        w->seen_cap = w->seen_cap ? 2 * w->seen_cap : 64;
        w->seen = xreallocarray(w->seen, w->seen_cap, sizeof *w->seen);
        table_grow(t, 2 * w->seen_cap);
        for (size_t i = 0; i < w->nseen; i++)
            place(t, w->seen[i], i);
    }
    memcpy(w->seen[w->nseen], hex, HASH_HEX);
    place(t, hex, w->nseen++);
    return false;
}

static bool has_hash(const char *path, const char *hex)
{
    struct hash128 h;
    struct err ignore;
    char now[HASH_HEX];
    if (!file_exists(path) || hash_file_fresh(path, true, &h, &ignore) < 0)
        return false;
    hash_hex(h, now);
    return strcmp(now, hex) == 0;
}

/* A file whose manifest says that it has these bytes, and that has others; NULL: none. One that is gone does no harm:
 * what went through a pipe is not here either. */
static const char *changed_file(const struct provenance *p, const char *hex)
{
    struct stat now, last = { .st_ino = 0 }; /* the name and the store's are often one file */
    const struct table *t = &p->by_output;
    for (size_t at = t->n ? table_slot(t, hex) : 0; t->n && t->at[at]; at = (at + 1) & (t->n - 1)) {
        const struct provenance_entry *x = &p->entry[t->at[at] - 1];
        if (strcmp(x->m.output, hex) != 0 || !x->file || stat(x->file, &now) != 0 ||
            (now.st_ino == last.st_ino && now.st_dev == last.st_dev))
            continue;
        if (!has_hash(x->file, hex))
            return x->file;
        last = now;
    }
    return NULL;
}

/* A manifest has names as they were given, from a folder that it does not know: one above the file is likely. */
static bool file_has_hash(const struct walk *w, const char *name, const char *hex)
{
    bool found = has_hash(name, hex);
    if (found || *name == '/')
        return found;
    char *at = realpath(w->root, NULL), *slash;
    while (!found && at && (slash = strrchr(at, '/')) && slash != at) {
        *slash = '\0';
        char *path = path_join(at, name);
        found = has_hash(path, hex);
        free(path);
    }
    free(at);
    return found;
}

static void enter(struct walk *w, int depth, const char *name, const struct manifest *m, bool of_folder);

/* The folder's fingerprint as it is now; "" with a problem told. */
static const char *fingerprint_now(struct walk *w, const char *dir)
{
    struct err e = { "" };
    struct provenance *p = w->p;
    for (size_t i = 0; i < p->nfresh; i++)
        if (strcmp(p->fresh[i].dir, dir) == 0)
            return p->fresh[i].hash;
    p->fresh = xreallocarray(p->fresh, p->nfresh + 1, sizeof *p->fresh);
    struct fresh *f = &p->fresh[p->nfresh++];
    *f = (struct fresh){ xstrdup(dir), "" };
    if (w->models->fingerprint(dir, f->hash, &e) < 0) {
        f->hash[0] = '\0';
        problem(w, "%s: %s", dir, e.msg);
    }
    return f->hash;
}

/* A folder that has the model: what the name means, as the run took it; else one whose manifest says so. NULL: none is
 * known. Caller frees. */
static char *find_model(const struct walk *w, const struct manifest_model *d, bool *elsewhere)
{
    struct err ignore;
    char *dir;
    *elsewhere = false;
    if (w->models && w->models->find(d->name, &dir, &ignore) == 0)
        return dir;
    *elsewhere = true;
    for (size_t i = 0; i < w->p->n; i++)
        if (w->p->entry[i].folder && strcmp(w->p->entry[i].model, d->hash) == 0)
            return xstrdup(w->p->entry[i].folder);
    return NULL;
}

/* The manifest of a model folder that one of our programs made. */
static bool read_folder(struct walk *w, struct manifest *m, const char *dir)
{
    struct err e = { "" };
    char *run = path_join(dir, "run.json");
    bool there = file_exists(run), read = there && manifest_read(m, run, &e) == 0;
    if (there && !read)
        problem(w, "%s", e.msg);
    free(run);
    return read;
}

static void walk_model(struct walk *w, int depth, const struct manifest_model *d)
{
    struct manifest m;
    bool elsewhere, changed = false;
    char *dir = find_model(w, d, &elsewhere);
    const char *state = !dir ? "  (not here now)" : elsewhere ? "  (now elsewhere)" : "";
    if (dir && w->models) {
        const char *now = fingerprint_now(w, dir);
        if (*now && strcmp(now, d->hash) != 0) {
            problem(w, "%s: this model has fingerprint %s now, the run used %s: it was changed or swapped since",
                    elsewhere ? dir : d->name, now, d->hash);
            state = "  CHANGED";
            changed = true;
        }
    }
    line(w, depth, "%s %s  %s%s", d->role, d->name, d->hash, state);
    struct buf *j = w->out->json;
    if (j) {
        buf_puts(j, "{\"model\": ");
        json_put_cstr(j, d->name);
        buf_puts(j, ", \"role\": ");
        json_put_cstr(j, d->role);
        buf_printf(j, ", \"fingerprint\": \"%s\", \"present\": %s", d->hash, dir && !changed ? "true" : "false");
    }
    if (dir && read_folder(w, &m, dir)) {
        if (j)
            buf_puts(j, ", \"from\": [");
        enter(w, depth + 1, dir, &m, true);
    } else if (j) {
        buf_puts(j, "}");
    }
    free(dir);
}

static void walk_input(struct walk *w, int depth, const struct manifest_input *in, const char *of)
{
    const struct provenance_entry *from;
    char label[4096];
    snprintf(label, sizeof label, "%s%s%s", in->role, *in->role ? " " : "", in->name);
    size_t told = w->p->problems.len;
    provenance_add_file(w->p, in->name);
    if (w->p->problems.len > told) /* a manifest that cannot be read: it does not become a source for that */
        problem(w, "%.*s", (int)(w->p->problems.len - told - 1), w->p->problems.s + told);
    from = provenance_find(w->p, in->hash, strcmp(in->name, "standard input") == 0);
    if (from) {
        enter(w, depth, label, &from->m, false);
        return;
    }
    /* A model that was made elsewhere is taken as it is. */
    bool here = file_has_hash(w, in->name, in->hash), elsewhere = !here && depth == w->of_model;
    line(w, depth, "%s  %s  %s", label, in->hash, here ? "source" : elsewhere ? "(not here)" : "MISSING");
    if (w->out->json) {
        buf_puts(w->out->json, "{\"source\": ");
        json_put_cstr(w->out->json, in->name);
        buf_printf(w->out->json, ", \"hash\": \"%s\", \"present\": %s}", in->hash, here ? "true" : "false");
    }
    if (here || elsewhere)
        return;
    if (file_exists(in->name))
        problem(w, "%s: was made from %s as it was (hash %s); that file has other bytes now and nothing else has those",
                of, in->name, in->hash);
    else
        problem(w, "%s: its input %s (hash %s) is missing: no file and no run in the log has it", of, in->name,
                in->hash);
}

/* Which part of the work it was: "  ratio 0.5", "  shard 0/4". */
static const char *part_of(const struct manifest *m, char *text, size_t n)
{
    struct json options, v = { "", 2 };
    const char *part = m->part ? m->part : "";
    bool shard = json_parse(&options, m->options, strlen(m->options), NULL) == 0 && json_get(options, "shard", &v) &&
                 json_kind(v) == JSON_STRING;
    snprintf(text, n, "%s%s%s%.*s", *part ? "  " : "", part, shard ? "  shard " : "", shard ? (int)v.n - 2 : 0,
             shard ? v.s + 1 : "");
    return text;
}

/* Tells of a run and makes it the step whose models and inputs come next. of_folder: takes m. */
static void enter(struct walk *w, int depth, const char *name, const struct manifest *m, bool of_folder)
{
    bool again = seen_before(w, m->key);
    const char *changed = !again && depth > 0 ? changed_file(w->p, m->output) : NULL;
    char size[64] = "model", of[256];
    if (m->records || strstr(m->counts, "\"files\"") == NULL)
        snprintf(size, sizeof size, "%lld %s", COUNTED(m->records, "record", "records"));
    line(w, depth, "%s  %s  %s %s  %s%s%s", name, m->output, m->program, m->version, size, part_of(m, of, sizeof of),
         again     ? "  (see above)"
         : changed ? "  CHANGED"
                   : "");
    if (changed)
        problem(w, "%s: has no longer the content (hash %s) that its manifest says: it was changed after it was made",
                changed, m->output);
    struct buf *j = w->out->json;
    if (j) {
        buf_puts(j, "{\"name\": ");
        json_put_cstr(j, name);
        buf_printf(j, ", \"hash\": \"%s\", \"program\": ", m->output);
        json_put_cstr(j, m->program);
        buf_printf(j, ", \"key\": \"%s\", \"options\": %s, \"from\": [", m->key, m->options);
    }
    if (w->nsteps == w->step_cap) {
        w->step_cap = w->step_cap ? 2 * w->step_cap : 16;
        w->step = xreallocarray(w->step, w->step_cap, sizeof *w->step);
    }
    w->step[w->nsteps++] = (struct step){ .m = *m, /* the index may move while the walk adds to it */
                                          .name = xstrdup(name),
                                          .depth = depth,
                                          .next = again ? m->nmodels + m->ninputs : 0,
                                          .of_folder = of_folder,
                                          .outer = w->of_model };
    if (of_folder)
        w->of_model = depth + 1;
}

static void leave(struct walk *w)
{
    struct step *s = &w->step[--w->nsteps];
    if (w->out->json)
        buf_puts(w->out->json, s->of_folder ? "]}]}" : "]}");
    if (s->of_folder) {
        w->of_model = s->outer;
        manifest_release(&s->m);
    }
    free(s->name);
}

static void walk(struct walk *w)
{
    while (w->nsteps) {
        struct step *s = &w->step[w->nsteps - 1];
        int i = s->next++, models = s->m.nmodels;
        if (i >= models + s->m.ninputs) {
            leave(w);
            continue;
        }
        if (w->out->json && i)
            buf_puts(w->out->json, ", ");
        if (i < models)
            walk_model(w, s->depth + 1, &s->m.model[i]);
        else
            walk_input(w, s->depth + 1, &s->m.input[i - models], s->name);
    }
}

void provenance_trace(struct provenance *p, const char *file, const struct provenance_models *models,
                      struct provenance_report *out)
{
    struct walk *w = xcalloc(1, sizeof *w);
    struct manifest m;
    struct err e = { "" };
    char *path = file_is_dir(file) ? path_join(file, "run.json") : manifest_path(file);
    *w = (struct walk){ .p = p, .out = out, .models = models, .root = file };
    if (manifest_read(&m, path, &e) < 0) {
        problem(w, "%s", e.msg);
    } else {
        enter(w, 0, file, &m, false);
        walk(w);
        manifest_release(&m);
    }
    free(w->step);
    free(w->by_key.at);
    free(w->seen);
    free(path);
    free(w);
}
