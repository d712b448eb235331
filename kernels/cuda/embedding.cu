// The gradient of a table look-up: gweight[id] += sum of g[n] over the positions n with ids[n] = id.
//
// Positions come sorted by id (`order`, a stable sort), with `starts[id]` the first of them in that order, so each row
// of the table is the sum of one segment and has one owner: no atomics, and the same bits every time. STRANDS rows of
// threads share a segment (a common token's is long) and are added in a fixed order; absent ids cost next to nothing.
// g may have 16 bits; sums are float, and so is gweight.
//
// Grid (rows of the table, parts), block (32, STRANDS); each part takes every so many 32 columns. Most blocks of a large
// table find no position and end at once.

#include "storage.cuh"

#define STRANDS 8

// ids as rows of the table: negative ones count from its end, as they do in an index.
extern "C" __global__ void __launch_bounds__(256)
embedding_rows(const long long *__restrict__ ids, long long *__restrict__ table_rows, long long size, long long rows)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) table_rows[i] = ids[i] < 0 ? ids[i] + rows : ids[i];
}

// starts[r] for r = 0 ... rows: how many positions have a smaller row, by bisection of the sorted ones.
extern "C" __global__ void __launch_bounds__(256)
embedding_starts(const long long *__restrict__ table_rows, const long long *__restrict__ order,
                 long long *__restrict__ starts, long long size, long long rows)
{
    long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x, low = 0, high = size;
    if (row > rows) return;
    while (low < high) {
        long long middle = (low + high) / 2;
        if (table_rows[order[middle]] < row)
            low = middle + 1;
        else
            high = middle;
    }
    starts[row] = low;
}

extern "C" __global__ void __launch_bounds__(32 * STRANDS)
embedding_backward(const storage *__restrict__ g, const long long *__restrict__ order,
                   const long long *__restrict__ starts, float *__restrict__ gweight, int columns)
{
    __shared__ float of_strand[STRANDS][32];
    long long id = blockIdx.x, start = starts[id], end = starts[id + 1];
    if (start == end) return;  // the whole block: nobody waits at the barrier
    for (int first = 32 * blockIdx.y; first < columns; first += 32 * gridDim.y) {
        int col = first + threadIdx.x;
        float sum = 0.0f;
        if (col < columns)
            for (long long k = start + threadIdx.y; k < end; k += STRANDS) sum += load(g[order[k] * columns + col]);
        of_strand[threadIdx.y][threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.y == 0 && col < columns) {
            for (int strand = 1; strand < STRANDS; strand++) sum += of_strand[strand][threadIdx.x];
            gweight[id * columns + col] += sum;
        }
        __syncthreads();  // of_strand may be written again
    }
}
