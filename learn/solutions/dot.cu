extern "C" __global__ void dot(const float *a, const float *b, float *out, int n)
{
    __shared__ float scratch[128];
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int i = t; i < n; i += 128) sum += a[i] * b[i];
    scratch[t] = sum;
    __syncthreads();
    for (int offset = 64; offset > 0; offset /= 2) {
        if (t < offset) scratch[t] += scratch[t + offset];
        __syncthreads();
    }
    if (t == 0) out[0] = scratch[0];
}
