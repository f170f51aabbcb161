/* http.h - asking servers for things (libcurl): small answers into memory, large ones into files that survive a kill.
 *
 * Every request: http and https only, at most 10 redirects, a token only for the host it was meant for, certificates
 * always checked (CURL_CA_BUNDLE, SSL_CERT_FILE, REQUESTS_CA_BUNDLE name other authorities), proxies from the
 * environment. What may pass by itself (no answer, 408, 429, 5xx, a cut connection) is tried again up to http_retries
 * times with growing waits; Retry-After is honoured. What will not (401, 403, 404, a bad certificate) is told at once.
 */
#ifndef LATENT_HTTP_H
#define LATENT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;

enum { HTTP_HEADER = 256, HTTP_URL = 2048 };

struct http_answer {
    long status;                  /* of the last hop; 0: no answer at all */
    int64_t length;               /* Content-Length of the last hop, -1 unknown */
    char etag[HTTP_HEADER];       /* without W/ and quotes; the first hop's X-Linked-Etag wins over ETag */
    int64_t linked_size;          /* X-Linked-Size, -1: none */
    char commit[HTTP_HEADER];     /* X-Repo-Commit of the first hop that has one */
    char error_code[HTTP_HEADER]; /* X-Error-Code */
    char location[HTTP_URL];      /* of a redirect that was not followed */
    bool ranges;                  /* a range was asked for and given (206) */
};

/* HEAD, following only redirects that stay on the host. 0 also for 4xx: look at status. -1: no answer after all tries.
 */
int http_head(const char *url, const char *token /* or NULL */, struct http_answer *a, struct err *e);

/* GET into memory; more than limit bytes is an error. Returns 0 also for 4xx (the body is the server's explanation). */
int http_get(const char *url, const char *token, size_t limit, struct buf *body, struct http_answer *a, struct err *e);

/* GET of size bytes (-1: unknown) into path, which may hold the finished pieces of an earlier try: they are listed in
 * PATH.pieces, under the same etag. Pieces are fetched side by side where the server gives ranges. progress is called
 * from this thread with the bytes that are there. The file is complete and has its size when 0 comes back; its content
 * is not checked here. */
int http_get_file(const char *url, const char *token, const char *etag, int64_t size, const char *path,
                  void (*progress)(void *arg, int64_t done, int64_t total), void *arg, struct err *e);

/* Waits for tests: LATENT_HTTP_WAIT_MS is the first wait between tries (500), LATENT_HTTP_RETRIES their number (5),
 * LATENT_HTTP_PIECE the piece size in bytes (16 MiB), LATENT_HTTP_STALL_S how long nothing may come (30). */

#endif
