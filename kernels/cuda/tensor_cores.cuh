// What attention on tensor cores is made of: one instruction's layout, tiles in shared memory, the two products.
// attention_tensor_forward.cu is the next to read.
//
// ---- one instruction -------------------------------------------------------------------------------------------------
// A warp multiplies C (16, 8) += A (16, 16) B (16, 8) by one mma.sync. Lane 4 g + t holds
//
//     of A, four registers of two neighbors each:  rows g and g + 8, columns 2 t, 2 t + 1, then both 8 columns on
//     of B, two:                                   column g, rows 2 t, 2 t + 1, then 8 rows on
//     of C, four floats:                           rows g and g + 8, columns 2 t, 2 t + 1
//
// Two tiles of C side by side have the layout of one of A. So what a warp has computed as scores (C), it rounds to 16
// bits and multiplies by the next matrix (A): probabilities never leave the registers, and a row of scores lies in the
// four lanes of one g, which reduce it by two shuffles.
//
// ---- a block ---------------------------------------------------------------------------------------------------------
//                        BLOCK_N streamed rows, in strips of STRIP
//                        +---------+---------+
//     warp 0, M_TILES*16 |         |         |     Each of the 4 warps owns 16 * M_TILES rows, the A of the first
//     warp 1             |  strip  |  strip  |     product, and computes for them one strip of scores after the other:
//     warp 2             |         |         |     scores, probabilities, their product with rows of the same strip.
//     warp 3             +---------+---------+     Strips above the diagonal are skipped, those that it crosses masked.
//
// The owned rows are in registers where these suffice (a thread has 255), else they stay in shared memory.
//
// Streamed tiles lie in shared memory, in two stages of two tiles: while the warps work on one stage, cp.async fills the
// other. There is one barrier per stage: it ends the reading of the stage that is filled next. ldmatrix fetches B; with
// .trans it fetches B of a matrix stored by rows of the sum's index. With two tiles of rows to a warp (M_TILES), each B
// serves four mma: on an A100 these take twice as long as the fetch, with one tile as long.
//
// A row of a tile has HEAD / 8 chunks of 16 bytes, and ldmatrix reads the same chunk of 8 rows at once. Chunk c of row
// r lies at c ^ (r & 7), or, where a row is an odd number of 64 bytes, at c ^ (r / 2 & 3): then the 8 are in different
// banks, and so are 8 neighboring chunks of a row, which cp.async writes.
//
// Options: STORAGE   1: float16, 2: bfloat16
//          HEAD      D rounded up to 32, 64, 96 or 128 (columns beyond D are zero)
//          M_TILES   tiles of 16 rows that a warp owns; BLOCK_M = 64 M_TILES rows to a block of 4 warps
//          BLOCK_N   rows of a streamed tile: 32 or 64
//          STRIP     of them at a time: a multiple of 16 that divides BLOCK_N
//          BLOCKS    that shall fit into a multiprocessor: bounds the registers
//          DROPOUT   0: p is 0

#include "random.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define BLOCK_M (16 * M_TILES * WARPS)
#define ROW_BYTES (2 * HEAD)
#define CHUNKS (HEAD / 8)                     // of 16 bytes in a row
#define CHUNK_LANES (HEAD % 64 == 0 ? 8 : 4)  // threads that copy a row together
#define TILE_BYTES (BLOCK_N * ROW_BYTES)
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define NEG_INF (-__int_as_float(0x7f800000))
#define ALL_LANES 0xffffffffu

struct storage {  // a float16 or bfloat16
    unsigned short bits;
};

// ---- instructions ----------------------------------------------------------------------------------------------------

// c += a b
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
#if STORAGE == 1
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four matrices of 8 x 8: lane r of each eight names row r of one.
__device__ inline void load_matrices(unsigned (&r)[4], unsigned row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
}

__device__ inline void load_transposed(unsigned (&r)[4], unsigned row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
}

// Begins to copy `bytes` of 16 to shared memory; the others become 0.
__device__ inline void copy_async(unsigned to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(to), "l"(from), "r"(bytes));
}

__device__ inline void copy_async_8(unsigned to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" : : "r"(to), "l"(from), "r"(bytes));
}

__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" : :); }

__device__ inline float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two floats, rounded, in one register; and back.
__device__ inline unsigned pack(float low, float high)
{
    unsigned pair;
#if STORAGE == 1
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}

__device__ inline float unpack(unsigned short bits)
{
#if STORAGE == 1
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    return __int_as_float((int)((unsigned)bits << 16));
#endif
}

// ---- what a warp holds in registers ----------------------------------------------------------------------------------

typedef unsigned Owned[M_TILES][HEAD / 16][4];    // rows of the block's own tile, as A
typedef float Scores[M_TILES][STRIP / 8][4];      // a strip, as C
typedef unsigned Weights[M_TILES][STRIP / 16][4];  // the same, as A
typedef float Output[M_TILES][HEAD / 8][4];       // as C

// ---- a thread's place ------------------------------------------------------------------------------------------------

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int first_row_of_warp() { return threadIdx.x / 32 * (16 * M_TILES); }
__device__ inline int tile_row(int m, int half) { return first_row_of_warp() + 16 * m + 8 * half + lane() / 4; }
__device__ inline int tile_col(int n) { return 8 * n + 2 * (lane() % 4); }  // and the next one

__device__ inline float row_sum(float value)
{
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ inline float row_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// ---- tiles in shared memory ------------------------------------------------------------------------------------------

template <class Number>  // storage, or const storage where it is only read
struct Matrix {           // rows of D numbers in device memory: one of q, k, v, g, y of one head
    Number *data;
    long long stride;  // from row to row
    int rows, columns;
    bool aligned;  // each row starts at a multiple of 16 bytes and ends at one
};

// One of the N heads in x (B, T, N, D).
template <class Number>
__device__ inline Matrix<Number> head_of(Number *x, int b, int head, int N, int T, int D)
{
    long long stride = (long long)N * D;
    return {x + b * T * stride + (long long)head * D, stride, T, D, D % 8 == 0 && (size_t)x % 16 == 0};
}

__device__ inline unsigned address_of(const void *shared) { return (unsigned)__cvta_generic_to_shared(shared); }
__device__ inline int swizzle(int row) { return HEAD % 64 == 0 ? row & 7 : row / 2 & 3; }
__device__ inline int place(int row, int chunk) { return row * ROW_BYTES + 16 * (chunk ^ swizzle(row)); }

// Begins to copy `count` rows from `first` on; what is outside the matrix becomes 0, which adds nothing to any product.
template <int count>
__device__ inline void copy_tile(char *tile, const Matrix<const storage> &source, int first)
{
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));  // else the addresses would be computed ahead, in registers that the products need
#pragma unroll 1
    for (int row = thread / CHUNK_LANES; row < count; row += THREADS / CHUNK_LANES) {
        const storage *from = source.data + (first + row) * source.stride;
        int columns = first + row < source.rows ? source.columns : 0;
#pragma unroll
        for (int chunk = thread % CHUNK_LANES; chunk < CHUNKS; chunk += CHUNK_LANES) {
            char *to = tile + place(row, chunk);
            if (source.aligned) {
                copy_async(address_of(to), from + 8 * chunk, 8 * chunk < columns ? 16 : 0);
            } else {
                unsigned pairs[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int col = 8 * chunk + 2 * i;
                    pairs[i] = col < columns ? from[col].bits : 0;
                    pairs[i] |= col + 1 < columns ? (unsigned)from[col + 1].bits << 16 : 0;
                }
                *reinterpret_cast<uint4 *>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            }
        }
    }
}

// The warp's rows of a tile, as A.
__device__ inline void load_owned(Owned &owned, unsigned tile)
{
    int row = first_row_of_warp() + lane() % 16;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++)
            load_matrices(owned[m][k], tile + 16 * m * ROW_BYTES + place(row, 2 * k + lane() / 16));
}

// ---- the two products ------------------------------------------------------------------------------------------------

template <int columns>
__device__ inline void clear(float (&x)[M_TILES][columns][4])
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < columns; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[m][n][i] = 0.0f;
}

// scores = owned . stream^T    (16 M_TILES, HEAD) @ (STRIP, HEAD)^T; stream: the strip's first row
__device__ inline void compute_scores(Scores &scores, const Owned &owned, unsigned stream)
{
    int row = lane() / 16 * 8 + lane() % 8, half = lane() / 8 % 2;
    clear(scores);
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++)
#pragma unroll
        for (int n = 0; n < STRIP / 16; n++) {
            unsigned b[4];
            load_matrices(b, stream + 16 * n * ROW_BYTES + place(row, 2 * k + half));
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                multiply(scores[m][2 * n], owned[m][k], b[0], b[1]);
                multiply(scores[m][2 * n + 1], owned[m][k], b[2], b[3]);
            }
        }
}

// The same with the owned rows in shared memory: a tile of BLOCK_M rows.
__device__ inline void compute_scores(Scores &scores, unsigned owned, unsigned stream)
{
    int owned_row = first_row_of_warp() + lane() % 16, row = lane() / 16 * 8 + lane() % 8, half = lane() / 8 % 2;
    clear(scores);
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
        unsigned a[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
            load_matrices(a[m], owned + 16 * m * ROW_BYTES + place(owned_row, 2 * k + lane() / 16));
#pragma unroll
        for (int n = 0; n < STRIP / 16; n++) {
            unsigned b[4];
            load_matrices(b, stream + 16 * n * ROW_BYTES + place(row, 2 * k + half));
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                multiply(scores[m][2 * n], a[m], b[0], b[1]);
                multiply(scores[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// output += weights @ stream    (16 M_TILES, STRIP) @ (STRIP, HEAD)
__device__ inline void accumulate_output(Output &output, const Weights &weights, unsigned stream)
{
    int row = lane() % 16, half = lane() / 16;
#pragma unroll
    for (int k = 0; k < STRIP / 16; k++)
#pragma unroll
        for (int n = 0; n < HEAD / 16; n++) {
            unsigned b[4];
            load_transposed(b, stream + 16 * k * ROW_BYTES + place(row, 2 * n + half));
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                multiply(output[m][2 * n], weights[m][k], b[0], b[1]);
                multiply(output[m][2 * n + 1], weights[m][k], b[2], b[3]);
            }
        }
}

// Scores of keys after their query become -inf, of which exp is 0. A block's rows begin at first_row, the strip's columns
// at first_col; in s the rows are queries, in s^T keys.
template <bool transposed>
__device__ inline void mask_scores(Scores &scores, int first_row, int first_col)
{
    const int ahead = first_col + tile_col(0) - first_row - tile_row(0, 0);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = 16 * m + i / 2 * 8, col = 8 * n + i % 2;
                if (transposed ? ahead + col < row : ahead + col > row) scores[m][n][i] = NEG_INF;
            }
}

// From the layout of C to that of A.
__device__ inline void round_weights(Weights &weights, const Scores &scores)
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int k = 0; k < STRIP / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *pair = &scores[m][2 * k + i / 2][i % 2 * 2];
                weights[m][k][i] = pack(pair[0], pair[1]);
            }
}

// Write the output to the rows from `first` on of a matrix in device memory, row r multiplied by factor[m][half].
__device__ inline void store_output(const Matrix<storage> &target, int first, const Output &output,
                                    const float (&factor)[M_TILES][2])
{
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first + tile_row(m, half);
            if (row >= target.rows) continue;
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                int col = tile_col(n);
                storage *p = target.data + row * target.stride + col;
                unsigned pair = pack(factor[m][half] * output[m][n][2 * half], factor[m][half] * output[m][n][2 * half + 1]);
                if (target.aligned) {
                    if (col < target.columns) *reinterpret_cast<unsigned *>(p) = pair;
                } else {
                    if (col < target.columns) p[0].bits = (unsigned short)pair;
                    if (col + 1 < target.columns) p[1].bits = (unsigned short)(pair >> 16);
                }
            }
        }
}
