// Random bits that are a pure function of (seed, row, column): nothing is stored, backward recomputes
// the same bits, and so do the CPU kernels. All arithmetic is modulo 2^32.

// A bijection of 32-bit words that flips each output bit with probability close to 1/2 for each input bit: two rounds
// of xor-shift and multiply (constants from Wellons' hash-prospector search).
__device__ inline unsigned mix(unsigned h)
{
    h ^= h >> 16;
    h *= 0x21F0AAADu;
    h ^= h >> 15;
    h *= 0xD35A2D97u;
    h ^= h >> 15;
    return h;
}

// One dropout mask; see DropoutOptions in kernels/options.py.
struct Dropout {
    unsigned threshold;  // floor(p * 2^32), so a value is dropped with probability p
    float keep_scale;    // 1 / (1 - p)
    unsigned seed_low, seed_high;
    unsigned first_row;  // row 0 of this call in the whole batch
};

// The part of the hash that a whole row shares.
__device__ inline unsigned row_key(const Dropout &dropout, unsigned row)
{
    return mix(mix(dropout.seed_low ^ (dropout.first_row + row)) + dropout.seed_high);
}

__device__ inline bool is_kept(const Dropout &dropout, unsigned key, unsigned column)
{
    return mix(key + column * 0x9E3779B9u) >= dropout.threshold;
}
