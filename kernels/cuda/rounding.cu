// Copies of many float tensors in 16 bits, rounded to nearest even, in one launch.

#define BLOCK_VALUES 4096
#include "storage.cuh"
#include "tensors.cuh"

extern "C" __global__ void __launch_bounds__(256)
round_tensors(const float *const *tensors, storage *const *copies, const long long *__restrict__ sizes,
              const int *__restrict__ first_blocks, int count)
{
    Span span = this_span(sizes, first_blocks, count);
    const float *x = tensors[span.tensor];
    storage *y = copies[span.tensor];
    for (long long i = span.begin + threadIdx.x; i < span.end; i += 256) y[i] = store(x[i]);
}
