// Runs a grid of CUDA threads on the cores of a CPU.
//
// Operating-system threads ("workers") take blocks one after another. Inside a block every CUDA thread is a fiber:
// a stack, and a switch of a few instructions from one stack to the next. A thread runs until it waits (at a barrier,
// for the other lanes of a shuffle) or exits; then a runnable thread resumes. A thread that exits leaves its stack
// to the next one, so a kernel without barriers is a plain loop over the threads, on one stack.
//
// A block that spins, waiting for another one, is parked while others run: worker.run_blocks.
//
// Next: checker.cpp, which watches the memory of a checked launch.
#include "scheduler.h"

#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

INITIAL_EXEC uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
INITIAL_EXEC Current current;

// ---------------------------------------------------------------- switching stacks
// switch_stack(save, load): saves this fiber's stack pointer in *save and resumes the fiber whose pointer is `load`.
extern "C" void emulator_switch_stack(void** save, void* load);

#if defined(__x86_64__)
// The callee-saved registers are all that a function call has to preserve.
asm(R"(
.text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch_stack, .-emulator_switch_stack
)");
static void* prepare_stack(char* top, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, a null return address
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(entry);
    return frame;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack, %function
emulator_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emulator_switch_stack, .-emulator_switch_stack
)");
static void* prepare_stack(char* top, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(top - 160);
    std::fill(frame, frame + 20, nullptr);
    frame[11] = reinterpret_cast<void*>(entry);  // x30, where `ret` goes
    return frame;
}
#else
#include <ucontext.h>
void emulator_switch_stack(void** save, void* load) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(load));
}
static void* prepare_stack(char* top, void (*entry)()) {
    auto* context = reinterpret_cast<ucontext_t*>(top - (sizeof(ucontext_t) + 63) / 64 * 64);
    getcontext(context);
    context->uc_stack.ss_sp = top - 65536;
    context->uc_stack.ss_size = reinterpret_cast<char*>(context) - (top - 65536);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
#endif

// ---------------------------------------------------------------- stacks
// The stacks of one worker, each above a guard page. Reused by the next launch. Above each is its shadow, of the same
// size: one byte per byte of stack, for the checker.
struct Stacks {
    std::vector<char*> bases;

    // Lowest address of a stack, or null where there is no memory for it.
    char* get(size_t index) {
        while (bases.size() <= index) {
            char* memory = static_cast<char*>(
                mmap(nullptr, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
            if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE)) return nullptr;
            bases.push_back(memory);
        }
        return bases[index];
    }

    // After a fault, whose fibers were abandoned in the middle of their functions.
    void clear_shadows() {
        for (char* base : bases) madvise(base + STACK, STACK, MADV_DONTNEED);
    }
};

static std::mutex idle_mutex;
static std::vector<Stacks*> idle_stacks;

static Stacks* take_stacks() {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle_stacks.empty()) return new Stacks;
    Stacks* stacks = idle_stacks.back();
    idle_stacks.pop_back();
    return stacks;
}

static void put_stacks(Stacks* stacks) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    idle_stacks.push_back(stacks);
}

// ---------------------------------------------------------------- one block
struct Thread {
    uint3 index;                // threadIdx
    bool returned;              // by a `return` before the kernel's end
    char* stack;                // lowest address of the stack it runs on
    const char* waits_at;       // line of the barrier it waits at, else null
    // Its part in a warp collective, while it waits for one.
    int kind, argument, width;
    unsigned mask;
    uint64_t value, pc;
    bool blank;                 // the value is a local variable that the thread has not written
};

struct Warp {
    unsigned alive, ready, waiting;  // lanes that have not exited, can run, wait in a collective
};

struct Copy {  // one cp.async
    void* to;
    const void* from;
    int size, filled, group;
    uint64_t pc;
};

// What all workers of a launch share.
struct Grid {
    std::atomic<int64_t> next_block{0}, at_barrier{0}, generation{0}, progress{0};
    std::atomic<int> workers{0}, spinning{0};
    std::atomic<bool> stop{false};
};

struct Block;

// One operating-system thread's part of a launch. It runs one block at a time; a block that waits for another one is
// parked, and so is its shared memory.
struct Worker {
    Launch* launch;
    Grid* grid;
    Stacks* stacks;
    std::vector<char> dynamic_shared;
    std::vector<char*> free_stacks;
    size_t stack_count = 0;     // stacks taken so far; those free again are listed
    uint64_t random;
    void* host;                 // saved stack pointer of the worker while fibers run
    Block* block = nullptr;     // the one that runs now

    void run();
    void run_blocks();
    [[noreturn]] void leave();
    char* new_stack();
    std::string no_stack() const;
};

struct Block {
    Worker* worker;
    Launch* launch;
    int64_t index;
    int thread_count, warp_count, alive, arrived, predicates, returned;
    int running = -1;           // the thread that runs, or ran when the block was parked
    int64_t idle;               // yields since something last changed
    int64_t moves;              // how often something changed
    const void* idle_address;
    int idle_thread;
    bool parked = false, grid_barrier = false;
    checker::BlockState* state = nullptr;
    std::vector<char> shared;   // while parked
    std::vector<std::vector<Copy>> copies;  // by thread; empty without cp.async
    std::vector<int> groups;                // by thread: copies committed
    Thread threads[MAX_THREADS];
    void* positions[MAX_THREADS];  // each fiber's saved stack pointer; null before it starts
    Warp warps[MAX_WARPS];

    void prepare(const Launch& launch);
    void start(Worker* on, int64_t number);
    void go_on();
    int pick(bool roam);
    int next(bool roam);
    bool release_active();
    void enter(int thread);
    void resume(int thread, void** save);
    void suspend(bool roam = false);
    void yield();
    void park();
    void moved() { idle = 0, moves++; }
    void exited();
    bool all_arrived() const;
    void pass_barrier();
    void wait_for_grid();
    void release_barrier();
    void complete(int warp, unsigned mask);
    void finish_copies(int thread, int groups_left);
    [[noreturn]] void stuck();
};

static INITIAL_EXEC Worker* worker;

static uint64_t next_random(uint64_t& state) {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint3 unravel(int64_t index, const uint32_t* size) {
    return {(unsigned)(index % size[0]), (unsigned)(index / size[0] % size[1]),
            (unsigned)(index / ((int64_t)size[0] * size[1]))};
}

// A runnable thread, or -1: the neighbor, then others of its warp, whose stacks are still in the cache, then the
// next warps. To roam is to try the next warps first. A checked launch takes a random one.
int Block::pick(bool roam) {
    roam |= launch->checked;
    unsigned start = (unsigned)current.thread + 1;
    if (launch->checked) start = (unsigned)(next_random(worker->random) % (unsigned)thread_count);
    int w = roam ? (int)start / WARP : current.thread / WARP;
    if (w == warp_count) w = 0;
    if (unsigned ready = warps[w].ready & ~0u << start % WARP) return w * WARP + __builtin_ctz(ready);
    for (int i = roam; i <= warp_count; i++) {
        int v = w + i < warp_count ? w + i : w + i - warp_count;
        if (warps[v].ready) return v * WARP + __builtin_ctz(warps[v].ready);
    }
    return -1;
}

void Block::enter(int thread) {
    current.thread = running = thread;
    threadIdx = threads[thread].index;
}

static void fiber_main() {
    for (;;) {
        worker->launch->call(worker->launch->arguments);
        worker->block->exited();
    }
}

// All threads that wait for others keep their stacks: those of a block, and with a grid barrier of all blocks.
std::string Worker::no_stack() const {
    int64_t blocks = (int64_t)gridDim.x * gridDim.y * gridDim.z, threads = (int64_t)blockDim.x * blockDim.y * blockDim.z;
    return "got no memory for its stack: the launch has " + std::to_string(blocks) + " blocks of " + std::to_string(threads) +
           " threads, and blocks that wait for each other are all resident: there is memory for " +
           std::to_string((int64_t)(stack_count - 1) / threads) + " of them; launch fewer or smaller ones";
}

char* Worker::new_stack() {
    if (free_stacks.empty()) {
        char* stack = stacks->get(stack_count++);
        if (!stack) fail(TOO_LARGE, no_stack());
        return stack;
    }
    char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

// Resumes `thread`, on a new stack if it has not started.
void Block::resume(int thread, void** save) {
    enter(thread);
    Thread& t = threads[thread];
    if (!positions[thread]) {
        t.stack = worker->new_stack();
        // Staggered by a few cache lines, against cache-set aliasing of the stacks.
        positions[thread] = prepare_stack(t.stack + STACK - (uintptr_t)t.stack / (2 * STACK) % 21 * 192, fiber_main);
    }
    current.stack_begin = t.stack;
    current.stack_end = t.stack + STACK;
    emulator_switch_stack(save, positions[thread]);
}

// The thread that runs while the current one waits, or -1 after another block had its turn and this one can go on.
int Block::next(bool roam) {
    int thread = pick(roam);
    if (thread < 0 && release_active()) thread = pick(roam);
    if (thread < 0) stuck();
    return thread;
}

void Block::suspend(bool roam) {
    int thread = next(roam);
    if (thread != current.thread) resume(thread, &positions[current.thread]);
}

// The current thread waits for what another one does: perhaps one of another block.
void Block::yield() {
    if (++idle > 4 * thread_count + 256) park();
    suspend(true);
}

// Lets the worker run other blocks; returns when it comes back to this one.
void Block::park() {
    if (launch->checked) checker::settle();
    idle = 0;
    parked = true;
    int me = current.thread;
    emulator_switch_stack(&positions[me], worker->host);
    parked = false;
}

// The current thread has returned from the kernel: its stack is free for the next one.
void Block::exited() {
    if (launch->checked) checker::exit_thread();
    if (!copies.empty()) finish_copies(current.thread, -1);
    Warp& warp = warps[current.thread / WARP];
    unsigned lane = 1u << current.thread % WARP;
    char* stack = threads[current.thread].stack;
    warp.alive &= ~lane;
    warp.ready &= ~lane;
    returned += threads[current.thread].returned;
    alive--;
    moved();
    if (!alive) {
        if (launch->checked) checker::end_block();
        worker->free_stacks.push_back(stack);
        worker->leave();
    }
    if (arrived && all_arrived()) {
        if (grid_barrier) {  // the others wait for a grid that this thread has left
            int waiting = 0;
            while (!threads[waiting].waits_at) waiting++;
            enter(waiting);
            fail(DIVERGENT_BARRIER, std::string("waits at the grid barrier of ") + threads[waiting].waits_at +
                 " that a thread of its block has left out");
        }
        pass_barrier();
    }
    int follower = next(false);
    if (positions[follower]) {
        worker->free_stacks.push_back(stack);
        void* nowhere;
        resume(follower, &nowhere);
    }
    threads[follower].stack = stack;
    positions[follower] = current.stack_begin;  // any mark: it has started
    enter(follower);
}

void Worker::leave() {
    void* nowhere;
    emulator_switch_stack(&nowhere, host);
    __builtin_unreachable();
}

// The same for every block of a launch.
void Block::prepare(const Launch& launch) {
    int count = (int)(launch.block[0] * launch.block[1] * launch.block[2]);
    for (int t = 0; t < count; t++) threads[t].index = unravel(t, launch.block), threads[t].waits_at = nullptr;
}

void Block::start(Worker* on, int64_t number) {
    worker = on, launch = on->launch, index = number;
    thread_count = alive = (int)(launch->block[0] * launch->block[1] * launch->block[2]);
    warp_count = (thread_count + WARP - 1) / WARP;
    arrived = predicates = returned = 0;
    idle = moves = 0, idle_address = nullptr, idle_thread = -1, grid_barrier = false;
    std::fill(positions, positions + thread_count, nullptr);
    if (launch->checked)
        for (int t = 0; t < thread_count; t++) threads[t].returned = false;
    for (int w = 0; w < warp_count; w++) {
        int lanes = std::min(WARP, thread_count - w * WARP);
        warps[w] = {~0u >> (WARP - lanes), ~0u >> (WARP - lanes), 0};
    }
    copies.clear();
}

// Runs until every thread has exited, or the block parks, or a fault ends the launch.
void Block::go_on() {
    worker->block = this;
    current.block = index;
    blockIdx = unravel(index, launch->grid);
    if (running < 0) {
        current.thread = -1;
        if (launch->checked) state = checker::begin_block();
        resume(pick(false), &worker->host);
    } else {
        if (launch->checked) checker::resume_block(state);
        resume(running, &worker->host);
    }
    current.stack_begin = current.stack_end = nullptr;
    worker->block = nullptr;
}

// ---------------------------------------------------------------- barriers
// A barrier waits for the threads that have not exited. A checked launch asks for more than a GPU: who exited must
// have done so by a `return` before the end of the kernel, and not have passed by a barrier in a branch.
bool Block::all_arrived() const {
    return arrived == alive && (!launch->checked || thread_count - alive == returned);
}

void Block::release_barrier() {
    for (int w = 0; w < warp_count; w++) warps[w].ready = warps[w].alive & ~warps[w].waiting;
    arrived = 0;
    moved();
}

void Block::pass_barrier() {
    int first = -1;
    for (int t = 0; launch->checked && t < thread_count; t++) {
        Thread& thread = threads[t];
        if (!thread.waits_at) continue;
        if (first < 0) first = t;
        if (strcmp(thread.waits_at, threads[first].waits_at)) {
            enter(t);
            fail(DIVERGENT_BARRIER, std::string("waits at the barrier of ") + thread.waits_at + " while thread " +
                 thread_name(*launch, first) + " waits at that of " + threads[first].waits_at);
        }
    }
    if (launch->checked) checker::barrier();
    for (int t = 0; t < thread_count; t++) threads[t].waits_at = nullptr, threads[t].value = (uint64_t)predicates;
    predicates = 0;
    release_barrier();
}

static void arrive(Thread& me, const char* line) {
    Block& block = *worker->block;
    if (block.launch->checked) checker::settle();
    me.waits_at = line;
    block.arrived++;
    block.warps[current.thread / WARP].ready &= ~(1u << current.thread % WARP);
}

EMULATOR_EXPORT int emulator_barrier(const char* line, int predicate) {
    Block& block = *worker->block;
    Thread& me = block.threads[current.thread];
    block.predicates += predicate;
    arrive(me, line);
    if (block.all_arrived())
        block.pass_barrier();
    else
        block.suspend();
    return (int)me.value;
}

// The block's last thread waits here for all other blocks, which run meanwhile.
void Block::wait_for_grid() {
    Grid& grid = *worker->grid;
    int64_t blocks = (int64_t)gridDim.x * gridDim.y * gridDim.z, generation = grid.generation;
    if (grid.at_barrier.fetch_add(1) + 1 == blocks) {
        if (launch->checked) checker::grid_barrier();
        grid.at_barrier = 0;
        grid.generation++;
    }
    while (grid.generation == generation) park();
    grid_barrier = false;
}

EMULATOR_EXPORT void emulator_grid_barrier(const char* line) {
    Block& block = *worker->block;
    if (block.launch->uncooperative)
        fail(DIVERGENT_BARRIER, std::string("waits at a grid barrier") + (*line ? " at " : "") + line +
             ", but the launch is not a cooperative one: make the kernel with enable_cooperative_groups=True");
    block.grid_barrier = true;
    arrive(block.threads[current.thread], line);
    if (!block.all_arrived()) return block.suspend();
    block.wait_for_grid();
    block.pass_barrier();
}

EMULATOR_EXPORT void emulator_returns() { worker->block->threads[current.thread].returned = true; }

// ---------------------------------------------------------------- warp collectives
static const char* collective_name(int kind) {
    static const char* names[] = {"__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                  "a warp vote", "__match_any_sync", "__reduce_add_sync", "__reduce_min_sync",
                                  "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_and_sync",
                                  "__reduce_or_sync", "__reduce_xor_sync", "__activemask", "an instruction of the whole warp"};
    return names[kind];
}

static std::string hex(unsigned mask) {
    char text[16];
    snprintf(text, sizeof text, "0x%08x", mask);
    return text;
}

// The lane whose value `lane` receives; itself where the source falls outside its segment of `width` lanes.
static int source_lane(int kind, int lane, int argument, int width) {
    int segment = lane & ~(width - 1), source = lane;
    if (kind == SHUFFLE) source = segment + (argument & (width - 1));
    if (kind == SHUFFLE_UP) source = lane - argument;
    if (kind == SHUFFLE_DOWN) source = lane + argument;
    if (kind == SHUFFLE_XOR) source = lane ^ argument;
    // As on the device, an xor may reach back to an earlier segment, but no shuffle reaches on to a later one.
    bool outside = source >= segment + width || (source < segment && kind != SHUFFLE_XOR) || source < 0;
    return outside ? lane : source;
}

template <class T>
static uint64_t reduce(int kind, T a, T b) {
    switch (kind) {
        case REDUCE_ADD: return (uint32_t)(a + b);
        case REDUCE_MIN: case REDUCE_UMIN: return (uint32_t)std::min(a, b);
        case REDUCE_MAX: case REDUCE_UMAX: return (uint32_t)std::max(a, b);
        case REDUCE_AND: return (uint32_t)(a & b);
        case REDUCE_OR: return (uint32_t)(a | b);
        default: return (uint32_t)(a ^ b);
    }
}

// The last lane to arrive computes every lane's result, so no lane can overwrite what another has yet to read.
void Block::complete(int w, unsigned mask) {
    Thread* lanes = threads + w * WARP;
    uint64_t results[WARP] = {}, all = 0;
    int kind = lanes[__builtin_ctz(mask)].kind;
    if (kind == BALLOT)
        for (unsigned m = mask; m; m &= m - 1) all |= lanes[__builtin_ctz(m)].value << __builtin_ctz(m);
    if (kind >= REDUCE_ADD) {
        all = lanes[__builtin_ctz(mask)].value;
        for (unsigned m = mask & (mask - 1); m; m &= m - 1) {
            uint32_t a = (uint32_t)all, b = (uint32_t)lanes[__builtin_ctz(m)].value;
            bool is_signed = kind == REDUCE_MIN || kind == REDUCE_MAX;
            all = is_signed ? reduce<int32_t>(kind, (int32_t)a, (int32_t)b) : reduce<uint32_t>(kind, a, b);
        }
    }
    for (unsigned m = mask; m; m &= m - 1) {
        int lane = __builtin_ctz(m);
        if (kind >= SHUFFLE && kind <= SHUFFLE_XOR) {
            int source = source_lane(kind, lane, lanes[lane].argument, lanes[lane].width);
            if (!(mask >> source & 1)) {
                enter(w * WARP + lane);
                fail(BAD_SHUFFLE, std::string("reads lane ") + std::to_string(source) + " in " + collective_name(kind) +
                     " at @0, but that lane is not in the mask " + hex(mask), lanes[lane].pc);
            }
            if (lanes[source].blank && source != lane) {
                enter(w * WARP + lane);
                fail(UNINITIALIZED_READ, "receives in " + std::string(collective_name(kind)) + " at @0 a local variable that lane " +
                     std::to_string(source) + " has not written", lanes[lane].pc);
            }
            results[lane] = lanes[source].value;
        } else if (kind == GATHER) {
            char* all = reinterpret_cast<char*>(lanes[lane].value) + lanes[lane].argument * lane;
            for (unsigned n = mask; n; n &= n - 1) {  // from each lane's own place to its place in this lane's copy
                int other = __builtin_ctz(n), size = lanes[lane].argument;
                const char* from = reinterpret_cast<const char*>(lanes[other].value) + other * size;
                if (other != lane) memcpy(all + (other - lane) * size, from, (size_t)size);
            }
            results[lane] = lanes[lane].value;
        } else if (kind == MATCH_ANY) {
            for (unsigned n = mask; n; n &= n - 1)
                if (lanes[__builtin_ctz(n)].value == lanes[lane].value) results[lane] |= 1u << __builtin_ctz(n);
        } else {
            results[lane] = all;
        }
    }
    for (unsigned m = mask; m; m &= m - 1) lanes[__builtin_ctz(m)].value = results[__builtin_ctz(m)];
    warps[w].ready |= mask;
    warps[w].waiting &= ~mask;
    moved();
    if (launch->checked && kind == SYNC) checker::sync_warp(w, mask);
}

static inline __attribute__((always_inline)) uint64_t collective(int kind, unsigned mask, uint64_t value, int argument, int width, uint64_t pc, bool blank = false) {
    Block& block = *worker->block;
    if (block.launch->checked) checker::settle();
    int lane = current.thread % WARP;
    Warp& warp = block.warps[current.thread / WARP];
    Thread* lanes = block.threads + current.thread / WARP * WARP;
    Thread& me = block.threads[current.thread];
    if (!(mask >> lane & 1))
        fail(BAD_SHUFFLE, std::string("calls ") + collective_name(kind) + " at @0 with the mask " + hex(mask) +
             ", which does not name its own lane " + std::to_string(lane), pc);
    if (width < 1 || width > WARP || (width & (width - 1)))
        fail(BAD_SHUFFLE, std::string("calls ") + collective_name(kind) + " at @0 with the width " +
             std::to_string(width) + ", which is not a power of two up to 32", pc);
    me.kind = kind, me.mask = mask, me.value = value, me.argument = argument, me.width = width, me.pc = pc;
    me.blank = blank;
    warp.waiting |= 1u << lane;
    warp.ready &= ~(1u << lane);
    bool all_here = (warp.waiting & mask) == mask;
    for (unsigned m = all_here ? mask : 0; m; m &= m - 1) {
        Thread& other = lanes[__builtin_ctz(m)];
        all_here &= other.kind == kind && other.mask == mask;
    }
    if (all_here)
        block.complete(current.thread / WARP, mask);
    else
        block.suspend();
    return me.value;
}

EMULATOR_EXPORT uint64_t emulator_collective(int kind, unsigned mask, uint64_t value, int argument, int width) {
    return collective(kind, mask, value, argument, width, (uint64_t)__builtin_return_address(0));
}

EMULATOR_EXPORT uint64_t emulator_shuffle(int kind, unsigned mask, const void* value, size_t size, int argument, int width, void* pc) {
    bool blank = checker::read_value(value, (int64_t)size, (uint64_t)pc);
    uint64_t word = 0;
    memcpy(&word, value, size);
    return collective(kind, mask, word, argument, width, (uint64_t)pc, blank);
}

EMULATOR_EXPORT void emulator_gather(unsigned mask, const void* mine, int size, void* all) {
    memcpy(static_cast<char*>(all) + current.thread % WARP * size, mine, (size_t)size);
    collective(GATHER, mask, (uint64_t)all, size, WARP, (uint64_t)__builtin_return_address(0));
}

// Lanes run one after another here, so the set of active lanes is known only when all others have exited or wait.
EMULATOR_EXPORT unsigned emulator_active_lanes() {
    Block& block = *worker->block;
    if (block.launch->checked) checker::settle();
    Warp& warp = block.warps[current.thread / WARP];
    block.threads[current.thread].kind = ACTIVE;
    warp.waiting |= 1u << current.thread % WARP;
    warp.ready &= ~(1u << current.thread % WARP);
    int me = current.thread;
    block.suspend();
    return (unsigned)block.threads[me].value;
}

bool Block::release_active() {
    bool any = false;
    for (int w = 0; w < warp_count; w++) {
        unsigned lanes = 0;
        for (unsigned m = warps[w].waiting; m; m &= m - 1)
            if (threads[w * WARP + __builtin_ctz(m)].kind == ACTIVE) lanes |= m & -m;
        for (unsigned m = lanes; m; m &= m - 1) threads[w * WARP + __builtin_ctz(m)].value = lanes;
        warps[w].waiting &= ~lanes;
        warps[w].ready |= lanes;
        any |= lanes != 0;
    }
    return any;
}

EMULATOR_EXPORT void emulator_yield() {
    if (worker->launch->checked) checker::settle();
    worker->block->yield();
}

EMULATOR_EXPORT void emulator_idle(const void* address) {
    Block& block = *worker->block;
    bool again = block.idle_address == address && block.idle_thread == current.thread;
    block.idle_address = address, block.idle_thread = current.thread;
    if (again) emulator_yield();
}

EMULATOR_EXPORT void emulator_progress() { worker->block->moved(); }

// No thread can run: reports which threads wait for which.
void Block::stuck() {
    for (int t = 0; t < thread_count; t++) {
        Warp& warp = warps[t / WARP];
        if (!(warp.waiting >> t % WARP & 1)) continue;
        enter(t);
        Thread& me = threads[t];
        int other = -1;
        for (unsigned m = me.mask; m && other < 0; m &= m - 1) {
            int lane = t / WARP * WARP + __builtin_ctz(m);
            bool here = warp.waiting >> lane % WARP & 1;
            if (!here || threads[lane].kind != me.kind || threads[lane].mask != me.mask) other = lane;
        }
        std::string lane = "lane " + std::to_string(other % WARP) + ", which ", why;
        uint64_t other_pc = 0;
        if (!(warp.alive >> other % WARP & 1)) why = other < thread_count ? "has exited" : "the block does not have";
        else if (threads[other].waits_at) why = std::string("waits at the barrier of ") + threads[other].waits_at;
        else why = std::string("is in ") + collective_name(threads[other].kind) + " with mask " +
                   hex(threads[other].mask) + " at @1", other_pc = threads[other].pc;
        fail(BAD_SHUFFLE, std::string("waits in ") + collective_name(me.kind) + " at @0 with the mask " + hex(me.mask) +
             " for " + lane + why, me.pc, other_pc);
    }
    int waiting = 0, gone = 0;
    while (!threads[waiting].waits_at) waiting++;
    while (gone < thread_count - 1 && (threads[gone].waits_at || threads[gone].returned)) gone++;
    enter(waiting);
    fail(DIVERGENT_BARRIER, std::string("waits at the barrier of ") + threads[waiting].waits_at +
         " that thread " + thread_name(*launch, gone) + " never reaches: it has exited");
}

// ---------------------------------------------------------------- other calls from device code
EMULATOR_EXPORT void* emulator_dynamic_shared() {
    if (char* memory = worker->launch->dynamic_shared_memory) return memory;
    return reinterpret_cast<void*>(((uintptr_t)worker->dynamic_shared.data() + 127) & ~(uintptr_t)127);
}

EMULATOR_EXPORT unsigned emulator_dynamic_shared_bytes() { return (unsigned)worker->launch->dynamic_shared; }

// The copies of cp.async happen when the thread waits for them, so that whoever reads before finds the old bytes; the
// checker takes them to write at any time from here to there.
EMULATOR_EXPORT void emulator_copy_async(void* to, const void* from, int size, int filled, void* pc) {
    Block& block = *worker->block;
    if (block.copies.empty()) {
        block.copies.resize((size_t)block.thread_count);
        block.groups.assign((size_t)block.thread_count, 0);
    }
    if (block.launch->checked) {
        if (size > filled) checker::access(const_cast<void*>(from), size - filled, (uint64_t)pc, false);
        checker::begin_copy(to, size, (uint64_t)pc);
    }
    block.copies[current.thread].push_back({to, from, size, filled, block.groups[current.thread], (uint64_t)pc});
}

EMULATOR_EXPORT void emulator_commit_copies() {
    Block& block = *worker->block;
    if (!block.copies.empty()) block.groups[current.thread]++;
}

EMULATOR_EXPORT void emulator_wait_copies(int groups_left) {
    Block& block = *worker->block;
    if (!block.copies.empty()) block.finish_copies(current.thread, groups_left);
}

EMULATOR_EXPORT void* emulator_program_counter() { return __builtin_return_address(0); }

// PTX addresses shared memory by 32 bits. Those here count from 4 GiB below this thread's own storage, or the buffer of
// the launch, whichever the pointer is near; the highest bit says which.
static char* shared_window(bool dynamic) {
    char* inside = dynamic ? static_cast<char*>(emulator_dynamic_shared()) : reinterpret_cast<char*>(&current);
    return inside - (1ll << 30);
}

EMULATOR_EXPORT uint64_t emulator_shared_address(const void* pointer) {
    const char* address = static_cast<const char*>(pointer);
    for (bool dynamic : {true, false}) {
        int64_t offset = address - shared_window(dynamic);
        if (offset >= 0 && offset < 1ll << 31) return (uint64_t)offset | (uint64_t)dynamic << 31;
    }
    return (uint64_t)pointer;
}

EMULATOR_EXPORT void* emulator_generic(uint64_t address) {
    if (address >> 32) return reinterpret_cast<void*>(address);
    return shared_window(address >> 31) + (address & 0x7fffffff);
}

// groups_left < 0: also those that no group has.
void Block::finish_copies(int thread, int groups_left) {
    std::vector<Copy>& list = copies[thread];
    int last = groups_left < 0 ? groups[thread] : groups[thread] - groups_left - 1;
    size_t done = 0;
    for (; done < list.size() && list[done].group <= last; done++) {
        const Copy& copy = list[done];
        if (launch->checked) checker::end_copy(copy.to, copy.size, copy.pc);
        memcpy(copy.to, copy.from, (size_t)(copy.size - copy.filled));
        memset(static_cast<char*>(copy.to) + copy.size - copy.filled, 0, (size_t)copy.filled);
    }
    list.erase(list.begin(), list.begin() + (std::ptrdiff_t)done);
}

EMULATOR_EXPORT uint64_t emulator_clock() {
    return (uint64_t)std::chrono::steady_clock::now().time_since_epoch().count();
}

EMULATOR_EXPORT void emulator_assertion(const char* condition, const char* line) {
    fail(ASSERTION, std::string("fails the assertion ") + condition + " of " + line);
}

EMULATOR_EXPORT const char* emulator_line(const char* file, int line) {
    static std::mutex mutex;
    static std::set<std::string> lines;
    std::lock_guard<std::mutex> lock(mutex);
    return lines.insert(std::string(file) + ":" + std::to_string(line)).first->c_str();
}

static std::string triple(uint3 v) {
    return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}
std::string block_name(const Launch& launch, int64_t block) { return triple(unravel(block, launch.grid)); }
std::string thread_name(const Launch& launch, int thread) { return triple(unravel(thread, launch.block)); }

// ---------------------------------------------------------------- faults
// Fills in where the module that the launch calls is loaded.
void find_image(Launch& launch) {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& launch = *static_cast<Launch*>(data);
            char *begin = reinterpret_cast<char*>(info->dlpi_addr), *end = begin;
            for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_LOAD)
                    end = std::max(end, begin + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz);
            bool found = (char*)launch.call >= begin && (char*)launch.call < end;
            if (found) launch.image_begin = begin, launch.image_end = end;
            return (int)found;
        },
        &launch);
}

static std::mutex fault_mutex;

void note_fault(FaultKind kind, const std::string& what, uint64_t pc, uint64_t other_pc) {
    Launch& launch = *current.launch;
    std::lock_guard<std::mutex> lock(fault_mutex);
    if (launch.fault != NONE) return;
    find_image(launch);
    uint64_t image = (uint64_t)launch.image_begin;
    launch.fault = kind, launch.pcs[0] = pc ? pc - image : 0, launch.pcs[1] = other_pc ? other_pc - image : 0;
    snprintf(launch.message, sizeof launch.message, "block %s, thread %s %s", block_name(launch, current.block).c_str(),
             thread_name(launch, current.thread).c_str(), what.c_str());
}

void fail(FaultKind kind, const std::string& what, uint64_t pc, uint64_t other_pc) {
    if (current.launch->checked && kind != DATA_RACE) checker::blame_unwritten();
    note_fault(kind, what, pc, other_pc);
    worker->grid->stop = true;
    worker->leave();  // the block's other fibers are abandoned: CUDA threads own nothing that needs destroying
}

// A CPU's traps, inside a kernel, are the kernel's faults; anywhere else the previous handler gets them.
static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
static struct sigaction before[sizeof signals / sizeof *signals];

static void on_signal(int number, siginfo_t* info, void* context) {
    char* address = static_cast<char*>(info->si_addr);
    if (worker && in_kernel()) {
        char text[64];
        snprintf(text, sizeof text, "touches the invalid address %p", info->si_addr);
        bool overflow = number != SIGFPE && address >= current.stack_begin && address < current.stack_begin + GUARD;
        uint64_t pc = 0;
#if defined(__x86_64__) && defined(__linux__)
        pc = (uint64_t)static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1;
#endif
        fail(CRASH, std::string(number == SIGFPE ? "divides an integer by zero"
                                : overflow ? "overflows its stack of " + std::to_string((STACK - GUARD) >> 10) + " KiB"
                                           : text) + (pc ? " at @0" : ""), pc);
    }
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (signals[i] == number) sigaction(number, &before[i], nullptr);  // returning repeats the fault for it
}

static void catch_signals() {
    struct sigaction mine = {};
    mine.sa_sigaction = on_signal;
    mine.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    std::lock_guard<std::mutex> lock(fault_mutex);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction now;
        sigaction(signals[i], nullptr, &now);
        if (now.sa_sigaction == on_signal) continue;
        before[i] = now;
        sigaction(signals[i], &mine, nullptr);
    }
}

// ---------------------------------------------------------------- one launch
// Every block but those that wait for others runs from start to end. One that waits is parked with its shared memory
// until the blocks after it have had their turn.
void Worker::run_blocks() {
    int64_t count = (int64_t)gridDim.x * gridDim.y * gridDim.z, rounds = 0, seen = -1;
    // A checked launch visits the blocks in an order drawn from the seed: multiplying by a unit permutes them.
    uint64_t step = launch->checked ? next_random(random) % (uint64_t)count | 1 : 1, start = launch->checked ? next_random(random) : 0;
    while (count > 1 && std::gcd(step, (uint64_t)count) != 1) step++;
    std::deque<std::unique_ptr<Block>> waiting;
    std::unique_ptr<Block> block;
    bool fresh = true, spins = false;
    char* statics = launch->anchor ? launch->anchor() + launch->shared_offset : nullptr;
    size_t bytes = launch->checked ? 0 : (size_t)launch->shared_bytes, dynamic = launch->checked ? 0 : dynamic_shared.size();
    auto last_move = std::chrono::steady_clock::now();
    auto set_spins = [&](bool now) {
        if (spins != now) grid->spinning += now ? 1 : -1;
        spins = now;
    };
    while (!grid->stop) {
        int64_t i = fresh || waiting.empty() ? grid->next_block.fetch_add(1) : count;
        if (i < count) {
            if (!block) {
                block.reset(new Block);
                block->prepare(*launch);
            }
            block->running = -1;
            block->start(this, (int64_t)(((unsigned __int128)step * (uint64_t)i + start) % (uint64_t)count));
            set_spins(false);
        } else if (!waiting.empty()) {
            block = std::move(waiting.front());
            waiting.pop_front();
            if (bytes) memcpy(statics, block->shared.data(), bytes);
            if (dynamic) memcpy(dynamic_shared.data(), block->shared.data() + bytes, dynamic);
            bool moved = grid->progress != seen;
            seen = grid->progress;
            rounds = moved ? 0 : rounds + 1;
            if (moved) last_move = std::chrono::steady_clock::now();
            set_spins(!moved);
            bool patient = launch->workers > 1 && std::chrono::steady_clock::now() - last_move < std::chrono::seconds(3);
            if (!patient && rounds > 1000 + 100 * (int64_t)waiting.size() && grid->spinning == grid->workers) {
                current.block = block->index, current.thread = block->running;
                const char* line = block->threads[block->running].waits_at;
                note_fault(DEADLOCK, line ? std::string("waits at the grid barrier of ") + line + ", which a block never reaches"
                                          : "waits for another thread, and so do all that have not exited");
                grid->stop = true;
                break;
            }
            if (spins) std::this_thread::yield();
        } else {
            break;
        }
        block->go_on();
        grid->progress += block->moves;
        block->moves = 0;
        fresh = block->parked;  // then a block that has not started may be what it waits for
        if (!block->parked || grid->stop) continue;
        block->shared.resize(bytes + dynamic);
        if (bytes) memcpy(block->shared.data(), statics, bytes);
        if (dynamic) memcpy(block->shared.data() + bytes, dynamic_shared.data(), dynamic);
        if (launch->checked) checker::park_block();
        waiting.push_back(std::move(block));
    }
    if (spins) grid->spinning--;
    grid->workers--;
}

void Worker::run() {
    // A fiber that overflowed its stack needs another one for the signal handler.
    static thread_local std::vector<char> signal_stack(64 << 10);
    stack_t mine = {}, theirs;
    mine.ss_sp = signal_stack.data(), mine.ss_size = signal_stack.size();
    sigaltstack(&mine, &theirs);
    stacks = take_stacks();
    worker = this;
    current = {launch, 0, 0, nullptr, nullptr};
    random = launch->seed;
    dynamic_shared.resize((size_t)launch->dynamic_shared + 128);
    blockDim = {launch->block[0], launch->block[1], launch->block[2]};
    gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
#if defined(__SSE__)
    unsigned rounding = _mm_getcsr();
    if (launch->flush_to_zero) _mm_setcsr(rounding | 0x8040);  // results and operands
#endif
    if (launch->checked) checker::begin_launch();
    run_blocks();
    if (launch->checked) checker::end_launch();
#if defined(__SSE__)
    _mm_setcsr(rounding);
#endif
    worker = nullptr;
    current = {};
    if (launch->fault) stacks->clear_shadows();
    put_stacks(stacks);
    sigaltstack(&theirs, nullptr);
}

EMULATOR_EXPORT void emulator_launch(Launch* launch) {
    static std::mutex one_checked_launch;  // the checker has one memory
    std::unique_lock<std::mutex> alone(one_checked_launch, std::defer_lock);
    if (launch->checked) alone.lock();
    catch_signals();
    Grid grid;
    grid.workers = launch->workers;
    auto work = [&] {
        Worker self;
        self.launch = launch, self.grid = &grid;
        self.run();
    };
    std::vector<std::thread> others;
    for (int i = 1; i < launch->workers; i++) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
}
}  // namespace emulator
