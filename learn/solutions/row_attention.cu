extern "C" __global__ void row_attention(const float *q, const float *k, const float *v, float *out, int D)
{
    __shared__ float weight[32];
    int i = blockIdx.x;
    int t = threadIdx.x;
    float score = -INFINITY;
    if (t <= i) {  // the thread t has the key t
        score = 0.0f;
        for (int d = 0; d < D; d++) score += q[i * D + d] * k[t * D + d];
        score *= rsqrtf((float)D);
    }
    float m = score;
    for (int offset = 16; offset > 0; offset /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, offset));
    float p = expf(score - m);
    float s = p;
    for (int offset = 16; offset > 0; offset /= 2) s += __shfl_xor_sync(0xffffffff, s, offset);
    weight[t] = p / s;
    __syncthreads();
    if (t < D) {  // the thread t has the column t of v
        float sum = 0.0f;
        for (int j = 0; j <= i; j++) sum += weight[j] * v[j * D + t];
        out[i * D + t] = sum;
    }
}
