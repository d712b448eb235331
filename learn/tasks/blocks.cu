// Puzzle blocks: add 10 to each number, with several blocks.
//
//     out[i] = a[i] + 10    for i < n
//
//     a, out    n floats
//     launch    4 blocks of 32 threads, n <= 128
//
// A block has at most 1024 threads, but there may be many blocks. blockIdx.x is the number of the block, blockDim.x how
// many threads a block has.
//
// Check it:  python -m learn.puzzles check blocks

extern "C" __global__ void blocks(const float *a, float *out, int n)
{
    int i = 0;  // FILL IN: which element has this thread?
}
