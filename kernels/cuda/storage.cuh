// The types of arrays in device memory:
//
//     storage    activations and their gradients: float, __half or __nv_bfloat16
//     stream     the residual stream and its gradients: as storage, or float where storage has 16 bits
//
// A kernel that takes such arrays is compiled once for each: launch.py sets the options by their dtypes. All arithmetic
// is in float. load() is exact, and store() rounds to nearest even; both are nothing for float.
//
//     float value = load(x[i]);
//     y[i] = store(value * value);
//     total[i] = store<stream>(value);
//
// Kernels that are bound by memory move WIDTH neighbouring values at once, as a Pack, in one instruction; its address
// is a multiple of its size, for which launch.py's `pack_width` has to see.
//
// Options: STORAGE         not defined: float,  1: __half,  2: __nv_bfloat16
//          FLOAT_STREAM    if defined, stream is float, whatever storage is
//          WIDTH           1 if not defined

#if !defined(STORAGE)
typedef float storage;
#elif STORAGE == 1
#include <cuda_fp16.h>
typedef __half storage;
#else
#include <cuda_bf16.h>
typedef __nv_bfloat16 storage;
#endif

#ifdef FLOAT_STREAM
typedef float stream;
#else
typedef storage stream;
#endif

template <class Type> __device__ inline float load(Type x) { return (float)x; }
template <class Type = storage> __device__ inline Type store(float value) { return (Type)value; }

#ifndef WIDTH
#define WIDTH 1
#endif

template <class Type> struct alignas(WIDTH * sizeof(Type)) Pack {
    Type of[WIDTH];
};

template <class Type> __device__ inline Pack<Type> load_pack(const Type *x) { return *(const Pack<Type> *)x; }
template <class Type> __device__ inline void store_pack(Type *x, const Pack<Type> &pack) { *(Pack<Type> *)x = pack; }
