/* stage.c - see stage.h. */
#include "io/stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"
#include "io/journal.h"
#include "io/manifest.h"
#include "io/stream.h"

struct waiting { /* a unit whose turn has not come */
    char *lines;
    size_t n;
    bool there;
};

struct output {
    const char *path; /* NULL: standard output */
    struct manifest m;
    char *tmp; /* F.PID.part */
    struct out_stream *out;
    struct hasher *hash;
    uint64_t records, bytes;
    struct journal *journal; /* NULL: none */
    bool *used;              /* with a journal: units of this run */
    uint64_t used_cap, used_end;
    struct waiting *wait; /* without: units from next on */
    uint64_t wait_cap, next;
};

struct stage {
    struct rec_reader *in;
    bool piped; /* the records come through standard input */
    bool require_provenance;
    struct output *out;
    int nout;
    uint64_t resumed;
    double start;
};

/* ---- signals ---- */

static volatile sig_atomic_t interrupted;

/* Who sends a second SIGINT or SIGTERM means it. A terminal that is closed sends SIGHUP twice by itself: by its shell
 * and by the kernel. */
static void on_signal(int sig)
{
    interrupted = 1;
    if (sig != SIGHUP)
        signal(sig, SIG_DFL);
}

bool stage_interrupted(void)
{
    return interrupted != 0;
}

int stage_stopped(struct stage *st, struct err *e)
{
    bool kept = false;
    for (int i = 0; i < st->nout; i++)
        kept |= st->out[i].journal != NULL;
    return err_set(e, "interrupted%s", kept ? "; finished records are kept, the same command goes on from here" : "");
}

/* A shell's background job starts with SIGINT ignored, one of nohup with SIGHUP: leave that. */
void stage_catch_signals(void)
{
    struct sigaction sa = { .sa_handler = on_signal }, old;
    sigemptyset(&sa.sa_mask);
    static const int which[] = { SIGINT, SIGTERM, SIGHUP };
    for (size_t i = 0; i < sizeof which / sizeof *which; i++)
        if (sigaction(which[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(which[i], &sa, NULL);
}

/* ---- key ---- */

static bool is_stdout(const struct stage_output *o)
{
    return !o->path || strcmp(o->path, "-") == 0;
}

static bool reads_stdin(const struct stage_spec *s)
{
    if (s->no_input)
        return false;
    for (int i = 0; i < s->ninputs; i++)
        if (file_is_pipe(s->inputs[i]))
            return true;
    return s->ninputs == 0;
}

static void timestamp(char out[32])
{
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Everything of the manifest that is known before the run, the stream's inputs not included. */
static int describe(struct manifest *m, const struct stage_spec *s, int output, struct err *e)
{
    struct buf b = BUF_INIT;
    char now[32];
    *m = (struct manifest){ .result = s->result };
    timestamp(now);
    m->started = xstrdup(now);
    m->program = xstrdup(s->program);
    m->version = xstrdup(LATENT_VERSION);
    m->numerics = xstrdup(s->numerics);
    m->part = xstrdup(s->outputs[output].part ? s->outputs[output].part : "");
    buf_putc(&b, '{');
    opt_result_json(s->options, &b);
    if (s->detail) {
        buf_puts(&b, b.len > 1 ? ",\"detail\":" : "\"detail\":");
        json_put_cstr(&b, s->detail);
    }
    buf_putc(&b, '}');
    m->options = buf_take(&b);
    for (int i = 0; i < s->nmodels; i++)
        manifest_add_model(m, s->models[i].role, s->models[i].name, s->models[i].fingerprint);
    for (int i = 0; i < s->nsides; i++) {
        struct hash128 h;
        if (!s->sides[i].path)
            continue;
        if (hash_file(s->sides[i].path, true, &h, e) < 0)
            return -1;
        manifest_add_input(m, s->sides[i].path, s->sides[i].role, h);
    }
    return 0;
}

static int add_file_inputs(struct manifest *m, const struct stage_spec *s, struct err *e)
{
    for (int i = 0; !s->no_input && i < s->ninputs; i++) {
        struct hash128 h;
        if (hash_file(s->inputs[i], true, &h, e) < 0)
            return -1;
        manifest_add_input(m, s->inputs[i], "", h);
    }
    hash_hex(manifest_key(m, true), m->key);
    return 0;
}

/* ---- up to date, store ---- */

/* Does path hold what its manifest says, under this key? */
static bool is_current(const char *path, const char *manifest, const char *key)
{
    struct manifest m;
    struct err ignore;
    struct hash128 h;
    char hex[HASH_HEX] = "";
    if (!file_exists(path) || !file_exists(manifest) || manifest_read(&m, manifest, &ignore) < 0)
        return false;
    bool same = strcmp(m.key, key) == 0 && hash_file(path, true, &h, &ignore) == 0;
    if (same) {
        hash_hex(h, hex);
        same = strcmp(hex, m.output) == 0;
    }
    manifest_release(&m);
    return same;
}

static bool output_is_current(const char *path, const char *key)
{
    char *manifest = manifest_path(path);
    bool current = is_current(path, manifest, key);
    free(manifest);
    return current;
}

/* The store's copy is compressed like the output is. */
static char *stored(const char *output, const char *key)
{
    return store_path(key, path_ends_with(output, ".zst") ? ".zst" : "");
}

static bool store_has(const char *output, const char *key)
{
    char *path = stored(output, key);
    bool has = path && output_is_current(path, key);
    free(path);
    return has;
}

static int link_from_store(const char *output, const char *key, struct err *e)
{
    char *from = stored(output, key), *from_m = manifest_path(from), *to_m = manifest_path(output);
    int rc = file_mkparents(output, e);
    if (rc == 0) {
        unlink(to_m); /* never an old manifest beside a new file */
        rc = file_link_over(from, output, e);
    }
    if (rc == 0)
        rc = file_link_over(from_m, to_m, e);
    free(from);
    free(from_m);
    free(to_m);
    return rc;
}

/* The file that was just made becomes the store's too. A store that cannot be written costs a warning, not the result.
 */
static void put_into_store(const struct output *o)
{
    struct err why = { "" };
    char *path = stored(o->path, o->m.key);
    if (!path)
        return;
    char *from_m = manifest_path(o->path), *to_m = manifest_path(path);
    chmod(o->path, 0444);
    if (file_mkparents(path, &why) < 0 || file_link_over(o->path, path, &why) < 0 ||
        file_link_over(from_m, to_m, &why) < 0)
        log_warn("%s (the result is not in the store)", why.msg);
    free(path);
    free(from_m);
    free(to_m);
}

/* F.KEY.journal, where KEY names what the records depend on. */
static char *journal_path(const struct output *o, struct hash128 *key)
{
    struct buf b = BUF_INIT;
    char hex[HASH_HEX];
    *key = manifest_key(&o->m, false);
    hash_hex(*key, hex);
    buf_printf(&b, "%s.%.16s.journal", o->path, hex);
    return buf_take(&b);
}

/* A run that was killed after its output was whole may have left its journal. */
static void remove_stale_journal(const struct output *o)
{
    struct hash128 key;
    char *path = journal_path(o, &key);
    unlink(path);
    free(path);
}

/* A run that was killed leaves F.PID.part behind, or one of its manifest, or a half made link; when its process is
 * gone, so is the use of it. */
static void remove_leftovers(const char *path)
{
    const char *base = path_base(path), *of_manifest = "run.json.";
    char *dir = base == path ? xstrdup(".") : xstrndup(path, (size_t)(base - path));
    size_t n = strlen(base);
    DIR *d = opendir(dir);
    struct dirent *ent;
    while (d && (ent = readdir(d))) {
        if (strncmp(ent->d_name, base, n) != 0 || ent->d_name[n] != '.')
            continue;
        const char *owner = ent->d_name + n + 1;
        if (strncmp(owner, of_manifest, strlen(of_manifest)) == 0)
            owner += strlen(of_manifest);
        char *end;
        long pid = strtol(owner, &end, 10);
        if (pid > 0 && (strcmp(end, ".part") == 0 || strcmp(end, ".link") == 0) && !process_lives(pid))
            unlinkat(dirfd(d), ent->d_name, 0);
    }
    if (d)
        closedir(d);
    free(dir);
}

/* For all outputs: 1 if each is there or could be linked now. */
static int already_done(struct output *out, int n, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (!out[i].path || (!output_is_current(out[i].path, out[i].m.key) && !store_has(out[i].path, out[i].m.key)))
            return 0;
    for (int i = 0; i < n; i++) {
        bool there = output_is_current(out[i].path, out[i].m.key);
        if (!there && link_from_store(out[i].path, out[i].m.key, e) < 0)
            return -1;
        log_info("%s %s", out[i].path, there ? "is up to date" : "taken from the store");
        remove_stale_journal(&out[i]);
        remove_leftovers(out[i].path);
    }
    return 1;
}

/* ---- opening ---- */

static int open_output(struct output *o, const struct stage_spec *s, struct err *e)
{
    o->hash = hasher_new();
    if (!o->path)
        return out_open_fd(&o->out, dup(1), "standard output", false, e);
    if (file_mkparents(o->path, e) < 0)
        return -1;
    struct stat st;
    if (stat(o->path, &st) == 0 && !S_ISREG(st.st_mode)) {
        if (S_ISDIR(st.st_mode))
            return err_set(e, "%s: is a folder", o->path);
        /* A device such as /dev/full or /dev/null cannot be replaced by a rename: write to it as it is. */
        int fd = open(o->path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            return err_errno(e, "%s: cannot open", o->path);
        return out_open_fd(&o->out, fd, o->path, false, e);
    }
    struct buf b = BUF_INIT;
    if (s->resume) {
        struct hash128 key;
        char *journal = journal_path(o, &key);
        int rc = journal_open(&o->journal, journal, key, e);
        free(journal);
        if (rc < 0)
            return -1;
    }
    remove_leftovers(o->path);
    buf_printf(&b, "%s.%ld.part", o->path, (long)getpid());
    o->tmp = buf_take(&b);
    int fd = open(o->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_errno(e, "%s: cannot create", o->tmp);
    return out_open_fd(&o->out, fd, o->path, path_ends_with(o->path, ".zst"), e);
}

static double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int stage_open(struct stage **out, const struct stage_spec *s, struct err *e)
{
    struct stage *st = xcalloc(1, sizeof *st);
    *out = NULL;
    st->nout = s->noutputs;
    st->out = xcalloc((size_t)s->noutputs, sizeof *st->out);
    st->piped = reads_stdin(s);
    st->require_provenance = s->require_provenance;
    st->start = clock_seconds();
    int rc = s->no_input ? 0 : rec_open(&st->in, s->inputs, s->ninputs, e);
    for (int i = 0; rc == 0 && i < st->nout; i++) {
        st->out[i].path = is_stdout(&s->outputs[i]) ? NULL : s->outputs[i].path;
        rc = describe(&st->out[i].m, s, i, e);
        if (rc == 0 && !st->piped)
            rc = add_file_inputs(&st->out[i].m, s, e);
    }
    if (rc == 0 && !st->piped) {
        rc = already_done(st->out, st->nout, e);
        if (rc != 0) {
            stage_close(st);
            return rc < 0 ? -1 : STAGE_UP_TO_DATE;
        }
    }
    for (int i = 0; rc == 0 && i < st->nout; i++)
        rc = open_output(&st->out[i], s, e);
    if (rc < 0) {
        stage_close(st);
        return -1;
    }
    stage_catch_signals();
    *out = st;
    return STAGE_RUN;
}

int stage_plan(const struct stage_spec *s, struct buf *line, struct err *e)
{
    for (int i = 0; i < s->noutputs; i++) {
        const char *path = is_stdout(&s->outputs[i]) ? "standard output" : s->outputs[i].path;
        bool known = !reads_stdin(s);
        for (int k = 0; known && !s->no_input && k < s->ninputs; k++)
            known = file_exists(s->inputs[k]);
        if (!known) {
            buf_printf(line, "%s unknown\n", path);
            continue;
        }
        struct manifest m;
        if (describe(&m, s, i, e) < 0 || add_file_inputs(&m, s, e) < 0) {
            manifest_release(&m);
            return -1;
        }
        const char *what = is_stdout(&s->outputs[i])        ? "run"
                           : output_is_current(path, m.key) ? "up-to-date"
                           : store_has(path, m.key)         ? "store"
                                                            : "run";
        buf_printf(line, "%s %s %s\n", path, m.key, what);
        manifest_release(&m);
    }
    return 0;
}

struct rec_reader *stage_input(struct stage *st)
{
    return st->in;
}

uint64_t stage_resumed(const struct stage *st)
{
    return st->resumed;
}

/* ---- writing ---- */

static int emit(struct output *o, const char *lines, size_t n, struct err *e)
{
    hasher_add(o->hash, lines, n);
    o->bytes += n;
    for (const char *p = lines; n && (p = memchr(p, '\n', (size_t)(lines + n - p))); p++)
        o->records++;
    return out_write(o->out, lines, n, e);
}

int stage_write(struct stage *st, const char *lines, size_t n, struct err *e)
{
    return emit(&st->out[0], lines, n, e);
}

static void mark_used(struct output *o, uint64_t unit)
{
    if (unit >= o->used_cap) {
        uint64_t cap = o->used_cap ? o->used_cap : 1024;
        while (cap <= unit)
            cap *= 2;
        o->used = xreallocarray(o->used, cap, sizeof *o->used);
        memset(o->used + o->used_cap, 0, (cap - o->used_cap) * sizeof *o->used);
        o->used_cap = cap;
    }
    o->used[unit] = true;
    if (unit >= o->used_end)
        o->used_end = unit + 1;
}

bool stage_have(struct stage *st, int output, uint64_t unit, struct hash128 input)
{
    struct output *o = &st->out[output];
    if (!o->journal || !journal_has(o->journal, unit, input))
        return false;
    mark_used(o, unit);
    st->resumed++;
    return true;
}

/* Units whose turn has come leave; what is early waits. */
static int put_in_turn(struct output *o, uint64_t unit, const char *lines, size_t n, struct err *e)
{
    if (unit == o->next) {
        if (emit(o, lines, n, e) < 0)
            return -1;
        o->next++;
        while (o->next < o->wait_cap && o->wait[o->next].there) {
            struct waiting *w = &o->wait[o->next++];
            int rc = emit(o, w->lines, w->n, e);
            free(w->lines);
            *w = (struct waiting){ NULL, 0, false };
            if (rc < 0)
                return -1;
        }
        return out_flush(o->out, e);
    }
    if (unit >= o->wait_cap) {
        uint64_t cap = o->wait_cap ? o->wait_cap : 1024;
        while (cap <= unit)
            cap *= 2;
        o->wait = xreallocarray(o->wait, cap, sizeof *o->wait);
        memset(o->wait + o->wait_cap, 0, (cap - o->wait_cap) * sizeof *o->wait);
        o->wait_cap = cap;
    }
    o->wait[unit] = (struct waiting){ xstrndup(lines, n), n, true };
    return 0;
}

int stage_put(struct stage *st, int output, uint64_t unit, struct hash128 input, const char *lines, size_t n,
              struct err *e)
{
    struct output *o = &st->out[output];
    if (!o->journal)
        return put_in_turn(o, unit, lines, n, e);
    mark_used(o, unit);
    return journal_add(o->journal, unit, input, lines, n, e);
}

/* A unit that waits at the end waits for one that was never put: its lines would be lost without a word. */
static int check_all_emitted(const struct output *o, struct err *e)
{
    for (uint64_t u = o->next; u < o->wait_cap; u++)
        if (o->wait[u].there)
            return err_set(e, "record %llu of the output was never made (a bug: please report it)",
                           (unsigned long long)o->next);
    return 0;
}

static int emit_journal(struct output *o, struct err *e)
{
    struct buf b = BUF_INIT;
    int rc = 0;
    for (uint64_t u = 0; rc == 0 && u < o->used_end; u++) {
        if (!o->used[u]) {
            rc = err_set(e, "%s: record %llu of the output was never made (a bug: please report it)", o->path,
                         (unsigned long long)u);
            break;
        }
        buf_reset(&b);
        rc = journal_get(o->journal, u, &b, e);
        if (rc == 0)
            rc = emit(o, b.s ? b.s : "", b.len, e);
    }
    buf_release(&b);
    return rc;
}

/* ---- commit ---- */

/* The piped input's bytes must be some run's output; files are looked at by verify. */
int stage_check_input(const struct rec_reader *in, bool require, struct err *e)
{
    for (int i = 0; i < rec_inputs(in); i++) {
        const char *name = rec_input_name(in, i);
        if (strcmp(name, "standard input") != 0 && !file_is_pipe(name))
            continue;
        char hex[HASH_HEX];
        hash_hex(rec_input_hash(in, i), hex);
        /* All empty outputs have one hash, so a log entry proves nothing about this one. */
        if (require && hash_equal(rec_input_hash(in, i), hash_bytes("", 0)))
            return err_set(e,
                           "%s: is empty: the program before this one failed or had nothing to say "
                           "(--require-provenance)",
                           name);
        if (runlog_has(hex))
            continue;
        if (require)
            return err_set(e,
                           "%s: no run in the log made these bytes: the program before this one failed or is foreign "
                           "(--require-provenance)",
                           name);
        log_warn("%s: no run in the log made these bytes (the program before this one failed or is foreign)", name);
    }
    return 0;
}

/* The stream must have been read to its end before its hash means anything. */
static int finish_input(struct stage *st, struct err *e)
{
    struct rec r;
    int rc;
    while ((rc = rec_read(st->in, &r, e)) != 0)
        if (rc == -1)
            return -1;
    if (!st->piped)
        return 0;
    for (int k = 0; k < st->nout; k++) {
        for (int i = 0; i < rec_inputs(st->in); i++)
            manifest_add_input(&st->out[k].m, rec_input_name(st->in, i), "", rec_input_hash(st->in, i));
        hash_hex(manifest_key(&st->out[k].m, true), st->out[k].m.key);
    }
    return stage_check_input(st->in, st->require_provenance, e);
}

static int commit_stdout(struct output *o, struct err *e)
{
    /* The log entry first: a reader that sees the end of the stream must find it. */
    struct err why = { "" };
    if (runlog_add(&o->m, &why) < 0)
        log_warn("%s (programs that read this output cannot tell where it came from)", why.msg);
    int rc = out_finish(o->out, false, e);
    o->out = NULL;
    return rc;
}

static int commit_file(struct output *o, struct err *e)
{
    int rc = out_finish(o->out, o->tmp != NULL, e);
    o->out = NULL;
    if (rc < 0 || !o->tmp)
        return rc;
    char *manifest = manifest_path(o->path);
    struct buf json = BUF_INIT;
    manifest_write(&o->m, &json);
    if (unlink(manifest) < 0 && errno != ENOENT)
        rc = err_errno(e, "%s: cannot replace", manifest);
    if (rc == 0 && rename(o->tmp, o->path) < 0)
        rc = err_errno(e, "%s: cannot write", o->path);
    if (rc == 0) {
        free(o->tmp);
        o->tmp = NULL;
        struct hash128 h;
        if (hash_parse(o->m.output, &h))
            hash_remember(o->path, true, h);
        rc = file_write_atomic(manifest, json.s, json.len, e);
    }
    if (rc == 0) {
        put_into_store(o);
        journal_close(o->journal, true);
        o->journal = NULL;
    }
    buf_release(&json);
    free(manifest);
    return rc;
}

int stage_commit(struct stage *st, const char *counts, struct err *e)
{
    if (st->in && finish_input(st, e) < 0)
        return -1;
    for (int i = 0; i < st->nout; i++) {
        struct output *o = &st->out[i];
        if ((o->journal ? emit_journal(o, e) : check_all_emitted(o, e)) < 0)
            return -1;
        hash_hex(hasher_get(o->hash), o->m.output);
        o->m.records = (int64_t)o->records;
        o->m.bytes = (int64_t)o->bytes;
        o->m.counts = xstrdup(counts ? counts : "{}");
        o->m.seconds = clock_seconds() - st->start;
        if ((o->path ? commit_file(o, e) : commit_stdout(o, e)) < 0)
            return -1;
    }
    return 0;
}

void stage_close(struct stage *st)
{
    if (!st)
        return;
    rec_close(st->in);
    for (int i = 0; i < st->nout; i++) {
        struct output *o = &st->out[i];
        out_abandon(o->out);
        if (o->tmp)
            unlink(o->tmp);
        free(o->tmp);
        journal_close(o->journal, false);
        for (uint64_t u = 0; u < o->wait_cap; u++)
            free(o->wait[u].lines);
        free(o->wait);
        free(o->used);
        hasher_free(o->hash);
        manifest_release(&o->m);
    }
    free(st->out);
    free(st);
}
