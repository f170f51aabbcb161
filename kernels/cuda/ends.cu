/* ends.cu - log-probabilities: one block a row, sums in double in a fixed order. */
#include "kernels/cuda/ops.h"

enum { END_THREADS = 256 };

static __global__ void __launch_bounds__(END_THREADS)
    logprobs_rows(float *logprob, float *entropy, int32_t *best, const float *logits, const int32_t *target, int vocab)
{
    SHARED(float, most, END_THREADS / WARP_LANES);
    SHARED(int, least, END_THREADS / WARP_LANES);
    SHARED(double, sums, END_THREADS / WARP_LANES);
    int row = static_cast<int>(blockIdx.x), top = 0;
    const float *x = logits + static_cast<int64_t>(row) * vocab;
    float mine = -INFINITY;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += END_THREADS)
        if (x[i] > mine) {
            mine = x[i];
            top = i;
        }
    float max = block_max(mine, most);
    top = block_min(mine == max && max > -INFINITY ? top : 0x7fffffff, least);
    double sum = 0, weighted = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += END_THREADS) {
        float z = x[i] - max, w = expf(z);
        sum += static_cast<double>(w);
        if (w != 0) /* not 0 times -infinity; a NaN goes through */
            weighted += static_cast<double>(w) * static_cast<double>(z);
    }
    sum = block_sum(sum, sums);
    weighted = block_sum(weighted, sums);
    if (threadIdx.x != 0)
        return;
    double log_sum = log(sum);
    int id = target[row];
    logprob[row] = id < 0 ? NAN : static_cast<float>(static_cast<double>(x[id]) - static_cast<double>(max) - log_sum);
    if (entropy)
        entropy[row] = static_cast<float>(log_sum - weighted / sum);
    if (best)
        best[row] = top == 0x7fffffff ? 0 : top;
}

void op_logprobs(stream_t st, float *logprob, float *entropy, int32_t *best, const float *logits, const int32_t *target,
                 int n, int vocab)
{
    if (n > 0)
        LAUNCH(logprobs_rows, n, END_THREADS, 0, st, logprob, entropy, best, logits, target, vocab);
}
