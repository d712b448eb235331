// Puzzle map_2d: add 10 to each number of a matrix.
//
//     out[row, column] = a[row, column] + 10
//
//     a, out    (rows, columns) floats, one row after the other
//     launch    1 block of 8 x 8 threads; rows, columns <= 8
//
// A block may have up to three axes: threadIdx.x, threadIdx.y, threadIdx.z. Threads with neighboring threadIdx.x run
// together, so let that be the column.
//
// Check it:  python -m learn.puzzles check map_2d

extern "C" __global__ void map_2d(const float *a, float *out, int rows, int columns)
{
    int column = threadIdx.x;
    int row = threadIdx.y;
    // FILL IN
}
