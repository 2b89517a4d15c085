// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// One block of 128 bits serves eight elements: element i takes half-word i % 8 of block i / 8, low half of word 0
// first. So a mask depends only on (seed, stream, i). It is the same for every device, thread count and dtype.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace gradfuse {

// The random stream of one call. An element is kept if and only if its half-word >= threshold.
struct RandomStream {
    std::uint64_t seed = 0, stream = 0;
    const std::uint64_t* on_device = nullptr;  // device memory with the stream's number, if the host does not know it
};

inline namespace GRADFUSE_ISA {

constexpr int elements_per_block = 8;

// A block's four words, each in the low half of a lane. No step reads the high halves. A lane is a 64-bit word, or a
// vector of 64-bit words for several blocks at once.
template <class Lane>
struct PhiloxBlock {
    Lane w[4];
};

// multiply(a, b) is the 64-bit product of the low halves.
template <class Lane, class Multiply>
GRADFUSE_HD PhiloxBlock<Lane> philox(RandomStream r, Lane block, const Multiply& multiply) {
    constexpr std::uint64_t low = 0xffffffffu;
    const Lane none = block ^ block;
    std::uint64_t k0 = r.seed & low, k1 = r.seed >> 32;
    Lane c0 = block, c1 = block >> 32, c2 = none + r.stream, c3 = none + (r.stream >> 32);
    GRADFUSE_UNROLL
    for (int round = 0; round < 10; ++round) {
        const Lane p0 = multiply(c0, none + 0xD2511F53u), p1 = multiply(c2, none + 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c1 = p1;
        c3 = p0;
        k0 = (k0 + 0x9E3779B9u) & low;  // the golden ratio and sqrt(3) - 1, Weyl steps of the key
        k1 = (k1 + 0xBB67AE85u) & low;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
