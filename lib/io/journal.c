/* journal.c - see journal.h. */
#include "io/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

struct header {
    char magic[8];
    struct hash128 key;
};

struct entry_head {
    uint64_t unit;
    struct hash128 input;
    uint64_t len;
};

struct slot { /* where a unit lies; offset 0: nowhere */
    uint64_t offset, len;
    struct hash128 input;
};

struct journal {
    char *path;
    int fd;
    uint64_t end; /* length of the valid part; 0: not ours yet */
    struct slot *slot;
    uint64_t cap;
};

static const char magic[8] = "LATJRNL1";

static void note(struct journal *j, const struct entry_head *h, uint64_t offset)
{
    if (h->unit >= j->cap) {
        uint64_t cap = j->cap ? j->cap : 1024;
        while (cap <= h->unit)
            cap *= 2;
        j->slot = xreallocarray(j->slot, cap, sizeof *j->slot);
        memset(j->slot + j->cap, 0, (cap - j->cap) * sizeof *j->slot);
        j->cap = cap;
    }
    j->slot[h->unit] = (struct slot){ offset, h->len, h->input };
}

/* Notes every whole entry; returns where the valid part ends. */
static uint64_t scan(struct journal *j, const char *p, uint64_t n)
{
    uint64_t at = sizeof(struct header);
    struct entry_head h;
    while (n - at >= sizeof h + sizeof(uint64_t)) {
        memcpy(&h, p + at, sizeof h);
        if (h.len > n - at - sizeof h - sizeof(uint64_t) || h.unit > (uint64_t)1 << 40)
            break;
        uint64_t sum, want = XXH3_64bits(p + at, sizeof h + h.len);
        memcpy(&sum, p + at + sizeof h + h.len, sizeof sum);
        if (sum != want)
            break;
        note(j, &h, at + sizeof h);
        at += sizeof h + h.len + sizeof sum;
    }
    return at;
}

static int load(struct journal *j, struct hash128 key, struct err *e)
{
    struct stat st;
    if (fstat(j->fd, &st) < 0)
        return err_errno(e, "%s: cannot stat", j->path);
    struct header head = { .key = key };
    memcpy(head.magic, magic, sizeof magic);
    struct file_map m = { NULL, 0 };
    if (st.st_size > 0 && file_map_open(&m, j->path, e) < 0)
        return -1;
    if (m.n >= sizeof head && memcmp(m.p, &head, sizeof head) == 0)
        j->end = scan(j, m.p, m.n);
    file_map_close(&m);
    if (j->end == 0) {
        j->end = sizeof head;
        if (pwrite(j->fd, &head, sizeof head, 0) != (ssize_t)sizeof head)
            return err_errno(e, "%s: cannot write", j->path);
    }
    if (ftruncate(j->fd, (off_t)j->end) < 0)
        return err_errno(e, "%s: cannot write", j->path);
    return 0;
}

/* Opens and locks. A process that ends removes its journal: what was opened just before has no name any more. */
static int take(struct journal *j, struct err *e)
{
    struct stat mine, named;
    for (;;) {
        j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (j->fd < 0)
            return err_errno(e, "%s: cannot create", j->path);
        if (flock(j->fd, LOCK_EX | LOCK_NB) < 0)
            return err_set(e, "%s: another process is making this output; wait for it or stop it", j->path);
        if (fstat(j->fd, &mine) < 0)
            return err_errno(e, "%s: cannot stat", j->path);
        if (stat(j->path, &named) == 0 && mine.st_ino == named.st_ino && mine.st_dev == named.st_dev)
            return 0;
        close(j->fd);
    }
}

int journal_open(struct journal **out, const char *path, struct hash128 key, struct err *e)
{
    struct journal *j = xcalloc(1, sizeof *j);
    j->path = xstrdup(path);
    if (take(j, e) == 0 && load(j, key, e) == 0) {
        *out = j;
        return 0;
    }
    journal_close(j, false);
    return -1;
}

void journal_close(struct journal *j, bool remove)
{
    if (!j)
        return;
    if (remove || j->end == sizeof(struct header)) /* a journal without entries is of use to nobody */
        unlink(j->path);
    if (j->fd >= 0)
        close(j->fd);
    free(j->slot);
    free(j->path);
    free(j);
}

bool journal_has(const struct journal *j, uint64_t unit, struct hash128 input)
{
    return unit < j->cap && j->slot[unit].offset && hash_equal(j->slot[unit].input, input);
}

int journal_add(struct journal *j, uint64_t unit, struct hash128 input, const void *bytes, size_t n, struct err *e)
{
    struct entry_head h = { unit, input, n };
    struct buf b = BUF_INIT;
    buf_add(&b, &h, sizeof h);
    buf_add(&b, bytes, n);
    uint64_t sum = XXH3_64bits(b.s, b.len);
    buf_add(&b, &sum, sizeof sum);
    size_t done = 0;
    while (done < b.len) {
        ssize_t put = pwrite(j->fd, b.s + done, b.len - done, (off_t)(j->end + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            buf_release(&b);
            return err_errno(e, "%s: cannot write", j->path);
        }
        done += (size_t)put;
    }
    note(j, &h, j->end + sizeof h);
    j->end += b.len;
    buf_release(&b);
    return 0;
}

int journal_get(const struct journal *j, uint64_t unit, struct buf *out, struct err *e)
{
    const struct slot *s = &j->slot[unit];
    char *to = buf_grow(out, s->len);
    uint64_t done = 0;
    while (done < s->len) {
        ssize_t got = pread(j->fd, to + done, s->len - done, (off_t)(s->offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_errno(e, "%s: cannot read", j->path);
        done += (uint64_t)got;
    }
    out->len += s->len;
    out->s[out->len] = '\0';
    return 0;
}

int journal_check(const char *path, struct buf *problems)
{
    struct journal j = { .fd = open(path, O_RDONLY | O_CLOEXEC) };
    struct file_map m = { NULL, 0 };
    struct err e = { "" };
    int bad = 0;
    if (j.fd >= 0 && flock(j.fd, LOCK_SH | LOCK_NB) < 0) {
        close(j.fd);
        return 0;
    }
    if (file_map_open(&m, path, &e) < 0) {
        buf_printf(problems, "%s\n", e.msg);
        bad = 1;
    } else if (m.n < sizeof(struct header) || memcmp(m.p, magic, sizeof magic) != 0) {
        buf_printf(problems, "%s: is no journal\n", path);
        bad = 1;
    } else {
        uint64_t end = scan(&j, m.p, m.n);
        if (end != m.n) {
            buf_printf(problems,
                       "%s: the entry at byte %llu of %zu is damaged or cut off: it and what is behind will be made "
                       "again\n",
                       path, (unsigned long long)end, m.n);
            bad = 1;
        }
    }
    file_map_close(&m);
    if (j.fd >= 0)
        close(j.fd);
    free(j.slot);
    return bad;
}
