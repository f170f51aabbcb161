/* find.c - see locate.h: the folder of a name that is here. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/hub.h"
#include "model/locate.h"

static const char embedded[] = "embedded:";

/* "a, b": the folders of dir by their names. */
static void list_folders(const char *dir, struct buf *out)
{
    struct file_names l;
    struct err ignore;
    if (file_list(&l, dir, &ignore) < 0)
        return;
    for (size_t i = 0; i < l.n; i++) {
        char *path = path_join(dir, l.v[i]);
        if (file_is_dir(path))
            buf_printf(out, "%s%s", out->len ? ", " : "", l.v[i]);
        free(path);
    }
    file_names_release(&l);
}

int model_find(const char *name, char **dir, struct err *e)
{
    if (strncmp(name, embedded, sizeof embedded - 1) != 0)
        return hub_cached(name, dir, e);
    char *rel = path_join("models", name + sizeof embedded - 1);
    *dir = path_of_data(rel);
    free(rel);
    if (file_is_dir(*dir))
        return 0;
    struct buf list = BUF_INIT;
    char *all = path_of_data("models");
    list_folders(all, &list);
    int rc = err_set(e, "%s: no embedded model of this name (%s has %s); name a folder or a hub model", name, all,
                     list.len ? list.s : "none");
    buf_release(&list);
    free(all);
    free(*dir);
    *dir = NULL;
    return rc;
}
