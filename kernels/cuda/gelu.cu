// GELU in the tanh form that GPT-2 uses (Hendrycks and Gimpel, 2016), forward and backward.
//
//     y  = x (1 + t) / 2                             t = tanh(u),  u = A (x + B x^3),  A = sqrt(2 / pi),  B = 0.044715
//     gx = g ((1 + t) / 2 + x (1 - t^2) u' / 2)      u' = A (1 + 3 B x^2)
//
// One thread per element; composed from array operations the same takes about ten passes over memory.

#include "storage.cuh"

#define A 0.7978845608028654f
#define B 0.044715f

__device__ inline long long this_element() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

extern "C" __global__ void __launch_bounds__(256)
gelu_forward(const storage *__restrict__ x, storage *__restrict__ y, long long size)
{
    long long i = this_element();
    if (i >= size) return;
    float value = load(x[i]);
    float t = tanhf(A * value * (1.0f + B * value * value));
    y[i] = store(0.5f * value * (1.0f + t));
}

extern "C" __global__ void __launch_bounds__(256)
gelu_backward(const storage *__restrict__ g, const storage *__restrict__ x, storage *__restrict__ gx, long long size)
{
    long long i = this_element();
    if (i >= size) return;
    float value = load(x[i]), square = value * value;
    float t = tanhf(A * value * (1.0f + B * square));
    float slope = A * (1.0f + 3.0f * B * square);
    gx[i] = store(0.5f * load(g[i]) * (1.0f + t + value * (1.0f - t * t) * slope));
}
