/* hub.c - see hub.h. */
#include "io/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/http.h"
#include "io/hub_cache.h"

static void put_escaped(struct buf *b, const char *s, const char *keep)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.~", c) ||
                     strchr(keep, c);
        if (plain)
            buf_putc(b, (char)c);
        else
            buf_printf(b, "%%%02X", c);
    }
}

/* ---- what the hub's refusals mean ---- */

static int explain(const struct hub_repo *r, const char *what, const struct http_answer *a, struct err *e)
{
    const char *with = r->token ? "the token in HF_TOKEN does not open it" : "set HF_TOKEN if it is private or gated";
    if (strcmp(a->error_code, "GatedRepo") == 0)
        return err_set(e, "%s: access is gated: accept its terms at %s/%s, then set HF_TOKEN (%s)", r->id, r->endpoint,
                       r->id, r->token ? "the present token has no access" : "no token is set");
    if (strcmp(a->error_code, "RevisionNotFound") == 0)
        return err_set(e, "%s: no revision %s on %s", r->id, r->revision, r->endpoint);
    if (strcmp(a->error_code, "EntryNotFound") == 0)
        return err_set(e, "%s: no file %s at revision %s", r->id, what, r->revision);
    if (a->status == 401 || a->status == 403)
        return err_set(e, "%s: no access (%ld from %s): %s", r->id, a->status, r->endpoint, with);
    if (a->status == 404)
        return err_set(e, "%s: no such repository on %s, nor a folder here (%s)", r->id, r->endpoint, with);
    return err_set(e, "%s: %s answered %ld for %s", r->id, r->endpoint, a->status, what);
}

/* ---- checks ---- */

static void digest_hex(const unsigned char *d, unsigned n, char *out)
{
    for (unsigned i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", d[i]);
}

/* 64 digits: sha256 of the bytes; 40: git's sha1 of "blob LEN\0" and the bytes. Other etags cannot be checked. */
static int check_content(const char *path, const char *etag, const char *name, struct err *e)
{
    size_t n = strlen(etag);
    const EVP_MD *md = n == 64 ? EVP_sha256() : n == 40 ? EVP_sha1() : NULL;
    struct file_map m;
    if (!md)
        return 0;
    if (file_map_open(&m, path, e) < 0)
        return -1;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    char head[64], hex[2 * EVP_MAX_MD_SIZE + 1];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, md, NULL) == 1;
    if (n == 40) {
        int k = snprintf(head, sizeof head, "blob %zu", m.n);
        ok = ok && EVP_DigestUpdate(ctx, head, (size_t)k + 1) == 1;
    }
    ok = ok && (m.n == 0 || EVP_DigestUpdate(ctx, m.p, m.n) == 1) && EVP_DigestFinal_ex(ctx, digest, &len) == 1;
    EVP_MD_CTX_free(ctx);
    file_map_close(&m);
    if (!ok)
        return err_set(e, "%s: the checksum library failed", name);
    digest_hex(digest, len, hex);
    if (strcmp(hex, etag) == 0)
        return 0;
    return err_set(e, "%s: checksum mismatch: the hub says %s, the bytes give %s; they were thrown away, try again",
                   name, etag, hex);
}

/* ---- one file ---- */

static void show_progress(void *arg, int64_t done, int64_t total)
{
    (void)arg;
    (void)total;
    progress_at((uint64_t)done >> 20, NULL);
}

static int lock_blob(const struct hub_repo *r, const char *etag, struct err *e)
{
    struct buf b = BUF_INIT;
    if (file_mkdirs(r->locks, e) < 0)
        return -1;
    buf_printf(&b, "%s/%s.lock", r->locks, etag);
    int fd = open(b.s, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_errno(e, "%s: cannot create", b.s);
    } else if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        log_info("another process is fetching the same file; waiting for it");
        while (flock(fd, LOCK_EX) < 0 && errno == EINTR)
            ;
    }
    buf_release(&b);
    return fd;
}

static int fetch_blob(const struct hub_repo *r, const char *url, const char *name, const struct http_answer *a,
                      const char *blob, struct err *e)
{
    struct buf part = BUF_INIT;
    int64_t size = a->linked_size >= 0 ? a->linked_size : a->status < 300 ? a->length : -1;
    buf_printf(&part, "%s.incomplete", blob);
    progress_begin(name, size > 0 ? (uint64_t)size >> 20 : 0, "MiB");
    int rc = http_get_file(url, r->token, a->etag, size, part.s, show_progress, NULL, e);
    progress_end();
    if (rc == 0 && check_content(part.s, a->etag, name, e) < 0) {
        unlink(part.s);
        rc = -1;
    }
    if (rc == 0 && rename(part.s, blob) < 0)
        rc = err_errno(e, "%s: cannot write", blob);
    buf_release(&part);
    return rc;
}

/* snapshots/COMMIT/PATH -> ../../blobs/ETAG, one more ../ per folder in PATH; a copy where links cannot be. */
static int link_snapshot(const char *snapshot, const char *path, const char *etag, const char *blob, struct err *e)
{
    char *at = path_join(snapshot, path);
    struct buf target = BUF_INIT, tmp = BUF_INIT;
    int rc = file_mkparents(at, e);
    buf_puts(&target, "../../");
    for (const char *p = path; (p = strchr(p, '/')); p++)
        buf_puts(&target, "../");
    buf_printf(&target, "blobs/%s", etag);
    buf_printf(&tmp, "%s.%ld.tmp", at, (long)getpid());
    if (rc == 0 && (hub_env_true("HF_HUB_DISABLE_SYMLINKS") || symlink(target.s, tmp.s) < 0)) {
        if (link(blob, tmp.s) < 0)
            rc = err_errno(e, "%s: cannot link", at);
    }
    if (rc == 0 && rename(tmp.s, at) < 0)
        rc = err_errno(e, "%s: cannot write", at);
    buf_release(&target);
    buf_release(&tmp);
    free(at);
    return rc;
}

static int fetch_file(const struct hub_repo *r, const char *commit, const char *path, struct err *e)
{
    struct http_answer a;
    struct buf url = BUF_INIT, blob = BUF_INIT;
    char *snapshot = hub_snapshot_dir(r, commit);
    buf_printf(&url, "%s/%s%s/resolve/", r->endpoint, strcmp(r->kind, "datasets") == 0 ? "datasets/" : "", r->id);
    put_escaped(&url, commit, "");
    buf_putc(&url, '/');
    put_escaped(&url, path, "/");
    int rc = http_head(url.s, r->token, &a, e), lock = -1;
    if (rc == 0 && a.status >= 400)
        rc = explain(r, path, &a, e);
    if (rc == 0 && (!*a.etag || strchr(a.etag, '/')))
        rc = err_set(e, "%s: %s gave no etag for %s", r->id, r->endpoint, path);
    if (rc == 0) {
        buf_printf(&blob, "%s/blobs/%s", r->dir, a.etag);
        rc = file_mkparents(blob.s, e);
    }
    if (rc == 0 && !file_exists(blob.s)) {
        lock = lock_blob(r, a.etag, e);
        rc = lock < 0 ? -1 : 0;
        if (rc == 0 && !file_exists(blob.s)) /* another process may have brought it meanwhile */
            rc = fetch_blob(r, url.s, path, &a, blob.s, e);
    }
    if (rc == 0)
        rc = link_snapshot(snapshot, path, a.etag, blob.s, e);
    if (lock >= 0)
        close(lock);
    buf_release(&url);
    buf_release(&blob);
    free(snapshot);
    return rc;
}

/* ---- a snapshot ---- */

struct listing {
    char commit[HUB_COMMIT_HEX + 1];
    char **file;
    size_t n;
    bool safetensors, pickle;
};

static void listing_release(struct listing *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->file[i]);
    free(l->file);
}

/* What opening a checkpoint can read: the rest (original/, *.bin, onnx, pictures) stays where it is. */
static bool is_needed(const char *f)
{
    static const char *const name[] = { "config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "vocab.txt",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "special_tokens_map.json",
                                        "dual_vocab_meta.json",
                                        "tokenizer_config.json",
                                        "model.safetensors.index.json" };
    if (strchr(f, '/'))
        return false;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (strcmp(f, name[i]) == 0)
            return true;
    return path_ends_with(f, ".safetensors") && strncmp(f, "model", 5) == 0;
}

static int read_listing(const struct hub_repo *r, struct listing *l, struct err *e)
{
    struct buf url = BUF_INIT, body = BUF_INIT;
    struct http_answer a;
    struct json doc, v, list;
    buf_printf(&url, "%s/api/%s/%s/revision/", r->endpoint, r->kind, r->id);
    put_escaped(&url, r->revision, "");
    int rc = http_get(url.s, r->token, HUB_LISTING_LIMIT, &body, &a, e);
    if (rc == 0 && a.status != 200)
        rc = explain(r, "its list of files", &a, e);
    if (rc == 0 && json_parse(&doc, body.s ? body.s : "", body.len, e) < 0)
        rc = err_prefix(e, "%s", url.s);
    if (rc == 0) {
        char *sha = json_get(doc, "sha", &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : xstrdup("");
        if (!hub_is_commit(sha) || !json_get(doc, "siblings", &list))
            rc = err_set(e, "%s: expected sha and siblings in the answer", url.s);
        else
            snprintf(l->commit, sizeof l->commit, "%s", sha);
        free(sha);
    }
    struct json_iter it = rc == 0 ? json_each(list) : (struct json_iter){ NULL, NULL, false };
    while (json_next(&it, NULL, &v)) {
        struct json name;
        if (!json_get(v, "rfilename", &name) || json_kind(name) != JSON_STRING)
            continue;
        char *f = json_str_dup(name);
        l->safetensors |= path_ends_with(f, ".safetensors") && !strchr(f, '/');
        l->pickle |=
            (path_ends_with(f, ".bin") || path_ends_with(f, ".pt") || path_ends_with(f, ".pth")) && !strchr(f, '/');
        if (!is_needed(f)) {
            free(f);
            continue;
        }
        l->file = xreallocarray(l->file, l->n + 1, sizeof *l->file);
        l->file[l->n++] = f;
    }
    buf_release(&url);
    buf_release(&body);
    return rc;
}

/* A single file makes shards beside it redundant (formats specification 1: model.safetensors comes first). */
static bool is_spare(const struct listing *l, const char *f)
{
    bool single = false;
    for (size_t i = 0; i < l->n; i++)
        single |= strcmp(l->file[i], "model.safetensors") == 0;
    return single && path_ends_with(f, ".safetensors") && strcmp(f, "model.safetensors") != 0;
}

static int write_ref(const struct hub_repo *r, const char *commit, struct err *e)
{
    struct buf b = BUF_INIT;
    int rc = 0;
    if (!hub_is_commit(r->revision)) {
        buf_printf(&b, "%s/refs/%s", r->dir, r->revision);
        rc = file_mkparents(b.s, e) < 0 ? -1 : file_write_atomic(b.s, commit, HUB_COMMIT_HEX, e);
    }
    buf_release(&b);
    return rc;
}

static int download(const struct hub_repo *r, const struct listing *l, struct err *e)
{
    int rc = 0;
    char *snapshot = hub_snapshot_dir(r, l->commit);
    if (!l->safetensors)
        rc = err_set(
            e, "%s: %s", r->id,
            l->pickle
                ? "its weights are pickle files (pytorch_model.bin), which can run code and are not read: look for a "
                  "revision or a copy with safetensors"
                : "there are no safetensors weights in it");
    for (size_t i = 0; rc == 0 && i < l->n; i++)
        if (!is_spare(l, l->file[i]) && !hub_snapshot_has(snapshot, l->file[i]))
            rc = fetch_file(r, l->commit, l->file[i], e);
    if (rc == 0)
        rc = write_ref(r, l->commit, e);
    free(snapshot);
    return rc;
}

int hub_model(const char *name, char **dir, struct err *e)
{
    struct hub_repo r;
    struct listing l = { "", NULL, 0, false, false };
    struct err why = { "" };
    int rc = hub_model_named(&r, name, dir, e);
    if (rc <= 0)
        return rc;
    if (hub_offline()) {
        rc = hub_from_cache(&r, "HF_HUB_OFFLINE is set, so it is not downloaded", dir, e);
    } else if (read_listing(&r, &l, &why) < 0) {
        /* No network: what was downloaded before still works. A refusal is a refusal. */
        bool network = strstr(why.msg, "no network") != NULL || strstr(why.msg, "imeout") != NULL;
        rc = network ? hub_from_cache(&r, why.msg, dir, e) : err_set(e, "%s", why.msg);
        if (rc == 0)
            log_warn("%s: the hub cannot be reached; using the copy in the cache", r.id);
    } else {
        rc = download(&r, &l, e);
        if (rc == 0)
            *dir = hub_snapshot_dir(&r, l.commit);
    }
    listing_release(&l);
    hub_repo_close(&r);
    return rc;
}

/* ---- rows of a data set ---- */

enum { ROWS_PER_PAGE = 100 };

static int append_rows(struct json doc, FILE *f, const char *path, int64_t *got, int64_t limit, struct err *e)
{
    struct json rows, v, row;
    if (!json_get(doc, "rows", &rows))
        return err_set(e, "%s: the rows server's answer has no rows", path);
    struct json_iter it = json_each(rows);
    while (json_next(&it, NULL, &v) && (limit < 0 || *got < limit)) {
        if (!json_get(v, "row", &row) || json_kind(row) != JSON_OBJECT)
            return err_set(e, "%s: a row of the rows server's answer is no object", path);
        if (fwrite(row.s, 1, row.n, f) != row.n || fputc('\n', f) == EOF)
            return err_errno(e, "%s: cannot write", path);
        ++*got;
    }
    return 0;
}

static int fetch_page(const struct buf *base, int64_t offset, const char *tok, struct buf *body, struct json *doc,
                      struct err *e)
{
    struct buf url = BUF_INIT;
    struct http_answer a;
    buf_printf(&url, "%s&offset=%lld&length=%d", base->s, (long long)offset, ROWS_PER_PAGE);
    buf_reset(body);
    int rc = http_get(url.s, tok, HUB_LISTING_LIMIT, body, &a, e);
    if (rc == 0 && a.status != 200)
        rc = err_set(e, "%s: the rows server answered %ld: %.200s", url.s, a.status, body->s ? body->s : "");
    if (rc == 0 && json_parse(doc, body->s ? body->s : "", body->len, e) < 0)
        rc = err_prefix(e, "%s", url.s);
    buf_release(&url);
    return rc;
}

/* Whole lines of an earlier, cut-off call; what is behind the last newline goes. */
static int64_t rows_so_far(FILE *f)
{
    int64_t rows = 0;
    long at = 0, end = 0;
    int c;
    while ((c = getc(f)) != EOF) {
        at++;
        if (c == '\n') {
            rows++;
            end = at;
        }
    }
    fseek(f, end, SEEK_SET);
    if (ftruncate(fileno(f), end) < 0)
        return -1;
    return rows;
}

int hub_rows(const char *dataset, const char *config, const char *split, int64_t limit, const char *path,
             int64_t *total, struct err *e)
{
    const char *server =
        hub_env("HF_DATASETS_SERVER") ? hub_env("HF_DATASETS_SERVER") : "https://datasets-server.huggingface.co";
    struct buf base = BUF_INIT, body = BUF_INIT;
    char *tok = hub_token();
    if (hub_offline())
        return err_set(e, "%s: not downloaded yet, and HF_HUB_OFFLINE is set (rows can come from a file: --file)",
                       dataset);
    buf_printf(&base, "%s/rows?dataset=", server);
    put_escaped(&base, dataset, "");
    buf_puts(&base, "&config=");
    put_escaped(&base, config, "");
    buf_puts(&base, "&split=");
    put_escaped(&base, split, "");
    FILE *f = fopen(path, file_exists(path) ? "r+e" : "w+e");
    int rc = f ? 0 : err_errno(e, "%s: cannot create", path);
    int64_t got = f ? rows_so_far(f) : 0;
    if (got < 0)
        rc = err_errno(e, "%s: cannot write", path);
    *total = -1;
    while (rc == 0 && (*total < 0 || got < *total) && (limit < 0 || got < limit)) {
        struct json doc, v;
        int64_t before = got;
        rc = fetch_page(&base, got, tok, &body, &doc, e);
        if (rc == 0 && (!json_get(doc, "num_rows_total", &v) || !json_int(v, total)))
            rc = err_set(e, "%s: the rows server's answer has no num_rows_total", dataset);
        if (rc == 0 && before == 0)
            progress_begin(dataset, (uint64_t)*total, "rows");
        if (rc == 0)
            rc = append_rows(doc, f, path, &got, limit, e);
        if (rc == 0 && got == before && got < *total)
            rc = err_set(e, "%s: the rows server ended after %lld of %lld rows", dataset, (long long)got,
                         (long long)*total);
        progress_at((uint64_t)got, NULL);
    }
    progress_end();
    if (f && (fflush(f) != 0 || fsync(fileno(f)) < 0) && rc == 0)
        rc = err_errno(e, "%s: cannot write", path);
    if (f)
        fclose(f);
    free(tok);
    buf_release(&base);
    buf_release(&body);
    return rc;
}
