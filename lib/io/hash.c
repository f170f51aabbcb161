/* hash.c - see hash.h. */
#include "io/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/stream.h"

static struct hash128 from_xxh(XXH128_hash_t x)
{
    return (struct hash128){ x.high64, x.low64 };
}

struct hash128 hash_bytes(const void *p, size_t n)
{
    return from_xxh(XXH3_128bits(n ? p : "", n));
}

bool hash_equal(struct hash128 a, struct hash128 b)
{
    return a.hi == b.hi && a.lo == b.lo;
}

void hash_hex(struct hash128 h, char out[HASH_HEX])
{
    snprintf(out, HASH_HEX, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
}

bool hash_parse(const char *hex, struct hash128 *out)
{
    uint64_t part[2] = { 0, 0 };
    for (int i = 0; i < 32; i++) {
        char c = hex[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0)
            return false;
        part[i / 16] = part[i / 16] << 4 | (uint64_t)d;
    }
    *out = (struct hash128){ part[0], part[1] };
    return hex[32] == '\0';
}

struct hasher {
    XXH3_state_t *state;
};

struct hasher *hasher_new(void)
{
    struct hasher *h = xmalloc(sizeof *h);
    h->state = XXH3_createState();
    if (!h->state)
        abort();
    hasher_reset(h);
    return h;
}

void hasher_reset(struct hasher *h)
{
    XXH3_128bits_reset(h->state);
}

void hasher_add(struct hasher *h, const void *p, size_t n)
{
    if (n)
        XXH3_128bits_update(h->state, p, n);
}

struct hash128 hasher_get(const struct hasher *h)
{
    return from_xxh(XXH3_128bits_digest(h->state));
}

void hasher_free(struct hasher *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

/* ---- files ---- */

int hash_file_fresh(const char *path, bool content, struct hash128 *out, struct err *e)
{
    if (file_is_pipe(path))
        return err_set(e, "%s: is a pipe, and this has to be read twice: use a file", path);
    struct hasher *h = hasher_new();
    int rc = -1;
    if (content) {
        struct in_stream *in;
        if (in_open(&in, path, e) == 0) {
            const char *p;
            size_t n;
            while ((rc = in_chunk(in, &p, &n, e)) > 0)
                hasher_add(h, p, n);
            in_close(in);
        }
    } else {
        struct file_map m;
        if (file_map_open(&m, path, e) == 0) {
            hasher_add(h, m.p, m.n);
            file_map_close(&m);
            rc = 0;
        }
    }
    if (rc == 0)
        *out = hasher_get(h);
    hasher_free(h);
    return rc;
}

/* Name of the cache entry for this file as it stands now; NULL without a cache. */
static char *cache_entry(const char *path, bool content)
{
    struct stat st;
    const char *off = getenv("LATENT_HASH_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if ((off && strcmp(off, "off") == 0) || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return NULL;
    struct buf b = BUF_INIT;
    if (xdg && *xdg)
        buf_printf(&b, "%s/latent/hashes", xdg);
    else if (home && *home)
        buf_printf(&b, "%s/.cache/latent/hashes", home);
    else
        return NULL;
    struct err ignore;
    if (file_mkdirs(b.s, &ignore) < 0) {
        buf_release(&b);
        return NULL;
    }
    buf_printf(&b, "/%llx-%llx-%llx-%llx.%09ld%s", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
               (unsigned long long)st.st_size, (unsigned long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
               content ? "" : "-raw");
    return buf_take(&b);
}

void hash_remember(const char *path, bool content, struct hash128 h)
{
    char *entry = cache_entry(path, content);
    if (!entry)
        return;
    /* Not file_write_atomic: a cache need not wait for the disk. A torn entry is no hash and is not believed. */
    char hex[HASH_HEX];
    struct buf tmp = BUF_INIT;
    hash_hex(h, hex);
    buf_printf(&tmp, "%s.%ld", entry, (long)getpid());
    FILE *f = fopen(tmp.s, "we");
    bool whole = f && fwrite(hex, 1, HASH_HEX - 1, f) == HASH_HEX - 1;
    if (f && fclose(f) != 0)
        whole = false;
    if (!whole || rename(tmp.s, entry) < 0)
        unlink(tmp.s);
    buf_release(&tmp);
    free(entry);
}

int hash_file(const char *path, bool content, struct hash128 *out, struct err *e)
{
    char *entry = cache_entry(path, content);
    struct buf b = BUF_INIT;
    struct err ignore;
    bool known = entry && file_exists(entry) && file_read(&b, entry, 64, &ignore) == 0 && b.len == HASH_HEX - 1 &&
                 hash_parse(b.s, out);
    buf_release(&b);
    free(entry);
    if (known)
        return 0;
    if (hash_file_fresh(path, content, out, e) < 0)
        return -1;
    hash_remember(path, content, *out);
    return 0;
}

struct hash_known {
    struct stat st;
    struct hash128 h;
};

static bool same_state(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           memcmp(&a->st_mtim, &b->st_mtim, sizeof a->st_mtim) == 0 &&
           memcmp(&a->st_ctim, &b->st_ctim, sizeof a->st_ctim) == 0;
}

int hash_file_once(struct hash_memo *m, const char *path, struct hash128 *out, struct err *e)
{
    struct stat st;
    if (!m || stat(path, &st) < 0)
        return hash_file_fresh(path, false, out, e);
    for (size_t i = 0; i < m->n; i++)
        if (same_state(&m->v[i].st, &st)) {
            *out = m->v[i].h;
            return 0;
        }
    if (hash_file_fresh(path, false, out, e) < 0)
        return -1;
    m->v = xreallocarray(m->v, m->n + 1, sizeof *m->v);
    m->v[m->n++] = (struct hash_known){ st, *out };
    return 0;
}

void hash_memo_release(struct hash_memo *m)
{
    free(m->v);
    *m = (struct hash_memo){ NULL, 0 };
}
