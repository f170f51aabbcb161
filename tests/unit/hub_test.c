/* hub_test.c - the hub and the rows API, played by a server on the loopback: what works, what fails with which
 * sentence, and what a kill leaves behind. */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/file.h"
#include "io/hub.h"
#include "task/dataset.h"
#include "unit/test.h"

static const char commit[] = "0123456789abcdef0123456789abcdef01234567";

/* What the server does besides answering. */
static struct {
    int fail_first; /* so many requests get this status first */
    int fail_status;
    bool cut;  /* bodies end in the middle, once per range start */
    bool drip; /* bodies come slowly */
    bool no_ranges;
    bool wrong_bytes, wrong_length;
    const char *refuse; /* X-Error-Code of every answer */
    int refuse_status;
    bool pickle; /* the repository has no safetensors */
    atomic_int requests, cdn_requests, leaked_tokens, failed;
} mode;

enum { WEIGHTS = 300000 };
static unsigned char weights[WEIGHTS];
static char weights_sha[65];
static const char config_text[] = "{\"model_type\": \"qwen3\"}";
static char config_sha[41];
static int port, cdn_port;

static void hex_digest(const EVP_MD *md, const char *head, size_t nh, const void *p, size_t n, char *out)
{
    unsigned char d[64];
    unsigned len;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    EVP_DigestInit_ex(c, md, NULL);
    EVP_DigestUpdate(c, head, nh);
    EVP_DigestUpdate(c, p, n);
    EVP_DigestFinal_ex(c, d, &len);
    EVP_MD_CTX_free(c);
    for (unsigned i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", d[i]);
}

struct body {
    const unsigned char *p;
    size_t n, cut_at;
    bool drip;
};

static ssize_t read_body(void *cls, uint64_t pos, char *to, size_t max)
{
    struct body *b = cls;
    size_t n = b->n - pos < max ? b->n - pos : max;
    if (pos >= b->cut_at)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (b->drip) {
        nanosleep(&(struct timespec){ 0, 3000000 }, NULL);
        n = n < 2000 ? n : 2000;
    }
    if (n > b->cut_at - pos)
        n = b->cut_at - pos;
    memcpy(to, b->p + pos, n);
    return (ssize_t)n;
}

/* The file, or the range of it that was asked for. */
static enum MHD_Result send_bytes(struct MHD_Connection *c, const unsigned char *p, size_t n)
{
    size_t from = 0, to = n;
    const char *range = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Range");
    unsigned status = 200;
    if (range && !mode.no_ranges && n) {
        unsigned long a = 0, b = n - 1;
        sscanf(range, "bytes=%lu-%lu", &a, &b);
        from = a;
        to = b + 1 < n ? b + 1 : n;
        status = 206;
    }
    struct body *body = malloc(sizeof *body);
    *body = (struct body){ p + from, to - from, to - from, mode.drip };
    if (mode.cut && body->n > 1000 && atomic_fetch_add(&mode.failed, 1) < 6)
        body->cut_at = body->n / 2;
    struct MHD_Response *r = MHD_create_response_from_callback(body->n, 4096, read_body, body, free);
    MHD_add_response_header(r, "ETag", "\"the-store-has-its-own\"");
    enum MHD_Result rc = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return rc;
}

static enum MHD_Result send_text(struct MHD_Connection *c, unsigned status, const char *text,
                                 const char *const *headers)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)(size_t)text, MHD_RESPMEM_MUST_COPY);
    for (; headers && headers[0]; headers += 2)
        MHD_add_response_header(r, headers[0], headers[1]);
    enum MHD_Result rc = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return rc;
}

static enum MHD_Result serve_rows(struct MHD_Connection *c)
{
    const char *at = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "offset");
    long offset = at ? strtol(at, NULL, 10) : 0;
    struct buf b = BUF_INIT;
    buf_puts(&b, "{\"features\":[],\"rows\":[");
    for (long i = offset; i < offset + 100 && i < 1319; i++)
        buf_printf(&b, "%s{\"row_idx\":%ld,\"row\":{\"question\":\"q%ld\",\"answer\":\"#### %ld\"}}",
                   i > offset ? "," : "", i, i, i);
    buf_puts(&b, "],\"num_rows_total\":1319}");
    enum MHD_Result rc = send_text(c, 200, b.s, NULL);
    buf_release(&b);
    return rc;
}

static enum MHD_Result serve_list(struct MHD_Connection *c)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"sha\":\"%s\",\"siblings\":[{\"rfilename\":\"config.json\"},{\"rfilename\":\"%s\"},"
             "{\"rfilename\":\"picture.png\"},{\"rfilename\":\"original/model.safetensors\"}]}",
             commit, mode.pickle ? "pytorch_model.bin" : "model.safetensors");
    return send_text(c, 200, text, NULL);
}

static enum MHD_Result serve_file(struct MHD_Connection *c, const char *file, bool head)
{
    char etag[80], size[32], location[128];
    if (strcmp(file, "config.json") == 0) {
        snprintf(etag, sizeof etag, "\"%s\"", config_sha);
        const char *h[] = { "ETag", etag, "X-Repo-Commit", commit, NULL };
        return send_text(c, 200, config_text, h);
    }
    snprintf(etag, sizeof etag, "\"%s\"", weights_sha);
    snprintf(size, sizeof size, "%d", mode.wrong_length ? WEIGHTS + 5 : WEIGHTS);
    snprintf(location, sizeof location, "http://localhost:%d/cdn/blob", cdn_port); /* another host */
    const char *h[] = { "X-Linked-Etag", etag,       "X-Linked-Size", size, "X-Repo-Commit",
                        commit,          "Location", location,        NULL };
    (void)head;
    return send_text(c, 302, "", h);
}

static enum MHD_Result serve(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                             const char *version, const char *upload, size_t *n, void **con)
{
    (void)cls;
    (void)version;
    (void)upload;
    (void)n;
    if (!*con) {
        *con = (void *)1;
        return MHD_YES;
    }
    atomic_fetch_add(&mode.requests, 1);
    if (mode.refuse) {
        const char *h[] = { "X-Error-Code", mode.refuse, NULL };
        return send_text(c, (unsigned)mode.refuse_status, "{}", h);
    }
    if (mode.fail_first > 0) {
        mode.fail_first--;
        const char *h[] = { "Retry-After", "0", NULL };
        return send_text(c, (unsigned)mode.fail_status, "later", h);
    }
    if (strncmp(url, "/cdn/", 5) == 0) {
        atomic_fetch_add(&mode.cdn_requests, 1);
        if (MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization"))
            atomic_fetch_add(&mode.leaked_tokens, 1);
        return send_bytes(c, weights, WEIGHTS);
    }
    if (strcmp(url, "/rows") == 0)
        return serve_rows(c);
    if (strncmp(url, "/api/models/latent/tiny/revision/", 33) == 0)
        return serve_list(c);
    static const char base[] = "/latent/tiny/resolve/";
    const char *file = strncmp(url, base, sizeof base - 1) == 0 ? strchr(url + sizeof base - 1, '/') : NULL;
    if (file)
        return serve_file(c, file + 1, strcmp(method, "HEAD") == 0);
    return send_text(c, 404, "{}", NULL);
}

static struct MHD_Daemon *start_server(int *at)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL,
                                            NULL, serve, NULL, MHD_OPTION_SOCK_ADDR, &addr, MHD_OPTION_END);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT);
    *at = info->port;
    return d;
}

static struct MHD_Daemon *hub, *cdn;

static int group_setup(void **state)
{
    (void)state;
    for (int i = 0; i < WEIGHTS; i++)
        weights[i] = (unsigned char)(i * 7 + (i >> 8) * 13);
    char head[32];
    int n = snprintf(head, sizeof head, "blob %zu", sizeof config_text - 1);
    hex_digest(EVP_sha256(), "", 0, weights, WEIGHTS, weights_sha);
    hex_digest(EVP_sha1(), head, (size_t)n + 1, config_text, sizeof config_text - 1, config_sha);
    hub = start_server(&port);
    cdn = start_server(&cdn_port);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", port);
    setenv("HF_ENDPOINT", url, 1);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    setenv("HF_DATASETS_SERVER", url, 1);
    setenv("HF_TOKEN", "hf_secret", 1);
    setenv("LATENT_HTTP_WAIT_MS", "5", 1);
    setenv("LATENT_HTTP_PIECE", "65536", 1);
    setenv("LATENT_DATA", "data", 1);
    setenv("no_proxy", "*", 1);
    return hub && cdn ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    MHD_stop_daemon(hub);
    MHD_stop_daemon(cdn);
    return 0;
}

static char home[4300];

static int setup(void **state)
{
    static int turn;
    (void)state;
    memset(&mode, 0, sizeof mode);
    snprintf(home, sizeof home, "%s/home%d", test_tmpdir(), turn++);
    setenv("HF_HOME", home, 1);
    unsetenv("HF_HUB_OFFLINE");
    return 0;
}

static void check_snapshot(const char *dir)
{
    struct err e = { "" };
    struct file_map m;
    struct stat st;
    char *path = path_join(dir, "model.safetensors");
    assert_ok(file_map_open(&m, path, &e));
    assert_int_equal(m.n, WEIGHTS);
    assert_memory_equal(m.p, weights, WEIGHTS);
    file_map_close(&m);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    char link[512] = "", want[128];
    assert_true(readlink(path, link, sizeof link - 1) > 0);
    snprintf(want, sizeof want, "../../blobs/%s", weights_sha);
    assert_string_equal(link, want);
    free(path);
    path = path_join(dir, "picture.png");
    assert_false(file_exists(path)); /* only what a checkpoint needs */
    free(path);
}

static void expect_download(void)
{
    struct err e = { "" };
    char *dir = NULL;
    assert_ok(hub_model("latent/tiny", &dir, &e));
    check_snapshot(dir);
    free(dir);
}

static void expect_failure(const char *name, const char *part)
{
    struct err e = { "" };
    char *dir = NULL;
    if (hub_model(name, &dir, &e) == 0)
        fail_msg("%s: opened, want \"%s\"", name, part);
    if (!strstr(e.msg, part))
        fail_msg("%s: got \"%s\", want \"%s\"", name, e.msg, part);
}

static void downloads_and_then_uses_the_cache(void **state)
{
    (void)state;
    struct err e = { "" };
    char *dir = NULL;
    assert_int_equal(hub_cached("latent/tiny", &dir, &e), -1);
    assert_non_null(strstr(e.msg, "latent/tiny: not a folder here, and not in the cache"));
    assert_int_equal(mode.requests, 0);
    expect_download();
    assert_int_equal(mode.leaked_tokens, 0); /* the token never went to the other host */
    int before = mode.cdn_requests;
    assert_true(before >= 5); /* in pieces */
    expect_download();
    assert_int_equal(mode.cdn_requests, before);
    setenv("HF_HUB_OFFLINE", "1", 1);
    int asked = mode.requests;
    assert_ok(hub_model("latent/tiny", &dir, &e));
    assert_int_equal(mode.requests, asked); /* no word to the network */
    check_snapshot(dir);
    free(dir);
    unsetenv("HF_HUB_OFFLINE");
    assert_ok(hub_cached("latent/tiny", &dir, &e));
    assert_int_equal(mode.requests, asked);
    check_snapshot(dir);
    free(dir);
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1); /* nobody there: the cache is used, and said so */
    setenv("LATENT_HTTP_RETRIES", "0", 1);
    assert_ok(hub_model("latent/tiny", &dir, &e));
    free(dir);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    setenv("HF_ENDPOINT", url, 1);
    unsetenv("LATENT_HTTP_RETRIES");
}

static void bad_networks_are_survived(void **state)
{
    mode.fail_first = 3;
    mode.fail_status = 429;
    expect_download();
    setup(state);
    mode.fail_first = 3;
    mode.fail_status = 503;
    expect_download();
    setup(state);
    mode.cut = true;
    expect_download();
    setup(state);
    mode.drip = true;
    expect_download();
    setup(state);
    mode.no_ranges = true;
    expect_download();
}

static void refusals_say_what_to_do(void **state)
{
    mode.refuse = "GatedRepo";
    mode.refuse_status = 403;
    expect_failure("latent/tiny", "access is gated: accept its terms at");
    mode.refuse = "RepoNotFound";
    mode.refuse_status = 401;
    expect_failure("latent/tiny", "no access (401");
    mode.refuse_status = 404;
    expect_failure("latent/tiny", "no such repository");
    mode.refuse = "RevisionNotFound";
    expect_failure("latent/tiny@v9", "no revision v9");
    setup(state);
    mode.pickle = true;
    expect_failure("latent/tiny", "pickle files");
    setup(state);
    mode.wrong_length = true;
    expect_failure("latent/tiny", "the server");
    setup(state);
    weights[777] ^= 1;
    expect_failure("latent/tiny", "checksum mismatch");
    weights[777] ^= 1;
    expect_download(); /* nothing of the wrong bytes stayed */
    setup(state);
    setenv("HF_HUB_OFFLINE", "1", 1);
    expect_failure("latent/tiny", "not in the cache");
    expect_failure("no-such-folder", "no such folder, and not a name of the hub");
    setup(state);
    mode.fail_first = 1000;
    mode.fail_status = 500;
    expect_failure("latent/tiny", "answered 500");
}

static void a_kill_at_any_moment_resumes(void **state)
{
    (void)state;
    int finished = 0, killed = 0;
    srand(7);
    for (int round = 0; round < 12; round++) {
        setup(state);
        mode.drip = true;
        for (int tries = 0; tries < 40; tries++) {
            pid_t pid = fork();
            if (pid == 0) {
                struct err e = { "" };
                char *dir;
                _exit(hub_model("latent/tiny", &dir, &e) == 0 ? 0 : 1);
            }
            int status;
            nanosleep(&(struct timespec){ 0, (20 + rand() % 150) * 1000000L }, NULL);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            if (WIFEXITED(status)) {
                assert_int_equal(WEXITSTATUS(status), 0);
                finished++;
                break;
            }
            killed++;
        }
        mode.drip = false;
        expect_download();
    }
    assert_true(killed > 10);
    assert_true(finished > 0); /* pieces add up, or it would never end */
}

static void huggingface_caches_are_read(void **state)
{
    (void)state;
    struct err e = { "" };
    char cmd[9000], hubdir[4400];
    char *dir = NULL;
    snprintf(hubdir, sizeof hubdir, "%s/hub", home);
    snprintf(cmd, sizeof cmd, "mkdir -p %s && zstd -dcq tests/golden/hub/cache.tar.zst | tar -xC %s", hubdir, hubdir);
    if (system(cmd) != 0) {
        printf("# skip: no zstd or tar program to unpack the golden cache\n");
        skip();
    }
    setenv("HF_HUB_OFFLINE", "1", 1);
    assert_ok(hub_model("latent/tiny", &dir, &e));
    assert_true(path_ends_with(dir, "models--latent--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"));
    free(dir);
    expect_failure("latent/tiny@refs/pr/1", "not complete"); /* there is only its config */
}

static void rows_come_in_pages_and_are_counted(void **state)
{
    (void)state;
    struct err e = { "" };
    struct dataset d;
    char *path = NULL;
    assert_ok(dataset_open(&d, "gsm8k", "test", NULL, &e));
    assert_int_equal(d.rows, 1319);
    d.hash[0] = '\0'; /* these are not the real questions */
    assert_ok(dataset_rows(&d, &path, &e));
    struct buf b = BUF_INIT;
    assert_ok(file_read(&b, path, 0, &e));
    assert_non_null(strstr(b.s, "{\"question\":\"q1318\",\"answer\":\"#### 1318\"}\n"));
    int asked = mode.requests;
    free(path);
    assert_ok(dataset_rows(&d, &path, &e));
    assert_int_equal(mode.requests, asked);
    buf_release(&b);
    dataset_close(&d);
    assert_ok(dataset_open(&d, "gsm8k", "test", NULL, &e));
    if (*d.hash) {
        free(path);
        assert_int_equal(dataset_rows(&d, &path, &e), -1);
        assert_non_null(strstr(e.msg, "are not those of gsm8k test"));
    } else {
        free(path);
    }
    dataset_close(&d);
    assert_int_equal(dataset_open(&d, "gsm8k", "validation", NULL, &e), -1);
    assert_non_null(strstr(e.msg, "no split validation (train, test)"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(downloads_and_then_uses_the_cache, setup),
        cmocka_unit_test_setup(bad_networks_are_survived, setup),
        cmocka_unit_test_setup(refusals_say_what_to_do, setup),
        cmocka_unit_test_setup(a_kill_at_any_moment_resumes, setup),
        cmocka_unit_test_setup(huggingface_caches_are_read, setup),
        cmocka_unit_test_setup(rows_come_in_pages_and_are_counted, setup),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
