extern "C" __global__ void histogram(const int *ids, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&out[ids[i]], 1);
}
