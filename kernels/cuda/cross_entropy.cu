// Cross-entropy of logits against integer targets, forward and backward.
//
//     loss = -log softmax(x)_t = log s - (x_t - m)      m = max x,  s = sum exp(x - m),  lse = m + log s
//     gx_v = g * (exp(x_v - lse) - [v = t])
//
// Forward reads the logits once (rows.cuh) and keeps one number per row; backward reads them once and writes the
// gradient once, where the composed form would pass over several (N, V) arrays. Backward may write over its logits:
// each element is read only by the thread that then writes it.
//
// Rows whose target is `ignored` have loss and gradient 0. A GPU cannot raise an error, so any other target outside
// 0 ... V - 1 makes the row's loss and gradient NaN, which shows in the mean loss.
//
// The logits may have 16 bits; losses, lse and g are float.
//
// Options: ROW_THREADS (see rows.cuh), WIDTH (storage.cuh) of cross_entropy_gradient.

#include "rows.cuh"

#define NOT_A_NUMBER __int_as_float(0x7fffffff)
#define MINUS_INFINITY __int_as_float(0xff800000)

extern "C" __global__ void ROW_BOUNDS
cross_entropy_forward(const storage *__restrict__ logits, const long long *__restrict__ targets,
                      float *__restrict__ losses, float *__restrict__ lse, long long rows, int columns,
                      long long ignored)
{
    long long row = this_row();
    if (row >= rows) return;
    const storage *x = logits + row * columns;

    MaxSum total = {LOWEST, 0.0f};
    for (int col = threadIdx.x; col < columns; col += ROW_THREADS) include(total, load(x[col]));
    total = row_merge(total);
    if (threadIdx.x > 0) return;

    long long target = targets[row];
    float log_sum = logf(total.sum), loss = NOT_A_NUMBER;
    if (target >= 0 && target < columns) loss = log_sum - (load(x[target]) - total.max);
    lse[row] = total.max + log_sum;
    losses[row] = target == ignored ? 0.0f : loss;
}

// g is one number in device memory. logits and glogits may be the same array, so neither is __restrict__.
extern "C" __global__ void ROW_BOUNDS
cross_entropy_backward(const float *__restrict__ g, const storage *logits, const long long *__restrict__ targets,
                       const float *__restrict__ lse, storage *glogits, long long rows, int columns, long long ignored)
{
    long long row = this_row();
    if (row >= rows) return;
    logits += row * columns;
    glogits += row * columns;
    long long target = targets[row];
    float factor = target >= 0 && target < columns ? g[0] : NOT_A_NUMBER;
    float row_lse = lse[row];
    for (int col = threadIdx.x; col < columns; col += ROW_THREADS) {
        float p = expf(load(logits[col]) - row_lse);
        glogits[col] = store(target == ignored ? 0.0f : factor * (p - (col == target ? 1.0f : 0.0f)));
    }
}

// Both at once, in place: logits become their gradient. A row is read again from what the caches still have of it.
// Rows may be longer than their columns, for the products that they take part in: the rest becomes 0.
extern "C" __global__ void ROW_BOUNDS
cross_entropy_gradient(const float *__restrict__ g, storage *logits, const long long *__restrict__ targets,
                       float *__restrict__ losses, long long rows, int columns, int length, long long ignored)
{
    long long row = this_row();
    if (row >= rows) return;
    storage *x = logits + row * length;
    MaxSum total = {LOWEST, 0.0f};
#pragma unroll 2
    for (int col = threadIdx.x * WIDTH; col < columns; col += ROW_THREADS * WIDTH) {
        Pack<storage> pack = load_pack(x + col);
        float values[WIDTH], sum = 0.0f, top = total.max;
        for (int j = 0; j < WIDTH; j++) {
            values[j] = col + j < columns ? load(pack.of[j]) : MINUS_INFINITY;
            top = fmaxf(top, values[j]);
        }
        for (int j = 0; j < WIDTH; j++) sum += expf(values[j] - top);
        if (top > total.max) total = {top, total.sum * expf(total.max - top)};
        total.sum += sum;
    }
    total = row_merge(total);

    long long target = targets[row];
    bool valid = target >= 0 && target < columns;
    float log_sum = logf(total.sum), lse = total.max + log_sum, factor = valid ? g[0] : NOT_A_NUMBER;
    float loss = valid ? log_sum - (load(x[target]) - total.max) : NOT_A_NUMBER;
    if (threadIdx.x == 0) losses[row] = target == ignored ? 0.0f : loss;
#if ROW_THREADS > 32
    __syncthreads();  // the target's logit is read before it is overwritten
#else
    __syncwarp();
#endif
    int own = valid ? (int)target : -1;
#pragma unroll 2
    for (int col = threadIdx.x * WIDTH; col < length; col += ROW_THREADS * WIDTH) {
        Pack<storage> pack = load_pack(x + col);
        for (int j = 0; j < WIDTH; j++) {
            float gradient = factor * (expf(load(pack.of[j]) - lse) - (col + j == own ? 1.0f : 0.0f));
            pack.of[j] = store(col + j < columns && target != ignored ? gradient : 0.0f);
        }
        store_pack(x + col, pack);
    }
}
