// Runs a grid of CUDA threads on the cores of a CPU.
//
// Operating-system threads ("workers") take blocks one after another. Inside a block every CUDA thread is a fiber:
// a stack, and a switch of a few instructions from one stack to the next. A thread runs until it waits (at a barrier,
// for the other lanes of a shuffle) or exits; then a runnable thread resumes. A thread that exits leaves its stack
// to the next one, so a kernel without barriers is a plain loop over the threads, on one stack.
//
// Next: checker.cpp, which watches the memory of a checked launch.
#include "scheduler.h"

#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
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
constexpr size_t STACK = 132 << 10, GUARD = 16 << 10;  // per fiber; pages are only used once touched

// The stacks of one worker, each above a guard page. Reused by the next launch.
struct Stacks {
    std::vector<char*> bases;

    // Lowest address of a stack, or null where there is no memory for it.
    char* get(size_t index) {
        while (bases.size() <= index) {
            char* memory = static_cast<char*>(
                mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
            if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE)) return nullptr;
            bases.push_back(memory);
        }
        return bases[index];
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
    char* stack;                // lowest address of the stack it runs on
    const char* waits_at;       // line of the barrier it waits at, else null
    // Its part in a warp collective, while it waits for one.
    int kind, argument, width;
    unsigned mask;
    uint64_t value, pc;
};

struct Warp {
    unsigned alive, ready, waiting;  // lanes that have not exited, can run, wait in a collective
};

struct Worker {
    Launch* launch;
    std::atomic<int64_t>* next_block;
    std::atomic<bool>* stop;
    Stacks* stacks;
    std::vector<char> dynamic_shared;
    int thread_count, warp_count, alive, arrived, predicates;
    uint64_t random;
    void* host;                 // saved stack pointer of run_block while fibers run
    size_t stack_count;         // stacks that this block has used; those free again are listed
    std::vector<char*> free_stacks;
    Thread threads[MAX_THREADS];
    void* positions[MAX_THREADS];  // each fiber's saved stack pointer; null before it starts
    Warp warps[MAX_WARPS];

    void run();
    bool run_block(int64_t block);
    int pick(bool roam);
    int next(bool roam);
    bool release_active();
    void enter(int thread);
    void resume(int thread, void** save);
    void suspend(bool roam = false);
    void exited();
    void release_barrier();
    void complete(int warp, unsigned mask);
    [[noreturn]] void leave();
    [[noreturn]] void stuck();
    char* new_stack();
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
int Worker::pick(bool roam) {
    roam |= launch->checked;
    unsigned start = (unsigned)current.thread + 1;
    if (launch->checked) start = (unsigned)(next_random(random) % (unsigned)thread_count);
    int w = roam ? (int)start / WARP : current.thread / WARP;
    if (w == warp_count) w = 0;
    if (unsigned ready = warps[w].ready & ~0u << start % WARP) return w * WARP + __builtin_ctz(ready);
    for (int i = roam; i <= warp_count; i++) {
        int v = w + i < warp_count ? w + i : w + i - warp_count;
        if (warps[v].ready) return v * WARP + __builtin_ctz(warps[v].ready);
    }
    return -1;
}

void Worker::enter(int thread) {
    current.thread = thread;
    threadIdx = threads[thread].index;
}

static void fiber_main() {
    for (;;) {
        worker->launch->call(worker->launch->arguments);
        worker->exited();
    }
}

char* Worker::new_stack() {
    if (free_stacks.empty()) {
        char* stack = stacks->get(stack_count++);
        if (!stack) fail(CRASH, "got no memory for its stack");
        return stack;
    }
    char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

// Resumes `thread`, on a new stack if it has not started.
void Worker::resume(int thread, void** save) {
    enter(thread);
    Thread& t = threads[thread];
    if (!positions[thread]) {
        t.stack = new_stack();
        // Staggered by a few cache lines, against cache-set aliasing of the stacks.
        positions[thread] = prepare_stack(t.stack + STACK - stack_count % 21 * 192, fiber_main);
    }
    current.stack_begin = t.stack;
    current.stack_end = t.stack + STACK;
    emulator_switch_stack(save, positions[thread]);
}

// The thread that runs while the current one waits; there has to be one.
int Worker::next(bool roam) {
    int thread = pick(roam);
    if (thread < 0 && release_active()) thread = pick(roam);
    if (thread < 0) stuck();
    return thread;
}

void Worker::suspend(bool roam) {
    int thread = next(roam);
    if (thread != current.thread) resume(thread, &positions[current.thread]);
}

// The current thread has returned from the kernel: its stack is free for the next one.
void Worker::exited() {
    Warp& warp = warps[current.thread / WARP];
    unsigned lane = 1u << current.thread % WARP;
    char* stack = threads[current.thread].stack;
    warp.alive &= ~lane;
    warp.ready &= ~lane;
    alive--;
    if (!alive) {
        if (launch->checked) checker::end_block();
        leave();
    }
    if (arrived == alive && !launch->checked) release_barrier();  // a GPU's barrier ignores exited threads
    int follower = next(false);
    if (positions[follower]) {
        free_stacks.push_back(stack);
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

bool Worker::run_block(int64_t block) {
    current.block = block;
    blockIdx = unravel(block, launch->grid);
    alive = thread_count;
    arrived = predicates = stack_count = 0;
    free_stacks.clear();
    std::fill(positions, positions + thread_count, nullptr);
    for (int w = 0; w < warp_count; w++) {
        int lanes = std::min(WARP, thread_count - w * WARP);
        warps[w] = {~0u >> (WARP - lanes), ~0u >> (WARP - lanes), 0};
    }
    current.thread = -1;
    if (launch->checked) checker::begin_block();
    resume(pick(false), &host);
    current.stack_begin = current.stack_end = nullptr;
    return !*stop;
}

// ---------------------------------------------------------------- barriers
void Worker::release_barrier() {
    for (int w = 0; w < warp_count; w++) warps[w].ready = warps[w].alive & ~warps[w].waiting;
    arrived = 0;
}

EMULATOR_EXPORT int emulator_barrier(const char* line, int predicate) {
    Worker& w = *worker;
    Thread& me = w.threads[current.thread];
    me.waits_at = line;
    w.predicates += predicate;
    w.arrived++;
    w.warps[current.thread / WARP].ready &= ~(1u << current.thread % WARP);
    if (w.arrived < w.alive || (w.launch->checked && w.alive < w.thread_count)) {
        w.suspend();
    } else {
        if (w.launch->checked) {
            for (int t = 0; t < w.thread_count; t++)
                if (strcmp(w.threads[t].waits_at, line))
                    fail(DIVERGENT_BARRIER, std::string("waits at the barrier of ") + line + " while thread " +
                         thread_name(*w.launch, t) + " waits at that of " + w.threads[t].waits_at);
            checker::barrier();
        }
        for (int t = 0; t < w.thread_count; t++) w.threads[t].waits_at = nullptr, w.threads[t].value = (uint64_t)w.predicates;
        w.predicates = 0;
        w.release_barrier();
    }
    return (int)me.value;
}

// ---------------------------------------------------------------- warp collectives
static const char* collective_name(int kind) {
    static const char* names[] = {"__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                  "a warp vote", "__match_any_sync", "__reduce_add_sync", "__reduce_min_sync",
                                  "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_and_sync",
                                  "__reduce_or_sync", "__reduce_xor_sync"};
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
void Worker::complete(int w, unsigned mask) {
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
            results[lane] = lanes[source].value;
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
    if (launch->checked && kind == SYNC) checker::sync_warp(w, mask);
}

EMULATOR_EXPORT uint64_t emulator_collective(int kind, unsigned mask, uint64_t value, int argument, int width) {
    Worker& w = *worker;
    uint64_t pc = (uint64_t)__builtin_return_address(0);
    int lane = current.thread % WARP;
    Warp& warp = w.warps[current.thread / WARP];
    Thread* lanes = w.threads + current.thread / WARP * WARP;
    Thread& me = w.threads[current.thread];
    if (!(mask >> lane & 1))
        fail(BAD_SHUFFLE, std::string("calls ") + collective_name(kind) + " at @0 with the mask " + hex(mask) +
             ", which does not name its own lane " + std::to_string(lane), pc);
    me.kind = kind, me.mask = mask, me.value = value, me.argument = argument, me.width = width, me.pc = pc;
    warp.waiting |= 1u << lane;
    warp.ready &= ~(1u << lane);
    bool all_here = (warp.waiting & mask) == mask;
    for (unsigned m = all_here ? mask : 0; m; m &= m - 1) {
        Thread& other = lanes[__builtin_ctz(m)];
        all_here &= other.kind == kind && other.mask == mask;
    }
    if (all_here)
        w.complete(current.thread / WARP, mask);
    else
        w.suspend();
    return me.value;
}

// Lanes run one after another here, so the set of active lanes is known only when all others have exited or wait.
EMULATOR_EXPORT unsigned emulator_active_lanes() {
    Warp& warp = worker->warps[current.thread / WARP];
    worker->threads[current.thread].kind = ACTIVE;
    warp.waiting |= 1u << current.thread % WARP;
    warp.ready &= ~(1u << current.thread % WARP);
    int me = current.thread;
    worker->suspend();
    return (unsigned)worker->threads[me].value;
}

bool Worker::release_active() {
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

EMULATOR_EXPORT void emulator_yield() { worker->suspend(true); }

// No thread can run: reports which threads wait for which.
void Worker::stuck() {
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
    while (gone < thread_count - 1 && threads[gone].waits_at) gone++;
    enter(waiting);
    fail(DIVERGENT_BARRIER, std::string("waits at the barrier of ") + threads[waiting].waits_at +
         " that thread " + thread_name(*launch, gone) + " never reaches: it has exited");
}

// ---------------------------------------------------------------- other calls from device code
EMULATOR_EXPORT void* emulator_dynamic_shared() {
    if (char* memory = worker->launch->dynamic_shared_memory) return memory;
    return reinterpret_cast<void*>(((uintptr_t)worker->dynamic_shared.data() + 127) & ~(uintptr_t)127);
}

EMULATOR_EXPORT uint64_t emulator_clock() {
    return (uint64_t)std::chrono::steady_clock::now().time_since_epoch().count();
}

EMULATOR_EXPORT void emulator_assertion(const char* condition, const char* line) {
    fail(ASSERTION, std::string("fails the assertion ") + condition + " of " + line);
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
    *worker->stop = true;
    worker->leave();  // the block's other fibers are abandoned: CUDA threads own nothing that needs destroying
}

// A CPU's traps, inside a kernel, are the kernel's faults; anywhere else the previous handler gets them.
static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
static struct sigaction before[sizeof signals / sizeof *signals];

static void on_signal(int number, siginfo_t* info, void* context) {
    char* address = static_cast<char*>(info->si_addr);
    if (worker && current.stack_begin) {
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
void Worker::run() {
    // A fiber that overflowed its stack needs another one for the signal handler.
    static thread_local std::vector<char> signal_stack(64 << 10);
    stack_t mine = {}, theirs;
    mine.ss_sp = signal_stack.data(), mine.ss_size = signal_stack.size();
    sigaltstack(&mine, &theirs);
    stacks = take_stacks();
    worker = this;
    current = {launch, 0, 0, nullptr, nullptr};
    thread_count = (int)(launch->block[0] * launch->block[1] * launch->block[2]);
    warp_count = (thread_count + WARP - 1) / WARP;
    for (int t = 0; t < thread_count; t++) threads[t].index = unravel(t, launch->block), threads[t].waits_at = nullptr;
    random = launch->seed;
    dynamic_shared.resize((size_t)launch->dynamic_shared + 128);
    blockDim = {launch->block[0], launch->block[1], launch->block[2]};
    gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
    int64_t blocks = (int64_t)gridDim.x * gridDim.y * gridDim.z;
    if (launch->checked) checker::begin_launch();
    // A checked launch visits the blocks in an order drawn from the seed: multiplying by a unit permutes them.
    uint64_t step = launch->checked ? next_random(random) % (uint64_t)blocks | 1 : 1, start = launch->checked ? next_random(random) : 0;
    while (blocks > 1 && std::gcd(step, (uint64_t)blocks) != 1) step++;
    for (int64_t i; !*stop && (i = next_block->fetch_add(1)) < blocks;)
        if (!run_block((int64_t)(((unsigned __int128)step * (uint64_t)i + start) % (uint64_t)blocks))) break;
    if (launch->checked) checker::end_launch();
    worker = nullptr;
    put_stacks(stacks);
    sigaltstack(&theirs, nullptr);
}

EMULATOR_EXPORT void emulator_launch(Launch* launch) {
    static std::mutex one_checked_launch;  // the checker has one memory
    std::unique_lock<std::mutex> alone(one_checked_launch, std::defer_lock);
    if (launch->checked) alone.lock();
    catch_signals();
    std::atomic<int64_t> next_block{0};
    std::atomic<bool> stop{false};
    auto work = [&] {
        auto* self = new Worker;
        self->launch = launch, self->next_block = &next_block, self->stop = &stop;
        self->run();
        delete self;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < launch->workers; i++) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
}
}  // namespace emulator
