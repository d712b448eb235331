// Puzzle row_attention: causal attention of one head, one query per block.
//
//     score[j]  = (the sum over d of q[i, d] * k[j, d]) / sqrt(D)    for the keys j <= i
//     weight    = softmax of the scores
//     out[i, d] = the sum over j <= i of weight[j] * v[j, d]
//
//     q, k, v, out    (T, D) floats; T, D <= 32
//     launch          one block of 32 threads (one warp) per query: block i has query i
//
// Check it:  python -m learn.puzzles check row_attention

extern "C" __global__ void row_attention(const float *q, const float *k, const float *v, float *out, int D)
{
    __shared__ float weight[32];
    int i = blockIdx.x;
    int t = threadIdx.x;
    // FILL IN
}
