/* dual_test.c - lib/model/dual, lib/model/dualize: rows and ids of dual models, and what may be generated. */
#include <math.h>

#include "base/file.h"
#include "base/rng.h"
#include "io/folder.h"
#include "io/safetensors.h"
#include "model/dualize.h"
#include "model/parts.h"
#include "text/tokenizer.h"
#include "unit/test.h"

#include "infer_util.h"
#include "random_model.h"

static struct err e;

static char *dir_of(const char *name)
{
    static char path[64][4200];
    static int turn;
    char *p = path[turn++ % 64];
    snprintf(p, 4200, "%s/%s", test_tmpdir(), name);
    return p;
}

static void golden(char *out, size_t n, const char *model)
{
    snprintf(out, n, "tests/golden/models/%s", model);
}

/* A dual folder of a golden model. */
static char *make(const char *name, struct dualize_options o, struct dual_meta *m)
{
    char *dir = dir_of(name);
    o.name = o.model;
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(dualize(&o, dir, m, &e));
    return dir;
}

/* ---- rows ---- */

static uint64_t bytes_of_row(const struct st_tensor *t)
{
    return t->bytes / (uint64_t)t->shape[0];
}

static const char *row_of(const struct st_tensor *t, int32_t id)
{
    return (const char *)t->data + (uint64_t)id * bytes_of_row(t);
}

static void copies(const struct st_tensor *t, const struct st_tensor *base, const struct dual_meta *m)
{
    assert_int_equal(t->shape[0], m->visible + m->latent);
    assert_int_equal(t->dtype, base->dtype);
    assert_memory_equal(t->data, base->data, base->bytes);
    for (int32_t i = 0; m->has_sources && i < m->latent; i++)
        assert_memory_equal(row_of(t, m->visible + i), row_of(t, dual_meta_source(m, i)), bytes_of_row(t));
}

static void rows_are_copies(void **state)
{
    (void)state;
    static const char *const models[] = { "qwen2",      "qwen3",       "llama3",       "qwen2-sharded",
                                          "qwen3-bf16", "llama3-tied", "qwen3-untied", "llama-fp16" };
    for (size_t k = 0; k < sizeof models / sizeof *models; k++) {
        char from[100];
        struct dual_meta m;
        struct safetensors *a, *b;
        golden(from, sizeof from, models[k]);
        char *to = make(models[k], (struct dualize_options){ .model = from, .tokens = k % 2 }, &m);
        assert_ok(safetensors_open_dir(&a, from, &e));
        assert_ok(safetensors_open_dir(&b, to, &e));
        for (size_t i = 0; i < safetensors_count(b); i++) {
            const struct st_tensor *t = safetensors_at(b, i), *base = safetensors_find(a, t->name);
            if (strcmp(t->name, "model.embed_tokens.weight") == 0 || strcmp(t->name, "lm_head.weight") == 0)
                copies(t, base, &m);
            else
                assert_memory_equal(t->data, base->data, base->bytes);
        }
        assert_int_equal(safetensors_count(a), safetensors_count(b));
        safetensors_close(a);
        safetensors_close(b);
        dual_meta_release(&m);
        struct buf report = BUF_INIT;
        int n = model_check(to, &report, &e);
        n += dual_check(to, 1000, 0, &report, NULL, NULL, &e);
        if (n)
            fail_msg("%s: %s", to, report.s ? report.s : e.msg);
        buf_release(&report);
    }
}

/* The documented formulas, restated. */
static void think_rows_are_documented(void **state)
{
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct dual_meta m;
        struct safetensors *st, *base;
        struct dualize_options o = { .model = "tests/golden/models/phi3",
                                     .think_missing = add ? THINK_ADD : THINK_CLONE_EOS,
                                     .noise = 0.05,
                                     .seed = 7 };
        char *dir = make(add ? "add" : "clone", o, &m);
        assert_int_equal(m.visible, 602);
        assert_int_equal(m.clone_source_id, add ? -1 : 598);
        assert_ok(safetensors_open_dir(&st, dir, &e));
        assert_ok(safetensors_open_dir(&base, o.model, &e));
        static const char *const names[] = { "model.embed_tokens.weight", "lm_head.weight" };
        for (int k = 0; k < 2; k++) {
            const struct st_tensor *t = safetensors_find(st, names[k]), *b = safetensors_find(base, names[k]);
            float got[32], x[600][32];
            assert_int_equal(t->shape[1], 32);
            model_floats(&x[0][0], b, 0, 600 * 32);
            for (int32_t id = 600; id < 602; id++) {
                struct rng r = rng_stream(7, names[k], strlen(names[k]), (uint32_t)id);
                model_floats(got, t, (uint64_t)id * 32, 32);
                double size = 0;
                for (int i = 0; i < 32; i++)
                    size += fabs((double)x[598][i]) / 32;
                for (uint64_t i = 0; i < 32; i++) {
                    double mean = 0, var = 0, want;
                    for (int n = 0; n < 600; n++)
                        mean += (double)x[n][i] / 600;
                    for (int n = 0; n < 600; n++)
                        var += ((double)x[n][i] - mean) * ((double)x[n][i] - mean) / 599;
                    want = add ? mean + 0.05 * sqrt(var) * rng_normal(&r, i)
                               : (double)x[598][i] + 0.05 * size * rng_normal(&r, i);
                    assert_true(fabs((double)got[i] - want) <= 1e-6 * (1 + fabs(want)));
                }
            }
        }
        safetensors_close(st);
        safetensors_close(base);
        dual_meta_release(&m);
    }
}

static void write_text(const char *path, const char *text)
{
    assert_ok(file_write_atomic(path, text, strlen(text), &e));
}

static void custom_rows(void **state)
{
    (void)state;
    char *tokens = dir_of("tokens.txt"), *array = dir_of("rows.npy");
    write_text(tokens, "<latent a>\n<latent b>\n<latent c>");
    struct buf b = BUF_INIT;
    float v[3 * 32];
    for (int i = 0; i < 3 * 32; i++)
        v[i] = (float)i / 7;
    buf_add(&b, "\x93NUMPY\x01\x00\x46\x00", 10);
    buf_printf(&b, "%-69s\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 32), }");
    buf_add(&b, v, sizeof v);
    assert_ok(file_write_atomic(array, b.s, b.len, &e));
    struct dual_meta m;
    struct safetensors *st;
    struct dualize_options o = { .model = "tests/golden/models/qwen3-untied",
                                 .mode = DUALIZE_CUSTOM,
                                 .custom_tokens = tokens,
                                 .custom_embeddings = array,
                                 .tokens = true };
    char *dir = make("custom", o, &m);
    assert_int_equal(m.latent, 3);
    assert_ok(safetensors_open_dir(&st, dir, &e));
    const struct st_tensor *t = safetensors_find(st, "lm_head.weight");
    assert_memory_equal(row_of(t, m.visible), v, sizeof v);
    safetensors_close(st);
    dual_meta_release(&m);
    struct tokenizer *tok;
    assert_ok(tokenizer_open(&tok, dir, &e));
    assert_int_equal(tokenizer_id(tok, "<latent b>"), m.visible + 601);
    tokenizer_close(tok);

    o.custom_embeddings = NULL; /* drawn: about as large as the others */
    dir = make("custom-drawn", o, &m);
    assert_ok(safetensors_open_dir(&st, dir, &e));
    safetensors_close(st);
    struct buf facts = BUF_INIT;
    assert_int_equal(dual_check(dir, 10, 1e-3, &b, &facts, NULL, &e), 0);
    assert_non_null(strstr(facts.s, "mean norm"));
    dual_meta_release(&m);
    buf_release(&facts);

    /* refusals */
    static const struct {
        const char *text, *why;
    } bad[] = { { "<latent a>\n\n<latent b>", "tokens.txt:2: a token is expected" },
                { "a\n", "tokens.txt:1: a is a token already" },
                { "<x>\n<y>\n<x>\n", "a token stands in it twice" },
                { "", "there are no tokens in it" } };
    for (size_t i = 0; i < 4; i++) {
        write_text(tokens, bad[i].text);
        assert_ok(file_mkdirs(dir_of("bad"), &e));
        assert_int_equal(dualize(&o, dir_of("bad"), &m, &e), -1);
        if (!strstr(e.msg, bad[i].why))
            fail_msg("%s", e.msg);
    }
    struct npy a;
    for (size_t n = 0; n < b.len; n += n < 130 ? 1 : 50) { /* cut anywhere */
        assert_ok(file_write_atomic(array, b.s, n, &e));
        assert_int_equal(npy_open(&a, array, &e), -1);
    }
    buf_release(&b);
}

/* ---- meta and ids ---- */

static void ids_go_both_ways(void **state)
{
    (void)state;
    char *list = dir_of("ids.json");
    write_text(list, "[5, 599, 7, 7, 600, 300, 602, 597]");
    struct dual_meta m, again;
    struct dual *v;
    struct dualize_options o = {
        .model = "tests/golden/models/qwen3", .mode = DUALIZE_SUBSET, .subset_ids = list, .tokens = true
    };
    char *dir = make("subset", o, &m);
    assert_int_equal(m.visible, 608); /* 8 fillers from 600 on */
    assert_int_equal(m.latent, 7);
    assert_int_equal(dual_meta_read(&again, dir, &e), 1);
    for (int i = 0; i < 7; i++)
        assert_int_equal(dual_meta_source(&again, i), dual_meta_source(&m, i));
    dual_meta_release(&again);
    assert_int_equal(dual_open(&v, dir, NULL, &e), 1);
    assert_int_equal(dual_latent(v, 5), 608);
    assert_int_equal(dual_latent(v, 599), 612);
    assert_int_equal(dual_latent(v, 6), -1);
    assert_int_equal(dual_source(v, 609), 7);
    assert_int_equal(dual_source(v, 7), 7);
    int32_t ids[] = { 5, 6, 7, 599, 5, 599 };
    assert_int_equal(dual_remap(v, ids, 1, 6), 3);
    static const int32_t want[] = { 5, 6, 609, 599, 5, 599 };
    assert_memory_equal(ids, want, sizeof ids);
    assert_int_equal(dual_remap(v, ids, 0, 3), -1);
    dual_show(v, ids, 6);
    assert_int_equal(ids[2], 7);
    /* thinking: 5, 7, 300 of the latents (not the mirrors of </think>, <|im_end|> and the fillers), and </think> */
    struct dual_phases p;
    static const int32_t eos[] = { 597, 595 };
    assert_ok(dual_phases(v, eos, 2, false, &p, &e));
    assert_true(p.lo[0] == 608 && p.hi[0] == 613 && p.lo[1] == 0 && p.hi[1] == 608 && p.flip_id == 599);
    assert_true(p.also[0][0] == 599 && p.also[0][1] == -1);
    assert_true(p.never[0][0] == 611 && p.never[0][1] == 612 && p.never[0][2] == -1);
    assert_ok(dual_phases(v, eos, 2, true, &p, &e));
    assert_true(p.hi[0] == 615 && p.also[0][1] == 597 && p.also[1][0] == 597 && p.never[0][0] == -1);
    dual_close(v);
    dual_meta_release(&m);
    assert_int_equal(dual_open(&v, "tests/golden/models/qwen3", NULL, &e), 0);
    assert_null(v);
}

/* Added think tokens stand behind the fillers: the mirror of the start may be thought, that of the end may not. */
static void prompts_begin_in_their_phase(void **state)
{
    (void)state;
    struct dual_meta m;
    struct dual *v;
    struct dual_phases p;
    struct dualize_options o = { .model = "tests/golden/models/phi3", .think_missing = THINK_ADD };
    char *dir = make("phases", o, &m);
    assert_int_equal(dual_open(&v, dir, NULL, &e), 1);
    static const int32_t eos[] = { 595, 596, 598 };
    assert_ok(dual_phases(v, eos, 3, false, &p, &e));
    assert_true(p.lo[0] == 602 && p.hi[0] == 1204 && p.never[0][3] == 602 + 601);
    enum { START = 600, END = 601, STOP = 598 };
    static const struct {
        int32_t ids[6];
        int phase;
    } prompts[] = { { { 1, 2, START, 10, END, 10 }, 1 },  { { 1, 2, 3, 4, START, 10 }, 0 },
                    { { START, 9, END, STOP, 8, 7 }, 0 }, { { 1, 2, 3, 4, 5, 6 }, 0 },
                    { { END, STOP, 9, 9, 9, END }, 1 },   { { 1, END, 4, START, 4, 4 }, 0 },
                    { { STOP, 2, STOP, 10, END, 10 }, 1 } };
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        assert_int_equal(dual_phase(v, prompts[i].ids, 6, eos, 3), prompts[i].phase);
    dual_close(v);
    dual_meta_release(&m);
}

static void bad_meta_is_refused(void **state)
{
    (void)state;
    struct dual_meta m;
    struct buf good = BUF_INIT, bad = BUF_INIT;
    char *dir = make("meta", (struct dualize_options){ .model = "tests/golden/models/qwen2" }, &m);
    dual_meta_release(&m);
    char *path = path_join(dir, "dual_vocab_meta.json");
    assert_ok(file_read(&good, path, 0, &e));
    static const char *const change[][3] = {
        { "\"V\": 600", "\"V\": 601", "latent_id_offset is 600, V is 601" },
        { "\"total_vocab\": 1200", "\"total_vocab\": 1201", "total_vocab is 1201, V + L is 1200" },
        { "\"count\": 600", "\"count\": 599", "source_ids counts 599 ids, L is 600" },
        { "\"first\": 0", "\"first\": 1", "source_ids ends at 600" },
        { "\"mode\": \"full_copy\"", "\"mode\": 3", "\"mode\" is not a text" },
        { "\"think_end_token_id\": 599", "\"think_end_token_id\": 600",
          "\"think_end_token_id\" is not a whole number" },
        { "\"L\": 600", "\"L\": -1", "\"L\" is not a whole number" },
    };
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char *at = strstr(good.s, change[i][0]);
        assert_non_null(at);
        buf_reset(&bad);
        buf_add(&bad, good.s, (size_t)(at - good.s));
        buf_puts(&bad, change[i][1]);
        buf_puts(&bad, at + strlen(change[i][0]));
        write_text(path, bad.s);
        assert_int_equal(dual_meta_read(&m, dir, &e), -1);
        if (!strstr(e.msg, change[i][2]))
            fail_msg("%s", e.msg);
    }
    for (size_t n = 0; n < good.len - 2; n += 7) {
        assert_ok(file_write_atomic(path, good.s, n, &e));
        assert_int_equal(dual_meta_read(&m, dir, &e), -1);
    }
    free(path);
    buf_release(&good);
    buf_release(&bad);
}

/* ---- folders ---- */

static void folders_are_whole(void **state)
{
    (void)state;
    struct folder *f;
    struct manifest m = { .program = xstrdup("test"), .version = xstrdup("1"), .options = xstrdup("{}") };
    struct buf problems = BUF_INIT;
    char *dir = dir_of("folder"), *part = dir_of("folder.part"), *file = dir_of("folder/b"), *more = dir_of("folder/c");
    char *half = dir_of("folder.part/b");
    assert_ok(folder_open(&f, dir, &e));
    write_text(half, "half");
    folder_close(f);
    assert_false(file_exists(part));
    assert_ok(folder_open(&f, dir, &e));
    write_text(half, "whole");
    assert_ok(folder_commit(f, &m, &e));
    folder_close(f);
    assert_int_equal(folder_check(dir, NULL, &problems), 0);
    assert_true(folder_is_current(dir, m.key));
    free(m.counts);
    m.counts = NULL;
    assert_ok(folder_open(&f, dir, &e)); /* replaces an artefact */
    write_text(half, "other");
    assert_ok(folder_commit(f, &m, &e));
    folder_close(f);
    if (folder_check(dir, NULL, &problems))
        fail_msg("%s", problems.s);
    write_text(more, "stranger");
    assert_int_equal(folder_check(dir, NULL, &problems), 1);
    unlink(more);
    write_text(file, "changed");
    assert_int_equal(folder_check(dir, NULL, &problems), 1);
    assert_false(folder_is_current(dir, m.key));
    unlink(file);
    assert_int_equal(folder_check(dir, NULL, &problems), 1);
    unlink(dir_of("folder/run.json"));
    write_text(file, "mine");
    assert_int_equal(folder_open(&f, dir, &e), -1);
    assert_non_null(strstr(e.msg, "it is not replaced"));
    manifest_release(&m);
    buf_release(&problems);
}

/* With a store: what was made under a key comes back without being made; folders of others inside neither count nor go.
 */
static void folders_come_from_the_store(void **state)
{
    (void)state;
    struct folder *f;
    struct buf problems = BUF_INIT;
    char *dir = dir_of("kept"), *store = dir_of("store"), *guest = dir_of("kept/eval/rows.jsonl"), *key[2];
    setenv("LATENT_STORE", store, 1);
    for (int i = 0; i < 2; i++) {
        struct manifest m = { .program = xstrdup("test"),
                              .version = xstrdup("1"),
                              .options = xstrdup(i ? "{\"x\": 1}" : "{}") };
        hash_hex(manifest_key(&m, true), m.key);
        assert_string_equal(folder_state(dir, m.key), "run");
        assert_int_equal(folder_take(dir, m.key, &e), 0);
        assert_ok(folder_open(&f, dir, &e));
        assert_ok(file_mkdirs(dir_of("kept.part/merged"), &e));
        write_text(dir_of("kept.part/merged/b"), i ? "two" : "one");
        write_text(dir_of("kept.part/merged/run.json"), "{}");
        write_text(dir_of("kept.part/metrics.jsonl"), "{}");
        assert_ok(folder_commit(f, &m, &e));
        folder_close(f);
        key[i] = xstrdup(m.key);
        manifest_release(&m);
        if (i == 0) {
            assert_ok(file_mkparents(guest, &e));
            write_text(guest, "mine");
        }
        if (folder_check(dir, NULL, &problems))
            fail_msg("%s", problems.s);
        assert_true(file_exists(guest));
        assert_string_equal(folder_state(dir, key[i]), "up-to-date");
    }
    assert_string_equal(folder_state(dir, key[0]), "store");
    assert_int_equal(folder_take(dir, key[0], &e), 1);
    assert_string_equal(folder_state(dir, key[0]), "up-to-date");
    assert_true(file_exists(guest) && file_exists(dir_of("kept/merged/run.json")) &&
                file_exists(dir_of("kept/metrics.jsonl")));
    struct buf got = BUF_INIT;
    assert_ok(file_read(&got, dir_of("kept/merged/b"), 100, &e));
    assert_string_equal(got.s, "one");
    buf_release(&got);
    /* a damaged copy in the store is not taken */
    char *damaged = NULL;
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s/%s/merged/b", store, key[1]);
    damaged = buf_take(&b);
    assert_true(file_exists(damaged));
    unlink(damaged);
    write_text(damaged, "bad");
    assert_int_equal(folder_take(dir, key[1], &e), 0);
    unsetenv("LATENT_STORE");
    free(damaged);
    free(key[0]);
    free(key[1]);
    buf_release(&problems);
}

/* ---- generation ---- */

/* A random Llama with 40 rows: 30 letters, three special tokens, and rows for fillers. */
enum { LETTERS = 30, STOP = 30, OPEN = 31, CLOSE = 32, TOKENS = 33, ROWS = 36 };

static char *random_base(int seed, bool tied)
{
    char name[40];
    snprintf(name, sizeof name, "base-%d", seed);
    char *dir = dir_of(name);
    struct random_shape s = { .layers = 1,
                              .hidden = 16,
                              .ffn = 24,
                              .heads = 2,
                              .kv_heads = 1,
                              .vocab = ROWS,
                              .max_positions = 128,
                              .tied = tied,
                              .spread = 0.5 };
    struct buf b = BUF_INIT;
    assert_ok(file_mkdirs(dir, &e));
    assert_ok(random_model_write(dir, &s, (uint64_t)seed, &e));
    char *path = path_join(dir, "tokenizer.json");
    buf_puts(&b, "{\"added_tokens\": [");
    static const char *const added[] = { "<|im_end|>", "<think>", "</think>" };
    for (int i = 0; i < 3; i++)
        buf_printf(&b,
                   "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                   "\"normalized\": false, \"special\": %s}",
                   i ? ", " : "", STOP + i, added[i], i ? "false" : "true");
    buf_puts(&b, "], \"normalizer\": null, \"pre_tokenizer\": null, \"post_processor\": null, \"decoder\": null, "
                 "\"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int i = 0; i < LETTERS; i++)
        buf_printf(&b, "%s\"%c\": %d", i ? ", " : "", 'A' + i, i);
    buf_puts(&b, "}, \"merges\": []}}");
    char *back = strchr(b.s, '\\'); /* the letter behind Z and [ */
    if (back)
        *back = '~';
    write_text(path, b.s);
    free(path);
    path = path_join(dir, "generation_config.json");
    write_text(path, "{\"eos_token_id\": [30]}");
    free(path);
    buf_release(&b);
    return dir;
}

static struct gen_params params_of(const struct dual *v, const struct model *m, bool compat, double bias)
{
    struct gen_params p;
    struct dual_phases ph;
    const struct model_config *c = model_config(m);
    gen_params_init(&p, c);
    assert_ok(dual_phases(v, c->eos, c->n_eos, compat, &ph, &e));
    memcpy(p.lo, ph.lo, sizeof p.lo);
    memcpy(p.hi, ph.hi, sizeof p.hi);
    memcpy(p.also, ph.also, sizeof p.also);
    memcpy(p.never, ph.never, sizeof p.never);
    p.flip_id = ph.flip_id;
    p.flip_bias = (float)bias;
    return p;
}

/* What the specification says, id by id. */
static bool may_follow(const struct dual *v, bool answering, int32_t id)
{
    const struct dual_meta *m = dual_meta(v);
    if (answering)
        return id < m->visible;
    if (id == m->think_end_id)
        return true;
    if (id < m->visible)
        return false;
    int32_t s = dual_source(v, id);
    return s != m->think_end_id && s != STOP && !(s >= TOKENS && s < ROWS);
}

struct tally {
    int sequences, thought, answered, began_answering;
};

static void check_sequence(const struct dual *v, const struct gen_request *q, const struct gen_result *r,
                           struct tally *t)
{
    bool answering = q->params->phase == 1;
    t->began_answering += answering;
    for (int i = 0; i < r->n; i++) {
        if (!may_follow(v, answering, r->ids[i]))
            fail_msg("id %d while %s (token %d)", r->ids[i], answering ? "answering" : "thinking", i);
        t->thought += !answering;
        t->answered += answering;
        answering = answering || r->ids[i] == dual_meta(v)->think_end_id;
    }
    if (r->stop_id >= 0)
        assert_true(answering); /* the stop id is no thought */
    t->sequences++;
}

static void run_mixed(int seed, struct tally *t)
{
    static const enum dualize_mode modes[] = { DUALIZE_FULL_COPY, DUALIZE_SUBSET };
    enum { REQUESTS = 24, SAMPLES = 21 };
    struct rng r = rng_stream((uint64_t)seed, "mixed", 5, 0);
    char name[40];
    struct dual_meta meta;
    struct dual *v;
    char *base = random_base(seed, seed % 2);
    snprintf(name, sizeof name, "dual-%d", seed);
    struct dualize_options o = { .model = base,
                                 .mode = modes[seed / 2 % 2],
                                 .subset_regex = modes[seed / 2 % 2] ? "[B-Q]|think|im_end|filler_1" : NULL };
    char *dir = make(name, o, &meta);
    dual_meta_release(&meta);
    assert_int_equal(dual_open(&v, dir, NULL, &e), 1);
    struct opened m = open_dir("cpu", dir, 1);
    int32_t prompt[REQUESTS][3] = { { 0 } };
    struct gen_params p[REQUESTS];
    struct gen_request q[REQUESTS];
    struct gen_result *results[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        p[i] = params_of(v, m.m, false, i % 3 ? 1 : 0);
        p[i].temperature = 1.5f;
        p[i].max_new = 4 + i % 13;
        for (int k = 0; k < 3; k++)
            prompt[i][k] = (int32_t)rng_below(&r, (uint64_t)(3 * i + k), LETTERS);
        if (i % 4 == 1) /* thinking is closed already */
            prompt[i][2] = CLOSE;
        p[i].phase = dual_phase(v, prompt[i], 3, model_config(m.m)->eos, model_config(m.m)->n_eos);
        q[i] = (struct gen_request){ prompt[i], 3, SAMPLES, 0, (uint64_t)seed, "mixed", NULL, &p[i] };
    }
    run_all(m.m, &(struct engine_options){ .batch = 16 }, q, REQUESTS, results);
    for (int i = 0; i < REQUESTS; i++)
        for (int k = 0; k < SAMPLES; k++)
            check_sequence(v, &q[i], &results[i][k], t);
    release_all(q, REQUESTS, results);
    close_opened(&m);
    dual_close(v);
}

static void tokens_stay_in_their_phase(void **state)
{
    (void)state;
    struct tally t = { 0, 0, 0, 0 };
    for (int seed = 0; seed < 20; seed++)
        run_mixed(seed, &t);
    assert_int_equal(t.sequences, 20 * 24 * 21); /* 10,080 */
    assert_true(t.thought > 10000 && t.answered > 5000 && t.began_answering > 2000);
}

/* Logits of the last row of a prompt, from a model of vocab rows. */
static void last_logits(struct model *m, const int32_t *prompt, int n, float *out)
{
    struct device *d = model_device(m);
    int vocab = model_config(m)->vocab;
    struct tensor *ids, *row, *begin, *logits, *index;
    int32_t places[16], span[2] = { 0, n }, last = n - 1;
    for (int i = 0; i < n; i++)
        places[i] = i;
    assert_ok(d->tensor_new(d, &ids, DTYPE_I32, 1, n, "", &e));
    assert_ok(d->tensor_new(d, &row, DTYPE_I32, 1, n, "", &e));
    assert_ok(d->tensor_new(d, &begin, DTYPE_I32, 1, 2, "", &e));
    assert_ok(d->tensor_new(d, &index, DTYPE_I32, 1, 1, "", &e));
    assert_ok(d->tensor_new(d, &logits, DTYPE_F32, 1, vocab, "", &e));
    d->tensor_write(d, ids, 0, prompt, (size_t)n);
    d->tensor_write(d, row, 0, places, (size_t)n);
    d->tensor_write(d, begin, 0, span, 2);
    d->tensor_write(d, index, 0, &last, 1);
    model_forward_varlen(m, &(struct model_varlen){ n, 1, ids, row, begin });
    model_logits(m, logits, index, 1);
    assert_ok(d->tensor_read(d, logits, 0, out, (size_t)vocab, &e));
    struct tensor *all[] = { ids, row, begin, index, logits };
    for (int i = 0; i < 5; i++)
        d->tensor_free(d, all[i]);
}

/* Chi-square of counts against p, cells with fewer than 5 expected pooled; chance passes the limit once in a million
 * tests (Wilson and Hilferty's approximation). */
static void check_frequencies(const char *what, const int *count, const double *p, int cells_, int n)
{
    double chi = 0, pool_want = 0, pool_got = 0;
    int cells = 0;
    for (int i = 0; i < cells_; i++) {
        double want = p[i] * n;
        if (p[i] == 0)
            assert_int_equal(count[i], 0);
        if (want < 5) {
            pool_want += want;
            pool_got += count[i];
            continue;
        }
        chi += (count[i] - want) * (count[i] - want) / want;
        cells++;
    }
    if (pool_want >= 5) {
        chi += (pool_got - pool_want) * (pool_got - pool_want) / pool_want;
        cells++;
    }
    double k = cells > 1 ? cells - 1 : 1, z = 4.7534;
    double t = 1 - 2 / (9 * k) + z * sqrt(2 / (9 * k)), limit = k * t * t * t;
    if (!(chi <= limit))
        fail_msg("%s: chi-square %.1f over %d cells, limit %.1f", what, chi, cells, limit);
}

/* full_copy without a bias: logits of both halves are the base model's to the bit, for latent inputs too, and samples
 * mapped to their sources follow the base model's distribution over the allowed ids. */
static void mapped_distribution_is_the_base_models(void **state)
{
    (void)state;
    enum { DRAWS = 20000 };
    char *base = random_base(100, false);
    struct dual_meta meta;
    struct dual *v;
    char *dir = make("dual-100", (struct dualize_options){ .model = base }, &meta);
    assert_int_equal(dual_open(&v, dir, NULL, &e), 1);
    struct opened b = open_dir("cpu", base, 1), m = open_dir("cpu", dir, 1);
    int32_t prompt[5] = { 3, 17, OPEN, 8, 21 }, seen[5];
    float want[ROWS], got[2 * ROWS];
    memcpy(seen, prompt, sizeof seen);
    seen[3] = dual_latent(v, seen[3]);
    seen[4] = dual_latent(v, seen[4]);
    last_logits(b.m, prompt, 5, want);
    last_logits(m.m, seen, 5, got);
    assert_memory_equal(got, want, sizeof want);
    assert_memory_equal(got + ROWS, want, sizeof want);
    for (int phase = 0; phase < 2; phase++) {
        struct gen_params p = params_of(v, m.m, false, 0);
        double q[ROWS], sum = 0;
        int count[ROWS] = { 0 };
        p.temperature = 1;
        p.max_new = 1;
        p.n_stop = 0;
        p.phase = phase;
        struct gen_request r = { seen, 5, DRAWS, 0, 5, "mapped", NULL, &p };
        struct gen_result *results;
        run_all(m.m, &(struct engine_options){ .batch = 64 }, &r, 1, &results);
        for (int i = 0; i < DRAWS; i++)
            count[dual_source(v, results[i].ids[0])]++;
        release_all(&r, 1, &results);
        for (int i = 0; i < ROWS; i++) {
            bool allowed = phase ? true : i == CLOSE || (i != STOP && i < TOKENS);
            q[i] = allowed ? exp((double)want[i]) : 0;
            sum += q[i];
        }
        for (int i = 0; i < ROWS; i++)
            q[i] /= sum;
        check_frequencies(phase ? "answering" : "thinking", count, q, ROWS, DRAWS);
    }
    close_opened(&b);
    close_opened(&m);
    dual_close(v);
    dual_meta_release(&meta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_copies),
        cmocka_unit_test(think_rows_are_documented),
        cmocka_unit_test(custom_rows),
        cmocka_unit_test(ids_go_both_ways),
        cmocka_unit_test(prompts_begin_in_their_phase),
        cmocka_unit_test(bad_meta_is_refused),
        cmocka_unit_test(folders_are_whole),
        cmocka_unit_test(folders_come_from_the_store),
        cmocka_unit_test(tokens_stay_in_their_phase),
        cmocka_unit_test(mapped_distribution_is_the_base_models),
    };
    return cmocka_run_group_tests_name("dual", tests, NULL, NULL);
}
