/* template.h - chat templates: the Jinja that checkpoints carry, rendered as transformers renders it.
 *
 * An interpreter of the language chat templates use: output, if/elif/else, for (loop variables, else, filter clause,
 * recursive not), set (names, namespace attributes, blocks), macro and call, filter blocks, generation blocks, break
 * and continue, expressions with filters, tests, slices, method calls of strings, lists and dicts, namespace, range,
 * dict, raise_exception, strftime_now (only when a date is given) and tojson. trim_blocks and lstrip_blocks are on, the
 * last newline of the template is dropped, undefined prints as nothing, as in transformers. What the interpreter does
 * not know it refuses by name and line, at open where it can be seen there.
 *
 * Bounded: steps, bytes of output and nesting have limits (below); a template that passes one fails with a sentence.
 * A template is read-only after open and may be shared between threads.
 * Sources: Jinja2 3.1 (behaviour), transformers' chat template utilities, spec/formats.md 11. */
#ifndef LATENT_TEXT_TEMPLATE_H
#define LATENT_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"

struct buf;
struct err;

enum {
    TEMPLATE_MAX_STEPS = 5000000,           /* evaluated nodes and copied list members of one rendering */
    TEMPLATE_MAX_BYTES = 256 * 1024 * 1024, /* of output and of all intermediate values together */
    TEMPLATE_MAX_DEPTH = 200,               /* nesting of expressions, blocks and macro calls */
};

struct chat_template;

/* From a model folder: chat_template.jinja wins over tokenizer_config.json's chat_template, which may be a text or a
 * list of {"name", "template"} ("default" is taken; the other names through chat_template_open_named). A folder
 * without a template is an error that says so. */
int chat_template_open(struct chat_template **out, const char *dir, struct err *e);
int chat_template_open_named(struct chat_template **out, const char *dir, const char *name, struct err *e);

/* From text; name stands in errors ("file:line: ..."). The text is copied. */
int chat_template_open_text(struct chat_template **out, const char *text, size_t n, const char *name, struct err *e);
void chat_template_close(struct chat_template *c); /* NULL is fine */

/* What a rendering sees. messages: a JSON array. kwargs: a JSON object of further variables (tools, documents,
 * enable_thinking, date_string ...) or {NULL, 0}; it may override any name here. bos, eos: NULL makes the name
 * undefined, which prints as nothing. strftime_now exists only if date (UTC seconds) is not negative. */
struct chat_input {
    struct json messages;
    struct json kwargs;
    bool add_generation_prompt;
    const char *bos_token, *eos_token;
    long long date;
};

/* Appends the rendered text to out (nothing is appended on failure). The text is to be encoded without the
 * post-processor's tokens: templates write their own. */
int chat_template_render(const struct chat_template *c, const struct chat_input *in, struct buf *out, struct err *e);

/* The shell's form: text of messages and kwargs (NULL: none) is parsed first. date is not given. */
int chat_template_render_json(const struct chat_template *c, const char *messages, const char *kwargs,
                              bool add_generation_prompt, const char *bos, const char *eos, struct buf *out,
                              struct err *e);

#endif
