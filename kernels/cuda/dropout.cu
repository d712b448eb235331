// Dropout: y = x * keep / (1 - p), where keep is a hash of (seed, first_row + row, column), never stored (random.cuh).
// Its vector-Jacobian product is the same kernel applied to the gradient with the same seed.
//
// Options: ROW_THREADS (see rows.cuh).

#include "random.cuh"
#include "rows.cuh"

extern "C" __global__ void ROW_BOUNDS
dropout(const storage *__restrict__ x, storage *__restrict__ y, long long rows, int columns, unsigned threshold,
        float keep_scale, unsigned seed_low, unsigned seed_high, unsigned first_row)
{
    long long row = this_row();
    if (row >= rows) return;
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    unsigned key = row_key(dropout, (unsigned)row);
    for (int col = threadIdx.x; col < columns; col += ROW_THREADS)
        y[row * columns + col] = store(is_kept(dropout, key, col) ? load(x[row * columns + col]) * keep_scale : 0.0f);
}
