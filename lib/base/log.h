/* log.h - words for people on stderr, events for machines in a file, progress with rate and time left.
 *
 * stdout is data and is never touched. One process has one log; log_open is called by the tools' harness before threads
 * start. Colour (unless NO_COLOR is set) and the rewritten progress line, cut to its width, appear only on a terminal;
 * elsewhere progress prints a line every ten seconds. LATENT_TRACE=FILE (or --log-json FILE) appends one JSON object an
 * event. */
#ifndef LATENT_LOG_H
#define LATENT_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct err;

enum log_level { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

int log_open(const char *program, enum log_level level, const char *json_path /* or NULL */, struct err *e);
void log_close(void);

void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* facts about the run; not when quiet */
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* it goes on, but you should know */
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* why it stops */

/* A number with what is counted, for "%lld %s": log_info("%lld %s in all", COUNTED(n, "file", "files")). */
#define COUNTED(n, one, many) (long long)(n), (n) == 1 ? (one) : (many)

/* One event line: {"time":...,"program":...,"event":name, FIELDS}. fields is JSON members without braces, or "". */
void log_event(const char *name, const char *fields);

/* Progress of one long piece of work. total 0: unknown. unit: "questions", "tokens". Calls cost a clock read. */
void progress_begin(const char *what, uint64_t total, const char *unit);
void progress_at(uint64_t done, const char *extra /* "1,830 tokens/s" or NULL */);
void progress_end(void);

double log_seconds(void); /* monotonic, since log_open */

#endif
