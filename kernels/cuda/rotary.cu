// Rotary positions (Su et al. 2021): the halves x1, x2 of each vector are pairs (x1_i, x2_i), and at position t each
// pair is rotated by the angle a_i = t theta^(-2i/D), whose cosine and sine are in a table:
//
//     y1 = x1 cos a - x2 sin a        y2 = x2 cos a + x1 sin a
//
// The vector-Jacobian product is the same kernel with a table of the angles -a.
//
//     x, y  (B, T, N, D)      of each position's N vectors the first `count` are rotated, the others copied
//     table (T, 2, D / 2)     cosines, then sines; it is small and stays in the cache. If it is shorter, `half` rather
//                             than D / 2, only the first 2 half numbers of a vector are rotated, the rest copied
//
// A row is what one position holds, N D numbers; a thread reads a whole pair before it writes one, so y may be x.
//
// Options: ROW_THREADS (see rows.cuh).

#include "rows.cuh"

extern "C" __global__ void ROW_BOUNDS
rotary(const storage *x, const float *__restrict__ table, storage *y, long long rows, int time, int columns, int size,
       int half, int count)
{
    long long row = this_row();
    if (row >= rows) return;
    const float *cosines = table + row % time * 2 * half, *sines = cosines + half;
    x += row * columns;
    y += row * columns;
    for (int pair = threadIdx.x; pair < count * half; pair += ROW_THREADS) {
        int i = pair % half, first = pair / half * size + i;
        float x1 = load(x[first]), x2 = load(x[first + half]);
        y[first] = store(x1 * cosines[i] - x2 * sines[i]);
        y[first + half] = store(x2 * cosines[i] + x1 * sines[i]);
    }
    if (x == y) return;
    for (int col = threadIdx.x; col < columns; col += ROW_THREADS)
        if (col >= count * size || col % size >= 2 * half) y[col] = x[col];
}
