/* file.c - see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"

int file_map_open(struct file_map *m, const char *path, struct err *e)
{
    *m = (struct file_map){ "", 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "%s: cannot open", path);
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) < 0) {
        rc = err_errno(e, "%s: cannot stat", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, "%s: not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = err_errno(e, "%s: cannot map", path);
        else
            *m = (struct file_map){ p, (size_t)st.st_size };
    }
    close(fd);
    return rc;
}

void file_map_close(struct file_map *m)
{
    if (m->n)
        munmap((void *)(size_t)m->p, m->n);
    *m = (struct file_map){ NULL, 0 };
}

int file_read(struct buf *b, const char *path, size_t limit, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "%s: cannot open", path);
    size_t start = b->len;
    for (;;) {
        char *to = buf_grow(b, 65536);
        ssize_t got = read(fd, to, 65536);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int rc = err_errno(e, "%s: cannot read", path);
            close(fd);
            return rc;
        }
        b->len += (size_t)got;
        b->s[b->len] = '\0';
        if (limit && b->len - start > limit) {
            close(fd);
            return err_set(e, "%s: larger than the %zu bytes such a file may have", path, limit);
        }
        if (got == 0)
            break;
    }
    close(fd);
    return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -1;
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

int file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e)
{
    struct buf tmp = BUF_INIT;
    buf_printf(&tmp, "%s.%ld.part", path, (long)getpid());
    int rc = 0, fd = open(tmp.s, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = err_errno(e, "%s: cannot create", tmp.s);
    } else {
        int bad = write_all(fd, bytes, n) < 0 || fsync(fd) < 0;
        int saved = errno;
        if (close(fd) < 0 && !bad) {
            bad = 1;
            saved = errno;
        }
        if (!bad && rename(tmp.s, path) < 0) {
            bad = 1;
            saved = errno;
        }
        if (bad) {
            unlink(tmp.s);
            errno = saved;
            rc = err_errno(e, "%s: cannot write", path);
        }
    }
    buf_release(&tmp);
    return rc;
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int file_list(struct file_names *l, const char *dir, struct err *e)
{
    *l = (struct file_names){ NULL, 0 };
    DIR *d = opendir(dir);
    if (!d)
        return err_errno(e, "%s: cannot open", dir);
    for (struct dirent *f; (f = readdir(d));) {
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0)
            continue;
        if ((l->n & (l->n - 1)) == 0) /* at each power of two there is room for as many more */
            l->v = xreallocarray(l->v, l->n ? 2 * l->n : 1, sizeof *l->v);
        l->v[l->n++] = xstrdup(f->d_name);
    }
    closedir(d);
    if (l->n)
        qsort(l->v, l->n, sizeof *l->v, by_bytes);
    return 0;
}

void file_names_release(struct file_names *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
    *l = (struct file_names){ NULL, 0 };
}

bool file_is_pipe(const char *path)
{
    struct stat st;
    return strcmp(path, "-") == 0 || (stat(path, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)));
}

static int copy_file(const char *from, const char *to, struct err *e)
{
    struct file_map m;
    if (file_map_open(&m, from, e) < 0)
        return -1;
    int rc = file_write_atomic(to, m.p, m.n, e);
    file_map_close(&m);
    return rc;
}

int file_link_over(const char *from, const char *to, struct err *e)
{
    struct buf tmp = BUF_INIT;
    buf_printf(&tmp, "%s.%ld.link", to, (long)getpid());
    unlink(tmp.s);
    int rc = 0;
    if (link(from, tmp.s) == 0) {
        if (rename(tmp.s, to) < 0)
            rc = err_errno(e, "%s: cannot write", to);
        unlink(tmp.s); /* rename leaves it when both names are one file already */
    } else {
        rc = copy_file(from, to, e);
    }
    buf_release(&tmp);
    return rc;
}

int file_mkdirs(const char *path, struct err *e)
{
    char *p = xstrdup(path);
    int rc = 0;
    for (char *at = p + 1; rc == 0; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        char c = *at;
        *at = '\0';
        if (mkdir(p, 0777) < 0 && errno != EEXIST)
            rc = err_errno(e, "%s: cannot make this folder", p);
        *at = c;
        if (c == '\0')
            break;
    }
    if (rc == 0 && !file_is_dir(path))
        rc = err_set(e, "%s: not a folder", path);
    free(p);
    return rc;
}

int file_mkparents(const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return 0;
    char *dir = xstrndup(path, (size_t)(slash - path));
    int rc = file_mkdirs(dir, e);
    free(dir);
    return rc;
}

char *path_join(const char *dir, const char *name)
{
    struct buf b = BUF_INIT;
    size_t n = strlen(dir);
    buf_printf(&b, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    return buf_take(&b);
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool path_ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

bool process_lives(long pid)
{
    if (pid <= 0 || (kill((pid_t)pid, 0) < 0 && errno == ESRCH))
        return false;
    char path[64], stat[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    ssize_t n = read(fd, stat, sizeof stat - 1);
    close(fd);
    stat[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(stat, ')'); /* PID (NAME) STATE ..., and a name may hold anything */
    return !name_end || (name_end[1] == ' ' && name_end[2] != 'Z' && name_end[2] != 'X');
}

char *path_of_program(void)
{
    char p[4096];
    ssize_t n = readlink("/proc/self/exe", p, sizeof p - 1);
    if (n <= 0)
        return xstrdup(".");
    p[n] = '\0';
    char *slash = strrchr(p, '/');
    if (slash)
        *slash = '\0';
    return xstrdup(p);
}

char *path_of_data(const char *name)
{
    const char *own = getenv("LATENT_DATA");
    if (own && *own)
        return path_join(own, name);
    char *program = path_of_program();
    static const char *const place[] = { "../share/latent", "../../share/latent" /* from libexec/latent */, "../data",
                                         "../../../data" /* build/asan/bin */ };
    char *path = NULL;
    for (size_t i = 0; i < sizeof place / sizeof *place; i++) {
        char *dir = path_join(program, place[i]);
        free(path);
        path = path_join(dir, name);
        free(dir);
        if (file_exists(path))
            break;
    }
    free(program);
    return path;
}
