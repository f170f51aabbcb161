/* template_call.h - what methods, functions and tests (template_call.c) and filters (template_filter.c) share. int: 0,
 * or -1 with the error set. */
#ifndef LATENT_TEXT_TEMPLATE_CALL_H
#define LATENT_TEXT_TEMPLATE_CALL_H

#include "text/template_value.h"

/* The argument of this name, else of this place; NULL: not given. Wanted kinds: `who` is for the error. */
const struct val *call_arg(const struct args *a, size_t at, const char *name);
int want_str(struct render *r, const char *who, const struct val *v, struct str *out);
int want_int(struct render *r, const char *who, const struct val *v, int64_t absent, int64_t *out);

struct val val_of_str(const char *s, size_t n);                           /* borrows */
int val_of_buf(struct render *r, struct buf *b, int rc, struct val *out); /* takes b; rc: of who filled it */
int64_t val_whole(const struct val *v);                                   /* NULL, and what is no number: 0 */
bool val_is_number(struct val v);

/* Texts, as Python's str has it. set NULL: white space. max < 0: all. */
enum { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP };
int text_of(struct render *r, struct val v, struct str *out); /* itself, or str() of it */
struct str text_strip(struct str s, const struct str *set, bool left, bool right);
int text_case(struct render *r, struct str s, int how, struct val *out);
int text_replace(struct render *r, struct str s, struct str from, struct str to, int64_t max, struct val *out);
int text_join(struct render *r, struct val list, struct str by, const struct val *attribute, struct val *out);
int64_t text_count(struct str s, struct str what);

int dict_items(struct render *r, const struct vdict *d, struct val *out);
int run_test(struct render *r, int which, struct val v, const struct args *a, bool *out); /* which: test_index() */

#endif
