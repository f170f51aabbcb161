/* tok - text to token ids and back, counts, chat templates. See latent-tok(1). */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/stage.h"
#include "model/locate.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "tools/tool.h"

static struct {
    const char *model, *chat_template, *bos, *eos, *clean_up;
    bool add_special, offsets, skip_special;
} o = { .clean_up = "auto" };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_STRING("model", 'm', &o.model, "M", "model folder, tokenizer.json, hub name or embedded:NAME", OPT_RUN),
    OPT_ROW_FLAG("add-special", 0, &o.add_special,
                 "encode, count: add the tokens of the post-processor (BOS, [CLS] ...)", OPT_RESULT),
    OPT_ROW_FLAG("offsets", 0, &o.offsets, "encode: write the code points of each token, too", OPT_RESULT),
    OPT_ROW_FLAG("skip-special", 0, &o.skip_special, "decode: leave special tokens out", OPT_RESULT),
    OPT_ROW_CHOICE("clean-up", 0, &o.clean_up, "auto|yes|no",
                   "decode: clean up spaces before punctuation; auto: as tokenizer_config.json says", OPT_RESULT),
    OPT_ROW_STRING("chat-template", 0, &o.chat_template, "FILE", "chat: this template instead of the model's", OPT_RUN),
    OPT_ROW_STRING("bos-token", 0, &o.bos, "S", "chat: bos_token of the template", OPT_RESULT),
    OPT_ROW_STRING("eos-token", 0, &o.eos, "S", "chat: eos_token of the template", OPT_RESULT),
    OPT_ROW_END,
};

struct tok {
    const char *verb;
    int (*one)(struct tok *k, const struct rec *r, struct err *e);
    struct tokenizer *tokenizer; /* NULL: chat with a template file needs none */
    struct chat_template *chat;
    struct tokens ids;
    struct buf text, pair, value, types, offsets, line;
    uint64_t records, tokens;
    long rejected;
};

static bool is_text(const struct rec *r, const char *key)
{
    struct json v;
    return rec_get(r, key, &v) && json_kind(v) == JSON_STRING;
}

/* text (and text_pair, where a record has one) to k->ids */
static int encode_record(struct tok *k, const struct rec *r, bool *pair, struct err *e)
{
    unsigned flags = (o.add_special ? TOK_SPECIALS : 0) | (o.offsets ? TOK_OFFSETS : 0);
    buf_reset(&k->text);
    buf_reset(&k->pair);
    if (rec_text(r, "text", &k->text, e) < 0)
        return -1;
    const char *a = k->text.s ? k->text.s : "";
    *pair = is_text(r, "text_pair");
    int rc;
    if (*pair) {
        if (rec_text(r, "text_pair", &k->pair, e) < 0)
            return -1;
        rc = tokenizer_encode_pair(k->tokenizer, a, k->text.len, k->pair.s ? k->pair.s : "", k->pair.len, flags,
                                   &k->ids, e);
    } else {
        rc = tokenizer_encode(k->tokenizer, a, k->text.len, flags, &k->ids, e);
    }
    k->tokens += k->ids.n;
    return rc < 0 ? err_prefix(e, "%s", r->where) : 0;
}

static int encode(struct tok *k, const struct rec *r, struct err *e)
{
    struct rec_change change[3];
    size_t n = 0;
    bool pair;
    if (encode_record(k, r, &pair, e) < 0)
        return -1;
    buf_reset(&k->value);
    buf_reset(&k->types);
    buf_reset(&k->offsets);
    buf_putc(&k->value, '[');
    buf_putc(&k->types, '[');
    buf_putc(&k->offsets, '[');
    for (size_t i = 0; i < k->ids.n; i++) {
        const char *sep = i ? ", " : "";
        buf_printf(&k->value, "%s%d", sep, k->ids.id[i]);
        if (pair)
            buf_printf(&k->types, "%s%d", sep, k->ids.type[i]);
        if (o.offsets)
            buf_printf(&k->offsets, "%s[%u, %u]", sep, k->ids.begin[i], k->ids.end[i]);
    }
    buf_putc(&k->value, ']');
    buf_putc(&k->types, ']');
    buf_putc(&k->offsets, ']');
    change[n++] = (struct rec_change){ "ids", k->value.s };
    if (o.offsets)
        change[n++] = (struct rec_change){ "offsets", k->offsets.s };
    if (pair)
        change[n++] = (struct rec_change){ "type_ids", k->types.s };
    rec_rewrite(&k->line, r, change, n);
    return 0;
}

static int count(struct tok *k, const struct rec *r, struct err *e)
{
    bool pair;
    if (encode_record(k, r, &pair, e) < 0)
        return -1;
    buf_reset(&k->value);
    buf_printf(&k->value, "%zu", k->ids.n);
    rec_rewrite(&k->line, r, &(struct rec_change){ "count", k->value.s }, 1);
    return 0;
}

static void put_text(struct tok *k, const struct rec *r)
{
    buf_reset(&k->value);
    json_put_str(&k->value, k->text.s ? k->text.s : "", k->text.len);
    rec_rewrite(&k->line, r, &(struct rec_change){ "text", k->value.s }, 1);
}

static int decode(struct tok *k, const struct rec *r, struct err *e)
{
    struct json list, v;
    int32_t *id = NULL;
    size_t n = 0;
    if (!rec_get(r, "ids", &list) || json_kind(list) != JSON_ARRAY)
        return err_set(e, "%s: \"ids\" is not a list of numbers", r->where);
    id = xreallocarray(NULL, json_count(list) + 1, sizeof *id);
    struct json_iter it = json_each(list);
    while (json_next(&it, NULL, &v)) {
        int64_t x;
        if (!json_int(v, &x) || x < 0 || x > INT32_MAX) {
            free(id);
            return err_set(e, "%s: ids: %.*s is not a token id", r->where, (int)(v.n < 40 ? v.n : 40), v.s);
        }
        id[n++] = (int32_t)x;
    }
    k->tokens += n;
    buf_reset(&k->text);
    int rc = tokenizer_decode(k->tokenizer, id, n, o.skip_special, &k->text, e);
    free(id);
    if (rc < 0)
        return err_prefix(e, "%s", r->where);
    put_text(k, r);
    return 0;
}

static int chat(struct tok *k, const struct rec *r, struct err *e)
{
    struct chat_input in = { .date = -1 };
    struct json v;
    if (!rec_get(r, "messages", &in.messages) || json_kind(in.messages) != JSON_ARRAY)
        return err_set(e, "%s: \"messages\" is not a list", r->where);
    if (rec_get(r, "add_generation_prompt", &v) && json_kind(v) != JSON_NULL &&
        !json_bool(v, &in.add_generation_prompt))
        return err_set(e, "%s: \"add_generation_prompt\" is not true or false", r->where);
    if (rec_get(r, "kwargs", &v) && json_kind(v) != JSON_NULL) {
        if (json_kind(v) != JSON_OBJECT)
            return err_set(e, "%s: \"kwargs\" is not an object", r->where);
        in.kwargs = v;
    }
    in.bos_token = o.bos ? o.bos : k->tokenizer ? tokenizer_bos_token(k->tokenizer) : NULL;
    in.eos_token = o.eos ? o.eos : k->tokenizer ? tokenizer_eos_token(k->tokenizer) : NULL;
    buf_reset(&k->text);
    if (chat_template_render(k->chat, &in, &k->text, e) < 0)
        return err_prefix(e, "%s", r->where);
    put_text(k, r);
    return 0;
}

/* ---- one run ---- */

static int run_records(struct tok *k, struct stage *st, struct err *e)
{
    struct rec r;
    int rc;
    while ((rc = rec_read(stage_input(st), &r, e)) != 0) {
        if (rc == -1)
            return -1;
        buf_reset(&k->line);
        if (rc == REC_BAD || k->one(k, &r, e) < 0) {
            if (!common.keep_going)
                return -1;
            log_warn("%s", e->msg);
            k->rejected++;
            continue;
        }
        k->records++;
        if (stage_write(st, k->line.s, k->line.len, e) < 0)
            return -1;
        if (stage_interrupted())
            return stage_stopped(st, e);
    }
    buf_reset(&k->value);
    buf_printf(&k->value, "{\"records\": %llu, \"tokens\": %llu, \"rejected\": %ld}", (unsigned long long)k->records,
               (unsigned long long)k->tokens, k->rejected);
    return stage_commit(st, k->value.s, e);
}

/* The files of a folder that can change the result: their contents are in the key. Only they are needed. */
static const char *const parts[] = { "tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "vocab.txt",
                                     "dual_vocab_meta.json",
                                     "chat_template.jinja" };
enum { PARTS = sizeof parts / sizeof parts[0] };

struct place {
    char *dir, *file; /* folder; what tokenizer_open gets */
    char *part[PARTS];
    struct stage_side side[PARTS + 1];
};

static int find_model(struct place *p, struct err *e)
{
    const char *name = o.model ? o.model : getenv("MODEL");
    if (name && file_exists(name) && !file_is_dir(name)) { /* a tokenizer.json by its own path */
        const char *base = path_base(name);
        p->dir = base == name ? xstrdup(".") : xstrndup(name, (size_t)(base - name));
        p->file = xstrdup(name);
    } else if (name && file_is_dir(name)) {
        p->dir = xstrdup(name);
        p->file = xstrdup(name);
    } else {
        struct model_place m = { 0 };
        if (model_locate(&m, "--model", o.model, "MODEL", "embedded:reasoner", e) < 0)
            return -1;
        p->dir = xstrdup(m.dir);
        p->file = xstrdup(m.dir);
        model_place_release(&m);
    }
    for (int i = 0; i < PARTS; i++) {
        p->part[i] = i == 0 && !file_is_dir(p->file) ? xstrdup(p->file) : path_join(p->dir, parts[i]);
        p->side[i] = (struct stage_side){ parts[i], file_exists(p->part[i]) ? p->part[i] : NULL };
    }
    p->side[PARTS] = (struct stage_side){ "chat-template", o.chat_template };
    return 0;
}

static void place_release(struct place *p)
{
    free(p->dir);
    free(p->file);
    for (int i = 0; i < PARTS; i++)
        free(p->part[i]);
}

static int open_all(struct tok *k, const struct place *p, struct err *e)
{
    bool chats = k->one == chat;
    if (chats && o.chat_template) {
        struct buf text = BUF_INIT;
        int rc = file_read(&text, o.chat_template, 64 << 20, e);
        if (rc == 0)
            rc = chat_template_open_text(&k->chat, text.s ? text.s : "", text.len, o.chat_template, e);
        buf_release(&text);
        if (rc < 0 || !p->file)
            return rc;
    } else if (chats && chat_template_open(&k->chat, p->dir, e) < 0) {
        return -1;
    }
    if (chats && !(p->side[0].path || p->side[4].path || p->side[6].path))
        return 0; /* a folder with nothing but a template */
    if (tokenizer_open(&k->tokenizer, p->file, e) < 0)
        return -1;
    if (strcmp(o.clean_up, "auto") != 0)
        tokenizer_set_clean_up(k->tokenizer, strcmp(o.clean_up, "yes") == 0);
    return 0;
}

static void close_all(struct tok *k)
{
    tokenizer_close(k->tokenizer);
    chat_template_close(k->chat);
    tokens_release(&k->ids);
    buf_release(&k->text);
    buf_release(&k->pair);
    buf_release(&k->value);
    buf_release(&k->types);
    buf_release(&k->offsets);
    buf_release(&k->line);
}

static int run_verb(const struct tool *t, struct tok *k, int nfiles, char **files, struct err *e)
{
    struct place p = { 0 };
    struct stage *st = NULL;
    int rc = 0;
    /* a template of one's own needs no model, unless one is named */
    if (!(k->one == chat && o.chat_template && !o.model && !getenv("MODEL")))
        rc = find_model(&p, e);
    else
        p.side[PARTS] = (struct stage_side){ "chat-template", o.chat_template };
    if (rc == 0) {
        struct stage_spec spec = { .numerics = "exact",
                                   .inputs = (const char *const *)files,
                                   .ninputs = nfiles,
                                   .sides = p.side,
                                   .nsides = PARTS + 1,
                                   .detail = k->verb };
        for (int i = 0; i <= PARTS; i++)
            if (!p.side[i].role)
                p.side[i] = (struct stage_side){ parts[i < PARTS ? i : 0], NULL };
        rc = tool_stage(&st, t, &spec, e);
        if (rc == STAGE_RUN && (rc = open_all(k, &p, e)) == 0)
            rc = run_records(k, st, e);
    }
    stage_close(st);
    place_release(&p);
    return rc < 0 ? TOOL_FAILED : k->rejected ? TOOL_REJECTS : TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    static const struct {
        const char *name;
        int (*one)(struct tok *k, const struct rec *r, struct err *e);
    } verbs[] = { { "encode", encode }, { "decode", decode }, { "count", count }, { "chat", chat } };
    struct tok k = { .ids = TOKENS_INIT };
    if (nfiles == 0)
        return tool_misuse(e, "what to do is missing: encode, decode, count or chat");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(files[0], verbs[i].name) == 0) {
            k.verb = verbs[i].name;
            k.one = verbs[i].one;
        }
    if (!k.one)
        return tool_misuse(e, "\"%s\" is not encode, decode, count or chat", files[0]);
    int rc = run_verb(t, &k, nfiles - 1, files + 1, e);
    close_all(&k);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = { "tok",
                                      "encode|decode|count|chat [OPTION]... [FILE]...",
                                      "text to token ids and back, counts, chat templates",
                                      1,
                                      opts,
                                      run };
    return tool_main(&tool, argc, argv);
}
