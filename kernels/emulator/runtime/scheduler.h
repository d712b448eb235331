// What runtime.cpp (threads, blocks, launches) and checker.cpp (memory) know of each other.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

#define INITIAL_EXEC __thread __attribute__((tls_model("initial-exec")))
EMULATOR_EXPORT INITIAL_EXEC uint3 threadIdx, blockIdx, blockDim, gridDim;  // const to device code, see device.h

namespace emulator {
constexpr int WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP;

enum FaultKind : int { NONE, OUT_OF_BOUNDS, UNINITIALIZED_READ, DATA_RACE, DIVERGENT_BARRIER, BAD_SHUFFLE, MISALIGNED, CRASH,
                       ASSERTION, UNDEFINED_ARITHMETIC, READ_ONLY, RESTRICTED, SAME_VALUE, NOT_DETERMINISTIC, DEADLOCK, TOO_LARGE };

// A stretch of memory that a launch may touch, as Python describes it.
struct Region {
    char* base;
    int64_t bytes;
    const char* name;       // the kernel's parameter, or the __shared__ variable
    const char* type;       // "float32", or "" where unknown
    int64_t item;           // bytes of one element, 1 where unknown
    uint8_t* written;       // one byte per byte of memory: 0 = not written yet; null: all is written
    int32_t shared;         // block-private: reset when the next block starts
    int32_t stored;         // out: whether the launch wrote here
    int32_t read_only;      // a pointer to const, or __constant__
    int32_t part;           // memory for one of several arrays in the dynamic shared buffer; its size comes with its use
    int32_t group;          // arguments that share memory have one number above 0; each __restrict__ one is apart
    char* host;             // where its bytes are outside the launch
};

struct Counts {
    int64_t bytes_read, bytes_written, unique_bytes_read, unique_bytes_written, shared_bytes_read, shared_bytes_written;
    int64_t atomics, barriers, flops, special;
};

// One launch, filled in by module.py (the ctypes twin is record.LaunchRecord).
struct Launch {
    void (*call)(void** arguments);
    void** arguments;
    uint32_t grid[3], block[3];
    int64_t dynamic_shared;         // bytes
    char* dynamic_shared_memory;    // checked only; otherwise each worker has its own
    // The module's static shared memory, which is thread-local: from anchor() + shared_offset on.
    char* (*anchor)();
    int64_t shared_offset, shared_bytes;
    int32_t workers;
    int32_t checked;
    int32_t same_value_writes;  // checked only: two threads may write one value to one place
    int32_t count_lines;        // checked only: see access_counts.cpp
    int32_t flush_to_zero;      // denormal floats count as zero
    int32_t uncooperative;      // not a cooperative launch: no barrier of the grid
    uint64_t seed;
    Region* regions;        // checked only; in order of address
    int64_t region_count;
    char *image_begin, *image_end;  // out: the loaded module, with its constants and __device__ variables
    Counts counts;
    char* notes;            // out, checked only: lines "kind, where in the image, numbers ..." for record.py
    int64_t notes_size;
    // The first fault: a sentence in which "@0" and "@1" stand for the source lines of pcs[0] and pcs[1], which are
    // relative to the module's image.
    int32_t fault;
    uint64_t pcs[2];
    char message[1024];
};

// The thread that runs now, and its block.
struct Current {
    Launch* launch;
    int thread;             // linear index in the block
    int64_t block;          // linear index in the grid
    char *stack_begin, *stack_end;
};
extern INITIAL_EXEC Current current;

std::string block_name(const Launch& launch, int64_t block);    // "(3,0,0)"
std::string thread_name(const Launch& launch, int thread);
void find_image(Launch& launch);
// Notes the launch's first fault: `what` follows the words "block (..), thread (..) ". pc 0: no line.
void note_fault(FaultKind kind, const std::string& what, uint64_t pc = 0, uint64_t other_pc = 0);
// Notes it and ends the launch; only inside a kernel.
[[noreturn]] void fail(FaultKind kind, const std::string& what, uint64_t pc = 0, uint64_t other_pc = 0);

// More than fail needs: whether the current thread is inside a kernel.
inline bool in_kernel() { return current.stack_begin != nullptr; }
constexpr size_t STACK = 132 << 10, GUARD = 16 << 10;  // per fiber; pages are only used once touched

namespace checker {
struct BlockState;                              // what the checker knows of a block that has started
void begin_launch();
void end_launch();
BlockState* begin_block();
void park_block();                              // another block takes its place: keeps its shared memory
void resume_block(BlockState* state);
void end_block();                               // every thread of the block has exited
void settle();                                  // before a thread stops running: its last store has happened
void exit_thread();                             // the current thread has returned from the kernel
void barrier();                                 // every thread of the block has arrived
void grid_barrier();                            // every thread of the grid has arrived
void blame_unwritten();                         // before a fault that an earlier read of unwritten memory may explain
void sync_warp(int warp, unsigned mask);        // every lane in mask has arrived
bool read_value(const void* address, int64_t size, uint64_t pc);    // whether it is a local variable not yet written
void access(void* address, int64_t size, uint64_t pc, bool writes);
void begin_copy(void* to, int64_t size, uint64_t pc);               // cp.async: writes at any time until end_copy
void end_copy(void* to, int64_t size, uint64_t pc);
}  // namespace checker
namespace access_counts {
void note(uint64_t pc, int warp, int lane, uint64_t address, int size, bool shared);
void finish_block();                            // adds up what has been noted
void append(std::string& notes, uint64_t image);
}  // namespace access_counts
}  // namespace emulator
