/* folder.c - see folder.h. */
#include "io/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

static const char run_name[] = "run.json", log_name[] = "metrics.jsonl";

struct folder {
    char *dir, *part;
    bool done;
};

/* ---- lists of files ---- */

/* Everything in dir but run.json, sorted. */
static int list_files(struct file_names *l, const char *dir, struct err *e)
{
    if (file_list(l, dir, e) < 0)
        return -1;
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->v[i], run_name) == 0)
            free(l->v[i]);
        else
            l->v[kept++] = l->v[i];
    l->n = kept;
    return 0;
}

/* The names that count, those of folders in the folder as "adapter/adapter_config.json": all but run.json and
 * metrics.jsonl, which hold clocks. */
static int list_below(struct file_names *l, const char *dir, const char *below, struct err *e)
{
    struct file_names here;
    int rc = list_files(&here, dir, e);
    for (size_t i = 0; rc == 0 && i < here.n; i++) {
        char *path = path_join(dir, here.v[i]);
        struct buf name = BUF_INIT;
        buf_printf(&name, "%s%s", below, here.v[i]);
        if (file_is_dir(path)) {
            buf_putc(&name, '/');
            rc = list_below(l, path, name.s, e);
        } else if (strcmp(here.v[i], log_name) != 0) {
            l->v = xreallocarray(l->v, l->n + 1, sizeof *l->v);
            l->v[l->n++] = xstrdup(name.s);
        }
        buf_release(&name);
        free(path);
    }
    file_names_release(&here);
    return rc;
}

static int list_tree(struct file_names *l, const char *dir, struct err *e)
{
    *l = (struct file_names){ NULL, 0 };
    if (list_below(l, dir, "", e) < 0) {
        file_names_release(l);
        return -1;
    }
    return 0;
}

static int remove_tree(const char *dir, struct err *e)
{
    struct file_names l;
    int rc = 0;
    if (list_files(&l, dir, e) < 0)
        return -1;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        char *path = path_join(dir, l.v[i]);
        if (file_is_dir(path))
            rc = remove_tree(path, e);
        else if (unlink(path) < 0)
            rc = err_errno(e, "%s: cannot remove", path);
        free(path);
    }
    char *run = path_join(dir, run_name);
    unlink(run);
    free(run);
    file_names_release(&l);
    if (rc == 0 && rmdir(dir) < 0)
        rc = err_errno(e, "%s: cannot remove", dir);
    return rc;
}

/* ---- making ---- */

static char *beside(const char *dir, const char *end)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s%s", dir, end);
    return buf_take(&b);
}

/* "out/model/" and "out/model" are one folder. */
static char *without_slash(const char *dir)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    return xstrndup(dir, n);
}

static int check_place(const char *dir, struct err *e)
{
    struct file_names l;
    char *run = path_join(dir, run_name);
    bool artefact = file_exists(run);
    free(run);
    if (!file_exists(dir) || artefact)
        return 0;
    if (!file_is_dir(dir))
        return err_set(e, "%s: is there and is no folder", dir);
    if (list_files(&l, dir, e) < 0)
        return -1;
    int rc = l.n ? err_set(e, "%s: is there and has no %s: it is not replaced", dir, run_name) : 0;
    file_names_release(&l);
    return rc;
}

int folder_open(struct folder **out, const char *dir, struct err *e)
{
    *out = NULL;
    struct folder *f = xcalloc(1, sizeof *f);
    f->dir = without_slash(dir);
    f->part = beside(f->dir, ".part");
    if (check_place(f->dir, e) < 0 || file_mkparents(f->dir, e) < 0 ||
        (file_is_dir(f->part) && remove_tree(f->part, e) < 0)) {
        f->done = true;
        folder_close(f);
        return -1;
    }
    if (mkdir(f->part, 0777) < 0) {
        err_errno(e, "%s: cannot make the folder", f->part);
        f->done = true;
        folder_close(f);
        return -1;
    }
    *out = f;
    return 0;
}

const char *folder_path(const struct folder *f)
{
    return f->part;
}

void folder_close(struct folder *f)
{
    if (!f)
        return;
    if (!f->done)
        remove_tree(f->part, NULL);
    free(f->dir);
    free(f->part);
    free(f);
}

static int sync_path(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0 ? err_errno(e, "%s: cannot write", path) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Hashes of all files: as lines, as members of a JSON object, and their bytes in all. */
static int describe(const char *dir, struct buf *lines, struct buf *json, int64_t *bytes, struct err *e)
{
    struct file_names l;
    int rc = 0;
    if (list_tree(&l, dir, e) < 0)
        return -1;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        char *path = path_join(dir, l.v[i]), hex[HASH_HEX];
        struct hash128 h;
        struct stat st;
        if (stat(path, &st) < 0 || sync_path(path, e) < 0 || hash_file_fresh(path, false, &h, e) < 0) {
            rc = -1;
        } else {
            hash_hex(h, hex);
            hash_remember(path, false, h); /* by inode: known under the folder's final name too */
            *bytes += st.st_size;
            buf_printf(lines, "%s %s\n", l.v[i], hex);
            buf_puts(json, i ? ", " : "");
            json_put_cstr(json, l.v[i]);
            buf_printf(json, ": \"%s\"", hex);
        }
        free(path);
    }
    file_names_release(&l);
    return rc;
}

int folder_describe(const char *dir, struct manifest *m, struct err *e)
{
    struct buf lines = BUF_INIT, files = BUF_INIT, counts = BUF_INIT, text = BUF_INIT;
    int64_t bytes = 0;
    int rc = describe(dir, &lines, &files, &bytes, e);
    if (rc == 0) {
        buf_printf(&counts, "{\"files\": {%s}", files.s ? files.s : "");
        if (m->counts && *m->counts)
            buf_printf(&counts, ", %s", m->counts);
        buf_putc(&counts, '}');
        free(m->counts);
        m->counts = buf_take(&counts);
        m->bytes = bytes;
        m->records = 0;
        hash_hex(hash_bytes(lines.s ? lines.s : "", lines.len), m->output);
        hash_hex(manifest_key(m, true), m->key);
        manifest_write(m, &text);
        char *path = path_join(dir, run_name);
        rc = file_write_atomic(path, text.s, text.len, e);
        free(path);
    }
    buf_release(&lines);
    buf_release(&files);
    buf_release(&counts);
    buf_release(&text);
    return rc;
}

/* ---- asking ---- */

static int read_run(struct manifest *m, const char *dir, struct err *e)
{
    char *path = path_join(dir, run_name);
    int rc = manifest_read(m, path, e);
    free(path);
    return rc;
}

static bool files_of(const struct manifest *m, struct json *files)
{
    struct json all;
    const char *text = m->counts ? m->counts : "{}";
    return json_parse(&all, text, strlen(text), NULL) == 0 && json_get(all, "files", files) &&
           json_kind(*files) == JSON_OBJECT;
}

/* read: hashes that are remembered from before are not believed (memo as folder_check has it). */
static int check_file(const char *dir, const char *name, struct json want, bool read, struct hash_memo *memo,
                      struct buf *problems)
{
    struct err e = { "" };
    struct hash128 h;
    char hex[HASH_HEX], *path = path_join(dir, name);
    int bad = 0;
    if (!file_exists(path)) {
        buf_printf(problems, "%s: is missing, %s/%s has it\n", path, dir, run_name);
        bad = 1;
    } else if ((read ? hash_file_once(memo, path, &h, &e) : hash_file(path, false, &h, &e)) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        bad = 1;
    } else {
        hash_hex(h, hex);
        if (!json_str_is(want, hex)) {
            int quote = json_kind(want) == JSON_STRING;
            buf_printf(problems, "%s: its hash is %s, %s/%s says %.*s: it was changed after it was made\n", path, hex,
                       dir, run_name, (int)want.n - 2 * quote, want.s + quote);
            bad = 1;
        }
    }
    free(path);
    return bad;
}

/* Is name in a folder of which nothing is listed? */
static bool in_foreign_folder(const char *name, struct json files)
{
    const char *slash = strchr(name, '/');
    struct json_iter it = json_each(files);
    struct json key, value;
    bool foreign = slash != NULL;
    while (foreign && json_next(&it, &key, &value)) {
        char *listed = json_str_dup(key);
        foreign = strncmp(listed, name, (size_t)(slash - name) + 1) != 0;
        free(listed);
    }
    return foreign;
}

static int check_strangers(const char *dir, struct json files, struct buf *problems)
{
    struct file_names l;
    struct err e = { "" };
    struct json v;
    int bad = 0;
    if (list_tree(&l, dir, &e) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        return 1;
    }
    for (size_t i = 0; i < l.n; i++)
        if (!json_get(files, l.v[i], &v) && !in_foreign_folder(l.v[i], files)) {
            buf_printf(problems, "%s/%s: %s does not know it\n", dir, l.v[i], run_name);
            bad++;
        }
    file_names_release(&l);
    return bad;
}

static int check(const char *dir, bool read, struct hash_memo *memo, struct buf *problems)
{
    struct err e = { "" };
    struct manifest m;
    struct json files, key, want;
    char hex[HASH_HEX];
    int bad = 0;
    if (read_run(&m, dir, &e) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        return 1;
    }
    hash_hex(manifest_key(&m, true), hex);
    if (strcmp(hex, m.key) != 0) {
        buf_printf(problems, "%s/%s: options, inputs or models give key %s, it says %s\n", dir, run_name, hex, m.key);
        bad++;
    }
    if (!files_of(&m, &files)) {
        buf_printf(problems, "%s/%s: it lists no files\n", dir, run_name);
        bad++;
    } else {
        struct json_iter it = json_each(files);
        while (json_next(&it, &key, &want)) {
            char *name = json_str_dup(key);
            bad += check_file(dir, name, want, read, memo, problems);
            free(name);
        }
        bad += check_strangers(dir, files, problems);
    }
    manifest_release(&m);
    return bad;
}

int folder_check(const char *dir, struct hash_memo *memo, struct buf *problems)
{
    return check(dir, true, memo, problems);
}

bool folder_is_current(const char *dir, const char *key)
{
    struct err e = { "" };
    struct manifest m;
    struct buf problems = BUF_INIT;
    bool current = false;
    if (file_is_dir(dir) && read_run(&m, dir, &e) == 0) {
        current = strcmp(m.key, key) == 0 && check(dir, false, NULL, &problems) == 0;
        manifest_release(&m);
    }
    buf_release(&problems);
    return current;
}

/* ---- putting in place ---- */

/* Results that lie in the old folder and are not its own move to the new one. */
static int keep_foreign(const char *old, const char *dir, struct err *e)
{
    struct manifest m;
    struct json files;
    struct file_names l;
    struct err ignore;
    int rc = 0;
    if (read_run(&m, old, &ignore) < 0)
        return 0;
    if (files_of(&m, &files) && (rc = list_files(&l, old, e)) == 0) {
        for (size_t i = 0; i < l.n && rc == 0; i++) {
            char *from = path_join(old, l.v[i]), *to = path_join(dir, l.v[i]);
            struct buf inside = BUF_INIT;
            buf_printf(&inside, "%s/", l.v[i]);
            if (file_is_dir(from) && in_foreign_folder(inside.s, files) && !file_exists(to) && rename(from, to) < 0)
                rc = err_errno(e, "%s: cannot move into the new folder", from);
            buf_release(&inside);
            free(from);
            free(to);
        }
        file_names_release(&l);
    }
    manifest_release(&m);
    return rc;
}

/* part becomes dir; a folder that was there goes. */
static int put_in_place(const char *part, const char *dir, struct err *e)
{
    char *old = beside(dir, ".old");
    int rc = 0;
    bool there = file_exists(dir);
    if (there && file_is_dir(old))
        rc = remove_tree(old, e);
    if (rc == 0 && there && rename(dir, old) < 0)
        rc = err_errno(e, "%s: cannot replace", dir);
    if (rc == 0 && rename(part, dir) < 0) {
        rc = err_errno(e, "%s: cannot make the folder", dir);
        if (there)
            rename(old, dir);
    }
    if (rc == 0 && there && (rc = keep_foreign(old, dir, e)) == 0)
        remove_tree(old, NULL);
    free(old);
    return rc;
}

/* ---- the store ---- */

/* Links in to for what run.json lists of from (all of it lies under `below`), and for every run.json and log there. */
static int link_below(const char *from, const char *to, const char *below, struct json files, struct err *e)
{
    struct file_names l;
    struct json v;
    if (file_mkdirs(to, e) < 0 || list_files(&l, from, e) < 0)
        return -1;
    l.v = xreallocarray(l.v, l.n + 1, sizeof *l.v);
    l.v[l.n++] = xstrdup(run_name);
    int rc = 0;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        char *a = path_join(from, l.v[i]), *b = path_join(to, l.v[i]);
        bool unlisted = i + 1 == l.n || strcmp(l.v[i], log_name) == 0;
        struct buf name = BUF_INIT;
        buf_printf(&name, "%s%s%s", below, l.v[i], file_is_dir(a) ? "/" : "");
        if (file_is_dir(a))
            rc = in_foreign_folder(name.s, files) ? 0 : link_below(a, b, name.s, files, e);
        else if (unlisted ? file_exists(a) : json_get(files, name.s, &v))
            rc = file_link_over(a, b, e);
        buf_release(&name);
        free(a);
        free(b);
    }
    file_names_release(&l);
    return rc;
}

static int link_tree(const char *from, const char *to, struct err *e)
{
    struct json files;
    struct manifest m;
    int rc = read_run(&m, from, e);
    if (rc < 0)
        return rc;
    if (!files_of(&m, &files))
        rc = err_set(e, "%s/%s: it lists no files", from, run_name);
    else if (file_is_dir(to))
        rc = remove_tree(to, e);
    if (rc == 0)
        rc = link_below(from, to, "", files, e);
    manifest_release(&m);
    return rc;
}

static void make_read_only(const char *dir)
{
    struct file_names l;
    if (list_tree(&l, dir, NULL) < 0)
        return;
    for (size_t i = 0; i < l.n; i++) {
        char *path = path_join(dir, l.v[i]);
        chmod(path, 0444);
        free(path);
    }
    file_names_release(&l);
}

/* A store that cannot be written costs a warning, not the result. */
static void put_into_store(const char *dir, const char *key)
{
    struct err why = { "" };
    char *place = store_path(key, "");
    if (!place)
        return;
    char *part = beside(place, ".part");
    make_read_only(dir);
    if (link_tree(dir, part, &why) < 0 || put_in_place(part, place, &why) < 0)
        log_warn("%s (the result is not in the store)", why.msg);
    free(part);
    free(place);
}

int folder_commit(struct folder *f, struct manifest *m, struct err *e)
{
    if (folder_describe(f->part, m, e) < 0 || sync_path(f->part, e) < 0 || put_in_place(f->part, f->dir, e) < 0)
        return -1;
    f->done = true;
    put_into_store(f->dir, m->key);
    return 0;
}

const char *folder_state(const char *dir, const char *key)
{
    if (folder_is_current(dir, key))
        return "up-to-date";
    char *stored = store_path(key, "");
    bool has = stored && folder_is_current(stored, key);
    free(stored);
    return has ? "store" : "run";
}

int folder_take(const char *dir, const char *key, struct err *e)
{
    const char *state = folder_state(dir, key);
    if (strcmp(state, "up-to-date") == 0) {
        log_info("%s is up to date", dir);
        return 1;
    }
    char *stored = store_path(key, ""), *place = without_slash(dir), *part = beside(place, ".part");
    int rc = check_place(place, e);
    if (rc == 0 && strcmp(state, "store") == 0)
        rc =
            file_mkparents(place, e) < 0 || link_tree(stored, part, e) < 0 || put_in_place(part, place, e) < 0 ? -1 : 1;
    if (rc == 1)
        log_info("%s taken from the store", dir);
    free(stored);
    free(place);
    free(part);
    return rc;
}
