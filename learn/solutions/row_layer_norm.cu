extern "C" __global__ void row_layer_norm(const float *x, const float *w, const float *b, float *out, int columns)
{
    int lane = threadIdx.x;
    x += blockIdx.x * columns;  // this warp's row
    out += blockIdx.x * columns;
    float sum = 0.0f;
    for (int c = lane; c < columns; c += 32) sum += x[c];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
    float mean = sum / columns;
    float squares = 0.0f;
    for (int c = lane; c < columns; c += 32) squares += (x[c] - mean) * (x[c] - mean);
    for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffff, squares, offset);
    float scale = rsqrtf(squares / columns + 1e-5f);
    for (int c = lane; c < columns; c += 32) out[c] = (x[c] - mean) * scale * w[c] + b[c];
}
