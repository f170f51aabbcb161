/* locate.h - which folder a model option means.
 *
 * --model VALUE, else the environment variable, else the embedded model. A name is a folder, "embedded:NAME"
 * (data/models/NAME, what ships with the programs), or a name of the hub, "org/name[@revision]", which is downloaded if
 * need be (io/hub.h). */
#ifndef LATENT_MODEL_LOCATE_H
#define LATENT_MODEL_LOCATE_H

struct err;

struct model_place {
    char *name;           /* what was asked for, for messages and manifests */
    char *dir;            /* the folder */
    char fingerprint[33]; /* model_fingerprint of it */
};

/* The folder of a name that is here, a model of the hub in its cache; nothing is downloaded. Caller frees *dir. */
int model_find(const char *name, char **dir, struct err *e);

/* env and fallback may be NULL; with nothing left to take, the error names the option ("--model") and env. */
int model_locate(struct model_place *p, const char *option, const char *value, const char *env, const char *fallback,
                 struct err *e);
void model_place_release(struct model_place *p);

#endif
