/* hub_cache.c - see hub.h, hub_cache.h: names, the environment, and what lies in the cache. Nothing here asks the hub,
 * so who only looks (hub_cached) does not load what it takes to fetch. */
#include "io/hub_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "io/hub.h"

/* ---- environment ---- */

const char *hub_env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

bool hub_env_true(const char *name)
{
    static const char *const yes[] = { "1", "on", "yes", "true" };
    const char *v = hub_env(name);
    for (size_t i = 0; v && i < sizeof yes / sizeof *yes; i++)
        if (strcasecmp(v, yes[i]) == 0)
            return true;
    return false;
}

bool hub_offline(void)
{
    return hub_env_true("HF_HUB_OFFLINE") || hub_env_true("TRANSFORMERS_OFFLINE");
}

static char *home_dir(void)
{
    if (hub_env("HF_HOME"))
        return xstrdup(hub_env("HF_HOME"));
    if (hub_env("XDG_CACHE_HOME"))
        return path_join(hub_env("XDG_CACHE_HOME"), "huggingface");
    return path_join(hub_env("HOME") ? hub_env("HOME") : ".", ".cache/huggingface");
}

static char *below_home(const char *name)
{
    char *home = home_dir(), *path = path_join(home, name);
    free(home);
    return path;
}

static char *cache_dir(void)
{
    if (hub_env("HF_HUB_CACHE"))
        return xstrdup(hub_env("HF_HUB_CACHE"));
    if (hub_env("HUGGINGFACE_HUB_CACHE"))
        return xstrdup(hub_env("HUGGINGFACE_HUB_CACHE"));
    return below_home("hub");
}

char *hub_own_dir(void)
{
    return below_home("latent");
}

static char *endpoint(void)
{
    char *s = xstrdup(hub_env("HF_ENDPOINT") ? hub_env("HF_ENDPOINT") : "https://huggingface.co");
    size_t n = strlen(s);
    while (n && s[n - 1] == '/')
        s[--n] = '\0';
    return s;
}

char *hub_token(void)
{
    const char *v = hub_env("HF_TOKEN") ? hub_env("HF_TOKEN") : hub_env("HUGGING_FACE_HUB_TOKEN");
    if (v)
        return xstrdup(v);
    char *path = hub_env("HF_TOKEN_PATH") ? xstrdup(hub_env("HF_TOKEN_PATH")) : below_home("token"), *t = NULL;
    struct buf b = BUF_INIT;
    struct err ignore;
    if (file_exists(path) && file_read(&b, path, 4096, &ignore) == 0) {
        while (b.len && strchr(" \t\r\n", b.s[b.len - 1]))
            b.s[--b.len] = '\0';
        if (b.len)
            t = buf_take(&b);
    }
    buf_release(&b);
    free(path);
    return t;
}

/* ---- names ---- */

bool hub_is_id(const char *name)
{
    size_t n = strcspn(name, "@"), slashes = 0;
    if (name[0] == '.' || name[0] == '/' || n == 0 || name[n - 1] == '/' || file_exists(name))
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_./", c);
        if (!ok)
            return false;
        slashes += c == '/';
    }
    return slashes == 1;
}

void hub_repo_open(struct hub_repo *r, const char *kind, const char *name)
{
    const char *at = strchr(name, '@');
    r->kind = kind;
    r->id = xstrndup(name, at ? (size_t)(at - name) : strlen(name));
    r->revision = xstrdup(at && at[1] ? at + 1 : "main");
    r->endpoint = endpoint();
    r->token = hub_token();
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s--", kind);
    for (const char *p = r->id; *p; p++)
        if (*p == '/')
            buf_puts(&b, "--");
        else
            buf_putc(&b, *p);
    char *cache = cache_dir(), *locks = path_join(cache, ".locks");
    r->dir = path_join(cache, b.s);
    r->locks = path_join(locks, b.s);
    free(locks);
    free(cache);
    buf_release(&b);
}

void hub_repo_close(struct hub_repo *r)
{
    free(r->id);
    free(r->revision);
    free(r->endpoint);
    free(r->token);
    free(r->dir);
    free(r->locks);
}

/* ---- cache ---- */

bool hub_is_commit(const char *s)
{
    return strlen(s) == HUB_COMMIT_HEX && strspn(s, "0123456789abcdef") == HUB_COMMIT_HEX;
}

/* The commit that the cache has for the revision; "" if none. */
static void cached_commit(const struct hub_repo *r, char out[HUB_COMMIT_HEX + 1])
{
    struct buf path = BUF_INIT, b = BUF_INIT;
    struct err ignore;
    out[0] = '\0';
    if (hub_is_commit(r->revision)) {
        snprintf(out, HUB_COMMIT_HEX + 1, "%s", r->revision);
        return;
    }
    buf_printf(&path, "%s/refs/%s", r->dir, r->revision);
    if (file_exists(path.s) && file_read(&b, path.s, 128, &ignore) == 0 && b.len >= HUB_COMMIT_HEX) {
        b.s[HUB_COMMIT_HEX] = '\0';
        if (hub_is_commit(b.s))
            snprintf(out, HUB_COMMIT_HEX + 1, "%s", b.s);
    }
    buf_release(&path);
    buf_release(&b);
}

char *hub_snapshot_dir(const struct hub_repo *r, const char *commit)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s/snapshots/%s", r->dir, commit);
    return buf_take(&b);
}

bool hub_snapshot_has(const char *snapshot, const char *file)
{
    char *path = path_join(snapshot, file);
    bool has = file_exists(path);
    free(path);
    return has;
}

/* A snapshot is usable when config and all weights are there: an index names its shards. */
static bool snapshot_complete(const char *snapshot)
{
    if (!hub_snapshot_has(snapshot, "config.json"))
        return false;
    if (hub_snapshot_has(snapshot, "model.safetensors"))
        return true;
    char *path = path_join(snapshot, "model.safetensors.index.json");
    struct buf b = BUF_INIT;
    struct err ignore;
    struct json doc, map, v;
    bool whole = file_exists(path) && file_read(&b, path, HUB_LISTING_LIMIT, &ignore) == 0 &&
                 json_parse(&doc, b.s, b.len, &ignore) == 0 && json_get(doc, "weight_map", &map) && json_count(map) > 0;
    struct json_iter it = whole ? json_each(map) : (struct json_iter){ NULL, NULL, false };
    while (whole && json_next(&it, NULL, &v)) {
        char *shard = json_kind(v) == JSON_STRING ? json_str_dup(v) : xstrdup("");
        whole = *shard && hub_snapshot_has(snapshot, shard);
        free(shard);
    }
    buf_release(&b);
    free(path);
    return whole;
}

int hub_from_cache(const struct hub_repo *r, const char *why, char **dir, struct err *e)
{
    char commit[HUB_COMMIT_HEX + 1];
    cached_commit(r, commit);
    char *snapshot = hub_snapshot_dir(r, *commit ? commit : "none");
    if (*commit && snapshot_complete(snapshot)) {
        *dir = snapshot;
        return 0;
    }
    free(snapshot);
    return err_set(e, "%s: not a folder here, and %s in the cache %s (%s)", r->id, *commit ? "not complete" : "not",
                   r->dir, why);
}

int hub_model_named(struct hub_repo *r, const char *name, char **dir, struct err *e)
{
    if (file_is_dir(name)) {
        *dir = xstrdup(name);
        return 0;
    }
    if (!hub_is_id(name))
        return err_set(e, "%s: no such folder, and not a name of the hub (org/name)", name);
    hub_repo_open(r, "models", name);
    return 1;
}

int hub_cached(const char *name, char **dir, struct err *e)
{
    struct hub_repo r;
    int rc = hub_model_named(&r, name, dir, e);
    if (rc <= 0)
        return rc;
    rc = hub_from_cache(&r, "nothing is downloaded here", dir, e);
    hub_repo_close(&r);
    return rc;
}
