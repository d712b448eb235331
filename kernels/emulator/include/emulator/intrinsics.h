// Loads with a cache hint, time, failing, and integers.
#pragma once
#include "emulator/counting.h"

template <class T> EMULATOR_INLINE T __ldg(const T* p) { return *p; }
template <class T> EMULATOR_INLINE T __ldcg(const T* p) { return *p; }
template <class T> EMULATOR_INLINE T __ldcs(const T* p) { return *p; }
template <class T> EMULATOR_INLINE void __stcg(T* p, emulator::same<T> v) { *p = v; }
template <class T> EMULATOR_INLINE void __stcs(T* p, emulator::same<T> v) { *p = v; }
inline long long clock64() { return (long long)emulator_clock(); }
#define __trap() emulator_assertion("__trap()", EMULATOR_LINE)
#undef assert
#define assert(condition) ((condition) ? (void)0 : emulator_assertion(#condition, EMULATOR_LINE))


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
