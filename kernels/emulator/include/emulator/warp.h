// Barriers of a block, fences, and what the lanes of a warp do together.
#pragma once
#include "emulator/counting.h"

#define EMULATOR_TEXT(x) #x
#define EMULATOR_NUMBER(x) EMULATOR_TEXT(x)
#define EMULATOR_LINE __FILE__ ":" EMULATOR_NUMBER(__LINE__)
#define __syncthreads() ((void)emulator_barrier(EMULATOR_LINE, 0))
#define __syncthreads_count(predicate) emulator_barrier(EMULATOR_LINE, !!(predicate))
#define __syncthreads_or(predicate) (emulator_barrier(EMULATOR_LINE, !!(predicate)) != 0)
#define __syncthreads_and(predicate) (emulator_barrier(EMULATOR_LINE, !(predicate)) == 0)
// Only the checked build orders accesses by them: the CPU runs the threads of a block one after another.
#ifdef EMULATOR_CHECKED
#define EMULATOR_FENCE(scope) emulator_fence(scope)
#else
#define EMULATOR_FENCE(scope) __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
EMULATOR_INLINE void __threadfence() { EMULATOR_FENCE(1); }
EMULATOR_INLINE void __threadfence_block() { EMULATOR_FENCE(0); }
EMULATOR_INLINE void __threadfence_system() { EMULATOR_FENCE(1); }
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

#ifdef EMULATOR_CHECKED
// By reference: a lane whose value no other lane receives may have left it unwritten.
#define EMULATOR_SHUFFLE(name, kind)                                                                          \
    template <class T>                                                                                        \
    __attribute__((noinline)) EMULATOR_UNWATCHED T name(unsigned mask, const T& value, int argument, int width = warpSize) { \
        static_assert(sizeof(T) <= 8, "a warp exchange moves at most 8 bytes");                               \
        T result;                                                                                             \
        uint64_t word = emulator_shuffle(emulator::kind, mask, (const void*)&value, sizeof value, argument, width, \
                                         __builtin_return_address(0));                                        \
        memcpy((void*)&result, &word, sizeof result);                                                         \
        return result;                                                                                        \
    }
#else
#define EMULATOR_SHUFFLE(name, kind)                                                               \
    template <class T>                                                                             \
    EMULATOR_INLINE T name(unsigned mask, T value, int argument, int width = warpSize) {           \
        return emulator::collective(emulator::kind, mask, value, argument, width);                 \
    }
#endif
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
