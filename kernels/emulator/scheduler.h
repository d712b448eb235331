// What runtime.cpp (threads, blocks, launches) and checker.cpp (memory) know of each other.
#pragma once
#include <cstdint>
#include <string>

#include "runtime.h"

#define INITIAL_EXEC __thread __attribute__((tls_model("initial-exec")))
EMULATOR_EXPORT INITIAL_EXEC uint3 threadIdx, blockIdx, blockDim, gridDim;  // const to device code, see device.h

namespace emulator {
constexpr int WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP;

enum FaultKind : int { NONE, OUT_OF_BOUNDS, UNINITIALIZED_READ, DATA_RACE, DIVERGENT_BARRIER, BAD_SHUFFLE, MISALIGNED, CRASH,
                       ASSERTION };

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
};

struct Counts {
    int64_t bytes_read, bytes_written, unique_bytes_read, unique_bytes_written, shared_bytes_read, shared_bytes_written;
    int64_t atomics, barriers, flops, special;
};

// One launch, filled in by module.py (the ctypes twin is module.LaunchRecord).
struct Launch {
    void (*call)(void** arguments);
    void** arguments;
    uint32_t grid[3], block[3];
    int64_t dynamic_shared;         // bytes
    char* dynamic_shared_memory;    // checked only; otherwise each worker has its own
    int32_t workers;
    int32_t checked;
    uint64_t seed;
    Region* regions;        // checked only; in order of address
    int64_t region_count;
    char *image_begin, *image_end;  // out: the loaded module, with its constants and __device__ variables
    Counts counts;
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

namespace checker {
void begin_launch();
void end_launch();
void begin_block();
void end_block();                               // every thread of the block has exited
void barrier();                                 // every thread of the block has arrived
void blame_unwritten();                         // before a fault that an earlier read of unwritten memory may explain
void sync_warp(int warp, unsigned mask);        // every lane in mask has arrived
}  // namespace checker
}  // namespace emulator
