// The whole backward of layer normalization in one launch, for rows of at most CACHED * ROW_THREADS columns.
//
// The formulas, and the order in which everything is added, are those of layer_norm.cu's three kernels, so the bits are
// too; but g and x are read once rather than twice, and what else reached x is added on the way:
//     gx = added + rstd * (h - mean(h) - n * mean(h * n))
//
// A block owns a strip of rows. STRANDS rows at a time are worked on, by ROW_THREADS threads each, which also sum their
// columns of g n and g. The strands' sums are added, and written to `partial`; the last block to finish adds those of
// all strips in their order. `finished` counts the blocks that have, and is 0 again afterwards.
//
// Options: ROW_THREADS    32 or 128
//          STRANDS        rows that a block works on at a time
//          WIDTH          see storage.cuh

#include "storage.cuh"
#include "warp.cuh"

#define CACHED 8
#define PACKS (CACHED / WIDTH)
#define WARPS_PER_ROW (ROW_THREADS / 32)

// The sums over the threads of this strand's row, the same bits in each of them; all strands call it together.
static __device__ float2 strand_sums(float2 values)
{
    values = make_float2(warp_sum(values.x), warp_sum(values.y));
#if WARPS_PER_ROW > 1
    __shared__ float2 of_warp[STRANDS][WARPS_PER_ROW];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.y][threadIdx.x / 32] = values;
    __syncthreads();
    values = make_float2(0.0f, 0.0f);
    for (int warp = 0; warp < WARPS_PER_ROW; warp++) {
        values.x += of_warp[threadIdx.y][warp].x;
        values.y += of_warp[threadIdx.y][warp].y;
    }
    __syncthreads();  // of_warp may be written again
#endif
    return values;
}

// Grid (strips), block (ROW_THREADS, STRANDS). gx may be `added`, so neither is __restrict__. partial (2, strips, C).
extern "C" __global__ void __launch_bounds__(ROW_THREADS * STRANDS, 1024 / (ROW_THREADS * STRANDS))
layer_norm_backward_add(const storage *__restrict__ g, const stream *__restrict__ x,
                        const storage *__restrict__ weight, const float *__restrict__ mean,
                        const float *__restrict__ rstd, const stream *added, stream *gx, float *partial,
                        float *__restrict__ gweight, float *__restrict__ gbias, unsigned *finished, long long rows,
                        int columns, long long strip_rows, int has_added)
{
    long long first = blockIdx.x * strip_rows, end = min(first + strip_rows, rows);
    float2 column_sums[CACHED] = {};
    for (long long start = first; start < end; start += STRANDS) {
        long long row = start + threadIdx.y;
        bool active = row < end;
        float center = active ? mean[row] : 0.0f, scale = active ? rstd[row] : 0.0f;
        float2 cached[CACHED], sums = {0.0f, 0.0f};  // (h, n); of h, of h n
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int col = (threadIdx.x + k * ROW_THREADS) * WIDTH;
            if (active && col < columns) {
                long long i = row * columns + col;
                Pack<storage> gradients = load_pack(g + i), weights = load_pack(weight + col);
                Pack<stream> values = load_pack(x + i);
#pragma unroll
                for (int j = 0; j < WIDTH; j++) {
                    float value = load(gradients.of[j]);
                    float n = (load(values.of[j]) - center) * scale, h = value * load(weights.of[j]);
                    float2 &column_sum = column_sums[k * WIDTH + j];
                    column_sum.x = fmaf(value, n, column_sum.x);
                    column_sum.y += value;
                    sums.x += h;
                    sums.y = fmaf(h, n, sums.y);
                    cached[k * WIDTH + j] = make_float2(h, n);
                }
            }
        }
        sums = strand_sums(sums);
        float mean_h = sums.x / columns, mean_hn = sums.y / columns;
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int col = (threadIdx.x + k * ROW_THREADS) * WIDTH;
            if (active && col < columns) {
                Pack<stream> results;
                if (has_added) results = load_pack(added + row * columns + col);
#pragma unroll
                for (int j = 0; j < WIDTH; j++) {
                    float2 hn = cached[k * WIDTH + j];
                    float result = scale * (hn.x - mean_h - hn.y * mean_hn);
                    if (has_added) result = load(results.of[j]) + result;
                    results.of[j] = store<stream>(result);
                }
                store_pack(gx + row * columns + col, results);
            }
        }
    }

    __shared__ float2 of_strand[STRANDS][ROW_THREADS];
#pragma unroll
    for (int k = 0; k < CACHED; k++) {
        int col = (threadIdx.x + k / WIDTH * ROW_THREADS) * WIDTH + k % WIDTH;
        of_strand[threadIdx.y][threadIdx.x] = column_sums[k];
        __syncthreads();
        if (threadIdx.y == 0 && col < columns) {
            float2 sum = of_strand[0][threadIdx.x];
            for (int strand = 1; strand < STRANDS; strand++) {
                sum.x += of_strand[strand][threadIdx.x].x;
                sum.y += of_strand[strand][threadIdx.x].y;
            }
            partial[(long long)blockIdx.x * columns + col] = sum.x;
            partial[((long long)gridDim.x + blockIdx.x) * columns + col] = sum.y;
        }
        __syncthreads();
    }

    __shared__ bool is_last;
    __threadfence();  // what this block wrote to partial is visible before it counts as finished
    __syncthreads();
    int thread = threadIdx.y * ROW_THREADS + threadIdx.x;
    if (thread == 0) is_last = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int i = thread; i < 2 * columns; i += ROW_THREADS * STRANDS) {
        int col = i < columns ? i : i - columns;
        const float *strips = partial + (i < columns ? 0 : (long long)gridDim.x * columns) + col;
        float sum = 0.0f;
#pragma unroll 16  // so many loads at a time, as a single block is waited for
        for (int strip = 0; strip < gridDim.x; strip++) sum += strips[(long long)strip * columns];
        (i < columns ? gweight : gbias)[col] = sum;
    }
}
