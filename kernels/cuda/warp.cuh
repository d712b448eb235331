// What all reductions are made of: the lanes of a warp, and a number to start a maximum from.

#define ALL_LANES 0xffffffffu
#define LOWEST -3.402823466e38f  // the smallest finite float: a maximum to start from that is safe to subtract

// The sum over a warp, the same bits in each lane.
__device__ inline float warp_sum(float value)
{
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}
