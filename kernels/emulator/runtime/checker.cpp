// Watches every load and store of a checked launch.
//
// The compiler's thread-sanitizer pass turns each access of the CUDA source into a call (hooks.cpp), answered here
// rather than by the sanitizer. For each byte a launch may touch, a shadow records whether it was written; for each
// word, the accesses since that a later one could race with. Two accesses race if they touch the same byte, not both
// read or are both atomic, and nothing orders them: no __syncthreads of their block, no chain of __syncwarps of their
// warp, no fence and atomic operation (order.cpp). Order is computed, not observed, so a race is found in whatever
// order the threads happen to run. Warp clocks are as in FastTrack (Flanagan and Freund, 2009). A checked launch has
// one worker, so nothing here needs a lock.
//
// Next: order.cpp.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "scheduler.h"

namespace emulator {
namespace checker {

// POLL: a volatile or atomic read, as of a flag that another thread sets.
enum Kind : unsigned { READ, WRITE, ATOMIC, POLL };
enum Flag : uint8_t { UNWRITTEN = 1, COUNTED_READ = 2, COUNTED_WRITE = 4, IN_FLIGHT = 8 };  // by cp.async

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

// Zeroed memory of which pages that are never touched cost nothing.
template <class T>
struct Zeros {
    T* data = nullptr;
    size_t bytes = 0;

    Zeros() = default;
    Zeros(Zeros&& other) noexcept { std::swap(data, other.data), std::swap(bytes, other.bytes); }
    Zeros& operator=(Zeros&& other) noexcept {
        std::swap(data, other.data), std::swap(bytes, other.bytes);
        return *this;
    }
    ~Zeros() {
        if (data) munmap(data, bytes);
    }
    void allocate(int64_t count) {
        Zeros old;
        std::swap(data, old.data), std::swap(bytes, old.bytes);
        bytes = (size_t)(count + 1) * sizeof(T);
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        data = memory == MAP_FAILED ? nullptr : static_cast<T*>(memory);
        if (!data) fail(CRASH, "needs more memory for its checks than this machine has");
    }
    T& operator[](int64_t i) { return data[i]; }
};

struct Shadow {
    Zeros<uint8_t> flags;   // per byte
    Zeros<Cell> cells;      // per word of 1 << shift bytes
    int shift;

    void allocate_cells(int64_t bytes, int new_shift) {
        shift = new_shift;
        cells.allocate(bytes >> shift);
    }
};

struct Local {
    char* address;
    size_t size;
    const char* name;
};

struct Order;  // order.cpp

struct BlockState {
    uint32_t epoch = 0;                             // barriers that the block has passed
    uint32_t clocks[MAX_THREADS][WARP];             // clocks[t][l]: how far thread t has seen lane l of its warp
    std::vector<std::vector<Local>> locals{MAX_THREADS};
    std::unique_ptr<Order, void (*)(Order*)> order;
    // while the block is parked: its shared memory
    std::vector<Shadow> shadows;
    std::vector<std::vector<char>> bytes;

    BlockState();
};

static Launch* launch;
static BlockState* block;
static std::vector<std::unique_ptr<BlockState>> states;  // of all blocks that have started and not ended
static std::vector<Shadow> shadows;     // one per region
static int64_t recent;                  // the region of the last access
static int parts;                       // parts of dynamic shared memory that have been met

static Access access_now(uint64_t pc, Kind kind) {
    uint32_t thread = (uint32_t)current.thread;
    return {(uint32_t)current.block + 1, (uint32_t)(pc - (uint64_t)launch->image_begin),
            block->clocks[thread][thread % WARP], thread, kind, block->epoch};
}

// Whether `before` certainly happened before `now`, by barriers.
static bool ordered(const Access& before, const Access& now, bool shared) {
    if (before.block != now.block) return before.block == 0 || shared;  // a new block has new shared memory
    if (before.thread == now.thread || before.epoch != now.epoch) return true;
    return before.thread / WARP == now.thread / WARP && block->clocks[now.thread][before.thread % WARP] >= before.clock;
}

static bool ordered_by_fences(const Access& before, const Access& now);  // order.cpp
static bool has_fenced();
static void synchronize(char* address, bool reads, bool writes);

// ---------------------------------------------------------------- messages
static std::string element(const Region& region, int64_t offset) {
    std::string name = region.name;
    if (region.item > 1) return name + "[" + std::to_string(offset / region.item - (offset % region.item < 0)) + "]";
    return "byte " + std::to_string(offset) + " of " + name;
}

static std::string extent(const Region& region) {
    std::string count = std::to_string(region.bytes / region.item);
    return std::string(region.name) + " (" + region.type + ", " + count + (region.item > 1 ? " elements)" : " bytes)");
}

static const char* verb(unsigned kind) {
    return kind == WRITE ? "writes " : kind == ATOMIC ? "updates " : "reads ";
}

[[noreturn]] static void out_of_bounds(char* address, int64_t size, uint64_t pc, unsigned kind) {
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

static std::string other_thread(const Access& before, const Access& now) {
    std::string other = thread_name(*launch, (int)before.thread);
    if (before.block != now.block) other += " of block " + block_name(*launch, (int64_t)before.block - 1);
    return other;
}

[[noreturn]] static void race(FaultKind kind, const Region& region, int64_t offset, const Access& before, const Access& now) {
    uint64_t image = (uint64_t)launch->image_begin;
    std::string end = kind == SAME_VALUE ? "at @1, the same value, with no barrier between" : "at @1, with no barrier between";
    fail(kind, verb(now.kind) + element(region, offset) + " at @0, which thread " + other_thread(before, now) + " " +
         verb(before.kind) + end, image + now.pc, image + before.pc);
}

// ---------------------------------------------------------------- unwritten memory
// The first read of unwritten memory. Reported only when no thread can write there any more without a barrier
// between: until then it may be one half of a race, observed in the order in which the read came first.
static struct UnwrittenRead {
    int64_t region = -1, offset, block;
    int thread;
    uint64_t pc;
} unwritten;

static void note_unwritten() {
    const Region& region = launch->regions[unwritten.region];
    current.block = unwritten.block, current.thread = unwritten.thread;
    note_fault(UNINITIALIZED_READ, "reads " + element(region, unwritten.offset) + " at @0, " +
               (region.shared ? "shared memory that nobody in its block has written" : "which nobody has written"),
               unwritten.pc);
}

static void fail_if_shared_unwritten() {
    if (unwritten.region >= 0 && launch->regions[unwritten.region].shared) fail(UNINITIALIZED_READ, "");
}

void blame_unwritten() {
    if (unwritten.region >= 0) note_unwritten();
}

// Local variables. Their memory holds a pattern until it is written, as what the compiler does not report (the result
// of a call, say) changes memory too.
constexpr uint8_t PATTERN[8] = {0x5b, 0xe3, 0xa5, 0x7f, 0x4d, 0xc9, 0xa7, 0xff};  // as floats: not a number

static bool is_blank(const char* address, int64_t size) {
    const uint8_t* shadow = reinterpret_cast<const uint8_t*>(address + STACK);
    for (int64_t b = 0; b < size; b++)
        if (!shadow[b] || (uint8_t)address[b] != PATTERN[(uintptr_t)(address + b) % 8]) return false;
    return true;
}

static void touch_local(char* address, int64_t size, uint64_t pc, Kind kind) {
    uint8_t* shadow = reinterpret_cast<uint8_t*>(address + STACK);
    if (kind == WRITE) {
        memset(shadow, 0, (size_t)size);
        return;
    }
    for (int64_t i = 0; i < size; i += 4) {  // by word: the compiler copies structs with the padding between members
        int64_t bytes = std::min<int64_t>(4, size - i);
        if (!is_blank(address + i, bytes)) {
            memset(shadow + i, 0, (size_t)bytes);
            continue;
        }
        std::string name = "a local variable";
        for (const Local& local : block->locals[current.thread])
            if (address + i >= local.address && address + i < local.address + local.size)
                name = std::string("the local variable ") + local.name +
                       (local.size > (size_t)size ? " (byte " + std::to_string(address + i - local.address) + ")" : "");
        fail(UNINITIALIZED_READ, "reads " + name + " at @0, which it has not written", pc);
    }
}

// ---------------------------------------------------------------- races
// A store of what the memory already holds, over another thread's. Known only once it has happened.
static struct Store {
    int64_t region = -1, offset;
    char* address;
    int64_t size;
    char before[16];
    Access earlier, now;
} store;

void settle() {
    if (store.region < 0) return;
    Store last = store;
    store.region = -1;
    bool same = !memcmp(last.before, last.address, (size_t)last.size);
    if (same && launch->same_value_writes) return;
    race(same ? SAME_VALUE : DATA_RACE, launch->regions[last.region], last.offset, last.earlier, last.now);
}

// A plain read of what other threads update by atomics, in doubt until its thread waits or exits: if a compare-and-swap
// of the same word comes first, the read was only its guess.
struct Doubt {
    char* address;
    int64_t region, offset;
    Access reader, before, now;
};
static std::vector<Doubt> doubts;

static void report(const Doubt& doubt) {
    Doubt found = doubt;
    doubts.clear();
    race(DATA_RACE, launch->regions[found.region], found.offset, found.before, found.now);
}

static void settle_doubts(bool whole_block) {
    for (const Doubt& doubt : doubts)
        if ((int64_t)doubt.reader.block - 1 == current.block && (whole_block || (int)doubt.reader.thread == current.thread)) report(doubt);
}

void exit_thread() {
    settle();
    settle_doubts(false);
}

static int64_t find(char* address, int64_t size) {
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
static bool is_builtin(char* address) {
    const uint3* variables[] = {&threadIdx, &blockIdx, &blockDim, &gridDim};
    return std::any_of(std::begin(variables), std::end(variables), [&](const uint3* variable) {
        return address >= (char*)variable && address < (char*)(variable + 1);
    });
}

// A word first met in parts is watched byte by byte from then on.
static void refine(Shadow& shadow, int64_t bytes) {
    auto words = std::move(shadow.cells);
    shadow.allocate_cells(bytes, 0);
    for (int64_t i = 0; i < bytes; i++)
        if (words[i >> 2].write.block || words[i >> 2].others[0].block) shadow.cells[i] = words[i >> 2];
}

static void remember(Cell& cell, const Access& now, bool shared) {
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

static bool is_harmless(unsigned a, unsigned b) {
    if (a == WRITE || b == WRITE) return false;
    bool reads = a != ATOMIC && b != ATOMIC;
    return reads || (a != READ && b != READ);  // atomics race with plain reads alone
}

// Whether a read that conflicts with an atomic operation may still turn out to be the guess of a compare-and-swap.
static bool is_in_doubt(const Access& before, const Access& now) {
    if (now.kind == READ && before.kind == ATOMIC) return true;
    return now.kind == ATOMIC && before.kind == READ && before.block == now.block && before.epoch == now.epoch;
}

// The current thread compares and swaps: its reads of the word since the last barrier were guesses.
static void resolve_doubts(char* address, int64_t size) {
    int64_t index = find(address, 1);
    if (index < 0) return;
    Access now = access_now(0, ATOMIC);
    auto mine = [&](const Access& access) { return access.block == now.block && access.thread == now.thread; };
    doubts.erase(std::remove_if(doubts.begin(), doubts.end(),
                                [&](const Doubt& doubt) { return doubt.address == address && mine(doubt.reader); }),
                 doubts.end());
    int64_t offset = address - launch->regions[index].base;
    for (int64_t i = offset >> shadows[index].shift; i <= (offset + size - 1) >> shadows[index].shift; i++)
        for (Access& other : shadows[index].cells[i].others)
            if (other.kind == READ && mine(other)) other.kind = POLL;
}

static void check_race(int64_t index, int64_t offset, Cell& cell, const Access& now, char* address, int64_t size) {
    const Region& region = launch->regions[index];
    const Access* known[] = {&cell.others[0], &cell.others[1], &cell.write};
    for (const Access* before : known) {
        if (!before->block || is_harmless(before->kind, now.kind) || ordered(*before, now, region.shared) ||
            ordered_by_fences(*before, now))
            continue;
        if (is_in_doubt(*before, now)) {
            doubts.push_back({address, index, offset, now.kind == READ ? now : *before, *before, now});
            continue;
        }
        if (before->kind != WRITE || now.kind != WRITE || size > 16) race(DATA_RACE, region, offset, *before, now);
        store.region = index, store.offset = offset, store.address = address, store.size = size;
        store.earlier = *before, store.now = now;
        memcpy(store.before, address, (size_t)size);
    }
}

// Whether this thread has just read the same bytes, with nothing in between: a check of the value that is read (before
// a float becomes an integer, say) may read it twice.
static bool is_repeated(const char* address, Kind kind) {
    static const char* last_address;
    static int last_thread;
    static int64_t last_block;
    bool same = kind == READ && last_address == address && last_thread == current.thread && last_block == current.block;
    last_address = kind == READ ? address : nullptr, last_thread = current.thread, last_block = current.block;
    return same;
}

// An access to what a cp.async is to write, before its thread has waited for it.
[[noreturn]] static void touch_in_flight(const Region& region, Shadow& shadow, int64_t offset, uint64_t pc, Kind kind) {
    const Access& copy = shadow.cells[offset >> shadow.shift].write;  // made by begin_copy
    fail(DATA_RACE, verb(kind) + element(region, offset) + " at @0, which thread " + thread_name(*launch, (int)copy.thread) +
         " copies there by the cp.async at @1, for which it has not waited", pc, (uint64_t)launch->image_begin + copy.pc);
}

// Counts and flags the bytes; returns the first that is read but was never written, or -1.
static int64_t pass_bytes(const Region& region, Shadow& shadow, int64_t offset, int64_t size, uint64_t pc, Kind kind) {
    Counts& counts = launch->counts;
    bool repeated = is_repeated(region.base + offset, kind);
    bool writes = kind == WRITE || kind == ATOMIC, reads = kind != WRITE && !repeated;
    (region.shared ? counts.shared_bytes_read : counts.bytes_read) += reads ? size : 0;
    (region.shared ? counts.shared_bytes_written : counts.bytes_written) += writes ? size : 0;
    int64_t blank = -1;
    for (int64_t i = offset; i < offset + size; i++) {
        uint8_t& flags = shadow.flags[i];
        if (flags & IN_FLIGHT) touch_in_flight(region, shadow, i, pc, kind);
        if (reads) {
            if ((flags & UNWRITTEN) && blank < 0) blank = i;
            if (!region.shared && !(flags & COUNTED_READ)) flags |= COUNTED_READ, counts.unique_bytes_read++;
        }
        if (writes) {
            if (!region.shared && !(flags & COUNTED_WRITE)) flags |= COUNTED_WRITE, counts.unique_bytes_written++;
            flags &= (uint8_t)~UNWRITTEN;
        }
    }
    return blank;
}

// Whether an access is ordered with all that came before, and remembers it.
static void check_order(int64_t index, int64_t offset, char* address, int64_t size, uint64_t pc, Kind kind) {
    Shadow& shadow = shadows[index];
    Access now = access_now(pc, kind);
    for (int64_t i = offset >> shadow.shift; i <= (offset + size - 1) >> shadow.shift; i++) {
        Cell& cell = shadow.cells[i];
        check_race(index, i << shadow.shift, cell, now, address, size);
        remember(cell, now, launch->regions[index].shared);
    }
}

// access: emulator::AtomicAccess of an atomic operation, 0 for a plain load or store.
static void touch(void* pointer, int64_t size, uint64_t pc, Kind kind, int access = 0) {
    if (!in_kernel()) return;  // code of the host
    settle();
    char* address = static_cast<char*>(pointer);
    if (address >= current.stack_begin && address + size <= current.stack_end) return touch_local(address, size, pc, kind);
    int64_t index = find(address, size);
    if (index < 0) {
        if (address >= launch->image_begin && address + size <= launch->image_end && kind != WRITE && kind != ATOMIC) return;  // a constant
        if (is_builtin(address)) return;
        out_of_bounds(address, size, pc, kind);
    }
    Region& region = launch->regions[index];
    Shadow& shadow = shadows[index];
    int64_t offset = address - region.base;
    bool writes = kind == WRITE || kind == ATOMIC;
    if (writes && region.read_only)
        fail(READ_ONLY, verb(kind) + element(region, offset) + " at @0, which is const: " + extent(region), pc);
    if (launch->count_lines) access_counts::note(pc, current.thread / WARP, current.thread % WARP, (uint64_t)address, (int)size, region.shared);
    int64_t blank = pass_bytes(region, shadow, offset, size, pc, kind);
    if (blank >= 0 && unwritten.region < 0) unwritten = {index, blank, current.block, current.thread, pc};
    if (writes) region.stored = 1;
    if (shadow.shift && ((offset | size) & 3)) refine(shadow, region.bytes);
    if (access) synchronize(address, access & 1, access & 2);
    check_order(index, offset, address, size, pc, kind);
}

// A volatile load polls; a volatile store by a thread that has fenced publishes what came before the fence.
static void touch_volatile(void* pointer, int64_t size, uint64_t pc, bool writes) {
    if (!writes) {
        if (in_kernel()) emulator_idle(pointer);
        touch(pointer, size, pc, POLL, 1);
    } else {
        bool publishes = in_kernel() && has_fenced();
        touch(pointer, size, pc, publishes ? ATOMIC : WRITE, publishes ? 2 : 0);
    }
}

bool read_value(const void* value, int64_t size, uint64_t pc) {
    char* address = static_cast<char*>(const_cast<void*>(value));
    if (address >= current.stack_begin && address + size <= current.stack_end) return is_blank(address, std::min<int64_t>(size, 4));
    touch(address, size, pc, READ);
    return false;
}

void access(void* address, int64_t size, uint64_t pc, bool writes) { touch(address, size, pc, writes ? WRITE : READ); }

static void set_in_flight(int64_t index, char* address, int64_t size, bool in_flight) {
    uint8_t* flags = &shadows[index].flags[address - launch->regions[index].base];
    for (int64_t i = 0; i < size; i++) flags[i] = (uint8_t)(in_flight ? flags[i] | IN_FLIGHT : flags[i] & ~IN_FLIGHT);
}

void begin_copy(void* to, int64_t size, uint64_t pc) {
    touch(to, size, pc, WRITE);
    char* address = static_cast<char*>(to);
    if (int64_t index = find(address, size); index >= 0) set_in_flight(index, address, size, true);
}

void end_copy(void* to, int64_t size, uint64_t pc) {
    char* address = static_cast<char*>(to);
    int64_t index = find(address, size);
    if (index < 0) return;
    set_in_flight(index, address, size, false);
    check_order(index, address - launch->regions[index].base, address, size, pc, WRITE);
}

// ---------------------------------------------------------------- __restrict__
// Arguments that share memory have copies of their own in a checked launch if one is __restrict__. What one of them
// wrote, none of the others may have read or written.
static void check_restricted() {
    for (int64_t i = 0; i < launch->region_count; i++)
        for (int64_t j = 0; j < launch->region_count; j++) {
            const Region &a = launch->regions[i], &b = launch->regions[j];
            if (i == j || !a.group || a.group != b.group || !a.stored) continue;
            char *begin = std::max(a.host, b.host), *end = std::min(a.host + a.bytes, b.host + b.bytes);
            for (char* p = begin; p < end; p++) {
                int64_t at_a = p - a.host, at_b = p - b.host;
                if (!(shadows[i].flags[at_a] & COUNTED_WRITE) || !(shadows[j].flags[at_b] & (COUNTED_READ | COUNTED_WRITE))) continue;
                Cell &mine = shadows[i].cells[at_a >> shadows[i].shift], &other = shadows[j].cells[at_b >> shadows[j].shift];
                const Access& wrote = mine.write.block ? mine.write : mine.others[0];
                const Access& used = other.others[0].block ? other.others[0] : other.write;
                current.block = (int64_t)wrote.block - 1, current.thread = (int)wrote.thread;
                uint64_t image = (uint64_t)launch->image_begin;
                note_fault(RESTRICTED, "writes " + element(a, at_a) + " at @0, which thread " + other_thread(used, wrote) + " " +
                           verb(used.kind) + "as " + element(b, at_b) + " at @1: the two share memory, and one is __restrict__",
                           image + wrote.pc, image + used.pc);
                return;
            }
        }
}

// ---------------------------------------------------------------- atomics whose order decides
// Sums that round, by address: how many updates there were, and whether the memory held zero before the first.
struct Updates {
    int64_t count;
    bool from_zero;
};
static std::unordered_map<char*, Updates> updates;
static std::map<uint64_t, int64_t> order_matters;   // by place in the program: how often

static void count_update(char* address, unsigned size) {
    Updates& known = updates[address];
    if (!known.count++) known.from_zero = std::all_of(address, address + size, [](char byte) { return byte == 0; });
}

static void note_order(char* address, uint64_t pc) {
    int64_t index = find(address, 1);
    if (index < 0) return;
    Shadow& shadow = shadows[index];
    const Region& region = launch->regions[index];
    const Cell& cell = shadow.cells[(address - region.base) >> shadow.shift];
    Access now = access_now(pc, ATOMIC);
    const Updates& known = updates[address];
    if (known.count == 2 && known.from_zero) return;  // a + b = b + a
    for (const Access& other : cell.others)
        if (other.block && other.kind == ATOMIC && !(other.block == now.block && other.thread == now.thread) &&
            !ordered(other, now, region.shared) && !ordered_by_fences(other, now)) {
            order_matters[now.pc]++;
            return;
        }
}

// ---------------------------------------------------------------- launches and blocks
static void begin_order();

void begin_launch() {
    launch = current.launch;
    find_image(*launch);
    recent = parts = 0;
    unwritten = {};
    store.region = -1;
    doubts.clear();
    updates.clear();
    order_matters.clear();
    begin_order();
    shadows = std::vector<Shadow>((size_t)launch->region_count);
    for (int64_t i = 0; i < launch->region_count; i++) {
        const Region& region = launch->regions[i];
        shadows[i].flags.allocate(region.bytes);
        if (region.written)
            for (int64_t b = 0; b < region.bytes; b++) shadows[i].flags[b] = region.written[b] ? 0 : UNWRITTEN;
        shadows[i].allocate_cells(region.bytes, 2);
    }
}

void end_launch() {
    blame_unwritten();
    doubts.clear();
    if (!launch->fault) check_restricted();
    for (int64_t i = 0; i < launch->region_count; i++)
        if (uint8_t* written = launch->regions[i].written)
            for (int64_t b = 0; b < launch->regions[i].bytes; b++) written[b] = !(shadows[i].flags[b] & UNWRITTEN);
    std::string notes;
    for (auto& [pc, count] : order_matters) notes += "order " + std::to_string(pc) + " " + std::to_string(count) + "\n";
    if (launch->count_lines) access_counts::append(notes, (uint64_t)launch->image_begin);
    launch->notes = strdup(notes.c_str());
    launch->notes_size = (int64_t)notes.size();
    shadows.clear();
    states.clear();
}

BlockState* begin_block() {
    states.emplace_back(block = new BlockState);
    for (int t = 0; t < MAX_THREADS; t++) {
        std::fill(block->clocks[t], block->clocks[t] + WARP, 0);
        block->clocks[t][t % WARP] = 1;
    }
    for (int64_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (!region.shared) continue;
        memset(shadows[i].flags.data, UNWRITTEN, (size_t)region.bytes);
        memset(region.base, 0xff, (size_t)region.bytes);  // a float of these bits is a nan
    }
    return block;
}

void park_block() {
    block->bytes.clear(), block->shadows.clear();
    for (int64_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (!region.shared) continue;
        block->bytes.emplace_back(region.base, region.base + region.bytes);
        block->shadows.push_back(std::move(shadows[i]));
        shadows[i] = Shadow();
        shadows[i].flags.allocate(region.bytes);
        shadows[i].allocate_cells(region.bytes, 2);
    }
}

void resume_block(BlockState* state) {
    block = state;
    size_t n = 0;
    for (int64_t i = 0; i < launch->region_count; i++) {
        if (!launch->regions[i].shared) continue;
        memcpy(launch->regions[i].base, block->bytes[n].data(), block->bytes[n].size());
        shadows[i] = std::move(block->shadows[n++]);
    }
}

void end_block() {
    fail_if_shared_unwritten();
    if (launch->count_lines) access_counts::finish_block();
    states.erase(std::find_if(states.begin(), states.end(), [](auto& state) { return state.get() == block; }));
    block = nullptr;
}

// All that was before is now ordered before all that comes.
void grid_barrier() {
    for (int64_t i = 0; i < launch->region_count; i++)
        if (!launch->regions[i].shared) shadows[i].allocate_cells(launch->regions[i].bytes, shadows[i].shift);
}

// A part that the launch meets for the first time gets the next piece of memory kept for parts.
static void* shared_part(char* address, int64_t size) {
    int64_t buffer = find(address, 1);
    for (int64_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (region.part && region.host == address && region.bytes == size) return region.base;
    }
    if (buffer < 0 || address + size > launch->regions[buffer].base + launch->regions[buffer].bytes)
        fail(OUT_OF_BOUNDS, "declares a part of " + std::to_string(size) + " bytes that does not fit into the dynamic shared memory");
    for (int64_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (!region.part || region.host) continue;
        region.host = address, region.bytes = size;
        return region.base;
    }
    fail(OUT_OF_BOUNDS, "declares more parts of dynamic shared memory than the emulator keeps apart");
}
}  // namespace checker
}  // namespace emulator
