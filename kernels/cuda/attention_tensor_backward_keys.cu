// Backward of attention_tensor_forward.cu for keys and values; run attention_tensor_backward_queries.cu first.
//
// A block owns rows of k and v of one of the G heads, and streams q and g of all R = H / G heads of queries that share
// it: their gradients add up in registers.
//
//     s^T = k q^T    dp^T = v g^T    dv += (p r)^T g    ds = p (r dp - delta)    dk += ds^T q
//
// It computes s^T, and not s, so that p^T and ds^T come out in the layout of A (tensor_cores.cuh), with a query's lse
// and delta to a column. The scale of s and the factor 1 / (1 - p) of dropout multiply the sums at the end.
//
// Grid: (B * G, tiles of BLOCK_M keys). Block: THREADS. Dynamic shared memory: two stages of a tile of queries and one of
// gradients, of rows and of the dropout mask's keys, and a tile of values, which stays there:
// (4 * BLOCK_N + BLOCK_M) * HEAD * 2 + 24 * BLOCK_N bytes. The keys pass through it first: BLOCK_M is at most 4 * BLOCK_N.

#include "tensor_cores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_tensor_backward_keys(const storage *__restrict__ g, const storage *__restrict__ qkv,
                               const float *__restrict__ rows, storage *__restrict__ gqkv, int T, int H, int G, int D,
                               float scale, unsigned threshold, float keep_scale, unsigned seed_low,
                               unsigned seed_high, unsigned first_row)
{
    extern __shared__ uint4 shared_memory[];
    char *stages = reinterpret_cast<char *>(shared_memory);                          // [2][queries, gradients]
    char *value_tile = stages + 4 * TILE_BYTES;                                      // (BLOCK_M, HEAD)
    float2 *stage_rows = reinterpret_cast<float2 *>(value_tile + BLOCK_M * ROW_BYTES);  // [2][BLOCK_N]
    unsigned *stage_keys = reinterpret_cast<unsigned *>(stage_rows + 2 * BLOCK_N);  // [2][BLOCK_N]: of the dropout mask
    const int b = blockIdx.x / G, group = blockIdx.x % G, R = H / G, N = H + 2 * G;
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const int first_key = blockIdx.y * BLOCK_M;
    const int warp_key = first_key + first_row_of_warp();
    const float c = scale * LOG2_E;

    // Begins to fill a stage with the tile from first_query on of the group's head r.
    auto copy_stage = [&](int stage, int r, int first_query) {
        const int h = group * R + r;
        const long long head_row = ((long long)b * H + h) * T;
        char *tile = stages + stage * 2 * TILE_BYTES;
        copy_tile<BLOCK_N>(tile, head_of(qkv, b, h, N, T, D), first_query);
        copy_tile<BLOCK_N>(tile + TILE_BYTES, head_of(g, b, h, H, T, D), first_query);
        if (threadIdx.x < BLOCK_N) {
            const int i = first_query + threadIdx.x, at = stage * BLOCK_N + threadIdx.x;
            copy_async_8(address_of(stage_rows + at), rows + 2 * (head_row + i), i < T ? 8 : 0);
            if (DROPOUT) stage_keys[at] = row_key(dropout, (unsigned)head_row + i);
        }
    };

    Owned keys;
    Output output_keys, output_values;
    clear(output_keys);
    clear(output_values);

    copy_tile<BLOCK_M>(stages, head_of(qkv, b, H + group, N, T, D), first_key);
    copy_tile<BLOCK_M>(value_tile, head_of(qkv, b, H + G + group, N, T, D), first_key);
    wait_for_copies();
    __syncthreads();
    load_owned(keys, address_of(stages));
    __syncthreads();
    copy_stage(0, 0, first_key);

    // Queries before first_key see none of these keys.
    for (int r = 0, first_query = first_key, stage = 0; r < R; stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (first_query + BLOCK_N < T) copy_stage(stage ^ 1, r, first_query + BLOCK_N);
        else if (r + 1 < R) copy_stage(stage ^ 1, r + 1, first_key);
        const unsigned tile = address_of(stages) + stage * 2 * TILE_BYTES;

#pragma unroll 1
        for (int strip = 0; strip < BLOCK_N; strip += STRIP) {
            const int first_col = first_query + strip;
            if (first_col >= T) break;
            if (first_col + STRIP - 1 < warp_key) continue;
            Scores scores, products;  // k . q and v . g
            Weights weights;
            compute_scores(scores, keys, tile + strip * ROW_BYTES);
            if (first_col < warp_key + 16 * M_TILES - 1) mask_scores<true>(scores, first_key, first_col);
            compute_scores(products, address_of(value_tile), tile + TILE_BYTES + strip * ROW_BYTES);
#pragma unroll
            for (int n = 0; n < STRIP / 8; n++) {
                // Beyond T all is zero: p is 1 there, and adds 1 * 0.
                const int at = stage * BLOCK_N + strip + tile_col(n);
                const float4 row = *reinterpret_cast<const float4 *>(stage_rows + at);
#pragma unroll
                for (int m = 0; m < M_TILES; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float col_lse = i % 2 ? row.z : row.x, delta = i % 2 ? row.w : row.y;
                        float p = exp2_approx(fmaf(scores[m][n][i], c, -col_lse)), dp = products[m][n][i];
                        scores[m][n][i] = p;
                        if (DROPOUT) {
                            const bool kept = is_kept(dropout, stage_keys[at + i % 2], first_key + tile_row(m, i / 2));
                            scores[m][n][i] = kept ? p : 0.0f;
                            dp = kept ? keep_scale * dp : 0.0f;
                        }
                        products[m][n][i] = p * (dp - delta);  // ds
                    }
            }
            round_weights(weights, scores);
            accumulate_output(output_values, weights, tile + TILE_BYTES + strip * ROW_BYTES);
            round_weights(weights, products);
            accumulate_output(output_keys, weights, tile + strip * ROW_BYTES);
        }
        first_query += BLOCK_N;
        if (first_query >= T) first_query = first_key, r++;
    }

    float factor[M_TILES][2];
    for (int m = 0; m < M_TILES; m++) factor[m][0] = factor[m][1] = scale;
    store_output(head_of(gqkv, b, H + group, N, T, D), first_key, output_keys, factor);
    for (int m = 0; m < M_TILES; m++) factor[m][0] = factor[m][1] = DROPOUT ? keep_scale : 1.0f;
    store_output(head_of(gqkv, b, H + G + group, N, T, D), first_key, output_values, factor);
}
