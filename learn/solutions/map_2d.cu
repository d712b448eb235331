extern "C" __global__ void map_2d(const float *a, float *out, int rows, int columns)
{
    int column = threadIdx.x;
    int row = threadIdx.y;
    if (row < rows && column < columns) out[row * columns + column] = a[row * columns + column] + 10.0f;
}
