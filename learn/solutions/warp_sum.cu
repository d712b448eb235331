extern "C" __global__ void warp_sum(const float *x, float *out, int columns)
{
    int lane = threadIdx.x;
    int row = blockIdx.x;
    float sum = 0.0f;
    for (int column = lane; column < columns; column += 32) sum += x[row * columns + column];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffff, sum, offset);
    if (lane == 0) out[row] = sum;
}
