/* Chat templates: the published renderings, the language piece by piece, refusals, bounds. */
#include "unit/test.h"

#include "base/file.h"
#include "base/json.h"
#include "text/template.h"

static struct err e;

static char *field(struct json o, const char *key)
{
    struct json v;
    return json_get(o, key, &v) && json_kind(v) == JSON_STRING ? json_str_dup(v) : NULL;
}

static void check_published(struct json o)
{
    char *name = field(o, "template"), *id = field(o, "case"), *want = field(o, "expected"), path[400];
    char *bos = field(o, "bos_token"), *eos = field(o, "eos_token");
    struct chat_template *t;
    struct buf source = BUF_INIT, out = BUF_INIT;
    struct json v;
    snprintf(path, sizeof path, "data/chat_templates/%s.jinja", name);
    const char *file = shared_file(path);
    if (!file)
        fail_msg("%s: no such template", path);
    assert_ok(file_read(&source, file, 0, &e));
    assert_ok(chat_template_open_text(&t, source.s, source.len, name, &e));
    struct chat_input in = { .bos_token = bos, .eos_token = eos, .date = -1 };
    assert_true(json_get(o, "messages", &in.messages) && json_get(o, "kwargs", &in.kwargs));
    assert_true(json_get(o, "add_generation_prompt", &v) && json_bool(v, &in.add_generation_prompt));
    if (chat_template_render(t, &in, &out, &e) < 0)
        fail_msg("%s, %s: %s", name, id, e.msg);
    if (strcmp(out.s ? out.s : "", want) != 0)
        fail_msg("%s, %s: got\n%s\nwant\n%s", name, id, out.s, want);
    chat_template_close(t);
    buf_release(&source);
    buf_release(&out);
    free(name);
    free(id);
    free(want);
    free(bos);
    free(eos);
}

static void published(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "data/chat_templates/cases.jsonl");
    struct buf text = BUF_INIT;
    int n = 0;
    assert_ok(file_read(&text, path, 0, &e));
    for (char *s = text.s, *nl; (nl = strchr(s, '\n')); s = nl + 1, n++) {
        struct json o;
        assert_ok(json_parse(&o, s, (size_t)(nl - s), &e));
        check_published(o);
    }
    assert_true(n > 50);
    buf_release(&text);
}

static int render(const char *source, const char *kwargs, struct buf *out)
{
    struct chat_template *t;
    if (chat_template_open_text(&t, source, strlen(source), "t", &e) < 0)
        return -1;
    int rc = chat_template_render_json(t, "[{\"role\": \"user\", \"content\": \"hi\"}]", kwargs, true, "<s>", "</s>",
                                       out, &e);
    chat_template_close(t);
    return rc;
}

/* tests/unit/text_template.jsonl: a template, its variables as JSON, what Jinja2 3.1 makes of it (all three as JSON).
 */
static void language(void **state)
{
    (void)state;
    struct buf text = BUF_INIT;
    int line = 0;
    assert_ok(file_read(&text, "tests/unit/text_template.jsonl", 0, &e));
    for (char *s = text.s, *nl; (nl = strchr(s, '\n')); s = nl + 1) {
        struct json o;
        struct buf out = BUF_INIT;
        line++;
        assert_ok(json_parse(&o, s, (size_t)(nl - s), &e));
        char *source = field(o, "template"), *vars = field(o, "vars"), *want = field(o, "expected");
        int rc = render(source, vars, &out);
        if (want && rc < 0)
            fail_msg("line %d: %s: %s", line, source, e.msg);
        if (want && strcmp(out.s ? out.s : "", want) != 0)
            fail_msg("line %d: %s\ngot  \"%s\"\nwant \"%s\"", line, source, out.s ? out.s : "", want);
        if (!want && rc == 0)
            fail_msg("line %d: %s: got \"%s\", want an error", line, source, out.s ? out.s : "");
        buf_release(&out);
        free(source);
        free(vars);
        free(want);
    }
    assert_true(line > 100);
    buf_release(&text);
}

static void refuse(const char *source, const char *sentence)
{
    struct buf out = BUF_INIT;
    buf_puts(&out, "before");
    if (render(source, NULL, &out) == 0)
        fail_msg("%s: got \"%s\", want an error", source, out.s);
    if (!strstr(e.msg, sentence))
        fail_msg("%s: got \"%s\", want \"%s\"", source, e.msg, sentence);
    assert_string_equal(out.s, "before");
    buf_release(&out);
}

static void refusals(void **state)
{
    (void)state;
    refuse("a\nb{% include 'x' %}", "t:2: statement \"include\" is not supported");
    refuse("{{ x | nosuch }}", "t:1: filter \"nosuch\" is not supported");
    refuse("\n\n{{ x is nosuch }}", "t:3: test \"nosuch\" is not supported");
    refuse("{{ messages.append(1) }}", "\"append\" is undefined");
    refuse("{{ nosuch.x }}", "t:1: \"nosuch\" is undefined");
    refuse("{{ nosuch() }}", "\"nosuch\" is undefined");
    refuse("{{ 'a' + 1 }}", "a text + a number is not possible");
    refuse("{% if x %}", "the template ends where \"elif\" was expected");
    refuse("{% for x in y %}{% endif %}", "statement \"endif\" is not supported here");
    refuse("{{ 'a", "a text in quotes has no end");
    refuse("{{ a ? b }}", "unexpected character '?'");
    refuse("{{ raise_exception('no system') }}", "the template refuses: no system");
    refuse("{{ strftime_now('%Y') }}", "\"strftime_now\" is undefined");
    refuse("{{ '%s' % 1 }}", "formatting");
    refuse("{{ 9223372036854775807 + 1 }}", "beyond 64 bits");
    refuse("{% break %}", "outside a loop");
    refuse("{% set a.b = 1 %}", "only attributes of a namespace can be set");
}

static void bounds(void **state)
{
    (void)state;
    struct buf deep = BUF_INIT;
    refuse("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than");
    refuse("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
           "more than 268435456 bytes");
    refuse("{{ 'x' * 999999999999 }}", "more than 268435456 bytes");
    refuse("{{ range(1000000) }}", "longer than 100000");
    refuse("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested deeper");
    refuse("{{ [1] * 99999999 }}", "more than");
    buf_puts(&deep, "{{ ");
    for (int i = 0; i < 100000; i++)
        buf_putc(&deep, '(');
    refuse(deep.s, "nested deeper than 200");
    deep.len = 0;
    for (int i = 0; i < 10000; i++)
        buf_puts(&deep, "{% if x %}");
    refuse(deep.s, "nested deeper than 200");
    deep.len = 0;
    buf_puts(&deep, "{{ 1");
    for (int i = 0; i < 100000; i++)
        buf_puts(&deep, "+1");
    buf_puts(&deep, " }}");
    refuse(deep.s, "nested deeper");
    buf_release(&deep);
}

static void folders(void **state)
{
    (void)state;
    char *dir = path_join(test_tmpdir(), "model"), *config = path_join(dir, "tokenizer_config.json"),
         *jinja = path_join(dir, "chat_template.jinja");
    static const char list[] =
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T\"}, {\"name\": \"default\", "
        "\"template\": \"D{{ messages[0].content }}\"}]}";
    struct chat_template *t;
    struct buf out = BUF_INIT;
    assert_ok(file_mkdirs(dir, &e));
    assert_int_equal(chat_template_open(&t, dir, &e), -1);
    assert_non_null(strstr(e.msg, "no chat template"));
    assert_ok(file_write_atomic(config, list, sizeof list - 1, &e));
    assert_ok(chat_template_open(&t, dir, &e));
    assert_ok(chat_template_render_json(t, "[{\"content\": \"x\"}]", NULL, false, NULL, NULL, &out, &e));
    assert_string_equal(out.s, "Dx");
    chat_template_close(t);
    assert_ok(chat_template_open_named(&t, dir, "tool_use", &e));
    chat_template_close(t);
    assert_ok(file_write_atomic(jinja, "J\n", 2, &e));
    assert_ok(chat_template_open(&t, dir, &e));
    buf_reset(&out);
    assert_ok(chat_template_render_json(t, "[]", NULL, false, NULL, NULL, &out, &e));
    assert_string_equal(out.s, "J");
    chat_template_close(t);
    buf_release(&out);
    free(dir);
    free(config);
    free(jinja);
}

static void dates(void **state)
{
    (void)state;
    struct chat_template *t;
    struct buf out = BUF_INIT;
    static const char source[] = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'none' }}";
    struct chat_input in = { .messages = { "[]", 2 }, .date = 1721952000 };
    assert_ok(chat_template_open_text(&t, source, sizeof source - 1, "t", &e));
    assert_ok(chat_template_render(t, &in, &out, &e));
    assert_string_equal(out.s, "26 Jul 2024");
    in.date = -1;
    buf_reset(&out);
    assert_ok(chat_template_render(t, &in, &out, &e));
    assert_string_equal(out.s, "none");
    chat_template_close(t);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published), cmocka_unit_test(language), cmocka_unit_test(refusals),
        cmocka_unit_test(bounds),    cmocka_unit_test(folders),  cmocka_unit_test(dates),
    };
    return cmocka_run_group_tests_name("text: chat templates", tests, NULL, NULL);
}
