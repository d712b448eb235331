// Kernels that work on many tensors in one launch: a table of addresses, and blocks numbered through all of them.
//
// The launcher (tensors.py) gives tensor t the blocks first_blocks[t], first_blocks[t] + 1, ..., each for BLOCK_VALUES
// values of it, as many as cover its sizes[t] values.
//
// Option: BLOCK_VALUES

struct Span {
    int tensor;
    long long begin, end;  // the values of the tensor that this block works on
};

// The span of this block, found by bisection.
__device__ inline Span this_span(const long long *sizes, const int *first_blocks, int tensors)
{
    int low = 0, high = tensors, block = blockIdx.x;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first_blocks[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    long long begin = (long long)(block - first_blocks[low]) * BLOCK_VALUES;
    return {low, begin, min(begin + BLOCK_VALUES, sizes[low])};
}
