/* think.h - a generated text taken apart: what was thought, what was said, and where the answer stands.
 *
 * Everything here is a span of the caller's text, borrowed, nothing is copied. */
#ifndef LATENT_THINK_H
#define LATENT_THINK_H

#include <stdbool.h>
#include <stddef.h>

struct view {
    const char *s; /* NULL: there is none (not the same as an empty one) */
    size_t n;
};

/* Without white space at both ends; white space as Python's str.strip() sees it (Unicode's). */
struct view view_trim(const char *s, size_t n);

/* Byte offset of the first (last) needle in s[0..n), or -1. ASCII case is ignored by view_find_nocase. */
long view_find(const char *s, size_t n, const char *needle);
long view_find_last(const char *s, size_t n, const char *needle);
long view_find_nocase(const char *s, size_t n, const char *needle);

/* One response: thinking block and the rest, both trimmed.
 *   1. <think>R</think>V     the shortest such block; what stood before it is dropped
 *   2. R</think>V            the prompt had opened the block
 *   3. V                     no block: visible is the whole text, and reasoning is the text up to the sentence that
 *                            announces the answer ("The final answer is:", "The answer is"), whole if there is none,
 *                            and absent when empty
 * closed says that a </think> was found (cases 1 and 2). */
struct think {
    struct view reasoning, visible;
    bool closed;
};
struct think think_split(const char *s, size_t n);

/* The same where it is known which bytes [end, end + end_n) are the </think>, whatever else looks like one. */
struct think think_split_at(const char *s, size_t n, size_t end, size_t end_n);

/* The same where it is known that all of it was thought and nothing said. */
struct think think_only(const char *s, size_t n);

/* The block as eval's length counts it: everything before the first </think>, not trimmed; .s is NULL without one. */
struct view think_before_end(const char *s, size_t n);

/* Where the answer lies in a rendered conversation, as byte ranges [begin, end):
 *   answer    the answer_bytes bytes behind the last \boxed{
 *   boxed     from that \boxed{ to behind its closing brace
 *   post_cot  from the last </think> to two bytes behind the answer (the brace and a dollar)
 * false when the text has no \boxed{ or no </think>, or ends too early. */
struct range {
    size_t begin, end;
};
struct answer_regions {
    struct range answer, boxed, post_cot;
};
bool think_answer_regions(const char *s, size_t n, size_t answer_bytes, struct answer_regions *out);

#endif
