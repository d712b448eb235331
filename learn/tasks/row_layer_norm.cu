// Puzzle row_layer_norm: layer norm of each row.
//
//     out[row, c] = (x[row, c] - mean) / sqrt(variance + 1e-5) * w[c] + b[c]
//
//     mean, variance    of the row: variance = the mean of (x[row, c] - mean)^2
//     x, out            (rows, columns) floats
//     w, b              columns floats
//     launch            one block of 32 threads (one warp) per row, any number of columns
//
// The numbers of x lie around 100, and their variance is about 1.
//
// Check it:  python -m learn.puzzles check row_layer_norm

extern "C" __global__ void row_layer_norm(const float *x, const float *w, const float *b, float *out, int columns)
{
    int lane = threadIdx.x;
    x += blockIdx.x * columns;  // this warp's row
    out += blockIdx.x * columns;
    // FILL IN
}
