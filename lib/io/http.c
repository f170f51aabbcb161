/* http.c - see http.h. */
#include "io/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

enum { CONNECTIONS = 4 };

static long setting(const char *name, long value)
{
    const char *s = getenv(name);
    return s && *s ? strtol(s, NULL, 10) : value;
}

static void curl_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* curl_global_init is not safe beside threads that start at the same time. */
static void curl_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_init);
}

/* ---- one request ---- */

struct request {
    CURL *curl;
    struct curl_slist *headers;
    char error[CURL_ERROR_SIZE];
    struct http_answer *answer;
    long retry_after; /* seconds, 0: not said */
    bool first_hop;
    /* where the body goes */
    struct buf *body;
    size_t limit;
    int fd;
    int64_t at;    /* file offset of the next byte */
    int64_t room;  /* bytes this piece may still take, -1: any number */
    int64_t taken; /* bytes of this try */
    bool wants_range, refused_range, write_failed;
    int saved_errno;
};

static void copy_value(char *to, size_t cap, const char *v, size_t n)
{
    while (n && isspace((unsigned char)v[n - 1]))
        n--;
    snprintf(to, cap, "%.*s", (int)(n < cap ? n : cap - 1), v);
}

static void copy_etag(char *to, const char *v, size_t n)
{
    while (n && isspace((unsigned char)v[n - 1]))
        n--;
    if (n > 2 && v[0] == 'W' && v[1] == '/') {
        v += 2;
        n -= 2;
    }
    if (n >= 2 && v[0] == '"' && v[n - 1] == '"') {
        v++;
        n -= 2;
    }
    copy_value(to, HTTP_HEADER, v, n);
}

static bool header_is(const char *line, size_t n, const char *name, const char **v, size_t *vn)
{
    size_t k = strlen(name);
    if (n <= k || line[k] != ':' || strncasecmp(line, name, k) != 0)
        return false;
    *v = line + k + 1;
    *vn = n - k - 1;
    while (*vn && (**v == ' ' || **v == '\t')) {
        ++*v;
        --*vn;
    }
    return true;
}

/* Every hop of a redirect comes through here; the hub's own headers stand on the first one. */
static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct request *r = arg;
    struct http_answer *a = r->answer;
    const char *v;
    size_t vn;
    (void)size;
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) {
        if (a->status)
            r->first_hop = false;
        const char *sp = memchr(line, ' ', n);
        a->status = sp ? strtol(sp, NULL, 10) : 0;
        a->length = -1;
    } else if (header_is(line, n, "x-linked-etag", &v, &vn)) {
        copy_etag(a->etag, v, vn);
    } else if (header_is(line, n, "etag", &v, &vn)) {
        if (r->first_hop && !*a->etag)
            copy_etag(a->etag, v, vn);
    } else if (header_is(line, n, "x-linked-size", &v, &vn)) {
        a->linked_size = strtoll(v, NULL, 10);
    } else if (header_is(line, n, "x-repo-commit", &v, &vn)) {
        if (!*a->commit)
            copy_value(a->commit, HTTP_HEADER, v, vn);
    } else if (header_is(line, n, "x-error-code", &v, &vn)) {
        copy_value(a->error_code, HTTP_HEADER, v, vn);
    } else if (header_is(line, n, "location", &v, &vn)) {
        copy_value(a->location, HTTP_URL, v, vn);
    } else if (header_is(line, n, "content-length", &v, &vn)) {
        a->length = strtoll(v, NULL, 10);
    } else if (header_is(line, n, "retry-after", &v, &vn)) {
        r->retry_after = strtol(v, NULL, 10);
    }
    return n;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct request *r = arg;
    long status = r->answer->status;
    (void)size;
    if (r->body) {
        if (n > r->limit - r->body->len)
            return 0;
        buf_add(r->body, p, n);
        return n;
    }
    if (status >= 300)
        return n; /* an explanation, not the file */
    if (r->wants_range && status == 200) {
        r->refused_range = true;
        return 0;
    }
    if (r->room >= 0 && (int64_t)n > r->room - r->taken)
        return 0; /* more than was asked for */
    for (size_t done = 0; done < n;) {
        ssize_t put = pwrite(r->fd, p + done, n - done, (off_t)(r->at + r->taken));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            r->write_failed = true;
            r->saved_errno = errno;
            return 0;
        }
        done += (size_t)put;
        r->taken += put;
    }
    return n;
}

static void request_open(struct request *r, const char *url, const char *token, struct http_answer *a)
{
    curl_start();
    *r = (struct request){ .curl = curl_easy_init(), .answer = a, .first_hop = true, .fd = -1, .room = -1 };
    if (!r->curl)
        abort();
    CURL *c = r->curl;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, r->error);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, setting("HF_HUB_ETAG_TIMEOUT", 10));
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, setting("LATENT_HTTP_STALL_S", 30));
    curl_easy_setopt(c, CURLOPT_USERAGENT, "latent/" LATENT_VERSION);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, r);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
    static const char *const authorities[] = { "CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE" };
    for (size_t i = 0; i < sizeof authorities / sizeof *authorities; i++)
        if (getenv(authorities[i]) && *getenv(authorities[i])) {
            curl_easy_setopt(c, CURLOPT_CAINFO, getenv(authorities[i]));
            break;
        }
    /* Ranges and lengths must count the file's own bytes. */
    r->headers = curl_slist_append(r->headers, "Accept-Encoding: identity");
    if (token && *token) {
        struct buf b = BUF_INIT;
        buf_printf(&b, "Authorization: Bearer %s", token); /* libcurl drops it when a redirect leaves the host */
        r->headers = curl_slist_append(r->headers, b.s);
        buf_release(&b);
    }
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, r->headers);
}

static void request_close(struct request *r)
{
    curl_easy_cleanup(r->curl);
    curl_slist_free_all(r->headers);
}

static bool worth_another_try(CURLcode rc, long status)
{
    switch (rc) {
    case CURLE_OK:
        return status == 408 || status == 429 || status >= 500;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

static void pause_before(int attempt, long retry_after)
{
    long ms = setting("LATENT_HTTP_WAIT_MS", 500) << attempt;
    if (ms > 60000)
        ms = 60000;
    if (retry_after > 0)
        ms = retry_after > 600 ? 600000 : retry_after * 1000;
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

static void forget_answer(struct request *r)
{
    *r->answer = (struct http_answer){ .length = -1, .linked_size = -1 };
    r->first_hop = true;
    r->retry_after = 0;
    r->error[0] = '\0';
}

static int no_answer(const struct request *r, const char *url, CURLcode rc, struct err *e)
{
    const char *why = r->error[0] ? r->error : curl_easy_strerror(rc);
    if (rc == CURLE_COULDNT_RESOLVE_HOST || rc == CURLE_COULDNT_CONNECT || rc == CURLE_COULDNT_RESOLVE_PROXY)
        return err_set(e, "%s: no network to this host (%s)", url, why);
    return err_set(e, "%s: %s", url, why);
}

/* Performs with retries, each from the start. 0: there is an answer, whatever its status. */
static int perform(struct request *r, const char *url, struct err *e)
{
    long tries = setting("LATENT_HTTP_RETRIES", 5);
    CURLcode rc = CURLE_OK;
    for (int attempt = 0;; attempt++) {
        forget_answer(r);
        if (r->body)
            buf_reset(r->body);
        rc = curl_easy_perform(r->curl);
        if (attempt >= tries || !worth_another_try(rc, r->answer->status))
            break;
        pause_before(attempt, r->retry_after);
    }
    return rc == CURLE_OK ? 0 : no_answer(r, url, rc, e);
}

/* ---- HEAD, GET into memory ---- */

/* scheme://host part of a URL */
static size_t host_part(const char *url)
{
    const char *p = strstr(url, "://");
    if (!p)
        return 0;
    p += 3;
    return (size_t)(p + strcspn(p, "/?#") - url);
}

int http_head(const char *url, const char *token, struct http_answer *a, struct err *e)
{
    char at[HTTP_URL];
    snprintf(at, sizeof at, "%s", url);
    for (int hop = 0; hop < 10; hop++) {
        struct request r;
        request_open(&r, at, token, a);
        curl_easy_setopt(r.curl, CURLOPT_NOBODY, 1L);
        int rc = perform(&r, at, e);
        request_close(&r);
        if (rc < 0)
            return -1;
        /* A relative redirect is a renamed repository; an absolute one leads to the storage, which the hub has
         * described. */
        if (a->status < 300 || a->status >= 400 || a->location[0] != '/' || a->location[1] == '/')
            return 0;
        size_t host = host_part(at);
        if (host + strlen(a->location) >= sizeof at)
            return err_set(e, "%s: redirected to an address that is too long", url);
        strcpy(at + host, a->location);
    }
    return err_set(e, "%s: more than 10 redirects", url);
}

int http_get(const char *url, const char *token, size_t limit, struct buf *body, struct http_answer *a, struct err *e)
{
    struct request r;
    request_open(&r, url, token, a);
    curl_easy_setopt(r.curl, CURLOPT_FOLLOWLOCATION, 1L);
    r.body = body;
    r.limit = limit;
    int rc = perform(&r, url, e);
    if (rc < 0 && body->len >= limit)
        err_set(e, "%s: the answer is larger than %zu bytes", url, limit);
    request_close(&r);
    return rc;
}

/* ---- GET into a file, in pieces ---- */

struct download {
    const char *url, *token, *path;
    int fd;
    int64_t size, piece;
    int64_t npieces;
    unsigned char *done; /* one byte a piece */
    atomic_llong next;
    atomic_llong bytes;
    atomic_int failed;
    atomic_bool refused; /* the server gives no ranges */
    pthread_mutex_t lock;
    char pieces_path[4096];
    char etag[HTTP_HEADER];
    struct err err; /* the first failure */
};

static int64_t piece_length(const struct download *d, int64_t i)
{
    int64_t left = d->size - i * d->piece;
    return left < d->piece ? left : d->piece;
}

/* PATH.pieces: a line "ETAG SIZE PIECE", then one character a piece. Written whole each time: it is small. */
static void save_pieces(struct download *d)
{
    struct buf b = BUF_INIT;
    struct err ignore;
    buf_printf(&b, "%s %lld %lld\n", d->etag, (long long)d->size, (long long)d->piece);
    for (int64_t i = 0; i < d->npieces; i++)
        buf_putc(&b, d->done[i] ? '1' : '0');
    fdatasync(d->fd); /* a piece is only listed when its bytes are on the disk */
    file_write_atomic(d->pieces_path, b.s, b.len, &ignore);
    buf_release(&b);
}

static void load_pieces(struct download *d)
{
    struct buf b = BUF_INIT, want = BUF_INIT;
    struct err ignore;
    buf_printf(&want, "%s %lld %lld\n", d->etag, (long long)d->size, (long long)d->piece);
    if (file_exists(d->pieces_path) && file_read(&b, d->pieces_path, 64 << 20, &ignore) == 0 &&
        b.len == want.len + (size_t)d->npieces && memcmp(b.s, want.s, want.len) == 0)
        for (int64_t i = 0; i < d->npieces; i++)
            if (b.s[want.len + (size_t)i] == '1') {
                d->done[i] = 1;
                d->bytes += piece_length(d, i);
            }
    buf_release(&b);
    buf_release(&want);
}

static void fail_download(struct download *d, const struct err *e)
{
    pthread_mutex_lock(&d->lock);
    if (!atomic_exchange(&d->failed, 1))
        d->err = *e;
    pthread_mutex_unlock(&d->lock);
}

static int status_error(const char *url, long status, struct err *e)
{
    return err_set(e, "%s: the server answered %ld", url, status);
}

/* One piece, with its own retries: a cut connection goes on from the last byte that came. */
static int fetch_piece(struct download *d, int64_t i, struct err *e)
{
    int64_t from = i * d->piece, length = piece_length(d, i), have = 0;
    long tries = setting("LATENT_HTTP_RETRIES", 5);
    for (int attempt = 0;; attempt++) {
        struct http_answer a;
        struct request r;
        char range[64];
        request_open(&r, d->url, d->token, &a);
        curl_easy_setopt(r.curl, CURLOPT_FOLLOWLOCATION, 1L);
        snprintf(range, sizeof range, "%lld-%lld", (long long)(from + have), (long long)(from + length - 1));
        curl_easy_setopt(r.curl, CURLOPT_RANGE, range);
        forget_answer(&r);
        r.fd = d->fd;
        r.at = from + have;
        r.room = length - have;
        r.wants_range = true;
        CURLcode rc = curl_easy_perform(r.curl);
        have += r.taken;
        int result = 1;
        if (r.refused_range) {
            atomic_store(&d->refused, true);
            result = err_set(e, "%s: the server gives no ranges", d->url);
        } else if (r.write_failed) {
            errno = r.saved_errno;
            result = err_errno(e, "%s: cannot write", d->path);
        } else if (have == length && a.status == 206) {
            result = 0;
        } else if (!worth_another_try(rc, a.status) && !(rc == CURLE_OK && a.status == 206)) {
            result =
                rc == CURLE_OK && a.status >= 300 ? status_error(d->url, a.status, e) : no_answer(&r, d->url, rc, e);
        } else if (attempt >= tries && r.taken == 0) {
            result = rc != CURLE_OK ? no_answer(&r, d->url, rc, e) : status_error(d->url, a.status, e);
        }
        long retry_after = r.retry_after;
        bool moved = r.taken > 0;
        request_close(&r);
        if (result <= 0)
            return result;
        if (moved)
            attempt = -1; /* what makes headway is not given up on */
        pause_before(attempt < 0 ? 0 : attempt, retry_after);
    }
}

static void *fetch_pieces(void *arg)
{
    struct download *d = arg;
    for (;;) {
        long long i = atomic_fetch_add(&d->next, 1);
        if (i >= d->npieces || atomic_load(&d->failed))
            return NULL;
        if (d->done[i])
            continue;
        struct err e = { "" };
        if (fetch_piece(d, i, &e) < 0) {
            fail_download(d, &e);
            return NULL;
        }
        atomic_fetch_add(&d->bytes, piece_length(d, i));
        pthread_mutex_lock(&d->lock);
        d->done[i] = 1;
        save_pieces(d);
        pthread_mutex_unlock(&d->lock);
    }
}

/* Threads fetch; this thread shows how far they are. */
static int fetch_side_by_side(struct download *d, void (*progress)(void *, int64_t, int64_t), void *arg, struct err *e)
{
    pthread_t id[CONNECTIONS];
    int n = 0, want = d->npieces < CONNECTIONS ? (int)d->npieces : CONNECTIONS;
    while (n < want && pthread_create(&id[n], NULL, fetch_pieces, d) == 0)
        n++;
    if (n == 0)
        fetch_pieces(d);
    while (progress && atomic_load(&d->bytes) < d->size && !atomic_load(&d->failed) &&
           atomic_load(&d->next) < d->npieces + n) {
        progress(arg, atomic_load(&d->bytes), d->size);
        nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    }
    for (int i = 0; i < n; i++)
        pthread_join(id[i], NULL);
    if (atomic_load(&d->failed)) {
        *e = d->err;
        return -1;
    }
    return 0;
}

/* From the first byte to the last, for servers without ranges and bodies of unknown length. */
static int fetch_whole(struct download *d, struct err *e)
{
    long tries = setting("LATENT_HTTP_RETRIES", 5);
    for (int attempt = 0;; attempt++) {
        struct http_answer a;
        struct request r;
        if (ftruncate(d->fd, 0) < 0)
            return err_errno(e, "%s: cannot write", d->path);
        request_open(&r, d->url, d->token, &a);
        curl_easy_setopt(r.curl, CURLOPT_FOLLOWLOCATION, 1L);
        forget_answer(&r);
        r.fd = d->fd;
        CURLcode rc = curl_easy_perform(r.curl);
        int result = 1;
        if (r.write_failed) {
            errno = r.saved_errno;
            result = err_errno(e, "%s: cannot write", d->path);
        } else if (rc == CURLE_OK && a.status == 200) {
            result = 0;
        } else if (attempt >= tries || !worth_another_try(rc, a.status)) {
            result = rc != CURLE_OK ? no_answer(&r, d->url, rc, e) : status_error(d->url, a.status, e);
        }
        long retry_after = r.retry_after;
        request_close(&r);
        if (result <= 0)
            return result;
        pause_before(attempt, retry_after);
    }
}

static int fetch(struct download *d, void (*progress)(void *, int64_t, int64_t), void *arg, struct err *e)
{
    if (d->size <= 0)
        return fetch_whole(d, e);
    load_pieces(d);
    int rc = fetch_side_by_side(d, progress, arg, e);
    if (rc < 0 && atomic_load(&d->refused)) {
        unlink(d->pieces_path);
        rc = fetch_whole(d, e);
    }
    return rc;
}

int http_get_file(const char *url, const char *token, const char *etag, int64_t size, const char *path,
                  void (*progress)(void *arg, int64_t done, int64_t total), void *arg, struct err *e)
{
    struct download d = { .url = url, .token = token, .path = path, .size = size };
    d.piece = setting("LATENT_HTTP_PIECE", 16 << 20);
    d.npieces = size > 0 ? (size + d.piece - 1) / d.piece : 0;
    d.done = xcalloc((size_t)d.npieces + 1, 1);
    pthread_mutex_init(&d.lock, NULL);
    snprintf(d.pieces_path, sizeof d.pieces_path, "%s.pieces", path);
    snprintf(d.etag, sizeof d.etag, "%s", etag && *etag ? etag : "-");
    d.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int rc = d.fd < 0 ? err_errno(e, "%s: cannot create", path) : fetch(&d, progress, arg, e);
    struct stat st;
    if (rc == 0 && fsync(d.fd) < 0)
        rc = err_errno(e, "%s: cannot write", path);
    if (rc == 0 && size >= 0 && fstat(d.fd, &st) == 0 && st.st_size != size) {
        rc = err_set(e, "%s: %lld bytes came, %lld were announced", url, (long long)st.st_size, (long long)size);
        unlink(path);
        unlink(d.pieces_path);
    }
    if (d.fd >= 0)
        close(d.fd);
    if (rc == 0)
        unlink(d.pieces_path);
    pthread_mutex_destroy(&d.lock);
    free(d.done);
    return rc;
}
