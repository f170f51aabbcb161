/* template.c - opening chat templates; see template.h. */
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/template_node.h"
#include "text/unicode.h"

enum { MAX_TEMPLATE = 4 << 20, MAX_CONFIG = 256 << 20 };

/* Jinja's reading of a source: newlines become \n, one at the very end is dropped; beside it, broken UTF-8 repaired. */
static void clean_source(const char *s, size_t n, struct buf *out)
{
    struct buf good = BUF_INIT;
    uni_repair(s, n, &good);
    buf_puts(out, "");
    for (size_t i = 0; i < good.len; i++) {
        if (good.s[i] == '\r') {
            buf_putc(out, '\n');
            i += i + 1 < good.len && good.s[i + 1] == '\n';
        } else {
            buf_putc(out, good.s[i]);
        }
    }
    if (out->len && out->s[out->len - 1] == '\n')
        out->s[--out->len] = '\0';
    buf_release(&good);
}

int chat_template_open_text(struct chat_template **out, const char *text, size_t n, const char *name, struct err *e)
{
    if (n > MAX_TEMPLATE)
        return err_set(e, "%s: a template of %zu bytes is longer than %d", name, n, MAX_TEMPLATE);
    struct buf source = BUF_INIT;
    clean_source(text, n, &source);
    struct chat_template *t = xcalloc(1, sizeof *t);
    size_t len = source.len;
    t->name = xstrdup(name);
    t->source = buf_take(&source);
    if (template_parse(t, t->source, len, e) < 0) {
        chat_template_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

/* The template called name in the chat_template of a tokenizer_config.json; 1 found, 0 none there. */
static int find_named(struct json config, const char *name, struct buf *out)
{
    struct json v, x, y;
    if (!json_get(config, "chat_template", &v))
        return 0;
    if (json_kind(v) == JSON_STRING && strcmp(name, "default") == 0) {
        json_str(v, out);
        return 1;
    }
    struct json_iter it = json_each(v);
    while (json_kind(v) == JSON_ARRAY && json_next(&it, NULL, &x))
        if (json_get(x, "name", &y) && json_kind(y) == JSON_STRING && json_str_is(y, name) &&
            json_get(x, "template", &y) && json_kind(y) == JSON_STRING) {
            json_str(y, out);
            return 1;
        }
    return 0;
}

static int open_config(struct chat_template **out, const char *dir, const char *path, const char *name, struct err *e)
{
    struct buf text = BUF_INIT, source = BUF_INIT;
    struct json config;
    int rc = file_exists(path)
                 ? 0
                 : err_set(e, "%s: no chat template: neither chat_template.jinja nor tokenizer_config.json", dir);
    if (rc == 0)
        rc = file_read(&text, path, MAX_CONFIG, e);
    if (rc == 0 && (rc = json_parse(&config, text.s ? text.s : "", text.len, e)) < 0)
        err_prefix(e, "%s", path);
    if (rc == 0) {
        if (find_named(config, name, &source))
            rc = chat_template_open_text(out, source.s ? source.s : "", source.len, path, e);
        else
            rc = err_set(e, "%s: no chat_template%s%s", path, strcmp(name, "default") ? " named " : "",
                         strcmp(name, "default") ? name : "");
    }
    buf_release(&text);
    buf_release(&source);
    return rc;
}

int chat_template_open_named(struct chat_template **out, const char *dir, const char *name, struct err *e)
{
    char *jinja = path_join(dir, "chat_template.jinja"), *config = path_join(dir, "tokenizer_config.json");
    int rc;
    if (strcmp(name, "default") == 0 && file_exists(jinja)) {
        struct buf text = BUF_INIT;
        rc = file_read(&text, jinja, MAX_TEMPLATE, e);
        if (rc == 0)
            rc = chat_template_open_text(out, text.s ? text.s : "", text.len, jinja, e);
        buf_release(&text);
    } else {
        rc = open_config(out, dir, config, name, e);
    }
    free(jinja);
    free(config);
    return rc;
}

int chat_template_open(struct chat_template **out, const char *dir, struct err *e)
{
    return chat_template_open_named(out, dir, "default", e);
}

void chat_template_close(struct chat_template *c)
{
    if (!c)
        return;
    arena_release(&c->arena);
    free(c->name);
    free(c->source);
    free(c);
}
