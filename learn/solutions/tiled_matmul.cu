extern "C" __global__ void tiled_matmul(const float *a, const float *b, float *out, int n)
{
    __shared__ float tile_a[8][8], tile_b[8][8];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * 8 + ty;
    int column = blockIdx.x * 8 + tx;
    float sum = 0.0f;
    for (int k = 0; k < n; k += 8) {
        tile_a[ty][tx] = row < n && k + tx < n ? a[row * n + k + tx] : 0.0f;
        tile_b[ty][tx] = k + ty < n && column < n ? b[(k + ty) * n + column] : 0.0f;
        __syncthreads();
        for (int j = 0; j < 8; j++) sum += tile_a[ty][j] * tile_b[j][tx];
        __syncthreads();  // all have used the tiles before the next ones overwrite them
    }
    if (row < n && column < n) out[row * n + column] = sum;
}
