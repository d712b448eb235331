// Puzzle warp_sum: the sum of each row, by one warp.
//
//     out[row] = the sum of x[row, column] over all columns
//
//     x         (rows, columns) floats
//     out       rows floats
//     launch    one block of 32 threads per row, any number of columns
//
// 32 threads are a warp, and called its lanes. They can read each other's variables: in all of them,
// __shfl_down_sync(0xffffffff, value, d) is the `value` of the lane d places further on. No shared memory, no
// __syncthreads.
//
// Check it:  python -m learn.puzzles check warp_sum

extern "C" __global__ void warp_sum(const float *x, float *out, int columns)
{
    int lane = threadIdx.x;
    int row = blockIdx.x;
    // FILL IN
}
