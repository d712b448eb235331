// Puzzle broadcast: add each number of a to each number of b.
//
//     out[row, column] = a[row] + b[column]
//
//     a         rows floats
//     b         columns floats
//     out       (rows, columns) floats
//     launch    1 block of 8 x 8 threads; rows, columns <= 8
//
// Check it:  python -m learn.puzzles check broadcast

extern "C" __global__ void broadcast(const float *a, const float *b, float *out, int rows, int columns)
{
    // FILL IN
}
