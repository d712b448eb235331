// Sums of squares of many tensors, in one pass and without temporaries, for the norm of all gradients.
//
// Each tensor is cut into chunks of `chunk` values, and each chunk into parts of BLOCK_VALUES. First a block adds the
// squares of a part: each thread of every 256th value, then over the warps. Then one block adds the parts of each
// chunk, and at last all chunks, in order. Every sum has a fixed order, so the same bits every time.

#define BLOCK_VALUES 16384
#include "tensors.cuh"
#include "warp.cuh"

extern "C" __global__ void __launch_bounds__(256)
norm_parts(const float *const *tensors, const long long *__restrict__ sizes, const int *__restrict__ first_blocks,
           int count, float *__restrict__ parts)
{
    __shared__ float of_warp[8];
    Span span = this_span(sizes, first_blocks, count);
    const float *x = tensors[span.tensor];
    float sum = 0.0f;
    for (long long i = span.begin + threadIdx.x; i < span.end; i += 256) sum = fmaf(x[i], x[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < 8; warp++) sum += of_warp[warp];
    parts[blockIdx.x] = sum;
}

// One block. Chunk c has the parts first_parts[c] ... first_parts[c + 1] - 1; norm is the root of the sum of all.
extern "C" __global__ void __launch_bounds__(256)
norm_chunks(const float *__restrict__ parts, const int *__restrict__ first_parts, float *squares,
            float *__restrict__ norm, int chunks)
{
    for (int chunk = threadIdx.x; chunk < chunks; chunk += 256) {
        float sum = 0.0f;
        for (int part = first_parts[chunk]; part < first_parts[chunk + 1]; part++) sum += parts[part];
        squares[chunk] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;
    float total = 0.0f;
    for (int first = 0; first < chunks; first += 32) {  // a warp loads 32 of them at once, and adds one by one
        int chunk = first + threadIdx.x;
        float square = chunk < chunks ? squares[chunk] : 0.0f;
        for (int lane = 0; lane < 32; lane++) total += __shfl_sync(ALL_LANES, square, lane);
    }
    if (threadIdx.x == 0) norm[0] = sqrtf(total);
}
