// Causal self-attention without a T x T array in device memory ("flash attention"; Dao et al. 2022, Dao 2023).
//
//     B batch, T time, H heads of queries, G of keys and of values, D head size; i a query's position, j a key's, j <= i
//     qkv (B, T, H + 2 G, D)   the packed output of one linear layer: queries, keys, values
//     y   (B, T, H, D)         the attention's output, ready for the next linear layer
//     lse (B, H, T)            log sum_j exp(s_ij), all that backward needs to know of the softmax
//
// Grouped queries (Ainslie et al. 2023): R = H / G neighboring heads of queries share a head of keys and one of values.
// In GPT-2, H = G. Their gradients are computed for each head of queries, and added up by the launcher.
//
// Forward, for each query i:
//     s_ij = scale * q_i . k_j          scores of the visible keys j <= i
//     p_ij = exp(s_ij) / sum_j exp(s_ij)
//     y_i  = sum_j p_ij r_ij v_j        r_ij = keep_ij / (1 - p) under dropout, else 1
//
//   A block owns BLOCK_M queries and walks over the keys in tiles of BLOCK_N. It holds, per query, the running maximum
//   m, the running sum l of exp(s_ij - m), and the sum o of exp(s_ij - m) r_ij v_j. When a tile raises the maximum from
//   m to m', both sums are rescaled by exp(m - m'). At the end y = o / l and lse = m + log l. Dropout does not change
//   l: it acts on the normalized probabilities.
//
// Backward, with g = dL/dy:
//     dv_j  = sum_i p_ij r_ij g_i
//     dp_ij = r_ij (g_i . v_j)
//     ds_ij = p_ij (dp_ij - delta_i)    softmax's backward; delta_i = sum_j p_ij dp_ij
//     dq_i  = scale * sum_j ds_ij k_j
//     dk_j  = scale * sum_i ds_ij q_i
//
//   delta_i needs no sum over keys: sum_j p_ij r_ij (g_i . v_j) = g_i . sum_j p_ij r_ij v_j = g_i . y_i.
//   The scores are recomputed, and p_ij = exp(s_ij - lse_i) needs neither a maximum nor a sum. They must have the same
//   bits as in forward: near 1e4 one unit in the last place is 1e-3, and it is in an exponent. So all kernels scale the
//   queries while loading them and accumulate over d in the same order.
//   attention_backward_queries owns BLOCK_M queries and walks over keys; attention_backward_keys owns BLOCK_M keys and
//   walks over queries. Each result has one owner, who adds in a fixed order: no atomics, so the same bits every time.
//
// Options: HEAD      D rounded up to 32, 64, 96 or 128 (the tiles' columns beyond D are zero)
//          BLOCK_M   rows that a block owns: a multiple of 8
//          BLOCK_N   rows of the tiles that stream past: a multiple of 16
//
// Grid: (B * H, tiles), as gridDim.x may exceed 65,535. Block: THREADS. Dynamic shared memory, in floats:
//     BLOCK_M * HEAD per owned tile (one in forward, two in backward) + BLOCK_N * HEAD + BLOCK_M * BLOCK_N

#include "random.cuh"
#include "warp.cuh"

#define LANES 16                       // threads that share the rows of a score tile: half a warp
#define ROWS 4                         // rows of a score tile per thread
#define COLS (BLOCK_N / LANES)         // columns of a score tile per thread
#define WIDTH (HEAD / LANES)           // columns of an output tile per thread
#define THREADS (BLOCK_M / ROWS * LANES)
#define CHUNKS (HEAD / 4)              // float4s in a tile's row
#define NEG_INF (-__int_as_float(0x7f800000))

// Registers allow 512 threads of 128 each on a multiprocessor, two blocks of 256. Wide heads' backward needs more.
#define FORWARD_BOUNDS __launch_bounds__(THREADS, 512 / THREADS)
#define BACKWARD_BOUNDS __launch_bounds__(THREADS, (HEAD <= 64 ? 512 : 256) / THREADS)

// ---- a thread's place ----------------------------------------------------------------------------------------------
// Score tiles are BLOCK_M x BLOCK_N; the thread (lane, group) holds rows group * ROWS + r and columns lane + c * LANES.
// The 16 lanes of a group are in one warp, so a row is reduced by shuffles and passed on without a block barrier.

__device__ inline int lane() { return threadIdx.x % LANES; }
__device__ inline int group() { return threadIdx.x / LANES; }
__device__ inline int tile_row(int r) { return group() * ROWS + r; }
__device__ inline int tile_col(int c) { return lane() + c * LANES; }

// Output tiles are BLOCK_M x HEAD; the same thread holds the same rows and WIDTH / 2 pairs of neighboring columns.
__device__ inline int output_col(int pair) { return 32 * pair + 2 * lane(); }

__device__ inline float group_sum(float value)
{
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ inline float group_max(float value)
{
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

// ---- tiles in shared memory ----------------------------------------------------------------------------------------
// A tile holds rows of HEAD floats, as CHUNKS float4s each. Where lanes read different rows at the same column, rows of
// a multiple of 32 floats would all start in the same bank; so a streamed tile keeps chunk c of row t at chunk
// c ^ (t & 7) ("swizzled"): eight neighboring rows then cover the 32 banks, as they would with padding, but in no more
// memory. Owned tiles are not swizzled: all lanes of a group read the same row of them.

template <class Number>  // float, or const float where it is only read
struct Matrix {           // rows of D numbers in device memory: one of q, k, v, g, y of one head
    Number *data;
    long long stride;  // from row to row
    int rows, columns;
    bool aligned;  // each row starts at a multiple of 16 bytes
    float factor;  // applied when a tile is loaded
};

__device__ inline bool rows_aligned(const float *data, int D) { return D % 4 == 0 && (size_t)data % 16 == 0; }

__device__ inline float4 load4(const float *p, int left, bool aligned)
{
    if (aligned && left >= 4) return *reinterpret_cast<const float4 *>(p);
    return make_float4(left > 0 ? p[0] : 0.0f, left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f, left > 3 ? p[3] : 0.0f);
}

// Copy `count` rows from `first` on; what is outside the matrix becomes 0, which adds nothing to any product.
template <int count, bool swizzled>
__device__ inline void load_tile(float *tile, const Matrix<const float> &source, int first)
{
    for (int i = threadIdx.x; i < count * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + row < source.rows)
            value = load4(source.data + (first + row) * source.stride + 4 * chunk, source.columns - 4 * chunk,
                          source.aligned);
        value = make_float4(source.factor * value.x, source.factor * value.y, source.factor * value.z,
                            source.factor * value.w);
        int place = swizzled ? chunk ^ (row & 7) : chunk;
        reinterpret_cast<float4 *>(tile)[row * CHUNKS + place] = value;
    }
}

__device__ inline void load_owned(float *tile, const Matrix<const float> &source, int first)
{
    load_tile<BLOCK_M, false>(tile, source, first);
}

// Two barriers: one until nobody reads the tile that is there, one until the new one is complete.
__device__ inline void load_stream(float *tile, const Matrix<const float> &source, int first)
{
    __syncthreads();
    load_tile<BLOCK_N, true>(tile, source, first);
    __syncthreads();
}

// ---- the two products ----------------------------------------------------------------------------------------------

// scores = owned . stream^T    (BLOCK_M, HEAD) @ (BLOCK_N, HEAD)^T -> (BLOCK_M, BLOCK_N)
// Each step reads ROWS + COLS float4s for 4 * ROWS * COLS multiply-adds.
__device__ inline void compute_scores(float (&scores)[ROWS][COLS], const float *owned, const float *stream)
{
    const float4 *left = reinterpret_cast<const float4 *>(owned) + group() * ROWS * CHUNKS;
    const float4 *right = reinterpret_cast<const float4 *>(stream) + lane() * CHUNKS;
    int swizzle = lane() & 7;  // the same for all columns lane + c * LANES
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLS; c++) scores[r][c] = 0.0f;

#pragma unroll 4
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        float4 a[ROWS], b[COLS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) a[r] = left[r * CHUNKS + chunk];
#pragma unroll
        for (int c = 0; c < COLS; c++) b[c] = right[c * LANES * CHUNKS + (chunk ^ swizzle)];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLS; c++) {
                float sum = scores[r][c];
                sum = fmaf(a[r].x, b[c].x, sum);
                sum = fmaf(a[r].y, b[c].y, sum);
                sum = fmaf(a[r].z, b[c].z, sum);
                scores[r][c] = fmaf(a[r].w, b[c].w, sum);
            }
    }
}

// output += weights @ stream    (BLOCK_M, BLOCK_N) @ (BLOCK_N, HEAD) -> (BLOCK_M, HEAD)
// A group wrote the weights of its own rows, so the warp's barrier is enough: before reading them, and before they are
// written again.
__device__ inline void accumulate_output(float (&output)[ROWS][WIDTH], const float *weights, const float *stream)
{
    __syncwarp();
#pragma unroll 2
    for (int col = 0; col < BLOCK_N; col += 4) {
        float weight[ROWS][4];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            *reinterpret_cast<float4 *>(weight[r]) =
                *reinterpret_cast<const float4 *>(weights + tile_row(r) * BLOCK_N + col);
#pragma unroll
        for (int u = 0; u < 4; u++) {
            int row = col + u;
            // where load_tile's swizzle put columns 2 * lane() and 2 * lane() + 1 of each pair's 32
            int place = 4 * ((lane() / 2) ^ (row & 7)) + 2 * (lane() % 2);
#pragma unroll
            for (int pair = 0; pair < WIDTH / 2; pair++) {
                float2 value = *reinterpret_cast<const float2 *>(stream + row * HEAD + 32 * pair + place);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    output[r][2 * pair] = fmaf(weight[r][u], value.x, output[r][2 * pair]);
                    output[r][2 * pair + 1] = fmaf(weight[r][u], value.y, output[r][2 * pair + 1]);
                }
            }
        }
    }
    __syncwarp();
}

__device__ inline void clear(float (&output)[ROWS][WIDTH])
{
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int w = 0; w < WIDTH; w++) output[r][w] = 0.0f;
}

// Write factor * output to the rows from `first` on of a matrix in device memory.
__device__ inline void store_output(const Matrix<float> &target, int first, const float (&output)[ROWS][WIDTH],
                                    const float (&factor)[ROWS])
{
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int row = first + tile_row(r);
        if (row >= target.rows) continue;
#pragma unroll
        for (int pair = 0; pair < WIDTH / 2; pair++) {
            int col = output_col(pair);
            float *p = target.data + row * target.stride + col;
            float2 value = make_float2(factor[r] * output[r][2 * pair], factor[r] * output[r][2 * pair + 1]);
            if (target.aligned && col + 1 < target.columns) {
                *reinterpret_cast<float2 *>(p) = value;
            } else {
                if (col < target.columns) p[0] = value.x;
                if (col + 1 < target.columns) p[1] = value.y;
            }
        }
    }
}

// ---- dropout -------------------------------------------------------------------------------------------------------

// r_ij for the score in row `row` = (b * H + h) * T + i and column j.
__device__ inline float dropout_factor(const Dropout &dropout, unsigned row, int column)
{
    if (dropout.threshold == 0) return 1.0f;
    return is_kept(dropout, row_key(dropout, row), column) ? dropout.keep_scale : 0.0f;
}

// ---- kernels -------------------------------------------------------------------------------------------------------

// One of the N heads in x (B, T, N, D), which is qkv, y or g.
template <class Number>
__device__ inline Matrix<Number> head_of(Number *x, int b, int head, int N, int T, int D, float factor = 1.0f)
{
    long long stride = (long long)N * D;
    return {x + b * T * stride + (long long)head * D, stride, T, D, rows_aligned(x, D), factor};
}

extern "C" __global__ void FORWARD_BOUNDS
attention_forward(const float *__restrict__ qkv, float *__restrict__ y, float *__restrict__ lse, int T, int H, int G,
                  int D, float scale, unsigned threshold, float keep_scale, unsigned seed_low, unsigned seed_high,
                  unsigned first_row)
{
    extern __shared__ float4 shared_memory[];
    float *queries = reinterpret_cast<float *>(shared_memory);  // (BLOCK_M, HEAD)
    float *stream = queries + BLOCK_M * HEAD;                   // (BLOCK_N, HEAD): keys, then values
    float *weights = stream + BLOCK_N * HEAD;                   // (BLOCK_M, BLOCK_N)
    const int b = blockIdx.x / H, h = blockIdx.x % H, N = H + 2 * G, key = H + h / (H / G);  // heads among the N
    const auto q = head_of(qkv, b, h, N, T, D, scale), k = head_of(qkv, b, key, N, T, D);
    const auto v = head_of(qkv, b, key + G, N, T, D);
    const auto out = head_of(y, b, h, H, T, D);
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const long long head_row = (long long)blockIdx.x * T;           // of this head in lse
    const int first_query = (gridDim.y - 1 - blockIdx.y) * BLOCK_M;  // blocks with the most keys start first
    const int end_key = min(first_query + BLOCK_M, T);               // no query here sees a later key

    float row_max[ROWS], sum[ROWS], output[ROWS][WIDTH];  // m, this thread's part of l, o
    for (int r = 0; r < ROWS; r++) row_max[r] = LOWEST, sum[r] = 0.0f;
    clear(output);
    load_owned(queries, q, first_query);

    for (int first_key = 0; first_key < end_key; first_key += BLOCK_N) {
        float scores[ROWS][COLS];
        load_stream(stream, k, first_key);
        compute_scores(scores, queries, stream);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int i = first_query + tile_row(r);
            float new_max = row_max[r];
#pragma unroll
            for (int c = 0; c < COLS; c++) {
                int j = first_key + tile_col(c);
                scores[r][c] = j <= i ? scores[r][c] : NEG_INF;  // exp(-inf) = 0
                new_max = fmaxf(new_max, scores[r][c]);
            }
            new_max = group_max(new_max);
            float rescale = __expf(row_max[r] - new_max);
            row_max[r] = new_max;
            sum[r] *= rescale;
#pragma unroll
            for (int w = 0; w < WIDTH; w++) output[r][w] *= rescale;
#pragma unroll
            for (int c = 0; c < COLS; c++) {
                int j = first_key + tile_col(c);
                float p = __expf(scores[r][c] - new_max);
                sum[r] += p;
                weights[tile_row(r) * BLOCK_N + tile_col(c)] = p * dropout_factor(dropout, head_row + i, j);
            }
        }
        load_stream(stream, v, first_key);
        accumulate_output(output, weights, stream);
    }

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int i = first_query + tile_row(r);
        sum[r] = group_sum(sum[r]);
        if (lane() == 0 && i < T) lse[head_row + i] = row_max[r] + logf(sum[r]);
        sum[r] = 1.0f / sum[r];
    }
    store_output(out, first_query, output, sum);
}

// delta (B, H, T) = sum over D of g * y: one warp per row of g, rows in the order (b, t, h).
extern "C" __global__ void __launch_bounds__(256)
attention_delta(const float *__restrict__ g, const float *__restrict__ y, float *__restrict__ delta, long long rows,
                int T, int H, int D)
{
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int d = threadIdx.x % 32; d < D; d += 32) sum = fmaf(g[row * D + d], y[row * D + d], sum);
    sum = warp_sum(sum);
    long long b = row / H / T, t = row / H % T, h = row % H;
    if (threadIdx.x % 32 == 0) delta[(b * H + h) * T + t] = sum;
}

extern "C" __global__ void BACKWARD_BOUNDS
attention_backward_queries(const float *__restrict__ g, const float *__restrict__ qkv, const float *__restrict__ lse,
                           const float *__restrict__ delta, float *__restrict__ gqkv, int T, int H, int G, int D,
                           float scale, unsigned threshold, float keep_scale, unsigned seed_low, unsigned seed_high,
                           unsigned first_row)
{
    extern __shared__ float4 shared_memory[];
    float *queries = reinterpret_cast<float *>(shared_memory);  // (BLOCK_M, HEAD)
    float *gradients = queries + BLOCK_M * HEAD;                // (BLOCK_M, HEAD)
    float *stream = gradients + BLOCK_M * HEAD;                 // (BLOCK_N, HEAD): values, then keys
    float *weights = stream + BLOCK_N * HEAD;                   // (BLOCK_M, BLOCK_N): ds
    const int b = blockIdx.x / H, h = blockIdx.x % H, N = H + 2 * G, key = H + h / (H / G);  // heads among the N
    const auto q = head_of(qkv, b, h, N, T, D, scale), k = head_of(qkv, b, key, N, T, D);
    const auto v = head_of(qkv, b, key + G, N, T, D);
    const auto gy = head_of(g, b, h, H, T, D);
    const auto gq = head_of(gqkv, b, h, N, T, D);
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const long long head_row = (long long)blockIdx.x * T;
    const int first_query = (gridDim.y - 1 - blockIdx.y) * BLOCK_M;
    const int end_key = min(first_query + BLOCK_M, T);

    float row_lse[ROWS], row_delta[ROWS], factor[ROWS], output[ROWS][WIDTH];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int i = min(first_query + tile_row(r), T - 1);  // rows beyond T are computed, and not stored
        row_lse[r] = lse[head_row + i];
        row_delta[r] = delta[head_row + i];
        factor[r] = scale;
    }
    clear(output);
    load_owned(queries, q, first_query);
    load_owned(gradients, gy, first_query);

    for (int first_key = 0; first_key < end_key; first_key += BLOCK_N) {
        float scores[ROWS][COLS], products[ROWS][COLS];  // q . k and g . v
        load_stream(stream, v, first_key);
        compute_scores(products, gradients, stream);
        load_stream(stream, k, first_key);
        compute_scores(scores, queries, stream);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLS; c++) {
                int i = first_query + tile_row(r), j = first_key + tile_col(c);
                float p = j <= i ? __expf(scores[r][c] - row_lse[r]) : 0.0f;
                float dp = products[r][c] * dropout_factor(dropout, head_row + i, j);
                weights[tile_row(r) * BLOCK_N + tile_col(c)] = p * (dp - row_delta[r]);
            }
        accumulate_output(output, weights, stream);
    }
    store_output(gq, first_query, output, factor);
}

// gk and gv of query head h are heads first + h and first + H + h of the M in gkv, which is gqkv if H = G.
extern "C" __global__ void BACKWARD_BOUNDS
attention_backward_keys(const float *__restrict__ g, const float *__restrict__ qkv, const float *__restrict__ lse,
                        const float *__restrict__ delta, float *__restrict__ gkv, int first, int M, int T, int H,
                        int G, int D, float scale, unsigned threshold, float keep_scale, unsigned seed_low, unsigned seed_high,
                        unsigned first_row)
{
    extern __shared__ float4 shared_memory[];
    float *keys = reinterpret_cast<float *>(shared_memory);  // (BLOCK_M, HEAD)
    float *values = keys + BLOCK_M * HEAD;                   // (BLOCK_M, HEAD)
    float *stream = values + BLOCK_M * HEAD;                 // (BLOCK_N, HEAD): queries, gradients, queries again
    float *weights = stream + BLOCK_N * HEAD;                // (BLOCK_M, BLOCK_N): p r, then ds, both transposed
    const int b = blockIdx.x / H, h = blockIdx.x % H, N = H + 2 * G, key = H + h / (H / G);  // heads among the N
    const auto q = head_of(qkv, b, h, N, T, D, scale), k = head_of(qkv, b, key, N, T, D);
    const auto v = head_of(qkv, b, key + G, N, T, D);
    const auto gy = head_of(g, b, h, H, T, D);
    const auto gk = head_of(gkv, b, first + h, M, T, D), gv = head_of(gkv, b, first + H + h, M, T, D);
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const long long head_row = (long long)blockIdx.x * T;
    const int first_key = blockIdx.y * BLOCK_M;

    float factor[ROWS], output_keys[ROWS][WIDTH], output_values[ROWS][WIDTH];
    clear(output_keys);
    clear(output_values);
    load_owned(keys, k, first_key);
    load_owned(values, v, first_key);

    // Queries before first_key see none of these keys.
    for (int first_query = first_key; first_query < T; first_query += BLOCK_N) {
        float scores[ROWS][COLS], products[ROWS][COLS];  // k . q and v . g
        load_stream(stream, q, first_query);
        compute_scores(scores, keys, stream);
        load_stream(stream, gy, first_query);
        compute_scores(products, values, stream);
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            int i = first_query + tile_col(c);
            float col_lse = i < T ? lse[head_row + i] : 0.0f, col_delta = i < T ? delta[head_row + i] : 0.0f;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int j = first_key + tile_row(r);
                float p = j <= i && i < T ? __expf(scores[r][c] - col_lse) : 0.0f;
                float keep_factor = dropout_factor(dropout, head_row + i, j);
                weights[tile_row(r) * BLOCK_N + tile_col(c)] = p * keep_factor;
                scores[r][c] = p * (products[r][c] * keep_factor - col_delta);  // ds
            }
        }
        accumulate_output(output_values, weights, stream);

        // The query tile is fetched again: holding both tiles would cost the second resident block its shared memory.
        load_stream(stream, q, first_query);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < COLS; c++) weights[tile_row(r) * BLOCK_N + tile_col(c)] = scores[r][c];
        accumulate_output(output_keys, weights, stream);
    }

    for (int r = 0; r < ROWS; r++) factor[r] = 1.0f;  // the streamed queries carry the scale already
    store_output(gk, first_key, output_keys, factor);
    store_output(gv, first_key, output_values, factor);
}
