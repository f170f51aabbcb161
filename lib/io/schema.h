/* schema.h - what the lines of each kind of file hold: one table, which `verify` checks by and latent-record(5) shows.
 *
 *     schema_check("out/graded.jsonl", &manifest, &problems);
 *
 * A file's kind is what the program that wrote it writes; programs that pass records on (grade, select), and files that
 * none of ours made, are told by the keys of their first line. Keys that the table does not name may be there. */
#ifndef LATENT_SCHEMA_H
#define LATENT_SCHEMA_H

#include <stddef.h>

struct buf;
struct manifest;

/* Types of a value; several may be allowed. */
enum {
    SCHEMA_STRING = 1,
    SCHEMA_INTEGER = 2,
    SCHEMA_NUMBER = 4, /* finite */
    SCHEMA_BOOLEAN = 8,
    SCHEMA_NULL = 16,
    SCHEMA_ARRAY = 32,
    SCHEMA_OBJECT = 64,
    SCHEMA_TURNS = 128,   /* array of objects with role and content, the last one the assistant's */
    SCHEMA_STRINGS = 256, /* arrays of these. A row's SCHEMA_STRINGS, _INTEGERS and _NUMBERS are as long as each
                             other: words, and something about each word */
    SCHEMA_INTEGERS = 512,
    SCHEMA_NUMBERS = 1024,
    SCHEMA_ANY = 2048,
};

/* When a key must be there. */
enum schema_need {
    SCHEMA_KEY,    /* always: readers need it */
    SCHEMA_OWN,    /* in files of the program that writes this kind */
    SCHEMA_NEW,    /* in these too, but not with --compat */
    SCHEMA_SCORED, /* as SCHEMA_OWN, in rows that were not skipped */
    SCHEMA_MAY,
};

struct schema_field {
    const char *key; /* "metadata.method": method in the object metadata */
    unsigned types;
    enum schema_need need;
};

struct schema_kind {
    const char *name;    /* "sample" */
    const char *section; /* of latent-record(5) */
    const char *program; /* whose output this is; NULL: of none, or one of several kinds */
    const char *mark[3]; /* a line with these keys is of this kind */
    const struct schema_field *field;
    size_t nfields;
};

const struct schema_kind *schema_kinds(size_t *n);

/* "string/null" into text, which is returned. */
enum { SCHEMA_TYPE_TEXT = 96 };
const char *schema_type_text(unsigned types, char text[SCHEMA_TYPE_TEXT]);

/* Every line against its kind, and the manifest's counts against the lines; m NULL: a file that none of ours made.
 * One sentence a problem, at most ten and how many more; returns their number. A file that holds something else than
 * records of a known kind has no schema, and no problem. */
int schema_check(const char *file, const struct manifest *m, struct buf *problems);

/* The same for the log of a training, which has no manifest of its own. */
int schema_check_log(const char *file, struct buf *problems);

#endif
