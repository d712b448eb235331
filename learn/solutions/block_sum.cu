extern "C" __global__ void block_sum(const float *a, float *out, int n)
{
    __shared__ float scratch[64];
    int t = threadIdx.x;
    int i = blockIdx.x * 64 + t;
    scratch[t] = i < n ? a[i] : 0.0f;
    __syncthreads();
    for (int offset = 32; offset > 0; offset /= 2) {
        if (t < offset) scratch[t] += scratch[t + offset];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = scratch[0];
}
