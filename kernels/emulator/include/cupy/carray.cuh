// CuPy's CArray: an array that a kernel takes by value, with its size, shape and strides in bytes. The launch fills it in
// (Argument.place in module.py), so that there are only those members of CuPy's that read it.
#pragma once
#include <cstddef>

template <class T, int dimensions, bool contiguous = false, bool narrow = false>
class CArray {
    T* data_;
    ptrdiff_t size_, shape_[dimensions], strides_[dimensions];

    // Unlike a pointer, a const CArray guards its elements.
    __device__ T& at(ptrdiff_t i) const {
        if (contiguous) return data_[i];
        ptrdiff_t offset = 0;
        for (int d = dimensions - 1; d > 0; i /= shape_[d--]) offset += strides_[d] * (i % shape_[d]);
        return *(T*)((char*)data_ + offset + strides_[0] * i);
    }
    template <class Index>
    __device__ T& at(const Index (&index)[dimensions]) const {
        ptrdiff_t offset = 0;
        for (int d = 0; d < dimensions; d++) offset += strides_[d] * (ptrdiff_t)index[d];
        return *(T*)((char*)data_ + offset);
    }

public:
    static constexpr int ndim = dimensions;

    __device__ ptrdiff_t size() const { return size_; }
    __device__ const ptrdiff_t* shape() const { return shape_; }
    __device__ const ptrdiff_t* strides() const { return strides_; }

    __device__ T& operator[](ptrdiff_t i) { return at(i); }
    __device__ const T& operator[](ptrdiff_t i) const { return at(i); }
    template <class Index> __device__ T& operator[](const Index (&index)[dimensions]) { return at(index); }
    template <class Index> __device__ const T& operator[](const Index (&index)[dimensions]) const { return at(index); }
};

namespace emulator {
template <class T, int n, bool contiguous, bool narrow>
struct Described<CArray<T, n, contiguous, narrow>> { static constexpr int dimensions = n, item = sizeof(T); };
}  // namespace emulator
