/* log.c - see log.h. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

static struct {
    char program[64];
    enum log_level level;
    FILE *json;
    bool terminal, colour;
    bool line_open; /* a progress line without newline stands on the terminal */
    double start;
    pthread_mutex_t lock;
    struct {
        char what[64], unit[32];
        uint64_t total;
        double begin, shown;
        bool on;
    } progress;
} lg = { .program = "latent", .level = LOG_NORMAL, .lock = PTHREAD_MUTEX_INITIALIZER };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double log_seconds(void)
{
    return now() - lg.start;
}

int log_open(const char *program, enum log_level level, const char *json_path, struct err *e)
{
    snprintf(lg.program, sizeof lg.program, "%s", program);
    lg.level = level;
    lg.start = now();
    lg.terminal = isatty(2) == 1;
    const char *no = getenv("NO_COLOR");
    lg.colour = lg.terminal && !(no && *no);
    if (json_path) {
        lg.json = fopen(json_path, "ae");
        if (!lg.json)
            return err_errno(e, "%s: cannot open the event log", json_path);
    }
    return 0;
}

void log_close(void)
{
    progress_end();
    if (lg.json)
        fclose(lg.json);
    lg.json = NULL;
}

static void clear_progress_line(void)
{
    if (lg.line_open)
        fputs("\r\033[K", stderr);
    lg.line_open = false;
}

static void say(const char *mark, const char *colour, const char *fmt, va_list ap)
{
    pthread_mutex_lock(&lg.lock);
    clear_progress_line();
    bool paint = lg.colour && *colour;
    fprintf(stderr, "%s: %s%s%s", lg.program, paint ? colour : "", mark, paint ? "\033[0m" : "");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    pthread_mutex_unlock(&lg.lock);
}

void log_info(const char *fmt, ...)
{
    if (lg.level == LOG_QUIET)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("", "", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", "\033[33m", fmt, ap);
    va_end(ap);
}

void log_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", "", fmt, ap);
    va_end(ap);
}

void log_event(const char *name, const char *fields)
{
    if (!lg.json)
        return;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    struct buf b = BUF_INIT;
    buf_printf(&b, "{\"time\":%lld.%03ld,\"program\":", (long long)t.tv_sec, t.tv_nsec / 1000000);
    json_put_cstr(&b, lg.program);
    buf_puts(&b, ",\"event\":");
    json_put_cstr(&b, name);
    if (*fields)
        buf_printf(&b, ",%s", fields);
    buf_puts(&b, "}\n");
    pthread_mutex_lock(&lg.lock);
    fwrite(b.s, 1, b.len, lg.json);
    fflush(lg.json);
    pthread_mutex_unlock(&lg.lock);
    buf_release(&b);
}

void progress_begin(const char *what, uint64_t total, const char *unit)
{
    progress_end();
    snprintf(lg.progress.what, sizeof lg.progress.what, "%s", what);
    snprintf(lg.progress.unit, sizeof lg.progress.unit, "%s", unit);
    lg.progress.total = total;
    lg.progress.begin = lg.progress.shown = now();
    lg.progress.on = true;
}

static void format_span(double s, char out[32])
{
    if (!(s >= 0) || s > 359999)
        snprintf(out, 32, "?");
    else if (s < 3600)
        snprintf(out, 32, "%d:%02d", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 32, "%d:%02d:%02d", (int)s / 3600, (int)s / 60 % 60, (int)s % 60);
}

/* A line that wraps cannot be rewritten: one column less than the terminal has. 0: no limit. */
static size_t columns(void)
{
    struct winsize size;
    return lg.terminal && ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 0;
}

void progress_at(uint64_t done, const char *extra)
{
    if (!lg.progress.on || lg.level == LOG_QUIET)
        return;
    double t = now(), every = lg.terminal ? 0.2 : 10.0;
    if (t - lg.progress.shown < every)
        return;
    pthread_mutex_lock(&lg.lock);
    lg.progress.shown = t;
    double spent = t - lg.progress.begin, rate = spent > 0 ? (double)done / spent : 0;
    char left[32] = "";
    struct buf line = BUF_INIT;
    buf_printf(&line, "%s: %s %llu", lg.program, lg.progress.what, (unsigned long long)done);
    if (lg.progress.total) {
        buf_printf(&line, "/%llu", (unsigned long long)lg.progress.total);
        format_span(rate > 0 ? (double)(lg.progress.total - done) / rate : -1, left);
    }
    buf_printf(&line, " %s, %.4g/s", lg.progress.unit, rate);
    if (extra)
        buf_printf(&line, ", %s", extra);
    if (*left)
        buf_printf(&line, ", %s left", left);
    size_t most = columns(), n = most && line.len > most ? most : line.len;
    fprintf(stderr, "%s%.*s%s", lg.terminal ? "\r\033[K" : "", (int)n, line.s, lg.terminal ? "" : "\n");
    buf_release(&line);
    lg.line_open = lg.terminal;
    fflush(stderr);
    pthread_mutex_unlock(&lg.lock);
}

void progress_end(void)
{
    pthread_mutex_lock(&lg.lock);
    clear_progress_line();
    lg.progress.on = false;
    pthread_mutex_unlock(&lg.lock);
}
