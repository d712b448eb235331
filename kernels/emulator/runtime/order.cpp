// Order by fences and atomic operations: what a thread did before a fence happened before what another thread does
// after it has seen an atomic operation (or a volatile store) that followed the fence.
//
// A fence takes a snapshot: the barriers its block has passed, and what its thread has seen of its warp. The thread's
// next atomic operations append that snapshot to the log of their address; whoever operates on that address, or polls
// it, has seen the log up to there. Seeing is transitive, and a barrier makes it common to the block.
//
// Next: hooks.cpp.
namespace emulator {
namespace checker {

using Seen = std::map<char*, size_t>;  // address: how much of its log

struct Snapshot {
    int64_t block;
    uint32_t epoch, clocks[WARP];
    int thread;
    bool whole_device = false;
    Seen seen;
    std::vector<std::shared_ptr<Snapshot>> joined;  // the snapshots of a block that a barrier has made common

    bool covers(const Access& access, int64_t reader) const {
        if ((int64_t)access.block - 1 != block || !(whole_device || reader == block)) return false;
        if (access.epoch < epoch) return true;
        if (!joined.empty())
            return std::any_of(joined.begin(), joined.end(), [&](auto& one) { return one->covers(access, reader); });
        return access.epoch == epoch && (int)access.thread / WARP == thread / WARP && clocks[access.thread % WARP] >= access.clock;
    }
};

struct Log {
    std::vector<std::shared_ptr<Snapshot>> entries;
    std::unordered_map<int64_t, std::vector<size_t>> of_block;
    std::vector<size_t> with_history;  // entries whose thread had seen other logs
};

struct Order {
    std::vector<std::shared_ptr<Snapshot>> fences{MAX_THREADS};  // by thread: its last one
    std::vector<Seen> seen{MAX_THREADS};
    bool any = false, fenced = false;   // since the last barrier: a fence
};

BlockState::BlockState() : order(new Order, [](Order* old) { delete old; }) {}

static std::unordered_map<char*, Log> logs;

static void begin_order() { logs.clear(); }

static bool has_fenced() { return block->order->fences[current.thread] != nullptr; }

static void take_snapshot(bool whole_device) {
    int t = current.thread;
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->block = current.block, snapshot->epoch = block->epoch, snapshot->thread = t;
    snapshot->whole_device = whole_device;
    snapshot->seen = block->order->seen[t];
    std::copy(block->clocks[t], block->clocks[t] + WARP, snapshot->clocks);
    block->order->fences[t] = snapshot;
    block->order->fenced = true;
    block->clocks[t][t % WARP]++;
}

// The current thread's atomic operation on an address.
static void synchronize(char* address, bool reads, bool writes) {
    int t = current.thread;
    if (reads) {
        auto log = logs.find(address);
        if (log != logs.end()) block->order->seen[t][address] = log->second.entries.size(), block->order->any = true;
    }
    const auto& snapshot = block->order->fences[t];
    if (!writes || !snapshot) return;
    Log& log = logs[address];
    if (!log.entries.empty() && log.entries.back() == snapshot) return;
    log.of_block[snapshot->block].push_back(log.entries.size());
    if (!snapshot->seen.empty()) log.with_history.push_back(log.entries.size());
    log.entries.push_back(snapshot);
}

static bool reached(const Seen& seen, const Access& before, int64_t reader, Seen& visited) {
    for (auto& [address, count] : seen) {
        size_t& done = visited[address];
        if (done >= count) continue;
        size_t from = done;
        done = count;
        const Log& log = logs[address];
        auto of_block = log.of_block.find((int64_t)before.block - 1);
        if (of_block != log.of_block.end())
            for (auto i = std::lower_bound(of_block->second.begin(), of_block->second.end(), from);
                 i != of_block->second.end() && *i < count; ++i)
                if (log.entries[*i]->covers(before, reader)) return true;
        for (auto i = std::lower_bound(log.with_history.begin(), log.with_history.end(), from);
             i != log.with_history.end() && *i < count; ++i)
            if (reached(log.entries[*i]->seen, before, reader, visited)) return true;
    }
    return false;
}

static bool ordered_by_fences(const Access& before, const Access& now) {
    const Seen& seen = block->order->seen[now.thread];
    Seen visited;
    return !seen.empty() && reached(seen, before, (int64_t)now.block - 1, visited);
}

static void join(Seen& into, const Seen& from) {
    for (auto& [address, count] : from) into[address] = std::max(into[address], count);
}

// What any thread of the block has fenced, all of them can publish from here on.
static void join_fences(Order& order) {
    auto all = std::make_shared<Snapshot>();
    all->block = current.block, all->epoch = 0, all->thread = 0;
    for (auto& fence : order.fences) all->whole_device |= fence && fence->whole_device;
    for (auto& fence : order.fences) {
        if (!fence || fence->whole_device != all->whole_device) continue;
        if (fence->epoch > all->epoch) all->epoch = fence->epoch, all->joined.clear();  // which covers all before it
        if (fence->epoch == all->epoch) all->joined.push_back(fence);
        join(all->seen, fence->seen);
    }
    for (auto& fence : order.fences) fence = all;
    order.fenced = false;
}

void barrier() {
    fail_if_shared_unwritten();
    settle_doubts(true);
    block->epoch++;
    launch->counts.barriers++;
    Order& order = *block->order;
    if (order.fenced) join_fences(order);
    if (!order.any) return;
    Seen all;
    for (const Seen& seen : order.seen) join(all, seen);
    for (Seen& seen : order.seen) seen = all;
}

// Joins the clocks of all lanes in the mask, then advances each lane's own.
void sync_warp(int warp, unsigned mask) {
    uint32_t clocks[WARP] = {};
    Seen all;
    for (unsigned m = mask; m; m &= m - 1) {
        int thread = warp * WARP + __builtin_ctz(m);
        for (int l = 0; l < WARP; l++) clocks[l] = std::max(clocks[l], block->clocks[thread][l]);
        if (block->order->any) join(all, block->order->seen[thread]);
    }
    for (unsigned m = mask; m; m &= m - 1) {
        int lane = __builtin_ctz(m), thread = warp * WARP + lane;
        std::copy(clocks, clocks + WARP, block->clocks[thread]);
        block->clocks[thread][lane]++;
        if (block->order->any) block->order->seen[thread] = all;
    }
}
}  // namespace checker
}  // namespace emulator
