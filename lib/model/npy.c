/* npy.c - NumPy's array files, the one kind we need: float32, C order, two dimensions. See dualize.h.
 * "\x93NUMPY", version (2 bytes), length of the header (2 bytes in version 1, else 4), then a Python dict:
 * {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } padded with blanks, then the values. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/dualize.h"

/* What stands behind 'KEY': in the dict, or NULL. */
static const char *value_of(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    at = at ? strchr(at, ':') : NULL;
    return at ? at + 1 + strspn(at + 1, " ") : NULL;
}

static bool read_shape(const char *s, struct npy *a)
{
    char *end;
    if (!s || *s != '(' || s[1] < '0' || s[1] > '9')
        return false;
    a->rows = strtoll(s + 1, &end, 10);
    if (*end != ',' || end[1 + strspn(end + 1, " ")] < '0' || end[1 + strspn(end + 1, " ")] > '9')
        return false;
    a->cols = strtoll(end + 1, &end, 10);
    return *end == ')' && a->rows > 0 && a->cols > 0 && a->rows < 1 << 30 && a->cols < 1 << 30;
}

static int read_header(struct npy *a, const struct file_map *m, const char *path, struct err *e)
{
    const unsigned char *p = (const unsigned char *)m->p;
    if (m->n < 12 || memcmp(p, "\x93NUMPY", 6) != 0)
        return err_set(e, "%s: is no .npy file", path);
    size_t at = p[6] == 1 ? 10 : 12, n = p[8] | (size_t)p[9] << 8;
    if (p[6] > 1)
        n |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (n > m->n - at)
        return err_set(e, "%s: its header ends behind the file", path);
    char *header = xstrndup(m->p + at, n);
    const char *type = value_of(header, "'descr'"), *order = value_of(header, "'fortran_order'");
    int rc = 0;
    if (!type || strncmp(type, "'<f4'", 5) != 0)
        rc = err_set(e, "%s: its values are not float32 ('<f4'): %.100s", path, header);
    else if (!order || strncmp(order, "False", 5) != 0)
        rc = err_set(e, "%s: it is not in C order", path);
    else if (!read_shape(value_of(header, "'shape'"), a))
        rc = err_set(e, "%s: it does not have two dimensions: %.100s", path, header);
    else if ((uint64_t)a->rows * (uint64_t)a->cols * 4 != m->n - at - n)
        rc = err_set(e, "%s: [%" PRId64 ", %" PRId64 "] float32 do not fill the file's %zu bytes", path, a->rows,
                     a->cols, m->n - at - n);
    a->data = m->p + at + n;
    free(header);
    return rc;
}

int npy_open(struct npy *a, const char *path, struct err *e)
{
    struct file_map *m = xcalloc(1, sizeof *m);
    *a = (struct npy){ .map = m };
    if (file_map_open(m, path, e) < 0 || read_header(a, m, path, e) < 0) {
        npy_close(a);
        return -1;
    }
    return 0;
}

void npy_close(struct npy *a)
{
    if (a->map)
        file_map_close(a->map);
    free(a->map);
    *a = (struct npy){ NULL, 0, 0, NULL };
}
