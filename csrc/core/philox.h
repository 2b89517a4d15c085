// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// One block of 128 bits serves eight elements: element i takes half-word i % 8 of block i / 8, low half of word 0
// first. A mask is thus a function of (seed, stream, i) alone: the same on every device, thread count and dtype.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace smelt {

// The random stream of one call. An element is kept iff its half-word >= threshold.
struct RandomStream {
    std::uint64_t seed = 0, stream = 0;
};

inline namespace SMELT_ISA {

struct PhiloxBlock {
    std::uint32_t w[4];
};

constexpr int elements_per_block = 8;

// The four words live in the low halves of `Lane`s. In 64-bit lanes their high halves hold what the products left
// there, which no later step reads: a vectoriser that multiplies in such lanes then has nothing to shuffle.
template <class Lane = std::uint32_t>
SMELT_HD PhiloxBlock philox(RandomStream r, std::uint64_t block) {
    std::uint32_t k0 = std::uint32_t(r.seed), k1 = std::uint32_t(r.seed >> 32);
    Lane c0 = Lane(block), c1 = Lane(block >> 32), c2 = Lane(r.stream), c3 = Lane(r.stream >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = (std::uint64_t(c0) & 0xffffffffu) * 0xD2511F53u;
        const std::uint64_t p1 = (std::uint64_t(c2) & 0xffffffffu) * 0xCD9E8D57u;
        c0 = Lane(p1 >> 32) ^ c1 ^ k0;
        c2 = Lane(p0 >> 32) ^ c3 ^ k1;
        c1 = Lane(p1);
        c3 = Lane(p0);
        k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, Weyl steps of the key
        k1 += 0xBB67AE85u;
    }
    return {{std::uint32_t(c0), std::uint32_t(c1), std::uint32_t(c2), std::uint32_t(c3)}};
}

}  // namespace SMELT_ISA
}  // namespace smelt
