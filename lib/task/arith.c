/* arith.c - see arith.h. A problem is a quantity that changes step by step; each step has one way to tell it and
 * several ways to work it out. */
#include "task/arith.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "io/record.h"

enum { MAX_STEPS = 4 };

/* What may happen to the quantity. %1 the person, %2 the number, %3 the things, %4 a second number. */
enum change { GAIN, LOSE, TIMES, SHARE, PACKS, CHANGES };

struct step {
    enum change change;
    int a, b; /* b: size of a pack */
    int before, after;
};

struct problem {
    const char *who, *things, *place;
    int start, nsteps, ask;
    struct step step[MAX_STEPS];
};

/* Draws in order: one stream a row, one position a draw. */
struct dice {
    struct rng r;
    uint64_t at;
};

static int roll(struct dice *d, int n)
{
    return (int)rng_below(&d->r, d->at++, (uint32_t)n);
}

static int between(struct dice *d, int lo, int hi)
{
    return lo + roll(d, hi - lo + 1);
}

#define PICK(d, list) ((list)[roll((d), (int)(sizeof(list) / sizeof *(list)))])

static const char *const people[] = {
    "Tom", "Mia", "Ben", "Ana", "Leo", "Zoe", "Sam", "Eva", "Max", "Ida", "Jon", "Liv"
};
static const char *const goods[] = { "apples", "books",  "coins", "cards", "pens",  "shells",
                                     "stones", "stamps", "eggs",  "cups",  "beads", "nails" };
static const char *const places[] = { "at home", "in a box", "in the shop", "on a shelf", "in a bag", "at school" };

static const char *const told[CHANGES][4] = {
    [GAIN] = { "Then %1 gets %2 more %3.", "After that, %2 more %3 arrive.", "A friend gives %1 %2 %3.",
               "%1 finds %2 more %3." },
    [LOSE] = { "Then %1 gives away %2 %3.", "%2 of the %3 are sold.", "%1 loses %2 %3.", "After that, %1 uses %2 %3." },
    [TIMES] = { "Then the number of %3 becomes %2 times as large.", "%1 makes the number of %3 %2 times as large.",
                "Soon there are %2 times as many %3.", "A month later %1 has %2 times as many %3." },
    [SHARE] = { "%1 shares the %3 equally among %2 people and keeps one part.",
                "The %3 are put into %2 equal piles and %1 keeps one pile.",
                "%1 keeps one of %2 equal parts of the %3.",
                "The %3 are divided equally among %2 friends, %1 being one of them." },
    [PACKS] = { "Then %1 buys %2 packs with %4 %3 each.", "%2 packs of %4 %3 each are delivered.",
                "%1 adds %2 bags with %4 %3 in each.", "Then %1 opens %2 boxes, each with %4 %3." },
};

/* %5 before, %6 after, %7 the product of a pack step. */
static const char *const worked[CHANGES][4] = {
    [GAIN] = { "We add %2 to %5: %5 + %2 = %6.", "That is %2 more, so %5 + %2 = %6.", "Adding, %5 + %2 = %6.",
               "The number grows by %2, and %5 + %2 = %6." },
    [LOSE] = { "We take %2 from %5: %5 - %2 = %6.", "That is %2 fewer, so %5 - %2 = %6.", "Subtracting, %5 - %2 = %6.",
               "The number shrinks by %2, and %5 - %2 = %6." },
    [TIMES] = { "We multiply by %2: %5 * %2 = %6.", "%2 times as many means %5 * %2 = %6.",
                "Multiplying, %5 * %2 = %6.", "The number is %2 times as large, and %5 * %2 = %6." },
    [SHARE] = { "We divide by %2: %5 / %2 = %6.", "One of %2 equal parts is %5 / %2 = %6.", "Dividing, %5 / %2 = %6.",
                "There are %2 equal parts, and %5 / %2 = %6." },
    [PACKS] = { "The packs hold %2 * %4 = %7 in all. So %5 + %7 = %6.",
                "First, %2 * %4 = %7. Then we add: %5 + %7 = %6.", "%2 packs of %4 are %2 * %4 = %7, and %5 + %7 = %6.",
                "We need %2 * %4 = %7 first. After that, %5 + %7 = %6." },
};

static const char *const openers[] = {
    "Okay, let me think about this step by step.",
    "Alright, let me read the problem carefully first.",
    "Let me see what is asked here.",
    "Hmm, so this is a problem about %3.",
    "Okay, so I need to find how many %3 there are at the end.",
    "Let me work through this slowly.",
};
static const char *const starts[] = {
    "At the beginning %1 has %2 %3.",
    "We start with %2 %3.",
    "The first thing we know is that there are %2 %3.",
    "So the number of %3 is %2 to begin with.",
};
static const char *const restated[] = {
    "So now %1 has %6 %3.",
    "So after this there are %6 %3.",
    "Now the number of %3 is %6.",
    "That leaves us with %6 %3.",
};
static const char *const checks[] = {
    "Wait, let me check that again. Yes, that is right.",
    "Let me double check this. Okay, it is fine.",
    "I think that is correct.",
    "Good, that makes sense.",
    "Hmm, is that right? Yes, it is.",
    "Okay, so far so good.",
};
static const char *const nexts[] = {
    "Now for the next part.",
    "Let me go on with the next sentence.",
    "Next, something else happens to the %3.",
    "Okay, what comes after that?",
};
static const char *const closers[] = {
    "So the answer should be %6.",
    "Therefore, in the end there are %6 %3. The answer is %6.",
    "That was the last step, so the final number is %6.",
    "Putting it all together, %1 has %6 %3, so the answer is %6.",
};

/* ---- the problem ---- */

static bool make_step(struct dice *d, struct step *s, int value)
{
    s->before = value;
    s->b = 0;
    s->change = (enum change)roll(d, CHANGES);
    switch (s->change) {
    case GAIN:
        s->a = between(d, 2, 60);
        s->after = value + s->a;
        break;
    case LOSE:
        if (value < 4)
            return false;
        s->a = between(d, 1, value - 1 < 60 ? value - 1 : 60);
        s->after = value - s->a;
        break;
    case TIMES:
        s->a = between(d, 2, 5);
        s->after = value * s->a;
        break;
    case SHARE:
        s->a = between(d, 2, 6);
        if (value % s->a != 0 || value / s->a < 2)
            return false;
        s->after = value / s->a;
        break;
    default:
        s->a = between(d, 2, 9);
        s->b = between(d, 2, 9);
        s->after = value + s->a * s->b;
    }
    return s->after >= 1 && s->after <= ARITH_MAX;
}

/* Shape and numbers, not words: two problems that differ in names only are one. */
static uint32_t fingerprint(const struct problem *p)
{
    uint32_t h = 2166136261u;
    const int n = p->nsteps;
    h = (h ^ (uint32_t)p->start) * 16777619u;
    for (int i = 0; i < n; i++) {
        const struct step *s = &p->step[i];
        h = (h ^ (uint32_t)(s->change + CHANGES * (s->a + 256 * s->b))) * 16777619u;
    }
    h ^= h >> 15;
    h *= 0x2c1b3c6du;
    return h ^ h >> 13;
}

static void make_problem(struct dice *d, struct problem *p, bool test)
{
    do {
        p->who = PICK(d, people);
        p->things = PICK(d, goods);
        p->place = PICK(d, places);
        p->start = between(d, 3, 90);
        p->nsteps = between(d, 2, MAX_STEPS);
        int value = p->start;
        for (int i = 0; i < p->nsteps; i++) {
            while (!make_step(d, &p->step[i], value))
                ;
            value = p->step[i].after;
        }
    } while ((fingerprint(p) % ARITH_FOLDS == 0) != test);
}

/* ---- the words ---- */

static void say(struct buf *b, const char *text, const struct problem *p, const struct step *s)
{
    if (b->len && b->s[b->len - 1] != '\n')
        buf_putc(b, ' ');
    for (; *text; text++) {
        if (*text != '%') {
            buf_putc(b, *text);
            continue;
        }
        switch (*++text) {
        case '1':
            buf_puts(b, p->who);
            break;
        case '2':
            buf_printf(b, "%d", s->a);
            break;
        case '3':
            buf_puts(b, p->things);
            break;
        case '4':
            buf_printf(b, "%d", s->b);
            break;
        case '5':
            buf_printf(b, "%d", s->before);
            break;
        case '6':
            buf_printf(b, "%d", s->after);
            break;
        default:
            buf_printf(b, "%d", s->a * s->b);
        }
    }
}

static void put_question(struct buf *b, struct dice *d, const struct problem *p)
{
    static const char *const first[] = { "%1 has %2 %3", "There are %2 %3 that belong to %1" };
    const struct step begin = { GAIN, p->start, 0, p->start, p->start };
    say(b, PICK(d, first), p, &begin);
    buf_printf(b, " %s.", p->place);
    for (int i = 0; i < p->nsteps; i++)
        say(b, PICK(d, told[p->step[i].change]), p, &p->step[i]);
    say(b, "How many %3 does %1 have now?", p, &begin);
}

static void put_solution(struct buf *b, struct dice *d, const struct problem *p)
{
    const struct step begin = { GAIN, p->start, 0, p->start, p->start };
    say(b, PICK(d, openers), p, &begin);
    say(b, PICK(d, starts), p, &begin);
    for (int i = 0; i < p->nsteps; i++) {
        const struct step *s = &p->step[i];
        buf_putc(b, '\n');
        if (i > 0 && roll(d, 2))
            say(b, PICK(d, nexts), p, s);
        say(b, PICK(d, worked[s->change]), p, s);
        if (roll(d, 3))
            say(b, PICK(d, restated), p, s);
        if (roll(d, 2))
            say(b, PICK(d, checks), p, s);
    }
    buf_putc(b, '\n');
    say(b, PICK(d, closers), p, &p->step[p->nsteps - 1]);
}

int64_t arith_rows(const char *split)
{
    return strcmp(split, "train") == 0 ? ARITH_TRAIN_ROWS : strcmp(split, "test") == 0 ? ARITH_TEST_ROWS : -1;
}

void arith_row(uint64_t seed, const char *split, uint64_t row, struct buf *out)
{
    struct dice d = { rng_stream(seed, split, strlen(split), (uint32_t)row), 0 };
    struct buf question = BUF_INIT, solution = BUF_INIT, line = BUF_INIT;
    struct problem p;
    char id[64];
    make_problem(&d, &p, strcmp(split, "test") == 0);
    put_question(&question, &d, &p);
    put_solution(&solution, &d, &p);
    snprintf(id, sizeof id, "arith_%.20s_%llu", split, (unsigned long long)row);
    rec_begin(&line);
    rec_put_cstr(&line, "benchmark", "arith");
    rec_put_cstr(&line, "source_id", id);
    rec_put_text(&line, "question", question.s, question.len);
    char gold[16];
    snprintf(gold, sizeof gold, "%d", p.step[p.nsteps - 1].after);
    rec_put_cstr(&line, "gold_answer", gold);
    rec_put_cstr(&line, "subject", "Word Problems");
    rec_put_int(&line, "level", p.nsteps);
    rec_put_text(&line, "solution", solution.s, solution.len);
    rec_end(&line);
    buf_add(out, line.s, line.len);
    buf_release(&question);
    buf_release(&solution);
    buf_release(&line);
}
