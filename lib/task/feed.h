/* feed.h - questions of a set, fetched by the dataset program, for programs that are started without any. */
#ifndef LATENT_FEED_H
#define LATENT_FEED_H

struct err;

/* Runs the program `dataset NAME --split SPLIT` that lies beside the running one, its output in a temporary file (and
 * its manifest in the run log, as for any pipe). Caller unlinks and frees the path; NULL: it failed. */
char *feed_dataset(const char *name, const char *split, struct err *e);

#endif
