/* compress_private.h - shared by the files of compress.h. */
#ifndef LATENT_TASK_COMPRESS_PRIVATE_H
#define LATENT_TASK_COMPRESS_PRIVATE_H

#include "io/hash.h"
#include "task/compress.h"

/* ---- compress_model.c: chunks through the model ---- */
struct compress_model;
struct model;
int compress_model_open(struct compress_model **out, const char *dir, enum compress_method method, const char *device,
                        int threads, int rows, struct err *e);
void compress_model_close(struct compress_model *m);
/* The chunks of some jobs on their way through the model. */
struct compress_flight {
    struct compress_place *place; /* [chunks] in the order of the passes */
    struct compress_pass *pass;   /* [passes] */
    size_t passes, taken;
};
/* Begins with the chunks of the jobs that are not scored: an encoder's passes are enqueued and not waited for. */
int compress_model_begin(struct compress_model *m, const struct lingua *l, struct compress_job *jobs, size_t n,
                         struct compress_flight *out, struct err *e);
/* Their scores; f is released, whatever comes of it. */
int compress_model_end(struct compress_model *m, const struct lingua *l, struct compress_job *jobs,
                       struct compress_flight *f, struct err *e);
void compress_model_drop(struct compress_model *m, struct compress_flight *f); /* instead of the end */
double compress_model_seconds(const struct compress_model *m);
uint64_t compress_model_rows(const struct compress_model *m);

/* ---- compress_leave.c: words left out ---- */
struct leaver;
struct scorer;
int leaver_open(struct leaver **out, const char *dir, struct model *m, struct scorer *s, struct err *e);
void leaver_close(struct leaver *v); /* NULL is fine */
/* Scores one text; *rows grows by the tokens that the model saw. */
int leaver_run(struct leaver *v, const struct lingua *l, struct compress_job *j, uint64_t *rows, struct err *e);

/* ---- compress_scores.c: scores in a file ---- */
/* Says everything a text's scores depend on but the text and the model. Appended to b. */
void scores_settings(const struct compress_spec *s, struct buf *b);
/* Appends the line of a scored text. */
void scores_write(const char *settings, const char *model, enum lingua_family family, const struct lingua_text *t,
                  const struct buf *text, bool compat, struct buf *out);
struct scores;
int scores_open(struct scores **out, const char *path, const char *settings, struct err *e);
enum lingua_family scores_family(const struct scores *s);
void scores_close(struct scores *s); /* NULL is fine */
/* Fills t for a text; an error names the text by `label` when the file does not have it. Safe in threads. */
int scores_find(const struct scores *s, const struct buf *text, const char *label, bool compat, struct lingua_text *t,
                struct err *e);

#endif
