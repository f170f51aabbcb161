/* refwords.h - the reference's option words, for command lines that say --compat.
 *
 *     static const struct refword words[] = { { "gpu", "", NULL, NULL }, ..., { NULL, NULL, NULL, NULL } };
 *     refwords_translate(words, &argc, &argv, &e);     // before the program's own table reads them
 *
 * Without --compat nothing changes: a word that is not ours stays an unknown option. */
#ifndef LATENT_TASK_REFWORDS_H
#define LATENT_TASK_REFWORDS_H

struct err;

struct refword {
    const char *word; /* without -- ; NULL ends the table */
    const char *ours; /* "--name=": takes a value, which is put behind it; "--name=x": a flag that stands for this; "":
                         it takes a value that has no effect here */
    const char *only; /* the one value that there is, else misuse; NULL: any */
    const char *zero; /* this value means 0 here; NULL: none does */
};

/* --num-shards N with --shard-id K, which go together, become --shard=K/N --shard-style=stride. On success *argv is a
 * new list, its end NULL, which is never freed: options point into it. */
int refwords_translate(const struct refword *words, int *argc, char ***argv, struct err *e);

#endif
