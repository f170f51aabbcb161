/* plot.c - see plot.h. */
#include "task/plot.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

extern char **environ;

void plot_quote(struct buf *b, const char *s)
{
    buf_putc(b, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_putc(b, '\\');
        buf_putc(b, (unsigned char)*s < ' ' ? ' ' : *s);
    }
    buf_putc(b, '"');
}

/* The script is a file without a name on gnuplot's standard input: a pipe would kill us if gnuplot died early. */
static int run_gnuplot(const struct buf *script, struct err *e)
{
    FILE *f = tmpfile();
    if (!f)
        return err_errno(e, "cannot make a temporary file for gnuplot");
    if (fwrite(script->s, 1, script->len, f) != script->len || fflush(f) != 0 || fseek(f, 0, SEEK_SET) != 0) {
        fclose(f);
        return err_errno(e, "cannot write gnuplot's script");
    }
    char program[] = "gnuplot", *argv[] = { program, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(f), 0);
    posix_spawn_file_actions_adddup2(&actions, 2, 1); /* what it says is for people */
    pid_t child;
    int status = 0, rc = posix_spawnp(&child, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    while (rc == 0 && waitpid(child, &status, 0) < 0)
        rc = errno == EINTR ? 0 : errno;
    fclose(f);
    if (rc == ENOENT || (rc == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127))
        return err_set(e, "the program gnuplot, which draws the plot, is not on the PATH (Debian: gnuplot-nox)");
    if (rc != 0)
        return err_set(e, "cannot run gnuplot: %s", strerror(rc));
    return status == 0 ? 0 : err_set(e, "gnuplot failed; its own words are above");
}

int plot_draw(const struct buf *script, bool svg, struct buf *out, struct err *e)
{
    char path[] = "/tmp/latent-plot-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return err_errno(e, "%s: cannot be made for gnuplot to draw into", path);
    close(fd);
    struct buf whole = BUF_INIT;
    buf_printf(&whole, "set terminal %s\nset encoding utf8\nset output ",
               svg ? "svg size 720,480 background rgb \"white\"" : "png size 900,600");
    plot_quote(&whole, path);
    buf_printf(&whole, "\n%s", script->s ? script->s : "");
    int rc = run_gnuplot(&whole, e);
    if (rc == 0)
        rc = file_read(out, path, 0, e);
    unlink(path);
    buf_release(&whole);
    return rc;
}
