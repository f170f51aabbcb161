/* table.c - see table.h. */
#include "task/table.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

void table_open(struct table *t, const struct table_column *column, size_t columns)
{
    *t = (struct table){ column, columns, 0, NULL };
}

void table_row(struct table *t)
{
    t->cell = xreallocarray(t->cell, (t->rows + 1) * t->columns, sizeof *t->cell);
    for (size_t c = 0; c < t->columns; c++)
        t->cell[t->rows * t->columns + c] = (struct buf)BUF_INIT;
    t->rows++;
}

struct buf *table_cell(struct table *t, size_t column)
{
    return &t->cell[(t->rows - 1) * t->columns + column];
}

void table_real(struct table *t, size_t column, const char *fmt, double v)
{
    if (!isnan(v))
        buf_printf(table_cell(t, column), fmt, v);
}

void table_close(struct table *t)
{
    for (size_t i = 0; i < t->rows * t->columns; i++)
        buf_release(&t->cell[i]);
    free(t->cell);
    *t = (struct table){ NULL, 0, 0, NULL };
}

/* Row r of the table, or with r = rows the heads. */
static const char *text_of(const struct table *t, size_t r, size_t c)
{
    if (r == t->rows)
        return t->column[c].head;
    const struct buf *b = &t->cell[r * t->columns + c];
    return b->len ? b->s : "-";
}

/* Characters, not bytes: labels are paths and may hold any. */
static int text_width(const char *s)
{
    int w = 0;
    for (; *s; s++)
        w += ((unsigned char)*s & 0xc0) != 0x80;
    return w;
}

/* 0: left out. */
static int column_width(const struct table *t, size_t c)
{
    int width = 0;
    bool any = false;
    for (size_t r = 0; r <= t->rows; r++) {
        int w = text_width(text_of(t, r, c));
        width = w > width ? w : width;
        any |= r < t->rows && t->cell[r * t->columns + c].len > 0;
    }
    return any ? width : 0;
}

static void put_row(const struct table *t, size_t r, const int *width, bool markdown, struct buf *out)
{
    const char *between = markdown ? "| " : "";
    for (size_t c = 0; c < t->columns; c++) {
        if (!width[c])
            continue;
        const char *s = text_of(t, r, c);
        int pad = width[c] - text_width(s);
        bool left = t->column[c].left;
        buf_printf(out, "%s%*s%s%*s", between, left ? 0 : pad, "", s, left ? pad : 0, "");
        between = markdown ? " | " : "  ";
    }
    if (markdown)
        buf_puts(out, " |");
    while (out->len && out->s[out->len - 1] == ' ')
        out->s[--out->len] = '\0';
    buf_putc(out, '\n');
}

static void put_rule(const struct table *t, const int *width, struct buf *out)
{
    for (size_t c = 0; c < t->columns; c++) {
        if (!width[c])
            continue;
        buf_puts(out, t->column[c].left ? "| :" : "| ");
        for (int i = 1; i < width[c]; i++)
            buf_putc(out, '-');
        buf_puts(out, t->column[c].left ? " " : ": ");
    }
    buf_puts(out, "|\n");
}

static void put_table(const struct table *t, bool markdown, struct buf *out)
{
    int *width = xcalloc(t->columns + 1, sizeof *width);
    for (size_t c = 0; c < t->columns; c++)
        width[c] = column_width(t, c);
    put_row(t, t->rows, width, markdown, out);
    if (markdown)
        put_rule(t, width, out);
    for (size_t r = 0; r < t->rows; r++)
        put_row(t, r, width, markdown, out);
    free(width);
}

void table_text(const struct table *t, struct buf *out)
{
    put_table(t, false, out);
}

void table_markdown(const struct table *t, struct buf *out)
{
    put_table(t, true, out);
}
