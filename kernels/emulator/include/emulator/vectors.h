// float4 and its kind.
#pragma once
#include "emulator/counting.h"

namespace emulator {
template <class V> struct Components { using type = void; static constexpr int count = 0; };
}
#define EMULATOR_COMPONENTS(V, T, n) \
    template <> struct emulator::Components<V> { using type = T; static constexpr int count = n; };
#define EMULATOR_VECTORS(T, name, align2, align4)                                                       \
    struct name##1 { T x; };                                                                            \
    struct alignas(align2) name##2 { T x, y; };                                                         \
    struct alignas(align4) name##4 { T x, y, z, w; };                                                   \
    EMULATOR_COMPONENTS(name##2, T, 2) EMULATOR_COMPONENTS(name##4, T, 4)                               \
    EMULATOR_INLINE name##1 make_##name##1(T x) { return {x}; }                                         \
    EMULATOR_INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }                                 \
    EMULATOR_INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define EMULATOR_VECTOR3(T, name)                                                                       \
    struct name { T x, y, z; };                                                                         \
    EMULATOR_COMPONENTS(name, T, 3)                                                                     \
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
