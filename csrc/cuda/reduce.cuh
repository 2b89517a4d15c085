// Reductions within a warp and a block. The order is that of the threads, always: results are the same bit for bit.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/launch.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

constexpr int warp_size = 32;
constexpr unsigned full_warp = 0xffffffffu;

// The value of the lane `offset` lanes away (exclusive or), of any type made of words.
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

// merge(a, b) -> a, a before b in order: the values of the first `present` of `width` neighboring lanes, a power of
// two. Each of the lanes gets the result.
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

// The same over `width` neighboring threads, whole warps of the block; `scratch` has a place for each warp. All of the
// block's threads take part.
template <class T, class Merge>
GRADFUSE_DEVICE T block_reduce(T value, T* scratch, const Merge& merge, int width) {
    value = warp_reduce(value, merge, width < warp_size ? width : warp_size);
    if (width <= warp_size) return value;
    const int warp = int(threadIdx.x) / warp_size, warps = width / warp_size, first = warp / warps * warps;
    __syncthreads();  // whoever used the scratch has done
    if (threadIdx.x % warp_size == 0) scratch[warp] = value;
    __syncthreads();
    T total = scratch[first];
    for (int w = 1; w < warps; ++w) merge(total, scratch[first + w]);
    return total;
}

struct Add {
    template <class T>
    GRADFUSE_DEVICE void operator()(T& a, const T& b) const {
        a += b;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
