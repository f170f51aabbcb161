/* manifest.c - see manifest.h. */
#include "io/manifest.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { MANIFEST_LIMIT = 16 << 20 };

void manifest_add_input(struct manifest *m, const char *name, const char *role, struct hash128 h)
{
    m->input = xreallocarray(m->input, (size_t)m->ninputs + 1, sizeof *m->input);
    struct manifest_input *i = &m->input[m->ninputs++];
    *i = (struct manifest_input){ xstrdup(name), xstrdup(role), "" };
    hash_hex(h, i->hash);
}

void manifest_add_model(struct manifest *m, const char *role, const char *name, const char *fingerprint)
{
    m->model = xreallocarray(m->model, (size_t)m->nmodels + 1, sizeof *m->model);
    struct manifest_model *d = &m->model[m->nmodels++];
    *d = (struct manifest_model){ xstrdup(role), xstrdup(name), "" };
    snprintf(d->hash, sizeof d->hash, "%s", fingerprint);
}

void manifest_release(struct manifest *m)
{
    for (int i = 0; i < m->ninputs; i++) {
        free(m->input[i].name);
        free(m->input[i].role);
    }
    for (int i = 0; i < m->nmodels; i++) {
        free(m->model[i].role);
        free(m->model[i].name);
    }
    free(m->input);
    free(m->model);
    free(m->program);
    free(m->version);
    free(m->numerics);
    free(m->part);
    free(m->options);
    free(m->counts);
    free(m->started);
    *m = (struct manifest){ .ninputs = 0 };
}

static const char *text(const char *s)
{
    return s ? s : "";
}

struct hash128 manifest_key(const struct manifest *m, bool with_inputs)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s %lld\n%s\n%s\n%s\n", text(m->program), (long long)m->result, text(m->options), text(m->part),
               text(m->numerics));
    for (int i = 0; i < m->nmodels; i++)
        buf_printf(&b, "model %s %s\n", m->model[i].role, m->model[i].hash);
    for (int i = 0; i < m->ninputs; i++)
        if (with_inputs || *m->input[i].role)
            buf_printf(&b, "input %s %s\n", m->input[i].role, m->input[i].hash);
    struct hash128 h = hash_bytes(b.s, b.len);
    buf_release(&b);
    return h;
}

static void put_member(struct buf *b, const char *key, const char *value)
{
    buf_puts(b, b->s[b->len - 1] == '{' ? "\n  " : ",\n  ");
    json_put_cstr(b, key);
    buf_puts(b, ": ");
    json_put_cstr(b, value);
}

static void put_raw(struct buf *b, const char *key, const char *raw)
{
    buf_puts(b, ",\n  ");
    json_put_cstr(b, key);
    buf_printf(b, ": %s", raw && *raw ? raw : "{}");
}

/* The last member is the hash of the text before it: a manifest that was edited by hand says so itself. */
static const char seal_mark[] = ",\n  \"seal\": \"";

void manifest_write(const struct manifest *m, struct buf *b)
{
    size_t start = b->len;
    buf_putc(b, '{');
    put_member(b, "program", m->program);
    put_member(b, "version", m->version);
    buf_printf(b, ",\n  \"result\": %lld", (long long)m->result);
    put_member(b, "key", m->key);
    put_raw(b, "options", m->options);
    put_member(b, "numerics", m->numerics);
    buf_puts(b, ",\n  \"models\": [");
    for (int i = 0; i < m->nmodels; i++) {
        buf_puts(b, i ? ", {\"role\": " : "{\"role\": ");
        json_put_cstr(b, m->model[i].role);
        buf_puts(b, ", \"name\": ");
        json_put_cstr(b, m->model[i].name);
        buf_printf(b, ", \"fingerprint\": \"%s\"}", m->model[i].hash);
    }
    buf_puts(b, "],\n  \"inputs\": [");
    for (int i = 0; i < m->ninputs; i++) {
        buf_puts(b, i ? ", {\"name\": " : "{\"name\": ");
        json_put_cstr(b, m->input[i].name);
        if (*m->input[i].role) {
            buf_puts(b, ", \"role\": ");
            json_put_cstr(b, m->input[i].role);
        }
        buf_printf(b, ", \"hash\": \"%s\"}", m->input[i].hash);
    }
    buf_printf(b, "],\n  \"output\": {\"hash\": \"%s\", \"records\": %lld, \"bytes\": %lld", m->output,
               (long long)m->records, (long long)m->bytes);
    if (m->part && *m->part) {
        buf_puts(b, ", \"part\": ");
        json_put_cstr(b, m->part);
    }
    buf_putc(b, '}');
    put_raw(b, "counts", m->counts);
    put_member(b, "started", m->started);
    buf_printf(b, ",\n  \"seconds\": %.3f", m->seconds);
    char seal[HASH_HEX];
    hash_hex(hash_bytes(b->s + start, b->len - start), seal);
    buf_printf(b, "%s%s\"\n}\n", seal_mark, seal);
}

/* ---- reading ---- */

static char *member_text(struct json object, const char *key)
{
    struct json v;
    return json_get(object, key, &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : xstrdup("");
}

static bool member_hash(struct json object, const char *key, char out[HASH_HEX])
{
    struct hash128 h;
    char *s = member_text(object, key);
    bool ok = hash_parse(s, &h);
    if (ok)
        hash_hex(h, out);
    free(s);
    return ok;
}

static char *member_raw(struct json object, const char *key)
{
    struct json v;
    return json_get(object, key, &v) ? xstrndup(v.s, v.n) : xstrdup("{}");
}

static bool parse_inputs(struct manifest *m, struct json doc)
{
    struct json list, v;
    if (!json_get(doc, "inputs", &list) || json_kind(list) != JSON_ARRAY)
        return false;
    struct json_iter it = json_each(list);
    while (json_next(&it, NULL, &v)) {
        char hex[HASH_HEX];
        struct hash128 h;
        if (!member_hash(v, "hash", hex) || !hash_parse(hex, &h))
            return false;
        char *name = member_text(v, "name"), *role = member_text(v, "role");
        manifest_add_input(m, name, role, h);
        free(name);
        free(role);
    }
    return true;
}

static bool parse_models(struct manifest *m, struct json doc)
{
    struct json list, v;
    if (!json_get(doc, "models", &list) || json_kind(list) != JSON_ARRAY)
        return false;
    struct json_iter it = json_each(list);
    while (json_next(&it, NULL, &v)) {
        char hex[HASH_HEX];
        if (!member_hash(v, "fingerprint", hex))
            return false;
        char *name = member_text(v, "name"), *role = member_text(v, "role");
        manifest_add_model(m, role, name, hex);
        free(name);
        free(role);
    }
    return true;
}

static bool sealed(const char *txt, size_t n)
{
    size_t mark = sizeof seal_mark - 1, tail = mark + HASH_HEX - 1 + 4; /* digits, quote, newline, brace, newline */
    char seal[HASH_HEX];
    if (n < tail || memcmp(txt + n - tail, seal_mark, mark) != 0 || memcmp(txt + n - 4, "\"\n}\n", 4) != 0)
        return false;
    hash_hex(hash_bytes(txt, n - tail), seal);
    return memcmp(txt + n - tail + mark, seal, HASH_HEX - 1) == 0;
}

int manifest_parse(struct manifest *m, const char *txt, size_t n, const char *name, struct err *e)
{
    struct json doc, v;
    *m = (struct manifest){ .ninputs = 0 };
    if (!sealed(txt, n))
        return err_set(e, "%s: this manifest is not as it was written (its seal does not fit)", name);
    if (json_parse(&doc, txt, n, e) < 0)
        return err_prefix(e, "%s", name);
    if (json_kind(doc) != JSON_OBJECT)
        return err_set(e, "%s: not a manifest: expected an object", name);
    m->program = member_text(doc, "program");
    m->version = member_text(doc, "version");
    m->numerics = member_text(doc, "numerics");
    m->started = member_text(doc, "started");
    m->options = member_raw(doc, "options");
    m->counts = member_raw(doc, "counts");
    bool ok = *m->program && member_hash(doc, "key", m->key) && json_get(doc, "result", &v) &&
              json_int(v, &m->result) && parse_inputs(m, doc) && parse_models(m, doc);
    if (json_get(doc, "seconds", &v))
        json_double(v, &m->seconds);
    ok = ok && json_get(doc, "output", &v) && member_hash(v, "hash", m->output);
    if (ok) {
        struct json w;
        m->part = member_text(v, "part");
        if (json_get(v, "records", &w))
            json_int(w, &m->records);
        if (json_get(v, "bytes", &w))
            json_int(w, &m->bytes);
        return 0;
    }
    manifest_release(m);
    return err_set(e, "%s: not a manifest: program, key, result, inputs, models or output is missing or malformed",
                   name);
}

int manifest_read(struct manifest *m, const char *path, struct err *e)
{
    struct buf b = BUF_INIT;
    *m = (struct manifest){ .ninputs = 0 };
    int rc = file_read(&b, path, MANIFEST_LIMIT, e);
    if (rc == 0)
        rc = manifest_parse(m, b.s ? b.s : "", b.len, path, e);
    buf_release(&b);
    return rc;
}

char *manifest_path(const char *file)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s.run.json", file);
    return buf_take(&b);
}

char *store_path(const char *key, const char *end)
{
    const char *dir = getenv("LATENT_STORE");
    if (!dir || !*dir)
        return NULL;
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s/%s%s", dir, key, end);
    return buf_take(&b);
}

/* ---- run log ---- */

char *runlog_dir(void)
{
    const char *own = getenv("LATENT_RUNS"), *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (own && *own)
        return xstrdup(own);
    if (xdg && *xdg)
        return path_join(xdg, "latent/runs");
    return home && *home ? path_join(home, ".local/state/latent/runs") : NULL;
}

int runlog_add(const struct manifest *m, struct err *e)
{
    char *dir = runlog_dir();
    if (!dir)
        return err_set(e, "no place for the run log: set LATENT_RUNS or HOME");
    struct buf path = BUF_INIT, json = BUF_INIT;
    buf_printf(&path, "%s/%s.%s.json", dir, m->output, m->key);
    manifest_write(m, &json);
    int rc = file_mkdirs(dir, e);
    if (rc == 0)
        rc = file_write_atomic(path.s, json.s, json.len, e);
    buf_release(&path);
    buf_release(&json);
    free(dir);
    return rc;
}

char *runlog_find(const char *output_hash)
{
    char *dir = runlog_dir(), *found = NULL;
    DIR *d = dir ? opendir(dir) : NULL;
    struct dirent *ent;
    while (d && !found && (ent = readdir(d)))
        if (strncmp(ent->d_name, output_hash, HASH_HEX - 1) == 0 && ent->d_name[HASH_HEX - 1] == '.' &&
            path_ends_with(ent->d_name, ".json"))
            found = path_join(dir, ent->d_name);
    if (d)
        closedir(d);
    free(dir);
    return found;
}

bool runlog_has(const char *output_hash)
{
    char *path = runlog_find(output_hash);
    free(path);
    return path != NULL;
}
