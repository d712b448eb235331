// Puzzle tiled_transpose: the transpose of a matrix.
//
//     out[column, row] = a[row, column]
//
//     a         (rows, columns) floats
//     out       (columns, rows) floats
//     launch    blocks of 16 x 16 threads; blockIdx.x counts tiles of columns, blockIdx.y tiles of rows of a
//
// A GPU reads and writes fast if threads with neighboring threadIdx.x use neighboring addresses. Without shared memory
// either the reads or the writes would be far apart. So load a tile, wait, store it transposed.
//
// The tile has 17 columns, of which 16 are used. Shared memory has 32 banks, with float i in bank i % 32. Threads of a
// warp that read different floats of one bank wait for each other. A column of a tile 16 wide lies in 2 banks, that of
// one 17 wide in 16.
//
// Check it:  python -m learn.puzzles check tiled_transpose

extern "C" __global__ void tiled_transpose(const float *a, float *out, int rows, int columns)
{
    __shared__ float tile[16][17];
    // FILL IN
}
