// Puzzle shared: how many numbers of the block are smaller?
//
//     out[i] = how many of the 32 numbers of its block are smaller than a[i]
//
//     a         32 * blocks floats, all different
//     out       32 * blocks ints
//     launch    any number of blocks of 32 threads
//
// Each number may be read from global memory once. What all threads of a block need is kept in shared memory, which is
// much faster. A thread sees what another wrote there after both have passed a __syncthreads().
//
// Check it:  python -m learn.puzzles check shared

extern "C" __global__ void shared(const float *a, int *out)
{
    __shared__ float numbers[32];
    int i = blockIdx.x * 32 + threadIdx.x;
    // FILL IN
}
