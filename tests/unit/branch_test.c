/* branch_test.c - lib/model/branch: the same as alone to the bit, as scorer_run within rounding, and less work. */
#include "model/branch.h"

#include <math.h>

#include "base/rng.h"
#include "unit/test.h"

#include "infer_util.h"

static struct err e;
static struct rng dice;
static uint64_t thrown;

static int roll(int n)
{
    return (int)rng_below(&dice, thrown++, (uint32_t)n);
}

enum { SEQUENCES = 40, MOST = 300 };

struct bunch {
    int32_t ids[SEQUENCES][MOST];
    float got[SEQUENCES][MOST], want[SEQUENCES][MOST];
    struct score_seq seq[SEQUENCES];
    int n;
};

/* Each begins like an earlier one, up to anywhere: at page ends, inside pages, at its very end, all of it. */
static void grow(struct bunch *b, int n, int vocab, int longest)
{
    b->n = n;
    for (int i = 0; i < n; i++) {
        int from = i ? roll(i) : 0, shared = 0, len;
        if (i && roll(5)) {
            int whole = b->seq[from].n;
            shared = roll(3) == 0 ? whole : roll(3) == 0 ? whole / 32 * 32 : 1 + roll(whole);
            memcpy(b->ids[i], b->ids[from], (size_t)shared * sizeof(int32_t));
        }
        len = shared + roll(4) * roll(30);
        len = len < 2 ? 2 : len > longest ? longest : len;
        for (int t = shared; t < len; t++)
            b->ids[i][t] = roll(roll(2) ? 3 : vocab);
        b->seq[i] = (struct score_seq){ b->ids[i], len, 1 + roll(len), b->got[i], NULL };
    }
}

static void check_model(const char *model, int longest)
{
    struct opened m = open_golden("cpu", model, 2);
    struct bunch *b = xcalloc(1, sizeof *b);
    struct branches *many, *small;
    struct scorer *s;
    assert_ok(branches_open(&many, m.m, &(struct branches_options){ 16384, 512 }, &e));
    assert_ok(branches_open(&small, m.m, &(struct branches_options){ 320, 16 }, &e));
    assert_ok(scorer_open(&s, m.m, 1000, &e));
    for (int turn = 0; turn < 12; turn++) {
        grow(b, 1 + roll(SEQUENCES), model_config(m.m)->vocab, longest);
        assert_ok(branches_run(many, b->seq, b->n, &e));
        memcpy(b->want, b->got, sizeof b->got);
        memset(b->got, 0, sizeof b->got);
        for (int i = 0; i < b->n; i++) /* alone, in small passes */
            assert_ok(branches_run(small, &b->seq[i], 1, &e));
        for (int i = 0; i < b->n; i++)
            if (b->seq[i].n > b->seq[i].first)
                assert_memory_equal(b->got[i], b->want[i], (size_t)(b->seq[i].n - b->seq[i].first) * sizeof(float));
        memset(b->got, 0, sizeof b->got);
        assert_ok(branches_run(small, b->seq, b->n, &e)); /* in parts */
        for (int i = 0; i < b->n; i++)
            if (b->seq[i].n > b->seq[i].first)
                assert_memory_equal(b->got[i], b->want[i], (size_t)(b->seq[i].n - b->seq[i].first) * sizeof(float));
        assert_ok(scorer_run(s, b->seq, b->n, &e));
        for (int i = 0; i < b->n; i++)
            for (int t = 0; t < b->seq[i].n - b->seq[i].first; t++)
                assert_true(fabsf(b->got[i][t] - b->want[i][t]) <= 1e-4f * (1 + fabsf(b->want[i][t])));
    }
    branches_close(many);
    branches_close(small);
    scorer_close(s);
    free(b);
    close_opened(&m);
}

static void alone_or_together(void **state)
{
    (void)state;
    dice = rng_stream(1, "branch", 6, 0);
    check_model("qwen3", 300);
    check_model("llama3", 300);
    check_model("qwen3-sliding", 300);
    check_model("phi3-longrope", 120);
}

static void shared_prompts_are_computed_once(void **state)
{
    (void)state;
    enum { ITEMS = 32, PROMPT = 400, ANSWER = 10 };
    static int32_t ids[ITEMS][PROMPT + ANSWER];
    static float lp[ITEMS][ANSWER];
    struct score_seq seq[ITEMS];
    struct branches *b;
    struct opened m = open_golden("cpu", "qwen2", 1);
    for (int i = 0; i < ITEMS; i++) {
        for (int t = 0; t < PROMPT; t++)
            ids[i][t] = t * 7 % 590;
        for (int t = 0; t < ANSWER; t++)
            ids[i][PROMPT + t] = t ? (i * 31 + t * 17) % 590 : i;
        seq[i] = (struct score_seq){ ids[i], PROMPT + ANSWER, PROMPT, lp[i], NULL };
    }
    assert_ok(branches_open(&b, m.m, &(struct branches_options){ 16384, 512 }, &e));
    assert_ok(branches_run(b, seq, ITEMS, &e));
    struct branches_stats st = branches_stats(b);
    assert_int_equal(st.computed, PROMPT + ITEMS * (ANSWER - 1));
    assert_int_equal(st.logits, 1 + ITEMS * (ANSWER - 1));
    assert_int_equal(st.passes, 2);
    seq[0].n = 513;
    assert_int_equal(branches_run(b, seq, 1, &e), -1);
    assert_non_null(strstr(e.msg, "longer than the model's context of 512"));
    branches_close(b);
    close_opened(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_or_together),
        cmocka_unit_test(shared_prompts_are_computed_once),
    };
    return cmocka_run_group_tests_name("branch", tests, NULL, NULL);
}
