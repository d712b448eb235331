// Rotary positions (Su et al. 2021): the halves x1, x2 of each vector are pairs (x1_i, x2_i), and at position t each
// pair is rotated by the angle a_i = t theta^(-2i/D), whose cosine and sine are in a table:
//
//     y1 = x1 cos a - x2 sin a        y2 = x2 cos a + x1 sin a
//
// The vector-Jacobian product is the same kernel with a table of the angles -a.
//
//     x, y  (B, T, N, D)      of each position's N vectors the first `count` are rotated, the others copied
//     table (T, 2, D / 2)     cosines, then sines; it is small and stays in the cache
//
// A row is what one position holds, N D numbers; a thread reads a whole pair before it writes one, so y may be x.
//
// Options: ROW_THREADS (see rows.cuh).

#include "rows.cuh"

extern "C" __global__ void ROW_BOUNDS
rotary(const float *x, const float *__restrict__ table, float *y, long long rows, int time, int columns, int half,
       int count)
{
    long long row = this_row();
    if (row >= rows) return;
    const float *cosines = table + row % time * 2 * half, *sines = cosines + half;
    x += row * columns;
    y += row * columns;
    for (int pair = threadIdx.x; pair < count * half; pair += ROW_THREADS) {
        int i = pair % half, first = 2 * pair - i;  // vector pair / half starts at 2 * (pair - i)
        float x1 = x[first], x2 = x[first + half];
        y[first] = x1 * cosines[i] - x2 * sines[i];
        y[first + half] = x2 * cosines[i] + x1 * sines[i];
    }
    if (x == y) return;
    for (int col = 2 * half * count + threadIdx.x; col < columns; col += ROW_THREADS) y[col] = x[col];
}
