/* stat.h - the few statistics that a table of results needs. All intervals are 95 %. */
#ifndef LATENT_STAT_H
#define LATENT_STAT_H

#include <stddef.h>
#include <stdint.h>

struct interval {
    double lo, hi;
};

/* Wilson's score interval of the proportion k / n (n = 0: 0 to 1). */
struct interval stat_wilson(int64_t k, int64_t n);

/* Mean, and Student's interval of it; n = 1 has none (both ends NaN). */
double stat_mean(const double *v, size_t n);
struct interval stat_student(const double *v, size_t n);
double stat_t975(int64_t df); /* the 97.5 % point of Student's distribution */

/* Difference p2 - p1 of two paired proportions: Newcombe 1998, method 10. Counts of pairs that are right in both, in
 * the first only, in the second only, in neither. */
struct interval stat_newcombe(int64_t both, int64_t first, int64_t second, int64_t neither);

/* Percentile p (0..100) of sorted values, linear between neighbours as numpy's default; NaN when n = 0. */
double stat_percentile(const double *sorted, size_t n, double p);
void stat_sort(double *v, size_t n);

/* Chance that at least one of k samples is right, estimated from n >= k samples of which c are (Chen et al. 2021):
 * 1 - C(n - c, k) / C(n, k). */
double stat_pass_at_k(int64_t n, int64_t c, int64_t k);

#endif
