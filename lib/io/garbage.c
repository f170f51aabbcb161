/* garbage.c - see garbage.h. */
#include "io/garbage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/manifest.h"

/* One manifest, and what it speaks of. */
struct entry {
    struct manifest m;
    char *manifest, *thing; /* thing: file or folder; NULL: an entry of the run log */
    char model[HASH_HEX];   /* fingerprint, of model folders; "" */
    bool result, readable, needed;
};

struct walk {
    struct garbage *g;
    struct entry *entry;
    size_t n, cap;
    size_t *todo; /* needed, and their inputs not looked at yet */
    size_t ntodo;
    struct entry **by_output, **by_key, **by_model; /* [n] sorted */
};

/* ---- names ---- */

/* Hexadecimal digits at the start of s. */
static size_t digits(const char *s)
{
    return strspn(s, "0123456789abcdef");
}

/* "KEY" or "KEY.zst", in front of `end`. */
static bool is_store_name(const char *name, const char *end)
{
    size_t n = digits(name);
    return n == HASH_HEX - 1 &&
           (strcmp(name + n, end) == 0 || (strncmp(name + n, ".zst", 4) == 0 && strcmp(name + n + 4, end) == 0));
}

static bool is_run_name(const char *name)
{
    size_t n = digits(name);
    return n == HASH_HEX - 1 && name[n] == '.' && digits(name + n + 1) == HASH_HEX - 1 &&
           strcmp(name + 2 * HASH_HEX - 1, ".json") == 0;
}

static bool same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return b && *b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool is_folder_of(const char *dir, const char *name, const char *variable)
{
    size_t n = strlen(dir), m = strlen(name);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    return (n >= m && strncmp(dir + n - m, name, m) == 0 && (n == m || dir[n - m - 1] == '/')) ||
           same_folder(dir, getenv(variable));
}

/* FILE of "FILE.XXX.end" where XXX are `n` digits (0: any number, decimal); NULL if the name is another. Caller frees.
 */
static char *owner_of(const char *path, size_t n, const char *end)
{
    size_t len = strlen(path), tail = strlen(end);
    if (!path_ends_with(path, end))
        return NULL;
    size_t at = len - tail, k = 0;
    while (at > 0 && path[at - 1] != '.' && path[at - 1] != '/') {
        at--;
        k++;
    }
    if (at == 0 || path[at - 1] != '.' || k == 0 ||
        (n ? k != n || digits(path + at) < k : strspn(path + at, "0123456789") < k))
        return NULL;
    return xstrndup(path, at - 1);
}

/* ---- items ---- */

static void add_item(struct walk *w, const char *path, const char *what)
{
    struct garbage *g = w->g;
    struct stat st;
    if (lstat(path, &st) < 0)
        return;
    g->item = xreallocarray(g->item, g->n + 1, sizeof *g->item);
    int64_t bytes = st.st_nlink > 1 ? 0 : (int64_t)st.st_size;
    g->item[g->n++] = (struct garbage_item){ xstrdup(path), what, bytes };
    g->bytes += bytes;
}

/* Every file below. */
static void add_tree(struct walk *w, const char *dir, const char *what)
{
    struct file_names list;
    struct err ignore;
    if (file_list(&list, dir, &ignore) < 0)
        return;
    for (size_t i = 0; i < list.n; i++) {
        char *path = path_join(dir, list.v[i]);
        struct stat st;
        if (lstat(path, &st) == 0) {
            if (S_ISDIR(st.st_mode))
                add_tree(w, path, what);
            else
                add_item(w, path, what);
        }
        free(path);
    }
    file_names_release(&list);
}

/* ---- what killed runs left ---- */

static bool is_locked(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool locked = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return locked;
}

/* Was a written when b was there already? */
static bool newer(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 &&
           (x.st_mtim.tv_sec != y.st_mtim.tv_sec ? x.st_mtim.tv_sec > y.st_mtim.tv_sec
                                                 : x.st_mtim.tv_nsec >= y.st_mtim.tv_nsec);
}

static bool take_left_file(struct walk *w, const char *path)
{
    static const char *const ends[] = { ".part", ".link" };
    char *owner;
    for (int i = 0; i < 2; i++)
        if ((owner = owner_of(path, 0, ends[i]))) {
            if (!process_lives(strtol(path + strlen(owner) + 1, NULL, 10)))
                add_item(w, path, "part");
            free(owner);
            return true;
        }
    if (!(owner = owner_of(path, 16, ".journal")))
        return false;
    /* a journal that is younger than its file belongs to a run that would go on */
    char *manifest = manifest_path(owner);
    if (newer(manifest, path) && !is_locked(path))
        add_item(w, path, "journal");
    free(manifest);
    free(owner);
    return true;
}

static bool take_left_folder(struct walk *w, const char *path)
{
    char *owner = owner_of(path, 16, ".checkpoint");
    if (owner) {
        char *run = path_join(owner, "run.json"), *state = path_join(path, "state.json"),
             *lock = path_join(path, "lock");
        if (!is_locked(lock) && (newer(run, state) || (file_exists(run) && !file_exists(state))))
            add_tree(w, path, "checkpoint");
        free(run);
        free(state);
        free(lock);
        free(owner);
        return true;
    }
    if (!path_ends_with(path, ".part"))
        return false;
    add_tree(w, path, "part");
    return true;
}

/* ---- manifests ---- */

static int add_entry(struct walk *w, const char *manifest, const char *thing, bool result, struct err *e)
{
    struct entry x = { .result = result };
    struct json counts, v;
    x.readable = manifest_read(&x.m, manifest, e) == 0;
    if (!x.readable && result)
        return -1;
    if (x.readable && json_parse(&counts, x.m.counts, strlen(x.m.counts), NULL) == 0 &&
        json_get(counts, "fingerprint", &v) && json_str_plain(v) && v.n == HASH_HEX + 1)
        memcpy(x.model, v.s + 1, HASH_HEX - 1);
    x.manifest = xstrdup(manifest);
    x.thing = thing ? xstrdup(thing) : NULL;
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 256;
        w->entry = xreallocarray(w->entry, w->cap, sizeof *w->entry);
    }
    w->entry[w->n++] = x;
    return 0;
}

static int add_folder_entry(struct walk *w, const char *dir, bool result, struct err *e)
{
    char *run = path_join(dir, "run.json");
    int rc = file_exists(run) ? add_entry(w, run, dir, result, e) : 0;
    free(run);
    return rc;
}

/* A file of the store, where it has no manifest, is of use to nobody. */
static int add_stored(struct walk *w, const char *path, const char *name, struct err *e)
{
    char *manifest = manifest_path(path);
    int rc = 0;
    if (is_store_name(name, "") && file_exists(manifest))
        rc = add_entry(w, manifest, path, false, e);
    else if (is_store_name(name, ""))
        add_item(w, path, "store entry");
    free(manifest);
    return rc;
}

static int look_at_file(struct walk *w, const char *dir, const char *path, const char *name, struct err *e)
{
    if (take_left_file(w, path))
        return 0;
    if (is_folder_of(dir, "store", "LATENT_STORE"))
        return add_stored(w, path, name, e);
    if (is_folder_of(dir, "runs", "LATENT_RUNS") && is_run_name(name))
        return add_entry(w, path, NULL, false, e);
    if (!path_ends_with(name, ".run.json") || strlen(name) == 9)
        return 0;
    char *file = xstrndup(path, strlen(path) - 9);
    int rc = file_exists(file) ? add_entry(w, path, file, true, e) : 0;
    free(file);
    return rc;
}

static int look_below(struct walk *w, const char *dir, struct err *e)
{
    struct file_names list;
    int rc = 0;
    if (file_list(&list, dir, e) < 0)
        return -1;
    bool store = is_folder_of(dir, "store", "LATENT_STORE");
    for (size_t i = 0; i < list.n && rc == 0; i++) {
        const char *name = list.v[i];
        char *path = path_join(dir, name);
        struct stat st;
        if (lstat(path, &st) == 0) {
            if (!S_ISDIR(st.st_mode))
                rc = look_at_file(w, dir, path, name, e);
            else if (store && is_store_name(name, ""))
                rc = add_folder_entry(w, path, false, e);
            else if (!take_left_folder(w, path))
                rc = add_folder_entry(w, path, true, e) < 0 ? -1 : look_below(w, path, e);
        }
        free(path);
    }
    file_names_release(&list);
    return rc;
}

/* ---- who is needed ---- */

static int by_output(const void *a, const void *b)
{
    return strcmp((*(struct entry *const *)a)->m.output, (*(struct entry *const *)b)->m.output);
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(struct entry *const *)a)->m.key, (*(struct entry *const *)b)->m.key);
}

static int by_model(const void *a, const void *b)
{
    return strcmp((*(struct entry *const *)a)->model, (*(struct entry *const *)b)->model);
}

static struct entry **sorted(struct walk *w, int (*order)(const void *, const void *))
{
    struct entry **list = xcalloc(w->n + 1, sizeof(struct entry *));
    for (size_t i = 0; i < w->n; i++)
        list[i] = &w->entry[i];
    if (w->n)
        qsort(list, w->n, sizeof(struct entry *), order);
    return list;
}

static void need(struct walk *w, struct entry *x)
{
    if (x->needed || !x->readable)
        return;
    x->needed = true;
    w->todo[w->ntodo++] = (size_t)(x - w->entry);
}

/* All entries that compare equal to `like`. */
static void need_all(struct walk *w, struct entry **list, const struct entry *like,
                     int (*order)(const void *, const void *))
{
    size_t lo = 0, hi = w->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (order(&list[mid], &like) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < w->n && order(&list[lo], &like) == 0; lo++)
        need(w, list[lo]);
}

static void find_needed(struct walk *w)
{
    w->by_output = sorted(w, by_output);
    w->by_key = sorted(w, by_key);
    w->by_model = sorted(w, by_model);
    w->todo = xcalloc(w->n + 1, sizeof *w->todo);
    for (size_t i = 0; i < w->n; i++)
        if (w->entry[i].result)
            need(w, &w->entry[i]);
    while (w->ntodo) {
        const struct entry *x = &w->entry[w->todo[--w->ntodo]];
        struct entry like = { .needed = false };
        if (x->thing) /* its copy in the store is another name of it */
            need_all(w, w->by_key, x, by_key);
        for (int i = 0; i < x->m.ninputs; i++) {
            memcpy(like.m.output, x->m.input[i].hash, HASH_HEX);
            need_all(w, w->by_output, &like, by_output);
        }
        for (int i = 0; i < x->m.nmodels; i++) {
            memcpy(like.model, x->m.model[i].hash, HASH_HEX);
            need_all(w, w->by_model, &like, by_model);
        }
    }
}

static void list_unneeded(struct walk *w)
{
    for (size_t i = 0; i < w->n; i++) {
        const struct entry *x = &w->entry[i];
        if (x->needed)
            continue;
        if (!x->thing) {
            add_item(w, x->manifest, "run");
        } else if (file_is_dir(x->thing)) {
            add_tree(w, x->thing, "store entry");
        } else {
            add_item(w, x->thing, "store entry");
            add_item(w, x->manifest, "store entry");
        }
    }
}

int garbage_find(struct garbage *g, const char *const *dirs, size_t n, struct err *e)
{
    struct walk w = { .g = g };
    int rc = 0;
    *g = (struct garbage){ NULL, 0, 0 };
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = look_below(&w, dirs[i], e);
    if (rc == 0) {
        find_needed(&w);
        list_unneeded(&w);
    }
    for (size_t i = 0; i < w.n; i++) {
        manifest_release(&w.entry[i].m);
        free(w.entry[i].manifest);
        free(w.entry[i].thing);
    }
    free(w.entry);
    free(w.todo);
    free(w.by_output);
    free(w.by_key);
    free(w.by_model);
    return rc;
}

void garbage_release(struct garbage *g)
{
    for (size_t i = 0; i < g->n; i++)
        free(g->item[i].path);
    free(g->item);
    *g = (struct garbage){ NULL, 0, 0 };
}
