/* train - a model out of rows: LoRA or full, from a checkpoint or from nothing. See latent-train(1). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/folder.h"
#include "model/dual.h"
#include "model/locate.h"
#include "tools/tool.h"
#include "train/identity.h"
#include "train/memory.h"
#include "train/output.h"
#include "train/peak.h"
#include "train/run.h"

static struct {
    const char *model, *init, *tokenizer, *adapter, *preset, *method, *targets, *scheduler, *pieces, *dtype, *memory,
        *train_rows, *rounding;
    int64_t rank, batch_rows, batch_tokens, accumulate, pass_tokens, max_length, max_steps, eval_every, save_every,
        limit, show;
    double alpha, dropout, lr, epochs, warmup, decay, max_norm, eval_ratio;
    bool rslora, raw, cut_middle, latent_only, recompute;
} o = { .method = "lora",
        .targets = "all-linear",
        .scheduler = "cosine",
        .pieces = "every",
        .dtype = "auto",
        .train_rows = "none",
        .rounding = "nearest",
        .rank = 8,
        .alpha = 16,
        .batch_rows = 8,
        .accumulate = 1,
        .pass_tokens = 4096,
        .max_length = 2048,
        .limit = -1,
        .show = 3,
        .lr = 5e-5,
        .epochs = 3,
        .warmup = 0.1,
        .max_norm = 1 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Model"),
    OPT_ROW_STRING("model", 'm', &o.model, "DIR", "checkpoint to start from; else $MODEL, else embedded:reasoner",
                   OPT_RUN),
    OPT_ROW_STRING("init", 0, &o.init, "FILE", "start from nothing, with the shape of this config.json", OPT_RUN),
    OPT_ROW_STRING("tokenizer", 0, &o.tokenizer, "DIR", "with --init: whose tokenizer and chat template", OPT_RUN),
    OPT_ROW_CHOICE("method", 0, &o.method, "lora|full", "what is trained: low-rank adapters, or every weight",
                   OPT_RESULT),
    OPT_ROW_INT("lora-rank", 0, &o.rank, "N", "rank of the adapters", OPT_RESULT, 1, 4096),
    OPT_ROW_REAL("lora-alpha", 0, &o.alpha, "X", "adapters count alpha / rank", OPT_RESULT, 1e-6, 1e6),
    OPT_ROW_REAL("lora-dropout", 0, &o.dropout, "P", "share of an adapter's inputs that is dropped", OPT_RESULT, 0,
                 0.99),
    OPT_ROW_STRING("lora-targets", 0, &o.targets, "NAMES", "all-linear, or names: q_proj,k_proj,v_proj,o_proj",
                   OPT_RESULT),
    OPT_ROW_FLAG("rslora", 0, &o.rslora, "adapters count alpha / sqrt(rank)", OPT_RESULT),
    OPT_ROW_CHOICE("train-rows", 0, &o.train_rows, "none|latent",
                   "dual models: latent rows of embedding and head learn beside the adapters", OPT_RESULT),
    OPT_ROW_STRING("adapter", 0, &o.adapter, "DIR", "go on from this adapter", OPT_RUN),
    OPT_ROW_CHOICE("dtype", 0, &o.dtype, "auto|float32|bfloat16", "of the weights that are written; auto: the base's",
                   OPT_RESULT),
    OPT_ROW_GROUP("Rows"),
    OPT_ROW_INT("limit", 'n', &o.limit, "N", "only the first N rows; -1: all", OPT_RESULT, -1, 1e15),
    OPT_ROW_INT("max-length", 0, &o.max_length, "N", "rows of more tokens are dropped", OPT_RESULT, 2, 1e8),
    OPT_ROW_FLAG("cut-middle", 0, &o.cut_middle, "or lose the middle of their reasoning", OPT_RESULT),
    OPT_ROW_FLAG("latent-only", 0, &o.latent_only, "dual models: only latent ids are learnt", OPT_RESULT),
    OPT_ROW_FLAG("raw-text", 0, &o.raw, "question, blank, answer, without the chat template", OPT_RESULT),
    OPT_ROW_CHOICE("label-pieces", 0, &o.pieces, "every|first", "words: which of its pieces have a word's label",
                   OPT_RESULT),
    OPT_ROW_REAL("eval-ratio", 0, &o.eval_ratio, "R", "share of the questions that is set aside", OPT_RESULT, 0, 0.99),
    OPT_ROW_GROUP("Steps"),
    OPT_ROW_REAL("lr", 0, &o.lr, "X", "learning rate", OPT_RESULT, 0, 100),
    OPT_ROW_REAL("epochs", 0, &o.epochs, "X", "times every row is seen", OPT_RESULT, 0, 1e6),
    OPT_ROW_INT("max-steps", 0, &o.max_steps, "N", "steps instead of epochs; 0: epochs", OPT_RESULT, 0, 1e9),
    OPT_ROW_INT("batch-rows", 'b', &o.batch_rows, "N", "rows of a batch", OPT_RESULT, 1, 1e9),
    OPT_ROW_INT("batch-tokens", 0, &o.batch_tokens, "N", "tokens of a batch instead; 0: rows", OPT_RESULT, 0, 1e9),
    OPT_ROW_INT("accumulate", 0, &o.accumulate, "N", "batches of a step", OPT_RESULT, 1, 1e9),
    OPT_ROW_INT("pass-tokens", 0, &o.pass_tokens, "N", "tokens that are packed into one pass", OPT_RESULT, 1, 1e8),
    OPT_ROW_CHOICE("scheduler", 0, &o.scheduler, SCHEDULES, "how the learning rate goes", OPT_RESULT),
    OPT_ROW_REAL("warmup", 0, &o.warmup, "R", "share of the steps in which it rises", OPT_RESULT, 0, 1),
    OPT_ROW_REAL("weight-decay", 0, &o.decay, "X", "of matrices", OPT_RESULT, 0, 100),
    OPT_ROW_REAL("max-grad-norm", 0, &o.max_norm, "X", "gradients are cut to this norm; 0: never", OPT_RESULT, 0, 1e9),
    OPT_ROW_CHOICE("rounding", 0, &o.rounding, "nearest|stochastic",
                   "how what learnt is rounded to bf16, where that multiplies or is written", OPT_RESULT),
    OPT_ROW_INT("eval-every", 0, &o.eval_every, "N", "steps between evaluations; 0: every epoch", OPT_RESULT, 0, 1e9),
    OPT_ROW_GROUP("Run"),
    OPT_ROW_STRING("preset", 0, &o.preset, "NAME", "options from a preset or a file; the command line wins", OPT_RUN),
    OPT_ROW_INT("save-every", 0, &o.save_every, "N", "steps between checkpoints; 0: every epoch", OPT_RUN, 0, 1e9),
    OPT_ROW_FLAG("recompute", 0, &o.recompute, "keep less, compute layers twice: a third slower", OPT_RUN),
    OPT_ROW_STRING("memory", 0, &o.memory, "BYTES", "refuse a run that needs more: 8G", OPT_RUN),
    OPT_ROW_INT("show", 0, &o.show, "N", "rows that are shown first", OPT_RUN, 0, 1000),
    OPT_ROW_END,
};

/* ---- presets: NAME VALUE a line, # comments ---- */

/* The folder of those that ship with the programs: installed among their data, in a checkout in pipelines. */
static char *preset_dir(void)
{
    static const char *const place[] = { "../pipelines/presets", "../../../pipelines/presets" /* build/asan/bin */ };
    char *dir = path_of_data("presets"), *program = path_of_program();
    for (size_t i = 0; i < sizeof place / sizeof *place && !file_is_dir(dir); i++) {
        free(dir);
        dir = path_join(program, place[i]);
    }
    free(program);
    return dir;
}

static int no_preset(const char *name, const char *dir, struct err *e)
{
    struct buf names = BUF_INIT;
    struct file_names list = { NULL, 0 };
    if (file_list(&list, dir, e) == 0)
        for (size_t i = 0; i < list.n; i++)
            if (list.v[i][0] != '.')
                buf_printf(&names, "%s%s", names.len ? ", " : "", list.v[i]);
    file_names_release(&list);
    err_set(e, "--preset %s: neither a file nor one of the presets: %s", name, names.len ? names.s : "none are here");
    buf_release(&names);
    return -1;
}

/* A file, or the name of a preset. NULL: neither. */
static char *find_preset(const char *name, struct err *e)
{
    if (file_exists(name))
        return xstrdup(name);
    char *dir = preset_dir(), *path = path_join(dir, name);
    if (strchr(name, '/') || !file_exists(path)) {
        no_preset(name, dir, e);
        free(path);
        path = NULL;
    }
    free(dir);
    return path;
}

static int read_preset(const char *path, struct err *e)
{
    static struct buf text; /* options borrow from it */
    int line = 0;
    struct opt_list seen = { .n = 0 };
    if (file_read(&text, path, 1 << 20, e) < 0)
        return -1;
    for (char *p = text.s, *next; p && *p; p = next) {
        next = p + strcspn(p, "\n");
        if (*next)
            *next++ = '\0';
        line++;
        p += strspn(p, " \t");
        for (char *end = p + strlen(p); end > p && strchr(" \t\r", end[-1]);)
            *--end = '\0';
        if (*p == '\0' || *p == '#')
            continue;
        char *value = p + strcspn(p, " \t=");
        if (*value)
            *value++ = '\0';
        value += strspn(value, " \t=");
        for (size_t i = 0; i < seen.n; i++)
            if (strcmp(seen.v[i], p) == 0)
                return err_set(e, "%s:%d: %s stands twice", path, line, p);
        if (seen.n < sizeof seen.v / sizeof *seen.v)
            seen.v[seen.n++] = p;
        if (!opt_given(tool_options(), p) && opt_set(tool_options(), p, value, e) < 0)
            return err_prefix(e, "%s:%d", path, line);
    }
    return 0;
}

static int64_t memory_limit; /* --memory; 0: not given */

static int check(struct err *e)
{
    if (!common.output || strcmp(common.output, "-") == 0)
        return tool_misuse(e, "a model is a folder: -o DIR is needed");
    if (o.init && !o.tokenizer)
        return tool_misuse(e, "--init: a tokenizer is needed: --tokenizer DIR");
    if (o.tokenizer && !o.init)
        return tool_misuse(e, "--tokenizer is for --init: a checkpoint has its own");
    if (o.init && o.model)
        return tool_misuse(e, "--init starts from nothing, --model from a checkpoint: give one");
    if (o.init && opt_given(tool_options(), "method") && strcmp(o.method, "lora") == 0)
        return tool_misuse(e, "--init: there is nothing that adapters could be added to: --method full");
    if (o.adapter && strcmp(o.method, "lora") != 0)
        return tool_misuse(e, "--adapter is for --method lora");
    if (strcmp(o.train_rows, "none") != 0 && strcmp(o.method, "lora") != 0)
        return tool_misuse(e, "--train-rows is for --method lora: full trains every row");
    if (o.memory && memory_parse(o.memory, &memory_limit, e) < 0) {
        err_prefix(e, "--memory %s", o.memory);
        return TOOL_MISUSE;
    }
    if (o.epochs <= 0 && o.max_steps == 0)
        return tool_misuse(e, "--epochs 0: nothing would be trained");
    if (o.init)
        o.method = "full";
    return 0;
}

/* ---- one run ---- */

struct train {
    const struct tool *tool;
    struct model_place place; /* with --init: dir is the folder of the config */
    const char *tokenizer;    /* folder */
    struct model_config config;
    struct lora_options lora;
    struct rec_reader *in;
    struct rows *rows;
    struct batches *batches;
    struct device *d;
    struct model *m;
    struct trainable *t;
    struct optimizer opt;
    struct manifest manifest;
    struct pass probe; /* the first rows, for the drift */
    float *logits;
    int nprobe;
    int64_t rejected;
};

static bool is_lora(void)
{
    return strcmp(o.method, "lora") == 0;
}

static bool is_by_chance(void)
{
    return strcmp(o.rounding, "stochastic") == 0;
}

static int add_side(struct manifest *m, const char *role, const char *dir, const char *name, struct err *e)
{
    struct hash128 h;
    char *path = name ? path_join(dir, name) : xstrdup(dir);
    int rc = hash_file(path, false, &h, e);
    if (rc == 0)
        manifest_add_input(m, path, role, h);
    free(path);
    return rc;
}

/* Everything of the key but the rows. */
static int describe(struct train *t, struct err *e)
{
    struct manifest *m = &t->manifest;
    struct buf b = BUF_INIT;
    time_t clock = time(NULL);
    struct tm tm;
    char now[32];
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&clock, &tm));
    *m = (struct manifest){ .result = t->tool->result };
    m->started = xstrdup(now);
    m->program = xstrdup(t->tool->name);
    m->version = xstrdup(LATENT_VERSION);
    m->numerics = xstrdup(device_numerics(common.device));
    m->part = xstrdup("");
    buf_putc(&b, '{');
    opt_result_json(tool_options(), &b);
    buf_putc(&b, '}');
    m->options = buf_take(&b);
    if (!o.init)
        manifest_add_model(m, "model", t->place.name, t->place.fingerprint);
    if ((o.init && (add_side(m, "init", t->place.dir, "config.json", e) < 0 ||
                    add_side(m, "tokenizer", t->tokenizer, "tokenizer.json", e) < 0)) ||
        (o.adapter && add_side(m, "adapter", o.adapter, "adapter_model.safetensors", e) < 0))
        return -1;
    return 0;
}

/* With files as input the key is known before they are read. 1: nothing to do. */
static int already_there(struct train *t, int nfiles, char **files, struct err *e)
{
    struct manifest *m = &t->manifest;
    bool piped = nfiles == 0;
    for (int i = 0; i < nfiles; i++)
        piped |= file_is_pipe(files[i]);
    if (piped && common.plan)
        printf("%s unknown\n", common.output);
    if (piped)
        return common.plan;
    int before = m->ninputs;
    for (int i = 0; i < nfiles; i++) {
        struct hash128 h;
        if (common.plan && !file_exists(files[i])) {
            printf("%s unknown\n", common.output);
            return 1;
        }
        if (hash_file(files[i], true, &h, e) < 0)
            return -1;
        manifest_add_input(m, files[i], "", h);
    }
    hash_hex(manifest_key(m, true), m->key);
    int taken = 0;
    if (common.plan)
        printf("%s %s %s\n", common.output, m->key, folder_state(common.output, m->key));
    else if ((taken = folder_take(common.output, m->key, e)) < 0)
        return -1;
    while (m->ninputs > before) { /* the reader's own hashes count */
        m->ninputs--;
        free(m->input[m->ninputs].name);
        free(m->input[m->ninputs].role);
    }
    return common.plan || taken;
}

/* ---- rows ---- */

/* Latent rows can only be trained apart where there are some, at the end of the model's matrices. */
static int check_dual(const struct train *t, struct err *e)
{
    const struct dual *v = rows_dual(t->rows);
    if (strcmp(o.train_rows, "latent") != 0)
        return 0;
    if (!v)
        return err_set(e,
                       "%s is no dual model: --train-rows latent has no rows to train (latent-dualize(1) makes them)",
                       t->place.name);
    const struct dual_meta *m = dual_meta(v);
    if (m->visible + m->latent != t->config.vocab)
        return err_set(e, "%s: latent ids end at %d, the model's matrices have %d rows", t->place.name,
                       m->visible + m->latent - 1, t->config.vocab);
    return 0;
}

static uint64_t rows_left_out(const struct rows *r)
{
    return r->dropped + r->endless + r->visible;
}

static void say_counts(const struct rows *r, int max_length)
{
    if (r->dropped)
        log_warn("%lld %s longer than %d tokens: dropped", COUNTED(r->dropped, "row is", "rows are"), max_length);
    if (r->cut)
        log_info("%lld %s lost the middle of the reasoning", COUNTED(r->cut, "row", "rows"));
    if (r->endless)
        log_warn("%lld %s without an end: dropped", COUNTED(r->endless, "row thinks", "rows think"));
    if (r->visible)
        log_warn("%lld %s no latent id to learn: dropped", COUNTED(r->visible, "row has", "rows have"));
    if (r->stayed)
        log_warn("%llu of %lld %s of thinking without a latent id: visible as before", (unsigned long long)r->stayed,
                 COUNTED(r->stayed + r->latent, "token", "tokens"));
}

static int read_rows(struct train *t, int nfiles, char **files, struct err *e)
{
    struct rec r;
    int64_t left = o.limit < 0 ? INT64_MAX : o.limit;
    int most = (int)(t->config.max_positions - (t->config.encoder ? t->config.position_base : 0)), got;
    struct rows_spec spec = { .dir = t->tokenizer,
                              .config = &t->config,
                              .max_length = o.max_length < most ? (int)o.max_length : most,
                              .cut_middle = o.cut_middle,
                              .latent_only = o.latent_only,
                              .first_piece = strcmp(o.pieces, "first") == 0,
                              .raw = o.raw };
    if (rows_open(&t->rows, &spec, e) < 0 || check_dual(t, e) < 0 ||
        rec_open(&t->in, (const char *const *)files, nfiles, e) < 0)
        return -1;
    while ((got = rec_read(t->in, &r, e)) != 0) {
        if (got == -1 || (got == REC_BAD && !common.keep_going))
            return -1;
        if (stage_interrupted())
            return err_set(e, "interrupted");
        if (left-- <= 0)
            continue; /* to the end: the hash names all of it */
        if (got == REC_BAD || rows_add(t->rows, &r, e) < 0) {
            if (!common.keep_going)
                return -1;
            log_warn("%s", e->msg);
            t->rejected++;
        }
    }
    for (int i = 0; i < rec_inputs(t->in); i++)
        manifest_add_input(&t->manifest, rec_input_name(t->in, i), "", rec_input_hash(t->in, i));
    hash_hex(manifest_key(&t->manifest, true), t->manifest.key);
    say_counts(t->rows, spec.max_length);
    if (t->rows->n == 0 && rows_left_out(t->rows) > 0)
        return err_set(e, "%lld %s dropped and none is left: there is nothing to train on",
                       COUNTED(rows_left_out(t->rows), "row was", "rows were"));
    return stage_check_input(t->in, common.require_provenance, e);
}

static int show_rows(struct train *t, struct err *e)
{
    struct buf b = BUF_INIT;
    int rc = 0;
    for (size_t i = 0; rc == 0 && !common.quiet && i < t->rows->n && i < (size_t)o.show; i++) {
        buf_reset(&b);
        rc = rows_show(t->rows, i, 300, &b, e);
        if (rc == 0)
            log_info("row %zu: %s", i + 1, b.s);
    }
    buf_release(&b);
    return rc;
}

/* ---- the model ---- */

static enum output_dtype dtype_of(const char *word)
{
    return strcmp(word, "float32") == 0 ? OUTPUT_F32 : strcmp(word, "bfloat16") == 0 ? OUTPUT_BF16 : OUTPUT_BASE;
}

static int open_model(struct train *t, struct err *e)
{
    if (device_open(&t->d, common.device, (int)common.threads, e) < 0)
        return -1;
    if ((o.init ? model_open_blank(&t->m, t->place.dir, t->d, e) : model_open(&t->m, t->place.dir, t->d, e)) < 0)
        return -1;
    if (is_by_chance() && t->d->weight_dtype != DTYPE_BF16 && !output_has_bf16(t->m, dtype_of(o.dtype)))
        return err_set(e,
                       "--rounding stochastic: no weight is rounded to bf16: %s (%s) multiplies in 32 bits, and the "
                       "weights are not written in bf16 (--dtype bfloat16 would)",
                       t->d->name, t->d->numerics);
    return 0;
}

static int open_trainable(struct train *t, struct err *e)
{
    int rows = batches_largest_pass(t->batches);
    struct memory_plan plan;
    t->lora = (struct lora_options){
        .rank = (int)o.rank, .alpha = o.alpha, .rslora = o.rslora, .dropout = o.dropout, .targets = o.targets
    };
    struct trainable_options to = { .lora = is_lora() ? &t->lora : NULL,
                                    .adapter = o.adapter,
                                    .rows_from = strcmp(o.train_rows, "latent") == 0
                                                     ? dual_meta(rows_dual(t->rows))->visible
                                                     : 0,
                                    .seed = (uint64_t)common.seed,
                                    .max_rows = rows,
                                    .recompute = o.recompute,
                                    .by_chance = is_by_chance() };
    memory_plan(&plan, t->m, &to);
    struct buf b = BUF_INIT;
    memory_text(&plan, &b);
    log_info("%s", b.s);
    buf_release(&b);
    if (memory_check(&plan, t->m, &to, memory_limit, e) < 0)
        return -1;
    return trainable_open(&t->t, t->m, &to, e) < 0 || optimizer_open(&t->opt, t->t, t->d, o.decay, o.max_norm, e) < 0
               ? -1
               : 0;
}

/* A dual model of full copies whose rows are frozen: what that means is said, and that it is so is tested. */
static int say_identity(struct train *t, struct err *e)
{
    const struct dual *v = rows_dual(t->rows);
    const uint32_t *list;
    struct identity i;
    if (!v || !is_lora() || strcmp(o.train_rows, "none") != 0 || strcmp(dual_meta(v)->mode, "full_copy") != 0)
        return 0;
    batches_step(t->batches, 0, &list);
    if (train_identity(t->t, v, &t->rows->row[list[0]], &i, e) < 0)
        return -1;
    if (fabs(identity_gap(&i)) <= IDENTITY_TOLERANCE)
        log_info(
            "latent rows are copies and stay so: the loss of this model (%.6f) is the standard model's (%.6f) plus "
            "ln 2 (off by %.1e), and it learns what that would learn; --train-rows latent makes it another",
            i.dual, i.standard, identity_gap(&i));
    else
        log_warn("latent rows are no copies of the visible ones: the loss of this model (%.6f) is not the standard "
                 "model's (%.6f) plus ln 2; they were trained before, or made another way",
                 i.dual, i.standard);
    return 0;
}

/* Logits of rows of the first step, for which memory was made, as they were trained. */
static int take_probe(struct train *t, struct err *e)
{
    const uint32_t *list;
    uint32_t n = batches_step(t->batches, 0, &list);
    pass_fill(&t->probe, t->rows, list, n > 4 ? 4 : n,
              t->rows->row[list[0]].n); /* one row, or more while they are short */
    int width = t->config.encoder ? t->config.labels : t->config.vocab;
    t->nprobe = t->probe.b.rows < 128 ? t->probe.b.rows : 128;
    t->logits = xreallocarray(NULL, (size_t)t->nprobe * (size_t)width, sizeof *t->logits);
    return trainable_logits(t->t, &t->probe.b, 0, t->nprobe, t->logits, e);
}

/* ---- the output ---- */

static int write_model(struct train *t, const char *dir, struct err *e)
{
    return output_model(dir, t->t, t->m, t->place.dir, dtype_of(o.dtype), e) < 0 ||
                   output_tokenizer(dir, t->tokenizer, e) < 0
               ? -1
               : 0;
}

static int make_folder(const char *dir, struct err *e)
{
    return mkdir(dir, 0777) < 0 ? err_errno(e, "%s: cannot make the folder", dir) : 0;
}

static void close_model(struct train *t)
{
    optimizer_close(&t->opt);
    trainable_close(t->t);
    model_close(t->m);
    t->t = NULL;
    t->m = NULL;
}

/* Puts the metrics into the folder; they may hold clocks, the folder's hash leaves them out. */
static int copy_metrics(const struct checkpoint *c, const char *part, struct err *e)
{
    char *from = checkpoint_metrics_path(c), *to = path_join(part, "metrics.jsonl");
    struct buf b = BUF_INIT;
    int rc = file_read(&b, from, 0, e);
    if (rc == 0)
        rc = file_write_atomic(to, b.s ? b.s : "", b.len, e);
    buf_release(&b);
    free(from);
    free(to);
    return rc;
}

static void put_counts(struct train *t, const struct run_result *r, const struct drift *d, const char *fingerprint)
{
    struct buf b = BUF_INIT;
    free(t->manifest.counts);
    buf_printf(&b, "\"fingerprint\": \"%s\", \"rows\": %u, \"eval_rows\": %u, \"dropped\": %llu, \"cut\": %llu, ",
               fingerprint, t->batches->ntrain, t->batches->neval, (unsigned long long)t->rows->dropped,
               (unsigned long long)t->rows->cut);
    if (rows_dual(t->rows))
        buf_printf(&b, "\"endless\": %llu, \"visible\": %llu, \"latent_tokens\": %llu, \"stayed_tokens\": %llu, ",
                   (unsigned long long)t->rows->endless, (unsigned long long)t->rows->visible,
                   (unsigned long long)t->rows->latent, (unsigned long long)t->rows->stayed);
    buf_printf(&b, "\"rejected\": %lld, \"steps\": %lld, \"tokens\": %lld, \"loss\": ", (long long)t->rejected,
               (long long)t->batches->steps, (long long)r->tokens);
    json_put_double(&b, r->loss);
    if (r->best_step) {
        buf_printf(&b, ", \"best_step\": %lld, \"eval_loss\": ", (long long)r->best_step);
        json_put_double(&b, r->eval_loss);
    }
    buf_puts(&b, ", \"drift_max\": ");
    json_put_double(&b, d->most);
    buf_puts(&b, ", \"drift_mean\": ");
    json_put_double(&b, d->mean);
    t->manifest.counts = buf_take(&b);
    t->manifest.seconds = log_seconds();
}

/* What PEFT finds the base by. A name of the hub stays as it is. Of a folder only the last component of its real path:
 * a longer one would be a path of this machine, and what is written would depend on how the folder was spelled. */
static char *base_name(const struct train *t)
{
    char *real = realpath(t->place.dir, NULL);
    bool local = file_is_dir(t->place.name) || strncmp(t->place.name, "embedded:", 9) == 0;
    char *name = xstrdup(local && real ? path_base(real) : t->place.name);
    free(real);
    return name;
}

static int write_adapter(struct train *t, const char *dir, struct err *e)
{
    char *base = base_name(t);
    int rc = output_adapter(dir, t->t, &t->lora, &t->config, base, e) < 0 || output_tokenizer(dir, t->tokenizer, e) < 0
                 ? -1
                 : 0;
    free(base);
    return rc;
}

static int write_parts(struct train *t, const char *part, const char *adapter, const char *model, struct err *e)
{
    if (!is_lora())
        return write_model(t, part, e);
    return make_folder(adapter, e) < 0 || make_folder(model, e) < 0 || write_adapter(t, adapter, e) < 0 ||
                   write_model(t, model, e) < 0
               ? -1
               : 0;
}

/* Weights that grew over what their type holds, or became no numbers in the last step. */
static int check_drift(const struct drift *d, const char *dir, struct err *e)
{
    if (isfinite(d->most) && isfinite(d->scale))
        return 0;
    return err_set(e,
                   "%s: the model computes no numbers: its weights grew too large, for what is trained or for the type "
                   "they are written in (--dtype float32, --lr)",
                   dir);
}

static int write_output(struct train *t, const struct checkpoint *c, const struct run_result *r, struct err *e)
{
    struct folder *f;
    struct drift drift;
    char fingerprint[33];
    if (folder_open(&f, common.output, e) < 0)
        return -1;
    const char *part = folder_path(f);
    char *adapter = path_join(part, "adapter"), *merged = path_join(part, "merged");
    const char *model = is_lora() ? merged : part;
    int width = t->config.encoder ? t->config.labels : t->config.vocab;
    int rc = take_probe(t, e);
    if (rc == 0)
        rc = write_parts(t, part, adapter, model, e);
    if (rc == 0) {
        close_model(t);
        rc = output_drift(model, t->d, &t->probe.b, t->nprobe, width, t->logits, &drift, e);
    }
    if (rc == 0 && (copy_metrics(c, part, e) < 0 || model_fingerprint(model, fingerprint, e) < 0))
        rc = -1;
    if (rc == 0) {
        rc = check_drift(&drift, model, e);
    }
    if (rc == 0) {
        log_info("what was written, against what was trained: logits of %lld %s differ by %.3g at most, %.3g in the "
                 "mean (largest logit %.3g)",
                 COUNTED(drift.tokens, "token", "tokens"), drift.most, drift.mean, drift.scale);
        put_counts(t, r, &drift, fingerprint);
        if (is_lora() && (rc = folder_describe(merged, &t->manifest, e)) == 0)
            put_counts(t, r, &drift, fingerprint);
    }
    if (rc == 0)
        rc = folder_commit(f, &t->manifest, e);
    folder_close(f);
    free(adapter);
    free(merged);
    return rc;
}

/* ---- the run ---- */

static int64_t widest(const struct model_config *c)
{
    int64_t w = c->hidden, q = (int64_t)c->heads * c->head_dim;
    if (q > w)
        w = q;
    return c->ffn > w ? c->ffn : w;
}

static int train(struct train *t, struct checkpoint *c, struct err *e)
{
    struct run_options ro = { .lr = o.lr,
                              .warmup_ratio = o.warmup,
                              .schedule = schedule_of(o.scheduler),
                              .save_every = o.save_every,
                              .eval_every = o.eval_every,
                              .stop = stage_interrupted,
                              .width = widest(&t->config) };
    struct run_result result;
    if (open_trainable(t, e) < 0 || say_identity(t, e) < 0)
        return -1;
    if (strncmp(t->d->name, "cpu", 3) == 0) /* measured only now that there are steps to measure against it */
        ro.peak = peak_flops((int)common.threads, 0);
    if (train_run(t->t, &t->opt, t->batches, c, &ro, &result, e) < 0 || write_output(t, c, &result, e) < 0)
        return -1;
    log_info("%s: %lld %s, loss %.4f, %lld %s, %.0f tokens/s", common.output,
             COUNTED(t->batches->steps, "step", "steps"), result.loss, COUNTED(result.tokens, "token", "tokens"),
             result.seconds > 0 ? (double)result.tokens / result.seconds : 0);
    return 0;
}

static char *checkpoint_dir(const struct train *t)
{
    struct buf b = BUF_INIT;
    size_t n = strlen(common.output);
    while (n > 1 && common.output[n - 1] == '/')
        n--;
    buf_printf(&b, "%.*s.%.16s.checkpoint", (int)n, common.output, t->manifest.key);
    return buf_take(&b);
}

static int run_rows(struct train *t, struct err *e)
{
    struct batch_spec spec = { .seed = (uint64_t)common.seed,
                               .eval_ratio = o.eval_ratio,
                               .batch_rows = o.batch_rows,
                               .batch_tokens = o.batch_tokens,
                               .accumulate = o.accumulate,
                               .pass_tokens = (int)o.pass_tokens,
                               .epochs = o.epochs,
                               .max_steps = o.max_steps };
    struct checkpoint *c;
    int taken = folder_take(common.output, t->manifest.key, e); /* piped rows: known only now */
    if (taken != 0)
        return taken < 0 ? -1 : 0;
    if (show_rows(t, e) < 0 || batches_open(&t->batches, t->rows, &spec, e) < 0 || open_model(t, e) < 0)
        return -1;
    if (t->batches->steps == 1 && schedule_at(schedule_of(o.scheduler), 0, 1, schedule_warmup(o.warmup, 1)) == 0)
        log_warn("the only step is the first of a warmup, with learning rate 0: nothing is learnt (--warmup 0)");
    log_info("%lld %s, %lld %s; %u set aside; %s on %s (%s)", COUNTED(t->batches->ntrain, "row", "rows"),
             COUNTED(t->batches->steps, "step", "steps"), t->batches->neval, o.init ? o.init : t->place.name,
             t->d->name, t->d->numerics);
    char *dir = checkpoint_dir(t);
    int rc = checkpoint_open(&c, dir, e);
    if (rc == 0) {
        rc = train(t, c, e);
        checkpoint_close(c, rc == 0 || c->step == 0); /* nothing was saved: nothing stays */
    }
    free(dir);
    return rc;
}

static void release(struct train *t)
{
    close_model(t);
    pass_release(&t->probe);
    free(t->logits);
    batches_close(t->batches);
    rows_close(t->rows);
    rec_close(t->in);
    if (t->d)
        device_close(t->d);
    manifest_release(&t->manifest);
    model_config_release(&t->config);
}

static int run_located(struct train *t, int nfiles, char **files, struct err *e)
{
    if (model_config_read(&t->config, t->place.dir, e) < 0)
        return TOOL_FAILED;
    int rc = is_lora() ? lora_check_targets(&t->config, o.targets, e) : 0;
    if (rc == 0)
        rc = describe(t, e);
    if (rc == 0)
        rc = already_there(t, nfiles, files, e);
    if (rc == 0) {
        stage_catch_signals();
        rc = read_rows(t, nfiles, files, e);
        if (rc == 0)
            rc = run_rows(t, e);
    }
    release(t);
    return rc < 0 ? TOOL_FAILED : t->rejected ? TOOL_REJECTS : TOOL_OK;
}

/* The folder of --init: FILE is DIR/config.json, or DIR. */
static int locate_init(struct model_place *p, struct err *e)
{
    *p = (struct model_place){ .name = xstrdup(o.init) };
    if (file_is_dir(o.init))
        p->dir = xstrdup(o.init);
    else if (strcmp(path_base(o.init), "config.json") == 0)
        p->dir =
            path_base(o.init) == o.init ? xstrdup(".") : xstrndup(o.init, (size_t)(path_base(o.init) - o.init) - 1);
    else
        return err_set(e, "--init %s: expected a config.json, or a folder that has one", o.init);
    return 0;
}

static int run(const struct tool *tool, int nfiles, char **files, struct err *e)
{
    struct train t = { .tool = tool };
    if (o.preset) {
        char *preset = find_preset(o.preset, e);
        int bad = preset ? read_preset(preset, e) : -1;
        free(preset);
        if (bad < 0)
            return TOOL_MISUSE;
    }
    int rc = check(e);
    if (rc != 0)
        return rc;
    if (o.init ? locate_init(&t.place, e) < 0
               : model_locate(&t.place, "--model", o.model, "MODEL", "embedded:reasoner", e) < 0)
        rc = TOOL_FAILED;
    else
        t.tokenizer = o.init ? o.tokenizer : t.place.dir;
    if (rc == 0)
        rc = run_located(&t, nfiles, files, e);
    model_place_release(&t.place);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "train", "[OPTION]... -o DIR [FILE]...", "a model out of rows: LoRA, full, or from nothing", 2, opts, run
    };
    return tool_main(&tool, argc, argv);
}
