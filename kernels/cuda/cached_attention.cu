// Attention of a text's newest tokens to all of its tokens, whose keys and values are in a cache: what generation runs
// for every token. Split over the keys as in "Flash-Decoding" (Dao, Haziza, Massa and Sizov, 2023).
//
//     B texts, T new tokens of each, H heads of queries, G of keys and of values, D head size, S room in the cache
//     q            (B, T, H, D)    the newest tokens' queries
//     keys, values (B, G, S, D)    the cache, which is read where it lies
//     ends         (B,)            how many of the S positions a text has; those beyond are not read
//     y            (B, T, H, D)
//
// Query t of a text sees the positions j <= end - T + t, and with s_j = scale * q . k_j
//     y = sum_j exp(s_j - m) v_j / l,   m = max_j s_j,   l = sum_j exp(s_j - m)
//
// One query for each head means one multiply-add for each number of the cache: the time is that of reading it. So each
// number is read once, neighboring numbers by neighboring lanes, and many blocks read at the same time. A single text
// has only G heads of keys, too few for a GPU; so a block takes no more than SPLIT positions of a head. What it finds
// of them, a "part", is (m, l, o = sum_j exp(s_j - m) v_j), and parts of disjoint positions are merged by the formula
//     m = max_p m_p,   l = sum_p l_p exp(m_p - m),   o = sum_p o_p exp(m_p - m),   y = o / l
// That is done by shuffles for the lanes of a warp, in shared memory for the warps of a block, and by
// cached_attention_merge for the blocks of a text: always in the same order, so the same bits every time. They do not
// depend on the other texts either, as where the parts begin does not.
//
// Grouped queries: R = H / G neighboring heads of queries share a head of keys. A block takes ROWS of their R T
// queries, so that each number it reads serves so many.
//
// A warp. LANES lanes, a group, hold one key and its value, VALUES columns each, so a warp reads GROUPS keys that lie
// side by side in memory, and STEPS times as many before it waits for any. A lane has the same columns of the ROWS
// queries and of their o. A group's lanes add up q . k_j by shuffles; then each goes on with its own columns, and knows
// m and l of the keys that its group has seen.
//
// Options: LANES    8, 16 or 32: 4 * LANES is at least D
//          ROWS     queries of a block: 1 or 4
//          STORAGE, WIDTH (storage.cuh): D is a multiple of WIDTH

#include "storage.cuh"
#include "warp.cuh"

#define SPLIT 128  // positions of a block, as in cached_attention.py
#define WARPS 4    // of a block
#define VALUES 4   // columns of a lane
#define STEPS 4    // keys that a lane loads at once
#define GROUPS (32 / LANES)
#define HEAD (LANES * VALUES)
#define BOUNDS(blocks) __launch_bounds__(32 * WARPS, blocks)  // so many fit into a multiprocessor's registers
#define NEG_INF (-__int_as_float(0x7f800000))

// ---- a lane's place -------------------------------------------------------------------------------------------------

__device__ inline int group() { return threadIdx.x % 32 / LANES; }

// A lane's columns are VALUES / WIDTH packs of WIDTH, so that neighboring lanes read neighboring packs.
__device__ inline int column(int i) { return (i / WIDTH * LANES + threadIdx.x % LANES) * WIDTH + i % WIDTH; }

// The lane's columns of a row of D numbers; columns beyond D, and rows that do not exist, are 0.
__device__ inline void load_row(float (&values)[VALUES], const storage *row, int D, bool exists)
{
#pragma unroll
    for (int i = 0; i < VALUES; i += WIDTH) {
        if (exists && column(i) < D) {
            const Pack<storage> pack = load_pack(row + column(i));
            for (int w = 0; w < WIDTH; w++) values[i + w] = load(pack.of[w]);
        } else {
            for (int w = 0; w < WIDTH; w++) values[i + w] = 0.0f;
        }
    }
}

// The sum over the lanes that hold the same key.
__device__ inline float group_sum(float value)
{
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// Sum and maximum over a warp's groups, of lanes with the same columns.
__device__ inline float sum_of_groups(float value)
{
    for (int offset = 16; offset >= LANES; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

__device__ inline float max_of_groups(float value)
{
    for (int offset = 16; offset >= LANES; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

// ---- parts ----------------------------------------------------------------------------------------------------------

struct Total {
    float max, sum;  // m and l; no position: LOWEST and 0, which adds nothing to other parts
};

struct Merged {
    Total total;
    float output;  // one column of o
};

// Column `col` of row `row` of the parts that totals (count, rows) and outputs (count, rows, columns) hold.
__device__ inline Merged merge(const Total *totals, const float *outputs, int count, int rows, int row, int columns,
                               int col)
{
    Merged merged = {{LOWEST, 0.0f}, 0.0f};
    for (int part = 0; part < count; part++)
        merged.total.max = fmaxf(merged.total.max, totals[(long long)part * rows + row].max);
    for (int part = 0; part < count; part++) {
        long long i = (long long)part * rows + row;
        float factor = __expf(totals[i].max - merged.total.max);
        merged.total.sum += factor * totals[i].sum;
        merged.output += factor * outputs[i * columns + col];
    }
    return merged;
}

// Where q and y have row `row` of (B, H, T): they are (B, T, H, D).
__device__ inline long long place(int row, int T, int H, int D)
{
    int b = row / T / H, h = row / T % H, t = row % T;
    return (((long long)b * T + t) * H + h) * D;
}

// ---- kernels --------------------------------------------------------------------------------------------------------
// Grid: (B * G * tiles of ROWS queries, parts of the longest text). Block: 32 * WARPS.
// rows: B H T. totals (parts, rows, 2) and outputs (parts, rows, D) are written if there are several parts, else y is.

extern "C" __global__ void BOUNDS(ROWS == 1 ? 6 : 4)
cached_attention_parts(const storage *__restrict__ q, const storage *__restrict__ keys,
                       const storage *__restrict__ values, const long long *__restrict__ ends, storage *__restrict__ y,
                       float *__restrict__ totals, float *__restrict__ outputs, int rows, int T, int H, int G, int S,
                       int D, float scale)
{
    __shared__ Total warp_totals[WARPS * ROWS];
    __shared__ float warp_outputs[WARPS * ROWS * HEAD];
    const int shared_by = H / G * T, tiles = (shared_by + ROWS - 1) / ROWS;  // queries of a head of keys
    const int head = blockIdx.x / tiles, first_row = blockIdx.x % tiles * ROWS, warp = threadIdx.x / 32;
    const int end = (int)ends[head / G], start = blockIdx.y * SPLIT, stop = min(start + SPLIT, end);
    if (start >= stop) return;  // a text shorter than the longest
    keys += (long long)head * S * D;
    values += (long long)head * S * D;
    const int row = head * shared_by + first_row, count = min(ROWS, shared_by - first_row);  // of this block

    float queries[ROWS][VALUES], row_max[ROWS], sum[ROWS], output[ROWS][VALUES];  // q, m, l, o
    int visible[ROWS];                                                            // positions that a row sees
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        load_row(queries[r], q + place(row + r, T, H, D), D, r < count);
        for (int i = 0; i < VALUES; i++) queries[r][i] *= scale, output[r][i] = 0.0f;
        row_max[r] = LOWEST, sum[r] = 0.0f;
        visible[r] = min(stop, end - T + (first_row + r) % T + 1);
    }

    for (int first = start + warp * GROUPS * STEPS; first < stop; first += WARPS * GROUPS * STEPS) {
        float key[STEPS][VALUES], value[STEPS][VALUES];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int j = first + step * GROUPS + group();
            load_row(key[step], keys + (long long)j * D, D, j < stop);
            load_row(value[step], values + (long long)j * D, D, j < stop);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float scores[STEPS], new_max = row_max[r];
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                int j = first + step * GROUPS + group();
                float dot = 0.0f;
                for (int i = 0; i < VALUES; i++) dot = fmaf(queries[r][i], key[step][i], dot);
                dot = group_sum(dot);
                scores[step] = j < visible[r] ? dot : NEG_INF;  // exp(-inf) = 0
                new_max = fmaxf(new_max, scores[step]);
            }
            float rescale = __expf(row_max[r] - new_max);
            row_max[r] = new_max;
            sum[r] *= rescale;
            for (int i = 0; i < VALUES; i++) output[r][i] *= rescale;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                float p = __expf(scores[step] - new_max);
                sum[r] += p;
                for (int i = 0; i < VALUES; i++) output[r][i] = fmaf(p, value[step][i], output[r][i]);
            }
        }
    }

    // The groups of a warp, whose first one writes.
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float new_max = max_of_groups(row_max[r]), factor = __expf(row_max[r] - new_max);
        float total = sum_of_groups(factor * sum[r]);
        if (threadIdx.x % 32 == 0) warp_totals[warp * ROWS + r] = {new_max, total};
        for (int i = 0; i < VALUES; i++) {
            float merged = sum_of_groups(factor * output[r][i]);
            if (group() == 0) warp_outputs[(warp * ROWS + r) * HEAD + column(i)] = merged;
        }
    }
    __syncthreads();

    // The warps of the block: a thread for each number of the result.
    for (int i = threadIdx.x; i < count * HEAD; i += 32 * WARPS) {
        int r = i / HEAD, col = i % HEAD;
        if (col >= D) continue;
        Merged merged = merge(warp_totals, warp_outputs, WARPS, ROWS, r, HEAD, col);
        long long part_row = (long long)blockIdx.y * rows + row + r;
        if (gridDim.y == 1) {
            y[place(row + r, T, H, D) + col] = store(merged.output / merged.total.sum);
        } else {
            outputs[part_row * D + col] = merged.output;
            if (col == 0) totals[2 * part_row] = merged.total.max, totals[2 * part_row + 1] = merged.total.sum;
        }
    }
}

// A warp for each of the B H T rows. Grid: rows / WARPS. Block: 32 * WARPS.
extern "C" __global__ void BOUNDS(8)
cached_attention_merge(const float *__restrict__ totals, const float *__restrict__ outputs,
                       const long long *__restrict__ ends, storage *__restrict__ y, int rows, int T, int H, int D)
{
    int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    int parts = ((int)ends[row / T / H] + SPLIT - 1) / SPLIT;
    for (int col = threadIdx.x % 32; col < D; col += 32) {
        Merged merged = merge((const Total *)totals, outputs, parts, rows, row, D, col);
        y[place(row, T, H, D) + col] = store(merged.output / merged.total.sum);
    }
}
