/* refwords.h - the reference's option words, for command lines that say --compat.
 *
 *     static const struct refword words[] = { { "gpu", "", NULL, NULL }, ..., { NULL, NULL, NULL, NULL } };
 *     struct refwords_line line;
 *     if (refwords_translate(&line, words, argc, argv, &e) == 0)     // before the program's own table reads them
 *         ... line.n, line.v ...
 *     refwords_release(&line);                                      // when nothing points into it any more
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

struct refwords_line {
    char **v; /* n words and NULL: the caller's own argv, or texts of ours among them */
    int n;
    char **own;
    int nown;
};

/* --num-shards N with --shard-id K, which go together, become --shard=K/N --shard-style=stride. *line has to be
 * released after an error too. */
int refwords_translate(struct refwords_line *line, const struct refword *words, int argc, char **argv, struct err *e);
void refwords_release(struct refwords_line *line);

#endif
