/* rope.c - see rope.h. Powers, cosines and sines are taken in double and rounded once: as close as can be to what torch
 * gives in fp32, and the same on every machine. Everything between is fp32, in transformers' order. */
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

static const double PI = 3.14159265358979323846;

void model_rope_free(struct model_rope *r)
{
    if (!r)
        return;
    free(r->lists[0]);
    free(r->lists[1]);
    free(r);
}

/* theta^(2j/dim) */
static float power(const struct model_config *c, int j)
{
    float exponent = (float)(2 * j) / (float)c->rotary;
    return (float)pow((double)(float)c->rope_theta, (double)exponent);
}

static float llama3(const struct model_rope *r, float inv)
{
    float old = (float)r->original, factor = (float)r->factor, low = (float)r->low, high = (float)r->high;
    float wavelength = (float)(2 * PI) / inv;
    if (wavelength < (float)(r->original / r->high))
        return inv;
    if (wavelength > (float)(r->original / r->low))
        return inv / factor;
    float smooth = (old / wavelength - low) / (high - low);
    return (1 - smooth) * inv / factor + smooth * inv;
}

/* Dimension whose wavelength makes `turns` turns over the original context. */
static double yarn_dim(const struct model_config *c, double turns)
{
    return c->rotary * log(c->rope->original / (turns * 2 * PI)) / (2 * log(c->rope_theta));
}

static float yarn(const struct model_config *c, int j)
{
    const struct model_rope *r = c->rope;
    double low = fmax(floor(yarn_dim(c, r->fast)), 0), high = fmin(ceil(yarn_dim(c, r->slow)), c->rotary - 1);
    if (low == high)
        high += 0.001;
    float ramp = ((float)j - (float)low) / (float)(high - low);
    float keep = 1 - fminf(fmaxf(ramp, 0), 1);
    float p = power(c, j), extrapolated = 1 / p, interpolated = 1 / ((float)r->factor * p);
    return interpolated * (1 - keep) + extrapolated * keep;
}

static double attention_factor(const struct model_config *c)
{
    const struct model_rope *r = c->rope;
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->kind == ROPE_YARN)
        return r->factor > 1 ? 0.1 * log(r->factor) + 1 : 1;
    if (r->kind == ROPE_LONGROPE)
        return r->factor > 1 ? sqrt(1 + log(r->factor) / log(r->original)) : 1;
    return 1;
}

void model_rope_frequencies(const struct model_config *c, int list, float *inv, float *scale)
{
    const struct model_rope *r = c->rope;
    for (int j = 0; j < c->rotary / 2; j++) {
        inv[j] = 1 / power(c, j);
        if (r->kind == ROPE_LINEAR)
            inv[j] /= (float)r->factor;
        else if (r->kind == ROPE_LLAMA3)
            inv[j] = llama3(r, inv[j]);
        else if (r->kind == ROPE_YARN)
            inv[j] = yarn(c, j);
        else if (r->kind == ROPE_LONGROPE)
            inv[j] = 1 / ((float)r->lists[list][j] * power(c, j));
    }
    *scale = (float)attention_factor(c);
}

void model_rope_rows(const struct model_config *c, int list, int64_t from, int64_t to, float *cosines, float *sines)
{
    int half = c->rotary / 2;
    float *inv = xcalloc((size_t)half + 1, sizeof *inv), scale;
    model_rope_frequencies(c, list, inv, &scale);
    for (int64_t p = from; p < to; p++)
        for (int j = 0; j < half; j++) {
            float angle = (float)p * inv[j];
            *cosines++ = (float)cos((double)angle) * scale;
            *sines++ = (float)sin((double)angle) * scale;
        }
    free(inv);
}
