// Puzzle histogram: count how often each id occurs.
//
//     out[b] = how many of the n ids are b
//
//     ids       n ints, from 0 on
//     out       one int for each possible id, all 0 before the launch
//     launch    4 blocks of 32 threads, n <= 128
//
// Several threads may meet the same id at the same time.
//
// Check it:  python -m learn.puzzles check histogram

extern "C" __global__ void histogram(const int *ids, int *out, int n)
{
    // FILL IN
}
