// Puzzle online_softmax: the softmax of each row, with the maximum and the sum in one pass.
//
//     out[row, c] = exp(x[row, c] - m) / s    with m = the maximum of the row, s = the sum of exp(x[row, c] - m)
//
//     x, out    (rows, columns) floats
//     launch    one block of 32 threads (one warp) per row, any number of columns
//
// Read each number twice: once for m and s together, once for the result. When a larger number comes, the sum so far
// must be corrected. Flash attention is built on this idea.
//
// Check it:  python -m learn.puzzles check online_softmax

#define LOWEST -3.402823466e38f  // the smallest float that is finite

extern "C" __global__ void online_softmax(const float *x, float *out, int columns)
{
    int lane = threadIdx.x;
    x += blockIdx.x * columns;  // this warp's row
    out += blockIdx.x * columns;
    float m = LOWEST, s = 0.0f;
    // FILL IN
}
