// nvcuda::wmma: matrices of 16 x 16 x 16 (and their kin) held by a warp. Which lane holds which element is not
// specified; here lane l holds the elements l, l + 32, ... of the matrix by rows.
#pragma once
#include "emulator/tensor_cores.h"

namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
}
template <class T> struct EmulatorStorage { using type = T; };
template <> struct EmulatorStorage<precision::tf32> { using type = float; };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    using element_type = typename EmulatorStorage<T>::type;
    static constexpr int rows = std::is_same<Use, matrix_b>::value ? K : M, columns = std::is_same<Use, matrix_a>::value ? K : N;
    static constexpr int num_elements = rows * columns / 32, num_storage_elements = num_elements;
    element_type x[num_elements];
};

template <class F> void fill_fragment(F& f, typename F::element_type value) {
    for (auto& element : f.x) element = value;
}
template <class F, class T>
void load_by(F& f, const T* from, unsigned step, bool by_rows) {
    __syncwarp();
    for (int i = 0; i < F::num_elements; i++) {
        unsigned at = (unsigned)(i * 32 + emulator::ptx::lane_index()), row = at / F::columns, column = at % F::columns;
        f.x[i] = from[by_rows ? row * step + column : column * step + row];
    }
}
template <class Use, int M, int N, int K, class T, class Layout, class S>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const S* from, unsigned step) {
    load_by(f, from, step, std::is_same<Layout, row_major>::value);
}
template <int M, int N, int K, class T, class S>
void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const S* from, unsigned step, layout_t layout) {
    load_by(f, from, step, layout == mem_row_major);
}
template <int M, int N, int K, class T, class S>
void store_matrix_sync(S* to, const fragment<accumulator, M, N, K, T>& f, unsigned step, layout_t layout) {
    for (int i = 0; i < f.num_elements; i++) {
        unsigned at = (unsigned)(i * 32 + emulator::ptx::lane_index()), row = at / N, column = at % N;
        to[layout == mem_row_major ? row * step + column : column * step + row] = f.x[i];
    }
    __syncwarp();
}
inline float __float_to_tf32(float x) { return emulator::bits<float>(emulator::bits<uint32_t>(x) & 0xffffe000u); }

template <int M, int N, int K, class T, class S, class LA, class LB>
EMULATOR_UNWATCHED void mma_sync(fragment<accumulator, M, N, K, S>& d, const fragment<matrix_a, M, N, K, T, LA>& a,
                                 const fragment<matrix_b, M, N, K, T, LB>& b, const fragment<accumulator, M, N, K, S>& c) {
    using A = fragment<matrix_a, M, N, K, T, LA>;
    using B = fragment<matrix_b, M, N, K, T, LB>;
    typename A::element_type all_a[32][A::num_elements];
    typename B::element_type all_b[32][B::num_elements];
    emulator_gather(~0u, a.x, sizeof a.x, all_a);
    emulator_gather(~0u, b.x, sizeof b.x, all_b);
    for (int i = 0; i < d.num_elements; i++) {
        int at = i * 32 + emulator::ptx::lane_index(), row = at / N, column = at % N;
        float sum = (float)c.x[i];
        for (int k = 0; k < K; k++) {
            int in_a = row * K + k, in_b = k * N + column;
            sum += (float)all_a[in_a % 32][in_a / 32] * (float)all_b[in_b % 32][in_b / 32];
        }
        d.x[i] = (S)sum;
    }
}
}  // namespace wmma
}  // namespace nvcuda
