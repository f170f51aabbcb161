/* table.h - cells of text in columns, for people: plain or Markdown.
 *
 *     struct table t;
 *     table_open(&t, columns, n);
 *     table_row(&t);                       // then fill each cell; nothing in it: no value
 *     buf_printf(table_cell(&t, 0), "%g", x);
 *     table_text(&t, &out);                // or table_markdown
 *     table_close(&t);
 *
 * A column in which no row has a value is left out; a cell without one shows "-". */
#ifndef LATENT_TABLE_H
#define LATENT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct buf;

struct table_column {
    const char *head;
    bool left; /* aligned; numbers are aligned at the right */
};

struct table {
    const struct table_column *column; /* borrowed */
    size_t columns, rows;
    struct buf *cell; /* row by row */
};

void table_open(struct table *t, const struct table_column *column, size_t columns);
void table_row(struct table *t);
struct buf *table_cell(struct table *t, size_t column); /* of the last row */
void table_text(const struct table *t, struct buf *out);
void table_markdown(const struct table *t, struct buf *out);
void table_close(struct table *t);

/* A number that is not known (NaN) leaves the cell empty. */
void table_real(struct table *t, size_t column, const char *fmt, double v) __attribute__((format(printf, 3, 0)));

#endif
