// The type of activations and of their gradients in device memory: float, __half or __nv_bfloat16.
//
// A kernel that takes arrays of `storage` is compiled once for each: launch.py sets the option by their dtype. All
// arithmetic is in float. load() is exact, and store() rounds to nearest even; both are nothing for float.
//
//     float value = load(x[i]);
//     y[i] = store(value * value);
//
// Option: STORAGE    not defined: float,  1: __half,  2: __nv_bfloat16

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
