// The random half-words of a tile of elements, a vector of Philox blocks at a time.
//
// Intrinsics are faster here: GCC compiles a product of two 32-bit words to three multiplications in 64-bit lanes, or
// in 32-bit lanes to as many shuffles as products.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.h"
#include "cpu/tile.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace gradfuse {
inline namespace GRADFUSE_ISA {

#if defined(__AVX512F__)
using Blocks = std::uint64_t __attribute__((vector_size(64)));
// (Masked, with all mask bits set: for the unmasked intrinsic GCC 12 warns that a value is uninitialized.)
inline Blocks multiply_low_halves(Blocks a, Blocks b) {
    return (Blocks)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
using Blocks = std::uint64_t __attribute__((vector_size(32)));
inline Blocks multiply_low_halves(Blocks a, Blocks b) { return (Blocks)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
using Blocks = std::uint64_t __attribute__((vector_size(16)));
inline Blocks multiply_low_halves(Blocks a, Blocks b) { return (Blocks)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
using Blocks = std::uint64_t __attribute__((vector_size(16)));
inline Blocks multiply_low_halves(Blocks a, Blocks b) { return (a & 0xffffffffu) * b; }
#endif

class HalfWords {
public:
    // The half-words of elements [start, start + n); n is at most a tile.
    const std::uint16_t* draw(RandomStream random, std::int64_t start, std::int64_t n) {
        const std::int64_t skip = start % elements_per_block;
        const std::int64_t blocks = (skip + n + elements_per_block - 1) / elements_per_block;
        Blocks number;
        for (std::int64_t l = 0; l < lanes; ++l) number[l] = std::uint64_t(start / elements_per_block + l);
        for (std::int64_t b = 0; b < blocks; b += lanes, number += lanes) {
            const PhiloxBlock<Blocks> block = philox(random, number, multiply_low_halves);
            const Blocks w01 = (block.w[0] & 0xffffffffu) | block.w[1] << 32;
            const Blocks w23 = (block.w[2] & 0xffffffffu) | block.w[3] << 32;
#pragma omp simd
            for (std::int64_t l = 0; l < lanes; ++l) {
                words_[2 * (b + l)] = w01[l];
                words_[2 * (b + l) + 1] = w23[l];
            }
        }
        // On a little-endian machine the bytes of the words are the half-words in the order of the elements.
        std::memcpy(halves_, words_, 16 * std::size_t(blocks));
        return halves_ + skip;
    }

private:
    static constexpr std::int64_t lanes = sizeof(Blocks) / sizeof(std::uint64_t);

    alignas(64) std::uint64_t words_[tile_size / 4 + 2 * lanes];
    alignas(64) std::uint16_t halves_[tile_size + 8];
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
