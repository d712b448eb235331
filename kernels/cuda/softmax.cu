// Softmax and log-softmax over the rows of a matrix, forward and backward.
//
// Forward.  y_j = exp(z_j - m) / s  with  z = scale * x,  m = max z,  s = sum exp(z_j - m).  Subtracting m first keeps
// exp below 1: float32 overflows above exp(88). The first pass over the row finds m and s together (see MaxSum in
// rows.cuh), the second writes y: 2 numbers moved per element for rows that stay in registers, 3 beyond.
//
// Causal.  The matrix is a stack of (queries, columns) score blocks; query i sees the first i + 1 + columns - queries
// columns. Masked columns are not read, and get the probability 0.
//
// Backward.  dy_j/dz_k = y_j (1[j = k] - y_k), so with g = dL/dy:
//     gx_k = scale * sum_j g_j y_j (1[j = k] - y_k) = scale * y_k * (g_k - sum_j g_j y_j)
// y is 0 in masked columns, and so is gx: backward needs no mask.
//
// Log-softmax.  y_j = z_j - m - log s, dy_j/dz_k = 1[j = k] - exp(y_k), so gx_k = g_k - exp(y_k) * sum_j g_j.
//
// Options: ROW_THREADS (see rows.cuh).

#include "rows.cuh"

extern "C" __global__ void ROW_BOUNDS
softmax_forward(const storage *__restrict__ x, storage *__restrict__ y, long long rows, int columns, float scale,
                int causal, int queries)
{
    long long row = this_row();
    if (row >= rows) return;
    x += row * columns;
    y += row * columns;
    int visible = columns;
    if (causal) visible = max(0, (int)(row % queries) + 1 + columns - queries);

    float cached[CACHED];
    auto fetch = [&](int col) { return scale * load(x[col]); };
    MaxSum total = {LOWEST, 0.0f};
    first_pass(visible, cached, fetch, [&](int, float z) { include(total, z); });
    total = row_merge(total);
    second_pass(visible, cached, fetch, [&](int col, float z) { y[col] = store(expf(z - total.max) / total.sum); });
    for (int col = visible + threadIdx.x; col < columns; col += ROW_THREADS) y[col] = store(0.0f);
}

extern "C" __global__ void ROW_BOUNDS
softmax_backward(const storage *__restrict__ g, const storage *__restrict__ y, storage *__restrict__ gx, long long rows,
                 int columns, float scale)
{
    long long row = this_row();
    if (row >= rows) return;
    g += row * columns;
    y += row * columns;
    gx += row * columns;

    float2 cached[CACHED];  // (g, y)
    auto fetch = [&](int col) { return make_float2(load(g[col]), load(y[col])); };
    float dot = 0.0f;
    first_pass(columns, cached, fetch, [&](int, float2 gy) { dot += gy.x * gy.y; });
    dot = row_sum(dot);
    second_pass(columns, cached, fetch, [&](int col, float2 gy) { gx[col] = store(scale * gy.y * (gy.x - dot)); });
}

extern "C" __global__ void ROW_BOUNDS
log_softmax_forward(const storage *__restrict__ x, storage *__restrict__ y, long long rows, int columns)
{
    long long row = this_row();
    if (row >= rows) return;
    x += row * columns;
    y += row * columns;

    float cached[CACHED];
    auto fetch = [&](int col) { return load(x[col]); };
    MaxSum total = {LOWEST, 0.0f};
    first_pass(columns, cached, fetch, [&](int, float z) { include(total, z); });
    total = row_merge(total);
    float log_sum = logf(total.sum);  // z - m first: both may be large, their difference is exact when it matters
    second_pass(columns, cached, fetch, [&](int col, float z) { y[col] = store(z - total.max - log_sum); });
}

extern "C" __global__ void ROW_BOUNDS
log_softmax_backward(const storage *__restrict__ g, const storage *__restrict__ y, storage *__restrict__ gx,
                     long long rows, int columns)
{
    long long row = this_row();
    if (row >= rows) return;
    g += row * columns;
    y += row * columns;
    gx += row * columns;

    float2 cached[CACHED];  // (g, y)
    auto fetch = [&](int col) { return make_float2(load(g[col]), load(y[col])); };
    float sum = 0.0f;
    first_pass(columns, cached, fetch, [&](int, float2 gy) { sum += gy.x; });
    sum = row_sum(sum);
    second_pass(columns, cached, fetch, [&](int col, float2 gy) { gx[col] = store(gy.x - expf(gy.y) * sum); });
}
