// Atomic operations, of any type of 2, 4 or 8 bytes.
#pragma once
#include "emulator/counting.h"

namespace emulator {
enum AtomicAccess : int { LOADS = 1, STORES = 2, UPDATES = 3, SWAPS = 7 };
#ifdef EMULATOR_CHECKED
// The runtime hears of the access as one atomic operation, made by the line that called it.
#define EMULATOR_ATOMIC __attribute__((noinline)) EMULATOR_UNWATCHED
#define EMULATOR_TOUCH(p, access) emulator_atomic((void*)(p), sizeof *(p), __builtin_return_address(0), emulator::access)
#define EMULATOR_ROUNDS(p, old, v, kind) \
    if (kind == emulator::SUM && emulator_rounds(old, (T)v)) emulator_order_matters((void*)(p), __builtin_return_address(0))
#else
#define EMULATOR_ATOMIC inline
#define EMULATOR_TOUCH(p, access)
#define EMULATOR_ROUNDS(p, old, v, kind)
#endif
template <unsigned bytes> struct Word;
template <> struct Word<2> { using type = uint16_t; };
template <> struct Word<4> { using type = uint32_t; };
template <> struct Word<8> { using type = uint64_t; };

enum Operation : int { SUM, OTHER };
}  // namespace emulator

// Whether a sum rounds, and so depends on the order of its terms. half.h has more.
template <class T>
EMULATOR_INLINE bool emulator_rounds(const T&, const T&) { return false; }
EMULATOR_INLINE bool emulator_rounds(float a, float b) {
    using emulator::raw;
    return (double)(raw(a) + raw(b)) != (double)raw(a) + (double)raw(b);
}
EMULATOR_INLINE bool emulator_rounds(double a, double b) { return (long double)(a + b) != (long double)a + (long double)b; }

// name(p, v): *p = formula of (old, v), returns old. One compare-and-swap loop serves every type. A spinning thread
// calls one that changes nothing again and again, so that lets the other threads of the block run.
#define EMULATOR_RMW(name, kind, formula)                                                                       \
    template <class T>                                                                                          \
    EMULATOR_ATOMIC T name(T* p, emulator::same<T> v) {                                                         \
        EMULATOR_TOUCH(p, UPDATES);                                                                             \
        using W = typename emulator::Word<sizeof(T)>::type;                                                     \
        W seen = __atomic_load_n((W*)p, __ATOMIC_RELAXED), next;                                                \
        T old;                                                                                                  \
        do {                                                                                                    \
            old = emulator::bits<T>(seen);                                                                      \
            next = emulator::bits<W>((T)(formula));                                                             \
        } while (!__atomic_compare_exchange_n((W*)p, &seen, next, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));   \
        EMULATOR_ROUNDS(p, old, v, emulator::kind);                                                             \
        if (next == seen) emulator_idle((const void*)p);                                                        \
        return old;                                                                                             \
    }                                                                                                           \
    template <class T> EMULATOR_INLINE T name##_block(T* p, emulator::same<T> v) { return name(p, v); }         \
    template <class T> EMULATOR_INLINE T name##_system(T* p, emulator::same<T> v) { return name(p, v); }
EMULATOR_RMW(atomicAdd, SUM, old + v)
EMULATOR_RMW(atomicSub, SUM, old - v)
EMULATOR_RMW(atomicMin, OTHER, v < old ? v : old)
EMULATOR_RMW(atomicMax, OTHER, v > old ? v : old)
EMULATOR_RMW(atomicAnd, OTHER, old & v)
EMULATOR_RMW(atomicOr, OTHER, old | v)
EMULATOR_RMW(atomicXor, OTHER, old ^ v)
EMULATOR_RMW(atomicInc, OTHER, old >= v ? 0 : old + 1)
EMULATOR_RMW(atomicDec, OTHER, old == 0 || old > v ? v : old - 1)
EMULATOR_RMW(emulator_exchange, OTHER, v)
#undef EMULATOR_RMW
template <class T>
EMULATOR_ATOMIC T emulator_compare_exchange(T* p, emulator::same<T> compare, emulator::same<T> v) {
    EMULATOR_TOUCH(p, SWAPS);
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
    T old = emulator_compare_exchange(p, compare, v);
    if (emulator::bits<typename emulator::Word<sizeof(T)>::type>(old) == emulator::bits<typename emulator::Word<sizeof(T)>::type>((T)compare)) emulator_progress();
    return old;
}
template <class T> EMULATOR_INLINE T atomicExch_block(T* p, emulator::same<T> v) { return atomicExch(p, v); }
template <class T> EMULATOR_INLINE T atomicExch_system(T* p, emulator::same<T> v) { return atomicExch(p, v); }
template <class T>
EMULATOR_INLINE T atomicCAS_block(T* p, emulator::same<T> compare, emulator::same<T> v) { return atomicCAS(p, compare, v); }
template <class T>
EMULATOR_INLINE T atomicCAS_system(T* p, emulator::same<T> compare, emulator::same<T> v) { return atomicCAS(p, compare, v); }

namespace emulator {
// Plain atomic loads and stores, for cuda::atomic and PTX.
template <class T>
EMULATOR_ATOMIC T atomic_load(const T* p) {
    emulator_idle((const void*)p);
    EMULATOR_TOUCH(p, LOADS);
    using W = typename Word<sizeof(T)>::type;
    return bits<T>(__atomic_load_n((const W*)p, __ATOMIC_SEQ_CST));
}
template <class T>
EMULATOR_ATOMIC void atomic_store(T* p, same<T> v) {
    EMULATOR_TOUCH(p, STORES);
    using W = typename Word<sizeof(T)>::type;
    __atomic_store_n((W*)p, bits<W>((T)v), __ATOMIC_SEQ_CST);
}
}  // namespace emulator
