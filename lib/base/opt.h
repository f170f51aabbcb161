/* opt.h - options are a table: it parses, prints --help, makes the key, and is held against the man page.
 *
 * Each row says whether the option can change the bytes of the result (OPT_RESULT: part of the key and of the manifest)
 * or only how the run goes (OPT_RUN: batch size, threads, progress ...). A test varies every RUN option and wants the
 * same bytes. Numbers are parsed strictly and checked against [min, max]; a refused value is an error, never adjusted.
 *
 * Values point at the program's variables, whose initial values are the defaults shown by --help. Strings are borrowed
 * from argv (or from the file of a preset). */
#ifndef LATENT_OPT_H
#define LATENT_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;

enum opt_type {
    OPT_END,
    OPT_GROUP,  /* a heading in --help: help is the text */
    OPT_FLAG,   /* bool: --name sets it, --no-name clears it */
    OPT_STRING, /* const char * */
    OPT_CHOICE, /* const char *, one of the words in arg ("a|b|c") */
    OPT_INT,    /* int64_t */
    OPT_REAL,   /* double */
    OPT_REALS,  /* struct opt_reals: comma list, every element within [min, max] */
    OPT_LIST,   /* struct opt_list: the option may be repeated */
    OPT_ALIAS,  /* another spelling: arg is the name of the option it stands for */
};

enum opt_class { OPT_RUN, OPT_RESULT };

struct opt_reals {
    double v[32];
    size_t n;
};

struct opt_list {
    const char *v[64];
    size_t n;
};

struct opt {
    enum opt_type type;
    char letter; /* 0: none */
    const char *name;
    void *var;
    const char *arg;  /* placeholder in --help: "N", "FILE"; for OPT_CHOICE the words */
    const char *help; /* one line, lower case, no full stop; the default is added by the program */
    enum opt_class cls;
    double min, max; /* numbers; both 0: no bounds */
};

/* Rows. o is the option's long name. */
#define OPT_ROW_FLAG(o, c, var, help, cls)                                                                             \
    {                                                                                                                  \
        OPT_FLAG, c, o, var, NULL, help, cls, 0, 0                                                                     \
    }
#define OPT_ROW_STRING(o, c, var, arg, help, cls)                                                                      \
    {                                                                                                                  \
        OPT_STRING, c, o, var, arg, help, cls, 0, 0                                                                    \
    }
#define OPT_ROW_CHOICE(o, c, var, words, help, cls)                                                                    \
    {                                                                                                                  \
        OPT_CHOICE, c, o, var, words, help, cls, 0, 0                                                                  \
    }
#define OPT_ROW_INT(o, c, var, arg, help, cls, lo, hi)                                                                 \
    {                                                                                                                  \
        OPT_INT, c, o, var, arg, help, cls, lo, hi                                                                     \
    }
#define OPT_ROW_REAL(o, c, var, arg, help, cls, lo, hi)                                                                \
    {                                                                                                                  \
        OPT_REAL, c, o, var, arg, help, cls, lo, hi                                                                    \
    }
#define OPT_ROW_REALS(o, c, var, arg, help, cls, lo, hi)                                                               \
    {                                                                                                                  \
        OPT_REALS, c, o, var, arg, help, cls, lo, hi                                                                   \
    }
#define OPT_ROW_LIST(o, c, var, arg, help, cls)                                                                        \
    {                                                                                                                  \
        OPT_LIST, c, o, var, arg, help, cls, 0, 0                                                                      \
    }
#define OPT_ROW_ALIAS(o, of)                                                                                           \
    {                                                                                                                  \
        OPT_ALIAS, 0, o, NULL, of, NULL, OPT_RUN, 0, 0                                                                 \
    }
#define OPT_ROW_GROUP(text)                                                                                            \
    {                                                                                                                  \
        OPT_GROUP, 0, NULL, NULL, NULL, text, OPT_RUN, 0, 0                                                            \
    }
#define OPT_ROW_END                                                                                                    \
    {                                                                                                                  \
        OPT_END, 0, NULL, NULL, NULL, NULL, OPT_RUN, 0, 0                                                              \
    }

/* Reads options out of argv[1..], in any place; "--" ends them and "-" is an operand. Operands move to the front of
 * argv + 1 and *operands says how many there are. tables: NULL-terminated list, searched in order. */
int opt_parse(const struct opt *const *tables, int argc, char **argv, int *operands, struct err *e);

/* Sets one option from text, as --name=value would ("" for a flag). For presets. */
int opt_set(const struct opt *const *tables, const char *name, const char *value, struct err *e);

bool opt_given(const struct opt *const *tables, const char *name); /* was it on the command line (or in a preset)? */

/* The table as text: "  -o, --output FILE   write FILE ... [default]". */
void opt_help(const struct opt *table, struct buf *out);

/* One JSON object a row, for tests: {"name":..,"letter":..,"type":..,"class":"result"|"run","arg":..,"min":..,"max":..,
 * "default":..}; letter, arg and default are null where there is none, bounds where there are none. */
void opt_dump(const struct opt *table, struct buf *out);

/* RESULT options as members of a JSON object in table order, values as they stand now: "ratio":[0.3],"seed":1 */
void opt_result_json(const struct opt *const *tables, struct buf *out);

#endif
