// The few calls of cuBLAS that samples make beside their own kernels, as plain loops of the host over float32.
#pragma once
#include "cuda_runtime.h"

using cublasHandle_t = void*;
using cublasLtHandle_t = void*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_16F };
using cublasGemmAlgo_t = int;
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum { CUBLAS_GEMM_DEFAULT = -1, CUBLAS_GEMM_DEFAULT_TENSOR_OP = 99 };

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

namespace emulator {
inline double number(const void* memory, size_t at, cudaDataType_t type) {
    if (type == CUDA_R_16F) return (float)static_cast<const __half*>(memory)[at];
    return type == CUDA_R_16BF ? (float)static_cast<const __nv_bfloat16*>(memory)[at] : static_cast<const real*>(memory)[at];
}
inline void set_number(void* memory, size_t at, cudaDataType_t type, double value) {
    if (type == CUDA_R_16F)
        static_cast<__half*>(memory)[at] = __half((float)value);
    else if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16*>(memory)[at] = __nv_bfloat16((float)value);
    else
        static_cast<real*>(memory)[at] = (real)value;
    size_t size = type == CUDA_R_32F ? 4 : 2;
    emulator_host_written(static_cast<char*>(memory) + at * size, size);
}
}  // namespace emulator

// C = alpha op(A) op(B) + beta C, all by columns; `count` products, each a step further in all three.
inline cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t a_op, cublasOperation_t b_op, int m, int n,
                                                 int k, const void* alpha, const void* a, cudaDataType_t a_type, int lda,
                                                 long long a_step, const void* b, cudaDataType_t b_type, int ldb,
                                                 long long b_step, const void* beta, void* c, cudaDataType_t c_type, int ldc,
                                                 long long c_step, int count, cublasComputeType_t compute, cublasGemmAlgo_t) {
    cudaDataType_t scale = compute == CUBLAS_COMPUTE_16F ? CUDA_R_16F : CUDA_R_32F;
    double of_product = emulator::number(alpha, 0, scale), of_old = emulator::number(beta, 0, scale);
    for (int batch = 0; batch < count; batch++)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                double sum = 0;
                for (int l = 0; l < k; l++) {
                    size_t at = a_op == CUBLAS_OP_N ? i + (size_t)l * lda : l + (size_t)i * lda;
                    size_t bt = b_op == CUBLAS_OP_N ? l + (size_t)j * ldb : j + (size_t)l * ldb;
                    sum += emulator::number(a, at + batch * a_step, a_type) * emulator::number(b, bt + batch * b_step, b_type);
                }
                size_t ct = i + (size_t)j * ldc + batch * c_step;
                double old = of_old != 0 ? of_old * emulator::number(c, ct, c_type) : 0;
                emulator::set_number(c, ct, c_type, of_product * sum + old);
            }
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t a_op, cublasOperation_t b_op, int m, int n, int k,
                                  const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                                  float* c, int ldc) {
    return cublasGemmStridedBatchedEx(handle, a_op, b_op, m, n, k, alpha, a, CUDA_R_32F, lda, 0, b, CUDA_R_32F, ldb, 0, beta, c,
                                      CUDA_R_32F, ldc, 0, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
inline cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t a_op, cublasOperation_t b_op, int m,
                                                int n, int k, const float* alpha, const float* a, int lda, long long a_step,
                                                const float* b, int ldb, long long b_step, const float* beta, float* c,
                                                int ldc, long long c_step, int count) {
    for (int i = 0; i < count; i++)
        cublasSgemm(handle, a_op, b_op, m, n, k, alpha, a + i * a_step, lda, b + i * b_step, ldb, beta, c + i * c_step, ldc);
    return CUBLAS_STATUS_SUCCESS;
}
// y = alpha op(A) x + beta y.
inline cublasStatus_t cublasSgemv(cublasHandle_t handle, cublasOperation_t op, int m, int n, const float* alpha, const float* a,
                                  int lda, const float* x, int, const float* beta, float* y, int) {
    int rows = op == CUBLAS_OP_N ? m : n, inner = op == CUBLAS_OP_N ? n : m;
    return cublasSgemm(handle, op, CUBLAS_OP_N, rows, 1, inner, alpha, a, lda, x, inner, beta, y, rows);
}
