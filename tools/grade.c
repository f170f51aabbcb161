/* grade - is the answer the gold answer? See latent-grade(1). */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/pool.h"
#include "io/record.h"
#include "model/locate.h"
#include "task/answer_record.h"
#include "text/tokenizer.h"
#include "tools/tool.h"

static struct {
    const char *task, *benchmark, *model;
    bool compat, fill;
} o = { .task = "auto" };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_CHOICE("task", 't', &o.task, "auto|math|gsm8k|mmlu|exact",
                   "how answers are found and read; auto: by the record's benchmark, else math", OPT_RESULT),
    OPT_ROW_FLAG("compat", 0, &o.compat, "also the reference's verdict, as equal_compat", OPT_RESULT),
    OPT_ROW_FLAG("fill", 0, &o.fill, "derive missing sample keys from response_text", OPT_RESULT),
    OPT_ROW_STRING("benchmark", 'b', &o.benchmark, "NAME", "benchmark of records that have none, with --fill",
                   OPT_RESULT),
    OPT_ROW_STRING("model", 'm', &o.model, "DIR", "model whose tokenizer counts, with --fill", OPT_RUN),
    OPT_ROW_END,
};

/* Records are graded in batches: read, shared out in pieces, written in order. Nothing of a verdict depends on the
 * neighbours, so neither batch nor threads can be seen in the output. */
enum { BATCH = 1024, PIECE = 32 };

struct line {
    size_t at, n; /* of the input text, then of its piece's output */
    char where[96];
};

struct batch {
    struct answer_record_options options;
    struct answer_grader **grader; /* [threads] */
    struct buf text;
    struct line line[BATCH];
    int n;
    struct piece {
        struct buf out;
        struct answer_counts counts;
        struct err e;
        int bad; /* records refused */
    } piece[BATCH / PIECE];
};

static void grade_piece(void *arg, int i, int thread)
{
    struct batch *b = arg;
    struct piece *p = &b->piece[i];
    struct answer_grader *g = b->grader[thread];
    buf_reset(&p->out);
    p->counts = (struct answer_counts){ 0 };
    p->bad = 0;
    for (int k = i * PIECE; k < (i + 1) * PIECE && k < b->n; k++) {
        struct rec r;
        struct err e = { "" };
        struct line *l = &b->line[k];
        if (rec_parse(&r, b->text.s + l->at, l->n, l->where, &e) < 0) {
            p->e = p->bad++ ? p->e : e;
            continue;
        }
        if (answer_record_grade(g, &b->options, &r, &p->out, &p->counts, &e) < 0) {
            p->e = p->bad++ ? p->e : e;
            if (common.keep_going)
                log_warn("%s", e.msg);
        }
        rec_release(&r);
    }
    answer_grader_flush(g);
}

static void add_counts(struct answer_counts *a, const struct answer_counts *b)
{
    a->records += b->records;
    a->equal += b->equal;
    a->unequal += b->unequal;
    a->undecided += b->undecided;
    a->no_answer += b->no_answer;
    a->truncated += b->truncated;
    a->equal_compat += b->equal_compat;
}

static int grade_batch(struct stage *st, struct batch *b, struct pool *pool, struct answer_counts *all, long *rejected,
                       struct err *e)
{
    int pieces = (b->n + PIECE - 1) / PIECE;
    pool_run(pool, pieces, grade_piece, b);
    for (int i = 0; i < pieces; i++) {
        struct piece *p = &b->piece[i];
        if (p->bad && !common.keep_going)
            return err_set(e, "%s", p->e.msg);
        *rejected += p->bad;
        add_counts(all, &p->counts);
        if (p->out.len && stage_write(st, p->out.s, p->out.len, e) < 0)
            return -1;
    }
    buf_reset(&b->text);
    b->n = 0;
    progress_at((uint64_t)all->records, NULL);
    return 0;
}

static int grade_all(struct stage *st, struct batch *b, struct pool *pool, struct answer_counts *all, long *rejected,
                     struct err *e)
{
    struct rec r;
    int rc;
    while ((rc = rec_read(stage_input(st), &r, e)) != 0) {
        if (rc == REC_BAD && common.keep_going) {
            log_warn("%s", e->msg);
            ++*rejected;
            continue;
        }
        if (rc < 0)
            return -1;
        struct line *l = &b->line[b->n++];
        l->at = b->text.len;
        l->n = r.len;
        size_t w = strlen(r.where);
        w = w < sizeof l->where ? w : sizeof l->where - 1; /* a long path keeps its end, which names file and line */
        memcpy(l->where, r.where + strlen(r.where) - w, w);
        l->where[w] = 0;
        buf_add(&b->text, r.line, r.len);
        if (b->n == BATCH && grade_batch(st, b, pool, all, rejected, e) < 0)
            return -1;
        if (stage_interrupted())
            return stage_stopped(st, e);
    }
    return b->n ? grade_batch(st, b, pool, all, rejected, e) : 0;
}

static void report(const struct answer_counts *c)
{
    log_info("%lld %s: %lld equal, %lld unequal, %lld undecided, %lld without an answer, %lld cut",
             COUNTED(c->records, "record", "records"), (long long)c->equal, (long long)c->unequal,
             (long long)c->undecided, (long long)c->no_answer, (long long)c->truncated);
    if (o.compat)
        log_info("%lld equal by the reference's rules", (long long)c->equal_compat);
}

static int commit(struct stage *st, const struct answer_counts *c, long rejected, struct err *e)
{
    struct buf counts = BUF_INIT;
    buf_printf(&counts,
               "{\"records\": %lld, \"equal\": %lld, \"unequal\": %lld, \"undecided\": %lld, \"no_answer\": %lld, "
               "\"truncated\": %lld, ",
               (long long)c->records, (long long)c->equal, (long long)c->unequal, (long long)c->undecided,
               (long long)c->no_answer, (long long)c->truncated);
    if (o.compat)
        buf_printf(&counts, "\"equal_compat\": %lld, ", (long long)c->equal_compat);
    buf_printf(&counts, "\"rejected\": %ld}", rejected);
    int rc = stage_commit(st, counts.s, e);
    buf_release(&counts);
    return rc;
}

static int grade(struct stage *st, struct batch *b, long *rejected, struct err *e)
{
    int threads = common.threads ? (int)common.threads : pool_cores(), opened = 0, rc = -1;
    struct pool *pool = NULL;
    struct answer_counts all = { 0 };
    b->grader = xcalloc((size_t)threads, sizeof *b->grader);
    while (opened < threads && answer_grader_open(&b->grader[opened], e) == 0)
        opened++;
    progress_begin("grade", 0, "records");
    if (opened == threads && pool_open(&pool, threads, e) == 0)
        rc = grade_all(st, b, pool, &all, rejected, e);
    progress_end();
    if (rc == 0)
        rc = commit(st, &all, *rejected, e);
    if (rc == 0)
        report(&all);
    pool_close(pool);
    while (opened > 0)
        answer_grader_close(b->grader[--opened]);
    free(b->grader);
    return rc;
}

static void batch_free(struct batch *b)
{
    buf_release(&b->text);
    for (int i = 0; i < BATCH / PIECE; i++)
        buf_release(&b->piece[i].out);
    free(b);
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct stage_spec spec = { .numerics = "exact", .inputs = (const char *const *)files, .ninputs = nfiles };
    struct stage_model used;
    struct model_place place = { NULL, NULL, "" };
    struct tokenizer *tokenizer = NULL;
    struct stage *st = NULL;
    enum answer_task task;
    long rejected = 0;
    int rc = -1;
    if (!o.fill && o.benchmark)
        return tool_misuse(e, "--benchmark goes with --fill");
    struct batch *b = xcalloc(1, sizeof *b);
    b->options.task = answer_task_of(o.task, &task) ? (int)task : -1;
    b->options.compat = o.compat;
    b->options.fill = o.fill;
    b->options.benchmark = o.benchmark;
    if (o.fill) {
        if (model_locate(&place, "--model", o.model, "MODEL", "embedded:reasoner", e) < 0 ||
            tokenizer_open(&tokenizer, place.dir, e) < 0)
            goto out;
        used = (struct stage_model){ "model", place.name, place.fingerprint };
        spec.models = &used;
        spec.nmodels = 1;
        b->options.tokenizer = tokenizer;
    }
    rc = tool_stage(&st, t, &spec, e);
    if (rc == STAGE_RUN) {
        rc = grade(st, b, &rejected, e);
        stage_close(st);
    }
out:
    tokenizer_close(tokenizer);
    model_place_release(&place);
    batch_free(b);
    return rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "grade", "[OPTION]... [FILE]...", "is the answer the gold answer?", 4, opts, run
    };
    return tool_main(&tool, argc, argv);
}
