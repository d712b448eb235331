extern "C" __global__ void row_cross_entropy(const float *x, const int *targets, float *out, int columns)
{
    int lane = threadIdx.x;
    int row = blockIdx.x;
    x += row * columns;  // this warp's row
    float m = -INFINITY;
    for (int c = lane; c < columns; c += 32) m = fmaxf(m, x[c]);
    for (int offset = 16; offset > 0; offset /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, offset));
    float s = 0.0f;
    for (int c = lane; c < columns; c += 32) s += expf(x[c] - m);
    for (int offset = 16; offset > 0; offset /= 2) s += __shfl_xor_sync(0xffffffff, s, offset);
    if (lane == 0) out[row] = logf(s) - (x[targets[row]] - m);
}
