// Function and variable qualifiers, built-in variables, and what the checked build adds to declarations.
// `__shared__` is thread-local storage, because one operating system thread runs one block at a time.
#pragma once
#include <math.h>  // not cmath: CUDA has the overloads for float in the global namespace
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdlib.h>  // likewise: abs
#include <type_traits>
#include <utility>

#include "runtime.h"

// ---------------------------------------------------------------- what a compiler for GPUs says of itself
#define __CUDACC__ 1
#define __NVCC__ 1
#define __CUDA_ARCH__ 860
#define CUDART_VERSION 12090
#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 9

// ---------------------------------------------------------------- qualifiers
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ __attribute__((used, section("emulator_constant"))) static  // the section tells the checker
#define __managed__
#ifdef __clang__
#define EMULATOR_CONSTINIT
#define __shared__ static thread_local  // `extern __shared__` is rewritten by source/translate.py
#else
#define EMULATOR_CONSTINIT __constinit
#define __shared__ static __constinit thread_local  // g++ would guard arrays of a class that needs no construction
#endif
#define __forceinline__ inline __attribute__((always_inline))
#define __inline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))
#define EMULATOR_INLINE inline __attribute__((always_inline))

#if defined(EMULATOR_CHECKED) && defined(__clang__)
#define EMULATOR_UNWATCHED __attribute__((disable_sanitizer_instrumentation, no_sanitize("alignment", "undefined")))
#elif defined(EMULATOR_CHECKED)
#define EMULATOR_UNWATCHED __attribute__((no_sanitize("thread", "alignment", "undefined")))
#else
#define EMULATOR_UNWATCHED
#endif


// ---------------------------------------------------------------- built-in variables
// const: one CUDA thread never sees them change; the scheduler sets them as it switches threads.
#define EMULATOR_BUILTIN EMULATOR_EXPORT __thread __attribute__((tls_model("initial-exec")))
EMULATOR_BUILTIN const uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

// ---------------------------------------------------------------- declarations in the checked build
// source/translate.py writes these around the source's own declarations.
#define EMULATOR_APART alignas(128)
namespace emulator {
// A local variable without an initializer: its bytes count as unwritten until something is stored there.
struct Unwritten {
    template <class T>
    EMULATOR_UNWATCHED Unwritten(T& variable, const char* name) : address((void*)&variable), size(sizeof variable) {
        if (!std::is_trivially_default_constructible<T>::value) return;
        emulator_local(address, size, name);
#if __has_builtin(__builtin_clear_padding)
        if constexpr (std::is_class<T>::value) {
            alignas(T) char members[sizeof(T)];
            memset(members, 1, sizeof members);
            __builtin_clear_padding(reinterpret_cast<std::remove_cv_t<T>*>(members));
            emulator_padding(address, members, size);
        }
#endif
    }
    ~Unwritten() { emulator_local(address, size, nullptr); }
    void* address;
    size_t size;
};
// A static __shared__ variable as far off a multiple of 16 as its declaration allows, and apart from its neighbors.
template <class T, size_t alignment = alignof(T)>
struct Shared {
    alignas(alignment) char before[alignment];
    alignas(alignment) T data;
    char after[64];
};
}  // namespace emulator
// __shared_part__(pointer, count): memory of its own for one of several arrays in a dynamic shared buffer, so that an
// index beyond it is out of bounds. On a GPU, define it as the pointer.
#ifdef EMULATOR_CHECKED
#define __shared_part__(pointer, count) \
    (static_cast<decltype(&*(pointer))>(emulator_shared_part((void*)(pointer), (count) * sizeof *(pointer))))
#else
#define __shared_part__(pointer, count) (pointer)
#endif
