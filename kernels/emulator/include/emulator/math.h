// Float math.
#pragma once
#include <limits>

#include "emulator/counting.h"

// SPECIAL: one special-function operation, whatever the hardware makes of it. PLAIN: rounding, selection and
// bit moves, which count as nothing. In the fast build glibc's own expf, ... are used as they are.
#define EMULATOR_SPECIAL(name, formula)                                                            \
    EMULATOR_INLINE float name(float a) { emulator::count_special(); emulator::real x = emulator::raw(a); return formula; }
#define EMULATOR_SPECIAL2(name, formula)                                                           \
    EMULATOR_INLINE float name(float a, float b) {                                                 \
        emulator::count_special(); emulator::real x = emulator::raw(a), y = emulator::raw(b); return formula; }
#define EMULATOR_PLAIN(name, R, formula)                                                           \
    EMULATOR_INLINE R name(float a) { emulator::real x = emulator::raw(a); return formula; }
#define EMULATOR_PLAIN2(name, formula)                                                             \
    EMULATOR_INLINE float name(float a, float b) { emulator::real x = emulator::raw(a), y = emulator::raw(b); return formula; }

#ifdef EMULATOR_COUNT_FLOPS
#define EMULATOR_BOTH(stem) EMULATOR_SPECIAL(stem, ::stem##f(x)) EMULATOR_SPECIAL(stem##f, ::stem##f(x))
EMULATOR_BOTH(exp) EMULATOR_BOTH(exp2) EMULATOR_BOTH(expm1) EMULATOR_BOTH(log) EMULATOR_BOTH(log2) EMULATOR_BOTH(log10)
EMULATOR_BOTH(log1p) EMULATOR_BOTH(sqrt) EMULATOR_BOTH(cbrt) EMULATOR_BOTH(sin) EMULATOR_BOTH(cos) EMULATOR_BOTH(tan)
EMULATOR_BOTH(tanh) EMULATOR_BOTH(sinh) EMULATOR_BOTH(cosh) EMULATOR_BOTH(asin) EMULATOR_BOTH(acos) EMULATOR_BOTH(atan)
EMULATOR_BOTH(erf) EMULATOR_BOTH(erfc) EMULATOR_BOTH(tgamma) EMULATOR_BOTH(lgamma)
#undef EMULATOR_BOTH
EMULATOR_SPECIAL2(pow, ::powf(x, y)) EMULATOR_SPECIAL2(powf, ::powf(x, y))
EMULATOR_SPECIAL2(atan2, ::atan2f(x, y)) EMULATOR_SPECIAL2(atan2f, ::atan2f(x, y))
EMULATOR_SPECIAL2(hypotf, ::hypotf(x, y))
#define EMULATOR_BOTH(stem) EMULATOR_PLAIN(stem, float, ::stem##f(x)) EMULATOR_PLAIN(stem##f, float, ::stem##f(x))
EMULATOR_BOTH(fabs) EMULATOR_BOTH(floor) EMULATOR_BOTH(ceil) EMULATOR_BOTH(round) EMULATOR_BOTH(trunc) EMULATOR_BOTH(rint)
EMULATOR_BOTH(nearbyint)
#undef EMULATOR_BOTH
#define EMULATOR_BOTH(stem) EMULATOR_PLAIN2(stem, ::stem##f(x, y)) EMULATOR_PLAIN2(stem##f, ::stem##f(x, y))
EMULATOR_BOTH(fmax) EMULATOR_BOTH(fmin) EMULATOR_BOTH(fmod) EMULATOR_BOTH(copysign)
#undef EMULATOR_BOTH
EMULATOR_PLAIN(abs, float, ::fabsf(x))
EMULATOR_PLAIN(isnan, bool, std::isnan(x)) EMULATOR_PLAIN(isinf, bool, std::isinf(x))
EMULATOR_PLAIN(isfinite, bool, std::isfinite(x)) EMULATOR_PLAIN(signbit, bool, std::signbit(x))
EMULATOR_INLINE float ldexpf(float a, int n) { return ::ldexpf(emulator::raw(a), n); }
EMULATOR_INLINE float fmaf(float a, float b, float c) {
    emulator::count_flops(2);
    return ::fmaf(emulator::raw(a), emulator::raw(b), emulator::raw(c));
}
EMULATOR_INLINE float fma(float a, float b, float c) { return fmaf(a, b, c); }
#else
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
#endif
EMULATOR_SPECIAL(rsqrtf, 1 / ::sqrtf(x))
EMULATOR_SPECIAL(rsqrt, 1 / ::sqrtf(x))
EMULATOR_SPECIAL(rcbrtf, 1 / ::cbrtf(x))
EMULATOR_SPECIAL(normcdff, 0.5f * ::erfcf(-x * 0.70710678f))
EMULATOR_SPECIAL(__frsqrt_rn, 1 / ::sqrtf(x))
EMULATOR_SPECIAL(__fsqrt_rn, ::sqrtf(x))
// glibc keeps some of CUDA's intrinsic names (__expf, ...) for itself, so those are macros over ours.
#ifdef EMULATOR_GPU_ROUNDING
// As a GPU defines them: by 2^x and log2 x, and the trigonometric ones within an absolute error of 2^-21.
EMULATOR_INLINE emulator::real emulator_fixed(emulator::real x) { return ::rintf(x * 0x1p21f) * 0x1p-21f; }
EMULATOR_SPECIAL(emulator_expf, ::exp2f(x * 1.44269504f)) EMULATOR_SPECIAL(emulator_exp10f, ::exp2f(x * 3.32192809f))
EMULATOR_SPECIAL(emulator_logf, ::log2f(x) * 0.693147181f) EMULATOR_SPECIAL(emulator_log2f, ::log2f(x))
EMULATOR_SPECIAL(emulator_log10f, ::log2f(x) * 0.301029996f) EMULATOR_SPECIAL2(emulator_powf, ::exp2f(y * ::log2f(x)))
EMULATOR_SPECIAL(emulator_sinf, emulator_fixed(::sinf(x))) EMULATOR_SPECIAL(emulator_cosf, emulator_fixed(::cosf(x)))
EMULATOR_SPECIAL(emulator_tanf, emulator_fixed(::sinf(x)) / emulator_fixed(::cosf(x)))
EMULATOR_SPECIAL(emulator_tanhf, ::rintf(::tanhf(x) * 0x1p11f) * 0x1p-11f)
EMULATOR_INLINE float emulator_divide(float a, float b) { return ::fabsf(b) > 0x1p126f && ::fabsf(b) < INFINITY ? a * 0.0f : a * (1.0f / b); }
#else
#define EMULATOR_INTRINSIC(f) EMULATOR_SPECIAL(emulator_##f, ::f(x))
EMULATOR_INTRINSIC(expf) EMULATOR_INTRINSIC(logf) EMULATOR_INTRINSIC(log2f) EMULATOR_INTRINSIC(log10f)
EMULATOR_INTRINSIC(sinf) EMULATOR_INTRINSIC(cosf) EMULATOR_INTRINSIC(tanf) EMULATOR_INTRINSIC(tanhf)
#undef EMULATOR_INTRINSIC
EMULATOR_SPECIAL(emulator_exp10f, ::exp2f(x * 3.3219281f))
EMULATOR_SPECIAL2(emulator_powf, ::powf(x, y))
EMULATOR_INLINE float emulator_divide(float a, float b) { return a / b; }
#endif
#define __expf(x) emulator_expf(x)
#define __exp10f(x) emulator_exp10f(x)
#define __logf(x) emulator_logf(x)
#define __log2f(x) emulator_log2f(x)
#define __log10f(x) emulator_log10f(x)
#define __sinf(x) emulator_sinf(x)
#define __cosf(x) emulator_cosf(x)
#define __tanf(x) emulator_tanf(x)
#define __tanhf(x) emulator_tanhf(x)
#define __powf(x, y) emulator_powf(x, y)
EMULATOR_INLINE void emulator_sincosf(float x, float* sine, float* cosine) {
    *sine = emulator_sinf(x);
    *cosine = emulator_cosf(x);
}
#define sincosf(x, sine, cosine) emulator_sincosf(x, sine, cosine)
#define __sincosf(x, sine, cosine) emulator_sincosf(x, sine, cosine)
EMULATOR_INLINE float __fadd_rn(float a, float b) { return a + b; }
EMULATOR_INLINE float __fsub_rn(float a, float b) { return a - b; }
EMULATOR_INLINE float __fmul_rn(float a, float b) { return a * b; }
EMULATOR_INLINE float __fdiv_rn(float a, float b) { return a / b; }
EMULATOR_INLINE float __fdividef(float a, float b) { return emulator_divide(a, b); }
EMULATOR_INLINE float __frcp_rn(float a) { return 1.0f / a; }
EMULATOR_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMULATOR_INLINE float fdividef(float a, float b) { return emulator_divide(a, b); }
EMULATOR_PLAIN(__saturatef, float, x > 0 ? (x < 1 ? x : 1) : 0)
EMULATOR_INLINE double rsqrt(double x) { return 1 / ::sqrt(x); }

EMULATOR_PLAIN(__float_as_int, int, emulator::bits<int>(x))
EMULATOR_PLAIN(__float_as_uint, unsigned, emulator::bits<unsigned>(x))
EMULATOR_INLINE float __int_as_float(int x) { return emulator::bits<emulator::real>(x); }
EMULATOR_INLINE float __uint_as_float(unsigned x) { return emulator::bits<emulator::real>(x); }
EMULATOR_INLINE long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
EMULATOR_INLINE double __longlong_as_double(long long x) { return emulator::bits<double>(x); }
// A float that the integer type cannot hold becomes the nearest it can, and nan becomes 0.
namespace emulator {
template <class To>
EMULATOR_INLINE To saturate(double x) {
    constexpr double least = (double)std::numeric_limits<To>::min(), most = (double)std::numeric_limits<To>::max();
    return x >= most ? std::numeric_limits<To>::max() : x > least ? (To)x : x <= least ? std::numeric_limits<To>::min() : 0;
}
}  // namespace emulator
#define EMULATOR_CONVERSIONS(stem, To)                                              \
    EMULATOR_PLAIN(stem##_rn, To, emulator::saturate<To>(::rintf(x)))               \
    EMULATOR_PLAIN(stem##_rz, To, emulator::saturate<To>(::truncf(x)))              \
    EMULATOR_PLAIN(stem##_rd, To, emulator::saturate<To>(::floorf(x)))              \
    EMULATOR_PLAIN(stem##_ru, To, emulator::saturate<To>(::ceilf(x)))
EMULATOR_CONVERSIONS(__float2int, int) EMULATOR_CONVERSIONS(__float2uint, unsigned)
EMULATOR_CONVERSIONS(__float2ll, long long) EMULATOR_CONVERSIONS(__float2ull, unsigned long long)
#undef EMULATOR_CONVERSIONS
EMULATOR_INLINE int __double2int_rn(double x) { return emulator::saturate<int>(::rint(x)); }
EMULATOR_INLINE int __double2int_rz(double x) { return emulator::saturate<int>(::trunc(x)); }
EMULATOR_INLINE float __double2float_rn(double x) { return (emulator::real)x; }
EMULATOR_INLINE float __ll2float_rn(long long x) { return (emulator::real)x; }
EMULATOR_INLINE float __int2float_rn(int x) { return (emulator::real)x; }
EMULATOR_INLINE float __uint2float_rn(unsigned x) { return (emulator::real)x; }
#undef EMULATOR_SPECIAL
#undef EMULATOR_SPECIAL2
#undef EMULATOR_PLAIN
#undef EMULATOR_PLAIN2

#include "half.h"
