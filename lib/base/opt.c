/* opt.c - see opt.h. */
#include "base/opt.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

/* Which rows were set, by address: a process parses one command line. */
static const struct opt *given[256];
static size_t n_given;

static void mark_given(const struct opt *o)
{
    for (size_t i = 0; i < n_given; i++)
        if (given[i] == o)
            return;
    if (n_given < sizeof given / sizeof *given)
        given[n_given++] = o;
}

static bool was_given(const struct opt *o)
{
    for (size_t i = 0; i < n_given; i++)
        if (given[i] == o)
            return true;
    return false;
}

static const struct opt *find_name(const struct opt *const *tables, const char *name, size_t n)
{
    for (; *tables; tables++)
        for (const struct opt *o = *tables; o->type != OPT_END; o++)
            if (o->name && strlen(o->name) == n && memcmp(o->name, name, n) == 0)
                return o;
    return NULL;
}

static const struct opt *find_letter(const struct opt *const *tables, char c)
{
    for (; *tables; tables++)
        for (const struct opt *o = *tables; o->type != OPT_END; o++)
            if (o->letter && o->letter == c)
                return o;
    return NULL;
}

static bool in_words(const char *words, const char *value)
{
    size_t n = strlen(value);
    for (const char *w = words; n && w; w = strchr(w, '|'), w = w ? w + 1 : NULL)
        if (strncmp(w, value, n) == 0 && (w[n] == '|' || w[n] == '\0'))
            return true;
    return false;
}

static int check_range(const struct opt *o, double v, const char *text, struct err *e)
{
    if ((o->min != 0 || o->max != 0) && !(v >= o->min && v <= o->max)) {
        if (isinf(o->max))
            return err_set(e, "--%s %s: must be at least %.15g", o->name, text, o->min);
        return err_set(e, "--%s %s: must lie between %.15g and %.15g", o->name, text, o->min, o->max);
    }
    return 0;
}

static int parse_real(const struct opt *o, const char *text, const char *end, double *out, struct err *e)
{
    char *stop;
    errno = 0;
    double v = strtod(text, &stop);
    if (stop == text || stop != end || *text == ' ' || errno == ERANGE || !isfinite(v) || strpbrk(text, "xXpP"))
        return err_set(e, "--%s %s: expected a number", o->name, text);
    *out = v;
    return check_range(o, v, text, e);
}

static int set_reals(const struct opt *o, const char *value, struct err *e)
{
    struct opt_reals r = { .n = 0 };
    for (const char *p = value;; p++) {
        const char *end = strchr(p, ',');
        end = end ? end : p + strlen(p);
        if (r.n == sizeof r.v / sizeof *r.v)
            return err_set(e, "--%s: at most %zu values", o->name, r.n);
        char *one = xstrndup(p, (size_t)(end - p));
        int rc = parse_real(o, one, one + (end - p), &r.v[r.n++], e);
        free(one);
        if (rc < 0)
            return -1;
        if (*end == '\0')
            break;
        p = end;
    }
    *(struct opt_reals *)o->var = r;
    return 0;
}

static int set_int(const struct opt *o, const char *value, struct err *e)
{
    char *stop;
    errno = 0;
    long long v = strtoll(value, &stop, 10);
    if (stop == value || *stop || *value == ' ' || errno == ERANGE)
        return err_set(e, "--%s %s: expected a whole number", o->name, value);
    if (check_range(o, (double)v, value, e) < 0)
        return -1;
    *(int64_t *)o->var = v;
    return 0;
}

static int set_value(const struct opt *o, const char *value, struct err *e)
{
    struct opt_list *list = o->var;
    switch (o->type) {
    case OPT_STRING:
        *(const char **)o->var = value;
        break;
    case OPT_CHOICE:
        if (!in_words(o->arg, value))
            return err_set(e, "--%s %s: must be one of %s", o->name, value, o->arg);
        *(const char **)o->var = value;
        break;
    case OPT_INT:
        if (set_int(o, value, e) < 0)
            return -1;
        break;
    case OPT_REAL:
        if (parse_real(o, value, value + strlen(value), o->var, e) < 0)
            return -1;
        break;
    case OPT_REALS:
        if (set_reals(o, value, e) < 0)
            return -1;
        break;
    case OPT_LIST:
        if (list->n == sizeof list->v / sizeof *list->v)
            return err_set(e, "--%s: given more than %zu times", o->name, list->n);
        list->v[list->n++] = value;
        break;
    default:
        break;
    }
    mark_given(o);
    return 0;
}

/* "--name", "--name=value", "--no-name". Returns 1 if the next argument was taken as the value. */
static int parse_long(const struct opt *const *tables, const char *text, const char *next, struct err *e)
{
    const char *eq = strchr(text, '=');
    size_t n = eq ? (size_t)(eq - text) : strlen(text);
    const struct opt *o = find_name(tables, text, n);
    if (!o && n > 3 && strncmp(text, "no-", 3) == 0) {
        o = find_name(tables, text + 3, n - 3);
        if (o && o->type == OPT_FLAG && !eq) {
            *(bool *)o->var = false;
            mark_given(o);
            return 0;
        }
        o = NULL;
    }
    if (o && o->type == OPT_ALIAS)
        o = find_name(tables, o->arg, strlen(o->arg));
    if (!o)
        return err_set(e, "unknown option --%.*s (try --help)", (int)n, text);
    if (o->type == OPT_FLAG) {
        if (eq)
            return err_set(e, "--%s takes no value", o->name);
        *(bool *)o->var = true;
        mark_given(o);
        return 0;
    }
    if (!eq && !next)
        return err_set(e, "--%s needs a value (%s)", o->name, o->arg);
    if (set_value(o, eq ? eq + 1 : next, e) < 0)
        return -1;
    return eq ? 0 : 1;
}

/* "-x", "-xVALUE", "-x VALUE", and flags together "-qk". */
static int parse_short(const struct opt *const *tables, const char *text, const char *next, struct err *e)
{
    for (const char *p = text; *p; p++) {
        const struct opt *o = find_letter(tables, *p);
        if (!o)
            return err_set(e, "unknown option -%c (try --help)", *p);
        if (o->type == OPT_FLAG) {
            *(bool *)o->var = true;
            mark_given(o);
            continue;
        }
        if (!p[1] && !next)
            return err_set(e, "-%c needs a value (%s)", *p, o->arg);
        if (set_value(o, p[1] ? p + 1 : next, e) < 0)
            return -1;
        return p[1] ? 0 : 1;
    }
    return 0;
}

int opt_parse(const struct opt *const *tables, int argc, char **argv, int *operands, struct err *e)
{
    int kept = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        int took = 0;
        if (strcmp(a, "--") == 0) {
            while (++i < argc)
                argv[1 + kept++] = argv[i];
            break;
        }
        if (a[0] != '-' || a[1] == '\0')
            argv[1 + kept++] = argv[i];
        else if (a[1] == '-')
            took = parse_long(tables, a + 2, next, e);
        else
            took = parse_short(tables, a + 1, next, e);
        if (took < 0)
            return -1;
        i += took;
    }
    *operands = kept;
    return 0;
}

int opt_set(const struct opt *const *tables, const char *name, const char *value, struct err *e)
{
    const struct opt *o = find_name(tables, name, strlen(name));
    if (o && o->type == OPT_ALIAS)
        o = find_name(tables, o->arg, strlen(o->arg));
    if (!o || o->type == OPT_GROUP)
        return err_set(e, "unknown option %s", name);
    if (o->type == OPT_FLAG) {
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0 && *value)
            return err_set(e, "%s %s: must be true or false", name, value);
        *(bool *)o->var = strcmp(value, "false") != 0;
        mark_given(o);
        return 0;
    }
    return set_value(o, value, e);
}

bool opt_given(const struct opt *const *tables, const char *name)
{
    const struct opt *o = find_name(tables, name, strlen(name));
    return o && was_given(o);
}

static void put_default(const struct opt *o, struct buf *out)
{
    switch (o->type) {
    case OPT_STRING:
    case OPT_CHOICE:
        if (*(const char **)o->var)
            buf_printf(out, " [%s]", *(const char **)o->var);
        break;
    case OPT_INT:
        buf_printf(out, " [%lld]", (long long)*(int64_t *)o->var);
        break;
    case OPT_REAL:
        buf_printf(out, " [%g]", *(double *)o->var);
        break;
    case OPT_REALS: {
        const struct opt_reals *r = o->var;
        for (size_t i = 0; i < r->n; i++)
            buf_printf(out, "%s%g", i ? "," : " [", r->v[i]);
        if (r->n)
            buf_puts(out, "]");
        break;
    }
    case OPT_FLAG:
        if (*(bool *)o->var)
            buf_puts(out, " [on; --no- turns it off]");
        break;
    default:
        break;
    }
}

void opt_help(const struct opt *table, struct buf *out)
{
    for (const struct opt *o = table; o->type != OPT_END; o++) {
        if (o->type == OPT_GROUP) {
            buf_printf(out, "%s:\n", o->help);
            continue;
        }
        if (o->type == OPT_ALIAS)
            continue;
        size_t start = out->len;
        if (o->letter)
            buf_printf(out, "  -%c, --%s", o->letter, o->name);
        else
            buf_printf(out, "      --%s", o->name);
        if (o->arg)
            buf_printf(out, " %s", o->arg);
        do
            buf_putc(out, ' ');
        while (out->len - start < 30);
        buf_puts(out, o->help);
        put_default(o, out);
        buf_putc(out, '\n');
    }
}

static void put_value(const struct opt *o, struct buf *out)
{
    const struct opt_reals *r = o->var;
    const struct opt_list *l = o->var;
    switch (o->type) {
    case OPT_FLAG:
        buf_puts(out, *(bool *)o->var ? "true" : "false");
        break;
    case OPT_INT:
        buf_printf(out, "%lld", (long long)*(int64_t *)o->var);
        break;
    case OPT_REAL:
        json_put_double(out, *(double *)o->var);
        break;
    case OPT_REALS:
        buf_putc(out, '[');
        for (size_t i = 0; i < r->n; i++) {
            buf_puts(out, i ? "," : "");
            json_put_double(out, r->v[i]);
        }
        buf_putc(out, ']');
        break;
    case OPT_LIST:
        buf_putc(out, '[');
        for (size_t i = 0; i < l->n; i++) {
            buf_puts(out, i ? "," : "");
            json_put_cstr(out, l->v[i]);
        }
        buf_putc(out, ']');
        break;
    case OPT_ALIAS:
        buf_puts(out, "null");
        break;
    default:
        json_put_cstr(out, *(const char **)o->var);
    }
}

void opt_dump(const struct opt *table, struct buf *out)
{
    static const char *const types[] = {
        [OPT_FLAG] = "flag", [OPT_STRING] = "string", [OPT_CHOICE] = "choice", [OPT_INT] = "int",
        [OPT_REAL] = "real", [OPT_REALS] = "reals",   [OPT_LIST] = "list",     [OPT_ALIAS] = "alias"
    };
    for (const struct opt *o = table; o->type != OPT_END; o++) {
        if (o->type == OPT_GROUP)
            continue;
        bool bounds = o->min != 0 || o->max != 0;
        char letter[2] = { o->letter, '\0' };
        buf_puts(out, "{\"name\":");
        json_put_cstr(out, o->name);
        buf_puts(out, ",\"letter\":");
        json_put_cstr(out, o->letter ? letter : NULL);
        buf_printf(out, ",\"type\":\"%s\",\"class\":\"%s\",\"arg\":", types[o->type],
                   o->cls == OPT_RESULT ? "result" : "run");
        json_put_cstr(out, o->arg);
        buf_puts(out, ",\"min\":");
        if (bounds && isfinite(o->min))
            json_put_double(out, o->min);
        else
            buf_puts(out, "null");
        buf_puts(out, ",\"max\":");
        if (bounds && isfinite(o->max))
            json_put_double(out, o->max);
        else
            buf_puts(out, "null");
        buf_puts(out, ",\"default\":");
        put_value(o, out);
        buf_puts(out, "}\n");
    }
}

void opt_result_json(const struct opt *const *tables, struct buf *out)
{
    bool first = true;
    for (; *tables; tables++)
        for (const struct opt *o = *tables; o->type != OPT_END; o++) {
            if (o->cls != OPT_RESULT || o->type == OPT_GROUP || o->type == OPT_ALIAS)
                continue;
            if (!first)
                buf_putc(out, ',');
            first = false;
            json_put_cstr(out, o->name);
            buf_putc(out, ':');
            put_value(o, out);
        }
}
