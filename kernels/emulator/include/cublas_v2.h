// The few calls of cuBLAS that samples make beside their own kernels, as plain loops of the host over float32.
#pragma once
#include "cuda_runtime.h"

using cublasHandle_t = void*;
using cublasLtHandle_t = void*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32 };
enum cublasMath_t { CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum { CUBLAS_GEMM_DEFAULT = -1, CUBLAS_GEMM_DEFAULT_TENSOR_OP = 99 };

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

// C = alpha op(A) op(B) + beta C, all by columns.
inline cublasStatus_t cublasSgemm(cublasHandle_t, cublasOperation_t a_op, cublasOperation_t b_op, int m, int n, int k,
                                  const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                                  float* c, int ldc) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double sum = 0;
            for (int l = 0; l < k; l++) {
                size_t at = a_op == CUBLAS_OP_N ? i + (size_t)l * lda : l + (size_t)i * lda;
                size_t bt = b_op == CUBLAS_OP_N ? l + (size_t)j * ldb : j + (size_t)l * ldb;
                sum += (double)a[at] * (double)b[bt];
            }
            float* to = c + i + (size_t)j * ldc;
            *to = (float)(*alpha * sum + (*beta != 0.0f ? (double)(*beta * *to) : 0.0));
            emulator_host_written(to, sizeof *to);
        }
    return CUBLAS_STATUS_SUCCESS;
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
