// What a linear layer does besides its products: the bias added, and the sum of rows that is the bias's gradient.
//
//     y[n, c] += bias[c]                sum[c] = sum over n of x[n, c]
//
// Both only move memory, in packs of WIDTH columns to a thread. The array may have 16 bits; sums are float.
//
// Options: WIDTH (storage.cuh), ACROSS (below)

#include "storage.cuh"

// Grid of the first two: (ceil(columns / 256), strips of rows), block 256 / WIDTH.
extern "C" __global__ void __launch_bounds__(256 / WIDTH)
add_bias(storage *y, const storage *__restrict__ bias, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x * WIDTH;
    if (col >= columns) return;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    Pack<storage> shift = load_pack(bias + col);
#pragma unroll 4
    for (long long i = first * columns + col; i < end * columns; i += columns) {
        Pack<storage> values = load_pack(y + i);
        for (int j = 0; j < WIDTH; j++) values.of[j] = store(load(values.of[j]) + load(shift.of[j]));
        store_pack(y + i, values);
    }
}

// y = x + (added + bias), the sum of a residual stream and a linear layer's product with its bias.
extern "C" __global__ void __launch_bounds__(256 / WIDTH)
bias_add(const stream *__restrict__ x, const storage *__restrict__ added, const storage *__restrict__ bias,
         stream *__restrict__ y, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x * WIDTH;
    if (col >= columns) return;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    Pack<storage> shift = load_pack(bias + col);
#pragma unroll 4
    for (long long i = first * columns + col; i < end * columns; i += columns) {
        Pack<stream> values = load_pack(x + i);
        Pack<storage> others = load_pack(added + i);
        for (int j = 0; j < WIDTH; j++)
            values.of[j] = store<stream>(load(values.of[j]) + (load(others.of[j]) + load(shift.of[j])));
        store_pack(y + i, values);
    }
}

// A block owns ACROSS packs of columns, 32 bytes of each row where these are aligned, which is what memory moves at least.
// Its STRANDS take every STRANDS-th row, and their sums are added in pairs, in the same order every time.
// Grid ceil(columns / (ACROSS * WIDTH)), block (ACROSS, STRANDS).
#ifndef ACROSS
#define ACROSS 4
#endif
#define STRANDS 256

// visit(i, values) gets each pack, and its place.
template <class Type, class Visit>
__device__ inline void add_rows(const Type *__restrict__ x, float *sum, long long rows, int columns, Visit visit)
{
    __shared__ float of_strand[STRANDS][ACROSS * WIDTH];
    int strand = threadIdx.y, own = threadIdx.x * WIDTH, col = blockIdx.x * ACROSS * WIDTH + own;
    float total[WIDTH] = {};
    if (col < columns) {
#pragma unroll 8
        for (long long row = strand; row < rows; row += STRANDS) {
            Pack<Type> values = load_pack(x + row * columns + col);
            visit(row * columns + col, values);
            for (int j = 0; j < WIDTH; j++) total[j] += load(values.of[j]);
        }
    }
    for (int j = 0; j < WIDTH; j++) of_strand[strand][own + j] = total[j];
    for (int half = STRANDS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (strand < half)
            for (int j = 0; j < WIDTH; j++) of_strand[strand][own + j] += of_strand[strand + half][own + j];
    }
    if (strand == 0 && col < columns)
        for (int j = 0; j < WIDTH; j++) sum[col + j] = of_strand[0][own + j];
}

extern "C" __global__ void __launch_bounds__(ACROSS * STRANDS)
sum_rows(const storage *__restrict__ x, float *__restrict__ sum, long long rows, int columns)
{
    add_rows(x, sum, rows, columns, [](long long, const Pack<storage> &) {});
}

// Where a residual stream of float got the layer's result of 16 bits: g is the gradient of the stream, which is rounded
// to that of the result on the way.
extern "C" __global__ void __launch_bounds__(ACROSS * STRANDS)
bias_add_backward(const stream *__restrict__ g, storage *__restrict__ gadded, float *__restrict__ gbias, long long rows,
                  int columns)
{
    add_rows(g, gbias, rows, columns, [&](long long i, const Pack<stream> &values) {
        Pack<storage> rounded;
        for (int j = 0; j < WIDTH; j++) rounded.of[j] = store(load(values.of[j]));
        store_pack(gadded + i, rounded);
    });
}
