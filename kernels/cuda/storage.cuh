// The type of activations and of their gradients in device memory: float, __half or __nv_bfloat16.
//
// A kernel that takes arrays of `storage` is compiled once for each: launch.py sets the option by their dtype. All
// arithmetic is in float. load() is exact, and store() rounds to nearest even; both are nothing for float.
//
//     float value = load(x[i]);
//     y[i] = store(value * value);
//
// Kernels that are bound by memory move WIDTH neighbouring values at once, as a Pack, in one instruction; its address
// is a multiple of its size, for which launch.py's `pack_width` has to see.
//
// Options: STORAGE    not defined: float,  1: __half,  2: __nv_bfloat16
//          WIDTH      1 if not defined

#if !defined(STORAGE)
typedef float storage;
#elif STORAGE == 1
#include <cuda_fp16.h>
typedef __half storage;
#else
#include <cuda_bf16.h>
typedef __nv_bfloat16 storage;
#endif

__device__ inline float load(storage x) { return (float)x; }
__device__ inline storage store(float value) { return (storage)value; }

#ifndef WIDTH
#define WIDTH 1
#endif

template <class Type> struct alignas(WIDTH * sizeof(Type)) Pack {
    Type of[WIDTH];
};

template <class Type> __device__ inline Pack<Type> load_pack(const Type *x) { return *(const Pack<Type> *)x; }
template <class Type> __device__ inline void store_pack(Type *x, const Pack<Type> &pack) { *(Pack<Type> *)x = pack; }
