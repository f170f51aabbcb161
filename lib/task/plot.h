/* plot.h - pictures, drawn by the gnuplot program. */
#ifndef LATENT_PLOT_H
#define LATENT_PLOT_H

#include <stdbool.h>

struct buf;
struct err;

/* Runs the script (data blocks, labels, one plot command) and appends the picture's bytes, SVG or PNG, to out. */
int plot_draw(const struct buf *script, bool svg, struct buf *out, struct err *e);

void plot_quote(struct buf *script, const char *s); /* a text in double quotes */

#endif
