// The contract between device code (device.h, compiled together with each .cu file) and the runtime
// (runtime.cpp and checker.cpp, compiled once). Every name here is a call from a CUDA thread into the
// scheduler. Read device.h next for what the CUDA names mean, runtime.cpp for how threads run.
#pragma once
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {
// What the lanes of a warp do together once every lane named in the mask has arrived.
enum Collective : int { SYNC, SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, MATCH_ANY, REDUCE_ADD,
                        REDUCE_MIN, REDUCE_MAX, REDUCE_UMIN, REDUCE_UMAX, REDUCE_AND, REDUCE_OR, REDUCE_XOR, ACTIVE };
}

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

#pragma GCC visibility push(default)
extern "C" {
// Waits until all threads of the block are here; returns how many came with a true predicate. `line`: "file.cu:12".
int emulator_barrier(const char* line, int predicate);
// Waits for all lanes in mask; `argument` is a source lane, a delta, or a lane mask. Returns this lane's result.
uint64_t emulator_collective(int kind, unsigned mask, uint64_t value, int argument, int width);
unsigned emulator_active_lanes();           // the lanes of this warp that come here together
void emulator_yield();                      // lets another thread of the block run: spinning code must make progress
void* emulator_dynamic_shared();            // the launch's dynamic shared memory
uint64_t emulator_clock();
[[noreturn]] void emulator_assertion(const char* condition, const char* line);
// Only the checked build calls these.
void emulator_atomic(void* address, unsigned size, void* pc);
void emulator_count_flops(int count);
void emulator_count_special();
}
#pragma GCC visibility pop
