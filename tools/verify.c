/* verify - is an artefact what its manifest says, and where did it come from? See latent-verify(1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/provenance.h"
#include "tools/tool.h"

static struct {
    bool trace, json;
    struct opt_list all;
} o;

static const struct opt opts[] = {
    OPT_ROW_GROUP("Options"),
    OPT_ROW_FLAG("trace", 't', &o.trace, "walk back to the sources and models, and print the way", OPT_RESULT),
    OPT_ROW_FLAG("json", 0, &o.json, "print the trace as JSON, one object a file", OPT_RESULT),
    OPT_ROW_LIST("all", 'a', &o.all, "DIR", "check every artefact below DIR (may be repeated)", OPT_RUN),
    OPT_ROW_END,
};

/* Files of the folder that an argument lies in are looked at too: that is where its inputs usually are. */
static void index_around(struct provenance *p, const char *file)
{
    const char *slash = strrchr(file, '/');
    char *dir = slash ? xstrndup(file, (size_t)(slash - file)) : xstrdup(".");
    provenance_add_tree(p, *dir ? dir : "/");
    free(dir);
}

static int trace(struct provenance *p, const char *file, struct buf *problems)
{
    struct buf text = BUF_INIT;
    struct provenance_report out = { .problems = problems };
    if (o.json)
        out.json = &text;
    else
        out.tree = &text;
    provenance_trace(p, file, NULL, &out);
    if (o.json && text.len)
        buf_putc(&text, '\n');
    fwrite(text.s ? text.s : "", 1, text.len, stdout);
    buf_release(&text);
    return out.nproblems;
}

static int run(const struct tool *t, int nfiles, char **files, struct err *e)
{
    struct buf problems = BUF_INIT;
    int bad = 0, checked = 0;
    (void)t;
    if (!nfiles && !o.all.n)
        return tool_misuse(e, "name the artefacts to check, or --all DIR");
    struct provenance *p = provenance_new();
    for (size_t i = 0; i < o.all.n; i++)
        provenance_add_tree(p, o.all.v[i]);
    for (size_t i = 0; o.all.n && i < provenance_count(p); i++, checked++)
        bad += provenance_check(provenance_at(p, i)->file, &problems);
    bad += provenance_problems(p, &problems);
    for (int i = 0; i < nfiles; i++, checked++) {
        int own = provenance_check(files[i], &problems);
        if (o.trace && own == 0) {
            provenance_add_log(p);
            index_around(p, files[i]);
            own += trace(p, files[i], &problems);
        }
        bad += own;
    }
    provenance_free(p);
    for (char *line = problems.s, *end; line && *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        log_error("%s", line);
    }
    buf_release(&problems);
    log_info("%d artefact%s checked, %d problem%s", checked, checked == 1 ? "" : "s", bad, bad == 1 ? "" : "s");
    return bad ? TOOL_FAILED : TOOL_OK;
}

int main(int argc, char **argv)
{
    static const struct tool tool = {
        "verify", "[OPTION]... [FILE]...", "check artefacts against their manifests and trace them", 1, opts, run
    };
    return tool_main(&tool, argc, argv);
}
