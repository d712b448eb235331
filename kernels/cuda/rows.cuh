// Rows: how threads share one row of a matrix, and agree on one number for it.
//
// ROW_THREADS threads (an option of the compiler: 32, 128 or 512) work on one row. With 32 a warp owns the row, so
// partial results travel through registers (shuffles) and a block carries several rows, one per threadIdx.y. With
// more, the block owns the row and its warps meet in shared memory.
//
//     blockDim = (ROW_THREADS, rows per block)       gridDim.x * rows per block >= number of rows
//
// A row's first CACHED * ROW_THREADS values are cached in registers from the first pass over the row (which finds its
// maximum, sum, mean ...) to the second (which writes the result), so rows up to that length are read once.

#include "storage.cuh"
#include "warp.cuh"

#define CACHED 8
#define WARPS_PER_ROW (ROW_THREADS / 32)
#define BLOCK_THREADS (ROW_THREADS > 128 ? ROW_THREADS : 128)
#define ROW_BOUNDS __launch_bounds__(BLOCK_THREADS, 1024 / BLOCK_THREADS)  // at most 64 registers: half occupancy

__device__ inline long long this_row() { return (long long)blockIdx.x * blockDim.y + threadIdx.y; }

// fetch(col) reads a value; visit(col, value) uses it. A thread caches its first `count` values.
template <int count, class Value, class Fetch, class Visit>
__device__ inline void first_pass(int columns, Value (&cached)[count], Fetch fetch, Visit visit)
{
#pragma unroll
    for (int k = 0; k < count; k++) {
        int col = threadIdx.x + k * ROW_THREADS;
        if (col < columns) {
            cached[k] = fetch(col);
            visit(col, cached[k]);
        }
    }
    for (int col = threadIdx.x + count * ROW_THREADS; col < columns; col += ROW_THREADS) visit(col, fetch(col));
}

template <int count, class Value, class Fetch, class Visit>
__device__ inline void second_pass(int columns, Value (&cached)[count], Fetch fetch, Visit visit)
{
#pragma unroll
    for (int k = 0; k < count; k++) {
        int col = threadIdx.x + k * ROW_THREADS;
        if (col < columns) visit(col, cached[k]);
    }
    for (int col = threadIdx.x + count * ROW_THREADS; col < columns; col += ROW_THREADS) visit(col, fetch(col));
}

// ---- sums -----------------------------------------------------------------------------------------------------

// The sum over the row's threads, the same bits in each of them: the warps' sums are added in a fixed order.
static __device__ float row_sum(float value)
{
    value = warp_sum(value);
#if WARPS_PER_ROW > 1
    __shared__ float of_warp[WARPS_PER_ROW];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0.0f;
    for (int warp = 0; warp < WARPS_PER_ROW; warp++) value += of_warp[warp];
    __syncthreads();  // of_warp may be written again
#endif
    return value;
}

// ---- the online softmax's running pair --------------------------------------------------------------------------
// (max, sum) stands for values z_1 ... z_k with max = max z_i and sum = sum exp(z_i - max). Two such pairs merge into
// the pair of the union, so one pass over the row finds both numbers (Milakov and Gimelshein, 2018,
// "Online normalizer calculation for softmax"). Starting from LOWEST rather than -inf keeps -inf - max away from
// inf - inf; a row that is -inf throughout ends with sum = 0, and 0/0 = NaN as in the plain formula.

struct MaxSum {
    float max, sum;
};

__device__ inline void include(MaxSum &total, float z)
{
    if (z > total.max) {
        total.sum = total.sum * expf(total.max - z) + 1.0f;
        total.max = z;
    } else {
        total.sum += expf(z - total.max);
    }
}

// Symmetric down to the bit, so both partners of a shuffle compute the same pair.
__device__ inline MaxSum merge(MaxSum a, MaxSum b)
{
    MaxSum high = a.max >= b.max ? a : b;
    MaxSum low = a.max >= b.max ? b : a;
    high.sum += low.sum * expf(low.max - high.max);
    return high;
}

static __device__ MaxSum row_merge(MaxSum total)
{
    for (int offset = 16; offset > 0; offset /= 2) {
        MaxSum other;
        other.max = __shfl_xor_sync(ALL_LANES, total.max, offset);
        other.sum = __shfl_xor_sync(ALL_LANES, total.sum, offset);
        total = merge(total, other);
    }
#if WARPS_PER_ROW > 1
    __shared__ MaxSum of_warp[WARPS_PER_ROW];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = total;
    __syncthreads();
    total = of_warp[0];
    for (int warp = 1; warp < WARPS_PER_ROW; warp++) total = merge(total, of_warp[warp]);
    __syncthreads();  // of_warp may be written again
#endif
    return total;
}
