// Puzzle tiled_matmul: the product of two matrices.
//
//     out[row, column] = the sum over k of a[row, k] * b[k, column]
//
//     a, b, out    (n, n) floats
//     launch       blocks of 8 x 8 threads; blockIdx.x counts tiles of columns of out, blockIdx.y tiles of rows
//
// A thread computes one element of out. If each of them read its row of a and its column of b from global memory, every
// number would be read n times. Let the block load tiles of 8 x 8 that its 64 threads share: then it is n / 8 times.
//
// Check it:  python -m learn.puzzles check tiled_matmul

extern "C" __global__ void tiled_matmul(const float *a, const float *b, float *out, int n)
{
    __shared__ float tile_a[8][8], tile_b[8][8];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * 8 + ty;
    int column = blockIdx.x * 8 + tx;
    // FILL IN
}
