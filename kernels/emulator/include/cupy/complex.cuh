// CuPy's names for thrust::complex. Its generated kernels include this by themselves.
#pragma once
#include <thrust/complex.h>

using thrust::complex;
using thrust::acos, thrust::acosh, thrust::arg, thrust::asin, thrust::asinh, thrust::atan, thrust::atanh, thrust::conj;
using thrust::cos, thrust::cosh, thrust::exp, thrust::imag, thrust::log, thrust::log10, thrust::real, thrust::sin;
using thrust::sinh, thrust::tan, thrust::tanh;

template <class T> EMULATOR_INLINE bool isnan(const complex<T>& z) { return isnan(z.real()) || isnan(z.imag()); }
template <class T> EMULATOR_INLINE bool isinf(const complex<T>& z) { return isinf(z.real()) || isinf(z.imag()); }
template <class T> EMULATOR_INLINE bool isfinite(const complex<T>& z) { return isfinite(z.real()) && isfinite(z.imag()); }
