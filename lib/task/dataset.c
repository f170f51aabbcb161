/* dataset.c - see dataset.h. */
#include "task/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/hash.h"
#include "io/hub.h"
#include "io/record.h"
#include "task/question.h"

static char *text_member(struct json doc, const char *key)
{
    struct json v;
    return json_get(doc, key, &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : xstrdup("");
}

static int read_recipe(const char *name, struct buf *text, struct json *doc, struct err *e)
{
    struct buf file = BUF_INIT;
    buf_printf(&file, "datasets/%s.json", name);
    char *path = path_of_data(file.s);
    int rc = strchr(name, '/') || !file_exists(path)
                 ? err_set(e, "%s: no such question set (dataset --list shows them)", name)
                 : file_read(text, path, 1 << 20, e);
    if (rc == 0 && json_parse(doc, text->s, text->len, e) < 0)
        rc = err_prefix(e, "%s", path);
    free(path);
    buf_release(&file);
    return rc;
}

static int read_split(struct dataset *d, struct json doc, struct err *e)
{
    struct json splits = { NULL, 0 }, split, key, v;
    json_get(doc, "splits", &splits);
    if (!d->split) { /* nobody asked for one: train, or what there is */
        struct json_iter it = json_each(splits);
        d->split = json_get(splits, "train", &v) || !json_next(&it, &key, &v) ? xstrdup("train") : json_str_dup(key);
    }
    if (!json_get(splits, d->split, &split)) {
        struct buf list = BUF_INIT;
        struct json_iter it = json_each(splits);
        while (json_next(&it, &key, &v)) {
            buf_puts(&list, list.len ? ", " : "");
            json_str(key, &list);
        }
        err_set(e, "%s: no split %s (%s)", d->name, d->split, list.s ? list.s : "none");
        buf_release(&list);
        return -1;
    }
    if (json_get(split, "rows", &v))
        json_int(v, &d->rows);
    if (json_get(split, "hash", &v) && json_kind(v) == JSON_STRING) {
        char *h = json_str_dup(v);
        snprintf(d->hash, sizeof d->hash, "%s", h);
        free(h);
    }
    return 0;
}

int dataset_open(struct dataset *d, const char *name, const char *split, const char *config, struct err *e)
{
    struct buf text = BUF_INIT;
    struct json doc;
    *d = (struct dataset){ .rows = -1 };
    int rc = read_recipe(name, &text, &doc, e);
    if (rc == 0) {
        d->name = xstrdup(name);
        d->split = split ? xstrdup(split) : NULL;
        d->id = text_member(doc, "dataset");
        d->config = text_member(doc, "config");
        d->benchmark = text_member(doc, "benchmark");
        d->about = text_member(doc, "about");
        rc = read_split(d, doc, e);
    }
    if (rc == 0 && config && strcmp(config, d->config) != 0) {
        free(d->config);
        d->config = xstrdup(config);
        d->rows = -1; /* the recipe counts its own configuration */
        d->hash[0] = '\0';
    }
    if (rc < 0)
        dataset_close(d);
    buf_release(&text);
    return rc;
}

void dataset_close(struct dataset *d)
{
    free(d->name);
    free(d->id);
    free(d->config);
    free(d->benchmark);
    free(d->about);
    free(d->split);
    *d = (struct dataset){ .rows = -1 };
}

static void list_one(const char *name, struct buf *out)
{
    struct buf text = BUF_INIT;
    struct json doc, splits, key, v;
    struct err ignore;
    if (read_recipe(name, &text, &doc, &ignore) == 0 && json_get(doc, "splits", &splits)) {
        char *about = text_member(doc, "about");
        buf_printf(out, "%-12s", name);
        struct buf s = BUF_INIT;
        struct json_iter it = json_each(splits);
        while (json_next(&it, &key, &v)) {
            struct json rows;
            int64_t n = 0;
            if (json_get(v, "rows", &rows))
                json_int(rows, &n);
            buf_puts(&s, s.len ? ", " : "");
            json_str(key, &s);
            buf_printf(&s, " %lld", (long long)n);
        }
        buf_printf(out, "%-44s%s\n", s.s ? s.s : "", about);
        buf_release(&s);
        free(about);
    }
    buf_release(&text);
}

int dataset_list(struct buf *out, struct err *e)
{
    char *dir = path_of_data("datasets");
    struct file_names list;
    int rc = file_list(&list, dir, e);
    for (size_t i = 0; rc == 0 && i < list.n; i++)
        if (path_ends_with(list.v[i], ".json")) {
            list.v[i][strlen(list.v[i]) - 5] = '\0';
            list_one(list.v[i], out);
        }
    file_names_release(&list);
    free(dir);
    return rc;
}

/* ---- rows ---- */

/* Number of rows, and the hash over their questions and golds. */
static int survey(const struct dataset *d, const char *path, int64_t *rows, char hex[HASH_HEX], struct err *e)
{
    struct rec_reader *in;
    struct rec r, q;
    struct buf line = BUF_INIT;
    int rc;
    *rows = 0;
    if (rec_open(&in, &path, 1, e) < 0)
        return -1;
    struct hasher *h = hasher_new();
    while ((rc = rec_read(in, &r, e)) > 0) {
        struct json question, gold;
        buf_reset(&line);
        if ((rc = question_from_row(&r, d->benchmark, d->split, r.index, &line, e)) < 0 ||
            (rc = rec_parse(&q, line.s, line.len, r.where, e)) < 0)
            break;
        rec_get(&q, "question", &question);
        rec_get(&q, "gold_answer", &gold);
        hasher_add(h, question.s, question.n);
        hasher_add(h, "\n", 1);
        hasher_add(h, gold.s, gold.n);
        hasher_add(h, "\n", 1);
        rec_release(&q);
        ++*rows;
    }
    hash_hex(hasher_get(h), hex);
    hasher_free(h);
    buf_release(&line);
    rec_close(in);
    return rc < 0 ? -1 : 0;
}

static int check_rows(const struct dataset *d, const char *path, struct err *e)
{
    int64_t rows;
    char hex[HASH_HEX];
    if (survey(d, path, &rows, hex, e) < 0)
        return -1;
    if (d->rows >= 0 && rows != d->rows)
        return err_set(e, "%s: %s %s has %lld rows, %lld are expected: remove the file to fetch it again", path,
                       d->name, d->split, (long long)rows, (long long)d->rows);
    if (*d->hash && strcmp(hex, d->hash) != 0)
        return err_set(e,
                       "%s: questions and answers are not those of %s %s (hash %s, expected %s): remove the file to "
                       "fetch it again",
                       path, d->name, d->split, hex, d->hash);
    return 0;
}

/* The rows come into FILE.part, which a later call goes on with; FILE appears when all are there and checked. */
static int fetch_rows(const struct dataset *d, const char *path, struct err *e)
{
    struct buf part = BUF_INIT;
    int64_t total;
    buf_printf(&part, "%s.part", path);
    int lock = file_mkparents(path, e) < 0 ? -1 : open(part.s, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int rc = lock < 0 ? err_errno(e, "%s: cannot create", part.s) : 0;
    if (rc == 0 && flock(lock, LOCK_EX | LOCK_NB) < 0) {
        log_info("another process is fetching %s; waiting for it", d->name);
        flock(lock, LOCK_EX);
    }
    if (rc == 0 && !file_exists(path)) {
        rc = hub_rows(d->id, d->config, d->split, -1, part.s, &total, e);
        if (rc == 0 && check_rows(d, part.s, e) < 0) {
            unlink(part.s);
            rc = -1;
        }
        if (rc == 0 && rename(part.s, path) < 0)
            rc = err_errno(e, "%s: cannot write", path);
    } else if (rc == 0) {
        unlink(part.s);
    }
    if (lock >= 0)
        close(lock);
    buf_release(&part);
    return rc;
}

int dataset_rows(const struct dataset *d, char **path, struct err *e)
{
    struct buf name = BUF_INIT;
    char *dir = hub_own_dir();
    buf_printf(&name, "%s/%s-%s-%s.jsonl", dir, d->name, d->config, d->split);
    free(dir);
    int rc = file_exists(name.s) ? check_rows(d, name.s, e) : fetch_rows(d, name.s, e);
    if (rc == 0)
        *path = buf_take(&name);
    buf_release(&name);
    return rc;
}
