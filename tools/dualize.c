/* dualize - a dual-vocabulary model out of an ordinary one. See latent-dualize(1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/folder.h"
#include "model/dualize.h"
#include "model/locate.h"
#include "model/model.h"
#include "tools/tool.h"

static struct {
    const char *model, *mode, *think_missing, *subset_regex, *subset_ids, *custom_tokens, *custom_embeddings;
    double noise;
    bool tokens;
} o = { .mode = "full_copy", .think_missing = "error", .noise = 0.01, .tokens = true };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_STRING("model", 'm', &o.model, "DIR", "checkpoint to start from; else $MODEL, else embedded:reasoner",
                   OPT_RUN),
    OPT_ROW_CHOICE("mode", 0, &o.mode, "full_copy|subset|custom", "which ids get a latent one", OPT_RESULT),
    OPT_ROW_CHOICE("think-missing", 0, &o.think_missing, "error|add|clone_eos",
                   "what to do without <think> or </think>", OPT_RESULT),
    OPT_ROW_STRING("subset-regex", 0, &o.subset_regex, "RE", "subset: ids whose token RE matches somewhere",
                   OPT_RESULT),
    OPT_ROW_STRING("subset-ids", 0, &o.subset_ids, "FILE", "subset: the ids of a JSON array", OPT_RUN),
    OPT_ROW_STRING("custom-tokens", 0, &o.custom_tokens, "FILE", "custom: new tokens, one a line", OPT_RUN),
    OPT_ROW_STRING("custom-embeddings", 0, &o.custom_embeddings, "FILE", "custom: their rows, .npy float32", OPT_RUN),
    OPT_ROW_REAL("noise", 0, &o.noise, "X", "of rows of think tokens that were missing", OPT_RESULT, 0, 100),
    OPT_ROW_FLAG("tokens", 0, &o.tokens, "write the latent tokens into tokenizer.json, for other programs", OPT_RESULT),
    OPT_ROW_END,
};

static int check(int nfiles, struct err *e)
{
    bool subset = strcmp(o.mode, "subset") == 0, custom = strcmp(o.mode, "custom") == 0;
    if (nfiles)
        return tool_misuse(e, "dualize reads a model, no files: --model names it");
    if (!common.output || strcmp(common.output, "-") == 0)
        return tool_misuse(e, "a model is a folder: -o DIR is needed");
    if ((o.subset_regex || o.subset_ids) && !subset)
        return tool_misuse(e, "--subset-regex and --subset-ids are for --mode subset");
    if (subset && !o.subset_regex == !o.subset_ids)
        return tool_misuse(e, "--mode subset needs one of --subset-regex and --subset-ids");
    if ((o.custom_tokens || o.custom_embeddings) && !custom)
        return tool_misuse(e, "--custom-tokens and --custom-embeddings are for --mode custom");
    if (custom && !o.custom_tokens)
        return tool_misuse(e, "--mode custom needs --custom-tokens");
    if (custom && !o.tokens)
        return tool_misuse(e, "--no-tokens: custom tokens have their names from tokenizer.json");
    return 0;
}

/* What the folder is made from, so what its key is the hash of. */
static int describe(struct manifest *m, const struct tool *t, const struct model_place *p, struct err *e)
{
    const struct {
        const char *role, *path;
    } side[] = { { "subset-ids", o.subset_ids },
                 { "custom-tokens", o.custom_tokens },
                 { "custom-embeddings", o.custom_embeddings } };
    struct buf b = BUF_INIT;
    char now[32];
    time_t clock = time(NULL);
    struct tm tm;
    *m = (struct manifest){ .result = t->result };
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&clock, &tm));
    m->started = xstrdup(now);
    m->program = xstrdup(t->name);
    m->version = xstrdup(LATENT_VERSION);
    m->numerics = xstrdup("exact");
    m->part = xstrdup("");
    buf_putc(&b, '{');
    opt_result_json(tool_options(), &b);
    buf_putc(&b, '}');
    m->options = buf_take(&b);
    manifest_add_model(m, "model", p->name, p->fingerprint);
    for (size_t i = 0; i < sizeof side / sizeof *side; i++) {
        struct hash128 h;
        if (!side[i].path)
            continue;
        if (hash_file(side[i].path, false, &h, e) < 0)
            return -1;
        manifest_add_input(m, side[i].path, side[i].role, h);
    }
    hash_hex(manifest_key(m, true), m->key);
    return 0;
}

static enum dualize_mode mode_of(const char *word)
{
    return strcmp(word, "subset") == 0   ? DUALIZE_SUBSET
           : strcmp(word, "custom") == 0 ? DUALIZE_CUSTOM
                                         : DUALIZE_FULL_COPY;
}

static enum dualize_think think_of(const char *word)
{
    return strcmp(word, "add") == 0 ? THINK_ADD : strcmp(word, "clone_eos") == 0 ? THINK_CLONE_EOS : THINK_ERROR;
}

static int build(const struct model_place *p, struct manifest *m, struct err *e)
{
    struct dualize_options d = { .model = p->dir,
                                 .name = p->name,
                                 .mode = mode_of(o.mode),
                                 .subset_regex = o.subset_regex,
                                 .subset_ids = o.subset_ids,
                                 .custom_tokens = o.custom_tokens,
                                 .custom_embeddings = o.custom_embeddings,
                                 .think_missing = think_of(o.think_missing),
                                 .noise = o.noise,
                                 .seed = (uint64_t)common.seed,
                                 .tokens = o.tokens };
    struct dual_meta made = { .clone_source_id = -1 };
    struct folder *f;
    struct buf counts = BUF_INIT;
    if (folder_open(&f, common.output, e) < 0)
        return -1;
    char fingerprint[33];
    int rc = dualize(&d, folder_path(f), &made, e);
    if (rc == 0)
        rc = model_fingerprint(folder_path(f), fingerprint, e);
    if (rc == 0) {
        buf_printf(&counts, "\"fingerprint\": \"%s\", \"visible\": %d, \"latent\": %d, \"added\": %d", fingerprint,
                   made.visible, made.latent, made.visible - made.base_rows);
        m->counts = buf_take(&counts);
        m->seconds = log_seconds();
        rc = folder_commit(f, m, e);
    }
    if (rc == 0)
        log_info("%s: ids 0 to %d are visible, %d to %d latent; thinking ends with %s (%d)", common.output,
                 made.visible - 1, made.visible, made.visible + made.latent - 1, made.think_end, made.think_end_id);
    folder_close(f);
    dual_meta_release(&made);
    return rc;
}

static int run_located(const struct tool *t, const struct model_place *p, struct err *e)
{
    struct manifest m;
    int rc = describe(&m, t, p, e);
    if (rc == 0 && common.plan)
        printf("%s %s %s\n", common.output, m.key, folder_state(common.output, m.key));
    else if (rc == 0 && (rc = folder_take(common.output, m.key, e)) == 0)
        rc = build(p, &m, e);
    manifest_release(&m);
    return rc < 0 ? TOOL_FAILED : TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct model_place p;
    (void)files;
    int rc = check(nfiles, e);
    if (rc != 0)
        return rc;
    if (model_locate(&p, "--model", o.model, "MODEL", "embedded:reasoner", e) < 0)
        return TOOL_FAILED;
    rc = run_located(t, &p, e);
    model_place_release(&p);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "dualize", "[OPTION]... -o DIR", "a dual-vocabulary model out of an ordinary one", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
