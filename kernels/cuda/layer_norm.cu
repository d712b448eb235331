// Layer normalization over the last axis, forward and backward (Ba, Kiros and Hinton, 2016).
//
//     n = (x - mean) * rstd,  rstd = 1 / sqrt(mean((x - mean)^2) + eps),  y = n * weight + bias
//
// Forward takes care of values far from zero. It centers before squaring, as mean(x^2) - mean^2 would lose the
// variance; and the mean, found from a large and so coarsely rounded sum, is corrected by the residual mean after
// centering.
//
// Backward, with h = g * weight (the gradient with respect to n) and means over the C columns:
//     gx      = rstd * (h - mean(h) - n * mean(h * n))
//     gweight = sum over rows of g * n
//     gbias   = sum over rows of g
// The two sums over rows take two stages, each in a fixed order: a block sums a strip of rows for 32 columns into its
// own row of `partial`, then one thread per column adds the strips. No atomics, so the same bits every time.
//
// Rows of up to 1024 columns have a faster backward, layer_norm_backward.cu, in the same order of additions.
//
// mean, rstd, gweight and gbias are float, also where the other arrays have 16 bits; x and gx, the residual stream and
// its gradient, are of `stream`.
//
// Options: ROW_THREADS (see rows.cuh), WIDTH (storage.cuh) of forward.

#include "rows.cuh"

// ---- forward -----------------------------------------------------------------------------------------------------
// A thread takes WIDTH neighbouring columns at a time, so that rows.cuh's columns are here packs of them.

struct Floats {
    float of[WIDTH];
};

template <class Type> __device__ inline Floats load_floats(const Type *x)
{
    Pack<Type> pack = load_pack(x);
    Floats values;
    for (int j = 0; j < WIDTH; j++) values.of[j] = load(pack.of[j]);
    return values;
}

// y and the row's statistics from its values: first(pack) gets some, fetch(pack) the same again.
template <class First, class Fetch>
__device__ inline void normalize(long long row, int columns, float eps, const storage *weight, const storage *bias,
                                 int has_bias, storage *y, float *mean, float *rstd, unsigned *finished, First first,
                                 Fetch fetch)
{
    const int packs = columns / WIDTH;
    Floats cached[CACHED / WIDTH];
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
    first_pass(packs, cached, first, [&](int, const Floats &values) {
        for (int j = 0; j < WIDTH; j++) sum += values.of[j];
    });
    float center = row_sum(sum) / columns;
    second_pass(packs, cached, fetch, [&](int, const Floats &values) {
        for (int j = 0; j < WIDTH; j++) rest += values.of[j] - center;
    });
    center += row_sum(rest) / columns;
    second_pass(packs, cached, fetch, [&](int, const Floats &values) {
        for (int j = 0; j < WIDTH; j++) {
            float centered = values.of[j] - center;
            squares = fmaf(centered, centered, squares);
        }
    });
    float scale = 1.0f / sqrtf(row_sum(squares) / columns + eps);
    second_pass(packs, cached, fetch, [&](int pack, const Floats &values) {
        Floats weights = load_floats(weight + pack * WIDTH), shifts = {};
        if (has_bias) shifts = load_floats(bias + pack * WIDTH);
        Pack<storage> results;
        for (int j = 0; j < WIDTH; j++) {
            float n = (values.of[j] - center) * scale;
            results.of[j] = store(n * weights.of[j] + shifts.of[j]);
        }
        store_pack(y + row * columns + pack * WIDTH, results);
    });
    if (threadIdx.x == 0) {
        mean[row] = center;
        rstd[row] = scale;
        if (row == 0) finished[0] = 0;  // the blocks of backward that have finished, see layer_norm_backward.cu
    }
}

extern "C" __global__ void ROW_BOUNDS
layer_norm_forward(const stream *__restrict__ x, const storage *__restrict__ weight,
                   const storage *__restrict__ bias, storage *__restrict__ y, float *__restrict__ mean,
                   float *__restrict__ rstd, unsigned *__restrict__ finished, long long rows, int columns, float eps,
                   int has_bias)
{
    long long row = this_row();
    if (row >= rows) return;
    x += row * columns;
    auto fetch = [&](int pack) { return load_floats(x + pack * WIDTH); };
    normalize(row, columns, eps, weight, bias, has_bias, y, mean, rstd, finished, fetch, fetch);
}

// total = x + (added + added_bias), and layer norm of it, as it is stored.
extern "C" __global__ void ROW_BOUNDS
add_layer_norm_forward(const stream *__restrict__ x, const storage *__restrict__ added,
                       const storage *__restrict__ added_bias, const storage *__restrict__ weight,
                       const storage *__restrict__ bias, stream *total, storage *__restrict__ y,
                       float *__restrict__ mean, float *__restrict__ rstd, unsigned *__restrict__ finished,
                       long long rows, int columns, float eps, int has_added_bias, int has_bias)
{
    long long row = this_row();
    if (row >= rows) return;
    x += row * columns;
    added += row * columns;
    total += row * columns;
    auto add = [&](int pack) {
        Floats values = load_floats(x + pack * WIDTH), others = load_floats(added + pack * WIDTH), shifts = {};
        if (has_added_bias) shifts = load_floats(added_bias + pack * WIDTH);
        Pack<stream> sums;
        for (int j = 0; j < WIDTH; j++) {
            sums.of[j] = store<stream>(values.of[j] + (others.of[j] + shifts.of[j]));
            values.of[j] = load(sums.of[j]);  // as it is stored
        }
        store_pack(total + pack * WIDTH, sums);
        return values;
    };
    auto fetch = [&](int pack) { return load_floats(total + pack * WIDTH); };  // what this thread wrote itself
    normalize(row, columns, eps, weight, bias, has_bias, y, mean, rstd, finished, add, fetch);
}

// ---- backward ----------------------------------------------------------------------------------------------------

extern "C" __global__ void ROW_BOUNDS
layer_norm_backward(const storage *__restrict__ g, const stream *__restrict__ x, const storage *__restrict__ weight,
                    const float *__restrict__ mean, const float *__restrict__ rstd, stream *__restrict__ gx,
                    long long rows, int columns)
{
    long long row = this_row();
    if (row >= rows) return;
    g += row * columns;
    x += row * columns;
    gx += row * columns;
    float center = mean[row], scale = rstd[row];

    float2 cached[CACHED];  // (h, n)
    float sum_h = 0.0f, sum_hn = 0.0f;
    auto fetch = [&](int col) {
        return make_float2(load(g[col]) * load(weight[col]), (load(x[col]) - center) * scale);
    };
    first_pass(columns, cached, fetch, [&](int, float2 hn) {
        sum_h += hn.x;
        sum_hn = fmaf(hn.x, hn.y, sum_hn);
    });
    float mean_h = row_sum(sum_h) / columns, mean_hn = row_sum(sum_hn) / columns;
    second_pass(columns, cached, fetch,
                [&](int col, float2 hn) { gx[col] = store<stream>(scale * (hn.x - mean_h - hn.y * mean_hn)); });
}

// Stage one. Grid (ceil(C / 32), strips), block (32, STRANDS): strand k takes rows k, k + STRANDS, ... of the strip.
// partial (2, strips, C): gweight's, then gbias's.
#define STRANDS 8

extern "C" __global__ void __launch_bounds__(32 * STRANDS)
layer_norm_strips(const storage *__restrict__ g, const stream *__restrict__ x, const float *__restrict__ mean,
                  const float *__restrict__ rstd, float *__restrict__ partial, long long rows, int columns,
                  long long strip_rows)
{
    __shared__ float2 of_strand[STRANDS][32];
    int col = blockIdx.x * 32 + threadIdx.x;
    long long first = blockIdx.y * strip_rows, end = min(first + strip_rows, rows);
    float2 sum = make_float2(0.0f, 0.0f);
    if (col < columns)
        for (long long row = first + threadIdx.y; row < end; row += STRANDS) {
            float value = load(g[row * columns + col]);
            sum.x = fmaf(value, (load(x[row * columns + col]) - mean[row]) * rstd[row], sum.x);
            sum.y += value;
        }
    of_strand[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || col >= columns) return;
    for (int strand = 1; strand < STRANDS; strand++) {
        sum.x += of_strand[strand][threadIdx.x].x;
        sum.y += of_strand[strand][threadIdx.x].y;
    }
    partial[(long long)blockIdx.y * columns + col] = sum.x;
    partial[((long long)gridDim.y + blockIdx.y) * columns + col] = sum.y;
}

// Stage two. One thread per column of gweight (blockIdx.y = 0) and of gbias (1).
extern "C" __global__ void __launch_bounds__(128)
layer_norm_columns(const float *__restrict__ partial, float *__restrict__ gweight, float *__restrict__ gbias,
                   int strips, int columns)
{
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= columns) return;
    partial += (long long)blockIdx.y * strips * columns + col;
    float sum = 0.0f;
    for (int strip = 0; strip < strips; strip++) sum += partial[(long long)strip * columns];
    (blockIdx.y == 0 ? gweight : gbias)[col] = sum;
}
