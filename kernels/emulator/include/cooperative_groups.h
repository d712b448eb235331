// Cooperative groups: the block, tiles of a warp, the lanes of a branch, the grid.
#pragma once
#include "emulator/device.h"

namespace cooperative_groups {
#ifdef EMULATOR_CHECKED
#define EMULATOR_HERE emulator_line(file, line)
#else
#define EMULATOR_HERE ""
#endif
// Where a member function is called: default arguments are evaluated there.
#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct thread_group {
    unsigned mask = 0;      // lanes of the warp; 0: the block
    unsigned count = 0, rank = 0;
    unsigned size() const { return count; }
    unsigned num_threads() const { return count; }
    unsigned thread_rank() const { return rank; }
    void sync(EMULATOR_CALLER) const {
        if (mask)
            __syncwarp(mask);
        else
            emulator_barrier(EMULATOR_HERE, 0);
    }
};

struct thread_block : thread_group {
    thread_block() {
        count = blockDim.x * blockDim.y * blockDim.z;
        rank = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    }
    static dim3 group_index() { return blockIdx; }
    static dim3 thread_index() { return threadIdx; }
    static dim3 group_dim() { return blockDim; }
    static dim3 dim_threads() { return blockDim; }
};
inline thread_block this_thread_block() { return {}; }

// What every group of lanes can do. Ranks count the lanes of the mask.
struct EmulatorLanes : thread_group {
    unsigned lane_of(unsigned rank) const {
        unsigned m = mask;
        while (rank--) m &= m - 1;
        return (unsigned)__builtin_ctz(m);
    }
    template <class T> T shfl(T value, unsigned source) const { return __shfl_sync(mask, value, (int)lane_of(source % count)); }
    template <class T> T shfl_up(T value, unsigned by) const { return __shfl_sync(mask, value, (int)lane_of(rank >= by ? rank - by : rank)); }
    template <class T> T shfl_down(T value, unsigned by) const {
        return __shfl_sync(mask, value, (int)lane_of(rank + by < count ? rank + by : rank));
    }
    template <class T> T shfl_xor(T value, unsigned by) const {
        return __shfl_sync(mask, value, (int)lane_of((rank ^ by) < count ? rank ^ by : rank));
    }
    int any(int predicate) const { return __any_sync(mask, predicate); }
    int all(int predicate) const { return __all_sync(mask, predicate); }
    unsigned ballot(int predicate) const { return pack(__ballot_sync(mask, predicate)); }
    template <class T> unsigned match_any(T value) const { return pack(__match_any_sync(mask, value)); }

  private:
    unsigned pack(unsigned lanes) const {  // from lanes to ranks
        unsigned packed = 0, rank = 0;
        for (unsigned m = mask; m; m &= m - 1, rank++) packed |= (lanes >> __builtin_ctz(m) & 1) << rank;
        return packed;
    }
};

template <unsigned lanes, class Parent = void>
struct thread_block_tile : EmulatorLanes {
    static_assert(lanes <= 32 && (lanes & (lanes - 1)) == 0, "a tile has 1, 2, 4, 8, 16 or 32 threads");
    thread_block_tile() {
        unsigned thread = thread_block().rank;
        rank = thread % lanes;
        count = lanes;
        mask = (lanes == 32 ? ~0u : (1u << lanes % 32) - 1) << thread % 32 / lanes * lanes;
    }
    template <class Other>
    thread_block_tile(const thread_block_tile<lanes, Other>&) : thread_block_tile() {}
    unsigned meta_group_rank() const { return thread_block().rank / lanes; }
    unsigned meta_group_size() const { return (thread_block().count + lanes - 1) / lanes; }
    static constexpr unsigned size() { return lanes; }
    static constexpr unsigned num_threads() { return lanes; }
};
template <unsigned lanes, class Parent>
thread_block_tile<lanes, Parent> tiled_partition(const Parent&) { return {}; }
inline EmulatorLanes tiled_partition(const thread_group&, unsigned lanes) {
    EmulatorLanes tile;
    unsigned thread = thread_block().rank;
    tile.rank = thread % lanes, tile.count = lanes;
    tile.mask = (lanes == 32 ? ~0u : (1u << lanes) - 1) << thread % 32 / lanes * lanes;
    return tile;
}

struct coalesced_group : EmulatorLanes {
    unsigned meta_group_rank() const { return 0; }
    unsigned meta_group_size() const { return 1; }
};
inline coalesced_group coalesced_threads() {
    coalesced_group group;
    group.mask = __activemask();
    group.count = (unsigned)__popc(group.mask);
    group.rank = (unsigned)__popc(group.mask & ((1u << thread_block().rank % 32) - 1));
    return group;
}

struct grid_group {
    void sync(EMULATOR_CALLER) const { emulator_grid_barrier(EMULATOR_HERE); }
    bool is_valid() const { return true; }
    static unsigned long long num_blocks() { return (unsigned long long)gridDim.x * gridDim.y * gridDim.z; }
    static unsigned long long block_rank() { return ((unsigned long long)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }
    static unsigned long long size() { return num_blocks() * thread_block().count; }
    static unsigned long long num_threads() { return size(); }
    static unsigned long long thread_rank() { return block_rank() * thread_block().count + thread_block().rank; }
    static dim3 group_dim() { return gridDim; }
    static dim3 dim_blocks() { return gridDim; }
    static dim3 block_index() { return blockIdx; }
};
inline grid_group this_grid() { return {}; }

template <class Group> void sync(const Group& group, EMULATOR_CALLER) { group.sync(file, line); }
template <class Group> unsigned thread_rank(const Group& group) { return group.thread_rank(); }
template <class Group> unsigned group_size(const Group& group) { return group.size(); }
template <class Group, class F> void invoke_one(const Group& group, F&& f) {
    if (group.thread_rank() == 0) f();
}

// ---------------------------------------------------------------- copies by the whole group
template <class Group, class T>
void memcpy_async(const Group& group, T* to, const T* from, size_t bytes) {
    for (size_t i = group.thread_rank(); i < bytes / sizeof(T); i += group.size())
        emulator_copy_async(to + i, from + i, sizeof(T), 0, __builtin_return_address(0));
    emulator_commit_copies();
}
template <class Group> void wait(const Group& group, EMULATOR_CALLER) {
    emulator_wait_copies(0);
    group.sync(file, line);
}
#undef EMULATOR_HERE
#undef EMULATOR_CALLER
}  // namespace cooperative_groups
