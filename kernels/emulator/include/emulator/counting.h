// `float`, or a float that counts: with EMULATOR_COUNT_FLOPS every `float` of the source is a class.
#pragma once
#include "emulator/qualifiers.h"

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
