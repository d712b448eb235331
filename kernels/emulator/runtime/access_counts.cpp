// Bank conflicts and uncoalesced accesses, counted per line of the source.
//
// On a GPU the 32 lanes of a warp access memory together. Here they run one after another, so the n-th access of each
// lane at one place in the program counts as one access of the warp. Shared memory has 32 banks of 4 bytes: accesses to
// different words of one bank take turns; of 8 bytes, half a warp goes at a time, of 16 a quarter. Global memory is
// moved in sectors of 32 bytes.
#include <set>

namespace emulator {
namespace access_counts {

struct Together {
    uint64_t address[WARP];
    uint32_t lanes = 0;
    int size = 0;
};
struct Place {
    std::vector<Together> accesses;
    uint32_t next[WARP] = {};  // of each lane: its next access
};
struct Count {
    int64_t accesses, transfers, least;
};
// By place in the program and kind of memory (a copy from one to the other is at one place).
using Key = std::pair<uint64_t, bool>;
static std::map<std::pair<Key, int>, Place> places;  // and by warp, since the block began
static std::map<Key, Count> counts;

void note(uint64_t pc, int warp, int lane, uint64_t address, int size, bool shared) {
    Place& place = places[{{pc, shared}, warp}];
    uint32_t n = place.next[lane]++;
    if (n >= place.accesses.size()) place.accesses.resize(n + 1);
    Together& together = place.accesses[n];
    together.address[lane] = address, together.lanes |= 1u << lane, together.size = size;
}

// Adds the turns that the banks take, and how many they would take without conflicts.
static void count_banks(const Together& access, Count& count) {
    int at_once = access.size <= 4 ? WARP : access.size <= 8 ? WARP / 2 : WARP / 4;
    for (int first = 0; first < WARP; first += at_once) {
        std::set<uint64_t> words[WARP];
        size_t turns = 0;
        for (int lane = first; lane < first + at_once; lane++)
            if (access.lanes >> lane & 1)
                for (uint64_t word = access.address[lane] / 4; word <= (access.address[lane] + (uint64_t)access.size - 1) / 4; word++)
                    words[word % WARP].insert(word);
        for (auto& bank : words) turns = std::max(turns, bank.size());
        count.transfers += (int64_t)turns, count.least += turns > 0;
    }
}

static void count_sectors(const Together& access, Count& count) {
    std::set<uint64_t> sectors, words;
    for (int lane = 0; lane < WARP; lane++)
        if (access.lanes >> lane & 1)
            for (uint64_t byte = access.address[lane]; byte < access.address[lane] + (uint64_t)access.size; byte++)
                sectors.insert(byte / 32), words.insert(byte);
    count.transfers += (int64_t)sectors.size(), count.least += (int64_t)(words.size() + 31) / 32;
}

void finish_block() {
    for (auto& [key, place] : places) {
        Count& count = counts[key.first];
        for (const Together& access : place.accesses) {
            count.accesses++;
            key.first.second ? count_banks(access, count) : count_sectors(access, count);
        }
    }
    places.clear();
}

void append(std::string& notes, uint64_t image) {
    finish_block();
    for (auto& [key, count] : counts)
        notes += std::string(key.second ? "shared " : "global ") + std::to_string(key.first - image) + " " +
                 std::to_string(count.accesses) + " " + std::to_string(count.transfers) + " " + std::to_string(count.least) + "\n";
    counts.clear();
}
}  // namespace access_counts
}  // namespace emulator
