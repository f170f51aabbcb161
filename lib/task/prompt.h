/* prompt.h - what a model is asked, and what it is taught to answer: the one place where prompt texts live.
 *
 *     struct prompt_spec spec = { .format = PROMPT_TOKENSKIP, .delimiter = prompt_delimiter(family) };
 *     struct turns t = { 0 };
 *     prompt_turns(&spec, &(struct prompt_question){ "math", "math_test_0", "What is 1+1?", NULL }, 0.5, &t, &e);
 *     ... render the turns with the checkpoint's chat template into text (prompt_text does all of it) ...
 *     prompt_finish(&spec, &t, &text, &e);     // exemplars put in, thinking opened or suppressed
 *
 * collect, eval, score and prepare build the same bytes because they call the same functions. Formats are the words of
 * --prompt-format. Texts that are long or somebody's method are data files (struct prompt_data), not code. */
#ifndef LATENT_PROMPT_H
#define LATENT_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;

enum prompt_format { PROMPT_TOKENSKIP, PROMPT_XML, PROMPT_PAPER, PROMPT_RAW };
#define PROMPT_FORMATS "tokenskip|xml|paper|raw"
enum prompt_format prompt_format_of(const char *word); /* one of PROMPT_FORMATS; anything else is a bug */
const char *prompt_format_name(enum prompt_format f);

/* ---- pieces ---- */

/* System text of a format, or NULL for none. benchmark chooses the example in xml: competition mathematics for math*,
 * word problems for the rest. */
const char *prompt_system(enum prompt_format f, const char *benchmark);

/* What stands around the ratio: "<|im_end|>" (qwen), "<|eot_id|>" (llama3). */
const char *prompt_delimiter(const char *model_family);

/* 1 within 1e-9: the ratio that is no condition and has no suffix. */
bool prompt_ratio_is_one(double ratio);

/* User text: instruction, question and ratio suffix in tokenskip, the question itself otherwise. */
void prompt_user(enum prompt_format f, const char *question, double ratio, const char *delimiter, struct buf *out);

/* The ratio suffix alone; nothing at 1. */
void prompt_suffix(double ratio, const char *delimiter, struct buf *out);

/* Assistant text for training and for exemplars. reasoning may be NULL. compat also removes everything that looks like
 * a lower-case tag from the reasoning, as the reference does (it eats mathematics: x<y>z becomes xz). */
void prompt_assistant(enum prompt_format f, const char *reasoning, const char *answer, bool compat, struct buf *out);

/* ---- few-shot exemplars: a JSON array (or one object a line) with question, reasoning, answer or solution ---- */
struct exemplar {
    char *source_id, *question, *reasoning, *answer, *solution, *benchmark; /* NULL where absent; question never is */
};
struct exemplars {
    struct exemplar *v;
    size_t n;
};
int exemplars_open(struct exemplars *x, const char *path, struct err *e);
int exemplars_check(const struct exemplars *x, const char *benchmark, struct err *e); /* -1: one names another set */
void exemplars_close(struct exemplars *x);

/* k different exemplars for this question, drawn by (seed, source_id); never the question itself. Fails if the pool is
 * too small. */
int exemplars_draw(const struct exemplars *x, uint64_t seed, const char *source_id, const char *question, size_t k,
                   uint32_t *out, struct err *e);

/* As the reference draws: random.sample(pool, k) from one stream (rng_python_seed), a draw for each question in turn;
 * the question itself may be among them. */
struct rng_python;
int exemplars_draw_compat(const struct exemplars *x, struct rng_python *r, size_t k, uint32_t *out, struct err *e);

/* ---- prompt data: a system text and worked examples from a JSON file ----
 * {"name": "sot", "layout": "multiturn", "system": TEXT, "exemplars": [{"question": TEXT, "answer": TEXT}, ...]} */
enum prompt_layout { LAYOUT_INLINED, LAYOUT_MULTITURN, LAYOUT_SYSTEM_ONLY };
#define PROMPT_LAYOUTS "inlined|multiturn|system-only"

struct prompt_data {
    char *name, *system;
    enum prompt_layout layout; /* the file's own choice; inlined when it says nothing */
    struct exemplars shots;    /* question and answer only */
};
/* A file as it is, else NAME.json in the prompts/ folder of the installed data; the caller frees, NULL: neither. */
char *prompt_data_find(const char *name, struct err *e);
int prompt_data_open(struct prompt_data *d, const char *path, struct err *e);
void prompt_data_close(struct prompt_data *d);
int prompt_layout_of(const char *word); /* -1: no such word */

/* ---- a whole prompt ---- */
struct prompt_spec {
    enum prompt_format format;
    const char *delimiter;         /* around the ratio */
    const struct exemplars *shots; /* few-shot pool, or NULL */
    size_t num_shots;              /* how many are drawn; with data: how many of its exemplars, in file order */
    uint64_t seed;
    const struct prompt_data *data; /* replaces the format's texts; NULL: none */
    enum prompt_layout layout;      /* of data */
    bool open_think;                /* the prompt ends with "<think>\n": appended unless it is there already */
    bool compat;                    /* open_think appends even where the prompt ends with it, as the reference does */
    bool suppress;                  /* an empty thinking block is put in front of the answer */
};

struct prompt_question {
    const char *benchmark, *source_id, *question;
    const uint32_t *chosen; /* [num_shots] exemplars that somebody else drew; NULL: drawn here */
};

struct turn {
    const char *role; /* "system", "user", "assistant" */
    char *text;       /* what the template is given */
    char *insert;     /* not NULL: text is a placeholder that prompt_finish replaces by this, because templates cut the
                         thinking out of earlier assistant turns */
};
struct turns {
    struct turn *v;
    size_t n, cap;
};
void turns_release(struct turns *t);

/* The conversation that is put through the chat template with a generation prompt. In raw there is one user turn, and
 * no template: its text is the prompt, encoded with the tokenizer's special tokens. */
int prompt_turns(const struct prompt_spec *spec, const struct prompt_question *q, double ratio, struct turns *out,
                 struct err *e);

/* Completes the rendered text in place. */
int prompt_finish(const struct prompt_spec *spec, const struct turns *t, struct buf *text, struct err *e);

#endif
