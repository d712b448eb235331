// __half and __half2: 16-bit storage, every operation in float and rounded back to nearest even, as cuda_fp16.h does.
#pragma once

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
}  // namespace emulator

struct __half {
    uint16_t bits;
    __half() = default;
    template <class T, std::enable_if_t<std::is_arithmetic<T>::value || std::is_same<T, float>::value, int> = 0>
    __half(T value) : bits(emulator::float_to_half((emulator::real)value)) {}
    operator float() const { return emulator::half_to_float(bits); }
#define EMULATOR_OPERATOR(op)                                                                          \
    friend __half operator op(__half a, __half b) { return __half((float)a op (float)b); }             \
    __half& operator op##=(__half b) { return *this = *this op b; }
    EMULATOR_OPERATOR(+) EMULATOR_OPERATOR(-) EMULATOR_OPERATOR(*) EMULATOR_OPERATOR(/)
#undef EMULATOR_OPERATOR
#define EMULATOR_COMPARE(op) friend bool operator op(__half a, __half b) { return (float)a op (float)b; }
    EMULATOR_COMPARE(<) EMULATOR_COMPARE(>) EMULATOR_COMPARE(<=) EMULATOR_COMPARE(>=)
    EMULATOR_COMPARE(==) EMULATOR_COMPARE(!=)
#undef EMULATOR_COMPARE
    __half operator-() const { return __half(-(float)*this); }
};
struct alignas(4) __half2 { __half x, y; };
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return (float)x; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short x) { __half h; h.bits = x; return h; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline float __low2float(__half2 v) { return (float)v.x; }
inline float __high2float(__half2 v) { return (float)v.y; }
#define EMULATOR_HALF(name, op)                                                     \
    inline __half __h##name(__half a, __half b) { return a op b; }                  \
    inline __half2 __h##name##2(__half2 a, __half2 b) { return {a.x op b.x, a.y op b.y}; }
EMULATOR_HALF(add, +) EMULATOR_HALF(sub, -) EMULATOR_HALF(mul, *)
#undef EMULATOR_HALF
inline __half __hdiv(__half a, __half b) { return a / b; }
inline __half2 __h2div(__half2 a, __half2 b) { return {a.x / b.x, a.y / b.y}; }
inline __half __hfma(__half a, __half b, __half c) { return __half(fmaf((float)a, (float)b, (float)c)); }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline __half __hmax(__half a, __half b) { return __half(fmaxf((float)a, (float)b)); }
inline __half __hmin(__half a, __half b) { return __half(fminf((float)a, (float)b)); }
inline __half __hneg(__half a) { return -a; }
inline __half hexp(__half a) { return __half(expf((float)a)); }
