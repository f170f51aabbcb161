/* find.c - see locate.h: the folder of a name that is here. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/hub.h"
#include "model/locate.h"

static const char embedded[] = "embedded:";

int model_find(const char *name, char **dir, struct err *e)
{
    if (strncmp(name, embedded, sizeof embedded - 1) != 0)
        return hub_cached(name, dir, e);
    char *rel = path_join("models", name + sizeof embedded - 1);
    *dir = path_of_data(rel);
    free(rel);
    if (file_is_dir(*dir))
        return 0;
    int rc = err_set(e, "%s: no embedded model of this name (looked for %s); name a folder or a hub model", name, *dir);
    free(*dir);
    *dir = NULL;
    return rc;
}
