// RMS normalization over the last axis, forward and backward (Zhang and Sennrich, 2019).
//
//     n = x * rstd,  rstd = 1 / sqrt(mean(x^2) + eps),  y = n * weight
//
// Backward, with h = g * weight (the gradient with respect to n) and a mean over the C columns:
//     gx      = rstd * (h - n * mean(h * n))
//     gweight = sum over rows of g * n, which layer_norm.cu computes, with means of 0
//
// Options: ROW_THREADS (see rows.cuh).

#include "rows.cuh"

extern "C" __global__ void ROW_BOUNDS
rms_norm_forward(const stream *__restrict__ x, const storage *__restrict__ weight, storage *__restrict__ y,
                 float *__restrict__ rstd, long long rows, int columns, float eps)
{
    long long row = this_row();
    if (row >= rows) return;
    x += row * columns;
    y += row * columns;

    float cached[CACHED], squares = 0.0f;
    auto fetch = [&](int col) { return load(x[col]); };
    first_pass(columns, cached, fetch, [&](int, float value) { squares = fmaf(value, value, squares); });
    float scale = 1.0f / sqrtf(row_sum(squares) / columns + eps);
    second_pass(columns, cached, fetch,
                [&](int col, float value) { y[col] = store(value * scale * load(weight[col])); });
    if (threadIdx.x == 0) rstd[row] = scale;
}

extern "C" __global__ void ROW_BOUNDS
rms_norm_backward(const storage *__restrict__ g, const stream *__restrict__ x, const storage *__restrict__ weight,
                  const float *__restrict__ rstd, stream *__restrict__ gx, long long rows, int columns)
{
    long long row = this_row();
    if (row >= rows) return;
    g += row * columns;
    x += row * columns;
    gx += row * columns;
    float scale = rstd[row];

    float2 cached[CACHED];  // (h, n)
    float sum_hn = 0.0f;
    auto fetch = [&](int col) { return make_float2(load(g[col]) * load(weight[col]), load(x[col]) * scale); };
    first_pass(columns, cached, fetch, [&](int, float2 hn) { sum_hn = fmaf(hn.x, hn.y, sum_hn); });
    float mean_hn = row_sum(sum_hn) / columns;
    second_pass(columns, cached, fetch, [&](int col, float2 hn) { gx[col] = store<stream>(scale * (hn.x - hn.y * mean_hn)); });
}
