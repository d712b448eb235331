// Reductions over the lanes of a group: the same order, and so the same bits, for every lane.
#pragma once
#include "cooperative_groups.h"

namespace cooperative_groups {
template <class T> struct plus { T operator()(T a, T b) const { return a + b; } };
template <class T> struct less { T operator()(T a, T b) const { return b < a ? b : a; } };
template <class T> struct greater { T operator()(T a, T b) const { return a < b ? b : a; } };
template <class T> struct bit_and { T operator()(T a, T b) const { return a & b; } };
template <class T> struct bit_or { T operator()(T a, T b) const { return a | b; } };
template <class T> struct bit_xor { T operator()(T a, T b) const { return a ^ b; } };

template <class Group, class T, class Operation>
T reduce(const Group& group, T value, Operation&& operation) {
    if ((group.count & (group.count - 1)) == 0) {
        for (unsigned by = group.count / 2; by > 0; by /= 2) value = operation(value, group.shfl_xor(value, by));
        return value;
    }
    T all = group.shfl(value, 0);
    for (unsigned rank = 1; rank < group.count; rank++) all = operation(all, group.shfl(value, rank));
    return all;
}
}  // namespace cooperative_groups
