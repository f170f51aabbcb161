/* feed.c - see feed.h. */
#include "task/feed.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

extern char **environ;

static int run_dataset(const char *name, const char *split, int fd, struct err *e)
{
    char *dir = path_of_program(), *program = path_join(dir, "dataset"), *n = xstrdup(name), *s = xstrdup(split);
    char word[] = "dataset", flag[] = "--split", *argv[] = { word, flag, s, n, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", 0, 0);
    posix_spawn_file_actions_adddup2(&actions, fd, 1);
    pid_t child;
    int status = 0, rc = posix_spawn(&child, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    while (rc == 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (rc != 0)
        rc = err_set(e, "%s: cannot run: %s", program, strerror(rc));
    else if (status != 0)
        rc = err_set(e, "%s: the questions cannot be had (dataset says why above)", name);
    free(dir);
    free(program);
    free(n);
    free(s);
    return rc;
}

char *feed_dataset(const char *name, const char *split, struct err *e)
{
    const char *tmp = getenv("TMPDIR");
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s/latent-questions-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    int fd = mkstemp(b.s);
    if (fd < 0) {
        err_errno(e, "%s: cannot be made", b.s);
        buf_release(&b);
        return NULL;
    }
    int rc = run_dataset(name, split, fd, e);
    close(fd);
    if (rc == 0)
        return buf_take(&b);
    unlink(b.s);
    buf_release(&b);
    return NULL;
}
