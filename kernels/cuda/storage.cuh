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
// Options: STORAGE         not defined: float,  1: __half,  2: __nv_bfloat16
//          FLOAT_STREAM    defined: stream is float, whatever storage is

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
