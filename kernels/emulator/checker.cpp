// Watches every load and store of a checked launch.
//
// The compiler's thread-sanitizer pass turns each access of the CUDA source into a call (__tsan_read4, ...), answered
// here rather than by the sanitizer. For each byte a launch may touch, a shadow records whether it was written; for
// each word, the accesses since that a later one could race with. Two accesses race if they touch the same byte, not
// both read or are both atomic, and nothing orders them: no __syncthreads of their block, no chain of __syncwarps of
// their warp. Order is computed, not observed, so a race is found in whatever order the threads happen to run. Warp
// clocks are as in FastTrack (Flanagan and Freund, 2009). A checked launch has one worker, so nothing here needs a lock.
#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

namespace emulator {
namespace checker {
namespace {

enum Kind : unsigned { READ, WRITE, ATOMIC };
enum Flag : uint8_t { WRITTEN = 1, COUNTED_READ = 2, COUNTED_WRITE = 4 };

// One access: who, when (barriers passed, and the thread's own warp clock), where in the program. block 0: none.
struct Access {
    uint32_t block, pc, clock;
    uint32_t thread : 10, kind : 2, epoch : 20;
};

// The last plain write of a word, and up to two reads or atomics since that are not ordered with each other. Two from
// different warps are enough: an access that races with a third races with one of them.
struct Cell {
    Access write, others[2];
};

struct Shadow {
    std::vector<uint8_t> flags;     // per byte
    std::unique_ptr<Cell[], void (*)(void*)> cells{nullptr, free};  // per word of 1 << shift bytes
    int shift;

    void allocate(int64_t bytes, int new_shift) {
        shift = new_shift;
        // calloc: pages of arrays that the launch never touches cost nothing
        cells.reset(static_cast<Cell*>(calloc((size_t)(bytes >> shift) + 1, sizeof(Cell))));
    }
};

Launch* launch;
std::vector<Shadow> shadows;        // one per region
uint32_t epoch;                     // barriers that the block has passed
uint32_t clocks[MAX_THREADS][WARP]; // clocks[t][l]: how far thread t has seen lane l of its warp
int64_t recent;                     // the region of the last access

// The first read of unwritten memory. Reported only when no thread can write there any more without a barrier
// between: until then it may be one half of a race, observed in the order in which the read came first.
struct UnwrittenRead {
    int64_t region = -1, offset, block;
    int thread;
    uint64_t pc;
} unwritten;

Access access_now(uint64_t pc, Kind kind) {
    uint32_t thread = (uint32_t)current.thread;
    return {(uint32_t)current.block + 1, (uint32_t)(pc - (uint64_t)launch->image_begin), clocks[thread][thread % WARP],
            thread, kind, epoch};
}

// Whether `before` certainly happened before `now`, by barriers.
bool ordered(const Access& before, const Access& now, bool shared) {
    if (before.block != now.block) return before.block == 0 || shared;  // a new block has new shared memory
    if (before.thread == now.thread || before.epoch != now.epoch) return true;
    return before.thread / WARP == now.thread / WARP && clocks[now.thread][before.thread % WARP] >= before.clock;
}

std::string element(const Region& region, int64_t offset) {
    std::string name = region.name;
    if (region.item > 1) return name + "[" + std::to_string(offset / region.item - (offset % region.item < 0)) + "]";
    return "byte " + std::to_string(offset) + " of " + name;
}

std::string extent(const Region& region) {
    std::string count = std::to_string(region.bytes / region.item);
    return std::string(region.name) + " (" + region.type + ", " + count + (region.item > 1 ? " elements)" : " bytes)");
}

const char* verb(unsigned kind) { return kind == READ ? "reads " : kind == WRITE ? "writes " : "updates "; }

[[noreturn]] void out_of_bounds(char* address, int64_t size, uint64_t pc, unsigned kind) {
    const Region* nearest = nullptr;
    int64_t least = 1 << 20;  // further away than this, the address says nothing about an array
    for (int64_t i = 0; i < launch->region_count; i++) {
        const Region& r = launch->regions[i];
        int64_t distance = std::max<int64_t>(r.base - address, address + size - (r.base + r.bytes));
        if (distance < least) least = distance, nearest = &r;
    }
    std::string what = verb(kind) + std::to_string(size) + " bytes at ";
    if (nearest)
        what += element(*nearest, address - nearest->base) + " at @0, " +
                (address < nearest->base ? "before the start of " : "past the end of ") + extent(*nearest);
    else
        what += "@0, at an address that no array of the launch is near";
    fail(OUT_OF_BOUNDS, what, pc);
}

[[noreturn]] void race(const Region& region, int64_t offset, const Access& before, const Access& now, uint64_t pc) {
    std::string other = thread_name(*launch, (int)before.thread);
    if (before.block != now.block) other += " of block " + block_name(*launch, (int64_t)before.block - 1);
    fail(DATA_RACE, verb(now.kind) + element(region, offset) + " at @0, which thread " + other + " " + verb(before.kind) +
         "at @1, with no barrier between", pc, (uint64_t)launch->image_begin + before.pc);
}

int64_t find(char* address, int64_t size) {
    auto holds = [&](int64_t i) {
        const Region& r = launch->regions[i];
        return address >= r.base && address + size <= r.base + r.bytes;
    };
    if (recent < launch->region_count && holds(recent)) return recent;
    int64_t low = 0, high = launch->region_count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        (launch->regions[middle].base <= address ? low : high) = middle;
    }
    return launch->region_count && holds(low) ? recent = low : -1;
}

// clang++ instruments reads of threadIdx and the like too.
bool is_builtin(char* address) {
    const uint3* variables[] = {&threadIdx, &blockIdx, &blockDim, &gridDim};
    return std::any_of(std::begin(variables), std::end(variables), [&](const uint3* variable) {
        return address >= (char*)variable && address < (char*)(variable + 1);
    });
}

// A word first met in parts is watched byte by byte from then on.
void refine(Shadow& shadow, int64_t bytes) {
    auto words = std::move(shadow.cells);
    shadow.allocate(bytes, 0);
    for (int64_t i = 0; i < bytes; i++) shadow.cells[i] = words[i >> 2];
}

void remember(Cell& cell, const Access& now, bool shared) {
    Access* others = cell.others;
    if (now.kind == WRITE) {
        cell = {now, {}};  // all that was before is ordered before it, or this had been a race
    } else {
        for (int i = 0; i < 2; i++) {
            bool same_kind = others[i].kind == now.kind;
            if (!others[i].block || (same_kind && ordered(others[i], now, shared)) || (others[i].block != now.block && shared)) {
                others[i] = now;
                return;
            }
        }
        bool same_warp = others[0].block == others[1].block && others[0].thread / WARP == others[1].thread / WARP;
        if (same_warp && others[1].kind == now.kind) others[1] = now;
    }
}

void check_race(const Region& region, int64_t offset, Cell& cell, const Access& now, uint64_t pc) {
    const Access* known[] = {&cell.write, &cell.others[0], &cell.others[1]};
    for (const Access* before : known) {
        bool harmless = before->kind == now.kind && now.kind != WRITE;
        if (!harmless && !ordered(*before, now, region.shared)) race(region, offset, *before, now, pc);
    }
}

// Counts and flags the bytes; returns the first that is read but was never written, or -1.
int64_t pass_bytes(const Region& region, Shadow& shadow, int64_t offset, int64_t size, Kind kind) {
    Counts& counts = launch->counts;
    (region.shared ? counts.shared_bytes_read : counts.bytes_read) += kind != WRITE ? size : 0;
    (region.shared ? counts.shared_bytes_written : counts.bytes_written) += kind != READ ? size : 0;
    int64_t blank = -1;
    for (int64_t i = offset; i < offset + size; i++) {
        uint8_t& flags = shadow.flags[i];
        if (kind != WRITE) {
            if (!(flags & WRITTEN) && blank < 0) blank = i;
            if (!region.shared && !(flags & COUNTED_READ)) flags |= COUNTED_READ, counts.unique_bytes_read++;
        }
        if (kind != READ) {
            if (!region.shared && !(flags & COUNTED_WRITE)) flags |= COUNTED_WRITE, counts.unique_bytes_written++;
            flags |= WRITTEN;
        }
    }
    return blank;
}

void note_unwritten() {
    const Region& region = launch->regions[unwritten.region];
    current.block = unwritten.block, current.thread = unwritten.thread;
    note_fault(UNINITIALIZED_READ, "reads " + element(region, unwritten.offset) + " at @0, " +
               (region.shared ? "shared memory that nobody in its block has written" : "which nobody has written"),
               unwritten.pc);
}

void fail_if_shared_unwritten() {
    if (unwritten.region >= 0 && launch->regions[unwritten.region].shared) fail(UNINITIALIZED_READ, "");
}

void touch(void* pointer, int64_t size, void* pc_pointer, Kind kind) {
    char* address = static_cast<char*>(pointer);
    if (address >= current.stack_begin && address + size <= current.stack_end) return;  // a local variable
    uint64_t pc = (uint64_t)pc_pointer;
    int64_t index = find(address, size);
    if (index < 0) {
        if (address >= launch->image_begin && address + size <= launch->image_end) return;  // a constant of the source
        if (is_builtin(address)) return;
        out_of_bounds(address, size, pc, kind);
    }
    Region& region = launch->regions[index];
    Shadow& shadow = shadows[index];
    int64_t offset = address - region.base;
    int64_t blank = pass_bytes(region, shadow, offset, size, kind);
    if (blank >= 0 && unwritten.region < 0) unwritten = {index, blank, current.block, current.thread, pc};
    if (kind != READ) region.stored = 1;
    if (shadow.shift && ((offset | size) & 3)) refine(shadow, region.bytes);
    Access now = access_now(pc, kind);
    for (int64_t i = offset >> shadow.shift; i <= (offset + size - 1) >> shadow.shift; i++) {
        Cell& cell = shadow.cells[i];
        check_race(region, i << shadow.shift, cell, now, pc);
        remember(cell, now, region.shared);
    }
}
}  // namespace

void begin_launch() {
    launch = current.launch;
    find_image(*launch);
    recent = 0;
    unwritten = {};
    shadows = std::vector<Shadow>((size_t)launch->region_count);
    for (int64_t i = 0; i < launch->region_count; i++) {
        const Region& region = launch->regions[i];
        shadows[i].flags.assign((size_t)region.bytes, WRITTEN);
        if (region.written)
            for (int64_t b = 0; b < region.bytes; b++) shadows[i].flags[b] = region.written[b] ? WRITTEN : 0;
        shadows[i].allocate(region.bytes, 2);
    }
}

void blame_unwritten() {
    if (unwritten.region >= 0) note_unwritten();
}

void end_launch() {
    blame_unwritten();
    for (int64_t i = 0; i < launch->region_count; i++)
        if (uint8_t* written = launch->regions[i].written)
            for (int64_t b = 0; b < launch->regions[i].bytes; b++) written[b] = shadows[i].flags[b] & WRITTEN;
    shadows.clear();
}

void begin_block() {
    epoch = 0;
    for (int t = 0; t < MAX_THREADS; t++) {
        std::fill(clocks[t], clocks[t] + WARP, 0);
        clocks[t][t % WARP] = 1;
    }
    for (int64_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (!region.shared) continue;
        std::fill(shadows[i].flags.begin(), shadows[i].flags.end(), 0);
        memset(region.base, 0xff, (size_t)region.bytes);  // a float of these bits is a nan
    }
}

void end_block() { fail_if_shared_unwritten(); }

void barrier() {
    fail_if_shared_unwritten();
    epoch++;
    launch->counts.barriers++;
}

// Joins the clocks of all lanes in the mask, then advances each lane's own.
void sync_warp(int warp, unsigned mask) {
    uint32_t seen[WARP] = {};
    for (unsigned m = mask; m; m &= m - 1)
        for (int l = 0; l < WARP; l++) seen[l] = std::max(seen[l], clocks[warp * WARP + __builtin_ctz(m)][l]);
    for (unsigned m = mask; m; m &= m - 1) {
        int lane = __builtin_ctz(m);
        std::copy(seen, seen + WARP, clocks[warp * WARP + lane]);
        clocks[warp * WARP + lane][lane]++;
    }
}
}  // namespace checker
}  // namespace emulator

// ---------------------------------------------------------------- what the compiled source calls
using namespace emulator;
using namespace emulator::checker;

#define CALLER __builtin_return_address(0)
#define HOOKS(size)                                                                              \
    void __tsan_read##size(void* p) { touch(p, size, CALLER, READ); }                            \
    void __tsan_write##size(void* p) { touch(p, size, CALLER, WRITE); }                          \
    void __tsan_read_write##size(void* p) { touch(p, size, CALLER, READ); touch(p, size, CALLER, WRITE); }        \
    void __tsan_unaligned_read##size(void* p) { touch(p, size, CALLER, READ); }                  \
    void __tsan_unaligned_write##size(void* p) { touch(p, size, CALLER, WRITE); }                \
    void __tsan_unaligned_read_write##size(void* p) { touch(p, size, CALLER, READ); touch(p, size, CALLER, WRITE); } \
    void __tsan_volatile_read##size(void* p) { touch(p, size, CALLER, READ); }                   \
    void __tsan_volatile_write##size(void* p) { touch(p, size, CALLER, WRITE); }                 \
    void __tsan_unaligned_volatile_read##size(void* p) { touch(p, size, CALLER, READ); }         \
    void __tsan_unaligned_volatile_write##size(void* p) { touch(p, size, CALLER, WRITE); }

namespace {
// The undefined-behavior sanitizer's descriptions of a place and of a type, fixed by its interface.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;
    char name[1];
};
struct OutOfBoundsData {
    SourceLocation where;
    TypeDescriptor* array;
};
std::string name(const SourceLocation* where) {
    const char* slash = strrchr(where->file, '/');
    return std::string(slash ? slash + 1 : where->file) + ":" + std::to_string(where->line);
}
}  // namespace

#pragma GCC visibility push(default)
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t size) { touch(p, (int64_t)size, CALLER, READ); }
void __tsan_write_range(void* p, size_t size) { touch(p, (int64_t)size, CALLER, WRITE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void* __tsan_memcpy(void* to, const void* from, size_t size) {
    touch(const_cast<void*>(from), (int64_t)size, CALLER, READ);
    touch(to, (int64_t)size, CALLER, WRITE);
    return memcpy(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) {
    touch(to, (int64_t)size, CALLER, WRITE);
    return memset(to, value, size);
}

void __ubsan_handle_out_of_bounds(OutOfBoundsData* data, uint64_t index) {
    fail(OUT_OF_BOUNDS, "uses the index " + std::to_string((int64_t)index) + " at " + name(&data->where) +
         " in an array of the type " + data->array->name);
}
void __ubsan_handle_type_mismatch_v1(SourceLocation* where, uint64_t address) {
    fail(MISALIGNED, "uses an address at " + name(where) + " that is " + std::to_string(address % 16) +
         " bytes past a multiple of 16, which its type does not allow");
}

void emulator_atomic(void* address, unsigned size, void* pc) {
    launch->counts.atomics++;
    touch(address, size, pc, ATOMIC);
}
void emulator_count_flops(int count) { launch->counts.flops += count; }
void emulator_count_special() { launch->counts.special++; }
}
#pragma GCC visibility pop
