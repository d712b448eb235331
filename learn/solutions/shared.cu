extern "C" __global__ void shared(const float *a, int *out)
{
    __shared__ float numbers[32];
    int i = blockIdx.x * 32 + threadIdx.x;
    numbers[threadIdx.x] = a[i];
    __syncthreads();
    int smaller = 0;
    for (int j = 0; j < 32; j++) smaller += numbers[j] < numbers[threadIdx.x];
    out[i] = smaller;
}
