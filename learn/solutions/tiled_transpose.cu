extern "C" __global__ void tiled_transpose(const float *a, float *out, int rows, int columns)
{
    __shared__ float tile[16][17];
    int column = blockIdx.x * 16 + threadIdx.x;
    int row = blockIdx.y * 16 + threadIdx.y;
    if (row < rows && column < columns) tile[threadIdx.y][threadIdx.x] = a[row * columns + column];
    __syncthreads();
    int out_row = blockIdx.x * 16 + threadIdx.y;
    int out_column = blockIdx.y * 16 + threadIdx.x;
    if (out_row < columns && out_column < rows) out[out_row * rows + out_column] = tile[threadIdx.x][threadIdx.y];
}
