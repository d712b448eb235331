// Causal self-attention on tensor cores: attention.cu's formulas for arrays of 16 bits, as FlashAttention-2 computes
// them (Dao 2023, arXiv:2307.08691). Needs compute capability 8.0. Read attention.cu and tensor_cores.cuh first; the
// letters are attention.cu's.
//
//     qkv (B, T, H + 2 G, D)   float16 or bfloat16, as y (B, T, H, D) and all gradients
//     lse (B, H, T)            float32: log sum_j exp(s_ij)
//
// All sums are float32; only the operands of products have 16 bits: q, k, v, and the weights p_ij = exp(s_ij - m_i),
// which are at most 1. They are divided by their sum l_i (of the weights before rounding) at the end. exp is taken to
// base 2, so that a score costs one multiply-add and one exponential: p_ij = 2^(c q_i . k_j - c m_i), c = scale log2 e,
// with m_i the maximum of the products q_i . k_j, before they are scaled.
//
// Heads of up to 64 keep their queries in registers, wider ones in shared memory.
//
// Grid: (B * H, tiles of BLOCK_M queries). Block: THREADS. Dynamic shared memory: two stages of a tile of keys and one of
// values, and a tile of queries: (4 * BLOCK_N + BLOCK_M) * HEAD * 2 bytes.

#include "tensor_cores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_tensor_forward(const storage *__restrict__ qkv, storage *__restrict__ y, float *__restrict__ lse, int T,
                         int H, int G, int D, float scale, unsigned threshold, float keep_scale, unsigned seed_low,
                         unsigned seed_high, unsigned first_row)
{
    extern __shared__ uint4 shared_memory[];
    char *stages = reinterpret_cast<char *>(shared_memory);  // [2][keys, values], queries
    const int b = blockIdx.x / H, h = blockIdx.x % H, N = H + 2 * G, key = H + h / (H / G);  // heads among the N
    const auto q = head_of(qkv, b, h, N, T, D), k = head_of(qkv, b, key, N, T, D), v = head_of(qkv, b, key + G, N, T, D);
    const Dropout dropout = {threshold, keep_scale, seed_low, seed_high, first_row};
    const long long head_row = (long long)blockIdx.x * T;            // of this head in lse
    const int first_query = (gridDim.y - 1 - blockIdx.y) * BLOCK_M;  // blocks with the most keys start first
    const int end_key = min(first_query + BLOCK_M, T);               // no query here sees a later key
    const int warp_query = first_query + first_row_of_warp();
    const int last_query = warp_query < T ? min(warp_query + 16 * M_TILES, T) - 1 : -1;
    const float c = scale * LOG2_E;

    Owned queries;
    Output output;
    float top[M_TILES][2], sum[M_TILES][2];  // m, this thread's part of l
    unsigned keep_keys[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[m][half] = NEG_INF, sum[m][half] = 0.0f;
            if (DROPOUT) keep_keys[m][half] = row_key(dropout, (unsigned)head_row + first_query + tile_row(m, half));
        }
    clear(output);

    char *query_tile = stages + 4 * TILE_BYTES;
    copy_tile<BLOCK_M>(query_tile, q, first_query);
    copy_tile<BLOCK_N>(stages, k, 0);
    copy_tile<BLOCK_N>(stages + TILE_BYTES, v, 0);
    wait_for_copies();
    __syncthreads();
    if (HEAD <= 64) load_owned(queries, address_of(query_tile));

    for (int first_key = 0, stage = 0; first_key < end_key; first_key += BLOCK_N, stage ^= 1) {
        wait_for_copies();
        __syncthreads();  // the stage is complete, and nobody reads the other one any more
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
            Scores scores;
            Weights weights;
            if (HEAD <= 64) compute_scores(scores, queries, tile + strip * ROW_BYTES);
            else compute_scores(scores, address_of(query_tile), tile + strip * ROW_BYTES);
            if (first_col + STRIP - 1 > warp_query) mask_scores<false>(scores, first_query, first_col);
#pragma unroll
            for (int m = 0; m < M_TILES; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float new_top = top[m][half];
#pragma unroll
                    for (int n = 0; n < STRIP / 8; n++)
                        new_top = fmaxf(new_top, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                    new_top = row_max(new_top);
                    const float rescale = exp2_approx(c * (top[m][half] - new_top)), shift = c * new_top;
                    top[m][half] = new_top;
                    sum[m][half] *= rescale;
#pragma unroll
                    for (int n = 0; n < HEAD / 8; n++)
#pragma unroll
                        for (int i = 2 * half; i < 2 * half + 2; i++) output[m][n][i] *= rescale;
#pragma unroll
                    for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
                        for (int i = 2 * half; i < 2 * half + 2; i++) {
                            float p = exp2_approx(fmaf(scores[m][n][i], c, -shift));
                            sum[m][half] += p;
                            if (DROPOUT && !is_kept(dropout, keep_keys[m][half], first_col + tile_col(n) + i % 2)) p = 0.0f;
                            scores[m][n][i] = p;
                        }
                }
            round_weights(weights, scores);
            accumulate_output(output, weights, tile + TILE_BYTES + strip * ROW_BYTES);
        }
    }

#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = first_query + tile_row(m, half);
            float total = row_sum(sum[m][half]);
            if (lane() % 4 == 0 && i < T) lse[head_row + i] = LN_2 * (c * top[m][half] + log2f(total));
            sum[m][half] = (DROPOUT ? keep_scale : 1.0f) / total;
        }
    store_output(head_of(y, b, h, H, T, D), first_query, output, sum);
}
