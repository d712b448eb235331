extern "C" __global__ void zip(const float *a, const float *b, float *out)
{
    int i = threadIdx.x;
    out[i] = a[i] + b[i];
}
