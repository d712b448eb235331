// GELU of x + bias, forward and backward, with what the linear layer behind it needs (gelu.cu has the formulas).
//
// Backward makes y = gelu(x + bias) again beside gx, as the gradient of the layer's weight is a product with y, and
// sums the columns of gx, the gradient of the bias. A block owns 256 columns of a strip of rows, a thread WIDTH of them.
// The last block of these columns adds the sums of all strips, in their order: no atomics on floats, and the same bits
// every time. `finished` counts the blocks that have; forward makes it 0, and backward leaves it so.
//
// Grid (ceil(columns / 256), strips), block 256 / WIDTH.

#include "storage.cuh"

#define A 0.7978845608028654f
#define B 0.044715f

extern "C" __global__ void __launch_bounds__(256 / WIDTH)
bias_gelu_forward(const storage *__restrict__ x, const storage *__restrict__ bias, storage *__restrict__ y,
                  unsigned *__restrict__ finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x * WIDTH;
    if (blockIdx.y == 0 && threadIdx.x == 0) finished[blockIdx.x] = 0;
    if (col >= columns) return;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    Pack<storage> shift = load_pack(bias + col);
#pragma unroll 2
    for (long long i = first * columns + col; i < end * columns; i += columns) {
        Pack<storage> values = load_pack(x + i);
        for (int j = 0; j < WIDTH; j++) {
            float value = load(values.of[j]) + load(shift.of[j]);
            float t = tanhf(A * value * (1.0f + B * value * value));
            values.of[j] = store(0.5f * value * (1.0f + t));
        }
        store_pack(y + i, values);
    }
}

extern "C" __global__ void __launch_bounds__(256 / WIDTH)
bias_gelu_backward(const storage *__restrict__ g, const storage *__restrict__ x, const storage *__restrict__ bias,
                   storage *__restrict__ gx, storage *__restrict__ y, float *partial, float *__restrict__ gbias,
                   unsigned *finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x * WIDTH;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    if (col < columns) {
        Pack<storage> shift = load_pack(bias + col);
        float sum[WIDTH] = {};
#pragma unroll 2
        for (long long i = first * columns + col; i < end * columns; i += columns) {
            Pack<storage> values = load_pack(x + i), gradients = load_pack(g + i);
            for (int j = 0; j < WIDTH; j++) {
                float value = load(values.of[j]) + load(shift.of[j]), square = value * value;
                float t = tanhf(A * value * (1.0f + B * square));
                float slope = A * (1.0f + 3.0f * B * square);
                float gradient = 0.5f * load(gradients.of[j]) * (1.0f + t + value * (1.0f - t * t) * slope);
                // float has the bits of gelu.cu's forward, which multiplies in another order; 16 bits need no second
                // tanh
                float again = sizeof(storage) == 4 ? tanhf(A * value * (1.0f + B * value * value)) : t;
                values.of[j] = store(0.5f * value * (1.0f + again));
                gradients.of[j] = store(gradient);
                sum[j] += gradient;
            }
            store_pack(y + i, values);
            store_pack(gx + i, gradients);
        }
        for (int j = 0; j < WIDTH; j++) partial[(long long)blockIdx.y * columns + col + j] = sum[j];
    }

    __shared__ bool is_last;
    __threadfence();  // what this block wrote to partial is visible before it counts as finished
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(finished + blockIdx.x, gridDim.y - 1) == gridDim.y - 1;
    __syncthreads();
    if (!is_last || col >= columns) return;
    __threadfence();
    float sum[WIDTH] = {};
#pragma unroll 16  // so many loads at a time, as a single block is waited for
    for (int strip = 0; strip < gridDim.y; strip++)
        for (int j = 0; j < WIDTH; j++) sum[j] += partial[(long long)strip * columns + col + j];
    for (int j = 0; j < WIDTH; j++) gbias[col + j] = sum[j];
}
