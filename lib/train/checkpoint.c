/* checkpoint.c - see checkpoint.h. */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/safetensors.h"

static char *file_of(const struct checkpoint *c, const char *kind, int64_t step)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s/%s-%lld.safetensors", c->dir, kind, (long long)step);
    return buf_take(&b);
}

char *checkpoint_metrics_path(const struct checkpoint *c)
{
    return path_join(c->dir, "metrics.jsonl");
}

/* Files of steps that state.json does not name, and halves of files that were being written. */
static void remove_others(const struct checkpoint *c, bool all)
{
    char step[64], best[64];
    snprintf(step, sizeof step, "step-%lld.safetensors", (long long)c->step);
    snprintf(best, sizeof best, "best-%lld.safetensors", (long long)c->best_step);
    DIR *d = opendir(c->dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        bool saved = strncmp(f->d_name, "step-", 5) == 0 || strncmp(f->d_name, "best-", 5) == 0;
        bool named = strcmp(f->d_name, step) == 0 || strcmp(f->d_name, best) == 0;
        if (f->d_name[0] != '.' && (all || (saved && !named)))
            unlinkat(dirfd(d), f->d_name, 0);
    }
    if (d)
        closedir(d);
}

/* ---- opening ---- */

static int take_lock(struct checkpoint *c, struct err *e)
{
    char *path = path_join(c->dir, "lock");
    c->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int rc = c->lock < 0 ? err_errno(e, "%s: cannot create", path) : 0;
    if (rc == 0 && flock(c->lock, LOCK_EX | LOCK_NB) < 0) {
        char who[32] = "";
        ssize_t n = pread(c->lock, who, sizeof who - 1, 0);
        rc = err_set(e, "%s: another run is at it (process %.*s)", c->dir, (int)strcspn(who, "\n"), n > 0 ? who : "?");
    }
    if (rc == 0 && (ftruncate(c->lock, 0) < 0 || dprintf(c->lock, "%ld\n", (long)getpid()) < 0))
        rc = err_errno(e, "%s: cannot write", path);
    free(path);
    return rc;
}

static bool number_of(struct json doc, const char *key, int64_t *out)
{
    struct json v;
    return json_get(doc, key, &v) && json_int(v, out);
}

/* *metrics: bytes of the log that belong to the checkpoint. */
static int read_state(struct checkpoint *c, int64_t *metrics, struct err *e)
{
    struct buf b = BUF_INIT;
    struct json doc, v;
    char *path = path_join(c->dir, "state.json");
    int rc = 0;
    if (file_exists(path)) {
        rc = file_read(&b, path, 1 << 20, e);
        if (rc == 0 && json_parse(&doc, b.s ? b.s : "", b.len, e) < 0)
            rc = err_prefix(e, "%s", path);
        else if (rc == 0 && (!number_of(doc, "step", &c->step) || !number_of(doc, "best_step", &c->best_step) ||
                             !number_of(doc, "tokens", &c->tokens) || !number_of(doc, "metrics", metrics) ||
                             !json_get(doc, "best_loss", &v) || !json_double(v, &c->best_loss) ||
                             !json_get(doc, "loss", &v) || !json_double(v, &c->loss)))
            rc = err_set(e, "%s: step, best_step, best_loss, loss, tokens and metrics must be numbers", path);
    }
    free(path);
    buf_release(&b);
    return rc;
}

static int open_metrics(struct checkpoint *c, int64_t bytes, struct err *e)
{
    char *path = checkpoint_metrics_path(c);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    int rc = 0;
    if (fd < 0 || ftruncate(fd, bytes) < 0 || lseek(fd, bytes, SEEK_SET) < 0 || !(c->metrics = fdopen(fd, "w"))) {
        rc = err_errno(e, "%s: cannot write", path);
        if (fd >= 0)
            close(fd);
    }
    free(path);
    return rc;
}

int checkpoint_open(struct checkpoint **out, const char *dir, struct err *e)
{
    struct checkpoint *c = xcalloc(1, sizeof *c);
    int64_t metrics = 0;
    *out = NULL;
    c->dir = xstrdup(dir);
    c->lock = -1;
    c->best_loss = INFINITY;
    if (file_mkdirs(dir, e) < 0 || take_lock(c, e) < 0 || read_state(c, &metrics, e) < 0 ||
        open_metrics(c, metrics, e) < 0) {
        checkpoint_close(c, false);
        return -1;
    }
    remove_others(c, false);
    *out = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c, bool remove)
{
    if (!c)
        return;
    if (c->metrics)
        fclose(c->metrics);
    if (remove) {
        remove_others(c, true);
        rmdir(c->dir);
    }
    if (c->lock >= 0)
        close(c->lock);
    free(c->dir);
    free(c);
}

/* ---- tensors: "I.value", "I.m", "I.v" of parameter I ---- */

static const char *const kinds[] = { "value", "m", "v" };

static struct tensor *tensor_of(const struct optimizer *o, size_t i, int kind)
{
    return kind == 0 ? trainable_param(o->t, i)->value : kind == 1 ? o->part[i].m : o->part[i].v;
}

static int write_tensors(const struct optimizer *o, const char *path, int nkinds, struct err *e)
{
    size_t n = trainable_params(o->t) * (size_t)nkinds;
    struct st_entry *entry = xcalloc(n + 1, sizeof *entry);
    char(*name)[32] = xcalloc(n + 1, sizeof *name);
    struct st_writer *w = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct param *p = trainable_param(o->t, i / (size_t)nkinds);
        snprintf(name[i], sizeof name[i], "%zu.%s", i / (size_t)nkinds, kinds[i % (size_t)nkinds]);
        entry[i] = (struct st_entry){ .name = name[i], .dtype = ST_F32, .rank = 2, .shape = { p->rows, p->cols } };
    }
    int rc = st_writer_open(&w, path, entry, n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        size_t count = (size_t)(entry[i].shape[0] * entry[i].shape[1]);
        float *v = xreallocarray(NULL, count + 1, sizeof *v);
        rc = o->d->tensor_read(o->d, tensor_of(o, i / (size_t)nkinds, (int)(i % (size_t)nkinds)), 0, v, count, e);
        if (rc == 0)
            rc = st_writer_put(w, i, v, count * sizeof *v, e);
        free(v);
    }
    if (rc == 0)
        rc = st_writer_commit(w, e);
    st_writer_close(w);
    free(entry);
    free(name);
    return rc;
}

static int read_tensors(struct optimizer *o, const char *path, int64_t step, int nkinds, struct err *e)
{
    struct safetensors *st = NULL;
    int rc = safetensors_open(&st, path, e);
    for (size_t i = 0; rc == 0 && i < trainable_params(o->t) * (size_t)nkinds; i++) {
        const struct param *p = trainable_param(o->t, i / (size_t)nkinds);
        char name[32];
        snprintf(name, sizeof name, "%zu.%s", i / (size_t)nkinds, kinds[i % (size_t)nkinds]);
        const struct st_tensor *t = safetensors_find(st, name);
        if (!t || t->dtype != ST_F32 || t->rank != 2 || t->shape[0] != p->rows || t->shape[1] != p->cols) {
            rc = err_set(e, "%s: tensor %s must be there as F32 [%lld, %lld]", path, name, (long long)p->rows,
                         (long long)p->cols);
            break;
        }
        o->d->tensor_write(o->d, tensor_of(o, i / (size_t)nkinds, (int)(i % (size_t)nkinds)), 0, t->data,
                           (size_t)t->elements);
    }
    if (rc == 0)
        rc = o->d->sync(o->d, e);
    safetensors_close(st);
    if (rc == 0)
        trainable_refresh(o->t, step);
    return rc;
}

int checkpoint_load(struct checkpoint *c, struct optimizer *o, struct err *e)
{
    if (c->step == 0)
        return 0;
    char *path = file_of(c, "step", c->step);
    int rc = read_tensors(o, path, c->step, 3, e);
    free(path);
    return rc;
}

int checkpoint_load_best(struct checkpoint *c, struct optimizer *o, struct err *e)
{
    if (c->best_step == 0)
        return 0;
    char *path = file_of(c, "best", c->best_step);
    int rc = read_tensors(o, path, c->best_step, 1, e);
    free(path);
    return rc;
}

/* ---- saving ---- */

static int write_state(const struct checkpoint *c, struct err *e)
{
    struct buf b = BUF_INIT;
    char *path = path_join(c->dir, "state.json");
    if (fflush(c->metrics) != 0 || fsync(fileno(c->metrics)) < 0) {
        free(path);
        return err_errno(e, "%s/metrics.jsonl: cannot write", c->dir);
    }
    buf_printf(&b, "{\"step\": %lld, \"best_step\": %lld, \"best_loss\": ", (long long)c->step,
               (long long)c->best_step);
    json_put_double(&b, c->best_loss);
    buf_puts(&b, ", \"loss\": ");
    json_put_double(&b, c->loss);
    buf_printf(&b, ", \"tokens\": %lld, \"metrics\": %ld}\n", (long long)c->tokens, ftell(c->metrics));
    int rc = file_write_atomic(path, b.s, b.len, e);
    free(path);
    buf_release(&b);
    return rc;
}

int checkpoint_save(struct checkpoint *c, struct optimizer *o, int64_t step, bool best, double loss, struct err *e)
{
    char *state = file_of(c, "step", step), *values = file_of(c, "best", step);
    int rc = write_tensors(o, state, 3, e);
    if (rc == 0 && best)
        rc = write_tensors(o, values, 1, e);
    if (rc == 0) {
        c->step = step;
        if (best) {
            c->best_step = step;
            c->best_loss = loss;
        }
        rc = write_state(c, e);
    }
    if (rc == 0)
        remove_others(c, false);
    free(state);
    free(values);
    return rc;
}
