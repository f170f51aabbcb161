/* dataset - questions of a published set, one a line. See latent-dataset(1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/shard.h"
#include "task/arith.h"
#include "task/dataset.h"
#include "task/question.h"
#include "tools/tool.h"

static struct {
    struct opt_list file;
    const char *split, *subset, *shard;
    int64_t limit;
    bool list;
} o = { .split = "train", .limit = -1 };

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_LIST("file", 'f', &o.file, "FILE", "rows of the set in its published schema, JSONL (may be repeated)",
                 OPT_RUN),
    OPT_ROW_STRING("split", 's', &o.split, "S", "train or test: part of every source_id", OPT_RESULT),
    OPT_ROW_STRING("subset", 0, &o.subset, "S", "configuration of the set: a subject of mmlu, socratic of gsm8k",
                   OPT_RESULT),
    OPT_ROW_INT("limit", 'n', &o.limit, "N", "only the first N questions; -1: all", OPT_RESULT, -1, 1e15),
    OPT_ROW_STRING("shard", 0, &o.shard, "K/N", "only part K (0..N-1) of N equal parts, after --limit", OPT_RESULT),
    OPT_ROW_FLAG("list", 0, &o.list, "list the sets that have a name, and stop", OPT_RUN),
    OPT_ROW_END,
};

/* Where each question's line starts in one long text: a shard's borders are known only at the end. */
struct questions {
    struct buf text;
    size_t *start; /* [n + 1] */
    uint64_t n, cap;
};

static void note_start(struct questions *q)
{
    if (q->n + 1 >= q->cap) {
        q->cap = q->cap ? q->cap * 2 : 1024;
        q->start = xreallocarray(q->start, q->cap, sizeof *q->start);
    }
    q->start[q->n] = q->text.len;
}

static int read_questions(struct stage *st, const char *benchmark, struct questions *q, long *rejected, struct err *e)
{
    struct rec r;
    int rc = 1;
    note_start(q);
    while ((o.limit < 0 || q->n < (uint64_t)o.limit) && (rc = rec_read(stage_input(st), &r, e)) != 0) {
        if (rc == -1)
            return -1;
        if (rc == REC_BAD || question_from_row(&r, benchmark, o.split, r.index, &q->text, e) < 0) {
            if (!common.keep_going)
                return -1;
            log_warn("%s", e->msg);
            ++*rejected;
            continue;
        }
        q->n++;
        note_start(q);
    }
    return 0;
}

static int make(struct stage *st, const char *benchmark, const struct shard *shard, long *rejected, struct err *e)
{
    struct questions q = { BUF_INIT, NULL, 0, 0 };
    uint64_t from, to;
    int rc = read_questions(st, benchmark, &q, rejected, e);
    if (rc == 0) {
        shard_range(shard, q.n, &from, &to);
        if (q.n == 0)
            log_warn("there is no question in the input");
        if (to > from)
            rc = stage_write(st, q.text.s + q.start[from], q.start[to] - q.start[from], e);
    }
    if (rc == 0) {
        struct buf counts = BUF_INIT;
        buf_printf(&counts, "{\"questions\": %llu, \"rejected\": %ld}", (unsigned long long)(to - from), *rejected);
        rc = stage_commit(st, counts.s, e);
        buf_release(&counts);
    }
    buf_release(&q.text);
    free(q.start);
    return rc;
}

static int show_list(struct err *e)
{
    struct buf b = BUF_INIT;
    buf_printf(&b, "%-12strain %d, test %-26d%s\n", "arith", ARITH_TRAIN_ROWS, ARITH_TEST_ROWS,
               "word problems made on the spot, with worked solutions (needs no network)");
    int rc = dataset_list(&b, e);
    if (rc == 0)
        fwrite(b.s ? b.s : "", 1, b.len, stdout);
    buf_release(&b);
    return rc;
}

/* From files, or from the set's own rows when none is named. */
static int make_from(const struct tool *t, const struct dataset *d, const struct shard *shard, struct err *e)
{
    char *rows = NULL;
    const char *own[1];
    struct stage_spec spec = {
        .numerics = "exact", .inputs = o.file.v, .ninputs = (int)o.file.n, .detail = d->benchmark
    };
    if (d->name && !o.file.n) {
        if (dataset_rows(d, &rows, e) < 0)
            return -1;
        own[0] = rows;
        spec.inputs = own;
        spec.ninputs = 1;
    }
    struct stage *st;
    long rejected = 0;
    int rc = tool_stage(&st, t, &spec, e);
    if (rc == STAGE_RUN) {
        rc = make(st, d->benchmark, shard, &rejected, e);
        stage_close(st);
    }
    free(rows);
    return rc < 0 ? TOOL_FAILED : rejected ? TOOL_REJECTS : TOOL_OK;
}

/* Generated, not read: a row is a function of seed, split and number. */
static int make_arith(const struct tool *t, const struct shard *shard, struct err *e)
{
    int64_t rows = arith_rows(o.split);
    uint64_t from, to;
    struct stage *st;
    struct buf b = BUF_INIT;
    if (rows < 0)
        return tool_misuse(e, "arith: no split %s (train, test)", o.split);
    if (o.limit >= 0 && o.limit < rows)
        rows = o.limit;
    struct stage_spec spec = { .numerics = "exact", .no_input = true, .detail = "arith" };
    int rc = tool_stage(&st, t, &spec, e);
    if (rc != STAGE_RUN)
        return rc;
    shard_range(shard, (uint64_t)rows, &from, &to);
    rc = 0;
    for (uint64_t i = from; rc == 0 && i < to; i++) {
        buf_reset(&b);
        arith_row((uint64_t)common.seed, o.split, i, &b);
        rc = stage_write(st, b.s, b.len, e);
    }
    buf_reset(&b);
    buf_printf(&b, "{\"questions\": %llu}", (unsigned long long)(to - from));
    if (rc == 0)
        rc = stage_commit(st, b.s, e);
    buf_release(&b);
    stage_close(st);
    return rc < 0 ? TOOL_FAILED : TOOL_OK;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct dataset d = { .rows = -1 };
    struct shard shard;
    if (o.list)
        return show_list(e);
    if (nfiles > 1)
        return tool_misuse(e, "one NAME at a time, found %s and %s (files are named by --file)", files[0], files[1]);
    if (shard_parse(&shard, o.shard, e) < 0)
        return TOOL_MISUSE;
    if (nfiles && strcmp(files[0], "arith") == 0 && !o.file.n)
        return make_arith(t, &shard, e);
    if (nfiles && dataset_open(&d, files[0], opt_given(tool_options(), "split") ? o.split : NULL, o.subset, e) < 0)
        return TOOL_MISUSE;
    if (d.split)
        o.split = d.split;
    int rc = make_from(t, &d, &shard, e);
    dataset_close(&d);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "dataset", "[OPTION]... [NAME] [--file FILE]...", "questions of a published set, one a line", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
