/* locate.c - see locate.h. */
#include "model/locate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/hub.h"
#include "model/model.h"

int model_locate(struct model_place *p, const char *option, const char *value, const char *env, const char *fallback,
                 struct err *e)
{
    *p = (struct model_place){ NULL, NULL, "" };
    const char *from_env = env ? getenv(env) : NULL;
    const char *name = value && *value ? value : from_env && *from_env ? from_env : fallback;
    if (!name)
        return err_set(e, "no model: give %s%s%s", option, env ? " or set " : "", env ? env : "");
    p->name = xstrdup(name);
    bool shipped = strncmp(name, "embedded:", 9) == 0;
    if ((shipped ? model_find : hub_model)(name, &p->dir, e) == 0 && model_fingerprint(p->dir, p->fingerprint, e) == 0)
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
