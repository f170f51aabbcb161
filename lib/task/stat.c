/* stat.c - see stat.h. */
#include "task/stat.h"

#include <math.h>
#include <stdlib.h>

static const double z975 = 1.959963984540054;

struct interval stat_wilson(int64_t k, int64_t n)
{
    if (n == 0)
        return (struct interval){ 0, 1 };
    double p = (double)k / (double)n, z2 = z975 * z975, d = 1 + z2 / (double)n;
    double mid = (p + z2 / (2 * (double)n)) / d;
    double half = z975 / d * sqrt(p * (1 - p) / (double)n + z2 / (4 * (double)n * (double)n));
    return (struct interval){ k == 0 ? 0 : mid - half, k == n ? 1 : mid + half };
}

double stat_mean(const double *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    return n ? sum / (double)n : NAN;
}

/* Tabulated up to 3 degrees of freedom, then the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), whose error
 * is below 0.002 there. */
double stat_t975(int64_t df)
{
    if (df < 1)
        return NAN;
    if (df <= 3)
        return (const double[]){ 12.706204736174694, 4.302652729749462, 3.182446305284263 }[df - 1];
    double z = z975, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z, z9 = z7 * z * z, n = (double)df;
    double g1 = (z3 + z) / 4, g2 = (5 * z5 + 16 * z3 + 3 * z) / 96;
    double g3 = (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / 384;
    double g4 = (79 * z9 + 776 * z7 + 1482 * z5 - 1920 * z3 - 945 * z) / 92160;
    return z + g1 / n + g2 / (n * n) + g3 / (n * n * n) + g4 / (n * n * n * n);
}

struct interval stat_student(const double *v, size_t n)
{
    if (n < 2)
        return (struct interval){ NAN, NAN };
    double mean = stat_mean(v, n), ss = 0;
    for (size_t i = 0; i < n; i++)
        ss += (v[i] - mean) * (v[i] - mean);
    double half = stat_t975((int64_t)n - 1) * sqrt(ss / (double)(n - 1) / (double)n);
    return (struct interval){ mean - half, mean + half };
}

/* Correlation of the two verdicts with Newcombe's continuity correction. */
static double newcombe_phi(double a, double b, double c, double d, double n)
{
    double scale = (a + b) * (c + d) * (a + c) * (b + d), x = a * d - b * c;
    if (scale == 0)
        return 0;
    if (x > 0)
        x = x > n / 2 ? x - n / 2 : 0;
    return x / sqrt(scale);
}

struct interval stat_newcombe(int64_t both, int64_t first, int64_t second, int64_t neither)
{
    int64_t n = both + first + second + neither;
    if (n == 0)
        return (struct interval){ NAN, NAN };
    double p1 = (double)(both + first) / (double)n, p2 = (double)(both + second) / (double)n;
    struct interval i1 = stat_wilson(both + first, n), i2 = stat_wilson(both + second, n);
    double phi = newcombe_phi((double)both, (double)first, (double)second, (double)neither, (double)n);
    double dl1 = p1 - i1.lo, du1 = i1.hi - p1, dl2 = p2 - i2.lo, du2 = i2.hi - p2, diff = p2 - p1;
    double down = sqrt(fmax(0, dl2 * dl2 - 2 * phi * dl2 * du1 + du1 * du1));
    double up = sqrt(fmax(0, du2 * du2 - 2 * phi * du2 * dl1 + dl1 * dl1));
    return (struct interval){ fmax(-1, diff - down), fmin(1, diff + up) };
}

double stat_percentile(const double *sorted, size_t n, double p)
{
    if (n == 0)
        return NAN;
    double at = p / 100 * (double)(n - 1), low = floor(at);
    size_t i = (size_t)low;
    return i + 1 < n ? sorted[i] + (at - low) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void stat_sort(double *v, size_t n)
{
    if (n)
        qsort(v, n, sizeof *v, compare);
}

double stat_pass_at_k(int64_t n, int64_t c, int64_t k)
{
    double miss = 1;
    for (int64_t i = n - c + 1; i <= n; i++)
        miss *= 1 - (double)k / (double)i;
    return n - c < k ? 1 : 1 - miss;
}
