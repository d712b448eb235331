#define D 8
#define LOWEST -3.402823466e38f  // the smallest float that is finite

extern "C" __global__ void flash_attention(const float *q, const float *k, const float *v, float *out, int T)
{
    __shared__ float tile_k[16][D], tile_v[16][D];
    int t = threadIdx.x;
    int i = blockIdx.x * 16 + t;
    float query[D], acc[D];
    float m = LOWEST, s = 0.0f;
    for (int d = 0; d < D; d++) query[d] = i < T ? q[i * D + d] : 0.0f;
    for (int d = 0; d < D; d++) acc[d] = 0.0f;
    for (int start = 0; start <= blockIdx.x * 16; start += 16) {
        for (int d = 0; d < D && start + t < T; d++) {  // the thread t loads the row t of both tiles
            tile_k[t][d] = k[(start + t) * D + d];
            tile_v[t][d] = v[(start + t) * D + d];
        }
        __syncthreads();
        for (int j = 0; j < 16 && start + j <= i && i < T; j++) {
            float score = 0.0f;
            for (int d = 0; d < D; d++) score += query[d] * tile_k[j][d];
            score *= rsqrtf((float)D);
            float m_new = fmaxf(m, score), scale = expf(m - m_new), p = expf(score - m_new);
            s = s * scale + p;
            for (int d = 0; d < D; d++) acc[d] = acc[d] * scale + p * tile_v[j][d];
            m = m_new;
        }
        __syncthreads();  // all have used the tiles before the next ones overwrite them
    }
    for (int d = 0; d < D && i < T; d++) out[i * D + d] = acc[d] / s;
}
