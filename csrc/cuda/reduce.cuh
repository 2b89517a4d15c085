// Reductions within a warp and a block. The order is always that of the threads, so results are the same bit for bit.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/shared.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

constexpr int warp_size = 32;
constexpr unsigned full_warp = 0xffffffffu;

// The value of the lane whose number is this lane's number xor `offset`, for any type made of words.
template <class T>
GRADFUSE_DEVICE T from_lane_xor(T value, int offset) {
    static_assert(sizeof(T) % sizeof(unsigned) == 0);
    unsigned words[sizeof(T) / sizeof(unsigned)];
    memcpy(words, &value, sizeof value);
#pragma unroll
    for (unsigned& w : words) w = __shfl_xor_sync(full_warp, w, offset);
    memcpy(&value, words, sizeof value);
    return value;
}

// Merges the values of the first `present` of `width` neighboring lanes in order; `width` is a power of two. merge(a,
// b) merges b into a, and a comes before b. All these lanes get the result.
template <class T, class Merge>
GRADFUSE_DEVICE T merge_lanes(T value, const Merge& merge, int width, int present) {
    const unsigned lane = threadIdx.x % unsigned(width);
    for (int offset = 1; offset < width; offset *= 2) {
        T other = from_lane_xor(value, offset);
        const bool second_present = int((lane | unsigned(offset)) & -unsigned(offset)) < present;
        if (lane & unsigned(offset)) {
            if (second_present) merge(other, value);
            value = other;
        } else if (second_present) {
            merge(value, other);
        }
    }
    return value;
}
template <class T, class Merge>
GRADFUSE_DEVICE T warp_reduce(T value, const Merge& merge, int width = warp_size) {
    return merge_lanes(value, merge, width, width);
}

// The same for `width` neighboring threads, which may be several warps; `shared` has room for one value per warp. All
// threads of the block must call it.
template <class T, class Merge>
GRADFUSE_DEVICE T block_reduce(T value, void* shared, const Merge& merge, int width) {
    value = warp_reduce(value, merge, width < warp_size ? width : warp_size);
    if (width <= warp_size) return value;
    const int warp = int(threadIdx.x) / warp_size, warps = width / warp_size, first = warp / warps * warps;
    const SharedArray<T> all(shared, int(blockDim.x) / warp_size);
    __syncthreads();  // earlier uses of the memory are finished
    if (threadIdx.x % warp_size == 0) all.set(warp, value);
    __syncthreads();
    T total = all.get(first);
    for (int w = 1; w < warps; ++w) merge(total, all.get(first + w));
    return total;
}

// True in all threads of the last block that calls this. The tickets then have their initial value again.
GRADFUSE_DEVICE bool is_last_block(unsigned* ticket, int* shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *shared = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    const bool last = *shared != 0;
    if (last && threadIdx.x == 0) *ticket = 0;
    __threadfence();
    return last;
}

struct Add {
    template <class T>
    GRADFUSE_DEVICE void operator()(T& a, const T& b) const {
        a += b;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
