#define LOWEST -3.402823466e38f  // the smallest float that is finite

extern "C" __global__ void online_softmax(const float *x, float *out, int columns)
{
    int lane = threadIdx.x;
    x += blockIdx.x * columns;  // this warp's row
    out += blockIdx.x * columns;
    float m = LOWEST, s = 0.0f;
    for (int c = lane; c < columns; c += 32) {
        float value = x[c], m_new = fmaxf(m, value);
        s = s * expf(m - m_new) + expf(value - m_new);
        m = m_new;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        float m_other = __shfl_xor_sync(0xffffffff, m, offset);
        float s_other = __shfl_xor_sync(0xffffffff, s, offset);
        float m_new = fmaxf(m, m_other);
        s = s * expf(m - m_new) + s_other * expf(m_other - m_new);
        m = m_new;
    }
    for (int c = lane; c < columns; c += 32) out[c] = expf(x[c] - m) / s;
}
