/* serve_test.c - the reward server and its client: the formula, a thousand at once, hostile clients, stopping. */
#include "task/serve.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "base/file.h"
#include "base/rng.h"
#include "io/reward.h"
#include "model/dualize.h"
#include "model/model.h"
#include "model/score.h"
#include "task/gold.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "unit/test.h"

static struct err e;
static char dual_dir[4200];
static struct serve *server;
static char url[64];

static void start_with(int concurrency, double seconds)
{
    struct serve_options o = { .name = "dual",
                               .dir = dual_dir,
                               .device = "cpu",
                               .host = "localhost",
                               .threads = 2,
                               .max_concurrency = concurrency,
                               .max_tokens = 500,
                               .rows = 512,
                               .body_limit = 1 << 20,
                               .seconds = seconds };
    assert_ok(serve_open(&server, &o, &e));
    snprintf(url, sizeof url, "http://127.0.0.1:%d", serve_port(server));
}

static int start(void **state)
{
    (void)state;
    start_with(8, 30);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    serve_close(server);
    return 0;
}

static int make_model(void **state)
{
    (void)state;
    struct dual_meta m;
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    snprintf(dual_dir, sizeof dual_dir, "%s/dual", test_tmpdir());
    assert_ok(file_mkdirs(dual_dir, &e));
    assert_ok(dualize(&(struct dualize_options){ .model = "tests/golden/models/qwen3" }, dual_dir, &m, &e));
    dual_meta_release(&m);
    return 0;
}

/* ---- the formula ---- */

static void gold_answers_are_normalized(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { " $\\left( 1 , 2 \\right)$ ", "(1,2)" },
        { "{{ 42 }}", "42" },
        { "42..", "42" },
        { "{a}+{b}", "{a}+{b}" },
        { "6/-4", "-3/2" },
        { "8/4", "2" },
        { "5/0", "5/0" },
        { "007.50", "7.5" },
        { "-0.0", "0" },
        { ".5", "0.5" },
        { "-3.", "-3" },
        { "1,000", "1,000" },
        { "x\\leftarrow\\!y\\;", "x\\leftarrowy" },
        { "two\nwords", "twowords" },
        { "$ . $", "" },
        { "1e5", "1e5" },
        { "12345678901234567890123/2", "12345678901234567890123/2" },
    };
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_reset(&b);
        buf_puts(&b, "");
        gold_normalize(cases[i][0], strlen(cases[i][0]), &b);
        assert_string_equal(b.s, cases[i][1]);
    }
    buf_release(&b);
}

static const char ask[] = "[{\"role\": \"user\", \"content\": \"What is 1+1?\"}]";

/* Mean log-probability of answer behind prefix, by the other scorer. */
static double mean_of(struct scorer *s, const struct tokenizer *t, const char *prefix, const char *answer)
{
    struct tokens a = TOKENS_INIT, b = TOKENS_INIT;
    int32_t ids[512];
    float lp[512];
    double sum = 0;
    assert_ok(tokenizer_encode(t, prefix, strlen(prefix), 0, &a, &e));
    assert_ok(tokenizer_encode(t, answer, strlen(answer), 0, &b, &e));
    memcpy(ids, a.id, a.n * sizeof *ids);
    memcpy(ids + a.n, b.id, b.n * sizeof *ids);
    struct score_seq q = { ids, (int)(a.n + b.n), (int)a.n, lp, NULL };
    assert_ok(scorer_run(s, &q, 1, &e));
    for (size_t i = 0; i < b.n; i++)
        sum += (double)lp[i];
    sum /= (double)b.n;
    tokens_release(&a);
    tokens_release(&b);
    return sum;
}

static void scores_follow_the_formula(void **state)
{
    (void)state;
    struct reward_client *r;
    struct device *d;
    struct model *m;
    struct scorer *s;
    struct tokenizer *t;
    struct chat_template *chat;
    struct buf head = BUF_INIT, prefix = BUF_INIT;
    static const struct {
        const char *solution, *kept, *gold, *plain, *blank;
        double penalty;
    } cases[] = {
        { "one and one</think>never seen</think>", "one and one</think>", "$12$", "12", " 12", 0 },
        { "no end", "no end", "4/2", "2", " 2", -2 },
        { "", "", "x+y", "x+y", " x+y", -2 },
        { "\xe4\xbd\xa0</think>", "\xe4\xbd\xa0</think>", "0.50", "0.5", " 0.5", 0 },
    };
    assert_ok(reward_open(&r, url, &e));
    assert_ok(reward_health(r, &e));
    assert_ok(device_open(&d, "cpu", 1, &e));
    assert_ok(model_open(&m, dual_dir, d, &e));
    assert_ok(scorer_open(&s, m, 512, &e));
    assert_ok(tokenizer_open(&t, dual_dir, &e));
    assert_ok(chat_template_open(&chat, dual_dir, &e));
    assert_ok(
        chat_template_render_json(chat, ask, NULL, true, tokenizer_bos_token(t), tokenizer_eos_token(t), &head, &e));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reward_query q = { .messages = ask,
                                  .solution = cases[i].solution,
                                  .solution_n = strlen(cases[i].solution),
                                  .gold = cases[i].gold,
                                  .gold_n = strlen(cases[i].gold) };
        double got;
        assert_ok(reward_score(r, &q, 1, &got, &e));
        buf_reset(&prefix);
        buf_add(&prefix, head.s, head.len);
        buf_puts(&prefix, cases[i].kept);
        double a = mean_of(s, t, prefix.s, cases[i].plain), b = mean_of(s, t, prefix.s, cases[i].blank);
        double want = (a > b ? a : b) + cases[i].penalty;
        if (!(fabs(got - want) < 1e-4))
            fail_msg("case %zu: got %.9g want %.9g", i, got, want);
    }
    /* ids survive: latent ones are not what their sources are (to the prompt's text they add other rows) */
    int32_t ids[] = { 650, 700, 599, 8 };
    struct reward_query q = { .messages = ask, .solution_ids = ids, .n_solution_ids = 4, .gold = "3", .gold_n = 1 };
    double score[2];
    assert_ok(reward_score(r, &q, 1, &score[0], &e));
    assert_true(score[0] < 0 && score[0] > -30);
    q.gold_n = 0;
    assert_ok(reward_score(r, &q, 1, &score[0], &e));
    assert_true(score[0] == -100);
    assert_ok(reward_score(r, &q, 0, score, &e)); /* nothing is an answer too */
    q.gold_n = 1;
    ids[0] = 5000;
    assert_int_equal(reward_score(r, &q, 1, score, &e), -1);
    assert_non_null(strstr(e.msg, "status 400: items[0]: id 5000 is outside the vocabulary of 1216"));
    reward_close(r);
    chat_template_close(chat);
    tokenizer_close(t);
    scorer_close(s);
    model_close(m);
    device_close(d);
    buf_release(&head);
    buf_release(&prefix);
}

/* ---- a thousand at once ---- */

enum { CLIENTS = 1000 };

static void put_request(struct buf *b, int i)
{
    static const char *const how[] = { "so", "thus it is", "because of\\nthat", "hence" };
    buf_printf(b,
               "{\"prompt_messages\": [{\"role\": \"user\", \"content\": \"What is %d+%d, please?\"}], "
               "\"solution_str\": \"%s %d%s\", \"ground_truth\": \"%d\"}",
               i % 7, i % 13, how[i % 4], i % 5, i % 3 ? "</think>" : "", i % 20);
}

struct client {
    struct buf request, answer;
    long status;
};

static size_t take(char *p, size_t size, size_t n, void *arg)
{
    buf_add(arg, p, size * n);
    return size * n;
}

static CURL *easy_of(struct client *c, const char *path)
{
    char to[128];
    CURL *h = curl_easy_init();
    snprintf(to, sizeof to, "%s%s", url, path);
    curl_easy_setopt(h, CURLOPT_URL, to);
    curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)c->request.len);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->request.s);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &c->answer);
    curl_easy_setopt(h, CURLOPT_PRIVATE, c);
    curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
    return h;
}

static void run_all(struct client *c, int n)
{
    CURLM *m = curl_multi_init();
    int running = 1, left;
    for (int i = 0; i < n; i++)
        curl_multi_add_handle(m, easy_of(&c[i], "/score"));
    while (running) {
        curl_multi_perform(m, &running);
        curl_multi_poll(m, NULL, 0, 100, NULL);
        for (CURLMsg *msg; (msg = curl_multi_info_read(m, &left));) {
            struct client *of;
            CURL *h = msg->easy_handle;
            curl_easy_getinfo(h, CURLINFO_PRIVATE, (char **)&of);
            of->status = -(long)msg->data.result;
            if (msg->data.result == CURLE_OK)
                curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &of->status);
            curl_multi_remove_handle(m, h);
            curl_easy_cleanup(h);
        }
    }
    curl_multi_cleanup(m);
}

static void a_thousand_at_once(void **state)
{
    (void)state;
    struct client *c = xcalloc(CLIENTS, sizeof *c), *one = xcalloc(CLIENTS, sizeof *one);
    for (int i = 0; i < CLIENTS; i++) {
        put_request(&c[i].request, i);
        put_request(&one[i].request, i);
    }
    run_all(c, CLIENTS);
    struct serve_stats together = serve_stats(server);
    for (int i = 0; i < CLIENTS; i++) {
        CURL *h = easy_of(&one[i], "/score");
        assert_int_equal(curl_easy_perform(h), CURLE_OK);
        curl_easy_cleanup(h);
        if (c[i].status != 200)
            fail_msg("request %d: status %ld: %s", i, c[i].status, c[i].answer.s ? c[i].answer.s : "");
        assert_string_equal(c[i].answer.s, one[i].answer.s);
        buf_release(&c[i].request);
        buf_release(&c[i].answer);
        buf_release(&one[i].request);
        buf_release(&one[i].answer);
    }
    assert_int_equal(together.requests, CLIENTS);
    assert_true(together.batches < CLIENTS / 2); /* they were batched */
    free(c);
    free(one);
}

/* ---- together and one at a time ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Rows are counted, not time (serve_bench measures that). */
static void shared_prompts_are_computed_once(void **state)
{
    (void)state;
    enum { ITEMS = 32, PROMPT = 400 };
    struct reward_client *r;
    struct reward_query q[ITEMS];
    int32_t prompt[PROMPT], end = 599;
    static char gold[ITEMS][11];
    double one[ITEMS], all[ITEMS];
    assert_ok(reward_open(&r, url, &e));
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = i * 7 % 590;
    for (int i = 0; i < ITEMS; i++) {
        for (int k = 0; k < 10; k++)
            gold[i][k] = (char)('A' + (i * 5 + k * k * 3 + k * i) % 26);
        q[i] = (struct reward_query){ .prompt_ids = prompt,
                                      .n_prompt_ids = PROMPT,
                                      .solution_ids = &end,
                                      .n_solution_ids = 1,
                                      .gold = gold[i],
                                      .gold_n = 10 };
    }
    int64_t shared = PROMPT + 1, before = serve_stats(server).rows;
    for (int i = 0; i < ITEMS; i++)
        assert_ok(reward_score(r, &q[i], 1, &one[i], &e));
    int64_t alone = serve_stats(server).rows - before;
    assert_ok(reward_score(r, q, ITEMS, all, &e));
    int64_t together = serve_stats(server).rows - before - alone;
    assert_memory_equal(one, all, sizeof one);
    printf("# 32 items, 400 tokens shared: %lld rows one at a time, %lld together\n", (long long)alone,
           (long long)together);
    assert_true(together > shared && together <= shared + (alone - ITEMS * shared));
    assert_true(alone >= 5 * together);
    reward_close(r);
}

/* ---- hostile clients ---- */

static int dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)serve_port(server)) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void say(int fd, const char *s, size_t n)
{
    while (n) {
        ssize_t k = send(fd, s, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* it hung up: its right */
        s += k;
        n -= (size_t)k;
    }
}

/* The status of what comes back, 0: nothing. */
static int hear(int fd)
{
    char b[4096];
    size_t n = 0;
    for (ssize_t k; n < sizeof b - 1 && (k = recv(fd, b + n, sizeof b - 1 - n, 0)) > 0;) {
        n += (size_t)k;
        b[n] = '\0';
        if (strchr(b, '}'))
            break;
    }
    b[n] = '\0';
    return n > 12 ? (int)strtol(b + 9, NULL, 10) : 0;
}

static int post_raw(const char *path, const char *body, size_t n, const char *more)
{
    struct buf b = BUF_INIT;
    int fd = dial();
    buf_printf(&b, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n%s\r\n", path, n, more);
    buf_add(&b, body, n);
    say(fd, b.s, b.len);
    int status = hear(fd);
    close(fd);
    buf_release(&b);
    return status;
}

static void good_still_works(const char *want)
{
    struct client c = { BUF_INIT, BUF_INIT, 0 };
    put_request(&c.request, 11);
    CURL *h = easy_of(&c, "/score");
    assert_int_equal(curl_easy_perform(h), CURLE_OK);
    curl_easy_cleanup(h);
    assert_string_equal(c.answer.s, want);
    buf_release(&c.request);
    buf_release(&c.answer);
}

static void malformed_requests(void **state)
{
    (void)state;
    struct rng r = rng_stream(3, "malformed", 9, 0);
    uint64_t at = 0;
    struct buf good = BUF_INIT, batch = BUF_INIT, bad = BUF_INIT;
    struct client c = { BUF_INIT, BUF_INIT, 0 };
    int refused = 0, scored = 0, silent = 0;
    put_request(&good, 11);
    buf_printf(&batch, "{\"items\": [%s, {\"prompt_ids\": [1, 2], \"solution_ids\": [3], \"ground_truth\": 1}]}",
               good.s);
    buf_add(&c.request, good.s, good.len);
    CURL *h = easy_of(&c, "/score");
    assert_int_equal(curl_easy_perform(h), CURLE_OK);
    curl_easy_cleanup(h);
    for (int i = 0; i < 10000; i++) {
        const struct buf *from = i % 2 ? &good : &batch;
        buf_reset(&bad);
        buf_add(&bad, from->s, from->len);
        for (uint32_t k = 1 + rng_below(&r, at++, 4); k > 0; k--) { /* bytes changed, and sometimes an end cut off */
            uint32_t place = rng_below(&r, at++, (uint32_t)bad.len);
            bool any = rng_below(&r, at++, 2);
            char drawn = (char)rng_below(&r, at++, 256);
            bad.s[place] = any ? drawn : "{}[]\",:0\\"[rng_below(&r, at++, 9)];
        }
        if (i % 5 == 0)
            bad.len = rng_below(&r, at++, (uint32_t)bad.len);
        int status;
        if (i % 50 == 7) { /* leaves in the middle */
            int fd = dial();
            buf_reset(&bad);
            buf_printf(&bad, "POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%.*s", good.len,
                       (int)rng_below(&r, at++, (uint32_t)good.len), good.s);
            say(fd, bad.s, bad.len);
            close(fd);
            continue;
        } else if (i % 50 == 8) { /* does not wait for the answer */
            int fd = dial();
            buf_reset(&bad);
            buf_printf(&bad, "POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s", good.len,
                       good.s);
            say(fd, bad.s, bad.len);
            close(fd);
            continue;
        } else {
            status = post_raw(i % 2 ? "/score" : "/score_batch", bad.s, bad.len, "");
        }
        refused += status == 400;
        scored += status == 200;
        silent += status == 0;
        if (status != 400 && status != 200 && status != 0)
            fail_msg("status %d for %s", status, bad.s);
    }
    assert_true(refused > 5000 && silent == 0);
    printf("# of 10,000 changed requests %d were refused, %d were still good, the rest left early\n", refused, scored);
    good_still_works(c.answer.s);
    buf_release(&good);
    buf_release(&batch);
    buf_release(&bad);
    buf_release(&c.request);
    buf_release(&c.answer);
}

static void large_and_foreign_requests(void **state)
{
    (void)state;
    size_t n = (1 << 20) + 1;
    char *big = xmalloc(n);
    memset(big, ' ', n);
    assert_int_equal(post_raw("/score", big, n, ""), 413);
    /* a body without a length */
    int fd = dial();
    static const char head[] = "POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    say(fd, head, sizeof head - 1);
    for (int i = 0; i < 20; i++) {
        say(fd, "20000\r\n", 7);
        say(fd, big, 0x20000);
        say(fd, "\r\n", 2);
    }
    say(fd, "0\r\n\r\n", 5);
    assert_int_equal(hear(fd), 413);
    close(fd);
    free(big);
    struct buf good = BUF_INIT;
    put_request(&good, 11);
    assert_int_equal(post_raw("/score", good.s, good.len, "Origin: http://localhost:3000\r\n"), 200);
    assert_int_equal(post_raw("/score", good.s, good.len, "Origin: https://example.com\r\n"), 403);
    assert_int_equal(post_raw("/score", good.s, good.len, "Origin: http://localhost.example.com\r\n"), 403);
    assert_int_equal(post_raw("/score", good.s, good.len, "Origin: null\r\n"), 403);
    assert_int_equal(post_raw("/elsewhere", good.s, good.len, ""), 404);
    assert_int_equal(post_raw("/health", good.s, good.len, ""), 405);
    buf_release(&good);
    /* deep nesting, an unusable prompt, a prompt that is too long */
    struct buf b = BUF_INIT;
    for (int i = 0; i < 100000; i++)
        buf_putc(&b, '[');
    assert_int_equal(post_raw("/score", b.s, b.len, ""), 400);
    buf_reset(&b);
    buf_puts(&b, "{\"prompt_ids\": [], \"solution_ids\": [], \"ground_truth\": \"1\"}");
    assert_int_equal(post_raw("/score", b.s, b.len, ""), 400);
    buf_reset(&b);
    buf_puts(&b, "{\"prompt_ids\": [0");
    for (int i = 0; i < 600; i++)
        buf_puts(&b, ",0");
    buf_puts(&b, "], \"solution_str\": \"\", \"ground_truth\": \"1\"}");
    assert_int_equal(post_raw("/score", b.s, b.len, ""), 400);
    buf_release(&b);
    struct serve *no;
    struct serve_options o = { .dir = dual_dir, .device = "cpu", .host = "0.0.0.0", .max_tokens = 100, .rows = 64 };
    assert_int_equal(serve_open(&no, &o, &e), -1);
    assert_non_null(strstr(e.msg, "loopback only"));
    o.host = "127.0.0.1";
    o.port = serve_port(server);
    assert_int_equal(serve_open(&no, &o, &e), -1);
    assert_non_null(strstr(e.msg, "cannot listen"));
}

/* A byte now and then does not keep a request alive. */
static void slow_clients_are_cut_off(void **state)
{
    (void)state;
    serve_close(server);
    start_with(8, 0.5);
    int fd = dial();
    static const char head[] = "POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    say(fd, head, sizeof head - 1);
    double t0 = seconds();
    char b;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (seconds() - t0 < 10 && recv(fd, &b, 1, 0) != 0) {
        say(fd, " ", 1);
        nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    }
    assert_true(seconds() - t0 < 5);
    close(fd);
    struct reward_client *r;
    assert_ok(reward_open(&r, url, &e));
    assert_ok(reward_health(r, &e));
    reward_close(r);
}

/* ---- stopping ---- */

static void *fire(void *arg)
{
    run_all(arg, 300);
    return NULL;
}

static void stopping_under_load(void **state)
{
    (void)state;
    struct client *c = xcalloc(300, sizeof *c);
    pthread_t t;
    int scored = 0, refused = 0;
    for (int i = 0; i < 300; i++)
        put_request(&c[i].request, i);
    pthread_create(&t, NULL, fire, c);
    while (serve_stats(server).requests < 20)
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    serve_close(server);
    pthread_join(t, NULL);
    for (int i = 0; i < 300; i++) {
        scored += c[i].status == 200;
        refused += c[i].status == 503;
        if (c[i].status > 0 && c[i].status != 200 && c[i].status != 503)
            fail_msg("status %ld", c[i].status);
        buf_release(&c[i].request);
        buf_release(&c[i].answer);
    }
    assert_true(scored >= 20); /* what was computed was sent */
    printf("# stopped under load: %d scored, %d refused, %d not let in\n", scored, refused, 300 - scored - refused);
    free(c);
    start_with(8, 30);
}

/* ---- the client ---- */

static void the_client_gives_up(void **state)
{
    (void)state;
    struct reward_client *r;
    struct reward_query q = { .messages = ask, .solution = "x", .solution_n = 1, .gold = "1", .gold_n = 1 };
    double score;
    setenv("SCORER_URL", url, 1);
    setenv("SCORER_TIMEOUT", "5", 1);
    assert_ok(reward_open(&r, NULL, &e));
    assert_ok(reward_score(r, &q, 1, &score, &e));
    reward_close(r);
    setenv("SCORER_TIMEOUT", "soon", 1);
    assert_int_equal(reward_open(&r, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "SCORER_TIMEOUT is soon"));
    setenv("SCORER_TIMEOUT", "0.3", 1);
    int silent = socket(AF_INET, SOCK_STREAM, 0); /* accepts and says nothing */
    struct sockaddr_in a = { .sin_family = AF_INET };
    socklen_t n = sizeof a;
    char to[64];
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(silent, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(silent, 5), 0);
    getsockname(silent, (struct sockaddr *)&a, &n);
    snprintf(to, sizeof to, "http://127.0.0.1:%d/", ntohs(a.sin_port));
    assert_ok(reward_open(&r, to, &e));
    double t0 = seconds();
    assert_int_equal(reward_score(r, &q, 1, &score, &e), -1);
    assert_true(seconds() - t0 < 5);
    reward_close(r);
    close(silent);
    unsetenv("SCORER_TIMEOUT");
    assert_ok(reward_open(&r, to, &e)); /* nobody is there now */
    assert_int_equal(reward_health(r, &e), -1);
    reward_close(r);
    unsetenv("SCORER_URL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gold_answers_are_normalized),
        cmocka_unit_test_setup_teardown(scores_follow_the_formula, start, stop),
        cmocka_unit_test_setup_teardown(a_thousand_at_once, start, stop),
        cmocka_unit_test_setup_teardown(shared_prompts_are_computed_once, start, stop),
        cmocka_unit_test_setup_teardown(malformed_requests, start, stop),
        cmocka_unit_test_setup_teardown(large_and_foreign_requests, start, stop),
        cmocka_unit_test_setup_teardown(slow_clients_are_cut_off, start, stop),
        cmocka_unit_test_setup_teardown(stopping_under_load, start, stop),
        cmocka_unit_test_setup_teardown(the_client_gives_up, start, stop),
    };
    return cmocka_run_group_tests_name("serve", tests, make_model, NULL);
}
