// __half and __nv_bfloat16, and pairs of them: 16-bit storage, every operation in float and rounded back to nearest
// even, as cuda_fp16.h and cuda_bf16.h do.
#pragma once
#include "emulator/atomics.h"
#include "emulator/math.h"
#include "emulator/vectors.h"

namespace emulator {
// Multiplying by 2^112 moves a half's exponent to a float's, subnormals included.
inline real half_to_float(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    if (magnitude >= 0x7c00u << 13) return bits<real>(sign | 0x7f800000u | (magnitude & 0x7fffff));  // inf, nan
    return bits<real>(bits<uint32_t>(bits<real>(magnitude) * 0x1p112f) | sign);
}
inline uint16_t float_to_half(real value) {
    uint32_t word = bits<uint32_t>(value), sign = word >> 16 & 0x8000, magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);  // 65520 and above round to infinity
    if (magnitude < 0x38800000u)  // subnormal: adding 0.5 lets the hardware round at a half's last bit
        return (uint16_t)(sign | (bits<uint32_t>(bits<real>(magnitude) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
// The upper half of a float.
inline real bfloat16_to_float(uint16_t b) { return bits<real>((uint32_t)b << 16); }
inline uint16_t float_to_bfloat16(real value) {
    uint32_t word = bits<uint32_t>(value);
    if ((word & 0x7fffffff) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}
}  // namespace emulator

struct __half_raw { unsigned short x; };
struct __nv_bfloat16_raw { unsigned short x; };

// The type H of 16 bits and its pair H2. Where CUDA's names differ, they have `half` or `bfloat16` in them.
#define EMULATOR_SIXTEEN_BITS(H, H2, RAW, to_float, from_float)                                                     \
    struct H {                                                                                                      \
        uint16_t bits;                                                                                              \
        H() = default;                                                                                              \
        template <class T, std::enable_if_t<std::is_arithmetic<T>::value || std::is_same<T, float>::value, int> = 0> \
        H(T value) : bits(emulator::from_float((emulator::real)value)) {}                                           \
        H(RAW raw) : bits(raw.x) {}                                                                                 \
        operator float() const { return emulator::to_float(bits); }                                                 \
        operator RAW() const { return {bits}; }                                                                     \
        EMULATOR_SIXTEEN_OPERATOR(H, +) EMULATOR_SIXTEEN_OPERATOR(H, -)                                             \
        EMULATOR_SIXTEEN_OPERATOR(H, *) EMULATOR_SIXTEEN_OPERATOR(H, /)                                             \
        EMULATOR_SIXTEEN_COMPARE(H, <) EMULATOR_SIXTEEN_COMPARE(H, >) EMULATOR_SIXTEEN_COMPARE(H, <=)               \
        EMULATOR_SIXTEEN_COMPARE(H, >=) EMULATOR_SIXTEEN_COMPARE(H, ==) EMULATOR_SIXTEEN_COMPARE(H, !=)             \
        H operator-() const { return H(-(float)*this); }                                                            \
        H operator+() const { return *this; }                                                                       \
        H& operator++() { return *this = *this + H(1); }                                                            \
        H& operator--() { return *this = *this - H(1); }                                                            \
        static H from_bits(unsigned short word) {                                                                   \
            H h;                                                                                                    \
            h.bits = word;                                                                                          \
            return h;                                                                                               \
        }                                                                                                           \
    };                                                                                                              \
    struct alignas(4) H2 {                                                                                          \
        H x, y;                                                                                                     \
        H2() = default;                                                                                             \
        H2(H x, H y) : x(x), y(y) {}                                                                                \
        EMULATOR_SIXTEEN_PAIR(H2, +) EMULATOR_SIXTEEN_PAIR(H2, -) EMULATOR_SIXTEEN_PAIR(H2, *)                      \
        EMULATOR_SIXTEEN_PAIR(H2, /)                                                                                \
        H2 operator-() const { return {-x, -y}; }                                                                   \
        friend bool operator==(H2 a, H2 b) { return a.x == b.x && a.y == b.y; }                                     \
        friend bool operator!=(H2 a, H2 b) { return !(a == b); }                                                    \
    };                                                                                                              \
    EMULATOR_SIXTEEN_NAMED(H, H2, add, +) EMULATOR_SIXTEEN_NAMED(H, H2, sub, -) EMULATOR_SIXTEEN_NAMED(H, H2, mul, *) \
    EMULATOR_SIXTEEN_ORDER(H, H2, lt, <) EMULATOR_SIXTEEN_ORDER(H, H2, gt, >) EMULATOR_SIXTEEN_ORDER(H, H2, le, <=) \
    EMULATOR_SIXTEEN_ORDER(H, H2, ge, >=) EMULATOR_SIXTEEN_ORDER(H, H2, eq, ==) EMULATOR_SIXTEEN_ORDER(H, H2, ne, !=) \
    inline H __hdiv(H a, H b) { return a / b; }                                                                     \
    inline H2 __h2div(H2 a, H2 b) { return a / b; }                                                                 \
    inline H __hfma(H a, H b, H c) { return H(fmaf((float)a, (float)b, (float)c)); }                                \
    inline H2 __hfma2(H2 a, H2 b, H2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }                  \
    inline H __hmax(H a, H b) { return H(fmaxf((float)a, (float)b)); }                                              \
    inline H __hmin(H a, H b) { return H(fminf((float)a, (float)b)); }                                              \
    inline H2 __hmax2(H2 a, H2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                                  \
    inline H2 __hmin2(H2 a, H2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                                  \
    inline H __hneg(H a) { return -a; }                                                                             \
    inline H2 __hneg2(H2 a) { return -a; }                                                                          \
    inline H __habs(H a) { return H(fabsf((float)a)); }                                                             \
    inline H2 __habs2(H2 a) { return {__habs(a.x), __habs(a.y)}; }                                                  \
    inline bool __hisnan(H a) { return (float)a != (float)a; }                                                      \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, exp, expf) EMULATOR_SIXTEEN_FUNCTION(H, H2, exp2, exp2f)                       \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, log, logf) EMULATOR_SIXTEEN_FUNCTION(H, H2, log2, log2f)                       \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, sqrt, sqrtf) EMULATOR_SIXTEEN_FUNCTION(H, H2, rsqrt, rsqrtf)                   \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, sin, sinf) EMULATOR_SIXTEEN_FUNCTION(H, H2, cos, cosf)                         \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, tanh, tanhf) EMULATOR_SIXTEEN_FUNCTION(H, H2, floor, floorf)                   \
    EMULATOR_SIXTEEN_FUNCTION(H, H2, ceil, ceilf) EMULATOR_SIXTEEN_FUNCTION(H, H2, rint, rintf)                     \
    inline H hrcp(H a) { return H(1) / a; }                                                                         \
    inline H2 h2rcp(H2 a) { return {hrcp(a.x), hrcp(a.y)}; }                                                        \
    inline float __low2float(H2 v) { return (float)v.x; }                                                           \
    inline float __high2float(H2 v) { return (float)v.y; }                                                          \
    inline bool emulator_rounds(H old, H v) { return (float)(old + v) != (float)old + (float)v; }                   \
    inline bool emulator_rounds(H2 old, H2 v) { return emulator_rounds(old.x, v.x) || emulator_rounds(old.y, v.y); }
#define EMULATOR_SIXTEEN_OPERATOR(H, op)                                        \
    friend H operator op(H a, H b) { return H((float)a op (float)b); }          \
    H& operator op##=(H b) { return *this = *this op b; }
#define EMULATOR_SIXTEEN_COMPARE(H, op) friend bool operator op(H a, H b) { return (float)a op (float)b; }
#define EMULATOR_SIXTEEN_PAIR(H2, op)                                           \
    friend H2 operator op(H2 a, H2 b) { return {a.x op b.x, a.y op b.y}; }      \
    H2& operator op##=(H2 b) { return *this = *this op b; }
#define EMULATOR_SIXTEEN_NAMED(H, H2, name, op)                                 \
    inline H __h##name(H a, H b) { return a op b; }                             \
    inline H __h##name##_rn(H a, H b) { return a op b; }                        \
    inline H2 __h##name##2(H2 a, H2 b) { return a op b; }                       \
    inline H2 __h##name##2_rn(H2 a, H2 b) { return a op b; }
#define EMULATOR_SIXTEEN_ORDER(H, H2, name, op)                                 \
    inline bool __h##name(H a, H b) { return a op b; }                          \
    inline bool __hb##name##2(H2 a, H2 b) { return a.x op b.x && a.y op b.y; }  \
    inline H2 __h##name##2(H2 a, H2 b) { return {H(a.x op b.x), H(a.y op b.y)}; }
#define EMULATOR_SIXTEEN_FUNCTION(H, H2, name, function)                        \
    inline H h##name(H a) { return H(function((float)a)); }                     \
    inline H2 h2##name(H2 a) { return {h##name(a.x), h##name(a.y)}; }
EMULATOR_SIXTEEN_BITS(__half, __half2, __half_raw, half_to_float, float_to_half)
EMULATOR_SIXTEEN_BITS(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw, bfloat16_to_float, float_to_bfloat16)
EMULATOR_COMPONENTS(__half2, __half, 2) EMULATOR_COMPONENTS(__nv_bfloat162, __nv_bfloat16, 2)
#undef EMULATOR_SIXTEEN_BITS
#undef EMULATOR_SIXTEEN_OPERATOR
#undef EMULATOR_SIXTEEN_COMPARE
#undef EMULATOR_SIXTEEN_PAIR
#undef EMULATOR_SIXTEEN_NAMED
#undef EMULATOR_SIXTEEN_ORDER
#undef EMULATOR_SIXTEEN_FUNCTION
using half = __half;
using half2 = __half2;
using nv_half = __half;
using nv_half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __double2half(double x) { return __half((float)x); }
inline float __half2float(__half x) { return (float)x; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline short __half_as_short(__half x) { return (short)x.bits; }
inline __half __ushort_as_half(unsigned short x) { return __half::from_bits(x); }
inline __half __short_as_half(short x) { return __half::from_bits((unsigned short)x); }
inline __half __int2half_rn(int x) { return __half(x); }
inline int __half2int_rn(__half x) { return __float2int_rn((float)x); }
inline int __half2int_rz(__half x) { return __float2int_rz((float)x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline __half2 __low2half2(__half2 v) { return {v.x, v.x}; }
inline __half2 __high2half2(__half2 v) { return {v.y, v.y}; }
inline __half2 __lowhigh2highlow(__half2 v) { return {v.y, v.x}; }
inline __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
inline __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16((float)x); }
inline float __bfloat162float(__nv_bfloat16 x) { return (float)x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return __nv_bfloat16::from_bits(x); }
inline __nv_bfloat16 __int2bfloat16_rn(int x) { return __nv_bfloat16(x); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {__nv_bfloat16(x), __nv_bfloat16(x)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
inline __nv_bfloat162 __low2bfloat162(__nv_bfloat162 v) { return {v.x, v.x}; }
inline __nv_bfloat162 __high2bfloat162(__nv_bfloat162 v) { return {v.y, v.y}; }
