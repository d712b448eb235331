// The contract between device code (include/emulator/, compiled together with each .cu file) and the runtime
// (the .cpp files beside this one, compiled once). Every name here is a call from a CUDA thread into the
// scheduler. Read device.h next for what the CUDA names mean, runtime.cpp for how threads run.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {
// What the lanes of a warp do together once every lane named in the mask has arrived.
enum Collective : int { SYNC, SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, MATCH_ANY, REDUCE_ADD,
                        REDUCE_MIN, REDUCE_MAX, REDUCE_UMIN, REDUCE_UMAX, REDUCE_AND, REDUCE_OR, REDUCE_XOR, ACTIVE, GATHER };
}

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

#pragma GCC visibility push(default)
extern "C" {
// Waits until all threads of the block are here; returns how many came with a true predicate. `line`: "file.cu:12".
int emulator_barrier(const char* line, int predicate);
void emulator_grid_barrier(const char* line);   // the same for all threads of all blocks
// Waits for all lanes in mask; `argument` is a source lane, a delta, or a lane mask. Returns this lane's result.
uint64_t emulator_collective(int kind, unsigned mask, uint64_t value, int argument, int width);
// Waits for all lanes in mask and copies the `size` bytes of each to its place in `all`, which holds 32 of them.
void emulator_gather(unsigned mask, const void* mine, int size, void* all);
unsigned emulator_active_lanes();           // the lanes of this warp that come here together
void emulator_yield();                      // lets another thread of the block run: spinning code must make progress
void emulator_idle(const void* address);    // an atomic operation changed nothing there; yields if that repeats
void emulator_progress();                   // a lock was taken or released
void* emulator_dynamic_shared();            // the launch's dynamic shared memory
unsigned emulator_dynamic_shared_bytes();
uint64_t emulator_clock();
[[noreturn]] void emulator_assertion(const char* condition, const char* line);
// cp.async: copies when the thread waits for it, `filled` zeros at the end. Until then nobody may touch the place.
void emulator_copy_async(void* to, const void* from, int size, int filled, void* pc);
void emulator_commit_copies();
void emulator_wait_copies(int groups_left);
void* emulator_program_counter();                       // where in the caller
uint64_t emulator_shared_address(const void* pointer);  // 32 bits that stand for a pointer to shared memory
void* emulator_generic(uint64_t address);               // the pointer again, or an address that is one
const char* emulator_line(const char* file, int line);              // "file.cu:12", kept for the whole process
// Only the checked build calls these.
uint64_t emulator_shuffle(int kind, unsigned mask, const void* value, size_t size, int argument, int width, void* pc);
void emulator_read(const void* address, unsigned size, void* pc);
void emulator_atomic(void* address, unsigned size, void* pc, int access);
void emulator_order_matters(void* address, void* pc);
void emulator_fence(int whole_device);
void emulator_local(void* address, size_t size, const char* name);   // begins with a name, ends with null
void emulator_padding(void* address, const char* members, size_t size);  // zeros in `members` are between members
void emulator_returns();                                            // `return;` in a kernel: leaves before its end
void* emulator_shared_part(void* address, size_t size);
void emulator_count_flops(int count);
void emulator_count_special();
}
#pragma GCC visibility pop
