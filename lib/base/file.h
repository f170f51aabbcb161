/* file.h - whole files: mapped, read, and named. */
#ifndef LATENT_FILE_H
#define LATENT_FILE_H

#include <stdbool.h>
#include <stddef.h>

struct buf;
struct err;

/* A file's bytes, read-only. The mapping must be closed by who opened it. An empty file maps to n = 0. */
struct file_map {
    const char *p;
    size_t n;
};
int file_map_open(struct file_map *m, const char *path, struct err *e);
void file_map_close(struct file_map *m); /* a zeroed one is fine */

/* Appends the whole file to b; more than limit bytes is an error (0: no limit). */
int file_read(struct buf *b, const char *path, size_t limit, struct err *e);

/* path appears whole or not at all: written beside, fsynced, renamed. */
int file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e);

bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_is_pipe(const char *path); /* "-", a fifo, <(command): what can be read only once */

/* Names of everything in a folder, sorted by their bytes. */
struct file_names {
    char **v;
    size_t n;
};
int file_list(struct file_names *l, const char *dir, struct err *e); /* after -1 there is nothing to release */
void file_names_release(struct file_names *l);

/* to becomes another name of the file from (a copy where links cannot be), in one step. */
int file_link_over(const char *from, const char *to, struct err *e);
int file_mkdirs(const char *path, struct err *e);    /* mkdir -p; an existing folder is fine */
int file_mkparents(const char *path, struct err *e); /* mkdir -p of the folder that path lies in */

char *path_join(const char *dir, const char *name);     /* caller frees */
const char *path_base(const char *path);                /* behind the last slash, borrowed */
bool path_ends_with(const char *path, const char *end); /* ".zst" */

/* Where what ships with the programs lies: $LATENT_DATA/NAME, else EXE/../share/latent/NAME, else EXE/../data/NAME,
 * whichever is there first; the last one if none is. Caller frees. */
char *path_of_data(const char *name);

/* Not of a zombie: it holds no file any more, and where nobody reaps (a container's first process) it stays for good.
 */
bool process_lives(long pid);

/* Folder of the running program, for things that lie beside it (data, plugins, stages). Caller frees. */
char *path_of_program(void);

#endif
