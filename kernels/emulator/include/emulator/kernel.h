// How Python finds and calls a kernel.
#pragma once
#include "emulator/half.h"

namespace emulator {
template <class T> struct IsComplex : std::false_type {};  // thrust/complex.h specializes it
// One character for a type's kind (as NumPy's dtype.kind, 'u' folded into 'i'; 'B': bfloat16, 'p': a pointer, 'v' for
// anything else).
template <class T> constexpr char kind() {
    using U = std::remove_cv_t<T>;
    if (std::is_same<U, Float>::value || std::is_floating_point<U>::value || std::is_same<U, __half>::value) return 'f';
    if (std::is_same<U, __nv_bfloat16>::value) return 'B';
    if (std::is_same<U, bool>::value) return 'b';
    if (std::is_pointer<U>::value) return 'p';
    if (IsComplex<U>::value) return 'c';
    return std::is_integral<U>::value ? 'i' : 'v';
}
template <class T> struct Size { static constexpr int value = sizeof(T); };
template <> struct Size<void> { static constexpr int value = 1; };
template <> struct Size<const void> : Size<void> {};

template <class T> struct Described { static constexpr int dimensions = 0, item = 0; };  // cupy/carray.cuh specializes it
// kind 'p': a pointer to `pointee`; 'a': a CArray of `size` dimensions. A pointee that is one of CUDA's vector types has
// `components` of the kind `component`, all others have none.
struct Parameter { char kind, pointee, component; int size, pointee_size, constant, components; };
template <class T> constexpr Parameter parameter() {
    if constexpr (std::is_pointer<T>::value) {
        using E = std::remove_pointer_t<T>;
        using V = Components<std::remove_cv_t<E>>;
        return {'p', kind<E>(), kind<typename V::type>(), 8, Size<E>::value, std::is_const<E>::value, V::count};
    } else if constexpr (Described<std::remove_cv_t<T>>::dimensions > 0) {
        using D = Described<std::remove_cv_t<T>>;
        return {'a', 0, 0, D::dimensions, D::item, 0, 0};
    } else {
        return {kind<T>(), 0, 0, sizeof(T), 0, 0, 0};
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
