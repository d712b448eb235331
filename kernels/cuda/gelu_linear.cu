// GELU of x + bias, forward and backward, with what the linear layer behind it needs (gelu.cu has the formulas).
//
// Backward makes y = gelu(x + bias) again beside gx, as the gradient of the layer's weight is a product with y, and
// sums the columns of gx, the gradient of the bias. A block owns 256 columns of a strip of rows, a thread one of them.
// The last block of these columns adds the sums of all strips, in their order: no atomics on floats, and the same bits
// every time. `finished` counts the blocks that have; forward makes it 0, and backward leaves it so.
//
// And the sum of the residual stream and a linear layer's product with its bias, forward and backward.
//
// Grid (ceil(columns / 256), strips), block 256.

#include "storage.cuh"

#define A 0.7978845608028654f
#define B 0.044715f

// Whether this is the last of so many blocks to get here, which then sees what the others have written.
static __device__ bool is_last_of(unsigned blocks, unsigned *finished)
{
    __shared__ bool is_last;
    __threadfence();  // what this block wrote is visible before it counts as finished
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(finished, blocks - 1) == blocks - 1;
    __syncthreads();
    __threadfence();
    return is_last;
}

extern "C" __global__ void __launch_bounds__(256)
bias_gelu_forward(const storage *__restrict__ x, const storage *__restrict__ bias, storage *__restrict__ y,
                  unsigned *__restrict__ finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x;
    if (blockIdx.y == 0 && threadIdx.x == 0) finished[blockIdx.x] = 0;
    if (col >= columns) return;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    float shift = load(bias[col]);
    for (long long i = first * columns + col; i < end * columns; i += columns) {
        float value = load(x[i]) + shift;
        float t = tanhf(A * value * (1.0f + B * value * value));
        y[i] = store(0.5f * value * (1.0f + t));
    }
}

extern "C" __global__ void __launch_bounds__(256)
bias_gelu_backward(const storage *__restrict__ g, const storage *__restrict__ x, const storage *__restrict__ bias,
                   storage *__restrict__ gx, storage *__restrict__ y, float *partial, float *__restrict__ gbias,
                   unsigned *finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    if (col < columns) {
        float shift = load(bias[col]), sum = 0.0f;
        for (long long i = first * columns + col; i < end * columns; i += columns) {
            float value = load(x[i]) + shift, square = value * value;
            float t = tanhf(A * value * (1.0f + B * square));
            float slope = A * (1.0f + 3.0f * B * square);
            float gradient = 0.5f * load(g[i]) * (1.0f + t + value * (1.0f - t * t) * slope);
            // float has the bits of gelu.cu's forward, which multiplies in another order; 16 bits need no second tanh
            float again = sizeof(storage) == 4 ? tanhf(A * value * (1.0f + B * value * value)) : t;
            y[i] = store(0.5f * value * (1.0f + again));
            gx[i] = store(gradient);
            sum += gradient;
        }
        partial[(long long)blockIdx.y * columns + col] = sum;
    }

    if (!is_last_of(gridDim.y, finished + blockIdx.x) || col >= columns) return;
    float sum = 0.0f;
    for (int strip = 0; strip < gridDim.y; strip++) sum += partial[(long long)strip * columns + col];
    gbias[col] = sum;
}

// y = x + (added + bias)
extern "C" __global__ void __launch_bounds__(256)
bias_add(const stream *__restrict__ x, const storage *__restrict__ added, const storage *__restrict__ bias,
         stream *__restrict__ y, unsigned *__restrict__ finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) finished[0] = 0;
    if (col >= columns) return;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    float shift = load(bias[col]);
    for (long long i = first * columns + col; i < end * columns; i += columns)
        y[i] = store<stream>(load(x[i]) + (load(added[i]) + shift));
}

// gadded = g, rounded to 16 bits, and gbias = sum over rows of g. Here the last of all blocks adds the strips.
extern "C" __global__ void __launch_bounds__(256)
bias_add_backward(const stream *__restrict__ g, storage *__restrict__ gadded, float *partial,
                  float *__restrict__ gbias, unsigned *finished, long long rows, int columns, int strip_rows)
{
    int col = blockIdx.x * 256 + threadIdx.x;
    long long first = (long long)blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    if (col < columns) {
        float sum = 0.0f;
        for (long long i = first * columns + col; i < end * columns; i += columns) {
            float gradient = load(g[i]);
            gadded[i] = store(gradient);
            sum += gradient;
        }
        partial[(long long)blockIdx.y * columns + col] = sum;
    }
    if (!is_last_of(gridDim.x * gridDim.y, finished)) return;
    for (col = threadIdx.x; col < columns; col += 256) {
        float sum = 0.0f;
        for (int strip = 0; strip < gridDim.y; strip++) sum += partial[(long long)strip * columns + col];
        gbias[col] = sum;
    }
}
