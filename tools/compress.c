/* compress - chains of thought made shorter, all ratios of a sample together. See latent-compress(1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "kernels/kernels.h"
#include "model/locate.h"
#include "task/compress.h"
#include "tools/tool.h"

static struct {
    struct opt_reals ratio;
    const char *model, *target, *method, *family, *word_score, *cl100k, *scores, *save_scores, *output_dir;
    struct opt_list force;
    bool compat, fixed_specials, force_digits, drop_consecutive, math_safe, exact, labels, text, keep_incorrect;
    int64_t max_tokens, batch;
} o = { .ratio = { { 0.5 }, 1 },
        .method = "llmlingua2",
        .word_score = "mean",
        .math_safe = true,
        .max_tokens = -1,
        .batch = 4096 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("What is kept"),
    OPT_ROW_REALS("ratio", 'r', &o.ratio, "R,...", "shares of the tokens to keep, each in (0, 1]", OPT_RESULT, 1e-6, 1),
    OPT_ROW_ALIAS("ratio-pool", "ratio"),
    OPT_ROW_FLAG("exact", 'x', &o.exact, "fill up to the target exactly, in target tokens if there is a target model",
                 OPT_RESULT),
    OPT_ROW_FLAG("math-safe", 0, &o.math_safe, "never cut inside numbers and mathematics; keep every \\boxed{}",
                 OPT_RESULT),
    OPT_ROW_LIST("force", 'f', &o.force, "WORD", "never drop WORD (may be repeated)", OPT_RESULT),
    OPT_ROW_FLAG("force-digits", 0, &o.force_digits, "never drop what has a digit", OPT_RESULT),
    OPT_ROW_FLAG("drop-consecutive", 0, &o.drop_consecutive, "drop a force word right behind itself (with --compat)",
                 OPT_RESULT),
    OPT_ROW_CHOICE("word-score", 0, &o.word_score, "mean|first", "a word scores like its pieces' mean or its first",
                   OPT_RESULT),
    OPT_ROW_GROUP("Which samples"),
    OPT_ROW_INT("max-cot-tokens", 'm', &o.max_tokens, "N",
                "skip samples with a longer reasoning_token_count; -1: none (500 with --compat)", OPT_RESULT, -1, 1e9),
    OPT_ROW_FLAG("keep-incorrect", 0, &o.keep_incorrect, "take samples whose answer is wrong too", OPT_RESULT),
    OPT_ROW_FLAG("text", 't', &o.text, "the input is plain text, every line one to compress", OPT_RESULT),
    OPT_ROW_GROUP("Models"),
    OPT_ROW_STRING(
        "model", 0, &o.model, "M",
        "what scores: a compressor ($LLMLINGUA_PATH, embedded:compressor), or for the other methods a causal model "
        "($MODEL, embedded:reasoner)",
        OPT_RUN),
    OPT_ROW_ALIAS("llmlingua-path", "model"),
    OPT_ROW_CHOICE("method", 0, &o.method, "llmlingua2|surprisal|leave-out", "what a score is", OPT_RESULT),
    OPT_ROW_STRING("target-model", 0, &o.target, "M", "count in the tokens of this model (folder, or tokenizer.json)",
                   OPT_RUN),
    OPT_ROW_STRING("scores", 0, &o.scores, "FILE", "take the scores from FILE; no model is needed", OPT_RUN),
    OPT_ROW_STRING("save-scores", 0, &o.save_scores, "FILE", "write the scores to FILE too", OPT_RUN),
    OPT_ROW_INT("batch", 'b', &o.batch, "N", "tokens the model sees in one pass", OPT_RUN, 1, 1 << 22),
    OPT_ROW_GROUP("Output"),
    OPT_ROW_FLAG("labels", 0, &o.labels, "add words, scores and keep flags to each record", OPT_RESULT),
    OPT_ROW_STRING("output-dir", 0, &o.output_dir, "DIR",
                   "write DIR/compressed_ratio_R.jsonl too, the reference's files", OPT_RUN),
    OPT_ROW_GROUP("The reference"),
    OPT_ROW_FLAG("compat", 0, &o.compat, "compress as the llmlingua package does, faults included", OPT_RESULT),
    OPT_ROW_STRING("cl100k", 0, &o.cl100k, "FILE", "rank table of cl100k_base, needed by --compat", OPT_RUN),
    OPT_ROW_FLAG("fixed-specials", 0, &o.fixed_specials, "--compat, but with the encoder's own special tokens",
                 OPT_RESULT),
    OPT_ROW_CHOICE("model-family", 0, &o.family, "qwen|llama3",
                   "--compat: llama3 forces \"Step\", \":\" and digits and drops repeats", OPT_RESULT),
    OPT_ROW_END,
};

/* ---- outputs: the stream, the reference's files, the scores ---- */

struct outputs {
    struct stage_output v[COMPRESS_MAX_RATIOS + 2];
    int n, dir, scores; /* dir: where the reference's files begin; scores: -1 without */
    char *path[COMPRESS_MAX_RATIOS];
    char part[COMPRESS_MAX_RATIOS][32];
};

static void name_outputs(struct outputs *out)
{
    *out = (struct outputs){ .scores = -1 };
    out->v[out->n++] = (struct stage_output){ common.output, "" };
    out->dir = out->n;
    for (size_t i = 0; o.output_dir && i < o.ratio.n; i++) {
        char name[64];
        snprintf(name, sizeof name, "compressed_ratio_%g.jsonl", o.ratio.v[i]);
        snprintf(out->part[i], sizeof out->part[i], "ratio %g", o.ratio.v[i]);
        out->path[i] = path_join(o.output_dir, name);
        out->v[out->n++] = (struct stage_output){ out->path[i], out->part[i] };
    }
    if (o.save_scores) {
        out->scores = out->n;
        out->v[out->n++] = (struct stage_output){ o.save_scores, "scores" };
    }
}

static void free_outputs(struct outputs *out)
{
    for (int i = 0; i < COMPRESS_MAX_RATIOS; i++)
        free(out->path[i]);
}

/* ---- samples on their way ---- */

struct item {
    struct buf line;
    struct rec rec;
    struct hash128 hash;
    uint64_t unit;
};

enum { MOST_ITEMS = 512, BYTES_A_TOKEN = 16 }; /* a batch ends with so many texts, or so many bytes a token of a pass */

/* While the device computes one batch, the one before is cut and written and the next is read. */
struct batch {
    struct compress_job *job; /* [MOST_ITEMS] */
    struct item *item;
    size_t n, bytes;
    bool begun;
};

struct work {
    struct stage *st;
    struct compressor *c;
    const struct outputs *out;
    struct batch batch[2], *now, *before; /* now: being filled */
    uint64_t seen, done;
    long wrong, empty, long_ones, rejected;
};

static int put_nothing(struct work *w, uint64_t unit, struct hash128 hash, struct err *e)
{
    for (int i = 0; i < w->out->n; i++)
        if (!stage_have(w->st, i, unit, hash) && stage_put(w->st, i, unit, hash, "", 0, e) < 0)
            return -1;
    return 0;
}

static int put_job(struct work *w, const struct item *it, const struct compress_job *j, struct buf *b, struct err *e)
{
    const struct rec *sample = o.text ? NULL : &it->rec;
    for (int k = 0; k < w->out->n; k++) {
        if (stage_have(w->st, k, it->unit, it->hash))
            continue;
        buf_reset(b);
        if (k == 0)
            for (size_t r = 0; r < o.ratio.n; r++)
                compress_record(w->c, j, sample, it->unit, r, false, b);
        else if (k == w->out->scores)
            buf_add(b, j->scores.s, j->scores.len);
        else
            compress_record(w->c, j, sample, it->unit, (size_t)(k - w->out->dir), true, b);
        if (stage_put(w->st, k, it->unit, it->hash, b->s ? b->s : "", b->len, e) < 0)
            return -1;
    }
    return 0;
}

/* The batch before is finished and written, if there is one. */
static int settle(struct work *w, struct err *e)
{
    struct batch *x = w->before;
    struct buf b = BUF_INIT;
    int rc = x->begun ? compressor_end(w->c, e) : 0;
    for (size_t i = 0; i < x->n; i++) {
        if (x->begun && rc == 0)
            rc = put_job(w, &x->item[i], &x->job[i], &b, e);
        rec_release(&x->item[i].rec);
    }
    w->done += x->begun ? x->n : 0;
    x->n = x->bytes = 0;
    x->begun = false;
    buf_release(&b);
    progress_at(w->seen, NULL);
    return rc;
}

/* Begins with the batch that was filled; then the one before has its turn, also where this fails. */
static int flush(struct work *w, struct err *e)
{
    struct err older;
    struct batch *x = w->now;
    int rc = x->n ? compressor_begin(w->c, x->job, x->n, e) : 0;
    x->begun = rc == 0 && x->n;
    if (settle(w, &older) < 0) {
        *e = older;
        rc = -1;
    }
    w->now = w->before;
    w->before = x;
    return rc == 0 && stage_interrupted() ? stage_stopped(w->st, e) : rc;
}

/* Is the sample to be compressed? 1, 0, or -1. Its reasoning is appended to text. */
static int wanted(struct work *w, const struct rec *r, struct buf *text, struct err *e)
{
    struct json v;
    bool correct = true;
    int64_t tokens = 0;
    if (!o.keep_incorrect) {
        if (rec_bool(r, "is_correct", &correct, e) < 0)
            return err_set(e, "%s: is_correct must be true or false (grade marks samples; --keep-incorrect takes all)",
                           r->where);
        if (!correct)
            return w->wrong++, 0;
    }
    int rc = rec_text_or_null(r, "reasoning", text, e);
    if (rc < 0)
        return -1;
    if (rc == 0 || text->len == 0)
        return w->empty++, 0;
    if (o.max_tokens >= 0 && rec_get(r, "reasoning_token_count", &v) && json_kind(v) != JSON_NULL) {
        if (rec_int(r, "reasoning_token_count", &tokens, e) < 0)
            return -1;
        if (tokens > o.max_tokens)
            return w->long_ones++, 0;
    }
    return 1;
}

/* A line of text; bytes that are no characters become U+FFFD. */
static void take_text(const struct rec *r, struct buf *text)
{
    const char *s = r->line;
    size_t n = r->len;
    while (n) {
        size_t good = utf8_check(s, n);
        buf_add(text, s, good);
        s += good;
        n -= good;
        if (n) {
            buf_puts(text, "\xef\xbf\xbd");
            s++;
            n--;
        }
    }
}

/* One input line. bad: it is no record. */
static int take(struct work *w, const struct rec *r, bool bad, struct err *e)
{
    struct hash128 hash = hash_bytes(r->line, r->len);
    struct batch *x = w->now;
    struct compress_job *j = &x->job[x->n];
    struct item *it = &x->item[x->n];
    bool have = true;
    for (int i = 0; i < w->out->n && have; i++)
        have = stage_have(w->st, i, r->index, hash);
    if (have)
        return 0;
    buf_reset(&j->text);
    buf_reset(&j->label);
    int rc = 1;
    if (o.text)
        take_text(r, &j->text);
    else
        rc = bad ? -1 : wanted(w, r, &j->text, e);
    if (rc < 0) {
        if (!common.keep_going)
            return -1;
        log_warn("%s", e->msg);
        w->rejected++;
    }
    if (rc <= 0)
        return put_nothing(w, r->index, hash, e);
    buf_puts(&j->label, r->where);
    buf_reset(&it->line);
    buf_add(&it->line, r->line, r->len);
    it->rec = (struct rec){ 0 };
    if (!o.text && rec_parse(&it->rec, it->line.s, it->line.len, j->label.s, e) < 0)
        return -1;
    j->sample = o.text ? NULL : &it->rec;
    it->hash = hash;
    it->unit = r->index;
    x->n++;
    x->bytes += j->text.len;
    if (x->n < MOST_ITEMS && x->bytes < (size_t)o.batch * BYTES_A_TOKEN)
        return 0;
    return flush(w, e);
}

static int take_all(struct work *w, struct err *e)
{
    struct rec r;
    int rc;
    while ((rc = rec_read(stage_input(w->st), &r, e)) != 0) {
        if (rc == -1)
            return -1;
        w->seen++; /* a line that is no record is still a line: text needs no more */
        if (take(w, &r, rc == REC_BAD, e) < 0)
            return -1;
    }
    return flush(w, e);
}

/* What has begun is written, whatever came after it. */
static int move_records(struct work *w, struct err *e)
{
    struct err older;
    int rc = take_all(w, e);
    if (settle(w, &older) < 0) {
        *e = older;
        rc = -1;
    }
    return rc;
}

static int finish(struct work *w, struct err *e)
{
    struct buf counts = BUF_INIT;
    buf_printf(
        &counts,
        "{\"samples\": %llu, \"compressed\": %llu, \"resumed\": %llu, \"incorrect\": %ld, \"without_reasoning\": "
        "%ld, \"too_long\": %ld, \"rejected\": %ld}",
        (unsigned long long)w->seen, (unsigned long long)w->done, (unsigned long long)stage_resumed(w->st), w->wrong,
        w->empty, w->long_ones, w->rejected);
    int rc = stage_commit(w->st, counts.s, e);
    buf_release(&counts);
    double seconds = compressor_model_seconds(w->c);
    if (rc == 0)
        log_info(
            "%llu of %lld %s compressed (%ld wrong, %ld without reasoning, %ld too long); model: %lld %s in %.1f s",
            (unsigned long long)w->done, COUNTED(w->seen, "sample", "samples"), w->wrong, w->empty, w->long_ones,
            COUNTED(compressor_model_rows(w->c), "token", "tokens"), seconds);
    return rc;
}

static void free_batch(struct batch *x)
{
    for (size_t i = 0; i < MOST_ITEMS; i++) {
        compress_job_release(&x->job[i]);
        if (i < x->n)
            rec_release(&x->item[i].rec);
        buf_release(&x->item[i].line);
    }
    free(x->job);
    free(x->item);
}

static int compress_all(struct stage *st, const struct compress_spec *spec, const struct outputs *out, struct err *e,
                        long *rejected)
{
    struct work w = { .st = st, .out = out };
    for (int i = 0; i < 2; i++)
        w.batch[i] = (struct batch){ .job = xcalloc(MOST_ITEMS, sizeof *w.batch[i].job),
                                     .item = xcalloc(MOST_ITEMS, sizeof *w.batch[i].item) };
    w.now = &w.batch[0];
    w.before = &w.batch[1];
    int rc = compressor_open(&w.c, spec, e);
    if (rc == 0) {
        progress_begin("compressing", 0, "samples");
        rc = move_records(&w, e);
        progress_end();
    }
    if (rc == 0)
        rc = finish(&w, e);
    *rejected = w.rejected;
    for (int i = 0; i < 2; i++)
        free_batch(&w.batch[i]);
    compressor_close(w.c);
    return rc;
}

/* ---- options together ---- */

static const char *const llama3_force[] = { "Step", ":" };

static int check_options(struct compress_spec *s, struct err *e)
{
    for (size_t i = 0; i < o.ratio.n; i++)
        for (size_t k = 0; k < i; k++)
            if (o.ratio.v[i] == o.ratio.v[k])
                return tool_misuse(e, "--ratio: %g is there twice", o.ratio.v[i]);
    s->method = strcmp(o.method, "surprisal") == 0   ? COMPRESS_SURPRISAL
                : strcmp(o.method, "leave-out") == 0 ? COMPRESS_LEAVE_OUT
                                                     : COMPRESS_LLMLINGUA2;
    if (o.compat && s->method != COMPRESS_LLMLINGUA2)
        return tool_misuse(e, "--compat and --method %s exclude each other: the package has no such method", o.method);
    if (s->method == COMPRESS_LEAVE_OUT && (o.text || o.scores || o.save_scores))
        return tool_misuse(e, "--method leave-out has no %s: its scores depend on question and answer too",
                           o.text     ? "--text"
                           : o.scores ? "--scores"
                                      : "--save-scores");
    if (o.compat && o.exact)
        return tool_misuse(e, "--compat and --exact exclude each other");
    if (o.compat && !o.cl100k)
        return tool_misuse(e, "--compat needs --cl100k FILE: its weights and counts are cl100k tokens");
    if (!o.compat && (o.family || o.fixed_specials || o.drop_consecutive || o.cl100k))
        return tool_misuse(e, "%s is for --compat only",
                           o.family             ? "--model-family"
                           : o.fixed_specials   ? "--fixed-specials"
                           : o.drop_consecutive ? "--drop-consecutive"
                                                : "--cl100k");
    if (o.scores && o.save_scores)
        return tool_misuse(e, "--scores and --save-scores exclude each other: the scores are in a file already");
    if (o.compat && !opt_given(tool_options(), "max-cot-tokens"))
        o.max_tokens = 500;
    s->rule = (struct lingua_spec){ .compat = o.compat,
                                    .fixed_specials = o.fixed_specials,
                                    .force = o.force.v,
                                    .nforce = o.force.n,
                                    .force_digits = o.force_digits,
                                    .drop_consecutive = o.drop_consecutive,
                                    .first = strcmp(o.word_score, "first") == 0,
                                    .math_safe = o.math_safe,
                                    .exact = o.exact };
    if (o.family && strcmp(o.family, "llama3") == 0) {
        s->rule.force = llama3_force;
        s->rule.nforce = 2;
        s->rule.force_digits = s->rule.drop_consecutive = true;
    }
    return TOOL_OK;
}

struct places {
    struct model_place model, target;
    char *target_file; /* what the key takes of the target: its tokenizer */
};

/* A folder or tokenizer.json is taken as it is: it need not be a whole model. */
static int locate_target(struct places *p, const char **dir, struct err *e)
{
    *dir = o.target;
    if (!file_is_dir(o.target) && !path_ends_with(o.target, ".json")) {
        if (model_locate(&p->target, "--target-model", o.target, NULL, NULL, e) < 0)
            return -1;
        *dir = p->target.dir;
    }
    static const char *const names[] = { "tokenizer.json", "vocab.json", "vocab.txt" };
    p->target_file = file_is_dir(*dir) ? NULL : xstrdup(*dir);
    for (int i = 0; i < 3 && !p->target_file; i++) {
        char *path = path_join(*dir, names[i]);
        if (file_exists(path))
            p->target_file = path;
        else
            free(path);
    }
    return p->target_file ? 0 : err_set(e, "--target-model: %s has no tokenizer.json", *dir);
}

static int locate_models(struct places *p, struct compress_spec *s, struct err *e)
{
    if (!o.scores) {
        int rc = s->method != COMPRESS_LLMLINGUA2
                     ? model_locate(&p->model, "--model", o.model, "MODEL", "embedded:reasoner", e)
                     : model_locate(&p->model, "--model", o.model, "LLMLINGUA_PATH", "embedded:compressor", e);
        if (rc < 0)
            return -1;
        s->model = p->model.dir;
    }
    return o.target ? locate_target(p, &s->target, e) : 0;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct compress_spec s = { .cl100k = o.cl100k,
                               .scores = o.scores,
                               .want_scores = o.save_scores != NULL,
                               .want_labels = o.labels,
                               .ratio = o.ratio.v,
                               .nratio = o.ratio.n,
                               .device = common.device,
                               .threads = (int)common.threads,
                               .rows = (int)o.batch };
    struct places p = { .target_file = NULL };
    struct outputs out;
    struct stage *st = NULL;
    long rejected = 0;
    int rc = check_options(&s, e);
    if (rc != TOOL_OK)
        return rc;
    name_outputs(&out);
    rc = locate_models(&p, &s, e);
    struct stage_side sides[] = { { "target-model", p.target_file }, { "cl100k", o.cl100k }, { "scores", o.scores } };
    struct stage_model model = { s.method != COMPRESS_LLMLINGUA2 ? "model" : "compressor", p.model.name,
                                 p.model.fingerprint };
    struct stage_spec spec = { .numerics = o.scores ? "exact" : device_numerics(common.device),
                               .inputs = (const char *const *)files,
                               .ninputs = nfiles,
                               .outputs = out.v,
                               .noutputs = out.n,
                               .sides = sides,
                               .nsides = 3,
                               .models = &model,
                               .nmodels = o.scores ? 0 : 1,
                               .resume = true };
    if (rc == 0)
        rc = tool_stage(&st, t, &spec, e);
    if (rc == STAGE_RUN) {
        rc = compress_all(st, &s, &out, e, &rejected);
        rc = rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
        stage_close(st);
    }
    free_outputs(&out);
    model_place_release(&p.model);
    model_place_release(&p.target);
    free(p.target_file);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "compress", "[OPTION]... [FILE]...", "chains of thought made shorter, all ratios of a sample together", 1, opts,
        run
    };
    return tool_main(&tool, argc, argv);
}
