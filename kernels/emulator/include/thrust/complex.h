// thrust::complex<T> as CuPy has it: operators take numbers of one type T, and functions are the standard library's.
#pragma once
#include <complex>

#define EMULATOR_COMPLEX template <class T> EMULATOR_INLINE
namespace thrust {
template <class T>
struct alignas(2 * sizeof(T)) complex {
    typedef T value_type;

    complex() = default;
    EMULATOR_INLINE complex(const T& real, const T& imag = T()) : data{real, imag} {}
    template <class U> EMULATOR_INLINE complex(const complex<U>& z) : data{T(z.real()), T(z.imag())} {}

    EMULATOR_INLINE T real() const { return data[0]; }
    EMULATOR_INLINE T imag() const { return data[1]; }
    EMULATOR_INLINE T real() const volatile { return data[0]; }
    EMULATOR_INLINE T imag() const volatile { return data[1]; }
    EMULATOR_INLINE void real(T x) { data[0] = x; }
    EMULATOR_INLINE void imag(T x) { data[1] = x; }

    EMULATOR_INLINE complex& operator+=(const complex& z) { return *this = *this + z; }
    EMULATOR_INLINE complex& operator-=(const complex& z) { return *this = *this - z; }
    EMULATOR_INLINE complex& operator*=(const complex& z) { return *this = *this * z; }
    EMULATOR_INLINE complex& operator/=(const complex& z) { return *this = *this / z; }

private:
    T data[2];
};

EMULATOR_COMPLEX complex<T> operator+(const complex<T>& a) { return a; }
EMULATOR_COMPLEX complex<T> operator-(const complex<T>& a) { return {-a.real(), -a.imag()}; }

EMULATOR_COMPLEX complex<T> operator+(const complex<T>& a, const complex<T>& b) {
    return {a.real() + b.real(), a.imag() + b.imag()};
}
EMULATOR_COMPLEX complex<T> operator+(const complex<T>& a, const T& b) { return {a.real() + b, a.imag()}; }
EMULATOR_COMPLEX complex<T> operator+(const T& a, const complex<T>& b) { return {a + b.real(), b.imag()}; }

EMULATOR_COMPLEX complex<T> operator-(const complex<T>& a, const complex<T>& b) {
    return {a.real() - b.real(), a.imag() - b.imag()};
}
EMULATOR_COMPLEX complex<T> operator-(const complex<T>& a, const T& b) { return {a.real() - b, a.imag()}; }
EMULATOR_COMPLEX complex<T> operator-(const T& a, const complex<T>& b) { return {a - b.real(), -b.imag()}; }

EMULATOR_COMPLEX complex<T> operator*(const complex<T>& a, const complex<T>& b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}
EMULATOR_COMPLEX complex<T> operator*(const complex<T>& a, const T& b) { return {a.real() * b, a.imag() * b}; }
EMULATOR_COMPLEX complex<T> operator*(const T& a, const complex<T>& b) { return {a * b.real(), a * b.imag()}; }

EMULATOR_COMPLEX complex<T> operator/(const complex<T>& a, const complex<T>& b) {
    T scale = T(1) / (fabs(b.real()) + fabs(b.imag()));  // so that the squares neither overflow nor vanish
    T ar = a.real() * scale, ai = a.imag() * scale, br = b.real() * scale, bi = b.imag() * scale;
    T inverse = T(1) / (br * br + bi * bi);
    return {(ar * br + ai * bi) * inverse, (ai * br - ar * bi) * inverse};
}
EMULATOR_COMPLEX complex<T> operator/(const complex<T>& a, const T& b) { return {a.real() / b, a.imag() / b}; }
EMULATOR_COMPLEX complex<T> operator/(const T& a, const complex<T>& b) { return complex<T>(a) / b; }

EMULATOR_COMPLEX bool operator==(const complex<T>& a, const complex<T>& b) {
    return a.real() == b.real() && a.imag() == b.imag();
}
EMULATOR_COMPLEX bool operator==(const complex<T>& a, const T& b) { return a == complex<T>(b); }
EMULATOR_COMPLEX bool operator==(const T& a, const complex<T>& b) { return complex<T>(a) == b; }
EMULATOR_COMPLEX bool operator!=(const complex<T>& a, const complex<T>& b) { return !(a == b); }
EMULATOR_COMPLEX bool operator!=(const complex<T>& a, const T& b) { return !(a == b); }
EMULATOR_COMPLEX bool operator!=(const T& a, const complex<T>& b) { return !(a == b); }

EMULATOR_COMPLEX T real(const complex<T>& z) { return z.real(); }
EMULATOR_COMPLEX T imag(const complex<T>& z) { return z.imag(); }
EMULATOR_COMPLEX T norm(const complex<T>& z) { return z.real() * z.real() + z.imag() * z.imag(); }
EMULATOR_COMPLEX T abs(const complex<T>& z) { return hypot(z.real(), z.imag()); }
EMULATOR_COMPLEX T arg(const complex<T>& z) { return atan2(z.imag(), z.real()); }
EMULATOR_COMPLEX complex<T> conj(const complex<T>& z) { return {z.real(), -z.imag()}; }
EMULATOR_COMPLEX complex<T> polar(const T& m, const T& theta = T()) { return {m * cos(theta), m * sin(theta)}; }

EMULATOR_COMPLEX std::complex<T> to_standard(const complex<T>& z) { return {z.real(), z.imag()}; }
EMULATOR_COMPLEX complex<T> from_standard(const std::complex<T>& z) { return {z.real(), z.imag()}; }
#define EMULATOR_FUNCTION(name) EMULATOR_COMPLEX complex<T> name(const complex<T>& z) { return from_standard(std::name(to_standard(z))); }
EMULATOR_FUNCTION(exp) EMULATOR_FUNCTION(log) EMULATOR_FUNCTION(log10) EMULATOR_FUNCTION(sqrt) EMULATOR_FUNCTION(proj)
EMULATOR_FUNCTION(sin) EMULATOR_FUNCTION(cos) EMULATOR_FUNCTION(tan) EMULATOR_FUNCTION(asin) EMULATOR_FUNCTION(acos)
EMULATOR_FUNCTION(atan) EMULATOR_FUNCTION(sinh) EMULATOR_FUNCTION(cosh) EMULATOR_FUNCTION(tanh) EMULATOR_FUNCTION(asinh)
EMULATOR_FUNCTION(acosh) EMULATOR_FUNCTION(atanh)
#undef EMULATOR_FUNCTION
EMULATOR_COMPLEX complex<T> pow(const complex<T>& z, const complex<T>& w) { return exp(log(z) * w); }
EMULATOR_COMPLEX complex<T> pow(const complex<T>& z, const T& w) { return exp(log(z) * w); }
EMULATOR_COMPLEX complex<T> pow(const T& z, const complex<T>& w) { return exp(log(complex<T>(z)) * w); }
}  // namespace thrust
#undef EMULATOR_COMPLEX

namespace emulator {
template <class T> struct IsComplex<thrust::complex<T>> : std::true_type {};
}  // namespace emulator
