// Puzzle dot: the dot product.
//
//     out[0] = the sum of a[i] * b[i] over i < n
//
//     a, b      n floats
//     out       1 float
//     launch    1 block of 128 threads, any n
//
// Read each number once.
//
// Check it:  python -m learn.puzzles check dot

extern "C" __global__ void dot(const float *a, const float *b, float *out, int n)
{
    __shared__ float scratch[128];
    int t = threadIdx.x;
    // FILL IN
}
