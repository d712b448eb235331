// Scans over the lanes of a group.
#pragma once
#include "cooperative_groups/reduce.h"

namespace cooperative_groups {
template <class Group, class T, class Operation = plus<T>>
T inclusive_scan(const Group& group, T value, Operation&& operation = {}) {
    for (unsigned by = 1; by < group.count; by *= 2) {
        T earlier = group.shfl_up(value, by);
        if (group.rank >= by) value = operation(earlier, value);
    }
    return value;
}
template <class Group, class T, class Operation = plus<T>>
T exclusive_scan(const Group& group, T value, Operation&& operation = {}) {
    T earlier = group.shfl_up(inclusive_scan(group, value, operation), 1);
    return group.rank ? earlier : T();
}
}  // namespace cooperative_groups
