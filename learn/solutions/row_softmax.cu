extern "C" __global__ void row_softmax(const float *x, float *out, int columns)
{
    __shared__ float scratch[64];
    int t = threadIdx.x;
    x += blockIdx.x * columns;  // this block's row
    out += blockIdx.x * columns;

    float largest = -INFINITY;
    for (int c = t; c < columns; c += 64) largest = fmaxf(largest, x[c]);
    scratch[t] = largest;
    __syncthreads();
    for (int offset = 32; offset > 0; offset /= 2) {
        if (t < offset) scratch[t] = fmaxf(scratch[t], scratch[t + offset]);
        __syncthreads();
    }
    float m = scratch[0];
    __syncthreads();  // all have read m before the sums overwrite it

    float sum = 0.0f;
    for (int c = t; c < columns; c += 64) sum += expf(x[c] - m);
    scratch[t] = sum;
    __syncthreads();
    for (int offset = 32; offset > 0; offset /= 2) {
        if (t < offset) scratch[t] += scratch[t + offset];
        __syncthreads();
    }
    for (int c = t; c < columns; c += 64) out[c] = expf(x[c] - m) / scratch[0];
}
