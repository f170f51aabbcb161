/* latent - the front program: `latent STAGE ...` runs a stage, as git does.
 *
 * Installed, the stages lie in ../libexec/latent seen from this program; in a checkout they lie beside it. It has no
 * option table: everything behind the stage's name belongs to the stage. See latent(1). */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "tools/tool.h"

static const char usage[] = "usage: latent STAGE [ARGUMENT]...\n"
                            "       latent --exec-path | --version | --help\n";

static char *exec_path(void)
{
    char *here = path_of_program();
    char *installed = path_join(here, "../libexec/latent");
    char *path = realpath(file_is_dir(installed) ? installed : here, NULL);
    free(installed);
    if (!path)
        return here;
    free(here);
    return path;
}

struct stages {
    char **name;
    size_t n;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The programs in dir, sorted; anything that is not an executable file is passed over. */
static struct stages list_stages(const char *dir)
{
    struct stages s = { NULL, 0 };
    DIR *d = opendir(dir);
    if (!d)
        return s;
    for (struct dirent *f; (f = readdir(d));) {
        char *path = path_join(dir, f->d_name);
        struct stat st;
        if (f->d_name[0] != '.' && strcmp(f->d_name, "latent") != 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
            access(path, X_OK) == 0) {
            s.name = xrealloc(s.name, (s.n + 1) * sizeof *s.name);
            s.name[s.n++] = xstrdup(f->d_name);
        }
        free(path);
    }
    closedir(d);
    if (s.n)
        qsort(s.name, s.n, sizeof *s.name, by_name);
    return s;
}

static void release_stages(struct stages *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->name[i]);
    free(s->name);
}

/* The second line of `STAGE --help` says what the stage does. */
static void describe(const char *dir, const char *stage)
{
    char line[256] = "", first[256];
    int ends[2];
    if (pipe(ends) < 0)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        char *path = path_join(dir, stage);
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(path, stage, "--help", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *f = pid > 0 ? fdopen(ends[0], "r") : NULL;
    if (f) {
        if (fgets(first, sizeof first, f) && strncmp(first, "usage:", 6) == 0 && fgets(line, sizeof line, f))
            line[strcspn(line, "\n")] = '\0';
        while (fgets(first, sizeof first, f))
            ; /* read on, so that the stage does not die of a closed pipe */
        fclose(f);
    } else {
        close(ends[0]);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
    printf("  %-10s %s\n", stage, line);
}

static int help(const char *dir)
{
    fputs(usage, stdout);
    printf(
        "Compresses the reasoning of language models: data, training and evaluation as small programs.\n\nStages:\n");
    fflush(stdout);
    struct stages s = list_stages(dir);
    for (size_t i = 0; i < s.n; i++)
        describe(dir, s.name[i]);
    release_stages(&s);
    printf("\n`latent STAGE --help` lists a stage's options; the manual: man latent, man latent-STAGE\n");
    return TOOL_OK;
}

/* Letters to add, drop, change or swap with their neighbour to get from a to b (optimal string alignment). */
static size_t distance(const char *a, const char *b)
{
    enum { MAX = 31 };
    size_t n = strnlen(a, MAX), m = strnlen(b, MAX), d[MAX + 1][MAX + 1];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

static int unknown(const char *dir, const char *stage)
{
    struct stages s = list_stages(dir);
    const char *near = NULL;
    size_t best = 0;
    for (size_t i = 0; i < s.n; i++) {
        size_t d = distance(stage, s.name[i]);
        if (!near || d < best) {
            near = s.name[i];
            best = d;
        }
    }
    if (near)
        fprintf(stderr, "latent: there is no stage '%s'; the nearest is '%s' (latent --help lists them)\n", stage,
                near);
    else
        fprintf(stderr, "latent: there is no stage '%s', nor any other in %s\n", stage, dir);
    release_stages(&s);
    return TOOL_MISUSE;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs(usage, stderr);
        return TOOL_MISUSE;
    }
    char *dir = exec_path();
    const char *first = argv[1];
    int rc = TOOL_OK;
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        rc = help(dir);
    else if (strcmp(first, "--version") == 0)
        printf("latent %s\n", LATENT_VERSION);
    else if (strcmp(first, "--exec-path") == 0)
        printf("%s\n", dir);
    else if (first[0] == '-') {
        fprintf(stderr, "latent: unknown option %s (try --help)\n", first);
        rc = TOOL_MISUSE;
    } else if (strchr(first, '/') || strcmp(first, "latent") == 0) {
        rc = unknown(dir, first);
    } else {
        char *path = path_join(dir, first);
        argv[1] = (char *)path_base(path);
        execv(path, argv + 1);
        if (errno == ENOENT || errno == EACCES) {
            rc = unknown(dir, first);
        } else {
            fprintf(stderr, "latent: %s: cannot run: %s\n", path, strerror(errno));
            rc = TOOL_FAILED;
        }
    }
    free(dir);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "latent: standard output: cannot write: %s\n", strerror(errno));
        rc = TOOL_FAILED;
    }
    return rc;
}
