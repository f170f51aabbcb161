/* locate.c - see locate.h. */
#include "model/locate.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/hub.h"
#include "model/model.h"

static const char embedded[] = "embedded:";

int model_find(const char *name, char **dir, struct err *e)
{
    if (strncmp(name, embedded, sizeof embedded - 1) != 0)
        return hub_model(name, dir, e);
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

int model_locate(struct model_place *p, const char *option, const char *value, const char *env, const char *fallback,
                 struct err *e)
{
    *p = (struct model_place){ NULL, NULL, "" };
    const char *from_env = env ? getenv(env) : NULL;
    const char *name = value && *value ? value : from_env && *from_env ? from_env : fallback;
    if (!name)
        return err_set(e, "no model: give %s%s%s", option, env ? " or set " : "", env ? env : "");
    p->name = xstrdup(name);
    if (model_find(name, &p->dir, e) == 0 && model_fingerprint(p->dir, p->fingerprint, e) == 0)
        return 0;
    model_place_release(p);
    return -1;
}

void model_place_release(struct model_place *p)
{
    free(p->name);
    free(p->dir);
    p->name = p->dir = NULL;
}
