/* schema.c - see schema.h. */
#include "io/schema.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/manifest.h"
#include "io/record.h"

/* ---- the table ---- */

#define STRING SCHEMA_STRING
#define INTEGER SCHEMA_INTEGER
#define NUMBER SCHEMA_NUMBER
#define BOOLEAN SCHEMA_BOOLEAN
#define NONE SCHEMA_NULL

static const struct schema_field question[] = {
    { "benchmark", STRING, SCHEMA_MAY },     { "source_id", STRING, SCHEMA_KEY },   { "question", STRING, SCHEMA_KEY },
    { "gold_answer", STRING, SCHEMA_KEY },   { "subject", SCHEMA_ANY, SCHEMA_MAY }, { "level", SCHEMA_ANY, SCHEMA_MAY },
    { "unique_id", SCHEMA_ANY, SCHEMA_MAY }, { "solution", STRING, SCHEMA_MAY },
};

static const struct schema_field sample[] = {
    { "benchmark", STRING | NONE, SCHEMA_OWN },
    { "source_id", STRING, SCHEMA_KEY },
    { "question_source_id", STRING | NONE, SCHEMA_OWN },
    { "sample_index", INTEGER | NONE, SCHEMA_OWN },
    { "question", STRING, SCHEMA_KEY },
    { "gold_answer", STRING | NONE, SCHEMA_OWN },
    { "prompt_format", STRING, SCHEMA_OWN },
    { "response_text", STRING, SCHEMA_OWN },
    { "reasoning", STRING | NONE, SCHEMA_OWN },
    { "answer", STRING | NONE, SCHEMA_OWN },
    { "is_correct", BOOLEAN | NONE, SCHEMA_OWN },
    { "reasoning_token_count", INTEGER, SCHEMA_OWN },
    { "response_token_count", INTEGER, SCHEMA_OWN },
    { "latent_tokens", INTEGER, SCHEMA_MAY },
    { "visible_tokens", INTEGER, SCHEMA_MAY },
    { "finish_reason", STRING, SCHEMA_NEW },
    { "seed", INTEGER, SCHEMA_NEW },
    { "equal", BOOLEAN, SCHEMA_MAY },
    { "extracted", STRING | NONE, SCHEMA_MAY },
    { "reason", STRING, SCHEMA_MAY },
    { "gold_form", STRING, SCHEMA_MAY },
    { "pred_form", STRING, SCHEMA_MAY },
    { "equal_compat", BOOLEAN, SCHEMA_MAY },
};

static const struct schema_field exemplar[] = {
    { "benchmark", STRING | NONE, SCHEMA_MAY }, { "source_id", STRING, SCHEMA_KEY },
    { "question", STRING, SCHEMA_KEY },         { "gold_answer", STRING | NONE, SCHEMA_MAY },
    { "reasoning", STRING, SCHEMA_KEY },        { "answer", STRING | NONE, SCHEMA_MAY },
    { "solution", STRING | NONE, SCHEMA_MAY },  { "think_token_count", INTEGER, SCHEMA_KEY },
};

static const struct schema_field compressed[] = {
    { "benchmark", STRING | NONE, SCHEMA_MAY },
    { "source_id", STRING, SCHEMA_KEY },
    { "question", STRING, SCHEMA_MAY },
    { "gold_answer", STRING | NONE, SCHEMA_MAY },
    { "answer", STRING | NONE, SCHEMA_MAY },
    { "compression_ratio", NUMBER, SCHEMA_KEY },
    { "original_reasoning", STRING, SCHEMA_OWN },
    { "compressed_reasoning", STRING, SCHEMA_KEY },
    { "original_reasoning_token_count", INTEGER, SCHEMA_OWN },
    { "compressed_reasoning_token_count", INTEGER, SCHEMA_OWN },
    { "actual_compression_rate", STRING, SCHEMA_OWN },
    { "question_source_id", STRING | NONE, SCHEMA_MAY },
    { "sample_index", INTEGER | NONE, SCHEMA_MAY },
    { "achieved_rate_target", NUMBER | NONE, SCHEMA_MAY },
    { "achieved_rate_compressor", NUMBER | NONE, SCHEMA_MAY },
    { "words", SCHEMA_STRINGS, SCHEMA_MAY },
    { "scores", SCHEMA_NUMBERS, SCHEMA_MAY },
    { "keep", SCHEMA_INTEGERS, SCHEMA_MAY },
    { "quality_score", NUMBER, SCHEMA_MAY },
    { "quality_score_key", STRING, SCHEMA_MAY },
};

static const struct schema_field saved_scores[] = {
    { "text", STRING, SCHEMA_KEY },         { "settings", STRING, SCHEMA_KEY },
    { "model", STRING, SCHEMA_KEY },        { "family", STRING, SCHEMA_KEY },
    { "chunks", SCHEMA_ARRAY, SCHEMA_KEY }, { "begin", SCHEMA_INTEGERS, SCHEMA_KEY },
    { "end", SCHEMA_INTEGERS, SCHEMA_KEY }, { "flags", STRING, SCHEMA_KEY },
    { "p", SCHEMA_NUMBERS, SCHEMA_KEY },    { "spans", SCHEMA_ARRAY, SCHEMA_MAY },
    { "pieces", STRING, SCHEMA_MAY },
};

static const struct schema_field conversation[] = {
    { "messages", SCHEMA_TURNS, SCHEMA_KEY },
    { "metadata", SCHEMA_OBJECT, SCHEMA_OWN },
    { "metadata.benchmark", STRING | NONE, SCHEMA_OWN },
    { "metadata.method", STRING, SCHEMA_OWN },
    { "metadata.source_id", STRING | NONE, SCHEMA_OWN },
    { "metadata.compression_ratio", NUMBER, SCHEMA_MAY },
    { "metadata.target_ratio", NUMBER, SCHEMA_MAY },
    { "metadata.prompt_format", STRING, SCHEMA_MAY },
    { "metadata.conditioned", BOOLEAN, SCHEMA_MAY },
    { "metadata.question_source_id", STRING | NONE, SCHEMA_MAY },
    { "metadata.sample_index", INTEGER | NONE, SCHEMA_MAY },
};

static const struct schema_field labelled_words[] = {
    { "words", SCHEMA_STRINGS, SCHEMA_KEY },
    { "labels", SCHEMA_INTEGERS, SCHEMA_KEY },
    { "metadata", SCHEMA_OBJECT, SCHEMA_OWN },
    { "metadata.benchmark", STRING | NONE, SCHEMA_MAY },
    { "metadata.method", STRING, SCHEMA_OWN },
    { "metadata.source_id", STRING, SCHEMA_OWN },
    { "metadata.compression_ratio", NUMBER, SCHEMA_OWN },
    { "metadata.question_source_id", STRING | NONE, SCHEMA_MAY },
    { "metadata.sample_index", INTEGER | NONE, SCHEMA_MAY },
};

static const struct schema_field labelled_ids[] = {
    { "ids", SCHEMA_INTEGERS, SCHEMA_KEY },
    { "labels", SCHEMA_INTEGERS, SCHEMA_KEY },
};

static const struct schema_field result[] = {
    { "benchmark", STRING | NONE, SCHEMA_OWN }, { "source_id", STRING, SCHEMA_KEY },
    { "sample_index", INTEGER, SCHEMA_OWN },    { "question", STRING, SCHEMA_OWN },
    { "gold_answer", STRING, SCHEMA_OWN },      { "compression_ratio", NUMBER, SCHEMA_KEY },
    { "prompt_format", STRING, SCHEMA_OWN },    { "response_text", STRING, SCHEMA_OWN },
    { "reasoning", STRING | NONE, SCHEMA_OWN }, { "extracted", STRING | NONE, SCHEMA_KEY },
    { "verdict", STRING, SCHEMA_OWN },          { "reason", STRING, SCHEMA_OWN },
    { "is_correct", BOOLEAN, SCHEMA_KEY },      { "is_correct_compat", BOOLEAN, SCHEMA_OWN },
    { "num_tokens", INTEGER, SCHEMA_KEY },      { "think_tokens", INTEGER, SCHEMA_KEY },
    { "latent_tokens", INTEGER, SCHEMA_MAY },   { "visible_tokens", INTEGER, SCHEMA_MAY },
    { "finish_reason", STRING, SCHEMA_KEY },    { "seed", INTEGER, SCHEMA_OWN },
};

static const struct schema_field reference_result[] = {
    { "source_id", STRING, SCHEMA_KEY },
    { "prediction", STRING, SCHEMA_KEY },
    { "thinking", STRING, SCHEMA_KEY },
    { "num_tokens", INTEGER, SCHEMA_KEY },
    { "think_tokens", INTEGER, SCHEMA_KEY },
    { "is_correct", BOOLEAN, SCHEMA_KEY },
    { "extracted", STRING | NONE, SCHEMA_KEY },
    { "num_latent_ids", INTEGER, SCHEMA_MAY },
    { "num_visible_ids", INTEGER, SCHEMA_MAY },
    { "raw_token_ids_head", SCHEMA_ARRAY, SCHEMA_MAY },
    { "raw_ids_around_think_end", SCHEMA_OBJECT, SCHEMA_MAY },
};

static const struct schema_field reference_summary[] = {
    { "type", STRING, SCHEMA_KEY },
    { "model_path", STRING, SCHEMA_KEY },
    { "prompt_format", STRING, SCHEMA_KEY },
    { "tokenskip_prompt", BOOLEAN, SCHEMA_KEY },
    { "compression_ratio", NUMBER, SCHEMA_KEY },
    { "num_samples", INTEGER, SCHEMA_KEY },
    { "correct", INTEGER, SCHEMA_KEY },
    { "accuracy", NUMBER, SCHEMA_KEY },
    { "avg_tokens", NUMBER, SCHEMA_KEY },
    { "avg_thinking_tokens", NUMBER, SCHEMA_KEY },
    { "avg_correct_tokens", NUMBER, SCHEMA_KEY },
};

static const struct schema_field score[] = {
    { "source_id", STRING, SCHEMA_MAY },
    { "question_source_id", STRING, SCHEMA_MAY },
    { "index", INTEGER, SCHEMA_MAY },
    { "compression_ratio", NUMBER | NONE, SCHEMA_MAY },
    { "answer", STRING, SCHEMA_MAY },
    { "logprob_answer", NUMBER | NONE, SCHEMA_SCORED },
    { "num_answer_tokens", INTEGER, SCHEMA_SCORED },
    { "logprob_boxed", NUMBER | NONE, SCHEMA_SCORED },
    { "num_boxed_tokens", INTEGER, SCHEMA_SCORED },
    { "logprob_post_cot", NUMBER | NONE, SCHEMA_SCORED },
    { "num_post_cot_tokens", INTEGER, SCHEMA_SCORED },
    { "input_token_count", INTEGER, SCHEMA_SCORED },
    { "latent_token_count", INTEGER, SCHEMA_MAY },
    { "skipped", BOOLEAN, SCHEMA_KEY },
    { "reason", STRING, SCHEMA_MAY },
    { "logprob", NUMBER, SCHEMA_SCORED },
    { "num_tokens", INTEGER, SCHEMA_SCORED },
    { "surprisal", NUMBER, SCHEMA_SCORED },
    { "entropy", NUMBER, SCHEMA_SCORED },
    { "mean_logprob_answer", NUMBER | NONE, SCHEMA_SCORED },
    { "mean_logprob_boxed", NUMBER | NONE, SCHEMA_SCORED },
    { "mean_logprob_post_cot", NUMBER | NONE, SCHEMA_SCORED },
    { "tokens", SCHEMA_OBJECT, SCHEMA_MAY },
};

static const struct schema_field log_step[] = {
    { "step", INTEGER, SCHEMA_KEY },
    { "epoch", NUMBER, SCHEMA_KEY },
    { "loss", NUMBER, SCHEMA_KEY },
    { "grad_norm", NUMBER, SCHEMA_KEY },
    { "learning_rate", NUMBER, SCHEMA_KEY },
    { "tokens", INTEGER, SCHEMA_KEY },
    { "tokens_per_second", NUMBER, SCHEMA_KEY },
    { "memory", INTEGER, SCHEMA_KEY },
};

static const struct schema_field log_eval[] = {
    { "step", INTEGER, SCHEMA_KEY },
    { "epoch", NUMBER, SCHEMA_KEY },
    { "eval_loss", NUMBER, SCHEMA_KEY },
};

#define FIELDS(f) f, sizeof f / sizeof *f

/* In the order in which a line is recognised. */
static const struct schema_kind kinds[] = {
    { "conversation", "TRAINING ROWS", "prepare", { "messages" }, FIELDS(conversation) },
    { "row of labelled words", "LABELLED WORDS", "prepare", { "words", "labels" }, FIELDS(labelled_words) },
    { "row of labelled tokens", "LABELLED TOKENS", NULL, { "ids", "labels" }, FIELDS(labelled_ids) },
    { "score", "SCORES", "score", { "skipped" }, FIELDS(score) },
    { "compressed sample", "COMPRESSED SAMPLES", "compress", { "compressed_reasoning" }, FIELDS(compressed) },
    { "compressor score", "SAVED SCORES", NULL, { "chunks", "flags", "p" }, FIELDS(saved_scores) },
    { "result", "RESULTS", "eval", { "num_tokens", "extracted", "finish_reason" }, FIELDS(result) },
    { "reference's result",
      "RESULTS OF THE REFERENCE",
      NULL,
      { "num_tokens", "prediction" },
      FIELDS(reference_result) },
    { "reference's summary", "SUMMARY OF THE REFERENCE", NULL, { "type", "accuracy" }, FIELDS(reference_summary) },
    { "exemplar", "EXEMPLARS", NULL, { "think_token_count" }, FIELDS(exemplar) },
    { "sample", "SAMPLES", "collect", { "source_id", "question", "response_text" }, FIELDS(sample) },
    { "training step", "TRAINING LOGS", NULL, { "step", "loss" }, FIELDS(log_step) },
    { "evaluation of a training", "EVALUATIONS IN TRAINING LOGS", NULL, { "step", "eval_loss" }, FIELDS(log_eval) },
    { "question", "QUESTIONS", "dataset", { "source_id", "question", "gold_answer" }, FIELDS(question) },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* What a manifest counts, when it rejected nothing: as many as there are lines. */
static const struct {
    const char *program, *count;
} line_counts[] = {
    { "dataset", "questions" }, { "collect", "samples" }, { "grade", "records" },
    { "select", "kept" },       { "prepare", "rows" },    { "eval", "samples" },
};

const struct schema_kind *schema_kinds(size_t *n)
{
    *n = KINDS;
    return kinds;
}

const char *schema_type_text(unsigned types, char text[SCHEMA_TYPE_TEXT])
{
    static const char *const name[] = { "string", "integer", "number",  "boolean",  "null",    "array",
                                        "object", "turns",   "strings", "integers", "numbers", "any" };
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        if (types >> i & 1)
            n += (size_t)snprintf(text + n, SCHEMA_TYPE_TEXT - n, "%s%s", n ? "/" : "", name[i]);
    return text;
}

/* ---- one value ---- */

static bool is_turns(struct json v)
{
    struct json_iter it = json_each(v);
    struct json turn, role, content;
    bool assistant = false;
    while (json_next(&it, NULL, &turn)) {
        if (json_kind(turn) != JSON_OBJECT || !json_get(turn, "role", &role) || json_kind(role) != JSON_STRING ||
            !json_get(turn, "content", &content) || json_kind(content) != JSON_STRING)
            return false;
        assistant = json_str_is(role, "assistant");
    }
    return assistant;
}

static bool is_number(struct json v)
{
    double x;
    return json_double(v, &x) && isfinite(x);
}

static bool all_are(struct json v, unsigned type)
{
    struct json_iter it = json_each(v);
    struct json item;
    int64_t i;
    while (json_next(&it, NULL, &item))
        if (!(type == SCHEMA_STRINGS    ? json_kind(item) == JSON_STRING
              : type == SCHEMA_INTEGERS ? json_int(item, &i)
                                        : is_number(item)))
            return false;
    return true;
}

static bool has_type(struct json v, unsigned types)
{
    int64_t i;
    switch (json_kind(v)) {
    case JSON_STRING:
        return types & SCHEMA_STRING;
    case JSON_TRUE:
    case JSON_FALSE:
        return types & SCHEMA_BOOLEAN;
    case JSON_NULL:
        return types & SCHEMA_NULL;
    case JSON_OBJECT:
        return types & SCHEMA_OBJECT;
    case JSON_NUMBER:
        return ((types & SCHEMA_INTEGER) && json_int(v, &i)) || ((types & SCHEMA_NUMBER) && is_number(v));
    case JSON_ARRAY:
        if (types & SCHEMA_TURNS)
            return is_turns(v);
        if (types & (SCHEMA_STRINGS | SCHEMA_INTEGERS | SCHEMA_NUMBERS))
            return all_are(v, types);
        return types & SCHEMA_ARRAY;
    default:
        return false;
    }
}

/* ---- one line ---- */

struct check {
    const char *file;
    const struct schema_kind *kind; /* of the file; NULL: not known yet */
    const char *program;            /* that wrote the file, if it writes certain kinds; NULL: any kind may be there */
    bool compat;                    /* with --compat */
    uint64_t lines;
    struct buf *problems;
    int n;
};

enum { SAID = 10 };

static void problem(struct check *c, const struct rec *r, const char *key, const char *want, struct json found)
{
    if (c->n++ >= SAID)
        return;
    const char *line = strrchr(r->where, ':');
    size_t n = found.n < 40 ? found.n : 40;
    while (n < found.n && n > 0 && ((unsigned char)found.s[n] & 0xc0) == 0x80) /* not inside a character */
        n--;
    buf_printf(c->problems, "%s line %s: %s: expected %s, found %.*s%s\n", c->file, line ? line + 1 : "?", key, want,
               found.n ? (int)n : 7, found.n ? found.s : "nothing", n < found.n ? "..." : "");
}

static bool find(const struct rec *r, const char *key, struct json *v)
{
    const char *dot = strchr(key, '.');
    char outer[64];
    struct json object;
    if (!dot)
        return rec_get(r, key, v);
    snprintf(outer, sizeof outer, "%.*s", (int)(dot - key), key);
    return rec_get(r, outer, &object) && json_kind(object) == JSON_OBJECT && json_get(object, dot + 1, v);
}

static bool needed(const struct check *c, const struct rec *r, enum schema_need need)
{
    struct json skipped;
    switch (need) {
    case SCHEMA_KEY:
        return true;
    case SCHEMA_OWN:
        return c->program != NULL;
    case SCHEMA_NEW:
        return c->program && !c->compat;
    case SCHEMA_SCORED:
        return c->program && !(rec_get(r, "skipped", &skipped) && json_kind(skipped) == JSON_TRUE);
    default:
        return false;
    }
}

/* Lists about the same words are as long as each other. */
static void check_lengths(struct check *c, const struct schema_kind *k, const struct rec *r)
{
    const unsigned lists = SCHEMA_STRINGS | SCHEMA_INTEGERS | SCHEMA_NUMBERS;
    const char *first = NULL;
    size_t length = 0;
    for (size_t i = 0; i < k->nfields; i++) {
        struct json v;
        char want[128];
        if (!(k->field[i].types & lists) || !rec_get(r, k->field[i].key, &v) || json_kind(v) != JSON_ARRAY)
            continue;
        size_t n = json_count(v);
        if (first && n != length) {
            char found[32];
            snprintf(want, sizeof want, "%zu items, as in %s", length, first);
            snprintf(found, sizeof found, "%zu", n);
            problem(c, r, k->field[i].key, want, (struct json){ found, strlen(found) });
        } else if (!first) {
            first = k->field[i].key;
            length = n;
        }
    }
}

static void check_fields(struct check *c, const struct schema_kind *k, const struct rec *r)
{
    for (size_t i = 0; i < k->nfields; i++) {
        const struct schema_field *f = &k->field[i];
        struct json v = { NULL, 0 };
        char type[SCHEMA_TYPE_TEXT];
        bool there = find(r, f->key, &v);
        if (there ? (f->types & SCHEMA_ANY) || has_type(v, f->types) : !needed(c, r, f->need))
            continue;
        problem(c, r, f->key, schema_type_text(f->types, type), v);
    }
    check_lengths(c, k, r);
}

static bool is_marked(const struct schema_kind *k, const struct rec *r)
{
    struct json v;
    for (size_t i = 0; i < sizeof k->mark / sizeof *k->mark && k->mark[i]; i++)
        if (!rec_get(r, k->mark[i], &v))
            return false;
    return true;
}

static bool is_of(const struct schema_kind *k, const char *program)
{
    return k->program && program && strcmp(k->program, program) == 0;
}

/* The kind of the line; the file's own and the program's come first: records may carry keys of other kinds along. NULL:
 * unknown. */
static const struct schema_kind *recognise(const struct check *c, const struct rec *r)
{
    if (c->kind && is_marked(c->kind, r))
        return c->kind;
    for (int any = 0; any < 2; any++)
        for (size_t i = 0; i < KINDS; i++)
            if ((any || is_of(&kinds[i], c->program)) && is_marked(&kinds[i], r))
                return &kinds[i];
    return NULL;
}

/* What a program writes; of several kinds the first line says which. */
static const struct schema_kind *kind_of_file(const struct check *c, const struct schema_kind *first)
{
    if (!c->program || (first && is_of(first, c->program)))
        return first;
    for (size_t i = 0; i < KINDS; i++)
        if (is_of(&kinds[i], c->program))
            return &kinds[i];
    return NULL;
}

/* Two kinds that may stand in one file: steps and evaluations of a training, the reference's summary and results. */
static bool mix(const struct schema_kind *a, const struct schema_kind *b)
{
    return a->field == b->field || (a->field == log_step && b->field == log_eval) ||
           (a->field == log_eval && b->field == log_step) ||
           (a->field == reference_summary && b->field == reference_result);
}

/* false: this is no file of a known kind. */
static bool check_line(struct check *c, const struct rec *r)
{
    const struct schema_kind *k = recognise(c, r);
    if (!c->kind)
        c->kind = kind_of_file(c, k);
    if (!c->kind)
        return false;
    if (!k || mix(c->kind, k)) {
        check_fields(c, k ? k : c->kind, r);
    } else if (c->n++ < SAID) {
        const char *line = strrchr(r->where, ':');
        buf_printf(c->problems, "%s line %s: expected a %s, found a %s\n", c->file, line ? line + 1 : "?",
                   c->kind->name, k->name);
    }
    return true;
}

/* ---- files ---- */

static void check_counts(struct check *c, const struct manifest *m)
{
    struct json counts, v;
    int64_t rejected = 0, want;
    if (c->compat && strcmp(m->program, "collect") == 0)
        return; /* its samples may stand together, one line a question */
    if (!m->counts || json_parse(&counts, m->counts, strlen(m->counts), NULL) < 0)
        return;
    if (json_get(counts, "rejected", &v))
        json_int(v, &rejected);
    for (size_t i = 0; i < sizeof line_counts / sizeof *line_counts; i++) {
        if (strcmp(m->program, line_counts[i].program) != 0 || rejected ||
            !json_get(counts, line_counts[i].count, &v) || !json_int(v, &want) ||
            want + (c->kind && c->kind->field == reference_summary) == (int64_t)c->lines)
            continue;
        buf_printf(c->problems, "%s: %lld %s, its manifest counts %" PRId64 " %s\n", c->file,
                   COUNTED(c->lines, "record", "records"), want, line_counts[i].count);
        c->n++;
    }
}

static int check_lines(struct check *c)
{
    struct rec_reader *in;
    struct rec r;
    struct err e = { "" };
    int rc;
    if (rec_open(&in, &c->file, 1, &e) < 0)
        return 0; /* whoever hashes it says so */
    while ((rc = rec_read(in, &r, &e)) != 0 && rc != -1) {
        c->lines++;
        if (rc == REC_BAD && !c->kind && !c->program)
            break;
        if (rc == REC_BAD) {
            if (c->n++ < SAID)
                buf_printf(c->problems, "%s\n", e.msg);
        } else if (!check_line(c, &r)) {
            break;
        }
    }
    rec_close(in);
    return c->kind != NULL || rc == 0;
}

static int finish(const struct check *c)
{
    if (c->n > SAID)
        buf_printf(c->problems, "%s: and %lld more %s\n", c->file,
                   COUNTED(c->n - SAID, "line or key like these", "lines or keys like these"));
    return c->n;
}

int schema_check(const char *file, const struct manifest *m, struct buf *problems)
{
    struct check c = { .file = file, .problems = problems };
    struct json options, v;
    if (m) {
        c.compat = m->options && json_parse(&options, m->options, strlen(m->options), NULL) == 0 &&
                   json_get(options, "compat", &v) && json_kind(v) == JSON_TRUE;
        for (size_t i = 0; i < KINDS; i++)
            if (is_of(&kinds[i], m->program) &&
                !(c.compat && (kinds[i].field == result || kinds[i].field == sample))) /* the reference's forms */
                c.program = m->program;
    }
    if (check_lines(&c) && m)
        check_counts(&c, m);
    return finish(&c);
}

int schema_check_log(const char *file, struct buf *problems)
{
    struct check c = { .file = file, .problems = problems };
    for (size_t i = 0; i < KINDS; i++)
        if (kinds[i].field == log_step)
            c.kind = &kinds[i];
    check_lines(&c);
    return finish(&c);
}
