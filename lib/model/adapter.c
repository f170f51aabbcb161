/* adapter.c - adapter_check: what can be said about a PEFT folder without running it. Facts: formats specification,
 * section 7. */
#include "model/model.h"

#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "model/parts.h"

enum { NAME = 256, CONFIG_LIMIT = 16 << 20 };

static const char prefix[] = "base_model.model.";

struct adapter {
    struct buf text; /* adapter_config.json */
    struct json config;
    int64_t rank;
    struct json targets; /* array or string */
    bool whole;          /* every layer has all targets */
    struct safetensors *st;
    struct model base; /* config and plan of the base model, when it was found */
    struct plan plan;
    bool has_base;
    struct buf *report;
    int n;
};

static void problem(struct adapter *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct adapter *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(a->report, fmt, ap);
    va_end(ap);
    buf_putc(a->report, '\n');
    a->n++;
}

/* ---- adapter_config.json ---- */

static bool is_set(const struct adapter *a, const char *key)
{
    struct json v;
    return json_get(a->config, key, &v) && json_kind(v) != JSON_NULL && json_kind(v) != JSON_FALSE &&
           !(json_kind(v) == JSON_ARRAY && json_count(v) == 0);
}

static int read_config(struct adapter *a, const char *dir, struct err *e)
{
    char *path = path_join(dir, "adapter_config.json");
    struct json v;
    double alpha;
    int rc = file_read(&a->text, path, CONFIG_LIMIT, e);
    if (rc == 0 && json_parse(&a->config, a->text.s, a->text.len, e) < 0)
        rc = err_prefix(e, "%s", path);
    if (rc == 0 && (!json_get(a->config, "peft_type", &v) || json_kind(v) != JSON_STRING || !json_str_is(v, "LORA")))
        rc = err_set(e, "%s: peft_type is not LORA: no adapter of a kind that is known here", path);
    if (rc == 0) {
        if (!json_get(a->config, "r", &v) || !json_int(v, &a->rank) || a->rank < 1)
            problem(a, "adapter_config.json: r must be a whole number from 1");
        if (!json_get(a->config, "lora_alpha", &v) || !json_double(v, &alpha))
            problem(a, "adapter_config.json: lora_alpha must be a number");
        if (!json_get(a->config, "target_modules", &a->targets) ||
            (json_kind(a->targets) != JSON_ARRAY && json_kind(a->targets) != JSON_STRING))
            problem(a, "adapter_config.json: target_modules must be a list of names or a pattern");
        a->whole =
            json_kind(a->targets) == JSON_ARRAY && !is_set(a, "exclude_modules") && !is_set(a, "layers_to_transform");
    }
    free(path);
    return rc;
}

/* PEFT's rule for patterns: the end of the module's name from a dot on, or all of it. */
static bool matches(const char *pattern, const char *module, bool ends)
{
    char whole[2 * NAME];
    regex_t re;
    snprintf(whole, sizeof whole, ends ? "^(.*\\.)?(%s)$" : "^(%s)$", pattern);
    if (regcomp(&re, whole, REG_EXTENDED | REG_NOSUB) != 0)
        return false;
    bool found = regexec(&re, module, 0, NULL, 0) == 0;
    regfree(&re);
    return found;
}

static bool names(const char *target, const char *module)
{
    size_t n = strlen(target), m = strlen(module);
    return m >= n && strcmp(module + m - n, target) == 0 && (m == n || module[m - n - 1] == '.');
}

static bool is_target(const struct adapter *a, const char *module)
{
    struct json_iter it = json_each(a->targets);
    struct json v;
    bool found = false;
    if (json_kind(a->targets) == JSON_STRING) {
        char *pattern = json_str_dup(a->targets);
        found = strcmp(pattern, "all-linear") == 0 || matches(pattern, module, false);
        free(pattern);
    }
    while (!found && json_next(&it, NULL, &v)) {
        if (json_kind(v) != JSON_STRING)
            continue;
        char *name = json_str_dup(v);
        found = names(name, module);
        free(name);
    }
    return found;
}

static int64_t rank_of(const struct adapter *a, const char *module)
{
    struct json patterns, key, v;
    int64_t rank = a->rank, r;
    bool found = false;
    if (!json_get(a->config, "rank_pattern", &patterns))
        return rank;
    struct json_iter it = json_each(patterns);
    while (!found && json_next(&it, &key, &v)) {
        char *pattern = json_str_dup(key);
        if (json_int(v, &r) && matches(pattern, module, true)) {
            rank = r;
            found = true;
        }
        free(pattern);
    }
    return rank;
}

/* ---- tensors ---- */

static const struct st_tensor *find(const struct adapter *a, const char *module, const char *end)
{
    char name[2 * NAME];
    snprintf(name, sizeof name, "%s%s%s", prefix, module, end);
    return safetensors_find(a->st, name);
}

/* The matrix of the base that a module is: out and in. */
static bool base_shape(const struct adapter *a, const char *module, int64_t *out, int64_t *in)
{
    size_t n = strlen(module);
    for (size_t i = 0; i < a->plan.n; i++)
        for (int k = 0; k < a->plan.item[i].nparts; k++) {
            const char *name = a->plan.item[i].part[k].name;
            if (a->plan.item[i].weight && strncmp(name, module, n) == 0 && strcmp(name + n, ".weight") == 0) {
                *out = a->plan.item[i].part[k].rows;
                *in = a->plan.item[i].cols;
                return true;
            }
        }
    return false;
}

/* Side 0 or 1 of t is what it should be. */
static void check_side(struct adapter *a, const struct st_tensor *t, int side, int64_t want, const char *why)
{
    char shape[ST_SHAPE_TEXT];
    if (t->rank != 2)
        problem(a, "tensor %s is %s: expected a matrix", t->name, st_shape_text(t, shape));
    else if (t->shape[side] != want)
        problem(a, "tensor %s is %s: expected %lld %s, %s", t->name, st_shape_text(t, shape), (long long)want,
                side ? "columns" : "rows", why);
}

static void check_pair(struct adapter *a, const char *module, const struct st_tensor *ta, const struct st_tensor *tb)
{
    int64_t rank = rank_of(a, module), out, in;
    if (!is_target(a, module))
        problem(a, "tensor %s: adapter_config.json's target_modules do not name this module", (ta ? ta : tb)->name);
    if (!ta || !tb) {
        problem(a, "tensor %s has no lora_%c beside it", (ta ? ta : tb)->name, ta ? 'B' : 'A');
        return;
    }
    check_side(a, ta, 0, rank, "the rank in adapter_config.json");
    check_side(a, tb, 1, rank, "the rank in adapter_config.json");
    if (!a->has_base)
        return;
    if (!base_shape(a, module, &out, &in)) {
        problem(a, "tensor %s: the base model has no matrix %s", ta->name, module);
        return;
    }
    check_side(a, ta, 1, in, "as the base model's matrix has");
    check_side(a, tb, 0, out, "as the base model's matrix has");
}

/* What is saved whole: resized or trained embeddings, a head, a classifier. */
static void check_whole(struct adapter *a, const struct st_tensor *t, const char *name)
{
    char module[NAME], shape[ST_SHAPE_TEXT];
    int64_t out, in;
    size_t n = strlen(name);
    snprintf(module, sizeof module, "%.*s", (int)(path_ends_with(name, ".weight") ? n - 7 : n), name);
    if (a->has_base && path_ends_with(name, ".weight") && base_shape(a, module, &out, &in) &&
        (t->rank != 2 || t->shape[0] != out || t->shape[1] != in))
        problem(a, "tensor %s is %s: the base model has [%lld, %lld]", t->name, st_shape_text(t, shape), (long long)out,
                (long long)in);
}

static void check_tensor(struct adapter *a, const struct st_tensor *t)
{
    static const char *const other[] = { ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector" };
    char module[NAME];
    if (strncmp(t->name, prefix, sizeof prefix - 1) != 0) {
        problem(a, "tensor %s: expected a name that begins with %s", t->name, prefix);
        return;
    }
    const char *name = t->name + sizeof prefix - 1, *at;
    if ((at = strstr(name, ".lora_A.weight")) || (at = strstr(name, ".lora_B.weight"))) {
        bool is_a = at[6] == 'A';
        snprintf(module, sizeof module, "%.*s", (int)(at - name), name);
        if (strlen(at) != strlen(".lora_A.weight"))
            problem(a, "tensor %s: nothing should follow .weight", t->name);
        else if (is_a || !find(a, module, ".lora_A.weight")) /* each pair once */
            check_pair(a, module, is_a ? t : NULL, is_a ? find(a, module, ".lora_B.weight") : t);
        return;
    }
    for (int i = 0; i < 3; i++)
        if (path_ends_with(name, other[i]))
            return;
    check_whole(a, t, name);
}

/* Every matrix of the base that the targets name has its pair. */
static void check_complete(struct adapter *a)
{
    for (size_t i = 0; a->has_base && a->whole && i < a->plan.n; i++)
        for (int k = 0; k < a->plan.item[i].nparts; k++) {
            char module[NAME];
            const char *name = a->plan.item[i].part[k].name;
            snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
            if (a->plan.item[i].weight && path_ends_with(name, ".weight") && is_target(a, module) &&
                !find(a, module, ".lora_A.weight") && !find(a, module, ".lora_B.weight") &&
                !find(a, module, ".lora_embedding_A"))
                problem(a, "target_modules name %s, and there are no tensors for it", module);
        }
    struct json_iter it = json_each(a->targets);
    struct json v;
    while (json_kind(a->targets) == JSON_ARRAY && json_next(&it, NULL, &v)) {
        char *name = json_kind(v) == JSON_STRING ? json_str_dup(v) : xstrdup("");
        bool found = false;
        for (size_t i = 0; i < safetensors_count(a->st) && !found; i++) {
            char module[NAME];
            const char *t = safetensors_at(a->st, i)->name, *at = strstr(t, ".lora_");
            snprintf(module, sizeof module, "%.*s", at ? (int)(at - t) : 0, t);
            found = names(name, module);
        }
        if (!found)
            problem(a, "target_modules name \"%s\", and no tensor is for it", name);
        free(name);
    }
}

/* ---- the folder ---- */

static int open_tensors(struct adapter *a, const char *dir, struct err *e)
{
    char *path = path_join(dir, "adapter_model.safetensors"), *pickled = path_join(dir, "adapter_model.bin");
    int rc = !file_exists(path) && file_exists(pickled)
                 ? err_set(e, "%s: holds a pickled adapter only, and reading that can run code", dir)
                 : safetensors_open(&a->st, path, e);
    free(path);
    free(pickled);
    return rc;
}

/* The base, if its name is a folder that can be seen from here. */
static void find_base(struct adapter *a, struct buf *facts)
{
    struct json v;
    struct err e = { "" };
    if (!json_get(a->config, "base_model_name_or_path", &v) || json_kind(v) != JSON_STRING)
        return;
    char *name = json_str_dup(v);
    if (!file_is_dir(name)) {
        buf_printf(facts, "its base model %s is no folder here: the adapter is not compared with it\n", name);
    } else if (model_config_read(&a->base.c, name, &e) < 0) {
        problem(a, "its base model: %s", e.msg);
    } else {
        a->has_base = true;
        a->base.layer = xcalloc((size_t)a->base.c.layers, sizeof *a->base.layer);
        plan_make(&a->plan, &a->base);
    }
    free(name);
}

int adapter_check(const char *dir, struct buf *report, struct buf *facts, struct err *e)
{
    struct adapter a = { .report = report };
    int rc = read_config(&a, dir, e);
    if (rc == 0)
        rc = open_tensors(&a, dir, e);
    if (rc == 0) {
        find_base(&a, facts);
        for (size_t i = 0; i < safetensors_count(a.st); i++) {
            check_tensor(&a, safetensors_at(a.st, i));
            a.n += check_values(safetensors_at(a.st, i), report);
        }
        check_complete(&a);
    }
    if (a.has_base) {
        plan_release(&a.plan);
        model_config_release(&a.base.c);
        free(a.base.layer);
    }
    safetensors_close(a.st);
    buf_release(&a.text);
    return rc < 0 ? -1 : a.n;
}
