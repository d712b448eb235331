// Puzzle guard: add 10 to each number, with more threads than numbers.
//
//     out[i] = a[i] + 10    for i < n
//
//     a, out    n floats
//     launch    1 block of 64 threads, n <= 64
//
// Threads that have no element must not touch memory: a[n] does not exist.
//
// Check it:  python -m learn.puzzles check guard

extern "C" __global__ void guard(const float *a, float *out, int n)
{
    int i = threadIdx.x;
    // FILL IN
}
