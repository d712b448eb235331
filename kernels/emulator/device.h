// What CUDA's names mean on a CPU. The compiler reads this before every .cu file, so the CUDA source itself
// stays unmodified: qualifiers, built-in variables, vector types, warp and block primitives, atomics, math.
// A thread of the grid is a fiber of runtime.cpp; `__shared__` is thread-local storage, because one operating
// system thread runs one block at a time. With EMULATOR_COUNT_FLOPS every `float` is a class that counts.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "runtime.h"

// ---------------------------------------------------------------- qualifiers
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ static
#define __managed__
#ifdef __clang__
#define __shared__ static thread_local  // `extern __shared__` is rewritten by compiler.py
#else
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
#define EMULATOR_UNWATCHED __attribute__((disable_sanitizer_instrumentation, no_sanitize("alignment")))
#elif defined(EMULATOR_CHECKED)
#define EMULATOR_UNWATCHED __attribute__((no_sanitize("thread", "alignment")))
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

// ---------------------------------------------------------------- float, or a float that counts
namespace emulator {
using real = float;

#ifdef EMULATOR_COUNT_FLOPS
// Each + - * / counts one operation. Conversions out of it are explicit, so that `c ? x : 0.0f` has one meaning.
struct Float {
    real v;
    Float() = default;
    template <class T, std::enable_if_t<std::is_arithmetic<T>::value, int> = 0>
    EMULATOR_INLINE constexpr Float(T value) : v(static_cast<real>(value)) {}
    template <class T, std::enable_if_t<std::is_arithmetic<T>::value, int> = 0>
    EMULATOR_INLINE explicit constexpr operator T() const { return static_cast<T>(v); }

#define EMULATOR_OPERATOR(op)                                                                      \
    friend EMULATOR_INLINE Float operator op(Float a, Float b) { return count(a.v op b.v); }       \
    template <class T, std::enable_if_t<std::is_same<T, double>::value, int> = 0>                  \
    friend EMULATOR_INLINE double operator op(Float a, T b) { return count(a.v op b); }            \
    template <class T, std::enable_if_t<std::is_same<T, double>::value, int> = 0>                  \
    friend EMULATOR_INLINE double operator op(T a, Float b) { return count(a op b.v); }            \
    EMULATOR_INLINE Float& operator op##=(Float b) { return *this = *this op b; }
    EMULATOR_OPERATOR(+) EMULATOR_OPERATOR(-) EMULATOR_OPERATOR(*) EMULATOR_OPERATOR(/)
#undef EMULATOR_OPERATOR
#define EMULATOR_COMPARE(op) \
    friend EMULATOR_INLINE constexpr bool operator op(Float a, Float b) { return a.v op b.v; }
    EMULATOR_COMPARE(<) EMULATOR_COMPARE(>) EMULATOR_COMPARE(<=) EMULATOR_COMPARE(>=)
    EMULATOR_COMPARE(==) EMULATOR_COMPARE(!=)
#undef EMULATOR_COMPARE
    EMULATOR_INLINE constexpr Float operator-() const { return -v; }
    EMULATOR_INLINE constexpr Float operator+() const { return v; }
    EMULATOR_INLINE Float& operator++() { return *this += 1; }
    EMULATOR_INLINE Float& operator--() { return *this -= 1; }
    EMULATOR_INLINE Float operator++(int) { Float old = *this; *this += 1; return old; }
    EMULATOR_INLINE Float operator--(int) { Float old = *this; *this -= 1; return old; }

  private:
    template <class T>
    static EMULATOR_INLINE T count(T result) {
        emulator_count_flops(1);
        return result;
    }
};
EMULATOR_INLINE real raw(Float x) { return x.v; }
EMULATOR_INLINE void count_flops(int n) { emulator_count_flops(n); }
EMULATOR_INLINE void count_special() { emulator_count_special(); }
#else
using Float = float;
EMULATOR_INLINE real raw(Float x) { return x; }
EMULATOR_INLINE void count_flops(int) {}
EMULATOR_INLINE void count_special() {}
#endif

template <class To, class From>
EMULATOR_INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
template <class T>
struct identity { using type = T; };
template <class T>
using same = typename identity<T>::type;  // a parameter that takes no part in template deduction
}  // namespace emulator

#ifdef EMULATOR_COUNT_FLOPS
#define float emulator::Float
#endif

// ---------------------------------------------------------------- vector types
#define EMULATOR_VECTORS(T, name, align2, align4)                                                       \
    struct name##1 { T x; };                                                                            \
    struct alignas(align2) name##2 { T x, y; };                                                         \
    struct alignas(align4) name##4 { T x, y, z, w; };                                                   \
    EMULATOR_INLINE name##1 make_##name##1(T x) { return {x}; }                                         \
    EMULATOR_INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }                                 \
    EMULATOR_INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define EMULATOR_VECTOR3(T, name)                                                                       \
    struct name { T x, y, z; };                                                                         \
    EMULATOR_INLINE name make_##name(T x, T y, T z) { return {x, y, z}; }
EMULATOR_INLINE uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }  // runtime.h has the type
EMULATOR_VECTOR3(float, float3) EMULATOR_VECTOR3(int, int3) EMULATOR_VECTOR3(double, double3)
EMULATOR_VECTOR3(unsigned char, uchar3) EMULATOR_VECTOR3(unsigned short, ushort3)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef EMULATOR_VECTORS
#undef EMULATOR_VECTOR3

// ---------------------------------------------------------------- barriers and warp primitives
#define EMULATOR_TEXT(x) #x
#define EMULATOR_NUMBER(x) EMULATOR_TEXT(x)
#define EMULATOR_LINE __FILE__ ":" EMULATOR_NUMBER(__LINE__)
#define __syncthreads() ((void)emulator_barrier(EMULATOR_LINE, 0))
#define __syncthreads_count(predicate) emulator_barrier(EMULATOR_LINE, !!(predicate))
#define __syncthreads_or(predicate) (emulator_barrier(EMULATOR_LINE, !!(predicate)) != 0)
#define __syncthreads_and(predicate) (emulator_barrier(EMULATOR_LINE, !(predicate)) == 0)
EMULATOR_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
EMULATOR_INLINE void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
EMULATOR_INLINE void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
EMULATOR_INLINE void __nanosleep(unsigned) { emulator_yield(); }

namespace emulator {
template <class T>
EMULATOR_INLINE T collective(Collective kind, unsigned mask, T value, int argument = 0, int width = 32) {
    static_assert(sizeof(T) <= 8, "a warp exchange moves at most 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = emulator_collective(kind, mask, word, argument, width);
    memcpy(&value, &word, sizeof value);
    return value;
}
}  // namespace emulator

#define EMULATOR_SHUFFLE(name, kind)                                                               \
    template <class T>                                                                             \
    EMULATOR_INLINE T name(unsigned mask, T value, int argument, int width = warpSize) {           \
        return emulator::collective(emulator::kind, mask, value, argument, width);                 \
    }
EMULATOR_SHUFFLE(__shfl_sync, SHUFFLE)
EMULATOR_SHUFFLE(__shfl_up_sync, SHUFFLE_UP)
EMULATOR_SHUFFLE(__shfl_down_sync, SHUFFLE_DOWN)
EMULATOR_SHUFFLE(__shfl_xor_sync, SHUFFLE_XOR)
#undef EMULATOR_SHUFFLE
EMULATOR_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { emulator_collective(emulator::SYNC, mask, 0, 0, 32); }
EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)emulator_collective(emulator::BALLOT, mask, predicate != 0, 0, 32);
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value) {
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return (unsigned)emulator_collective(emulator::MATCH_ANY, mask, word, 0, 32);
}
EMULATOR_INLINE unsigned __activemask() { return emulator_active_lanes(); }
#define EMULATOR_REDUCE(name, T, kind)                                    \
    EMULATOR_INLINE T __reduce_##name##_sync(unsigned mask, T value) {    \
        return emulator::collective(emulator::kind, mask, value);         \
    }
EMULATOR_REDUCE(add, unsigned, REDUCE_ADD) EMULATOR_REDUCE(add, int, REDUCE_ADD)
EMULATOR_REDUCE(min, unsigned, REDUCE_UMIN) EMULATOR_REDUCE(min, int, REDUCE_MIN)
EMULATOR_REDUCE(max, unsigned, REDUCE_UMAX) EMULATOR_REDUCE(max, int, REDUCE_MAX)
EMULATOR_REDUCE(and, unsigned, REDUCE_AND) EMULATOR_REDUCE(or, unsigned, REDUCE_OR)
EMULATOR_REDUCE(xor, unsigned, REDUCE_XOR)
#undef EMULATOR_REDUCE

// ---------------------------------------------------------------- atomics
namespace emulator {
#ifdef EMULATOR_CHECKED
// The runtime hears of the access as one atomic operation, made by the line that called it.
#define EMULATOR_ATOMIC __attribute__((noinline)) EMULATOR_UNWATCHED
#define EMULATOR_TOUCH(p) emulator_atomic((void*)(p), sizeof *(p), __builtin_return_address(0))
#else
#define EMULATOR_ATOMIC inline
#define EMULATOR_TOUCH(p)
#endif
template <unsigned bytes> struct Word;
template <> struct Word<2> { using type = uint16_t; };
template <> struct Word<4> { using type = uint32_t; };
template <> struct Word<8> { using type = uint64_t; };
}  // namespace emulator

// name(p, v): *p = formula of (old, v), returns old. One compare-and-swap loop serves every type.
#define EMULATOR_RMW(name, formula)                                                                             \
    template <class T>                                                                                          \
    EMULATOR_ATOMIC T name(T* p, emulator::same<T> v) {                                                         \
        EMULATOR_TOUCH(p);                                                                                      \
        using W = typename emulator::Word<sizeof(T)>::type;                                                     \
        W seen = __atomic_load_n((W*)p, __ATOMIC_RELAXED), next;                                                \
        T old;                                                                                                  \
        do {                                                                                                    \
            old = emulator::bits<T>(seen);                                                                      \
            next = emulator::bits<W>((T)(formula));                                                             \
        } while (!__atomic_compare_exchange_n((W*)p, &seen, next, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));   \
        return old;                                                                                             \
    }
EMULATOR_RMW(atomicAdd, old + v)
EMULATOR_RMW(atomicSub, old - v)
EMULATOR_RMW(atomicMin, v < old ? v : old)
EMULATOR_RMW(atomicMax, v > old ? v : old)
EMULATOR_RMW(atomicAnd, old & v)
EMULATOR_RMW(atomicOr, old | v)
EMULATOR_RMW(atomicXor, old ^ v)
EMULATOR_RMW(atomicInc, old >= v ? 0 : old + 1)
EMULATOR_RMW(atomicDec, old == 0 || old > v ? v : old - 1)
EMULATOR_RMW(emulator_exchange, v)
#undef EMULATOR_RMW
template <class T>
EMULATOR_ATOMIC T emulator_compare_exchange(T* p, emulator::same<T> compare, emulator::same<T> v) {
    EMULATOR_TOUCH(p);
    using W = typename emulator::Word<sizeof(T)>::type;
    W seen = emulator::bits<W>(compare);
    __atomic_compare_exchange_n((W*)p, &seen, emulator::bits<W>(v), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return emulator::bits<T>(seen);
}
// Locks spin on these two, so each lets the other threads of the block run first.
template <class T>
EMULATOR_INLINE T atomicExch(T* p, emulator::same<T> v) {
    emulator_yield();
    return emulator_exchange(p, v);
}
template <class T>
EMULATOR_INLINE T atomicCAS(T* p, emulator::same<T> compare, emulator::same<T> v) {
    emulator_yield();
    return emulator_compare_exchange(p, compare, v);
}

// ---------------------------------------------------------------- reading, time, failing
template <class T> EMULATOR_INLINE T __ldg(const T* p) { return *p; }
template <class T> EMULATOR_INLINE T __ldcg(const T* p) { return *p; }
template <class T> EMULATOR_INLINE T __ldcs(const T* p) { return *p; }
template <class T> EMULATOR_INLINE void __stcg(T* p, emulator::same<T> v) { *p = v; }
template <class T> EMULATOR_INLINE void __stcs(T* p, emulator::same<T> v) { *p = v; }
inline long long clock64() { return (long long)emulator_clock(); }
#define __trap() emulator_assertion("__trap()", EMULATOR_LINE)
#undef assert
#define assert(condition) ((condition) ? (void)0 : emulator_assertion(#condition, EMULATOR_LINE))

// ---------------------------------------------------------------- integers
EMULATOR_INLINE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
EMULATOR_INLINE int __mulhi(int a, int b) { return (int)(((int64_t)a * b) >> 32); }
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
EMULATOR_INLINE int __mul24(int a, int b) { return ((a << 8) >> 8) * ((b << 8) >> 8); }
EMULATOR_INLINE unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
EMULATOR_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATOR_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMULATOR_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
EMULATOR_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
EMULATOR_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMULATOR_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
EMULATOR_INLINE unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
EMULATOR_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
EMULATOR_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}

#define EMULATOR_MINMAX(A, B, R)                                                         \
    EMULATOR_INLINE R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                \
    EMULATOR_INLINE R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
#define EMULATOR_MINMAX_MIXED(S, U) EMULATOR_MINMAX(S, S, S) EMULATOR_MINMAX(U, U, U) EMULATOR_MINMAX(S, U, U) EMULATOR_MINMAX(U, S, U)
EMULATOR_MINMAX_MIXED(int, unsigned)
EMULATOR_MINMAX_MIXED(long, unsigned long)
EMULATOR_MINMAX_MIXED(long long, unsigned long long)
#undef EMULATOR_MINMAX_MIXED
#undef EMULATOR_MINMAX
EMULATOR_INLINE double min(double a, double b) { return ::fmin(a, b); }
EMULATOR_INLINE double max(double a, double b) { return ::fmax(a, b); }
EMULATOR_INLINE float min(float a, float b) { return ::fminf(emulator::raw(a), emulator::raw(b)); }
EMULATOR_INLINE float max(float a, float b) { return ::fmaxf(emulator::raw(a), emulator::raw(b)); }

// ---------------------------------------------------------------- float math
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
#define EMULATOR_INTRINSIC(f) EMULATOR_SPECIAL(emulator_##f, ::f(x))
EMULATOR_INTRINSIC(expf) EMULATOR_INTRINSIC(logf) EMULATOR_INTRINSIC(log2f) EMULATOR_INTRINSIC(log10f)
EMULATOR_INTRINSIC(sinf) EMULATOR_INTRINSIC(cosf) EMULATOR_INTRINSIC(tanf) EMULATOR_INTRINSIC(tanhf)
#undef EMULATOR_INTRINSIC
EMULATOR_SPECIAL(emulator_exp10f, ::exp2f(x * 3.3219281f))
EMULATOR_SPECIAL2(emulator_powf, ::powf(x, y))
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
EMULATOR_INLINE float __fdividef(float a, float b) { return a / b; }
EMULATOR_INLINE float __frcp_rn(float a) { return 1.0f / a; }
EMULATOR_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMULATOR_INLINE float fdividef(float a, float b) { return a / b; }
EMULATOR_PLAIN(__saturatef, float, x > 0 ? (x < 1 ? x : 1) : 0)
EMULATOR_INLINE double rsqrt(double x) { return 1 / ::sqrt(x); }

EMULATOR_PLAIN(__float_as_int, int, emulator::bits<int>(x))
EMULATOR_PLAIN(__float_as_uint, unsigned, emulator::bits<unsigned>(x))
EMULATOR_INLINE float __int_as_float(int x) { return emulator::bits<emulator::real>(x); }
EMULATOR_INLINE float __uint_as_float(unsigned x) { return emulator::bits<emulator::real>(x); }
EMULATOR_INLINE long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
EMULATOR_INLINE double __longlong_as_double(long long x) { return emulator::bits<double>(x); }
EMULATOR_PLAIN(__float2int_rn, int, (int)::rintf(x)) EMULATOR_PLAIN(__float2int_rz, int, (int)x)
EMULATOR_PLAIN(__float2int_rd, int, (int)::floorf(x)) EMULATOR_PLAIN(__float2int_ru, int, (int)::ceilf(x))
EMULATOR_PLAIN(__float2uint_rn, unsigned, (unsigned)::rintf(x)) EMULATOR_PLAIN(__float2uint_rz, unsigned, (unsigned)x)
EMULATOR_INLINE float __int2float_rn(int x) { return (emulator::real)x; }
EMULATOR_INLINE float __uint2float_rn(unsigned x) { return (emulator::real)x; }
#undef EMULATOR_SPECIAL
#undef EMULATOR_SPECIAL2
#undef EMULATOR_PLAIN
#undef EMULATOR_PLAIN2

#include "half.h"

// ---------------------------------------------------------------- how Python finds and calls a kernel
namespace emulator {
// One character for a type's kind (as NumPy's dtype.kind, 'u' folded into 'i'; 'v' for anything else).
template <class T> constexpr char kind() {
    using U = std::remove_cv_t<T>;
    if (std::is_same<U, Float>::value || std::is_floating_point<U>::value || std::is_same<U, __half>::value) return 'f';
    if (std::is_same<U, bool>::value) return 'b';
    return std::is_integral<U>::value ? 'i' : 'v';
}
template <class T> struct Size { static constexpr int value = sizeof(T); };
template <> struct Size<void> { static constexpr int value = 1; };
template <> struct Size<const void> : Size<void> {};

struct Parameter { char kind, pointee; int size, pointee_size; };  // kind 'p': a pointer to `pointee`
template <class T> constexpr Parameter parameter() {
    if constexpr (std::is_pointer<T>::value) {
        using E = std::remove_pointer_t<T>;
        return {'p', kind<E>(), 8, Size<E>::value};
    } else {
        return {kind<T>(), 0, sizeof(T), 0};
    }
}
template <auto function> struct Kernel;
template <class... P, void (*function)(P...)>
struct Kernel<function> {
    static constexpr int count = sizeof...(P);
    static constexpr Parameter parameters[sizeof...(P) + 1] = {parameter<P>()..., {}};
    static EMULATOR_UNWATCHED void call(void** arguments) { call(arguments, std::index_sequence_for<P...>()); }

  private:
    template <size_t... I> static EMULATOR_UNWATCHED void call(void** arguments, std::index_sequence<I...>) {
        function(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
    }
};
}  // namespace emulator
// A macro cannot take `launch_bounds(threads, blocks)` apart; a function can.
namespace emulator {
constexpr int first(int threads, int = 0, int = 0) { return threads; }
}
#define EMULATOR_KERNEL(index, bounds, ...)                                                                     \
    EMULATOR_EXPORT EMULATOR_UNWATCHED void emulator_call_##index(void** arguments) {                           \
        emulator::Kernel<__VA_ARGS__>::call(arguments);                                                         \
    }                                                                                                           \
    EMULATOR_EXPORT const int emulator_bounds_##index = emulator::first bounds;                                 \
    EMULATOR_EXPORT const int emulator_count_##index = emulator::Kernel<__VA_ARGS__>::count;                    \
    EMULATOR_EXPORT const emulator::Parameter* const emulator_parameters_##index =                              \
        emulator::Kernel<__VA_ARGS__>::parameters;

// The address of this thread's copy of the module's thread-local storage, and so of its shared memory.
EMULATOR_EXPORT __thread char emulator_anchor;
__thread char emulator_anchor;
EMULATOR_EXPORT void* emulator_anchor_address() { return &emulator_anchor; }
