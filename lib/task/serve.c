/* serve.c - see serve.h.
 *
 * libmicrohttpd's thread collects a request; when it is whole, it is parsed, put into the queue and its connection
 * suspended (under the queue's lock, so that the worker cannot resume it before). The worker takes what waits, scores,
 * leaves the answer in the request and resumes; the handler is called again and sends it. A daemon must not be stopped
 * while a connection is suspended: serve_close empties the queue first. */
#include "task/serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "task/gold.h"

enum {
    MOST_ITEMS = 4096,  /* of a request */
    BATCH_ITEMS = 1024, /* the worker takes no further request beyond so many */
    CONNECTIONS = 4096,
    CONNECTION_MEMORY = 64 << 10,
    DRAIN_SECONDS = 20,
    BACKLOG = 1024,
};
static const int64_t waiting_limit = (int64_t)512 << 20; /* bytes of all requests together */

enum state { READING, WAITING, ANSWERED };

struct call {
    struct call *next; /* in the queue */
    struct MHD_Connection *connection;
    enum state state;
    bool known, batch, health;
    double start;
    struct buf body;
    int64_t counted; /* bytes of it in serve.bytes */
    struct arena arena;
    struct reward_query *query;
    struct gold_item *item;
    int n;
    unsigned status;
    struct buf answer;
};

struct serve {
    struct serve_options o;
    char *name;
    struct gold *gold;
    struct MHD_Daemon *daemon;
    int port;
    pthread_t worker;
    bool has_worker;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    struct call *first, **last;
    int open;              /* calls that are not over */
    int64_t bytes;         /* of all bodies */
    bool stopping, ending; /* no new requests; the worker is to end */
    atomic_bool broken;    /* the device failed */
    char why[256];         /* ... so */
    struct serve_stats stats;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- answers ---- */

static void refuse(struct call *c, unsigned status, const char *why)
{
    c->status = status;
    buf_reset(&c->answer);
    buf_puts(&c->answer, "{\"error\":");
    json_put_cstr(&c->answer, why);
    buf_puts(&c->answer, "}\n");
    c->state = ANSWERED;
}

static void answer_scores(struct call *c)
{
    for (int i = 0; i < c->n; i++)
        if (c->item[i].error[0]) {
            struct buf why = BUF_INIT;
            if (c->batch)
                buf_printf(&why, "items[%d]: ", i);
            buf_puts(&why, c->item[i].error);
            refuse(c, 400, why.s);
            buf_release(&why);
            return;
        }
    c->status = 200;
    buf_puts(&c->answer, c->batch ? "{\"scores\":[" : "{\"score\":");
    for (int i = 0; i < c->n; i++) {
        if (i)
            buf_putc(&c->answer, ',');
        json_put_double(&c->answer, c->item[i].score);
    }
    buf_puts(&c->answer, c->batch ? "]}\n" : "}\n");
    c->state = ANSWERED;
}

static enum MHD_Result send_answer(struct serve *s, struct call *c)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(c->answer.len, c->answer.s, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "application/json");
    MHD_add_response_header(r, "Cache-Control", "no-store");
    if (c->status == 405)
        MHD_add_response_header(r, "Allow", c->health ? "GET" : "POST");
    enum MHD_Result rc = MHD_queue_response(c->connection, c->status, r);
    MHD_destroy_response(r);
    pthread_mutex_lock(&s->lock);
    if (c->status >= 400)
        s->stats.refused++;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static enum MHD_Result send_health(struct serve *s, struct call *c)
{
    c->status = s->broken ? 500 : 200;
    buf_printf(&c->answer, "{\"ok\":%s,\"model_dir\":", s->broken ? "false" : "true");
    json_put_cstr(&c->answer, s->name);
    buf_puts(&c->answer, ",\"device\":");
    json_put_cstr(&c->answer, gold_device(s->gold));
    buf_puts(&c->answer, "}\n");
    c->state = ANSWERED;
    return send_answer(s, c);
}

/* ---- requests ---- */

static char *text_of(struct call *c, struct json v, size_t *n)
{
    struct buf b = BUF_INIT;
    json_str(v, &b);
    *n = b.len;
    char *s = arena_strndup(&c->arena, b.s ? b.s : "", b.len);
    buf_release(&b);
    return s;
}

static int read_ids(struct call *c, struct json list, const char *key, const int32_t **ids, int *n, struct err *e)
{
    struct json x;
    int64_t id;
    size_t count = json_count(list);
    int32_t *v = arena_alloc(&c->arena, (count + 1) * sizeof *v);
    *ids = v;
    *n = 0;
    if (json_kind(list) != JSON_ARRAY)
        return err_set(e, "%s is not a list of ids", key);
    for (struct json_iter it = json_each(list); json_next(&it, NULL, &x); v[(*n)++] = (int32_t)id)
        if (!json_int(x, &id) || id < 0 || id > INT32_MAX)
            return err_set(e, "%s[%d] is not an id", key, *n);
    return 0;
}

static int read_messages(struct call *c, struct json list, const char **text, struct err *e)
{
    struct json x, role, content;
    int i = 0;
    if (json_kind(list) != JSON_ARRAY || json_count(list) == 0)
        return err_set(e, "prompt_messages is not a list of messages");
    for (struct json_iter it = json_each(list); json_next(&it, NULL, &x); i++)
        if (!json_get(x, "role", &role) || json_kind(role) != JSON_STRING || !json_get(x, "content", &content) ||
            json_kind(content) != JSON_STRING)
            return err_set(e, "prompt_messages[%d] does not have role and content, both texts", i);
    *text = arena_strndup(&c->arena, list.s, list.n);
    return 0;
}

static int read_query(struct call *c, struct json o, struct reward_query *q, struct err *e)
{
    struct json v;
    if (json_kind(o) != JSON_OBJECT)
        return err_set(e, "expected an object");
    if (json_get(o, "prompt_ids", &v)) {
        if (read_ids(c, v, "prompt_ids", &q->prompt_ids, &q->n_prompt_ids, e) < 0)
            return -1;
    } else if (!json_get(o, "prompt_messages", &v)) {
        return err_set(e, "there are no prompt_messages (or prompt_ids)");
    } else if (read_messages(c, v, &q->messages, e) < 0) {
        return -1;
    }
    if (json_get(o, "solution_ids", &v)) {
        if (read_ids(c, v, "solution_ids", &q->solution_ids, &q->n_solution_ids, e) < 0)
            return -1;
    } else if (!json_get(o, "solution_str", &v) || json_kind(v) != JSON_STRING) {
        return err_set(e, "solution_str is not a text (and there are no solution_ids)");
    } else {
        q->solution = text_of(c, v, &q->solution_n);
    }
    if (!json_get(o, "ground_truth", &v))
        return err_set(e, "there is no ground_truth");
    if (json_kind(v) == JSON_NUMBER) {
        q->gold = arena_strndup(&c->arena, v.s, v.n);
        q->gold_n = v.n;
    } else if (json_kind(v) == JSON_STRING) {
        q->gold = text_of(c, v, &q->gold_n);
    } else {
        return err_set(e, "ground_truth is not a text");
    }
    return 0;
}

static int parse(struct call *c, struct err *e)
{
    struct json o, list = { NULL, 0 }, x;
    if (json_parse(&o, c->body.s ? c->body.s : "", c->body.len, e) < 0)
        return -1;
    size_t n = 1;
    if (c->batch) {
        if (!json_get(o, "items", &list) || json_kind(list) != JSON_ARRAY)
            return err_set(e, "items is not a list");
        n = json_count(list);
        if (n > MOST_ITEMS)
            return err_set(e, "%zu items are more than %d", n, MOST_ITEMS);
    }
    c->query = arena_zalloc(&c->arena, (n + 1) * sizeof *c->query);
    c->item = arena_zalloc(&c->arena, (n + 1) * sizeof *c->item);
    if (!c->batch)
        c->n = 1;
    for (struct json_iter it = json_each(list); c->batch && json_next(&it, NULL, &x); c->n++)
        if (read_query(c, x, &c->query[c->n], e) < 0)
            return err_prefix(e, "items[%d]", c->n);
    if (!c->batch && read_query(c, o, &c->query[0], e) < 0)
        return -1;
    for (int i = 0; i < c->n; i++)
        c->item[i].query = &c->query[i];
    return 0;
}

/* ---- the worker ---- */

/* What waits, first come first served; false: it is time to end. */
static int take(struct serve *s, struct call **taken)
{
    int n = 0, items = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->first && !s->ending)
        pthread_cond_wait(&s->wake, &s->lock);
    while (s->first && n < s->o.max_concurrency && (n == 0 || items + s->first->n <= BATCH_ITEMS)) {
        taken[n] = s->first;
        s->first = s->first->next;
        items += taken[n++]->n;
    }
    if (!s->first)
        s->last = &s->first;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void score(struct serve *s, struct call **taken, int n)
{
    struct err e = { "" };
    int items = 0, at = 0;
    for (int i = 0; i < n; i++)
        items += taken[i]->n;
    struct gold_item **list = xcalloc((size_t)items + 1, sizeof *list);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < taken[i]->n; k++)
            list[at++] = &taken[i]->item[k];
    if (!s->broken && gold_run(s->gold, list, items, &e) < 0) {
        log_error("%s", e.msg);
        pthread_mutex_lock(&s->lock);
        s->broken = true;
        snprintf(s->why, sizeof s->why, "the device failed: %.200s", e.msg);
        pthread_mutex_unlock(&s->lock);
    }
    free(list);
    for (int i = 0; i < n; i++)
        if (s->broken)
            refuse(taken[i], 500, s->why);
        else
            answer_scores(taken[i]);
    pthread_mutex_lock(&s->lock);
    s->stats.batches++;
    s->stats.requests += n;
    s->stats.items += items;
    s->stats.rows = gold_rows(s->gold);
    pthread_mutex_unlock(&s->lock);
}

static void *work(void *arg)
{
    struct serve *s = arg;
    struct call **taken = xcalloc((size_t)s->o.max_concurrency, sizeof(struct call *));
    for (int n; (n = take(s, taken)) > 0;) {
        score(s, taken, n);
        for (int i = 0; i < n; i++) /* from here on the handler may free it */
            MHD_resume_connection(taken[i]->connection);
    }
    free(taken);
    return NULL;
}

/* ---- the handler ---- */

static bool is_loopback_name(const char *s, size_t n)
{
    return (n == 9 && strncasecmp(s, "localhost", 9) == 0) ||
           (n > 4 && memcmp(s, "127.", 4) == 0 && strspn(s, "0123456789.") >= n) ||
           (n == 5 && memcmp(s, "[::1]", 5) == 0);
}

/* "NAME" or "NAME:PORT" of this machine? */
static bool is_here(const char *host)
{
    const char *end = *host == '[' ? strchr(host, ']') : NULL;
    return is_loopback_name(host, end ? (size_t)(end + 1 - host) : strcspn(host, ":/"));
}

/* Any web page can make a browser send requests to this machine: those name another origin, or another host. */
static bool is_foreign(struct MHD_Connection *c)
{
    const char *origin = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin");
    const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
    const char *at = origin ? strstr(origin, "://") : NULL;
    return (origin && (!at || !is_here(at + 3))) || (host && !is_here(host));
}

/* Headers only: what can be refused without reading a body is. */
static void look(struct serve *s, struct call *c, const char *url, const char *method)
{
    const char *length = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Content-Length");
    c->health = strcmp(url, "/health") == 0;
    c->batch = strcmp(url, "/score_batch") == 0;
    c->known = c->health || c->batch || strcmp(url, "/score") == 0;
    if (is_foreign(c->connection))
        refuse(c, 403, "requests come from this machine only");
    else if (!c->known)
        refuse(c, 404, "there are /health, /score and /score_batch");
    else if (strcmp(method, c->health ? "GET" : "POST") != 0)
        refuse(c, 405, c->health ? "GET is expected" : "POST is expected");
    else if (length && strtoll(length, NULL, 10) > s->o.body_limit)
        refuse(c, 413, "the request is too large");
}

/* Forgets the body; the arena holds what is needed of it. */
static void drop_body(struct serve *s, struct call *c)
{
    buf_release(&c->body);
    pthread_mutex_lock(&s->lock);
    s->bytes -= c->counted;
    pthread_mutex_unlock(&s->lock);
    c->counted = 0;
}

static void collect(struct serve *s, struct call *c, const char *data, size_t n)
{
    if (c->state != READING)
        return; /* refused already, the rest is swallowed */
    bool full = (int64_t)(c->body.len + n) > s->o.body_limit, busy = false;
    if (!full) {
        pthread_mutex_lock(&s->lock);
        busy = s->bytes + (int64_t)n > waiting_limit;
        s->bytes += busy ? 0 : (int64_t)n;
        pthread_mutex_unlock(&s->lock);
    }
    if (full || busy) {
        refuse(c, full ? 413 : 503, full ? "the request is too large" : "too much is waiting: try again later");
        drop_body(s, c);
        return;
    }
    c->counted += (int64_t)n;
    buf_add(&c->body, data, n);
}

/* The request is whole: into the queue, or refused. */
static enum MHD_Result submit(struct serve *s, struct call *c)
{
    struct err e = { "" };
    if (parse(c, &e) < 0) {
        refuse(c, 400, e.msg);
        return send_answer(s, c);
    }
    pthread_mutex_lock(&s->lock);
    bool stopping = s->stopping;
    if (!stopping) {
        c->state = WAITING;
        *s->last = c;
        s->last = &c->next;
        MHD_suspend_connection(c->connection);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (!stopping)
        return MHD_YES;
    refuse(c, 503, "the server is stopping");
    return send_answer(s, c);
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version, const char *data, size_t *size, void **con_cls)
{
    struct serve *s = cls;
    struct call *c = *con_cls;
    (void)version;
    if (!c) {
        *con_cls = c = xcalloc(1, sizeof *c);
        c->connection = connection;
        c->start = now();
        pthread_mutex_lock(&s->lock);
        s->open++;
        pthread_mutex_unlock(&s->lock);
        look(s, c, url, method);
        return c->state == ANSWERED && c->status == 413 ? send_answer(s, c) : MHD_YES;
    }
    if (*size) {
        collect(s, c, data, *size);
        *size = 0;
        return now() - c->start > s->o.seconds ? MHD_NO : MHD_YES;
    }
    if (c->state == ANSWERED)
        return send_answer(s, c);
    if (c->state == WAITING)
        return MHD_YES;
    return c->health ? send_health(s, c) : submit(s, c);
}

static void completed(void *cls, struct MHD_Connection *connection, void **con_cls, enum MHD_RequestTerminationCode why)
{
    struct serve *s = cls;
    struct call *c = *con_cls;
    (void)connection;
    (void)why;
    if (!c)
        return;
    drop_body(s, c);
    buf_release(&c->answer);
    arena_release(&c->arena);
    free(c);
    *con_cls = NULL;
    pthread_mutex_lock(&s->lock);
    s->open--;
    pthread_cond_signal(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

/* ---- starting ---- */

static int check_host(const struct serve_options *o, struct sockaddr_in *a, struct err *e)
{
    const char *host = strcmp(o->host, "localhost") == 0 ? "127.0.0.1" : o->host;
    *a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)o->port) };
    if (inet_pton(AF_INET, host, &a->sin_addr) != 1 || ntohl(a->sin_addr.s_addr) >> 24 != 127)
        return err_set(e, "%s: the server listens on this machine's loopback only (127.0.0.1)", o->host);
    return 0;
}

static int start_daemon(struct serve *s, const struct sockaddr_in *a, struct err *e)
{
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, (uint16_t)s->o.port, NULL,
                                 NULL, handle, s, MHD_OPTION_SOCK_ADDR, (const struct sockaddr *)a,
                                 MHD_OPTION_NOTIFY_COMPLETED, completed, s, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(s->o.seconds + 1),
                                 MHD_OPTION_LISTEN_BACKLOG_SIZE, (unsigned)BACKLOG, MHD_OPTION_END);
    if (!s->daemon)
        return err_errno(e, "%s:%d: cannot listen", s->o.host, s->o.port);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    s->port = info ? info->port : s->o.port;
    return 0;
}

int serve_open(struct serve **out, const struct serve_options *o, struct err *e)
{
    struct sockaddr_in a;
    *out = NULL;
    if (check_host(o, &a, e) < 0)
        return -1;
    struct serve *s = xcalloc(1, sizeof *s);
    s->o = *o;
    s->o.body_limit = o->body_limit ? o->body_limit : 8 << 20;
    s->o.seconds = o->seconds > 0 ? o->seconds : 30;
    s->o.max_concurrency = o->max_concurrency > 0 ? o->max_concurrency : 1;
    s->name = xstrdup(o->name ? o->name : o->dir);
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->idle, NULL);
    struct gold_options go = {
        .dir = o->dir, .device = o->device, .threads = o->threads, .max_tokens = o->max_tokens, .rows = o->rows
    };
    go.fp8_cache = o->fp8_cache;
    go.batch_dependent = o->batch_dependent;
    if (gold_open(&s->gold, &go, e) < 0)
        goto failed;
    s->has_worker = pthread_create(&s->worker, NULL, work, s) == 0;
    if (!s->has_worker) {
        err_set(e, "cannot start a thread");
        goto failed;
    }
    if (start_daemon(s, &a, e) < 0)
        goto failed;
    *out = s;
    return 0;
failed:
    serve_close(s);
    return -1;
}

int serve_port(const struct serve *s)
{
    return s->port;
}

struct serve_stats serve_stats(struct serve *s)
{
    pthread_mutex_lock(&s->lock);
    struct serve_stats st = s->stats;
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- stopping ---- */

/* The rest of the queue is refused. */
static void clear_queue(struct serve *s)
{
    pthread_mutex_lock(&s->lock);
    struct call *c = s->first, *next;
    s->first = NULL;
    s->last = &s->first;
    s->ending = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (; c; c = next) {
        next = c->next;
        refuse(c, 503, "the server is stopping");
        MHD_resume_connection(c->connection);
    }
}

/* Waits until what() is 0, at most so long; the lock is held. */
static void wait_until(struct serve *s, bool queue, double seconds)
{
    double end = now() + seconds;
    while ((queue ? s->first != NULL : s->open > 0) && now() < end) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 50 * 1000 * 1000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->idle, &s->lock, &t);
    }
}

void serve_close(struct serve *s)
{
    if (!s)
        return;
    MHD_socket listening = s->daemon ? MHD_quiesce_daemon(s->daemon) : MHD_INVALID_SOCKET;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    wait_until(s, true, DRAIN_SECONDS);
    pthread_mutex_unlock(&s->lock);
    clear_queue(s);
    if (s->has_worker)
        pthread_join(s->worker, NULL); /* it finishes the batch in hand: nobody is suspended any more */
    pthread_mutex_lock(&s->lock);
    wait_until(s, false, 2); /* answers leave; slow senders are not waited for */
    pthread_mutex_unlock(&s->lock);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    if (listening != MHD_INVALID_SOCKET)
        close(listening);
    gold_close(s->gold);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s->name);
    free(s);
}
