/* peak.h - what this machine could do at most: the limit that a speed is a share of. */
#ifndef LATENT_TRAIN_PEAK_H
#define LATENT_TRAIN_PEAK_H

/* Floating-point operations a second of independent fused multiply-adds on `threads` threads together (0: all cores),
 * in vectors of `width` floats (8, 16; 0: the widest there are). By the processor time of each thread, so that other
 * work on the machine hardly disturbs it. Takes some 20 ms. 0: unknown (no x86, or one without fused multiply-adds). */
double peak_flops(int threads, int width);

#endif
