// SwiGLU, the gated activation of Llama's MLP (Shazeer, 2020), forward and backward.
//
//     x (N, 2 F) holds two halves, a and b        y = a s b,  s = 1 / (1 + exp(-a))
//     ga = g b s (1 + a (1 - s))                  gb = g a s
//
// One thread per element of y.

#include "storage.cuh"

__device__ inline float sigmoid(float a) { return 1.0f / (1.0f + expf(-a)); }

extern "C" __global__ void __launch_bounds__(256)
swiglu_forward(const storage *__restrict__ x, storage *__restrict__ y, long long size, int half)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    long long first = i + i / half * half;  // where a is: the rows of x are twice as long
    float a = load(x[first]), b = load(x[first + half]);
    y[i] = store(a * sigmoid(a) * b);
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_backward(const storage *__restrict__ g, const storage *__restrict__ x, storage *__restrict__ gx, long long size,
                int half)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    long long first = i + i / half * half;
    float a = load(x[first]), b = load(x[first + half]), s = sigmoid(a);
    gx[first] = store(load(g[i]) * b * s * (1.0f + a * (1.0f - s)));
    gx[first + half] = store(load(g[i]) * a * s);
}
