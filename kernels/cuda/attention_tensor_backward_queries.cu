// Backward of attention_tensor_forward.cu for the queries; attention_tensor_backward_keys.cu does the rest.
//
// Backward in one pass over tiles of keys would have five products for each pair of tiles: s, dp, dv, dk, dq. But every
// tile of keys adds to dq of all later queries: by atomics, whose order is not fixed, or through float32 sums in device
// memory, 8 D bytes for each query and tile of keys. So there are two kernels, as in attention.cu, with 3 + 4 products;
// each result has one owner, who adds in a fixed order. Here a block owns q and g, and streams k and v:
//
//     s = q k^T    dp = g v^T    ds = p (r dp - delta)    dq += ds k
//
// p = 2^(s c - lse log2 e) with c = scale log2 e. A score has the same bits in all three kernels: its products are
// exact, and are added in the same order. delta_i = g_i . y_i is computed first, and left with lse log2 e of each query
// in rows (B, H, T, 2) for the other kernel.
//
// Grid: (B * H, tiles of BLOCK_M queries). Block: THREADS. Dynamic shared memory: two stages of a tile of keys and one of
// values, 4 * BLOCK_N * HEAD * 2 bytes. The owned tiles pass through it first, so BLOCK_M is at most 2 * BLOCK_N.

#include "tensor_cores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_tensor_backward_queries(const storage *__restrict__ g, const storage *__restrict__ qkv,
                                  const storage *__restrict__ y, const float *__restrict__ lse,
                                  float *__restrict__ rows, storage *__restrict__ gqkv, int T, int H, int G, int D,
                                  float scale, unsigned threshold, float keep_scale, unsigned seed_low,
                                  unsigned seed_high, unsigned first_row)
{
    extern __shared__ uint4 shared_memory[];
    char *stages = reinterpret_cast<char *>(shared_memory);  // [2][keys, values]
    const int b = blockIdx.x / H, h = blockIdx.x % H, N = H + 2 * G, key = H + h / (H / G);  // heads among the N
    const auto q = head_of(qkv, b, h, N, T, D), k = head_of(qkv, b, key, N, T, D), v = head_of(qkv, b, key + G, N, T, D);
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const long long head_row = (long long)blockIdx.x * T;
    const int first_query = (gridDim.y - 1 - blockIdx.y) * BLOCK_M;
    const int end_key = min(first_query + BLOCK_M, T);
    const int warp_query = first_query + first_row_of_warp();
    const int last_query = warp_query < T ? min(warp_query + 16 * M_TILES, T) - 1 : -1;
    const float c = scale * LOG2_E;

    Owned queries, gradients;
    Output output;
    float row_lse[M_TILES][2], delta[M_TILES][2];
    unsigned keep_keys[M_TILES][2];
    clear(output);

    copy_tile<BLOCK_M>(stages, head_of(g, b, h, H, T, D), first_query);
    copy_tile<BLOCK_M>(stages + 2 * TILE_BYTES, head_of(y, b, h, H, T, D), first_query);
    wait_for_copies();
    __syncthreads();
    load_owned(gradients, address_of(stages));
    load_owned(queries, address_of(stages) + 2 * TILE_BYTES);  // y, for now
    __syncthreads();
    copy_tile<BLOCK_M>(stages + 2 * TILE_BYTES, q, first_query);
    copy_tile<BLOCK_N>(stages, k, 0);
    copy_tile<BLOCK_N>(stages + TILE_BYTES, v, 0);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float part = 0.0f;
#pragma unroll
            for (int k = 0; k < HEAD / 16; k++)
#pragma unroll
                for (int i = half; i < 4; i += 2) {
                    unsigned a = gradients[m][k][i], b = queries[m][k][i];
                    part = fmaf(unpack((unsigned short)a), unpack((unsigned short)b), part);
                    part = fmaf(unpack((unsigned short)(a >> 16)), unpack((unsigned short)(b >> 16)), part);
                }
            int i = first_query + tile_row(m, half);
            delta[m][half] = row_sum(part);
            row_lse[m][half] = LOG2_E * lse[head_row + min(i, T - 1)];  // rows beyond T are computed, and not stored
            if (DROPOUT) keep_keys[m][half] = row_key(dropout, (unsigned)head_row + i);
            if (lane() % 4 == 0 && i < T) {
                rows[2 * (head_row + i)] = row_lse[m][half];
                rows[2 * (head_row + i) + 1] = delta[m][half];
            }
        }
    wait_for_copies();
    __syncthreads();
    load_owned(queries, address_of(stages) + 2 * TILE_BYTES);

    for (int first_key = 0, stage = 0; first_key < end_key; first_key += BLOCK_N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();
        if (first_key + BLOCK_N < end_key) {
            char *next = stages + (stage ^ 1) * 2 * TILE_BYTES;
            copy_tile<BLOCK_N>(next, k, first_key + BLOCK_N);
            copy_tile<BLOCK_N>(next + TILE_BYTES, v, first_key + BLOCK_N);
        }
        const unsigned tile = address_of(stages) + stage * 2 * TILE_BYTES;

#pragma unroll 1
        for (int strip = 0; strip < BLOCK_N; strip += STRIP) {
            const int first_col = first_key + strip;
            if (first_col > last_query) break;
            Scores scores, products;  // q . k and g . v
            Weights weights;
            compute_scores(scores, queries, tile + strip * ROW_BYTES);
            if (first_col + STRIP - 1 > warp_query) mask_scores<false>(scores, first_query, first_col);
            compute_scores(products, gradients, tile + TILE_BYTES + strip * ROW_BYTES);
#pragma unroll
            for (int m = 0; m < M_TILES; m++)
#pragma unroll
                for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int half = i / 2;
                        float p = exp2_approx(fmaf(scores[m][n][i], c, -row_lse[m][half])), dp = products[m][n][i];
                        if (DROPOUT) dp = is_kept(dropout, keep_keys[m][half], first_col + tile_col(n) + i % 2) ? keep_scale * dp : 0.0f;
                        scores[m][n][i] = p * (dp - delta[m][half]);
                    }
            round_weights(weights, scores);
            accumulate_output(output, weights, tile + strip * ROW_BYTES);
        }
    }

    for (int m = 0; m < M_TILES; m++) delta[m][0] = delta[m][1] = scale;
    store_output(head_of(gqkv, b, h, N, T, D), first_query, output, delta);
}
