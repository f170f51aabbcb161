/* reward.c - see reward.h. */
#include "io/reward.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"

enum { ANSWER_LIMIT = 64 << 20 };

struct reward_client {
    CURL *curl;
    struct curl_slist *headers;
    char *url;
    double timeout;
    char error[CURL_ERROR_SIZE];
    struct buf request, answer;
};

static void put_ids(struct buf *b, const char *key, const int32_t *ids, int n)
{
    buf_printf(b, "\"%s\": [", key);
    for (int i = 0; i < n; i++)
        buf_printf(b, "%s%d", i ? ", " : "", ids[i]);
    buf_putc(b, ']');
}

void reward_query_write(const struct reward_query *q, struct buf *b)
{
    buf_putc(b, '{');
    if (q->messages)
        buf_printf(b, "\"prompt_messages\": %s", q->messages);
    else
        put_ids(b, "prompt_ids", q->prompt_ids, q->n_prompt_ids);
    buf_puts(b, ", ");
    if (q->solution) {
        buf_puts(b, "\"solution_str\": ");
        json_put_str(b, q->solution, q->solution_n);
    } else {
        put_ids(b, "solution_ids", q->solution_ids, q->n_solution_ids);
    }
    buf_puts(b, ", \"ground_truth\": ");
    json_put_str(b, q->gold ? q->gold : "", q->gold_n);
    buf_putc(b, '}');
}

static void start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int read_timeout(double *seconds, struct err *e)
{
    const char *s = getenv("SCORER_TIMEOUT");
    char *end;
    *seconds = 120;
    if (!s || !*s)
        return 0;
    *seconds = strtod(s, &end);
    if (*end || !(*seconds > 0 && *seconds < 1e6))
        return err_set(e, "SCORER_TIMEOUT is %s, expected seconds above 0", s);
    return 0;
}

int reward_open(struct reward_client **out, const char *url, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    double timeout;
    *out = NULL;
    if (read_timeout(&timeout, e) < 0)
        return -1;
    pthread_once(&once, start);
    struct reward_client *r = xcalloc(1, sizeof *r);
    const char *from = getenv("SCORER_URL");
    r->url = xstrdup(url ? url : from && *from ? from : "http://127.0.0.1:8009");
    r->timeout = timeout;
    for (size_t n = strlen(r->url); n && r->url[n - 1] == '/';)
        r->url[--n] = '\0';
    r->curl = curl_easy_init();
    r->headers = curl_slist_append(NULL, "Content-Type: application/json");
    r->headers = curl_slist_append(r->headers, "Expect:"); /* no waiting for 100 Continue */
    if (!r->curl || !r->headers) {
        reward_close(r);
        return err_set(e, "%s: cannot start a client", url ? url : "SCORER_URL");
    }
    *out = r;
    return 0;
}

void reward_close(struct reward_client *r)
{
    if (!r)
        return;
    curl_easy_cleanup(r->curl);
    curl_slist_free_all(r->headers);
    buf_release(&r->request);
    buf_release(&r->answer);
    free(r->url);
    free(r);
}

static size_t take(char *p, size_t size, size_t n, void *arg)
{
    struct buf *b = arg;
    if (n * size > ANSWER_LIMIT - b->len)
        return 0;
    buf_add(b, p, n * size);
    return n * size;
}

/* The server's JSON answer; post NULL: GET. */
static int ask(struct reward_client *r, const char *path, const struct buf *post, struct json *answer, struct err *e)
{
    struct buf url = BUF_INIT;
    long status = 0;
    struct json why;
    CURL *c = r->curl;
    buf_printf(&url, "%s%s", r->url, path);
    buf_reset(&r->answer);
    r->error[0] = '\0';
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, url.s);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(r->timeout * 1000));
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, r->error);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &r->answer);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, r->headers);
    if (post) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)post->len);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, post->s);
    }
    CURLcode code = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    int rc = 0;
    if (code != CURLE_OK)
        rc = err_set(e, "%s: %s", url.s, r->error[0] ? r->error : curl_easy_strerror(code));
    else if (json_parse(answer, r->answer.s ? r->answer.s : "", r->answer.len, e) < 0)
        rc = err_prefix(e, "%s: status %ld, and the answer is no JSON", url.s, status);
    else if (status != 200 && json_get(*answer, "error", &why) && json_kind(why) == JSON_STRING)
        rc = err_set(e, "%s: status %ld: %.*s", url.s, status, (int)(why.n < 600 ? why.n - 2 : 600), why.s + 1);
    else if (status != 200)
        rc = err_set(e, "%s: status %ld", url.s, status);
    buf_release(&url);
    return rc;
}

int reward_health(struct reward_client *r, struct err *e)
{
    struct json a, v;
    bool ok;
    if (ask(r, "/health", NULL, &a, e) < 0)
        return -1;
    return json_get(a, "ok", &v) && json_bool(v, &ok) && ok ? 0 : err_set(e, "%s: the server is not well", r->url);
}

int reward_score(struct reward_client *r, const struct reward_query *q, int n, double *score, struct err *e)
{
    struct json a, list, v;
    int got = 0;
    buf_reset(&r->request);
    buf_puts(&r->request, "{\"items\": [");
    for (int i = 0; i < n; i++) {
        buf_puts(&r->request, i ? ", " : "");
        reward_query_write(&q[i], &r->request);
    }
    buf_puts(&r->request, "]}");
    if (ask(r, "/score_batch", &r->request, &a, e) < 0)
        return -1;
    if (!json_get(a, "scores", &list) || json_count(list) != (size_t)n)
        return err_set(e, "%s: the answer does not have %d scores", r->url, n);
    for (struct json_iter it = json_each(list); json_next(&it, NULL, &v); got++)
        if (!json_double(v, &score[got]))
            return err_set(e, "%s: score %d is not a number", r->url, got);
    return 0;
}
