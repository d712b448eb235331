// Puzzle block_sum: the sum of each block.
//
//     out[b] = the sum of a[i] for the 64 places i of block b, as far as i < n
//
//     a         n floats
//     out       one float per block
//     launch    blocks of 64 threads, as many as n needs
//
// Read each number of a once. Let all threads share the work: 32 additions at once, then 16, 8, 4, 2, 1.
//
// Check it:  python -m learn.puzzles check block_sum

extern "C" __global__ void block_sum(const float *a, float *out, int n)
{
    __shared__ float scratch[64];
    int t = threadIdx.x;
    int i = blockIdx.x * 64 + t;
    // FILL IN
}
