// Tensor cores and what feeds them: the instructions' fragments as PTX lays them out over the 32 lanes of a warp.
//
// Every lane hands in its registers, receives those of all lanes, and computes its own part of the result; sums are in
// float32, in the order of k, as no order is specified. ptx.py turns inline PTX into calls of these functions.
#pragma once
#include "emulator/half.h"

namespace emulator {
namespace ptx {
EMULATOR_INLINE int lane_index() { return (int)((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) % 32; }

template <class T> struct Packed;  // the element `i` of a register with several
template <> struct Packed<__half> {
    static float get(uint32_t word, int i) { return half_to_float((uint16_t)(word >> 16 * i)); }
};
template <> struct Packed<__nv_bfloat16> {
    static float get(uint32_t word, int i) { return bfloat16_to_float((uint16_t)(word >> 16 * i)); }
};
struct tf32 {};
template <> struct Packed<tf32> {
    static float get(uint32_t word, int) { return bits<float>(word & 0xffffe000u); }  // 10 bits of mantissa
};

// D = A B + C with A (16, K) and B (K, 8): `a` and `b` are this lane's registers. Lane 4 g + t holds, for 16-bit types,
// rows g and g + 8 of A at columns 2 t, 2 t + 1 (+ 8), the same rows of B's columns, and columns 2 t, 2 t + 1 of D.
// Not inline: an unrolled kernel has hundreds of them.
template <class T, int K, int A, int B>
EMULATOR_UNWATCHED __attribute__((noinline)) void multiply(const uint32_t (&a)[A], const uint32_t (&b)[B], const float (&c)[4], float (&d)[4]) {
    constexpr int per_register = std::is_same<T, tf32>::value ? 1 : 2, across = 4 * per_register;
    uint32_t mine[A + B], all[32][A + B];
    for (int i = 0; i < A; i++) mine[i] = a[i];
    for (int i = 0; i < B; i++) mine[A + i] = b[i];
    emulator_gather(~0u, mine, sizeof mine, all);
    int group = lane_index() / 4, column = lane_index() % 4 * 2;
    for (int i = 0; i < 4; i++) {
        int row = group + i / 2 * 8, n = column + i % 2;
        float sum = c[i];
        for (int k = 0; k < K; k++) {
            int t = k % across / per_register, part = k % per_register, half = k / across;
            float x = Packed<T>::get(all[row % 8 * 4 + t][row / 8 + 2 * half], part);
            float y = Packed<T>::get(all[n * 4 + t][A + half], part);
            sum += x * y;
        }
        d[i] = sum;
    }
}

#define EMULATOR_MMA(name, T, K)                                                                                          \
    EMULATOR_INLINE void name(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, \
                              uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {                        \
        float d[4];                                                                                                      \
        multiply<T, K>({a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}, d);                                                 \
        d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];                                                                      \
    }
EMULATOR_MMA(mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, __half, 16)
EMULATOR_MMA(mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, __nv_bfloat16, 16)
EMULATOR_MMA(mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32, tf32, 8)
#undef EMULATOR_MMA
#define EMULATOR_MMA(name, T)                                                                                            \
    EMULATOR_INLINE void name(float& d0, float& d1, float& d2, float& d3, uint32_t a0, uint32_t a1, uint32_t b0,         \
                              float c0, float c1, float c2, float c3) {                                                  \
        float d[4];                                                                                                      \
        multiply<T, 8>({a0, a1}, {b0}, {c0, c1, c2, c3}, d);                                                             \
        d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];                                                                      \
    }
EMULATOR_MMA(mma_sync_aligned_m16n8k8_row_col_f32_f16_f16_f32, __half)
EMULATOR_MMA(mma_sync_aligned_m16n8k8_row_col_f32_bf16_bf16_f32, __nv_bfloat16)
#undef EMULATOR_MMA
// With halves as the sum, two to a register.
EMULATOR_INLINE void mma_sync_aligned_m16n8k16_row_col_f16_f16_f16_f16(uint32_t& d0, uint32_t& d1, uint32_t a0, uint32_t a1,
                                                                       uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1,
                                                                       uint32_t c0, uint32_t c1) {
    float d[4];
    multiply<__half, 16>({a0, a1, a2, a3}, {b0, b1},
                         {half_to_float((uint16_t)c0), half_to_float((uint16_t)(c0 >> 16)), half_to_float((uint16_t)c1),
                          half_to_float((uint16_t)(c1 >> 16))}, d);
    d0 = float_to_half(raw(d[0])) | (uint32_t)float_to_half(raw(d[1])) << 16;
    d1 = float_to_half(raw(d[2])) | (uint32_t)float_to_half(raw(d[3])) << 16;
}

// ---------------------------------------------------------------- 8 x 8 matrices of 16-bit elements
template <class T> EMULATOR_INLINE char* shared_pointer(T address) { return static_cast<char*>(emulator_generic((uint64_t)address)); }

// Lane r of each eight names row r of a matrix; lane 4 g + t receives columns 2 t and 2 t + 1 of row g, or, transposed,
// of column g. Shared memory is read as a GPU does it, eight rows of 16 bytes at a time: the checker hears of each row
// once, from a neighbor of the lane that names it, so that it does not count as ordered after that lane's own stores.
template <int count, bool transposed>
EMULATOR_UNWATCHED __attribute__((noinline)) void load_matrices(uint32_t (&registers)[count], const char* row, [[maybe_unused]] void* pc) {
    const char* rows[32];
    emulator_gather(~0u, &row, sizeof row, rows);
    int g = lane_index() / 4, t = lane_index() % 4;
#ifdef EMULATOR_CHECKED
    if (lane_index() < 8 * count) emulator_read(rows[lane_index() ^ 1], 16, pc);
#endif
    for (int m = 0; m < count; m++) {
        if (transposed) {
            uint32_t low = *reinterpret_cast<const uint16_t*>(rows[8 * m + 2 * t] + 2 * g);
            registers[m] = low | (uint32_t)*reinterpret_cast<const uint16_t*>(rows[8 * m + 2 * t + 1] + 2 * g) << 16;
        } else {
            registers[m] = *reinterpret_cast<const uint32_t*>(rows[8 * m + g] + 4 * t);
        }
    }
}
#define EMULATOR_LDMATRIX(suffix, transposed)                                                                       \
    template <class T> EMULATOR_INLINE void ldmatrix_sync_aligned_m8n8_x1##suffix(uint32_t& a, T address) {         \
        uint32_t r[1];                                                                                              \
        load_matrices<1, transposed>(r, shared_pointer(address), emulator_program_counter());                       \
        a = r[0];                                                                                                   \
    }                                                                                                               \
    template <class T> EMULATOR_INLINE void ldmatrix_sync_aligned_m8n8_x2##suffix(uint32_t& a, uint32_t& b, T address) { \
        uint32_t r[2];                                                                                              \
        load_matrices<2, transposed>(r, shared_pointer(address), emulator_program_counter());                       \
        a = r[0], b = r[1];                                                                                         \
    }                                                                                                               \
    template <class T>                                                                                              \
    EMULATOR_INLINE void ldmatrix_sync_aligned_m8n8_x4##suffix(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, T address) { \
        uint32_t r[4];                                                                                              \
        load_matrices<4, transposed>(r, shared_pointer(address), emulator_program_counter());                       \
        a = r[0], b = r[1], c = r[2], d = r[3];                                                                     \
    }
EMULATOR_LDMATRIX(_shared_b16, false) EMULATOR_LDMATRIX(_trans_shared_b16, true)
EMULATOR_LDMATRIX(_shared__cta_b16, false) EMULATOR_LDMATRIX(_trans_shared__cta_b16, true)
#undef EMULATOR_LDMATRIX

EMULATOR_INLINE void movmatrix_sync_aligned_m8n8_trans_b16(uint32_t& d, uint32_t a) {
    uint32_t all[32];
    emulator_gather(~0u, &a, sizeof a, all);
    int g = lane_index() / 4, t = lane_index() % 4;  // element (r, c) is in lane 4 r + c / 2
    uint32_t low = all[4 * (2 * t) + g / 2] >> 16 * (g % 2) & 0xffff, high = all[4 * (2 * t + 1) + g / 2] >> 16 * (g % 2) & 0xffff;
    d = low | high << 16;
}

// ---------------------------------------------------------------- asynchronous copies
template <class T>
EMULATOR_INLINE void copy_async(T to, const void* from, int size, int taken) {
    emulator_copy_async(shared_pointer(to), from, size, size - taken, emulator_program_counter());
}
#define EMULATOR_CP_ASYNC(name)                                                                                     \
    template <class T, class F> EMULATOR_INLINE void name(T to, F from, int size) { copy_async(to, (const void*)from, size, size); } \
    template <class T, class F> EMULATOR_INLINE void name(T to, F from, int size, int taken) { copy_async(to, (const void*)from, size, taken); }
EMULATOR_CP_ASYNC(cp_async_ca_shared_global) EMULATOR_CP_ASYNC(cp_async_cg_shared_global)
EMULATOR_CP_ASYNC(cp_async_ca_shared_global_L2__128B) EMULATOR_CP_ASYNC(cp_async_cg_shared_global_L2__128B)
EMULATOR_CP_ASYNC(cp_async_cg_shared_global_L2__256B) EMULATOR_CP_ASYNC(cp_async_cg_shared_global_L2__64B)
#undef EMULATOR_CP_ASYNC
EMULATOR_INLINE void cp_async_commit_group() { emulator_commit_copies(); }
EMULATOR_INLINE void cp_async_wait_group(int left) { emulator_wait_copies(left); }
EMULATOR_INLINE void cp_async_wait_all() { emulator_wait_copies(-1); }

// ---------------------------------------------------------------- a few others that sources use
EMULATOR_INLINE void ex2_approx_ftz_f32(float& y, float x) { y = exp2f(x); }
EMULATOR_INLINE void ex2_approx_f32(float& y, float x) { y = exp2f(x); }
EMULATOR_INLINE void lg2_approx_ftz_f32(float& y, float x) { y = log2f(x); }
EMULATOR_INLINE void rcp_approx_ftz_f32(float& y, float x) { y = 1 / x; }
EMULATOR_INLINE void tanh_approx_f32(float& y, float x) { y = tanhf(x); }
EMULATOR_INLINE void cvt_rn_f16x2_f32(uint32_t& y, float high, float low) {
    y = (uint32_t)float_to_half(raw(high)) << 16 | float_to_half(raw(low));
}
EMULATOR_INLINE void cvt_rn_bf16x2_f32(uint32_t& y, float high, float low) {
    y = (uint32_t)float_to_bfloat16(raw(high)) << 16 | float_to_bfloat16(raw(low));
}
EMULATOR_INLINE void cvt_f32_f16(float& y, uint16_t x) { y = half_to_float(x); }
template <class T> EMULATOR_INLINE void mov_u32(T& y, unsigned x) { y = (T)x; }
EMULATOR_INLINE void bar_sync(int) { emulator_barrier("", 0); }
EMULATOR_INLINE void membar_gl() { __threadfence(); }
}  // namespace ptx
}  // namespace emulator

// A shared address of 32 bits, which the runtime can turn back.
template <class T> EMULATOR_INLINE size_t __cvta_generic_to_shared(const T* pointer) { return emulator_shared_address((const void*)pointer); }
EMULATOR_INLINE void* __cvta_shared_to_generic(size_t address) { return emulator_generic(address); }
EMULATOR_INLINE void __pipeline_memcpy_async(void* to, const void* from, size_t size, size_t zeros = 0) {
    emulator_copy_async(to, from, (int)size, (int)zeros, emulator_program_counter());
}
EMULATOR_INLINE void __pipeline_commit() { emulator_commit_copies(); }
EMULATOR_INLINE void __pipeline_wait_prior(int groups) { emulator_wait_copies(groups); }
