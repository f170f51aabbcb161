/* peak.h - what this machine could do at most: the limit that a run's speed is a share of. */
#ifndef LATENT_TRAIN_PEAK_H
#define LATENT_TRAIN_PEAK_H

/* Floating-point operations a second of independent fused multiply-adds on `threads` threads (0: all cores), with the
 * widest vectors that there are, by processor time, so that other work on the machine hardly disturbs it. Takes about
 * 10 ms. 0: unknown (no x86, or one without fused multiply-adds). */
double peak_flops(int threads);

#endif
