/* err.h - why something failed, as one sentence for the user.
 *
 * Every library function that can fail returns 0 (or a count) on success and -1 on failure, and fills the
 * caller's struct err. A sentence names the thing (file, line, tensor, option), what was expected and what
 * was found; it has no program name and no newline, the tools add those. Functions never clear an err that
 * they do not set, so the first failure survives cleanup code that is handed NULL. */
#ifndef LATENT_ERR_H
#define LATENT_ERR_H

struct err {
    char msg[1024]; /* NUL-terminated; "" while nothing failed; a longer sentence is cut at a character */
};

/* Writes the sentence (e may be NULL) and returns -1, so that callers can `return err_set(e, ...)`. */
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "text: " in front of the sentence that is there; returns -1. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Like err_set with ": " and the text of errno at the end. */
int err_errno(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What the declarations cannot tell the static analyzer: these are always -1. */
#ifdef __clang_analyzer__
#define err_set(...) (err_set(__VA_ARGS__), -1)
#define err_prefix(...) (err_prefix(__VA_ARGS__), -1)
#define err_errno(...) (err_errno(__VA_ARGS__), -1)
#endif

#endif
