// Puzzle stencil: add each number and its two neighbors.
//
//     out[i] = a[i - 1] + a[i] + a[i + 1]    for i < n; outside of a there is 0
//
//     a, out    n floats
//     launch    blocks of 32 threads, as many as n needs
//
// Read each number of a only once per block: 32, and one more on each side.
//
// Check it:  python -m learn.puzzles check stencil

extern "C" __global__ void stencil(const float *a, float *out, int n)
{
    __shared__ float tile[34];
    int t = threadIdx.x;
    int i = blockIdx.x * 32 + t;
    // FILL IN
}
